//! Goal: the real router and monitor, on real sockets, steer as the rules say and drop a dead edge in time.
//! Method: both started on ports that the kernel chose; this test plays the edges, the resolver and the
//! players.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_contract::*;
use tidegate_router::{DecisionLog, LogTarget, Router, RouterOptions, Sockets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

struct World {
    snapshot: Arc<Snapshot>,
    router: Router,
    _monitor: Option<tidegate_monitor::Monitor>,
    http: SocketAddr,
    admin: SocketAddr,
    dns: SocketAddr,
    heartbeats: Vec<SocketAddr>,
    monitor_admin: Option<SocketAddr>,
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn udp() -> UdpSocket {
    UdpSocket::bind((LOOPBACK, 0)).await.unwrap()
}

async fn tcp() -> TcpListener {
    TcpListener::bind((LOOPBACK, 0)).await.unwrap()
}

fn example() -> Snapshot {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/example-config");
    let names = ["cdn.toml", "servers.toml", "coverage-zones.json", "delivery-services/films.toml"];
    let mut files: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            ((*name).to_owned(), std::fs::read_to_string(format!("{root}/{name}")).unwrap())
        })
        .collect();
    files.push(("keys/heartbeat.key".to_owned(), "5a".repeat(32)));
    compile(&files, 7).unwrap()
}

async fn world(with_monitor: bool, log: LogTarget, limit: u32) -> World {
    let (dns_udp, dns_tcp) = loop {
        let dns_udp = udp().await;
        if let Ok(dns_tcp) = TcpListener::bind(dns_udp.local_addr().unwrap()).await {
            break (dns_udp, dns_tcp);
        }
    };
    let (http, admin, beats) = (tcp().await, tcp().await, udp().await);
    let mut world_beats = vec![beats.local_addr().unwrap()];
    let (monitor_beats, monitor_admin) = (udp().await, tcp().await);
    let mut snapshot = example();
    for server in &mut snapshot.servers {
        match server.role {
            Role::Router => {
                server.addresses = vec![LOOPBACK];
                server.heartbeat_port = Some(beats.local_addr().unwrap().port());
            }
            Role::Monitor => {
                server.addresses = vec![LOOPBACK];
                server.heartbeat_port = Some(monitor_beats.local_addr().unwrap().port());
            }
            _ => {}
        }
    }
    let snapshot = Arc::new(snapshot);
    let (http_at, admin_at) = (http.local_addr().unwrap(), admin.local_addr().unwrap());
    let dns = dns_udp.local_addr().unwrap();
    let options = RouterOptions {
        node: "router-1".into(),
        geo: None,
        log: DecisionLog::open(&log).unwrap(),
        dns_answers_per_second: limit,
    };
    let sockets = Sockets {
        dns_udp: vec![dns_udp],
        dns_tcp: vec![dns_tcp],
        http: vec![http],
        heartbeats: vec![beats],
        admin,
    };
    let router = tidegate_router::start(options, snapshot.clone(), sockets);
    let (mut monitor, mut monitor_at) = (None, None);
    if with_monitor {
        world_beats.push(monitor_beats.local_addr().unwrap());
        monitor_at = Some(monitor_admin.local_addr().unwrap());
        let sockets =
            tidegate_monitor::Sockets { heartbeats: vec![monitor_beats], admin: monitor_admin };
        let options = tidegate_monitor::MonitorOptions { node: "monitor-1".into() };
        monitor = Some(tidegate_monitor::start(options, snapshot.clone(), sockets));
    }
    World {
        snapshot,
        router,
        _monitor: monitor,
        http: http_at,
        admin: admin_at,
        dns,
        heartbeats: world_beats,
        monitor_admin: monitor_at,
    }
}

/// An edge as the control plane sees it: heartbeats to all, every 200 ms, until dropped.
struct Edge(tokio::task::JoinHandle<()>, tokio::sync::watch::Sender<ServingState>);

