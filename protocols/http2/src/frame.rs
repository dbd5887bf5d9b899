//! Headers of frames (RFC 9113 §4.1, §6), and padding.

use crate::error::{Code, Error};

pub const HEADER_BYTES: usize = 9;
/// Of a payload: what we allow, and all that we send (RFC 9113 §4.2).
pub const PAYLOAD_BYTES_MAX: usize = 16 << 10;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// RFC 9218 §7.1.
pub const PRIORITY_UPDATE: u8 = 16;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Header {
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Header {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        Header { len, kind, flags, stream: number(stream) }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// 31 bits; the reserved one means nothing.
pub fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & (u32::MAX >> 1)
}

/// A frame's header as bytes.
pub fn header(len: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_BYTES] {
    debug_assert!(len <= PAYLOAD_BYTES_MAX);
    let [_, a, b, c] = (len as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

/// What DATA and HEADERS hold beside padding and priority (RFC 9113 §6.1, §6.2).
///
/// # Errors
/// The connection's: nothing is left for it.
pub fn content<'a>(header: &Header, mut payload: &'a [u8]) -> Result<&'a [u8], Error> {
    let mut padding = 0;
    if header.has(PADDED) {
        let Some((first, rest)) = payload.split_first() else {
            return Err(Error::size("a padded frame without a length of its padding"));
        };
        (padding, payload) = (usize::from(*first), rest);
    }
    if header.kind == HEADERS && header.has(WITH_PRIORITY) {
        // What RFC 7540 said of priorities is passed over (RFC 9113 §5.3.2).
        payload =
            payload.get(5..).ok_or(Error::size("HEADERS too short for the priority it has"))?;
    }
    let len = payload.len().checked_sub(padding);
    let len = len.ok_or(Error::new(Code::PROTOCOL_ERROR, "more padding than there is frame"))?;
    Ok(&payload[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let bytes = header(16_384, HEADERS, END_STREAM, 0x7fff_fffe);
        let parsed = Header::parse(&bytes);
        assert_eq!((parsed.len, parsed.kind, parsed.stream), (16_384, HEADERS, 0x7fff_fffe));
        assert!(parsed.has(END_STREAM) && !parsed.has(END_HEADERS));
        assert_eq!(number([0xff; 4]), u32::MAX >> 1);
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        let of = |kind, flags| Header { len: 0, kind, flags, stream: 1 };
        type Case = (u8, u8, &'static [u8], Result<&'static [u8], Code>);
        let cases: [Case; 9] = [
            (DATA, 0, b"abc", Ok(b"abc")),
            (DATA, PADDED, b"\x02abc", Ok(b"a")),
            (DATA, PADDED, b"\x03abc", Ok(b"")),
            (DATA, PADDED, b"\x04abc", Err(Code::PROTOCOL_ERROR)),
            (DATA, PADDED, b"", Err(Code::FRAME_SIZE_ERROR)),
            (DATA, WITH_PRIORITY, b"abcdef", Ok(b"abcdef")),
            (HEADERS, WITH_PRIORITY, b"\0\0\0\0\x10ab", Ok(b"ab")),
            (HEADERS, WITH_PRIORITY | PADDED, b"\x01\0\0\0\0\x10ab", Ok(b"a")),
            (HEADERS, WITH_PRIORITY, b"\0\0\0\0", Err(Code::FRAME_SIZE_ERROR)),
        ];
        for (kind, flags, payload, expected) in cases {
            let found = content(&of(kind, flags), payload).map_err(|error| error.code);
            assert_eq!(found, expected, "{kind} {flags} {payload:?}");
        }
    }
}
