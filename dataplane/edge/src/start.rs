//! From a snapshot to running cores.
//!
//! Everything that can be wrong is found before the first connection is accepted: snapshot, addresses, certificate,
//! store, kernel. Each error names its place and the mend.

use crate::args::Args;
use crate::callers::Callers;
use crate::control;
use crate::core::{CoreParts, Speaks, Stop, run as run_core};
use crate::h3::{self, EndpointParts, Post, QuicTls};
use crate::handover::{Estate, Inherited, Predecessor, offer};
use crate::log;
use crate::names;
use crate::notify::Notify;
use crate::origins;
use crate::purge_file::PurgeFile;
use crate::retry::Retry;
use crate::roll_file::RollFile;
use crate::snapshot::Source;
use crate::store::{self, Refusal};
use crate::tickets;
use crate::tls::{self, Tls};
use arc_swap::ArcSwapOption;
use std::cell::Cell;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// A core, or a keeper, ended by a fault of its own.
#[derive(Debug)]
pub struct CoreLost(&'static str);

impl std::fmt::Display for CoreLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for CoreLost {}

/// What a keeper says of its device.
enum Word {
    /// It takes part.
    Entered,
    /// It has been read; another process may still write to it.
    Read,
    /// It is used.
    Ready,
    Refused(Refusal),
}

/// How long a start that replaces a process waits for what the devices hold: that one serves meanwhile.
const READ_SPAN: Duration = Duration::from_secs(60);
/// And then for their epochs to be written.
const WRITE_SPAN: Duration = Duration::from_secs(5);
/// How long a start waits for superblocks; a device that takes longer takes part when its own has been read.
const ENTER_SPAN: Duration = Duration::from_secs(5);

/// Runs the process to its end.
pub fn run(args: &Args) -> Result<(), Failure> {
    signal::block()?; // before any thread, so that only the control thread gets them
    let _limit = signal::raise_descriptor_limit();
    tidegate_ring::give_back_large_pieces();
    let program = std::env::current_exe()?; // now: what lies there later is the next version
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
    let state_dir: &Path = me.machine.state_dir.as_ref();
    let (predecessor, mut inherited) = match args.replace {
        true => {
            let (predecessor, inherited) = Predecessor::ask(state_dir, &me.id)?;
            (Some(predecessor), inherited)
        }
        false => (None, Inherited::default()),
    };
    let lock = inherited.lock.take();
    let has_stores = !me.machine.stores.is_empty();
    // Before anything is touched: nobody else may run as this node.
    let mut roll = match has_stores && lock.is_none() {
        true => Some(RollFile::open(state_dir, &me.id)?),
        false => None,
    };
    let mut sockets = Sockets::new(&me, cores, inherited)?;
    sockets.listen(&me)?;
    if let (Some(port), Some(tls)) = (me.http3_port(), certificate.load().as_ref())
        && let Some(tls) = tls.quic()
    {
        sockets.bind_datagrams(&me, port, tls)?;
    }
    // Where nobody shall be served any more, the running process is the last to.
    let Sockets { inherited: _, mut listeners, mut datagrams, estate } = sockets;
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

    let register = Arc::new(AtomicBool::new(false));
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
            goodbye: args.goodbye(),
            fault: args.test_fault.clone(),
            register: predecessor.is_some().then(|| register.clone()),
        };
        threads.push(start_core(parts, me.clone(), arena.clone(), take_node)?);
    }
    if let Some(predecessor) = &predecessor {
        predecessor.pause_store()?;
        if let (true, Some(lock)) = (has_stores, lock) {
            roll = Some(RollFile::inherit(state_dir, &me.id, lock)?);
        }
    }
    let (opening, roll) = match roll {
        None => (Opening::nothing(), None),
        Some((file, roll)) => {
            let file = Arc::new(file);
            (Opening::start(&me, &file, roll, &arena, predecessor.is_some())?, Some(file))
        }
    };
    let (stores, keepers) = opening.end(args, &me, roll.as_deref(), predecessor.as_ref())?;
    // Nobody is served yet: what was purged while this node was away is not given to anybody.
    let mut purges = PurgeFile::beside(&args.snapshot);
    purges.begin(&stores, &view);
    let lines = writer.lines.clone();
    let node = Arc::new(Node::new(view, hops, plan, stores, arena, counters, lines));
    if let Some(predecessor) = predecessor {
        if let Err(why) = predecessor.take_over() {
            eprintln!("{why}"); // the store is this one's, and clients wait
        }
        // Two RAM tiers need not fit into the host.
        std::thread::Builder::new().name("light".to_owned()).spawn(move || {
            predecessor.wait_until_light();
            register.store(true, Ordering::SeqCst);
        })?;
    }
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
    tls::tell_kernel_sealing(&me, &node);
    if let Some(tls) = certificate.load().as_ref() {
        tls.tell(&node);
    }
    let offer = offer(state_dir, &node, roll, estate, stop.clone());
    let offer = offer.map_err(|error| {
        eprintln!(
            "tidegated {}: it cannot be replaced while it runs: {}: {error}\n    mend: give it a state_dir that this user may \
             write to",
            me.id,
            state_dir.display()
        );
    });
    let control = control::Control {
        node: node.clone(),
        source,
        purges,
        certificate,
        ticks,
        stop,
        log_reopen: writer.reopen.clone(),
        cores: &threads,
        keepers: &keepers,
        offer: offer.ok(),
        leave: Duration::from_secs(args.leave_seconds),
        program,
        successor: None,
        notify: Notify::from_environment(),
        orphan: Retry::default(),
    };
    let lost = control.run(snapshot);
    for thread in threads.into_iter().chain(keepers) {
        if thread.join().is_err() {
            return Err(
                CoreLost("a core ended by a broken invariant; see the message above").into()
            );
        }
    }
    drop(node);
    drop(writer.lines);
    let _ended = writer.thread.join();
    if lost { Err(CoreLost("a core ended unasked").into()) } else { Ok(()) }
}

