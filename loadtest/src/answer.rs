//! Reads one answer from bytes; shows its body to who wants it and keeps none. No I/O, no clock.
//!
//! ```text
//! Head --1xx--> Head        Head --> Length | Chunked | UntilClose | Done        ... --> Done
//! ```
//!
//! Must stay true: what the server sends never panics and never grows anything without a limit; an answer is
//! complete only when its framing says so; bytes after it are a fault, because nobody asked for them.

use bytes::Bytes;
use std::fmt;
use tidegate_http::{Method, ResponseHead};
use tidegate_http1::response::INTERIM_MAX;
use tidegate_http1::{
    ChunkError, ChunkedDecoder, Limits, ResponseBody, ResponseError, ResponseParser,
};

/// What is known about an answer so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Zero until the head is there.
    pub status: u16,
    /// Body bytes without their transfer coding.
    pub body_bytes: u64,
    /// The connection can carry another request.
    pub keep_alive: bool,
    /// The `Cache-Status` field, all lines of it.
    pub cache_status: Option<Bytes>,
}

/// Why the bytes are no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// HTTP/2 or HTTP/3: what was wrong with frames or fields.
    Frames(String),
    Head(ResponseError),
    Chunks(ChunkError),
    TooManyInterim,
    /// Bytes after the end of the answer.
    Surplus,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Frames(error) => f.write_str(error),
            Malformed::Head(error) => f.write_str(error.what),
            Malformed::Chunks(error) => write!(f, "{error}"),
            Malformed::TooManyInterim => write!(f, "more than {INTERIM_MAX} interim answers"),
            Malformed::Surplus => f.write_str("bytes after the end of the answer"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Who looks at an answer while it is read.
pub trait Look {
    /// Whether `head` is of any use: over HTTP/2 it has to be made.
    fn wants_head(&self) -> bool {
        true
    }
    /// The head of the final answer is there.
    fn head(&mut self, _head: &ResponseHead) {}
    /// The next bytes of the body, without their transfer coding.
    fn body(&mut self, _bytes: &[u8]) {}
}

/// Nobody looks.
impl Look for () {
    fn wants_head(&self) -> bool {
        false
    }
}

/// How far an answer is when the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtClose {
    /// The end of the connection is the end of the answer.
    Complete,
    /// Before the head was whole.
    InHead,
    /// Inside a body that says how long it is.
    InBody,
}

#[derive(Debug)]
enum State {
    Head(ResponseParser),
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
    Done,
}

impl State {
    /// After a head that announces this body.
    fn of(body: ResponseBody) -> State {
        match body {
            ResponseBody::None | ResponseBody::Length(0) => State::Done,
            ResponseBody::Length(length) => State::Length(length),
            ResponseBody::Chunked => State::Chunked(ChunkedDecoder::new()),
            ResponseBody::UntilClose => State::UntilClose,
        }
    }
}

/// A head that was read before, and what it says. A server says the same again and again, and the same bytes mean the same: to
/// find that out costs a tenth of reading them.
#[derive(Debug, Clone)]
pub struct KnownHead {
    bytes: Vec<u8>,
    answer: Answer,
    body: ResponseBody,
}

/// Longer ones are read each time: connections are many.
const KNOWN_HEAD_BYTES_MAX: usize = 1024;

/// Reads one answer to a GET.
#[derive(Debug)]
pub struct AnswerReader {
    state: State,
    interim: usize,
    answer: Answer,
    known: Option<KnownHead>,
}

impl Default for AnswerReader {
    fn default() -> AnswerReader {
        AnswerReader::new()
    }
}

impl AnswerReader {
    /// At the start of an answer.
    pub fn new() -> AnswerReader {
        AnswerReader::knowing(None)
    }

    /// The same, for a connection that had an answer with this head.
    pub fn knowing(known: Option<KnownHead>) -> AnswerReader {
        AnswerReader {
            state: State::Head(ResponseParser::new(Limits::RESPONSE)),
            interim: 0,
            answer: Answer::default(),
            known,
        }
    }

