//! The store of a node: its devices, which of them an object lies on, and who of them has all purges.
//!
//! An object lies on one device, all its blocks and its head together: the one that wins the weighted rendezvous hash
//! of the cache key over the uuids of the devices that take part. A device takes part as soon as its superblock was
//! read, which a starting node waits for (milliseconds); what it holds is found only once all of it has been read. So a
//! device that takes long is a miss for its share, and nobody else's share moves. A device that is out takes no part:
//! its share goes to the others, theirs stay. A device that is slow or read only keeps its share for a while
//! ([`UNFIT_SPAN_MAX`]): what it does not give or take is filled, and kept in memory only.
//!
//! Purges go to all devices, whatever they name. After a device has come or gone an object may lie on a device that it
//! does not belong to any more, and come to light when the next one goes; there is no telling which. The roll
//! (`tidegate_store::Roll`) names the devices that have every purge that was acknowledged:
//! ```text
//! a device is on the roll          it is used as it is
//! the roll does not name it        it missed purges, or comes from elsewhere: made empty, with a new uuid
//! it is retired                    not used, until `tidegate store rejoin` strikes it off: then it is made empty (at once, if
//!                                  it was so at the start; its index and reader are made once in a run)
//! there is no roll                 the node lost it: what the device holds is stale (soft)
//! ```
//! Must stay true: before a purge is acknowledged, each device either has it in its journal or is off the roll, on
//! disk; no device that missed a purge is read.

use crate::admission::AdmissionState;
use crate::catch_up::CatchUp;
use crate::clock::wall_ms;
use crate::keeper::KeepQueue;
use crate::purge::{Purges, Receipt};
use crate::table::Table;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tidegate_cache::purge::Purge;
use tidegate_store::{DeviceState, ExtentKey, Reader, Roll, RollEntry, Standing};
use tidegate_types::limits::STORES_MAX;
use tidegate_types::rendezvous;

/// A device that is slow or read only for so long is retired while others work: its share shall be stored again.
pub const UNFIT_SPAN_MAX: Duration = Duration::from_secs(600);

/// Who a device is, and how much of the keys is its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub uuid: u128,
    pub bytes: u64,
}

/// Which of `devices` (each with a name of the caller's) holds `key`. Their order does not matter.
pub fn place<T>(key: u128, devices: impl IntoIterator<Item = (Identity, T)>) -> Option<T> {
    let key = (key >> 64) as u64 ^ key as u64;
    let mut best: Option<(f64, u128, T)> = None;
    for (Identity { uuid, bytes }, name) in devices {
        let candidate = (uuid >> 64) as u64 ^ uuid as u64;
        let score = rendezvous::score(key, candidate, bytes as f64);
        let is_better = best
            .as_ref()
            .is_none_or(|(most, theirs, _)| score.total_cmp(most).then(uuid.cmp(theirs)).is_gt());
        if is_better {
            best = Some((score, uuid, name));
        }
    }
    best.map(|(.., name)| name)
}

/// Of a receipt: that the roll is on disk. Below it lie the bits of the devices.
const ROLL_BIT: u64 = 1 << STORES_MAX;

/// Writes the roll to disk, in the order in which it is asked, and says when that is done.
pub trait Clerk: Send + Sync {
    fn write(&self, roll: String, done: Written);
}

/// Is told whether the roll is on disk.
pub type Written = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What a device did since the process began, as its keeper says; for metrics.
#[derive(Debug, Default)]
pub struct DeviceStats {
    pub written_bytes: AtomicU64,
    pub lifetime_written_bytes: AtomicU64,
    /// Plus one; 0: not known.
    pub life_left_days: AtomicU64,
    pub evicted_bytes: AtomicU64,
    pub discarded_bytes: AtomicU64,
    pub over_budget: AtomicU64,
    pub purge_errors: AtomicU64,
}

struct Register {
    roll: Roll,
    /// There was none at start.
    is_lost: bool,
    /// How often it was changed.
    changes: u64,
}

/// What the devices of a node share.
pub struct Common {
    pub purges: Arc<Purges>,
    versions: AtomicU64,
    register: Mutex<Register>,
    /// The last change of the roll that is on disk, and that the clerk was given.
    saved: Arc<AtomicU64>,
    asked: AtomicU64,
    clerk: Box<dyn Clerk>,
}

