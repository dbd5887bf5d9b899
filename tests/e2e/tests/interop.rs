//! HTTP/3 with other people's clients: Chromium, curl, ngtcp2 and aioquic each fetch an object from a real edge, and its bytes are
//! compared. The access log says by which protocol they came. A client that this machine does not have is passed over, and
//! the reason printed.

use aws_lc_rs::digest;
use rcgen::PublicKeyData;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions, HandOrigin, content, reply};

const BYTES: usize = 3_000_000;

fn options() -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, https: true, ..FleetOptions::default() }
}

/// Runs a program for two minutes at most; `None`: it is not there.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new("timeout").args(["120", program]).args(arguments).output() {
        // That of `timeout` for what cannot be found.
        Ok(output) if output.status.code() == Some(127) => None,
        output => output.ok(),
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

fn skipped(client: &str, why: &str) {
    println!("skipped: {client}: {why}");
}

/// Waits for the line of a request by HTTP/3.
fn came_by_http3(fleet: &Fleet, path: &str) {
    fleet.until("the log is written", |fleet| {
        let log = fs::read_to_string(fleet.dir.join("edge-1.log")).unwrap_or_default();
        log.lines().any(|line| line.contains("\"HTTP/3\"") && line.contains(path))
    });
}

#[test]
fn ngtcp2_gets_the_bytes() {
    let Some(help) = run("gtlsclient", &["--help"]) else {
        return skipped("ngtcp2", "no gtlsclient; mend: apt-get install ngtcp2-client");
    };
    assert!(help.status.success());
    let fleet = Fleet::start("interop-ngtcp2", &options());
    let address = fleet.member("edge-1").https();
    // As it comes, and with its own tricks: another address that it tells of, new keys. It refuses to ask for those soon after the
    // edge did, which does within its first 10 to 1000 packets: so it asks before it has asked for anything else.
    let quiet = "--quiet";
    let ways: [&[&str]; 3] = [
        &[quiet],
        &[quiet, "--change-local-addr=20ms"],
        &["--no-quic-dump", "--no-http-dump", "--key-update=1ms", "--delay-stream=50ms"],
    ];
    let out = fleet.dir.join("came");
    fs::create_dir(&out).unwrap();
    let download = format!("--download={}", out.display());
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    for (n, way) in ways.iter().enumerate() {
        let names = [format!("a-{n}.m4s"), format!("b-{n}.m4s")];
        let bodies = names.each_ref().map(|name| fleet.put(name, BYTES));
        let urls = names.each_ref().map(|name| format!("https://{HOST}/{name}"));
        let always = ["--exit-on-all-streams-close", &download];
        let target = [&ip[..], &port, &urls[0], &urls[1]];
        let arguments = [&always[..], way, &target].concat();
        let output = run("gtlsclient", &arguments).expect("it was there just now");
        assert!(way.contains(&quiet) || said(&output).contains("Initiate key update"));
        for (name, body) in names.iter().zip(&bodies) {
            let came = fs::read(out.join(name)).unwrap_or_default();
            assert!(came == *body, "{way:?} {name}: {} bytes; {}", came.len(), said(&output));
            came_by_http3(&fleet, name);
        }
    }
}

/// What lies between a client at home and an edge: it passes datagrams on, and after so many of the client's it forgets what
/// it knew. From then on the client has another port, and what comes to the old one is lost.
struct Nat {
    address: SocketAddr,
    /// Datagrams for the client that came to its new port.
    came: Arc<AtomicU64>,
}

