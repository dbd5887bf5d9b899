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

/// Runs a side-by-side rig: hits from memory against nginx, or, against all peers, `bench trace` (the reference trace)
/// or `bench mixed` (hits from disk and fills); `bench start`: how an edge with a full store comes back;
/// `bench stalls`: players behind a narrow link.
pub fn bench(options: Vec<String>) -> Result<(), String> {
    let rig = options
        .first()
        .map(String::as_str)
        .filter(|first| ["trace", "mixed", "start", "load", "stalls"].contains(first));
    let needs_peers = !matches!(rig, Some("start" | "stalls"));
    if needs_peers {
        setup::run(if matches!(rig, None | Some("load")) { "bench" } else { "bench-trace" })?;
    }
    build()?;
    finish(&mut cargo(&["build", "--release", "-p", "tidegate-bench"]))?;
    let programs = target().join("release");
    let out = target().join(format!("bench/{}.json", rig.unwrap_or("report")));
    let out = out.display().to_string();
    let mut all: Vec<&str> = options.iter().map(String::as_str).collect();
    if !all.contains(&"--out") {
        all.extend(["--out", &out]);
    }
    finish(command(programs.join("tidegate-bench"), &all).env("TIDEGATE_BIN_DIR", &programs))
}
