//! Why a session ends before its time.

use std::fmt;

/// An error is the end of the session; the alert that tells the peer why lies in what is to be sent.
#[derive(Debug, Clone, PartialEq)]
pub enum TlsError {
    /// The handshake, or a TLS 1.2 record.
    Rustls(rustls::Error),
    /// A record whose bytes were changed on their way, or were sealed with another key (RFC 8446 §5.2).
    BadRecordMac,
    /// A record that is longer than the protocol allows (RFC 8446 §5.2).
    RecordOverflow,
    /// A record or message that has no place here; which.
    Unexpected(&'static str),
    /// The peer ended the session with a fatal alert (RFC 8446 §6.2); its code.
    Alert(u8),
    /// Something to be sealed after the session's end, or before its handshake was over.
    NotOpen,
}

impl TlsError {
    /// Code of the alert that the peer is told (RFC 8446 §6); `None`: rustls has told it, or the peer knows.
    pub(crate) fn alert(&self) -> Option<u8> {
        match self {
            TlsError::BadRecordMac => Some(20),
            TlsError::RecordOverflow => Some(22),
            TlsError::Unexpected(_) => Some(10),
            TlsError::Rustls(_) | TlsError::Alert(_) | TlsError::NotOpen => None,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Rustls(error) => write!(f, "TLS: {error}"),
            TlsError::BadRecordMac => f.write_str("TLS: a record was changed on its way"),
            TlsError::RecordOverflow => f.write_str("TLS: a record is longer than is allowed"),
            TlsError::Unexpected(what) => write!(f, "TLS: {what} where it has no place"),
            TlsError::Alert(code) => write!(f, "TLS: the peer ended the session, alert {code}"),
            TlsError::NotOpen => f.write_str("TLS: the session is not open"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        TlsError::Rustls(error)
    }
}
