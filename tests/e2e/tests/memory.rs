//! The memory budget: what is counted is what the process takes, and what it takes is never more.

use rustls::version::TLS12;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use tidegate_contract::{Snapshot, TlsVersion};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::tls::client_of;
use tidegate_e2e::{Connection, Fleet, FleetOptions, content};

const MIB: u64 = 1 << 20;

fn options(adjust: fn(&mut Snapshot)) -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, adjust, ..FleetOptions::default() }
}

/// Of the member's process, in bytes; `what` is a line of /proc/pid/status.
fn resident(fleet: &Fleet, member: &str, what: &str) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", fleet.member(member).pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// What an idle connection costs the edge that has given an answer of `size` bytes on it: resident, and counted.
fn idle(fleet: &Fleet, size: usize, connect: impl Fn(&Fleet) -> Connection) -> (u64, u64) {
    const CLIENTS: u64 = 500;
    let path = format!("/i{size}.m4s");
    fleet.put(&path[1..], size);
    let open = || {
        let mut connection = connect(fleet);
        assert_eq!(connection.get(HOST, &path, "").unwrap().body.len(), size);
        connection
    };
    let counted = || fleet.counter("edge-1", "memory_flexible_used_bytes");
    let _warm: Vec<_> = (0..50).map(|_| open()).collect();
    let before = (resident(fleet, "edge-1", "VmRSS"), counted());
    let _more: Vec<_> = (0..CLIENTS).map(|_| open()).collect();
    let after = (resident(fleet, "edge-1", "VmRSS"), counted());
    let each = (after.0.saturating_sub(before.0) / CLIENTS, (after.1 - before.1) / CLIENTS);
    println!(
        "an idle connection after {size} bytes: {} bytes resident, {} counted",
        each.0, each.1
    );
    each
}

fn old_devices(snapshot: &mut Snapshot) {
    snapshot.delivery_services[0].tls = TlsVersion::Tls12;
}

#[test]
fn idle_connections_cost_what_they_are_counted_with() {
    // Goal: the budget's constants are no wishes. Method: many connections, plain and by TLS, each after a small and
    // after a large answer; what the process grew by is no more than what was counted.
    let options = FleetOptions { https: true, ..options(|_| {}) };
    for size in [100, 400_000] {
        let fleet = Fleet::start("idle", &options);
        let (each, counted) =
            idle(&fleet, size, |f| Connection::open(f.member("edge-1").http()).unwrap());
        assert!(each <= counted, "plain, {size}: {each} bytes each, {counted} counted");
        let fleet = Fleet::start("idle-tls", &options);
        let (each, counted) = idle(&fleet, size, |f| {
            let tls = f.tls.clone().unwrap();
            Connection::open_tls(f.member("edge-1").https(), tls).unwrap()
        });
        assert!(each <= counted, "TLS, {size}: {each} bytes each, {counted} counted");
        let old = FleetOptions { https: true, ..self::options(old_devices) };
        let fleet = Fleet::start("idle-tls12", &old);
        let trusted = fleet.dir.join("edge-1.crt");
        let tls = client_of(&[&TLS12], &[&trusted], None);
        let (each, counted) = idle(&fleet, size, |f| {
            Connection::open_tls(f.member("edge-1").https(), tls.clone()).unwrap()
        });
        assert!(each <= counted, "TLS 1.2, {size}: {each} bytes each, {counted} counted");
    }
}

fn tight(snapshot: &mut Snapshot) {
    for server in snapshot.servers.iter_mut().filter(|server| server.id == "edge-1") {
        server.machine.memory_bytes = Some(300 * MIB);
    }
}

