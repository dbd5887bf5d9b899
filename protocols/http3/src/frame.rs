//! Frames of one stream (RFC 9114 §7): which may come where, and how much of them is held.
//!
//! ```text
//! Type --> Length --> Data (given on in pieces) | Payload (held until whole) | Skip --> Type
//! ```
//!
//! Must stay true: a payload is held only after its length was found good; frames that mean nothing here
//! (unknown and reserved types, empty DATA) use up a budget.

use crate::error::{Code, Error};
use crate::settings::SETTINGS_BYTES_MAX;
use crate::varint::Partial;
use bytes::{Buf, Bytes, BytesMut};

pub(crate) const DATA: u64 = 0x0;
pub(crate) const HEADERS: u64 = 0x1;
pub(crate) const CANCEL_PUSH: u64 = 0x3;
pub(crate) const SETTINGS: u64 = 0x4;
pub(crate) const PUSH_PROMISE: u64 = 0x5;
pub(crate) const GOAWAY: u64 = 0x7;
pub(crate) const MAX_PUSH_ID: u64 = 0xd;
/// RFC 9218 §7.2; the one of pushes means nothing here and is skipped.
pub(crate) const PRIORITY_UPDATE: u64 = 0xf0700;

/// Where the frames come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A request stream, as the server reads it.
    Request,
    /// A request stream, as the client reads it.
    Response,
    Control,
}

/// A frame, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// The start of a DATA frame of this length.
    DataHead(u64),
    /// Never empty.
    Data(Bytes),
    /// A whole frame of another type that may stand here.
    Frame(u64, Bytes),
}

#[derive(Debug)]
enum State {
    Type,
    Length(u64),
    Data(u64),
    Payload { kind: u64, left: usize, held: BytesMut },
    Skip(u64),
}

/// Reads the frames of one stream.
#[derive(Debug)]
pub(crate) struct FrameReader {
    place: Place,
    number: Partial,
    state: State,
    section_bytes_max: usize,
    idle_frames: u32,
    skipped_bytes: u64,
    began: bool,
}

/// Frames without a meaning on one stream: clients that grease send one or two.
pub(crate) const IDLE_FRAMES_MAX: u32 = 256;
/// Bytes of all unknown frames of one stream.
pub(crate) const SKIPPED_BYTES_MAX: u64 = 64 * 1024;
/// A number and a field value.
const PRIORITY_BYTES_MAX: u64 = 128;
/// A frame that holds one number.
const NUMBER_BYTES_MAX: usize = 8;

impl FrameReader {
    pub(crate) fn new(place: Place, section_bytes_max: usize) -> FrameReader {
        FrameReader {
            place,
            number: Partial::default(),
            state: State::Type,
            section_bytes_max,
            idle_frames: 0,
            skipped_bytes: 0,
            began: false,
        }
    }

