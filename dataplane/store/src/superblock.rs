//! The superblock: who this device is and how it is laid out.
//!
//! Owns the byte map below and the rule which of the two copies is believed.
//!
//! ```text
//!    0  magic "TIDEGATE"      8      32  segment_bytes     4      56  epoch   8
//!    8  format                4      36  segment_count     4      64  written 8, then zeros
//!   12  slot bytes (4096)     4      40  journal_bytes     4    4092  crc     4   over all, itself as zeros
//!   16  uuid                 16      44  zeros            12
//! ```
//!
//! Must stay true: the epoch grows by one each time the device is opened for writing, and is durable before
//! the first write of that opening; sequences of an opening begin at epoch * 2^34 or above, so they are
//! greater than all that was ever written before, also where the last writes cannot be read any more. The
//! copies are written one after the other with a flush between, so at most one of them is torn by a crash.
//! This checksum alone does not start from the uuid, since the uuid is what it protects.

use crate::device::{Device, DeviceError};
use crate::error::{BadRecord, OpenError};
use crate::layout::{
    FORMAT, Geometry, SEQUENCE_END, SLOT, SLOT_BYTES, SUPERBLOCK_OFFSETS, checksum, is_zero, put,
    u32_at, u64_at, u128_at,
};

const MAGIC: [u8; 8] = *b"TIDEGATE";
const CRC_AT: usize = SLOT - 4;
/// Sequences that one opening may use before the next epoch's range begins; it is safe to run over.
const SEQUENCES_PER_EPOCH_BITS: u32 = 34;
/// A device can be opened this often: once each second for 17 years.
const EPOCH_END: u64 = 1 << 29;
/// What is looked at to tell a blank device from a foreign one: file systems and partition tables are here.
const BLANK_START_BYTES: u64 = 1 << 20;
const BLANK_END_BYTES: u64 = 64 << 10;

const _: () = assert!(EPOCH_END << SEQUENCES_PER_EPOCH_BITS == SEQUENCE_END);

/// The identity and geometry of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub uuid: u128,
    pub geometry: Geometry,
    pub epoch: u64,
    /// Bytes written to the device up to about now, over all openings: how much of its life is used.
    pub written_bytes: u64,
}

/// What was found where a superblock should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    Bad(BadRecord),
    Good(Superblock),
    Unreadable(DeviceError),
}

impl Superblock {
    pub fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, FORMAT.to_le_bytes());
        put(&mut bytes, 12, SLOT_BYTES.to_le_bytes());
        put(&mut bytes, 16, self.uuid.to_le_bytes());
        put(&mut bytes, 32, self.geometry.segment_bytes.to_le_bytes());
        put(&mut bytes, 36, self.geometry.segment_count.to_le_bytes());
        put(&mut bytes, 40, self.geometry.journal_bytes.to_le_bytes());
        put(&mut bytes, 56, self.epoch.to_le_bytes());
        put(&mut bytes, 64, self.written_bytes.to_le_bytes());
        let crc = checksum(0, &bytes, CRC_AT);
        put(&mut bytes, CRC_AT, crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// When the bytes are not a superblock this program can use.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let bytes = bytes.get(..SLOT).ok_or(BadRecord::Short)?;
        if is_zero(bytes) {
            return Err(BadRecord::Zero);
        }
        if bytes[..8] != MAGIC {
            return Err(BadRecord::Magic);
        }
        if checksum(0, bytes, CRC_AT) != u32_at(bytes, CRC_AT) {
            return Err(BadRecord::Checksum);
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(BadRecord::Format(format));
        }
        let geometry = Geometry {
            segment_bytes: u32_at(bytes, 32),
            segment_count: u32_at(bytes, 36),
            journal_bytes: u32_at(bytes, 40),
        };
        let epoch = u64_at(bytes, 56);
        if u32_at(bytes, 12) != SLOT_BYTES || geometry.check().is_err() || epoch >= EPOCH_END {
            return Err(BadRecord::Field);
        }
        let written_bytes = u64_at(bytes, 64);
        Ok(Self { uuid: u128_at(bytes, 16), geometry, epoch, written_bytes })
    }

    /// The first sequence that an opening with this epoch may use.
    pub(crate) fn sequence_base(&self) -> u64 {
        self.epoch << SEQUENCES_PER_EPOCH_BITS
    }
}

