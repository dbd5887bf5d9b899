//! HTTP/1.1 as a machine: bytes in, heads and body pieces out, and back (RFC 9112). No I/O, no clock.
//!
//! Must stay true: what two hops could read differently is refused, never repaired: bare LF or CR, folded
//! lines, space before a colon, two lengths, a length beside a transfer coding. The writer lets no CR, LF or
//! NUL out of a value. Feeding a message byte by byte gives the same as feeding it whole, in linear time.
#![forbid(unsafe_code)]

pub mod chunked;
pub mod corpus;
pub mod encode;
mod lines;
pub mod request;
pub mod response;

pub use chunked::{ChunkError, ChunkedDecoder, Decoded};
pub use encode::{
    EncodeError, LAST_CHUNK, encode_chunk_head, encode_field, encode_fields, encode_request,
    encode_response, encode_status_line,
};
pub use request::{
    BodyFraming, ParsedRequest, RequestError, RequestParser, judge_parts, parse_request,
};
pub use response::{ParsedResponse, ResponseBody, ResponseError, ResponseParser, parse_response};

use tidegate_types::limits::{
    FIELDS_MAX, REQUEST_HEAD_BYTES_MAX, REQUEST_TARGET_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX,
};

/// What one head may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head with its blank line.
    pub head_bytes_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
    /// Field lines.
    pub fields_max: usize,
}

impl Limits {
    /// For requests from clients and from tiers below.
    pub const REQUEST: Limits = Limits {
        head_bytes_max: REQUEST_HEAD_BYTES_MAX,
        target_bytes_max: REQUEST_TARGET_BYTES_MAX,
        fields_max: FIELDS_MAX,
    };

    /// For responses of next hops.
    pub const RESPONSE: Limits = Limits {
        head_bytes_max: RESPONSE_HEAD_BYTES_MAX,
        target_bytes_max: REQUEST_TARGET_BYTES_MAX,
        fields_max: FIELDS_MAX,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::REQUEST
    }
}
