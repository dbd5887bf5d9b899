//! Clients that mean ill by their handshakes over TCP: what they send ends, costs little, and is nobody else's trouble. Method:
//! hellos of a real client, cut, blown up and left, and records sealed by hand where no client does what is tried. Each is tried
//! on an edge that looks at hellos before it answers (a service takes TLS 1.2) and on one that does not.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use tidegate_contract::{Snapshot, TlsVersion};
use tidegate_e2e::client::PATIENCE;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::tls::{client_of, client_with, name};
use tidegate_e2e::{Connection, Fleet, FleetOptions};

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const ALERT: u8 = 21;
const HELLO_BYTES_MAX: usize = 12 << 10;

fn old_devices(snapshot: &mut Snapshot) {
    snapshot.delivery_services[0].tls = TlsVersion::Tls12;
}

fn fleets(name: &str) -> [Fleet; 2] {
    let kinds: [fn(&mut Snapshot); 2] = [|_| {}, old_devices];
    kinds.map(|adjust| {
        let options =
            FleetOptions { parents: 1, edges: 1, https: true, adjust, ..FleetOptions::default() };
        let fleet = Fleet::start(name, &options);
        fleet.put("t.m4s", 1000);
        assert_eq!(fleet.get("edge-1", "/t.m4s", "").unwrap().status, 200);
        fleet
    })
}

fn tcp(fleet: &Fleet) -> TcpStream {
    let stream = TcpStream::connect(fleet.member("edge-1").https()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The edge goes on as if nothing had been.
fn healthy(fleet: &Fleet, pid: u32) {
    assert_eq!(fleet.member("edge-1").pid(), pid);
    let tls = fleet.tls.clone().unwrap();
    let mut client = Connection::open_tls(fleet.member("edge-1").https(), tls).unwrap();
    assert_eq!(client.get(HOST, "/t.m4s", "").unwrap().status, 200);
}

/// The handshake message with which a client begins.
fn hello() -> Vec<u8> {
    let config = client_of(&[&TLS13], &[], None);
    let mut client = ClientConnection::new(config, name("any.test")).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    record.split_off(5)
}

/// The same with a padding extension (RFC 7685), so that it has so many bytes.
fn padded_hello(bytes: usize) -> Vec<u8> {
    let mut hello = hello();
    let padding = bytes - hello.len() - 4;
    // Behind the header, version, random: session id, suites, compression, extensions.
    let mut at = 4 + 34;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    hello.extend([0, 21]);
    hello.extend((padding as u16).to_be_bytes());
    hello.resize(bytes, 0);
    let extensions = (bytes - at - 2) as u16;
    hello[at..at + 2].copy_from_slice(&extensions.to_be_bytes());
    hello[1..4].copy_from_slice(&(bytes as u32 - 4).to_be_bytes()[1..]);
    hello
}

/// A handshake message in records of so many bytes each.
fn records(message: &[u8], step: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let len = (part.len() as u16).to_be_bytes();
        [&[HANDSHAKE, 3, 1, len[0], len[1]], part].concat()
    };
    message.chunks(step).flat_map(record).collect()
}

/// Types of the records that come until the end, as far as they are whole.
fn answered(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset ends it as well.
    let _end = stream.read_to_end(&mut all);
    let mut types = Vec::new();
    let mut rest = &all[..];
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        types.push(head[0]);
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        rest = behind.get(len..).unwrap_or_default();
    }
    types
}

/// Sends each byte on its own.
struct Drip(TcpStream);

