//! Entity tags (RFC 9110 §8.8.3). Must stay true: weak tags never match in a strong comparison.

use crate::text::{list_members, trim};
use bytes::Bytes;
use std::fmt;

/// One entity tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntityTag {
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: Bytes,
}

impl EntityTag {
    /// Parses `"x"` or `W/"x"`; anything else (no quotes, `w/`, space inside) is `None`.
    pub fn parse(value: &[u8]) -> Option<EntityTag> {
        let value = trim(value);
        let (weak, quoted) = match value.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let [b'"', opaque @ .., b'"'] = quoted else { return None };
        let legal = opaque.iter().all(|b| *b == 0x21 || (0x23..=0x7e).contains(b) || *b >= 0x80);
        legal.then(|| EntityTag { weak, opaque: Bytes::copy_from_slice(opaque) })
    }

    /// Both strong and equal (RFC 9110 §8.8.3.2).
    pub fn strong_eq(&self, other: &EntityTag) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Equal, weak or not.
    pub fn weak_eq(&self, other: &EntityTag) -> bool {
        self.opaque == other.opaque
    }

    /// The field value.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.opaque.len() + 4);
        if self.weak {
            out.extend_from_slice(b"W/");
        }
        out.push(b'"');
        out.extend_from_slice(&self.opaque);
        out.push(b'"');
        out.into()
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// Value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityTags {
    /// `*`
    Any,
    /// The tags that could be read; broken ones match nothing and are left out.
    List(Vec<EntityTag>),
}

/// Parses the tags of all field lines together.
pub fn parse_list<'a>(values: impl Iterator<Item = &'a [u8]>) -> EntityTags {
    let mut list = Vec::new();
    for value in values {
        if trim(value) == b"*" {
            return EntityTags::Any;
        }
        // A backslash is an ordinary byte of a tag, so the quote-aware splitting of other lists does not fit.
        list.extend(split_tags(value));
    }
    EntityTags::List(list)
}

fn split_tags(value: &[u8]) -> impl Iterator<Item = EntityTag> {
    let has_backslash = value.contains(&b'\\');
    let by_quotes = (!has_backslash).then(|| list_members(value).filter_map(EntityTag::parse));
    let by_hand = has_backslash.then(|| {
        let mut quoted = false;
        value
            .split(move |b| {
                if *b == b'"' {
                    quoted = !quoted;
                }
                *b == b',' && !quoted
            })
            .filter_map(EntityTag::parse)
    });
    by_quotes.into_iter().flatten().chain(by_hand.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> EntityTag {
        EntityTag::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_comparison_table_of_rfc_9110() {
        for (a, b, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
        ] {
            assert_eq!(
                (tag(a).strong_eq(&tag(b)), tag(a).weak_eq(&tag(b))),
                (strong, weak),
                "{a} {b}"
            );
        }
    }

    #[test]
    fn broken_tags_are_refused() {
        for bad in [
            "", "x", "\"", "\"x", "x\"", "w/\"x\"", "W/x", "\"a\"b\"", "\"a b\"", "W/ \"a\"",
            "\"a\tb\"",
        ] {
            assert_eq!(EntityTag::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(tag("\"\"").opaque, Bytes::new());
        assert_eq!(tag("W/\"a,b\"").to_string(), "W/\"a,b\"");
    }

    #[test]
    fn lists_keep_good_tags() {
        let EntityTags::List(list) =
            parse_list([&b"\"a,b\", W/\"c\", broken"[..], b"\"d\\\",\"e\""].into_iter())
        else {
            panic!("a list");
        };
        let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["\"a,b\"", "W/\"c\"", "\"d\\\"", "\"e\""]);
        assert_eq!(parse_list([&b" * "[..]].into_iter()), EntityTags::Any);
    }
}
