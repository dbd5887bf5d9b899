//! The disk and its faults.

use crate::{EIO, ENOSPC, Random};
use std::collections::{BTreeMap, HashMap};

const PAGE: usize = 4096;

/// Rates in one of a thousand operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub read_error: u32,
    pub read_flip: u32,
    pub rest_flip: u32,
    pub write_error: u32,
    pub write_short: u32,
    pub write_full: u32,
    pub write_lost: u32,
    pub write_misdirected: u32,
    pub flush_error: u32,
    /// A flush that says it succeeded, and made nothing durable.
    pub flush_lost: u32,
    /// How often an operation is not ready at once.
    pub pending: u32,
}

impl Faults {
    /// Turns a random part of the faults on, so that rare ones are not drowned by common ones.
    pub fn swarm(random: &mut Random) -> Self {
        let mut rate = |most: u64| if random.chance(400) { random.below(most) as u32 } else { 0 };
        Self {
            read_error: rate(100),
            read_flip: rate(100),
            rest_flip: rate(100),
            write_error: rate(80),
            write_short: rate(80),
            write_full: rate(80),
            write_lost: rate(100),
            write_misdirected: rate(100),
            flush_error: rate(80),
            pending: rate(500),
            flush_lost: 0,
        }
    }
}

/// The disk.
pub struct Disk {
    /// What survives a power cut.
    durable: HashMap<u64, Box<[u8; PAGE]>>,
    /// What a read sees.
    view: HashMap<u64, Box<[u8; PAGE]>>,
    unflushed: Vec<(u64, Vec<u8>)>,
    /// Begun, not done yet.
    under_way: BTreeMap<u64, (u64, Vec<u8>)>,
    begun: u64,
    pub faults: Faults,
    random: Random,
    operations: u64,
    /// Fail exactly this operation, once.
    fail_at: Option<u64>,
    flushes: u64,
    pub size: u64,
}

fn apply(pages: &mut HashMap<u64, Box<[u8; PAGE]>>, offset: u64, data: &[u8]) {
    let mut at = 0;
    while at < data.len() {
        let here = offset + at as u64;
        let (page, within) = (here / PAGE as u64, (here % PAGE as u64) as usize);
        let len = (PAGE - within).min(data.len() - at);
        let bytes = pages.entry(page).or_insert_with(|| Box::new([0; PAGE]));
        bytes[within..within + len].copy_from_slice(&data[at..at + len]);
        at += len;
    }
}

impl Disk {
    pub fn new(size: u64, seed: u64) -> Disk {
        Disk {
            durable: HashMap::new(),
            view: HashMap::new(),
            unflushed: Vec::new(),
            under_way: BTreeMap::new(),
            begun: 0,
            faults: Faults::default(),
            random: Random(seed),
            operations: 0,
            fail_at: None,
            flushes: 0,
            size,
        }
    }

    /// Fails the n-th operation from now.
    pub fn fail_after(&mut self, operations: u64) {
        self.fail_at = Some(self.operations + operations);
    }

    pub fn operations(&self) -> u64 {
        self.operations
    }

    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Whether the next operation is not ready at once.
    pub fn is_slow(&mut self) -> bool {
        self.random.chance(self.faults.pending)
    }

