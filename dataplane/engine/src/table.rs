//! The object table: for each key the object that is current, the fills under way, and what is known to be
//! uncacheable. Shared by all cores, in shards with short locks.
//!
//! Must stay true: at most one fill per key asks what is current, and part fills of one version do not overlap; an entry
//! with a fill is never evicted; what entries take is bounded in bytes (the rest is found again in the store); nothing that
//! was made invalid is offered again because an entry that said so was evicted.

use crate::fill::{Fill, Windows};
use crate::object::Object;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_cache::alternate::Marker;
use tidegate_types::limits::{ALTERNATES_MAX, BLOCK_BYTES};

const SHARDS: usize = 64;

#[derive(Default)]
struct Entry {
    object: Option<Arc<Object>>,
    /// Requests for this key choose among alternates.
    marker: Option<Arc<Marker>>,
    /// Those that were asked for since it was known, by their keys.
    alternates: Vec<u128>,
    fill: Option<Arc<Fill>>,
    /// By version: fills that bring bytes and ask nothing any more. Under [`LEFT`] those whose answer is for nobody but who
    /// waits for it: the entry must outlive them.
    parts: Vec<(u64, Arc<Fill>)>,
    pass_until_ms: u64,
    /// Versions up to this one were given up: what the store still holds of them is not taken again.
    forgotten: u64,
    /// The store was told that versions up to this one are not valid, or had nothing of them.
    invalid: u64,
    used: bool,
    /// What it was counted with in its shard.
    cost: usize,
}

/// No object's version.
const LEFT: u64 = 0;

/// What an entry takes that holds no object.
const ENTRY_BYTES: usize = 320;

impl Entry {
    fn cost(&self) -> usize {
        let names = |marker: &Arc<Marker>| marker.names.iter().map(|name| 48 + name.len()).sum();
        self.object.as_ref().map_or(0, |object| object.cost())
            + self.marker.as_ref().map_or(0, names)
            + self.alternates.capacity() * size_of::<u128>()
            + ENTRY_BYTES
    }

    /// The fill that brings all of this version, though it is not asked any more whether that is current.
    fn coming(&self, version: u64) -> Option<Arc<Fill>> {
        let is_it = |(of, fill): &&(u64, Arc<Fill>)| *of == version && fill.is_whole();
        self.parts.iter().find(is_it).map(|(_, fill)| fill.clone())
    }

    /// What comes by a fill that asked before `version` is of no use to later requests.
    fn leave_fill(&mut self, version: u64) {
        if let Some(fill) = self.fill.take_if(|fill| fill.number <= version) {
            fill.set_purged();
            self.parts.push((LEFT, fill));
        }
    }

    fn end_fill(&mut self, fill: &Arc<Fill>) {
        self.fill.take_if(|current| Arc::ptr_eq(current, fill));
        self.parts.retain(|(_, part)| !Arc::ptr_eq(part, fill));
    }

    fn put(&mut self, object: Arc<Object>) {
        let rank = |object: &Object| (object.version(), object.head.confirmed);
        // It was asked for before that was made invalid.
        if object.version() <= self.forgotten {
            return;
        }
        if self.object.as_ref().is_none_or(|current| rank(current) <= rank(&object)) {
            self.object = Some(object);
            self.pass_until_ms = 0;
        }
    }
}

#[derive(Default)]
struct Shard {
    entries: HashMap<u128, Entry>,
    /// Keys in the order of their coming; used ones get another round.
    queue: VecDeque<u128>,
    bytes: usize,
}

/// What is known of a key.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub object: Option<Arc<Object>>,
    /// There is no object of this key, but of its alternates.
    pub marker: Option<Arc<Marker>>,
    pub fill: Option<Arc<Fill>>,
    /// The fill whose body the object is, when another one has asked since whether it is current.
    pub coming: Option<Arc<Fill>>,
    /// Answers for this key were uncacheable a moment ago: do not make requests wait for each other.
    pub pass: bool,
}

/// Whether this request does the fill or reads along.
pub enum Claim {
    Lead(Arc<Fill>),
    Join(Arc<Fill>),
    /// Too many fills are under way.
    Full,
    /// Another fill has come and gone since the caller looked: look again.
    Changed,
}

