//! The report of a run: for people as a table, for programs as JSON.
//!
//! Must stay true: a field's name ends with its unit (`_us`, `_ns`, `_ms`, `bytes`); the options that made
//! the run are in it, so that it can be run again; loadtest/README.md tells every field.

use crate::options::Options;
use crate::play::watched::{Audience, PlayersReport};
use crate::series::{Sample, SeriesReport};
use crate::tally::{CacheCount, Ending, FORWARDS, Tally, Times};
use crate::units::{SECOND_NS, nanos, show_ns};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// The accounts of a run and the time they took.
#[derive(Debug, Clone)]
pub struct Measured {
    pub tally: Tally,
    /// From the end of the warm-up to the end of the schedule or of the last answer, whichever is later.
    pub elapsed_ns: u64,
    /// In order of time; the first is from the start.
    pub samples: Vec<Sample>,
    /// When there were players.
    pub audience: Option<Audience>,
}

impl Measured {
    /// CPU time of this program and of the server, first sample to last.
    pub fn cpu_ns(&self) -> (Option<u64>, Option<u64>) {
        let (Some(from), Some(to)) = (self.samples.first(), self.samples.last()) else {
            return (None, None);
        };
        let server = from.server_cpu_ns.zip(to.server_cpu_ns);
        (
            Some(to.client_cpu_ns.saturating_sub(from.client_cpu_ns)),
            server.map(|(from, to)| to.saturating_sub(from)),
        )
    }

