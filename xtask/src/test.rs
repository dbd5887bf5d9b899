//! `cargo xtask test`: all that must pass, in the order of how soon it can tell.
//!
//! Must stay true: every step runs even when an earlier one failed, and the last line is the honest sum of
//! what passed, failed and was left out; a step that cannot be counted counts as one.

use crate::run::{cargo, command, finish, run_and_keep};
use crate::{demo, root, setup, target};
use std::time::Instant;

/// What a step found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    left_out: u64,
}

impl Count {
    fn of(result: &Result<(), String>) -> Count {
        match result {
            Ok(()) => Count { passed: 1, ..Count::default() },
            Err(_) => Count { failed: 1, ..Count::default() },
        }
    }

    fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.left_out += other.left_out;
    }
}

/// Runs everything.
///
/// # Errors
/// Anything failed.
pub fn run() -> Result<(), String> {
    setup::run("test")?;
    let programs = ["--profile", QUICK, "-p", E2E, "--no-fail-fast"];
    let steps: [(&str, &dyn Fn() -> Count); 9] = [
        ("format", &|| simple(finish(&mut cargo(&["fmt", "--all", "--check"])))),
        ("lints", &|| {
            simple(finish(&mut cargo(&[
                "clippy",
                "-q",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])))
        }),
        ("tidy", &|| simple(crate::tidy::run())),
        ("tests", &|| {
            let others = ["--workspace", "--exclude", E2E, "--exclude", SIM, "--no-fail-fast"];
            cargo_tests(&others)
        }),
        // Apart, so that all else is tested with the kernel's rim alone.
        ("simulation", &|| cargo_tests(&["--profile", QUICK, "-p", SIM, "--no-fail-fast"])),
        ("build", &|| simple(demo::build())),
        ("docs", &|| simple(crate::docs::run(true))),
        ("end to end", &|| cargo_tests(&programs)),
        ("browser", &browser),
    ];
    let mut sum = Count::default();
    let mut lines = Vec::new();
    for (name, step) in steps {
        println!("\n== {name}");
        let start = Instant::now();
        let count = step();
        sum.add(count);
        let Count { passed, failed, left_out } = count;
        let seconds = start.elapsed().as_secs();
        let counts = format!("{passed:>5} passed {failed:>3} failed {left_out:>3} left out");
        lines.push(format!("  {name:<11} {counts} {seconds:>5} s"));
    }
    println!("\n{}", lines.join("\n"));
    if sum.left_out > 0 {
        println!("{} left out; each said why above", sum.left_out);
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed == 0 { Ok(()) } else { Err("not everything passed".into()) }
}

fn simple(result: Result<(), String>) -> Count {
    if let Err(e) = &result {
        eprintln!("{e}");
    }
    Count::of(&result)
}

fn cargo_tests(arguments: &[&str]) -> Count {
    let mut all = vec!["test"];
    all.extend(arguments);
    let mut cargo = cargo(&all);
    cargo.env("TIDEGATE_BIN_DIR", target().join("release"));
    if std::env::var_os("TIDEGATE_PYTHON").is_none() {
        cargo.env("TIDEGATE_PYTHON", setup::python());
    }
    counted(run_and_keep(&mut cargo), cargo_count)
}

fn browser() -> Count {
    let path = |p: std::path::PathBuf| p.display().to_string();
    let program = path(target().join("release/tidegate"));
    let work = path(target().join("browser"));
    let script = path(root().join("tests/browser/run.mjs"));
    counted(
        run_and_keep(&mut command("node", &[&script, "--program", &program, "--work", &work])),
        browser_count,
    )
}

/// The count of a step's output; a failure that its own count does not show is one more.
fn counted(outcome: Result<(bool, String), String>, read: fn(&str) -> Count) -> Count {
    match outcome {
        Ok((succeeded, text)) => {
            let mut count = read(&text);
            if !succeeded && count.failed == 0 {
                count.failed = 1;
            }
            count
        }
        Err(e) => simple(Err(e)),
    }
}

/// Sums the lines `test result: ok. 3 passed; 0 failed; 1 ignored; ...` of cargo's test programs.
fn cargo_count(text: &str) -> Count {
    let mut sum = Count::default();
    for line in text.lines().filter(|l| l.starts_with("test result: ")) {
        sum.add(Count {
            passed: before(line, " passed"),
            failed: before(line, " failed"),
            left_out: before(line, " ignored"),
        });
    }
    sum
}

/// Reads the last line `browser: 3 passed, 0 failed, 1 skipped`.
fn browser_count(text: &str) -> Count {
    let line = text.lines().rev().find(|l| l.starts_with("browser: ")).unwrap_or_default();
    Count {
        passed: before(line, " passed"),
        failed: before(line, " failed"),
        left_out: before(line, " skipped"),
    }
}

/// The number right before a word.
fn before(line: &str, word: &str) -> u64 {
    let Some(at) = line.find(word) else { return 0 };
    let head = &line[..at];
    let digits = head.rfind(|c: char| !c.is_ascii_digit()).map_or(head, |i| &head[i + 1..]);
    digits.parse().unwrap_or(0)
}

/// How what drives the programs is built (Cargo.toml).
pub const QUICK: &str = "quick";
const E2E: &str = "tidegate-e2e";
const SIM: &str = "tidegate-sim";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_summed() {
        let text = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured\nnoise\n\
                    test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured\n";
        assert_eq!(cargo_count(text), Count { passed: 15, failed: 2, left_out: 1 });
        let line = "browser: 3 passed, 0 failed, 1 skipped\npictures: x\n";
        assert_eq!(browser_count(line), Count { passed: 3, failed: 0, left_out: 1 });
    }

    #[test]
    fn a_failure_that_was_not_counted_counts_as_one() {
        let broken = counted(Ok((false, "error: could not compile".into())), cargo_count);
        assert_eq!(broken.failed, 1);
        assert_eq!(counted(Ok((false, String::new())), browser_count).failed, 1);
        assert_eq!(counted(Err("no such program".into()), cargo_count).failed, 1);
    }
}
