//! Which answers are stored, and for how long (RFC 9111 §3, §4.2, §5.2.2, §5.3).

use crate::case::{
    Case, Under, ask, bytes, case, get, get_with, not_stored, ok, raw, stale, status, stored,
};

pub fn cases() -> Vec<Case> {
    let mut cases = directives();
    cases.extend(lifetimes());
    cases.extend(statuses());
    cases.extend(methods());
    cases.extend(bodies());
    cases
}

fn directives() -> Vec<Case> {
    vec![
        stored("9111 3", "an answer with a lifetime is stored", ok("Cache-Control: max-age=3600")),
        not_stored(
            "9111 5.2.2.5",
            "no-store is not stored, whatever stands beside it",
            ok("Cache-Control: no-store, public, max-age=3600\nExpires: {now+3600}\nETag: \"a\""),
        ),
        not_stored(
            "9111 5.2.2.7",
            "private is not stored by a shared cache",
            ok("Cache-Control: private, max-age=3600, s-maxage=3600"),
        ),
        stored(
            "9111 5.2.2.7",
            "of private=\"x-own\" all but the named field is stored",
            ok("Cache-Control: max-age=3600, private=\"x-own\"\nX-Own: 1\nX-Shared: 2"),
        )
        .then(get().hit().without("X-Own").field("X-Shared", "2")),
        case("9110 5.1", "a field named in private is not given to the first client either")
            .origin(ok("Cache-Control: max-age=3600, private=\"x-own\"\nX-Own: 1"))
            .then(get().from(1).miss().without("X-Own"))
            .sees_requests(1)
            .on_purpose(
                "a fill asks without any client's words, so what is one user's in its answer is nobody's",
            ),
        stored(
            "9111 5.2.2.4",
            "of no-cache=\"x-own\" all but the named field is used again",
            ok("Cache-Control: max-age=3600, no-cache=\"X-Own\"\nX-Own: 1"),
        )
        .then(get().hit().without("X-Own")),
        stored(
            "9111 5.2.2.3",
            "must-understand with a known status: no-store is ignored",
            ok("Cache-Control: must-understand, no-store, max-age=3600"),
        ),
        not_stored(
            "9111 5.2.2.3",
            "must-understand with an unknown status is not stored",
            status(299, "Cache-Control: must-understand, no-store, max-age=3600"),
        ),
        not_stored(
            "9111 3.5",
            "an answer to an authorized request is not stored",
            ok("Cache-Control: max-age=3600"),
        )
        .each_with("Authorization: Basic eA=="),
        not_stored(
            "9111 3.5",
            "an answer to an authorized request is not stored even when it is public",
            ok("Cache-Control: max-age=3600, public"),
        )
        .each_with("Authorization: Basic eA==")
        .on_purpose(
            "the section allows it; credentials are passed through and never part of a shared answer",
        ),
        not_stored(
            "9111 3.5",
            "nor with must-revalidate or s-maxage",
            ok("Cache-Control: s-maxage=3600, must-revalidate"),
        )
        .each_with("Authorization: Basic eA==")
        .on_purpose(
            "the section allows it; credentials are passed through and never part of a shared answer",
        ),
        stored(
            "9110 5.6.1",
            "empty members of a list are none",
            ok("Cache-Control: , ,max-age=3600,, "),
        ),
        stored(
            "9110 5.5",
            "bytes beyond ASCII in a field are stored as they are",
            ok("Cache-Control: max-age=3600\nX-Name: M\u{fc}nchen"),
        )
        .then(get().hit().has("X-Name")),
        case("9111 3.5", "what was stored without credentials is used for a request that has them")
            .origin(ok("Cache-Control: max-age=3600"))
            .then(get().from(1).miss())
            .then(get_with("Authorization: Basic eA==").from(1).hit())
            .sees("!Authorization"),
        not_stored(
            "9111 7.3",
            "an answer that sets a cookie is not stored",
            ok("Cache-Control: max-age=3600, public\nSet-Cookie: a=b"),
        )
        .on_purpose("the standard leaves it to the origin; one mistake there would share a session"),
        stored(
            "9111 5.2.2.4",
            "a cookie named in no-cache is taken out, and the rest is stored",
            ok("Cache-Control: max-age=3600, no-cache=\"set-cookie\"\nSet-Cookie: a=b"),
        )
        .then(get().hit().without("Set-Cookie")),
        case("9111 5.2.1.5", "no-store of a request is advice that is not taken")
            .origin(ok("Cache-Control: max-age=3600"))
            .then(get_with("Cache-Control: no-store").from(1))
            .then(get_with("Cache-Control: no-store").from(1).hit())
            .sees_requests(1)
            .on_purpose("request directives are advisory; one client's wish would cost all others"),
        stored(
            "9111 5.2",
            "directives are read without regard to case",
            ok("CACHE-control: MAX-Age=3600"),
        ),
        stored(
            "9111 5.2.3",
            "unknown directives are ignored",
            ok("Cache-Control: max-age=3600, x-new, x-other=\"no-store, max-age=0\""),
        ),
        not_stored(
            "9111 5.2",
            "what stands in a quoted argument is no directive",
            ok("Cache-Control: x-other=\"max-age=3600\""),
        ),
        not_stored(
            "9111 5.2",
            "directives of several field lines count together",
            ok("Cache-Control: max-age=3600\nCache-Control: no-store"),
        ),
        stored(
            "9111 5.4",
            "Pragma says nothing in an answer",
            ok("Cache-Control: max-age=3600\nPragma: no-cache"),
        ),
        not_stored(
            "9111 4.1",
            "what varies on more than eight fields is not stored",
            ok("Cache-Control: max-age=3600\nVary: a, b, c, d, e, f, g, h, i"),
        )
        .on_purpose("hardly two requests would share an answer"),
        not_stored("9111 4.1", "Vary: * is not stored", ok("Cache-Control: max-age=3600\nVary: *")),
    ]
}

