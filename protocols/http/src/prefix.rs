//! Integers that share their first byte with flags (RFC 9204 §4.1.1, RFC 7541 §5.1).
//!
//! Must stay true: values need at most 62 bits; longer forms are refused, so that no flood of zero bytes is
//! a number.

/// The largest value (of QPACK; HPACK needs less).
const MAX: u64 = (1 << 62) - 1;

/// Flags (what stands above the prefix) and value at the start of `bytes`, which is moved on; `None` when
/// they end first or the value is too large.
pub fn decode(bytes: &mut &[u8], prefix: u8) -> Option<(u8, u64)> {
    let (first, mut rest) = bytes.split_first()?;
    let mask = ((1u16 << prefix) - 1) as u8;
    let flags = if prefix == 8 { 0 } else { first >> prefix };
    let mut value = u64::from(first & mask);
    if first & mask == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            // 9 groups of 7 bits are 63; the value is held below 2^62.
            value = value.checked_add(u64::from(byte & 0x7f) << shift)?;
            if value > MAX {
                return None;
            }
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 56 {
                return None;
            }
        }
    }
    *bytes = rest;
    Some((flags, value))
}

/// Appends a value behind flags.
pub fn encode(flags: u64, prefix: u8, value: u64, out: &mut Vec<u8>) {
    let mask = (1u64 << prefix) - 1;
    let flags = flags << prefix;
    if value < mask {
        out.push((flags | value) as u8);
        return;
    }
    out.push((flags | mask) as u8);
    let mut left = value - mask;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7541 appendix C.1.
    #[test]
    fn the_examples_of_the_rfc() {
        let cases: [(u8, u64, &[u8]); 3] =
            [(5, 10, &[0x0a]), (5, 1337, &[0x1f, 0x9a, 0x0a]), (8, 42, &[0x2a])];
        for (prefix, value, bytes) in cases {
            let mut out = Vec::new();
            encode(0, prefix, value, &mut out);
            assert_eq!(out, bytes);
            let mut rest = bytes;
            assert_eq!(decode(&mut rest, prefix), Some((0, value)));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn endless_and_enormous_numbers_are_refused() {
        assert_eq!(decode(&mut &[0xff; 20][..], 6), None);
        let zeros = [&[0x3f][..], &[0x80; 12], &[0]].concat();
        assert_eq!(decode(&mut &zeros[..], 6), None);
        let large = [&[0x3f][..], &[0xff; 8], &[0x7f]].concat();
        assert_eq!(decode(&mut &large[..], 6), None);
    }

    proptest! {
        #[test]
        fn a_number_is_read_as_it_was_written(prefix in 3u8..=8, bits in 0u32..62, low: u64, flag: bool) {
            let value = low & ((1 << bits) - 1);
            let flags = u8::from(flag && prefix < 8);
            let mut out = Vec::new();
            encode(u64::from(flags), prefix, value, &mut out);
            for cut in 0..out.len() {
                prop_assert_eq!(decode(&mut &out[..cut], prefix), None);
            }
            out.push(0xab);
            let mut rest = &out[..];
            prop_assert_eq!(decode(&mut rest, prefix), Some((flags, value)));
            prop_assert_eq!(rest, &[0xab]);
        }
    }
}
