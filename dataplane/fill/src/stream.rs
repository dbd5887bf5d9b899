//! A connection to a next hop: plain, or TLS (1.3 and 1.2) with a certificate that is verified.
//!
//! Must stay true: a peer whose certificate does not name the server that was asked for, or that no trusted authority
//! signed, is sent nothing.

use crate::tls::{ParkedTls, TlsStream};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tidegate_ring::TcpStream;
use tidegate_tls::{Client, Session};

/// How a next hop is spoken to over TLS.
#[derive(Debug, Clone)]
pub struct HopTls {
    pub config: Arc<ClientConfig>,
    /// Sent as SNI, and looked for in the certificate.
    pub name: ServerName<'static>,
    /// By what its certificate was judged: a connection is not used by who would judge by something else.
    pub judged_by: u64,
}

/// A connection to a next hop.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Client>>),
}

/// A connection that no thread holds.
pub(crate) enum Parked {
    Plain(std::net::TcpStream),
    Tls(Box<ParkedTls<Client>>),
}

impl Stream {
    /// Gives up this thread's part in it; `Err`: that cannot be now.
    pub(crate) fn park(self) -> Result<Parked, Stream> {
        match self {
            Stream::Plain(tcp) => tcp.into_std().map(Parked::Plain).map_err(Stream::Plain),
            Stream::Tls(tls) => match (*tls).park() {
                Ok(parked) => Ok(Parked::Tls(Box::new(parked))),
                Err(tls) => Err(Stream::Tls(tls)),
            },
        }
    }

    pub(crate) fn unpark(parked: Parked) -> Stream {
        match parked {
            Parked::Plain(socket) => Stream::Plain(TcpStream::from_std(socket)),
            Parked::Tls(tls) => Stream::Tls(Box::new(TlsStream::unpark(*tls))),
        }
    }

    /// Puts TLS on a fresh connection when the hop wants it.
    pub(crate) async fn begin(
        tcp: TcpStream,
        tls: Option<&HopTls>,
        stall: Duration,
    ) -> io::Result<Stream> {
        let Some(tls) = tls else { return Ok(Stream::Plain(tcp)) };
        let session = Session::client(tls.config.clone(), tls.name.clone());
        let session = session.map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(TlsStream::begin(tcp, session, stall).await?)))
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
            Stream::Tls(tls) => tls.is_quiet(),
        }
    }
}
