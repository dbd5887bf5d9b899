//! Hits from disk mixed with fills: a working set of ten times the RAM budget, every contestant on the same requests.
//!
//! Each object is asked for twice before the measurement. Then rounds: in each one every object of the working set once
//! in random order, so that no cache in RAM helps, among requests for a few hot objects and for objects that nobody
//! asked for before. Before each round the contestants' files are dropped from the page cache, because the RAM budget
//! is meant for all; pages that a process has mapped (Varnish) cannot be dropped.
//!
//! Must stay true: the requests are a function of the seed; what is dropped is told by what is read from disk.

use crate::trace::contestants::{self, Budget};
use crate::trace::gauge::{Gauge, Usage};
use crate::trace::{ALL, Cleaned, Who};
use clap::Args;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Cursor;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_load::tally::Times;
use tidegate_load::trace::origin::{Manners, Origin};
use tidegate_load::trace::random::Random;
use tidegate_load::trace::replay::{Errors, Options, Replayed, replay};
use tidegate_load::trace::{CLASSES, Class, FIRST_LINE};

/// Measures hits from disk mixed with fills: tidegated, nginx, Apache Traffic Server and Varnish.
#[derive(Args, Debug)]
pub struct MixedArgs {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// RAM for objects, in MiB; the working set is ten times as large, the disk twice that.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(32..=1 << 16))]
    ram_mib: u64,
    /// Rounds over the whole working set.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Requests under way at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Only these contestants.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Who>,
    /// Where caches lie while it runs; a folder of a disk.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/mixed.json")]
    out: PathBuf,
}

/// The working set, in RAM budgets.
const WORKING_SET: u64 = 10;
/// Sizes are from the first to the second, evenly.
const SIZES: (u64, u64) = (64 << 10, 448 << 10);
/// Objects that are asked for again and again.
const HOT: usize = 32;
/// Requests for a hot object, and for a new one, of 100.
const HOT_PERCENT: u64 = 25;
const NEW_PERCENT: u64 = 5;
/// The way to the origin.
const ORIGIN_DELAY: Duration = Duration::from_millis(10);

/// What one contestant did in all rounds.
struct Sum {
    name: &'static str,
    version: String,
    settings: String,
    requests: u64,
    bytes: u64,
    seconds: f64,
    origin_requests: u64,
    origin_bytes: u64,
    errors: Errors,
    first_failure: Option<String>,
    /// Of the working set, which every contestant has; of new objects, which none has.
    first_byte: Times,
    first_byte_new: Times,
    usage: Usage,
}

/// Runs all of it.
///
/// # Errors
/// The caches' folder cannot be made, or tidegate cannot be measured.
pub fn run(args: &MixedArgs) -> Result<(), String> {
    let dir = args.dir.join(format!("tidegate-bench-mixed-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let _cleaned = Cleaned(&dir);
    let plan = Plan::new(args.seed, (args.ram_mib << 20) * WORKING_SET);
    println!(
        "Working set: {} objects, {} MiB; RAM for objects {} MiB; each round: every object once, {HOT_PERCENT} % \
         of requests for {HOT} hot ones, {NEW_PERCENT} % for new ones",
        plan.paths.len(),
        args.ram_mib * WORKING_SET,
        args.ram_mib
    );
    let mut sums = Vec::new();
    let mut absent = Vec::new();
    for who in if args.only.is_empty() { &ALL[..] } else { &args.only } {
        println!("Measuring {}", who.name());
        match one(args, *who, &dir, &plan) {
            Ok(sum) => sums.push(sum),
            Err(why) => absent.push((who.name(), why)),
        }
    }
    print(&sums, &absent);
    write(args, &sums, &absent)?;
    println!("\nReport: {}", args.out.display());
    let ours = Who::Tidegate.name();
    if let Some((_, why)) = absent.iter().find(|(name, _)| *name == ours) {
        return Err(format!("tidegate could not be measured: {why}"));
    }
    match sums.iter().find(|sum| sum.name == ours && sum.errors.total() > 0) {
        Some(sum) => Err(format!("tidegate failed requests: {:?}", sum.first_failure)),
        None => Ok(()),
    }
}

/// Which requests, in which order.
struct Plan {
    seed: u64,
    /// Path and size of each object of the working set.
    paths: Vec<(String, u64)>,
}

impl Plan {
    fn new(seed: u64, bytes: u64) -> Plan {
        let mut random = Random::new(seed);
        let (mut paths, mut sum) = (Vec::new(), 0);
        while sum < bytes {
            let (path, size) = object(&mut random, &format!("/vod/w{}", paths.len()));
            sum += size;
            paths.push((path, size));
        }
        Plan { seed, paths }
    }

    /// Every object, twice, each time in another order.
    fn warm_up(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for pass in 0..2 {
            for index in self.order(pass) {
                push(&mut text, &self.paths[index]);
            }
        }
        text
    }

    /// The requests of one round (from 0).
    fn round(&self, round: u32) -> String {
        let mut random = Random::new(self.seed ^ u64::from(round + 1) << 32);
        let mut text = format!("{FIRST_LINE}\n");
        let mut order = self.order(u64::from(round) + 2).into_iter();
        let mut new = 0;
        loop {
            let kind = random.below(100);
            if kind < NEW_PERCENT {
                push(&mut text, &object(&mut random, &format!("/archive/r{round}-{new}")));
                new += 1;
            } else if kind < NEW_PERCENT + HOT_PERCENT {
                let hot = random.below(HOT.min(self.paths.len()) as u64);
                push(&mut text, &self.paths[hot as usize]);
            } else if let Some(index) = order.next() {
                push(&mut text, &self.paths[index]);
            } else {
                return text;
            }
        }
    }

    /// All indexes in an order of chance.
    fn order(&self, salt: u64) -> Vec<usize> {
        let mut random = Random::new(self.seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9)));
        let mut order: Vec<usize> = (0..self.paths.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at as u64 + 1) as usize);
        }
        order
    }
}

