//! SETTINGS (RFC 9113 §6.5): what the client says, and what we say once.

use crate::error::{Code, Error};
use crate::frame::{self, PAYLOAD_BYTES_MAX};
use crate::{FIELDS_BYTES_MAX, STREAMS_MAX};

const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// RFC 9218 §2.1.
const NO_RFC7540_PRIORITIES: u16 = 9;

const ENTRY_BYTES: usize = 6;
pub const WINDOW_MAX: u32 = u32::MAX >> 1;

/// Appends ours: the streams and fields that we take, and that we pass over the priorities of RFC 7540.
pub fn encode(out: &mut Vec<u8>) {
    let ours = [
        (MAX_CONCURRENT_STREAMS, STREAMS_MAX as u32),
        (MAX_HEADER_LIST_SIZE, FIELDS_BYTES_MAX as u32),
        (NO_RFC7540_PRIORITIES, 1),
    ];
    out.extend_from_slice(&frame::header(ours.len() * ENTRY_BYTES, frame::SETTINGS, 0, 0));
    for (name, value) in ours {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// What of a client's settings matters here: the window that streams begin with, if it says one. The others bound what we do
/// not do: we push nothing, keep no table for our heads, and no frame of ours is longer than each client must take.
///
/// # Errors
/// A value that may not be.
pub fn decode(payload: &[u8]) -> Result<Option<u32>, Error> {
    if !payload.len().is_multiple_of(ENTRY_BYTES) {
        return Err(Error::size("SETTINGS that end inside of a setting"));
    }
    let mut window = None;
    for entry in payload.chunks_exact(ENTRY_BYTES) {
        let [a, b, value @ ..] = entry else { continue };
        let value = value.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte));
        match u16::from_be_bytes([*a, *b]) {
            ENABLE_PUSH | NO_RFC7540_PRIORITIES if value > 1 => {
                return Err(Error::protocol("a setting of yes or no is neither"));
            }
            INITIAL_WINDOW_SIZE if value > WINDOW_MAX => {
                return Err(Error::new(Code::FLOW_CONTROL_ERROR, "windows beyond all measure"));
            }
            INITIAL_WINDOW_SIZE => window = Some(value),
            MAX_FRAME_SIZE if !(PAYLOAD_BYTES_MAX as u32..1 << 24).contains(&value) => {
                return Err(Error::protocol("frames of a size that may not be asked for"));
            }
            _ => {}
        }
    }
    Ok(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_their_rules() {
        let entry =
            |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let read = |payload: &[u8]| decode(payload).map_err(|error| error.code);
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[entry(4, 7), entry(77, 1), entry(4, 9)].concat()), Ok(Some(9)));
        assert_eq!(read(&entry(4, WINDOW_MAX)), Ok(Some(WINDOW_MAX)));
        for (name, value, expected) in [
            (2, 2, Code::PROTOCOL_ERROR),
            (9, 2, Code::PROTOCOL_ERROR),
            (4, WINDOW_MAX + 1, Code::FLOW_CONTROL_ERROR),
            (5, 16_383, Code::PROTOCOL_ERROR),
            (5, 1 << 24, Code::PROTOCOL_ERROR),
        ] {
            assert_eq!(read(&entry(name, value)), Err(expected), "{name} {value}");
            // Behind a good one, too.
            assert_eq!(read(&[entry(4, 7), entry(name, value)].concat()), Err(expected));
        }
        assert_eq!(read(&[0; 7]), Err(Code::FRAME_SIZE_ERROR));
        for (name, value) in [(1, 0), (1, u32::MAX), (2, 0), (3, 0), (5, 16_384), (6, 0)] {
            assert_eq!(read(&entry(name, value)), Ok(None));
        }
    }
}
