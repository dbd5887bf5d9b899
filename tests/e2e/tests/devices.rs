//! Several devices in one node's store: who comes or goes moves its own share, what was purged while a device was away
//! does not come back with it, and a device that cannot be used costs its share and nothing else. Method: one edge; the
//! list of stores is changed between restarts; `Cache-Status` tells what was a hit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tidegate_contract::StoreDevice;
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{Connection, Fleet, FleetOptions, HandOrigin, content, get, reply};

const DEVICE_BYTES: u64 = 96 << 20;
const FILES: usize = 80;

fn options() -> FleetOptions {
    FleetOptions {
        edges: 1,
        parents: 1,
        cores: 1,
        ram_bytes: 1 << 20,
        store_bytes: Some(DEVICE_BYTES),
        ..FleetOptions::default()
    }
}

fn name(n: usize) -> String {
    format!("d{n}.m4s")
}

/// Some lie with their head, some in blocks.
fn len(n: usize) -> usize {
    [900, 20_000, 50_000, 600_000][n % 4] + n
}

/// Asks for all files; gives those that were hits.
fn hits(fleet: &Fleet, changed: &str) -> BTreeSet<usize> {
    let is_hit = |n: &usize| {
        let response = fleet.get("edge-1", &format!("/{}", name(*n)), "").unwrap();
        assert_eq!(response.status, 200);
        assert!(response.body == content(&format!("{changed}{}", name(*n)), len(*n)), "file {n}");
        response.cache_status("edge-1").unwrap().starts_with("edge-1; hit")
    };
    let hits = (0..FILES).filter(is_hit).collect();
    fleet.settle("edge-1");
    hits
}

/// Starts the edge again with these devices.
fn restart_on(fleet: &mut Fleet, paths: &[&Path]) {
    set_stores(fleet, paths);
    fleet.restart("edge-1");
}

fn set_stores(fleet: &mut Fleet, paths: &[&Path]) {
    for server in fleet.snapshot.servers.iter_mut().filter(|server| server.id == "edge-1") {
        let store =
            |path: &&Path| StoreDevice { path: path.display().to_string(), bytes: DEVICE_BYTES };
        server.machine.stores = paths.iter().map(store).collect();
    }
    fleet.snapshot.generation += 1;
    fleet.publish();
}

fn all() -> BTreeSet<usize> {
    (0..FILES).collect()
}

fn paths<const N: usize>(fleet: &Fleet) -> [PathBuf; N] {
    std::array::from_fn(|n| fleet.dir.join(format!("device-{n}")))
}

fn state(fleet: &Fleet, path: &Path) -> String {
    let status = fleet.status("edge-1");
    let stores = status["stores"].as_array().unwrap();
    let store = stores.iter().find(|store| store["path"] == path.display().to_string().as_str());
    store.unwrap()["state"].as_str().unwrap().to_owned()
}

fn start(name: &str) -> Fleet {
    let fleet = Fleet::start(name, &options());
    for n in 0..FILES {
        fleet.put(&self::name(n), len(n));
    }
    fleet
}

#[test]
fn a_device_that_comes_or_goes_moves_its_own_share_only() {
    let mut fleet = start("shares");
    let [a, b, c] = paths(&fleet);
    restart_on(&mut fleet, &[&a, &b]);
    assert_eq!(hits(&fleet, ""), BTreeSet::new());
    restart_on(&mut fleet, &[&b, &a]);
    assert_eq!(hits(&fleet, ""), all(), "the order of the list does not matter");
    // Without b, what lies on a is there, and nothing else; b keeps what it has.
    restart_on(&mut fleet, &[&a]);
    let on_a = hits(&fleet, "");
    restart_on(&mut fleet, &[&b]);
    let on_b = hits(&fleet, "");
    assert!(on_a.is_disjoint(&on_b) && on_a.len() + on_b.len() == FILES, "{on_a:?} {on_b:?}");
    assert!((FILES / 8..FILES * 7 / 8).contains(&on_a.len()), "half of them, about: {on_a:?}");
    // Together again, each serves its share of before.
    restart_on(&mut fleet, &[&a, &b]);
    assert_eq!(hits(&fleet, ""), all());
    // A third one takes its share of both.
    restart_on(&mut fleet, &[&a, &b, &c]);
    let left = hits(&fleet, "");
    let moved = FILES - left.len();
    assert!((FILES / 12..FILES * 2 / 3).contains(&moved), "a third of them, about: {moved}");
    assert_eq!(hits(&fleet, ""), all(), "it has its share now");
    assert_eq!(fleet.said("edge-1").matches("begins empty").count(), 0);
}

