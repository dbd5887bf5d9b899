//! TLS 1.3 to clients: which certificate is shown, and the transport that requests come by.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::Transport;
use tidegate_engine::client::SEND_STALL_MAX;
use tidegate_fill::TlsStream;
use tidegate_ring::{TcpStream, timeout};
use tidegate_tls::{Server, Session};

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
    config.enable_secret_extraction = true; // records are sealed by tidegate_tls
    Ok(Arc::new(config))
}

/// A client connection over TLS.
pub struct TlsClient(TlsStream<Server>);

impl TlsClient {
    /// Does the handshake.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsClient> {
        let session = Session::server(config).map_err(io::Error::other)?;
        let begun = TlsStream::begin(tcp, session, SEND_STALL_MAX);
        match timeout(HANDSHAKE_SPAN_MAX, begun).await {
            Ok(outcome) => outcome.map(TlsClient),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Transport for TlsClient {
    async fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        self.0.receive(into).await
    }

    async fn send_all(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        self.0.send_all(pieces, SEND_STALL_MAX).await
    }

    async fn close(&mut self) {
        self.0.close(SEND_STALL_MAX).await;
    }

    fn is_secure(&self) -> bool {
        true
    }
}
