//! What HTTP caching means here: freshness, revalidation, variants, negative answers, ranges, methods, and what is
//! never shared. Method: an origin that counts and answers by path; all tiers real; counters beside every answer.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{
    Asked, Connection, Fleet, FleetOptions, HandOrigin, Response, content, get, reply,
};
use tidegate_telemetry::ACCESS_LOG_FIELDS;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One edge, one parent, and an origin whose answers carry a serial number.
fn small(
    name: &str,
    answer: impl Fn(&Asked, usize) -> (u16, &'static str) + Send + Sync + 'static,
) -> (Fleet, HandOrigin) {
    let serial = AtomicUsize::new(0);
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let number = serial.fetch_add(1, Ordering::Relaxed);
        let (status, fields) = answer(asked, number);
        let body = format!("{} {number}", asked.target());
        let empty = matches!(status, 204 | 304) || asked.line.starts_with("HEAD ");
        reply(stream, status, fields, if empty { b"" } else { body.as_bytes() });
    });
    let fleet = Fleet::start(
        name,
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    (fleet, origin)
}

fn edge(fleet: &Fleet, path: &str, extra: &str) -> Response {
    fleet.get("edge-1", path, extra).unwrap()
}

/// A request that joins no fill of the one before, which ends a moment after its last byte has been read.
fn alone(fleet: &Fleet, path: &str) -> Response {
    let response = edge(fleet, path, "");
    fleet.settle("edge-1");
    fleet.settle("parent-1");
    response
}

fn edge_status(response: &Response) -> String {
    response.cache_status("edge-1").unwrap()
}

#[test]
fn freshness_comes_from_the_answer_and_decides_who_is_asked() {
    // Goal: RFC 9111 §4.2 over two tiers. Method: each kind of lifetime twice; the origin's count tells whether the
    // second request went through.
    let (fleet, origin) = small("fresh", |asked, _| {
        let fields = match asked.target() {
            "/max-age" => "Cache-Control: max-age=3600\r\n",
            "/s-maxage" => "Cache-Control: max-age=0, s-maxage=3600\r\n",
            "/s-maxage-0" => "Cache-Control: max-age=3600, s-maxage=0\r\nETag: \"t\"\r\n",
            "/expires" => {
                "Date: Fri, 01 Jan 2021 00:00:00 GMT\r\nExpires: Fri, 01 Jan 2100 00:00:00 GMT\r\n"
            }
            "/expired" => "Expires: 0\r\nETag: \"t\"\r\n",
            "/age-over" => "Cache-Control: max-age=100\r\nAge: 200\r\nETag: \"t\"\r\n",
            "/age-under" => "Cache-Control: max-age=300\r\nAge: 200\r\n",
            "/no-cache" => "Cache-Control: no-cache\r\nETag: \"t\"\r\n",
            "/no-store" => "Cache-Control: no-store\r\n",
            "/private" => "Cache-Control: private, max-age=3600\r\n",
            "/cookie" => "Cache-Control: max-age=3600\r\nSet-Cookie: a=b\r\n",
            "/vary-star" => "Cache-Control: max-age=3600\r\nVary: *\r\n",
            "/default" => "",
            other => panic!("{other}"),
        };
        (200, fields)
    });
    for (path, shared) in [
        ("/max-age", true),
        ("/s-maxage", true),
        ("/s-maxage-0", false),
        ("/expires", true),
        ("/expired", false),
        ("/age-over", false),
        ("/age-under", true),
        ("/no-cache", false),
        ("/no-store", false),
        ("/private", false),
        ("/cookie", false),
        ("/vary-star", false),
        ("/default", true),
    ] {
        let bodies: Vec<Response> = (0..3).map(|_| alone(&fleet, path)).collect();
        assert!(bodies.iter().all(|response| response.status == 200), "{path}");
        assert_eq!(origin.count_of(path), if shared { 1 } else { 3 }, "{path}");
        // Under one tag the edge keeps its bytes: this origin changes them without saying so.
        let tagged = bodies[0].field("etag").is_some();
        assert_eq!(bodies[0].body == bodies[2].body, shared || tagged, "{path}");
        let hit = edge_status(&bodies[2]).contains("; hit");
        assert_eq!(hit, shared, "{path}: {}", edge_status(&bodies[2]));
        if path == "/age-under" {
            let age: u64 = bodies[2].field("age").unwrap().parse().unwrap();
            assert!((200..300).contains(&age), "{age}");
        }
        if path == "/cookie" {
            assert_eq!(bodies[2].field("set-cookie"), Some("a=b"), "it is the client's own answer");
        }
    }
    assert_eq!(fleet.counter("edge-1", "hits_total"), 5 * 2);
    // A reload by a client is not a request to the origin.
    for extra in
        ["Cache-Control: no-cache\r\n", "Cache-Control: max-age=0\r\n", "Pragma: no-cache\r\n"]
    {
        assert!(edge_status(&edge(&fleet, "/max-age", extra)).contains("; hit"), "{extra}");
    }
    assert_eq!(origin.count_of("/max-age"), 1);
}

