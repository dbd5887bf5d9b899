//! The service manager's part: what `tidegated` tells it, what it does when a core is stuck or ends, and the units that are
//! delivered. Method: a socket of the test's own in the manager's place; a monitor's in the monitor's.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tidegate_contract::{Heartbeat, HeartbeatKey, Role, ServingState, Snapshot};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{Connection, Fleet, FleetOptions, Gate, HandOrigin};

/// What the manager asks a word for.
const WATCHDOG: Duration = Duration::from_secs(2);
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);

fn options() -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() }
}

struct Manager(UnixDatagram);

impl Manager {
    /// Starts the edge anew under this manager.
    fn of(fleet: &mut Fleet) -> Manager {
        let (path, fault) = (fleet.dir.join("notify"), fleet.dir.join("fault"));
        let socket = UnixDatagram::bind(&path).unwrap();
        fleet.restart_as("edge-1", |command| {
            command
                .env("NOTIFY_SOCKET", &path)
                .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
                .arg("--test-fault")
                .arg(&fault);
        });
        Manager(socket)
    }

    /// The next words; `None`: there were none for so long.
    fn hear(&self, span: Duration) -> Option<String> {
        let mut words = [0; 4096];
        self.0.set_read_timeout(Some(span)).unwrap();
        let length = self.0.recv(&mut words).ok()?;
        Some(String::from_utf8(words[..length].to_vec()).unwrap())
    }

    /// Waits for words that begin so.
    fn wait(&self, begin: &str) -> String {
        let until = Instant::now() + PATIENCE;
        while let Some(words) = self.hear(until.saturating_duration_since(Instant::now())) {
            if words.starts_with(begin) {
                return words;
            }
        }
        panic!("never heard {begin}");
    }
}

#[test]
fn the_manager_hears_of_ready_alive_a_new_configuration_a_successor_and_the_stop() {
    let mut fleet = Fleet::start("service", &options());
    let manager = Manager::of(&mut fleet);
    assert_eq!(manager.wait("READY=1"), "READY=1\nSTATUS=serving, generation 1");
    for _ in 0..3 {
        manager.wait("WATCHDOG=1");
    }
    fleet.snapshot.generation = 2;
    fleet.publish();
    assert_eq!(manager.wait("STATUS="), "STATUS=serving, generation 2");
    fleet.signal("edge-1", "USR2");
    let successor = manager.wait("MAINPID=");
    let pid = successor.strip_prefix("MAINPID=").unwrap();
    // Words of the old one may be there still; of the new one come all later.
    manager.wait("READY=1");
    manager.wait("WATCHDOG=1");
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
    assert_eq!(fleet.status("edge-1")["pid"].to_string(), pid);
    manager.wait("WATCHDOG=1");
    assert!(Command::new("kill").args(["-TERM", pid]).status().unwrap().success());
    manager.wait("STOPPING=1");
}

#[test]
fn a_core_that_is_stuck_keeps_the_watchdog_waiting() {
    let mut fleet = Fleet::start("service-stuck", &options());
    let manager = Manager::of(&mut fleet);
    manager.wait("WATCHDOG=1");
    fs::write(fleet.dir.join("fault"), "hang").unwrap();
    let until = Instant::now() + PATIENCE;
    // A whole span without a word: the manager would kill it.
    while manager.hear(WATCHDOG).is_some() {
        assert!(Instant::now() < until, "the watchdog is told that a stuck core lives");
    }
    fleet.kill("edge-1");
}

#[test]
fn a_core_that_ends_takes_the_process_with_it_and_the_next_one_is_warm() {
    let mut fleet = Fleet::start("service-crash", &options());
    let _manager = Manager::of(&mut fleet);
    let bytes = fleet.put("a.m4s", 300_000);
    assert!(fleet.get("edge-1", "/a.m4s", "").unwrap().body == bytes);
    fleet.settle("edge-1");
    fs::write(fleet.dir.join("fault"), "panic").unwrap();
    assert_eq!(fleet.wait_end("edge-1"), Some(70));
    assert!(fleet.said("edge-1").contains("a core ended"));
    fleet.restart("edge-1");
    let answer = fleet.get("edge-1", "/a.m4s", "").unwrap();
    assert!(answer.body == bytes);
    assert!(answer.cache_status("edge-1").unwrap().starts_with("edge-1; hit"));
}

/// Where the monitor of the next test listens.
static MONITOR: OnceLock<UdpSocket> = OnceLock::new();

