//! What ends a connection, with the code that says so to the peer.

use std::fmt;
use tidegate_http::error_codes;

/// An error code (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

error_codes!(Code {
    NO_ERROR = 0 "NO_ERROR",
    PROTOCOL_ERROR = 1 "PROTOCOL_ERROR",
    INTERNAL_ERROR = 2 "INTERNAL_ERROR",
    FLOW_CONTROL_ERROR = 3 "FLOW_CONTROL_ERROR",
    STREAM_CLOSED = 5 "STREAM_CLOSED",
    FRAME_SIZE_ERROR = 6 "FRAME_SIZE_ERROR",
    REFUSED_STREAM = 7 "REFUSED_STREAM",
    CANCEL = 8 "CANCEL",
    COMPRESSION_ERROR = 9 "COMPRESSION_ERROR",
    ENHANCE_YOUR_CALM = 11 "ENHANCE_YOUR_CALM",
});

/// Why the connection is to be closed; the GOAWAY that says so is among the output already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    pub what: &'static str,
}

impl Error {
    pub(crate) const fn new(code: Code, what: &'static str) -> Error {
        Error { code, what }
    }

    pub(crate) const fn protocol(what: &'static str) -> Error {
        Error::new(Code::PROTOCOL_ERROR, what)
    }

    pub(crate) const fn size(what: &'static str) -> Error {
        Error::new(Code::FRAME_SIZE_ERROR, what)
    }

    pub(crate) const fn flood(what: &'static str) -> Error {
        Error::new(Code::ENHANCE_YOUR_CALM, what)
    }

    /// It cost much and asked for nothing.
    pub fn is_flood(&self) -> bool {
        self.code == Code::ENHANCE_YOUR_CALM
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection refused with {}: {}", self.code, self.what)
    }
}

impl std::error::Error for Error {}
