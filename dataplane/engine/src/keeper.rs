//! The keeper of a device: the one task that writes to it, on a thread of its own; all cores send it what to keep.
//!
//! Must stay true: what waits to be written is bounded in bytes; beyond that, blocks are not admitted (counted) and
//! no response waits for the disk, but one to an unsafe method for a moment. What is buffered in the store is written out
//! within [`FLUSH_SPAN`], so that a killed process loses little of its warmth and none of its correctness. No head that a
//! purge reaches is written after it, nor written again at reclaim. An invalidation is written, or the device is out: as
//! with a purge, who cannot take it would bring back what is gone. A keeper that has lent its device to another process writes
//! nothing before it has it back ([`KeepQueue::lend`]): nothing but invalidations is kept meanwhile, and purges are refused.

mod queue;

pub use queue::{Keep, KeepQueue, Remove};

use crate::admission::{Budget, Level};
use crate::clock;
use crate::device::RingDevice;
use crate::object::{Object, Stored};
use crate::purge::{Latest, Purges, Receipt, heaviest, sum_up};
use crate::stores::{StoreFace, Stores, UNFIT_SPAN_MAX};
use bytes::Bytes;
use queue::Work;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidegate_cache::purge::{Judgement, Mode, Purge};
use tidegate_contract::Machine;
use tidegate_ring::{Elapsed, now, sleep, spawn, timeout};
use tidegate_store::{
    Device, DeviceState, ExpiryClass, ExtentHeader, ExtentKey, Geometry, JournalError, Reader,
    RecoveryReport, Store,
};
use tidegate_types::limits::BLOCK_BYTES;

/// Bytes that are appended without being flushed, of all devices.
const UNFLUSHED_BYTES_MAX: usize = 32 << 20;
/// Longest time that appended extents stay unwritten.
const FLUSH_SPAN: Duration = Duration::from_millis(250);
/// And when they are waited for: time enough for others to come along.
const FLUSH_SPAN_AWAITED: Duration = Duration::from_millis(5);

/// Invalidations that were appended and are not known to be on the device.
#[derive(Default)]
struct Unproven {
    keeps: Vec<Keep>,
    /// What the store had lost before the first of them.
    losses: u64,
    rounds: u32,
}

/// So often an invalidation is written before the device is given up.
const ROUNDS_MAX: u32 = 4;

impl Unproven {
    /// Extents that the store was given and has not kept.
    fn losses_of(store: &Store<RingDevice>) -> u64 {
        let totals = store.counters();
        totals.extents_dropped + totals.appends_refused
    }

    async fn append(&mut self, store: &mut Store<RingDevice>, keep: Keep) {
        if self.keeps.is_empty() {
            self.losses = Unproven::losses_of(store);
        }
        append(store, &keep).await;
        self.keeps.push(keep);
    }

    /// All that was appended was written, or tried to: what may be missing is appended once more. `is_whole`: nothing failed
    /// but what the store counts.
    async fn prove(&mut self, store: &mut Store<RingDevice>, face: &StoreFace, is_whole: bool) {
        let receipts = |keeps: &[Keep]| -> Vec<_> {
            keeps.iter().filter_map(|keep| keep.invalidation.clone()).collect()
        };
        let is_there = is_whole && self.losses == Unproven::losses_of(store);
        if self.keeps.is_empty() || is_there {
            let given = receipts(&std::mem::take(self).keeps);
            return given.iter().for_each(|receipt| receipt.give(face.bit().into(), Ok(())));
        }
        self.rounds += 1;
        if store.state() >= DeviceState::ReadOnly || self.rounds == ROUNDS_MAX {
            return face.retire(receipts(&std::mem::take(self).keeps));
        }
        for keep in std::mem::take(&mut self.keeps) {
            self.append(store, keep).await;
        }
    }
}

async fn append(store: &mut Store<RingDevice>, keep: &Keep) {
    // A refused append costs a later fill, never an answer; the store counts it.
    let _refused =
        store.append(keep.stream, keep.key, &[&keep.payload[..]], ExpiryClass::default()).await;
}

/// What the keeper is told of the drive's wear.
struct Wear {
    /// `None`: it may write without limit.
    budget: Option<Budget>,
    /// Bytes that the drive may take in its life.
    rated_bytes: Option<u64>,
}

/// What an extent takes on the device.
fn stored_bytes(keep: &Keep) -> u64 {
    let bytes = keep.payload.len() + tidegate_store::EXTENT_HEADER_BYTES;
    bytes.next_multiple_of(tidegate_store::SLOT_BYTES as usize) as u64
}

