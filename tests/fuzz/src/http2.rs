//! HTTP/2: what a client sends, and blocks of fields.

use crate::http::with_cut;
use crate::split;
use bytes::Bytes;
use std::time::Duration;
use tidegate_http2::{
    Connection, Decoder, Event, FIELDS_BYTES_MAX, FieldWriter, PIECES_MAX, Scratch, WORKED_AT_MAX,
};

const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Body of each answer: more than the first window.
const BODY: &[u8] = &[7; 70_000];

/// Each request is answered at once, as far as its windows go; what came, and what was sent.
fn converse(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
    let (mut machine, mut scratch) = (Connection::new(), Scratch::default());
    let (mut told, mut sent) = (Vec::new(), Vec::new());
    for piece in [BEGIN].iter().chain(pieces) {
        let mut rest = *piece;
        loop {
            let stream = match machine.read(Duration::ZERO, &mut rest, &mut scratch) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    told.push(format!("{event:?}"));
                    match event {
                        Event::Request { stream, .. } => {
                            let head = scratch.head();
                            assert!(!head.method().is_empty());
                            head.fields().for_each(|(name, value)| {
                                assert!(!name.is_empty() && !name.contains(&b':'));
                                assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
                            });
                            told.extend(scratch.lines().map(|line| format!("{line:?}")));
                            machine.send_head(stream, 200, None, false, |writer| {
                                writer.put(b"etag", b"\"a\"");
                            });
                            Some(stream)
                        }
                        Event::Refused { stream, status, .. } => {
                            machine.send_head(stream, status, Some(0), true, |_| {});
                            machine.release(stream);
                            None
                        }
                        Event::Window { stream } => stream,
                        Event::Reset { stream } => {
                            machine.release(stream);
                            None
                        }
                        Event::Data { .. } | Event::Priority { .. } => None,
                    }
                }
                Err(error) => {
                    told.push(error.to_string());
                    assert!(machine.is_over());
                    break;
                }
            };
            if let Some(stream) = stream {
                let room = machine.room(stream).unwrap_or(0);
                let mut body = Bytes::from_static(BODY);
                assert_eq!(
                    machine.send_data(stream, &mut body, usize::MAX, true),
                    room.min(BODY.len())
                );
            }
            assert!(machine.streams() <= WORKED_AT_MAX);
        }
    }
    while !machine.is_written() {
        let mut pieces = [&[][..]; PIECES_MAX];
        let count = machine.output(&mut pieces);
        let bytes = pieces[..count].concat();
        machine.written(bytes.len());
        sent.extend(bytes);
    }
    (told, sent)
}

/// Whole and in pieces a conversation is the same; frames leave whole, and no data without a window.
pub fn connection(input: &[u8]) {
    let (a, b) = split(input);
    let bytes = [a, b].concat();
    let whole = converse(&[&bytes]);
    assert_eq!(whole, converse(&[a, b]));
    let mut rest = &whole.1[..];
    while let Some((header, behind)) = rest.split_first_chunk::<9>() {
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        assert!(len <= 16 << 10);
        rest = behind.get(len..).expect("whole frames");
    }
    assert!(rest.is_empty());
}

pub fn connection_seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let get = b"\x82\x87\x41\x01a\x84\x40\x01x\x01y";
    let post = b"\x83\x87\xbf\x84\xbe\x0f\x0d\x015";
    let whole = [
        frame(1, 5, 1, get),
        frame(1, 4, 3, post),
        frame(0, 1, 3, b"hello"),
        frame(8, 0, 1, &[0, 0, 0x40, 0]),
        frame(8, 0, 0, &[0, 0, 0x40, 0]),
        frame(4, 0, 0, &[0, 4, 0, 0, 0x20, 0]),
        frame(6, 0, 0, b"12345678"),
        frame(16, 0, 0, b"\0\0\0\x05u=1"),
        frame(1, 1, 5, &get[..3]),
        frame(9, 4, 5, &get[3..]),
        frame(3, 0, 5, &[0, 0, 0, 8]),
        frame(7, 0, 0, &[0; 8]),
    ];
    let padded = [frame(1, 0x2d, 1, &[b"\x02\0\0\0\0\x10", &get[..], b"\0\0"].concat())];
    with_cut(vec![whole.concat(), padded.concat()])
}

/// Blocks, each behind a byte of its length, are read or refused; what is read can be written, and is read as the same.
pub fn hpack(input: &[u8]) {
    let (mut decoder, mut scratch) = (Decoder::default(), Scratch::default());
    let mut rest = input;
    while let Some((len, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        if decoder.decode(block, &mut scratch).is_err() {
            return;
        }
        assert!(decoder.table_bytes() <= 4096);
        assert!(scratch.held() <= FIELDS_BYTES_MAX);
        let mut written = Vec::new();
        let mut writer = FieldWriter(&mut written);
        scratch.lines().for_each(|(name, value)| writer.put(name, value));
        let mut again = Scratch::default();
        Decoder::default().decode(&written, &mut again).expect("we wrote it");
        let is_good = |(name, value): &(&[u8], &[u8])| {
            name.iter().all(|byte| byte.is_ascii_lowercase())
                && value.iter().all(u8::is_ascii_alphanumeric)
                && !matches!(*name, b"" | b"connection" | b"upgrade")
        };
        let mut written = again.lines();
        for line in scratch.lines().filter(is_good) {
            assert!(written.any(|other| other == line), "it is there, in its order");
        }
    }
}

pub fn hpack_seeds() -> Vec<Vec<u8>> {
    let blocks: [&[u8]; 6] = [
        b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\x82\x86\x84\xbe\x58\x08no-cache",
        b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value",
        b"\x20\x3f\xe1\x1f\x10\x08password\x06secret",
        b"\x3f\x01\x40\x01a\x01b\xbe",
        b"\x40\x03foo\x03bar\x40\x03bar\x03foo\xbe\xbf",
    ];
    let with_len = |block: &[u8]| [&[block.len() as u8][..], block].concat();
    vec![blocks.map(with_len).concat(), with_len(blocks[3]), with_len(blocks[5])]
}