impl Read for Drip {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Drip {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_hello_may_be_cut_but_not_grow_without_end() {
    for fleet in fleets("hellos") {
        let pid = fleet.member("edge-1").pid();
        // A whole connection, byte by byte.
        let asked = fleet.member("edge-1").https().ip().into();
        let asked = ServerName::IpAddress(asked);
        let mut tls = ClientConnection::new(fleet.tls.clone().unwrap(), asked).unwrap();
        let mut drip = Drip(tcp(&fleet));
        let mut stream = rustls::Stream::new(&mut tls, &mut drip);
        let request = format!("GET /t.m4s HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));

        // The message in records of a few bytes, and long ones, up to so many bytes: answered when it is whole, and refused when it
        // is longer than is borne, whether more comes or not.
        let whole = usize::MAX;
        for (message, step, upto, is_good) in [
            (hello(), 1, whole, true),
            (hello(), 7, whole, true),
            (padded_hello(8000), 100, whole, true),
            (padded_hello(HELLO_BYTES_MAX - 5), 1 << 14, whole, true),
            (padded_hello(8000), 1, HELLO_BYTES_MAX + 1, false),
            (padded_hello(HELLO_BYTES_MAX + 10), 1 << 14, HELLO_BYTES_MAX + 1, false),
            (padded_hello(65_600), 1 << 14, whole, false),
            (padded_hello(65_000), 10, whole, false),
            // It says that it is longer than any message.
            ([&[1, 255, 255, 255], &[0; 70_000][..]].concat(), 1 << 14, whole, false),
        ] {
            let mut stream = tcp(&fleet);
            let flight = records(&message, step);
            // Who is refused may be so before all is sent.
            let _refused = stream.write_all(&flight[..flight.len().min(upto)]);
            if is_good {
                let mut first = [0];
                stream.read_exact(&mut first).unwrap();
                assert_eq!(first, [HANDSHAKE], "{} in {step}", message.len());
            } else {
                let said = answered(&mut stream);
                assert!(said.iter().all(|t| *t == ALERT), "{} in {step}: {said:?}", message.len());
            }
        }
        // A name that nobody has, and none: the first certificate is shown, and nothing happens.
        for asked in ["nobody.test", "127.0.0.1"] {
            let asked = ServerName::try_from(asked).unwrap();
            let error = Connection::open_tls_as(
                fleet.member("edge-1").https(),
                fleet.tls.clone().unwrap(),
                asked,
            );
            assert!(error.err().unwrap().to_string().contains("certificate"));
        }
        healthy(&fleet, pid);
    }
}

/// Of the edge's process, in bytes.
fn resident(fleet: &Fleet) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", fleet.member("edge-1").pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn handshakes_that_are_left_in_the_middle_are_counted_and_let_go() {
    // Goal: who begins and does not go on has what a connection is counted with, and not for long. Method: some stop before the
    // last byte of the longest hello, others behind the server's answer; all read until the edge's own deadline (10 s) ends them.
    const CLIENTS: u64 = 400;
    for fleet in fleets("left") {
        let pid = fleet.member("edge-1").pid();
        let counted = || fleet.counter("edge-1", "memory_flexible_used_bytes");
        let long = records(&padded_hello(HELLO_BYTES_MAX - 100), 1 << 14);
        let short = records(&hello(), 1 << 14);
        for (what, flight) in [("half a hello", &long[..long.len() - 1]), ("a hello", &short[..])] {
            let errors = fleet.counter("edge-1", "tls_errors_total");
            let before = (resident(&fleet), counted());
            let mut left: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let mut stream = tcp(&fleet);
                    stream.write_all(flight).unwrap();
                    stream
                })
                .collect();
            // All of them, but for a few: who asked for the counters before may have been counted then.
            fleet.until("they are there", |_| counted() >= before.1 + (CLIENTS - 4) * (24 << 10));
            let grown = counted() - before.1;
            healthy(&fleet, pid);
            let resident = resident(&fleet).saturating_sub(before.0);
            println!(
                "{what}: {} bytes resident each, {} counted",
                resident / CLIENTS,
                grown / CLIENTS
            );
            assert!(resident <= grown, "{what}: {resident} resident, {grown} counted");
            for stream in &mut left {
                let said = answered(stream);
                assert!(said.iter().all(|t| *t != DATA || what == "a hello"), "{said:?}");
            }
            fleet.until("all are gone", |_| counted() <= before.1);
            assert!(fleet.counter("edge-1", "tls_errors_total") >= errors + CLIENTS);
        }
        healthy(&fleet, pid);
    }
}

