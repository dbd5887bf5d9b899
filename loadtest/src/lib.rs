//! The load harness: asks for URLs on a fixed schedule and says how long the answers took.
//!
//! Must stay true: time is counted from the moment a request was due, never from the moment there was room
//! to send it; every request of the plan is accounted for in exactly one class. The pure parts (`schedule`,
//! `pick`, `answer`, `tally`, `series`, `report`, `html`, `assertion`) take the time as a parameter; only `channel`, `client`,
//! `pacer` and `run` wait.
#![forbid(unsafe_code)]

pub mod answer;
pub mod assertion;
pub mod channel;
pub mod client;
mod cpu;
pub mod html;
pub mod options;
mod pacer;
pub mod pick;
pub mod play;
pub mod progress;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod series;
pub mod tally;
pub mod tls;
pub mod trace;
pub mod units;
pub mod url;
