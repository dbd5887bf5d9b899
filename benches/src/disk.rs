//! HTTPS hits of 1 MiB from disk: the edge beside nginx and OpenSSL.
//!
//! The edge has a working set of 16 times its RAM tier in a store, and reads past the page cache; nginx serves the same
//! files. `nginx direct` does the same work: `directio 512k; aio threads; output_buffers 1 512k`, as its documents
//! advise for large media. `nginx static` reads from the page cache by sendfile's way: it is told beside, and is not
//! bounded by any memory.
//!
//! Must stay true: nearly all of the edge's bytes come from its store, or the run ends with an error.

use crate::contestant::{Case, Line, Place, Start};
use crate::report::Report;
use crate::{Measure, cpu};
use clap::Args;
use std::path::PathBuf;

/// Measures HTTPS hits of 1 MiB from disk: a tidegate edge and nginx.
#[derive(Args, Debug)]
pub struct DiskArgs {
    /// Rounds; in each one every contestant is measured once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Connections, kept alive.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load generator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/disk.json")]
    out: PathBuf,
}

const SIZE: usize = 1 << 20;
const RAM_BYTES: u64 = 32 << 20;
const OBJECTS: usize = 512;
/// Of what the edge sends, from its store at least.
const FROM_STORE_MIN: f64 = 0.8;

/// Runs all of it.
///
/// # Errors
/// A contestant cannot be started, an answer was no good one, or the hits were not from disk.
pub fn run(args: &DiskArgs) -> Result<(), String> {
    cpu::check_cores(args.server_core, args.load_core)?;
    let field =
        Start { place: Place::Disk, sizes: &[SIZE], objects: OBJECTS, ram_bytes: RAM_BYTES }
            .start(args.server_core)?;
    let scripts = crate::wrk::write_scripts(&field.dir, &[SIZE], OBJECTS)?;
    let measure =
        Measure { core: args.load_core, connections: args.connections, seconds: args.seconds };
    let case = Case { line: Line::Https, size: SIZE };
    let mut report = Report::new(args.rounds, args.seconds, args.connections);
    let mut sent = 0;
    for round in 0..args.rounds {
        for step in 0..field.contestants.len() {
            let contestant = &field.contestants[(step + round as usize) % field.contestants.len()];
            let figure = measure.one(contestant, case, &scripts)?;
            println!("  {:<14} {:>7.3} CPU-s/GB", contestant.name, figure.cpu_s_per_gb());
            sent += if contestant.name == "tidegate" { figure.bytes } else { 0 };
            report.add(round, case, contestant.name, figure);
        }
    }
    let share = field.read_from_store() as f64 / sent as f64;
    println!("\n{:.0} % of the edge's bytes were read from its store", share * 100.0);
    if share < FROM_STORE_MIN {
        return Err(format!(
            "that is less than {:.0} %: no hits from disk",
            FROM_STORE_MIN * 100.0
        ));
    }
    report.print();
    report.write(&args.out)
}
