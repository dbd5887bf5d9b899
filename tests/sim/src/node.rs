//! One node: what `dataplane/edge` puts together from a snapshot, put together in a world: store, cores, listeners,
//! ticks. It can be killed, lose its power, and be started again on the same disk.

use crate::content::Sizes;
use crate::disk::{SharedDisk, Trouble};
use crate::plan::{Plan, Sabotage};
use crate::reference;
use crate::scene::Stage;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidegate_contract::{
    Behaviour, CacheGroup, CacheKeyRule, DeliveryService, Keys, LocationStyle, Machine, Role,
    Server, ServerStatus, Snapshot, Steering, TlsVersion,
};
use tidegate_engine::admission::AdmissionState;
use tidegate_engine::device::RingDevice;
use tidegate_engine::keeper;
use tidegate_engine::next_hop;
use tidegate_engine::node::LogPipe;
use tidegate_engine::session::{Face, serve};
use tidegate_engine::stores::{Clerk, Entry, Identity, StoreFace, Stores, Written};
use tidegate_engine::{Core, Node, View, purge};
use tidegate_faults::Faults;
use tidegate_fill::{HopAccess, Hops, Pool};
use tidegate_ring::sim::{Death, Process, TEST, World, WorldOptions};
use tidegate_ring::{Arena, ArenaOptions, File, TcpListener, sleep, spawn};
use tidegate_store::{
    Device, FormatOptions, OpenError, OpenOptions, Roll, Standing, Store, Superblock, format,
    identify,
};
use tidegate_telemetry::Counters;
use tidegate_types::memory::{CHUNK_BYTES, arena_chunks};

/// The host that clients ask for.
pub const HOST: &str = "film.test";
pub const SERVICE: &str = "film";
/// Of the admin key, in hexadecimal.
pub const ADMIN_HEX: &str = "11";

/// Slower than in production: nothing hangs on it but sweeps.
const TICK: Duration = Duration::from_millis(500);

