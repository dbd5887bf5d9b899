//! What the cores of one process share ([`Node`]) and what each has for itself ([`Core`]).

use crate::device::RingDevice;
use crate::fill::Windows;
use crate::isolate::isolated;
use crate::memory::Memory;
use crate::purge::Purges;
use crate::ram::RamTier;
use crate::route::Routes;
use crate::steps::prefetch::Prefetches;
use crate::stores::{StoreFace, Stores};
use crate::table::Table;
use crate::view::View;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use tidegate_certificates::{Listed, Shown};
use tidegate_fill::{Hops, Pool, SharedIdle, Timeouts};
use tidegate_ring::Arena;
use tidegate_store::{EXTENT_HEADER_BYTES, ExtentKey, Reader};
use tidegate_telemetry::{Counters, TransactionEnd};
use tidegate_types::memory::MemoryPlan;

/// Where lines of ended transactions go, many at a time; bounded, what does not fit is dropped and counted.
#[derive(Clone)]
pub struct LogPipe {
    lines: SyncSender<Vec<u8>>,
    written: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Buffers that wait for the next lines.
const WRITTEN_KEPT: usize = 8;

impl LogPipe {
    /// To whoever reads the other end.
    pub fn new(lines: SyncSender<Vec<u8>>) -> LogPipe {
        LogPipe { lines, written: Arc::default() }
    }

    /// The reader's part: what it has written is used again.
    pub fn give_back(written: &Mutex<Vec<Vec<u8>>>, mut batch: Vec<u8>) {
        batch.clear();
        let mut kept = written.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < WRITTEN_KEPT && batch.capacity() <= 2 * LINES_BYTES {
            kept.push(batch);
        }
    }

    /// Where [`LogPipe::give_back`] puts them.
    pub fn written(&self) -> Arc<Mutex<Vec<Vec<u8>>>> {
        self.written.clone()
    }

    fn empty(&self) -> Vec<u8> {
        let kept = self.written.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // There will be as many lines soon: growing would copy them several times.
        kept.unwrap_or_else(|| Vec::with_capacity(LINES_BYTES + LINE_BYTES))
    }
}

/// State of one data plane process.
pub struct Node {
    pub view: ArcSwap<View>,
    pub table: Arc<Table>,
    pub ram: RamTier,
    pub memory: Arc<Memory>,
    pub stores: Arc<Stores>,
    pub purges: Arc<Purges>,
    pub hops: Arc<Hops>,
    pub arena: Arc<Arena>,
    /// One set per core, summed when read.
    pub counters: Vec<Arc<Counters>>,
    pub log: LogPipe,
    pub timeouts: Timeouts,
    pub started: Instant,
    pub draining: AtomicBool,
    pub prefetches: Arc<Prefetches>,
    /// It was said that the kernel lacks a congestion control that a delivery service asks for.
    pub congestion_told: AtomicBool,
    /// Connections to next hops that any core may take.
    pub idle: Arc<SharedIdle>,
    /// What the kernel was found to seal; not asked yet: nothing.
    pub kernel_sealing: OnceLock<String>,
    /// What is shown to others as TLS is spoken now.
    pub certificates: ArcSwap<Vec<Shown>>,
    /// The lists of revoked certificates that others are held against.
    pub revoked: ArcSwap<Vec<Listed>>,
}

impl Node {
    /// A node that runs on `view`, which was made with `hops`.
    #[allow(clippy::too_many_arguments, reason = "made in one place, from what start-up has built")]
    pub fn new(
        view: View,
        hops: Arc<Hops>,
        plan: MemoryPlan,
        stores: Arc<Stores>,
        arena: Arc<Arena>,
        counters: Vec<Arc<Counters>>,
        log: LogPipe,
    ) -> Node {
        let windows = Arc::new(Windows::new((plan.flexible / 4).max(WINDOWS_BYTES_MIN)));
        let table = Arc::new(Table::new(plan.objects, windows.clone()));
        let (ram_bytes, ram_policy) = (view.me.machine.ram_bytes, view.me.machine.ram_policy);
        stores.know(&table);
        let role = view.me.role;
        Node {
            view: ArcSwap::from_pointee(view),
            table,
            memory: Arc::new(Memory::new(plan, arena.clone(), windows, stores.clone())),
            ram: RamTier::new(ram_bytes, ram_policy),
            purges: stores.purges().clone(),
            stores,
            hops,
            arena,
            counters,
            log,
            timeouts: Timeouts::of(role),
            started: tidegate_ring::now(),
            draining: AtomicBool::new(false),
            prefetches: Arc::default(),
            congestion_told: AtomicBool::new(false),
            idle: Arc::default(),
            kernel_sealing: OnceLock::new(),
            certificates: ArcSwap::default(),
            revoked: ArcSwap::default(),
        }
    }

    /// A version number that no object of this store has had: rises within a run, and between runs by the clock.
    pub fn next_version(&self) -> u64 {
        self.stores.next_version()
    }

