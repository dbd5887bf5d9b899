//! What a run is asked to do. Must stay true: every number has a limit, and a run that would never end is
//! refused.

use crate::assertion::Assertion;
use crate::channel::Protocol;
use crate::cpu::PROCESSES_MAX;
use crate::pick::Order;
use crate::schedule::{BACKLOG_REQUESTS_MAX, Plan, RAMP_NS_MAX, Rate};
use crate::tls::Trust;
use crate::units::nanos;
use crate::url::{URLS_MAX, Url, UrlError};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_http::Scheme;

/// Connections of one run: a client address has no more ports for one server.
pub const CONNECTIONS_MAX: usize = 60_000;
/// Requests under way at once on one connection; servers allow 100 to 256.
pub const STREAMS_MAX: usize = 10_000;
/// Requests under way at once in one run.
pub const USERS_MAX: usize = 1_000_000;
/// Threads of one run.
pub const THREADS_MAX: usize = 256;
/// Fields that `--header` may add.
pub const HEADERS_MAX: usize = 64;

/// A run.
#[derive(Debug, Clone)]
pub struct Options {
    pub urls: Vec<String>,
    pub order: Order,
    pub seed: u64,
    /// `None`: closed loop.
    pub rate: Option<Rate>,
    /// What the rate comes to at the end of `duration`, in a straight line; else it stays.
    pub ramp_to: Option<Rate>,
    /// Connections to each server.
    pub connections: usize,
    pub threads: usize,
    pub duration: Option<Duration>,
    pub requests: Option<u64>,
    pub warmup: Duration,
    /// From sending a request to the end of its answer; the same for opening a connection.
    pub timeout: Duration,
    /// After the last due moment: what waits is still sent and answered for this long.
    pub drain: Duration,
    /// Due requests that may wait.
    pub backlog_max: u64,
    /// `Name: value`.
    pub headers: Vec<String>,
    /// Each URL is asked for with each of them in turn, as `0-499`; none: whole.
    pub ranges: Vec<String>,
    /// Send there, whatever the URLs say.
    pub connect: Option<SocketAddr>,
    pub trust: Trust,
    pub protocol: Protocol,
    /// Requests under way at once on each connection (HTTP/2 and 3).
    pub streams: usize,
    /// Processes of the server on this host, whose CPU time is sampled.
    pub server_pids: Vec<u32>,
    /// Where the server tells its own CPU time, in the text form of Prometheus.
    pub server_metrics: Option<String>,
    pub assertions: Vec<Assertion>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            urls: Vec::new(),
            order: Order::Cycle,
            seed: 1,
            rate: None,
            ramp_to: None,
            connections: 10,
            threads: 1,
            duration: None,
            requests: None,
            warmup: Duration::ZERO,
            timeout: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            backlog_max: BACKLOG_REQUESTS_MAX,
            headers: Vec::new(),
            ranges: Vec::new(),
            connect: None,
            trust: Trust::System,
            protocol: Protocol::Http1,
            streams: 1,
            server_pids: Vec::new(),
            server_metrics: None,
            assertions: Vec::new(),
        }
    }
}

