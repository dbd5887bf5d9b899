//! The next hop of a fill: who is asked, who is passed over, and what clients get when nobody can be
//! (reliability.md 2.8, line 66: an origin that is down, slow, lying; stale within policy, a breaker).
//! Method: hand-made parents and origins that fail in one known way; counters and `/explain` say what was decided.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, Gate, HandOrigin, get, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const FRESH: &str = "Cache-Control: max-age=600\r\n";

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((LOCAL, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn explained(fleet: &Fleet, node: &str, path: &str) -> Vec<serde_json::Value> {
    let target = format!("/explain?host={HOST}&path={path}");
    let answer = get(fleet.member(node).admin(), "x", &target, "").unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    answer["next_hops"].as_array().unwrap().clone()
}

/// The hops that an edge would ask for `path`, in order, with what it thinks of each.
fn next_hops(fleet: &Fleet, node: &str, path: &str) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let hops = explained(fleet, node, path);
    hops.iter().map(|hop| (text(&hop["id"]), text(&hop["state"]))).collect()
}

/// A path whose first choice is `hop`, unlike all others that were given.
fn path_of(fleet: &Fleet, node: &str, hop: &str) -> String {
    static SERIAL: AtomicUsize = AtomicUsize::new(0);
    loop {
        let path = format!("/{}.m4s", SERIAL.fetch_add(1, Ordering::Relaxed));
        if next_hops(fleet, node, &path)[0].0 == hop {
            return path;
        }
    }
}

/// A parent in whose place a test stands: well, and `answer` for all else.
fn hand_parent(
    answer: impl Fn(&str, &mut std::net::TcpStream) + Send + Sync + 'static,
) -> HandOrigin {
    HandOrigin::start(LOCAL, move |asked, stream| match asked.target() {
        "/health" => reply(stream, 200, "", b"well"),
        target => answer(target, stream),
    })
}

fn with_parents(parents: &[&HandOrigin]) -> FleetOptions {
    FleetOptions {
        edges: 1,
        parents: parents.len(),
        hand_parents: parents.iter().map(|parent| parent.address).collect(),
        ..FleetOptions::default()
    }
}

#[test]
fn a_parent_that_failed_three_times_is_passed_over_until_one_try_succeeds() {
    // Goal: an opinion needs three failures in a row, then costs nobody anything; one exchange tries the hop again.
    // Method: a parent that answers 500 until it is told otherwise, in front of one that is well.
    let broken = Arc::new(AtomicBool::new(true));
    let flag = broken.clone();
    let first = hand_parent(move |target, stream| match flag.load(Ordering::Relaxed) {
        true => reply(stream, 500, "", b"broken"),
        false => reply(stream, 200, FRESH, target.as_bytes()),
    });
    let second = hand_parent(|target, stream| reply(stream, 200, FRESH, target.as_bytes()));
    let fleet = Fleet::start("opinion", &with_parents(&[&first, &second]));
    let paths: Vec<String> = (0..20).map(|_| path_of(&fleet, "edge-1", "parent-1")).collect();
    for path in &paths[..10] {
        let response = fleet.get("edge-1", path, "").unwrap();
        assert_eq!((response.status, &response.body[..]), (200, path.as_bytes()));
    }
    let asked = paths[..10].iter().filter(|path| first.count_of(path) > 0).count();
    assert!((3..10).contains(&asked), "asked {asked} times");
    assert!(fleet.counter("edge-1", "next_hop_ejections_total") >= 1);
    assert!(second.count() >= 10);
    // Its health path answers all the time: that does not overrule what its real answers were before its time is over.
    broken.store(false, Ordering::Relaxed);
    fleet.until("it is up again", |fleet| {
        next_hops(fleet, "edge-1", &paths[10])
            .iter()
            .any(|hop| hop.0 == "parent-1" && hop.1 == "up")
    });
    for path in &paths[10..] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().body, path.as_bytes());
        assert_eq!(
            (first.count_of(path), second.count_of(path)),
            (1, 0),
            "it is asked first again"
        );
    }
}

