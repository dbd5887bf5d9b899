//! Goal: a replay says what the origin saw, and no wrong byte passes as a right one.
//! Method: small traces replayed against the trace origin itself, and against servers that lie.

#[allow(dead_code, reason = "this suite needs less of it than `load`")]
mod support;

use std::io::{Cursor, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use support::{After, Server};
use tidegate_load::trace::origin::{Manners, Origin};
use tidegate_load::trace::recipe::Recipe;
use tidegate_load::trace::replay::{Errors, Options, ReplayError, Replayed, replay};
use tidegate_load::trace::{self, FIRST_LINE, Object, TraceError};

fn options(target: SocketAddr) -> Options {
    Options {
        target,
        host: "film.example".to_owned(),
        connections: 8,
        timeout: Duration::from_secs(60),
        pace: None,
    }
}

fn origin() -> Origin {
    Origin::start("127.0.0.1:0".parse().unwrap(), Manners::default()).unwrap()
}

fn small() -> (Vec<u8>, trace::make::Made) {
    let recipe = Recipe {
        requests: 1500,
        scale: 0.001,
        titles: 5,
        vod_viewers: 20,
        live_viewers: 10,
        ranges: 0.2,
        ..Recipe::default()
    };
    let mut text = Vec::new();
    let made = trace::write(&recipe, &mut text).unwrap();
    (text, made)
}

#[test]
fn every_answer_of_the_origin_is_good_and_counted() {
    let origin = origin();
    let (text, made) = small();
    // A pace so fast that nothing waits long: it must come out the same.
    for pace in [None, Some(1e6)] {
        origin.forget();
        let options = Options { pace, ..options(origin.address) };
        let replayed = replay(Cursor::new(text.clone()), &options).unwrap();
        assert_eq!(replayed.errors, Errors::default(), "{:?}", replayed.first_failure);
        assert_eq!((replayed.requests, replayed.bytes), (made.requests, made.bytes));
        assert_eq!((replayed.first_byte.count(), replayed.ranges_ignored), (made.requests, 0));
        let counts = origin.counts();
        assert_eq!((counts.requests, counts.objects), (made.requests, made.objects));
        assert_eq!((counts.unknown, counts.not_modified), (0, 0));
        assert!(counts.partial > 0 && counts.bytes == made.bytes);
        assert_eq!(replayed.object_hit_ratio(counts.requests), 0.0);
        assert_eq!(replayed.byte_hit_ratio(counts.bytes), 0.0);
    }
}

/// Replays one line against a server that answers so.
fn against(line: &str, answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Replayed {
    let server = Server::start(move |_| (answer(), After::Close));
    let text = format!("{FIRST_LINE}\n{line}\n");
    replay(Cursor::new(text.into_bytes()), &options(server.address)).unwrap()
}

const WHOLE: &str = "0 1 GET /vod/a.50000.m4s - 50000 vod";
const PART: &str = "0 1 GET /vod/a.50000.m4s 100-199 50000 vod";

fn bytes() -> Vec<u8> {
    let mut bytes = vec![0; 50_000];
    Object::parse("/vod/a.50000.m4s").unwrap().fill(0, &mut bytes);
    bytes
}

fn response(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

#[test]
fn lies_are_seen() {
    let good = against(WHOLE, || response("200 OK", &bytes()));
    assert_eq!((good.errors, good.bytes), (Errors::default(), 50_000));
    let body = Errors { body: 1, ..Errors::default() };
    // Other bytes, one byte too few, one too many, all shifted by one.
    assert_eq!(against(WHOLE, || response("200 OK", &[7; 50_000])).errors, body);
    assert_eq!(against(WHOLE, || response("200 OK", &bytes()[..49_999])).errors, body);
    assert_eq!(against(WHOLE, || response("200 OK", &[bytes(), vec![0]].concat())).errors, body);
    assert_eq!(
        against(WHOLE, || response("200 OK", &[&[0], &bytes()[..49_999]].concat())).errors,
        body
    );
    let status = Errors { status: 1, ..Errors::default() };
    assert_eq!(against(WHOLE, || response("404 Not Found", b"")).errors, status);
    assert_eq!(against(WHOLE, || response("206 Partial Content", &bytes())).errors, status);
    let broken = Errors { broken: 1, ..Errors::default() };
    let cut = || b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\nshort".to_vec();
    assert_eq!(against(WHOLE, cut).errors, broken);
    // Parts: the right one, the right bytes under a wrong name, the whole (allowed, and told).
    let part = |said: &'static str| move || response(said, &bytes()[100..200]);
    let right = "206 Partial Content\r\nContent-Range: bytes 100-199/50000";
    assert_eq!(against(PART, part(right)).errors, Errors::default());
    let wrong = "206 Partial Content\r\nContent-Range: bytes 101-200/50000";
    assert_eq!(against(PART, part(wrong)).errors, body);
    let whole = against(PART, || response("200 OK", &bytes()));
    assert_eq!((whole.errors, whole.ranges_ignored), (Errors::default(), 1));
}

#[test]
fn a_replay_ends_at_a_line_that_is_none() {
    let origin = origin();
    let text = format!("{FIRST_LINE}\n{WHOLE}\nnonsense\n{WHOLE}\n");
    let outcome = replay(Cursor::new(text.into_bytes()), &options(origin.address));
    assert!(matches!(outcome, Err(ReplayError::Trace(TraceError::Line(3, _)))));
}

/// What the origin says to raw bytes, until it closes.
fn ask(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end..].to_vec())
}

#[test]
fn the_origin_obeys_ranges_and_conditions() {
    let origin = origin();
    let get = |more: &str| {
        let head = "GET /vod/a.50000.m4s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        ask(origin.address, &format!("{head}{more}\r\n"))
    };
    let (head, body) = get("");
    assert!(head.starts_with("http/1.1 200 ") && body == bytes());
    assert!(head.contains("cache-control: public, max-age=3600\r\n"), "{head}");
    let field = |name: &str| {
        let line = head.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(": ").unwrap().1.to_owned()
    };
    let tag = field("etag");
    let (head, body) = get(&format!("If-None-Match: {tag}\r\n"));
    assert!(head.starts_with("http/1.1 304 ") && body.is_empty(), "{head}");
    for (range, first, last) in
        [("5-", 5, 49_999), ("-7", 49_993, 49_999), ("13-40012", 13, 40_012)]
    {
        let (head, body) = get(&format!("Range: bytes={range}\r\nIf-Range: {tag}\r\n"));
        assert!(head.contains(&format!("content-range: bytes {first}-{last}/50000\r\n")), "{head}");
        assert!(body == bytes()[first..=last]);
    }
    let (head, body) = get("Range: bytes=5-9\r\nIf-Range: \"another\"\r\n");
    assert!(head.starts_with("http/1.1 200 ") && body == bytes());
    assert!(get("Range: bytes=50000-\r\n").0.starts_with("http/1.1 416 "));
    let none = "GET /film/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(ask(origin.address, none).0.starts_with("http/1.1 404 "));
    let head = "HEAD /vod/a.50000.m4s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (head, body) = ask(origin.address, head);
    assert!(head.contains("content-length: 50000\r\n") && body.is_empty());
    let counts = origin.counts();
    assert_eq!((counts.requests, counts.objects, counts.unknown), (8, 1, 1));
    assert_eq!((counts.partial, counts.not_modified, counts.overlapping), (3, 1, 0));
}
