//! Opening a device: from bytes to an index. The same after a crash and after a stop.
//!
//! Owns the order of recovery: choose a superblock; make a new epoch durable; read all segment headers; read
//! summaries in order of sequence and walk the segments without one; enter the extents in order of their own
//! sequence; give the walked segments a summary, so they are not walked again.
//!
//! Must stay true: nothing in a store segment is fatal; what is corrupt is skipped and counted. Of two
//! extents of one key the one appended later wins, whichever segments they are in: segments that were open at
//! the same time are merged by the sequence of each extent. Memory is bounded by the summaries of the
//! segments in flight.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::device::{Device, DeviceError};
use crate::error::{GeometryError, OpenError};
use crate::health::{DeviceState, Health};
use crate::index::{Index, Place};
use crate::journal::{Journal, JournalReport};
use crate::layout::device_seed;
use crate::reader::Shared;
use crate::segment::{SegmentHeader, Stream};
use crate::store::{Counters, OpenOptions, Store};
use crate::summary::{Summary, SummaryRow, summary_slots};
use crate::superblock::{CopyState, Superblock, choose, read_copies, write_copy};
use crate::walk::{Map, in_flight, read_header, read_summary, walk_segment};

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    pub uuid: u128,
    pub epoch: u64,
    /// Copies of the superblock that were bad or could not be read.
    pub superblocks_bad: u32,
    /// The epoch could not be written: the device is read only.
    pub epoch_error: Option<DeviceError>,
    pub segments: u32,
    pub segments_free: u32,
    /// Recovered from their summary.
    pub segments_sealed: u32,
    /// Without a sound summary; recovered by walking their extents.
    pub segments_walked: u32,
    /// Of the walked ones, those that got a summary now.
    pub segments_resealed: u32,
    /// Headers that are neither blank nor sound, nor of a store that was here before.
    pub headers_bad: u32,
    pub extents: u64,
    /// Extents in walked segments whose payload did not match.
    pub extents_bad: u64,
    pub read_errors: u64,
    pub journal: JournalReport,
    /// The greatest version of any extent.
    pub version_max: u64,
}