impl Nat {
    fn start(edge: SocketAddr, forgets_after: u64) -> Nat {
        let bind = || Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let (near, first, second) = (bind(), bind(), bind());
        let address = near.local_addr().unwrap();
        // The port that counts, and the client.
        let known: Arc<RwLock<(Arc<UdpSocket>, Option<SocketAddr>)>> =
            Arc::new(RwLock::new((first.clone(), None)));
        let came = Arc::new(AtomicU64::new(0));
        let counters = [Arc::default(), came.clone()];
        for (far, count) in [first, second.clone()].into_iter().zip(counters) {
            let (known, near) = (known.clone(), near.clone());
            thread::spawn(move || {
                let mut bytes = [0; 2048];
                while let Ok(n) = far.recv(&mut bytes) {
                    let (port, client) = known.read().unwrap().clone();
                    if let Some(client) = client.filter(|_| Arc::ptr_eq(&port, &far)) {
                        let _full = near.send_to(&bytes[..n], client);
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        thread::spawn(move || {
            let mut bytes = [0; 2048];
            for number in 1.. {
                let Ok((n, from)) = near.recv_from(&mut bytes) else { return };
                let far = {
                    let mut known = known.write().unwrap();
                    known.1 = Some(from);
                    if number == forgets_after {
                        known.0 = second.clone();
                    }
                    known.0.clone()
                };
                let _full = far.send_to(&bytes[..n], edge);
            }
        });
        Nat { address, came }
    }
}

#[test]
fn ngtcp2_goes_on_when_its_port_changes_and_it_does_not_know() {
    if run("gtlsclient", &["--help"]).is_none() {
        return skipped("ngtcp2", "no gtlsclient; mend: apt-get install ngtcp2-client");
    }
    let fleet = Fleet::start("interop-nat", &options());
    let body = fleet.put("a.m4s", BYTES);
    let out = fleet.dir.join("came");
    fs::create_dir(&out).unwrap();
    // In the middle of the download, when what the client says is mostly what has come.
    let nat = Nat::start(fleet.member("edge-1").https(), 30);
    let arguments = [
        "--quiet",
        "--exit-on-all-streams-close",
        &format!("--download={}", out.display()),
        &nat.address.ip().to_string(),
        &nat.address.port().to_string(),
        &format!("https://{HOST}/a.m4s"),
    ];
    let output = run("gtlsclient", &arguments).expect("it was there just now");
    let came = fs::read(out.join("a.m4s")).unwrap_or_default();
    assert!(came == body, "{} bytes; {}", came.len(), said(&output));
    assert!(nat.came.load(Ordering::SeqCst) > 100, "most of it came to the new port");
}

#[test]
fn aioquic_gets_the_bytes() {
    // `cargo xtask test` makes a Python that has it, and names it.
    let named = std::env::var("TIDEGATE_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".to_owned());
    let known = run(&python, &["-c", "import aioquic"]);
    if !known.is_some_and(|output| output.status.success()) {
        assert!(named.is_none(), "{python} has no aioquic; mend: cargo xtask setup test");
        return skipped("aioquic", "python3 has none; mend: cargo xtask test, which brings it");
    }
    let fleet = Fleet::start("interop-aioquic", &options());
    let body = fleet.put("a.m4s", BYTES);
    let address = fleet.member("edge-1").https();
    let (out, roots) = (fleet.dir.join("came"), fleet.dir.join("edge-1.crt"));
    let arguments = [
        "-c",
        AIOQUIC,
        &address.ip().to_string(),
        &address.port().to_string(),
        &roots.display().to_string(),
        HOST,
        "/a.m4s",
        &out.display().to_string(),
    ];
    let output = run(&python, &arguments).expect("it was there just now");
    let came = fs::read(&out).unwrap_or_default();
    assert!(came == body, "{} bytes; {}", came.len(), said(&output));
    came_by_http3(&fleet, "/a.m4s");
}

const AIOQUIC: &str = r#"
import asyncio, sys
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived
from aioquic.quic.configuration import QuicConfiguration

host, port, roots, authority, path, out = sys.argv[1:]

class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.body = []
        self.whole = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        for part in self.http.handle_event(event):
            if isinstance(part, DataReceived):
                self.body.append(part.data)
            if getattr(part, "stream_ended", False) and not self.whole.done():
                self.whole.set_result(None)

async def main():
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(roots)
    where = connect(host, int(port), configuration=configuration, create_protocol=Client)
    async with where as client:
        stream = client._quic.get_next_available_stream_id()
        client.http.send_headers(stream, [
            (b":method", b"GET"), (b":scheme", b"https"),
            (b":authority", authority.encode()), (b":path", path.encode()),
        ], end_stream=True)
        client.transmit()
        await client.whole
        with open(out, "wb") as file:
            file.write(b"".join(client.body))

asyncio.run(main())
"#;

#[test]
fn curl_gets_the_bytes() {
    let version = run("curl", &["-V"]).map(|output| said(&output)).unwrap_or_default();
    if !version.contains("HTTP3") {
        return skipped("curl", "this one has no HTTP/3");
    }
    let fleet = Fleet::start("interop-curl", &options());
    let body = fleet.put("a.m4s", BYTES);
    let port = fleet.member("edge-1").https().port();
    let to = format!("{HOST}:{port}:{}", fleet.member("edge-1").https());
    let url = format!("https://{HOST}:{port}/a.m4s");
    let arguments = ["-sk", "--http3-only", "--connect-to", &to, &url];
    let output = run("curl", &arguments).expect("it was there just now");
    assert!(output.stdout == body, "{} bytes", output.stdout.len());
    came_by_http3(&fleet, "/a.m4s");
}

#[test]
fn chromium_gets_the_bytes() {
    if run("chromium", &["--version"]).is_none() {
        return skipped("chromium", "not there; mend: apt-get install chromium");
    }
    let body = content("a.bin", BYTES);
    let served = body.clone();
    let origin =
        HandOrigin::start(IpAddr::V4(Ipv4Addr::LOCALHOST), move |asked, stream| {
            match asked.target().contains("page") {
                true => reply(stream, 200, "Content-Type: text/html\r\n", PAGE.as_bytes()),
                false => reply(stream, 200, "Cache-Control: max-age=60\r\n", &served),
            }
        });
    let options = FleetOptions { origin: Some(origin.address), ..options() };
    let fleet = Fleet::start("interop-chromium", &options);
    let address = fleet.member("edge-1").https();
    let key = fs::read_to_string(fleet.dir.join("edge-1.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let known = base64(digest::digest(&digest::SHA256, &key.subject_public_key_info()).as_ref());
    let port = address.port();
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        &format!("--user-data-dir={}", fleet.dir.join("profile").display()),
        "--enable-quic",
        &format!("--origin-to-force-quic-on={HOST}:{port}"),
        &format!("--host-resolver-rules=MAP {HOST} {}", address.ip()),
        &format!("--ignore-certificate-errors-spki-list={known}"),
        "--virtual-time-budget=60000",
        "--dump-dom",
        &format!("https://{HOST}:{port}/page"),
    ];
    let output = run("chromium", &arguments).expect("it was there just now");
    let hash: String = (digest::digest(&digest::SHA256, &body).as_ref().iter())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(said(&output).contains(&format!("came {hash}")), "{}", said(&output));
    came_by_http3(&fleet, "/a.bin");
}

const PAGE: &str = r#"<!doctype html><title>x</title><body><script>
fetch('/a.bin').then(r => r.arrayBuffer()).then(b => crypto.subtle.digest('SHA-256', b)).then(h => {
  const hex = [...new Uint8Array(h)].map(b => b.toString(16).padStart(2, '0')).join('');
  document.body.append('came ' + hex);
}).catch(e => document.body.append('failed ' + e));
</script></body>"#;

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        for at in 0..4 {
            let digit = (bits >> (18 - 6 * at)) & 63;
            text.push(if at <= part.len() { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    text
}
