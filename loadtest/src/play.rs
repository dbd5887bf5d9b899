//! Players of HLS: what viewers would have seen.
//!
//! `playlist` reads, `player` decides, `watched` accounts: all without I/O and clock. `run` does the waiting.

pub mod player;
pub mod playlist;
pub mod run;
pub mod watched;
