//! Asking whether a stored answer is still good, and what is sent when nobody tells (RFC 9111 §4.2.4, §4.3, RFC 5861).

use crate::case::{
    Case, Under, ask, bytes, case, get, get_with, not_modified, ok, raw, stale, status,
};

pub fn cases() -> Vec<Case> {
    let mut cases = asking();
    cases.extend(confirming());
    cases.extend(stale_use());
    cases.extend(conditions());
    cases
}

const OLD: &str = "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT";
const STALE: &str = "Cache-Control: max-age=10\nAge: 100\n";
const TAGGED: &str = "Cache-Control: max-age=3600\nETag: \"a\"\n";

fn asking() -> Vec<Case> {
    vec![
        stale(
            "9111 4.3.1",
            "a stale answer is asked about by its entity tag",
            "Cache-Control: max-age=0",
        ),
        case("9111 4.3.1", "a stale answer is asked about by its Last-Modified, as it came")
            .origin(ok(&format!("{STALE}{OLD}")))
            .origin(not_modified(OLD))
            .then(get().from(1))
            .then(get().is(200).from(1))
            .sees("!If-Modified-Since")
            .sees("If-Modified-Since: Fri, 01 Jan 2021 00:00:00 GMT\n!If-None-Match"),
        case("9111 4.3.1", "a stale answer is asked about by both when it has both")
            .origin(ok(&format!("{STALE}{OLD}\nETag: W/\"a\"")))
            .origin(not_modified("ETag: W/\"a\""))
            .then(get().from(1))
            .then(get().is(200).from(1))
            .sees("")
            .sees("If-Modified-Since: Fri, 01 Jan 2021 00:00:00 GMT\nIf-None-Match: W/\"a\""),
        case("9111 4.3.1", "a client's own conditions are not those that the origin is asked")
            .origin(ok(&format!("{STALE}ETag: \"a\"")))
            .origin(not_modified("ETag: \"a\""))
            .then(get().from(1))
            .then(get_with("If-None-Match: \"b\"\nIf-Modified-Since: {now}").is(200).from(1))
            .sees("")
            .sees("If-None-Match: \"a\"\n!If-Modified-Since"),
        stale(
            "9111 5.2.2.4",
            "no-cache is asked about before each use",
            "Cache-Control: no-cache, max-age=3600",
        ),
        case("9111 4.3", "a stale answer without validators is fetched again")
            .under(Under::Usual)
            .origin(ok(STALE))
            .then(get().from(1))
            .then(get().from(2).says("fwd=stale"))
            .sees("")
            .sees("!If-None-Match\n!If-Modified-Since"),
        case("9111 4.3", "a stale answer that is no content is fetched again")
            .origin(status(301, &format!("{STALE}ETag: \"a\"\nLocation: /x")))
            .then(get().is(301).from(1))
            .then(get().is(301).from(2))
            .sees("")
            .sees("!If-None-Match"),
    ]
}

