//! Request methods (RFC 9110 §9; PATCH is RFC 5789).
//!
//! Must stay true: methods are case-sensitive, so `get` is another method than `GET`.

use crate::text::is_token;
use std::fmt;

/// A request method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// The method that these bytes name; `None` when they are no token.
    pub fn parse(bytes: &[u8]) -> Option<Method> {
        Some(match bytes {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            other if is_token(other) => Method::Other(std::str::from_utf8(other).ok()?.into()),
            _ => return None,
        })
    }

    /// The method as it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Trace => "TRACE",
            Method::Connect => "CONNECT",
            Method::Other(name) => name,
        }
    }

    /// Safe methods ask for nothing to be changed (RFC 9110 §9.2.1); unknown ones count as unsafe.
    pub fn is_safe(&self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_parse_back_to_themselves() {
        for name in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get",
            "X-!",
        ] {
            assert_eq!(
                Method::parse(name.as_bytes()).map(|m| m.as_str().to_owned()).as_deref(),
                Some(name)
            );
        }
        for bad in [&b""[..], b"G ET", b"GET\0", b"G\xc3\xa9T", b"(GET)"] {
            assert_eq!(Method::parse(bad), None);
        }
        assert!(Method::Get.is_safe() && !Method::Post.is_safe());
    }
}
