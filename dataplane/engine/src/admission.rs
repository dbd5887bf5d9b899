//! What is worth the wear of a drive: asked for again, and within the bytes that may be written in a day.
//!
//! Most objects of a long catalogue are asked for once; writing those costs a drive half its life and nobody a hit
//! (Maggs and Sitaraman, "Algorithmic Nuggets in Content Delivery", 2015). So the first request is served from memory,
//! and its key remembered in a pair of Bloom filters that take turns; the second one has the object written. By default
//! the first one does while the store is young: until it was written over twice, which costs a drive two of its
//! thousands of writes and saves many a second fill (`make bench-trace`: 830 fills were not kept instead of 14,756, and of
//! the requests for media segments 91.0 % were hits instead of 90.4 %). A behaviour may have a policy of its own: some content is
//! hot as soon as it comes, some is over before it would be read again. The bar rises when more would be written than the
//! drive may take:
//! ```text
//! tokens for      written is what was asked for
//! 2 min or more   as often as the policy says (once, twice, four times; or once while the store is young)
//! 30 s            2 times more
//! 2 s             6 times more; what is used is not written again at reclaim
//! less            nothing
//! ```
//! Must stay true: what is written never passes rate times time (a store begins with no tokens, so that restarts lend
//! none); a refusal costs a later fill, never an answer.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tidegate_contract::Admission;

/// Keys that one filter takes before the other one begins; 8 bits each: one in 40 is taken for seen.
const KEYS_MIN: u64 = 1 << 16;
const KEYS_MAX: u64 = 1 << 24;
/// Bytes of an object on average, for the size of the filters.
const OBJECT_BYTES_MEAN: u64 = 1 << 20;
const BITS_PER_KEY: u64 = 8;
/// Bits of one block: a key's bits lie in one cache line.
const BLOCK_WORDS: usize = 8;
const BITS_SET: u32 = 5;
/// A store is young until it was written over so many times.
const YOUNG_TURNS: u64 = 2;

/// A filter of keys; says "seen" of all that were put in, and of a few others.
#[derive(Debug)]
struct Bloom {
    words: Vec<AtomicU64>,
}

