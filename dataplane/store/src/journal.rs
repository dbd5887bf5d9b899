//! The purge journal: records that must not be lost, on a device whose other bytes may be.
//!
//! Owns the bytes of the journal area. What a record says is its owner's business; the store keeps it and adds
//! the sequence at which it came.
//!
//! ```text
//! the area: pairs of slots; slot i and slot i + pairs hold the same page
//!
//! one page (4 KiB):
//!    0  magic "TGPURGE1"  8      16  count  2      64  records, 48 bytes each: sequence 8, payload 40
//!    8  ordinal           8      18  zeros  2    4096
//!   20  crc               4      24  zeros 40
//! ```
//!
//! A page that is not full is written again, with one record more, into another pair; the pair that held it
//! before is free only after the new one was flushed and read back. So at every moment each record that was
//! acknowledged stands in two slots, and what a crash tears was never acknowledged.
//!
//! A record is retired when every head on the device was appended after it: its owner judges each head before
//! an append and before a reappend, so such heads need it no more. Must stay true: heads go to
//! [`Stream::Small`] only; a store segment counts until its next header has been flushed, also when it was
//! reclaimed, since a crash would find its old life again.
//!
//! Reading takes the union of all sound pages. A record that comes back from an older page is no harm: what it
//! was about is gone, or was judged by it before.

use std::collections::{HashSet, VecDeque};

use crate::device::{Device, DeviceError};
use crate::error::{BadRecord, JournalError};
use crate::health::DeviceState;
use crate::layout::{
    Geometry, JOURNAL_OFFSET, SEQUENCE_END, SLOT, SLOT_BYTES, checksum, is_zero, put, u16_at,
    u32_at, u64_at,
};
use crate::store::Store;

/// What the owner may write into a record.
pub const RECORD_PAYLOAD_BYTES: usize = 40;

const MAGIC: [u8; 8] = *b"TGPURGE1";
const CRC_AT: usize = 20;
const RECORDS_AT: usize = 64;
const RECORD_BYTES: usize = 8 + RECORD_PAYLOAD_BYTES;
/// Records of one page.
pub(crate) const PAGE_RECORDS: usize = (SLOT - RECORDS_AT) / RECORD_BYTES;
/// A pair that is never filled: the open page needs one to move to.
const PAIRS_SPARE: usize = 1;
/// One read of recovery.
const READ_SLOTS: u32 = 64;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalRecord {
    /// Extents appended before it have a smaller one.
    pub sequence: u64,
    pub payload: [u8; RECORD_PAYLOAD_BYTES],
}

/// What recovery found in the journal area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    pub records: u64,
    /// Pairs of slots of which neither could be believed: a crash tore what was never acknowledged, or the
    /// device lost what was. Its owner should take everything older than this opening for purged softly.
    pub pairs_lost: u32,
    /// Single slots that were bad while their twin was good.
    pub slots_bad: u32,
}

/// One slot as recovery found it; `None`: it could not be read.
type Slot = Option<Result<(u64, Vec<JournalRecord>), BadRecord>>;

struct Page {
    pair: u32,
    records: Vec<JournalRecord>,
}

/// The journal of one device, as its writer knows it.
pub(crate) struct Journal {
    pairs: u32,
    free: VecDeque<u32>,
    full: Vec<Page>,
    /// The page that the next record goes to; its pair is `None` until it is written.
    open: Vec<JournalRecord>,
    open_pair: Option<u32>,
    ordinal_next: u64,
}

fn encode_page(bytes: &mut [u8], ordinal: u64, records: &[JournalRecord], seed: u32) {
    bytes.fill(0);
    put(bytes, 0, MAGIC);
    put(bytes, 8, ordinal.to_le_bytes());
    put(bytes, 16, (records.len() as u16).to_le_bytes());
    for (index, record) in records.iter().enumerate() {
        let at = RECORDS_AT + index * RECORD_BYTES;
        put(bytes, at, record.sequence.to_le_bytes());
        put(bytes, at + 8, record.payload);
    }
    let crc = checksum(seed, bytes, CRC_AT);
    put(bytes, CRC_AT, crc.to_le_bytes());
}

/// Reads one slot of the journal area; the page's ordinal and records.
///
/// # Errors
/// When the bytes are not a page of the device whose uuid gave `seed`.
pub fn decode_page(bytes: &[u8], seed: u32) -> Result<(u64, Vec<JournalRecord>), BadRecord> {
    let bytes = bytes.get(..SLOT).ok_or(BadRecord::Short)?;
    if is_zero(bytes) {
        return Err(BadRecord::Zero);
    }
    if bytes[..8] != MAGIC {
        return Err(BadRecord::Magic);
    }
    if checksum(seed, bytes, CRC_AT) != u32_at(bytes, CRC_AT) {
        return Err(BadRecord::Checksum);
    }
    let count = usize::from(u16_at(bytes, 16));
    if count == 0 || count > PAGE_RECORDS {
        return Err(BadRecord::Field);
    }
    let mut records = Vec::with_capacity(count);
    for index in 0..count {
        let at = RECORDS_AT + index * RECORD_BYTES;
        let sequence = u64_at(bytes, at);
        if sequence >= SEQUENCE_END {
            return Err(BadRecord::Field);
        }
        let mut payload = [0; RECORD_PAYLOAD_BYTES];
        payload.copy_from_slice(&bytes[at + 8..at + RECORD_BYTES]);
        records.push(JournalRecord { sequence, payload });
    }
    Ok((u64_at(bytes, 8), records))
}