impl Drop for Edge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn edge(world: &World, id: &str) -> Edge {
    let (id, targets) = (id.to_owned(), world.heartbeats.clone());
    let key = HeartbeatKey::from_hex(&world.snapshot.keys.heartbeat_hex).unwrap();
    let (state, mut changes) = tokio::sync::watch::channel(ServingState::Up);
    let task = tokio::spawn(async move {
        let socket = udp().await;
        let mut timer = tokio::time::interval(Duration::from_millis(HEARTBEAT_INTERVAL_MS));
        let mut wire = Vec::new();
        for sequence in 0.. {
            tokio::select! { _ = timer.tick() => {}, _ = changes.changed() => {} }
            let stamp = Stamp { boot: 1, sequence, unix_ms: 0 };
            let load = Load { connections: 3, ..Load::default() };
            let state = *changes.borrow_and_update();
            Heartbeat { server: id.clone(), stamp, state, load, generation: 7 }
                .encode(&key, &mut wire);
            for target in &targets {
                let _ = socket.send_to(&wire, target).await;
            }
        }
    });
    Edge(task, state)
}

/// One request on a connection of its own; the whole answer as text.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, host: &str, target: &str) -> String {
    raw(address, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
        .await
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

async fn location(world: &World, target: &str) -> String {
    field(&get(world.http, "films.example.net", target).await, "location")
        .unwrap_or_default()
        .to_owned()
}

/// Far beyond what a slow or stopped machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks until `done` says yes; the condition is what is waited for, not time.
async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut done: F) -> Duration {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

async fn states(world: &World) -> String {
    get(world.admin, "x", "/api/v1/status").await
}

async fn up(world: &World, ids: &[&str]) {
    let want: Vec<String> = ids
        .iter()
        .map(|id| format!("tidegate_router_server_state{{server=\"{id}\",state=\"up\"}}"))
        .collect();
    eventually("edges up", async || {
        let metrics = get(world.admin, "x", "/metrics").await;
        want.iter().all(|line| metrics.contains(line))
    })
    .await;
}

/// A path that edge-b1 wins.
async fn path_of(world: &World, edge: &str) -> String {
    for i in 0..200 {
        let path = format!("/film/{i}.m3u8");
        if location(world, &path).await.contains(edge) {
            return path;
        }
    }
    panic!("no path goes to {edge}");
}

#[tokio::test]
async fn redirects_say_what_players_and_caches_need() {
    let world = world(false, LogTarget::None, 0).await;
    let _edges = (edge(&world, "edge-b1"), edge(&world, "edge-b2"));
    up(&world, &["edge-b1", "edge-b2"]).await;
    let answer = get(world.http, "FILMS.example.net:8080", "/film/a.m3u8?token=x%20y").await;
    assert!(answer.starts_with("HTTP/1.1 302 Found\r\n"), "{answer}");
    let to = field(&answer, "location").unwrap();
    assert!(
        to.starts_with("http://edge-b")
            && to.ends_with(".films.cdn.example.net/film/a.m3u8?token=x%20y"),
        "{to}"
    );
    assert_eq!(field(&answer, "cache-control"), Some("no-store"));
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("*"));
    assert_eq!(field(&answer, "access-control-expose-headers"), Some("*"));
    let head = raw(
        world.http,
        "HEAD /film/a.m3u8?token=x%20y HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(field(&head, "location"), Some(to));
    let options =
        raw(world.http, "OPTIONS /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(
        options.starts_with("HTTP/1.1 204 ") && options.contains("access-control-allow-headers: *"),
        "{options}"
    );
    let fields = "Host: films.example.net\r\nContent-Length: 0\r\nConnection: close";
    let post = raw(world.http, &format!("POST /a HTTP/1.1\r\n{fields}\r\n\r\n")).await;
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET"), "{post}");
    assert!(get(world.http, "unknown.example", "/a").await.starts_with("HTTP/1.1 404 "));
    let mut kept = TcpStream::connect(world.http).await.unwrap();
    for _ in 0..3 {
        kept.write_all(b"GET /a HTTP/1.1\r\nHost: films.example.net\r\n\r\n").await.unwrap();
        let mut bytes = vec![0; 2048];
        let length = kept.read(&mut bytes).await.unwrap();
        assert!(bytes[..length].starts_with(b"HTTP/1.1 302"));
    }
}

#[tokio::test]
async fn no_request_chooses_where_it_is_sent() {
    let world = world(false, LogTarget::None, 0).await;
    for (host, target, extra) in [
        ("films.example.net", "//evil.example/x", ""),
        ("films.example.net", "/%0d%0aSet-Cookie:%20a=b", ""),
        ("films.example.net", "/\\evil.example", ""),
        ("films.example.net", "http://films.example.net/x", ""),
        ("evil.example", "http://films.example.net/x", ""),
        ("films.example.net@evil.example", "/x", ""),
        (
            "films.example.net",
            "/x?X-MM-Client-IP=198.51.100.1&fakeClientIpAddress=198.51.100.1",
            "",
        ),
        (
            "films.example.net",
            "/x",
            "X-Forwarded-For: 198.51.100.1\r\nX-MM-Client-IP: 198.51.100.1\r\n\
             X-Forwarded-Host: evil.example\r\n",
        ),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{extra}Connection: close\r\n\r\n");
        let answer = raw(world.http, &request).await;
        let status = answer.get(9..12).unwrap_or("");
        assert!(["302", "400", "404"].contains(&status), "{target}: {answer}");
        if let Some(to) = field(&answer, "location") {
            // Loopback is in no coverage zone: default group berlin, whatever the request claims.
            assert!(to.starts_with("http://edge-b"), "{to}");
            let authority = to["http://".len()..].split('/').next().unwrap();
            assert!(authority.ends_with(".films.cdn.example.net"), "{to}");
        }
        assert!(!answer.to_lowercase().contains("\r\nset-cookie"), "{answer}");
    }
    let absolute = get(world.http, "films.example.net", "http://evil.example/x").await;
    assert!(absolute.starts_with("HTTP/1.1 404 "), "the target's authority wins: {absolute}");
}

#[tokio::test]
async fn a_killed_edge_is_out_of_new_answers_within_a_second() {
    for with_monitor in [false, true] {
        let world = world(with_monitor, LogTarget::None, 0).await;
        let victim = edge(&world, "edge-b1");
        let _others = (edge(&world, "edge-b2"), edge(&world, "edge-l1"));
        up(&world, &["edge-b1", "edge-b2", "edge-l1"]).await;
        let path = path_of(&world, "edge-b1").await;
        if let Some(monitor) = world.monitor_admin {
            eventually("the monitor's word arrives", async || {
                states(&world).await.contains("\"fresh_verdicts\":3")
            })
            .await;
            let published = get(monitor, "x", "/publish/CrStates").await;
            assert!(published.contains("\"edge-b1\":{\"ipv4Available\":true"), "{published}");
        }
        drop(victim);
        let took = eventually("the edge leaves the answers", async || {
            !location(&world, &path).await.contains("edge-b1")
        })
        .await;
        // The machine's time is told; the promise is the rule's, which tests of the health table hold to the tick.
        println!("monitor {with_monitor}: out of the answers after {took:?}");
        const { assert!(tidegate_monitor::health::DOWN_AFTER.as_millis() < 1000) };
        assert!(location(&world, &path).await.contains("edge-b2"));
        let explained = get(
            world.admin,
            "x",
            &format!("/api/v1/explain?client=127.0.0.1&host=films.example.net&path={path}"),
        )
        .await;
        assert!(
            explained.contains("\"rejected\":[{\"server\":\"edge-b1\"")
                && explained.contains("silent for"),
            "{explained}"
        );
        if let Some(monitor) = world.monitor_admin {
            let published = get(monitor, "x", "/publish/CrStates").await;
            assert!(published.contains("\"edge-b1\":{\"ipv4Available\":false"), "{published}");
        }
    }
}

#[tokio::test]
async fn a_draining_edge_gets_no_new_clients_at_once() {
    let world = world(true, LogTarget::None, 0).await;
    let (leaving, _staying) = (edge(&world, "edge-b1"), edge(&world, "edge-b2"));
    up(&world, &["edge-b1", "edge-b2"]).await;
    let path = path_of(&world, "edge-b1").await;
    leaving.1.send(ServingState::Draining).unwrap();
    eventually("the edge drains", async || !location(&world, &path).await.contains("edge-b1"))
        .await;
    // By its own word, not by silence.
    assert!(states(&world).await.contains("\"state\":\"draining\""));
}

#[tokio::test]
async fn with_no_edge_heard_clients_are_still_answered() {
    let world = world(true, LogTarget::None, 0).await;
    assert!(location(&world, "/a").await.starts_with("http://edge-b"));
    let explained =
        get(world.admin, "x", "/api/v1/explain?client=127.0.0.1&host=films.example.net&path=/a")
            .await;
    assert!(
        explained.contains("\"detail\":\"panic\"") && explained.contains("panic floor"),
        "{explained}"
    );
}

#[tokio::test]
async fn strangers_heartbeats_change_nothing() {
    let world = world(false, LogTarget::None, 0).await;
    let key = HeartbeatKey::from_hex(&"11".repeat(32)).unwrap();
    let stamp = Stamp { boot: 1, sequence: 1, unix_ms: 0 };
    let mut wire = Vec::new();
    Heartbeat {
        server: "edge-b1".into(),
        stamp,
        state: ServingState::Up,
        load: Load::default(),
        generation: 7,
    }
    .encode(&key, &mut wire);
    udp().await.send_to(&wire, world.heartbeats[0]).await.unwrap();
    eventually("the refusal is counted", async || {
        get(world.admin, "x", "/metrics")
            .await
            .contains("tidegate_router_datagrams_refused_total 1")
    })
    .await;
    assert!(states(&world).await.contains("\"word\":\"unheard\""));
    assert!(!states(&world).await.contains("\"word\":\"up\""));
}

#[tokio::test]
async fn a_new_snapshot_is_taken_up_while_running_with_its_new_key() {
    let world = world(false, LogTarget::None, 0).await;
    let _edge = edge(&world, "edge-b1");
    up(&world, &["edge-b1"]).await;
    let mut next = (*world.snapshot).clone();
    next.generation = 8;
    next.keys.heartbeat_hex = "77".repeat(32);
    next.delivery_services[0].hosts.push("new.example.net".into());
    assert!(get(world.http, "new.example.net", "/a").await.starts_with("HTTP/1.1 404 "));
    world.router.adopt(Arc::new(next));
    assert!(get(world.http, "new.example.net", "/a").await.starts_with("HTTP/1.1 302 "));
    let before = states(&world).await;
    assert!(before.contains("\"generation\":8"), "{before}");
    // The edge still sends with the key before.
    up(&world, &["edge-b1"]).await;
}

#[tokio::test]
async fn decisions_are_logged() {
    let path = std::env::temp_dir().join(format!("tidegate-decisions-{}.log", std::process::id()));
    let world = world(false, LogTarget::File(path.clone()), 0).await;
    location(&world, "/film/a?b=c").await;
    dns(&world, "cdn.films.cdn.example.net.", RecordType::A, None).await;
    let read = || std::fs::read_to_string(&path).unwrap();
    eventually("both lines are written", async || read().lines().count() == 2).await;
    let lines: Vec<serde_json::Value> =
        read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["via"], &lines[0]["path"], &lines[0]["status"]),
        (&"http".into(), &"/film/a?b=c".into(), &302.into())
    );
    assert_eq!((&lines[0]["rtype"], &lines[0]["rdtl"]), (&"MISS".into(), &"panic".into()));
    assert_eq!((&lines[1]["via"], lines[1]["edges"].as_array().unwrap().len()), (&"dns".into(), 2));
    std::fs::remove_file(&path).unwrap();
}

