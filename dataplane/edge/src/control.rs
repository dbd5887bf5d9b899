//! What the main thread does while the cores serve: signals, heartbeats, snapshot, purge log, certificate.
//!
//! Must stay true: heartbeats stop when a core does; a refused snapshot or certificate leaves the old one running
//! and is said once; stopping tells routers and monitors first.

use crate::core::Stop;
use crate::handover::Offer;
use crate::notify::Notify;
use crate::origins;
use crate::purge_file::PurgeFile;
use crate::retry::Retry;
use crate::snapshot::Source;
use crate::tls::{self, Tls};
use arc_swap::ArcSwapOption;
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tidegate_contract::{
    Heartbeat, HeartbeatKey, Load, Role, Server, ServingState, Snapshot, Stamp,
};
use tidegate_engine::catch_up;
use tidegate_engine::clock::wall_ms;
use tidegate_engine::{Node, View};
use tidegate_ring::signal::{self, Signal};
use tidegate_telemetry::{Counters, Totals};

const HEARTBEAT_SPAN: Duration = Duration::from_millis(200);
const SNAPSHOT_SPAN: Duration = Duration::from_millis(500);
/// What is to be told of certificates that do not change is told as often.
const TELL_SPAN: Duration = Duration::from_secs(24 * 3600);
/// A core that has not ticked for this long is taken for stuck.
const TICK_SPAN_MAX: Duration = Duration::from_secs(1);

/// The main thread's job after start.
pub struct Control<'a> {
    pub node: Arc<Node>,
    pub source: Source,
    pub purges: PurgeFile,
    pub certificate: Arc<ArcSwapOption<Tls>>,
    pub ticks: Vec<Arc<AtomicU64>>,
    pub stop: Arc<Stop>,
    pub log_reopen: Arc<AtomicBool>,
    pub cores: &'a [JoinHandle<()>],
    pub keepers: &'a [JoinHandle<()>],
    /// `None`: this process cannot be replaced.
    pub offer: Option<Arc<Offer>>,
    /// How long it serves what it has when it was.
    pub leave: Duration,
    /// Where this program lies; an upgrade puts another one there.
    pub program: PathBuf,
    pub successor: Option<Child>,
    pub notify: Notify,
    pub orphan: Retry,
}

