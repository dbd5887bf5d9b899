//! A domain name in wire form, its case kept as written (resolvers check it), compared without case.
//!
//! Must stay true: the wire form is whole (ends with the root label), at most 255 bytes, labels at most 63.

use std::fmt;

/// A domain name.
#[derive(Clone)]
pub struct Name {
    wire: Vec<u8>,
}

/// A text or message that holds no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameError;

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no domain name; labels have 1 to 63 bytes, the whole at most 255")
    }
}

impl std::error::Error for NameError {}

impl Name {
    /// The root.
    pub fn root() -> Name {
        Name { wire: vec![0] }
    }

    /// From text like `www.example.net`, with or without a dot at the end; no escapes.
    pub fn from_text(text: &str) -> Result<Name, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.split('.').filter(|_| !text.is_empty()) {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX || !label.is_ascii() {
                return Err(NameError);
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        if wire.len() > NAME_BYTES_MAX { Err(NameError) } else { Ok(Name { wire }) }
    }

    /// The name at the start of `bytes`, and what follows it. A compression pointer is an error: this is for
    /// the question of a query, where there is nothing before it to point to.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Name, &[u8]), NameError> {
        let mut position = 0;
        loop {
            let length = usize::from(*bytes.get(position).ok_or(NameError)?);
            if length > LABEL_BYTES_MAX || position + 1 + length > NAME_BYTES_MAX {
                return Err(NameError);
            }
            position += 1 + length;
            if length == 0 {
                let (wire, rest) = bytes.split_at_checked(position).ok_or(NameError)?;
                return Ok((Name { wire: wire.to_vec() }, rest));
            }
        }
    }

    /// What follows the name at the start of `bytes`; a pointer ends it and is not followed.
    pub(crate) fn skip(bytes: &[u8]) -> Result<&[u8], NameError> {
        let mut position = 0;
        loop {
            let length = usize::from(*bytes.get(position).ok_or(NameError)?);
            match length {
                0 => return bytes.get(position + 1..).ok_or(NameError),
                1..=LABEL_BYTES_MAX if position < NAME_BYTES_MAX => position += 1 + length,
                0xc0.. => return bytes.get(position + 2..).ok_or(NameError),
                _ => return Err(NameError),
            }
        }
    }

    /// The wire form.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Labels from the left, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.wire[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            (!label.is_empty()).then_some(label)
        })
    }

    /// Whether this is `zone` or lies below it.
    pub fn is_within(&self, zone: &Name) -> bool {
        self.suffix_offset(&zone.wire).is_some()
    }

    /// Where in this name's wire form `suffix`, a wire form too, begins.
    pub(crate) fn suffix_offset(&self, suffix: &[u8]) -> Option<usize> {
        let start = self.wire.len().checked_sub(suffix.len())?;
        let mut position = 0;
        while position < start {
            position += 1 + usize::from(self.wire[position]);
        }
        (position == start && self.wire[start..].eq_ignore_ascii_case(suffix)).then_some(start)
    }

    /// Lower-case text without a dot at the end; bytes that no host name has become `?`, so that the text
    /// equals no configured name.
    pub fn to_host(&self) -> String {
        let mut text = String::with_capacity(self.wire.len());
        for label in self.labels() {
            if !text.is_empty() {
                text.push('.');
            }
            let plain = |b: &u8| {
                if b.is_ascii_graphic() && *b != b'.' { b.to_ascii_lowercase() } else { b'?' }
            };
            text.extend(label.iter().map(|b| char::from(plain(b))));
        }
        text
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.wire.eq_ignore_ascii_case(&other.wire)
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({}.)", self.to_host())
    }
}

/// RFC 1035 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 255;
