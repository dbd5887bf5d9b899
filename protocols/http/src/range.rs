//! Byte ranges (RFC 9110 §14): what was asked, and which bytes of a known length that is.
//!
//! Must stay true: resolved ranges lie inside the length, are sorted, and neither overlap nor touch, so that
//! an answer never holds more bytes than the representation; arithmetic cannot overflow.

use crate::text::{decimal_saturating, trim};
use std::fmt;
use std::ops::RangeInclusive;
use tidegate_types::limits::RANGES_MAX;

/// One member of a `Range` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// `first-last`
    Closed(u64, u64),
    /// `first-`
    From(u64),
    /// `-length`
    Suffix(u64),
}

/// Members of a `Range` field in bytes; none when the field was malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSpecs {
    pub specs: Vec<RangeSpec>,
}

/// What a `Range` means for a representation of a known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// 200, everything.
    Whole,
    /// 206 with `Content-Range`.
    Single(RangeInclusive<u64>),
    /// 206 with `multipart/byteranges`, at least two.
    Multi(Vec<RangeInclusive<u64>>),
    /// 416
    Unsatisfiable,
}

impl RangeSpecs {
    /// Parses a `Range` value. `None`: act as if there were no `Range` (another unit, or more than
    /// `RANGES_MAX` members). A malformed set of bytes gives no member and resolves to 416.
    pub fn parse(value: &[u8]) -> Option<RangeSpecs> {
        let value = trim(value);
        let equals = value.iter().position(|b| *b == b'=')?;
        if !value[..equals].eq_ignore_ascii_case(b"bytes") {
            return None;
        }
        let mut specs = Vec::new();
        for member in value[equals + 1..].split(|b| *b == b',').map(trim).filter(|m| !m.is_empty())
        {
            if specs.len() == RANGES_MAX {
                return None;
            }
            match RangeSpec::parse(member) {
                Some(spec) => specs.push(spec),
                None => return Some(RangeSpecs { specs: Vec::new() }),
            }
        }
        Some(RangeSpecs { specs })
    }

    /// Which bytes of a representation of `length` bytes are asked for.
    pub fn resolve(&self, length: u64) -> Resolved {
        if length == 0 {
            // A suffix of nothing is satisfiable but has no Content-Range: the empty whole is the answer.
            let suffix =
                self.specs.iter().any(|spec| matches!(spec, RangeSpec::Suffix(n) if *n > 0));
            return if suffix { Resolved::Whole } else { Resolved::Unsatisfiable };
        }
        let mut ranges: Vec<RangeInclusive<u64>> =
            self.specs.iter().filter_map(|spec| spec.resolve(length)).collect();
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                // Ends are below `length`, so adding one cannot overflow.
                Some(last) if *range.start() <= *last.end() + 1 => {
                    *last = *last.start()..=(*last.end()).max(*range.end());
                }
                _ => merged.push(range),
            }
        }
        match merged.len() {
            0 => Resolved::Unsatisfiable,
            1 => Resolved::Single(merged.swap_remove(0)),
            _ => Resolved::Multi(merged),
        }
    }
}

impl RangeSpec {
    fn parse(member: &[u8]) -> Option<RangeSpec> {
        let dash = member.iter().position(|b| *b == b'-')?;
        let (first, last) = (&member[..dash], &member[dash + 1..]);
        if first.is_empty() {
            return decimal_saturating(last).map(RangeSpec::Suffix);
        }
        let first = decimal_saturating(first)?;
        if last.is_empty() {
            return Some(RangeSpec::From(first));
        }
        let last = decimal_saturating(last)?;
        (first <= last).then_some(RangeSpec::Closed(first, last))
    }

    fn resolve(self, length: u64) -> Option<RangeInclusive<u64>> {
        match self {
            RangeSpec::Closed(first, last) => {
                (first < length).then(|| first..=last.min(length - 1))
            }
            RangeSpec::From(first) => (first < length).then(|| first..=length - 1),
            RangeSpec::Suffix(0) => None,
            RangeSpec::Suffix(count) => Some(length.saturating_sub(count)..=length - 1),
        }
    }
}

/// Value of a `Content-Range` in bytes (RFC 9110 §14.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRange {
    /// `None`: `bytes */length`, as in 416.
    pub range: Option<RangeInclusive<u64>>,
    /// `None`: the length is not known (`*`).
    pub length: Option<u64>,
}

impl ContentRange {
    /// Parses `bytes first-last/length`, `bytes first-last/*` or `bytes */length`; invalid ones are `None`.
    pub fn parse(value: &[u8]) -> Option<ContentRange> {
        let value = trim(value);
        let rest = match value.get(..6) {
            Some(unit) if unit.eq_ignore_ascii_case(b"bytes ") => trim(&value[6..]),
            _ => return None,
        };
        let slash = rest.iter().position(|b| *b == b'/')?;
        let (range, length) = (&rest[..slash], &rest[slash + 1..]);
        let length = if length == b"*" { None } else { Some(exact(length)?) };
        if range == b"*" {
            return length.map(|length| ContentRange { range: None, length: Some(length) });
        }
        let dash = range.iter().position(|b| *b == b'-')?;
        let (first, last) = (exact(&range[..dash])?, exact(&range[dash + 1..])?);
        let inside = first <= last && length.is_none_or(|length| last < length);
        inside.then_some(ContentRange { range: Some(first..=last), length })
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.range {
            Some(range) => write!(f, "bytes {}-{}/", range.start(), range.end())?,
            None => f.write_str("bytes */")?,
        }
        match self.length {
            Some(length) => write!(f, "{length}"),
            None => f.write_str("*"),
        }
    }
}

