//! A small single-thread executor over the ring: tasks, wake-ups from this and other threads, orderly stop.
//!
//! One turn: run the tasks that are ready (at most [`POLLS_PER_TURN`]), then submit and reap, waiting only when nothing
//! is ready. Must stay true: a task in the ready queue is not put there again by its own waker (a waker that outlived
//! its task may poll the next task of that slot once too often, which futures allow); a wake-up from another thread is never lost
//! (it is put in the inbox before the ring is signalled, and the inbox is emptied after the signal is cleared); a
//! runtime closes its ring only when no operation is left on it, else it keeps ring and memory for ever and says so.

use crate::buffer::Arena;
use crate::driver::{Driver, Options, Stats};
use crate::probe::RingError;
use crate::time::Timers;
use io_uring::{opcode, types};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Tasks polled before the ring is looked at again, so that completions cannot starve behind busy tasks.
const POLLS_PER_TURN: usize = 256;
/// How long a stopping runtime waits for the kernel to give back what it was lent.
const STOP_WAIT: Duration = Duration::from_secs(5);

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// What other threads may touch of a runtime.
struct Remote {
    inbox: Mutex<Vec<usize>>,
    signalled: AtomicBool,
    event: OwnedFd,
    ring_fd: RawFd,
}

struct TaskWaker {
    index: usize,
    queued: AtomicBool,
    remote: Arc<Remote>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let here = CURRENT.with(|current| {
            let current = current.borrow();
            match current.as_ref() {
                Some(local) if Arc::ptr_eq(&local.remote, &self.remote) => {
                    local.ready.borrow_mut().push_back(self.index);
                    true
                }
                _ => false,
            }
        });
        if here {
            return;
        }
        self.remote.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
        if !self.remote.signalled.swap(true, Ordering::AcqRel) {
            self.remote.signal();
        }
    }
}

