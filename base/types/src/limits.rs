//! Limits that more than one crate must agree on, each with its unit and its reason.

/// Bytes of an object that one stored block holds (dataplane design: a 6 s media segment is about 7 blocks).
pub const BLOCK_BYTES: usize = 512 * 1024;

/// Devices of one node's store: each has a bit in a word (`dataplane/engine/src/stores.rs`).
pub const STORES_MAX: usize = 32;

/// An object larger than this is passed on and not stored (64 GiB: a day of 6 Mb/s video, 131,072 blocks).
pub const OBJECT_BYTES_MAX: u64 = 1 << 36;

/// Blocks that one part fill brings at most, and that one request looks for before it is answered (32 MiB).
pub const PART_BLOCKS_MAX: u32 = 64;

/// A request head (request line and fields) may have this many bytes; beyond it: 431 (RFC 6585 §5).
pub const REQUEST_HEAD_BYTES_MAX: usize = 32 * 1024;

/// A request target may have this many bytes; beyond it: 414 (RFC 9110 §15.5.15).
pub const REQUEST_TARGET_BYTES_MAX: usize = 8 * 1024;

/// A response head from a next hop may have this many bytes; beyond it the answer is refused as 502.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;

/// Fields in one head; the known header bombs need more.
pub const FIELDS_MAX: usize = 128;

/// Alternates of one URL that are kept side by side; what is asked for beyond them is passed on and not kept.
pub const ALTERNATES_MAX: usize = 64;

/// Tiers and foreign proxies that one request may pass before it is taken for a loop.
pub const TIERS_MAX: usize = 8;

/// Ranges in one request (RFC 9110 §14.2 allows refusing many); more are answered as if no Range was sent.
pub const RANGES_MAX: usize = 8;
