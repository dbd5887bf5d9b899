//! What waits for the keeper of a device: put in by all cores, taken out by one task.
//!
//! Must stay true: what waits is bounded in bytes, but for orders that somebody waits for; the keeper is woken by whatever
//! changes what it has to do; nothing but invalidations comes in while another process writes to the device.

use crate::object::Object;
use crate::purge::Receipt;
use crate::table::Table;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use tidegate_cache::purge::Purge;
use tidegate_store::{ExtentKey, Stream};

/// Bytes that may wait for the writers of all devices.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Of one device, however many there are (planned for in `tidegate_types::memory`).
const DEVICE_BYTES_MIN: usize = 4 << 20;

/// One extent to keep.
#[derive(Clone)]
pub struct Keep {
    pub stream: Stream,
    pub key: ExtentKey,
    pub payload: Bytes,
    /// Whose it is. It may be purged before its head is written, or be left out of the store after all.
    pub object: Option<Arc<Object>>,
    /// It says that what lies here of its key is not valid any more: it is never left out, and somebody waits for it.
    pub invalidation: Option<Arc<Receipt>>,
}

/// Extents that take up room for nothing.
pub struct Remove {
    pub key: u128,
    pub version: u64,
    /// Blocks from the first on.
    pub blocks: u32,
}

/// Removals that may wait; more are left to the end of their store segment.
const REMOVALS_MAX: usize = 1024;

pub(super) enum Work {
    Keep(Keep),
    Remove(Remove),
    Purges(Vec<(Purge, Arc<Receipt>)>),
    /// A device that could not be used is to be tried again.
    Retry,
    Lend,
}

/// Who may write to the device.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Hand {
    #[default]
    Ours,
    /// What is there is still to be written out.
    Asked,
    Lent,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Keep>,
    removals: VecDeque<Remove>,
    /// Before all others: somebody waits for them.
    purges: Vec<(Purge, Arc<Receipt>)>,
    bytes: usize,
    /// Taken by the keeper, not yet written out.
    buffered: usize,
    retry: bool,
    /// What the store's index does not know yet, though it was given to be kept: readers find it here. Behind each its
    /// number, since the same block may be given twice.
    unseen: HashMap<ExtentKey, (u64, Bytes)>,
    given: u64,
    /// Numbers up to this one are written.
    taken: u64,
    hand: Hand,
    closed: bool,
    done: bool,
    keeper: Option<Waker>,
}

/// What waits to be written. Shared by all cores.
pub struct KeepQueue {
    inner: Mutex<Inner>,
    /// How many devices share what may wait.
    devices: usize,
    /// Bytes of heads that wait: blocks lie in the arena, these do not.
    head_bytes: AtomicU64,
    /// What is in use now, also where only memory is asked.
    table: OnceLock<Arc<Table>>,
}

