//! Connections: of the ring, or between two tasks of a world.
//!
//! A direction is a queue of segments, each with the moment of its arrival; a sender waits while more than a window is
//! on its way or unread. Faults are data ([`Link`]): what a connection does wrong is known when it is made.

use super::{Death, Inner, Process, current};
use crate::executor::yield_now;
use crate::ktls::SealKey;
use crate::net::{PathInfo, TcpListener as RingListener, TcpStream as RingStream};
use crate::time::{sleep, timeout};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

/// What becomes of an attempt to connect, when somebody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    Answered,
    Refused,
    /// Nothing ever comes back.
    Lost,
}

/// Where one direction ends before its time, in bytes sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Never,
    /// Both sides see a reset.
    Reset(u64),
    /// Nothing arrives any more, and nobody is told.
    Silence(u64),
}

/// How a connection behaves.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// One way.
    pub latency: Duration,
    pub bytes_per_second: u64,
    /// Bytes that arrive together.
    pub segment_bytes: usize,
    /// Bytes on their way or unread.
    pub window_bytes: usize,
    pub dial: Dial,
    /// From the one that connects.
    pub there: Cut,
    /// To the one that connects.
    pub back: Cut,
    /// A receive that is given up takes with it what arrives next: nothing may rest on the ring's being better than that.
    pub losing: bool,
}

impl Default for Link {
    /// A sound one.
    fn default() -> Link {
        Link {
            latency: Duration::from_micros(200),
            bytes_per_second: 1 << 30,
            segment_bytes: 64 * 1024,
            window_bytes: 256 * 1024,
            dial: Dial::Answered,
            there: Cut::Never,
            back: Cut::Never,
            losing: false,
        }
    }
}

struct Pipe {
    queue: VecDeque<(Duration, Vec<u8>)>,
    queued: usize,
    sent: u64,
    /// When the sender's last byte leaves.
    busy_until: Duration,
    /// The end of the stream arrives.
    end: Option<Duration>,
    /// A reset arrives at the reader.
    reset: Option<Duration>,
    /// The reader is gone; the sender hears of it then.
    closed: Option<Duration>,
    silent: bool,
    /// What arrives next is lost with a receive that was given up.
    lose_next: bool,
    link: Link,
    cut: Cut,
    reader: Option<Waker>,
    /// When the reader looks again by itself.
    look: Option<(Duration, Waker)>,
    writer: Option<Waker>,
}

type Shared = Rc<RefCell<Pipe>>;

impl Pipe {
    fn new(link: Link, cut: Cut) -> Shared {
        Rc::new(RefCell::new(Pipe {
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            busy_until: Duration::ZERO,
            end: None,
            reset: None,
            closed: None,
            silent: false,
            lose_next: false,
            link,
            cut,
            reader: None,
            look: None,
            writer: None,
        }))
    }