/// A number that fits; one that saturates would be a lie here.
fn exact(bytes: &[u8]) -> Option<u64> {
    decimal_saturating(bytes).filter(|n| *n < u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(value: &str, length: u64) -> Resolved {
        RangeSpecs::parse(value.as_bytes()).map_or(Resolved::Whole, |specs| specs.resolve(length))
    }

    #[test]
    fn rfc_9110_14_1_2_examples_and_nonsense() {
        use Resolved::{Multi, Single, Unsatisfiable, Whole};
        for (value, length, expected) in [
            ("bytes=0-499", 10_000, Single(0..=499)),
            ("bytes=500-999", 10_000, Single(500..=999)),
            ("bytes=-500", 10_000, Single(9_500..=9_999)),
            ("bytes=9500-", 10_000, Single(9_500..=9_999)),
            ("bytes=0-0,-1", 10_000, Multi(vec![0..=0, 9_999..=9_999])),
            (
                "bytes= 0-999, 4500-5499, -1000",
                10_000,
                Multi(vec![0..=999, 4_500..=5_499, 9_000..=9_999]),
            ),
            ("bytes=500-600,601-999", 10_000, Single(500..=999)),
            ("bytes=500-700,601-999", 10_000, Single(500..=999)),
            ("BYTES=0-1", 10, Single(0..=1)),
            ("bytes=5-100", 10, Single(5..=9)),
            ("bytes=-100", 10, Single(0..=9)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-20,3-4", 10, Single(3..=4)),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=5-2", 10, Unsatisfiable),
            ("bytes=", 10, Unsatisfiable),
            ("bytes=x", 10, Unsatisfiable),
            ("bytes=1", 10, Unsatisfiable),
            ("bytes=-", 10, Unsatisfiable),
            ("bytes=1-2-3", 10, Unsatisfiable),
            ("bytes=+1-2", 10, Unsatisfiable),
            ("bytes=0-99999999999999999999999999", 10, Single(0..=9)),
            ("bytes=99999999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-99999999999999999999999999", 10, Single(0..=9)),
            ("bytes=0-1,,2-3", 10, Single(0..=3)),
            ("items=0-1", 10, Whole),
            ("bytes", 10, Whole),
            ("", 10, Whole),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole),
            ("bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16", 100, Whole),
            ("bytes=-9223372036854775608,-9223372036854775808", 1000, Single(0..=999)),
        ] {
            assert_eq!(resolve(value, length), expected, "{value}");
        }
    }

    #[test]
    fn content_range_is_checked() {
        for text in ["bytes 0-4/10", "bytes 0-4/*", "bytes */10", "bytes 9-9/10"] {
            assert_eq!(ContentRange::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "bytes",
            "bytes ",
            "bytes 0-4",
            "bytes 0-10/10",
            "bytes 4-3/10",
            "bytes */*",
            "items 0-4/10",
            "bytes 0-4/99999999999999999999",
            "bytes -4/10",
            "bytes 0-/10",
            "bytes 0-4/x",
            "bytes 0-4/",
        ] {
            assert_eq!(ContentRange::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn resolved_ranges_are_the_bytes_asked_for(
            specs in proptest::collection::vec((0u64..60, 0u64..60, 0u8..3), 1..=RANGES_MAX),
            length in 1u64..50,
        ) {
            let specs: Vec<RangeSpec> = specs.into_iter().map(|(a, b, kind)| match kind {
                0 => RangeSpec::Closed(a.min(b), a.max(b)),
                1 => RangeSpec::From(a),
                _ => RangeSpec::Suffix(a),
            }).collect();
            let asked = |at: u64| specs.iter().any(|spec| match *spec {
                RangeSpec::Closed(first, last) => first <= at && at <= last,
                RangeSpec::From(first) => first <= at,
                RangeSpec::Suffix(count) => at + count >= length,
            });
            let got = match (RangeSpecs { specs: specs.clone() }).resolve(length) {
                Resolved::Whole => vec![0..=length - 1],
                Resolved::Single(range) => vec![range],
                Resolved::Multi(ranges) => ranges,
                Resolved::Unsatisfiable => Vec::new(),
            };
            for at in 0..length {
                let times = got.iter().filter(|range| range.contains(&at)).count();
                prop_assert_eq!(times, usize::from(asked(at)));
            }
            prop_assert!(got.iter().all(|range| range.start() <= range.end() && *range.end() < length));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..60), length: u64) {
            if let Some(specs) = RangeSpecs::parse(&bytes) {
                let _ = specs.resolve(length);
            }
            let _ = ContentRange::parse(&bytes);
            let mut text = b"bytes=".to_vec();
            text.extend_from_slice(&bytes);
            if let Some(specs) = RangeSpecs::parse(&text) {
                let _ = specs.resolve(length);
            }
        }
    }
}
