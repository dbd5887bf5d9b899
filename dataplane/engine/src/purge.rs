//! Purges of a running node: rules that every lookup is held against, and their way to disk.
//!
//! A purge is a rule in memory from the moment that it is issued, and a record in the store's journal before it is
//! acknowledged. Nothing is looked for: an object is judged when it is met ([`Purges::check`]), once after each
//! purge; a hit in between costs one load.
//!
//! Must stay true: a fill whose question went out before the purge neither feeds requests that came after it nor
//! leaves a head on disk; a rule is forgotten only when nothing that it reaches can come back: no older head lies on
//! any device (their journals tell, `tidegate_store`), the object table has been swept, and no older fill runs; or when a later
//! one says all that it says. Answers to unsafe methods can say what they like, as often as they like: beyond [`PURGES_MAX`],
//! or what a journal holds, one soft purge of a whole service takes the place of all of its soft ones.

use crate::catch_up;
use crate::clock::{self, now_ms};
use crate::fill::Fill;
use crate::keeper::Remove;
use crate::node::Core;
use crate::object::Object;
use crate::stores::Stores;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Poll, Waker};
use std::time::Duration;
use tidegate_cache::blocks::block_count;
use tidegate_cache::purge::{Judgement, Mode, Purge, Rules, Target, TargetError, service_handle};
use tidegate_ring::timeout;
use tidegate_store::JournalRecord;

/// A rule lives at least this long: longer than any question to a next hop.
const RULE_LIFE_MIN_MS: u64 = 15 * 60 * 1000;
/// Purges that are kept in memory: more than a journal of the usual size holds.
pub(crate) const PURGES_MAX: usize = 1 << 17;
/// Purges of one service are summed up when they are at least this part of all: it costs the service a question for each object.
const HEAVY_SHARE: usize = 16;
/// How long an order waits for the journal.
const JOURNAL_SPAN_MAX: Duration = Duration::from_secs(5);
/// And then for the roll, without those who could not write theirs.
pub const ROLL_SPAN_MAX: Duration = Duration::from_secs(1);

/// The purges of one process.
#[derive(Debug, Default)]
pub struct Purges {
    rules: RwLock<Rules>,
    /// Rises with each purge; an object that was judged at this number need not be judged again.
    stamp: AtomicU64,
    newest: AtomicU64,
    needed: Mutex<Needed>,
    /// Services whose purges were summed up, each with how many those were; not told yet.
    summed: Mutex<Vec<(u64, usize)>>,
}

#[derive(Debug, Default)]
struct Needed {
    /// By number: the purge, and the bits of the devices that may hold older heads.
    by: HashMap<u64, (Purge, u32)>,
    /// Purges that no head on disk needs any more.
    retired: Vec<Purge>,
}

impl Needed {
    /// The devices of `bits` need this one no more.
    fn release(&mut self, number: u64, bits: u32) {
        if let Some((purge, left)) = self.by.get_mut(&number) {
            *left &= !bits;
            if *left == 0 {
                let purge = *purge;
                self.by.remove(&number);
                self.retired.push(purge);
            }
        }
    }
}

