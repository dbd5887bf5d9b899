//! The RAM tier: blocks of objects, bounded in bytes, replaced by S3-FIFO.
//!
//! Each shard has a small queue for what was seen once (a tenth of its bytes), a main queue for what was asked for
//! again, and a ghost queue of hashes of what fell out of the small one (Yang et al., "FIFO queues are all you need
//! for cache eviction", SOSP 2023). Must stay true: the bytes of a shard never pass its share; a hit moves nothing,
//! it only counts, so that hits of many cores meet only in a short lock.

use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Name of a block: key, version, block number.
pub type BlockId = (u128, u64, u32);

/// Uses that are remembered of one block.
const USES_MAX: u8 = 3;
/// A shard holds at least this much, so that few large blocks do not empty it.
const SHARD_BYTES_MIN: u64 = 16 << 20;
const SHARDS_MAX: u64 = 16;

struct Resident {
    bytes: Bytes,
    cost: u64,
    uses: u8,
    in_main: bool,
    /// That of its place in a queue: a place whose block was taken out has no resident any more.
    serial: u64,
}

/// A place in a queue.
type Queued = (BlockId, u64);

#[derive(Default)]
struct Shard {
    blocks: HashMap<BlockId, Resident>,
    small: VecDeque<Queued>,
    main: VecDeque<Queued>,
    serial: u64,
    ghost: VecDeque<BlockId>,
    ghosts: HashSet<BlockId>,
    small_bytes: u64,
    main_bytes: u64,
    evictions: u64,
}

/// The RAM tier of a process.
pub struct RamTier {
    shards: Vec<Mutex<Shard>>,
    shard_bytes: u64,
}

impl RamTier {
    /// A tier that holds up to `bytes`.
    pub fn new(bytes: u64) -> RamTier {
        let shards = (bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        RamTier {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
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
        let resident = shard.blocks.get_mut(id)?;
        resident.uses = (resident.uses + 1).min(USES_MAX);
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
        let shard = &mut *shard;
        if shard.blocks.contains_key(&id) {
            return; // the same version of the same block holds the same bytes
        }
        shard.serial += 1;
        let (serial, in_main) = (shard.serial, shard.ghosts.remove(&id));
        if in_main {
            shard.main.push_back((id, serial));
            shard.main_bytes += cost;
        } else {
            shard.small.push_back((id, serial));
            shard.small_bytes += cost;
        }
        shard.blocks.insert(id, Resident { bytes, cost, uses: 0, in_main, serial });
        while shard.small_bytes + shard.main_bytes > self.shard_bytes {
            shard.evict(self.shard_bytes / 10);
        }
    }

    /// Takes a block out, if it is here.
    pub fn remove(&self, id: &BlockId) {
        let mut shard = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        // Its place in the queue stays, and is passed over.
        match shard.blocks.remove(id) {
            Some(resident) if resident.in_main => shard.main_bytes -= resident.cost,
            Some(resident) => shard.small_bytes -= resident.cost,
            None => {}
        }
    }

    /// Bytes held and blocks evicted since the start.
    pub fn usage(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(bytes, evictions), shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (bytes + shard.small_bytes + shard.main_bytes, evictions + shard.evictions)
        })
    }
}

impl Shard {
    /// Takes one step towards room: moves or drops the block at the head of a queue.
    fn evict(&mut self, small_share: u64) {
        if self.small_bytes > small_share || self.main.is_empty() {
            let Some((id, serial)) = self.small.pop_front() else { return };
            let Some(resident) = self.blocks.get_mut(&id).filter(|r| r.serial == serial) else {
                return; // taken out
            };
            let cost = resident.cost;
            self.small_bytes -= cost;
            if resident.uses > 1 {
                resident.uses = 0;
                resident.in_main = true;
                self.main.push_back((id, serial));
                self.main_bytes += cost;
                return;
            }
            self.remember(id);
            self.drop_block(&id);
        } else {
            let Some((id, serial)) = self.main.pop_front() else { return };
            let Some(resident) = self.blocks.get_mut(&id).filter(|r| r.serial == serial) else {
                return; // taken out
            };
            if resident.uses > 0 {
                resident.uses -= 1;
                self.main.push_back((id, serial));
                return;
            }
            self.main_bytes -= resident.cost;
            self.drop_block(&id);
        }
    }

    fn drop_block(&mut self, id: &BlockId) {
        self.blocks.remove(id);
        self.evictions += 1;
    }

    fn remember(&mut self, id: BlockId) {
        if self.ghosts.insert(id) {
            self.ghost.push_back(id);
        }
        // As many ghosts as residents, at least a few.
        while self.ghost.len() > self.blocks.len().max(64) {
            if let Some(old) = self.ghost.pop_front() {
                self.ghosts.remove(&old);
            }
        }
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
        let tier = RamTier::new(1000);
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
    fn what_was_taken_out_leaves_its_bytes_and_may_come_back() {
        let tier = RamTier::new(1000);
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
    fn a_block_that_fits_no_shard_is_left_out() {
        let tier = RamTier::new(1000);
        tier.insert((1, 1, 1), block(1001), 1001);
        assert!(tier.get(&(1, 1, 1)).is_none());
        assert_eq!(tier.usage().0, 0);
    }

    #[test]
    fn what_comes_back_soon_goes_to_the_main_queue() {
        let tier = RamTier::new(1000);
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
