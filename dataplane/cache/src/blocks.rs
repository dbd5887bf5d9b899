//! Arithmetic of blocks: which parts of which stored blocks make up a byte range.
//!
//! Must stay true: the parts of a range, put together, are exactly the range inside the object, in order; no
//! part is empty or crosses a block; the last block of an object ends with the object.

use std::ops::Range;
use tidegate_types::limits::BLOCK_BYTES;

/// A piece of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPart {
    pub block: u32,
    /// First byte inside the block.
    pub from: usize,
    /// Byte after the last one inside the block.
    pub to: usize,
}

/// Larger objects do not fit the 32-bit block index; they are passed, not stored.
pub const OBJECT_BYTES_MAX: u64 = u32::MAX as u64 * BLOCK_BYTES as u64;

/// Parts of the blocks that hold bytes `range` of an object of `total` bytes. What lies beyond `total` (or
/// [`OBJECT_BYTES_MAX`]) is left out.
pub fn blocks_of(range: Range<u64>, total: u64) -> impl Iterator<Item = BlockPart> {
    let end = range.end.min(total).min(OBJECT_BYTES_MAX);
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let block_bytes = BLOCK_BYTES as u64;
        let from = at % block_bytes;
        let to = block_bytes.min(from + (end - at));
        let part =
            BlockPart { block: (at / block_bytes) as u32, from: from as usize, to: to as usize };
        at += to - from;
        Some(part)
    })
}

/// Blocks of an object of `total` bytes.
pub fn block_count(total: u64) -> u32 {
    total.min(OBJECT_BYTES_MAX).div_ceil(BLOCK_BYTES as u64) as u32
}

/// Bytes that `block` has in an object of `total` bytes; 0 beyond its end.
pub fn block_bytes(block: u32, total: u64) -> usize {
    let start = u64::from(block) * BLOCK_BYTES as u64;
    total.saturating_sub(start).min(BLOCK_BYTES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_of_blocks() {
        let block = BLOCK_BYTES as u64;
        let parts = |range, total| blocks_of(range, total).collect::<Vec<_>>();
        assert_eq!(parts(0..0, 10), []);
        assert_eq!(parts(0..1, 0), []);
        assert_eq!(parts(5..99, 10), [BlockPart { block: 0, from: 5, to: 10 }]);
        assert_eq!(parts(0..block, block), [BlockPart { block: 0, from: 0, to: BLOCK_BYTES }]);
        assert_eq!(
            parts(block - 1..block + 1, 3 * block),
            [
                BlockPart { block: 0, from: BLOCK_BYTES - 1, to: BLOCK_BYTES },
                BlockPart { block: 1, from: 0, to: 1 }
            ]
        );
        assert_eq!(parts(u64::MAX - 1..u64::MAX, u64::MAX), []);
        assert_eq!(
            (block_count(0), block_count(1), block_count(block), block_count(block + 1)),
            (0, 1, 1, 2)
        );
        assert_eq!(
            (block_bytes(0, 5), block_bytes(1, block + 7), block_bytes(2, block + 7)),
            (5, 7, 0)
        );
        assert_eq!(block_count(u64::MAX), u32::MAX);
    }

    proptest! {
        #[test]
        fn parts_put_together_are_the_range(
            total in 0..5 * BLOCK_BYTES as u64,
            start in 0..6 * BLOCK_BYTES as u64,
            length in 0..6 * BLOCK_BYTES as u64,
        ) {
            let range = start..start + length;
            let mut at = start;
            for part in blocks_of(range.clone(), total) {
                prop_assert_eq!(u64::from(part.block) * BLOCK_BYTES as u64 + part.from as u64, at);
                prop_assert!(part.from < part.to && part.to <= block_bytes(part.block, total));
                at += (part.to - part.from) as u64;
            }
            prop_assert_eq!(at, range.end.min(total).max(start));
        }
    }
}
