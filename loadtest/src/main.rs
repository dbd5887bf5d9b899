//! `tidegate-load`: reads the command line, runs, prints.
//!
//! Must stay true: exit code 0 means the run was made and all assertions held, 1 that an assertion failed
//! (each is named with the value), 2 that the command line is wrong or nothing could be run.
#![forbid(unsafe_code)]

mod trace_verbs;

use clap::{Args, Parser, Subcommand};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tidegate_load::assertion::Assertion;
use tidegate_load::channel::Protocol;
use tidegate_load::html::page;
use tidegate_load::options::Options;
use tidegate_load::pick::Order;
use tidegate_load::play::player::Manners;
use tidegate_load::play::run::{Cast, play};
use tidegate_load::progress::Meter;
use tidegate_load::report::Report;
use tidegate_load::run::{Progress, RunError, run};
use tidegate_load::scenario::{PhaseReport, Scenario, ScenarioReport};
use tidegate_load::schedule::{BACKLOG_REQUESTS_MAX, Rate};
use tidegate_load::tls::Trust;
use tidegate_load::units::{nanos, parse_duration};
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
    /// Let players play HLS, and report what their viewers had.
    Play(Box<PlayArgs>),
    /// The reference trace: make it, judge it, serve its objects, replay it.
    #[command(subcommand)]
    Trace(Box<trace_verbs::TraceVerb>),
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["url", "urls", "scenario"])))]
#[command(group(clap::ArgGroup::new("how").required(true).args(["rate", "closed", "scenario"])))]
#[command(group(
    clap::ArgGroup::new("end").required(true).multiple(true).args(["duration", "requests", "scenario"])
))]
#[command(
    override_usage = "tidegate-load run [OPTIONS] <--url <URL>|--urls <FILE>> <--rate <RATE>|--closed> \
    <--duration <DURATION>|--requests <REQUESTS>>\n       tidegate-load run [OPTIONS] <SCENARIO>"
)]
struct RunArgs {
    /// A scenario: phases one after the other, from a TOML file; what else is given here holds for all of them.
    #[arg(value_name = "SCENARIO", conflicts_with_all = [
        "url", "urls", "order", "seed", "ramp_to", "connections", "streams", "threads", "duration",
        "requests", "range", "warmup", "timeout", "drain", "backlog",
    ])]
    scenario: Option<PathBuf>,
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
    /// The rate goes to this one in a straight line over --duration.
    #[arg(long, value_name = "RATE", requires = "rate", requires = "duration")]
    ramp_to: Option<Rate>,
    /// Closed loop: each connection asks again when it is answered.
    #[arg(long)]
    closed: bool,
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
    /// Ask each URL for this range of bytes, as 0-499, 500- or -500; may be given more than once.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    range: Vec<String>,
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
    #[command(flatten)]
    common: Common,
}

