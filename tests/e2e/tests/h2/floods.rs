//! Clients that cost and ask for nothing (reliability.md 2.1): each is shown the door, and who is beside it does not notice.
//! What an attack cost the edge is printed; nothing hangs on how much.

use crate::frames::*;
use crate::{block_on, options};
use std::time::Instant;
use tidegate_contract::Snapshot;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::h2::Client;
use tidegate_e2e::{Connection, Fleet, FleetOptions};

/// More than the sockets between a client and an edge hold: who has sent so much was read.
const FLOOD_BYTES: usize = 256 << 20;

/// Bytes of the edge that are in memory.
pub fn resident(fleet: &Fleet) -> u64 {
    let pid = fleet.member("edge-1").pid();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Sends `one(n)` again and again, reading nothing until the connection is ended; the GOAWAY's code, if one came.
fn flood(fleet: &Fleet, name: &str, mut one: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let (cpu, memory, begun) = (fleet.cpu_time("edge-1"), resident(fleet), Instant::now());
    let mut raw = Raw::open(fleet);
    let (mut sent, mut bytes) = (0, 0);
    loop {
        assert!(bytes < FLOOD_BYTES, "{name}: borne to the end");
        let frames: Vec<u8> = (0..50).flat_map(|n| one(sent + n)).collect();
        if raw.send(&frames).is_err() {
            break;
        }
        (sent, bytes) = (sent + 50, bytes + frames.len());
    }
    let code = raw.end();
    println!(
        "{name}: {sent} sent in {:?}, GOAWAY {code:?}; the edge: {:?} of CPU, {} KiB more",
        begun.elapsed(),
        fleet.cpu_time("edge-1").saturating_sub(cpu),
        resident(fleet).saturating_sub(memory) >> 10
    );
    code
}

#[test]
fn floods_are_ended_and_nobody_beside_them_notices() {
    // All of them, one after the other, from one address.
    let all = |snapshot: &mut Snapshot| {
        snapshot.servers.iter_mut().for_each(|s| s.machine.client_limits.floods_per_minute = 0);
    };
    let fleet = Fleet::start("floods", &FleetOptions { adjust: all, ..options() });
    let body = fleet.put("a.m4s", 100_000);
    let pid = fleet.member("edge-1").pid();
    block_on(async {
        let client = Client::connect(&fleet, "edge-1").await;
        assert!(client.get("/a.m4s", &[]).await.unwrap().body == body);
        type Attack = (&'static str, fn(u32) -> Vec<u8>);
        let attacks: [Attack; 11] = [
            ("PING", |n| frame(PING, 0, 0, &u64::from(n).to_be_bytes())),
            ("SETTINGS", |_| frame(SETTINGS, 0, 0, &[])),
            ("SETTINGS with a value", |n| {
                frame(SETTINGS, 0, 0, &[&[0, 1][..], &(n % 4096).to_be_bytes()].concat())
            }),
            ("PRIORITY", |n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 16])),
            ("WINDOW_UPDATE", |_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
            ("an unknown type", |n| frame(200, 0, 2 * n + 1, &[])),
            ("rapid reset", |n| {
                let stream = 2 * n + 1;
                let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/a.m4s"));
                [open, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
            }),
            ("streams that we must reset (MadeYouReset)", |n| {
                let stream = 2 * n + 1;
                let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/a.m4s"));
                [open, frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes())].concat()
            }),
            ("DATA without data", |n| match n {
                0 => frame(HEADERS, END_HEADERS, 1, &[&get("/a.m4s")[..]].concat()),
                _ => frame(DATA, 0, 1, &[]),
            }),
            ("CONTINUATION without end", |n| match n {
                0 => frame(HEADERS, END_STREAM, 1, &get("/a.m4s")),
                _ => frame(CONTINUATION, 0, 1, &field(b"x-a", b"b")),
            }),
            ("empty CONTINUATION", |n| match n {
                0 => frame(HEADERS, END_STREAM, 1, &get("/a.m4s")),
                _ => frame(CONTINUATION, 0, 1, &[]),
            }),
        ];
        for (name, attack) in attacks {
            let code = std::thread::scope(|scope| {
                let fleet = &fleet;
                scope.spawn(move || flood(fleet, name, attack)).join().unwrap()
            });
            assert_eq!(code, Some(11), "{name}: ENHANCE_YOUR_CALM");
            let answer = client.get("/a.m4s", &[]).await.unwrap();
            assert!(answer.body == body, "{name}: the one beside it");
        }
    });
    assert_eq!(fleet.status("edge-1")["pid"], pid, "the process lives");
    assert!(fleet.counter("edge-1", "floods_total") > 0);
}

#[test]
fn requests_that_unpack_to_much_are_refused() {
    let fleet = Fleet::start("bombs", &options());
    fleet.put("a.m4s", 1000);
    let memory = resident(&fleet);
    // One long value put into the table once, then named by one byte each time (RFC 7541 §6.1).
    let mut bomb = get("/a.m4s");
    bomb.push(0x40);
    bomb.extend(&field(b"x-bomb", &[b'b'; 3900])[1..]);
    bomb.extend([0xbe; 4000]);
    let mut raw = Raw::open(&fleet);
    for n in 0..50 {
        let sent = raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &bomb));
        if sent.is_err() {
            break;
        }
    }
    drop(raw);
    // Many small fields.
    let mut many = get("/a.m4s");
    (0..1000).for_each(|n| many.extend(field(format!("x-{n}").as_bytes(), b"")));
    let mut raw = Raw::open(&fleet);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &many)).unwrap();
    let verdict =
        std::iter::from_fn(|| raw.next()).find(|f| [HEADERS, RST_STREAM, GOAWAY].contains(&f.kind));
    assert!(verdict.is_some(), "it is answered");
    let grown = resident(&fleet).saturating_sub(memory);
    println!("grown by {} KiB", grown >> 10);
    assert!(grown < 16 << 20, "{grown} bytes");
    let mut good = Raw::open(&fleet);
    good.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/a.m4s"))).unwrap();
    assert!(good.until(DATA).is_some());
}

