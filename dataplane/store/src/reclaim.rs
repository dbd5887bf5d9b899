//! Taking space back: of the segments that were finished first, the one of which least was used.
//!
//! ```text
//! sealed:  oldest ......................... newest
//!          |-- a quarter: candidates --|
//!          the one with the fewest used bytes is the victim; what was used of it is appended again
//! ```
//! A segment that viewers use stays where it is, so little is copied, at a hit ratio like that of LRU (`make bench-trace`). Use counts half after each turn of the whole store, so that what
//! was popular once goes in the end.
//!
//! Owns the order of a reclaim: choose, keep what was used, then end the segment's life, then free it. Must stay
//! true: the life ends before the segment can be written, so no lookup leads into new bytes; an extent is
//! appended again only if it is the one the index points at and nothing newer of its key waits to be written;
//! live extents are never copied; at most half of a segment is copied (of heads three quarters), so that each
//! reclaim gains room. A head stays in its stream, and segments of heads go in the order of their age, or an older
//! head could outlive a newer one.

use crate::device::Device;
use crate::extent::Extent;
use crate::layout::SLOT_BYTES;
use crate::reader::{Location, verify_extent};
use crate::segment::Stream;
use crate::store::Store;
use crate::summary::SummaryRow;
use crate::walk::read_summary;
use crate::writer::MakeRoom;
use bytes::Bytes;

/// Candidates: the oldest of this many parts of all segments, but not fewer than this.
const CANDIDATES_SHARE: usize = 4;
const CANDIDATES_MIN: usize = 4;
/// Bytes that are read at once where every extent is looked at.
const READ_BYTES: u32 = 1 << 20;

impl<D: Device> Store<D> {
    /// Reclaims until the reserve is free. Called before a segment is opened; an owner may also call it on
    /// its timer, so that appends do not wait for it.
    pub async fn reclaim_to_reserve(&mut self) {
        while self.free.len() < self.options.segments_reserve as usize {
            let Some((at, segment)) = self.victim() else { return };
            if self.options.reappend && !self.reappend_paused {
                self.reappend(segment).await;
            }
            self.shared.index.end_life(segment);
            self.segment_streams[segment as usize] = None;
            self.sealed.remove(at); // appends meanwhile add behind it
            if self.options.discard {
                self.discard(segment).await;
            }
            self.free.push_back(segment);
            self.counters.reclaims += 1;
            if self.counters.reclaims.is_multiple_of(u64::from(self.map.geometry.segment_count)) {
                self.shared.index.age();
            }
        }
    }

    /// Gives the space of a segment back that nothing is found in any more. A device that cannot is not asked again.
    async fn discard(&mut self, segment: u32) {
        let bytes = u64::from(self.map.geometry.segment_bytes);
        match self.device.discard(self.map.geometry.segment_offset(segment), bytes).await {
            Ok(()) => self.counters.bytes_discarded += bytes,
            Err(_) => self.options.discard = false,
        }
    }

    /// Which of the sealed segments goes next, and its place among them.
    fn victim(&self) -> Option<(usize, u32)> {
        let candidates =
            (self.map.geometry.segment_count as usize / CANDIDATES_SHARE).max(CANDIDATES_MIN);
        let mut heads_seen = false;
        let mut victim: Option<(u32, usize, u32)> = None;
        for (at, segment) in self.sealed.iter().copied().enumerate().take(candidates) {
            let used = match self.segment_streams[segment as usize] {
                // It could not be opened: nothing of it is found.
                None => 0,
                // Of heads the oldest segment only.
                Some(Stream::Small) if heads_seen => continue,
                Some(Stream::Small) => {
                    heads_seen = true;
                    self.shared.index.used_slots(segment)
                }
                // What was live when it was written is not live any more.
                Some(Stream::Live) => 0,
                Some(Stream::VodNew | Stream::VodKept) => self.shared.index.used_slots(segment),
            };
            if victim.is_none_or(|(least, ..)| used < least) {
                victim = Some((used, at, segment));
            }
        }
        victim.map(|(_, at, segment)| (at, segment))
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
        let segment_bytes = self.map.geometry.segment_bytes;
        let mut budget = match stream {
            Stream::Small => segment_bytes / 4 * 3,
            _ => segment_bytes / 2,
        };
        let mut window = Window::default();
        let mut copied = false;
        for row in &summary.rows {
            let len = row.slots() * SLOT_BYTES;
            let Some(used) = self.use_of(segment, row).filter(|_| len <= budget) else { continue };
            // Whether a head is of use its owner may know better.
            let is_asked = row.key.is_head() && self.keep.is_some();
            if !used && !is_asked {
                continue;
            }
            let Some(location) = self.location_of(segment, row) else { return };
            let whole = if is_asked { READ_BYTES } else { 0 };
            let Some(extent) = self.read_for(&mut window, row, &location, whole).await else {
                continue;
            };
            if self.keep.as_ref().is_some_and(|keep| !keep(&extent.header, &extent.payload, used)) {
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

    /// Reads the extent of a row, and with it what follows up to `ahead` bytes.
    async fn read_for(
        &self,
        window: &mut Window,
        row: &SummaryRow,
        location: &Location,
        ahead: u32,
    ) -> Option<Extent> {
        if window.slice(location).is_none() {
            let geometry = self.map.geometry;
            let end = geometry.segment_offset(location.segment) + u64::from(geometry.segment_bytes);
            let rest = u32::try_from(end - location.offset).unwrap_or(u32::MAX);
            let len = location.len.max(ahead).min(rest);
            let bytes = self.device.read(location.offset, len as usize).await.ok()?;
            *window = Window { offset: location.offset, bytes };
        }
        verify_extent(&row.key, location, window.slice(location)?).ok()
    }

    /// Whether the row's extent was used since it was written; `None`: it is not what a lookup finds.
    fn use_of(&self, segment: u32, row: &SummaryRow) -> Option<bool> {
        let hash = row.key.hash(self.shared.hash_seed);
        let found = self.shared.index.find(hash, row.key.block)?;
        let is_it = found.place.segment == segment && found.place.slot == u32::from(row.slot);
        is_it.then_some(found.frequency >= 1)
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

/// Bytes of the device that were read together.
#[derive(Default)]
struct Window {
    offset: u64,
    bytes: Bytes,
}

impl Window {
    fn slice(&self, location: &Location) -> Option<Bytes> {
        let start = usize::try_from(location.offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(location.len as usize)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}
