//! The client of a request as steps see it: one head, then body bytes. How they leave is an [`Outlet`]'s business: an
//! HTTP/1.1 connection ([`Http1`]), or a stream of HTTP/2 or HTTP/3.
//!
//! Must stay true: exactly one final head per request; a body of known length is sent whole or its stream (for HTTP/1.1 the
//! connection) is broken off, so that a client never takes a part for the whole.

use crate::object::Lines;
use crate::pace::{Burst, LOOK_BYTES, Lending, Manner, Pace};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tidegate_http::{Fields, Version};
use tidegate_http1::{
    LAST_CHUNK, encode_chunk_head, encode_field, encode_fields, encode_status_line,
};
use tidegate_ring::{TcpStream, empty_message, give_back_message, now};
use tidegate_types::digits::Digits;

/// What protects a client's bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    None,
    /// Good enough for some delivery services only.
    Tls12,
    Tls13,
}

/// A byte stream to a client: plain or TLS.
#[allow(async_fn_in_trait, reason = "connections stay on their core; no future crosses threads")]
pub trait Transport {
    /// Appends what arrives; zero: the client has closed its side.
    async fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize>;
    /// Sends all pieces, in order; fails when the client takes nothing for [`SEND_STALL_MAX`].
    async fn send_all(&mut self, pieces: &[&[u8]]) -> io::Result<()>;
    /// The same with a small message that was built in one of the ring's buffers.
    async fn send_message(&mut self, message: Vec<u8>) -> io::Result<()> {
        let outcome = self.send_all(&[&message]).await;
        give_back_message(message);
        outcome
    }
    /// Ends the sending side in order.
    async fn close(&mut self);
    /// What carries the bytes.
    fn tcp(&self) -> &TcpStream;
    /// What protects the bytes.
    fn protection(&self) -> Protection;
    /// Whether what came may have been recorded, and be sent by somebody else (RFC 8446 §8): the handshake is not over.
    fn is_early(&self) -> bool {
        false
    }
    /// Waits for the end of the handshake.
    async fn confirm(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for TcpStream {
    async fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        TcpStream::receive(self, into).await
    }

    async fn send_all(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        TcpStream::send_all(self, pieces, SEND_STALL_MAX).await
    }

    async fn send_message(&mut self, message: Vec<u8>) -> io::Result<()> {
        TcpStream::send_message(self, message, SEND_STALL_MAX).await
    }

    async fn close(&mut self) {
        self.shutdown_write();
    }

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// How the body that follows a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// No body, and no Content-Length either (1xx, 204, 304).
    Absent,
    Known(u64),
    /// Chunked for HTTP/1.1, up to the close for HTTP/1.0.
    Unknown,
}

/// Fields that only the connection's own framing may write.
pub const FRAMING_FIELDS: [&str; 3] = ["content-length", "transfer-encoding", "connection"];

/// Longest time without a client taking anything of what is sent to it.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(30);

/// Bodies up to this size are copied behind their heads.
const SMALL_BODY_BYTES: usize = 8 << 10;

/// Fields of an answer.
#[derive(Debug, Clone, Copy)]
pub enum HeadFields<'a> {
    Made(&'a Fields),
    /// Those that were written before, and some more.
    Lines(&'a Lines, &'a [(&'static str, &'a [u8])]),
}

/// How one answer leaves.
#[allow(async_fn_in_trait, reason = "connections stay on their core; no future crosses threads")]
pub trait Outlet {
    /// The final head; it may wait for the first body bytes, or for `finish`. Without [`FRAMING_FIELDS`].
    fn head(&mut self, status: u16, fields: HeadFields<'_>, length: BodyLength);
    /// How the answer shall leave; before its head.
    ///
    /// # Errors
    /// The kernel does not do some of it: the answer leaves all the same.
    fn set_manner(&mut self, manner: &Manner) -> io::Result<()>;
    /// Body bytes, in order.
    async fn body(&mut self, bytes: &Bytes) -> io::Result<()>;
    /// The answer is complete; `false`: it is shorter than its head says.
    async fn finish(&mut self, complete: bool) -> io::Result<()>;
    /// The answer cannot be completed, and the client shall know.
    fn abort(&mut self);
    /// What protects it.
    fn protection(&self) -> Protection;
    /// See [`Transport::is_early`].
    fn is_early(&self) -> bool {
        false
    }
    /// See [`Transport::confirm`].
    async fn confirm(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// For the log.
    fn protocol(&self) -> &'static str;
}

/// Tells the kernel how a connection's answers leave, at `rate` bytes per second.
///
/// # Errors
/// It does not do some of it.
pub fn set_manner_of(tcp: &TcpStream, manner: &Manner, rate: Option<u64>) -> io::Result<()> {
    tcp.set_pace(rate)?;
    manner.congestion.map_or(Ok(()), |congestion| tcp.set_congestion(congestion.name()))
}

/// One request's client.
pub struct Client<'a, O: Outlet> {
    outlet: &'a mut O,
    pub address: SocketAddr,
    /// The request was HEAD: bodies are announced, not sent.
    pub head_only: bool,
    /// Body bytes sent.
    pub sent: u64,
    pub status: u16,
    length: BodyLength,
    /// It took too little for too long.
    pub late: bool,
}

impl<'a, O: Outlet> Client<'a, O> {
    /// The client of a new request.
    pub fn new(outlet: &'a mut O, address: SocketAddr, head_only: bool) -> Self {
        let (sent, status, length, late) = (0, 0, BodyLength::Absent, false);
        Client { outlet, address, head_only, sent, status, length, late }
    }

