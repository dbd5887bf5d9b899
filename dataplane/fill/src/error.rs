//! What went wrong at the next hop, and whether to try another one.

use std::fmt;

/// How far an exchange had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connect,
    Send,
    /// Waiting for the response head.
    Head,
    Body,
}

/// A failed exchange. All of them may be retried on another next hop; none is the client's fault.
#[derive(Debug, Clone)]
pub enum FillError {
    /// The connection failed or ended early.
    Connection { hop: String, phase: Phase, what: String },
    /// Nothing came in time.
    Timeout { hop: String, phase: Phase },
    /// The response broke HTTP/1.1's rules.
    BadResponse { hop: String, what: &'static str },
    /// The request could not be written as HTTP/1.1.
    BadRequest { what: &'static str },
    /// The role and the snapshot name nobody to ask.
    NoNextHop,
}

impl FillError {
    /// A word for logs and counters.
    pub fn kind(&self) -> &'static str {
        match self {
            FillError::Connection { .. } => "connection",
            FillError::Timeout { .. } => "timeout",
            FillError::BadResponse { .. } => "bad-response",
            FillError::BadRequest { .. } => "bad-request",
            FillError::NoNextHop => "no-next-hop",
        }
    }
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FillError::Connection { hop, phase, what } => {
                write!(f, "next hop {hop}: {phase:?} failed: {what}")
            }
            FillError::Timeout { hop, phase } => {
                write!(f, "next hop {hop}: {phase:?} took too long")
            }
            FillError::BadResponse { hop, what } => {
                write!(f, "next hop {hop}: its response is refused: {what}")
            }
            FillError::BadRequest { what } => write!(f, "the request cannot be sent on: {what}"),
            FillError::NoNextHop => {
                f.write_str("the snapshot names no next hop for this delivery service")
            }
        }
    }
}

impl std::error::Error for FillError {}
