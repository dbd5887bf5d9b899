//! The load harness against the chain: requests come on their schedule whatever happens to the servers, and what
//! viewers would have seen is counted. Method: `tidegate-load` as its own process; its report against our counters.

use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{Fleet, FleetOptions};

/// Starts a run over `urls`; the report goes to standard output.
fn load(dir: &Path, urls: &[String], more: &[&str]) -> Child {
    let list = dir.join("urls.txt");
    std::fs::write(&list, urls.join("\n")).unwrap();
    Command::new(binary("tidegate-load"))
        .args(["run", "--urls", list.to_str().unwrap(), "--json", "-", "--quiet"])
        .args(["--header", &format!("Host: {HOST}")])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stdout);
    let start = said.find('{').unwrap_or_else(|| panic!("no report in {said:?}"));
    let end = said.rfind('}').unwrap();
    serde_json::from_str(&said[start..=end]).unwrap()
}

#[test]
fn no_viewer_sees_that_a_parent_dies_under_load() {
    // Goal: an open loop of 3,000 requests over two edges has no failed answer while a parent is killed. Method: the
    // kill comes once a third has been answered; the tool's asserts judge, its numbers must be the edges' numbers.
    const REQUESTS: u64 = 3000;
    let mut fleet = Fleet::start("open-loop", &FleetOptions::default());
    let urls: Vec<String> = (0..60)
        .map(|n| {
            let name = format!("o{n}.m4s");
            fleet.put(&name, [1_000, 40_000, 300_000][n % 3]);
            format!("http://{}/{name}", fleet.member(["edge-1", "edge-2"][n % 2]).http())
        })
        .collect();
    let (requests, asserts) = (REQUESTS.to_string(), format!("ok == {REQUESTS}"));
    let run = load(
        &fleet.dir,
        &urls,
        &[
            "--rate",
            "600",
            "--connections",
            "40",
            "--requests",
            &requests,
            "--order",
            "zipf:0.8",
            "--timeout",
            "60s",
            "--drain",
            "60s",
            "--assert",
            "errors == 0",
            "--assert",
            "not_sent == 0",
            "--assert",
            &asserts,
            "--assert",
            "hit_ratio >= 80%",
        ],
    );
    let edges = ["edge-1", "edge-2"];
    fleet.until("a third is answered", |f| f.sum(&edges, "requests_total") > REQUESTS / 3);
    fleet.kill("parent-1");
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report = report(&output);
    assert_eq!(report["statuses"]["200"], REQUESTS);
    assert_eq!(fleet.sum(&edges, "requests_total"), REQUESTS);
    let hits: u64 = edges
        .iter()
        .map(|edge| report["cache"]["tiers"][edge]["hits"].as_u64().unwrap_or_default())
        .sum();
    assert_eq!(fleet.sum(&edges, "hits_total"), hits);
    assert_eq!(report["response_time"]["count"], REQUESTS);
}

#[test]
fn an_assertion_that_does_not_hold_fails_the_run_and_says_the_value() {
    // Goal: the harness can fail. Method: files that are not there, and an assertion that they are.
    let fleet =
        Fleet::start("assert", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    let urls = [format!("http://{}/missing.mp4", fleet.member("edge-1").http())];
    let run =
        load(&fleet.dir, &urls, &["--closed", "--requests", "20", "--assert", "status.200 == 20"]);
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("status.200 == 20") && said.contains('0'), "{said}");
    assert_eq!(report(&output)["statuses"]["404"], 20);
}