    /// When something that is sent now arrives: not before what was sent earlier.
    fn arrival(&mut self, now: Duration, bytes: usize) -> Duration {
        let nanos = bytes as u64 * 1_000_000_000 / self.link.bytes_per_second.max(1);
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos);
        self.busy_until + self.link.latency
    }

    fn wake_reader_at(&mut self, world: &Inner, at: Duration) {
        if let Some(reader) = self.reader.take() {
            world.wake_at(at, reader);
        }
    }

    fn wake_writer_at(&mut self, world: &Inner, at: Duration) {
        if let Some(writer) = self.writer.take() {
            world.wake_at(at, writer);
        }
    }

    fn set_reset(&mut self, world: &Inner, at: Duration) {
        let at = self.reset.map_or(at, |reset| reset.min(at));
        self.reset = Some(at);
        self.closed = Some(self.closed.map_or(at, |closed| closed.min(at)));
        self.wake_reader_at(world, at);
        self.wake_writer_at(world, at);
    }

    /// Has the reader look again at `at`, unless it will do so before.
    fn look_again(&mut self, world: &Inner, at: Duration, cx: &Context<'_>) {
        let now = world.elapsed();
        let planned = self.look.as_ref().is_some_and(|(planned, waker)| {
            *planned > now && *planned <= at && waker.will_wake(cx.waker())
        });
        if !planned {
            self.look = Some((at, cx.waker().clone()));
            world.wake_at(at, cx.waker().clone());
        }
    }

    fn poll_receive(
        &mut self,
        world: &Inner,
        into: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let now = world.elapsed();
        if self.reset.is_some_and(|at| at <= now) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        ready!(self.poll_arrived(world, cx));
        match self.queue.front() {
            Some((at, _)) if *at <= now => {}
            _ => return Poll::Ready(Ok(0)),
        }
        let (_, bytes) = self.queue.pop_front().unwrap_or_default();
        self.queued -= bytes.len();
        let opens = now + self.link.latency;
        self.wake_writer_at(world, opens);
        if std::mem::take(&mut self.lose_next) {
            return self.poll_receive(world, into, cx);
        }
        into.extend_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Whether there is something to read: bytes, the end, or a reset.
    fn poll_arrived(&mut self, world: &Inner, cx: &mut Context<'_>) -> Poll<()> {
        let now = world.elapsed();
        let next = self.queue.front().map(|(at, _)| *at).or(self.end);
        if next.into_iter().chain(self.reset).any(|at| at <= now) {
            return Poll::Ready(());
        }
        if let Some(at) = next {
            self.look_again(world, at, cx);
        }
        if let Some(at) = self.reset {
            self.look_again(world, at, cx);
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

struct Listening {
    process: Process,
    queue: VecDeque<(Duration, Socket)>,
    waiter: Option<Waker>,
}

/// Who listens where.
#[derive(Default)]
pub(super) struct Network {
    listeners: BTreeMap<SocketAddr, Rc<RefCell<Listening>>>,
    dialled: u16,
}

impl Network {
    /// Nobody of `process` listens any more.
    pub(super) fn forget(&mut self, process: Process) {
        self.listeners.retain(|_, listening| listening.borrow().process != process);
    }
}

/// One end of a simulated connection.
struct Socket {
    peer: SocketAddr,
    incoming: Shared,
    outgoing: Shared,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(world) = current() else { return };
        let now = world.elapsed();
        let death = world.dying();
        let mut incoming = self.incoming.borrow_mut();
        let mut outgoing = self.outgoing.borrow_mut();
        let heard = now + incoming.link.latency;
        if death == Some(Death::PowerCut) {
            incoming.silent = true;
            outgoing.silent = true;
            return;
        }
        world.event("close", outgoing.sent, incoming.sent);
        incoming.closed = Some(incoming.closed.map_or(heard, |at| at.min(heard)));
        incoming.wake_writer_at(&world, heard);
        // What was not read makes the kernel reset instead of end.
        if death.is_some() || incoming.queue.iter().any(|(at, _)| *at <= now) {
            if !outgoing.silent {
                outgoing.set_reset(&world, heard);
            }
        } else if outgoing.end.is_none() && !outgoing.silent {
            let at = outgoing.arrival(now, 0);
            outgoing.end = Some(at);
            outgoing.wake_reader_at(&world, at);
        }
    }
}

/// A receive that is under way.
struct Receiving<'a> {
    socket: &'a Socket,
    done: bool,
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        let mut incoming = self.socket.incoming.borrow_mut();
        if !self.done && incoming.link.losing {
            incoming.lose_next = true;
        }
    }
}

impl Socket {
    fn world(&self) -> Rc<Inner> {
        current().expect("simulated sockets are used inside of their world")
    }

    async fn receive(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let world = self.world();
        let mut receiving = Receiving { socket: self, done: false };
        let outcome =
            std::future::poll_fn(|cx| self.incoming.borrow_mut().poll_receive(&world, into, cx))
                .await;
        receiving.done = true;
        outcome
    }