    /// Whether the client's connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.outlet.protection() != Protection::None
    }

    /// What protects the client's connection.
    pub fn protection(&self) -> Protection {
        self.outlet.protection()
    }

    /// Whether the request may be somebody else's recording: nothing may follow from it but an answer from the cache.
    pub fn is_early(&self) -> bool {
        self.outlet.is_early()
    }

    /// Waits until it is the client's own.
    pub async fn confirm(&mut self) -> io::Result<()> {
        self.outlet.confirm().await
    }

    /// Name of the protocol, for the log.
    pub fn protocol(&self) -> &'static str {
        self.outlet.protocol()
    }

    /// How the answer shall leave.
    ///
    /// # Errors
    /// The kernel does not do some of it: the answer leaves all the same.
    pub fn set_manner(&mut self, manner: &Manner) -> io::Result<()> {
        self.outlet.set_manner(manner)
    }

    /// Whether a final head has been begun.
    pub fn answered(&self) -> bool {
        self.status != 0
    }

    /// Writes the final head; it leaves with the first body bytes, or at `finish`.
    pub fn head(&mut self, status: u16, mut fields: Fields, length: BodyLength) {
        for name in FRAMING_FIELDS {
            fields.remove(name);
        }
        self.begin(status, HeadFields::Made(&fields), length);
    }

    /// As `head`, from field lines that were encoded before (without [`FRAMING_FIELDS`]), and some more.
    pub fn head_from_lines(
        &mut self,
        status: u16,
        lines: &Lines,
        more: &[(&'static str, &[u8])],
        length: BodyLength,
    ) {
        self.begin(status, HeadFields::Lines(lines, more), length);
    }

    fn begin(&mut self, status: u16, fields: HeadFields<'_>, length: BodyLength) {
        debug_assert!(!self.answered(), "one final head per request");
        self.status = status;
        self.length = length;
        self.outlet.head(status, fields, length);
    }

    /// Sends body bytes.
    pub async fn body(&mut self, bytes: &Bytes) -> io::Result<()> {
        if self.head_only || bytes.is_empty() {
            return Ok(());
        }
        self.sent += bytes.len() as u64;
        let outcome = self.outlet.body(bytes).await;
        self.note(outcome)
    }

    fn note(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        self.late |= outcome.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::TimedOut);
        outcome
    }

    /// The body is complete.
    pub async fn finish(&mut self) -> io::Result<()> {
        let complete = match self.length {
            BodyLength::Known(length) => self.head_only || self.sent == length,
            BodyLength::Absent | BodyLength::Unknown => true,
        };
        let outcome = self.outlet.finish(complete).await;
        self.note(outcome)
    }

    /// The body cannot be completed: the connection or stream breaks off, so that the client knows.
    pub fn abort(&mut self) {
        self.outlet.abort();
    }
}

/// An answer on an HTTP/1.1 connection.
pub struct Http1<'a, T: Transport> {
    transport: &'a mut T,
    head_only: bool,
    version: Version,
    /// The connection can carry another request.
    pub keep_alive: bool,
    pending: Vec<u8>,
    chunked: bool,
    pace: Pace,
    burst: Burst,
    lending: Option<Lending>,
    begun: Option<Instant>,
    /// Its player, or one before it on this connection, asked for a lower rendition than its highest.
    pub has_lower: bool,
    /// Its player let others go first, at least for a while.
    pub lent: bool,
}

impl<'a, T: Transport> Http1<'a, T> {
    /// For one request's answer; `head_only`: the request was HEAD.
    pub fn new(transport: &'a mut T, head_only: bool, version: Version, keep_alive: bool) -> Self {
        Http1 {
            transport,
            head_only,
            version,
            keep_alive,
            pending: Vec::new(),
            chunked: false,
            pace: Pace::default(),
            burst: Burst::of(&Pace::default()),
            lending: None,
            begun: None,
            has_lower: false,
            lent: false,
        }
    }

    /// The connection, for reading a request body.
    pub fn transport_mut(&mut self) -> &mut T {
        self.transport
    }

    /// Sends an interim `100 Continue`.
    pub async fn continue_100(&mut self) -> io::Result<()> {
        self.send(&[b"HTTP/1.1 100 Continue\r\n\r\n"]).await
    }

