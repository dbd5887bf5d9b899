//! One text for each path (RFC 3986 §6.2.2): what cache keys, next hops and origins see.
//!
//! Must stay true: two paths get the same canonical text only when they differ in nothing but the spelling of
//! unreserved or unsafe bytes and in dot segments; `%2F` is never `/`, `//` is never `/`. The canonical
//! text is also what goes to the next hop, so that equal keys mean equal requests. Paths that hops are
//! known to read differently (NUL, other controls, broken escapes, climbing above the root) are refused.

use std::fmt;

/// Why a path has no canonical form. The answer to all of them is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It does not start with `/`.
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    Escape,
    /// A control byte, raw or escaped (`%00`, `%0A`).
    Control,
    /// `?` or `#` inside the path.
    Delimiter,
    /// More `..` than there are segments before it.
    AboveRoot,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::NotAbsolute => "the path must start with '/'",
            PathError::Escape => "'%' in a path must be followed by two hexadecimal digits",
            PathError::Control => "a path must not hold control characters, escaped or not",
            PathError::Delimiter => "'?' and '#' must be escaped inside a path",
            PathError::AboveRoot => "the path climbs above its root with '..'",
        })
    }
}

impl std::error::Error for PathError {}

/// The canonical text of a path.
///
/// # Errors
/// When hops could disagree about its meaning.
pub fn canonical_path(path: &str) -> Result<String, PathError> {
    let rest = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let mut out = String::with_capacity(path.len() + 8);
    // Where each kept segment starts in `out` (at its slash).
    let mut starts: Vec<usize> = Vec::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push('/');
        push_canonical(&mut out, segment)?;
        let last = segments.peek().is_none();
        match &out[start + 1..] {
            "." => {
                out.truncate(start);
                if last {
                    out.push('/');
                }
            }
            ".." => {
                out.truncate(starts.pop().ok_or(PathError::AboveRoot)?);
                if last {
                    out.push('/');
                }
            }
            _ => starts.push(start),
        }
    }
    Ok(out)
}

fn push_canonical(out: &mut String, segment: &str) -> Result<(), PathError> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let (decoded, escaped) = if byte == b'%' {
            let high = bytes
                .get(at + 1)
                .and_then(|b| char::from(*b).to_digit(16))
                .ok_or(PathError::Escape)?;
            let low = bytes
                .get(at + 2)
                .and_then(|b| char::from(*b).to_digit(16))
                .ok_or(PathError::Escape)?;
            at += 3;
            ((high * 16 + low) as u8, true)
        } else {
            at += 1;
            (byte, false)
        };
        if decoded < 0x20 || decoded == 0x7f {
            return Err(PathError::Control);
        }
        if !escaped && matches!(decoded, b'?' | b'#') {
            return Err(PathError::Delimiter);
        }
        // Reserved bytes mean different things with and without escape, so both spellings stay as they are.
        if is_unreserved(decoded) || (!escaped && is_reserved_in_path(decoded)) {
            out.push(char::from(decoded));
        } else {
            out.push('%');
            out.push(HEX[usize::from(decoded >> 4)]);
            out.push(HEX[usize::from(decoded & 15)]);
        }
    }
    Ok(())
}

const HEX: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];

/// RFC 3986 §2.3.
pub fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `sub-delims`, `:` and `@`: what RFC 3986 §3.3 allows in a segment besides the unreserved ones.
fn is_reserved_in_path(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
    )
}

