//! The chain of real processes: every byte that a client gets is the origin's byte.
//! Method: files of known content at our origin, asked through edge and parent in every way a player asks.

use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Connection, Fleet, FleetOptions, content};

#[test]
fn whole_objects_and_ranges_equal_the_origins_files_over_http_and_https() {
    let fleet = Fleet::start("bytes", &FleetOptions { https: true, ..FleetOptions::default() });
    let sizes = [0, 1, 1000, 32 * 1024, 32 * 1024 + 1, 65_537, 524_288, 524_289, 3_000_000];
    for (n, size) in sizes.into_iter().enumerate() {
        fleet.put(&format!("f{n}.m4s"), size);
    }
    let tls = fleet.tls.clone().unwrap();
    let mut plain = Connection::open(fleet.member("edge-1").http()).unwrap();
    let mut sealed = Connection::open_tls(fleet.member("edge-2").https(), tls).unwrap();
    let mut state = 12345u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below.max(1)
    };
    for (n, size) in sizes.into_iter().enumerate() {
        let (name, size) = (format!("f{n}.m4s"), size as u64);
        let bytes = content(&name, size as usize);
        for connection in [&mut plain, &mut sealed] {
            for _again in 0..2 {
                let response = connection.get(HOST, &format!("/{name}"), "").unwrap();
                assert_eq!(response.status, 200);
                assert_eq!(response.field("content-type"), Some("video/iso.segment"));
                assert_eq!(response.field("x-region"), Some("test"));
                assert!(
                    response.body == bytes,
                    "{name}: {} bytes came, {size} wanted",
                    response.body.len()
                );
            }
            for _ in 0..12 {
                let (a, b) = (random(size), random(size));
                let (a, b) = (a.min(b), a.max(b));
                let range = format!("Range: bytes={a}-{b}\r\n");
                let response = connection.get(HOST, &format!("/{name}"), &range).unwrap();
                if size == 0 {
                    assert_eq!(response.status, 416);
                    continue;
                }
                assert_eq!(response.status, 206, "{range}");
                assert_eq!(
                    response.field("content-range").unwrap(),
                    format!("bytes {a}-{b}/{size}")
                );
                assert!(response.body == bytes[a as usize..=b as usize], "{name} {range}");
            }
        }
    }
}

#[test]
fn a_second_request_is_a_hit_and_each_tier_says_what_it_did() {
    let fleet =
        Fleet::start("status", &FleetOptions { parents: 1, edges: 1, ..FleetOptions::default() });
    fleet.put("a.mp4", 100_000);
    let first = fleet.get("edge-1", "/a.mp4", "").unwrap();
    assert_eq!(
        first.cache_status("edge-1").unwrap(),
        "edge-1; fwd=uri-miss; fwd-status=200; stored"
    );
    assert_eq!(
        first.cache_status("parent-1").unwrap(),
        "parent-1; fwd=uri-miss; fwd-status=200; stored"
    );
    assert_eq!(first.field("via"), Some("1.1 parent-1, 1.1 edge-1"));
    let second = fleet.get("edge-1", "/a.mp4?token=secret", "").unwrap();
    let status = second.cache_status("edge-1").unwrap();
    assert!(status.starts_with("edge-1; hit; ttl="), "{status}");
    assert!(second.cache_status("parent-1").is_none());
    assert!(second.field("age").is_some());
    assert_eq!(fleet.counter("origin-1", "requests_total"), 1);
    let tag = second.field("etag").unwrap();
    let third = fleet.get("edge-1", "/a.mp4", &format!("If-None-Match: {tag}\r\n")).unwrap();
    assert_eq!((third.status, third.body.len()), (304, 0));
    let mut connection = Connection::open(fleet.member("edge-1").http()).unwrap();
    connection.send(format!("HEAD /a.mp4 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let head = connection.response(true).unwrap();
    assert_eq!((head.status, head.field("content-length")), (200, Some("100000")));
    let several = fleet.get("edge-1", "/a.mp4", "Range: bytes=0-9,100-109\r\n").unwrap();
    assert_eq!(several.status, 206);
    assert!(several.field("content-type").unwrap().starts_with("multipart/byteranges"));
    let bytes = content("a.mp4", 100_000);
    for part in [&bytes[0..10], &bytes[100..110]] {
        assert!(several.body.windows(10).any(|w| w == part));
    }
    assert_eq!(fleet.counter("origin-1", "requests_total"), 1);
}
