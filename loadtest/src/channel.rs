//! How requests reach one server, over any version of HTTP: connections are opened when they are first needed,
//! shared where the version lets them be, and thrown away when they are of no more use.
//!
//! ```text
//! Channel --stream()--> Stream --exchange(request)--> Answer | Failure
//! ```
//!
//! Must stay true: a stream is ready when it is given out, so the time before is a wait for a connection and
//! the time after is the server's; all versions account alike.

mod http2;
mod http3;

use crate::answer::Answer;
use crate::client::{Connection, Endpoint, Failure, Watch};
use crate::url::Url;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_http::{Fields, Method, Scheme};
use tidegate_http1::encode_request;
use tokio::sync::Mutex;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    Http2,
    Http3,
}

impl Protocol {
    /// As `--http` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http1 => "1.1",
            Protocol::Http2 => "2",
            Protocol::Http3 => "3",
        }
    }

    /// What TLS names it.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
            Protocol::Http3 => b"h3",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolError;

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a version of HTTP is 1.1, 2 or 3")
    }
}

impl std::error::Error for ProtocolError {}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Protocol, ProtocolError> {
        [Protocol::Http1, Protocol::Http2, Protocol::Http3]
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
            .ok_or(ProtocolError)
    }
}

/// A server and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Place {
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    /// HTTP/3: made of the endpoint's TLS.
    quic: Option<quinn::ClientConfig>,
}

impl Place {
    /// # Errors
    /// When QUIC cannot be set up, or there is no TLS for it.
    pub fn new(endpoint: Endpoint, protocol: Protocol) -> Result<Place, String> {
        let quic = match (protocol, &endpoint.tls) {
            (Protocol::Http3, Some((_, tls))) => Some(http3::configuration(Arc::clone(tls))?),
            (Protocol::Http3, None) => return Err("HTTP/3 needs https".to_owned()),
            _ => None,
        };
        Ok(Place { endpoint, protocol, quic })
    }
}

/// A GET as it goes out.
#[derive(Debug, Clone)]
pub struct Request {
    form: Form,
    /// Bytes of the head as HTTP/1.1 writes it, whatever the version: what compression saves is not seen.
    pub head_bytes: u64,
}

#[derive(Debug, Clone)]
enum Form {
    Http1(Box<[u8]>),
    Http2(Box<http::Request<()>>),
    Http3(bytes::Bytes),
}

impl Request {
    /// A GET of this URL; `authority` takes the place of the URL's.
    ///
    /// # Errors
    /// When the version cannot carry it.
    pub fn get(
        protocol: Protocol,
        url: &Url,
        authority: &str,
        fields: &Fields,
    ) -> Result<Request, String> {
        let mut http1 = Vec::new();
        encode_request(&Method::Get, &url.target, authority, fields, &mut http1)
            .map_err(|error| error.to_string())?;
        let head_bytes = http1.len() as u64;
        let form = match protocol {
            Protocol::Http1 => Form::Http1(http1.into_boxed_slice()),
            Protocol::Http2 => {
                Form::Http2(Box::new(http2::request(url.scheme, authority, &url.target, fields)?))
            }
            Protocol::Http3 => {
                let (mut out, scheme) = (Vec::new(), Scheme::Https);
                let target = &url.target;
                tidegate_http3::encode_request(
                    &Method::Get,
                    scheme,
                    authority,
                    target,
                    fields,
                    &mut out,
                )
                .map_err(|error| error.what().to_owned())?;
                Form::Http3(out.into())
            }
        };
        Ok(Request { form, head_bytes })
    }
}

/// Connections to one place. HTTP/1.1 has one at a time, with one request on it; the others have one that all
/// users of the channel share.
#[derive(Debug)]
pub struct Channel {
    place: Arc<Place>,
    open: Arc<AtomicU64>,
    idle: RefCell<Option<Own>>,
    shared: Mutex<Option<(Shared, Counted)>>,
    opened_before: Cell<bool>,
}

/// Counted among the open connections while it lives.
#[derive(Debug)]
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn new(open: &Arc<AtomicU64>) -> Counted {
        open.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that carries one request at a time.
#[derive(Debug)]
pub struct Own {
    connection: Connection,
    _counted: Counted,
}

#[derive(Debug, Clone)]
enum Shared {
    Http2(http2::Connection),
    Http3(http3::Connection),
}

/// Whether a connection was opened for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    No,
    First,
    /// In place of an earlier one.
    Again,
}

/// Room for one request.
#[derive(Debug)]
pub enum Stream {
    Http1(Own),
    Http2(http2::Stream),
    Http3(Box<http3::Stream>),
}

impl Channel {
    /// `open` counts the connections of this and other channels.
    pub fn new(place: Arc<Place>, open: &Arc<AtomicU64>) -> Channel {
        Channel {
            place,
            open: Arc::clone(open),
            idle: RefCell::new(None),
            shared: Mutex::new(None),
            opened_before: Cell::new(false),
        }
    }

