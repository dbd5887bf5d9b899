//! Disks that fail: full, unreadable, bit-flipped. No client ever gets a wrong byte, and counters tell the operator.
//! Method: small RAM tiers, so that bytes come from the store; damage by writing into the store's file under the
//! running process; real I/O errors by loop devices, which need root and are skipped loudly without it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_e2e::{Fleet, FleetOptions, HandOrigin, content, get, reply};

/// Little RAM: bytes must come from the store.
fn options() -> FleetOptions {
    FleetOptions {
        edges: 1,
        parents: 1,
        cores: 1,
        ram_bytes: 1 << 20,
        store_bytes: Some(160 << 20),
        ..FleetOptions::default()
    }
}

fn edge_store(fleet: &Fleet) -> PathBuf {
    fleet.member("edge-1").server.machine.stores[0].path.clone().into()
}

/// Puts and asks for files, so that the edge has stored them; gives names and bytes.
/// No more waits for a slow disk than is kept for it.
const UNWRITTEN_BYTES_MAX: usize = 16 << 20;

fn warm(fleet: &Fleet, sizes: &[usize]) -> Vec<(String, Vec<u8>)> {
    let mut unwritten = 0;
    let files: Vec<(String, Vec<u8>)> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| {
            let name = format!("d{n}.m4s");
            let bytes = fleet.put(&name, *size);
            assert!(fleet.get("edge-1", &format!("/{name}"), "").unwrap().body == bytes);
            unwritten += size;
            if unwritten > UNWRITTEN_BYTES_MAX {
                fleet.settle("edge-1");
                unwritten = 0;
            }
            (name, bytes)
        })
        .collect();
    fleet.settle("edge-1");
    files
}

fn check(fleet: &Fleet, files: &[(String, Vec<u8>)], when: &str) {
    for (name, bytes) in files {
        let response = fleet.get("edge-1", &format!("/{name}"), "").unwrap();
        assert_eq!(response.status, 200, "{name} {when}");
        assert!(response.body == *bytes, "{name} {when}: wrong bytes");
    }
}

/// Places in `store` where this content begins.
fn places(store: &Path, content: &[u8]) -> Vec<u64> {
    let bytes = fs::read(store).unwrap();
    let start = &content[..content.len().min(64)];
    // Payloads begin behind their header, at a multiple of 8 whatever its size is.
    (0..bytes.len() - start.len())
        .step_by(4)
        .filter(|at| bytes[*at..].starts_with(start))
        .map(|at| at as u64)
        .collect()
}

