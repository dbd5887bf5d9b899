//! HTTP/2 to clients (RFC 9113): the machine of `tidegate_http2` over our own TLS and sockets. Each stream becomes one transaction,
//! the same as on HTTP/1.1.
//!
//! ```text
//! socket, TLS (fill::Duplex) <-> Conversation <-> Connection (frames, HPACK, windows, floods) <-> one Answer for each stream
//! h2/turns.rs   which stream may write next (RFC 9218)
//! h2/lanes.rs   tasks that serve one stream after the other
//! ```
//! Streams write into the machine, and the connection's task moves what is there into the socket: answers that come in one turn
//! share records and one send. Bodies are sealed from where they lie.
//!
//! Must stay true: a request is judged by the rules for the text of an HTTP/1.1 head, so that nothing passes here that would
//! be refused there; an answer that breaks off is a reset, never a short body that looks whole; who waits for a stream is
//! woken when it can go on, and when the connection is over.

mod answer;
mod lanes;
mod turns;
mod upload;

use crate::callers::Call;
use crate::drain::Drain;
use crate::head::{Refused, judge};
use crate::tls::protection;
use crate::urgency::Urgency;
use answer::Answer;
use lanes::Job;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tidegate_engine::client::SEND_STALL_MAX;
use tidegate_engine::memory::{CLIENT_H2_BYTES, Held, STREAM_BYTES};
use tidegate_engine::pace::Paces;
use tidegate_engine::session::OpenConnection;
use tidegate_engine::transaction::Exchange;
use tidegate_engine::{Core, Face, Protection};
use tidegate_fill::{Duplex, TlsStream};
use tidegate_http::RequestHead;
use tidegate_http2::{Code, Connection, Error, Event, Head, PIECES_MAX, STREAMS_MAX, Scratch};
use tidegate_ring::{Sleep, TcpStream, now, sleep, started, timeout, turn_now};
use tidegate_tls::Server;
use turns::Turns;
use upload::Upload;

/// Of a connection, in the kernel and not yet sent. With less, most answers would find the socket full, and each time copy
/// what it did not take; that costs resident memory (`tests/e2e/tests/h2/main.rs`).
const UNSENT_BYTES_MAX: u32 = 512 << 10;
/// Preface and settings.
const BEGIN_SPAN_MAX: Duration = Duration::from_secs(10);
/// From a head's first frame to the end of its last.
const HEAD_SPAN_MAX: Duration = Duration::from_secs(10);
/// Without a stream.
const IDLE_SPAN_MAX: Duration = Duration::from_secs(60);
/// For the goodbye.
const CLOSE_SPAN_MAX: Duration = Duration::from_secs(5);
/// Taken off the session in one turn; then streams and other connections have theirs.
const READS_MAX: usize = 8;

thread_local! {
    /// Where requests are read, of whatever connection.
    static READING: RefCell<(Scratch, Vec<u8>)> = RefCell::default();
}

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
        machine: RefCell::default(),
        turns: Turns::default(),
        paces: RefCell::default(),
        has_lower: Cell::new(false),
        urgencies: RefCell::default(),
        shut: RefCell::default(),
        unsure: RefCell::default(),
        uploads: RefCell::default(),
        tcp,
        bodies: Cell::new(0),
        frames: RefCell::new(Held::new(&core, 0)),
        task: Cell::new(None),
        over: Cell::new(false),
    });
    let _open = OpenConnection::count(&core, CLIENT_H2_BYTES);
    // In a box of its own, as large as it is.
    let flooded = Box::pin(converse(&core, &drain, &wire, peer, face)).await;
    if flooded {
        core.count(|c| &c.floods_total, 1);
        call.was_flood(&core.node.view.load().me.machine.client_limits, now());
    }
    // What the client has left behind is held against its address, and counted as a connection, until it is over.
    wire.released().await;
}

