//! `tidegate-load trace ...`: make a trace, tell what simple caches would get out of it, serve its objects, replay it.
//!
//! Must stay true: exit code 0 means it was done (a replay: without an error), 1 that a replay met errors, 2 that the
//! command line is wrong or something cannot be read or written.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tidegate_load::trace::model::{Model, Policy};
use tidegate_load::trace::origin::{COUNTS_PATH, Manners, Origin};
use tidegate_load::trace::recipe::Recipe;
use tidegate_load::trace::replay::{Options, Replayed, replay};
use tidegate_load::trace::{self, Reader};
use tidegate_load::units::parse_duration;
use tidegate_load::url::Url;

#[derive(Subcommand)]
pub enum TraceVerb {
    /// Write a trace: the same recipe makes the same file.
    Make(MakeArgs),
    /// Tell what an infinite cache and simple policies would get out of a trace.
    Model(ModelArgs),
    /// Serve the objects of any trace, and count what is asked for; the counts are at /counts.
    Origin(OriginArgs),
    /// Replay a trace against a server and check every answer.
    Replay(ReplayArgs),
}

#[derive(Args)]
pub struct MakeArgs {
    /// Where the trace goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    recipe: RecipeArgs,
}

/// Parameters of a recipe; each one's default is that of the reference trace.
#[derive(Args)]
pub struct RecipeArgs {
    #[arg(long, default_value_t = Recipe::default().seed)]
    seed: u64,
    #[arg(long, default_value_t = Recipe::default().requests)]
    requests: u64,
    /// Bytes of a media segment, as a share of bit rate times length.
    #[arg(long, default_value_t = Recipe::default().scale)]
    scale: f64,
    /// Titles of the catalogue.
    #[arg(long, default_value_t = Recipe::default().titles)]
    titles: u32,
    /// Episodes of each title.
    #[arg(long, default_value_t = Recipe::default().episodes)]
    episodes: u32,
    /// Media segments of each episode, 6 s each.
    #[arg(long, default_value_t = Recipe::default().segments)]
    segments: u32,
    /// The n-th title is begun in proportion to 1 / n^S.
    #[arg(long, value_name = "S", default_value_t = Recipe::default().zipf)]
    zipf: f64,
    /// Viewers of the catalogue at any moment.
    #[arg(long, default_value_t = Recipe::default().vod_viewers)]
    vod_viewers: u32,
    /// Chance that a viewer leaves after a media segment.
    #[arg(long, default_value_t = Recipe::default().leave)]
    leave: f64,
    /// Chance that an episode's end leads into the next one.
    #[arg(long, default_value_t = Recipe::default().binge)]
    binge: f64,
    /// Chance of a seek after a media segment.
    #[arg(long, default_value_t = Recipe::default().seek)]
    seek: f64,
    /// Share of the catalogue's media segments that are asked for in part.
    #[arg(long, default_value_t = Recipe::default().ranges)]
    ranges: f64,
    #[arg(long, default_value_t = Recipe::default().live_channels)]
    live_channels: u32,
    /// Viewers of live channels, all together.
    #[arg(long, default_value_t = Recipe::default().live_viewers)]
    live_viewers: u32,
    /// Of all objects of the trace, the share that is asked for once.
    #[arg(long, default_value_t = Recipe::default().once)]
    once: f64,
}

#[derive(Args)]
pub struct ModelArgs {
    file: PathBuf,
    /// Bytes of the cache, in MiB; may be given more than once.
    #[arg(long, value_name = "MIB")]
    cache: Vec<u64>,
}

#[derive(Args)]
pub struct OriginArgs {
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// From a request to the first byte of its answer, as in 10ms.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    delay: Duration,
}

#[derive(Args)]
pub struct ReplayArgs {
    file: PathBuf,
    /// http:// URL of the server; its path is not used.
    #[arg(long, value_name = "URL")]
    target: String,
    /// Name for the Host field, in place of the target's.
    #[arg(long)]
    host: Option<String>,
    /// http:// URL of the `trace origin` behind the server: its counts give the hit ratios.
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// Requests under way at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Longest time for an answer, and for opening a connection.
    #[arg(long, value_parser = parse_duration, default_value = "30s")]
    timeout: Duration,
    /// Seconds of the trace that pass in one second; without it, as fast as answers come.
    #[arg(long)]
    pace: Option<f64>,
}

pub fn run(verb: TraceVerb) -> Result<ExitCode, String> {
    match verb {
        TraceVerb::Make(arguments) => make(arguments),
        TraceVerb::Model(arguments) => model(&arguments),
        TraceVerb::Origin(arguments) => origin(&arguments),
        TraceVerb::Replay(arguments) => replay_file(&arguments),
    }
}

impl RecipeArgs {
    fn recipe(&self) -> Recipe {
        Recipe {
            seed: self.seed,
            requests: self.requests,
            scale: self.scale,
            titles: self.titles,
            episodes: self.episodes,
            segments: self.segments,
            zipf: self.zipf,
            vod_viewers: self.vod_viewers,
            leave: self.leave,
            binge: self.binge,
            seek: self.seek,
            ranges: self.ranges,
            live_channels: self.live_channels,
            live_viewers: self.live_viewers,
            once: self.once,
        }
    }
}