impl Common {
    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the roll written; the receipts are given `bit` when it is.
    fn save(&self, register: &Register, receipts: Vec<Arc<Receipt>>, bit: u64) {
        let (change, saved) = (register.changes, self.saved.clone());
        self.asked.store(change, Ordering::SeqCst);
        let written = move |outcome: Result<(), String>| {
            if outcome.is_ok() {
                saved.fetch_max(change, Ordering::SeqCst);
            }
            for receipt in receipts {
                receipt.give(bit, outcome.clone());
            }
        };
        self.clerk.write(register.roll.encode(), Box::new(written));
    }
}

/// What becomes of a device whose superblock was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It takes part from now on.
    Taken,
    /// It is on none of the node's lists: to be made empty, then it may ask again.
    Stranger,
    Retired,
    /// It is the same device as this one.
    SameAs(PathBuf),
}

/// One device, as all cores see it. A node serves before its devices have been read: until then nothing is found in
/// them, and what they shall keep waits.
pub struct StoreFace {
    pub path: PathBuf,
    /// Its bit.
    number: usize,
    identity: OnceLock<Identity>,
    /// It cannot be used in this run.
    refused: AtomicBool,
    /// What it holds is older than the node's memory of purges.
    distrusted: AtomicBool,
    /// It is out, and an operator has said that it is used again from the next start on.
    rejoins: AtomicBool,
    reader: OnceLock<Reader>,
    pub queue: Arc<KeepQueue>,
    pub admission: Arc<AdmissionState>,
    pub stats: DeviceStats,
    pub common: Arc<Common>,
}

impl StoreFace {
    /// For lookups; `None`: it is still being read.
    pub fn reader(&self) -> Option<&Reader> {
        self.reader.get()
    }

    /// Who it is, once that is known.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.get().copied()
    }

    /// The state of the device, in a word.
    pub fn state(&self) -> &'static str {
        match self.reader() {
            _ if self.refused.load(Ordering::SeqCst) => "refused",
            None => "opening",
            Some(reader) => reader.state().name(),
        }
    }

    /// It is asked nothing and given nothing to keep: so slow that the next hop is faster.
    pub fn is_slow(&self) -> bool {
        self.reader().is_some_and(|reader| reader.state() == DeviceState::Slow)
    }

    /// It reads and writes as it should.
    fn is_well(&self) -> bool {
        !self.refused.load(Ordering::SeqCst)
            && self.reader().is_some_and(|reader| reader.state() == DeviceState::Ok)
    }

    fn is_out(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
            || self.reader().is_some_and(|reader| reader.state() == DeviceState::Out)
    }

    /// Its bit in the words that say who needs a purge.
    pub fn bit(&self) -> u32 {
        1 << self.number
    }

    /// What it holds is asked about once more; see [`StoreFace::enroll`].
    pub fn is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::SeqCst)
    }

    /// Versions from now on are not below `floor`, which is above all that lies in the store or was purged. `false`: those
    /// that were given out before were (the clock was set back), so a purge meanwhile may have missed something.
    pub fn raise_versions(&self, floor: u64) -> bool {
        self.common.versions.fetch_max(floor, Ordering::SeqCst) >= floor
    }

    /// It has been read, and its journal: from now on it is looked into.
    pub fn set_ready(&self, reader: Reader) {
        let _once = self.reader.set(reader);
    }

    /// Asks for its place among the devices, when its superblock was read. `is_new`: it was just made empty.
    pub fn enter(&self, siblings: &Stores, identity: Identity, is_new: bool) -> Entry {
        let mut register = self.common.register();
        let twin = |other: &&Arc<StoreFace>| {
            other.number != self.number
                && other.identity().is_some_and(|theirs| theirs.uuid == identity.uuid)
        };
        if let Some(other) = siblings.devices.iter().find(twin) {
            return Entry::SameAs(other.path.clone());
        }
        match register.roll.get(identity.uuid) {
            Some(Standing::Retired) => return Entry::Retired,
            None if register.is_lost && !is_new => self.distrusted.store(true, Ordering::SeqCst),
            None if !is_new => return Entry::Stranger,
            Some(Standing::Member) | None => {
                let path = self.path.to_string_lossy();
                if register.roll.set(identity.uuid, Standing::Member, &path) {
                    register.changes += 1;
                }
            }
        }
        let _once = self.identity.set(identity);
        Entry::Taken
    }

    /// A distrusted device has it in its journal that it is: it has all purges from now on.
    pub fn enroll(&self) {
        let Some(Identity { uuid, .. }) = self.identity() else { return };
        let mut register = self.common.register();
        if register.roll.get(uuid).is_none()
            && register.roll.set(uuid, Standing::Member, &self.path.to_string_lossy())
        {
            register.changes += 1;
        }
    }

    /// It cannot be used, until somebody has it tried again.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::SeqCst);
    }

    /// It is tried again.
    pub fn try_again(&self) {
        self.refused.store(false, Ordering::SeqCst);
    }

    /// It cannot take purges any more: it is out, and once the roll says so on disk, the receipts are given.
    pub fn retire(&self, receipts: Vec<Arc<Receipt>>) {
        if let Some(reader) = self.reader() {
            reader.retire();
        }
        let mut register = self.common.register();
        match self.identity() {
            Some(Identity { uuid, .. }) if self.reader().is_some() => {
                self.retire_in(&mut register, uuid);
            }
            // It may be well another time, and has missed purges then.
            Some(Identity { uuid, .. }) => {
                let struck = register.roll.retain(|entry| entry.uuid != uuid);
                register.changes += u64::from(struck);
            }
            None => {}
        }
        self.common.save(&register, receipts, self.bit().into());
    }

    fn retire_in(&self, register: &mut Register, uuid: u128) -> bool {
        let path = self.path.to_string_lossy();
        let is_news = register.roll.set(uuid, Standing::Retired, &path);
        if is_news {
            register.changes += 1;
            self.common.purges.release(self.bit());
            eprintln!(
                "tidegated: store {path}: the device has failed; it is out, its share goes to the others\n    mend: \
                 replace it; or, when it is sound again, say `tidegate store rejoin`, and start the node again"
            );
        }
        is_news
    }
}

