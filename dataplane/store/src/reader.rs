//! Finding and verifying extents, on any core, without locks.
//!
//! Owns what readers share with the writer of a device: index, geometry, health.
//!
//! Must stay true: no bytes leave here that were not checked, after they were read, against (1) the checksum
//! of the header, which starts from the device uuid, (2) the full key, version and block asked for, (3) the
//! place the header itself names and the life of its store segment, (4) the checksum of the payload.
//! So these races end in a miss or in right bytes, never in wrong ones:
//! - the entry is replaced while it is read (torn pair): (2) or (3) fails, or it is the newer right extent;
//! - the segment is reclaimed after `locate` and written while the read is in flight: old and new bytes are
//!   mixed. If the old header survived, (4) fails unless its whole payload survived too; if a new header
//!   came, (2) fails, or it is the same key written again and (4) proves it whole;
//! - the segment is reclaimed and not yet written: the bytes are still those of the extent asked for.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::device::{Device, DeviceError};
use crate::error::{BadExtent, ReadFault};
use crate::extent::{Extent, ExtentHeader, ExtentKey};
use crate::health::{DeviceState, Health};
use crate::index::{Index, IndexEntry};
use crate::layout::{Geometry, SLOT, SLOT_BYTES};

/// How often a lookup is repeated when the extent moved while it was read.
const ATTEMPTS_MAX: usize = 3;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) index: Index,
    pub(crate) geometry: Geometry,
    pub(crate) health: Health,
    /// Start value of the device's checksums.
    pub(crate) seed: u32,
    /// Seed of the index hash: from the uuid, so nobody outside can choose keys that collide.
    pub(crate) hash_seed: u64,
}

/// Where to read an extent, and what its header must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Byte offset on the device and byte count, both multiples of 4096.
    pub offset: u64,
    pub len: u32,
    pub segment: u32,
    pub slot: u32,
    /// The sequence with which the life of the segment began.
    pub life: u64,
    /// Start value of the device's checksums.
    pub seed: u32,
}

/// A handle for lookups; one for each core.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// Where the extent is, if it is stored; counts as a use of it.
    pub fn locate(&self, key: &ExtentKey) -> Option<Location> {
        if self.shared.health.state() == DeviceState::Out {
            return None;
        }
        let found = self.find(key)?;
        self.shared.index.touch(&found);
        Some(self.location(&found))
    }

    /// Whether a lookup would find the extent; does not count as a use of it.
    pub fn contains(&self, key: &ExtentKey) -> bool {
        self.shared.health.state() != DeviceState::Out && self.find(key).is_some()
    }

    /// Whether a lookup would still lead to this location.
    pub fn is_current(&self, key: &ExtentKey, location: &Location) -> bool {
        self.find(key).is_some_and(|found| self.location(&found) == *location)
    }

    /// What to do after an extent failed its check: if the location is still current the extent is bad, so it
    /// is counted and never tried again. Returns whether a new lookup may find it elsewhere.
    pub fn note_bad(&self, key: &ExtentKey, location: &Location, bad: BadExtent) -> bool {
        match self.find(key) {
            Some(found) if self.location(&found) == *location => {
                // Another key with the same tag is no damage, and its entry is good.
                if bad != BadExtent::Other {
                    self.shared.index.forget(&found);
                    self.shared.health.bad_extents.fetch_add(1, Ordering::Relaxed);
                }
                false
            }
            found => found.is_some(),
        }
    }

    /// To be told by whoever reads the device: a run of failures puts it out, one of late answers makes it slow.
    pub fn note_read(&self, outcome: Result<(), DeviceError>) {
        match outcome {
            Ok(()) => self.shared.health.read_ok(),
            Err(error) if error.kind == ErrorKind::TimedOut => self.shared.health.read_late(),
            Err(_) => self.shared.health.read_failed(),
        }
    }

    /// To be told by whoever reads the device now and then only to see how long it takes.
    pub fn note_probe(&self, outcome: Result<Duration, DeviceError>) {
        match outcome {
            Ok(span) => self.shared.health.probed(span),
            Err(error) if error.kind == ErrorKind::TimedOut => {
                self.shared.health.probed(Duration::MAX);
            }
            Err(_) => self.shared.health.read_failed(),
        }
    }

    /// Whether the last read was late.
    pub fn is_late(&self) -> bool {
        self.shared.health.slow_in_a_row.load(Ordering::Relaxed) > 0
    }

    /// Reads that were late since the device was opened, and the microseconds that the last probe took.
    pub fn slowness(&self) -> (u64, u64) {
        let health = &self.shared.health;
        (health.slow_reads.load(Ordering::Relaxed), health.probe_us.load(Ordering::Relaxed))
    }

    /// Extents found bad since the device was opened, by reads and by [`Reader::count_bad`].
    pub fn bad_extents(&self) -> u64 {
        self.shared.health.bad_extents.load(Ordering::Relaxed)
    }

    /// A sound extent whose payload makes no sense to its owner.
    pub fn count_bad(&self) {
        self.shared.health.bad_extents.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on the device answers no lookups and takes no writes.
    pub fn retire(&self) {
        self.shared.health.worsen(DeviceState::Out);
    }

    /// Failed reads and failed writes since the device was opened.
    pub fn errors(&self) -> (u64, u64) {
        let health = &self.shared.health;
        (health.read_errors.load(Ordering::Relaxed), health.write_errors.load(Ordering::Relaxed))
    }

    pub fn state(&self) -> DeviceState {
        self.shared.health.state()
    }

    pub fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    fn find(&self, key: &ExtentKey) -> Option<IndexEntry> {
        self.shared.index.find(key.hash(self.shared.hash_seed), key.block)
    }

    fn location(&self, found: &IndexEntry) -> Location {
        let place = found.place;
        Location {
            offset: self.shared.geometry.slot_offset(place.segment, place.slot),
            len: place.slots * SLOT_BYTES,
            segment: place.segment,
            slot: place.slot,
            life: found.life,
            seed: self.shared.seed,
        }
    }
}

/// Checks bytes read at `location` and gives the extent, whose payload is a slice of them.
///
/// # Errors
/// When they are not the extent of `key`; a miss in each case (see [`Reader::note_bad`]).
pub fn verify_extent(
    key: &ExtentKey,
    location: &Location,
    bytes: Bytes,
) -> Result<Extent, BadExtent> {
    if bytes.len() != location.len as usize {
        return Err(BadExtent::Length);
    }
    let header = ExtentHeader::decode(&bytes, location.seed).map_err(|_| BadExtent::Header)?;
    if !key.is_answered_by(&header.key) {
        return Err(BadExtent::Other);
    }
    if !header.is_at(location.segment, location.slot, location.life) {
        return Err(BadExtent::Stale);
    }
    if header.slots() as usize * SLOT != bytes.len() {
        return Err(BadExtent::Length);
    }
    let payload = header.payload_of(&bytes, location.seed)?;
    Ok(Extent { header, payload })
}

/// Looks up, reads and verifies. `Ok(None)` is a miss.
///
/// # Errors
/// When the device failed to read.
pub async fn read<D: Device>(
    reader: &Reader,
    device: &D,
    key: &ExtentKey,
) -> Result<Option<Extent>, ReadFault> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(location) = reader.locate(key) else { return Ok(None) };
        let read = device.read(location.offset, location.len as usize).await;
        reader.note_read(read.as_ref().map(|_| ()).map_err(|error| *error));
        match verify_extent(key, &location, read.map_err(ReadFault)?) {
            Ok(extent) => return Ok(Some(extent)),
            Err(bad) if reader.note_bad(key, &location, bad) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}
