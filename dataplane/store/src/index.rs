//! The RAM index: where the extents of one device are, 16 bytes each.
//!
//! Owns an open-addressing table of two 64-bit words per entry, and the table of store segment lives.
//!
//! ```text
//! word A   tag 48 | state 2 | frequency 2 | zeros 12
//! word B   segment 18 | slot 15 | length 11 (slots) | block hint 12 | generation 8
//! ```
//!
//! Must stay true:
//! - One writer inserts and removes; any number of readers look up at the same time without locks. Readers
//!   only ever change word A, by compare-and-exchange (raise the frequency, or mark a bad entry dead).
//! - A reader may see word A of one entry and word B of the next one in the same slot (a torn pair). That is
//!   harmless: the location leads to an extent whose header is checked against the full key, place and life
//!   after it was read. The same holds for two keys with equal tags. The index may be wrong, an answer never.
//! - The place of an entry says the generation its segment had. Ending a segment's life raises the
//!   generation, which turns all its entries into known misses without touching them. After 256 lives a
//!   leftover entry could look current again; reading it finds another extent or an older life, hence a miss.
//! - How much of a segment was used is an estimate that only chooses what to reclaim: races may lose a count.
//! - A slot that was used never becomes "never used" again, so a lookup may stop at the first such slot.
//! - Two live entries of one tag and block hint never stand in one window: the later replaces the earlier, so
//!   a lookup never finds an older head behind a newer one.
//! - The table has a fixed size. When a window is full, its least used entry gives way, which is counted.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Slots that one key may be in. At the planned load of 3/4 a run longer than this is rare (a lost entry is a
/// miss); 32 entries are eight cache lines, read in order.
const WINDOW: usize = 32;
pub(crate) const ENTRY_BYTES: u64 = 16;
const FREQUENCY_MAX: u64 = 3;

const TAG_SHIFT: u32 = 16;
const STATE_SHIFT: u32 = 14;
const FREQUENCY_SHIFT: u32 = 12;
const STATE_LIVE: u64 = 1;
const STATE_DEAD: u64 = 2;

const SEGMENT_SHIFT: u32 = 46;
const SLOT_SHIFT: u32 = 31;
const LENGTH_SHIFT: u32 = 20;
const HINT_SHIFT: u32 = 8;
const HINT_MASK: u64 = (1 << 12) - 1;

/// The sequence of a segment that is in no life; no extent reaches it.
const NO_LIFE: u64 = u64::MAX;

/// Where an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub segment: u32,
    pub slot: u32,
    pub slots: u32,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub place: Place,
    /// The sequence with which the segment's present life began.
    pub life: u64,
    /// Lookups since the entry was made, at most 3.
    pub frequency: u8,
    position: usize,
    word_a: u64,
    word_b: u64,
}

#[derive(Debug, Default)]
struct Entry {
    a: AtomicU64,
    b: AtomicU64,
}

#[derive(Debug)]
struct Life {
    generation: AtomicU64,
    sequence: AtomicU64,
    /// Slots of the extents that were looked up since they were written.
    used_slots: AtomicU32,
}

const _: () = assert!(std::mem::size_of::<Entry>() as u64 == ENTRY_BYTES);

#[derive(Debug)]
pub struct Index {
    entries: Box<[Entry]>,
    lives: Box<[Life]>,
    used: AtomicU64,
    displaced: AtomicU64,
}

impl Index {
    pub fn new(capacity: usize, segment_count: u32) -> Self {
        let capacity = capacity.max(WINDOW);
        let life = || Life {
            generation: AtomicU64::new(0),
            sequence: AtomicU64::new(NO_LIFE),
            used_slots: AtomicU32::new(0),
        };
        Self {
            entries: (0..capacity).map(|_| Entry::default()).collect(),
            lives: (0..segment_count).map(|_| life()).collect(),
            used: AtomicU64::new(0),
            displaced: AtomicU64::new(0),
        }
    }

