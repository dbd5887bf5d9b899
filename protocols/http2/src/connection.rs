//! One connection of a server.
//!
//! Calling order: [`Connection::read`] with what has come until it gives no more; each request that it gives out is worked at until
//! [`Connection::release`]; whenever something may have changed, [`Connection::output`] is to be written. With
//! [`Connection::is_backed_up`] nothing is to be read until more was written: what we answer by ourselves (PING, SETTINGS,
//! resets, heads) is bounded so.
//!
//! ```text
//! preface -> SETTINGS -> frames ... -> leave: GOAWAY of no stream, PING -> its answer: GOAWAY of the last -> over
//!                                \--> error: GOAWAY with its code
//! ```
//!
//! Must stay true: after an error nothing is read; each reset that the client causes is counted.

use crate::budget::Budget;
use crate::error::{Code, Error};
use crate::frame::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADER_BYTES, HEADERS, Header,
    PAYLOAD_BYTES_MAX, PING, PRIORITY, PRIORITY_UPDATE, PUSH_PROMISE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use crate::hpack::{Decoder, FieldWriter, encode_length, encode_status, encode_table_size_0};
use crate::out::{Out, PIECES_MAX};
use crate::scratch::Scratch;
use crate::settings::{self, WINDOW_MAX};
use crate::streams::{Past, RECEIVE_WINDOW, Stream, Streams};
use crate::{
    BACKLOG_BYTES_MAX, CONTINUATIONS_MAX, DATA_BYTES_MAX, FIELDS_BYTES_MAX, RESET_BY_US_MAX,
    RESET_UNSEEN_MAX, STREAMS_MAX, WORKED_AT_MAX,
};
use bytes::Bytes;
use std::borrow::Cow;
use std::time::Duration;

/// RFC 9113 §3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Names all streams: none is refused yet (RFC 9113 §6.8).
const ALL_STREAMS: u32 = u32::MAX >> 1;
/// In the PING behind the first GOAWAY: when it is answered, that was heard.
const HEARD: [u8; 8] = *b"tidegate";
/// Of a priority's value; longer ones are passed over.
const PRIORITY_BYTES_MAX: usize = 64;

/// What has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'i> {
    /// A request, whose head lies in the scratch; `ended`: it has no body.
    Request { stream: u32, ended: bool },
    /// A request to be answered with this status, and why.
    Refused { stream: u32, status: u16, what: &'static str },
    /// Of a request's body; `ended`: nothing follows.
    Data { stream: u32, bytes: Cow<'i, [u8]>, ended: bool },
    /// The stream is over, by the client or for what it did.
    Reset { stream: u32 },
    /// There is a window where there was none; of no stream: the connection's.
    Window { stream: Option<u32> },
    /// As the value of a `Priority` field (RFC 9218 §7.1), of a stream that may be still to come.
    Priority { stream: u32, value: Cow<'i, [u8]> },
}

/// What of a header block has come.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
    continuations: u8,
}

/// How far the goodbye is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The client was told, and may have asked meanwhile.
    Told,
    /// Streams above this one are not looked at.
    After(u32),
}

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    /// Bytes of the preface that have come.
    preface: usize,
    /// The client's first SETTINGS have come.
    begun: bool,
    /// A frame of which a part has come.
    partial: Vec<u8>,
    decoder: Decoder,
    block: Option<Box<Block>>,
    head_since: Option<Duration>,
    streams: Streams,
    /// What streams begin with, and the connection's, to the client.
    first_window: i64,
    window: i64,
    /// From the client.
    receive_window: u32,
    /// It was told that we keep no table for our heads.
    table_told: bool,
    out: Out,
    budget: Budget,
    /// Streams up to this one were looked at.
    looked_at: u32,
    resets_unseen: u32,
    resets_by_us: u32,
    leaving: Leaving,
    /// The client goes.
    parting: bool,
    failed: bool,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection::new()
    }
}

impl Connection {
    /// With our settings among its output.
    pub fn new() -> Connection {
        let mut out = Out::default();
        settings::encode(out.frames());
        Connection {
            preface: 0,
            begun: false,
            partial: Vec::new(),
            decoder: Decoder::default(),
            block: None,
            head_since: None,
            streams: Streams::default(),
            first_window: i64::from(RECEIVE_WINDOW),
            window: i64::from(RECEIVE_WINDOW),
            receive_window: RECEIVE_WINDOW,
            table_told: false,
            out,
            budget: Budget::default(),
            looked_at: 0,
            resets_unseen: 0,
            resets_by_us: 0,
            leaving: Leaving::No,
            parting: false,
            failed: false,
        }
    }

