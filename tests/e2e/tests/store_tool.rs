//! `tidegate store inspect|verify`: what an operator sees of a store, good, damaged and foreign. Method: a real edge
//! fills its store and is killed; bytes are changed by hand between two looks.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use tidegate_e2e::fleet::binary;
use tidegate_e2e::{Fleet, FleetOptions};

fn store(verb: &str, path: &Path, extra: &[&str]) -> Output {
    Command::new(binary("tidegate")).args(["store", verb]).arg(path).args(extra).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn a_store_is_shown_and_verified_without_being_changed() {
    let mut fleet =
        Fleet::start("look", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    for (n, size) in [(1, 500), (2, 600_000), (3, 2_000_000)] {
        fleet.put(&format!("{n}.m4s"), size);
        assert_eq!(fleet.get("edge-1", &format!("/{n}.m4s"), "").unwrap().status, 200);
    }
    fleet.settle("edge-1");
    let path = fleet.dir.join("edge-1.store");
    // Beside the running node.
    assert!(store("inspect", &path, &[]).status.success());
    fleet.kill("edge-1");
    let before = fs::read(&path).unwrap();
    let seen = json(&store("inspect", &path, &["--json"]));
    // Three heads (the small one with its body), two blocks and four.
    assert_eq!((&seen["extents"], &seen["journal_records"]), (&9.into(), &0.into()), "{seen:#}");
    assert_eq!(seen["superblock_copies"], serde_json::json!(["good (epoch 1)", "good (epoch 1)"]));
    let text = String::from_utf8(store("inspect", &path, &["--segments"]).stdout).unwrap();
    for word in ["uuid", "small", "vod-new", "free", "9 that a start would find", "0 purges"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let verified = store("verify", &path, &["--json"]);
    assert!(verified.status.success());
    let report = json(&verified);
    assert_eq!((&report["extents_good"], &report["extents_bad"]), (&9.into(), &0.into()));
    assert!(fs::read(&path).unwrap() == before, "looking changes nothing");
    // One byte of one block.
    let content = tidegate_e2e::content("3.m4s", 2_000_000);
    let at = before.windows(64).position(|w| *w == content[..64]).expect("its first block") as u64;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[!content[7]], at + 7).unwrap();
    let verified = store("verify", &path, &["--json"]);
    assert_eq!(verified.status.code(), Some(1));
    let report = json(&verified);
    assert_eq!((&report["extents_good"], &report["extents_bad"]), (&8.into(), &1.into()));
    assert!(String::from_utf8_lossy(&verified.stderr).contains("each becomes a fill"));
    // One superblock of two.
    file.write_all_at(&[0xff; 512], 0).unwrap();
    let seen = json(&store("inspect", &path, &["--json"]));
    assert!(seen["superblock_copies"][0].as_str().unwrap().starts_with("bad"), "{seen:#}");
    fleet.restart("edge-1");
    assert!(fleet.get("edge-1", "/3.m4s", "").unwrap().body == content);
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let folder = std::env::temp_dir().join(format!("tidegate-e2e-{}-foreign", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("file");
    for (content, what) in [
        (vec![0; 1 << 20], "blank"),
        (b"%PDF-1.7 something else".repeat(50_000), "right device"),
        (Vec::new(), ""),
    ] {
        fs::write(&path, content).unwrap();
        for verb in ["inspect", "verify"] {
            let output = store(verb, &path, &[]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(&path.display().to_string()) && said.contains(what), "{said}");
        }
    }
    let absent = store("inspect", &folder.join("absent"), &[]);
    assert_eq!(absent.status.code(), Some(3), "{absent:?}");
    fs::remove_dir_all(&folder).unwrap();
}