#[test]
fn a_device_that_missed_a_purge_does_not_bring_it_back() {
    let mut fleet = start("missed");
    let [a, b, c] = paths(&fleet);
    restart_on(&mut fleet, &[&a, &b]);
    hits(&fleet, "");
    restart_on(&mut fleet, &[&a]);
    for n in 0..FILES {
        let bytes = content(&format!("new {}", name(n)), len(n));
        fs::write(fleet.origin_dir().join("new"), bytes).unwrap();
        fs::rename(fleet.origin_dir().join("new"), fleet.origin_dir().join(name(n))).unwrap();
    }
    purge(&fleet);
    assert_eq!(hits(&fleet, "new "), BTreeSet::new());
    // Alone, so that no other journal could tell it.
    restart_on(&mut fleet, &[&b]);
    assert_eq!(hits(&fleet, "new "), BTreeSet::new());
    assert_eq!(fleet.said("edge-1").matches("begins empty").count(), 1);
    restart_on(&mut fleet, &[&a, &c]);
    let on_a = hits(&fleet, "new ");
    assert!((FILES / 8..FILES * 7 / 8).contains(&on_a.len()), "c has nothing: {on_a:?}");
    // And what was purged with both is gone from both, also after kill -9.
    purge(&fleet);
    fleet.restart("edge-1");
    assert_eq!(hits(&fleet, "new "), BTreeSet::new());
    fleet.restart("edge-1");
    assert_eq!(hits(&fleet, "new "), all());
}

