//! Faults of origins, parents and this node's own end, and answers that could reach somebody they are not for.
//! Method: hand-made next hops, also in the place of parents; gates, so that each fault falls at a known moment.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, Gate, HandOrigin, content, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn ask(fleet: &Fleet, line: &str, fields: &str) -> Connection {
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client.send(format!("{line} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n").as_bytes()).unwrap();
    client
}

/// Connections of which the first is served by another core than the second.
fn on_two_cores(fleet: &Fleet) -> (Connection, Connection) {
    let mut first = Connection::open(fleet.member("edge-1").http()).unwrap();
    let core = fleet.core_of("edge-1", &mut first, "/warm");
    for _ in 0..64 {
        let mut second = Connection::open(fleet.member("edge-1").http()).unwrap();
        if fleet.core_of("edge-1", &mut second, "/warm") != core {
            return (first, second);
        }
    }
    panic!("64 connections all came to {core}");
}

#[test]
fn a_stop_waits_for_a_fill_that_another_core_reads_from() {
    // Goal: an answer that can end well does, and what was given out before the stop is kept. Method: the client that
    // led the fill, alone on its core, has left; one on the other core reads on while the edge is told to stop; the
    // origin sends each piece when the one before has arrived, so that the leading core has time enough to be gone.
    const TOTAL: usize = 4_000_000;
    const FIRST: usize = 1_000_000;
    const PIECE: usize = 25_000;
    let bytes = content("drain", TOTAL);
    let (permit, permits) = mpsc::channel::<()>();
    let (body, permits) = (bytes.clone(), Mutex::new(permits));
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let fields = "ETag: \"v1\"\r\nCache-Control: max-age=600\r\n";
        if asked.target() != "/drain" {
            return reply(stream, 200, fields, b"warm");
        }
        let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {TOTAL}\r\n\r\n");
        let _gone = stream.write_all(head.as_bytes());
        let _gone = stream.write_all(&body[..FIRST]);
        for piece in body[FIRST..].chunks(PIECE) {
            let Ok(()) = permits.lock().unwrap().recv() else { return };
            let _gone = stream.write_all(piece);
        }
    });
    let mut fleet = Fleet::start(
        "drain",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            drain_seconds: 60,
            ..FleetOptions::default()
        },
    );
    assert_eq!(fleet.get("edge-1", "/warm", "").unwrap().body, b"warm");
    let (mut leader, mut reader) = on_two_cores(&fleet);
    let request = format!("GET /drain HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    leader.send(request.as_bytes()).unwrap();
    assert_eq!(leader.head().unwrap().status, 200);
    reader.send(request.as_bytes()).unwrap();
    assert_eq!(reader.head().unwrap().status, 200);
    let mut body = Vec::new();
    let mut read_to = |enough: usize, when: &str| {
        while body.len() < enough {
            let more = reader.some().unwrap();
            assert!(!more.is_empty(), "the body ended at {} {when}", body.len());
            body.extend(more);
        }
        body.len()
    };
    let mut come = read_to(FIRST, "at first");
    drop(leader);
    // The edge sees that the leader has left when it has something for it: the reader and this question remain.
    while fleet.counter("edge-1", "connections_open") > 2 {
        assert!(come < TOTAL / 2, "the leader is still there");
        permit.send(()).unwrap();
        come = read_to(come + PIECE, "before the stop");
    }
    let mut admin = Connection::open(fleet.member("edge-1").admin()).unwrap();
    assert_eq!(admin.get("x", "/health", "").unwrap().status, 200);
    fleet.signal("edge-1", "TERM");
    while admin.get("x", "/health", "").is_ok_and(|health| health.status == 200) {}
    while come < TOTAL {
        permit.send(()).unwrap();
        come = read_to(come + PIECE.min(TOTAL - come), "during the stop");
    }
    assert!(body == bytes);
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
    fleet.restart("edge-1");
    for (path, bytes) in [("/drain", &bytes[..]), ("/warm", b"warm")] {
        let kept = fleet.get("edge-1", path, "").unwrap();
        assert!(kept.body == bytes, "{path}");
        assert!(kept.cache_status("edge-1").unwrap().starts_with("edge-1; hit"), "{path}");
    }
    assert_eq!(fleet.counter("edge-1", "fills_total"), 0);
}