    /// The next item; takes its bytes off `input`. `None` when more bytes are needed.
    pub(crate) fn read(&mut self, input: &mut Bytes) -> Result<Option<Item>, Error> {
        loop {
            match &mut self.state {
                State::Type => {
                    let Some(kind) = self.number.read(input) else { return Ok(None) };
                    self.judge(kind)?;
                    self.state = State::Length(kind);
                }
                State::Length(kind) => {
                    let kind = *kind;
                    let Some(length) = self.number.read(input) else { return Ok(None) };
                    self.state = self.begin(kind, length)?;
                    if kind == DATA {
                        return Ok(Some(Item::DataHead(length)));
                    }
                }
                State::Data(0) => self.state = State::Type,
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= here as u64;
                    return Ok(Some(Item::Data(input.split_to(here))));
                }
                State::Payload { kind, left, held } => {
                    let kind = *kind;
                    if held.is_empty() && input.len() >= *left {
                        let payload = input.split_to(*left);
                        self.state = State::Type;
                        return Ok(Some(Item::Frame(kind, payload)));
                    }
                    let here = input.len().min(*left);
                    held.reserve(*left);
                    held.extend_from_slice(&input.split_to(here));
                    *left -= here;
                    if *left > 0 {
                        return Ok(None);
                    }
                    let payload = std::mem::take(held).freeze();
                    self.state = State::Type;
                    return Ok(Some(Item::Frame(kind, payload)));
                }
                State::Skip(0) => self.state = State::Type,
                State::Skip(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= here as u64;
                    input.advance(here);
                }
            }
        }
    }

    /// No frame is cut off here.
    pub(crate) fn at_boundary(&self) -> bool {
        self.number.is_empty()
            && matches!(self.state, State::Type | State::Data(0) | State::Skip(0))
    }

    /// Whether this type may stand here, before its length has come.
    fn judge(&mut self, kind: u64) -> Result<(), Error> {
        let first = !std::mem::replace(&mut self.began, true);
        if first && self.place == Place::Control && kind != SETTINGS {
            let what = "the control stream does not begin with SETTINGS";
            return Err(Error::connection(Code::MISSING_SETTINGS, what));
        }
        let unexpected = |what| Err(Error::connection(Code::FRAME_UNEXPECTED, what));
        match (kind, self.place) {
            // RFC 9114 §7.2.8.
            (0x2 | 0x6 | 0x8 | 0x9, _) => unexpected("a frame type of HTTP/2"),
            (DATA | HEADERS | PUSH_PROMISE, Place::Control) => {
                unexpected("a frame of request streams on the control stream")
            }
            (PUSH_PROMISE, Place::Request) => unexpected("PUSH_PROMISE from a client"),
            (PUSH_PROMISE, Place::Response) => {
                Err(Error::connection(Code::ID_ERROR, "PUSH_PROMISE: no push id was allowed"))
            }
            (CANCEL_PUSH | SETTINGS | GOAWAY | MAX_PUSH_ID, Place::Request | Place::Response) => {
                unexpected("a frame of the control stream on a request stream")
            }
            (PRIORITY_UPDATE, Place::Request | Place::Response) => {
                unexpected("PRIORITY_UPDATE on a request stream")
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, kind: u64, length: u64) -> Result<State, Error> {
        let bytes_max = match kind {
            DATA => {
                if length == 0 {
                    self.idle()?;
                }
                return Ok(State::Data(length));
            }
            HEADERS => self.section_bytes_max,
            SETTINGS => SETTINGS_BYTES_MAX,
            // How many of them may come is the connection's to say: clients send one or two with each request.
            PRIORITY_UPDATE if length <= PRIORITY_BYTES_MAX => PRIORITY_BYTES_MAX as usize,
            CANCEL_PUSH | GOAWAY | MAX_PUSH_ID => {
                self.idle()?;
                NUMBER_BYTES_MAX
            }
            _ => {
                self.idle()?;
                self.skipped_bytes = self.skipped_bytes.saturating_add(length);
                if self.skipped_bytes > SKIPPED_BYTES_MAX {
                    return Err(Error::connection(
                        Code::EXCESSIVE_LOAD,
                        "too many bytes in frames of unknown types",
                    ));
                }
                return Ok(State::Skip(length));
            }
        };
        match usize::try_from(length).ok().filter(|length| *length <= bytes_max) {
            Some(left) => Ok(State::Payload { kind, left, held: BytesMut::new() }),
            None if kind == HEADERS => Err(Error::excess(431, "the HEADERS frame is too large")),
            None if kind == SETTINGS => {
                Err(Error::connection(Code::EXCESSIVE_LOAD, "the SETTINGS frame is too large"))
            }
            None => Err(Error::connection(Code::FRAME_ERROR, "a frame is longer than its number")),
        }
    }

    fn idle(&mut self) -> Result<(), Error> {
        self.idle_frames += 1;
        if self.idle_frames > IDLE_FRAMES_MAX {
            let what = "too many frames that mean nothing";
            return Err(Error::connection(Code::EXCESSIVE_LOAD, what));
        }
        Ok(())
    }
}
