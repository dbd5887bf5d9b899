//! What makes room in a shard of the RAM tier.
//!
//! - S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): a small queue for what was seen once (a
//!   tenth of the bytes), a main queue for what was asked for again, and the hashes of what fell out of the small one.
//! - SIEVE (Zhang et al., "SIEVE is simpler than LRU", NSDI 2024): one queue, and a hand that goes from its oldest end to its
//!   newest, spares what was used since it last came by, and takes what was not.
//! - LRU: to compare with.
//!
//! Must stay true: [`Policy::evict`] gives each block that came and has not gone exactly once, and none only when there is none.

use super::BlockId;
use super::chain::Chain;
use std::collections::{HashSet, VecDeque};
use tidegate_contract::RamPolicy;

/// Uses that are remembered of one block.
const USES_MAX: u8 = 3;

/// The queues of S3-FIFO.
const SMALL: u8 = 0;
const MAIN: u8 = 1;

/// One shard's.
pub enum Policy {
    S3Fifo(S3Fifo),
    Sieve(Sieve),
    Lru(Chain<1>),
}

impl Policy {
    /// For a shard of so many bytes.
    pub fn new(policy: RamPolicy, shard_bytes: u64) -> Policy {
        match policy {
            RamPolicy::S3Fifo => Policy::S3Fifo(S3Fifo::new(shard_bytes / 10)),
            RamPolicy::Sieve => Policy::Sieve(Sieve::default()),
            RamPolicy::Lru => Policy::Lru(Chain::default()),
        }
    }

    /// A block has come; its place from now on.
    pub fn came(&mut self, id: BlockId, cost: u64) -> u32 {
        match self {
            Policy::S3Fifo(policy) => policy.came(id, cost),
            Policy::Sieve(policy) => policy.chain.push(0, id, cost),
            Policy::Lru(chain) => chain.push(0, id, cost),
        }
    }

    /// The block at this place was asked for.
    pub fn used(&mut self, place: u32) {
        match self {
            Policy::S3Fifo(S3Fifo { chain, .. }) => {
                let block = chain.get_mut(place);
                block.uses = (block.uses + 1).min(USES_MAX);
            }
            Policy::Sieve(Sieve { chain, .. }) => chain.get_mut(place).uses = 1,
            Policy::Lru(chain) => chain.renew(place, 0),
        }
    }

    /// The block at this place was taken out by others.
    pub fn gone(&mut self, place: u32) {
        match self {
            Policy::S3Fifo(policy) => {
                policy.chain.take(place);
            }
            Policy::Sieve(policy) => {
                policy.take(place);
            }
            Policy::Lru(chain) => {
                chain.take(place);
            }
        }
    }

    /// The block that goes next; it is gone.
    pub fn evict(&mut self) -> Option<BlockId> {
        match self {
            Policy::S3Fifo(policy) => policy.evict(),
            Policy::Sieve(policy) => policy.evict(),
            Policy::Lru(chain) => chain.oldest(0).map(|place| chain.take(place)),
        }
    }
}

pub struct S3Fifo {
    chain: Chain<2>,
    /// Share of the small queue.
    small_bytes: u64,
    ghost: VecDeque<BlockId>,
    ghosts: HashSet<BlockId>,
}

impl S3Fifo {
    fn new(small_bytes: u64) -> S3Fifo {
        let (chain, ghost, ghosts) = (Chain::default(), VecDeque::new(), HashSet::new());
        S3Fifo { chain, small_bytes, ghost, ghosts }
    }

    fn came(&mut self, id: BlockId, cost: u64) -> u32 {
        let queue = if self.ghosts.remove(&id) { MAIN } else { SMALL };
        self.chain.push(queue, id, cost)
    }

    fn evict(&mut self) -> Option<BlockId> {
        loop {
            let main = self.chain.oldest(MAIN);
            match self.chain.oldest(SMALL) {
                Some(place) if self.chain.bytes(SMALL) > self.small_bytes || main.is_none() => {
                    let block = self.chain.get_mut(place);
                    if block.uses > 1 {
                        block.uses = 0;
                        self.chain.renew(place, MAIN);
                        continue;
                    }
                    let id = self.chain.take(place);
                    self.remember(id);
                    return Some(id);
                }
                _ => {
                    let place = main?;
                    let block = self.chain.get_mut(place);
                    if block.uses > 0 {
                        block.uses -= 1;
                        self.chain.renew(place, MAIN);
                        continue;
                    }
                    return Some(self.chain.take(place));
                }
            }
        }
    }

