//! Clients that do what they may not (reliability.md 2.4): each ends its own stream or connection, and who is beside it does
//! not notice.

use crate::{block_on, options, relay};
use quinn::{Connection, ConnectionError};
use std::future::Future;
use std::net::UdpSocket;
use std::pin::Pin;
use std::time::Duration;
use tidegate_contract::Snapshot;
use tidegate_e2e::h3::{self, Client, request};
use tidegate_e2e::{Fleet, FleetOptions, Gate, HandOrigin, reply};
use tidegate_http::Method;
use tidegate_http3::varint;

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(kind, &mut out);
    varint::encode(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// Opens a unidirectional stream with these bytes; it ends if `ended`.
async fn uni(quic: Connection, bytes: Vec<u8>, ended: bool) {
    let mut stream = quic.open_uni().await.unwrap();
    let _closed = stream.write_all(&bytes).await;
    if ended {
        let _closed = stream.finish();
    }
    let _closed = stream.stopped().await;
}

/// Two streams that begin alike.
async fn twice(quic: Connection, bytes: Vec<u8>) {
    tokio::join!(uni(quic.clone(), bytes.clone(), false), uni(quic, bytes, false));
}

/// Sends these bytes as a request, and reads what comes.
async fn bi(quic: Connection, bytes: Vec<u8>) {
    let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
    let _closed = sending.write_all(&bytes).await;
    let _closed = sending.finish();
    let _closed = receiving.read_to_end(1 << 20).await;
}

#[test]
fn who_breaks_a_rule_ends_only_its_own_connection() {
    let fleet = Fleet::start("h3-rules", &options());
    let body = fleet.put("a.m4s", 100_000);
    let get = || request(&Method::Get, "/a.m4s", &[]);
    block_on(async {
        let well = Client::connect(&fleet).await;
        type Attack = Pin<Box<dyn Future<Output = ()>>>;
        type Begin<'a> = Box<dyn Fn(Connection) -> Attack + 'a>;
        let control = [&[0][..], &frame(4, &[])].concat();
        let cases: Vec<(&str, u64, Begin<'_>)> = vec![
            ("control stream closed", 0x104, {
                let control = control.clone();
                Box::new(move |quic| Box::pin(uni(quic, control.clone(), true)))
            }),
            ("two control streams", 0x103, {
                let control = control.clone();
                Box::new(move |quic| Box::pin(twice(quic, control.clone())))
            }),
            ("two QPACK encoder streams", 0x103, Box::new(|quic| Box::pin(twice(quic, vec![2])))),
            ("two QPACK decoder streams", 0x103, Box::new(|quic| Box::pin(twice(quic, vec![3])))),
            ("the QPACK encoder stream closed", 0x104, {
                Box::new(|quic| Box::pin(uni(quic, vec![2], true)))
            }),
            ("a QPACK table larger than allowed", 0x201, {
                Box::new(|quic| Box::pin(uni(quic, vec![2, 0x3f, 0xe1, 0x1f], false)))
            }),
            ("an insertion into a QPACK table of nothing", 0x201, {
                Box::new(|quic| Box::pin(uni(quic, vec![2, 0x41, b'a', 1, b'b'], false)))
            }),
            ("a QPACK section acknowledged that was none", 0x202, {
                Box::new(|quic| Box::pin(uni(quic, vec![3, 0x80], false)))
            }),
            ("a request that names a QPACK table of nothing", 0x200, {
                Box::new(|quic| Box::pin(bi(quic, frame(1, &[1, 0, 0x80]))))
            }),
            ("no SETTINGS first", 0x10a, {
                let bytes = [&[0][..], &frame(7, &[0])].concat();
                Box::new(move |quic| Box::pin(uni(quic, bytes.clone(), false)))
            }),
            ("SETTINGS of HTTP/2", 0x109, {
                let bytes = [&[0][..], &frame(4, &[2, 0])].concat();
                Box::new(move |quic| Box::pin(uni(quic, bytes.clone(), false)))
            }),
            ("DATA on the control stream", 0x105, {
                let bytes = [&control[..], &frame(0, b"x")].concat();
                Box::new(move |quic| Box::pin(uni(quic, bytes.clone(), false)))
            }),
            ("a push stream", 0x103, Box::new(|quic| Box::pin(uni(quic, vec![1, 0], false)))),
            ("DATA before HEADERS", 0x105, { Box::new(|quic| Box::pin(bi(quic, frame(0, b"x")))) }),
            ("SETTINGS in a request", 0x105, Box::new(|quic| Box::pin(bi(quic, frame(4, &[]))))),
            ("a frame of HTTP/2", 0x105, Box::new(|quic| Box::pin(bi(quic, frame(6, &[]))))),
            ("HEADERS cut off", 0x106, {
                Box::new(|quic| Box::pin(bi(quic, get()[..5].to_vec())))
            }),
            ("no QPACK", 0x200, Box::new(|quic| Box::pin(bi(quic, frame(1, &[0, 0, 0xff, 0xff]))))),
        ];
        for (name, code, attack) in cases {
            let address = fleet.member("edge-1").https();
            let (_endpoint, quic) = h3::quic(&fleet, address, 1 << 16).await.unwrap();
            tokio::task::spawn_local(attack(quic.clone()));
            match quic.closed().await {
                ConnectionError::ApplicationClosed(why) => {
                    assert_eq!(why.error_code.into_inner(), code, "{name}: {why}");
                }
                other => panic!("{name}: {other}"),
            }
            assert!(well.get("/a.m4s", &[]).await.unwrap().body == body, "{name}");
        }
    });
}

#[test]
fn who_asks_badly_loses_only_its_stream() {
    let fleet = Fleet::start("h3-streams", &options());
    let body = fleet.put("a.m4s", 100_000);
    block_on(async {
        let client = Client::connect(&fleet).await;
        let large = "x".repeat(40_000);
        let answer = client.get("/a.m4s", &[("x-large", &large)]).await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 431), "{answer:?}");
        let long = format!("/{}", "x".repeat(20_000));
        let answer = client.get(&long, &[]).await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 414), "{answer:?}");
        let answer = client.get("/a.m4s", &[("content-length", "5")]).await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 400), "{answer:?}");
        // Frames that mean nothing are passed over (RFC 9114 §7.2.8).
        let (mut sending, mut receiving) = client.quic.open_bi().await.unwrap();
        let reserved = frame(0x21 + 0x1f * 7, b"grease");
        let asked = [&reserved[..], &request(&Method::Get, "/a.m4s", &[]), &reserved].concat();
        sending.write_all(&asked).await.unwrap();
        sending.finish().unwrap();
        let came = receiving.read_to_end(1 << 20).await.unwrap();
        assert!(came.len() > body.len());
        uni(client.quic.clone(), vec![0x21], false).await;
        assert!(client.get("/a.m4s", &[]).await.unwrap().body == body);
        assert_eq!(client.quic.close_reason(), None);
    });
}

