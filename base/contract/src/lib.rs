//! The snapshot: one immutable, signed version of all CDN configuration, the only thing that the control plane
//! gives the data plane.
//!
//! Owns the types, the source format (TOML tree -> [`Snapshot`]), the signed file format and the diff.
//! Does no I/O: callers hand in texts and bytes.
#![forbid(unsafe_code)]

pub mod snapshot;
pub use snapshot::*;
