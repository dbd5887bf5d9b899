//! Appending: from a payload to bytes on the device, then to an entry in the index.
//!
//! Owns the open store segment of each stream and its write buffer.
//!
//! ```text
//! free -> open (header written and flushed) -> extents, in writes of one unit -> sealed (summary, flush)
//!           \------------------ a write fails or is cancelled: abandoned ------------------/
//! ```
//!
//! Must stay true: an extent becomes visible only after all its bytes were written without error; extents
//! become visible in the order of their sequence; an abandoned segment keeps what was visible and is
//! reclaimed in its turn. If the future of an append is dropped while it writes, the segment counts as
//! abandoned too.

use std::collections::VecDeque;

use crate::device::{Device, DeviceError};
use crate::error::AppendError;
use crate::extent::{ExpiryClass, ExtentHeader, ExtentKey, payload_crc};
use crate::health::DeviceState;
use crate::index::Place;
use crate::layout::{EXTENT_HEADER_BYTES, SLOT, SLOT_BYTES, extent_slots};
use crate::segment::{SegmentHeader, Stream};
use crate::store::Store;
use crate::summary::{Summary, SummaryRow, summary_slots};

/// An extent that was taken. It is visible once its write has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub sequence: u64,
    pub segment: u32,
    pub slot: u32,
    /// Bytes it takes on the device.
    pub stored_bytes: u32,
}

/// Whether an append may reclaim a segment first; reclaim's own appends must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MakeRoom {
    Allowed,
    Forbidden,
}

/// A segment that is being filled.
pub(crate) struct OpenSegment<B> {
    segment: u32,
    sequence: u64,
    slot_next: u32,
    rows: Vec<SummaryRow>,
    pending: VecDeque<Pending>,
    /// `None` while the device has it.
    unit: Option<B>,
    /// Where in the segment the unit's first byte goes; everything before it is written.
    unit_start: usize,
    unit_filled: usize,
    /// An operation has begun and not ended: true at the start of the next one if its future was dropped.
    busy: bool,
}

/// An extent whose bytes are not all written.
struct Pending {
    key: ExtentKey,
    place: Place,
    removed: bool,
}

impl<B> OpenSegment<B> {
    /// Marks extents of the key that are not visible yet, so that they never will be.
    pub(crate) fn drop_pending(&mut self, key: &ExtentKey) -> bool {
        let mut dropped = false;
        for pending in self.pending.iter_mut().filter(|pending| key.is_answered_by(&pending.key)) {
            dropped |= !pending.removed;
            pending.removed = true;
        }
        dropped
    }

    /// Whether an extent fits and leaves room for the summary that will have one more row.
    fn fits(&self, slots: u32, segment_slots: u32) -> bool {
        self.slot_next + slots + summary_slots(self.rows.len() + 1) <= segment_slots
    }
}

impl<D: Device> Store<D> {
    /// Appends one extent; the payload is given in pieces. The heads of one object should always go to the
    /// same stream: segments die in order within a stream only.
    ///
    /// # Errors
    /// When the extent is not taken; never a reason to fail a viewer.
    pub async fn append(
        &mut self,
        stream: Stream,
        key: ExtentKey,
        payload: &[&[u8]],
        class: ExpiryClass,
    ) -> Result<Appended, AppendError> {
        let appended = self.append_with(MakeRoom::Allowed, stream, key, payload, class).await;
        match &appended {
            Ok(_) => self.counters.extents_appended += 1,
            Err(_) => self.counters.appends_refused += 1,
        }
        appended
    }

    /// Writes what is buffered, so that it becomes visible. For the owner's timer. Not a flush of the device.
    ///
    /// # Errors
    /// The first failure; the other streams are still written.
    pub async fn flush_pending(&mut self) -> Result<(), AppendError> {
        let mut result = Ok(());
        for stream in Stream::ALL {
            if self.begin(stream) {
                result = result.and(self.write_partial(stream).await);
                self.end(stream);
            }
        }
        result
    }

    /// Writes what is buffered and makes everything durable.
    ///
    /// # Errors
    /// When a write or the flush failed.
    pub async fn sync(&mut self) -> Result<(), AppendError> {
        let written = self.flush_pending().await;
        let flushed = self.flush().await;
        written.and(flushed.map_err(AppendError::Write))
    }

    /// Seals every open segment; afterwards all that was appended is durable. Not needed before a stop.
    ///
    /// # Errors
    /// The first failure; the other streams are still sealed.
    pub async fn seal_all(&mut self) -> Result<(), AppendError> {
        let mut result = Ok(());
        for stream in Stream::ALL {
            if self.begin(stream) {
                result = result.and(self.seal(stream).await);
            }
        }
        result
    }

