//! Integers of 1, 2, 4 or 8 bytes (RFC 9000 §16). Must stay true: no value above [`MAX`] is written.

/// The largest value that there is.
pub const MAX: u64 = (1 << 62) - 1;

/// The value at the start of `bytes` and its length; `None` when more bytes are needed.
pub fn decode(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, b| value << 8 | u64::from(*b));
    Some((value, length))
}

/// Appends a value in its shortest form; one above [`MAX`] is held at it.
pub fn encode(value: u64, out: &mut Vec<u8>) {
    let value = value.min(MAX);
    let bytes = value.to_be_bytes();
    match value {
        0..0x40 => out.push(bytes[7]),
        0x40..0x4000 => out.extend_from_slice(&[bytes[6] | 0x40, bytes[7]]),
        0x4000..0x4000_0000 => {
            out.extend_from_slice(&[bytes[4] | 0x80, bytes[5], bytes[6], bytes[7]]);
        }
        _ => {
            out.push(bytes[0] | 0xc0);
            out.extend_from_slice(&bytes[1..]);
        }
    }
}

/// Reads one value that comes in pieces.
#[derive(Debug, Clone, Copy, Default)]
pub struct Partial {
    held: [u8; 8],
    count: usize,
}

impl Partial {
    /// Takes bytes off `input` until the value is whole.
    pub fn read(&mut self, input: &mut bytes::Bytes) -> Option<u64> {
        if self.count == 0
            && let Some((value, length)) = decode(input)
        {
            bytes::Buf::advance(input, length);
            return Some(value);
        }
        while !input.is_empty() {
            self.held[self.count] = bytes::Buf::get_u8(input);
            self.count += 1;
            if let Some((value, _)) = decode(&self.held[..self.count]) {
                self.count = 0;
                return Some(value);
            }
        }
        None
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    /// RFC 9000 appendix A.1.
    #[test]
    fn the_examples_of_the_rfc() {
        let cases: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in cases {
            assert_eq!(decode(bytes), Some((value, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_it_was_written(bits in 0u32..63, low: u64, after: u8) {
            let value = low & ((1 << bits) - 1);
            let mut bytes = Vec::new();
            encode(value, &mut bytes);
            let length = bytes.len();
            bytes.push(after);
            prop_assert_eq!(decode(&bytes), Some((value, length)));
            let mut partial = Partial::default();
            let mut found = None;
            for byte in &bytes[..length] {
                prop_assert_eq!(found, None);
                found = partial.read(&mut Bytes::copy_from_slice(&[*byte]));
            }
            prop_assert_eq!(found, Some(value));
            prop_assert!(partial.is_empty());
        }
    }
}
