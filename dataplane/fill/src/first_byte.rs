//! How long a hop took to its first byte, lately: when a live request has waited longer than nearly all before it, a
//! second hop is worth asking.

use std::time::Duration;

/// So many of the last times are looked at.
const SAMPLES: usize = 128;
/// Fewer say nothing.
const SAMPLES_MIN: usize = 20;
/// A second hop is not asked earlier than this: on a quiet network the time to the first byte is all chance.
pub const HEDGE_MIN: Duration = Duration::from_millis(20);

/// The last times to the first byte.
#[derive(Debug, Default)]
pub struct FirstBytes {
    us: Vec<u32>,
    /// The oldest one, when there are [`SAMPLES`].
    next: usize,
}

impl FirstBytes {
    /// One more.
    pub fn note(&mut self, span: Duration) {
        let us = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        if self.us.len() < SAMPLES {
            self.us.push(us);
        } else {
            self.us[self.next] = us;
            self.next = (self.next + 1) % SAMPLES;
        }
    }

    /// The time that 95 of 100 do not pass; `None`: too few are known.
    pub fn p95(&self) -> Option<Duration> {
        if self.us.len() < SAMPLES_MIN {
            return None;
        }
        let mut sorted = self.us.clone();
        let at = (sorted.len() * 95).div_ceil(100) - 1;
        let (_, us, _) = sorted.select_nth_unstable(at);
        Some(Duration::from_micros(u64::from(*us)))
    }

    /// When a second hop is asked.
    pub fn hedge_after(&self) -> Option<Duration> {
        self.p95().map(|span| span.max(HEDGE_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_95_of_the_last_ones_did_not_pass() {
        let mut times = FirstBytes::default();
        for n in 1..SAMPLES_MIN as u64 {
            times.note(Duration::from_millis(n));
            assert_eq!(times.p95(), None);
        }
        times.note(Duration::from_millis(20));
        assert_eq!(times.p95(), Some(Duration::from_millis(19)));
        assert_eq!(times.hedge_after(), Some(HEDGE_MIN));
        for n in 1..=SAMPLES as u64 {
            times.note(Duration::from_millis(n + 100));
        }
        assert_eq!(
            times.hedge_after(),
            Some(Duration::from_millis(222)),
            "only the last ones count"
        );
    }
}
