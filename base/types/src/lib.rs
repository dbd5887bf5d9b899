//! Words every plane shares: identities, limits, placement hash. No I/O, no clock, no threads.
//!
//! Must stay true: a type here has one meaning in every crate (the words are those of the glossary in
//! ARCHITECTURE.md); nothing here depends on another crate of this workspace.
#![forbid(unsafe_code)]

pub mod cache_status;
pub mod digits;
pub mod limits;
pub mod memory;
pub mod rendezvous;

pub use cache_status::{CacheStatus, Forward};
