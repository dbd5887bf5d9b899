//! HTTP/3 to viewers (RFC 9114): QUIC by `quinn-proto` on our own sockets, frames and fields by `tidegate_http3`. Each request
//! stream becomes one transaction, the same as on HTTP/1.1.
//!
//! ```text
//! UDP socket <-> h3/endpoint.rs <-> h3/connection.rs <-> one task for each stream: head -> transaction -> h3/answer.rs
//! h3/handshake.rs TLS; h3/bucket.rs how fast its packets may leave; h3/congestion.rs how it finds out what the path takes
//! h3/unsent.rs    what was written and has not left yet
//! h3/post.rs      connection ids that name their process and core, and datagrams handed from one to the other
//! ```
//!
//! Must stay true: what a client can make us hold is bounded by the limits here, and counted against the memory budget; what
//! it can make us do without asking for anything, by the streams that it gave up; an answer that breaks off is a reset,
//! never a short body that looks whole; a client that breaks a rule ends its stream or its connection and no other.

mod answer;
mod bucket;
mod congestion;
mod connection;
mod endpoint;
mod handshake;
mod post;
mod unsent;

pub use endpoint::{Endpoint, EndpointParts};
pub use handshake::QuicTls;
pub use post::{Elder, Post, read_letters};

use crate::callers::Call;
use crate::core::let_in;
use crate::head::{self, Refused};
use crate::urgency::Urgency;
use answer::Answer;
use aws_lc_rs::{hkdf, hmac};
use bytes::Bytes;
use congestion::Switchable;
use connection::{Connection, Ended, Opened};
use quinn_proto::{
    IdleTimeout, MtuDiscoveryConfig, ServerConfig, StreamId, TransportConfig, VarInt,
};
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tidegate_engine::client::SEND_STALL_MAX;
use tidegate_engine::memory::{Held, STREAM_BYTES};
use tidegate_engine::min_rate::BodyWait;
use tidegate_engine::session::{OpenConnection, PASSED_BODY_BYTES_MAX, serve_stream};
use tidegate_engine::transaction::Exchange;
use tidegate_engine::{Core, Outlet};
use tidegate_http::{Fields, Method, RequestHead};
use tidegate_http3::{
    Code, Connection as Rules, Error, Limits, ParsedRequest, RequestEvent, RequestReader, Side,
    Uni, UniStream, encode_response,
};
use tidegate_ring::{now, sleep, timeout};

/// Requests of one connection at once ...
const STREAMS_MAX: u32 = 100;
/// ... of which so many are allowed at first, and all of them to who has half of these under way: the library keeps tables of all
/// streams that a client may open, and most clients open a few. Its tables double at 57, and a little before.
const STREAMS_FIRST: u32 = 48;
/// Unidirectional streams of a client at once: control, two of QPACK, and some that mean nothing.
const UNI_STREAMS_MAX: u32 = 8;
/// Bytes of one request that wait to be read; of all of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of answers that a connection holds until they have come over.
const SEND_WINDOW_BYTES: u64 = 1 << 20;
/// Bytes of TLS messages that came out of order.
const CRYPTO_BYTES_MAX: usize = 16 << 10;
/// Of one UDP datagram, in both directions: what an Ethernet frame takes over IPv4.
const DATAGRAM_BYTES_MAX: usize = 1472;
/// Handshakes of one socket under way: from the first of these on, clients prove their address (RFC 9000 §8.1.2) ...
const RETRY_FROM: usize = 64;
/// ... and from this on they are turned away.
const HANDSHAKES_MAX: usize = 1024;
/// Streams that a client may give up, or open for nothing, beyond as many as were answered.
const CANCELLED_MAX: u32 = 200;
/// Without a packet.
const SILENT_SPAN_MAX: Duration = Duration::from_secs(30);
/// Without a request.
const IDLE_SPAN_MAX: Duration = Duration::from_secs(60);
const HANDSHAKE_SPAN_MAX: Duration = Duration::from_secs(10);
/// From a request stream's begin to the end of its head.
const HEAD_SPAN_MAX: Duration = Duration::from_secs(10);
/// After GOAWAY, for requests that were sent before it came over: so many round trips, but no longer.
const GOODBYE_TRIPS: u32 = 2;
const GOODBYE_SPAN_MAX: Duration = Duration::from_secs(1);
/// No request of a client has a higher stream id.
const STREAM_ID_LAST: u64 = (1 << 62) - 4;
/// How often a connection that ends looks whether its last packet is out.
const CLOSE_LOOK: Duration = Duration::from_millis(5);
const CLOSE_SPAN_MAX: Duration = Duration::from_secs(1);

