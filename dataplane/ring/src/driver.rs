//! The ring of one thread and the table of operations under way on it.
//!
//! ```text
//! submit -> Waiting --completion--> Done -> taken by the future
//!              |  future dropped
//!              v
//!           Orphan (owns memory and descriptors) --terminal completion--> slot free
//! ```
//! Must stay true: a slot is freed only by the terminal completion or after it; what the kernel may touch (payload)
//! lives in the future while it exists and in the orphan after that; descriptors accepted or buffers picked for an
//! orphan are closed or given back.

use crate::buffer::{Arena, Buf};
use crate::probe::RingError;
use crate::receive_ring::ReceiveRing;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Completions with this name are wake-ups from other cores.
pub(crate) const WAKE: u64 = u64::MAX;
/// Completions with this name need no answer (cancellations, messages sent).
pub(crate) const IGNORED: u64 = u64::MAX - 1;

/// Sizes of one runtime.
#[derive(Clone)]
pub struct Options {
    /// Submission queue entries; the completion queue is eight times as long.
    pub entries: u32,
    /// Provided receive buffers (a power of two) and bytes of each.
    pub receive_buffers: u16,
    pub receive_buffer_bytes: usize,
    /// Memory for disk reads, registered with the ring when the host allows it.
    pub arena: Option<Arc<Arena>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            entries: 1024,
            receive_buffers: 256,
            receive_buffer_bytes: 16 * 1024,
            arena: None,
        }
    }
}

/// What happened at the limits of this runtime, since its start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Operations under way now.
    pub operations: usize,
    /// Tasks alive now.
    pub tasks: usize,
    /// The receive buffers were used up and a connection had to wait and read by itself.
    pub receive_buffers_exhausted: u64,
    /// The arena could not be registered (memlock limit): disk reads use plain buffers.
    pub arena_unregistered: u64,
    /// Completions that the kernel had to keep aside since the queue was full.
    pub completion_overflows: u64,
    /// `accept` failed for want of descriptors or memory.
    pub accepts_refused: u64,
}

enum Slot {
    Free {
        next: u32,
    },
    Waiting {
        waker: Option<Waker>,
    },
    Done {
        result: i32,
        flags: u32,
    },
    /// A repeating operation (accept): results so far, and whether the kernel has ended it.
    Stream {
        results: VecDeque<i32>,
        waker: Option<Waker>,
        ended: bool,
    },
    /// Nobody waits any more; what the kernel may still touch is held until the terminal completion.
    Orphan {
        _held: Option<Box<dyn Any>>,
        accepts: bool,
    },
}

struct Entry {
    generation: u32,
    slot: Slot,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    free: Option<u32>,
    used: usize,
}

impl Table {
    fn insert(&mut self, slot: Slot) -> u64 {
        self.used += 1;
        let index = match self.free {
            Some(index) => {
                let entry = &mut self.entries[index as usize];
                let Slot::Free { next } = entry.slot else {
                    unreachable!("the free list holds only free slots")
                };
                self.free = (next != u32::MAX).then_some(next);
                entry.slot = slot;
                index
            }
            None => {
                self.entries.push(Entry { generation: 0, slot });
                (self.entries.len() - 1) as u32
            }
        };
        (u64::from(self.entries[index as usize].generation) << 32) | u64::from(index)
    }

    fn get(&mut self, token: u64) -> Option<&mut Slot> {
        let entry = self.entries.get_mut(token as u32 as usize)?;
        let live =
            entry.generation == (token >> 32) as u32 && !matches!(entry.slot, Slot::Free { .. });
        live.then_some(&mut entry.slot)
    }

    fn remove(&mut self, token: u64) -> Option<Slot> {
        self.get(token)?;
        let index = token as u32;
        let entry = &mut self.entries[index as usize];
        let slot =
            std::mem::replace(&mut entry.slot, Slot::Free { next: self.free.unwrap_or(u32::MAX) });
        // The generation keeps below 2^31, so no token can equal WAKE or IGNORED.
        entry.generation = (entry.generation + 1) & 0x7fff_ffff;
        self.free = Some(index);
        self.used -= 1;
        Some(slot)
    }
}

/// Whether the kernel has nothing to do for this ring: no entries to take, no completions to bring.
fn is_idle(queue: &squeue::SubmissionQueue<'_>) -> bool {
    queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
}

