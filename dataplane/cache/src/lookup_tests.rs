//! Goal: each request gets the verdict of RFC 9111 §4 under the policy, and 304 answers update as §4.3.4
//! says. Method: tables over one stored head at different ages.

use super::*;
use crate::alternate::{choose, vary_names};
use crate::fixture::{NOW, behaviour, fields, request, response};
use crate::storable::Lifetime;

fn stored(lines: &str) -> StoredHead {
    let head = response(200, lines);
    let Storage::Store(lifetime) =
        judge_storage(&Method::Get, &Fields::new(), &head, &behaviour(), NOW)
    else {
        panic!("not stored: {lines}");
    };
    StoredHead::new(&head, vec![], lifetime, Some(5), 1, &[7])
}

#[test]
fn methods_and_behaviours_come_first() {
    let entry = stored("cache-control: max-age=10");
    let get = request(Method::Get, "x: y");
    for (method, expected) in [
        (Method::Get, Verdict::Hit { age_seconds: 0 }),
        (Method::Head, Verdict::Hit { age_seconds: 0 }),
        (Method::Options, Verdict::Pass(Forward::Method)),
        (Method::Post, Verdict::Synth(405)),
        (Method::Trace, Verdict::Synth(405)),
    ] {
        assert_eq!(lookup(Some(&entry), &request(method, "x: y"), &behaviour(), NOW), expected);
    }
    let passing = Behaviour { cache: false, ..behaviour() };
    assert_eq!(lookup(Some(&entry), &get, &passing, NOW), Verdict::Pass(Forward::Bypass));
    assert_eq!(lookup(None, &get, &behaviour(), NOW), Verdict::Fill(Forward::UriMiss));
}

#[test]
fn rfc_9111_4_2_4_freshness_decides() {
    let get = request(Method::Get, "x: y");
    let after = |lines: &str, seconds: u64| {
        lookup(Some(&stored(lines)), &get, &behaviour(), NOW + seconds * 1000)
    };
    let plain = "cache-control: max-age=10\netag: \"a\"";
    assert_eq!(after(plain, 9), Verdict::Hit { age_seconds: 9 });
    assert_eq!(after(plain, 10), Verdict::Revalidate(Forward::Stale));
    assert_eq!(after("cache-control: max-age=10", 10), Verdict::Fill(Forward::Stale));
    let window = "cache-control: max-age=10, stale-while-revalidate=5\netag: \"a\"";
    assert_eq!(after(window, 14), Verdict::StaleWhileRevalidate { age_seconds: 14 });
    assert_eq!(after(window, 15), Verdict::Revalidate(Forward::Stale));
    let strict =
        "cache-control: max-age=10, stale-while-revalidate=5, must-revalidate\netag: \"a\"";
    assert_eq!(after(strict, 11), Verdict::Revalidate(Forward::Stale));
    assert_eq!(
        after("cache-control: no-cache\netag: \"a\"", 0),
        Verdict::Revalidate(Forward::Stale)
    );
}

#[test]
fn rfc_9111_4_1_another_alternate_is_a_vary_miss() {
    let head = response(200, "cache-control: max-age=10\nvary: accept-language, origin");
    let Storage::Store(lifetime) =
        judge_storage(&Method::Get, &Fields::new(), &head, &behaviour(), NOW)
    else {
        panic!("stored");
    };
    let judge = |sent: &str, asked: &str| {
        let names = vary_names(&head.fields, &behaviour().vary_ignore).expect("a list of names");
        let entry = StoredHead::new(&head, choose(&names, &fields(sent)), lifetime, None, 1, &[7]);
        lookup(Some(&entry), &request(Method::Get, asked), &behaviour(), NOW)
    };
    let hit = Verdict::Hit { age_seconds: 0 };
    assert_eq!(judge("accept-language: fr", "accept-language: fr"), hit);
    assert_eq!(
        judge("accept-language: fr", "accept-language: de"),
        Verdict::Fill(Forward::VaryMiss)
    );
    assert_eq!(judge("accept-language: fr", "x: y"), Verdict::Fill(Forward::VaryMiss));
    assert_eq!(judge("x: y", "accept-language: de"), Verdict::Fill(Forward::VaryMiss));
    // What is not heeded is not sent to the next hop, so it chose nothing.
    assert_eq!(judge("x: y", "origin: https://page.example"), hit);
}

