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

/// The longest time in which a rate changes: with it the sums below stay inside 128 bits.
pub const RAMP_NS_MAX: u64 = 24 * 3600 * SECOND_NS;

/// How the rate goes: evenly, or from one to another in a straight line over a span that begins after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    rate: Rate,
    /// Where it goes, from when, and how long that takes.
    ramp: Option<(Rate, u64, u64)>,
}

impl Pace {
    fn due_ns(&self, index: u64) -> u64 {
        let Some((to, from_ns, span_ns)) = self.ramp else { return self.rate.due_ns(index) };
        let before = self.rate.due_before(from_ns);
        let Some(index) = index.checked_sub(before) else { return self.rate.due_ns(index) };
        // The last moment before which no more than `index` slots were due: what is asked for is due then.
        let (mut low, mut high) = (0, span_ns.saturating_add(1));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.ramped(to, span_ns, middle) <= index {
                true => low = middle,
                false => high = middle,
            }
        }
        from_ns.saturating_add(low)
    }

    /// How many slots are due before `ns` (exclusive).
    fn due_before(&self, ns: u64) -> u64 {
        match self.ramp {
            Some((to, from_ns, span_ns)) if ns > from_ns => {
                let ramped = self.ramped(to, span_ns, (ns - from_ns).min(span_ns));
                self.rate.due_before(from_ns).saturating_add(ramped)
            }
            _ => self.rate.due_before(ns),
        }
    }

    /// Slots due in the first `ns` of the ramp: the area under the rate's line.
    fn ramped(&self, to: Rate, span_ns: u64, ns: u64) -> u64 {
        let (from, to) = (u128::from(self.rate.milli), u128::from(to.milli));
        let (ns, span) = (u128::from(ns), u128::from(span_ns.min(RAMP_NS_MAX)).max(1));
        // from * ns + (to - from) * ns^2 / (2 * span), all times 2 * span; never negative, since ns <= span.
        let area = from * ns * (2 * span - ns) + to * ns * ns;
        let slots = area.div_ceil(2 * span * u128::from(MILLI_SECOND_NS));
        u64::try_from(slots).unwrap_or(u64::MAX)
    }
}

/// What a run does, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// `None`: closed loop, each user asks again when answered.
    pub rate: Option<Rate>,
    /// The rate at the end of `duration_ns`, which it comes to in a straight line; else it stays.
    pub ramp_to: Option<Rate>,
    /// Requests that are due (closed: begun) before this moment are sent but not counted.
    pub warmup_ns: u64,
    /// Time that is counted, after the warm-up.
    pub duration_ns: Option<u64>,
    /// Requests that are counted.
    pub requests: Option<u64>,
}

impl Plan {
    fn pace(&self) -> Option<Pace> {
        let ramp = self.ramp_to.zip(self.duration_ns).map(|(to, span)| (to, self.warmup_ns, span));
        self.rate.map(|rate| Pace { rate, ramp })
    }

    /// Slots of the warm-up (open loop).
    fn warmup_slots(&self) -> u64 {
        self.pace().map_or(0, |pace| pace.due_before(self.warmup_ns))
    }

    /// All slots of an open loop; `u64::MAX` when nothing ends it.
    fn slots(&self) -> u64 {
        let Some(pace) = self.pace() else { return u64::MAX };
        let by_time = self
            .duration_ns
            .map_or(u64::MAX, |ns| pace.due_before(self.warmup_ns.saturating_add(ns)));
        let by_count =
            self.requests.map_or(u64::MAX, |count| self.warmup_slots().saturating_add(count));
        by_time.min(by_count)
    }

    /// The moment after which nothing new is asked; `None` when only answers end the run (closed loop with a
    /// number of requests).
    pub fn end_ns(&self) -> Option<u64> {
        let by_time = self.duration_ns.map(|ns| self.warmup_ns.saturating_add(ns));
        let by_count = self
            .pace()
            .zip(self.requests)
            .map(|(pace, requests)| pace.due_ns(self.warmup_slots().saturating_add(requests)));
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
    pace: Option<Pace>,
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
            pace: plan.pace(),
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
        let Some(pace) = self.pace else { return self.claim_closed(now_ns) };
        loop {
            let next = self.next.load(Ordering::Relaxed);
            if next >= self.slots {
                return Claim::Over;
            }
            let oldest = self.due(&pace, now_ns).saturating_sub(self.backlog_max);
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
                Claim::Send { index: next, due_ns: pace.due_ns(next), counted: self.counts(next) }
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
        let Some(pace) = self.pace else { return 0..0 };
        let next = self.next.swap(u64::MAX, Ordering::Relaxed);
        next..self.due(&pace, now_ns).max(next)
    }

    /// The moment of a slot (open loop).
    pub fn due_ns(&self, index: u64) -> u64 {
        self.pace.map_or(0, |pace| pace.due_ns(index))
    }

    /// The slot is after the warm-up (open loop).
    pub fn counts(&self, index: u64) -> bool {
        index >= self.warmup_slots
    }

    /// Requests that are due and not yet taken.
    pub fn backlog(&self, now_ns: u64) -> u64 {
        let due = self.pace.map_or(0, |pace| self.due(&pace, now_ns));
        due.saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Slots due up to and with `now_ns`.
    fn due(&self, pace: &Pace, now_ns: u64) -> u64 {
        pace.due_before(now_ns.saturating_add(1)).min(self.slots)
    }
}

#[cfg(test)]
mod tests;
