//! HTTP/2 of a server as a machine: bytes in, events out; heads and bodies in, frames out (RFC 9113, RFC 7541, RFC 9218 §7).
//! No I/O, no clock; whoever has a connection drives it.
//!
//! ```text
//! read(now, bytes)        --> Event: request, data, reset, window, priority      heads lie in a Scratch
//! send_head, send_data, end, reset, release                                      what becomes of a stream
//! output --> slices to be written, written(n)                                    frames; bodies without a copy
//! leave, is_over; head_since                                                     goodbye; what the caller has to time
//! ```
//! We tell the client to keep no table for us (RFC 7541 §4.2): our heads depend on nothing before them.
//!
//! Must stay true: every buffer, table and count has a limit that is checked before it grows; what RFC 9113 calls malformed is
//! never given out as a request; bytes cut anywhere give the same as bytes in one piece, in linear time; no more DATA is
//! written than both windows allow; a connection that idles holds its table of fields and a few hundred bytes.
#![forbid(unsafe_code)]

mod budget;
mod connection;
mod error;
mod frame;
mod hpack;
mod out;
mod scratch;
mod settings;
mod streams;

pub use connection::{Connection, Event};
pub use error::{Code, Error};
pub use hpack::{Decoder, FieldWriter};
pub use out::PIECES_MAX;
pub use scratch::{Head, Scratch};

use tidegate_types::limits::REQUEST_HEAD_BYTES_MAX;

/// Streams that a client may have open at once.
pub const STREAMS_MAX: usize = 100;
/// Those and others, which are over for the client while we still work at them.
pub const WORKED_AT_MAX: usize = 2 * STREAMS_MAX;
/// Decoded fields of one request, at 32 bytes on top for each (RFC 9113 §6.5.2); and the block they come in.
pub const FIELDS_BYTES_MAX: usize = REQUEST_HEAD_BYTES_MAX;
/// CONTINUATION frames of one block (CVE-2024-27316 and its kin).
pub const CONTINUATIONS_MAX: u8 = 8;
/// Streams that a client opened and reset before they were looked at (rapid reset, CVE-2023-44487).
pub const RESET_UNSEEN_MAX: u32 = 20;
/// Streams that we had to reset because of what the client sent on them (MadeYouReset, CVE-2025-8671).
pub const RESET_BY_US_MAX: u32 = 100;
/// Bytes of frames without bodies that wait to be written, beyond which nothing more is to be read.
pub const BACKLOG_BYTES_MAX: usize = 64 << 10;
/// Body of one DATA frame: with its header it fills one TLS record (RFC 8446 §5.1).
pub const DATA_BYTES_MAX: usize = (16 << 10) - frame::HEADER_BYTES;
