//! Goal: a session is understood by others and understands them, whatever is cut, changed, renewed or made up on the
//! way. Method: rustls' own connections as the other end, and two of our sessions against each other where the other end
//! has to misbehave.

use crate::aead::RecordKey;
use crate::session::{Client, Server, Session, Side};
use crate::traffic::Order;
use crate::{Hello, HelloReader, TlsError, sealed_len_max};
use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig};
use rustls::{ServerConnection, SupportedCipherSuite, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

type Version = &'static SupportedProtocolVersion;

fn certificate() -> &'static (CertificateDer<'static>, Vec<u8>) {
    static MADE: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["cdn.example".into()]).unwrap();
        (made.cert.der().clone(), made.signing_key.serialize_der())
    })
}

fn configs(version: Version, suite: Option<SupportedCipherSuite>) -> (ServerConfig, ClientConfig) {
    let mut provider = default_provider();
    if let Some(suite) = suite {
        provider.cipher_suites = vec![suite];
    }
    let provider = Arc::new(provider);
    let (chain, key) = certificate();
    let key = PrivateKeyDer::try_from(key.clone()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain.clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(chain.clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (server, client)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("cdn.example").unwrap()
}

/// One of our sessions, and what it has opened and wants to send.
struct End<S: Side> {
    session: Session<S>,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl<S: Side> End<S> {
    fn new(session: Session<S>) -> Self {
        End { session, plain: Vec::new(), out: Vec::new() }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        self.session.incoming().extend_from_slice(bytes);
        self.session.receive(&mut self.plain, &mut self.out)
    }

    fn send(&mut self, pieces: &[&[u8]]) {
        let total = pieces.iter().map(|piece| piece.len()).sum();
        let start = self.out.len();
        self.out.resize(start + sealed_len_max(total), 0);
        let len = self.session.seal(pieces, &mut self.out[start..]).unwrap();
        self.out.truncate(start + len);
    }
}

/// Carries bytes both ways, `step` at a time, until neither side has any; what the peer has opened.
fn pump<S: Side>(end: &mut End<S>, peer: &mut Connection, step: usize) -> Vec<u8> {
    let mut opened = Vec::new();
    loop {
        let sent = std::mem::take(&mut end.out);
        for piece in sent.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                peer.read_tls(&mut rest).unwrap();
                peer.process_new_packets().unwrap();
                let mut plain = [0; 4096];
                while let Ok(n @ 1..) = peer.reader().read(&mut plain) {
                    opened.extend_from_slice(&plain[..n]);
                }
            }
        }
        let mut back = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut back).unwrap();
        }
        if back.is_empty() && sent.is_empty() {
            return opened;
        }
        for piece in back.chunks(step) {
            end.receive(piece).unwrap();
        }
    }
}

fn with_server(
    version: Version,
    suite: Option<SupportedCipherSuite>,
    step: usize,
) -> (End<Server>, Connection) {
    let (server, client) = configs(version, suite);
    let mut end = End::new(Session::server(Arc::new(server)).unwrap());
    let mut peer = Connection::from(ClientConnection::new(Arc::new(client), name()).unwrap());
    pump(&mut end, &mut peer, step);
    assert!(!end.session.is_handshaking() && !peer.is_handshaking());
    (end, peer)
}

/// As `with_server` in TLS 1.3, and the key may be handed over.
fn with_server_keeping(suite: SupportedCipherSuite) -> (End<Server>, Connection) {
    let (server, client) = configs(&TLS13, Some(suite));
    let mut end = End::new(Session::server(Arc::new(server)).unwrap());
    end.session.keep_key();
    let mut peer = Connection::from(ClientConnection::new(Arc::new(client), name()).unwrap());
    pump(&mut end, &mut peer, 1000);
    (end, peer)
}

fn with_client(version: Version, step: usize) -> (End<Client>, Connection) {
    let (server, client) = configs(version, None);
    let mut end = End::new(Session::client(Arc::new(client), name()).unwrap());
    end.receive(&[]).unwrap();
    let mut peer = Connection::from(ServerConnection::new(Arc::new(server)).unwrap());
    pump(&mut end, &mut peer, step);
    assert!(!end.session.is_handshaking() && !peer.is_handshaking());
    (end, peer)
}

