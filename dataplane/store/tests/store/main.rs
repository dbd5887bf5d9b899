//! Tests of the store on a simulated device: one binary, a file for each thing that is protected.
//!
//! Must stay true: every payload is a function of its key, version and block (`oracle.rs`), so any byte that
//! comes back can be judged without having been kept; every random choice comes from a seed that a failure
//! prints.
mod concurrent;
mod crash;
mod decoders;
mod device;
mod faults;
mod index;
mod journal;
mod model;
mod opening;
mod oracle;
mod writing;
