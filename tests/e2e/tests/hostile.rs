//! Hostile clients and lying origins: refused or cut off, never a crash, never garbage taken for content.
//! Method: the corpus of malformed requests and a table of broken answers, at real processes on real sockets.

use std::collections::HashSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, HandOrigin, Response, content, get, reply};
use tidegate_http1::corpus;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An origin that tells what it was asked, in a way that shows which request an answer belongs to.
fn echo() -> HandOrigin {
    HandOrigin::start(LOCAL, |asked, stream| {
        let body = [asked.line.as_bytes(), b"|", &asked.body].concat();
        reply(stream, 200, "Cache-Control: max-age=600\r\n", &body);
    })
}

fn fleet(name: &str, origin: &HandOrigin) -> Fleet {
    Fleet::start(
        name,
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            https: true,
            adjust: |snapshot| {
                snapshot.delivery_services[0].hosts.push("h.example".to_owned());
            },
            ..FleetOptions::default()
        },
    )
}

fn healthy(fleet: &Fleet, id: &str, pid: u32) {
    assert_eq!(fleet.member(id).pid(), pid);
    assert_eq!(fleet.status(id)["pid"], pid);
    assert_eq!(get(fleet.member(id).admin(), "x", "/health", "").unwrap().status, 200);
}

/// Sends one case and reads to the close, or to the answer of a well-formed one.
fn replay(case: &corpus::Case, mut connection: Connection, whom: &str) {
    // The peer may close before the last byte has left: what counts is what it says.
    let _gone = connection.send(&case.bytes);
    let response = match connection.response(false) {
        Ok(response) => response,
        Err(error) => {
            assert!(!case.statuses.is_empty(), "{}: {whom} closed: {error}", case.name);
            return; // a close is a refusal too: it may overtake the answer when bytes were left unread
        }
    };
    if case.statuses.is_empty() {
        assert!(response.status < 500, "{}: {whom} answered {}", case.name, response.status);
        return;
    }
    assert!(case.statuses.contains(&response.status), "{}: {whom}: {}", case.name, response.status);
    if response.field("connection") == Some("close") {
        assert!(connection.read_to_close().is_empty(), "{}: {whom} went on", case.name);
    } else {
        assert_eq!(response.status, 405, "{}: {whom} stays open after a refusal", case.name);
    }
}

#[test]
fn the_malformed_corpus_is_refused_by_every_tier_and_face() {
    // Goal: each case gets its status or a close, and nothing of it goes on. Method: each case on a connection of its
    // own at edge (plain and TLS), parent, real origin and admin port; the hand origin must see none of the refused.
    let origin = echo();
    let fleet = fleet("corpus", &origin);
    let files = Fleet::start(
        "corpus-origin",
        &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() },
    );
    let pids: Vec<(&Fleet, &str, u32)> =
        [(&fleet, "edge-1"), (&fleet, "parent-1"), (&files, "origin-1")]
            .map(|(f, id)| (f, id, f.member(id).pid()))
            .to_vec();
    let plain: Vec<(&str, SocketAddr)> = vec![
        ("edge", fleet.member("edge-1").http()),
        ("parent", fleet.member("parent-1").http()),
        ("origin", files.member("origin-1").http()),
        ("admin port", fleet.member("edge-1").admin()),
    ];
    let cases = corpus::load(corpus::MALFORMED).unwrap();
    assert!(cases.len() > 100);
    let mut refused = 0;
    for case in cases.iter().filter(|case| !case.statuses.is_empty()) {
        for (whom, address) in &plain {
            replay(case, Connection::open(*address).unwrap(), whom);
        }
        let tls = fleet.tls.clone().unwrap();
        let sealed = Connection::open_tls(fleet.member("edge-1").https(), tls).unwrap();
        replay(case, sealed, "edge over TLS");
        refused += 1;
    }
    assert_eq!(origin.count(), 0, "{:?}", origin.all());
    assert_eq!(fleet.counter("edge-1", "fills_total"), 0);
    assert!(fleet.counter("edge-1", "requests_refused_total") >= 3 * (refused - 5));
    for case in cases.iter().filter(|case| case.statuses.is_empty()) {
        for (whom, address) in &plain {
            replay(case, Connection::open(*address).unwrap(), whom);
        }
    }
    for (fleet, id, pid) in pids {
        healthy(fleet, id, pid);
    }
    // Plain text at the TLS port.
    let errors = fleet.counter("edge-1", "tls_errors_total");
    println!("TLS errors so far: {errors}");
    let mut lost = Connection::open(fleet.member("edge-1").https()).unwrap();
    lost.send(b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n").unwrap();
    let said = lost.read_to_close();
    assert!(!said.starts_with(b"HTTP"));
    fleet.until("it is counted", |f| f.counter("edge-1", "tls_errors_total") > errors);
}

