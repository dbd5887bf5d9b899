//! HTTP/3 as machines: bytes of QUIC streams in, heads and body pieces out, and back (RFC 9114, RFC 9204).
//! No I/O, no clock; whoever has a QUIC connection of either side drives it.
//!
//! ```text
//! peer's unidirectional streams --> UniStream x Connection     settings, GOAWAY, QPACK instructions
//! request stream, server        --> RequestReader  --> head, data, trailers    encode_response --> bytes
//! request stream, client        --> ResponseReader --> head, data, trailers    encode_request  --> bytes
//! ```
//!
//! The QPACK table has no dynamic part (capacity 0), so field sections depend on nothing but themselves:
//! no stream waits for another, and one that was refused spoils no other. Server push is never allowed.
//!
//! Must stay true: every buffer has a limit that is checked before it grows; what RFC 9114 calls malformed is
//! never given out as a message; each refusal names its code and whether the stream or the connection ends;
//! bytes cut anywhere give the same as bytes in one piece, in linear time.
#![forbid(unsafe_code)]

mod connection;
mod encode;
mod error;
mod frame;
mod message;
pub mod qpack;
mod reader;
mod settings;
pub mod varint;

pub use connection::{Connection, PriorityUpdate, Side, Uni, UniStream};
pub use encode::{
    Lines, encode_data_head, encode_request, encode_response, encode_response_lines,
    encode_trailers,
};
pub use error::{Code, Error};
pub use message::{ParsedRequest, ParsedResponse};
pub use reader::{RequestEvent, RequestReader, ResponseEvent, ResponseReader};
pub use settings::Settings;

use tidegate_types::limits::{
    FIELDS_MAX, REQUEST_HEAD_BYTES_MAX, REQUEST_TARGET_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX,
};

/// What one message may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a HEADERS frame, checked before anything is decoded; and of what comes out of it, counted as
    /// RFC 9114 section 4.2.2 counts: 32 more for each line.
    pub section_bytes_max: usize,
    /// Bytes of `:path`.
    pub target_bytes_max: usize,
    /// Field lines, pseudo-header fields and pieces of cookies included.
    pub fields_max: usize,
}

impl Limits {
    /// For requests from clients.
    pub const REQUEST: Limits = Limits {
        section_bytes_max: REQUEST_HEAD_BYTES_MAX,
        target_bytes_max: REQUEST_TARGET_BYTES_MAX,
        fields_max: FIELDS_MAX,
    };

    /// For responses of servers.
    pub const RESPONSE: Limits = Limits {
        section_bytes_max: RESPONSE_HEAD_BYTES_MAX,
        target_bytes_max: REQUEST_TARGET_BYTES_MAX,
        fields_max: FIELDS_MAX,
    };
}

/// Interim answers that a client takes before the final one.
pub const INTERIM_MAX: usize = 8;
