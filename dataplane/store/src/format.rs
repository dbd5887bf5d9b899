//! Making a device ours.
//!
//! Owns the order of writes that turns a blank device into an empty store. Must stay true: a device that
//! holds anything is left untouched unless the caller said `overwrite`; a crash in the middle leaves either
//! what was there, or a new empty store, or a device that says it must be formatted.

use crate::device::Device;
use crate::error::{FormatError, GeometryError};
use crate::layout::{Geometry, JOURNAL_BYTES_DEFAULT, JOURNAL_OFFSET, SEGMENT_BYTES_DEFAULT};
use crate::superblock::{CopyState, Superblock, first_data, read_copies, write_copy};

/// One write of zeros.
const ZEROS_BYTES: usize = 1 << 20;

/// How to format a device.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// Must never have been used before, on this device or another: it seeds every checksum, and thereby
    /// tells the extents of this store from those of the one that was here before.
    pub uuid: u128,
    pub segment_bytes: u32,
    pub journal_bytes: u32,
    /// Format even if the device holds something.
    pub overwrite: bool,
    /// Bytes that were written to the device before: its wear goes on.
    pub written_bytes: u64,
}

impl FormatOptions {
    pub fn new(uuid: u128) -> Self {
        Self {
            uuid,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            journal_bytes: JOURNAL_BYTES_DEFAULT,
            overwrite: false,
            written_bytes: 0,
        }
    }
}

/// Formats the device. Store segments need no wiping: what they hold has another uuid in its checksums.
///
/// # Errors
/// When the device is not blank and `overwrite` is not set, the options do not fit, or the device fails.
pub async fn format<D: Device>(
    device: &D,
    options: FormatOptions,
) -> Result<Superblock, FormatError> {
    let block_size = device.block_size();
    if block_size != 512 && block_size != 4096 {
        return Err(FormatError::Geometry(GeometryError::BlockSize { found: block_size }));
    }
    let geometry = Geometry::plan(device.size(), options.segment_bytes, options.journal_bytes)
        .map_err(FormatError::Geometry)?;
    if !options.overwrite {
        let store = read_copies(device).await.iter().any(|copy| matches!(copy, CopyState::Good(_)));
        if let Some(offset) = first_data(device).await.map_err(FormatError::Device)? {
            return Err(FormatError::NotBlank { offset, store });
        }
    }
    let FormatOptions { uuid, written_bytes, .. } = options;
    let superblock = Superblock { uuid, geometry, epoch: 0, written_bytes };
    // The second copy is wiped first: two sound superblocks of two stores never stand side by side.
    write_copy(device, 1, None).await.map_err(FormatError::Device)?;
    // All of it: pages of a store that was here before would look like damaged ones of this store.
    let journal_bytes = geometry.journal_bytes as usize;
    let mut at = 0;
    while at < journal_bytes {
        let mut zeros = device.buffer(ZEROS_BYTES.min(journal_bytes - at));
        zeros.as_mut().fill(0);
        let offset = JOURNAL_OFFSET + at as u64;
        at += zeros.as_ref().len();
        device.write(offset, zeros).await.0.map_err(FormatError::Device)?;
    }
    for copy in [0, 1] {
        write_copy(device, copy, Some(&superblock)).await.map_err(FormatError::Device)?;
    }
    Ok(superblock)
}
