//! A connection to a next hop: plain, or TLS (1.3 and 1.2) with a certificate that is verified.
//!
//! Must stay true: a peer whose certificate does not name the server that was asked for, or that no trusted authority
//! signed, is sent nothing; an end of the connection without close_notify is an error, so that nobody can cut a body
//! short unseen (RFC 8446 §6.1); the sealed bytes in memory are bounded by one piece of [`PIECE_BYTES`].

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tidegate_ring::TcpStream;

/// Plain bytes sealed at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// How a next hop is spoken to over TLS.
#[derive(Debug, Clone)]
pub struct HopTls {
    pub config: Arc<ClientConfig>,
    /// Sent as SNI, and looked for in the certificate.
    pub name: ServerName<'static>,
}

/// A connection to a next hop.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsClient>),
}

impl Stream {
    /// Puts TLS on a fresh connection when the hop wants it.
    pub(crate) async fn begin(
        tcp: TcpStream,
        tls: Option<&HopTls>,
        stall: Duration,
    ) -> io::Result<Stream> {
        match tls {
            None => Ok(Stream::Plain(tcp)),
            Some(tls) => Ok(Stream::Tls(Box::new(TlsClient::connect(tcp, tls, stall).await?))),
        }
    }

    pub(crate) async fn send_all(&mut self, pieces: &[&[u8]], stall: Duration) -> io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.send_all(pieces, stall).await,
            Stream::Tls(tls) => tls.send_all(pieces, stall).await,
        }
    }

    /// Appends what arrives; zero: the peer has ended its side in order.
    pub(crate) async fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.receive(into).await,
            Stream::Tls(tls) => tls.receive(into).await,
        }
    }

    /// Whether the connection is open and nothing waits to be read.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Stream::Plain(tcp) => tcp.is_quiet(),
            Stream::Tls(tls) => tls.plain.is_empty() && !tls.ended && tls.tcp.is_quiet(),
        }
    }
}

/// TLS over one of the ring's sockets.
pub(crate) struct TlsClient {
    tcp: TcpStream,
    connection: ClientConnection,
    sealed: Vec<u8>,
    received: Vec<u8>,
    /// Opened, not yet taken.
    plain: Vec<u8>,
    /// The peer has said that it sends no more.
    ended: bool,
}

impl TlsClient {
    async fn connect(tcp: TcpStream, tls: &HopTls, stall: Duration) -> io::Result<TlsClient> {
        let mut connection = ClientConnection::new(tls.config.clone(), tls.name.clone())
            .map_err(io::Error::other)?;
        connection.set_buffer_limit(None); // bounded by PIECE_BYTES instead
        let mut stream = TlsClient {
            tcp,
            connection,
            sealed: Vec::new(),
            received: Vec::new(),
            plain: Vec::new(),
            ended: false,
        };
        while stream.connection.is_handshaking() {
            if stream.connection.wants_write() {
                stream.flush(stall).await?;
            } else if !stream.take_records(stall).await? {
                let what = "the server ended the connection during the TLS handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
        }
        stream.flush(stall).await?;
        Ok(stream)
    }

    /// Sends what rustls has sealed.
    async fn flush(&mut self, stall: Duration) -> io::Result<()> {
        self.sealed.clear();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.sealed)?;
        }
        if self.sealed.is_empty() {
            Ok(())
        } else {
            self.tcp.send_all(&[&self.sealed], stall).await
        }
    }

    /// Receives records and opens them; `false`: the connection has ended.
    async fn take_records(&mut self, stall: Duration) -> io::Result<bool> {
        self.received.clear();
        if self.tcp.receive(&mut self.received).await? == 0 {
            return Ok(false);
        }
        let mut rest = &self.received[..];
        while !rest.is_empty() && !self.ended {
            if self.connection.read_tls(&mut rest)? == 0 {
                break;
            }
            if let Err(error) = self.connection.process_new_packets() {
                // The alert that says why goes out if it can.
                let _gone = self.flush(stall).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.ended |= take_plain(&mut self.connection, &mut self.plain)?;
        }
        Ok(true)
    }

    async fn send_all(&mut self, pieces: &[&[u8]], stall: Duration) -> io::Result<()> {
        for part in pieces.iter().flat_map(|piece| piece.chunks(PIECE_BYTES)) {
            self.connection.writer().write_all(part)?;
            self.flush(stall).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            if !self.plain.is_empty() {
                let n = self.plain.len();
                into.append(&mut self.plain);
                return Ok(n);
            }
            if self.ended {
                return Ok(0); // close_notify
            }
            // Answers to what the peer asked of the session itself (key updates).
            self.flush(STALL).await?;
            if !self.take_records(STALL).await? {
                let what = "the connection ended without a close_notify";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
        }
    }
}

/// For the few bytes that are sent while receiving.
const STALL: Duration = Duration::from_secs(10);

/// Moves opened bytes to `into`; `true`: the peer has ended its side in order.
fn take_plain(connection: &mut ClientConnection, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0u8; 4096];
    loop {
        match connection.reader().read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(n) => into.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}
