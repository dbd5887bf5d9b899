//! Opens the store at start: makes the file when there is none, formats what is blank, recovers the rest.
//!
//! Must stay true: nothing is formatted that is not blank; a store that cannot be opened stops the start with the
//! place and the mend, since serving without it would hide a dead disk.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tidegate_contract::Machine;
use tidegate_engine::device::RingDevice;
use tidegate_ring::{Arena, create_preallocated};
use tidegate_store::{FormatOptions, OpenError, OpenOptions, RecoveryReport, Store, format};

/// Store segments that a store should have at least, so that reclaiming one loses little.
const SEGMENTS_WANTED: u64 = 256;
const SEGMENT_BYTES_MAX: u64 = 128 << 20;
/// A segment holds at least a few of the largest extents.
const SEGMENT_BYTES_MIN: u64 = 4 << 20;

/// The smallest index there is.
const INDEX_BYTES_MIN: u64 = 4096;

/// Bytes of the store that `machine` names: of the file or device if it is there, else as many as it will have.
pub fn size(machine: &Machine) -> u64 {
    let Some(store) = machine.stores.first() else { return 0 };
    let there = std::fs::File::open(&store.path).ok().and_then(|mut file| {
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).ok() // of a block device too
    });
    there.unwrap_or(store.bytes)
}

/// Opens the store that `machine` names, on this thread's ring.
pub async fn open(
    machine: &Machine,
    path: &Path,
    arena: Arc<Arena>,
    index_bytes_max: u64,
) -> Result<(Store<RingDevice>, RecoveryReport), String> {
    let at = |what: &str, error: &dyn std::fmt::Display| {
        format!("store {}: {what}: {error}", path.display())
    };
    if !path.exists() {
        make_file(path, machine.store_bytes()).map_err(|e| {
            let mend = format!(
                "    mend: give bytes of it in stores that fit the file system (asked: {})",
                machine.store_bytes()
            );
            format!("{}\n{mend}", at("cannot be made", &e))
        })?;
    }
    let device = RingDevice::open(path, true, arena).map_err(|e| {
        format!(
            "{}\n    mend: check that this user may read and write it",
            at("cannot be opened", &e)
        )
    })?;
    let how = OpenOptions {
        extent_mean_bytes: machine.store_extent_bytes,
        index_bytes_max: index_bytes_max.max(INDEX_BYTES_MIN),
        ..OpenOptions::default()
    };
    let opened = match Store::open(device.clone(), how).await {
        Err(OpenError::Blank) => {
            let mut options = FormatOptions::new(fresh_uuid()?);
            options.segment_bytes = segment_bytes(tidegate_store::Device::size(&device)) as u32;
            options.journal_bytes = options.journal_bytes.min(options.segment_bytes);
            format(&device, options).await.map_err(|e| at("cannot be formatted", &e))?;
            Store::open(device, how).await
        }
        other => other,
    };
    let (store, report) = opened.map_err(|e| at("cannot be used", &e))?;
    Ok((store, report))
}

fn make_file(path: &Path, bytes: u64) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    create_preallocated(path, bytes)
}

fn segment_bytes(device_bytes: u64) -> u64 {
    let mut bytes = SEGMENT_BYTES_MAX;
    while bytes > SEGMENT_BYTES_MIN && device_bytes / bytes < SEGMENTS_WANTED {
        bytes /= 2;
    }
    bytes
}

/// Every format needs an identity that was never used: it seeds all checksums.
fn fresh_uuid() -> Result<u128, String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the system's random source failed".to_owned())?;
    Ok(u128::from_le_bytes(bytes))
}