impl Control<'_> {
    /// Runs until a stop is asked for (`false`), or a core has ended by itself (`true`).
    pub fn run(mut self, snapshot: Snapshot) -> bool {
        let mut beats = Beats::new(&snapshot);
        let mut last_ticks: Vec<(u64, Instant)> =
            self.ticks.iter().map(|_| (0, Instant::now())).collect();
        let mut snapshot_at = Instant::now();
        let mut credentials_seen = HashMap::new();
        let mut running = snapshot;
        let mut stamps = self.certificate_stamps();
        let mut certificates_told = Instant::now();
        self.notify.ready(&format!("serving, generation {}", running.generation));
        loop {
            let signal = signal::wait(HEARTBEAT_SPAN);
            self.look_after_successor();
            if self.successor.is_none()
                && self.orphan.is_due(self.stop.is_orphaned(), Instant::now())
            {
                self.start_successor();
            }
            if self.stop.is_replaced() {
                return self.leave(signal);
            }
            let keepers = if self.stop.has_no_store() { &[] } else { self.keepers };
            if self.cores.iter().chain(keepers).any(JoinHandle::is_finished) {
                self.stop();
                return true;
            }
            match signal {
                Some(Signal::Stop) => {
                    self.node.draining.store(true, Ordering::Relaxed);
                    beats.send(&self.node, ServingState::Draining);
                    self.notify.stopping();
                    self.stop();
                    return false;
                }
                Some(Signal::Replace) => self.start_successor(),
                Some(Signal::Reload) => {
                    self.log_reopen.store(true, Ordering::Relaxed);
                    self.reload(&mut beats, &mut running);
                    stamps.clear(); // read them again below
                }
                None => {}
            }
            if snapshot_at.elapsed() >= SNAPSHOT_SPAN {
                snapshot_at = Instant::now();
                if self.source.changed() {
                    self.reload(&mut beats, &mut running);
                }
                self.purges.follow(&self.node.stores, &self.node.view.load());
                catch_up::tend(&self.node.stores);
                origins::refresh(&self.node.view.load(), &mut credentials_seen);
                let found = self.certificate_stamps();
                if found != stamps {
                    stamps = found;
                    self.reload_certificates(&running);
                    certificates_told = Instant::now();
                } else if certificates_told.elapsed() >= TELL_SPAN {
                    certificates_told = Instant::now();
                    if let Some(tls) = self.certificate.load().as_ref() {
                        tls.tell(&self.node);
                    }
                }
            }
            if self.cores_alive(&mut last_ticks) {
                self.notify.alive();
                beats.send(&self.node, ServingState::Up);
            }
        }
    }

    fn stop(&self) {
        if let Some(offer) = &self.offer {
            offer.withdraw();
        }
        self.stop.stop();
    }

    fn look_after_successor(&mut self) {
        if let Some(successor) = &mut self.successor
            && let Ok(Some(status)) = successor.try_wait()
        {
            let id = &self.node.view.load().me.id;
            eprintln!(
                "tidegated {id}: process {} that was to replace it: {status}",
                successor.id()
            );
            self.successor = None;
        }
    }

    /// Starts the program anew, from where it lay when this process was started, to take this one's place.
    fn start_successor(&mut self) {
        let id = &self.node.view.load().me.id;
        if let Some(successor) = &self.successor {
            return eprintln!("tidegated {id}: process {} is about to replace it", successor.id());
        }
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == "--replace") {
            arguments.push("--replace".into());
        }
        match Command::new(&self.program).args(arguments).env_remove("WATCHDOG_PID").spawn() {
            Ok(successor) => {
                eprintln!("tidegated {id}: process {} is to replace it", successor.id());
                self.successor = Some(successor);
            }
            Err(error) => eprintln!(
                "tidegated {id}: {} cannot be started, so that nothing changes: {error}",
                self.program.display()
            ),
        }
    }

    /// Another process serves now: waits until the connections are over, or have taken too long, or a stop is asked for.
    fn leave(&self, mut signal: Option<Signal>) -> bool {
        let until = Instant::now() + self.leave;
        while !self.cores.iter().all(JoinHandle::is_finished) {
            if signal == Some(Signal::Stop) || Instant::now() >= until {
                self.stop();
                return false;
            }
            signal = signal::wait(HEARTBEAT_SPAN);
        }
        false
    }

    fn cores_alive(&self, last: &mut [(u64, Instant)]) -> bool {
        let mut alive = true;
        for (ticks, seen) in self.ticks.iter().zip(last) {
            let now = ticks.load(Ordering::Relaxed);
            if now != seen.0 {
                *seen = (now, Instant::now());
            }
            alive &= seen.1.elapsed() < TICK_SPAN_MAX;
        }
        alive
    }

    fn reload(&mut self, beats: &mut Beats, kept: &mut Snapshot) {
        let running = self.node.view.load_full();
        let id = &running.me.id;
        let refused = |why: &dyn std::fmt::Display| {
            self.node.counters[0].snapshot_refused_total.increment();
            eprintln!(
                "tidegated {id}: snapshot refused, generation {} goes on: {why}",
                running.generation
            );
        };
        let snapshot = match self.source.read() {
            Ok(snapshot) => snapshot,
            Err(error) => return refused(&error),
        };
        let mend =
            format!("mend: build it with --generation {}", running.generation.saturating_add(1));
        if snapshot.generation == running.generation {
            if snapshot != *kept {
                return refused(&format!(
                    "another one has this generation too, and something else in it\n    {mend}"
                ));
            }
            return;
        }
        if snapshot.generation < running.generation {
            return refused(&format!("generation {} is older\n    {mend}", snapshot.generation));
        }
        let view = match origins::view(&snapshot, id, &self.node.hops) {
            Ok(view) => view,
            Err(error) => return refused(&error),
        };
        for what in needs_restart(&running, &view) {
            eprintln!(
                "tidegated {id}: generation {}: {what} takes effect after a restart",
                snapshot.generation
            );
        }
        eprintln!("tidegated {id}: generation {} -> {}", running.generation, snapshot.generation);
        self.notify.status(&format!("serving, generation {}", snapshot.generation));
        *beats = Beats::renewed(beats, &snapshot);
        tls::tell_kernel_sealing(&view.me, &self.node);
        self.node.view.store(Arc::new(view));
        *kept = snapshot;
    }

    /// When the files of this node's TLS were last changed.
    fn certificate_stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        tls::files(&self.node.view.load().me).into_iter().map(stamp).collect()
    }

    fn reload_certificates(&self, snapshot: &Snapshot) {
        let view = self.node.view.load_full();
        if !tls::is_wanted(&view.me) && self.certificate.load().is_none() {
            return;
        }
        // What is shown to others, and what this node asks others with.
        let read = Tls::read(&view.me, view.own_name()).and_then(|tls| {
            let asking = match view.me.machine.fleet_tls {
                Some(_) => Some(origins::view(snapshot, &view.me.id, &self.node.hops)?),
                None => None,
            };
            Ok((tls, asking))
        });
        match read {
            Ok((tls, asking)) => {
                let tls = Arc::new(tls);
                self.certificate.store(Some(tls.clone()));
                if let Some(asking) = asking {
                    self.node.view.store(Arc::new(asking));
                }
                tls.tell(&self.node); // what holds from now on
                eprintln!("tidegated {}: certificates read again", view.me.id);
            }
            Err(error) => eprintln!(
                "tidegated {}: certificates refused, the old ones go on: {error}",
                view.me.id
            ),
        }
    }
}