/// What processes that follow each other on the same sockets share, so that none contradicts another: from it follow the keys of
/// Retry tokens and of stateless resets.
#[derive(Clone)]
pub struct Secret(pub [u8; SECRET_BYTES]);

pub const SECRET_BYTES: usize = 32;

impl Secret {
    /// The key of stateless resets at an address (RFC 9000 §10.3.2). Each has its own: what is told at one must not end a
    /// connection that lives at another (§21.11).
    pub fn reset_key(&self, address: SocketAddr) -> hmac::Key {
        let resets = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let named = format!("tidegate quic resets at {address}");
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&resets, named.as_bytes()).as_ref())
    }
}

/// What all connections have in common.
pub struct Template {
    server: ServerConfig,
}

pub fn template(tls: &QuicTls, secret: &Secret) -> Template {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX as u16);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_FIRST.into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .mtu_discovery_config(Some(discovery))
        .crypto_buffer_size(CRYPTO_BYTES_MAX)
        .congestion_controller_factory(Arc::new(Switchable))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            SILENT_SPAN_MAX.as_millis() as u32
        ))));
    let salt = |purpose: &[u8]| hkdf::Salt::new(hkdf::HKDF_SHA256, purpose);
    let tokens = salt(b"tidegate quic tokens").extract(&secret.0);
    let mut server = ServerConfig::new(tls.plain(), Arc::new(tokens));
    server.transport_config(Arc::new(transport)).max_incoming(HANDSHAKES_MAX);
    Template { server }
}

/// Serves one connection to its end.
async fn serve(endpoint: Rc<Endpoint>, connection: Rc<Connection>) {
    let core = endpoint.core.clone();
    let session = Session {
        core: core.clone(),
        connection: connection.clone(),
        rules: Rc::new(RefCell::new(Rules::new(Side::Server, Limits::REQUEST))),
        requests: Cell::new(0),
        may_all: Cell::new(false),
        answered: Rc::default(),
        live: Rc::default(),
    };
    let begun = timeout(HANDSHAKE_SPAN_MAX, session.begin()).await;
    endpoint.handshake_ended();
    if !matches!(begun, Ok(true)) {
        core.count(|c| &c.tls_errors_total, 1);
        return connection.close(Code::NO_ERROR, "the handshake did not end well");
    }
    core.count(|c| &c.tls_handshakes_total, 1);
    let Ok(call) = let_in(&core, &endpoint.callers, connection.remote()) else {
        return connection.close(Code::EXCESSIVE_LOAD, "too many connections from this address");
    };
    let _open = OpenConnection::count(&core, 0);
    let call = session.live.get_or_init(|| call);
    Box::pin(session.converse(&endpoint, call)).await;
}

/// One connection's conversation.
struct Session {
    core: Rc<Core>,
    connection: Rc<Connection>,
    rules: Rc<RefCell<Rules>>,
    /// Requests that came.
    requests: Cell<u64>,
    /// It was told that it may have all streams.
    may_all: Cell<bool>,
    answered: Rc<Cell<u32>>,
    /// Shared by the streams under way: until the last of them is over, all is held against the client's address.
    live: Rc<OnceCell<Call>>,
}

enum Next {
    Stream(Opened),
    Drain,
    Flood,
    Over,
}