#[test]
fn a_304_confirms_merges_fields_and_makes_young_again() {
    // Goal: RFC 9111 §4.3. Method: an object that is stale at once and then confirmed for an hour; the conditions that
    // the origin saw, the merged fields and the hit that follows.
    let (fleet, origin) = small("confirm", |asked, _| match asked.field("if-none-match") {
        "" => (200, "ETag: \"v1\"\r\nCache-Control: max-age=0\r\nX-Note: old\r\nX-Kept: yes\r\n"),
        _ => (304, "ETag: \"v1\"\r\nCache-Control: max-age=3600\r\nX-Note: new\r\n"),
    });
    let first = alone(&fleet, "/a");
    assert_eq!((first.status, first.field("x-note")), (200, Some("old")));
    let second = alone(&fleet, "/a");
    assert_eq!((second.status, second.field("x-kept")), (200, Some("yes")));
    assert_eq!(second.field("cache-control"), Some("max-age=3600"));
    assert!(second.body == first.body, "the body is the stored one");
    assert!(edge_status(&second).contains("fwd=stale; fwd-status=304"), "{}", edge_status(&second));
    let third = edge(&fleet, "/a", "");
    assert!(edge_status(&third).contains("; hit"), "{}", edge_status(&third));
    assert_eq!(
        (third.field("cache-control"), third.body == first.body),
        (Some("max-age=3600"), true)
    );
    // A 304 between tiers carries the fields of RFC 9110 §15.4.5 only: others are new where the origin was asked.
    let parent = fleet.get("parent-1", "/a", "").unwrap();
    assert_eq!((parent.field("x-note"), parent.field("x-kept")), (Some("new"), Some("yes")));
    assert!(third.field("age").unwrap().parse::<u64>().unwrap() < 100);
    let asked = origin.all();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].field("if-none-match"), "\"v1\"");
    assert_eq!(fleet.counter("edge-1", "revalidated_total"), 1);
    assert_eq!(fleet.counter("parent-1", "revalidated_total"), 1);
    // The confirmation outlives the process when its body does.
    let mut fleet = fleet;
    fleet.settle("edge-1");
    fleet.restart("edge-1");
    let after = edge(&fleet, "/a", "");
    assert!(after.body == first.body && edge_status(&after).contains("; hit"));
    assert_eq!(after.field("cache-control"), Some("max-age=3600"));
}

#[test]
fn a_changed_object_is_replaced_when_it_is_asked_about() {
    // Goal: revalidation that finds a new version stores it. Method: a new tag and body on each conditional request.
    let (fleet, origin) = small("replace", |_, number| {
        (
            200,
            [
                "ETag: \"a\"\r\nCache-Control: max-age=0\r\n",
                "ETag: \"b\"\r\nCache-Control: max-age=0\r\n",
            ][number % 2],
        )
    });
    for n in 0..6 {
        let response = alone(&fleet, "/x");
        assert_eq!(String::from_utf8_lossy(&response.body), format!("/x {n}"));
    }
    assert_eq!(origin.count(), 6);
    let wanted = ["", "\"a\"", "\"b\"", "\"a\"", "\"b\"", "\"a\""];
    let asked: Vec<String> =
        origin.all().iter().map(|asked| asked.field("if-none-match").to_owned()).collect();
    assert_eq!(asked, wanted);
}