fn query(name: &str, kind: RecordType, subnet: Option<(&str, u8)>) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some((address, source)) = subnet {
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(
            address.parse().unwrap(),
            source,
            0,
        )));
        message.set_edns(edns);
    }
    message
}

async fn exchange(world: &World, message: &Message) -> Message {
    let socket = udp().await;
    socket.send_to(&message.to_vec().unwrap(), world.dns).await.unwrap();
    let mut bytes = vec![0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&bytes[..length]).unwrap()
}

async fn dns(world: &World, name: &str, kind: RecordType, subnet: Option<(&str, u8)>) -> Message {
    exchange(world, &query(name, kind, subnet)).await
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> = message.answers.iter().filter_map(|r| r.data.ip_addr()).collect();
    list.sort();
    list
}

#[tokio::test]
async fn dns_steers_by_the_client_subnet_and_says_how_far_it_holds() {
    let world = world(false, LogTarget::None, 0).await;
    let ids = ["edge-b1", "edge-b2", "edge-l1", "edge-l2"];
    let _edges: Vec<Edge> = ids.iter().map(|id| edge(&world, id)).collect();
    up(&world, &ids).await;
    let go = async |subnet, kind| {
        let answer = dns(&world, "cdn.films.cdn.example.net.", kind, subnet).await;
        assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
        let scope =
            answer.edns.as_ref().and_then(|e| e.option(EdnsCode::Subnet)).map(|o| match o {
                EdnsOption::Subnet(s) => s.scope_prefix(),
                _ => panic!(),
            });
        (addresses(&answer), scope, answer)
    };
    let ip = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<IpAddr>>();
    let lisbon = ip(&["198.51.100.11", "198.51.100.12"]);
    let berlin = ip(&["192.0.2.11", "192.0.2.12"]);
    let (list, scope, answer) = go(Some(("10.1.2.0", 24)), RecordType::A).await;
    assert_eq!((list, scope), (lisbon.clone(), Some(16)), "10.1.0.0/16 inside 10.0.0.0/9");
    assert!(answer.answers.iter().all(|r| r.ttl == 20));
    assert_eq!(go(Some(("10.200.0.0", 16)), RecordType::A).await.1, Some(9));
    assert_eq!(go(None, RecordType::A).await.0, berlin);
    assert_eq!(go(None, RecordType::A).await.1, None);
    let (list, scope, answer) = go(Some(("198.51.100.0", 24)), RecordType::AAAA).await;
    assert!(list.is_empty() && scope.is_some());
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "no AAAA is not NXDOMAIN");
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(go(Some(("2001:db8:b::", 48)), RecordType::AAAA).await.0.len(), 2);
    assert_eq!(go(Some(("0.0.0.0", 0)), RecordType::A).await.1, Some(0));
}

