//! A disk in memory with faults from a seed: the one fault model of the store's own tests and of the simulation.
//!
//! Which faults are fair: anything may happen to writes that were not flushed (lost, torn at 512 bytes, kept
//! in another order). Unfair ones, drawn by rate: a write or a flush that says it succeeded but did nothing, a write
//! that went elsewhere, a short write, refused writes (EIO, ENOSPC), failed reads and flushes, bits that flip at rest
//! or on the way.
//!
//! Must stay true: what happens follows from the seed and the operations alone.
#![forbid(unsafe_code)]

mod disk;

pub use disk::{Disk, Faults};

pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// SplitMix64: small, seeded, good enough to choose faults.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    #[allow(clippy::should_implement_trait, reason = "no iterator: it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// From `low` to `high`, both among them.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Another generator, whose numbers say nothing about this one's.
    pub fn fork(&mut self) -> Random {
        Random(self.next() ^ 0x5851_F42D_4C95_7F2D)
    }
}
