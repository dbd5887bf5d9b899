//! Lost parents and origins: clients get whole, right bytes or an answer that says so, never a wrong whole.
//! Method: an origin whose body stops at a gate, so that every kill falls at a known byte.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, Gate, HandOrigin, content, range_of, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const EDGES: [&str; 2] = ["edge-1", "edge-2"];

/// Opens connections to the edges in turn, asks for `path` on each and reads until `enough` bytes have come.
fn clients(fleet: &Fleet, count: usize, path: &str, enough: usize) -> Vec<(Connection, Vec<u8>)> {
    let mut all: Vec<Connection> = (0..count)
        .map(|n| {
            let mut client = Connection::open(fleet.member(EDGES[n % 2]).http()).unwrap();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            client
        })
        .collect();
    all.drain(..)
        .map(|mut client| {
            assert_eq!(client.head().unwrap().status, 200);
            let mut body = Vec::new();
            while body.len() < enough {
                let more = client.some().unwrap();
                assert!(!more.is_empty());
                body.extend(more);
            }
            (client, body)
        })
        .collect()
}

/// Reads to the announced end, or to where the connection ends.
fn rest(client: &mut Connection, body: &mut Vec<u8>, total: usize) {
    while body.len() < total {
        match client.some() {
            Ok(more) if !more.is_empty() => body.extend(more),
            _ => return,
        }
    }
}

#[test]
fn a_parent_killed_in_mid_fill_costs_no_client_a_byte() {
    // Goal: resume on the other parent, under the same validator. Method: the origin stops in the middle for the
    // first parent; that parent is killed once all clients have bytes; the other one is answered at once.
    const TOTAL: usize = 3_000_000;
    let bytes = content("resume", TOTAL);
    let served = Arc::new(AtomicUsize::new(0));
    let gate = Gate::default();
    let (body, held, count) = (bytes.clone(), gate.clone(), served.clone());
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        let fields = "ETag: \"v1\"\r\nCache-Control: max-age=600\r\n";
        if count.fetch_add(1, Ordering::Relaxed) > 0 {
            return reply(stream, 200, fields, &body);
        }
        let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {TOTAL}\r\n\r\n");
        let _gone = stream.write_all(head.as_bytes());
        let _gone = stream.write_all(&body[..1_300_000]);
        held.wait();
    });
    let options = FleetOptions { origin: Some(origin.address), ..FleetOptions::default() };
    let mut fleet = Fleet::start("parent-kill", &options);
    let mut all = clients(&fleet, 10, "/resume.m4s", 1_000_000);
    let (first, second) = match fleet.counter("parent-1", "requests_total") {
        0 => ("parent-2", "parent-1"),
        _ => ("parent-1", "parent-2"),
    };
    assert_eq!(fleet.counter(second, "requests_total"), 0);
    fleet.kill(first);
    for (client, body) in &mut all {
        rest(client, body, TOTAL);
        assert_eq!(body.len(), TOTAL);
        assert!(*body == bytes);
    }
    gate.open();
    assert_eq!(origin.count(), 2);
    assert_eq!(fleet.counter(second, "requests_total"), 2, "one resumed fill for each edge");
    for edge in EDGES {
        assert!(fleet.counter(edge, "fill_errors_total") >= 1);
        assert_eq!(fleet.counter(edge, "fills_total"), 1);
        assert_eq!(fleet.counter(edge, "bytes_filled_total"), TOTAL as u64, "no byte came twice");
        let again = fleet.get(edge, "/resume.m4s", "").unwrap();
        assert!(again.body == bytes);
        assert!(again.cache_status(edge).unwrap().starts_with(&format!("{edge}; hit")));
    }
}

#[test]
fn without_parents_edges_serve_what_they_may_and_never_ask_the_origin() {
    // Goal: strict parenting, and stale content only where it is allowed. Method: objects of three kinds of
    // freshness are warmed, both parents are killed; every request that the origin saw must have come by a parent.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let control = match asked.target() {
            "/fresh" => "max-age=600",
            "/stale" => "max-age=0, stale-if-error=600",
            _ => "max-age=0, must-revalidate",
        };
        let fields = format!("ETag: \"v1\"\r\nCache-Control: {control}\r\n");
        reply(stream, 200, &fields, asked.target().as_bytes());
    });
    let options = FleetOptions { origin: Some(origin.address), ..FleetOptions::default() };
    let mut fleet = Fleet::start("no-parents", &options);
    for edge in EDGES {
        for path in ["/fresh", "/stale", "/strict"] {
            assert_eq!(fleet.get(edge, path, "").unwrap().body, path.as_bytes());
        }
    }
    fleet.kill("parent-1");
    fleet.kill("parent-2");
    let seen = origin.count();
    for edge in EDGES {
        for _again in 0..3 {
            let fresh = fleet.get(edge, "/fresh", "").unwrap();
            assert_eq!((fresh.status, &fresh.body[..]), (200, &b"/fresh"[..]));
            let stale = fleet.get(edge, "/stale", "").unwrap();
            assert_eq!((stale.status, &stale.body[..]), (200, &b"/stale"[..]));
            let status = stale.cache_status(edge).unwrap();
            assert!(status.contains("; fwd=stale") && !status.contains("hit"), "{status}");
            assert!(status.contains("ttl=-") || status.contains("ttl=0"), "{status}");
            for path in ["/strict", "/cold", "/pass/cold"] {
                let refused = fleet.get(edge, path, "").unwrap();
                // A dead process's listener may take one more connection, which breaks off (502).
                assert!(matches!(refused.status, 502 | 503), "{path}: {}", refused.status);
                assert!(refused.field("retry-after").is_some(), "{path}");
                assert!(refused.field("cache-status").is_some(), "{path}");
            }
        }
        assert_eq!(fleet.counter(edge, "stale_total"), 3);
        // An answer is counted when its last byte has left, which its client may see first.
        fleet.until("9 answers are counted", |f| f.counter(edge, "responses_5xx_total") == 9);
    }
    assert_eq!(origin.count(), seen, "an edge has no way to the origin");
    for asked in origin.all() {
        let last = asked.field("via").rsplit(", ").next().unwrap_or_default().to_owned();
        assert!(last.starts_with("1.1 parent-"), "asked by {last:?}");
    }
    fleet.restart("parent-1");
    fleet.restart("parent-2");
    fleet.until("the parents are found again", |fleet| {
        fleet.get("edge-1", "/cold", "").is_ok_and(|response| response.status == 200)
    });
}

