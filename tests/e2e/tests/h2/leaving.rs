//! Clients that leave in the middle, and what they leave behind: nothing that is not counted as theirs, and nothing for ever.

use crate::frames::*;
use crate::{LOCAL, options, with_origin};
use tidegate_contract::Snapshot;
use tidegate_e2e::{Fleet, FleetOptions, Gate, HandOrigin, reply};

/// Lines of the edge's log that were asked for over HTTP/2 with this path.
fn logged(fleet: &Fleet, path: &str) -> usize {
    let log = std::fs::read_to_string(fleet.dir.join("edge-1.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains("\"HTTP/2\"") && line.contains(path)).count()
}

#[test]
fn who_leaves_while_many_answers_wait_for_their_turn_leaves_none_of_them() {
    // Goal: an answer that waits for its turn to write ends with its connection. Method: more answers than may write at once, none
    // of them read to its end; each request must come to its line in the log.
    const STREAMS: u32 = 40;
    let fleet = Fleet::start("h2-leaving", &options());
    fleet.put("large.mp4", 4 << 20);
    fleet.get("edge-1", "/large.mp4", "").unwrap();
    let mut raw = Raw::connect(&fleet);
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).unwrap();
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffff - 65_535u32).to_be_bytes())).unwrap();
    for n in 0..STREAMS {
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &get("/large.mp4"))).unwrap();
    }
    // All of them are being answered, far more than any socket holds.
    let heads = std::iter::from_fn(|| raw.next()).filter(|frame| frame.kind == HEADERS);
    assert_eq!(heads.take(STREAMS as usize).count(), STREAMS as usize);
    assert_eq!(logged(&fleet, "/large.mp4"), 0);
    drop(raw);
    fleet.until("each request has ended", |f| logged(f, "/large.mp4") == STREAMS as usize);
}

#[test]
fn what_is_left_behind_is_held_against_its_address_until_it_is_over() {
    // Goal: who asks for much that is slow, leaves and comes again has no more under way than who stays. Method: as many connections
    // as the address may have, each with streams whose answers the origin holds back; each ends in order, and its end is seen.
    let gate = Gate::default();
    let held = gate.clone();
    // Not at the address that this test comes from: servers have no limits.
    let origin = HandOrigin::start([127, 0, 0, 78].into(), move |_, stream| {
        held.wait();
        reply(stream, 200, "Cache-Control: no-store\r\n", b"late");
    });
    let two = |snapshot: &mut Snapshot| {
        let edge = snapshot.servers.iter_mut().find(|s| s.id == "edge-1").unwrap();
        edge.machine.client_limits.connections = 2;
    };
    let fleet = Fleet::start("h2-left", &FleetOptions { adjust: two, ..with_origin(&origin) });
    fleet.until("nobody else is there", |f| f.counter("edge-1", "connections_open") <= 1);
    for round in 1..=2 {
        let mut raw = Raw::open(&fleet);
        for n in 0..5 {
            let head = get(&format!("/pass/{round}/{n}"));
            raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &head)).unwrap();
        }
        fleet.until("they are asked for", |_| origin.count() > 0);
        // Answered behind all that was asked.
        raw.send(&frame(PING, 0, 0, b"12345678")).unwrap();
        assert!(raw.until(PING).is_some());
        raw.leave();
        assert_eq!(raw.end(), None, "the edge has said goodbye, too");
    }
    let is_let_in = |fleet: &Fleet| Raw::try_open(fleet).ok()?.until(SETTINGS);
    assert!(is_let_in(&fleet).is_none(), "two are there");
    assert!(fleet.counter("edge-1", "clients_turned_away_total") > 0);
    gate.open();
    fleet.until("there is room again", |fleet| is_let_in(fleet).is_some());
}

/// Of a POST whose body is to be passed on.
fn post(path: &str, length: usize) -> Vec<u8> {
    [
        field(b":method", b"POST"),
        field(b":scheme", b"https"),
        field(b":authority", tidegate_e2e::fleet::HOST.as_bytes()),
        field(b":path", path.as_bytes()),
        field(b"content-length", length.to_string().as_bytes()),
    ]
    .concat()
}

#[test]
fn bodies_that_wait_for_their_end_stay_within_the_budget() {
    // Goal: bodies of requests are counted while they come, and shed before the budget is passed. Method: connections whose streams
    // each send a body but for its last byte, far more in all than the budget; then they leave.
    const CONNECTIONS: usize = 5;
    const STREAMS: u32 = 90;
    const LENGTH: usize = 1 << 20;
    let origin = HandOrigin::start(LOCAL, |_, stream| reply(stream, 200, "", b"x"));
    let tight = |snapshot: &mut Snapshot| {
        let edge = snapshot.servers.iter_mut().find(|s| s.id == "edge-1").unwrap();
        edge.machine.memory_bytes = Some(300 << 20);
    };
    let fleet = Fleet::start("h2-bodies", &FleetOptions { adjust: tight, ..with_origin(&origin) });
    let counted = || fleet.counter("edge-1", "memory_flexible_used_bytes");
    let (limit, before) = (fleet.counter("edge-1", "memory_limit_bytes"), counted());
    let piece = [7; 16 << 10];
    // Before there is no room for them any more.
    let mut open: Vec<_> = (0..CONNECTIONS).map(|_| Raw::open(&fleet)).collect();
    for raw in &mut open {
        for n in 0..STREAMS {
            let head = frame(HEADERS, END_HEADERS, 2 * n + 1, &post("/pass/a", LENGTH));
            let data = frame(DATA, 0, 2 * n + 1, &piece);
            let most = [head, data.repeat(LENGTH / piece.len() - 1)].concat();
            if raw.send(&most).is_err() {
                break;
            }
        }
        let resident = tidegate_e2e::cost::peak(&fleet, "edge-1");
        assert!(resident <= limit, "{resident} bytes of {limit}");
        if fleet.counter("edge-1", "requests_shed_total") > 0 {
            break;
        }
    }
    fleet.until("some are refused", |f| f.counter("edge-1", "requests_shed_total") > 0);
    let resident = tidegate_e2e::cost::peak(&fleet, "edge-1");
    println!("{resident} bytes of {limit}");
    assert!(resident <= limit, "{resident} bytes of {limit}");
    assert!(counted() > before + (50 << 20));
    drop(open);
    fleet.until("all is given back", |_| counted() <= before + (1 << 20));
    assert_eq!(origin.count(), 0, "none of them was whole");
}
