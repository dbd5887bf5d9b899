//! HTTP/2 to clients (RFC 9113): frames, HPACK and flow control by the `h2` crate, over our own TLS and sockets. Each stream becomes
//! one transaction, the same as on HTTP/1.1.
//!
//! ```text
//! socket, TLS (fill::Duplex) <-> Io <-> h2::server::Connection <-> one task for each stream: head -> transaction -> Answer
//! h2/meter.rs   frames that cost us and bring nothing: how many are borne; PRIORITY_UPDATE, which h2 passes over
//! h2/turns.rs   which stream may write next (RFC 9218)
//! ```
//! h2 writes frame by frame; what it writes is sealed and gathered, and leaves when it has nothing more to write.
//!
//! Must stay true: a request becomes the bytes of an HTTP/1.1 head and is judged as such, so that nothing passes here
//! that would be refused there; what a connection can make us do without asking for anything is bounded in frames, what
//! it can make us hold in streams and bytes; an answer that breaks off is a reset, never a short body that looks whole.

mod meter;
mod turns;

use crate::callers::Call;
use crate::drain::Drain;
use crate::head::{HeadText, Refused, each_field};
use crate::tls::protection;
use crate::urgency::Urgency;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use meter::FrameMeter;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tidegate_engine::client::{BodyLength, SEND_STALL_MAX, set_manner_of};
use tidegate_engine::memory::CLIENT_H2_BYTES;
use tidegate_engine::min_rate::MinRate;
use tidegate_engine::pace::{Burst, Manner, Pace, Paces};
use tidegate_engine::session::{
    BODY_SPAN_MAX, OpenConnection, PASSED_BODY_BYTES_MAX, serve_stream,
};
use tidegate_engine::{Core, Face, HeadFields, Outlet, Protection};
use tidegate_fill::{Duplex, TlsStream};
use tidegate_http::Method;
use tidegate_ring::{Sleep, TcpStream, now, sleep, started, timeout};
use tidegate_tls::Server;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turns::Turns;

/// Streams of one connection at once.
const STREAMS_MAX: u32 = 100;
/// Of one stream, waiting in h2 for its turn on the wire.
const STREAM_BUFFER_BYTES: usize = 128 << 10;
/// Of a connection, in the kernel and not yet sent. With less, most answers would find the socket full, and each time copy
/// what it did not take; that costs resident memory (`tests/e2e/tests/h2/main.rs`).
const UNSENT_BYTES_MAX: u32 = 512 << 10;
/// Body of one DATA frame: with its header it fills one TLS record (RFC 8446 §5.1).
const FRAME_BYTES: usize = (16 << 10) - 9;
/// Decoded fields of one request, at 32 bytes on top for each (RFC 9113 §10.5.1).
const FIELDS_BYTES_MAX: u32 = 32 << 10;
/// Streams that a client opened and reset before they were looked at (rapid reset, CVE-2023-44487).
const RESET_UNSEEN_MAX: usize = 20;
/// Streams that we had to reset because of what the client sent on them (CVE-2025-8671).
const RESET_BY_US_MAX: usize = 100;
/// Preface and settings.
const BEGIN_SPAN_MAX: Duration = Duration::from_secs(10);
/// From a head's first frame to the end of its last.
const HEAD_SPAN_MAX: Duration = Duration::from_secs(10);
/// Without a stream.
const IDLE_SPAN_MAX: Duration = Duration::from_secs(60);
/// For the goodbye.
const CLOSE_SPAN_MAX: Duration = Duration::from_secs(5);

type Connection = h2::server::Connection<Io, Bytes>;

/// Serves one connection to its end.
pub async fn serve(
    core: Rc<Core>,
    drain: Rc<Drain>,
    stream: TlsStream<Server>,
    peer: SocketAddr,
    face: Face,
    call: Call,
) {
    let secured = protection(stream.session());
    let duplex = Duplex::new(stream, SEND_STALL_MAX);
    let tcp = duplex.tcp().clone();
    // What the kernel holds has had its turn: little of it, so that what is urgent later need not wait behind it.
    let _longer_queue = tcp.set_unsent_max(UNSENT_BYTES_MAX);
    let wire = Rc::new(Wire {
        protection: secured,
        duplex: RefCell::new(duplex),
        meter: RefCell::new(FrameMeter::default()),
        turns: Turns::default(),
        paces: RefCell::default(),
        urgencies: RefCell::default(),
        tcp,
        bodies: Cell::new(0),
    });
    let _open = OpenConnection::count(&core, CLIENT_H2_BYTES);
    // In a box of its own, as large as it is.
    let flooded = Box::pin(converse(&core, &drain, &wire, peer, face)).await;
    if flooded {
        core.count(|c| &c.floods_total, 1);
        call.was_flood(&core.node.view.load().me.machine.client_limits, now());
    }
}

