//! A TLS connection that is polled, for protocols that read and write at the same time (HTTP/2).
//!
//! What is written is sealed at once, and sealed bytes are gathered until [`Duplex::poll_flush`]: many frames leave by one send.
//! Must stay true: bytes leave in the order in which they were written; what the peer does not take is held once, counted
//! ([`crate::sealed_bytes`]), and bounded by one buffer and what was under way before it.

use crate::tls::{Held, Kernel, TlsStream, invalid, note_held, note_sent};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tidegate_ring::{TcpStream, empty_message};
use tidegate_tls::{Session, Side, sealed_len_max};

/// Sealed bytes gathered for one send.
const GATHERED_BYTES: usize = 256 << 10;
/// Up to this size they are sent with many others by the ring.
const MESSAGE_BYTES_MAX: usize = 12 << 10;
/// Buffers that a thread keeps for the next connection that writes.
const BUFFERS_KEPT: usize = 4;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// A connection in both directions at once.
pub struct Duplex<S: Side> {
    tcp: Rc<TcpStream>,
    session: Session<S>,
    /// Opened, and how much of it was taken.
    plain: (Vec<u8>, usize),
    /// Sealed and not sent: a buffer, and how much of it.
    gathered: Option<(Buffer, usize)>,
    sending: Option<Pending<()>>,
    receiving: Option<Pending<Vec<u8>>>,
    /// How long the peer may take nothing.
    stall: Duration,
    closed: bool,
    /// The kernel seals: what is gathered is plain.
    kernel: Option<Kernel>,
}

impl<S: Side> Duplex<S> {
    /// Of a connection whose handshake is over, or has come to early data.
    pub fn new(stream: TlsStream<S>, stall: Duration) -> Duplex<S> {
        let (tcp, session, plain, kernel) = stream.into_parts();
        Duplex {
            tcp: Rc::new(tcp),
            session,
            plain: (plain, 0),
            gathered: None,
            sending: None,
            receiving: None,
            stall,
            closed: false,
            kernel,
        }
    }

    /// Whether what came may have been recorded, and be sent by somebody else (see [`Session::is_early`]).
    pub fn is_early(&self) -> bool {
        self.session.is_early()
    }

    /// What carries it.
    pub fn tcp(&self) -> &Rc<TcpStream> {
        &self.tcp
    }