#[test]
fn one_of_two_is_never_taken_out_by_opinion_when_the_other_is_already() {
    // Goal: the cap. Method: both parents answer 500; each request must still reach one of them.
    let both: Vec<HandOrigin> =
        (0..2).map(|_| hand_parent(|_, stream| reply(stream, 500, "", b"broken"))).collect();
    let fleet = Fleet::start("cap", &with_parents(&[&both[0], &both[1]]));
    for n in 0..20 {
        let before = both[0].count() + both[1].count();
        let response = fleet.get("edge-1", &format!("/{n}"), "").unwrap();
        assert_eq!((response.status, &response.body[..]), (500, &b"broken"[..]));
        assert!(both[0].count() + both[1].count() > before, "request {n} reached nobody");
    }
    let hops = next_hops(&fleet, "edge-1", "/x");
    assert!(hops.iter().any(|hop| !hop.1.starts_with("out")), "{hops:?}");
}

#[test]
fn when_nobody_can_be_reached_clients_are_told_at_once_and_a_parent_that_is_back_is_found_without_them()
 {
    // Goal: 503 with Retry-After, or stale; the active probe. Method: the parents' ports are closed, a client asks once;
    // one parent is started; nobody asks until `/explain` says that it is up.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        reply(
            stream,
            200,
            "Cache-Control: max-age=0, stale-if-error=600\r\nETag: \"v\"\r\n",
            asked.target().as_bytes(),
        );
    });
    let options =
        FleetOptions { origin: Some(origin.address), edges: 1, ..FleetOptions::default() };
    let mut fleet = Fleet::start("all-out", &options);
    assert_eq!(fleet.get("edge-1", "/stale", "").unwrap().status, 200);
    fleet.kill("parent-1");
    fleet.kill("parent-2");
    // The kernel may hold a dead process's listener open for a moment: connections then break off instead (502).
    fleet.until("both are out", |fleet| {
        let _one_of_either = fleet.get("edge-1", "/first", "").unwrap();
        fleet.counter("edge-1", "next_hops_out") == 2
    });
    for path in ["/cold", "/pass/cold"] {
        let refused = fleet.get("edge-1", path, "").unwrap();
        assert_eq!(refused.status, 503, "{path}");
        assert!(refused.field("retry-after").is_some(), "{path}");
    }
    let stale = fleet.get("edge-1", "/stale", "").unwrap();
    assert_eq!((stale.status, &stale.body[..]), (200, &b"/stale"[..]));
    fleet.restart("parent-2");
    fleet.until("the edge finds it", |fleet| fleet.counter("edge-1", "next_hops_out") == 1);
    assert!(fleet.counter("edge-1", "next_hop_probes_total") >= 1);
    let hops = next_hops(&fleet, "edge-1", "/cold");
    assert_eq!(hops[0], ("parent-2".to_owned(), "up".to_owned()));
    assert_eq!(fleet.get("edge-1", "/cold", "").unwrap().status, 200);
}

