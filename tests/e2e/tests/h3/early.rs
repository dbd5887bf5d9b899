//! Data with a client's first flight (0-RTT, RFC 9001 section 4.6): the same rules as over TCP (`tls_early.rs`). Method: `quinn`
//! through a network that lets nothing but the first flight through until it is told to, and a recording of that flight.

use crate::relay::{self, Held};
use crate::{block_on, options};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, ZeroRttAccepted};
use rustls::version::TLS13;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::h3::request;
use tidegate_e2e::tls::{EARLY_NOT as OTHER, client_of, takes_early_data};
use tidegate_e2e::{Fleet, FleetOptions};
use tidegate_http::Method;

/// One core: its socket gives out datagrams in the order in which they came.
fn fleet(name: &str) -> Fleet {
    Fleet::start(name, &FleetOptions { cores: 1, adjust: takes_early_data, ..options() })
}

fn get(path: &str) -> Vec<u8> {
    request(&Method::Get, path, &[])
}

/// Who comes again and again.
struct Visitor {
    endpoint: Endpoint,
    edge: SocketAddr,
}

/// A request that left with the first flight.
struct Early {
    quic: Connection,
    accepted: ZeroRttAccepted,
    answer: tokio::task::JoinHandle<Vec<u8>>,
    net: Held,
}

/// Sends a request and reads its answer, in frames.
async fn ask(quic: Connection, request: Vec<u8>) -> Vec<u8> {
    let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
    sending.write_all(&request).await.unwrap();
    sending.finish().unwrap();
    receiving.read_to_end(1 << 20).await.unwrap()
}

impl Visitor {
    fn new(fleet: &Fleet) -> Visitor {
        let trusted = fleet.dir.join("both.pem");
        let mut tls = rustls::ClientConfig::clone(&client_of(&[&TLS13], &[&trusted], None));
        tls.alpn_protocols = vec![b"h3".to_vec()];
        tls.enable_early_data = true;
        let tls = QuicClientConfig::try_from(Arc::new(tls)).unwrap();
        let mut endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        Visitor { endpoint, edge: fleet.member("edge-1").https() }
    }

    /// A whole connection, for the tickets that come with it, before the answer.
    async fn visit(&self, asked: &str, path: &str, body: &[u8]) {
        let quic = self.endpoint.connect(self.edge, asked).unwrap().await.unwrap();
        let answer = ask(quic.clone(), get(path)).await;
        assert!(answer.ends_with(body), "{}", answer.escape_ascii());
        quic.close(0u32.into(), b"");
    }

    /// Sends a request with the first flight, if it may.
    async fn begin(&self, asked: &str, request: Vec<u8>) -> Option<Early> {
        let net = relay::held(self.edge).await;
        let connecting = self.endpoint.connect(net.address, asked).unwrap();
        let (quic, accepted) = connecting.into_0rtt().ok()?;
        let answer = tokio::task::spawn_local(ask(quic.clone(), request));
        Some(Early { quic, accepted, answer, net })
    }
}

#[test]
fn what_is_cached_is_answered_at_once_and_all_else_when_the_handshake_is_over() {
    let fleet = fleet("h3-early");
    let body = fleet.put("t.m4s", 400);
    let cold = fleet.put("cold.m4s", 400);
    let hits = || fleet.counter("edge-1", "early_hits_total");
    let effects = || {
        let asked = fleet.counter("parent-1", "requests_total");
        (asked, fleet.counter("edge-1", "fills_total"), hits())
    };
    block_on(async {
        let visitor = Visitor::new(&fleet);
        assert!(visitor.begin(HOST, get("/t.m4s")).await.is_none(), "it was never here");
        visitor.visit(HOST, "/t.m4s", &body).await;
        let early = visitor.begin(HOST, get("/t.m4s")).await.unwrap();
        let answer = early.answer.await.unwrap(); // nothing but the first flight came through
        assert!(answer.ends_with(&body), "{}", answer.escape_ascii());
        assert_eq!(hits(), 1);
        // The connection goes on.
        early.net.open();
        assert!(early.accepted.await);
        assert!(ask(early.quic.clone(), get("/t.m4s")).await.ends_with(&body));
        assert_eq!(hits(), 1);

        for (request, body) in [
            (get("/cold.m4s"), Some(&cold)),      // not cached
            (get("/t.m4s?token=1"), Some(&body)), // could be counted
            (get("/pass/t.m4s"), None),           // not for all alike
            (request(&Method::parse(b"POST").unwrap(), "/t.m4s", &[]), None), // not safe
        ] {
            let before = effects();
            let early = visitor.begin(HOST, request.clone()).await.unwrap();
            early.net.answered().await;
            // Asked by another one, behind it, the edge has looked at it by then.
            visitor.visit(HOST, "/t.m4s", b"").await;
            let shown = request.escape_ascii();
            assert_eq!(effects(), before, "{shown}");
            assert!(!early.answer.is_finished(), "{shown}");
            early.net.open();
            assert!(early.accepted.await, "{shown}");
            let answer = early.answer.await.unwrap();
            assert!(body.is_none_or(|body| answer.ends_with(body)), "{shown}");
        }
        assert_eq!(hits(), 1);

        // Who says nothing of early data gets none.
        visitor.visit(OTHER, "/t.m4s", b"").await;
        assert!(visitor.begin(OTHER, get("/t.m4s")).await.is_none());
    });
}

#[test]
fn a_flight_that_is_played_back_has_no_effect() {
    const TIMES: usize = 100;
    let fleet = fleet("h3-replay");
    let body = fleet.put("t.m4s", 400);
    let cold = fleet.put("cold.m4s", 400);
    let effects = || {
        let asked = fleet.counter("parent-1", "requests_total");
        let of_edge = ["early_hits_total", "fills_total"].map(|name| fleet.counter("edge-1", name));
        (asked, of_edge)
    };
    block_on(async {
        let visitor = Visitor::new(&fleet);
        visitor.visit(HOST, "/t.m4s", &body).await;
        let hot = visitor.begin(HOST, get("/t.m4s")).await.unwrap();
        assert!(hot.answer.await.unwrap().ends_with(&body));
        hot.net.open();
        assert!(hot.accepted.await);
        hot.quic.close(0u32.into(), b"");
        let held = visitor.begin(HOST, get("/cold.m4s")).await.unwrap();
        held.net.answered().await;
        let before = effects();
        let send = |flight: &[Vec<u8>]| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            flight.iter().for_each(|datagram| {
                socket.send_to(datagram, visitor.edge).unwrap();
            });
            socket
        };
        // Once the edge has forgotten its connection, the flight begins a handshake like any other, which nobody can finish who
        // does not have the client's keys.
        let flight = hot.net.flight();
        fleet.until("it is answered", |_| {
            let socket = send(&flight);
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket.recv(&mut [0; 2000]).is_ok()
        });
        for flight in [flight, held.net.flight()] {
            for _ in 0..TIMES {
                send(&flight);
                tokio::task::yield_now().await;
            }
        }
        visitor.visit(HOST, "/t.m4s", &body).await;
        assert_eq!(effects(), before);
        // The client that was played back is none the worse for it, and is the only one for whom anything is asked.
        held.net.open();
        assert!(held.accepted.await);
        assert!(held.answer.await.unwrap().ends_with(&cold));
        assert_eq!(fleet.counter("edge-1", "fills_total"), before.1[1] + 1);
    });
}
