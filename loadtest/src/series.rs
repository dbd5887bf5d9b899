//! What happened when: the run in intervals of a second.
//!
//! Must stay true: memory has a limit however long the run is: when there are [`INTERVALS_MAX`] intervals, each two
//! of them become one. A request lies in the interval in which it was over.

use crate::tally::{Ending, Record};
use crate::units::SECOND_NS;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Intervals of one run: more than a plot has pixels.
pub const INTERVALS_MAX: usize = 1200;

/// Two digits are finer than a line of a plot, and a histogram of them small.
const DIGITS: u8 = 2;

/// Times of one interval.
#[derive(Debug, Clone)]
struct Spread(Histogram<u32>);

impl Default for Spread {
    fn default() -> Spread {
        let mut histogram = Histogram::new(DIGITS).expect("two digits are within the limits");
        histogram.auto(true);
        Spread(histogram)
    }
}

impl Spread {
    fn record(&mut self, ns: u64) {
        // It grows with the values; one that it cannot grow to is held at its end.
        if self.0.record(ns.max(1)).is_err() {
            self.0.saturating_record(ns);
        }
    }

    fn percentile_us(&self, percent: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(percent / 100.0) as f64 / 1e3)
    }

    fn add(&mut self, other: &Spread) {
        self.0.add(&other.0).expect("it grows with what is added");
    }
}

#[derive(Debug, Clone, Default)]
struct Interval {
    first_byte: Spread,
    response_time: Spread,
    answers: u64,
    errors: u64,
    not_sent: u64,
    received_bytes: u64,
}

impl Interval {
    fn add(&mut self, other: &Interval) {
        self.first_byte.add(&other.first_byte);
        self.response_time.add(&other.response_time);
        self.answers += other.answers;
        self.errors += other.errors;
        self.not_sent += other.not_sent;
        self.received_bytes += other.received_bytes;
    }
}

/// The intervals of a run, or of one thread of it, from its start, warm-up included.
#[derive(Debug, Clone)]
pub struct Series {
    interval_ns: u64,
    intervals: Vec<Interval>,
}

impl Default for Series {
    fn default() -> Series {
        Series { interval_ns: SECOND_NS, intervals: Vec::new() }
    }
}

impl Series {
    /// Takes one request that is over.
    pub fn record(&mut self, record: &Record<'_>) {
        let interval = self.at(record.end_ns);
        if let (Some(sent), Some(first)) = (record.sent_ns, record.first_byte_ns) {
            interval.first_byte.record(first.saturating_sub(sent));
        }
        if record.waited_to_the_end() {
            interval.response_time.record(record.end_ns.saturating_sub(record.due_ns));
        }
        interval.received_bytes += record.received_bytes;
        match record.ending {
            Ending::Answered => interval.answers += 1,
            Ending::NotSent => interval.not_sent += 1,
            _ => {}
        }
        let bad_status = record.ending == Ending::Answered && record.status >= 400;
        if bad_status || !matches!(record.ending, Ending::Answered | Ending::NotSent) {
            interval.errors += 1;
        }
    }

    /// Takes over another thread's intervals.
    pub fn add(&mut self, other: &Series) {
        let mut other = other.clone();
        while self.interval_ns < other.interval_ns {
            self.halve();
        }
        while other.interval_ns < self.interval_ns {
            other.halve();
        }
        if self.intervals.len() < other.intervals.len() {
            self.intervals.resize_with(other.intervals.len(), Interval::default);
        }
        for (mine, theirs) in self.intervals.iter_mut().zip(&other.intervals) {
            mine.add(theirs);
        }
    }

    fn at(&mut self, ns: u64) -> &mut Interval {
        while ns / self.interval_ns >= INTERVALS_MAX as u64 {
            self.halve();
        }
        let index = (ns / self.interval_ns) as usize;
        if index >= self.intervals.len() {
            self.intervals.resize_with(index + 1, Interval::default);
        }
        &mut self.intervals[index]
    }

    /// Two intervals become one.
    fn halve(&mut self) {
        let merged = self.intervals.chunks(2).map(|two| {
            let mut sum = two[0].clone();
            two[1..].iter().for_each(|next| sum.add(next));
            sum
        });
        self.intervals = merged.collect();
        self.interval_ns *= 2;
    }

