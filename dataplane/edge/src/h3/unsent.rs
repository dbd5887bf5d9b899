//! What the streams of one connection wrote and is still to be sent, for those that look at what came of it before they write more
//! (over TCP the kernel does it: `TCP_NOTSENT_LOWAT`).
//!
//! QUIC takes a megabyte at once and does not tell how much of it has left, so that what leaves is counted here. Must stay true:
//! what is counted wrongly lets a stream write too early, and never keeps it waiting. Heads of packets and what is sent again
//! count as sent, and so does all that was written when a stream is reset, of which nothing more leaves.

use quinn_proto::StreamId;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use tidegate_engine::pace::LOOK_BYTES;

/// Of one connection.
#[derive(Default)]
pub struct Unsent {
    bytes: Cell<u64>,
    /// Streams in the order in which they shall write.
    waiting: RefCell<BTreeMap<(Reverse<i32>, StreamId), Waker>>,
}

impl Unsent {
    /// A stream wrote so many bytes.
    pub fn written(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// So many have left.
    pub fn sent(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        if self.is_little() {
            // The first to run takes what room there is.
            std::mem::take(&mut *self.waiting.borrow_mut()).into_values().for_each(Waker::wake);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Some of it will never leave.
    pub fn dropped(&self) {
        self.sent(u64::MAX);
    }

    /// Ready when there is little; a stream that waits has the rank that QUIC sorts by.
    pub fn poll_little(&self, cx: &Context<'_>, rank: i32, id: StreamId) -> Poll<()> {
        if self.is_little() {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().insert((Reverse(rank), id), cx.waker().clone());
        Poll::Pending
    }

    fn is_little(&self) -> bool {
        self.bytes.get() < LOOK_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn_proto::{Dir, Side};
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    struct Woken(u64, Arc<Mutex<Vec<u64>>>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn who_waits_goes_on_when_little_is_left_the_most_urgent_first() {
        const LOOK: u64 = LOOK_BYTES as u64;
        let (unsent, woken) = (Unsent::default(), Arc::new(Mutex::new(Vec::new())));
        let poll = |index, rank| {
            let waker = Waker::from(Arc::new(Woken(index, woken.clone())));
            let id = StreamId::new(Side::Client, Dir::Bi, index);
            unsent.poll_little(&Context::from_waker(&waker), rank, id).is_ready()
        };
        assert!(poll(0, 1), "nothing is written");
        unsent.written(3 * LOOK);
        assert_eq!([poll(1, 7), poll(2, 9), poll(3, 7), poll(2, 9)], [false; 4]);
        unsent.sent(2 * LOOK);
        assert!(woken.lock().unwrap().is_empty(), "one byte too many is left");
        unsent.sent(1);
        assert_eq!(*woken.lock().unwrap(), [2, 1, 3]);
        assert!(poll(2, 9));
        // Packets are more than what they carry; what is to come is not paid by that.
        unsent.sent(9 * LOOK);
        unsent.written(LOOK);
        assert!(!poll(2, 9));
        unsent.dropped();
        assert_eq!(*woken.lock().unwrap(), [2, 1, 3, 2]);
        assert!(poll(2, 9), "nobody waits for what will never leave");
    }
}