/// Two of our own.
fn pair() -> (End<Server>, End<Client>) {
    let (server, client) = configs(&TLS13, None);
    let mut server = End::new(Session::server(Arc::new(server)).unwrap());
    let mut client = End::new(Session::client(Arc::new(client), name()).unwrap());
    client.receive(&[]).unwrap();
    loop {
        let (there, back) = (std::mem::take(&mut client.out), std::mem::take(&mut server.out));
        if there.is_empty() && back.is_empty() {
            break;
        }
        server.receive(&there).unwrap();
        client.receive(&back).unwrap();
    }
    assert!(server.session.seals_itself() && client.session.seals_itself());
    (server, client)
}

fn talk<S: Side>(end: &mut End<S>, peer: &mut Connection, step: usize) {
    let body: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
    end.send(&[b"head", b"", &body[..20_000], b"x", &body]);
    let opened = pump(end, peer, step);
    assert!(opened == [b"head", &body[..20_000], b"x", &body].concat());
    for round in 0..3 {
        peer.writer().write_all(&body[..50_000]).unwrap();
        assert!(pump(end, peer, step).is_empty());
        assert!(end.plain == body[..50_000], "round {round}");
        end.plain.clear();
    }
    assert!(!end.session.has_part());
}

#[test]
fn all_suites_of_both_versions_are_spoken_to_clients() {
    for suite in cipher_suite_list() {
        let is_13 = suite.tls13().is_some();
        let version = if is_13 { &TLS13 } else { &TLS12 };
        // The certificate's key is of a curve: suites for RSA keys have no part here.
        if format!("{:?}", suite.suite()).contains("_RSA_") {
            continue;
        }
        let (mut end, mut peer) = with_server(version, Some(suite), 1 << 20);
        assert_eq!(end.session.alpn(), Some(&b"http/1.1"[..]), "{suite:?}");
        assert_eq!(end.session.version(), peer.protocol_version());
        assert_eq!(end.session.seals_itself(), is_13, "{suite:?}");
        talk(&mut end, &mut peer, 1 << 20);
    }
}

fn cipher_suite_list() -> Vec<SupportedCipherSuite> {
    let all = default_provider().cipher_suites;
    assert!(all.contains(&cipher_suite::TLS13_CHACHA20_POLY1305_SHA256));
    all
}

#[test]
fn servers_of_both_versions_are_spoken_to() {
    for version in [&TLS13, &TLS12] {
        let (mut end, mut peer) = with_client(version, 1 << 20);
        assert_eq!(end.session.alpn(), Some(&b"http/1.1"[..]));
        talk(&mut end, &mut peer, 1 << 20);
    }
}

#[test]
fn a_session_whose_keys_are_not_given_away_stays_with_rustls_and_behaves_alike() {
    let (mut server, client) = configs(&TLS13, None);
    server.enable_secret_extraction = false;
    let mut end = End::new(Session::server(Arc::new(server)).unwrap());
    let mut peer = Connection::from(ClientConnection::new(Arc::new(client), name()).unwrap());
    pump(&mut end, &mut peer, 1000);
    assert!(!end.session.is_handshaking() && !end.session.seals_itself());
    talk(&mut end, &mut peer, 5000);
    let Connection::Client(client) = &mut peer else { unreachable!() };
    client.refresh_traffic_keys().unwrap();
    talk(&mut end, &mut peer, 5000);
}

#[test]
fn a_server_that_is_not_the_one_is_told_so() {
    for version in [&TLS13, &TLS12] {
        for step in [1, 7, 500, 1 << 20] {
            let (server, client) = configs(version, None);
            let wrong = ServerName::try_from("other.example").unwrap();
            let mut end = End::new(Session::client(Arc::new(client), wrong).unwrap());
            let mut peer = ServerConnection::new(Arc::new(server)).unwrap();
            end.receive(&[]).unwrap();
            peer.read_tls(&mut &end.out[..]).unwrap();
            peer.process_new_packets().unwrap();
            end.out.clear();
            let mut flight = Vec::new();
            while peer.wants_write() {
                peer.write_tls(&mut flight).unwrap();
            }
            let error = flight.chunks(step).find_map(|piece| end.receive(piece).err()).unwrap();
            assert!(error.to_string().contains("certificate"), "{error}");
            assert!(end.session.is_handshaking() && !end.out.is_empty(), "the alert");
            peer.read_tls(&mut &end.out[..]).unwrap();
            let told = peer.process_new_packets().unwrap_err();
            assert!(matches!(told, rustls::Error::AlertReceived(_)), "{version:?} {step}: {told}");
        }
    }
}

