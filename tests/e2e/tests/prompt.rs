//! Hits that wait for nobody (`dataplane/engine/src/prompt.rs`) beside the same hits by all steps: nobody can tell which way his
//! answer went. Method: a request that shows a token which is none goes through the steps, and changes nothing; each answer
//! and each line of the log is held against that of the same request without it.

use std::net::{IpAddr, Ipv4Addr};
use tidegate_contract::{HeaderRule, Redirect, Snapshot};
use tidegate_e2e::fleet::{HOST, behaviour};
use tidegate_e2e::{Connection, Fleet, FleetOptions, HandOrigin, Response, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BLOCK_BYTES: usize = 512 << 10;
/// Nobody's token: asks for nothing, and has to be looked at.
const LONG_WAY: &str = "Tidegate-Debug: none\r\n";

fn adjust(snapshot: &mut Snapshot) {
    let service = &mut snapshot.delivery_services[0];
    service.debug_token_sha256 = Some("ab".repeat(32));
    let mut text = behaviour("text", "/text/*", true, 60);
    text.compress = true;
    for behaviour in &mut service.behaviours {
        behaviour.negative_ttl_seconds = 3600;
    }
    let mut told = behaviour("told", "/told/*", true, 60);
    told.pacing.cmcd = true;
    told.pacing.rate_max_kbps = Some(8_000_000);
    let mut ruled = behaviour("ruled", "/ruled/*", true, 60);
    ruled.cors_allow_origin = Some("*".to_owned());
    ruled.response_headers =
        vec![HeaderRule::Set { name: "X-Own".to_owned(), value: "yes".to_owned() }];
    let mut secure = behaviour("secure", "/secure/*", true, 60);
    secure.redirect = Some(Redirect {
        to: "https://{host}{path}{query}".to_owned(),
        status: 308,
        only_http: true,
    });
    let mut obeying = behaviour("obeying", "/obeying/*", true, 60);
    obeying.obey_clients = true;
    service.behaviours.splice(0..0, [text, told, ruled, secure, obeying]);
}

/// Paths, and whether a plain hit of each waits for nobody.
const PATHS: [(&str, bool); 16] = [
    ("/plain", true),
    ("/plain?a=1", true),
    ("/one-block", true),
    ("/two-blocks", false),
    ("/empty", false),
    ("/missing", true),
    ("/moved", true),
    ("/no-content", false),
    ("/varies", false),
    ("/text/a", true),
    ("/text/small", true),
    ("/told/a", true),
    ("/ruled/a", true),
    ("/secure/a", false),
    ("/obeying/a", true),
    ("/stale", false),
];

fn origin() -> HandOrigin {
    HandOrigin::start(LOCAL, |asked, stream| {
        let long = "Cache-Control: max-age=3600\r\nETag: \"v1\"\r\nSurrogate-Key: a b\r\n";
        let fields = |more: &str| format!("{long}{more}");
        let path = asked.target().split('?').next().unwrap_or_default();
        let (status, fields, len) = match path {
            "/one-block" => (200, fields("Content-Type: video/mp4\r\n"), BLOCK_BYTES),
            "/two-blocks" => (200, fields(""), BLOCK_BYTES + 1),
            "/empty" => (200, fields(""), 0),
            "/missing" => (404, fields(""), 9),
            "/moved" => (301, fields("Location: /plain\r\n"), 9),
            "/no-content" => (204, fields(""), 0),
            "/varies" => (200, fields("Vary: X-Kind\r\n"), 20),
            "/text/a" => (200, fields("Content-Type: text/vtt\r\n"), 2000),
            "/text/small" => (200, fields("Content-Type: text/vtt\r\n"), 100),
            "/stale" => {
                let age = "Cache-Control: max-age=10, stale-while-revalidate=3600\r\nAge: 100\r\n";
                (200, format!("{age}ETag: \"s\"\r\n"), 20)
            }
            _ => (200, fields("Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\n"), 1000),
        };
        let status = match asked.field("if-none-match") {
            "\"s\"" => 503,
            _ => status,
        };
        reply(stream, status, &fields, &vec![b'x'; len]);
    })
}

/// All of an answer that does not change by itself from one moment to the next.
fn lasting(response: &Response) -> (u16, Vec<String>, &[u8]) {
    let moves = |line: &str| {
        let mut parts = line.split("; ").filter(|part| !part.starts_with("ttl="));
        parts.by_ref().collect::<Vec<_>>().join("; ")
    };
    let fields = response.fields.iter().filter(|(name, _)| name != "age" && name != "date");
    let lines = fields.map(|(name, value)| moves(&format!("{name}: {value}"))).collect();
    (response.status, lines, &response.body)
}

/// What the edge's log says of its first requests, without what changes by itself.
fn logged(fleet: &Fleet, count: usize) -> Vec<serde_json::Value> {
    let path = fleet.dir.join("edge-1.log");
    let read = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    fleet.until("the log has all lines", |_| read().len() >= count);
    let mut lines = read();
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for name in ["unix_ms", "duration_us", "first_byte_us", "fill_us", "client"] {
            line.remove(name);
        }
        let status = line.get_mut("cache_status").map(serde_json::Value::take);
        let status = status.as_ref().and_then(|status| status.as_str()).unwrap_or_default();
        let lasts: Vec<_> = status.split("; ").filter(|p| !p.starts_with("ttl=")).collect();
        line.insert("cache_status".to_owned(), lasts.join("; ").into());
    }
    lines
}

