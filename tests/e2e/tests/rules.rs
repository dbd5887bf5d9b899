//! Rules of behaviours that change what viewers see: redirects, header rules, what is for caches alone. Method: one edge
//! over HTTP and HTTPS, an origin that counts.

use std::net::{IpAddr, Ipv4Addr};
use tidegate_contract::{HeaderRule, Redirect, Snapshot};
use tidegate_e2e::fleet::{HOST, behaviour};
use tidegate_e2e::{Connection, Fleet, FleetOptions, HandOrigin, Response, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn set(name: &str, value: &str) -> HeaderRule {
    HeaderRule::Set { name: name.to_owned(), value: value.to_owned() }
}

fn rules(snapshot: &mut Snapshot) {
    let behaviours = &mut snapshot.delivery_services[0].behaviours;
    let mut moved = behaviour("moved", "/old/*", true, 60);
    moved.redirect = Some(Redirect {
        to: "https://{host}/new{path}{query}".to_owned(),
        status: 301,
        only_http: false,
    });
    let mut secure = behaviour("secure", "/secure/*", true, 60);
    secure.redirect = Some(Redirect {
        to: "https://{host}{path}{query}".to_owned(),
        status: 308,
        only_http: true,
    });
    secure.response_headers = vec![
        set("Strict-Transport-Security", "max-age=31536000"),
        set("Cache-Control", "max-age=5, private"),
        HeaderRule::Remove { name: "Pragma".to_owned() },
        HeaderRule::Remove { name: "X-Powered-By".to_owned() },
    ];
    let mut plain = secure.clone();
    (plain.name, plain.path, plain.redirect) = ("plain".to_owned(), "/plain/*".to_owned(), None);
    behaviours.splice(0..0, [moved, secure, plain]);
}

#[test]
fn redirects_and_header_rules_are_applied_where_they_are_meant() {
    // Goal: what a rule says reaches viewers, over the right scheme, and what is stored stays as the origin said.
    // Method: each rule over HTTP and HTTPS, as miss and as hit.
    let origin = HandOrigin::start(LOCAL, |_, stream| {
        let fields = "Cache-Control: max-age=3600\r\nPragma: no-cache\r\nX-Powered-By: x\r\nSurrogate-Key: a b\r\n\
                      Cache-Tag: c\r\nCache-Groups: \"g\"\r\n";
        reply(stream, 200, fields, b"content");
    });
    let fleet = Fleet::start(
        "rules",
        &FleetOptions {
            edges: 1,
            parents: 1,
            https: true,
            origin: Some(origin.address),
            adjust: rules,
            ..FleetOptions::default()
        },
    );
    let plain = |path: &str, extra: &str| fleet.get("edge-1", path, extra).unwrap();
    let secure = |path: &str| -> Response {
        let tls = fleet.tls.clone().unwrap();
        let mut client = Connection::open_tls(fleet.member("edge-1").https(), tls).unwrap();
        client.get(HOST, path, "").unwrap()
    };
    for (path, location) in [
        ("/old/a", "https://film.example/new/old/a"),
        ("/old/a%20b?x=1&y", "https://film.example/new/old/a%20b?x=1&y"),
        ("/old/{host}?{path}", "https://film.example/new/old/{host}?{path}"),
    ] {
        let response = plain(path, "");
        assert_eq!((response.status, response.field("location")), (301, Some(location)), "{path}");
    }
    assert_eq!(secure("/old/a").status, 301);
    let response = plain("/secure/a?b", "");
    assert_eq!(response.field("location"), Some("https://film.example/secure/a?b"));
    assert_eq!((response.status, origin.count()), (308, 0), "nobody is asked");
    for round in 0..2 {
        for (path, over_tls) in [("/secure/a", true), ("/plain/a", false), ("/plain/a", true)] {
            let response = if over_tls { secure(path) } else { plain(path, "") };
            assert_eq!((response.status, &response.body[..]), (200, &b"content"[..]));
            let hsts = over_tls.then_some("max-age=31536000");
            assert_eq!(
                response.field("strict-transport-security"),
                hsts,
                "{path} in round {round}"
            );
            assert_eq!(response.field("cache-control"), Some("max-age=5, private"), "the viewer's");
            for gone in ["pragma", "x-powered-by", "surrogate-key", "cache-tag"] {
                assert_eq!(response.field(gone), None, "{gone}");
            }
            assert_eq!(response.field("cache-groups"), Some("\"g\""), "browsers know groups, too");
            fleet.settle("edge-1");
        }
    }
    // Stored as the origin said: for an hour, by the edge and by the parent, which passes tags on.
    assert_eq!(origin.count(), 2);
    let parent = fleet.get("parent-1", "/plain/a", "").unwrap();
    assert_eq!(parent.field("cache-control"), Some("max-age=3600"));
    assert_eq!(parent.field("surrogate-key"), Some("a b"));
    // `explain` shows the rules that were run.
    let admin = fleet.member("edge-1").admin();
    let target = format!("/explain?host={HOST}&path=/plain/a");
    let explained = tidegate_e2e::get(admin, "x", &target, "").unwrap();
    let explained: serde_json::Value = serde_json::from_slice(&explained.body).unwrap();
    assert_eq!(explained["behaviour"]["name"], "plain");
    assert_eq!(explained["behaviour"]["response_headers"][0]["op"], "set", "{explained:#}");
    assert_eq!(explained["stored"]["purge"], "none reaches it");
}