#[test]
fn the_name_that_a_client_asks_for_is_seen_however_its_hello_is_cut() {
    let (_, client) = configs(&TLS13, None);
    let shouted = ServerName::try_from("CDN.example").unwrap();
    let mut end = End::new(Session::client(Arc::new(client), shouted).unwrap());
    end.receive(&[]).unwrap();
    let asks = |name: &str, speaks_tls13| Hello::Asks { name: Some(name.to_owned()), speaks_tls13 };
    for cut in [1, 5, 40, end.out.len() - 1, end.out.len()] {
        let mut reader = HelloReader::default();
        for upto in (cut..end.out.len()).step_by(cut) {
            assert_eq!(reader.read(&end.out[..upto]), Hello::Part, "{cut}");
        }
        assert_eq!(reader.read(&end.out), asks("cdn.example", true), "{cut}");
    }
    // In records of a few bytes each.
    for cut in [1, 3, 100] {
        let records = end.out[5..].chunks(cut);
        let records: Vec<u8> =
            records.flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat()).collect();
        assert_eq!(HelloReader::default().read(&records), asks("cdn.example", true), "{cut}");
    }
    let more = [&end.out[..], &[23, 3, 3, 0, 1, 0]].concat();
    assert_eq!(HelloReader::default().read(&more), asks("cdn.example", true));
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[0x16, 3, 1, 0, 4, 9, 0, 0, 0]] {
        let Hello::Refused(_, alert) = HelloReader::default().read(bytes) else {
            panic!("{bytes:?}")
        };
        assert_eq!(alert.first(), Some(&21), "{bytes:?}");
    }
    let (_, client) = configs(&TLS12, None);
    let mut end = End::new(Session::client(Arc::new(client), name()).unwrap());
    end.receive(&[]).unwrap();
    assert_eq!(HelloReader::default().read(&end.out), asks("cdn.example", false));
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_over() {
    let (server, _) = configs(&TLS13, None);
    let mut session = Session::server(Arc::new(server)).unwrap();
    assert_eq!(session.seal(&[b"early"], &mut [0; 200]), Err(TlsError::NotOpen));
}

#[test]
fn data_of_the_first_flight_is_opened_and_answered_before_the_handshake_is_over() {
    let (mut server, mut client) = configs(&TLS13, None);
    server.max_early_data_size = 100;
    server.send_half_rtt_data = true;
    client.enable_early_data = true;
    let (server, client) = (Arc::new(server), Arc::new(client));
    for (visit, step) in [1 << 20, 1, 50, 1 << 20].into_iter().enumerate() {
        let mut end = End::new(Session::server(server.clone()).unwrap());
        let mut peer = ClientConnection::new(client.clone(), name()).unwrap();
        if visit > 0 {
            peer.early_data().unwrap().write_all(b"a request").unwrap();
            let mut flight = Vec::new();
            while peer.wants_write() {
                peer.write_tls(&mut flight).unwrap();
            }
            flight.chunks(step).for_each(|piece| end.receive(piece).unwrap());
            assert!(end.session.is_early() && end.session.is_handshaking(), "{visit}");
            assert_eq!((&end.plain[..], end.session.seals_itself()), (&b"a request"[..], false));
            assert!(end.session.version().is_some() && end.session.alpn().is_some());
            end.plain.clear();
            end.send(&[b"an ", b"answer"]);
        }
        let mut peer = Connection::from(peer);
        let opened = pump(&mut end, &mut peer, step);
        assert_eq!(opened, if visit > 0 { &b"an answer"[..] } else { b"" });
        assert!(!end.session.is_early() && end.session.seals_itself());
        talk(&mut end, &mut peer, 1 << 20);
    }
}

