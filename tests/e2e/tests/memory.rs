//! The memory budget: what is counted is what the process takes, and what it takes is never more.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use tidegate_contract::Snapshot;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions, content};

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

#[test]
fn idle_connections_cost_what_they_are_counted_with() {
    const CLIENTS: usize = 1000;
    let fleet = Fleet::start("idle", &options(|_| {}));
    fleet.put("i.m4s", 100);
    let ask = format!("GET /i.m4s HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let connect = || {
        let mut stream = TcpStream::connect(fleet.member("edge-1").http()).unwrap();
        stream.write_all(ask.as_bytes()).unwrap();
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        stream
    };
    let _first: Vec<_> = (0..50).map(|_| connect()).collect();
    let before = resident(&fleet, "edge-1", "VmRSS");
    let counted = fleet.counter("edge-1", "memory_flexible_used_bytes");
    let _more: Vec<_> = (0..CLIENTS).map(|_| connect()).collect();
    let each = (resident(&fleet, "edge-1", "VmRSS") - before) / CLIENTS as u64;
    let counted = fleet.counter("edge-1", "memory_flexible_used_bytes") - counted;
    println!("an idle connection: {each} bytes resident, {} counted", counted / CLIENTS as u64);
    assert!(each <= counted / CLIENTS as u64, "{each} bytes each");
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
    // First nothing is admitted to the store, then no connection is accepted; the process stays below its budget, the
    // operator is served throughout, and when the slow clients have gone all is as before.
    const CLIENTS: usize = 600;
    const STEP: usize = 512 << 10;
    const SIZE: usize = CLIENTS * STEP + (8 << 20);
    let fleet = Fleet::start("tight", &options(tight));
    let limit = fleet.counter("edge-1", "memory_limit_bytes");
    assert_eq!(limit, 300 * MIB);
    fleet.put("large.mp4", SIZE);
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
        assert!(head.starts_with("HTTP/1.1 206"), "{head}, client {}", slow.len());
        slow.push(stream);
        seen = seen.max(fleet.counter("edge-1", "memory_pressure"));
        let resident = resident(&fleet, "edge-1", "VmHWM");
        assert!(resident <= limit, "{resident} bytes with {} clients", slow.len());
    }
    println!("connections were refused after {} slow clients", slow.len());
    // Those whose bytes are still on their way take their blocks as they come.
    fleet.until("no connection is accepted", |f| f.counter("edge-1", "memory_pressure") >= 2);
    assert!(resident(&fleet, "edge-1", "VmHWM") <= limit);
    assert!(fleet.counter("edge-1", "store_not_admitted_total") > 0);
    drop(slow);
    fleet.until("the pressure is gone", |fleet| fleet.counter("edge-1", "memory_pressure") == 0);
    fleet.put("small.m4s", 3 << 20);
    let response = fleet.get("edge-1", "/small.m4s", "").unwrap();
    assert!(response.body == content("small.m4s", 3 << 20));
    assert!(resident(&fleet, "edge-1", "VmHWM") <= limit);
}
