//! The disk of `tidegate_faults` under the ring's simulated files: with delays, and stalls now and then.

use std::cell::RefCell;
use std::io;
use std::time::Duration;
use tidegate_faults::{Faults, Random};
use tidegate_ring::sim;

/// A disk that outlives the processes that use it.
pub struct SharedDisk {
    disk: RefCell<tidegate_faults::Disk>,
    random: RefCell<Random>,
    /// One of a thousand operations takes so long.
    stalls: RefCell<u32>,
}

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
        }
    }

    /// From now on it has these faults, and stalls so often.
    pub fn set_faults(&self, faults: Faults, stalls: u32) {
        self.disk.borrow_mut().faults = faults;
        *self.stalls.borrow_mut() = stalls;
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
        if random.chance(*self.stalls.borrow()) {
            return Duration::from_millis(random.between(1_000, STALL_MS_MAX));
        }
        Duration::from_micros(random.between(20, 2_000))
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let read = self.disk.borrow_mut().read(offset, into.len());
        let bytes = read.map_err(io::Error::from_raw_os_error)?;
        into.copy_from_slice(&bytes);
        Ok(())
    }

    fn begin_write(&self, offset: u64, data: &[u8]) -> u64 {
        self.disk.borrow_mut().begin_write(offset, data)
    }

    fn end_write(&self, number: u64) -> io::Result<()> {
        self.disk.borrow_mut().end_write(number).map_err(io::Error::from_raw_os_error)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.borrow_mut().flush().map_err(io::Error::from_raw_os_error)
    }
}
