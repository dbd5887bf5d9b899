//! HTTP/3 (RFC 9114): what viewers get by it, over networks that lose, and what hostile clients do not.
//! Method: `quinn` with our own frames as the client, a relay as the network; real edges.

mod early;
mod hostile;
mod packets;
mod raw;
mod relay;
mod slow;

use bytes::Bytes;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tidegate_contract::Snapshot;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::h3::{self, Client};
use tidegate_e2e::{
    Connection, Fleet, FleetOptions, Gate, HandOrigin, alike, block_on, cost, reply,
};
use tidegate_http::Method;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options() -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, https: true, ..FleetOptions::default() }
}

fn with_origin(origin: &HandOrigin) -> FleetOptions {
    FleetOptions { origin: Some(origin.address), ..options() }
}

#[test]
fn many_streams_of_one_connection_get_their_bytes() {
    let fleet = Fleet::start("h3", &options());
    let sizes = [0, 1, 100, 16_375, 16_384, 100_000, 3_000_000];
    let bodies: Vec<_> =
        sizes.iter().map(|size| fleet.put(&format!("{size}.m4s"), *size)).collect();
    block_on(async {
        let client = Client::connect(&fleet).await;
        for round in 0..2 {
            let asked = (0..70).map(|n| {
                let client = client.clone();
                async move { client.get(&format!("/{}.m4s", sizes[n % sizes.len()]), &[]).await }
            });
            let asked: Vec<_> = asked.map(tokio::task::spawn_local).collect();
            for (n, answer) in asked.into_iter().enumerate() {
                let answer = answer.await.unwrap().unwrap();
                assert_eq!(answer.status, 200, "{round} {n}");
                assert!(answer.body == bodies[n % sizes.len()], "{round} {n}");
                let length = sizes[n % sizes.len()].to_string();
                assert_eq!(answer.field("content-length"), Some(&*length));
            }
        }
    });
    fleet.until("the log is written", |fleet| {
        let log = std::fs::read_to_string(fleet.dir.join("edge-1.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("\"HTTP/3\"")).count() == 140
    });
}

#[test]
fn who_asks_for_much_at_once_may_have_a_hundred_answers_under_way() {
    // Goal: what is allowed at first is not the end of it. Method: the origin keeps all waiting, so that no stream is free before.
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        held.wait();
        reply(stream, 200, "Cache-Control: max-age=60\r\n", &[9; 1000]);
    });
    let fleet = Fleet::start("h3-hundred", &with_origin(&origin));
    block_on(async {
        let address = fleet.member("edge-1").https();
        let (_endpoint, quic) = h3::quic(&fleet, address, 1 << 20).await.unwrap();
        let mut asked = Vec::new();
        for _ in 0..100 {
            let (mut sending, receiving) = quic.open_bi().await.unwrap();
            let request = h3::request(&Method::Get, "/a.m4s", &[]);
            sending.write_all(&request).await.unwrap();
            sending.finish().unwrap();
            asked.push(receiving);
        }
        let mut one_more = pin!(quic.open_bi());
        let waits = poll_fn(|cx| Poll::Ready(one_more.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "more than a hundred");
        gate.open();
        for mut receiving in asked {
            assert!(receiving.read_to_end(1 << 20).await.unwrap().len() > 1000);
        }
        one_more.await.unwrap();
    });
}

#[test]
fn streams_that_wait_cost_what_they_are_counted_with() {
    // Goal: what a connection may have under way is counted, not only the connection. Method: as many streams as connections may
    // have, all of them answered from the cache as far as a window takes it that has room for settings and not for an answer.
    const CLIENTS: u64 = 20;
    const STREAMS: u64 = 100;
    let fleet = Fleet::start("h3-waiting", &options());
    fleet.put("large.mp4", 4 << 20);
    fleet.get("edge-1", "/large.mp4", "").unwrap();
    let resident = || cost::resident(&fleet, "edge-1");
    let counted = || fleet.counter("edge-1", "memory_flexible_used_bytes");
    let request = h3::request(&Method::Get, "/large.mp4", &[]);
    block_on(async {
        let (mut connections, mut open) = (Vec::new(), Vec::new());
        let mut before = (0, 0);
        for n in 0..=CLIENTS {
            let asked = fleet.counter("edge-1", "requests_total");
            let address = fleet.member("edge-1").https();
            let (endpoint, quic) = h3::quic(&fleet, address, 200).await.unwrap();
            for _ in 0..STREAMS {
                let (mut sending, receiving) = quic.open_bi().await.unwrap();
                sending.write_all(&request).await.unwrap();
                sending.finish().unwrap();
                open.push((sending, receiving));
            }
            let all_are_asked = async {
                while fleet.counter("edge-1", "requests_total") < asked + STREAMS {
                    tokio::time::sleep(Duration::from_millis(5)).await; // the client has its turn
                }
            };
            tokio::time::timeout(Duration::from_secs(120), all_are_asked).await.unwrap();
            // The first one is there to be warm.
            if n == 0 {
                before = (resident(), counted());
            }
            connections.push((endpoint, quic));
        }
        let streams = CLIENTS * STREAMS;
        let resident = resident().saturating_sub(before.0) / streams;
        let counted = (counted() - before.1) / streams;
        println!("a stream that waits: {resident} bytes resident, {counted} counted");
        assert!(resident <= counted, "{resident} bytes each, {counted} counted");
    });
}