    async fn send(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let outcome = self.transport.send_all(pieces).await;
        self.keep_alive &= outcome.is_ok();
        outcome
    }

    /// What the player told binds from here on.
    fn bind(&mut self) -> io::Result<()> {
        let tcp = self.transport.tcp();
        self.lending = Lending::of(&self.pace, self.has_lower);
        if self.lending.is_some() {
            // What the kernel has already is sent before anything is seen of it.
            tcp.set_unsent_max(LOOK_BYTES as u32)?;
        }
        tcp.set_pace(self.pace.wish.into_iter().chain(self.pace.ceiling).min())
    }

    async fn body_piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut head = std::mem::take(&mut self.pending);
        if self.chunked {
            encode_chunk_head(bytes.len() as u64, &mut head);
            self.send(&[&head, bytes, b"\r\n"]).await
        } else if head.is_empty() {
            self.send(&[bytes]).await
        } else if bytes.len() <= SMALL_BODY_BYTES {
            head.extend_from_slice(bytes);
            self.send_message(head).await
        } else {
            let outcome = self.send(&[&head, bytes]).await;
            give_back_message(head);
            outcome
        }
    }

    async fn send_message(&mut self, message: Vec<u8>) -> io::Result<()> {
        let outcome = self.transport.send_message(message).await;
        self.keep_alive &= outcome.is_ok();
        outcome
    }

    fn frame(&mut self, length: BodyLength) {
        match length {
            BodyLength::Absent => {}
            BodyLength::Known(length) => {
                encode_field("content-length", Digits::of(length).as_bytes(), &mut self.pending);
            }
            BodyLength::Unknown if self.version == Version::Http11 => {
                self.chunked = true;
                encode_field("transfer-encoding", b"chunked", &mut self.pending);
            }
            BodyLength::Unknown => self.keep_alive = false,
        }
        match (self.keep_alive, self.version) {
            (false, _) => encode_field("connection", b"close", &mut self.pending),
            (true, Version::Http10) => encode_field("connection", b"keep-alive", &mut self.pending),
            (true, Version::Http11 | Version::Http2 | Version::Http3) => {}
        }
        self.pending.extend_from_slice(b"\r\n");
    }
}

impl<T: Transport> Outlet for Http1<'_, T> {
    fn head(&mut self, status: u16, fields: HeadFields<'_>, length: BodyLength) {
        self.pending = empty_message();
        encode_status_line(status, &mut self.pending);
        match fields {
            HeadFields::Made(fields) => encode_fields(fields, &mut self.pending),
            HeadFields::Lines(lines, more) => {
                self.pending.extend_from_slice(&lines.bytes);
                for (name, value) in more {
                    encode_field(name, value, &mut self.pending);
                }
            }
        }
        self.frame(length);
    }

    fn set_manner(&mut self, manner: &Manner) -> io::Result<()> {
        (self.pace, self.burst) = (manner.pace, Burst::of(&manner.pace));
        self.has_lower |= manner.is_below_top;
        self.begun = manner.pace.lender.map(|_| now());
        set_manner_of(self.transport.tcp(), manner, manner.pace.ceiling)
    }

    async fn body(&mut self, bytes: &Bytes) -> io::Result<()> {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Some(mut free) = self.burst.take(rest.len()) else {
                self.bind()?;
                continue;
            };
            if let Some(lending) = &mut self.lending {
                let tcp = self.transport.tcp();
                let since = self.begun.map(|begun| now().saturating_duration_since(begun));
                let rate = lending.look(tcp.path()?, since.unwrap_or_default());
                self.lent |= lending.lends();
                tcp.set_pace(rate.into_iter().chain(self.pace.ceiling).min())?;
                free = free.min(LOOK_BYTES);
            }
            self.body_piece(&rest[..free]).await?;
            rest = &rest[free..];
        }
        Ok(())
    }

    async fn finish(&mut self, complete: bool) -> io::Result<()> {
        let mut rest = std::mem::take(&mut self.pending);
        if self.chunked && !self.head_only {
            rest.extend_from_slice(LAST_CHUNK);
        }
        self.keep_alive &= complete; // never passes for whole: the connection ends short
        if self.lending.take().is_some() {
            self.transport.tcp().set_unsent_max(0)?; // as the system has it
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.send_message(rest).await
    }

    fn abort(&mut self) {
        self.keep_alive = false;
        self.pending.clear();
    }

    fn protection(&self) -> Protection {
        self.transport.protection()
    }

    fn is_early(&self) -> bool {
        self.transport.is_early()
    }

    async fn confirm(&mut self) -> io::Result<()> {
        self.transport.confirm().await
    }

    fn protocol(&self) -> &'static str {
        match self.transport.protection() {
            Protection::None => "HTTP/1.1",
            Protection::Tls12 | Protection::Tls13 => "HTTP/1.1+TLS",
        }
    }
}