/// The arena whose pieces, the first so many, are registered with the ring.
#[derive(Default)]
struct Registered {
    arena: Option<Arc<Arena>>,
    pieces: usize,
}

/// The ring and its operations. Fields drop in order: the ring before the memory it may write to.
pub(crate) struct Driver {
    ring: RefCell<IoUring>,
    receive: RefCell<ReceiveRing>,
    registered: RefCell<Registered>,
    table: RefCell<Table>,
    to_wake: RefCell<Vec<Waker>>,
    pub(crate) stats: RefCell<Stats>,
}

impl Driver {
    pub(crate) fn new(options: &Options) -> Result<Driver, RingError> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(options.entries * 8)
            .build(options.entries)
            .map_err(RingError::from_setup)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(RingError::KernelTooOld(io::Error::from_raw_os_error(libc::ENOSYS)));
        }
        let receive =
            ReceiveRing::register(&ring, options.receive_buffers, options.receive_buffer_bytes)
                .map_err(|e| RingError::Setup("registering receive buffers", e))?;
        let driver = Driver {
            ring: RefCell::new(ring),
            receive: RefCell::new(receive),
            registered: RefCell::default(),
            table: RefCell::new(Table::default()),
            to_wake: RefCell::new(Vec::new()),
            stats: RefCell::default(),
        };
        if let Some(arena) = &options.arena {
            while let Ok(true) = driver.register_piece(arena) {}
        }
        Ok(driver)
    }

    /// Registers the next piece of the arena. `false`: all of it is registered.
    pub(crate) fn register_piece(&self, arena: &Arc<Arena>) -> io::Result<bool> {
        let all = arena.registrations();
        let mut registered = self.registered.borrow_mut();
        let ring = self.ring.borrow();
        if registered.arena.is_none() {
            ring.submitter().register_buffers_sparse(all.len() as u32)?;
            registered.arena = Some(arena.clone());
        }
        let next = registered.pieces;
        let Some(piece) = all.get(next) else { return Ok(false) };
        // SAFETY: the arena's mapping outlives the ring: the driver holds the Arc and drops the ring first.
        let update = unsafe {
            ring.submitter().register_buffers_update(next as u32, std::slice::from_ref(piece), None)
        };
        if let Err(error) = update {
            drop(registered);
            drop(ring);
            self.unregister();
            self.stats.borrow_mut().arena_unregistered = 1;
            return Err(error);
        }
        registered.pieces += 1;
        Ok(registered.pieces < all.len())
    }

    /// Disk reads use plain buffers from now on. What is under way keeps its memory until it ends.
    pub(crate) fn unregister(&self) {
        if std::mem::take(&mut *self.registered.borrow_mut()).arena.is_some() {
            let _none = self.ring.borrow().submitter().unregister_buffers();
        }
    }

    pub(crate) fn ring_fd(&self) -> RawFd {
        self.ring.borrow().as_raw_fd()
    }

    /// Under which number the memory of this buffer is registered with this ring.
    pub(crate) fn registered_index(&self, buf: &Buf) -> Option<u16> {
        let registered = self.registered.borrow();
        let index = buf.registered_index(registered.arena.as_deref()?)?;
        (usize::from(index) < registered.pieces).then_some(index)
    }

    /// Whether all of an arena is registered.
    pub(crate) fn is_arena_registered(&self) -> bool {
        let registered = self.registered.borrow();
        registered.arena.as_ref().is_some_and(|a| registered.pieces == a.registrations().len())
    }

    pub(crate) fn operations(&self) -> usize {
        self.table.borrow().used
    }

    /// Puts an entry on the submission queue, submitting first when it is full.
    ///
    /// # Safety
    /// Whatever memory and descriptors the entry names must stay valid until its terminal completion.
    unsafe fn push(&self, entry: &squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        loop {
            // SAFETY: passed on from this function's contract.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                return;
            }
            // A full queue is drained by submitting; EBUSY means completions must be reaped first, which a
            // submit with GETEVENTS does on the kernel's side (overflow list), so trying again ends.
            if let Err(error) = ring.submit()
                && !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::EAGAIN))
            {
                panic!("io_uring_enter failed on a healthy ring: {error}");
            }
        }
    }

    /// Starts an operation.
    ///
    /// # Safety
    /// As `push`: `payload` must own everything that the entry points to, at addresses that do not move with it.
    pub(crate) unsafe fn start<P: 'static>(
        self: &Rc<Self>,
        entry: squeue::Entry,
        payload: P,
    ) -> Operation<P> {
        let token = self.table.borrow_mut().insert(Slot::Waiting { waker: None });
        // SAFETY: the payload lives in the Operation, and when that is dropped in the orphan slot, until the
        // terminal completion.
        unsafe { self.push(&entry.user_data(token)) };
        Operation { driver: self.clone(), token, payload: Some(payload) }
    }

    /// Starts a multishot accept on `fd`, which must stay open until the stream is dropped and then some: the
    /// `keep` value is held until the terminal completion.
    pub(crate) fn accept_stream(self: &Rc<Self>, fd: RawFd, keep: Box<dyn Any>) -> AcceptStream {
        let token = self.table.borrow_mut().insert(Slot::Stream {
            results: VecDeque::new(),
            waker: None,
            ended: false,
        });
        let entry = opcode::AcceptMulti::new(types::Fd(fd))
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build();
        // SAFETY: the entry names only `fd`, which `keep` owns until the terminal completion.
        unsafe { self.push(&entry.user_data(token)) };
        AcceptStream { driver: self.clone(), token, keep: Some(keep) }
    }

    /// Wakes the runtime whose ring is `target` by a message.
    pub(crate) fn send_wake(&self, target: RawFd) {
        let entry =
            opcode::MsgRingData::new(types::Fd(target), 0, WAKE, None).build().user_data(IGNORED);
        // SAFETY: the entry names no memory; a closed or reused descriptor gives an error completion that is ignored,
        // and rings are closed only after every runtime has stopped (see executor.rs).
        unsafe { self.push(&entry) };
    }

    /// Submits what is queued, waits up to `wait` for a completion (not at all for zero), and completes operations.
    pub(crate) fn turn(&self, wait: Option<Duration>) {
        {
            let mut ring = self.ring.borrow_mut();
            let outcome = match wait {
                // Nothing to hand over and nothing that waits for the kernel's turn: what has completed is there already.
                Some(Duration::ZERO) if is_idle(&ring.submission()) => Ok(0),
                Some(Duration::ZERO) => ring.submit(),
                Some(wait) => {
                    let span = types::Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
                    ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&span))
                }
                None => ring.submit_and_wait(1),
            };
            if let Err(error) = outcome
                && !matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                )
            {
                panic!("io_uring_enter failed on a healthy ring: {error}");
            }
        }
        self.reap();
        for waker in self.to_wake.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    fn reap(&self) {
        let mut ring = self.ring.borrow_mut();
        let queue = ring.completion();
        if queue.overflow() != 0 {
            self.stats.borrow_mut().completion_overflows = u64::from(queue.overflow());
        }
        for completion in queue {
            match completion.user_data() {
                IGNORED => {}
                WAKE => {} // the inbox is looked at after every turn
                token => self.complete(token, completion.result(), completion.flags()),
            }
        }
    }

    fn complete(&self, token: u64, result: i32, flags: u32) {
        let more = cqueue::more(flags);
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.get(token) else {
            debug_assert!(false, "a completion for a slot that is free");
            return;
        };
        match slot {
            Slot::Waiting { waker } => {
                self.to_wake.borrow_mut().extend(waker.take());
                *slot = Slot::Done { result, flags };
            }
            Slot::Stream { results, waker, ended } => {
                results.push_back(result);
                *ended = !more;
                self.to_wake.borrow_mut().extend(waker.take());
            }
            Slot::Orphan { accepts, .. } => {
                if *accepts && result >= 0 {
                    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
                    drop(unsafe { OwnedFd::from_raw_fd(result) });
                }
                if let Some(id) = cqueue::buffer_select(flags) {
                    self.receive.borrow_mut().publish(id);
                }
                if !more {
                    let orphan = table.remove(token);
                    drop(table);
                    drop(orphan); // may close descriptors and free memory; after the table's borrow has ended
                }
            }
            Slot::Done { .. } | Slot::Free { .. } => {
                debug_assert!(false, "a second terminal completion")
            }
        }
    }

    /// Copies what the kernel received into `into` and gives the buffer back.
    pub(crate) fn take_received(&self, flags: u32, len: usize, into: &mut Vec<u8>) {
        if let Some(id) = cqueue::buffer_select(flags) {
            let mut receive = self.receive.borrow_mut();
            into.extend_from_slice(receive.bytes(id, len));
            receive.publish(id);
        }
    }

    /// Whether the kernel has done with an operation that this token named.
    pub(crate) fn has_ended(&self, token: u64) -> bool {
        match self.table.borrow_mut().get(token) {
            Some(Slot::Stream { ended, .. }) => *ended,
            Some(Slot::Waiting { .. } | Slot::Orphan { .. }) => false,
            Some(Slot::Done { .. } | Slot::Free { .. }) | None => true,
        }
    }

    /// Asks the kernel to end an operation; its completion comes all the same.
    pub(crate) fn cancel(&self, token: u64) {
        let entry = opcode::AsyncCancel::new(token).build().user_data(IGNORED);
        // SAFETY: the entry names no memory.
        unsafe { self.push(&entry) };
    }

    fn orphan(&self, token: u64, payload: Option<Box<dyn Any>>, accepts: bool) {
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.get(token) else { return };
        let (ended, results, picked) = match slot {
            Slot::Done { flags, .. } => (true, VecDeque::new(), cqueue::buffer_select(*flags)),
            Slot::Stream { ended, results, .. } => (*ended, std::mem::take(results), None),
            _ => (false, VecDeque::new(), None),
        };
        for fd in results.into_iter().filter(|fd| *fd >= 0) {
            // SAFETY: an accepted descriptor that nobody has taken yet.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        if ended {
            table.remove(token);
            drop(table);
            if let Some(id) = picked {
                self.receive.borrow_mut().publish(id);
            }
            return;
        }
        *slot = Slot::Orphan { _held: payload, accepts };
        drop(table);
        self.cancel(token);
    }
}

