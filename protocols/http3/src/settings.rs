//! SETTINGS (RFC 9114 §7.2.4, RFC 9204 §5).
//!
//! Must stay true: ours promise nothing that this crate does not do: no dynamic table, no blocked streams, no
//! extended CONNECT, no datagrams.

use crate::error::{Code, Error};
use crate::varint;

/// What the peer said; the defaults are those of the RFCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a field section that the peer takes, counted as RFC 9114 §4.2.2 counts.
    pub section_bytes_max: u64,
    pub qpack_table_bytes_max: u64,
    pub qpack_blocked_streams_max: u64,
    /// RFC 9220.
    pub extended_connect: bool,
    /// RFC 9297.
    pub datagrams: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            section_bytes_max: varint::MAX,
            qpack_table_bytes_max: 0,
            qpack_blocked_streams_max: 0,
            extended_connect: false,
            datagrams: false,
        }
    }
}

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x1;
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
const QPACK_BLOCKED_STREAMS: u64 = 0x7;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;
const H3_DATAGRAM: u64 = 0x33;

/// Bytes of a SETTINGS frame; the settings that exist need less than a tenth.
pub(crate) const SETTINGS_BYTES_MAX: usize = 1024;
const SETTINGS_MAX: usize = 64;

/// Reads the payload of a SETTINGS frame.
pub(crate) fn decode(mut payload: &[u8]) -> Result<Settings, Error> {
    let mut settings = Settings::default();
    let mut seen = Vec::new();
    while !payload.is_empty() {
        let mut next = || {
            let (value, length) = varint::decode(payload)
                .ok_or(Error::connection(Code::FRAME_ERROR, "SETTINGS ends inside a setting"))?;
            payload = &payload[length..];
            Ok(value)
        };
        let (id, value) = (next()?, next()?);
        if seen.contains(&id) {
            return Err(wrong("a setting is there twice"));
        }
        if seen.len() == SETTINGS_MAX {
            return Err(Error::connection(Code::EXCESSIVE_LOAD, "too many settings"));
        }
        seen.push(id);
        match id {
            // RFC 9114 §7.2.4.1: identifiers of HTTP/2 without a meaning here.
            0x0 | 0x2..=0x5 => return Err(wrong("a setting of HTTP/2")),
            QPACK_MAX_TABLE_CAPACITY => settings.qpack_table_bytes_max = value,
            MAX_FIELD_SECTION_SIZE => settings.section_bytes_max = value,
            QPACK_BLOCKED_STREAMS => settings.qpack_blocked_streams_max = value,
            ENABLE_CONNECT_PROTOCOL => settings.extended_connect = truth(value)?,
            H3_DATAGRAM => settings.datagrams = truth(value)?,
            _ => {}
        }
    }
    Ok(settings)
}

/// Appends the payload of our SETTINGS frame.
pub(crate) fn encode(section_bytes_max: usize, out: &mut Vec<u8>) {
    for (id, value) in [
        (QPACK_MAX_TABLE_CAPACITY, 0),
        (MAX_FIELD_SECTION_SIZE, section_bytes_max as u64),
        (QPACK_BLOCKED_STREAMS, 0),
    ] {
        varint::encode(id, out);
        varint::encode(value, out);
    }
}

fn truth(value: u64) -> Result<bool, Error> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(wrong("a setting that is 0 or 1 has another value")),
    }
}

const fn wrong(what: &'static str) -> Error {
    Error::connection(Code::SETTINGS_ERROR, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(u64, u64)]) -> Result<Settings, Code> {
        let mut payload = Vec::new();
        for (id, value) in pairs {
            varint::encode(*id, &mut payload);
            varint::encode(*value, &mut payload);
        }
        decode(&payload).map_err(|error| error.code())
    }

    #[test]
    fn known_settings_are_taken_and_unknown_ones_left() {
        let read =
            settings(&[(1, 4096), (6, 100), (7, 16), (8, 1), (0x33, 1), (0x21, 9), (0x4242, 0)]);
        let wanted = Settings {
            section_bytes_max: 100,
            qpack_table_bytes_max: 4096,
            qpack_blocked_streams_max: 16,
            extended_connect: true,
            datagrams: true,
        };
        assert_eq!(read, Ok(wanted));
        let mut ours = Vec::new();
        encode(100, &mut ours);
        assert_eq!(decode(&ours), Ok(Settings { section_bytes_max: 100, ..Settings::default() }));
    }

    #[test]
    fn wrong_settings_have_their_code() {
        for id in [0, 2, 3, 4, 5] {
            assert_eq!(settings(&[(id, 0)]), Err(Code::SETTINGS_ERROR), "{id}");
        }
        assert_eq!(settings(&[(6, 1), (6, 1)]), Err(Code::SETTINGS_ERROR));
        assert_eq!(settings(&[(0x21, 1), (0x21, 2)]), Err(Code::SETTINGS_ERROR));
        assert_eq!(settings(&[(8, 2)]), Err(Code::SETTINGS_ERROR));
        assert_eq!(settings(&[(0x33, 7)]), Err(Code::SETTINGS_ERROR));
        let many: Vec<(u64, u64)> = (0..65).map(|n| (0x1000 + n, 0)).collect();
        assert_eq!(settings(&many), Err(Code::EXCESSIVE_LOAD));
        for cut in [&[6][..], &[6, 0x40], &[0x40]] {
            assert_eq!(decode(cut).map_err(|e| e.code()), Err(Code::FRAME_ERROR));
        }
    }
}
