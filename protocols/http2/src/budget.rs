//! Frames that cost us work and bring nothing: how many a connection may send.
//!
//! A bucket of [`FRAMES_MAX`], filled up again by time and by what the client takes of us. SETTINGS, PING, PRIORITY, RST_STREAM,
//! WINDOW_UPDATE, CONTINUATION, unknown types, DATA without data or for a stream that is over, and streams beyond their number
//! take one each.
//! (CVE-2019-9512, -9515, -9517 and their kin, whatever the type.)

use std::time::Duration;

/// At once.
pub const FRAMES_MAX: u64 = 1000;
/// In each second.
pub const FRAMES_PER_SECOND: u64 = 100;
/// A client that takes so many bytes may say so by another frame.
const SENT_BYTES_PER_FRAME: u64 = 4096;

/// What is left to a client.
#[derive(Debug, Default)]
pub struct Budget {
    spent: u64,
    earned: u64,
    sent: u64,
}

impl Budget {
    /// Takes one frame, at this time since some fixed moment; whether the client may go on. What was earned and not spent is
    /// no more than a full bucket.
    pub fn spend(&mut self, now: Duration) -> bool {
        let by_time = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) / 1000 * FRAMES_PER_SECOND
            + u64::from(now.subsec_millis()) * FRAMES_PER_SECOND / 1000;
        let earned = by_time.saturating_add(self.sent / SENT_BYTES_PER_FRAME);
        let fresh = earned.saturating_sub(self.earned);
        self.earned = self.earned.max(earned);
        self.spent = self.spent.saturating_sub(fresh) + 1;
        self.spent <= FRAMES_MAX
    }

    /// The client has been sent so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_unbearable_and_a_busy_client_is_not() {
        let mut budget = Budget::default();
        assert!((0..FRAMES_MAX).all(|_| budget.spend(Duration::ZERO)));
        assert!(!budget.spend(Duration::ZERO));

        // As a client that takes 10 GB at 1 GB/s, with a window update for each 16 KiB.
        let mut budget = Budget::default();
        assert!((0..600_000u64).all(|n| {
            budget.sent(16 << 10);
            budget.spend(Duration::from_micros(16 * n))
        }));
        // A steady trickle is borne, ten times as much is not.
        let steady = |per_second: u64| {
            let mut budget = Budget::default();
            (0..20_000).all(|n| budget.spend(Duration::from_millis(1000 * n / per_second)))
        };
        assert!(steady(FRAMES_PER_SECOND) && !steady(10 * FRAMES_PER_SECOND));
    }

    #[test]
    fn an_idle_connection_earns_no_more_than_a_full_bucket() {
        let (mut budget, day) = (Budget::default(), Duration::from_secs(86_400));
        assert!((0..FRAMES_MAX).all(|_| budget.spend(day)));
        assert!(!budget.spend(day));
    }
}
