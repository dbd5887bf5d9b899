//! Which stored answers are used for which requests (RFC 9111 §4, §5.2.1, RFC 8246).

use crate::case::{Case, Under, ask, case, get, get_with, not_stored, ok, status, stored};

pub fn cases() -> Vec<Case> {
    let mut cases = vary();
    cases.extend(keys());
    cases.extend(wishes());
    cases
}

const LIVES: &str = "Cache-Control: max-age=3600\n";

fn vary() -> Vec<Case> {
    let by_language = || ok(&format!("{LIVES}Vary: Accept-Language"));
    let speaks = |language: &str| get_with(&format!("Accept-Language: {language}"));
    vec![
        // The first request of all is asked without any client's fields: what varies is not known before.
        case("9111 4.1", "answers that vary are stored side by side")
            .origin(by_language())
            .then(speaks("de").from(2))
            .then(speaks("fr").from(3).says("fwd=vary-miss"))
            .then(speaks("de").from(2).hit())
            .then(speaks("fr").from(3).hit())
            .sees("!Accept-Language")
            .sees("Accept-Language: de")
            .sees("Accept-Language: fr"),
        case("9111 4.1", "an absent field matches an absent field only")
            .origin(by_language())
            .then(get().from(1))
            .then(get().from(1).hit())
            .then(speaks("de").from(2))
            .then(get().from(1).hit())
            .sees_requests(2),
        case("9111 4.1", "white space in a list makes no other value")
            .origin(by_language())
            .then(speaks("de,fr").from(2))
            .then(speaks("de ,   fr").from(2).hit())
            .then(get_with("Accept-Language: de\nAccept-Language: fr").from(2).hit())
            .sees_requests(2),
        case("9111 4.1", "all names of Vary must match, on whatever lines they stand")
            .origin(ok(&format!("{LIVES}Vary: X-One\nVary: x-two")))
            .then(get_with("X-One: 1\nX-Two: 1").from(2))
            .then(get_with("X-One: 1\nX-Two: 2").from(3))
            .then(get_with("X-Two: 1\nX-One: 1").from(2).hit())
            .sees_requests(3),
        case("9111 4.1", "names in Vary are read without regard to case, values with it")
            .origin(ok(&format!("{LIVES}VARY: ACCEPT-language")))
            .then(speaks("de").from(2))
            .then(get_with("accept-LANGUAGE: de").from(2).hit())
            .then(speaks("DE").from(3))
            .sees_requests(3),
        case("9111 4.1", "an unsafe method makes all alternates invalid")
            .origin(by_language())
            .then(get().from(1))
            .then(speaks("de").from(2))
            .then(ask("POST").body("x").from(3))
            .then(speaks("de").from(4).miss())
            .then(get().from(5).miss())
            .sees_requests(5),
        case("9111 4.1", "an empty Vary makes no difference")
            .origin(ok(&format!("{LIVES}Vary:")))
            .then(speaks("de").from(1))
            .then(speaks("fr").from(1).hit())
            .sees_requests(1),
        case("9111 4.1", "fields on the behaviour's list do not choose")
            .origin(ok(&format!("{LIVES}Vary: User-Agent, Origin, Accept-Encoding")))
            .then(get_with("User-Agent: a\nAccept-Encoding: br").from(1))
            .then(get_with("User-Agent: b\nOrigin: https://x").from(1).hit())
            .sees("!User-Agent\n!Origin\n!Accept-Encoding")
            .on_purpose(
                "fills never carry these fields, so all clients get the same answer; vary_ignore = [] heeds them",
            ),
        case("9111 4.1", "with an empty list every name chooses")
            .under(Under::Letter)
            .origin(ok(&format!("{LIVES}Vary: User-Agent")))
            .then(get_with("User-Agent: a").from(2))
            .then(get_with("User-Agent: b").from(3))
            .then(get_with("User-Agent: a").from(2).hit())
            .sees_requests(3),
    ]
}