    fn is_quiet(&self) -> bool {
        let now = self.world().elapsed();
        let incoming = self.incoming.borrow();
        let arrived = |at: &Duration| *at <= now;
        !incoming.queue.front().is_some_and(|(at, _)| arrived(at))
            && !incoming.end.as_ref().is_some_and(arrived)
            && !incoming.reset.as_ref().is_some_and(arrived)
    }

    /// Puts on the way what the window takes.
    fn poll_send(
        &self,
        world: &Inner,
        bytes: &mut &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let now = world.elapsed();
        let mut pipe = self.outgoing.borrow_mut();
        while !bytes.is_empty() {
            if pipe.closed.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let room = pipe.link.window_bytes.saturating_sub(pipe.queued);
            if room == 0 {
                if let Some(at) = pipe.closed {
                    world.wake_at(at, cx.waker().clone());
                }
                pipe.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let mut n = bytes.len().min(room).min(pipe.link.segment_bytes.max(1));
            match pipe.cut {
                Cut::Reset(limit) | Cut::Silence(limit) if pipe.sent + n as u64 > limit => {
                    n = (limit - pipe.sent.min(limit)) as usize;
                }
                _ => {}
            }
            if n == 0 && matches!(pipe.cut, Cut::Reset(_)) && !pipe.silent {
                let at = now + pipe.link.latency;
                world.event("reset", pipe.sent, 0);
                pipe.set_reset(world, at);
                pipe.closed = Some(now);
                self.incoming.borrow_mut().set_reset(world, now);
                continue;
            }
            if n == 0 {
                if !pipe.silent {
                    world.event("silence", pipe.sent, 0);
                }
                pipe.silent = true;
            }
            if pipe.silent {
                // It goes nowhere, and fills the window.
                n = bytes.len().min(room);
                pipe.queued += n;
                *bytes = &bytes[n..];
                continue;
            }
            let (piece, rest) = bytes.split_at(n);
            let at = pipe.arrival(now, n);
            pipe.queue.push_back((at, piece.to_vec()));
            pipe.queued += n;
            pipe.sent += n as u64;
            pipe.wake_reader_at(world, at);
            *bytes = rest;
        }
        Poll::Ready(Ok(()))
    }

    async fn send_all(&self, pieces: &[&[u8]], stall: Duration) -> io::Result<()> {
        let world = self.world();
        yield_now().await; // as by the ring: nothing leaves before the others have had their turn
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let before = rest.len();
                // Progress at any time begins the stall anew.
                let sending = std::future::poll_fn(|cx| {
                    let start = rest.len();
                    match self.poll_send(&world, &mut rest, cx) {
                        Poll::Pending if rest.len() < start => Poll::Ready(Ok(())),
                        outcome => outcome,
                    }
                });
                match timeout(stall, sending).await {
                    Ok(outcome) => outcome?,
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                }
                debug_assert!(rest.len() < before || rest.is_empty());
            }
        }
        Ok(())
    }

    fn shutdown_write(&self) {
        let Some(world) = current() else { return };
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.end.is_none() && !outgoing.silent {
            let at = outgoing.arrival(world.elapsed(), 0);
            outgoing.end = Some(at);
            outgoing.wake_reader_at(&world, at);
        }
    }

    async fn connect(world: Rc<Inner>, address: SocketAddr) -> io::Result<Socket> {
        let link = (world.links.borrow_mut())(address);
        world.event("connect", u64::from(address.port()), link.latency.as_nanos() as u64);
        if link.dial == Dial::Lost {
            // Longer than anybody waits.
            sleep(Duration::from_secs(3600)).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(link.latency * 2).await;
        let listening = world.network.borrow().listeners.get(&address).cloned();
        let Some(listening) = listening.filter(|_| link.dial == Dial::Answered) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let here = {
            let mut network = world.network.borrow_mut();
            network.dialled = network.dialled.wrapping_add(1).max(1);
            SocketAddr::from((Ipv4Addr::new(10, 99, 0, 1), network.dialled))
        };
        let (there, back) = (Pipe::new(link, link.there), Pipe::new(link, link.back));
        let accepted = Socket { peer: here, incoming: there.clone(), outgoing: back.clone() };
        let mut listening = listening.borrow_mut();
        listening.queue.push_back((world.elapsed(), accepted));
        listening.waiter.take().into_iter().for_each(Waker::wake);
        Ok(Socket { peer: address, incoming: back, outgoing: there })
    }
}

