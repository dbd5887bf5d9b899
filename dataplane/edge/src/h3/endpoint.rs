//! QUIC on one socket of one core: datagrams in, `quinn-proto`'s machines, datagrams out.
//!
//! ```text
//! receive():  socket, in batches --> Post: ours? --> Endpoint::handle --> connections that have work
//! drive():    letters of other cores, timers, then each connection that has work: its events, one batch of packets
//! ```
//! When another process has taken this one's place, it reads the socket, and what is for connections of this one comes as
//! letters; both send. A batch is one system call (GSO), and a connection that has more to send goes to the end of the queue, so that one
//! that sends much takes nobody's turn.
//!
//! Must stay true: a client that has not proved its address costs a bounded number of handshakes, and beyond them no memory
//! at all (Retry); while the socket is full one batch waits, and all connections with it.

use super::connection::Connection;
use super::handshake::{Greeting, QuicTls};
use super::post::{Addressee, Datagram, Ids, Post};
use super::{DATAGRAM_BYTES_MAX, HANDSHAKES_MAX, RETRY_FROM, Template};
use crate::callers::Callers;
use crate::core::{CLIENTS_MAX, Seat, Stages, Stop};
use crate::drain::Drain;
use crate::tls::Tls;
use arc_swap::ArcSwapOption;
use bytes::BytesMut;
use quinn_proto::crypto::HmacKey;
use quinn_proto::{
    DatagramEvent, EndpointConfig, Event, Incoming, ServerConfig, StreamEvent, Transmit,
};
use quinn_udp::{RecvMeta, UdpSocketState};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidegate_engine::Core;
use tidegate_engine::isolate::isolated;
use tidegate_engine::memory::{CLIENT_BYTES, CLIENT_QUIC_BYTES, Pressure};
use tidegate_ring::{Sleep, UdpSocket, now, sleep, sleep_until, spawn, yield_now};

/// Datagrams of one batch out: 64 KiB of them (runtime.md 6: a fifth of the cost of one by one).
const SEGMENTS_MAX: usize = 44;
/// Messages received at once, each of up to 64 KiB of datagrams (GRO).
const RECEIVE_MESSAGES: usize = 8;
const RECEIVE_BYTES: usize = 64 << 10;
/// Batches received before other tasks get their turn.
const RECEIVE_ROUNDS: usize = 8;
/// Connections that send before other tasks get their turn.
const TURNS_MAX: usize = 32;
/// Letters of other cores taken at once.
const LETTERS_ROUND: usize = 64;
/// Between stateless resets. After a restart each client is owed one; each is smaller than what it answers, so that a flood
/// of them goes nowhere, and costs a tenth of a core at most.
const RESET_INTERVAL_MIN: Duration = Duration::from_micros(100);
/// Asked of the kernel for the socket, in each direction.
const SOCKET_BYTES: usize = 4 << 20;
/// After a socket said something that it should not.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// One socket's QUIC.
pub struct Endpoint {
    pub(super) core: Rc<Core>,
    pub(super) drain: Rc<Drain>,
    pub(super) replaced: Rc<Drain>,
    stop: Arc<Stop>,
    /// Which of the post's mailboxes is its own.
    index: usize,
    tls: Arc<ArcSwapOption<Tls>>,
    pub(super) callers: Arc<Callers>,
    socket: UdpSocket,
    state: UdpSocketState,
    post: Arc<Post>,
    template: Arc<Template>,
    /// Of the certificates in use.
    crypto: RefCell<Option<Arc<QuicTls>>>,
    quic: RefCell<quinn_proto::Endpoint>,
    /// By the library's numbers, which it gives anew.
    connections: RefCell<Vec<Option<Rc<Connection>>>>,
    /// Connections that something came for, of which nobody has heard yet.
    touched: RefCell<Vec<Rc<Connection>>>,
    /// Connections that have work.
    due: RefCell<VecDeque<usize>>,
    timers: RefCell<BTreeSet<(Instant, usize)>>,
    driver: RefCell<Option<Waker>>,
    handshakes: Cell<usize>,
}

