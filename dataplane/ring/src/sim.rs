//! A second rim behind the same types, for tests (feature `sim`): tasks, time, sockets and files of a [`World`] in one
//! thread, in virtual time, with every chance drawn by whoever made it.
//!
//! ```text
//! run the tasks that are ready, in the order of their waking or as `choose` says
//!   none is ready -> time goes on to the next timer -> its task is ready
//!     no timer is left either -> nothing can ever happen again: `Stuck`
//! ```
//! A world holds processes: a task belongs to that of the task that spawned it, and [`World::kill`] drops all of one,
//! its sockets and listeners with them, as a kill does or as a power cut (nobody is told). Disks are given by the test
//! ([`Disk`]) and outlive processes; an operation on one goes on when its future is dropped, as in the kernel.
//!
//! Must stay true: nothing in here reads a clock, draws a number or goes through a map without order, so that one seed
//! is one run ([`World::hash`] mixes every poll and event); a task's number is never used again, so that a late waker
//! wakes nobody else. Decision 0007 says why the rim and not a second engine.

mod file;
mod net;

pub use file::{Disk, File};
pub use net::{Cut, Dial, Link, TcpListener, TcpStream, empty_message, give_back_message};

use net::Network;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Picks one of so many.
pub type Choose = Box<dyn FnMut(usize) -> usize>;
/// Tells how a new connection between two addresses behaves.
pub type Links = Box<dyn FnMut(SocketAddr) -> Link>;

/// A process of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(u32);

/// The one that is there from the beginning: the test's own.
pub const TEST: Process = Process(0);

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The kernel lives on and resets its connections.
    Killed,
    /// The machine is gone: nobody hears of it.
    PowerCut,
}

/// What a world is made of.
pub struct WorldOptions {
    /// Unix time at the beginning.
    pub unix: Duration,
    /// Which of the ready tasks runs next; `None`: the one that was woken first.
    pub choose: Option<Choose>,
    pub links: Links,
    /// Tells each event on standard error.
    pub trace: bool,
}

struct Task {
    future: Option<TaskFuture>,
    process: Process,
    waker: Arc<TaskWaker>,
}

struct TaskWaker {
    number: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.number);
        }
    }
}

struct Started {
    at: Duration,
    unix: Duration,
}

pub(crate) struct Inner {
    /// Any instant: only differences count.
    base: Instant,
    now: Cell<Duration>,
    /// Unix time at `now` zero, and what the wall clock has been set forward since.
    unix: Cell<Duration>,
    serial: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    process: Cell<Process>,
    processes: RefCell<Vec<Started>>,
    dying: Cell<Option<Death>>,
    network: RefCell<Network>,
    choose: RefCell<Option<Choose>>,
    links: RefCell<Links>,
    hash: Cell<u64>,
    polls: Cell<u64>,
    trace: bool,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

/// The world that this thread is in, if it is in one.
pub(crate) fn current() -> Option<Rc<Inner>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Nothing is ready, and no timer is left: whoever waits, waits for ever.
#[derive(Debug, PartialEq, Eq)]
pub struct Stuck;

/// A world. Clones are the same one.
#[derive(Clone)]
pub struct World(Rc<Inner>);

impl World {
    /// An empty one.
    pub fn new(options: WorldOptions) -> World {
        let WorldOptions { unix, choose, links, trace } = options;
        World(Rc::new(Inner {
            base: Instant::now(),
            now: Cell::new(Duration::ZERO),
            unix: Cell::new(unix),
            serial: Cell::new(0),
            tasks: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            process: Cell::new(TEST),
            processes: RefCell::new(vec![Started { at: Duration::ZERO, unix }]),
            dying: Cell::new(None),
            network: RefCell::default(),
            choose: RefCell::new(choose),
            links: RefCell::new(links),
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            polls: Cell::new(0),
            trace,
        }))
    }

    /// Runs `main` to its end as a task of [`TEST`], then drops all other tasks.
    ///
    /// # Errors
    /// It can not end any more.
    pub fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> Result<T, Stuck> {
        CURRENT.with(|current| {
            let previous = current.borrow_mut().replace(self.0.clone());
            assert!(previous.is_none(), "one world at a time on a thread");
        });
        let _leave = Leave;
        let value = Rc::new(RefCell::new(None));
        let theirs = value.clone();
        self.spawn_in(TEST, async move {
            let end = main.await;
            *theirs.borrow_mut() = Some(end);
        });
        let outcome = loop {
            while self.0.run_next() {
                if value.borrow().is_some() {
                    break;
                }
            }
            if let Some(value) = value.borrow_mut().take() {
                break Ok(value);
            }
            if !self.0.advance() {
                break Err(Stuck);
            }
        };
        self.0.drop_tasks(|_| true);
        outcome
    }

    /// A new process.
    pub fn process(&self) -> Process {
        let mut processes = self.0.processes.borrow_mut();
        processes.push(Started { at: self.0.now.get(), unix: self.0.unix() });
        Process(processes.len() as u32 - 1)
    }

    /// Starts a task of `process`.
    pub fn spawn_in(&self, process: Process, future: impl Future<Output = ()> + 'static) {
        self.0.insert_in(process, Box::pin(future));
    }

    /// Ends a process at this instant; `with` drops what the test holds of it.
    pub fn kill(&self, process: Process, death: Death, with: impl FnOnce()) {
        assert!(process != TEST && process != self.0.process.get(), "nobody kills itself");
        self.0.event("kill", u64::from(process.0), death as u64);
        self.0.dying.set(Some(death));
        self.0.network.borrow_mut().forget(process);
        self.0.drop_tasks(|task| task.process == process);
        with();
        self.0.dying.set(None);
    }

