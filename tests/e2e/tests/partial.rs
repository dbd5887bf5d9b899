//! Partial objects: a range costs its blocks on every tier, once; ranges of one version are put together, ranges of two
//! never. Method: real files and a hand origin; every byte against the file; bytes filled on each tier by its counters.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions, HandOrigin, Response, content, get, range_of, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BLOCK: usize = 512 * 1024;

fn small(name: &str) -> Fleet {
    Fleet::start(name, &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() })
}

fn ranged(address: SocketAddr, path: &str, range: &str) -> std::io::Result<Response> {
    get(address, HOST, path, &format!("Range: {range}\r\n"))
}

fn filled(fleet: &Fleet, id: &str) -> usize {
    fleet.settle(id);
    fleet.counter(id, "bytes_filled_total") as usize
}

#[test]
fn a_range_of_a_cold_object_costs_its_blocks_once() {
    // Goal: at most what was asked and its blocks, on both tiers. Method: ranges of a 20 MB file one after the other;
    // what each has cost is known to the byte; a restart keeps what came.
    let mut fleet = small("cold-range");
    let bytes = fleet.put("large.mp4", 20_000_000);
    let edge = fleet.member("edge-1").http();
    let mut cost = 0;
    for (range, first, last, more) in [
        ("bytes=10000000-10000099", 10_000_000, 10_000_099, BLOCK),
        ("bytes=10000050-10000060", 10_000_050, 10_000_060, 0),
        ("bytes=9961472-11010047", 9_961_472, 11_010_047, BLOCK),
        ("bytes=-100", 19_999_900, 19_999_999, 20_000_000 % BLOCK),
        ("bytes=19999000-", 19_999_000, 19_999_999, 0),
        ("bytes=0-0", 0, 0, BLOCK),
    ] {
        let response = ranged(edge, "/large.mp4", range).unwrap();
        assert_eq!(response.status, 206, "{range}");
        let described = format!("bytes {first}-{last}/20000000");
        assert_eq!(response.field("content-range"), Some(described.as_str()));
        assert!(response.body == bytes[first..=last], "{range}");
        cost += more;
        assert_eq!(filled(&fleet, "edge-1"), cost, "{range} at the edge");
        assert_eq!(filled(&fleet, "parent-1"), cost, "{range} at the parent");
        let hit = response.cache_status("edge-1").unwrap().contains("; hit");
        assert_eq!(hit, more == 0, "{range}");
    }
    fleet.restart("edge-1");
    let kept =
        ranged(fleet.member("edge-1").http(), "/large.mp4", "bytes=10000000-10000099").unwrap();
    assert!(kept.body == bytes[10_000_000..10_000_100]);
    assert!(kept.cache_status("edge-1").unwrap().contains("; hit"));
    let whole = fleet.get("edge-1", "/large.mp4", "").unwrap();
    assert!(whole.status == 200 && whole.body == bytes, "the rest is put to what is there");
    assert_eq!(filled(&fleet, "edge-1"), 20_000_000 - cost, "and nothing came twice");
}

#[test]
fn heads_and_ranges_beyond_the_end_cost_a_block_at_most() {
    // Goal: what needs no bytes brings hardly any. Method: HEAD and unsatisfiable ranges of cold large files.
    let fleet = small("head-range");
    for (n, (range, status)) in
        [(None, 200), (Some("bytes=9000000-"), 416), (Some("bytes=-0"), 416)]
            .into_iter()
            .enumerate()
    {
        let name = format!("h{n}.mp4");
        fleet.put(&name, 8_000_000);
        let before = filled(&fleet, "edge-1");
        let address = fleet.member("edge-1").http();
        let response = match range {
            Some(range) => ranged(address, &format!("/{name}"), range).unwrap(),
            None => {
                let mut client = tidegate_e2e::Connection::open(address).unwrap();
                let request = format!("HEAD /{name} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                client.send(request.as_bytes()).unwrap();
                client.response(true).unwrap()
            }
        };
        assert_eq!(response.status, status, "{range:?}");
        match status {
            200 => assert_eq!(response.field("content-length"), Some("8000000")),
            _ => assert_eq!(response.field("content-range"), Some("bytes */8000000")),
        }
        assert!(filled(&fleet, "edge-1") - before <= BLOCK, "{range:?}");
    }
    fleet.put("empty.mp4", 0);
    let empty = ranged(fleet.member("edge-1").http(), "/empty.mp4", "bytes=5-6").unwrap();
    assert_eq!(empty.status, 416);
}

/// A small generator of places; the same in every run.
struct Places(u64);

impl Places {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }

    fn range(&mut self, total: usize) -> (usize, usize) {
        let first = self.below(total);
        let length = [1, 1000, BLOCK, 3 * BLOCK, total][self.below(5)];
        (first, (first + self.below(length).max(1) - 1).min(total - 1))
    }
}

