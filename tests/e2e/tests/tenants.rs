//! Tenants beside each other, and what a client can make a node do or tell: one tenant's cache says nothing to another's
//! clients, keys and details are for operators, and no word of a client's chooses whom a node connects to
//! (reliability design 2.3, lines 31 and 32). Method: two delivery services on one fleet and one origin, and a listener
//! that is named in every way and must never be connected to.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tidegate_contract::Snapshot;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, HandOrigin, Response, get, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OTHER: &str = "other.example";
/// Used at once, and asked about behind it.
const STALE: &str =
    "Cache-Control: max-age=10, stale-while-revalidate=3600\r\nAge: 100\r\nETag: \"a\"\r\n";
/// Its SHA-256 is in `two_tenants`.
const TOKEN: &str = "open sesame";

/// The fleet's service with a debug token, and another tenant with the same origin, rules and paths.
fn two_tenants(snapshot: &mut Snapshot) {
    let hash = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";
    let first = &mut snapshot.delivery_services[0];
    let mut other = first.clone();
    first.debug_token_sha256 = Some(hash.to_owned());
    other.id = "other".to_owned();
    other.hosts = vec![OTHER.to_owned()];
    other.address_default = false;
    snapshot.delivery_services.push(other);
}

/// Answers with a serial number; the first answer for a path is older than later ones. `/stale` is stale at once, and its
/// questions fail.
fn world(name: &str) -> (Fleet, HandOrigin) {
    let (serial, seen) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let body = format!("serial {}", serial.fetch_add(1, Ordering::SeqCst));
        let is_first = seen.lock().unwrap().insert(asked.target().to_owned());
        let (status, fields) = match asked.target() {
            "/stale" if !asked.field("if-none-match").is_empty() => (503, ""),
            "/stale" => (200, STALE),
            _ if is_first => (200, "Cache-Control: max-age=3600\r\nAge: 1000\r\n"),
            _ => (200, "Cache-Control: max-age=3600\r\n"),
        };
        reply(stream, status, fields, body.as_bytes());
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        adjust: two_tenants,
        ..FleetOptions::default()
    };
    (Fleet::start(name, &options), origin)
}

fn status(response: &Response) -> String {
    response.cache_status("edge-1").unwrap()
}

#[test]
fn one_tenants_cache_tells_another_nothing() {
    // Goal: no probe of one tenant's host says whether another's content is cached, nor changes it. Method: one path,
    // warm for the one tenant and aged; each probe by the other's clients answers as if nobody had asked before.
    let (fleet, origin) = world("tenants");
    let edge = fleet.member("edge-1").http();
    let warm = get(edge, HOST, "/film.m4s", "").unwrap().body;
    assert!(status(&get(edge, HOST, "/film.m4s", "").unwrap()).contains("; hit"));
    let probe = get(edge, OTHER, "/film.m4s", "Cache-Control: only-if-cached\r\n").unwrap();
    assert_eq!(probe.status, 504);
    let mut client = Connection::open(edge).unwrap();
    let post = format!("POST /film.m4s HTTP/1.1\r\nHost: {OTHER}\r\nContent-Length: 0\r\n\r\n");
    client.send(post.as_bytes()).unwrap();
    assert_eq!(client.response(false).unwrap().status, 200);
    // Words in which caches have been told of another host.
    for (n, fields) in [
        "",
        "X-Forwarded-Host: film.example\r\n",
        "Forwarded: host=film.example\r\n",
        "X-Original-Host: film.example\r\n",
    ]
    .iter()
    .enumerate()
    {
        let path = format!("/film.m4s?{n}");
        let theirs = get(edge, HOST, &path, "").unwrap().body;
        let asked = origin.count();
        let first = get(edge, OTHER, &path, fields).unwrap();
        assert_ne!(first.body, theirs, "{fields}");
        assert!(status(&first).contains("fwd=uri-miss"), "{}", status(&first));
        let age: u64 = first.field("age").unwrap_or("0").parse().unwrap();
        assert!(age < 1000, "{fields}: it is as old as another's");
        assert_eq!(origin.count(), asked + 1, "{fields}");
    }
    let still = get(edge, HOST, "/film.m4s", "").unwrap();
    assert!(status(&still).contains("; hit") && still.body == warm, "another's POST is another's");
}