#[test]
fn who_gives_up_all_that_it_asks_for_is_shown_the_door() {
    let fleet = Fleet::start("h3-reset", &options());
    let body = fleet.put("a.m4s", 3_000_000);
    block_on(async {
        let well = Client::connect(&fleet).await;
        assert!(well.get("/a.m4s", &[]).await.unwrap().body == body);
        let address = fleet.member("edge-1").https();
        let (_endpoint, quic) = h3::quic(&fleet, address, 1 << 16).await.unwrap();
        let mut streams = 0;
        let why = loop {
            let opened = tokio::select! {
                opened = quic.open_bi() => opened,
                why = quic.closed() => break why,
            };
            let Ok((mut sending, mut receiving)) = opened else { continue };
            let _closed = sending.write_all(&request(&Method::Get, "/a.m4s", &[])).await;
            let _closed = sending.finish();
            let _closed = receiving.stop(0x10c_u32.into());
            streams += 1;
            assert!(streams < 20_000, "borne to the end");
        };
        let ConnectionError::ApplicationClosed(why) = why else { panic!("{why}") };
        assert_eq!(why.error_code.into_inner(), 0x107, "{why}");
        assert!(well.get("/a.m4s", &[]).await.unwrap().body == body);
    });
    assert_eq!(fleet.counter("edge-1", "floods_total"), 1);
}

#[test]
fn datagrams_of_nothing_cost_nothing() {
    let fleet = Fleet::start("h3-garbage", &options());
    let body = fleet.put("a.m4s", 100_000);
    let address = fleet.member("edge-1").https();
    block_on(async {
        let well = Client::connect(&fleet).await;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut state = 1u64;
        for n in 0..4000usize {
            let mut bytes = vec![0; n * 7 % 3000];
            for byte in &mut bytes {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (state >> 56) as u8;
            }
            // A third of them are Initials, as far as one can see; a third look like packets of a connection.
            match (n % 3, bytes.first_chunk_mut::<6>()) {
                (0, Some(head)) => *head = [0xc0 | head[0], 0, 0, 0, 1, 10],
                (1, Some(head)) => head[0] = 0x40 | (head[0] & 0x3f),
                _ => {}
            }
            let _full = socket.send_to(&bytes, address);
        }
        for _ in 0..3 {
            assert!(well.get("/a.m4s", &[]).await.unwrap().body == body);
        }
        assert!(Client::connect(&fleet).await.get("/a.m4s", &[]).await.unwrap().body == body);
    });
    assert_eq!(fleet.counter("edge-1", "panics_total"), 0);
}