    /// Takes frames from the begin of `input` up to one that means something to the caller; `None`: all was taken. `now` is
    /// the time since some fixed moment.
    ///
    /// # Errors
    /// The connection is to be closed, when what is among the output was written.
    pub fn read<'i>(
        &mut self,
        now: Duration,
        input: &mut &'i [u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Event<'i>>, Error> {
        if self.failed {
            *input = &[];
            return Ok(None);
        }
        let outcome = self.read_frames(now, input, scratch);
        if let Err(error) = &outcome {
            self.fail(error.code);
        }
        outcome
    }

    /// Says that it ends at once, and why.
    pub fn fail(&mut self, code: Code) {
        if !std::mem::replace(&mut self.failed, true) {
            let last = match self.leaving {
                Leaving::After(last) => last,
                Leaving::No | Leaving::Told => self.streams.last,
            };
            self.goaway(last, code);
            (self.partial, self.block, self.head_since) = (Vec::new(), None, None);
        }
    }

    /// All streams that were given out are being worked at.
    pub fn looked_at(&mut self) {
        (self.looked_at, self.resets_unseen) = (self.streams.last, 0);
    }

    /// Begins the goodbye (RFC 9113 §6.8): what was asked before it was heard is answered.
    pub fn leave(&mut self) {
        if self.leaving == Leaving::No && !self.failed {
            self.leaving = Leaving::Told;
            self.goaway(ALL_STREAMS, Code::NO_ERROR);
            self.frame(PING, 0, 0, &HEARD);
        }
    }

    /// Nothing is to come, and nothing to be done any more but to write.
    pub fn is_over(&self) -> bool {
        let parted = self.parting || matches!(self.leaving, Leaving::After(_));
        self.failed || parted && self.streams.is_empty()
    }

    /// Whether preface and settings have come.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Streams that are open, or still worked at.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Since when a head is under way: its first frame began, and its last has not ended.
    pub fn head_since(&self) -> Option<Duration> {
        self.head_since
    }

    /// So much is to be written that nothing more is to be read.
    pub fn is_backed_up(&self) -> bool {
        self.backlog() > BACKLOG_BYTES_MAX
    }

    /// Bytes of frames without bodies that wait to be written.
    pub fn backlog(&self) -> usize {
        self.out.frame_bytes()
    }

    /// The next pieces to be written; how many there are.
    pub fn output<'a>(&'a self, into: &mut [&'a [u8]; PIECES_MAX]) -> usize {
        self.out.pieces(into)
    }

    /// So many bytes of them were written.
    pub fn written(&mut self, bytes: usize) {
        self.out.wrote(bytes);
        self.budget.sent(bytes);
    }

    /// Whether [`Connection::output`] is nothing.
    pub fn is_written(&self) -> bool {
        self.out.is_empty()
    }