#[test]
fn slow_clients_are_shed_before_the_budget_is_passed() {
    // Goal: never more than memory_bytes, and shed in order. Method: clients that each ask for another part of one large
    // object and do not read, so that each holds a block of its own; together they would hold far more than the budget.
    // First nothing is brought in that only a player's word (CMCD) asks for, then nothing is admitted to the store, then no
    // connection is accepted; the process stays below its budget, the operator is served throughout, and when the slow clients
    // have gone all is as before.
    const CLIENTS: usize = 600;
    const STEP: usize = 512 << 10;
    const SIZE: usize = CLIENTS * STEP + (8 << 20);
    let fleet = Fleet::start("tight", &options(tight));
    let limit = fleet.counter("edge-1", "memory_limit_bytes");
    assert_eq!(limit, 300 * MIB);
    fleet.put("large.mp4", SIZE);
    fleet.put("next.m4s", 1000);
    // Each names an object that nobody knows yet; over a connection of its own, since each has few of these at once.
    let tell_next = |n: usize| {
        let next = format!("CMCD-Request: nor=\"next.m4s?{n}\"\r\n");
        assert_eq!(fleet.get("edge-1", "/next.m4s", &next).unwrap().status, 200);
    };
    let counted = |name: &str| fleet.counter("edge-1", name);
    let (mut not_brought_in, mut not_admitted) = (false, false);
    let mut slow = Vec::new();
    let mut seen = 0;
    while slow.len() < CLIENTS && seen < 2 {
        let mut stream = TcpStream::connect(fleet.member("edge-1").http()).unwrap();
        let range = format!("Range: bytes={}-", slow.len() * STEP);
        write!(stream, "GET /large.mp4 HTTP/1.1\r\nHost: {HOST}\r\n{range}\r\n\r\n").unwrap();
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
        if head.starts_with("HTTP/1.1 503") {
            break; // the last step of shedding came meanwhile
        }
        // Its block is here: what follows is judged with it. The head may come alone.
        stream.read_exact(&mut buffer).unwrap();
        assert!(head.starts_with("HTTP/1.1 206"), "{head}, client {}", slow.len());
        slow.push(stream);
        if !not_brought_in {
            tell_next(slow.len());
            not_brought_in = counted("prefetch_shed_total") > 0;
            assert_eq!(counted("store_memory_shed_total"), 0, "{not_brought_in}");
        } else if !not_admitted {
            not_admitted = counted("store_memory_shed_total") > 0;
            assert!(counted("memory_pressure") <= 1, "{not_admitted}");
        }
        seen = seen.max(fleet.counter("edge-1", "memory_pressure"));
        let resident = resident(&fleet, "edge-1", "VmHWM");
        assert!(resident <= limit, "{resident} bytes with {} clients", slow.len());
    }
    println!("connections were refused after {} slow clients", slow.len());
    // Those whose bytes are still on their way take their blocks as they come.
    fleet.until("no connection is accepted", |f| f.counter("edge-1", "memory_pressure") >= 2);
    assert!(resident(&fleet, "edge-1", "VmHWM") <= limit);
    assert!(not_brought_in && not_admitted);
    assert!(counted("prefetch_fills_total") > 0, "there was room for it at first");
    drop(slow);
    fleet.until("the pressure is gone", |fleet| fleet.counter("edge-1", "memory_pressure") == 0);
    let before = counted("prefetch_fills_total");
    tell_next(CLIENTS + 1);
    fleet.until("it is brought in again", |_| counted("prefetch_fills_total") > before);
    fleet.put("small.m4s", 3 << 20);
    let response = fleet.get("edge-1", "/small.m4s", "").unwrap();
    assert!(response.body == content("small.m4s", 3 << 20));
    assert!(resident(&fleet, "edge-1", "VmHWM") <= limit);
}

#[test]
fn bodies_of_requests_stay_within_the_budget() {
    // Goal: what clients send with their requests is counted while it comes, and refused before the budget is passed. Method: more
    // connections than have room in it each send a body but for its last byte; then they leave.
    const CLIENTS: usize = 400;
    const LENGTH: usize = 1 << 20;
    let fleet = Fleet::start("bodies", &options(tight));
    let limit = fleet.counter("edge-1", "memory_limit_bytes");
    let counted = || fleet.counter("edge-1", "memory_flexible_used_bytes");
    let before = counted();
    let head = format!("POST /pass/a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LENGTH}\r\n\r\n");
    let most = vec![7; LENGTH - 1];
    // Before there is no room for them any more.
    let open = || TcpStream::connect(fleet.member("edge-1").http()).unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| open()).collect();
    let mut refused = 0;
    for client in &mut clients {
        // Those that are refused are not read to their end.
        let sent = client.write_all(head.as_bytes()).and_then(|()| client.write_all(&most));
        refused += usize::from(sent.is_err());
        let peak = resident(&fleet, "edge-1", "VmHWM");
        assert!(peak <= limit, "{peak} bytes of {limit}");
    }
    fleet.until("some are refused", |f| f.counter("edge-1", "requests_shed_total") > 0);
    println!(
        "{refused} of {CLIENTS} saw it while they sent; {} bytes at most",
        resident(&fleet, "edge-1", "VmHWM")
    );
    assert!(counted() > before + 50 * MIB);
    drop(clients);
    fleet.until("all is given back", |_| counted() <= before + MIB);
}
