//! Goal: what the kernel seals is what the process would have sealed, and all else about a session stays as it was. Method: an
//! edge with `ktls = "auto"` and clients by rustls over HTTP/1.1 and HTTP/2. Where the kernel seals nothing, that this is told
//! and that everybody is served; the rest is skipped and says why (`cargo xtask emulate` has a kernel that does).

use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedCipherSuite};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_contract::{Ktls, Role, Snapshot, TlsVersion};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::tls::{certificate, client_of, client_with, name};
use tidegate_e2e::{Connection, Fleet, FleetOptions, block_on, h2};
use tidegate_ring::KernelSealing;

fn sealed_by_kernel(snapshot: &mut Snapshot) {
    let edge = snapshot.servers.iter_mut().find(|s| s.role == Role::Edge).unwrap();
    edge.machine.ktls = Ktls::Auto;
    let first = edge.machine.certificates[0].chain.clone();
    edge.machine.certificates =
        vec![certificate(Path::new(&first).parent().unwrap(), "shown", &[HOST])];
    snapshot.delivery_services[0].tls = TlsVersion::Tls12;
}

fn fleet(name: &str) -> Fleet {
    let options = FleetOptions {
        parents: 1,
        edges: 1,
        https: true,
        adjust: sealed_by_kernel,
        ..FleetOptions::default()
    };
    Fleet::start(name, &options)
}

/// Whether the kernel seals; says so if not.
fn kernel() -> Option<&'static KernelSealing> {
    match KernelSealing::of_host() {
        Ok(kernel) => Some(kernel),
        Err(why) => {
            assert!(std::env::var_os("TIDEGATE_KTLS_MUST").is_none(), "{why}");
            eprintln!("skipped: this kernel seals nothing: {why}");
            None
        }
    }
}

fn trusting(fleet: &Fleet, suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    client_with(provider, &[&TLS13], &[&fleet.dir.join("shown.pem")], None)
}

fn connect(fleet: &Fleet, config: &Arc<ClientConfig>) -> Connection {
    Connection::open_tls_as(fleet.member("edge-1").https(), config.clone(), name(HOST)).unwrap()
}

fn by_kernel(fleet: &Fleet) -> u64 {
    fleet.counter("edge-1", "ktls_connections_total")
}

const SUITES: [SupportedCipherSuite; 3] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
];

#[test]
fn what_the_kernel_seals_is_told_and_all_are_served_either_way() {
    let mut fleet = fleet("ktls-told");
    let body = fleet.put("t.m4s", 300_000);
    for suite in SUITES {
        let mut connection = connect(&fleet, &trusting(&fleet, suite));
        for _ in 0..3 {
            assert!(connection.get(HOST, "/t.m4s", "").unwrap().body == body);
        }
    }
    let told = fleet.status("edge-1")["ktls"].as_str().unwrap().to_owned();
    let said = fleet.said("edge-1");
    match KernelSealing::of_host() {
        Ok(kernel) => {
            assert_eq!(told, kernel.to_string());
            assert!(said.contains(&format!("ktls: the kernel seals {kernel}")), "{said}");
            assert_eq!(fleet.counter("edge-1", "ktls_available"), 1);
            assert_eq!(by_kernel(&fleet), kernel.ciphers.len() as u64);
        }
        Err(why) => {
            assert_eq!(told, format!("no: {why}"));
            assert!(said.contains(why) && said.contains("mend: modprobe tls"), "{said}");
            assert_eq!((fleet.counter("edge-1", "ktls_available"), by_kernel(&fleet)), (0, 0));
        }
    }
    // TLS 1.2 has a path of its own.
    let before = by_kernel(&fleet);
    let old = client_of(&[&TLS12], &[&fleet.dir.join("shown.pem")], None);
    assert!(connect(&fleet, &old).get(HOST, "/t.m4s", "").unwrap().body == body);
    assert_eq!(by_kernel(&fleet), before);
    // Switched off, new connections are the process' own, and those that are there go on.
    let mut kept = connect(&fleet, &trusting(&fleet, SUITES[0]));
    assert!(kept.get(HOST, "/t.m4s", "").unwrap().body == body);
    let edge = fleet.snapshot.servers.iter_mut().find(|s| s.role == Role::Edge).unwrap();
    edge.machine.ktls = Ktls::Off;
    fleet.snapshot.generation += 1;
    fleet.publish();
    fleet.until("it is taken up", |fleet| fleet.status("edge-1")["ktls"] == "off");
    let before = by_kernel(&fleet);
    let mut fresh = connect(&fleet, &trusting(&fleet, SUITES[0]));
    assert!(fresh.get(HOST, "/t.m4s", "").unwrap().body == body);
    assert!(kept.get(HOST, "/t.m4s", "").unwrap().body == body);
    assert_eq!(by_kernel(&fleet), before);
}