/// `true`: it had to be ended as a flood.
async fn converse(
    core: &Rc<Core>,
    drain: &Drain,
    wire: &Rc<Wire>,
    peer: SocketAddr,
    face: Face,
) -> bool {
    let mut conversation = Conversation {
        core,
        wire,
        peer,
        face,
        head_timer: None,
        timer: sleep(BEGIN_SPAN_MAX),
        busy_at: elapsed(),
        is_leaving: false,
    };
    let mut draining = pin!(drain.begun());
    let mut is_told = false;
    let end = poll_fn(|cx| {
        // Polled once, to be woken when it begins, and from then on until it is this connection's turn.
        let is_asked = !conversation.is_leaving
            && (!std::mem::replace(&mut is_told, true) || drain.is_begun());
        // After the goodbye, what the client asked for before it heard of it is answered still (RFC 9113 §6.8).
        if is_asked && draining.as_mut().poll(cx).is_ready() {
            conversation.leave();
        }
        conversation.turn(cx)
    })
    .await;
    wire.end();
    let has_begun = wire.machine.borrow().has_begun();
    core.count(|c| &c.requests_refused_total, u64::from(!has_begun));
    core.count(|c| &c.tls_errors_total, u64::from(wire.is_early()));
    core.count(|c| &c.deadlines_missed_total, u64::from(end == End::Late));
    goodbye(wire).await;
    end == End::Flood
}

/// What is due is sent, and the session closed; a client that takes nothing any more is not waited for.
async fn goodbye(wire: &Rc<Wire>) {
    let end = poll_fn(|cx| {
        if ready!(wire.poll_send(cx)).is_err() {
            return Poll::Ready(());
        }
        wire.duplex.borrow_mut().poll_close(cx).map(|_closed| ())
    });
    let _closed_or_late = timeout(CLOSE_SPAN_MAX, end).await;
}

/// From the process' begin to that of this turn.
fn elapsed() -> Duration {
    turn_now().saturating_duration_since(started().0)
}

/// How a conversation ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// In order, or the client or its connection is gone, or it was refused.
    Over,
    Flood,
    /// A head did not come to its end in time.
    Late,
}

/// The connection's own task.
struct Conversation<'a> {
    core: &'a Rc<Core>,
    wire: &'a Rc<Wire>,
    peer: SocketAddr,
    face: Face,
    /// Of a head that is under way since then.
    head_timer: Option<(Duration, Sleep)>,
    /// Until the client must have begun; then until it may have been idle for too long.
    timer: Sleep,
    /// When there was a stream at last.
    busy_at: Duration,
    is_leaving: bool,
}

