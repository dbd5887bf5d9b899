//! HTTP/3: QUIC by `quinn`, frames and fields by our own core, the same that the edge uses.
//!
//! Must stay true: each connection has a socket of its own, since servers spread clients over their cores by
//! address and port; the control stream lives as long as the connection.

use super::{Place, cache_status};
use crate::answer::{Answer, Malformed};
use crate::client::{Failure, Watch};
use bytes::Bytes;
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt};
use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tidegate_http::Method;
use tidegate_http3::{
    Code, Connection as Rules, Error, Limits, ResponseEvent, ResponseReader, Side, Uni, UniStream,
};

/// Bytes that a server may have under way on one stream.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// And on a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// Control, two of QPACK, and some that grease.
const UNI_STREAMS_MAX: u32 = 16;
/// A goodbye is not waited for longer.
const CLOSE_MAX: Duration = Duration::from_millis(200);
/// Bytes of a head as HTTP/1.1 writes it beside its fields: status line and blank line.
const STATUS_LINE_BYTES: usize = "HTTP/1.1 200 \r\n\r\n".len();

/// QUIC over this TLS.
pub(super) fn configuration(tls: Arc<rustls::ClientConfig>) -> Result<quinn::ClientConfig, String> {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls)
        .map_err(|error| format!("QUIC cannot be set up: {error}"))?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// An open connection; copies are the same one.
#[derive(Debug, Clone)]
pub struct Connection(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: quinn::Endpoint,
    quic: quinn::Connection,
    rules: Rc<RefCell<Rules>>,
    /// Never written to again; without it the stream would end.
    _control: SendStream,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.quic.close(code(Code::NO_ERROR), b"");
    }
}

/// Room for one request.
#[derive(Debug)]
pub struct Stream {
    sender: SendStream,
    receiver: RecvStream,
    /// What the peer did to the connection is told from there.
    connection: Connection,
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Nothing comes any more when the answer was whole; one that was given up is not sent on in vain.
        let _ended = self.receiver.stop(code(Code::REQUEST_CANCELLED));
    }
}

impl Connection {
    pub(super) async fn open(place: &Place) -> io::Result<Connection> {
        let (Some(config), Some((name, _))) = (&place.quic, &place.endpoint.tls) else {
            return Err(io::Error::other("HTTP/3 needs https"));
        };
        let address = place.endpoint.address;
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = quinn::Endpoint::client(any)?;
        let quic = endpoint
            .connect_with(config.clone(), address, &name.to_str())
            .map_err(io::Error::other)?
            .await?;
        let rules = Rules::new(Side::Client, Limits::RESPONSE);
        let mut preamble = Vec::new();
        rules.preamble(&mut preamble);
        let mut control = quic.open_uni().await?;
        control.write_all(&preamble).await?;
        let rules = Rc::new(RefCell::new(rules));
        tokio::task::spawn_local(accept(quic.clone(), Rc::clone(&rules)));
        Ok(Connection(Rc::new(Inner { endpoint, quic, rules, _control: control })))
    }

    pub(super) fn is_usable(&self) -> bool {
        self.0.quic.close_reason().is_none() && self.0.rules.borrow().peer_goaway().is_none()
    }

    pub(super) fn is_same(&self, other: &Connection) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    pub(super) async fn stream(&self) -> io::Result<Stream> {
        let (sender, receiver) = self.0.quic.open_bi().await?;
        Ok(Stream { sender, receiver, connection: self.clone() })
    }

    /// Says goodbye and waits until it is on its way.
    pub(super) async fn close(&self) {
        self.0.quic.close(code(Code::NO_ERROR), b"");
        let _gone = tokio::time::timeout(CLOSE_MAX, self.0.endpoint.wait_idle()).await;
    }
}

impl Stream {
    pub(super) async fn exchange(
        &mut self,
        headers: Bytes,
        watch: &mut impl Watch,
    ) -> Result<Answer, Failure> {
        // A server may answer and stop reading before it has read all: what it said counts.
        let written = self.sender.write_chunk(headers).await;
        let _finished = self.sender.finish();
        let mut reader = ResponseReader::new(Method::Get, Limits::RESPONSE);
        let mut answer = Answer::default();
        loop {
            let chunk = match self.receiver.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => chunk.bytes,
                Ok(None) => {
                    reader.end().map_err(|error| match (error, answer.status) {
                        // The same as an end of a connection there.
                        (_, 0) => Failure::ClosedEarly(written.err().map(io::Error::from)),
                        _ => Failure::ShortBody(None),
                    })?;
                    return Ok(answer);
                }
                Err(error) => return Err(early(error, answer.status)),
            };
            let mut input = chunk;
            loop {
                let event = reader.read(&mut input).map_err(|error| self.refuse(error))?;
                match event {
                    None => break,
                    Some(ResponseEvent::Interim(_) | ResponseEvent::Trailers(_)) => {}
                    Some(ResponseEvent::Head(parsed)) => {
                        answer.status = parsed.head.status;
                        answer.keep_alive = true;
                        answer.cache_status = cache_status(&parsed.head.fields);
                        watch.received(parsed.head.fields.wire_size() + STATUS_LINE_BYTES);
                        watch.head(&parsed.head);
                    }
                    Some(ResponseEvent::Data(bytes)) => {
                        watch.received(bytes.len());
                        watch.body(&bytes);
                        answer.body_bytes += bytes.len() as u64;
                    }
                }
            }
        }
    }

    /// Tells the server what it did wrong.
    fn refuse(&mut self, error: Error) -> Failure {
        match error {
            Error::Connection { code: c, what } => {
                self.connection.0.quic.close(code(c), what.as_bytes());
            }
            Error::Stream { code: c, .. } => {
                let _stopped = self.receiver.stop(code(c));
            }
        }
        Failure::Malformed(Malformed::Frames(error.to_string()))
    }
}

fn early(error: ReadError, status: u16) -> Failure {
    let error = match error {
        ReadError::Reset(code) => {
            io::Error::other(format!("reset with {}", Code(code.into_inner())))
        }
        other => io::Error::from(other),
    };
    match status {
        0 => Failure::ClosedEarly(Some(error)),
        _ => Failure::ShortBody(Some(error)),
    }
}

fn code(code: Code) -> VarInt {
    VarInt::from_u64(code.0).unwrap_or(VarInt::MAX)
}

/// Takes the server's unidirectional streams until the connection ends.
async fn accept(quic: quinn::Connection, rules: Rc<RefCell<Rules>>) -> Option<ConnectionError> {
    loop {
        match quic.accept_uni().await {
            Ok(receiver) => {
                tokio::task::spawn_local(read(quic.clone(), receiver, Rc::clone(&rules)));
            }
            Err(error) => return Some(error),
        }
    }
}

/// Reads one of them.
async fn read(quic: quinn::Connection, mut receiver: RecvStream, rules: Rc<RefCell<Rules>>) {
    let mut stream = UniStream::default();
    loop {
        let outcome = match receiver.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => rules.borrow_mut().receive(&mut stream, chunk.bytes),
            Ok(None) | Err(ReadError::Reset(_)) => match rules.borrow().ended(&stream) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Err(_) => return,
        };
        match outcome {
            Ok(Uni::Open) => {}
            Ok(Uni::Unwanted(c)) => {
                let _stopped = receiver.stop(code(c));
                return;
            }
            Err(error) => {
                quic.close(code(error.code()), error.what().as_bytes());
                return;
            }
        }
    }
}
