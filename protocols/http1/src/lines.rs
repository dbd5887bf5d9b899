//! Finds the lines of a head as its bytes arrive, and reads field lines.
//!
//! Must stay true: each byte is looked at once by the scan, however the input is cut; a control byte, a CR
//! without LF or an LF without CR ends the scan at once, so that no wrong head is waited for.

use bytes::Bytes;
use tidegate_http::{FieldError, Fields, is_token};

/// What the scan found in the bytes it has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// No blank line yet.
    More,
    /// The head with its blank line takes this many bytes.
    Head(usize),
}

/// Why a head cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineError {
    BareCr,
    BareLf,
    Control,
    TooManyLeadingLines,
    TooManyFields,
    HeadTooLarge,
}

/// Remembers how far the bytes of one head were looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineScanner {
    /// Next byte to look at.
    at: usize,
    /// Start of the line that `at` is in.
    line: usize,
    /// Start of the first line that is not empty, and its end (at its CR), once known.
    first: Option<(usize, usize)>,
    leading_lines: usize,
    fields: usize,
    steps: u64,
}

/// Empty lines before a request line that are overlooked (RFC 9112 §2.2 asks for at least one).
const LEADING_LINES_MAX: usize = 2;

impl LineScanner {
    /// Looks at the bytes that are new since the last call. `buf` starts where it started then.
    pub(crate) fn scan(
        &mut self,
        buf: &[u8],
        head_bytes_max: usize,
        fields_max: usize,
    ) -> Result<Scan, LineError> {
        let end = buf.len().min(head_bytes_max);
        while self.at < end {
            let plain = plain_bytes(&buf[self.at..end]);
            self.at += plain;
            self.steps += plain as u64;
            if self.at == end {
                break;
            }
            let byte = buf[self.at];
            self.steps += 1;
            match byte {
                b'\r' => match buf.get(self.at + 1) {
                    None => break,
                    Some(b'\n') if self.at + 1 < end => {
                        if let Some(head) = self.end_line(fields_max)? {
                            return Ok(Scan::Head(head));
                        }
                    }
                    Some(b'\n') => return Err(LineError::HeadTooLarge),
                    Some(_) => return Err(LineError::BareCr),
                },
                b'\n' => return Err(LineError::BareLf),
                b'\t' => self.at += 1,
                0..=0x1f | 0x7f => return Err(LineError::Control),
                _ => self.at += 1,
            }
        }
        if buf.len() >= head_bytes_max { Err(LineError::HeadTooLarge) } else { Ok(Scan::More) }
    }

    /// `at` is at the CR of a CRLF.
    fn end_line(&mut self, fields_max: usize) -> Result<Option<usize>, LineError> {
        let empty = self.at == self.line;
        let next = self.at + 2;
        self.steps += 1;
        match (self.first, empty) {
            (None, true) => {
                self.leading_lines += 1;
                if self.leading_lines > LEADING_LINES_MAX {
                    return Err(LineError::TooManyLeadingLines);
                }
            }
            (None, false) => self.first = Some((self.line, self.at)),
            (Some(_), true) => return Ok(Some(next)),
            (Some(_), false) => {
                self.fields += 1;
                if self.fields > fields_max {
                    return Err(LineError::TooManyFields);
                }
            }
        }
        self.at = next;
        self.line = next;
        Ok(None)
    }

    /// First line (start, end without CRLF) when it is complete.
    pub(crate) fn first_line(&self) -> Option<(usize, usize)> {
        self.first
    }

    /// Start of the first line: known even while it is incomplete.
    pub(crate) fn first_start(&self) -> usize {
        self.first.map_or(self.line, |(start, _)| start)
    }

    /// Field lines seen so far.
    pub(crate) fn field_count(&self) -> usize {
        self.fields
    }

    /// Bytes looked at so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }
}

/// How many bytes from the start are no control characters: a multiple of the stride, or up to the first one.
fn plain_bytes(bytes: &[u8]) -> usize {
    let control = |byte: u8| byte < 0x20 || byte == 0x7f;
    let mut at = 0;
    // Without an early end inside the stride, so that the compiler looks at all of it at once.
    for stride in bytes.chunks_exact(STRIDE_BYTES) {
        if stride.iter().fold(false, |found, b| found | control(*b)) {
            break;
        }
        at += STRIDE_BYTES;
    }
    at + bytes[at..].iter().position(|b| control(*b)).unwrap_or(bytes.len() - at)
}

