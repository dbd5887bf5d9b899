//! What becomes of fields and messages on their way (RFC 9110 §5 to §7, RFC 9112).

use crate::case::{Case, Under, ask, bytes, case, get, get_with, ok, raw};

const LIVES: &str = "Cache-Control: max-age=3600\n";

pub fn cases() -> Vec<Case> {
    let mut cases = of_answers();
    cases.extend(of_requests());
    cases.extend(messages());
    cases
}

fn of_answers() -> Vec<Case> {
    let one_hop = "Connection: X-Hop, Keep-Alive\nX-Hop: 1\nKeep-Alive: timeout=9\n\
                   Proxy-Connection: keep-alive\nUpgrade: h2c\nTE: trailers\n";
    vec![
        case("9110 7.6.1", "fields for one hop are not stored and not passed on")
            .origin(ok(&format!("{LIVES}{one_hop}X-End: 2")))
            .then(without_one_hop(get().from(1).field("X-End", "2")))
            .then(without_one_hop(get().from(1).hit().field("X-End", "2")))
            .sees_requests(1),
        case("9110 7.6.1", "fields for one hop are not passed on where nothing is stored")
            .under(Under::Pass)
            .origin(ok(&format!("{one_hop}X-End: 2")))
            .then(without_one_hop(get().from(1).field("X-End", "2")))
            .sees_requests(1),
        case("9110 7.6.1", "Connection cannot take away what storing rests on")
            .origin(ok(
                "Cache-Control: no-store\nConnection: Cache-Control, Set-Cookie\nSet-Cookie: a=b",
            ))
            .then(get().from(1).field("Set-Cookie", "a=b"))
            .then(get().from(2).field("Cache-Control", "no-store"))
            .sees_requests(2)
            .on_purpose("a hop could make a private answer look public to the next one"),
        case("9110 5.1", "fields that this cache does not know pass as they are, stored and not")
            .origin(ok(&format!("{LIVES}X-New: a, b\nX-New: c\nX-Empty:")))
            .then(get().fields("X-New", &["a, b", "c"]).field("X-Empty", ""))
            .then(get().hit().fields("X-New", &["a, b", "c"]).field("X-Empty", ""))
            .sees_requests(1),
        case("9110 5.3", "lines of Set-Cookie stay lines of their own")
            .under(Under::Pass)
            .origin(ok("Set-Cookie: a=b; Expires=Fri, 01 Jan 2049 00:00:00 GMT\nSet-Cookie: c=d"))
            .then(
                get().fields("Set-Cookie", &["a=b; Expires=Fri, 01 Jan 2049 00:00:00 GMT", "c=d"]),
            )
            .sees_requests(1),
        case("9111 5.1", "a hit has an Age, and one only")
            .origin(ok(&format!("{LIVES}Age: 50")))
            .then(get().from(1))
            .then(get().hit().age(50, 650))
            .sees_requests(1),
        case("9110 6.6.1", "an answer without Date gets one")
            .origin(ok(LIVES))
            .then(get().from(1).has("Date"))
            .then(get().from(1).has("Date").hit())
            .sees_requests(1),
        case("9110 6.6.1", "the origin's Date stays")
            .origin(ok(
                "Date: Fri, 01 Jan 2021 00:00:00 GMT\nExpires: Fri, 01 Jan 2049 00:00:00 GMT",
            ))
            .then(get().field("Date", "Fri, 01 Jan 2021 00:00:00 GMT"))
            .then(get().hit().field("Date", "Fri, 01 Jan 2021 00:00:00 GMT"))
            .sees_requests(1),
        case("9110 7.6.3", "each tier adds itself to Via, on the way there and back")
            .origin(ok("Cache-Control: max-age=3600\nVia: 1.0 inner"))
            .then(get().field("Via", "1.0 inner, 1.1 parent-1, 1.1 edge-1"))
            .then(get().hit().field("Via", "1.0 inner, 1.1 parent-1, 1.1 edge-1"))
            .sees("Via: 1.1 edge-1, 1.1 parent-1"),
        case("9110 8.4", "a coded body and its fields are not touched")
            .origin(ok("Cache-Control: max-age=3600, no-transform\nContent-Encoding: gzip"))
            .then(get().from(1).field("Content-Encoding", "gzip"))
            .then(
                get_with("Accept-Encoding: identity")
                    .from(1)
                    .field("Content-Encoding", "gzip")
                    .hit(),
            )
            .sees_requests(1),
        case("9110 6.5.1", "trailers are dropped, and never become fields")
            .origin(raw(
                "HTTP/1.1 200 OK\nCache-Control: max-age=3600\nTransfer-Encoding: chunked\n\
                 Trailer: X-Late, Set-Cookie\n\n5\nhello\n0\nX-Late: 1\nSet-Cookie: a=b\n\n",
            ))
            .then(get().text("hello").without("X-Late").without("Set-Cookie"))
            .then(get().text("hello").without("X-Late").without("Trailer").hit())
            .sees_requests(1),
        case("9111 3.1", "fields between this cache and a proxy are not stored and not passed on")
            .origin(ok(&format!(
                "{LIVES}Proxy-Authenticate: Basic\nProxy-Authentication-Info: a=b\nX-End: 2"
            )))
            .then(without_proxy(get().from(1).field("X-End", "2")))
            .then(without_proxy(get().from(1).field("X-End", "2").hit()))
            .sees_requests(1),
        case("9111 5.2", "Cache-Control goes on as it came, for the caches behind")
            .origin(ok("Cache-Control: max-age=60, S-MAXAGE=\"3600\", x-own=\"a, b\""))
            .then(get().field("Cache-Control", "max-age=60, S-MAXAGE=\"3600\", x-own=\"a, b\""))
            .then(
                get().field("Cache-Control", "max-age=60, S-MAXAGE=\"3600\", x-own=\"a, b\"").hit(),
            )
            .sees_requests(1),
        case("9110 8.3", "a body without Content-Type is given none")
            .origin(ok(LIVES))
            .then(get().from(1).without("Content-Type"))
            .then(get().from(1).without("Content-Type").hit())
            .sees_requests(1),
        case("9110 7.7", "what tells of the content and its server is not changed")
            .origin(ok(&format!(
                "{LIVES}Server: own/1\nContent-Location: /else\nContent-Language: de\n\
                 Last-Modified: Fri, 01-Jan-21 00:00:00 GMT\nETag: W/\"x y\""
            )))
            .then(as_it_was(get().from(1)))
            .then(as_it_was(get().from(1).hit()))
            .sees_requests(1),
        case("9110 8.6", "a HEAD has the Content-Length of the content")
            .origin(bytes(&format!("{LIVES}ETag: \"a\"")))
            .then(ask("HEAD").is(200).field("Content-Length", "1200000").text(""))
            .then(get().whole().field("Content-Length", "1200000"))
            .then(ask("HEAD").is(200).field("Content-Length", "1200000").text("").hit())
            .sees_any_more(),
        case("9110 15.2", "interim answers do not count as the answer")
            .origin(raw("HTTP/1.1 103 Early Hints\nLink: </x>\n\nHTTP/1.1 100 Continue\n\n\
                 HTTP/1.1 200 OK\nCache-Control: max-age=3600\nContent-Length: 5\n\nfinal"))
            .then(get().is(200).text("final").without("Link"))
            .then(get().is(200).text("final").hit())
            .sees_requests(1)
            .on_purpose("early hints are dropped: a stored answer could not give them"),
    ]
}