fn lifetimes() -> Vec<Case> {
    let shared = |rule: &str, fields: &str| stored("9111 5.2.2.10", rule, ok(fields));
    let lived = |rule: &str, fields: &str| stored("9111 5.3", rule, ok(fields));
    let old = "Date: Fri, 01 Jan 2021 00:00:00 GMT";
    vec![
        shared("s-maxage comes before max-age", "Cache-Control: max-age=0, s-maxage=3600"),
        stale(
            "9111 5.2.2.10",
            "s-maxage=0 comes before max-age",
            "Cache-Control: s-maxage=0, max-age=3600",
        ),
        shared("s-maxage comes before Expires", "Cache-Control: s-maxage=3600\nExpires: 0"),
        lived("max-age comes before Expires", "Cache-Control: max-age=3600\nExpires: {now-60}"),
        lived("Expires gives a lifetime", "Date: {now}\nExpires: {now+3600}"),
        lived("Expires without a Date counts from its arrival", "Expires: {now+3600}"),
        lived("Expires in the format of RFC 850", "Expires: Friday, 01-Jan-49 00:00:00 GMT"),
        lived("Expires in the format of asctime", "Expires: Fri Jan  1 00:00:00 2049"),
        stale("9111 5.3", "Expires: 0 has expired", "Expires: 0"),
        stale("9111 5.3", "Expires: -1 has expired", "Expires: -1"),
        stale("9111 5.3", "Expires with words has expired", "Expires: next Tuesday"),
        stale(
            "9111 5.3",
            "Expires in another zone than GMT has expired",
            "Expires: Fri, 01 Jan 2049 00:00:00 CET",
        ),
        stale("9111 5.3", "Expires that is Date has expired", "Date: {now}\nExpires: {now}"),
        stale(
            "9111 4.2.1",
            "of two Expires the earlier counts",
            "Expires: {now+3600}\nExpires: {now-3600}",
        ),
        stale(
            "9111 4.2.1",
            "Expires is measured against Date, not against the clock here",
            "Date: {now+7200}\nExpires: {now+3600}",
        ),
        not_stored(
            "9111 4.2.2",
            "Last-Modified alone gives no lifetime",
            ok("Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT"),
        )
        .on_purpose(
            "heuristic freshness is off: lifetimes are said by the origin or by the operator",
        ),
        not_stored("9111 3", "neither a lifetime nor a validator: not stored", ok("")),
        stored("9111 4.2.2", "the operator's lifetime counts where the origin gives none", ok(""))
            .under(Under::Usual)
            .on_purpose("a configured lifetime in the place of a guess"),
        stale(
            "9111 4.2.2",
            "the operator's lifetime does not count where the origin gives one",
            "Cache-Control: max-age=0",
        )
        .under(Under::Usual),
        stored(
            "9111 1.2.2",
            "a number of seconds that is too large is a large one",
            ok("Cache-Control: max-age=99999999999999999999"),
        ),
        stored("9111 5.2", "a quoted number counts", ok("Cache-Control: max-age=\"3600\"")),
        stale("9111 4.2.1", "max-age=-1 is stale", "Cache-Control: max-age=-1"),
        stale("9111 4.2.1", "max-age=3600.5 is stale", "Cache-Control: max-age=3600.5"),
        stale("9111 4.2.1", "max-age=x is stale", "Cache-Control: max-age=x\nExpires: {now+3600}"),
        stale("9111 4.2.1", "max-age without a number is stale", "Cache-Control: max-age"),
        stale(
            "9111 4.2.1",
            "of two max-age the smaller counts",
            "Cache-Control: max-age=3600, max-age=0",
        ),
        stale("9111 4.2.3", "Age counts", "Cache-Control: max-age=100\nAge: 100"),
        stored(
            "9111 4.2.3",
            "Age below the lifetime leaves it fresh",
            ok("Cache-Control: max-age=3600\nAge: 1000"),
        )
        .then(get().hit().age(1000, 1600)),
        stored(
            "9111 5.1",
            "of several members of Age the first counts",
            ok("Cache-Control: max-age=3600\nAge: 10, 9999"),
        )
        .then(get().hit().age(10, 600)),
        stored(
            "9111 5.1",
            "an Age that is no number is ignored",
            ok("Cache-Control: max-age=3600\nAge: -5"),
        )
        .then(get().hit().age(0, 600)),
        stale(
            "9111 4.2.3",
            "an old Date is an age",
            &format!("Cache-Control: max-age=3600\n{old}"),
        ),
        stored(
            "9111 4.2.3",
            "a Date to come is no age",
            ok("Cache-Control: max-age=3600\nDate: {now+600}"),
        )
        .then(get().hit().age(0, 600)),
        stored(
            "9111 4.2.3",
            "the greater of Age and the age by Date counts",
            ok("Cache-Control: max-age=3600\nDate: {now-500}\nAge: 90"),
        )
        .then(get().hit().age(500, 1100)),
    ]
}

