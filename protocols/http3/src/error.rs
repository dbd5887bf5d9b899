//! What ends a stream or a connection, with the code that says so to the peer.

use std::fmt;

/// An error code (RFC 9114 §8.1, RFC 9204 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u64);

impl Code {
    pub const NO_ERROR: Code = Code(0x100);
    pub const GENERAL_PROTOCOL_ERROR: Code = Code(0x101);
    pub const INTERNAL_ERROR: Code = Code(0x102);
    pub const STREAM_CREATION_ERROR: Code = Code(0x103);
    pub const CLOSED_CRITICAL_STREAM: Code = Code(0x104);
    pub const FRAME_UNEXPECTED: Code = Code(0x105);
    pub const FRAME_ERROR: Code = Code(0x106);
    pub const EXCESSIVE_LOAD: Code = Code(0x107);
    pub const ID_ERROR: Code = Code(0x108);
    pub const SETTINGS_ERROR: Code = Code(0x109);
    pub const MISSING_SETTINGS: Code = Code(0x10a);
    pub const REQUEST_REJECTED: Code = Code(0x10b);
    pub const REQUEST_CANCELLED: Code = Code(0x10c);
    pub const REQUEST_INCOMPLETE: Code = Code(0x10d);
    pub const MESSAGE_ERROR: Code = Code(0x10e);
    pub const QPACK_DECOMPRESSION_FAILED: Code = Code(0x200);
    pub const QPACK_ENCODER_STREAM_ERROR: Code = Code(0x201);
    pub const QPACK_DECODER_STREAM_ERROR: Code = Code(0x202);

    /// The name in the RFC; empty for a code without one.
    pub fn name(self) -> &'static str {
        match self {
            Code::NO_ERROR => "H3_NO_ERROR",
            Code::GENERAL_PROTOCOL_ERROR => "H3_GENERAL_PROTOCOL_ERROR",
            Code::INTERNAL_ERROR => "H3_INTERNAL_ERROR",
            Code::STREAM_CREATION_ERROR => "H3_STREAM_CREATION_ERROR",
            Code::CLOSED_CRITICAL_STREAM => "H3_CLOSED_CRITICAL_STREAM",
            Code::FRAME_UNEXPECTED => "H3_FRAME_UNEXPECTED",
            Code::FRAME_ERROR => "H3_FRAME_ERROR",
            Code::EXCESSIVE_LOAD => "H3_EXCESSIVE_LOAD",
            Code::ID_ERROR => "H3_ID_ERROR",
            Code::SETTINGS_ERROR => "H3_SETTINGS_ERROR",
            Code::MISSING_SETTINGS => "H3_MISSING_SETTINGS",
            Code::REQUEST_REJECTED => "H3_REQUEST_REJECTED",
            Code::REQUEST_CANCELLED => "H3_REQUEST_CANCELLED",
            Code::REQUEST_INCOMPLETE => "H3_REQUEST_INCOMPLETE",
            Code::MESSAGE_ERROR => "H3_MESSAGE_ERROR",
            Code::QPACK_DECOMPRESSION_FAILED => "QPACK_DECOMPRESSION_FAILED",
            Code::QPACK_ENCODER_STREAM_ERROR => "QPACK_ENCODER_STREAM_ERROR",
            Code::QPACK_DECODER_STREAM_ERROR => "QPACK_DECODER_STREAM_ERROR",
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

/// Why bytes were refused. The machine that gave it is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// This one stream is reset with the code; others go on.
    Stream {
        code: Code,
        /// What a server that has not answered yet may answer before it resets (RFC 9114 §4.1.2).
        status: u16,
        what: &'static str,
    },
    /// The connection is closed with the code.
    Connection { code: Code, what: &'static str },
}

impl Error {
    pub(crate) const fn connection(code: Code, what: &'static str) -> Error {
        Error::Connection { code, what }
    }

    /// RFC 9114 §4.1.2: a stream error of this code.
    pub(crate) const fn malformed(what: &'static str) -> Error {
        Error::Stream { code: Code::MESSAGE_ERROR, status: 400, what }
    }

    pub(crate) const fn excess(status: u16, what: &'static str) -> Error {
        Error::Stream { code: Code::EXCESSIVE_LOAD, status, what }
    }

    /// The code for the peer.
    pub fn code(&self) -> Code {
        match self {
            Error::Stream { code, .. } | Error::Connection { code, .. } => *code,
        }
    }

    /// What is wrong, for the log.
    pub fn what(&self) -> &'static str {
        match self {
            Error::Stream { what, .. } | Error::Connection { what, .. } => what,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Error::Stream { .. } => "stream",
            Error::Connection { .. } => "connection",
        };
        write!(f, "{place} refused with {}: {}", self.code(), self.what())
    }
}

impl std::error::Error for Error {}