#[test]
fn keys_and_details_are_told_to_those_with_the_token_alone() {
    // Goal: who has no token learns neither. Method: a hit, a miss and a stale answer, with no token, wrong ones and the
    // right one, at its own tenant and at the other; the origin never sees it, and no other answer has it.
    let (fleet, origin) = world("token");
    let edge = fleet.member("edge-1").http();
    let ask = |host: &str, path: &str, token: &str| {
        let fields = match token {
            "" => String::new(),
            token => format!("Tidegate-Debug: {token}\r\n"),
        };
        let response = get(edge, host, path, &fields).unwrap();
        fleet.settle("edge-1");
        fleet.settle("parent-1");
        assert_eq!(response.status, 200);
        response
    };
    let all = |response: &Response| response.field("cache-status").unwrap().to_owned();
    let mut details = 0;
    for (path, host) in [("/b?c=1&a=2&token=x", HOST), ("/stale", HOST), ("/b", OTHER)] {
        for round in 0..3 {
            for token in ["", "sesame", "open sesame ", "OPEN SESAME", TOKEN] {
                let response = ask(host, path, token);
                // Spaces around a value are not part of it.
                let knows = host == HOST && token.trim() == TOKEN;
                let key = match path {
                    "/stale" => "film/stale",
                    _ => "film/b?a=2&c=1",
                };
                let said = status(&response);
                let told = said.contains(&format!("; key=\"{key}\""));
                assert_eq!(told, knows, "{round} {token}: {said}");
                assert_eq!(all(&response).matches("key=").count(), usize::from(knows));
                let stale = path == "/stale" && said.contains("ttl=-");
                assert_eq!(all(&response).matches("detail=").count(), usize::from(knows && stale));
                details += usize::from(knows && stale);
            }
        }
    }
    assert!(details > 0);
    // A fill is everybody's, also when who asks first has the token, and at a path that passes.
    let first = ask(HOST, "/first", TOKEN);
    assert!(all(&first).contains("key=\"film/first\""));
    assert!(!all(&ask(HOST, "/first", "")).contains("key"));
    assert!(all(&ask(HOST, "/pass/own", TOKEN)).contains("key=\"film/pass/own\""));
    assert!(origin.all().iter().all(|asked| asked.field("tidegate-debug").is_empty()));
    // The log has the detail, whoever asked.
    let log = std::fs::read_to_string(fleet.dir.join("parent-1.log")).unwrap();
    assert!(log.contains("detail=stale"), "{log}");
}