/// A device that an operator lets rejoin.
pub struct Rejoining {
    pub entry: RollEntry,
    /// Given when the roll says so on disk.
    pub receipt: Arc<Receipt>,
    /// It is tried now; else it is used from the next start on.
    pub at_once: bool,
}

/// Versions begin at the wall clock's milliseconds times 2 to the 20th: above those of earlier runs.
fn first_version() -> u64 {
    wall_ms() << 20
}

/// All devices of a node; there may be none.
pub struct Stores {
    devices: Vec<Arc<StoreFace>>,
    common: Arc<Common>,
    /// Of purges that the node was not told of.
    pub catch_up: CatchUp,
}

impl Stores {
    /// Devices that are still to be read, each with its path and what is worth writing to it. `roll` as it was found.
    pub fn new(
        devices: Vec<(PathBuf, Arc<AdmissionState>)>,
        roll: Option<Roll>,
        clerk: Box<dyn Clerk>,
    ) -> Stores {
        let common = Arc::new(Common {
            purges: Arc::default(),
            versions: AtomicU64::new(first_version()),
            register: Mutex::new(Register {
                is_lost: roll.is_none(),
                roll: roll.unwrap_or_default(),
                changes: 0,
            }),
            saved: Arc::default(),
            asked: AtomicU64::new(0),
            clerk,
        });
        let count = devices.len().min(STORES_MAX);
        let faces = devices.into_iter().take(STORES_MAX).enumerate();
        let devices = faces.map(|(number, (path, admission))| {
            Arc::new(StoreFace {
                path,
                number,
                identity: OnceLock::new(),
                refused: AtomicBool::new(false),
                distrusted: AtomicBool::new(false),
                rejoins: AtomicBool::new(false),
                reader: OnceLock::new(),
                queue: Arc::new(KeepQueue::new(count)),
                admission,
                stats: DeviceStats::default(),
                common: common.clone(),
            })
        });
        Stores { devices: devices.collect(), common, catch_up: CatchUp::default() }
    }

