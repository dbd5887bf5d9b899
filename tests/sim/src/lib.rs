//! The data plane's node in a simulated world.
#![forbid(unsafe_code)]

pub mod disk;
