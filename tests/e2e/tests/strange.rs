//! Strange clients and next hops, one at a time: none of them costs anybody else more than a moment.
//! Method: one core where a core could be lost, so that an answer to somebody else proves that it was not.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{
    Connection, Fleet, FleetOptions, Gate, HandOrigin, content, get, range_of, reply,
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options(origin: &HandOrigin) -> FleetOptions {
    FleetOptions {
        edges: 1,
        parents: 1,
        cores: 1,
        origin: Some(origin.address),
        ..FleetOptions::default()
    }
}

#[test]
fn hosts_that_are_no_ascii_are_refused_on_every_face() {
    // Goal: no name cuts a character in two. Method: characters of two to four bytes where a parser looks at two bytes.
    let fleet = Fleet::start(
        "hosts",
        &FleetOptions { edges: 1, parents: 1, cores: 1, https: true, ..FleetOptions::default() },
    );
    let edge = fleet.member("edge-1");
    let faces = [
        edge.http(),
        edge.admin(),
        fleet.member("parent-1").http(),
        fleet.member("origin-1").http(),
    ];
    for host in ["a\u{e9}", "\u{e9}", "\u{20ac}", "0\u{20ac}", "x.\u{1f600}", "film.example\u{e9}"]
    {
        for request in [
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        ] {
            for face in faces {
                let mut client = Connection::open(face).unwrap();
                client.send(request.as_bytes()).unwrap();
                assert_eq!(client.response(false).unwrap().status, 400, "{host} at {face}");
            }
            let mut sealed =
                Connection::open_tls(edge.https(), fleet.tls.clone().unwrap()).unwrap();
            sealed.send(request.as_bytes()).unwrap();
            assert_eq!(sealed.response(false).unwrap().status, 400, "{host} over TLS");
        }
    }
    for id in ["edge-1", "parent-1", "origin-1"] {
        assert_eq!(fleet.status(id)["pid"], fleet.member(id).pid());
        assert!(!fleet.said(id).contains("panicked"), "{}", fleet.said(id));
    }
}

#[test]
fn bytes_behind_a_tls_goodbye_stop_nobody() {
    // Goal: what follows close_notify is nothing. Method: goodbye and 30 kB of junk in one send; others are answered.
    let origin = HandOrigin::start(LOCAL, |_, stream| {
        reply(stream, 200, "Cache-Control: max-age=600\r\n", b"body");
    });
    let fleet = Fleet::start("goodbye", &FleetOptions { https: true, ..options(&origin) });
    let address = fleet.member("edge-1").https();
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let mut tls = rustls::ClientConnection::new(fleet.tls.clone().unwrap(), name).unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    tls.send_close_notify();
    let mut last = Vec::new();
    tls.write_tls(&mut last).unwrap();
    last.extend_from_slice(&[0x17, 3, 3, 0x40, 0]);
    last.resize(30_000, b'x');
    tcp.write_all(&last).unwrap();
    let mut rest = Vec::new();
    let _reset_or_end = tcp.read_to_end(&mut rest);
    for _ in 0..20 {
        assert_eq!(fleet.get("edge-1", "/a", "").unwrap().body, b"body");
    }
    fleet.until("it is let go", |f| f.counter("edge-1", "connections_open") <= 1);
}

#[test]
fn absurd_lengths_of_a_next_hop_cost_nobody_anything() {
    // Goal: no walk over what is only announced. Method: an endless body with a length of its own kind; clients of the
    // same path and of others are answered on the one core meanwhile.
    let gate = Gate::default();
    let held = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let length: u64 = match asked.target() {
            "/absurd" => 999_999_999_999_999_999,
            "/just-too-large" => (1 << 36) + 1,
            "/largest" => 1 << 36,
            _ => return reply(stream, 200, "Cache-Control: max-age=600\r\n", b"body"),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"h\"\r\nCache-Control: max-age=3600\r\nContent-Length: {length}\r\n\r\nstart"
        );
        let _gone = stream.write_all(head.as_bytes());
        held.wait();
        let _gone = stream.shutdown(Shutdown::Both);
    });
    let fleet = Fleet::start("absurd", &options(&origin));
    let mut waiting = Vec::new();
    for path in ["/absurd", "/just-too-large", "/largest"] {
        for more in ["", "", "Range: bytes=0-4\r\n"] {
            let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n");
            client.send(request.as_bytes()).unwrap();
            let head = client.head().unwrap();
            assert!(matches!(head.status, 200 | 206), "{path}: {}", head.status);
            assert!(client.some().unwrap().starts_with(b"s"), "{path}");
            waiting.push(client);
            assert_eq!(fleet.get("edge-1", "/other", "").unwrap().body, b"body");
        }
    }
    gate.open();
    drop(waiting);
    assert_eq!(fleet.get("edge-1", "/other", "").unwrap().body, b"body");
}

