//! `cargo xtask VERB`: everything that is done with this repository besides writing it.
//!
//! Each verb is a file of this crate; the Makefile only calls them. Must stay true: CI runs `make test` and
//! nothing else, so what passes here passes there.
#![forbid(unsafe_code)]

mod demo;
mod docs;
mod emulate;
mod fuzz;
mod run;
mod setup;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

/// Verbs, and what each does.
const VERBS: [(&str, &str); 8] = [
    ("setup", "install what is missing for `demo`, `test`, `bench`, `bench-trace`, `bench-http3`"),
    ("demo", "build and run the demo; options are those of `tidegate demo`"),
    ("test", "everything that must pass: format, lints, tidy, tests, end to end, browser"),
    ("bench", "side by side: hits from memory, or one of the rigs of `benches/README.md`"),
    ("fuzz", "run the fuzz targets by libFuzzer; names of targets and --seconds N may follow"),
    ("emulate", "tests of TLS where the kernel seals it, in an emulated machine"),
    ("docs", "render docs/reference; with --check, fail where it is out of date"),
    ("tidy", "check what a program can check of architecture, sources and papers"),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match verb.as_str() {
        "setup" => setup::run(rest.first().map_or("test", String::as_str)),
        "demo" => demo::run(rest),
        "test" => test::run(),
        "bench" => demo::bench(rest),
        "fuzz" => fuzz::run(rest),
        "emulate" => emulate::run(&rest),
        "docs" => docs::run(rest.iter().any(|a| a == "--check")),
        "tidy" => tidy::run(),
        _ => {
            eprintln!("cargo xtask VERB, where VERB is one of");
            for (verb, what) in VERBS {
                eprintln!("  {verb:<6} {what}");
            }
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {verb}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