fn flip(store: &Path, at: u64, bit: u8) {
    let file = OpenOptions::new().read(true).write(true).open(store).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn a_flipped_bit_is_found_counted_and_filled_again() {
    // Goal: one bit of one block costs one part fill. Method: the bit is flipped in the file under the running
    // edge, whose RAM tier holds two blocks of 24; whole, range and hit counters are compared.
    let fleet = Fleet::start("flip", &options());
    let files = warm(&fleet, &[3_000_000; 4]);
    check(&fleet, &files, "before");
    let filled = fleet.counter("edge-1", "bytes_filled_total");
    assert_eq!(filled, 12_000_000, "all hits came from the store");
    assert!(fleet.counter("edge-1", "store_read_bytes_total") > 10_000_000);
    assert_eq!(fleet.counter("edge-1", "store_bad_extents_total"), 0);
    let store = edge_store(&fleet);
    let (name, bytes) = &files[0];
    let found = places(&store, bytes);
    assert!(!found.is_empty(), "the first block of {name} lies in the store");
    for at in found {
        flip(&store, at + 300_000, 5);
    }
    let response = fleet.get("edge-1", &format!("/{name}"), "").unwrap();
    assert!(response.body == *bytes, "a flipped bit reached a client");
    assert_eq!(fleet.counter("edge-1", "store_bad_extents_total"), 1);
    fleet.settle("edge-1");
    let again = fleet.counter("edge-1", "bytes_filled_total") - filled;
    assert_eq!(again, 512 * 1024, "the bad block alone was filled again");
    check(&fleet, &files, "after");
    assert_eq!(fleet.counter("edge-1", "bytes_filled_total") - filled, again);
    assert_eq!(fleet.counter("edge-1", "store_bad_extents_total"), 1);
}

#[test]
fn a_lost_block_of_a_changed_file_ends_one_answer_short_and_heals() {
    // Goal: bytes of two versions are never put together, and the lost version is not offered for ever. Method: a
    // bit is flipped, the file at the origin replaced and the parent restarted without its store.
    let mut fleet = Fleet::start("flip-changed", &options());
    let files = warm(&fleet, &[2_000_000; 3]);
    let (name, old) = &files[0];
    let store = edge_store(&fleet);
    for at in places(&store, &old[1024 * 1024..]) {
        flip(&store, at + 5, 0);
    }
    let new = tidegate_e2e::content("another version", old.len());
    fs::write(fleet.origin_dir().join("new"), &new).unwrap();
    fs::rename(fleet.origin_dir().join("new"), fleet.origin_dir().join(name)).unwrap();
    let parent_store = fleet.member("parent-1").server.machine.stores[0].path.clone();
    fleet.kill("parent-1");
    fs::remove_file(parent_store).unwrap();
    fleet.restart("parent-1");
    let mut broken = 0;
    fleet.until("the new version is served", |fleet| {
        match fleet.get("edge-1", &format!("/{name}"), "") {
            Ok(response) => {
                assert_eq!(response.status, 200);
                assert!(response.body == new, "neither old nor mixed bytes can be whole");
                true
            }
            Err(_) => {
                broken += 1;
                false
            }
        }
    });
    assert!((1..=2).contains(&broken), "{broken} answers were broken");
    assert_eq!(fleet.counter("edge-1", "store_bad_extents_total"), 1);
}

/// What the origin of [`spoilt`] says of its objects besides their length: nothing that a part could be asked for by.
const NOT_STRONG: [&str; 3] = [
    "ETag: W/\"same\"\r\n",
    "Last-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\n",
    "", // no validator at all
];

/// A fleet that has stored objects without a strong tag, and the origin that they come from; in the edge's store a bit of
/// the third block of the first one is flipped. When it is told so, the origin has other objects of the same length.
fn spoilt(name: &str, fields: &'static str) -> (Fleet, HandOrigin, Arc<AtomicBool>, Vec<u8>) {
    let is_changed = Arc::new(AtomicBool::new(false));
    let changed = is_changed.clone();
    let origin = HandOrigin::start(IpAddr::V4(Ipv4Addr::LOCALHOST), move |asked, stream| {
        let name = match changed.load(Ordering::SeqCst) {
            true => format!("new {}", asked.target()),
            false => asked.target().to_owned(),
        };
        let fields = format!("{fields}Cache-Control: max-age=3600\r\n");
        reply(stream, 200, &fields, &content(&name, 3_000_000));
    });
    let fleet = Fleet::start(name, &FleetOptions { origin: Some(origin.address), ..options() });
    for path in ["/a", "/b", "/c"] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().status, 200);
    }
    fleet.settle("edge-1");
    let bytes = content("/a", 3_000_000);
    let store = edge_store(&fleet);
    let found = places(&store, &bytes[2 * 512 * 1024..]);
    assert!(!found.is_empty(), "the third block lies in the store");
    for at in found {
        flip(&store, at + 1000, 3);
    }
    (fleet, origin, is_changed, bytes)
}

#[test]
fn a_spoilt_block_is_mended_from_a_whole_of_the_same_bytes() {
    // Goal: without a strong tag, too, one bad block costs a fill and no answer. Method: the next hop has the same bytes.
    for (n, fields) in NOT_STRONG.into_iter().enumerate() {
        let (fleet, origin, _, bytes) = spoilt(&format!("mended-{n}"), fields);
        let filled = fleet.counter("edge-1", "bytes_filled_total");
        let response = fleet.get("edge-1", "/a", "").unwrap();
        assert!(response.status == 200 && response.body == bytes, "{fields}");
        assert_eq!(fleet.counter("edge-1", "store_bad_extents_total"), 1, "{fields}");
        assert_eq!(fleet.counter("edge-1", "blocks_mended_total"), 1, "{fields}");
        fleet.settle("edge-1");
        // It lies on disk again: other objects push it out of memory, and nothing is fetched any more.
        for path in ["/b", "/c", "/a"] {
            assert!(fleet.get("edge-1", path, "").unwrap().body == content(path, 3_000_000));
        }
        assert_eq!(fleet.counter("edge-1", "bytes_filled_total") - filled, 3_000_000, "{fields}");
        assert_eq!(fleet.counter("edge-1", "answers_cut_total"), 0, "{fields}");
        assert_eq!(origin.count(), 3, "the parent had it");
    }
}

