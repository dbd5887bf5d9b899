//! Goal: nothing outlives the fleet. Method: real processes (`sleep`, `false`) in place of nodes.

use super::*;

fn member(script: &str, log: &Path) -> Member {
    let launch = Launch { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
    let node =
        Node { id: "edge-a1", tier: Tier::Edge, group: None, address: [127, 0, 0, 1].into() };
    let child = spawn(&launch, log, false).expect("sh runs");
    Member { node, launch, log: log.into(), state: State::Running(child), restarts: 0 }
}

fn log_file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tidegate-fleet-{}-{name}.log", std::process::id()))
}

#[test]
fn a_node_that_ends_tells_how_and_shows_its_last_words() {
    let log = log_file("last-words");
    let mut member = member("echo the disk is full >&2; exit 3", &log);
    let how = loop {
        if let Some(how) = member.check_end() {
            break how;
        }
        std::thread::yield_now();
    };
    assert_eq!(how, "ended with code 3");
    let error = member.failed(how).to_string();
    assert!(error.contains("edge-a1") && error.contains("the disk is full"), "{error}");
    std::fs::remove_file(log).expect("made here");
}

#[test]
fn a_signal_is_named() {
    assert_eq!(how_ended(ExitStatus::from_raw(9)), "was killed by signal 9 (SIGKILL)");
    assert_eq!(how_ended(ExitStatus::from_raw(2 << 8)), "ended with code 2");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let launch = Launch { program: "/nonexistent/tidegated".into(), arguments: Vec::new() };
    let error =
        spawn(&launch, &log_file("missing"), false).expect_err("no such program").to_string();
    assert!(error.contains("/nonexistent/tidegated"), "{error}");
    let _ = std::fs::remove_file(log_file("missing"));
}
