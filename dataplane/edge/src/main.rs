//! `tidegated`: the data plane. One process per host, one thread per core, roles edge, parent and origin.
//!
//! The main thread is the control thread: it starts the cores, then waits for signals, sends heartbeats and looks
//! after the snapshot file. It never touches a request. Order of the files: `args` what was asked, `start` from
//! snapshot to running cores, `core` one core's life, `control` what the main thread does after that.
#![forbid(unsafe_code)]

mod args;
mod callers;
mod control;
mod core;
mod drain;
mod h2;
mod h3;
mod handover;
mod head;
mod log;
mod names;
mod notify;
mod origins;
mod purge_file;
mod retry;
mod roll_file;
mod snapshot;
mod start;
mod store;
mod tickets;
mod tls;
mod urgency;

use clap::Parser;
use std::process::ExitCode;

/// What the process ends with when a core has ended unasked (EX_SOFTWARE of sysexits.h): it is to be started again.
const CORE_LOST_STATUS: u8 = 70;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match start::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegated {}: {error}", args.node);
            match error.is::<start::CoreLost>() {
                true => ExitCode::from(CORE_LOST_STATUS),
                false => ExitCode::FAILURE,
            }
        }
    }
}