#[test]
fn a_spoilt_block_of_a_changed_object_without_a_tag_ends_one_answer_short() {
    // Goal: what has the same length and the same weak words, but other bytes, is never put in; the answer ends short, the
    // next one is the new version. Method: the origin changes, and the parent loses what it has.
    for (n, fields) in NOT_STRONG.into_iter().enumerate() {
        let (mut fleet, _origin, is_changed, _) = spoilt(&format!("not-mended-{n}"), fields);
        is_changed.store(true, Ordering::SeqCst);
        let parent_store = fleet.member("parent-1").server.machine.stores[0].path.clone();
        fleet.kill("parent-1");
        fs::remove_file(parent_store).unwrap();
        fleet.restart("parent-1");
        let cut = fleet.get("edge-1", "/a", "").map(|response| response.body.len());
        assert!(cut.is_err(), "{fields}: {cut:?}");
        let new = content("new /a", 3_000_000);
        assert!(fleet.get("edge-1", "/a", "").unwrap().body == new, "{fields}");
        assert_eq!(fleet.counter("edge-1", "answers_cut_total"), 1, "{fields}");
        assert_eq!(fleet.counter("edge-1", "blocks_mended_total"), 0, "{fields}");
    }
}

#[test]
fn random_damage_all_over_the_store_never_reaches_a_client() {
    // Goal: headers, summaries and payloads are all checked. Method: 400 bits all over the used part of the file are
    // flipped while the edge runs, and again while it is down; every object is compared each time.
    let mut fleet = Fleet::start("rot", &options());
    let files = warm(&fleet, &[100, 20_000, 32_768, 40_000, 600_000, 1_500_000, 900, 2_000_000]);
    let store = edge_store(&fleet);
    let mut state = 77u64;
    for round in 0..3 {
        if round > 0 {
            fleet.kill("edge-1");
        }
        let used: Vec<u64> = {
            let bytes = fs::read(&store).unwrap();
            (0..bytes.len() / 4096)
                .filter(|page| bytes[page * 4096..(page + 1) * 4096].iter().any(|b| *b != 0))
                .map(|page| page as u64 * 4096)
                // Without both superblocks there is no store: that is a refused start, proven elsewhere.
                .filter(|at| *at >= 4096 && *at + (1 << 20) < bytes.len() as u64)
                .collect()
        };
        assert!(used.len() > 100);
        for _ in 0..400 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let page = used[(state >> 33) as usize % used.len()];
            flip(&store, page + (state >> 13) % 4096, (state >> 60) as u8 % 8);
        }
        if round > 0 {
            fleet.restart("edge-1");
        }
        check(&fleet, &files, "under damage");
        check(&fleet, &files, "again");
        fleet.settle("edge-1");
    }
    assert!(fleet.said("edge-1").contains(" bad"), "the start tells what it found");
}

#[test]
fn a_store_that_was_cut_under_the_process_costs_fills_and_nothing_else() {
    // Goal: reads beyond the end of the device are device errors, not bytes. Method: the file is truncated under the
    // running edge; later writes make it longer again, with holes, which must not pass for content either.
    let fleet = Fleet::start("cut", &options());
    let files = warm(&fleet, &[2_000_000; 5]);
    File::options().write(true).open(edge_store(&fleet)).unwrap().set_len(64 * 1024).unwrap();
    check(&fleet, &files, "after the cut");
    assert!(fleet.counter("edge-1", "store_read_errors_total") >= 1);
    check(&fleet, &files, "and again");
    let more = fleet.put("more.m4s", 3_000_000);
    assert!(fleet.get("edge-1", "/more.m4s", "").unwrap().body == more);
    check(&fleet, &files, "and after more writes");
}

