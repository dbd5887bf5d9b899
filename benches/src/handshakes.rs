//! New TLS connections: the edge beside nginx, with the same certificate and TLS 1.3, full handshakes and resumed ones.
//!
//! Each connection is opened, asks for one object of 1 KiB with `Connection: close`, and is read to its end. What is
//! compared is the server's CPU time for one such connection; clients are threads of this program on the other core.
//!
//! Must stay true: a handshake is of the kind that the case says, or the run ends with an error.

use crate::contestant::{self, pin};
use crate::generators::median;
use crate::nginx::{Manner, Nginx, Setting};
use crate::{cpu, object_name};
use clap::{Args, ValueEnum};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions};
use tidegate_load::channel::Protocol;
use tidegate_load::tls::{Trust, client_config};

/// Measures new TLS connections: server CPU for each, tidegate and nginx.
#[derive(Args, Debug)]
pub struct HandshakeArgs {
    /// Rounds; in each one every contestant is measured once for each case.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Clients at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Kind of the certificate's key.
    #[arg(long, value_enum, default_value = "p256")]
    key: Key,
    /// Core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the clients.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/handshakes.json")]
    out: PathBuf,
}

/// Kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Key {
    P256,
    Rsa2048,
}

const OBJECT_BYTES: usize = 1024;
const CASES: [(&str, HandshakeKind); 2] =
    [("full", HandshakeKind::Full), ("resumed", HandshakeKind::Resumed)];
/// Of one connection: a server that hangs ends the run.
const CONNECTION_SPAN_MAX: Duration = Duration::from_secs(10);

/// Runs all of it.
///
/// # Errors
/// A contestant cannot be started, or a connection failed.
pub fn run(args: &HandshakeArgs) -> Result<(), String> {
    cpu::check_cores(args.server_core, args.load_core)?;
    let fleet = Fleet::start(
        "bench-handshakes",
        &FleetOptions {
            parents: 1,
            edges: 1,
            cores: 1,
            https: true,
            prepare: if args.key == Key::Rsa2048 { make_rsa } else { |_| {} },
            ..FleetOptions::default()
        },
    );
    let name = object_name(OBJECT_BYTES, 0);
    let body = fleet.put(&name, OBJECT_BYTES);
    let edge = fleet.member("edge-1");
    pin(edge.pid(), args.server_core)?;
    let certificate = edge.server.machine.certificates.first();
    let certificate = certificate.ok_or("the edge has no certificate")?;
    let setting = Setting {
        manner: Manner::Static,
        http: contestant::free()?,
        https: contestant::free()?,
        origin: fleet.member("origin-1").http(),
        origin_dir: &fleet.origin_dir(),
        certificate: &certificate.chain,
        key: &certificate.key,
        core: args.server_core,
    };
    let peer = Nginx::start(&fleet.dir.join("nginx"), &setting)?;
    contestant::patient_get(setting.http, &format!("/{name}"))?;
    // This program too, and what it starts from here on.
    pin(std::process::id(), args.load_core)?;
    let ask = Ask { path: format!("/{name}"), body };
    let all = [("tidegate", edge.pid(), edge.https()), ("nginx", peer.pid(), setting.https)];
    for (_, _, address) in all {
        ask.once(address, &config(HandshakeKind::Full)?)?;
    }
    let mut rounds = Vec::new();
    // Our CPU time for a connection over the peer's, by case.
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for round in 0..args.rounds {
        println!("Round {} of {}", round + 1, args.rounds);
        for (at, (case, kind)) in CASES.into_iter().enumerate() {
            let mut spent = [0.0; 2];
            for step in 0..all.len() {
                // Each round begins with the other one.
                let who = (step + round as usize) % all.len();
                let (name, pid, address) = all[who];
                let before = cpu::spent(pid)?;
                let made = load(args, &ask, address, kind).map_err(|e| format!("{name}: {e}"))?;
                spent[who] = (cpu::spent(pid)? - before) * 1e6 / made as f64;
                println!(
                    "  {case:<8} {name:<10} {:>8.1} CPU-us/connection, {:>6.0} connections/CPU-s",
                    spent[who],
                    1e6 / spent[who]
                );
            }
            ratios[at].push(spent[0] / spent[1]);
            rounds.push(serde_json::json!({
                "round": round, "case": case, "tidegate_cpu_us": spent[0], "nginx_cpu_us": spent[1],
            }));
        }
    }
    println!("\nConnections per CPU-second, as a multiple of nginx's ({:?} key)", args.key);
    for ((case, _), of) in CASES.iter().zip(&ratios) {
        let least = of.iter().copied().fold(0.0, f64::max);
        let most = of.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{case:<8} {:.2} ({:.2} .. {:.2})",
            1.0 / median(of.iter().copied()),
            1.0 / least,
            1.0 / most
        );
    }
    let report = serde_json::json!({
        "machine": cpu::machine(), "source": crate::report::source(),
        "nginx": crate::nginx::version(), "key": format!("{:?}", args.key), "rounds": rounds,
    });
    crate::report::write(&args.out, &report)
}