/// What a running process cannot change.
fn needs_restart(old: &View, new: &View) -> Vec<&'static str> {
    let (old, new) = (&old.me, &new.me);
    let mut what = Vec::new();
    if old.role != new.role {
        what.push("role");
    }
    let reached = |me: &Server| {
        (me.addresses.clone(), me.http_port, me.https_port, me.http3_port(), me.admin_port)
    };
    if reached(old) != reached(new) {
        what.push("addresses or ports");
    }
    let sizes = |m: &tidegate_contract::Machine| {
        let limits = (m.store_writes_per_day, m.store_rated_bytes);
        let wear = (m.store_admission, m.store_discard, limits);
        ((m.cores, m.ram_bytes, m.ram_policy), m.stores.clone(), m.state_dir.clone(), wear)
    };
    if sizes(&old.machine) != sizes(&new.machine) {
        what.push("cores, ram_bytes, ram_policy or what is said of stores");
    }
    what
}

/// Heartbeats to every monitor and router of the snapshot.
struct Beats {
    key: Option<HeartbeatKey>,
    targets: Vec<SocketAddr>,
    socket: Option<UdpSocket>,
    socket6: Option<UdpSocket>,
    boot: u64,
    sequence: u64,
    last: (Instant, u64, u64),
}

impl Beats {
    fn new(snapshot: &Snapshot) -> Beats {
        let bind = |address: &str| {
            let socket = UdpSocket::bind(address).ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        };
        let mut beats = Beats {
            key: None,
            targets: Vec::new(),
            socket: bind("0.0.0.0:0"),
            socket6: bind("[::]:0"),
            boot: wall_ms(),
            sequence: 0,
            last: (Instant::now(), 0, 0),
        };
        beats.retarget(snapshot);
        beats
    }

    fn renewed(old: &mut Beats, snapshot: &Snapshot) -> Beats {
        let mut beats = Beats {
            boot: old.boot,
            sequence: old.sequence,
            last: old.last,
            ..Beats::new(snapshot)
        };
        beats.retarget(snapshot);
        beats
    }

    fn retarget(&mut self, snapshot: &Snapshot) {
        self.key = HeartbeatKey::from_hex(&snapshot.keys.heartbeat_hex).ok();
        self.targets = snapshot
            .servers
            .iter()
            .filter(|server| matches!(server.role, Role::Router | Role::Monitor))
            .filter_map(|server| {
                Some(SocketAddr::new(*server.addresses.first()?, server.heartbeat_port?))
            })
            .collect();
    }

    fn send(&mut self, node: &Node, state: ServingState) {
        let Some(key) = &self.key else { return };
        let view = node.view.load();
        let cores: Vec<&Counters> = node.counters.iter().map(AsRef::as_ref).collect();
        let totals = Totals::of(&cores);
        let of = |name| totals.get(name).unwrap_or(0);
        let (requests, bytes) = (of("requests_total"), of("bytes_sent_total"));
        let span = self.last.0.elapsed().as_millis().max(1) as u64;
        let rate = |now: u64, before: u64| now.saturating_sub(before).saturating_mul(1000) / span;
        let load = Load {
            connections: u32::try_from(of("connections_open")).unwrap_or(u32::MAX),
            requests_per_second: u32::try_from(rate(requests, self.last.1)).unwrap_or(u32::MAX),
            bytes_per_second: rate(bytes, self.last.2),
        };
        self.last = (Instant::now(), requests, bytes);
        self.sequence += 1;
        let stamp = Stamp { boot: self.boot, sequence: self.sequence, unix_ms: wall_ms() };
        let beat = Heartbeat {
            server: view.me.id.clone(),
            stamp,
            state,
            load,
            generation: view.generation,
        };
        let mut datagram = Vec::with_capacity(256);
        beat.encode(key, &mut datagram);
        for target in &self.targets {
            let socket = if target.is_ipv4() { &self.socket } else { &self.socket6 };
            // A lost heartbeat is what the receiver counts; there is nothing to do about it here.
            if let Some(socket) = socket
                && socket.send_to(&datagram, target).is_ok()
            {
                node.counters[0].heartbeats_sent_total.increment();
            }
        }
    }
}
