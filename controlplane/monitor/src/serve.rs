//! The monitor role: sockets and timers around a [`HealthTable`].
//!
//! Must stay true: a verdict goes out with every change at once, and every 200 ms in any case, so that
//! routers can tell a silent monitor from an unchanged world.

use crate::health::{HealthTable, Refusal, STOOD_STILL, Transition};
use crate::operators;
use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};
use std::fmt;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_contract::heartbeat::{DATAGRAM_BYTES_MAX, decode};
use tidegate_contract::{
    Datagram, FleetTls, HEARTBEAT_INTERVAL_MS, HeartbeatKey, Role, Server, ServerStatus, Snapshot,
    Stamp, Verdicts,
};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// The sockets of a monitor.
#[derive(Debug)]
pub struct Sockets {
    pub heartbeats: Vec<UdpSocket>,
    pub admin: TcpListener,
}

/// A socket could not be had.
#[derive(Debug)]
pub struct StartError {
    pub what: &'static str,
    pub address: SocketAddr,
    pub error: std::io::Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StartError { what, address, error } = self;
        write!(
            f,
            "cannot listen for {what} on {address}: {error}; free the port or change it in servers.toml"
        )
    }
}

impl std::error::Error for StartError {}

impl Sockets {
    /// Binds what the snapshot says about `server`.
    pub async fn bind(server: &Server) -> Result<Sockets, StartError> {
        let mut heartbeats = Vec::new();
        for address in &server.addresses {
            heartbeats.push(
                bind_udp("heartbeats", (*address, server.heartbeat_port.unwrap_or(0)).into())
                    .await?,
            );
        }
        Ok(Sockets { heartbeats, admin: bind_admin(server).await? })
    }
}

/// The admin listener of a server: on its first address.
pub async fn bind_admin(server: &Server) -> Result<TcpListener, StartError> {
    let first = server.addresses.first().copied();
    let address = first.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    bind_tcp("admin", (address, server.admin_port).into()).await
}

pub async fn bind_tcp(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError { what, address, error })
}

pub async fn bind_udp(what: &'static str, address: SocketAddr) -> Result<UdpSocket, StartError> {
    UdpSocket::bind(address).await.map_err(|error| StartError { what, address, error })
}

/// What a monitor is started with.
#[derive(Debug, Clone)]
pub struct MonitorOptions {
    /// Its id in the snapshot.
    pub node: String,
}

/// A running monitor; ends when dropped.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    node: String,
    snapshot: ArcSwap<Snapshot>,
    /// Newest first; the one before is still taken, so that a change of keys loses no heartbeat.
    keys: ArcSwap<Vec<HeartbeatKey>>,
    table: Mutex<HealthTable>,
    started: Instant,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    heartbeats: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    old: AtomicU64,
    verdicts: AtomicU64,
    transitions: AtomicU64,
}

/// Starts the monitor `options.node` of `snapshot` on the given sockets.
pub fn start(options: MonitorOptions, snapshot: Arc<Snapshot>, sockets: Sockets) -> Monitor {
    let shared = Arc::new(Shared {
        node: options.node,
        table: Mutex::new(HealthTable::new(&snapshot)),
        keys: ArcSwap::from_pointee(keys(&snapshot, None)),
        snapshot: ArcSwap::from(snapshot),
        started: Instant::now(),
        counters: Counters::default(),
    });
    let mut tasks = JoinSet::new();
    let heartbeats: Vec<Arc<UdpSocket>> = sockets.heartbeats.into_iter().map(Arc::new).collect();
    // A change is told at once; more than one waiting change is still one round.
    let (changed, changes) = tokio::sync::mpsc::channel::<()>(1);
    for socket in &heartbeats {
        tasks.spawn(receive(shared.clone(), socket.clone(), changed.clone()));
    }
    tasks.spawn(judge(shared.clone(), changed));
    tasks.spawn(tell(shared.clone(), heartbeats, changes));
    tasks.spawn(admin(shared.clone(), sockets.admin));
    Monitor { shared, _tasks: tasks }
}

impl Monitor {
    /// Takes up another snapshot.
    pub fn adopt(&self, snapshot: Arc<Snapshot>) {
        self.adopter()(snapshot);
    }

