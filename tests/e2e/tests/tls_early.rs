//! Data with a client's first flight (0-RTT): answered from the cache before the handshake is over, or not before it is; and a flight
//! that is played back has no effect. Method: a client that keeps its last flight back until it is asked for, and a recording.

use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use tidegate_e2e::client::PATIENCE;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::tls::{EARLY_NOT as OTHER, client_of, name, takes_early_data};
use tidegate_e2e::{Fleet, FleetOptions};

const TIERS: [&str; 2] = ["edge-1", "parent-1"];

fn fleet(name: &str) -> Fleet {
    let options = FleetOptions {
        parents: 1,
        edges: 1,
        https: true,
        adjust: takes_early_data,
        ..FleetOptions::default()
    };
    Fleet::start(name, &options)
}

fn config(fleet: &Fleet) -> Arc<ClientConfig> {
    let mut config =
        ClientConfig::clone(&client_of(&[&TLS13], &[&fleet.dir.join("both.pem")], None));
    config.enable_early_data = true;
    Arc::new(config)
}

/// A client that sends what it is told to.
struct Client {
    tls: ClientConnection,
    tcp: TcpStream,
    come: Vec<u8>,
}

impl Client {
    /// Sends its first flight with this request, if it may send one with it; the flight.
    fn begin(
        fleet: &Fleet,
        config: &Arc<ClientConfig>,
        asked: &str,
        request: impl AsRef<[u8]>,
    ) -> (Client, Option<Vec<u8>>) {
        let tcp = TcpStream::connect(fleet.member("edge-1").https()).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let asked: ServerName<'static> = name(asked);
        let mut tls = ClientConnection::new(config.clone(), asked).unwrap();
        let flight = tls.early_data().map(|mut early| early.write_all(request.as_ref()).unwrap());
        let mut client = Client { tls, tcp, come: Vec::new() };
        let Some(()) = flight else { return (client, None) };
        let mut flight = Vec::new();
        while client.tls.wants_write() {
            client.tls.write_tls(&mut flight).unwrap();
        }
        client.tcp.write_all(&flight).unwrap();
        (client, Some(flight))
    }

    /// Reads until so much of an answer is there, or the handshake could be finished; sends nothing.
    fn read_until(&mut self, mut is_enough: impl FnMut(&Client) -> bool) {
        while !is_enough(self) {
            assert!(self.tls.read_tls(&mut self.tcp).unwrap() > 0, "the edge ended it");
            self.tls.process_new_packets().unwrap();
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = self.tls.reader().read(&mut piece) {
                self.come.extend_from_slice(&piece[..n]);
            }
        }
    }

    fn finish(&mut self) {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp).unwrap();
        }
    }

    /// Up to the end of an answer with this body.
    fn answer(&mut self, body: &[u8]) {
        self.read_until(|client| {
            client.come.ends_with(body)
                || !client.come.starts_with(b"HTTP/1.1 200") && client.come.len() > 20
        });
        assert!(self.come.starts_with(b"HTTP/1.1 200"), "{}", self.come.escape_ascii());
        self.come.clear();
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// A whole connection, for the tickets that come with it.
fn visit(fleet: &Fleet, config: &Arc<ClientConfig>, asked: &str, path: &str, body: &[u8]) {
    let (mut client, _) = Client::begin(fleet, config, asked, get(path));
    while client.tls.is_handshaking() {
        client.tls.complete_io(&mut client.tcp).unwrap();
    }
    if !client.tls.is_early_data_accepted() {
        client.tls.writer().write_all(get(path).as_bytes()).unwrap();
    }
    client.finish();
    client.answer(body);
}

#[test]
fn what_is_cached_is_answered_at_once_and_all_else_when_the_handshake_is_over() {
    let fleet = fleet("early");
    let config = config(&fleet);
    let body = fleet.put("t.m4s", 1000);
    let hits = || fleet.counter("edge-1", "early_hits_total");
    visit(&fleet, &config, HOST, "/t.m4s", &body);
    let (mut client, flight) = Client::begin(&fleet, &config, HOST, get("/t.m4s"));
    assert!(flight.is_some());
    client.answer(&body); // nothing but the first flight was sent
    assert_eq!(hits(), 1);
    // The connection goes on: with more before the handshake is over, at its end, and after it.
    client.finish();
    for _ in 0..3 {
        client.tls.writer().write_all(get("/t.m4s").as_bytes()).unwrap();
        client.finish();
        client.answer(&body);
    }
    assert_eq!(hits(), 1);

    let cold = fleet.put("cold.m4s", 2000);
    let sent = get("/pass/x").replace("GET", "POST");
    for (request, body) in [
        (get("/cold.m4s"), Some(&cold)),      // not cached
        (get("/t.m4s?token=1"), Some(&body)), // could be counted
        (get("/pass/t.m4s"), None),           // not for all alike
        (sent, None),                         // not safe
    ] {
        let asked = TIERS.map(|tier| fleet.counter(tier, "requests_total"));
        let fills = fleet.counter("edge-1", "fills_total");
        let (mut client, flight) = Client::begin(&fleet, &config, HOST, &request);
        assert!(flight.is_some(), "{request}");
        client.read_until(|client| !client.tls.is_handshaking());
        assert!(client.tls.is_early_data_accepted(), "{request}");
        // Asked by another one, on whichever core, the edge has looked at it by then.
        assert_eq!(fleet.get("edge-1", "/t.m4s", "").unwrap().status, 200);
        assert!(client.come.is_empty(), "{request}");
        assert_eq!(fleet.counter("edge-1", "fills_total"), fills, "{request}");
        assert_eq!(fleet.counter("parent-1", "requests_total"), asked[1], "{request}");
        client.finish();
        match body {
            Some(body) => client.answer(body),
            None => client.read_until(|client| client.come.starts_with(b"HTTP/1.1 ")),
        }
    }
    assert_eq!(hits(), 1);
    assert!(fleet.counter("parent-1", "requests_total") > 1, "in the end they were passed on");

    // Who says nothing of early data gets none.
    visit(&fleet, &config, OTHER, "/t.m4s", &body);
    assert!(Client::begin(&fleet, &config, OTHER, get("/t.m4s")).1.is_none());
}

#[test]
fn a_flight_that_is_played_back_has_no_effect() {
    const TIMES: usize = 100;
    let fleet = fleet("replay");
    let config = config(&fleet);
    let body = fleet.put("t.m4s", 1000);
    fleet.put("cold.m4s", 1000);
    visit(&fleet, &config, HOST, "/t.m4s", &body);
    let (mut client, hot) = Client::begin(&fleet, &config, HOST, get("/t.m4s"));
    client.answer(&body);
    let (mut held, cold) = Client::begin(&fleet, &config, HOST, get("/cold.m4s"));
    held.read_until(|client| !client.tls.is_handshaking());
    assert!(held.tls.is_early_data_accepted());
    let effects = || {
        let asked = fleet.counter("parent-1", "requests_total");
        let [hits, fills, shaken] = ["early_hits_total", "fills_total", "tls_errors_total"]
            .map(|counter| fleet.counter("edge-1", counter));
        ((asked, hits, fills), shaken)
    };
    let (before, errors) = effects();
    for flight in [hot.unwrap(), cold.unwrap()] {
        for _ in 0..TIMES {
            let mut tcp = TcpStream::connect(fleet.member("edge-1").https()).unwrap();
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            tcp.write_all(&flight).unwrap();
            // It is answered with a handshake, which nobody can finish who does not have the client's keys.
            let mut first = [0];
            tcp.read_exact(&mut first).unwrap();
            assert_eq!(first, [22]);
        }
    }
    fleet.until("all are given up", |_| effects().1 >= errors + 2 * TIMES as u64);
    assert_eq!(effects().0, before);
    // The client that was played back is none the worse for it.
    held.finish();
    held.read_until(|client| client.come.starts_with(b"HTTP/1.1 200"));
}

/// The preface, SETTINGS, and the head of a first stream that ends with it (RFC 9113; RFC 7541: two indexed fields, two literals).
fn get_by_h2(path: &str) -> Vec<u8> {
    let mut head = b"\x82\x87".to_vec();
    for (name, value) in [(4, path), (1, HOST)] {
        head.extend([name, value.len() as u8]);
        head.extend(value.as_bytes());
    }
    let begin = &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..];
    [begin, &[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1], &head].concat()
}

