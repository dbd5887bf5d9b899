//! What an answer to an unsafe method makes invalid (RFC 9111 §4.4, draft-ietf-httpbis-cache-groups).

use crate::case::{Case, ask, case, get, ok, raw, status};

const LIVES: &str = "Cache-Control: max-age=3600\n";

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        cases.push(
            case("9111 4.4", format!("{method} that goes well makes the stored answer invalid"))
                .origin(ok(LIVES))
                .then(get().from(1))
                .then(ask(method).body("x").from(2))
                .then(get().from(3).miss())
                .then(get().from(3).hit())
                .sees("GET")
                .sees(method)
                .sees("GET"),
        );
    }
    for code in [201, 204, 303] {
        cases.push(
            case("9111 4.4", format!("{code} to an unsafe method is no error: invalid"))
                .origin(ok(LIVES))
                .origin(status(code, "Location: /bare/other"))
                .origin(ok(LIVES))
                .then(get().from(1))
                .then(ask("POST").body("x").is(code))
                .then(get().from(3).miss())
                .sees_requests(3),
        );
    }
    for code in [400, 404, 409, 500, 503] {
        cases.push(
            case("9111 4.4", format!("{code} to an unsafe method leaves the stored answer valid"))
                .origin(ok(LIVES))
                .origin(status(code, ""))
                .then(get().from(1))
                .then(ask("POST").body("x").is(code).from(2))
                .then(get().from(1).hit())
                .sees_requests(2),
        );
    }
    cases.push(
        case("9111 4.4", "OPTIONS is safe: the stored answer stays valid")
            .origin(ok(LIVES))
            .then(get().from(1))
            .then(ask("OPTIONS").from(2))
            .then(get().from(1).hit())
            .sees_requests(2),
    );
    cases.push(
        case("9111 4.4", "an unsafe method that got no answer leaves the stored answer valid")
            .origin(ok(LIVES))
            .origin(raw(""))
            .then(get().from(1))
            .then(ask("POST").body("x").is(502))
            .then(get().from(1).hit())
            .sees("GET")
            .sees("POST"),
    );
    cases.push(
        case("9111 4.4", "another query is another URI: it stays valid")
            .origin(ok(LIVES))
            .then(get().at("?a=1").from(1))
            .then(get().at("?a=2").from(2))
            .then(ask("POST").at("?a=1").body("x").from(3))
            .then(get().at("?a=2").from(2).hit())
            .then(get().at("?a=1").from(4).miss())
            .sees_requests(4),
    );
    for name in ["Location", "Content-Location"] {
        cases.push(
            case("9111 4.4", format!("{name} of another host makes nothing of ours invalid"))
                .origin(ok(LIVES))
                .origin(status(201, &format!("{name}: http://other.example{{path}}/made")))
                .then(get().at("/made").from(1))
                .then(ask("POST").body("x").is(201))
                .then(get().at("/made").from(1).hit())
                .sees_requests(2),
        );
        cases.push(
            case("9111 4.4", format!("{name} of the same host makes nothing else invalid"))
                .origin(ok(LIVES))
                .origin(status(201, &format!("{name}: {{path}}/made")))
                .then(get().at("/made").from(1))
                .then(ask("POST").body("x").is(201))
                .then(get().at("/made").from(1).hit())
                .sees_requests(2)
                .on_purpose(
                    "the section leaves it free; groups and purges say exactly what is meant",
                ),
        );
    }
    cases.extend(groups());
    cases
}

fn groups() -> Vec<Case> {
    const DRAFT: &str = "draft-ietf-httpbis-cache-groups 3";
    let in_group = |group: &str| ok(&format!("{LIVES}Cache-Groups: \"{group}\""));
    vec![
        case(DRAFT, "Cache-Group-Invalidation of an unsafe method reaches the group's members")
            .origin(in_group("{path}-one"))
            .origin(in_group("{path}-two"))
            .origin(ok("Cache-Group-Invalidation: \"{path}-one\", \"{path}-none\""))
            .origin(ok(LIVES))
            .then(get().at("/a").from(1))
            .then(get().at("/b").from(2))
            .then(ask("POST").at("/act").body("x").from(3))
            .then(get().at("/a").from(4).miss())
            .then(get().at("/b").from(2).hit())
            .sees_requests(4),
        case(DRAFT, "Cache-Group-Invalidation of a safe method says nothing")
            .origin(in_group("{path}-one"))
            .origin(ok("Cache-Control: no-store\nCache-Group-Invalidation: \"{path}-one\""))
            .then(get().at("/a").from(1))
            .then(get().at("/act").from(2))
            .then(get().at("/a").from(1).hit())
            .sees_requests(2),
    ]
}
