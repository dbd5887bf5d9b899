//! The reference trace against every contestant: one after the other, each on a fresh cache with the same RAM and disk,
//! in front of the same origin, which is in this process and judges.
//!
//! Must stay true: all replay the same file; hit ratios come from what reached the origin, never from what a server
//! says of itself; a contestant that cannot run gets a row that says why.

pub mod contestants;
pub mod gauge;
mod table;

use clap::{Args, ValueEnum};
use contestants::{Budget, Running};
use gauge::{Gauge, Usage};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use table::Row;
use tidegate_load::trace::make::{Generator, Made};
use tidegate_load::trace::model::{Model, Policy};
use tidegate_load::trace::origin::{Counts, Manners, Origin};
use tidegate_load::trace::recipe::Recipe;
use tidegate_load::trace::replay::{Options, Replayed, replay};

/// Replays the reference trace against tidegated, nginx, Apache Traffic Server and Varnish at equal RAM and disk.
#[derive(Args, Debug)]
pub struct TraceArgs {
    #[arg(long, default_value_t = Recipe::default().seed)]
    seed: u64,
    #[arg(long, default_value_t = Recipe::default().requests)]
    requests: u64,
    /// RAM for objects, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    ram_mib: u64,
    /// Disk for objects, in MiB.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..=1 << 24))]
    disk_mib: u64,
    /// Requests under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// From a request to the first byte of the origin's answer.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    origin_delay_ms: u64,
    /// Virtual seconds that pass in one second; without it, as fast as answers come.
    #[arg(long)]
    pace: Option<f64>,
    /// Only these contestants.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Who>,
    /// Where caches and trace lie while it runs; a folder of a disk.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/trace.json")]
    out: PathBuf,
}

/// Whom to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Who {
    Tidegate,
    /// With `ram_policy = "sieve"`.
    TidegateSieve,
    /// With `ram_policy = "lru"`.
    TidegateLru,
    Nginx,
    Ats,
    Varnish,
}

/// Those that are measured when nobody is named, in the order of the table.
pub const ALL: [Who; 4] = [Who::Tidegate, Who::Nginx, Who::Ats, Who::Varnish];

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Who::Tidegate => "tidegate",
            Who::TidegateSieve => "tidegate-sieve",
            Who::TidegateLru => "tidegate-lru",
            Who::Nginx => "nginx",
            Who::Ats => "ats",
            Who::Varnish => "varnish",
        }
    }
}

/// What one contestant did.
pub struct Measured {
    pub replayed: Replayed,
    pub counts: Counts,
    pub usage: Usage,
}

/// Runs all of it.
///
/// # Errors
/// The trace cannot be made, or tidegate cannot be measured.
pub fn run(args: &TraceArgs) -> Result<(), String> {
    let dir = args.dir.join(format!("tidegate-bench-trace-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let _cleaned = Cleaned(&dir);
    let recipe = Recipe { seed: args.seed, requests: args.requests, ..Recipe::default() };
    recipe.check().map_err(|e| e.to_string())?;
    let file = dir.join("reference.trace");
    let made = make(&recipe, &file)?;
    println!(
        "Trace: {} requests, {:.1} GB of answers; {} objects of {:.1} GB, {:.1} % of them asked for once",
        made.requests,
        made.bytes as f64 / 1e9,
        made.objects,
        made.object_bytes as f64 / 1e9,
        made.objects_once as f64 * 100.0 / made.objects as f64
    );
    let budget = Budget { ram_bytes: args.ram_mib << 20, disk_bytes: args.disk_mib << 20 };
    println!("Each gets {} MiB of RAM and {} MiB of disk for objects", args.ram_mib, args.disk_mib);
    let mut rows = models(&recipe, &budget);
    let chosen = if args.only.is_empty() { &ALL[..] } else { &args.only };
    for who in chosen {
        println!("Replaying against {}", who.name());
        let row = match one(args, *who, &dir, &file, &budget) {
            Ok((running, measured)) => Row::measured(*who, &running, &measured),
            Err(why) => Row::absent(*who, &why),
        };
        println!("  {}", row.line());
        rows.push(row);
    }
    table::print(&rows);
    write(args, &recipe, &made, &rows)?;
    println!("\nReport: {}", args.out.display());
    let failed = |row: &&Row| row.name == Who::Tidegate.name() && row.failed();
    match rows.iter().find(failed) {
        Some(row) => Err(format!("tidegate did not answer every request well: {}", row.line())),
        None => Ok(()),
    }
}

/// Removes the folder at the end.
pub struct Cleaned<'a>(pub &'a Path);

impl Drop for Cleaned<'_> {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(self.0);
    }
}

fn make(recipe: &Recipe, path: &Path) -> Result<Made, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut out = BufWriter::new(File::create(path).map_err(failed)?);
    let made = tidegate_load::trace::write(recipe, &mut out).map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(made)
}

/// What simple policies would get out of it.
fn models(recipe: &Recipe, budget: &Budget) -> Vec<Row> {
    let room = budget.ram_bytes + budget.disk_bytes;
    let mut models = [
        ("model: infinite", Model::new(Policy::Infinite)),
        ("model: LRU", Model::new(Policy::Lru(room))),
        ("model: FIFO", Model::new(Policy::Fifo(room))),
    ];
    for line in Generator::new(recipe.clone()) {
        models.iter_mut().for_each(|(_, model)| model.ask(&line));
    }
    models.iter().map(|(name, model)| Row::model(name, &model.outcome())).collect()
}

/// One contestant from start to end.
fn one(
    args: &TraceArgs,
    who: Who,
    dir: &Path,
    file: &Path,
    budget: &Budget,
) -> Result<(Running, Measured), String> {
    let manners =
        Manners { delay: Duration::from_millis(args.origin_delay_ms), ..Manners::default() };
    let origin = Origin::start(([127, 0, 0, 1], 0).into(), manners)
        .map_err(|e| format!("the origin cannot listen: {e}"))?;
    let mut running = contestants::start(who, &dir.join(who.name()), budget, origin.address)?;
    running.wait_ready()?;
    origin.forget();
    let gauge = Gauge::start(running.pid)?;
    let input = File::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let options = Options {
        target: running.address,
        host: tidegate_e2e::fleet::HOST.to_owned(),
        connections: args.connections as usize,
        timeout: Duration::from_secs(60),
        pace: args.pace,
    };
    let replayed =
        replay(BufReader::with_capacity(1 << 20, input), &options).map_err(|e| e.to_string())?;
    let usage = gauge.end()?;
    let counts = origin.counts();
    running.end();
    Ok((running, Measured { replayed, counts, usage }))
}

fn write(args: &TraceArgs, recipe: &Recipe, made: &Made, rows: &[Row]) -> Result<(), String> {
    let parameters: serde_json::Map<String, Value> = recipe
        .parameters()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect();
    let report = json!({
        "machine": crate::cpu::machine(),
        "source": crate::report::source(),
        "ram_mib": args.ram_mib, "disk_mib": args.disk_mib, "connections": args.connections,
        "origin_delay_ms": args.origin_delay_ms, "pace": args.pace,
        "trace": { "recipe": parameters, "made": made },
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
    if let Some(dir) = args.out.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::write(&args.out, text).map_err(|e| format!("{}: {e}", args.out.display()))
}
