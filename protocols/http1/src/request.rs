//! Request heads (RFC 9112 §3, §5, §6).
//!
//! Must stay true: a head that comes out of here has one meaning: one authority, one body length, no spelling
//! that another hop could read otherwise. Every refusal carries the status to answer with; the connection is
//! closed after it, because nobody knows where the next request would start.

use crate::Limits;
use crate::lines::{self, Framing, FramingError, LineError, LineScanner, Scan};
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use tidegate_http::{Authority, Fields, Method, RequestHead, Scheme, Version, is_token_byte};

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    Length(u64),
    Chunked,
}

/// A request head and what it says about the bytes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedRequest {
    pub head: RequestHead,
    /// Bytes of the head in the buffer; the body or the next request starts there.
    pub head_bytes: usize,
    pub body: BodyFraming,
    /// The client allows another request on this connection.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body.
    pub expect_continue: bool,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestError {
    /// Status to answer with; the connection is closed after it.
    pub status: u16,
    /// What is wrong, for the log.
    pub what: &'static str,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request refused with {}: {}", self.status, self.what)
    }
}

impl std::error::Error for RequestError {}

const fn refuse(status: u16, what: &'static str) -> RequestError {
    RequestError { status, what }
}

/// Parses one head in one go. For bytes that arrive in pieces use [`RequestParser`], which is linear.
///
/// # Errors
/// When the head cannot become a good one.
pub fn parse_request(buf: &[u8], limits: &Limits) -> Result<Option<ParsedRequest>, RequestError> {
    RequestParser::new(*limits).parse(buf)
}

/// Judges a head that came in parts, as versions of HTTP with frames bring it, by the rules for one that comes as text: what
/// passes here would have passed there, to the same [`RequestHead`]. `fields` has the Host field.
///
/// # Errors
/// Its text would be refused, with the same status.
pub fn judge_parts(
    method: &[u8],
    target: &[u8],
    fields: Fields,
    limits: &Limits,
) -> Result<RequestHead, RequestError> {
    if method.is_empty() || method.len() > METHOD_BYTES_MAX {
        return Err(refuse(400, "the method is no token of usual length"));
    }
    if target.len() > limits.target_bytes_max {
        return Err(refuse(414, "the request target is too long"));
    }
    if target.is_empty() {
        return Err(refuse(400, "the request has no target"));
    }
    if fields.len() > limits.fields_max {
        return Err(line_error(LineError::TooManyFields));
    }
    // `METHOD target HTTP/1.1`, and the blank line.
    let first_line = method.len() + target.len() + VERSION_BYTES + 4;
    if first_line + fields.wire_size() + 2 > limits.head_bytes_max {
        return Err(line_error(LineError::HeadTooLarge));
    }
    Ok(judge(method, target, Version::Http11, fields)?.head)
}

/// Parses request heads as their bytes arrive.
///
/// Call `parse` with all bytes from the start of the head each time more have come. After a head was given
/// out, the parser is ready for the next one; the caller drops `head_bytes` and the body from the buffer.
#[derive(Debug, Clone)]
pub struct RequestParser {
    limits: Limits,
    scanner: LineScanner,
    first_line_good: bool,
    steps_before: u64,
}

impl RequestParser {
    /// A parser at the start of a head.
    pub fn new(limits: Limits) -> RequestParser {
        RequestParser {
            limits,
            scanner: LineScanner::default(),
            first_line_good: false,
            steps_before: 0,
        }
    }