/// How often the budget is looked at while nothing is written.
const LEVEL_SPAN: Duration = Duration::from_secs(1);
/// After so many bytes the superblocks are told how many there were.
const NOTE_BYTES: u64 = 1 << 30;

/// Days that the drive lives on at the pace of this process so far. `None`: not known yet.
fn days_left(rated: Option<u64>, lifetime: u64, written: u64, span: Duration) -> Option<u64> {
    let left = rated?.saturating_sub(lifetime) as f64;
    let per_day = written as f64 / span.as_secs_f64().max(1.0) * 86_400.0;
    // Ten years and more are not worth telling apart.
    Some((left / per_day.max(1.0)).min(36_500.0) as u64)
}

/// Puts a store to work that was just read: what its journal says holds, its extents are found, and what waits for it is
/// kept by the future that this gives.
pub fn begin(
    store: Store<RingDevice>,
    report: &RecoveryReport,
    face: &Arc<StoreFace>,
    stores: &Arc<Stores>,
    machine: &Machine,
) -> impl Future<Output = ()> + use<> {
    let store_bytes = store.device().size();
    let budget = machine.store_writes_per_day.map(|writes| Budget::new(writes, store_bytes, 0.0));
    let purges = &face.common.purges;
    purges.load(store.journal_records(), face.bit());
    let above = report.version_max.max(purges.newest()) + 1;
    // Purges that are lost, or that were given numbers below what they should reach: all is asked about once more.
    let is_sound = face.raise_versions(above + 1) && report.journal.pairs_lost == 0;
    let distrust = (!is_sound || face.is_distrusted())
        .then(|| purges.distrust(above, face.bit()))
        .filter(|_| face.is_distrusted()); // a damaged journal tells of itself the next time
    face.set_ready(store.reader());
    let watching = watch(face.clone(), stores.clone(), store.device().clone(), store.geometry());
    let wear = Wear { budget, rated_bytes: machine.store_rated_bytes };
    let keeping = run(store, face.clone(), stores.clone(), wear, distrust);
    async move {
        spawn(watching);
        keeping.await;
    }
}

/// How often a device is probed; twice as long as anybody waits for a read.
const PROBE_SPAN: Duration = Duration::from_secs(2);
/// And when there is doubt.
const PROBE_AGAIN_SPAN: Duration = Duration::from_millis(250);
const PROBE_BYTES: usize = tidegate_store::SLOT_BYTES as usize;

/// Reads a page now and then to see how long that takes, on the keeper's thread: a core may be late for reasons of its
/// own. Retires a device that is of no use for long.
async fn watch(face: Arc<StoreFace>, stores: Arc<Stores>, device: RingDevice, geometry: Geometry) {
    let Some(reader) = face.reader() else { return };
    let mut unfit_since: Option<Instant> = None;
    let mut segment = 0;
    let mut pause = PROBE_SPAN;
    while !face.queue.is_done() {
        sleep(pause).await;
        // Elsewhere each time: a drive gives what it was asked for just now out of its memory.
        segment = (segment + 1) % geometry.segment_count;
        let began = now();
        let read = device.read(geometry.slot_offset(segment, 0), PROBE_BYTES).await;
        let span = now().saturating_duration_since(began);
        reader.note_probe(read.map(|_| span));
        let state = reader.state();
        let is_doubtful = state == DeviceState::Slow || reader.is_late();
        pause = if is_doubtful { PROBE_AGAIN_SPAN } else { PROBE_SPAN };
        if matches!(state, DeviceState::Ok | DeviceState::Out) {
            unfit_since = None;
            continue;
        }
        let since = *unfit_since.get_or_insert_with(now);
        let is_long = now().saturating_duration_since(since) >= UNFIT_SPAN_MAX;
        if is_long && stores.is_another_well(&face) {
            face.retire(Vec::new());
        }
    }
}

/// Answers for a device that cannot be used, until the queue is closed, or it is to be tried again (`true`).
pub async fn decline(face: &StoreFace) -> bool {
    face.refuse();
    while let Some(work) = face.queue.next().await {
        match work {
            Work::Purges(asked) => {
                face.retire(asked.into_iter().map(|(_, receipt)| receipt).collect());
            }
            Work::Retry => {
                face.try_again();
                return true;
            }
            Work::Lend if !face.queue.lent().await => break,
            Work::Keep(keep) => {
                face.queue.left_out();
                if let Some(receipt) = keep.invalidation {
                    receipt.give(face.bit().into(), Err("the device is out".to_owned()));
                }
            }
            Work::Lend | Work::Remove(_) => {}
        }
    }
    face.queue.finished();
    false
}

