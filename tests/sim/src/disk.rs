//! The disk of `tidegate_faults` under the ring's simulated files: with delays, and stalls now and then.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;
use tidegate_faults::{EIO, Faults, Random};
use tidegate_ring::sim;

/// A disk that outlives the processes that use it.
pub struct SharedDisk {
    disk: RefCell<tidegate_faults::Disk>,
    random: RefCell<Random>,
    /// One of a thousand operations takes so long.
    stalls: RefCell<u32>,
    trouble: Cell<Option<Trouble>>,
}

/// What is wrong with a whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing takes less than some seconds.
    Slow,
    /// Whatever it is asked, it fails.
    Dead,
    /// It was taken out.
    Absent,
}

/// How long a slow disk takes.
const SLOW_MS: (u64, u64) = (1_200, 3_000);

/// The longest stall: a drive that retries for a minute.
const STALL_MS_MAX: u64 = 60_000;

impl SharedDisk {
    pub fn new(size: u64, seed: u64, faults: Faults) -> SharedDisk {
        let mut disk = tidegate_faults::Disk::new(size, seed);
        disk.faults = faults;
        SharedDisk {
            disk: RefCell::new(disk),
            random: RefCell::new(Random(seed.rotate_left(32))),
            stalls: RefCell::new(0),
            trouble: Cell::new(None),
        }
    }

    /// From now on it has these faults, and stalls so often.
    pub fn set_faults(&self, faults: Faults, stalls: u32) {
        self.disk.borrow_mut().faults = faults;
        *self.stalls.borrow_mut() = stalls;
    }

    /// From now on this is wrong with it, or nothing.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.trouble.set(trouble);
    }

    pub fn is_absent(&self) -> bool {
        self.trouble.get() == Some(Trouble::Absent)
    }

    fn check(&self) -> io::Result<()> {
        match self.trouble.get() {
            Some(Trouble::Dead | Trouble::Absent) => Err(io::Error::from_raw_os_error(EIO)),
            Some(Trouble::Slow) | None => Ok(()),
        }
    }

    /// The power goes.
    pub fn crash(&self) {
        self.disk.borrow_mut().crash();
    }

    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        self.disk.borrow().peek(offset, len)
    }
}

impl sim::Disk for SharedDisk {
    fn size(&self) -> u64 {
        self.disk.borrow().size
    }

    fn delay(&self) -> Duration {
        let mut random = self.random.borrow_mut();
        if self.trouble.get() == Some(Trouble::Slow) {
            return Duration::from_millis(random.between(SLOW_MS.0, SLOW_MS.1));
        }
        if random.chance(*self.stalls.borrow()) {
            return Duration::from_millis(random.between(1_000, STALL_MS_MAX));
        }
        Duration::from_micros(random.between(20, 2_000))
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.check()?;
        let read = self.disk.borrow_mut().read(offset, into.len());
        let bytes = read.map_err(io::Error::from_raw_os_error)?;
        into.copy_from_slice(&bytes);
        Ok(())
    }

    fn begin_write(&self, offset: u64, data: &[u8]) -> u64 {
        self.disk.borrow_mut().begin_write(offset, data)
    }

    fn end_write(&self, number: u64) -> io::Result<()> {
        self.check()?;
        self.disk.borrow_mut().end_write(number).map_err(io::Error::from_raw_os_error)
    }

    fn flush(&self) -> io::Result<()> {
        self.check()?;
        self.disk.borrow_mut().flush().map_err(io::Error::from_raw_os_error)
    }
}
