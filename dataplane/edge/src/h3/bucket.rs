//! The pace of a QUIC connection: a token bucket in front of its packets. (TCP is paced by the kernel; QUIC's own pacer knows what
//! the path takes, not what the player needs.)
//!
//! A batch may leave while there is anything in the bucket, and is taken out of it as a whole; the next one waits until
//! that is paid back. Must stay true: over any time, what leaves is at most the rate times that time, one bucket and one
//! batch; time is an input.

use std::time::{Duration, Instant};

/// The bucket holds what leaves in this time ...
const DEPTH: Duration = Duration::from_millis(10);
/// ... and not less than two packets.
const DEPTH_BYTES_MIN: i128 = 2 * PACKET_BYTES as i128;
const PACKET_BYTES: u64 = super::DATAGRAM_BYTES_MAX as u64;

/// A byte, as it is counted here: what comes in within a nanosecond is a whole number at every rate.
const BYTE: i128 = 1_000_000_000;

/// A token bucket; without a rate everything may leave at once.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Bytes per second.
    rate: Option<u64>,
    /// What may leave, in parts of a [`BYTE`]; below zero: that left too early.
    tokens: i128,
    /// Up to here it was filled.
    filled: Option<Instant>,
}

impl Bucket {
    /// From now on at this rate; `None`: as fast as it goes.
    pub fn set_rate(&mut self, now: Instant, rate: Option<u64>) {
        let rate = rate.map(|rate| rate.max(1));
        if self.rate == rate {
            return;
        }
        self.fill(now);
        let was_free = self.rate.is_none();
        self.rate = rate;
        // What left before there was a rate is no debt, and what was saved at a higher one is not kept.
        self.tokens = if was_free { self.depth() } else { self.tokens.min(self.depth()) };
        self.filled = rate.map(|_| now);
    }

    /// How many packets may leave now, of `packets` at most; or when one may.
    pub fn take(&mut self, now: Instant, packets: usize) -> Result<usize, Instant> {
        let Some(rate) = self.rate else { return Ok(packets) };
        self.fill(now);
        if self.tokens > 0 {
            let fit = (self.tokens / (BYTE * i128::from(PACKET_BYTES))) + 1;
            return Ok(packets.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1));
        }
        let nanos = self.tokens.unsigned_abs() / u128::from(rate) + 1;
        Err(now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// So many bytes have left.
    pub fn sent(&mut self, bytes: usize) {
        if self.rate.is_some() {
            self.tokens -= bytes as i128 * BYTE;
        }
    }

    fn depth(&self) -> i128 {
        let bytes = i128::from(self.rate.unwrap_or(0)) * DEPTH.as_millis() as i128 / 1000;
        bytes.max(DEPTH_BYTES_MIN) * BYTE
    }

    /// What has come in since the last time.
    fn fill(&mut self, now: Instant) {
        let (Some(rate), Some(filled)) = (self.rate, self.filled) else { return };
        let nanos = now.saturating_duration_since(filled).as_nanos();
        let more = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_mul(i128::from(rate));
        self.filled = Some(filled.max(now));
        self.tokens = self.tokens.saturating_add(more).min(self.depth());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends whatever may leave for `span`, in batches of `packets`; what left, and how often it waited.
    fn drain(bucket: &mut Bucket, start: Instant, span: Duration, packets: usize) -> (u64, u64) {
        let (mut now, mut left, mut waits) = (start, 0, 0);
        while now < start + span {
            match bucket.take(now, packets) {
                Ok(allowed) => {
                    assert!((1..=packets).contains(&allowed));
                    bucket.sent(allowed * PACKET_BYTES as usize);
                    left += allowed as u64 * PACKET_BYTES;
                }
                Err(at) => {
                    assert!(at > now, "a wait that does not end is none");
                    (now, waits) = (at, waits + 1);
                }
            }
        }
        (left, waits)
    }

    #[test]
    fn what_leaves_is_the_rate_whatever_the_batch() {
        let start = Instant::now();
        for rate in [64_000, 625_000, 12_500_000, 1_250_000_000] {
            for packets in [1, 10, 44] {
                let mut bucket = Bucket::default();
                bucket.set_rate(start, Some(rate));
                let (left, waits) = drain(&mut bucket, start, Duration::from_secs(10), packets);
                let depth = (bucket.depth() / BYTE) as u64;
                let most = rate * 10 + depth + packets as u64 * PACKET_BYTES;
                assert!(
                    left <= most && left >= rate * 10 - PACKET_BYTES,
                    "{rate} {packets}: {left}"
                );
                assert!(waits > 0);
            }
        }
    }

    #[test]
    fn a_rate_that_changes_holds_from_then_on() {
        let start = Instant::now();
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(start, 44), Ok(44));
        bucket.sent(1 << 30);
        bucket.set_rate(start, Some(64_000));
        assert!(bucket.take(start, 44).is_ok(), "what left before is no debt");
        bucket.sent(640_000);
        let Err(at) = bucket.take(start, 44) else { panic!("ten seconds are owed") };
        assert!((9..=10).contains(&(at - start).as_secs()));
        // Ten times as fast: the debt is paid in a tenth of the time.
        bucket.set_rate(start, Some(640_000));
        let Err(at) = bucket.take(start, 44) else { panic!("a second is owed") };
        assert!(at - start <= Duration::from_secs(1));
        bucket.set_rate(start, None);
        assert_eq!(bucket.take(start, 44), Ok(44));
        // An idle hour saves up one bucket and no more.
        bucket.set_rate(start, Some(64_000));
        let later = start + Duration::from_secs(3600);
        let (left, _) = drain(&mut bucket, later, Duration::from_millis(1), 1);
        assert!(left <= 3 * PACKET_BYTES, "{left}");
    }
}