fn make(arguments: MakeArgs) -> Result<ExitCode, String> {
    let failed = |e: std::io::Error| format!("--out {}: {e}", arguments.out.display());
    let recipe = arguments.recipe.recipe();
    recipe.check().map_err(|e| e.to_string())?;
    let mut out = BufWriter::new(File::create(&arguments.out).map_err(failed)?);
    let made = trace::write(&recipe, &mut out).map_err(failed)?;
    out.flush().map_err(failed)?;
    print(&json!(made));
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

fn model(arguments: &ModelArgs) -> Result<ExitCode, String> {
    let mut models = vec![("infinite".to_owned(), Model::new(Policy::Infinite))];
    for mib in &arguments.cache {
        let bytes = mib.saturating_mul(1 << 20);
        models.push((format!("lru, {mib} MiB"), Model::new(Policy::Lru(bytes))));
        models.push((format!("fifo, {mib} MiB"), Model::new(Policy::Fifo(bytes))));
    }
    let failed = |e: trace::TraceError| format!("{}: {e}", arguments.file.display());
    let mut reader = Reader::new(open(&arguments.file)?).map_err(failed)?;
    while let Some(line) = reader.next_line().map_err(failed)? {
        models.iter_mut().for_each(|(_, model)| model.ask(&line));
    }
    println!(
        "{:<18} {:>12} {:>12} {:>16} {:>14}",
        "model", "object hits", "byte hits", "origin requests", "objects"
    );
    for (name, model) in &models {
        let outcome = model.outcome();
        println!(
            "{name:<18} {:>11.2}% {:>11.2}% {:>16} {:>14}",
            outcome.object_hit_ratio() * 100.0,
            outcome.byte_hit_ratio() * 100.0,
            outcome.origin_requests,
            outcome.objects
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn origin(arguments: &OriginArgs) -> Result<ExitCode, String> {
    let manners = Manners { delay: arguments.delay, ..Manners::default() };
    let origin = Origin::start(arguments.listen, manners)
        .map_err(|e| format!("--listen {}: {e}", arguments.listen))?;
    println!("http://{}", origin.address);
    // Until somebody ends the process.
    loop {
        std::thread::park();
    }
}

fn replay_file(arguments: &ReplayArgs) -> Result<ExitCode, String> {
    let target = place(&arguments.target)?;
    if arguments.pace.is_some_and(|pace| !(pace.is_finite() && pace > 0.0)) {
        return Err("--pace is a number above 0, as in 10".to_owned());
    }
    let options = Options {
        target: target.0,
        host: arguments.host.clone().unwrap_or(target.1),
        connections: arguments.connections,
        timeout: arguments.timeout,
        pace: arguments.pace,
    };
    let origin = arguments.origin.as_deref().map(place).transpose()?;
    let before = origin.as_ref().map(|origin| counts(origin.0)).transpose()?;
    let replayed = replay(open(&arguments.file)?, &options)
        .map_err(|e| format!("{}: {e}", arguments.file.display()))?;
    let mut report = report(&replayed);
    if let (Some(origin), Some(before)) = (&origin, &before) {
        let after = counts(origin.0)?;
        let of = |name: &str| {
            let number = |counts: &Value| counts[name].as_u64().unwrap_or(0);
            number(&after).saturating_sub(number(before))
        };
        report["object_hit_ratio"] = json!(replayed.object_hit_ratio(of("requests")));
        report["byte_hit_ratio"] = json!(replayed.byte_hit_ratio(of("bytes")));
        report["origin_requests"] = json!(of("requests"));
        report["origin_bytes"] = json!(of("bytes"));
        report["origin_overlapping"] = json!(of("overlapping"));
    }
    print(&report);
    let failed = replayed.errors.total() > 0;
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn report(replayed: &Replayed) -> Value {
    let us = |percent| replayed.first_byte.percentile_ns(percent).map(|ns| ns / 1e3);
    json!({
        "requests": replayed.requests,
        "body_bytes": replayed.bytes,
        "ranges_ignored": replayed.ranges_ignored,
        "errors": replayed.errors,
        "first_failure": replayed.first_failure,
        "elapsed_s": replayed.elapsed.as_secs_f64(),
        "first_byte_us": { "p50": us(50.0), "p99": us(99.0), "p99_9": us(99.9), "max": us(100.0) },
    })
}

/// Address and authority of an http URL.
fn place(text: &str) -> Result<(SocketAddr, String), String> {
    let url = Url::parse(text).map_err(|e| format!("'{text}': {e}"))?;
    if url.scheme != tidegate_http::Scheme::Http {
        return Err(format!("'{text}': a trace is replayed over http"));
    }
    let address = (url.authority.host.trim_matches(['[', ']']), url.port()).to_socket_addrs();
    let address = address.map_err(|e| format!("'{text}': {e}"))?.next();
    Ok((address.ok_or_else(|| format!("'{text}' has no address"))?, url.authority.to_string()))
}

/// What an origin was asked for so far.
fn counts(origin: SocketAddr) -> Result<Value, String> {
    let failed = |e: std::io::Error| format!("--origin {origin}: {e}");
    let mut stream = TcpStream::connect(origin).map_err(failed)?;
    let request =
        format!("GET {COUNTS_PATH} HTTP/1.1\r\nhost: {origin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.take(COUNTS_BYTES_MAX).read_to_string(&mut answer).map_err(failed)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|_| {
        format!("--origin {origin} is no `tidegate-load trace origin`: it tells no counts")
    })
}

const COUNTS_BYTES_MAX: u64 = 64 * 1024;

fn print(value: &Value) {
    // A reader that went away does not make the work undone.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let _written = writeln!(std::io::stdout(), "{text}");
}