#[test]
fn bodies_of_all_sizes_arrive_over_http1_and_http2() {
    if kernel().is_none() {
        return;
    }
    let fleet = fleet("ktls-sizes");
    let sizes = [0, 1, 1000, 12_288, 16_384, 16_385, 65_536, 262_144, 1_000_003, 9_000_000];
    let files: Vec<(String, Vec<u8>)> = sizes
        .iter()
        .map(|size| (format!("{size}.m4s"), fleet.put(&format!("{size}.m4s"), *size)))
        .collect();
    for suite in SUITES {
        let config = trusting(&fleet, suite);
        let mut connection = connect(&fleet, &config);
        for (file, body) in files.iter().chain(&files) {
            let got = connection.get(HOST, &format!("/{file}"), "").unwrap();
            assert!(got.status == 200 && got.body == *body, "{file} {suite:?}");
        }
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        block_on(async {
            let tcp = tokio::net::TcpStream::connect(fleet.member("edge-1").https()).await.unwrap();
            let client = h2::Client::connect_as(tcp, name(HOST), Arc::new(config)).await;
            let asked = files.iter().map(|(file, body)| {
                let client = client.clone();
                async move {
                    let answer = client.get(&format!("/{file}"), &[]).await.unwrap();
                    assert!(answer.status == 200 && answer.body == *body, "{file} over HTTP/2");
                }
            });
            for asked in asked {
                asked.await;
            }
        });
    }
    assert_eq!(by_kernel(&fleet), 6);
    assert_eq!(fleet.counter("edge-1", "tls_errors_total"), 0);
}

type Raw = StreamOwned<ClientConnection, TcpStream>;

fn raw(fleet: &Fleet, suite: SupportedCipherSuite) -> Raw {
    let tcp = TcpStream::connect(fleet.member("edge-1").https()).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    StreamOwned::new(ClientConnection::new(trusting(fleet, suite), name(HOST)).unwrap(), tcp)
}

fn ask(client: &mut Raw, file: &str, more: &str) {
    let request = format!("GET /{file} HTTP/1.1\r\nhost: {HOST}\r\n{more}\r\n");
    client.write_all(request.as_bytes()).unwrap();
}

/// Reads an answer whose body has this length; what that is.
fn answer(client: &mut Raw, body_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    let mut body = vec![0; body_bytes];
    client.read_exact(&mut body)?;
    Ok(body)
}

#[test]
fn a_client_that_takes_its_time_gets_all_of_it_and_the_goodbye() {
    if kernel().is_none() {
        return;
    }
    let fleet = fleet("ktls-slow");
    let body = fleet.put("long.m4s", 30_000_000);
    let mut client = raw(&fleet, SUITES[0]);
    ask(&mut client, "long.m4s", "connection: close\r\n");
    // The edge is waiting for it by then: more than sockets hold is under way, and nothing is read.
    fleet.until("the socket is full", |fleet| fleet.counter("edge-1", "fills_total") == 1);
    assert!(answer(&mut client, body.len()).unwrap() == body);
    // In order: a close_notify, or rustls tells an unexpected end.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(by_kernel(&fleet), 1);
}

#[test]
fn a_client_that_asks_for_another_key_gets_it_or_a_goodbye_and_never_the_old_one() {
    let Some(kernel) = kernel() else { return };
    let fleet = fleet("ktls-keys");
    let body = fleet.put("t.m4s", 500_000);
    for suite in SUITES {
        let mut client = raw(&fleet, suite);
        ask(&mut client, "t.m4s", "");
        assert!(answer(&mut client, body.len()).unwrap() == body);
        for round in 0..3 {
            client.conn.refresh_traffic_keys().unwrap();
            let asked =
                client.write_all(format!("GET /t.m4s HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes());
            if kernel.changes_keys {
                asked.unwrap();
                assert!(answer(&mut client, body.len()).unwrap() == body, "{suite:?} {round}");
                continue;
            }
            // Clients see a connection that ends in order, and ask again on another one.
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "{suite:?}");
            break;
        }
    }
    assert_eq!(by_kernel(&fleet), 3);
}

#[test]
fn a_record_that_was_changed_on_its_way_is_answered_by_an_alert() {
    if kernel().is_none() {
        return;
    }
    let fleet = fleet("ktls-alert");
    let body = fleet.put("t.m4s", 50_000);
    let mut client = raw(&fleet, SUITES[1]);
    ask(&mut client, "t.m4s", "");
    assert!(answer(&mut client, body.len()).unwrap() == body);
    let mut bad = vec![23, 3, 3, 0, 40];
    bad.extend([7; 40]);
    client.sock.write_all(&bad).unwrap();
    let told = client.read(&mut [0]).unwrap_err().to_string();
    assert!(told.contains("BadRecordMac"), "{told}");
}

#[test]
fn a_client_that_is_gone_at_once_costs_a_connection_and_nothing_else() {
    if kernel().is_none() {
        return;
    }
    let fleet = fleet("ktls-gone");
    let body = fleet.put("t.m4s", 3_000_000);
    for round in 0..20 {
        let mut client = raw(&fleet, SUITES[round % 3]);
        ask(&mut client, "t.m4s", "");
        if round % 2 == 0 {
            client.read_exact(&mut [0; 100]).unwrap();
        }
        let _ends =
            client.sock.shutdown(if round % 4 < 2 { Shutdown::Both } else { Shutdown::Write });
    }
    fleet.until("all are gone", |fleet| fleet.counter("edge-1", "connections_open") <= 1);
    let mut client = raw(&fleet, SUITES[0]);
    ask(&mut client, "t.m4s", "");
    assert!(answer(&mut client, body.len()).unwrap() == body);
}