impl Session {
    /// Until the handshake is over; what is asked for with the client's first flight (0-RTT) is begun before. `false`: it failed.
    async fn begin(&self) -> bool {
        let connection = &self.connection;
        poll_fn(|cx| {
            connection.watch(cx);
            while connection.is_handshaking() {
                match self.poll_next() {
                    Poll::Ready(Next::Stream(Opened::Request(id))) => {
                        self.rules.borrow_mut().request_came();
                        self.spawn_request(id);
                    }
                    Poll::Ready(Next::Stream(Opened::Unidirectional(id))) => self.spawn_uni(id),
                    Poll::Ready(Next::Drain | Next::Flood | Next::Over) => {
                        return Poll::Ready(false);
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(!connection.is_over())
        })
        .await
    }

    async fn converse(&self, endpoint: &Endpoint, call: &Call) {
        let connection = &self.connection;
        let mut preamble = Vec::new();
        self.rules.borrow().preamble(&mut preamble);
        let Some(control) = connection.open() else {
            let what = "a server needs a control stream";
            return connection.close(Code::STREAM_CREATION_ERROR, what);
        };
        if !Box::pin(write_all(connection, control, preamble)).await {
            self.core.count(|c| &c.deadlines_missed_total, 1);
            return connection.close(Code::NO_ERROR, "the control stream is not read");
        }
        let mut draining = pin!(endpoint.drain.begun());
        loop {
            let next = poll_fn(|cx| {
                connection.watch(cx);
                if draining.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Next::Drain);
                }
                self.poll_next()
            });
            match timeout(IDLE_SPAN_MAX, next).await {
                Ok(Next::Stream(Opened::Request(id))) => {
                    self.rules.borrow_mut().request_came();
                    self.spawn_request(id);
                }
                Ok(Next::Stream(Opened::Unidirectional(id))) => self.spawn_uni(id),
                // In a box of its own: a connection that waits holds no room for its end.
                Ok(Next::Drain) => return Box::pin(self.part(endpoint, control)).await,
                Ok(Next::Flood) => {
                    self.core.count(|c| &c.floods_total, 1);
                    let limits = self.core.node.view.load().me.machine.client_limits;
                    call.was_flood(&limits, now());
                    return connection.close(Code::EXCESSIVE_LOAD, "too many streams for nothing");
                }
                Ok(Next::Over) => return,
                Err(_) if Rc::strong_count(&self.live) > 1 => {}
                Err(_) => return connection.close(Code::NO_ERROR, "nothing was asked for"),
            }
        }
    }

    fn poll_next(&self) -> Poll<Next> {
        let connection = &self.connection;
        if connection.is_over() {
            return Poll::Ready(Next::Over);
        }
        if connection.cancelled() > CANCELLED_MAX.saturating_add(self.answered.get()) {
            return Poll::Ready(Next::Flood);
        }
        connection.accept().map_or(Poll::Pending, |opened| Poll::Ready(Next::Stream(opened)))
    }

    /// The client is told which requests are still answered; they are, and then the connection ends.
    async fn part(&self, endpoint: &Endpoint, control: StreamId) {
        let _busy = Under::way(&self.core);
        let connection = &self.connection;
        let mut goaway = Vec::new();
        // First that there will be an end, so that nothing is lost that was asked for before that came over (RFC 9114 §5.2).
        self.rules.borrow_mut().goaway(STREAM_ID_LAST, &mut goaway);
        if !write_all(connection, control, goaway.clone()).await {
            return;
        }
        let trips = (connection.quic.borrow().rtt() * GOODBYE_TRIPS).min(GOODBYE_SPAN_MAX);
        // A process that was replaced has time: it waits until the client has heard, whatever that takes.
        let has_time = endpoint.replaced.is_begun();
        let span = if has_time { GOODBYE_SPAN_MAX } else { trips };
        let mut pause = Box::pin(sleep(span));
        loop {
            let next = poll_fn(|cx| {
                connection.watch(cx);
                // What was asked comes before the end of the pause.
                match self.poll_next() {
                    Poll::Pending => pause.as_mut().poll(cx).map(|()| Next::Drain),
                    next => next,
                }
            });
            match next.await {
                Next::Stream(Opened::Request(id)) => {
                    self.spawn_request(id);
                    if has_time {
                        pause = Box::pin(sleep(span));
                    }
                }
                Next::Stream(Opened::Unidirectional(id)) => self.spawn_uni(id),
                Next::Drain => break,
                Next::Flood | Next::Over => return,
            }
        }
        goaway.clear();
        // Request streams have each fourth number (RFC 9000 §2.1).
        self.rules.borrow_mut().goaway(self.requests.get() * 4, &mut goaway);
        if !write_all(connection, control, goaway).await {
            return;
        }
        let rejecting = async {
            loop {
                let next = poll_fn(|cx| {
                    connection.watch(cx);
                    self.poll_next()
                });
                match next.await {
                    Next::Stream(Opened::Request(id)) => {
                        connection.stop(id, Code::REQUEST_REJECTED);
                        connection.reset(id, Code::REQUEST_REJECTED);
                    }
                    Next::Stream(Opened::Unidirectional(id)) => self.spawn_uni(id),
                    Next::Drain => {}
                    Next::Flood | Next::Over => return,
                }
            }
        };
        let ending = async {
            sleep(trips).await;
            while Rc::strong_count(&self.live) > 1 {
                sleep(CLOSE_LOOK).await;
            }
        };
        let (mut rejecting, mut ending) = (pin!(rejecting), pin!(ending));
        poll_fn(|cx| {
            if rejecting.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            ending.as_mut().poll(cx)
        })
        .await;
        connection.close(Code::NO_ERROR, "");
        let sent = async {
            while connection.queued.get() {
                sleep(CLOSE_LOOK).await;
            }
        };
        let _sent_or_late = timeout(CLOSE_SPAN_MAX, sent).await;
    }

    /// Reads a unidirectional stream as long as it is.
    fn spawn_uni(&self, id: StreamId) {
        let (connection, rules) = (self.connection.clone(), self.rules.clone());
        self.core.spawn(async move {
            let mut stream = UniStream::default();
            loop {
                let outcome = match connection.read(id).await {
                    Ok(Some(bytes)) => rules.borrow_mut().receive(&mut stream, bytes),
                    Ok(None) | Err(Ended::Reset) => match rules.borrow().ended(&stream) {
                        Ok(()) => return connection.was_cancelled(),
                        Err(error) => Err(error),
                    },
                    Err(Ended::Over) => return,
                };
                for update in rules.borrow_mut().take_priority_updates() {
                    connection.reprioritize(update.stream, Urgency::parse(&update.value));
                }
                match outcome {
                    Ok(Uni::Open) => {}
                    Ok(Uni::Unwanted(code)) => {
                        connection.stop(id, code);
                        return connection.was_cancelled();
                    }
                    Err(error) => return connection.close(error.code(), error.what()),
                }
            }
        });
    }

    fn spawn_request(&self, id: StreamId) {
        self.requests.set(self.requests.get() + 1);
        let (core, connection) = (self.core.clone(), self.connection.clone());
        let (answered, live) = (self.answered.clone(), self.live.clone());
        let is_much = Rc::strong_count(&self.live) > STREAMS_FIRST as usize / 2;
        if is_much && !self.may_all.replace(true) {
            connection.allow(STREAMS_MAX);
        }
        let counted = Held::new(&core, STREAM_BYTES);
        self.core.spawn(async move {
            let (_live, _busy, _counted) = (live, Under::way(&core), counted);
            serve_request(&core, &connection, id, &answered).await;
            connection.forget(id);
        });
    }
}

async fn write_all(connection: &Connection, id: StreamId, bytes: Vec<u8>) -> bool {
    let mut pieces = [Bytes::from(bytes)];
    while !pieces[0].is_empty() {
        let written = timeout(SEND_STALL_MAX, connection.write(id, &mut pieces)).await;
        if !matches!(written, Ok(Ok(()))) {
            return false;
        }
    }
    true
}

/// Counts as under way for a core that stops.
struct Under(Rc<Core>);

impl Under {
    fn way(core: &Rc<Core>) -> Under {
        core.busy.set(core.busy.get() + 1);
        Under(core.clone())
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

/// Why a request is not served.
enum Refusal {
    /// It is answered with a status, and the client is asked to send no more.
    Answer(Refused, Code),
    Connection(Error),
    /// The client gave it up.
    Gone,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        match error {
            Error::Stream { code, status, what } => Refusal::Answer((status, what), code),
            Error::Connection { .. } => Refusal::Connection(error),
        }
    }
}

async fn serve_request(
    core: &Rc<Core>,
    connection: &Rc<Connection>,
    id: StreamId,
    answered: &Cell<u32>,
) {
    let mut reading = Reading {
        connection,
        id,
        reader: RequestReader::new(Limits::REQUEST),
        input: Bytes::new(),
        ended: false,
        held: Held::new(core, 0),
    };
    let mut answer = Answer::new(core.clone(), connection.clone(), id);
    let parsed = match timeout(HEAD_SPAN_MAX, reading.head()).await {
        Ok(parsed) => parsed,
        Err(_) => {
            let late = (408, "the request head did not come in time");
            Err(Refusal::Answer(late, Code::REQUEST_INCOMPLETE))
        }
    };
    let mut head_only = false;
    let exchange = match parsed {
        Ok(parsed) => {
            head_only = parsed.head.method == Method::Head;
            answer.prioritize(parsed.head.fields.get("priority"));
            // Who asks for anything but a look at content is waited for: it may be somebody else's recording.
            let only_looks = matches!(parsed.head.method, Method::Get | Method::Head);
            if answer.is_early() && !only_looks && answer.confirm().await.is_err() {
                return answer.give_up();
            }
            reading.body(&parsed).await.and_then(|body| {
                let head = judge(&parsed.head)
                    .map_err(|refused| Refusal::Answer(refused, Code::MESSAGE_ERROR))?;
                Ok((head, body))
            })
        }
        Err(refusal) => Err(refusal),
    };
    let (exchange, code) = match exchange {
        Ok(exchange) => (Ok(exchange), Code::NO_ERROR),
        Err(Refusal::Answer(refused, code)) => (Err(refused), code),
        Err(Refusal::Connection(error)) => {
            core.count(|c| &c.requests_refused_total, 1);
            return connection.close(error.code(), error.what());
        }
        Err(Refusal::Gone) => {
            connection.was_cancelled();
            return answer.give_up();
        }
    };
    let peer = connection.remote();
    let exchange = exchange.map(|(request, body)| Exchange { request, body, from_fleet: false });
    let asked = exchange.as_ref().map_err(|refused| *refused);
    serve_stream(core, &mut answer, peer, head_only, asked).await;
    core.count(|c| &c.lent_answers_total, u64::from(answer.has_lent()));
    if !reading.ended {
        connection.stop(id, code);
    }
    if answer.is_whole() {
        answered.set(answered.get().saturating_add(1));
        let _delivered_or_late = timeout(SEND_STALL_MAX, connection.delivered(id)).await;
    }
}

/// The request's head, judged as one of HTTP/1.1.
fn judge(head: &RequestHead) -> Result<RequestHead, Refused> {
    let target = match &head.query {
        Some(query) => format!("{}?{query}", head.path),
        None => head.path.clone(),
    };
    let authority = head.authority.as_ref().map(ToString::to_string).unwrap_or_default();
    let method = head.method.as_str();
    let lines = || head.fields.iter().map(|(name, value)| (name.as_bytes(), value));
    let (target, authority) = (target.as_bytes(), authority.as_bytes());
    head::judge(method.as_bytes(), target, authority, lines, &mut Vec::with_capacity(512))
}

/// A request that is being read.
struct Reading<'a> {
    connection: &'a Connection,
    id: StreamId,
    reader: RequestReader,
    input: Bytes,
    ended: bool,
    /// Of the body.
    held: Held,
}

impl Reading<'_> {
    async fn next(&mut self) -> Result<Option<RequestEvent>, Refusal> {
        loop {
            if let Some(event) = self.reader.read(&mut self.input)? {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            match self.connection.read(self.id).await {
                Ok(Some(bytes)) => self.input = bytes,
                Ok(None) => {
                    self.ended = true;
                    self.reader.end()?;
                }
                Err(_) => return Err(Refusal::Gone),
            }
        }
    }

    async fn head(&mut self) -> Result<Box<ParsedRequest>, Refusal> {
        match self.next().await? {
            Some(RequestEvent::Head(parsed)) => Ok(parsed),
            // Its reader gives the head first.
            _ => Err(Refusal::Answer((400, "a request without a head"), Code::MESSAGE_ERROR)),
        }
    }

    /// The body: needed for methods that pass one on, dropped for the others.
    async fn body(&mut self, parsed: &ParsedRequest) -> Result<Vec<u8>, Refusal> {
        const TOO_LARGE: Refused = (413, "the request body is too large");
        if parsed.length.is_some_and(|length| length > PASSED_BODY_BYTES_MAX as u64) {
            return Err(Refusal::Answer(TOO_LARGE, Code::NO_ERROR));
        }
        let method = &parsed.head.method;
        let wanted = !matches!(method, Method::Get | Method::Head | Method::Options);
        if parsed.expect_continue && self.input.is_empty() {
            let mut interim = Vec::new();
            encode_response(100, &Fields::new(), &mut interim);
            if !write_all(self.connection, self.id, interim).await {
                return Err(Refusal::Gone);
            }
        }
        let length = |event: &Result<Option<RequestEvent>, Refusal>| match event {
            Ok(Some(RequestEvent::Data(data))) => data.len(),
            _ => 0,
        };
        let (mut whole, mut came) = (Vec::new(), 0);
        let mut wait = BodyWait::default();
        loop {
            let Ok(event) = wait.next(self.next(), length).await else {
                let late = (408, "the request body did not come in time");
                return Err(Refusal::Answer(late, Code::REQUEST_INCOMPLETE));
            };
            // Trailers mean nothing here.
            let data = match event? {
                Some(RequestEvent::Data(data)) => data,
                Some(_) => continue,
                None => return Ok(whole),
            };
            came += data.len();
            if came > PASSED_BODY_BYTES_MAX {
                return Err(Refusal::Answer(TOO_LARGE, Code::NO_ERROR));
            }
            if wanted {
                let full = |refused| Refusal::Answer(refused, Code::NO_ERROR);
                self.held.more(data.len()).map_err(full)?;
                whole.extend_from_slice(&data);
            }
        }
    }
}