    /// Entries to plan for a device of `device_bytes` with extents of `extent_mean_bytes`: load 3/4 when
    /// full.
    pub fn capacity_for(device_bytes: u64, extent_mean_bytes: u64) -> u64 {
        let extents = device_bytes / extent_mean_bytes.max(1);
        (extents + extents / 3).max(WINDOW as u64)
    }

    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Entries in use, including those of ended lives whose slot was not needed yet.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Live entries that had to give way because their window was full.
    pub fn displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
    }

    /// Looks a key up by its hash. `block` is the block number, of which the index keeps a hint.
    pub fn find(&self, hash: u128, block: u32) -> Option<IndexEntry> {
        let tag = tag_of(hash);
        for position in self.window(hash) {
            let entry = &self.entries[position];
            let word_a = entry.a.load(Ordering::Acquire);
            if word_a == 0 {
                return None;
            }
            if !is_live_with(word_a, tag) {
                continue;
            }
            let word_b = entry.b.load(Ordering::Acquire);
            if hint_in(word_b) != hint_of(block) {
                continue;
            }
            if let Some(found) = self.current(position, word_a, word_b) {
                return Some(found);
            }
        }
        None
    }

    /// Raises the frequency of an entry that was found. Writes at most three times per entry, so a hot extent
    /// costs no cache line traffic.
    pub fn touch(&self, found: &IndexEntry) {
        let frequency = frequency_in(found.word_a);
        if frequency < FREQUENCY_MAX {
            let raised = found.word_a + (1 << FREQUENCY_SHIFT);
            // Losing the race only loses one count.
            let counted = self.entries[found.position].a.compare_exchange(
                found.word_a,
                raised,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if frequency == 0 && counted.is_ok() {
                let life = &self.lives[found.place.segment as usize];
                life.used_slots.fetch_add(found.place.slots, Ordering::Relaxed);
            }
        }
    }

    /// Marks an entry dead if it still is the one that was found; for readers that found its extent bad. If
    /// an equal word came back in between, a good entry is lost, which is a miss.
    pub fn forget(&self, found: &IndexEntry) {
        let entry = &self.entries[found.position];
        if entry.b.load(Ordering::Acquire) == found.word_b {
            self.kill(entry, entry.a.load(Ordering::Acquire), found.word_a >> TAG_SHIFT);
        }
    }

    /// Reads where the keys of these hashes belong, so that what is done there next finds it in the processor's cache: the
    /// loads do not wait for each other, as those of one insert after another would.
    pub fn warm(&self, hashes: impl Iterator<Item = u128>) {
        let read = |hash| self.entries[self.home(hash)].a.load(Ordering::Relaxed);
        std::hint::black_box(hashes.map(read).fold(0, u64::wrapping_add));
    }

    /// Only for the writer: makes the extent visible, in place of an earlier one of the same key.
    pub fn insert(&self, hash: u128, block: u32, place: Place) {
        let tag = tag_of(hash);
        let mut target = None;
        let mut reusable = None;
        let mut victim: Option<(u64, usize)> = None;
        for position in self.window(hash) {
            let entry = &self.entries[position];
            let (word_a, word_b) =
                (entry.a.load(Ordering::Acquire), entry.b.load(Ordering::Acquire));
            if is_live_with(word_a, tag) && hint_in(word_b) == hint_of(block) {
                match target {
                    None => target = Some(position),
                    Some(_) => self.kill(entry, word_a, tag),
                }
            } else if !is_live(word_a) || self.current(position, word_a, word_b).is_none() {
                reusable = reusable.or(Some(position));
            } else if victim.is_none_or(|(frequency, _)| frequency_in(word_a) < frequency) {
                victim = Some((frequency_in(word_a), position));
            }
            if word_a == 0 {
                break;
            }
        }
        let position = match (target.or(reusable), victim) {
            (Some(position), _) => position,
            (None, Some((_, position))) => {
                self.displaced.fetch_add(1, Ordering::Relaxed);
                position
            }
            (None, None) => return, // the window is never empty, so one of the three was found
        };
        let entry = &self.entries[position];
        let generation = self.lives[place.segment as usize].generation.load(Ordering::Relaxed);
        // Word B first: until word A names the tag, nobody follows it on behalf of this key.
        let replaced = entry.b.load(Ordering::Acquire);
        entry.b.store(word_b_of(place, block, generation as u8), Ordering::Release);
        let before = entry.a.swap(tag << TAG_SHIFT | STATE_LIVE << STATE_SHIFT, Ordering::AcqRel);
        if is_live(before) {
            self.unuse(before, replaced);
        } else {
            self.used.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Only for the writer: the key is found no more. Returns whether it was there.
    pub fn remove(&self, hash: u128, block: u32) -> bool {
        let tag = tag_of(hash);
        let mut removed = false;
        for position in self.window(hash) {
            let entry = &self.entries[position];
            let word_a = entry.a.load(Ordering::Acquire);
            if word_a == 0 {
                break;
            }
            let word_b = entry.b.load(Ordering::Acquire);
            if is_live_with(word_a, tag) && hint_in(word_b) == hint_of(block) {
                removed |= self.current(position, word_a, word_b).is_some();
                self.kill(entry, word_a, tag);
            }
        }
        removed
    }

    /// Only for the writer: a new life of the segment begins.
    pub fn begin_life(&self, segment: u32, sequence: u64) {
        self.lives[segment as usize].used_slots.store(0, Ordering::Relaxed);
        self.lives[segment as usize].sequence.store(sequence, Ordering::Release);
    }

    /// Slots of the segment that were looked up in its present life and are still what a lookup finds.
    pub fn used_slots(&self, segment: u32) -> u32 {
        self.lives[segment as usize].used_slots.load(Ordering::Relaxed)
    }

    /// Only for the writer: what was used long ago counts half as much as what was used since.
    pub fn age(&self) {
        for life in &self.lives {
            let used = life.used_slots.load(Ordering::Relaxed);
            life.used_slots.store(used / 2, Ordering::Relaxed);
        }
    }

    /// Only for the writer: all entries of the segment become misses. Before the segment is written again.
    pub fn end_life(&self, segment: u32) {
        let life = &self.lives[segment as usize];
        life.sequence.store(NO_LIFE, Ordering::Release);
        life.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The sequence with which the segment's present life began.
    pub fn life(&self, segment: u32) -> Option<u64> {
        let sequence = self.lives[segment as usize].sequence.load(Ordering::Acquire);
        (sequence != NO_LIFE).then_some(sequence)
    }

    /// Multiply and shift: an even spread over a table that need not be a power of two.
    fn home(&self, hash: u128) -> usize {
        ((u128::from(hash as u64) * self.entries.len() as u128) >> 64) as usize
    }

    /// The positions of a key's window, wrapping at the table's end.
    fn window(&self, hash: u128) -> impl Iterator<Item = usize> + use<> {
        let (home, capacity) = (self.home(hash), self.entries.len());
        (home..home + WINDOW).map(move |at| if at < capacity { at } else { at - capacity })
    }

    /// The entry, unless its segment's life has ended since it was made.
    fn current(&self, position: usize, word_a: u64, word_b: u64) -> Option<IndexEntry> {
        let place = place_in(word_b);
        let life = self.lives.get(place.segment as usize)?;
        if life.generation.load(Ordering::Acquire) as u8 != word_b as u8 {
            return None;
        }
        let sequence = life.sequence.load(Ordering::Acquire);
        let frequency = frequency_in(word_a) as u8;
        (sequence != NO_LIFE).then_some(IndexEntry {
            place,
            life: sequence,
            frequency,
            position,
            word_a,
            word_b,
        })
    }

    /// The entry with these words leads nowhere any more.
    fn unuse(&self, word_a: u64, word_b: u64) {
        let place = place_in(word_b);
        if frequency_in(word_a) > 0
            && let Some(life) = self.lives.get(place.segment as usize)
            && life.generation.load(Ordering::Acquire) as u8 == word_b as u8
        {
            let less = |used: u32| Some(used.saturating_sub(place.slots));
            let _always = life.used_slots.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    fn kill(&self, entry: &Entry, word_a: u64, tag: u64) {
        // A reader that raises the frequency meanwhile makes the exchange fail once or twice, then it
        // succeeds.
        let mut seen = word_a;
        while is_live_with(seen, tag) {
            let dead = tag << TAG_SHIFT | STATE_DEAD << STATE_SHIFT;
            match entry.a.compare_exchange(seen, dead, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.used.fetch_sub(1, Ordering::Relaxed);
                    self.unuse(seen, entry.b.load(Ordering::Acquire));
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }
}

fn tag_of(hash: u128) -> u64 {
    (hash >> 80) as u64
}

fn is_live(word_a: u64) -> bool {
    word_a >> STATE_SHIFT & 3 == STATE_LIVE
}

fn is_live_with(word_a: u64, tag: u64) -> bool {
    is_live(word_a) && word_a >> TAG_SHIFT == tag
}

fn frequency_in(word_a: u64) -> u64 {
    word_a >> FREQUENCY_SHIFT & FREQUENCY_MAX
}

fn hint_of(block: u32) -> u64 {
    u64::from(block) & HINT_MASK
}

fn hint_in(word_b: u64) -> u64 {
    word_b >> HINT_SHIFT & HINT_MASK
}

fn word_b_of(place: Place, block: u32, generation: u8) -> u64 {
    assert!(place.segment < 1 << 18 && place.slot < 1 << 15 && place.slots < 1 << 11);
    u64::from(place.segment) << SEGMENT_SHIFT
        | u64::from(place.slot) << SLOT_SHIFT
        | u64::from(place.slots) << LENGTH_SHIFT
        | hint_of(block) << HINT_SHIFT
        | u64::from(generation)
}

fn place_in(word_b: u64) -> Place {
    Place {
        segment: (word_b >> SEGMENT_SHIFT) as u32,
        slot: (word_b >> SLOT_SHIFT) as u32 & ((1 << 15) - 1),
        slots: (word_b >> LENGTH_SHIFT) as u32 & ((1 << 11) - 1),
    }
}
