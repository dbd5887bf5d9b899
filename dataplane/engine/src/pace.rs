//! How fast and how soon an answer leaves: what the behaviour says, and what the player tells (CMCD, CTA-5004). Pure.
//!
//! ```text
//! starts, or its buffer is dry or low    no wish: as fast as it goes
//! rtp                                    rtp, but not less than br
//! tb                                     k x max(tb, br); k falls from 3 at an empty buffer to `bitrate_factor` at a full one
//! br                                     3 x br: enough for the player to find out that a higher rendition would come in time
//! dl                                     and not less than twice what meets the deadline
//! ```
//! A player with enough in its buffer lends: while its own path is crowded it is sent no more than it plays, so that whoever else
//! sends there has more; TCP alone gives equal shares at best to who has 20 s and to who has none. Caps without that save nobody a
//! stall: a full player's answers take more of the time instead. Who has but one rendition lends below what it plays, since those
//! like it can only stall; others would take that for a bad network and go down. What is lent comes back by itself: the buffer
//! falls, and lends less.
//!
//! Must stay true: a wish caps one answer, the ceiling one connection; a connection is as fast as the wishes of its answers
//! together, and without limit while one of them has none: what is sent to one player at the same time (sound and picture) is
//! all needed at the same time.

use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_contract::{Congestion, Pacing};
use tidegate_http::cmcd::Cmcd;
use tidegate_ring::PathInfo;

/// A player with less in its buffer is not slowed down.
const BUFFER_LOW_MS: u64 = 4_000;
/// What is as good as a full buffer.
const BUFFER_FULL_MS: u64 = 20_000;
/// An answer that must be there so soon is urgent.
const DEADLINE_SHORT_MS: u64 = 2_000;
/// Times the bitrate for a player with an empty buffer (Sammy, SIGCOMM 2023).
const FACTOR_EMPTY: f64 = 3.0;
/// A player with less in its buffer lends nothing.
const LENDS_FROM_MS: u64 = 6_000;
/// One with more lends no more.
const LENDS_MOST_FROM_MS: u64 = 16_000;
/// Times its bitrate that it is sent then, when it was never seen with another one.
const LENDS_MOST: f64 = 0.5;
/// Longer in queues than this, and others wait there, too (microseconds; LEDBAT, RFC 6817, allows for 100 ms).
const QUEUE_CROWDED_US: u32 = 20_000;
/// One segment sent again of so many: a queue that is too short to be seen has overflowed.
const SENT_OF_RESENT: u32 = 50;
/// What leaves between two looks at a path, and what may wait in the kernel meanwhile.
pub const LOOK_BYTES: usize = 64 << 10;
/// Times the rate that just meets a deadline.
const DEADLINE_FACTOR: u64 = 2;
/// No player is slowed down below this, whatever it tells (bytes per second): memory that waits for slow clients is ours.
pub const WISH_MIN: u64 = 64_000;
/// A kilobit in bytes.
const KILOBIT_BYTES: u64 = 125;

/// How fast. All in bytes, and bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// What is enough for this answer; `None`: as fast as it goes.
    pub wish: Option<u64>,
    /// Whose player lends while its path is crowded.
    pub lender: Option<Lender>,
    /// What its connection may have.
    pub ceiling: Option<u64>,
    /// Bytes of this answer's body before the wish binds.
    pub burst: u64,
}

/// A player with enough in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lender {
    /// Of its highest rendition, bytes per second.
    top: u64,
    /// What it is sent at least, whatever it lends.
    least: u64,
    /// In its buffer when it asked.
    buffer_ms: u64,
}

/// How soon a player needs what it asks for, as far as it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Need {
    #[default]
    Ordinary,
    /// It starts or seeks, its buffer is low, or its deadline near.
    Soon,
    /// Its buffer ran dry: somebody looks at a still picture.
    Now,
}

/// How an answer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    pub pace: Pace,
    pub need: Need,
    pub congestion: Option<Congestion>,
    /// The player asks for a lower rendition than its highest.
    pub is_below_top: bool,
}

impl Manner {
    /// For an answer with so many body bytes, if that is known.
    pub fn of(rule: &Pacing, cmcd: Option<&Cmcd>, body: Option<u64>) -> Manner {
        let ceiling = rule.rate_max_kbps.map(|kbps| u64::from(kbps) * KILOBIT_BYTES);
        let wish = cmcd.and_then(|cmcd| wish(rule, cmcd, body));
        let lender = cmcd.and_then(|cmcd| lender(cmcd, body)).filter(|_| wish.is_some());
        let pace = Pace { wish, lender, ceiling, burst: rule.burst_bytes };
        let is_below_top = cmcd.is_some_and(|cmcd| cmcd.bitrate_kbps < cmcd.top_bitrate_kbps);
        let need = cmcd.map(need).unwrap_or_default();
        Manner { pace, need, congestion: rule.congestion, is_below_top }
    }
}

