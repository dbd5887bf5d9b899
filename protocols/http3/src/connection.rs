//! What holds for a whole connection: the unidirectional streams, settings and GOAWAY (RFC 9114 §6.2, §7.2).
//!
//! Calling order: send [`Connection::preamble`] on a unidirectional stream of our own before anything else;
//! for each such stream of the peer keep a [`UniStream`] and give its bytes to [`Connection::receive`], its
//! end to [`Connection::ended`]. Of QPACK's streams we open none: without a dynamic table there is nothing to
//! say (RFC 9204 §4.2).
//!
//! Must stay true: each critical stream exists at most once and never ends; ids in GOAWAY never grow.

use crate::Limits;
use crate::error::{Code, Error};
use crate::frame::{self, FrameReader, Item, Place};
use crate::qpack::{DecoderStream, EncoderStream};
use crate::settings::{self, Settings};
use crate::varint::{self, Partial};
use bytes::Bytes;

/// Which side of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// A unidirectional stream of the peer.
#[derive(Debug, Default)]
pub struct UniStream(Kind);

#[derive(Debug)]
enum Kind {
    Unknown(Partial),
    Control(FrameReader),
    Encoder(EncoderStream),
    Decoder(DecoderStream),
    Unwanted,
}

impl Default for Kind {
    fn default() -> Kind {
        Kind::Unknown(Partial::default())
    }
}

/// What to do with a unidirectional stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uni {
    /// Read on.
    Open,
    /// Its type means nothing here: ask the peer to stop sending with this code, and forget it.
    Unwanted(Code),
}

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    side: Side,
    limits: Limits,
    control_opened: bool,
    encoder_opened: bool,
    decoder_opened: bool,
    settings: Option<Settings>,
    /// What the peer's last GOAWAY said.
    goaway: Option<u64>,
    /// What our last GOAWAY said.
    own_goaway: Option<u64>,
    push_id_max: Option<u64>,
    /// PRIORITY_UPDATE frames that the peer may still send.
    updates_left: u32,
    updates: Vec<PriorityUpdate>,
}

/// What a client says of a request's priority after, or before, it asked (RFC 9218 §7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorityUpdate {
    /// Id of the request stream.
    pub stream: u64,
    /// As the value of a `Priority` field.
    pub value: Bytes,
}

/// PRIORITY_UPDATE frames at the start of a connection, and for each request more.
const UPDATES_FIRST: u32 = 128;
const UPDATES_PER_REQUEST: u32 = 16;
/// Saved up at most.
const UPDATES_MAX: u32 = 2048;

const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;

impl Connection {
    /// `limits` are those of the messages that this side reads.
    pub fn new(side: Side, limits: Limits) -> Connection {
        Connection {
            side,
            limits,
            control_opened: false,
            encoder_opened: false,
            decoder_opened: false,
            settings: None,
            goaway: None,
            own_goaway: None,
            push_id_max: None,
            updates_left: UPDATES_FIRST,
            updates: Vec::new(),
        }
    }

    /// The peer has asked for something; it may say so many times more how urgent that is.
    pub fn request_came(&mut self) {
        self.updates_left = (self.updates_left + UPDATES_PER_REQUEST).min(UPDATES_MAX);
    }

    /// What the peer has said of priorities since it was asked last.
    pub fn take_priority_updates(&mut self) -> Vec<PriorityUpdate> {
        std::mem::take(&mut self.updates)
    }

    /// Appends what our control stream begins with: its type and SETTINGS. The stream stays open.
    pub fn preamble(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        settings::encode(self.limits.section_bytes_max, &mut payload);
        varint::encode(CONTROL, out);
        varint::encode(frame::SETTINGS, out);
        varint::encode(payload.len() as u64, out);
        out.extend_from_slice(&payload);
    }

    /// Appends a GOAWAY for our control stream: a server names the first request stream that it will not
    /// answer. A later one never names a higher id.
    pub fn goaway(&mut self, id: u64, out: &mut Vec<u8>) {
        let id = self.own_goaway.map_or(id, |before| before.min(id));
        self.own_goaway = Some(id);
        let mut number = Vec::new();
        varint::encode(id, &mut number);
        varint::encode(frame::GOAWAY, out);
        varint::encode(number.len() as u64, out);
        out.extend_from_slice(&number);
    }

    /// The peer's settings, when they have come.
    pub fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// What the peer's last GOAWAY said. For a client: requests on streams from this id on were not and will
    /// not be looked at; no new ones may be begun.
    pub fn peer_goaway(&self) -> Option<u64> {
        self.goaway
    }

    /// The peer opened a bidirectional stream.
    ///
    /// # Errors
    /// For a client: servers have none (RFC 9114 §6.1).
    pub fn peer_opened_bidirectional(&self) -> Result<(), Error> {
        match self.side {
            Side::Server => Ok(()),
            Side::Client => Err(Error::connection(
                Code::STREAM_CREATION_ERROR,
                "a bidirectional stream that a server opened",
            )),
        }
    }

