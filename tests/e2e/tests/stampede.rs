//! Many clients at once: one cold object costs one fill, uncacheable answers stay each client's own, and nobody waits
//! for a slower one. Method: real processes, an origin that holds its answer until all clients are known to wait.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{
    Connection, Fleet, FleetOptions, Gate, HandOrigin, block_on, content, h2, h3, reply,
};

const LOCAL: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);
const EDGES: [&str; 2] = ["edge-1", "edge-2"];
const PARENTS: [&str; 2] = ["parent-1", "parent-2"];
/// Threads that only read and compare need little.
const STACK_BYTES: usize = 256 * 1024;

/// Asks for `path` and compares the body as it comes; gives the time to its first byte.
fn compare(address: SocketAddr, path: &str, expected: &[u8]) -> Duration {
    let mut connection = Connection::open(address).unwrap();
    let asked = Instant::now();
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let head = connection.head().unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(head.field("content-length"), Some(expected.len().to_string().as_str()));
    let (mut at, mut first) = (0, None);
    while at < expected.len() {
        let bytes = connection.some().unwrap();
        assert!(!bytes.is_empty(), "the body ended at {at} of {}", expected.len());
        first.get_or_insert_with(|| asked.elapsed());
        assert!(expected[at..].starts_with(&bytes), "wrong bytes at {at}");
        at += bytes.len();
    }
    first.unwrap_or_else(|| asked.elapsed())
}

fn crowd(fleet: &Fleet, count: usize, path: &'static str, expected: &Arc<Vec<u8>>) -> Crowd {
    let threads = (0..count)
        .map(|n| {
            let address = fleet.member(EDGES[n % 2]).http();
            let expected = expected.clone();
            thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn(move || compare(address, path, &expected))
                .unwrap()
        })
        .collect();
    Crowd(threads)
}

struct Crowd(Vec<thread::JoinHandle<Duration>>);

impl Crowd {
    fn join(self) -> Vec<Duration> {
        self.0.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

#[test]
fn a_thousand_clients_of_a_cold_segment_cost_one_request_at_the_origin_and_one_for_each_edge() {
    // Goal: collapse on every tier. Method: the origin answers only when all other clients are known to wait.
    const CLIENTS: usize = 1000;
    let bytes = Arc::new(content("segment", 3 << 20));
    let gate = Gate::default();
    let (held, body) = (gate.clone(), bytes.clone());
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        held.wait();
        reply(stream, 200, "ETag: \"v1\"\r\nCache-Control: max-age=60\r\n", &body);
    });
    let options = FleetOptions { origin: Some(origin.address), ..FleetOptions::default() };
    let fleet = Fleet::start("stampede", &options);
    let crowd = crowd(&fleet, CLIENTS, "/segment.m4s", &bytes);
    fleet.until("all clients wait", |fleet| {
        fleet.sum(&EDGES, "collapsed_total") == (CLIENTS - EDGES.len()) as u64
    });
    gate.open();
    let mut first_bytes = crowd.join();
    first_bytes.sort();
    println!(
        "first byte of {CLIENTS} waiters: first {:?}, median {:?}, last {:?}",
        first_bytes[0],
        first_bytes[CLIENTS / 2],
        first_bytes[CLIENTS - 1]
    );
    assert_eq!(origin.count(), 1);
    assert_eq!(fleet.sum(&PARENTS, "requests_total"), EDGES.len() as u64);
    assert_eq!(fleet.sum(&PARENTS, "fills_total"), 1);
    assert_eq!(fleet.sum(&PARENTS, "collapsed_total"), 1);
    for edge in EDGES {
        assert_eq!(fleet.counter(edge, "fills_total"), 1);
        assert_eq!(fleet.counter(edge, "bytes_filled_total"), bytes.len() as u64);
        assert_eq!(fleet.counter(edge, "requests_total"), CLIENTS as u64 / 2);
        // An answer is counted when its last byte has left, which its client may see first.
        fleet.until("all answers are counted", |fleet| {
            fleet.counter(edge, "responses_2xx_total") == CLIENTS as u64 / 2
        });
        let sent = (CLIENTS / 2 * bytes.len()) as u64;
        assert_eq!(fleet.counter(edge, "bytes_sent_total"), sent);
        assert_eq!(fleet.counter(edge, "fill_errors_total"), 0);
    }
}