impl<D: Device> Store<D> {
    /// Opens a device and recovers what it holds.
    ///
    /// # Errors
    /// When the device is not ours, an option cannot work, or no superblock can be read.
    pub async fn open(
        device: D,
        options: OpenOptions,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let block_size = device.block_size();
        if block_size != 512 && block_size != 4096 {
            return Err(OpenError::Geometry(GeometryError::BlockSize { found: block_size }));
        }
        let copies = read_copies(&device).await;
        let mut superblock = choose(&device, &copies).await?;
        let geometry = superblock.geometry;
        options.check(&geometry)?;
        superblock.epoch += 1;
        for copy in &copies {
            if let CopyState::Good(good) = copy
                && good.uuid == superblock.uuid
            {
                superblock.written_bytes = superblock.written_bytes.max(good.written_bytes);
            }
        }
        let mut report = RecoveryReport {
            uuid: superblock.uuid,
            epoch: superblock.epoch,
            superblocks_bad: copies
                .iter()
                .filter(|copy| !matches!(copy, CopyState::Good(_)))
                .count() as u32,
            segments: geometry.segment_count,
            ..RecoveryReport::default()
        };
        let seed = device_seed(superblock.uuid);
        let map = Map { geometry, uuid: superblock.uuid, seed };
        let (journal, journal_report) = Journal::recover(&device, &geometry, seed).await;
        report.journal = journal_report;
        let capacity = usize::try_from(options.index_capacity(&geometry)).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared {
            index: Index::new(capacity, geometry.segment_count),
            geometry,
            health: Health::new(options.write_errors_max, options.read_errors_max),
            seed,
            hash_seed: superblock.uuid as u64 ^ (superblock.uuid >> 64) as u64,
        });
        if options.read_only {
            shared.health.worsen(DeviceState::ReadOnly);
        } else if let Err(error) = write_epoch(&device, &copies, &superblock).await {
            report.epoch_error = Some(error);
            shared.health.worsen(DeviceState::ReadOnly);
        }
        let mut store = Store {
            device,
            map,
            options,
            shared,
            superblock,
            written_before: superblock.written_bytes,
            reappend_paused: false,
            epoch_written: !options.read_only && report.epoch_error.is_none(),
            keep: None,
            sequence_next: superblock.sequence_base(),
            free: VecDeque::new(),
            sealed: VecDeque::new(),
            streams: [const { None }; 4],
            segment_streams: vec![None; geometry.segment_count as usize],
            head_lives: vec![u64::MAX; geometry.segment_count as usize],
            journal,
            counters: Counters::default(),
            unsealed: Vec::new(),
        };
        // Its records order the extents that come; none of them may get a sequence from before.
        let newest = store.journal_records().map(|record| record.sequence).max();
        store.sequence_next = store.sequence_next.max(newest.map_or(0, |newest| newest + 1));
        store.recover_segments(&mut report).await;
        Ok((store, report))
    }

    async fn recover_segments(&mut self, report: &mut RecoveryReport) {
        let headers = self.recover_headers(report).await;
        let mut merge = Merge::default();
        let mut finished = Vec::with_capacity(headers.len());
        let mut walked = Vec::new();
        let batch = self.options.reads_in_flight.max(1) as usize;
        for headers in headers.chunks(batch) {
            let (device, map) = (&self.device, self.map);
            let reads = headers.iter().map(|header| recover_segment(device, map, header));
            for (found, header) in in_flight(batch, reads).await.into_iter().zip(headers) {
                let newest = found.rows.iter().map(|row| row.key.version).max();
                report.version_max = report.version_max.max(newest.unwrap_or(0));
                report.read_errors += found.read_errors;
                report.extents_bad += found.extents_bad;
                self.sequence_next = self.sequence_next.max(found.sequence_max.saturating_add(1));
                if found.rows.is_empty() {
                    // Nothing in it: it need not wait for its turn to be reclaimed.
                    self.free.push_back(header.segment);
                    continue;
                }
                self.shared.index.begin_life(header.segment, header.sequence);
                self.segment_streams[header.segment as usize] = Some(header.stream);
                finished.push((found.sequence_max, header.segment));
                if found.walked {
                    report.segments_walked += 1;
                    walked.push(Summary {
                        segment: header.segment,
                        sequence: header.sequence,
                        rows: found.rows.clone(),
                    });
                } else {
                    report.segments_sealed += 1;
                }
                // Every extent of this and of later segments is younger than the start of this life.
                report.extents += merge.enter_older(&self.shared, header.sequence);
                merge.add(header.segment, found.rows);
            }
        }
        report.extents += merge.enter_older(&self.shared, u64::MAX);
        finished.sort_unstable();
        self.sealed.extend(finished.into_iter().map(|(_, segment)| segment));
        self.counters.extents_bad = report.extents_bad;
        report.segments_free = self.free.len() as u32;
        self.reseal(walked, report).await;
    }

    /// All sound segment headers, in order of sequence; the other segments are free.
    async fn recover_headers(&mut self, report: &mut RecoveryReport) -> Vec<SegmentHeader> {
        use crate::error::BadRecord::{Elsewhere, Zero};
        let (device, map) = (&self.device, self.map);
        let reads =
            (0..map.geometry.segment_count).map(|segment| read_header(device, map, segment));
        let found = in_flight(self.options.reads_in_flight as usize, reads).await;
        let mut headers = Vec::new();
        for (segment, found) in (0..).zip(found) {
            match &found {
                Ok(Ok(header)) => {
                    if header.stream == Stream::Small {
                        self.head_lives[segment as usize] = header.sequence;
                    }
                    headers.push(*header);
                    continue;
                }
                Ok(Err(Elsewhere | Zero)) => {}
                Ok(Err(_)) => report.headers_bad += 1,
                Err(_) => report.read_errors += 1,
            }
            if !matches!(found, Ok(Err(Elsewhere | Zero))) {
                // Another opening may read it after all, and find heads of any age.
                self.head_lives[segment as usize] = 0;
            }
            self.free.push_back(segment);
        }
        headers.sort_unstable_by_key(|header| header.sequence);
        headers
    }

    /// Gives walked segments a summary of what was verified, if it fits behind it.
    pub(crate) async fn reseal(&mut self, walked: Vec<Summary>, report: &mut RecoveryReport) {
        if self.options.read_only {
            self.unsealed = walked;
            return;
        }
        for summary in walked {
            if self.state() >= DeviceState::ReadOnly {
                return;
            }
            let slots = summary_slots(summary.rows.len());
            let data_end = summary.rows.last().map_or(1, |row| u32::from(row.slot) + row.slots());
            if data_end + slots <= self.map.geometry.segment_slots()
                && self.write_summary(&summary).await.is_ok()
            {
                report.segments_resealed += 1;
            }
        }
    }
}

