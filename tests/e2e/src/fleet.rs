//! A fleet of `tidegated` processes on one snapshot.

use crate::client::{Connection, Response, get};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_contract::{
    Admission, Behaviour, CacheGroup, CacheKeyRule, Certificate, DeliveryService, FleetTls,
    HeaderRule, Keys, Ktls, LocationStyle, Machine, Role, Server, ServerStatus, SigningKey,
    Snapshot, Steering, StoreDevice, TlsVersion, sign,
};

/// How a fleet is made.
#[derive(Clone)]
pub struct FleetOptions {
    pub parents: usize,
    pub edges: usize,
    pub cores: usize,
    pub ram_bytes: u64,
    /// `None`: no store.
    pub store_bytes: Option<u64>,
    /// Edges speak HTTPS too.
    pub https: bool,
    /// Edges and parents prove themselves to each other; implies `https`, and parents speak nothing else.
    pub fleet_tls: bool,
    /// Use this origin instead of one of ours.
    pub origin: Option<SocketAddr>,
    /// The first parents are these servers instead of ours.
    pub hand_parents: Vec<SocketAddr>,
    /// Changes the snapshot before it is signed.
    pub adjust: fn(&mut Snapshot),
    /// Changes the fleet's directory before anything is started.
    pub prepare: fn(&Path),
    /// How long a stopping process waits for requests under way.
    pub drain_seconds: u64,
    /// How long a starting process waits for its store before it serves without it.
    pub store_wait_seconds: u64,
    /// Over how long a process that was replaced tells its clients to come anew.
    pub goodbye_seconds: u64,
}

impl Default for FleetOptions {
    fn default() -> Self {
        FleetOptions {
            parents: 2,
            edges: 2,
            cores: 2,
            ram_bytes: 32 << 20,
            store_bytes: Some(256 << 20),
            https: false,
            fleet_tls: false,
            origin: None,
            hand_parents: Vec::new(),
            adjust: |_| {},
            prepare: |_| {},
            drain_seconds: 2,
            store_wait_seconds: 60,
            goodbye_seconds: 0,
        }
    }
}

/// One server and its process.
pub struct Member {
    pub server: Server,
    child: Option<Child>,
    /// Processes that were replaced and may still serve.
    elders: Vec<Child>,
}

impl Member {
    /// Where clients reach it.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(
            self.server.addresses[0],
            self.server.http_port.expect("every member of a fleet has one"),
        )
    }

    /// Where it speaks TLS.
    pub fn https(&self) -> SocketAddr {
        SocketAddr::new(
            self.server.addresses[0],
            self.server.https_port.expect("asked for by FleetOptions::https"),
        )
    }

    /// Where operators reach it.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.server.addresses[0], self.server.admin_port)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }
}

/// A running fleet.
pub struct Fleet {
    pub dir: PathBuf,
    pub snapshot: Snapshot,
    pub members: Vec<Member>,
    key: SigningKey,
    drain_seconds: u64,
    store_wait_seconds: u64,
    goodbye_seconds: u64,
    /// Trusts the fleet's certificates.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

static FLEETS: AtomicU32 = AtomicU32::new(0);

/// A loopback /24 of this fleet's own: the process id and a counter make it unlike any other's of this machine.
fn subnet() -> [u8; 3] {
    let serial = FLEETS.fetch_add(1, Ordering::Relaxed);
    let mixed = std::process::id().wrapping_mul(31).wrapping_add(serial);
    [127, 100 + (mixed / 251 % 100) as u8, 1 + (mixed % 251) as u8]
}

/// A port that nobody has on this address, and that was not given before: the kernel may choose one twice.
fn free_port(ip: IpAddr) -> u16 {
    static GIVEN: Mutex<BTreeSet<(IpAddr, u16)>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind((ip, 0))
            .and_then(|l| l.local_addr())
            .expect("a loopback address can be bound")
            .port();
        // HTTP/3 listens on the same number, which a client's socket of another test may have.
        let is_free = UdpSocket::bind((ip, port)).is_ok();
        if is_free && GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert((ip, port)) {
            return port;
        }
    }
}