#[test]
fn clients_that_come_as_they_come_cost_one_request_at_the_origin_too() {
    // Goal: no moment between look and claim lets a second fill through. Method: 30 cold objects, inline and
    // larger ones, each asked by 16 clients that start together without being held; then all counters.
    const OBJECTS: usize = 30;
    let fleet = Fleet::start("race", &FleetOptions::default());
    let files: Vec<Arc<Vec<u8>>> = (0..OBJECTS)
        .map(|n| Arc::new(fleet.put(&format!("{n}.m4s"), [900, 20_000, 700_000][n % 3])))
        .collect();
    for (n, bytes) in files.iter().enumerate() {
        let start = Arc::new(std::sync::Barrier::new(16));
        let threads: Vec<_> = (0..16)
            .map(|client| {
                let address = fleet.member(EDGES[client % 2]).http();
                let (bytes, start) = (bytes.clone(), start.clone());
                thread::spawn(move || {
                    start.wait();
                    compare(address, &format!("/{n}.m4s"), &bytes);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(fleet.counter("origin-1", "requests_total"), n as u64 + 1, "object {n}");
    }
    assert_eq!(fleet.sum(&PARENTS, "requests_total"), (OBJECTS * EDGES.len()) as u64);
    assert_eq!(fleet.sum(&EDGES, "fills_total"), (OBJECTS * EDGES.len()) as u64);
}

#[test]
fn private_answers_are_never_shared_and_nobody_waits_for_ever() {
    // Goal: waiters of a fill that turns out private each get an answer of their own. Method: a serial number in
    // each answer; the first answer is held until all the others wait for it.
    const CLIENTS: usize = 1000;
    let gate = Gate::default();
    let (held, serial) = (gate.clone(), AtomicUsize::new(0));
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        let number = serial.fetch_add(1, Ordering::Relaxed);
        held.wait();
        reply(stream, 200, "Cache-Control: private\r\n", format!("serial {number}").as_bytes());
    });
    let options = FleetOptions { origin: Some(origin.address), ..FleetOptions::default() };
    let fleet = Fleet::start("private", &options);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let address = fleet.member(EDGES[n % 2]).http();
            let seen = seen.clone();
            thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    let response = tidegate_e2e::get(address, HOST, "/me", "").unwrap();
                    assert_eq!(response.status, 200);
                    seen.lock().unwrap().push(response.body);
                })
                .unwrap()
        })
        .collect();
    fleet.until("all clients wait", |fleet| {
        fleet.sum(&EDGES, "collapsed_total") == (CLIENTS - EDGES.len()) as u64
    });
    gate.open();
    for thread in threads {
        thread.join().unwrap();
    }
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), CLIENTS, "each client has a serial number of its own");
    assert_eq!(origin.count(), CLIENTS);
    assert_eq!(fleet.sum(&EDGES, "hits_total"), 0);
    assert_eq!(fleet.sum(&PARENTS, "hits_total"), 0);
}