impl Remote {
    /// Makes the runtime's ring return: by a message from another ring, by an event from any other thread.
    fn signal(&self) {
        let sent = CURRENT.with(|current| match current.borrow().as_ref() {
            Some(local) => {
                local.driver.send_wake(self.ring_fd);
                true
            }
            None => false,
        });
        if !sent {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes eight bytes of a live array to a descriptor that this value owns.
            unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

struct TaskSlot {
    future: Option<TaskFuture>,
    waker: Arc<TaskWaker>,
}

/// The runtime of this thread.
pub(crate) struct Local {
    pub(crate) driver: Rc<Driver>,
    pub(crate) timers: RefCell<Timers>,
    /// When this turn began.
    pub(crate) turn: Cell<Instant>,
    /// Buffers for small sends, to be used again.
    pub(crate) messages: RefCell<Vec<Vec<u8>>>,
    remote: Arc<Remote>,
    tasks: RefCell<slab::Slab<TaskSlot>>,
    ready: RefCell<VecDeque<usize>>,
    stopping: Cell<bool>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// The runtime of this thread; panics outside of one, which is a bug of the caller.
pub(crate) fn current() -> Rc<Local> {
    CURRENT
        .with(|current| current.borrow().clone())
        .expect("ring operations are used on the thread of a ring runtime")
}

/// The runtime of this thread, if there is one still: for drops, which also happen while a panic unwinds.
pub(crate) fn try_current() -> Option<Rc<Local>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// What happened so far on this thread's runtime.
pub fn stats() -> Stats {
    #[cfg(feature = "sim")]
    if let Some(world) = crate::sim::current() {
        return Stats { tasks: world.task_count(), ..Stats::default() };
    }
    let local = current();
    let mut stats = *local.driver.stats.borrow();
    stats.operations = local.driver.operations();
    stats.tasks = local.tasks.borrow().len();
    stats
}

/// Registers the next piece of `arena` with this thread's ring, so that disk reads into it cost less. `false`: all of it is
/// registered. Memory that nobody has used yet is touched by it.
///
/// # Errors
/// The kernel does not take it (memlock limit); nothing of it is registered then.
pub fn register_piece(arena: &Arc<Arena>) -> io::Result<bool> {
    current().driver.register_piece(arena)
}

/// No arena is registered with this thread's ring any more.
pub fn unregister_arena() {
    current().driver.unregister();
}

/// Starts a task on this thread.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let state = Rc::new(JoinState {
        value: RefCell::new(None),
        waiter: RefCell::new(None),
        done: Cell::new(false),
    });
    let theirs = state.clone();
    insert(Box::pin(async move {
        // Told also when the task is dropped unfinished (at the stop), so that nobody waits for ever.
        struct Finish<T>(Rc<JoinState<T>>);
        impl<T> Drop for Finish<T> {
            fn drop(&mut self) {
                self.0.done.set(true);
                if let Some(waiter) = self.0.waiter.borrow_mut().take() {
                    waiter.wake();
                }
            }
        }
        let finish = Finish(theirs);
        let value = future.await;
        *finish.0.value.borrow_mut() = Some(value);
    }));
    JoinHandle { state }
}

fn insert(future: TaskFuture) {
    #[cfg(feature = "sim")]
    if let Some(world) = crate::sim::current() {
        return world.insert(future);
    }
    current().insert(future);
}

/// Lets the other tasks of this core run, and its completions be reaped, before going on.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

struct JoinState<T> {
    value: RefCell<Option<T>>,
    waiter: RefCell<Option<Waker>>,
    done: Cell<bool>,
}

/// The result of a task; dropping it lets the task run on.
pub struct JoinHandle<T> {
    state: Rc<JoinState<T>>,
}

impl<T> Future for JoinHandle<T> {
    /// `None` when the runtime stopped before the task ended.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.state.done.get() {
            return Poll::Ready(self.state.value.borrow_mut().take());
        }
        *self.state.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Local {
    fn insert(&self, future: TaskFuture) {
        if self.stopping.get() {
            return; // a task made while the runtime ends is dropped unstarted, like those that are under way
        }
        let mut tasks = self.tasks.borrow_mut();
        let vacant = tasks.vacant_entry();
        let index = vacant.key();
        let waker = Arc::new(TaskWaker {
            index,
            queued: AtomicBool::new(true),
            remote: self.remote.clone(),
        });
        vacant.insert(TaskSlot { future: Some(future), waker });
        self.ready.borrow_mut().push_back(index);
    }

    fn run_ready(&self) {
        // Only what is ready now: whoever yields waits for the completions of this turn.
        let batch = self.ready.borrow().len().min(POLLS_PER_TURN);
        for _ in 0..batch {
            let Some(index) = self.ready.borrow_mut().pop_front() else { return };
            let (mut future, waker) = {
                let mut tasks = self.tasks.borrow_mut();
                let Some(slot) = tasks.get_mut(index) else { continue };
                slot.waker.queued.store(false, Ordering::Release);
                let Some(future) = slot.future.take() else { continue };
                (future, slot.waker.clone())
            };
            let done = {
                let waker = Waker::from(waker);
                future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            };
            if done {
                drop(future); // before its slot: its drop may wake or spawn
                self.tasks.borrow_mut().try_remove(index);
            } else if let Some(slot) = self.tasks.borrow_mut().get_mut(index) {
                slot.future = Some(future);
            }
        }
    }

    fn drain_inbox(&self) {
        if !self.remote.signalled.swap(false, Ordering::AcqRel) {
            return;
        }
        let woken =
            std::mem::take(&mut *self.remote.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.ready.borrow_mut().extend(woken);
    }

    /// Waits for the ring, unless a task is ready, and makes ready what it woke.
    fn wait(&self) {
        // Before the wait: a signal that came while tasks ran has had its completion, and brings no second one.
        self.drain_inbox();
        let wait = if self.ready.borrow().is_empty() {
            self.timers.borrow_mut().next_wait(Instant::now())
        } else {
            Some(Duration::ZERO)
        };
        self.driver.turn(wait);
        self.drain_inbox();
        self.turn.set(Instant::now());
        let due = self.timers.borrow_mut().take_due(self.turn.get());
        for waker in due {
            waker.wake();
        }
    }
}

/// The runtime of one thread.
pub struct Runtime {
    local: Rc<Local>,
}

impl Runtime {
    /// Makes a ring on this thread, on which it must be used.
    ///
    /// # Errors
    /// The kernel refuses: too old, io_uring forbidden, or out of memory or descriptors.
    pub fn new(options: Options) -> Result<Runtime, RingError> {
        let driver = Rc::new(Driver::new(&options)?);
        // SAFETY: eventfd takes no pointers.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if event < 0 {
            return Err(RingError::Setup("eventfd", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made and has no other owner.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        let remote = Arc::new(Remote {
            inbox: Mutex::new(Vec::new()),
            signalled: AtomicBool::new(false),
            event,
            ring_fd: driver.ring_fd(),
        });
        let local = Rc::new(Local {
            driver,
            timers: RefCell::new(Timers::default()),
            turn: Cell::new(Instant::now()),
            messages: RefCell::new(Vec::new()),
            remote,
            tasks: RefCell::new(slab::Slab::new()),
            ready: RefCell::new(VecDeque::new()),
            stopping: Cell::new(false),
        });
        Ok(Runtime { local })
    }

    /// Whether the arena of the options could be registered with this ring.
    pub fn is_arena_registered(&self) -> bool {
        self.local.driver.is_arena_registered()
    }

    /// Runs `main` to its end, then drops all other tasks and waits for the kernel to give back what it was lent.
    pub fn block_on<T: 'static>(self, main: impl Future<Output = T> + 'static) -> T {
        let local = self.local.clone();
        CURRENT.with(|current| {
            let previous = current.borrow_mut().replace(local.clone());
            assert!(previous.is_none(), "one runtime per thread");
        });
        let _reset = ResetCurrent;
        local.insert(Box::pin(listen_for_events(local.remote.clone())));
        local.turn.set(Instant::now());
        let handle = spawn(main);
        let value = loop {
            local.run_ready();
            if handle.state.done.get() {
                // A main task that panicked has unwound through here, so a value is there.
                let value = handle.state.value.borrow_mut().take();
                break value.expect("the main task ended with a value");
            }
            local.wait();
        };
        local.stop();
        value
    }
}

impl Local {
    fn stop(&self) {
        self.stopping.set(true);
        loop {
            // One at a time: the drop of a future may use the runtime.
            let Some(index) = self.tasks.borrow().iter().next().map(|(index, _)| index) else {
                break;
            };
            let slot = self.tasks.borrow_mut().remove(index);
            drop(slot);
        }
        let deadline = Instant::now() + STOP_WAIT;
        while self.driver.operations() > 0 && Instant::now() < deadline {
            self.driver.turn(Some(Duration::from_millis(20)));
        }
        if self.driver.operations() > 0 {
            // The kernel may still write to the memory of these operations: it is never given back.
            std::mem::forget(self.driver.clone());
        }
    }
}

struct ResetCurrent;

impl Drop for ResetCurrent {
    fn drop(&mut self) {
        let local = CURRENT.with(|current| current.borrow_mut().take());
        if std::thread::panicking()
            && let Some(local) = &local
        {
            // Nobody waits for completions any more: what the kernel may still write to is never given back.
            std::mem::forget(local.driver.clone());
        }
        drop(local);
    }
}

/// Keeps one read pending on the event descriptor, so that threads without a ring can wake this one.
async fn listen_for_events(remote: Arc<Remote>) {
    let driver = current().driver.clone();
    loop {
        let fd = remote.event.as_raw_fd();
        let mut count = Box::new([0u8; 8]);
        let entry = opcode::Read::new(types::Fd(fd), count.as_mut_ptr(), 8).build();
        // SAFETY: the boxed array and the descriptor's owner travel in the payload.
        let (result, _, _payload) = unsafe { driver.start(entry, (count, remote.clone())) }.await;
        if result < 0 && ![-libc::EINTR, -libc::EAGAIN].contains(&result) {
            return;
        }
    }
}
