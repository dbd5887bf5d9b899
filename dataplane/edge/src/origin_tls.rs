//! Trust in origins that are asked over TLS: their authorities, read when a snapshot is taken.
//!
//! Must stay true: an authority file that cannot be read refuses the snapshot (the running one goes on); nobody is
//! trusted who is not in it.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::sync::Arc;
use tidegate_contract::{OriginTls, Role, Server, Snapshot};
use tidegate_engine::View;
use tidegate_fill::HopTls;

/// Where Debian and most others keep the system's authorities.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The view of server `id`, with what it needs to ask its origins.
///
/// # Errors
/// A text that names what is missing or cannot be read, and the mend.
pub fn view(snapshot: &Snapshot, id: &str) -> Result<View, String> {
    let is_parent = snapshot.servers.iter().any(|s| s.id == id && s.role == Role::Parent);
    let mut configs: HashMap<String, Arc<HopTls>> = HashMap::new();
    for server in snapshot.servers.iter().filter(|_| is_parent) {
        if let Some(tls) = &server.origin_tls {
            configs.insert(server.id.clone(), Arc::new(hop_tls(server, tls)?));
        }
    }
    let tls = |server: &Server| configs.get(&server.id).cloned();
    View::new(snapshot, id, &tls).map_err(|error| error.to_string())
}

fn hop_tls(server: &Server, tls: &OriginTls) -> Result<HopTls, String> {
    let path = tls.ca_file.as_deref().unwrap_or(SYSTEM_AUTHORITIES);
    let failed = |what: &dyn std::fmt::Display| {
        format!(
            "origin {}: authorities {path}: {what}\n    mend: give origin_tls.ca_file a PEM file of the authorities that sign it",
            server.id
        )
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))?;
    let (mut good, mut bad) = (0, 0);
    for certificate in certificates {
        match roots.add(certificate.map_err(|e| failed(&e))?) {
            Ok(()) => good += 1,
            Err(_) => bad += 1,
        }
    }
    if good == 0 {
        return Err(failed(&format!("no usable certificate in it ({bad} unusable)")));
    }
    let name = ServerName::try_from(tls.name.clone())
        .map_err(|_| format!("origin {}: `{}` is no server name", server.id, tls.name))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS is not available: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(HopTls { config: Arc::new(config), name })
}
