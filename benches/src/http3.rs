//! HTTP/3: the edge beside Caddy and the QUIC servers of the crate registry, objects from memory.
//!
//! All serve the same files on one core; the load harness asks on another. Caddy has a file server with its defaults;
//! `quiche` is tokio-quiche, `s2n` is s2n-quic with the edge's HTTP/3 frames (`benches/quic`): both hold the files in
//! memory, have no cache, no log and no limits, so they are the floor of what their libraries cost.
//!
//! Must stay true: a peer that cannot be started, or whose request fails, is left out with the reason, and the run goes on;
//! a request of the edge's that fails ends it; the edge has hits only.

use crate::contestant::{Case, Line, OBJECTS, pin};
use crate::own::{self, Load};
use crate::report::{Figure, OURS, Report};
use crate::{cpu, object_name};
use clap::Args;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions};

/// Measures HTTP/3 from memory: a tidegate edge beside Caddy, tokio-quiche and s2n-quic.
#[derive(Args, Debug)]
pub struct Http3Args {
    /// Rounds; in each one every contestant is measured once for each size.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Connections.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Requests at once on each connection.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    streams: u32,
    /// Core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load generator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Program with the servers of the crate registry; without it they are left out.
    #[arg(long)]
    quic: Option<PathBuf>,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/http3.json")]
    out: PathBuf,
}

/// A small media segment or part, and one of 6 s.
const SIZES: [usize; 2] = [64 << 10, 1 << 20];
/// All objects fit.
const RAM_BYTES: u64 = 256 << 20;
/// A start that takes longer failed.
const START_MAX: Duration = Duration::from_secs(20);

/// A server under measurement.
struct Contestant {
    name: &'static str,
    pid: u32,
    address: SocketAddr,
    child: Option<Peer>,
}

