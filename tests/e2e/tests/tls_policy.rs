//! What each delivery service says of TLS holds for it and for no other: the oldest version that its viewers may speak, and
//! whose sessions are resumed. Method: two services on one edge and one certificate, `film` (TLS 1.3) and `old` (TLS 1.2).

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use tidegate_contract::{Role, Snapshot, TlsVersion};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::tls::{certificate, client_of, name};
use tidegate_e2e::{Connection, Fleet, FleetOptions, block_on, h2};

const OLD: &str = "old.test";
/// Another name of the service `old`.
const OLDER: &str = "older.test";

fn two_services(snapshot: &mut Snapshot) {
    let mut old = snapshot.delivery_services[0].clone();
    old.id = "old".to_owned();
    old.hosts = vec![OLD.to_owned(), OLDER.to_owned()];
    old.address_default = false;
    old.tls = TlsVersion::Tls12;
    snapshot.delivery_services.push(old);
    let edge = snapshot.servers.iter_mut().find(|s| s.role == Role::Edge).unwrap();
    let first = edge.machine.certificates[0].chain.clone();
    let dir = Path::new(&first).parent().unwrap();
    let address = edge.addresses[0].to_string();
    let names = [HOST, OLD, OLDER, "unknown.test", &address];
    edge.machine.certificates = vec![certificate(dir, "both", &names)];
}

fn fleet(name: &str) -> Fleet {
    let options = FleetOptions {
        parents: 1,
        edges: 1,
        https: true,
        adjust: two_services,
        ..FleetOptions::default()
    };
    let fleet = Fleet::start(name, &options);
    fleet.put("t.m4s", 1000);
    fleet
}

fn old_client(fleet: &Fleet) -> Arc<ClientConfig> {
    client_of(&[&TLS12], &[&fleet.dir.join("both.pem")], None)
}

fn new_client(fleet: &Fleet) -> Arc<ClientConfig> {
    client_of(&[&TLS13], &[&fleet.dir.join("both.pem")], None)
}

fn connect(
    fleet: &Fleet,
    config: &Arc<ClientConfig>,
    asked: ServerName<'static>,
) -> io::Result<Connection> {
    Connection::open_tls_as(fleet.member("edge-1").https(), config.clone(), asked)
}

fn status(connection: &mut Connection, host: &str) -> u16 {
    connection.get(host, "/t.m4s", "").unwrap().status
}

#[test]
fn old_devices_are_served_by_the_services_that_are_for_them_and_by_no_other() {
    let mut fleet = fleet("tls12");
    let (old, new) = (old_client(&fleet), new_client(&fleet));
    let mut kept = connect(&fleet, &old, name(OLD)).unwrap();
    assert_eq!(status(&mut kept, OLD), 200);
    assert_eq!(fleet.counter("edge-1", "tls12_handshakes_total"), 1);
    // Where it is not allowed, a device is told why: by another service's name, one that nobody has, or none.
    let address = ServerName::IpAddress(fleet.member("edge-1").https().ip().into());
    for asked in [name(HOST), name("unknown.test"), address.clone()] {
        let error = connect(&fleet, &old, asked.clone()).err().unwrap().to_string();
        assert!(error.contains("ProtocolVersion"), "{asked:?}: {error}");
    }
    // Its connection is none for a service that wants better (RFC 9110 §15.5.20), and is not ended for having asked.
    let misdirected = kept.get(HOST, "/t.m4s", "").unwrap();
    assert_eq!((misdirected.status, misdirected.field("cache-status")), (421, None));
    assert_eq!(status(&mut kept, OLDER), 200, "the same service");
    assert_eq!(kept.get(HOST, "/t.m4s", "").unwrap().status, 421, "also of what is cached");
    assert_eq!(status(&mut kept, "nobody.test"), 404);
    // A device that knows TLS 1.3 speaks it under either name, and may ask either service (RFC 9113 §9.1.1).
    for (asked, host) in [(OLD, HOST), (HOST, OLD)] {
        assert_eq!(status(&mut connect(&fleet, &new, name(asked)).unwrap(), host), 200);
    }
    assert_eq!(fleet.counter("edge-1", "tls12_handshakes_total"), 1);
    let both = client_of(&[&TLS12, &TLS13], &[], None);
    // It does not get so far as to trust anybody; by then the version is agreed on.
    let mut connection = ClientConnection::new(both, name(OLD)).unwrap();
    let mut tcp = TcpStream::connect(fleet.member("edge-1").https()).unwrap();
    let _distrusted = connection.complete_io(&mut tcp);
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));

    // The service goes over to TLS 1.3: at once, and for connections that are there too.
    fleet.snapshot.delivery_services[1].tls = TlsVersion::Tls13;
    fleet.snapshot.generation += 1;
    fleet.publish();
    fleet.until("it is taken up", |_| status(&mut kept, OLD) == 421);
    assert!(connect(&fleet, &old, name(OLD)).is_err());
    fleet.snapshot.delivery_services[0].tls = TlsVersion::Tls12;
    fleet.snapshot.generation += 1;
    fleet.publish();
    fleet.until("it is taken up", |_| status(&mut kept, HOST) == 200);
    assert!(connect(&fleet, &old, address).is_ok(), "the service of those who give no name");
}

