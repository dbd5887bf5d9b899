//! The least that a client must take of an answer, and bring of a request's body. Who takes a byte now and then is never silent for as long as
//! [`SEND_STALL_MAX`](crate::client::SEND_STALL_MAX), and would hold what is kept for it as long as it likes.
//!
//! Only the time is counted in which we wait for the client, and what all of its connection takes in that time: a stream that
//! waits while another one of its connection takes its share is not slow.
//!
//! Over TCP the kernel does the same by its buffer: a socket can be written again when a third of what it held is gone.

use std::future::Future;
use std::io;
use std::time::Duration;
use tidegate_ring::{now, timeout};

/// In each second of waiting.
pub const MIN_RATE_BYTES: u64 = 1024;
/// It is averaged over so much waiting.
pub const MIN_RATE_SPAN: Duration = Duration::from_secs(30);

/// One answer's client.
#[derive(Debug, Default)]
pub struct MinRate {
    waited: Duration,
    taken: u64,
}

impl MinRate {
    /// We waited, and meanwhile the connection took so many bytes.
    ///
    /// # Errors
    /// `TimedOut`: it is too slow.
    pub fn after(&mut self, waited: Duration, bytes: u64) -> io::Result<()> {
        self.waited += waited;
        self.taken += bytes;
        if self.waited < MIN_RATE_SPAN {
            return Ok(());
        }
        let last = std::mem::take(self);
        match u128::from(last.taken) * 1000 < last.waited.as_millis() * u128::from(MIN_RATE_BYTES) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

/// Longest time without anything of a request's body.
pub const BODY_SILENCE_MAX: Duration = Duration::from_secs(10);
/// For all of it: the largest body that is passed on, at four times the least rate.
pub const BODY_WAIT_MAX: Duration = Duration::from_secs(256);

/// A request's body on its way: how long it is waited for.
#[derive(Debug, Default)]
pub struct BodyWait {
    rate: MinRate,
    waited: Duration,
}

impl BodyWait {
    /// Waits for more of it, of which `bytes` tells how much came.
    ///
    /// # Errors
    /// `TimedOut`: nothing came for too long, or too little.
    pub async fn next<T>(
        &mut self,
        more: impl Future<Output = T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> io::Result<T> {
        let begun = now();
        let late = |_| io::ErrorKind::TimedOut;
        let came = timeout(self.patience(), more).await.map_err(late)?;
        self.after(now().saturating_duration_since(begun), bytes(&came) as u64)?;
        Ok(came)
    }

    /// How long it is waited for at most until more comes.
    fn patience(&self) -> Duration {
        BODY_SILENCE_MAX.min(BODY_WAIT_MAX.saturating_sub(self.waited))
    }

    fn after(&mut self, waited: Duration, bytes: u64) -> io::Result<()> {
        self.waited += waited;
        self.rate.after(waited, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes taken each `every`, for a long time; when it was found too slow.
    fn found(bytes: u64, every: Duration) -> Option<Duration> {
        let mut rate = MinRate::default();
        let times = (1..10_000).map(|n| every * n);
        times.take_while(|at| *at < Duration::from_secs(3600)).find(|_| {
            let outcome = rate.after(every, bytes);
            outcome.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
        })
    }

    #[test]
    fn who_takes_a_byte_now_and_then_is_found_after_one_span() {
        let seconds = Duration::from_secs;
        assert_eq!(found(1, seconds(1)), Some(MIN_RATE_SPAN));
        assert_eq!(found(1, seconds(29)), Some(seconds(58)));
        assert_eq!(found(MIN_RATE_BYTES - 1, seconds(1)), Some(MIN_RATE_SPAN));
        assert_eq!(found(MIN_RATE_BYTES, seconds(1)), None);
        assert_eq!(found(MIN_RATE_BYTES * 29, seconds(29)), None);
    }

    /// A body of pieces that come each `every`: how long it took, or when it was given up.
    fn brought(bytes: u64, every: Duration, length: u64) -> Result<Duration, Duration> {
        let (mut wait, mut at, mut came) = (BodyWait::default(), Duration::ZERO, 0);
        while came < length {
            let patience = wait.patience();
            if every > patience {
                return Err(at + patience);
            }
            at += every;
            came += bytes;
            wait.after(every, bytes).map_err(|_| at)?;
        }
        Ok(at)
    }

    #[test]
    fn a_body_may_take_its_time_but_not_stand_still_trickle_or_go_on_for_ever() {
        let (seconds, mib) = (Duration::from_secs, 1 << 20);
        // A MiB by an uplink of 50 kb/s took longer than 10 s, and comes now.
        assert_eq!(brought(6 << 10, seconds(1), mib), Ok(seconds(171)));
        assert_eq!(brought(60 << 10, seconds(9), mib), Ok(seconds(162)));
        assert_eq!(brought(64 << 10, seconds(11), mib), Err(BODY_SILENCE_MAX));
        assert_eq!(brought(1, seconds(1), mib), Err(MIN_RATE_SPAN));
        assert_eq!(brought(MIN_RATE_BYTES, seconds(1), mib), Err(BODY_WAIT_MAX));
        assert_eq!(brought(4 * MIN_RATE_BYTES, seconds(1), mib), Ok(BODY_WAIT_MAX));
        // What is short may be slow.
        assert_eq!(brought(1, seconds(1), 29), Ok(seconds(29)));
    }

    #[test]
    fn each_span_counts_for_itself() {
        let mut rate = MinRate::default();
        rate.after(MIN_RATE_SPAN, 1 << 30).unwrap();
        assert!(rate.after(MIN_RATE_SPAN, 1).is_err(), "a fast begin earns no slow end");
    }

    #[test]
    fn who_is_not_waited_for_is_not_slow() {
        let mut rate = MinRate::default();
        for _ in 0..100_000 {
            rate.after(Duration::ZERO, 0).unwrap();
        }
    }
}
