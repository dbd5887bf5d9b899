//! Goal: purge rules by their definition, handles, tags, records.

use super::*;
use crate::fixture::{NOW, fields};
use crate::key::cache_key;
use proptest::prelude::*;
use tidegate_contract::snapshot::CacheKeyRule;

fn key(path: &str, query: Option<&str>) -> CacheKey {
    let rule = CacheKeyRule { drop: vec![], keep: vec![], sort: false };
    cache_key("films", &rule, path, query)
}

fn answers(path: &str, target: Target<'_>) -> bool {
    let handle = target.handle("films").expect("a good target");
    request_handles("films", &key(path, None), path).contains(&handle)
}

#[test]
fn objects_answer_to_service_url_and_whole_path_segments() {
    for (path, prefix, expected) in [
        ("/a/b/c.m4s", "/", true),
        ("/a/b/c.m4s", "/a", true),
        ("/a/b/c.m4s", "/a/", true),
        ("/a/b/c.m4s", "/a/b", true),
        ("/a/b/c.m4s", "/a/b/c.m4s", true),
        ("/a/b/c.m4s", "/a/b/c", false),
        ("/a/b/c.m4s", "/b", false),
        ("/ab/c", "/a", false),
        ("/a/", "/a", true),
        ("/a", "/a/", true),
        ("/", "/", true),
        ("/A/b", "/a", false),
    ] {
        assert_eq!(answers(path, Target::Prefix(prefix)), expected, "{path} under {prefix}");
    }
    assert!(answers("/a", Target::Service));
    assert!(answers("/a", Target::Url("films/a")) && !answers("/a", Target::Url("films/a?b")));
    let other = Target::Service.handle("music").unwrap();
    assert!(!request_handles("films", &key("/a", None), "/a").contains(&other));
}

#[test]
fn prefixes_reach_as_deep_as_they_may_be_named() {
    let deep = "/s".repeat(PREFIX_SEGMENTS_MAX);
    assert!(answers(&deep, Target::Prefix(&deep)));
    assert!(answers(&format!("{deep}/more/and/more"), Target::Prefix(&deep)));
    assert_eq!(Target::Prefix(&format!("{deep}/x")).handle("films"), Err(TargetError::Deep));
    assert_eq!(Target::Prefix("a/b").handle("films"), Err(TargetError::NoPath));
    for tag in ["", "a b", "a,b", "\u{e4}", "a\n"] {
        assert_eq!(Target::Tag(tag).handle("films"), Err(TargetError::Tag), "{tag:?}");
    }
}

#[test]
fn tags_come_from_three_fields() {
    let tags = |lines: &str| tags_of(&fields(lines)).expect("few enough");
    assert_eq!(tags("surrogate-key: a b  c\nsurrogate-key: b d"), ["a", "b", "c", "d"]);
    assert_eq!(tags("cache-tag: a, b ,c d"), ["a", "b"]);
    assert_eq!(tags("cache-groups: \"a\", \"b\\\\c\";x=1 , \"d\""), ["a", "b\\c", "d"]);
    // A structured list that is broken anywhere is none (RFC 9651 §4.2).
    assert!(tags("cache-groups: \"a\", b").is_empty());
    assert!(tags("cache-groups: \"a\" \"b\"").is_empty());
    assert!(tags("cache-groups: \"a\",").is_empty());
    assert_eq!(invalidated_groups(&fields("cache-group-invalidation: \"x\", \"y\"")), ["x", "y"]);
    let many: Vec<String> = (0..=TAGS_MAX).map(|n| n.to_string()).collect();
    assert_eq!(tags_of(&fields(&format!("surrogate-key: {}", many.join(" ")))), None);
    assert!(tags_of(&fields(&format!("surrogate-key: {}", many[1..].join(" ")))).is_some());
}

fn purge(handle: u64, number: u64, mode: Mode) -> Purge {
    Purge { handle, service: 9, number, at_ms: NOW + number, mode }
}

