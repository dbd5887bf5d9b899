//! One core's life: accept on its listeners, serve, stop in order.

use crate::callers::{Call, Callers, TurnedAway};
use crate::drain::Drain;
use crate::h2;
use crate::h3::{Endpoint, EndpointParts};
use crate::tls::{Door, Tls, TlsClient};
use arc_swap::ArcSwapOption;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use tidegate_engine::memory::{CLIENT_BYTES, CLIENT_TLS_BYTES, Pressure};
use tidegate_engine::next_hop;
use tidegate_engine::purge;
use tidegate_engine::session::{Face, serve};
use tidegate_engine::{Core, Node, Protection, Transport};
use tidegate_fill::Pool;
use tidegate_ring::{TcpListener, TcpStream, now, sleep, spawn, timeout};

/// Connections that one core serves at once; more wait in the backlog.
pub const CLIENTS_MAX: usize = 50_000;
/// How often a core shows that it is alive and hands over its log lines.
const TICK: Duration = Duration::from_millis(100);

/// How often a core that is full looks whether it may accept again.
const FULL_LOOK: Duration = Duration::from_millis(5);
/// How often a stopping core looks whether the kernel takes no more connections for it.
const ACCEPT_LOOK: Duration = Duration::from_millis(1);
/// How often a stopping core looks whether it may leave.
const STOP_LOOK: Duration = Duration::from_millis(10);
/// For writing out what the store was given.
const STORE_STOP: Duration = Duration::from_secs(5);

/// Tells all cores to stop: at once but for what is under way, or when the connections that they have are over since another
/// process takes the new ones.
#[derive(Default)]
pub struct Stop {
    stopped: AtomicBool,
    replaced: AtomicBool,
    /// Another process writes to the store, so that the keepers have ended.
    no_store: AtomicBool,
    /// And has ended before it served: nobody writes to it.
    orphaned: AtomicBool,
    /// Cores that accept nothing any more.
    pub unaccepting: AtomicUsize,
    /// Sockets for HTTP/3 that are not read any more.
    pub unread: AtomicUsize,
    /// Cores whose ring has no memory registered any more.
    unregistered: AtomicUsize,
    /// The RAM tier's memory has been given back.
    is_light: AtomicBool,
    /// Cores without a connection.
    left: AtomicUsize,
    /// Cores that have nothing under way any more.
    quiet: AtomicUsize,
    waiters: Mutex<Vec<Waker>>,
}