/// How many connections were made.
fn load(
    args: &HandshakeArgs,
    ask: &Ask,
    address: SocketAddr,
    kind: HandshakeKind,
) -> Result<u64, String> {
    let end = Instant::now() + Duration::from_secs(u64::from(args.seconds));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..args.clients)
            .map(|_| {
                scope.spawn(move || {
                    // Tickets are a client's own.
                    let config = config(kind)?;
                    let mut made = 0;
                    while Instant::now() < end {
                        let came = ask.once(address, &config)?;
                        // The first one has no ticket yet.
                        if came != kind && (made > 0 || kind == HandshakeKind::Full) {
                            return Err(format!("a handshake was {came:?}, not {kind:?}"));
                        }
                        made += 1;
                    }
                    Ok(made)
                })
            })
            .collect();
        let mut sum = 0;
        for client in clients {
            sum += client.join().map_err(|_| "a client panicked".to_owned())??;
        }
        Ok(sum)
    })
}

fn config(kind: HandshakeKind) -> Result<Arc<ClientConfig>, String> {
    let shared = client_config(&Trust::Anyone, Protocol::Http1).map_err(|e| e.to_string())?;
    let mut config = ClientConfig::clone(&shared);
    config.resumption = match kind {
        HandshakeKind::Resumed => Resumption::in_memory_sessions(8),
        _ => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

/// What each connection asks for.
struct Ask {
    path: String,
    body: Vec<u8>,
}

impl Ask {
    fn once(
        &self,
        address: SocketAddr,
        config: &Arc<ClientConfig>,
    ) -> Result<HandshakeKind, String> {
        let failed = |e: std::io::Error| format!("{address}: {e}");
        let socket = TcpStream::connect(address).map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        socket.set_read_timeout(Some(CONNECTION_SPAN_MAX)).map_err(failed)?;
        let name = ServerName::try_from(HOST).map_err(|e| e.to_string())?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(|e| e.to_string())?;
        let mut tls = StreamOwned::new(tls, socket);
        let request =
            format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n", self.path);
        tls.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).map_err(failed)?;
        if !answer.starts_with(b"HTTP/1.1 200 ") || !answer.ends_with(&self.body) {
            let head = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
            return Err(format!("{address} answered {head:?}"));
        }
        tls.conn.handshake_kind().ok_or_else(|| "a handshake without a kind".to_owned())
    }
}

/// An RSA key in place of the fleet's.
fn make_rsa(dir: &Path) {
    let (chain, key) = (dir.join("edge-1.crt"), dir.join("edge-1.key"));
    let _old = (fs::remove_file(&chain), fs::remove_file(&key));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj"])
        .args([&format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")])
        .arg("-out")
        .arg(&chain)
        .arg("-keyout")
        .arg(&key)
        .output();
    // Without files the edge says at its start what is missing.
    if let Err(error) = made {
        eprintln!("openssl cannot be run: {error}");
    }
}