fn statuses() -> Vec<Case> {
    let mut cases = Vec::new();
    for code in [203, 301, 300, 308, 404, 410] {
        let rule = format!("{code} with a lifetime is stored");
        let fields = "Cache-Control: max-age=3600\nLocation: /elsewhere";
        let case = stored("9110 15.1", rule, status(code, fields));
        cases.push(case.then(get().is(code).hit().field("Location", "/elsewhere")));
    }
    cases.push(
        case("9110 15.3.5", "204 with a lifetime is stored")
            .origin(status(204, "Cache-Control: max-age=3600"))
            .then(get().is(204).miss())
            .then(get().is(204).hit().without("Content-Length"))
            .sees_requests(1),
    );
    for code in [302, 303, 307] {
        let fields = "Cache-Control: max-age=3600\nLocation: /elsewhere";
        let rule = format!("{code} with a lifetime of its own is stored");
        cases.push(stored("9111 3", rule, status(code, fields)).then(get().is(code).hit()));
        let rule = format!("{code} without one is not, whatever the operator's lifetime");
        let answer = status(code, "Location: /elsewhere");
        cases.push(not_stored("9110 15.1", rule, answer).under(Under::Usual));
    }
    cases.push(not_stored(
        "9111 3",
        "302 with no-cache, which is no lifetime, is not stored",
        status(302, "Cache-Control: no-cache\nETag: \"a\"\nLocation: /elsewhere"),
    ));
    for code in [400, 401, 403, 405, 414, 429, 451, 500, 501] {
        let rule = format!("{code} is not stored");
        let answer = status(code, "Cache-Control: max-age=3600");
        cases.push(
            not_stored("9111 3", rule, answer).on_purpose(
                "a lifetime would allow it; refusals belong to one request, not to all",
            ),
        );
    }
    cases.push(
        not_stored(
            "9111 4.2.1",
            "a 404 does not live longer than the operator's lifetime of errors",
            status(404, "Cache-Control: max-age=3600\nAge: 5"),
        )
        .under(Under::Usual)
        .on_purpose("an origin's lifetime for its files must not make an error live as long"),
    );
    for code in [502, 503, 504] {
        let rule = format!("{code} is not stored, whatever it says");
        cases.push(not_stored("9111 3", rule, status(code, "Cache-Control: max-age=3600")));
    }
    cases.push(not_stored(
        "9111 3",
        "a status that this cache does not know is not stored",
        status(299, "Cache-Control: max-age=3600"),
    ));
    cases
}

