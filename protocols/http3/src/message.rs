//! What a decoded field section means as a request, a response or trailers (RFC 9114 §4.2, §4.3).
//!
//! Must stay true: a head that comes out of here has one meaning, as one from HTTP/1.1 has: one authority, one
//! body length, no field that belongs to a connection; crumbs of cookies are put together again (§4.2.1).

use crate::Limits;
use crate::error::{Code, Error};
use crate::qpack::{Name, Section};
use bytes::{Bytes, BytesMut};
use tidegate_http::{
    Authority, Fields, Method, RequestHead, ResponseHead, Scheme, Version, is_value_byte,
    list_members, trim,
};

/// A request head and what it says about the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedRequest {
    pub head: RequestHead,
    /// `content-length`: the DATA frames will hold so many bytes, or the reader says so.
    pub length: Option<u64>,
    /// The client waits for 100 before it sends the body.
    pub expect_continue: bool,
}

/// The head of a final response and what it says about the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedResponse {
    pub head: ResponseHead,
    /// Bytes of the body, where they are known; zero when the request or the status allows none.
    pub length: Option<u64>,
}

/// Fields that mean something only on one HTTP/1.1 connection (RFC 9114 §4.2).
pub(crate) fn is_of_one_connection(name: &str, value: &[u8]) -> bool {
    match name {
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => true,
        "te" => !trim(value).eq_ignore_ascii_case(b"trailers"),
        _ => false,
    }
}

/// Pseudo-header fields of a section, each at most once.
#[derive(Default)]
struct Pseudo {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    status: Option<Bytes>,
}

impl Pseudo {
    /// The place of a name; `None` for names that do not exist.
    fn place(&mut self, name: &[u8]) -> Option<&mut Option<Bytes>> {
        Some(match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b":status" => &mut self.status,
            _ => return None,
        })
    }
}

/// Parts a section in pseudo-header fields and fields.
fn part(section: &Section) -> Result<(Pseudo, Fields), Error> {
    let mut pseudo = Pseudo::default();
    let mut fields = Fields::with_capacity(16);
    let mut cookie: Option<BytesMut> = None;
    let mut fields_began = false;
    for (name, value) in section.lines() {
        if name.as_bytes().starts_with(b":") {
            if fields_began {
                return Err(Error::malformed("a pseudo-header field after a field"));
            }
            let place = pseudo
                .place(name.as_bytes())
                .ok_or(Error::malformed("an unknown pseudo-header field"))?;
            if !value.iter().all(|b| is_value_byte(*b)) {
                return Err(Error::malformed("a control character in a pseudo-header field"));
            }
            if place.replace(value).is_some() {
                return Err(Error::malformed("a pseudo-header field is there twice"));
            }
            continue;
        }
        fields_began = true;
        if name.as_bytes().iter().any(u8::is_ascii_uppercase) {
            return Err(Error::malformed("a field name with upper-case letters"));
        }
        let text = std::str::from_utf8(name.as_bytes())
            .map_err(|_| Error::malformed("a field name is no token"))?;
        if is_of_one_connection(text, &value) {
            return Err(Error::malformed("a field that belongs to a connection of HTTP/1.1"));
        }
        if text == "cookie" {
            match &mut cookie {
                None => cookie = Some(BytesMut::from(&value[..])),
                Some(all) => {
                    all.extend_from_slice(b"; ");
                    all.extend_from_slice(&value);
                }
            }
            continue;
        }
        match name {
            Name::Static(name) => fields.append(name, value),
            Name::Own(name) => fields.append_parsed(name, value),
        }
        .map_err(field_error)?;
    }
    if let Some(cookie) = cookie {
        fields.append("cookie", cookie.freeze()).map_err(field_error)?;
    }
    Ok((pseudo, fields))
}

fn field_error(error: tidegate_http::FieldError) -> Error {
    Error::malformed(match error {
        tidegate_http::FieldError::Name => "a field name is no token",
        tidegate_http::FieldError::Value => "a control character in a field value",
    })
}

/// Reads a request.
pub(crate) fn request(section: &Section, limits: &Limits) -> Result<ParsedRequest, Error> {
    let (pseudo, fields) = part(section)?;
    if pseudo.status.is_some() {
        return Err(Error::malformed("a pseudo-header field of responses in a request"));
    }
    let method = pseudo.method.ok_or(Error::malformed("a request without :method"))?;
    let method = Method::parse(&method).ok_or(Error::malformed("the method is no token"))?;
    if method == Method::Connect {
        let what = "CONNECT is not implemented";
        return Err(Error::Stream { code: Code::REQUEST_REJECTED, status: 501, what });
    }
    let scheme = pseudo.scheme.ok_or(Error::malformed("a request without :scheme"))?;
    let scheme = match scheme.to_ascii_lowercase().as_slice() {
        b"https" => Scheme::Https,
        b"http" => Scheme::Http,
        _ => return Err(Error::malformed("a scheme other than http and https")),
    };
    let target = pseudo.path.ok_or(Error::malformed("a request without :path"))?;
    if target.len() > limits.target_bytes_max {
        return Err(Error::excess(414, "the request target is too long"));
    }
    let (path, query) = path_and_query(&target, &method)?;
    let authority = authority(pseudo.authority.as_deref(), &fields, scheme)?;
    let length = content_length(&fields)?;
    let mut expect_continue = false;
    for expectation in fields.get_all("expect").flat_map(list_members) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            let what = "an expectation other than 100-continue";
            return Err(Error::Stream { code: Code::REQUEST_REJECTED, status: 417, what });
        }
        expect_continue = length != Some(0);
    }
    Ok(ParsedRequest {
        head: RequestHead {
            method,
            path,
            query,
            authority: Some(authority),
            scheme_in_target: Some(scheme),
            version: Version::Http3,
            fields,
        },
        length,
        expect_continue,
    })
}