#[test]
fn a_file_that_is_written_over_is_never_kept_as_a_mixture() {
    // Goal: a whole answer is of one version, through all tiers. Method: the first and last byte of a large sparse file
    // change in place when its first bytes have come; whatever comes whole, then and later, has both or neither.
    const TOTAL: u64 = 192 << 20;
    let fleet = Fleet::start(
        "mixture",
        &FleetOptions { edges: 1, parents: 1, store_bytes: None, ..FleetOptions::default() },
    );
    let path = fleet.origin_dir().join("m.mp4");
    File::create(&path).unwrap().set_len(TOTAL).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // First and last byte of a whole answer.
    let fetch = |at_first: &dyn Fn()| {
        let mut client = ask(&fleet, "GET /m.mp4", "");
        let head = client.head().ok().filter(|head| head.status == 200)?;
        assert_eq!(head.field("content-length"), Some(TOTAL.to_string().as_str()));
        let mut bytes = client.some().ok().filter(|bytes| !bytes.is_empty())?;
        at_first();
        let (first, mut come) = (bytes[0], bytes.len() as u64);
        while come < TOTAL {
            bytes = client.some().ok().filter(|bytes| !bytes.is_empty())?;
            come += bytes.len() as u64;
        }
        Some((first, *bytes.last()?))
    };
    let during = fetch(&|| {
        file.write_all_at(b"x", 0).unwrap();
        file.write_all_at(b"x", TOTAL - 1).unwrap();
    });
    assert!(matches!(during, None | Some((0, 0))), "a mixture: {during:?}");
    let mut short = 0;
    let after = loop {
        match fetch(&|| {}) {
            Some(ends) => break ends,
            None => short += 1,
        }
        assert!(short < 5, "{short} answers broke off");
    };
    let expected = if during.is_some() { (0, 0) } else { (b'x', b'x') };
    assert_eq!(after, expected, "kept as whole");
}

/// A query of 985 bytes with these two 8-byte words in it.
fn filler(first: &str, second: &str) -> String {
    ["q=", &"m".repeat(55), first, &"m".repeat(440), second, &"m".repeat(472)].concat()
}

#[test]
fn urls_made_to_collide_each_get_their_own_content() {
    // Goal: no URL is answered with another one's content. Method: two keys `film/video.mp4?q=...` with one XXH3-128,
    // which was the hash of cache keys once: above 240 bytes its accumulators add up products of 8-byte words with a
    // known secret, so that two words of one lane can be chosen to cancel each other (worked out for the default
    // secret, stripes of 64 bytes, printable words). Both orders, and again from the store.
    let pair = [filler("!!!!mmmp", "w%)Cmmmq"), filler("!!!!mmmq", "w%)Cmmmp")];
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let fields = "ETag: \"c\"\r\nCache-Control: max-age=600\r\n";
        reply(stream, 200, fields, asked.target().as_bytes());
    });
    let mut fleet = Fleet::start(
        "collide",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    for round in 0..2 {
        for query in pair.iter().chain(pair.iter().rev()) {
            let path = format!("/video.mp4?{query}");
            let response = fleet.get("edge-1", &path, "").unwrap();
            assert_eq!(response.status, 200);
            assert!(response.body == path.as_bytes(), "content of another URL in round {round}");
        }
        fleet.settle("edge-1");
        fleet.restart("edge-1");
    }
    assert_eq!(origin.count(), 2, "each was filled once");
}

