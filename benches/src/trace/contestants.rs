//! The caches that a trace is replayed against, each with the settings that its own documents recommend for video.
//!
//! Must stay true: all have the same two budgets, two threads of work, the same origin and an access log; what a
//! process is started with is told in the table (`settings`); every process is ended by its id.

mod ats;
mod nginx;
mod ours;
mod varnish;

use super::Who;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_e2e::Fleet;

/// What each may use for objects.
pub struct Budget {
    pub ram_bytes: u64,
    pub disk_bytes: u64,
}

impl Budget {
    fn ram_mib(&self) -> u64 {
        self.ram_bytes >> 20
    }

    fn disk_mib(&self) -> u64 {
        self.disk_bytes >> 20
    }
}

/// Threads of work of each contestant.
const CORES: usize = 2;
/// A start that takes longer failed.
const START_MAX: Duration = Duration::from_secs(60);
/// An object that no trace holds.
const PROBE: &str = "/archive/probe.64.m4s";

/// A contestant at work.
pub struct Running {
    pub version: String,
    pub settings: String,
    pub address: SocketAddr,
    pub pid: u32,
    /// What it says of itself at the end, for who looks for causes.
    pub counters: serde_json::Value,
    process: Process,
}

enum Process {
    Child { child: Child, said: std::path::PathBuf },
    Fleet(Box<Fleet>),
    Ended,
}

/// Starts one with an empty cache in `dir`.
///
/// # Errors
/// Why it cannot run here.
pub fn start(who: Who, dir: &Path, budget: &Budget, origin: SocketAddr) -> Result<Running, String> {
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    match who {
        Who::Tidegate => ours::start(budget, origin, ours::usual),
        Who::TidegateSieve => ours::start(budget, origin, ours::sieve),
        Who::TidegateLru => ours::start(budget, origin, ours::lru),
        Who::Nginx => nginx::start(dir, budget, origin),
        Who::Ats => ats::start(dir, budget, origin),
        Who::Varnish => varnish::start(dir, budget, origin),
    }
}

impl Running {
    /// A child whose words go to a file in `dir`.
    fn spawn(
        mut command: Command,
        dir: &Path,
        address: SocketAddr,
        version: String,
        settings: String,
    ) -> Result<Running, String> {
        let said = dir.join("said");
        let file = File::create(&said).map_err(|e| format!("{}: {e}", said.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let copy = file.try_clone().map_err(|e| format!("{}: {e}", said.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(copy)
            .stderr(file)
            .spawn()
            .map_err(|e| format!("{program} cannot be started: {e}"))?;
        let pid = child.id();
        let counters = serde_json::Value::Null;
        let process = Process::Child { child, said };
        Ok(Running { version, settings, address, pid, counters, process })
    }

    /// Waits until it brings an object from the origin; there is nothing to wait on but the answer.
    pub fn wait_ready(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let outcome = probe(self.address);
            if matches!(outcome, Ok(200)) {
                return Ok(());
            }
            if let Process::Child { child, said } = &mut self.process {
                let ended = child.try_wait().map_err(|e| e.to_string())?;
                if ended.is_some() || begin.elapsed() > START_MAX {
                    let text = fs::read_to_string(said).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().rev().take(6).collect();
                    let lines: Vec<&str> = lines.into_iter().rev().collect();
                    let state = ended.map_or("does not answer".to_owned(), |s| s.to_string());
                    return Err(format!("{state}; {outcome:?}; it said: {}", lines.join(" | ")));
                }
            } else if begin.elapsed() > START_MAX {
                return Err(format!("does not answer: {outcome:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until what it keeps is on its disk, as far as it can tell.
    pub fn settle(&self) {
        if let Process::Fleet(fleet) = &self.process {
            fleet.settle(ours::MEMBER);
        }
    }

    /// Keeps what it says of itself, and ends it.
    pub fn end(&mut self) {
        if let Process::Fleet(fleet) = &self.process {
            self.counters = fleet.status(ours::MEMBER);
        }
        self.stop();
    }

    fn stop(&mut self) {
        match std::mem::replace(&mut self.process, Process::Ended) {
            Process::Child { mut child, .. } => {
                // TERM first, so that masters end their workers.
                let _asked = Command::new("kill").arg(child.id().to_string()).status();
                let begin = Instant::now();
                while matches!(child.try_wait(), Ok(None)) {
                    if begin.elapsed() > Duration::from_secs(10) {
                        let _killed = child.kill();
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Process::Fleet(fleet) => drop(fleet),
            Process::Ended => {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The status of an answer for the probe object.
fn probe(address: SocketAddr) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let host = tidegate_e2e::fleet::HOST;
    let request = format!("GET {PROBE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other("no HTTP answer"))
}

fn free() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    listener.and_then(|l| l.local_addr()).map_err(|e| format!("no free port: {e}"))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// First line that a program says about its version.
fn version(program: &str, argument: &str) -> Result<String, String> {
    let output = Command::new(program).arg(argument).output().map_err(|e| {
        format!("{program} cannot be run: {e}; `cargo xtask setup bench-trace` installs it")
    })?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(said.lines().next().unwrap_or("unknown").trim().to_owned())
}
