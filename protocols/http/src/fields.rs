//! The field section of a message: an ordered list of names and values (RFC 9110 §5).
//!
//! Must stay true: every name in it is a lower-case token and every value is free of CR, LF, NUL and other
//! controls (tab excepted) and of white space at its ends. A head needs few allocations: well-known names are
//! static, values are slices of one shared buffer.

use crate::text::{is_token_byte, is_value_byte, trim};
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// Fields in the order in which they came or were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    list: Vec<(Cow<'static, str>, Bytes)>,
}

/// Why a field was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldError {
    /// The name is empty or holds a byte that no token has.
    Name,
    /// The value holds CR, LF, NUL or another control.
    Value,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FieldError::Name => {
                "a field name must be a token (letters, digits and !#$%&'*+-.^_`|~)"
            }
            FieldError::Value => {
                "a field value must not hold controls (CR, LF, NUL, ...): remove or encode them"
            }
        })
    }
}

impl std::error::Error for FieldError {}

impl Fields {
    /// No fields.
    pub fn new() -> Fields {
        Fields::default()
    }

    /// No fields yet, space for `count`.
    pub fn with_capacity(count: usize) -> Fields {
        Fields { list: Vec::with_capacity(count) }
    }

    /// Adds a field at the end.
    ///
    /// # Errors
    /// When the name is no token or the value holds controls; nothing is added then.
    pub fn append(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Bytes>,
    ) -> Result<(), FieldError> {
        let name = checked_name(name.into())?;
        let value = checked_value(value.into())?;
        self.list.push((name, value));
        Ok(())
    }

    /// Adds a field whose name comes as bytes in any case, as parsers have it.
    ///
    /// # Errors
    /// As [`Fields::append`].
    pub fn append_parsed(&mut self, name: &[u8], value: Bytes) -> Result<(), FieldError> {
        let name = lower_name(name)?;
        let value = checked_value(value)?;
        self.list.push((name, value));
        Ok(())
    }

    /// Puts one field of this name in place of all that there are (at the place of the first).
    ///
    /// # Errors
    /// As [`Fields::append`]; nothing is changed then.
    pub fn set(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Bytes>,
    ) -> Result<(), FieldError> {
        let name = checked_name(name.into())?;
        let value = checked_value(value.into())?;
        match self.list.iter().position(|(n, _)| *n == name) {
            None => self.list.push((name, value)),
            Some(first) => {
                self.list[first].1 = value;
                let mut index = 0;
                self.list.retain(|(n, _)| {
                    index += 1;
                    index - 1 <= first || *n != name
                });
            }
        }
        Ok(())
    }

    /// Takes out all fields of this name; tells how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.list.len();
        self.list.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        before - self.list.len()
    }

    /// Keeps the fields for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        self.list.retain(|(name, value)| keep(name, value));
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// The first value of this name (any case).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_bytes(name).map(|value| &value[..])
    }

    /// The first value of this name, shareable without a copy.
    pub fn get_bytes(&self, name: &str) -> Option<&Bytes> {
        self.list.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first value of this name, when it is text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All values of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.list
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| &value[..])
    }

    /// All values of this name joined with `, ` (RFC 9110 §5.3); no copy when there is one.
    pub fn combined<'a>(&'a self, name: &'a str) -> Option<Cow<'a, [u8]>> {
        let mut values = self.get_all(name);
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }

    /// Whether there is a field of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get_bytes(name).is_some()
    }

    /// Names (lower case) and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.list.iter().map(|(name, value)| (&**name, &value[..]))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes that these fields take on an HTTP/1.1 wire: name, colon, space, value, CR, LF.
    pub fn wire_size(&self) -> usize {
        self.list.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
    }
}

fn checked_name(name: Cow<'static, str>) -> Result<Cow<'static, str>, FieldError> {
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(FieldError::Name);
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return lower_name(name.as_bytes());
    }
    Ok(name)
}

fn checked_value(value: Bytes) -> Result<Bytes, FieldError> {
    // Without an early end, so that the compiler looks at many bytes at once.
    if value.iter().fold(false, |bad, b| bad | !is_value_byte(*b)) {
        return Err(FieldError::Value);
    }
    let inner = trim(&value);
    if inner.len() == value.len() { Ok(value) } else { Ok(value.slice_ref(inner)) }
}

fn lower_name(name: &[u8]) -> Result<Cow<'static, str>, FieldError> {
    if name.is_empty() || !name.iter().all(|b| is_token_byte(*b)) {
        return Err(FieldError::Name);
    }
    let mut buffer = [0u8; KNOWN_NAME_BYTES_MAX];
    if let Some(lower) = buffer.get_mut(..name.len()) {
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        if let Some(known) = known_name(lower) {
            return Ok(Cow::Borrowed(known));
        }
    }
    let mut owned = String::with_capacity(name.len());
    owned.extend(name.iter().map(|b| char::from(b.to_ascii_lowercase())));
    Ok(Cow::Owned(owned))
}

macro_rules! known_names {
    ($($name:literal)*) => {
        /// Well-known names, shortest first, so that a length leaves a few candidates.
        const KNOWN_NAMES: [&str; [$($name),*].len()] = {
            let mut names = [$($name),*];
            let mut i = 1;
            while i < names.len() {
                let mut j = i;
                while j > 0 && names[j - 1].len() > names[j].len() {
                    let name = names[j];
                    names[j] = names[j - 1];
                    names[j - 1] = name;
                    j -= 1;
                }
                i += 1;
            }
            names
        };
    };
}