/// The binary under test, beside the test's own.
pub fn binary(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("TIDEGATE_BIN_DIR") {
        return Path::new(&dir).join(name);
    }
    let exe = std::env::current_exe().expect("a test knows its own path");
    let dir = exe.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `make test`, or say by TIDEGATE_BIN_DIR where the programs are",
        path.display()
    );
    path
}

impl Fleet {
    /// Makes and starts a fleet; the origin serves the directory `origin` in `dir`.
    pub fn start(name: &str, options: &FleetOptions) -> Fleet {
        let subnet = subnet();
        let dir = std::env::temp_dir().join(format!(
            "tidegate-e2e-{}-{}-{name}",
            std::process::id(),
            subnet[2]
        ));
        let _old = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("origin")).expect("the temporary directory can be written");
        let mut snapshot = plan(subnet, &dir, options);
        let https = options.https || options.fleet_tls;
        let tls = https.then(|| make_certificates(&mut snapshot, &dir));
        if options.fleet_tls {
            make_fleet_certificates(&mut snapshot, &dir);
        }
        // All tests of TLS are tests of it where the kernel seals.
        if std::env::var_os("TIDEGATE_KTLS").is_some() {
            snapshot.servers.iter_mut().for_each(|server| server.machine.ktls = Ktls::Auto);
        }
        (options.adjust)(&mut snapshot);
        let key = SigningKey::generate().expect("the system has randomness");
        let keys = tidegate_contract::PublicKey::list_to_text(&[key.public()]);
        fs::write(dir.join("trust.pub"), keys).expect("the directory can be written");
        let members = snapshot
            .servers
            .iter()
            .filter(|s| s.machine.cores > 0)
            .map(|server| Member { server: server.clone(), child: None, elders: Vec::new() })
            .collect();
        (options.prepare)(&dir);
        let FleetOptions { drain_seconds, store_wait_seconds, goodbye_seconds, .. } = *options;
        let mut fleet = Fleet {
            dir,
            snapshot,
            members,
            key,
            drain_seconds,
            store_wait_seconds,
            goodbye_seconds,
            tls,
        };
        fleet.publish();
        for index in 0..fleet.members.len() {
            fleet.launch(index);
        }
        for index in 0..fleet.members.len() {
            fleet.wait_ready(index);
        }
        fleet
    }

    /// Signs the snapshot as it is now and puts it in place, at once for all readers.
    pub fn publish(&self) {
        let fresh = self.dir.join("snapshot.new");
        fs::write(&fresh, sign(&self.snapshot, &self.key)).expect("the directory can be written");
        fs::rename(&fresh, self.dir.join("snapshot")).expect("the directory can be written");
    }

    /// The origin's directory.
    pub fn origin_dir(&self) -> PathBuf {
        self.dir.join("origin")
    }

    /// Writes a file of test content at the origin and gives its bytes.
    pub fn put(&self, name: &str, len: usize) -> Vec<u8> {
        let bytes = crate::content(name, len);
        let path = self.origin_dir().join(name);
        fs::create_dir_all(path.parent().expect("it lies in the origin directory"))
            .expect("writable");
        fs::write(path, &bytes).expect("writable");
        bytes
    }

    fn index(&self, id: &str) -> usize {
        self.members
            .iter()
            .position(|m| m.server.id == id)
            .unwrap_or_else(|| panic!("no member {id}"))
    }

    /// The member with this id.
    pub fn member(&self, id: &str) -> &Member {
        &self.members[self.index(id)]
    }

    /// GET at a member, for the fleet's delivery service.
    pub fn get(&self, id: &str, path: &str, extra: &str) -> io::Result<Response> {
        get(self.member(id).http(), HOST, path, extra)
    }

    /// The command that runs a member.
    fn command(&self, id: &str) -> Command {
        let mut command = Command::new(binary("tidegated"));
        command
            .args(["--node", id, "--drain-seconds", &self.drain_seconds.to_string()])
            .args(["--store-wait-seconds", &self.store_wait_seconds.to_string()])
            .args(["--goodbye-seconds", &self.goodbye_seconds.to_string()])
            .arg("--snapshot")
            .arg(self.dir.join("snapshot"))
            .arg("--trust")
            .arg(self.dir.join("trust.pub"))
            .arg("--log")
            .arg(self.dir.join(format!("{id}.log")))
            .stdin(Stdio::null());
        command
    }

    /// Starts a process that takes a running member's place, and waits until it serves.
    pub fn replace(&mut self, id: &str) {
        let index = self.index(id);
        let member = &mut self.members[index];
        member.elders.extend(member.child.take());
        self.launch_as(index, |command| {
            command.arg("--replace");
        });
        let pid = u64::from(self.members[index].pid());
        let deadline = Instant::now() + Duration::from_secs(120);
        let serving = |fleet: &Fleet| {
            // The one that was asked may end in the middle of its answer.
            let answer = get(fleet.member(id).admin(), "x", "/status", "").ok()?;
            let status: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
            status["pid"].as_u64()
        };
        while serving(self) != Some(pid) {
            let child = self.members[index].child.as_mut().expect("it was just started");
            let ended = !matches!(child.try_wait(), Ok(None));
            assert!(
                !ended && Instant::now() < deadline,
                "{id} was not replaced: {}",
                self.said(id)
            );
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// Tries to replace a running member by a process that must refuse to run; gives what that says.
    pub fn refused_replace(&self, id: &str) -> String {
        let output = self.command(id).arg("--replace").output().expect("it can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{id} was replaced; it said:\n{said}");
        said
    }

    /// Waits for the member's processes that were replaced to end by themselves; their exit statuses.
    pub fn wait_elders(&mut self, id: &str) -> Vec<Option<i32>> {
        let index = self.index(id);
        let elders = std::mem::take(&mut self.members[index].elders);
        let ended = |mut child: Child| child.wait().expect("the process is ours").code();
        elders.into_iter().map(ended).collect()
    }

    /// Starts a member that must refuse to run; gives what it says.
    pub fn refused_start(&mut self, id: &str) -> String {
        self.kill(id);
        let output = self.command(id).output().expect("the binary can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{id} started; it said:\n{said}");
        said
    }

    fn launch(&mut self, index: usize) {
        self.launch_as(index, |_| {});
    }

    fn launch_as(&mut self, index: usize, prepare: impl FnOnce(&mut Command)) {
        let mut command = self.command(&self.members[index].server.id);
        prepare(&mut command);
        let member = &mut self.members[index];
        let id = &member.server.id;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{id}.err")))
            .expect("the directory can be written");
        let child = command
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the binary can be started");
        member.child = Some(child);
    }

    fn wait_ready(&mut self, index: usize) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let member = &mut self.members[index];
            // With its store.
            if get(member.admin(), "x", "/health", "").is_ok_and(|r| r.body == b"ok\n") {
                return;
            }
            let ended = member.child.as_mut().is_some_and(|c| !matches!(c.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                let id = member.server.id.clone();
                let said =
                    fs::read_to_string(self.dir.join(format!("{id}.err"))).unwrap_or_default();
                panic!("{id} did not become ready; it said:\n{said}");
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// Ends a member's process at once (SIGKILL).
    pub fn kill(&mut self, id: &str) {
        let index = self.index(id);
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process is ours");
        }
    }

    /// Starts a member again and waits until it serves.
    pub fn restart(&mut self, id: &str) {
        self.kill(id);
        let index = self.index(id);
        self.launch(index);
        self.wait_ready(index);
    }

    /// As [`Fleet::restart`], with a command that was changed.
    pub fn restart_as(&mut self, id: &str, prepare: impl FnOnce(&mut Command)) {
        self.kill(id);
        let index = self.index(id);
        self.launch_as(index, prepare);
        self.wait_ready(index);
    }

    /// Ends a member at once and starts it again, without waiting for anything.
    pub fn kill_and_launch(&mut self, id: &str) {
        self.kill(id);
        let index = self.index(id);
        self.launch(index);
    }

    /// Waits until a member serves, and has read its store.
    pub fn wait_for(&mut self, id: &str) {
        let index = self.index(id);
        self.wait_ready(index);
    }

    /// Sends a signal by name (`TERM`, `HUP`).
    pub fn signal(&self, id: &str, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.member(id).pid().to_string()])
            .status()
            .expect("kill can be run");
        assert!(status.success());
    }

    /// Waits for a member to end by itself; its exit status.
    pub fn wait_end(&mut self, id: &str) -> Option<i32> {
        let index = self.index(id);
        let mut child = self.members[index].child.take()?;
        child.wait().expect("the process is ours").code()
    }

    /// The counter `name` of a member.
    pub fn counter(&self, id: &str, name: &str) -> u64 {
        self.status(id)["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// CPU time that a member's process has used, to 10 ms.
    pub fn cpu_time(&self, id: &str) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.member(id).pid()))
            .expect("the process runs");
        // Behind the name in brackets; user and system time are fields 14 and 15, in 1/100 s.
        let (_, rest) = stat.rsplit_once(')').expect("its name is in brackets");
        let ticks: u64 =
            rest.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap_or(0)).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Which core of a member serves this connection: the thread that works when much is asked on it. `path` must be
    /// a small hit.
    pub fn core_of(&self, id: &str, connection: &mut Connection, path: &str) -> String {
        const REQUESTS: usize = 200;
        let before = self.core_times(id);
        for _ in 0..REQUESTS {
            let response = connection.get(HOST, path, "").expect("the member answers");
            assert_eq!(response.status, 200, "{path}");
        }
        let worked = |(core, now): &(String, u64)| {
            now - before.iter().find(|(name, _)| name == core).map_or(0, |(_, then)| *then)
        };
        let busiest = self.core_times(id).into_iter().max_by_key(worked);
        busiest.expect("a member has cores").0
    }

    /// Names of a member's core threads, with their CPU time in nanoseconds.
    fn core_times(&self, id: &str) -> Vec<(String, u64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.member(id).pid()));
        tasks
            .expect("the process runs")
            .flatten()
            .filter_map(|task| {
                let name = fs::read_to_string(task.path().join("comm")).ok()?;
                let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
                let run = times.split(' ').next()?.parse().ok()?;
                name.starts_with("core-").then(|| (name.trim().to_owned(), run))
            })
            .collect()
    }

    /// A member's `/status`.
    pub fn status(&self, id: &str) -> serde_json::Value {
        let response =
            get(self.member(id).admin(), "x", "/status", "").expect("the admin port answers");
        serde_json::from_slice(&response.body).expect("/status is JSON")
    }

    /// The sum of a counter over members.
    pub fn sum(&self, ids: &[&str], name: &str) -> u64 {
        ids.iter().map(|id| self.counter(id, name)).sum()
    }

    /// Waits until a member brings nothing in and has written out all that it keeps.
    pub fn settle(&self, id: &str) {
        self.until("the node settles", |fleet| {
            let status = fleet.status(id);
            status["counters"]["fills_open"] == 0
                && status["stores"]
                    .as_array()
                    .is_some_and(|stores| stores.iter().all(|s| s["unwritten_extents"] == 0))
        });
    }

    /// What a member has said on standard error since the first start.
    pub fn said(&self, id: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{id}.err"))).unwrap_or_default()
    }

    /// Waits until `check` holds; fails the test with `what` when it never does.
    pub fn until(&self, what: &str, mut check: impl FnMut(&Fleet) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !check(self) {
            assert!(Instant::now() < deadline, "never came true: {what}");
            // Asking costs those who are waited for: on few cores they would come to it much later.
            std::thread::sleep(POLL_PAUSE);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Isolated or not, a broken invariant is a failure.
        let broken: Vec<String> = (self.members.iter())
            .filter(|member| member.child.is_some() && !std::thread::panicking())
            .filter(|member| {
                let status = get(member.admin(), "x", "/status", "").map(|r| r.body);
                let status: Option<serde_json::Value> =
                    status.ok().and_then(|body| serde_json::from_slice(&body).ok());
                status.is_some_and(|s| s["counters"]["panics_total"].as_u64() > Some(0))
            })
            .map(|member| format!("{} said:\n{}", member.server.id, self.said(&member.server.id)))
            .collect();
        for member in &mut self.members {
            for mut child in member.child.take().into_iter().chain(member.elders.drain(..)) {
                let _ended = child.kill();
                let _ended = child.wait();
            }
        }
        if std::thread::panicking() {
            for member in &self.members {
                let said = fs::read_to_string(self.dir.join(format!("{}.err", member.server.id)))
                    .unwrap_or_default();
                eprintln!("--- {} said:\n{said}", member.server.id);
            }
        }
        let _left = fs::remove_dir_all(&self.dir);
        assert!(broken.is_empty(), "panics: {}", broken.join("\n"));
    }
}