#[test]
fn free_store_segments_are_given_back_when_that_is_wanted() {
    // Goal: `store_discard`. Method: more than the store holds goes through it, with and without; then what the store's file
    // takes of its file system, and what is still a hit, also after a restart.
    for is_wanted in [true, false] {
        let options = FleetOptions {
            store_bytes: Some(64 << 20),
            adjust: match is_wanted {
                true => |snapshot| {
                    snapshot.servers.iter_mut().for_each(|s| s.machine.store_discard = true);
                },
                false => |_| {},
            },
            ..options()
        };
        let mut fleet = Fleet::start("discard", &options);
        let store = edge_store(&fleet);
        let taken = || fs::metadata(&store).unwrap().blocks() * 512;
        let full = taken();
        let files = warm(&fleet, &[2_000_000; 45]);
        let metrics = get(fleet.member("edge-1").admin(), "x", "/metrics", "").unwrap().body;
        let metrics = String::from_utf8(metrics).unwrap();
        let line = metrics.lines().find(|line| line.starts_with("tidegate_device_discarded_bytes"));
        let discarded: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(fleet.counter("edge-1", "store_evicted_bytes_total") >= 16 << 20);
        assert_eq!(discarded >= 16 << 20, is_wanted, "{discarded}");
        assert_eq!(taken() < full, is_wanted, "{} of {full}", taken());
        fleet.restart("edge-1");
        let filled = fleet.counter("edge-1", "bytes_filled_total");
        check(&fleet, &files[43..], "the last ones are there");
        assert_eq!(fleet.counter("edge-1", "bytes_filled_total"), filled);
        check(&fleet, &files[..2], "the first ones are filled again");
    }
}

#[test]
fn a_log_on_a_full_disk_costs_log_lines_and_nothing_else() {
    // Goal: serving does not depend on the log. Method: the access log is /dev/full, where every write fails.
    let options = FleetOptions {
        prepare: |dir| {
            std::os::unix::fs::symlink("/dev/full", dir.join("edge-1.log")).unwrap();
        },
        ..options()
    };
    let fleet = Fleet::start("full-log", &options);
    let files = warm(&fleet, &[100, 600_000]);
    for _ in 0..50 {
        check(&fleet, &files, "with a full log");
    }
    fleet.until("lost lines are counted", |f| f.counter("edge-1", "log_lines_dropped_total") > 0);
}

/// A file system or device of a test's own; taken down when dropped.
struct Mounted {
    dir: Option<PathBuf>,
    device: Option<String>,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            let _ended = Command::new("losetup").arg("--detach").arg(device).status();
        }
        if let Some(dir) = &self.dir {
            let _ended = Command::new("umount").arg("--lazy").arg(dir).status();
            let _left = fs::remove_dir(dir);
        }
    }
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn skip(what: &str) {
    eprintln!("SKIPPED: {what}; run as root with loop devices for this proof");
}

/// An ext4 file system of `megabytes` in an image file, mounted.
fn small_file_system(image: &Path, megabytes: u64) -> Option<(PathBuf, Mounted)> {
    if !is_root() {
        return None;
    }
    File::create(image).ok()?.set_len(megabytes << 20).ok()?;
    run("mkfs.ext4", &["-q", image.to_str()?])?;
    let dir = image.with_extension("mount");
    fs::create_dir_all(&dir).ok()?;
    run("mount", &["-o", "loop", image.to_str()?, dir.to_str()?])?;
    Some((dir.clone(), Mounted { dir: Some(dir), device: None }))
}

#[test]
fn a_store_that_does_not_fit_is_refused_and_a_full_disk_costs_hits_only() {
    // Goal: ENOSPC at start is a message with a mend, ENOSPC while running is a counter. Method: a real ext4 file
    // system of 64 MB; a store larger than it; then a sparse store file, whose blocks cannot be had when written.
    let mut fleet = Fleet::start("full", &options());
    let Some((dir, _mounted)) = small_file_system(&fleet.dir.join("full.img"), 64) else {
        return skip("full disk");
    };
    let path = dir.join("edge-1.store");
    fleet.kill("edge-1");
    for server in &mut fleet.snapshot.servers {
        if server.id == "edge-1" {
            server.machine.stores[0].path = path.display().to_string();
        }
    }
    fleet.snapshot.generation = 2;
    fleet.publish();
    let said = fleet.refused_start("edge-1");
    assert!(
        said.contains(&path.display().to_string()) && said.contains("bytes of it in stores"),
        "{said}"
    );
    let _left = fs::remove_file(&path);
    File::create(&path).unwrap().set_len(160 << 20).unwrap();
    fs::write(dir.join("ballast"), vec![1; 24 << 20]).unwrap();
    fleet.restart("edge-1");
    let files = warm(&fleet, &[2_000_000; 30]);
    assert!(fleet.counter("edge-1", "store_write_errors_total") > 0, "the disk was to be full");
    check(&fleet, &files, "on a full disk");
    fleet.restart("edge-1");
    check(&fleet, &files, "after a restart on a full disk");
    fleet.kill("edge-1"); // so that the file system can go
}

