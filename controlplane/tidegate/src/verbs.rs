//! The subcommands, one file each.

pub mod explain;
pub mod purge;
pub mod run;
pub mod snapshot;
pub mod store;
pub mod tls;
