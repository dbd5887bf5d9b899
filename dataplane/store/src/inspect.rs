//! Looking at a device without changing it, for the operators' tool.
//!
//! Owns the reports. Must stay true: writes nothing, also not the epoch; works on a device whose superblocks
//! are damaged as far as that is possible; `verify` reads every extent and checks both checksums.

use crate::device::Device;
use crate::error::{BadRecord, OpenError};
use crate::layout::SLOT_BYTES;
use crate::layout::device_seed;
use crate::reader::{Location, verify_extent};
use crate::segment::Stream;
use crate::superblock::{CopyState, Superblock, choose, read_copies};
use crate::walk::{Map, in_flight, read_header, read_summary, walk_segment};

/// Segments looked at together.
const IN_FLIGHT: usize = 16;

/// What a store segment is, seen from the device alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Its header is neither blank nor sound, nor of a store that was here before.
    Bad(BadRecord),
    Free,
    /// Has a header but no sound summary: open when the store stopped, or given up after a failed write.
    Open,
    Sealed,
    Unreadable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    pub segment: u32,
    pub state: SegmentState,
    pub stream: Option<Stream>,
    pub sequence: u64,
    /// Rows of the summary; for an open segment, extents that verified.
    pub extents: u64,
    pub payload_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Inspection {
    pub copies: [CopyState; 2],
    pub superblock: Superblock,
    pub segments: Vec<SegmentReport>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub segments: u64,
    pub extents_good: u64,
    pub extents_bad: u64,
    pub payload_bytes: u64,
    pub read_errors: u64,
}

/// Reports what is where.
///
/// # Errors
/// When no superblock can be believed.
pub async fn inspect<D: Device>(device: &D) -> Result<Inspection, OpenError> {
    let copies = read_copies(device).await;
    let superblock = choose(device, &copies).await?;
    let map = map_of(&superblock);
    let segments =
        (0..superblock.geometry.segment_count).map(|segment| inspect_segment(device, map, segment));
    Ok(Inspection { copies, superblock, segments: in_flight(IN_FLIGHT, segments).await })
}

/// Reads and checks every extent.
///
/// # Errors
/// When no superblock can be believed.
pub async fn verify<D: Device>(device: &D) -> Result<VerifyReport, OpenError> {
    let superblock = choose(device, &read_copies(device).await).await?;
    let map = map_of(&superblock);
    let mut report = VerifyReport::default();
    for segment in 0..superblock.geometry.segment_count {
        verify_segment(device, map, segment, &mut report).await;
    }
    Ok(report)
}

fn map_of(superblock: &Superblock) -> Map {
    Map { geometry: superblock.geometry, uuid: superblock.uuid, seed: device_seed(superblock.uuid) }
}

async fn inspect_segment<D: Device>(device: &D, map: Map, segment: u32) -> SegmentReport {
    let mut report = SegmentReport {
        segment,
        state: SegmentState::Free,
        stream: None,
        sequence: 0,
        extents: 0,
        payload_bytes: 0,
    };
    let header = match read_header(device, map, segment).await {
        Ok(Ok(header)) => header,
        Ok(Err(BadRecord::Zero | BadRecord::Elsewhere)) => return report,
        Ok(Err(bad)) => return SegmentReport { state: SegmentState::Bad(bad), ..report },
        Err(_) => return SegmentReport { state: SegmentState::Unreadable, ..report },
    };
    report.stream = Some(header.stream);
    report.sequence = header.sequence;
    if let Ok(Ok(summary)) = read_summary(device, map, segment, header.sequence).await {
        report.state = SegmentState::Sealed;
        report.extents = summary.rows.len() as u64;
        report.payload_bytes = summary.rows.iter().map(|row| u64::from(row.payload_bytes)).sum();
    } else {
        let walk = walk_segment(device, map, &header).await;
        report.state = SegmentState::Open;
        report.extents = walk.rows.len() as u64;
        report.payload_bytes = walk.payload_bytes;
    }
    report
}

async fn verify_segment<D: Device>(device: &D, map: Map, segment: u32, report: &mut VerifyReport) {
    let header = match read_header(device, map, segment).await {
        Ok(Ok(header)) => header,
        Ok(Err(_)) => return,
        Err(_) => {
            report.read_errors += 1;
            return;
        }
    };
    report.segments += 1;
    let Ok(Ok(summary)) = read_summary(device, map, segment, header.sequence).await else {
        let walk = walk_segment(device, map, &header).await;
        report.extents_good += walk.rows.len() as u64;
        report.extents_bad += walk.bad_extents;
        report.payload_bytes += walk.payload_bytes;
        report.read_errors += walk.read_errors;
        return;
    };
    for row in summary.rows {
        let slot = u32::from(row.slot);
        let location = Location {
            offset: map.geometry.slot_offset(segment, slot),
            len: row.slots() * SLOT_BYTES,
            segment,
            slot,
            life: header.sequence,
            seed: map.seed,
        };
        match device.read(location.offset, location.len as usize).await {
            Err(_) => report.read_errors += 1,
            Ok(bytes) => match verify_extent(&row.key, &location, bytes) {
                Ok(extent) => {
                    report.extents_good += 1;
                    report.payload_bytes += extent.payload.len() as u64;
                }
                Err(_) => report.extents_bad += 1,
            },
        }
    }
}