#[test]
fn readers_follow_a_fill_from_its_first_byte() {
    // Goal: no tier waits for a whole object. Method: the origin sends the second half only after a client is
    // known to have bytes of the first.
    let bytes = content("halves", 1_200_000);
    let gate = Gate::default();
    let (held, body) = (gate.clone(), bytes.clone());
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        use std::io::Write;
        let head =
            "HTTP/1.1 200 OK\r\nContent-Length: 1200000\r\nCache-Control: max-age=60\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body[..10]).unwrap();
        held.wait();
        stream.write_all(&body[10..]).unwrap();
    });
    let options = FleetOptions { origin: Some(origin.address), ..FleetOptions::default() };
    let fleet = Fleet::start("halves", &options);
    let request = format!("GET /halves HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut clients: Vec<Connection> = EDGES
        .iter()
        .chain(&EDGES)
        .map(|edge| Connection::open(fleet.member(edge).http()).unwrap())
        .collect();
    let mut bodies = Vec::new();
    for client in &mut clients {
        client.send(request.as_bytes()).unwrap();
        assert_eq!(client.head().unwrap().status, 200);
        let first = client.some().unwrap();
        assert!(!first.is_empty() && bytes[..10].starts_with(&first));
        bodies.push(first);
    }
    assert_eq!(fleet.sum(&EDGES, "fills_open"), 2);
    gate.open();
    for (client, body) in clients.iter_mut().zip(&mut bodies) {
        while body.len() < bytes.len() {
            let more = client.some().unwrap();
            assert!(!more.is_empty());
            body.extend(more);
        }
        assert!(*body == bytes);
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_slow_client_slows_neither_the_fill_nor_others_and_gets_whole_bytes() {
    // Goal: back-pressure of one client stays its own. Method: a client that reads nothing while an object larger
    // than RAM tier and fill window goes by, without a store: the late bytes come by part fills.
    let fleet = Fleet::start(
        "slow",
        &FleetOptions {
            edges: 1,
            parents: 1,
            ram_bytes: 2 << 20,
            store_bytes: None,
            ..FleetOptions::default()
        },
    );
    let bytes = fleet.put("large.mp4", 40 << 20);
    let mut slow = Connection::open(fleet.member("edge-1").http()).unwrap();
    slow.send(format!("GET /large.mp4 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(slow.head().unwrap().status, 200);
    compare(fleet.member("edge-1").http(), "/large.mp4", &bytes);
    fleet.until("the fill ends", |fleet| fleet.counter("edge-1", "fills_open") == 0);
    assert!(fleet.counter("edge-1", "bytes_sent_total") < 2 * bytes.len() as u64);
    let mut at = 0;
    while at < bytes.len() {
        let more = slow.some().unwrap();
        assert!(!more.is_empty(), "the slow client's body ended at {at}");
        assert!(bytes[at..].starts_with(&more), "wrong bytes at {at}");
        at += more.len();
    }
}

/// A request that waits for its answer, so that it can be given up in the middle.
enum Leader {
    Http1(Connection),
    Http2(h2::Client, tokio::task::JoinHandle<()>),
    Http3(h3::Client, tokio::task::JoinHandle<()>),
}

impl Leader {
    async fn begin(fleet: &Fleet, way: usize, path: &'static str) -> Leader {
        match way {
            0 => {
                let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
                let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                client.send(request.as_bytes()).unwrap();
                Leader::Http1(client)
            }
            1 => {
                let client = h2::Client::connect(fleet, "edge-1").await;
                let begun = client.begin(path, &[]);
                Leader::Http2(client, tokio::task::spawn_local(async { drop(begun.await) }))
            }
            _ => {
                let client = h3::Client::connect(fleet).await;
                let own = client.clone();
                let begun = async move { drop(own.begin(path, &[]).await) };
                Leader::Http3(client, tokio::task::spawn_local(begun))
            }
        }
    }

    /// Gives it up; whoever can goes on by the same connection, whose answer tells that the edge knows.
    async fn leave(self) {
        match self {
            Leader::Http1(client) => drop(client),
            Leader::Http2(client, begun) => {
                begun.abort();
                assert!(begun.await.is_err(), "it was answered already");
                assert_eq!(client.get("/after", &[]).await.unwrap().status, 200);
            }
            Leader::Http3(client, begun) => {
                begun.abort();
                assert!(begun.await.is_err(), "it was answered already");
                assert_eq!(client.get("/after", &[]).await.unwrap().status, 200);
            }
        }
    }
}

#[test]
fn who_came_first_may_leave_and_the_others_get_what_was_asked_for() {
    // Goal: a fill is nobody's own. Method: over each version of HTTP the first client leaves while the origin holds its
    // answer and others wait for it; they get it whole, by that one question.
    const OTHERS: usize = 20;
    let bytes = Arc::new(content("left", 700_000));
    let (gates, body) = ([Gate::default(), Gate::default(), Gate::default()], bytes.clone());
    let held = gates.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if let Some(way) = asked.target().strip_prefix("/left/") {
            held[way.parse::<usize>().unwrap()].wait();
        }
        reply(stream, 200, "ETag: \"v1\"\r\nCache-Control: max-age=60\r\n", &body);
    });
    let options = FleetOptions {
        https: true,
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("left", &options);
    for (way, path) in ["/left/0", "/left/1", "/left/2"].into_iter().enumerate() {
        block_on(async {
            let leader = Leader::begin(&fleet, way, path).await;
            while origin.count_of(path) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let joined = fleet.counter("edge-1", "collapsed_total");
            let address = fleet.member("edge-1").http();
            let others: Vec<_> = (0..OTHERS)
                .map(|_| {
                    let bytes = bytes.clone();
                    thread::spawn(move || compare(address, path, &bytes))
                })
                .collect();
            fleet.until("the others wait", |fleet| {
                fleet.counter("edge-1", "collapsed_total") == joined + OTHERS as u64
            });
            leader.leave().await;
            gates[way].open();
            for other in others {
                other.join().unwrap();
            }
        });
        assert_eq!(origin.count_of(path), 1, "{path}");
    }
    assert_eq!(fleet.counter("edge-1", "fill_errors_total"), 0);
}
