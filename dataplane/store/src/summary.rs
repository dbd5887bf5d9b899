//! The summary of a sealed store segment: what recovery reads instead of the segment itself.
//!
//! Owns the byte map below: rows from the start of the summary, the footer in its last 64 bytes, which are
//! also the last 64 bytes of the segment.
//!
//! ```text
//! row     0  key       16     32  block          4     42  expiry class  1
//!        16  version    8     36  payload bytes  4     43  kind          1
//!        24  sequence   8     40  slot           2     44  zeros         4
//! footer  0  magic "TGSU"  4      8  segment sequence  8     20  rows           4
//!         4  crc           4     16  segment           4     24  summary slots  4     28  zeros
//! ```
//!
//! Must stay true: the crc covers the whole summary (seeded by the uuid), so a torn summary is no summary and
//! the segment is walked; the sequence is that of the segment's header, so the summary of an older life that
//! is still at the segment's end is not believed; rows are in order of sequence and lie in the segment's data
//! part.

use crate::error::BadRecord;
use crate::extent::{ExpiryClass, ExtentHeader, ExtentKey, ExtentKind};
use crate::layout::{
    PAYLOAD_BYTES_MAX, SEQUENCE_END, SLOT, SUMMARY_FOOTER_BYTES, SUMMARY_ROW_BYTES, checksum,
    extent_slots, is_zero, put, u16_at, u32_at, u64_at, u128_at,
};

const MAGIC: u32 = u32::from_le_bytes(*b"TGSU");

/// Slots that a summary of this many rows takes.
pub const fn summary_slots(rows: usize) -> u32 {
    (rows * SUMMARY_ROW_BYTES + SUMMARY_FOOTER_BYTES).div_ceil(SLOT) as u32
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    pub key: ExtentKey,
    pub sequence: u64,
    pub payload_bytes: u32,
    pub slot: u16,
    pub class: ExpiryClass,
}

impl SummaryRow {
    pub fn slots(&self) -> u32 {
        extent_slots(self.payload_bytes)
    }
}

impl From<&ExtentHeader> for SummaryRow {
    fn from(header: &ExtentHeader) -> Self {
        Self {
            key: header.key,
            sequence: header.sequence,
            payload_bytes: header.payload_bytes,
            slot: header.slot,
            class: header.class,
        }
    }
}

/// A summary and the life of the segment it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub segment: u32,
    pub sequence: u64,
    pub rows: Vec<SummaryRow>,
}

/// What the footer alone says; enough to know how much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    rows: usize,
    pub(crate) slots: u32,
}

impl Footer {
    /// Reads the footer at the end of `bytes`, which end where the segment ends. Not yet protected by the
    /// crc.
    pub(crate) fn peek(bytes: &[u8], segment: u32, sequence: u64) -> Result<Self, BadRecord> {
        let at = bytes.len().checked_sub(SUMMARY_FOOTER_BYTES).ok_or(BadRecord::Short)?;
        let footer = &bytes[at..];
        if u32_at(footer, 0) != MAGIC {
            return Err(if is_zero(footer) { BadRecord::Zero } else { BadRecord::Magic });
        }
        if u64_at(footer, 8) != sequence || u32_at(footer, 16) != segment {
            return Err(BadRecord::Elsewhere);
        }
        let rows = u32_at(footer, 20) as usize;
        let slots = u32_at(footer, 24);
        // Bounded before it is multiplied: a segment has no more rows than slots.
        if rows >= 1 << 15 || slots != summary_slots(rows) {
            return Err(BadRecord::Field);
        }
        Ok(Self { rows, slots })
    }
}

impl Summary {
    /// Writes the summary into `bytes`, which must have `summary_slots(rows)` slots.
    pub fn encode_into(&self, bytes: &mut [u8], seed: u32) {
        let slots = summary_slots(self.rows.len());
        assert_eq!(bytes.len(), slots as usize * SLOT, "a summary fills its slots exactly");
        bytes.fill(0);
        for (row, at) in self.rows.iter().zip((0..).step_by(SUMMARY_ROW_BYTES)) {
            put(bytes, at, row.key.key.to_le_bytes());
            put(bytes, at + 16, row.key.version.to_le_bytes());
            put(bytes, at + 24, row.sequence.to_le_bytes());
            put(bytes, at + 32, row.key.block.to_le_bytes());
            put(bytes, at + 36, row.payload_bytes.to_le_bytes());
            put(bytes, at + 40, row.slot.to_le_bytes());
            bytes[at + 42] = row.class.0;
            bytes[at + 43] = row.key.kind().number();
        }
        let footer = bytes.len() - SUMMARY_FOOTER_BYTES;
        put(bytes, footer, MAGIC.to_le_bytes());
        put(bytes, footer + 8, self.sequence.to_le_bytes());
        put(bytes, footer + 16, self.segment.to_le_bytes());
        put(bytes, footer + 20, (self.rows.len() as u32).to_le_bytes());
        put(bytes, footer + 24, slots.to_le_bytes());
        let crc = checksum(seed, bytes, footer + 4);
        put(bytes, footer + 4, crc.to_le_bytes());
    }

    /// Reads the summary at the end of `bytes`, which end where the segment of `segment_slots` slots ends.
    ///
    /// # Errors
    /// When there is no sound summary of this life of the segment.
    pub fn decode(
        bytes: &[u8],
        seed: u32,
        segment: u32,
        sequence: u64,
        segment_slots: u32,
    ) -> Result<Self, BadRecord> {
        let footer = Footer::peek(bytes, segment, sequence)?;
        let start =
            bytes.len().checked_sub(footer.slots as usize * SLOT).ok_or(BadRecord::Short)?;
        let bytes = &bytes[start..];
        let crc_at = bytes.len() - SUMMARY_FOOTER_BYTES + 4;
        if checksum(seed, bytes, crc_at) != u32_at(bytes, crc_at) {
            return Err(BadRecord::Checksum);
        }
        let data_end = segment_slots.checked_sub(footer.slots).ok_or(BadRecord::Field)?;
        let mut rows = Vec::with_capacity(footer.rows);
        let (mut slot_next, mut sequence_next) = (1, sequence);
        for row in bytes.chunks_exact(SUMMARY_ROW_BYTES).take(footer.rows) {
            let row = decode_row(row)?;
            let slot_end = u32::from(row.slot) + row.slots();
            if u32::from(row.slot) < slot_next
                || slot_end > data_end
                || row.sequence < sequence_next
            {
                return Err(BadRecord::Field);
            }
            (slot_next, sequence_next) = (slot_end, row.sequence);
            rows.push(row);
        }
        Ok(Self { segment, sequence, rows })
    }
}

fn decode_row(row: &[u8]) -> Result<SummaryRow, BadRecord> {
    let key = ExtentKey { key: u128_at(row, 0), version: u64_at(row, 16), block: u32_at(row, 32) };
    ExtentKind::decode(row[43], key.block)?;
    let payload_bytes = u32_at(row, 36);
    let sequence = u64_at(row, 24);
    if payload_bytes > PAYLOAD_BYTES_MAX || sequence >= SEQUENCE_END {
        return Err(BadRecord::Field);
    }
    Ok(SummaryRow {
        key,
        sequence,
        payload_bytes,
        slot: u16_at(row, 40),
        class: ExpiryClass(row[42]),
    })
}
