//! Much work and an orderly end: nothing leaks, and a stop loses no request under way.
//! Method: descriptors and memory of the process read from /proc before and after; signals at known moments.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, Gate, HandOrigin, content, get};

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One client's share: `count` requests of all kinds, pipelined by tens on one connection, some connections cut off.
fn mix(fleet: &Fleet, count: usize, seed: usize, files: &[Vec<u8>]) {
    const BATCH: usize = 10;
    let address = fleet.member("edge-1").http();
    let mut connection = Connection::open(address).unwrap();
    for batch in 0..count / BATCH {
        if batch % 50 == 49 {
            // Churn: half of them leave with an answer unread.
            if batch % 100 == 99 {
                connection
                    .send(format!("GET /m0 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
                    .unwrap();
            }
            connection = Connection::open(address).unwrap();
        }
        let kinds: Vec<usize> = (0..BATCH).map(|n| (seed + batch * 7 + n * 3) % 10).collect();
        let mut requests = String::new();
        for kind in &kinds {
            requests += &match kind {
                0..=5 => format!("GET /m{kind} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
                6 => format!("GET /m1 HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=10-99\r\n\r\n"),
                7 => format!("HEAD /m2 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
                8 => "GET /m0 HTTP/1.1\r\nHost: nobody.example\r\n\r\n".to_owned(),
                _ => format!("OPTIONS /m3 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            };
        }
        connection.send(requests.as_bytes()).unwrap();
        for kind in kinds {
            let response = connection.response(kind == 7).unwrap();
            match kind {
                0..=5 => assert!(response.status == 200 && response.body == files[kind]),
                6 => assert!(response.status == 206 && response.body == files[1][10..=99]),
                7 => assert_eq!(response.status, 200),
                8 => assert_eq!(response.status, 404),
                _ => assert_eq!(response.status, 204),
            }
        }
    }
}

#[test]
fn a_hundred_thousand_requests_leave_nothing_behind() {
    // Goal: no leak of descriptors or memory. Method: a warm-up, then 100,000 requests on 4 connections at a time
    // with churn, then 2,000 connections of one request each; /proc afterwards against /proc after the warm-up.
    let fleet =
        Fleet::start("leaks", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    let files: Vec<Vec<u8>> =
        (0..6).map(|n| fleet.put(&format!("m{n}"), [1024, 700, 5000, 100, 20_000, 1][n])).collect();
    let pid = fleet.member("edge-1").pid();
    let burst = |count: usize| {
        thread::scope(|scope| {
            for seed in 0..4 {
                let (fleet, files) = (&fleet, &files);
                scope.spawn(move || mix(fleet, count / 4, seed, files));
            }
        });
        fleet.until("clients have left", |f| f.counter("edge-1", "connections_open") <= 1);
    };
    burst(4_000);
    let (fds, memory) = (descriptors(pid), resident_kb(pid));
    let before = fleet.counter("edge-1", "requests_total");
    burst(100_000);
    assert!(fleet.counter("edge-1", "requests_total") - before >= 100_000);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let response = fleet.get("edge-1", "/m0", "").unwrap();
                    assert!(response.body == files[0]);
                }
            });
        }
    });
    fleet.until("clients have left", |f| f.counter("edge-1", "connections_open") <= 1);
    fleet.until("descriptors are given back", |_| descriptors(pid) <= fds + 2);
    let after = resident_kb(pid);
    println!("descriptors {fds} -> {}, resident {memory} -> {after} kB", descriptors(pid));
    assert!(after < memory + 32 * 1024, "resident memory {memory} -> {after} kB");
    assert_eq!(fleet.counter("origin-1", "requests_total"), files.len() as u64);
    assert_eq!(fleet.counter("edge-1", "fills_open"), 0);
    assert_eq!(fleet.counter("edge-1", "requests_refused_total"), 0);
}

#[test]
fn a_stop_lets_requests_under_way_end_and_takes_no_new_ones() {
    // Goal: SIGTERM loses no request that was taken. Method: clients are in mid-body at a gate of the origin, others
    // ask all the time; the signal comes; the gate opens once new clients are turned away.
    const TOTAL: usize = 1_500_000;
    let gate = Gate::default();
    let (held, bytes) = (gate.clone(), content("drain", TOTAL));
    let body = bytes.clone();
    let origin = HandOrigin::start(IpAddr::V4(Ipv4Addr::LOCALHOST), move |asked, stream| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {TOTAL}\r\n\r\n"
        );
        let _gone = stream.write_all(head.as_bytes());
        if asked.target() == "/held" {
            let _gone = stream.write_all(&body[..1000]);
            held.wait();
            let _gone = stream.write_all(&body[1000..]);
        } else {
            let _gone = stream.write_all(&body);
        }
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        drain_seconds: 60,
        ..FleetOptions::default()
    };
    let mut fleet = Fleet::start("drain", &options);
    let address = fleet.member("edge-1").http();
    let mut waiting: Vec<Connection> = (0..20)
        .map(|_| {
            let mut client = Connection::open(address).unwrap();
            client.send(format!("GET /held HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            client
        })
        .collect();
    let heads: Vec<_> = waiting.iter_mut().map(|client| client.head().unwrap()).collect();
    assert!(heads.iter().all(|head| head.status == 200));
    let (stop, whole) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let (stop, whole, bytes) = (stop.clone(), whole.clone(), bytes.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut client) = Connection::open(address) else { return };
                    let request = format!("GET /other HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                    // A connection that was not taken in time ends without a byte; one that was answers whole.
                    if client.send(request.as_bytes()).is_err() {
                        return;
                    }
                    let Ok(_head) = client.head() else { return };
                    let mut at = 0;
                    while at < TOTAL {
                        let more = client.some().unwrap();
                        assert!(!more.is_empty() && bytes[at..].starts_with(&more));
                        at += more.len();
                    }
                    whole.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    fleet.until("load is on", |_| whole.load(Ordering::Relaxed) > 20);
    fleet.signal("edge-1", "TERM");
    fleet.until("new clients are turned away", |_| get(address, HOST, "/other", "").is_err());
    for thread in asking {
        thread.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    gate.open();
    for client in &mut waiting {
        let mut at = 0;
        while at < TOTAL {
            let more = client.some().unwrap();
            assert!(!more.is_empty(), "a request under way was cut off at {at}");
            assert!(bytes[at..].starts_with(&more));
            at += more.len();
        }
        assert!(client.some().unwrap_or_default().is_empty(), "then the connection closes");
    }
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
    fleet.restart("edge-1");
    assert!(fleet.get("edge-1", "/other", "").unwrap().body == bytes);
}
