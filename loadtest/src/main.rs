//! `tidegate-load`: reads the command line, runs, prints.
//!
//! Must stay true: exit code 0 means the run was made and all assertions held, 1 that an assertion failed
//! (each is named with the value), 2 that the command line is wrong or nothing could be run.
#![forbid(unsafe_code)]

mod trace_verbs;

use clap::{Args, Parser, Subcommand};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tidegate_load::assertion::Assertion;
use tidegate_load::channel::Protocol;
use tidegate_load::options::Options;
use tidegate_load::pick::Order;
use tidegate_load::report::Report;
use tidegate_load::run::{PROGRESS_EVERY, Progress, run};
use tidegate_load::schedule::{BACKLOG_REQUESTS_MAX, Rate};
use tidegate_load::tls::Trust;
use tidegate_load::units::parse_duration;
use tokio::signal::unix::{SignalKind, signal};

/// Ask a server for URLs, on a fixed schedule or as a trace says, and tell what came.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one load and report it.
    Run(Box<RunArgs>),
    /// The reference trace: make it, judge it, serve its objects, replay it.
    #[command(subcommand)]
    Trace(Box<trace_verbs::TraceVerb>),
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["url", "urls"])))]
#[command(group(clap::ArgGroup::new("how").required(true).args(["rate", "closed"])))]
#[command(group(clap::ArgGroup::new("end").required(true).multiple(true).args(["duration", "requests"])))]
struct RunArgs {
    /// http:// or https:// URL to ask for; may be given more than once.
    #[arg(long)]
    url: Vec<String>,
    /// File with one URL per line; empty lines and lines that start with '#' are left out.
    #[arg(long, value_name = "FILE")]
    urls: Option<PathBuf>,
    /// Order of the URLs: cycle, random or zipf:S.
    #[arg(long, default_value = "cycle")]
    order: Order,
    /// Seed of random and zipf: the same seed asks for the same URLs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Open loop: requests per second over all connections, on a fixed schedule.
    #[arg(long)]
    rate: Option<Rate>,
    /// Closed loop: each connection asks again when it is answered.
    #[arg(long)]
    closed: bool,
    /// Version of HTTP: 1.1, 2 or 3.
    #[arg(long, value_name = "VERSION", default_value = "1.1")]
    http: Protocol,
    /// Connections that can be open at once to each server.
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Requests that can be under way at once on each connection (HTTP/2 and 3).
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Threads that share the connections.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Time that is measured, as in 30s.
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Requests that are measured.
    #[arg(long)]
    requests: Option<u64>,
    /// Time before the measurement: asks in the same way, counts nothing.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    warmup: Duration,
    /// Longest time for an answer, and for opening a connection.
    #[arg(long, value_parser = parse_duration, default_value = "10s")]
    timeout: Duration,
    /// Time after the schedule's end in which what waits is still sent and answered.
    #[arg(long, value_parser = parse_duration, default_value = "5s")]
    drain: Duration,
    /// Due requests that may wait for a connection; beyond it the oldest are given up as not sent.
    #[arg(long, default_value_t = BACKLOG_REQUESTS_MAX)]
    backlog: u64,
    /// Field of every request, as 'Name: value'; may be given more than once.
    #[arg(long, value_name = "FIELD")]
    header: Vec<String>,
    /// Send everything to this address, whatever the URLs' hosts are.
    #[arg(long, value_name = "IP:PORT")]
    connect: Option<SocketAddr>,
    /// Take any certificate.
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// PEM file of the authorities to trust, in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Write the report as JSON to a file, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What must hold, as in 'response_time.p99 < 50ms'; may be given more than once.
    #[arg(long = "assert", value_name = "EXPR")]
    assertions: Vec<Assertion>,
    /// Print neither progress nor summary; failed assertions are still told.
    #[arg(long)]
    quiet: bool,
}

/// Bytes of a file of URLs.
const URLS_FILE_BYTES_MAX: u64 = 256 << 20;

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Run(arguments) => arguments.run(),
        Verb::Trace(verb) => trace_verbs::run(*verb),
    };
    match result {
        Ok(code) => code,
        Err(text) => {
            eprintln!("tidegate-load: {text}");
            ExitCode::from(2)
        }
    }
}

