//! Taking space back: the segment that was finished first goes first.
//!
//! Owns the order of a reclaim: keep what was used, then end the segment's life, then free it. Must stay
//! true: the life ends before the segment can be written, so no lookup leads into new bytes; an extent is
//! appended again only if it is the one the index points at and nothing newer of its key waits to be written;
//! live extents are never copied; what is copied is at most a quarter of a segment, so write amplification
//! stays below 1.34. A head stays in its stream, or an older one could outlive a newer one.

use crate::device::Device;
use crate::layout::SLOT_BYTES;
use crate::reader::{Location, verify_extent};
use crate::segment::Stream;
use crate::store::Store;
use crate::summary::SummaryRow;
use crate::walk::read_summary;
use crate::writer::MakeRoom;

/// The share of a segment that may be appended again: one in this many bytes.
const REAPPEND_SHARE: u32 = 4;

impl<D: Device> Store<D> {
    /// Reclaims until the reserve is free. Called before a segment is opened; an owner may also call it on
    /// its timer, so that appends do not wait for it.
    pub async fn reclaim_to_reserve(&mut self) {
        while self.free.len() < self.options.segments_reserve as usize {
            let Some(segment) = self.sealed.front().copied() else { return };
            if self.options.reappend && !self.reappend_paused {
                self.reappend(segment).await;
            }
            self.shared.index.end_life(segment);
            self.segment_streams[segment as usize] = None;
            self.sealed.pop_front();
            self.free.push_back(segment);
            self.counters.reclaims += 1;
        }
    }

    /// Appends again what was used since it was written. Whatever fails here only loses cached bytes.
    async fn reappend(&mut self, segment: u32) {
        let stream = match self.segment_streams[segment as usize] {
            Some(Stream::Live) | None => return,
            Some(stream) => stream,
        };
        let Some(life) = self.shared.index.life(segment) else { return };
        // Nothing newer may wait unseen, or the copy of an older head would become visible after it.
        if self.flush_pending().await.is_err() {
            return;
        }
        let Ok(Ok(summary)) = read_summary(&self.device, self.map, segment, life).await else {
            return;
        };
        let mut budget = self.map.geometry.segment_bytes / REAPPEND_SHARE;
        let mut copied = false;
        for row in &summary.rows {
            let len = row.slots() * SLOT_BYTES;
            if len > budget || !self.is_used(segment, row) {
                continue;
            }
            let Some(location) = self.location_of(segment, row) else { return };
            let Ok(bytes) = self.device.read(location.offset, location.len as usize).await else {
                continue;
            };
            let Ok(extent) = verify_extent(&row.key, &location, bytes) else { continue };
            if self.keep.as_ref().is_some_and(|keep| !keep(&extent.header, &extent.payload)) {
                continue;
            }
            let stream = if row.key.is_head() { stream } else { Stream::VodKept };
            let header = extent.header;
            let payload: [&[u8]; 1] = [&extent.payload];
            let append =
                self.append_with(MakeRoom::Forbidden, stream, header.key, &payload, header.class);
            // Boxed, since append may reclaim and reclaim appends; forbidden to do so here.
            if Box::pin(append).await.is_err() {
                break;
            }
            budget -= len;
            copied = true;
            self.counters.extents_reappended += 1;
        }
        if copied {
            // A failure was counted where it happened.
            let _ = self.flush_pending().await;
        }
    }

    fn is_used(&self, segment: u32, row: &SummaryRow) -> bool {
        let hash = row.key.hash(self.shared.hash_seed);
        self.shared.index.find(hash, row.key.block).is_some_and(|found| {
            found.place.segment == segment
                && found.place.slot == u32::from(row.slot)
                && found.frequency >= 1
        })
    }

    fn location_of(&self, segment: u32, row: &SummaryRow) -> Option<Location> {
        let slot = u32::from(row.slot);
        Some(Location {
            offset: self.map.geometry.slot_offset(segment, slot),
            len: row.slots() * SLOT_BYTES,
            segment,
            slot,
            life: self.shared.index.life(segment)?,
            seed: self.map.seed,
        })
    }
}
