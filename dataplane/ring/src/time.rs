//! Timers: a heap per runtime; the ring waits no longer than to the next one.

use crate::executor::{current, try_current};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    wakers: slab::Slab<(u64, Waker)>,
    serial: u64,
}

impl Timers {
    fn insert(&mut self, at: Instant, waker: Waker) -> (usize, u64) {
        self.serial += 1;
        let key = self.wakers.insert((self.serial, waker));
        self.heap.push(Reverse((at, key, self.serial)));
        (key, self.serial)
    }

    fn is_live(&self, key: usize, serial: u64) -> bool {
        self.wakers.get(key).is_some_and(|(s, _)| *s == serial)
    }

    fn remove(&mut self, key: usize, serial: u64) {
        if self.is_live(key, serial) {
            self.wakers.remove(key);
        }
        // Dead heap entries are dropped as they come due, or all at once when they outnumber the live ones.
        if self.heap.len() > 64 && self.heap.len() > 4 * self.wakers.len() {
            let wakers = &self.wakers;
            self.heap.retain(|Reverse((_, key, serial))| {
                wakers.get(*key).is_some_and(|(s, _)| s == serial)
            });
        }
    }

    /// Time until the first timer; `None` when there is none.
    pub(crate) fn next_wait(&mut self, now: Instant) -> Option<Duration> {
        while let Some(Reverse((at, key, serial))) = self.heap.peek().copied() {
            if self.is_live(key, serial) {
                // At least a microsecond, since zero means "do not wait" to the ring.
                return Some(at.saturating_duration_since(now).max(Duration::from_micros(1)));
            }
            self.heap.pop();
        }
        None
    }

    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(Reverse((at, key, serial))) = self.heap.peek().copied() {
            if at > now {
                break;
            }
            self.heap.pop();
            if self.is_live(key, serial) {
                due.push(self.wakers.remove(key).1);
            }
        }
        due
    }
}

/// The monotonic clock of this thread's runtime.
pub fn now() -> Instant {
    #[cfg(feature = "sim")]
    if let Some(world) = crate::sim::current() {
        return world.now();
    }
    Instant::now()
}

/// When this thread's runtime last looked at the clock: at the start of its turn, so that what comes after one another in a turn
/// needs one look. For what may be wrong by a turn: deadlines, and since when a request waits.
pub fn turn_now() -> Instant {
    #[cfg(feature = "sim")]
    if let Some(world) = crate::sim::current() {
        return world.now();
    }
    current().turn.get()
}

/// What the wall clock shows at `now`, a moment of late: it is looked at ten times a second.
pub fn wall_at(now: Instant) -> SystemTime {
    #[cfg(feature = "sim")]
    if let Some(world) = crate::sim::current() {
        return world.system_time();
    }
    thread_local! {
        static LOOKED: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }
    let known = LOOKED.get().filter(|(at, _)| now.saturating_duration_since(*at) < WALL_LOOK);
    let (at, wall) = known.unwrap_or_else(|| {
        let looked = (Instant::now(), SystemTime::now());
        LOOKED.set(Some(looked));
        looked
    });
    match now.checked_duration_since(at) {
        Some(since) => wall + since,
        None => wall - at.saturating_duration_since(now),
    }
}

/// For so long the wall clock is taken to go on like the other one.
const WALL_LOOK: Duration = Duration::from_millis(100);

/// The wall clock.
pub fn wall_now() -> SystemTime {
    #[cfg(feature = "sim")]
    if let Some(world) = crate::sim::current() {
        return world.system_time();
    }
    SystemTime::now()
}

/// When this process was asked for it first, by both clocks.
pub fn started() -> (Instant, SystemTime) {
    #[cfg(feature = "sim")]
    if let Some(world) = crate::sim::current() {
        return world.started();
    }
    static STARTED: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    *STARTED.get_or_init(|| (Instant::now(), SystemTime::now()))
}

/// Waits until `at`.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep {
        at,
        key: None,
        #[cfg(feature = "sim")]
        simulated: None,
    }
}

/// Waits for `span`.
pub fn sleep(span: Duration) -> Sleep {
    sleep_until(now() + span)
}

/// A timer under way.
pub struct Sleep {
    at: Instant,
    key: Option<(usize, u64)>,
    #[cfg(feature = "sim")]
    simulated: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        #[cfg(feature = "sim")]
        if let Some(world) = crate::sim::current() {
            return world.poll_sleep(self.at, &mut self.simulated, cx);
        }
        let local = current();
        // The timers that are due were found by this clock.
        if local.turn.get() >= self.at {
            return Poll::Ready(());
        }
        let mut timers = local.timers.borrow_mut();
        match self.key.filter(|(key, serial)| timers.is_live(*key, *serial)) {
            Some((key, _)) => timers.wakers[key].1.clone_from(cx.waker()),
            None => self.key = Some(timers.insert(self.at, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        #[cfg(feature = "sim")]
        if let (Some(serial), Some(world)) = (self.simulated, crate::sim::current()) {
            world.forget_sleep(self.at, serial);
        }
        if let Some((key, serial)) = self.key
            && let Some(local) = try_current()
        {
            local.timers.borrow_mut().remove(key, serial);
        }
    }
}

/// The time given to [`timeout`] ran out.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Runs `future` for at most `span`, from this turn on; when the time runs out, the future is dropped.
pub async fn timeout<F: Future>(span: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let mut sleep = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        // What is ready at once needs no timer.
        let sleep = sleep.get_or_insert_with(|| sleep_until(turn_now() + span));
        Pin::new(sleep).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
