//! `tidegate`: all that is not per byte. One subcommand per file in `verbs/`; this file only names them.
//!
//! Must stay true: what went wrong is told on stderr with what to do about it; the exit code says whose it is
//! (see [`failure::Failure`]).
#![forbid(unsafe_code)]

mod admin_port;
mod demo;
mod failure;
mod source_dir;
mod verbs;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run and look after a Tidegate CDN.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make, build, check, compare and show snapshots.
    #[command(subcommand)]
    Snapshot(verbs::snapshot::Snapshot),
    /// Check a source tree (the same as `snapshot check`).
    Check(verbs::snapshot::Check),
    /// Run control plane roles.
    Run(verbs::run::Run),
    /// Say which edge a client gets for a URL, and why.
    Explain(verbs::explain::Explain),
    /// Take a URL, path, tag or delivery service out of every cache.
    Purge(verbs::purge::Purge),
    /// Look at a store's file or device.
    #[command(subcommand)]
    Store(verbs::store::StoreVerb),
    /// Run the whole CDN on this machine: film, origin, parents, edges, router, monitor, viewer page.
    Demo(Box<demo::DemoArgs>),
    /// Make certificates for tests and small installations.
    #[command(subcommand)]
    Tls(verbs::tls::Tls),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Snapshot(verb) => verb.run(),
        Verb::Check(verb) => verb.run(),
        Verb::Run(verb) => verb.run(),
        Verb::Explain(verb) => verb.run(),
        Verb::Purge(verb) => verb.run(),
        Verb::Store(verb) => verb.run(),
        Verb::Demo(arguments) => demo::run(*arguments).map_err(failure::Failure::from),
        Verb::Tls(verb) => verb.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tidegate: {failure}");
            failure.exit_code()
        }
    }
}
