//! Partial objects: a range costs its blocks on every tier, once; ranges of one version are put together, ranges of two
//! never. Method: real files and a hand origin; every byte against the file; bytes filled on each tier by its counters.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{
    Connection, Fleet, FleetOptions, HandOrigin, Response, content, get, range_of, reply,
};

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
                let mut client = Connection::open(address).unwrap();
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
        let mut client = Connection::open(fleet.member("parent-1").http()).unwrap();
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

/// The question for the rest of an object of which the first block came as `v1`.
struct Rest {
    first: usize,
    last: usize,
    total: usize,
}

const V1: &str = "ETag: \"v1\"\r\n";
const V2: &str = "ETag: \"v2\"\r\n";

impl Rest {
    /// So many bytes that are those of no version.
    fn lie(&self) -> String {
        "L".repeat(self.last + 1 - self.first)
    }

    fn right(&self) -> String {
        format!("bytes {}-{}/{}", self.first, self.last, self.total)
    }

    /// A 206 with this tag, this range and this body.
    fn part(&self, tag: &str, range: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 206 X\r\nCache-Control: max-age=600\r\n{tag}Content-Range: {range}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// All that an origin can say instead of the truth.
    fn lies(&self) -> Vec<(&'static str, String)> {
        let Rest { first, last, total } = *self;
        let (lie, right) = (self.lie(), self.right());
        let tagged = |tag: &str| self.part(tag, &right, &lie);
        let ranged = |range: String| self.part(V1, &range, &lie);
        let parts = format!("--b\r\nContent-Range: {right}\r\n\r\n{lie}\r\n--b--\r\n");
        let length = format!("Length: {}\r", lie.len());
        let longer = format!("Length: {}\r", lie.len() + 1);
        let twice = format!("bytes 0-1/{total}\r\nContent-Range: {right}");
        let other = "L".repeat(total);
        vec![
            ("another tag", tagged(V2)),
            ("no tag", tagged("")),
            ("a weak tag", tagged("ETag: W/\"v1\"\r\n")),
            ("two tags", tagged(&format!("{V2}{V1}"))),
            ("another total", ranged(format!("bytes {first}-{last}/{}", total + 1))),
            ("a total below its range", ranged(format!("bytes {first}-{last}/{last}"))),
            ("a shifted range", ranged(format!("bytes {}-{}/{total}", first - 1, last - 1))),
            ("a range that begins late", ranged(format!("bytes {}-{last}/{total}", first + 1))),
            ("a range that ends early", ranged(format!("bytes {first}-{}/{total}", last - 1))),
            ("a range from the start", ranged(format!("bytes 0-{}/{total}", last - first))),
            ("a range turned round", ranged(format!("bytes {last}-{first}/{total}"))),
            ("an unsatisfied range", ranged(format!("bytes */{total}"))),
            ("another unit", ranged(format!("items {first}-{last}/{total}"))),
            ("an overflow", ranged(format!("bytes {first}-{last}/18446744073709551617"))),
            ("a range of words", ranged(format!("bytes some-more/{total}"))),
            ("two ranges", ranged(twice)),
            ("no range", tagged(V1).replace(&format!("Content-Range: {right}\r\n"), "")),
            (
                "parts",
                format!(
                    "HTTP/1.1 206 X\r\n{V1}Content-Type: multipart/byteranges; boundary=b\r\n\
                     Content-Length: {}\r\n\r\n{parts}",
                    parts.len()
                ),
            ),
            ("a body too long", tagged(V1).replace(&length, &longer) + "L"),
            ("a body too short", self.part(V1, &right, &lie[1..])),
            ("a body that breaks off", tagged(V2)[..tagged(V2).len() - 9].to_owned()),
            ("unchanged", format!("HTTP/1.1 304 X\r\n{V1}\r\n")),
            (
                "nothing there",
                format!(
                    "HTTP/1.1 416 X\r\nContent-Range: bytes */{total}\r\n\
                     Content-Length: 0\r\n\r\n"
                ),
            ),
            ("gone", "HTTP/1.1 404 X\r\nContent-Length: 4\r\n\r\nLLLL".to_owned()),
            (
                "all of another version",
                format!(
                    "HTTP/1.1 200 X\r\nCache-Control: max-age=600\r\n{V2}\
                     Content-Length: {total}\r\n\r\n{other}"
                ),
            ),
        ]
    }
}

#[test]
fn lies_about_the_rest_of_an_object_never_become_part_of_it() {
    // Goal: an object whose origin lies midway is given up: clients see an answer that ends short or another whole version,
    // never a mixture, and nothing of it stays. Method: the first block comes honestly, the second question is answered by
    // each lie in turn; then the origin is honest again.
    const TOTAL: usize = 2 * BLOCK;
    let honest = Arc::new(AtomicBool::new(true));
    let flag = honest.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let bytes = content("honest", TOTAL);
        let lie = asked.target().strip_prefix('/').unwrap().parse::<usize>().unwrap();
        let fields = format!("Cache-Control: max-age=600\r\n{V1}");
        let span = range_of(asked, TOTAL);
        match span {
            Some((first, last)) if first > 0 && !flag.load(Ordering::SeqCst) => {
                let (_, said) = &Rest { first, last, total: TOTAL }.lies()[lie];
                let _gone = stream.write_all(said.as_bytes());
                // Whatever surplus there was.
                let _gone = stream.shutdown(Shutdown::Both);
            }
            Some((first, last)) => {
                let fields = format!("{fields}Content-Range: bytes {first}-{last}/{TOTAL}\r\n");
                reply(stream, 206, &fields, &bytes[first..=last]);
            }
            // Only a question for the rest is lied to.
            None => reply(stream, 200, &fields, &bytes),
        }
    });
    let fleet = Fleet::start(
        "midway",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    let edge = fleet.member("edge-1").http();
    let bytes = content("honest", TOTAL);
    let names = Rest { first: 1, last: 2, total: 3 }.lies().into_iter().map(|(name, _)| name);
    for (n, name) in names.enumerate() {
        let path = format!("/{n}");
        honest.store(true, Ordering::SeqCst);
        let first = ranged(edge, &path, "bytes=0-99").unwrap();
        assert!(first.status == 206 && first.body == bytes[..100], "{name}");
        fleet.settle("edge-1");
        fleet.settle("parent-1");
        honest.store(false, Ordering::SeqCst);
        for range in [None, Some("bytes=600000-600099"), Some("bytes=524280-524300")] {
            let response = match range {
                None => get(edge, HOST, &path, ""),
                Some(range) => ranged(edge, &path, range),
            };
            let Ok(response) = response else { continue }; // it ended short
            let asked = match (response.status, range) {
                (200, None) => &bytes[..],
                (206, Some(range)) => {
                    let (from, to) = range["bytes=".len()..].split_once('-').unwrap();
                    &bytes[from.parse().unwrap()..=to.parse().unwrap()]
                }
                (404 | 416 | 502 | 504, _) => continue,
                (status, _) => panic!("{name} {range:?}: {status}"),
            };
            // Who is asked about an object of which nothing is known may lie consistently.
            let is_lie = response.body.iter().all(|byte| *byte == b'L');
            assert!(response.body == asked || is_lie, "{name} {range:?}: a mixture");
        }
        honest.store(true, Ordering::SeqCst);
        fleet.settle("edge-1");
        fleet.settle("parent-1");
        let after = get(edge, HOST, &path, "").unwrap();
        let lied = after.status == 404 || after.field("etag") == Some("\"v2\"");
        // These are lies that an origin may mean: a cache cannot know, and keeps them.
        let meant = ["gone", "all of another version"].contains(&name);
        assert!(
            lied == meant || after.body == bytes,
            "{name}: {} {:?}",
            after.status,
            after.fields
        );
    }
}

