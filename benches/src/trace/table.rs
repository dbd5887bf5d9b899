//! The table of a trace run. Must stay true: a figure that was not measured is a dash, never a zero.

use super::contestants::Running;
use super::{Measured, Who};
use serde_json::{Value, json};
use tidegate_load::trace::model::Outcome;

/// One line of the table.
#[derive(Debug, Default)]
pub struct Row {
    pub name: String,
    version: Option<String>,
    settings: Option<String>,
    /// Why it could not be measured.
    absent: Option<String>,
    errors: u64,
    first_failure: Option<String>,
    figures: Vec<(&'static Column, f64)>,
    /// Everything else, for the report.
    more: Value,
}

/// A figure: its key in the report, its heading, its unit's shape.
#[derive(Debug)]
struct Column {
    key: &'static str,
    heading: &'static str,
    decimals: usize,
}

const fn column(key: &'static str, heading: &'static str, decimals: usize) -> Column {
    Column { key, heading, decimals }
}

const OBJECT_HITS: &Column = &column("object_hit_percent", "object hit %", 2);
const SEGMENT_HITS: &Column = &column("segment_hit_percent", "segment hit %", 2);
const BYTE_HITS: &Column = &column("byte_hit_percent", "byte hit %", 2);
const PER_OBJECT: &Column = &column("origin_requests_per_object", "origin req/object", 3);
const OVERLAPPING: &Column = &column("origin_requests_overlapping", "overlapping", 0);
const ORIGIN_BYTES: &Column = &column("origin_bytes_per_byte", "origin B/B", 4);
const DISK_BYTES: &Column = &column("disk_bytes_written_per_byte", "disk B/B", 4);
const CPU: &Column = &column("cpu_s_per_gb", "CPU-s/GB", 3);
const P50: &Column = &column("first_byte_p50_ms", "P50 ms", 2);
const P99: &Column = &column("first_byte_p99_ms", "P99 ms", 2);
const P99_9: &Column = &column("first_byte_p99_9_ms", "P99.9 ms", 1);
const MEMORY: &Column = &column("memory_peak_mib", "RSS MiB", 0);
const SECONDS: &Column = &column("elapsed_s", "seconds", 1);

const COLUMNS: [&Column; 13] = [
    OBJECT_HITS,
    SEGMENT_HITS,
    BYTE_HITS,
    PER_OBJECT,
    OVERLAPPING,
    ORIGIN_BYTES,
    DISK_BYTES,
    CPU,
    P50,
    P99,
    P99_9,
    MEMORY,
    SECONDS,
];

impl Row {
    /// What a reference cache did.
    pub fn model(name: &str, outcome: &Outcome) -> Row {
        Row {
            name: name.to_owned(),
            figures: vec![
                (OBJECT_HITS, outcome.object_hit_ratio() * 100.0),
                (SEGMENT_HITS, outcome.segment_hit_ratio() * 100.0),
                (BYTE_HITS, outcome.byte_hit_ratio() * 100.0),
                (PER_OBJECT, outcome.origin_requests as f64 / outcome.objects.max(1) as f64),
                (ORIGIN_BYTES, outcome.origin_bytes as f64 / outcome.bytes.max(1) as f64),
            ],
            more: json!(outcome),
            ..Row::default()
        }
    }

    /// What a server did.
    pub fn measured(who: Who, running: &Running, measured: &Measured) -> Row {
        let Measured { replayed, counts, usage } = measured;
        let served = replayed.bytes.max(1) as f64;
        let ms = |percent| replayed.first_byte.percentile_ns(percent).map(|ns| ns / 1e6);
        let segment_hits =
            1.0 - counts.segment_requests as f64 / replayed.segment_requests.max(1) as f64;
        let mut figures = vec![
            (OBJECT_HITS, replayed.object_hit_ratio(counts.requests) * 100.0),
            (SEGMENT_HITS, segment_hits * 100.0),
            (BYTE_HITS, replayed.byte_hit_ratio(counts.bytes) * 100.0),
            // Playlists expire while the trace runs: only media segments can be asked for once.
            (PER_OBJECT, counts.segment_requests as f64 / counts.segments.max(1) as f64),
            (OVERLAPPING, counts.overlapping as f64),
            (ORIGIN_BYTES, counts.bytes as f64 / served),
            (DISK_BYTES, usage.written_bytes as f64 / served),
            (CPU, usage.cpu_s * 1e9 / served),
            (MEMORY, usage.memory_peak_bytes as f64 / (1 << 20) as f64),
            (SECONDS, replayed.elapsed.as_secs_f64()),
        ];
        for (column, percent) in [(P50, 50.0), (P99, 99.0), (P99_9, 99.9)] {
            figures.extend(ms(percent).map(|ms| (column, ms)));
        }
        Row {
            name: who.name().to_owned(),
            version: Some(running.version.clone()),
            settings: Some(running.settings.clone()),
            errors: replayed.errors.total(),
            first_failure: replayed.first_failure.clone(),
            figures,
            more: json!({
                "requests": replayed.requests, "body_bytes": replayed.bytes, "errors": replayed.errors,
                "ranges_ignored": replayed.ranges_ignored, "origin": counts,
                "cpu_s": usage.cpu_s, "disk_written_bytes": usage.written_bytes,
                "mapped_peak_mib": usage.mapped_peak_bytes / (1 << 20), "own_counters": running.counters,
            }),
            ..Row::default()
        }
    }

