//! The header of a store segment, and the streams that segments are opened for.
//!
//! Owns the byte map below.
//!
//! ```text
//!    0  magic "TGSEGMNT"   8      16  sequence   8      40  stream   1
//!    8  format             4      24  uuid      16      41  zeros
//!   12  segment number     4                           4092  crc     4   seeded by the uuid
//! ```
//!
//! Must stay true: the sequence names one life of the segment. Every extent written in that life has a
//! greater one, every extent of an earlier life a smaller one.

use crate::error::BadRecord;
use crate::layout::{
    FORMAT, SEQUENCE_END, SLOT, checksum, device_seed, is_zero, put, u32_at, u64_at, u128_at,
};

const MAGIC: [u8; 8] = *b"TGSEGMNT";
const CRC_AT: usize = SLOT - 4;

/// What is written together, because it dies together. One open store segment each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Dies within minutes; never copied at reclaim.
    Live,
    VodNew,
    /// Was read again before its segment was reclaimed.
    VodKept,
    /// Heads of objects, manifests and other small things.
    Small,
}

impl Stream {
    pub const ALL: [Stream; 4] = [Stream::Live, Stream::VodNew, Stream::VodKept, Stream::Small];

    /// Its name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Live => "live",
            Stream::VodNew => "vod-new",
            Stream::VodKept => "vod-kept",
            Stream::Small => "small",
        }
    }

    pub(crate) fn number(self) -> usize {
        match self {
            Stream::Live => 0,
            Stream::VodNew => 1,
            Stream::VodKept => 2,
            Stream::Small => 3,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub uuid: u128,
    pub segment: u32,
    pub sequence: u64,
    pub stream: Stream,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, FORMAT.to_le_bytes());
        put(&mut bytes, 12, self.segment.to_le_bytes());
        put(&mut bytes, 16, self.sequence.to_le_bytes());
        put(&mut bytes, 24, self.uuid.to_le_bytes());
        bytes[40] = self.stream.number() as u8;
        let crc = checksum(device_seed(self.uuid), &bytes, CRC_AT);
        put(&mut bytes, CRC_AT, crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// When the bytes are not the header of this segment on this device.
    pub fn decode(bytes: &[u8], uuid: u128, segment: u32) -> Result<Self, BadRecord> {
        let bytes = bytes.get(..SLOT).ok_or(BadRecord::Short)?;
        if is_zero(bytes) {
            return Err(BadRecord::Zero);
        }
        if bytes[..8] != MAGIC {
            return Err(BadRecord::Magic);
        }
        if u128_at(bytes, 24) != uuid || u32_at(bytes, 12) != segment {
            return Err(BadRecord::Elsewhere);
        }
        if checksum(device_seed(uuid), bytes, CRC_AT) != u32_at(bytes, CRC_AT) {
            return Err(BadRecord::Checksum);
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(BadRecord::Format(format));
        }
        let stream = Stream::ALL.get(usize::from(bytes[40])).copied().ok_or(BadRecord::Field)?;
        let sequence = u64_at(bytes, 16);
        if sequence >= SEQUENCE_END {
            return Err(BadRecord::Field);
        }
        Ok(Self { uuid, segment, sequence, stream })
    }
}
