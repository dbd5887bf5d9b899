//! What can go wrong, sorted by who must act.
//!
//! Owns the error types of this crate. Must stay true: each text names the place on the device (the caller
//! adds the path) and says how to mend it; a miss is not an error; corrupt bytes are counted and are never
//! fatal.

use std::fmt;

use crate::device::DeviceError;
use crate::health::DeviceState;
use crate::layout::{
    JOURNAL_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MAX, SEGMENTS_MIN,
};

/// Why a record (superblock, segment header, summary) cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// The checksum does not match: torn, overwritten or rotten.
    Checksum,
    /// It is sound but belongs to another device, store segment or life.
    Elsewhere,
    /// A field has a value this format does not allow.
    Field,
    /// It was written by a format this program does not know.
    Format(u32),
    /// The magic number is missing: this is something else.
    Magic,
    /// Fewer bytes than the record needs.
    Short,
    /// All zeros: never written.
    Zero,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRecord::Checksum => f.write_str("its checksum does not match"),
            BadRecord::Elsewhere => {
                f.write_str("it belongs to another device, store segment or life")
            }
            BadRecord::Field => f.write_str("a field has a value this format does not allow"),
            BadRecord::Format(found) => {
                write!(f, "it has format {found}, which this program does not know")
            }
            BadRecord::Magic => f.write_str("its magic number is missing"),
            BadRecord::Short => f.write_str("it is cut short"),
            BadRecord::Zero => f.write_str("it is all zeros"),
        }
    }
}

/// Why the bytes read from a location are not the extent that was asked for. Each of these is a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadExtent {
    /// The header is not sound: torn, overwritten, or the place was reused by something else.
    Header,
    /// Not as many bytes as the location says.
    Length,
    /// A sound extent, but of another key, version or block.
    Other,
    /// The header is sound, the payload is not.
    Payload,
    /// A sound extent of another place or of an older life of the store segment.
    Stale,
}

impl fmt::Display for BadExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadExtent::Header => "the extent's header is not sound",
            BadExtent::Length => "fewer or more bytes were read than the extent has",
            BadExtent::Other => "the extent belongs to another key, version or block",
            BadExtent::Payload => "the extent's payload does not match its checksum",
            BadExtent::Stale => {
                "the extent is of another place or of an older life of its store segment"
            }
        })
    }
}

impl std::error::Error for BadExtent {}

/// A read that failed in the device, not one that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFault(pub DeviceError);

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an extent could not be read; the object is filled again")
    }
}

impl std::error::Error for ReadFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Why the purge journal did not take records. They may be on the device or not: whoever issued them must try
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalError {
    Device(DeviceError),
    /// No page is free, and no record could be retired.
    Full {
        records: usize,
    },
    /// The device said that it wrote, and did not.
    NotThere {
        offset: u64,
    },
    /// The device no longer takes writes.
    Refused(DeviceState),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Device(error) => {
                write!(f, "the purge journal could not be written ({error}); replace the device")
            }
            JournalError::Full { records } => write!(
                f,
                "the purge journal is full ({records} records); purge whole delivery services, which one \
                 record each says"
            ),
            JournalError::NotThere { offset } => write!(
                f,
                "the device lost what was written at byte {offset} of the purge journal; replace it"
            ),
            JournalError::Refused(state) => {
                write!(f, "the device is {state} and takes no writes; replace it or let it rejoin")
            }
        }
    }
}

impl std::error::Error for JournalError {}

/// Why an extent was not taken. None of these reaches a viewer: the object is served without being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// Every store segment is open; cannot happen with at least [`SEGMENTS_MIN`] of them.
    NoFreeSegment,
    /// The device no longer takes writes.
    Refused(DeviceState),
    /// The payload has more bytes than one extent of this device may hold.
    TooLarge { payload_bytes: usize, payload_bytes_max: usize },
    /// The device failed; the open store segment was given up with all that was not yet written.
    Write(DeviceError),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::NoFreeSegment => {
                f.write_str("no store segment is free; format the device with more of them")
            }
            AppendError::Refused(state) => {
                write!(f, "the device is {state} and takes no writes; replace it or let it rejoin")
            }
            AppendError::TooLarge { payload_bytes, payload_bytes_max } => write!(
                f,
                "a payload of {payload_bytes} bytes does not fit in one extent; \
                 the most is {payload_bytes_max}"
            ),
            AppendError::Write(_) => {
                f.write_str("writing an extent failed; its store segment was given up")
            }
        }
    }
}

impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AppendError::Write(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a size cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    BlockSize { found: u32 },
    JournalBytes { found: u32 },
    SegmentBytes { found: u32 },
    TooFewSegments { fits: u64, segment_bytes: u32 },
    TooManySegments { fits: u64, segment_bytes: u32 },
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GeometryError::BlockSize { found } => {
                write!(f, "the device has blocks of {found} bytes; the store needs 512 or 4096")
            }
            GeometryError::JournalBytes { found } => {
                write!(
                    f,
                    "journal_bytes is {found}; it must be a multiple of 4096, at least {JOURNAL_BYTES_MIN}"
                )
            }
            GeometryError::SegmentBytes { found } => write!(
                f,
                "segment_bytes is {found}; it must be a power of two \
                 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            ),
            GeometryError::TooFewSegments { fits, segment_bytes } => write!(
                f,
                "only {fits} store segments of {segment_bytes} bytes fit and {SEGMENTS_MIN} are needed; \
                 enlarge the device or lower segment_bytes"
            ),
            GeometryError::TooManySegments { fits, segment_bytes } => write!(
                f,
                "{fits} store segments of {segment_bytes} bytes would fit but at most {SEGMENTS_MAX} can be \
                 addressed; raise segment_bytes or use a smaller partition"
            ),
        }
    }
}

impl std::error::Error for GeometryError {}

/// Why a device was not formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    Device(DeviceError),
    Geometry(GeometryError),
    /// The device holds something, and `overwrite` was not given.
    NotBlank {
        offset: u64,
        store: bool,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormatError::Device(_) => f.write_str("formatting stopped because the device failed"),
            FormatError::Geometry(_) => f.write_str("the device cannot be laid out with these options"),
            FormatError::NotBlank { store: true, .. } => f.write_str(
                "the device already holds a Tidegate store; open it, or say overwrite to lose what it holds",
            ),
            FormatError::NotBlank { offset, store: false } => write!(
                f,
                "the device is not blank (first byte that is not zero: {offset}); check that it is the right \
                 one, then say overwrite"
            ),
        }
    }
}

impl std::error::Error for FormatError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FormatError::Device(error) => Some(error),
            FormatError::Geometry(error) => Some(error),
            FormatError::NotBlank { .. } => None,
        }
    }
}

/// Why a device was not opened. Damage inside store segments is never one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// All zeros at its start and end: never used.
    Blank,
    /// Both superblocks are damaged, but one bears our magic number.
    Damaged {
        first: BadRecord,
        second: BadRecord,
    },
    Device(DeviceError),
    /// Neither blank nor ours.
    Foreign {
        offset: u64,
    },
    Format {
        found: u32,
        known: u32,
    },
    Geometry(GeometryError),
    IndexTooLarge {
        needed_bytes: u64,
        index_bytes_max: u64,
        extent_mean_bytes: u64,
    },
    /// An option has a value that cannot work.
    Option {
        name: &'static str,
        found: u64,
        mend: &'static str,
    },
    /// The device is smaller than when it was formatted.
    Shrunk {
        device_bytes: u64,
        needed_bytes: u64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Blank => f.write_str("the device is blank; format it first"),
            OpenError::Damaged { first, second } => write!(
                f,
                "both superblocks are damaged (first: {first}; second: {second}); what is stored cannot be \
                 found any more: format the device with overwrite, it fills again"
            ),
            OpenError::Device(_) => {
                f.write_str("the device failed while its superblocks were read")
            }
            OpenError::Foreign { offset } => write!(
                f,
                "the device holds something that is not a Tidegate store (at byte {offset}); check that \
                 it is the right device before formatting it with overwrite"
            ),
            OpenError::Format { found, known } => write!(
                f,
                "the device has store format {found}, this program knows {known}; use the program that wrote \
                 it, or format the device with overwrite"
            ),
            OpenError::Geometry(_) => f.write_str("the geometry in the superblock cannot be used"),
            OpenError::IndexTooLarge { needed_bytes, index_bytes_max, extent_mean_bytes } => {
                write!(
                    f,
                    "an index for extents of {extent_mean_bytes} bytes on average needs {needed_bytes} bytes \
                     of memory, more than index_bytes_max = {index_bytes_max}; raise index_bytes_max \
                     or extent_mean_bytes"
                )
            }
            OpenError::Option { name, found, mend } => write!(f, "{name} is {found}; {mend}"),
            OpenError::Shrunk { device_bytes, needed_bytes } => write!(
                f,
                "the device has {device_bytes} bytes but was formatted for {needed_bytes}; restore its size \
                 or format it with overwrite"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Device(error) => Some(error),
            OpenError::Geometry(error) => Some(error),
            _ => None,
        }
    }
}