/// Writes what comes, until the queue is closed and empty.
async fn run(
    mut store: Store<RingDevice>,
    face: Arc<StoreFace>,
    stores: Arc<Stores>,
    wear: Wear,
    distrust: Option<Purge>,
) {
    let (queue, admission) = (face.queue.clone(), face.admission.clone());
    let (purges, stats) = (face.common.purges.clone(), &face.stats);
    let Wear { mut budget, rated_bytes } = wear;
    let started = now();
    if let Some(purge) = distrust {
        let receipt = Arc::new(Receipt::of(face.bit().into()));
        write_purges(&mut store, &face, &stores, vec![(purge, receipt.clone())]).await;
        if receipt.is_good() {
            face.enroll();
        }
    }
    let (mut appended, mut overhead, mut noted, mut unflushed) = (0, 0, 0, 0);
    let reclaim = Worth { purges: purges.clone(), queue: queue.clone(), reader: store.reader() };
    store.keep_if(move |header, payload, used| {
        !header.key.is_head() || reclaim.is_worth_keeping(header, payload, used)
    });
    let store_bytes = store.device().size();
    // The oldest unwritten extent waits no longer than to this moment.
    let mut flush_at: Option<Instant> = None;
    let mut unproven = Unproven::default();
    // A head behind the one that made it invalid would take its place.
    let is_over = |object: &Object| queue.table().is_some_and(|table| table.has_forgotten(object));
    loop {
        let seconds = now().saturating_duration_since(started).as_secs_f64();
        let totals = store.counters();
        stats.written_bytes.store(totals.bytes_written, Ordering::Relaxed);
        // What the store writes besides: summaries, what is appended again, purges.
        let besides = totals.bytes_written.saturating_sub(appended).max(overhead);
        if let Some(budget) = &mut budget {
            budget.spend(besides - overhead, seconds);
        }
        overhead = besides;
        let written = totals.bytes_written;
        if written - noted >= NOTE_BYTES {
            noted = written;
            let _counted = store.note_written().await;
        }
        let lifetime = store.written_bytes();
        stats.lifetime_written_bytes.store(lifetime, Ordering::Relaxed);
        if let Some(days) =
            days_left(rated_bytes, lifetime, written, now().saturating_duration_since(started))
        {
            stats.life_left_days.store(days + 1, Ordering::Relaxed);
        }
        let evicted = totals.reclaims * u64::from(store.geometry().segment_bytes);
        stats.evicted_bytes.store(evicted, Ordering::Relaxed);
        stats.discarded_bytes.store(totals.bytes_discarded, Ordering::Relaxed);
        admission.set_written(lifetime, store_bytes);
        if let Some(budget) = &mut budget {
            let level = budget.level(&admission, seconds);
            store.pause_reappend(matches!(level, Level::Scarce | Level::Spent));
        }
        let next = match flush_at {
            // However much comes.
            Some(at) if at <= now() || unflushed >= queue.share(UNFLUSHED_BYTES_MAX) => {
                Err(Elapsed)
            }
            Some(at) => timeout(at.saturating_duration_since(now()), queue.next()).await,
            // Looks at the budget now and then, also when nothing comes.
            None => timeout(LEVEL_SPAN, queue.next()).await,
        };
        match next {
            Ok(Some(Work::Purges(asked))) => write_purges(&mut store, &face, &stores, asked).await,
            Ok(Some(Work::Retry)) => {} // it is in use
            Ok(Some(Work::Lend)) => {
                let _counted = store.flush_pending().await;
                while !unproven.keeps.is_empty() {
                    unproven.prove(&mut store, &face, true).await;
                    let _counted = store.flush_pending().await;
                }
                let _counted = store.note_written().await;
                queue.written();
                (flush_at, unflushed) = (None, 0);
                if !queue.lent().await {
                    return queue.finished();
                }
            }
            Ok(Some(Work::Remove(remove))) => {
                store.remove(&ExtentKey::head(remove.key));
                for block in 0..remove.blocks {
                    store.remove(&ExtentKey::block(remove.key, remove.version, block));
                }
            }
            // The journal forgets a purge once all heads on the device are younger: so none that it reaches may follow.
            Ok(Some(Work::Keep(keep)))
                if keep.key.is_head()
                    && keep.object.as_ref().is_some_and(|o| !is_kept(&purges, o) || is_over(o)) =>
            {
                queue.left_out()
            }
            Ok(Some(Work::Keep(keep)))
                if keep.invalidation.is_none()
                    && budget.as_mut().is_some_and(|b| !b.allows(stored_bytes(&keep), seconds)) =>
            {
                stats.over_budget.fetch_add(1, Ordering::Relaxed);
                // A later request tries again.
                if let Some(object) = &keep.object {
                    object.set_left_out();
                }
                queue.left_out();
            }
            Ok(Some(Work::Keep(keep))) => {
                appended += stored_bytes(&keep);
                unflushed += keep.payload.len();
                if let Some(budget) = &mut budget {
                    budget.spend(stored_bytes(&keep), seconds);
                }
                let is_awaited = keep.invalidation.is_some();
                let span = if is_awaited { FLUSH_SPAN_AWAITED } else { FLUSH_SPAN };
                match is_awaited {
                    true => unproven.append(&mut store, keep).await,
                    false => append(&mut store, &keep).await,
                }
                let latest = now() + span;
                flush_at = Some(flush_at.map_or(latest, |at| at.min(latest)));
            }
            Err(_) => {
                // What is waited for outlives a power cut, too.
                let is_whole = match unproven.keeps.is_empty() {
                    true => store.flush_pending().await.is_ok(),
                    false => store.sync().await.is_ok(),
                };
                queue.written();
                unproven.prove(&mut store, &face, is_whole).await;
                unflushed = 0;
                flush_at = (!unproven.keeps.is_empty()).then(|| now() + FLUSH_SPAN);
            }
            Ok(None) => {
                let _counted = store.flush_pending().await;
                while !unproven.keeps.is_empty() {
                    unproven.prove(&mut store, &face, true).await;
                    let _counted = store.flush_pending().await;
                }
                let _counted = store.note_written().await;
                queue.written();
                queue.finished();
                return;
            }
        }
    }
}

