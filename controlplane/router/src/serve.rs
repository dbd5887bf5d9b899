//! The router role: sockets and timers around the pure parts.
//!
//! Must stay true: snapshot and health are read without locks on the way of a request; a new snapshot or a
//! change of health is one pointer swap.

use crate::decision_log::DecisionLog;
use crate::limit::Limiter;
use crate::view::RouterView;
use crate::zone::Zone;
use arc_swap::ArcSwap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_contract::heartbeat::DATAGRAM_BYTES_MAX;
use tidegate_contract::{Datagram, HeartbeatKey, Server, Snapshot};
use tidegate_dns::Rcode;
use tidegate_monitor::listen::{Limited, Peer};
use tidegate_monitor::{
    STOOD_STILL, StartError, Transition, admin_tls, bind_admin, bind_tcp, bind_udp, operators,
};
use tidegate_steer::{Decision, Detail, Geo, Health, Reason, State, Table};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// The sockets of a router.
#[derive(Debug)]
pub struct Sockets {
    pub dns_udp: Vec<UdpSocket>,
    pub dns_tcp: Vec<TcpListener>,
    pub http: Vec<TcpListener>,
    pub heartbeats: Vec<UdpSocket>,
    pub admin: TcpListener,
}

impl Sockets {
    /// Binds what the snapshot says about `server`.
    pub async fn bind(server: &Server) -> Result<Sockets, StartError> {
        let admin = bind_admin(server).await?;
        let (mut dns_udp, mut dns_tcp, mut http, mut heartbeats) = (vec![], vec![], vec![], vec![]);
        for address in &server.addresses {
            if let Some(port) = server.dns_port {
                dns_udp.push(bind_udp("DNS", (*address, port).into()).await?);
                dns_tcp.push(bind_tcp("DNS", (*address, port).into()).await?);
            }
            if let Some(port) = server.http_port {
                http.push(bind_tcp("HTTP", (*address, port).into()).await?);
            }
            if let Some(port) = server.heartbeat_port {
                heartbeats.push(bind_udp("heartbeats", (*address, port).into()).await?);
            }
        }
        Ok(Sockets { dns_udp, dns_tcp, http, heartbeats, admin })
    }
}

/// What a router is started with.
#[derive(Debug)]
pub struct RouterOptions {
    /// Its id in the snapshot.
    pub node: String,
    pub geo: Option<Arc<Geo>>,
    pub log: DecisionLog,
    /// DNS answers over UDP per second and network; 0: no limit.
    pub dns_answers_per_second: u32,
}

/// A running router; ends when dropped.
#[derive(Debug)]
pub struct Router {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: String,
    geo: Option<Arc<Geo>>,
    pub(crate) running: ArcSwap<Running>,
    pub(crate) health: ArcSwap<Health>,
    /// Newest first; the one before is still taken, so that a change of keys loses no heartbeat.
    keys: ArcSwap<Vec<HeartbeatKey>>,
    view: Mutex<RouterView>,
    pub(crate) log: DecisionLog,
    started: Instant,
    pub(crate) counters: Counters,
}

/// What is derived from one snapshot.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) table: Table,
    pub(crate) zone: Zone,
}

impl Running {
    fn new(snapshot: Arc<Snapshot>, geo: Option<Arc<Geo>>) -> Running {
        let zone = Zone::new(&snapshot).expect("a checked snapshot has only names that fit DNS");
        Running { zone, table: Table::new(snapshot, geo) }
    }
}

/// Starts the router `options.node` of `snapshot`, which must have been verified, on the given sockets.
pub fn start(options: RouterOptions, snapshot: Arc<Snapshot>, sockets: Sockets) -> Router {
    let shared = Arc::new(Shared {
        node: options.node,
        view: Mutex::new(RouterView::new(&snapshot)),
        keys: ArcSwap::from_pointee(tidegate_monitor::keys(&snapshot, None)),
        running: ArcSwap::from_pointee(Running::new(snapshot, options.geo.clone())),
        geo: options.geo,
        health: ArcSwap::from_pointee(Health::default()),
        log: options.log,
        started: Instant::now(),
        counters: Counters::default(),
    });
    let mut tasks = JoinSet::new();
    for (index, socket) in sockets.dns_udp.into_iter().enumerate() {
        let seed = tidegate_monitor::unix_ms() ^ ((index as u64) << 48);
        tasks.spawn(crate::dns::udp(
            shared.clone(),
            socket,
            Limiter::new(options.dns_answers_per_second, seed),
        ));
    }
    for listener in sockets.dns_tcp {
        tasks.spawn(crate::dns::tcp(shared.clone(), listener));
    }
    for listener in sockets.http {
        let app = axum::Router::new().fallback(crate::http::redirect).with_state(shared.clone());
        tasks.spawn(serve(listener, app, HTTP_CONNECTIONS_MAX));
    }
    for socket in sockets.heartbeats {
        tasks.spawn(receive(shared.clone(), socket));
    }
    let (routes, asked) = (crate::admin::routes(shared.clone()), shared.clone());
    let said = move || admin_tls(asked.running.load().table.snapshot(), &asked.node);
    tasks.spawn(operators::serve("router", sockets.admin, routes, said));
    tasks.spawn(judge(shared.clone()));
    Router { shared, _tasks: tasks }
}