#[test]
fn random_ranges_of_many_clients_are_the_files_bytes_and_no_block_comes_twice() {
    // Goal: concurrent part fills do not overlap and are put together rightly. Method: 8 clients at two edges ask 40
    // random ranges each of two cold files; every answer against the file; then the fills' sums.
    const TOTAL: usize = 9_000_000;
    let fleet =
        Fleet::start("random-ranges", &FleetOptions { parents: 1, ..FleetOptions::default() });
    let files: Arc<Vec<Vec<u8>>> =
        Arc::new((0..2).map(|n| fleet.put(&format!("r{n}.mp4"), TOTAL)).collect());
    let clients: Vec<_> = (0..8u64)
        .map(|client| {
            let address = fleet.member(["edge-1", "edge-2"][client as usize % 2]).http();
            let files = files.clone();
            thread::spawn(move || {
                let mut places = Places(client + 1);
                for _ in 0..40 {
                    let file = places.below(2);
                    let (first, last) = places.range(TOTAL);
                    let range = format!("bytes={first}-{last}");
                    let response = ranged(address, &format!("/r{file}.mp4"), &range).unwrap();
                    assert_eq!(response.status, 206, "{range}");
                    assert!(response.body == files[file][first..=last], "{range}");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    for id in ["edge-1", "edge-2", "parent-1"] {
        let came = filled(&fleet, id);
        assert!(came <= 2 * TOTAL, "{id}: {came} bytes for two files of {TOTAL}");
        assert_eq!(fleet.counter(id, "fill_errors_total"), 0);
    }
    assert!(fleet.counter("origin-1", "bytes_sent_total") as usize <= 2 * TOTAL);
}

#[test]
fn ranges_of_two_versions_are_never_put_together() {
    // Goal: one answer, one version, while the file is replaced again and again. Method: the ETag of an answer names
    // the version that its bytes must be of; answers may break off short, never be wrong.
    const TOTAL: usize = 6_000_000;
    const VERSIONS: usize = 12;
    let fleet = Fleet::start(
        "versions",
        &FleetOptions {
            edges: 1,
            parents: 1,
            ram_bytes: 2 << 20,
            store_bytes: None,
            ..FleetOptions::default()
        },
    );
    let put = |version: usize| {
        fs::write(fleet.origin_dir().join("new"), content(&format!("v{version}"), TOTAL)).unwrap();
        fs::rename(fleet.origin_dir().join("new"), fleet.origin_dir().join("v.mp4")).unwrap();
    };
    put(0);
    let (stop, whole) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let clients: Vec<_> = (0..4u64)
        .map(|client| {
            let address = fleet.member("edge-1").http();
            let (stop, whole, seen) = (stop.clone(), whole.clone(), seen.clone());
            thread::spawn(move || {
                let versions: Vec<Vec<u8>> =
                    (0..VERSIONS).map(|v| content(&format!("v{v}"), TOTAL)).collect();
                let mut places = Places(client + 77);
                while !stop.load(Ordering::Relaxed) {
                    let (first, last) = places.range(TOTAL);
                    let Ok(response) = ranged(address, "/v.mp4", &format!("bytes={first}-{last}"))
                    else {
                        continue;
                    };
                    if response.status != 206 {
                        assert!(matches!(response.status, 200 | 502), "{}", response.status);
                        continue;
                    }
                    let of = versions.iter().position(|v| response.body == v[first..=last]);
                    let of =
                        of.unwrap_or_else(|| panic!("{first}-{last}: bytes of no one version"));
                    if last - first > 1000 {
                        let tag = response.field("etag").unwrap().to_owned();
                        let before = *seen.lock().unwrap().entry(tag).or_insert(of);
                        assert_eq!(before, of, "one tag, two versions");
                    }
                    whole.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for version in 1..VERSIONS {
        let answered = whole.load(Ordering::Relaxed);
        fleet.until("some answers came", |_| whole.load(Ordering::Relaxed) > answered + 20);
        put(version);
        // Fresh for an hour: without this nobody would look.
        let mut client = tidegate_e2e::Connection::open(fleet.member("parent-1").http()).unwrap();
        let post = format!("POST /v.mp4 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n");
        client.send(post.as_bytes()).unwrap();
        let _any = client.response(false);
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn origins_that_know_no_ranges_or_lie_about_them_cost_one_whole_fill() {
    // Goal: whatever the origin makes of a Range, the client gets right bytes. Method: one path for each manner; the
    // second range is a hit.
    const TOTAL: usize = 1_500_000;
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let bytes = content(asked.target(), TOTAL);
        let fresh = "Cache-Control: max-age=600\r\n";
        let Some((first, last)) = range_of(asked, TOTAL) else {
            return reply(stream, 200, &format!("{fresh}ETag: \"w\"\r\n"), &bytes);
        };
        let (tag, described, body) = match asked.target() {
            "/ignores" => return reply(stream, 200, &format!("{fresh}ETag: \"w\"\r\n"), &bytes),
            "/weak" => ("W/\"w\"", format!("bytes {first}-{last}/{TOTAL}"), &bytes[first..=last]),
            "/no-total" => ("\"w\"", format!("bytes {first}-{last}/*"), &bytes[first..=last]),
            "/elsewhere" => ("\"w\"", format!("bytes 0-9/{TOTAL}"), &bytes[..10]),
            "/too-short" => {
                ("\"w\"", format!("bytes {first}-{}/{TOTAL}", last - 1), &bytes[first..last])
            }
            "/other-length" => ("\"w\"", format!("bytes {first}-{last}/{TOTAL}"), &bytes[..10]),
            "/no-range" => ("\"w\"", String::new(), &bytes[first..=last]),
            path => panic!("{path}"),
        };
        let fields = match described.is_empty() {
            true => format!("{fresh}ETag: {tag}\r\n"),
            false => format!("{fresh}ETag: {tag}\r\nContent-Range: {described}\r\n"),
        };
        reply(stream, 206, &fields, body);
    });
    let fleet = Fleet::start(
        "no-ranges",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    let edge = fleet.member("edge-1").http();
    for (path, asks) in [
        ("/ignores", 1),
        ("/weak", 2),
        ("/no-total", 2),
        ("/elsewhere", 2),
        ("/too-short", 2),
        ("/other-length", 2),
        ("/no-range", 2),
    ] {
        let bytes = content(path, TOTAL);
        let first = ranged(edge, path, "bytes=600000-600099").unwrap();
        assert_eq!(first.status, 206, "{path}");
        assert!(first.body == bytes[600_000..600_100], "{path}");
        fleet.settle("edge-1");
        fleet.settle("parent-1");
        let second = ranged(edge, path, "bytes=1400000-").unwrap();
        assert!(second.body == bytes[1_400_000..], "{path}");
        assert_eq!(origin.count_of(path), asks, "{path}");
    }
}

#[test]
fn uncacheable_ranges_are_the_clients_own() {
    // Goal: a private file answers each client's own range, and nobody else's. Method: an origin that says private.
    const TOTAL: usize = 2_000_000;
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let bytes = content("own", TOTAL);
        let fields = "Cache-Control: private\r\nETag: \"o\"\r\n";
        match range_of(asked, TOTAL) {
            Some((first, last)) => reply(
                stream,
                206,
                &format!("{fields}Content-Range: bytes {first}-{last}/{TOTAL}\r\n"),
                &bytes[first..=last],
            ),
            None => reply(stream, 200, fields, &bytes),
        }
    });
    let fleet = Fleet::start(
        "own-ranges",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    for (first, last) in [(700_000, 700_009), (5, 9), (0, 1_999_999)] {
        let range = format!("bytes={first}-{last}");
        let response = ranged(fleet.member("edge-1").http(), "/own", &range).unwrap();
        assert_eq!(response.status, 206);
        assert_eq!(
            response.field("content-range"),
            Some(&*format!("bytes {first}-{last}/{TOTAL}"))
        );
        assert!(response.body == content("own", TOTAL)[first..=last]);
    }
    assert_eq!(fleet.counter("edge-1", "hits_total"), 0);
}
