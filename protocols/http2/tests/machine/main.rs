//! Goal: each rule of RFC 9113 for what a client sends, by its section. Method: frames by hand, whole and byte by byte; what
//! comes of them is events, what is sent back, and how it ends.

mod rules;
mod sending;

use proptest::prelude::*;
use std::time::Duration;
use tidegate_http2::{Code, Connection, Event, PIECES_MAX, Scratch};

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
pub const PRIORITY_UPDATE: u8 = 16;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const ALL: u8 = END_STREAM | END_HEADERS;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut out = vec![len[1], len[2], len[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Literals without indexing, of less than 127 bytes each.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let text = |text: &[u8]| [&[text.len() as u8][..], text].concat();
    let line = |(name, value): &(&[u8], &[u8])| [vec![0], text(name), text(value)].concat();
    fields.iter().flat_map(line).collect()
}

/// Fields of a good request, and more.
pub fn fields(method: &[u8], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let good: [(&[u8], &[u8]); 4] = [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"a.example"),
        (b":path", b"/a"),
    ];
    block(&[&good[..], more].concat())
}

pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, ALL, stream, &fields(b"GET", &[]))
}

pub fn post(stream: u32, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields(b"POST", more))
}

pub fn begin() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// A frame of ours: kind, flags, stream, payload.
pub type Sent = (u8, u8, u32, Vec<u8>);

/// A machine, and all that has come of it.
#[derive(Default)]
pub struct Server {
    pub machine: Connection,
    pub scratch: Scratch,
    pub now: Duration,
    pub events: Vec<Event<'static>>,
    /// Lines of each request.
    pub heads: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
    pub end: Option<Code>,
    unread: Vec<u8>,
}

impl Server {
    /// After the preface; what was said to that is not looked at.
    pub fn new() -> Server {
        let mut server = Server::default();
        server.give(&begin());
        server.sent();
        server
    }

    pub fn give(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.end.is_none() {
            match self.machine.read(self.now, &mut rest, &mut self.scratch) {
                Ok(None) => {
                    assert!(rest.is_empty(), "all that came is taken");
                    break;
                }
                Ok(Some(event)) => {
                    if let Event::Request { .. } = event {
                        let lines = self.scratch.lines();
                        self.heads.push(lines.map(|(n, v)| (n.to_vec(), v.to_vec())).collect());
                    }
                    self.events.push(own(event));
                }
                Err(error) => self.end = Some(error.code),
            }
        }
    }

    pub fn give_all(&mut self, frames: &[Vec<u8>]) {
        self.give(&frames.concat());
    }

    /// Frames that were written since it was asked last.
    pub fn sent(&mut self) -> Vec<Sent> {
        while !self.machine.is_written() {
            let mut pieces = [&[][..]; PIECES_MAX];
            let count = self.machine.output(&mut pieces);
            let bytes = pieces[..count].concat();
            self.unread.extend_from_slice(&bytes);
            self.machine.written(bytes.len());
        }
        let mut sent = Vec::new();
        while let Some((head, rest)) = self.unread.split_first_chunk::<9>() {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            sent.push((head[3], head[4], stream, rest[..len].to_vec()));
            self.unread = rest[len..].to_vec();
        }
        assert!(self.unread.is_empty(), "frames leave whole");
        sent
    }

    pub fn requests(&self) -> Vec<u32> {
        let request = |event: &Event<'_>| match event {
            Event::Request { stream, .. } => Some(*stream),
            _ => None,
        };
        self.events.iter().filter_map(request).collect()
    }

    /// All data of a stream, and whether it has ended.
    pub fn body(&self, id: u32) -> (Vec<u8>, bool) {
        let (mut body, mut whole) = (Vec::new(), false);
        for event in &self.events {
            if let Event::Data { stream, bytes, ended } = event
                && *stream == id
            {
                body.extend_from_slice(bytes);
                whole |= ended;
            }
        }
        (body, whole)
    }

    pub fn answer(&mut self, stream: u32) {
        assert!(self.machine.send_head(stream, 200, Some(0), true, |_| {}));
        self.machine.release(stream);
    }
}

pub fn own(event: Event<'_>) -> Event<'static> {
    match event {
        Event::Request { stream, ended } => Event::Request { stream, ended },
        Event::Refused { stream, status, what } => Event::Refused { stream, status, what },
        Event::Data { stream, bytes, ended } => {
            Event::Data { stream, bytes: bytes.into_owned().into(), ended }
        }
        Event::Reset { stream } => Event::Reset { stream },
        Event::Window { stream } => Event::Window { stream },
        Event::Priority { stream, value } => {
            Event::Priority { stream, value: value.into_owned().into() }
        }
    }
}

/// Any frames, most of them nearly good.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop_oneof![Just(0u32), 1u32..12, any::<u32>()];
    let payload = prop_oneof![
        Just(fields(b"GET", &[])),
        Just(fields(b"POST", &[(b"content-length", b"5")])),
        Just(vec![0, 0, 0, 5]),
        Just(vec![0, 4, 0, 0, 0x40, 0]),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let flags = prop_oneof![Just(0u8), Just(ALL), Just(END_HEADERS), Just(END_STREAM), any::<u8>()];
    let kind = prop_oneof![4 => 0u8..11, 1 => Just(PRIORITY_UPDATE), 1 => any::<u8>()];
    (kind, flags, stream, payload)
        .prop_map(|(kind, flags, stream, p)| frame(kind, flags, stream, &p))
}

proptest! {
    #[test]
    fn however_it_is_cut_the_same_comes_of_it(
        frames in proptest::collection::vec(any_frame(), 0..20),
        cut in 1usize..40,
    ) {
        let bytes = [begin(), frames.concat()].concat();
        let (mut whole, mut pieces) = (Server::default(), Server::default());
        whole.give(&bytes);
        bytes.chunks(cut).for_each(|piece| pieces.give(piece));
        prop_assert_eq!(&whole.events, &pieces.events);
        prop_assert_eq!(&whole.heads, &pieces.heads);
        prop_assert_eq!(whole.end, pieces.end);
        prop_assert_eq!(whole.sent(), pieces.sent());
        // An end is said, and nothing is read behind it.
        prop_assert_eq!(whole.machine.is_over() && whole.end.is_some(), whole.end.is_some());
    }
}