fn ip(id: &str) -> IpAddr {
    let last = match id {
        "origin-1" => 1,
        "parent-1" => 2,
        "parent-2" => 3,
        _ => 4,
    };
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

/// Where a node answers clients, and its operators.
pub fn http(id: &str) -> SocketAddr {
    SocketAddr::new(ip(id), 80)
}

pub fn admin(id: &str) -> SocketAddr {
    SocketAddr::new(ip(id), 8081)
}

fn behaviour(name: &str, path: &str, cache: bool) -> Behaviour {
    Behaviour {
        cache,
        default_ttl_seconds: reference::DEFAULT_TTL.map(|seconds| seconds as u32).filter(|_| cache),
        stale_while_revalidate_seconds: reference::STALE_WHILE_REVALIDATE as u32,
        stale_if_error_seconds: reference::STALE_IF_ERROR as u32,
        negative_ttl_seconds: reference::NEGATIVE_TTL as u32,
        cache_key: CacheKeyRule { drop: Vec::new(), keep: Vec::new(), sort: true },
        methods: ["GET", "HEAD", "POST"].map(str::to_owned).to_vec(),
        ..Behaviour::plain(name, path)
    }
}

/// One origin, and before it one parent, or two and an edge.
pub fn snapshot(plan: &Plan) -> Snapshot {
    let server = |id: &str, role: Role, group: Option<&str>| Server {
        id: id.to_owned(),
        role,
        cache_group: group.map(str::to_owned),
        status: ServerStatus::Reported,
        addresses: vec![ip(id)],
        http_port: Some(80),
        https_port: None,
        http3: false,
        admin_port: 8081,
        heartbeat_port: None,
        dns_port: None,
        origin_tls: None,
        origin_s3: None,
        origin_name: None,
        origin_health: None,
        origin_limit: None,
        weight: 1.0,
        machine: Machine {
            state_dir: String::new(),
            store_admission: plan.admission,
            ..Machine::plain(plan.cores, plan.ram_bytes)
        },
    };
    let group = |id: &str, parent: Option<&str>| CacheGroup {
        id: id.to_owned(),
        latitude: 0.0,
        longitude: 0.0,
        parent_group: parent.map(str::to_owned),
        fallbacks: Vec::new(),
        peering: false,
    };
    Snapshot {
        schema: tidegate_contract::SCHEMA,
        generation: 1,
        cdn: "test".to_owned(),
        zone: "cdn.test".to_owned(),
        delivery_services: vec![DeliveryService {
            id: SERVICE.to_owned(),
            active: true,
            hosts: vec![HOST.to_owned()],
            routing_name: "play".to_owned(),
            address_default: true,
            origins: vec!["origin-1".to_owned()],
            origin_host: "origin.test".to_owned(),
            tls: TlsVersion::default(),
            early_data: false,
            debug_token_sha256: None,
            behaviours: vec![behaviour("pass", "/pass/*", false), behaviour("all", "*", true)],
        }],
        cache_groups: vec![group("edges", Some("parents")), group("parents", None)],
        servers: vec![
            server("origin-1", Role::Origin, None),
            server("parent-1", Role::Parent, Some("parents")),
            server("parent-2", Role::Parent, Some("parents")),
            server("edge-1", Role::Edge, Some("edges")),
        ],
        coverage_zones: Vec::new(),
        steering: Steering {
            default_group: "edges".to_owned(),
            dns_ttl_seconds: 20,
            dns_answers_max: 2,
            location: LocationStyle::Address,
        },
        keys: Keys { heartbeat_hex: "00".repeat(32), admin_hex: Some(ADMIN_HEX.repeat(32)) },
    }
}

/// A running process.
struct Running {
    process: Process,
    /// Once its store is open.
    node: Option<Arc<Node>>,
    cores: Vec<Rc<Core>>,
    log: Receiver<Vec<u8>>,
    /// The journal was damaged, and said so.
    distrusted: bool,
}

/// A server, up or down.
pub struct SimNode {
    pub id: &'static str,
    stage: Stage,
    disks: Vec<Rc<SharedDisk>>,
    /// Its state folder, which no crash harms.
    roll: Paper,
    /// With all its devices on it.
    first_roll: String,
    running: RefCell<Option<Running>>,
    /// Of all its processes: buffers must come home, whatever happened.
    arenas: RefCell<Vec<(Arc<Arena>, usize)>>,
    pub starts: Cell<u32>,
}

/// A node's face at its end.
pub struct Totals {
    pub panics: u64,
    pub hits: u64,
    pub stale: u64,
    pub collapsed: u64,
    pub store_reads: u64,
}

impl SimNode {
    /// A server with a fresh disk, not started yet.
    pub fn new(stage: &Stage, id: &'static str) -> Rc<SimNode> {
        let plan = &stage.plan;
        let mut roll = Roll::default();
        let disks = (0..plan.devices).map(|number| {
            let segment = segment_bytes(plan.sizes);
            let size = (1 << 20) + 12 * u64::from(segment);
            let seed = plan.seed ^ id.bytes().fold(number, |n, b| n * 31 + u64::from(b));
            let disk = Rc::new(SharedDisk::new(size, seed, Faults::default()));
            let uuid = u128::from(seed) << 64 | 7;
            install(disk.clone(), segment, uuid);
            roll.set(uuid, Standing::Member, &format!("disk-{number}"));
            disk.set_faults(plan.disk, plan.disk_stalls);
            disk
        });
        let disks = disks.collect();
        Rc::new(SimNode {
            id,
            stage: stage.clone(),
            disks,
            roll: Paper(Arc::new(Mutex::new(roll.encode()))),
            first_roll: roll.encode(),
            running: RefCell::default(),
            arenas: RefCell::default(),
            starts: Cell::new(0),
        })
    }

    /// Starts a process, unless one runs.
    pub fn start(self: &Rc<Self>) {
        if self.running.borrow().is_some() {
            return;
        }
        self.starts.set(self.starts.get() + 1);
        let process = self.stage.world.process();
        let (lines, log) = sync_channel(1024);
        *self.running.borrow_mut() =
            Some(Running { process, node: None, cores: Vec::new(), log, distrusted: false });
        let this = self.clone();
        self.stage.world.spawn_in(process, async move { this.boot(lines).await });
    }

    async fn boot(self: Rc<Self>, lines: std::sync::mpsc::SyncSender<Vec<u8>>) {
        let plan = &self.stage.plan;
        let hops = Arc::new(Hops::default());
        let view = View::new(&snapshot(plan), self.id, &|_| HopAccess::default(), &hops)
            .expect("the snapshot names it");
        let machine = view.me.machine.clone();
        let memory = machine.memory(plan.cores as u64, 0).expect("nothing bounds it");
        let chunks = arena_chunks(plan.ram_bytes) as usize;
        let arena = Arena::new(ArenaOptions { chunk_bytes: CHUNK_BYTES as usize, chunks })
            .expect("there is memory for a small arena");
        self.arenas.borrow_mut().push((arena.clone(), chunks));
        let counters: Vec<Arc<Counters>> = (0..plan.cores).map(|_| Arc::default()).collect();
        // Who starts it leaves out what is not there.
        let disks: Vec<_> = self.disks.iter().filter(|disk| !disk.is_absent()).cloned().collect();
        let faces = disks.iter().enumerate().map(|(number, disk)| {
            let admission =
                AdmissionState::new(machine.store_admission, device(disk, &arena).size());
            (PathBuf::from(format!("disk-{number}")), Arc::new(admission))
        });
        if plan.sabotage == Some(Sabotage::Roll) {
            self.roll.write(self.first_roll.clone(), Box::new(|_| {}));
        }
        let roll = Roll::decode(&self.roll.text());
        let stores = Arc::new(Stores::new(faces.collect(), roll, Box::new(self.roll.clone())));
        let mut entered = Vec::new();
        let mut refused = None;
        for (face, disk) in stores.devices().iter().zip(&disks) {
            match self.enter(face, &stores, device(disk, &arena)).await {
                Ok(()) => entered.push((face.clone(), device(disk, &arena))),
                Err(error) => {
                    face.refuse();
                    let face = face.clone();
                    spawn(async move { keeper::decline(&face).await });
                    refused = refused.or(error);
                }
            }
        }
        if let Some(error) = refused
            && entered.is_empty()
        {
            return self.ask_for_help(error).await;
        }
        stores.tend();
        let mut late = Vec::new();
        for (turn, (face, device)) in (1..).zip(entered) {
            let (this, machine, stores) = (self.clone(), machine.clone(), stores.clone());
            let opening = async move { this.read_store(&stores, &face, device, &machine).await };
            match self.stage.plan.store_late_ms {
                None => opening.await,
                // It serves meanwhile, as a node does whose store takes long to read.
                Some(ms) => late.push((ms * turn / self.stage.plan.devices, opening)),
            }
        }
        let lines = LogPipe::new(lines);
        let node = Arc::new(Node::new(view, hops, memory, stores, arena.clone(), counters, lines));
        let mut cores = Vec::new();
        for index in 0..plan.cores {
            let core = Rc::new(Core {
                counters: node.counters[index].clone(),
                node: node.clone(),
                index,
                pool: Rc::new(Pool::default()),
                devices: disks.iter().map(|d| OnceCell::from(Some(device(d, &arena)))).collect(),
                clients: Cell::new(0),
                busy: Cell::new(0),
                lines: RefCell::default(),
                routes: RefCell::default(),
            });
            if index == 0 {
                spawn(next_hop::probe(core.clone()));
            }
            let ticking = core.clone();
            spawn(async move {
                loop {
                    ticking.flush_log();
                    ticking.pool.sweep();
                    if ticking.index == 0 {
                        purge::sweep(&ticking);
                        ticking.node.stores.tend();
                    }
                    sleep(TICK).await;
                }
            });
            cores.push(core);
        }
        for (ms, opening) in late {
            spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                opening.await;
            });
        }
        // Which core a connection comes to is chance; here they take turns.
        listen(http(self.id), Face::Traffic, cores.clone());
        listen(admin(self.id), Face::Admin, cores[..1].to_vec());
        let mut running = self.running.borrow_mut();
        let running = running.as_mut().expect("it runs");
        (running.node, running.cores) = (Some(node), cores);
        self.stage.world.event("started", u64::from(self.starts.get()), 0);
    }

    /// Has a device take its place; the error is `None` when it is retired.
    async fn enter(
        self: &Rc<Self>,
        face: &StoreFace,
        stores: &Stores,
        device: RingDevice,
    ) -> Result<(), Option<OpenError>> {
        let failed = |error| {
            self.judge_refusal(&error);
            Some(error)
        };
        let mut superblock = match identify(&device).await {
            Ok(superblock) => superblock,
            Err(error) if is_ruined(&error) && self.stage.plan.disk_lies() => {
                self.make_empty(face, &device, None).await.ok_or_else(|| failed(error))?
            }
            Err(error) => return Err(failed(error)),
        };
        loop {
            let identity = Identity { uuid: superblock.uuid, bytes: device.size() };
            match face.enter(stores, identity, superblock.epoch == 0) {
                Entry::Taken => return Ok(()),
                Entry::Retired => return Err(None),
                Entry::Stranger => {
                    let made = self.make_empty(face, &device, Some(&superblock)).await;
                    superblock = made.ok_or(Some(OpenError::Blank))?;
                }
                Entry::SameAs(other) => {
                    let what =
                        format!("{}: its uuid is that of {}", face.path.display(), other.display());
                    self.stage.violation(what);
                    return Err(None);
                }
            }
        }
    }

    async fn make_empty(
        &self,
        face: &StoreFace,
        device: &RingDevice,
        before: Option<&Superblock>,
    ) -> Option<Superblock> {
        let uuid = u128::from(self.starts.get()) << 64 | u128::from(face.bit()) << 8 | 9;
        let mut options = format_options(segment_bytes(self.stage.plan.sizes), uuid);
        options.written_bytes = before.map_or(0, |before| before.written_bytes);
        let again = format(device, options).await;
        self.stage.world.event("formatted", again.is_ok().into(), face.bit().into());
        again.ok()
    }

    fn judge_refusal(&self, error: &OpenError) {
        let plan = &self.stage.plan;
        self.stage.world.tell(|| format!("{} can not open its store: {error}", self.id));
        if !plan.disk_fails() && plan.disk_stalls == 0 {
            self.stage.violation(format!("{}: a sound store can not be opened: {error}", self.id));
        }
    }

    /// Reads a device and puts it to work; one that cannot be read is left out.
    async fn read_store(
        self: &Rc<Self>,
        stores: &Arc<Stores>,
        face: &Arc<StoreFace>,
        device: RingDevice,
        machine: &Machine,
    ) {
        let error = match Store::open(device, open_options()).await {
            Ok((opened, report)) => {
                if report.journal.pairs_lost > 0 {
                    self.stage.world.event("journal damaged", report.journal.pairs_lost.into(), 0);
                    if let Some(running) = self.running.borrow_mut().as_mut() {
                        running.distrusted = true;
                    }
                    self.stage.purges_from.set(self.stage.now());
                }
                spawn(keeper::begin(opened, &report, face, stores, machine));
                return;
            }
            Err(error) => error,
        };
        self.judge_refusal(&error);
        if stores.devices().len() == 1 {
            return self.ask_for_help(error).await;
        }
        let face = face.clone();
        face.refuse();
        spawn(async move { keeper::decline(&face).await });
    }

    /// None of its devices can be used: the process ends, an operator sees the message and starts it again.
    async fn ask_for_help(self: &Rc<Self>, error: OpenError) {
        self.stage.world.tell(|| format!("{} has no store: {error}", self.id));
        let this = self.clone();
        self.stage.world.spawn_in(TEST, async move {
            sleep(Duration::from_secs(1)).await;
            this.kill(Death::Killed);
            this.start();
        });
        std::future::pending().await
    }

    /// Ends its process as `death` says.
    pub fn kill(&self, death: Death) {
        let Some(running) = self.running.borrow_mut().take() else { return };
        self.judge_counters(&running);
        let process = running.process;
        self.stage.world.kill(process, death, || drop(running));
        if death == Death::PowerCut && !self.disks.is_empty() {
            self.disks.iter().for_each(|disk| disk.crash());
            if self.stage.plan.disk_lies() {
                self.stage.purges_from.set(self.stage.now());
            }
        }
    }

    /// From now on this is wrong with one of its devices, or nothing.
    pub fn trouble(&self, device: usize, trouble: Option<Trouble>) {
        self.stage.world.event("trouble", device as u64, u64::from(trouble.is_some()));
        self.disks[device].set_trouble(trouble);
    }

    /// From now on one of its devices has these faults.
    pub fn faults(&self, device: usize, faults: Faults) {
        self.disks[device].set_faults(faults, 0);
    }

    /// What its devices say of themselves, in the order in which they are there.
    pub fn device_states(&self) -> Vec<&'static str> {
        let running = self.running.borrow();
        let node = running.as_ref().and_then(|running| running.node.as_ref());
        node.map_or(Vec::new(), |node| node.stores.devices().iter().map(|d| d.state()).collect())
    }

    /// Devices that are retired.
    pub fn retired(&self) -> usize {
        let roll = Roll::decode(&self.roll.text()).unwrap_or_default();
        roll.entries().iter().filter(|entry| entry.standing == Standing::Retired).count()
    }

    /// An operator lets all retired devices be used again; the node is down.
    pub fn rejoin(&self) {
        let mut roll = Roll::decode(&self.roll.text()).unwrap_or_default();
        roll.retain(|entry| entry.standing == Standing::Member);
        self.roll.write(roll.encode(), Box::new(|_| {}));
    }

    pub fn is_up(&self) -> bool {
        self.running.borrow().as_ref().is_some_and(|running| running.node.is_some())
    }

    /// From now on its disk is sound.
    pub fn heal(&self) {
        for disk in &self.disks {
            disk.set_trouble(None);
            disk.set_faults(Faults::default(), 0);
        }
    }

    fn judge_counters(&self, running: &Running) {
        let Some(node) = &running.node else { return };
        let total = |counter: fn(&Counters) -> u64| -> u64 {
            node.counters.iter().map(|counters| counter(counters)).sum()
        };
        let panics = total(|c| c.panics_total.get());
        if panics > 0 {
            self.stage.violation(format!("{}: {panics} task(s) panicked", self.id));
        }
        let mut tally = self.stage.tally.borrow_mut();
        tally.hits += total(|c| c.hits_total.get());
        tally.stale += total(|c| c.stale_total.get());
        tally.collapsed += total(|c| c.collapsed_total.get());
        tally.store_reads += total(|c| c.store_read_bytes_total.get());
        for _lines in running.log.try_iter() {}
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        let running = self.running.borrow();
        let cores = running.iter().flat_map(|running| &running.cores);
        cores.fold(0, |sum, core| sum + core.busy.get() + core.clients.get()) == 0
    }

    /// Nothing is asked of it any more, and nothing may be left of what was.
    pub fn judge_idle(&self) {
        let running = self.running.borrow();
        let Some(Running { process, node: Some(node), cores, .. }) = running.as_ref() else {
            return self.stage.violation(format!("{} is not up at the end", self.id));
        };
        let wrong = |what: String| self.stage.violation(format!("{} is idle, but {what}", self.id));
        let gauge = |gauge: fn(&Counters) -> u64| -> u64 {
            node.counters.iter().fold(0, |sum, c| sum.wrapping_add(gauge(c)))
        };
        let busy: usize = cores.iter().map(|core| core.busy.get()).sum();
        let clients: usize = cores.iter().map(|core| core.clients.get()).sum();
        if busy + clients > 0 {
            wrong(format!("{busy} requests and {clients} connections are under way"));
        }
        let (open, fills) = (gauge(|c| c.connections_open.get()), gauge(|c| c.fills_open.get()));
        if open + fills > 0 {
            wrong(format!("{open} connections and {fills} fills count as open"));
        }
        let (windows, fills) = (node.memory.windows().bytes(), node.memory.windows().fills());
        if windows > 0 || fills > 0 {
            wrong(format!("{fills} fills hold {windows} bytes"));
        }
        let held = node.memory.flexible_used();
        if held > 0 {
            wrong(format!("{held} bytes of the memory budget are held"));
        }
        if node.stores.unwritten() > 0 {
            wrong(format!("{} extents are not written", node.stores.unwritten()));
        }
        // A tick for each core, two that accept, one that probes next hops, the keepers, those who probe devices, and what
        // waits to be seen as ended.
        let devices = node.stores.devices();
        let probed = devices.iter().filter(|device| device.reader().is_some()).count();
        let lasting = cores.len() + 3 + devices.len() + probed;
        let tasks = self.stage.world.tasks_of(*process);
        if tasks != lasting {
            wrong(format!("{tasks} tasks are alive, where {lasting} should be"));
        }
    }

    /// All buffers of all its processes are home again.
    pub fn judge_buffers(&self) {
        let mut kept = Vec::new();
        for (start, (arena, chunks)) in self.arenas.borrow().iter().enumerate() {
            if self.stage.plan.sabotage == Some(Sabotage::Buffers) {
                kept.push(arena.buffer(CHUNK_BYTES as usize));
            }
            let free = arena.chunks_free();
            if free != *chunks {
                self.stage.violation(format!(
                    "{}: {} of {chunks} buffers of start {start} did not come back",
                    self.id,
                    chunks - free
                ));
            }
        }
    }
}

