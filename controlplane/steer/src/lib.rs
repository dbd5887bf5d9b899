//! Choosing edges for a client: one pure function behind DNS, 302, explain and simulation.
//!
//! Must stay true: [`Table::decide`] depends only on its arguments (no clock, no I/O, no randomness); asking
//! for a trace never changes the answer; an edge that is down is never chosen while another one that could
//! serve is up.
#![forbid(unsafe_code)]

mod decide;
mod geo;
mod health;
mod prefixes;
mod table;

pub use decide::{Ask, Decision, Detail, Outcome, Reason, Rejected, Request, Step, Target};
pub use geo::{Geo, GeoError, GeoPlace, distance_km};
pub use health::{Health, ServerHealth, State};
pub use prefixes::PrefixTable;
pub use table::{Located, Table};
