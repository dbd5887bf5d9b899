//! The least that a client must take of an answer. Who takes a byte now and then is never silent for as long as
//! [`SEND_STALL_MAX`](crate::client::SEND_STALL_MAX), and would hold what is kept for it as long as it likes.
//!
//! Only the time is counted in which we wait for the client, and what all of its connection takes in that time: a stream that
//! waits while another one of its connection takes its share is not slow.
//!
//! Over TCP the kernel does the same by its buffer: a socket can be written again when a third of what it held is gone.

use std::io;
use std::time::Duration;

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