#[tokio::test]
async fn the_zone_answers_for_itself_and_nothing_else() {
    let world = world(false, LogTarget::None, 0).await;
    let table: &[(&str, RecordType, ResponseCode, usize)] = &[
        ("cdn.example.net.", RecordType::SOA, ResponseCode::NoError, 1),
        ("cdn.example.net.", RecordType::NS, ResponseCode::NoError, 1),
        ("cdn.example.net.", RecordType::A, ResponseCode::NoError, 0),
        ("router-1.cdn.example.net.", RecordType::A, ResponseCode::NoError, 1),
        ("films.cdn.example.net.", RecordType::A, ResponseCode::NoError, 0),
        ("CDN.films.cdn.EXAMPLE.net.", RecordType::A, ResponseCode::NoError, 2),
        ("cdn.films.cdn.example.net.", RecordType::TXT, ResponseCode::NoError, 0),
        ("cdn.films.cdn.example.net.", RecordType::ANY, ResponseCode::NoError, 1),
        ("edge-l1.films.cdn.example.net.", RecordType::A, ResponseCode::NoError, 1),
        ("edge-l1.films.cdn.example.net.", RecordType::AAAA, ResponseCode::NoError, 0),
        ("nothing.cdn.example.net.", RecordType::A, ResponseCode::NXDomain, 0),
        ("a.cdn.films.cdn.example.net.", RecordType::A, ResponseCode::NXDomain, 0),
        ("nothing.cdn.example.net.", RecordType::ANY, ResponseCode::NXDomain, 0),
        ("example.net.", RecordType::A, ResponseCode::Refused, 0),
        ("xcdn.example.net.", RecordType::A, ResponseCode::Refused, 0),
        ("cdn.example.net.", RecordType::AXFR, ResponseCode::Refused, 0),
    ];
    for (name, kind, code, answers) in table {
        let answer = dns(&world, name, *kind, None).await;
        assert_eq!(
            (answer.metadata.response_code, answer.answers.len()),
            (*code, *answers),
            "{name} {kind}"
        );
        let negative = *answers == 0 && *code != ResponseCode::Refused;
        assert_eq!(answer.authorities.len(), usize::from(negative), "{name} {kind}");
        assert_eq!(answer.metadata.authoritative, *code != ResponseCode::Refused);
    }
    let static_edge = dns(&world, "edge-l1.films.cdn.example.net.", RecordType::A, None).await;
    assert_eq!(addresses(&static_edge), ["198.51.100.11".parse::<IpAddr>().unwrap()]);
}

