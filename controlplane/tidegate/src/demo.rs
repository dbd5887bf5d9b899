//! The verb `demo`: the whole river on one machine, from a film to a playing browser.
//!
//! In order: film -> orders (configuration, keys, certificates, snapshot) -> processes -> pages -> status,
//! until Ctrl-C. Must stay true: it starts the same programs, on the same orders, as a fleet would; nothing
//! here is a stand-in for a part of the CDN. However it ends, no process it started is left.

mod error;
mod film;
mod fleet;
mod http;
mod keeper;
mod orders;
mod pages;
mod plan;
mod ports;
mod survey;
mod terminal;

pub use error::DemoError;

use clap::Args;
use fleet::{Fleet, Launch};
use keeper::Keeper;
use plan::{Node, Plan, Tier};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use terminal::{ProgressBar, StatusBlock, tell};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Run the whole CDN on this machine: film, origin, parents, edges, router, monitor, viewer page.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// A film to show instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    pub video: Option<PathBuf>,
    /// Folder for film, stores, keys, configuration and logs; kept between runs, so that caches are warm.
    #[arg(long, value_name = "DIR", default_value = ".demo")]
    pub dir: PathBuf,
    /// Folder of the pages.
    #[arg(long, value_name = "DIR", default_value = "demo/pages")]
    pub pages: PathBuf,
    /// Port of the pages server on 127.0.0.1; 0: any free one.
    #[arg(long, value_name = "PORT", default_value_t = 8800)]
    pub pages_port: u16,
    /// Second byte of all addresses (127.N.x.x), so that two demos can run side by side.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub net: u8,
    /// Port of the router's DNS.
    #[arg(long, value_name = "PORT", default_value_t = plan::DNS_PORT)]
    pub dns_port: u16,
    /// What a 302 names: the edge's address (works without DNS) or its name.
    #[arg(long, value_enum, default_value_t = Location::Address)]
    pub location: Location,
    /// Length of the built-in film.
    #[arg(long, value_name = "SECONDS", default_value_t = 72)]
    pub film_seconds: u32,
    /// Height of the built-in film; smaller is made faster.
    #[arg(long, value_name = "LINES", default_value_t = 720)]
    pub film_height: u32,
    /// Size of each cache's store file, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub store_mib: u64,
    /// RAM tier of each cache, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub ram_mib: u64,
    /// A node that was killed comes back after this long; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub restart_after: u64,
    /// Stop by itself after this long; 0: run until Ctrl-C.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub duration: u64,
    /// The data plane program; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    pub tidegated: Option<PathBuf>,
    /// Internal: end the processes named on standard input when it ends.
    #[arg(long, hide = true)]
    pub keeper: bool,
}

/// What the `Location` of a 302 names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Location {
    Address,
    Name,
}

