//! The smallest grammar pieces of RFC 9110 §5.6: tokens, field value bytes, white space, lists.
//!
//! Must stay true: a byte that `is_value_byte` allows can never end a line or a message of any version.

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        table[i] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        i += 1;
    }
    table
};

/// A byte of a token (RFC 9110 §5.6.2).
#[inline]
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// A whole token: at least one byte.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token_byte(*b))
}

/// A byte that may stand in a field value (RFC 9110 §5.5): no control except tab.
#[inline]
pub fn is_value_byte(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f) || byte == b'\t'
}

/// `bytes` without the optional white space (space and tab) at both ends.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Members of a comma list; commas inside quoted strings do not split, empty members are left out.
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        loop {
            let bytes = rest?;
            let mut quoted = false;
            let mut escaped = false;
            let end = bytes.iter().position(|b| {
                if escaped {
                    escaped = false;
                } else if quoted && *b == b'\\' {
                    escaped = true;
                } else if *b == b'"' {
                    quoted = !quoted;
                } else {
                    return *b == b',' && !quoted;
                }
                false
            });
            let member = match end {
                Some(end) => {
                    rest = Some(&bytes[end + 1..]);
                    &bytes[..end]
                }
                None => {
                    rest = None;
                    bytes
                }
            };
            let member = trim(member);
            if !member.is_empty() {
                return Some(member);
            }
        }
    })
}

/// An unsigned decimal number: digits only; too many of them give `u64::MAX`.
pub(crate) fn decimal_saturating(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(bytes.iter().fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_members_respect_quotes_and_skip_empty_ones() {
        let members: Vec<&[u8]> = list_members(b" a ,, \"x,\\\"y\" ,\tb").collect();
        assert_eq!(members, [&b"a"[..], b"\"x,\\\"y\"", b"b"]);
        assert_eq!(list_members(b" , ,").count(), 0);
    }

    #[test]
    fn decimals_are_digits_only_and_saturate() {
        assert_eq!(decimal_saturating(b"0042"), Some(42));
        assert_eq!(decimal_saturating(b"99999999999999999999999"), Some(u64::MAX));
        for bad in [&b""[..], b"+1", b"-1", b"1 ", b"0x1", b"1.0"] {
            assert_eq!(decimal_saturating(bad), None);
        }
    }
}
