//! A fill: one fetch from the next hop, under way, that many clients on any core may read from its first byte.
//!
//! ```text
//! Waiting --head is storable--> Ready(object) --bytes--> done | failed
//!    |---head is not storable--> Refused   (waiters go on alone, all at once)
//!    `---no next hop answered--> Failed    (waiters take stale, or answer the error)
//! ```
//! Readers are told by their wakers, never by polling. Must stay true: pieces of the block in the making are
//! contiguous; a finished block has been handed to the RAM tier before it leaves the window; a fill that fails
//! never looks finished.
//!
//! The state is behind a lock that is held for a few lines at a time and never across an await
//! (docs/decisions/0004-shared-fills.md says why not an owner core).

use crate::object::Object;
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use tidegate_types::limits::BLOCK_BYTES;

/// Finished blocks that a fill keeps beside the RAM tier, for readers close behind it (16 MiB).
const WINDOW_BLOCKS: usize = 32;
/// As many are kept when all fills together have used up what [`Windows`] allow.
const WINDOW_BLOCKS_MIN: usize = 2;

/// Memory of the windows of all fills of a process.
#[derive(Debug)]
pub struct Windows {
    bytes: AtomicU64,
    making: AtomicU64,
    bytes_max: u64,
    fills: AtomicUsize,
}

/// Fills under way, or still read from, in one process: beyond it, requests that need one are turned away.
pub const FILLS_MAX: usize = 4096;

impl Windows {
    /// Up to `bytes_max` are shared by the fills; each may have [`WINDOW_BLOCKS_MIN`] besides.
    pub fn new(bytes_max: u64) -> Windows {
        Windows {
            bytes: AtomicU64::new(0),
            making: AtomicU64::new(0),
            bytes_max,
            fills: AtomicUsize::new(0),
        }
    }

    /// Bytes of blocks in the making now.
    pub fn making(&self) -> u64 {
        self.making.load(Ordering::Relaxed)
    }

    /// Bytes in the windows now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Fills under way, or still read from.
    pub fn fills(&self) -> usize {
        self.fills.load(Ordering::Relaxed)
    }

    /// Whether no fill more may begin.
    pub fn is_crowded(&self) -> bool {
        self.fills() >= FILLS_MAX
    }

    fn take(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn give(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    fn are_full(&self) -> bool {
        self.bytes() > self.bytes_max
    }
}

/// What became of the head.
#[derive(Debug, Clone)]
pub enum Head {
    Waiting,
    /// Readers may follow; `upstream_status` is the next hop's `Cache-Status`. `brings_body`: the
    /// bytes come by this fill; otherwise (revalidated) they are where the version's bytes have been.
    Ready {
        object: Arc<Object>,
        upstream_status: Option<Bytes>,
        fwd_status: u16,
        brings_body: bool,
    },
    /// The answer is for one client only.
    Refused,
    /// Nobody answered usefully; the status to give when nothing stale can be used.
    Failed {
        status: u16,
        detail: &'static str,
    },
}

/// What a reader finds at an offset.
#[derive(Debug)]
pub enum Progress {
    Bytes(Bytes),
    /// The offset lies before what is still here: look in the RAM tier and the store.
    Behind,
    /// All bytes of this fill lie before the offset.
    End,
    Failed,
}

#[derive(Debug)]
struct State {
    head: Head,
    /// Finished blocks: number and bytes.
    blocks: VecDeque<(u32, Bytes)>,
    /// The block in the making.
    pieces: Vec<(u64, Bytes)>,
    /// Bytes up to here have come (an offset in the object).
    watermark: u64,
    ended: Option<Result<(), ()>>,
    waiters: Vec<Waker>,
}

/// A fetch under way.
#[derive(Debug)]
pub struct Fill {
    /// Offset in the object of the first byte that this fill brings.
    pub start: u64,
    /// Offset behind the last one, when only a part is fetched.
    pub end: Option<u64>,
    /// Purges with a greater number came after its question.
    pub number: u64,
    /// It was purged while it ran: nothing of it is kept.
    purged: AtomicBool,
    windows: Arc<Windows>,
    state: Mutex<State>,
}

impl Drop for Fill {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let blocks = state.blocks.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let pieces = state.pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        self.windows.give(blocks);
        self.windows.making.fetch_sub(pieces as u64, Ordering::Relaxed);
        self.windows.fills.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fill {
    /// A fill of the whole object.
    pub fn whole(number: u64, windows: Arc<Windows>) -> Fill {
        Fill::over(0, None, number, Head::Waiting, windows)
    }

    /// A fill of the bytes from `start` (a block's first) to `end` of `object`.
    pub fn part(object: Arc<Object>, start: u64, end: u64, windows: Arc<Windows>) -> Fill {
        debug_assert!(start.is_multiple_of(BLOCK_BYTES as u64));
        Fill::over(
            start,
            Some(end),
            object.version(),
            Head::Ready { object, upstream_status: None, fwd_status: 206, brings_body: true },
            windows,
        )
    }

    fn over(start: u64, end: Option<u64>, number: u64, head: Head, windows: Arc<Windows>) -> Fill {
        windows.fills.fetch_add(1, Ordering::Relaxed);
        Fill {
            start,
            end,
            number,
            purged: AtomicBool::new(false),
            windows,
            state: Mutex::new(State {
                head,
                blocks: VecDeque::new(),
                pieces: Vec::new(),
                watermark: start,
                ended: None,
                waiters: Vec::new(),
            }),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (value, waiters) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (change(&mut state), std::mem::take(&mut state.waiters))
        };
        // Outside of the lock: waking may cross to other cores.
        for waiter in waiters {
            waiter.wake();
        }
        value
    }

    /// The head's fate is known.
    pub fn set_head(&self, head: Head) {
        self.change(|state| {
            if matches!(head, Head::Refused | Head::Failed { .. }) {
                state.ended = Some(Err(()));
            }
            state.head = head;
        });
    }

    /// Whether this fill brings bytes of that version of the object, and of no other.
    pub fn is_of(&self, version: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&state.head, Head::Ready { object, brings_body: true, .. } if object.version() == version)
    }

    /// A purge reached it: its readers of before go on, its head is not kept.
    pub fn set_purged(&self) {
        self.purged.store(true, Ordering::SeqCst);
    }

    /// Whether a purge reached it.
    pub fn is_purged(&self) -> bool {
        self.purged.load(Ordering::SeqCst)
    }

    /// Waits until the head's fate is known.
    pub async fn head(&self) -> Head {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &state.head {
                Head::Waiting => {
                    state.waiters.push(cx.waker().clone());
                    Poll::Pending
                }
                head => Poll::Ready(head.clone()),
            }
        })
        .await
    }

