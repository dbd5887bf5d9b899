//! From a snapshot to running cores.
//!
//! Everything that can be wrong is found before the first connection is accepted: snapshot, addresses, certificate,
//! store, kernel. Each error names its place and the mend.

use crate::args::Args;
use crate::control;
use crate::core::{CoreParts, Speaks, Stop, run as run_core};
use crate::log;
use crate::names;
use crate::origins;
use crate::snapshot::Source;
use crate::store;
use crate::tls;
use arc_swap::ArcSwapOption;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::thread::JoinHandle;
use tidegate_contract::{Role, Server, StoreDevice};
use tidegate_engine::Node;
use tidegate_engine::admission::AdmissionState;
use tidegate_engine::keeper;
use tidegate_engine::node::StoreFace;
use tidegate_fill::Hops;
use tidegate_ring::{Arena, ArenaOptions, Options, Runtime, bound_listener, signal};
use tidegate_telemetry::Counters;
use tidegate_types::memory::{CHUNK_BYTES, arena_chunks};

/// Waiting connections per listener.
const BACKLOG: i32 = 4096;
/// Operations that the keeper has under way at once, at most: those of a recovery.
const KEEPER_ENTRIES: u32 = 256;

type Failure = Box<dyn Error>;

/// What the keeper says when its store has been read.
type StoreReady = Result<(), String>;

/// Runs the process to its end.
pub fn run(args: &Args) -> Result<(), Failure> {
    signal::block()?; // before any thread, so that only the control thread gets them
    let _limit = signal::raise_descriptor_limit();
    tidegate_ring::give_back_large_pieces();
    let mut source = Source::new(args.snapshot.clone(), args.trust.clone());
    let snapshot = source.read()?;
    let hops = Arc::new(Hops::default());
    let view = origins::view(&snapshot, &args.node, &hops)?;
    let me = view.me.clone();
    if !matches!(me.role, Role::Edge | Role::Parent | Role::Origin) {
        return Err(format!(
            "server {} has a role of the control plane\n    mend: start it by `tidegate run --node {}`",
            me.id, me.id
        )
        .into());
    }
    let cores = match me.machine.cores {
        0 => std::thread::available_parallelism()?.get(),
        n => n,
    };
    let certificate = Arc::new(ArcSwapOption::empty());
    if me.https_port.is_some() {
        let (Some(chain), Some(key)) = (&me.machine.tls_certificate, &me.machine.tls_key) else {
            return Err(
                format!("server {}: https_port needs tls_certificate and tls_key", me.id).into()
            );
        };
        certificate.store(Some(tls::config(chain, key)?));
    }
    let mut listeners = (0..cores).map(|core| listen(&me, core)).collect::<Result<Vec<_>, _>>()?;
    let plan = me
        .machine
        .memory(cores as u64, store::size(&me.machine))
        .map_err(|little| format!("server {}: {little}", me.id))?;
    let chunks = arena_chunks(me.machine.ram_bytes) as usize;
    let arena =
        Arena::new(ArenaOptions { chunk_bytes: CHUNK_BYTES as usize, chunks }).map_err(|e| {
            format!(
                "no memory for the RAM tier: {e}\n    mend: give server {} less ram_bytes",
                me.id
            )
        })?;
    let counters: Vec<Arc<Counters>> = (0..cores).map(|_| Arc::default()).collect();
    if me.role == Role::Parent {
        names::start(&me.id, &hops, counters[0].clone())?;
    }
    let writer = log::start(args.log.clone(), counters[0].clone()).map_err(|e| {
        format!(
            "access log {:?} cannot be opened: {e}",
            args.log.as_deref().unwrap_or("-".as_ref())
        )
    })?;
    let stop = Arc::new(Stop::default());
    let ticks: Vec<Arc<AtomicU64>> = (0..cores).map(|_| Arc::default()).collect();

    let (store_ready, store_opened) = channel::<StoreReady>();
    let mut threads = Vec::new();
    let mut nodes = Vec::new();
    for index in 0..cores {
        let (give_node, take_node) = channel::<Arc<Node>>();
        nodes.push(give_node);
        let parts = CoreParts {
            index,
            listeners: std::mem::take(&mut listeners[index]),
            tls: certificate.clone(),
            stop: stop.clone(),
            ticks: ticks[index].clone(),
            drain_seconds: args.drain_seconds,
        };
        threads.push(start_core(parts, me.clone(), arena.clone(), take_node)?);
    }
    let mut store = None;
    if let Some(StoreDevice { path, .. }) = me.machine.stores.first() {
        let bytes = store::size(&me.machine);
        let admission = Arc::new(AdmissionState::new(me.machine.store_admission, bytes));
        let face = Arc::new(StoreFace::new(path.into(), admission));
        store = Some(face.clone());
        let keeper = Keeper {
            me: me.clone(),
            face,
            arena: arena.clone(),
            counters: counters[0].clone(),
            index_bytes_max: plan.index,
        };
        threads.push(start_keeper(keeper, store_ready)?);
        match store_opened.recv_timeout(args.store_wait()) {
            Ok(read) => read?,
            Err(RecvTimeoutError::Timeout) => eprintln!(
                "tidegated {}: store {path}: still being read; serving without it meanwhile",
                me.id
            ),
            Err(RecvTimeoutError::Disconnected) => {
                return Err("the keeper ended before its store was read".into());
            }
        }
    }
    let lines = writer.lines.clone();
    let node = Arc::new(Node::new(view, hops, plan, store, arena, counters, lines));
    for give_node in nodes {
        give_node.send(node.clone()).map_err(|_| "a core ended while it was started")?;
    }
    eprintln!(
        "tidegated {}: {} on {} with {cores} core(s), generation {}",
        me.id,
        tidegate_engine::transaction::role_name(me.role),
        me.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        snapshot.generation,
    );
    let control = control::Control {
        node: node.clone(),
        source,
        certificate,
        ticks,
        stop,
        log_reopen: writer.reopen.clone(),
        threads: &threads,
    };
    let lost = control.run(snapshot);
    for thread in threads {
        if thread.join().is_err() {
            return Err("a core ended by a broken invariant; see the message above".into());
        }
    }
    drop(node);
    drop(writer.lines);
    let _ended = writer.thread.join();
    if lost { Err("a core ended unasked".into()) } else { Ok(()) }
}

