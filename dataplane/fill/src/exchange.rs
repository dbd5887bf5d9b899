//! One request to one next hop and its answer: head first, then the body piece by piece.
//!
//! Must stay true: a kept connection that turns out to be closed before a byte of the answer came is replaced by a
//! new one, once, and only for requests that may be repeated; a
//! connection returns to the pool only after a complete body and with no bytes left over. What the exchange says of the
//! hop's health goes into its ticket: failures here, whether a complete head is a good one by [`Answer::judge`].

use crate::error::{FillError, Phase};
use crate::health::Signal;
use crate::pool::Pool;
use crate::select::Hop;
use crate::state::Ticket;
use crate::stream::Stream;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tidegate_contract::Role;
use tidegate_http::{Fields, Method, ResponseHead};
use tidegate_http1::response::INTERIM_MAX;
use tidegate_http1::{ChunkedDecoder, Limits, ResponseBody, ResponseParser, encode_request};
use tidegate_ring::{TcpStream, now, timeout, wall_now};

/// How long each phase may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the request's last byte to the response head's last.
    pub head: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
    /// A body must bring [`PACE_BYTES`] in each such span (1 KiB/s and less): else another next hop does better.
    pub pace: Duration,
    /// All tries together, to the head of the answer that is taken.
    pub total: Duration,
}

impl Timeouts {
    /// Those of a node with this role. A parent has given up before an edge gives up the parent: who is slow is blamed.
    pub fn of(role: Role) -> Timeouts {
        let (head, idle, pace, total) = match role {
            Role::Edge => (15, 15, 45, 20),
            _ => (12, 10, 30, 14),
        };
        Timeouts {
            connect: Duration::from_secs(2),
            head: Duration::from_secs(head),
            idle: Duration::from_secs(idle),
            pace: Duration::from_secs(pace),
            total: Duration::from_secs(total),
        }
    }
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// Path and query as the next hop shall see them.
    pub target: String,
    pub authority: String,
    pub fields: Fields,
    pub body: Bytes,
}

/// An answer whose body has not been read yet.
pub struct Answer {
    pub head: ResponseHead,
    pub body: Body,
}

impl Answer {
    /// Says whether the head is a good one, or (`own_error`) an error that is the hop's own: its health hangs on it.
    pub fn judge(&mut self, own_error: bool) {
        if let Some(ticket) = &mut self.body.ticket {
            if own_error { ticket.fail_by(Signal::ServerError) } else { ticket.pass() }
        }
        if matches!(self.body.framing, Framing::Done) {
            self.body.ticket = None;
        }
    }
}

/// Sends `request` to `hop` and waits for the head of the answer.
///
/// # Errors
/// Whatever keeps a well-formed final response head from coming in time.
pub async fn ask(
    pool: &Rc<Pool>,
    hop: &Hop,
    request: &Request,
    timeouts: Timeouts,
    mut ticket: Ticket,
) -> Result<Answer, FillError> {
    match ask_hop(pool, hop, request, timeouts).await {
        Ok(mut answer) => {
            if matches!(answer.body.framing, Framing::Done) {
                ticket.end();
            }
            answer.body.ticket = Some(ticket);
            Ok(answer)
        }
        Err(error) => {
            ticket.fail(&error);
            Err(error)
        }
    }
}

async fn ask_hop(
    pool: &Rc<Pool>,
    hop: &Hop,
    request: &Request,
    timeouts: Timeouts,
) -> Result<Answer, FillError> {
    let signed = match &hop.s3 {
        None => None,
        Some(s3) => {
            let now = wall_now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            Some(s3.request(request, now).map_err(|what| FillError::BadRequest { what })?)
        }
    };
    let request = signed.as_ref().unwrap_or(request);
    // A kept connection may turn out to be closed after the peer has read the request: only what is safe to repeat
    // goes on one (RFC 9110 §9.2.2).
    let kept = || {
        let addresses = hop.state.addresses();
        let take = |address: &SocketAddr| {
            pool.take(hop, *address, &request.authority)
                .map(|stream| Peer { address: *address, stream })
        };
        addresses.iter().find_map(take)
    };
    if request.method.is_safe()
        && let Some(kept) = kept()
    {
        match exchange(pool, hop, request, timeouts, kept).await {
            Err(Attempt::Silent(_)) => {} // the peer had closed it: try on a new connection
            Err(Attempt::Failed(error)) => return Err(error),
            Ok(answer) => return Ok(answer),
        }
    }
    let peer = connect(hop, timeouts).await?;
    exchange(pool, hop, request, timeouts, peer).await.map_err(|attempt| match attempt {
        Attempt::Silent(error) | Attempt::Failed(error) => error,
    })
}

