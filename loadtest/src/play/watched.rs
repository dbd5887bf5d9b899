//! What viewers had: startup, stalls, bit rate.
//!
//! Must stay true: a viewer who never saw a picture is counted as such, with no startup time.

use crate::tally::Times;
use crate::units::{SECOND_NS, show_ns};
use serde::Serialize;
use std::fmt;

/// What one viewer had, or many had together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watched {
    /// From opening the URL to the first picture.
    pub startup_ns: Option<u64>,
    pub played_ns: u64,
    pub stalls: u64,
    pub stalled_ns: u64,
    pub switches_up: u64,
    pub switches_down: u64,
    /// Media segments that were jumped over.
    pub skipped: u64,
    /// Players that gave up.
    pub failed: u64,
    /// Of all that was loaded.
    pub loaded_s: f64,
    pub loaded_bytes: u64,
    /// Nominal bits: bit rate of the rendition times seconds.
    nominal_bits: f64,
}

impl Watched {
    pub(crate) fn loaded(&mut self, seconds: f64, bandwidth: u64, bytes: u64) {
        self.loaded_s += seconds;
        self.loaded_bytes += bytes;
        self.nominal_bits += bandwidth as f64 * seconds;
    }

    pub(crate) fn switched(&mut self, up: bool) {
        if up {
            self.switches_up += 1;
        } else {
            self.switches_down += 1;
        }
    }
}

/// All viewers of a run.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    pub players: u64,
    /// Who saw a picture.
    pub started: u64,
    /// Who saw at least one stall.
    pub stalled_players: u64,
    pub startup: Times,
    pub sum: Watched,
    /// What they saw second by second.
    pub seconds: Vec<Seconds>,
}

/// How many saw what at the end of a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Seconds {
    pub starting: u64,
    pub playing: u64,
    pub stalled: u64,
}

impl Audience {
    /// Takes one viewer who is gone.
    pub fn count(&mut self, one: &Watched) {
        self.players += 1;
        self.started += u64::from(one.startup_ns.is_some());
        self.stalled_players += u64::from(one.stalls > 0);
        if let Some(ns) = one.startup_ns {
            self.startup.record(ns);
        }
        self.add_sum(one);
    }

    /// Takes over the viewers of another thread.
    pub fn add(&mut self, other: &Audience) {
        self.players += other.players;
        self.started += other.started;
        self.stalled_players += other.stalled_players;
        self.startup.add(&other.startup);
        self.add_sum(&other.sum);
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize(other.seconds.len(), Seconds::default());
        }
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            mine.starting += theirs.starting;
            mine.playing += theirs.playing;
            mine.stalled += theirs.stalled;
        }
    }

    fn add_sum(&mut self, one: &Watched) {
        let sum = &mut self.sum;
        sum.played_ns += one.played_ns;
        sum.stalls += one.stalls;
        sum.stalled_ns += one.stalled_ns;
        sum.switches_up += one.switches_up;
        sum.switches_down += one.switches_down;
        sum.skipped += one.skipped;
        sum.failed += one.failed;
        sum.loaded_s += one.loaded_s;
        sum.loaded_bytes += one.loaded_bytes;
        sum.nominal_bits += one.nominal_bits;
    }

    /// Share of the time after the start in which viewers waited.
    pub fn stall_ratio(&self) -> Option<f64> {
        let all = self.sum.played_ns + self.sum.stalled_ns;
        (all > 0).then(|| self.sum.stalled_ns as f64 / all as f64)
    }

    /// Bits per second, by the bit rates of the renditions; by bytes when there is only one without a bit rate.
    pub fn mean_bitrate(&self) -> Option<f64> {
        let bits = match self.sum.nominal_bits {
            0.0 => self.sum.loaded_bytes as f64 * 8.0,
            bits => bits,
        };
        (self.sum.loaded_s > 0.0).then(|| bits / self.sum.loaded_s)
    }

    pub fn report(&self) -> PlayersReport {
        let seconds = |ns: u64| ns as f64 / SECOND_NS as f64;
        PlayersReport {
            players: self.players,
            started: self.started,
            failed: self.sum.failed,
            with_stalls: self.stalled_players,
            stalls: self.sum.stalls,
            played_s: seconds(self.sum.played_ns),
            stalled_s: seconds(self.sum.stalled_ns),
            stall_ratio: self.stall_ratio(),
            mean_bitrate_bps: self.mean_bitrate(),
            switches_up: self.sum.switches_up,
            switches_down: self.sum.switches_down,
            segments_skipped: self.sum.skipped,
            startup: crate::report::TimesReport::new(&self.startup),
            seconds: self.seconds.clone(),
        }
    }
}

/// The viewers on paper.
#[derive(Debug, Clone, Serialize)]
pub struct PlayersReport {
    pub players: u64,
    pub started: u64,
    /// Who gave up: no playlist, or none that can be played.
    pub failed: u64,
    pub with_stalls: u64,
    pub stalls: u64,
    pub played_s: f64,
    pub stalled_s: f64,
    pub stall_ratio: Option<f64>,
    pub mean_bitrate_bps: Option<f64>,
    pub switches_up: u64,
    pub switches_down: u64,
    pub segments_skipped: u64,
    /// From opening the URL to the first picture.
    pub startup: crate::report::TimesReport,
    pub seconds: Vec<Seconds>,
}

/// The lines for people.
impl fmt::Display for PlayersReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| show_ns(us * 1e3));
        let percent = |ratio: Option<f64>| ratio.map_or(0.0, |ratio| ratio * 100.0);
        let Self { players, started, failed, stalls, with_stalls, .. } = self;
        writeln!(f, "\nplayers     {players}, {started} started, {failed} gave up")?;
        let (p50, p95) = (shown(self.startup.p50_us), shown(self.startup.p95_us));
        writeln!(f, "startup     p50 {p50}, p95 {p95}, max {}", shown(self.startup.max_us))?;
        writeln!(
            f,
            "stalls      {stalls} of {with_stalls} players, {:.1}s, {:.3}% of {:.1}s played",
            self.stalled_s,
            percent(self.stall_ratio),
            self.played_s
        )?;
        writeln!(
            f,
            "bit rate    {:.2} Mb/s, {} switches up, {} down, {} media segments skipped",
            self.mean_bitrate_bps.unwrap_or(0.0) / 1e6,
            self.switches_up,
            self.switches_down,
            self.segments_skipped
        )
    }
}
