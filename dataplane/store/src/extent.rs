//! An extent: one block, or the head, of one version of one object.
//!
//! Owns the key of an extent and the byte map of its 64-byte header.
//!
//! ```text
//!    0  magic "TGEX"   4      32  sequence       8      52  segment       4      59  kind    1
//!    4  header crc     4      40  block          4      56  slot          2      60  zeros   4
//!    8  key           16      44  payload bytes  4      58  expiry class  1      64  payload ...
//!   24  version        8      48  payload crc    4
//! ```
//!
//! Must stay true: a header names its own place (segment and slot) and time (sequence), so a misdirected
//! write and a leftover of an older life are recognised without any other record. Both checksums start from
//! the device uuid. A payload is immutable for a (key, version, block); a head is what was appended last for
//! a key.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::error::{BadExtent, BadRecord};
use crate::layout::{
    EXTENT_HEADER_BYTES, PAYLOAD_BYTES_MAX, SEQUENCE_END, checksum, extent_slots, is_zero, put,
    u16_at, u32_at, u64_at, u128_at,
};

const MAGIC: u32 = u32::from_le_bytes(*b"TGEX");
const CRC_AT: usize = 4;

/// The block number that means: the head of the object (fields, validators; for a small object all of it).
pub const HEAD_BLOCK: u32 = u32::MAX;

/// What identifies an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtentKey {
    pub key: u128,
    pub version: u64,
    pub block: u32,
}

impl ExtentKey {
    /// One block of one version. `block` must not be [`HEAD_BLOCK`].
    pub fn block(key: u128, version: u64, block: u32) -> Self {
        debug_assert!(block != HEAD_BLOCK, "a head is made by head or head_of");
        Self { key, version, block }
    }

    /// The head of an object, whatever its version: for lookups and removal.
    pub fn head(key: u128) -> Self {
        Self { key, version: 0, block: HEAD_BLOCK }
    }

    /// The head of a known version: for appends. Found again by [`ExtentKey::head`].
    pub fn head_of(key: u128, version: u64) -> Self {
        Self { key, version, block: HEAD_BLOCK }
    }

    pub fn is_head(&self) -> bool {
        self.block == HEAD_BLOCK
    }

    pub(crate) fn kind(&self) -> ExtentKind {
        if self.is_head() { ExtentKind::Head } else { ExtentKind::Block }
    }

    /// Whether an extent with the key `found` answers a lookup of this one: a head of any version does.
    pub(crate) fn is_answered_by(&self, found: &ExtentKey) -> bool {
        self.key == found.key
            && self.block == found.block
            && (self.is_head() || self.version == found.version)
    }

    /// The hash the index uses; all heads of a key share one.
    pub(crate) fn hash(&self, seed: u64) -> u128 {
        let version = if self.is_head() { 0 } else { self.version };
        let mut bytes = [0; 28];
        put(&mut bytes, 0, self.key.to_le_bytes());
        put(&mut bytes, 16, version.to_le_bytes());
        put(&mut bytes, 24, self.block.to_le_bytes());
        xxh3_128_with_seed(&bytes, seed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    Block,
    Head,
}

impl ExtentKind {
    pub(crate) fn number(self) -> u8 {
        match self {
            ExtentKind::Block => 0,
            ExtentKind::Head => 1,
        }
    }

    /// The kind in a record, which must agree with the block number beside it.
    pub(crate) fn decode(number: u8, block: u32) -> Result<Self, BadRecord> {
        match (number, block == HEAD_BLOCK) {
            (0, false) => Ok(ExtentKind::Block),
            (1, true) => Ok(ExtentKind::Head),
            _ => Err(BadRecord::Field),
        }
    }
}

/// How soon the extent dies; the store keeps it for the owner, who gives it its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpiryClass(pub u8);

/// The fixed part of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentHeader {
    pub key: ExtentKey,
    pub sequence: u64,
    pub payload_bytes: u32,
    pub payload_crc: u32,
    pub segment: u32,
    pub slot: u16,
    pub class: ExpiryClass,
}

impl ExtentHeader {
    pub fn slots(&self) -> u32 {
        extent_slots(self.payload_bytes)
    }

