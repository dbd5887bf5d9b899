//! What a player tells of itself with a request: Common Media Client Data, version 1 (CTA-5004), in the four `CMCD-*` fields or in
//! the query argument `CMCD`.
//!
//! Read by a parser of its own: names of a player's own keys may hold capitals, which structured fields refuse. Must stay true: what
//! breaks the rules anywhere says nothing at all, and is never an error to the viewer; what it takes to read is
//! bounded by [`TEXT_BYTES_MAX`]; a next object that could be of another origin is refused, not mended.

use crate::fields::Fields;
use crate::path::{PathError, canonical_path};
use std::borrow::Cow;
use std::fmt;

/// Of all that one request tells.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Of `nor`, decoded.
pub const NEXT_BYTES_MAX: usize = 2048;
const KEY_BYTES_MAX: usize = 64;
/// Digits of a whole number (RFC 9651 §3.3.1).
const DIGITS_MAX: usize = 15;
const VERSION: u64 = 1;

/// The fields that carry it.
pub const FIELDS: [&str; 4] = ["cmcd-object", "cmcd-request", "cmcd-session", "cmcd-status"];
/// The query argument that does.
pub const ARGUMENT: &str = "CMCD";

/// As far as it is made use of; the other keys are checked for their form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmcd {
    /// `br`: of the object that is asked for, kbit/s.
    pub bitrate_kbps: Option<u64>,
    /// `tb`: of the highest rendition that the player could choose, kbit/s.
    pub top_bitrate_kbps: Option<u64>,
    /// `rtp`: the throughput that the player finds enough, kbit/s.
    pub requested_kbps: Option<u64>,
    /// `bl`: how much it has in its buffer, milliseconds.
    pub buffer_ms: Option<u64>,
    /// `dl`: from the request until the object's first sample must be there, milliseconds.
    pub deadline_ms: Option<u64>,
    /// `su`: it starts, seeks or recovers.
    pub startup: bool,
    /// `bs`: its buffer ran dry.
    pub starved: bool,
    /// `nor`: what it will ask for next, a reference relative to this request.
    pub next: Option<String>,
    /// `nrr`: first and last byte of it that it will ask for.
    pub next_range: Option<(u64, Option<u64>)>,
}

/// What a request tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It carries none.
    Nothing,
    Read(Box<Cmcd>),
    /// It carries some that breaks the rules, or of another version.
    Ignored,
}

/// What the request with these fields and this query tells. Fields count when there are any, else the query.
pub fn told(fields: &Fields, query: Option<&str>) -> Told {
    let mut cmcd = Cmcd::default();
    let (mut found, mut bytes) = (false, 0);
    for (name, value) in fields.iter() {
        // Fields are in lower case; most requests have none that begins so.
        if name.starts_with("cmcd-") && FIELDS.contains(&name) {
            (found, bytes) = (true, bytes + value.len());
            if bytes > TEXT_BYTES_MAX || read(value, &mut cmcd).is_none() {
                return Told::Ignored;
            }
        }
    }
    let mut arguments = query
        .filter(|_| !found)
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|argument| argument.strip_prefix(ARGUMENT)?.strip_prefix('='));
    if let Some(argument) = arguments.next() {
        found = true;
        let text = percent_decode(argument, TEXT_BYTES_MAX);
        let read = text.and_then(|text| read(&text, &mut cmcd));
        if read.is_none() || arguments.next().is_some() {
            return Told::Ignored;
        }
    }
    if found { Told::Read(Box::new(cmcd)) } else { Told::Nothing }
}

/// The query without it.
pub fn without(query: &str) -> Cow<'_, str> {
    let is_other = |argument: &&str| argument.split('=').next() != Some(ARGUMENT);
    match query.split('&').all(|argument| is_other(&argument)) {
        true => Cow::Borrowed(query),
        false => Cow::Owned(query.split('&').filter(is_other).collect::<Vec<_>>().join("&")),
    }
}

/// Reads `key=value` pairs with commas between them. `None`: they break the rules.
fn read(text: &[u8], into: &mut Cmcd) -> Option<()> {
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        let len = rest.iter().position(|b| !is_key_byte(*b)).unwrap_or(rest.len());
        if len == 0 || len > KEY_BYTES_MAX {
            return None;
        }
        let (key, behind) = rest.split_at(len);
        let (value, behind) = match behind.strip_prefix(b"=") {
            Some(behind) => value(behind)?,
            None => (Value::True, behind),
        };
        into.take(key, value)?;
        rest = match behind.trim_ascii_start() {
            [] => &[],
            // Something must follow a comma.
            [b',', more @ ..] => Some(more.trim_ascii_start()).filter(|more| !more.is_empty())?,
            _ => return None,
        };
    }
    Some(())
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*')
}