#[test]
fn when_many_begin_and_do_not_go_on_clients_prove_their_address() {
    // One core, so that all handshakes are counted together.
    let fleet = Fleet::start("h3-initials", &FleetOptions { cores: 1, ..options() });
    let body = fleet.put("a.m4s", 100_000);
    let retries = || fleet.counter("edge-1", "quic_retries_total");
    block_on(async {
        let well = Client::connect(&fleet).await;
        assert_eq!(retries(), 0);
        let silent = relay::one_way(fleet.member("edge-1").https()).await;
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = h3::configuration(&fleet, 1 << 16);
        let begun: Vec<_> = (0..200)
            .map(|_| endpoint.connect_with(config.clone(), silent.address, "127.0.0.1").unwrap())
            .collect();
        while silent.passed.get() < 200 {
            tokio::task::yield_now().await;
        }
        // Who is there goes on, and who is well gets in: it answers the Retry.
        assert!(well.get("/a.m4s", &[]).await.unwrap().body == body);
        let late = Client::connect(&fleet).await;
        assert!(late.get("/a.m4s", &[]).await.unwrap().body == body);
        drop(begun);
    });
    assert!(retries() > 100, "{}", retries());
    assert_eq!(fleet.counter("edge-1", "tls_handshakes_total"), 2);
}

#[test]
fn an_address_has_so_many_connections_and_proves_that_it_is_its_own() {
    let two = |snapshot: &mut Snapshot| {
        let edge = snapshot.servers.iter_mut().find(|s| s.id == "edge-1").unwrap();
        edge.machine.client_limits.connections = 2;
    };
    let fleet = Fleet::start("quic-callers", &FleetOptions { adjust: two, ..options() });
    let body = fleet.put("a.m4s", 1000);
    fleet.until("nobody else is there", |f| f.counter("edge-1", "connections_open") <= 1);
    block_on(async {
        let address = fleet.member("edge-1").https();
        let first = Client::connect(&fleet).await;
        let second = Client::connect(&fleet).await;
        for client in [&first, &second] {
            assert!(client.get("/a.m4s", &[]).await.unwrap().body == body);
        }
        let retries = fleet.counter("edge-1", "quic_retries_total");
        let third = h3::quic(&fleet, address, 1 << 16).await;
        assert!(third.is_err(), "it is turned away");
        assert!(fleet.counter("edge-1", "quic_retries_total") > retries, "after a proof");
        assert!(fleet.counter("edge-1", "clients_turned_away_total") > 0);
        assert!(second.get("/a.m4s", &[]).await.unwrap().body == body);
    });
}

#[test]
fn what_is_left_behind_is_held_against_its_address_until_it_is_over() {
    // Goal and method as over HTTP/2 (tests/e2e/tests/h2/leaving.rs).
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
    let options = FleetOptions { adjust: two, origin: Some(origin.address), ..options() };
    let fleet = Fleet::start("quic-left", &options);
    fleet.until("nobody else is there", |f| f.counter("edge-1", "connections_open") <= 1);
    let address = fleet.member("edge-1").https();
    block_on(async {
        for round in 1..=2 {
            let client = Client::connect(&fleet).await;
            let path = format!("/pass/{round}");
            let asked = async {
                while origin.count_of(&path) == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                _ = client.get(&path, &[]) => panic!("the origin holds it back"),
                () = asked => {}
            }
            client.quic.close(0u32.into(), b"");
            while fleet.counter("edge-1", "connections_open") > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(h3::quic(&fleet, address, 1 << 16).await.is_err(), "two are there");
        gate.open();
        while h3::quic(&fleet, address, 1 << 16).await.is_err() {}
    });
}

#[test]
fn a_client_of_an_edge_that_was_killed_learns_it_from_the_next_one() {
    // Two cores: the datagram may come to another one than the connection's was.
    let options = FleetOptions { cores: 2, adjust: shared_secret, ..options() };
    let mut fleet = Fleet::start("h3-killed", &options);
    let body = fleet.put("a.m4s", 1000);
    block_on(async {
        let mut clients = Vec::new();
        for _ in 0..6 {
            let client = Client::connect(&fleet).await;
            assert!(client.get("/a.m4s", &[]).await.unwrap().body == body);
            clients.push(client);
        }
        fleet.restart("edge-1");
        for client in &clients {
            let asked = client.get("/a.m4s", &[]).await;
            assert!(asked.is_err(), "{asked:?}");
            // By silence it would be `TimedOut`.
            assert_eq!(client.quic.closed().await, ConnectionError::Reset);
        }
        assert!(Client::connect(&fleet).await.get("/a.m4s", &[]).await.unwrap().body == body);
    });
}

fn shared_secret(snapshot: &mut Snapshot) {
    let edge = snapshot.servers.iter_mut().find(|s| s.id == "edge-1").unwrap();
    let secret = std::path::Path::new(&edge.machine.state_dir).join("secret");
    std::fs::write(&secret, [7; 32]).unwrap();
    edge.machine.ticket_secret_file = Some(secret.display().to_string());
}