#[test]
fn a_head_that_never_ends_is_answered_408_and_others_do_not_wait() {
    // Goal: slow heads and bodies are let go. Method: 50 clients send half a head, 5 half a body, and read; the
    // server's own deadline (10 s) ends them; others are served meanwhile.
    let origin = echo();
    let fleet = fleet("slow-heads", &origin);
    let address = fleet.member("edge-1").http();
    let mut slow: Vec<Connection> = (0..55)
        .map(|n| {
            let mut client = Connection::open(address).unwrap();
            let half = match n {
                0..50 => "GET /a HTTP/1.1\r\nHost: film.example\r\nX-Half: ",
                _ => "POST /pass/a HTTP/1.1\r\nHost: film.example\r\nContent-Length: 9\r\n\r\nhalf",
            };
            client.send(half.as_bytes()).unwrap();
            client
        })
        .collect();
    assert_eq!(get(address, HOST, "/others", "").unwrap().status, 200);
    for client in &mut slow {
        assert_eq!(client.response(false).unwrap().status, 408);
        assert!(client.read_to_close().is_empty());
    }
    assert_eq!(origin.count(), 1);
    fleet.until("all have left", |f| f.counter("edge-1", "connections_open") <= 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    // Goal: no answer is lost, doubled or swapped. Method: 100 requests of several kinds in one send; each answer
    // names the request it belongs to.
    let origin = echo();
    let fleet = fleet("pipeline", &origin);
    let mut connection = Connection::open(fleet.member("edge-1").http()).unwrap();
    let mut requests = String::new();
    for n in 0..100 {
        requests += &match n % 5 {
            0 => format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", n % 3),
            1 => format!("GET /pass/{n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            2 => {
                format!("POST /pass/{n} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nfour")
            }
            3 => format!("DELETE /{n} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            _ => format!(
                "POST /pass/{n} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nT: x\r\n\r\n"
            ),
        };
    }
    connection.send(requests.as_bytes()).unwrap();
    for n in 0..100 {
        let response = connection.response(false).unwrap();
        let said = String::from_utf8_lossy(&response.body).into_owned();
        let expected = match n % 5 {
            0 => format!("GET /{} HTTP/1.1|", n % 3),
            1 => format!("GET /pass/{n} HTTP/1.1|"),
            2 => format!("POST /pass/{n} HTTP/1.1|four"),
            3 => {
                assert_eq!(response.status, 405);
                assert_eq!(response.field("allow"), Some("GET, HEAD, OPTIONS, POST"));
                continue;
            }
            _ => format!("POST /pass/{n} HTTP/1.1|abcde"),
        };
        assert_eq!((response.status, said), (200, expected), "answer {n}");
    }
}

#[test]
fn request_bodies_end_where_they_end() {
    // Goal: framing of bodies is nobody's way around a tier. Method: Expect, fat GET, chunked, oversized and broken
    // bodies, each followed by a request that must be seen as the next one or not at all.
    let origin = echo();
    let fleet = fleet("bodies", &origin);
    let address = fleet.member("edge-1").http();
    // Expect: the interim answer comes before the body is sent.
    let mut client = Connection::open(address).unwrap();
    client
        .send(format!("POST /pass/e HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(client.some().unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"later").unwrap();
    assert_eq!(client.response(false).unwrap().body, b"POST /pass/e HTTP/1.1|later");
    // A GET with a body: the body goes no further, and the next request is the next one.
    client
        .send(
            format!(
                "GET /fat HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: film.example\r\n\r\nGET /next HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
            )
            .as_bytes(),
        )
        .unwrap();
    assert_eq!(client.response(false).unwrap().body, b"GET /fat HTTP/1.1|");
    // 44 bytes of body, then what is left of the smuggled head: a refusal, or the next request whole.
    let rest = client.response(false).map(|response| (response.status, response.body));
    match rest {
        Ok((200, body)) => assert_eq!(body, b"GET /next HTTP/1.1|"),
        Ok((status, _)) => assert_eq!(status, 400),
        Err(_) => {}
    }
    assert_eq!(origin.count_of("/smuggled"), 0);
    let exact = "GET /smuggled HTTP/1.1\r\nHost: film.example\r\n\r\n";
    let mut client = Connection::open(address).unwrap();
    for method in ["GET", "HEAD", "OPTIONS"] {
        client
            .send(
                format!(
                    "{method} /fat2 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{exact}",
                    exact.len()
                )
                .as_bytes(),
            )
            .unwrap();
        assert!(client.response(method == "HEAD").unwrap().status < 300, "{method}");
    }
    assert_eq!(client.get(HOST, "/after", "").unwrap().body, b"GET /after HTTP/1.1|");
    assert_eq!(origin.count_of("/smuggled"), 0);
    // Too large, broken, cut off.
    let refused: [(String, u16); 4] = [
        (format!("POST /pass/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999999\r\n\r\n"), 413),
        (format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999999\r\n\r\n"), 413),
        (
            format!(
                "POST /pass/x HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
            ),
            400,
        ),
        (
            format!(
                "POST /pass/x HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n"
            ),
            400,
        ),
    ];
    for (request, status) in refused {
        let mut client = Connection::open(address).unwrap();
        client.send(request.as_bytes()).unwrap();
        let _gone = client.send(exact.as_bytes());
        let response = client.response(false).unwrap();
        assert_eq!(response.status, status, "{request}");
        assert!(client.read_to_close().is_empty());
    }
    assert_eq!(origin.count_of("/smuggled"), 0);
    assert_eq!(origin.count_of("/pass/x"), 0);
}

#[test]
fn large_bodies_and_long_pipelines_come_through_tls() {
    // Goal: records are taken as they come, however many plain bytes wait. Method: a body of 900 kB and a pipeline of
    // 2,000 requests, each in one send.
    let origin = echo();
    let fleet = fleet("tls-large", &origin);
    let tls = fleet.tls.clone().unwrap();
    let mut client = Connection::open_tls(fleet.member("edge-1").https(), tls).unwrap();
    let body = content("upload", 900_000);
    let head =
        format!("POST /pass/up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(&[head.as_bytes(), &body].concat()).unwrap();
    let answer = client.response(false).unwrap();
    assert!(answer.status == 200 && answer.body.ends_with(&body), "{}", answer.status);
    let request = format!("GET /one HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    client.send(request.repeat(2000).as_bytes()).unwrap();
    for n in 0..2000 {
        assert_eq!(client.response(false).unwrap().body, b"GET /one HTTP/1.1|", "answer {n}");
    }
}

#[test]
fn smuggling_gives_one_client_no_hold_on_another_ones_answer() {
    // Goal: request smuggling both ways finds no disagreement. Method: classic two-length requests and their TE
    // disguises, each followed by a victim on a connection of its own; nothing smuggled may reach the origin.
    let origin = echo();
    let fleet = fleet("smuggle", &origin);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: film.example\r\n\r\n";
    let fields = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding:\x0bchunked",
        "Content-Length: 0\r\nContent-Length: 50",
        "Content-Length: 0, 50",
        "Connection: content-length\r\nContent-Length: 0",
        "Content-Length: 0\r\nX: y\n\r\n",
    ];
    let tiers = ["edge-1", "parent-1"];
    for (n, field) in fields.iter().enumerate() {
        for id in tiers {
            let address = fleet.member(id).http();
            let mut attacker = Connection::open(address).unwrap();
            let request = format!(
                "POST /pass/{n} HTTP/1.1\r\nHost: {}\r\n{field}\r\n\r\n0\r\n\r\n{smuggled}",
                HOST
            );
            let _gone = attacker.send(request.as_bytes());
            let _answer = attacker.response(false);
            let victim = get(address, HOST, &format!("/victim/{n}"), "").unwrap();
            let expected = format!("GET /victim/{n} HTTP/1.1|");
            assert_eq!(String::from_utf8_lossy(&victim.body), expected, "{field}");
        }
    }
    assert_eq!(origin.count_of("/smuggled"), 0);
}

#[test]
fn http_1_0_clients_are_served_in_their_way() {
    // Goal: old clients work. Method: close by default, keep-alive when asked, no chunks, and no Host only where
    // one is not needed.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        if asked.target() == "/chunks" {
            let head =
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=9\r\n\r\n";
            let _gone =
                stream.write_all(format!("{head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").as_bytes());
            return;
        }
        reply(stream, 200, "Cache-Control: max-age=600\r\n", b"old");
    });
    let fleet = fleet("http10", &origin);
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client.send(format!("GET /a HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let response = client.response(false).unwrap();
    assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    assert_eq!(response.body, b"old");
    assert!(client.read_to_close().is_empty());
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    for _ in 0..3 {
        client
            .send(
                format!("GET /a HTTP/1.0\r\nHost: {HOST}\r\nConnection: Keep-Alive\r\n\r\n")
                    .as_bytes(),
            )
            .unwrap();
        let response = client.response(false).unwrap();
        assert_eq!(response.field("connection"), Some("keep-alive"));
        assert_eq!(response.body, b"old");
    }
    for _ in 0..2 {
        let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
        client.send(format!("GET /chunks HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        let response = client.response(false).unwrap();
        assert_eq!(response.field("transfer-encoding"), None);
        assert_eq!(response.body, b"abcde");
    }
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client.send(b"GET /a HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(client.response(false).unwrap().status, 404, "no host, no delivery service");
}

/// What an origin that lies sends; the connection ends behind it.
fn lies() -> Vec<(&'static str, Vec<u8>)> {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let many = |count: usize| {
        (0..count).fold(String::from(OK), |all, n| format!("{all}X-{n}: v\r\n"))
            + "Content-Length: 3\r\n\r\nlie"
    };
    let ok = |rest: &str| format!("{OK}{rest}");
    let texts: Vec<(&'static str, String)> = vec![
        ("short body", ok("Content-Length: 500\r\n\r\nlie")),
        ("short body with a tag", ok("ETag: \"x\"\r\nContent-Length: 500\r\n\r\nlie")),
        ("no body at all", ok("Content-Length: 500\r\n\r\n")),
        ("chunk size is no number", ok("Transfer-Encoding: chunked\r\n\r\nzz\r\nlie\r\n0\r\n\r\n")),
        ("chunk without its end", ok("Transfer-Encoding: chunked\r\n\r\n3\r\nlieX\r\n0\r\n\r\n")),
        ("no last chunk", ok("Transfer-Encoding: chunked\r\n\r\n3\r\nlie\r\n")),
        ("chunk larger than the world", ok("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nlie")),
        ("chunk cut off", ok("Transfer-Encoding: chunked\r\n\r\nff\r\nlie")),
        ("chunk size never ends", ok(&format!("Transfer-Encoding: chunked\r\n\r\n{}", "0".repeat(70_000)))),
        ("chunk extension never ends", ok(&format!("Transfer-Encoding: chunked\r\n\r\n3;{}", "x".repeat(70_000)))),
        ("trailers never end", ok(&format!("Transfer-Encoding: chunked\r\n\r\n3\r\nlie\r\n0\r\n{}", "T: x\r\n".repeat(20_000)))),
        ("length and chunks", ok("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nlie\r\n0\r\n\r\n")),
        ("two lengths", ok("Content-Length: 3\r\nContent-Length: 5\r\n\r\nlie..")),
        ("length is negative", ok("Content-Length: -3\r\n\r\nlie")),
        ("length has a sign", ok("Content-Length: +3\r\n\r\nlie")),
        ("length overflows", ok("Content-Length: 18446744073709551619\r\n\r\nlie")),
        ("coding that nobody knows", ok("Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nlie\r\n0\r\n\r\n")),
        ("chunked twice", ok("Transfer-Encoding: chunked, chunked\r\n\r\n3\r\nlie\r\n0\r\n\r\n")),
        ("flood of interim answers", "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n".repeat(2000) + &ok("Content-Length: 3\r\n\r\nlie")),
        ("switches protocols", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nlie".to_owned()),
        ("field bomb", many(5000)),
        ("129 fields", many(129)),
        ("70 kB value", ok(&format!("X: {}\r\nContent-Length: 3\r\n\r\nlie", "v".repeat(70_000)))),
        ("endless header line", ok(&format!("X: {}", "v".repeat(1 << 20)))),
        ("endless status line", format!("HTTP/1.1 200 {}", "O".repeat(1 << 20))),
        ("NUL in a value", ok("X: a\0b\r\nContent-Length: 3\r\n\r\nlie")),
        ("NUL in a name", ok("X\0: b\r\nContent-Length: 3\r\n\r\nlie")),
        ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 3\n\nlie".to_owned()),
        ("bare CR in a value", ok("X: a\rb\r\nContent-Length: 3\r\n\r\nlie")),
        ("folded line", ok("X: a\r\n b\r\nContent-Length: 3\r\n\r\nlie")),
        ("space before the colon", ok("Content-Length : 3\r\n\r\nlie")),
        ("no colon", ok("NoColon\r\nContent-Length: 3\r\n\r\nlie")),
        ("206 that nobody asked for", "HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-2/9\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\nlie".to_owned()),
        ("304 that nobody asked for", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_owned()),
        ("204 with a body", "HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\nlie".to_owned()),
        ("status 99", "HTTP/1.1 99 Low\r\nContent-Length: 3\r\n\r\nlie".to_owned()),
        ("status 600", "HTTP/1.1 600 High\r\nContent-Length: 3\r\n\r\nlie".to_owned()),
        ("status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 3\r\n\r\nlie".to_owned()),
        ("status is no number", "HTTP/1.1 2x0 OK\r\nContent-Length: 3\r\n\r\nlie".to_owned()),
        ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\nlie".to_owned()),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n".to_owned()),
        ("no head at all", "<html>lie</html>".to_owned()),
        ("nothing", String::new()),
        ("head cut off", "HTTP/1.1 200 OK\r\nContent-Le".to_owned()),
        ("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nlie\r\n0\r\n\r\n".to_owned()),
    ];
    texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect()
}

#[test]
fn nothing_that_a_lying_origin_sends_is_taken_for_whole() {
    // Goal: broken answers become 502 or a short connection, leave nothing stored and nothing on a kept connection.
    // Method: the table above, by GET, HEAD and a passed GET; then the origin tells the truth for the same path.
    let lies = lies();
    assert!(lies.len() >= 25);
    let count = lies.len();
    let names: Vec<&str> = lies.iter().map(|lie| lie.0).collect();
    let lying = Arc::new(AtomicBool::new(true));
    let flag = lying.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if !flag.load(Ordering::Relaxed) {
            let body = format!("truth of {}", asked.target());
            return reply(stream, 200, "Cache-Control: max-age=600\r\n", body.as_bytes());
        }
        let number: usize = asked.target().rsplit('/').next().unwrap().parse().unwrap();
        let _gone = stream.write_all(&lies[number].1);
        let _gone = stream.shutdown(Shutdown::Both);
    });
    let fleet = fleet("lies", &origin);
    let pids = ["edge-1", "parent-1"].map(|id| (id, fleet.member(id).pid()));
    let refused = |what: &str, outcome: std::io::Result<Response>| {
        if let Ok(response) = outcome {
            let (status, body) =
                (response.status, String::from_utf8_lossy(&response.body).into_owned());
            assert!(matches!(status, 502 | 504), "{what}: {status} {body:?}");
            assert!(response.field("retry-after").is_some(), "{what}");
            assert!(!body.contains("lie"), "{what}: {body}");
        }
    };
    for (number, name) in names.iter().enumerate() {
        lying.store(true, Ordering::Relaxed);
        let path = format!("/{number}");
        // A 304 or 206 that was not asked for is the passed client's own affair: it may have asked.
        let paths: &[String] = match *name {
            "304 that nobody asked for" | "206 that nobody asked for" => {
                std::slice::from_ref(&path)
            }
            _ => &[path.clone(), format!("/pass/{number}")],
        };
        for path in paths {
            refused(name, fleet.get("edge-1", path, ""));
            refused(name, fleet.get("edge-1", path, "Range: bytes=100-200\r\n"));
        }
        lying.store(false, Ordering::Relaxed);
        for (path, tries) in [(path.clone(), 2), (format!("/pass/{number}"), 1)] {
            for again in 0..tries {
                let response = fleet.get("edge-1", &path, "").unwrap();
                assert_eq!(response.status, 200, "{name}: {path} {again}");
                let body = String::from_utf8_lossy(&response.body);
                assert_eq!(body, format!("truth of {path}"), "{name} {again}");
                let hit = response.cache_status("edge-1").unwrap().contains("; hit");
                assert_eq!(hit, again == 1, "{name}: {path} {again}");
            }
        }
    }
    for (id, pid) in pids {
        healthy(&fleet, id, pid);
        assert_eq!(fleet.counter(id, "fills_open"), 0);
    }
    assert!(fleet.counter("parent-1", "fill_errors_total") as usize >= count - 5);
}

#[test]
fn bytes_behind_an_answer_never_become_the_next_answer() {
    // Goal: no response splitting by surplus. Method: the origin appends a forged answer to each good one and keeps
    // the connection open; 60 different paths must each get their own answer.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let body = format!("truth of {}", asked.target());
        let forged =
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 3\r\n\r\nlie";
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let _gone = stream.write_all(format!("{head}{body}{forged}").as_bytes());
    });
    let fleet = fleet("surplus", &origin);
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    for n in 0..60 {
        let path = if n % 2 == 0 { format!("/{n}") } else { format!("/pass/{n}") };
        let response = client.get(HOST, &path, "").unwrap();
        assert_eq!(String::from_utf8_lossy(&response.body), format!("truth of {path}"));
    }
}

#[test]
fn late_surplus_on_a_kept_connection_is_not_an_answer() {
    // Goal: what comes after an answer has ended belongs to nobody. Method: the origin writes a forged answer after
    // the good one was received whole and its connection went back to the pool.
    let gate = tidegate_e2e::Gate::default();
    let held = gate.clone();
    let sent = tidegate_e2e::Gate::default();
    let told = sent.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let body = format!("truth of {}", asked.target());
        reply(stream, 200, "Cache-Control: no-store\r\n", body.as_bytes());
        if asked.target() == "/first" {
            held.wait();
            reply(stream, 200, "Cache-Control: max-age=60\r\n", b"lie");
            told.open();
        }
    });
    let fleet = Fleet::start(
        "late",
        &FleetOptions {
            edges: 1,
            parents: 1,
            cores: 1,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    assert_eq!(fleet.get("edge-1", "/first", "").unwrap().body, b"truth of /first");
    gate.open();
    sent.wait();
    for n in 0..5 {
        let response = fleet.get("edge-1", &format!("/next{n}"), "").unwrap();
        assert_eq!(String::from_utf8_lossy(&response.body), format!("truth of /next{n}"));
    }
}

#[test]
fn responses_of_broken_clients_cost_nothing_lasting() {
    // Goal: clients that leave in the middle free what they held. Method: 300 clients ask for a large object and
    // close after its first bytes; then all gauges are back and the object is whole for the next one.
    let fleet =
        Fleet::start("leavers", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    let bytes = fleet.put("large.mp4", 5_000_000);
    let mut seen = HashSet::new();
    for n in 0..300 {
        let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
        client.send(format!("GET /large.mp4 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        if n % 3 > 0 {
            seen.insert(client.head().unwrap().status);
        }
    }
    assert_eq!(seen, HashSet::from([200]));
    fleet.until("all have left", |f| f.counter("edge-1", "connections_open") <= 1);
    fleet.until("fills end", |f| f.counter("edge-1", "fills_open") == 0);
    assert!(fleet.get("edge-1", "/large.mp4", "").unwrap().body == bytes);
    assert_eq!(bytes, content("large.mp4", 5_000_000));
    assert_eq!(fleet.counter("origin-1", "requests_total"), 1);
}
