//! A device in memory with faults from a seed, and the smallest executor.
//!
//! Which faults are fair: anything may happen to writes that were not flushed (lost, torn at 512 bytes, kept
//! in another order). Unfair ones, drawn by rate: a write that says it succeeded but was lost or went
//! elsewhere, a short write, refused writes (EIO, ENOSPC), failed reads and flushes, bits that flip at rest
//! or on the way.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tidegate_store::{Device, DeviceError, DeviceOperation};

const PAGE: usize = 4096;
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// SplitMix64: small, seeded, good enough to choose faults.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
}

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
        }
    }
}

struct Image {
    /// What survives a power cut.
    durable: HashMap<u64, Box<[u8; PAGE]>>,
    /// What a read sees.
    view: HashMap<u64, Box<[u8; PAGE]>>,
    unflushed: Vec<(u64, Vec<u8>)>,
    faults: Faults,
    random: Random,
    operations: u64,
    /// Fail exactly this operation, once.
    fail_at: Option<u64>,
    flushes: u64,
    size: u64,
}

#[derive(Clone)]
pub struct MemoryDevice(Arc<Mutex<Image>>);

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

impl MemoryDevice {
    pub fn new(size: u64, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Image {
            durable: HashMap::new(),
            view: HashMap::new(),
            unflushed: Vec::new(),
            faults: Faults::default(),
            random: Random(seed),
            operations: 0,
            fail_at: None,
            flushes: 0,
            size,
        })))
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.lock().expect("no test panics while it holds the image")
    }

    pub fn set_faults(&self, faults: Faults) {
        self.image().faults = faults;
    }

    /// Fails the n-th operation from now.
    pub fn fail_after(&self, operations: u64) {
        let mut image = self.image();
        image.fail_at = Some(image.operations + operations);
    }

    pub fn operations(&self) -> u64 {
        self.image().operations
    }

    pub fn flushes(&self) -> u64 {
        self.image().flushes
    }

    pub fn set_size(&self, size: u64) {
        self.image().size = size;
    }

    /// Changes bytes behind the store's back, durably.
    pub fn poke(&self, offset: u64, data: &[u8]) {
        let mut image = self.image();
        apply(&mut image.view, offset, data);
        apply(&mut image.durable, offset, data);
    }

    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        read_pages(&self.image().view, offset, len)
    }

    /// The byte offsets of all pages that were ever written.
    pub fn written_pages(&self) -> Vec<u64> {
        let mut pages: Vec<u64> = self.image().view.keys().map(|page| page * PAGE as u64).collect();
        pages.sort_unstable();
        pages
    }

    /// A power cut: any part of the unflushed writes is kept, in any order, torn at sectors.
    pub fn crash(&self) {
        let mut image = self.image();
        let image = &mut *image;
        let random = &mut image.random;
        let mut unflushed = std::mem::take(&mut image.unflushed);
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
                    apply(&mut image.durable, offset + (at * sector) as u64, piece);
                }
            }
        }
        image.view = image.durable.clone();
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

impl Image {
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

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let error = |errno| Err(DeviceError::from_errno(DeviceOperation::Write, offset, errno));
        let fails = self.step();
        assert!(
            offset.is_multiple_of(PAGE as u64) && data.len().is_multiple_of(PAGE),
            "writes are aligned"
        );
        assert!(offset + data.len() as u64 <= self.size, "writes stay on the device");
        let faults = self.faults;
        if fails || self.random.chance(faults.write_error) {
            return error(EIO);
        }
        if self.random.chance(faults.write_full) {
            return error(ENOSPC);
        }
        if self.random.chance(faults.write_short) {
            let len = self.random.below(data.len() as u64 / 512) as usize * 512;
            self.put(offset, &data[..len]);
            return error(EIO);
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

    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, DeviceError> {
        let fails = self.step();
        assert!(
            offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE),
            "reads are aligned"
        );
        assert!(offset + len as u64 <= self.size, "reads stay on the device");
        if fails || self.random.chance(self.faults.read_error) {
            return Err(DeviceError::from_errno(DeviceOperation::Read, offset, EIO));
        }
        let mut bytes = read_pages(&self.view, offset, len);
        if self.random.chance(self.faults.read_flip) {
            let at = self.random.below(len as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        Ok(Bytes::from(bytes))
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        if self.step() || self.random.chance(self.faults.flush_error) {
            return Err(DeviceError::from_errno(DeviceOperation::Flush, 0, EIO));
        }
        for (offset, data) in std::mem::take(&mut self.unflushed) {
            apply(&mut self.durable, offset, &data);
        }
        self.flushes += 1;
        Ok(())
    }
}

impl MemoryDevice {
    async fn maybe_wait(&self) {
        let wait = {
            let mut image = self.image();
            let rate = image.faults.pending;
            image.random.chance(rate)
        };
        if wait {
            yield_once().await;
        }
    }
}

impl Device for MemoryDevice {
    type WriteBuffer = Vec<u8>;

    fn size(&self) -> u64 {
        self.image().size
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn buffer(&self, len: usize) -> Vec<u8> {
        vec![0xEE; len] // not zeros: padding must be written, not hoped for
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, DeviceError> {
        self.maybe_wait().await;
        self.image().read(offset, len)
    }

    async fn write(&self, offset: u64, data: Vec<u8>) -> (Result<(), DeviceError>, Vec<u8>) {
        self.maybe_wait().await;
        let written = self.image().write(offset, &data);
        (written, data)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.maybe_wait().await;
        self.image().flush()
    }
}

async fn yield_once() {
    let mut waited = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Polls until ready. Nothing here ever waits for anything but a turn.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// Polls a few times, then drops the future. Returns whether it had finished.
pub fn poll_times<F: Future>(future: F, times: u32) -> bool {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    (0..times).any(|_| future.as_mut().poll(&mut context).is_ready())
}
