//! What ends a connection, with the code that says so to the peer.

use std::fmt;

/// An error code (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    pub const NO_ERROR: Code = Code(0);
    pub const PROTOCOL_ERROR: Code = Code(1);
    pub const INTERNAL_ERROR: Code = Code(2);
    pub const FLOW_CONTROL_ERROR: Code = Code(3);
    pub const STREAM_CLOSED: Code = Code(5);
    pub const FRAME_SIZE_ERROR: Code = Code(6);
    pub const REFUSED_STREAM: Code = Code(7);
    pub const CANCEL: Code = Code(8);
    pub const COMPRESSION_ERROR: Code = Code(9);
    pub const ENHANCE_YOUR_CALM: Code = Code(11);

    /// The name in the RFC; empty for a code that is not used here.
    pub fn name(self) -> &'static str {
        match self {
            Code::NO_ERROR => "NO_ERROR",
            Code::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Code::INTERNAL_ERROR => "INTERNAL_ERROR",
            Code::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Code::STREAM_CLOSED => "STREAM_CLOSED",
            Code::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Code::REFUSED_STREAM => "REFUSED_STREAM",
            Code::CANCEL => "CANCEL",
            Code::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Code::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            _ => "",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "" => write!(f, "{:#x}", self.0),
            name => f.write_str(name),
        }
    }
}

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