#[test]
fn an_origin_that_is_out_is_asked_at_its_health_path() {
    // Goal: origin_health. Method: the origin's port is closed and opened again; only the health path may be asked.
    let address = nobody();
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(address),
        adjust: |snapshot| snapshot.servers[0].origin_health = Some("/well".to_owned()),
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("origin-health", &options);
    assert_eq!(fleet.get("edge-1", "/cold", "").unwrap().status, 503);
    assert_eq!(fleet.counter("parent-1", "next_hops_out"), 1);
    let listener = TcpListener::bind(address).unwrap();
    let asked = std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let n = stream.read(&mut head).unwrap();
        reply(&mut stream, 404, "", b"never heard of it, but here");
        (listener, String::from_utf8_lossy(&head[..n]).into_owned())
    });
    fleet.until("the parent finds it", |fleet| fleet.counter("parent-1", "next_hops_out") == 0);
    let (_listener, head) = asked.join().unwrap();
    assert!(head.starts_with("GET /well HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("host: origin.example\r\n"), "{head}");
}

#[test]
fn a_node_tells_its_health_under_its_own_name_only() {
    let fleet = Fleet::start("own-name", &FleetOptions { edges: 1, ..FleetOptions::default() });
    let parent = fleet.member("parent-1").http();
    assert_eq!(get(parent, "parent-1.cdn.test", "/health", "").unwrap().status, 200);
    for (host, path) in
        [("parent-2.cdn.test", "/health"), ("parent-1.cdn.test", "/"), ("x", "/health")]
    {
        assert_eq!(get(parent, host, path, "").unwrap().status, 404, "{host} {path}");
    }
    assert_eq!(
        get(parent, HOST, "/health", "").unwrap().status,
        404,
        "the origin has no such file"
    );
    assert_eq!(fleet.sum(&["parent-1", "parent-2"], "next_hops_out"), 0);
}

#[test]
fn one_exchange_at_a_time_tries_a_hop_that_is_out() {
    // Goal: half open by one exchange, whatever the number of clients and cores. Method: the only parent refuses, then
    // listens and holds what it gets; of many clients one waits there, all others are answered at once.
    let address = nobody();
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        hand_parents: vec![address],
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("half-open", &options);
    assert_eq!(fleet.get("edge-1", "/first", "").unwrap().status, 503);
    let gate = Gate::default();
    let listener = TcpListener::bind(address).unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let (count, held) = (taken.clone(), gate.clone());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let held = held.clone();
            std::thread::spawn(move || {
                use std::io::Read;
                let _head = stream.read(&mut [0; 4096]);
                held.wait();
                reply(&mut stream, 200, FRESH, b"back");
            });
        }
    });
    fleet.until("somebody tries it", |_| taken.load(Ordering::SeqCst) > 0);
    let mut clients: Vec<Connection> = (0..20)
        .map(|n| {
            let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
            client.send(format!("GET /{n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.response(false).unwrap().status, 503);
    }
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    gate.open();
    fleet.until("it is up", |fleet| fleet.counter("edge-1", "next_hops_out") == 0);
    assert_eq!(fleet.get("edge-1", "/first", "").unwrap().body, b"back");
}

#[test]
fn a_parent_with_more_than_its_share_under_way_is_passed_over_until_it_has_room() {
    // Goal: bounded load over all cores, and nothing moves below the floor. Method: the first parent holds all that it
    // gets; 32 objects of its own wait there, the next ones come from the other; when it lets go, its objects are its own.
    const FLOOR: usize = 32;
    let gate = Gate::default();
    let held = gate.clone();
    let first = hand_parent(move |target, stream| {
        held.wait();
        reply(stream, 200, FRESH, target.as_bytes());
    });
    let second = hand_parent(|target, stream| reply(stream, 200, FRESH, target.as_bytes()));
    let fleet = Fleet::start("bound", &with_parents(&[&first, &second]));
    let mut paths: Vec<String> =
        (0..FLOOR + 6).map(|_| path_of(&fleet, "edge-1", "parent-1")).collect();
    let later = paths.split_off(FLOOR);
    let mut waiting: Vec<Connection> = paths
        .iter()
        .map(|path| {
            let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            client
        })
        .collect();
    fleet.until("they wait at their parent", |_| first.count() == FLOOR);
    assert_eq!(second.count(), 0);
    assert_eq!(next_hops(&fleet, "edge-1", &later[0])[0].0, "parent-2");
    for path in &later[..3] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().body, path.as_bytes());
        assert_eq!((first.count_of(path), second.count_of(path)), (0, 1));
    }
    assert_eq!(fleet.counter("edge-1", "next_hop_over_bound_total"), 3);
    gate.open();
    for (client, path) in waiting.iter_mut().zip(&paths) {
        assert_eq!(client.response(false).unwrap().body, path.as_bytes());
    }
    fleet.until("it has room", |fleet| next_hops(fleet, "edge-1", &later[3])[0].0 == "parent-1");
    for path in &later[3..] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().body, path.as_bytes());
        assert_eq!((first.count_of(path), second.count_of(path)), (1, 0));
    }
}

#[test]
fn second_tries_are_a_share_of_the_traffic() {
    // Goal: the retry budget. Method: parents that fail each third request of theirs, so that none goes out; at first
    // each failure is tried again, and when that would be more than a tenth of the traffic, clients get the failure.
    let parents: Vec<HandOrigin> = (0..2)
        .map(|_| {
            let count = AtomicUsize::new(0);
            hand_parent(move |_, stream| match count.fetch_add(1, Ordering::Relaxed) % 3 {
                2 => reply(stream, 500, "", b"third"),
                _ => reply(stream, 200, "Cache-Control: no-store\r\n", b"fine"),
            })
        })
        .collect();
    let fleet = Fleet::start("budget", &with_parents(&[&parents[0], &parents[1]]));
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    let (mut requests, mut failures) = (0, 0);
    let mut ask = || {
        requests += 1;
        let status = client.get(HOST, &format!("/pass/{requests}"), "").unwrap().status;
        failures += usize::from(status == 500);
    };
    (0..50).for_each(|_| ask());
    assert_eq!(fleet.counter("edge-1", "retries_denied_total"), 0, "the floor is enough for these");
    assert!(fleet.counter("edge-1", "retries_total") >= 10);
    // However slow the machine: more than a tenth of what is asked in the window fails.
    fleet.until("the budget is used up", |fleet| {
        (0..50).for_each(|_| ask());
        fleet.counter("edge-1", "retries_denied_total") > 0
    });
    let retries = fleet.counter("edge-1", "retries_total") as usize;
    let asked = parents.iter().map(HandOrigin::count).sum::<usize>();
    assert_eq!(asked, requests + retries, "nobody is asked behind the budget's back");
    assert!(failures > 0);
}