    /// Sends an answer's head; `ends`: nothing follows it. `false`: the stream is over.
    pub fn send_head(
        &mut self,
        id: u32,
        status: u16,
        length: Option<u64>,
        ends: bool,
        fields: impl FnOnce(&mut FieldWriter<'_>),
    ) -> bool {
        let Some(stream) = self.writable(id) else { return false };
        stream.local_ended = ends;
        let out = self.out.frames();
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        if !std::mem::replace(&mut self.table_told, true) {
            encode_table_size_0(out);
        }
        encode_status(status, out);
        fields(&mut FieldWriter(out));
        if let Some(length) = length {
            encode_length(length, out);
        }
        let flags = if ends { END_STREAM } else { 0 };
        let len = out.len() - start - HEADER_BYTES;
        if len <= PAYLOAD_BYTES_MAX {
            let header = frame::header(len, HEADERS, flags | END_HEADERS, id);
            out[start..][..HEADER_BYTES].copy_from_slice(&header);
            return true;
        }
        // More than one frame: rare, and moved once.
        let block = out.split_off(start + HEADER_BYTES);
        out.truncate(start);
        let count = block.len().div_ceil(PAYLOAD_BYTES_MAX);
        for (index, piece) in block.chunks(PAYLOAD_BYTES_MAX).enumerate() {
            let (kind, flags) = if index == 0 { (HEADERS, flags) } else { (CONTINUATION, 0) };
            let last = if index + 1 == count { END_HEADERS } else { 0 };
            out.extend_from_slice(&frame::header(piece.len(), kind, flags | last, id));
            out.extend_from_slice(piece);
        }
        true
    }

    /// Bytes of a body that the client's windows take now; `None`: the stream is over.
    pub fn room(&self, id: u32) -> Option<usize> {
        let stream = self.streams.get(id).filter(|stream| !stream.reset && !stream.local_ended)?;
        Some(usize::try_from(stream.window.min(self.window)).unwrap_or(0))
    }

    /// Sends as much from the begin of `body` as the windows and `max` take; how much that is. `ends`: nothing follows the whole of
    /// it.
    pub fn send_data(&mut self, id: u32, body: &mut Bytes, max: usize, ends: bool) -> usize {
        let room = self.room(id).unwrap_or(0).min(max).min(body.len());
        let mut left = room;
        while left > 0 {
            let piece = body.split_to(left.min(DATA_BYTES_MAX));
            left -= piece.len();
            let ends = ends && body.is_empty();
            let flags = if ends { END_STREAM } else { 0 };
            let header = frame::header(piece.len(), DATA, flags, id);
            self.out.frames().extend_from_slice(&header);
            self.out.push_body(piece);
            if let Some(stream) = self.streams.get_mut(id) {
                stream.local_ended |= ends;
            }
        }
        self.window -= room as i64;
        if let Some(stream) = self.streams.get_mut(id) {
            stream.window -= room as i64;
        }
        room
    }

    /// Ends an answer behind what was sent.
    pub fn end(&mut self, id: u32) {
        if let Some(stream) = self.writable(id) {
            stream.local_ended = true;
            self.frame(DATA, END_STREAM, id, &[]);
        }
    }

    /// Breaks an answer off, if it has no end yet.
    pub fn reset(&mut self, id: u32, code: Code) {
        if let Some(stream) = self.writable(id) {
            stream.reset = true;
            self.frame(RST_STREAM, 0, id, &code.0.to_be_bytes());
            self.streams.close(id, true);
        }
    }

    /// The client may not send more of a body: it gets no window for it.
    pub fn refuse_body(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.refused = true;
        }
    }

    /// Nobody works at the stream any more.
    pub fn release(&mut self, id: u32) {
        // An answer without an end is none.
        self.reset(id, Code::INTERNAL_ERROR);
        let Some(stream) = self.streams.remove(id) else { return };
        if stream.reset {
            return;
        }
        if !stream.remote_ended {
            // RFC 9113 §8.1: what the client still sends is not needed.
            self.frame(RST_STREAM, 0, id, &Code::NO_ERROR.0.to_be_bytes());
        }
        self.streams.close(id, !stream.remote_ended);
    }

    fn writable(&mut self, id: u32) -> Option<&mut Stream> {
        self.streams.get_mut(id).filter(|stream| !stream.reset && !stream.local_ended)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let out = self.out.frames();
        out.extend_from_slice(&frame::header(payload.len(), kind, flags, stream));
        out.extend_from_slice(payload);
    }

    fn goaway(&mut self, last: u32, code: Code) {
        let payload = [last.to_be_bytes(), code.0.to_be_bytes()];
        self.frame(GOAWAY, 0, 0, payload.as_flattened());
    }

    fn window_update(&mut self, stream: u32, by: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    }
}

/// A frame that came, and what is in it.
type Frame<'i> = (Header, Cow<'i, [u8]>);
type Outcome<'i> = Result<Option<Event<'i>>, Error>;