    fn remember(&mut self, id: BlockId) {
        if self.ghosts.insert(id) {
            self.ghost.push_back(id);
        }
        // As many ghosts as residents, at least a few.
        while self.ghost.len() > self.chain.len().max(64) {
            if let Some(old) = self.ghost.pop_front() {
                self.ghosts.remove(&old);
            }
        }
    }
}

#[derive(Default)]
pub struct Sieve {
    chain: Chain<1>,
    /// Where the hand stands; `None`: at the oldest.
    hand: Option<u32>,
}

impl Sieve {
    fn evict(&mut self) -> Option<BlockId> {
        loop {
            let place = self.hand.or(self.chain.oldest(0))?;
            let block = self.chain.get_mut(place);
            if block.uses == 0 {
                return Some(self.take(place));
            }
            block.uses = 0;
            self.hand = self.chain.newer(place);
        }
    }

    fn take(&mut self, place: u32) -> BlockId {
        if self.hand == Some(place) {
            self.hand = self.chain.newer(place);
        }
        self.chain.take(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn id(n: u32) -> BlockId {
        (1, 1, n)
    }

    /// The order in which blocks go, of `count` that came one after the other and of which some were used.
    fn order(kind: RamPolicy, count: u32, used: &[u32]) -> Vec<u32> {
        let mut policy = Policy::new(kind, 100);
        let places: Vec<u32> = (0..count).map(|n| policy.came(id(n), 10)).collect();
        used.iter().for_each(|n| policy.used(places[*n as usize]));
        std::iter::from_fn(|| policy.evict()).map(|id| id.2).collect()
    }

    #[test]
    fn each_policy_spares_in_its_own_way() {
        assert_eq!(order(RamPolicy::Lru, 5, &[0, 2]), [1, 3, 4, 0, 2]);
        // The hand spares 0, takes 1, spares 2, takes 3 and 4, and begins again.
        assert_eq!(order(RamPolicy::Sieve, 5, &[0, 2]), [1, 3, 4, 0, 2]);
        assert_eq!(order(RamPolicy::Sieve, 4, &[3]), [0, 1, 2, 3]);
        // One use is none yet: the second says that it is asked for again. The small queue keeps its share, of one block.
        assert_eq!(order(RamPolicy::S3Fifo, 4, &[0]), [0, 1, 2, 3]);
        assert_eq!(order(RamPolicy::S3Fifo, 4, &[0, 0]), [1, 2, 0, 3]);
    }

    #[test]
    fn the_hand_of_sieve_stays_where_it_is_while_new_blocks_come() {
        let mut policy = Policy::new(RamPolicy::Sieve, 1000);
        let places: Vec<u32> = (0..4).map(|n| policy.came(id(n), 10)).collect();
        policy.used(places[0]);
        assert_eq!(policy.evict(), Some(id(1)), "0 is spared");
        policy.came(id(9), 10);
        // It goes on from there: what was spared has its second chance only when the hand comes round.
        assert_eq!(policy.evict(), Some(id(2)));
        policy.gone(places[3]);
        assert_eq!(policy.evict(), Some(id(9)));
        assert_eq!(policy.evict(), Some(id(0)));
        assert_eq!(policy.evict(), None);
    }

    proptest! {
        #[test]
        fn each_block_goes_once(
            kind in prop_oneof![Just(RamPolicy::S3Fifo), Just(RamPolicy::Sieve), Just(RamPolicy::Lru)],
            steps in prop::collection::vec((0u8..4, 0u32..40), 0..400),
        ) {
            let mut policy = Policy::new(kind, 200);
            let mut here: HashMap<BlockId, u32> = HashMap::new();
            for (what, n) in steps {
                let id = id(n);
                match (what, here.get(&id).copied()) {
                    (0, None) => {
                        here.insert(id, policy.came(id, 1 + u64::from(n)));
                    }
                    (0 | 1, Some(place)) => policy.used(place),
                    (2, Some(place)) => {
                        policy.gone(place);
                        here.remove(&id);
                    }
                    (3, _) => {
                        let gone = policy.evict();
                        prop_assert_eq!(gone.is_some(), !here.is_empty());
                        if let Some(gone) = gone {
                            prop_assert!(here.remove(&gone).is_some());
                        }
                    }
                    _ => {}
                }
            }
            while let Some(gone) = policy.evict() {
                prop_assert!(here.remove(&gone).is_some());
            }
            prop_assert!(here.is_empty());
        }
    }
}
