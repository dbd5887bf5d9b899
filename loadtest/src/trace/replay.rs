//! Replays a trace against a server and checks every answer.
//!
//! Requests begin in the trace's order, at most `connections` at once. Without a pace each begins when there is room
//! (closed loop); with one it begins at its virtual time, and its first byte is counted from then.
//!
//! Must stay true: every line of the trace is counted as good or in exactly one class of errors; an answer is good only
//! with the right status, length and (sampled) bytes; nothing is asked twice.

use super::{CLASSES, Line, Object, Reader, TraceError};
use crate::answer::Look;
use crate::client::{Connection, Endpoint, Failure, READ_BYTES, Watch};
use crate::tally::Times;
use serde::Serialize;
use std::cell::RefCell;
use std::fmt;
use std::io::BufRead;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tidegate_http::{ContentRange, Fields, Method, ResponseHead};
use tidegate_http1::encode_request;
use tokio::task::LocalSet;
use tokio::time::timeout;

/// How to replay.
#[derive(Debug, Clone)]
pub struct Options {
    pub target: SocketAddr,
    /// Of the `Host` field.
    pub host: String,
    /// Requests under way at once.
    pub connections: usize,
    /// For a whole answer, and for opening a connection.
    pub timeout: Duration,
    /// Virtual seconds that pass in one second; `None`: as fast as answers come.
    pub pace: Option<f64>,
}

/// Requests that did not get what they asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Errors {
    pub connect: u64,
    pub timeout: u64,
    /// The answer ended early or was none.
    pub broken: u64,
    pub status: u64,
    /// Not the object's bytes, or not as many as were asked for.
    pub body: u64,
}

impl Errors {
    /// Takes in those of another replay.
    pub fn add(&mut self, other: &Errors) {
        self.connect += other.connect;
        self.timeout += other.timeout;
        self.broken += other.broken;
        self.status += other.status;
        self.body += other.body;
    }

    pub fn total(&self) -> u64 {
        self.connect + self.timeout + self.broken + self.status + self.body
    }
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Replayed {
    pub requests: u64,
    /// Of them, for media segments.
    pub segment_requests: u64,
    /// Requests in part that were answered with the whole.
    pub ranges_ignored: u64,
    /// Body bytes of good answers.
    pub bytes: u64,
    pub errors: Errors,
    pub first_failure: Option<String>,
    pub elapsed: Duration,
    /// From sending (with a pace: from being due) to the first byte, of good answers.
    pub first_byte: Times,
    /// The same by class, in the order of [`CLASSES`].
    pub first_byte_by_class: [Times; CLASSES.len()],
}

impl Replayed {
    /// Share of the requests that `counts` says did not reach the origin.
    pub fn object_hit_ratio(&self, origin_requests: u64) -> f64 {
        1.0 - origin_requests as f64 / self.requests.max(1) as f64
    }

    /// Share of the bytes that did not come from the origin.
    pub fn byte_hit_ratio(&self, origin_bytes: u64) -> f64 {
        1.0 - origin_bytes as f64 / self.bytes.max(1) as f64
    }
}

/// Why a replay could not be made.
#[derive(Debug)]
pub enum ReplayError {
    Trace(TraceError),
    Host(String),
    Runtime(std::io::Error),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Trace(error) => write!(f, "{error}"),
            ReplayError::Host(host) => {
                write!(f, "'{}' cannot stand in a Host field", host.escape_debug())
            }
            ReplayError::Runtime(error) => write!(f, "this host gives no runtime: {error}"),
        }
    }
}

impl std::error::Error for ReplayError {}