/// A connection, and where it leads.
struct Peer {
    address: SocketAddr,
    stream: Stream,
}

/// A new connection to one of the hop's addresses: the one where the last came about, then the next ones in turn.
async fn connect(hop: &Hop, timeouts: Timeouts) -> Result<Peer, FillError> {
    let addresses = hop.state.addresses();
    let first = hop.state.first_address();
    let mut failed = FillError::Unresolved { hop: hop.id.clone() };
    for index in
        (first..first + addresses.len().min(ADDRESSES_TRIED_MAX)).map(|n| n % addresses.len())
    {
        match connect_to(hop, addresses[index], timeouts).await {
            Ok(stream) => {
                hop.state.set_first_address(index);
                return Ok(Peer { address: addresses[index], stream });
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Addresses of one hop that one request tries.
const ADDRESSES_TRIED_MAX: usize = 4;

async fn connect_to(
    hop: &Hop,
    address: SocketAddr,
    timeouts: Timeouts,
) -> Result<Stream, FillError> {
    let late = |phase| FillError::Timeout { hop: hop.id.clone(), phase };
    let connecting = timeout(timeouts.connect, TcpStream::connect(address)).await;
    let tcp = connecting
        .map_err(|_| late(Phase::Connect))?
        .map_err(|error| failed(hop, Phase::Connect, &error))?;
    // A handshake takes a few round trips more.
    let shaking = Stream::begin(tcp, hop.tls.as_deref(), timeouts.connect);
    timeout(timeouts.connect * 2, shaking)
        .await
        .map_err(|_| late(Phase::Tls))?
        .map_err(|error| failed(hop, Phase::Tls, &error))
}

enum Attempt {
    /// The connection ended before a byte of the answer.
    Silent(FillError),
    Failed(FillError),
}

fn failed(hop: &Hop, phase: Phase, error: &io::Error) -> FillError {
    let refused = error.kind() == io::ErrorKind::ConnectionRefused;
    FillError::Connection { hop: hop.id.clone(), phase, what: error.to_string(), refused }
}

async fn exchange(
    pool: &Rc<Pool>,
    hop: &Hop,
    request: &Request,
    timeouts: Timeouts,
    peer: Peer,
) -> Result<Answer, Attempt> {
    let Peer { address, mut stream } = peer;
    let mut head = Vec::with_capacity(512);
    encode_request(
        &request.method,
        &request.target,
        &request.authority,
        &request.fields,
        &mut head,
    )
    .map_err(|_| {
        Attempt::Failed(FillError::BadRequest {
            what: "its target or authority holds forbidden bytes",
        })
    })?;
    match stream.send_all(&[&head, &request.body], timeouts.idle).await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(Attempt::Failed(FillError::Timeout {
                hop: hop.id.clone(),
                phase: Phase::Send,
            }));
        }
        Err(error) => return Err(Attempt::Silent(failed(hop, Phase::Send, &error))),
    }
    let mut received = Vec::with_capacity(16 * 1024);
    let reading = read_head(&mut stream, hop, &request.method, &mut received);
    let parsed = match timeout(timeouts.head, reading).await {
        Ok(outcome) => outcome?,
        Err(_) => {
            return Err(Attempt::Failed(FillError::Timeout {
                hop: hop.id.clone(),
                phase: Phase::Head,
            }));
        }
    };
    received.drain(..parsed.head_bytes);
    let framing = match parsed.body {
        ResponseBody::None => Framing::Done,
        ResponseBody::Length(0) => Framing::Done,
        ResponseBody::Length(left) => Framing::Length(left),
        ResponseBody::Chunked => Framing::Chunked(ChunkedDecoder::new()),
        ResponseBody::UntilClose => Framing::UntilClose,
    };
    let mut body = Body {
        stream: Some(stream),
        pool: pool.clone(),
        authority: request.authority.clone(),
        hop: hop.clone(),
        address,
        keep_alive: parsed.keep_alive,
        received,
        framing,
        ticket: None,
        idle: timeouts.idle,
        pace: Pace { span: timeouts.pace, since: now(), bytes: 0 },
        length: match parsed.body {
            ResponseBody::None => Some(0),
            ResponseBody::Length(length) => Some(length),
            ResponseBody::Chunked | ResponseBody::UntilClose => None,
        },
    };
    body.settle();
    Ok(Answer { head: parsed.head, body })
}

async fn read_head(
    stream: &mut Stream,
    hop: &Hop,
    method: &Method,
    received: &mut Vec<u8>,
) -> Result<tidegate_http1::ParsedResponse, Attempt> {
    let mut parser = ResponseParser::new(Limits::RESPONSE);
    let mut interim = 0;
    let mut silent = true;
    loop {
        if !received.is_empty() {
            match parser.parse(received, method) {
                Ok(Some(parsed)) if parsed.is_interim => {
                    interim += 1;
                    if interim > INTERIM_MAX || parsed.head.status == 101 {
                        let what =
                            "it sent too many interim answers, or switched protocols unasked";
                        return Err(Attempt::Failed(FillError::BadResponse {
                            hop: hop.id.clone(),
                            what,
                        }));
                    }
                    received.drain(..parsed.head_bytes);
                    continue;
                }
                Ok(Some(parsed)) => return Ok(parsed),
                Ok(None) => {}
                Err(error) => {
                    let (hop, what) = (hop.id.clone(), error.what);
                    return Err(Attempt::Failed(FillError::BadResponse { hop, what }));
                }
            }
        }
        let outcome = match stream.receive(received).await {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            other => other,
        };
        match outcome {
            Ok(_) => silent = false,
            Err(error) if silent => return Err(Attempt::Silent(failed(hop, Phase::Head, &error))),
            Err(error) => return Err(Attempt::Failed(failed(hop, Phase::Head, &error))),
        }
    }
}

enum Framing {
    Done,
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

/// The body of an answer, as it arrives.
pub struct Body {
    stream: Option<Stream>,
    pool: Rc<Pool>,
    authority: String,
    hop: Hop,
    address: SocketAddr,
    keep_alive: bool,
    received: Vec<u8>,
    framing: Framing,
    ticket: Option<Ticket>,
    idle: Duration,
    pace: Pace,
    length: Option<u64>,
}

/// Notices a body that comes, but hardly.
struct Pace {
    span: Duration,
    since: Instant,
    bytes: usize,
}

/// What a body must bring in each span of [`Timeouts::pace`].
const PACE_BYTES: usize = 30 * 1024;

impl Pace {
    /// Counts `n` bytes at `now`; `false`: too few have come in the last span.
    fn keeps_up(&mut self, n: usize, now: Instant) -> bool {
        self.bytes += n;
        if now.duration_since(self.since) < self.span {
            return true;
        }
        let enough = self.bytes >= PACE_BYTES;
        (self.since, self.bytes) = (now, 0);
        enough
    }
}

impl Body {
    /// Id of the server that it comes from.
    pub fn hop(&self) -> &str {
        &self.hop.id
    }

    /// Length of the whole body, when the head told it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; `None` after the last ones of a complete body.
    ///
    /// # Errors
    /// When the body cannot be completed; what came before stays valid.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FillError> {
        let outcome = self.next_piece().await;
        if let Some(ticket) = &mut self.ticket {
            match &outcome {
                Ok(_) if matches!(self.framing, Framing::Done) => {
                    ticket.end();
                    self.ticket = None;
                }
                Ok(_) => {}
                Err(error) => {
                    ticket.fail(error);
                    self.ticket = None;
                }
            }
        }
        outcome
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, FillError> {
        loop {
            if matches!(self.framing, Framing::Done) {
                return Ok(None);
            }
            if !self.received.is_empty()
                && let Some(piece) = self.take_piece()?
            {
                return Ok(Some(piece));
            }
            if matches!(self.framing, Framing::Done) {
                return Ok(None);
            }
            let Some(stream) = &mut self.stream else {
                return Err(self.broken("the connection is gone"));
            };
            // A vector of its own for each piece: it becomes the piece without a copy.
            let mut fresh = std::mem::take(&mut self.received);
            let outcome = timeout(self.idle, stream.receive(&mut fresh)).await;
            self.received = fresh;
            match outcome {
                Ok(Ok(0)) if matches!(self.framing, Framing::UntilClose) => {
                    self.framing = Framing::Done;
                    self.stream = None;
                }
                Ok(Ok(0)) => {
                    return Err(self.broken("it closed the connection before the end of the body"));
                }
                Ok(Ok(n)) => {
                    if !self.pace.keeps_up(n, now()) {
                        self.stream = None;
                        return Err(FillError::Timeout {
                            hop: self.hop.id.clone(),
                            phase: Phase::Body,
                        });
                    }
                }
                Ok(Err(error)) => return Err(self.broken(&error.to_string())),
                Err(_) => {
                    self.stream = None;
                    return Err(FillError::Timeout {
                        hop: self.hop.id.clone(),
                        phase: Phase::Body,
                    });
                }
            }
        }
    }

    fn broken(&mut self, what: &str) -> FillError {
        self.stream = None;
        FillError::Connection {
            hop: self.hop.id.clone(),
            phase: Phase::Body,
            what: what.to_owned(),
            refused: false,
        }
    }

    /// Cuts body bytes from what was received; `None`: none are complete yet.
    fn take_piece(&mut self) -> Result<Option<Bytes>, FillError> {
        let piece = match &mut self.framing {
            Framing::Done => None,
            Framing::UntilClose => Some(Bytes::from(std::mem::take(&mut self.received))),
            Framing::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(self.received.len());
                *left -= n as u64;
                let rest = self.received.split_off(n);
                let piece = std::mem::replace(&mut self.received, rest);
                Some(Bytes::from(piece))
            }
            Framing::Chunked(decoder) => {
                let mut piece = Vec::new();
                let mut at = 0;
                loop {
                    let step = decoder.decode(&self.received[at..]).map_err(|_| {
                        FillError::BadResponse {
                            hop: self.hop.id.clone(),
                            what: "its chunked coding is broken",
                        }
                    })?;
                    piece.extend_from_slice(&self.received[at..][step.data]);
                    at += step.consumed;
                    if step.done || step.consumed == 0 {
                        break;
                    }
                }
                self.received.drain(..at);
                (!piece.is_empty()).then(|| Bytes::from(piece))
            }
        };
        self.settle();
        Ok(piece)
    }

    /// Ends the body when its framing says so, and gives a clean connection back.
    fn settle(&mut self) {
        let done = match &self.framing {
            Framing::Done => true,
            Framing::Length(left) => *left == 0,
            Framing::Chunked(decoder) => decoder.is_done(),
            Framing::UntilClose => false,
        };
        if done {
            self.framing = Framing::Done;
            if let Some(stream) = self.stream.take()
                && self.keep_alive
                && self.received.is_empty()
            {
                self.pool.put(&self.hop, self.address, &self.authority, stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_hardly_comes_is_given_up() {
        let start = Instant::now();
        let span = Duration::from_secs(30);
        let mut pace = Pace { span, since: start, bytes: 0 };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(pace.keeps_up(1, at(8)) && pace.keeps_up(1, at(29)));
        assert!(!pace.keeps_up(1, at(31)));
        let mut pace = Pace { span, since: start, bytes: 0 };
        assert!(pace.keeps_up(PACE_BYTES, at(31)), "slow, but on its way");
        assert!(pace.keeps_up(1, at(60)));
        assert!(!pace.keeps_up(1, at(61)));
    }
}
