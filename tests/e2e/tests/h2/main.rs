//! HTTP/2 (RFC 9113): what viewers get by it, and what hostile clients do not.
//! Method: the `h2` crate as a client that means well, and frames written by hand for those that do not; real edges.

mod floods;
mod frames;
mod leaving;
mod slow;
mod translation;

use bytes::Bytes;
use frames::*;
use http::Method;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tidegate_e2e::h2::Client;
use tidegate_e2e::{Fleet, FleetOptions, Gate, HandOrigin, alike, block_on, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options() -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, https: true, ..FleetOptions::default() }
}

fn with_origin(origin: &HandOrigin) -> FleetOptions {
    FleetOptions { origin: Some(origin.address), ..options() }
}

#[test]
fn many_streams_of_one_connection_get_their_bytes() {
    let fleet = Fleet::start("h2", &options());
    let sizes = [0, 1, 100, 16_375, 16_384, 100_000, 3_000_000];
    let bodies: Vec<_> =
        sizes.iter().map(|size| fleet.put(&format!("{size}.m4s"), *size)).collect();
    block_on(async {
        let client = Client::connect(&fleet, "edge-1").await;
        for round in 0..2 {
            let asked = (0..70).map(|n| {
                let path = format!("/{}.m4s", sizes[n % sizes.len()]);
                client.get(&path, &[])
            });
            let asked: Vec<_> = asked.map(tokio::task::spawn_local).collect();
            for (n, answer) in asked.into_iter().enumerate() {
                let answer = answer.await.unwrap().unwrap();
                assert_eq!(answer.status, 200, "{round} {n}");
                assert!(answer.body == bodies[n % sizes.len()], "{round} {n}");
                assert_eq!(
                    answer.field("content-length"),
                    Some(&*sizes[n % sizes.len()].to_string())
                );
            }
        }
    });
    fleet.until("the log is written", |fleet| {
        let log = std::fs::read_to_string(fleet.dir.join("edge-1.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("\"HTTP/2\"")).count() == 140
    });
}

#[test]
fn a_request_behaves_alike_whatever_carried_it() {
    let fleet = Fleet::start("alike", &options());
    let cases = alike::cases(&fleet);
    block_on(async {
        let client = Client::connect(&fleet, "edge-1").await;
        for case in &cases {
            let fields: Vec<_> = case.fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let method = Method::from_bytes(case.method.as_bytes()).unwrap();
            let other = client.ask(method, case.path, &fields, Bytes::new()).await.unwrap();
            case.check(&other);
        }
    });
}

#[test]
fn bodies_of_requests_are_passed_on_up_to_their_limit() {
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        reply(stream, 200, "", &[asked.line.as_bytes(), b"|", &asked.body].concat());
    });
    let fleet = Fleet::start("bodies", &with_origin(&origin));
    block_on(async {
        let client = Client::connect(&fleet, "edge-1").await;
        let body = Bytes::from(vec![b'b'; 300_000]);
        let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
        let answer = client.ask(Method::POST, "/pass/x", &cookies, body.clone()).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.ends_with(&body) && answer.body.starts_with(b"POST /pass/x HTTP/1.1|"));
        // Crumbs are one field again (RFC 9113 §8.2.3).
        assert_eq!(origin.all()[0].field("cookie"), "a=1; b=2");
        let large = Bytes::from(vec![b'b'; 1_100_000]);
        let answer = client.ask(Method::POST, "/pass/x", &[], large).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 413));
        assert_eq!(client.get("/pass/y", &[]).await.unwrap().status, 200, "the connection goes on");
    });
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_body_that_breaks_off_is_a_reset_and_never_short() {
    // An answer without a strong tag cannot be resumed.
    let origin = HandOrigin::start(LOCAL, |_, stream| {
        use std::io::Write;
        let head =
            "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\nCache-Control: max-age=60\r\n\r\n";
        let _gone = stream.write_all(head.as_bytes());
        let _gone = stream.write_all(&[7; 900_000]);
        let _gone = stream.shutdown(std::net::Shutdown::Both);
    });
    let fleet = Fleet::start("broken", &with_origin(&origin));
    block_on(async {
        let client = Client::connect(&fleet, "edge-1").await;
        for path in ["/a.m4s", "/pass/a"] {
            let error = client.get(path, &[]).await.unwrap_err();
            assert!(error.contains("stream error") || error.contains("reset"), "{path}: {error}");
        }
        // The connection is as good as before.
        assert!(client.get("/b.m4s", &[]).await.is_err());
    });
}

#[test]
fn a_stream_that_is_not_read_holds_up_no_other() {
    let fleet = Fleet::start("unread", &options());
    fleet.put("large.m4s", 5_000_000);
    let body = fleet.put("small.m4s", 200_000);
    block_on(async {
        // Its windows are small: 64 KiB for each stream, much for the connection.
        let client = Client::connect(&fleet, "edge-1").await;
        let mut unread = Vec::new();
        for _ in 0..5 {
            unread.push(client.begin("/large.m4s", &[("priority", "u=0")]).await.unwrap());
        }
        for _ in 0..20 {
            let answer = client.get("/small.m4s", &[]).await.unwrap();
            assert!(answer.body == body);
        }
        drop(unread);
    });
}