/// What one core is given for one address.
pub struct EndpointParts {
    pub socket: StdUdpSocket,
    pub post: Arc<Post>,
    /// Which of the post's mailboxes is its own.
    pub index: usize,
    pub template: Arc<Template>,
    /// Of stateless resets.
    pub reset_key: Arc<dyn HmacKey>,
}

impl Endpoint {
    /// Starts it on this core.
    ///
    /// # Errors
    /// The socket is of no use.
    pub fn start(
        core: Rc<Core>,
        Stages { drain, replaced, stop }: Stages,
        tls: Arc<ArcSwapOption<Tls>>,
        callers: Arc<Callers>,
        EndpointParts { socket, post, index, template, reset_key }: EndpointParts,
    ) -> io::Result<()> {
        let state = UdpSocketState::new((&socket).into())?;
        // As much of it as the system allows.
        let _less = state.set_recv_buffer_size((&socket).into(), SOCKET_BYTES);
        let _less = state.set_send_buffer_size((&socket).into(), SOCKET_BYTES);
        let ids = post.clone();
        let mut config = EndpointConfig::new(reset_key);
        config.min_reset_interval(RESET_INTERVAL_MIN);
        config.cid_generator(move || Box::new(Ids::new(ids.clone(), index)));
        config.max_udp_payload_size(DATAGRAM_BYTES_MAX as u16).map_err(io::Error::other)?;
        let probes_mtu = !state.may_fragment();
        let endpoint = Rc::new(Endpoint {
            core,
            drain,
            replaced,
            stop,
            index,
            tls,
            callers,
            socket: UdpSocket::from_std(socket)?,
            state,
            post,
            template,
            crypto: RefCell::new(None),
            quic: RefCell::new(quinn_proto::Endpoint::new(
                Arc::new(config),
                None,
                probes_mtu,
                None,
            )),
            connections: RefCell::default(),
            touched: RefCell::default(),
            due: RefCell::default(),
            timers: RefCell::default(),
            driver: RefCell::new(None),
            handshakes: Cell::new(0),
        });
        spawn(endpoint.clone().keep(Endpoint::receive));
        spawn(endpoint.keep(Endpoint::drive));
        Ok(())
    }