#[test]
fn a_request_behaves_alike_whatever_carried_it() {
    let fleet = Fleet::start("h3-alike", &options());
    let cases = alike::cases(&fleet);
    block_on(async {
        let client = Client::connect(&fleet).await;
        for case in &cases {
            let fields: Vec<_> = case.fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let other = client.ask(case.method, case.path, &fields, Bytes::new()).await.unwrap();
            case.check(&other);
        }
    });
}

/// Of an answer over HTTP/1.1 and TLS.
fn alt_svc(fleet: &Fleet) -> Option<String> {
    let tls = fleet.tls.clone().unwrap();
    let mut connection = Connection::open_tls(fleet.member("edge-1").https(), tls).unwrap();
    let head = format!("GET /a.m4s HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    connection.response(false).unwrap().field("alt-svc").map(str::to_owned)
}

#[test]
fn viewers_over_tls_are_told_of_it_unless_it_is_off() {
    // An origin's own word of it is not passed on.
    let origin = HandOrigin::start(LOCAL, |_, stream| {
        reply(stream, 200, "Cache-Control: max-age=60\r\nAlt-Svc: h3=\":1\"\r\n", b"body");
    });
    let fleet = Fleet::start("h3-told", &with_origin(&origin));
    let port = fleet.member("edge-1").https().port();
    let wanted = format!("h3=\":{port}\"; ma=86400");
    for _ in 0..2 {
        assert_eq!(alt_svc(&fleet), Some(wanted.clone()));
        assert_eq!(fleet.get("edge-1", "/a.m4s", "").unwrap().field("alt-svc"), None);
    }
    drop(fleet);
    let adjust = |snapshot: &mut Snapshot| {
        snapshot.servers.iter_mut().for_each(|server| server.http3 = false);
    };
    let fleet = Fleet::start("h3-off", &FleetOptions { adjust, ..with_origin(&origin) });
    assert_eq!(alt_svc(&fleet), None);
    // Nobody else has the port.
    std::net::UdpSocket::bind(fleet.member("edge-1").https()).unwrap();
}

#[test]
fn bodies_of_requests_are_passed_on_up_to_their_limit() {
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        reply(stream, 200, "", &[asked.line.as_bytes(), b"|", &asked.body].concat());
    });
    let fleet = Fleet::start("h3-bodies", &with_origin(&origin));
    block_on(async {
        let client = Client::connect(&fleet).await;
        let body = Bytes::from(vec![b'b'; 300_000]);
        let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
        let answer = client.ask("POST", "/pass/x", &cookies, body.clone()).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.ends_with(&body) && answer.body.starts_with(b"POST /pass/x HTTP/1.1|"));
        // Crumbs are one field again (RFC 9114 §4.2.1).
        assert_eq!(origin.all()[0].field("cookie"), "a=1; b=2");
        let large = Bytes::from(vec![b'b'; 1_100_000]);
        let answer = client.ask("POST", "/pass/x", &[], large).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 413));
        assert_eq!(client.get("/pass/y", &[]).await.unwrap().status, 200, "the connection goes on");
    });
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_body_that_breaks_off_is_a_reset_and_never_short() {
    // An answer without a strong tag cannot be resumed.
    let origin = HandOrigin::start(LOCAL, |_, stream| {
        use std::io::Write;
        let head =
            "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\nCache-Control: max-age=60\r\n\r\n";
        let _gone = stream.write_all(head.as_bytes());
        let _gone = stream.write_all(&[7; 900_000]);
        let _gone = stream.shutdown(std::net::Shutdown::Both);
    });
    let fleet = Fleet::start("h3-broken", &with_origin(&origin));
    block_on(async {
        let client = Client::connect(&fleet).await;
        for path in ["/a.m4s", "/pass/a"] {
            let error = client.get(path, &[]).await.unwrap_err();
            // H3_INTERNAL_ERROR.
            assert!(error.contains("reset") && error.contains("258"), "{path}: {error}");
        }
        // The connection is as good as before.
        assert!(client.get("/b.m4s", &[]).await.is_err());
        assert_eq!(client.quic.close_reason(), None);
    });
}

