//! Hints about a snapshot that is allowed and probably not meant: rules that are never reached, keys that store an object
//! once for each viewer.
//!
//! Must stay true: a hint is never an error; each says what will happen and how to say that it is meant.

use crate::check::{Object, Place, Problem};
use crate::snapshot::{Behaviour, HeaderRule, Snapshot};

/// Query parameters that differ from viewer to viewer and change nothing: tokens, player measurements, campaigns.
const PERSONAL: [&str; 8] =
    ["token", "CMCD", "utm_*", "sid", "session", "sessionid", "gclid", "fbclid"];

/// Request fields that split an object by viewer when its `Vary` on them is heeded.
const SPLITTING: [(&str, &str); 4] = [
    ("cookie", "once for each viewer"),
    ("user-agent", "once for each browser version"),
    ("origin", "once for each page that plays it; cors_allow_origin answers them all"),
    ("accept-encoding", "once for each browser's list of codings"),
];

/// All hints, in the order of the snapshot.
pub fn lint(snapshot: &Snapshot) -> Vec<Problem> {
    let mut hints = Vec::new();
    for (index, service) in snapshot.delivery_services.iter().enumerate() {
        for (position, behaviour) in service.behaviours.iter().enumerate() {
            let here = Object::Behaviour(index, position);
            let mut tell = |field, what: String, mend: &str| {
                let place = Place { object: here, field };
                hints.push(Problem { place, what, mend: mend.to_owned() });
            };
            let earlier = &service.behaviours[..position];
            if let Some(first) = earlier.iter().find(|first| covers(&first.path, &behaviour.path)) {
                let what = format!(
                    "`{}` is never reached: behaviour `{}` (`{}`) comes first and matches all of it",
                    behaviour.path, first.name, first.path
                );
                tell("path", what, "move this one before it, or leave it out");
            }
            if behaviour.cache && behaviour.redirect.is_none() {
                key_hints(behaviour, &mut tell);
            }
            header_hints(behaviour, &mut tell);
        }
    }
    hints
}

fn key_hints(behaviour: &Behaviour, tell: &mut impl FnMut(&'static str, String, &str)) {
    let rule = &behaviour.cache_key;
    let drops =
        |name: &str| rule.drop.iter().any(|pattern| pattern == name || names(pattern, name));
    // A rule that drops some shows that somebody thought of it; a list of what is kept says it all.
    let kept: Vec<&str> = PERSONAL.into_iter().take(3).filter(|name| !drops(name)).collect();
    if rule.keep.is_empty() && !kept.is_empty() {
        let what = format!(
            "{} {} part of the cache key: such a request stores the object once more for each value",
            kept.join(", "),
            if kept.len() == 1 { "is" } else { "are" }
        );
        let mend = "cache_key = { drop = [\"token\", \"CMCD\", \"utm_*\"] }, or keep = [...] with those that matter";
        tell("cache_key", what, mend);
    }
    for personal in rule.keep.iter().filter(|name| PERSONAL.contains(&name.as_str())) {
        let what = format!("`{personal}` is kept in the cache key: once for each viewer");
        tell("cache_key", what, "leave it out of keep");
    }
    for (field, how) in SPLITTING {
        if !behaviour.vary_ignore.iter().any(|pattern| pattern == field || names(pattern, field)) {
            let what = format!("an answer with `Vary: {field}` is stored {how}");
            tell(
                "vary_ignore",
                what,
                "add the name to vary_ignore, unless the answers do differ by it",
            );
        }
    }
}

fn header_hints(behaviour: &Behaviour, tell: &mut impl FnMut(&'static str, String, &str)) {
    let named = |rule: &HeaderRule| match rule {
        HeaderRule::Set { name, .. }
        | HeaderRule::Add { name, .. }
        | HeaderRule::Remove { name } => name.to_ascii_lowercase(),
    };
    for (index, rule) in behaviour.response_headers.iter().enumerate() {
        let name = named(rule);
        let later = &behaviour.response_headers[index + 1..];
        let undone = later.iter().any(|later| {
            named(later) == name
                && matches!(later, HeaderRule::Set { .. } | HeaderRule::Remove { .. })
        });
        if undone {
            let what = format!("a later rule undoes this one about `{name}`");
            tell("response_headers", what, "keep the one that is meant");
        }
        if name == "set-cookie" && !matches!(rule, HeaderRule::Remove { .. }) {
            let what = "the same cookie is set for every viewer".to_owned();
            tell(
                "response_headers",
                what,
                "let the application set cookies, on paths that are not cached",
            );
        }
    }
}

fn names(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix))
}

/// Whether every path that `later` matches is matched by `first`. Tells no when it is not sure.
fn covers(first: &str, later: &str) -> bool {
    let (first, later) = (first.as_bytes(), later.as_bytes());
    // reach[p]: the pattern up to p may have matched what of `later` was looked at.
    let mut reach = vec![false; first.len() + 1];
    reach[0] = true;
    spread(first, &mut reach);
    for byte in later {
        let mut next = vec![false; first.len() + 1];
        for p in 0..first.len() {
            if !reach[p] {
                continue;
            }
            match first[p] {
                b'*' => next[p] = true,
                // Any run of characters is matched by a `*` alone, one character also by `?`.
                b'?' if *byte != b'*' => next[p + 1] = true,
                same if same == *byte && !matches!(byte, b'*' | b'?') => next[p + 1] = true,
                _ => {}
            }
        }
        spread(first, &mut next);
        reach = next;
    }
    reach[first.len()]
}

/// A `*` may match nothing.
fn spread(pattern: &[u8], reach: &mut [bool]) {
    for p in 0..pattern.len() {
        if reach[p] && pattern[p] == b'*' {
            reach[p + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_it_matches_and_no_more() {
        for (first, later, expected) in [
            ("*", "/a/*", true),
            ("/a/*", "/a/b/*", true),
            ("/a/*", "/a/*.m4s", true),
            ("*.m4s", "/a/*.m4s", true),
            ("/a/*.m4s", "*.m4s", false),
            ("/a/*", "/a*", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/a?c", true),
            ("/abc", "/a?c", false),
            ("/a?c", "/a*c", false),
            ("/a*c", "/a?c", true),
            ("*.m3u8", "*.mpd", false),
            ("/a/*", "/a/*", true),
            ("/*/x", "/a/b/x", true),
        ] {
            assert_eq!(covers(first, later), expected, "{first} over {later}");
        }
    }
}