#[test]
fn what_belongs_to_one_client_is_never_given_to_another() {
    // Goal: credentials. Method: two clients with and without Authorization and cookies; the origin echoes a serial.
    let (fleet, origin) = small("own", |asked, _| match asked.field("authorization") {
        "" => (200, "Cache-Control: max-age=3600\r\n"),
        _ => (200, "Cache-Control: max-age=3600\r\nX-Authorized: yes\r\n"),
    });
    let ann = edge(&fleet, "/a", "Authorization: Basic YW5u\r\n");
    let bob = edge(&fleet, "/a", "Authorization: Basic Ym9i\r\n");
    let eve = edge(&fleet, "/a", "");
    let eve2 = edge(&fleet, "/a", "Cookie: id=eve\r\n");
    assert_eq!(ann.field("x-authorized"), Some("yes"));
    assert_eq!(eve.field("x-authorized"), None);
    assert!(ann.body != bob.body && bob.body != eve.body && ann.body != eve.body);
    assert!(eve.body == eve2.body, "a cookie that nobody varies on changes nothing");
    let asked = origin.all();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].field("authorization"), "Basic YW5u");
    assert_eq!(asked[2].field("authorization"), "");
    assert_eq!(asked[2].field("cookie"), "", "no word of a client's gets into a shared answer");
    // And behind a tier that has nothing stored yet.
    let strange =
        edge(&fleet, "/b", "Cookie: id=eve\r\nX-Forwarded-Host: evil\r\nX-Original-URL: /c\r\n");
    assert_eq!(strange.body, b"/b 3");
    for name in ["cookie", "x-forwarded-host", "x-original-url"] {
        assert_eq!(origin.all()[3].field(name), "", "{name}");
    }
    for name in ["x-forwarded-host", "x-original-url"] {
        let _own = edge(&fleet, "/pass/b", &format!("{name}: evil\r\n"));
        assert_eq!(origin.all().last().unwrap().field(name), "", "{name}");
    }
}

#[test]
fn variants_are_told_apart_by_what_the_next_hop_was_sent() {
    // Goal: Vary neither mixes nor breaks. Method: fills carry no client field, so an object that varies on one is
    // one object; Vary on a field of our own likewise.
    let (fleet, origin) = small("vary", |asked, _| match asked.target() {
        "/origin" => (200, "Cache-Control: max-age=3600\r\nVary: Origin\r\n"),
        _ => (200, "Cache-Control: max-age=3600\r\nVary: Accept-Encoding, User-Agent\r\n"),
    });
    for path in ["/origin", "/encoding"] {
        let bodies: Vec<Vec<u8>> =
            ["", "Origin: https://a\r\n", "Accept-Encoding: br\r\nUser-Agent: x\r\n"]
                .iter()
                .map(|extra| {
                    let response = edge(&fleet, path, extra);
                    assert!(response.field("vary").is_some());
                    response.body
                })
                .collect();
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{path}");
        assert_eq!(origin.count_of(path), 1);
    }
    for asked in origin.all() {
        for name in ["origin", "accept-encoding", "user-agent"] {
            assert_eq!(asked.field(name), "");
        }
    }
}

#[test]
fn negative_answers_live_shortly_and_errors_do_not_live_at_all() {
    // Goal: an error is not content. Method: each status twice; 404 with an hour's lifetime lives for the behaviour's
    // second only (which may or may not have passed), 5xx and others are asked again each time.
    let (fleet, origin) = small("negative", |asked, _| {
        let status = asked.target()[1..].parse().unwrap();
        (status, "Cache-Control: max-age=3600\r\n")
    });
    for status in [404, 410] {
        let path = format!("/{status}");
        let first = edge(&fleet, &path, "");
        assert_eq!(first.status, status);
        let second = edge(&fleet, &path, "Range: bytes=0-1\r\n");
        assert_eq!(second.status, status, "no part of an error");
        fleet.until("the negative answer ends", |fleet| {
            let response = edge(fleet, &path, "");
            assert_eq!(response.status, status);
            response.body != first.body
        });
    }
    for status in [400, 403, 500, 503] {
        let path = format!("/{status}");
        for _again in 0..2 {
            assert_eq!(edge(&fleet, &path, "").status, status);
        }
        assert_eq!(origin.count_of(&path), 2, "{path}");
    }
    for status in [301, 308, 204, 300] {
        let path = format!("/{status}");
        for _again in 0..2 {
            assert_eq!(edge(&fleet, &path, "").status, status);
        }
        assert_eq!(origin.count_of(&path), 1, "{path}");
    }
}