/// How the rest of a broken body is answered.
#[derive(Clone, Copy, Debug)]
enum Resume {
    /// The origin has another version now.
    OtherVersion,
    /// A 206 of another place.
    OtherPlace,
    /// A 206 of the right place and tag, of an object of another length.
    OtherLength,
    /// A 206 whose tag is only weakly the same.
    WeakTag,
    /// Breaks off at once, each time.
    Broken,
}

#[test]
fn a_body_that_cannot_be_completed_ends_short_and_is_never_offered_again() {
    // Goal: never a wrong whole, and the next request heals. Method: the origin breaks the first body off in the
    // middle, with and without a strong validator, and answers what asks for the rest in wrong ways.
    const TOTAL: usize = 1_500_000;
    let cases: [(&str, &str, Option<Resume>); 8] = [
        ("/no-validator", "", None),
        ("/weak", "ETag: W/\"v1\"\r\n", None),
        ("/dated", "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\n", None),
        ("/changed", "ETag: \"v1\"\r\n", Some(Resume::OtherVersion)),
        ("/place", "ETag: \"v1\"\r\n", Some(Resume::OtherPlace)),
        ("/length", "ETag: \"v1\"\r\n", Some(Resume::OtherLength)),
        ("/weakened", "ETag: \"v1\"\r\n", Some(Resume::WeakTag)),
        ("/broken", "ETag: \"v1\"\r\n", Some(Resume::Broken)),
    ];
    let lying = Arc::new(AtomicBool::new(true));
    let flag = lying.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let path = asked.target();
        let (_, fields, resume) = cases.iter().find(|case| case.0 == path).unwrap();
        let old = content(path, TOTAL);
        if !flag.load(Ordering::Relaxed) {
            let fields = "ETag: \"v2\"\r\nCache-Control: max-age=600\r\n";
            return reply(stream, 200, fields, &content("new", TOTAL));
        }
        let _gone = match (range_of(asked, TOTAL), resume) {
            (None, _) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{fields}Cache-Control: max-age=600\r\nContent-Length: {TOTAL}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&old[..900_000]))
            }
            (Some((first, _)), Some(resume)) => {
                let (tag, from, total) = match resume {
                    Resume::OtherVersion => {
                        return reply(stream, 200, "ETag: \"v2\"\r\n", &content("new", TOTAL));
                    }
                    Resume::OtherPlace => ("\"v1\"", first - 1, TOTAL),
                    Resume::OtherLength => ("\"v1\"", first, TOTAL - 1),
                    Resume::WeakTag => ("W/\"v1\"", first, TOTAL),
                    Resume::Broken => {
                        let _gone = stream.shutdown(Shutdown::Both);
                        return;
                    }
                };
                let head = format!(
                    "HTTP/1.1 206 X\r\nETag: {tag}\r\nContent-Range: bytes {from}-{}/{total}\r\nContent-Length: {}\r\n\r\n",
                    total - 1,
                    total - from
                );
                let bytes = content("poison", total - from);
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes))
            }
            (Some(_), None) => panic!("{path}: asked for a rest that has no name"),
        };
        let _gone = stream.shutdown(Shutdown::Both);
    });
    let options = FleetOptions { origin: Some(origin.address), ..FleetOptions::default() };
    let mut fleet = Fleet::start("broken-bodies", &options);
    let fresh = content("new", TOTAL);
    for (path, _, resume) in cases {
        let old = content(path, TOTAL);
        lying.store(true, Ordering::Relaxed);
        for edge in EDGES {
            let mut client = Connection::open(fleet.member(edge).http()).unwrap();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            // Either the edge is told in time, or its client's body ends short.
            match client.head() {
                Ok(head) if head.status == 200 => {
                    let announced = head.field("content-length").unwrap().parse::<usize>().unwrap();
                    assert_eq!(announced, TOTAL);
                    let mut body = Vec::new();
                    rest(&mut client, &mut body, TOTAL);
                    assert!(body.len() < TOTAL, "{path} {resume:?}: {} bytes", body.len());
                    assert!(old.starts_with(&body), "{path} {resume:?}: wrong bytes");
                }
                Ok(head) => assert!(head.status >= 500, "{path} {resume:?}: {}", head.status),
                Err(_) => {}
            }
        }
        lying.store(false, Ordering::Relaxed);
        for edge in EDGES {
            // One request may be needed to find out that the old version is gone; then all is well.
            fleet.until("the next requests get the origin's file", |fleet| {
                fleet.get(edge, path, "").is_ok_and(|response| {
                    assert!(response.status != 200 || response.body == fresh, "{path} {resume:?}");
                    response.status == 200
                })
            });
        }
    }
    // Heads of the broken versions lie in the stores; their blocks do not, or are of the broken version.
    for edge in EDGES {
        fleet.settle(edge);
        fleet.restart(edge);
        for (path, ..) in cases {
            let response = fleet.get(edge, path, "").unwrap();
            assert!(response.status == 200 && response.body == fresh, "{path} after the restart");
        }
    }
}
