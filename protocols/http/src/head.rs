//! Heads of requests and responses, free of the version's wire format.
//!
//! Must stay true: `path` is what the client sent (origin-form, not normalised, starting with `/`, or exactly
//! `*`); whoever makes a cache key or a file name of it goes through `path::canonical_path` first.

use crate::authority::Authority;
use crate::fields::Fields;
use crate::method::Method;

/// Version of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Http10,
    Http11,
    Http2,
    Http3,
}

impl Version {
    /// As it is written on the wire of HTTP/1 and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
            Version::Http3 => "HTTP/3",
        }
    }
}

/// Scheme of an absolute request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port that stands for this scheme when none is written.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// A request head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: Method,
    /// Path of the target as sent, starting with `/`; `*` for `OPTIONS *`.
    pub path: String,
    /// What follows the first `?`, as sent; `Some("")` when nothing does.
    pub query: Option<String>,
    /// Of the absolute target, else of the Host field; `None` only in HTTP/1.0 requests without Host.
    pub authority: Option<Authority>,
    /// Scheme of an absolute target, or of `:scheme`. It says nothing about how the connection is protected.
    pub scheme_in_target: Option<Scheme>,
    pub version: Version,
    pub fields: Fields,
}

impl RequestHead {
    /// Path and query as one request target.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// A response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    pub version: Version,
    pub fields: Fields,
}
