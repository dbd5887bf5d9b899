//! What went wrong at the next hop, and whether to try another one.

use std::fmt;

/// How far an exchange had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connect,
    /// The TLS handshake.
    Tls,
    Send,
    /// Waiting for the response head.
    Head,
    Body,
}

/// A failed exchange. All of them may be retried on another next hop; none is the client's fault.
#[derive(Debug, Clone)]
pub enum FillError {
    /// The connection failed or ended early; `refused`: nobody listens there.
    Connection { hop: String, phase: Phase, what: String, refused: bool },
    /// Nothing came in time.
    Timeout { hop: String, phase: Phase },
    /// The response broke HTTP/1.1's rules.
    BadResponse { hop: String, what: &'static str },
    /// The request could not be written as HTTP/1.1.
    BadRequest { what: &'static str },
    /// The role and the snapshot name nobody to ask.
    NoNextHop,
    /// All of them are out, and somebody else tries them.
    AllOut,
    /// It has as much under way as it may have.
    Busy { hop: String },
    /// Its name has no address yet.
    Unresolved { hop: String },
    /// All tries together took too long.
    Deadline,
}

impl FillError {
    /// What the client is answered when nothing stale can be used: 503 when nobody could be asked, 504 when no answer
    /// came in time, 502 when there was one, or a part of one, that is of no use.
    pub fn status(&self) -> u16 {
        match self {
            FillError::Connection { phase: Phase::Connect, .. }
            | FillError::Timeout { phase: Phase::Connect, .. }
            | FillError::NoNextHop
            | FillError::Busy { .. }
            | FillError::Unresolved { .. }
            | FillError::AllOut => 503,
            FillError::Timeout { .. } | FillError::Deadline => 504,
            FillError::Connection { .. }
            | FillError::BadResponse { .. }
            | FillError::BadRequest { .. } => 502,
        }
    }

    /// Whether somebody may have done work for the try that failed so.
    pub fn has_cost(&self) -> bool {
        self.status() != 503
    }

    /// Of two failed tries, the one that tells more: that somebody was reached and did badly.
    pub fn or_rather(self, other: FillError) -> FillError {
        if self.status() != 503 && other.status() == 503 { self } else { other }
    }

    /// A word for logs and counters.
    pub fn kind(&self) -> &'static str {
        match self {
            FillError::Connection { .. } => "connection",
            FillError::Timeout { .. } => "timeout",
            FillError::BadResponse { .. } => "bad-response",
            FillError::BadRequest { .. } => "bad-request",
            FillError::NoNextHop => "no-next-hop",
            FillError::AllOut => "all-out",
            FillError::Busy { .. } => "busy",
            FillError::Unresolved { .. } => "unresolved",
            FillError::Deadline => "deadline",
        }
    }
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FillError::Connection { hop, phase, what, .. } => {
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
            FillError::AllOut => f.write_str("all next hops are out"),
            FillError::Busy { hop } => {
                write!(f, "next hop {hop}: as much is under way there as origin_limit allows")
            }
            FillError::Unresolved { hop } => {
                write!(f, "next hop {hop}: its name has no address yet")
            }
            FillError::Deadline => f.write_str("all tries together took too long"),
        }
    }
}

impl std::error::Error for FillError {}