    pub(crate) async fn append_with(
        &mut self,
        make_room: MakeRoom,
        stream: Stream,
        key: ExtentKey,
        payload: &[&[u8]],
        class: ExpiryClass,
    ) -> Result<Appended, AppendError> {
        let payload_bytes: usize = payload.iter().map(|piece| piece.len()).sum();
        let payload_bytes_max = self.map.geometry.payload_bytes_max() as usize;
        if payload_bytes > payload_bytes_max {
            return Err(AppendError::TooLarge { payload_bytes, payload_bytes_max });
        }
        let slots = extent_slots(payload_bytes as u32);
        self.open_with_room(make_room, stream, slots).await?;
        let sequence = self.next_sequence();
        let seed = self.map.seed;
        let open = self.open_of(stream);
        let header = ExtentHeader {
            key,
            sequence,
            payload_bytes: payload_bytes as u32,
            payload_crc: payload_crc(seed, payload),
            segment: open.segment,
            slot: open.slot_next as u16,
            class,
        };
        let place = Place { segment: open.segment, slot: open.slot_next, slots };
        open.busy = true;
        open.rows.push(SummaryRow::from(&header));
        open.pending.push_back(Pending { key, place, removed: false });
        open.slot_next += slots;

        self.put(stream, &header.encode(seed)).await?;
        for piece in payload {
            self.put(stream, piece).await?;
        }
        let padding = slots as usize * SLOT - EXTENT_HEADER_BYTES - payload_bytes;
        self.put(stream, &[0; SLOT][..padding]).await?;
        self.end(stream);
        self.counters.bytes_payload += payload_bytes as u64;
        Ok(Appended {
            sequence,
            segment: place.segment,
            slot: place.slot,
            stored_bytes: slots * SLOT_BYTES,
        })
    }

    /// Makes sure the stream has an open segment in which `slots` fit.
    async fn open_with_room(
        &mut self,
        make_room: MakeRoom,
        stream: Stream,
        slots: u32,
    ) -> Result<(), AppendError> {
        let segment_slots = self.map.geometry.segment_slots();
        loop {
            if self.state() >= DeviceState::ReadOnly {
                return Err(AppendError::Refused(self.state()));
            }
            if self.begin(stream) {
                if self.open_of(stream).fits(slots, segment_slots) {
                    return Ok(());
                }
                self.seal(stream).await?;
            }
            if make_room == MakeRoom::Allowed {
                self.reclaim_to_reserve().await;
            }
            // Reclaim may have opened a segment of this very stream for what it kept.
            if self.streams[stream.number()].is_none() {
                self.open_segment(stream).await?;
            }
        }
    }

    async fn open_segment(&mut self, stream: Stream) -> Result<(), AppendError> {
        let segment = *self.free.front().ok_or(AppendError::NoFreeSegment)?;
        let sequence = self.next_sequence();
        let header = SegmentHeader { uuid: self.map.uuid, segment, sequence, stream };
        let mut buffer = self.device.buffer(SLOT);
        buffer.as_mut().copy_from_slice(&header.encode());
        let written = self.write(self.map.geometry.segment_offset(segment), buffer).await.0;
        // Flushed before the first extent: the old life must be gone before a later one can be lost.
        let opened = match written {
            Ok(()) => self.flush().await,
            failed => failed,
        };
        self.free.pop_front();
        if let Err(error) = opened {
            self.counters.segments_abandoned += 1;
            self.sealed.push_back(segment);
            return Err(AppendError::Write(error));
        }
        self.head_lives[segment as usize] =
            if stream == Stream::Small { sequence } else { u64::MAX };
        self.shared.index.begin_life(segment, sequence);
        self.segment_streams[segment as usize] = Some(stream);
        self.streams[stream.number()] = Some(OpenSegment {
            segment,
            sequence,
            slot_next: 1,
            rows: Vec::new(),
            pending: VecDeque::new(),
            unit: Some(self.device.buffer(self.options.write_unit_bytes as usize)),
            unit_start: SLOT,
            unit_filled: 0,
            busy: false,
        });
        Ok(())
    }

    /// Writes the rest, the summary, and flushes. Only the first can lose extents; without the summary the
    /// next recovery walks the segment.
    async fn seal(&mut self, stream: Stream) -> Result<(), AppendError> {
        self.write_partial(stream).await?;
        let Some(open) = self.streams[stream.number()].take() else { return Ok(()) };
        self.sealed.push_back(open.segment);
        let summary = Summary { segment: open.segment, sequence: open.sequence, rows: open.rows };
        // A failure is counted and moves the device's state; the extents are there either way.
        let _ = self.write_summary(&summary).await;
        Ok(())
    }

