//! One player: which piece it asks for next, and what its viewer sees meanwhile. No I/O, no clock.
//!
//! ```text
//! Starting --first media segments--> Playing <--media segments-- Stalled         any --end, time, failures--> Over
//!                                       '---------buffer empty-------^
//! ```
//!
//! Calling order: `next` tells what to do now; `Ask` is answered with `arrived` or `failed`. It loads one thing at a
//! time, as players do that want to know what the network gives. The rendition is chosen by throughput (the lower of
//! a fast and a slow average, as in Shaka and hls.js), held back by the buffer: upwards only from a safe buffer on,
//! downwards not for one slow media segment while the buffer is full.
//!
//! Must stay true: every moment from the start to the end is either startup, played or stalled.

use super::playlist::{Media, MediaSegment, Playlist, PlaylistError, Range, Variant};
use super::watched::Watched;
use crate::units::SECOND_NS;
use crate::url::Url;

/// How players behave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manners {
    /// Seconds in the buffer at which loading rests.
    pub buffer_s: f64,
    /// Bits per second that are believed before anything was measured.
    pub first_guess_bps: f64,
    /// A viewer leaves after this time.
    pub watch_ns: Option<u64>,
    /// It tells servers how it is (CMCD).
    pub tells: bool,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners { buffer_s: 30.0, first_guess_bps: 1_000_000.0, watch_ns: None, tells: false }
    }
}

/// Share of the throughput that a rendition may need.
const USABLE_SHARE: f64 = 0.8;
/// Seconds in the buffer from which on a higher rendition is tried.
const UPWARDS_FROM_S: f64 = 10.0;
/// Seconds in the buffer from which on a rendition is kept that the throughput just about carries.
const KEEP_FROM_S: f64 = 20.0;
/// Half-lives of the averages, in seconds of loading.
const FAST_S: f64 = 3.0;
const SLOW_S: f64 = 9.0;
/// Fewer bytes say more of latency than of throughput.
const SAMPLE_BYTES_MIN: u64 = 16 * 1024;
/// Times that one piece is tried.
const TRIES_MAX: u32 = 4;
/// Between two tries.
const TRY_AGAIN_NS: u64 = SECOND_NS;
/// Target durations behind the end of a live playlist at which a player begins (RFC 8216, section 6.3.3).
const LIVE_TARGETS: f64 = 3.0;

/// What a player wants now.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Load this, and say how it went.
    Ask(Ask),
    /// Nothing before this moment.
    Wait(u64),
    Over,
}

/// Something to load.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub url: Url,
    pub range: Option<Range>,
    /// The bytes are wanted, not only their number.
    pub playlist: bool,
    /// Fields that tell the server how the player is.
    pub cmcd: Vec<(&'static str, String)>,
}

/// How something was loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loaded<'a> {
    pub asked_ns: u64,
    pub bytes: u64,
    /// Of a playlist.
    pub text: &'a [u8],
    /// Where it came from in the end, when it was sent on.
    pub from: &'a Url,
}

/// What the viewer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Starting,
    Playing,
    Stalled,
    Over,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    First,
    Media,
    Map,
    Segment,
}

/// A player.
#[derive(Debug)]
pub struct Player {
    manners: Manners,
    url: Url,
    begun_ns: u64,
    /// Up to here `seen` and `buffer_s` are true.
    now_ns: u64,
    seen: Seen,
    buffer_s: f64,
    variants: Vec<Rendition>,
    current: usize,
    /// Number of the next media segment.
    position: Option<u64>,
    asked: Option<Wanted>,
    not_before_ns: u64,
    tries: u32,
    fast: Average,
    slow: Average,
    watched: Watched,
    /// Stalls that a server was told of.
    stalls_told: u64,
}

/// One rendition and what is known of it.
#[derive(Debug)]
struct Rendition {
    variant: Variant,
    media: Option<Media>,
    /// When `media` came.
    media_ns: u64,
    map: Option<(Url, Option<Range>)>,
}

/// An average that forgets.
#[derive(Debug, Clone, Copy)]
struct Average {
    half_life_s: f64,
    sum: f64,
    weight: f64,
}

impl Average {
    fn new(half_life_s: f64) -> Average {
        Average { half_life_s, sum: 0.0, weight: 0.0 }
    }

    fn add(&mut self, seconds: f64, value: f64) {
        let kept = 0.5f64.powf(seconds / self.half_life_s);
        self.sum = self.sum * kept + value * (1.0 - kept);
        self.weight = self.weight * kept + (1.0 - kept);
    }

    fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

impl Player {
    /// A viewer who opens `url` now.
    pub fn new(manners: Manners, url: Url, now_ns: u64) -> Player {
        Player {
            manners,
            url,
            begun_ns: now_ns,
            now_ns,
            seen: Seen::Starting,
            buffer_s: 0.0,
            variants: Vec::new(),
            current: 0,
            position: None,
            asked: None,
            not_before_ns: now_ns,
            tries: 0,
            fast: Average::new(FAST_S),
            slow: Average::new(SLOW_S),
            watched: Watched::default(),
            stalls_told: 0,
        }
    }

    /// What the viewer sees.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// What the viewer sees at a moment after the last that the player was told of.
    pub fn seen_at(&self, now_ns: u64) -> Seen {
        let since_s = now_ns.saturating_sub(self.now_ns) as f64 / SECOND_NS as f64;
        match self.seen {
            Seen::Playing if since_s <= self.buffer_s => Seen::Playing,
            Seen::Playing if self.all_loaded() => Seen::Over,
            Seen::Playing => Seen::Stalled,
            seen => seen,
        }
    }

    /// Seconds in the buffer.
    pub fn buffer_s(&self) -> f64 {
        self.buffer_s
    }

    /// What this viewer had; whole once the player is over.
    pub fn watched(&self) -> &Watched {
        &self.watched
    }

    /// The viewer leaves.
    pub fn leave(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.over();
    }

    /// What to do now.
    pub fn next(&mut self, now_ns: u64) -> Next {
        self.advance(now_ns);
        if let Some(watch) = self.manners.watch_ns
            && now_ns.saturating_sub(self.begun_ns) >= watch
        {
            self.over();
        }
        if self.seen == Seen::Over {
            return Next::Over;
        }
        if now_ns < self.not_before_ns {
            return Next::Wait(self.until(self.not_before_ns));
        }
        let Some(rendition) = self.variants.get(self.current) else {
            return self.ask(Wanted::First, self.url.clone(), None);
        };
        let Some(media) = &rendition.media else {
            return self.ask(Wanted::Media, rendition.variant.url.clone(), None);
        };
        let position = self.position.unwrap_or(media.sequence);
        let after = media.sequence + media.segments.len() as u64;
        if position >= after {
            if media.ended {
                // All is loaded: what is in the buffer is played to its end.
                let left_ns = (self.buffer_s * SECOND_NS as f64) as u64;
                if self.seen != Seen::Playing || left_ns == 0 {
                    self.over();
                    return Next::Over;
                }
                return Next::Wait(self.until(now_ns + left_ns + 1));
            }
            // RFC 8216, section 6.3.4: a target duration after the last load, half of that when nothing was new.
            let due = rendition.media_ns + (media.target_s / 2.0 * SECOND_NS as f64) as u64;
            if now_ns < due {
                return Next::Wait(self.until(due));
            }
            return self.ask(Wanted::Media, rendition.variant.url.clone(), None);
        }
        let room_s = self.manners.buffer_s - self.buffer_s;
        if room_s <= 0.0 && self.seen == Seen::Playing {
            return Next::Wait(self.until(now_ns + (-room_s * SECOND_NS as f64) as u64 + 1));
        }
        // A live playlist may have moved on past what was wanted.
        if position < media.sequence {
            self.watched.skipped += media.sequence - position;
            self.position = Some(media.sequence);
        }
        let index = (position.max(media.sequence) - media.sequence) as usize;
        let segment: &MediaSegment = &media.segments[index];
        if segment.map.is_some() && segment.map != rendition.map {
            let (url, range) = segment.map.clone().unwrap_or_else(|| (segment.url.clone(), None));
            return self.ask(Wanted::Map, url, range);
        }
        let (url, range) = (segment.url.clone(), segment.range);
        self.ask(Wanted::Segment, url, range)
    }

    fn ask(&mut self, wanted: Wanted, url: Url, range: Option<Range>) -> Next {
        self.asked = Some(wanted);
        let playlist = matches!(wanted, Wanted::First | Wanted::Media);
        let cmcd = match wanted {
            Wanted::Map | Wanted::Segment if self.manners.tells => self.tells(&url),
            _ => Vec::new(),
        };
        Next::Ask(Ask { url, range, playlist, cmcd })
    }

