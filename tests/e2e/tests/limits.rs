//! What one request, object or next hop may cost: bounds that hold while they are tried, told by CPU time, memory and
//! counters of the processes. Method: one core where a core could be lost; other clients are asked meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tidegate_contract::Snapshot;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, Gate, HandOrigin, content, reply};
use tidegate_types::limits::OBJECT_BYTES_MAX;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TIERS: [&str; 2] = ["edge-1", "parent-1"];

fn one_core() -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, cores: 1, ..FleetOptions::default() }
}

fn ask(fleet: &Fleet, line: &str, fields: &str) -> Connection {
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client.send(format!("{line} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n").as_bytes()).unwrap();
    client
}

#[test]
fn a_request_costs_no_walk_over_the_length_of_its_object() {
    // Goal: requests of an object cost the same CPU time whatever length a next hop announces; what is too large is
    // not stored. Method: lengths about the bound and an absurd one, many requests of each while the body is held and
    // after it broke off; the bound of CPU time is far below what a walk over the blocks takes.
    const REQUESTS: usize = 60;
    let cases = [
        ("/small", 1 << 20, true),
        ("/largest", OBJECT_BYTES_MAX, true),
        ("/larger", OBJECT_BYTES_MAX + 1, false),
        ("/absurd", 999_999_999_999_999_999, false),
    ];
    let gate = Gate::default();
    let held = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let Some((_, length, _)) = cases.iter().find(|case| case.0 == asked.target()) else {
            return reply(stream, 200, "Cache-Control: max-age=600\r\n", b"body");
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"h\"\r\nCache-Control: max-age=3600\r\nContent-Length: {length}\r\n\r\n"
        );
        let _gone = stream.write_all(head.as_bytes());
        if asked.line.starts_with("HEAD ") {
            return;
        }
        let _gone = stream.write_all(b"start");
        held.wait();
        let _gone = stream.shutdown(Shutdown::Both);
    });
    let fleet = Fleet::start("walk", &FleetOptions { origin: Some(origin.address), ..one_core() });
    let before = TIERS.map(|id| fleet.cpu_time(id));
    let check_work = |when: &str| {
        for (id, before) in TIERS.into_iter().zip(before) {
            let used = fleet.cpu_time(id) - before;
            assert!(used < Duration::from_secs(3), "{when}: {id} has worked for {used:?}");
        }
    };
    let mut waiting = Vec::new();
    for (path, length, stored) in cases {
        let whole = length.to_string();
        for _again in 0..2 {
            let mut client = ask(&fleet, &format!("GET {path}"), "");
            let head = client.head().unwrap();
            assert_eq!((head.status, head.field("content-length")), (200, Some(&*whole)), "{path}");
            assert!(client.some().unwrap().starts_with(b"s"), "{path}");
            waiting.push(client);
        }
        let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
        for _again in 0..REQUESTS {
            client
                .send(format!("HEAD {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
                .unwrap();
            let head = client.response(true).unwrap();
            assert_eq!((head.status, head.field("content-length")), (200, Some(&*whole)), "{path}");
        }
        assert_eq!(fleet.get("edge-1", "/other", "").unwrap().body, b"body");
        check_work(path);
        let gets =
            |asked: &&tidegate_e2e::Asked| asked.target() == path && asked.line.starts_with("GET ");
        let count = origin.all().iter().filter(gets).count();
        assert_eq!(count, if stored { 1 } else { 2 }, "{path}: the second client's own");
        if !stored {
            let only = fleet.get("edge-1", path, "Cache-Control: only-if-cached\r\n").unwrap();
            assert_eq!(only.status, 504, "{path} is stored");
        }
    }
    gate.open();
    for client in &mut waiting {
        assert!(client.read_to_close().len() < 5, "nothing more came");
    }
    drop(waiting);
    for (path, ..) in cases {
        for _again in 0..5 {
            // What it gets depends on who has noticed the break by now; that it is answered at once does not.
            let mut client = ask(&fleet, &format!("GET {path}"), "");
            if let Ok(head) = client.head() {
                assert!(matches!(head.status, 200 | 502), "{path}: {}", head.status);
                assert!(client.read_to_close().len() < 1000, "{path}");
            }
            assert_eq!(fleet.get("edge-1", "/other", "").unwrap().body, b"body");
        }
    }
    check_work("what broke off");
}

#[test]
fn a_head_lets_an_endless_answer_go() {
    // Goal: a HEAD of what cannot be stored is answered, and costs no fetch that nobody reads. Method: an origin that
    // sends for as long as somebody takes it; it must see that each connection is given up.
    const HEADS: usize = 4;
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if asked.target() == "/other" {
            return reply(stream, 200, "Cache-Control: max-age=600\r\n", b"body");
        }
        let head =
            "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = [&b"8000\r\n"[..], &[b'x'; 0x8000], b"\r\n"].concat();
        if stream.write_all(head.as_bytes()).is_err() || asked.line.starts_with("HEAD ") {
            return;
        }
        while stream.write_all(&chunk).is_ok() {}
        count.fetch_add(1, Ordering::SeqCst);
    });
    let fleet = Fleet::start("heads", &FleetOptions { origin: Some(origin.address), ..one_core() });
    for n in 0..HEADS {
        let mut client = ask(&fleet, &format!("HEAD /{n}"), "");
        assert_eq!(client.response(true).unwrap().status, 200);
        assert_eq!(client.get(HOST, "/other", "").unwrap().body, b"body", "the next request");
    }
    fleet.until("all answers are let go", |_| gone.load(Ordering::SeqCst) == HEADS);
    for id in TIERS {
        fleet.until("nobody is left", |f| f.counter(id, "connections_open") <= 2);
    }
}

