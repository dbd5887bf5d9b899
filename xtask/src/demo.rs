//! `cargo xtask demo` and `cargo xtask bench`: set up, build, hand over.

use crate::run::{cargo, command, finish};
use crate::{root, setup, target};
use std::os::unix::process::CommandExt;

/// Builds both programs and becomes `tidegate demo`.
pub fn run(mut options: Vec<String>) -> Result<(), String> {
    setup::run("demo")?;
    build()?;
    // `make demo VIDEO=` without a value means the built-in film.
    if let Some(at) = options.iter().position(|o| o == "--video=") {
        options.remove(at);
    }
    let pages = root().join("demo/pages").display().to_string();
    let mut all =
        vec!["demo".to_string(), "--dir".into(), root().join(".demo").display().to_string()];
    all.extend(["--pages".into(), pages]);
    all.extend(options);
    let program = target().join("release/tidegate");
    // The caller's folder stays, so that a relative path to a film means what it says.
    let mut demo = std::process::Command::new(&program);
    // Only comes back when it failed: otherwise this process is the demo, and Ctrl-C reaches it directly.
    let error = demo.args(all).exec();
    Err(format!("{} cannot be run: {error}", program.display()))
}

/// Builds the programs as they are shipped.
pub fn build() -> Result<(), String> {
    finish(&mut cargo(&[
        "build",
        "--release",
        "-p",
        "tidegate-edge",
        "-p",
        "tidegate",
        "-p",
        "tidegate-load",
    ]))
}

/// Runs a side-by-side rig: hits from memory against nginx, or (`bench trace`) the reference trace against all peers.
pub fn bench(options: Vec<String>) -> Result<(), String> {
    let trace = options.first().is_some_and(|first| first == "trace");
    setup::run(if trace { "bench-trace" } else { "bench" })?;
    build()?;
    finish(&mut cargo(&["build", "--release", "-p", "tidegate-bench"]))?;
    let programs = target().join("release");
    let report = if trace { "bench/trace.json" } else { "bench/report.json" };
    let out = target().join(report).display().to_string();
    let mut all = if trace { vec!["trace"] } else { Vec::new() };
    all.extend(["--out", &out]);
    all.extend(options.iter().skip(usize::from(trace)).map(String::as_str));
    finish(command(programs.join("tidegate-bench"), &all).env("TIDEGATE_BIN_DIR", &programs))
}
