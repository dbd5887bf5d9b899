//! Goal: storage and lifetime follow RFC 9111 §3 and §4.2, RFC 5861 and the behaviour. Method: tables.

use super::*;
use crate::fixture::{NOW, behaviour, fields, response};

fn judge(status: u16, lines: &str) -> Storage {
    judge_storage(&Method::Get, &Fields::new(), &response(status, lines), &behaviour(), NOW)
}

fn stored(storage: Storage) -> Lifetime {
    match storage {
        Storage::Store(lifetime) => lifetime,
        Storage::No(reason) => panic!("not stored: {reason:?}"),
    }
}

#[test]
fn rfc_9111_3_what_may_be_stored() {
    use NoStore::*;
    for (status, lines, expected) in [
        (200, "cache-control: max-age=10", None),
        (206, "cache-control: max-age=10", None),
        (301, "cache-control: max-age=10", None),
        (302, "cache-control: max-age=10", None),
        (404, "x: y", None),
        (410, "x: y", None),
        (200, "x: y", Some(NoLifetime)),
        (302, "x: y", Some(NoLifetime)),
        (302, "cache-control: no-cache\netag: \"a\"", Some(NoLifetime)),
        (302, "cache-control: no-cache\netag: \"a\"\nexpires: {+5}", None),
        (200, "last-modified: {-86400}", Some(NoLifetime)),
        (200, "cache-control: no-store, max-age=10", Some(NoStoreDirective)),
        (200, "cache-control: max-age=10\ncache-control: No-Store", Some(NoStoreDirective)),
        (200, "cache-control: no-store, must-understand, max-age=10", None),
        (200, "cache-control: private, max-age=10", Some(Private)),
        (200, "cache-control: private=\"x\", max-age=10", None),
        (200, "cache-control: max-age=10\nset-cookie: a=b", Some(SetCookie)),
        (200, "cache-control: public, max-age=10\nset-cookie: a=b", Some(SetCookie)),
        (200, "cache-control: max-age=10, no-cache=\"Set-Cookie\"\nset-cookie: a=b", None),
        (200, "cache-control: max-age=10\nvary: *", Some(Vary)),
        (200, "cache-control: max-age=10\nvary: accept, *", Some(Vary)),
        (200, "cache-control: max-age=10\nvary: a b", Some(Vary)),
        (200, "cache-control: max-age=10\nvary: accept-encoding", None),
        (200, "cache-control: max-age=0", Some(NoUse)),
        (200, "cache-control: max-age=0\netag: \"a\"", None),
        (200, "cache-control: no-cache\netag: \"a\"", None),
        (200, "cache-control: no-cache", Some(NoUse)),
        (400, "cache-control: max-age=10", Some(Status)),
        (401, "cache-control: max-age=10", Some(Status)),
        (403, "cache-control: max-age=10", Some(Status)),
        (416, "cache-control: max-age=10", Some(Status)),
        (500, "cache-control: max-age=10", Some(Status)),
        (503, "cache-control: max-age=10", Some(Status)),
        (304, "cache-control: max-age=10", Some(Status)),
        (299, "cache-control: max-age=10", Some(Status)),
    ] {
        match (judge(status, lines), expected) {
            (Storage::Store(_), None) => {}
            (Storage::No(reason), Some(expected)) => {
                assert_eq!(reason, expected, "{status} {lines}")
            }
            (got, _) => panic!("{status} {lines}: {got:?}"),
        }
    }
}

#[test]
fn only_answers_to_get_under_caching_behaviours_are_stored() {
    let head = response(200, "cache-control: max-age=10");
    for method in [Method::Head, Method::Post] {
        let got = judge_storage(&method, &Fields::new(), &head, &behaviour(), NOW);
        assert_eq!(got, Storage::No(NoStore::Method));
    }
    let passing = Behaviour { cache: false, ..behaviour() };
    let got = judge_storage(&Method::Get, &Fields::new(), &head, &passing, NOW);
    assert_eq!(got, Storage::No(NoStore::Behaviour));
}

#[test]
fn rfc_9111_3_5_authorized_requests() {
    let authorized = fields("authorization: Basic x");
    for (directives, allowed) in [
        ("max-age=10", false),
        ("max-age=10, public", true),
        ("s-maxage=10", true),
        ("max-age=10, must-revalidate", true),
        ("max-age=10, immutable", false),
    ] {
        let head = response(200, &format!("cache-control: {directives}"));
        let forced = Behaviour { override_ttl_seconds: Some(60), ..behaviour() };
        for behaviour in [behaviour(), forced] {
            let got = judge_storage(&Method::Get, &authorized, &head, &behaviour, NOW);
            assert_eq!(matches!(got, Storage::Store(_)), allowed, "{directives}");
        }
    }
}