#[test]
fn keys_are_renewed_when_the_peer_asks_and_when_they_are_used_up() {
    let (mut end, mut peer) = with_server(&TLS13, None, 1 << 20);
    for _ in 0..10 {
        // rustls asks for one in return.
        peer.refresh_traffic_keys().unwrap();
        talk(&mut end, &mut peer, 3000);
    }
    end.session.traffic().set_records_max(3);
    for _ in 0..5 {
        talk(&mut end, &mut peer, 1 << 20);
    }
    let (mut end, mut peer) = with_client(&TLS13, 1 << 20);
    end.session.traffic().set_records_max(1);
    talk(&mut end, &mut peer, 700);
}

#[test]
fn a_peer_that_changes_its_keys_all_the_time_is_let_go() {
    let changes = |records: u32, times: u32| {
        let (mut end, mut peer) = with_server(&TLS13, None, 1 << 20);
        (0..times).try_for_each(|_| {
            let mut sent = Vec::new();
            peer.refresh_traffic_keys().unwrap();
            for _ in 0..records {
                peer.writer().write_all(b"x").unwrap();
                peer.write_tls(&mut sent).unwrap();
            }
            while peer.wants_write() {
                peer.write_tls(&mut sent).unwrap();
            }
            end.receive(&sent)
        })
    };
    changes(64, 300).unwrap();
    let error = changes(1, 100).unwrap_err().to_string();
    assert!(error.contains("change of keys"), "{error}");
}

/// Seals in a session's place, as a kernel does.
struct Kernel {
    key: RecordKey,
    sealed: u64,
}

impl Kernel {
    fn take_over<S: Side>(end: &mut End<S>) -> Option<Kernel> {
        let key = end.session.hand_over()?;
        Some(Kernel { sealed: key.sequence, key: RecordKey::of(&key).unwrap() })
    }

    fn record(&mut self, content_type: u8, content: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + content.len() + 22, 0);
        self.key.seal(content_type, content, &mut out[start..]).unwrap();
        self.sealed += 1;
    }

    /// Sends what the session has ready, as it was ordered.
    fn send<S: Side>(&mut self, end: &mut End<S>) {
        let data = std::mem::take(&mut end.out);
        let mut out = Vec::new();
        let mut with_alerts = false;
        loop {
            match end.session.take_order(with_alerts) {
                Some(Order::ChangeKey { content_type, content, key }) => {
                    self.record(content_type, &content, &mut out);
                    (self.key, self.sealed) = (RecordKey::of(&key).unwrap(), 0);
                }
                Some(Order::Alert { content_type, content }) => {
                    self.record(content_type, &content, &mut out);
                }
                None if with_alerts => break,
                None => {
                    data.chunks(9_000).for_each(|part| self.record(23, part, &mut out));
                    with_alerts = true;
                }
            }
        }
        end.out = out;
    }
}

