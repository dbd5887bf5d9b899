//! Accounts for every request: how it ended and how long it took.
//!
//! Must stay true: each counted request is recorded once and falls in exactly one ending; a request that
//! nobody answered stays in the response times with the time it had waited so far, so that an overloaded
//! server cannot look fast by answering few. Times are nanoseconds since the start of the run.

use crate::series::Series;
use crate::units::TIME_HOURS_MAX;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use tidegate_http::{list_members, trim};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// A whole answer, whatever its status.
    Answered,
    /// No connection (TCP or TLS).
    Connect,
    /// Sent, and no whole answer in time.
    Timeout,
    /// The connection ended before the head of the answer was whole.
    ClosedEarly,
    /// The connection ended inside the body.
    ShortBody,
    /// What came is no HTTP/1.1 answer.
    Malformed,
    /// Sent; the run ended first.
    Unanswered,
    /// Due; the run ended before there was room to send it, or too many were waiting.
    NotSent,
}

impl Ending {
    pub const COUNT: usize = 8;
}

/// One request that is over.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub ending: Ending,
    /// After the warm-up.
    pub counted: bool,
    pub due_ns: u64,
    /// When its first byte was given to the kernel.
    pub sent_ns: Option<u64>,
    pub first_byte_ns: Option<u64>,
    pub end_ns: u64,
    /// Of a whole answer.
    pub status: u16,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub body_bytes: u64,
    pub cache_status: Option<&'a [u8]>,
}

impl Record<'_> {
    /// A connection refused or cut at once took no time; to count it would make the percentiles better.
    pub fn waited_to_the_end(&self) -> bool {
        matches!(
            self.ending,
            Ending::Answered | Ending::Timeout | Ending::Unanswered | Ending::NotSent
        )
    }

    /// A request that never got onto a connection.
    pub fn not_sent(counted: bool, due_ns: u64, end_ns: u64) -> Record<'static> {
        Record {
            ending: Ending::NotSent,
            counted,
            due_ns,
            sent_ns: None,
            first_byte_ns: None,
            end_ns,
            status: 0,
            sent_bytes: 0,
            received_bytes: 0,
            body_bytes: 0,
            cache_status: None,
        }
    }
}

/// Reasons for asking the next hop (RFC 9211 §2.2); the last two are ours.
pub const FORWARDS: [&str; 10] = [
    "bypass",
    "method",
    "uri-miss",
    "vary-miss",
    "miss",
    "request",
    "stale",
    "partial",
    "other",
    "unsaid",
];
const FORWARD_OTHER: usize = 8;
const FORWARD_UNSAID: usize = 9;

/// Names of caches that are told apart; more are counted together as [`TIER_MORE`].
pub const TIER_NAMES_MAX: usize = 64;
pub const TIER_MORE: &str = "(more)";

/// How one cache answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheCount {
    pub hits: u64,
    /// In the order of [`FORWARDS`].
    pub forwards: [u64; FORWARDS.len()],
    /// Forwards that joined another request's fill.
    pub collapsed: u64,
}

impl CacheCount {
    pub fn answers(&self) -> u64 {
        self.hits + self.forwards.iter().sum::<u64>()
    }

    fn add(&mut self, other: &CacheCount) {
        self.hits += other.hits;
        self.collapsed += other.collapsed;
        for (mine, theirs) in self.forwards.iter_mut().zip(other.forwards) {
            *mine += theirs;
        }
    }
}

/// A histogram of times: nanoseconds, three digits, up to [`TIME_HOURS_MAX`].
#[derive(Debug, Clone)]
pub struct Times {
    histogram: Histogram<u64>,
    // Exact, where the histogram knows only the cell.
    min_ns: u64,
    max_ns: u64,
}

impl Default for Times {
    fn default() -> Times {
        let longest = TIME_HOURS_MAX * 3600 * crate::units::SECOND_NS;
        let histogram = Histogram::new_with_bounds(1, longest, TIME_DIGITS)
            .expect("1 <= longest / 2 and three digits are within the histogram's limits");
        Times { histogram, min_ns: u64::MAX, max_ns: 0 }
    }
}

const TIME_DIGITS: u8 = 3;

impl Times {
    pub fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    fn some(&self, value: impl FnOnce() -> f64) -> Option<f64> {
        (self.count() > 0).then(value)
    }

