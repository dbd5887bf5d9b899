//! Certificates, and clients that speak TLS in one version and trust what they are told to.

use crate::fleet::HOST;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_contract::{Certificate, Role, Snapshot};

/// A name as a client asks for it.
pub fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("tests ask for names")
}

/// A client that trusts what is in these PEM files, and shows a certificate if it is given one.
pub fn client(trusted: &[&Path], shown: Option<(&Path, &Path)>) -> Arc<ClientConfig> {
    client_of(&[&rustls::version::TLS13], trusted, shown)
}

/// And speaks these versions alone.
pub fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    trusted: &[&Path],
    shown: Option<(&Path, &Path)>,
) -> Arc<ClientConfig> {
    client_with(rustls::crypto::aws_lc_rs::default_provider(), versions, trusted, shown)
}

/// And these ciphers.
pub fn client_with(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    trusted: &[&Path],
    shown: Option<(&Path, &Path)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for path in trusted {
        roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = vec![CertificateDer::from_pem_file(chain).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
                .unwrap()
        }
    })
}

/// Writes a certificate for these names and gives its paths.
pub fn certificate(dir: &Path, file: &str, names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let path = |end: &str| dir.join(format!("{file}.{end}"));
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("pem"), made.cert.pem()).unwrap();
    let text = |end: &str| path(end).display().to_string();
    Certificate { chain: text("pem"), key: text("key"), staple: None }
}

/// The same, from and to so many seconds of unix time.
pub fn certificate_within(
    dir: &Path,
    file: &str,
    names: &[&str],
    (from, to): (u64, u64),
) -> Certificate {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    (params.not_before, params.not_after) = (at(from), at(to));
    let key = rcgen::KeyPair::generate().unwrap();
    let path = |end: &str| dir.join(format!("{file}.{end}"));
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    std::fs::write(path("pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let text = |end: &str| path(end).display().to_string();
    Certificate { chain: text("pem"), key: text("key"), staple: None }
}

/// The host of a service that takes no early data.
pub const EARLY_NOT: &str = "other.test";

/// A fleet whose first service takes early data, beside another one on the same edge that does not; `both.pem` is for both.
pub fn takes_early_data(snapshot: &mut Snapshot) {
    let mut other = snapshot.delivery_services[0].clone();
    other.id = "other".to_owned();
    other.hosts = vec![EARLY_NOT.to_owned()];
    other.address_default = false;
    snapshot.delivery_services.push(other);
    snapshot.delivery_services[0].early_data = true;
    let edge = snapshot.servers.iter_mut().find(|s| s.role == Role::Edge).expect("an edge");
    let first = Path::new(&edge.machine.certificates[0].chain);
    let dir = first.parent().expect("a file in a folder").to_owned();
    edge.machine.certificates = vec![certificate(&dir, "both", &[HOST, EARLY_NOT])];
}
