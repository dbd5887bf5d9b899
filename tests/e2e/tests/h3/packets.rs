//! Clients that break QUIC itself (reliability.md 2.4), with packets by hand: each costs little and ends its own
//! connection at most. What each attack cost is printed.

use crate::options;
use crate::raw::*;
use std::net::UdpSocket;
use std::time::Duration;
use tidegate_contract::Snapshot;
use tidegate_e2e::h3::request;
use tidegate_e2e::{Fleet, FleetOptions, cost};
use tidegate_http::Method;

/// Transport errors (RFC 9000 §20.1).
const INTERNAL_ERROR: u64 = 0x01;
const FLOW_CONTROL_ERROR: u64 = 0x03;
const STREAM_LIMIT_ERROR: u64 = 0x04;
const FINAL_SIZE_ERROR: u64 = 0x06;
const FRAME_ENCODING_ERROR: u64 = 0x07;
const CONNECTION_ID_LIMIT_ERROR: u64 = 0x09;
const PROTOCOL_VIOLATION: u64 = 0x0a;
const CRYPTO_BUFFER_EXCEEDED: u64 = 0x0d;
const KEY_UPDATE_ERROR: u64 = 0x0e;

/// What an attack may leave behind.
const GROWN_BYTES_MAX: u64 = 16 << 20;

fn get(path: &str) -> Vec<u8> {
    let head = request(&Method::Get, path, &[]);
    // STREAM with offset, length and the end of stream 0.
    frame(0x0f, &[0, 0, head.len() as u64], &head)
}

#[test]
fn an_address_that_is_not_proved_is_sent_three_times_its_own_bytes_at_most() {
    let fleet = Fleet::start("h3-three", &options());
    fleet.put("a.m4s", 1000);
    let address = fleet.member("edge-1").https();
    let hello = |first: &[u8]| {
        let mut raw = Raw::new(&fleet, address, first);
        let hello = raw.hello();
        raw.packet(Space::Initial, &hello)
    };
    let (whole, again, cut) = (hello(b"number 1"), hello(b"number 2"), hello(b"number 3"));
    // With a budget that is no multiple of a datagram.
    let junk = [&again[..], &[0x40; 200]].concat();
    let mut unknown = vec![0x5a; 1200];
    unknown[..6].copy_from_slice(&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8]);
    unknown[14] = 8;
    let mut stray = vec![0x33; 1200];
    stray[0] = 0x40;
    // And whether they may be answered at all.
    let cases: [(&str, Vec<u8>, bool); 7] = [
        ("a ClientHello, and then nothing", whole, true),
        ("the same, and junk behind it", junk, true),
        ("an Initial that is too short", cut[..1199].to_vec(), false),
        ("an unknown version", unknown.clone(), true),
        ("an unknown version, too short", unknown[..1100].to_vec(), false),
        ("of no connection", stray.clone(), true),
        ("of no connection, and tiny", stray[..20].to_vec(), false),
    ];
    let ((), _) = cost::of(&fleet, "addresses that are not proved", "/a.m4s", || {
        let sent: Vec<_> = (cases.iter())
            .map(|(name, bytes, answered)| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                socket.send_to(bytes, address).unwrap();
                (name, bytes.len(), answered, socket)
            })
            .collect();
        for (name, sent, answered, socket) in sent {
            // What is repeated counts too; as long as it listens it is no more than that.
            let (mut came, mut buffer) = (0, [0; 2048]);
            while let Ok(len) = socket.recv(&mut buffer) {
                came += len;
                assert!(came <= 3 * sent, "{name}: {came} for {sent}");
            }
            println!("{name}: {came} bytes for {sent}");
            assert_eq!(came > 0, *answered, "{name}");
        }
    });
}

