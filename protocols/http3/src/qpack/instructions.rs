//! The streams on which a peer speaks of dynamic tables (RFC 9204 §4.3, §4.4), when there are none.
//!
//! Must stay true: an instruction that would need a table is an error at once, before its string has come; so
//! nothing is ever held but a number of at most ten bytes.

use crate::error::{Code, Error};
use tidegate_http::prefix as integer;

/// Bytes of one instruction without a string.
const INSTRUCTION_BYTES_MAX: usize = 10;

/// Instructions that change nothing on one connection.
const IDLE_INSTRUCTIONS_MAX: u32 = 1024;

/// Takes what came in pieces until one instruction is whole.
#[derive(Debug, Default)]
struct Pieces {
    held: [u8; INSTRUCTION_BYTES_MAX],
    count: usize,
    whole: u32,
}

impl Pieces {
    /// Adds a byte; the instruction's number, whose prefix has so many bits, when it is whole.
    fn push(&mut self, byte: u8, prefix: u8, wrong: Error) -> Result<Option<u64>, Error> {
        if self.count == INSTRUCTION_BYTES_MAX {
            return Err(wrong);
        }
        self.held[self.count] = byte;
        self.count += 1;
        let mut bytes = &self.held[..self.count];
        let Some((_, value)) = integer::decode(&mut bytes, prefix) else {
            return Ok(None);
        };
        self.count = 0;
        self.whole += 1;
        if self.whole > IDLE_INSTRUCTIONS_MAX {
            return Err(Error::connection(Code::EXCESSIVE_LOAD, "too many QPACK instructions"));
        }
        Ok(Some(value))
    }
}

/// The peer's encoder stream.
#[derive(Debug, Default)]
pub(crate) struct EncoderStream(Pieces);

impl EncoderStream {
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let wrong = |what| Error::connection(Code::QPACK_ENCODER_STREAM_ERROR, what);
        for byte in bytes {
            // `001`: Set Dynamic Table Capacity. All others insert or duplicate.
            if self.0.count == 0 && byte >> 5 != 0b001 {
                return Err(wrong("an entry does not fit a dynamic table of capacity 0"));
            }
            let long = wrong("a capacity is no number");
            match self.0.push(*byte, 5, long)? {
                None | Some(0) => {}
                Some(_) => return Err(wrong("a capacity above the 0 that we allow")),
            }
        }
        Ok(())
    }
}

/// The peer's decoder stream.
#[derive(Debug, Default)]
pub(crate) struct DecoderStream(Pieces);

impl DecoderStream {
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let wrong = |what| Error::connection(Code::QPACK_DECODER_STREAM_ERROR, what);
        for byte in bytes {
            // `01`: Stream Cancellation, which may come for any stream.
            if self.0.count == 0 && byte >> 6 != 0b01 {
                return Err(wrong("an acknowledgement of entries that we never sent"));
            }
            let _cancelled = self.0.push(*byte, 6, wrong("a stream id is no number"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_capacity_zero_is_taken() {
        assert_eq!(EncoderStream::default().read(&[0x20, 0x20]), Ok(()));
        // RFC 9204 appendix B.2: capacity 220; inserts; B.3 and B.4: insert with literal name, duplicate.
        for bad in [&[0x3f, 0xbd, 0x01][..], &[0xc0], &[0x4a], &[0x02], &[0x80], &[0x00]] {
            let code = EncoderStream::default().read(bad).map_err(|e| e.code());
            assert_eq!(code, Err(Code::QPACK_ENCODER_STREAM_ERROR), "{bad:?}");
        }
        let mut pieces = EncoderStream::default();
        assert_eq!(pieces.read(&[0x3f]), Ok(()));
        assert_eq!(pieces.read(&[0x80; 8]), Ok(()));
        assert!(pieces.read(&[0x80; 8]).is_err());
    }

    #[test]
    fn cancellations_are_taken_and_acknowledgements_are_not() {
        assert_eq!(DecoderStream::default().read(&[0x48, 0x7f, 0x00]), Ok(()));
        for bad in [0x84, 0x01, 0x00] {
            let code = DecoderStream::default().read(&[bad]).map_err(|e| e.code());
            assert_eq!(code, Err(Code::QPACK_DECODER_STREAM_ERROR));
        }
        let flood = vec![0x40; 2000];
        let code = DecoderStream::default().read(&flood).map_err(|e| e.code());
        assert_eq!(code, Err(Code::EXCESSIVE_LOAD));
    }
}