impl Stop {
    /// Says so.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Another process has taken this one's place.
    pub fn replace(&self) {
        self.replaced.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Another process has the store.
    pub fn give_store(&self) {
        self.no_store.store(true, Ordering::SeqCst);
    }

    /// Whether that was said.
    pub fn has_no_store(&self) -> bool {
        self.no_store.load(Ordering::SeqCst)
    }

    /// Who has the store has ended, and serves nobody; or another one has come to ask.
    pub fn set_orphaned(&self, is_orphaned: bool) {
        self.orphaned.store(is_orphaned, Ordering::SeqCst);
    }

    /// Whether nobody writes to the store.
    pub fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::SeqCst)
    }

    /// Whether [`Stop::replace`] was said.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::SeqCst)
    }

    /// Whether the memory that a successor wants was given back.
    pub fn is_light(&self) -> bool {
        self.is_light.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        let waiters =
            std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
        for waiter in waiters {
            waiter.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            self.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
            let is_over = self.stopped.load(Ordering::SeqCst) || self.is_replaced();
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http,
    Https,
    Admin,
}

/// What one core is given at start.
pub struct CoreParts {
    pub index: usize,
    pub listeners: Vec<(StdListener, Speaks)>,
    /// Sockets for HTTP/3.
    pub datagrams: Vec<EndpointParts>,
    pub tls: Arc<ArcSwapOption<Tls>>,
    /// Who has called, on any core.
    pub callers: Arc<Callers>,
    pub stop: Arc<Stop>,
    /// Rises while the core is alive.
    pub ticks: Arc<AtomicU64>,
    pub drain_seconds: u64,
    /// Over how long clients are told to come anew when this process was replaced.
    pub goodbye: Duration,
    /// As [`crate::args::Args`] has it.
    pub fault: Option<PathBuf>,
    /// Says when the arena is to be registered, if that was not to be at the start.
    pub register: Option<Arc<AtomicBool>>,
}

/// Runs a core until it is told to stop and its requests have ended, or the drain time is over.
pub async fn run(parts: CoreParts, node: Arc<Node>) {
    let counters = node.counters[parts.index].clone();
    let pool = Rc::new(Pool::new(node.idle.clone()));
    let devices = node.stores.devices().iter().map(|_| OnceCell::new()).collect();
    let core = Rc::new(Core {
        node,
        index: parts.index,
        pool,
        devices,
        counters,
        clients: Cell::new(0),
        busy: Cell::new(0),
        lines: RefCell::new(Vec::new()),
        routes: RefCell::default(),
    });
    let drain = Rc::new(Drain::default());
    let replaced = Rc::new(Drain::default());
    let mut listeners = Vec::new();
    for (listener, speaks) in parts.listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let listener = Rc::new(listener);
                let gate = Gate {
                    speaks,
                    tls: parts.tls.clone(),
                    callers: parts.callers.clone(),
                    drain: drain.clone(),
                };
                spawn(accept(core.clone(), listener.clone(), gate));
                listeners.push(listener);
            }
            Err(error) => eprintln!("tidegated: core {}: a listener is lost: {error}", parts.index),
        }
    }
    for socket in parts.datagrams {
        let stages =
            Stages { drain: drain.clone(), replaced: replaced.clone(), stop: parts.stop.clone() };
        let (core, tls, callers) = (core.clone(), parts.tls.clone(), parts.callers.clone());
        if let Err(error) = Endpoint::start(core, stages, tls, callers, socket) {
            eprintln!("tidegated: core {}: a socket for HTTP/3 is lost: {error}", parts.index);
        }
    }
    if core.index == 0 {
        spawn(next_hop::probe(core.clone()));
    }
    if let Some(file) = parts.fault.filter(|_| core.index + 1 == core.node.counters.len()) {
        spawn(be_faulty(file));
    }
    let (ticking, ticks, mut register) = (core.clone(), parts.ticks, parts.register);
    let stop = parts.stop.clone();
    spawn(async move {
        loop {
            ticks.fetch_add(1, Ordering::Relaxed);
            // Not after its own successor has come: what is given back then may be registered with no ring.
            if !stop.is_replaced()
                && register.as_ref().is_some_and(|is_due| is_due.load(Ordering::SeqCst))
            {
                // A piece each time: the first core touches memory that nobody has used yet.
                match tidegate_ring::register_piece(&ticking.node.arena) {
                    Ok(true) => {}
                    Ok(false) => register = None,
                    Err(error) => {
                        register = None;
                        eprintln!(
                            "tidegated: core {}: buffers are not registered with the kernel: {error}; disk reads cost more\n    \
                             mend: LimitMEMLOCK=infinity, or CAP_IPC_LOCK",
                            ticking.index
                        );
                    }
                }
            }
            ticking.flush_log();
            ticking.pool.sweep();
            if ticking.index == 0 {
                purge::sweep(&ticking);
                ticking.node.stores.tend();
            }
            sleep(TICK).await;
        }
    });
    parts.stop.wait().await;
    // What they took is served; what they did not is the successor's. They close when the last of it has been given out.
    listeners.iter().for_each(|listener| listener.stop());
    while !listeners.iter().all(|listener| listener.has_stopped()) {
        sleep(ACCEPT_LOOK).await;
    }
    drop(listeners);
    parts.stop.unaccepting.fetch_add(1, Ordering::SeqCst);
    if parts.stop.is_replaced() {
        replaced.begin();
        tidegate_ring::unregister_arena();
        let unregistered = parts.stop.unregistered.fetch_add(1, Ordering::SeqCst) + 1;
        if unregistered == core.node.counters.len() {
            core.node.let_memory_go();
            parts.stop.is_light.store(true, Ordering::SeqCst);
        }
    }
    match parts.stop.is_replaced() {
        true => drain.begin_over(parts.goodbye),
        false => drain.begin(),
    }
    leave(&core, &parts.stop).await;
    drain.begin(); // a stop does not wait for those whose moment has not come
    let quiet = async {
        loop {
            // Connections that say goodbye have begun to when it is looked at first.
            sleep(STOP_LOOK).await;
            if core.busy.get() == 0 {
                break;
            }
        }
        // Clients of other cores may read from this core's fills, and have their extents kept by the first core.
        parts.stop.quiet.fetch_add(1, Ordering::SeqCst);
        while parts.stop.quiet.load(Ordering::SeqCst) < core.node.counters.len() {
            sleep(STOP_LOOK).await;
        }
    };
    // When the time is over, what is left is cut off.
    let _drained = timeout(Duration::from_secs(parts.drain_seconds), quiet).await;
    if core.index == 0 {
        let stores = core.node.stores.devices();
        stores.iter().for_each(|store| store.queue.close());
        let written = async {
            while !stores.iter().all(|store| store.queue.is_done()) {
                sleep(STOP_LOOK).await;
            }
        };
        let _written_or_late = timeout(STORE_STOP, written).await;
    }
    core.flush_log();
}

/// What no request can bring about, and tests have to.
async fn be_faulty(file: PathBuf) {
    loop {
        sleep(TICK).await;
        match std::fs::read(&file).as_deref() {
            Ok(b"panic") => panic!("this core was told to end"),
            Ok(b"hang") => std::thread::sleep(Duration::from_secs(3600)),
            _ => {}
        }
    }
}