#[test]
fn errors_of_parents_reach_the_client_and_unsafe_requests_one_parent() {
    // Goal: the best answer that there is, and no unsafe request twice. Method: hand-made parents, one that refuses
    // with a body of its own and one that reads and closes; cached and uncached paths of which each ranks the parents
    // in its own order. Between the cases both do well, so that none is taken out.
    let refuse = |name: &'static str| {
        HandOrigin::start(LOCAL, move |asked, stream| {
            let kind = asked.target().split('/').rev().nth(1).unwrap_or_default().to_owned();
            let fields = match &*kind {
                "passed-on" => {
                    "Retry-After: 9\r\nCache-Status: up; fwd=uri-miss; fwd-status=503\r\n"
                }
                "silent" => return stream.shutdown(Shutdown::Both).unwrap_or_default(),
                "well" => return reply(stream, 200, "", name.as_bytes()),
                "one" if name == "b" => return stream.shutdown(Shutdown::Both).unwrap_or_default(),
                _ => "Retry-After: 9\r\n",
            };
            reply(stream, 503, fields, name.as_bytes());
        })
    };
    let (a, b) = (refuse("a"), refuse("b"));
    let fleet = Fleet::start(
        "refusals",
        &FleetOptions {
            edges: 1,
            hand_parents: vec![a.address, b.address],
            ..FleetOptions::default()
        },
    );
    // How often each request came to a parent, and the answer that the client is to get.
    let cases = [
        ("GET", "one", None, &[&b"a"[..]][..]),
        ("GET", "both", Some(2), &[b"a", b"b"]),
        ("GET", "passed-on", Some(1), &[b"a", b"b"]),
        ("GET", "silent", None, &[]),
        ("POST", "both", Some(1), &[b"a", b"b"]),
        ("POST", "silent", Some(1), &[]),
    ];
    let mut asked_first = HashSet::new();
    let mut serial = 0;
    for n in 0..8 {
        for prefix in ["", "/pass"] {
            for (method, kind, asks, bodies) in cases {
                let path = format!("{prefix}/{method}/{kind}/{n}");
                let fields = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
                let response = ask(&fleet, &format!("{method} {path}"), fields).response(false);
                let response = response.unwrap();
                if bodies.is_empty() {
                    assert_eq!(response.status, 502, "{method} {path}");
                    assert!(response.field("retry-after").is_some(), "{method} {path}");
                } else {
                    assert_eq!(response.status, 503, "{method} {path}");
                    assert_eq!(response.field("retry-after"), Some("9"), "{method} {path}");
                    assert!(bodies.contains(&&response.body[..]), "{method} {path}");
                }
                let came = [a.count_of(&path), b.count_of(&path)];
                let sum = came.iter().sum::<usize>();
                assert!(asks.is_none_or(|asks| sum == asks), "{method} {path} came {came:?} times");
                if kind == "passed-on" {
                    asked_first.insert(came);
                }
                let wells = |origin: &HandOrigin| {
                    origin.all().iter().filter(|asked| asked.target().contains("/well/")).count()
                };
                let before = [wells(&a), wells(&b)];
                while wells(&a) < before[0] + 3 || wells(&b) < before[1] + 3 {
                    serial += 1;
                    let well = fleet.get("edge-1", &format!("/pass/well/{serial}"), "").unwrap();
                    assert_eq!(well.status, 200);
                }
            }
        }
    }
    assert_eq!(asked_first.len(), 2, "both orders were tried");
}