/// Replays a whole trace on this thread.
///
/// # Errors
/// The trace cannot be read to its end, or the host is none. What servers do wrong is counted, not an error.
pub fn replay(input: impl BufRead + 'static, options: &Options) -> Result<Replayed, ReplayError> {
    let reader = Reader::new(input).map_err(ReplayError::Trace)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ReplayError::Runtime)?;
    let shared = Rc::new(Shared {
        reader: RefCell::new(reader),
        options: options.clone(),
        start: Instant::now(),
        replayed: RefCell::default(),
        broken: RefCell::default(),
        scratch: RefCell::new(vec![0; READ_BYTES]),
    });
    let local = LocalSet::new();
    for _ in 0..options.connections.clamp(1, CONNECTIONS_MAX) {
        let mine = Rc::clone(&shared);
        local.spawn_local(async move { mine.work().await });
    }
    runtime.block_on(local);
    if let Some(error) = shared.broken.take() {
        return Err(error);
    }
    let mut replayed = shared.replayed.take();
    replayed.elapsed = shared.start.elapsed();
    Ok(replayed)
}

/// Requests under way at once.
pub const CONNECTIONS_MAX: usize = 10_000;

struct Shared<R> {
    reader: RefCell<Reader<R>>,
    options: Options,
    start: Instant,
    replayed: RefCell<Replayed>,
    /// Why the replay ends before the trace does.
    broken: RefCell<Option<ReplayError>>,
    scratch: RefCell<Vec<u8>>,
}

impl<R: BufRead> Shared<R> {
    fn next(&self) -> Option<Line> {
        if self.broken.borrow().is_some() {
            return None;
        }
        self.reader.borrow_mut().next_line().unwrap_or_else(|error| {
            *self.broken.borrow_mut() = Some(ReplayError::Trace(error));
            None
        })
    }

    /// One connection's work: the next line, its answer, again.
    async fn work(&self) {
        let mut idle = None;
        while let Some(line) = self.next() {
            let due = match self.options.pace {
                None => Instant::now(),
                Some(pace) => {
                    let due = self.start + Duration::from_secs_f64(line.at_ms as f64 / 1e3 / pace);
                    tokio::time::sleep_until(due.into()).await;
                    due
                }
            };
            let Some(request) = self.request(&line) else { return };
            let outcome = self.exchange(&mut idle, &line, &request, due).await;
            self.replayed.borrow_mut().count(&line, outcome);
        }
    }

    fn request(&self, line: &Line) -> Option<Vec<u8>> {
        let mut fields = Fields::new();
        if let Some((first, last)) = line.range {
            fields.append("range", format!("bytes={first}-{last}")).expect("digits are a value");
        }
        let mut out = Vec::with_capacity(256);
        let host = &self.options.host;
        if encode_request(&Method::Get, &line.path, host, &fields, &mut out).is_err() {
            *self.broken.borrow_mut() = Some(ReplayError::Host(host.clone()));
            return None;
        }
        Some(out)
    }

    async fn exchange(
        &self,
        idle: &mut Option<Connection>,
        line: &Line,
        request: &[u8],
        due: Instant,
    ) -> Outcome {
        let kept = idle.take().and_then(|mut kept| (!kept.is_stale()).then_some(kept));
        let mut connection = match kept {
            Some(kept) => kept,
            None => {
                let endpoint = Endpoint { address: self.options.target, tls: None };
                match timeout(self.options.timeout, Connection::open(&endpoint)).await {
                    Ok(Ok(connection)) => connection,
                    Ok(Err(error)) => return Outcome::Connect(error.to_string()),
                    Err(_elapsed) => return Outcome::Connect("not in time".to_owned()),
                }
            }
        };
        let mut check = Check::new(line);
        let exchange = connection.exchange(request, &self.scratch, &mut check);
        match timeout(self.options.timeout, exchange).await {
            Err(_elapsed) => Outcome::Timeout,
            Ok(Err(failure)) => Outcome::Broken(failure),
            Ok(Ok(answer)) => {
                if answer.keep_alive {
                    *idle = Some(connection);
                }
                let first_byte = check.first_byte.map_or(Duration::ZERO, |at| at - due);
                check.judge().unwrap_or_else(|wrong| wrong).with_time(first_byte)
            }
        }
    }
}