    /// What its connection's next answer may begin with.
    pub fn into_known(self) -> Option<KnownHead> {
        self.known
    }

    /// Takes bytes and tells how many it used. What it did not use (a piece of a head) must be given again,
    /// with more after it. All bytes are used in a body.
    ///
    /// # Errors
    /// When this is no answer; the connection is of no more use then.
    pub fn feed(&mut self, input: &[u8], look: &mut impl Look) -> Result<usize, Malformed> {
        let mut at = 0;
        let in_head = matches!(self.state, State::Head(_));
        if in_head && !look.wants_head() && self.begins_as_known(input) {
            at = self.begin_as_known();
        }
        loop {
            let rest = &input[at..];
            match &mut self.state {
                State::Done if rest.is_empty() => return Ok(at),
                State::Done => return Err(Malformed::Surplus),
                _ if rest.is_empty() => return Ok(at),
                State::Head(parser) => {
                    let Some(parsed) = parser.parse(rest, &Method::Get).map_err(Malformed::Head)?
                    else {
                        return Ok(at);
                    };
                    let begins = at == 0;
                    at += parsed.head_bytes;
                    if parsed.is_interim {
                        self.interim += 1;
                        if self.interim > INTERIM_MAX {
                            return Err(Malformed::TooManyInterim);
                        }
                        continue;
                    }
                    self.begin(&parsed.head, parsed.keep_alive, parsed.body);
                    if begins && at <= KNOWN_HEAD_BYTES_MAX {
                        self.learn(&input[..at], parsed.body);
                    }
                    look.head(&parsed.head);
                }
                State::Length(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= here as u64;
                    look.body(&rest[..here]);
                    self.answer.body_bytes += here as u64;
                    at += here;
                    if *left == 0 {
                        self.state = State::Done;
                    }
                }
                State::Chunked(decoder) => {
                    let decoded = decoder.decode(rest).map_err(Malformed::Chunks)?;
                    self.answer.body_bytes += decoded.data.len() as u64;
                    look.body(&rest[decoded.data]);
                    at += decoded.consumed;
                    if decoded.done {
                        self.state = State::Done;
                    }
                }
                State::UntilClose => {
                    self.answer.body_bytes += rest.len() as u64;
                    look.body(rest);
                    return Ok(input.len());
                }
            }
        }
    }

    fn begin(&mut self, head: &ResponseHead, keep_alive: bool, body: ResponseBody) {
        self.answer.status = head.status;
        self.answer.keep_alive = keep_alive;
        self.answer.cache_status = cache_status(head);
        self.state = State::of(body);
    }

    fn learn(&mut self, head: &[u8], body: ResponseBody) {
        let mut bytes = self.known.take().map(|known| known.bytes).unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(head);
        self.known = Some(KnownHead { bytes, answer: self.answer.clone(), body });
    }

    fn begins_as_known(&self, input: &[u8]) -> bool {
        self.known.as_ref().is_some_and(|known| input.starts_with(&known.bytes))
    }

    /// Bytes of the head.
    fn begin_as_known(&mut self) -> usize {
        let Some(known) = &self.known else { return 0 };
        self.answer.clone_from(&known.answer);
        self.state = State::of(known.body);
        known.bytes.len()
    }

    /// The answer is whole.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// What the end of the connection means now.
    pub fn at_close(&self) -> AtClose {
        match self.state {
            State::Head(_) => AtClose::InHead,
            State::Length(_) | State::Chunked(_) => AtClose::InBody,
            State::UntilClose | State::Done => AtClose::Complete,
        }
    }

    /// What is known.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }
}

/// The whole field: one line is shared, several are joined.
fn cache_status(head: &ResponseHead) -> Option<Bytes> {
    let mut lines = head.fields.get_all("cache-status");
    lines.next()?;
    if lines.next().is_none() {
        return head.fields.get_bytes("cache-status").cloned();
    }
    head.fields.combined("cache-status").map(|all| Bytes::from(all.into_owned()))
}

#[cfg(test)]
mod tests;