impl Router {
    /// Takes up another snapshot.
    pub fn adopt(&self, snapshot: Arc<Snapshot>) {
        self.adopter()(snapshot);
    }

    /// What takes up another snapshot, for a task that follows the file.
    pub fn adopter(&self) -> impl Fn(Arc<Snapshot>) + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |snapshot| {
            shared.view().adopt(&snapshot);
            let before = shared.keys.load().first().cloned();
            shared.keys.store(Arc::new(tidegate_monitor::keys(&snapshot, before)));
            shared.running.store(Arc::new(Running::new(snapshot, shared.geo.clone())));
            shared.renew();
        }
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A panic elsewhere leaves the view whole: every change of it is complete before the lock is given back.
    pub(crate) fn view(&self) -> MutexGuard<'_, RouterView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the health that requests see anew.
    fn renew(&self) {
        let health = self.view().health(self.now());
        self.health.store(Arc::new(health));
    }
}

async fn serve(listener: TcpListener, app: axum::Router, connections_max: usize) {
    let listener = Limited::new(listener, connections_max);
    // `serve` ends only with the task.
    let _ = axum::serve(listener, app.into_make_service_with_connect_info::<Peer>()).await;
}

/// Takes heartbeats of servers and verdicts of monitors.
async fn receive(shared: Arc<Shared>, socket: UdpSocket) {
    let mut buffer = [0u8; DATAGRAM_BYTES_MAX + 1];
    loop {
        // An error here is an ICMP message about an earlier datagram; the socket stays usable.
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        let count = &shared.counters;
        let now = shared.now();
        match tidegate_monitor::open(&buffer[..length], &shared.keys.load()) {
            Some(Datagram::Heartbeat(beat)) => match shared.view().heartbeat(now, &beat) {
                Ok(transition) => {
                    count.heartbeats.fetch_add(1, Relaxed);
                    tell(transition.as_slice());
                }
                Err(_) => drop(count.datagrams_unused.fetch_add(1, Relaxed)),
            },
            Some(Datagram::Verdicts(said)) => match shared.view().verdicts(now, &said) {
                Ok(()) => drop(count.verdicts.fetch_add(1, Relaxed)),
                Err(_) => drop(count.datagrams_unused.fetch_add(1, Relaxed)),
            },
            None => drop(count.datagrams_refused.fetch_add(1, Relaxed)),
        }
    }
}

/// Lets time pass for the view, and renews what requests see when a state changed.
async fn judge(shared: Arc<Shared>) {
    let mut timer = tokio::time::interval(TICK);
    let mut before = shared.now();
    let mut seen: Vec<(String, State)> = Vec::new();
    loop {
        timer.tick().await;
        let now = shared.now();
        let gap = now.saturating_sub(before);
        before = now;
        let changed = {
            let mut view = shared.view();
            if gap > STOOD_STILL {
                view.stood_still(now, gap);
            }
            tell(&view.tick(now));
            let states = view.states(now);
            let changed =
                !states.iter().copied().eq(seen.iter().map(|(id, state)| (id.as_str(), *state)));
            if changed {
                seen = states.into_iter().map(|(id, state)| (id.to_owned(), state)).collect();
            }
            changed
        };
        if changed {
            shared.renew();
        }
    }
}

fn tell(transitions: &[Transition]) {
    for transition in transitions {
        eprintln!("router: {} {:?} -> {:?}", transition.server, transition.from, transition.to);
    }
}

