//! Where a request's fields are unpacked and judged (RFC 9113 §8.2, §8.3): one for all connections of a thread, so that those that
//! idle hold none.
//!
//! Must stay true: a head that is given out is one request: each pseudo-header field that it needs is there once and before
//! all fields, no field belongs to a connection, no name and no value holds what another hop could read as something else.

use crate::FIELDS_BYTES_MAX;
use crate::hpack::is_of_one_connection;
use tidegate_http::{is_token, is_token_byte, is_value_byte};
use tidegate_types::limits::FIELDS_MAX;

/// RFC 9113 §6.5.2: what each line costs beside its bytes.
const LINE_OVERHEAD_BYTES: usize = 32;
/// What is kept for the next request.
const KEPT_BYTES: usize = 16 << 10;

/// Fields of one request.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Names and values of all lines, one behind the other.
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// Where the line that is being read begins, and where its name ends.
    start: usize,
    name_end: usize,
    /// As RFC 9113 §6.5.2 counts.
    size: usize,
    excess: Option<&'static str>,
    pseudo: [Option<Line>; 4],
    /// How many lines are pseudo-header fields.
    pseudo_lines: usize,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    start: u32,
    name_end: u32,
    end: u32,
}

const METHOD: usize = 0;
const SCHEME: usize = 1;
const AUTHORITY: usize = 2;
const PATH: usize = 3;

/// A request's head; it has been judged as HTTP/2, not yet as HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    scratch: &'a Scratch,
}

impl<'a> Head<'a> {
    pub fn method(&self) -> &'a [u8] {
        self.scratch.pseudo(METHOD).unwrap_or_default()
    }

    /// Of a CONNECT there is none.
    pub fn path(&self) -> &'a [u8] {
        self.scratch.pseudo(PATH).unwrap_or_default()
    }

    pub fn authority(&self) -> Option<&'a [u8]> {
        self.scratch.pseudo(AUTHORITY)
    }

    /// Fields in their order, with names in lower case.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.scratch.lines().skip(self.scratch.pseudo_lines)
    }
}