    /// The time that `percent` of the requests stayed within.
    pub fn percentile_ns(&self, percent: f64) -> Option<f64> {
        // The end of the histogram's cell may lie beyond the longest time that was seen.
        self.some(|| self.histogram.value_at_quantile(percent / 100.0).min(self.max_ns) as f64)
    }

    pub fn min_ns(&self) -> Option<f64> {
        self.some(|| self.min_ns as f64)
    }

    pub fn max_ns(&self) -> Option<f64> {
        self.some(|| self.max_ns as f64)
    }

    pub fn mean_ns(&self) -> Option<f64> {
        self.some(|| self.histogram.mean())
    }

    /// Takes in what another one recorded.
    pub fn add(&mut self, other: &Times) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// The accounts of a run, or of one thread of it.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Due to the end of the answer.
    pub response_time: Times,
    /// Sent to the end of the answer.
    pub service_time: Times,
    /// Sent to the first byte of the answer.
    pub first_byte: Times,
    /// Due to sent: what the request waited for a connection.
    pub send_delay: Times,
    endings: [u64; Ending::COUNT],
    statuses: Vec<u64>,
    pub sent: u64,
    pub warmup_requests: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub body_bytes: u64,
    /// Connections opened, warm-up included.
    pub connects: u64,
    /// Those among them that took the place of an earlier one.
    pub reconnects: u64,
    /// The cache nearest to the client.
    pub first_hop: CacheCount,
    /// Answers without `Cache-Status`.
    pub without_cache_status: u64,
    pub tiers: BTreeMap<String, CacheCount>,
    /// End of the last request that counts.
    pub last_end_ns: u64,
    /// What the first failure was, for people.
    pub first_failure: Option<String>,
    /// When what happened, warm-up included.
    pub series: Series,
}

const STATUS_END: usize = 600;

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            response_time: Times::default(),
            service_time: Times::default(),
            first_byte: Times::default(),
            send_delay: Times::default(),
            endings: [0; Ending::COUNT],
            statuses: vec![0; STATUS_END],
            sent: 0,
            warmup_requests: 0,
            sent_bytes: 0,
            received_bytes: 0,
            body_bytes: 0,
            connects: 0,
            reconnects: 0,
            first_hop: CacheCount::default(),
            without_cache_status: 0,
            tiers: BTreeMap::new(),
            last_end_ns: 0,
            first_failure: None,
            series: Series::default(),
        }
    }
}

impl Tally {
    /// Takes one request that is over.
    pub fn record(&mut self, record: &Record<'_>) {
        self.series.record(record);
        if !record.counted {
            self.warmup_requests += 1;
            return;
        }
        self.endings[record.ending as usize] += 1;
        self.last_end_ns = self.last_end_ns.max(record.end_ns);
        self.sent_bytes += record.sent_bytes;
        self.received_bytes += record.received_bytes;
        self.body_bytes += record.body_bytes;
        self.record_times(record);
        if record.ending == Ending::Answered {
            self.statuses[usize::from(record.status).min(STATUS_END - 1)] += 1;
            self.record_caches(record.cache_status);
        }
    }

    fn record_times(&mut self, record: &Record<'_>) {
        if let Some(sent) = record.sent_ns {
            self.sent += 1;
            self.send_delay.record(sent.saturating_sub(record.due_ns));
            if let Some(first) = record.first_byte_ns {
                self.first_byte.record(first.saturating_sub(sent));
            }
        }
        if record.waited_to_the_end() {
            self.response_time.record(record.end_ns.saturating_sub(record.due_ns));
            if let Some(sent) = record.sent_ns {
                self.service_time.record(record.end_ns.saturating_sub(sent));
            }
        }
    }

    /// Each tier appends its member (RFC 9211 §2), so the last is the one nearest to us. What stands before
    /// a hit or a collapsed forward tells of an earlier request's way, not of this one's.
    fn record_caches(&mut self, field: Option<&[u8]>) {
        let members: Vec<&[u8]> = field.map(|f| list_members(f).collect()).unwrap_or_default();
        if members.is_empty() {
            self.without_cache_status += 1;
            return;
        }
        for (distance, member) in members.iter().rev().enumerate() {
            let read = Member::read(member);
            if distance == 0 {
                read.count_in(&mut self.first_hop);
            }
            read.count_in(self.tier(read.name));
            if read.hit || read.collapsed {
                break;
            }
        }
    }

