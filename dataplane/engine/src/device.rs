//! The store's device face over the ring: direct reads and writes of one file or block device, per core.

use bytes::Bytes;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_ring::{Arena, Buf, File, timeout};
use tidegate_store::{Device, DeviceError, DeviceOperation};

/// A disk that takes longer than this has failed: the next hop answers sooner.
const READ_SPAN_MAX: Duration = Duration::from_secs(1);

/// One core's handle of a device.
#[derive(Clone)]
pub struct RingDevice {
    file: File,
    arena: Arc<Arena>,
    size: u64,
}

impl RingDevice {
    /// Opens an existing file or block device.
    pub fn open(path: &Path, write: bool, arena: Arc<Arena>) -> io::Result<RingDevice> {
        RingDevice::over(File::open_direct(path, write)?, arena)
    }

    /// The device that `file` is.
    pub fn over(file: File, arena: Arc<Arena>) -> io::Result<RingDevice> {
        let size = file.len()?;
        Ok(RingDevice { file, arena, size })
    }
}

fn error(operation: DeviceOperation, offset: u64, error: &io::Error) -> DeviceError {
    match error.raw_os_error() {
        Some(errno) => DeviceError::from_errno(operation, offset, errno),
        None => DeviceError::from_kind(operation, offset, error.kind()),
    }
}

impl Device for RingDevice {
    type WriteBuffer = Buf;

    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        4096 // a multiple of either logical block size; the store's unit is 4 KiB anyway
    }

    fn buffer(&self, len: usize) -> Buf {
        Buf::heap(len)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, DeviceError> {
        let reading = self.file.read_at(self.arena.buffer(len), offset);
        let Ok((outcome, buf)) = timeout(READ_SPAN_MAX, reading).await else {
            let late = io::ErrorKind::TimedOut;
            return Err(DeviceError::from_kind(DeviceOperation::Read, offset, late));
        };
        match outcome {
            Ok(n) if n == len => Ok(buf.freeze()),
            Ok(_) => Err(DeviceError::from_kind(
                DeviceOperation::Read,
                offset,
                io::ErrorKind::UnexpectedEof,
            )),
            Err(e) => Err(error(DeviceOperation::Read, offset, &e)),
        }
    }

    async fn write(&self, offset: u64, data: Buf) -> (Result<(), DeviceError>, Buf) {
        let (outcome, buf) = self.file.write_at(data, offset).await;
        (outcome.map_err(|e| error(DeviceOperation::Write, offset, &e)), buf)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.file.sync_data().await.map_err(|e| error(DeviceOperation::Flush, 0, &e))
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        let discarded = self.file.discard(offset, len).await;
        discarded.map_err(|e| error(DeviceOperation::Discard, offset, &e))
    }
}