    /// A broken invariant ends what it was about, not the socket's work.
    async fn keep<F: Future<Output = bool> + 'static>(self: Rc<Self>, work: fn(Rc<Self>) -> F) {
        let is_over = Rc::new(Cell::new(false));
        while !is_over.get() {
            let (work, over) = (work(self.clone()), is_over.clone());
            let work = async move { over.set(work.await) };
            isolated(Box::pin(work), || self.core.counters.panics_total.increment()).await;
            yield_now().await;
        }
    }

    /// Has this connection's work done.
    pub(super) fn enqueue(&self, connection: &Connection) {
        if !connection.queued.replace(true) {
            self.due.borrow_mut().push_back(connection.handle.0);
            if let Some(driver) = &*self.driver.borrow() {
                driver.wake_by_ref();
            }
        }
    }

    pub(super) fn handshake_ended(&self) {
        self.handshakes.set(self.handshakes.get() - 1);
    }

    /// Until the socket is another process'.
    async fn receive(self: Rc<Self>) -> bool {
        let mut replaced = pin!(self.replaced.begun());
        let mut buffer = vec![0; RECEIVE_MESSAGES * RECEIVE_BYTES];
        let mut answer = Vec::new();
        loop {
            let mut readable = pin!(self.socket.readable());
            let next = poll_fn(|cx| {
                if replaced.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                readable.as_mut().poll(cx).map(Some)
            });
            match next.await {
                None => {
                    self.stop.unread.fetch_add(1, Ordering::SeqCst);
                    return true;
                }
                Some(Ok(())) => {}
                Some(Err(_)) => {
                    sleep(ERROR_PAUSE).await;
                    continue;
                }
            }
            self.look_at_certificates();
            for _ in 0..RECEIVE_ROUNDS {
                let mut metas = [RecvMeta::default(); RECEIVE_MESSAGES];
                let mut messages = buffer.chunks_mut(RECEIVE_BYTES).map(IoSliceMut::new);
                let mut messages: [IoSliceMut<'_>; RECEIVE_MESSAGES] =
                    std::array::from_fn(|_| messages.next().unwrap_or(IoSliceMut::new(&mut [])));
                let count = match self.state.recv((&self.socket).into(), &mut messages, &mut metas)
                {
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => break, // nothing more, or an error that the next wait finds again
                };
                // When it was read, for all of it alike: round trips are measured by that.
                let came = now();
                for (message, meta) in messages.iter().zip(&metas[..count]) {
                    for bytes in message[..meta.len].chunks(meta.stride.max(1)) {
                        self.sort(bytes, meta, came, &mut answer);
                    }
                }
                if count < RECEIVE_MESSAGES {
                    break; // that was all, without another call that says so
                }
            }
            self.hear_touched();
            yield_now().await;
        }
    }

    /// Takes a datagram, or hands it to the core that it is for.
    fn sort(self: &Rc<Self>, bytes: &[u8], meta: &RecvMeta, came: Instant, answer: &mut Vec<u8>) {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return;
        }
        let datagram = Datagram {
            remote: meta.addr,
            local_ip: meta.dst_ip,
            ecn: meta.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8)),
            bytes: BytesMut::from(bytes),
        };
        let is_sent = match self.post.addressee(bytes) {
            Some(Addressee::Here(index)) if index != self.index => self.post.send(index, datagram),
            Some(Addressee::Elder(elder)) if elder.is_there() => elder.send(&datagram),
            _ => return self.handle(datagram, came, answer),
        };
        let counters = &self.core.counters;
        match is_sent {
            true => counters.quic_forwarded_total.increment(),
            false => counters.quic_dropped_total.increment(),
        }
    }

    fn connection(&self, handle: usize) -> Option<Rc<Connection>> {
        self.connections.borrow().get(handle).cloned().flatten()
    }

    fn handle(self: &Rc<Self>, datagram: Datagram, came: Instant, answer: &mut Vec<u8>) {
        answer.clear();
        let Datagram { remote, local_ip, ecn, bytes } = datagram;
        let len = bytes.len();
        let event = self.quic.borrow_mut().handle(came, remote, local_ip, ecn, bytes, answer);
        match event {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let connection = self.connection(handle.0);
                if let Some(connection) = connection {
                    connection.came(len);
                    connection.quic.borrow_mut().handle_event(event);
                    self.touched.borrow_mut().push(connection);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.meet(incoming, len, answer),
            Some(DatagramEvent::Response(transmit)) => self.respond(&transmit, answer),
        }
    }

    /// Somebody new.
    fn meet(self: &Rc<Self>, incoming: Incoming, len: usize, answer: &mut Vec<u8>) {
        answer.clear();
        let core = &self.core;
        // Who may have forged his address is asked to prove it before it is held against anybody.
        let unwelcome = self.is_unwelcome(incoming.remote_address());
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        if unwelcome && proven {
            core.counters.clients_turned_away_total.increment();
        }
        let full = unwelcome && proven
            || core.clients.get() >= CLIENTS_MAX
            || core.node.memory.pressure() >= Pressure::Scarce
            || self.handshakes.get() >= HANDSHAKES_MAX
            // What a successor sends here began here: it has this process' Retry token.
            || (self.drain.is_begun() && !self.replaced.is_begun());
        if full {
            core.counters.quic_refused_total.increment();
            let transmit = self.quic.borrow_mut().refuse(incoming, answer);
            return self.respond(&transmit, answer);
        }
        if (unwelcome || self.handshakes.get() >= RETRY_FROM) && !proven {
            core.counters.quic_retries_total.increment();
            if let Ok(transmit) = self.quic.borrow_mut().retry(incoming, answer) {
                self.respond(&transmit, answer);
            }
            return;
        }
        let is_proved = incoming.remote_address_validated();
        let accepted = self.quic.borrow_mut().accept(incoming, now(), answer, None);
        let (handle, quic) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                core.count(|c| &c.tls_errors_total, 1);
                if let Some(transmit) = error.response {
                    self.respond(&transmit, answer);
                }
                return;
            }
        };
        let seat = Seat::take(core, CLIENT_BYTES + CLIENT_QUIC_BYTES);
        let connection = Rc::new(Connection::new(Rc::downgrade(self), handle, quic, seat));
        if !is_proved {
            connection.bound(len);
        }
        let mut connections = self.connections.borrow_mut();
        if connections.len() <= handle.0 {
            connections.resize(handle.0 + 1, None);
        }
        connections[handle.0] = Some(connection.clone());
        drop(connections);
        self.handshakes.set(self.handshakes.get() + 1);
        self.enqueue(&connection);
        core.spawn(super::serve(self.clone(), connection));
    }

    /// Whether this address has as much as it may have.
    fn is_unwelcome(&self, remote: SocketAddr) -> bool {
        let view = self.core.node.view.load();
        !view.is_of_fleet(remote.ip())
            && self.callers.look(remote, &view.me.machine.client_limits, now()).is_err()
    }

    /// Sends a datagram that belongs to no connection; when the socket is full it is lost, as on the network.
    fn respond(&self, transmit: &Transmit, bytes: &[u8]) {
        let _lost = self.state.send((&self.socket).into(), &outgoing(transmit, bytes));
    }

    /// New certificates are for new clients.
    fn look_at_certificates(&self) {
        let tls = self.tls.load();
        let crypto = tls.as_ref().and_then(|tls| tls.quic());
        let mut known = self.crypto.borrow_mut();
        if crypto.map(Arc::as_ptr) != known.as_ref().map(Arc::as_ptr) {
            *known = crypto.cloned();
            let config = known.as_ref().map(|tls| {
                let mut config = ServerConfig::clone(&self.template.server);
                let (tls, node) = (tls.clone(), self.core.node.clone());
                config.crypto = Arc::new(Greeting { tls, node });
                Arc::new(config)
            });
            self.quic.borrow_mut().set_server_config(config);
        }
    }

    async fn drive(self: Rc<Self>) -> bool {
        let mut timer = None;
        let (mut packets, mut answer) = (Vec::new(), Vec::new());
        loop {
            let first = poll_fn(|cx| self.poll_work(cx, &mut timer)).await;
            // Tasks that were woken together with this one, and those that they begin, write first.
            yield_now().await;
            let index = self.index;
            let mut letter = first.or_else(|| self.post.take(index, None));
            for _ in 0..LETTERS_ROUND {
                let Some(datagram) = letter.take() else { break };
                self.handle(datagram, now(), &mut answer);
                letter = self.post.take(index, None);
            }
            if let Some(datagram) = letter {
                self.handle(datagram, now(), &mut answer);
            }
            self.hear_touched();
            self.expire();
            let turns = self.due.borrow().len().min(TURNS_MAX);
            for _ in 0..turns {
                let Some(handle) = self.due.borrow_mut().pop_front() else { break };
                let connection = self.connection(handle);
                if let Some(connection) = connection {
                    self.turn(&connection, &mut packets).await;
                }
            }
        }
    }

    /// Ready when there is something to do; the letter that came, if it is one.
    fn poll_work(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Option<(Instant, Sleep)>,
    ) -> Poll<Option<Datagram>> {
        *self.driver.borrow_mut() = Some(cx.waker().clone());
        if let Some(letter) = self.post.take(self.index, Some(cx.waker())) {
            return Poll::Ready(Some(letter));
        }
        if !self.due.borrow().is_empty() {
            return Poll::Ready(None);
        }
        let Some(at) = self.timers.borrow().first().map(|(at, _)| *at) else {
            *timer = None;
            return Poll::Pending;
        };
        let (_, sleep) = match timer {
            // One that rings too early does no harm.
            Some(armed) if armed.0 <= at && armed.0 > now() => armed,
            _ => timer.insert((at, sleep_until(at))),
        };
        Pin::new(sleep).poll(cx).map(|()| None)
    }

    /// Tells connections that their time has come.
    fn expire(&self) {
        let now = now();
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some((at, handle)) = timers.first().copied().filter(|(at, _)| *at <= now) else {
                return;
            };
            timers.remove(&(at, handle));
            let connection = self.connection(handle);
            if let Some(connection) = connection.filter(|c| c.timer.get() == Some(at)) {
                connection.timer.set(None);
                connection.quic.borrow_mut().handle_timeout(now);
                self.enqueue(&connection);
            }
        }
    }

    /// One connection's turn: what happened in it, and one batch of what it has to send.
    async fn turn(&self, connection: &Rc<Connection>, packets: &mut Vec<u8>) {
        connection.queued.set(false);
        self.hear(connection);
        packets.clear();
        // Without room it waits for the client, or for its end.
        let segments = self.state.max_gso_segments().min(SEGMENTS_MAX).min(connection.room());
        let now = now();
        let allowed = connection.bucket.borrow_mut().take(now, segments.max(1));
        let transmit = match allowed {
            _ if segments == 0 => None,
            // What closes it waits for nothing.
            Err(until) if !connection.is_over() => {
                let waited = connection.paced_until.replace(Some(until)).is_some();
                self.core.count(|c| &c.quic_paced_total, u64::from(!waited));
                None
            }
            allowed => {
                connection.paced_until.set(allowed.err());
                let segments = allowed.unwrap_or(1);
                connection.quic.borrow_mut().poll_transmit(now, segments, packets)
            }
        };
        if let Some(transmit) = &transmit {
            connection.bucket.borrow_mut().sent(transmit.size);
        }
        self.hear(connection);
        self.arm(connection);
        if connection.drained.get() {
            self.connections.borrow_mut()[connection.handle.0] = None;
        }
        let Some(transmit) = transmit else { return };
        connection.went(transmit.size);
        let outgoing = outgoing(&transmit, packets);
        while self.state.send((&self.socket).into(), &outgoing).is_err() {
            if self.socket.writable().await.is_err() {
                sleep(ERROR_PAUSE).await;
            }
        }
        // It may have more.
        self.enqueue(connection);
    }

    /// Passes on what a connection has to tell.
    fn hear(&self, connection: &Connection) {
        let mut quic = connection.quic.borrow_mut();
        while let Some(event) = quic.poll_endpoint_events() {
            if event.is_drained() {
                connection.drained.set(true);
            }
            let back = self.quic.borrow_mut().handle_event(connection.handle, event);
            if let Some(back) = back {
                quic.handle_event(back);
            }
        }
        let mut writable = Vec::new();
        while let Some(event) = quic.poll() {
            match event {
                Event::Stream(StreamEvent::Writable { id }) => writable.push(id),
                event => connection.heard(event),
            }
        }
        // The first to run takes what room there is: the most urgent one; equals come by turns as they are.
        writable.sort_by_key(|id| Reverse(quic.send_stream(*id).priority().unwrap_or(0)));
        for id in writable {
            connection.heard(Event::Stream(StreamEvent::Writable { id }));
        }
    }

    /// Passes on what came. Tasks are woken by it before the driver is, so that what they answer leaves with the acknowledgements.
    fn hear_touched(&self) {
        let mut touched = self.touched.take();
        for connection in &touched {
            self.hear(connection);
        }
        touched.drain(..).for_each(|connection| self.enqueue(&connection));
        self.touched.replace(touched);
    }

    /// Has its timer ring when it wants.
    fn arm(&self, connection: &Connection) {
        let wanted = connection.quic.borrow_mut().poll_timeout();
        let wanted = wanted.into_iter().chain(connection.paced_until.get()).min();
        let armed = connection.timer.get();
        // One that rings too early does no harm, and nearly each batch would move it to a little later.
        let is_early = armed.zip(wanted).is_some_and(|(armed, wanted)| armed <= wanted);
        if armed != wanted && !is_early {
            connection.timer.set(wanted);
            let mut timers = self.timers.borrow_mut();
            if let Some(at) = armed {
                timers.remove(&(at, connection.handle.0));
            }
            if let Some(at) = wanted {
                timers.insert((at, connection.handle.0));
            }
        }
    }
}

fn outgoing<'a>(transmit: &Transmit, bytes: &'a [u8]) -> quinn_udp::Transmit<'a> {
    quinn_udp::Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
        contents: &bytes[..transmit.size],
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    }
}