fn listen(address: SocketAddr, face: Face, cores: Vec<Rc<Core>>) {
    let listener = TcpListener::simulated(address);
    spawn(async move {
        let mut turn = 0;
        while let Some(stream) = listener.accept().await {
            let core = cores[turn % cores.len()].clone();
            turn += 1;
            let seat = Seat::take(&core);
            core.clone().spawn(async move {
                let _seat = seat;
                let Ok(peer) = stream.peer_addr() else { return };
                serve(core, stream, peer, face).await;
            });
        }
    });
}

struct Seat(Rc<Core>);

impl Seat {
    fn take(core: &Rc<Core>) -> Seat {
        core.clients.set(core.clients.get() + 1);
        Seat(core.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get() - 1);
    }
}

/// What a node's state folder has.
#[derive(Clone)]
struct Paper(Arc<Mutex<String>>);

impl Paper {
    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Clerk for Paper {
    fn write(&self, roll: String, done: Written) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = roll;
        done(Ok(()));
    }
}

fn is_ruined(error: &OpenError) -> bool {
    matches!(error, OpenError::Damaged { .. } | OpenError::Foreign { .. } | OpenError::Blank)
}

fn device(disk: &Rc<SharedDisk>, arena: &Arc<Arena>) -> RingDevice {
    RingDevice::over(File::simulated(disk.clone()), arena.clone()).expect("its length is known")
}