fn with_monitor(snapshot: &mut Snapshot) {
    let address = MONITOR.get().unwrap().local_addr().unwrap();
    let mut monitor = snapshot.servers[0].clone();
    monitor.id = "monitor-1".to_owned();
    monitor.role = Role::Monitor;
    monitor.machine.cores = 0; // not started by the fleet
    monitor.machine.origin_root = None;
    monitor.addresses = vec![address.ip()];
    monitor.heartbeat_port = Some(address.port());
    monitor.http_port = None;
    monitor.admin_port = address.port() ^ 1; // nobody listens there
    snapshot.servers.push(monitor);
}

/// The next heartbeat of the edge.
fn beat() -> Heartbeat {
    let key = HeartbeatKey::from_hex(&"00".repeat(32)).unwrap();
    let socket = MONITOR.get().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        let mut datagram = [0; 2048];
        let length = socket.recv(&mut datagram).unwrap();
        let beat = Heartbeat::decode(&datagram[..length], &key).unwrap();
        if beat.server == "edge-1" {
            return beat;
        }
    }
}

#[test]
fn one_process_beats_and_a_stop_is_told_to_the_monitor_first() {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    MONITOR.set(UdpSocket::bind((local, 0)).unwrap()).unwrap();
    let gate = Gate::default();
    let held = gate.clone();
    let origin = HandOrigin::start(local, move |_, stream| {
        held.wait();
        tidegate_e2e::reply(stream, 200, "Cache-Control: max-age=60\r\n", b"body");
    });
    let (adjust, drain_seconds) = (with_monitor as fn(&mut Snapshot), 100);
    let address = Some(origin.address);
    let mut fleet = Fleet::start(
        "service-beats",
        &FleetOptions { adjust, drain_seconds, origin: address, ..options() },
    );
    let first = beat().stamp.boot;
    fleet.replace("edge-1");
    let second = loop {
        let beat = beat();
        assert_eq!(beat.state, ServingState::Up);
        if beat.stamp.boot != first {
            break beat.stamp.boot;
        }
    };
    for _ in 0..10 {
        assert_eq!(beat().stamp.boot, second, "two processes beat");
    }
    assert_eq!(fleet.wait_elders("edge-1"), [Some(0)]);
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client.send(format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    fleet.until("it is asked for", |_| origin.count() == 1);
    fleet.signal("edge-1", "TERM");
    // While a request is still under way.
    while beat().state != ServingState::Draining {}
    gate.open();
    assert_eq!(client.response(false).unwrap().body, b"body");
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
}

fn units() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    let mut units: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
        .collect();
    units.sort();
    units
}

#[test]
fn the_units_keep_their_promises() {
    let units = units();
    assert_eq!(units.len(), 2);
    for (name, text) in &units {
        for line in [
            "User=tidegate",
            "AmbientCapabilities=CAP_NET_BIND_SERVICE",
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "Restart=on-failure",
            "StateDirectory=tidegate",
            "MemoryDenyWriteExecute=yes",
        ] {
            assert!(text.lines().any(|found| found == line), "{name}: no {line}");
        }
    }
    let (_, data_plane) = units.iter().find(|(name, _)| name == "tidegated@.service").unwrap();
    for word in ["Type=notify", "NotifyAccess=main", "WatchdogSec=", "LimitMEMLOCK=infinity"] {
        assert!(data_plane.lines().any(|line| line.starts_with(word)), "no {word}");
    }
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(data_plane.contains(call), "{call} is not allowed");
    }
}

#[test]
fn systemd_takes_the_units_and_finds_them_well_shut() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return println!("not looked at: there is no systemd-analyze here");
    }
    let dir = std::env::temp_dir().join(format!("tidegate-units-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in units() {
        // The programs lie elsewhere here.
        let mut text = text;
        for program in ["tidegated ", "tidegate "] {
            let here = format!("{} ", binary(program.trim()).display());
            text = text.replace(&format!("/usr/bin/{program}"), &here);
        }
        let path = dir.join(name.replace('@', "@one"));
        fs::write(&path, text).unwrap();
        let run = |arguments: &[&str]| {
            let output =
                Command::new("systemd-analyze").args(arguments).arg(&path).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        };
        let (good, said) = run(&["verify", "--man=no"]);
        assert!(good && !said.contains(&*name.replace('@', "@one")), "{name}: {said}");
        // Exposure of 2.5 of 10.
        let (good, said) = run(&["security", "--offline=true", "--threshold=25"]);
        assert!(good, "{name}: {said}");
    }
    fs::remove_dir_all(dir).unwrap();
}
