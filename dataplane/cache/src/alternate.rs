//! Alternates: several stored responses of one cache key, told apart by the request fields that `Vary` names
//! (RFC 9111 §4.1).
//!
//! A key whose responses vary has no object of its own but a *marker*, the names of the fields that matter. Each
//! alternate is an object under a key made of the first one and these fields' values, so that it is filled, collapsed,
//! stored and evicted by itself. The fields that matter go to the next hop as the client sent them, no others do:
//! what a client says and is no part of the key cannot change what another one gets.
//!
//! Must stay true: two requests with equal values of all names share an alternate; a value that is absent is not an
//! empty one; names only come, never go, while a marker lives.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use tidegate_http::{Fields, is_token, list_members};

/// Fields that chose an alternate: name (lower case, sorted), and the value in its normal form when it was sent.
pub type Chosen = Vec<(String, Option<Bytes>)>;

/// Names in all `Vary` fields that are not on the list of `ignored` ones, lower case, sorted, each once; `None` for
/// `*` or for what is no name.
pub fn vary_names(response: &Fields, ignored: &[String]) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for member in response.get_all("vary").flat_map(list_members) {
        if member == b"*" || !is_token(member) {
            return None;
        }
        let name = String::from_utf8_lossy(member).to_ascii_lowercase();
        // Made by this node for each fill, or for this node alone: the same for all clients.
        let own = matches!(name.as_str(), "via" | "cdn-loop" | "host" | "tidegate-debug");
        if !own && !ignored.iter().any(|pattern| matches(pattern, &name)) {
            names.push(name);
        }
    }
    names.sort();
    names.dedup();
    Some(names)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// The value of a request's field in its normal form: all lines as one list, without white space around members.
/// RFC 9111 §4.1 allows changes of white space that mean nothing.
pub fn normal_value(request: &Fields, name: &str) -> Option<Bytes> {
    let combined = request.combined(name)?;
    let members: Vec<&[u8]> = list_members(&combined).collect();
    Some(members.join(&b","[..]).into())
}

/// What a request says in the fields of these names.
pub fn choose(names: &[String], request: &Fields) -> Chosen {
    names.iter().map(|name| (name.clone(), normal_value(request, name))).collect()
}

/// What a fill that sent `sent` said in the fields of these names.
pub fn choose_as_sent(names: &[String], sent: &Chosen) -> Chosen {
    let value = |name: &String| sent.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone());
    names.iter().map(|name| (name.clone(), value(name))).collect()
}

/// The key of the alternate of `key` that these fields choose; `key` itself when nothing varies.
pub fn alternate_key(key: u128, chosen: &Chosen) -> u128 {
    if chosen.is_empty() {
        return key;
    }
    let mut hash = Context::new(&SHA256);
    hash.update(&key.to_le_bytes());
    for (name, value) in chosen {
        let value_bytes = value.as_ref().map_or(u64::MAX, |value| value.len() as u64);
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(&value_bytes.to_le_bytes());
        hash.update(value.as_deref().unwrap_or_default());
    }
    let digest = hash.finish();
    let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    u128::from_le_bytes(*first)
}

/// What is stored under a key whose responses vary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    pub names: Vec<String>,
    /// Alternates of this version and older ones are not valid any more.
    pub floor: u64,
}

const MAGIC: &[u8; 4] = b"TGVA";

impl Marker {
    /// Bytes for the store: magic, floor, count, then each name behind its length.
    pub fn encode(&self) -> Vec<u8> {
        let names = &self.names[..self.names.len().min(NAMES_MAX)];
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.floor.to_le_bytes());
        out.push(names.len() as u8);
        for name in names {
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    /// Reads what `encode` wrote. `None`: something else.
    pub fn decode(bytes: &[u8]) -> Option<Marker> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (floor, rest) = rest.split_first_chunk::<8>()?;
        let (count, mut rest) = rest.split_first()?;
        let mut names = Vec::new();
        for _ in 0..*count {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (name, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
            if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
                return None;
            }
            names.push(String::from_utf8_lossy(name).into_owned());
            rest = after;
        }
        let good = !names.is_empty() && names.len() <= NAMES_MAX && names.is_sorted();
        good.then(|| Marker { names, floor: u64::from_le_bytes(*floor) })
    }

