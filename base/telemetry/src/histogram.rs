//! A latency histogram with fixed buckets.
//!
//! Must stay true: the buckets are the same in every process, so that sums over cores, servers and time mean
//! something; counting is one addition per bucket, sum and count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds (inclusive) of the buckets in microseconds; one more bucket holds the rest. From a RAM hit on
/// the loopback to a next hop that hardly answers.
pub const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Counts of durations by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// The numbers of one or more histograms at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistogramTotals {
    /// Not cumulative; the last one is what was above all bounds.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, microseconds: u64) {
        let index = BUCKETS_US.partition_point(|bound| *bound < microseconds);
        self.buckets[index].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(microseconds, Relaxed);
    }

    pub(crate) fn add_to(&self, totals: &mut HistogramTotals) {
        for (total, bucket) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total = total.wrapping_add(bucket.load(Relaxed));
        }
        totals.sum_us = totals.sum_us.wrapping_add(self.sum_us.load(Relaxed));
    }
}

impl HistogramTotals {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.wrapping_add(*bucket))
    }

    /// Upper bound of the bucket that holds the `quantile` (0 to 1), in microseconds; `None` when empty or
    /// when it lies above all bounds.
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets.iter().zip(BUCKETS_US).find_map(|(bucket, bound)| {
            seen += bucket;
            (seen >= rank).then_some(bound)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX >> 20] {
            histogram.observe(us);
        }
        let mut totals = HistogramTotals::default();
        histogram.add_to(&mut totals);
        assert_eq!(
            (totals.buckets[0], totals.buckets[1], totals.buckets[15], totals.buckets[16]),
            (2, 1, 1, 2)
        );
        assert_eq!(totals.count(), 6);
        assert_eq!((totals.quantile_us(0.5), totals.quantile_us(1.0)), (Some(250), None));
        assert_eq!(HistogramTotals::default().quantile_us(0.5), None);
    }
}