impl Conversation<'_> {
    /// Takes what has come, and sends what is due.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.wire.watch(cx);
        let now = elapsed();
        let read = self.read(cx, now);
        if !self.wire.is_early() {
            self.wire.wake_unsure();
        }
        if let Poll::Ready(Err(_)) = self.wire.poll_send(cx) {
            return Poll::Ready(End::Over);
        }
        match read {
            Poll::Ready(end) => return Poll::Ready(end),
            Poll::Pending if self.wire.machine.borrow().is_over() => return Poll::Ready(End::Over),
            Poll::Pending => {}
        }
        if self.head_is_late(cx) {
            self.wire.machine.borrow_mut().fail(Code::ENHANCE_YOUR_CALM);
            return Poll::Ready(End::Late);
        }
        self.judge_idle(cx, now)
    }

    /// Pending: there is nothing more to read now.
    fn read(&mut self, cx: &mut Context<'_>, now: Duration) -> Poll<End> {
        let wire = self.wire;
        wire.machine.borrow_mut().looked_at();
        for _ in 0..READS_MAX {
            if wire.machine.borrow().is_backed_up() {
                match wire.poll_send(cx) {
                    Poll::Ready(Err(_)) => return Poll::Ready(End::Over),
                    Poll::Ready(Ok(())) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            let mut duplex = wire.duplex.borrow_mut();
            let come = match ready!(duplex.poll_read(cx)) {
                Ok(come) if !come.is_empty() => come,
                Ok(_) | Err(_) => return Poll::Ready(End::Over),
            };
            let outcome = READING.with_borrow_mut(|reading| self.take(now, come, reading));
            let len = come.len();
            duplex.take(len);
            if let Err(error) = outcome {
                return Poll::Ready(if error.is_flood() { End::Flood } else { End::Over });
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(
        &mut self,
        now: Duration,
        mut come: &[u8],
        (scratch, values): &mut (Scratch, Vec<u8>),
    ) -> Result<(), Error> {
        let wire = self.wire;
        loop {
            let event = wire.machine.borrow_mut().read(now, &mut come, scratch)?;
            match event {
                None => return Ok(()),
                Some(Event::Request { stream, ended }) => {
                    let head = scratch.head();
                    self.spawn(stream, ended, head, read_head(&head, values));
                }
                Some(Event::Refused { stream, status, what }) => {
                    self.spawn(stream, true, scratch.head(), Err((status, what)));
                }
                Some(Event::Data { stream, bytes, ended }) => {
                    let mut uploads = wire.uploads.borrow_mut();
                    let wanted =
                        uploads.get_mut(&stream).is_some_and(|upload| upload.came(bytes, ended));
                    if !wanted {
                        wire.machine.borrow_mut().refuse_body(stream);
                    }
                }
                Some(Event::Reset { stream }) => {
                    if let Some(upload) = wire.uploads.borrow_mut().get_mut(&stream) {
                        upload.broke_off();
                    }
                    if let Some(waker) = wire.shut.borrow_mut().remove(&stream) {
                        waker.wake();
                    }
                    wire.turns.changed(stream);
                }
                Some(Event::Window { stream: Some(stream) }) => {
                    if let Some(waker) = wire.shut.borrow_mut().remove(&stream) {
                        waker.wake();
                    }
                }
                Some(Event::Window { stream: None }) => wire.wake_shut(),
                Some(Event::Priority { stream, value }) => wire.hear_priority(stream, &value),
            }
        }
    }

    fn spawn(
        &self,
        stream: u32,
        ended: bool,
        head: Head<'_>,
        judged: Result<RequestHead, Refused>,
    ) {
        let priority = head.fields().find(|(name, _)| *name == b"priority");
        let priority = priority.map(|(_, value)| value);
        let head_only = head.method() == b"HEAD";
        let answer = Answer::new(self.wire.clone(), stream, head_only, priority);
        let with_body = !ended && judged.is_ok();
        if let (true, Ok(head)) = (with_body, &judged) {
            let upload = Upload::of(&head.method, self.core);
            self.wire.uploads.borrow_mut().insert(stream, upload);
        }
        let (core, peer, from_fleet) = (self.core.clone(), self.peer, self.face == Face::Fleet);
        let exchange = judged.map(|request| Exchange { request, body: Vec::new(), from_fleet });
        let counted = Held::new(&core, STREAM_BYTES);
        lanes::serve(Job { core, answer, peer, exchange, with_body, counted });
    }

    /// It stops.
    fn leave(&mut self) {
        self.is_leaving = true;
        self.wire.machine.borrow_mut().leave();
    }

    /// Whether a head has been under way for too long; if one is under way, the task is woken when it has.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(since) = self.wire.machine.borrow().head_since() else {
            self.head_timer = None;
            return false;
        };
        let (_, sleep) = match &mut self.head_timer {
            Some(armed) if armed.0 == since => armed,
            timer => timer.insert((since, sleep(HEAD_SPAN_MAX))),
        };
        Pin::new(sleep).poll(cx).is_ready()
    }

    /// One timer, which is set anew when it has run out and not each time something comes.
    fn judge_idle(&mut self, cx: &mut Context<'_>, now: Duration) -> Poll<End> {
        let (has_begun, streams) = {
            let machine = self.wire.machine.borrow();
            (machine.has_begun(), machine.streams())
        };
        if streams > 0 {
            self.busy_at = now;
        }
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let left = IDLE_SPAN_MAX.saturating_sub(now.saturating_sub(self.busy_at));
            if !has_begun || left.is_zero() && self.is_leaving {
                return Poll::Ready(End::Over);
            }
            if left.is_zero() {
                self.leave();
                self.busy_at = now;
                cx.waker().wake_by_ref();
            }
            self.timer = sleep(if left.is_zero() { IDLE_SPAN_MAX } else { left });
        }
        Poll::Pending
    }
}

/// What the connection's task and its streams share.
struct Wire {
    protection: Protection,
    duplex: RefCell<Duplex<Server>>,
    machine: RefCell<Connection>,
    turns: Turns,
    paces: RefCell<Paces>,
    /// Its player asked for a lower rendition than its highest.
    has_lower: Cell<bool>,
    /// Said by PRIORITY_UPDATE, of streams that are under way or still to come.
    urgencies: RefCell<BTreeMap<u32, Urgency>>,
    /// Streams that wait for a window.
    shut: RefCell<BTreeMap<u32, Waker>>,
    /// Streams that wait until it is sure whose they are: for the end of the handshake.
    unsure: RefCell<BTreeMap<u32, Waker>>,
    /// Bodies of requests that are not whole yet.
    uploads: RefCell<BTreeMap<u32, Upload>>,
    tcp: Rc<TcpStream>,
    /// Bytes of bodies that the client's windows took.
    bodies: Cell<u64>,
    /// Heads, mostly, that the client does not take.
    frames: RefCell<Held>,
    task: Cell<Option<Waker>>,
    over: Cell<bool>,
}

impl Wire {
    /// The connection's task is woken by [`Wire::touch`].
    fn watch(&self, cx: &Context<'_>) {
        let waker = self.task.take().filter(|waker| waker.will_wake(cx.waker()));
        self.task.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
    }

    /// There may be something to write.
    fn touch(&self) {
        if let Some(waker) = self.task.take() {
            waker.wake_by_ref();
            self.task.set(Some(waker));
        }
    }

    /// Waits until nobody works at a stream of it any more.
    async fn released(&self) {
        poll_fn(|cx| {
            self.watch(cx);
            if self.machine.borrow().streams() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Moves what is to be written into the session, and what is sealed into the socket. An error: the connection is of no
    /// more use.
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (mut machine, mut duplex) = (self.machine.borrow_mut(), self.duplex.borrow_mut());
        loop {
            let mut pieces = [&[][..]; PIECES_MAX];
            let count = machine.output(&mut pieces);
            if count == 0 {
                break;
            }
            let Poll::Ready(written) = duplex.poll_write(cx, &pieces[..count]) else {
                self.frames.borrow_mut().set(machine.backlog() as u64);
                return Poll::Pending;
            };
            let n = written?;
            machine.written(n);
            self.turns.written(n);
        }
        self.frames.borrow_mut().set(0);
        let flushed = duplex.poll_flush(cx);
        if !duplex.is_blocked() {
            self.turns.all_is_written();
        }
        flushed
    }

    /// What the client says of a stream beside its request counts before what it said with it (RFC 9218 §7).
    fn hear_priority(&self, stream: u32, value: &[u8]) {
        let mut urgencies = self.urgencies.borrow_mut();
        urgencies.insert(stream, Urgency::parse(value));
        if urgencies.len() > STREAMS_MAX {
            urgencies.pop_first(); // over, most likely
        }
        drop(urgencies);
        self.turns.changed(stream);
    }

    /// The connection's window has opened: who asked first goes first.
    fn wake_shut(&self) {
        std::mem::take(&mut *self.shut.borrow_mut()).into_values().for_each(Waker::wake);
    }

    /// Whether the handshake is not over, so that requests may be somebody else's recording.
    fn is_early(&self) -> bool {
        self.duplex.borrow().is_early()
    }

    /// It is sure whose the requests are, or nobody's any more.
    fn wake_unsure(&self) {
        std::mem::take(&mut *self.unsure.borrow_mut()).into_values().for_each(Waker::wake);
    }

    /// Nothing more is sent.
    fn end(&self) {
        self.over.set(true);
        self.uploads.borrow_mut().values_mut().for_each(Upload::broke_off);
        self.wake_shut();
        self.wake_unsure();
        self.turns.end();
    }
}

/// The request's head, judged as one of HTTP/1.1 (RFC 9113 §8.3).
fn read_head(head: &Head<'_>, values: &mut Vec<u8>) -> Result<RequestHead, Refused> {
    let mut hosts = head.fields().filter(|(name, _)| *name == b"host").map(|(_, value)| value);
    let (host, None) = (hosts.next(), hosts.next()) else {
        return Err((400, "more than one Host"));
    };
    let authority = match (head.authority(), host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err((400, "Host and :authority name two hosts"));
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) => return Err((400, "neither Host nor :authority says which host is meant")),
    };
    // What is no part of a target is left out (RFC 9113 §8.3.1).
    let target = head.path().split(|byte| *byte == b'#').next().unwrap_or_default();
    if !target.starts_with(b"/") && (target != b"*" || head.method() != b"OPTIONS") {
        return Err((400, ":path does not begin with a slash"));
    }
    judge(head.method(), target, authority, || head.fields(), values)
}