#[test]
fn over_http2_too() {
    let fleet = fleet("tls12-h2");
    let mut config = ClientConfig::clone(&old_client(&fleet));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let body = fleet.put("long.m4s", 700_000);
    block_on(async {
        let tcp = tokio::net::TcpStream::connect(fleet.member("edge-1").https()).await.unwrap();
        let mut client = h2::Client::connect_as(tcp, name(OLD), Arc::new(config)).await;
        client.host = OLD.to_owned();
        let answer = client.get("/long.m4s", &[]).await.unwrap();
        assert!((answer.status, answer.body) == (200, body));
        let mut other = client.clone();
        other.host = HOST.to_owned();
        assert_eq!(other.get("/t.m4s", &[]).await.unwrap().status, 421);
        assert_eq!(client.get("/t.m4s", &[]).await.unwrap().status, 200);
    });
    assert_eq!(fleet.counter("edge-1", "tls12_handshakes_total"), 1);
}

/// Keeps what it is given under one name, and shows it to whomever it is asked for.
#[derive(Debug)]
struct Indiscreet(ClientSessionMemoryCache);

impl ClientSessionStore for Indiscreet {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(name("any.test"), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&name("any.test"))
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(name("any.test"), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&name("any.test"))
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&name("any.test"));
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(name("any.test"), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&name("any.test"))
    }
}

/// How a session came about that asks for `asked`, and for one object of `host`.
fn shake(fleet: &Fleet, config: &Arc<ClientConfig>, asked: &str) -> HandshakeKind {
    let mut tcp = TcpStream::connect(fleet.member("edge-1").https()).unwrap();
    let mut tls = ClientConnection::new(config.clone(), name(asked)).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    let request = format!("GET /t.m4s HTTP/1.1\r\nHost: {asked}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    tls.handshake_kind().unwrap()
}

#[test]
fn a_session_is_resumed_under_the_name_that_it_was_begun_with() {
    // Goal: what one tenant's client was given opens nothing at another's (CVE-2025-23419). Method: a client that shows what it
    // was given to whomever it asks.
    let fleet = fleet("resumption");
    let indiscreet = |config: Arc<ClientConfig>| {
        let mut config = ClientConfig::clone(&config);
        let store = Arc::new(Indiscreet(ClientSessionMemoryCache::new(8)));
        config.resumption = Resumption::store(store);
        Arc::new(config)
    };
    let new = indiscreet(new_client(&fleet));
    let mut kinds = Vec::new();
    for asked in [HOST, HOST, OLD, OLD, HOST, HOST] {
        kinds.push(shake(&fleet, &new, asked));
    }
    use HandshakeKind::{Full, Resumed};
    assert_eq!(kinds[..2], [Full, Resumed]);
    assert!(kinds[2] != Resumed && kinds[4] != Resumed, "{kinds:?}");
    // The old service's own names are two as well; sessions of TLS 1.2 are kept by the edge.
    let old = indiscreet(old_client(&fleet));
    let kinds = [OLD, OLD, OLDER, OLDER, OLD].map(|asked| shake(&fleet, &old, asked));
    assert_eq!(kinds, [Full, Resumed, Full, Resumed, Full]);
}