fn path_and_query(target: &[u8], method: &Method) -> Result<(String, Option<String>), Error> {
    if !target.iter().all(|b| (0x21..=0x7e).contains(b)) {
        return Err(Error::malformed("the target holds bytes that must be escaped"));
    }
    if target.contains(&b'#') {
        return Err(Error::malformed("the target holds a fragment"));
    }
    let text = std::str::from_utf8(target)
        .map_err(|_| Error::malformed("the target holds bytes that must be escaped"))?;
    if text == "*" {
        if *method != Method::Options {
            return Err(Error::malformed("the target * is for OPTIONS only"));
        }
        return Ok((text.into(), None));
    }
    if !text.starts_with('/') {
        return Err(Error::malformed("the target does not start with /"));
    }
    Ok(match text.split_once('?') {
        Some((path, query)) => (path.into(), Some(query.into())),
        None => (text.into(), None),
    })
}

/// RFC 9114 §4.3.1: `:authority` or Host is there, and where both are they name the same.
fn authority(pseudo: Option<&[u8]>, fields: &Fields, scheme: Scheme) -> Result<Authority, Error> {
    let parse = |value: &[u8], what| Authority::parse(value).map_err(|_| Error::malformed(what));
    let mut hosts = fields.get_all("host");
    let host = match hosts.next() {
        Some(host) => Some(parse(host, "Host is no host with optional port")?),
        None => None,
    };
    if hosts.next().is_some() {
        return Err(Error::malformed("more than one Host"));
    }
    let own = match pseudo {
        Some(value) => Some(parse(value, ":authority is no host with optional port")?),
        None => None,
    };
    match (own, host) {
        (Some(own), Some(host)) => {
            let port = |authority: &Authority| authority.port.unwrap_or(scheme.default_port());
            if own.host != host.host || port(&own) != port(&host) {
                return Err(Error::malformed(":authority names another authority than Host"));
            }
            Ok(own)
        }
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (None, None) => Err(Error::malformed("a request without :authority and Host")),
    }
}

/// A response head: interim or final.
pub(crate) enum Response {
    Interim(ResponseHead),
    Final(ParsedResponse),
}

/// Reads a response to a request of this method.
pub(crate) fn response(section: &Section, to: &Method) -> Result<Response, Error> {
    let (pseudo, fields) = part(section)?;
    let Pseudo { method, scheme, authority, path, status } = pseudo;
    if method.or(scheme).or(authority).or(path).is_some() {
        return Err(Error::malformed("a pseudo-header field of requests in a response"));
    }
    let status = status.ok_or(Error::malformed("a response without :status"))?;
    let status = Some(&status[..])
        .filter(|digits| digits.len() == 3 && digits.iter().all(u8::is_ascii_digit))
        .map(|digits| digits.iter().fold(0u16, |n, b| n * 10 + u16::from(b - b'0')))
        .filter(|status| (100..=599).contains(status))
        .ok_or(Error::malformed("the status is not a number from 100 to 599"))?;
    // RFC 9114 §4.5.
    if status == 101 {
        return Err(Error::malformed("101 does not exist in HTTP/3"));
    }
    let length = content_length(&fields)?;
    let head = ResponseHead { status, version: Version::Http3, fields };
    if status < 200 {
        return Ok(Response::Interim(head));
    }
    let length = match status {
        204 if length.is_some_and(|length| length > 0) => {
            return Err(Error::malformed("an answer without a body announces one"));
        }
        // What a GET would have brought is told, and nothing comes (RFC 9110 §8.6).
        204 | 304 => Some(0),
        _ if *to == Method::Head => Some(0),
        _ => length,
    };
    Ok(Response::Final(ParsedResponse { head, length }))
}

/// Reads trailers (RFC 9114 §4.3: no pseudo-header fields).
pub(crate) fn trailers(section: &Section) -> Result<Fields, Error> {
    if section.iter().any(|(name, _)| name.starts_with(b":")) {
        return Err(Error::malformed("a pseudo-header field in trailers"));
    }
    part(section).map(|(_, fields)| fields)
}

/// One length, written once or the same each time.
fn content_length(fields: &Fields) -> Result<Option<u64>, Error> {
    const WRONG: Error = Error::malformed("content-length is no number");
    let mut length = None;
    for member in fields.get_all("content-length").flat_map(|value| value.split(|b| *b == b',')) {
        let digits = trim(member);
        if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(WRONG);
        }
        let value = digits.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
        if length.replace(value).is_some_and(|before| before != value) {
            return Err(Error::malformed("two lengths"));
        }
    }
    Ok(length)
}
