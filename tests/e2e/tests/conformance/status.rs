//! What tiers say of themselves (RFC 9211).

use crate::case::{Case, Under, ask, bytes, case, get, get_with, not_modified, ok};

const LIVES: &str = "Cache-Control: max-age=3600\n";
const TIERS: &[&str] = &["parent-1", "edge-1"];

pub fn cases() -> Vec<Case> {
    vec![
        case("9211 2", "one member for each tier, the one nearest the origin first")
            .origin(ok(LIVES))
            .then(get().members(TIERS))
            .sees_requests(1),
        case("9211 2", "members of caches before ours stay, in front")
            .origin(ok("Cache-Control: max-age=3600\nCache-Status: inner; hit"))
            .then(get().members(&["inner", "parent-1", "edge-1"]))
            .sees_requests(1),
        case("9211 2", "a hit tells of itself only: how it came here is another request's story")
            .origin(ok("Cache-Control: max-age=3600\nCache-Status: inner; hit"))
            .then(get().from(1))
            .then(get().members(&["edge-1"]).hit())
            .sees_requests(1),
        case("9211 2.1", "hit, and what is left of the lifetime")
            .origin(ok("Cache-Control: max-age=10000\nAge: 1000"))
            .then(get().from(1))
            .then(get().says("edge-1; hit; ttl=").ttl(8000, 9000).says_not("fwd"))
            .sees_requests(1),
        case("9211 2.2", "fwd=uri-miss, fwd-status and stored on a miss, by both tiers")
            .origin(ok(LIVES))
            .then(
                get()
                    .says("fwd=uri-miss; fwd-status=200; stored")
                    .parent_says("fwd=uri-miss; fwd-status=200; stored")
                    .says_not("hit"),
            )
            .sees_requests(1),
        case("9211 2.2", "fwd=vary-miss where another answer of the same path is stored")
            .origin(ok("Cache-Control: max-age=3600\nVary: X-One"))
            .then(get().from(1))
            .then(get_with("X-One: 1").from(2).says("fwd=vary-miss"))
            .sees_requests(2),
        case("9211 2.2", "fwd=stale and the status of the question")
            .origin(ok("Cache-Control: max-age=0\nETag: \"a\""))
            .origin(not_modified("ETag: \"a\""))
            .then(get().from(1))
            .then(get().from(1).says("fwd=stale; fwd-status=304").parent_says("fwd=stale"))
            .sees_requests(2),
        case("9211 2.2", "fwd=partial where only a part is stored")
            .origin(bytes("Cache-Control: max-age=3600\nETag: \"a\""))
            .then(get_with("Range: bytes=0-1").part(0..=1))
            .then(get().whole().says("fwd=partial"))
            .sees_requests(2),
        case("9211 2.2", "fwd=bypass where the behaviour caches nothing")
            .under(Under::Pass)
            .origin(ok(LIVES))
            .then(get().from(1).says("fwd=bypass; fwd-status=200").says_not("stored"))
            .sees_requests(1),
        case("9211 2.2", "fwd=method for what only the origin can answer")
            .origin(ok(LIVES))
            .then(ask("POST").body("x").from(1).says("fwd=method; fwd-status=200"))
            .sees_requests(1),
        case("9211 2.5", "stored is not said of what is not")
            .origin(ok("Cache-Control: no-store"))
            .then(get().from(1).says("fwd=uri-miss").says_not("stored"))
            .sees_requests(1),
        case("9211 2.7", "the key is not told")
            .origin(ok(LIVES))
            .then(get().from(1).says_not("key"))
            .then(get().hit().says_not("key"))
            .sees_requests(1)
            .on_purpose("it would help those who look for collisions; a debug token has it told"),
        case("9211 2", "an answer of this node's own is no hit")
            .origin(ok(LIVES))
            .then(get_with("Cache-Control: only-if-cached").is(504).says_not("hit")),
        case("9211 2.8", "no detail is told, only a ttl below zero when a stale answer is used")
            .origin(ok("Cache-Control: max-age=10, stale-if-error=3600\nAge: 100\nETag: \"a\""))
            .origin(crate::case::status(503, ""))
            .then(get().from(1))
            .then(get().from(1).parent_says("ttl=-").parent_says_not("detail").says_not("detail"))
            .sees_requests(2)
            .on_purpose("as with the key: who has the service's debug token is told"),
        case(
            "9211 2.1",
            "hit and fwd exclude each other: a stale answer after a question that failed is no hit",
        )
        .origin(ok("Cache-Control: max-age=10, stale-if-error=3600\nAge: 100\nETag: \"a\""))
        .origin(crate::case::status(503, ""))
        .then(get().from(1))
        .then(get().from(1).parent_says("parent-1; fwd=stale; fwd-status=503; ttl=-"))
        .sees_requests(2),
    ]
}
