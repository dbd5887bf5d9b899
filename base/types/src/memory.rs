//! The one memory budget of a data plane process: what each part may take, and what is left for clients and fills.
//!
//! ```text
//! memory_bytes = process + index + arena (RAM tier) + objects + flexible
//! ```
//! All but the last are known at start and never grow beyond; the flexible part is what connections, blocks in the
//! making and blocks that slow clients hold share (`dataplane/engine/src/memory.rs` watches it). Must stay true: a
//! plan that does not add up is refused before anything is started, with the number to change.

use crate::limits::BLOCK_BYTES;
use std::fmt;

/// Program, stacks and what an allocator wastes.
const PROCESS_BYTES: u64 = 64 << 20;
/// Of each core: receive buffers (128 of 64 KiB), ring, stacks.
const CORE_BYTES: u64 = 14 << 20;
/// Of each device of the store but the first: what its writer has in hand, the keys that were asked for lately, ring, stack.
const DEVICE_BYTES: u64 = 12 << 20;
/// One block with its extent header, in whole pages: a chunk of the arena.
pub const CHUNK_BYTES: u64 = BLOCK_BYTES as u64 + 4096;
/// Chunks beyond the RAM tier's, for reads and fills under way.
pub const CHUNKS_SPARE: u64 = 64;
/// The object table: heads of objects.
const OBJECTS_BYTES_MIN: u64 = 32 << 20;
const OBJECTS_SHARE: u64 = 16;
/// For clients and fills, when nothing is said.
const FLEXIBLE_BYTES: u64 = 256 << 20;
const FLEXIBLE_SHARE: u64 = 8;
/// With less than this hardly anybody is served.
const FLEXIBLE_BYTES_MIN: u64 = 64 << 20;

/// Mean length of an extent, when nothing is said: a media segment of 1 Mb/s and its head.
pub const EXTENT_BYTES_DEFAULT: u64 = 128 << 10;

/// What a machine is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The budget; `None`: as much as the parts need.
    pub memory_bytes: Option<u64>,
    pub ram_bytes: u64,
    /// Of all devices of the store; 0: no store.
    pub store_bytes: u64,
    pub devices: u64,
    /// Mean length of an extent.
    pub extent_bytes: u64,
    pub cores: u64,
}

/// What each part may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    pub limit: u64,
    pub process: u64,
    pub index: u64,
    pub arena: u64,
    pub objects: u64,
    pub flexible: u64,
}

/// The parts do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLittle {
    pub memory_bytes: u64,
    pub needed_bytes: u64,
    pub index_bytes: u64,
    pub ram_bytes: u64,
}

impl TooLittle {
    /// What is wrong, without what to do about it.
    pub fn what(&self) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "memory_bytes is {} MiB, and {} MiB are needed: RAM tier {} MiB, index of the store {} MiB, the rest for \
             process, objects, clients and fills",
            mib(self.memory_bytes),
            mib(self.needed_bytes),
            mib(self.ram_bytes),
            mib(self.index_bytes),
        )
    }
}

impl fmt::Display for TooLittle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n    mend: give more memory_bytes, or fewer bytes of stores or ram_bytes, or more store_extent_bytes if \
             objects are larger",
            self.what()
        )
    }
}

/// Memory of the index of a store: 16 bytes for each extent, at a load of three quarters.
pub fn index_bytes(store_bytes: u64, extent_bytes: u64) -> u64 {
    let extents = store_bytes / extent_bytes.max(1);
    (extents + extents / 3) * 16
}

/// Divides the memory.
///
/// # Errors
/// When `memory_bytes` is less than the parts need.
pub fn plan(wanted: &Wanted) -> Result<MemoryPlan, TooLittle> {
    let devices = wanted.devices.saturating_sub(1) * DEVICE_BYTES;
    let process = PROCESS_BYTES + wanted.cores * CORE_BYTES + devices;
    let index = index_bytes(wanted.store_bytes, wanted.extent_bytes);
    let arena = arena_chunks(wanted.ram_bytes) * CHUNK_BYTES;
    let objects = OBJECTS_BYTES_MIN + wanted.ram_bytes / OBJECTS_SHARE;
    let fixed = process + index + arena + objects;
    let flexible = match wanted.memory_bytes {
        None => FLEXIBLE_BYTES + wanted.ram_bytes / FLEXIBLE_SHARE,
        Some(memory_bytes) => match memory_bytes.checked_sub(fixed) {
            Some(rest) if rest >= FLEXIBLE_BYTES_MIN => rest,
            _ => {
                return Err(TooLittle {
                    memory_bytes,
                    needed_bytes: fixed + FLEXIBLE_BYTES_MIN,
                    index_bytes: index,
                    ram_bytes: wanted.ram_bytes,
                });
            }
        },
    };
    Ok(MemoryPlan { limit: fixed + flexible, process, index, arena, objects, flexible })
}

/// Chunks of the arena of a RAM tier of `ram_bytes`.
pub fn arena_chunks(ram_bytes: u64) -> u64 {
    (ram_bytes / CHUNK_BYTES).max(1) + CHUNKS_SPARE
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        memory_bytes: None,
        ram_bytes: 1 << 30,
        store_bytes: 3 << 40,
        devices: 1,
        extent_bytes: EXTENT_BYTES_DEFAULT,
        cores: 4,
    };

    #[test]
    fn the_parts_are_the_whole() {
        for memory_bytes in [None, Some(4 << 30)] {
            let plan = plan(&Wanted { memory_bytes, ..WANTED }).unwrap();
            let parts = plan.process + plan.index + plan.arena + plan.objects + plan.flexible;
            assert_eq!(parts, plan.limit);
            assert!(memory_bytes.is_none_or(|bytes| bytes == plan.limit));
        }
    }

    #[test]
    fn an_index_that_does_not_fit_is_refused_with_what_would() {
        let wanted = Wanted { memory_bytes: Some(1 << 30), ..WANTED };
        let refused = plan(&wanted).unwrap_err();
        assert_eq!(refused.index_bytes, 16 * 4 * (3 << 40) / (128 << 10) / 3);
        let enough = Wanted { memory_bytes: Some(refused.needed_bytes), ..WANTED };
        assert_eq!(plan(&enough).unwrap().flexible, FLEXIBLE_BYTES_MIN);
        let less = Wanted { memory_bytes: Some(refused.needed_bytes - 1), ..WANTED };
        assert!(plan(&less).is_err());
    }
}