#[test]
fn what_is_not_safe_to_repeat_is_sent_once() {
    // Goal: RFC 9110 §9.2.2. Method: an origin that reads a request on a kept connection and closes without a word.
    let silent = Arc::new(AtomicBool::new(false));
    let flag = silent.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if asked.line.starts_with("POST ") || flag.swap(false, Ordering::SeqCst) {
            let _gone = stream.shutdown(Shutdown::Both);
            return;
        }
        reply(stream, 200, "Cache-Control: no-store\r\n", b"body");
    });
    let fleet = Fleet::start("once", &options(&origin));
    for n in 0..4 {
        // Leaves a kept connection on every tier.
        assert_eq!(fleet.get("edge-1", "/pass/warm", "").unwrap().status, 200);
        let path = format!("/pass/post{n}");
        let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nhi");
        client.send(request.as_bytes()).unwrap();
        assert_eq!(client.response(false).unwrap().status, 502);
        assert_eq!(origin.count_of(&path), 1, "a POST came twice");
    }
    assert_eq!(fleet.get("edge-1", "/pass/warm", "").unwrap().status, 200);
    silent.store(true, Ordering::SeqCst);
    assert_eq!(fleet.get("edge-1", "/pass/get", "").unwrap().status, 200);
    assert_eq!(origin.count_of("/pass/get"), 2, "a GET is asked again");
}

#[test]
fn head_waits_for_no_body() {
    // Goal: HEAD of an answer that cannot be stored. Method: a private body that never ends.
    let gate = Gate::default();
    let held = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: private\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let _gone = stream.write_all(head.as_bytes());
        held.wait();
        let _gone = stream.shutdown(Shutdown::Both);
    });
    let fleet = Fleet::start("head", &options(&origin));
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    for _ in 0..3 {
        client.send(format!("HEAD /p HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(client.response(true).unwrap().status, 200);
    }
    gate.open();
}

#[test]
fn a_hit_whose_bytes_are_gone_becomes_the_new_version() {
    // Goal: no empty reply. Method: a RAM tier of two blocks and no store; the file's blocks are pushed out, the
    // file is replaced; then without parents what cannot be had is an answer that says so.
    let mut fleet = Fleet::start(
        "gone",
        &FleetOptions {
            edges: 1,
            parents: 1,
            cores: 1,
            ram_bytes: 1 << 20,
            store_bytes: None,
            ..FleetOptions::default()
        },
    );
    fleet.put("a.mp4", 1_200_000);
    assert_eq!(fleet.get("edge-1", "/a.mp4", "").unwrap().status, 200);
    for n in 0..6 {
        fleet.put(&format!("b{n}.mp4"), 1_200_000);
        assert_eq!(fleet.get("edge-1", &format!("/b{n}.mp4"), "").unwrap().status, 200);
    }
    for id in ["edge-1", "parent-1"] {
        fleet.settle(id);
    }
    let new = content("new", 1_300_000);
    fs::write(fleet.origin_dir().join("new"), &new).unwrap();
    fs::rename(fleet.origin_dir().join("new"), fleet.origin_dir().join("a.mp4")).unwrap();
    let response = fleet.get("edge-1", "/a.mp4", "").unwrap();
    assert_eq!(response.status, 200);
    assert!(response.body == new, "{} bytes", response.body.len());
    for n in 0..6 {
        assert_eq!(fleet.get("edge-1", &format!("/b{n}.mp4"), "").unwrap().status, 200);
    }
    fleet.settle("edge-1");
    fleet.kill("parent-1");
    let lost = fleet.get("edge-1", "/a.mp4", "").unwrap();
    assert_eq!(lost.status, 502);
    assert!(lost.field("retry-after").is_some());
}

#[test]
fn the_leader_of_a_private_answer_gets_his_own() {
    // Goal: an answer that was asked for without the client's words is nobody's. Method: an origin that greets the
    // cookie it sees; cold paths, so that each client leads.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let who = asked.field("cookie").to_owned();
        let fields = match who.is_empty() {
            true => "Cache-Control: private\r\nSet-Cookie: id=nobody\r\n",
            false => "Cache-Control: private\r\n",
        };
        reply(stream, 200, fields, format!("hello {who}").as_bytes());
    });
    let fleet = Fleet::start("leader", &options(&origin));
    for n in 0..5 {
        let ann = fleet.get("edge-1", &format!("/{n}"), "Cookie: id=ann\r\n").unwrap();
        assert_eq!(ann.body, b"hello id=ann");
        assert_eq!(ann.field("set-cookie"), None, "a session of somebody else");
        let bob = fleet.get("edge-1", &format!("/{n}"), "Cookie: id=bob\r\n").unwrap();
        assert_eq!(bob.body, b"hello id=bob");
    }
}