/// Why a run cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionsError {
    NoUrl,
    TooManyUrls,
    /// Which one (from 1), its text, what is wrong.
    Url(usize, String, UrlError),
    NoEnd,
    /// Name of the option, its limits.
    OutOfRange(&'static str, u64, u64),
    /// Name of the option.
    NoTime(&'static str),
    TooManyHeaders,
    Header(String, &'static str),
    /// Host and port, what the resolver said.
    Resolve(String, String),
    TooManyEndpoints(usize),
    Tls(crate::tls::TlsError),
    /// URL, what is wrong.
    Request(String, String),
    /// HTTP/1.1 has one request at a time on a connection.
    StreamsOfHttp1,
    ServerPid(String),
    /// What is wrong with the page of `--server-metrics`.
    ServerMetrics(String),
    /// Why a rate cannot change in this run.
    Ramp(&'static str),
    /// A range, and what is wrong with it.
    Range(String),
    /// The URL that is not https.
    Http3NeedsTls(String),
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionsError::NoUrl => f.write_str("there is no URL to ask for: give --url or --urls"),
            OptionsError::TooManyUrls => write!(f, "there are more than {URLS_MAX} URLs"),
            OptionsError::Url(number, text, error) => {
                let text: String = text.chars().take(SHOWN_CHARS_MAX).collect();
                write!(f, "URL {number} ('{}'): {error}", text.escape_debug())
            }
            OptionsError::NoEnd => {
                f.write_str("the run would never end: give --duration, --requests or both")
            }
            OptionsError::OutOfRange(name, from, to) => write!(f, "{name} is from {from} to {to}"),
            OptionsError::NoTime(name) => write!(f, "{name} is longer than nothing, as in 10s"),
            OptionsError::TooManyHeaders => {
                write!(f, "--header is given more than {HEADERS_MAX} times")
            }
            OptionsError::Header(text, what) => {
                write!(f, "--header '{}': {what}", text.escape_debug())
            }
            OptionsError::Resolve(host, error) => {
                write!(f, "no address for {host} ({error}); --connect IP:PORT does without")
            }
            OptionsError::TooManyEndpoints(max) => {
                write!(f, "the URLs name more than {max} hosts; --connect IP:PORT sends all to one")
            }
            OptionsError::Tls(error) => write!(f, "{error}"),
            OptionsError::Request(url, error) => write!(f, "{url}: {error}"),
            OptionsError::StreamsOfHttp1 => f.write_str(
                "HTTP/1.1 has one request at a time on a connection: give --http 2 or --http 3, or \
                 --connections in place of --streams",
            ),
            OptionsError::ServerPid(what) => f.write_str(what),
            OptionsError::ServerMetrics(what) => write!(f, "--server-metrics {what}"),
            OptionsError::Ramp(what) => f.write_str(what),
            OptionsError::Range(text) => write!(
                f,
                "'{}' is no range of bytes: write 0-499, 500- or -500",
                text.escape_debug()
            ),
            OptionsError::Http3NeedsTls(url) => {
                write!(f, "{url}: HTTP/3 is always encrypted: write https:// (and --ca FILE)")
            }
        }
    }
}

impl std::error::Error for OptionsError {}

const SHOWN_CHARS_MAX: usize = 200;

impl Options {
    /// The run as numbers.
    ///
    /// # Errors
    /// When a number is outside its limits or nothing ends the run.
    pub fn plan(&self) -> Result<Plan, OptionsError> {
        self.check()?;
        if self.duration.is_none() && self.requests.is_none() {
            return Err(OptionsError::NoEnd);
        }
        Ok(Plan {
            rate: self.rate,
            ramp_to: self.ramp_to,
            warmup_ns: nanos(self.warmup),
            duration_ns: self.duration.map(nanos),
            requests: self.requests,
        })
    }

    /// Whether the numbers are inside their limits.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), OptionsError> {
        let within = |name, value: u64, from, to| {
            if (from..=to).contains(&value) {
                Ok(())
            } else {
                Err(OptionsError::OutOfRange(name, from, to))
            }
        };
        within("--connections", self.connections as u64, 1, CONNECTIONS_MAX as u64)?;
        within("--streams", self.streams as u64, 1, STREAMS_MAX as u64)?;
        within("--connections times --streams", self.users() as u64, 1, USERS_MAX as u64)?;
        if self.protocol == Protocol::Http1 && self.streams > 1 {
            return Err(OptionsError::StreamsOfHttp1);
        }
        within(
            "--server-pid (number of them)",
            self.server_pids.len() as u64,
            0,
            PROCESSES_MAX as u64,
        )?;
        within("--threads", self.threads as u64, 1, THREADS_MAX as u64)?;
        within("--backlog", self.backlog_max, 1, BACKLOG_REQUESTS_MAX)?;
        if self.timeout.is_zero() {
            return Err(OptionsError::NoTime("--timeout"));
        }
        if let Some(requests) = self.requests {
            within("--requests", requests, 1, REQUESTS_MAX)?;
        }
        if self.ramp_to.is_some() {
            let Some(duration) = self.duration.filter(|_| self.rate.is_some()) else {
                return Err(OptionsError::Ramp(
                    "a rate that changes needs one to begin with and the time that it takes: give rate and duration",
                ));
            };
            if nanos(duration) > RAMP_NS_MAX {
                return Err(OptionsError::Ramp("a rate changes within 24h at most"));
            }
        }
        within("ranges", self.ranges.len() as u64, 0, RANGES_MAX)?;
        if let Some(range) = self.ranges.iter().find(|range| !is_range(range)) {
            return Err(OptionsError::Range(range.clone()));
        }
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(OptionsError::NoTime("--duration"));
        }
        Ok(())
    }

    /// Requests that can be under way at once.
    pub fn users(&self) -> usize {
        self.connections.saturating_mul(self.streams)
    }

    /// The URLs, cut up.
    ///
    /// # Errors
    /// When there is none, there are too many, or one is wrong.
    pub fn parsed_urls(&self) -> Result<Vec<Url>, OptionsError> {
        if self.urls.is_empty() {
            return Err(OptionsError::NoUrl);
        }
        if self.urls.len() > URLS_MAX {
            return Err(OptionsError::TooManyUrls);
        }
        let parse = |(index, text): (usize, &String)| {
            let url = Url::parse(text)
                .map_err(|error| OptionsError::Url(index + 1, text.clone(), error))?;
            if self.protocol == Protocol::Http3 && url.scheme != Scheme::Https {
                return Err(OptionsError::Http3NeedsTls(text.clone()));
            }
            Ok(url)
        };
        self.urls.iter().enumerate().map(parse).collect()
    }
}

/// Ranges that each URL is asked for with.
pub const RANGES_MAX: u64 = 1000;

/// Whether this is one range of bytes as a request has it (RFC 9110 section 14.1.1).
fn is_range(text: &str) -> bool {
    let number = |text: &str| text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    let Some((first, last)) = text.split_once('-') else { return false };
    let whole = !first.is_empty() || !last.is_empty();
    let orderly = first.is_empty()
        || last.is_empty()
        || first.parse::<u64>().ok().zip(last.parse::<u64>().ok()).is_some_and(|(a, b)| a <= b);
    whole && number(first) && number(last) && orderly
}

/// Requests of one run: so many that nobody waits for the end.
pub const REQUESTS_MAX: u64 = 1_000_000_000_000;