/// The sockets of all cores, and copies of them for a successor.
struct Sockets {
    inherited: Inherited,
    listeners: Vec<Vec<(TcpListener, Speaks)>>,
    datagrams: Vec<Vec<EndpointParts>>,
    estate: Estate,
}

impl Sockets {
    fn new(me: &Server, cores: usize, mut inherited: Inherited) -> Result<Sockets, String> {
        let secret = match inherited.secret.take() {
            Some(secret) => secret,
            None => tickets::quic_secret(me.machine.ticket_secret_file.as_deref(), &me.id)?,
        };
        let (listeners, datagrams, posts) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Sockets {
            inherited,
            listeners: (0..cores).map(|_| Vec::new()).collect(),
            datagrams: (0..cores).map(|_| Vec::new()).collect(),
            estate: Estate { listeners, datagrams, posts, secret },
        })
    }

    /// Listening sockets: traffic on all addresses and cores, admin on the first.
    fn listen(&mut self, me: &Server) -> Result<(), String> {
        let cores = self.listeners.len();
        for address in &me.addresses {
            for (port, speaks) in [(me.http_port, Speaks::Http), (me.https_port, Speaks::Https)] {
                if let Some(port) = port {
                    self.listen_at(me, SocketAddr::new(*address, port), speaks, cores)?;
                }
            }
        }
        match me.addresses.first() {
            Some(ip) => self.listen_at(me, SocketAddr::new(*ip, me.admin_port), Speaks::Admin, 1),
            None => Ok(()),
        }
    }

    /// At least `count` of them, one for each core in turn. Clients wait in all that another process had.
    fn listen_at(
        &mut self,
        me: &Server,
        address: SocketAddr,
        speaks: Speaks,
        count: usize,
    ) -> Result<(), String> {
        let cores = self.listeners.len();
        let failed = |e: std::io::Error| {
            format!(
                "cannot listen on {address}: {e}\n    mend: see who has it by `ss -ltnp`, or give server {} another port",
                me.id
            )
        };
        let mut sockets = self.inherited.listeners(address);
        while sockets.len() < count {
            sockets.push(bound_listener(address, BACKLOG).map_err(failed)?);
        }
        for (number, socket) in sockets.into_iter().enumerate() {
            self.estate.listeners.push((address, socket.try_clone().map_err(failed)?));
            let core = if speaks == Speaks::Admin { 0 } else { number % cores };
            self.listeners[core].push((socket, speaks));
        }
        Ok(())
    }

    /// Sockets for HTTP/3, on all addresses and cores.
    fn bind_datagrams(&mut self, me: &Server, port: u16, tls: &QuicTls) -> Result<(), String> {
        let cores = self.datagrams.len();
        let template = Arc::new(h3::template(tls, &self.estate.secret));
        // Processes that follow each other on one port differ in it.
        let began = tidegate_ring::started().1.duration_since(UNIX_EPOCH).unwrap_or_default();
        let generation = self.inherited.generation(began.as_secs() as u8);
        for address in me.addresses.iter().map(|ip| SocketAddr::new(*ip, port)) {
            let failed = |e: std::io::Error| {
                format!(
                    "cannot bind UDP {address}: {e}\n    mend: see who has it by `ss -lunp`, or give server {} http3 = false",
                    me.id
                )
            };
            let mut sockets = self.inherited.datagrams(address);
            while sockets.len() < cores {
                sockets.push(bound_datagrams(address).map_err(failed)?);
            }
            let reset_key = Arc::new(self.estate.secret.reset_key(address));
            let elders = self.inherited.elders(address);
            let post = Arc::new(Post::new(sockets.len(), generation, elders));
            self.estate.posts.push((address, post.clone()));
            for (index, socket) in sockets.into_iter().enumerate() {
                self.estate.datagrams.push((address, socket.try_clone().map_err(failed)?));
                let (post, template) = (post.clone(), template.clone());
                let reset_key = reset_key.clone();
                let parts = EndpointParts { socket, post, index, template, reset_key };
                self.datagrams[index % cores].push(parts);
            }
        }
        Ok(())
    }
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
            arena: parts.register.is_none().then(|| arena.clone()),
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
        if parts.index == 0 && parts.register.is_none() && !runtime.is_arena_registered() {
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

/// Devices that are being opened, side by side.
struct Opening {
    stores: Arc<Stores>,
    threads: Vec<JoinHandle<()>>,
    words: Receiver<(usize, Word)>,
    heard: Heard,
    /// Tell the keepers that they may write.
    turns: Vec<Sender<()>>,
    started: Instant,
}

impl Opening {
    /// No device.
    fn nothing() -> Opening {
        Opening::of(Arc::new(Stores::none()), channel().1)
    }

    fn of(stores: Arc<Stores>, words: Receiver<(usize, Word)>) -> Opening {
        let progress = vec![Progress::Silent; stores.devices().len()];
        let heard = Heard { progress, refusals: Vec::new() };
        let (threads, turns, started) = (Vec::new(), Vec::new(), Instant::now());
        Opening { stores, threads, words, heard, turns, started }
    }

    /// Starts the keepers. `is_lent`: they write nothing before they are told.
    fn start(
        me: &Server,
        file: &Arc<RollFile>,
        roll: Option<Roll>,
        arena: &Arc<Arena>,
        is_lent: bool,
    ) -> Result<Opening, Failure> {
        let devices = me.machine.stores.iter().map(|device| {
            let admission = AdmissionState::new(me.machine.store_admission, store::size(device));
            (device.path.clone().into(), Arc::new(admission))
        });
        let clerk = Box::new(file.clone().clerk()?);
        let stores = Arc::new(Stores::new(devices.collect(), roll, clerk));
        let (give_word, words) = channel();
        let mut opening = Opening::of(stores.clone(), words);
        for (index, face) in stores.devices().iter().enumerate() {
            let turn = is_lent.then(|| {
                let (give, take) = channel();
                opening.turns.push(give);
                take
            });
            let (me, face) = (me.clone(), face.clone());
            let (stores, arena) = (stores.clone(), arena.clone());
            let keeper = Keeper { me, index, face, stores, arena, turn: Cell::new(turn) };
            opening.threads.push(start_keeper(keeper, give_word.clone())?);
        }
        Ok(opening)
    }

    /// Waits for what the devices are, takes them over from the process that has them, and waits a while for what they
    /// hold.
    fn end(
        mut self,
        args: &Args,
        me: &Server,
        file: Option<&RollFile>,
        predecessor: Option<&Predecessor>,
    ) -> Result<(Arc<Stores>, Vec<JoinHandle<()>>), Failure> {
        let Opening { words, heard, stores, started, .. } = &mut self;
        heard.listen(words, *started + ENTER_SPAN, Progress::Entered);
        if let Some(predecessor) = predecessor {
            heard.listen(words, *started + READ_SPAN, Progress::Read);
            heard.check(stores)?;
            predecessor.take_store()?;
            // The others go on reading, and need not ask.
            for turn in &self.turns {
                let _reads_no_more = turn.send(());
            }
        }
        if let (Some(roll), Some(file)) = (self.stores.unsaved_roll(), file)
            && let Err(why) = file.write(&roll)
        {
            let why = format!(
                "server {}: the roll of devices cannot be written: {why}\n    mend: make room, or give another state_dir",
                me.id
            );
            // There is no way back to a process that has given its store away; purges are refused until it is written.
            match predecessor {
                None => return Err(why.into()),
                Some(_) => eprintln!("{why}"),
            }
        }
        let patience = match predecessor {
            Some(_) => Instant::now() + WRITE_SPAN,
            None => self.started + args.store_wait(),
        };
        self.heard.listen(&self.words, patience, Progress::Ready);
        self.heard.check(&self.stores)?;
        let Heard { progress, refusals } = self.heard;
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
        Ok((self.stores, self.threads))
    }
}

/// How far a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Silent,
    Entered,
    Read,
    Ready,
    Refused,
}