/// A peer's process; dropped, it ends.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Runs all of it.
///
/// # Errors
/// The edge cannot be started, or an answer of its was no good one.
pub fn run(args: &Http3Args) -> Result<(), String> {
    cpu::check_cores(args.server_core, args.load_core)?;
    let fleet = Fleet::start(
        "bench-http3",
        &FleetOptions {
            parents: 1,
            edges: 1,
            cores: 1,
            ram_bytes: RAM_BYTES,
            https: true,
            ..FleetOptions::default()
        },
    );
    for size in SIZES {
        let names: Vec<String> = (0..OBJECTS).map(|n| object_name(size, n)).collect();
        for name in &names {
            fleet.put(name, size);
        }
        let urls: String = names.iter().map(|name| format!("https://{HOST}/{name}\n")).collect();
        let path = urls_of(&fleet.dir, size);
        fs::write(&path, urls).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let mut report = Report::new(args.rounds, args.seconds, args.connections);
    let mut contestants = start(args, &fleet, &mut report)?;
    let measure = |contestant: &Contestant, size: usize| {
        let load = Load {
            address: contestant.address,
            http: "3",
            urls: &urls_of(&fleet.dir, size),
            core: args.load_core,
            connections: args.connections,
            streams: args.streams,
            seconds: args.seconds,
            dir: &fleet.dir,
        };
        let before = cpu::spent(contestant.pid)?;
        let outcome = load.run().map_err(|e| format!("{}: {e}", contestant.name))?;
        Ok::<_, String>(Figure {
            requests: outcome.requests,
            bytes: outcome.requests * size as u64,
            wall_s: outcome.seconds,
            cpu_s: cpu::spent(contestant.pid)? - before,
        })
    };
    // Once for all that is done once: the edge's fills, the peers' first steps.
    for size in SIZES {
        try_each(&mut contestants, &mut report, 0, |contestant, _| {
            measure(contestant, size).map(|_| ())
        })?;
    }
    fleet.settle("edge-1");
    let fills = fleet.counter("edge-1", "fills_total");
    for round in 0..args.rounds {
        println!("Round {} of {}", round + 1, args.rounds);
        for size in SIZES {
            let case = Case { line: Line::Http3, size };
            // Each round begins with another one.
            try_each(&mut contestants, &mut report, round, |contestant, report| {
                let figure = measure(contestant, size)?;
                println!(
                    "  {:<18} {:<10} {:>9.3} CPU-s/GB {:>9.2} us/request, core busy {:>3.0} %",
                    case.to_string(),
                    contestant.name,
                    figure.cpu_s_per_gb(),
                    figure.cpu_us_per_request(),
                    figure.cpu_s * 100.0 / figure.wall_s
                );
                report.add(round, case, contestant.name, figure);
                Ok(())
            })?;
        }
    }
    if fleet.counter("edge-1", "fills_total") != fills {
        return Err("the edge filled during the run: these were not all hits".to_owned());
    }
    report.print();
    report.print_best();
    report.write(&args.out)
}

fn urls_of(dir: &Path, size: usize) -> PathBuf {
    dir.join(format!("{size}.urls"))
}

/// Does it with all of them, beginning with another one each round; peers that fail are left out from then on.
fn try_each(
    contestants: &mut Vec<Contestant>,
    report: &mut Report,
    round: u32,
    mut act: impl FnMut(&mut Contestant, &mut Report) -> Result<(), String>,
) -> Result<(), String> {
    let mut names: Vec<&'static str> = contestants.iter().map(|one| one.name).collect();
    let first = round as usize % names.len().max(1);
    names.rotate_left(first);
    for name in names {
        let Some(at) = contestants.iter().position(|one| one.name == name) else { continue };
        match act(&mut contestants[at], report) {
            Err(why) if name != OURS => {
                report.leave_out(name, why.trim());
                // What does not work is not to take CPU from the others.
                contestants.remove(at);
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

fn start(args: &Http3Args, fleet: &Fleet, report: &mut Report) -> Result<Vec<Contestant>, String> {
    let edge = fleet.member("edge-1");
    pin(edge.pid(), args.server_core)?;
    let mut all =
        vec![Contestant { name: OURS, pid: edge.pid(), address: edge.https(), child: None }];
    let certificates = &edge.server.machine.certificates;
    let certificate = certificates.first().ok_or("the edge has no certificate")?;
    let (chain, key) = (certificate.chain.clone(), certificate.key.clone());
    let core = args.server_core;
    let origin = fleet.origin_dir();
    let caddy = free()?;
    let text = format!(
        "{{\n admin off\n auto_https off\n servers {{\n  protocols h1 h2 h3\n }}\n}}\n\
         https://{HOST}:{} {{\n bind {}\n tls {chain} {key}\n root * {}\n file_server\n}}\n",
        caddy.port(),
        caddy.ip(),
        origin.display()
    );
    let path = fleet.dir.join("Caddyfile");
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut command = pinned("caddy".as_ref(), core);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&path);
    // It wants a place for its state even when there is none to keep.
    command.env("HOME", &fleet.dir).env("XDG_DATA_HOME", &fleet.dir);
    match spawn("caddy", command, caddy, &fleet.dir) {
        Ok(started) => all.push(started),
        Err(why) => report.leave_out("caddy", &why),
    }
    match &args.quic {
        None => println!("tokio-quiche and s2n-quic are left out: --quic names no program"),
        Some(program) => {
            for name in ["quiche", "s2n"] {
                let address = free()?;
                let mut command = pinned(program, core);
                command.args([name, &address.to_string(), &chain, &key]).arg(&origin);
                match spawn(name, command, address, &fleet.dir) {
                    Ok(started) => all.push(started),
                    Err(why) => report.leave_out(name, &why),
                }
            }
        }
    }
    try_each(&mut all, report, 0, |contestant, _| wait(contestant, fleet))?;
    Ok(all)
}

/// A command on one core; taskset becomes it.
fn pinned(program: &Path, core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

fn spawn(
    name: &'static str,
    mut command: Command,
    address: SocketAddr,
    dir: &Path,
) -> Result<Contestant, String> {
    let said = dir.join(format!("{name}.err"));
    let said = fs::File::create(&said).map_err(|e| format!("{}: {e}", said.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said)
        .spawn()
        .map_err(|e| format!("{name} cannot be started: {e}"))?;
    Ok(Contestant { name, pid: child.id(), address, child: Some(Peer(child)) })
}

/// Until it answers; there is nothing to wait on but that, and its end.
fn wait(contestant: &mut Contestant, fleet: &Fleet) -> Result<(), String> {
    let deadline = Instant::now() + START_MAX;
    loop {
        let output = Command::new(own::program("tidegate-load")?)
            .args(["run", "--http", "3", "--closed", "--requests", "1", "--connections", "1"])
            .args(["--insecure", "--quiet", "--timeout", "1s", "--assert", "errors == 0"])
            .args(["--connect", &contestant.address.to_string(), "--url"])
            .arg(format!("https://{HOST}/{}", object_name(SIZES[0], 0)))
            .output()
            .map_err(|e| format!("tidegate-load cannot be run: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let child = contestant.child.as_mut();
        let has_ended = child.is_some_and(|peer| !matches!(peer.0.try_wait(), Ok(None)));
        if has_ended || Instant::now() > deadline {
            let said = fleet.dir.join(format!("{}.err", contestant.name));
            return Err(format!(
                "{} does not answer over HTTP/3: {}{}",
                contestant.name,
                String::from_utf8_lossy(&output.stderr),
                fs::read_to_string(said).unwrap_or_default()
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An address whose port is free for TCP too: Caddy listens on both.
fn free() -> Result<SocketAddr, String> {
    loop {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let address = socket.and_then(|s| s.local_addr());
        let address = address.map_err(|e| format!("no free port: {e}"))?;
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
}