#[test]
fn an_answer_that_is_one_clients_own_reaches_nobody_else() {
    // Goal: each client gets the answer to its own words, and a Set-Cookie that nobody else got. Method: a leader is
    // held at the origin until three others wait for its fill; each word that a site may answer by takes its turn as
    // the leader's; serial numbers tell answers apart.
    const WORDS: [&str; 4] =
        ["", "Cookie: id=ann\r\n", "Accept-Language: de\r\n", "User-Agent: tv/1\r\n"];
    let gates: [Gate; 4] = Default::default();
    let (held, serial) = (gates.clone(), AtomicUsize::new(0));
    let first = Mutex::new(HashSet::new());
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let number = serial.fetch_add(1, Ordering::Relaxed);
        let said = ["cookie", "accept-language", "user-agent"].map(|name| asked.field(name));
        if first.lock().unwrap().insert(asked.target().to_owned()) {
            held[asked.target()[1..].parse::<usize>().unwrap()].wait();
        }
        let fields = format!("Cache-Control: private\r\nSet-Cookie: s={number}\r\n");
        reply(stream, 200, &fields, format!("{number} {}", said.concat()).as_bytes());
    });
    let fleet = Fleet::start(
        "own",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    let mut serials = HashSet::new();
    for (round, gate) in gates.iter().enumerate() {
        let path = format!("/{round}");
        let before = fleet.counter("edge-1", "collapsed_total");
        let mut clients = vec![(round, ask(&fleet, &format!("GET {path}"), WORDS[round]))];
        fleet.until("the leader is at the origin", |_| origin.count_of(&path) == 1);
        for (n, words) in WORDS.iter().enumerate().filter(|(n, _)| *n != round) {
            clients.push((n, ask(&fleet, &format!("GET {path}"), words)));
        }
        fleet.until("the others wait", |f| f.counter("edge-1", "collapsed_total") == before + 3);
        gate.open();
        for (n, mut client) in clients {
            let response = client.response(false).unwrap();
            assert_eq!(response.status, 200);
            let body = String::from_utf8(response.body.clone()).unwrap();
            let (number, said) = body.split_once(' ').unwrap();
            let own = WORDS[n].trim_end().split_once(": ").map_or("", |(_, value)| value);
            assert_eq!(said, own, "led by {:?}", WORDS[round]);
            assert_eq!(response.field("set-cookie"), Some(&*format!("s={number}")));
            assert!(serials.insert(number.to_owned()), "{number} went to two clients");
        }
    }
    for id in ["edge-1", "parent-1"] {
        assert_eq!(fleet.counter(id, "hits_total"), 0);
    }
}

#[test]
fn connections_to_next_hops_that_one_core_does_not_need_serve_another() {
    // Goal: a core opens a connection only when no core has one to spare. Method: twelve fills at once on the one core,
    // held together by a barrier at the parent, then as many on the other; the parent tells its connections apart.
    const AT_ONCE: usize = 12;
    let barrier = Barrier::new(AT_ONCE);
    let parent = HandOrigin::start(LOCAL, move |asked, stream| {
        if asked.target().starts_with("/one/") || asked.target().starts_with("/other/") {
            barrier.wait();
        }
        reply(stream, 200, "Cache-Control: max-age=600\r\n", b"content");
    });
    let fleet = Fleet::start(
        "pool",
        &FleetOptions {
            edges: 1,
            parents: 1,
            hand_parents: vec![parent.address],
            ..FleetOptions::default()
        },
    );
    assert_eq!(fleet.get("edge-1", "/warm", "").unwrap().status, 200);
    let (mut one, mut other): (Vec<Connection>, Vec<Connection>) = Default::default();
    let mut first = None;
    while one.len() < AT_ONCE || other.len() < AT_ONCE {
        let mut connection = Connection::open(fleet.member("edge-1").http()).unwrap();
        let core = fleet.core_of("edge-1", &mut connection, "/warm");
        match *first.get_or_insert(core.clone()) == core {
            true => one.push(connection),
            false => other.push(connection),
        }
        assert!(one.len() + other.len() < 20 * AT_ONCE, "all come to one core");
    }
    let burst = |clients: &mut Vec<Connection>, name: &str| -> HashSet<usize> {
        clients.truncate(AT_ONCE);
        for (n, client) in clients.iter_mut().enumerate() {
            let ask = format!("GET /{name}/{n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
            client.send(ask.as_bytes()).unwrap();
        }
        for client in clients {
            assert_eq!(client.response(false).unwrap().status, 200);
        }
        fleet.settle("edge-1");
        let all = parent.all();
        let ours = all.iter().filter(|asked| asked.target().starts_with(&format!("/{name}/")));
        ours.map(|asked| asked.connection).collect()
    };
    let of_one = burst(&mut one, "one");
    let of_other = burst(&mut other, "other");
    assert_eq!((of_one.len(), of_other.len()), (AT_ONCE, AT_ONCE));
    let fresh = of_other.difference(&of_one).count();
    // A few are kept by the core that made them.
    assert!(fresh <= 4, "{fresh} of {AT_ONCE} had to be opened");
}