#[test]
fn rfc_9111_4_2_1_the_lifetime_comes_from_the_strongest_source() {
    let with = |default, forced| Behaviour {
        default_ttl_seconds: default,
        override_ttl_seconds: forced,
        ..behaviour()
    };
    for (lines, behaviour, seconds) in [
        ("cache-control: s-maxage=5, max-age=10\nexpires: {+20}", with(Some(30), None), 5),
        ("cache-control: max-age=10\nexpires: {+20}", with(Some(30), None), 10),
        ("date: {-5}\nexpires: {+20}", with(Some(30), None), 25),
        ("expires: {+20}", with(Some(30), None), 20),
        ("x: y", with(Some(30), None), 30),
        ("cache-control: public", with(Some(30), None), 30),
        ("cache-control: max-age=10", with(Some(30), Some(40)), 40),
        ("cache-control: no-cache", with(None, Some(40)), 40),
        ("cache-control: max-age=99999999999", with(None, None), 1 << 31),
    ] {
        let got =
            judge_storage(&Method::Get, &Fields::new(), &response(200, lines), &behaviour, NOW);
        assert_eq!(stored(got).freshness_ms, seconds * 1000, "{lines}");
    }
    for stale in
        ["expires: 0", "expires: {-5}", "date: {0}\nexpires: {0}", "expires: {+9}\nexpires: 0"]
    {
        assert_eq!(judge(200, stale), Storage::No(NoStore::NoUse), "{stale}");
    }
    // No operator's wish beats these two.
    for never in ["no-store", "private"] {
        let head = response(200, &format!("cache-control: {never}"));
        let got = judge_storage(&Method::Get, &Fields::new(), &head, &with(Some(9), Some(9)), NOW);
        assert!(matches!(got, Storage::No(_)));
    }
}

#[test]
fn negative_answers_live_shortly() {
    for (lines, seconds) in
        [("x: y", 10), ("cache-control: max-age=31536000", 10), ("cache-control: max-age=3", 3)]
    {
        let forced = Behaviour {
            override_ttl_seconds: Some(999),
            stale_if_error_seconds: 99,
            stale_while_revalidate_seconds: 99,
            ..behaviour()
        };
        let got = judge_storage(&Method::Get, &Fields::new(), &response(404, lines), &forced, NOW);
        let lifetime = stored(got);
        assert_eq!(lifetime.freshness_ms, seconds * 1000);
        assert_eq!((lifetime.stale_if_error_ms, lifetime.stale_while_revalidate_ms), (0, 0));
    }
    let none = Behaviour { negative_ttl_seconds: 0, ..behaviour() };
    let got = judge_storage(&Method::Get, &Fields::new(), &response(404, "x: y"), &none, NOW);
    assert_eq!(got, Storage::No(NoStore::NoLifetime));
}

#[test]
fn rfc_9111_4_2_3_age() {
    for (lines, delay_ms, age_ms) in [
        ("date: {0}", 0, 0),
        ("date: {-30}", 0, 30_000),
        ("date: {-2}", 0, 2_000),
        // Written in the second before this one, a millisecond ago perhaps.
        ("date: {-1}", 0, 1),
        ("date: {+30}", 0, 0),
        ("age: 50\ndate: {-30}", 0, 50_000),
        ("age: 20\ndate: {-30}", 0, 30_000),
        ("age: 20", 700, 20_700),
        ("age: 20, 99", 0, 20_000),
        ("age: x", 0, 0),
        ("age: -5", 0, 0),
        ("age: 99999999999999999999", 0, (1 << 31) * 1000),
        ("date: nonsense", 300, 300),
    ] {
        let head =
            response(200, &format!("cache-control: max-age=9999999999\n{lines}\netag: \"a\""));
        let times = Times { request_ms: NOW - delay_ms, response_ms: NOW };
        let got = judge_storage(&Method::Get, &Fields::new(), &head, &behaviour(), times);
        assert_eq!(stored(got).initial_age_ms, age_ms, "{lines}");
    }
    // An overridden lifetime does not hang on the origin's clock, but on the time in caches.
    let forced = Behaviour { override_ttl_seconds: Some(60), ..behaviour() };
    let head = response(200, "date: {-9999}\nage: 7");
    let got = judge_storage(&Method::Get, &Fields::new(), &head, &forced, NOW);
    assert_eq!(stored(got).initial_age_ms, 7_000);
}

