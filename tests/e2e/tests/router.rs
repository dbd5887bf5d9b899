//! Router, monitor and edges as real processes: a killed edge leaves the answers, a returned one comes back.
//! Method: the router and monitor join a running fleet by a new snapshot generation, which edges take live; clients
//! ask by 302 and by DNS, and the answers are compared with who is alive.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_contract::{Role, Server};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{Fleet, FleetOptions, block_on, get, h2, h3};

struct Controls {
    child: Child,
    router: Server,
}

impl Drop for Controls {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Controls {
    /// Where the router sends a client that asks for `path`.
    fn location(&self, path: &str) -> String {
        let address = SocketAddr::new(self.router.addresses[0], self.router.http_port.unwrap());
        let response = get(address, HOST, path, "").unwrap();
        assert_eq!(response.status, 302, "{response:?}");
        assert_eq!(response.field("cache-control"), Some("no-store"));
        response.field("location").unwrap().to_owned()
    }

    /// What DNS answers when it is asked for records of this kind of the fleet's routed name: how many, and the bytes of all.
    fn ask(&self, kind: u8) -> (usize, Vec<u8>) {
        let socket = UdpSocket::bind((self.router.addresses[0], 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["play", "film", "cdn", "test"] {
            query.push(label.len() as u8);
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, kind, 0, 1]);
        socket.send_to(&query, (self.router.addresses[0], self.router.dns_port.unwrap())).unwrap();
        let mut answer = [0; 1500];
        let (len, _) = socket.recv_from(&mut answer).unwrap();
        let answer = &answer[..len];
        assert_eq!(&answer[..2], &[0x12, 0x34]);
        assert_eq!(answer[3] & 0x0f, 0, "NOERROR");
        let count = u16::from_be_bytes([answer[6], answer[7]]) as usize;
        (count, answer[query.len()..].to_vec())
    }

    /// Addresses that DNS gives for the fleet's routed name.
    fn resolve(&self) -> Vec<IpAddr> {
        let (count, answers) = self.ask(1);
        // Each answer: a pointer to the name, type, class, TTL, length 4, address.
        (0..count)
            .map(|n| &answers[16 * n + 12..][..4])
            .map(|a| IpAddr::V4(Ipv4Addr::new(a[0], a[1], a[2], a[3])))
            .collect()
    }
}

fn add_controls(fleet: &mut Fleet) -> Controls {
    let IpAddr::V4(edge) = fleet.member("edge-1").server.addresses[0] else {
        panic!("fleets are IPv4")
    };
    let [a, b, c, _] = edge.octets();
    let server = |id: &str, role: Role, host: u8| {
        let ip = IpAddr::V4(Ipv4Addr::new(a, b, c, host));
        let tcp = || TcpListener::bind((ip, 0)).and_then(|l| l.local_addr()).unwrap().port();
        let udp = || UdpSocket::bind((ip, 0)).and_then(|s| s.local_addr()).unwrap().port();
        let mut server = fleet.member("edge-1").server.clone();
        server.id = id.to_owned();
        server.role = role;
        server.cache_group = None;
        server.addresses = vec![ip];
        server.http_port = Some(tcp());
        server.https_port = None;
        server.admin_port = tcp();
        server.heartbeat_port = Some(udp());
        server.dns_port = (role == Role::Router).then(udp);
        server.machine.stores.clear();
        server
    };
    let router = server("router-1", Role::Router, 201);
    let monitor = server("monitor-1", Role::Monitor, 202);
    fleet.snapshot.servers.extend([router.clone(), monitor]);
    fleet.snapshot.generation += 1;
    fleet.publish();
    let log = std::fs::File::create(fleet.dir.join("controls.err")).unwrap();
    let child = Command::new(binary("tidegate"))
        .args([
            "run",
            "--role",
            "router,monitor",
            "--node",
            "router-1,monitor-1",
            "--decision-log",
            "none",
        ])
        .arg("--snapshot")
        .arg(fleet.dir.join("snapshot"))
        .arg("--trust")
        .arg(fleet.dir.join("trust.pub"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let controls = Controls { child, router };
    let health = SocketAddr::new(controls.router.addresses[0], controls.router.admin_port);
    fleet.until("the router serves", |_| {
        get(health, "x", "/health", "").is_ok_and(|r| r.status == 200)
    });
    controls
}

#[test]
fn a_killed_edge_leaves_the_answers_and_comes_back() {
    let mut fleet = Fleet::start("router", &FleetOptions::default());
    fleet.put("a.mp4", 10_000);
    let controls = add_controls(&mut fleet);
    fleet.until("edges run on the new generation", |fleet| {
        ["edge-1", "edge-2"].iter().all(|id| fleet.status(id)["generation"] == 2)
    });
    let base = |fleet: &Fleet, id: &str| format!("http://{}/", fleet.member(id).http());
    let (first, second) = (base(&fleet, "edge-1"), base(&fleet, "edge-2"));
    let paths: Vec<String> = (0..40).map(|n| format!("/p{n}.mp4?token=x")).collect();
    let shares =
        |base: &str| paths.iter().filter(|path| controls.location(path).starts_with(base)).count();
    fleet.until("both edges are sent clients", |_| shares(&first) > 0 && shares(&second) > 0);
    let before: Vec<String> = paths.iter().map(|path| controls.location(path)).collect();
    let mut resolved = controls.resolve();
    resolved.sort();
    assert_eq!(
        resolved,
        [fleet.member("edge-1").server.addresses[0], fleet.member("edge-2").server.addresses[0]]
    );

    // The path and the query go along, so that the edge gets what was asked.
    let target = controls.location("/a.mp4?token=x");
    assert!(target.ends_with("/a.mp4?token=x"), "{target}");

    fleet.kill("edge-1");
    let killed = Instant::now();
    fleet.until("the killed edge is out of all answers", |_| shares(&first) == 0);
    println!("out of new 302 answers {:.0} ms after kill -9", killed.elapsed().as_secs_f64() * 1e3);
    assert_eq!(shares(&second), paths.len());
    assert_eq!(controls.resolve(), [fleet.member("edge-2").server.addresses[0]]);
    for (path, was) in paths.iter().zip(&before).filter(|(_, was)| was.starts_with(&second)) {
        assert_eq!(&controls.location(path), was, "only the lost edge's paths move");
    }

    fleet.restart("edge-1");
    fleet.until("the edge is back, with the same paths", |_| {
        paths.iter().zip(&before).all(|(path, was)| &controls.location(path) == was)
    });

    // A stop that is asked for is told at once.
    fleet.signal("edge-2", "TERM");
    assert_eq!(fleet.wait_end("edge-2"), Some(0));
    fleet.until("the stopped edge is out", |_| shares(&second) == 0);

    // The last one goes: answering nobody would help nobody, so the floor holds.
    fleet.kill("edge-1");
    assert!(!controls.location("/a.mp4").is_empty());
}

/// Record type of HTTPS (RFC 9460).
const HTTPS: u8 = 65;

#[test]
fn players_learn_of_http3_before_they_connect() {
    // Goal: the HTTPS record that a browser asks for beside the addresses is true: what it names is spoken there. Method: the
    // record's bytes as RFC 9460 has them, and a client of HTTP/3 that goes where it points.
    let options = FleetOptions { edges: 1, parents: 1, https: true, ..FleetOptions::default() };
    let mut fleet = Fleet::start("https-record", &options);
    let bytes = fleet.put("a.mp4", 10_000);
    let controls = add_controls(&mut fleet);
    fleet.until("the edge is in the answers", |_| !controls.resolve().is_empty());
    let edge = fleet.member("edge-1").https();
    let IpAddr::V4(address) = edge.ip() else { panic!("fleets are IPv4") };

    let (count, answers) = controls.ask(HTTPS);
    assert_eq!(count, 1, "{answers:?}");
    // Behind the name, type, class and TTL; what follows the record is of the protocol (EDNS), not of it.
    assert_eq!((&answers[2..6], answers[10]), (&[0, HTTPS, 0, 1][..], 0), "{answers:?}");
    let record = &answers[12..][..usize::from(answers[11])];
    let mut expected = vec![0, 1, 0]; // of the owner itself, the first choice
    expected.extend_from_slice(b"\0\x01\0\x06\x02h3\x02h2");
    expected.extend_from_slice(&[0, 3, 0, 2]);
    expected.extend_from_slice(&edge.port().to_be_bytes());
    expected.extend_from_slice(&[0, 4, 0, 4]);
    expected.extend_from_slice(&address.octets());
    assert_eq!(record, expected);
    block_on(async {
        let over_udp = h3::Client::connect(&fleet).await.get("/a.mp4", &[]).await.unwrap();
        let client = h2::Client::connect(&fleet, "edge-1").await;
        let over_tcp = client.get("/a.mp4", &[]).await.unwrap();
        assert!(over_udp.body == bytes && over_tcp.body == bytes);
    });
}

#[test]
fn who_speaks_no_https_is_not_said_to() {
    let mut fleet = Fleet::start("no-https-record", &FleetOptions::default());
    let controls = add_controls(&mut fleet);
    fleet.until("the edges are in the answers", |_| controls.resolve().len() == 2);
    let (count, answers) = controls.ask(HTTPS);
    assert_eq!(count, 0, "{answers:?}");
}
