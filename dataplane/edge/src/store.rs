//! Opens a device of the store at start: makes the file when there is none, formats what is blank, recovers the rest.
//!
//! Must stay true: nothing is formatted that is neither blank nor a store of ours that missed purges; a device that
//! cannot be used is named with the mend, and the others serve.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use tidegate_contract::{Machine, StoreDevice};
use tidegate_engine::device::RingDevice;
use tidegate_engine::stores::{Entry, Identity, StoreFace, Stores};
use tidegate_ring::{Arena, create_preallocated};
use tidegate_store::{
    Device, FormatOptions, Geometry, OpenError, OpenOptions, RecoveryReport, Store, Superblock,
    format, identify,
};
use tidegate_types::memory::index_bytes;

/// Store segments that a device should have at least, so that reclaiming one loses little.
const SEGMENTS_WANTED: u64 = 256;
const SEGMENT_BYTES_MAX: u64 = 128 << 20;
/// A segment holds at least a few of the largest extents.
const SEGMENT_BYTES_MIN: u64 = 4 << 20;

/// The smallest index there is.
const INDEX_BYTES_MIN: u64 = 4096;

/// Why a device is not used.
#[derive(Debug)]
pub enum Refusal {
    /// It had failed in an earlier run.
    Retired(String),
    Bad(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Refusal::Retired(text) | Refusal::Bad(text)) = self;
        f.write_str(text)
    }
}

/// Bytes of a device: of the file or device if it is there, else as many as it will have.
pub fn size(store: &StoreDevice) -> u64 {
    let there = std::fs::File::open(&store.path).ok().and_then(|mut file| {
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).ok() // of a block device too
    });
    there.unwrap_or(store.bytes)
}

/// Opens the device of `face`, on this thread's ring, and has it take its place among the others; its data is not read
/// yet.
pub async fn enter(
    wanted: &StoreDevice,
    face: &StoreFace,
    stores: &Stores,
    arena: Arc<Arena>,
) -> Result<RingDevice, Refusal> {
    let path = &face.path;
    let at = |what: &str, error: &dyn std::fmt::Display| {
        Refusal::Bad(format!("store {}: {what}: {error}", path.display()))
    };
    if !path.exists() {
        make_file(path, wanted.bytes).map_err(|e| {
            let mend = format!(
                "    mend: give bytes of it in stores that fit the file system (asked: {})",
                wanted.bytes
            );
            Refusal::Bad(format!("{}\n{mend}", at("cannot be made", &e)))
        })?;
    }
    let device = RingDevice::open(path, true, arena).map_err(|e| {
        Refusal::Bad(format!(
            "{}\n    mend: check that this user may read and write it",
            at("cannot be opened", &e)
        ))
    })?;
    let mut superblock = match identify(&device).await {
        Err(OpenError::Blank) => {
            make_empty(&device, None).await.map_err(|e| at("cannot be formatted", &e))?
        }
        other => other.map_err(|e| at("cannot be used", &e))?,
    };
    loop {
        let Geometry { segment_bytes, segment_count, .. } = superblock.geometry;
        let bytes = u64::from(segment_bytes) * u64::from(segment_count);
        let identity = Identity { uuid: superblock.uuid, bytes };
        // What was never opened holds nothing.
        match face.enter(stores, identity, superblock.epoch == 0) {
            Entry::Taken => return Ok(device),
            Entry::Stranger => {
                eprintln!(
                    "tidegated: store {}: it has missed purges, or comes from another node: it begins empty",
                    path.display()
                );
                superblock = make_empty(&device, Some(&superblock))
                    .await
                    .map_err(|e| at("cannot be formatted", &e))?;
            }
            Entry::Retired => {
                return Err(Refusal::Retired(format!(
                    "store {}: it had failed and is retired; the others serve\n    mend: replace it; or, when it is sound \
                     again, say `tidegate store rejoin` with this path and --node",
                    path.display()
                )));
            }
            Entry::SameAs(other) => {
                return Err(Refusal::Bad(format!(
                    "store {}: it is the same device as {}\n    mend: leave one of them out of stores",
                    path.display(),
                    other.display()
                )));
            }
        }
    }
}

/// Recovers what a device holds. `is_lent`: another process may write to it again, so that this one does not yet.
pub async fn read(
    machine: &Machine,
    path: &Path,
    device: RingDevice,
    is_lent: bool,
) -> Result<(Store<RingDevice>, RecoveryReport), String> {
    let index_bytes_max = index_bytes(device.size(), machine.store_extent_bytes);
    let how = OpenOptions {
        extent_mean_bytes: machine.store_extent_bytes,
        index_bytes_max: index_bytes_max.max(INDEX_BYTES_MIN),
        discard: machine.store_discard,
        read_only: is_lent,
        ..OpenOptions::default()
    };
    let opened = Store::open(device, how).await;
    opened.map_err(|e| format!("store {}: cannot be used: {e}", path.display()))
}

/// Formats a device that is blank, or was a store of ours.
async fn make_empty(
    device: &RingDevice,
    before: Option<&Superblock>,
) -> Result<Superblock, String> {
    let mut options = FormatOptions::new(fresh_uuid()?);
    options.segment_bytes = segment_bytes(device.size()) as u32;
    options.journal_bytes = options.journal_bytes.min(options.segment_bytes);
    options.overwrite = before.is_some();
    options.written_bytes = before.map_or(0, |before| before.written_bytes);
    format(device, options).await.map_err(|e| e.to_string())
}

/// Two entries that lead to one file or device, if there are any.
pub fn twins(paths: &[&Path]) -> Option<(usize, usize)> {
    let of = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        let is_device = meta.file_type().is_block_device();
        Some(if is_device { (true, meta.rdev(), 0) } else { (false, meta.dev(), meta.ino()) })
    };
    let known: Vec<_> = paths.iter().map(|path| of(path)).collect();
    (0..known.len())
        .flat_map(|later| (0..later).map(move |first| (first, later)))
        .find(|(first, later)| known[*first].is_some() && known[*first] == known[*later])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_paths_to_one_file_are_found() {
        let dir = std::env::temp_dir().join(format!("tidegate-twins-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(name));
        std::fs::write(&a, "").unwrap();
        std::fs::write(&b, "").unwrap();
        let _fresh = std::fs::remove_file(&c);
        assert_eq!(twins(&[&a, &b, &c]), None);
        std::os::unix::fs::symlink(&a, &c).unwrap();
        assert_eq!(twins(&[&a, &b, &c]), Some((0, 2)));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
