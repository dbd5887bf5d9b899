//! One QUIC connection as tasks see it: streams to wait on. The endpoint moves its packets.
//!
//! Must stay true: whoever waits on a stream is woken when it can go on, and when the connection is over; what changed here is
//! told to the endpoint, which else would send nothing of it.

use super::STREAMS_MAX;
use super::answer::rank;
use super::bucket::Bucket;
use super::congestion::Dial;
use super::endpoint::Endpoint;
use super::unsent::Unsent;
use crate::core::Seat;
use crate::urgency::Urgency;
use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, Dir, Event, ReadError, SendStream, StreamEvent, StreamId, VarInt, WriteError,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Weak;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidegate_contract::Congestion;
use tidegate_engine::pace::Paces;
use tidegate_http3::Code;
use tidegate_ring::{PathInfo, now};

/// Bytes taken off a stream at once.
const READ_BYTES_MAX: usize = 16 << 10;

/// Sent to an address that is not proved, for each byte that came from there.
const AMPLIFICATION_MAX: usize = 3;

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client reset this stream.
    Reset,
    /// The connection is over, or the stream was ended from this side.
    Over,
}

/// A connection of an endpoint.
pub struct Connection {
    /// Which holds this.
    endpoint: Weak<Endpoint>,
    pub(super) handle: ConnectionHandle,
    pub(super) quic: RefCell<quinn_proto::Connection>,
    /// It waits for its turn at the endpoint.
    pub(super) queued: Cell<bool>,
    /// Its place among the endpoint's timers.
    pub(super) timer: Cell<Option<Instant>>,
    /// The library has nothing more to do with it.
    pub(super) drained: Cell<bool>,
    /// How fast it may be, and until when it waits for that.
    pub(super) bucket: RefCell<Bucket>,
    pub(super) paced_until: Cell<Option<Instant>>,
    /// Of the path to this address, once it was asked for.
    dial: RefCell<Option<(IpAddr, Arc<Dial>)>>,
    paces: RefCell<Paces>,
    /// Its player asked for a lower rendition than its highest.
    pub has_lower: Cell<bool>,
    /// Said on the control stream, of requests that are under way or still to come.
    urgencies: RefCell<BTreeMap<u64, Urgency>>,
    connected: Cell<bool>,
    over: Cell<bool>,
    /// Streams that the client gave up.
    cancelled: Cell<u32>,
    /// Bytes that may still be sent to an address that is not proved: three times what came from there (RFC 9000 §8.1). The
    /// library lets a whole datagram go as long as a single byte is left.
    unproved: Cell<Option<usize>>,
    /// Bytes that streams could write.
    written: Cell<u64>,
    unsent: Unsent,
    task: RefCell<Option<Waker>>,
    readers: Waiters,
    writers: Waiters,
    _seat: Seat,
}

/// Tasks that wait on streams: a few, so that a list is looked through.
#[derive(Default)]
struct Waiters(RefCell<Vec<(StreamId, Waker)>>);

impl Waiters {
    fn wait(&self, id: StreamId, cx: &Context<'_>) {
        let mut all = self.0.borrow_mut();
        match all.iter_mut().find(|(other, _)| *other == id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => all.push((id, cx.waker().clone())),
        }
    }

    fn wake(&self, id: StreamId) {
        let mut all = self.0.borrow_mut();
        if let Some(at) = all.iter().position(|(other, _)| *other == id) {
            all.swap_remove(at).1.wake();
        }
    }

