//! What is waited for, and for how long: these tests wait for the node's own deadlines, all at the same time.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, HandOrigin, content, cost, range_of, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn a_body_that_hardly_comes_is_fetched_from_elsewhere() {
    // Goal: a trickling next hop is given up after its span (30 s) and the rest comes from another one. Method: the
    // first origin sends a little and then a byte now and then; the second one has the same version.
    const TOTAL: usize = 1_500_000;
    let bytes = Arc::new(content("trickle", TOTAL));
    let fields = "ETag: \"t\"\r\nCache-Control: max-age=600\r\n";
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, body) = (stop.clone(), bytes.clone());
    let first = HandOrigin::start(LOCAL, move |_, stream| {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {TOTAL}\r\n\r\n");
        let _gone =
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..10_000]));
        let mut at = 10_000;
        // A byte now and then is what is tested: far below the pace, far from silence.
        while !stopped.load(Ordering::Relaxed) && stream.write_all(&body[at..=at]).is_ok() {
            at += 1;
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let body = bytes.clone();
    let second = HandOrigin::start(LOCAL, move |asked, stream| match range_of(asked, TOTAL) {
        Some((first, last)) => reply(
            stream,
            206,
            &format!("{fields}Content-Range: bytes {first}-{last}/{TOTAL}\r\n"),
            &body[first..=last],
        ),
        None => reply(stream, 200, fields, &body),
    });
    static SECOND: std::sync::Mutex<Option<std::net::SocketAddr>> = std::sync::Mutex::new(None);
    *SECOND.lock().unwrap() = Some(second.address);
    let fleet = Fleet::start(
        "trickle",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(first.address),
            adjust: |snapshot| {
                let address = SECOND.lock().unwrap().unwrap();
                let mut other = snapshot.servers[0].clone();
                other.id = "origin-2".to_owned();
                other.admin_port = 9; // nothing is started for it
                other.addresses = vec![address.ip()];
                other.http_port = Some(address.port());
                snapshot.servers.push(other);
                snapshot.delivery_services[0].origins.push("origin-2".to_owned());
            },
            ..FleetOptions::default()
        },
    );
    let response = fleet.get("edge-1", "/t.mp4", "").unwrap();
    assert!(response.body == *bytes, "{} bytes", response.body.len());
    assert_eq!((first.count(), second.count()), (1, 1));
    let asked = second.all();
    assert_eq!(asked[0].field("if-range"), "\"t\"");
    stop.store(true, Ordering::Relaxed);
}

#[test]
fn all_tries_together_have_one_deadline() {
    // Goal: a client waits for all tries no longer than their deadline (14 s at a parent), not for each its own (12 s). Method: three
    // origins that never answer: the second one is asked when the first is given up, the third one's turn never comes.
    static OTHERS: std::sync::Mutex<Vec<std::net::SocketAddr>> = std::sync::Mutex::new(Vec::new());
    let silent = || HandOrigin::start(LOCAL, |_, _| {});
    let origins = [silent(), silent(), silent()];
    OTHERS.lock().unwrap().extend(origins[1..].iter().map(|origin| origin.address));
    let fleet = Fleet::start(
        "deadline",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origins[0].address),
            adjust: |snapshot| {
                for (n, address) in OTHERS.lock().unwrap().iter().enumerate() {
                    let mut other = snapshot.servers[0].clone();
                    other.id = format!("origin-{}", n + 2);
                    other.admin_port = 9 + n as u16; // nothing is started for it
                    other.addresses = vec![address.ip()];
                    other.http_port = Some(address.port());
                    snapshot.delivery_services[0].origins.push(other.id.clone());
                    snapshot.servers.push(other);
                }
            },
            ..FleetOptions::default()
        },
    );
    // The edge waits longer than its parent does, so that it gets the parent's answer.
    let response = fleet.get("edge-1", "/never", "").unwrap();
    assert!(response.cache_status("parent-1").is_some(), "it is the parent's own answer");
    assert_eq!(response.status, 504);
    assert!(response.field("retry-after").is_some());
    assert_eq!(origins.each_ref().map(HandOrigin::count), [1, 1, 0]);
}