fn object(random: &mut Random, name: &str) -> (String, u64) {
    let size = SIZES.0 + random.below(SIZES.1 - SIZES.0);
    (format!("{name}.{size}.m4s"), size)
}

fn push(text: &mut String, (path, size): &(String, u64)) {
    let class = path.split('/').nth(1).unwrap_or_default();
    *text += &format!("0 1 GET {path} - {size} {class}\n");
}

fn one(args: &MixedArgs, who: Who, dir: &Path, plan: &Plan) -> Result<Sum, String> {
    let manners = Manners { delay: ORIGIN_DELAY, ..Manners::default() };
    let origin = Origin::start(([127, 0, 0, 1], 0).into(), manners)
        .map_err(|e| format!("the origin cannot listen: {e}"))?;
    let ram_bytes = args.ram_mib << 20;
    let budget = Budget { ram_bytes, disk_bytes: ram_bytes * WORKING_SET * 2 };
    let mine = dir.join(who.name());
    let mut running = contestants::start(who, &mine, &budget, origin.address)?;
    running.wait_ready()?;
    let ask = |text: String| ask(running.address, args.connections, text);
    ask(plan.warm_up())?;
    let mut sum = Sum {
        name: who.name(),
        version: running.version.clone(),
        settings: running.settings.clone(),
        requests: 0,
        bytes: 0,
        seconds: 0.0,
        origin_requests: 0,
        origin_bytes: 0,
        errors: Errors::default(),
        first_failure: None,
        first_byte: Times::default(),
        first_byte_new: Times::default(),
        usage: Usage::default(),
    };
    for round in 0..args.rounds {
        running.settle();
        drop_pages(&mine);
        origin.forget();
        let gauge = Gauge::start(running.pid)?;
        let replayed = ask(plan.round(round))?;
        sum.usage.add(&gauge.end()?);
        let counts = origin.counts();
        sum.origin_requests += counts.requests;
        sum.origin_bytes += counts.bytes;
        sum.add(replayed);
    }
    running.end();
    println!("  {:.2} Gb/s, {:.3} CPU-s/GB", sum.gigabits(), sum.cpu_s_per_gb());
    Ok(sum)
}

fn ask(target: SocketAddr, connections: u32, text: String) -> Result<Replayed, String> {
    let options = Options {
        target,
        host: tidegate_e2e::fleet::HOST.to_owned(),
        connections: connections as usize,
        timeout: Duration::from_secs(60),
        pace: None,
    };
    replay(Cursor::new(text), &options).map_err(|e| e.to_string())
}

/// Writes out and drops every file below `dir` from the page cache; files that vanish meanwhile are no matter.
fn drop_pages(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => drop_pages(&path),
            Ok(kind) if kind.is_file() => {
                let Ok(file) = File::open(&path) else { continue };
                let _written = file.sync_data();
                let _dropped = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            }
            _ => {}
        }
    }
}

impl Sum {
    fn add(&mut self, replayed: Replayed) {
        self.requests += replayed.requests;
        self.bytes += replayed.bytes;
        self.seconds += replayed.elapsed.as_secs_f64();
        self.errors.add(&replayed.errors);
        self.first_failure = self.first_failure.take().or(replayed.first_failure);
        for (class, times) in CLASSES.iter().zip(&replayed.first_byte_by_class) {
            let mine = if *class == Class::Archive {
                &mut self.first_byte_new
            } else {
                &mut self.first_byte
            };
            mine.add(times);
        }
    }

    fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.seconds
    }

    fn cpu_s_per_gb(&self) -> f64 {
        self.usage.cpu_s * 1e9 / self.bytes.max(1) as f64
    }

    /// Names, values and decimals of what is told.
    fn figures(&self) -> [(&'static str, f64, usize); 12] {
        let ms = |times: &Times, percent| times.percentile_ns(percent).unwrap_or(f64::NAN) / 1e6;
        let (kept, new) = (&self.first_byte, &self.first_byte_new);
        let per_byte = |bytes: u64| bytes as f64 / self.bytes.max(1) as f64;
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        [
            ("gigabits_per_s", self.gigabits(), 2),
            ("cpu_s_per_gb", self.cpu_s_per_gb(), 3),
            ("first_byte_p50_ms", ms(kept, 50.0), 2),
            ("first_byte_p99_ms", ms(kept, 99.0), 2),
            ("first_byte_p99_9_ms", ms(kept, 99.9), 2),
            ("new_object_first_byte_p50_ms", ms(new, 50.0), 2),
            ("new_object_first_byte_p99_ms", ms(new, 99.0), 2),
            ("memory_peak_mib", mib(self.usage.memory_peak_bytes), 0),
            ("mapped_peak_mib", mib(self.usage.mapped_peak_bytes), 0),
            ("disk_bytes_read_per_byte", per_byte(self.usage.read_bytes), 3),
            ("disk_bytes_written_per_byte", per_byte(self.usage.written_bytes), 3),
            ("origin_bytes_per_byte", per_byte(self.origin_bytes), 3),
        ]
    }
}

fn print(sums: &[Sum], absent: &[(&str, String)]) {
    let heads: String = sums.iter().map(|sum| format!("{:>12}", sum.name)).collect();
    println!("\n{:<30}{heads}", "");
    let rows = sums.first().map_or(0, |sum| sum.figures().len());
    for row in 0..rows {
        let cells: String = (sums.iter())
            .map(|sum| {
                let (_, value, decimals) = sum.figures()[row];
                format!("{value:>12.decimals$}")
            })
            .collect();
        println!("{:<30}{cells}", sums[0].figures()[row].0);
    }
    let errors: String = sums.iter().map(|sum| format!("{:>12}", sum.errors.total())).collect();
    println!("{:<30}{errors}", "errors");
    for (name, why) in absent {
        println!("{name} was not measured: {why}");
    }
    for sum in sums {
        println!("{}: {}; {}", sum.name, sum.version, sum.settings);
    }
    println!(
        "\nWho reads less than about 0.7 of its bytes from disk had them in memory beyond the budget (mapped pages \
         cannot be dropped), or fetched them again (origin_bytes)."
    );
}

fn write(args: &MixedArgs, sums: &[Sum], absent: &[(&str, String)]) -> Result<(), String> {
    let rows: Vec<Value> = (sums.iter())
        .map(|sum| {
            let figures: serde_json::Map<String, Value> =
                sum.figures().iter().map(|(n, v, _)| ((*n).to_owned(), json!(v))).collect();
            json!({
                "name": sum.name, "version": sum.version, "settings": sum.settings, "figures": figures,
                "requests": sum.requests, "body_bytes": sum.bytes, "seconds": sum.seconds,
                "origin_requests": sum.origin_requests, "errors": sum.errors, "first_failure": sum.first_failure,
            })
        })
        .collect();
    let report = json!({
        "machine": crate::cpu::machine(), "source": crate::report::source(),
        "seed": args.seed, "ram_mib": args.ram_mib, "rounds": args.rounds, "connections": args.connections,
        "rows": rows,
        "not_measured": absent.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
    if let Some(dir) = args.out.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::write(&args.out, text).map_err(|e| format!("{}: {e}", args.out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tidegate_load::trace::Reader;

    fn counted(text: &str) -> HashMap<String, u64> {
        let mut reader = Reader::new(text.as_bytes()).unwrap();
        let mut counts = HashMap::new();
        while let Some(line) = reader.next_line().unwrap() {
            *counts.entry(line.path).or_default() += 1;
        }
        counts
    }

    #[test]
    fn a_round_asks_for_every_object_and_for_new_ones() {
        let plan = Plan::new(3, 100 << 20);
        assert!(plan.paths.iter().map(|(_, size)| size).sum::<u64>() >= 100 << 20);
        assert!(counted(&plan.warm_up()).values().all(|count| *count == 2));
        let (first, second) = (counted(&plan.round(0)), counted(&plan.round(1)));
        for (path, _) in &plan.paths[HOT..] {
            assert_eq!((first[path], second[path]), (1, 1));
        }
        let new = |counts: &HashMap<String, u64>| {
            counts.keys().filter(|path| path.starts_with("/archive/")).count()
        };
        assert!(new(&first) > 0);
        // No object is new twice.
        let both: Vec<&String> = first.keys().filter(|path| second.contains_key(*path)).collect();
        assert!(both.iter().all(|path| path.starts_with("/vod/")));
        assert_eq!(plan.round(0), Plan::new(3, 100 << 20).round(0));
    }
}
