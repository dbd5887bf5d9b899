//! Who is shown which certificate, and what servers of a fleet tell each other that they tell nobody else: certificates
//! by name, sessions resumed anywhere in a PoP, parents that know their edges and whom they shut out, and edges that share their objects (a peering ring).

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_contract::{FleetTls, Role, Snapshot};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::tls::{certificate, certificate_within, client, name};
use tidegate_e2e::{Connection, Fleet, FleetOptions, Response, get};

/// Shakes hands and asks for one object; the certificate that was shown, and how the session came about.
fn shake(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    asked: &str,
) -> io::Result<(Vec<u8>, HandshakeKind)> {
    let mut stream = TcpStream::connect(address)?;
    let mut tls = ClientConnection::new(config.clone(), name(asked)).map_err(io::Error::other)?;
    let mut stream = rustls::Stream::new(&mut tls, &mut stream);
    stream.write_all(
        format!("GET /t.m4s HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    let shown = tls.peer_certificates().unwrap()[0].to_vec();
    Ok((shown, tls.handshake_kind().unwrap()))
}

#[test]
fn the_cheaper_cipher_is_taken_whatever_a_client_puts_first() {
    // Goal: handshakes and bytes cost what they must; a client that has only the dearer ones is served all the same.
    let options = FleetOptions { parents: 1, edges: 1, https: true, ..FleetOptions::default() };
    let fleet = Fleet::start("ciphers", &options);
    let https = fleet.member("edge-1").https();
    let agreed = |offered: &[CipherSuite]| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| offered.contains(&suite.suite()));
        provider.cipher_suites.sort_by_key(|s| offered.iter().position(|of| *of == s.suite()));
        let mut roots = RootCertStore::empty();
        let chain = &fleet.member("edge-1").server.machine.certificates[0].chain;
        roots.add(CertificateDer::from_pem_file(chain).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let asked = ServerName::IpAddress(https.ip().into());
        let mut tls = ClientConnection::new(Arc::new(config), asked).unwrap();
        tls.complete_io(&mut TcpStream::connect(https).unwrap()).unwrap();
        tls.negotiated_cipher_suite().unwrap().suite()
    };
    use CipherSuite::{
        TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_AES_256_GCM_SHA384 as AES_256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    assert_eq!(agreed(&[AES_256, CHACHA, AES_128]), AES_128);
    assert_eq!(agreed(&[AES_256]), AES_256);
    assert_eq!(agreed(&[CHACHA]), CHACHA);
}

fn der(path: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[test]
fn the_certificate_follows_the_name_and_a_new_one_is_taken_up_by_a_running_edge() {
    let options = FleetOptions { parents: 1, edges: 1, https: true, ..FleetOptions::default() };
    let mut fleet = Fleet::start("names", &options);
    fleet.put("t.m4s", 1000);
    let dir = fleet.dir.clone();
    let list = [
        certificate(&dir, "film", &[HOST, "film.test"]),
        certificate(&dir, "wild", &["*.wild.test"]),
    ];
    let edge = fleet.snapshot.servers.iter_mut().find(|s| s.role == Role::Edge).unwrap();
    edge.machine.certificates = list.to_vec();
    fleet.snapshot.generation += 1;
    fleet.publish();
    let https = fleet.member("edge-1").https();
    let trusting = || client(&list.each_ref().map(|c| Path::new(&c.chain)), None);
    let shown = |asked: &str| shake(https, &trusting(), asked).map(|(shown, _)| shown);
    fleet.until("the new certificates are taken up", |_| shown(HOST).is_ok());
    assert_eq!(shown("film.test").unwrap(), der(&list[0].chain));
    assert_eq!(shown("a.wild.test").unwrap(), der(&list[1].chain));
    // Made out to another name: shown is the first, and the client refuses it.
    let error = shown("elsewhere.test").unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");

    // A connection that is there goes on while certificates change.
    let mut kept = Connection::open_tls_as(https, trusting(), name(HOST)).unwrap();
    assert_eq!(kept.get(HOST, "/t.m4s", "").unwrap().status, 200);
    let old = der(&list[0].chain);
    certificate(&dir, "film", &[HOST]);
    let new = der(&list[0].chain);
    assert_ne!(old, new);
    fleet.until("the new one is shown", |_| shown(HOST).is_ok_and(|shown| shown == new));
    assert_eq!(kept.get(HOST, "/t.m4s", "").unwrap().status, 200);

    // A file that is none leaves the old one in use, and is told.
    std::fs::write(&list[0].chain, "no certificate").unwrap();
    fleet.until("it is refused", |fleet| fleet.said("edge-1").contains("certificates refused"));
    std::fs::write(dir.join("trusted.pem"), rustls_pem(&new)).unwrap();
    let trusting = client(&[&dir.join("trusted.pem")], None);
    assert_eq!(shake(https, &trusting, HOST).unwrap().0, new);
    assert_eq!(kept.get(HOST, "/t.m4s", "").unwrap().status, 200);
}

#[test]
fn an_operator_sees_the_ends_of_certificates_coming() {
    // Goal: what ends soon, has ended, or has not begun is told at start and counted, and the node serves; a new one
    // mends it. Method: certificates of these kinds beside a good one, on one edge.
    const DAY: u64 = 86_400;
    fn ending(snapshot: &mut Snapshot) {
        let edge = snapshot.servers.iter_mut().find(|s| s.role == Role::Edge).unwrap();
        let dir = Path::new(&edge.machine.certificates[0].chain).parent().unwrap().to_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let within =
            |file: &str, span| certificate_within(&dir, file, &[&format!("{file}.test")], span);
        edge.machine.certificates = vec![
            within("good", (now - DAY, now + 100 * DAY)),
            within("soon", (now - DAY, now + 10 * DAY - 3600)),
            within("ended", (now - 9 * DAY, now - 2 * DAY)),
            within("early", (now + DAY, now + 100 * DAY)),
        ];
    }
    let mut fleet = Fleet::start("ends", &ring(1, ending));
    let told = |fleet: &Fleet, what: &str| fleet.said("edge-1").contains(what);
    let file = |fleet: &Fleet, name: &str| fleet.dir.join(name).display().to_string();
    for what in [
        format!("certificate {} (soon.test) ends in 9 day(s), at 20", file(&fleet, "soon.pem")),
        format!("certificate {} (ended.test) ended at 20", file(&fleet, "ended.pem")),
        format!("certificate {} (early.test) is not valid before 20", file(&fleet, "early.pem")),
    ] {
        fleet.until(&what, |fleet| told(fleet, &what));
    }
    assert!(!told(&fleet, "good.pem") && !told(&fleet, "fleet-edge-1"), "{}", fleet.said("edge-1"));
    let status = fleet.status("edge-1");
    let list = status["certificates"].as_array().unwrap();
    let files: Vec<_> = list.iter().map(|one| one["file"].as_str().unwrap()).collect();
    assert_eq!(files.len(), 5, "{list:?}");
    assert!(files[4].ends_with("fleet-edge-1.crt"), "{files:?}");
    assert_eq!(list[1]["names"], serde_json::json!(["soon.test"]));
    assert!(list[1]["ends"].as_str().unwrap().starts_with("20") && list[1]["serial"].is_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let end = |fleet: &Fleet| fleet.counter("edge-1", "certificate_end_seconds");
    assert!((now - 3 * DAY..now - DAY).contains(&end(&fleet)), "{}", end(&fleet));
    // The parent shows the fleet's alone, and the origin nothing.
    assert_eq!(fleet.status("parent-1")["certificates"].as_array().unwrap().len(), 1);
    assert!(fleet.counter("parent-1", "certificate_end_seconds") > now);
    assert_eq!(fleet.counter("origin-1", "certificate_end_seconds"), 0);
    // It is mended while the edge runs.
    certificate_within(&fleet.dir, "ended", &["ended.test"], (now - DAY, now + 50 * DAY));
    fleet.until("the mended one is counted", |fleet| {
        (now + 8 * DAY..now + 11 * DAY).contains(&end(fleet))
    });
    // One that is shown no more does not count.
    let edge = fleet.snapshot.servers.iter_mut().find(|s| s.role == Role::Edge).unwrap();
    edge.machine.certificates.remove(1);
    fleet.snapshot.generation += 1;
    fleet.publish();
    fleet.until("the next one is counted", |fleet| end(fleet) > now + 40 * DAY);
}

/// A certificate as PEM (RFC 7468).
fn rustls_pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for part in der.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        for at in 0..4 {
            let digit = (bits >> (18 - 6 * at)) & 63;
            text.push(if at <= part.len() { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[test]
fn servers_that_share_a_secret_resume_each_others_sessions() {
    fn shared(snapshot: &mut Snapshot) {
        let edges = snapshot.servers.iter_mut().filter(|s| s.role == Role::Edge);
        for (index, edge) in edges.enumerate() {
            let chain = edge.machine.certificates[0].chain.clone();
            let dir = Path::new(&chain).parent().unwrap().to_owned();
            edge.machine.certificates = vec![certificate(&dir, &format!("pop-{index}"), &[HOST])];
            if index < 2 {
                std::fs::write(dir.join("secret"), [7; 32]).unwrap();
                edge.machine.ticket_secret_file = Some(dir.join("secret").display().to_string());
            }
        }
    }
    let options =
        FleetOptions { parents: 1, edges: 3, https: true, adjust: shared, ..Default::default() };
    let fleet = Fleet::start("tickets", &options);
    fleet.put("t.m4s", 1000);
    let pems: Vec<_> = (0..3).map(|n| fleet.dir.join(format!("pop-{n}.pem"))).collect();
    let trusted: Vec<&Path> = pems.iter().map(AsRef::as_ref).collect();
    let config = client(&trusted, None);
    let kind = |edge: &str| shake(fleet.member(edge).https(), &config, HOST).unwrap().1;
    assert_eq!(kind("edge-1"), HandshakeKind::Full);
    assert_eq!(kind("edge-1"), HandshakeKind::Resumed);
    assert_eq!(kind("edge-2"), HandshakeKind::Resumed, "by the other one's ticket");
    assert_eq!(kind("edge-3"), HandshakeKind::Full, "it has a secret of its own");
    assert_eq!(kind("edge-1"), HandshakeKind::Full, "and its ticket is worth nothing here");
}

fn ring(edges: usize, adjust: fn(&mut Snapshot)) -> FleetOptions {
    FleetOptions { parents: 2, edges, fleet_tls: true, adjust, ..FleetOptions::default() }
}

fn peering(snapshot: &mut Snapshot) {
    snapshot.cache_groups.iter_mut().find(|group| group.id == "edges").unwrap().peering = true;
}

#[test]
fn a_parent_speaks_to_its_fleet_alone() {
    let fleet = Fleet::start("fleet", &ring(1, |_| {}));
    let body = fleet.put("t.m4s", 300_000);
    assert_eq!(fleet.get("edge-1", "/t.m4s", "").unwrap().body, body, "edges get through");
    let dir = &fleet.dir;
    let authority = dir.join("fleet.pem");
    let stranger = certificate(dir, "stranger", &["edge-1.cdn.test"]);
    let https = fleet.member("parent-1").https();
    let ask = |shown: Option<(&Path, &Path)>| -> io::Result<Response> {
        let config = client(&[&authority], shown);
        Connection::open_tls_as(https, config, name("parent-1.cdn.test"))?.get(HOST, "/t.m4s", "")
    };
    let (edge, edge_key) = (dir.join("fleet-edge-1.crt"), dir.join("fleet-edge-1.key"));
    assert_eq!(ask(Some((&edge, &edge_key))).unwrap().body, body);
    assert!(ask(None).is_err(), "who shows nothing");
    let stranger = (Path::new(&stranger.chain), Path::new(&stranger.key));
    assert!(ask(Some(stranger)).is_err(), "who shows somebody else's");
    // And an edge that does not know its parent asks nobody: no answer is better than anybody's.
    assert!(get(https, HOST, "/t.m4s", "").is_err(), "plain HTTP is not spoken there");
}

/// What an operator does; gives what it says.
fn tidegate(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("tidegate"));
    let output = command.current_dir(dir).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Certificates of an authority that `tidegate tls` made, in a folder for each server, and a list that revokes nobody yet.
fn revocable(snapshot: &mut Snapshot) {
    let zone = snapshot.zone.clone();
    let mut dir = None;
    for server in &mut snapshot.servers {
        let Some(fleet) = &mut server.machine.fleet_tls else { continue };
        let dir = dir.get_or_insert_with(|| {
            let dir = Path::new(&fleet.chain).parent().unwrap().to_owned();
            tidegate(&dir, &["tls", "make-ca", "--out", "ca"]);
            tidegate(&dir, &["tls", "revoke", "--ca", "ca", "--crl", "crl.pem"]);
            dir
        });
        let name = format!("{}.{zone}", server.id);
        tidegate(dir, &["tls", "make-cert", "--ca", "ca", "--out", &server.id, "--name", &name]);
        let path = |file: &str| dir.join(file).display().to_string();
        *fleet = FleetTls {
            chain: path(&format!("{}/cert.pem", server.id)),
            key: path(&format!("{}/key.pem", server.id)),
            authorities: path("ca/ca.pem"),
            revoked: Some(path("crl.pem")),
        };
    }
}

#[test]
fn a_revoked_server_is_shut_out_and_the_others_go_on() {
    // Goal: whoever is on the list gets nothing more, neither over a connection that stands nor by being asked; a list that cannot be
    // used changes nothing; and who is taken off it belongs to the fleet again. Method: the list as `tidegate tls revoke` makes it.
    const PARENTS: [&str; 2] = ["parent-1", "parent-2"];
    const ALL: [&str; 4] = ["parent-1", "parent-2", "edge-1", "edge-2"];
    let mut fleet = Fleet::start("revoked", &ring(2, revocable));
    let dir = fleet.dir.clone();
    let revoke = |more: &[&str]| {
        tidegate(&dir, &[&["tls", "revoke", "--ca", "ca", "--crl", "crl.pem"], more].concat())
    };
    let known = |fleet: &Fleet, count: u64| {
        ALL.iter().all(|id| fleet.status(id)["revoked"][0]["revoked"] == count)
    };
    // As one who has stolen its files.
    let open = |fleet: &Fleet, edge: &str, parent: &str| {
        let (chain, key) = (dir.join(edge).join("cert.pem"), dir.join(edge).join("key.pem"));
        let config = client(&[&dir.join("ca/ca.pem")], Some((&chain, &key)));
        let address = fleet.member(parent).https();
        Connection::open_tls_as(address, config, name(&format!("{parent}.cdn.test")))
    };
    let ask = |fleet: &Fleet, edge: &str| {
        open(fleet, edge, "parent-1").and_then(|mut c| c.get(HOST, "/0.m4s", ""))
    };
    let mut serial = 0;
    let mut get = |fleet: &Fleet, edge: &str| {
        serial += 1;
        let body = fleet.put(&format!("{serial}.m4s"), 50_000);
        let answer = fleet.get(edge, &format!("/{serial}.m4s"), "").unwrap();
        let is_good = answer.status == 200 && answer.body == body;
        assert!(is_good || answer.status >= 500, "{}", answer.status);
        is_good
    };
    fleet.put("0.m4s", 1000);
    assert!(known(&fleet, 0) && get(&fleet, "edge-1") && get(&fleet, "edge-2"));
    let mut thief = open(&fleet, "edge-1", "parent-1").unwrap();
    let mut honest = open(&fleet, "edge-2", "parent-1").unwrap();
    assert_eq!(thief.get(HOST, "/0.m4s", "").unwrap().status, 200);
    assert_eq!(honest.get(HOST, "/0.m4s", "").unwrap().status, 200);

    revoke(&["--cert", "edge-1/cert.pem"]);
    fleet.until("all know of it", |fleet| known(fleet, 1));
    assert!(thief.get(HOST, "/0.m4s", "").is_err(), "a connection that stands");
    assert!(ask(&fleet, "edge-1").is_err(), "a new one");
    assert_eq!(honest.get(HOST, "/0.m4s", "").unwrap().status, 200, "it was not ended");
    assert_eq!(ask(&fleet, "edge-2").unwrap().status, 200);
    assert!(!get(&fleet, "edge-1"), "nobody answers it");
    assert!(get(&fleet, "edge-2"));
    assert!(fleet.said("edge-1").contains("names this server's own certificate"));

    // A list that is none: the old one goes on.
    let good = std::fs::read(dir.join("crl.pem")).unwrap();
    std::fs::write(dir.join("crl.pem"), "no list").unwrap();
    fleet.until("it is refused", |fleet| {
        let refused = |id: &&str| {
            fleet.said(id).contains("certificates refused, the old ones go on: revoked ")
        };
        PARENTS.iter().all(refused)
    });
    assert!(ask(&fleet, "edge-1").is_err() && !get(&fleet, "edge-1"));
    assert!(ask(&fleet, "edge-2").is_ok() && get(&fleet, "edge-2"));
    std::fs::write(dir.join("crl.pem"), good).unwrap();
    // A parent is not asked any more either, over connections that stand neither; the other one is.
    assert!((0..10).all(|_| get(&fleet, "edge-2")), "it has connections to both");
    revoke(&["--cert", "parent-1/cert.pem"]);
    fleet.until("all know of it", |fleet| known(fleet, 2));
    let before = fleet.counter("parent-1", "requests_total");
    for _ in 0..10 {
        assert!(get(&fleet, "edge-2"));
    }
    assert_eq!(fleet.counter("parent-1", "requests_total"), before);

    // Another list, without them.
    std::fs::remove_file(dir.join("crl.pem")).unwrap();
    revoke(&[]);
    fleet.until("all know of it", |fleet| known(fleet, 0));
    fleet.until("the fleet is whole", |fleet| {
        get(fleet, "edge-1")
            && get(fleet, "edge-2")
            && fleet.counter("edge-2", "next_hops_out") == 0
    });
    assert_eq!(ask(&fleet, "edge-1").unwrap().status, 200);
    // A node does not start without its list.
    std::fs::remove_file(dir.join("crl.pem")).unwrap();
    let said = fleet.refused_start("edge-2");
    assert!(
        said.contains("server edge-2: revoked ") && said.contains("mend: give fleet_tls.revoked"),
        "{said}"
    );
}

fn explained(fleet: &Fleet, node: &str, path: &str) -> Option<String> {
    let target = format!("/explain?host={HOST}&path={path}");
    let answer = get(fleet.member(node).admin(), "x", &target, "").unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    answer["peer"].as_str().map(str::to_owned)
}

#[test]
fn in_a_ring_each_object_comes_from_parents_once_and_a_lost_edge_is_done_without() {
    const EDGES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];
    let mut fleet = Fleet::start("ring", &ring(3, peering));
    let paths: Vec<String> = (0..30).map(|n| format!("/{n}.m4s")).collect();
    let bodies: Vec<_> = paths.iter().map(|path| fleet.put(&path[1..], 100_000)).collect();
    let parents = |fleet: &Fleet| fleet.sum(&["parent-1", "parent-2"], "requests_total");
    let mut owned = [0; 3];
    for (path, body) in paths.iter().zip(&bodies) {
        // All agree on whose it is.
        let owners: Vec<_> = EDGES
            .iter()
            .map(|edge| explained(&fleet, edge, path).unwrap_or(edge.to_string()))
            .collect();
        assert!(owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
        owned[EDGES.iter().position(|edge| *edge == owners[0]).unwrap()] += 1;
        // All at once.
        std::thread::scope(|scope| {
            for edge in EDGES {
                let fleet = &fleet;
                scope.spawn(move || {
                    let answer = fleet.get(edge, path, "").unwrap();
                    assert_eq!((answer.status, &answer.body), (200, body), "{edge}{path}");
                });
            }
        });
    }
    assert!(owned.iter().all(|n| *n > 2), "each has its share: {owned:?}");
    assert_eq!(parents(&fleet), 30, "one request for each object");
    assert_eq!(fleet.sum(&EDGES, "peer_fills_total"), 60);
    assert_eq!(fleet.sum(&EDGES, "peer_fills_failed_total"), 0);

    // What a viewer does not get, a peer does: answers as they came.
    let dir = fleet.dir.clone();
    let https = fleet.member("edge-1").https();
    let (edge, key) = (dir.join("fleet-edge-2.crt"), dir.join("fleet-edge-2.key"));
    let config = client(&[&dir.join("fleet.pem")], Some((&edge, &key)));
    let mut peer = Connection::open_tls_as(https, config, name("edge-1.cdn.test")).unwrap();
    assert_eq!(peer.get(HOST, &paths[0], "").unwrap().field("x-region"), None);
    let mut viewer = Connection::open_tls(https, fleet.tls.clone().unwrap()).unwrap();
    assert_eq!(viewer.get(HOST, &paths[0], "").unwrap().field("x-region"), Some("test"));
    assert_eq!(peer.get(HOST, &paths[0], "").unwrap().field("x-region"), None, "not by its cache");
    // Under the edge's name among the fleet it speaks to nobody who does not prove himself.
    let config = client(&[&dir.join("fleet.pem")], None);
    let refused = Connection::open_tls_as(https, config, name("edge-1.cdn.test"))
        .and_then(|mut connection| connection.get(HOST, &paths[0], ""));
    assert!(refused.is_err());

    // A lost edge's objects are brought in by who stands next for them, or by the parents.
    fleet.kill("edge-3");
    let more: Vec<String> = (0..30).map(|n| format!("/more-{n}.m4s")).collect();
    for path in &more {
        let body = fleet.put(&path[1..], 50_000);
        for edge in ["edge-1", "edge-2"] {
            let answer = fleet.get(edge, path, "").unwrap();
            assert_eq!((answer.status, &answer.body), (200, &body), "{edge}{path}");
        }
    }
    let asked = parents(&fleet) - 30;
    assert!((30..=32).contains(&asked), "{asked}: each edge finds out once that it is gone");
    fleet.restart("edge-3");
    fleet.until("it belongs to the ring again", |fleet| {
        more.iter().any(|path| explained(fleet, "edge-1", path).as_deref() == Some("edge-3"))
    });
}