#[test]
fn tiny_ranges_of_huge_objects_cost_their_blocks_at_the_origin() {
    // Goal: nobody makes an origin send much by asking for little (RangeAmp): at most 1.2 times what was asked, and a block
    // at either end; ranges that overlap count once. Method: a sparse file of 5 GB at our origin, its own count of bytes.
    const TOTAL: u64 = 5 << 30;
    let fleet = small("huge");
    let file = fs::File::create(fleet.origin_dir().join("huge.mp4")).unwrap();
    file.set_len(TOTAL).unwrap();
    let edge = fleet.member("edge-1").http();
    let sent = |fleet: &Fleet| {
        fleet.settle("edge-1");
        fleet.settle("parent-1");
        fleet.counter("origin-1", "bytes_sent_total")
    };
    let mut places = Places(2025);
    for n in 0..24 {
        let length = [1, 2, 1000, BLOCK, 3 * BLOCK + 7][n % 5];
        let first =
            (places.below(TOTAL as usize / BLOCK - 16) * BLOCK + places.below(BLOCK)) as u64;
        let last = first + length as u64 - 1;
        let before = sent(&fleet);
        let response = ranged(edge, "/huge.mp4", &format!("bytes={first}-{last}")).unwrap();
        assert_eq!((response.status, response.body.len()), (206, length));
        let cost = sent(&fleet) - before;
        let most = length as u64 * 6 / 5 + 2 * BLOCK as u64;
        assert!(cost <= most, "{length} bytes at {first} cost {cost}");
        if first / BLOCK as u64 == last / BLOCK as u64 {
            assert!(cost <= BLOCK as u64, "{length} bytes in one block cost {cost}");
        }
    }
    // Many ranges: merged, at most eight, and each costs its blocks.
    let far = TOTAL - (64 << 20);
    let same = (0..8).map(|n| format!("{}-{}", far + n, far + 100)).collect::<Vec<_>>().join(",");
    let before = sent(&fleet);
    let response = ranged(edge, "/huge.mp4", &format!("bytes={same}")).unwrap();
    assert_eq!((response.status, response.body.len()), (206, 101), "one part");
    assert!(sent(&fleet) - before <= BLOCK as u64);
    let apart: Vec<u64> = (0..8).map(|n| far + (n + 1) * (4 << 20)).collect();
    let ranges = apart.iter().map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(",");
    let before = sent(&fleet);
    assert_eq!(ranged(edge, "/huge.mp4", &format!("bytes={ranges}")).unwrap().status, 206);
    assert!(sent(&fleet) - before <= 8 * BLOCK as u64);
    // Who asks for all of it and leaves has it stopped: what he was not sent is not brought.
    let before = sent(&fleet);
    for n in 0..4 {
        let mut client = Connection::open(edge).unwrap();
        let first = (n + 1u64) << 30;
        let request =
            format!("GET /huge.mp4 HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes={first}-\r\n\r\n");
        client.send(request.as_bytes()).unwrap();
        assert_eq!(client.head().unwrap().status, 206);
    }
    let cost = sent(&fleet) - before;
    println!("four clients that asked for gigabytes and left cost the origin {cost} bytes");
    assert!(cost <= 4 * (64 << 20), "{cost}");
}