fn is_low(cmcd: &Cmcd) -> bool {
    cmcd.buffer_ms.is_some_and(|ms| ms < BUFFER_LOW_MS)
}

fn need(cmcd: &Cmcd) -> Need {
    let near = cmcd.deadline_ms.is_some_and(|ms| ms <= DEADLINE_SHORT_MS);
    match cmcd {
        Cmcd { starved: true, .. } => Need::Now,
        _ if cmcd.startup || near || is_low(cmcd) => Need::Soon,
        _ => Need::Ordinary,
    }
}

fn wish(rule: &Pacing, cmcd: &Cmcd, body: Option<u64>) -> Option<u64> {
    if cmcd.startup || cmcd.starved || is_low(cmcd) {
        return None;
    }
    let bitrate = cmcd.bitrate_kbps.unwrap_or(0);
    let kbps = match (cmcd.requested_kbps, cmcd.top_bitrate_kbps, cmcd.bitrate_kbps) {
        (Some(requested), ..) => requested.max(bitrate),
        (None, Some(top), _) => {
            let fill =
                cmcd.buffer_ms.unwrap_or(0).min(BUFFER_FULL_MS) as f64 / BUFFER_FULL_MS as f64;
            let factor =
                FACTOR_EMPTY + (rule.bitrate_factor.min(FACTOR_EMPTY) - FACTOR_EMPTY) * fill;
            (top.max(bitrate) as f64 * factor.max(rule.bitrate_factor)) as u64
        }
        (None, None, Some(bitrate)) => {
            (bitrate as f64 * FACTOR_EMPTY.max(rule.bitrate_factor)) as u64
        }
        (None, None, None) => return None,
    };
    // Numbers have at most 15 digits, so that nothing here comes near the end of u64.
    Some(kbps.saturating_mul(KILOBIT_BYTES).max(deadline(cmcd, body)).max(WISH_MIN))
}

fn deadline(cmcd: &Cmcd, body: Option<u64>) -> u64 {
    match (cmcd.deadline_ms, body) {
        (Some(ms), Some(bytes)) => bytes.saturating_mul(1000 * DEADLINE_FACTOR).div_ceil(ms.max(1)),
        _ => 0,
    }
}

/// By the highest bitrate, so that a player that has gone to a lower one still finds that it could come back; who does not tell it
/// lends nothing.
fn lender(cmcd: &Cmcd, body: Option<u64>) -> Option<Lender> {
    let (buffer_ms, top) = (cmcd.buffer_ms?, cmcd.top_bitrate_kbps?);
    let bitrate = cmcd.bitrate_kbps.unwrap_or(0);
    (buffer_ms >= LENDS_FROM_MS).then(|| Lender {
        top: top.max(bitrate).saturating_mul(KILOBIT_BYTES),
        least: deadline(cmcd, body).max(WISH_MIN),
        buffer_ms,
    })
}

impl Lender {
    /// What is enough with so much in the buffer; `None`: it lends nothing.
    fn enough(&self, buffer_ms: u64, has_lower: bool) -> Option<u64> {
        let above = buffer_ms.checked_sub(LENDS_FROM_MS)?;
        let share = (above as f64 / (LENDS_MOST_FROM_MS - LENDS_FROM_MS) as f64).min(1.0);
        let factor = if has_lower { 1.0 } else { 1.0 - (1.0 - LENDS_MOST) * share };
        Some(((self.top as f64 * factor) as u64).max(self.least))
    }
}

/// The rate of an answer whose player lends, look by look at its path.
#[derive(Debug, Clone, Copy)]
pub struct Lending {
    lender: Lender,
    has_lower: bool,
    wish: u64,
    rate: u64,
    last: Option<PathInfo>,
}

impl Lending {
    /// Of an answer whose wish binds now; `has_lower`: its player was seen with a lower rendition than its highest.
    pub fn of(pace: &Pace, has_lower: bool) -> Option<Lending> {
        let (wish, lender) = pace.wish.zip(pace.lender)?;
        Some(Lending { lender, has_lower, wish, rate: wish, last: None })
    }

