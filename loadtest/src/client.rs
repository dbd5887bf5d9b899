//! One connection: opens it, sends a request, reads the answer and throws the body away.
//!
//! Must stay true: a request is sent once and never repeated on its own; a connection is used again only
//! after an answer that ended where it said. The read buffer belongs to the thread, not to the connection,
//! so that many connections cost little: bytes leave it before anyone waits.

use crate::answer::{Answer, AnswerReader, AtClose, KnownHead, Look, Malformed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that one read may take: above it, larger reads gained nothing.
pub const READ_BYTES: usize = 256 * 1024;

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// https: the name that the certificate must have.
    pub tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub enum Failure {
    ClosedEarly(Option<io::Error>),
    ShortBody(Option<io::Error>),
    Malformed(Malformed),
}

/// What is seen of an exchange from outside while it goes on.
pub trait Watch: Look {
    /// Bytes came from the server.
    fn received(&mut self, bytes: usize);
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    known: Option<KnownHead>,
}

impl Connection {
    /// Connects, and shakes hands for https.
    ///
    /// # Errors
    /// Those of the network and of TLS.
    pub async fn open(endpoint: &Endpoint) -> io::Result<Connection> {
        let stream = TcpStream::connect(endpoint.address).await?;
        stream.set_nodelay(true)?;
        let tls = match &endpoint.tls {
            None => None,
            Some((name, config)) => {
                let tls = ClientConnection::new(Arc::clone(config), name.clone());
                Some(Box::new(tls.map_err(io::Error::other)?))
            }
        };
        let mut connection = Connection { stream, tls, known: None };
        connection.handshake().await?;
        Ok(connection)
    }

    async fn handshake(&mut self) -> io::Result<()> {
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.flush_tls().await?;
            if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) && !self.fill_tls()? {
                self.stream.readable().await?;
            }
        }
        self.flush_tls().await
    }

    /// Gives the kernel what TLS has to send.
    async fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut Raw(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes records from the kernel; false when there is nothing yet.
    fn fill_tls(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        match tls.read_tls(&mut Raw(&self.stream)) {
            Ok(0) if tls.is_handshaking() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                tls.process_new_packets()
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what there is; `WouldBlock` when there is nothing yet, `Ok(0)` at an orderly end.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.stream.try_read(buffer);
        }
        loop {
            let Some(tls) = &mut self.tls else { return Ok(0) };
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if !self.fill_tls()? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            // Requests are far smaller than what rustls keeps (64 KiB by default), but it may take less.
            while !bytes.is_empty() {
                let taken = tls.writer().write(bytes)?;
                bytes = &bytes[taken..];
                while tls.wants_write() {
                    match tls.write_tls(&mut Raw(&self.stream)) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                            self.stream.writable().await?;
                        }
                        other => drop(other?),
                    }
                }
            }
            return Ok(());
        }
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The peer ended this idle connection, or sent what nobody asked for.
    pub fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        !matches!(self.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends one request and reads its answer; the body is shown to `watch` and not kept.
    ///
    /// # Errors
    /// When there is no whole answer; the connection is of no more use then.
    pub async fn exchange(
        &mut self,
        request: &[u8],
        scratch: &RefCell<Vec<u8>>,
        watch: &mut impl Watch,
    ) -> Result<Answer, Failure> {
        // A server may answer and close before it has read all: what it said counts, not the failed write.
        let written = self.write_all(request).await;
        let mut reader = AnswerReader::knowing(self.known.take());
        // The start of a head that did not come in one piece.
        let mut held: Vec<u8> = Vec::new();
        while !reader.is_done() {
            let read = self.read_some(scratch, |bytes| {
                watch.received(bytes.len());
                if held.is_empty() {
                    let used = reader.feed(bytes, &mut *watch)?;
                    held.extend_from_slice(&bytes[used..]);
                } else {
                    held.extend_from_slice(bytes);
                    let used = reader.feed(&held, &mut *watch)?;
                    held.drain(..used);
                }
                Ok(bytes.len())
            });
            let error = match read.await {
                Ok(Ok(0)) => None,
                Ok(Ok(_)) => continue,
                Ok(Err(malformed)) => return Err(Failure::Malformed(malformed)),
                Err(error) => Some(error),
            };
            let error = error.or(written.err());
            return match reader.at_close() {
                AtClose::Complete if error.is_none() => Ok(reader.answer().clone()),
                AtClose::InHead => Err(Failure::ClosedEarly(error)),
                _ => Err(Failure::ShortBody(error)),
            };
        }
        let answer = reader.answer().clone();
        self.known = reader.into_known();
        Ok(answer)
    }

    /// Waits for bytes and shows them to `take`, which must be done with them when it returns.
    async fn read_some<E>(
        &mut self,
        scratch: &RefCell<Vec<u8>>,
        take: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> io::Result<Result<usize, E>> {
        if self.tls.is_none() {
            return read_plain(&mut self.stream, scratch, take).await;
        }
        loop {
            {
                let mut scratch = scratch.borrow_mut();
                match self.try_read(&mut scratch) {
                    Ok(0) => return Ok(Ok(0)),
                    Ok(count) => return Ok(take(&scratch[..count])),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            self.flush_tls().await?;
            self.stream.readable().await?;
        }
    }
}

/// The same without TLS. tokio knows from a short read that nothing more is there; so neither the next read nor
/// the look at an idle connection asks the kernel in vain, which is a tenth of what a small answer costs.
async fn read_plain<E>(
    stream: &mut TcpStream,
    scratch: &RefCell<Vec<u8>>,
    take: impl FnOnce(&[u8]) -> Result<usize, E>,
) -> io::Result<Result<usize, E>> {
    let count = poll_fn(|context| {
        let mut scratch = scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        let read = Pin::new(&mut *stream).poll_read(context, &mut buffer);
        read.map_ok(|()| buffer.filled().len())
    });
    // Nothing is awaited between the read and the look at what it left.
    match count.await? {
        0 => Ok(Ok(0)),
        count => Ok(take(&scratch.borrow()[..count])),
    }
}

/// The socket as rustls wants it.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