impl Journal {
    fn offset(pairs: u32, pair: u32, copy: u32) -> u64 {
        JOURNAL_OFFSET + u64::from(copy * pairs + pair) * u64::from(SLOT_BYTES)
    }

    fn records(&self) -> impl Iterator<Item = &JournalRecord> {
        self.full.iter().flat_map(|page| &page.records).chain(&self.open)
    }

    /// Reads the area. Never fails: what cannot be read is in the report.
    pub(crate) async fn recover<D: Device>(
        device: &D,
        geometry: &Geometry,
        seed: u32,
    ) -> (Journal, JournalReport) {
        let slots = geometry.journal_bytes / SLOT_BYTES;
        let pairs = slots / 2;
        let mut found: Vec<Slot> = Vec::new();
        let mut slot = 0;
        while slot < pairs * 2 {
            let count = READ_SLOTS.min(pairs * 2 - slot);
            let offset = JOURNAL_OFFSET + u64::from(slot) * u64::from(SLOT_BYTES);
            match device.read(offset, count as usize * SLOT).await {
                Ok(bytes) => {
                    found.extend(bytes.chunks(SLOT).map(|page| Some(decode_page(page, seed))));
                }
                // Once more, slot by slot: one bad sector must not hide the others.
                Err(_) => {
                    for one in 0..count {
                        let at = offset + u64::from(one) * u64::from(SLOT_BYTES);
                        let read = device.read(at, SLOT).await;
                        found.push(read.ok().map(|bytes| decode_page(&bytes, seed)));
                    }
                }
            }
            slot += count;
        }
        let mut report = JournalReport::default();
        let mut pages = Vec::new();
        let mut free = VecDeque::new();
        let mut ordinal_next = 0;
        let second = found.split_off(pairs as usize);
        for (pair, copies) in (0..).zip(found.into_iter().zip(second)) {
            let blank = |copy: &Slot| matches!(copy, Some(Err(BadRecord::Zero | BadRecord::Magic)));
            let bad = |copy: &Slot| !matches!(copy, Some(Ok(_)));
            let bad_copies = u32::from(bad(&copies.0)) + u32::from(bad(&copies.1));
            let blank_both = blank(&copies.0) && blank(&copies.1);
            if bad_copies == 1 {
                report.slots_bad += 1;
            } else if bad_copies == 2 && !blank_both {
                report.pairs_lost += 1;
            }
            let mut records = Vec::new();
            // After a crash the two copies may be of two moments: both count.
            for (ordinal, copy) in [copies.0, copies.1].into_iter().flatten().flatten() {
                ordinal_next = ordinal_next.max(ordinal.saturating_add(1));
                records.extend(copy);
            }
            if records.is_empty() {
                free.push_back(pair)
            } else {
                pages.push(Page { pair, records })
            }
        }
        // Large pages first: those that only repeat what others say are the older ones of their page.
        pages.sort_by_key(|page| std::cmp::Reverse(page.records.len()));
        let mut known = HashSet::new();
        let mut full = Vec::new();
        for mut page in pages {
            page.records.retain(|record| known.insert(*record));
            if page.records.is_empty() { free.push_back(page.pair) } else { full.push(page) }
        }
        report.records = known.len() as u64;
        (Journal { pairs, free, full, open: Vec::new(), open_pair: None, ordinal_next }, report)
    }
}

impl<D: Device> Store<D> {
    /// All records that the journal holds.
    pub fn journal_records(&self) -> impl Iterator<Item = &JournalRecord> {
        self.journal.records()
    }

    /// Writes records and makes them durable; they were read back from the device before this returns. Gives
    /// the records that were retired to make room, which their owner may forget.
    ///
    /// # Errors
    /// When the records are not on the device, or may not be.
    pub async fn journal(
        &mut self,
        payloads: &[[u8; RECORD_PAYLOAD_BYTES]],
    ) -> Result<Vec<JournalRecord>, JournalError> {
        if self.state() >= DeviceState::ReadOnly {
            return Err(JournalError::Refused(self.state()));
        }
        let mut retired = Vec::new();
        if self.journal.free.len() <= self.journal.pairs as usize / 4 {
            retired = self.retire().await?;
        }
        let mut records: Vec<JournalRecord> = Vec::with_capacity(payloads.len());
        for payload in payloads {
            records.push(JournalRecord { sequence: self.next_sequence(), payload: *payload });
        }
        self.add_records(&records, PAIRS_SPARE).await?;
        Ok(retired)
    }