#[test]
fn rules_reach_what_is_not_newer() {
    let mut rules = Rules::default();
    assert_eq!(rules.judge(&[5], 1, 1), Judgement::Kept);
    rules.add(&purge(5, 10, Mode::Hard));
    assert_eq!(rules.judge(&[4, 5], 10, 10), Judgement::Hard);
    assert_eq!(rules.judge(&[4, 5], 11, 11), Judgement::Kept);
    assert_eq!(rules.judge(&[4], 1, 1), Judgement::Kept);
    // Confirmed since or not: what is gone stays gone.
    assert_eq!(rules.judge(&[5], 10, 99), Judgement::Hard);
    rules.add(&purge(4, 20, Mode::Soft));
    assert_eq!(rules.judge(&[4], 15, 15), Judgement::Soft { since_ms: NOW + 20 });
    assert_eq!(rules.judge(&[4], 15, 21), Judgement::Kept, "a 304 makes it good again");
    rules.add(&purge(4, 30, Mode::Soft));
    assert_eq!(rules.judge(&[4], 15, 21), Judgement::Soft { since_ms: NOW + 30 });
    rules.forget(&purge(4, 20, Mode::Soft));
    assert_eq!(
        rules.judge(&[4], 15, 21),
        Judgement::Soft { since_ms: NOW + 30 },
        "the later stays"
    );
    rules.forget(&purge(4, 30, Mode::Soft));
    rules.forget(&purge(5, 10, Mode::Hard));
    assert!(rules.is_empty());
    rules.add(&Purge { handle: 0, ..purge(0, 40, Mode::Soft) });
    assert_eq!(rules.judge(&[], 39, 39), Judgement::Soft { since_ms: NOW + 40 });
    assert_eq!(rules.newest(), 40);
}

#[test]
fn a_soft_purge_ends_freshness_and_leaves_the_windows() {
    let lifetime = Lifetime {
        response_ms: NOW,
        initial_age_ms: 5_000,
        freshness_ms: 100_000,
        stale_while_revalidate_ms: 10_000,
        stale_if_error_ms: 20_000,
        must_revalidate: false,
        immutable: true,
    };
    let cut = lifetime.cut_short(NOW + 30_000);
    assert!(cut.is_fresh(NOW + 29_999) && !cut.is_fresh(NOW + 30_000));
    assert!(cut.in_revalidate_window(NOW + 39_999) && !cut.in_revalidate_window(NOW + 40_000));
    assert!(cut.in_error_window(NOW + 49_999) && !cut.in_error_window(NOW + 50_000));
    assert_eq!(cut.cut_short(NOW + 30_000), cut, "said twice it is the same");
    // 30 s after the purge: 100 s are what the next tier takes for its end.
    assert_eq!((cut.age_seconds(NOW + 30_000), cut.age_seconds(NOW + 60_000)), (100, 130));
    assert_eq!(lifetime.cut_short(NOW + 200_000), lifetime, "it had ended by itself");
    assert!(!lifetime.cut_short(NOW - 1).is_fresh(NOW));
}

proptest! {
    #[test]
    fn records_come_back(handle: u64, service: u64, number: u64, at_ms: u64, hard: bool) {
        let mode = if hard { Mode::Hard } else { Mode::Soft };
        let purge = Purge { handle, service, number, at_ms, mode };
        prop_assert_eq!(Purge::decode(&purge.encode()), Some(purge));
    }

    #[test]
    fn any_record_is_read_or_refused(bytes: [u8; RECORD_BYTES]) {
        if let Some(purge) = Purge::decode(&bytes) {
            prop_assert_eq!(purge.encode(), bytes);
        }
    }

    /// Against the definition: each purge by itself, in any order, also forgotten when a later one covers it.
    #[test]
    fn rules_agree_with_all_purges_one_by_one(
        purges in proptest::collection::vec((0..6u64, 1..40u64, any::<bool>()), 0..12),
        handles in proptest::collection::vec(1..6u64, 0..4),
        version in 1..40u64,
        later in 0..40u64,
    ) {
        let (version, confirmed) = (version * 16, (version + later) * 16);
        let purges: Vec<Purge> = purges
            .into_iter()
            .enumerate()
            // Each has a number of its own.
            .map(|(index, (handle, number, hard))| (handle, number * 16 + index as u64, hard))
            .map(|(handle, number, hard)| Purge {
                handle,
                service: handle.min(1), // handle 1 is the whole service, 0 is all of them
                number,
                at_ms: number,
                mode: if hard { Mode::Hard } else { Mode::Soft },
            })
            .collect();
        // An object answers to its service.
        let handles: Vec<u64> = handles.into_iter().chain([1]).collect();
        let reaches = |purge: &&Purge| purge.handle == 0 || handles.contains(&purge.handle);
        let hard = purges
            .iter()
            .filter(reaches)
            .any(|purge| purge.mode == Mode::Hard && purge.number >= version);
        let soft = purges
            .iter()
            .filter(reaches)
            .any(|purge| purge.mode == Mode::Soft && purge.number >= confirmed);
        let mut rules = Rules::default();
        purges.iter().for_each(|purge| rules.add(purge));
        for _ in 0..2 {
            let judged = rules.judge(&handles, version, confirmed);
            prop_assert_eq!(judged == Judgement::Hard, hard);
            if !hard {
                prop_assert_eq!(matches!(judged, Judgement::Soft { .. }), soft);
            }
            // What a journal may drop without changing any judgement.
            for purge in &purges {
                if purges.iter().any(|other| other.number > purge.number && other.covers(purge)) {
                    rules.forget(purge);
                }
            }
        }
    }
}