/// How one request ended.
enum Outcome {
    Good { bytes: u64, whole_for_range: bool, first_byte: Duration },
    Connect(String),
    Timeout,
    Broken(Failure),
    Status(u16),
    Body(&'static str),
}

impl Outcome {
    fn with_time(self, time: Duration) -> Outcome {
        match self {
            Outcome::Good { bytes, whole_for_range, .. } => {
                Outcome::Good { bytes, whole_for_range, first_byte: time }
            }
            other => other,
        }
    }
}

impl Replayed {
    fn count(&mut self, line: &Line, outcome: Outcome) {
        self.requests += 1;
        self.segment_requests += u64::from(line.object.class.is_segment());
        let errors = &mut self.errors;
        let what = match outcome {
            Outcome::Good { bytes, whole_for_range, first_byte } => {
                self.bytes += bytes;
                self.ranges_ignored += u64::from(whole_for_range);
                let ns = u64::try_from(first_byte.as_nanos()).unwrap_or(u64::MAX);
                self.first_byte.record(ns);
                let class = CLASSES.iter().position(|class| *class == line.object.class);
                self.first_byte_by_class[class.unwrap_or_default()].record(ns);
                return;
            }
            Outcome::Connect(error) => {
                errors.connect += 1;
                format!("no connection: {error}")
            }
            Outcome::Timeout => {
                errors.timeout += 1;
                "no whole answer in time".to_owned()
            }
            Outcome::Broken(failure) => {
                errors.broken += 1;
                failure.to_string()
            }
            Outcome::Status(status) => {
                errors.status += 1;
                format!("status {status}")
            }
            Outcome::Body(what) => {
                errors.body += 1;
                what.to_owned()
            }
        };
        self.first_failure.get_or_insert_with(|| format!("`{line}`: {what}"));
    }
}

/// Looks at an answer while it comes.
struct Check {
    object: Object,
    range: Option<(u64, u64)>,
    status: u16,
    /// Bytes that must come: the first and one past the last.
    from: u64,
    to: u64,
    at: u64,
    wrong: Option<&'static str>,
    first_byte: Option<Instant>,
}

impl Check {
    fn new(line: &Line) -> Check {
        let (object, range) = (line.object, line.range);
        Check { object, range, status: 0, from: 0, to: 0, at: 0, wrong: None, first_byte: None }
    }

    fn judge(&self) -> Result<Outcome, Outcome> {
        let whole_for_range = match (self.status, self.range) {
            (200, None) | (206, Some(_)) => false,
            (200, Some(_)) => true,
            (status, _) => return Err(Outcome::Status(status)),
        };
        if let Some(wrong) = self.wrong {
            return Err(Outcome::Body(wrong));
        }
        if self.at != self.to {
            return Err(Outcome::Body("the body is shorter than the object"));
        }
        let bytes = self.to - self.from;
        Ok(Outcome::Good { bytes, whole_for_range, first_byte: Duration::ZERO })
    }
}

impl Watch for Check {
    fn received(&mut self, _bytes: usize) {
        self.first_byte.get_or_insert_with(Instant::now);
    }
}

impl Look for Check {
    fn head(&mut self, head: &ResponseHead) {
        self.status = head.status;
        (self.from, self.to) = match (head.status, self.range) {
            (206, Some((first, last))) => {
                let said = head.fields.get("content-range").and_then(ContentRange::parse);
                let asked =
                    ContentRange { range: Some(first..=last), length: Some(self.object.size) };
                if said != Some(asked) {
                    self.wrong = Some("Content-Range is not what was asked for");
                }
                (first, last + 1)
            }
            (200, _) => (0, self.object.size),
            _ => (0, 0),
        };
        self.at = self.from;
    }

    fn body(&mut self, bytes: &[u8]) {
        if !matches!(self.status, 200 | 206) {
            return;
        }
        if self.at + bytes.len() as u64 > self.to {
            self.wrong = Some("the body is longer than what was asked for");
        } else if !self.object.agrees(self.at, bytes) {
            self.wrong = Some("the bytes are not the object's");
        }
        self.at += bytes.len() as u64;
    }
}