#[test]
fn nobody_is_connected_to_who_is_not_configured() {
    // Goal: no request or answer makes a node connect where it is not told to by its snapshot. Method: a listener of this
    // test, named in every field and form that others have followed, by name and by address; also by the origin's answers.
    let trap = TcpListener::bind((LOCAL, 0)).unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = trap.local_addr().unwrap().port();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let there = format!("http://127.0.0.1:{port}/there");
        let fields = format!(
            "Cache-Control: max-age=3600\r\nLocation: {there}\r\nContent-Location: {there}\r\nRefresh: 0; url={there}\r\n\
             Link: <{there}>; rel=preload, <{there}>; rel=next\r\nAlt-Svc: h2=\"127.0.0.1:{port}\"\r\n\
             X-Accel-Redirect: {there}\r\nX-Sendfile: {there}\r\nSurrogate-Control: content=\"ESI/1.0\"\r\n"
        );
        let status = if asked.target().starts_with("/moved") { 302 } else { 200 };
        let body = format!("<esi:include src=\"{there}\"/>");
        reply(stream, status, &fields, body.as_bytes());
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("dials", &options);
    let own = origin.address.to_string();
    let mut n = 0;
    for place in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        let url = format!("http://{place}/x");
        let mut requests = vec![
            format!("GET /N HTTP/1.1\r\nHost: {place}\r\n\r\n"),
            format!("GET {url}/N HTTP/1.1\r\nHost: {place}\r\n\r\n"),
            format!("GET {url}/N HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            format!("GET http://{HOST}@{place}/N HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            format!("GET http://{HOST}:80@{place}/N HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            format!("GET //{place}/N HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            format!("GET /{url}/N HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            format!("GET @{place}/N HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            format!("GET /N?url={url} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            format!("GET /N HTTP/1.1\r\nHost: {HOST}@{place}\r\n\r\n"),
            format!("GET /N HTTP/1.1\r\nHost: {HOST}, {place}\r\n\r\n"),
            format!("GET /N HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n"),
            format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"),
            format!("GET /moved/N HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        ];
        for field in [
            "X-Forwarded-Host",
            "X-Forwarded-Server",
            "X-Forwarded-Proto",
            "X-Host",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Host-Override",
            "Forwarded",
            "Proxy-Connection",
            "Referer",
            "Origin",
            "True-Client-IP",
            "X-Wap-Profile",
            "Destination",
            "Via",
            "Upgrade",
        ] {
            for value in [place.clone(), url.clone(), format!("host={place};for={place}")] {
                requests
                    .push(format!("GET /N HTTP/1.1\r\nHost: {HOST}\r\n{field}: {value}\r\n\r\n"));
                requests.push(format!(
                    "GET /pass/N HTTP/1.1\r\nHost: {HOST}\r\n{field}: {value}\r\n\r\n"
                ));
            }
        }
        // A player names what it will ask for next.
        let escaped = url.replace(':', "%3A").replace('/', "%2F");
        for next in [url.clone(), format!("//{place}/x"), escaped, format!("..//{place}/x")] {
            requests.push(format!(
                "GET /N HTTP/1.1\r\nHost: {HOST}\r\nCMCD-Request: nor=\"{next}\"\r\n\r\n"
            ));
        }
        for request in requests {
            n += 1;
            let request = request.replace("/N", &format!("/{n}"));
            for node in ["edge-1", "parent-1"] {
                let mut client = Connection::open(fleet.member(node).http()).unwrap();
                client.send(request.as_bytes()).unwrap();
                let response = client.response(false).unwrap();
                let known = [200, 302, 400, 404, 405, 501, 508].contains(&response.status);
                assert!(known, "{}: {request}", response.status);
            }
        }
    }
    for node in ["edge-1", "parent-1"] {
        fleet.settle(node);
    }
    let outcome = trap.accept();
    assert!(outcome.is_err(), "{outcome:?} came to where nobody was told to go");
    // The origin was asked by its own name, whatever clients called it; and the test has reached it.
    let hosts: Vec<String> = origin.all().iter().map(|a| a.field("host").to_owned()).collect();
    assert!(hosts.len() > 100, "{}", hosts.len());
    assert!(hosts.iter().all(|host| *host == "origin.example" || *host == own), "{hosts:?}");
}

#[test]
fn a_loop_ends_where_it_closes() {
    // Goal: a request that comes back is answered 508 at once (RFC 8586), passed or filled, and nobody goes round twice.
    // Method: an origin that asks the parent that asked it, with all that it was told, and another that leaves Via out.
    let parent: Arc<OnceLock<SocketAddr>> = Arc::default();
    let known = parent.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let mut head = format!("{}\r\nHost: {HOST}\r\n", asked.line);
        for (name, value) in &asked.fields {
            let is_told = !asked.target().ends_with("/quiet") || name != "via";
            if name != "host" && is_told {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        let mut client = Connection::open(*known.get().unwrap()).unwrap();
        client.send(format!("{head}\r\n").as_bytes()).unwrap();
        let response = client.response(false).unwrap();
        reply(stream, response.status, "", &response.body);
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("loop", &options);
    parent.set(fleet.member("parent-1").http()).unwrap();
    for path in ["/filled", "/pass/on", "/filled/quiet", "/pass/quiet"] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().status, 508, "{path}");
        assert_eq!(origin.count_of(path), 1, "{path}");
    }
}