fn without_one_hop(step: crate::case::Step) -> crate::case::Step {
    ["Connection", "X-Hop", "Keep-Alive", "Proxy-Connection", "Upgrade", "TE"]
        .into_iter()
        .fold(step, crate::case::Step::without)
}

fn without_proxy(step: crate::case::Step) -> crate::case::Step {
    step.without("Proxy-Authenticate").without("Proxy-Authentication-Info")
}

fn as_it_was(step: crate::case::Step) -> crate::case::Step {
    step.field("Server", "own/1")
        .field("Content-Location", "/else")
        .field("Content-Language", "de")
        .field("Last-Modified", "Fri, 01-Jan-21 00:00:00 GMT")
        .field("ETag", "W/\"x y\"")
}

fn of_requests() -> Vec<Case> {
    vec![
        case("9110 7.6.1", "a request's fields for one hop go no further")
            .under(Under::Pass)
            .origin(ok(""))
            .then(
                get_with(
                    "Connection: X-Hop\nX-Hop: 1\nKeep-Alive: 9\nTE: trailers\nUpgrade: h2c\n\
                     Proxy-Authorization: Basic eA==\nX-End: 2",
                )
                .from(1),
            )
            .sees("!X-Hop\n!Keep-Alive\n!TE\n!Upgrade\n!Proxy-Authorization\nX-End: 2"),
        case("9111 4", "no word of a client's gets into a shared answer")
            .origin(ok(LIVES))
            .then(
                get_with(
                    "Cookie: a=b\nX-Own: 1\nReferer: /x\nAccept: text/html\nOrigin: https://x",
                )
                .from(1),
            )
            .then(get().from(1).hit())
            .sees("!Cookie\n!X-Own\n!Referer\n!Accept\n!Origin"),
        case("9110 10.1.1", "Expect: 100-continue is met here")
            .origin(ok(""))
            .then(ask("POST").with("Expect: 100-continue").body("x").is(200).from(1))
            .sees("POST\nbody: x\n!Expect"),
        case("9110 7.2", "the origin is asked by the name that it is configured by")
            .origin(ok(LIVES))
            .then(get().from(1))
            .sees("Host: origin.example"),
        case("9110 9.3.8", "TRACE is not served").origin(ok("")).then(ask("TRACE").is(405)),
        case("9110 7.6.2", "each hop takes one off Max-Forwards of an OPTIONS")
            .origin(ok(""))
            .then(ask("OPTIONS").with("Max-Forwards: 3").from(1))
            .sees("OPTIONS\nMax-Forwards: 1"),
        case("9110 7.6.2", "who gets an OPTIONS with Max-Forwards: 0 answers it")
            .origin(ok(""))
            .then(ask("OPTIONS").with("Max-Forwards: 0").is(204).has("Allow"))
            .then(ask("OPTIONS").with("Max-Forwards: 1").is(204).has("Allow")),
        case("9110 7.6.2", "Max-Forwards of other methods says nothing")
            .origin(ok(LIVES))
            .then(get_with("Max-Forwards: 0").is(200).from(1))
            .sees("!Max-Forwards"),
        case("9110 9.3.7", "an OPTIONS passes with its fields, and its answer as it is")
            .origin(ok("Allow: GET, OPTIONS, X-OWN\nCache-Control: max-age=3600"))
            .then(ask("OPTIONS").with("X-Own: 1").from(1).field("Allow", "GET, OPTIONS, X-OWN"))
            .then(ask("OPTIONS").from(2).says("fwd=method"))
            .sees("OPTIONS\nX-Own: 1")
            .sees("OPTIONS"),
    ]
}

