//! What a shared cache decides, without doing it: key, behaviour, storage, freshness, lookup, blocks.
//!
//! Must stay true: pure functions of their arguments; time comes in as unix milliseconds (`now_ms`), ages go
//! out as whole seconds (RFC 9111 §1.2.2); nothing here waits, reads a clock or knows a store.
//!
//! Directives of end clients that ask for more than the cache would do (`no-cache`, `no-store`, `max-age`, `min-fresh`,
//! `Pragma`) and `max-stale` are not obeyed unless a behaviour says so, since a reload button must not be a way to reach
//! the origin; `only-if-cached` is. See [`lookup::ClientDirectives`].
#![forbid(unsafe_code)]

pub mod alternate;
pub mod behaviour;
pub mod blocks;
pub mod key;
pub mod lookup;
pub mod purge;
pub mod storable;
pub mod stored;

#[cfg(test)]
mod fixture;

pub use behaviour::{first_behaviour, glob_match};
pub use blocks::{BlockPart, block_bytes, block_count, blocks_of};
pub use key::{CacheKey, cache_key, upstream_query};
pub use lookup::{Merged, Verdict, lookup, may_serve_stale_on_error, merge_304};
pub use storable::{Lifetime, NoStore, Storage, Times, judge_storage};
pub use stored::{StoredError, StoredHead};
