//! Reading one store segment: its header, its summary, or all its extents one by one.
//!
//! Owns no state; used by recovery, reclaim and the operators' tool. Must stay true: nothing found on the
//! device is fatal; a walk checks both checksums of each extent and goes on at the next slot after a bad one,
//! so one torn extent does not hide those behind it; the work for a failing device is bounded.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;

use crate::device::{Device, DeviceError};
use crate::error::BadRecord;
use crate::extent::ExtentHeader;
use crate::layout::{Geometry, SLOT, SLOT_BYTES};
use crate::segment::SegmentHeader;
use crate::summary::{Footer, Summary, SummaryRow};

/// Enough for the summary of a segment of 512 KiB blocks, so most summaries take one read.
const TAIL_BYTES: u32 = 16 * 1024;
/// One read of a walk.
const WINDOW_SLOTS: u32 = 256;
/// After so many failed reads the rest of a segment is given up.
const READ_ERRORS_MAX: u64 = 16;

/// What is known of the device that all reads of it need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    pub(crate) geometry: Geometry,
    pub(crate) uuid: u128,
    pub(crate) seed: u32,
}

pub(crate) async fn read_header<D: Device>(
    device: &D,
    map: Map,
    segment: u32,
) -> Result<Result<SegmentHeader, BadRecord>, DeviceError> {
    let bytes = device.read(map.geometry.segment_offset(segment), SLOT).await?;
    Ok(SegmentHeader::decode(&bytes, map.uuid, segment))
}

pub(crate) async fn read_summary<D: Device>(
    device: &D,
    map: Map,
    segment: u32,
    life: u64,
) -> Result<Result<Summary, BadRecord>, DeviceError> {
    let geometry = map.geometry;
    let end = geometry.segment_offset(segment) + u64::from(geometry.segment_bytes);
    let mut bytes = device.read(end - u64::from(TAIL_BYTES), TAIL_BYTES as usize).await?;
    let footer = match Footer::peek(&bytes, segment, life) {
        Ok(footer) => footer,
        Err(bad) => return Ok(Err(bad)),
    };
    let len = footer.slots * SLOT_BYTES;
    if len > geometry.segment_bytes {
        return Ok(Err(BadRecord::Field));
    }
    if len > TAIL_BYTES {
        bytes = device.read(end - u64::from(len), len as usize).await?;
    }
    Ok(Summary::decode(&bytes, map.seed, segment, life, geometry.segment_slots()))
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walk {
    pub(crate) rows: Vec<SummaryRow>,
    /// Headers of this life that are sound while their payload is not.
    pub(crate) bad_extents: u64,
    pub(crate) read_errors: u64,
    /// The greatest sequence seen, also of bad extents.
    pub(crate) sequence_max: u64,
    pub(crate) payload_bytes: u64,
}

/// Verifies every extent of a segment's present life.
pub(crate) async fn walk_segment<D: Device>(device: &D, map: Map, header: &SegmentHeader) -> Walk {
    let slots = map.geometry.segment_slots();
    let mut walk = Walk { sequence_max: header.sequence, ..Walk::default() };
    let mut window = Window { device, map, segment: header.segment, start: 0, bytes: Bytes::new() };
    let mut slot = 1;
    while slot < slots && walk.read_errors < READ_ERRORS_MAX {
        let first = match window.read(slot, 1).await {
            Ok(bytes) => bytes,
            Err(_) => {
                walk.read_errors += 1;
                slot += 1;
                continue;
            }
        };
        let extent = match ExtentHeader::decode(&first, map.seed) {
            Ok(extent) if extent.is_at(header.segment, slot, header.sequence) => extent,
            Ok(_) | Err(_) => {
                slot += 1;
                continue;
            }
        };
        // A greater sequence in a lower slot would be an extent that this life has since written over.
        let in_order =
            extent.sequence > walk.rows.last().map_or(header.sequence, |row| row.sequence);
        walk.sequence_max = walk.sequence_max.max(extent.sequence);
        if extent.slots() > slots - slot || !in_order {
            walk.bad_extents += 1;
            slot += 1;
            continue;
        }
        match window.read(slot, extent.slots()).await {
            Ok(bytes) if extent.payload_of(&bytes, map.seed).is_ok() => {
                walk.rows.push(SummaryRow::from(&extent));
                walk.payload_bytes += u64::from(extent.payload_bytes);
                slot += extent.slots();
            }
            Ok(_) => {
                walk.bad_extents += 1;
                slot += 1;
            }
            Err(_) => {
                walk.read_errors += 1;
                slot += 1;
            }
        }
    }
    walk
}

/// The part of a segment that was read last.
struct Window<'d, D> {
    device: &'d D,
    map: Map,
    segment: u32,
    start: u32,
    bytes: Bytes,
}

impl<D: Device> Window<'_, D> {
    async fn read(&mut self, slot: u32, slots: u32) -> Result<Bytes, DeviceError> {
        let end = self.start + self.bytes.len() as u32 / SLOT_BYTES;
        if slot < self.start || slot + slots > end {
            let len = WINDOW_SLOTS.max(slots).min(self.map.geometry.segment_slots() - slot);
            let offset = self.map.geometry.slot_offset(self.segment, slot);
            self.bytes = match self.device.read(offset, len as usize * SLOT).await {
                Ok(bytes) => bytes,
                // Perhaps only one slot of the window is bad: take what was asked for alone.
                Err(_) => self.device.read(offset, slots as usize * SLOT).await?,
            };
            self.start = slot;
        }
        let at = (slot - self.start) as usize * SLOT;
        Ok(self.bytes.slice(at..at + slots as usize * SLOT))
    }
}

/// Runs futures with at most `limit` of them started and not finished; the results are in their order.
pub(crate) async fn in_flight<F: Future>(
    limit: usize,
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
    let mut futures = futures.into_iter();
    let mut results: Vec<Option<F::Output>> = Vec::new();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    std::future::poll_fn(|context| {
        loop {
            while running.len() < limit.max(1) {
                let Some(future) = futures.next() else { break };
                running.push((results.len(), Box::pin(future)));
                results.push(None);
            }
            let before = running.len();
            running.retain_mut(|(at, future)| match future.as_mut().poll(context) {
                Poll::Ready(result) => {
                    results[*at] = Some(result);
                    false
                }
                Poll::Pending => true,
            });
            if running.is_empty() && before == 0 {
                return Poll::Ready(());
            }
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    results.into_iter().flatten().collect()
}