/// What all runs have.
#[derive(Args)]
struct Common {
    /// Version of HTTP: 1.1, 2 or 3.
    #[arg(long, value_name = "VERSION", default_value = "1.1")]
    http: Protocol,
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
    /// Write the report as one HTML page, with plots; it needs no network and no other file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Process of the server on this host, to tell its CPU time; may be given more than once.
    #[arg(long, value_name = "PID")]
    server_pid: Vec<u32>,
    /// The server's page of metrics, to tell its CPU time by process_cpu_seconds_total.
    #[arg(long, value_name = "URL")]
    server_metrics: Option<String>,
    /// What must hold, as in 'p99_first_byte < 50ms'; may be given more than once.
    #[arg(long = "assert", value_name = "EXPR")]
    assertions: Vec<Assertion>,
    /// Print neither progress nor summary; failed assertions are still told.
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct PlayArgs {
    /// http:// or https:// URL of a playlist; with several, players take them in turn.
    #[arg(required = true)]
    url: Vec<String>,
    /// Players at once, each with connections of its own.
    #[arg(long, default_value_t = 10)]
    players: usize,
    /// The first player begins at once, the last at the end of this time.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    ramp: Duration,
    /// Players begin at moments of chance within the ramp, by this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// A viewer leaves after this time; else at the end of the film.
    #[arg(long, value_parser = parse_duration)]
    watch: Option<Duration>,
    /// The run ends after this time, whoever still watches.
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Time in the buffer at which a player rests.
    #[arg(long, value_parser = parse_duration, default_value = "30s")]
    buffer: Duration,
    /// Players tell the server how they are (CMCD).
    #[arg(long)]
    cmcd: bool,
    /// Bits per second that a player believes in before it has measured anything.
    #[arg(long, default_value_t = 1_000_000)]
    first_guess: u64,
    /// Threads that share the players.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Longest time for an answer, and for opening a connection.
    #[arg(long, value_parser = parse_duration, default_value = "10s")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

/// Bytes of a file of URLs.
const URLS_FILE_BYTES_MAX: u64 = 256 << 20;

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Run(arguments) => arguments.run(),
        Verb::Play(arguments) => arguments.run(),
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

impl Common {
    /// Makes a run, says what came of it, and judges it.
    fn report(
        &self,
        make: impl FnOnce(&mut Meter) -> Result<Report, String>,
    ) -> Result<ExitCode, String> {
        // Opened now: a report that cannot be written should not cost a run first.
        let (json, html) = (open("--json", &self.json)?, open("--html", &self.html)?);
        let report = make(&mut Meter::new(io::stderr().is_terminal()))?;
        self.tell(&report, [&json, &html])?;
        if let Some(json) = json {
            json.write_json(&report)?;
        }
        if let Some(html) = html {
            html.write(page(&report).render().as_bytes())?;
        }
        judge(&report)
    }

    /// For people.
    fn tell(&self, report: &Report, outputs: [&Option<Output>; 2]) -> Result<(), String> {
        let report_on_stdout =
            outputs.into_iter().any(|output| matches!(output, Some(Output::Stdout(_))));
        if !self.quiet {
            let mut out: Box<dyn Write> =
                if report_on_stdout { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
            // A reader that went away (a closed pipe) does not make the run a bad one.
            let _written = write!(out, "{report}");
        }
        Ok(())
    }

    /// Runs the phases of a scenario one after the other, all of them, also after one that failed.
    fn scenario(&self, path: &Path) -> Result<ExitCode, String> {
        let scenario = Scenario::read(path, &self.options()).map_err(|error| error.to_string())?;
        let json = open("--json", &self.json)?;
        let mut all = ScenarioReport { scenario: path.display().to_string(), phases: Vec::new() };
        let mut code = Ok(ExitCode::SUCCESS);
        for phase in scenario.phases {
            let html = match &self.html {
                Some(path) if path == Path::new("-") => {
                    return Err("--html of a scenario is a file for each phase: give a name".into());
                }
                html => open("--html", &html.as_deref().map(|path| of_phase(path, &phase.name)))?,
            };
            if !self.quiet {
                eprintln!("tidegate-load: phase {}", phase.name);
            }
            let meter = &mut Meter::new(io::stderr().is_terminal());
            let (options, cast) = (&phase.options, &phase.cast);
            let report = with_signals(meter, self.quiet, async |stop, show| match cast {
                Some(cast) => play(options, cast, stop, show).await,
                None => run(options, stop, show).await,
            });
            let report = report.map_err(|what| format!("phase {}: {what}", phase.name))?;
            self.tell(&report, [&json, &None])?;
            if let Some(html) = html {
                html.write(page(&report).render().as_bytes())?;
            }
            let named = |what| format!("phase {}: {what}", phase.name);
            // The worst of them is the scenario's.
            code = match (judge(&report).map_err(named), code) {
                (Err(what), Ok(_)) => Err(what),
                (_, Err(what)) => Err(what),
                (Ok(ExitCode::SUCCESS), code) => code,
                (failed, _) => failed,
            };
            let interrupted = report.interrupted;
            all.phases.push(PhaseReport { name: phase.name, report });
            if interrupted {
                break;
            }
        }
        if let Some(json) = json {
            json.write_json(&all)?;
        }
        code
    }

    fn options(&self) -> Options {
        Options {
            protocol: self.http,
            headers: self.header.clone(),
            connect: self.connect,
            trust: match (self.insecure, &self.ca) {
                (true, _) => Trust::Anyone,
                (false, Some(path)) => Trust::File(path.clone()),
                (false, None) => Trust::System,
            },
            server_pids: self.server_pid.clone(),
            server_metrics: self.server_metrics.clone(),
            assertions: self.assertions.clone(),
            ..Options::default()
        }
    }
}

/// What a run came to, as an exit status; what failed is told.
fn judge(report: &Report) -> Result<ExitCode, String> {
    if report.nothing_ran() {
        let why = report.first_failure.as_deref().unwrap_or("no request could be sent");
        return Err(format!("nothing could be run: {why}"));
    }
    let mut code = ExitCode::SUCCESS;
    for failed in report.failed_assertions() {
        eprintln!("tidegate-load: assertion failed: {}: it is {}", failed.assertion, failed.shown);
        code = ExitCode::from(1);
    }
    Ok(code)
}

/// `report.html` of the phase `climb` is `report-climb.html`.
fn of_phase(path: &Path, phase: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().map_or("html".into(), |ending| ending.to_string_lossy());
    path.with_file_name(format!("{stem}-{phase}.{ending}"))
}

impl PlayArgs {
    fn run(self) -> Result<ExitCode, String> {
        let cast = Cast {
            players: self.players,
            ramp: self.ramp,
            seed: self.seed,
            manners: Manners {
                buffer_s: self.buffer.as_secs_f64(),
                first_guess_bps: self.first_guess as f64,
                watch_ns: self.watch.map(nanos),
                tells: self.cmcd,
            },
        };
        let options = Options {
            urls: self.url,
            connections: self.players,
            threads: self.threads,
            duration: self.duration,
            timeout: self.timeout,
            ..self.common.options()
        };
        let quiet = self.common.quiet;
        self.common.report(|meter| {
            with_signals(meter, quiet, async |stop, show| play(&options, &cast, stop, show).await)
        })
    }
}

impl RunArgs {
    fn run(self) -> Result<ExitCode, String> {
        if let Some(path) = &self.scenario {
            return self.common.scenario(path);
        }
        let options = self.options()?;
        let quiet = self.common.quiet;
        self.common.report(|meter| {
            with_signals(meter, quiet, async |stop, show| run(&options, stop, show).await)
        })
    }

    fn options(&self) -> Result<Options, String> {
        let mut urls = self.url.clone();
        if let Some(path) = &self.urls {
            urls.extend(read_urls(path)?);
        }
        Ok(Options {
            urls,
            order: self.order,
            seed: self.seed,
            rate: self.rate,
            ramp_to: self.ramp_to,
            ranges: self.range.clone(),
            connections: self.connections,
            streams: self.streams,
            threads: self.threads,
            duration: self.duration,
            requests: self.requests,
            warmup: self.warmup,
            timeout: self.timeout,
            drain: self.drain,
            backlog_max: self.backlog,
            ..self.common.options()
        })
    }
}

/// Makes a run that a person can end.
fn with_signals(
    meter: &mut Meter,
    quiet: bool,
    make: impl AsyncFnOnce(
        std::pin::Pin<Box<dyn Future<Output = ()>>>,
        &mut dyn FnMut(&Progress),
    ) -> Result<Report, RunError>,
) -> Result<Report, String> {
    let host = |error: io::Error| format!("this host gives no runtime: {error}");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(host)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(host)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(host)?;
        let stop = Box::pin(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        let mut show = |now: &Progress| {
            if !quiet {
                meter.show(now, &mut io::stderr());
            }
        };
        let report = make(stop, &mut show).await.map_err(|error| error.to_string());
        meter.done(&mut io::stderr());
        report
    })
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

fn open(option: &'static str, path: &Option<PathBuf>) -> Result<Option<Output>, String> {
    path.as_deref().map(|path| Output::open(option, path)).transpose()
}

/// Where a report goes.
enum Output {
    Stdout(&'static str),
    File(&'static str, PathBuf, File),
}

impl Output {
    fn open(option: &'static str, path: &Path) -> Result<Output, String> {
        if path == Path::new("-") {
            return Ok(Output::Stdout(option));
        }
        let file = File::create(path).map_err(|e| format!("{option} {}: {e}", path.display()))?;
        Ok(Output::File(option, path.into(), file))
    }

    fn write_json(self, report: &impl serde::Serialize) -> Result<(), String> {
        let mut text = serde_json::to_vec_pretty(report).map_err(|e| e.to_string())?;
        text.push(b'\n');
        self.write(&text)
    }

    fn write(self, bytes: &[u8]) -> Result<(), String> {
        let (option, name, mut out): (_, String, Box<dyn Write>) = match self {
            Output::Stdout(option) => (option, "-".to_owned(), Box::new(io::stdout())),
            Output::File(option, path, file) => {
                (option, path.display().to_string(), Box::new(file))
            }
        };
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| format!("{option} {name}: {error}"))
    }
}