    /// Bytes up to here have come.
    pub fn watermark(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).watermark
    }

    /// More bytes; they must not cross the end of the block in the making. Gives the block's pieces when that
    /// block has become full.
    pub fn push(&self, bytes: Bytes) -> Option<(u32, Vec<Bytes>)> {
        self.windows.making.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.change(|state| {
            let at = state.watermark;
            state.watermark += bytes.len() as u64;
            debug_assert!(at / BLOCK_BYTES as u64 == (state.watermark - 1) / BLOCK_BYTES as u64);
            state.pieces.push((at, bytes));
            state
                .watermark
                .is_multiple_of(BLOCK_BYTES as u64)
                .then(|| state.block_in_the_making())?
        })
    }

    /// The pieces of a last block that is not full.
    pub fn rest(&self) -> Option<(u32, Vec<Bytes>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).block_in_the_making()
    }

    /// The block is in one piece now (and in the RAM tier).
    pub fn settle_block(&self, block: u32, bytes: Bytes) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = (u64::from(block) + 1) * BLOCK_BYTES as u64;
        let mut settled = 0;
        state.pieces.retain(|(at, bytes)| {
            settled += if *at < end { bytes.len() } else { 0 };
            *at >= end
        });
        self.windows.making.fetch_sub(settled as u64, Ordering::Relaxed);
        self.windows.take(bytes.len());
        state.blocks.push_back((block, bytes));
        let max = if self.windows.are_full() { WINDOW_BLOCKS_MIN } else { WINDOW_BLOCKS };
        while state.blocks.len() > max {
            let oldest = state.blocks.pop_front();
            self.windows.give(oldest.map_or(0, |(_, bytes)| bytes.len()));
        }
    }

    /// No more bytes come: all are there, or it failed. Said twice, the first counts.
    pub fn finish(&self, outcome: Result<(), ()>) {
        self.change(|state| {
            state.ended.get_or_insert(outcome);
        });
    }

    /// Waits until no more bytes come.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.ended.is_some() {
                return Poll::Ready(());
            }
            state.waiters.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whoever brought it is gone: what has not ended well has failed, and nobody waits on.
    pub fn abandon(&self) {
        self.change(|state| {
            if matches!(state.head, Head::Waiting) {
                state.head = Head::Failed { status: 502, detail: "next-hop-failed" };
            }
            state.ended.get_or_insert(Err(()));
        });
    }

    /// Whether it brings everything.
    pub fn is_whole(&self) -> bool {
        self.start == 0 && self.end.is_none()
    }

    /// Whether bytes of `offset` come, or came, by this fill.
    pub fn covers(&self, offset: u64) -> bool {
        offset >= self.start && self.end.is_none_or(|end| offset < end)
    }

    /// Whether the bytes at `offset` came and are no longer held by this fill.
    pub fn has_passed(&self, offset: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        offset < state.watermark && state.find(offset).is_none()
    }

    /// Bytes at `offset`, at most to the end of what has come, waiting for them when they are still to come.
    pub async fn read(&self, offset: u64) -> Progress {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if offset < state.watermark {
                return Poll::Ready(state.find(offset).map_or(Progress::Behind, Progress::Bytes));
            }
            match state.ended {
                Some(Ok(())) => Poll::Ready(Progress::End),
                Some(Err(())) => Poll::Ready(Progress::Failed),
                None => {
                    state.waiters.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl State {
    fn block_in_the_making(&self) -> Option<(u32, Vec<Bytes>)> {
        let first = self.pieces.first()?.0;
        let block = (first / BLOCK_BYTES as u64) as u32;
        Some((block, self.pieces.iter().map(|(_, bytes)| bytes.clone()).collect()))
    }

    fn find(&self, offset: u64) -> Option<Bytes> {
        let index = self.pieces.partition_point(|(at, _)| *at <= offset);
        if let Some((at, bytes)) = index.checked_sub(1).map(|i| &self.pieces[i])
            && offset < at + bytes.len() as u64
        {
            return Some(bytes.slice((offset - at) as usize..));
        }
        let block = (offset / BLOCK_BYTES as u64) as u32;
        let within = (offset % BLOCK_BYTES as u64) as usize;
        let (_, bytes) = self.blocks.iter().find(|(number, _)| *number == block)?;
        (within < bytes.len()).then(|| bytes.slice(within..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    fn windows() -> Arc<Windows> {
        Arc::new(Windows::new(1 << 30))
    }

    fn poll<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn readers_see_bytes_as_they_come_and_the_end_only_when_it_came() {
        let fill = Fill::whole(1, windows());
        assert!(poll(fill.read(0)).is_pending());
        assert!(fill.push(Bytes::from_static(b"abc")).is_none());
        assert!(fill.push(Bytes::from_static(b"defg")).is_none());
        let read = |at| match poll(fill.read(at)) {
            Poll::Ready(Progress::Bytes(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(&read(0)[..], b"abc");
        assert_eq!(&read(4)[..], b"efg");
        assert!(poll(fill.read(7)).is_pending());
        fill.finish(Ok(()));
        assert!(matches!(poll(fill.read(7)), Poll::Ready(Progress::End)));
        assert_eq!(&read(6)[..], b"g");
    }

    #[test]
    fn a_failed_fill_never_ends() {
        let fill = Fill::whole(1, windows());
        fill.push(Bytes::from_static(b"abc"));
        fill.finish(Err(()));
        assert!(matches!(poll(fill.read(3)), Poll::Ready(Progress::Failed)));
        assert!(matches!(poll(fill.read(0)), Poll::Ready(Progress::Bytes(_))));
    }

    #[test]
    fn an_abandoned_fill_keeps_nobody_waiting() {
        let fill = Fill::whole(1, windows());
        assert!(poll(fill.head()).is_pending());
        fill.abandon();
        assert!(matches!(poll(fill.head()), Poll::Ready(Head::Failed { status: 502, .. })));
        assert!(matches!(poll(fill.read(0)), Poll::Ready(Progress::Failed)));
        let whole = Fill::whole(1, windows());
        whole.finish(Ok(()));
        whole.abandon();
        assert!(matches!(poll(whole.read(0)), Poll::Ready(Progress::End)));
    }

    #[test]
    fn full_blocks_leave_the_window_oldest_first() {
        let fill = Fill::whole(1, windows());
        for block in 0..(WINDOW_BLOCKS as u32 + 3) {
            let (number, pieces) = fill.push(Bytes::from(vec![block as u8; BLOCK_BYTES])).unwrap();
            assert_eq!((number, pieces.len()), (block, 1));
            fill.settle_block(block, pieces.into_iter().next().unwrap());
        }
        assert!(matches!(poll(fill.read(0)), Poll::Ready(Progress::Behind)));
        let next = (WINDOW_BLOCKS as u64 + 3) * BLOCK_BYTES as u64;
        assert!(fill.has_passed(0) && !fill.has_passed(next - 1) && !fill.has_passed(next));
        let last = (WINDOW_BLOCKS as u64 + 2) * BLOCK_BYTES as u64 + 5;
        match poll(fill.read(last)) {
            Poll::Ready(Progress::Bytes(bytes)) => assert_eq!(bytes.len(), BLOCK_BYTES - 5),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn windows_shrink_when_all_together_are_large_and_are_given_back() {
        let windows = Arc::new(Windows::new(4 * BLOCK_BYTES as u64));
        let fill = |blocks: u32| {
            let fill = Fill::whole(1, windows.clone());
            for block in 0..blocks {
                let (_, pieces) = fill.push(Bytes::from(vec![1; BLOCK_BYTES])).unwrap();
                fill.settle_block(block, pieces.into_iter().next().unwrap());
            }
            fill
        };
        let first = fill(4);
        assert_eq!(windows.bytes(), 4 * BLOCK_BYTES as u64);
        let second = fill(20);
        assert_eq!(windows.bytes(), 6 * BLOCK_BYTES as u64);
        assert!(matches!(
            poll(second.read(18 * BLOCK_BYTES as u64)),
            Poll::Ready(Progress::Bytes(_))
        ));
        assert!(matches!(
            poll(second.read(17 * BLOCK_BYTES as u64)),
            Poll::Ready(Progress::Behind)
        ));
        drop((first, second));
        assert_eq!(windows.bytes(), 0);
    }
}