#[test]
fn ranges_and_conditions_are_answered_from_one_object() {
    // Goal: RFC 9110 §13 and §14 at an edge. Method: a real file; all forms of range and condition, before and after
    // it is stored; the origin is asked once.
    let fleet =
        Fleet::start("ranges", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    let total = 700_000;
    let bytes = fleet.put("r.mp4", total);
    let cold = edge(&fleet, "/r.mp4", "Range: bytes=600000-600009\r\n");
    assert_eq!((cold.status, &cold.body[..]), (206, &bytes[600_000..600_010]));
    let tag = cold.field("etag").unwrap().to_owned();
    let date = cold.field("last-modified").unwrap().to_owned();
    for (range, expected) in [
        ("bytes=0-0", Some((0, 0))),
        ("bytes=-5", Some((total - 5, total - 1))),
        ("bytes=-999999999", Some((0, total - 1))),
        ("bytes=699999-", Some((total - 1, total - 1))),
        ("bytes=10-99999999", Some((10, total - 1))),
        ("BYTES=1-2", Some((1, 2))),
        ("bytes=5-2", None),
        ("bytes=a-b", None),
        ("bytes=", None),
        ("lines=1-2", None),
    ] {
        let response = edge(&fleet, "/r.mp4", &format!("Range: {range}\r\n"));
        match expected {
            Some((first, last)) => {
                assert_eq!(response.status, 206, "{range}");
                assert!(response.body == bytes[first..=last], "{range}");
                let described = format!("bytes {first}-{last}/{total}");
                assert_eq!(response.field("content-range"), Some(described.as_str()));
            }
            // RFC 9110 §14.2: what is no range may be ignored or refused.
            None => {
                assert!(matches!(response.status, 200 | 416), "{range}: {}", response.status);
                assert!(response.status == 416 || response.body == bytes, "{range}");
            }
        }
    }
    for range in ["bytes=700000-", "bytes=999999999-", "bytes=-0"] {
        let response = edge(&fleet, "/r.mp4", &format!("Range: {range}\r\n"));
        assert_eq!(response.status, 416, "{range}");
        assert_eq!(response.field("content-range"), Some("bytes */700000"));
    }
    for (condition, status) in [
        (format!("If-Range: {tag}\r\nRange: bytes=0-9\r\n"), 206),
        ("If-Range: \"other\"\r\nRange: bytes=0-9\r\n".to_owned(), 200),
        (format!("If-Range: W/{tag}\r\nRange: bytes=0-9\r\n"), 200),
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-None-Match: W/{tag}\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"other\"\r\n".to_owned(), 200),
        (format!("If-Modified-Since: {date}\r\n"), 304),
        (format!("If-None-Match: \"other\"\r\nIf-Modified-Since: {date}\r\n"), 200),
        (format!("If-None-Match: {tag}\r\nRange: bytes=0-9\r\n"), 304),
    ] {
        let response = edge(&fleet, "/r.mp4", &condition);
        assert_eq!(response.status, status, "{condition}");
        if status == 304 {
            assert!(response.body.is_empty() && response.field("etag") == Some(&tag));
            assert!(response.field("content-type").is_none());
        }
    }
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client
        .send(
            format!("HEAD /r.mp4 HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=0-9\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let head = client.response(true).unwrap();
    assert_eq!((head.status, head.field("content-length")), (200, Some("700000")));
    client.send(format!("HEAD /none HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.response(true).unwrap().status, 404);
    assert!(client.get(HOST, "/r.mp4", "").unwrap().body == bytes, "HEAD leaves no body behind");
    // Its first block, its second, and the question for the path that is not there.
    assert_eq!(fleet.counter("origin-1", "requests_total"), 3);
}

#[test]
fn an_object_without_a_strong_tag_that_was_evicted_is_filled_anew() {
    // Goal: what cannot be completed is not offered. Method: objects with no or only weak validators, larger together
    // than a RAM tier without store; each answer must be whole.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let fields = match asked.target().as_bytes()[1] % 3 {
            0 => "Cache-Control: max-age=3600\r\n",
            1 => "Cache-Control: max-age=3600\r\nETag: W/\"weak\"\r\n",
            _ => "Cache-Control: max-age=3600\r\nLast-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\n",
        };
        reply(stream, 200, fields, &content(asked.target(), 900_000));
    });
    let fleet = Fleet::start(
        "untagged",
        &FleetOptions {
            edges: 1,
            parents: 1,
            ram_bytes: 3 << 20,
            store_bytes: None,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    for round in 0..3 {
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let path = format!("/{name}");
            let response = edge(&fleet, &path, "");
            assert_eq!(response.status, 200);
            assert!(response.body == content(&path, 900_000), "{path} in round {round}");
        }
    }
}

#[test]
fn only_if_cached_methods_hosts_and_loops_are_answered_here() {
    // Goal: what the edge answers by itself. Method: each case with its status and fields; the origin sees none.
    let (fleet, origin) = small("local", |_, _| (200, "Cache-Control: max-age=3600\r\n"));
    let address = fleet.member("edge-1").http();
    let ask = |request: &str| {
        let mut client = Connection::open(address).unwrap();
        client.send(request.as_bytes()).unwrap();
        client.response(request.starts_with("HEAD")).unwrap()
    };
    assert_eq!(edge(&fleet, "/a", "Cache-Control: only-if-cached\r\n").status, 504);
    let put = ask(&format!("PUT /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!((put.status, put.field("allow")), (405, Some("GET, HEAD, OPTIONS, POST")));
    let preflight = ask(&format!(
        "OPTIONS /a HTTP/1.1\r\nHost: {HOST}\r\nOrigin: https://p\r\nAccess-Control-Request-Method: GET\r\n\r\n"
    ));
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.field("access-control-allow-origin"), Some("*"));
    assert!(preflight.field("access-control-allow-methods").unwrap().contains("GET"));
    assert_eq!(ask("GET /a HTTP/1.1\r\nHost: nobody.example\r\n\r\n").status, 404);
    for path in ["/../etc/passwd", "/%2e%2e/etc/passwd", "/%00"] {
        let status = edge(&fleet, path, "").status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    for id in ["edge-1", "parent-1"] {
        let looped =
            get(fleet.member(id).http(), HOST, "/a", &format!("CDN-Loop: x, {id}\r\n")).unwrap();
        assert_eq!(looped.status, 508, "{id}");
    }
    let long = "Via: 1.1 a, 1.1 b, 1.1 c, 1.1 d, 1.1 e, 1.1 f, 1.1 g, 1.1 h, 1.1 i\r\n";
    assert_eq!(edge(&fleet, "/a", long).status, 508);
    assert_eq!(ask(&format!("TRACE /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).status, 405);
    assert_eq!(origin.count(), 0);
    assert_eq!(edge(&fleet, "/a", "").status, 200);
    assert_eq!(edge(&fleet, "/a", "Cache-Control: only-if-cached\r\n").status, 200);
    // The loop fields of a client go along, so that whoever closes a loop sees it.
    let _own = edge(&fleet, "/pass/x", "CDN-Loop: other\r\nVia: 1.1 other\r\n");
    let asked = origin.all();
    assert_eq!(asked.last().unwrap().field("cdn-loop"), "other, edge-1, parent-1");
    assert_eq!(asked.last().unwrap().field("via"), "1.1 other, 1.1 edge-1, 1.1 parent-1");
}

#[test]
fn a_post_that_goes_well_makes_what_is_stored_invalid() {
    // Goal: RFC 9111 §4.4. Method: a stored object, a POST to its path that fails and one that goes well.
    let (fleet, origin) = small("invalidate", |asked, _| match asked.line.split(' ').next() {
        Some("POST") if asked.body == b"bad" => (403, ""),
        Some("POST") => (200, "Cache-Control: no-store\r\n"),
        _ => (200, "Cache-Control: max-age=3600\r\nETag: \"v\"\r\n"),
    });
    let first = edge(&fleet, "/a", "").body;
    let post = |fleet: &Fleet, body: &str| {
        let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
        let length = body.len();
        client
            .send(
                format!(
                    "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{body}"
                )
                .as_bytes(),
            )
            .unwrap();
        client.response(false).unwrap().status
    };
    assert_eq!(post(&fleet, "bad"), 403);
    assert!(edge(&fleet, "/a", "").body == first);
    assert_eq!(post(&fleet, "good"), 200);
    let second = edge(&fleet, "/a", "");
    assert!(second.body != first, "both tiers have forgotten it");
    assert!(edge(&fleet, "/a", "").body == second.body);
    assert_eq!(origin.count_of("/a"), 4);
    // The object lies in the stores when it is made invalid: it stays so over a restart.
    let mut fleet = fleet;
    for id in ["edge-1", "parent-1"] {
        fleet.settle(id);
    }
    assert_eq!(post(&fleet, "good"), 200);
    for id in ["edge-1", "parent-1"] {
        fleet.settle(id);
        fleet.restart(id);
    }
    let third = edge(&fleet, "/a", "");
    assert!(third.body != second.body, "{}", edge_status(&third));
    assert_eq!(origin.count_of("/a"), 6);
}

#[test]
fn what_a_post_made_invalid_does_not_come_back_after_a_kill_right_behind_its_answer() {
    // Goal: who was told that a change went through never sees the old content again. Method: an object that lies in both
    // stores; a POST, and kill -9 of both tiers as soon as its answer is here; an object with alternates likewise.
    let (mut fleet, _origin) = small("post-kill", |asked, _| match asked.line.split(' ').next() {
        Some("POST") => (200, "Cache-Control: no-store\r\n"),
        _ if asked.target() == "/varies" => {
            (200, "Cache-Control: max-age=3600\r\nVary: Accept-Language\r\n")
        }
        _ => (200, "Cache-Control: max-age=3600\r\n"),
    });
    for (round, path) in ["/one", "/varies", "/one", "/varies"].into_iter().enumerate() {
        let language = "Accept-Language: de\r\n";
        let before = edge(&fleet, path, language).body;
        for id in ["edge-1", "parent-1"] {
            fleet.settle(id);
        }
        let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
        let post = format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n");
        client.send(post.as_bytes()).unwrap();
        assert_eq!(client.response(false).unwrap().status, 200);
        for id in ["edge-1", "parent-1"] {
            fleet.kill(id);
        }
        for id in ["parent-1", "edge-1"] {
            fleet.restart(id);
        }
        let after = edge(&fleet, path, language);
        assert!(after.body != before, "{path} in round {round}: {}", edge_status(&after));
    }
}

#[test]
fn the_origin_directory_has_no_way_out() {
    // Goal: no path leaves the root. Method: raw paths in all disguises and symbolic links, straight at the origin and
    // through the edge; a secret lies beside the directory.
    let fleet =
        Fleet::start("escape", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    fs::write(fleet.dir.join("secret"), "secret").unwrap();
    fs::create_dir_all(fleet.origin_dir().join("sub")).unwrap();
    std::os::unix::fs::symlink(fleet.dir.join("secret"), fleet.origin_dir().join("link")).unwrap();
    std::os::unix::fs::symlink(&fleet.dir, fleet.origin_dir().join("up")).unwrap();
    fs::write(fleet.origin_dir().join(".hidden"), "secret").unwrap();
    fleet.put("good.mp4", 10);
    std::os::unix::fs::symlink("good.mp4", fleet.origin_dir().join("alias.mp4")).unwrap();
    for id in ["origin-1", "edge-1"] {
        for path in [
            "/../secret",
            "/sub/../../secret",
            "/%2e%2e/secret",
            "/%2E%2e/secret",
            "/.%2e/secret",
            "/..%2fsecret",
            "/sub%2f..%2f..%2fsecret",
            "/%2fetc/passwd",
            "//etc/passwd",
            "/..%5csecret",
            "/..\\secret",
            "/%252e%252e/secret",
            "/link",
            "/up/secret",
            "/up/snapshot",
            "/.hidden",
            "/%2ehidden",
            "/sub",
            "/sub/",
            "/",
            "/good.mp4/",
            "/good.mp4%00",
            "/%c0%ae%c0%ae/secret",
            "/./../secret",
            "/.../secret",
            "/good.mp4/../../secret",
        ] {
            let response = fleet.get(id, path, "").unwrap();
            assert!(matches!(response.status, 400 | 404), "{id} {path}: {}", response.status);
            assert!(!response.body.windows(6).any(|w| w == b"secret"), "{id} {path}");
        }
        for path in ["/good.mp4", "/alias.mp4", "/sub/../good.mp4", "/%67ood.mp4"] {
            assert_eq!(fleet.get(id, path, "").unwrap().status, 200, "{id} {path}");
        }
    }
}

fn explain(fleet: &Fleet, id: &str, query: &str) -> serde_json::Value {
    let response = get(fleet.member(id).admin(), "x", &format!("/explain?{query}"), "").unwrap();
    serde_json::from_slice(&response.body).unwrap()
}

#[test]
fn explain_says_what_then_happens() {
    // Goal: the explanation is the behaviour. Method: ask /explain before and after each request and compare verdict,
    // rule, key and next hop with Cache-Status, log and counters.
    let fleet = Fleet::start("explain", &FleetOptions::default());
    for n in 0..6 {
        fleet.put(&format!("e{n}.mp4"), 1000);
    }
    for n in 0..6 {
        let query = format!("host={HOST}&path=%2Fe{n}.mp4%3Ftoken%3Dsecret%26b%3D2%26a%3D1");
        let before = explain(&fleet, "edge-1", &query);
        assert_eq!(before["delivery_service"], "film");
        assert_eq!(before["behaviour"]["name"], "all");
        assert_eq!(before["cache_key"]["text"], format!("film/e{n}.mp4?a=1&b=2"));
        assert_eq!(before["next_target"], format!("/e{n}.mp4?a=1&b=2"));
        assert!(
            before["verdict"].as_str().unwrap().starts_with("fill from the next hop (uri-miss)")
        );
        assert!(before["stored"].is_null());
        let hop = before["next_hops"][0]["id"].as_str().unwrap().to_owned();
        let asked = fleet.counter(&hop, "requests_total");
        let response = edge(&fleet, &format!("/e{n}.mp4?token=other&b=2&a=1"), "");
        assert!(edge_status(&response).contains("fwd=uri-miss"));
        assert_eq!(
            fleet.counter(&hop, "requests_total"),
            asked + 1,
            "the first next hop was asked"
        );
        let after = explain(&fleet, "edge-1", &query);
        assert!(after["verdict"].as_str().unwrap().starts_with("hit, age "), "{after}");
        assert_eq!(after["stored"]["length"], 1000);
        assert_eq!(after["stored"]["etag"], response.field("etag").unwrap());
        assert!(edge_status(&edge(&fleet, &format!("/e{n}.mp4?a=1&b=2"), "")).contains("; hit"));
    }
    let pass = explain(&fleet, "edge-1", &format!("host={HOST}&path=/pass/x"));
    assert_eq!(pass["behaviour"]["name"], "pass");
    assert!(pass["verdict"].as_str().unwrap().starts_with("pass to the next hop"));
    let stranger = explain(&fleet, "edge-1", "host=nobody.example&path=/x");
    assert!(stranger["answer"].as_str().unwrap().starts_with("404"));
    let parent = explain(&fleet, "parent-1", &format!("host={HOST}&path=/x"));
    assert_eq!(parent["next_hops"][0]["id"], "origin-1");
}

/// Checks a page of Prometheus text; gives the samples.
fn prometheus(text: &str) -> Vec<(String, f64)> {
    let mut typed = std::collections::HashMap::new();
    let mut samples: Vec<(String, f64)> = Vec::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(typed.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else if line.starts_with("# HELP ") {
            assert!(line.split(' ').count() > 3, "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            let labels = labels.strip_suffix('}').unwrap();
            for label in labels.split(',') {
                let (key, quoted) = label.split_once('=').unwrap();
                assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
                assert!(quoted.len() >= 2 && quoted.starts_with('"') && quoted.ends_with('"'));
            }
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known =
                typed.contains_key(name) || base.is_some_and(|base| typed[base] == "histogram");
            assert!(known, "no TYPE before {line}");
            assert!(samples.iter().all(|(seen, _)| seen != series), "twice: {series}");
            samples.push((series.to_owned(), value.parse().unwrap()));
        }
    }
    samples
}

#[test]
fn metrics_and_access_log_can_be_read_by_machines() {
    // Goal: formats. Method: traffic of all kinds with hostile texts in it; the metrics page by a small checker of its
    // own, every log line as JSON with exactly the known fields, in order.
    let fleet =
        Fleet::start("formats", &FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() });
    fleet.put("a.mp4", 10_000);
    for extra in [
        "",
        "User-Agent: \"quoted\\\" \u{e9}\r\n",
        "Range: bytes=0-9\r\n",
        "User-Agent: a\tb</script>\r\n",
        "Cache-Control: only-if-cached\r\n",
        "CDN-Loop: edge-1\r\n",
    ] {
        for path in ["/a.mp4", "/a.mp4?token=secret", "/none", "/pass/a.mp4", "/%22quote%22"] {
            let _any = edge(&fleet, path, extra);
        }
    }
    let requests = 30;
    fleet.until("all are counted", |f| f.counter("edge-1", "requests_total") == requests);
    let page = get(fleet.member("edge-1").admin(), "x", "/metrics", "").unwrap();
    assert!(page.field("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let samples = prometheus(std::str::from_utf8(&page.body).unwrap());
    let value = |name: &str| {
        samples.iter().find(|(series, _)| series.starts_with(&format!("{name}{{"))).unwrap().1
    };
    assert_eq!(value("tidegate_requests_total"), requests as f64);
    assert_eq!(value("tidegate_snapshot_generation"), 1.0);
    let answered = ["2xx", "3xx", "4xx", "5xx"]
        .iter()
        .map(|class| value(&format!("tidegate_responses_{class}_total")))
        .sum::<f64>();
    assert_eq!(answered, requests as f64);
    let buckets: Vec<f64> = samples
        .iter()
        .filter(|(series, _)| series.starts_with("tidegate_first_byte_seconds_bucket"))
        .map(|(_, value)| *value)
        .collect();
    assert!(buckets.len() > 5 && buckets.is_sorted(), "{buckets:?}");
    let path = fleet.dir.join("edge-1.log");
    let lines = || fs::read_to_string(&path).unwrap_or_default();
    fleet.until("the log is written", |_| lines().lines().count() >= requests as usize);
    let text = lines();
    assert!(!text.contains("secret"), "a token in the log");
    let known: Vec<&str> = ACCESS_LOG_FIELDS.iter().map(|field| field.name).collect();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let object = value.as_object().unwrap();
        for name in object.keys() {
            assert!(known.contains(&name.as_str()), "{name} in {line}");
        }
        for name in ["unix_ms", "node", "tier", "method", "host", "path", "status", "duration_us"] {
            assert!(object.contains_key(name), "no {name} in {line}");
        }
        assert_eq!((&value["node"], &value["tier"]), (&"edge-1".into(), &"edge".into()));
        assert!(value["status"].as_u64().unwrap() >= 200);
    }
    assert_eq!(text.lines().count(), requests as usize);
}

#[test]
fn clients_are_obeyed_where_a_behaviour_says_so() {
    // Goal: `obey_clients` reaches the origin through both tiers, and costs nobody else anything. Method: an origin that
    // confirms; requests with and without words of their own.
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let status = if asked.fields.contains_key("if-none-match") { 304 } else { 200 };
        let body: &[u8] = if status == 200 { b"film" } else { b"" };
        reply(stream, status, "ETag: \"1\"\r\nCache-Control: max-age=600\r\n", body);
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        adjust: |snapshot| {
            let behaviours = &mut snapshot.delivery_services[0].behaviours;
            behaviours.iter_mut().for_each(|behaviour| behaviour.obey_clients = true);
        },
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("obeyed", &options);
    for (words, asked) in [
        ("", 1),
        ("", 1),
        ("Cache-Control: no-cache\r\n", 2),
        ("Pragma: no-cache\r\n", 3),
        ("Cache-Control: min-fresh=700\r\n", 4),
        ("Cache-Control: max-age=500\r\n", 4),
        ("", 4),
    ] {
        let response = fleet.get("edge-1", "/a", words).unwrap();
        assert_eq!((response.status, &response.body[..]), (200, &b"film"[..]), "{words}");
        assert_eq!(origin.count(), asked, "{words}");
        fleet.settle("edge-1");
    }
    let last = origin.all().pop().unwrap();
    assert_eq!((last.field("if-none-match"), last.field("cache-control")), ("\"1\"", "no-cache"));
}
