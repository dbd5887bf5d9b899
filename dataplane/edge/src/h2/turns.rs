//! Whose turn it is to write, among the streams of one connection (RFC 9218): by urgency; of the same urgency one after the
//! other in the order of their requests, those that said `i` by turns.
//!
//! Only so many bytes wait for the socket at once, so that what comes later and is more urgent need not wait for much. Must stay
//! true: a stream that cannot write (its window is full) does not wait here, and so holds up nobody; one that is over does not
//! wait for room that nobody makes any more; when all is written, there is room, whatever was counted wrongly before (frames
//! of a stream that was reset are never written).

use crate::urgency::Urgency;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Bytes of bodies given to the machine and not yet written.
const UNDER_WAY_BYTES: usize = 128 << 10;

/// Sorts as the streams shall write.
type Place = (u8, bool, u64, u32);

/// The streams of one connection that want to write.
#[derive(Default)]
pub struct Turns {
    under_way: Cell<usize>,
    waiting: RefCell<BTreeMap<Place, Waker>>,
    turns: Cell<u64>,
}

impl Turns {
    /// Waits until stream `id`, whose urgency may change meanwhile, may write `bytes` more, or is over.
    pub async fn wait(
        &self,
        urgency: impl Fn() -> Urgency,
        id: u32,
        bytes: usize,
        is_over: impl Fn() -> bool,
    ) {
        // Those that go by turns stand at the end each time.
        self.turns.set(self.turns.get() + 1);
        let place = || {
            let urgency = urgency();
            let turn = if urgency.incremental { self.turns.get() } else { u64::from(id) };
            (urgency.level, urgency.incremental, turn, id)
        };
        let mut left = Left(self, place());
        let may_write = poll_fn(|cx| {
            if is_over() {
                return Poll::Ready(false);
            }
            let mut waiting = self.waiting.borrow_mut();
            let place = match place() {
                now if now.0 == left.1.0 && now.1 == left.1.1 => left.1,
                moved => {
                    waiting.remove(&left.1);
                    moved
                }
            };
            left.1 = place;
            let first = waiting.keys().next().is_none_or(|first| *first >= place);
            if first && self.under_way.get() < UNDER_WAY_BYTES {
                return Poll::Ready(true);
            }
            waiting.insert(place, cx.waker().clone());
            Poll::Pending
        })
        .await;
        if may_write {
            self.under_way.set(self.under_way.get() + bytes);
        }
    }

    /// The urgency of a stream has changed, or it is over.
    pub fn changed(&self, id: u32) {
        let waiting = self.waiting.borrow();
        if let Some((_, waker)) = waiting.iter().find(|((.., waits), _)| *waits == id) {
            waker.wake_by_ref();
        }
    }

    /// So many bytes were written.
    pub fn written(&self, bytes: usize) {
        self.under_way.set(self.under_way.get().saturating_sub(bytes));
        self.wake();
    }

    /// Nothing waits to be written.
    pub fn all_is_written(&self) {
        self.under_way.set(0);
        self.wake();
    }

    /// All streams are over.
    pub fn end(&self) {
        self.waiting.borrow().values().for_each(Waker::wake_by_ref);
    }

    fn wake(&self) {
        if self.under_way.get() < UNDER_WAY_BYTES
            && let Some(first) = self.waiting.borrow().values().next()
        {
            first.wake_by_ref();
        }
    }
}

/// Who has written, or given up, does not wait any more, and the next one may.
struct Left<'a>(&'a Turns, Place);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().remove(&self.1);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    #[test]
    fn streams_write_by_urgency_then_in_order_or_by_turns() {
        let turns = Turns::default();
        let mut cx = Context::from_waker(Waker::noop());
        turns.under_way.set(UNDER_WAY_BYTES);
        let wait = |text: &'static str, id| {
            Box::pin(turns.wait(|| Urgency::parse(text.as_bytes()), id, 1, || false))
        };
        let mut waiting = vec![
            (9, wait("u=5", 9)),
            (3, wait("", 3)),
            (1, wait("", 1)),
            (7, wait("i", 7)),
            (5, wait("i", 5)),
            (11, wait("u=1", 11)),
        ];
        for (_, stream) in &mut waiting {
            assert!(stream.as_mut().poll(&mut cx).is_pending());
        }
        let mut order = Vec::new();
        while !waiting.is_empty() {
            // Room for one.
            turns.under_way.set(UNDER_WAY_BYTES - 1);
            waiting.retain_mut(|(id, stream)| {
                let ready = stream.as_mut().poll(&mut cx).is_ready();
                if ready {
                    order.push(*id);
                }
                !ready
            });
        }
        assert_eq!(order, [11, 1, 3, 7, 5, 9]);
    }

    #[test]
    fn who_becomes_more_urgent_comes_sooner() {
        let turns = Turns::default();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        turns.under_way.set(UNDER_WAY_BYTES);
        let urgency = Cell::new(Urgency::parse(b"u=6"));
        let mut late = pin!(turns.wait(|| urgency.get(), 1, 1, || false));
        let mut first = pin!(turns.wait(|| Urgency::parse(b""), 3, 1, || false));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        assert!(first.as_mut().poll(&mut cx).is_pending());
        urgency.set(Urgency::parse(b"u=1"));
        turns.changed(1);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(late.as_mut().poll(&mut cx).is_pending(), "there is no room yet");
        assert_eq!(turns.waiting.borrow().len(), 2, "its old place is nobody's");
        turns.under_way.set(UNDER_WAY_BYTES - 1);
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(late.as_mut().poll(&mut cx).is_ready());
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let turns = Turns::default();
        let mut cx = Context::from_waker(Waker::noop());
        turns.under_way.set(UNDER_WAY_BYTES);
        {
            let mut first = pin!(turns.wait(|| Urgency::parse(b"u=0"), 1, 1, || false));
            assert!(first.as_mut().poll(&mut cx).is_pending());
        }
        let mut second = pin!(turns.wait(|| Urgency::parse(b""), 3, 1, || false));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        turns.written(1);
        assert!(second.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn who_is_over_does_not_wait_for_room() {
        let turns = Turns::default();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        turns.under_way.set(UNDER_WAY_BYTES);
        let over = Cell::new(0);
        let mut waiting: Vec<_> = [1, 3, 5, 7]
            .map(|id| {
                let (turns, over) = (&turns, &over);
                let is_over = move || over.get() >= id;
                Box::pin(turns.wait(|| Urgency::parse(b""), id, UNDER_WAY_BYTES, is_over))
            })
            .into();
        assert!(waiting.iter_mut().all(|stream| stream.as_mut().poll(&mut cx).is_pending()));
        over.set(1);
        turns.changed(1);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(waiting.remove(0).as_mut().poll(&mut cx).is_ready());
        // The connection has ended, and nothing of it is written.
        over.set(7);
        turns.end();
        assert_eq!(woken.0.load(Ordering::Relaxed), 4, "each of them");
        assert!(waiting.iter_mut().all(|stream| stream.as_mut().poll(&mut cx).is_ready()));
        assert_eq!(turns.under_way.get(), UNDER_WAY_BYTES, "they write nothing");
    }
}
