//! Partial objects against a byte oracle: whatever clients ask and break off, whatever the origin changes and breaks off,
//! an answer holds bytes of the one version that its tag names, at the places that it names.
//!
//! Method: the bytes of a version are a function of its number, and so is its length. Clients of two edges ask random
//! ranges of a few objects and leave some answers in the middle; the origin changes versions under way, answers some
//! questions without ranges and breaks off some bodies. Every byte that comes is compared as it comes, also of answers
//! that end short. Each seed is a plan of its own; a failure names it.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Asked, Connection, Fleet, FleetOptions, HandOrigin, Response, content, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const EDGES: [&str; 2] = ["edge-1", "edge-2"];
/// What each object's answers say of their lifetime.
const LIFETIMES: [&str; 3] = ["max-age=3600", "max-age=0", "max-age=0, stale-if-error=60"];
const CLIENTS: u64 = 6;
const REQUESTS: usize = 60;
/// Answers between two versions of an object.
const CHANGE_AFTER: usize = 25;
/// Each of so many bodies breaks off.
const BREAK_EACH: usize = 9;

fn total(version: usize) -> usize {
    700_000 + version * 137_911 % 1_500_000
}

/// Bytes of versions of objects, each made once.
#[derive(Default)]
struct Oracle(Mutex<Versions>);

/// By object and version.
type Versions = HashMap<(usize, usize), Arc<Vec<u8>>>;

impl Oracle {
    fn bytes(&self, object: usize, version: usize) -> Arc<Vec<u8>> {
        let mut known = self.0.lock().unwrap();
        let bytes = known
            .entry((object, version))
            .or_insert_with(|| Arc::new(content(&format!("{object} {version}"), total(version))));
        bytes.clone()
    }
}

/// The origin's side.
struct Objects {
    oracle: Oracle,
    versions: [AtomicUsize; LIFETIMES.len()],
    bodies: AtomicUsize,
    calm: AtomicBool,
}

impl Objects {
    fn new() -> Objects {
        Objects {
            oracle: Oracle::default(),
            versions: Default::default(),
            bodies: AtomicUsize::new(0),
            calm: AtomicBool::new(false),
        }
    }

    fn answer(&self, asked: &Asked, stream: &mut TcpStream) {
        let object = object_of(asked.target());
        let version = self.versions[object].load(Ordering::SeqCst);
        if asked.line.starts_with("POST ") {
            return reply(stream, 200, "", b"changed");
        }
        let tag = format!("\"v{version}\"");
        let fields = format!("ETag: {tag}\r\nCache-Control: {}\r\n", LIFETIMES[object]);
        if asked.field("if-none-match") == tag {
            let _gone = write!(stream, "HTTP/1.1 304 X\r\n{fields}\r\n");
            return;
        }
        let bytes = self.oracle.bytes(object, version);
        let number = self.bodies.fetch_add(1, Ordering::SeqCst);
        let calm = self.calm.load(Ordering::SeqCst);
        let same = matches!(asked.field("if-range"), "" | "*") || asked.field("if-range") == tag;
        let whole = !same || (!calm && number % 11 == 10);
        let range = tidegate_e2e::range_of(asked, bytes.len()).filter(|_| !whole);
        if range.is_some_and(|(first, _)| first >= bytes.len()) {
            let described = format!("Content-Range: bytes */{}\r\n", bytes.len());
            return reply(stream, 416, &described, b"");
        }
        let (status, described, body) = match range {
            Some((first, last)) => {
                let described = format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
                (206, described, &bytes[first..=last])
            }
            None => (200, String::new(), &bytes[..]),
        };
        if !calm && number % BREAK_EACH == BREAK_EACH - 1 {
            let head = format!(
                "HTTP/1.1 {status} X\r\n{fields}{described}Content-Length: {}\r\n\r\n",
                body.len()
            );
            let _gone = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&body[..body.len() * (number % 7) / 7]));
            let _gone = stream.shutdown(Shutdown::Both);
            return;
        }
        reply(stream, status, &format!("{fields}{described}"), body);
    }
}

fn object_of(target: &str) -> usize {
    let digits: String = target.chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("paths of this test end in the object's number")
}

