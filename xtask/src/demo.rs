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

/// The rigs of the benchmark beside that of hits from memory, and what each needs on this machine.
const RIGS: [(&str, Option<&str>); 9] = [
    ("trace", Some("bench-trace")),
    ("mixed", Some("bench-trace")),
    ("start", None),
    ("load", Some("bench")),
    ("http3", Some("bench-http3")),
    ("handshakes", Some("bench")),
    ("disk", Some("bench")),
    ("idle", None),
    ("stalls", None),
];

/// Runs a side-by-side rig: hits from memory against nginx, or one of `RIGS`, which stands first.
pub fn bench(options: Vec<String>) -> Result<(), String> {
    let rig = options.first().and_then(|first| RIGS.iter().find(|(name, _)| name == first));
    if let Some(verb) = rig.map_or(Some("bench"), |(_, needs)| *needs) {
        setup::run(verb)?;
    }
    build()?;
    finish(&mut cargo(&["build", "--release", "-p", "tidegate-bench"]))?;
    let programs = target().join("release");
    let name = rig.map(|(name, _)| *name);
    let out = target().join(format!("bench/{}.json", name.unwrap_or("report")));
    let out = out.display().to_string();
    let mut all: Vec<&str> = options.iter().map(String::as_str).collect();
    if !all.contains(&"--out") {
        all.extend(["--out", &out]);
    }
    let quic;
    if name == Some("http3") && !all.contains(&"--quic") {
        quic = build_quic()?;
        all.extend(["--quic", &quic]);
    }
    finish(command(programs.join("tidegate-bench"), &all).env("TIDEGATE_BIN_DIR", &programs))
}

/// Builds the QUIC servers of the crate registry, in a folder of their own: they share nothing with the workspace.
fn build_quic() -> Result<String, String> {
    let manifest = root().join("benches/quic/Cargo.toml").display().to_string();
    let room = target().join("quic");
    println!("Building tokio-quiche and s2n-quic; the first time takes some minutes");
    finish(
        cargo(&["build", "--release", "--locked", "--manifest-path", &manifest])
            .env("CARGO_TARGET_DIR", &room),
    )?;
    Ok(room.join("release/tidegate-bench-quic").display().to_string())
}
