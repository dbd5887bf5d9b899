//! JSON strings of bytes from outside.
//!
//! Must stay true: what is written is printable ASCII and parses, whatever went in: no line end, no terminal
//! escape, no half character gets out. Bytes that are no UTF-8 become U+FFFD.

use std::net::SocketAddr;
use tidegate_types::digits::Digits;

/// Appends `bytes` as a JSON string with its quotes.
pub fn push_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    // Most texts are plain. Without an early end, so that the compiler looks at many bytes at once.
    let is_plain = |b: u8| (b' '..=b'~').contains(&b) & (b != b'"') & (b != b'\\');
    if bytes.iter().fold(true, |all, b| all & is_plain(*b)) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                ' '..='~' => out.push(c as u8),
                _ => {
                    let mut units = [0u16; 2];
                    for unit in c.encode_utf16(&mut units) {
                        push_unit(*unit, out);
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            push_unit(0xfffd, out);
        }
    }
    out.push(b'"');
}

/// A JSON string of our own text, for other reports (`explain`, health).
pub fn string(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(text.as_bytes(), &mut out);
    out.into_iter().map(char::from).collect()
}

/// Appends a number.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    Digits::of(number).push_to(out);
}

/// Appends an address with its port as a JSON string.
pub(crate) fn push_address(address: SocketAddr, out: &mut Vec<u8>) {
    let SocketAddr::V4(v4) = address else {
        return push_string(address.to_string().as_bytes(), out);
    };
    let mut before = b'"';
    for octet in v4.ip().octets() {
        out.push(before);
        push_number(octet.into(), out);
        before = b'.';
    }
    out.push(b':');
    push_number(v4.port().into(), out);
    out.push(b'"');
}

/// Appends `width` hexadecimal digits.
pub(crate) fn push_hex(number: u64, width: u32, out: &mut Vec<u8>) {
    for index in (0..width).rev() {
        out.push(b"0123456789abcdef"[(number >> (4 * index) & 15) as usize]);
    }
}

fn push_unit(unit: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u");
    push_hex(u64::from(unit), 4, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        push_string(bytes, &mut out);
        assert!(out.iter().all(|b| (0x20..0x7f).contains(b)));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn odd_bytes_come_out_as_escapes() {
        for (bytes, expected) in [
            (&b"plain /path"[..], "\"plain /path\""),
            (b"a\"b\\c", "\"a\\\"b\\\\c\""),
            (b"\r\n\t\0", "\"\\u000d\\u000a\\u0009\\u0000\""),
            (b"\x1b[31m\x7f", "\"\\u001b[31m\\u007f\""),
            (b"a\xff\xfeb", "\"a\\ufffd\\ufffdb\""),
            (b"\xc3", "\"\\ufffd\""),
            ("\u{e9}\u{2028}\u{1f600}\u{9b}".as_bytes(), "\"\\u00e9\\u2028\\ud83d\\ude00\\u009b\""),
        ] {
            assert_eq!(string(bytes), expected);
        }
    }

    #[test]
    fn every_pair_of_bytes_parses_to_what_it_was() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let parsed: String = serde_json::from_str(&string(&[a, b])).unwrap();
                assert_eq!(parsed, String::from_utf8_lossy(&[a, b]));
            }
        }
    }

    #[test]
    fn our_own_texts_are_strings_too() {
        assert_eq!(super::string("a\"\u{1b}"), "\"a\\\"\\u001b\"");
    }

    #[test]
    fn numbers_are_plain() {
        for number in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
