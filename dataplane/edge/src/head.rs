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
const LEFT_OUT: [&str; 6] =
    ["host", "content-length", "expect", "te", "transfer-encoding", "connection"];

/// A request's head as text.
pub struct HeadText(Vec<u8>);

impl HeadText {
    /// Its first lines.
    pub fn new(method: &[u8], target: &[u8], authority: &[u8]) -> HeadText {
        let mut text = Vec::with_capacity(512);
        for piece in [method, b" ", target, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"] {
            text.extend_from_slice(piece);
        }
        HeadText(text)
    }

    /// A field line; several values become one (cookies come in crumbs: RFC 9113 §8.2.3).
    pub fn field(&mut self, name: &str, values: &[&[u8]]) {
        if LEFT_OUT.contains(&name) {
            return;
        }
        let text = &mut self.0;
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                text.extend_from_slice(b"; ");
            }
            text.extend_from_slice(value);
        }
        text.extend_from_slice(b"\r\n");
    }

    /// The head, if it is a good one.
    pub fn judge(mut self) -> Result<RequestHead, Refused> {
        self.0.extend_from_slice(b"\r\n");
        match parse_request(&self.0, &Limits::REQUEST) {
            Ok(Some(parsed)) if parsed.head_bytes == self.0.len() => Ok(parsed.head),
            Ok(_) => Err((400, "the request's fields do not make one head")),
            Err(error) => Err((error.status, error.what)),
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
            for line in lines.split(|byte| *byte == b'\n').filter(|line| line.len() > 1) {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                    put(&line[..colon], line[colon + 1..].trim_ascii());
                }
            }
            more.iter().for_each(|(name, value)| put(name.as_bytes(), value));
        }
    }
}
