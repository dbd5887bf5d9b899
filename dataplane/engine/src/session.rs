//! A client connection: one request after the other, until either side has had enough.
//!
//! Must stay true: bytes that follow a refused request are never taken for another one (the connection closes);
//! what is buffered is bounded by the head limit and one received piece; a silent client is let go.

use crate::client::{Client, Http1, Outlet, Transport};
use crate::memory::Held;
use crate::min_rate::BodyWait;
use crate::node::Core;
use crate::steps::synth;
use crate::transaction::{self, Exchange};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidegate_http::{Fields, Method, Version};
use tidegate_http1::{BodyFraming, ChunkedDecoder, Limits, ParsedRequest, RequestParser};
use tidegate_ring::timeout;

/// From the first byte of a request head to its last.
const HEAD_SPAN_MAX: Duration = Duration::from_secs(10);
/// Between requests.
const IDLE_SPAN_MAX: Duration = Duration::from_secs(60);
/// The next request comes soon, or the connection waits without the room for it.
const SOON_SPAN: Duration = Duration::from_secs(1);
/// For the last bytes of a connection that ends.
const CLOSE_SPAN_MAX: Duration = Duration::from_secs(5);
/// A request body that nobody wants is read away up to this size; beyond it the connection closes.
const UNWANTED_BODY_BYTES_MAX: usize = 64 * 1024;
/// A request body that is passed on is held in memory up to this size; beyond it: 413.
pub const PASSED_BODY_BYTES_MAX: usize = 1 << 20;

/// What answers the requests of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Viewers, and child tiers that have not proved who they are.
    Traffic,
    /// Servers of the fleet that have.
    Fleet,
    /// Operators: health, metrics, explain.
    Admin,
}

/// What a connection holds from one request to the next.
struct Session<T: Transport> {
    transport: T,
    peer: SocketAddr,
    face: Face,
    parser: RequestParser,
    buffer: Vec<u8>,
    has_lower: bool,
}

/// Serves one connection to its end.
pub async fn serve<T: Transport>(core: Rc<Core>, transport: T, peer: SocketAddr, face: Face) {
    let _open = OpenConnection::count(&core, 0);
    let parser = RequestParser::new(Limits::REQUEST);
    let (buffer, has_lower) = (Vec::new(), false);
    let mut session = Session { transport, peer, face, parser, buffer, has_lower };
    loop {
        match timeout(IDLE_SPAN_MAX, session.transport.receive(&mut session.buffer)).await {
            Ok(Ok(n)) if n > 0 => {}
            _ => break,
        }
        // In a box of its own: a connection that waits holds no room for a request, and one that is used gets it once.
        if !Box::pin(serve_run(&core, &mut session)).await {
            break;
        }
    }
    // A client that takes nothing any more is not waited for.
    let _closed_or_late = timeout(CLOSE_SPAN_MAX, session.transport.close()).await;
}

/// One request after the other, of which the first has begun to come, as long as they come soon. `false`: the connection is of no
/// more use.
async fn serve_run<T: Transport>(core: &Rc<Core>, session: &mut Session<T>) -> bool {
    loop {
        let parsed = match timeout(HEAD_SPAN_MAX, next_head(session)).await {
            Ok(Next::Head(parsed)) => *parsed,
            Ok(Next::Refused { status, what }) => return refuse(core, session, status, what).await,
            // What came was not for us but for the session that carries it.
            Err(_) if session.buffer.is_empty() => return false,
            Err(_) => {
                let what = "the request head did not come in time";
                return refuse(core, session, 408, what).await;
            }
            Ok(Next::Closed) => return false,
        };
        session.buffer.drain(..parsed.head_bytes);
        if !exchange(core, session, parsed).await {
            return false;
        }
        if session.buffer.is_empty() {
            session.buffer = Vec::new();
            if timeout(SOON_SPAN, session.transport.tcp().arrived()).await.is_err() {
                return true;
            }
        }
    }
}

/// Always `false`.
async fn refuse<T: Transport>(
    core: &Rc<Core>,
    session: &mut Session<T>,
    status: u16,
    what: &'static str,
) -> bool {
    count_refused(core, status);
    let peer = session.peer;
    let mut outlet = Http1::new(&mut session.transport, false, Version::Http11, false);
    let mut client = Client::new(&mut outlet, peer, false);
    let _gone = Box::pin(synth::answer(&mut client, status, what, Fields::new())).await;
    false
}

/// One request and its answer. `false`: the connection is of no more use.
async fn exchange<T: Transport>(
    core: &Rc<Core>,
    session: &mut Session<T>,
    parsed: ParsedRequest,
) -> bool {
    let Session { transport, peer, face, buffer, has_lower, .. } = session;
    let (peer, face) = (*peer, *face);
    let _busy = Busy::new(core);
    let head_only = parsed.head.method == Method::Head;
    // Who asks for anything but a look at content is waited for.
    let only_looks = matches!(parsed.head.method, Method::Get | Method::Head)
        && parsed.body == BodyFraming::None
        && face == Face::Traffic;
    if transport.is_early() && !only_looks && transport.confirm().await.is_err() {
        return false;
    }
    let keep_alive = parsed.keep_alive && !core.node.draining.load(Ordering::Relaxed);
    let mut outlet = Http1::new(transport, head_only, parsed.head.version, keep_alive);
    outlet.has_lower = *has_lower;
    let mut body_held = Held::new(core, 0);
    let body = match parsed.body {
        BodyFraming::None => Ok(Vec::new()),
        _ => Box::pin(read_body(&mut outlet, buffer, &parsed, &mut body_held)).await,
    };
    let mut client = Client::new(&mut outlet, peer, head_only);
    let body = match body {
        Ok(body) => body,
        Err((status, what)) => {
            count_refused(core, status);
            let _gone = Box::pin(synth::answer(&mut client, status, what, Fields::new())).await;
            return false;
        }
    };
    let from_fleet = face == Face::Fleet;
    let exchange = Exchange { request: parsed.head, body, from_fleet };
    match face {
        Face::Traffic | Face::Fleet => transaction::run(core, &mut client, &exchange).await,
        Face::Admin => Box::pin(crate::admin::run(core, &mut client, exchange)).await,
    }
    count_late(core, &client);
    core.count(|c| &c.lent_answers_total, u64::from(outlet.lent));
    *has_lower = outlet.has_lower;
    outlet.keep_alive
}