/// Bytes of the longest well-known name.
const KNOWN_NAME_BYTES_MAX: usize = KNOWN_NAMES[KNOWN_NAMES.len() - 1].len();

/// For each length the index of the first name that is at least so long.
const KNOWN_NAMES_FROM: [usize; KNOWN_NAME_BYTES_MAX + 2] = {
    let mut from = [0; KNOWN_NAME_BYTES_MAX + 2];
    let mut length = 0;
    let mut index = 0;
    while length < from.len() {
        while index < KNOWN_NAMES.len() && KNOWN_NAMES[index].len() < length {
            index += 1;
        }
        from[length] = index;
        length += 1;
    }
    from
};

/// The static text of a well-known lower-case name, so that parsing it allocates nothing.
fn known_name(lower: &[u8]) -> Option<&'static str> {
    let from = *KNOWN_NAMES_FROM.get(lower.len())?;
    let to = *KNOWN_NAMES_FROM.get(lower.len() + 1)?;
    KNOWN_NAMES[from..to].iter().copied().find(|name| name.as_bytes() == lower)
}

// Among names of one length the more frequent ones come first.
known_names! {
    "host" "user-agent" "accept" "accept-encoding" "accept-language" "connection" "range" "if-none-match"
    "content-type" "content-length" "date" "server" "cache-control" "etag" "last-modified" "accept-ranges"
    "content-range" "age" "via" "cache-status" "vary" "expires" "transfer-encoding" "referer" "origin"
    "cookie"
    "authorization" "if-modified-since" "if-match" "if-unmodified-since" "if-range" "pragma" "expect" "te"
    "trailer" "upgrade" "keep-alive" "proxy-connection" "content-encoding" "content-language"
    "content-location" "set-cookie" "location" "retry-after" "allow" "warning" "cdn-loop" "forwarded"
    "x-forwarded-for" "x-forwarded-proto" "x-forwarded-host" "x-request-id" "sec-fetch-dest" "sec-fetch-mode"
    "sec-fetch-site" "sec-fetch-user" "sec-ch-ua" "sec-ch-ua-mobile" "sec-ch-ua-platform" "dnt" "priority"
    "upgrade-insecure-requests" "cmcd-object" "cmcd-request" "cmcd-session" "cmcd-status"
    "access-control-allow-origin" "access-control-allow-headers" "access-control-allow-methods"
    "access-control-expose-headers" "access-control-max-age" "access-control-request-headers"
    "access-control-request-method" "access-control-allow-credentials" "timing-allow-origin"
    "strict-transport-security" "content-security-policy" "x-content-type-options" "cdn-cache-control"
    "surrogate-control" "surrogate-key" "cache-tag" "alt-svc" "content-disposition" "traceparent" "tracestate"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_all_and_append_keeps_order() {
        let mut fields = Fields::new();
        fields.append("Vary", "a").unwrap();
        fields.append("x-one", "1").unwrap();
        fields.append("vary", " b\t").unwrap();
        assert_eq!(fields.combined("VARY").unwrap(), &b"a, b"[..]);
        assert_eq!(fields.get_all("vary").count(), 2);
        fields.set("vary", "c").unwrap();
        assert_eq!(fields.iter().collect::<Vec<_>>(), [("vary", &b"c"[..]), ("x-one", b"1")]);
        assert_eq!(fields.wire_size(), "vary: c\r\nx-one: 1\r\n".len());
        assert_eq!(fields.remove("X-One"), 1);
        assert_eq!((fields.len(), fields.get("x-one")), (1, None));
    }

    #[test]
    fn controls_never_get_in() {
        let mut fields = Fields::new();
        for bad in ["a\rb", "a\nb", "a\0b", "\r\n", "a\x7fb", "\x0ba", "a\x1b"] {
            assert_eq!(fields.append("x", bad), Err(FieldError::Value), "{bad:?}");
            assert_eq!(fields.set("x", bad), Err(FieldError::Value), "{bad:?}");
        }
        for bad in ["", "a b", "a:", "a\r", "\u{e9}", "a\0"] {
            assert_eq!(fields.append(bad, "v"), Err(FieldError::Name), "{bad:?}");
            assert_eq!(fields.append_parsed(bad.as_bytes(), Bytes::new()), Err(FieldError::Name));
        }
        assert!(fields.is_empty());
        fields.append("x", "tab\tand caf\u{e9}").unwrap();
    }

    #[test]
    fn every_well_known_name_is_found() {
        for name in KNOWN_NAMES {
            assert_eq!(known_name(name.as_bytes()), Some(name));
        }
        for other in [
            "",
            "hosu",
            "hos",
            "access-control-allow-credentialz",
            "a-name-longer-than-all-well-known-ones",
        ] {
            assert_eq!(known_name(other.as_bytes()), None);
        }
    }

    #[test]
    fn parsed_names_are_lower_case_and_known_ones_are_static() {
        let mut fields = Fields::new();
        fields.append_parsed(b"Content-TYPE", Bytes::from_static(b"a")).unwrap();
        fields.append_parsed(b"X-Odd-Name", Bytes::from_static(b"b")).unwrap();
        assert!(matches!(fields.list[0].0, Cow::Borrowed("content-type")));
        assert_eq!(fields.list[1].0, "x-odd-name");
    }
}