/// A small generator; the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }

    /// A `Range` field, or none.
    fn range(&mut self) -> String {
        // Beyond the end of some versions.
        let first = self.below(1_600_000);
        let length = [1, 700, 100_000, 524_288, 2_000_000][self.below(5)];
        let last = first + self.below(length);
        match self.below(7) {
            0 => String::new(),
            1 => format!("Range: bytes={first}-\r\n"),
            2 => format!("Range: bytes=-{}\r\n", 1 + self.below(length)),
            3 => {
                let (far, further) = (last + 2, last + 2 + self.below(length));
                format!("Range: bytes={first}-{last}, {far}-{further}\r\n")
            }
            _ => format!("Range: bytes={first}-{last}\r\n"),
        }
    }
}

/// What the answer to `range` must be of a version of this length: the ranges, or `None` for the whole.
fn resolve(range: &str, total: usize) -> Option<Vec<(usize, usize)>> {
    let set = range.trim_end().strip_prefix("Range: bytes=")?;
    let mut found: Vec<(usize, usize)> = Vec::new();
    for member in set.split(", ") {
        let (first, last) = member.split_once('-').unwrap();
        let (first, last) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Err(_), Ok(length)) => (total.saturating_sub(length), total - 1),
            (Ok(first), Ok(last)) => (first, last.min(total - 1)),
            (Ok(first), Err(_)) => (first, total - 1),
            _ => unreachable!("ranges of this test have a number"),
        };
        if first >= total {
            continue;
        }
        match found.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => found.push((first, last)),
        }
    }
    Some(found)
}