    /// The head at the start of `buf`, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// As soon as the bytes seen so far cannot become a good head.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Option<ParsedRequest>, RequestError> {
        let scanned = self.scanner.scan(buf, self.limits.head_bytes_max, self.limits.fields_max);
        // The request line is judged first: its errors are the better answer, and HTTP/0.9 sends nothing
        // more.
        if !self.first_line_good {
            match self.scanner.first_line() {
                Some((start, end)) => {
                    RequestLine::parse(buf, start, end, &self.limits)?;
                    self.first_line_good = true;
                }
                None => check_partial_line(
                    &buf[self.scanner.first_start().min(buf.len())..],
                    &self.limits,
                )?,
            }
        }
        let head_bytes = match scanned {
            Ok(Scan::More) => return Ok(None),
            Ok(Scan::Head(head_bytes)) => head_bytes,
            Err(error) => return Err(line_error(error)),
        };
        let parsed = self.read(&buf[..head_bytes]);
        self.steps_before += self.scanner.steps();
        self.scanner = LineScanner::default();
        self.first_line_good = false;
        parsed.map(Some)
    }

    /// Bytes that all scans so far have looked at; grows linearly with the input however it is cut.
    pub fn steps(&self) -> u64 {
        self.steps_before + self.scanner.steps()
    }

    fn read(&self, head: &[u8]) -> Result<ParsedRequest, RequestError> {
        let head = Bytes::copy_from_slice(head);
        let (start, end) =
            self.scanner.first_line().ok_or(refuse(400, "there is no request line"))?;
        let line = RequestLine::parse(&head, start, end, &self.limits)?;
        let fields = lines::parse_fields(&head, end + 2, self.scanner.field_count())
            .map_err(|error| refuse(400, error.what()))?;
        let parsed =
            judge(&head[line.method.clone()], &head[line.target.clone()], line.version, fields)?;
        Ok(ParsedRequest { head_bytes: head.len(), ..parsed })
    }
}

/// What the parts of a head mean together.
fn judge(
    method: &[u8],
    target: &[u8],
    version: Version,
    fields: Fields,
) -> Result<ParsedRequest, RequestError> {
    let http10 = version == Version::Http10;

    let mut hosts = fields.get_all("host");
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(refuse(400, "more than one Host"));
    }
    let host = match host {
        Some(value) => Some(
            Authority::parse(value)
                .map_err(|_| refuse(400, "Host is no host with optional port"))?,
        ),
        None if http10 => None,
        None => return Err(refuse(400, "HTTP/1.1 request without Host")),
    };
    drop(hosts);

    let method = Method::parse(method).ok_or(refuse(400, "the method is no token"))?;
    let target = Target::parse(target, &method)?;
    let authority = match (target.authority, host) {
        (Some((scheme, own)), Some(host)) => {
            let port = |authority: &Authority| authority.port.unwrap_or(scheme.default_port());
            if own.host != host.host || port(&own) != port(&host) {
                return Err(refuse(400, "the target names another authority than Host"));
            }
            Some(own)
        }
        (Some((_, own)), None) => Some(own),
        (None, host) => host,
    };

    let body = match lines::framing(&fields, http10) {
        Ok(Framing::Absent) => BodyFraming::None,
        Ok(Framing::Length(0)) => BodyFraming::None,
        Ok(Framing::Length(length)) => BodyFraming::Length(length),
        Ok(Framing::Chunked) => BodyFraming::Chunked,
        Err(error @ FramingError::UnknownCoding) => return Err(refuse(501, error.what())),
        Err(error) => return Err(refuse(400, error.what())),
    };
    if method == Method::Trace && body != BodyFraming::None {
        return Err(refuse(400, "TRACE with a body"));
    }
    let mut expect_continue = false;
    for expectation in fields.get_all("expect").flat_map(tidegate_http::list_members) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(refuse(417, "an expectation other than 100-continue"));
        }
        // RFC 9110 §10.1.1: ignored in HTTP/1.0, and without meaning when no body follows.
        expect_continue = !http10 && body != BodyFraming::None;
    }
    let keep_alive = lines::keep_alive(&fields, http10);
    Ok(ParsedRequest {
        head_bytes: 0,
        head: RequestHead {
            method,
            path: target.path,
            query: target.query,
            authority,
            scheme_in_target: target.scheme,
            version,
            fields,
        },
        body,
        keep_alive,
        expect_continue,
    })
}

fn line_error(error: LineError) -> RequestError {
    match error {
        LineError::BareCr => refuse(400, "CR without LF"),
        LineError::BareLf => refuse(400, "LF without CR"),
        LineError::Control => refuse(400, "a control character in the head"),
        LineError::TooManyLeadingLines => refuse(400, "too many empty lines before the request"),
        LineError::TooManyFields => refuse(431, "too many fields"),
        LineError::HeadTooLarge => refuse(431, "the head is too large"),
    }
}