#[test]
fn somebody_else_may_seal_under_the_keys_that_he_is_given() {
    for suite in cipher_suite_list().into_iter().filter(|suite| suite.tls13().is_some()) {
        let (mut end, mut peer) = with_server_keeping(suite);
        // Some records of our own first: the number goes along.
        talk(&mut end, &mut peer, 5000);
        let mut kernel = Kernel::take_over(&mut end).unwrap();
        assert!(kernel.sealed > 0 && end.session.hand_over().is_none(), "once");
        let body: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let said = |end: &mut End<Server>, peer: &mut Connection, kernel: &mut Kernel| {
            end.send(&[&body[..70_000], &body[70_000..]]);
            assert_eq!(end.out, body, "it is only copied");
            kernel.send(end);
            assert!(pump(end, peer, 1000) == body);
        };
        said(&mut end, &mut peer, &mut kernel);
        // The peer asks for another key, more than once before we come to it: one is enough.
        for _ in 0..3 {
            let Connection::Client(client) = &mut peer else { unreachable!() };
            client.refresh_traffic_keys().unwrap();
            let mut update = Vec::new();
            while peer.wants_write() {
                peer.write_tls(&mut update).unwrap();
            }
            end.receive(&update).unwrap();
            assert!(end.out.is_empty());
        }
        assert!(kernel.sealed > 0);
        said(&mut end, &mut peer, &mut kernel);
        // So many records that the next key is due, but for a cipher that bears any number.
        end.session.note_sealed(1000).unwrap();
        assert!(end.session.take_order(true).is_none());
        end.session.note_sealed((1 << 24) - 1).unwrap();
        said(&mut end, &mut peer, &mut kernel);
        end.session.close(&mut end.out);
        assert!(end.out.is_empty());
        kernel.send(&mut end);
        peer.read_tls(&mut &end.out[..]).unwrap();
        assert!(peer.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn an_alert_is_ordered_too_and_who_declines_leaves_the_sealing_here() {
    let (mut end, mut peer) = with_server_keeping(cipher_suite::TLS13_AES_128_GCM_SHA256);
    end.session.hand_over().unwrap();
    end.session.take_back();
    assert!(end.session.hand_over().is_none(), "asked once");
    talk(&mut end, &mut peer, 5000);

    let (mut end, mut peer) = with_server_keeping(cipher_suite::TLS13_AES_256_GCM_SHA384);
    let mut kernel = Kernel::take_over(&mut end).unwrap();
    assert!(
        end.receive(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
            .is_err()
    );
    kernel.send(&mut end);
    peer.read_tls(&mut &end.out[..]).unwrap();
    let told = peer.process_new_packets().unwrap_err();
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));

    // Whose key was not kept cannot give it.
    let (mut end, _) = with_server(&TLS13, None, 1000);
    assert!(end.session.hand_over().is_none());
    // Nor can rustls' own sessions.
    let (mut end, _) = with_server(&TLS12, None, 1000);
    assert!(end.session.hand_over().is_none());
}

#[test]
fn a_client_resumes_with_the_tickets_that_came_after_its_handshake() {
    let (server, client) = configs(&TLS13, None);
    let (server, client) = (Arc::new(server), Arc::new(client));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut end = End::new(Session::client(client.clone(), name()).unwrap());
        end.receive(&[]).unwrap();
        let mut peer = Connection::from(ServerConnection::new(server.clone()).unwrap());
        pump(&mut end, &mut peer, 1 << 20);
        talk(&mut end, &mut peer, 1 << 20);
        kinds.push(peer.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

#[test]
fn a_close_is_said_and_understood() {
    for version in [&TLS13, &TLS12] {
        let (mut end, mut peer) = with_server(version, None, 1 << 20);
        end.send(&[b"last words"]);
        let End { session, out, .. } = &mut end;
        session.close(out);
        let mut rest = &end.out[..];
        while !rest.is_empty() {
            peer.read_tls(&mut rest).unwrap();
        }
        assert!(peer.process_new_packets().unwrap().peer_has_closed());
        assert_eq!(end.session.seal(&[b"more"], &mut [0; 200]), Err(TlsError::NotOpen));

        let (mut end, mut peer) = with_server(version, None, 1 << 20);
        peer.writer().write_all(b"bye").unwrap();
        peer.send_close_notify();
        pump(&mut end, &mut peer, 1);
        assert!(end.session.has_ended() && end.plain == b"bye");
        // One side may be closed and the other one not (RFC 8446 §6.1).
        end.send(&[b"still here"]);
        assert_eq!(pump(&mut end, &mut peer, 1 << 20), b"still here");
    }
}

#[test]
fn what_is_half_there_is_no_obstacle_to_sending() {
    for version in [&TLS13, &TLS12] {
        let (mut end, mut peer) = with_server(version, None, 1 << 20);
        peer.writer().write_all(b"a request").unwrap();
        let mut sealed = Vec::new();
        peer.write_tls(&mut sealed).unwrap();
        for (index, byte) in sealed.iter().enumerate() {
            end.receive(&[*byte]).unwrap();
            end.send(&[b"an answer"]);
            assert_eq!(end.plain.is_empty(), index + 1 < sealed.len());
        }
        let opened = pump(&mut end, &mut peer, 1 << 20);
        assert_eq!(opened, b"an answer".repeat(sealed.len()));
        let mut halved = End::new(with_server(version, None, 1 << 20).0.session);
        halved.receive(&sealed[..3]).unwrap();
        let End { session, out, .. } = &mut halved;
        session.close(out);
        assert!(!halved.out.is_empty());
    }
}

#[test]
fn a_changed_byte_is_found_wherever_it_is_and_the_peer_is_told() {
    let sealed_len = {
        let (_, mut client) = pair();
        client.send(&[b"some words"]);
        client.out.len()
    };
    for at in (0..sealed_len).filter(|at| ![1, 2, 3, 4].contains(at)) {
        let (mut server, mut client) = pair();
        client.send(&[b"some words"]);
        client.out[at] ^= 0x40;
        let error = server.receive(&client.out).unwrap_err();
        assert!(server.plain.is_empty());
        let told = client.receive(&server.out).unwrap_err();
        let expected = if at == 0 { 10 } else { 20 };
        assert_eq!((error.alert(), told), (Some(expected), TlsError::Alert(expected)), "{at}");
        assert_eq!(server.session.seal(&[b"more"], &mut [0; 200]), Err(TlsError::NotOpen));
        assert_eq!(server.receive(b""), Err(TlsError::NotOpen));
    }
}

#[test]
fn records_that_have_no_place_end_the_session() {
    let update = |kind: u8| vec![24, 0, 0, 1, kind];
    let cases: Vec<(u8, Vec<u8>, &str)> = vec![
        (23, vec![0; 0], ""),
        (21, vec![1, 90], ""),
        (22, update(0), ""),
        (22, update(1), ""),
        (22, update(2), "key update of an unknown kind"),
        (22, [update(0), update(0)].concat(), "behind a key update"),
        (22, vec![], "empty handshake record"),
        (22, vec![4, 0, 0, 0], "ticket from a client"),
        (22, vec![1, 0, 0, 0], "message of that type"),
        (22, vec![24, 2, 0, 0], "message of that length"),
        (21, vec![1], "alert of another length"),
        (21, vec![2, 40], "alert 40"),
        (20, vec![1], "unknown type"),
        (0, vec![0, 0, 0], "nothing but padding"),
        (23, vec![7; 16_385], "longer"),
    ];
    for (content_type, content, expected) in cases {
        let (mut server, mut client) = pair();
        let record = client.session.traffic().seal_raw(content_type, &content);
        let outcome = server.receive(&record);
        match expected {
            "" => assert_eq!(outcome, Ok(()), "{content_type} {content:?}"),
            what => {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(what), "{content_type} {content:?}: {error}");
            }
        }
    }
}

#[test]
fn padding_is_taken_off() {
    let (mut server, mut client) = pair();
    // Content, its type, zeros; the type that is put behind them is one of them.
    let record = client.session.traffic().seal_raw(0, b"words\x17\0\0\0");
    server.receive(&record).unwrap();
    assert_eq!(server.plain, b"words");
}

#[test]
fn a_message_may_come_in_parts_but_nothing_comes_in_between() {
    let (mut server, mut client) = pair();
    for part in [&[24u8][..], &[0, 0], &[1], &[1]] {
        let record = client.session.traffic().seal_raw(22, part);
        server.receive(&record).unwrap();
    }
    assert!(!server.out.is_empty(), "it is answered");

    let (mut server, mut client) = pair();
    let records = [
        client.session.traffic().seal_raw(22, &[24, 0]),
        client.session.traffic().seal_raw(23, b"data"),
    ];
    let error = server.receive(&records.concat()).unwrap_err();
    assert!(error.to_string().contains("inside of a handshake message"), "{error}");
}

#[test]
fn a_peer_that_sends_no_data_for_ever_is_let_go() {
    let (mut server, mut client) = pair();
    for _ in 0..100 {
        for _ in 0..60 {
            let record = client.session.traffic().seal_raw(23, b"");
            server.receive(&record).unwrap();
        }
        client.send(&[b"data"]);
        let out = std::mem::take(&mut client.out);
        server.receive(&out).unwrap();
    }
    let outcome = (0..100).try_for_each(|_| {
        let record = client.session.traffic().seal_raw(23, b"");
        server.receive(&record)
    });
    assert!(outcome.unwrap_err().to_string().contains("without data"));
}

#[test]
fn a_handshake_that_is_none_is_answered_with_an_alert() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[0x16, 3, 1, 0, 4, 9, 0, 0, 0]]
    {
        let (server, _) = configs(&TLS13, None);
        let mut end = End::new(Session::server(Arc::new(server)).unwrap());
        assert!(end.receive(bytes).is_err(), "{bytes:?}");
        assert_eq!(end.out.first(), Some(&21), "an alert: {bytes:?}");
        assert_eq!(end.receive(b""), Err(TlsError::NotOpen));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However what is sent is put together, and however it arrives.
    #[test]
    fn what_is_sent_arrives(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 0..6),
        steps in prop::collection::vec(1usize..20_000, 1..8),
        records_max in 1u64..6,
    ) {
        let (mut server, mut client) = pair();
        server.session.traffic().set_records_max(records_max);
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        server.send(&slices);
        server.send(&slices);
        let mut rest = &server.out[..];
        for step in steps.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*step));
            client.receive(now).unwrap();
            rest = later;
        }
        let all = pieces.concat();
        prop_assert!(client.plain == [&all[..], &all[..]].concat());
        prop_assert!(!client.session.has_part());
    }

    /// Whatever a peer seals, only data becomes data, and an end of the session is final.
    #[test]
    fn made_up_contents_are_survived(
        records in prop::collection::vec(
            (prop_oneof![Just(21u8), Just(22), Just(23), any::<u8>()],
             prop_oneof![prop::collection::vec(any::<u8>(), 0..12),
                         Just(vec![24, 0, 0, 1, 1]), Just(vec![4, 0, 0, 2, 0]), Just(vec![1, 0])]),
            1..12),
    ) {
        let (mut server, mut client) = pair();
        let mut expected = Vec::new();
        let mut over = false;
        for (content_type, content) in records {
            let record = client.session.traffic().seal_raw(content_type, &content);
            let outcome = server.receive(&record);
            prop_assert!(outcome.is_err() || !over || server.session.has_ended());
            over |= outcome.is_err();
            if content_type == 23 && outcome.is_ok() && !server.session.has_ended() {
                expected.extend_from_slice(&content);
            }
            // Zeros at the end of another type are padding, and what comes before them the type.
            if content_type == 0 {
                return Ok(());
            }
            let update = matches!(content[..], [24, 0, 0, 1, 0 | 1]);
            if content_type == 22 && outcome.is_ok() && update {
                return Ok(()); // the next record would have to be under a new key
            }
        }
        prop_assert_eq!(server.plain, expected);
    }

    /// However a hello is spoilt, cut into records and comes in, it is read alike.
    #[test]
    fn spoilt_hellos_are_read_alike_however_they_come(
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        record in 1usize..400,
        steps in prop::collection::vec(1usize..300, 1..6),
    ) {
        let (_, client) = configs(&TLS13, None);
        let mut end = End::new(Session::client(Arc::new(client), name()).unwrap());
        end.receive(&[]).unwrap();
        let mut message = end.out.split_off(5);
        for (at, byte) in spoilt {
            let at = at.index(message.len());
            message[at] = byte;
        }
        let records: Vec<u8> = message
            .chunks(record)
            .flat_map(|part| {
                let len = (part.len() as u16).to_be_bytes();
                [&[22, 3, 1, len[0], len[1]], part].concat()
            })
            .collect();
        let whole = HelloReader::default().read(&records);
        let (mut reader, mut come) = (HelloReader::default(), 0);
        let mut found = Hello::Part;
        for step in steps.iter().cycle() {
            if come == records.len() || found != Hello::Part {
                break;
            }
            come = records.len().min(come + step);
            found = reader.read(&records[..come]);
        }
        // What is refused may be so before all of it has come.
        let is_refused = |hello: &Hello| matches!(hello, Hello::Refused(..));
        prop_assert!(found == whole || is_refused(&found) && is_refused(&whole), "{found:?} {whole:?}");
    }

    /// Any bytes at all are refused or wait for more; they never become data.
    #[test]
    fn made_up_records_never_open(bytes in prop::collection::vec(any::<u8>(), 0..300), typed in any::<bool>()) {
        let (mut server, _) = pair();
        let mut bytes = bytes;
        if typed && bytes.len() > 5 {
            let len = (bytes.len() - 5) as u16;
            bytes[..3].copy_from_slice(&[23, 3, 3]);
            bytes[3..5].copy_from_slice(&len.to_be_bytes());
        }
        let _refused = server.receive(&bytes);
        prop_assert!(server.plain.is_empty() && !server.session.has_ended());
    }
}
