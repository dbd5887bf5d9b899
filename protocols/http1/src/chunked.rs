//! The chunked transfer coding, reading side (RFC 9112 §7.1).
//!
//! ```text
//! Size -> [Extension] -> SizeLf -> Data -> DataCr -> DataLf -> Size ...
//!                           | size 0
//!                           v
//!                        LineStart -> Name -> Value -> ValueLf -> LineStart ... -> EndLf -> Done
//! ```
//!
//! Must stay true: only CRLF ends a line; sizes have 1 to 16 hexadecimal digits and fit; what is dropped
//! (extensions, trailers) is bounded, so that a body of nothing but them ends in an error.

use std::fmt;
use std::ops::Range;
use tidegate_http::{is_token_byte, is_value_byte};

/// Reads one chunked body.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    chunks: u64,
    extension_bytes: u64,
    trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u8 },
    Extension { size: u64, bytes: u16 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    LineStart,
    Name,
    Value,
    ValueLf,
    EndLf,
    Done,
}

/// What one call found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are dealt with, `data` included. Call again with the rest.
    pub consumed: usize,
    /// Body bytes inside the input; may be empty.
    pub data: Range<usize>,
    /// The body is complete; bytes after `consumed` belong to the next message.
    pub done: bool,
}

/// Why a body is not chunked as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkError {
    /// Not a hexadecimal number where a chunk starts.
    Size,
    /// More than 16 digits, or a number beyond 2^63.
    SizeOverflow,
    /// LF without CR, or CR without LF.
    LineEnd,
    /// No CRLF after the bytes of a chunk.
    DataEnd,
    /// A control character in an extension.
    Extension,
    /// Too many extension bytes in one chunk, or on average.
    ExtensionTooLarge,
    /// A trailer line that is no field line.
    Trailer,
    TrailerTooLarge,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChunkError::Size => "a chunk does not start with a hexadecimal size",
            ChunkError::SizeOverflow => "a chunk size is too large",
            ChunkError::LineEnd => "a line of the chunked coding does not end with CRLF",
            ChunkError::DataEnd => "no CRLF after the bytes of a chunk",
            ChunkError::Extension => "a control character in a chunk extension",
            ChunkError::ExtensionTooLarge => "too many bytes in chunk extensions",
            ChunkError::Trailer => "a trailer line is no field line",
            ChunkError::TrailerTooLarge => "too many bytes in trailers",
        })
    }
}

impl std::error::Error for ChunkError {}

/// Extension bytes that one chunk may have.
pub const EXTENSION_BYTES_MAX: u16 = 256;
/// Extension bytes that a chunk may have on average, beside one full extension.
pub const EXTENSION_BYTES_AVERAGE_MAX: u64 = 16;
/// Bytes of all trailer lines.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
const SIZE_DIGITS_MAX: u8 = 16;

impl Default for ChunkedDecoder {
    fn default() -> ChunkedDecoder {
        ChunkedDecoder::new()
    }
}

impl ChunkedDecoder {
    /// At the start of a body.
    pub fn new() -> ChunkedDecoder {
        ChunkedDecoder {
            state: State::Size { value: 0, digits: 0 },
            chunks: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }

    /// The body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads up to and with the first run of body bytes in `input`. Call it again with what is left, until
    /// `done` or until the input is used up. With input left it always consumes something, unless done.
    ///
    /// # Errors
    /// When the coding is broken; the decoder is of no more use then.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, ChunkError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                let left = left - here as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                return Ok(Decoded { consumed: at + here, data: at..at + here, done: false });
            }
            self.state = self.step(input[at])?;
            at += 1;
        }
        Ok(Decoded { consumed: at, data: at..at, done: self.is_done() })
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        Ok(match self.state {
            State::Size { value, digits } => match char::from(byte).to_digit(16) {
                Some(_) if digits == SIZE_DIGITS_MAX => return Err(ChunkError::SizeOverflow),
                Some(_) if value >= 1 << 59 => return Err(ChunkError::SizeOverflow),
                Some(digit) => {
                    State::Size { value: value * 16 + u64::from(digit), digits: digits + 1 }
                }
                None if digits == 0 => return Err(ChunkError::Size),
                None => match byte {
                    b'\r' => State::SizeLf { size: value },
                    b';' => State::Extension { size: value, bytes: 1 },
                    b'\n' => return Err(ChunkError::LineEnd),
                    // White space after the size is refused too: hops differ about it.
                    _ => return Err(ChunkError::Size),
                },
            },
            State::Extension { size, bytes } => match byte {
                b'\r' => {
                    self.extension_bytes += u64::from(bytes);
                    let allowed =
                        u64::from(EXTENSION_BYTES_MAX) + self.chunks * EXTENSION_BYTES_AVERAGE_MAX;
                    if self.extension_bytes > allowed {
                        return Err(ChunkError::ExtensionTooLarge);
                    }
                    State::SizeLf { size }
                }
                b'\n' => return Err(ChunkError::LineEnd),
                _ if !is_value_byte(byte) => return Err(ChunkError::Extension),
                _ if bytes == EXTENSION_BYTES_MAX => return Err(ChunkError::ExtensionTooLarge),
                _ => State::Extension { size, bytes: bytes + 1 },
            },
            State::SizeLf { size } => {
                if byte != b'\n' {
                    return Err(ChunkError::LineEnd);
                }
                self.chunks += 1;
                if size == 0 { State::LineStart } else { State::Data { left: size } }
            }
            State::Data { left } => State::Data { left },
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::Size { value: 0, digits: 0 },
            State::DataCr | State::DataLf => return Err(ChunkError::DataEnd),
            State::LineStart if byte == b'\r' => State::EndLf,
            State::LineStart if is_token_byte(byte) => self.trailer(State::Name)?,
            State::LineStart if byte == b'\n' => return Err(ChunkError::LineEnd),
            State::Name if byte == b':' => self.trailer(State::Value)?,
            State::Name if is_token_byte(byte) => self.trailer(State::Name)?,
            State::LineStart | State::Name => return Err(ChunkError::Trailer),
            State::Value => match byte {
                b'\r' => State::ValueLf,
                b'\n' => return Err(ChunkError::LineEnd),
                _ if is_value_byte(byte) => self.trailer(State::Value)?,
                _ => return Err(ChunkError::Trailer),
            },
            State::ValueLf if byte == b'\n' => self.trailer(State::LineStart)?,
            State::EndLf if byte == b'\n' => State::Done,
            State::ValueLf | State::EndLf => return Err(ChunkError::LineEnd),
            State::Done => State::Done,
        })
    }

    fn trailer(&mut self, next: State) -> Result<State, ChunkError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            Err(ChunkError::TrailerTooLarge)
        } else {
            Ok(next)
        }
    }
}