/// Puts the same file under many names at once: a new version for whoever knows the old ones.
fn replace(fleet: &Fleet, names: &[String], bytes: &[u8]) {
    for name in names {
        fs::write(fleet.origin_dir().join("new"), bytes).unwrap();
        fs::rename(fleet.origin_dir().join("new"), fleet.origin_dir().join(name)).unwrap();
    }
}

#[test]
fn a_range_of_a_hit_whose_bytes_are_gone_is_of_the_new_version() {
    // Goal: no empty reply and no mixture for any kind of range. Method: a RAM tier of two blocks and no store; one
    // file for each kind is warmed, pushed out and replaced; the next request must be answered by the new version.
    const TOTAL: usize = 1_300_000;
    let fleet = Fleet::start(
        "gone-ranges",
        &FleetOptions { ram_bytes: 1 << 20, store_bytes: None, ..one_core() },
    );
    let names: Vec<String> = (0..5).map(|n| format!("g{n}.mp4")).collect();
    replace(&fleet, &names, &content("old", TOTAL));
    let tags: Vec<String> = (names.iter())
        .map(|name| {
            let response = fleet.get("edge-1", &format!("/{name}"), "").unwrap();
            response.field("etag").unwrap().to_owned()
        })
        .collect();
    for n in 0..4 {
        fleet.put(&format!("b{n}.mp4"), 1_200_000);
        assert_eq!(fleet.get("edge-1", &format!("/b{n}.mp4"), "").unwrap().status, 200);
    }
    for id in TIERS {
        fleet.settle(id);
    }
    let new = content("new", TOTAL);
    replace(&fleet, &names, &new);
    let if_range = format!("Range: bytes=600000-600099\r\nIf-Range: {}\r\n", tags[3]);
    for (name, fields, expected) in [
        (&names[0], "Range: bytes=600000-600099\r\n", Some(&new[600_000..600_100])),
        (&names[1], "Range: bytes=-100\r\n", Some(&new[TOTAL - 100..])),
        (&names[2], "Range: bytes=0-9,1200000-1200009\r\n", None),
        (&names[3], &*if_range, None),
        (&names[4], "", Some(&new[..])),
    ] {
        let response = fleet.get("edge-1", &format!("/{name}"), fields).unwrap();
        let whole = response.status == 200 && response.body == new;
        match expected {
            Some(expected) if expected.len() < TOTAL => {
                assert_eq!(response.status, 206, "{name}");
                assert!(response.body == expected, "{name}: {} bytes", response.body.len());
            }
            Some(_) => assert!(whole, "{name}"),
            None if name == &names[2] => {
                let holds = |part: &[u8]| response.body.windows(10).any(|bytes| bytes == part);
                let parts = holds(&new[..10]) && holds(&new[1_200_000..1_200_010]);
                assert!(whole || (response.status == 206 && parts), "{name}");
            }
            // The tag that the client knows is not current any more.
            None => assert!(whole, "{name}: {}", response.status),
        }
    }
}