    /// What takes up another snapshot, for a task that follows the file.
    pub fn adopter(&self) -> impl Fn(Arc<Snapshot>) + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |snapshot| {
            shared.table().adopt(&snapshot);
            let before = shared.keys.load().first().cloned();
            shared.keys.store(Arc::new(keys(&snapshot, before)));
            shared.snapshot.store(snapshot);
        }
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A panic elsewhere leaves the table whole: every change of it is complete before the lock is given
    /// back.
    fn table(&self) -> MutexGuard<'_, HealthTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys to accept: the snapshot's, then the one before.
pub fn keys(snapshot: &Snapshot, before: Option<HeartbeatKey>) -> Vec<HeartbeatKey> {
    let key = HeartbeatKey::from_hex(&snapshot.keys.heartbeat_hex).ok();
    key.into_iter().chain(before).collect()
}

/// Milliseconds of the wall clock, for boot ids and for people.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Reads a datagram with any of the keys.
pub fn open(bytes: &[u8], keys: &[HeartbeatKey]) -> Option<Datagram> {
    keys.iter().find_map(|key| decode(bytes, key).ok())
}

async fn receive(
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    changed: tokio::sync::mpsc::Sender<()>,
) {
    let mut buffer = [0u8; DATAGRAM_BYTES_MAX + 1];
    loop {
        // An error here is an ICMP message about an earlier datagram; the socket stays usable.
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        let count = &shared.counters;
        let Some(Datagram::Heartbeat(beat)) = open(&buffer[..length], &shared.keys.load()) else {
            count.refused.fetch_add(1, Relaxed);
            continue;
        };
        match shared.table().heartbeat(shared.now(), &beat) {
            Ok(transition) => {
                count.heartbeats.fetch_add(1, Relaxed);
                told(&shared, transition.as_slice(), &changed);
            }
            Err(Refusal::Unknown) => drop(count.unknown.fetch_add(1, Relaxed)),
            Err(Refusal::Old) => drop(count.old.fetch_add(1, Relaxed)),
        }
    }
}

async fn judge(shared: Arc<Shared>, changed: tokio::sync::mpsc::Sender<()>) {
    let mut timer = tokio::time::interval(TICK);
    let mut before = shared.now();
    loop {
        timer.tick().await;
        let now = shared.now();
        let gap = now.saturating_sub(before);
        before = now;
        let transitions = {
            let mut table = shared.table();
            if gap > STOOD_STILL {
                table.stood_still(now, gap);
            }
            table.tick(now)
        };
        told(&shared, &transitions, &changed);
    }
}

fn told(shared: &Shared, transitions: &[Transition], changed: &tokio::sync::mpsc::Sender<()>) {
    for transition in transitions {
        shared.counters.transitions.fetch_add(1, Relaxed);
        eprintln!("monitor: {} {:?} -> {:?}", transition.server, transition.from, transition.to);
        let _ = changed.try_send(());
    }
}

/// Sends verdicts to all routers of the snapshot.
async fn tell(
    shared: Arc<Shared>,
    sockets: Vec<Arc<UdpSocket>>,
    mut changes: tokio::sync::mpsc::Receiver<()>,
) {
    let boot = unix_ms();
    let mut sequence = 0;
    let mut wire = Vec::new();
    let mut timer = tokio::time::interval(Duration::from_millis(HEARTBEAT_INTERVAL_MS));
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            Some(()) = changes.recv() => {}
        }
        let verdicts = shared.table().verdicts();
        let snapshot = shared.snapshot.load_full();
        let keys = shared.keys.load_full();
        let Some(key) = keys.first() else { continue };
        let mut rest = &verdicts[..];
        // An empty round is sent too: the monitor lives.
        loop {
            let count = Verdicts::fitting(&shared.node, rest);
            let stamp = Stamp { boot, sequence, unix_ms: unix_ms() };
            let part =
                Verdicts { monitor: shared.node.clone(), stamp, verdicts: rest[..count].to_vec() };
            sequence += 1;
            part.encode(key, &mut wire);
            for target in router_addresses(&snapshot) {
                let socket = sockets
                    .iter()
                    .find(|s| s.local_addr().is_ok_and(|a| a.is_ipv4() == target.is_ipv4()));
                if let Some(socket) = socket
                    && socket.send_to(&wire, target).await.is_ok()
                {
                    shared.counters.verdicts.fetch_add(1, Relaxed);
                }
            }
            rest = &rest[count..];
            if rest.is_empty() || count == 0 {
                break;
            }
        }
    }
}

