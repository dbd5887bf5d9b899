//! The map of a device: sizes, places and the limits that follow from them.
//!
//! ```text
//! 0            superblock, first copy (4 KiB)
//! 32 KiB       superblock, second copy (4 KiB); apart, so that one misdirected write hits one of them
//! 64 KiB       purge journal (8 MiB by default), read at start; its pages are in `journal.rs`
//! ...          zeros up to a multiple of 64 KiB
//! S            store segment 0, 1, 2 ...   (128 MiB each by default, a power of two)
//!
//! One store segment, in slots of 4 KiB:
//! slot 0           segment header: number, sequence of this life, stream, device uuid, checksum
//! slot 1 ..        extents, each beginning on a slot: 64-byte header, payload, zeros to the next slot
//! last slots       summary, written on seal: one row per extent, footer in the last 64 bytes of the segment
//! ```
//!
//! Why in that order: the header is written and flushed before the first extent, so the old life is gone from
//! the device before new bytes appear; the summary is last, so it exists only for a segment that was
//! finished, and its footer has a fixed place, so recovery finds it with one read of the segment's end. The
//! summary has no fixed size: a segment is sealed as soon as one more extent and the grown summary would not
//! both fit.
//!
//! Must stay true: all numbers are little-endian; every reserved byte is written as zero; every record has a
//! magic number and a CRC-32C that covers all of it and starts from the device uuid, so nothing of another
//! device, or of this one before it was formatted again, is ever believed.

use crate::error::GeometryError;

/// The unit of addresses on a device.
pub const SLOT_BYTES: u32 = 4096;
/// Where the two superblocks are.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 32 * 1024];
/// Where the purge journal begins.
pub const JOURNAL_OFFSET: u64 = 64 * 1024;
pub const JOURNAL_BYTES_DEFAULT: u32 = 8 << 20;
/// Four pages, each twice: one open, one to move it to, and some that are full.
pub const JOURNAL_BYTES_MIN: u32 = 8 * SLOT_BYTES;
/// Large enough that summaries are few (22 k on 3 TB) and that a flush per seal is cheap.
pub const SEGMENT_BYTES_DEFAULT: u32 = 128 << 20;
/// Small segments are for tests and small files; an extent may have at most a quarter of its segment.
pub const SEGMENT_BYTES_MIN: u32 = 64 << 10;
/// 2^15 slots: what the index can address.
pub const SEGMENT_BYTES_MAX: u32 = 128 << 20;
/// Four open segments, two in reserve, two sealed: fewer could not reclaim without losing all.
pub const SEGMENTS_MIN: u32 = 8;
/// 2^18: what the index can address (32 TiB at 128 MiB each).
pub const SEGMENTS_MAX: u32 = 1 << 18;
/// The largest object block a delivery service may choose.
pub const PAYLOAD_BYTES_MAX: u32 = 4 << 20;
pub const EXTENT_HEADER_BYTES: usize = 64;
pub(crate) const SUMMARY_ROW_BYTES: usize = 48;
pub(crate) const SUMMARY_FOOTER_BYTES: usize = 64;
/// The format number in superblocks and segment headers.
pub(crate) const FORMAT: u32 = 1;
/// Sequences stay below: so none can run over, also when a record that passes its checksum is nonsense.
pub(crate) const SEQUENCE_END: u64 = 1 << 63;
const SEGMENTS_ALIGNMENT: u64 = 64 * 1024;

pub(crate) const SLOT: usize = SLOT_BYTES as usize;

const _: () = {
    assert!(SLOT_BYTES.is_power_of_two());
    assert!(SUPERBLOCK_OFFSETS[1] + SLOT_BYTES as u64 <= JOURNAL_OFFSET);
    // Index fields: slot 15 bits, segment 18 bits, length 11 bits.
    assert!(SEGMENT_BYTES_MAX / SLOT_BYTES == 1 << 15);
    assert!(SEGMENTS_MAX == 1 << 18);
    assert!(extent_slots(PAYLOAD_BYTES_MAX) < 1 << 11);
    // The smallest segment holds its header, an extent and a summary.
    assert!(SEGMENT_BYTES_MIN / SLOT_BYTES >= 16);
    assert!(SLOT.is_multiple_of(SUMMARY_FOOTER_BYTES));
};