/// Between two looks at something that is waited for; nothing hangs on how long it is.
const POLL_PAUSE: Duration = Duration::from_millis(1);

/// Host name of the fleet's delivery service.
pub const HOST: &str = "film.example";

/// A fleet of ours in this /24, whose files lie in `dir`.
pub fn plan(subnet: [u8; 3], dir: &Path, options: &FleetOptions) -> Snapshot {
    let mut next = 0;
    let mut server = |id: String, role: Role, group: Option<&str>| {
        next += 1;
        let ip = IpAddr::V4(Ipv4Addr::new(subnet[0], subnet[1], subnet[2], next));
        let caching = role != Role::Origin;
        Server {
            machine: Machine {
                store_extent_bytes: 64 << 10,
                stores: options
                    .store_bytes
                    .filter(|_| caching)
                    .map(|bytes| {
                        let path = dir.join(format!("{id}.store")).display().to_string();
                        StoreDevice { path, bytes }
                    })
                    .into_iter()
                    .collect(),
                state_dir: dir.display().to_string(),
                origin_root: (!caching).then(|| dir.join("origin").display().to_string()),
                store_admission: Admission::Always,
                ..Machine::plain(options.cores, options.ram_bytes)
            },
            id,
            role,
            cache_group: group.map(str::to_owned),
            status: ServerStatus::Reported,
            addresses: vec![ip],
            http_port: (role != Role::Parent || !options.fleet_tls).then(|| free_port(ip)),
            https_port: match role {
                Role::Edge => options.https || options.fleet_tls,
                _ => role == Role::Parent && options.fleet_tls,
            }
            .then(|| free_port(ip)),
            http3: true,
            admin_port: free_port(ip),
            heartbeat_port: None,
            dns_port: None,
            origin_tls: None,
            origin_s3: None,
            origin_name: None,
            origin_health: None,
            origin_limit: None,
            weight: 1.0,
        }
    };
    let mut servers = vec![server("origin-1".to_owned(), Role::Origin, None)];
    if let Some(address) = options.origin {
        let origin = &mut servers[0];
        origin.addresses = vec![address.ip()];
        origin.http_port = Some(address.port());
        origin.machine.cores = 0; // not started by the fleet
    }
    servers.extend(
        (1..=options.parents).map(|n| server(format!("parent-{n}"), Role::Parent, Some("parents"))),
    );
    let parents = servers.iter_mut().filter(|server| server.role == Role::Parent);
    for (parent, address) in parents.zip(&options.hand_parents) {
        parent.addresses = vec![address.ip()];
        parent.http_port = Some(address.port());
        parent.machine.cores = 0; // not started by the fleet
    }
    servers.extend(
        (1..=options.edges).map(|n| server(format!("edge-{n}"), Role::Edge, Some("edges"))),
    );
    Snapshot {
        schema: tidegate_contract::SCHEMA,
        generation: 1,
        cdn: "test".to_owned(),
        zone: "cdn.test".to_owned(),
        delivery_services: vec![DeliveryService {
            id: "film".to_owned(),
            active: true,
            hosts: vec![HOST.to_owned()],
            routing_name: "play".to_owned(),
            address_default: true,
            origins: vec!["origin-1".to_owned()],
            origin_host: "origin.example".to_owned(),
            tls: TlsVersion::default(),
            early_data: false,
            debug_token_sha256: None,
            behaviours: vec![
                behaviour("pass", "/pass/*", false, 0),
                behaviour("all", "*", true, 3600),
            ],
        }],
        cache_groups: vec![group("edges", Some("parents")), group("parents", None)],
        servers,
        coverage_zones: Vec::new(),
        steering: Steering {
            default_group: "edges".to_owned(),
            dns_ttl_seconds: 20,
            dns_answers_max: 2,
            location: LocationStyle::Address,
        },
        keys: Keys { heartbeat_hex: "00".repeat(32), admin_hex: Some("11".repeat(32)) },
    }
}