    /// Tasks of `process` that have not ended.
    pub fn tasks_of(&self, process: Process) -> usize {
        self.0.tasks.borrow().values().filter(|task| task.process == process).count()
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.0.now.get()
    }

    /// The wall clock's unix time.
    pub fn unix(&self) -> Duration {
        self.0.unix()
    }

    /// Sets the wall clock forward or back; time itself goes on as it did.
    pub fn step_wall(&self, by_seconds: i64) {
        let step = Duration::from_secs(by_seconds.unsigned_abs());
        let unix = self.0.unix.get();
        self.0.unix.set(if by_seconds < 0 { unix.saturating_sub(step) } else { unix + step });
        self.0.event("wall", by_seconds as u64, 0);
    }

    /// Something worth a line in the trace; mixed into [`World::hash`].
    pub fn event(&self, what: &'static str, a: u64, b: u64) {
        self.0.event(what, a, b);
    }

    /// A line of the trace, when there is one.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.0.trace {
            eprintln!("{:>12.6} {}", self.0.now.get().as_secs_f64(), line());
        }
    }

    /// What happened so far, in one number: the same for the same seed.
    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    /// How often tasks were polled so far.
    pub fn polls(&self) -> u64 {
        self.0.polls.get()
    }
}

struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        let left = CURRENT.with(|current| current.borrow_mut().take());
        drop(left);
    }
}

impl Inner {
    fn mix(&self, value: u64) {
        let mixed = (self.hash.get() ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hash.set(mixed ^ (mixed >> 29));
    }

    pub(crate) fn event(&self, what: &'static str, a: u64, b: u64) {
        for value in [what.len() as u64, a, b, self.now.get().as_nanos() as u64] {
            self.mix(value);
        }
        if self.trace {
            eprintln!("{:>12.6} {what} {a} {b}", self.now.get().as_secs_f64());
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.base + self.now.get()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now.get()
    }

    fn unix(&self) -> Duration {
        self.unix.get() + self.now.get()
    }

    pub(crate) fn system_time(&self) -> SystemTime {
        UNIX_EPOCH + self.unix()
    }

    /// When the running process began, by both clocks.
    pub(crate) fn started(&self) -> (Instant, SystemTime) {
        let processes = self.processes.borrow();
        let started = &processes[self.process.get().0 as usize];
        (self.base + started.at, UNIX_EPOCH + started.unix)
    }

    fn next_serial(&self) -> u64 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }

    pub(crate) fn insert(&self, future: TaskFuture) {
        self.insert_in(self.process.get(), future);
    }

    fn insert_in(&self, process: Process, future: TaskFuture) {
        if self.dying.get().is_some() {
            return; // the drops of a process that ends start nothing
        }
        let number = self.next_serial();
        let waker = Arc::new(TaskWaker {
            number,
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        let task = Task { future: Some(future), process, waker: waker.clone() };
        self.tasks.borrow_mut().insert(number, task);
        waker.wake();
    }

    pub(crate) fn task_count(&self) -> usize {
        let process = self.process.get();
        self.tasks.borrow().values().filter(|task| task.process == process).count()
    }

    /// Polls one ready task; `false`: there is none.
    fn run_next(&self) -> bool {
        let number = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            let len = ready.len();
            let index = match &mut *self.choose.borrow_mut() {
                Some(choose) if len > 1 => choose(len) % len,
                _ => 0,
            };
            match ready.remove(index) {
                Some(number) => number,
                None => return false,
            }
        };
        let (mut future, process, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&number) else { return true };
            task.waker.queued.store(false, Ordering::Release);
            let Some(future) = task.future.take() else { return true };
            (future, task.process, task.waker.clone())
        };
        self.mix(number);
        self.polls.set(self.polls.get() + 1);
        let outer = self.process.replace(process);
        let waker = Waker::from(waker);
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            drop(future);
            self.tasks.borrow_mut().remove(&number);
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(&number) {
            task.future = Some(future);
        }
        self.process.set(outer);
        true
    }

    /// Goes on to the next timer; `false`: there is none.
    fn advance(&self) -> bool {
        let Some(((at, _), waker)) = self.timers.borrow_mut().pop_first() else { return false };
        self.now.set(self.now.get().max(at));
        waker.wake();
        true
    }

    fn drop_tasks(&self, which: impl Fn(&Task) -> bool) {
        loop {
            // One at a time: the drop of a future may wake, and use sockets.
            let task = {
                let mut tasks = self.tasks.borrow_mut();
                let found = tasks.iter().find(|(_, task)| which(task)).map(|(number, _)| *number);
                match found {
                    Some(number) => tasks.remove(&number),
                    None => return,
                }
            };
            drop(task);
        }
    }

    /// Has `waker` woken at `at`; gives the name by which to take it back.
    pub(crate) fn wake_at(&self, at: Duration, waker: Waker) -> (Duration, u64) {
        let key = (at, self.next_serial());
        self.timers.borrow_mut().insert(key, waker);
        key
    }

    /// A timer of [`crate::Sleep`].
    pub(crate) fn poll_sleep(
        &self,
        at: Instant,
        serial: &mut Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let at = at.saturating_duration_since(self.base);
        if self.now.get() >= at {
            return Poll::Ready(());
        }
        let mut timers = self.timers.borrow_mut();
        let serial = *serial.get_or_insert_with(|| self.next_serial());
        timers.insert((at, serial), cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn forget_sleep(&self, at: Instant, serial: u64) {
        let at = at.saturating_duration_since(self.base);
        self.timers.borrow_mut().remove(&(at, serial));
    }

    fn dying(&self) -> Option<Death> {
        self.dying.get()
    }
}