enum Value {
    True,
    Text(Vec<u8>),
    /// A number or a token.
    Word(Vec<u8>),
}

impl Value {
    fn number(&self) -> Option<u64> {
        match self {
            Value::Word(word) if (1..=DIGITS_MAX).contains(&word.len()) => {
                let digits = word.iter().all(u8::is_ascii_digit);
                std::str::from_utf8(word).ok().filter(|_| digits)?.parse().ok()
            }
            _ => None,
        }
    }
}

/// The value at the start, and what follows it.
fn value(text: &[u8]) -> Option<(Value, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let ends = |b: &u8| matches!(*b, b',' | b' ' | b'\t');
        let (word, rest) = text.split_at(text.iter().position(ends).unwrap_or(text.len()));
        let good = |b: &u8| b.is_ascii_graphic() && !matches!(*b, b'"' | b'\\' | b';' | b'=');
        return (!word.is_empty() && word.iter().all(good))
            .then(|| (Value::Word(word.to_vec()), rest));
    };
    let mut out = Vec::new();
    loop {
        let (byte, behind) = rest.split_first()?;
        rest = behind;
        match byte {
            b'"' => return Some((Value::Text(out), rest)),
            b'\\' => {
                let (escaped, behind) = rest.split_first()?;
                if !matches!(escaped, b'"' | b'\\') {
                    return None;
                }
                out.push(*escaped);
                rest = behind;
            }
            b' '..=b'~' => out.push(*byte),
            _ => return None,
        }
    }
}

impl Cmcd {
    /// Takes a pair; the last of two counts. `None`: a value that its key cannot have.
    fn take(&mut self, key: &[u8], value: Value) -> Option<()> {
        let number = |slot: &mut Option<u64>| {
            *slot = Some(value.number()?);
            Some(())
        };
        match key {
            b"br" => number(&mut self.bitrate_kbps),
            b"tb" => number(&mut self.top_bitrate_kbps),
            b"rtp" => number(&mut self.requested_kbps),
            b"bl" => number(&mut self.buffer_ms),
            b"dl" => number(&mut self.deadline_ms),
            b"d" | b"mtp" => value.number().map(drop),
            b"v" => (value.number()? == VERSION).then_some(()),
            b"su" | b"bs" => {
                let slot = if key == b"su" { &mut self.startup } else { &mut self.starved };
                *slot = matches!(value, Value::True);
                slot.then_some(())
            }
            b"nor" => {
                let Value::Text(text) = value else { return None };
                let decoded = percent_decode(std::str::from_utf8(&text).ok()?, TEXT_BYTES_MAX)?;
                self.next = Some(String::from_utf8(decoded).ok()?);
                Some(())
            }
            b"nrr" => {
                let Value::Text(text) = value else { return None };
                self.next_range = Some(range(std::str::from_utf8(&text).ok()?)?);
                Some(())
            }
            b"cid" | b"sid" => matches!(value, Value::Text(_)).then_some(()),
            b"ot" | b"sf" | b"st" | b"pr" => matches!(value, Value::Word(_)).then_some(()),
            _ => Some(()), // a player's own
        }
    }
}

/// `first-last` or `first-`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let number = |text: &str| Value::Word(text.as_bytes().to_vec()).number();
    let (first, last) = text.split_once('-')?;
    let first = number(first)?;
    match last {
        "" => Some((first, None)),
        last => Some((first, Some(number(last).filter(|last| *last >= first)?))),
    }
}

/// `None`: a broken escape, or more than `max` bytes.
fn percent_decode(text: &str, max: usize) -> Option<Vec<u8>> {
    if text.len() > 3 * max {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    (out.len() <= max).then_some(out)
}

/// Why a next object is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextRefused {
    TooLong,
    /// It names a scheme or a host, or could be read as if it did.
    OtherOrigin,
    /// A fragment, or bytes that no reference has.
    Bytes,
    Path(PathError),
}

