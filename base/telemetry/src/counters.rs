//! Counters and gauges of a data plane process, one instance per core.
//!
//! Must stay true: the table at the end is the only place where a counter is declared: struct, Prometheus
//! text, JSON and reference come from it. A core writes its own instance only, readers add them up; an
//! instance has its own cache lines, so that counting on one core does not slow down another.

use crate::histogram::{BUCKETS_US, Histogram, HistogramTotals};
use std::fmt::Write;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one core counts and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// One less; for gauges. Wraps below zero, so that sums over cores stay right when a thing is opened on
    /// one core and closed on another.
    pub fn decrement(&self) {
        self.subtract(1);
    }

    /// `count` less; for gauges.
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }

    /// For gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The number of this core.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Deref for Counter {
    type Target = AtomicU64;

    fn deref(&self) -> &AtomicU64 {
        &self.0
    }
}

/// How a number behaves and how cores are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; cores are added.
    Counter,
    /// Rises and falls; cores are added.
    Gauge,
    /// A value that all cores should share; the greatest one counts.
    GaugeMax,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterRow {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    pub help: &'static str,
}

macro_rules! counters {
    ($($name:ident $kind:ident $unit:literal $help:literal)*) => {
        /// The numbers of one core.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $(#[doc = $help] pub $name: Counter,)*
            /// Time from a complete request head to the first byte of the answer.
            pub first_byte: Histogram,
        }

        /// All rows, in order.
        pub const COUNTERS: &[CounterRow] = &[
            $(CounterRow { name: stringify!($name), kind: Kind::$kind, unit: $unit, help: $help },)*
        ];

        impl Counters {
            fn values(&self) -> [u64; COUNTERS.len()] {
                [$(self.$name.get(),)*]
            }
        }
    };
}

/// The numbers of all cores put together, at about one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    values: [u64; COUNTERS.len()],
    pub first_byte: HistogramTotals,
}

impl Totals {
    /// Puts the cores together.
    pub fn of(cores: &[&Counters]) -> Totals {
        let mut totals =
            Totals { values: [0; COUNTERS.len()], first_byte: HistogramTotals::default() };
        for core in cores {
            for ((total, value), row) in totals.values.iter_mut().zip(core.values()).zip(COUNTERS) {
                *total = match row.kind {
                    Kind::Counter | Kind::Gauge => total.wrapping_add(value),
                    Kind::GaugeMax => (*total).max(value),
                };
            }
            core.first_byte.add_to(&mut totals.first_byte);
        }
        for (total, row) in totals.values.iter_mut().zip(COUNTERS) {
            // Cores are read one after the other: a gauge may be seen going down before it was seen going up.
            if row.kind == Kind::Gauge && *total > u64::MAX / 2 {
                *total = 0;
            }
        }
        totals
    }

    /// The total of the counter with this name.
    pub fn get(&self, name: &str) -> Option<u64> {
        COUNTERS.iter().position(|row| row.name == name).map(|index| self.values[index])
    }

    /// All rows with their totals.
    pub fn iter(&self) -> impl Iterator<Item = (&'static CounterRow, u64)> {
        COUNTERS.iter().zip(self.values)
    }
}

/// Prometheus text of all counters, summed over cores. Labels (name, value) stand on every sample; a label
/// whose name Prometheus would refuse is left out.
pub fn render_prometheus(cores: &[&Counters], labels: &[(&str, &str)]) -> String {
    let totals = Totals::of(cores);
    let labels = render_labels(labels);
    let mut out = String::with_capacity(16 * 1024);
    for (row, value) in totals.iter() {
        let CounterRow { name, kind, unit, help } = row;
        let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
        let _ = writeln!(out, "# HELP tidegate_{name} {help} Unit: {unit}.");
        let _ = writeln!(out, "# TYPE tidegate_{name} {kind}");
        if labels.is_empty() {
            let _ = writeln!(out, "tidegate_{name} {value}");
        } else {
            let _ = writeln!(out, "tidegate_{name}{{{labels}}} {value}");
        }
    }
    let name = "tidegate_first_byte_seconds";
    let _ = writeln!(
        out,
        "# HELP {name} Time from a complete request head to the first byte of the answer."
    );
    let _ = writeln!(out, "# TYPE {name} histogram");
    let comma = if labels.is_empty() { "" } else { "," };
    let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let mut count = 0u64;
    for (index, bucket) in totals.first_byte.buckets.iter().enumerate() {
        count = count.wrapping_add(*bucket);
        let bound = BUCKETS_US.get(index).map_or("+Inf".to_owned(), |us| seconds(*us));
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
    }
    let _ = writeln!(out, "{name}_sum{braced} {}", seconds(totals.first_byte.sum_us));
    let _ = writeln!(out, "{name}_count{braced} {count}");
    out
}