const STRIDE_BYTES: usize = 16;

/// Why a field line is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldLineError {
    Folded,
    NoColon,
    Name,
    Value,
}

impl FieldLineError {
    pub(crate) fn what(self) -> &'static str {
        match self {
            FieldLineError::Folded => {
                "a field line starts with white space (folded lines are refused)"
            }
            FieldLineError::NoColon => "a field line has no colon",
            FieldLineError::Name => "a field name is not a token (white space before the colon?)",
            FieldLineError::Value => "a field value holds a control character",
        }
    }
}

/// Reads the field lines from `start` (after the first line) up to the blank line. `head` was scanned.
/// Values share the memory of `head`.
pub(crate) fn parse_fields(
    head: &Bytes,
    start: usize,
    count: usize,
) -> Result<Fields, FieldLineError> {
    let mut fields = Fields::with_capacity(count);
    let mut at = start;
    while at < head.len() {
        // In a scanned head the next control character that is no tab is the CR of the line's end.
        let mut length = plain_bytes(&head[at..]);
        while head.get(at + length) == Some(&b'\t') {
            length += 1 + plain_bytes(&head[at + length + 1..]);
        }
        if length == 0 {
            break;
        }
        let line = &head[at..at + length];
        if matches!(line[0], b' ' | b'\t') {
            return Err(FieldLineError::Folded);
        }
        let colon = line.iter().position(|b| *b == b':').ok_or(FieldLineError::NoColon)?;
        fields.append_parsed(&line[..colon], head.slice(at + colon + 1..at + length)).map_err(
            |error| match error {
                FieldError::Name => FieldLineError::Name,
                FieldError::Value => FieldLineError::Value,
            },
        )?;
        at += length + 2;
    }
    Ok(fields)
}

/// What the fields say about the length of the body (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Absent,
    Length(u64),
    Chunked,
}

/// Why the length of a body cannot be told for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FramingError {
    LengthAndCoding,
    Length,
    SeveralLengths,
    CodingInHttp10,
    Coding,
    /// A list that ends in `chunked`: legal, but not ours.
    UnknownCoding,
}

impl FramingError {
    pub(crate) fn what(self) -> &'static str {
        match self {
            FramingError::LengthAndCoding => "Content-Length beside Transfer-Encoding",
            FramingError::Length => "Content-Length is not one decimal number",
            FramingError::SeveralLengths => "more than one Content-Length",
            FramingError::CodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            FramingError::Coding => "Transfer-Encoding is not exactly 'chunked'",
            FramingError::UnknownCoding => {
                "Transfer-Encoding other than 'chunked' is not implemented"
            }
        }
    }
}

/// Judges `Content-Length` and `Transfer-Encoding` together.
pub(crate) fn framing(fields: &Fields, http10: bool) -> Result<Framing, FramingError> {
    let mut codings = fields.get_all("transfer-encoding");
    let mut lengths = fields.get_all("content-length");
    let length = lengths.next();
    if let Some(coding) = codings.next() {
        if length.is_some() {
            return Err(FramingError::LengthAndCoding);
        }
        if http10 {
            return Err(FramingError::CodingInHttp10);
        }
        if codings.next().is_some() {
            return Err(FramingError::Coding);
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            return Ok(Framing::Chunked);
        }
        let names: Vec<&[u8]> = tidegate_http::list_members(coding).collect();
        return Err(match names.split_last() {
            Some((last, before))
                if last.eq_ignore_ascii_case(b"chunked")
                    && before
                        .iter()
                        .all(|name| is_token(name) && !name.eq_ignore_ascii_case(b"chunked")) =>
            {
                FramingError::UnknownCoding
            }
            _ => FramingError::Coding,
        });
    }
    let Some(length) = length else { return Ok(Framing::Absent) };
    if lengths.next().is_some() {
        return Err(FramingError::SeveralLengths);
    }
    // 18 digits always fit; no sign, no list, no white space inside.
    if length.is_empty() || length.len() > 18 || !length.iter().all(u8::is_ascii_digit) {
        return Err(FramingError::Length);
    }
    Ok(Framing::Length(length.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0'))))
}

/// What `Connection` says about the time after this message.
pub(crate) fn keep_alive(fields: &Fields, http10: bool) -> bool {
    let mut close = false;
    let mut keep = false;
    for option in fields.get_all("connection").flat_map(tidegate_http::list_members) {
        close |= option.eq_ignore_ascii_case(b"close");
        keep |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    !close && (keep || !http10)
}