/// What the keepers have said.
struct Heard {
    progress: Vec<Progress>,
    refusals: Vec<Refusal>,
}

impl Heard {
    /// Serving without any device would hide that the configuration, or the only disk, is wrong.
    fn check(&self, stores: &Stores) -> Result<(), String> {
        let is_retired = |refusal: &Refusal| matches!(refusal, Refusal::Retired(_));
        let (count, all) = (self.refusals.len(), stores.devices().len());
        if count < all || count == 0 || self.refusals.iter().any(is_retired) {
            return Ok(());
        }
        Err(self.refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// Listens until all are so far, or it is that late.
    fn listen(&mut self, words: &Receiver<(usize, Word)>, until: Instant, least: Progress) {
        while self.progress.iter().any(|progress| *progress < least) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((index, word)) = words.recv_timeout(left) else { return };
            self.progress[index] = match word {
                Word::Entered => Progress::Entered,
                Word::Read => Progress::Read,
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
    /// Tells when it may write, if another process does so far.
    turn: Cell<Option<Receiver<()>>>,
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
            let (index, face) = (keeper.index, &keeper.face);
            loop {
                let refusal = match keeper.open(&words).await {
                    Ok(keeping) => {
                        let _served_already = words.send((index, Word::Ready));
                        return keeping.await;
                    }
                    Err(refusal) => refusal,
                };
                face.refuse();
                if let Err(SendError((_, Word::Refused(refusal)))) =
                    words.send((index, Word::Refused(refusal)))
                {
                    eprintln!("tidegated: {refusal}"); // the node serves already, and goes on
                }
                if !keeper::decline(face).await {
                    return;
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
        &self,
        words: &Sender<(usize, Word)>,
    ) -> Result<impl Future<Output = ()> + use<>, Refusal> {
        let Keeper { me, index, face, stores, arena, turn } = self;
        let path = face.path.display();
        let wanted = &me.machine.stores[*index];
        let device = store::enter(wanted, face, stores, arena.clone()).await?;
        let _served_already = words.send((*index, Word::Entered));
        // Once: a device that is tried again is tried when it is ours.
        let turn = turn.take();
        let is_lent = turn.is_some();
        let (mut store, mut report) =
            store::read(&me.machine, &face.path, device, is_lent).await.map_err(Refusal::Bad)?;
        if let Some(turn) = turn {
            let _heard = words.send((*index, Word::Read));
            // Nothing else runs on this thread yet.
            if turn.recv().is_err() {
                return Err(Refusal::Bad(format!("store {path}: it stays with another process")));
            }
            report.epoch_error = store.promote(&mut report).await.err();
        }
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
        Ok(keeper::begin(store, &report, face, stores, &me.machine))
    }
}
