//! Content codings that an answer can be given in, and which one a request prefers (RFC 9110 §12.5.3).
//!
//! Must stay true: what is malformed is not accepted; `identity` is always possible (a request that refuses it too
//! still gets an answer, as the RFC allows).

use crate::text::{list_members, trim};

/// A content coding (RFC 9110 §8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// All of them; of equally welcome ones the first is taken, which is the smallest on text.
pub const CODINGS: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

impl Coding {
    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    fn is_named(self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(self.name().as_bytes())
            || (self == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
    }
}

/// The coding that `Accept-Encoding` fields prefer; `None`: as it is.
pub fn preferred<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Coding> {
    let (mut named, mut any, mut identity) = ([None; CODINGS.len()], None, None);
    for member in values.flat_map(list_members) {
        let mut parts = member.split(|b| *b == b';');
        let name = trim(parts.next().unwrap_or_default());
        let Some(weight) = weight(parts) else { continue };
        if name == b"*" {
            any = any.or(Some(weight));
        } else if name.eq_ignore_ascii_case(b"identity") {
            identity = identity.or(Some(weight));
        }
        for (coding, known) in CODINGS.iter().zip(&mut named) {
            if coding.is_named(name) {
                *known = known.or(Some(weight));
            }
        }
    }
    let mut best: Option<(u16, Coding)> = None;
    for (coding, known) in CODINGS.into_iter().zip(named) {
        let weight = known.or(any).unwrap_or(0);
        // What is not wanted more than the content as it is, is not worth the work; unnamed, that comes last.
        if weight > identity.unwrap_or(0) || (weight > 0 && identity == Some(weight)) {
            best = match best {
                Some((least, _)) if least >= weight => best,
                _ => Some((weight, coding)),
            };
        }
    }
    best.map(|(_, coding)| coding)
}

/// The weight in thousandths (RFC 9110 §12.4.2); `None`: malformed.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    let Some(first) = parameters.next() else { return Some(1000) };
    let value = trim(first);
    let (name, digits) = (value.get(..2)?, value.get(2..)?);
    if !name.eq_ignore_ascii_case(b"q=") || parameters.next().is_some() {
        return None;
    }
    let (whole, rest) = digits.split_first()?;
    let mut weight = match whole {
        b'0' => 0,
        b'1' => 1000,
        _ => return None,
    };
    if let Some((dot, decimals)) = rest.split_first() {
        if *dot != b'.' || decimals.len() > 3 || !decimals.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for (digit, unit) in decimals.iter().zip([100, 10, 1]) {
            weight += u16::from(digit - b'0') * unit;
        }
    }
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_welcome_coding_is_taken() {
        let cases: [(&[&str], Option<Coding>); 19] = [
            (&[], None),
            (&[""], None),
            (&["gzip"], Some(Coding::Gzip)),
            (&["x-gzip"], Some(Coding::Gzip)),
            (&["gzip, deflate, br, zstd"], Some(Coding::Brotli)),
            (&["gzip, zstd"], Some(Coding::Zstd)),
            (&["gzip", "br"], Some(Coding::Brotli)),
            (&["GZIP;Q=0.9, br;q=0.8"], Some(Coding::Gzip)),
            (&["br;q=0, *"], Some(Coding::Zstd)),
            (&["*;q=0"], None),
            (&["*"], Some(Coding::Brotli)),
            (&["gzip;q=0.001"], Some(Coding::Gzip)),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip;q=0.5"], Some(Coding::Gzip)),
            (&["identity;q=0, gzip;q=0"], None),
            (&["gzip;q=1.1"], None),
            (&["gzip;q=0.1234, br;level=1"], None),
            (&["gzip;q=, br;q=0.5;x=1, zstd ; q=0.3"], Some(Coding::Zstd)),
            (&["deflate, compress"], None),
        ];
        for (values, wanted) in cases {
            let found = preferred(values.iter().map(|value| value.as_bytes()));
            assert_eq!(found, wanted, "{values:?}");
        }
    }
}
