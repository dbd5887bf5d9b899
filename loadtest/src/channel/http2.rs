//! HTTP/2 with the `h2` crate: ALPN over TLS, prior knowledge without.
//!
//! Must stay true: flow control never waits for us: windows are larger than any answer that is under way, and
//! what came is given back at once.

use crate::answer::{Answer, Malformed};
use crate::client::{Endpoint, Failure, Watch};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tidegate_http::{Fields, ResponseHead, Scheme, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes that a server may have under way on one stream.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// And on a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// Streams that are used before the server has said how many it takes (RFC 9113 section 6.5.2 wants 100).
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// An open connection; copies are the same one.
#[derive(Debug, Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    ended: Rc<Cell<bool>>,
}

/// Room for one request on a connection.
#[derive(Debug)]
pub struct Stream {
    sender: SendRequest<Bytes>,
}

impl Connection {
    pub(super) async fn open(endpoint: &Endpoint) -> io::Result<Connection> {
        let stream = TcpStream::connect(endpoint.address).await?;
        stream.set_nodelay(true)?;
        match &endpoint.tls {
            None => Connection::begin(stream).await,
            Some((name, config)) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await?;
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(io::Error::other("the server speaks no HTTP/2 here (ALPN)"));
                }
                Connection::begin(stream).await
            }
        }
    }

    async fn begin(
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> io::Result<Connection> {
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let ended = Rc::new(Cell::new(false));
        let here = Rc::clone(&ended);
        tokio::task::spawn_local(async move {
            // Each stream is told of the error too.
            let _outcome = connection.await;
            here.set(true);
        });
        Ok(Connection { sender, ended })
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.ended.get()
    }

    pub(super) fn is_same(&self, other: &Connection) -> bool {
        Rc::ptr_eq(&self.ended, &other.ended)
    }

    /// Room for a request, if there is some at once.
    pub(super) fn ready(&self) -> Option<Stream> {
        let mut sender = self.sender.clone();
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(()))).then_some(Stream { sender })
    }

    pub(super) async fn stream(&self) -> io::Result<Stream> {
        let sender = self.sender.clone().ready().await.map_err(io::Error::other)?;
        Ok(Stream { sender })
    }
}

impl Stream {
    pub(super) async fn exchange(
        &mut self,
        request: &http::Request<()>,
        watch: &mut impl Watch,
    ) -> Result<Answer, Failure> {
        let early = |error| failure(error, Failure::ClosedEarly);
        let (response, _no_body) =
            self.sender.send_request(request.clone(), true).map_err(early)?;
        let response = response.await.map_err(early)?;
        let (parts, mut body) = response.into_parts();
        let headers = &parts.headers;
        let status = parts.status.as_u16();
        // As HTTP/1.1 would write it.
        let head_bytes: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
        watch.received(head_bytes + "HTTP/1.1 200 \r\n\r\n".len());
        let cache_status = cache_status(headers);
        let length = headers.get("content-length");
        let length = length.and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
        if watch.wants_head() {
            let fields = fields(headers)?;
            watch.head(&ResponseHead { status, version: Version::Http2, fields });
        }
        let mut answer = Answer { status, body_bytes: 0, keep_alive: true, cache_status };
        let short = |error, read| match length {
            // The crate calls it an error of the protocol; it is what a short body is elsewhere.
            Some(length) if read < length => Failure::ShortBody(Some(io::Error::other(error))),
            _ => failure(error, Failure::ShortBody),
        };
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|error| short(error, answer.body_bytes))?;
            let _given_back = body.flow_control().release_capacity(piece.len());
            watch.received(piece.len());
            watch.body(&piece);
            answer.body_bytes += piece.len() as u64;
        }
        let _trailers = body.trailers().await.map_err(|error| short(error, answer.body_bytes))?;
        Ok(answer)
    }
}

/// What the peer broke is a malformed answer; all else is an end that came too early.
fn failure(error: h2::Error, early: impl FnOnce(Option<io::Error>) -> Failure) -> Failure {
    if error.is_library() && !error.is_io() {
        return Failure::Malformed(Malformed::Frames(error.to_string()));
    }
    early(Some(error.into_io().unwrap_or_else(|| io::Error::other("reset by the server"))))
}

fn fields(headers: &http::HeaderMap) -> Result<Fields, Failure> {
    let mut fields = Fields::with_capacity(headers.len());
    for (name, value) in headers {
        fields
            .append_parsed(name.as_str().as_bytes(), Bytes::copy_from_slice(value.as_bytes()))
            .map_err(|error| Failure::Malformed(Malformed::Frames(error.to_string())))?;
    }
    Ok(fields)
}

/// The `Cache-Status` field, all lines of it.
fn cache_status(headers: &http::HeaderMap) -> Option<Bytes> {
    let lines = headers.get_all("cache-status").iter().map(http::HeaderValue::as_bytes);
    let joined = lines.collect::<Vec<_>>().join(&b", "[..]);
    (!joined.is_empty()).then(|| joined.into())
}

/// A GET in the form that the crate takes.
pub(super) fn request(
    scheme: Scheme,
    authority: &str,
    target: &str,
    fields: &Fields,
) -> Result<http::Request<()>, String> {
    let uri = http::Uri::builder()
        .scheme(scheme.as_str())
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|error| error.to_string())?;
    let mut request = http::Request::get(uri).version(http::Version::HTTP_2);
    for (name, value) in fields.iter() {
        // RFC 9113 section 8.2.2.
        let of_one_connection = ["connection", "keep-alive", "proxy-connection", "upgrade", "te"];
        if name != "host" && !of_one_connection.contains(&name) {
            request = request.header(name, value);
        }
    }
    request.body(()).map_err(|error| error.to_string())
}
