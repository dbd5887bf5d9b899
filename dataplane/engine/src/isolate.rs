//! A broken invariant ends the request that met it, not the process with all its viewers.
//!
//! Must stay true: what the task held is dropped before anybody hears of it (its guards end fills and counts); tasks
//! that the process cannot do without (accept, keeper, control) are not isolated: their end is the process's end.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs `task`; when it panics, drops it and calls `on_panic`.
pub async fn isolated<F: Future<Output = ()>>(task: Pin<Box<F>>, on_panic: impl FnOnce()) {
    if (Isolated { task: Some(task) }).await.is_err() {
        on_panic();
    }
}

struct Isolated<F> {
    task: Option<Pin<Box<F>>>,
}

struct Panicked;

impl<F: Future<Output = ()>> Future for Isolated<F> {
    type Output = Result<(), Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = self.task.as_mut() else { return Poll::Ready(Err(Panicked)) };
        // Nothing of the task is used after a panic, and what it shares is behind locks that outlive one.
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                self.task = None;
                Poll::Ready(Ok(()))
            }
            Err(_) => {
                let task = self.task.take();
                let _dropped = catch_unwind(AssertUnwindSafe(|| drop(task)));
                Poll::Ready(Err(Panicked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::Waker;

    struct OnDrop(Rc<Cell<u32>>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    fn poll(future: impl Future<Output = ()>) -> Poll<()> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_panic_ends_the_task_alone_and_its_guards_run_first() {
        let dropped = Rc::new(Cell::new(0));
        let (guard, seen) = (OnDrop(dropped.clone()), dropped.clone());
        let task = async move {
            let _guard = guard;
            let nothing: Option<u32> = std::hint::black_box(None);
            assert!(nothing.is_some(), "a broken invariant");
        };
        let told = Cell::new(0);
        assert!(poll(isolated(Box::pin(task), || told.set(seen.get() + 10))).is_ready());
        assert_eq!((dropped.get(), told.get()), (1, 11));
    }

    #[test]
    fn tasks_that_end_or_wait_are_left_alone() {
        assert!(poll(isolated(Box::pin(async {}), || unreachable!("it did not panic"))).is_ready());
        let waits = isolated(Box::pin(std::future::pending()), || unreachable!("it did not panic"));
        assert!(poll(waits).is_pending());
    }
}
