//! What ends a stream or a connection, with the code that says so to the peer.

use std::fmt;
use tidegate_http::error_codes;

/// An error code (RFC 9114 §8.1, RFC 9204 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u64);

error_codes!(Code {
    NO_ERROR = 0x100 "H3_NO_ERROR",
    GENERAL_PROTOCOL_ERROR = 0x101 "H3_GENERAL_PROTOCOL_ERROR",
    INTERNAL_ERROR = 0x102 "H3_INTERNAL_ERROR",
    STREAM_CREATION_ERROR = 0x103 "H3_STREAM_CREATION_ERROR",
    CLOSED_CRITICAL_STREAM = 0x104 "H3_CLOSED_CRITICAL_STREAM",
    FRAME_UNEXPECTED = 0x105 "H3_FRAME_UNEXPECTED",
    FRAME_ERROR = 0x106 "H3_FRAME_ERROR",
    EXCESSIVE_LOAD = 0x107 "H3_EXCESSIVE_LOAD",
    ID_ERROR = 0x108 "H3_ID_ERROR",
    SETTINGS_ERROR = 0x109 "H3_SETTINGS_ERROR",
    MISSING_SETTINGS = 0x10a "H3_MISSING_SETTINGS",
    REQUEST_REJECTED = 0x10b "H3_REQUEST_REJECTED",
    REQUEST_CANCELLED = 0x10c "H3_REQUEST_CANCELLED",
    REQUEST_INCOMPLETE = 0x10d "H3_REQUEST_INCOMPLETE",
    MESSAGE_ERROR = 0x10e "H3_MESSAGE_ERROR",
    QPACK_DECOMPRESSION_FAILED = 0x200 "QPACK_DECOMPRESSION_FAILED",
    QPACK_ENCODER_STREAM_ERROR = 0x201 "QPACK_ENCODER_STREAM_ERROR",
    QPACK_DECODER_STREAM_ERROR = 0x202 "QPACK_DECODER_STREAM_ERROR",
});

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