    /// What has come and was not taken; nothing: the peer has ended its side in order.
    ///
    /// # Errors
    /// Of the connection or the session; `UnexpectedEof`: the connection ended and the session did not.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_more(cx))?;
        Poll::Ready(Ok(&self.plain.0[self.plain.1..]))
    }

    /// The first `bytes` of what has come are done with.
    pub fn take(&mut self, bytes: usize) {
        self.plain.1 += bytes;
        if self.plain.1 >= self.plain.0.len() {
            self.plain = (Vec::new(), 0); // an idle connection keeps nothing
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.plain.0.is_empty() || self.session.has_ended() {
                return Poll::Ready(Ok(()));
            }
            let come = ready!(self.poll_come(cx))?;
            if come.is_empty() {
                let what = "the connection ended without a close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
            }
            match self.session.incoming() {
                waiting if waiting.is_empty() => *waiting = come,
                waiting => waiting.extend_from_slice(&come),
            }
            let is_shaking = self.session.is_handshaking();
            if is_shaking && self.session.incoming().len() > S::HANDSHAKE_BYTES_MAX {
                let what = "a message of the TLS handshake is too long";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
            let mut due = Vec::new();
            let outcome = self.session.receive(&mut self.plain.0, &mut due);
            self.gather(&due)?;
            outcome.map_err(invalid)?;
        }
    }

    fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        if self.receiving.is_none() {
            ready!(self.tcp.poll_arrived(cx));
            let mut come = Vec::new();
            let polled = pin!(self.tcp.receive(&mut come)).poll(cx);
            if let Poll::Ready(outcome) = polled {
                return Poll::Ready(outcome.map(|_| come));
            }
        }
        // Rarely: there was no buffer for what has arrived.
        let receiving = self.receiving.get_or_insert_with(|| {
            let tcp = self.tcp.clone();
            Box::pin(async move {
                let mut come = Vec::new();
                tcp.receive(&mut come).await?;
                Ok(come)
            })
        });
        let come = ready!(receiving.as_mut().poll(cx));
        self.receiving = None;
        Poll::Ready(come)
    }

    /// Sealed bytes behind what was gathered before. They are few.
    fn gather(&mut self, sealed: &[u8]) -> io::Result<()> {
        if sealed.is_empty() {
            return Ok(());
        }
        let (buffer, len) = self.gathered.get_or_insert_with(|| (Buffer::take(), 0));
        let Some(room) = buffer.0.get_mut(*len..*len + sealed.len()) else {
            let what = "the peer asks for more than it takes";
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
        };
        room.copy_from_slice(sealed);
        *len += sealed.len();
        Ok(())
    }

    /// Seals the pieces; how many bytes of them were taken, as many as there is room for.
    ///
    /// # Errors
    /// The session is not open, or sending what came before failed.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[&[u8]],
    ) -> Poll<io::Result<usize>> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        loop {
            let (buffer, len) = self.gathered.get_or_insert_with(|| (Buffer::take(), 0));
            let room = &mut buffer.0[*len..];
            // Room for the records' overhead, and for an alert.
            let fits = room.len().saturating_sub(sealed_len_max(room.len()) - room.len() + 64);
            if total <= fits {
                *len += self.session.seal(pieces, room).map_err(invalid)?;
                return Poll::Ready(Ok(total));
            }
            if *len == 0 {
                // More than any buffer holds: the first piece, or a part of it.
                let first = pieces.iter().find(|piece| !piece.is_empty());
                let part = first.map(|piece| &piece[..piece.len().min(fits)]).unwrap_or_default();
                *len += self.session.seal(&[part], room).map_err(invalid)?;
                return Poll::Ready(Ok(part.len()));
            }
            ready!(self.poll_flush(cx))?;
        }
    }

    /// Sends what was gathered, as far as the peer takes it.
    ///
    /// # Errors
    /// Of the connection; `TimedOut`: the peer takes nothing.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(sending) = &mut self.sending {
                let outcome = ready!(sending.as_mut().poll(cx));
                self.sending = None;
                outcome?;
            }
            let (tcp, stall) = (self.tcp.clone(), self.stall);
            // Another key before data, goodbye behind it.
            if self.kernel.is_some()
                && let Some(order) = self.session.take_order(self.gathered.is_none())
            {
                self.sending =
                    Some(Box::pin(async move { Kernel::obey(&tcp, order, stall).await }));
                continue;
            }
            let Some((buffer, len)) = self.gathered.take() else { return Poll::Ready(Ok(())) };
            if let Some(kernel) = &mut self.kernel {
                kernel.after(len, &tcp, &mut self.session)?;
            }
            let sealed = &buffer.0[..len];
            if len <= MESSAGE_BYTES_MAX {
                let mut message = empty_message();
                message.extend_from_slice(sealed);
                self.sending =
                    Some(Box::pin(async move { tcp.send_message(message, stall).await }));
            } else {
                let sent = tcp.send_now(sealed)?;
                self.sending = Held::new(&sealed[sent..]).map(|held| -> Pending<()> {
                    Box::pin(async move { tcp.send_all(&[held.bytes()], stall).await })
                });
            }
        }
    }

    /// Whether the peer has not taken all that was flushed.
    pub fn is_blocked(&self) -> bool {
        self.sending.is_some()
    }

    /// Says goodbye, sends it, and ends the sending side.
    ///
    /// # Errors
    /// As [`Duplex::poll_flush`].
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            let mut goodbye = Vec::new();
            self.session.close(&mut goodbye);
            self.gather(&goodbye)?;
        }
        ready!(self.poll_flush(cx))?;
        self.tcp.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

/// What is gathered; counted as sealed for as long as a connection has it, and a thread's when that has none any more.
struct Buffer(Box<[u8]>);

impl Buffer {
    fn take() -> Buffer {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        let bytes =
            kept.unwrap_or_else(|| vec![0; sealed_len_max(GATHERED_BYTES)].into_boxed_slice());
        note_held(bytes.len());
        Buffer(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        note_sent(self.0.len());
        let bytes = std::mem::take(&mut self.0);
        // A thread that ends keeps none.
        let _kept = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < BUFFERS_KEPT {
                buffers.push(bytes);
            }
        });
    }
}