/// One request and its answer on a stream of its own (HTTP/2, HTTP/3); `exchange` may be why it is refused: status and text.
pub async fn serve_stream<O: Outlet>(
    core: &Rc<Core>,
    outlet: &mut O,
    peer: SocketAddr,
    head_only: bool,
    exchange: Result<&Exchange, (u16, &'static str)>,
) {
    let _busy = Busy::new(core);
    let mut client = Client::new(outlet, peer, head_only);
    match exchange {
        Ok(exchange) => transaction::run(core, &mut client, exchange).await,
        Err((status, what)) => {
            count_refused(core, status);
            let _gone = synth::answer(&mut client, status, what, Fields::new()).await;
        }
    }
    count_late(core, &client);
}

/// A request that is not served.
fn count_refused(core: &Core, status: u16) {
    core.count(|c| &c.requests_refused_total, 1);
    core.count(|c| &c.deadlines_missed_total, u64::from(status == 408));
}

fn count_late<O: Outlet>(core: &Core, client: &Client<'_, O>) {
    core.count(|c| &c.deadlines_missed_total, u64::from(client.late));
}

/// Counts a connection for as long as it is served, and what its protocol takes beside what was counted when it was accepted.
pub struct OpenConnection(Rc<Core>, u64);

impl OpenConnection {
    /// From now on.
    pub fn count(core: &Rc<Core>, bytes: u64) -> OpenConnection {
        core.count(|c| &c.connections_total, 1);
        core.counters.connections_open.increment();
        core.node.memory.client_came(bytes);
        OpenConnection(core.clone(), bytes)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counters.connections_open.decrement();
        self.0.node.memory.client_went(self.1);
    }
}

/// Counts a request or a fill as under way: a stopping core waits for it.
pub(crate) struct Busy(Rc<Core>);

impl Busy {
    pub(crate) fn new(core: &Rc<Core>) -> Busy {
        core.busy.set(core.busy.get() + 1);
        Busy(core.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

enum Next {
    Head(Box<ParsedRequest>),
    Refused { status: u16, what: &'static str },
    Closed,
}

async fn next_head<T: Transport>(session: &mut Session<T>) -> Next {
    loop {
        match session.parser.parse(&session.buffer) {
            Ok(Some(parsed)) => return Next::Head(Box::new(parsed)),
            Ok(None) => {}
            Err(error) => return Next::Refused { status: error.status, what: error.what },
        }
        match session.transport.receive(&mut session.buffer).await {
            Ok(n) if n > 0 => {}
            _ => return Next::Closed,
        }
    }
}

/// Reads the request's body, which there is: needed for methods that pass one on, dropped for the others.
async fn read_body<T: Transport>(
    outlet: &mut Http1<'_, T>,
    buffer: &mut Vec<u8>,
    parsed: &ParsedRequest,
    held: &mut Held,
) -> Result<Vec<u8>, (u16, &'static str)> {
    let wanted = !matches!(parsed.head.method, Method::Get | Method::Head | Method::Options);
    let max = if wanted { PASSED_BODY_BYTES_MAX } else { UNWANTED_BODY_BYTES_MAX };
    if let BodyFraming::Length(length) = parsed.body
        && length > max as u64
    {
        return Err((413, "the request body is too large"));
    }
    if parsed.expect_continue && buffer.is_empty() {
        outlet.continue_100().await.map_err(|_| (400, "the client left"))?;
    }
    let mut body = Vec::new();
    let mut decoder = ChunkedDecoder::new();
    let mut wait = BodyWait::default();
    loop {
        match parsed.body {
            BodyFraming::Length(length) if buffer.len() as u64 >= length => {
                body.extend(buffer.drain(..length as usize));
                break;
            }
            BodyFraming::Chunked => {
                let mut at = 0;
                loop {
                    let step = decoder
                        .decode(&buffer[at..])
                        .map_err(|_| (400, "the chunked coding of the request body is broken"))?;
                    body.extend_from_slice(&buffer[at..][step.data]);
                    at += step.consumed;
                    if body.len() > max {
                        return Err((413, "the request body is too large"));
                    }
                    if step.done || step.consumed == 0 {
                        break;
                    }
                }
                buffer.drain(..at);
                if decoder.is_done() {
                    break;
                }
            }
            _ => {}
        }
        let more = outlet.transport_mut().receive(buffer);
        match wait.next(more, |came| *came.as_ref().unwrap_or(&0)).await {
            Ok(Ok(n)) if n > 0 => held.more(n)?,
            Ok(_) => return Err((400, "the request body ended early")),
            Err(_) => return Err((408, "the request body did not come in time")),
        }
    }
    Ok(if wanted { body } else { Vec::new() })
}