fn methods() -> Vec<Case> {
    let lifetime = "Cache-Control: max-age=3600";
    let mut cases = vec![
        case("9110 9.3.2", "HEAD is answered from a stored answer to GET, without its body")
            .origin(ok(lifetime))
            .then(get().from(1))
            .then(ask("HEAD").is(200).text("").field("Content-Length", "8").hit())
            .sees("GET"),
        case("9111 2", "HEAD of what is not stored brings it: the origin sees a GET")
            .origin(ok(lifetime))
            .then(ask("HEAD").is(200).text("").field("Content-Length", "8"))
            .then(get().from(1).hit())
            .sees("GET")
            .on_purpose("one question serves both; a large object costs its first block only"),
        case("9110 9.3.3", "an answer to POST is not stored")
            .origin(ok(lifetime))
            .then(ask("POST").body("x").from(1))
            .then(get().from(2).miss())
            .sees("POST\nbody: x")
            .sees("GET"),
        case("9110 9.3.1", "a GET with a body is asked without it")
            .origin(ok(lifetime))
            .then(get().body("fat").from(1))
            .then(get().from(1).hit())
            .sees("body: \n!Content-Length"),
    ];
    for method in ["OPTIONS", "PUT", "DELETE", "PATCH"] {
        cases.push(
            case("9110 9.2.3", format!("an answer to {method} is not stored"))
                .origin(ok(lifetime))
                .then(ask(method).from(1))
                .then(ask(method).from(2))
                .then(get().from(3).miss())
                .sees(method)
                .sees(method)
                .sees("GET"),
        );
    }
    cases
}

fn bodies() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\nCache-Control: max-age=3600\n";
    let whole = || ok("Cache-Control: max-age=3600");
    vec![
        case("9111 3.3", "a body shorter than its Content-Length is not stored")
            .origin(raw(&format!("{head}Content-Length: 100\n\nshort")))
            .origin(whole())
            .then(get().broken())
            .then(get().from(2).miss())
            .then(get().from(2).hit())
            .sees_requests(2),
        case("9112 8", "a chunked body without its last chunk is not stored")
            .origin(raw(&format!("{head}Transfer-Encoding: chunked\n\n5\nhello\n")))
            .origin(whole())
            .then(get().broken())
            .then(get().from(2).miss())
            .sees_requests(2),
        case("9112 6.3", "a body that ends with its connection is whole")
            .origin(raw(&format!("{head}\nto the end")))
            .then(get().text("to the end"))
            .then(get().text("to the end").hit())
            .sees_requests(1),
        case("9112 7.1", "a chunked body is stored without its coding")
            .origin(raw(&format!(
                "{head}Transfer-Encoding: chunked\n\n5;x=y\nhello\n6\n world\n0\n\n"
            )))
            .then(get().text("hello world"))
            .then(get().text("hello world").hit().field("Content-Length", "11"))
            .sees_requests(1),
        case("9111 3.1", "a large body is stored whole, with all its fields")
            .origin(bytes(
                "Cache-Control: max-age=3600\nETag: \"a\"\nX-Own: kept\nContent-Type: video/mp4",
            ))
            .then(get().whole().miss())
            .then(get().whole().hit().field("X-Own", "kept").field("Content-Type", "video/mp4"))
            .sees_requests(1),
    ]
}