    fn wake_all(&self) {
        self.0.take().into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn forget(&self, id: StreamId) {
        let mut all = self.0.borrow_mut();
        all.retain(|(other, _)| *other != id);
        // An idle connection, of which only the client's control stream is read, holds no room for others.
        if all.len() <= 1 {
            all.shrink_to_fit();
        }
    }
}

/// What the client opened.
pub enum Opened {
    Request(StreamId),
    Unidirectional(StreamId),
}

impl Connection {
    pub(super) fn new(
        endpoint: Weak<Endpoint>,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        seat: Seat,
    ) -> Connection {
        Connection {
            endpoint,
            handle,
            quic: RefCell::new(quic),
            queued: Cell::new(false),
            timer: Cell::new(None),
            drained: Cell::new(false),
            bucket: RefCell::default(),
            paced_until: Cell::new(None),
            dial: RefCell::new(None),
            paces: RefCell::default(),
            has_lower: Cell::new(false),
            urgencies: RefCell::default(),
            connected: Cell::new(false),
            over: Cell::new(false),
            cancelled: Cell::new(0),
            unproved: Cell::new(None),
            written: Cell::new(0),
            unsent: Unsent::default(),
            task: RefCell::new(None),
            readers: Waiters::default(),
            writers: Waiters::default(),
            _seat: seat,
        }
    }

    /// Something happened in it.
    pub(super) fn heard(&self, event: Event) {
        match event {
            Event::Connected => {
                self.connected.set(true);
                self.wake_task();
                // Of requests of the first flight that wait for this.
                self.writers.wake_all();
            }
            Event::ConnectionLost { .. } => self.end(),
            Event::Stream(StreamEvent::Opened { .. }) => self.wake_task(),
            Event::Stream(StreamEvent::Readable { id }) => self.readers.wake(id),
            Event::Stream(StreamEvent::Stopped { id, .. }) => {
                self.was_cancelled();
                self.writers.wake(id);
            }
            Event::Stream(StreamEvent::Writable { id } | StreamEvent::Finished { id }) => {
                self.writers.wake(id);
            }
            Event::HandshakeDataReady
            | Event::Stream(StreamEvent::Available { .. })
            | Event::DatagramReceived
            | Event::DatagramsUnblocked => {}
        }
    }

    fn wake_task(&self) {
        if let Some(waker) = self.task.borrow_mut().take() {
            waker.wake();
        }
    }

    fn end(&self) {
        self.over.set(true);
        self.wake_task();
        self.readers.wake_all();
        self.writers.wake_all();
    }

    /// The address may be forged; its first datagram had so many bytes.
    pub(super) fn bound(&self, bytes: usize) {
        self.unproved.set(Some(bytes * AMPLIFICATION_MAX));
    }

    /// A datagram came.
    pub(super) fn came(&self, bytes: usize) {
        self.unproved.set(self.unproved.get().map(|room| room + bytes * AMPLIFICATION_MAX));
    }

    /// So many bytes are sent.
    pub(super) fn went(&self, bytes: usize) {
        self.unproved.set(self.unproved.get().map(|room| room.saturating_sub(bytes)));
        self.unsent.sent(bytes as u64);
    }

    /// Datagrams that may be sent. The end of the handshake proves the address.
    pub(super) fn room(&self) -> usize {
        let Some(room) = self.unproved.get() else { return usize::MAX };
        if self.connected.get() {
            self.unproved.set(None);
            return usize::MAX;
        }
        room / usize::from(self.quic.borrow().current_mtu())
    }

    /// Has the endpoint look at it.
    pub fn touch(&self) {
        if let Some(endpoint) = self.endpoint.upgrade() {
            endpoint.enqueue(self);
        }
    }

    /// Something changed in what its answers may have.
    pub fn set_pace(&self, change: impl FnOnce(&mut Paces) -> Option<u64>) {
        let rate = change(&mut self.paces.borrow_mut());
        self.bucket.borrow_mut().set_rate(now(), rate);
        // Who waits at the old rate may have to wait no more.
        if self.paced_until.take().is_some() {
            self.touch();
        }
    }

    /// What its path is like.
    pub fn path(&self) -> PathInfo {
        let path = self.quic.borrow().stats().path;
        let micros = |span: Duration| u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        PathInfo {
            rtt_us: micros(path.rtt),
            rtt_min_us: micros(path.min_rtt),
            sent: path.sent_packets as u32,
            resent: path.lost_packets as u32,
        }
    }

