//! Response heads of next hops (RFC 9112 §4, §6).
//!
//! Must stay true: an answer whose end is not certain is refused, so that bytes of one answer never become
//! part of another (RFC 9112 §6.3). A refused answer means 502 for the client and a closed connection.

use crate::Limits;
use crate::lines::{self, Framing, LineError, LineScanner, Scan};
use bytes::Bytes;
use std::fmt;
use tidegate_http::{Method, ResponseHead, Version};

/// How the body of a response is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    None,
    Length(u64),
    Chunked,
    /// Up to the end of the connection: complete only if the peer closed in order.
    UntilClose,
}

/// A response head and what it says about the bytes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedResponse {
    pub head: ResponseHead,
    /// Bytes of the head in the buffer.
    pub head_bytes: usize,
    pub body: ResponseBody,
    /// The connection can carry another request after this body.
    pub keep_alive: bool,
    /// A 1xx answer: the real one follows. Callers take at most `INTERIM_MAX` of them.
    pub is_interim: bool,
}

/// Interim answers that a caller takes before one final answer (reliability design 2.2, 17).
pub const INTERIM_MAX: usize = 8;

/// Why a response was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseError {
    /// What is wrong, for the log.
    pub what: &'static str,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answer of the next hop refused: {}", self.what)
    }
}

impl std::error::Error for ResponseError {}

const fn refuse(what: &'static str) -> ResponseError {
    ResponseError { what }
}

/// Parses one head in one go, with the usual limits. For bytes in pieces use [`ResponseParser`].
///
/// # Errors
/// When the head cannot become a good one.
pub fn parse_response(
    buf: &[u8],
    request_method: &Method,
) -> Result<Option<ParsedResponse>, ResponseError> {
    ResponseParser::new(Limits::RESPONSE).parse(buf, request_method)
}

/// Parses response heads as their bytes arrive; used like `RequestParser`.
#[derive(Debug, Clone)]
pub struct ResponseParser {
    limits: Limits,
    scanner: LineScanner,
    steps_before: u64,
}

impl ResponseParser {
    /// A parser at the start of a head.
    pub fn new(limits: Limits) -> ResponseParser {
        ResponseParser { limits, scanner: LineScanner::default(), steps_before: 0 }
    }

    /// The head at the start of `buf`, or `None` when more bytes are needed. `request_method` is the method
    /// that is being answered: it decides whether there is a body.
    ///
    /// # Errors
    /// As soon as the bytes seen so far cannot become a good head.
    pub fn parse(
        &mut self,
        buf: &[u8],
        request_method: &Method,
    ) -> Result<Option<ParsedResponse>, ResponseError> {
        const START: &[u8] = b"HTTP/1.";
        let seen = buf.len().min(START.len());
        if buf[..seen] != START[..seen] {
            return Err(refuse("it does not start with HTTP/1."));
        }
        let scanned = self.scanner.scan(buf, self.limits.head_bytes_max, self.limits.fields_max);
        let head_bytes = match scanned {
            Ok(Scan::More) => return Ok(None),
            Ok(Scan::Head(head_bytes)) => head_bytes,
            Err(error) => return Err(line_error(error)),
        };
        let parsed = self.read(&buf[..head_bytes], request_method);
        self.steps_before += self.scanner.steps();
        self.scanner = LineScanner::default();
        parsed.map(Some)
    }

    /// Bytes that all scans so far have looked at.
    pub fn steps(&self) -> u64 {
        self.steps_before + self.scanner.steps()
    }

    fn read(&self, head: &[u8], request_method: &Method) -> Result<ParsedResponse, ResponseError> {
        let head = Bytes::copy_from_slice(head);
        let (start, end) = self.scanner.first_line().ok_or(refuse("there is no status line"))?;
        let line = &head[start..end];
        let version = match line.get(..9) {
            Some(b"HTTP/1.1 ") => Version::Http11,
            Some(b"HTTP/1.0 ") => Version::Http10,
            _ => return Err(refuse("the status line does not start with HTTP/1.1 or HTTP/1.0")),
        };
        let digits = line.get(9..12).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let status = digits
            .map(|digits| digits.iter().fold(0u16, |n, b| n * 10 + u16::from(b - b'0')))
            .filter(|status| (100..=599).contains(status))
            .ok_or(refuse("the status is not a number from 100 to 599"))?;
        // RFC 9112 §4 wants the space even without a reason; many senders forget it, and nothing hangs on it.
        if line.len() > 12 && line[12] != b' ' {
            return Err(refuse("the status has more than three digits"));
        }
        let fields = lines::parse_fields(&head, end + 2, self.scanner.field_count())
            .map_err(|e| refuse(e.what()))?;
        let http10 = version == Version::Http10;
        // Judged even where there is no body: an answer that contradicts itself comes from a confused hop.
        let framing = lines::framing(&fields, http10).map_err(|error| refuse(error.what()))?;
        if status == 101 {
            return Err(refuse("101 to a request that asked for no upgrade"));
        }
        let is_interim = status < 200;
        let mut keep_alive = lines::keep_alive(&fields, http10);
        let body = if is_interim || status == 204 {
            // RFC 9110 §8.6, RFC 9112 §6.1: neither field belongs here; what follows would be a guess.
            if !matches!(framing, Framing::Absent | Framing::Length(0)) {
                return Err(refuse("an answer without a body announces one"));
            }
            ResponseBody::None
        } else if status == 304 || *request_method == Method::Head {
            ResponseBody::None
        } else {
            match framing {
                Framing::Length(length) => ResponseBody::Length(length),
                Framing::Chunked => ResponseBody::Chunked,
                Framing::Absent => {
                    keep_alive = false;
                    ResponseBody::UntilClose
                }
            }
        };
        Ok(ParsedResponse {
            head_bytes: head.len(),
            head: ResponseHead { status, version, fields },
            body,
            keep_alive,
            is_interim,
        })
    }
}

fn line_error(error: LineError) -> ResponseError {
    refuse(match error {
        LineError::BareCr => "CR without LF in the head",
        LineError::BareLf => "LF without CR in the head",
        LineError::Control => "a control character in the head",
        LineError::TooManyLeadingLines => "empty lines before the status line",
        LineError::TooManyFields => "too many fields",
        LineError::HeadTooLarge => "the head is too large",
    })
}
