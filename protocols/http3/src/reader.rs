//! One message on its stream: heads, pieces of the body, trailers (RFC 9114 §4.1).
//!
//! ```text
//! Head --HEADERS--> Body --HEADERS--> Ended        a client stays at Head for interim answers
//! ```
//!
//! Calling order: `read` with what came until it says `None`, again when more has come, `end` when the peer
//! ended the stream. Must stay true: DATA is held against `content-length`, also at the end.

use crate::error::{Code, Error};
use crate::frame::{self, FrameReader, Item, Place};
use crate::message::{self, ParsedRequest, ParsedResponse, Response};
use crate::qpack::Section;
use crate::{INTERIM_MAX, Limits};
use bytes::Bytes;
use tidegate_http::{Fields, Method, ResponseHead};

/// What a request stream brought to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestEvent {
    Head(Box<ParsedRequest>),
    /// The next bytes of the body; never empty.
    Data(Bytes),
    Trailers(Fields),
}

/// What a request stream brought to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseEvent {
    /// A 1xx answer: the real one follows.
    Interim(Box<ResponseHead>),
    Head(Box<ParsedResponse>),
    /// The next bytes of the body; never empty.
    Data(Bytes),
    Trailers(Fields),
}

/// Reads the request on one stream.
#[derive(Debug)]
pub struct RequestReader(Message);

impl RequestReader {
    /// At the start of a stream that a client opened.
    pub fn new(limits: Limits) -> RequestReader {
        RequestReader(Message::new(Place::Request, limits))
    }

    /// The next event; takes its bytes off `input`. `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no good request; nothing more is to be read from this stream then.
    pub fn read(&mut self, input: &mut Bytes) -> Result<Option<RequestEvent>, Error> {
        Ok(match self.0.read(input)? {
            None => None,
            Some(Piece::Data(bytes)) => Some(RequestEvent::Data(bytes)),
            Some(Piece::Trailers(fields)) => Some(RequestEvent::Trailers(fields)),
            Some(Piece::Section(section)) => {
                let parsed = message::request(&section, &self.0.limits)?;
                self.0.begin(parsed.length);
                Some(RequestEvent::Head(Box::new(parsed)))
            }
        })
    }

    /// The client ended the stream.
    ///
    /// # Errors
    /// When the request was not whole.
    pub fn end(&mut self) -> Result<(), Error> {
        self.0.end(Error::Stream {
            code: Code::REQUEST_INCOMPLETE,
            status: 400,
            what: "the stream ended before the request",
        })
    }
}

/// Reads the answer on one stream.
#[derive(Debug)]
pub struct ResponseReader {
    message: Message,
    to: Method,
    interim: usize,
}

impl ResponseReader {
    /// At the start of what comes back for a request of this method.
    pub fn new(to: Method, limits: Limits) -> ResponseReader {
        ResponseReader { message: Message::new(Place::Response, limits), to, interim: 0 }
    }

    /// The next event; takes its bytes off `input`. `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no good answer; nothing more is to be read from this stream then.
    pub fn read(&mut self, input: &mut Bytes) -> Result<Option<ResponseEvent>, Error> {
        let section = match self.message.read(input)? {
            None => return Ok(None),
            Some(Piece::Data(bytes)) => return Ok(Some(ResponseEvent::Data(bytes))),
            Some(Piece::Trailers(fields)) => return Ok(Some(ResponseEvent::Trailers(fields))),
            Some(Piece::Section(section)) => section,
        };
        match message::response(&section, &self.to)? {
            Response::Interim(head) => {
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Err(Error::excess(502, "too many interim answers"));
                }
                Ok(Some(ResponseEvent::Interim(Box::new(head))))
            }
            Response::Final(parsed) => {
                self.message.begin(parsed.length);
                Ok(Some(ResponseEvent::Head(Box::new(parsed))))
            }
        }
    }

    /// The server ended the stream.
    ///
    /// # Errors
    /// When the answer was not whole.
    pub fn end(&mut self) -> Result<(), Error> {
        self.message.end(Error::malformed("the stream ended before the head of the answer"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    Ended,
}

/// What both directions have in common.
#[derive(Debug)]
struct Message {
    limits: Limits,
    frames: FrameReader,
    phase: Phase,
    /// Bytes that the DATA frames must still bring, where that is known.
    left: Option<u64>,
}

enum Piece {
    Section(Section),
    Data(Bytes),
    Trailers(Fields),
}

impl Message {
    fn new(place: Place, limits: Limits) -> Message {
        Message {
            limits,
            frames: FrameReader::new(place, limits.section_bytes_max),
            phase: Phase::Head,
            left: None,
        }
    }

    fn read(&mut self, input: &mut Bytes) -> Result<Option<Piece>, Error> {
        loop {
            let (kind, payload) = match self.frames.read(input)? {
                None => return Ok(None),
                Some(Item::DataHead(length)) => {
                    self.announce(length)?;
                    continue;
                }
                Some(Item::Data(bytes)) => return Ok(Some(Piece::Data(bytes))),
                Some(Item::Frame(kind, payload)) => (kind, payload),
            };
            debug_assert_eq!(kind, frame::HEADERS, "others are refused where frames are read");
            if self.phase == Phase::Ended {
                return Err(unexpected("HEADERS after trailers"));
            }
            let section = Section::decode(&payload, &self.limits)?;
            if self.phase == Phase::Head {
                return Ok(Some(Piece::Section(section)));
            }
            self.phase = Phase::Ended;
            self.all_came()?;
            return Ok(Some(Piece::Trailers(message::trailers(&section)?)));
        }
    }

    /// The final head came.
    fn begin(&mut self, length: Option<u64>) {
        self.phase = Phase::Body;
        self.left = length;
    }

    /// A DATA frame begins.
    fn announce(&mut self, length: u64) -> Result<(), Error> {
        match self.phase {
            Phase::Head => return Err(unexpected("DATA before HEADERS")),
            Phase::Ended => return Err(unexpected("DATA after trailers")),
            Phase::Body => {}
        }
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(length)
                .ok_or(Error::malformed("more bytes than content-length says"))?;
        }
        Ok(())
    }

    fn all_came(&self) -> Result<(), Error> {
        match self.left {
            None | Some(0) => Ok(()),
            Some(_) => Err(Error::malformed("fewer bytes than content-length says")),
        }
    }

    fn end(&mut self, without_head: Error) -> Result<(), Error> {
        // RFC 9114 §7.1.
        if !self.frames.at_boundary() {
            let what = "the stream ended inside a frame";
            return Err(Error::connection(Code::FRAME_ERROR, what));
        }
        if self.phase == Phase::Head {
            return Err(without_head);
        }
        self.all_came()
    }
}

const fn unexpected(what: &'static str) -> Error {
    Error::connection(Code::FRAME_UNEXPECTED, what)
}