    /// CTA-5004, as hls.js and dash.js tell it: rounded, keys in order.
    fn tells(&mut self, url: &Url) -> Vec<(&'static str, String)> {
        let kbps = |rendition: &Rendition| rendition.variant.bandwidth / 1000;
        let rendition = &self.variants[self.current];
        let top = self.variants.iter().map(kbps).max().unwrap_or(0);
        let mut fields = Vec::new();
        if kbps(rendition) > 0 {
            fields.push(("cmcd-object", format!("br={},ot=av,tb={top}", kbps(rendition))));
        }
        let mut request = format!("bl={}", (self.buffer_s * 10.0).round() as u64 * 100);
        let after = self.position.zip(rendition.media.as_ref()).and_then(|(position, media)| {
            media.segments.get((position + 1).checked_sub(media.sequence)? as usize)
        });
        // As a path; what a text in quotes could not hold is not told.
        if let Some(next) = after.filter(|s| s.url.authority == url.authority && s.range.is_none())
        {
            let target = next.url.target.replace('%', "%25");
            if !target.contains(['"', '\\']) {
                request += &format!(",nor=\"{target}\"");
            }
        }
        if self.seen != Seen::Playing {
            request += ",su";
        }
        fields.push(("cmcd-request", request));
        if self.watched.stalls > self.stalls_told {
            self.stalls_told = self.watched.stalls;
            fields.push(("cmcd-status", "bs".to_owned()));
        }
        fields
    }

    /// Waits are never longer than the viewer stays.
    fn until(&self, ns: u64) -> u64 {
        let leave = self.manners.watch_ns.map(|watch| self.begun_ns.saturating_add(watch));
        leave.map_or(ns, |leave| ns.min(leave))
    }

    /// What was asked for came.
    ///
    /// # Errors
    /// When it was a playlist that cannot be used; the player tries again.
    pub fn arrived(&mut self, now_ns: u64, loaded: &Loaded<'_>) -> Result<(), PlaylistError> {
        self.advance(now_ns);
        let Some(wanted) = self.asked.take() else { return Ok(()) };
        let playlist = match wanted {
            Wanted::First | Wanted::Media => match Playlist::parse(loaded.text, loaded.from) {
                Ok(playlist) => Some(playlist),
                Err(error) => {
                    self.try_again(now_ns, wanted);
                    return Err(error);
                }
            },
            _ => None,
        };
        self.tries = 0;
        self.measure(now_ns, loaded);
        match (wanted, playlist) {
            (Wanted::First, Some(Playlist::Multivariant(variants))) => {
                self.variants = variants
                    .into_iter()
                    .map(|variant| Rendition { variant, media: None, media_ns: 0, map: None })
                    .collect();
                self.current = self.affordable(self.manners.first_guess_bps * USABLE_SHARE);
            }
            (Wanted::First, Some(Playlist::Media(media))) => {
                let variant = Variant { bandwidth: 0, url: self.url.clone() };
                let rendition = Rendition { variant, media: None, media_ns: now_ns, map: None };
                self.variants = vec![rendition];
                self.take_media(now_ns, media);
            }
            (Wanted::Media, Some(Playlist::Media(media))) => self.take_media(now_ns, media),
            // A variant stream that is a list of others.
            (Wanted::Media, Some(Playlist::Multivariant(_))) => self.try_again(now_ns, wanted),
            (Wanted::Map, _) => {
                if let Some(segment) = self.segment() {
                    let map = segment.map.clone();
                    self.variants[self.current].map = map;
                }
            }
            (Wanted::Segment, _) => self.take_segment(now_ns, loaded.bytes),
            (_, None) => {}
        }
        Ok(())
    }

    /// What was asked for did not come.
    pub fn failed(&mut self, now_ns: u64) {
        self.advance(now_ns);
        if let Some(wanted) = self.asked.take() {
            self.try_again(now_ns, wanted);
        }
    }

    fn try_again(&mut self, now_ns: u64, wanted: Wanted) {
        self.tries += 1;
        self.not_before_ns = now_ns + TRY_AGAIN_NS;
        if self.tries < TRIES_MAX {
            return;
        }
        self.tries = 0;
        let live = self.variants.get(self.current).and_then(|r| r.media.as_ref());
        match wanted {
            Wanted::Segment => {
                // A hole is jumped over, as players do.
                self.watched.skipped += 1;
                self.position = self.position.map(|position| position + 1);
            }
            // What is there can be played to its end.
            Wanted::Media if live.is_some() => {}
            _ => {
                self.watched.failed = 1;
                self.over();
            }
        }
    }

