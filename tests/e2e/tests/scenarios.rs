//! The harness' example scenarios against a real edge: what the files say is done, in order, and judged.
//! Method: `tidegate-load run FILE` as its own process; its exit status, and its report against the edge's counters.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tidegate_e2e::fleet::binary;
use tidegate_e2e::{Fleet, FleetOptions};

const MASTER: &str = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=400000\nlow.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=800000\nhigh.m3u8\n";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../loadtest/scenarios").join(name)
}

/// An edge with all that the examples ask for.
fn fleet(name: &str) -> Fleet {
    let options = FleetOptions { parents: 1, edges: 1, https: true, ..FleetOptions::default() };
    let fleet = Fleet::start(name, &options);
    fleet.put("a.m4s", 40_000);
    fleet.put("b.m4s", 1_000);
    let show = fleet.origin_dir().join("show");
    std::fs::create_dir_all(&show).unwrap();
    std::fs::write(show.join("master.m3u8"), MASTER).unwrap();
    for rendition in ["low", "high"] {
        let mut media = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-PLAYLIST-TYPE:VOD\n".to_owned();
        for number in 0..3 {
            fleet.put(&format!("show/{rendition}{number}.m4s"), 20_000);
            media += &format!("#EXTINF:1.0,\n{rendition}{number}.m4s\n");
        }
        std::fs::write(show.join(format!("{rendition}.m3u8")), media + "#EXT-X-ENDLIST\n").unwrap();
    }
    fleet
}

fn run(fleet: &Fleet, scenario: &Path, more: &[&str]) -> Output {
    Command::new(binary("tidegate-load"))
        .arg("run")
        .arg(scenario)
        .args(["--quiet", "--json", "report.json"])
        .args(more)
        .current_dir(&fleet.dir)
        .output()
        .unwrap()
}

fn report(fleet: &Fleet) -> Value {
    serde_json::from_slice(&std::fs::read(fleet.dir.join("report.json")).unwrap()).unwrap()
}

fn phases(report: &Value) -> Vec<&str> {
    let phases = report["phases"].as_array().unwrap();
    phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect()
}

#[test]
fn the_examples_run_and_what_they_report_is_what_the_edge_saw() {
    let fleet = fleet("scenarios");
    let edge = fleet.member("edge-1");
    let (http, https) = (edge.http().to_string(), edge.https().to_string());
    let requests = || fleet.counter("edge-1", "requests_total");
    let ended = |output: &Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        report(&fleet)
    };

    let before = requests();
    let smoke = ended(&run(&fleet, &example("smoke.toml"), &["--connect", &http]));
    assert_eq!(phases(&smoke), ["whole", "ranges"]);
    assert_eq!(requests() - before, 40);
    // 20 answers of 100 bytes each.
    assert_eq!(smoke["phases"][1]["report"]["statuses"]["206"], 20);
    assert_eq!(smoke["phases"][1]["report"]["bytes"]["body"], 2_000);

    // A ramp from 20 to 200 in two seconds is 220 requests, however fast the machine is; CPU time is the server's own word.
    let before = requests();
    let metrics = format!("http://{}/metrics", edge.admin());
    let more =
        ["--connect", &https, "--insecure", "--html", "climb.html", "--server-metrics", &metrics];
    let climb = ended(&run(&fleet, &example("climb.toml"), &more));
    assert_eq!(phases(&climb), ["warm", "climb"]);
    assert_eq!(climb["phases"][1]["report"]["requests"], 220);
    assert_eq!(requests() - before, 50 + 220);
    assert!(climb["phases"][1]["report"]["cpu"]["server_s"].is_number(), "{climb:#}");
    for phase in ["warm", "climb"] {
        let page = std::fs::read_to_string(fleet.dir.join(format!("climb-{phase}.html"))).unwrap();
        assert!(page.contains("<svg"));
    }

    let evening = ended(&run(&fleet, &example("evening.toml"), &["--connect", &http]));
    assert_eq!(phases(&evening), ["before", "players"]);
    assert_eq!(evening["phases"][1]["report"]["players"]["players"], 3);
}

#[test]
fn one_phase_that_fails_fails_the_scenario_and_the_others_run() {
    let fleet = fleet("scenario-fails");
    let path = fleet.dir.join("s.toml");
    let phase = |name: &str, path: &str| {
        format!(
            "[[phase]]\nname = \"{name}\"\nurls = [\"http://film.example/{path}\"]\nclosed = true\n\
             requests = 3\nassert = [\"errors == 0\"]\n"
        )
    };
    std::fs::write(&path, phase("bad", "no-such") + &phase("good", "a.m4s")).unwrap();
    let http = fleet.member("edge-1").http().to_string();
    let output = run(&fleet, &path, &["--connect", &http]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&fleet);
    assert_eq!(phases(&report), ["bad", "good"]);
    assert_eq!(report["phases"][1]["report"]["ok"], 3);

    // What is wrong with a file is told before anything is asked, with its line.
    let before = fleet.counter("edge-1", "requests_total");
    std::fs::write(&path, phase("good", "a.m4s") + "rat = 5\n").unwrap();
    let output = run(&fleet, &path, &["--connect", &http]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("s.toml:7: unknown field `rat`"), "{said}");
    let page = format!("http://{}/status", fleet.member("edge-1").admin());
    let output =
        run(&fleet, &example("smoke.toml"), &["--server-metrics", &page, "--connect", &http]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("it has no process_cpu_seconds_total"), "{said}");
    assert_eq!(fleet.counter("edge-1", "requests_total") - before, 0);
}