impl fmt::Display for NextRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextRefused::TooLong => f.write_str("the next object's name is too long"),
            NextRefused::OtherOrigin => f.write_str("the next object is of another origin"),
            NextRefused::Bytes => f.write_str("the next object's name holds forbidden bytes"),
            NextRefused::Path(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NextRefused {}

/// Canonical path, and query, of the next object of a request for `path` (RFC 3986 §5.2, but that what climbs above the root is
/// refused).
///
/// # Errors
/// It could lead elsewhere than to the same origin.
pub fn resolve_next(path: &str, next: &str) -> Result<(String, Option<String>), NextRefused> {
    if next.len() > NEXT_BYTES_MAX {
        return Err(NextRefused::TooLong);
    }
    if next.starts_with("//") || next.contains('\\') {
        return Err(NextRefused::OtherOrigin);
    }
    if next.contains('#') || !next.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(NextRefused::Bytes);
    }
    let (reference, query) = match next.split_once('?') {
        Some((reference, query)) => (reference, Some(query.to_owned())),
        None => (next, None),
    };
    // A colon in the first segment ends a scheme (RFC 3986 §4.2).
    if reference.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(NextRefused::OtherOrigin);
    }
    let target = match reference {
        "" => path.to_owned(),
        reference if reference.starts_with('/') => reference.to_owned(),
        reference => {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{folder}{reference}")
        }
    };
    let path = canonical_path(&target).map_err(NextRefused::Path)?;
    Ok((path, query))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append((*name).to_owned(), (*value).to_owned()).unwrap();
        }
        fields
    }

    fn read_text(text: &str) -> Option<Cmcd> {
        match told(&fields(&[("cmcd-request", text)]), None) {
            Told::Read(cmcd) => Some(*cmcd),
            Told::Ignored => None,
            Told::Nothing => panic!("{text} was not seen"),
        }
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // CTA-5004, clause 5: four fields, and the same as a query argument.
        let request = fields(&[
            ("cmcd-request", "mtp=25400,su"),
            ("cmcd-object", "br=3200,d=4004,ot=v,tb=6000"),
            ("CMCD-Status", "bs,rtp=15000"),
            ("cmcd-session", "sid=\"6e2fb550-c457-11e9-bb97-0800200c9a66\",cid=\"a\\\"b\",pr=1.08"),
        ]);
        let expected = Cmcd {
            bitrate_kbps: Some(3200),
            top_bitrate_kbps: Some(6000),
            requested_kbps: Some(15000),
            startup: true,
            starved: true,
            ..Cmcd::default()
        };
        assert_eq!(told(&request, None), Told::Read(Box::new(expected.clone())));
        let query = "a=b&CMCD=br%3D3200%2Cbs%2Cd%3D4004%2Cmtp%3D25400%2Cot%3Dv%2Crtp%3D15000%2C\
                     sid%3D%226e2fb550-c457-11e9-bb97-0800200c9a66%22%2Csu%2Ctb%3D6000&c";
        assert_eq!(told(&Fields::new(), Some(query)), Told::Read(Box::new(expected)));
        let next = read_text(
            "nor=\"..%2F300kbps%2Fsegment35.m4v\", nrr=\"12323-48763\", sf=h, com.example-myKey=\"x\"",
        );
        let next = next.unwrap();
        assert_eq!(next.next.as_deref(), Some("../300kbps/segment35.m4v"));
        assert_eq!(next.next_range, Some((12323, Some(48763))));
        // Escaped twice in a query: as an argument, and as a URL.
        let query = "CMCD=nor%3D%22..%252Fa.m4s%253Fx%253D1%22%2Cbl%3D21300%2Cdl%3D18500%2Cv%3D1";
        let Told::Read(cmcd) = told(&Fields::new(), Some(query)) else { panic!("not read") };
        assert_eq!(cmcd.next.as_deref(), Some("../a.m4s?x=1"));
        assert_eq!((cmcd.buffer_ms, cmcd.deadline_ms), (Some(21300), Some(18500)));
    }

    #[test]
    fn what_breaks_the_rules_says_nothing() {
        for broken in [
            "br",
            "br=",
            "br=x",
            "br=1.5",
            "br=-1",
            "br=\"1\"",
            "br=1234567890123456",
            "br =1",
            "br= 1",
            "br=1 bs",
            "br=1,",
            ",br=1",
            "br=1,,bs",
            "bs=1",
            "bs=?0",
            "su=true",
            "=1",
            "nor=a",
            "nor=\"a",
            "nor=\"%4\"",
            "nor=\"%zz\"",
            "nor=\"%FF\"",
            "nor=\"\\a\"",
            "v=2",
            "v=\"1\"",
            "nrr=\"5\"",
            "nrr=\"5-4\"",
            "nrr=\"-4\"",
            "nrr=5-9",
            "sid=x",
            "ot=\"v\"",
            "sf",
            "x=a=b",
            "x=;",
            "br=1;p=2",
        ] {
            assert_eq!(read_text(broken), None, "{broken}");
        }
        let long = format!("cid=\"{}\"", "x".repeat(TEXT_BYTES_MAX));
        assert_eq!(read_text(&long), None);
        assert_eq!(read_text(&format!("{}=1", "k".repeat(KEY_BYTES_MAX + 1))), None);
        assert_eq!(told(&Fields::new(), Some("CMCD=bs&CMCD=su")), Told::Ignored, "which one?");
        assert_eq!(told(&Fields::new(), Some("CMCD=%")), Told::Ignored);
        assert_eq!(told(&Fields::new(), Some("cmcd=bs&XCMCD=bs&CMCDX=bs&CMCD")), Told::Nothing);
        assert_eq!(told(&fields(&[("cmcd-other", "bs")]), None), Told::Nothing);
        for (query, rest) in
            [("a=1&CMCD=bs&b", "a=1&b"), ("CMCD", ""), ("CMCDX=1&&", "CMCDX=1&&"), ("", "")]
        {
            assert_eq!(without(query), rest);
        }
        assert_eq!(read_text("br=1,br=2").unwrap().bitrate_kbps, Some(2), "the last one counts");
    }

    #[test]
    fn the_next_object_stays_at_its_origin() {
        let at = |next: &str| resolve_next("/film/v/seg-1.m4s", next);
        for (next, path, query) in [
            ("seg-2.m4s", "/film/v/seg-2.m4s", None),
            ("./seg-2.m4s", "/film/v/seg-2.m4s", None),
            ("../a/seg-2.m4s?x=1", "/film/a/seg-2.m4s", Some("x=1")),
            ("/other/x", "/other/x", None),
            ("", "/film/v/seg-1.m4s", None),
            ("?p=2", "/film/v/seg-1.m4s", Some("p=2")),
            ("../../top", "/top", None),
            ("%61.m4s", "/film/v/a.m4s", None),
            ("a/b:c", "/film/v/a/b:c", None),
        ] {
            assert_eq!(at(next), Ok((path.to_owned(), query.map(str::to_owned))), "{next}");
        }
        let long = "x".repeat(NEXT_BYTES_MAX + 1);
        for (next, why) in [
            ("https://other.example/a", NextRefused::OtherOrigin),
            ("HTTP:a", NextRefused::OtherOrigin),
            ("data:,x", NextRefused::OtherOrigin),
            ("//other.example/a", NextRefused::OtherOrigin),
            ("\\\\other.example\\a", NextRefused::OtherOrigin),
            ("/\\other.example", NextRefused::OtherOrigin),
            ("../../../x", NextRefused::Path(PathError::AboveRoot)),
            ("%2e%2e/../../x", NextRefused::Path(PathError::AboveRoot)),
            ("/../x", NextRefused::Path(PathError::AboveRoot)),
            ("a#b", NextRefused::Bytes),
            ("a b", NextRefused::Bytes),
            ("a\r\nHost: x", NextRefused::Bytes),
            ("a%00", NextRefused::Path(PathError::Control)),
            (&long, NextRefused::TooLong),
        ] {
            assert_eq!(at(next), Err(why), "{next:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~]{0,80}", query in "(CMCD=|[a-z%0-9,=\"&]){0,30}") {
            let _ = told(&fields(&[("cmcd-status", text.trim())]), None);
            let _ = told(&Fields::new(), Some(&query));
        }

        #[test]
        fn what_is_written_is_read(
            br in 0u64..1_000_000, bl in 0u64..100_000, su: bool, bs: bool, gap in " {0,2}",
            next in "[ -!#-$&-\\[\\]-~]{0,20}", first in 0u64..1000, len in 0u64..1000,
        ) {
            let flags = format!("{}{}", if su { ",su" } else { "" }, if bs { ",bs" } else { "" });
            let last = first + len;
            let text = format!("bl={bl},{gap}br={br}{flags},nor=\"{next}\",nrr=\"{first}-{last}\"");
            let expected = Cmcd {
                bitrate_kbps: Some(br), buffer_ms: Some(bl), startup: su, starved: bs,
                next: Some(next), next_range: Some((first, Some(last))), ..Cmcd::default()
            };
            prop_assert_eq!(read_text(&text), Some(expected.clone()));
            let escaped: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
            let query = format!("x=1&CMCD={escaped}");
            prop_assert_eq!(told(&Fields::new(), Some(&query)), Told::Read(Box::new(expected)));
        }

        #[test]
        fn a_next_object_is_a_canonical_path_below_the_root(
            path in "/([a-c/]|\\.\\.?/){0,6}", next in "([a-c.:/?\\\\]|%2[eE]|\\.\\./){0,10}",
        ) {
            if let Ok((found, query)) = resolve_next(&path, &next) {
                prop_assert_eq!(canonical_path(&found), Ok(found.clone()));
                prop_assert!(!next.starts_with("//"));
                prop_assert_eq!(query.is_some(), next.contains('?'));
            }
        }
    }
}