#[test]
fn nobody_can_tell_whether_an_answer_was_prompt() {
    // Goal: a hit is the same, whichever way it went, and is logged and counted the same. Method: each path warm, with
    // requests of many kinds, over HTTP and HTTPS, once plain and once by all steps.
    let origin = origin();
    let fleet = Fleet::start(
        "prompt",
        &FleetOptions {
            edges: 1,
            parents: 1,
            https: true,
            origin: Some(origin.address),
            adjust,
            cores: 1, // so that lines of the log are in order
            ..FleetOptions::default()
        },
    );
    let edge = fleet.member("edge-1");
    let tls = fleet.tls.clone().unwrap();
    let kinds = [
        "",
        "User-Agent: a\r\nAccept: */*\r\nReferer: http://b/\r\nCookie: c=1\r\n",
        "Range: bytes=2-5\r\n",
        "Range: bytes=0-\r\n",
        "If-None-Match: \"v1\"\r\n",
        "If-None-Match: \"other\"\r\n",
        "Accept-Encoding: gzip\r\n",
        "CMCD-Session: v=1,sid=\"s\"\r\nCMCD-Object: br=1000\r\n",
        "Cache-Control: no-cache\r\n",
        "Cache-Control: only-if-cached\r\n",
        "Via: 1.1 other\r\nCDN-Loop: other\r\n",
        "CDN-Loop: edge-1\r\n",
        "Authorization: Basic YTpi\r\n",
    ];
    let (mut asked, mut pairs) = (0, Vec::new());
    for secure in [false, true] {
        let mut client = match secure {
            false => Connection::open(edge.http()).unwrap(),
            true => Connection::open_tls(edge.https(), tls.clone()).unwrap(),
        };
        let mut ask = |method: &str, path: &str, fields: &str| {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
            client.send(head.as_bytes()).unwrap();
            client.response(method == "HEAD").unwrap()
        };
        for (path, may_be_prompt) in PATHS {
            for _ in 0..2 {
                ask("GET", path, "");
                asked += 1;
            }
            for (method, fields) in
                kinds.map(|kind| ("GET", kind)).into_iter().chain([("HEAD", "")])
            {
                let prompt_hits = || fleet.counter("edge-1", "prompt_hits_total");
                let hits = || fleet.counter("edge-1", "hits_total");
                let what = format!("{method} {path} {secure} {fields:?}");
                let before = (prompt_hits(), hits());
                let plain = ask(method, path, fields);
                // Answers of which the next hop is asked for may differ by what it says.
                let between = (prompt_hits(), hits());
                let long = ask(method, path, &format!("{fields}{LONG_WAY}"));
                let after = (prompt_hits(), hits());
                asked += 2;
                assert_eq!(lasting(&plain), lasting(&long), "{what}");
                assert_eq!(between.1 - before.1, after.1 - between.1, "{what}");
                assert_eq!(after.0, between.0, "{what}: it has gone through the steps");
                // Over HTTPS there is nothing to redirect.
                let is_prompt = may_be_prompt || (secure && path == "/secure/a");
                if fields.is_empty() && method == "GET" {
                    assert_eq!(between.0 - before.0, u64::from(is_prompt), "{what}");
                }
                pairs.push((asked - 2, what));
            }
        }
    }
    let lines = logged(&fleet, asked);
    for (at, what) in pairs {
        assert_eq!(lines[at], lines[at + 1], "{what}");
    }
}
