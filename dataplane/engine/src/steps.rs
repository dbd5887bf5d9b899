//! The steps of a transaction, one file each; `transaction.rs` has them in order.

pub mod bring;
pub mod deliver;
pub mod encode;
pub mod fill;
pub mod keep;
pub mod pass;
pub mod prefetch;
pub mod send;
pub mod synth;
