//! A small deterministic mutator for test runs without coverage.

/// Xorshift: enough for choosing places and bytes.
pub struct Random(u64);

impl Random {
    /// `seed` must not be zero.
    pub fn new(seed: u64) -> Random {
        Random(seed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`; zero for zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Bytes that mean something in text protocols, and the edges of binary numbers.
const BYTES: &[u8] = b"\r\n\0 \t:;,=\"/?#%@[]{}0159afAF-.*W\x01\x7f\x80\xfe\xff";

/// Words that parsers trip over, and characters of two, three and four bytes.
const WORDS: &[&str] = &[
    "\u{e9}",
    "\u{20ac}",
    "\u{1f600}",
    "..",
    "/../",
    "%2e%2e",
    "%00",
    "0x",
    "-1",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "\r\n\r\n",
    "\r\n ",
    "[::1]",
    "null",
    "{}",
    "chunked",
    "1e999",
];

/// Changes `bytes` in one to five places, sometimes with a piece of `other`.
pub fn mutate(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(5) {
        let at = random.below(bytes.len() + 1);
        match random.below(9) {
            0 => bytes.insert(at, BYTES[random.below(BYTES.len())]),
            1 if at < bytes.len() => bytes[at] = BYTES[random.below(BYTES.len())],
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 if at < bytes.len() => {
                let end = (at + 1 + random.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => bytes.truncate(at),
            5 => {
                // A piece of itself again: repeated fields, doubled numbers.
                let end = (at + random.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 if at + 4 <= bytes.len() => {
                let number = [0, 1, u32::MAX, i32::MAX as u32, 1 << 31, 0xffff][random.below(6)];
                bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
            }
            7 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at, word.bytes());
            }
            _ => {
                let from = random.below(other.len() + 1);
                let to = (from + random.below(40)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes
}