#[test]
fn an_object_that_varies_on_what_fills_never_carry_is_one_object() {
    // Goal: Vary on what is not heeded still hits. Method: clients with different values; one request at the origin.
    let origin = HandOrigin::start(LOCAL, |_, stream| {
        let fields = "Cache-Control: max-age=600\r\nVary: Accept-Encoding, Origin, Via, CDN-Loop\r\nETag: \"v\"\r\n";
        reply(stream, 200, fields, b"body");
    });
    let fleet = Fleet::start("vary-own", &options(&origin));
    for own in [
        "",
        "Accept-Encoding: gzip\r\n",
        "Origin: https://player.example\r\n",
        "Accept-Encoding: br\r\nOrigin: null\r\n",
    ] {
        assert_eq!(fleet.get("edge-1", "/v", own).unwrap().body, b"body");
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(fleet.counter("edge-1", "hits_total"), 3);
}

#[test]
fn abandoned_fills_cost_little_memory() {
    // Goal: windows of all fills together are bounded. Method: 60 clients leave large cold objects after the head,
    // with little RAM tier and no store; the process stays small.
    const CLIENTS: usize = 60;
    let fleet = Fleet::start(
        "abandoned",
        &FleetOptions {
            edges: 1,
            parents: 1,
            ram_bytes: 16 << 20,
            store_bytes: None,
            ..FleetOptions::default()
        },
    );
    let file = fs::File::create(fleet.origin_dir().join("large.mp4")).unwrap();
    file.set_len(24 << 20).unwrap();
    let resident_kb = || {
        let status =
            fs::read_to_string(format!("/proc/{}/status", fleet.member("edge-1").pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = resident_kb();
    let mut most = before;
    let clients: Vec<Connection> = (0..CLIENTS)
        .map(|n| {
            let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
            // Another query is another object.
            let request = format!("GET /large.mp4?n={n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
            client.send(request.as_bytes()).unwrap();
            assert_eq!(client.head().unwrap().status, 200);
            most = most.max(resident_kb());
            client
        })
        .collect();
    fleet.until("all fills have ended", |f| {
        most = most.max(resident_kb());
        f.counter("edge-1", "fills_open") == 0
    });
    drop(clients);
    assert!(most < before + 300 * 1024, "{} MB more than before", (most - before) / 1024);
}

#[test]
fn what_came_just_before_a_stop_is_kept() {
    // Goal: an orderly stop writes out what the store was given. Method: no settling between last byte and signal.
    let mut fleet = Fleet::start(
        "stop-keeps",
        &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() },
    );
    let names: Vec<String> = (0..20).map(|n| format!("s{n}.m4s")).collect();
    for name in &names {
        fleet.put(name, 40_000);
        assert_eq!(fleet.get("edge-1", &format!("/{name}"), "").unwrap().status, 200);
    }
    fleet.signal("edge-1", "TERM");
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
    fleet.restart("edge-1");
    for name in &names {
        let response = fleet.get("edge-1", &format!("/{name}"), "").unwrap();
        assert!(response.body == content(name, 40_000));
    }
    assert_eq!(fleet.counter("edge-1", "fills_total"), 0);
}

#[test]
fn a_file_that_is_written_over_while_it_is_sent_is_never_whole() {
    // Goal: no mixture under one tag. Method: a sparse file larger than all buffers; a byte of it changes when its
    // first bytes have come; straight from the origin, so that nobody reads ahead.
    const TOTAL: u64 = 256 << 20;
    let fleet =
        Fleet::start("over", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    let path = fleet.origin_dir().join("o.mp4");
    fs::File::create(&path).unwrap().set_len(TOTAL).unwrap();
    let mut client = Connection::open(fleet.member("origin-1").http()).unwrap();
    client.send(format!("GET /o.mp4 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut came = client.some().unwrap().len() as u64;
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(b"x").unwrap();
    file.sync_all().unwrap();
    while let Ok(more) = client.some() {
        if more.is_empty() {
            break;
        }
        came += more.len() as u64;
    }
    assert!(came < TOTAL, "all of {TOTAL} bytes came");
}

#[test]
fn the_only_answer_that_there_is_reaches_the_client() {
    // Goal: a 5xx of a next hop is not replaced by a made-up one when nobody does better. Method: an origin that
    // refuses, and one parent of two that is down.
    let count = Arc::new(AtomicUsize::new(0));
    let asked_count = count.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        asked_count.fetch_add(1, Ordering::Relaxed);
        match range_of(asked, 10) {
            Some(_) => reply(stream, 503, "Retry-After: 7\r\n", b"full"),
            None => reply(stream, 503, "Retry-After: 7\r\n", b"full up"),
        }
    });
    let mut fleet = Fleet::start("only", &FleetOptions { parents: 2, ..options(&origin) });
    fleet.kill("parent-2");
    for n in 0..6 {
        let response = get(fleet.member("edge-1").http(), HOST, &format!("/{n}"), "").unwrap();
        assert_eq!(response.status, 503, "{n}");
        assert_eq!(response.field("retry-after"), Some("7"));
        assert_eq!(response.body, b"full up");
    }
    assert_eq!(count.load(Ordering::Relaxed), 6, "a refusal is not asked for twice");
}