    /// Bytes per second up to the next look, so long after the request; `None`: its buffer is low by now.
    pub fn look(&mut self, path: PathInfo, since: Duration) -> Option<u64> {
        let last = self.last.replace(path).unwrap_or(path);
        let queued_us = path.rtt_us.saturating_sub(path.rtt_min_us);
        let sent = path.sent.wrapping_sub(last.sent);
        let resent = path.resent.wrapping_sub(last.resent);
        let crowded = queued_us > QUEUE_CROWDED_US || resent.saturating_mul(SENT_OF_RESENT) > sent;
        let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let buffer_ms = self.lender.buffer_ms.saturating_sub(since_ms);
        self.rate = match self.lender.enough(buffer_ms, self.has_lower) {
            Some(enough) if crowded => enough.min(self.wish),
            // Slowly back: with room at once, all who lent would fill the path again together.
            _ => self.wish.min(self.rate.saturating_add(self.rate / 2)),
        };
        (buffer_ms >= BUFFER_LOW_MS).then_some(self.rate)
    }

    /// It is below its wish.
    pub fn lends(&self) -> bool {
        self.rate < self.wish
    }
}

/// What of a body leaves before its wish binds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Burst {
    left: u64,
    bound: bool,
}

impl Burst {
    /// Of an answer that begins.
    pub fn of(pace: &Pace) -> Burst {
        Burst { left: pace.burst, bound: pace.wish.is_none() }
    }

    /// How many of the next `len` bytes leave as they are: all, or those before the wish binds. `None`: it binds now.
    pub fn take(&mut self, len: usize) -> Option<usize> {
        if self.bound {
            return Some(len);
        }
        if self.left == 0 {
            self.bound = true;
            return None;
        }
        let free = len.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= free as u64;
        Some(free)
    }
}

/// The answers that one connection is sending.
#[derive(Debug, Default)]
pub struct Paces(BTreeMap<u64, (Pace, bool)>);

impl Paces {
    /// An answer begins; its wish binds later. Gives the connection's rate.
    pub fn begin(&mut self, stream: u64, pace: Pace) -> Option<u64> {
        self.0.insert(stream, (pace, false));
        self.rate()
    }

    /// Its burst is over.
    pub fn bind(&mut self, stream: u64) -> Option<u64> {
        if let Some((_, bound)) = self.0.get_mut(&stream) {
            *bound = true;
        }
        self.rate()
    }

    /// What it wants now that it is bound; `None`: as fast as it goes.
    pub fn set(&mut self, stream: u64, wish: Option<u64>) -> Option<u64> {
        if let Some((pace, _)) = self.0.get_mut(&stream) {
            pace.wish = wish;
        }
        self.rate()
    }

    /// It has ended.
    pub fn end(&mut self, stream: u64) -> Option<u64> {
        self.0.remove(&stream);
        self.rate()
    }