/// `true`: it had to be ended as a flood.
async fn converse(
    core: &Rc<Core>,
    drain: &Drain,
    wire: &Rc<Wire>,
    peer: SocketAddr,
    face: Face,
) -> bool {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(FIELDS_BYTES_MAX)
        .max_send_buffer_size(STREAM_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(Some(RESET_BY_US_MAX));
    let mut begin = pin!(builder.handshake::<_, Bytes>(Io(wire.clone())));
    let begun = timeout(BEGIN_SPAN_MAX, wire.drive(|cx| begin.as_mut().poll(cx))).await;
    let Ok(Ok(Ok(mut connection))) = begun else {
        core.count(|c| &c.requests_refused_total, 1);
        return false;
    };
    let live = Rc::new(());
    let mut draining = pin!(drain.begun());
    // After the goodbye, what the client asked for before it heard of it is answered still (RFC 9113 §6.8).
    let mut is_leaving = false;
    let mut flooded = false;
    let mut head_timer = None;
    loop {
        let next = wire.drive(|cx| {
            if !wire.is_bearable() {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(Next::Over);
            }
            if !is_leaving && draining.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::Leave);
            }
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() && wire.head_is_late(cx, &mut head_timer) {
                core.count(|c| &c.deadlines_missed_total, 1);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(Next::Over);
            }
            accepted.map(|accepted| match accepted {
                Some(Ok((request, respond))) => Next::Stream(Box::new((request, respond))),
                Some(Err(error)) if is_flood(&error) => Next::Flood,
                Some(Err(_)) | None => Next::Over,
            })
        });
        match timeout(IDLE_SPAN_MAX, next).await {
            Ok(Ok(Next::Stream(stream))) => {
                let (request, respond) = *stream;
                spawn_stream(core, wire, peer, face, request, respond, live.clone());
            }
            Ok(Ok(Next::Flood)) => {
                flooded = true;
                break;
            }
            Ok(Ok(Next::Over)) | Ok(Err(_)) => break,
            Err(_) if Rc::strong_count(&live) > 1 => {}
            Err(_) if is_leaving => break,
            // It stops, or the client has been idle for too long.
            Ok(Ok(Next::Leave)) | Err(_) => {
                is_leaving = true;
                connection.graceful_shutdown();
            }
        }
    }
    goodbye(wire, connection).await;
    flooded || !wire.is_bearable()
}

/// Whether h2 had enough of resets, CONTINUATION frames and the like.
fn is_flood(error: &h2::Error) -> bool {
    error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
}

enum Next {
    Stream(Box<(Request<RecvStream>, SendResponse<Bytes>)>),
    Leave,
    Flood,
    Over,
}

/// What is due is sent, and the session closed; a client that takes nothing any more is not waited for.
async fn goodbye(wire: &Rc<Wire>, mut connection: Connection) {
    let end = async {
        let _said = wire.drive(|cx| connection.poll_closed(cx)).await;
        let _closed = poll_fn(|cx| wire.duplex.borrow_mut().poll_close(cx)).await;
    };
    let _closed_or_late = timeout(CLOSE_SPAN_MAX, end).await;
}

/// What the connection's task and its streams share.
struct Wire {
    protection: Protection,
    duplex: RefCell<Duplex<Server>>,
    meter: RefCell<FrameMeter>,
    turns: Turns,
    paces: RefCell<Paces>,
    /// Said by PRIORITY_UPDATE, of streams that are under way or still to come.
    urgencies: RefCell<BTreeMap<u32, Urgency>>,
    tcp: Rc<TcpStream>,
    /// Bytes of bodies that the client's windows took.
    bodies: Cell<u64>,
}

