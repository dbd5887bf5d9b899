//! Our judgement beside that of another implementation, the crate http-cache-semantics (shared, without heuristics).
//!
//! Method: generated answers, requests and times; whether an answer is stored, its age, the time that it has left, and
//! whether it is used for a second request must be the same on both sides. Where they differ on purpose, [`excused`] says
//! in which direction, for which answers, and which section of the standard is on our side; an excuse that is never
//! needed fails the test, so the list cannot outgrow what is known.

use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tidegate_cache::alternate::{choose, vary_names};
use tidegate_cache::lookup::{ClientDirectives, lookup_with};
use tidegate_cache::{Storage, StoredHead, Verdict, judge_storage};
use tidegate_contract::snapshot::{Behaviour, CacheKeyRule};
use tidegate_http::{Fields, Method, RequestHead, ResponseHead, Version, date};

/// Fri, 20 Nov 2026.
const NOW_SECONDS: u64 = 1_795_132_800;
const CASES: u32 = 60_000;

/// One exchange, and a second request some time later.
#[derive(Debug, Clone)]
struct Exchange {
    status: u16,
    answer: Vec<(&'static str, String)>,
    first: Vec<(&'static str, String)>,
    second: Vec<(&'static str, String)>,
    seconds_later: u64,
}

impl Exchange {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.answer.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Directives of the answer, with their arguments.
    fn directives(&self) -> Vec<(&str, Option<&str>)> {
        directives(self.all("cache-control"))
    }

    fn directive(&self, name: &str) -> bool {
        self.directives().iter().any(|(n, _)| *n == name)
    }

    fn asks(&self, name: &str) -> bool {
        let lines = self.second.iter().filter(|(n, _)| *n == "cache-control");
        directives(lines.map(|(_, value)| value.as_str())).iter().any(|(n, _)| *n == name)
    }
}

fn directives<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(&'a str, Option<&'a str>)> {
    lines
        .flat_map(|line| line.split(','))
        .map(|member| match member.trim().split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (member.trim(), None),
        })
        .collect()
}

/// What one side thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opinion {
    stored: bool,
    age: u64,
    time_left: u64,
    used: bool,
}

fn ours(exchange: &Exchange) -> Opinion {
    let behaviour = behaviour();
    let head = ResponseHead {
        status: exchange.status,
        version: Version::Http11,
        fields: fields(&exchange.answer),
    };
    let first = fields(&exchange.first);
    let now_ms = NOW_SECONDS * 1000;
    let later_ms = now_ms + exchange.seconds_later * 1000;
    let Storage::Store(lifetime) = judge_storage(&Method::Get, &first, &head, &behaviour, now_ms)
    else {
        return Opinion { stored: false, age: 0, time_left: 0, used: false };
    };
    let names = vary_names(&head.fields, &behaviour.vary_ignore).unwrap_or_default();
    let stored = StoredHead::new(&head, choose(&names, &first), lifetime, Some(0), 1, &[]);
    let request = RequestHead {
        method: Method::Get,
        path: "/".into(),
        query: None,
        authority: None,
        scheme_in_target: None,
        version: Version::Http11,
        fields: fields(&exchange.second),
    };
    let obey = ClientDirectives::Obey;
    let verdict = lookup_with(obey, Some(&stored), &request, &behaviour, later_ms);
    Opinion {
        stored: true,
        age: lifetime.age_seconds(later_ms),
        time_left: lifetime.ttl_seconds(later_ms).max(0) as u64,
        used: matches!(verdict, Verdict::Hit { .. }),
    }
}

fn theirs(exchange: &Exchange) -> Opinion {
    let request = |lines: &[(&'static str, String)]| {
        let mut request = http::Request::get("http://h/").body(()).unwrap();
        for (name, value) in lines {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    };
    let mut response = http::Response::builder().status(exchange.status).body(()).unwrap();
    for (name, value) in &exchange.answer {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    let options = CacheOptions {
        shared: true,
        cache_heuristic: 0.0,
        immutable_min_time_to_live: Duration::ZERO,
        ignore_cargo_cult: false,
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS);
    let later = now + Duration::from_secs(exchange.seconds_later);
    let policy = CachePolicy::new_options(&request(&exchange.first), &response, now, options);
    let stored = policy.is_storable();
    let asked = policy.before_request(&request(&exchange.second), later);
    Opinion {
        stored,
        age: policy.age(later).as_secs(),
        time_left: policy.time_to_live(later).as_secs(),
        used: stored && matches!(asked, BeforeRequest::Fresh(_)),
    }
}

/// In which direction we may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum We {
    /// We do not store it, think it older, or do not use it.
    AreStricter,
    /// We store it, think it younger, or use it.
    AreLooser,
}

/// Every known difference: whether this exchange may show it, the section that says why ours is right, the direction.
fn excused(exchange: &Exchange) -> Vec<(bool, &'static str, We)> {
    use We::{AreLooser, AreStricter};
    let has = |name: &str| exchange.directive(name);
    let named = |name: &str| {
        exchange.directives().iter().any(|(n, argument)| *n == name && argument.is_some())
    };
    let argument = |wrong: fn(&str) -> bool| {
        exchange.directives().into_iter().any(|(name, argument)| {
            matches!(name, "max-age" | "s-maxage") && argument.is_some_and(wrong)
        })
    };
    let twice = |name: &str| exchange.directives().iter().filter(|(n, _)| *n == name).count() > 1;
    let bare = |name: &str| {
        exchange.directives().iter().any(|(n, argument)| *n == name && argument.is_none())
    };
    let age = |wrong: fn(&str) -> bool| exchange.all("age").any(wrong);
    let lifetime = has("max-age") || has("s-maxage") || exchange.has("expires");
    let can_be_asked_about = (exchange.has("etag") || exchange.has("last-modified"))
        && !matches!(exchange.status, 404 | 410);
    let old_date = exchange
        .all("date")
        .any(|value| date::parse(value.as_bytes(), NOW_SECONDS).is_some_and(|d| d < NOW_SECONDS));
    vec![
        (old_date, "9111 4.2.3: the age by Date counts", AreStricter),
        (exchange.has("set-cookie"), "9111 7.3: no cookie in a shared answer", AreStricter),
        (
            has("must-understand") && has("no-store"),
            "9111 5.2.2.3: no-store is ignored beside must-understand",
            AreLooser,
        ),
        (named("private"), "9111 5.2.2.7: only the named fields are private", AreLooser),
        (named("no-cache"), "9111 5.2.2.4: only the named fields are asked about", AreLooser),
        (has("proxy-revalidate"), "9111 5.2.2.8: it says nothing of a fresh answer", AreLooser),
        (
            matches!(exchange.status, 405 | 414 | 501),
            "9111 3: refusals belong to one request",
            AreStricter,
        ),
        (exchange.status == 206, "9111 3.3: parts are understood here", AreLooser),
        (
            !lifetime,
            "9111 4.2.2: without a lifetime nothing is guessed, and nothing kept",
            AreStricter,
        ),
        (
            matches!(exchange.status, 404 | 410) && !lifetime && !has("no-cache"),
            "9111 4.2.2: errors have a configured lifetime",
            AreLooser,
        ),
        (
            twice("max-age") || twice("s-maxage"),
            "9111 4.2.1: of two lifetimes the smaller counts",
            AreStricter,
        ),
        (
            exchange.first.iter().any(|(name, _)| *name == "authorization")
                && is_contradictory(exchange),
            "9111 3.5: a contradiction between directives is no leave to store",
            AreStricter,
        ),
        (
            bare("max-age") || bare("s-maxage"),
            "9111 4.2.1: a lifetime without a number is none, and Expires does not count",
            AreStricter,
        ),
        (
            argument(|value| value.len() > 18),
            "9111 1.2.2: a number that is too large is a large one",
            AreLooser,
        ),
        (
            argument(|value| value.starts_with('+')),
            "9111 1.2.2: a sign makes no number",
            AreStricter,
        ),
        (
            age(|value| value.contains(',')),
            "9111 5.1: of several ages the first counts",
            AreStricter,
        ),
        (age(|value| value.starts_with('+')), "9111 5.1: a sign makes no age", AreLooser),
        (
            exchange.all("expires").count() > 1,
            "9111 4.2.1: of two Expires the earlier counts",
            AreStricter,
        ),
        (
            exchange.all("expires").any(|value| value.len() != 29 && value.ends_with(['T', '6'])),
            "9110 5.6.7: three formats of dates are read",
            AreLooser,
        ),
        (
            exchange.has("pragma") && !exchange.has("cache-control"),
            "9111 5.4: Pragma says nothing in an answer",
            AreLooser,
        ),
        (
            exchange.all("vary").any(|value| value.contains('*')),
            "9111 4.1: what varies on everything is of no use",
            AreStricter,
        ),
        (
            lifetime && !can_be_asked_about,
            "9111 3: what is stale at once and cannot be asked about is not kept",
            AreStricter,
        ),
        (has("immutable"), "8246 2: a reload of what is immutable asks nobody", AreLooser),
        (exchange.asks("max-stale"), "9111 5.2.1.2: no more than the seconds named", AreLooser),
        (
            exchange.asks("max-stale") && (has("no-cache") || has("proxy-revalidate")),
            "9111 4.2.4: no stale use where the answer forbids it",
            AreStricter,
        ),
        (
            exchange.second.iter().any(|(name, _)| *name == "pragma")
                && exchange.second.iter().any(|(name, _)| *name == "cache-control"),
            "9111 5.4: Pragma counts where there is no Cache-Control",
            AreLooser,
        ),
    ]
}

/// Whether a directive stands twice with different arguments (or with quotes): to the other side that is
/// `must-revalidate`.
fn is_contradictory(exchange: &Exchange) -> bool {
    let all = exchange.directives();
    all.iter().enumerate().any(|(n, (name, argument))| {
        let quoted = argument.is_some_and(|argument| argument.contains('"'));
        all[n + 1..].iter().any(|(other, a)| other == name && (quoted || a != argument))
    })
}

/// The differences, each with its direction.
fn differences(ours: Opinion, theirs: Opinion) -> Vec<(&'static str, We)> {
    let mut found = Vec::new();
    let mut compare = |what, stricter: bool, looser: bool| {
        if stricter {
            found.push((what, We::AreStricter));
        } else if looser {
            found.push((what, We::AreLooser));
        }
    };
    compare("stored", !ours.stored && theirs.stored, ours.stored && !theirs.stored);
    compare("used", !ours.used && theirs.used, ours.used && !theirs.used);
    compare("time left", ours.time_left < theirs.time_left, ours.time_left > theirs.time_left);
    if ours.stored {
        compare("age", ours.age > theirs.age, ours.age < theirs.age);
    }
    found
}

#[test]
fn differences_are_known_ones() {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..Default::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (same, needed) = (RefCell::new(0u32), RefCell::new(BTreeMap::new()));
    let outcome = runner.run(&exchanges(), |exchange| {
        let (ours, theirs) = (ours(&exchange), theirs(&exchange));
        let known = excused(&exchange);
        let found = differences(ours, theirs);
        for (what, we) in &found {
            let fitting: Vec<_> =
                known.iter().filter(|(may, _, excused)| *may && excused == we).collect();
            prop_assert!(
                !fitting.is_empty(),
                "{what}: we {we:?}: ours {ours:?}, theirs {theirs:?}"
            );
            // Alone it is proof that the excuse is needed.
            if let [(_, why, _)] = fitting[..] {
                *needed.borrow_mut().entry(*why).or_insert(0u32) += 1;
            }
        }
        *same.borrow_mut() += u32::from(found.is_empty());
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let (same, needed) = (same.into_inner(), needed.into_inner());
    println!("{CASES} exchanges, {same} judged alike; excuses needed: {needed:#?}");
    assert!(same > CASES / 2, "{same} of {CASES} are judged alike");
    let nothing =
        Exchange { status: 200, answer: vec![], first: vec![], second: vec![], seconds_later: 0 };
    for (_, why, _) in excused(&nothing) {
        assert!(needed.contains_key(why), "the excuse `{why}` is not needed any more");
    }
}

fn seconds() -> impl Strategy<Value = String> {
    let number = select(vec![0u64, 1, 10, 60, 100, 3600, 86_400]).prop_map(|n| n.to_string());
    let odd = select(vec!["x", "-1", "1.5", "", "\"100\"", "+100", "99999999999999999999"]);
    prop_oneof![12 => number, 1 => odd.prop_map(str::to_owned)]
}

fn directive() -> impl Strategy<Value = String> {
    let words = vec![
        "no-store",
        "no-cache",
        "private",
        "public",
        "must-revalidate",
        "proxy-revalidate",
        "immutable",
        "must-understand",
        "no-transform",
        "x-unknown",
        "private=\"x-a\"",
        "no-cache=\"x-a\"",
        "max-age",
        "s-maxage",
    ];
    prop_oneof![
        4 => seconds().prop_map(|n| format!("max-age={n}")),
        2 => seconds().prop_map(|n| format!("s-maxage={n}")),
        4 => select(words).prop_map(str::to_owned),
    ]
}

/// A date around now, in one of the formats, or none.
fn when() -> impl Strategy<Value = String> {
    let around = select(vec![-86_400i64, -100, -10, -1, 0, 1, 10, 100, 3600, 86_400]);
    let imf = around.prop_map(|shift| date::format(NOW_SECONDS.saturating_add_signed(shift)));
    let odd = select(vec![
        "0",
        "-1",
        "soon",
        "Friday, 20-Nov-26 01:00:00 GMT",
        "Fri Nov 20 01:00:00 2026",
        "Saturday, 21-Nov-26 01:00:00 GMT",
        "Sat Nov 21 01:00:00 2026",
    ]);
    prop_oneof![8 => imf, 1 => odd.prop_map(str::to_owned)]
}

fn answer() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let directives = vec(directive(), 0..4).prop_map(|list| list.join(", "));
    let now = date::format(NOW_SECONDS);
    let near = select(vec![-3600i64, -100, -10, 0, 0, 0, 10]);
    let dates = near.prop_map(|shift| date::format(NOW_SECONDS.saturating_add_signed(shift)));
    let ages = select(vec!["0", "1", "10", "100", "5000", "10, 20", "+5", "-5", "x"]);
    let others =
        vec![("etag", "\"a\"".to_owned()), ("last-modified", now), ("vary", "x-a".to_owned())];
    let rare = vec![
        ("set-cookie", "a=b".to_owned()),
        ("vary", "*".to_owned()),
        ("vary", "x-a, *".to_owned()),
        ("pragma", "no-cache".to_owned()),
    ];
    let maybe = |strategy: BoxedStrategy<String>| proptest::option::weighted(0.3, strategy);
    (
        vec(directives, 0..3),
        vec(when(), 0..2),
        maybe(when().boxed()),
        maybe(dates.boxed()),
        maybe(ages.prop_map(str::to_owned).boxed()),
        subsequence(others, 0..=3),
        proptest::option::weighted(0.1, select(rare)),
    )
        .prop_map(|(directives, expires, second_expires, date, age, others, rare)| {
            let mut all = Vec::new();
            let lines = directives.into_iter().filter(|line| !line.is_empty());
            all.extend(lines.map(|line| ("cache-control", line)));
            let again = second_expires.filter(|_| !expires.is_empty());
            all.extend(expires.into_iter().map(|value| ("expires", value)));
            all.extend(again.map(|value| ("expires", value)));
            all.extend(date.map(|value| ("date", value)));
            all.extend(age.map(|value| ("age", value)));
            all.extend(others);
            all.extend(rare);
            all
        })
}

fn wishes() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let number = || select(vec![0u64, 1, 10, 90, 100, 3600]);
    let wish = prop_oneof![
        number().prop_map(|n| format!("max-age={n}")),
        number().prop_map(|n| format!("min-fresh={n}")),
        number().prop_map(|n| format!("max-stale={n}")),
        Just("max-stale".to_owned()),
        Just("no-cache".to_owned()),
    ];
    let own = subsequence(vec![("x-a", "1".to_owned())], 0..=1);
    let pragma = proptest::option::weighted(0.1, Just(("pragma", "no-cache".to_owned())));
    (proptest::option::weighted(0.4, wish), own, pragma).prop_map(|(wish, own, pragma)| {
        let wish = wish.map(|wish| ("cache-control", wish));
        wish.into_iter().chain(own).chain(pragma).collect()
    })
}

fn exchanges() -> impl Strategy<Value = Exchange> {
    let statuses = vec![
        200, 200, 200, 200, 200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 400, 404, 405, 410,
        414, 500, 501, 503,
    ];
    let own = vec![("x-a", "1".to_owned()), ("authorization", "Basic eA==".to_owned())];
    let later = prop_oneof![Just(0u64), 1u64..120, select(vec![3599, 3600, 3601, 86_400, 90_000])];
    (select(statuses), answer(), subsequence(own, 0..=2), wishes(), later).prop_map(
        |(status, answer, first, second, seconds_later)| Exchange {
            status,
            answer,
            first,
            second,
            seconds_later,
        },
    )
}

fn fields(lines: &[(&'static str, String)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in lines {
        fields.append(*name, value.clone()).unwrap();
    }
    fields
}

fn behaviour() -> Behaviour {
    Behaviour {
        name: "all".into(),
        path: "*".into(),
        cache: true,
        default_ttl_seconds: None,
        override_ttl_seconds: None,
        stale_while_revalidate_seconds: 0,
        stale_if_error_seconds: 0,
        // Errors of their own lifetime are not what is compared here.
        negative_ttl_seconds: u32::MAX,
        hedge: false,
        compress: false,
        cache_key: CacheKeyRule { drop: vec![], keep: vec![], sort: false },
        vary_ignore: vec![],
        pacing: tidegate_contract::Pacing::default(),
        cors_allow_origin: None,
        redirect: None,
        response_headers: vec![],
        methods: vec!["GET".to_owned()],
    }
}