#[test]
fn clients_that_take_nothing_are_let_go() {
    // Goal: a stalled reader holds its connection for the stall limit (30 s), however large the answer. Method:
    // readers over TCP and TLS that never read; the count of connections tells when they are gone.
    let fleet = Fleet::start(
        "stalled",
        &FleetOptions { edges: 1, parents: 1, https: true, ..FleetOptions::default() },
    );
    fleet.put("large.mp4", 48 << 20);
    let request = format!("GET /large.mp4 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let edge = fleet.member("edge-1");
    let mut stalled: Vec<Connection> = (0..3)
        .map(|_| Connection::open(edge.http()).unwrap())
        .chain(
            (0..3).map(|_| Connection::open_tls(edge.https(), fleet.tls.clone().unwrap()).unwrap()),
        )
        .collect();
    for client in &mut stalled {
        client.send(request.as_bytes()).unwrap();
    }
    fleet.until("they are being served", |f| f.counter("edge-1", "connections_open") >= 6);
    fleet.until("they are let go", |f| f.counter("edge-1", "connections_open") <= 1);
}

#[test]
fn clients_that_take_hardly_anything_are_let_go() {
    // Goal: who takes a byte now and then holds its connection no longer than who takes nothing. Method: as above, with
    // small windows; the kernel takes bytes off the edge only when a good part of what it holds has gone.
    let options = FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() };
    let fleet = Fleet::start("dribble", &options);
    fleet.put("large.mp4", 48 << 20);
    fleet.put("a.m4s", 1000);
    let request = format!("GET /large.mp4 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let address = fleet.member("edge-1").http();
    let over = AtomicBool::new(false);
    cost::of(&fleet, "HTTP/1.1: a byte read now and then", "/a.m4s", || {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(request.as_bytes()).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        let _end = stream.read(&mut [0; 1]);
                        std::thread::sleep(Duration::from_millis(200));
                    }
                });
            }
            fleet.until("they are let go", |f| f.counter("edge-1", "deadlines_missed_total") == 3);
            over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn requests_that_come_slowly_are_refused() {
    // Goal: a head has 10 s, and a body 1 KiB/s over 30 s, however they are framed (slowloris, and its kin with bodies); who says
    // nothing at all has 10 s for either. Method: one byte now and then, or none, until the answer comes.
    let options = FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() };
    let fleet = Fleet::start("slowly", &options);
    fleet.put("a.m4s", 1000);
    let post = format!("POST /pass/a HTTP/1.1\r\nHost: {HOST}\r\n");
    let cases = [
        format!("GET /a.m4s HTTP/1.1\r\nHost: {HOST}\r\nX-Long: "),
        format!("{post}Content-Length: 100000\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\nFFFF\r\n"),
        format!("GET /a.m4s HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 60000\r\n\r\n"),
        format!("{post}X-Silent: 1\r\nContent-Length: 100000\r\n\r\n"),
    ];
    let address = fleet.member("edge-1").http();
    cost::of(&fleet, "HTTP/1.1: heads and bodies that come slowly", "/a.m4s", || {
        std::thread::scope(|scope| {
            for case in &cases {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(case.as_bytes()).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
                    loop {
                        match stream.read(&mut piece) {
                            Ok(0) => break,
                            Ok(n) => answer.extend_from_slice(&piece[..n]),
                            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                                let said: &[u8] = if case.contains("Silent") { b"" } else { b"1" };
                                let _closed = stream.write_all(said);
                            }
                            Err(_) => break, // what came behind the answer was not read
                        }
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{case}");
                });
            }
        });
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 5);
}

#[test]
fn a_body_that_comes_slowly_but_surely_is_passed_on() {
    // Goal: an uplink that brings more than the least may take longer than a head has. Method: a body in 16 pieces, one each second.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        reply(stream, 200, "Cache-Control: no-store\r\n", asked.body.len().to_string().as_bytes());
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("slow-but-sure", &options);
    let address = fleet.member("edge-1").http();
    std::thread::scope(|scope| {
        for is_chunked in [false, true] {
            scope.spawn(move || {
                let mut client = Connection::open(address).unwrap();
                let framing =
                    if is_chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 64000" };
                let head = format!("POST /pass/slow HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n");
                client.send(head.as_bytes()).unwrap();
                for _ in 0..16 {
                    let piece = [b'x'; 4000];
                    // A second is what is tested: the pieces take longer together than a head may.
                    std::thread::sleep(Duration::from_secs(1));
                    match is_chunked {
                        false => client.send(&piece).unwrap(),
                        true => client.send(&[b"fa0\r\n", &piece[..], b"\r\n"].concat()).unwrap(),
                    }
                }
                if is_chunked {
                    client.send(b"0\r\n\r\n").unwrap();
                }
                let answer = client.response(false).unwrap();
                assert_eq!(
                    (answer.status, &*answer.body),
                    (200, &b"64000"[..]),
                    "chunked: {is_chunked}"
                );
            });
        }
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 0);
}
