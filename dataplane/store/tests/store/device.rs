//! The disk of the tests (`tidegate_faults`) as a [`Device`], and the smallest executor.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tidegate_faults::Disk;
pub use tidegate_faults::{Faults, Random};
use tidegate_store::{Device, DeviceError, DeviceOperation};

#[derive(Clone)]
pub struct MemoryDevice(Arc<Mutex<Disk>>);

impl MemoryDevice {
    pub fn new(size: u64, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk::new(size, seed))))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    pub fn set_faults(&self, faults: Faults) {
        self.disk().faults = faults;
    }

    /// Fails the n-th operation from now.
    pub fn fail_after(&self, operations: u64) {
        self.disk().fail_after(operations);
    }

    pub fn operations(&self) -> u64 {
        self.disk().operations()
    }

    pub fn flushes(&self) -> u64 {
        self.disk().flushes()
    }

    pub fn set_size(&self, size: u64) {
        self.disk().size = size;
    }

    /// Changes bytes behind the store's back, durably.
    pub fn poke(&self, offset: u64, data: &[u8]) {
        self.disk().poke(offset, data);
    }

    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        self.disk().peek(offset, len)
    }

    /// The byte offsets of all pages that were ever written.
    pub fn written_pages(&self) -> Vec<u64> {
        self.disk().written_pages()
    }

    /// A power cut.
    pub fn crash(&self) {
        self.disk().crash();
    }

    async fn maybe_wait(&self) {
        if self.disk().is_slow() {
            yield_once().await;
        }
    }
}

impl Device for MemoryDevice {
    type WriteBuffer = Vec<u8>;

    fn size(&self) -> u64 {
        self.disk().size
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn buffer(&self, len: usize) -> Vec<u8> {
        vec![0xEE; len] // not zeros: padding must be written, not hoped for
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, DeviceError> {
        self.maybe_wait().await;
        let read = self.disk().read(offset, len);
        read.map(Bytes::from)
            .map_err(|errno| DeviceError::from_errno(DeviceOperation::Read, offset, errno))
    }

    async fn write(&self, offset: u64, data: Vec<u8>) -> (Result<(), DeviceError>, Vec<u8>) {
        self.maybe_wait().await;
        let written = self
            .disk()
            .write(offset, &data)
            .map_err(|errno| DeviceError::from_errno(DeviceOperation::Write, offset, errno));
        (written, data)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.maybe_wait().await;
        self.disk()
            .flush()
            .map_err(|errno| DeviceError::from_errno(DeviceOperation::Flush, 0, errno))
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