/// Refuses a request line that cannot become good, before its end has come.
fn check_partial_line(line: &[u8], limits: &Limits) -> Result<(), RequestError> {
    if let Some(first) = line.first()
        && !is_token_byte(*first)
        && *first != b'\r'
    {
        return Err(refuse(400, "the request does not start with a method"));
    }
    let method_end = line.iter().take(METHOD_BYTES_MAX + 1).position(|b| *b == b' ');
    match method_end {
        None if line.len() > METHOD_BYTES_MAX => Err(refuse(400, "the method is too long")),
        None => Ok(()),
        Some(end) => {
            // The target may be followed by a space and the version, which do not count. Looked at only when
            // it could be too long, so that short reads of a short line cost nothing.
            let rest = line.len() - end - 1;
            let window = limits.target_bytes_max + 1;
            if rest >= window && !line[end + 1..end + 1 + window].contains(&b' ') {
                return Err(refuse(414, "the request target is too long"));
            }
            if rest > window + VERSION_BYTES + 1 {
                return Err(refuse(400, "the request line has too many words"));
            }
            Ok(())
        }
    }
}

/// The longest registered method has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;
const VERSION_BYTES: usize = "HTTP/1.1".len();

struct RequestLine {
    method: Range<usize>,
    target: Range<usize>,
    version: Version,
}

impl RequestLine {
    /// `buf[start..end]` is the line without CRLF.
    fn parse(
        buf: &[u8],
        start: usize,
        end: usize,
        limits: &Limits,
    ) -> Result<RequestLine, RequestError> {
        let line = &buf[start..end];
        let first = line.iter().position(|b| *b == b' ');
        let method_end = first.ok_or(refuse(400, "the request line has no target"))?;
        if method_end == 0
            || method_end > METHOD_BYTES_MAX
            || !line[..method_end].iter().all(|b| is_token_byte(*b))
        {
            return Err(refuse(400, "the method is no token of usual length"));
        }
        let rest = &line[method_end + 1..];
        let Some(target_end) = rest.iter().position(|b| *b == b' ') else {
            if rest.len() > limits.target_bytes_max {
                return Err(refuse(414, "the request target is too long"));
            }
            return Err(refuse(400, "the request line has no version (HTTP/0.9?)"));
        };
        if target_end > limits.target_bytes_max {
            return Err(refuse(414, "the request target is too long"));
        }
        if target_end == 0 {
            return Err(refuse(400, "two spaces in the request line"));
        }
        let version = match &rest[target_end + 1..] {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(refuse(505, "a version other than HTTP/1.0 and HTTP/1.1"));
            }
            _ => return Err(refuse(400, "the request line does not end with a version")),
        };
        let target_start = start + method_end + 1;
        Ok(RequestLine {
            method: start..start + method_end,
            target: target_start..target_start + target_end,
            version,
        })
    }
}

struct Target {
    path: String,
    query: Option<String>,
    scheme: Option<Scheme>,
    authority: Option<(Scheme, Authority)>,
}

impl Target {
    fn parse(target: &[u8], method: &Method) -> Result<Target, RequestError> {
        if *method == Method::Connect {
            return Err(refuse(501, "CONNECT is not implemented"));
        }
        if !target.iter().all(|b| (0x21..=0x7e).contains(b)) {
            return Err(refuse(400, "the target holds bytes that must be escaped"));
        }
        if target.contains(&b'#') {
            return Err(refuse(400, "the target holds a fragment"));
        }
        let text =
            std::str::from_utf8(target).map_err(|_| refuse(400, "the target is not ASCII"))?;
        if text == "*" {
            if *method != Method::Options {
                return Err(refuse(400, "the target * is for OPTIONS only"));
            }
            return Ok(Target { path: "*".into(), query: None, scheme: None, authority: None });
        }
        if text.starts_with('/') {
            let (path, query) = split_query(text);
            return Ok(Target { path: path.into(), query, scheme: None, authority: None });
        }
        let (scheme, rest) = if has_prefix(text, "http://") {
            (Scheme::Http, &text[7..])
        } else if has_prefix(text, "https://") {
            (Scheme::Https, &text[8..])
        } else {
            return Err(refuse(400, "the target is neither a path nor an http URL"));
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let authority = Authority::parse(&rest.as_bytes()[..end]).map_err(|_| {
            refuse(400, "the authority of the target is no host with optional port")
        })?;
        let (path, query) = split_query(&rest[end..]);
        let path = match path {
            "" if *method == Method::Options && query.is_none() => "*",
            "" => "/",
            path => path,
        };
        Ok(Target {
            path: path.into(),
            query,
            scheme: Some(scheme),
            authority: Some((scheme, authority)),
        })
    }
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

fn split_query(text: &str) -> (&str, Option<String>) {
    match text.split_once('?') {
        Some((path, query)) => (path, Some(query.into())),
        None => (text, None),
    }
}