fn confirming() -> Vec<Case> {
    let first = |fields: &str| ok(&format!("{STALE}{fields}"));
    vec![
        case("9111 4.3.4", "a 304 makes the stored answer young again")
            .origin(first("ETag: \"a\""))
            .origin(not_modified("ETag: \"a\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().is(200).from(1).says("fwd-status=304").age(0, 600))
            .then(get().from(1).hit().field("Cache-Control", "max-age=3600"))
            .sees_requests(2),
        case("9111 3.2", "fields of a 304 take the place of the stored ones, others stay")
            .origin(first("ETag: \"a\"\nExpires: 0\nContent-Location: /one\nX-Kept: yes"))
            .origin(not_modified(
                "ETag: \"a\"\nCache-Control: max-age=3600\nExpires: {now+60}\nContent-Location: /two",
            ))
            .then(get().from(1).field("Content-Location", "/one"))
            .then(get().from(1).field("Content-Location", "/two").field("X-Kept", "yes"))
            .then(get().from(1).field("Content-Location", "/two").hit())
            .sees_requests(2),
        case("9111 3.2", "a 304 does not change what describes the stored bytes")
            .origin(first("ETag: \"a\"\nContent-Type: text/plain"))
            .origin(raw(
                "HTTP/1.1 304 X\nETag: \"a\"\nCache-Control: max-age=3600\nContent-Length: 999\n\
                 Content-Type: text/html\nContent-Encoding: gzip\nContent-Range: bytes 0-1/2\n\n",
            ))
            .then(get().from(1))
            .then(get().from(1).field("Content-Type", "text/plain").without("Content-Encoding"))
            .then(get().from(1).hit().field("Content-Length", "8").without("Content-Range"))
            .sees_requests(2),
        case("9111 4.3.4", "a 304 without a validator confirms what was asked about")
            .origin(first("ETag: \"a\""))
            .origin(not_modified("Cache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().from(1))
            .then(get().from(1).hit())
            .sees_requests(2),
        case("9111 4.3.4", "a 304 of another entity tag confirms nothing: the answer is fetched")
            .origin(first("ETag: \"a\""))
            .origin(not_modified("ETag: \"b\"\nCache-Control: max-age=3600"))
            .origin(ok("ETag: \"b\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().is(200).from(3))
            .then(get().from(3).hit())
            .sees("")
            .sees("If-None-Match: \"a\"")
            .sees("!If-None-Match"),
        case("9111 4.3.4", "a 304 of another Last-Modified confirms nothing")
            .origin(first(OLD))
            .origin(not_modified("Last-Modified: Sat, 02 Jan 2021 00:00:00 GMT"))
            .origin(ok("Cache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().is(200).from(3))
            .sees_requests(3),
        case("9111 4.3.4", "a 304 with the weak tag that is stored confirms it")
            .origin(first("ETag: W/\"a\""))
            .origin(not_modified("ETag: W/\"a\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().from(1))
            .then(get().from(1).hit())
            .sees_requests(2),
        case("9111 4.3.4", "a 304 that forbids storing is the last use")
            .origin(first("ETag: \"a\""))
            .origin(not_modified("ETag: \"a\"\nCache-Control: no-store"))
            .origin(ok(TAGGED))
            .then(get().from(1))
            .then(get().is(200).from(1))
            .then(get().is(200).from(3))
            .sees_requests(3),
        case("9111 4.3.3", "a full answer takes the place of the stored one")
            .origin(first("ETag: \"a\""))
            .origin(ok("ETag: \"b\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().from(2).field("ETag", "\"b\"").says("fwd-status=200"))
            .then(get().from(2).hit())
            .sees_requests(2),
        case("9111 4.3.3", "a 404 takes the place of the stored answer")
            .origin(first("ETag: \"a\""))
            .origin(status(404, "Cache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().is(404).from(2))
            .then(get().is(404).from(2).hit())
            .sees_requests(2),
        case("9110 15.4.5", "a 304 that nobody asked for is not passed on, and not stored")
            .origin(not_modified("ETag: \"a\"\nCache-Control: max-age=3600"))
            .origin(ok(TAGGED))
            .then(get().is(502))
            .then(get().from(2))
            .sees_requests(2),
    ]
}

fn stale_use() -> Vec<Case> {
    let closes = || raw("");
    let old = |more: &str| ok(&format!("Cache-Control: max-age=10{more}\nAge: 100\nETag: \"a\""));
    let mut cases = vec![
        case(
            "9111 4.3.3",
            "a 500 to the question goes to the client where stale use is not allowed",
        )
        .origin(old(""))
        .origin(status(500, ""))
        .then(get().from(1))
        .then(get().is(500).from(2))
        .sees_requests(2),
        case("9111 4.2.4", "without an answer to the question, and no stale use: 502")
            .origin(old(""))
            .origin(closes())
            .then(get().from(1))
            .then(get().is(502))
            .sees_requests(2)
            .sees_any_more(),
        case("5861 4", "stale-if-error: the origin closes without a word")
            .origin(old(", stale-if-error=3600"))
            .origin(closes())
            .then(get().from(1))
            .then(get().is(200).from(1).parent_says("ttl=-").age(100, 700))
            .sees_requests(2)
            .sees_any_more(),
        case("5861 4", "stale-if-error is over after its seconds")
            .origin(old(", stale-if-error=60"))
            .origin(status(503, ""))
            .then(get().from(1))
            .then(get().is(503).from(2))
            .sees_requests(2),
        case("5861 4", "nothing is used that went stale more than seven days ago")
            .origin(ok(
                "Cache-Control: max-age=10, stale-if-error=9999999\nAge: 700000\nETag: \"a\"",
            ))
            .origin(status(503, ""))
            .then(get().from(1))
            .then(get().is(503).from(2))
            .sees_requests(2)
            .on_purpose("an origin that is dead for days must not mean old content for ever"),
        case("5861 4", "stale-if-error does not hide a 404")
            .origin(old(", stale-if-error=3600"))
            .origin(status(404, "Cache-Control: no-store"))
            .then(get().from(1))
            .then(get().is(404).from(2))
            .sees_requests(2),
        case("5861 4", "the operator's stale use on errors counts where the origin says nothing")
            .under(Under::Usual)
            .origin(old(""))
            .origin(status(503, ""))
            .then(get().from(1))
            .then(get().is(200).from(1).parent_says("ttl=-"))
            .sees_requests(2)
            .on_purpose("allowed by 9111, 4.2.4: a cache may be configured to"),
        case("9111 5.2.2.10", "s-maxage forbids the operator's stale use")
            .under(Under::Usual)
            .origin(ok("Cache-Control: s-maxage=10\nAge: 100\nETag: \"a\""))
            .origin(status(503, ""))
            .then(get().from(1))
            .then(get().is(503).from(2))
            .sees_requests(2),
        case("5861 3", "stale-while-revalidate: the stale answer at once, the new one behind it")
            .origin(old(", stale-while-revalidate=3600"))
            .origin(ok("ETag: \"b\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().is(200).from(1).hit().says("ttl=-"))
            .then(get().from(2).hit().says_not("stale").eventually())
            .sees("")
            .sees("If-None-Match: \"a\""),
        case("5861 3", "stale-while-revalidate is over after its seconds")
            .origin(old(", stale-while-revalidate=60"))
            .origin(ok("ETag: \"b\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().from(2).says("fwd=stale"))
            .sees_requests(2),
        case("9111 5.2.2.2", "must-revalidate is stronger than stale-while-revalidate")
            .origin(old(", must-revalidate, stale-while-revalidate=3600"))
            .origin(not_modified("ETag: \"a\""))
            .then(get().from(1))
            .then(get().from(1).says("fwd=stale"))
            .sees_requests(2),
        case("9111 5.2.2.4", "no-cache is stronger than stale-while-revalidate")
            .origin(ok("Cache-Control: no-cache, stale-while-revalidate=3600\nETag: \"a\""))
            .origin(not_modified("ETag: \"a\""))
            .then(get().from(1))
            .then(get().from(1).says("fwd=stale"))
            .sees_requests(2),
    ];
    for code in [500, 502, 503, 504] {
        cases.push(
            case("5861 4", format!("stale-if-error: the origin answers {code}"))
                .origin(old(", stale-if-error=3600"))
                .origin(status(code, ""))
                .then(get().from(1))
                .then(get().is(200).from(1).parent_says("ttl=-"))
                .sees_requests(2),
        );
    }
    for directive in ["must-revalidate", "proxy-revalidate", "no-cache"] {
        let place = match directive {
            "must-revalidate" => "9111 5.2.2.2",
            "proxy-revalidate" => "9111 5.2.2.8",
            _ => "9111 5.2.2.4",
        };
        cases.push(
            case(place, format!("{directive}: an error instead of a stale answer"))
                .under(Under::Usual)
                .origin(old(&format!(", stale-if-error=3600, {directive}")))
                .origin(closes())
                .then(get().from(1))
                .then(get().is(502))
                .sees_requests(2)
                .sees_any_more(),
        );
    }
    cases
}

fn conditions() -> Vec<Case> {
    let held = |place, rule: &str, status: u16, fields: &str| {
        let asked = get_with(fields).hit().is(status);
        let asked = if status == 304 { asked.text("") } else { asked.from(1) };
        case(place, rule)
            .origin(ok(&format!("{TAGGED}{OLD}")))
            .then(get().from(1))
            .then(asked)
            .sees_requests(1)
    };
    vec![
        held("9110 13.1.2", "If-None-Match of the stored tag: 304 from here", 304, "If-None-Match: \"a\""),
        held("9110 13.1.2", "If-None-Match of a list with it", 304, "If-None-Match: \"x\", W/\"y\", \"a\""),
        held("9110 13.1.2", "If-None-Match compares weakly", 304, "If-None-Match: W/\"a\""),
        held("9110 13.1.2", "If-None-Match: *", 304, "If-None-Match: *"),
        held("9110 13.1.2", "If-None-Match of another tag: the whole answer", 200, "If-None-Match: \"b\""),
        held(
            "9110 13.1.3",
            "If-Modified-Since of the stored date: 304 from here",
            304,
            "If-Modified-Since: Fri, 01 Jan 2021 00:00:00 GMT",
        ),
        held("9110 13.1.3", "If-Modified-Since of a later date", 304, "If-Modified-Since: {now}"),
        held(
            "9110 13.1.3",
            "If-Modified-Since of an earlier date: the whole answer",
            200,
            "If-Modified-Since: Thu, 31 Dec 2020 23:59:59 GMT",
        ),
        held(
            "9110 13.1.3",
            "If-Modified-Since in the format of RFC 850",
            304,
            "If-Modified-Since: Friday, 01-Jan-21 00:00:00 GMT",
        ),
        held(
            "9110 13.1.3",
            "If-Modified-Since on two lines is ignored",
            200,
            "If-Modified-Since: {now}\nIf-Modified-Since: {now}",
        ),
        held(
            "9110 13.1.2",
            "If-None-Match on two lines is one list",
            304,
            "If-None-Match: \"x\"\nIf-None-Match: \"a\"",
        ),
        held(
            "9110 8.8.3",
            "the case of a tag and of its W matters",
            200,
            "If-None-Match: \"A\", w/\"a\"",
        ),
        case("9111 4.3.2", "If-Modified-Since is measured by Date where there is no Last-Modified")
            .origin(ok("Cache-Control: max-age=3600\nDate: {now-90}"))
            .then(get().from(1))
            .then(get_with("If-Modified-Since: {now-60}").is(304).text("").hit())
            .then(get_with("If-Modified-Since: {now-900}").from(1).hit())
            .sees_requests(1),
        case("9111 4.1", "the Vary that a 304 brings is heeded")
            .origin(ok(&format!("{STALE}ETag: \"a\"")))
            .origin(not_modified("ETag: \"a\"\nCache-Control: max-age=3600\nVary: X-One"))
            .origin(ok("ETag: \"a\"\nCache-Control: max-age=3600\nVary: X-One"))
            .then(get().from(1))
            .then(get().is(200).from(3))
            .then(get_with("X-One: 1").from(4).says("fwd=vary-miss"))
            .then(get().from(3).hit())
            .sees_requests(4),
        case("9111 4.3.4", "the Age of a 304 counts")
            .origin(ok(&format!("{STALE}ETag: \"a\"")))
            .origin(not_modified("ETag: \"a\"\nCache-Control: max-age=60\nAge: 100"))
            .then(get().from(1))
            .then(get().from(1).says("fwd-status=304"))
            .then(get().from(1).says("fwd=stale"))
            .sees_requests(3),
        case("9111 3.2", "the lifetime that a 304 gives takes the place of the stored one")
            .origin(ok(&format!("{STALE}ETag: \"a\"\nExpires: {{now-60}}")))
            .origin(not_modified("ETag: \"a\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get().from(1).says("fwd-status=304"))
            .then(get().from(1).hit().field("Cache-Control", "max-age=3600"))
            .sees_requests(2),
        held("9110 13.1.3", "If-Modified-Since that is no date is ignored", 200, "If-Modified-Since: now"),
        held(
            "9110 13.2.2",
            "If-None-Match comes before If-Modified-Since",
            200,
            "If-None-Match: \"b\"\nIf-Modified-Since: {now}",
        ),
        held("9111 4.3.2", "If-Match is not for a cache to judge", 200, "If-Match: \"b\""),
        held(
            "9111 4.3.2",
            "If-Unmodified-Since is not for a cache to judge",
            200,
            "If-Unmodified-Since: Fri, 01 Jan 1999 00:00:00 GMT",
        ),
        case("9110 15.4.5", "a 304 has the fields that it must have, and none of the content's")
            .origin(ok(&format!(
                "{TAGGED}Expires: {{now+3600}}\nVary: Origin\nContent-Location: /x\nContent-Type: a/b\nDate: {{now}}"
            )))
            .then(get().from(1))
            .then(
                get_with("If-None-Match: \"a\"")
                    .is(304)
                    .field("ETag", "\"a\"")
                    .field("Cache-Control", "max-age=3600")
                    .field("Vary", "Origin")
                    .field("Content-Location", "/x")
                    .without("Content-Type")
                    .without("Content-Length"),
            )
            .sees_requests(1),
        case("9110 13.1.2", "HEAD with If-None-Match is a 304 too")
            .origin(ok(TAGGED))
            .then(get().from(1))
            .then(ask("HEAD").with("If-None-Match: \"a\"").is(304).hit())
            .sees_requests(1),
        case("9111 4.3.2", "a condition on what is not stored: it is fetched whole, and judged here")
            .origin(bytes(TAGGED))
            .then(get_with("If-None-Match: \"a\"").is(304).text("").miss())
            .then(get().whole().hit())
            .sees("!If-None-Match"),
        case("9111 4.3.2", "a condition on a stale answer is judged after it was confirmed")
            .origin(ok(&format!("{STALE}ETag: \"a\"")))
            .origin(not_modified("ETag: \"a\"\nCache-Control: max-age=3600"))
            .then(get().from(1))
            .then(get_with("If-None-Match: \"a\"").is(304).says("fwd-status=304"))
            .then(get().from(1).hit())
            .sees_requests(2),
        case("9110 13.1.2", "the condition of a 404 is not judged")
            .origin(status(404, "Cache-Control: max-age=3600\nETag: \"a\""))
            .then(get().is(404))
            .then(get_with("If-None-Match: \"a\"").is(404).hit())
            .sees_requests(1),
    ]
}
