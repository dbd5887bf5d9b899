//! Text in content codings: an edge gives playlists and the like smaller to clients that take them so. Method: an origin
//! that counts, first bytes of each format (the round trip is the engine's own test), and what fields say.

use std::net::{IpAddr, Ipv4Addr};
use tidegate_contract::Snapshot;
use tidegate_e2e::{Fleet, FleetOptions, HandOrigin, Response, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn compress(snapshot: &mut Snapshot) {
    for behaviour in &mut snapshot.delivery_services[0].behaviours {
        behaviour.compress = true;
    }
}

fn playlist() -> String {
    (0..400).map(|n| format!("#EXTINF:6.000,\nsegment-{n:06}.m4s\n")).collect()
}

fn fields_of(path: &str) -> &'static str {
    match path {
        "/v.mp4" => "Content-Type: video/mp4\r\n",
        "/fixed.txt" => "Content-Type: text/plain\r\nCache-Control: max-age=60, no-transform\r\n",
        "/coded.txt" => "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n",
        _ => "Content-Type: application/vnd.apple.mpegurl\r\n",
    }
}

fn fleet() -> (HandOrigin, Fleet) {
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let path = asked.target().split('?').next().unwrap_or_default().to_owned();
        let fields = format!("{}Cache-Control: max-age=60\r\nETag: \"p\"\r\n", fields_of(&path));
        let body = if path == "/tiny.m3u8" { "#EXTM3U\n".to_owned() } else { playlist() };
        reply(stream, 200, &fields, body.as_bytes());
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        adjust: compress,
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("coding", &options);
    (origin, fleet)
}

fn get(fleet: &Fleet, path: &str, extra: &str) -> Response {
    fleet.get("edge-1", path, extra).unwrap()
}

fn accept(codings: &str) -> String {
    format!("Accept-Encoding: {codings}\r\n")
}

#[test]
fn text_is_given_smaller_to_those_who_take_it() {
    // Goal: RFC 9110 §8.4, §12.5.3. Method: each coding, as a miss and as a hit; one fill for all; first bytes of each
    // format, and fields that tell caches behind us.
    let (origin, fleet) = fleet();
    let whole = playlist();
    let magics: [(&str, &str, &[u8]); 3] = [
        ("gzip", "gzip", &[0x1f, 0x8b]),
        ("zstd, gzip", "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
        ("gzip, br", "br", &[]),
    ];
    for round in 0..2 {
        for (accepted, coding, magic) in magics {
            let response = get(&fleet, "/a.m3u8", &accept(accepted));
            assert_eq!(response.status, 200);
            assert_eq!(response.field("content-encoding"), Some(coding), "{accepted}, {round}");
            assert_eq!(response.field("etag"), Some("W/\"p\""));
            assert_eq!(response.field("vary"), Some("accept-encoding"));
            assert_eq!(response.field("accept-ranges"), None);
            assert!(response.body.starts_with(magic) && response.body.len() < whole.len() / 4);
        }
    }
    for extra in ["", "Accept-Encoding: identity\r\n", "Accept-Encoding: br;q=0, deflate\r\n"] {
        let plain = get(&fleet, "/a.m3u8", extra);
        assert_eq!(plain.body, whole.as_bytes());
        assert_eq!((plain.field("content-encoding"), plain.field("etag")), (None, Some("\"p\"")));
        assert_eq!(plain.field("vary"), Some("accept-encoding"), "caches must know of the others");
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(fleet.counter("edge-1", "bodies_coded_total"), 3);
    assert_eq!(fleet.counter("edge-1", "coded_answers_total"), 6);
}

#[test]
fn conditions_ranges_and_heads_fit_the_form() {
    let (_origin, fleet) = fleet();
    let gzip = accept("gzip");
    let coded = get(&fleet, "/a.m3u8", &gzip);
    let unchanged = get(&fleet, "/a.m3u8", &format!("{gzip}If-None-Match: W/\"p\"\r\n"));
    assert_eq!((unchanged.status, unchanged.field("etag")), (304, Some("W/\"p\"")));
    assert_eq!(unchanged.field("vary"), Some("accept-encoding"));
    // A part is one of the bytes that the strong tag names.
    let part = get(&fleet, "/a.m3u8", &format!("{gzip}Range: bytes=10-19\r\n"));
    assert_eq!((part.status, part.field("content-encoding")), (206, None));
    assert_eq!(part.body, &playlist().as_bytes()[10..20]);
    // A part of a coded form cannot be asked for: its tag is weak (RFC 9110 §13.1.5), so all of it comes again.
    let again =
        get(&fleet, "/a.m3u8", &format!("{gzip}Range: bytes=10-19\r\nIf-Range: W/\"p\"\r\n"));
    assert_eq!((again.status, again.field("content-encoding")), (200, Some("gzip")));
    assert_eq!(again.body, coded.body);
}

#[test]
fn what_is_packed_marked_or_tiny_goes_as_it_is() {
    let (_origin, fleet) = fleet();
    for path in ["/v.mp4", "/fixed.txt", "/tiny.m3u8"] {
        let response = get(&fleet, path, &accept("gzip, br"));
        assert_eq!(
            (response.field("content-encoding"), response.field("vary")),
            (None, None),
            "{path}"
        );
    }
    let coded = get(&fleet, "/coded.txt", &accept("br"));
    assert_eq!(coded.field("content-encoding"), Some("gzip"), "as the origin coded it");
    // One form between tiers.
    let parent = fleet.get("parent-1", "/a.m3u8", &accept("gzip")).unwrap();
    assert_eq!(parent.field("content-encoding"), None);
}

#[test]
fn a_new_version_has_forms_of_its_own() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let fields =
            format!("Content-Type: text/vtt\r\nCache-Control: max-age=0\r\nETag: \"{n}\"\r\n");
        reply(stream, 200, &fields, "a".repeat(1000 + n * 1000).as_bytes());
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        adjust: compress,
        ..FleetOptions::default()
    };
    let fleet = Fleet::start("forms", &options);
    let mut before = Vec::new();
    for n in 0..4 {
        let response = get(&fleet, "/s.vtt", &accept("gzip"));
        assert_eq!(response.field("etag"), Some(&format!("W/\"{n}\"")[..]));
        assert!(response.body != before, "version {n}");
        before = response.body;
    }
}