/// One operation under way, as a future of its result, flags and payload.
pub(crate) struct Operation<P: 'static> {
    driver: Rc<Driver>,
    token: u64,
    payload: Option<P>,
}

impl<P> Unpin for Operation<P> {}

impl<P: 'static> Future for Operation<P> {
    type Output = (i32, u32, P);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut table = this.driver.table.borrow_mut();
        let slot = table.get(this.token).expect("an operation is polled only until it is ready");
        match slot {
            Slot::Done { result, flags } => {
                let (result, flags) = (*result, *flags);
                table.remove(this.token);
                drop(table);
                let payload =
                    this.payload.take().expect("a payload is taken once, with the result");
                Poll::Ready((result, flags, payload))
            }
            Slot::Waiting { waker } => {
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            _ => unreachable!("a single operation is waiting or done"),
        }
    }
}

impl<P: 'static> Operation<P> {
    /// Waits for its end, which stays to be taken.
    pub(crate) fn poll_done(&self, cx: &Context<'_>) -> Poll<()> {
        let mut table = self.driver.table.borrow_mut();
        match table.get(self.token) {
            Some(Slot::Waiting { waker }) => {
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl<P: 'static> Drop for Operation<P> {
    fn drop(&mut self) {
        if let Some(payload) = self.payload.take() {
            self.driver.orphan(self.token, Some(Box::new(payload)), false);
        }
    }
}

/// Connections as they arrive.
pub(crate) struct AcceptStream {
    driver: Rc<Driver>,
    token: u64,
    keep: Option<Box<dyn Any>>,
}

impl AcceptStream {
    /// Its name, for [`Driver::cancel`].
    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// The next connection; `None` when the kernel has ended the stream.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<OwnedFd>>> {
        let mut table = self.driver.table.borrow_mut();
        let Some(Slot::Stream { results, waker, ended }) = table.get(self.token) else {
            return Poll::Ready(None);
        };
        if let Some(result) = results.pop_front() {
            return Poll::Ready(Some(if result >= 0 {
                // SAFETY: the kernel made this descriptor for this accept; it is taken out of the queue once.
                Ok(unsafe { OwnedFd::from_raw_fd(result) })
            } else {
                Err(io::Error::from_raw_os_error(-result))
            }));
        }
        if *ended {
            return Poll::Ready(None);
        }
        *waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for AcceptStream {
    fn drop(&mut self) {
        self.driver.orphan(self.token, self.keep.take(), true);
    }
}