    /// The intervals with what was sampled beside them.
    pub fn report(&self, samples: &[Sample]) -> SeriesReport {
        let seconds = self.interval_ns as f64 / SECOND_NS as f64;
        let mut rows: Vec<Row> = self
            .intervals
            .iter()
            .enumerate()
            .map(|(index, interval)| Row {
                at_s: index as f64 * seconds,
                answers_per_second: interval.answers as f64 / seconds,
                errors_per_second: interval.errors as f64 / seconds,
                not_sent_per_second: interval.not_sent as f64 / seconds,
                received_bytes_per_second: interval.received_bytes as f64 / seconds,
                first_byte_p50_us: interval.first_byte.percentile_us(50.0),
                first_byte_p99_us: interval.first_byte.percentile_us(99.0),
                first_byte_p99_9_us: interval.first_byte.percentile_us(99.9),
                response_time_p50_us: interval.response_time.percentile_us(50.0),
                response_time_p99_us: interval.response_time.percentile_us(99.0),
                response_time_p99_9_us: interval.response_time.percentile_us(99.9),
                connections: None,
                server_cpus: None,
                client_cpus: None,
            })
            .collect();
        for two in samples.windows(2) {
            let (from, to) = (&two[0], &two[1]);
            // Samples are taken a little after the end of each interval: the time between two decides.
            let index = (from.at_ns.midpoint(to.at_ns) / self.interval_ns) as usize;
            let Some(row) = rows.get_mut(index) else { continue };
            let elapsed_ns = to.at_ns.saturating_sub(from.at_ns) as f64;
            let cpus = |from: u64, to: u64| {
                (elapsed_ns > 0.0).then(|| to.saturating_sub(from) as f64 / elapsed_ns)
            };
            row.connections = Some(to.connections);
            row.client_cpus = cpus(from.client_cpu_ns, to.client_cpu_ns);
            if let (Some(from), Some(to)) = (from.server_cpu_ns, to.server_cpu_ns) {
                row.server_cpus = cpus(from, to);
            }
        }
        SeriesReport { interval_s: seconds, rows }
    }
}

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    pub at_ns: u64,
    pub connections: u64,
    /// CPU time so far.
    pub client_cpu_ns: u64,
    pub server_cpu_ns: Option<u64>,
}

/// The run as lines of a plot.
#[derive(Debug, Clone, Serialize)]
pub struct SeriesReport {
    pub interval_s: f64,
    pub rows: Vec<Row>,
}

/// One interval.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its beginning, from the start of the run.
    pub at_s: f64,
    pub answers_per_second: f64,
    pub errors_per_second: f64,
    pub not_sent_per_second: f64,
    pub received_bytes_per_second: f64,
    pub first_byte_p50_us: Option<f64>,
    pub first_byte_p99_us: Option<f64>,
    pub first_byte_p99_9_us: Option<f64>,
    pub response_time_p50_us: Option<f64>,
    pub response_time_p99_us: Option<f64>,
    pub response_time_p99_9_us: Option<f64>,
    /// Open at its end.
    pub connections: Option<u64>,
    /// CPUs that the server kept busy.
    pub server_cpus: Option<f64>,
    /// CPUs that this program kept busy.
    pub client_cpus: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(end_ns: u64, took_ns: u64, status: u16) -> Record<'static> {
        Record {
            ending: Ending::Answered,
            sent_ns: Some(end_ns - took_ns),
            first_byte_ns: Some(end_ns - took_ns / 2),
            status,
            received_bytes: 10,
            ..Record::not_sent(true, end_ns - took_ns, end_ns)
        }
    }

    #[test]
    fn requests_lie_in_the_second_in_which_they_ended() {
        let (mut series, mut other) = (Series::default(), Series::default());
        series.record(&answered(SECOND_NS / 2, 1_000_000, 200));
        series.record(&answered(2 * SECOND_NS, 4_000_000, 503));
        other.record(&answered(SECOND_NS / 2, 1_000_000, 200));
        other.record(&Record::not_sent(true, 0, SECOND_NS));
        series.add(&other);
        let sample = |at, cpu| Sample {
            at_ns: at * SECOND_NS,
            connections: at,
            client_cpu_ns: cpu,
            server_cpu_ns: Some(2 * cpu),
        };
        let report = series.report(&[sample(0, 0), sample(1, SECOND_NS / 2), sample(3, SECOND_NS)]);
        assert_eq!((report.interval_s, report.rows.len()), (1.0, 3));
        let [a, b, c] = [0, 1, 2].map(|index| &report.rows[index]);
        assert_eq!((a.answers_per_second, a.errors_per_second), (2.0, 0.0));
        assert_eq!((b.answers_per_second, b.not_sent_per_second), (0.0, 1.0));
        assert_eq!((c.answers_per_second, c.errors_per_second), (1.0, 1.0));
        assert_eq!((a.received_bytes_per_second, b.first_byte_p50_us), (20.0, None));
        assert!((a.first_byte_p50_us.unwrap() - 500.0).abs() < 10.0);
        assert!((c.response_time_p99_us.unwrap() - 4000.0).abs() < 50.0);
        assert!(b.response_time_p50_us.unwrap() > 990_000.0, "waited and was not sent");
        assert_eq!((a.connections, a.client_cpus, a.server_cpus), (Some(1), Some(0.5), Some(1.0)));
        assert_eq!((b.connections, c.connections, c.client_cpus), (None, Some(3), Some(0.25)));
    }

    #[test]
    fn long_runs_have_longer_intervals() {
        let mut series = Series::default();
        for second in 0..5000 {
            series.record(&answered(second * SECOND_NS + 2_000_000, 1_000_000, 200));
        }
        let mut short = Series::default();
        short.record(&answered(2_000_000, 1_000_000, 200));
        short.add(&series);
        let report = short.report(&[]);
        assert_eq!((report.interval_s, report.rows.len()), (8.0, 625));
        assert_eq!(report.rows[3].answers_per_second, 1.0);
        let sum: f64 = report.rows.iter().map(|row| row.answers_per_second * 8.0).sum();
        assert_eq!(sum, 5001.0);
    }
}