impl Scratch {
    /// The head of the request that was given out last.
    pub fn head(&self) -> Head<'_> {
        Head { scratch: self }
    }

    /// What was unpacked.
    pub fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| self.line(*line))
    }

    /// Why it is not all that came.
    pub fn excess(&self) -> Option<&'static str> {
        self.excess
    }

    /// Bytes that were unpacked, kept or not, as RFC 9113 §6.5.2 counts.
    pub(crate) fn unpacked(&self) -> usize {
        self.size
    }

    /// Bytes that were unpacked and kept.
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    fn line(&self, line: Line) -> (&[u8], &[u8]) {
        let [start, name_end, end] = [line.start, line.name_end, line.end].map(|at| at as usize);
        (&self.bytes[start..name_end], &self.bytes[name_end..end])
    }

    fn pseudo(&self, which: usize) -> Option<&[u8]> {
        self.pseudo[which].map(|line| self.line(line).1)
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.lines.clear();
        (self.start, self.name_end, self.size) = (0, 0, 0);
        (self.excess, self.pseudo, self.pseudo_lines) = (None, [None; 4], 0);
    }

    /// Where the bytes of the next name and value go.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(crate) fn name_ends(&mut self) {
        self.name_end = self.bytes.len();
    }

    /// What stands behind the last line.
    pub(crate) fn last(&self) -> (&[u8], &[u8]) {
        (&self.bytes[self.start..self.name_end], &self.bytes[self.name_end..])
    }

    /// What stands behind the last line is one, if it fits.
    pub(crate) fn line_came(&mut self) {
        self.size += self.bytes.len() - self.start + LINE_OVERHEAD_BYTES;
        if self.has_room() {
            // Bytes are bounded by the block that they come from, a few times.
            let [start, name_end, end] =
                [self.start, self.name_end, self.bytes.len()].map(|at| at as u32);
            self.lines.push(Line { start, name_end, end });
        } else {
            self.bytes.truncate(self.start);
        }
        self.start = self.bytes.len();
    }

    /// A whole line.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        if self.excess.is_some() {
            return;
        }
        self.bytes.extend_from_slice(name);
        self.name_ends();
        self.bytes.extend_from_slice(value);
        self.line_came();
    }

    fn has_room(&mut self) -> bool {
        if self.size > FIELDS_BYTES_MAX {
            self.excess = self.excess.or(Some("the request's fields are too large"));
        } else if self.lines.len() == FIELDS_MAX {
            self.excess = self.excess.or(Some("too many fields"));
        }
        self.excess.is_none()
    }

    /// Whether the lines may be trailers (RFC 9113 §8.1): they are dropped, but for that.
    pub(crate) fn are_trailers(&self) -> bool {
        self.lines().all(|(name, _)| !name.starts_with(b":"))
    }

    /// Judges the lines as a request; the length of its body, if it says one.
    ///
    /// # Errors
    /// It is malformed (RFC 9113 §8.1.1).
    pub(crate) fn judge(&mut self) -> Result<Option<u64>, &'static str> {
        let mut length = None;
        for at in 0..self.lines.len() {
            let line = self.lines[at];
            let (name, value) = self.line(line);
            if !is_value(value) {
                return Err("a value holds what no value may");
            }
            if name.starts_with(b":") {
                let which = match name {
                    b":method" => METHOD,
                    b":scheme" => SCHEME,
                    b":authority" => AUTHORITY,
                    b":path" => PATH,
                    _ => return Err("an unknown pseudo-header field"),
                };
                if self.pseudo_lines < at {
                    return Err("a pseudo-header field behind a field");
                }
                if self.pseudo[which].replace(line).is_some() {
                    return Err("a pseudo-header field is there twice");
                }
                self.pseudo_lines += 1;
                continue;
            }
            if name.is_empty() || !name.iter().all(|b| is_token_byte(*b) && !b.is_ascii_uppercase())
            {
                return Err("a name is no token in lower case");
            }
            match name {
                b"te" if !value.eq_ignore_ascii_case(b"trailers") => {
                    return Err("te other than trailers");
                }
                b"content-length" => {
                    let said = number(value).ok_or("content-length is no number")?;
                    if length.replace(said).is_some_and(|before| before != said) {
                        return Err("two lengths");
                    }
                }
                name if is_of_one_connection(name) => {
                    return Err("a field that belongs to a connection of HTTP/1.1");
                }
                _ => {}
            }
        }
        // RFC 9113 §8.3.1, §8.5.
        let method = self.pseudo(METHOD).ok_or("a request without :method")?;
        if !is_token(method) {
            return Err("the method is no token");
        }
        if method == b"CONNECT" {
            if self.pseudo(SCHEME).or(self.pseudo(PATH)).is_some() {
                return Err("a CONNECT with :scheme or :path");
            }
            return Ok(length);
        }
        let scheme = self.pseudo(SCHEME).ok_or("a request without :scheme")?;
        if !scheme.eq_ignore_ascii_case(b"https") && !scheme.eq_ignore_ascii_case(b"http") {
            return Err("a scheme other than http and https");
        }
        match self.pseudo(PATH) {
            None => Err("a request without :path"),
            Some(b"") => Err("an empty :path"),
            Some(_) => Ok(length),
        }
    }
}

/// RFC 9113 §8.2.1: no control, and no white space at its ends.
fn is_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // To the end, so that it is done many bytes at a time.
    value.iter().fold(true, |good, byte| good & is_value_byte(*byte))
        && !is_blank(value.first())
        && !is_blank(value.last())
}

fn number(value: &[u8]) -> Option<u64> {
    let is_good = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    is_good.then(|| value.iter().fold(0, |n, byte| n * 10 + u64::from(byte - b'0')))
}
