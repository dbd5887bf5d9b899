//! The one place where heads and chunk lines become bytes.
//!
//! Must stay true: no CR, LF or NUL of a value, a name, a target or an authority gets out of here. `Fields`
//! checks its values when they go in; the writer looks again, because one hole in another place must not
//! become a split response.

use std::fmt;
use tidegate_http::{Fields, Method, is_value_byte, status::reason};

/// What ends a chunked body (no trailers).
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Why a request head was not written. Nothing was appended then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// The target is empty or holds a byte outside 0x21 to 0x7e.
    Target,
    /// The authority is empty or holds such a byte.
    Authority,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EncodeError::Target => "the request target holds bytes that must be percent-encoded",
            EncodeError::Authority => "the authority is no host with optional port",
        })
    }
}

impl std::error::Error for EncodeError {}

/// Appends a request head: request line, `Host` from `authority` (a `host` among `fields` is left out), the
/// fields, the blank line.
///
/// # Errors
/// When target or authority could change the meaning of the head.
pub fn encode_request(
    method: &Method,
    target: &str,
    authority: &str,
    fields: &Fields,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| (0x21..=0x7e).contains(&b));
    if !visible(target) {
        return Err(EncodeError::Target);
    }
    if !visible(authority) {
        return Err(EncodeError::Authority);
    }
    out.reserve(method.as_str().len() + target.len() + authority.len() + fields.wire_size() + 24);
    out.extend(method.as_str().bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in fields.iter().filter(|(name, _)| *name != "host") {
        push_field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a response head: status line, the fields, the blank line. `status` is held inside 100 to 599.
pub fn encode_response(status: u16, fields: &Fields, out: &mut Vec<u8>) {
    encode_status_line(status, out);
    encode_fields(fields, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a status line. `status` is held inside 100 to 599. Fields and a blank line follow.
pub fn encode_status_line(status: u16, out: &mut Vec<u8>) {
    let status = status.clamp(100, 599);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend([status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends field lines. A blank line ends the head.
pub fn encode_fields(fields: &Fields, out: &mut Vec<u8>) {
    out.reserve(fields.wire_size() + 48);
    for (name, value) in fields.iter() {
        push_field(name, value, out);
    }
}

/// Appends one field line whose name is one of ours.
pub fn encode_field(name: &'static str, value: &[u8], out: &mut Vec<u8>) {
    push_field(name, value, out);
}

/// Appends the line before a chunk of `length` bytes (not zero: that ends the body, see [`LAST_CHUNK`]).
/// The bytes and a CRLF follow.
pub fn encode_chunk_head(length: u64, out: &mut Vec<u8>) {
    debug_assert!(length > 0, "an empty chunk would end the body");
    let digits = (64 - length.max(1).leading_zeros()).div_ceil(4);
    for index in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(length >> (4 * index) & 15) as usize]);
    }
    out.extend_from_slice(b"\r\n");
}

fn push_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    if value.iter().all(|b| is_value_byte(*b)) {
        out.extend_from_slice(value);
    } else {
        // `Fields` let a control in: a bug elsewhere. The line stays one line.
        out.extend(value.iter().map(|b| if is_value_byte(*b) { *b } else { b' ' }));
    }
    out.extend_from_slice(b"\r\n");
}
