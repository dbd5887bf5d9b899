//! The side-by-side rigs. Hits from memory (this file): one tidegate edge and nginx serve the same files on the same core; a load generator on
//! another core asks both in turn; what is compared is the CPU time that each server's processes took. The reference
//! trace (`trace`) and hits from disk (`mixed`): a parent and its peers as caches in front of an origin that counts.
//! HTTP/3 beside other QUIC servers (`http3`); new TLS connections (`handshakes`), idle ones (`idle`), and large objects from
//! disk over HTTPS (`disk`). How an edge with a full store comes back (`start`). Players behind a
//! narrow link (`stalls`). The load harness beside
//! other generators (`generators`).
//!
//! Must stay true: contestants are measured one after the other in every round, in an order that changes from round
//! to round; every answer is a hit and a success, or the run ends with an error; results are ratios of one run.
#![forbid(unsafe_code)]

mod contestant;
mod cpu;
mod disk;
mod generators;
mod handshakes;
mod http3;
mod idle;
mod mixed;
mod nginx;
mod own;
mod report;
mod stalls;
mod start;
mod trace;
mod wrk;

use clap::{Parser, Subcommand};
use contestant::{Case, Contestant, FROM_MEMORY, Line, OBJECTS, SIZES};
use report::{Figure, Report};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures a tidegate edge beside nginx: CPU per request and per GB, hits from memory, HTTP and HTTPS.
#[derive(Parser, Debug)]
#[command(name = "tidegate-bench", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    rig: Option<Rig>,
    /// Rounds; in each one every contestant is measured once for each case.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Connections, kept alive.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Only cases whose name has one of these in it, divided by commas: "HTTP/2 1 KiB,HTTPS 1 MiB".
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load generator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/report.json")]
    out: PathBuf,
}

/// Another rig than that of hits from memory.
#[derive(Subcommand, Debug)]
enum Rig {
    Trace(Box<trace::TraceArgs>),
    Mixed(Box<mixed::MixedArgs>),
    Start(start::StartArgs),
    Stalls(stalls::StallsArgs),
    /// The load harness beside wrk and h2load.
    Load(generators::GeneratorArgs),
    Http3(http3::Http3Args),
    Handshakes(handshakes::HandshakeArgs),
    Disk(disk::DiskArgs),
    Idle(idle::IdleArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.rig {
        None => run(&args),
        Some(Rig::Trace(args)) => trace::run(args),
        Some(Rig::Mixed(args)) => mixed::run(args),
        Some(Rig::Start(args)) => start::run(args),
        Some(Rig::Stalls(args)) => stalls::run(args),
        Some(Rig::Load(args)) => generators::run(args),
        Some(Rig::Http3(args)) => http3::run(args),
        Some(Rig::Handshakes(args)) => handshakes::run(args),
        Some(Rig::Disk(args)) => disk::run(args),
        Some(Rig::Idle(args)) => idle::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tidegate-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    cpu::check_cores(args.server_core, args.load_core)?;
    println!("Starting one origin, one parent, one edge, and nginx in two manners");
    let field = FROM_MEMORY.start(args.server_core)?;
    let scripts = wrk::write_scripts(&field.dir, &SIZES, OBJECTS)?;
    let cases: Vec<Case> = [Line::Http, Line::Https, Line::Http2]
        .into_iter()
        .flat_map(|line| SIZES.map(|size| Case { line, size }))
        .filter(|case| args.only.is_empty() || args.only.iter().any(|name| case.is_meant(name)))
        .collect();
    if cases.is_empty() {
        let names = args.only.join(",");
        return Err(format!("--only {names}: no case is called so; \"HTTP/2 1 KiB\" is one"));
    }
    let measure =
        Measure { core: args.load_core, connections: args.connections, seconds: args.seconds };
    let mut report = Report::new(args.rounds, args.seconds, args.connections);
    for round in 0..args.rounds {
        println!("Round {} of {}", round + 1, args.rounds);
        for case in &cases {
            // Each round begins with another one, so that no one always follows the same predecessor.
            for step in 0..field.contestants.len() {
                let index = (step + round as usize) % field.contestants.len();
                let contestant = &field.contestants[index];
                let figure = measure.one(contestant, *case, &scripts)?;
                println!(
                    "  {:<18} {:<18} {:>9.2} us/request {:>9.3} CPU-s/GB {:>9.0} requests/s",
                    case.to_string(),
                    contestant.name,
                    figure.cpu_us_per_request(),
                    figure.cpu_s_per_gb(),
                    figure.requests as f64 / figure.wall_s
                );
                report.add(round, *case, contestant.name, figure);
            }
        }
    }
    field.check_hits()?;
    report.print();
    report.write(&args.out)
}

/// How one measurement is made.
struct Measure {
    core: usize,
    connections: u32,
    seconds: u32,
}

impl Measure {
    fn one(
        &self,
        contestant: &Contestant,
        case: Case,
        scripts: &wrk::Scripts,
    ) -> Result<Figure, String> {
        let load = wrk::Load {
            address: contestant.address(case.line),
            https: case.line == Line::Https,
            script: scripts.of(case.size),
            core: self.core,
            connections: self.connections,
            seconds: self.seconds,
        };
        let before = cpu::spent(contestant.pid)?;
        let outcome = match case.line {
            Line::Http | Line::Https => load.run()?,
            Line::Http2 => load.run_h2(scripts.paths_of(case.size))?,
            Line::Http3 => return Err("HTTP/3 is measured by `http3`".to_owned()),
        };
        let spent_s = cpu::spent(contestant.pid)? - before;
        if outcome.failed > 0 || outcome.requests == 0 {
            return Err(format!(
                "{} at {case}: {} answers, {} failed: a run with failures measures nothing",
                contestant.name, outcome.requests, outcome.failed
            ));
        }
        Ok(Figure {
            requests: outcome.requests,
            bytes: outcome.requests * case.size as u64,
            wall_s: outcome.seconds,
            cpu_s: spent_s,
        })
    }
}

/// Name of an object of one size.
fn object_name(size: usize, number: usize) -> String {
    format!("{size}-{number}.m4s")
}
