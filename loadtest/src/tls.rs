//! Whom to trust for https, as a rustls configuration.
//!
//! Must stay true: certificates are checked unless the caller said `--insecure` in so many words.

use crate::channel::Protocol;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whose certificates are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those of the system's bundle ([`SYSTEM_BUNDLE`]).
    System,
    /// Those that chain to a certificate of this PEM file.
    File(PathBuf),
    /// All: nothing is checked but that the server has the key of its certificate.
    Anyone,
}

/// Where Debian keeps the authorities of the system.
pub const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsError {
    Read(PathBuf, String),
    Empty(PathBuf),
    Setup(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Read(path, error) => write!(
                f,
                "{}: {error}; give the authority with --ca FILE, or check nothing with --insecure",
                path.display()
            ),
            TlsError::Empty(path) => {
                write!(f, "{}: holds no certificate in PEM form", path.display())
            }
            TlsError::Setup(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// A configuration for one version of HTTP.
///
/// # Errors
/// When the authorities cannot be read.
pub fn client_config(trust: &Trust, protocol: Protocol) -> Result<Arc<ClientConfig>, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    // As browsers have it: a server that goes by its client's order should do the same work as for a viewer.
    let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let mut config = match trust {
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked { provider }))
            .with_no_client_auth(),
        Trust::System => {
            builder.with_root_certificates(roots(Path::new(SYSTEM_BUNDLE))?).with_no_client_auth()
        }
        Trust::File(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let read =
        |error: rustls::pki_types::pem::Error| TlsError::Read(path.into(), error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        // A bundle may hold old forms that rustls does not take; the others are enough.
        let _taken = roots.add(certificate.map_err(read)?);
    }
    if roots.is_empty() { Err(TlsError::Empty(path.into())) } else { Ok(roots) }
}

/// Takes every certificate. The signature is still checked: it costs what it costs a real client.
#[derive(Debug)]
struct Unchecked {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