    /// A server that could not be measured.
    pub fn absent(who: Who, why: &str) -> Row {
        Row { name: who.name().to_owned(), absent: Some(why.to_owned()), ..Row::default() }
    }

    /// Not measured, or not all answers were good.
    pub fn failed(&self) -> bool {
        self.absent.is_some() || self.errors > 0
    }

    fn figure(&self, column: &Column) -> Option<f64> {
        self.figures.iter().find(|(of, _)| of.key == column.key).map(|(_, value)| *value)
    }

    fn shown(&self, column: &Column) -> String {
        self.figure(column).map_or("-".to_owned(), |value| format!("{value:.*}", column.decimals))
    }

    /// In short.
    pub fn line(&self) -> String {
        if let Some(why) = &self.absent {
            return format!("not measured: {why}");
        }
        let mut text: Vec<String> = (COLUMNS.iter())
            .map(|column| format!("{} {}", column.heading, self.shown(column)))
            .collect();
        if self.errors > 0 {
            let what = self.first_failure.as_deref().unwrap_or_default();
            text.push(format!("{} ERRORS, first: {what}", self.errors));
        }
        text.join(", ")
    }

    pub fn json(&self) -> Value {
        let figures: serde_json::Map<String, Value> = self
            .figures
            .iter()
            .map(|(column, value)| (column.key.to_owned(), json!(value)))
            .collect();
        json!({
            "name": self.name, "version": self.version, "settings": self.settings, "not_measured": self.absent,
            "errors": self.errors, "first_failure": self.first_failure, "figures": figures, "more": self.more,
        })
    }
}

/// The table, figures down and contestants across the page: more figures than fit a line.
pub fn print(rows: &[Row]) {
    let mut head = format!("\n{:<20}", "");
    for row in rows {
        head += &format!("{:>17}", row.name);
    }
    println!("{head}");
    for column in COLUMNS {
        let cells: String = rows.iter().map(|row| format!("{:>17}", row.shown(column))).collect();
        println!("{:<20}{cells}", column.heading);
    }
    let cells: String = rows
        .iter()
        .map(|row| {
            let errors =
                if row.version.is_some() { row.errors.to_string() } else { "-".to_owned() };
            format!("{errors:>17}")
        })
        .collect();
    println!("{:<20}{cells}", "errors");
    for row in rows {
        if let Some(why) = &row.absent {
            println!("{} was not measured: {why}", row.name);
        }
        if let Some(settings) = &row.settings {
            println!("{}: {}; {settings}", row.name, row.version.as_deref().unwrap_or_default());
        }
    }
    println!(
        "\nHits and requests per object by the origin's count; \"origin req/object\" counts media segments, which do \
         not expire during a run;\n\"overlapping\": the origin was asked for what it was sending already; RSS \
         without pages of mapped files.\nThe page cache is in nobody's budget: who reads or maps \
         files has more RAM than the budget says."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let outcome = Outcome {
            requests: 10,
            bytes: 100,
            origin_requests: 2,
            origin_bytes: 50,
            objects: 2,
            object_bytes: 50,
            ..Outcome::default()
        };
        let row = Row::model("model", &outcome);
        assert_eq!(row.shown(OBJECT_HITS), "80.00");
        assert_eq!(row.shown(PER_OBJECT), "1.000");
        assert_eq!(row.shown(CPU), "-");
        assert!(!row.failed());
        let absent = Row::absent(Who::Ats, "it is not installed");
        assert!(absent.failed() && absent.line().contains("it is not installed"));
    }
}