/// What has come.
impl Connection {
    fn read_frames<'i>(
        &mut self,
        now: Duration,
        input: &mut &'i [u8],
        scratch: &mut Scratch,
    ) -> Outcome<'i> {
        self.read_preface(input)?;
        while let Some((header, payload)) = self.next_frame(now, input)? {
            if let Some(event) = self.handle(now, header, payload, scratch)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn read_preface(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        let wanted = &PREFACE[self.preface..];
        let (come, rest) = input.split_at(wanted.len().min(input.len()));
        if !wanted.starts_with(come) {
            return Err(Error::protocol("no preface of HTTP/2"));
        }
        self.preface += come.len();
        *input = rest;
        Ok(())
    }

    /// The next frame, when all of it has come.
    fn next_frame<'i>(
        &mut self,
        now: Duration,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'i>>, Error> {
        if self.partial.is_empty()
            && let Some((header, rest)) = input.split_first_chunk()
        {
            let header = Header::parse(header);
            if let Some((payload, rest)) = rest.split_at_checked(header.len) {
                self.frame_begins(now, &header)?;
                *input = rest;
                return Ok(Some((header, Cow::Borrowed(payload))));
            }
        }
        let mut take = |partial: &mut Vec<u8>, wanted: usize| {
            let (come, rest) = input.split_at((wanted - partial.len()).min(input.len()));
            partial.extend_from_slice(come);
            *input = rest;
            partial.len() == wanted
        };
        if self.partial.len() < HEADER_BYTES {
            if !take(&mut self.partial, HEADER_BYTES) {
                return Ok(None);
            }
            if let Some(header) = self.partial.first_chunk() {
                self.frame_begins(now, &Header::parse(header))?;
            }
        }
        let Some(header) = self.partial.first_chunk() else { return Ok(None) };
        let header = Header::parse(header);
        if !take(&mut self.partial, HEADER_BYTES + header.len) {
            return Ok(None);
        }
        let payload = std::mem::take(&mut self.partial).split_off(HEADER_BYTES);
        Ok(Some((header, Cow::Owned(payload))))
    }

    /// What a frame's header alone tells.
    fn frame_begins(&mut self, now: Duration, header: &Header) -> Result<(), Error> {
        // RFC 9113 §4.2.
        if header.len > PAYLOAD_BYTES_MAX {
            return Err(Error::size("a frame that is longer than we allow"));
        }
        // RFC 9113 §3.4: SETTINGS are part of the preface.
        if !self.begun && (header.kind != SETTINGS || header.has(ACK)) {
            return Err(Error::protocol("the first frame is not SETTINGS"));
        }
        // RFC 9113 §4.3, §6.10.
        match &self.block {
            Some(block) if header.kind != CONTINUATION || header.stream != block.stream => {
                return Err(Error::protocol("a header block is interrupted"));
            }
            None if header.kind == CONTINUATION => {
                return Err(Error::protocol("CONTINUATION of nothing"));
            }
            _ => {}
        }
        match header.kind {
            HEADERS => self.head_since = self.head_since.or(Some(now)),
            DATA => {} // judged by what it brings
            _ => self.spend(now)?,
        }
        Ok(())
    }

    fn spend(&mut self, now: Duration) -> Result<(), Error> {
        match self.budget.spend(now) {
            true => Ok(()),
            false => Err(Error::flood("too many frames that bring nothing")),
        }
    }

    fn handle<'i>(
        &mut self,
        now: Duration,
        header: Header,
        payload: Cow<'i, [u8]>,
        scratch: &mut Scratch,
    ) -> Outcome<'i> {
        let (id, needs_stream) = match header.kind {
            DATA | HEADERS | PRIORITY | RST_STREAM | CONTINUATION => (header.stream, true),
            SETTINGS | PING | GOAWAY | PRIORITY_UPDATE => (header.stream, false),
            // RFC 9113 §6.6, §8.4: clients push nothing.
            PUSH_PROMISE => return Err(Error::protocol("PUSH_PROMISE from a client")),
            WINDOW_UPDATE => return self.window_update_came(header.stream, &payload),
            _ => return Ok(None), // RFC 9113 §5.5
        };
        if needs_stream != (id != 0) {
            return Err(Error::protocol(match needs_stream {
                true => "a frame that belongs to a stream, on none",
                false => "a frame that belongs to the connection, on a stream",
            }));
        }
        match header.kind {
            DATA => self.data_came(now, &header, payload),
            HEADERS => self.headers_came(now, &header, &payload, scratch),
            CONTINUATION => self.continuation_came(now, &header, &payload, scratch),
            RST_STREAM => self.reset_came(id, &payload),
            // Passed over (RFC 9113 §5.3.2, §6.3). There may be no such stream, and so none to be reset (§5.4.1).
            PRIORITY if payload.len() != 5 => Err(Error::size("PRIORITY of a wrong size")),
            SETTINGS => self.settings_came(&header, &payload),
            PING => self.ping_came(&header, &payload),
            // RFC 9113 §6.8.
            GOAWAY if payload.len() < 8 => Err(Error::size("GOAWAY of a wrong size")),
            GOAWAY => {
                self.parting = true;
                Ok(None)
            }
            PRIORITY_UPDATE => priority_came(payload),
            _ => Ok(None),
        }
    }

    /// RFC 9113 §6.1.
    fn data_came<'i>(
        &mut self,
        now: Duration,
        header: &Header,
        payload: Cow<'i, [u8]>,
    ) -> Outcome<'i> {
        let id = header.stream;
        if self.streams.past(id) == Past::Idle {
            return Err(Error::protocol("DATA of a stream that was not opened"));
        }
        // Padding counts too (§6.9.1), and what nobody wants.
        let len = payload.len() as u32;
        let left = self.receive_window.checked_sub(len);
        self.receive_window =
            left.ok_or(Error::new(Code::FLOW_CONTROL_ERROR, "more than the connection's window"))?;
        if self.receive_window < RECEIVE_WINDOW / 2 {
            self.window_update(0, RECEIVE_WINDOW - self.receive_window);
            self.receive_window = RECEIVE_WINDOW;
        }
        let bytes = match payload {
            Cow::Borrowed(payload) => Cow::Borrowed(frame::content(header, payload)?),
            Cow::Owned(payload) => Cow::Owned(frame::content(header, &payload)?.to_vec()),
        };
        let ends = header.has(END_STREAM);
        if bytes.is_empty() && !ends {
            self.spend(now)?;
        }
        let Some(stream) = self.streams.get_mut(id) else {
            return match self.streams.past(id) {
                // It was under way, for a while; or it was closed so long ago that nobody knows.
                Past::ResetByUs | Past::Unknown => self.spend(now).map(|()| None),
                _ => self.refuse(id, Code::STREAM_CLOSED, "DATA of a stream that is closed"),
            };
        };
        if stream.reset {
            return self.spend(now).map(|()| None);
        }
        if stream.remote_ended {
            return self.refuse(id, Code::STREAM_CLOSED, "DATA behind a stream's end");
        }
        let Some(left) = stream.receive_window.checked_sub(len) else {
            return self.refuse(id, Code::FLOW_CONTROL_ERROR, "more than the stream's window");
        };
        stream.receive_window = left;
        // §8.1.1.
        if let Some(length) = &mut stream.length {
            match length.checked_sub(bytes.len() as u64) {
                Some(left) => *length = left,
                None => return self.refuse(id, Code::PROTOCOL_ERROR, "more than content-length"),
            }
        }
        if ends {
            return self.side_ended(id, bytes);
        }
        if left < RECEIVE_WINDOW / 2 && !stream.refused {
            stream.receive_window = RECEIVE_WINDOW;
            self.window_update(id, RECEIVE_WINDOW - left);
        }
        Ok((!bytes.is_empty()).then_some(Event::Data { stream: id, bytes, ended: false }))
    }

    /// The client has ended its side of a stream that is open.
    fn side_ended<'i>(&mut self, id: u32, bytes: Cow<'i, [u8]>) -> Outcome<'i> {
        let Some(stream) = self.streams.get_mut(id) else { return Ok(None) };
        if stream.length.is_some_and(|left| left > 0) {
            return self.refuse(id, Code::PROTOCOL_ERROR, "less than content-length");
        }
        stream.remote_ended = true;
        Ok(Some(Event::Data { stream: id, bytes, ended: true }))
    }

    /// RFC 9113 §6.2.
    fn headers_came<'i>(
        &mut self,
        now: Duration,
        header: &Header,
        payload: &[u8],
        scratch: &mut Scratch,
    ) -> Outcome<'i> {
        // §5.1.1.
        if header.stream.is_multiple_of(2) {
            return Err(Error::protocol("a stream with the number of a server's"));
        }
        let bytes = frame::content(header, payload)?;
        if header.has(END_HEADERS) {
            return self.block_came(now, header.stream, header.has(END_STREAM), bytes, scratch);
        }
        self.block = Some(Box::new(Block {
            stream: header.stream,
            ends_stream: header.has(END_STREAM),
            bytes: bytes.to_vec(),
            continuations: 0,
        }));
        Ok(None)
    }

    /// RFC 9113 §6.10.
    fn continuation_came<'i>(
        &mut self,
        now: Duration,
        header: &Header,
        payload: &[u8],
        scratch: &mut Scratch,
    ) -> Outcome<'i> {
        let Some(mut block) = self.block.take() else { return Ok(None) };
        block.continuations += 1;
        if block.continuations > CONTINUATIONS_MAX {
            return Err(Error::flood("a header block that does not end"));
        }
        // Large cookies, most likely: that is not held against those who share the client's address.
        if block.bytes.len() + payload.len() > FIELDS_BYTES_MAX {
            return Err(Error::protocol("a header block that is too large"));
        }
        block.bytes.extend_from_slice(payload);
        if header.has(END_HEADERS) {
            return self.block_came(now, block.stream, block.ends_stream, &block.bytes, scratch);
        }
        self.block = Some(block);
        Ok(None)
    }

    /// A head, or trailers.
    fn block_came<'i>(
        &mut self,
        now: Duration,
        id: u32,
        ends: bool,
        block: &[u8],
        scratch: &mut Scratch,
    ) -> Outcome<'i> {
        self.head_since = None;
        // Whatever becomes of it, the table has to follow.
        self.decoder.decode(block, scratch)?;
        if let Some(stream) = self.streams.get(id) {
            return match stream {
                Stream { reset: true, .. } => self.spend(now).map(|()| None),
                Stream { remote_ended: true, .. } => {
                    self.refuse(id, Code::STREAM_CLOSED, "HEADERS behind a stream's end")
                }
                // §8.1.
                _ if !ends || !scratch.are_trailers() => {
                    self.refuse(id, Code::PROTOCOL_ERROR, "trailers that are none")
                }
                _ => self.side_ended(id, Cow::Borrowed(&[])),
            };
        }
        match self.streams.past(id) {
            Past::Idle => {}
            Past::ResetByUs => return self.spend(now).map(|()| None), // it was under way
            Past::Closed => {
                return Err(Error::new(Code::STREAM_CLOSED, "HEADERS of a stream that is closed"));
            }
            // §5.1.1.
            Past::Unknown => return Err(Error::protocol("numbers of streams that do not grow")),
        }
        if let Leaving::After(last) = self.leaving
            && id > last
        {
            // §6.8: what follows on it is passed over, too.
            self.streams.last = id;
            self.streams.close(id, true);
            return self.spend(now).map(|()| None);
        }
        self.streams.last = id;
        if self.streams.len() >= WORKED_AT_MAX || self.streams.open() >= STREAMS_MAX {
            self.spend(now)?;
            // §5.1.2, §8.7: it may be tried again.
            self.frame(RST_STREAM, 0, id, &Code::REFUSED_STREAM.0.to_be_bytes());
            self.streams.close(id, true);
            return Ok(None);
        }
        let length = match scratch.excess() {
            Some(_) => None,
            None => match scratch.judge() {
                Ok(Some(1..)) if ends => {
                    return self.refuse(id, Code::PROTOCOL_ERROR, "a body is said, and none comes");
                }
                Ok(length) => length,
                Err(what) => return self.refuse(id, Code::PROTOCOL_ERROR, what),
            },
        };
        self.streams.push(Stream {
            id,
            window: self.first_window,
            receive_window: RECEIVE_WINDOW,
            length,
            remote_ended: ends,
            local_ended: false,
            reset: false,
            refused: false,
        });
        Ok(Some(match scratch.excess() {
            Some(what) => Event::Refused { stream: id, status: 431, what },
            None => Event::Request { stream: id, ended: ends },
        }))
    }

    /// RFC 9113 §5.4.2: the stream is reset, the connection goes on unless there were too many of them.
    fn refuse<'i>(&mut self, id: u32, code: Code, _what: &'static str) -> Outcome<'i> {
        self.resets_by_us += 1;
        if self.resets_by_us > RESET_BY_US_MAX {
            return Err(Error::flood("too many streams that had to be reset"));
        }
        let worked_at = self.streams.get_mut(id);
        let was_known = worked_at.is_some();
        if let Some(stream) = worked_at {
            stream.reset = true;
        }
        self.frame(RST_STREAM, 0, id, &code.0.to_be_bytes());
        self.streams.close(id, true);
        Ok(was_known.then_some(Event::Reset { stream: id }))
    }

    /// RFC 9113 §6.4.
    fn reset_came<'i>(&mut self, id: u32, payload: &[u8]) -> Outcome<'i> {
        if payload.len() != 4 {
            return Err(Error::size("RST_STREAM of a wrong size"));
        }
        if self.streams.past(id) == Past::Idle {
            return Err(Error::protocol("RST_STREAM of a stream that was not opened"));
        }
        let unseen = id > self.looked_at;
        let Some(stream) = self.streams.get_mut(id) else { return Ok(None) };
        if std::mem::replace(&mut stream.reset, true) {
            return Ok(None);
        }
        self.streams.close(id, false);
        self.resets_unseen += u32::from(unseen);
        if self.resets_unseen > RESET_UNSEEN_MAX {
            return Err(Error::flood("streams that are opened and reset"));
        }
        Ok(Some(Event::Reset { stream: id }))
    }

    /// RFC 9113 §6.5.
    fn settings_came<'i>(&mut self, header: &Header, payload: &[u8]) -> Outcome<'i> {
        if header.has(ACK) {
            return match payload {
                [] => Ok(None),
                _ => Err(Error::size("an acknowledgement with settings")),
            };
        }
        let window = settings::decode(payload)?;
        self.begun = true;
        self.frame(SETTINGS, ACK, 0, &[]);
        let Some(window) = window else { return Ok(None) };
        // §6.9.2.
        let by = i64::from(window) - self.first_window;
        self.first_window = i64::from(window);
        if !self.streams.widen(by) {
            return Err(Error::new(Code::FLOW_CONTROL_ERROR, "windows beyond all measure"));
        }
        Ok((by > 0 && !self.streams.is_empty()).then_some(Event::Window { stream: None }))
    }

    /// RFC 9113 §6.7.
    fn ping_came<'i>(&mut self, header: &Header, payload: &[u8]) -> Outcome<'i> {
        if payload.len() != 8 {
            return Err(Error::size("PING of a wrong size"));
        }
        if !header.has(ACK) {
            self.frame(PING, ACK, 0, payload);
        } else if payload == HEARD && self.leaving == Leaving::Told {
            self.leaving = Leaving::After(self.streams.last);
            self.goaway(self.streams.last, Code::NO_ERROR);
        }
        Ok(None)
    }

    /// RFC 9113 §6.9.
    fn window_update_came<'i>(&mut self, id: u32, payload: &[u8]) -> Outcome<'i> {
        let by: [u8; 4] =
            payload.try_into().map_err(|_| Error::size("WINDOW_UPDATE of a wrong size"))?;
        let by = i64::from(frame::number(by));
        let max = i64::from(WINDOW_MAX);
        if id == 0 {
            if by == 0 {
                return Err(Error::protocol("a window that grows by nothing"));
            }
            let was_shut = self.window <= 0;
            self.window += by;
            if self.window > max {
                let what = "a window beyond all measure";
                return Err(Error::new(Code::FLOW_CONTROL_ERROR, what));
            }
            return Ok(was_shut.then_some(Event::Window { stream: None }));
        }
        if self.streams.past(id) == Past::Idle {
            return Err(Error::protocol("WINDOW_UPDATE of a stream that was not opened"));
        }
        let Some(stream) = self.streams.get_mut(id).filter(|stream| !stream.reset) else {
            return Ok(None); // it was under way
        };
        if by == 0 {
            return self.refuse(id, Code::PROTOCOL_ERROR, "a window that grows by nothing");
        }
        let was_shut = stream.window <= 0;
        stream.window += by;
        if stream.window > max {
            return self.refuse(id, Code::FLOW_CONTROL_ERROR, "a window beyond all measure");
        }
        Ok((was_shut && stream.window > 0).then_some(Event::Window { stream: Some(id) }))
    }
}

/// RFC 9218 §7.1.
fn priority_came(payload: Cow<'_, [u8]>) -> Outcome<'_> {
    let Some(id) = payload.first_chunk() else {
        return Err(Error::size("PRIORITY_UPDATE without a stream"));
    };
    let stream = frame::number(*id);
    if stream == 0 {
        return Err(Error::protocol("PRIORITY_UPDATE of no stream"));
    }
    let value = match payload {
        Cow::Borrowed(payload) => Cow::Borrowed(&payload[4..]),
        Cow::Owned(mut payload) => Cow::Owned(payload.split_off(4)),
    };
    Ok((value.len() <= PRIORITY_BYTES_MAX).then_some(Event::Priority { stream, value }))
}