    /// This marker with more names. `None`: too many of them.
    pub fn with(&self, more: &[String]) -> Option<Marker> {
        let mut names = self.names.clone();
        names.extend(more.iter().cloned());
        names.sort();
        names.dedup();
        (names.len() <= NAMES_MAX).then_some(Marker { names, floor: self.floor })
    }
}

/// More names than this make alternates that nobody asks for twice.
pub const NAMES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::fields;
    use proptest::prelude::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_are_those_that_are_heeded() {
        let ignored = names(&["origin", "sec-*"]);
        let heeded = |lines: &str| vary_names(&fields(lines), &ignored);
        assert_eq!(
            heeded("vary: Accept-Language, Origin\nvary: Sec-Fetch-Dest, X"),
            Some(names(&["accept-language", "x"]))
        );
        assert_eq!(heeded("vary: b, a, B, Via"), Some(names(&["a", "b"])));
        assert_eq!(heeded("x: y"), Some(vec![]));
        assert_eq!(heeded("vary: a, *"), None);
        assert_eq!(heeded("vary: a b"), None);
        assert_eq!(vary_names(&fields("vary: a"), &names(&["*"])), Some(vec![]));
    }

    #[test]
    fn rfc_9111_4_1_values_are_compared_by_their_members() {
        let key = |lines: &str| alternate_key(7, &choose(&names(&["a", "b"]), &fields(lines)));
        let same = key("a: x, y\nb: 1");
        assert_eq!(key("a: x,y\nb:  1 "), same);
        assert_eq!(key("b: 1\na: x\na: y"), same);
        assert_eq!(key("a: x, y\nb: 1\nc: 2"), same, "what is not named does not matter");
        for other in
            ["a: y, x\nb: 1", "a: x\nb: 1", "a: x, y", "b: 1", "a: x, y\nb: ", "a: X, y\nb: 1"]
        {
            assert_ne!(key(other), same, "{other}");
        }
        assert_ne!(key("a: "), key(""), "empty is not absent");
        assert_eq!(alternate_key(7, &vec![]), 7);
        assert_ne!(
            alternate_key(8, &choose(&names(&["a"]), &fields(""))),
            alternate_key(7, &choose(&names(&["a"]), &fields("")))
        );
    }

    #[test]
    fn markers_come_back_and_grow() {
        let marker = Marker { names: names(&["a", "c"]), floor: 9 };
        assert_eq!(Marker::decode(&marker.encode()), Some(marker.clone()));
        let bytes = marker.encode();
        for end in 0..bytes.len() {
            assert_eq!(Marker::decode(&bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(marker.with(&names(&["b", "a"])).unwrap().names, ["a", "b", "c"]);
        let many: Vec<String> = (0..NAMES_MAX).map(|n| format!("n{n}")).collect();
        assert_eq!(marker.with(&many), None);
    }

    proptest! {
        #[test]
        fn any_marker_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Marker::decode(&[&MAGIC[..], &bytes].concat());
            let _ = Marker::decode(&bytes);
        }

        #[test]
        fn equal_values_share_a_key_and_others_do_not(
            a in proptest::option::of("[ab, ]{0,4}"),
            b in proptest::option::of("[ab, ]{0,4}"),
        ) {
            let with = |value: &Option<String>| {
                let mut fields = Fields::new();
                if let Some(value) = value {
                    fields.append("x", value.clone()).unwrap();
                }
                choose(&names(&["x"]), &fields)
            };
            let (a, b) = (with(&a), with(&b));
            prop_assert_eq!(alternate_key(1, &a) == alternate_key(1, &b), a == b);
        }
    }
}