    /// Bytes per second of the connection; `None`: as fast as it goes.
    pub fn rate(&self) -> Option<u64> {
        let wish = |(pace, bound): &(Pace, bool)| pace.wish.filter(|_| *bound);
        let all =
            self.0.values().map(wish).try_fold(0u64, |sum, wish| Some(sum.saturating_add(wish?)));
        // The service that allows most decides: it would have it on a connection of its own.
        let ceiling = self.0.values().map(|(pace, _)| pace.ceiling.unwrap_or(u64::MAX)).max();
        let rate = all.filter(|_| !self.0.is_empty()).unwrap_or(u64::MAX);
        Some(rate.min(ceiling.unwrap_or(u64::MAX))).filter(|rate| *rate < u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(text: &str) -> Cmcd {
        let mut fields = tidegate_http::Fields::new();
        fields.append("cmcd-request", text.to_owned()).unwrap();
        match tidegate_http::cmcd::told(&fields, None) {
            tidegate_http::cmcd::Told::Read(cmcd) => *cmcd,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn manner(text: &str, body: Option<u64>) -> (Option<u64>, Need) {
        let manner = Manner::of(&Pacing::default(), Some(&told(text)), body);
        (manner.pace.wish.map(|rate| rate / KILOBIT_BYTES), manner.need)
    }

    #[test]
    fn a_player_gets_what_it_finds_enough_and_what_it_needs() {
        use Need::{Now, Ordinary, Soon};
        for (text, body, expected) in [
            ("rtp=15000,br=3200", None, (Some(15_000), Ordinary)),
            ("rtp=1000,br=3200", None, (Some(3200), Ordinary)),
            ("rtp=1", None, (Some(512), Ordinary)),
            ("br=3000", None, (Some(9000), Ordinary)),
            ("br=3000,bl=40000", None, (Some(9000), Ordinary)),
            ("br=3000,tb=6000,bl=40000", None, (Some(9000), Ordinary)),
            ("br=3000,tb=6000,bl=10000", None, (Some(13_500), Ordinary)),
            ("br=3000,tb=6000", None, (Some(18_000), Ordinary)),
            ("bl=20000", None, (None, Ordinary)),
            // 1 MB in 4 s are 2 Mbit/s.
            ("rtp=1000,dl=4000", Some(1_000_000), (Some(4000), Ordinary)),
            ("rtp=8000,dl=4000", Some(1_000_000), (Some(8000), Ordinary)),
            ("rtp=1000,dl=4000", None, (Some(1000), Ordinary)),
            ("rtp=1000,dl=0", Some(1_000_000), (Some(16_000_000), Soon)),
            ("rtp=15000,su", None, (None, Soon)),
            ("rtp=15000,bs", None, (None, Now)),
            ("rtp=15000,bs,su", None, (None, Now)),
            ("rtp=15000,bl=3999", None, (None, Soon)),
            ("rtp=15000,dl=2000", None, (Some(15_000), Soon)),
        ] {
            assert_eq!(manner(text, body), expected, "{text}");
        }
        let rule = Pacing { rate_max_kbps: Some(8), ..Pacing::default() };
        assert_eq!(Manner::of(&rule, None, None).pace.ceiling, Some(1000));
        let high = Pacing { bitrate_factor: 5.0, ..Pacing::default() };
        let wish = Manner::of(&high, Some(&told("tb=1000,bl=90000")), None).pace.wish;
        assert_eq!(wish, Some(625_000));
    }

    #[test]
    fn who_has_enough_lends_and_the_less_the_less_it_has() {
        for (text, body, expected) in [
            // With another rendition seen, and without.
            ("br=3000,tb=3000,bl=20000", None, Some((3000, 1500))),
            ("br=3000,tb=3000,bl=16000", None, Some((3000, 1500))),
            ("br=3000,tb=3000,bl=11000", None, Some((3000, 2250))),
            ("br=3000,tb=3000,bl=6000", None, Some((3000, 3000))),
            ("br=1000,tb=3000,bl=20000", None, Some((3000, 1500))),
            ("br=300,tb=300,bl=20000", None, Some((512, 512))),
            // 1 MB in 4 s are 2 Mbit/s.
            ("br=3000,tb=3000,bl=20000,dl=4000", Some(1_000_000), Some((4000, 4000))),
            ("br=1000,tb=3000,bl=0,su", None, None),
            ("br=3000,tb=3000,bl=5900", None, None),
            ("br=3000,tb=3000,bl=20000,su", None, None),
            ("br=3000,tb=3000,bl=20000,bs", None, None),
            ("br=3000,tb=3000", None, None),
            ("br=3000,bl=20000", None, None),
        ] {
            let manner = Manner::of(&Pacing::default(), Some(&told(text)), body);
            let enough = |lender: Lender, has_lower| {
                lender.enough(lender.buffer_ms, has_lower).unwrap() / KILOBIT_BYTES
            };
            let both =
                manner.pace.lender.map(|lender| (enough(lender, true), enough(lender, false)));
            assert_eq!(both, expected, "{text}");
            assert_eq!(manner.is_below_top, text.starts_with("br=1000"), "{text}");
        }
    }

    #[test]
    fn it_lends_while_its_path_is_crowded_and_comes_back_slowly() {
        let lender = Lender { top: 600, least: 1, buffer_ms: 16_000 };
        let pace = Pace { wish: Some(900), lender: Some(lender), ..Pace::default() };
        assert!(Lending::of(&Pace { lender: None, ..pace }, false).is_none());
        let mut lending = Lending::of(&pace, false).unwrap();
        let mut look = |rtt_us, sent, resent| {
            let path = PathInfo { rtt_us, rtt_min_us: 30_000, sent, resent };
            (lending.look(path, Duration::ZERO).unwrap(), lending.lends())
        };
        // A long path is no crowded one, and what was lost before is nobody's crowd now.
        assert_eq!(look(49_000, 1000, 90), (900, false));
        assert_eq!(look(51_000, 1040, 90), (300, true));
        assert_eq!(look(49_000, 1080, 90), (450, true));
        assert_eq!(look(30_000, 1120, 90), (675, true));
        assert_eq!(look(20_000, 1120, 90), (900, false), "the least is of this very moment");
        // Numbers of segments go round.
        let mut lending = Lending::of(&pace, true).unwrap();
        let mut look = |sent, resent| {
            let path = PathInfo { rtt_us: 30_000, rtt_min_us: 30_000, sent, resent };
            (lending.look(path, Duration::ZERO).unwrap(), lending.lends())
        };
        assert_eq!(look(u32::MAX - 9, u32::MAX), (900, false));
        assert_eq!(look(40, u32::MAX), (900, false));
        assert_eq!(look(140, 1), (900, false), "two of a hundred may be chance");
        assert_eq!(look(190, 3), (600, true));
        assert_eq!(look(190, 3), (900, false));
    }

    #[test]
    fn an_answer_that_takes_long_lends_less_and_less() {
        let lender = Lender { top: 600, least: 1, buffer_ms: 16_000 };
        let pace = Pace { wish: Some(900), lender: Some(lender), ..Pace::default() };
        let mut lending = Lending::of(&pace, false).unwrap();
        let crowded = PathInfo { rtt_us: 90_000, ..PathInfo::default() };
        let rates = [0, 5000, 10_000, 10_100, 10_200, 12_000, 12_001, u64::MAX]
            .map(|ms| lending.look(crowded, Duration::from_millis(ms)));
        let rest = [Some(600), Some(900), Some(900), Some(900), None, None];
        assert_eq!((&rates[..2], &rates[2..]), (&[Some(300), Some(450)][..], &rest[..]));
    }

    #[test]
    fn the_burst_is_cut_where_the_wish_binds() {
        let pace = Pace { wish: Some(1), burst: 100, ..Pace::default() };
        let mut burst = Burst::of(&pace);
        assert_eq!((burst.take(60), burst.take(60), burst.take(20)), (Some(60), Some(40), None));
        assert_eq!(burst.take(1000), Some(1000), "told once");
        assert_eq!(Burst::of(&Pace { burst: 0, ..pace }).take(5), None);
        assert_eq!(Burst::of(&Pace { wish: None, ..pace }).take(500), Some(500));
    }

    #[test]
    fn a_connection_is_as_fast_as_its_answers_together() {
        let pace = |wish, ceiling| Pace { wish, lender: None, ceiling, burst: 0 };
        let mut paces = Paces::default();
        assert_eq!(paces.rate(), None);
        assert_eq!(paces.begin(1, pace(Some(100), None)), None, "in its burst");
        assert_eq!(paces.bind(1), Some(100));
        assert_eq!(paces.begin(5, pace(Some(30), None)), None);
        assert_eq!(paces.bind(5), Some(130));
        assert_eq!(paces.begin(9, pace(None, Some(500))), None, "the others have no ceiling");
        assert_eq!(paces.end(1), None);
        assert_eq!(paces.end(5), Some(500));
        assert_eq!(paces.begin(11, pace(Some(900), Some(400))), Some(500));
        assert_eq!(paces.end(9), Some(400));
        assert_eq!(paces.bind(11), Some(400), "the ceiling holds for wishes, too");
        assert_eq!(paces.set(11, Some(300)), Some(300), "it lends");
        assert_eq!((paces.set(11, None), paces.set(77, Some(1))), (Some(400), Some(400)));
        assert_eq!((paces.end(11), paces.bind(77)), (None, None));
    }

    proptest! {
        #[test]
        fn no_number_is_too_large_and_none_starves(
            br in 0u64..=999_999_999_999_999, tb: Option<u32>, rtp: Option<u32>, bl: Option<u16>, dl: Option<u16>,
            body: Option<u64>,
        ) {
            let cmcd = Cmcd {
                bitrate_kbps: Some(br),
                top_bitrate_kbps: tb.map(u64::from),
                requested_kbps: rtp.map(u64::from),
                buffer_ms: bl.map(u64::from),
                deadline_ms: dl.map(u64::from),
                ..Cmcd::default()
            };
            let pace = Manner::of(&Pacing::default(), Some(&cmcd), body).pace;
            if let Some(wish) = pace.wish {
                prop_assert!(wish >= WISH_MIN && wish >= br.saturating_mul(KILOBIT_BYTES));
            }
            if let Some(mut lending) = Lending::of(&pace, false) {
                let crowded = PathInfo { rtt_us: u32::MAX, ..PathInfo::default() };
                let rate = lending.look(crowded, Duration::ZERO);
                prop_assert!(rate >= Some(WISH_MIN) && rate <= pace.wish);
            }
        }
    }
}
