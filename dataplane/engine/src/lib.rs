//! One request through one tier: session, transaction, steps, and the shared state they work on.
//!
//! Start reading at `transaction.rs`: it holds the list of steps. `node.rs` is what the cores of one process share,
//! `fill.rs` a fetch under way that many may read, `reader.rs` where an object's bytes come from.
//!
//! Must stay true: a client never gets bytes of two versions in one response; bytes from disk are verified before
//! they are sent; a fill runs once per key and process, whatever the number of waiting clients and cores.
#![forbid(unsafe_code)]

pub mod admin;
pub mod admission;
pub mod catch_up;
pub mod client;
pub mod clock;
pub mod device;
pub mod explain;
pub mod fill;
pub mod isolate;
pub mod keeper;
pub mod memory;
pub mod min_rate;
pub mod next_hop;
pub mod node;
pub mod object;
pub mod orders;
pub mod origin;
pub mod pace;
pub mod prompt;
pub mod purge;
pub mod ram;
pub mod reader;
pub mod route;
pub mod session;
pub mod steps;
pub mod stores;
pub mod table;
pub mod transaction;
pub mod view;

pub use client::{Client, HeadFields, Outlet, Protection, Transport};
pub use node::{Core, Node};
pub use session::Face;
pub use view::View;