#[test]
fn a_flood_of_hellos_is_nobody_elses_trouble() {
    // Goal: viewers are served while hellos pour in; what they cost is printed. Method: clients that send what is answered and
    // leave without reading, beside one that asks for one object after the other.
    const HELLOS: u32 = 2000;
    for fleet in fleets("flood") {
        let pid = fleet.member("edge-1").pid();
        let tls = fleet.tls.clone().unwrap();
        let mut viewer = Connection::open_tls(fleet.member("edge-1").https(), tls).unwrap();
        for (what, flight) in [
            ("hellos", records(&hello(), 1 << 14)),
            ("hellos in records of one byte", records(&hello(), 1)),
            ("garbage", b"\x16\x03\x01\x02\x00\x05rubbish".to_vec()),
        ] {
            let errors = fleet.counter("edge-1", "tls_errors_total");
            let before = fleet.cpu_time("edge-1");
            std::thread::scope(|scope| {
                let flood = scope.spawn(|| {
                    for _ in 0..HELLOS {
                        let mut stream = tcp(&fleet);
                        stream.write_all(&flight).unwrap();
                        let _gone = stream.shutdown(Shutdown::Write);
                        let mut first = [0];
                        // Its answer has been made; a reset says so too.
                        let _end = stream.read(&mut first);
                    }
                });
                while !flood.is_finished() {
                    assert_eq!(viewer.get(HOST, "/t.m4s", "").unwrap().status, 200);
                    std::thread::yield_now();
                }
            });
            fleet.until("all are counted", |f| {
                f.counter("edge-1", "tls_errors_total") >= errors + u64::from(HELLOS)
            });
            let spent = fleet.cpu_time("edge-1").saturating_sub(before);
            println!("{what}: {:?} of CPU time each, with the viewer's requests", spent / HELLOS);
        }
        healthy(&fleet, pid);
    }
}

/// One direction's protection in TLS 1.2 with ChaCha20 (RFC 7905).
struct Sealing {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealing {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Sealing {
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
            panic!("another cipher")
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap();
        Sealing { key: LessSafeKey::new(key), iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    fn next(&mut self, kind: u8, len: usize) -> (Nonce, Aad<Vec<u8>>) {
        let count = self.sequence.to_be_bytes();
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(count).for_each(|(byte, count)| *byte ^= count);
        self.sequence += 1;
        let aad = [&count[..], &[kind, 3, 3], &(len as u16).to_be_bytes()].concat();
        (Nonce::assume_unique_for_key(nonce), Aad::from(aad))
    }

    fn seal(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        let (nonce, aad) = self.next(kind, plain.len());
        let mut sealed = plain.to_vec();
        self.key.seal_in_place_append_tag(nonce, aad, &mut sealed).unwrap();
        let len = (sealed.len() as u16).to_be_bytes();
        [&[kind, 3, 3, len[0], len[1]], &sealed[..]].concat()
    }

    /// Receives one record: its type and content.
    fn open(&mut self, stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let mut sealed = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut sealed)?;
        let (nonce, aad) = self.next(head[0], sealed.len() - 16);
        let plain = self.key.open_in_place(nonce, aad, &mut sealed).unwrap().to_vec();
        Ok((head[0], plain))
    }
}

#[test]
fn nothing_is_negotiated_twice() {
    // Goal: renegotiation in TLS 1.2 (CVE-2009-3555, and its cost: CVE-2011-1473) is declined once, and ends the connection when
    // it is asked for again. Method: a client's own keys, with which a second hello is sealed.
    let [_, fleet] = fleets("renegotiation");
    let pid = fleet.member("edge-1").pid();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256];
    let trusted = fleet.dir.join("edge-1.crt");
    let mut config = ClientConfig::clone(&client_with(provider, &[&TLS12], &[&trusted], None));
    config.enable_secret_extraction = true;
    let mut stream = tcp(&fleet);
    let asked = ServerName::IpAddress(stream.peer_addr().unwrap().ip().into());
    let mut client = ClientConnection::new(Arc::new(config), asked).unwrap();
    client.complete_io(&mut stream).unwrap();
    let secrets = client.dangerous_extract_secrets().unwrap();
    let (mut tx, mut rx) = (Sealing::new(secrets.tx), Sealing::new(secrets.rx));

    let request = format!("GET /t.m4s HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(&tx.seal(HANDSHAKE, &hello())).unwrap();
    stream.write_all(&tx.seal(DATA, request.as_bytes())).unwrap();
    const WARNING: u8 = 1;
    const NO_RENEGOTIATION: u8 = 100;
    assert_eq!(rx.open(&mut stream).unwrap(), (ALERT, vec![WARNING, NO_RENEGOTIATION]));
    let (kind, answer) = rx.open(&mut stream).unwrap();
    assert!(kind == DATA && answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    stream.write_all(&tx.seal(HANDSHAKE, &hello())).unwrap();
    let mut ended = Vec::new();
    while let Ok((kind, content)) = rx.open(&mut stream) {
        ended.push((kind, content));
    }
    assert!(ended.iter().all(|(kind, _)| *kind != HANDSHAKE), "{ended:?}");
    println!("the second time: {ended:?}");
    healthy(&fleet, pid);
}