    /// Whole answers per second.
    pub fn rate(&self) -> Option<f64> {
        let answers = self.tally.ended(Ending::Answered) as f64;
        (self.elapsed_ns > 0).then(|| answers * SECOND_NS as f64 / self.elapsed_ns as f64)
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub tool: Tool,
    pub started_unix_ms: u64,
    /// A person ended the run before its plan was done.
    pub interrupted: bool,
    pub options: OptionsReport,
    pub elapsed_us: f64,
    pub requests: u64,
    pub sent: u64,
    pub answers: u64,
    pub ok: u64,
    pub not_sent: u64,
    pub warmup_requests: u64,
    pub rate_per_second: Option<f64>,
    pub errors: Errors,
    pub first_failure: Option<String>,
    pub statuses: BTreeMap<u16, u64>,
    pub connections: Connections,
    pub bytes: Bytes,
    pub cache: Cache,
    pub response_time: TimesReport,
    pub service_time: TimesReport,
    pub first_byte: TimesReport,
    pub send_delay: TimesReport,
    pub cpu: Cpu,
    pub series: SeriesReport,
    /// What viewers had, when there were players.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub players: Option<PlayersReport>,
    pub assertions: Vec<AssertionReport>,
}

/// CPU time, warm-up included.
#[derive(Debug, Clone, Serialize)]
pub struct Cpu {
    pub client_s: Option<f64>,
    pub server_s: Option<f64>,
    /// Per whole answer, those of the warm-up included.
    pub client_us_per_answer: Option<f64>,
    pub server_us_per_answer: Option<f64>,
}

impl Cpu {
    fn new(measured: &Measured) -> Cpu {
        let (client, server) = measured.cpu_ns();
        let answers = measured.tally.ended(Ending::Answered) + measured.tally.warmup_requests;
        let per_answer =
            |ns: Option<u64>| ns.filter(|_| answers > 0).map(|ns| ns as f64 / 1e3 / answers as f64);
        let seconds = |ns: Option<u64>| ns.map(|ns| ns as f64 / SECOND_NS as f64);
        Cpu {
            client_s: seconds(client),
            server_s: seconds(server),
            client_us_per_answer: per_answer(client),
            server_us_per_answer: per_answer(server),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Tool {
    pub name: &'static str,
    pub version: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub struct OptionsReport {
    pub mode: &'static str,
    /// Version of HTTP.
    pub http: &'static str,
    pub rate_per_second: Option<f64>,
    /// What the rate comes to at the end of the duration.
    pub ramp_to_per_second: Option<f64>,
    pub connections: usize,
    pub streams: usize,
    pub threads: usize,
    pub duration_ms: Option<f64>,
    pub requests: Option<u64>,
    pub warmup_ms: f64,
    pub timeout_ms: f64,
    pub drain_ms: f64,
    pub backlog_max: u64,
    pub order: String,
    pub seed: u64,
    pub url_count: usize,
    /// The first [`URLS_SHOWN_MAX`].
    pub urls: Vec<String>,
    pub ranges: Vec<String>,
    pub headers: Vec<String>,
    pub connect: Option<String>,
    pub trust: String,
}

/// URLs that a report repeats.
pub const URLS_SHOWN_MAX: usize = 10;

#[derive(Debug, Clone, Serialize)]
pub struct Errors {
    pub total: u64,
    pub connect: u64,
    pub timeout: u64,
    pub closed_early: u64,
    pub short_body: u64,
    pub malformed: u64,
    pub unanswered: u64,
    pub status_4xx: u64,
    pub status_5xx: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Connections {
    pub opened: u64,
    pub reopened: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Bytes {
    pub sent: u64,
    pub received: u64,
    pub body: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Cache {
    pub hit_ratio: Option<f64>,
    pub without_cache_status: u64,
    pub first_hop: CacheReport,
    pub tiers: BTreeMap<String, CacheReport>,
}

#[derive(Debug, Clone, Serialize)]
pub struct CacheReport {
    pub hits: u64,
    pub collapsed: u64,
    pub forwarded: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TimesReport {
    pub count: u64,
    pub min_us: Option<f64>,
    pub mean_us: Option<f64>,
    pub p50_us: Option<f64>,
    pub p90_us: Option<f64>,
    pub p95_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p99_9_us: Option<f64>,
    pub p99_99_us: Option<f64>,
    pub max_us: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct AssertionReport {
    pub assertion: String,
    pub held: bool,
    pub value: Option<f64>,
    pub unit: &'static str,
    /// The value for people, or why there is none.
    pub shown: String,
}

impl Report {
    /// Puts a run on paper.
    pub fn new(
        options: &Options,
        measured: &Measured,
        started_unix_ms: u64,
        interrupted: bool,
    ) -> Report {
        let tally = &measured.tally;
        Report {
            tool: Tool { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") },
            started_unix_ms,
            interrupted,
            options: OptionsReport::new(options),
            elapsed_us: measured.elapsed_ns as f64 / 1e3,
            requests: tally.requests(),
            sent: tally.sent,
            answers: tally.ended(Ending::Answered),
            ok: tally.ok(),
            not_sent: tally.ended(Ending::NotSent),
            warmup_requests: tally.warmup_requests,
            rate_per_second: measured.rate(),
            errors: Errors {
                total: tally.errors(),
                connect: tally.ended(Ending::Connect),
                timeout: tally.ended(Ending::Timeout),
                closed_early: tally.ended(Ending::ClosedEarly),
                short_body: tally.ended(Ending::ShortBody),
                malformed: tally.ended(Ending::Malformed),
                unanswered: tally.ended(Ending::Unanswered),
                status_4xx: tally.answers_with(400..500),
                status_5xx: tally.answers_with(500..600),
            },
            first_failure: tally.first_failure.clone(),
            statuses: tally.statuses().collect(),
            connections: Connections { opened: tally.connects, reopened: tally.reconnects },
            bytes: Bytes {
                sent: tally.sent_bytes,
                received: tally.received_bytes,
                body: tally.body_bytes,
            },
            cache: Cache {
                hit_ratio: tally.hit_ratio(),
                without_cache_status: tally.without_cache_status,
                first_hop: CacheReport::new(&tally.first_hop),
                tiers: tally.tiers.iter().map(|(n, c)| (n.clone(), CacheReport::new(c))).collect(),
            },
            response_time: TimesReport::new(&tally.response_time),
            service_time: TimesReport::new(&tally.service_time),
            first_byte: TimesReport::new(&tally.first_byte),
            send_delay: TimesReport::new(&tally.send_delay),
            cpu: Cpu::new(measured),
            series: tally.series.report(&measured.samples),
            players: measured.audience.as_ref().map(Audience::report),
            assertions: options
                .assertions
                .iter()
                .map(|assertion| {
                    let verdict = assertion.judge(measured);
                    AssertionReport {
                        assertion: assertion.to_string(),
                        held: verdict.held,
                        value: verdict.value,
                        unit: verdict.unit,
                        shown: verdict.shown,
                    }
                })
                .collect(),
        }
    }

    /// No connection could be opened, so nothing was measured.
    pub fn nothing_ran(&self) -> bool {
        self.connections.opened == 0 && self.sent == 0 && !self.interrupted
    }

    /// Assertions that did not hold.
    pub fn failed_assertions(&self) -> impl Iterator<Item = &AssertionReport> {
        self.assertions.iter().filter(|a| !a.held)
    }
}

impl OptionsReport {
    fn new(options: &Options) -> OptionsReport {
        let ms = |duration| nanos(duration) as f64 / 1e6;
        OptionsReport {
            mode: if options.rate.is_some() { "open" } else { "closed" },
            rate_per_second: options.rate.map(|rate| rate.as_f64()),
            ramp_to_per_second: options.ramp_to.map(|rate| rate.as_f64()),
            http: options.protocol.as_str(),
            connections: options.connections,
            streams: options.streams,
            threads: options.threads,
            duration_ms: options.duration.map(ms),
            requests: options.requests,
            warmup_ms: ms(options.warmup),
            timeout_ms: ms(options.timeout),
            drain_ms: ms(options.drain),
            backlog_max: options.backlog_max,
            order: options.order.to_string(),
            seed: options.seed,
            url_count: options.urls.len(),
            urls: options.urls.iter().take(URLS_SHOWN_MAX).cloned().collect(),
            ranges: options.ranges.clone(),
            headers: options.headers.clone(),
            connect: options.connect.map(|address| address.to_string()),
            trust: match &options.trust {
                crate::tls::Trust::System => "system".to_owned(),
                crate::tls::Trust::File(path) => path.display().to_string(),
                crate::tls::Trust::Anyone => "anyone".to_owned(),
            },
        }
    }
}

impl CacheReport {
    fn new(count: &CacheCount) -> CacheReport {
        let forwarded = FORWARDS.into_iter().zip(count.forwards).filter(|(_, n)| *n > 0).collect();
        CacheReport { hits: count.hits, collapsed: count.collapsed, forwarded }
    }
}

impl TimesReport {
    pub(crate) fn new(times: &Times) -> TimesReport {
        let us = |ns: Option<f64>| ns.map(|ns| ns / 1e3);
        let percentile = |percent| us(times.percentile_ns(percent));
        TimesReport {
            count: times.count(),
            min_us: us(times.min_ns()),
            mean_us: us(times.mean_ns()),
            p50_us: percentile(50.0),
            p90_us: percentile(90.0),
            p95_us: percentile(95.0),
            p99_us: percentile(99.0),
            p99_9_us: percentile(99.9),
            p99_99_us: percentile(99.99),
            max_us: us(times.max_ns()),
        }
    }
}

/// The table for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed_us / 1e6;
        if self.interrupted {
            writeln!(f, "interrupted; this is what was measured until then")?;
        }
        let rate = self.rate_per_second.unwrap_or(0.0);
        writeln!(f, "requests    {} in {seconds:.3}s, {rate:.1} answers/s", self.requests)?;
        let Report { ok, sent, not_sent, warmup_requests, .. } = self;
        write!(f, "            {ok} ok, {sent} sent, {not_sent} not sent")?;
        if *warmup_requests > 0 {
            write!(f, ", {warmup_requests} more to warm up")?;
        }
        writeln!(f, "\nerrors      {}", self.errors)?;
        if let Some(failure) = &self.first_failure {
            writeln!(f, "            first: {failure}")?;
        }
        writeln!(f, "statuses    {}", list(&self.statuses))?;
        let Connections { opened, reopened } = self.connections;
        writeln!(f, "connections {opened} opened, {reopened} of them again")?;
        let per_second = if seconds > 0.0 { self.bytes.body as f64 / seconds / 1e6 } else { 0.0 };
        writeln!(f, "bytes       {} of bodies, {per_second:.2} MB/s", self.bytes.body)?;
        if let Some(us) = self.cpu.client_us_per_answer {
            write!(f, "cpu         {us:.1}us of this program per answer")?;
            match self.cpu.server_us_per_answer {
                Some(us) => writeln!(f, ", {us:.1}us of the server")?,
                None => writeln!(f)?,
            }
        }
        if let Some(ratio) = self.cache.hit_ratio {
            writeln!(f, "cache       {:.2}% hits at the first hop", ratio * 100.0)?;
            for (name, tier) in &self.cache.tiers {
                let forwarded = list(&tier.forwarded);
                writeln!(f, "            {name}: {} hits, forwarded: {forwarded}", tier.hits)?;
            }
        }
        writeln!(
            f,
            "\n{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "p50", "p90", "p99", "p99.9", "max"
        )?;
        let rows = [
            ("response_time", &self.response_time),
            ("service_time", &self.service_time),
            ("first_byte", &self.first_byte),
            ("send_delay", &self.send_delay),
        ];
        for (name, times) in rows {
            write!(f, "{name:<14}")?;
            for us in [times.p50_us, times.p90_us, times.p99_us, times.p99_9_us, times.max_us] {
                let shown = us.map_or_else(|| "-".to_owned(), |us| show_ns(us * 1e3));
                write!(f, "{shown:>10}")?;
            }
            writeln!(f)?;
        }
        if let Some(players) = &self.players {
            write!(f, "{players}")?;
        }
        for AssertionReport { assertion, held, shown, .. } in &self.assertions {
            writeln!(f, "{} {assertion} (it is {shown})", if *held { "held  " } else { "FAILED" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total)?;
        let classes = [
            ("connect", self.connect),
            ("timeout", self.timeout),
            ("closed early", self.closed_early),
            ("short body", self.short_body),
            ("malformed", self.malformed),
            ("unanswered", self.unanswered),
            ("4xx", self.status_4xx),
            ("5xx", self.status_5xx),
        ];
        for (name, count) in classes.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {name} {count}")?;
        }
        Ok(())
    }
}

fn list<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let mut text = String::new();
    for (key, count) in counts {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _written = write!(text, "{comma}{key}: {count}");
    }
    if text.is_empty() { "none".to_owned() } else { text }
}