/// ALPN ids, port and hints of the one HTTPS record; `None`: there is none.
fn https(message: &Message) -> Option<(Vec<String>, Option<u16>, Vec<IpAddr>)> {
    use hickory_proto::rr::rdata::svcb::SvcParamValue;
    assert!(message.answers.len() <= 1);
    let RData::HTTPS(https) = &message.answers.first()?.data else { panic!("{message:?}") };
    let (mut alpn, mut port, mut hints) = (Vec::new(), None, Vec::new());
    for (_, value) in &https.0.svc_params {
        match value {
            SvcParamValue::Alpn(ids) => alpn = ids.0.clone(),
            SvcParamValue::Port(number) => port = Some(*number),
            SvcParamValue::Ipv4Hint(list) => hints.extend(list.0.iter().map(|a| IpAddr::V4(a.0))),
            SvcParamValue::Ipv6Hint(list) => hints.extend(list.0.iter().map(|a| IpAddr::V6(a.0))),
            other => panic!("{other:?}"),
        }
    }
    hints.sort();
    Some((alpn, port, hints))
}

#[tokio::test]
async fn a_first_visit_can_be_http3_where_all_edges_of_the_answer_speak_it() {
    const SERVICE: &str = "cdn.films.cdn.example.net.";
    let world = world(false, LogTarget::None, 0).await;
    let ids = ["edge-b1", "edge-b2", "edge-l1", "edge-l2"];
    let _edges: Vec<Edge> = ids.iter().map(|id| edge(&world, id)).collect();
    up(&world, &ids).await;
    let ask = async |name: &str, subnet| https(&dns(&world, name, RecordType::HTTPS, subnet).await);
    let lisbon = Some(("10.1.2.0", 24));
    let h3 = || vec!["h3".to_owned(), "h2".to_owned()];
    let ip = |list: &[&str]| {
        let mut list: Vec<IpAddr> = list.iter().map(|a| a.parse().unwrap()).collect();
        list.sort();
        list
    };
    // In Berlin one of two does: a client would take this record with the other one's address.
    assert_eq!(ask(SERVICE, None).await, None);
    let negative = dns(&world, SERVICE, RecordType::HTTPS, None).await;
    assert_eq!(negative.metadata.response_code, ResponseCode::NoError);
    assert_eq!(negative.authorities[0].record_type(), RecordType::SOA);
    // By its own name an edge speaks for itself.
    let one = Some((h3(), None, ip(&["192.0.2.11", "2001:db8:b::11"])));
    assert_eq!(ask("edge-b1.films.cdn.example.net.", None).await, one);
    assert_eq!(ask("edge-b2.films.cdn.example.net.", None).await, None);
    assert_eq!(ask("router-1.cdn.example.net.", None).await, None);

    let adopt = |generation, change: &dyn Fn(&mut Server)| {
        let mut next = (*world.snapshot).clone();
        next.generation = generation;
        let certificates = next.servers[0].machine.certificates.clone();
        for server in next.servers.iter_mut().filter(|s| s.role == Role::Edge) {
            server.machine.certificates = certificates.clone();
            change(server);
        }
        world.router.adopt(Arc::new(next));
    };
    adopt(8, &|edge| edge.https_port = Some(if edge.addresses.len() > 1 { 443 } else { 8443 }));
    let berlin = ["192.0.2.11", "192.0.2.12", "2001:db8:b::11", "2001:db8:b::12"];
    assert_eq!(ask(SERVICE, None).await, Some((h3(), None, ip(&berlin))));
    let far = Some((h3(), Some(8443), ip(&["198.51.100.11", "198.51.100.12"])));
    assert_eq!(ask(SERVICE, lisbon).await, far);
    // The hints are the addresses that the other questions are answered with.
    let v4 = addresses(&dns(&world, SERVICE, RecordType::A, lisbon).await);
    assert_eq!(v4, ip(&["198.51.100.11", "198.51.100.12"]));
    let answer = dns(&world, SERVICE, RecordType::HTTPS, lisbon).await;
    assert_eq!(answer.answers[0].ttl, 20);
    adopt(9, &|edge| edge.https_port = Some(if edge.id == "edge-b2" { 444 } else { 443 }));
    assert_eq!(ask(SERVICE, None).await, None, "at two ports");
    adopt(10, &|edge| {
        edge.https_port = Some(443);
        edge.http3 = edge.id != "edge-b2";
    });
    assert_eq!(ask(SERVICE, None).await, None, "one is switched off");
}

