//! The moment at which a core begins to stop, for connections that have something to say then.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Of one core.
#[derive(Default)]
pub struct Drain {
    begun: Cell<bool>,
    waiting: RefCell<HashMap<u64, Waker>>,
    given: Cell<u64>,
}

impl Drain {
    /// It begins.
    pub fn begin(&self) {
        self.begun.set(true);
        self.waiting.borrow_mut().drain().for_each(|(_, waker)| waker.wake());
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        self.begun.get()
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        let place = Place(self, self.given.get());
        self.given.set(place.1 + 1);
        poll_fn(|cx| {
            if self.begun.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().insert(place.1, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Place<'a>(&'a Drain, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().remove(&self.1);
    }
}