/// As the ring's.
pub fn give_back_message(message: Vec<u8>) {
    if current().is_none() {
        crate::net::give_back_message(message);
    }
}

/// As the ring's.
pub fn empty_message() -> Vec<u8> {
    if current().is_some() { Vec::new() } else { crate::net::empty_message() }
}

enum Kind {
    Ring(RingStream),
    Simulated(Socket),
}

/// As the ring's `TcpStream`.
pub struct TcpStream(Kind);

impl TcpStream {
    /// # Errors
    /// As the ring's.
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        match current() {
            Some(world) => Ok(TcpStream(Kind::Simulated(Socket::connect(world, address).await?))),
            None => Ok(TcpStream(Kind::Ring(RingStream::connect(address).await?))),
        }
    }

    /// As the ring's; a simulated socket stays where it is.
    ///
    /// # Errors
    /// The socket itself.
    pub fn into_std(self) -> Result<std::net::TcpStream, TcpStream> {
        match self.0 {
            Kind::Ring(stream) => stream.into_std().map_err(|stream| TcpStream(Kind::Ring(stream))),
            Kind::Simulated(socket) => Err(TcpStream(Kind::Simulated(socket))),
        }
    }

    /// As the ring's.
    pub fn from_std(socket: std::net::TcpStream) -> TcpStream {
        TcpStream(Kind::Ring(RingStream::from_std(socket)))
    }

    /// # Errors
    /// As the ring's.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Ring(stream) => stream.peer_addr(),
            Kind::Simulated(socket) => Ok(socket.peer),
        }
    }

    pub fn is_quiet(&self) -> bool {
        match &self.0 {
            Kind::Ring(stream) => stream.is_quiet(),
            Kind::Simulated(socket) => socket.is_quiet(),
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.set_nodelay(),
            Kind::Simulated(_) => Ok(()),
        }
    }

    /// A simulated link has a pace of its own.
    ///
    /// # Errors
    /// As the ring's.
    pub fn set_pace(&self, bytes_per_second: Option<u64>) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.set_pace(bytes_per_second),
            Kind::Simulated(_) => Ok(()),
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn set_congestion(&self, name: &'static str) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.set_congestion(name),
            Kind::Simulated(_) => Ok(()),
        }
    }

    /// Nothing ever queues on a simulated link.
    ///
    /// # Errors
    /// As the ring's.
    pub fn path(&self) -> io::Result<PathInfo> {
        match &self.0 {
            Kind::Ring(stream) => stream.path(),
            Kind::Simulated(_) => Ok(PathInfo::default()),
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn set_unsent_max(&self, bytes: u32) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.set_unsent_max(bytes),
            Kind::Simulated(_) => Ok(()),
        }
    }

    /// As the ring's.
    pub async fn arrived(&self) {
        match &self.0 {
            Kind::Ring(stream) => stream.arrived().await,
            Kind::Simulated(_) => std::future::poll_fn(|cx| self.poll_arrived(cx)).await,
        }
    }

    /// As the ring's.
    pub fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.poll_arrived(cx),
            Kind::Simulated(socket) => {
                socket.incoming.borrow_mut().poll_arrived(&socket.world(), cx)
            }
        }
    }

    /// # Errors
    /// As the ring's.
    pub async fn receive(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        match &self.0 {
            Kind::Ring(stream) => stream.receive(into).await,
            Kind::Simulated(socket) => socket.receive(into).await,
        }
    }

    /// # Errors
    /// As the ring's.
    pub async fn send_all(&self, pieces: &[&[u8]], stall: Duration) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.send_all(pieces, stall).await,
            Kind::Simulated(socket) => socket.send_all(pieces, stall).await,
        }
    }

    /// # Errors
    /// As the ring's.
    pub async fn send_message(&self, message: Vec<u8>, stall: Duration) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.send_message(message, stall).await,
            Kind::Simulated(socket) => socket.send_all(&[&message], stall).await,
        }
    }

    /// As the ring's; a simulated socket takes nothing at once.
    ///
    /// # Errors
    /// As the ring's.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Ring(stream) => stream.send_now(bytes),
            Kind::Simulated(_) => Ok(0),
        }
    }

    /// A simulated kernel seals nothing.
    ///
    /// # Errors
    /// As the ring's.
    pub fn seal_by_kernel(&self, key: &SealKey<'_>) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.seal_by_kernel(key),
            Kind::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn change_seal_key(&self, key: &SealKey<'_>) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.change_seal_key(key),
            Kind::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn sealed_records(&self) -> io::Result<u64> {
        match &self.0 {
            Kind::Ring(stream) => stream.sealed_records(),
            Kind::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// # Errors
    /// As the ring's.
    pub async fn send_record(
        &self,
        content_type: u8,
        content: &[u8],
        stall: Duration,
    ) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(stream) => stream.send_record(content_type, content, stall).await,
            Kind::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the other end has gone, though that may not have been heard of here: for who looks on from outside.
    pub fn is_deserted(&self) -> bool {
        match &self.0 {
            Kind::Ring(_) => false,
            Kind::Simulated(socket) => socket.outgoing.borrow().closed.is_some(),
        }
    }

    pub fn shutdown_write(&self) {
        match &self.0 {
            Kind::Ring(stream) => stream.shutdown_write(),
            Kind::Simulated(socket) => socket.shutdown_write(),
        }
    }
}

enum ListenerKind {
    Ring(RingListener),
    Simulated(SocketAddr, Rc<RefCell<Listening>>),
}

/// As the ring's `TcpListener`.
pub struct TcpListener(ListenerKind);

impl TcpListener {
    /// Listens in this world, for the running process; whoever listened there does not any more.
    pub fn simulated(address: SocketAddr) -> TcpListener {
        let world = current().expect("simulated listeners are made inside of their world");
        let process = world.process.get();
        let listening =
            Rc::new(RefCell::new(Listening { process, queue: VecDeque::new(), waiter: None }));
        world.network.borrow_mut().listeners.insert(address, listening.clone());
        TcpListener(ListenerKind::Simulated(address, listening))
    }

    /// # Errors
    /// As the ring's.
    pub fn from_std(socket: std::net::TcpListener) -> io::Result<TcpListener> {
        Ok(TcpListener(ListenerKind::Ring(RingListener::from_std(socket)?)))
    }

    /// # Errors
    /// As the ring's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            ListenerKind::Ring(listener) => listener.local_addr(),
            ListenerKind::Simulated(address, _) => Ok(*address),
        }
    }

    pub fn stop(&self) {
        if let ListenerKind::Ring(listener) = &self.0 {
            listener.stop(); // simulated processes do not stop in order
        }
    }

    /// As the ring's.
    pub fn has_stopped(&self) -> bool {
        match &self.0 {
            ListenerKind::Ring(listener) => listener.has_stopped(),
            ListenerKind::Simulated(..) => true,
        }
    }

    pub async fn accept(&self) -> Option<TcpStream> {
        let listening = match &self.0 {
            ListenerKind::Ring(listener) => {
                return listener.accept().await.map(|stream| TcpStream(Kind::Ring(stream)));
            }
            ListenerKind::Simulated(_, listening) => listening,
        };
        let socket = std::future::poll_fn(|cx| {
            let mut listening = listening.borrow_mut();
            match listening.queue.pop_front() {
                Some((_, socket)) => Poll::Ready(socket),
                None => {
                    listening.waiter = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        Some(TcpStream(Kind::Simulated(socket)))
    }
}