#[test]
fn what_comes_first_is_written_in_its_time_however_much_follows() {
    // Goal: the oldest unwritten extent waits for its span (250 ms), not for a pause. Method: a new small object each
    // 100 ms, far less than a write unit in all; the counter of written bytes must rise twice while they still come.
    const OBJECTS: usize = 40;
    let fleet =
        Fleet::start("steady", &FleetOptions { edges: 1, parents: 1, ..Default::default() });
    let written = || fleet.counter("edge-1", "store_written_bytes_total");
    let (mut last, mut rises, mut least) = (written(), 0, usize::MAX);
    for n in 0..OBJECTS {
        fleet.put(&format!("s{n}.m4s"), 300);
        assert_eq!(fleet.get("edge-1", &format!("/s{n}.m4s"), "").unwrap().status, 200);
        // The pace of the stream is what is tested: a pause of 250 ms would be one for the older keeper too.
        thread::sleep(Duration::from_millis(100));
        let now = written();
        rises += usize::from(now > last);
        last = now;
        let unwritten = fleet.status("edge-1")["stores"][0]["unwritten_extents"].as_u64().unwrap();
        least = least.min(unwritten as usize);
        if rises == 2 {
            break;
        }
    }
    assert_eq!(rises, 2, "{last} bytes written, never less than {least} extents waited");
}

#[test]
fn connections_that_end_in_junk_cost_a_core_nothing() {
    // Goal: what follows a TLS goodbye is dropped, in whatever size and at whatever moment it comes. Method: junk
    // behind close_notify in one send, before any request, behind one, and real records; CPU time tells of a spin.
    let fleet = Fleet::start("junk", &FleetOptions { https: true, ..one_core() });
    let bytes = fleet.put("j.m4s", 50_000);
    let address = fleet.member("edge-1").https();
    let request = format!("GET /j.m4s HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let before = fleet.cpu_time("edge-1");
    let mut left = Vec::new();
    for size in [1, 4096, 5000, 17_000, 70_000] {
        for asks in [false, true] {
            let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
            let mut tls = rustls::ClientConnection::new(fleet.tls.clone().unwrap(), name).unwrap();
            let mut tcp = std::net::TcpStream::connect(address).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut tcp).unwrap();
            }
            let mut last = Vec::new();
            if asks {
                tls.writer().write_all(request.as_bytes()).unwrap();
            }
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut last).unwrap();
            }
            let end = last.len() + size;
            last.extend_from_slice(&[0x17, 3, 3, 0x40, 0][..size.min(5)]);
            last.resize(end, b'x');
            // The peer may close at the goodbye, before it has taken all of this.
            let _gone = tcp.write_all(&last);
            left.push(tcp);
            assert!(fleet.get("edge-1", "/j.m4s", "").unwrap().body == bytes);
        }
    }
    for tcp in &mut left {
        let _reset_or_end = tcp.read_to_end(&mut Vec::new());
    }
    fleet.until("all are let go", |f| f.counter("edge-1", "connections_open") <= 1);
    let used = fleet.cpu_time("edge-1") - before;
    assert!(used < Duration::from_secs(3), "the edge worked for {used:?}");
}

#[test]
fn one_address_has_so_many_connections_and_others_have_theirs() {
    // Goal: the limit holds over all listeners and cores, what is freed can be had again, and neither other addresses
    // nor operators are touched.
    let four = |snapshot: &mut Snapshot| {
        let edge = snapshot.servers.iter_mut().find(|s| s.id == "edge-1").unwrap();
        edge.machine.client_limits.connections = 4;
    };
    let options =
        FleetOptions { edges: 1, parents: 1, https: true, adjust: four, ..FleetOptions::default() };
    let fleet = Fleet::start("callers", &options);
    let bytes = fleet.put("c.m4s", 1000);
    let edge = fleet.member("edge-1");
    // What asked whether the fleet is up may still be there.
    fleet.until("nobody else is there", |f| f.counter("edge-1", "connections_open") <= 1);
    let mut open = Vec::new();
    for n in 0..4 {
        let mut client = match n % 2 {
            0 => Connection::open(edge.http()).unwrap(),
            _ => Connection::open_tls(edge.https(), fleet.tls.clone().unwrap()).unwrap(),
        };
        assert!(client.get(HOST, "/c.m4s", "").unwrap().body == bytes, "{n}");
        open.push(client);
    }
    let mut fifth = Connection::open(edge.http()).unwrap();
    assert!(fifth.get(HOST, "/c.m4s", "").is_err());
    let over_tls = Connection::open_tls(edge.https(), fleet.tls.clone().unwrap());
    assert!(over_tls.is_err());
    assert_eq!(fleet.counter("edge-1", "clients_turned_away_total"), 2);
    let mut other = Connection::open_from([127, 0, 0, 77].into(), edge.http()).unwrap();
    assert!(other.get(HOST, "/c.m4s", "").unwrap().body == bytes, "another address");
    for client in &mut open {
        assert!(client.get(HOST, "/c.m4s", "").unwrap().body == bytes, "they go on");
    }
    open.pop();
    fleet.until("there is room again", |_| {
        let mut next = Connection::open(edge.http()).unwrap();
        next.get(HOST, "/c.m4s", "").is_ok_and(|answer| answer.body == bytes)
    });
}
