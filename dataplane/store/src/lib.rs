//! The log-structured segment store of one device: superblock, store segments, extents, RAM index.
//!
//! Owns what the bytes on a device mean. It is generic over [`Device`] and has no I/O, no clock and no random
//! source of its own, so the same code runs on the kernel ring and on a simulated faulty disk.
//!
//! Must stay true:
//! 1. A byte that leaves the store was verified against the extent's header, key and both checksums. Whatever
//!    the device does (tears, loses, misdirects or flips), the result is at worst a miss.
//! 2. Recovery after a crash and after a stop is the same code: superblock, segment headers, summaries, and a
//!    walk of the few store segments that have no summary.
//! 3. Every store segment, extent and open of the device takes a number from one sequence that never goes
//!    back, so bytes of an older life of a store segment are never taken for new ones.
//! 4. One writer ([`Store`]), any number of readers ([`Reader`]), no lock between them.
//!
//! Does not do: admission, RAM tier, freshness; what a purge means (it keeps the journal, `journal.rs`).
//!
//! Where to start reading: `layout.rs` (the map of a device), `writer.rs` (append and seal), `reader.rs`
//! (the argument why a lock-free read is never wrong), `recover.rs`.
#![forbid(unsafe_code)]

pub mod checksum;
mod device;
mod error;
mod extent;
mod format;
mod health;
mod index;
mod inspect;
mod journal;
mod layout;
mod reader;
mod reclaim;
mod recover;
mod roll;
mod segment;
mod store;
mod summary;
mod superblock;
mod walk;
mod writer;

pub use device::{Device, DeviceError, DeviceOperation};
pub use error::{
    AppendError, BadExtent, BadRecord, FormatError, GeometryError, JournalError, OpenError,
    ReadFault,
};
pub use extent::{ExpiryClass, Extent, ExtentHeader, ExtentKey, ExtentKind, HEAD_BLOCK};
pub use format::{FormatOptions, format};
pub use health::DeviceState;
pub use index::{Index, IndexEntry, Place};
pub use inspect::{Inspection, SegmentReport, SegmentState, VerifyReport, inspect, verify};
pub use journal::{JournalRecord, JournalReport, RECORD_PAYLOAD_BYTES, decode_page};
pub use layout::{
    EXTENT_HEADER_BYTES, Geometry, JOURNAL_BYTES_DEFAULT, JOURNAL_BYTES_MIN, JOURNAL_OFFSET,
    PAYLOAD_BYTES_MAX, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MAX,
    SEGMENTS_MIN, SLOT_BYTES, SUPERBLOCK_OFFSETS, device_seed,
};
pub use reader::{Location, Reader, read, verify_extent};
pub use recover::RecoveryReport;
pub use roll::{Roll, RollEntry, Standing};
pub use segment::{SegmentHeader, Stream};
pub use store::{Counters, OpenOptions, Store};
pub use summary::{Summary, SummaryRow, summary_slots};
pub use superblock::{CopyState, Superblock, identify};
pub use writer::Appended;
