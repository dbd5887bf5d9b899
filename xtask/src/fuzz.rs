//! `cargo xtask fuzz [TARGET...] [--seconds N]`: the targets of `tests/fuzz`, guided by coverage, by libFuzzer.
//!
//! The stable compiler has the instrumentation, only not a name for it: the flags are those that LLVM knows. Must stay
//! true: what is found lies in `target/fuzz/artifacts` and is told with the command that shows it again; a corpus
//! grows in `target/fuzz/corpus` from run to run.

use crate::run::{cargo, command, finish, output};
use crate::{root, setup, target};
use std::path::Path;

/// Coverage of edges and comparisons; counters inline; checks of debug builds on.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
     -Ccodegen-units=1 -Cdebug-assertions";
/// How long each target runs when nothing is said.
const SECONDS: &str = "60";

/// Builds the driver and runs the targets one after the other.
///
/// # Errors
/// Something is missing, or a target is broken.
pub fn run(arguments: Vec<String>) -> Result<(), String> {
    let mut names = Vec::new();
    let mut seconds = SECONDS.to_string();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            seconds = arguments.next().unwrap_or_default();
        } else {
            names.push(argument);
        }
    }
    if seconds.parse::<u32>().is_err() {
        return Err(format!("--seconds {seconds:?} is no number of seconds"));
    }
    setup::run("fuzz")?;
    let manifest = root().join("tests/fuzz/libfuzzer/Cargo.toml").display().to_string();
    let room = target().join("fuzz");
    let built = room.display().to_string();
    // A build for a named platform keeps the flags away from build scripts and macros.
    let platform = platform()?;
    finish(
        cargo(&["build", "--release", "--manifest-path", &manifest, "--target", &platform])
            .env("RUSTFLAGS", FLAGS)
            .env("CARGO_TARGET_DIR", &built),
    )?;
    let program = room.join(&platform).join("release/tidegate-libfuzzer");
    let known = output(command(&program, &[]).env("TIDEGATE_FUZZ_TARGET", "list"))?;
    let known: Vec<&str> = known.lines().collect();
    if names.is_empty() {
        names = known.iter().map(ToString::to_string).collect();
    }
    for name in &names {
        if !known.contains(&name.as_str()) && name != "canary" {
            return Err(format!("there is no target {name}; one of {}", known.join(", ")));
        }
        one(&program, &room, name, &seconds)?;
    }
    println!("{} targets ran {seconds} s each and none is broken", names.len());
    Ok(())
}

fn one(program: &Path, room: &Path, name: &str, seconds: &str) -> Result<(), String> {
    let (corpus, artifacts) = (room.join("corpus").join(name), room.join("artifacts").join(name));
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    println!("\n{name}, {seconds} s");
    let seeds = corpus.display().to_string();
    let arguments = [
        seeds.clone(),
        format!("-max_total_time={seconds}"),
        format!("-artifact_prefix={}/", artifacts.display()),
        "-print_final_stats=1".to_string(),
        "-timeout=10".to_string(),
        "-rss_limit_mb=4096".to_string(),
    ];
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut fuzzer = command(program, &words);
    fuzzer.env("TIDEGATE_FUZZ_TARGET", name).env("TIDEGATE_FUZZ_SEEDS", &seeds);
    finish(&mut fuzzer).map_err(|e| {
        format!(
            "{name} is broken: {e}\n    the input lies in {}; show it again by TIDEGATE_FUZZ_TARGET={name} {} FILE",
            artifacts.display(),
            program.display()
        )
    })
}

/// The platform that this compiler builds for.
fn platform() -> Result<String, String> {
    let said = output(&mut command("rustc", &["-vV"]))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_string).ok_or_else(|| "rustc -vV names no host".to_string())
}
