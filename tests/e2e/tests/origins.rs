//! Origins over TLS: asked only when their certificate is theirs, and as good as plain ones then. Method: small TLS servers
//! of the test's own, with certificates made for it: good, of another name, of nobody, expired, plain, silent.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use tidegate_contract::{OriginTls, Role, Snapshot};
use tidegate_e2e::client::PATIENCE;
use tidegate_e2e::{Fleet, FleetOptions, content};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NAME: &str = "origin.example";
const SIZE: usize = 1_600_000;

/// An authority and what it signs.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn config(&self, name: &str, expired: bool, tls12: bool) -> Arc<rustls::ServerConfig> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            if tls12 { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}

/// What the origin has seen.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
}

/// A TLS server that gives `SIZE` bytes of content for any path; `/cut` breaks off once, in the middle and without a
/// close_notify, `/close` has no length and ends with the connection (in order, or cut for `/cut-close`).
fn serve(config: Arc<rustls::ServerConfig>) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind((LOCAL, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Seen> = Arc::default();
    let all = seen.clone();
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let (config, seen) = (config.clone(), all.clone());
            seen.connections.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                let connection = rustls::ServerConnection::new(config).unwrap();
                let _gone = answer_all(rustls::StreamOwned::new(connection, tcp), &seen);
            });
        }
    });
    (address, seen)
}

type Tls = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

fn answer_all(mut stream: Tls, seen: &Seen) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        while !buffer.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut piece = [0; 2048];
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                n => buffer.extend_from_slice(&piece[..n]),
            }
        }
        let text = String::from_utf8_lossy(&buffer).into_owned();
        buffer.clear();
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let again = {
            let mut requests = seen.requests.lock().unwrap();
            let again = requests.iter().any(|r| r.split(' ').nth(1) == Some(path.as_str()));
            requests.push(text.clone());
            again
        };
        let bytes = content(&path, SIZE);
        let range = text.lines().find_map(|line| {
            let (first, last) = line
                .to_ascii_lowercase()
                .strip_prefix("range: bytes=")?
                .split_once('-')
                .map(|(a, b)| (a.to_owned(), b.to_owned()))?;
            Some((first.parse::<usize>().ok()?, last.parse().unwrap_or(SIZE - 1).min(SIZE - 1)))
        });
        let fields = "Cache-Control: max-age=3600\r\nETag: \"t\"\r\n";
        if path.ends_with("close") {
            stream.write_all(
                format!("HTTP/1.1 200 OK\r\n{fields}Connection: close\r\n\r\n").as_bytes(),
            )?;
            stream.write_all(&bytes)?;
            if path == "/close" {
                stream.conn.send_close_notify();
                stream.flush()?;
            }
            return Ok(());
        }
        let (head, body) = match range {
            Some((first, last)) => (
                format!(
                    "HTTP/1.1 206 P\r\n{fields}Content-Range: bytes {first}-{last}/{SIZE}\r\nContent-Length: {}\r\n\r\n",
                    last - first + 1
                ),
                &bytes[first..=last],
            ),
            None => {
                (format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {SIZE}\r\n\r\n"), &bytes[..])
            }
        };
        stream.write_all(head.as_bytes())?;
        if path == "/cut" && !again {
            stream.write_all(&body[..700_000])?;
            stream.flush()?;
            return Ok(());
        }
        stream.write_all(body)?;
        stream.flush()?;
    }
}

/// The authority file's place in each fleet's directory; the snapshot is adjusted before anything is started.
fn with_tls(snapshot: &mut Snapshot) {
    let folder = snapshot
        .servers
        .iter()
        .find_map(|server| server.machine.stores.first())
        .and_then(|store| Path::new(&store.path).parent())
        .unwrap()
        .to_owned();
    for server in snapshot.servers.iter_mut().filter(|s| s.role == Role::Origin) {
        server.https_port = server.http_port.take();
        let ca_file = Some(folder.join("ca.pem").display().to_string());
        server.origin_tls = Some(OriginTls { name: NAME.to_owned(), ca_file });
    }
}

static AUTHORITY: Mutex<Option<String>> = Mutex::new(None);

fn write_authority(folder: &Path) {
    let pem = AUTHORITY.lock().unwrap().clone().unwrap();
    fs::write(folder.join("ca.pem"), pem).unwrap();
}