fn is_kept(purges: &Purges, object: &Object) -> bool {
    let head = &object.head;
    purges.judge(&head.handles, head.version, head.confirmed) == Judgement::Kept
}

/// The judgement of heads at reclaim.
struct Worth {
    purges: Arc<Purges>,
    queue: Arc<KeepQueue>,
    reader: Reader,
}

/// Blocks of an object that are looked for: more than a media segment has.
const LOOKED_FOR_BLOCKS_MAX: u32 = 64;

impl Worth {
    /// Whether a head shall be written once more: while the object may still be served, was not purged, and its
    /// bytes are of use. `used`: it was read from the device.
    fn is_worth_keeping(&self, header: &ExtentHeader, payload: &Bytes, used: bool) -> bool {
        let key = header.key.key;
        match Object::decode(key, payload) {
            Some(Stored::Object(object, body)) => {
                let useful = object.head.lifetime.useful_until_ms() > clock::now_ms()
                    || object.head.can_revalidate();
                useful && is_kept(&self.purges, &object) && self.has_use(&object, &body, used)
            }
            Some(Stored::Varies(_)) => used || self.was_asked(key, None),
            // Segments of heads go in the order of their age: what it makes invalid is gone already.
            Some(Stored::Gone(_)) | None => false,
        }
    }

    /// A body that lies with its head must have been asked for; one in blocks must lie on the device.
    fn has_use(&self, object: &Object, body: &Option<Bytes>, used: bool) -> bool {
        let (key, version) = (object.key, object.version());
        let blocks = object.total().map_or(0, |total| total.div_ceil(BLOCK_BYTES as u64));
        if body.is_some() || blocks == 0 {
            return used || self.was_asked(key, Some(version));
        }
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX).min(LOOKED_FOR_BLOCKS_MAX);
        (0..blocks).any(|block| self.reader.contains(&ExtentKey::block(key, version, block)))
    }

    fn was_asked(&self, key: u128, version: Option<u64>) -> bool {
        self.queue.table().is_some_and(|table| table.take_used(key, version))
    }
}