/// Everything, hard, on all nodes, as operators do it.
fn purge(fleet: &Fleet) {
    let output = Command::new(binary("tidegate"))
        .args(["purge", "--service", "film", "--all", "--hard", "--snapshot"])
        .arg(fleet.dir.join("snapshot"))
        .arg("--trust")
        .arg(fleet.dir.join("trust.pub"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_device_that_cannot_be_used_is_named_and_the_others_serve() {
    let mut fleet = start("foreign");
    let [a, b, twin] = paths(&fleet);
    restart_on(&mut fleet, &[&a, &b]);
    hits(&fleet, "");
    fleet.kill("edge-1");
    let foreign = File::create(fleet.dir.join("foreign")).unwrap();
    foreign.set_len(DEVICE_BYTES).unwrap();
    foreign.write_all_at(b"%PDF-1.7 something that somebody needs", 0).unwrap();
    fs::rename(&b, fleet.dir.join("aside")).unwrap();
    fs::rename(fleet.dir.join("foreign"), &b).unwrap();
    fleet.restart("edge-1");
    let said = fleet.said("edge-1");
    assert!(said.contains(&b.display().to_string()) && said.contains("check that it is the right"));
    assert_eq!((state(&fleet, &a), state(&fleet, &b)), ("ok".to_owned(), "refused".to_owned()));
    let on_a = hits(&fleet, "");
    assert!((FILES / 8..FILES * 7 / 8).contains(&on_a.len()), "{on_a:?}");
    assert_eq!(hits(&fleet, ""), all(), "its share went to the other");
    assert!(fs::read(&b).unwrap().starts_with(b"%PDF-1.7"), "a foreign file stays as it is");
    // The right one is back, and nothing was purged meanwhile.
    fleet.kill("edge-1");
    fs::rename(fleet.dir.join("aside"), &b).unwrap();
    fleet.restart("edge-1");
    assert_eq!(hits(&fleet, ""), all());
    // Two paths to one file are refused, with both.
    std::os::unix::fs::symlink(&a, &twin).unwrap();
    set_stores(&mut fleet, &[&a, &b, &twin]);
    let said = fleet.refused_start("edge-1");
    let both = format!("{} and {} of stores are the same", a.display(), twin.display());
    assert!(said.contains(&both), "{said}");
    // As are a copy and what it was copied from.
    fs::remove_file(&twin).unwrap();
    fs::copy(&a, &twin).unwrap();
    fleet.restart("edge-1");
    assert!(fleet.said("edge-1").contains("it is the same device as"));
    assert_eq!(hits(&fleet, ""), all());
    fleet.kill("edge-1");
}

#[test]
fn without_a_roll_what_is_stored_is_asked_about_again() {
    let mut fleet = start("no-roll");
    let [a, b] = paths(&fleet);
    restart_on(&mut fleet, &[&a, &b]);
    hits(&fleet, "");
    fleet.kill("edge-1");
    fs::remove_file(fleet.dir.join("edge-1.roll")).unwrap();
    fleet.restart("edge-1");
    let filled = fleet.counter("edge-1", "bytes_filled_total");
    assert_eq!(hits(&fleet, ""), BTreeSet::new());
    assert_eq!(fleet.counter("edge-1", "revalidated_total"), FILES as u64);
    assert_eq!(fleet.counter("edge-1", "bytes_filled_total"), filled, "nothing was sent again");
    fleet.restart("edge-1");
    assert_eq!(hits(&fleet, ""), all());
}

/// A loop device over a file; detached when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ended = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn loop_device(file: &Path, sector: &str) -> Option<Loop> {
    if fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    File::create(file).ok()?.set_len(DEVICE_BYTES).ok()?;
    let output = Command::new("losetup")
        .args(["--find", "--show", "--direct-io=on", "--sector-size", sector])
        .arg(file)
        .output()
        .ok()?;
    let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(Loop(device))
}

/// A tmpfs of a test's own, unmounted when dropped.
struct Room(PathBuf);

impl Drop for Room {
    fn drop(&mut self) {
        let _ended = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn room(path: &Path) -> Option<Room> {
    fs::create_dir_all(path).ok()?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=106m", "tmpfs"])
        .arg(path)
        .status()
        .ok()?;
    mounted.success().then(|| Room(path.to_owned()))
}

/// `tidegate store rejoin` of the edge's device, while the edge is down; whether it was done, and what was said.
fn rejoin(fleet: &Fleet, device: &str) -> (bool, String) {
    let roll = fleet.dir.join("edge-1.roll");
    say_rejoin(&["--roll", roll.to_str().unwrap(), device])
}

/// The same, by the edge itself.
fn rejoin_by_node(fleet: &Fleet, device: &str) -> (bool, String) {
    let [snapshot, trust] = ["snapshot", "trust.pub"].map(|name| fleet.dir.join(name));
    let (snapshot, trust) = (snapshot.to_str().unwrap(), trust.to_str().unwrap());
    say_rejoin(&["--node", "edge-1", "--snapshot", snapshot, "--trust", trust, device])
}

fn say_rejoin(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary("tidegate"))
        .args(["store", "rejoin"])
        .args(arguments)
        .output()
        .unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    (output.status.success(), said)
}

/// What the edge's metrics say of one device.
fn metric(fleet: &Fleet, name: &str, path: &Path) -> u64 {
    let metrics = get(fleet.member("edge-1").admin(), "x", "/metrics", "").unwrap().body;
    let metrics = String::from_utf8(metrics).unwrap();
    let label = format!("device=\"{}\"", path.display());
    let name = format!("tidegate_device_{name}{{");
    let line = metrics.lines().find(|line| line.starts_with(&name) && line.contains(&label));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_device_that_fails_is_retired_remembered_and_rejoins_empty() {
    // A loop device whose backing file lies in a tmpfs: the file is cut and the tmpfs filled up, so that the block layer
    // fails reads and writes; then it is as long as before.
    let mut fleet = start("retired");
    let [a, mount] = paths(&fleet);
    let (_room, backing) = (room(&mount), mount.join("backing"));
    let Some(device) = _room.as_ref().and_then(|_| loop_device(&backing, "512")) else {
        eprintln!("SKIPPED: a device that fails; run as root with loop devices for this proof");
        return;
    };
    let b = Path::new(&device.0);
    restart_on(&mut fleet, &[&a, b]);
    hits(&fleet, "");
    fleet.restart("edge-1");
    assert_eq!(hits(&fleet, ""), all());
    // The head of a younger object is taken for one that waits to be written.
    fleet.until("all is some seconds old", |fleet| {
        let response = fleet.get("edge-1", &format!("/{}", name(FILES - 1)), "").unwrap();
        response.field("age").and_then(|age| age.parse().ok()).is_some_and(|age: u64| age >= 2)
    });
    File::options().write(true).open(&backing).unwrap().set_len(1 << 20).unwrap();
    let mut ballast = File::create(mount.join("ballast")).unwrap();
    while ballast.write_all(&[1; 1 << 16]).is_ok() {}
    fleet.until("the device is out", |fleet| {
        hits(fleet, "");
        state(fleet, b) == "out"
    });
    hits(&fleet, "");
    assert_eq!(hits(&fleet, ""), all(), "its share lies on the other");
    let of = |name: &str, path: &Path| metric(&fleet, name, path);
    assert_eq!((of("state", &a), of("state", b)), (0, 3));
    assert!(of("read_errors_total", b) >= 16 && of("read_errors_total", &a) == 0);
    assert!(of("bytes", &a) > 64 << 20);
    fleet.until("it was probed", |fleet| metric(fleet, "probe_microseconds", &a) > 0);
    // It is sound again, and not trusted.
    drop(ballast);
    fs::remove_file(mount.join("ballast")).unwrap();
    File::options().write(true).open(&backing).unwrap().set_len(DEVICE_BYTES).unwrap();
    fleet.restart("edge-1");
    assert_eq!((state(&fleet, &a), state(&fleet, b)), ("ok".to_owned(), "refused".to_owned()));
    // The running edge takes it again, when it is told to; it begins empty, with a share of its own.
    let (done, said) = rejoin_by_node(&fleet, "/dev/null");
    assert!(!done && said.contains("there are 1") && said.contains(&device.0), "{said}");
    let (done, said) = rejoin_by_node(&fleet, &device.0);
    assert!(done && said.contains("used again from now on; it begins empty"), "{said}");
    fleet.until("it is in use", |fleet| state(fleet, b) == "ok");
    let left = hits(&fleet, "");
    assert!((FILES / 8..FILES * 7 / 8).contains(&left.len()), "{left:?}");
    fleet.restart("edge-1");
    assert_eq!((hits(&fleet, ""), state(&fleet, b)), (all(), "ok".to_owned()));
    // And as if it had failed once more.
    fleet.kill("edge-1");
    let roll = fleet.dir.join("edge-1.roll");
    let text = fs::read_to_string(&roll).unwrap();
    let retired = |line: &str| match line.ends_with(&device.0) {
        true => line.replace("member", "retired"),
        false => line.to_owned(),
    };
    fs::write(&roll, text.lines().map(retired).collect::<Vec<_>>().join("\n") + "\n").unwrap();
    fleet.restart("edge-1");
    hits(&fleet, "");
    assert_eq!((state(&fleet, &a), state(&fleet, b)), ("ok".to_owned(), "refused".to_owned()));
    assert!(fleet.said("edge-1").contains("it had failed and is retired"));
    assert_eq!(hits(&fleet, ""), all());
    // Also when there is no other: memory and next hop remain.
    restart_on(&mut fleet, &[b]);
    assert_eq!((hits(&fleet, ""), state(&fleet, b)), (BTreeSet::new(), "refused".to_owned()));
    restart_on(&mut fleet, &[&a, b]);
    assert_eq!(hits(&fleet, ""), all());
    let (done, said) = rejoin(&fleet, &device.0);
    assert!(!done && said.contains("a node uses it"), "{said}");
    fleet.kill("edge-1");
    let (done, said) = rejoin(&fleet, "/dev/null");
    assert!(!done && said.contains("there are 1") && said.contains(&device.0), "{said}");
    let (done, said) = rejoin(&fleet, &device.0);
    assert!(done && said.contains("begins empty"), "{said}");
    fleet.restart("edge-1");
    assert_eq!(state(&fleet, b), "ok");
    let left = hits(&fleet, "");
    assert!((FILES / 8..FILES * 7 / 8).contains(&left.len()), "a share of its own: {left:?}");
    assert_eq!(hits(&fleet, ""), all());
    fleet.kill("edge-1"); // so that the device can go
}

#[test]
fn a_device_that_cannot_take_an_invalidation_is_out() {
    // Goal: what a POST made invalid does not come back with a device that could not be told. Method: a loop device over a
    // sparse file in a tmpfs that is full: what it has can be read, and written over, but nothing new. Each POST makes a new
    // version of its path; there is room again before the restart, so that the device is sound then.
    let versions: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let of_origin = versions.clone();
    let origin = HandOrigin::start(IpAddr::V4(Ipv4Addr::LOCALHOST), move |asked, stream| {
        let mut versions = of_origin.lock().unwrap();
        let version = versions.entry(asked.target().to_owned()).or_default();
        if asked.line.starts_with("POST ") {
            *version += 1;
            return reply(stream, 200, "", b"done");
        }
        let fields = format!("ETag: \"{version}\"\r\nCache-Control: max-age=3600\r\n");
        reply(stream, 200, &fields, &content(&format!("{} {version}", asked.target()), 20_000));
    });
    let options = FleetOptions { origin: Some(origin.address), ..options() };
    let mut fleet = Fleet::start("not-told", &options);
    let [a, mount] = paths(&fleet);
    let (_room, backing) = (room(&mount), mount.join("backing"));
    let Some(device) = _room.as_ref().and_then(|_| loop_device(&backing, "512")) else {
        eprintln!(
            "SKIPPED: a device that cannot take an invalidation; run as root with loop devices for this proof"
        );
        return;
    };
    let b = Path::new(&device.0);
    restart_on(&mut fleet, &[&a, b]);
    let ask = |fleet: &Fleet, n: usize, version: usize| {
        let response = fleet.get("edge-1", &format!("/v{n}"), "").unwrap();
        assert!(response.body == content(&format!("/v{n} {version}"), 20_000), "/v{n} {version}");
        response.cache_status("edge-1").unwrap().starts_with("edge-1; hit")
    };
    (0..FILES).for_each(|n| assert!(!ask(&fleet, n, 0)));
    fleet.settle("edge-1");
    fleet.restart("edge-1");
    (0..FILES).for_each(|n| assert!(ask(&fleet, n, 0)));
    let mut ballast = File::create(mount.join("ballast")).unwrap();
    while ballast.write_all(&[1; 1 << 16]).is_ok() {}
    let mut more = FILES;
    fleet.until("the device takes nothing new", |fleet| {
        more += 1;
        ask(fleet, more, 0);
        state(fleet, b) == "readonly"
    });
    (0..FILES).for_each(|n| assert!(ask(&fleet, n, 0), "it is read"));
    for n in 0..FILES {
        let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
        let post = format!("POST /v{n} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx");
        client.send(post.as_bytes()).unwrap();
        assert_eq!(client.response(false).unwrap().status, 200);
    }
    fleet.until("the device is out", |fleet| state(fleet, b) == "out");
    fleet.settle("edge-1"); // what the other device was told is written a moment after the answer
    drop(ballast);
    fs::remove_file(mount.join("ballast")).unwrap();
    fleet.restart("edge-1");
    (0..FILES).for_each(|n| assert!(!ask(&fleet, n, 1), "/v{n} was made invalid"));
    assert_eq!(state(&fleet, b), "refused");
    // Out in the same run, it rejoins with the next one.
    fleet.settle("edge-1");
    fleet.kill("edge-1"); // so that the device can go
}

#[test]
fn a_device_that_went_out_in_this_run_rejoins_with_the_next_one() {
    // Goal: the roll that the operator changed is not changed back. Method: a device that takes no writes misses a purge, and
    // is out; it is told to rejoin while the edge runs; the edge goes on without it, and has it, empty, after a restart.
    let mut fleet = start("next-run");
    let [a, mount] = paths(&fleet);
    let (_room, backing) = (room(&mount), mount.join("backing"));
    let Some(device) = _room.as_ref().and_then(|_| loop_device(&backing, "512")) else {
        eprintln!("SKIPPED: a device that rejoins; run as root with loop devices for this proof");
        return;
    };
    let b = Path::new(&device.0);
    restart_on(&mut fleet, &[&a, b]);
    hits(&fleet, "");
    let mut ballast = File::create(mount.join("ballast")).unwrap();
    while ballast.write_all(&[1; 1 << 16]).is_ok() {}
    let mut more = FILES;
    fleet.until("the device takes nothing new", |fleet| {
        more += 1;
        fleet.put(&name(more), 60_000);
        assert_eq!(fleet.get("edge-1", &format!("/{}", name(more)), "").unwrap().status, 200);
        state(fleet, b) == "readonly"
    });
    purge(&fleet);
    assert_eq!(state(&fleet, b), "out");
    drop(ballast);
    fs::remove_file(mount.join("ballast")).unwrap();
    let (done, said) = rejoin_by_node(&fleet, &device.0);
    assert!(done && said.contains("the node's next start on"), "{said}");
    let on_a = hits(&fleet, "");
    assert_eq!((on_a, state(&fleet, b)), (BTreeSet::new(), "out".to_owned()), "all was purged");
    assert_eq!(hits(&fleet, ""), all());
    fleet.restart("edge-1");
    assert_eq!(state(&fleet, b), "ok");
    let left = hits(&fleet, "");
    assert!((FILES / 8..FILES * 7 / 8).contains(&left.len()), "{left:?}");
    assert_eq!(hits(&fleet, ""), all());
    fleet.kill("edge-1"); // so that the device can go
}

#[test]
fn raw_block_devices_of_512_and_4096_bytes_a_sector() {
    let mut fleet = start("raw");
    let [a, b, c] = paths(&fleet);
    let devices = (loop_device(&a, "512"), loop_device(&b, "4096"));
    let (Some(first), Some(second)) = &devices else {
        eprintln!("SKIPPED: raw block devices; run as root with loop devices for this proof");
        return;
    };
    let (first, second) = (Path::new(&first.0), Path::new(&second.0));
    restart_on(&mut fleet, &[first, second, &c]);
    assert_eq!(hits(&fleet, ""), BTreeSet::new());
    restart_on(&mut fleet, &[first, second]);
    let raw = hits(&fleet, "");
    restart_on(&mut fleet, &[second, &c, first]);
    assert_eq!(hits(&fleet, ""), all());
    assert!(raw.len() > FILES / 4, "two of three lie on block devices: {raw:?}");
    // A second name of a device is found out.
    let alias = fleet.dir.join("alias");
    std::os::unix::fs::symlink(first, &alias).unwrap();
    set_stores(&mut fleet, &[first, &alias]);
    assert!(fleet.refused_start("edge-1").contains("are the same"));
    for device in [first, second] {
        let output = Command::new(binary("tidegate"))
            .args(["store", "verify"])
            .arg(device)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("0 are bad, 0 reads failed"), "{said}");
    }
}
