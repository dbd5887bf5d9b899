//! Fields that speak to one kind of cache (RFC 9213).

use crate::case::{Case, Under, case, get, not_modified, not_stored, ok, stored};

pub fn cases() -> Vec<Case> {
    let lives = |rule: &str, fields: &str| stored("9213 2.2", rule, ok(fields));
    let does_not = |rule: &str, fields: &str| not_stored("9213 2.2", rule, ok(fields));
    vec![
        lives(
            "CDN-Cache-Control comes before Cache-Control, which forbids storing",
            "CDN-Cache-Control: max-age=3600\nCache-Control: no-store",
        ),
        does_not(
            "CDN-Cache-Control: no-store comes before a lifetime in Cache-Control",
            "CDN-Cache-Control: no-store\nCache-Control: max-age=3600",
        ),
        does_not(
            "CDN-Cache-Control: private is heeded",
            "CDN-Cache-Control: private, max-age=3600\nCache-Control: max-age=3600",
        ),
        case("9213 2.2", "CDN-Cache-Control: max-age=0 comes before s-maxage")
            .origin(ok("CDN-Cache-Control: max-age=0\nCache-Control: s-maxage=3600\nETag: \"a\""))
            .origin(not_modified("ETag: \"a\""))
            .then(get().from(1))
            .then(get().from(1).says("fwd=stale"))
            .sees_requests(2),
        does_not(
            "a targeted field without a lifetime leaves none: Expires does not count",
            "CDN-Cache-Control: public\nCache-Control: max-age=3600\nExpires: {now+3600}",
        ),
        stored(
            "9213 2.2",
            "then the operator's lifetime counts",
            ok("CDN-Cache-Control: public\nCache-Control: no-store"),
        )
        .under(Under::Usual)
        .on_purpose("a configured lifetime in the place of a guess"),
        does_not(
            "s-maxage has no meaning in a targeted field",
            "CDN-Cache-Control: s-maxage=3600\nCache-Control: max-age=3600",
        ),
        lives(
            "an empty targeted field does not count",
            "CDN-Cache-Control:\nCache-Control: max-age=3600",
        ),
        lives(
            "a targeted field that breaks the rules of structured fields does not count",
            "CDN-Cache-Control: no-store,,\nCache-Control: max-age=3600",
        ),
        lives(
            "a targeted field with a lifetime that is no whole number does not count",
            "CDN-Cache-Control: max-age=1.5, no-store\nCache-Control: max-age=3600",
        ),
        lives(
            "parameters of a targeted directive are ignored",
            "CDN-Cache-Control: max-age=3600;no-store\nCache-Control: no-store",
        ),
        lives(
            "of two members of one name the last counts",
            "CDN-Cache-Control: max-age=0, max-age=3600\nCache-Control: no-store",
        ),
        lives(
            "several lines are one targeted field",
            "CDN-Cache-Control: max-age=3600\nCDN-Cache-Control: x-new\nCache-Control: no-store",
        ),
        does_not(
            "several lines are one targeted field, also when the last forbids storing",
            "CDN-Cache-Control: max-age=3600\nCDN-Cache-Control: no-store",
        ),
        lives(
            "a name in capitals breaks the rules of structured fields",
            "CDN-Cache-Control: No-Store\nCache-Control: max-age=3600",
        ),
        lives(
            "unknown members of a targeted field are ignored",
            "CDN-Cache-Control: x-new=(a b);c, max-age=3600\nCache-Control: no-store",
        ),
        case("9213 2.2", "no-cache of a targeted field is asked about before each use")
            .origin(ok(
                "CDN-Cache-Control: no-cache, max-age=3600\nCache-Control: max-age=3600\nETag: \"a\"",
            ))
            .origin(not_modified("ETag: \"a\""))
            .then(get().from(1))
            .then(get().from(1).says("fwd=stale"))
            .sees_requests(2),
        does_not(
            "a targeted field for other caches does not count",
            "Other-Cache-Control: max-age=3600\nCache-Control: no-store",
        ),
        lives(
            "stale use and lifetime of a targeted field together",
            "CDN-Cache-Control: max-age=3600, stale-if-error=60, must-revalidate",
        ),
        case("9213 2.1", "a targeted field goes on to the client, for the caches behind")
            .origin(ok("CDN-Cache-Control: max-age=3600\nCache-Control: max-age=5"))
            .then(
                get()
                    .field("Cache-Control", "max-age=5")
                    .field("CDN-Cache-Control", "max-age=3600"),
            )
            .then(get().hit().field("Cache-Control", "max-age=5"))
            .sees_requests(1),
    ]
}