    /// As [`Store::journal`], when that was full and these records are followed by [`Store::journal_drop`] of all
    /// that they cover: takes the page that is kept in reserve.
    ///
    /// # Errors
    /// When the records are not on the device, or may not be.
    pub async fn journal_last(
        &mut self,
        payloads: &[[u8; RECORD_PAYLOAD_BYTES]],
    ) -> Result<Vec<JournalRecord>, JournalError> {
        let mut records: Vec<JournalRecord> = Vec::with_capacity(payloads.len());
        for payload in payloads {
            records.push(JournalRecord { sequence: self.next_sequence(), payload: *payload });
        }
        self.add_records(&records, 0).await?;
        Ok(Vec::new())
    }

    /// Rewrites the journal without the records that `drop` names, and gives those that went: for an owner
    /// whose later records say all that earlier ones said.
    ///
    /// # Errors
    /// When the device failed; nothing is lost then.
    pub async fn journal_drop(
        &mut self,
        drop: impl Fn(&JournalRecord) -> bool,
    ) -> Result<Vec<JournalRecord>, JournalError> {
        let mut dropped = Vec::new();
        for index in (0..self.journal.full.len()).rev() {
            let page = &self.journal.full[index];
            let (gone, kept): (Vec<_>, Vec<_>) = page.records.iter().copied().partition(&drop);
            if gone.is_empty() {
                continue;
            }
            // The pair that this one gives back makes up for the one that it may take.
            self.add_records(&kept, 0).await?;
            let page = self.journal.full.remove(index);
            self.journal.free.push_back(page.pair);
            dropped.extend(gone);
        }
        Ok(dropped)
    }

    /// Drops the records that no head on the device needs.
    async fn retire(&mut self) -> Result<Vec<JournalRecord>, JournalError> {
        let oldest = self.head_lives.iter().copied().min().unwrap_or(u64::MAX);
        self.journal_drop(|record| record.sequence < oldest).await
    }

    /// Adds records to the open page, and begins others as it fills.
    async fn add_records(
        &mut self,
        records: &[JournalRecord],
        pairs_spare: usize,
    ) -> Result<(), JournalError> {
        let mut rest = records;
        while !rest.is_empty() {
            let room = PAGE_RECORDS - self.journal.open.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            let mut page = self.journal.open.clone();
            page.extend_from_slice(now);
            if self.journal.free.len() <= pairs_spare && self.journal.open_pair.is_none() {
                return Err(JournalError::Full { records: self.journal.records().count() });
            }
            let pair = self.write_page(&page).await?;
            let before = self.journal.open_pair.replace(pair);
            self.journal.free.extend(before);
            self.journal.open = page;
            if self.journal.open.len() == PAGE_RECORDS {
                let records = std::mem::take(&mut self.journal.open);
                self.journal.open_pair = None;
                self.journal.full.push(Page { pair, records });
            }
            rest = later;
        }
        Ok(())
    }

    /// Writes a page into a free pair, flushes, and reads it back. A pair that failed goes to the end of the
    /// free ones, and another is tried once.
    async fn write_page(&mut self, records: &[JournalRecord]) -> Result<u32, JournalError> {
        let mut last = None;
        for _ in 0..2 {
            let Some(pair) = self.journal.free.pop_front() else { break };
            let ordinal = self.journal.ordinal_next;
            self.journal.ordinal_next += 1;
            match self.try_page(pair, ordinal, records).await {
                Ok(()) => return Ok(pair),
                Err(error) => last = Some(error),
            }
            self.journal.free.push_back(pair);
        }
        Err(last.unwrap_or(JournalError::Full { records: self.journal.records().count() }))
    }

    async fn try_page(
        &mut self,
        pair: u32,
        ordinal: u64,
        records: &[JournalRecord],
    ) -> Result<(), JournalError> {
        let (pairs, seed) = (self.journal.pairs, self.map.seed);
        let failed = |error: DeviceError| JournalError::Device(error);
        for copy in [0, 1] {
            let mut buffer = self.device.buffer(SLOT);
            encode_page(buffer.as_mut(), ordinal, records, seed);
            self.write(Journal::offset(pairs, pair, copy), buffer).await.0.map_err(failed)?;
        }
        self.flush().await.map_err(failed)?;
        for copy in [0, 1] {
            let offset = Journal::offset(pairs, pair, copy);
            let bytes = self.device.read(offset, SLOT).await.map_err(failed)?;
            match decode_page(&bytes, seed) {
                Ok((found, read)) if found == ordinal && read == records => {}
                _ => return Err(JournalError::NotThere { offset }),
            }
        }
        Ok(())
    }
}
