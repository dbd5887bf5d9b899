//! Who is measured: a fleet of one origin, one parent and one edge, and nginx in two manners, all warm.

use crate::nginx::{Manner, Nginx, Setting};
use crate::object_name;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions, get};

/// Objects of each size, asked for in turn.
pub const OBJECTS: usize = 64;
/// Sizes of objects: a playlist's and a media segment's.
pub const SIZES: [usize; 2] = [1024, 1 << 20];
/// RAM tier of the edge: all objects fit.
const RAM_BYTES: u64 = 256 << 20;
/// A sparse file.
const STORE_BYTES: u64 = 2 << 30;

/// Over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Http,
    Https,
    /// HTTP/2 over TLS.
    Http2,
    Http3,
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub line: Line,
    pub size: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self.line {
            Line::Http => "HTTP",
            Line::Https => "HTTPS",
            Line::Http2 => "HTTP/2",
            Line::Http3 => "HTTP/3",
        };
        let kib = self.size >> 10;
        let (number, unit) = if kib < 1024 { (kib, "KiB") } else { (kib >> 10, "MiB") };
        f.pad(&format!("{line} {number} {unit} hits"))
    }
}

impl Case {
    /// Whether `name` is a part of this case's.
    pub fn is_meant(self, name: &str) -> bool {
        self.to_string().contains(name.trim())
    }
}

/// A server under measurement.
pub struct Contestant {
    pub name: &'static str,
    pub pid: u32,
    http: SocketAddr,
    https: SocketAddr,
}

impl Contestant {
    pub fn address(&self, line: Line) -> SocketAddr {
        if line == Line::Http { self.http } else { self.https }
    }
}

/// Where the edge's hits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Memory,
    Disk,
}

/// What to start.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    pub place: Place,
    pub sizes: &'a [usize],
    /// Of each size.
    pub objects: usize,
    pub ram_bytes: u64,
}

/// All of them, running; dropped, they end.
pub struct Field {
    pub contestants: Vec<Contestant>,
    pub dir: PathBuf,
    _peers: Vec<Nginx>,
    fleet: Fleet,
    fills: u64,
    read: u64,
}

/// Hits from memory: a playlist's size and a media segment's.
pub const FROM_MEMORY: Start<'static> =
    Start { place: Place::Memory, sizes: &SIZES, objects: OBJECTS, ram_bytes: RAM_BYTES };

impl Start<'_> {
    /// Starts and warms all, on `core`.
    ///
    /// # Errors
    /// Something cannot be started, or does not give the origin's bytes.
    pub fn start(&self, core: usize) -> Result<Field, String> {
        let fleet = Fleet::start(
            "bench",
            &FleetOptions {
                parents: 1,
                edges: 1,
                cores: 1,
                ram_bytes: self.ram_bytes,
                store_bytes: Some(STORE_BYTES),
                https: true,
                ..FleetOptions::default()
            },
        );
        let edge = fleet.member("edge-1");
        pin(edge.pid(), core)?;
        let mut contestants = vec![Contestant {
            name: "tidegate",
            pid: edge.pid(),
            http: edge.http(),
            https: edge.https(),
        }];
        let machine = &edge.server.machine;
        let Some(tidegate_contract::Certificate { chain: certificate, key, .. }) =
            machine.certificates.first()
        else {
            return Err("the edge has no certificate".to_owned());
        };
        let mut peers = Vec::new();
        let second = match self.place {
            Place::Memory => ("nginx cache", Manner::Cache),
            Place::Disk => ("nginx direct", Manner::Direct),
        };
        for (name, manner) in [("nginx static", Manner::Static), second] {
            let setting = Setting {
                manner,
                http: free()?,
                https: free()?,
                origin: fleet.member("origin-1").http(),
                origin_dir: &fleet.origin_dir(),
                certificate,
                key,
                core,
            };
            let peer = Nginx::start(&fleet.dir.join(name.replace(' ', "-")), &setting)?;
            contestants.push(Contestant {
                name,
                pid: peer.pid(),
                http: setting.http,
                https: setting.https,
            });
            peers.push(peer);
        }
        let dir = fleet.dir.clone();
        let mut field = Field { contestants, dir, _peers: peers, fleet, fills: 0, read: 0 };
        field.warm(self)?;
        Ok(field)
    }
}

impl Field {
    /// Every object from every contestant, until it is a hit; each body is compared.
    fn warm(&mut self, start: &Start<'_>) -> Result<(), String> {
        for &size in start.sizes {
            for number in 0..start.objects {
                let name = object_name(size, number);
                let bytes = self.fleet.put(&name, size);
                for contestant in &self.contestants {
                    for _ in 0..2 {
                        let response = patient_get(contestant.http, &format!("/{name}"))?;
                        if response.status != 200 || response.body != bytes {
                            return Err(format!(
                                "{} gives {} and {} bytes for /{name}, not the origin's file",
                                contestant.name,
                                response.status,
                                response.body.len()
                            ));
                        }
                    }
                }
            }
        }
        self.fleet.settle("edge-1");
        self.fills = self.fleet.counter("edge-1", "fills_total");
        self.read = self.fleet.counter("edge-1", "store_read_bytes_total");
        if start.place == Place::Disk {
            return Ok(());
        }
        let cached = get(
            self.contestants[2].http,
            HOST,
            &format!("/{}", object_name(start.sizes[0], 0)),
            "",
        )
        .map_err(|e| format!("nginx cache: {e}"))?;
        match cached.field("x-cache") {
            Some("HIT") => Ok(()),
            other => Err(format!("nginx cache does not cache: X-Cache is {other:?}")),
        }
    }

    /// Fails when the edge had to fill, or refused a connection for want of memory: then it was not hits from memory
    /// that were measured.
    ///
    /// # Errors
    /// What was counted.
    pub fn check_hits(&self) -> Result<(), String> {
        let fills = self.fleet.counter("edge-1", "fills_total") - self.fills;
        let read = self.read_from_store();
        if fills > 0 || read > 0 {
            return Err(format!(
                "the edge filled {fills} times and read {read} bytes from its store during the run: these were not \
                 all hits from memory"
            ));
        }
        Ok(())
    }
}

impl Field {
    /// Bytes that the edge read from its store since it was warm.
    pub fn read_from_store(&self) -> u64 {
        self.fleet.counter("edge-1", "store_read_bytes_total") - self.read
    }
}

/// nginx needs a moment to listen; there is nothing to wait on but the answer.
///
/// # Errors
/// It does not come.
pub fn patient_get(address: SocketAddr, path: &str) -> Result<tidegate_e2e::Response, String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match get(address, HOST, path, "") {
            Ok(response) => return Ok(response),
            Err(e) if Instant::now() > deadline => {
                return Err(format!("{address} does not answer {path}: {e}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A port that nobody has.
///
/// # Errors
/// There is none.
pub fn free() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    listener.and_then(|l| l.local_addr()).map_err(|e| format!("no free port: {e}"))
}

/// All threads of a process to one core.
///
/// # Errors
/// What taskset says.
pub fn pin(pid: u32, core: usize) -> Result<(), String> {
    let output = Command::new("taskset")
        .args(["-acp", &core.to_string(), &pid.to_string()])
        .output()
        .map_err(|e| format!("taskset cannot be run: {e}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
