//! The store of one device: its options, its one writer, its counters.
//!
//! Owns which store segments are free, open and sealed. Must stay true: every segment is in exactly one of
//! `free`, `sealed` and `streams`; `free` and `sealed` are used from the front and filled at the back, so
//! segments die in the order in which they were finished, and an older head never outlives a newer one of its
//! stream. `writer.rs` appends and seals, `reclaim.rs` takes back, `recover.rs` opens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::device::{Device, DeviceError};
use crate::error::OpenError;
use crate::extent::{ExtentHeader, ExtentKey};
use crate::health::DeviceState;
use crate::index::{ENTRY_BYTES, Index};
use crate::journal::Journal;
use crate::layout::{Geometry, SEGMENTS_MIN, SLOT_BYTES};
use crate::reader::{Reader, Shared};
use crate::recover::RecoveryReport;
use crate::segment::Stream;
use crate::summary::Summary;
use crate::superblock::{Superblock, write_copy};
use crate::walk::Map;
use crate::writer::OpenSegment;

/// How to open a device. Nothing here is on the device; all may change from one opening to the next.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Bytes of an extent on average: sizes the index.
    pub extent_mean_bytes: u64,
    /// The most memory the index may take; a device that needs more is refused.
    pub index_bytes_max: u64,
    /// Segments kept free; at least two, for reclaim itself may need to open some.
    pub segments_reserve: u32,
    /// One write to the device; 1-4 MiB keep a drive sequential.
    pub write_unit_bytes: u32,
    /// Failed writes in a row until the device is read only.
    pub write_errors_max: u32,
    /// Failed reads in a row until the device is out.
    pub read_errors_max: u32,
    /// Whether extents that were used are appended again when their segment is reclaimed.
    pub reappend: bool,
    /// Whether the space of a segment that becomes free is given back to the device.
    pub discard: bool,
    /// Reads that recovery keeps in flight.
    pub reads_in_flight: u32,
    /// Write nothing at all, not even the epoch; until [`Store::promote`].
    pub read_only: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            extent_mean_bytes: 64 << 10,
            index_bytes_max: 1 << 30,
            segments_reserve: 2,
            write_unit_bytes: 1 << 20,
            write_errors_max: 3,
            read_errors_max: 16,
            reappend: true,
            discard: false,
            reads_in_flight: 32,
            read_only: false,
        }
    }
}

impl OpenOptions {
    pub(crate) fn check(&self, geometry: &Geometry) -> Result<(), OpenError> {
        let refuse = |name, found, mend| Err(OpenError::Option { name, found, mend });
        if self.extent_mean_bytes < u64::from(SLOT_BYTES) {
            return refuse("extent_mean_bytes", self.extent_mean_bytes, "it must be at least 4096");
        }
        if self.segments_reserve < 2 || self.segments_reserve > geometry.segment_count / 4 {
            let mend = "it must be at least 2 and at most a quarter of the store segments";
            return refuse("segments_reserve", u64::from(self.segments_reserve), mend);
        }
        if self.write_unit_bytes == 0
            || !self.write_unit_bytes.is_multiple_of(SLOT_BYTES)
            || self.write_unit_bytes > geometry.segment_bytes
        {
            let mend = "it must be a multiple of 4096 and not larger than a store segment";
            return refuse("write_unit_bytes", u64::from(self.write_unit_bytes), mend);
        }
        let needed_bytes = self.index_capacity(geometry).saturating_mul(ENTRY_BYTES);
        if needed_bytes > self.index_bytes_max {
            let (index_bytes_max, extent_mean_bytes) =
                (self.index_bytes_max, self.extent_mean_bytes);
            return Err(OpenError::IndexTooLarge {
                needed_bytes,
                index_bytes_max,
                extent_mean_bytes,
            });
        }
        Ok(())
    }

    pub(crate) fn index_capacity(&self, geometry: &Geometry) -> u64 {
        let stored_bytes = u64::from(geometry.segment_count) * u64::from(geometry.segment_bytes);
        Index::capacity_for(stored_bytes, self.extent_mean_bytes)
    }
}

const _: () = assert!(SEGMENTS_MIN / 4 >= 2, "the least device allows the least reserve");

/// What happened on a device since it was opened, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub extents_appended: u64,
    pub extents_published: u64,
    pub extents_reappended: u64,
    /// Extents whose write failed; they never became visible.
    pub extents_dropped: u64,
    pub extents_removed: u64,
    pub extents_bad: u64,
    pub appends_refused: u64,
    pub bytes_payload: u64,
    pub bytes_written: u64,
    pub bytes_discarded: u64,
    pub write_errors: u64,
    pub read_errors: u64,
    pub segments_free: u64,
    pub segments_open: u64,
    pub segments_sealed: u64,
    pub segments_abandoned: u64,
    pub reclaims: u64,
    pub index_entries: u64,
    pub index_entries_max: u64,
    pub index_displaced: u64,
}

/// The owner's say at reclaim: whether an extent is worth copying.
pub(crate) type Keep = Box<dyn Fn(&ExtentHeader, &Bytes, bool) -> bool>;