/// Writes the new epoch over the copy that was not chosen first, so a sound one stands at every moment.
async fn write_epoch<D: Device>(
    device: &D,
    copies: &[CopyState; 2],
    superblock: &Superblock,
) -> Result<(), DeviceError> {
    let is_chosen = |copy: &CopyState| match copy {
        CopyState::Good(good) => good.uuid == superblock.uuid && good.epoch + 1 == superblock.epoch,
        _ => false,
    };
    let order = if is_chosen(&copies[0]) { [1, 0] } else { [0, 1] };
    for copy in order {
        write_copy(device, copy, Some(superblock)).await?;
    }
    Ok(())
}

/// What one segment holds.
struct FoundSegment {
    rows: Vec<SummaryRow>,
    sequence_max: u64,
    walked: bool,
    extents_bad: u64,
    read_errors: u64,
}

async fn recover_segment<D: Device>(device: &D, map: Map, header: &SegmentHeader) -> FoundSegment {
    let mut read_errors = 0;
    match read_summary(device, map, header.segment, header.sequence).await {
        Ok(Ok(summary)) => {
            let sequence_max = summary.rows.last().map_or(header.sequence, |row| row.sequence);
            return FoundSegment {
                rows: summary.rows,
                sequence_max,
                walked: false,
                extents_bad: 0,
                read_errors,
            };
        }
        Ok(Err(_)) => {}
        Err(_) => read_errors += 1,
    }
    let walk = walk_segment(device, map, header).await;
    FoundSegment {
        rows: walk.rows,
        sequence_max: walk.sequence_max,
        walked: true,
        extents_bad: walk.bad_extents,
        read_errors: read_errors + walk.read_errors,
    }
}

/// Enters the rows of several segments into the index in order of sequence.
#[derive(Default)]
struct Merge {
    next: BinaryHeap<Reverse<(u64, usize)>>,
    segments: Vec<(u32, std::vec::IntoIter<SummaryRow>)>,
    batch: Vec<(u128, u32, Place)>,
}

impl Merge {
    fn add(&mut self, segment: u32, rows: Vec<SummaryRow>) {
        let Some(first) = rows.first() else { return };
        self.next.push(Reverse((first.sequence, self.segments.len())));
        self.segments.push((segment, rows.into_iter()));
    }

    /// Enters all rows older than `sequence`; returns how many.
    fn enter_older(&mut self, shared: &Shared, sequence: u64) -> u64 {
        let mut entered = 0;
        while let Some(Reverse((oldest, at))) = self.next.peek().copied() {
            if oldest >= sequence {
                break;
            }
            self.next.pop();
            // This segment's rows up to the first one of another segment.
            let other = self.next.peek().map_or(u64::MAX, |Reverse((oldest, _))| *oldest);
            let (segment, rows) = &mut self.segments[at];
            let end = rows.as_slice().partition_point(|row| row.sequence < sequence.min(other));
            for row in rows.by_ref().take(end) {
                let place =
                    Place { segment: *segment, slot: u32::from(row.slot), slots: row.slots() };
                let hash = row.key.hash(shared.hash_seed);
                self.batch.push((hash, row.key.block, place));
                if self.batch.len() == BATCH_ROWS {
                    enter(&mut self.batch, shared);
                }
            }
            entered += end as u64;
            match rows.as_slice().first() {
                Some(row) => self.next.push(Reverse((row.sequence, at))),
                None => *rows = Vec::new().into_iter(),
            }
        }
        enter(&mut self.batch, shared);
        if self.next.is_empty() {
            self.segments.clear();
        }
        entered
    }
}

/// Rows that are entered together: enough to keep a processor's loads in flight.
const BATCH_ROWS: usize = 32;

/// Enters rows in their order.
fn enter(batch: &mut Vec<(u128, u32, Place)>, shared: &Shared) {
    shared.index.warm(batch.iter().map(|(hash, ..)| *hash));
    for (hash, block, place) in batch.drain(..) {
        shared.index.insert(hash, block, place);
    }
}
