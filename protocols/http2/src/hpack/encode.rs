//! Our fields as a block: names of the static table by their index, all else as it is, nothing for the client's table and no
//! Huffman code. What it would save in bytes is little beside a body; what it costs is paid for each answer.
//!
//! Must stay true: no control, no upper-case name and no field of one connection gets out of here (RFC 9113 §8.2).

use super::table;
use tidegate_http::{is_token_byte, is_value_byte, prefix};
use tidegate_types::digits::Digits;

/// That our table is, and stays, empty (RFC 7541 §4.2): once, before all else.
pub fn encode_table_size_0(out: &mut Vec<u8>) {
    out.push(0x20);
}

/// `:status`, held inside 100 to 599.
pub fn encode_status(status: u16, out: &mut Vec<u8>) {
    let index = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => 0,
    };
    if index > 0 {
        return out.push(0x80 | index);
    }
    let status = status.clamp(100, 599);
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    out.extend_from_slice(&[8, 3]);
    out.extend_from_slice(&digits);
}

/// `content-length`.
pub fn encode_length(length: u64, out: &mut Vec<u8>) {
    line(b"content-length", Digits::of(length).as_bytes(), out);
}

fn line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    // What others might guess piece by piece is never to be indexed, by whoever passes it on (RFC 7541 §7.1.3).
    let flags = if name == b"set-cookie" { 0x10 } else { 0 };
    match table::name_index(name) {
        0 => {
            out.push(flags);
            text(name, out);
        }
        index @ ..15 => out.push(flags | index),
        // No index needs more than two bytes (RFC 7541 §5.1).
        index => out.extend_from_slice(&[flags | 15, index - 15]),
    }
    text(value, out);
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    match text.len() {
        len @ ..127 => out.push(len as u8),
        len => prefix::encode(0, 7, len as u64, out),
    }
    out.extend_from_slice(text);
}

/// Takes the fields of an answer.
pub struct FieldWriter<'a>(pub &'a mut Vec<u8>);

impl FieldWriter<'_> {
    /// Some that were written by another of these.
    pub fn put_packed(&mut self, block: &[u8]) {
        self.0.extend_from_slice(block);
    }

    /// The next one. What may not stand in an answer is left out.
    pub fn put(&mut self, name: &[u8], value: &[u8]) {
        let (mut is_token, mut has_upper) = (!name.is_empty(), false);
        for byte in name {
            is_token &= is_token_byte(*byte);
            has_upper |= byte.is_ascii_uppercase();
        }
        if has_upper {
            return self.put(&name.to_ascii_lowercase(), value);
        }
        let value = value.trim_ascii();
        // To the end of each value, so that it is done many bytes at a time.
        let is_value = value.iter().fold(true, |good, byte| good & is_value_byte(*byte));
        if is_token && is_value && !is_of_one_connection(name) {
            line(name, value, self.0);
        }
    }
}

/// RFC 9113 §8.2.2.
pub fn is_of_one_connection(name: &[u8]) -> bool {
    match name.len() {
        7 => name == b"upgrade",
        10 => name == b"connection" || name == b"keep-alive",
        16 => name == b"proxy-connection",
        17 => name == b"transfer-encoding",
        _ => false,
    }
}