impl Purges {
    /// Takes what the journal of a device says, at start.
    pub fn load<'a>(&self, records: impl Iterator<Item = &'a JournalRecord>, bit: u32) {
        for record in records {
            if let Some(mut purge) = Purge::decode(&record.payload) {
                purge.at_ms = clock::from_disk(purge.at_ms);
                self.add(&purge, bit);
            }
        }
    }

    /// A journal may have lost purges: whatever was stored before `number` is stale. Gives the purge that says so.
    pub fn distrust(&self, number: u64, bit: u32) -> Purge {
        let handle = Target::All.handle("").unwrap_or_default();
        let purge = Purge { handle, service: 0, number, at_ms: now_ms(), mode: Mode::Soft };
        self.add(&purge, bit);
        purge
    }

    fn needed(&self) -> MutexGuard<'_, Needed> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it holds; the devices of `bits` need it.
    pub fn add(&self, purge: &Purge, bits: u32) {
        {
            let mut needed = self.needed();
            if bits == 0 {
                needed.retired.push(*purge);
            } else {
                needed.by.entry(purge.number).or_insert((*purge, 0)).1 |= bits;
            }
        }
        self.rules.write().unwrap_or_else(PoisonError::into_inner).add(purge);
        self.newest.fetch_max(purge.number, Ordering::SeqCst);
        self.stamp.fetch_add(1, Ordering::SeqCst);
    }

    /// The greatest number of all purges.
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// Rules in memory.
    pub fn len(&self) -> usize {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Purges that are kept, each for as long as it may matter.
    pub(crate) fn kept(&self) -> usize {
        let needed = self.needed();
        needed.by.len() + needed.retired.len()
    }

    /// Forgets those that a later one says; how many they were.
    fn forget_said(&self, is_said: impl Fn(&Purge) -> bool) -> usize {
        let said: Vec<Purge> = {
            let needed = &mut *self.needed();
            let by = needed.by.values().map(|(purge, _)| *purge).filter(|purge| is_said(purge));
            by.chain(needed.retired.extract_if(.., |purge| is_said(purge))).collect()
        };
        let count = said.len();
        self.forget(said.into_iter());
        count
    }

    /// Keeps no more than [`PURGES_MAX`], of those that need no order.
    pub(crate) fn bound(&self, stores: &Stores) {
        if self.kept() <= PURGES_MAX {
            return;
        }
        let all: Vec<Purge> = {
            let needed = self.needed();
            needed
                .by
                .values()
                .map(|(purge, _)| *purge)
                .chain(needed.retired.iter().copied())
                .collect()
        };
        let latest = Latest::of(all.iter().copied());
        self.forget_said(|purge| latest.covers(purge));
        if self.kept() > PURGES_MAX / 2
            && let Some((service, _)) = heaviest(all.into_iter().filter(|p| !latest.covers(p)))
        {
            sum_up(stores, self, service);
        }
    }

    /// What became of `object`.
    pub fn check(&self, object: &Object) -> Judgement {
        let stamp = self.stamp.load(Ordering::SeqCst);
        if object.judged_at(stamp) {
            return Judgement::Kept;
        }
        let judgement = self.judge(&object.head.handles, object.version(), object.head.confirmed);
        if judgement == Judgement::Kept {
            object.set_judged(stamp);
        }
        judgement
    }

    /// What becomes of a head with these handles and numbers.
    pub fn judge(&self, handles: &[u64], version: u64, confirmed: u64) -> Judgement {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.judge(handles, version, confirmed)
    }

    /// Whether a purge came after `fill` began to ask for something with these handles.
    pub fn reaches_fill(&self, fill: &Fill, handles: impl FnOnce() -> Vec<u64>) -> bool {
        self.newest() >= fill.number
            && self.judge(&handles(), fill.number, fill.number) != Judgement::Kept
    }

    /// The journal of the device with this bit has given these up: no head on it is older.
    pub fn retire(&self, purges: impl Iterator<Item = Purge>, bit: u32) {
        let mut needed = self.needed();
        purges.for_each(|purge| needed.release(purge.number, bit));
    }

    /// How many purges no device needs any more.
    #[cfg(test)]
    pub(crate) fn retired(&self) -> usize {
        self.needed().retired.len()
    }

    /// The device with this bit is not read any more.
    pub fn release(&self, bit: u32) {
        let mut needed = self.needed();
        let numbers: Vec<u64> = needed.by.keys().copied().collect();
        numbers.into_iter().for_each(|number| needed.release(number, bit));
    }

    /// A later purge says all that these said.
    pub fn forget(&self, purges: impl Iterator<Item = Purge>) {
        let mut needed = self.needed();
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        purges.for_each(|purge| {
            needed.by.remove(&purge.number);
            rules.forget(&purge);
        });
    }
}

/// The service that most soft purges are of, if that is many of all; how many those are.
pub(crate) fn heaviest(purges: impl Iterator<Item = Purge>) -> Option<(u64, usize)> {
    let (mut counts, mut all) = (HashMap::<u64, usize>::new(), 0);
    for purge in purges {
        all += 1;
        if purge.mode == Mode::Soft && purge.handle != purge.service && purge.service != 0 {
            *counts.entry(purge.service).or_default() += 1;
        }
    }
    let found = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (found.1 > 1 && found.1 * HEAVY_SHARE >= all).then_some(found)
}

