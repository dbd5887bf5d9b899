//! TCP on the ring: accept by one repeating operation, receive into provided buffers, send inline.
//!
//! Small sends are ring operations on a copy; larger ones are tried at once on the non-blocking socket, with borrowed
//! memory, and only a full socket costs a ring operation (readiness). So no large buffer is lent to the kernel for a
//! send, and one unsent tail is all that a slow client can hold (docs/decisions/0001-ring-loop.md).

use crate::driver::{AcceptStream, Operation};
use crate::executor::{current, try_current};
use crate::ktls::{self, SealCipher, SealKey};
use crate::receive_ring;
use crate::time::{sleep, timeout};
use io_uring::{opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Pause after `accept` failed for want of descriptors: connections wait in the backlog meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Messages up to this size are copied and sent by a ring operation: with many clients that saves a system call and a
/// wake-up of the peer for each (1 KiB hits: docs/decisions/0001-ring-loop.md).
const COPIED_BYTES_MAX: usize = 16 * 1024;
/// Message buffers kept for the next sends, and what each of them may occupy.
const MESSAGES_KEPT_MAX: usize = 256;
const MESSAGE_BYTES_KEPT_MAX: usize = 2 * COPIED_BYTES_MAX;

/// A listening socket, made before the cores start: one per core and address, all with SO_REUSEPORT, so that the
/// kernel spreads connections and a successor can listen beside its predecessor.
pub fn bound_listener(address: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, libc::SOCK_STREAM)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind(&socket, address)?;
    // SAFETY: listen takes no pointers.
    if unsafe { libc::listen(socket.as_raw_fd(), backlog) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(std::net::TcpListener::from(socket))
}

/// A new socket of this kind, for an address of this family.
pub(crate) fn socket(address: SocketAddr, kind: i32) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds beside others of this process and of its successor.
pub(crate) fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    if address.is_ipv6() {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    let (storage, len) = socket_address(address);
    // SAFETY: storage holds `len` bytes of a socket address of this family.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const *storage).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits until the socket is ready for `events`.
pub(crate) async fn ready_for(socket: &Rc<impl AsRawFd + 'static>, events: i16) -> io::Result<()> {
    let driver = current().driver.clone();
    let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), events as u16 as u32).build();
    // SAFETY: the entry names no memory; the socket travels in the payload.
    let (result, _, _socket) = unsafe { driver.start(entry, socket.clone()) }.await;
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

pub(crate) fn set_option_bytes(
    socket: &impl AsRawFd,
    level: i32,
    name: i32,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: passes the address and size of a live slice.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's form of an address, on the heap so that it does not move.
fn socket_address(address: SocketAddr) -> (Box<libc::sockaddr_storage>, libc::socklen_t) {
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut storage: Box<libc::sockaddr_storage> = Box::new(unsafe { std::mem::zeroed() });
    let at: *mut libc::sockaddr_storage = &raw mut *storage;
    let len = match address {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large enough and aligned for every socket address.
            unsafe { at.cast::<libc::sockaddr_in>().write(value) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { at.cast::<libc::sockaddr_in6>().write(value) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

/// Accepts connections on this thread's ring.
pub struct TcpListener {
    socket: Rc<std::net::TcpListener>,
    stream: RefCell<Option<AcceptStream>>,
    /// The repeating operation under way.
    armed: Cell<Option<u64>>,
    is_stopped: Cell<bool>,
}

impl TcpListener {
    /// Takes a listening socket (see [`bound_listener`]).
    pub fn from_std(socket: std::net::TcpListener) -> io::Result<TcpListener> {
        socket.set_nonblocking(true)?;
        Ok(TcpListener {
            socket: Rc::new(socket),
            stream: RefCell::new(None),
            armed: Cell::new(None),
            is_stopped: Cell::new(false),
        })
    }

    /// Address it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes no more connections from the kernel: those that wait there stay, for whoever shares the socket.
    /// [`TcpListener::accept`] gives those that were taken, then `None`.
    pub fn stop(&self) {
        self.is_stopped.set(true);
        if let Some(token) = self.armed.get() {
            current().driver.cancel(token);
        }
    }

    /// Whether the kernel has done with [`TcpListener::stop`]. Until then it may wake this process for a connection, and nobody
    /// else (it wakes one of those who wait for the same socket): who takes the socket over would not hear of it.
    pub fn has_stopped(&self) -> bool {
        let is_over = |token| current().driver.has_ended(token);
        self.is_stopped.get() && self.armed.get().is_none_or(is_over)
    }

    /// The next connection; `None` after [`TcpListener::stop`]. Does not fail: when descriptors or memory run out it
    /// counts, pauses and goes on.
    /// For one waiter at a time; dropping the future closes connections that arrived and were not taken.
    pub async fn accept(&self) -> Option<TcpStream> {
        loop {
            let local = current();
            let kept = self.stream.borrow_mut().take();
            let mut stream = match kept {
                Some(stream) => stream,
                None if self.is_stopped.get() => return None,
                None => {
                    let held = Box::new(self.socket.clone());
                    let stream = local.driver.accept_stream(self.socket.as_raw_fd(), held);
                    self.armed.set(Some(stream.token()));
                    stream
                }
            };
            let outcome = std::future::poll_fn(|cx| stream.poll_next(cx)).await;
            match outcome {
                Some(Ok(fd)) => {
                    *self.stream.borrow_mut() = Some(stream);
                    return Some(TcpStream::of(Rc::new(std::net::TcpStream::from(fd))));
                }
                Some(Err(error)) => {
                    let scarce = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
                    if error.raw_os_error().is_some_and(|e| scarce.contains(&e)) {
                        local.driver.stats.borrow_mut().accepts_refused += 1;
                        drop(stream);
                        sleep(ACCEPT_PAUSE).await;
                    } else {
                        *self.stream.borrow_mut() = Some(stream);
                    }
                }
                None => drop(stream), // ended by the kernel: armed anew in the next round
            }
        }
    }
}

/// An empty buffer for [`TcpStream::send_message`], from those that were sent.
pub fn empty_message() -> Vec<u8> {
    current().messages.borrow_mut().pop().unwrap_or_default()
}

/// A buffer that may be one of the next [`empty_message`]s.
pub fn give_back_message(mut message: Vec<u8>) {
    if !(1..=MESSAGE_BYTES_KEPT_MAX).contains(&message.capacity()) {
        return;
    }
    // Also while a runtime ends.
    let Some(local) = try_current() else { return };
    let mut messages = local.messages.borrow_mut();
    if messages.len() < MESSAGES_KEPT_MAX {
        message.clear();
        messages.push(message);
    }
}

/// What a connection's path is like, from its sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathInfo {
    /// There and back, of late and at least.
    pub rtt_us: u32,
    pub rtt_min_us: u32,
    /// Segments with data so far, and those sent once more; the numbers go round.
    pub sent: u32,
    pub resent: u32,
}

/// Of `struct tcp_info` (linux/tcp.h; libc's ends before these), up to what is read of it: `tcpi_rtt`, `tcpi_total_retrans`,
/// `tcpi_min_rtt`, `tcpi_data_segs_out`.
const TCP_INFO_AT: [usize; 4] = [17, 25, 37, 39];
const TCP_INFO_WORDS: usize = 40;

type Receiving = Operation<Rc<std::net::TcpStream>>;

/// A connection on this thread's ring.
pub struct TcpStream {
    socket: Rc<std::net::TcpStream>,
    /// Bytes per second that the kernel was told; zero: nothing.
    pace: Cell<u64>,
    /// The congestion control that it was asked for; empty: none.
    congestion: Cell<&'static str>,
    /// By what the kernel seals what is sent.
    sealed: Cell<Option<SealCipher>>,
    /// Under way, or ended and not taken. It outlives who waits for it, so that nothing is lost with him.
    receiving: RefCell<Option<Receiving>>,
}

impl TcpStream {
    /// Connects; dropping the future gives up.
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        let driver = current().driver.clone();
        let fd = socket(address, libc::SOCK_STREAM)?;
        let socket = Rc::new(std::net::TcpStream::from(fd));
        let (storage, len) = socket_address(address);
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, (&raw const *storage).cast(), len).build();
        // SAFETY: address and socket travel in the payload; a box's contents do not move with it.
        let (result, _, _payload) = unsafe { driver.start(entry, (storage, socket.clone())) }.await;
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        socket.set_nodelay(true)?;
        Ok(TcpStream::of(socket))
    }

    fn of(socket: Rc<std::net::TcpStream>) -> TcpStream {
        let (pace, congestion) = (Cell::new(0), Cell::new(""));
        let (sealed, receiving) = (Cell::new(None), RefCell::new(None));
        TcpStream { socket, pace, congestion, sealed, receiving }
    }

    /// The bare socket, which another thread may take up; `Err`: the kernel still works on it for this thread.
    pub fn into_std(self) -> Result<std::net::TcpStream, TcpStream> {
        let TcpStream { socket, pace, congestion, sealed, receiving } = self;
        Rc::try_unwrap(socket).map_err(|socket| TcpStream {
            socket,
            pace,
            congestion,
            sealed,
            receiving,
        })
    }

    /// Takes up a socket that [`TcpStream::into_std`] gave.
    pub fn from_std(socket: std::net::TcpStream) -> TcpStream {
        TcpStream::of(Rc::new(socket))
    }

    /// Address of the other end.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Whether the connection is open and nothing has arrived that was not received: as a kept connection must be.
    pub fn is_quiet(&self) -> bool {
        // The socket is non-blocking, so that this does not wait.
        self.receiving.borrow().is_none()
            && matches!(self.socket.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends small writes at once (TCP_NODELAY).
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.socket.set_nodelay(true)
    }

    /// Has the kernel send no more than so many bytes per second from now on; `None`: as fast as it goes.
    pub fn set_pace(&self, bytes_per_second: Option<u64>) -> io::Result<()> {
        let pace = bytes_per_second.unwrap_or(0);
        if self.pace.get() == pace {
            return Ok(()); // nothing to tell, and most connections never are paced
        }
        // All ones: without limit (tcp(7); the kernel paces by its own timer where no qdisc does).
        let value = bytes_per_second.unwrap_or(u64::MAX).to_ne_bytes();
        set_option_bytes(&self.socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &value)?;
        self.pace.set(pace);
        Ok(())
    }

    /// Has the kernel find out what the path takes by this one of its ways; it is asked once, so that it also fails once.
    pub fn set_congestion(&self, name: &'static str) -> io::Result<()> {
        if self.congestion.replace(name) == name {
            return Ok(());
        }
        let option = libc::TCP_CONGESTION;
        set_option_bytes(&self.socket, libc::IPPROTO_TCP, option, name.as_bytes())
    }

    /// What the kernel has seen of the path so far.
    pub fn path(&self) -> io::Result<PathInfo> {
        let mut words = [0u32; TCP_INFO_WORDS];
        let mut len = size_of_val(&words) as libc::socklen_t;
        let (fd, into) = (self.socket.as_raw_fd(), words.as_mut_ptr().cast());
        // SAFETY: passes the address and size of a live array, and of a live length; the kernel writes no more than that.
        let outcome =
            unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut len) };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        let [rtt_us, resent, rtt_min_us, sent] = TCP_INFO_AT.map(|at| words[at]);
        Ok(PathInfo { rtt_us, rtt_min_us, sent, resent })
    }

    /// Has the kernel take no more from us while it holds so many bytes that it has not sent yet; zero: as many as the system has it.
    pub fn set_unsent_max(&self, bytes: u32) -> io::Result<()> {
        let value = i32::try_from(bytes).unwrap_or(i32::MAX);
        set_option(&self.socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, value)
    }

    /// Waits until something has arrived, or the other end has closed its side. Dropping the future loses nothing.
    pub async fn arrived(&self) {
        std::future::poll_fn(|cx| self.poll_arrived(cx)).await;
    }

    /// As [`TcpStream::arrived`].
    pub fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.receive_op(|operation| operation.poll_done(cx))
    }

    /// Appends what arrives to `into`; zero bytes mean the other end has closed its side. Dropping the future loses nothing.
    /// For one waiter at a time.
    pub async fn receive(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let (result, flags) = std::future::poll_fn(|cx| self.poll_received(cx)).await;
            match result {
                n if n >= 0 => {
                    current().driver.take_received(flags, n as usize, into);
                    return Ok(n as usize);
                }
                e if e == -libc::ENOBUFS => {
                    current().driver.stats.borrow_mut().receive_buffers_exhausted += 1;
                    ready_for(&self.socket, libc::POLLIN).await?;
                    if let Some(n) = self.receive_inline(into)? {
                        return Ok(n);
                    }
                }
                e if e == -libc::EINTR || e == -libc::EAGAIN => {}
                e => return Err(io::Error::from_raw_os_error(-e)),
            }
        }
    }

    fn poll_received(&self, cx: &mut Context<'_>) -> Poll<(i32, u32)> {
        let (result, flags, _socket) =
            ready!(self.receive_op(|operation| Pin::new(operation).poll(cx)));
        *self.receiving.borrow_mut() = None;
        Poll::Ready((result, flags))
    }

    fn receive_op<T>(&self, work: impl FnOnce(&mut Receiving) -> T) -> T {
        let mut receiving = self.receiving.borrow_mut();
        work(receiving.get_or_insert_with(|| {
            let fd = types::Fd(self.socket.as_raw_fd());
            let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(receive_ring::GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
            // SAFETY: the buffer is picked from the provided ones, which outlive the ring; the socket travels along.
            unsafe { current().driver.start(entry, self.socket.clone()) }
        }))
    }

    fn receive_inline(&self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let mut piece = [0u8; 8192];
        match (&*self.socket).read(&mut piece) {
            Ok(n) => {
                into.extend_from_slice(&piece[..n]);
                Ok(Some(n))
            }
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Sends all of the pieces, in order, waiting while the socket is full: no longer than `stall` for the other end to
    /// take anything (then `TimedOut`). Small messages are copied and go out with the next turn of the ring, many at a
    /// time; larger ones are sent at once from the caller's memory.
    pub async fn send_all(&self, pieces: &[&[u8]], stall: Duration) -> io::Result<()> {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if (1..=COPIED_BYTES_MAX).contains(&total) {
            return timeout(stall, self.send_copied(pieces)).await.unwrap_or_else(late);
        }
        let (mut piece, mut offset) = (0, 0);
        loop {
            while piece < pieces.len() && offset == pieces[piece].len() {
                (piece, offset) = (piece + 1, 0);
            }
            if piece == pieces.len() {
                return Ok(());
            }
            match self.send_some(&pieces[piece..], offset)? {
                Some(mut sent) => {
                    while sent > 0 {
                        let rest = pieces[piece].len() - offset;
                        let step = sent.min(rest);
                        offset += step;
                        sent -= step;
                        if offset == pieces[piece].len() {
                            (piece, offset) = (piece + 1, 0);
                        }
                    }
                }
                None => timeout(stall, ready_for(&self.socket, libc::POLLOUT))
                    .await
                    .unwrap_or_else(late)?,
            }
        }
    }

    async fn send_copied(&self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut message = empty_message();
        for piece in pieces {
            message.extend_from_slice(piece);
        }
        self.send_whole(message).await
    }

    /// Sends a message that was built in one of the [`empty_message`]s, with the next turn of the ring and many others at a
    /// time; `TimedOut` when the other end does not take it within `stall`. For small ones: the memory is lent to the kernel.
    pub async fn send_message(&self, message: Vec<u8>, stall: Duration) -> io::Result<()> {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        timeout(stall, self.send_whole(message)).await.unwrap_or_else(late)
    }

    async fn send_whole(&self, mut message: Vec<u8>) -> io::Result<()> {
        if message.is_empty() {
            return Ok(());
        }
        let local = current();
        let mut done = 0;
        // A kernel that seals refuses the wish; what it leaves over is sent in the next round.
        let whole = if self.sealed.get().is_some() { 0 } else { libc::MSG_WAITALL };
        let outcome = loop {
            // SAFETY: done < message.len(), so the address stays inside the vector.
            let at = unsafe { message.as_ptr().add(done) };
            let entry = opcode::Send::new(
                types::Fd(self.socket.as_raw_fd()),
                at,
                (message.len() - done) as u32,
            )
            .flags(libc::MSG_NOSIGNAL | whole)
            .build();
            // SAFETY: vector and socket travel in the payload; a vector's contents do not move with it.
            let (result, _, payload) =
                unsafe { local.driver.start(entry, (message, self.socket.clone())) }.await;
            message = payload.0;
            match result {
                0 => break Err(io::ErrorKind::WriteZero.into()),
                n if n > 0 => {
                    done += n as usize;
                    if done >= message.len() {
                        break Ok(());
                    }
                }
                e if e == -libc::EINTR || e == -libc::EAGAIN => {}
                e => break Err(io::Error::from_raw_os_error(-e)),
            }
        };
        give_back_message(message);
        outcome
    }

    /// Sends what the socket takes at once; how many bytes that were, zero when it is full.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.send_some(&[bytes], done)? {
                Some(sent) => done += sent,
                None => break,
            }
        }
        Ok(done)
    }

    /// Sends what the socket takes at once of `pieces`, from `skip` bytes into the first; `None`: it is full.
    fn send_some(&self, pieces: &[&[u8]], skip: usize) -> io::Result<Option<usize>> {
        const PIECES_MAX: usize = 8;
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (index, piece) in pieces.iter().take(PIECES_MAX).enumerate() {
            slices[count] = IoSlice::new(if index == 0 { &piece[skip..] } else { piece });
            count += 1;
        }
        loop {
            match (&*self.socket).write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => return Ok(Some(n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Has the kernel seal what is sent from now on as records of TLS 1.3. Nothing may be under way. What was sealed already
    /// and waits for the other end stays as it is.
    ///
    /// # Errors
    /// It does not: nothing has changed.
    pub fn seal_by_kernel(&self, key: &SealKey<'_>) -> io::Result<()> {
        ktls::begin(&self.socket, key)?;
        self.sealed.set(Some(key.cipher));
        Ok(())
    }

    /// The key for what is sent from now on, where the kernel seals. To be told before: [`TcpStream::send_record`].
    ///
    /// # Errors
    /// The kernel does not know how to.
    pub fn change_seal_key(&self, key: &SealKey<'_>) -> io::Result<()> {
        ktls::set_key(&self.socket, key)
    }

    /// How many records the kernel has sealed, with those before it took over.
    ///
    /// # Errors
    /// It seals nothing.
    pub fn sealed_records(&self) -> io::Result<u64> {
        let cipher = self.sealed.get().ok_or(io::ErrorKind::Unsupported)?;
        ktls::sealed(&self.socket, cipher)
    }

    /// Sends a record of another kind than data, sealed by the kernel, behind all that was sent; `TimedOut` when the other end
    /// takes nothing within `stall`.
    pub async fn send_record(
        &self,
        content_type: u8,
        content: &[u8],
        stall: Duration,
    ) -> io::Result<()> {
        loop {
            match ktls::send_record(&self.socket, content_type, content) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let late = |_| Err(io::ErrorKind::TimedOut.into());
                    timeout(stall, ready_for(&self.socket, libc::POLLOUT))
                        .await
                        .unwrap_or_else(late)?
                }
                outcome => return outcome,
            }
        }
    }

    /// Ends the sending side; what is queued is still delivered.
    pub fn shutdown_write(&self) {
        // An error means that the connection is gone already.
        let _gone = self.socket.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// What the kernel says of an option.
    fn option<const N: usize>(stream: &TcpStream, level: i32, name: i32) -> [u8; N] {
        let (mut value, mut len) = ([0u8; N], N as libc::socklen_t);
        let (fd, into) = (stream.socket.as_raw_fd(), value.as_mut_ptr().cast());
        // SAFETY: passes the address and size of a live array, and of a live length.
        let outcome = unsafe { libc::getsockopt(fd, level, name, into, &raw mut len) };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
        value
    }

    #[test]
    fn the_kernel_tells_of_a_path() {
        let listener = bound_listener("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        let stream = TcpStream::from_std(client);
        let before = stream.path().unwrap();
        // Each is acknowledged before the next one leaves.
        for _ in 0..5 {
            (&*stream.socket).write_all(b"ping").unwrap();
            served.read_exact(&mut [0; 4]).unwrap();
            served.write_all(b"pong").unwrap();
            (&*stream.socket).read_exact(&mut [0; 4]).unwrap();
        }
        let path = stream.path().unwrap();
        // More than five: where the machine pauses for so long that the kernel sends once more.
        assert!(path.sent - before.sent >= 5 && path.resent <= path.sent, "{before:?} {path:?}");
        assert!(0 < path.rtt_min_us && path.rtt_min_us <= path.rtt_us, "{path:?}");
        let info: [u8; 160] = option(&stream, libc::IPPROTO_TCP, libc::TCP_INFO);
        let again = u32::from_ne_bytes(info[68..72].try_into().unwrap());
        assert_eq!(again, path.rtt_us);
    }

    #[test]
    fn the_kernel_is_told_how_fast_and_how() {
        let listener = bound_listener("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::from_std(std::net::TcpStream::connect(address).unwrap());
        let pace =
            || u64::from_ne_bytes(option(&stream, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE));
        assert_eq!(pace(), u64::MAX);
        // Beyond 32 bits of bits as of bytes.
        for wanted in [Some(1_250_000), Some(6_000_000_000), None, Some(64_000)] {
            stream.set_pace(wanted).unwrap();
            assert_eq!(pace(), wanted.unwrap_or(u64::MAX));
        }
        stream.set_unsent_max(128 << 10).unwrap();
        let unsent = option(&stream, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
        assert_eq!(i32::from_ne_bytes(unsent), 128 << 10);
        // Every kernel has this one.
        stream.set_congestion("reno").unwrap();
        let name: [u8; 16] = option(&stream, libc::IPPROTO_TCP, libc::TCP_CONGESTION);
        assert!(name.starts_with(b"reno\0"), "{name:?}");
        let unknown = stream.set_congestion("no-such").unwrap_err();
        assert_eq!(unknown.raw_os_error(), Some(libc::ENOENT));
        stream.set_congestion("no-such").unwrap();
    }
}
