//! From a snapshot to running cores.
//!
//! Everything that can be wrong is found before the first connection is accepted: snapshot, addresses, certificate,
//! store, kernel. Each error names its place and the mend.

use crate::args::Args;
use crate::callers::Callers;
use crate::control;
use crate::core::{CoreParts, Speaks, Stop, run as run_core};
use crate::h3::{self, EndpointParts, Post};
use crate::log;
use crate::names;
use crate::origins;
use crate::roll_file::RollFile;
use crate::snapshot::Source;
use crate::store::{self, Refusal};
use crate::tls::{self, Tls};
use arc_swap::ArcSwapOption;
use quinn_proto::crypto::rustls::QuicServerConfig;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tidegate_contract::{Role, Server};
use tidegate_engine::Node;
use tidegate_engine::admission::AdmissionState;
use tidegate_engine::keeper;
use tidegate_engine::stores::{StoreFace, Stores};
use tidegate_fill::Hops;
use tidegate_fill::node_name;
use tidegate_ring::{
    Arena, ArenaOptions, Options, Runtime, bound_datagrams, bound_listener, signal,
};
use tidegate_store::Roll;
use tidegate_telemetry::Counters;
use tidegate_types::memory::{CHUNK_BYTES, arena_chunks};

/// Waiting connections per listener.
const BACKLOG: i32 = 4096;
/// Operations that the keeper has under way at once, at most: those of a recovery.
const KEEPER_ENTRIES: u32 = 256;

type Failure = Box<dyn Error>;

/// What a keeper says of its device.
enum Word {
    /// It takes part.
    Entered,
    /// It has been read.
    Ready,
    Refused(Refusal),
}

/// How long a start waits for superblocks; a device that takes longer takes part when its own has been read.
const ENTER_SPAN: Duration = Duration::from_secs(5);

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
    if tls::is_wanted(&me) {
        let tls = Tls::read(&me, &node_name(&me.id, &snapshot.zone))
            .map_err(|error| format!("server {}: {error}", me.id))?;
        certificate.store(Some(Arc::new(tls)));
    }
    if let Some((first, second)) = twins(&me) {
        return Err(format!(
            "server {}: {first} and {second} of stores are the same\n    mend: leave one out",
            me.id
        )
        .into());
    }
    // Before anything is touched: nobody else may run as this node.
    let roll = match me.machine.stores.is_empty() {
        true => None,
        false => Some(RollFile::open(me.machine.state_dir.as_ref(), &me.id)?),
    };
    let mut datagrams =
        match (me.http3_port(), certificate.load().as_ref().and_then(|tls| tls.quic())) {
            (Some(port), Some(crypto)) => datagrams(&me, port, cores, crypto)?,
            _ => (0..cores).map(|_| Vec::new()).collect(),
        };
    let mut listeners = (0..cores).map(|core| listen(&me, core)).collect::<Result<Vec<_>, _>>()?;
    let plan = me
        .machine
        .memory(cores as u64, me.machine.stores.iter().map(store::size).sum())
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
    let callers = Arc::new(Callers::default());
    let ticks: Vec<Arc<AtomicU64>> = (0..cores).map(|_| Arc::default()).collect();

    let mut threads = Vec::new();
    let mut nodes = Vec::new();
    for index in 0..cores {
        let (give_node, take_node) = channel::<Arc<Node>>();
        nodes.push(give_node);
        let parts = CoreParts {
            index,
            listeners: std::mem::take(&mut listeners[index]),
            datagrams: std::mem::take(&mut datagrams[index]),
            tls: certificate.clone(),
            callers: callers.clone(),
            stop: stop.clone(),
            ticks: ticks[index].clone(),
            drain_seconds: args.drain_seconds,
        };
        threads.push(start_core(parts, me.clone(), arena.clone(), take_node)?);
    }
    let (stores, keepers) = start_stores(args, &me, roll, &arena)?;
    threads.extend(keepers);
    let lines = writer.lines.clone();
    let node = Arc::new(Node::new(view, hops, plan, stores, arena, counters, lines));
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