/// JSON object of all counters, summed over cores: name to number, and `first_byte` with its buckets.
pub fn to_json(cores: &[&Counters]) -> String {
    let totals = Totals::of(cores);
    let mut out = String::with_capacity(4 * 1024);
    out.push('{');
    for (row, value) in totals.iter() {
        let _ = write!(out, "\"{}\":{value},", row.name);
    }
    let first_byte = &totals.first_byte;
    let _ = write!(
        out,
        "\"first_byte\":{{\"count\":{},\"sum_us\":{},\"buckets\":[",
        first_byte.count(),
        first_byte.sum_us
    );
    for (index, count) in first_byte.buckets.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let bound = BUCKETS_US.get(index).map_or("null".to_owned(), u64::to_string);
        let _ = write!(out, "{comma}{{\"le_us\":{bound},\"count\":{count}}}");
    }
    out.push_str("]}}");
    out
}

fn seconds(microseconds: u64) -> String {
    let text = format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Labels as they stand in a sample; one whose name Prometheus would refuse is left out.
pub fn render_labels(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        let mut bytes = name.bytes();
        let head_ok = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !head_ok || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        if !out.is_empty() {
            out.push(',');
        }
        let _ = write!(out, "{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c if c.is_control() => {}
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

counters! {
    requests_total Counter "requests" "Requests whose head was taken."
    panics_total Counter "tasks" "Requests and fills ended by a broken invariant; standard error says where. Report it."
    requests_shed_total Counter "requests" "Requests answered 503 since the memory budget was used up."
    memory_limit_bytes Gauge "bytes" "The memory budget of the process (memory_bytes)."
    memory_fixed_bytes Gauge "bytes" "Of it, what is planned at start: process, index, RAM tier, object table."
    memory_flexible_used_bytes Gauge "bytes" "Of the rest, what connections, fills and slow clients hold."
    memory_pressure GaugeMax "level" "0 calm, 1 nothing is admitted to the store, 2 no connections are accepted, 3 requests are refused."
    objects_bytes Gauge "bytes" "What the object table takes, about."
    requests_refused_total Counter "requests" "Requests refused as malformed or too large, then closed."
    responses_2xx_total Counter "responses" "Answers with a status from 200 to 299."
    responses_3xx_total Counter "responses" "Answers with a status from 300 to 399."
    responses_4xx_total Counter "responses" "Answers with a status from 400 to 499."
    responses_5xx_total Counter "responses" "Answers with a status from 500 to 599."
    hits_total Counter "requests" "Answered from the cache, fresh."
    misses_total Counter "requests" "Answered after asking the next hop for content."
    stale_total Counter "requests" "Answered from the cache, stale."
    revalidated_total Counter "requests" "Answered from the cache after the next hop confirmed it."
    passed_total Counter "requests" "Passed to the next hop, nothing stored."
    collapsed_total Counter "requests" "Joined the fill of another request."
    fills_total Counter "fills" "Requests sent to a next hop."
    fill_errors_total Counter "fills" "Fills that ended in an error."
    fills_open Gauge "fills" "Fills that are running."
    bytes_sent_total Counter "bytes" "Body bytes sent to clients."
    bytes_hit_total Counter "bytes" "Body bytes sent to clients from the cache."
    bytes_filled_total Counter "bytes" "Body bytes received from next hops."
    connections_open Gauge "connections" "Client connections that are open."
    connections_total Counter "connections" "Client connections taken."
    next_hop_connections_open Gauge "connections" "Connections to next hops that are open."
    next_hops_out Gauge "hops" "Next hops that are out: unreachable, or failing."
    next_hop_ejections_total Counter "ejections" "How often a next hop was taken out."
    next_hop_probes_total Counter "requests" "Requests that asked a next hop that is out for its health."
    next_hops_all_out_total Counter "requests" "Requests to next hops that were not made, all of them being out."
    next_hop_over_bound_total Counter "requests" "Requests to next hops while one had more than its share under way."
    origin_names_failed_total Counter "questions" "Names of origins that could not be resolved; the last good answer is kept."
    origin_queue_waits_total Counter "requests" "Requests that had to wait for a place at an origin."
    origin_queue_refused_total Counter "requests" "Requests that got no place at an origin: the queue was full, or the wait too long."
    origin_queue_waiting Gauge "requests" "Requests that wait for a place at an origin."
    retries_total Counter "requests" "Second and later tries of requests to next hops."
    retries_denied_total Counter "requests" "Second tries not made: the retry budget was used up."
    bodies_coded_total Counter "bodies" "Bodies of text that were put into a content coding."
    coded_answers_total Counter "answers" "Answers given in a content coding of ours."
    cmcd_total Counter "requests" "Requests that told something of their player (CMCD)."
    cmcd_ignored_total Counter "requests" "Of these, those that broke the rules of it, or were of another version than 1."
    paced_answers_total Counter "answers" "Answers with a limit to how fast they leave: the delivery service's, or what the player found enough."
    lent_answers_total Counter "answers" "Answers that let others go first: the path was crowded, and the player had enough in its buffer."
    pacing_failed_total Counter "connections" "Connections that the system does not let have the pace or the congestion control of their service."
    prefetch_fills_total Counter "fills" "Fills of what a player said that it would ask for next."
    prefetch_refused_total Counter "requests" "Next objects that were not brought in: of another origin, or not to be cached."
    prefetch_shed_total Counter "requests" "Next objects that were not brought in: too many under way, or no memory to spare."
    quic_paced_total Counter "waits" "Times that a QUIC connection waited for its pace."
    quic_congestion_changes_total Counter "changes" "Changes of a QUIC connection's congestion control to what a delivery service asks for."
    floods_total Counter "connections" "HTTP/2 and HTTP/3 connections ended for frames or streams that bring nothing."
    alternates_refused_total Counter "requests" "Requests passed on since their URL has as many alternates as are kept side by side."
    clients_turned_away_total Counter "connections" "Connections refused since their client address had too many, opened them too fast, or flooded."
    quic_retries_total Counter "handshakes" "QUIC clients that had to prove their address, many handshakes being under way."
    quic_refused_total Counter "handshakes" "QUIC clients turned away: no room, or the node stops."
    quic_forwarded_total Counter "datagrams" "Datagrams handed to the core of their connection."
    quic_dropped_total Counter "datagrams" "Of these, those dropped since too many waited there."
    peer_fills_total Counter "requests" "Requests to the peer that an object belongs to (peering ring)."
    peer_fills_failed_total Counter "requests" "Of these, those that parents had to answer after all."
    hedges_total Counter "requests" "Live requests that a second next hop was asked for, the first one being late."
    hedges_won_total Counter "requests" "Of these, those that the second next hop answered first."
    blocks_mended_total Counter "blocks" "Blocks without a strong validator that were put in from a whole of the same bytes."
    answers_cut_total Counter "requests" "Answers that ended short since their bytes could not be had."
    resumes_total Counter "fills" "Bodies that broke off and were asked for from there on."
    deadlines_missed_total Counter "requests" "Requests whose client was too slow: with their head, their body, or to take the answer."
    tls_handshakes_total Counter "handshakes" "TLS handshakes that ended well."
    tls12_handshakes_total Counter "handshakes" "Of them, those in TLS 1.2."
    ktls_connections_total Counter "connections" "TLS connections whose records the kernel seals."
    certificate_end_seconds GaugeMax "seconds" "Unix time at which the first of the certificates that are shown ends; 0: none is shown."
    ktls_available Gauge "bool" "1: the kernel was asked whether it seals records of TLS, and does."
    early_hits_total Counter "requests" "Requests answered from the cache before their TLS handshake was over (0-RTT)."
    tls_errors_total Counter "handshakes" "TLS handshakes or records that failed."
    store_read_bytes_total Counter "bytes" "Bytes read from the store."
    store_written_bytes_total Counter "bytes" "Bytes written to the store."
    store_bad_extents_total Counter "extents" "Extents whose checksum or header was wrong."
    store_read_errors_total Counter "reads" "Reads of the store that failed."
    store_write_errors_total Counter "writes" "Writes of the store that failed."
    store_over_budget_total Counter "extents" "Extents not written since the drive's daily writes were used up."
    store_lifetime_written_bytes Gauge "bytes" "Bytes written to the store's device over all runs, as far as it was noted."
    store_life_left_days Gauge "days" "Days until the drive's rated writes are used up, at the pace of this run."
    store_not_admitted_total Counter "extents" "Extents not written since too much waited for the device."
    store_memory_shed_total Counter "extents" "Extents not written, and objects not begun with, since the memory budget was short."
    store_evicted_bytes_total Counter "bytes" "Bytes of the store given up to make room."
    ram_tier_bytes Gauge "bytes" "Bytes that the RAM tier holds."
    prompt_hits_total Counter "requests" "Hits that waited for nobody: fresh, whole, and in memory in one block."
    ram_tier_hits_total Counter "blocks" "Blocks served from the RAM tier."
    ram_tier_evictions_total Counter "blocks" "Blocks dropped from the RAM tier."
    purges_total Counter "purges" "Purges taken, from operators and from answers that invalidate."
    purge_rules Gauge "rules" "Purges that lookups are held against."
    purged_objects_total Counter "objects" "Purged objects that were met and given up."
    purges_summed_up_total Counter "purges" "Soft purges in whose place one of their whole service was put, since there were too many to keep."
    purge_journal_errors_total Counter "purges" "Purges that could not be written to the store's journal."
    log_lines_dropped_total Counter "lines" "Access log lines dropped because the writer was behind."
    plain_buffer_fallback_total Counter "buffers" "Buffers of plain memory, the registered ones being used up."
    heartbeats_sent_total Counter "datagrams" "Heartbeats sent."
    snapshot_generation GaugeMax "generation" "Generation of the running snapshot."
    snapshot_refused_total Counter "snapshots" "Snapshots refused as invalid or too old."
    fds_exhausted_total Counter "accepts" "Accepts that failed for want of file descriptors."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn cores_are_added_and_shared_values_are_not() {
        let cores = [Counters::default(), Counters::default()];
        cores[0].hits_total.add(3);
        cores[1].hits_total.increment();
        cores[1].hits_total.fetch_add(1, Relaxed);
        cores[0].snapshot_generation.set(7);
        cores[1].snapshot_generation.set(6);
        // Opened here, closed there.
        cores[0].connections_open.add(2);
        cores[1].connections_open.decrement();
        cores[1].fills_open.decrement();
        cores[0].ram_tier_bytes.add(9);
        cores[1].ram_tier_bytes.subtract(4);
        // As the engine counts.
        let count = |counter: fn(&Counters) -> &AtomicU64| counter(&cores[0]).fetch_add(1, Relaxed);
        count(|c| &c.fills_total);
        count(|c| &c.collapsed_total);
        let totals = Totals::of(&[&cores[0], &cores[1]]);
        for (name, expected) in [
            ("hits_total", 5),
            ("snapshot_generation", 7),
            ("connections_open", 1),
            ("fills_open", 0),
        ] {
            assert_eq!(totals.get(name), Some(expected), "{name}");
        }
        assert_eq!(
            (totals.get("ram_tier_bytes"), totals.get("collapsed_total")),
            (Some(5), Some(1))
        );
        assert_eq!(totals.get("nothing"), None);
    }

    #[test]
    fn the_table_is_sound() {
        let names: HashSet<&str> = COUNTERS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), COUNTERS.len());
        for row in COUNTERS {
            assert_eq!(row.name.ends_with("_total"), row.kind == Kind::Counter, "{}", row.name);
            assert!(row.help.ends_with('.') && !row.help.contains('\n') && !row.unit.is_empty());
        }
        assert_eq!(std::mem::align_of::<Counters>(), 128);
    }

    #[test]
    fn prometheus_text_has_every_row_once_and_escapes_labels() {
        let core = Counters::default();
        core.requests_total.add(9);
        core.first_byte.observe(90);
        core.first_byte.observe(2_000_000);
        let text = render_prometheus(
            &[&core],
            &[("node", "a\"b\\c\nd"), ("bad-name", "x"), ("tier", "edge")],
        );
        let labels = "node=\"a\\\"b\\\\c\\nd\",tier=\"edge\"";
        assert!(text.contains(&format!("tidegate_requests_total{{{labels}}} 9\n")));
        assert!(text.contains(&format!(
            "tidegate_first_byte_seconds_bucket{{{labels},le=\"0.0001\"}} 1\n"
        )));
        assert!(
            text.contains(&format!(
                "tidegate_first_byte_seconds_bucket{{{labels},le=\"+Inf\"}} 2\n"
            ))
        );
        assert!(text.contains(&format!("tidegate_first_byte_seconds_sum{{{labels}}} 2.00009\n")));
        for row in COUNTERS {
            assert_eq!(text.matches(&format!("# TYPE tidegate_{} ", row.name)).count(), 1);
        }
        // Each line is a comment or `name{labels} number`.
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("tidegate_") && value.parse::<f64>().is_ok(), "{line}");
        }
        assert!(render_prometheus(&[&core], &[]).contains("\ntidegate_requests_total 9\n"));
    }

    #[test]
    fn json_parses_and_agrees() {
        let core = Counters::default();
        core.misses_total.add(4);
        core.first_byte.observe(100);
        let json: serde_json::Value = serde_json::from_str(&to_json(&[&core, &core])).unwrap();
        assert_eq!(json["misses_total"], 8);
        assert_eq!(json["first_byte"]["count"], 2);
        assert_eq!(json["first_byte"]["buckets"][0]["count"], 2);
    }

    #[test]
    fn seconds_are_plain_decimals() {
        for (us, text) in
            [(0, "0"), (100, "0.0001"), (1_000_000, "1"), (2_500_000, "2.5"), (10_000_000, "10")]
        {
            assert_eq!(seconds(us), text);
        }
    }
}