#[test]
fn real_read_errors_of_a_device_cost_fills_and_nothing_else() {
    // Goal: EIO from the kernel is a miss and is counted. Method: the store is a raw loop device whose backing file
    // lies in a tmpfs; the file is cut and the tmpfs filled up, so that the block layer fails reads and writes.
    let mut fleet = Fleet::start("eio", &options());
    let room = fleet.dir.join("room");
    fs::create_dir_all(&room).unwrap();
    let mounted = is_root()
        && run("mount", &["-t", "tmpfs", "-o", "size=170m", "tmpfs", room.to_str().unwrap()])
            .is_some();
    if !mounted {
        return skip("read errors of a device");
    }
    let mut mounted = Mounted { dir: Some(room.clone()), device: None };
    let backing = room.join("backing");
    File::create(&backing).unwrap().set_len(160 << 20).unwrap();
    mounted.device = run("losetup", &["--find", "--show", backing.to_str().unwrap()]);
    let Some(device) = mounted.device.clone() else {
        return skip("read errors of a device");
    };
    fleet.kill("edge-1");
    for server in &mut fleet.snapshot.servers {
        if server.id == "edge-1" {
            server.machine.stores[0].path = device.clone();
        }
    }
    fleet.snapshot.generation = 2;
    fleet.publish();
    fleet.restart("edge-1");
    let files = warm(&fleet, &[2_000_000; 6]);
    check(&fleet, &files, "before");
    File::options().write(true).open(&backing).unwrap().set_len(1 << 20).unwrap();
    let mut ballast = File::create(room.join("ballast")).unwrap();
    while ballast.write_all(&[1; 1 << 16]).is_ok() {}
    for _ in 0..6 {
        check(&fleet, &files, "under read errors");
        fleet.settle("edge-1");
    }
    let errors = fleet.counter("edge-1", "store_read_errors_total");
    println!("read errors {errors}, device {}", fleet.status("edge-1")["stores"][0]["state"]);
    assert!(errors >= 6, "{errors}");
    assert!(fleet.counter("edge-1", "store_write_errors_total") >= 1);
    fleet.kill("edge-1"); // so that the device can go
}

#[test]
fn what_left_memory_comes_from_the_store_whatever_its_size() {
    // Goal: one fill for an object of any size while it lies on disk. Method: small and larger objects, then enough
    // others to push them out of a small RAM tier; asked for again, they are no fill. (Small bodies lie with their head.)
    let fleet = Fleet::start(
        "left-memory",
        &FleetOptions { parents: 1, edges: 1, ram_bytes: 16 << 20, ..FleetOptions::default() },
    );
    let sizes = [1, 900, 20_000, 32 * 1024, 32 * 1024 + 1, 40_000, 600_000];
    let name = |n: usize| format!("s{n}.m4s");
    let ask = |name: &str| {
        let response = fleet.get("parent-1", &format!("/{name}"), "").unwrap();
        assert_eq!(response.status, 200);
        response.body
    };
    for (n, size) in sizes.into_iter().enumerate() {
        fleet.put(&name(n), size);
        ask(&name(n));
    }
    fleet.settle("parent-1");
    for n in 0..100 {
        let other = format!("other{n}.m4s");
        fleet.put(&other, 500_000);
        ask(&other);
    }
    fleet.settle("parent-1");
    assert!(fleet.counter("parent-1", "ram_tier_evictions_total") > 50);
    assert_eq!(fleet.counter("parent-1", "store_not_admitted_total"), 0);
    let fills = fleet.counter("parent-1", "fills_total");
    let read = fleet.counter("parent-1", "store_read_bytes_total");
    for (n, size) in sizes.into_iter().enumerate() {
        assert!(ask(&name(n)) == tidegate_e2e::content(&name(n), size), "{size}");
    }
    assert_eq!(fleet.counter("parent-1", "fills_total"), fills);
    assert!(fleet.counter("parent-1", "store_read_bytes_total") > read);
}