    /// Bytes of a unidirectional stream of the peer; all are used.
    ///
    /// # Errors
    /// When the peer broke a rule; the connection is to be closed.
    pub fn receive(&mut self, stream: &mut UniStream, mut input: Bytes) -> Result<Uni, Error> {
        if let Kind::Unknown(number) = &mut stream.0 {
            let Some(kind) = number.read(&mut input) else { return Ok(Uni::Open) };
            stream.0 = self.open(kind)?;
        }
        match &mut stream.0 {
            Kind::Control(frames) => {
                while let Some(item) = frames.read(&mut input)? {
                    // DATA is refused where frames are read.
                    if let Item::Frame(kind, payload) = item {
                        self.control(kind, payload)?;
                    }
                }
            }
            Kind::Encoder(encoder) => encoder.read(&input)?,
            Kind::Decoder(decoder) => decoder.read(&input)?,
            Kind::Unwanted => return Ok(Uni::Unwanted(Code::STREAM_CREATION_ERROR)),
            Kind::Unknown(_) => {}
        }
        Ok(Uni::Open)
    }

    /// The peer ended or reset a unidirectional stream.
    ///
    /// # Errors
    /// When it was one that lives as long as the connection.
    pub fn ended(&self, stream: &UniStream) -> Result<(), Error> {
        match stream.0 {
            // RFC 9114 §6.2: a stream that ends before its type came is no error.
            Kind::Unknown(_) | Kind::Unwanted => Ok(()),
            Kind::Control(_) | Kind::Encoder(_) | Kind::Decoder(_) => Err(Error::connection(
                Code::CLOSED_CRITICAL_STREAM,
                "a stream that lives as long as the connection ended",
            )),
        }
    }

    fn open(&mut self, kind: u64) -> Result<Kind, Error> {
        let (opened, kind) = match (kind, self.side) {
            (CONTROL, _) => {
                let frames = FrameReader::new(Place::Control, self.limits.section_bytes_max);
                (&mut self.control_opened, Kind::Control(frames))
            }
            (QPACK_ENCODER, _) => {
                (&mut self.encoder_opened, Kind::Encoder(EncoderStream::default()))
            }
            (QPACK_DECODER, _) => {
                (&mut self.decoder_opened, Kind::Decoder(DecoderStream::default()))
            }
            (PUSH, Side::Server) => {
                let what = "a push stream from a client";
                return Err(Error::connection(Code::STREAM_CREATION_ERROR, what));
            }
            (PUSH, Side::Client) => {
                let what = "a push stream: no push id was allowed";
                return Err(Error::connection(Code::ID_ERROR, what));
            }
            _ => return Ok(Kind::Unwanted),
        };
        if std::mem::replace(opened, true) {
            let what = "a second stream of a type that exists once";
            return Err(Error::connection(Code::STREAM_CREATION_ERROR, what));
        }
        Ok(kind)
    }

    /// RFC 9218 §7.2.
    fn priority(&mut self, payload: Bytes) -> Result<(), Error> {
        let wrong = |code, what| Err(Error::connection(code, what));
        if self.side == Side::Client {
            return wrong(Code::FRAME_UNEXPECTED, "PRIORITY_UPDATE from a server");
        }
        let Some((stream, length)) = varint::decode(&payload) else {
            return wrong(Code::FRAME_ERROR, "PRIORITY_UPDATE without an id");
        };
        // The lowest bits of a request stream are zero (RFC 9000 §2.1).
        if stream % 4 != 0 {
            return wrong(
                Code::ID_ERROR,
                "PRIORITY_UPDATE names a stream that is no request stream",
            );
        }
        let Some(left) = self.updates_left.checked_sub(1) else {
            return wrong(Code::EXCESSIVE_LOAD, "too many PRIORITY_UPDATE frames");
        };
        self.updates_left = left;
        self.updates.push(PriorityUpdate { stream, value: payload.slice(length..) });
        Ok(())
    }

    /// One frame of the peer's control stream.
    fn control(&mut self, kind: u64, payload: Bytes) -> Result<(), Error> {
        if kind == frame::SETTINGS {
            if self.settings.is_some() {
                return Err(Error::connection(Code::FRAME_UNEXPECTED, "a second SETTINGS"));
            }
            self.settings = Some(settings::decode(&payload)?);
            return Ok(());
        }
        if kind == frame::PRIORITY_UPDATE {
            return self.priority(payload);
        }
        let number = varint::decode(&payload)
            .filter(|(_, length)| *length == payload.len())
            .map(|(number, _)| number)
            .ok_or(Error::connection(
                Code::FRAME_ERROR,
                "a frame is not the one number it holds",
            ))?;
        let wrong_id = |what| Err(Error::connection(Code::ID_ERROR, what));
        match (kind, self.side) {
            (frame::GOAWAY, _) => {
                // The lowest bits of a request stream are zero (RFC 9000 §2.1).
                if self.side == Side::Client && number % 4 != 0 {
                    return wrong_id("GOAWAY names a stream that is no request stream");
                }
                if self.goaway.is_some_and(|before| number > before) {
                    return wrong_id("GOAWAY names a higher id than before");
                }
                self.goaway = Some(number);
            }
            // Nothing is ever pushed, so no push id was mentioned (RFC 9114 §7.2.3).
            (frame::CANCEL_PUSH, _) => return wrong_id("CANCEL_PUSH of a push that is not"),
            (frame::MAX_PUSH_ID, Side::Client) => {
                let what = "MAX_PUSH_ID from a server";
                return Err(Error::connection(Code::FRAME_UNEXPECTED, what));
            }
            (frame::MAX_PUSH_ID, Side::Server) => {
                if self.push_id_max.is_some_and(|before| number < before) {
                    return wrong_id("MAX_PUSH_ID is lower than before");
                }
                self.push_id_max = Some(number);
            }
            _ => debug_assert!(false, "others are refused or skipped where frames are read"),
        }
        Ok(())
    }
}