/// The one writer of a device. Not shared: the core that owns the device holds it.
pub struct Store<D: Device> {
    pub(crate) device: D,
    pub(crate) map: Map,
    pub(crate) options: OpenOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) superblock: Superblock,
    /// Bytes that earlier openings wrote.
    pub(crate) written_before: u64,
    pub(crate) reappend_paused: bool,
    /// Both copies of the superblock carry this opening's epoch; nothing else may be written before.
    pub(crate) epoch_written: bool,
    pub(crate) keep: Option<Keep>,
    pub(crate) sequence_next: u64,
    pub(crate) free: VecDeque<u32>,
    pub(crate) sealed: VecDeque<u32>,
    pub(crate) streams: [Option<OpenSegment<D::WriteBuffer>>; 4],
    /// For each segment the stream of its present life.
    pub(crate) segment_streams: Vec<Option<Stream>>,
    /// For each segment the sequence at which the life that a recovery would find began, if that life holds
    /// heads; else `u64::MAX`.
    pub(crate) head_lives: Vec<u64>,
    pub(crate) journal: Journal,
    pub(crate) counters: Counters,
    /// Of segments that were walked by an opening for reading only.
    pub(crate) unsealed: Vec<Summary>,
}

impl<D: Device> Store<D> {
    /// A handle for lookups on any core.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    pub fn device(&self) -> &D {
        &self.device
    }

    pub fn uuid(&self) -> u128 {
        self.map.uuid
    }

    pub fn geometry(&self) -> Geometry {
        self.map.geometry
    }

    pub fn state(&self) -> DeviceState {
        self.shared.health.state()
    }

    /// Lets a device that was fenced take part again; asked for by an operator, never done by itself.
    /// A device that was opened for reading only stays so.
    ///
    /// # Errors
    /// When the epoch of this opening is not on the device yet and cannot be written now either.
    pub async fn rejoin(&mut self) -> Result<(), DeviceError> {
        if self.options.read_only {
            return Ok(());
        }
        if !self.epoch_written {
            for copy in [0, 1] {
                write_copy(&self.device, copy, Some(&self.superblock)).await?;
            }
            self.epoch_written = true;
        }
        self.shared.health.rejoin();
        Ok(())
    }

    /// Makes this, that was opened for reading only, the one writer: whoever was before writes no more, and has not since
    /// the device was opened. Does what the opening left out.
    ///
    /// # Errors
    /// When the epoch could not be written; the device stays read only.
    pub async fn promote(&mut self, report: &mut RecoveryReport) -> Result<(), DeviceError> {
        if !self.options.read_only {
            return Ok(());
        }
        self.options.read_only = false;
        if self.state() == DeviceState::ReadOnly {
            self.rejoin().await?;
        }
        let walked = std::mem::take(&mut self.unsealed);
        self.reseal(walked, report).await;
        Ok(())
    }

    /// Asks `keep`, with the payload, before an extent is appended again at reclaim: a head that was purged must
    /// not be (see `journal.rs`), one that has expired should not. Asked of all heads, with whether they were used (who
    /// has an object in memory looks up its blocks, not its head), and of other extents that were used.
    pub fn keep_if(&mut self, keep: impl Fn(&ExtentHeader, &Bytes, bool) -> bool + 'static) {
        self.keep = Some(Box::new(keep));
    }

    /// Makes the extent (for a head key: the head of any version) a miss from now on. Writes nothing: after a
    /// restart it is found again, so a purge must also be kept by whoever asks for it.
    pub fn remove(&mut self, key: &ExtentKey) -> bool {
        let mut removed = false;
        for open in self.streams.iter_mut().flatten() {
            removed |= open.drop_pending(key);
        }
        removed |= self.shared.index.remove(key.hash(self.shared.hash_seed), key.block);
        self.counters.extents_removed += u64::from(removed);
        removed
    }

    /// Bytes written to the device over all openings, as far as superblocks tell.
    pub fn written_bytes(&self) -> u64 {
        self.written_before.saturating_add(self.counters.bytes_written)
    }

    /// Writes down how much has been written, for the next opening. A crash loses what came since.
    ///
    /// # Errors
    /// When a superblock could not be written; the other copy stays good.
    pub async fn note_written(&mut self) -> Result<(), DeviceError> {
        if self.state() >= DeviceState::ReadOnly {
            return Ok(());
        }
        self.superblock.written_bytes = self.written_bytes();
        for copy in [0, 1] {
            write_copy(&self.device, copy, Some(&self.superblock)).await?;
        }
        Ok(())
    }

    /// Stops or resumes appending used extents again at reclaim, which costs writes.
    pub fn pause_reappend(&mut self, paused: bool) {
        self.reappend_paused = paused;
    }

    pub fn counters(&self) -> Counters {
        let (index, health) = (&self.shared.index, &self.shared.health);
        Counters {
            extents_bad: self.counters.extents_bad + health.bad_extents.load(Ordering::Relaxed),
            write_errors: health.write_errors.load(Ordering::Relaxed),
            read_errors: health.read_errors.load(Ordering::Relaxed),
            segments_free: self.free.len() as u64,
            segments_open: self.streams.iter().flatten().count() as u64,
            segments_sealed: self.sealed.len() as u64,
            index_entries: index.used(),
            index_entries_max: index.capacity() as u64,
            index_displaced: index.displaced(),
            ..self.counters
        }
    }

    pub(crate) fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence_next;
        self.sequence_next += 1;
        sequence
    }
}
