//! The health of one device, shared by its writer and all its readers.
//!
//! Owns the state ok -> readonly -> out and the runs of errors that move it. Must stay true: the state gets
//! worse by itself and better only by [`Health::rejoin`], which an operator asks for; a device that is out
//! answers no lookups, so a dying disk costs misses and not seconds.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What a device still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceState {
    /// Reads and writes.
    Ok,
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

#[derive(Debug)]
pub(crate) struct Health {
    state: AtomicU8,
    write_errors_in_a_row: AtomicU32,
    flush_errors_in_a_row: AtomicU32,
    read_errors_in_a_row: AtomicU32,
    write_errors_max: u32,
    read_errors_max: u32,
    pub(crate) write_errors: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) bad_extents: AtomicU64,
}

impl Health {
    pub(crate) fn new(write_errors_max: u32, read_errors_max: u32) -> Self {
        Self {
            state: AtomicU8::new(DeviceState::Ok as u8),
            write_errors_in_a_row: AtomicU32::new(0),
            flush_errors_in_a_row: AtomicU32::new(0),
            read_errors_in_a_row: AtomicU32::new(0),
            write_errors_max,
            read_errors_max,
            write_errors: AtomicU64::new(0),
            read_errors: AtomicU64::new(0),
            bad_extents: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> DeviceState {
        match self.state.load(Ordering::Relaxed) {
            0 => DeviceState::Ok,
            1 => DeviceState::ReadOnly,
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
        if self.read_errors_in_a_row.load(Ordering::Relaxed) != 0 {
            self.read_errors_in_a_row.store(0, Ordering::Relaxed);
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