/// The connections of a process that was replaced end by themselves, however long that takes; a stop ends the wait.
async fn leave(core: &Core, stop: &Stop) {
    let is_stopped = || stop.stopped.load(Ordering::SeqCst);
    while !is_stopped() && (core.clients.get() > 0 || core.busy.get() > 0) {
        sleep(STOP_LOOK).await;
    }
    // Other cores may read from this one's fills.
    stop.left.fetch_add(1, Ordering::SeqCst);
    while !is_stopped() && stop.left.load(Ordering::SeqCst) < core.node.counters.len() {
        sleep(STOP_LOOK).await;
    }
}

/// What tells an endpoint of HTTP/3 how far this core is.
pub struct Stages {
    pub drain: Rc<Drain>,
    /// Its socket is another process' from then on.
    pub replaced: Rc<Drain>,
    pub stop: Arc<Stop>,
}

/// What a listener lets in.
struct Gate {
    speaks: Speaks,
    tls: Arc<ArcSwapOption<Tls>>,
    callers: Arc<Callers>,
    drain: Rc<Drain>,
}

async fn accept(core: Rc<Core>, listener: Rc<TcpListener>, gate: Gate) {
    let Gate { speaks, tls, callers, drain } = gate;
    loop {
        // An operator is let in whatever happens.
        while speaks != Speaks::Admin
            && (core.clients.get() >= CLIENTS_MAX
                || core.node.memory.pressure() >= Pressure::Scarce)
        {
            sleep(FULL_LOOK).await;
        }
        let Some(stream) = listener.accept().await else { return };
        let is_spoken = match speaks {
            Speaks::Http => false,
            Speaks::Https => tls.load().is_some(),
            Speaks::Admin => tls.load().as_ref().is_some_and(|tls| tls.guards_admin()),
        };
        let tls = is_spoken.then(|| tls.clone());
        let cost = CLIENT_BYTES + if tls.is_some() { CLIENT_TLS_BYTES } else { 0 };
        let seat = Seat::take(&core, cost);
        let (drain, callers) = (drain.clone(), callers.clone());
        core.spawn(async move {
            let core = seat.0.clone();
            let Ok(peer) = stream.peer_addr() else { return }; // gone already
            let call = match speaks {
                Speaks::Admin => Ok(Call::unlimited()),
                Speaks::Http | Speaks::Https => let_in(&core, &callers, peer),
            };
            let Ok(call) = call else { return };
            let _slow = stream.set_nodelay();
            match (speaks, tls) {
                (Speaks::Http, _) => serve(core, stream, peer, Face::Traffic).await,
                (Speaks::Admin, None) => serve(core, stream, peer, Face::Admin).await,
                (Speaks::Https, None) => {}
                (Speaks::Admin, Some(tls)) => {
                    serve_tls(core, drain, stream, (tls, Door::Admin), peer, call).await;
                }
                (Speaks::Https, Some(tls)) => {
                    serve_tls(core, drain, stream, (tls, Door::Traffic), peer, call).await;
                }
            }
        });
    }
}

/// Lets a client in whose address is known to be his, if his address may have one more connection.
pub fn let_in(core: &Core, callers: &Arc<Callers>, peer: SocketAddr) -> Result<Call, TurnedAway> {
    let view = core.node.view.load();
    if view.is_of_fleet(peer.ip()) {
        return Ok(Call::unlimited());
    }
    let call = callers.admit(peer, &view.me.machine.client_limits, now());
    call.inspect_err(|_| core.count(|c| &c.clients_turned_away_total, 1))
}

/// Counts a connection from its first moment, handshake included.
pub struct Seat(Rc<Core>, u64);

impl Seat {
    pub fn take(core: &Rc<Core>, bytes: u64) -> Seat {
        core.clients.set(core.clients.get() + 1);
        core.node.memory.client_came(bytes);
        Seat(core.clone(), bytes)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get() - 1);
        self.0.node.memory.client_went(self.1);
    }
}

async fn serve_tls(
    core: Rc<Core>,
    drain: Rc<Drain>,
    stream: TcpStream,
    (tls, door): (Arc<ArcSwapOption<Tls>>, Door),
    peer: SocketAddr,
    call: Call,
) {
    match TlsClient::accept(&core, stream, &tls, door).await {
        Ok((mut stream, face)) => {
            core.count(|c| &c.tls_handshakes_total, 1);
            if face == Face::Traffic && stream.protection() == Protection::Tls12 {
                core.count(|c| &c.tls12_handshakes_total, 1);
            }
            stream.seal_by_kernel(&core);
            match stream.speaks_h2() {
                true => h2::serve(core, drain, stream.into_inner(), peer, face, call).await,
                false => serve(core, stream, peer, face).await,
            }
        }
        Err(_) => core.count(|c| &c.tls_errors_total, 1),
    }
}
