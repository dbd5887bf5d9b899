//! Which behaviour a path falls under.
//!
//! Must stay true: matched is the canonical path, the one that the origin sees too, so that `/x%2Ecss` cannot
//! be one thing here and another there. The matcher never goes back further than the last `*`, so its steps
//! are at most path length times pattern length; patterns come from the snapshot, not from clients.

use tidegate_contract::snapshot::Behaviour;

/// The first behaviour whose glob matches the canonical path.
pub fn first_behaviour<'a>(
    behaviours: &'a [Behaviour],
    canonical_path: &str,
) -> Option<&'a Behaviour> {
    behaviours.iter().find(|behaviour| glob_match(&behaviour.path, canonical_path))
}

/// `*` stands for any run of characters (also none, also slashes), `?` for exactly one. Case counts.
pub fn glob_match(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    let (mut p, mut s) = (0, 0);
    // After the last star: where its rest of the pattern starts, and where in the path it was tried.
    let mut star: Option<(usize, usize)> = None;
    while s < path.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, s));
            }
            Some(b) if *b == b'?' || *b == path[s] => {
                p += 1;
                s += 1;
            }
            _ => match &mut star {
                Some((rest, tried)) => {
                    // Only the last star needs to grow: earlier ones have already given the shortest match.
                    *tried += 1;
                    p = *rest;
                    s = *tried;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_match_as_people_expect() {
        for (pattern, path, expected) in [
            ("*", "/", true),
            ("*", "/a/b", true),
            ("/videos/*", "/videos/a/b.m4s", true),
            ("/videos/*", "/videos/", true),
            ("/videos/*", "/videos", false),
            ("*.m3u8", "/a/b.m3u8", true),
            ("*.m3u8", "/a/b.m3u8x", false),
            ("*.m3u8", "/a.m3u8/b", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/ac", false),
            ("/*/live/*.mpd", "/x/live/y/z.mpd", true),
            ("/*/live/*.mpd", "/x/vod/z.mpd", false),
            ("", "/", false),
            ("/A", "/a", false),
            ("**a**", "/xay", true),
        ] {
            assert_eq!(glob_match(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_do_not_make_it_slow() {
        // Exponential matchers do not end on this within the life of the universe.
        let pattern = "*a".repeat(40) + "b";
        assert!(!glob_match(&pattern, &"a".repeat(8_000)));
    }

    fn oracle(pattern: &[u8], path: &[u8]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((b'*', rest)), _) => (0..=path.len()).any(|skip| oracle(rest, &path[skip..])),
            (Some(_), None) => false,
            (Some((p, rest)), Some((s, after))) => (*p == b'?' || p == s) && oracle(rest, after),
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_its_definition(pattern in "[ab*?]{0,8}", path in "[ab]{0,10}") {
            prop_assert_eq!(glob_match(&pattern, &path), oracle(pattern.as_bytes(), path.as_bytes()));
        }
    }
}
