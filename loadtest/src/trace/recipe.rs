//! The parameters of a reference trace, with their limits.
//!
//! Must stay true: a recipe and nothing else decides a trace; all of it stands in the trace's header.

use std::fmt;

/// Bit rates of the ladder in kb/s, and which share of viewers takes each.
pub const LADDER: [(u64, f64); 4] = [(1000, 0.10), (2500, 0.25), (5000, 0.45), (8000, 0.20)];
/// Media segments of the catalogue and of the archive.
pub const VOD_SEGMENT_MS: u64 = 6000;
/// Media segments of live channels.
pub const LIVE_SEGMENT_MS: u64 = 2000;
/// Live viewers ask for the playlist this often: it is another one each second.
pub const LIVE_POLL_MS: u64 = 1000;
/// Media segments that a player asks for without waiting, to fill its buffer.
pub const BURST_SEGMENTS: u32 = 3;

/// Viewers of one trace.
pub const VIEWERS_MAX: u32 = 1_000_000;
/// Media segments of a catalogue, all renditions counted: some bytes of memory each.
pub const CATALOGUE_SEGMENTS_MAX: u64 = 100_000_000;

/// What a trace is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub seed: u64,
    pub requests: u64,
    /// Bytes of a media segment, as a share of bit rate times length.
    pub scale: f64,
    pub titles: u32,
    /// Of each title.
    pub episodes: u32,
    /// Of each episode.
    pub segments: u32,
    /// The n-th title is begun in proportion to `1 / n^zipf`.
    pub zipf: f64,
    /// Viewers of the catalogue at any moment.
    pub vod_viewers: u32,
    /// Chance that a viewer leaves after a media segment.
    pub leave: f64,
    /// Chance that an episode's end leads into the next one.
    pub binge: f64,
    /// Chance of a seek after a media segment.
    pub seek: f64,
    /// Share of media segments of the catalogue that are asked for in part.
    pub ranges: f64,
    pub live_channels: u32,
    pub live_viewers: u32,
    /// Of all objects of the trace, the share that is asked for once.
    pub once: f64,
}

/// The reference trace: about 54 GB in answers over objects of 5.2 GB, three quarters of which are seen once; an
/// infinite cache answers 94.5 % of the requests.
impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            seed: 1,
            requests: 600_000,
            scale: 0.05,
            titles: 20,
            episodes: 5,
            segments: 16,
            zipf: 1.0,
            vod_viewers: 3000,
            leave: 0.03,
            binge: 0.8,
            seek: 0.02,
            ranges: 0.03,
            live_channels: 2,
            live_viewers: 500,
            once: 0.75,
        }
    }
}

/// A parameter outside its limits: name and limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecipeError {
    name: &'static str,
    from: f64,
    to: f64,
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is from {} to {}", self.name, self.from, self.to)
    }
}

impl std::error::Error for RecipeError {}

impl Recipe {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first one that is outside its limits.
    pub fn check(&self) -> Result<(), RecipeError> {
        let viewers = f64::from(VIEWERS_MAX);
        let limits = [
            ("--requests", self.requests as f64, 1.0, 1e12),
            ("--scale", self.scale, 1e-6, 100.0),
            ("--titles", f64::from(self.titles), 1.0, 1e6),
            ("--episodes", f64::from(self.episodes), 1.0, 1e4),
            ("--segments", f64::from(self.segments), 1.0, 1e5),
            ("--zipf", self.zipf, 0.0, 10.0),
            ("--vod-viewers", f64::from(self.vod_viewers), 0.0, viewers),
            ("--leave", self.leave, 0.0, 1.0),
            ("--binge", self.binge, 0.0, 1.0),
            ("--seek", self.seek, 0.0, 1.0),
            ("--ranges", self.ranges, 0.0, 1.0),
            ("--live-channels", f64::from(self.live_channels), 1.0, 1e4),
            ("--live-viewers", f64::from(self.live_viewers), 0.0, viewers),
            // Each object seen again may bring so many seen once: beyond it they are all there is.
            ("--once", self.once, 0.0, 0.95),
            (
                "titles x episodes x segments x renditions",
                self.catalogue() as f64,
                1.0,
                CATALOGUE_SEGMENTS_MAX as f64,
            ),
            ("viewers", f64::from(self.vod_viewers) + f64::from(self.live_viewers), 1.0, viewers),
        ];
        for (name, value, from, to) in limits {
            if !(from..=to).contains(&value) {
                return Err(RecipeError { name, from, to });
            }
        }
        Ok(())
    }

    /// Media segments of the catalogue, all renditions.
    pub fn catalogue(&self) -> u64 {
        [self.titles, self.episodes, self.segments, LADDER.len() as u32]
            .iter()
            .fold(1, |product: u64, n| product.saturating_mul(u64::from(*n)))
    }

    /// Bytes of a media segment of this bit rate and length, before it varies.
    pub fn segment_bytes(&self, kbps: u64, ms: u64) -> f64 {
        kbps as f64 * ms as f64 / 8.0 * self.scale
    }

    /// Bytes of the whole catalogue, about.
    pub fn catalogue_bytes(&self) -> f64 {
        let places = self.catalogue() / LADDER.len() as u64;
        let each = LADDER.iter().map(|(kbps, _)| self.segment_bytes(*kbps, VOD_SEGMENT_MS));
        places as f64 * each.sum::<f64>()
    }

    /// Names and values, as a header has them.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let ladder: Vec<String> =
            LADDER.iter().map(|(kbps, share)| format!("{kbps}k:{share}")).collect();
        vec![
            ("seed", self.seed.to_string()),
            ("requests", self.requests.to_string()),
            ("scale", self.scale.to_string()),
            ("titles", self.titles.to_string()),
            ("episodes", self.episodes.to_string()),
            ("segments", self.segments.to_string()),
            ("zipf", self.zipf.to_string()),
            ("vod_viewers", self.vod_viewers.to_string()),
            ("leave", self.leave.to_string()),
            ("binge", self.binge.to_string()),
            ("seek", self.seek.to_string()),
            ("ranges", self.ranges.to_string()),
            ("live_channels", self.live_channels.to_string()),
            ("live_viewers", self.live_viewers.to_string()),
            ("once", self.once.to_string()),
            ("ladder", ladder.join(",")),
            ("vod_segment_ms", VOD_SEGMENT_MS.to_string()),
            ("live_segment_ms", LIVE_SEGMENT_MS.to_string()),
            ("live_poll_ms", LIVE_POLL_MS.to_string()),
            ("burst_segments", BURST_SEGMENTS.to_string()),
            ("catalogue_bytes", format!("{:.0}", self.catalogue_bytes())),
        ]
    }
}