#[test]
fn what_is_more_urgent_comes_first() {
    // Goal: what is asked for later and more urgent overtakes, however the client says so (RFC 9218), or its player (CMCD).
    // Method: a client with windows for everything, which reads nothing before it has asked for both; what it then reads
    // comes in the order in which it was written.
    let fleet = Fleet::start("urgent", &FleetOptions { ram_bytes: 128 << 20, ..options() });
    let large = fleet.put("large.m4s", 28_000_000).len();
    let small = fleet.put("small.m4s", 12_000_000).len();
    for path in ["/large.m4s", "/small.m4s"] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().status, 200); // in memory now
    }
    let none: &[&[u8]] = &[];
    let said: [&[u8]; 2] = [b"priority", b"u=1"];
    let mut later = 3u32.to_be_bytes().to_vec();
    later.extend(b"u=1");
    overtakes(&fleet, (large, small), &[b"priority", b"u=6"], &said, None);
    overtakes(&fleet, (large, small), none, none, Some(&frame(PRIORITY_UPDATE, 0, 0, &later)));
    overtakes(&fleet, (large, small), none, &[b"cmcd-status", b"bs"], None);
}

/// Asks for both, with a field for each, and says something when both are under way.
fn overtakes(
    fleet: &Fleet,
    (large, small): (usize, usize),
    first: &[&[u8]],
    second: &[&[u8]],
    then: Option<&[u8]>,
) {
    let mut raw = Raw::connect(fleet);
    let window = (1u32 << 30).to_be_bytes();
    let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &window].concat());
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat();
    raw.send(&[begin, frame(WINDOW_UPDATE, 0, 0, &window)].concat()).unwrap();
    let ask = |path: &str, more: &[&[u8]]| match more {
        [name, value] => [get(path), field(name, value)].concat(),
        _ => get(path),
    };
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &ask("/large.m4s", first))).unwrap();
    // It has begun, and now the socket fills up.
    let mut late = raw.until(DATA).unwrap().payload.len();
    fleet.until("nothing moves any more", |fleet| {
        let sent = || fleet.counter("edge-1", "bytes_sent_total");
        let before = sent();
        (0..50).all(|_| sent() == before)
    });
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &ask("/small.m4s", second))).unwrap();
    if let Some(frame) = then {
        raw.send(frame).unwrap();
    }
    let (mut urgent, mut overtaken) = (0, None);
    while late < large || urgent < small {
        let frame = raw.next().unwrap();
        match (frame.kind, frame.stream) {
            (DATA, 1) => late += frame.payload.len(),
            (DATA, 3) => urgent += frame.payload.len(),
            _ => {}
        }
        if urgent == small && overtaken.is_none() {
            overtaken = Some(late);
        }
    }
    let overtaken = overtaken.unwrap();
    println!("{overtaken} bytes of the less urgent one came before the last of the other");
    // What was under way, in sockets mostly. By turns, as much of the one as of the other would have come after that.
    assert!(overtaken < small, "{overtaken}");
}

#[test]
fn an_idle_connection_costs_what_it_is_counted_with() {
    const CLIENTS: u64 = 400;
    for size in [100, 400_000] {
        let fleet = Fleet::start("idle", &options());
        let path = format!("/i{size}.m4s");
        fleet.put(&path[1..], size);
        let open = || {
            let mut raw = Raw::open(&fleet);
            let window = (1u32 << 20).to_be_bytes();
            let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &window].concat());
            raw.send(&[settings, frame(WINDOW_UPDATE, 0, 0, &window)].concat()).unwrap();
            raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get(&path))).unwrap();
            let mut left = size;
            while left > 0 {
                left -= raw.until(DATA).unwrap().payload.len();
            }
            raw
        };
        let counted = || fleet.counter("edge-1", "memory_flexible_used_bytes");
        let _warm: Vec<_> = (0..50).map(|_| open()).collect();
        let before = (floods::resident(&fleet), counted());
        let _more: Vec<_> = (0..CLIENTS).map(|_| open()).collect();
        let resident = floods::resident(&fleet).saturating_sub(before.0) / CLIENTS;
        let counted = (counted() - before.1) / CLIENTS;
        println!("idle after {size} bytes: {resident} bytes resident, {counted} counted");
        assert!(resident <= counted, "{size}: {resident} bytes each, {counted} counted");
    }
}