/// Slots that an extent with this payload takes, header and padding included.
pub(crate) const fn extent_slots(payload_bytes: u32) -> u32 {
    (payload_bytes + EXTENT_HEADER_BYTES as u32).div_ceil(SLOT_BYTES)
}

/// Where everything is on one device. Fixed when the device is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub segment_bytes: u32,
    pub segment_count: u32,
    pub journal_bytes: u32,
}

impl Geometry {
    /// Lays out a device of `device_bytes`.
    ///
    /// # Errors
    /// When an option is outside its range or too few or too many store segments fit.
    pub fn plan(
        device_bytes: u64,
        segment_bytes: u32,
        journal_bytes: u32,
    ) -> Result<Self, GeometryError> {
        let geometry = Self { segment_bytes, segment_count: 0, journal_bytes };
        geometry.check_options()?;
        let fits =
            device_bytes.saturating_sub(geometry.segments_offset()) / u64::from(segment_bytes);
        let geometry = Self { segment_count: u32::try_from(fits).unwrap_or(u32::MAX), ..geometry };
        geometry.check()?;
        Ok(geometry)
    }

    /// Whether these numbers, read from a superblock, can be used at all.
    pub(crate) fn check(&self) -> Result<(), GeometryError> {
        self.check_options()?;
        let (fits, segment_bytes) = (u64::from(self.segment_count), self.segment_bytes);
        if self.segment_count < SEGMENTS_MIN {
            return Err(GeometryError::TooFewSegments { fits, segment_bytes });
        }
        if self.segment_count > SEGMENTS_MAX {
            return Err(GeometryError::TooManySegments { fits, segment_bytes });
        }
        Ok(())
    }

    fn check_options(&self) -> Result<(), GeometryError> {
        if !self.segment_bytes.is_power_of_two()
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
        {
            return Err(GeometryError::SegmentBytes { found: self.segment_bytes });
        }
        if self.journal_bytes < JOURNAL_BYTES_MIN || !self.journal_bytes.is_multiple_of(SLOT_BYTES)
        {
            return Err(GeometryError::JournalBytes { found: self.journal_bytes });
        }
        Ok(())
    }

    pub fn segments_offset(&self) -> u64 {
        (JOURNAL_OFFSET + u64::from(self.journal_bytes)).next_multiple_of(SEGMENTS_ALIGNMENT)
    }

    pub fn segment_offset(&self, segment: u32) -> u64 {
        self.segments_offset() + u64::from(segment) * u64::from(self.segment_bytes)
    }

    pub fn slot_offset(&self, segment: u32, slot: u32) -> u64 {
        self.segment_offset(segment) + u64::from(slot) * u64::from(SLOT_BYTES)
    }

    pub fn segment_slots(&self) -> u32 {
        self.segment_bytes / SLOT_BYTES
    }

    /// The most payload bytes of one extent on this device: a quarter of a segment, at most 4 MiB.
    pub fn payload_bytes_max(&self) -> u32 {
        PAYLOAD_BYTES_MAX.min(self.segment_bytes / 4 - EXTENT_HEADER_BYTES as u32)
    }

    /// Where the last segment ends.
    pub fn end(&self) -> u64 {
        self.segment_offset(self.segment_count)
    }
}

/// The start value of every checksum on a device: ties each record to the device it was written on.
pub fn device_seed(uuid: u128) -> u32 {
    crate::checksum::crc32c(&uuid.to_le_bytes())
}

/// CRC-32C of `bytes`, with the four bytes at `hole` taken as zeros (there the checksum itself is kept).
pub(crate) fn checksum(seed: u32, bytes: &[u8], hole: usize) -> u32 {
    let crc = crate::checksum::crc32c_append(seed, &bytes[..hole]);
    let crc = crate::checksum::crc32c_append(crc, &[0; 4]);
    crate::checksum::crc32c_append(crc, &bytes[hole + 4..])
}

pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// The `N` bytes at `at`. Callers check the record's length first; fields lie inside it by the byte maps.
fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(take(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(bytes, at))
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(take(bytes, at))
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
