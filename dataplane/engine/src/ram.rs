//! The RAM tier: blocks of objects, bounded in bytes. What makes room when it is full is a [`Policy`]: S3-FIFO unless it is
//! said otherwise.
//!
//! ```text
//! ram/chain.rs    queues of blocks, from whose middle one can be taken
//! ram/policy.rs   S3-FIFO, SIEVE; LRU, to compare with
//! ```
//! Must stay true: the bytes of a shard never pass its share; a shard's lock is held for a lookup and nothing else.

mod chain;
mod policy;

use bytes::Bytes;
use policy::Policy;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tidegate_contract::RamPolicy;

/// Name of a block: key, version, block number.
pub type BlockId = (u128, u64, u32);

/// A shard holds at least this much, so that few large blocks do not empty it.
const SHARD_BYTES_MIN: u64 = 16 << 20;
const SHARDS_MAX: u64 = 16;

struct Resident {
    bytes: Bytes,
    cost: u64,
    /// Its place with the policy.
    place: u32,
}

struct Shard {
    blocks: HashMap<BlockId, Resident>,
    policy: Policy,
    bytes: u64,
    evictions: u64,
}

/// The RAM tier of a process.
pub struct RamTier {
    shards: Vec<Mutex<Shard>>,
    shard_bytes: u64,
}

impl RamTier {
    /// A tier that holds up to `bytes`.
    pub fn new(bytes: u64, policy: RamPolicy) -> RamTier {
        let shards = (bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let shard = || Shard {
            blocks: HashMap::new(),
            policy: Policy::new(policy, bytes / shards),
            bytes: 0,
            evictions: 0,
        };
        RamTier {
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            shard_bytes: bytes / shards,
        }
    }

    fn shard(&self, id: &BlockId) -> &Mutex<Shard> {
        // The key is a hash already; the block number spreads the blocks of one object.
        let mixed = (id.0 as u64)
            ^ id.1.rotate_left(17)
            ^ u64::from(id.2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(mixed >> 7) as usize % self.shards.len()]
    }

    /// The block, if it is here.
    pub fn get(&self, id: &BlockId) -> Option<Bytes> {
        let mut shard = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        let Shard { blocks, policy, .. } = &mut *shard;
        let resident = blocks.get(id)?;
        policy.used(resident.place);
        Some(resident.bytes.clone())
    }

    /// Whether the block is here; does not count as a use.
    pub fn contains(&self, id: &BlockId) -> bool {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).blocks.contains_key(id)
    }

    /// Puts a block in; `cost` is what it occupies, which may be more than its length.
    pub fn insert(&self, id: BlockId, bytes: Bytes, cost: u64) {
        if cost > self.shard_bytes {
            return;
        }
        let mut shard = self.shard(&id).lock().unwrap_or_else(PoisonError::into_inner);
        let Shard { blocks, policy, bytes: held, evictions } = &mut *shard;
        if blocks.contains_key(&id) {
            return; // the same version of the same block holds the same bytes
        }
        // Before it comes: it does not make room for itself.
        while *held + cost > self.shard_bytes {
            let Some(victim) = policy.evict() else { return };
            if let Some(resident) = blocks.remove(&victim) {
                *held -= resident.cost;
                *evictions += 1;
            }
        }
        let place = policy.came(id, cost);
        *held += cost;
        blocks.insert(id, Resident { bytes, cost, place });
    }

    /// Takes a block out, if it is here.
    pub fn remove(&self, id: &BlockId) {
        let mut shard = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resident) = shard.blocks.remove(id) {
            shard.policy.gone(resident.place);
            shard.bytes -= resident.cost;
        }
    }

    /// Takes out what `keep` does not want.
    pub fn retain(&self, keep: impl Fn(&BlockId) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let Shard { blocks, policy, bytes, .. } = &mut *shard;
            blocks.retain(|id, resident| {
                let stays = keep(id);
                if !stays {
                    policy.gone(resident.place);
                    *bytes -= resident.cost;
                }
                stays
            });
        }
    }

    /// Bytes held and blocks evicted since the start.
    pub fn usage(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(bytes, evictions), shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (bytes + shard.bytes, evictions + shard.evictions)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n: usize) -> Bytes {
        Bytes::from(vec![7; n])
    }

    #[test]
    fn the_tier_never_passes_its_bytes_and_keeps_what_is_used() {
        let tier = RamTier::new(1000, RamPolicy::S3Fifo);
        for hot in 0..5u32 {
            tier.insert((1, 1, hot), block(100), 100);
        }
        for round in 0..400u32 {
            for hot in 0..5u32 {
                assert!(tier.get(&(1, 1, hot)).is_some(), "block {hot} was lost in round {round}");
            }
            tier.insert((2, 1, round), block(100), 100); // seen once
            assert!(tier.usage().0 <= 1000);
        }
        assert!(tier.usage().1 >= 390);
    }

    #[test]
    fn whatever_the_policy_the_bytes_are_right() {
        for policy in [RamPolicy::S3Fifo, RamPolicy::Sieve, RamPolicy::Lru] {
            what_was_taken_out_leaves_its_bytes_and_may_come_back(policy);
        }
    }

    fn what_was_taken_out_leaves_its_bytes_and_may_come_back(policy: RamPolicy) {
        let tier = RamTier::new(1000, policy);
        for round in 0..50u32 {
            for n in 0..9u32 {
                tier.insert((1, 1, n), block(100), 100);
                if n % 2 == 0 {
                    tier.remove(&(1, 1, n));
                    assert!(!tier.contains(&(1, 1, n)));
                }
                if (round + n).is_multiple_of(3) {
                    tier.insert((1, 1, n), block(100), 100);
                }
            }
            for n in 0..20u32 {
                tier.insert((2, round.into(), n), block(100), 100);
                assert!(tier.usage().0 <= 1000);
            }
        }
        for round in 0..50 {
            (0..20).for_each(|n| tier.remove(&(2, round, n)));
        }
        (0..9).for_each(|n| tier.remove(&(1, 1, n)));
        assert_eq!(tier.usage().0, 0);
    }

    #[test]
    fn what_is_not_wanted_is_taken_out_and_the_rest_stays() {
        let tier = RamTier::new(1000, RamPolicy::S3Fifo);
        (0..9u32).for_each(|n| tier.insert((1, 1, n), block(100), 100));
        tier.retain(|(_, _, number)| number % 3 == 0);
        assert_eq!(tier.usage().0, 300);
        assert!((0..9).all(|n| tier.contains(&(1, 1, n)) == (n % 3 == 0)));
        (9..30u32).for_each(|n| tier.insert((1, 1, n), block(100), 100));
        assert_eq!(tier.usage().0, 1000);
    }

    #[test]
    fn a_block_that_fits_no_shard_is_left_out() {
        let tier = RamTier::new(1000, RamPolicy::S3Fifo);
        tier.insert((1, 1, 1), block(1001), 1001);
        assert!(tier.get(&(1, 1, 1)).is_none());
        assert_eq!(tier.usage().0, 0);
    }

    #[test]
    fn what_comes_back_soon_goes_to_the_main_queue() {
        let tier = RamTier::new(1000, RamPolicy::S3Fifo);
        for n in 0..30u32 {
            tier.insert((1, 1, n), block(100), 100);
        }
        assert!(!tier.contains(&(1, 1, 15)));
        tier.insert((1, 1, 15), block(100), 100);
        for n in 100..120u32 {
            tier.insert((1, 1, n), block(100), 100);
        }
        assert!(tier.contains(&(1, 1, 15)), "a ghost that returned outlives newcomers");
    }
}