impl Wire {
    /// Polls, and sends what came of it. An error: the connection is of no more use.
    async fn drive<T>(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> io::Result<T> {
        poll_fn(|cx| {
            let polled = poll(cx);
            let mut duplex = self.duplex.borrow_mut();
            if let Poll::Ready(Err(error)) = duplex.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            if !duplex.is_blocked() {
                self.turns.all_is_written();
            }
            polled.map(Ok)
        })
        .await
    }

    /// What the client says of streams beside their requests counts before what it said with them (RFC 9218 §7).
    fn hear_priorities(&self) {
        for (stream, urgency) in self.meter.borrow_mut().take_updates() {
            let mut urgencies = self.urgencies.borrow_mut();
            urgencies.insert(stream, urgency);
            if urgencies.len() > STREAMS_MAX as usize {
                urgencies.pop_first(); // over, most likely
            }
            drop(urgencies);
            self.turns.changed(stream);
        }
    }

    /// Whether a head has been under way for too long; if one is under way, the task is woken when it has.
    fn head_is_late(&self, cx: &mut Context<'_>, timer: &mut Option<(Duration, Sleep)>) -> bool {
        let Some(since) = self.meter.borrow().head_since() else {
            *timer = None;
            return false;
        };
        let (_, sleep) = match timer {
            Some(armed) if armed.0 == since => armed,
            _ => timer.insert((since, sleep(HEAD_SPAN_MAX))),
        };
        Pin::new(sleep).poll(cx).is_ready()
    }

    fn is_bearable(&self) -> bool {
        self.meter.borrow().is_bearable()
    }
}

/// The connection as h2 wants it.
struct Io(Rc<Wire>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &self.0;
        let mut duplex = wire.duplex.borrow_mut();
        let come = ready!(duplex.poll_read(cx))?;
        let n = come.len().min(into.remaining());
        let elapsed = now().saturating_duration_since(started().0);
        wire.meter.borrow_mut().take(elapsed, &come[..n]);
        into.put_slice(&come[..n]);
        duplex.take(n);
        wire.hear_priorities();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        const PIECES_MAX: usize = 8;
        let mut slices = [&[][..]; PIECES_MAX];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = piece;
        }
        let wire = &self.0;
        let n = ready!(wire.duplex.borrow_mut().poll_write(cx, &slices))?;
        wire.turns.written(n);
        wire.meter.borrow_mut().sent(n);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// h2 flushes after each frame; what was gathered leaves when it has written all (see [`Wire::drive`]).
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.duplex.borrow_mut().poll_flush(cx)
    }
}

fn spawn_stream(
    core: &Rc<Core>,
    wire: &Rc<Wire>,
    peer: SocketAddr,
    face: Face,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    live: Rc<()>,
) {
    let (serving, wire) = (core.clone(), wire.clone());
    core.spawn(async move {
        let _live = live;
        let (parts, mut body) = request.into_parts();
        let head_only = parts.method == http::Method::HEAD;
        let priority = parts.headers.get("priority").map(HeaderValue::as_bytes);
        let says_priority = priority.is_some();
        let urgency = Urgency::parse(priority.unwrap_or_default());
        let id = respond.stream_id().into();
        let mut answer = Answer {
            respond,
            stream: None,
            head: None,
            left: None,
            min_rate: MinRate::default(),
            wire,
            urgency,
            says_priority,
            burst: Burst::of(&Pace::default()),
            id,
            over: false,
        };
        let head = read_head(&parts);
        let body = match &head {
            Ok(head) => read_body(&head.method, &mut body).await,
            Err(_) => Ok(Vec::new()),
        };
        let exchange = head.and_then(|head| Ok((head, body?)));
        serve_stream(&serving, &mut answer, peer, face, head_only, exchange).await;
    });
}

/// The request's head, judged as one of HTTP/1.1 (RFC 9113 §8.3).
fn read_head(parts: &http::request::Parts) -> Result<tidegate_http::RequestHead, Refused> {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let mut hosts = parts.headers.get_all("host").iter().map(HeaderValue::as_bytes);
    let (host, None) = (hosts.next(), hosts.next()) else {
        return Err((400, "more than one Host"));
    };
    let authority = match (authority, host) {
        (Some(authority), Some(host)) if !authority.as_bytes().eq_ignore_ascii_case(host) => {
            return Err((400, "Host and :authority name two hosts"));
        }
        (Some(authority), _) => authority.as_bytes(),
        (None, Some(host)) => host,
        (None, None) => return Err((400, "neither Host nor :authority says which host is meant")),
    };
    let target = parts.uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
    if !target.starts_with('/') && (target != "*" || parts.method != http::Method::OPTIONS) {
        return Err((400, ":path does not begin with a slash"));
    }
    let mut text = HeadText::new(parts.method.as_str().as_bytes(), target.as_bytes(), authority);
    for name in parts.headers.keys() {
        let values = parts.headers.get_all(name).iter().map(HeaderValue::as_bytes);
        if name == http::header::COOKIE {
            text.field(name.as_str(), &values.collect::<Vec<_>>());
            continue;
        }
        values.for_each(|value| text.field(name.as_str(), &[value]));
    }
    text.judge()
}

