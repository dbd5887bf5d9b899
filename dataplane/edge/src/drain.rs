//! The moment at which a core begins to stop, for connections that have something to say then: all at once, or over a span, so
//! that not all clients come anew in the same instant.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use tidegate_ring::{now, sleep_until};

/// Of one core.
#[derive(Default)]
pub struct Drain {
    begun: Cell<Begun>,
    waiting: RefCell<HashMap<u64, Waker>>,
    given: Cell<u64>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Begun {
    #[default]
    No,
    /// Each connection has its own moment in this span.
    Over(Instant, Duration),
    Now,
}

impl Drain {
    /// It begins, for all.
    pub fn begin(&self) {
        self.set(Begun::Now);
    }

    /// It begins for one after the other, until the span is over.
    pub fn begin_over(&self, span: Duration) {
        self.set(Begun::Over(now(), span));
    }

    fn set(&self, begun: Begun) {
        self.begun.set(begun);
        self.waiting.borrow_mut().drain().for_each(|(_, waker)| waker.wake());
    }

    /// Whether it has begun, for some at least.
    pub fn is_begun(&self) -> bool {
        self.begun.get() != Begun::No
    }

    /// Waits until it begins for this one.
    pub async fn begun(&self) {
        let place = Place(self, self.given.get());
        self.given.set(place.1 + 1);
        let Begun::Over(start, span) = self.changed(&place, Begun::No).await else { return };
        let mut moment = pin!(sleep_until(start + share(place.1, span)));
        let mut changed = pin!(self.changed(&place, Begun::Over(start, span)));
        poll_fn(|cx| {
            let is_due =
                moment.as_mut().poll(cx).is_ready() || changed.as_mut().poll(cx).is_ready();
            if is_due { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until things are not as they were.
    async fn changed(&self, place: &Place<'_>, from: Begun) -> Begun {
        poll_fn(|cx| {
            if self.begun.get() != from {
                return Poll::Ready(self.begun.get());
            }
            self.waiting.borrow_mut().insert(place.1, cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// How much of the span the `place`-th waits: multiples of the golden ratio, of which any number in a row are spread evenly.
fn share(place: u64, span: Duration) -> Duration {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15; // 2^64 / 1.618...
    let part = place.wrapping_mul(GOLDEN) >> 32;
    let nanos = (span.as_nanos() * u128::from(part)) >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

struct Place<'a>(&'a Drain, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_connections_in_a_row_are_spread_over_the_span() {
        let span = Duration::from_secs(20);
        for (first, count) in [(0, 100), (12_345, 100), (1 << 40, 1000), (7, 10)] {
            let mut tenths = [0; 10];
            for place in first..first + count {
                let share = share(place, span);
                assert!(share < span);
                tenths[(share.as_millis() / 2000) as usize] += 1;
            }
            let least = count / 10 / 2;
            assert!(tenths.iter().all(|n| *n >= least && *n <= 2 * least + 2), "{tenths:?}");
        }
        assert_eq!(share(5, Duration::ZERO), Duration::ZERO);
        assert_eq!(share(0, span), Duration::ZERO);
    }
}