#[tokio::test]
async fn dns_over_tcp_answers_question_after_question() {
    let world = world(false, LogTarget::None, 0).await;
    let mut stream = TcpStream::connect(world.dns).await.unwrap();
    for _ in 0..3 {
        let wire = query("cdn.films.cdn.example.net.", RecordType::A, None).to_vec().unwrap();
        stream.write_u16(wire.len() as u16).await.unwrap();
        stream.write_all(&wire).await.unwrap();
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(addresses(&Message::from_vec(&bytes).unwrap()).len(), 2);
    }
}

#[tokio::test]
async fn a_flood_gets_its_rate_and_slips_but_answers_are_never_answered() {
    let world = world(false, LogTarget::None, 5).await;
    let wire = query("cdn.films.cdn.example.net.", RecordType::A, None).to_vec().unwrap();
    let mut reply = wire.clone();
    reply[2] |= 0x80;
    let socket = udp().await;
    socket.send_to(&reply, world.dns).await.unwrap();
    for _ in 0..60 {
        socket.send_to(&wire, world.dns).await.unwrap();
    }
    eventually("the flood is through", async || {
        let metrics = get(world.admin, "x", "/metrics").await;
        let number = |name: &str| -> u64 {
            let line = metrics.lines().find(|l| l.starts_with(name)).unwrap_or("x 0");
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let silenced = number("tidegate_router_dns_silenced_total");
        let slipped = number("tidegate_router_dns_slipped_total");
        silenced + slipped >= 50
            && slipped >= 20
            && number("tidegate_router_dns_ignored_total") == 1
    })
    .await;
}