impl KeepQueue {
    /// The queue of one of `devices` devices.
    pub fn new(devices: usize) -> KeepQueue {
        KeepQueue {
            inner: Mutex::default(),
            devices: devices.max(1),
            head_bytes: AtomicU64::new(0),
            table: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the keeper after a change; `false`: there was none.
    fn change(&self, change: impl FnOnce(&mut Inner) -> bool) -> bool {
        let (changed, keeper) = {
            let mut inner = self.lock();
            let changed = change(&mut inner);
            (changed, changed.then(|| inner.keeper.take()).flatten())
        };
        if let Some(keeper) = keeper {
            keeper.wake();
        }
        changed
    }

    /// This device's share of what all may hold.
    pub(super) fn share(&self, bytes_max: usize) -> usize {
        (bytes_max / self.devices).max(DEVICE_BYTES_MIN)
    }

    /// From now on the keeper knows what this table knows.
    pub fn know(&self, table: Arc<Table>) {
        let _once = self.table.set(table);
    }

    pub(super) fn table(&self) -> Option<&Arc<Table>> {
        self.table.get()
    }

    /// Hands an extent to the keeper; `false`: too much is waiting, it is not kept.
    pub fn push(&self, keep: Keep) -> bool {
        self.change(|inner| {
            // A few bytes each, for which there is room behind all others.
            let shares = if keep.invalidation.is_some() { 2 } else { 1 };
            let is_full = inner.bytes + keep.payload.len() > shares * self.share(QUEUE_BYTES_MAX);
            // An invalidation waits for the device to come back.
            let is_away = inner.hand != Hand::Ours && keep.invalidation.is_none();
            if is_full || is_away || inner.done {
                return false;
            }
            inner.bytes += keep.payload.len();
            inner.given += 1;
            let number = inner.given;
            if keep.key.is_head() {
                self.head_bytes.fetch_add(keep.payload.len() as u64, Ordering::Relaxed);
            } else {
                inner.unseen.insert(keep.key, (number, keep.payload.clone()));
            }
            inner.waiting.push_back(keep);
            true
        })
    }

    /// Bytes of heads that wait to be written.
    pub fn head_bytes(&self) -> u64 {
        self.head_bytes.load(Ordering::Relaxed)
    }

    /// A block that was given to be kept and is not found in the store yet.
    pub fn find(&self, key: &ExtentKey) -> Option<Bytes> {
        let inner = self.lock();
        inner.unseen.get(key).map(|(_, bytes)| bytes.clone())
    }

    /// Hands a purge to the keeper, who tells `receipt` when it is on disk.
    pub fn push_purge(&self, purge: Purge, receipt: Arc<Receipt>) {
        let mut refused = None;
        self.change(|inner| {
            refused = match inner.hand {
                _ if inner.done => Some("the store is closed; this process is stopping"),
                Hand::Ours => None,
                Hand::Asked | Hand::Lent => Some("this process is being replaced by another"),
            };
            if refused.is_none() {
                inner.purges.push((purge, receipt.clone()));
            }
            refused.is_none()
        });
        if let Some(why) = refused {
            receipt.give(u64::MAX, Err(why.to_owned()));
        }
    }

    /// The device is to be tried again, if it could not be used.
    pub fn push_retry(&self) {
        self.change(|inner| {
            inner.retry = true;
            true
        });
    }

    /// Extents that need not be there any more.
    pub fn push_remove(&self, remove: Remove) {
        self.change(|inner| {
            let is_taken = inner.removals.len() < REMOVALS_MAX && inner.hand == Hand::Ours;
            if is_taken {
                inner.removals.push_back(remove);
            }
            is_taken
        });
    }

    /// Extents that a crash would lose now.
    pub fn unwritten(&self) -> usize {
        let inner = self.lock();
        inner.waiting.len() + inner.buffered
    }

    /// All that the keeper has taken is written out.
    pub(super) fn written(&self) {
        let mut inner = self.lock();
        inner.buffered = 0;
        let taken = inner.taken;
        inner.unseen.retain(|_, (number, _)| *number > taken);
    }

    /// What was taken last is not kept after all.
    pub(super) fn left_out(&self) {
        let mut inner = self.lock();
        inner.buffered = inner.buffered.saturating_sub(1);
        let taken = inner.taken;
        inner.unseen.retain(|_, (number, _)| *number != taken);
    }

    /// Nothing more comes: what is there is written out, and the keeper ends.
    pub fn close(&self) {
        self.change(|inner| {
            inner.closed = true;
            true
        });
    }

    /// Has what is there written out, and nothing after that, so that another process may write to the device.
    /// Closed then, the device is the other's for good.
    pub fn lend(&self) {
        self.set_hand(Hand::Ours, Hand::Asked);
    }

    /// Whether this process writes to the device.
    pub fn is_ours(&self) -> bool {
        let inner = self.lock();
        inner.hand == Hand::Ours && !inner.done
    }

    /// Whether nothing is written any more after [`KeepQueue::lend`].
    pub fn is_lent(&self) -> bool {
        let inner = self.lock();
        inner.hand == Hand::Lent || inner.done
    }

    /// The other process has not written to the device and never will: this one goes on.
    pub fn take_back(&self) {
        self.set_hand(Hand::Asked, Hand::Ours);
        self.set_hand(Hand::Lent, Hand::Ours);
    }

    fn set_hand(&self, from: Hand, to: Hand) {
        self.change(|inner| {
            let is_so = inner.hand == from;
            if is_so {
                inner.hand = to;
            }
            is_so
        });
    }

    /// All is written out: waits until the device comes back. `false`: it does not.
    pub(super) async fn lent(&self) -> bool {
        self.set_hand(Hand::Asked, Hand::Lent);
        poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.hand == Hand::Ours {
                return Poll::Ready(true);
            }
            if inner.closed {
                return Poll::Ready(false);
            }
            inner.keeper = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Whether the keeper has ended after [`KeepQueue::close`].
    pub fn is_done(&self) -> bool {
        self.lock().done
    }

    /// Nobody writes what is in it any more.
    pub fn finished(&self) {
        self.lock().done = true;
    }

    pub(super) async fn next(&self) -> Option<Work> {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if !inner.purges.is_empty() {
                return Poll::Ready(Some(Work::Purges(std::mem::take(&mut inner.purges))));
            }
            if std::mem::take(&mut inner.retry) {
                return Poll::Ready(Some(Work::Retry));
            }
            if let Some(remove) = inner.removals.pop_front() {
                return Poll::Ready(Some(Work::Remove(remove)));
            }
            match inner.waiting.pop_front() {
                Some(keep) => {
                    inner.bytes -= keep.payload.len();
                    if keep.key.is_head() {
                        let bytes = keep.payload.len() as u64;
                        self.head_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    }
                    inner.buffered += 1;
                    inner.taken += 1;
                    Poll::Ready(Some(Work::Keep(keep)))
                }
                None if inner.hand == Hand::Asked => Poll::Ready(Some(Work::Lend)),
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