fn router_addresses(snapshot: &Snapshot) -> impl Iterator<Item = SocketAddr> {
    let routers = snapshot
        .servers
        .iter()
        .filter(|s| s.role == Role::Router && s.status != ServerStatus::Offline);
    routers.filter_map(|s| Some((*s.addresses.first()?, s.heartbeat_port?).into()))
}

async fn admin(shared: Arc<Shared>, listener: TcpListener) {
    let app = axum::Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/publish/CrStates", get(cr_states))
        .with_state(shared.clone());
    let said = move || admin_tls(&shared.snapshot.load(), &shared.node);
    operators::serve("monitor", listener, app, said).await;
}

/// What `node` asks of operators.
pub fn admin_tls(snapshot: &Snapshot, node: &str) -> Option<FleetTls> {
    let server = snapshot.servers.iter().find(|server| server.id == node)?;
    server.machine.admin_tls.clone()
}

async fn status(State(shared): State<Arc<Shared>>) -> axum::Json<Value> {
    let table = shared.table();
    let servers: Vec<_> = table.view(shared.now()).map(|view| json!(view)).collect();
    let generation = shared.snapshot.load().generation;
    axum::Json(json!({ "monitor": shared.node, "generation": generation, "servers": servers }))
}

/// Traffic Control's shape, so that its tools keep working.
async fn cr_states(State(shared): State<Arc<Shared>>) -> axum::Json<Value> {
    let snapshot = shared.snapshot.load_full();
    let table = shared.table();
    let mut caches = serde_json::Map::new();
    for server in snapshot.servers.iter().filter(|s| matches!(s.role, Role::Edge | Role::Parent)) {
        let available = match server.status {
            ServerStatus::Online => true,
            ServerStatus::Reported => {
                table.word(&server.id).is_some_and(|word| word.is_available())
            }
            ServerStatus::AdminDown | ServerStatus::Offline => false,
        };
        let family = |v4: bool| available && server.addresses.iter().any(|a| a.is_ipv4() == v4);
        let (v4, v6) = (family(true), family(false));
        let state = json!({ "isAvailable": available, "ipv4Available": v4, "ipv6Available": v6 });
        caches.insert(server.id.clone(), state);
    }
    axum::Json(json!({ "caches": caches, "deliveryServices": {} }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let count = &shared.counters;
    let mut text = String::new();
    for (name, help, value) in [
        ("heartbeats_total", "Heartbeats taken.", &count.heartbeats),
        (
            "datagrams_refused_total",
            "Datagrams that were malformed or whose MAC did not fit.",
            &count.refused,
        ),
        ("heartbeats_unknown_total", "Heartbeats of servers that are not watched.", &count.unknown),
        ("heartbeats_old_total", "Heartbeats repeated or overtaken.", &count.old),
        ("verdict_datagrams_total", "Verdict datagrams sent.", &count.verdicts),
        ("transitions_total", "Changes of what is held of a server.", &count.transitions),
    ] {
        let _ = write!(
            text,
            "# HELP tidegate_monitor_{name} {help}\n# TYPE tidegate_monitor_{name} counter\n"
        );
        let _ = writeln!(text, "tidegate_monitor_{name} {}", value.load(Relaxed));
    }
    text.push_str("# HELP tidegate_monitor_server_available Whether a server may get clients.\n");
    text.push_str("# TYPE tidegate_monitor_server_available gauge\n");
    for view in shared.table().view(shared.now()) {
        let up = u8::from(view.word.is_available());
        let _ =
            writeln!(text, "tidegate_monitor_server_available{{server=\"{}\"}} {up}", view.server);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// How often silence is looked for; a part of what a fall takes to be seen.
const TICK: Duration = Duration::from_millis(20);