    pub(crate) async fn write_summary(&mut self, summary: &Summary) -> Result<(), DeviceError> {
        let slots = summary_slots(summary.rows.len());
        let geometry = self.map.geometry;
        let mut buffer = self.device.buffer(slots as usize * SLOT);
        summary.encode_into(buffer.as_mut(), self.map.seed);
        let offset = geometry.slot_offset(summary.segment, geometry.segment_slots() - slots);
        self.write(offset, buffer).await.0?;
        self.flush().await
    }

    /// Copies bytes into the write buffer, writing it out whenever it is full.
    async fn put(&mut self, stream: Stream, mut bytes: &[u8]) -> Result<(), AppendError> {
        while !bytes.is_empty() {
            let open = self.open_of(stream);
            let filled = open.unit_filled;
            let unit = open
                .unit
                .as_mut()
                .expect("the unit is here unless the segment is busy writing")
                .as_mut();
            let len = bytes.len().min(unit.len() - filled);
            unit[filled..filled + len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            open.unit_filled += len;
            if open.unit_filled == unit.len() {
                let unit = open.unit.take().expect("borrowed from it just above");
                let unit = self.write_unit(stream, unit).await?;
                self.open_of(stream).unit = Some(unit);
            }
        }
        Ok(())
    }

    /// Writes a unit that is not full. It ends on a slot, since extents do.
    async fn write_partial(&mut self, stream: Stream) -> Result<(), AppendError> {
        let Some(open) = &self.streams[stream.number()] else { return Ok(()) };
        let filled = open.unit_filled;
        if filled == 0 {
            return Ok(());
        }
        debug_assert!(filled.is_multiple_of(SLOT), "extents end on a slot");
        let mut part = self.device.buffer(filled);
        let unit = open.unit.as_ref().expect("the unit is here unless the segment is busy writing");
        part.as_mut().copy_from_slice(&unit.as_ref()[..filled]);
        self.write_unit(stream, part).await?;
        Ok(())
    }

    async fn write_unit(
        &mut self,
        stream: Stream,
        data: D::WriteBuffer,
    ) -> Result<D::WriteBuffer, AppendError> {
        let open = self.open_of(stream);
        open.busy = true;
        let len = open.unit_filled;
        let (segment, start) = (open.segment, open.unit_start);
        let offset = self.map.geometry.segment_offset(segment) + start as u64;
        let (written, data) = self.write(offset, data).await;
        if let Err(error) = written {
            self.abandon(stream);
            return Err(AppendError::Write(error));
        }
        let open = self.open_of(stream);
        open.unit_start = start + len;
        open.unit_filled = 0;
        self.publish(stream);
        Ok(data)
    }

    /// Makes the extents visible whose last byte is written.
    fn publish(&mut self, stream: Stream) {
        let Some(open) = self.streams[stream.number()].as_mut() else { return };
        let written_slots = (open.unit_start / SLOT) as u32;
        while let Some(next) = open.pending.front() {
            if next.place.slot + next.place.slots > written_slots {
                return;
            }
            let Some(pending) = open.pending.pop_front() else { return };
            if !pending.removed {
                let hash = pending.key.hash(self.shared.hash_seed);
                self.shared.index.insert(hash, pending.key.block, pending.place);
                self.counters.extents_published += 1;
            }
        }
    }

    /// Starts an operation on the open segment, if there is one; gives up one whose last operation never
    /// ended.
    fn begin(&mut self, stream: Stream) -> bool {
        if self.streams[stream.number()].as_ref().is_some_and(|open| open.busy) {
            self.abandon(stream);
        }
        self.streams[stream.number()].is_some()
    }

    fn end(&mut self, stream: Stream) {
        if let Some(open) = &mut self.streams[stream.number()] {
            open.busy = false;
        }
    }

    fn abandon(&mut self, stream: Stream) {
        if let Some(open) = self.streams[stream.number()].take() {
            self.counters.segments_abandoned += 1;
            self.counters.extents_dropped += open.pending.len() as u64;
            self.sealed.push_back(open.segment);
        }
    }

    fn open_of(&mut self, stream: Stream) -> &mut OpenSegment<D::WriteBuffer> {
        self.streams[stream.number()].as_mut().expect("callers opened the stream's segment first")
    }

    pub(crate) async fn write(
        &mut self,
        offset: u64,
        data: D::WriteBuffer,
    ) -> (Result<(), DeviceError>, D::WriteBuffer) {
        let len = data.as_ref().len() as u64;
        let (written, data) = self.device.write(offset, data).await;
        self.shared.health.note_write(written.is_ok());
        if written.is_ok() {
            self.counters.bytes_written += len;
        }
        (written, data)
    }

    pub(crate) async fn flush(&mut self) -> Result<(), DeviceError> {
        let flushed = self.device.flush().await;
        self.shared.health.note_flush(flushed.is_ok());
        flushed
    }
}
