//! The decision log: one JSON line per decision, Traffic Control's words for how (`rtype`, `rdtl`).
//!
//! Must stay true: deciding never waits for the log; what does not fit its queue is dropped and counted.

use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tidegate_steer::{Decision, Detail, Reason};

/// Where decisions are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    None,
    Stdout,
    File(PathBuf),
}

/// The near end of the log.
#[derive(Debug)]
pub struct DecisionLog {
    queue: Option<SyncSender<Line>>,
    dropped: AtomicU64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub unix_ms: u64,
    pub via: &'static str,
    pub client: IpAddr,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP status or DNS response code.
    pub status: u16,
    pub rtype: Option<Reason>,
    pub rdtl: Option<Detail>,
    pub delivery_service: Option<String>,
    pub cache_group: Option<String>,
    pub edges: Vec<String>,
    pub generation: u64,
}

impl Line {
    pub(crate) fn new(
        via: &'static str,
        client: IpAddr,
        host: &str,
        status: u16,
        generation: u64,
    ) -> Line {
        Line {
            unix_ms: tidegate_monitor::unix_ms(),
            via,
            client,
            host: host.to_owned(),
            path: None,
            status,
            rtype: None,
            rdtl: None,
            delivery_service: None,
            cache_group: None,
            edges: Vec::new(),
            generation,
        }
    }

    /// Takes over what was decided; `answers`: how many of the edges were told.
    pub(crate) fn decided(mut self, decision: &Decision, answers: usize) -> Line {
        self.rtype = decision.reason;
        self.rdtl = decision.detail;
        self.delivery_service = decision.service.clone();
        self.cache_group = decision.cache_group.clone();
        self.edges = decision.edges.iter().take(answers).map(|edge| edge.server.clone()).collect();
        self
    }
}

impl DecisionLog {
    /// Opens the target; a thread of its own writes it.
    pub fn open(target: &LogTarget) -> io::Result<DecisionLog> {
        let sink: Box<dyn Write + Send> = match target {
            LogTarget::None => return Ok(DecisionLog { queue: None, dropped: AtomicU64::new(0) }),
            LogTarget::Stdout => Box::new(io::stdout()),
            LogTarget::File(path) => {
                Box::new(OpenOptions::new().create(true).append(true).open(path)?)
            }
        };
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        std::thread::Builder::new()
            .name("decision-log".to_owned())
            .spawn(move || write(&lines, sink))?;
        Ok(DecisionLog { queue: Some(queue), dropped: AtomicU64::new(0) })
    }

    pub(crate) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    pub(crate) fn put(&self, line: Line) {
        if let Some(queue) = &self.queue
            && queue.try_send(line).is_err()
        {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Writes until the near end is gone. A full disk loses lines, not decisions.
fn write(lines: &Receiver<Line>, sink: Box<dyn Write + Send>) {
    let mut sink = BufWriter::new(sink);
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            if serde_json::to_writer(&mut sink, &line).is_ok() {
                let _ = sink.write_all(b"\n");
            }
            next = lines.try_recv().ok();
        }
        let _ = sink.flush();
    }
}

/// Lines that wait for the writer: about 2 MiB.
const QUEUE_LINES_MAX: usize = 8192;