    /// Room for one request, if there is some without a wait: it mostly is, and costs less so.
    pub fn ready(&self) -> Option<Stream> {
        if self.place.protocol == Protocol::Http1 {
            let mut idle = self.idle.borrow_mut().take()?;
            return (!idle.connection.is_stale()).then_some(Stream::Http1(idle));
        }
        match self.shared.try_lock().ok()?.as_ref()? {
            (Shared::Http2(connection), _) if connection.is_usable() => {
                connection.ready().map(Stream::Http2)
            }
            _ => None,
        }
    }

    /// Waits for room for one request. The caller bounds the wait.
    ///
    /// # Errors
    /// Those of the network, of TLS and of QUIC.
    pub async fn stream(&self) -> io::Result<(Stream, Opened)> {
        if self.place.protocol == Protocol::Http1 {
            let idle = self.idle.borrow_mut().take();
            if let Some(mut idle) = idle
                && !idle.connection.is_stale()
            {
                return Ok((Stream::Http1(idle), Opened::No));
            }
            let connection = Connection::open(&self.place.endpoint).await?;
            let own = Own { connection, _counted: Counted::new(&self.open) };
            return Ok((Stream::Http1(own), self.opened()));
        }
        let mut opened = Opened::No;
        loop {
            let shared = {
                // One opens, all who share it wait for that one.
                let mut shared = self.shared.lock().await;
                match shared.as_ref().filter(|(shared, _)| shared.is_usable()) {
                    Some((usable, _)) => usable.clone(),
                    None => {
                        let new = Shared::open(&self.place).await?;
                        opened = self.opened();
                        *shared = Some((new.clone(), Counted::new(&self.open)));
                        new
                    }
                }
            };
            match shared.stream().await {
                Ok(stream) => return Ok((stream, opened)),
                // It ended since it was looked at; one that was only just opened ends the search.
                Err(_) if opened == Opened::No => {
                    let mut held = self.shared.lock().await;
                    if held.as_ref().is_some_and(|(held, _)| held.is_same(&shared)) {
                        *held = None;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn opened(&self) -> Opened {
        if self.opened_before.replace(true) { Opened::Again } else { Opened::First }
    }

    /// Takes back what can carry another request.
    pub fn give_back(&self, stream: Stream) {
        if let Stream::Http1(own) = stream {
            *self.idle.borrow_mut() = Some(own);
        }
    }

    /// Says goodbye where the version has a word for it. Others may not wait for a stream meanwhile.
    pub async fn close(&self) {
        if let Ok(mut shared) = self.shared.try_lock()
            && let Some((Shared::Http3(connection), _counted)) = shared.take()
        {
            connection.close().await;
        }
    }
}

impl Shared {
    async fn open(place: &Place) -> io::Result<Shared> {
        Ok(match place.protocol {
            Protocol::Http3 => Shared::Http3(http3::Connection::open(place).await?),
            _ => Shared::Http2(http2::Connection::open(&place.endpoint).await?),
        })
    }

    fn is_usable(&self) -> bool {
        match self {
            Shared::Http2(connection) => connection.is_usable(),
            Shared::Http3(connection) => connection.is_usable(),
        }
    }

    fn is_same(&self, other: &Shared) -> bool {
        match (self, other) {
            (Shared::Http2(a), Shared::Http2(b)) => a.is_same(b),
            (Shared::Http3(a), Shared::Http3(b)) => a.is_same(b),
            _ => false,
        }
    }

    async fn stream(&self) -> io::Result<Stream> {
        Ok(match self {
            Shared::Http2(connection) => Stream::Http2(connection.stream().await?),
            Shared::Http3(connection) => Stream::Http3(Box::new(connection.stream().await?)),
        })
    }
}

impl Stream {
    /// Sends one request and reads its answer; the body is shown to `watch` and not kept.
    ///
    /// # Errors
    /// When there is no whole answer; the stream is of no more use then.
    pub async fn exchange(
        &mut self,
        request: &Request,
        scratch: &RefCell<Vec<u8>>,
        watch: &mut impl Watch,
    ) -> Result<Answer, Failure> {
        match (self, &request.form) {
            (Stream::Http1(own), Form::Http1(bytes)) => {
                own.connection.exchange(bytes, scratch, watch).await
            }
            (Stream::Http2(stream), Form::Http2(request)) => stream.exchange(request, watch).await,
            (Stream::Http3(stream), Form::Http3(headers)) => {
                stream.exchange(headers.clone(), watch).await
            }
            _ => {
                debug_assert!(false, "requests are made for the version of their place");
                let error = io::Error::other("the request is of another version");
                Err(Failure::ClosedEarly(Some(error)))
            }
        }
    }
}

/// The `Cache-Status` field, all lines of it.
fn cache_status(fields: &Fields) -> Option<bytes::Bytes> {
    fields.combined("cache-status").map(|all| bytes::Bytes::from(all.into_owned()))
}