/// Whether a frame of this type has come on the first stream.
fn has_frame(client: &Client, kind: u8) -> bool {
    let mut rest = &client.come[..];
    while let Some((head, payload)) = rest.split_first_chunk::<9>() {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        if head[3] == kind && head[8] == 1 {
            return true;
        }
        let Some(next) = payload.get(length..) else { break };
        rest = next;
    }
    false
}

#[test]
fn over_http2_what_is_cached_is_answered_early_and_all_else_waits() {
    const HEADERS: u8 = 1;
    let fleet = fleet("early-h2");
    let body = fleet.put("t.m4s", 1000);
    let cold = fleet.put("cold.m4s", 2000);
    assert_eq!(fleet.get("edge-1", "/t.m4s", "").unwrap().status, 200);
    let mut config = ClientConfig::clone(&config(&fleet));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let request = get_by_h2("/t.m4s");
    let (mut client, flight) = Client::begin(&fleet, &config, HOST, &request);
    assert!(flight.is_none());
    while client.tls.is_handshaking() {
        client.tls.complete_io(&mut client.tcp).unwrap();
    }
    client.tls.writer().write_all(&request).unwrap();
    client.finish();
    client.read_until(|client| client.come.ends_with(&body));
    assert_eq!(fleet.counter("edge-1", "early_hits_total"), 0);

    let (mut client, flight) = Client::begin(&fleet, &config, HOST, &request);
    assert!(flight.is_some());
    client.read_until(|client| client.come.ends_with(&body)); // nothing but the first flight was sent
    assert!(client.tls.is_early_data_accepted());
    assert_eq!(fleet.counter("edge-1", "early_hits_total"), 1);
    client.come.clear();
    // The connection goes on, and is sure from then on: a second stream, with the same head.
    let mut second = request[24 + 9..].to_vec();
    second[8] = 3;
    client.tls.writer().write_all(&second).unwrap();
    client.finish();
    client.read_until(|client| client.come.ends_with(&body));
    assert_eq!(fleet.counter("edge-1", "early_hits_total"), 1);

    for (path, body) in
        [("/cold.m4s", Some(&cold)), ("/t.m4s?token=1", Some(&body)), ("/pass/t.m4s", None)]
    {
        let asked = fleet.counter("parent-1", "requests_total");
        let (mut client, flight) = Client::begin(&fleet, &config, HOST, get_by_h2(path));
        assert!(flight.is_some(), "{path}");
        client.read_until(|client| !client.tls.is_handshaking());
        assert!(client.tls.is_early_data_accepted(), "{path}");
        assert_eq!(fleet.get("edge-1", "/t.m4s", "").unwrap().status, 200);
        assert!(!has_frame(&client, HEADERS), "{path}");
        assert_eq!(fleet.counter("parent-1", "requests_total"), asked, "{path}");
        client.finish();
        match body {
            Some(body) => client.read_until(|client| client.come.ends_with(body)),
            None => client.read_until(|client| has_frame(client, HEADERS)),
        }
    }
    assert_eq!(fleet.counter("edge-1", "early_hits_total"), 1);
}