/// What was known of a key before it was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgot {
    Object,
    /// No object; there may be one in the store.
    Unknown,
    /// And none in the store.
    Nothing,
}

/// The table of one process.
pub struct Table {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
    windows: Arc<Windows>,
}

impl Table {
    /// A table whose objects take about `bytes_max`, and whose fills share `windows`.
    pub fn new(bytes_max: u64, windows: Arc<Windows>) -> Table {
        Table {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_bytes_max: (bytes_max as usize / SHARDS).max(64 << 10),
            windows,
        }
    }

    fn with<T>(&self, key: u128, work: impl FnOnce(&mut Shard) -> T) -> T {
        let shard = &self.shards[(key >> 64) as usize % SHARDS];
        work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of `key` at `now_ms`.
    pub fn get(&self, key: u128, now_ms: u64) -> Known {
        self.with(key, |shard| match shard.entries.get_mut(&key) {
            None => Known::default(),
            Some(entry) => {
                entry.used = true;
                Known {
                    object: entry.object.clone(),
                    marker: entry.marker.clone(),
                    fill: entry.fill.clone(),
                    coming: entry.object.as_ref().and_then(|o| entry.coming(o.version())),
                    pass: now_ms < entry.pass_until_ms,
                }
            }
        })
    }

    fn entry<T>(&self, key: u128, work: impl FnOnce(&mut Entry) -> T) -> T {
        let max = self.shard_bytes_max;
        self.with(key, |shard| {
            if !shard.entries.contains_key(&key) {
                shard.make_room(max);
                shard.queue.push_back(key);
            }
            let entry = shard.entries.entry(key).or_default();
            let outcome = work(entry);
            let cost = entry.cost();
            shard.bytes = shard.bytes + cost - std::mem::replace(&mut entry.cost, cost);
            outcome
        })
    }

    /// Joins the fill of `key`, or makes one for the caller to lead, whose judgement rests on `seen`.
    ///
    /// A fill that brings just what was `seen` does not answer whether that is good: another one asks, and the body comes
    /// on beside it (RFC 9111 §4.2.4: an answer that is stale before its end has come is as stale as any other). One
    /// without a validator cannot be asked about: rather than bring it twice at a time, its readers share what comes.
    /// `number` is the fill's, if one is made: purges with a greater one reach what it brings.
    pub fn claim(&self, key: u128, seen: Option<&Arc<Object>>, now_ms: u64, number: u64) -> Claim {
        let brings_seen = |fill: &Fill| {
            seen.is_some_and(|object| object.head.can_revalidate() && fill.is_of(object.version()))
        };
        self.entry(key, |entry| match entry.fill.as_ref().filter(|fill| !brings_seen(fill)) {
            Some(fill) => Claim::Join(fill.clone()),
            // Between look and claim lies a read of the store: time enough for a whole fill of another core.
            None if now_ms < entry.pass_until_ms
                || entry.object.as_ref().map(Arc::as_ptr) != seen.map(Arc::as_ptr) =>
            {
                Claim::Changed
            }
            None if self.windows.is_crowded() => Claim::Full,
            None => {
                let fill = Arc::new(Fill::whole(number, self.windows.clone()));
                let before = entry.fill.replace(fill.clone());
                entry.parts.extend(seen.map(|object| object.version()).zip(before));
                Claim::Lead(fill)
            }
        })
    }

    /// The fill that brings the body of this version, when another one has asked since whether it is current.
    pub fn coming(&self, object: &Object) -> Option<Arc<Fill>> {
        self.with(object.key, |shard| shard.entries.get(&object.key)?.coming(object.version()))
    }

    /// Whether `key` may become an alternate of `primary`: there are fewer than [`ALTERNATES_MAX`] beside it that are fresh or
    /// on their way. Who asks in a thousand ways gets a thousand answers, and none of them is kept.
    pub fn may_have_alternate(&self, primary: u128, key: u128, now_ms: u64) -> bool {
        let full = self.entry(primary, |entry| {
            let is_known = entry.alternates.contains(&key);
            let is_full = entry.alternates.len() >= ALTERNATES_MAX;
            if !is_known && !is_full {
                entry.alternates.push(key);
            }
            (!is_known && is_full).then(|| entry.alternates.clone())
        });
        let Some(mut others) = full else { return true };
        let is_live = |entry: &Entry| {
            let is_fresh = |object: &Arc<Object>| object.head.lifetime.ttl_seconds(now_ms) > 0;
            entry.fill.is_some() || entry.object.as_ref().is_some_and(is_fresh)
        };
        others.retain(|other| {
            self.with(*other, |shard| shard.entries.get(other).is_some_and(is_live))
        });
        let has_room = others.len() < ALTERNATES_MAX;
        if has_room {
            others.push(key);
            self.entry(primary, |entry| entry.alternates = others);
        }
        has_room
    }

    /// Joins the part fill that covers `offset` of this version, or makes one over `start..end`, cut short where
    /// another one begins.
    pub fn claim_part(&self, object: &Arc<Object>, offset: u64, start: u64, end: u64) -> Claim {
        let version = object.version();
        self.entry(object.key, |entry| {
            let mut end = end;
            for (of, fill) in &entry.parts {
                if *of == version && fill.covers(offset) {
                    if !fill.has_passed(offset) {
                        return Claim::Join(fill.clone());
                    }
                    // Its bytes went by while nobody could keep them: the one block is asked for again.
                    end = end.min((offset / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64);
                }
                if *of == version && fill.start > start {
                    end = end.min(fill.start);
                }
            }
            if self.windows.is_crowded() {
                return Claim::Full;
            }
            let fill = Arc::new(Fill::part(object.clone(), start, end, self.windows.clone()));
            entry.parts.push((version, fill.clone()));
            Claim::Lead(fill)
        })
    }

    /// Makes `object` the current one, unless what is current came of a later question: a fill that was purged may
    /// end behind the one that took its place.
    pub fn publish(&self, object: Arc<Object>) {
        self.entry(object.key, |entry| entry.put(object));
    }

    /// Makes `object` the current one, of which bytes `start..end` are on their way; gives the fill that brings them.
    /// That which `asked` has done its work.
    pub fn publish_part(
        &self,
        object: Arc<Object>,
        start: u64,
        end: u64,
        asked: &Arc<Fill>,
    ) -> Arc<Fill> {
        let fill = Arc::new(Fill::part(object.clone(), start, end, self.windows.clone()));
        self.entry(object.key, |entry| {
            entry.end_fill(asked);
            entry.parts.push((object.version(), fill.clone()));
            entry.put(object);
        });
        fill
    }

    /// From now on requests for `key` choose among alternates by these fields, and those that were known before. Its floor
    /// counts when no marker is known: one that was may have been raised since. `None`: too many fields.
    pub fn set_marker(&self, key: u128, marker: Marker) -> Option<Arc<Marker>> {
        self.entry(key, |entry| {
            let known = entry.marker.as_deref();
            let mut all = marker.with(known.map_or(&[], |known| &known.names))?;
            all.floor = known.map_or(all.floor, |known| known.floor).max(entry.forgotten);
            let all = Arc::new(all);
            entry.marker = Some(all.clone());
            entry.object = None;
            Some(all)
        })
    }

    /// No alternate of `key` up to `version` is valid any more; gives the marker that says so, if there is one.
    pub fn raise_floor(&self, key: u128, version: u64) -> Option<Arc<Marker>> {
        self.entry(key, |entry| {
            entry.leave_fill(version);
            let known = entry.marker.as_ref()?;
            let marker = Arc::new(Marker { floor: version.max(known.floor), ..(**known).clone() });
            entry.marker = Some(marker.clone());
            Some(marker)
        })
    }

    /// The fill of `from` turned out to bring the object of `to`: who asks for that may join it.
    pub fn move_fill(&self, from: u128, to: u128, fill: &Arc<Fill>) {
        self.end_fill(from, fill);
        self.entry(to, |entry| {
            entry.fill.get_or_insert_with(|| fill.clone());
        });
    }

    /// Puts `new` in the place of `old`, the same version, if that is still current.
    pub fn replace(&self, old: &Arc<Object>, new: Arc<Object>) {
        self.with(old.key, |shard| {
            if let Some(entry) = shard.entries.get_mut(&old.key)
                && entry.object.as_ref().is_some_and(|current| Arc::ptr_eq(current, old))
            {
                entry.object = Some(new);
            }
        });
    }

    /// Forgets all objects up to version `number` that `is_kept` refuses. Gives the least number of the fills that
    /// run.
    pub fn sweep(&self, number: u64, is_kept: impl Fn(&Object) -> bool) -> Option<u64> {
        let mut oldest_fill: Option<u64> = None;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in shard.entries.values_mut() {
                let parts = entry.parts.iter().map(|(_, fill)| fill.number);
                let running = entry.fill.iter().map(|fill| fill.number).chain(parts).min();
                oldest_fill = [oldest_fill, running].into_iter().flatten().min();
                let purged = |object: &Arc<Object>| object.version() <= number && !is_kept(object);
                if let Some(object) = entry.object.take_if(|object| purged(object)) {
                    entry.forgotten = entry.forgotten.max(object.version());
                }
            }
        }
        oldest_fill
    }

    /// Makes `object` (read from the store) the current one unless there is one already, or its version was given
    /// up; gives the current one.
    pub fn publish_recovered(&self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.entry(object.key, |entry| {
            if entry.object.is_none() && object.version() > entry.forgotten {
                entry.object = Some(object);
            }
            entry.object.clone()
        })
    }

    /// The fill is over, or refused: later requests start anew.
    pub fn end_fill(&self, key: u128, fill: &Arc<Fill>) {
        self.with(key, |shard| {
            if let Some(entry) = shard.entries.get_mut(&key) {
                entry.end_fill(fill);
            }
        });
    }

    /// Answers for `key` cannot be shared: until then requests pass at once.
    pub fn mark_pass(&self, key: u128, until_ms: u64) {
        self.entry(key, |entry| entry.pass_until_ms = until_ms);
    }

    /// Forgets this version: it is not offered again, also when its head still lies in the store.
    pub fn forget(&self, object: &Arc<Object>) {
        self.entry(object.key, |entry| {
            entry.forgotten = entry.forgotten.max(object.version());
            if entry.object.as_ref().is_some_and(|current| current.version() == object.version()) {
                entry.object = None;
            }
        });
    }

    /// Forgets whatever version of `key` is known or stored, up to `version`, and leaves a fill of before to those who wait
    /// for it.
    pub fn forget_key(&self, key: u128, version: u64) -> Forgot {
        self.entry(key, |entry| {
            entry.leave_fill(version);
            // What was given up since the store was told may lie there still.
            let is_told = entry.forgotten != 0 && entry.forgotten == entry.invalid;
            entry.forgotten = entry.forgotten.max(version);
            entry.invalid = entry.forgotten;
            match entry.object.take_if(|object| object.version() <= version) {
                Some(_) => Forgot::Object,
                None if is_told => Forgot::Nothing,
                None => Forgot::Unknown,
            }
        })
    }

    /// Whether this version was given up, or made invalid while it came.
    pub fn has_forgotten(&self, object: &Object) -> bool {
        let is_over = |entry: &Entry| object.version() <= entry.forgotten;
        self.with(object.key, |shard| shard.entries.get(&object.key).is_some_and(is_over))
    }

    /// Whether this version (`None`: the marker) was asked for since the last time that somebody wanted to know, or that
    /// the table made room.
    pub fn take_used(&self, key: u128, version: Option<u64>) -> bool {
        self.with(key, |shard| {
            shard.entries.get_mut(&key).is_some_and(|entry| {
                let is_it = match version {
                    Some(version) => entry.object.as_ref().is_some_and(|o| o.version() == version),
                    None => entry.marker.is_some(),
                };
                is_it && std::mem::take(&mut entry.used)
            })
        })
    }

    /// Bytes that the entries take, about.
    pub fn bytes(&self) -> u64 {
        let bytes = |shard: &Mutex<Shard>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).bytes as u64
        };
        self.shards.iter().map(bytes).sum()
    }

    /// Entries now.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).entries.len())
            .sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shard {
    fn make_room(&mut self, max: usize) {
        // One round is enough: used marks are cleared on the way.
        let mut looks = self.queue.len() * 2;
        while self.bytes >= max && looks > 0 {
            looks -= 1;
            let Some(key) = self.queue.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.fill.is_some() || !entry.parts.is_empty() || std::mem::take(&mut entry.used) {
                self.queue.push_back(key);
            } else {
                self.bytes -= entry.cost;
                self.entries.remove(&key);
            }
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