/// Has one purge say for all soft ones of a service, on all devices, that what is stored of it is stale.
pub(crate) fn sum_up(stores: &Stores, purges: &Purges, service: u64) -> Purge {
    let number = stores.next_version();
    let sum = Purge { handle: service, service, number, at_ms: now_ms(), mode: Mode::Soft };
    let _not_waited_for = stores.record(sum);
    let count = purges.forget_said(|purge| purge.number < number && sum.covers(purge));
    purges.summed.lock().unwrap_or_else(PoisonError::into_inner).push((service, count));
    sum
}

/// The latest purges, by handle: greatest number of all of them and of the hard ones.
#[derive(Default)]
pub(crate) struct Latest(HashMap<u64, (u64, u64)>);

impl Latest {
    pub(crate) fn of(purges: impl Iterator<Item = Purge>) -> Latest {
        let mut latest = Latest::default();
        for purge in purges {
            let (any, hard) = latest.0.entry(purge.handle).or_default();
            *any = purge.number.max(*any);
            if purge.mode == Mode::Hard {
                *hard = purge.number.max(*hard);
            }
        }
        latest
    }

    /// Whether a later one says all that this one says.
    pub(crate) fn covers(&self, purge: &Purge) -> bool {
        self.0.get(&purge.handle).is_some_and(|(any, hard)| match purge.mode {
            Mode::Soft => *any > purge.number,
            Mode::Hard => *hard > purge.number,
        })
    }
}

/// Why a purge was not done.
#[derive(Debug)]
pub enum PurgeError {
    Target(TargetError),
    /// It holds in memory; after a restart, what it purged may come back.
    NotDurable(String),
}

impl std::fmt::Display for PurgeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PurgeError::Target(error) => error.fmt(f),
            PurgeError::NotDurable(why) => write!(
                f,
                "purged in memory, but it would not outlive a restart: {why}; mend that and purge again"
            ),
        }
    }
}

impl std::error::Error for PurgeError {}

/// Purges `target` of `service`, as the order of this id wants it, and waits until a restart cannot undo it. Gives the purge's number.
///
/// # Errors
/// A target that nothing answers to; a journal that could not be written.
pub async fn purge(
    core: &Core,
    order: &str,
    service: &str,
    target: Target<'_>,
    mode: Mode,
) -> Result<u64, PurgeError> {
    let handle = target.handle(service).map_err(PurgeError::Target)?;
    let issue = || issue(core, service, handle, mode);
    let (number, receipt) = catch_up::begin_told(&core.node.stores, order, issue);
    let mut outcome = timeout(JOURNAL_SPAN_MAX, receipt.wait()).await;
    if outcome.is_err() {
        core.node.stores.give_up_on(&receipt);
        outcome = timeout(ROLL_SPAN_MAX, receipt.wait()).await;
    }
    match outcome {
        Ok(Ok(())) => Ok(number),
        Ok(Err(why)) => Err(PurgeError::NotDurable(why)),
        Err(_) => Err(PurgeError::NotDurable(format!(
            "the journal was not written within {} s",
            JOURNAL_SPAN_MAX.as_secs()
        ))),
    }
}

/// Purges by a handle; the receipt tells when it is on disk.
pub fn issue(core: &Core, service: &str, handle: u64, mode: Mode) -> (u64, Arc<Receipt>) {
    core.count(|c| &c.purges_total, 1);
    issue_on(&core.node.stores, service, handle, mode)
}

/// Purges by a handle, where nobody serves yet, too.
pub fn issue_on(stores: &Stores, service: &str, handle: u64, mode: Mode) -> (u64, Arc<Receipt>) {
    let number = stores.next_version();
    let purge = Purge { handle, service: service_handle(service), number, at_ms: now_ms(), mode };
    (number, stores.record(purge))
}

/// Told by the keepers when a purge is on disk.
#[derive(Debug)]
pub struct Receipt {
    state: Mutex<ReceiptState>,
}

#[derive(Debug)]
struct ReceiptState {
    /// Bits of those who have not said anything yet.
    missing: u64,
    outcome: Option<Result<(), String>>,
    waiter: Option<Waker>,
}

impl Receipt {
    /// One that all of these bits have to give.
    pub fn of(bits: u64) -> Receipt {
        let outcome = (bits == 0).then_some(Ok(()));
        Receipt { state: Mutex::new(ReceiptState { missing: bits, outcome, waiter: None }) }
    }