#[test]
fn a_stream_that_is_not_read_holds_up_no_other() {
    let fleet = Fleet::start("h3-unread", &options());
    fleet.put("large.m4s", 5_000_000);
    let body = fleet.put("small.m4s", 200_000);
    block_on(async {
        // Its windows are small: 64 KiB for each stream, much for the connection.
        let client = Client::through(&fleet, fleet.member("edge-1").https(), 1 << 16).await;
        let mut unread = Vec::new();
        for _ in 0..5 {
            unread.push(client.begin("/large.m4s", &[("priority", "u=0")]).await.unwrap());
        }
        for _ in 0..20 {
            let answer = client.get("/small.m4s", &[]).await.unwrap();
            assert!(answer.body == body);
        }
        drop(unread);
    });
}

#[test]
fn what_is_more_urgent_comes_first() {
    // Goal: what is asked for later and more urgent overtakes, however the client says so (RFC 9218), or its player (CMCD).
    // By turns, as much of the one as of the other would come in the same time.
    let fleet = Fleet::start("h3-urgent", &FleetOptions { ram_bytes: 128 << 20, ..options() });
    fleet.put("large.m4s", 28_000_000);
    let small = fleet.put("small.m4s", 12_000_000);
    for path in ["/large.m4s", "/small.m4s"] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().status, 200); // in memory now
    }
    // PRIORITY_UPDATE of the second request stream.
    let update = [0x80, 0x0f, 0x07, 0x00, 4, 4, b'u', b'=', b'1'];
    block_on(async {
        overtakes(&fleet, &small, &[("priority", "u=6")], &[("priority", "u=1")], None).await;
        overtakes(&fleet, &small, &[], &[], Some(&update)).await;
        // What players tell: a buffer that ran dry, a start, a low buffer, a near deadline.
        for said in ["bs", "su", "bl=3900", "dl=2000"] {
            overtakes(&fleet, &small, &[], &[("cmcd-request", said)], None).await;
        }
    });
}

/// Asks for both, with fields for each, and says something of the second on the control stream.
async fn overtakes(
    fleet: &Fleet,
    small: &[u8],
    first: &[(&str, &str)],
    second: &[(&str, &str)],
    said: Option<&[u8]>,
) {
    let client = Client::through(fleet, fleet.member("edge-1").https(), 1 << 30).await;
    let mut large = client.begin("/large.m4s", first).await.unwrap();
    let came = Rc::new(Cell::new(0));
    let (counted, mut first) = (came.clone(), large.some().await.unwrap());
    let reading = tokio::task::spawn_local(async move {
        while let Some(data) = first {
            counted.set(counted.get() + data.len());
            first = large.some().await.unwrap();
        }
    });
    let before = came.get();
    if let Some(frames) = said {
        client.say(frames).await;
    }
    let answer = client.get("/small.m4s", second).await.unwrap();
    let overtaken = came.get() - before;
    assert!(answer.body == small);
    println!("{overtaken} bytes of the less urgent one came before the last of the other");
    assert!(overtaken < small.len() / 2, "{overtaken}");
    reading.await.unwrap();
    assert_eq!(came.get(), 28_000_000);
}

#[test]
fn a_network_that_loses_brings_the_right_bytes() {
    let fleet = Fleet::start("h3-loss", &options());
    let body = fleet.put("a.m4s", 2_000_000);
    block_on(async {
        let lossy = relay::relay(fleet.member("edge-1").https(), |n| n % 23 == 0).await;
        let client = Client::through(&fleet, lossy.address, 1 << 20).await;
        for _ in 0..3 {
            assert!(client.get("/a.m4s", &[]).await.unwrap().body == body);
        }
        assert!(lossy.lost.get() > 100, "{}", lossy.lost.get());
    });
}