fn group(id: &str, parent: Option<&str>) -> CacheGroup {
    CacheGroup {
        id: id.to_owned(),
        latitude: 0.0,
        longitude: 0.0,
        parent_group: parent.map(str::to_owned),
        fallbacks: Vec::new(),
        peering: false,
    }
}

/// A behaviour with the usual rules.
pub fn behaviour(name: &str, path: &str, cache: bool, ttl: u32) -> Behaviour {
    Behaviour {
        cache,
        default_ttl_seconds: cache.then_some(ttl),
        stale_if_error_seconds: 3600,
        negative_ttl_seconds: 1,
        cache_key: CacheKeyRule { drop: vec!["token".to_owned()], keep: Vec::new(), sort: true },
        cors_allow_origin: Some("*".to_owned()),
        response_headers: vec![HeaderRule::Add {
            name: "X-Region".to_owned(),
            value: "test".to_owned(),
        }],
        methods: ["GET", "HEAD", "OPTIONS", "POST"].map(str::to_owned).to_vec(),
        ..Behaviour::plain(name, path)
    }
}

/// An authority of the fleet's own, and a certificate from it for each edge and parent.
fn make_fleet_certificates(snapshot: &mut Snapshot, dir: &Path) {
    let key = rcgen::KeyPair::generate().expect("the system has randomness");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names are good names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate can be made");
    fs::write(dir.join("fleet.pem"), authority.pem()).expect("writable");
    let issuer = rcgen::Issuer::new(params, key);
    let zone = snapshot.zone.clone();
    let ours = |server: &&mut Server| matches!(server.role, Role::Edge | Role::Parent);
    for server in snapshot.servers.iter_mut().filter(ours) {
        let (chain, key) = fleet_certificate(dir, &server.id, &zone, &issuer);
        let authorities = dir.join("fleet.pem").display().to_string();
        server.machine.fleet_tls = Some(FleetTls { chain, key, authorities, revoked: None });
    }
}