    /// Who has not given it yet.
    pub fn missing(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).missing
    }

    /// One of those who have to has it on disk; the first who has not counts for all.
    pub fn give(&self, bit: u64, outcome: Result<(), String>) {
        let waker = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.missing &= !bit;
            if state.missing == 0 || outcome.is_err() {
                state.outcome.get_or_insert(outcome);
            }
            if state.outcome.is_some() { state.waiter.take() } else { None }
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Whether all have given it.
    pub fn is_good(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(state.outcome, Some(Ok(())))
    }

    /// Whether one of them could not.
    pub fn has_failed(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(state.outcome, Some(Err(_)))
    }

    /// Waits until all have given it, or one could not.
    ///
    /// # Errors
    /// Why that one could not.
    pub async fn wait(&self) -> Result<(), String> {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &state.outcome {
                Some(outcome) => Poll::Ready(outcome.clone()),
                None => {
                    state.waiter = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// What is left of `object` after all purges: itself, a stale copy that is current now, or nothing.
pub fn sift_object(core: &Core, object: Arc<Object>) -> Option<Arc<Object>> {
    match core.node.purges.check(&object) {
        Judgement::Kept => Some(object),
        Judgement::Soft { since_ms } if object.total().is_some() => {
            let cut = object.head.lifetime.cut_short(since_ms);
            if cut == object.head.lifetime {
                return Some(object); // it had been stale before, or was cut already
            }
            let stale = Arc::new(object.with_lifetime(cut));
            core.node.table.replace(&object, stale.clone());
            Some(stale)
        }
        // A body whose end has not come cannot be made stale without losing its length: filled anew.
        Judgement::Soft { .. } | Judgement::Hard => {
            drop_object(core, &object);
            None
        }
    }
}

/// Gives up a purged object: no more hits, and its bytes make room.
fn drop_object(core: &Core, object: &Arc<Object>) {
    let node = &core.node;
    node.table.forget(object);
    core.count(|c| &c.purged_objects_total, 1);
    let blocks = object.total().map_or(0, block_count).min(REMOVED_BLOCKS_MAX);
    for block in 0..blocks {
        node.ram.remove(&(object.key, object.version(), block));
    }
    for store in node.stores.places(object.key) {
        store.queue.push_remove(Remove { key: object.key, version: object.version(), blocks });
    }
}

/// Blocks of one purged object that are taken out at once; those of larger objects leave with their segment.
const REMOVED_BLOCKS_MAX: u32 = 1024;

/// Forgets rules whose time is over. For one core's timer.
pub fn sweep(core: &Core) {
    let purges = &core.node.purges;
    purges.bound(&core.node.stores);
    let summed = std::mem::take(&mut *purges.summed.lock().unwrap_or_else(PoisonError::into_inner));
    for (service, count) in summed {
        core.count(|c| &c.purges_summed_up_total, count as u64);
        let view = core.node.view.load();
        let mut ids = view.services().iter().map(|service| service.service.id.as_str());
        let id = ids
            .find(|id| service_handle(id) == service)
            .unwrap_or("(not in the snapshot any more)");
        eprintln!(
            "tidegated {}: too many soft purges to keep: all that is stored of service {id} is stale now, in the place of its \
             {count} purges\n    mend: see who sends Cache-Group-Invalidation (purges_total); name fewer groups there, or purge by \
             prefix",
            view.me.id
        );
    }
    let due: Vec<Purge> = {
        let retired = &mut purges.needed().retired;
        let now = now_ms();
        let is_due = |purge: &Purge| now.saturating_sub(purge.at_ms) >= RULE_LIFE_MIN_MS;
        if !retired.iter().any(is_due) {
            return;
        }
        let (due, rest) = std::mem::take(retired).into_iter().partition(is_due);
        *retired = rest;
        due
    };
    let newest = due.iter().map(|purge| purge.number).max().unwrap_or(0);
    let oldest_fill = core.node.table.sweep(newest, |object| {
        purges.judge(&object.head.handles, object.version(), object.head.confirmed)
            == Judgement::Kept
    });
    let (over, not_yet): (Vec<Purge>, Vec<Purge>) =
        due.into_iter().partition(|purge| oldest_fill.is_none_or(|number| number > purge.number));
    purges.forget(over.into_iter());
    purges.needed().retired.extend(not_yet);
}
