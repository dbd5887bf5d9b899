//! The snapshot: one immutable, signed version of all CDN configuration, the only thing that the control
//! plane gives the data plane.
//!
//! Owns the types, the source format (TOML tree -> [`Snapshot`]), the signed file format, the diff, and the
//! datagrams by which servers say that they are up. Does no I/O: callers hand in texts and bytes.
//! Must stay true: a [`Snapshot`] from [`verify`] or [`source::compile`] has passed [`check::check`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod check;
pub mod diff;
pub mod envelope;
pub mod heartbeat;
mod hex;
pub mod lint;
mod nearest;
pub mod purge_log;
pub mod snapshot;
pub mod source;

pub use admin::{AdminKey, AdminKeyError, Order, OrderError};
pub use diff::{Change, diff};
pub use envelope::{
    EnvelopeError, KeyError, PublicKey, SigningKey, inspect, random_key_hex, sign, verify,
};
pub use heartbeat::{
    Datagram, DatagramError, HEARTBEAT_INTERVAL_MS, HEARTBEATS_MISSED_MAX, Heartbeat, HeartbeatKey,
    Load, Newest, ServingState, Stamp, Verdict, VerdictState, Verdicts,
};
pub use purge_log::{LoggedPurge, Missed, PurgeLog, PurgeLogError, PurgePlace};
pub use snapshot::*;
pub use source::{Diagnostic, compile, compile_with_hints};

/// Schema of [`Snapshot`] that this release writes and reads.
pub const SCHEMA: u32 = 1;