/// One at a time: the authority of the fleet that is being made is in a static.
fn fleet(name: &str, authority: &str, origin: SocketAddr) -> Fleet {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *AUTHORITY.lock().unwrap() = Some(authority.to_owned());
    Fleet::start(
        name,
        &FleetOptions {
            edges: 1,
            parents: 1,
            cores: 1,
            origin: Some(origin),
            adjust: with_tls,
            prepare: write_authority,
            ..FleetOptions::default()
        },
    )
}

#[test]
fn an_origin_over_tls_is_as_good_as_a_plain_one() {
    // Goal: whole objects, ranges, kept connections, resumed and cut bodies over TLS 1.3 and 1.2. Method: through edge
    // and parent, every byte compared.
    for tls12 in [false, true] {
        let authority = Authority::new();
        let (address, seen) = serve(authority.config(NAME, false, tls12));
        let fleet = fleet(&format!("good-{tls12}"), &authority.pem, address);
        for path in ["/a", "/b", "/c"] {
            let response = fleet.get("edge-1", path, "").unwrap();
            assert!(response.status == 200 && response.body == content(path, SIZE), "{path}");
            fleet.settle("parent-1");
        }
        assert_eq!(seen.connections.load(Ordering::SeqCst), 1, "one connection is kept");
        let response = fleet.get("edge-1", "/r", "Range: bytes=1000000-1000099\r\n").unwrap();
        assert!(response.body == content("/r", SIZE)[1_000_000..=1_000_099]);
        let response = fleet.get("edge-1", "/cut", "").unwrap();
        assert!(response.body == content("/cut", SIZE), "resumed where it broke off");
        let response = fleet.get("edge-1", "/close", "").unwrap();
        assert!(response.body == content("/close", SIZE));
        // Cut without a close_notify and without a length: nobody knows whether that is all of it (RFC 8446 §6.1).
        assert!(fleet.get("edge-1", "/cut-close", "").is_err(), "never passes for whole");
        let requests = seen.requests.lock().unwrap();
        assert!(
            requests.iter().all(|request| request.contains("host: origin.example\r\n")
                || request.contains("Host: origin.example\r\n")),
            "{}",
            requests[0]
        );
    }
}

#[test]
fn who_is_not_the_origin_is_sent_nothing() {
    // Goal: verification. Method: each kind of wrong server; the client gets a 502 whose cause is in the log, and the
    // server gets no request.
    let authority = Authority::new();
    let other = Authority::new();
    let plain = TcpListener::bind((LOCAL, 0)).unwrap();
    let plain_address = plain.local_addr().unwrap();
    thread::spawn(move || {
        for mut tcp in plain.incoming().flatten() {
            let mut piece = [0; 100];
            let _read = tcp.read(&mut piece);
            let _sent = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        }
    });
    let (wrong_name, seen_name) = serve(authority.config("elsewhere.example", false, false));
    let (untrusted, seen_untrusted) = serve(other.config(NAME, false, false));
    let (expired, seen_expired) = serve(authority.config(NAME, true, false));
    for (name, address, seen, cause) in [
        ("wrong-name", wrong_name, Some(seen_name), "not valid for name"),
        ("untrusted", untrusted, Some(seen_untrusted), "invalid peer certificate"),
        ("expired", expired, Some(seen_expired), "expired"),
        ("plain", plain_address, None, "Tls failed"),
    ] {
        let fleet = fleet(name, &authority.pem, address);
        let response = fleet.get("edge-1", "/a", "").unwrap();
        assert_eq!(response.status, 502, "{name}");
        if let Some(seen) = seen {
            assert!(seen.requests.lock().unwrap().is_empty(), "{name}");
        }
        fleet.until("the log says why", |fleet| {
            let log = fs::read_to_string(fleet.dir.join("parent-1.log")).unwrap_or_default();
            log.contains("Tls failed") && log.contains(cause)
        });
    }
}

#[test]
fn authorities_that_cannot_be_read_are_named_at_the_start() {
    let authority = Authority::new();
    let (address, _) = serve(authority.config(NAME, false, false));
    let mut fleet = fleet("authorities", &authority.pem, address);
    let file = fleet.dir.join("ca.pem");
    for content in [Some("no certificate at all\n"), None] {
        match content {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let said = fleet.refused_start("parent-1");
        assert!(said.contains(&file.display().to_string()) && said.contains("origin-1"), "{said}");
        assert!(said.contains("mend: give origin_tls.ca_file"), "{said}");
    }
    // Edges never ask an origin: they need no authorities.
    fleet.restart("edge-1");
}