/// Counters of a router; rendered by `metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) http_redirects: AtomicU64,
    pub(crate) http_no_service: AtomicU64,
    pub(crate) http_no_edge: AtomicU64,
    pub(crate) http_other: AtomicU64,
    dns: [AtomicU64; 7],
    pub(crate) dns_ignored: AtomicU64,
    pub(crate) dns_truncated: AtomicU64,
    pub(crate) dns_silenced: AtomicU64,
    pub(crate) dns_slipped: AtomicU64,
    pub(crate) heartbeats: AtomicU64,
    pub(crate) verdicts: AtomicU64,
    pub(crate) datagrams_refused: AtomicU64,
    pub(crate) datagrams_unused: AtomicU64,
    decisions: [AtomicU64; 4],
    panics: AtomicU64,
}

impl Counters {
    /// The counter of answers with this code.
    pub(crate) fn dns(&self, rcode: Rcode) -> &AtomicU64 {
        let index = RCODES.iter().position(|(known, _)| *known == rcode).unwrap_or(0);
        &self.dns[index]
    }

    /// Counts how a client was placed.
    pub(crate) fn decided(&self, decision: &Decision) {
        if let Some(index) = REASONS.iter().position(|reason| decision.reason == Some(*reason)) {
            self.decisions[index].fetch_add(1, Relaxed);
        }
        self.panics.fetch_add(u64::from(decision.detail == Some(Detail::Panic)), Relaxed);
    }

    pub(crate) fn render(&self, text: &mut String) {
        let mut family = |name: &str, help: &str, rows: &[(String, &AtomicU64)]| {
            let _ = write!(
                text,
                "# HELP tidegate_router_{name} {help}\n# TYPE tidegate_router_{name} counter\n"
            );
            for (labels, value) in rows {
                let _ = writeln!(text, "tidegate_router_{name}{labels} {}", value.load(Relaxed));
            }
        };
        let label = |name: &str, value: &str| format!("{{{name}=\"{value}\"}}");
        let http = [
            (label("outcome", "redirect"), &self.http_redirects),
            (label("outcome", "no-service"), &self.http_no_service),
            (label("outcome", "no-edge"), &self.http_no_edge),
            (label("outcome", "other"), &self.http_other),
        ];
        family("http_requests_total", "HTTP requests by outcome.", &http);
        let dns: Vec<_> = RCODES
            .iter()
            .zip(&self.dns)
            .map(|((_, word), value)| (label("rcode", word), value))
            .collect();
        family("dns_answers_total", "DNS answers by code.", &dns);
        let reasons = REASONS.iter().zip(&self.decisions);
        let decisions: Vec<_> =
            reasons.map(|(reason, value)| (label("rtype", reason.word()), value)).collect();
        family("decisions_total", "Decisions by how the client was placed.", &decisions);
        for (name, help, value) in [
            ("decisions_panic_total", "Decisions made with no edge up anywhere.", &self.panics),
            ("dns_ignored_total", "DNS messages that got no answer.", &self.dns_ignored),
            (
                "dns_truncated_total",
                "DNS answers with TC set for their length.",
                &self.dns_truncated,
            ),
            (
                "dns_silenced_total",
                "DNS queries over the rate of their network.",
                &self.dns_silenced,
            ),
            (
                "dns_slipped_total",
                "DNS answers over the rate, sent empty with TC set.",
                &self.dns_slipped,
            ),
            ("heartbeats_total", "Heartbeats taken.", &self.heartbeats),
            ("verdicts_total", "Verdict datagrams taken.", &self.verdicts),
            (
                "datagrams_refused_total",
                "Datagrams malformed or with a wrong MAC.",
                &self.datagrams_refused,
            ),
            (
                "datagrams_unused_total",
                "Datagrams repeated, overtaken, or of strangers.",
                &self.datagrams_unused,
            ),
        ] {
            family(name, help, &[(String::new(), value)]);
        }
    }
}

const RCODES: [(Rcode, &str); 7] = [
    (Rcode::NoError, "NOERROR"),
    (Rcode::FormErr, "FORMERR"),
    (Rcode::ServFail, "SERVFAIL"),
    (Rcode::NxDomain, "NXDOMAIN"),
    (Rcode::NotImp, "NOTIMP"),
    (Rcode::Refused, "REFUSED"),
    (Rcode::BadVers, "BADVERS"),
];
const REASONS: [Reason; 4] = [Reason::CoverageZone, Reason::Geo, Reason::Miss, Reason::StaticRoute];
/// How often silence is looked for; a part of what a fall takes to be seen.
const TICK: Duration = Duration::from_millis(20);
const HTTP_CONNECTIONS_MAX: usize = 20_000;