/// Sockets for HTTP/3 of all cores, on all addresses.
fn datagrams(
    me: &Server,
    port: u16,
    cores: usize,
    crypto: &Arc<QuicServerConfig>,
) -> Result<Vec<Vec<EndpointParts>>, String> {
    let template = Arc::new(h3::template(crypto.clone()));
    // Processes that follow each other on one port differ in it.
    let began = tidegate_ring::started().1.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut all: Vec<Vec<EndpointParts>> = (0..cores).map(|_| Vec::new()).collect();
    for address in me.addresses.iter().map(|ip| SocketAddr::new(*ip, port)) {
        let post = Arc::new(Post::new(cores, began.as_secs() as u8));
        for parts in &mut all {
            let socket = bound_datagrams(address).map_err(|e| {
                format!(
                    "cannot bind UDP {address}: {e}\n    mend: see who has it by `ss -lunp`, or give server {} http3 = false",
                    me.id
                )
            })?;
            parts.push(EndpointParts { socket, post: post.clone(), template: template.clone() });
        }
    }
    Ok(all)
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

/// Two paths that lead to one file or device.
fn twins(me: &Server) -> Option<(&str, &str)> {
    let stores = &me.machine.stores;
    let paths: Vec<&Path> = stores.iter().map(|store| Path::new(&store.path)).collect();
    let (first, second) = store::twins(&paths)?;
    Some((&stores[first].path, &stores[second].path))
}

/// Starts the keepers of all devices side by side, and waits for what they are, and a while for what they hold.
fn start_stores(
    args: &Args,
    me: &Server,
    roll: Option<(RollFile, Option<Roll>)>,
    arena: &Arc<Arena>,
) -> Result<(Arc<Stores>, Vec<JoinHandle<()>>), Failure> {
    let Some((file, roll)) = roll else { return Ok((Arc::new(Stores::none()), Vec::new())) };
    let file = Arc::new(file);
    let devices = me.machine.stores.iter().map(|device| {
        let admission = AdmissionState::new(me.machine.store_admission, store::size(device));
        (device.path.clone().into(), Arc::new(admission))
    });
    let stores = Arc::new(Stores::new(devices.collect(), roll, Box::new(file.clone().clerk()?)));
    let (give_word, words) = channel();
    let mut threads = Vec::new();
    for (index, face) in stores.devices().iter().enumerate() {
        let keeper = Keeper {
            me: me.clone(),
            index,
            face: face.clone(),
            stores: stores.clone(),
            arena: arena.clone(),
        };
        threads.push(start_keeper(keeper, give_word.clone())?);
    }
    drop(give_word);
    let started = Instant::now();
    let mut heard = Heard { progress: vec![Progress::Silent; threads.len()], refusals: Vec::new() };
    heard.listen(&words, started + ENTER_SPAN, Progress::Entered);
    if let Some(roll) = stores.unsaved_roll() {
        file.write(&roll).map_err(|why| {
            format!("server {}: the roll of devices cannot be written: {why}\n    mend: make room, or give another state_dir", me.id)
        })?;
    }
    heard.listen(&words, started + args.store_wait(), Progress::Ready);
    let Heard { progress, refusals } = heard;
    let is_retired = |refusal: &Refusal| matches!(refusal, Refusal::Retired(_));
    // Serving without any would hide that the configuration, or the only disk, is wrong.
    if refusals.len() == threads.len() && !refusals.iter().any(is_retired) {
        let all: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        return Err(all.join("\n").into());
    }
    for refusal in refusals {
        eprintln!("tidegated {}: {refusal}", me.id);
    }
    for (store, progress) in me.machine.stores.iter().zip(progress) {
        if progress < Progress::Ready {
            eprintln!(
                "tidegated {}: store {}: still being read; serving without it meanwhile",
                me.id, store.path
            );
        }
    }
    Ok((stores, threads))
}

/// How far a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Silent,
    Entered,
    Ready,
    Refused,
}

/// What the keepers have said.
struct Heard {
    progress: Vec<Progress>,
    refusals: Vec<Refusal>,
}

impl Heard {
    /// Listens until all are so far, or it is that late.
    fn listen(&mut self, words: &Receiver<(usize, Word)>, until: Instant, least: Progress) {
        while self.progress.iter().any(|progress| *progress < least) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((index, word)) = words.recv_timeout(left) else { return };
            self.progress[index] = match word {
                Word::Entered => Progress::Entered,
                Word::Ready => Progress::Ready,
                Word::Refused(refusal) => {
                    self.refusals.push(refusal);
                    Progress::Refused
                }
            };
        }
    }
}

/// What a keeper's thread is given.
struct Keeper {
    me: Server,
    index: usize,
    face: Arc<StoreFace>,
    stores: Arc<Stores>,
    arena: Arc<Arena>,
}

/// The thread of a device's keeper. Its checksums and copies take no core's time from the requests there, and its
/// writes follow each other as fast as the device takes them, however long a core's round is.
fn start_keeper(keeper: Keeper, words: Sender<(usize, Word)>) -> Result<JoinHandle<()>, Failure> {
    let (started, outcome) = channel();
    let name = format!("keeper-{}", keeper.index);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let options = Options {
            entries: KEEPER_ENTRIES,
            receive_buffers: 1, // it has no connections
            receive_buffer_bytes: 4096,
            arena: None,
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
        runtime.block_on(async move {
            let (index, face) = (keeper.index, keeper.face.clone());
            match keeper.open(&words).await {
                Ok(keeping) => {
                    let _served_already = words.send((index, Word::Ready));
                    drop(words);
                    keeping.await;
                }
                Err(refusal) => {
                    face.refuse();
                    if let Err(SendError((_, Word::Refused(refusal)))) =
                        words.send((index, Word::Refused(refusal)))
                    {
                        eprintln!("tidegated: {refusal}"); // the node serves already, and goes on
                    }
                    drop(words);
                    keeper::decline(&face).await;
                }
            }
        });
    })?;
    outcome.recv().map_err(|_| "a keeper ended while it was started")??;
    Ok(thread)
}

impl Keeper {
    /// Has the device take its place and reads it; gives what keeps it from then on.
    async fn open(
        self,
        words: &Sender<(usize, Word)>,
    ) -> Result<impl Future<Output = ()> + use<>, Refusal> {
        let Keeper { me, index, face, stores, arena } = self;
        let path = face.path.display();
        let device = store::enter(&me.machine.stores[index], &face, &stores, arena).await?;
        let _served_already = words.send((index, Word::Entered));
        let (store, report) =
            store::read(&me.machine, &face.path, device).await.map_err(Refusal::Bad)?;
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
                "tidegated {}: store {path}: {} page(s) of the purge journal are damaged: all that is stored is asked                  about again before it is served\n    mend: look at the device; purge again what was purged lately",
                me.id, report.journal.pairs_lost,
            );
        }
        Ok(keeper::begin(store, &report, &face, &stores, &me.machine))
    }
}
