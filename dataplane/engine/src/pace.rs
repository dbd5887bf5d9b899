//! How fast and how soon an answer leaves: what the behaviour says, and what the player tells (CMCD, CTA-5004). Pure.
//!
//! ```text
//! starts, or its buffer is dry or low    no wish: as fast as it goes
//! rtp                                    rtp, but not less than br
//! tb                                     k x max(tb, br); k falls from 3 at an empty buffer to `bitrate_factor` at a full one
//! br                                     3 x br: enough for the player to find out that a higher rendition would come in time
//! dl                                     and not less than twice what meets the deadline
//! ```
//! Must stay true: a wish caps one answer, the ceiling one connection; a connection is as fast as the wishes of its answers
//! together, and without limit while one of them has none: what is sent to one player at the same time (sound and picture) is
//! all needed at the same time.

use std::collections::BTreeMap;
use tidegate_contract::{Congestion, Pacing};
use tidegate_http::cmcd::Cmcd;

/// A player with less in its buffer is not slowed down.
const BUFFER_LOW_MS: u64 = 4_000;
/// What is as good as a full buffer.
const BUFFER_FULL_MS: u64 = 20_000;
/// An answer that must be there so soon is urgent.
const DEADLINE_SHORT_MS: u64 = 2_000;
/// Times the bitrate for a player with an empty buffer (Sammy, SIGCOMM 2023).
const FACTOR_EMPTY: f64 = 3.0;
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
    /// What its connection may have.
    pub ceiling: Option<u64>,
    /// Bytes of this answer's body before the wish binds.
    pub burst: u64,
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
}

impl Manner {
    /// For an answer with so many body bytes, if that is known.
    pub fn of(rule: &Pacing, cmcd: Option<&Cmcd>, body: Option<u64>) -> Manner {
        let ceiling = rule.rate_max_kbps.map(|kbps| u64::from(kbps) * KILOBIT_BYTES);
        let wish = cmcd.and_then(|cmcd| wish(rule, cmcd, body));
        let pace = Pace { wish, ceiling, burst: rule.burst_bytes };
        Manner { pace, need: cmcd.map(need).unwrap_or_default(), congestion: rule.congestion }
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
    let deadline = match (cmcd.deadline_ms, body) {
        (Some(ms), Some(bytes)) => bytes.saturating_mul(1000 * DEADLINE_FACTOR).div_ceil(ms.max(1)),
        _ => 0,
    };
    // Numbers have at most 15 digits, so that nothing here comes near the end of u64.
    Some(kbps.saturating_mul(KILOBIT_BYTES).max(deadline).max(WISH_MIN))
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
    fn the_burst_is_cut_where_the_wish_binds() {
        let pace = Pace { wish: Some(1), ceiling: None, burst: 100 };
        let mut burst = Burst::of(&pace);
        assert_eq!((burst.take(60), burst.take(60), burst.take(20)), (Some(60), Some(40), None));
        assert_eq!(burst.take(1000), Some(1000), "told once");
        assert_eq!(Burst::of(&Pace { burst: 0, ..pace }).take(5), None);
        assert_eq!(Burst::of(&Pace { wish: None, ..pace }).take(500), Some(500));
    }

    #[test]
    fn a_connection_is_as_fast_as_its_answers_together() {
        let pace = |wish, ceiling| Pace { wish, ceiling, burst: 0 };
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
            if let Some(wish) = Manner::of(&Pacing::default(), Some(&cmcd), body).pace.wish {
                prop_assert!(wish >= WISH_MIN && wish >= br.saturating_mul(KILOBIT_BYTES));
            }
        }
    }
}
