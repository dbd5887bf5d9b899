//! The one place where heads and frames become bytes.
//!
//! Must stay true: no control, no upper-case name and no field of one connection gets out of here, whatever
//! `Fields` holds: another hop would take the whole message for malformed.

use crate::error::Error;
use crate::frame;
use crate::message::is_of_one_connection;
use crate::qpack::{encode_line, encode_prefix};
use crate::varint;
use tidegate_http::{Fields, Method, Scheme, is_token, is_value_byte};

/// Appends a request's HEADERS frame. A `host` among `fields` is left out: `authority` stands for it.
///
/// # Errors
/// When target or authority could not stand in a request; nothing was appended then.
pub fn encode_request(
    method: &Method,
    scheme: Scheme,
    authority: &str,
    target: &str,
    fields: &Fields,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| (0x21..=0x7e).contains(&b));
    if !visible(target) {
        return Err(Error::malformed("the target holds bytes that must be percent-encoded"));
    }
    if !visible(authority) {
        return Err(Error::malformed("the authority is no host with optional port"));
    }
    headers(out, |out| {
        encode_line(":method", method.as_str().as_bytes(), out);
        encode_line(":scheme", scheme.as_str().as_bytes(), out);
        encode_line(":authority", authority.as_bytes(), out);
        encode_line(":path", target.as_bytes(), out);
        encode_fields(fields.iter().filter(|(name, _)| *name != "host"), out);
    });
    Ok(())
}

/// Appends a response's HEADERS frame, interim or final. `status` is held inside 100 to 599.
pub fn encode_response(status: u16, fields: &Fields, out: &mut Vec<u8>) {
    response(status, out, |out| encode_fields(fields.iter(), out));
}

/// As [`encode_response`], with the fields that `put` is called with.
pub fn encode_response_lines(status: u16, out: &mut Vec<u8>, lines: impl FnOnce(&mut Lines<'_>)) {
    response(status, out, |out| lines(&mut Lines { out }));
}

fn response(status: u16, out: &mut Vec<u8>, section: impl FnOnce(&mut Vec<u8>)) {
    let status = status.clamp(100, 599);
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    headers(out, |out| {
        encode_line(":status", &digits, out);
        section(out);
    });
}

/// Takes the fields of a response one by one.
pub struct Lines<'a> {
    out: &'a mut Vec<u8>,
}

/// Names that are made lower case without memory of their own.
const NAME_BYTES_USUAL: usize = 64;

impl<'a> Lines<'a> {
    /// Lines that are to be put somewhere else later: nothing of them depends on a connection, since we use no dynamic table.
    pub fn packed(out: &'a mut Vec<u8>) -> Lines<'a> {
        Lines { out }
    }

    /// Some that [`Lines::packed`] has taken.
    pub fn put_packed(&mut self, lines: &[u8]) {
        self.out.extend_from_slice(lines);
    }

    /// A field, its name in any case. One whose name is no token, or that belongs to a connection, is left out.
    pub fn put(&mut self, name: &[u8], value: &[u8]) {
        let mut usual = [0; NAME_BYTES_USUAL];
        let mut long = Vec::new();
        let lower = match usual.get_mut(..name.len()) {
            Some(lower) => lower,
            None => {
                long.resize(name.len(), 0);
                &mut long[..]
            }
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        if is_token(lower)
            && let Ok(name) = std::str::from_utf8(lower)
        {
            encode_fields(std::iter::once((name, value)), self.out);
        }
    }
}

/// Appends the HEADERS frame that ends a message.
pub fn encode_trailers(fields: &Fields, out: &mut Vec<u8>) {
    headers(out, |out| encode_fields(fields.iter(), out));
}

/// Appends what stands before `length` bytes of a body. The bytes follow.
pub fn encode_data_head(length: u64, out: &mut Vec<u8>) {
    varint::encode(frame::DATA, out);
    varint::encode(length, out);
}

fn encode_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>, out: &mut Vec<u8>) {
    for (name, value) in fields {
        if is_of_one_connection(name, value) {
            continue;
        }
        if value.iter().all(|b| is_value_byte(*b)) {
            encode_line(name, value, out);
        } else {
            // `Fields` let a control in: a bug elsewhere. The message stays one that others take.
            let clean: Vec<u8> =
                value.iter().map(|b| if is_value_byte(*b) { *b } else { b' ' }).collect();
            encode_line(name, &clean, out);
        }
    }
}

/// Appends a HEADERS frame around what `section` appends.
fn headers(out: &mut Vec<u8>, section: impl FnOnce(&mut Vec<u8>)) {
    varint::encode(frame::HEADERS, out);
    // Two bytes of length fit nearly all heads; a longer one is moved once.
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    let start = out.len();
    encode_prefix(out);
    section(out);
    let length = out.len() - start;
    match u16::try_from(length).ok().filter(|length| *length < 1 << 14) {
        Some(length) => {
            out[length_at..start].copy_from_slice(&(length | 0x4000).to_be_bytes());
        }
        None => {
            let mut number = Vec::new();
            varint::encode(length as u64, &mut number);
            out.splice(length_at..start, number);
        }
    }
}