    /// RAM only.
    pub fn none() -> Stores {
        struct Nobody;
        impl Clerk for Nobody {
            fn write(&self, _: String, done: Written) {
                done(Ok(()));
            }
        }
        Stores::new(Vec::new(), None, Box::new(Nobody))
    }

    pub fn devices(&self) -> &[Arc<StoreFace>] {
        &self.devices
    }

    /// What their journals say was purged.
    pub fn purges(&self) -> &Arc<Purges> {
        &self.common.purges
    }

    /// A version number that no object of these devices has had: rises within a run, and between runs by the clock.
    pub fn next_version(&self) -> u64 {
        self.common.versions.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on the keepers know what this table knows.
    pub fn know(&self, table: &Arc<Table>) {
        for device in &self.devices {
            device.queue.know(table.clone());
        }
    }

    /// The device that `key` belongs to; which one that is may change when a device comes or goes.
    pub fn home(&self, key: u128) -> Option<(usize, &StoreFace)> {
        if let [only] = &self.devices[..] {
            return (!only.is_out() && only.identity().is_some()).then_some((0, only));
        }
        let known = self.devices.iter().filter(|device| !device.is_out());
        place(key, known.filter_map(|device| Some((device.identity()?, device))))
            .map(|device| (device.number, &**device))
    }

    /// The devices whose index has a head of `key`, or may have one when they have been read.
    pub fn holders(&self, key: u128) -> impl Iterator<Item = &StoreFace> {
        let head = ExtentKey::head(key);
        let holds = move |device: &&Arc<StoreFace>| {
            let found = |reader: &Reader| reader.contains(&head);
            !device.is_out() && device.identity().is_some() && device.reader().is_none_or(found)
        };
        self.devices.iter().filter(holds).map(|device| &**device)
    }

    /// The device that `key` belongs to, and others that may have something of it.
    pub fn places(&self, key: u128) -> impl Iterator<Item = &StoreFace> {
        let home = self.home(key).map(|(number, _)| number);
        let others = self.holders(key).filter(move |other| Some(other.number) != home);
        home.map(|number| &*self.devices[number]).into_iter().chain(others)
    }

    /// Whether devices are still being read.
    pub fn is_opening(&self) -> bool {
        self.devices.iter().any(|device| !device.is_out() && device.reader().is_none())
    }

    /// Whether a device but `face` reads and writes as it should.
    pub fn is_another_well(&self, face: &StoreFace) -> bool {
        self.devices.iter().any(|other| other.number != face.number && other.is_well())
    }

    /// Extents that a crash would lose now.
    pub fn unwritten(&self) -> usize {
        self.devices.iter().map(|device| device.queue.unwritten()).sum()
    }

    /// A purge holds from now on; the receipt is given when no restart can undo it.
    pub fn record(&self, purge: Purge) -> Arc<Receipt> {
        // Nobody enters, leaves, or is told of another purge meanwhile.
        let mut register = self.common.register();
        let takers: Vec<_> = self.devices.iter().filter(|device| !device.is_out()).collect();
        let bits = takers.iter().fold(0, |bits, device| bits | device.bit());
        self.common.purges.add(&purge, bits);
        self.strike_absent(&mut register);
        // Also what was struck off before and could not be written.
        let is_unsaved = self.common.saved.load(Ordering::SeqCst) < register.changes;
        let roll = if is_unsaved { ROLL_BIT } else { 0 };
        let receipt = Arc::new(Receipt::of(u64::from(bits) | roll));
        for device in takers {
            device.queue.push_purge(purge, receipt.clone());
        }
        if is_unsaved {
            self.common.save(&register, vec![receipt.clone()], ROLL_BIT);
        }
        receipt
    }

    /// Something was made invalid by an answer. Devices that are away would bring it back.
    pub fn note_invalidation(&self) {
        self.strike_absent(&mut self.common.register());
    }

    /// Who does not take part now is no member any more.
    fn strike_absent(&self, register: &mut Register) {
        for device in self.devices.iter().filter(|device| device.is_out()) {
            if let Some(Identity { uuid, .. }) = device.identity()
                && device.reader().is_some()
                && register.roll.get(uuid) == Some(Standing::Member)
            {
                device.retire_in(register, uuid);
            }
        }
        let is_taker = |uuid| {
            let is_it = |device: &Arc<StoreFace>| {
                !device.is_out() && device.identity().is_some_and(|theirs| theirs.uuid == uuid)
            };
            self.devices.iter().any(is_it)
        };
        let struck = register
            .roll
            .retain(|entry| entry.standing == Standing::Retired || is_taker(entry.uuid));
        register.changes += u64::from(struck);
    }

    /// A purge has waited for long: devices that have not taken it yet are out, when another one works. The receipt is
    /// given when the roll says so.
    pub fn give_up_on(&self, receipt: &Arc<Receipt>) {
        let missing = receipt.missing();
        for device in self.devices.iter().filter(|device| missing & u64::from(device.bit()) != 0) {
            if device.reader().is_some() && self.is_another_well(device) {
                device.retire(vec![receipt.clone()]);
            }
        }
    }

    /// A retired device is no member any more, and begins empty when it is used again: at once, if it was not used in this
    /// run at all.
    ///
    /// # Errors
    /// Not just one retired device is called so.
    pub fn rejoin(&self, device: &str) -> Result<Rejoining, String> {
        let mut register = self.common.register();
        let entry = register.roll.rejoin(device)?;
        register.changes += 1;
        let receipt = Arc::new(Receipt::of(ROLL_BIT));
        self.common.save(&register, vec![receipt.clone()], ROLL_BIT);
        let is_it = |face: &&Arc<StoreFace>| {
            face.identity().is_some_and(|identity| identity.uuid == entry.uuid)
        };
        let face = self.devices.iter().find(is_it);
        match face {
            Some(face) => face.rejoins.store(true, Ordering::SeqCst),
            // Nobody has read who they are.
            None => {
                let unknown = self.devices.iter().filter(|face| face.identity().is_none());
                unknown.for_each(|face| face.queue.push_retry());
            }
        }
        Ok(Rejoining { entry, receipt, at_once: face.is_none() })
    }

    /// Sees who has failed, and has the roll written when it has changed. For one core's timer.
    pub fn tend(&self) {
        let asked = self.common.asked.load(Ordering::SeqCst);
        let mut register = self.common.register();
        for device in self.devices.iter().filter(|device| device.is_out()) {
            if let Some(Identity { uuid, .. }) = device.identity()
                && device.reader().is_some()
                && !device.rejoins.load(Ordering::SeqCst)
                && register.roll.get(uuid) != Some(Standing::Retired)
            {
                device.retire_in(&mut register, uuid);
            }
        }
        if register.changes > asked {
            self.common.save(&register, Vec::new(), 0);
        }
    }

    /// How far the node has followed the purge log, as the roll has it.
    pub fn purge_place(&self) -> Option<String> {
        self.common.register().roll.purge_place().map(str::to_owned)
    }

    /// An order of a purge was done; the receipt is given when the roll has it.
    pub fn note_told(&self, order: &str) -> Arc<Receipt> {
        let mut register = self.common.register();
        register.roll.add_told(order);
        register.changes += 1;
        let receipt = Arc::new(Receipt::of(ROLL_BIT));
        self.common.save(&register, vec![receipt.clone()], ROLL_BIT);
        receipt
    }

    /// Whether an order of a purge was done before it was met in the log.
    pub fn is_told(&self, order: &str) -> bool {
        self.common.register().roll.is_told(order)
    }

    /// From now on it has followed the purge log so far, and beyond the orders that it `met` there; the roll is written by
    /// [`Stores::tend`].
    pub fn note_purge_place(&self, place: &str, met: &[String]) {
        let mut register = self.common.register();
        met.iter().for_each(|order| register.roll.forget_told(order));
        let is_news = register.roll.set_purge_place(place);
        register.changes += u64::from(is_news);
    }

    /// The roll, when it has changed since it was written last; the caller writes it before the node serves.
    pub fn unsaved_roll(&self) -> Option<String> {
        let register = self.common.register();
        let changes = register.changes;
        if changes <= self.common.asked.swap(changes, Ordering::SeqCst) {
            return None;
        }
        self.common.saved.fetch_max(changes, Ordering::SeqCst);
        Some(register.roll.encode())
    }
}

#[cfg(test)]
#[path = "stores_tests.rs"]
mod tests;