fn messages() -> Vec<Case> {
    let refused = |place, rule: &str, answer: &str| {
        case(place, rule)
            .origin(raw(answer))
            .then(get().is(502).miss())
            .then(get().is(502).miss())
            .sees_requests(2)
            .sees_any_more()
    };
    let start = "HTTP/1.1 200 OK\nCache-Control: max-age=3600\n";
    let refusals = [
        (
            "9112 6.3",
            "two Content-Length that differ",
            "Content-Length: 5\nContent-Length: 6\n\nhello",
        ),
        ("9112 6.3", "a Content-Length that is no number", "Content-Length: -5\n\nhello"),
        (
            "9112 6.3",
            "Content-Length beside Transfer-Encoding",
            "Content-Length: 5\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n",
        ),
        (
            "9112 6.1",
            "a transfer coding that is not known",
            "Transfer-Encoding: gzip, chunked\n\n5\nhello\n0\n\n",
        ),
        ("9112 5.2", "a folded field line", "X-A: b\n  c\nContent-Length: 5\n\nhello"),
        ("9112 5.1", "white space before a colon", "X-A : b\nContent-Length: 5\n\nhello"),
        ("9110 5.5", "a control character in a value", "X-A: b\u{1}c\nContent-Length: 5\n\nhello"),
    ];
    let mut cases: Vec<Case> = refusals
        .into_iter()
        .map(|(place, what, rest)| {
            refused(place, &format!("an answer with {what} is refused"), &format!("{start}{rest}"))
        })
        .collect();
    cases.push(
        refused(
            "9112 6.3",
            "an answer with the same Content-Length twice is refused",
            &format!("{start}Content-Length: 5\nContent-Length: 5\n\nhello"),
        )
        .on_purpose("the section allows to take one or to refuse; a confused hop is not trusted"),
    );
    cases.push(refused(
        "9110 15.3.5",
        "a 204 that announces a body is refused",
        "HTTP/1.1 204 X\nContent-Length: 5\n\nhello",
    ));
    cases.push(refused("9112 4", "an answer that is no HTTP is refused", "hello\n\n"));
    cases.push(refused(
        "9110 15.2.2",
        "101 to a request that asked for no upgrade is refused",
        "HTTP/1.1 101 X\nUpgrade: websocket\nConnection: upgrade\n\n",
    ));
    cases.push(
        case("9112 2.3", "an HTTP/1.0 answer is stored and given on as HTTP/1.1")
            .origin(raw("HTTP/1.0 200 OK\nCache-Control: max-age=3600\n\nold"))
            .then(get().text("old"))
            .then(get().text("old").hit())
            .sees_requests(1),
    );
    cases
}
