//! The health of one device, shared by its writer and all its readers.
//!
//! Owns the state and the runs of errors and of slow reads that move it:
//! ```text
//! ok <-> slow       reads time out, or probes are slow; probes are fast again
//! ok -> readonly    writes fail
//! any -> out        reads fail
//! ```
//! Must stay true: but for slow, the state gets better only by [`Health::rejoin`], which an operator asks for; a device
//! that is out answers no lookups, and nobody asks one that is slow, so a dying disk costs misses and not seconds. A
//! read that times out is no failed read: a drive that stalls is not broken yet.
//!
//! There is no clock here: who probes the device says how long that took.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What a device still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceState {
    /// Reads and writes.
    Ok,
    /// Reads and writes, but so slowly that the next hop is faster.
    Slow,
    /// Reads only: too many writes failed in a row.
    ReadOnly,
    /// Neither: too many reads failed in a row.
    Out,
}

impl DeviceState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            DeviceState::Ok => "ok",
            DeviceState::Slow => "slow",
            DeviceState::ReadOnly => "readonly",
            DeviceState::Out => "out",
        }
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A probe that takes longer is slow: the next hop answers in less.
const SLOW_SPAN: Duration = Duration::from_millis(250);
/// Late reads and slow probes in a row until a device is slow.
const SLOW_READS_MAX: u32 = 4;
/// Fast probes in a row until it is not any more.
const FAST_PROBES: u32 = 5;

#[derive(Debug)]
pub(crate) struct Health {
    state: AtomicU8,
    write_errors_in_a_row: AtomicU32,
    flush_errors_in_a_row: AtomicU32,
    read_errors_in_a_row: AtomicU32,
    pub(crate) slow_in_a_row: AtomicU32,
    fast_in_a_row: AtomicU32,
    write_errors_max: u32,
    read_errors_max: u32,
    pub(crate) write_errors: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) slow_reads: AtomicU64,
    /// Of the last probe.
    pub(crate) probe_us: AtomicU64,
    pub(crate) bad_extents: AtomicU64,
}

impl Health {
    pub(crate) fn new(write_errors_max: u32, read_errors_max: u32) -> Self {
        Self {
            state: AtomicU8::new(DeviceState::Ok as u8),
            write_errors_in_a_row: AtomicU32::new(0),
            flush_errors_in_a_row: AtomicU32::new(0),
            read_errors_in_a_row: AtomicU32::new(0),
            slow_in_a_row: AtomicU32::new(0),
            fast_in_a_row: AtomicU32::new(0),
            write_errors_max,
            read_errors_max,
            write_errors: AtomicU64::new(0),
            read_errors: AtomicU64::new(0),
            slow_reads: AtomicU64::new(0),
            probe_us: AtomicU64::new(0),
            bad_extents: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> DeviceState {
        match self.state.load(Ordering::Relaxed) {
            0 => DeviceState::Ok,
            1 => DeviceState::Slow,
            2 => DeviceState::ReadOnly,
            _ => DeviceState::Out,
        }
    }

    pub(crate) fn worsen(&self, state: DeviceState) {
        self.state.fetch_max(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn rejoin(&self) {
        self.write_errors_in_a_row.store(0, Ordering::Relaxed);
        self.flush_errors_in_a_row.store(0, Ordering::Relaxed);
        self.read_errors_in_a_row.store(0, Ordering::Relaxed);
        self.slow_in_a_row.store(0, Ordering::Relaxed);
        self.state.store(DeviceState::Ok as u8, Ordering::Relaxed);
    }

    pub(crate) fn note_write(&self, ok: bool) {
        self.note_change(&self.write_errors_in_a_row, ok);
    }

    /// Counted apart from writes: a flush of nothing succeeds on a device that fails every write, and writes
    /// into a device's cache succeed where no flush does.
    pub(crate) fn note_flush(&self, ok: bool) {
        self.note_change(&self.flush_errors_in_a_row, ok);
    }

    fn note_change(&self, errors_in_a_row: &AtomicU32, ok: bool) {
        if ok {
            errors_in_a_row.store(0, Ordering::Relaxed);
            return;
        }
        self.write_errors.fetch_add(1, Ordering::Relaxed);
        let run = errors_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if run >= self.write_errors_max {
            self.worsen(DeviceState::ReadOnly);
        }
    }

    pub(crate) fn read_ok(&self) {
        // Loaded first, so that the many good reads of all cores share the cache line without writing to it.
        for run in [&self.read_errors_in_a_row, &self.slow_in_a_row] {
            if run.load(Ordering::Relaxed) != 0 {
                run.store(0, Ordering::Relaxed);
            }
        }
    }

    /// A read took longer than anybody waits.
    pub(crate) fn read_late(&self) {
        self.slow_reads.fetch_add(1, Ordering::Relaxed);
        let run = self.slow_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if run >= SLOW_READS_MAX {
            self.worsen(DeviceState::Slow);
        }
    }

    /// A read that nobody waits for took so long.
    pub(crate) fn probed(&self, span: Duration) {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.probe_us.store(us, Ordering::Relaxed);
        if span >= SLOW_SPAN {
            self.fast_in_a_row.store(0, Ordering::Relaxed);
            return self.read_late();
        }
        // Failed reads are no better for it: a drive may have lost a part of what it holds.
        self.slow_in_a_row.store(0, Ordering::Relaxed);
        let run = self.fast_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if run >= FAST_PROBES {
            // Only from slow: what is worse stays.
            let (slow, ok) = (DeviceState::Slow as u8, DeviceState::Ok as u8);
            let _was_not =
                self.state.compare_exchange(slow, ok, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn read_failed(&self) {
        self.read_errors.fetch_add(1, Ordering::Relaxed);
        let run = self.read_errors_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if run >= self.read_errors_max {
            self.worsen(DeviceState::Out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_secs(1);

    #[test]
    fn slow_comes_and_goes_by_runs() {
        let health = Health::new(3, 16);
        for _ in 0..100 {
            for _ in 1..SLOW_READS_MAX {
                health.read_late();
            }
            health.read_ok(); // it is busy, not slow
        }
        assert_eq!(health.state(), DeviceState::Ok);
        health.read_late();
        for _ in 1..SLOW_READS_MAX {
            assert_eq!(health.state(), DeviceState::Ok);
            health.probed(LATE);
        }
        assert_eq!(health.state(), DeviceState::Slow);
        for _ in 0..10 {
            (1..FAST_PROBES).for_each(|_| health.probed(FAST));
            health.probed(SLOW_SPAN);
        }
        assert_eq!(health.state(), DeviceState::Slow);
        (0..FAST_PROBES).for_each(|_| health.probed(FAST));
        assert_eq!(health.state(), DeviceState::Ok);
    }

    #[test]
    fn what_failed_is_not_mended_by_being_fast() {
        let health = Health::new(3, 4);
        (0..3).for_each(|_| health.note_write(false));
        (0..20).for_each(|_| health.probed(LATE));
        assert_eq!(health.state(), DeviceState::ReadOnly);
        (0..20).for_each(|_| health.probed(FAST));
        assert_eq!(health.state(), DeviceState::ReadOnly);
        for _ in 0..4 {
            health.read_failed();
            health.probed(FAST);
        }
        (0..20).for_each(|_| health.probed(FAST));
        assert_eq!(health.state(), DeviceState::Out);
        health.rejoin();
        assert_eq!(health.state(), DeviceState::Ok);
    }
}
