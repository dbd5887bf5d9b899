//! A number as decimal text, without an allocation.

/// The digits of a number.
#[derive(Debug, Clone, Copy)]
pub struct Digits {
    /// From the first one on.
    bytes: [u8; DIGITS_MAX],
    len: usize,
}

/// Of the greatest number.
const DIGITS_MAX: usize = 20;

impl Digits {
    /// Of `number`, without leading zeros.
    pub fn of(number: u64) -> Digits {
        let len = number.checked_ilog10().map_or(1, |log| log as usize + 1);
        let (mut bytes, mut rest) = ([0; DIGITS_MAX], number);
        // Two at a time: each division waits for the one before.
        for pair in bytes[..len].rchunks_mut(2) {
            let two = (rest % 100) as u8;
            rest /= 100;
            if let [tens, ones] = pair {
                (*tens, *ones) = (b'0' + two / 10, b'0' + two % 10);
            } else {
                pair.fill(b'0' + two);
            }
        }
        Digits { bytes, len }
    }

    /// Appends them.
    pub fn push_to(&self, out: &mut Vec<u8>) {
        // As many bytes each time: a copy of a length that is known costs next to nothing.
        let len = out.len() + self.len;
        out.extend_from_slice(&self.bytes);
        out.truncate(len);
    }

    /// They are ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_library() {
        let powers = (0..20).map(|n| 10u64.pow(n));
        for number in powers.flat_map(|n| [n - 1, n, n + 1]).chain([7, u64::MAX]) {
            let (digits, mut out) = (Digits::of(number), b"x".to_vec());
            digits.push_to(&mut out);
            assert_eq!(digits.as_bytes(), number.to_string().as_bytes());
            assert_eq!(out, format!("x{number}").into_bytes());
        }
    }
}
