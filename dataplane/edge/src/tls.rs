//! TLS 1.3 to clients: rustls over the ring's sockets.
//!
//! Must stay true: plain bytes leave only through `send_all`; the record buffer is bounded by one piece of
//! [`PIECE_BYTES`], opened bytes by one receive; a peer that closes without close_notify ends the connection, not the process.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::Transport;
use tidegate_engine::client::SEND_STALL_MAX;
use tidegate_ring::{TcpStream, timeout};

/// Plain bytes sealed at a time: large sends cost less per byte, and this bounds a slow client's memory.
const PIECE_BYTES: usize = 256 * 1024;
/// From the connection's first byte to the end of the handshake.
const HANDSHAKE_SPAN_MAX: Duration = Duration::from_secs(10);

/// Reads certificate chain and key.
///
/// # Errors
/// A text that names the file and what is wrong with it.
pub fn config(certificate: &str, key: &str) -> Result<Arc<ServerConfig>, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(|items| items.collect())
        .map_err(|e| format!("certificate {certificate}: {e}\n    mend: give a PEM file with the chain, leaf first"))?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| {
        format!("key {key}: {e}\n    mend: give a PEM file with the certificate's private key")
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| format!("TLS 1.3 is not available: {e}"))?
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(|e| format!("certificate {certificate} and key {key} do not go together: {e}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client connection over TLS.
pub struct TlsStream {
    tcp: TcpStream,
    connection: ServerConnection,
    sealed: Vec<u8>,
    received: Vec<u8>,
    /// Opened, not yet taken.
    plain: Vec<u8>,
    /// The peer has said that it sends no more.
    ended: bool,
}

impl TlsStream {
    /// Does the handshake.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        connection.set_buffer_limit(None); // bounded by PIECE_BYTES instead
        let mut stream = TlsStream {
            tcp,
            connection,
            sealed: Vec::new(),
            received: Vec::new(),
            plain: Vec::new(),
            ended: false,
        };
        match timeout(HANDSHAKE_SPAN_MAX, stream.handshake()).await {
            Ok(outcome) => outcome.map(|()| stream),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn handshake(&mut self) -> io::Result<()> {
        while self.connection.is_handshaking() {
            if self.connection.wants_write() {
                self.flush().await?;
            } else if !self.take_records().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush().await
    }

    /// Sends what rustls has sealed.
    async fn flush(&mut self) -> io::Result<()> {
        self.sealed.clear();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.sealed)?;
        }
        if self.sealed.is_empty() {
            Ok(())
        } else {
            self.tcp.send_all(&[&self.sealed], SEND_STALL_MAX).await
        }
    }

    /// Receives records and opens them; `false`: the peer has closed.
    async fn take_records(&mut self) -> io::Result<bool> {
        self.received.clear();
        if self.tcp.receive(&mut self.received).await? == 0 {
            return Ok(false);
        }
        let mut rest = &self.received[..];
        // What follows the peer's close_notify is nothing: rustls does not take it.
        while !rest.is_empty() && !self.ended {
            if self.connection.read_tls(&mut rest)? == 0 {
                break;
            }
            if let Err(error) = self.connection.process_new_packets() {
                // The alert that says why goes out if it can.
                self.flush().await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            // After each step: rustls takes no more records while 16 KiB of plain bytes wait in it.
            self.ended |= take_plain(&mut self.connection, &mut self.plain)?;
        }
        Ok(true)
    }
}

/// Moves opened bytes to `into`; `true`: the peer has ended its side in order.
fn take_plain(connection: &mut ServerConnection, into: &mut Vec<u8>) -> io::Result<bool> {
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

impl Transport for TlsStream {
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
            if self.connection.wants_write() {
                self.flush().await?;
            }
            if !self.take_records().await? {
                return Ok(0);
            }
        }
    }

    async fn send_all(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut waiting = 0;
        for piece in pieces {
            for part in piece.chunks(PIECE_BYTES) {
                self.connection.writer().write_all(part)?;
                waiting += part.len();
                if waiting >= PIECE_BYTES {
                    self.flush().await?;
                    waiting = 0;
                }
            }
        }
        self.flush().await
    }

    async fn close(&mut self) {
        self.connection.send_close_notify();
        // A peer that is gone already needs no goodbye.
        let _gone = self.flush().await;
        self.tcp.shutdown_write();
    }

    fn is_secure(&self) -> bool {
        true
    }
}