/// The body that an answer with this head must have; `None`: it has no bytes of the object.
fn expected(oracle: &Oracle, object: usize, range: &str, head: &Response) -> Option<Vec<u8>> {
    if !matches!(head.status, 200 | 206) {
        let fine = matches!(head.status, 416 | 502 | 503 | 504);
        assert!(fine, "{} {:?}", head.status, head.fields);
        return None;
    }
    let tag = head.field("etag").expect("every version has a tag");
    let version = tag.trim_matches(['"', 'v']).parse().expect("tags are of this test's origin");
    let bytes = oracle.bytes(object, version);
    if head.status == 200 {
        return Some(bytes.to_vec());
    }
    let ranges = resolve(range, bytes.len()).expect("a part was asked for");
    if let [(first, last)] = ranges[..] {
        let described = format!("bytes {first}-{last}/{}", bytes.len());
        assert_eq!(head.field("content-range"), Some(described.as_str()), "{range} of {tag}");
        return Some(bytes[first..=last].to_vec());
    }
    let kind = head.field("content-type").expect("parts have a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("several parts");
    let mut body = Vec::new();
    for (first, last) in ranges {
        let described = format!("bytes {first}-{last}/{}", bytes.len());
        let kind = "application/octet-stream";
        let part = format!(
            "\r\n--{boundary}\r\ncontent-type: {kind}\r\ncontent-range: {described}\r\n\r\n"
        );
        body.extend_from_slice(part.as_bytes());
        body.extend_from_slice(&bytes[first..=last]);
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Some(body)
}

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    /// The client left.
    Left,
    /// It broke off.
    Short,
    /// 416: beyond the end.
    Beyond,
    /// 5xx: its bytes could not be had.
    Refused,
}

/// One request whose bytes are compared as they come; the client leaves after `take` of them.
fn ask(
    address: SocketAddr,
    oracle: &Oracle,
    object: usize,
    range: &str,
    take: usize,
) -> std::io::Result<Ended> {
    let mut client = Connection::open(address)?;
    let request = format!("GET /object{object} HTTP/1.1\r\nHost: {HOST}\r\n{range}\r\n");
    client.send(request.as_bytes())?;
    let head = client.head()?;
    let Some(expected) = expected(oracle, object, range, &head) else {
        return Ok(if head.status == 416 { Ended::Beyond } else { Ended::Refused });
    };
    assert_eq!(head.field("content-length"), Some(expected.len().to_string().as_str()));
    let mut at = 0;
    while at < expected.len() {
        if at >= take {
            return Ok(Ended::Left);
        }
        let more = client.some()?;
        if more.is_empty() {
            return Ok(Ended::Short);
        }
        let tag = head.field("etag");
        assert!(expected[at..].starts_with(&more), "{range:?} of {tag:?}: wrong bytes at {at}");
        at += more.len();
    }
    Ok(Ended::Whole)
}

fn post(address: SocketAddr, object: usize) {
    let mut client = Connection::open(address).unwrap();
    let request =
        format!("POST /object{object} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx");
    client.send(request.as_bytes()).unwrap();
    assert_eq!(client.response(false).unwrap().status, 200);
}

/// One plan: clients, versions and breaks by `seed`, then calm, and every edge must come to the last version.
fn run(seed: u64, options: &FleetOptions) {
    let objects = Arc::new(Objects::new());
    let answering = objects.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| answering.answer(asked, stream));
    let options = FleetOptions { origin: Some(origin.address), parents: 1, ..options.clone() };
    let fleet = Fleet::start(&format!("oracle-{seed}"), &options);
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let addresses = EDGES.map(|edge| fleet.member(edge).http());
            let (objects, answered) = (objects.clone(), answered.clone());
            thread::spawn(move || {
                let mut chance = Chance(seed * 1000 + client + 1);
                let mut ended = Vec::new();
                for _ in 0..REQUESTS {
                    let object = chance.below(LIFETIMES.len());
                    let range = chance.range();
                    let take =
                        if chance.below(4) == 0 { chance.below(300_000) } else { usize::MAX };
                    let address = addresses[chance.below(2)];
                    let how = ask(address, &objects.oracle, object, &range, take);
                    ended.push(how.unwrap_or(Ended::Short));
                    let number = answered.fetch_add(1, Ordering::SeqCst) + 1;
                    if number.is_multiple_of(CHANGE_AFTER) {
                        let object = number / CHANGE_AFTER % LIFETIMES.len();
                        objects.versions[object].fetch_add(1, Ordering::SeqCst);
                        post(addresses[number % 2], object);
                    }
                }
                ended
            })
        })
        .collect();
    let ended: Vec<Ended> =
        clients.into_iter().flat_map(|client| client.join().expect("it has said why")).collect();
    let count = |how| ended.iter().filter(|ended| **ended == how).count();
    let (whole, left) = (count(Ended::Whole), count(Ended::Left));
    println!(
        "seed {seed}: {whole} whole, {left} left, {} short, {} beyond the end, {} refused; {} bodies of {} questions",
        count(Ended::Short),
        count(Ended::Beyond),
        count(Ended::Refused),
        objects.bodies.load(Ordering::SeqCst),
        origin.count()
    );
    assert!(whole > 0 && left > 0, "the plan is no test");
    objects.calm.store(true, Ordering::SeqCst);
    for (number, edge) in EDGES.into_iter().enumerate() {
        fleet.settle(edge);
        fleet.settle("parent-1");
        for object in 0..LIFETIMES.len() {
            let address = fleet.member(edge).http();
            post(address, object);
            let version = objects.versions[object].load(Ordering::SeqCst);
            let last = objects.oracle.bytes(object, version);
            fleet.until("the last version is whole at every edge", |_| {
                let response = tidegate_e2e::get(address, HOST, &format!("/object{object}"), "");
                response.is_ok_and(|response| response.body == *last)
            });
            let mut chance = Chance(seed + number as u64);
            for _ in 0..10 {
                let range = chance.range();
                let how = ask(address, &objects.oracle, object, &range, usize::MAX).unwrap();
                let beyond = resolve(&range, last.len()).is_some_and(|ranges| ranges.is_empty());
                assert_eq!(how == Ended::Whole, !beyond, "{range:?} in the calm");
            }
        }
    }
}

#[test]
fn every_byte_is_of_the_version_that_its_answer_names() {
    for seed in 1..=3 {
        run(seed, &FleetOptions::default());
    }
}

#[test]
fn every_byte_is_of_its_version_where_blocks_are_pushed_out_all_the_time() {
    for seed in 11..=13 {
        let options =
            FleetOptions { ram_bytes: 1 << 20, store_bytes: None, ..FleetOptions::default() };
        run(seed, &options);
    }
}