#[test]
fn rfc_9111_5_2_1_client_directives_under_both_policies() {
    let hit = Verdict::Hit { age_seconds: 4 };
    let asked = Verdict::Revalidate(Forward::Request);
    let plain = "cache-control: max-age=10\netag: \"a\"";
    let immutable = "cache-control: max-age=10, immutable\netag: \"a\"";
    for (entry, lines, obeyed) in [
        (plain, "x: y", hit),
        (plain, "cache-control: no-cache", asked),
        (plain, "pragma: no-cache", asked),
        (plain, "pragma: no-cache\ncache-control: max-age=9", hit),
        (plain, "cache-control: max-age=0", asked),
        (plain, "cache-control: max-age=3", asked),
        (plain, "cache-control: max-age=4", hit),
        (plain, "cache-control: min-fresh=6", hit),
        (plain, "cache-control: min-fresh=7", asked),
        (plain, "cache-control: max-stale", hit),
        (immutable, "cache-control: no-cache", hit),
        (immutable, "cache-control: max-age=0", hit),
    ] {
        let (entry, request) = (stored(entry), request(Method::Get, lines));
        let judge = |policy| lookup_with(policy, Some(&entry), &request, &behaviour(), NOW + 4_000);
        assert_eq!(judge(ClientDirectives::Obey), obeyed, "{lines}");
        assert_eq!(judge(ClientDirectives::Ignore), hit, "{lines}");
    }
    let entry = stored(plain);
    let stale = |lines: &str| {
        let request = request(Method::Get, lines);
        lookup_with(ClientDirectives::Obey, Some(&entry), &request, &behaviour(), NOW + 12_000)
    };
    assert_eq!(stale("cache-control: max-stale=2"), Verdict::Hit { age_seconds: 12 });
    assert_eq!(stale("cache-control: max-stale=1"), Verdict::Revalidate(Forward::Stale));
    assert_eq!(stale("cache-control: max-stale"), Verdict::Hit { age_seconds: 12 });
}

#[test]
fn rfc_9111_5_2_1_7_only_if_cached() {
    let entry = stored("cache-control: max-age=10, stale-while-revalidate=5\netag: \"a\"");
    let request = request(Method::Get, "cache-control: only-if-cached");
    let at = |entry, seconds: u64| lookup(entry, &request, &behaviour(), NOW + seconds * 1000);
    assert_eq!(at(None, 0), Verdict::Synth(504));
    assert_eq!(at(Some(&entry), 0), Verdict::Hit { age_seconds: 0 });
    assert_eq!(at(Some(&entry), 12), Verdict::StaleWhileRevalidate { age_seconds: 12 });
    assert_eq!(at(Some(&entry), 20), Verdict::Synth(504));
}

#[test]
fn rfc_5861_4_stale_if_error() {
    let entry = stored("cache-control: max-age=10, stale-if-error=5");
    let may =
        |entry: &StoredHead, seconds: u64| may_serve_stale_on_error(entry, NOW + seconds * 1000);
    assert!(may(&entry, 0) && may(&entry, 14) && !may(&entry, 15));
    let strict = stored("cache-control: max-age=10, stale-if-error=5, must-revalidate");
    assert!(may(&strict, 9) && !may(&strict, 10));
    assert!([500, 502, 503, 504].into_iter().all(is_next_hop_error));
    assert!(![200, 404, 501, 505].into_iter().any(is_next_hop_error));
}

#[test]
fn rfc_9111_4_3_1_conditions_of_the_cache_replace_those_of_the_client() {
    let entry = stored("cache-control: max-age=10\netag: W/\"a\"\nlast-modified: {-99}");
    let mut sent = fields(
        "if-none-match: \"client\"\nif-match: \"x\"\nrange: bytes=0-1\nif-range: \"x\"\naccept: */*",
    );
    set_revalidation_fields(&entry, &mut sent);
    assert_eq!(sent.get("if-none-match"), Some(&b"W/\"a\""[..]));
    assert_eq!(sent.get("if-modified-since"), entry.fields.get("last-modified"));
    assert_eq!(sent.len(), 3);
}

