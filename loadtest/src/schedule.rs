//! When requests are due, and who sends which: the plan of a run and the slots handed out from it.
//!
//! Must stay true: the moment of slot `i` is computed from `i` alone, so a long run does not drift; slots are
//! handed out in order, each once, and those that are given up are named. All times are nanoseconds since the
//! start of the run, given by the caller.

use crate::units::SECOND_NS;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests per second, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    milli: u64,
}

/// The fastest schedule: far beyond what one machine can send.
pub const RATE_MAX: u64 = 10_000_000;

/// Due requests that may wait to be sent (about 17 minutes at 1,000 per second). Beyond it the oldest are
/// given up: their users have gone.
pub const BACKLOG_REQUESTS_MAX: u64 = 1_000_000;

/// Why a text is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateError;

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a rate is requests per second, from 0.001 to {RATE_MAX}")
    }
}

impl std::error::Error for RateError {}

impl std::str::FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        let number: f64 = text.parse().map_err(|_| RateError)?;
        Rate::per_second(number)
    }
}

impl Rate {
    /// # Errors
    /// When it is not from 0.001 to [`RATE_MAX`].
    pub fn per_second(rate: f64) -> Result<Rate, RateError> {
        let milli = (rate * 1000.0).round();
        if milli >= 1.0 && milli <= (RATE_MAX * 1000) as f64 {
            Ok(Rate { milli: milli as u64 })
        } else {
            Err(RateError)
        }
    }

    /// Requests per second.
    pub fn as_f64(self) -> f64 {
        self.milli as f64 / 1000.0
    }

    /// The moment at which slot `index` is due.
    pub fn due_ns(self, index: u64) -> u64 {
        let ns = u128::from(index) * u128::from(MILLI_SECOND_NS) / u128::from(self.milli);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// How many slots are due before `ns` (exclusive).
    pub fn due_before(self, ns: u64) -> u64 {
        let slots = (u128::from(ns) * u128::from(self.milli)).div_ceil(u128::from(MILLI_SECOND_NS));
        u64::try_from(slots).unwrap_or(u64::MAX)
    }
}

/// Nanoseconds times thousandths: a rate of 0.001 has one slot in this time.
const MILLI_SECOND_NS: u64 = 1000 * SECOND_NS;

/// What a run does, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// `None`: closed loop, each user asks again when answered.
    pub rate: Option<Rate>,
    /// Requests that are due (closed: begun) before this moment are sent but not counted.
    pub warmup_ns: u64,
    /// Time that is counted, after the warm-up.
    pub duration_ns: Option<u64>,
    /// Requests that are counted.
    pub requests: Option<u64>,
}

impl Plan {
    /// Slots of the warm-up (open loop).
    fn warmup_slots(&self) -> u64 {
        self.rate.map_or(0, |rate| rate.due_before(self.warmup_ns))
    }

    /// All slots of an open loop; `u64::MAX` when nothing ends it.
    fn slots(&self) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let by_time = self
            .duration_ns
            .map_or(u64::MAX, |ns| rate.due_before(self.warmup_ns.saturating_add(ns)));
        let by_count =
            self.requests.map_or(u64::MAX, |count| self.warmup_slots().saturating_add(count));
        by_time.min(by_count)
    }

    /// The moment after which nothing new is asked; `None` when only answers end the run (closed loop with a
    /// number of requests).
    pub fn end_ns(&self) -> Option<u64> {
        let by_time = self.duration_ns.map(|ns| self.warmup_ns.saturating_add(ns));
        let by_count = self
            .rate
            .zip(self.requests)
            .map(|(rate, requests)| rate.due_ns(self.warmup_slots().saturating_add(requests)));
        match (by_time, by_count) {
            (Some(time), Some(count)) => Some(time.min(count)),
            (time, count) => time.or(count),
        }
    }
}

/// What a user that is free does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Send this one at `due_ns` (at once, when that has passed).
    Send { index: u64, due_ns: u64, counted: bool },
    /// These waited in vain: too many are due. Account for them and ask again.
    GivenUp(Range<u64>),
    /// The plan is done.
    Over,
}

/// Hands out the slots of a plan to users on any thread.
#[derive(Debug)]
pub struct Slots {
    plan: Plan,
    slots: u64,
    warmup_slots: u64,
    end_ns: Option<u64>,
    backlog_max: u64,
    next: AtomicU64,
    /// Closed loop: requests that count so far.
    counted: AtomicU64,
}

impl Slots {
    pub fn new(plan: Plan, backlog_max: u64) -> Slots {
        Slots {
            plan,
            slots: plan.slots(),
            warmup_slots: plan.warmup_slots(),
            end_ns: plan.end_ns(),
            backlog_max: backlog_max.max(1),
            next: AtomicU64::new(0),
            counted: AtomicU64::new(0),
        }
    }

    /// The next slot.
    pub fn claim(&self, now_ns: u64) -> Claim {
        let Some(rate) = self.plan.rate else { return self.claim_closed(now_ns) };
        loop {
            let next = self.next.load(Ordering::Relaxed);
            if next >= self.slots {
                return Claim::Over;
            }
            let oldest = self.due(rate, now_ns).saturating_sub(self.backlog_max);
            let after = if oldest > next { oldest } else { next + 1 };
            // Relaxed: the number is all that is shared; what follows from it is each user's own.
            let taken =
                self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_err() {
                continue;
            }
            return if oldest > next {
                Claim::GivenUp(next..oldest)
            } else {
                Claim::Send { index: next, due_ns: rate.due_ns(next), counted: self.counts(next) }
            };
        }
    }

    fn claim_closed(&self, now_ns: u64) -> Claim {
        if self.end_ns.is_some_and(|end| now_ns >= end) {
            return Claim::Over;
        }
        let counted = now_ns >= self.plan.warmup_ns;
        if let (true, Some(requests)) = (counted, self.plan.requests) {
            let taken = self.counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < requests).then_some(n + 1)
            });
            if taken.is_err() {
                return Claim::Over;
            }
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        Claim::Send { index, due_ns: now_ns, counted }
    }

    /// Takes out, for good, the slots that were due by `now_ns` and nobody sent.
    pub fn close(&self, now_ns: u64) -> Range<u64> {
        let Some(rate) = self.plan.rate else { return 0..0 };
        let next = self.next.swap(u64::MAX, Ordering::Relaxed);
        next..self.due(rate, now_ns).max(next)
    }

    /// The moment of a slot (open loop).
    pub fn due_ns(&self, index: u64) -> u64 {
        self.plan.rate.map_or(0, |rate| rate.due_ns(index))
    }

    /// The slot is after the warm-up (open loop).
    pub fn counts(&self, index: u64) -> bool {
        index >= self.warmup_slots
    }

    /// Requests that are due and not yet taken.
    pub fn backlog(&self, now_ns: u64) -> u64 {
        let due = self.plan.rate.map_or(0, |rate| self.due(rate, now_ns));
        due.saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Slots due up to and with `now_ns`.
    fn due(&self, rate: Rate, now_ns: u64) -> u64 {
        rate.due_before(now_ns.saturating_add(1)).min(self.slots)
    }
}

#[cfg(test)]
mod tests;