fn keys() -> Vec<Case> {
    vec![
        case("9111 2", "another query is another answer")
            .origin(ok(LIVES))
            .then(get().at("?a=1").from(1))
            .then(get().at("?a=2").from(2))
            .then(get().at("?a=1").from(1).hit())
            .then(get().from(3).miss())
            .sees_requests(3),
        case("9111 2", "the path is told apart by case, and by its last slash")
            .origin(ok(LIVES))
            .then(get().at("/a").from(1))
            .then(get().at("/A").from(2))
            .then(get().at("/a/").from(3))
            .sees_requests(3),
        case("9110 4.2.3", "needless percent signs make no other answer")
            .origin(ok(LIVES))
            .then(get().at("/a~b").from(1))
            .then(get().at("/%61%7Eb").from(1).hit())
            .then(get().at("/./x/../a~b").from(1).hit())
            .sees_requests(1),
        case("9110 4.2.3", "a percent sign that matters does")
            .origin(ok(LIVES))
            .then(get().at("/a%2Fb").from(1))
            .then(get().at("/a/b").from(2))
            .then(get().at("/a%2fb").from(1).hit())
            .sees_requests(2),
        case("9111 4", "the order of a query and its token make no other answer")
            .origin(ok(LIVES))
            .then(get().at("?a=1&b=2&token=x").from(1))
            .then(get().at("?b=2&token=y&a=1").from(1).hit())
            .sees_requests(1)
            .on_purpose(
                "the behaviour's key rule says so, and the origin is asked by the same rule",
            ),
        case("9112 3.2.2", "the absolute form means the same answer")
            .origin(ok(LIVES))
            .then(get().from(1))
            .then(get().absolute().from(1).hit())
            .sees_requests(1),
    ]
}

fn wishes() -> Vec<Case> {
    let mut cases = Vec::new();
    for wish in
        ["no-cache", "max-age=0", "max-age=10", "min-fresh=99999", "max-stale", "no-transform"]
    {
        cases.push(
            case("9111 5.2.1", format!("{wish} of a request is advice that is not taken"))
                .origin(ok(&format!("{LIVES}Age: 1000\nETag: \"a\"")))
                .then(get().from(1))
                .then(get_with(&format!("Cache-Control: {wish}")).from(1).hit())
                .sees_requests(1)
                .on_purpose("a page reloaded by many must not become load on the origin"),
        );
    }
    cases.extend([
        case("9111 5.4", "Pragma: no-cache of a request is advice that is not taken")
            .origin(ok(LIVES))
            .then(get().from(1))
            .then(get_with("Pragma: no-cache").from(1).hit())
            .sees_requests(1)
            .on_purpose("as no-cache"),
        case("9111 5.2.1.2", "max-stale does not make a stale answer good")
            .origin(ok("Cache-Control: max-age=10\nAge: 100\nETag: \"a\""))
            .origin(status(304, "ETag: \"a\""))
            .then(get().from(1))
            .then(get_with("Cache-Control: max-stale=1000").from(1).says("fwd=stale"))
            .sees_requests(2)
            .on_purpose("stale use is the origin's and the operator's to allow"),
        case("9111 5.2.1.7", "only-if-cached of what is not stored is a 504")
            .origin(ok(LIVES))
            .then(get_with("Cache-Control: only-if-cached").is(504)),
        case("9111 5.2.1.7", "only-if-cached of what is stored and fresh is a hit")
            .origin(ok(LIVES))
            .then(get().from(1))
            .then(get_with("Cache-Control: only-if-cached").from(1).hit())
            .sees_requests(1),
        case("9111 5.2.1.7", "only-if-cached of what is stale is a 504")
            .origin(ok("Cache-Control: max-age=10\nAge: 100\nETag: \"a\""))
            .then(get().from(1))
            .then(get_with("Cache-Control: only-if-cached").is(504))
            .sees_requests(1),
        stored(
            "8246 2",
            "immutable and fresh: a reload asks nobody",
            ok("Cache-Control: max-age=3600, immutable"),
        )
        .then(get_with("Cache-Control: max-age=0").from(1).hit())
        .then(get_with("Cache-Control: no-cache").from(1).hit()),
        not_stored(
            "8246 2",
            "immutable is no lifetime",
            ok("Cache-Control: immutable\nETag: \"a\""),
        ),
        case("5861 4", "stale-if-error of a request is advice that is not taken")
            .origin(ok("Cache-Control: max-age=10\nAge: 100\nETag: \"a\""))
            .origin(status(503, ""))
            .then(get().from(1))
            .then(get_with("Cache-Control: stale-if-error=99999").is(503).from(2))
            .sees_requests(2)
            .on_purpose("stale use is the origin's and the operator's to allow"),
        case("8246 2", "immutable and stale is asked about")
            .origin(ok("Cache-Control: max-age=10, immutable\nAge: 100\nETag: \"a\""))
            .origin(status(304, "ETag: \"a\""))
            .then(get().from(1))
            .then(get().from(1).says("fwd=stale"))
            .sees_requests(2),
        case("9111 4", "a fresh answer is used without asking, by GET and HEAD alike")
            .origin(ok(LIVES))
            .then(get().from(1).miss())
            .then(get().from(1).hit())
            .then(ask("HEAD").is(200).hit())
            .sees_requests(1),
        case("9111 4", "a method that is not allowed for the path is a 405, and nobody is asked")
            .under(Under::Usual)
            .origin(ok(LIVES))
            .then(ask("DELETE").is(405).field("Allow", "GET, HEAD, OPTIONS, POST")),
    ]);
    cases
}