#[test]
fn who_does_not_speak_http_2_is_let_go() {
    let fleet = Fleet::start("prefaces", &options());
    fleet.put("a.m4s", 1000);
    let cases: [(&str, Vec<u8>); 6] = [
        ("HTTP/1.1", b"GET /a.m4s HTTP/1.1\r\nHost: film.example\r\n\r\n".to_vec()),
        ("noise", vec![0xff; 100]),
        (
            "preface and noise",
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0xff; 100]].concat(),
        ),
        (
            "a frame that is too long",
            [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(SETTINGS, 0, 0, &[]),
                frame(DATA, 0, 1, &vec![0; 20_000]),
            ]
            .concat(),
        ),
        (
            "DATA for a stream that is none",
            [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(SETTINGS, 0, 0, &[]),
                frame(DATA, 0, 7, b"x"),
            ]
            .concat(),
        ),
        (
            "a window beyond all measure",
            [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(SETTINGS, 0, 0, &[]),
                frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()),
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in cases {
        let mut raw = Raw::connect(&fleet);
        // It may have closed before the last byte has left.
        let _gone = raw.send(&bytes);
        let code = raw.end();
        assert_ne!(code, Some(0), "{name}: an error, or nothing at all");
    }
    let mut good = Raw::open(&fleet);
    good.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/a.m4s"))).unwrap();
    assert!(good.until(DATA).is_some());
}

#[test]
fn an_address_that_floods_again_and_again_is_let_in_no_more_for_a_while() {
    let twice = |snapshot: &mut Snapshot| {
        snapshot.servers.iter_mut().for_each(|s| s.machine.client_limits.floods_per_minute = 2);
    };
    let fleet = Fleet::start("again", &FleetOptions { adjust: twice, ..options() });
    let body = fleet.put("a.m4s", 1000);
    let edge = fleet.member("edge-1");
    // One that came before stays.
    let mut early = Connection::open(edge.http()).unwrap();
    for (name, one) in [
        ("PING", (|n| frame(PING, 0, 0, &u64::from(n).to_be_bytes())) as fn(u32) -> Vec<u8>),
        ("rapid reset", |n| {
            let stream = 2 * n + 1;
            let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/a.m4s"));
            [open, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
        }),
    ] {
        flood(&fleet, name, one);
    }
    fleet.until("both are held against it", |f| f.counter("edge-1", "floods_total") == 2);
    let before = fleet.counter("edge-1", "clients_turned_away_total");
    let mut late = Connection::open(edge.http()).unwrap();
    assert!(late.get(HOST, "/a.m4s", "").is_err(), "it is turned away");
    assert!(fleet.counter("edge-1", "clients_turned_away_total") > before);
    assert!(early.get(HOST, "/a.m4s", "").unwrap().body == body);
    let mut other = Connection::open_from([127, 0, 0, 77].into(), edge.http()).unwrap();
    assert!(other.get(HOST, "/a.m4s", "").unwrap().body == body, "another address");
}