/// The request's body: needed for methods that pass one on, dropped for the others.
async fn read_body(method: &Method, body: &mut RecvStream) -> Result<Vec<u8>, (u16, &'static str)> {
    if body.is_end_stream() {
        return Ok(Vec::new());
    }
    let wanted = !matches!(method, Method::Get | Method::Head | Method::Options);
    let reading = async {
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|_| (400, "the request body broke off"))?;
            if whole.len() + data.len() > PASSED_BODY_BYTES_MAX {
                return Err((413, "the request body is too large"));
            }
            let _ended = body.flow_control().release_capacity(data.len());
            if wanted {
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole)
    };
    match timeout(BODY_SPAN_MAX, reading).await {
        Ok(body) => body,
        Err(_) => Err((408, "the request body did not come in time")),
    }
}

/// The answer on one stream.
struct Answer {
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    head: Option<Response<()>>,
    /// Body bytes still to come, if the head says how many: the last of them end the stream.
    left: Option<u64>,
    min_rate: MinRate,
    wire: Rc<Wire>,
    urgency: Urgency,
    /// By the client itself.
    says_priority: bool,
    burst: Burst,
    id: u32,
    /// The stream has its end, of whatever kind.
    over: bool,
}

impl Answer {
    /// Sends the head if it waits; with `end` nothing follows it.
    fn send_head(&mut self, end: bool) -> io::Result<()> {
        if let Some(head) = self.head.take() {
            self.over |= end;
            self.stream = Some(self.respond.send_response(head, end).map_err(io::Error::other)?);
        }
        Ok(())
    }
}

impl Outlet for Answer {
    fn head(&mut self, status: u16, fields: HeadFields<'_>, length: BodyLength) {
        let mut head = Response::new(());
        // Statuses come from parsed answers and from our own: three digits.
        *head.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let headers = head.headers_mut();
        each_field(fields, |name, value| {
            let name = HeaderName::from_bytes(name);
            // Both were good fields of HTTP/1.1; what is not one of HTTP/2 is left out.
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        });
        if let BodyLength::Known(length) = length {
            self.left = Some(length);
            headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.head = Some(head);
    }

    fn set_manner(&mut self, manner: &Manner) -> io::Result<()> {
        if !self.says_priority {
            self.urgency = self.urgency.raised(manner.need);
        }
        self.burst = Burst::of(&manner.pace);
        let rate = self.wire.paces.borrow_mut().begin(self.id.into(), manner.pace);
        set_manner_of(&self.wire.tcp, manner, rate)
    }

    async fn body(&mut self, bytes: &Bytes) -> io::Result<()> {
        self.send_head(false)?;
        let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len().min(FRAME_BYTES));
            let (begun, before) = (now(), self.wire.bodies.get());
            let capacity = poll_fn(|cx| stream.poll_capacity(cx));
            let granted = match timeout(SEND_STALL_MAX, capacity).await {
                Ok(Some(Ok(granted))) => granted,
                Ok(Some(Err(error))) => return Err(io::Error::other(error)),
                Ok(None) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            let piece = rest.split_to(granted.min(rest.len()).min(FRAME_BYTES));
            self.wire.bodies.set(self.wire.bodies.get() + piece.len() as u64);
            let taken = self.wire.bodies.get() - before;
            self.min_rate.after(now().saturating_duration_since(begun), taken)?;
            if piece.is_empty() {
                continue;
            }
            // To a frame.
            if self.burst.take(piece.len()).is_none() {
                let rate = self.wire.paces.borrow_mut().bind(self.id.into());
                self.wire.tcp.set_pace(rate)?;
            }
            let told = || self.wire.urgencies.borrow().get(&self.id).copied();
            let urgency = || told().unwrap_or(self.urgency);
            self.wire.turns.wait(urgency, self.id, piece.len()).await;
            self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
            self.over = self.left == Some(0);
            stream.send_data(piece, self.over).map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn finish(&mut self, complete: bool) -> io::Result<()> {
        if !complete {
            self.abort();
            return Ok(());
        }
        self.send_head(true)?;
        if let (false, Some(stream)) = (self.over, &mut self.stream) {
            self.over = true;
            stream.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn abort(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        match &mut self.stream {
            Some(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    fn protection(&self) -> Protection {
        self.wire.protection
    }

    fn protocol(&self) -> &'static str {
        "HTTP/2"
    }
}

impl Drop for Answer {
    /// A transaction that ended without an answer (it panicked) is no answer.
    fn drop(&mut self) {
        self.abort();
        self.wire.urgencies.borrow_mut().remove(&self.id);
        let rate = self.wire.paces.borrow_mut().end(self.id.into());
        let _gone = self.wire.tcp.set_pace(rate);
    }
}