#[test]
fn rfc_9111_4_3_4_a_304_updates_the_stored_head() {
    let old = stored(
        "cache-control: max-age=10\netag: \"a\"\ncontent-type: video/mp4\nx-old: 1\nx-both: 1",
    );
    let later = NOW + 20_000;
    let answer = response(
        304,
        "etag: \"a\"\ncache-control: max-age=60\ndate: {+20}\nage: 2\nx-both: 2\nx-both: 3\nx-new: 4\n\
         content-type: text/html\ncontent-length: 0\nconnection: x-hop\nx-hop: 1",
    );
    let Merged::Updated(new) = merge_304(&old, &answer, &Fields::new(), &behaviour(), later) else {
        panic!("an update");
    };
    let expected = fields(
        "content-type: video/mp4\nx-old: 1\netag: \"a\"\ncache-control: max-age=60\ndate: {+20}\nx-both: 2\n\
         x-both: 3\nx-new: 4",
    );
    let mut got: Vec<_> = new.fields.iter().collect();
    let mut wanted: Vec<_> = expected.iter().collect();
    got.sort();
    wanted.sort();
    assert_eq!(got, wanted);
    assert_eq!((new.version, new.total_length, new.status), (1, Some(5), 200));
    assert_eq!((new.lifetime.freshness_ms, new.lifetime.initial_age_ms), (60_000, 2_000));
    assert!(new.lifetime.is_fresh(later + 57_000) && !new.lifetime.is_fresh(later + 58_000));
}

#[test]
fn a_304_without_a_date_counts_from_its_arrival() {
    let old = stored("cache-control: max-age=10\netag: \"a\"\ndate: {-3}");
    let merged =
        merge_304(&old, &response(304, "etag: \"a\""), &Fields::new(), &behaviour(), NOW + 50_000);
    let Merged::Updated(new) = merged else { panic!("an update") };
    assert_eq!((new.lifetime.initial_age_ms, new.lifetime.response_ms), (0, NOW + 50_000));
    assert!(new.lifetime.is_fresh(NOW + 59_000));
}

#[test]
fn a_304_about_another_version_confirms_nothing() {
    let both = "cache-control: max-age=10\netag: \"a\"\nlast-modified: {-99}";
    let dated = "cache-control: max-age=10\nlast-modified: {-99}";
    for (old, new, confirmed) in [
        (both, "etag: \"a\"", true),
        (both, "etag: W/\"a\"", true),
        (both, "etag: \"b\"", false),
        (both, "etag: \"b\"\nlast-modified: {-99}", false),
        (both, "last-modified: {-99}", true),
        (both, "last-modified: {-98}", false),
        (both, "x: y", true),
        (dated, "etag: \"a\"", false),
        (dated, "last-modified: {-99}", true),
        (dated, "last-modified: {-1}", false),
    ] {
        let merged =
            merge_304(&stored(old), &response(304, new), &Fields::new(), &behaviour(), NOW);
        assert_eq!(matches!(merged, Merged::Updated(_)), confirmed, "{old} / {new}");
        assert_eq!(merged == Merged::OtherVersion, !confirmed);
    }
}

#[test]
fn a_304_that_forbids_storing_is_used_once() {
    let old = stored("cache-control: max-age=10\netag: \"a\"");
    for (directive, reason) in
        [("no-store", NoStore::NoStoreDirective), ("private", NoStore::Private)]
    {
        let answer = response(304, &format!("etag: \"a\"\ncache-control: {directive}"));
        match merge_304(&old, &answer, &Fields::new(), &behaviour(), NOW) {
            Merged::SendOnce(head, why) => {
                assert_eq!(why, reason);
                let Lifetime { must_revalidate, freshness_ms, .. } = head.lifetime;
                assert!(must_revalidate && freshness_ms == 0);
            }
            other => panic!("{directive}: {other:?}"),
        }
    }
}