/// Writes purges to the journal, tells those who wait, and forgets what is not needed any more.
async fn write_purges(
    store: &mut Store<RingDevice>,
    face: &StoreFace,
    stores: &Stores,
    asked: Vec<(Purge, Arc<Receipt>)>,
) {
    let (purges, stats) = (&face.common.purges, &face.stats);
    // Answers to unsafe methods can say the same again and again.
    let latest = Latest::of(asked.iter().map(|(purge, _)| *purge));
    let (said_later, said): (Vec<Purge>, Vec<Purge>) =
        asked.iter().map(|(purge, _)| *purge).partition(|purge| latest.covers(purge));
    let records: Vec<_> = said
        .iter()
        .map(|purge| Purge { at_ms: clock::to_disk(purge.at_ms), ..*purge }.encode())
        .collect();
    let covered = |record: &tidegate_store::JournalRecord| {
        Purge::decode(&record.payload).is_some_and(|old| {
            asked.iter().any(|(new, _)| new.covers(&old) && new.number > old.number)
        })
    };
    // One whole service, hard: what was purged of it before needs no record of its own.
    let sums_up = asked.iter().any(|(new, _)| new.mode == Mode::Hard && new.handle == new.service);
    let mut written = store.journal(&records).await;
    if matches!(written, Err(JournalError::Full { .. })) {
        let latest = Latest::of(store.journal_records().filter_map(decode));
        let is_said_later = |record: &tidegate_store::JournalRecord| {
            decode(record).is_some_and(|p| latest.covers(&p))
        };
        if let Ok(dropped) = store.journal_drop(is_said_later).await
            && !dropped.is_empty()
        {
            purges.retire(dropped.iter().filter_map(decode), face.bit());
            written = store.journal(&records).await;
        }
    }
    if sums_up && matches!(written, Err(JournalError::Full { .. })) {
        written = store.journal_last(&records).await;
    }
    if matches!(written, Err(JournalError::Full { .. }))
        && sum_up_journal(store, face, stores).await
    {
        written = store.journal(&records).await;
    }
    let outcome = match written {
        Ok(retired) => {
            purges.retire(retired.iter().filter_map(decode), face.bit());
            purges.retire(said_later.into_iter(), face.bit());
            Ok(())
        }
        Err(error) => {
            stats.purge_errors.fetch_add(asked.len() as u64, Ordering::Relaxed);
            let is_slow = face.is_slow() && stores.is_another_well(face);
            if is_slow || store.state() >= DeviceState::ReadOnly {
                // It takes no purges any more, so that it must not be read any more.
                return face.retire(asked.into_iter().map(|(_, receipt)| receipt).collect());
            }
            Err(format!("store {}: {error}", face.path.display()))
        }
    };
    if sums_up
        && outcome.is_ok()
        && let Ok(dropped) = store.journal_drop(covered).await
    {
        purges.forget(dropped.iter().filter_map(decode));
    }
    for (_, receipt) in asked {
        receipt.give(face.bit().into(), outcome.clone());
    }
}

/// Makes room in a journal that is full, by one record that says more than those of one service did: without it, whoever has an
/// origin invalidate what it likes could keep all others' purges out. `false`: there is no such service.
async fn sum_up_journal(store: &mut Store<RingDevice>, face: &StoreFace, stores: &Stores) -> bool {
    let Some((service, _)) = heaviest(store.journal_records().filter_map(decode)) else {
        return false;
    };
    let sum = sum_up(stores, &face.common.purges, service);
    let record = Purge { at_ms: clock::to_disk(sum.at_ms), ..sum }.encode();
    if store.journal_last(&[record]).await.is_err() {
        return false;
    }
    let is_said = |record: &tidegate_store::JournalRecord| {
        decode(record).is_some_and(|old| old.number < sum.number && sum.covers(&old))
    };
    store.journal_drop(is_said).await.is_ok_and(|dropped| !dropped.is_empty())
}

fn decode(record: &tidegate_store::JournalRecord) -> Option<Purge> {
    let mut purge = Purge::decode(&record.payload)?;
    purge.at_ms = clock::from_disk(purge.at_ms);
    Some(purge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_purge_says_too_needs_no_record() {
        let purge =
            |handle, number, mode| Purge { handle, service: 1, number, at_ms: number, mode };
        let all = [
            purge(7, 1, Mode::Soft),
            purge(7, 2, Mode::Hard),
            purge(7, 3, Mode::Soft),
            purge(7, 4, Mode::Soft),
            purge(8, 5, Mode::Hard),
            purge(8, 6, Mode::Hard),
        ];
        let latest = Latest::of(all.into_iter());
        let left: Vec<u64> =
            all.iter().filter(|purge| !latest.covers(purge)).map(|purge| purge.number).collect();
        assert_eq!(left, [2, 4, 6], "a soft one does not say what a hard one said");
        for one in all.iter().filter(|purge| latest.covers(purge)) {
            assert!(all.iter().any(|other| other.number > one.number && other.covers(one)));
        }
    }
}
