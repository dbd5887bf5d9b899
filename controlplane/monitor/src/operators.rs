//! The admin port of a router or a monitor: plain HTTP, or with `admin_tls` TLS 1.3 for operators who show a certificate.
//!
//! Must stay true: where `admin_tls` is said, nobody is answered who did not prove himself, also while its files cannot be
//! used; who does not finish his handshake holds up nobody else; files are read again when they change, and those that
//! cannot be used leave the old ones in use.

use crate::listen::{Guarded, Limited};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tidegate_contract::{FleetTls, Server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Serves `app` to operators; `said` gives what the snapshot says of this server now, and `role` is for messages.
pub async fn serve(
    role: &'static str,
    listener: TcpListener,
    app: axum::Router,
    said: impl Fn() -> Option<FleetTls> + Send + 'static,
) {
    let (give, come) = channel(1);
    let address = listener.local_addr();
    let door = Door { said, role, kept: None };
    // Ends with this task.
    let mut tasks = JoinSet::new();
    tasks.spawn(let_in(Limited::new(listener, CONNECTIONS_MAX), door, give));
    // `serve` ends only with the task.
    let _ = axum::serve(LetIn { come, address }, app).await;
}

/// Reads what `server` shows to operators, to find before the start whether it can.
///
/// # Errors
/// A text that names the file and what is wrong with it.
pub fn check(server: &Server) -> Result<(), String> {
    server.machine.admin_tls.as_ref().map_or(Ok(()), |files| read(files).map(drop))
}

fn read(files: &FleetTls) -> Result<TlsAcceptor, String> {
    let failed = |path: &str, what: &dyn std::fmt::Display| {
        format!("admin_tls: {path}: {what}; `tidegate tls make-cert` makes such files")
    };
    let certificates = |path: &str| -> Result<Vec<CertificateDer<'static>>, String> {
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        found.map_err(|e| failed(path, &e))
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.authorities)? {
        roots.add(authority).map_err(|e| failed(&files.authorities, &e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| failed(&files.authorities, &e))?;
    let chain = certificates(&files.chain)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| failed(&files.key, &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| failed(&files.chain, &e))?;
    // Each connection proves itself anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

type Stamps = [Option<(SystemTime, u64)>; 3];

fn stamps(files: &FleetTls) -> Stamps {
    [&files.chain, &files.key, &files.authorities].map(|path| {
        let meta = Path::new(path).metadata().ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

struct Door<F> {
    said: F,
    role: &'static str,
    /// What was read last, from which files, and what was made of it; `None`: it could not be used, nor any before.
    kept: Option<(FleetTls, Stamps, Option<TlsAcceptor>)>,
}

/// How a connection is spoken to.
enum Manner {
    Plain,
    Tls(TlsAcceptor),
    Shut,
}

impl<F: Fn() -> Option<FleetTls>> Door<F> {
    /// Operators come seldom: files are looked at for each of them.
    fn manner(&mut self) -> Manner {
        let Some(files) = (self.said)() else {
            self.kept = None;
            return Manner::Plain;
        };
        let found = stamps(&files);
        let before = self.kept.take();
        let acceptor = match before {
            Some((known, seen, acceptor)) if known == files && seen == found => acceptor,
            before => match read(&files) {
                Ok(acceptor) => Some(acceptor),
                Err(why) => {
                    let old = before.and_then(|(.., acceptor)| acceptor);
                    let then =
                        if old.is_some() { "the old files go on" } else { "nobody is let in" };
                    eprintln!("{}: {why}; {then}", self.role);
                    old
                }
            },
        };
        self.kept = Some((files, found, acceptor.clone()));
        acceptor.map_or(Manner::Shut, Manner::Tls)
    }
}

async fn let_in<F: Fn() -> Option<FleetTls>>(
    mut listener: Limited,
    mut door: Door<F>,
    give: Sender<(Io, SocketAddr)>,
) {
    let mut shaking = JoinSet::new();
    loop {
        let (stream, peer) = axum::serve::Listener::accept(&mut listener).await;
        while shaking.try_join_next().is_some() {}
        match door.manner() {
            Manner::Shut => {}
            Manner::Plain => {
                if give.send((Io::Plain(stream), peer)).await.is_err() {
                    return;
                }
            }
            Manner::Tls(acceptor) => {
                let give = give.clone();
                shaking.spawn(async move {
                    let shaken = timeout(HANDSHAKE_SPAN_MAX, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = shaken {
                        let _ended = give.send((Io::Tls(Box::new(stream)), peer)).await;
                    }
                });
            }
        }
    }
}

/// Connections that may be answered.
struct LetIn {
    come: Receiver<(Io, SocketAddr)>,
    address: io::Result<SocketAddr>,
}

impl axum::serve::Listener for LetIn {
    type Io = Io;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Io, SocketAddr) {
        match self.come.recv().await {
            Some(come) => come,
            None => std::future::pending().await, // the task that gives them has ended, with all
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address.as_ref().copied().map_err(|e| e.kind().into())
    }
}

/// A connection of an operator.
enum Io {
    Plain(Guarded),
    Tls(Box<TlsStream<Guarded>>),
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

const CONNECTIONS_MAX: usize = 256;
/// From the connection to the end of the handshake.
const HANDSHAKE_SPAN_MAX: Duration = Duration::from_secs(10);