impl RunArgs {
    fn run(self) -> Result<ExitCode, String> {
        let (json, quiet) = (self.json.clone(), self.quiet);
        let options = self.options()?;
        // Opened now: a report that cannot be written should not cost a run first.
        let json = json.map(|path| Output::open(&path)).transpose()?;
        let report = make_run(&options, quiet)?;
        let json_on_stdout = matches!(json, Some(Output::Stdout));
        if !quiet {
            let mut out: Box<dyn Write> =
                if json_on_stdout { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
            // A reader that went away (a closed pipe) does not make the run a bad one.
            let _written = write!(out, "{report}");
        }
        if let Some(json) = json {
            json.write(&report)?;
        }
        if report.nothing_ran() {
            let why = report.first_failure.as_deref().unwrap_or("no request could be sent");
            return Err(format!("nothing could be run: {why}"));
        }
        let mut code = ExitCode::SUCCESS;
        for failed in report.failed_assertions() {
            eprintln!(
                "tidegate-load: assertion failed: {}: it is {}",
                failed.assertion, failed.shown
            );
            code = ExitCode::from(1);
        }
        Ok(code)
    }

    fn options(self) -> Result<Options, String> {
        let mut urls = self.url;
        if let Some(path) = &self.urls {
            urls.extend(read_urls(path)?);
        }
        Ok(Options {
            urls,
            order: self.order,
            seed: self.seed,
            rate: self.rate,
            protocol: self.http,
            connections: self.connections,
            streams: self.streams,
            threads: self.threads,
            duration: self.duration,
            requests: self.requests,
            warmup: self.warmup,
            timeout: self.timeout,
            drain: self.drain,
            backlog_max: self.backlog,
            headers: self.header,
            connect: self.connect,
            trust: match (self.insecure, self.ca) {
                (true, _) => Trust::Anyone,
                (false, Some(path)) => Trust::File(path),
                (false, None) => Trust::System,
            },
            assertions: self.assertions,
        })
    }
}

fn make_run(options: &Options, quiet: bool) -> Result<Report, String> {
    let host = |error: io::Error| format!("this host gives no runtime: {error}");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(host)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(host)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(host)?;
        let stop = async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        let mut last = Progress::default();
        let show = |now: &Progress| {
            if !quiet {
                show_progress(&last, now);
                last = *now;
            }
        };
        run(options, stop, show).await.map_err(|error| error.to_string())
    })
}

fn show_progress(last: &Progress, now: &Progress) {
    let seconds = now.elapsed_ns.saturating_sub(last.elapsed_ns) as f64 / 1e9;
    let per_second = |more: u64| more as f64 / seconds.max(PROGRESS_EVERY.as_secs_f64() / 1000.0);
    eprintln!(
        "{:>5.0}s  {} done, {:.0}/s, {:.2} MB/s, {} errors, {} waiting",
        now.elapsed_ns as f64 / 1e9,
        now.done,
        per_second(now.done - last.done),
        per_second(now.received_bytes - last.received_bytes) / 1e6,
        now.errors,
        now.waiting
    );
}

fn read_urls(path: &Path) -> Result<Vec<String>, String> {
    let failed = |error: io::Error| format!("--urls {}: {error}", path.display());
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let bytes = file.take(URLS_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if bytes as u64 > URLS_FILE_BYTES_MAX {
        return Err(format!("--urls {}: more than {URLS_FILE_BYTES_MAX} bytes", path.display()));
    }
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Where the JSON goes.
enum Output {
    Stdout,
    File(PathBuf, File),
}

impl Output {
    fn open(path: &Path) -> Result<Output, String> {
        if path == Path::new("-") {
            return Ok(Output::Stdout);
        }
        let file = File::create(path).map_err(|e| format!("--json {}: {e}", path.display()))?;
        Ok(Output::File(path.into(), file))
    }

    fn write(self, report: &Report) -> Result<(), String> {
        let (name, out): (String, Box<dyn Write>) = match self {
            Output::Stdout => ("-".to_owned(), Box::new(io::stdout())),
            Output::File(path, file) => (path.display().to_string(), Box::new(file)),
        };
        let mut out = BufWriter::new(out);
        serde_json::to_writer_pretty(&mut out, report)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .map_err(|error| format!("--json {name}: {error}"))
    }
}