    /// The client says anew how urgent a request is.
    pub fn reprioritize(&self, stream: u64, urgency: Urgency) {
        let Ok(id) = VarInt::from_u64(stream).map(StreamId::from) else { return };
        let mut urgencies = self.urgencies.borrow_mut();
        urgencies.insert(stream, urgency);
        if urgencies.len() > STREAMS_MAX as usize {
            urgencies.pop_first(); // over, most likely
        }
        drop(urgencies);
        let rank = rank(urgency, id.index());
        let _not_yet_or_over = self.sender(id, |stream| stream.set_priority(rank));
    }

    /// What it said last.
    pub fn told_urgency(&self, id: StreamId) -> Option<Urgency> {
        self.urgencies.borrow().get(&VarInt::from(id).into_inner()).copied()
    }

    /// Where the client is now.
    pub fn remote(&self) -> SocketAddr {
        self.quic.borrow().remote_address()
    }

    pub fn is_handshaking(&self) -> bool {
        !self.connected.get() && !self.over.get()
    }

    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Streams that the client gave up so far.
    pub fn cancelled(&self) -> u32 {
        self.cancelled.get()
    }

    /// The client gave a stream up, or opened one for nothing.
    pub fn was_cancelled(&self) {
        self.cancelled.set(self.cancelled.get().saturating_add(1));
        self.wake_task();
    }

    /// The connection's own task is woken when anything of it changes.
    pub fn watch(&self, cx: &Context<'_>) {
        *self.task.borrow_mut() = Some(cx.waker().clone());
    }

    /// The next stream that the client opened.
    pub fn accept(&self) -> Option<Opened> {
        let mut quic = self.quic.borrow_mut();
        let mut streams = quic.streams();
        let request = streams.accept(Dir::Bi).map(Opened::Request);
        request.or_else(|| streams.accept(Dir::Uni).map(Opened::Unidirectional))
    }

    /// From now on the client may have so many requests at once.
    pub fn allow(&self, requests: u32) {
        self.quic.borrow_mut().set_max_concurrent_streams(Dir::Bi, requests.into());
        self.touch();
    }

    /// Opens a unidirectional stream; `None`: the client allows none.
    pub fn open(&self) -> Option<StreamId> {
        self.quic.borrow_mut().streams().open(Dir::Uni)
    }

    /// Ends the connection with a code; what was not delivered is lost.
    pub fn close(&self, code: Code, what: &'static str) {
        if !self.over.get() {
            let reason = Bytes::from_static(what.as_bytes());
            self.quic.borrow_mut().close(now(), number(code), reason);
            self.end();
            self.touch();
        }
    }

    /// Waits for the end of the handshake, on behalf of a stream that writes nothing before.
    pub async fn confirmed(&self, id: StreamId) -> io::Result<()> {
        poll_fn(|cx| {
            if self.is_handshaking() {
                self.writers.wait(id, cx);
                return Poll::Pending;
            }
            Poll::Ready(match self.over.get() {
                true => Err(io::ErrorKind::NotConnected.into()),
                false => Ok(()),
            })
        })
        .await
    }

    /// Has what the path takes found out in this way. `false`: it is already.
    pub fn set_congestion(&self, wanted: Congestion) -> bool {
        let quic = self.quic.borrow();
        let ip = quic.remote_address().ip();
        let mut known = self.dial.borrow_mut();
        // A client at a new address has another one, and so has one that is back from there: nobody else has the old one then.
        known.take_if(|(of, dial)| *of != ip || Arc::strong_count(dial) == 1);
        if known.is_none() {
            *known = Dial::of(&quic).map(|dial| (ip, dial));
        }
        known.as_ref().is_some_and(|(_, dial)| dial.set(wanted))
    }

    /// The next bytes of a stream; `None`: that was all.
    pub async fn read(&self, id: StreamId) -> Result<Option<Bytes>, Ended> {
        poll_fn(|cx| {
            if self.over.get() {
                return Poll::Ready(Err(Ended::Over));
            }
            let mut quic = self.quic.borrow_mut();
            let mut stream = quic.recv_stream(id);
            let Ok(mut chunks) = stream.read(true) else { return Poll::Ready(Err(Ended::Over)) };
            let outcome = chunks.next(READ_BYTES_MAX);
            let tell = chunks.finalize().should_transmit();
            drop(quic);
            if tell {
                self.touch();
            }
            Poll::Ready(match outcome {
                Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
                Err(ReadError::Blocked) => {
                    self.readers.wait(id, cx);
                    return Poll::Pending;
                }
                Err(ReadError::Reset(_)) => Err(Ended::Reset),
            })
        })
        .await
    }