fn segment_bytes(sizes: Sizes) -> u32 {
    match sizes {
        Sizes::Small => 1 << 20,
        Sizes::Blocks => 4 << 20,
    }
}

fn open_options() -> OpenOptions {
    OpenOptions {
        extent_mean_bytes: 16 << 10,
        write_unit_bytes: 256 << 10,
        ..OpenOptions::default()
    }
}

fn format_options(segment_bytes: u32, uuid: u128) -> FormatOptions {
    FormatOptions {
        segment_bytes,
        journal_bytes: 64 << 10,
        overwrite: true, // spares a look at each page
        ..FormatOptions::new(uuid)
    }
}

/// Formats a new disk, in a world of its own.
fn install(disk: Rc<SharedDisk>, segment_bytes: u32, uuid: u128) {
    let world = World::new(WorldOptions {
        unix: Duration::ZERO,
        choose: None,
        links: Box::new(|_| unreachable!("nobody connects")),
        trace: false,
    });
    let formatted = world.run(async move {
        let arena = Arena::new(ArenaOptions { chunk_bytes: 4096, chunks: 1 }).expect("a page");
        let options = format_options(segment_bytes, uuid);
        format(&device(&disk, &arena), options).await.map(|_| ()).map_err(|e| e.to_string())
    });
    assert_eq!(formatted, Ok(Ok(())), "a sound blank disk can be formatted");
}
