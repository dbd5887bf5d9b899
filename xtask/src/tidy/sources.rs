//! Each source file by itself: its header, marks that must not stay, paths of somebody's machine, clocks where time is an
//! input (invariant 7 of ARCHITECTURE.md).

use super::{File, Finding};

/// Judges one file.
pub fn judge(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rust = file.name.ends_with(".rs");
    if rust && !has_header(&file.text) {
        findings.push(Finding::new(
            file.name.clone(),
            "a source file begins with `//!`: what it owns, what must stay true",
        ));
    }
    if file.name.ends_with("package-lock.json") && file.text.contains("\"resolved\"") {
        let what = "a lock file names no hosts: set omit-lockfile-registry-resolved=true and make it again";
        findings.push(Finding::new(file.name.clone(), what));
    }
    // Lock files are made by tools, licences are quoted: both stand as they are.
    if file.name.ends_with("Cargo.lock") || file.name.starts_with("LICENSE") {
        return findings;
    }
    let timeless = TIMELESS.iter().any(|folder| file.name.starts_with(folder))
        && file.name.contains("/src/")
        && !file.name.ends_with("tests.rs");
    let tests = file.text.lines().position(|line| line.trim() == "#[cfg(test)]");
    for (index, line) in file.text.lines().enumerate() {
        let place = || format!("{}:{}", file.name, index + 1);
        if rust || SCRIPTS.iter().any(|s| file.name.ends_with(s)) {
            for mark in MARKS {
                if marked(line, mark) {
                    findings.push(Finding::new(place(), format!("`{mark}` must not stay")));
                }
            }
        }
        if timeless && tests.is_none_or(|tests| index < tests) {
            for clock in CLOCKS.iter().filter(|clock| line.contains(**clock)) {
                let what =
                    format!("`{clock}` asks a clock where time is an input; the ring has one");
                findings.push(Finding::new(place(), what));
            }
        }
        for path in MACHINE_PATHS {
            if names_path(line, path) {
                findings.push(Finding::new(place(), format!("`{path}` is a path of one machine")));
            }
        }
    }
    findings
}

fn has_header(text: &str) -> bool {
    text.lines().find(|l| !l.trim().is_empty()).is_some_and(|l| l.starts_with("//!") && l.len() > 4)
}

/// A mark counts as a whole word.
fn marked(line: &str, mark: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(mark).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + mark.len()..].chars().next();
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}

/// A path counts where it begins, not in the middle of an address.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || "/.-_}*)>".contains(c))
    })
}

/// What runs in simulated time, too.
const TIMELESS: [&str; 7] = [
    "base/",
    "protocols/",
    "dataplane/cache/",
    "dataplane/engine/",
    "dataplane/fill/",
    "dataplane/store/",
    "controlplane/steer/",
];
const CLOCKS: [&str; 2] = [concat!("Instant::n", "ow()"), concat!("SystemTime::n", "ow()")];

const SCRIPTS: [&str; 6] = [".mjs", ".js", ".toml", ".sh", ".css", ".html"];
/// Written in pieces, so that this file passes its own judge.
const MARKS: [&str; 6] = [
    concat!("to", "do!"),
    concat!("unim", "plemented!"),
    concat!("db", "g!"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("TO", "DO"),
];
const MACHINE_PATHS: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/tmp", "/bash")];
