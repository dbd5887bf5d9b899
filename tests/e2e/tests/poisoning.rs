//! Caching as a way to harm others: what one client says must not turn up in another's answer, and what is one client's must
//! not be kept because its path looks like a file's. Method: an origin that puts all it is told into its answer, and one whose
//! answers are private and numbered.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, HandOrigin, get, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn fleet(name: &str, origin: &HandOrigin) -> Fleet {
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        ..FleetOptions::default()
    };
    Fleet::start(name, &options)
}

/// Fields by which answers of other caches have been poisoned, and some that nobody has thought of.
const DIRTY: [&str; 26] = [
    "X-Forwarded-Host",
    "X-Forwarded-Server",
    "X-Forwarded-Proto",
    "X-Forwarded-Scheme",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-For",
    "Forwarded",
    "X-Host",
    "X-HTTP-Host-Override",
    "X-Original-URL",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "True-Client-IP",
    "X-Real-IP",
    "X-Wap-Profile",
    "User-Agent",
    "Referer",
    "Origin",
    "Accept",
    "Accept-Language",
    "Cookie",
    "X-Never-Heard-Of",
    "Purpose",
];

#[test]
fn what_one_client_says_is_not_in_the_answer_that_others_get() {
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let mut told = format!("{}\n", asked.line);
        for (name, value) in &asked.fields {
            let _always = writeln!(told, "{name}: {value}");
        }
        reply(stream, 200, "Cache-Control: max-age=3600\r\n", told.as_bytes());
    });
    let fleet = fleet("poisoning", &origin);
    let edge = fleet.member("edge-1").http();
    let text = |response: tidegate_e2e::Response| String::from_utf8(response.body).unwrap();
    for (n, name) in DIRTY.iter().enumerate() {
        let path = format!("/echo/{n}.js");
        let mut attacker = Connection::open(edge).unwrap();
        let first = attacker.get(HOST, &path, &format!("{name}: dirt.example\r\n")).unwrap();
        assert_eq!(first.status, 200, "{name}");
        let clean = get(edge, HOST, &path, "").unwrap();
        assert_eq!(clean.status, 200, "{name}");
        assert!(!text(clean).contains("dirt"), "{name} is in another client's answer");
    }
    // Requests that are refused leave nothing behind for those who ask well (CPDoS).
    let long = format!("X-Long: {}\r\n", "a".repeat(200_000));
    let many: String = (0..2000).map(|n| format!("X-{n}: b\r\n")).collect();
    for (n, bad) in [
        format!("GET /refused/0.js HTTP/1.1\r\nHost: {HOST}\r\n{long}\r\n"),
        format!("GET /refused/1.js HTTP/1.1\r\nHost: {HOST}\r\n{many}\r\n"),
        format!("GET /refused/2.js HTTP/1.1\r\nHost: {HOST}\r\nX-Bell: \x07\r\n\r\n"),
        format!("HELP /refused/3.js HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /refused/4.js HTTP/1.1\r\nHost: {HOST}\r\nHost: dirt.example\r\n\r\n"),
        format!("GET /refused/5.js HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=9-1\r\n\r\n"),
        format!("GET /refused/6.js HTTP/1.1\r\nHost: {HOST}\r\nExpect: dirt\r\n\r\n"),
    ]
    .iter()
    .enumerate()
    {
        let mut attacker = Connection::open(edge).unwrap();
        // It may be refused before all of it was sent.
        let _refused = attacker.send(bad.as_bytes());
        let _whatever = attacker.response(false);
        let clean = get(edge, HOST, &format!("/refused/{n}.js"), "").unwrap();
        assert_eq!(clean.status, 200, "{n}");
        assert!(!text(clean).contains("dirt"), "{n}");
    }
}

#[test]
fn what_is_private_is_nobody_elses_whatever_its_path_looks_like() {
    // Web cache deception: a path that the application takes for /account, and a careless cache for a file.
    let serial = AtomicUsize::new(0);
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        let number = serial.fetch_add(1, Ordering::SeqCst);
        reply(stream, 200, "Cache-Control: private\r\n", format!("serial {number}").as_bytes());
    });
    let fleet = fleet("deception", &origin);
    let edge = fleet.member("edge-1").http();
    const BETWEEN: [&str; 25] = [
        "/",
        ";",
        "%3b",
        "%2f",
        "%2F",
        "%0a",
        "%0d%0a",
        "%09",
        "%20",
        "%23",
        "%3f",
        "%00",
        "%5c",
        "/..%2f",
        "/%2e%2e%2f",
        "/.%2f",
        "//",
        "/./",
        "/x/../",
        "?",
        "??",
        "&",
        "%26",
        ":",
        "%ff",
    ];
    const FILES: [&str; 12] = [
        "x.css",
        "x.js",
        "x.png",
        "x.ico",
        "x.m4s",
        "x.m3u8",
        "x.mpd",
        "robots.txt",
        "favicon.ico",
        "index.html",
        "x.mp4",
        "x.woff2",
    ];
    let mut served = 0;
    for between in BETWEEN {
        for file in FILES {
            let path = format!("/account{between}{file}");
            let [victim, attacker] = [(), ()].map(|()| get(edge, HOST, &path, "").unwrap());
            // What has no one meaning is refused, to both.
            assert_eq!(victim.status, attacker.status, "{path}");
            if victim.status == 200 {
                served += 1;
                assert!(victim.body.starts_with(b"serial "), "{path}");
                assert_ne!(victim.body, attacker.body, "{path} was kept");
            } else {
                assert_eq!(victim.status, 400, "{path}");
            }
        }
    }
    println!("{served} of {} paths are served", BETWEEN.len() * FILES.len());
    assert!(served >= 200, "{served}");
}