#[test]
fn streams_that_wait_cost_what_they_are_counted_with() {
    // Goal: what a connection may have under way is counted, not only the connection. Method: as many streams as connections may
    // have, all of them answered from the cache as far as a window of nothing takes it.
    const CLIENTS: u64 = 20;
    const STREAMS: u32 = 100;
    let fleet = Fleet::start("waiting", &options());
    fleet.put("large.mp4", 4 << 20);
    fleet.get("edge-1", "/large.mp4", "").unwrap();
    let open = |_| {
        let mut raw = Raw::connect(&fleet);
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
        for n in 0..STREAMS {
            let head = get("/large.mp4");
            raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &head)).unwrap();
        }
        for _ in 0..STREAMS {
            raw.until(HEADERS).expect("it is answered");
        }
        raw
    };
    let counted = || fleet.counter("edge-1", "memory_flexible_used_bytes");
    let _warm = open(0);
    let before = (floods::resident(&fleet), counted());
    let _more: Vec<_> = (0..CLIENTS).map(open).collect();
    let streams = CLIENTS * u64::from(STREAMS);
    let resident = floods::resident(&fleet).saturating_sub(before.0) / streams;
    let counted = (counted() - before.1) / streams;
    println!("a stream that waits: {resident} bytes resident, {counted} counted");
    assert!(resident <= counted, "{resident} bytes each, {counted} counted");
}

#[test]
fn clients_that_do_not_read_cost_what_they_are_counted_with() {
    // Goal: what is held for slow clients is counted, at each moment. Method: connections with wide windows that ask for much and
    // read no more than its head, until nothing changes any more.
    const CLIENTS: u64 = 100;
    let fleet = Fleet::start("unread-many", &options());
    fleet.put("large.mp4", 16 << 20);
    fleet.get("edge-1", "/large.mp4", "").unwrap();
    let open = |_| {
        let mut raw = Raw::connect(&fleet);
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0])).unwrap();
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &0x7f00_0000u32.to_be_bytes())).unwrap();
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/large.mp4"))).unwrap();
        raw.until(HEADERS).expect("it is answered");
        raw
    };
    let now = || (floods::resident(&fleet), fleet.counter("edge-1", "memory_flexible_used_bytes"));
    let _warm: Vec<_> = (0..10).map(open).collect();
    let before = now();
    let _more: Vec<_> = (0..CLIENTS).map(open).collect();
    let mut last = now();
    fleet.until("nothing changes any more", |_| {
        let before = std::mem::replace(&mut last, now());
        before == last
    });
    let (resident, counted) = (last.0.saturating_sub(before.0), last.1.saturating_sub(before.1));
    println!(
        "who does not read: {} bytes resident, {} counted",
        resident / CLIENTS,
        counted / CLIENTS
    );
    assert!(resident <= counted, "{resident} bytes, {counted} counted");
}

#[test]
fn what_was_asked_before_the_goodbye_was_heard_is_answered() {
    // Goal: a stop loses no request. Method: a client that has read the first GOAWAY, which leaves all streams open, asks for
    // one more before it answers the PING behind it: as if both had crossed on their way.
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if asked.target() == "/held.m4s" {
            held.wait();
        }
        reply(stream, 200, "Cache-Control: max-age=60\r\n", b"content");
    });
    let options = FleetOptions { drain_seconds: 60, ..with_origin(&origin) };
    let mut fleet = Fleet::start("crossing", &options);
    let mut raw = Raw::open(&fleet);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/held.m4s"))).unwrap();
    fleet.until("it is under way", |_| origin.count() == 1);
    fleet.signal("edge-1", "TERM");
    let goaway = raw.until(GOAWAY).unwrap();
    assert_eq!(goaway.payload[..4], [0x7f, 0xff, 0xff, 0xff], "none is refused yet");
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &get("/late.m4s"))).unwrap();
    let ping = raw.until(PING).unwrap();
    raw.send(&frame(PING, 1, 0, &ping.payload)).unwrap();
    let answer = raw.until(DATA).unwrap();
    assert_eq!((answer.stream, &answer.payload[..]), (3, &b"content"[..]));
    gate.open();
    let answer = raw.until(DATA).unwrap();
    assert_eq!(answer.stream, 1, "and no frame for the end alone");
    assert!(raw.end().is_none_or(|code| code == 0));
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
}

#[test]
fn a_stopping_edge_says_so_and_finishes_what_it_has_begun() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        held.wait();
        reply(stream, 200, "Cache-Control: max-age=60\r\n", &[9; 200_000]);
    });
    let options = FleetOptions { drain_seconds: 60, ..with_origin(&origin) };
    let mut fleet = Fleet::start("goaway", &options);
    block_on(async {
        let client = Client::connect(&fleet, "edge-1").await;
        let under_way = tokio::task::spawn_local(client.get("/a.m4s", &[]));
        while origin.count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fleet.signal("edge-1", "TERM");
        let reason = client.told_to_go().await;
        assert_eq!(reason, None, "no error");
        gate.open();
        let answer = under_way.await.unwrap().unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 200_000));
        assert!(client.get("/b.m4s", &[]).await.is_err(), "no new ones");
    });
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
}