/// Segments of a canonical path as file names, for a server of files. `None` when one of them cannot be a
/// file name: empty (except the last), `.` or `..`, with `/`, `\` or NUL inside, hidden (`.x`), or not
/// UTF-8.
pub fn file_names(canonical: &str) -> Option<Vec<String>> {
    let rest = canonical.strip_prefix('/')?;
    let count = rest.split('/').count();
    let mut names = Vec::with_capacity(count);
    for (index, segment) in rest.split('/').enumerate() {
        let mut name = Vec::with_capacity(segment.len());
        let mut bytes = segment.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                name.push((high * 16 + low) as u8);
            } else {
                name.push(byte);
            }
        }
        let odd = name.iter().any(|b| matches!(b, b'/' | b'\\' | 0..=0x1f | 0x7f));
        if odd || name.first() == Some(&b'.') || (name.is_empty() && index + 1 != count) {
            return None;
        }
        names.push(String::from_utf8(name).ok()?);
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_path_become_one() {
        for (input, expected) in [
            ("/", "/"),
            ("/a/b.m4s", "/a/b.m4s"),
            ("/%61/%7Eb%2em4s", "/a/~b.m4s"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a//b", "/a//b"),
            ("//", "//"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/b/../../c/", "/c/"),
            ("/a/%2E%2e/b", "/b"),
            ("/a/..%2fb", "/a/..%2Fb"),
            ("/a\\b", "/a%5Cb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a b", "/a%20b"),
            ("/\u{e9}", "/%C3%A9"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%ff", "/%FF"),
            ("/%25", "/%25"),
            ("/%2541", "/%2541"),
            ("/a;b=c,d", "/a;b=c,d"),
            ("/a%3Bb", "/a%3Bb"),
            ("/<\">|^`{}[]", "/%3C%22%3E%7C%5E%60%7B%7D%5B%5D"),
            ("/...", "/..."),
            ("/.a", "/.a"),
            ("//..", "/"),
        ] {
            assert_eq!(canonical_path(input).as_deref(), Ok(expected), "{input}");
        }
    }

    #[test]
    fn paths_that_hops_read_differently_are_refused() {
        for (input, error) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%+1", PathError::Escape),
            ("/a%00b", PathError::Control),
            ("/a%0a.css", PathError::Control),
            ("/a\0", PathError::Control),
            ("/a%7f", PathError::Control),
            ("/a\tb", PathError::Control),
            ("/..", PathError::AboveRoot),
            ("/../etc/passwd", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/%2e%2e/b", PathError::AboveRoot),
            ("/a?b", PathError::Delimiter),
            ("/a#b", PathError::Delimiter),
        ] {
            assert_eq!(canonical_path(input), Err(error), "{input:?}");
        }
    }

    #[test]
    fn no_file_name_leaves_the_tree() {
        assert_eq!(file_names("/a/b%20c.ts").unwrap(), ["a", "b c.ts"]);
        assert_eq!(file_names("/a/").unwrap(), ["a", ""]);
        for bad in
            ["/a/..%2Fb", "/a%5Cb", "/.hidden", "/a//b", "/%FF", "/..", "/%2E%2E", "/a%00", "x"]
        {
            assert_eq!(file_names(bad), None, "{bad}");
        }
    }

    /// The meaning of a path: segments of bytes, each marked when it is a reserved byte that was escaped.
    fn meaning(path: &str) -> Option<Vec<Vec<(u8, bool)>>> {
        let mut segments: Vec<Vec<(u8, bool)>> = Vec::new();
        let raw: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        for (index, segment) in raw.iter().enumerate() {
            let mut bytes = Vec::new();
            let mut it = segment.bytes();
            while let Some(b) = it.next() {
                if b == b'%' {
                    let pair = [it.next()?, it.next()?];
                    let decoded = u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?;
                    bytes.push((decoded, is_reserved_in_path(decoded) || decoded == b'/'));
                } else {
                    bytes.push((b, false));
                }
            }
            let plain: Vec<u8> = bytes.iter().map(|(b, _)| *b).collect();
            let last = index + 1 == raw.len();
            if plain == b"." || plain == b".." {
                if plain == b".." {
                    segments.pop()?;
                }
                if last {
                    segments.push(Vec::new());
                }
            } else {
                segments.push(bytes);
            }
        }
        Some(segments)
    }

    proptest! {
        #[test]
        fn canonical_text_is_stable_and_keeps_the_meaning(
            path in "/([a.~/;=\\\\ <@\u{e9}]|%2[fFeE5]|%41|%C3|%5c){0,12}",
        ) {
            if let Ok(canonical) = canonical_path(&path) {
                prop_assert_eq!(canonical_path(&canonical), Ok(canonical.clone()));
                prop_assert_eq!(meaning(&path), meaning(&canonical));
                prop_assert!(canonical.bytes().all(|b| (0x21..0x7f).contains(&b)));
            }
        }

        #[test]
        fn equal_canonical_texts_mean_equal_paths(
            a in "/([a.]|/|%2[fe]|%61|;|%3b){0,6}",
            b in "/([a.]|/|%2[fe]|%61|;|%3b){0,6}",
        ) {
            if let (Ok(x), Ok(y)) = (canonical_path(&a), canonical_path(&b)) {
                prop_assert_eq!(x == y, meaning(&a) == meaning(&b), "{} {}", a, b);
            }
        }

        #[test]
        fn any_text_is_survived(path in ".{0,40}") {
            if let Ok(canonical) = canonical_path(&path) {
                let _ = file_names(&canonical);
            }
            let _ = file_names(&path);
        }
    }
}