    /// The header as on the device whose uuid gave `seed`.
    pub fn encode(&self, seed: u32) -> [u8; EXTENT_HEADER_BYTES] {
        let mut bytes = [0; EXTENT_HEADER_BYTES];
        put(&mut bytes, 0, MAGIC.to_le_bytes());
        put(&mut bytes, 8, self.key.key.to_le_bytes());
        put(&mut bytes, 24, self.key.version.to_le_bytes());
        put(&mut bytes, 32, self.sequence.to_le_bytes());
        put(&mut bytes, 40, self.key.block.to_le_bytes());
        put(&mut bytes, 44, self.payload_bytes.to_le_bytes());
        put(&mut bytes, 48, self.payload_crc.to_le_bytes());
        put(&mut bytes, 52, self.segment.to_le_bytes());
        put(&mut bytes, 56, self.slot.to_le_bytes());
        bytes[58] = self.class.0;
        bytes[59] = self.key.kind().number();
        let crc = checksum(seed, &bytes, CRC_AT);
        put(&mut bytes, CRC_AT, crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// When the bytes do not begin with a sound extent header of this device.
    pub fn decode(bytes: &[u8], seed: u32) -> Result<Self, BadRecord> {
        let bytes = bytes.get(..EXTENT_HEADER_BYTES).ok_or(BadRecord::Short)?;
        if u32_at(bytes, 0) != MAGIC {
            return Err(if is_zero(bytes) { BadRecord::Zero } else { BadRecord::Magic });
        }
        if checksum(seed, bytes, CRC_AT) != u32_at(bytes, CRC_AT) {
            return Err(BadRecord::Checksum);
        }
        let key = ExtentKey {
            key: u128_at(bytes, 8),
            version: u64_at(bytes, 24),
            block: u32_at(bytes, 40),
        };
        ExtentKind::decode(bytes[59], key.block)?;
        let payload_bytes = u32_at(bytes, 44);
        let sequence = u64_at(bytes, 32);
        if payload_bytes > PAYLOAD_BYTES_MAX || sequence >= SEQUENCE_END {
            return Err(BadRecord::Field);
        }
        Ok(Self {
            key,
            sequence,
            payload_bytes,
            payload_crc: u32_at(bytes, 48),
            segment: u32_at(bytes, 52),
            slot: u16_at(bytes, 56),
            class: ExpiryClass(bytes[58]),
        })
    }

    /// Whether the extent says it was written here, in the life that began with `life`, or in a later one.
    pub(crate) fn is_at(&self, segment: u32, slot: u32, life: u64) -> bool {
        self.segment == segment && u32::from(self.slot) == slot && self.sequence >= life
    }

    /// The payload, if `bytes` (header, payload, padding) hold it and it matches its checksum.
    pub(crate) fn payload_of(&self, bytes: &Bytes, seed: u32) -> Result<Bytes, BadExtent> {
        let end = EXTENT_HEADER_BYTES + self.payload_bytes as usize;
        if bytes.len() < end {
            return Err(BadExtent::Length);
        }
        let payload = bytes.slice(EXTENT_HEADER_BYTES..end);
        if crate::checksum::crc32c_append(seed, &payload) != self.payload_crc {
            return Err(BadExtent::Payload);
        }
        Ok(payload)
    }
}

/// CRC-32C of a payload given in pieces.
pub(crate) fn payload_crc(seed: u32, payload: &[&[u8]]) -> u32 {
    payload.iter().fold(seed, |crc, piece| crate::checksum::crc32c_append(crc, piece))
}

/// An extent that was read and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub header: ExtentHeader,
    pub payload: Bytes,
}