#[test]
fn rfc_5861_windows() {
    let configured =
        Behaviour { stale_while_revalidate_seconds: 20, stale_if_error_seconds: 30, ..behaviour() };
    for (directives, revalidate, error, must) in [
        ("max-age=10", 20, 30, false),
        ("max-age=10, stale-while-revalidate=5, stale-if-error=6", 5, 6, false),
        ("max-age=10, stale-while-revalidate=0", 0, 30, false),
        ("s-maxage=10", 0, 0, false),
        ("s-maxage=10, stale-while-revalidate=5", 5, 0, false),
        ("max-age=10, must-revalidate", 20, 30, true),
        ("max-age=10, proxy-revalidate", 20, 30, true),
        ("max-age=10, stale-if-error=99999999", 20, STALE_SECONDS_MAX, false),
    ] {
        let head = response(200, &format!("cache-control: {directives}"));
        let lifetime = stored(judge_storage(&Method::Get, &Fields::new(), &head, &configured, NOW));
        let got = (
            lifetime.stale_while_revalidate_ms,
            lifetime.stale_if_error_ms,
            lifetime.must_revalidate,
        );
        assert_eq!(got, (revalidate * 1000, error * 1000, must), "{directives}");
    }
}

#[test]
fn a_lifetime_passes_through_its_windows_in_order() {
    let lifetime = Lifetime {
        response_ms: NOW,
        initial_age_ms: 2_000,
        freshness_ms: 10_000,
        stale_while_revalidate_ms: 5_000,
        stale_if_error_ms: 20_000,
        must_revalidate: false,
        immutable: false,
    };
    for (after_ms, fresh, revalidate, error, age, ttl) in [
        (0, true, false, true, 2, 8),
        (7_999, true, false, true, 9, 1),
        (8_000, false, true, true, 10, 0),
        (12_999, false, true, true, 14, -4),
        (13_000, false, false, true, 15, -5),
        (27_999, false, false, true, 29, -19),
        (28_000, false, false, false, 30, -20),
    ] {
        let now = NOW + after_ms;
        let got = (
            lifetime.is_fresh(now),
            lifetime.in_revalidate_window(now),
            lifetime.in_error_window(now),
        );
        assert_eq!(got, (fresh, revalidate, error), "{after_ms}");
        assert_eq!((lifetime.age_seconds(now), lifetime.ttl_seconds(now)), (age, ttl));
    }
    assert_eq!(lifetime.useful_until_ms(), NOW + 28_000);
    let strict = Lifetime { must_revalidate: true, ..lifetime };
    assert!(!strict.in_revalidate_window(NOW + 8_000) && !strict.in_error_window(NOW + 8_000));
    assert_eq!(strict.useful_until_ms(), NOW + 8_000);
    // The clock was set back: nothing gets younger than it came.
    assert_eq!(lifetime.age_seconds(NOW - 100_000), 2);
}

#[test]
fn rfc_9111_4_4_invalidation() {
    assert!(invalidates(&Method::Post, 200) && invalidates(&Method::Delete, 302));
    assert!(!invalidates(&Method::Post, 404) && !invalidates(&Method::Get, 200));
}

#[test]
fn rfc_9213_a_targeted_field_decides_for_this_cache() {
    for (lines, seconds) in [
        ("cdn-cache-control: max-age=100\ncache-control: no-store", Some(100)),
        ("cdn-cache-control: max-age=100\ncache-control: max-age=5", Some(100)),
        ("cdn-cache-control: max-age=100\nexpires: 0", Some(100)),
        ("cdn-cache-control: no-store\ncache-control: max-age=5", None),
        ("cdn-cache-control: private\ncache-control: max-age=5", None),
        // Without a lifetime of its own: neither Cache-Control nor Expires lends one.
        ("cdn-cache-control: public\ncache-control: max-age=5\nexpires: {+9}", None),
        ("cdn-cache-control: max-age=\"1x\"\ncache-control: max-age=5", Some(5)),
        ("cdn-cache-control: no-cache\netag: \"a\"\ncache-control: max-age=5", Some(0)),
    ] {
        match (judge(200, lines), seconds) {
            (Storage::Store(lifetime), Some(seconds)) => {
                assert_eq!(lifetime.freshness_ms, seconds * 1000, "{lines}");
            }
            (Storage::No(_), None) => {}
            (got, _) => panic!("{lines}: {got:?}"),
        }
    }
}
