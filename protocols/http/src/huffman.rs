//! The Huffman code of HPACK and QPACK (RFC 7541 §5.2, appendix B).
//!
//! The code is canonical: codes of one length are numbered in the order of their symbols, after all shorter
//! ones. So the lengths alone give it; the compiler makes the tables of both directions from them. Decoding
//! walks four bits at a time: the shortest code has five, so a step ends at most one symbol.
//!
//! Must stay true: padding is less than a byte and all ones; the code for the end of a string never comes.

/// Bits of each symbol's code.
#[rustfmt::skip]
const BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const END: usize = 256;
const END_BITS: u8 = 30;
const BITS_MAX: u8 = 30;

/// Code of each symbol, right-aligned; the last one is the end of a string.
const CODES: [u32; 257] = {
    let mut codes = [0; 257];
    let mut code = 0u32;
    let mut bits = 1;
    while bits <= BITS_MAX {
        code <<= 1;
        let mut symbol = 0;
        while symbol <= END {
            let own = if symbol == END { END_BITS } else { BITS[symbol] };
            if own == bits {
                codes[symbol] = code;
                code += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    codes
};

/// Inner nodes of the code's tree; there is one less than leaves.
const NODES: usize = 256;

/// Child of a node by bit: below `NODES` a node, from there on a symbol.
const TREE: [[u16; 2]; NODES] = {
    let mut tree = [[0u16; 2]; NODES];
    let mut used = 1;
    let mut symbol = 0;
    while symbol <= END {
        let bits = if symbol == END { END_BITS } else { BITS[symbol] };
        let mut node = 0;
        let mut at = bits;
        while at > 1 {
            at -= 1;
            let bit = (CODES[symbol] >> at & 1) as usize;
            if tree[node][bit] == 0 {
                tree[node][bit] = used;
                used += 1;
            }
            node = tree[node][bit] as usize;
        }
        tree[node][(CODES[symbol] & 1) as usize] = (NODES + symbol) as u16;
        symbol += 1;
    }
    tree
};

/// What four bits do at a node.
#[derive(Clone, Copy)]
struct Step {
    /// Node afterwards.
    node: u8,
    symbol: u8,
    /// `symbol` was ended.
    ends: bool,
    /// The end of a string came.
    refused: bool,
}

const STEPS: [[Step; 16]; NODES] = {
    let mut steps = [[Step { node: 0, symbol: 0, ends: false, refused: false }; 16]; NODES];
    let mut node = 0;
    while node < NODES {
        let mut four = 0;
        while four < 16 {
            let step = &mut steps[node][four];
            let mut at = node;
            let mut bit = 4;
            while bit > 0 {
                bit -= 1;
                let child = TREE[at][four >> bit & 1] as usize;
                if child < NODES {
                    at = child;
                } else if child == NODES + END {
                    step.refused = true;
                    at = 0;
                } else {
                    step.symbol = (child - NODES) as u8;
                    step.ends = true;
                    at = 0;
                }
            }
            step.node = at as u8;
            four += 1;
        }
        node += 1;
    }
    steps
};

/// Nodes at which a string may end: the root, and up to seven ones from it.
const MAY_END: [bool; NODES] = {
    let mut may = [false; NODES];
    let mut node = 0;
    let mut ones = 0;
    while ones <= 7 {
        may[node] = true;
        node = TREE[node][1] as usize;
        ones += 1;
    }
    may
};

/// Appends what `coded` stands for; `None` when it is no code (some may have been appended).
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut node = 0;
    for byte in coded {
        for four in [byte >> 4, byte & 15] {
            let step = &STEPS[node][usize::from(four)];
            if step.refused {
                return None;
            }
            if step.ends {
                out.push(step.symbol);
            }
            node = usize::from(step.node);
        }
    }
    MAY_END[node].then_some(())
}

/// Bytes that [`encode`] appends.
pub fn encoded_len(text: &[u8]) -> usize {
    text.iter().map(|b| usize::from(BITS[usize::from(*b)])).sum::<usize>().div_ceil(8)
}

/// Appends the code of `text`.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut held, mut bits) = (0u64, 0u32);
    for byte in text {
        let own = u32::from(BITS[usize::from(*byte)]);
        // At most 7 + 30 bits are held.
        held = held << own | u64::from(CODES[usize::from(*byte)]);
        bits += own;
        while bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
        }
    }
    if bits > 0 {
        out.push((held << (8 - bits)) as u8 | (0xff >> bits) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 7541 appendix C.4 to C.6.
    #[test]
    fn the_examples_of_the_rfc() {
        for (text, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            ("307", "640eff"),
        ] {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out, hex(coded), "{text}");
            assert_eq!(encoded_len(text.as_bytes()), out.len());
            let mut back = Vec::new();
            decode(&out, &mut back).unwrap();
            assert_eq!(back, text.as_bytes());
        }
    }

    /// A few lines of RFC 7541 appendix B, among them the last code of the table.
    #[test]
    fn the_codes_are_those_of_the_rfc() {
        for (symbol, code) in [
            (0, 0x1ff8),
            (b'0' as usize, 0),
            (b'z' as usize, 0x7b),
            (255, 0x3ff_ffee),
            (22, 0x3fff_fffe),
        ] {
            assert_eq!(CODES[symbol], code, "{symbol}");
        }
        assert_eq!(CODES[END], 0x3fff_ffff);
    }

    #[test]
    fn wrong_endings_are_refused() {
        let mut out = Vec::new();
        assert!(decode(&[], &mut out).is_some());
        // The end of a string, whole; eight ones of padding; padding with a zero.
        for bad in [&[0xff, 0xff, 0xff, 0xff][..], &[0xff], &[0x07, 0xff], &[0b0000_0000]] {
            assert!(decode(bad, &mut out).is_none(), "{bad:?}");
        }
        assert!(decode(&[0b0000_0111], &mut out).is_some());
        assert!(decode(&[0b0000_0110], &mut out).is_none());
    }

    proptest! {
        #[test]
        fn a_text_comes_back(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut coded, mut back) = (Vec::new(), Vec::new());
            encode(&text, &mut coded);
            prop_assert_eq!(coded.len(), encoded_len(&text));
            prop_assert!(decode(&coded, &mut back).is_some());
            prop_assert_eq!(back, text);
        }

        /// One text has one code: whatever is taken is what we would have written.
        #[test]
        fn what_is_decoded_is_encoded_to_the_same(coded in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut text = Vec::new();
            if decode(&coded, &mut text).is_some() {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, coded);
            }
        }
    }
}