    /// Changes bytes behind everybody's back, durably.
    pub fn poke(&mut self, offset: u64, data: &[u8]) {
        apply(&mut self.view, offset, data);
        apply(&mut self.durable, offset, data);
    }

    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        read_pages(&self.view, offset, len)
    }

    /// The byte offsets of all pages that were ever written.
    pub fn written_pages(&self) -> Vec<u64> {
        let mut pages: Vec<u64> = self.view.keys().map(|page| page * PAGE as u64).collect();
        pages.sort_unstable();
        pages
    }

    /// A write that takes its time: until [`Disk::end_write`] a crash may find any part of it done.
    pub fn begin_write(&mut self, offset: u64, data: &[u8]) -> u64 {
        self.begun += 1;
        self.under_way.insert(self.begun, (offset, data.to_vec()));
        self.begun
    }

    /// # Errors
    /// As the faults say, or there was a crash in between.
    pub fn end_write(&mut self, number: u64) -> Result<(), i32> {
        let (offset, data) = self.under_way.remove(&number).ok_or(EIO)?;
        self.write(offset, &data)
    }

    /// A power cut: any part of the unflushed writes is kept, in any order, torn at sectors.
    pub fn crash(&mut self) {
        let mut unflushed = std::mem::take(&mut self.unflushed);
        unflushed.extend(std::mem::take(&mut self.under_way).into_values());
        let random = &mut self.random;
        // Some runs keep nothing, some nearly all.
        let keep = random.below(1001) as u32;
        let sector = if random.chance(500) { 512 } else { PAGE };
        if random.chance(500) {
            for at in (1..unflushed.len()).rev() {
                unflushed.swap(at, random.below(at as u64 + 1) as usize);
            }
        }
        for (offset, data) in unflushed {
            let whole = random.chance(500);
            let kept = random.chance(keep);
            for (at, piece) in data.chunks(sector).enumerate() {
                if if whole { kept } else { random.chance(keep) } {
                    apply(&mut self.durable, offset + (at * sector) as u64, piece);
                }
            }
        }
        self.view = self.durable.clone();
    }

    /// Whether this operation is the one to fail.
    fn step(&mut self) -> bool {
        self.operations += 1;
        let fails = self.fail_at == Some(self.operations);
        if fails {
            self.fail_at = None;
        }
        fails
    }

    fn flip(&mut self, offset: u64, len: usize) {
        let byte = offset + self.random.below(len as u64);
        let bit = 1 << self.random.below(8);
        let (page, within) = (byte / PAGE as u64, (byte % PAGE as u64) as usize);
        for pages in [&mut self.view, &mut self.durable] {
            if let Some(page) = pages.get_mut(&page) {
                page[within] ^= bit;
            }
        }
    }

    /// # Errors
    /// As the faults say.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), i32> {
        let fails = self.step();
        assert!(
            offset.is_multiple_of(PAGE as u64) && data.len().is_multiple_of(PAGE),
            "writes are aligned"
        );
        assert!(offset + data.len() as u64 <= self.size, "writes stay on the device");
        let faults = self.faults;
        if fails || self.random.chance(faults.write_error) {
            return Err(EIO);
        }
        if self.random.chance(faults.write_full) {
            return Err(ENOSPC);
        }
        if self.random.chance(faults.write_short) {
            let len = self.random.below(data.len() as u64 / 512) as usize * 512;
            self.put(offset, &data[..len]);
            return Err(EIO);
        }
        if self.random.chance(faults.write_lost) {
            return Ok(());
        }
        let mut offset = offset;
        if self.random.chance(faults.write_misdirected) {
            let pages = (self.size - data.len() as u64) / PAGE as u64;
            offset = self.random.below(pages) * PAGE as u64;
        }
        self.put(offset, data);
        if self.random.chance(faults.rest_flip) {
            self.flip(offset, data.len());
        }
        Ok(())
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        apply(&mut self.view, offset, data);
        self.unflushed.push((offset, data.to_vec()));
    }

    /// # Errors
    /// As the faults say.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        let fails = self.step();
        assert!(
            offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE),
            "reads are aligned"
        );
        assert!(offset + len as u64 <= self.size, "reads stay on the device");
        if fails || self.random.chance(self.faults.read_error) {
            return Err(EIO);
        }
        let mut bytes = read_pages(&self.view, offset, len);
        if self.random.chance(self.faults.read_flip) {
            let at = self.random.below(len as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        Ok(bytes)
    }

    /// # Errors
    /// As the faults say.
    pub fn flush(&mut self) -> Result<(), i32> {
        if self.step() || self.random.chance(self.faults.flush_error) {
            return Err(EIO);
        }
        if self.random.chance(self.faults.flush_lost) {
            return Ok(());
        }
        for (offset, data) in std::mem::take(&mut self.unflushed) {
            apply(&mut self.durable, offset, &data);
        }
        self.flushes += 1;
        Ok(())
    }
}

fn read_pages(pages: &HashMap<u64, Box<[u8; PAGE]>>, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, chunk) in bytes.chunks_mut(PAGE).enumerate() {
        if let Some(page) = pages.get(&(offset / PAGE as u64 + at as u64)) {
            chunk.copy_from_slice(&page[..chunk.len()]);
        }
    }
    bytes
}
