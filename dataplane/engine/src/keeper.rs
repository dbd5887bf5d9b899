//! The store's keeper: the one task that writes to a device, on one core; all cores send it what to keep.
//!
//! Must stay true: what waits to be written is bounded in bytes; beyond that, blocks are not admitted (counted) and
//! no response waits for the disk. What is buffered in the store is written out within [`FLUSH_SPAN`], so that a
//! killed process loses little of its warmth and none of its correctness.

use crate::device::RingDevice;
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use tidegate_ring::{Elapsed, timeout};
use tidegate_store::{ExpiryClass, ExtentKey, Store, Stream};
use tidegate_telemetry::Counters;

/// Bytes that may wait for the writer.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Longest time that appended extents stay unwritten.
const FLUSH_SPAN: Duration = Duration::from_millis(250);

/// One extent to keep.
pub struct Keep {
    pub stream: Stream,
    pub key: ExtentKey,
    pub payload: Bytes,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Keep>,
    bytes: usize,
    /// Taken by the keeper, not yet written out.
    buffered: usize,
    closed: bool,
    done: bool,
    keeper: Option<Waker>,
}

/// What waits to be written. Shared by all cores.
#[derive(Default)]
pub struct KeepQueue {
    inner: Mutex<Inner>,
}

impl KeepQueue {
    /// Hands an extent to the keeper; `false`: too much is waiting, it is not kept.
    pub fn push(&self, keep: Keep) -> bool {
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.bytes + keep.payload.len() > QUEUE_BYTES_MAX {
                return false;
            }
            inner.bytes += keep.payload.len();
            inner.waiting.push_back(keep);
            inner.keeper.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Extents that a crash would lose now.
    pub fn unwritten(&self) -> usize {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.waiting.len() + inner.buffered
    }

    /// All that the keeper has taken is written out.
    fn written(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).buffered = 0;
    }

    /// Nothing more comes: what is there is written out, and the keeper ends.
    pub fn close(&self) {
        let keeper = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.closed = true;
            inner.keeper.take()
        };
        keeper.into_iter().for_each(Waker::wake);
    }

    /// Whether the keeper has ended after [`KeepQueue::close`].
    pub fn is_done(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).done
    }

    fn finished(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).done = true;
    }

    async fn next(&self) -> Option<Keep> {
        poll_fn(|cx| {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            match inner.waiting.pop_front() {
                Some(keep) => {
                    inner.bytes -= keep.payload.len();
                    inner.buffered += 1;
                    Poll::Ready(Some(keep))
                }
                None if inner.closed => Poll::Ready(None),
                None => {
                    inner.keeper = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Writes what comes, until the queue is closed and empty.
pub async fn run(mut store: Store<RingDevice>, queue: Arc<KeepQueue>, counters: Arc<Counters>) {
    // The oldest unwritten extent waits no longer than to this moment.
    let mut flush_at: Option<Instant> = None;
    loop {
        let next = match flush_at {
            // However much comes.
            Some(at) if at <= Instant::now() => Err(Elapsed),
            Some(at) => timeout(at.saturating_duration_since(Instant::now()), queue.next()).await,
            None => Ok(queue.next().await),
        };
        match next {
            Ok(Some(keep)) => {
                // A refused append costs a later fill, never an answer; the store counts it.
                let _refused = store
                    .append(keep.stream, keep.key, &[&keep.payload[..]], ExpiryClass::default())
                    .await;
                flush_at.get_or_insert_with(|| Instant::now() + FLUSH_SPAN);
            }
            Err(_) => {
                let _counted = store.flush_pending().await;
                queue.written();
                flush_at = None;
            }
            Ok(None) => {
                let _counted = store.flush_pending().await;
                queue.written();
                queue.finished();
                return;
            }
        }
        let totals = store.counters();
        counters.store_written_bytes_total.store(totals.bytes_written, Ordering::Relaxed);
        counters.store_write_errors_total.store(totals.write_errors, Ordering::Relaxed);
    }
}