/// Listening sockets of one core: traffic on all addresses, admin on the first, on core 0 only.
fn listen(me: &Server, core: usize) -> Result<Vec<(TcpListener, Speaks)>, String> {
    let mut wanted = Vec::new();
    for address in &me.addresses {
        wanted.extend(me.http_port.map(|port| (SocketAddr::new(*address, port), Speaks::Http)));
        wanted.extend(me.https_port.map(|port| (SocketAddr::new(*address, port), Speaks::Https)));
    }
    if core == 0
        && let Some(first) = me.addresses.first()
    {
        wanted.push((SocketAddr::new(*first, me.admin_port), Speaks::Admin));
    }
    wanted
        .into_iter()
        .map(|(address, speaks)| match bound_listener(address, BACKLOG) {
            Ok(listener) => Ok((listener, speaks)),
            Err(e) => Err(format!(
                "cannot listen on {address}: {e}\n    mend: see who has it by `ss -ltnp`, or give server {} another port",
                me.id
            )),
        })
        .collect()
}

fn start_core(
    parts: CoreParts,
    me: Server,
    arena: Arc<Arena>,
    take_node: Receiver<Arc<Node>>,
) -> Result<JoinHandle<()>, Failure> {
    let (started, outcome) = channel();
    let thread = std::thread::Builder::new().name(format!("core-{}", parts.index)).spawn(move || {
        let options = Options {
            receive_buffers: 128,
            receive_buffer_bytes: 64 * 1024,
            arena: Some(arena.clone()),
            ..Options::default()
        };
        let runtime = match Runtime::new(options) {
            Ok(runtime) => {
                let _waiting = started.send(Ok(()));
                runtime
            }
            Err(error) => {
                let _waiting = started.send(Err(error.to_string()));
                return;
            }
        };
        if parts.index == 0 && runtime.registered_arena().is_none() {
            eprintln!(
                "tidegated {}: buffers are not registered with the kernel (memlock limit); disk reads cost more\n    \
                 mend: LimitMEMLOCK=infinity, or CAP_IPC_LOCK",
                me.id
            );
        }
        runtime.block_on(async move {
            // Nothing runs on this core yet, so that blocking for a moment hurts nobody.
            let Ok(node) = take_node.recv() else { return };
            run_core(parts, node).await;
        });
    })?;
    outcome.recv().map_err(|_| "a core ended while it was started")??;
    Ok(thread)
}

/// What the keeper's thread is given.
struct Keeper {
    me: Server,
    face: Arc<StoreFace>,
    arena: Arc<Arena>,
    counters: Arc<Counters>,
    index_bytes_max: u64,
}

/// The thread of the store's keeper. Its checksums and copies take no core's time from the requests there, and its
/// writes follow each other as fast as the device takes them, however long a core's round is.
fn start_keeper(keeper: Keeper, ready: Sender<StoreReady>) -> Result<JoinHandle<()>, Failure> {
    let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        let options = Options {
            entries: KEEPER_ENTRIES,
            receive_buffers: 1, // it has no connections
            receive_buffer_bytes: 4096,
            arena: None,
        };
        let runtime = match Runtime::new(options) {
            Ok(runtime) => runtime,
            Err(error) => {
                let _gone = ready.send(Err(error.to_string()));
                return;
            }
        };
        runtime.block_on(async move {
            match keeper.open().await {
                Ok(keeping) => {
                    let _served_already = ready.send(Ok(()));
                    keeping.await;
                }
                Err(error) => {
                    if let Err(SendError(Err(error))) = ready.send(Err(error)) {
                        eprintln!("tidegated: {error}"); // it serves already, and ends now
                    }
                }
            }
        });
    })?;
    Ok(thread)
}

impl Keeper {
    /// Reads the store; gives what keeps it from then on.
    async fn open(self) -> Result<impl Future<Output = ()>, String> {
        let Keeper { me, face, arena, counters, index_bytes_max } = self;
        let path = face.path.display();
        let (store, report) = store::open(&me.machine, &face.path, arena, index_bytes_max).await?;
        eprintln!(
            "tidegated {}: store {path}: {} extents in {} of {} segments ({} walked), {} bad",
            me.id,
            report.extents,
            report.segments - report.segments_free,
            report.segments,
            report.segments_walked,
            report.extents_bad,
        );
        if report.journal.pairs_lost > 0 {
            eprintln!(
                "tidegated {}: store {path}: {} page(s) of the purge journal are damaged: all that is stored is asked \
                 about again before it is served\n    mend: look at the device; purge again what was purged lately",
                me.id, report.journal.pairs_lost,
            );
        }
        Ok(keeper::begin(store, &report, &face, &me.machine, counters))
    }
}
