//! The data plane's node in a simulated world: whole nodes on a simulated disk, net and clock, random clients, a scripted
//! origin, and checkers that are always on. One seed is one run; decision 0007 says how it is built.
//!
//! ```text
//! clients --> [edge --> two parents, or] one parent --> origin       each arrow a link that fails as the plan says
//!    |                    |
//!  oracle, reference    disk that fails, crashes, restarts
//! ```
//! What is held against each run:
//! - every byte that a client gets is of one version (`content.rs`), which was permitted at that time by the reference
//!   cache (`reference.rs`): fresh, stale within its windows, fetched for this request; private for one only;
//! - nothing that was purged hard is served after the receipt, also across crashes, unless the disk lied; nor what a POST made
//!   invalid, where there are no crashes (nobody waits for the disk with that);
//! - of a path with alternates (`Vary`), each client gets its own;
//! - nobody is sent the same bytes of an item by the origin twice at a time;
//! - with all faults off, what was begun ends, everything can be had, and what is idle holds nothing: no task, no fill,
//!   no connection, no buffer; no task panicked.
//!
//! Canaries in `tests/seeds.rs` do wrong on purpose, and must be caught.
//!
//! `make test` runs a few thousand seeds. More: `TIDEGATE_SIM_SEEDS=100000 cargo test --profile quick -p tidegate-sim`, or from
//! another one on: `TIDEGATE_SIM_FIRST=5000`. A failure names its seed; `TIDEGATE_SIM_SEED=n cargo test --profile quick -p
//! tidegate-sim --test seeds -- --nocapture` runs that one again, with a trace of what happened; with `-- replay --nocapture`
//! it looks for the smallest plan that fails in the same way (`shrink.rs`), and traces that.
#![forbid(unsafe_code)]

pub mod client;
pub mod content;
pub mod directed;
pub mod disk;
pub mod node;
pub mod origin;
pub mod plan;
pub mod reference;
pub mod run;
pub mod scene;
pub mod shrink;

pub use run::{Outcome, run, run_plan};
