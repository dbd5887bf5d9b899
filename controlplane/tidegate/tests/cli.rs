//! Goal: the commands do what they say, say what is wrong, and end with the right code.
//! Method: the real binary, on real files, sockets and signals of loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tidegate-cli-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).output().unwrap()
}

/// Runs a command that must succeed; gives its stdout.
fn good(arguments: &[&str]) -> String {
    let output = tidegate(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with `code`; gives its stderr.
fn bad(code: i32, arguments: &[&str]) -> String {
    let output = tidegate(arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    told
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The example tree with fresh keys; `edit` changes its servers.toml.
fn tree(folder: &Folder, edit: impl FnOnce(String) -> String) -> (String, String) {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/example-config");
    let (source, keys) = (folder.at("source"), folder.at("source/keys"));
    copy_tree(Path::new(example), Path::new(&source));
    let servers = folder.at("source/servers.toml");
    let edited = edit(fs::read_to_string(&servers).unwrap());
    fs::write(&servers, edited).unwrap();
    good(&["snapshot", "keygen", "--out", &keys]);
    (source, keys)
}

fn build(folder: &Folder, source: &str, keys: &str) -> String {
    let out = folder.at("snapshot");
    good(&[
        "snapshot",
        "build",
        "--source",
        source,
        "--key",
        &format!("{keys}/signing.key"),
        "--out",
        &out,
    ]);
    out
}

#[test]
fn a_snapshot_is_built_shown_and_compared() {
    let folder = Folder::new("build");
    let (source, keys) = tree(&folder, |text| text);
    assert!(good(&["check", "--source", &source]).contains("good: 1 delivery services"));
    assert_eq!(
        good(&["snapshot", "keygen", "--out", &keys]).matches("kept").count(),
        4,
        "no key is overwritten"
    );
    let first = build(&folder, &source, &keys);
    let kept = folder.at("first");
    fs::copy(&first, &kept).unwrap();
    let servers = folder.at("source/servers.toml");
    let text = fs::read_to_string(&servers).unwrap();
    fs::write(&servers, text.replace("weight = 2.0", "weight = 4.0")).unwrap();
    let second = build(&folder, &source, &keys);
    let trust = format!("{keys}/trust.pub");
    let shown = good(&["snapshot", "show", &second, "--trust", &trust]);
    assert!(shown.contains("generation  2") && shown.contains("signature checked"), "{shown}");
    assert!(good(&["snapshot", "show", &kept]).contains("generation  1"));
    let json = good(&["snapshot", "show", &second, "--json"]);
    let heartbeat = fs::read_to_string(format!("{keys}/heartbeat.key")).unwrap();
    assert!(json.contains("\"zone\"") && !json.contains(heartbeat.trim()), "no key is shown");
    let difference = good(&["snapshot", "diff", &kept, &source]);
    assert_eq!(
        difference,
        "~ server edge-l2 weight: 2.0 -> 4.0  (routers, monitors, edges, live)\n"
    );
    assert_eq!(good(&["snapshot", "diff", &second, &source]), "no difference\n");
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_code() {
    let folder = Folder::new("wrong");
    let (source, keys) = tree(&folder, |text| text.replacen("http_port = 80", "http_prot = 80", 1));
    let told = bad(1, &["snapshot", "check", "--source", &source]);
    assert!(told.contains("servers.toml:35:1: unknown key `http_prot`"), "{told}");
    assert!(told.contains("mend: did you mean `http_port`?"), "{told}");
    let out = folder.at("snapshot");
    let key = format!("{keys}/signing.key");
    bad(1, &["snapshot", "build", "--source", &source, "--key", &key, "--out", &out]);
    assert!(!Path::new(&out).exists(), "nothing is written");
    bad(3, &["snapshot", "check", "--source", &folder.at("nowhere")]);
    bad(2, &["snapshot", "check"]);
    bad(1, &["snapshot", "show", &key]);
    bad(3, &["snapshot", "show", &folder.at("nowhere")]);
    bad(
        1,
        &[
            "snapshot",
            "build",
            "--source",
            &source,
            "--key",
            &format!("{keys}/trust.pub"),
            "--out",
            &out,
        ],
    );
    fs::write(&out, "not a snapshot").unwrap();
    let told = bad(1, &["snapshot", "build", "--source", &source, "--key", &key, "--out", &out]);
    assert!(told.contains("give --generation"), "{told}");
    fs::remove_file(folder.at("source/keys/heartbeat.key")).unwrap();
    assert!(bad(1, &["check", "--source", &source]).contains("keys/heartbeat.key:1:1"));
}

/// A running control plane, killed at the end of the test.
struct Running {
    child: Child,
    log: std::sync::mpsc::Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let mut child = command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Running { child, log }
    }

    /// Waits for a line of the log.
    fn wait_for(&self, what: &str) -> String {
        let end = Instant::now() + Duration::from_secs(15);
        let mut seen = String::new();
        while let Ok(line) = self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(what) {
                return line;
            }
            seen += &(line + "\n");
        }
        panic!("`{what}` was not logged; the log:\n{seen}");
    }

    fn signal(&mut self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

fn get(port: u16, target: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Ports that the kernel gave out just now, for TCP and UDP.
fn ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    std::array::from_fn(|_| {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = tcp.local_addr().unwrap().port();
            if let Ok(udp) = UdpSocket::bind(("127.0.0.1", port)) {
                held.push((tcp, udp));
                return port;
            }
        }
    })
}

#[test]
fn roles_run_follow_the_snapshot_explain_and_end_promptly() {
    let folder = Folder::new("run");
    let [dns, http, beats, admin, monitor_beats, monitor_admin, edge_admin] = ports();
    let (source, keys) = tree(&folder, |text| {
        let (edges, control) = text.split_at(text.find("id = \"router-1\"").unwrap());
        let (router, monitor) = control.split_at(control.find("id = \"monitor-1\"").unwrap());
        let router = router
            .replace("203.0.113.41", "127.0.0.1")
            .replace("dns_port = 53", &format!("dns_port = {dns}"));
        let router = router
            .replace("http_port = 80", &format!("http_port = {http}"))
            .replace("7946", &beats.to_string());
        let router = router.replace("9090", &admin.to_string());
        let monitor = monitor
            .replace("203.0.113.51", "127.0.0.1")
            .replace("7946", &monitor_beats.to_string());
        // One edge that refuses connections at once, so that `explain` need not wait for it.
        let edges = edges.replace("\"192.0.2.12\", \"2001:db8:b::12\"", "\"127.0.0.1\"").replace(
            "http_port = 80\nadmin_port = 9090\nram_bytes = \"16 GiB\"\nstores",
            &format!("http_port = 80\nadmin_port = {edge_admin}\nram_bytes = \"16 GiB\"\nstores"),
        );
        let edges = edges.replace("status = \"REPORTED\"", "status = \"ADMIN_DOWN\"");
        edges + &router + &monitor.replace("9090", &monitor_admin.to_string())
    });
    let snapshot = build(&folder, &source, &keys);
    let (trust, log) = (format!("{keys}/trust.pub"), folder.at("decisions.log"));
    let base = ["--snapshot", &snapshot, "--trust", &trust];
    let url = "http://films.example.net/film/a.m3u8?x=1";
    let explain = ["explain", url, "--client", "192.0.2.9", base[0], base[1], base[2], base[3]];
    let offline = good(&explain);
    assert!(offline.contains("no router reachable") && offline.contains("edge-b2"), "{offline}");

    let run =
        ["run", "--role", "router,monitor", "--node", "router-1,monitor-1", "--decision-log", &log];
    let mut running = Running::start(&[&run[..], &base[..]].concat());
    running.wait_for("ready: router-1, monitor-1 on generation 1");
    for port in [admin, monitor_admin] {
        assert!(get(port, "/health", "x").ends_with("ok\n"));
        assert!(get(port, "/metrics", "x").contains("# TYPE tidegate_"));
    }
    let answer = get(http, "/film/a.m3u8?x=1", "films.example.net");
    assert!(
        answer.contains("location: http://edge-b2.films.cdn.example.net/film/a.m3u8?x=1"),
        "{answer}"
    );
    let online = good(&explain);
    assert!(
        online.contains("router router-1, generation 1")
            && online.contains("not edge-b1: status ADMIN_DOWN"),
        "{online}"
    );
    assert!(online.contains("edge-b2 does not answer on its admin port"), "{online}");
    let unknown = [
        "explain",
        "http://other.example/",
        "--client",
        "192.0.2.9",
        base[0],
        base[1],
        base[2],
        base[3],
    ];
    assert_eq!(tidegate(&unknown).status.code(), Some(1));

    // A second process on the same ports says which one is taken.
    let told = bad(3, &[&run[..], &base[..]].concat());
    assert!(told.contains("cannot listen for") && told.contains("free the port"), "{told}");

    let first = fs::read(&snapshot).unwrap();
    let films = folder.at("source/delivery-services/films.toml");
    let text = fs::read_to_string(&films).unwrap();
    fs::write(
        &films,
        text.replace("[\"films.example.net\"]", "[\"films.example.net\", \"new.example.net\"]"),
    )
    .unwrap();
    build(&folder, &source, &keys);
    running.wait_for("running generation 2");
    assert!(get(http, "/a", "new.example.net").starts_with("HTTP/1.1 302"));
    let second = fs::read(&snapshot).unwrap();
    fs::write(&snapshot, &second[..second.len() - 5]).unwrap();
    running.wait_for("refused, the old one keeps running");
    fs::write(&snapshot, &first).unwrap();
    assert!(running.wait_for("refused").contains("generation 1 is lower than the running 2"));
    assert!(get(http, "/a", "new.example.net").starts_with("HTTP/1.1 302"));
    fs::write(&snapshot, &second).unwrap();
    running.signal("HUP");

    running.signal("TERM");
    assert_eq!(running.ended(), Some(0), "ends promptly");
    assert!(fs::read_to_string(&log).unwrap().contains("\"rtype\":\"MISS\""));
}

#[test]
fn run_refuses_what_it_cannot_run_on() {
    let folder = Folder::new("refuse");
    let (source, keys) = tree(&folder, |text| text);
    let snapshot = build(&folder, &source, &keys);
    let trust = format!("{keys}/trust.pub");
    let run = |node: &str, role: &str, snapshot: &str, trust: &str| {
        bad(1, &["run", "--role", role, "--node", node, "--snapshot", snapshot, "--trust", trust])
    };
    assert!(run("nobody", "router", &snapshot, &trust).contains("has no server `nobody`"));
    assert!(run("edge-b1", "router", &snapshot, &trust).contains("has role edge"));
    assert!(run("monitor-1", "router", &snapshot, &trust).contains("has role monitor"));
    let stranger = folder.at("stranger");
    good(&["snapshot", "keygen", "--out", &stranger]);
    let told = run("router-1", "router", &snapshot, &format!("{stranger}/trust.pub"));
    assert!(told.contains("signed by key") && told.contains("trusted here"), "{told}");
}

#[test]
fn certificates_of_our_ca_are_accepted_by_a_client_that_trusts_it() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let folder = Folder::new("tls");
    let (ca, edge) = (folder.at("ca"), folder.at("edge"));
    good(&["tls", "make-ca", "--out", &ca]);
    bad(3, &["tls", "make-ca", "--out", &ca]);
    let make = ["tls", "make-cert", "--ca", &ca, "--out", &edge];
    bad(1, &make);
    bad(2, &[&make[..], &["--name", "a.example", "--days", "826"]].concat());
    good(
        &[
            &make[..],
            &[
                "--name",
                "*.films.cdn.example.net",
                "--name",
                "films.example.net",
                "--address",
                "127.0.0.2",
            ],
        ]
        .concat(),
    );
    use std::os::unix::fs::PermissionsExt;
    for key in [folder.at("ca/ca.key"), folder.at("edge/key.pem")] {
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.at("ca/ca.pem")).unwrap()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let chain = vec![CertificateDer::from_pem_file(folder.at("edge/cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.at("edge/key.pem")).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (client, server) = (Arc::new(client), Arc::new(server));
    let accepted = |name: &str| {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut near = rustls::ClientConnection::new(client.clone(), name).unwrap();
        let mut far = rustls::ServerConnection::new(server.clone()).unwrap();
        while near.is_handshaking() || far.is_handshaking() {
            let mut wire = Vec::new();
            near.write_tls(&mut wire).unwrap();
            far.read_tls(&mut &wire[..]).unwrap();
            if far.process_new_packets().is_err() {
                return false;
            }
            wire.clear();
            far.write_tls(&mut wire).unwrap();
            near.read_tls(&mut &wire[..]).unwrap();
            if near.process_new_packets().is_err() {
                return false;
            }
        }
        true
    };
    for name in ["edge-b1.films.cdn.example.net", "films.example.net", "127.0.0.2"] {
        assert!(accepted(name), "{name}");
    }
    for name in ["other.example.net", "127.0.0.3"] {
        assert!(!accepted(name), "{name}");
    }
}
