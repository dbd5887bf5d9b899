//! The face of a block device, as the store sees it: aligned reads, aligned writes, flush, discard.
//!
//! Owns no state. Must stay true for an implementation: a read returns exactly the asked length or an error;
//! a write either put every byte in the device's hands or returns an error (a short write is an error); after
//! `flush` returned `Ok`, all writes that had returned `Ok` before it was called survive a power cut. Nothing
//! is promised about writes that were not flushed: any part of them may be on the device after a crash.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

/// A device or a preallocated file. Single-threaded: the futures need not be `Send`.
#[allow(
    async_fn_in_trait,
    reason = "each core polls its own device futures; none crosses a thread"
)]
pub trait Device {
    /// Memory that the device accepts for writing (aligned, perhaps registered with the kernel).
    type WriteBuffer: AsRef<[u8]> + AsMut<[u8]>;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Logical block size in bytes: 512 or 4096. The store reads and writes in multiples of 4096.
    fn block_size(&self) -> u32;

    /// A buffer of exactly `len` bytes, zeroed or not.
    fn buffer(&self, len: usize) -> Self::WriteBuffer;

    /// Reads exactly `len` bytes at `offset`, both multiples of 4096.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, DeviceError>;

    /// Writes the whole buffer at `offset` (a multiple of 4096) and gives the buffer back.
    async fn write(
        &self,
        offset: u64,
        data: Self::WriteBuffer,
    ) -> (Result<(), DeviceError>, Self::WriteBuffer);

    /// Makes every completed write durable.
    async fn flush(&self) -> Result<(), DeviceError>;

    /// Gives the space of `len` bytes at `offset` back; what is read there until it is written again is nobody's. A device
    /// that knows nothing of it says so.
    async fn discard(&self, offset: u64, _len: u64) -> Result<(), DeviceError> {
        let kind = io::ErrorKind::Unsupported;
        Err(DeviceError::from_kind(DeviceOperation::Discard, offset, kind))
    }
}

/// Implements [`Device`] for a pointer by asking what it points to.
macro_rules! device_behind {
    ($pointer:ty) => {
        impl<D: Device> Device for $pointer {
            type WriteBuffer = D::WriteBuffer;

            fn size(&self) -> u64 {
                (**self).size()
            }

            fn block_size(&self) -> u32 {
                (**self).block_size()
            }

            fn buffer(&self, len: usize) -> Self::WriteBuffer {
                (**self).buffer(len)
            }

            async fn read(&self, offset: u64, len: usize) -> Result<Bytes, DeviceError> {
                (**self).read(offset, len).await
            }

            async fn write(
                &self,
                offset: u64,
                data: Self::WriteBuffer,
            ) -> (Result<(), DeviceError>, Self::WriteBuffer) {
                (**self).write(offset, data).await
            }

            async fn flush(&self) -> Result<(), DeviceError> {
                (**self).flush().await
            }

            async fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
                (**self).discard(offset, len).await
            }
        }
    };
}

device_behind!(&D);
device_behind!(Rc<D>);
device_behind!(Arc<D>);

/// What the device was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOperation {
    Discard,
    Flush,
    Read,
    Write,
}

/// An operation of the device that failed. The kernel's number is kept, since it names the cause best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceError {
    pub operation: DeviceOperation,
    pub kind: io::ErrorKind,
    pub errno: Option<i32>,
    pub offset: u64,
}

impl DeviceError {
    /// An error of the kernel, by its number.
    pub fn from_errno(operation: DeviceOperation, offset: u64, errno: i32) -> Self {
        let kind = io::Error::from_raw_os_error(errno).kind();
        Self { operation, kind, errno: Some(errno), offset }
    }

    /// An error the adapter itself found, for example a short read.
    pub fn from_kind(operation: DeviceOperation, offset: u64, kind: io::ErrorKind) -> Self {
        Self { operation, kind, errno: None, offset }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            DeviceOperation::Discard => "discard",
            DeviceOperation::Flush => "flush",
            DeviceOperation::Read => "read",
            DeviceOperation::Write => "write",
        };
        write!(f, "{operation} at byte {} of the device failed: {}", self.offset, self.kind)?;
        match self.errno {
            Some(errno) => write!(f, " (errno {errno})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DeviceError {}
