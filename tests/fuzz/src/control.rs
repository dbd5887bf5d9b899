//! What routers, monitors and every daemon read: DNS messages, snapshots, their source, heartbeats.

use aws_lc_rs::{digest, hmac};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use tidegate_contract::{HeartbeatKey, Snapshot, heartbeat as datagrams};
use tidegate_dns::{Data, Record, Response, Transport};
use tidegate_steer::{Ask, Health, Request, Table};

/// A query is refused with its own id, or answered within what its carrier takes.
pub fn dns(input: &[u8]) {
    let mut out = Vec::new();
    let query = match tidegate_dns::parse(input) {
        Ok(query) => query,
        Err(reject) => {
            if tidegate_dns::write_reject(&reject, &mut out) {
                assert_eq!(out[..2], input[..2], "the id is the client's");
                assert!(out[2] & 0x80 != 0 && out.len() <= 512);
            }
            return;
        }
    };
    assert_eq!(query.id.to_be_bytes(), input[..2]);
    let text = query.name.to_host();
    match tidegate_dns::Name::from_text(&text) {
        _ if text.contains('?') => {} // bytes that no host name has
        Ok(name) => assert_eq!(name, query.name),
        Err(_) => panic!("{text} is a name and is none"),
    }
    let mut response = Response::empty(tidegate_dns::Rcode::NoError, true);
    for n in 0..40 {
        let (owner, data) = (query.name.clone(), Data::A(Ipv4Addr::new(192, 0, 2, n)));
        response.answers.push(Record { owner, ttl: 20, data });
    }
    for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, 65535)] {
        let fitted = tidegate_dns::write(&query, &response, transport, &mut out);
        assert!(out.len() <= limit, "{} bytes", out.len());
        assert_eq!(out[..2], input[..2]);
        assert_eq!(out[2] & 2 == 0, fitted, "cut answers say so");
    }
}

pub fn dns_seeds() -> Vec<Vec<u8>> {
    let head = |additionals: u8| vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, additionals];
    let question = b"\x04play\x04film\x03cdn\x04test\x00\x00\x01\x00\x01";
    let opt =
        b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0b\x00\x08\x00\x07\x00\x01\x18\x00\xc0\x00\x02";
    vec![
        [&head(0)[..], question].concat(),
        [&head(1)[..], question, opt].concat(),
        [&head(0)[..], b"\x00\x00\x02\x00\x01"].concat(),
        vec![0, 1, 0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
}

/// A payload behind a right header: refused, or a snapshot that routing can run on.
pub fn snapshot(input: &[u8]) {
    let _raw = tidegate_contract::inspect(input);
    let mut header = String::new();
    let hash = hex(digest::digest(&digest::SHA256, input).as_ref());
    // Writing to a String cannot fail.
    let _ = write!(
        header,
        "tidegate-snapshot 1\ngeneration 1\nbytes {}\nsha256 {hash}\nkey 00\nsignature {}\n",
        input.len(),
        "0".repeat(128)
    );
    let file = [header.as_bytes(), input].concat();
    match tidegate_contract::inspect(&file) {
        Ok((snapshot, _)) => route(snapshot),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn route(snapshot: Snapshot) {
    let hosts: Vec<String> =
        snapshot.delivery_services.iter().flat_map(|service| service.hosts.clone()).collect();
    let table = Table::new(snapshot.into(), None);
    for host in hosts {
        for ask in [Ask::Dns, Ask::Http { path: "/a", secure: true }] {
            let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
            let request = Request { host: &host, client, ask, trace: true };
            let _decision = table.decide(&Health::all_up(), &request);
        }
    }
}

pub fn snapshot_seeds() -> Vec<Vec<u8>> {
    let compiled = tidegate_contract::compile(&example(), 1);
    let snapshot = compiled.unwrap_or_else(|problems| unreachable!("the example: {problems:?}"));
    let key = tidegate_contract::SigningKey::generate().expect("the system has randomness");
    let file = tidegate_contract::sign(&snapshot, &key);
    let at = file.windows(2).position(|two| two == b"\n{").expect("the payload is JSON") + 1;
    vec![file[at..].to_vec(), file]
}

/// The annotated example of the documents, file by file.
fn example() -> Vec<(String, String)> {
    const FILES: [(&str, &str); 4] = [
        ("cdn.toml", include_str!("../../../docs/reference/example-config/cdn.toml")),
        ("servers.toml", include_str!("../../../docs/reference/example-config/servers.toml")),
        (
            "coverage-zones.json",
            include_str!("../../../docs/reference/example-config/coverage-zones.json"),
        ),
        (
            "delivery-services/films.toml",
            include_str!("../../../docs/reference/example-config/delivery-services/films.toml"),
        ),
    ];
    let mut files: Vec<(String, String)> =
        FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    files.push(("keys/heartbeat.key".to_owned(), KEY.to_owned()));
    files
}

const MARK: &str = "\n=== ";

/// Files of a source tree: a snapshot, or problems that name a place.
pub fn source(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let files: Vec<(String, String)> = text
        .split(MARK)
        .filter_map(|part| part.split_once('\n'))
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect();
    match tidegate_contract::compile(&files, 1) {
        Ok(snapshot) => route(snapshot),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
                assert!(!problem.what.is_empty() && !problem.mend.is_empty(), "{problem}");
            }
        }
    }
}

pub fn source_seeds() -> Vec<Vec<u8>> {
    let all = example().into_iter().fold(String::new(), |mut all, (name, text)| {
        let _ = write!(all, "{MARK}{name}\n{text}");
        all
    });
    vec![all.into_bytes()]
}

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A datagram behind a right MAC: refused, or written again as it came.
pub fn heartbeat(input: &[u8]) {
    let key = HeartbeatKey::from_hex(KEY).expect("64 hexadecimal digits");
    let _raw = datagrams::decode(input, &key);
    let bytes: Vec<u8> = (0..32).collect();
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), input);
    let datagram = [input, mac.as_ref()].concat();
    let mut out = Vec::new();
    match datagrams::decode(&datagram, &key) {
        Ok(datagrams::Datagram::Heartbeat(heartbeat)) => heartbeat.encode(&key, &mut out),
        Ok(datagrams::Datagram::Verdicts(verdicts)) => verdicts.encode(&key, &mut out),
        Err(_) => return,
    }
    assert_eq!(out, datagram);
}

pub fn heartbeat_seeds() -> Vec<Vec<u8>> {
    use tidegate_contract::heartbeat::{
        Heartbeat, Load, ServingState, Stamp, Verdict, VerdictState, Verdicts,
    };
    let key = HeartbeatKey::from_hex(KEY).expect("64 hexadecimal digits");
    let stamp = Stamp { boot: 3, sequence: 9, unix_ms: 1_795_132_800_000 };
    let mut out = Vec::new();
    let mut seeds = Vec::new();
    let load = Load { connections: 1, requests_per_second: 2, bytes_per_second: 3 };
    let server = "edge-1".to_owned();
    Heartbeat { server: server.clone(), stamp, state: ServingState::Up, load, generation: 4 }
        .encode(&key, &mut out);
    seeds.push(out[..out.len() - 32].to_vec());
    let verdicts = vec![Verdict { server, state: VerdictState::Held, generation: 4 }];
    Verdicts { monitor: "monitor-1".to_owned(), stamp, verdicts }.encode(&key, &mut out);
    seeds.push(out[..out.len() - 32].to_vec());
    seeds
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