    fn take_media(&mut self, now_ns: u64, media: Media) {
        if self.position.is_none() {
            let behind_s = media.target_s * LIVE_TARGETS;
            let mut first = 0;
            if !media.ended {
                let mut after_s = 0.0;
                first = media.segments.len();
                while first > 0 && after_s < behind_s {
                    first -= 1;
                    after_s += media.segments[first].seconds;
                }
            }
            self.position = Some(media.sequence + first as u64);
        }
        let rendition = &mut self.variants[self.current];
        rendition.media = Some(media);
        rendition.media_ns = now_ns;
    }

    fn segment(&self) -> Option<&MediaSegment> {
        let media = self.variants.get(self.current)?.media.as_ref()?;
        media.segments.get(self.position?.checked_sub(media.sequence)? as usize)
    }

    fn take_segment(&mut self, now_ns: u64, bytes: u64) {
        let Some(seconds) = self.segment().map(|segment| segment.seconds) else { return };
        let bandwidth = self.variants[self.current].variant.bandwidth;
        self.position = self.position.map(|position| position + 1);
        self.buffer_s += seconds;
        self.watched.loaded(seconds, bandwidth, bytes);
        match self.seen {
            Seen::Starting => {
                self.watched.startup_ns = Some(now_ns - self.begun_ns);
                self.seen = Seen::Playing;
            }
            Seen::Stalled => self.seen = Seen::Playing,
            Seen::Playing | Seen::Over => {}
        }
        self.choose();
    }

    fn measure(&mut self, now_ns: u64, loaded: &Loaded<'_>) {
        let seconds = now_ns.saturating_sub(loaded.asked_ns) as f64 / SECOND_NS as f64;
        if loaded.bytes < SAMPLE_BYTES_MIN || seconds <= 0.0 {
            return;
        }
        let bps = loaded.bytes as f64 * 8.0 / seconds;
        self.fast.add(seconds, bps);
        self.slow.add(seconds, bps);
    }

    /// Bits per second that the network gives.
    fn throughput_bps(&self) -> f64 {
        match (self.fast.value(), self.slow.value()) {
            (Some(fast), Some(slow)) => fast.min(slow),
            _ => self.manners.first_guess_bps,
        }
    }

    /// The highest rendition that needs no more than this; the lowest if all do.
    fn affordable(&self, bps: f64) -> usize {
        self.variants.iter().rposition(|r| r.variant.bandwidth as f64 <= bps).unwrap_or(0)
    }

    fn choose(&mut self) {
        let throughput = self.throughput_bps();
        let wanted = self.affordable(throughput * USABLE_SHARE);
        let own = self.variants[self.current].variant.bandwidth as f64;
        let keeps = self.buffer_s >= KEEP_FROM_S && own <= throughput;
        let chosen = match wanted.cmp(&self.current) {
            std::cmp::Ordering::Greater if self.buffer_s >= UPWARDS_FROM_S => wanted,
            std::cmp::Ordering::Less if !keeps => wanted,
            _ => self.current,
        };
        if chosen != self.current {
            self.watched.switched(chosen > self.current);
            self.current = chosen;
            // What is known of a live rendition is as old as the last time it was played.
            let rendition = &mut self.variants[chosen];
            if rendition.media.as_ref().is_some_and(|media| !media.ended) {
                rendition.media = None;
            }
        }
    }

    /// Plays up to `now_ns`.
    fn advance(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.now_ns);
        self.now_ns += elapsed_ns;
        match self.seen {
            Seen::Starting | Seen::Over => {}
            Seen::Stalled => self.watched.stalled_ns += elapsed_ns,
            Seen::Playing => {
                let buffer_ns = (self.buffer_s * SECOND_NS as f64) as u64;
                let played_ns = elapsed_ns.min(buffer_ns);
                self.watched.played_ns += played_ns;
                if elapsed_ns < buffer_ns {
                    self.buffer_s -= elapsed_ns as f64 / SECOND_NS as f64;
                    return;
                }
                self.buffer_s = 0.0;
                if self.all_loaded() {
                    self.over();
                } else if elapsed_ns > buffer_ns {
                    self.seen = Seen::Stalled;
                    self.watched.stalls += 1;
                    self.watched.stalled_ns += elapsed_ns - buffer_ns;
                }
            }
        }
    }

    fn all_loaded(&self) -> bool {
        let media = self.variants.get(self.current).and_then(|r| r.media.as_ref());
        media.zip(self.position).is_some_and(|(media, position)| {
            media.ended && position >= media.sequence + media.segments.len() as u64
        })
    }

    fn over(&mut self) {
        self.seen = Seen::Over;
    }
}

#[cfg(test)]
mod tests;