    /// Writes what the stream takes at once of the pieces; waits until it takes something.
    pub async fn write(&self, id: StreamId, pieces: &mut [Bytes]) -> io::Result<()> {
        poll_fn(|cx| {
            if self.over.get() {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
            let outcome = self.quic.borrow_mut().send_stream(id).write_chunks(pieces);
            Poll::Ready(match outcome {
                Ok(written) => {
                    self.written.set(self.written.get() + written.bytes as u64);
                    self.unsent.written(written.bytes as u64);
                    self.touch();
                    Ok(())
                }
                Err(WriteError::Blocked) => {
                    self.writers.wait(id, cx);
                    // What it is blocked by may have to be told.
                    self.touch();
                    return Poll::Pending;
                }
                Err(WriteError::Stopped(_)) => Err(io::ErrorKind::BrokenPipe.into()),
                Err(WriteError::ClosedStream) => Err(io::ErrorKind::NotConnected.into()),
            })
        })
        .await
    }

    /// Bytes that all streams could write so far.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// And that have left.
    pub fn sent(&self) -> u64 {
        self.written.get().saturating_sub(self.unsent.bytes())
    }

    /// Waits, on behalf of a stream, until little of what was written is still to be sent, or the stream can write no more.
    pub async fn little_unsent(&self, id: StreamId) {
        poll_fn(|cx| {
            let mut quic = self.quic.borrow_mut();
            let stream = quic.send_stream(id);
            if self.over.get() || !matches!(stream.stopped(), Ok(None)) {
                return Poll::Ready(());
            }
            let little = self.unsent.poll_little(cx, stream.priority().unwrap_or(0), id);
            if little.is_pending() {
                self.writers.wait(id, cx);
            }
            little
        })
        .await;
    }

    /// Waits until all of a finished stream has come over, or nobody wants it: then what has not left does not (RFC 9000 §3.5).
    pub async fn delivered(&self, id: StreamId) {
        let unwanted = poll_fn(|cx| {
            let mut quic = self.quic.borrow_mut();
            match quic.send_stream(id).stopped() {
                _ if self.over.get() => Poll::Ready(None),
                Ok(None) => {
                    self.writers.wait(id, cx);
                    Poll::Pending
                }
                Ok(code) => Poll::Ready(code),
                Err(_) => Poll::Ready(None),
            }
        })
        .await;
        if let Some(code) = unwanted {
            let _over_already = self.sender(id, |stream| stream.reset(code));
            self.unsent.dropped();
        }
    }

    /// Does something to the sending side of a stream; what cannot be done any more is left.
    pub fn sender<T>(&self, id: StreamId, act: impl FnOnce(&mut SendStream<'_>) -> T) -> T {
        let outcome = act(&mut self.quic.borrow_mut().send_stream(id));
        self.touch();
        outcome
    }

    /// Breaks a stream off.
    pub fn reset(&self, id: StreamId, code: Code) {
        let _ended = self.sender(id, |stream| stream.reset(number(code)));
        self.unsent.dropped();
    }

    /// Asks the client to send no more on a stream.
    pub fn stop(&self, id: StreamId, code: Code) {
        let _ended_already = self.quic.borrow_mut().recv_stream(id).stop(number(code));
        self.touch();
    }

    /// Nobody waits on this stream any more.
    pub fn forget(&self, id: StreamId) {
        self.readers.forget(id);
        self.writers.forget(id);
        self.urgencies.borrow_mut().remove(&VarInt::from(id).into_inner());
    }
}

/// A code as QUIC carries it.
pub fn number(code: Code) -> VarInt {
    VarInt::from_u64(code.0).unwrap_or(VarInt::MAX)
}
