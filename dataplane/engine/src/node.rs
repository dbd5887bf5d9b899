//! What the cores of one process share ([`Node`]) and what each has for itself ([`Core`]).

use crate::admission::AdmissionState;
use crate::clock::wall_ms;
use crate::device::RingDevice;
use crate::fill::Windows;
use crate::isolate::isolated;
use crate::keeper::KeepQueue;
use crate::purge::Purges;
use crate::ram::RamTier;
use crate::table::Table;
use crate::view::View;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Instant;
use tidegate_fill::{HopHealth, Pool, Timeouts};
use tidegate_ring::Arena;
use tidegate_store::Reader;
use tidegate_telemetry::{Counters, TransactionEnd};
use tidegate_types::limits::BLOCK_BYTES;

/// The store, as all cores see it.
pub struct StoreFace {
    pub path: PathBuf,
    pub reader: Reader,
    pub queue: Arc<KeepQueue>,
    /// The greatest version that was found in it at start.
    pub version_max: u64,
    /// What its journal says was purged.
    pub purges: Arc<Purges>,
    pub admission: Arc<AdmissionState>,
}

/// State of one data plane process.
pub struct Node {
    pub view: ArcSwap<View>,
    pub table: Table,
    pub ram: RamTier,
    pub windows: Arc<Windows>,
    pub store: Option<StoreFace>,
    pub purges: Arc<Purges>,
    pub hop_health: HopHealth,
    pub arena: Arc<Arena>,
    /// One set per core, summed when read.
    pub counters: Vec<Arc<Counters>>,
    /// Where lines of ended transactions go, many at a time; bounded, what does not fit is dropped and counted.
    pub log: SyncSender<Vec<u8>>,
    pub timeouts: Timeouts,
    pub started: Instant,
    pub draining: AtomicBool,
    versions: AtomicU64,
}

impl Node {
    /// A node that runs on `view`.
    #[allow(clippy::too_many_arguments, reason = "made in one place, from what start-up has built")]
    pub fn new(
        view: View,
        ram_bytes: u64,
        store: Option<StoreFace>,
        arena: Arc<Arena>,
        counters: Vec<Arc<Counters>>,
        log: SyncSender<Vec<u8>>,
    ) -> Node {
        let purges = store.as_ref().map(|store| store.purges.clone()).unwrap_or_default();
        let windows = Arc::new(Windows::new((ram_bytes / 4).max(WINDOWS_BYTES_MIN)));
        Node {
            view: ArcSwap::from_pointee(view),
            table: Table::new(OBJECTS_MAX, windows.clone()),
            windows,
            ram: RamTier::new(ram_bytes),
            versions: AtomicU64::new(first_version(store.as_ref(), &purges)),
            store,
            purges,
            hop_health: HopHealth::default(),
            arena,
            counters,
            log,
            timeouts: Timeouts::default(),
            started: tidegate_ring::now(),
            draining: AtomicBool::new(false),
        }
    }

    /// A version number that no object of this store has had: rises within a run, and between runs by the clock.
    pub fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed)
    }
}

/// Above all that lies in the store and all that was purged, also when the clock was set back between two runs.
fn first_version(store: Option<&StoreFace>, purges: &Purges) -> u64 {
    let stored = store.map_or(0, |store| store.version_max);
    (wall_ms() << 20).max(stored + 1).max(purges.newest() + 1)
}

/// Objects that the table holds; the rest is found again in the store. About 1 KiB each.
const OBJECTS_MAX: usize = 200_000;

/// Memory for the windows of fills: a quarter of the RAM tier's size, beside it, and not less than this.
const WINDOWS_BYTES_MIN: u64 = 32 << 20;

/// What one core has for itself.
pub struct Core {
    pub node: Arc<Node>,
    pub index: usize,
    pub pool: Rc<Pool>,
    pub device: Option<RingDevice>,
    pub counters: Arc<Counters>,
    /// Clients connected now.
    pub clients: Cell<usize>,
    /// Requests under way now.
    pub busy: Cell<usize>,
    /// Log lines that wait to go to the writer together.
    pub lines: RefCell<Vec<u8>>,
}

/// Log lines go to the writer when this many bytes are there, or by the core's timer.
const LINES_BYTES: usize = 128 * 1024;

impl Core {
    /// Writes the access log line of a transaction.
    pub fn log(&self, event: &TransactionEnd<'_>) {
        let mut lines = self.lines.borrow_mut();
        event.render(&mut lines);
        if lines.len() >= LINES_BYTES {
            drop(lines);
            self.flush_log();
        }
    }

    /// Hands the waiting lines to the writer.
    pub fn flush_log(&self) {
        let lines = std::mem::take(&mut *self.lines.borrow_mut());
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.node.log.try_send(lines) {
            let (TrySendError::Full(lost) | TrySendError::Disconnected(lost)) = error;
            let count = lost.iter().filter(|b| **b == b'\n').count();
            self.count(|c| &c.log_lines_dropped_total, count as u64);
        }
    }

    /// Starts a task that serves one client or one fill: should it meet a broken invariant, it ends alone.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let counters = self.counters.clone();
        tidegate_ring::spawn(isolated(task, move || counters.panics_total.increment()));
    }

    /// Adds to one of this core's counters.
    pub fn count(&self, counter: impl FnOnce(&Counters) -> &AtomicU64, n: u64) {
        counter(&self.counters).fetch_add(n, Ordering::Relaxed);
    }

    /// Puts a block into the RAM tier, at what it occupies.
    pub fn remember(&self, id: crate::ram::BlockId, bytes: Bytes) {
        // More than half a block sits in a chunk of the arena; the map's own entry costs something too.
        let chunk = (BLOCK_BYTES + 4096) as u64;
        let len = bytes.len() as u64;
        self.node.ram.insert(id, bytes, if len > chunk / 2 { chunk } else { len + 128 });
    }
}