#[test]
fn who_acknowledges_what_was_not_sent_is_ended() {
    let fleet = Fleet::start("h3-acks", &options());
    fleet.put("a.m4s", 1000);
    // Of the packet that came, what to acknowledge.
    type Attack = (&'static str, fn(u64) -> u64);
    let cases: [Attack; 2] = [
        ("packets that were never sent are acknowledged", |largest| largest + 100),
        // The edge leaves numbers out to find those who acknowledge blindly.
        ("numbers that were left out are acknowledged", |largest| largest),
    ];
    for (name, ahead) in cases {
        let (code, _) = cost::of(&fleet, name, "/a.m4s", || {
            let mut raw = Raw::open(&fleet);
            raw.say(&get("/a.m4s"));
            for n in 0u64.. {
                let frames = raw.receive_surely().expect("the edge goes on, or says why not");
                if let Some(close) = frames.iter().find(|f| f.kind == CLOSE) {
                    return close.numbers[0];
                }
                // One packet for one: in a burst the edge's last word would be lost, and it is said once.
                if let Some(largest) = raw.largest[Space::Data as usize] {
                    let next = frame(PATH_CHALLENGE, &[], &n.to_be_bytes());
                    raw.say(&[ack_all(ahead(largest)), next].concat());
                }
            }
            unreachable!("numbers do not end")
        });
        assert_eq!(code, PROTOCOL_VIOLATION, "{name}");
    }
}

#[test]
fn what_a_client_stops_wanting_does_not_leave_any_more() {
    const BODY_BYTES: usize = 500_000;
    // Goal: an answer that was written whole and is given up while it leaves is reset (RFC 9000 §3.5), instead of sent for nobody.
    // Method: a client that acknowledges one packet after the other, so that most still waits, stops the stream.
    let fleet = Fleet::start("h3-unwanted", &options());
    fleet.put("a.mp4", BODY_BYTES);
    fleet.get("edge-1", "/a.mp4", "").unwrap(); // in memory and in one block, so that it is written in one go
    let mut raw = Raw::open(&fleet);
    let code = 0x10c; // H3_REQUEST_CANCELLED
    let stop = frame(STOP_SENDING, &[0, code], &[]);
    let (mut has_come, mut came) = (false, 0);
    let reset = loop {
        let frames = raw.receive_surely().expect("the edge goes on");
        if let Some(reset) = frames.iter().find(|f| f.kind == RESET_STREAM) {
            break reset.numbers.clone();
        }
        let data = frames.iter().filter(|f| (0x08..=0x0f).contains(&f.kind) && f.numbers[0] == 0);
        came += data.map(|f| f.bytes.len()).sum::<usize>();
        assert!(came < BODY_BYTES, "all of it came");
        has_come |= came > 0;
        let word = if has_come { stop.clone() } else { get("/a.mp4") };
        let ack = raw.largest[Space::Data as usize].map(ack_one).unwrap_or_default();
        raw.say(&[ack, word].concat());
    };
    assert_eq!(reset[..2], [0, code]);
}

/// Sends packets of frames until the edge ends the connection or all are sent.
fn pour(raw: &mut Raw, packets: u64, frames: impl Fn(u64) -> Vec<u8>) -> Option<(u64, bool)> {
    for n in 0..packets {
        raw.say(&frames(n));
        // The edge is given time to read: what the socket drops is no attack.
        if n % 32 == 31 {
            if let Some(code) = raw.ended() {
                return Some(code);
            }
            std::thread::yield_now();
        }
    }
    None
}

#[test]
fn what_is_held_for_a_client_that_leaves_gaps_or_churns_is_bounded() {
    let fleet = Fleet::start("h3-churn", &options());
    fleet.put("a.m4s", 1000);
    // What is sent in so many packets, and how it is ended; `None`: it is borne, and answered to the end.
    type Attack = (&'static str, Option<u64>, u64, fn(u64) -> Vec<u8>);
    let attacks: [Attack; 4] = [
        ("single bytes with gaps, on 16 streams", Some(INTERNAL_ERROR), 16 * 200, |n| {
            let (id, begin) = (n / 200 * 4, n % 200 * 160);
            (0..160).flat_map(|at| stream(id, (begin + at) * 2 + 1, b"x")).collect()
        }),
        ("single bytes of the handshake with gaps", Some(INTERNAL_ERROR), 40, |n| {
            let one = |at| frame(CRYPTO, &[10_000 + (n * 100 + at) * 2, 1], b"x");
            (0..100).flat_map(one).collect()
        }),
        ("PATH_CHALLENGE", None, 3000, |n| {
            let one = |at: u64| frame(PATH_CHALLENGE, &[], &(n << 32 | at).to_be_bytes());
            (0..100).flat_map(one).collect()
        }),
        ("PING", None, 5000, |_| frame(PING, &[], &[]).repeat(1000)),
    ];
    for (name, code, packets, frames) in attacks {
        let (ended, cost) = cost::of(&fleet, name, "/a.m4s", || {
            let mut raw = Raw::open(&fleet);
            let ended = pour(&mut raw, packets, frames);
            match (ended, code) {
                (None, Some(_)) => raw.end(),
                (None, None) => raw.liveness().err(),
                (ended, _) => ended,
            }
        });
        assert_eq!(ended, code.map(|code| (code, false)), "{name}");
        assert!(cost.grown < GROWN_BYTES_MAX, "{name}: {} bytes", cost.grown);
    }
}

#[test]
fn connection_ids_that_replace_each_other_are_bounded() {
    let fleet = Fleet::start("h3-ids", &options());
    fleet.put("a.m4s", 1000);
    let ((), cost) = cost::of(&fleet, "connection ids that replace each other", "/a.m4s", || {
        let mut raw = Raw::open(&fleet);
        // How it ends it may not be able to say: nothing that it sends is acknowledged.
        let _ended = pour(&mut raw, 3000, |n| {
            let id = [&[8][..], &n.to_be_bytes(), &[7; 16]].concat();
            frame(NEW_CONNECTION_ID, &[n + 1, n + 1], &id)
        });
        assert!(Raw::open(&fleet).is_alive());
    });
    assert!(cost.grown < GROWN_BYTES_MAX, "{} bytes", cost.grown);
}

#[test]
fn who_breaks_the_transport_ends_only_its_own_connection() {
    let fleet = Fleet::start("h3-transport", &options());
    fleet.put("a.m4s", 1000);
    let cases: Vec<(&str, u64, Vec<u8>)> = vec![
        ("more than the stream's window", FLOW_CONTROL_ERROR, stream(0, 64 << 10, b"x")),
        ("more streams than allowed", STREAM_LIMIT_ERROR, stream(400, 0, b"x")),
        ("two ends of a stream", FINAL_SIZE_ERROR, {
            [frame(0x0f, &[0, 5, 1], b"x"), frame(0x0f, &[0, 9, 1], b"x")].concat()
        }),
        ("a stream that ends before its bytes", FINAL_SIZE_ERROR, {
            [stream(0, 100, b"x"), frame(0x04, &[0, 0, 5], &[])].concat()
        }),
        ("an unknown frame", FRAME_ENCODING_ERROR, frame(0x3f, &[], &[])),
        ("a frame cut off", FRAME_ENCODING_ERROR, frame(CRYPTO, &[0, 500], b"x")),
        ("HANDSHAKE_DONE of a client", PROTOCOL_VIOLATION, frame(HANDSHAKE_DONE, &[], &[])),
        ("an id retired that was never given", PROTOCOL_VIOLATION, {
            frame(RETIRE_CONNECTION_ID, &[1000], &[])
        }),
        ("more ids than are taken", CONNECTION_ID_LIMIT_ERROR, {
            let one = |n: u64| {
                let id = [&[8][..], &n.to_be_bytes(), &[n as u8; 16]].concat();
                frame(NEW_CONNECTION_ID, &[n, 0], &id)
            };
            (1..30).flat_map(one).collect()
        }),
        ("TLS messages far ahead", CRYPTO_BUFFER_EXCEEDED, frame(CRYPTO, &[1 << 20, 1], b"x")),
    ];
    for (name, code, frames) in cases {
        let (ended, _) = cost::of(&fleet, name, "/a.m4s", || {
            let mut raw = Raw::open(&fleet);
            raw.say(&frames);
            raw.end()
        });
        assert_eq!(ended, Some((code, false)), "{name}");
    }
}

#[test]
fn keys_are_changed_one_at_a_time() {
    let fleet = Fleet::start("h3-keys", &options());
    fleet.put("a.m4s", 1000);
    let (ended, _) = cost::of(&fleet, "a storm of key updates", "/a.m4s", || {
        let mut raw = Raw::open(&fleet);
        assert!(raw.is_alive());
        raw.update_key();
        assert!(raw.is_alive(), "the first one is in order");
        // Before anything was acknowledged.
        for _ in 0..200 {
            raw.update_key();
            raw.say(&frame(PING, &[], &[]));
        }
        raw.ended()
    });
    println!("ended: {ended:?}");
    assert!(ended.is_none_or(|ended| ended == (KEY_UPDATE_ERROR, false)), "{ended:?}");
}

#[test]
fn forged_resets_end_nothing() {
    let fleet = Fleet::start("h3-forged", &options());
    fleet.put("a.m4s", 1000);
    let mut raw = Raw::open(&fleet);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    cost::of(&fleet, "forged stateless resets", "/a.m4s", || {
        for n in 0..5000u32 {
            let tail = [&n.to_be_bytes()[..], &[9; 40]].concat();
            let forged = [&[0x40 | (n as u8 & 0x3f)], &raw.id[..], &tail].concat();
            // From the client's own address and from another one.
            let _lost = match n % 2 {
                0 => raw.send_datagram(&forged),
                _ => stranger.send_to(&forged, fleet.member("edge-1").https()).map(|_| ()),
            };
        }
    });
    assert!(raw.is_alive());
}

#[test]
fn a_hundred_thousand_initials_leave_nothing_behind() {
    let fleet =
        Fleet::start("h3-100000", &FleetOptions { cores: 1, adjust: unlimited, ..options() });
    fleet.put("a.m4s", 1000);
    let address = fleet.member("edge-1").https();
    // One that is well is served by HTTP/3 too.
    let mut well = Raw::open(&fleet);
    let memory = cost::resident(&fleet, "edge-1");
    cost::of(&fleet, "100,000 Initials", "/a.m4s", || {
        let mut raw = Raw::new(&fleet, address, b"the 1st!");
        let hello = raw.hello();
        raw.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        for n in 0..100_000u64 {
            raw.rename(&n.to_be_bytes());
            let _lost = raw.send(Space::Initial, &hello);
            while raw.socket.recv(&mut buffer).is_ok() {}
            assert!(n % 10_000 > 0 || well.is_alive(), "{n}");
        }
    });
    assert!(well.is_alive());
    assert!(fleet.counter("edge-1", "quic_retries_total") > 0);
    fleet.until("those that did not go on are given up", |fleet| {
        fleet.counter("edge-1", "tls_errors_total") > 0
            && cost::resident(fleet, "edge-1") < memory + GROWN_BYTES_MAX
    });
}

fn unlimited(snapshot: &mut Snapshot) {
    snapshot.servers.iter_mut().for_each(|s| s.machine.client_limits.floods_per_minute = 0);
}