/// Writes a certificate for `<id>.<zone>` and gives the paths of chain and key.
pub fn fleet_certificate(
    dir: &Path,
    id: &str,
    zone: &str,
    issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("the system has randomness");
    let params = rcgen::CertificateParams::new(vec![format!("{id}.{zone}")]);
    let made = params.and_then(|params| params.signed_by(&key, issuer)).expect("a name is a name");
    let path = |end: &str| dir.join(format!("fleet-{id}.{end}"));
    fs::write(path("crt"), made.pem()).expect("writable");
    fs::write(path("key"), key.serialize_pem()).expect("writable");
    (path("crt").display().to_string(), path("key").display().to_string())
}

fn make_certificates(snapshot: &mut Snapshot, dir: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let edges = snapshot.servers.iter_mut().filter(|s| s.role == Role::Edge);
    for server in edges.filter(|s| s.https_port.is_some()) {
        let names: Vec<String> = server.addresses.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
        let certificate = dir.join(format!("{}.crt", server.id));
        let key = dir.join(format!("{}.key", server.id));
        fs::write(&certificate, made.cert.pem()).expect("writable");
        fs::write(&key, made.signing_key.serialize_pem()).expect("writable");
        roots.add(made.cert.der().clone()).expect("a fresh certificate is well-formed");
        server.machine.certificates.push(Certificate {
            chain: certificate.display().to_string(),
            key: key.display().to_string(),
            staple: None,
        });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