    /// Gives the memory of the RAM tier back, but for blocks that are nowhere else: another process has taken this one's
    /// place. No ring has the arena registered any more.
    pub fn let_memory_go(&self) {
        self.ram.retain(|(key, version, block)| {
            let extent = ExtentKey::block(*key, *version, *block);
            let home = self.stores.home(*key).filter(|(_, store)| !store.is_slow());
            !home.is_some_and(|(_, s)| s.reader().is_some_and(|reader| reader.contains(&extent)))
        });
        self.arena.give_back();
    }
}

/// Memory for the windows of fills: a quarter of what clients and fills share, and not less than this.
const WINDOWS_BYTES_MIN: u64 = 32 << 20;

/// What one core has for itself.
pub struct Core {
    pub node: Arc<Node>,
    pub index: usize,
    pub pool: Rc<Pool>,
    /// Its handles of the store's devices.
    pub devices: Vec<OnceCell<Option<RingDevice>>>,
    pub counters: Arc<Counters>,
    /// Clients connected now.
    pub clients: Cell<usize>,
    /// Requests under way now.
    pub busy: Cell<usize>,
    /// Log lines that wait to go to the writer together.
    pub lines: RefCell<Vec<u8>>,
    /// What was routed lately.
    pub routes: RefCell<Routes>,
}

/// What a block costs besides its bytes: its entry in the RAM tier and its places in the queues.
const ENTRY_BYTES: u64 = 192;

/// Log lines go to the writer when this many bytes are there, or by the core's timer.
const LINES_BYTES: usize = 96 * 1024;
/// A line is hardly longer than this.
const LINE_BYTES: usize = 1024;

impl Core {
    /// The device that `key` lies on if it is stored, for lookups, and this core's handle of it, once it has been read.
    pub fn disk(&self, key: u128) -> Option<(&StoreFace, &Reader, &RingDevice)> {
        let (number, store) = self.node.stores.home(key).filter(|(_, store)| !store.is_slow())?;
        let reader = store.reader()?;
        let open = || match RingDevice::open(&store.path, false, self.node.arena.clone()) {
            Ok(device) => Some(device),
            Err(error) => {
                let path = store.path.display();
                eprintln!("tidegated: core {}: store {path}: {error}", self.index);
                None
            }
        };
        Some((store, reader, self.devices.get(number)?.get_or_init(open).as_ref()?))
    }

    /// Writes the access log line of a transaction.
    pub fn log(&self, event: &TransactionEnd<'_>) {
        let mut lines = self.lines.borrow_mut();
        event.render(&mut lines);
        if lines.len() >= LINES_BYTES {
            let full = std::mem::replace(&mut *lines, self.node.log.empty());
            drop(lines);
            self.hand_over(full);
        }
    }

    /// Hands the waiting lines to the writer.
    pub fn flush_log(&self) {
        let lines = std::mem::take(&mut *self.lines.borrow_mut());
        if !lines.is_empty() {
            self.hand_over(lines);
        }
    }

    fn hand_over(&self, lines: Vec<u8>) {
        if let Err(error) = self.node.log.lines.try_send(lines) {
            let (TrySendError::Full(lost) | TrySendError::Disconnected(lost)) = error;
            let count = lost.iter().filter(|b| **b == b'\n').count();
            self.count(|c| &c.log_lines_dropped_total, count as u64);
        }
    }

    /// Starts a task that serves one client or one fill: should it meet a broken invariant, it ends alone.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let counters = self.counters.clone();
        let task = Box::pin(task);
        tidegate_ring::spawn(isolated(task, move || counters.panics_total.increment()));
    }

    /// Adds to one of this core's counters.
    pub fn count(&self, counter: impl FnOnce(&Counters) -> &AtomicU64, n: u64) {
        counter(&self.counters).fetch_add(n, Ordering::Relaxed);
    }

    /// Copies pieces into one buffer of the arena: what stays in memory lies there, where it is counted.
    pub fn stow<T: AsRef<[u8]>>(&self, pieces: &[T]) -> Bytes {
        let len = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let mut whole = self.node.arena.buffer(len);
        let mut rest = whole.as_mut();
        for piece in pieces {
            let (here, behind) = rest.split_at_mut(piece.as_ref().len());
            here.copy_from_slice(piece.as_ref());
            rest = behind;
        }
        whole.freeze()
    }

    /// Puts a block into the RAM tier, at what it occupies.
    pub fn remember(&self, id: crate::ram::BlockId, bytes: Bytes) {
        // With its extent's header, if it was read from a disk.
        let cost = self.node.arena.cost(bytes.len() + EXTENT_HEADER_BYTES);
        let cost = cost.unwrap_or(bytes.len().next_multiple_of(4096)) as u64;
        self.node.ram.insert(id, bytes, cost + ENTRY_BYTES);
    }
}
