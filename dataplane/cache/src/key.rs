//! Cache keys, and the query that goes to the next hop.
//!
//! Must stay true: the key is made of exactly the bytes that go to the next hop (canonical path and kept
//! query), so two requests with one key are one request there (reliability design 2.3, 21 and 22); delivery
//! services never share a key; decoding never changes which parameter is which. The hash stands for the text in
//! every table and on disk, so it must be one that nobody can make collide (docs/decisions/0005-cache-key-hash.md).

use aws_lc_rs::digest::{SHA256, digest};
use std::fmt::Write;
use tidegate_contract::snapshot::CacheKeyRule;

/// Identity of a stored response before `Vary`. The method is no part: HEAD is answered from GET.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// The first 128 bits of the text's SHA-256.
    pub hash: u128,
    /// `<delivery service><path>[?<query>]`, printable ASCII.
    pub text: String,
}

impl CacheKey {
    /// The key of this text, as read back from the store.
    pub fn from_text(text: String) -> CacheKey {
        let digest = digest(&SHA256, text.as_bytes());
        let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        CacheKey { hash: u128::from_le_bytes(*first), text }
    }
}

/// The key for a canonical path (see `tidegate_http::canonical_path`) and a query as sent.
pub fn cache_key(
    service_id: &str,
    rule: &CacheKeyRule,
    canonical_path: &str,
    query: Option<&str>,
) -> CacheKey {
    let query = upstream_query(rule, query);
    let mut text = String::with_capacity(service_id.len() + canonical_path.len() + 1);
    // The id ends where the path begins: a slash inside an id would let two services meet in one key.
    for byte in service_id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text.push_str(canonical_path);
    if let Some(query) = query {
        text.push('?');
        text.push_str(&query);
    }
    CacheKey::from_text(text)
}

/// The query that the next hop gets: the kept parameters as sent, in order or sorted; `None` when none is
/// left.
pub fn upstream_query(rule: &CacheKeyRule, query: Option<&str>) -> Option<String> {
    let query = query.filter(|query| !query.is_empty())?;
    if rule.drop.is_empty() && rule.keep.is_empty() && !rule.sort {
        return Some(query.to_owned());
    }
    let mut kept: Vec<&str> = query
        .split('&')
        .filter(|parameter| {
            let name = name_of(parameter);
            let dropped = rule.drop.iter().any(|pattern| name_matches(pattern, name));
            let wanted =
                rule.keep.is_empty() || rule.keep.iter().any(|pattern| name_matches(pattern, name));
            wanted && !dropped
        })
        .collect();
    if rule.sort {
        // By name only, and stable: the order of values of one name means something to many programs.
        kept.sort_by(|a, b| name_of(a).cmp(name_of(b)));
    }
    let joined = kept.join("&");
    (!joined.is_empty()).then_some(joined)
}

fn name_of(parameter: &str) -> &str {
    parameter.split_once('=').map_or(parameter, |(name, _)| name)
}

fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn rule(drop: &[&str], keep: &[&str], sort: bool) -> CacheKeyRule {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        CacheKeyRule { drop: owned(drop), keep: owned(keep), sort }
    }

    #[test]
    fn parameters_are_kept_dropped_and_sorted() {
        let all = rule(&[], &[], false);
        let some = rule(&["token", "utm_*"], &[], false);
        let sorted = rule(&[], &[], true);
        let only = rule(&["b"], &["a", "b"], false);
        for (rule, query, expected) in [
            (&all, "b=1&a=2", Some("b=1&a=2")),
            (&all, "", None),
            (&all, "a&&b", Some("a&&b")),
            (&some, "token=x", None),
            (&some, "token", None),
            (&some, "token=x&a=1&utm_source=y&utm_=z", Some("a=1")),
            (&some, "tokens=x", Some("tokens=x")),
            (&some, "Token=x", Some("Token=x")),
            (&some, "%74oken=x", Some("%74oken=x")),
            (&some, "a=1;token=x", Some("a=1;token=x")),
            (&some, "a=token=x", Some("a=token=x")),
            (&sorted, "b=1&a=2&b=0&a", Some("a=2&a&b=1&b=0")),
            (&only, "c=1&b=2&a=3", Some("a=3")),
        ] {
            assert_eq!(upstream_query(rule, Some(query)).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn delivery_services_never_share_a_key() {
        let all = rule(&[], &[], false);
        let a = cache_key("a", &all, "/b/c", None);
        let ab = cache_key("a/b", &all, "/c", None);
        assert_eq!((&a.text[..], &ab.text[..]), ("a/b/c", "a%2Fb/c"));
        assert_ne!(a.hash, ab.hash);
        assert_eq!(cache_key("a", &all, "/b", Some("c=1")).text, "a/b?c=1");
        assert_eq!(CacheKey::from_text(a.text.clone()), a);
    }

    proptest! {
        /// Reliability design 2.3, 22: two requests with one key give byte-identical upstream requests.
        #[test]
        fn one_key_is_one_upstream_request(
            requests in proptest::collection::vec(
                (
                    "(a|b|a/b|a%b)",
                    "/([ab./;]|%2[Ff]|%61){0,4}",
                    proptest::option::of("(a|b|t|=|&|;|%26|%61|1){0,6}"),
                ),
                2..40,
            ),
            sort: bool,
            keep in proptest::collection::vec("[ab]", 0..2),
            drop in proptest::collection::vec("(t|b[*])", 0..2),
        ) {
            let rule = CacheKeyRule { drop, keep, sort };
            let mut seen: HashMap<String, (String, String, Option<String>)> = HashMap::new();
            for (service, path, query) in requests {
                let Ok(path) = tidegate_http::canonical_path(&path) else { continue };
                let key = cache_key(&service, &rule, &path, query.as_deref());
                let upstream = (service, path, upstream_query(&rule, query.as_deref()));
                prop_assert!(key.text.bytes().all(|b| (0x21..0x7f).contains(&b)));
                prop_assert_eq!(key.hash, CacheKey::from_text(key.text.clone()).hash);
                match seen.get(&key.text) {
                    Some(before) => prop_assert_eq!(before, &upstream),
                    None => { seen.insert(key.text, upstream); }
                }
            }
            let mut values: Vec<_> = seen.values().collect();
            values.sort();
            values.dedup();
            // And the other way round: one upstream request has one key.
            prop_assert_eq!(values.len(), seen.len());
        }

        /// What was kept is kept again: the next tier with the same rule makes the same key.
        #[test]
        fn each_tier_makes_the_same_key(query in "(a|b|t|=|&){0,10}", sort: bool) {
            let rule = rule(&["t"], &[], sort);
            let once = upstream_query(&rule, Some(&query));
            prop_assert_eq!(upstream_query(&rule, once.as_deref()), once.clone());
        }
    }
}
