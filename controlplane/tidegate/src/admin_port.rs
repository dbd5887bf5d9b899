//! The admin ports of nodes, as commands ask them: plain, or over TLS where a node has `admin_tls`.
//!
//! Must stay true: a node that has it is asked by TLS or not at all, and must prove to be the one that is meant.

use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_contract::Server;

/// By what an operator proves himself.
#[derive(Args)]
pub struct Identity {
    /// Folder with the operator's cert.pem and key.pem, and the nodes' ca.pem; for nodes with `admin_tls`.
    #[arg(long)]
    identity: Option<PathBuf>,
}

/// A connection to an admin port.
pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Identity {
    /// Connects to the admin port of `node` in `zone`; nothing may take longer than `span`.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn connect(
        &self,
        address: SocketAddr,
        node: &Server,
        zone: &str,
        span: Duration,
    ) -> Result<Box<dyn Stream>, String> {
        let text = |error: std::io::Error| error.to_string();
        let tls = match (&node.machine.admin_tls, &self.identity) {
            (None, _) => None,
            (Some(_), Some(folder)) => Some(config(folder)?),
            (Some(_), None) => {
                return Err("it asks operators for a certificate; give --identity".to_owned());
            }
        };
        let stream = TcpStream::connect_timeout(&address, span).map_err(text)?;
        stream.set_read_timeout(Some(span)).map_err(text)?;
        stream.set_write_timeout(Some(span)).map_err(text)?;
        let Some(tls) = tls else { return Ok(Box::new(stream)) };
        let name =
            ServerName::try_from(format!("{}.{zone}", node.id)).map_err(|e| e.to_string())?;
        let session = ClientConnection::new(tls, name).map_err(|e| e.to_string())?;
        Ok(Box::new(StreamOwned::new(session, stream)))
    }
}

fn config(folder: &Path) -> Result<Arc<ClientConfig>, String> {
    let failed = |file: &str, what: &dyn std::fmt::Display| {
        let file = folder.join(file);
        format!("{}: {what}; `tidegate tls make-cert` makes such files", file.display())
    };
    let read = |file: &str| -> Result<Vec<CertificateDer<'static>>, String> {
        let found = CertificateDer::pem_file_iter(folder.join(file)).and_then(Iterator::collect);
        found.map_err(|e| failed(file, &e))
    };
    let mut roots = RootCertStore::empty();
    for authority in read("ca.pem")? {
        roots.add(authority).map_err(|e| failed("ca.pem", &e))?;
    }
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"));
    let key = key.map_err(|e| failed("key.pem", &e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(read("cert.pem")?, key)
        .map(Arc::new)
        .map_err(|e| failed("cert.pem", &e))
}