/// Who the device is, without reading what it holds.
///
/// # Errors
/// When the device is not ours, or no superblock can be read.
pub async fn identify<D: Device>(device: &D) -> Result<Superblock, OpenError> {
    let copies = read_copies(device).await;
    choose(device, &copies).await
}

/// Reads both copies.
pub(crate) async fn read_copies<D: Device>(device: &D) -> [CopyState; 2] {
    let mut copies = [CopyState::Bad(BadRecord::Short); 2];
    for (copy, offset) in copies.iter_mut().zip(SUPERBLOCK_OFFSETS) {
        if offset + u64::from(SLOT_BYTES) > device.size() {
            continue;
        }
        *copy = match device.read(offset, SLOT).await {
            Ok(bytes) => match Superblock::decode(&bytes) {
                Ok(superblock) => CopyState::Good(superblock),
                Err(bad) => CopyState::Bad(bad),
            },
            Err(error) => CopyState::Unreadable(error),
        };
    }
    copies
}

/// The copy to believe: the later epoch of one device. If both are sound but of two devices, the first, since
/// formatting wipes the second copy before it writes the first.
pub(crate) async fn choose<D: Device>(
    device: &D,
    copies: &[CopyState; 2],
) -> Result<Superblock, OpenError> {
    use CopyState::{Bad, Good, Unreadable};
    let superblock = match copies {
        [Good(first), Good(second)] if first.uuid == second.uuid && second.epoch > first.epoch => {
            *second
        }
        [Good(one), _] | [_, Good(one)] => *one,
        [Bad(first), Bad(second)] => return Err(refuse(device, *first, *second).await),
        [Unreadable(error), _] | [_, Unreadable(error)] => return Err(OpenError::Device(*error)),
    };
    let needed_bytes = superblock.geometry.end();
    if needed_bytes > device.size() {
        return Err(OpenError::Shrunk { device_bytes: device.size(), needed_bytes });
    }
    Ok(superblock)
}

async fn refuse<D: Device>(device: &D, first: BadRecord, second: BadRecord) -> OpenError {
    for bad in [first, second] {
        if let BadRecord::Format(found) = bad {
            return OpenError::Format { found, known: FORMAT };
        }
    }
    let ours = |bad| !matches!(bad, BadRecord::Magic | BadRecord::Zero | BadRecord::Short);
    if ours(first) || ours(second) {
        return OpenError::Damaged { first, second };
    }
    match first_data(device).await {
        Ok(None) => OpenError::Blank,
        Ok(Some(offset)) => OpenError::Foreign { offset },
        Err(error) => OpenError::Device(error),
    }
}

/// The first byte that is not zero at the start or end of the device, where others keep their marks.
pub(crate) async fn first_data<D: Device>(device: &D) -> Result<Option<u64>, DeviceError> {
    let slot = u64::from(SLOT_BYTES);
    let size = device.size() / slot * slot;
    let start_end = size.min(BLANK_START_BYTES);
    let tail = size.saturating_sub(BLANK_END_BYTES).max(start_end);
    for (from, to) in [(0, start_end), (tail, size)] {
        let mut offset = from;
        while offset < to {
            let len = (to - offset).min(BLANK_END_BYTES) as usize;
            let bytes = device.read(offset, len).await?;
            if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(Some(offset + at as u64));
            }
            offset += len as u64;
        }
    }
    Ok(None)
}

/// Writes one copy (`None` wipes it) and flushes.
pub(crate) async fn write_copy<D: Device>(
    device: &D,
    copy: usize,
    superblock: Option<&Superblock>,
) -> Result<(), DeviceError> {
    let mut buffer = device.buffer(SLOT);
    match superblock {
        Some(superblock) => buffer.as_mut().copy_from_slice(&superblock.encode()),
        None => buffer.as_mut().fill(0),
    }
    device.write(SUPERBLOCK_OFFSETS[copy], buffer).await.0?;
    device.flush().await
}