impl Bloom {
    fn new(keys: u64) -> Bloom {
        let words = (keys * BITS_PER_KEY / 64).next_multiple_of(BLOCK_WORDS as u64);
        Bloom { words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The words and masks of a key's bits.
    fn bits(&self, key: u128) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let blocks = self.words.len() / BLOCK_WORDS;
        let block = (key as u64 % blocks as u64) as usize * BLOCK_WORDS;
        let high = (key >> 64) as u64;
        (0..BITS_SET).map(move |n| {
            let at = (high >> (n * 9)) & 511;
            (&self.words[block + (at / 64) as usize], 1 << (at % 64))
        })
    }

    fn has(&self, key: u128) -> bool {
        self.bits(key).all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn add(&self, key: u128) {
        for (word, bit) in self.bits(key) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Which keys were asked for lately: at least the last `keys` of them, at most twice as many.
#[derive(Debug)]
struct Recent {
    filters: [Bloom; 2],
    keys: u64,
    /// Keys put in since the start; which filter is the current one follows from it.
    added: AtomicU64,
    turning: Mutex<()>,
}

impl Recent {
    fn new(keys: u64) -> Recent {
        Recent {
            filters: [Bloom::new(keys), Bloom::new(keys)],
            keys,
            added: AtomicU64::new(0),
            turning: Mutex::new(()),
        }
    }

    /// Whether the key was here before; now it is.
    fn see(&self, key: u128) -> bool {
        let current = (self.added.load(Ordering::Relaxed) / self.keys % 2) as usize;
        if self.filters[current].has(key) {
            return true;
        }
        let seen = self.filters[1 - current].has(key);
        self.filters[current].add(key);
        let added = self.added.fetch_add(1, Ordering::Relaxed) + 1;
        if added.is_multiple_of(self.keys) {
            // The older filter becomes the current one, empty. A key that another core adds meanwhile may be lost.
            let _one_at_a_time = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
            self.filters[(added / self.keys % 2) as usize].clear();
        }
        seen
    }
}

/// So many more requests that nothing is written.
const CLOSED: u32 = u32::MAX;
/// What is hot was asked for so often.
const HOT_REQUESTS: u32 = 4;

/// The judgement, shared by all cores.
#[derive(Debug)]
pub struct AdmissionState {
    recent: Recent,
    policy: Admission,
    /// The store was not written over often yet.
    is_young: AtomicBool,
    /// Requests that an object needs to be written, above those that the policy wants.
    more: AtomicU32,
}

impl AdmissionState {
    /// For a store of `store_bytes`.
    pub fn new(policy: Admission, store_bytes: u64) -> AdmissionState {
        let keys = (store_bytes / OBJECT_BYTES_MEAN).clamp(KEYS_MIN, KEYS_MAX);
        AdmissionState {
            recent: Recent::new(keys),
            policy,
            is_young: AtomicBool::new(false),
            more: AtomicU32::new(0),
        }
    }

    /// Tells how many bytes were ever written to the store of `store_bytes`.
    pub fn set_written(&self, written_bytes: u64, store_bytes: u64) {
        let is_young = written_bytes < store_bytes.saturating_mul(YOUNG_TURNS);
        self.is_young.store(is_young, Ordering::Relaxed);
    }

    /// Requests for `key` that count before the one that fills it now.
    pub fn earlier_requests(&self, key: u128) -> u32 {
        u32::from(self.recent.see(key))
    }

    /// Whether so many requests are enough for content of a behaviour with this policy, or with none of its own.
    pub fn is_enough(&self, requests: u32, own: Option<Admission>) -> bool {
        self.bar(own).is_some_and(|bar| requests >= bar)
    }

    /// Requests that an object needs now to be written; `None`: nothing is.
    pub fn bar(&self, own: Option<Admission>) -> Option<u32> {
        let base = match own.unwrap_or(self.policy) {
            Admission::Always => 1,
            Admission::Adaptive if self.is_young.load(Ordering::Relaxed) => 1,
            Admission::Adaptive | Admission::SecondRequest => 2,
            Admission::Hot => HOT_REQUESTS,
            Admission::Never => return None,
        };
        self.more.load(Ordering::Relaxed).checked_add(base)
    }

    fn set_level(&self, level: Level) {
        let more = match level {
            Level::Free => 0,
            Level::Short => 2,
            Level::Scarce => 6,
            Level::Spent => CLOSED,
        };
        self.more.store(more, Ordering::Relaxed);
    }
}

/// How much of the budget is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Free,
    Short,
    Scarce,
    Spent,
}

/// Bytes that may be written: so many a day. Time comes in as seconds since some start.
#[derive(Debug)]
pub struct Budget {
    bytes_per_second: f64,
    tokens: f64,
    at_seconds: f64,
}

const DAY_SECONDS: f64 = 86_400.0;
/// Unused tokens are kept for this long: a busy evening may write what the night left over.
const KEPT_SECONDS: f64 = 6.0 * 3_600.0;
/// Tokens for less than this many seconds at the steady rate: see the table above.
const FREE_SECONDS: f64 = 120.0;
const SHORT_SECONDS: f64 = 30.0;
const SCARCE_SECONDS: f64 = 2.0;
/// For a segment's summary and header, and a purge.
const RESERVE_BYTES_MIN: f64 = 262_144.0;
/// A block with its header, rounded up.
const EXTENT_BYTES_MAX: f64 = 532_480.0;

impl Budget {
    /// `writes_per_day` times `store_bytes` a day.
    pub fn new(writes_per_day: f64, store_bytes: u64, now_seconds: f64) -> Budget {
        let bytes_per_second = writes_per_day * store_bytes as f64 / DAY_SECONDS;
        Budget { bytes_per_second, tokens: 0.0, at_seconds: now_seconds }
    }

    fn refill(&mut self, now_seconds: f64) {
        let passed = (now_seconds - self.at_seconds).max(0.0);
        self.at_seconds = self.at_seconds.max(now_seconds);
        let kept = self.bytes_per_second * KEPT_SECONDS;
        self.tokens = (self.tokens + passed * self.bytes_per_second).min(kept);
    }

    /// Whether `bytes` more may be written now, and leave the reserve for what the store writes besides (summaries,
    /// segment headers, purges).
    pub fn allows(&mut self, bytes: u64, now_seconds: f64) -> bool {
        self.refill(now_seconds);
        self.tokens - bytes as f64 >= self.reserve()
    }

    fn reserve(&self) -> f64 {
        (self.bytes_per_second * SCARCE_SECONDS).max(RESERVE_BYTES_MIN)
    }

    /// So much was written.
    pub fn spend(&mut self, bytes: u64, now_seconds: f64) {
        self.refill(now_seconds);
        self.tokens -= bytes as f64;
    }

    /// How it stands, also told to `admission`.
    pub fn level(&mut self, admission: &AdmissionState, now_seconds: f64) -> Level {
        self.refill(now_seconds);
        let seconds = self.tokens / self.bytes_per_second;
        let level = match seconds {
            _ if self.tokens < self.reserve() + EXTENT_BYTES_MAX => Level::Spent,
            _ if seconds >= FREE_SECONDS => Level::Free,
            _ if seconds >= SHORT_SECONDS => Level::Short,
            _ => Level::Scarce,
        };
        admission.set_level(level);
        level
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u64) -> u128 {
        // As good as a hash.
        let mix = |n: u64| {
            let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        u128::from(mix(n + 1)) << 64 | u128::from(mix(!n))
    }

    #[test]
    fn what_came_lately_is_remembered_and_what_did_not_hardly_ever() {
        let recent = Recent::new(KEYS_MIN);
        let mut wrong = 0;
        for n in 0..4 * KEYS_MIN {
            wrong += u64::from(recent.see(key(n)));
            // At least the last KEYS_MIN keys are known.
            if n > KEYS_MIN && n % 997 == 0 {
                assert!(recent.see(key(n - KEYS_MIN / 2)), "key {n} was forgotten");
            }
        }
        assert!(wrong < 4 * KEYS_MIN / 15, "{wrong} of {} were taken for seen", 4 * KEYS_MIN);
        let old = (0..1000).filter(|n| recent.see(key(*n))).count();
        assert!(old < 200, "{old} of 1000 long ago");
    }

    #[test]
    fn the_bar_follows_the_policy_and_the_budget() {
        let always = AdmissionState::new(Admission::Always, 1 << 30);
        assert!(always.is_enough(1 + always.earlier_requests(key(1)), None));
        let adaptive = AdmissionState::new(Admission::Adaptive, 1 << 30);
        assert_eq!(adaptive.bar(None), Some(2));
        adaptive.set_written((2 << 30) - 1, 1 << 30);
        assert_eq!(adaptive.bar(None), Some(1));
        adaptive.set_written(2 << 30, 1 << 30);
        assert_eq!(adaptive.bar(None), Some(2));
        let second = AdmissionState::new(Admission::SecondRequest, 1 << 30);
        second.set_written(0, 1 << 30);
        assert!(!second.is_enough(1 + second.earlier_requests(key(1)), None));
        assert!(second.is_enough(1 + second.earlier_requests(key(1)), None));
        let mut budget = Budget::new(100.0, 86_400_000, 0.0); // 100,000 bytes a second
        assert_eq!(budget.level(&second, 0.0), Level::Spent);
        assert_eq!((second.bar(None), second.is_enough(1_000_000, None)), (None, false));
        assert_eq!(budget.level(&second, 7.0), Level::Spent, "not yet a block above the reserve");
        assert_eq!(budget.level(&second, 15.0), Level::Scarce);
        assert_eq!(second.bar(None), Some(8));
        assert_eq!(budget.level(&second, 60.0), Level::Short);
        assert_eq!(second.bar(None), Some(4));
        assert_eq!(budget.level(&second, 100_000.0), Level::Free);
        assert_eq!(second.bar(None), Some(2));
        budget.spend(6 * 3_600 * 100_000 - 1_000, 100_000.0); // nearly all of six hours' worth
        assert_eq!(budget.level(&second, 100_000.0), Level::Spent);
    }

    #[test]
    fn a_behaviour_has_a_bar_of_its_own_which_rises_as_well() {
        let state = AdmissionState::new(Admission::SecondRequest, 1 << 30);
        let bars = |state: &AdmissionState| {
            [Admission::Always, Admission::SecondRequest, Admission::Hot, Admission::Never]
                .map(|own| state.bar(Some(own)))
        };
        assert_eq!(bars(&state), [Some(1), Some(2), Some(HOT_REQUESTS), None]);
        state.set_level(Level::Short);
        assert_eq!(bars(&state), [Some(3), Some(4), Some(HOT_REQUESTS + 2), None]);
        state.set_level(Level::Spent);
        assert_eq!(bars(&state), [None; 4]);
        assert!(!state.is_enough(u32::MAX, Some(Admission::Always)));
    }

    proptest! {
        /// Whatever is asked for and whenever: what was allowed never passes rate times time.
        #[test]
        fn the_budget_is_never_passed(
            writes_per_day in 0.1f64..10.0,
            store_mib in 64u64..100_000,
            asked in proptest::collection::vec((0.0f64..600.0, 1u64..4_000_000), 1..200),
        ) {
            let store_bytes = store_mib << 20;
            let mut budget = Budget::new(writes_per_day, store_bytes, 5.0);
            let (mut now, mut written) = (5.0, 0u64);
            for (span, bytes) in asked {
                now += span;
                if budget.allows(bytes, now) {
                    budget.spend(bytes, now);
                    written += bytes;
                }
                let allowed = writes_per_day * store_bytes as f64 * (now - 5.0) / DAY_SECONDS;
                prop_assert!(written as f64 <= allowed, "{written} of {allowed} after {now} s");
            }
        }
    }
}