    fn tier(&mut self, name: &[u8]) -> &mut CacheCount {
        let name = String::from_utf8_lossy(name);
        let known = self.tiers.contains_key(name.as_ref());
        let name = if known || self.tiers.len() < TIER_NAMES_MAX { &name } else { TIER_MORE };
        if !self.tiers.contains_key(name) {
            self.tiers.insert(name.to_owned(), CacheCount::default());
        }
        self.tiers.get_mut(name).expect("it was put in above if it was not there")
    }

    /// Remembers the first failure's text.
    pub fn explain(&mut self, text: impl FnOnce() -> String) {
        if self.first_failure.is_none() {
            self.first_failure = Some(text());
        }
    }

    /// Takes over another thread's accounts.
    pub fn add(&mut self, other: &Tally) {
        self.response_time.add(&other.response_time);
        self.service_time.add(&other.service_time);
        self.first_byte.add(&other.first_byte);
        self.send_delay.add(&other.send_delay);
        for (mine, theirs) in self.endings.iter_mut().zip(other.endings) {
            *mine += theirs;
        }
        for (mine, theirs) in self.statuses.iter_mut().zip(&other.statuses) {
            *mine += theirs;
        }
        self.sent += other.sent;
        self.warmup_requests += other.warmup_requests;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.body_bytes += other.body_bytes;
        self.connects += other.connects;
        self.reconnects += other.reconnects;
        self.first_hop.add(&other.first_hop);
        self.without_cache_status += other.without_cache_status;
        for (name, count) in &other.tiers {
            self.tier(name.as_bytes()).add(count);
        }
        self.last_end_ns = self.last_end_ns.max(other.last_end_ns);
        self.series.add(&other.series);
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    /// Requests with this ending.
    pub fn ended(&self, ending: Ending) -> u64 {
        self.endings[ending as usize]
    }

    /// Counted requests that were due.
    pub fn requests(&self) -> u64 {
        self.endings.iter().sum()
    }

    /// Whole answers with a status in this range.
    pub fn answers_with(&self, statuses: std::ops::Range<u16>) -> u64 {
        let end = usize::from(statuses.end).min(STATUS_END);
        self.statuses.get(usize::from(statuses.start)..end).map_or(0, |s| s.iter().sum())
    }

    /// Whole answers below 400.
    pub fn ok(&self) -> u64 {
        self.answers_with(0..400)
    }

    /// Sent requests that went wrong in any way, 4xx and 5xx included, and failed connections.
    pub fn errors(&self) -> u64 {
        self.requests() - self.ok() - self.ended(Ending::NotSent)
    }

    /// Statuses that came, with their numbers.
    pub fn statuses(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.statuses.iter().enumerate().filter(|(_, n)| **n > 0).map(|(s, n)| (s as u16, *n))
    }

    /// Hits of the nearest cache among all answers; `None` when no answer spoke of a cache.
    pub fn hit_ratio(&self) -> Option<f64> {
        let spoken = self.first_hop.answers();
        (spoken > 0)
            .then(|| self.first_hop.hits as f64 / (spoken + self.without_cache_status) as f64)
    }
}

/// One member of `Cache-Status`.
struct Member<'a> {
    name: &'a [u8],
    hit: bool,
    /// Index in [`FORWARDS`].
    forward: Option<usize>,
    collapsed: bool,
}

impl<'a> Member<'a> {
    fn read(member: &'a [u8]) -> Member<'a> {
        let mut parts = split_parameters(member);
        let name = trim(parts.next().unwrap_or_default());
        let name = name.strip_prefix(b"\"").and_then(|n| n.strip_suffix(b"\"")).unwrap_or(name);
        let mut read = Member { name, hit: false, forward: None, collapsed: false };
        for part in parts.map(trim) {
            match part {
                b"hit" | b"hit=?1" => read.hit = true,
                b"collapsed" | b"collapsed=?1" => read.collapsed = true,
                _ => {
                    if let Some(reason) = part.strip_prefix(b"fwd=") {
                        let known =
                            FORWARDS[..FORWARD_OTHER].iter().position(|f| f.as_bytes() == reason);
                        read.forward = Some(known.unwrap_or(FORWARD_OTHER));
                    }
                }
            }
        }
        read
    }

    fn count_in(&self, count: &mut CacheCount) {
        if self.hit {
            count.hits += 1;
        } else {
            count.forwards[self.forward.unwrap_or(FORWARD_UNSAID)] += 1;
            count.collapsed += u64::from(self.collapsed);
        }
    }
}

/// Pieces between semicolons that are not inside a quoted string.
fn split_parameters(member: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    member.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' => return !quoted,
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests;
