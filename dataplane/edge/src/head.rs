//! Heads of requests and answers, as HTTP/2 and HTTP/3 share them.
//!
//! Must stay true: a request becomes the bytes of an HTTP/1.1 head and is judged as such, so that nothing passes by one
//! version that would be refused by another.

use tidegate_engine::HeadFields;
use tidegate_http::RequestHead;
use tidegate_http1::{Limits, parse_request};

/// A status and why.
pub type Refused = (u16, &'static str);

/// What belongs to one hop or to the framing, and Host, which stands for itself.
const LEFT_OUT: [&[u8]; 6] =
    [b"host", b"content-length", b"expect", b"te", b"transfer-encoding", b"connection"];

/// A request's head as text, in a buffer that may serve the next one.
pub struct HeadText<'a> {
    text: &'a mut Vec<u8>,
    /// Crumbs of cookies become one field (RFC 9113 §8.2.3).
    cookies: Vec<&'a [u8]>,
}

impl<'a> HeadText<'a> {
    /// Its first lines.
    pub fn new(
        text: &'a mut Vec<u8>,
        method: &[u8],
        target: &[u8],
        authority: &[u8],
    ) -> HeadText<'a> {
        text.clear();
        for piece in [method, b" ", target, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"] {
            text.extend_from_slice(piece);
        }
        HeadText { text, cookies: Vec::new() }
    }

    /// A field line. Neither name nor value ends a line.
    pub fn field(&mut self, name: &[u8], value: &'a [u8]) {
        match name {
            b"cookie" => self.cookies.push(value),
            name if LEFT_OUT.contains(&name) => {}
            name => self.line(name, &[value]),
        }
    }

    fn line(&mut self, name: &[u8], values: &[&[u8]]) {
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.text.extend_from_slice(b"; ");
            }
            self.text.extend_from_slice(value);
        }
        self.text.extend_from_slice(b"\r\n");
    }

    /// The head, if it is a good one.
    pub fn judge(mut self) -> Result<RequestHead, Refused> {
        let cookies = std::mem::take(&mut self.cookies);
        if !cookies.is_empty() {
            self.line(b"cookie", &cookies);
        }
        self.text.extend_from_slice(b"\r\n");
        match parse_request(self.text, &Limits::REQUEST) {
            Ok(Some(parsed)) if parsed.head_bytes == self.text.len() => Ok(parsed.head),
            Ok(_) => Err((400, "the request's fields do not make one head")),
            Err(error) => Err((error.status, error.what)),
        }
    }
}

/// Shows each of some lines of HTTP/1.1.
pub fn each_line(lines: &[u8], mut put: impl FnMut(&[u8], &[u8])) {
    for line in lines.split(|byte| *byte == b'\n').filter(|line| line.len() > 1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            put(&line[..colon], line[colon + 1..].trim_ascii());
        }
    }
}

/// Shows each field of an answer.
pub fn each_field(fields: HeadFields<'_>, mut put: impl FnMut(&[u8], &[u8])) {
    match fields {
        HeadFields::Made(fields) => {
            fields.iter().for_each(|(name, value)| put(name.as_bytes(), value));
        }
        HeadFields::Lines(lines, more) => {
            each_line(&lines.bytes, &mut put);
            more.iter().for_each(|(name, value)| put(name.as_bytes(), value));
        }
    }
}
