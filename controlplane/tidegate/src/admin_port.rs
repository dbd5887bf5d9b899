//! The admin ports of nodes, as commands ask them: plain, or over TLS where a node has `admin_tls`; orders are signed with the
//! CDN's admin key.
//!
//! Must stay true: an order is good for the node that it names, and for a few minutes; what a node says is bounded, and shown
//! without control characters; a node that has `admin_tls` is asked by TLS or not at all, and must prove to be the one that
//! is meant.

use crate::failure::Failure;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_contract::{AdminKey, Order, Server, Snapshot};

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

/// Why a node has not done it.
pub enum Missing {
    /// It could not be asked, or did not answer.
    Away(String),
    /// It said why not.
    Refused(String),
}

impl Missing {
    pub fn why(&self) -> &str {
        let (Missing::Away(why) | Missing::Refused(why)) = self;
        why
    }
}

/// The key that signs orders.
pub fn key_of(snapshot: &Snapshot) -> Result<AdminKey, Failure> {
    let hex = snapshot.keys.admin_hex.as_deref().ok_or_else(|| {
        Failure::Input(
            "the snapshot has no admin key; make keys/admin.key with `tidegate snapshot keygen`, then build and publish a \
             new snapshot"
                .to_owned(),
        )
    })?;
    AdminKey::from_hex(hex).map_err(|error| Failure::Input(error.to_string()))
}

/// A number that nobody can guess.
pub fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Failure::Host("the system's random source failed; try again".to_owned()))?;
    Ok(u64::from_le_bytes(bytes))
}

/// What is ordered of a node's admin port, and as whom.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub identity: &'a Identity,
    pub zone: &'a str,
    pub target: &'a str,
    pub body: &'a str,
    /// How long to wait for it.
    pub span: Duration,
}

/// Gives an order to `node`; what it answers.
pub fn order(
    node: &Server,
    key: &AdminKey,
    nonce: u64,
    asked: Asked<'_>,
) -> Result<Value, Missing> {
    let Some(address) = node.addresses.first() else {
        return Err(Missing::Away("the snapshot gives it no address".to_owned()));
    };
    let address = SocketAddr::new(*address, node.admin_port);
    let at = |why: &str| format!("admin port {address}: {why}");
    post(address, node, key, nonce, asked).map_err(|missing| match missing {
        Missing::Away(why) => Missing::Away(at(&why)),
        Missing::Refused(why) => Missing::Refused(at(&why)),
    })
}

fn post(
    address: SocketAddr,
    node: &Server,
    key: &AdminKey,
    nonce: u64,
    asked: Asked<'_>,
) -> Result<Value, Missing> {
    let Asked { identity, zone, target, body, span } = asked;
    let text = |error: std::io::Error| Missing::Away(error.to_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let order = Order { method: "POST", node: &node.id, target, body: body.as_bytes() };
    let authorization = key.sign(&order, now, nonce);
    let mut stream = identity.connect(address, node, zone, span).map_err(Missing::Away)?;
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(text)?;
    let head_end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or_else(|| Missing::Away("no HTTP answer".to_owned()))?;
    let head = String::from_utf8_lossy(&answer[..head_end]);
    let body = &answer[head_end + 4..];
    match head.split(' ').nth(1) {
        Some("200") => serde_json::from_slice(body)
            .map_err(|error| Missing::Refused(format!("no JSON: {error}"))),
        _ => {
            let said = String::from_utf8_lossy(body);
            Err(Missing::Refused(said.chars().filter(|c| !c.is_control()).collect()))
        }
    }
}

/// A node's word for the terminal: without control characters.
pub fn plain(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

const ANSWER_BYTES_MAX: u64 = 64 << 10;