#[test]
fn an_origin_is_asked_no_more_at_once_than_it_may_be() {
    // Goal: origin_limit over all cores: places, a queue in order, and 503, stale or the next origin beyond it. Method:
    // an origin that holds what it gets; two places, two that wait, and more that come.
    let gate = Gate::default();
    let (held, inside, most) = (gate.clone(), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let peak = most.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if asked.target() == "/stale" {
            let fields = "Cache-Control: max-age=0, stale-if-error=600\r\nETag: \"s\"\r\n";
            return reply(stream, 200, fields, b"stale");
        }
        peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        held.wait();
        inside.fetch_sub(1, Ordering::SeqCst);
        reply(stream, 200, FRESH, asked.target().as_bytes());
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        adjust: |snapshot| {
            snapshot.servers[0].origin_limit = Some(tidegate_contract::OriginLimit {
                requests_max: 2,
                queue_max: 2,
                queue_seconds: 60, // the queue is what is tested
            });
        },
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("limit", &options);
    assert_eq!(fleet.get("parent-1", "/stale", "").unwrap().body, b"stale");
    let mut clients: Vec<Connection> = (0..4)
        .map(|n| {
            let mut client = Connection::open(fleet.member("parent-1").http()).unwrap();
            client.send(format!("GET /{n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            let (under_way, waiting) = ((n + 1).min(2), (n + 1_usize).saturating_sub(2));
            fleet.until("it is in its place", |fleet| {
                origin.count() == under_way + 1
                    && fleet.counter("parent-1", "origin_queue_waiting") == waiting as u64
            });
            client
        })
        .collect();
    for path in ["/more", "/pass/more"] {
        let refused = fleet.get("parent-1", path, "").unwrap();
        assert_eq!(refused.status, 503, "{path}");
        assert!(refused.field("retry-after").is_some());
    }
    assert_eq!(fleet.get("parent-1", "/stale", "").unwrap().body, b"stale");
    assert_eq!(fleet.counter("parent-1", "origin_queue_refused_total"), 3);
    assert_eq!(
        fleet.counter("parent-1", "next_hop_ejections_total"),
        0,
        "being busy is no failure"
    );
    gate.open();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response(false).unwrap().body, format!("/{n}").as_bytes());
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(fleet.counter("parent-1", "origin_queue_waits_total"), 2);
    fleet.until("all places are free", |fleet| {
        fleet.counter("parent-1", "fills_open") == 0
            && fleet.get("parent-1", "/after", "").is_ok_and(|response| response.status == 200)
    });
}

#[test]
fn a_live_request_that_waits_too_long_is_answered_by_the_other_parent() {
    // Goal: the hedged second try, for live content alone. Method: a parent whose usual times are known stalls; a live
    // object comes from the other one, a film waits; after three such times the parent is out as a slow one.
    let gate = Gate::default();
    let stalls = Arc::new(AtomicBool::new(false));
    let (held, flag) = (gate.clone(), stalls.clone());
    let first = hand_parent(move |target, stream| {
        if flag.load(Ordering::SeqCst) {
            held.wait();
        }
        reply(stream, 200, FRESH, target.as_bytes());
    });
    let second = hand_parent(|target, stream| reply(stream, 200, FRESH, target.as_bytes()));
    let options = FleetOptions {
        adjust: |snapshot| {
            let mut live = tidegate_e2e::fleet::behaviour("live", "/live/*", true, 1);
            live.hedge = true;
            snapshot.delivery_services[0].behaviours.insert(0, live);
        },
        ..with_parents(&[&first, &second])
    };
    let fleet = Fleet::start("hedge", &options);
    let live = || {
        static SERIAL: AtomicUsize = AtomicUsize::new(0);
        loop {
            let path = format!("/live/{}", SERIAL.fetch_add(1, Ordering::Relaxed));
            if next_hops(&fleet, "edge-1", &path)[0].0 == "parent-1" {
                return path;
            }
        }
    };
    let mut asked = 0;
    // On a machine that stands still for a moment, one of these may be raced and tell no time.
    while asked < 20 || explained(&fleet, "edge-1", &live())[0]["first_byte_p95_ms"].is_null() {
        asked += 1;
        assert_eq!(fleet.get("edge-1", &live(), "").unwrap().status, 200);
    }
    let before = fleet.counter("edge-1", "hedges_total");
    let film = path_of(&fleet, "edge-1", "parent-1");
    stalls.store(true, Ordering::SeqCst);
    let mut viewer = Connection::open(fleet.member("edge-1").http()).unwrap();
    viewer.send(format!("GET {film} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    fleet.until("the film waits", |_| first.count_of(&film) == 1);
    for n in 1..=3 {
        let path = live();
        let response = fleet.get("edge-1", &path, "").unwrap();
        assert_eq!((response.status, &response.body[..]), (200, path.as_bytes()));
        assert_eq!((first.count_of(&path), second.count_of(&path)), (1, 1));
        assert_eq!(fleet.counter("edge-1", "hedges_total"), before + n);
        assert!(fleet.counter("edge-1", "hedges_won_total") >= n);
    }
    assert_eq!(second.count_of(&film), 0, "a film is not raced");
    let hops = next_hops(&fleet, "edge-1", "/live/x");
    assert!(hops.iter().any(|hop| hop.0 == "parent-1" && hop.1.contains("(slow)")), "{hops:?}");
    gate.open();
    assert_eq!(viewer.response(false).unwrap().body, film.as_bytes());
}

/// Publishes a snapshot with these origins and waits until the parent runs on it.
fn use_origins(fleet: &mut Fleet, ids: &[&str]) {
    fleet.snapshot.generation += 1;
    fleet.snapshot.delivery_services[0].origins = ids.iter().map(|id| (*id).to_owned()).collect();
    fleet.publish();
    let generation = fleet.snapshot.generation;
    fleet.until("it runs on the new snapshot", |fleet| {
        fleet.counter("parent-1", "snapshot_generation") == generation
    });
}

#[test]
fn an_origin_is_found_by_its_name() {
    // Goal: origin_name, by the system's resolver, all its addresses in turn; a name that has none is an origin that cannot
    // be reached. Method: localhost, which may be ::1 first, where nobody listens on the origin's port; and a name that
    // cannot exist (RFC 6761), with the good one behind it.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        reply(stream, 200, FRESH, asked.target().as_bytes());
    });
    let mut fleet = Fleet::start(
        "names",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            adjust: |snapshot| {
                let named = &mut snapshot.servers[0];
                named.addresses = Vec::new();
                named.machine.origin_root = None;
                named.origin_name = Some("localhost".to_owned());
                let mut nowhere = named.clone();
                nowhere.id = "origin-2".to_owned();
                nowhere.origin_name = Some("nowhere.invalid".to_owned());
                snapshot.servers.push(nowhere);
            },
            ..FleetOptions::default()
        },
    );
    fleet.until("the name has an address", |fleet| {
        fleet.get("edge-1", "/a", "").is_ok_and(|response| response.status == 200)
    });
    assert_eq!(origin.all()[0].field("host"), "origin.example");
    let known = &explained(&fleet, "parent-1", "/a")[0];
    assert_eq!(known["address"], format!("localhost:{}", origin.address.port()));
    assert!(known["resolved"].to_string().contains(&origin.address.to_string()), "{known}");
    use_origins(&mut fleet, &["origin-2"]);
    let refused = fleet.get("parent-1", "/b", "").unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some());
    fleet.until("somebody is told", |fleet| fleet.said("parent-1").contains("nowhere.invalid"));
    assert!(fleet.counter("parent-1", "origin_names_failed_total") >= 1);
    use_origins(&mut fleet, &["origin-2", "origin-1"]);
    fleet.until("the other one answers", |fleet| {
        fleet.get("parent-1", "/b", "").is_ok_and(|response| response.body == b"/b")
    });
}