/// Runs the demo until it is stopped.
///
/// # Errors
/// Whatever kept it from running, with the mend. Being stopped is no error.
pub fn run(args: DemoArgs) -> Result<(), DemoError> {
    if args.keeper {
        keeper::run(std::io::stdin());
        return Ok(());
    }
    check_options(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(DemoError::io("start threads for", Path::new("demo")))?;
    let result = runtime.block_on(async {
        // One future does all the work; when a signal wins, dropping it ends every process it holds.
        tokio::select! {
            result = work(&args) => result,
            stopped = stop_signal() => stopped,
        }
    });
    match result {
        Err(DemoError::Stopped) => {
            tell("\nEverything has ended. The caches stay warm for the next `make demo`.");
            Ok(())
        }
        other => other,
    }
}

fn check_options(args: &DemoArgs) -> Result<(), DemoError> {
    let range = |name, value: u64, from: u64, to: u64| {
        let what = format!("{value} is not between {from} and {to}");
        if (from..=to).contains(&value) { Ok(()) } else { Err(DemoError::Option { name, what }) }
    };
    range("--film-seconds", args.film_seconds.into(), 6, 36_000)?;
    range("--film-height", args.film_height.into(), 144, 2160)?;
    range("--store-mib", args.store_mib, 1, 1 << 30)?;
    range("--ram-mib", args.ram_mib, 1, 1 << 20)?;
    range("--dns-port", args.dns_port.into(), 1, 65_535)
}

async fn stop_signal() -> Result<(), DemoError> {
    let hook =
        |kind| signal(kind).map_err(DemoError::io("listen for signals in", Path::new("demo")));
    let (mut interrupt, mut terminate, mut hangup) = (
        hook(SignalKind::interrupt())?,
        hook(SignalKind::terminate())?,
        hook(SignalKind::hangup())?,
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Err(DemoError::Stopped)
}

async fn work(args: &DemoArgs) -> Result<(), DemoError> {
    film::make_folder(&args.dir)?;
    let dir = std::fs::canonicalize(&args.dir).map_err(DemoError::io("find", &args.dir))?;
    let plan = Plan::new(dir, args.net, args.dns_port, args.location == Location::Name);
    // First of all, since making the film takes long.
    ports::check(&plan)?;
    pages::check(&args.pages, args.pages_port)?;

    let mut keeper = Keeper::start()?;
    let film = make_film(args, &plan, &mut keeper).await?;
    film::write_whole(
        &plan.dir.join("origin/about.txt"),
        include_bytes!("../../../demo/config/about.txt"),
    )?;

    let sizes = orders::Sizes {
        store_bytes: args.store_mib << 20,
        ram_bytes: args.ram_mib << 20,
        cores: 1,
    };
    let warm = plan.dir.join("store/edge-a1").exists();
    let orders = orders::write(&plan, sizes)?;
    tell(&format!(
        "Orders: snapshot generation {} for {} nodes.",
        orders.generation,
        plan.nodes.len()
    ));

    let tidegate = std::env::current_exe().map_err(DemoError::io("find", Path::new("tidegate")))?;
    let tidegated = args.tidegated.clone().unwrap_or_else(|| tidegate.with_file_name("tidegated"));
    let restart_after = Duration::from_secs(args.restart_after);
    let launch = |node: &Node| launch(node, &plan, &orders, &tidegate, &tidegated);
    let mut fleet = Fleet::start(&plan, launch, restart_after, keeper)?;
    let mut ready = 0;
    let total = plan.nodes.len();
    fleet
        .wait_ready(READY_LIMIT, |node| {
            ready += 1;
            tell(&format!("  [{ready}/{total}] {} serves at {}", node.id, node.address));
        })
        .await?;
    if warm {
        tell("Stores of an earlier run are in use: the caches start warm.");
    }
    live(args, &plan, &orders, &film, &mut fleet, &tidegate).await
}

async fn make_film(
    args: &DemoArgs,
    plan: &Plan,
    keeper: &mut Keeper,
) -> Result<film::Film, DemoError> {
    let source = match &args.video {
        Some(file) => film::probe(file).await?,
        None => film::Source::BuiltIn { seconds: args.film_seconds, height: args.film_height },
    };
    let title = match &source {
        film::Source::BuiltIn { .. } => "Making the film".to_string(),
        film::Source::File { path, .. } => format!("Making renditions of {}", path.display()),
    };
    let film = film::prepare(&source, &plan.dir, &mut ProgressBar::new(title), keeper).await?;
    tell(&format!(
        "Film: {:.0} s in {} renditions{}.",
        film.seconds,
        film.rungs,
        if film.reused { ", as made before" } else { "" }
    ));
    Ok(film)
}

/// The command line of a node; every node gets the same orders and its name.
fn launch(
    node: &Node,
    plan: &Plan,
    orders: &orders::Orders,
    tidegate: &Path,
    tidegated: &Path,
) -> Launch {
    let path = |p: &Path| p.display().to_string();
    let mut arguments: Vec<String> = Vec::new();
    if !node.tier.is_data_plane() {
        arguments.extend(["run".into(), "--role".into(), node.tier.word().into()]);
    }
    arguments.extend(["--node".into(), node.id.into()]);
    arguments.extend(["--snapshot".into(), path(&orders.snapshot)]);
    arguments.extend(["--trust".into(), path(&orders.trust)]);
    if node.tier.is_data_plane() {
        // Players reconnect by themselves: Ctrl-C need not wait for them.
        arguments.extend(["--drain-seconds".into(), "1".into()]);
        arguments.extend([
            "--log".into(),
            path(&plan.dir.join("logs").join(format!("{}.access.log", node.id))),
        ]);
    }
    let program = if node.tier.is_data_plane() { tidegated } else { tidegate };
    Launch { program: program.to_path_buf(), arguments }
}

/// Serves the pages and shows the status until the time is over.
async fn live(
    args: &DemoArgs,
    plan: &Plan,
    orders: &orders::Orders,
    film: &film::Film,
    fleet: &mut Fleet,
    tidegate: &Path,
) -> Result<(), DemoError> {
    let (publish, survey) = watch::channel(survey::Survey::default());
    let edges = plan.nodes.iter().filter(|n| n.tier == Tier::Edge);
    let facts = pages::Facts {
        master: format!("http://{}{}", plan.entry(), film.path),
        edges: edges
            .map(|n| pages::EdgeFact { id: n.id, address: n.address.to_string() })
            .collect(),
        film_seconds: film.seconds,
    };
    let base = pages::serve(&args.pages, args.pages_port, facts, survey).await?;
    let _facts = FactsFile(plan.dir.join(FACTS_FILE));
    write_facts(plan, &base, fleet)?;

    let mut status = StatusBlock::new(terminal::advice(plan, orders, &base, tidegate));
    let mut surveyor = survey::Surveyor::new();
    let start = Instant::now();
    let mut tick = tokio::time::interval(SURVEY_INTERVAL);
    loop {
        tick.tick().await;
        let uptime = start.elapsed();
        let news = fleet.tend(Instant::now());
        if !news.is_empty() {
            write_facts(plan, &base, fleet)?;
        }
        news.iter().for_each(|line| status.news(line));
        let survey = surveyor.look(plan, &fleet.pulses(), uptime.as_secs()).await;
        status.show(&survey);
        // The pages server holds the other end as long as the runtime lives.
        publish.send_replace(survey);
        if args.duration > 0 && uptime.as_secs() >= args.duration {
            return Err(DemoError::Stopped);
        }
    }
}

/// Takes the file with the facts away when the demo ends: it speaks of processes that are gone then.
struct FactsFile(PathBuf);

impl Drop for FactsFile {
    fn drop(&mut self) {
        // One that cannot be removed is replaced at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes what programs need to know of the running demo.
fn write_facts(plan: &Plan, base: &str, fleet: &Fleet) -> Result<(), DemoError> {
    let pulses = fleet.pulses();
    let nodes: serde_json::Map<String, serde_json::Value> = plan
        .nodes
        .iter()
        .map(|n| {
            let pid = pulses.iter().find(|p| p.id == n.id).and_then(|p| p.pid);
            let facts = serde_json::json!({"address": n.address.to_string(), "tier": n.tier.word(), "pid": pid});
            (n.id.to_string(), facts)
        })
        .collect();
    let facts = serde_json::json!({
        "pages": base,
        "master": format!("http://{}/film/master.m3u8", plan.entry()),
        "pid": std::process::id(),
        "nodes": nodes,
    });
    film::write_whole(&plan.dir.join(FACTS_FILE), format!("{facts:#}\n").as_bytes())
}

const FACTS_FILE: &str = "demo.json";
/// Longest wait for all nodes to serve; a store of 1 GiB is made in a second or two on a slow disk.
const READY_LIMIT: Duration = Duration::from_secs(60);
const SURVEY_INTERVAL: Duration = Duration::from_secs(1);