#[test]
fn players_with_enough_lend_where_packets_are_lost() {
    // Goal: the path is looked at while an answer leaves, and who has enough is held back where it is crowded, and nobody else.
    // Method: a network that loses one packet of eleven. Nothing that hangs on time is asserted: a delay may be the machine's.
    let fleet = Fleet::start("h3-lend", &options());
    let body = fleet.put("a.m4s", 4_000_000);
    let told = [
        "br=400000,tb=400000,bl=5000", // needs it itself
        "br=400000,tb=400000,bl=900,su",
        "br=400000,bl=20000", // does not say what is enough
        "br=400000,tb=400000,bl=20000",
    ];
    block_on(async {
        let lossy = relay::relay(fleet.member("edge-1").https(), |n| n % 11 == 0).await;
        let client = Client::through(&fleet, lossy.address, 1 << 20).await;
        for cmcd in told {
            let answer = client.get("/a.m4s", &[("cmcd-request", cmcd)]).await.unwrap();
            assert!(answer.body == body, "{cmcd}");
        }
        let lent = || fleet.counter("edge-1", "lent_answers_total");
        fleet.until("the last has lent", |_| lent() > 0);
        assert_eq!((lent(), fleet.counter("edge-1", "paced_answers_total")), (1, 3));
        // Some are given up at their head, which have written much more: the next one waits for nothing of it.
        let fields = [("cmcd-request", told[3])];
        for _ in 0..4 {
            client.begin("/a.m4s", &fields).await.unwrap();
        }
        assert!(client.get("/a.m4s", &fields).await.unwrap().body == body);
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 0);
}

#[test]
fn a_client_whose_address_changes_goes_on_and_finds_its_core() {
    let fleet = Fleet::start("h3-moves", &FleetOptions { cores: 2, ..options() });
    let body = fleet.put("a.m4s", 300_000);
    block_on(async {
        let client = Client::connect(&fleet).await;
        let mut moves = 0;
        // A new port leads to the other core half of the time.
        while fleet.counter("edge-1", "quic_forwarded_total") == 0 {
            assert!(moves < 64, "never came to the other core");
            assert!(client.get("/a.m4s", &[]).await.unwrap().body == body, "{moves}");
            client.rebind();
            assert!(client.get("/a.m4s", &[]).await.unwrap().body == body, "{moves}");
            moves += 1;
        }
        // It stays there, whatever is sent.
        for _ in 0..5 {
            assert!(client.get("/a.m4s", &[]).await.unwrap().body == body);
        }
    });
    assert_eq!(fleet.counter("edge-1", "tls_handshakes_total"), 1, "one connection all the time");
}

#[test]
fn a_stopping_edge_says_so_and_finishes_what_it_has_begun() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        held.wait();
        reply(stream, 200, "Cache-Control: max-age=60\r\n", &[9; 200_000]);
    });
    let options = FleetOptions { drain_seconds: 60, ..with_origin(&origin) };
    let mut fleet = Fleet::start("h3-goaway", &options);
    block_on(async {
        let (client, idle) = (Client::connect(&fleet).await, Client::connect(&fleet).await);
        let asking = client.clone();
        let under_way = tokio::task::spawn_local(async move { asking.get("/a.m4s", &[]).await });
        while origin.count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fleet.signal("edge-1", "TERM");
        let mut said = Vec::new();
        // First that there will be an end, then which is the last request that is answered.
        while said.last() != Some(&4) {
            said.extend(client.rules.borrow().peer_goaway());
            said.dedup();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(said.len() == 1 || said == [(1 << 62) - 4, 4], "{said:?}");
        assert!(client.get("/b.m4s", &[]).await.is_err(), "no new ones");
        // Who asked for nothing is let go at once, in order.
        let closed = idle.quic.closed().await;
        let no_error = |closed: &quinn::ConnectionError| {
            matches!(closed, quinn::ConnectionError::ApplicationClosed(why)
                if why.error_code.into_inner() == 0x100)
        };
        assert!(no_error(&closed), "{closed:?}");
        gate.open();
        let answer = under_way.await.unwrap().unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 200_000));
        let closed = client.quic.closed().await;
        assert!(no_error(&closed), "{closed:?}");
    });
    assert_eq!(fleet.wait_end("edge-1"), Some(0));
}
