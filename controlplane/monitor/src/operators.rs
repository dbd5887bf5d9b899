//! The admin port of a router or a monitor: plain HTTP, or with `admin_tls` TLS 1.3 for operators who show a certificate.
//!
//! Must stay true: where `admin_tls` is said, nobody is answered who did not prove himself, also while its files cannot be
//! used; who does not finish his handshake holds up nobody else; files are read again when they change, and those that
//! cannot be used leave the old ones in use; who is revoked is told nothing more, on a connection that stands neither.

use crate::listen::{Guarded, Limited};
use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_certificates::revoked::{client_verifier, peer as name_of};
use tidegate_certificates::{Revoked, Shown};
use tidegate_contract::{FleetTls, Server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
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
    let door = Door { said, role, kept: None, revoked: Arc::default(), told: Instant::now() };
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

/// How operators are spoken to.
#[derive(Clone)]
struct Spoken {
    acceptor: TlsAcceptor,
    /// Who is shut out all the same.
    revoked: Option<Arc<Revoked>>,
    shown: Shown,
}

fn read(files: &FleetTls) -> Result<Spoken, String> {
    let failed = |path: &str, what: &dyn std::fmt::Display| {
        format!("admin_tls: {path}: {what}; `tidegate tls make-cert` makes such files")
    };
    let certificates = |path: &str| -> Result<Vec<CertificateDer<'static>>, String> {
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        found.map_err(|e| failed(path, &e))
    };
    let mut roots = RootCertStore::empty();
    let authorities = certificates(&files.authorities)?;
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|e| failed(&files.authorities, &e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(&files.chain)?;
    let lists = |path: &String| Revoked::read(path, "admin_tls.revoked", &authorities, &chain);
    let revoked = files.revoked.as_ref().map(lists).transpose()?.map(Arc::new);
    let verifier = client_verifier(Arc::new(roots), revoked.as_deref(), &provider)
        .map_err(|e| failed(&files.authorities, &e))?;
    let shown = Shown::of(&files.chain, &chain);
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
    Ok(Spoken { acceptor: TlsAcceptor::from(Arc::new(config)), revoked, shown })
}

type Stamps = Vec<Option<(SystemTime, u64)>>;

fn stamps(files: &FleetTls) -> Stamps {
    let stamp = |path: &String| {
        let meta = Path::new(path).metadata().ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    files.files().map(stamp).collect()
}

/// What operators are to hear of it.
fn tell(role: &str, spoken: &Spoken) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let lists = spoken.revoked.iter().flat_map(|revoked| revoked.remarks(now));
    for remark in spoken.shown.remarks(now).into_iter().chain(lists) {
        eprintln!("{role}: {remark}");
    }
}

struct Door<F> {
    said: F,
    role: &'static str,
    /// What was read last, from which files, and what was made of it; `None`: it could not be used, nor any before.
    kept: Option<(FleetTls, Stamps, Option<Spoken>)>,
    /// What was read last of those who are shut out; connections that stand look at it.
    revoked: Arc<ArcSwapOption<Revoked>>,
    /// When operators were told last what does not change.
    told: Instant,
}

/// How a connection is spoken to.
enum Manner {
    Plain,
    Tls(TlsAcceptor),
    Shut,
}

impl<F: Fn() -> Option<FleetTls>> Door<F> {
    /// Files are looked at for each operator, for they come seldom, and now and then for those who stay.
    fn manner(&mut self) -> Manner {
        let Some(files) = (self.said)() else {
            self.kept = None;
            return Manner::Plain;
        };
        let found = stamps(&files);
        let before = self.kept.take();
        let spoken = match before {
            Some((known, seen, spoken)) if known == files && seen == found => {
                if let Some(spoken) = spoken.as_ref().filter(|_| self.told.elapsed() >= TELL_SPAN) {
                    tell(self.role, spoken);
                    self.told = Instant::now();
                }
                spoken
            }
            before => match read(&files) {
                Ok(spoken) => {
                    tell(self.role, &spoken);
                    self.told = Instant::now();
                    self.revoked.store(spoken.revoked.clone());
                    Some(spoken)
                }
                Err(why) => {
                    let old = before.and_then(|(.., spoken)| spoken);
                    let then =
                        if old.is_some() { "the old files go on" } else { "nobody is let in" };
                    eprintln!("{}: {why}; {then}", self.role);
                    old
                }
            },
        };
        self.kept = Some((files, found, spoken.clone()));
        spoken.map_or(Manner::Shut, |spoken| Manner::Tls(spoken.acceptor))
    }
}

async fn let_in<F: Fn() -> Option<FleetTls>>(
    mut listener: Limited,
    mut door: Door<F>,
    give: Sender<(Io, SocketAddr)>,
) {
    let mut shaking = JoinSet::new();
    let mut look = interval(LOOK_SPAN);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (stream, peer) = tokio::select! {
            come = axum::serve::Listener::accept(&mut listener) => come,
            _ = look.tick() => {
                let _for_those_who_stay = door.manner();
                continue;
            }
        };
        while shaking.try_join_next().is_some() {}
        match door.manner() {
            Manner::Shut => {}
            Manner::Plain => {
                if give.send((Io::Plain(stream), peer)).await.is_err() {
                    return;
                }
            }
            Manner::Tls(acceptor) => {
                let (give, revoked) = (give.clone(), door.revoked.clone());
                shaking.spawn(async move {
                    let shaken = timeout(HANDSHAKE_SPAN_MAX, acceptor.accept(stream)).await;
                    let Ok(Ok(stream)) = shaken else { return };
                    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    // The verifier lets nobody in without one.
                    let Some(name) = leaf.and_then(name_of) else { return };
                    let proved = Proved { stream, name, revoked };
                    let _ended = give.send((Io::Tls(Box::new(proved)), peer)).await;
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
    Tls(Box<Proved>),
}

/// One who has shown a certificate.
struct Proved {
    stream: TlsStream<Guarded>,
    name: Box<[u8]>,
    revoked: Arc<ArcSwapOption<Revoked>>,
}

impl Proved {
    /// Fails when he has been revoked.
    fn stream(&mut self) -> io::Result<Pin<&mut TlsStream<Guarded>>> {
        match self.revoked.load().as_ref().is_some_and(|revoked| revoked.holds(&self.name)) {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(proved) => {
                let polled = proved.stream()?.poll_read(cx, buf);
                proved.stream()?; // what was asked meanwhile is not answered
                polled
            }
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
            Io::Tls(proved) => proved.stream()?.poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(proved) => proved.stream()?.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(proved) => Pin::new(&mut proved.stream).poll_shutdown(cx),
        }
    }
}

const CONNECTIONS_MAX: usize = 256;
/// How often files are looked at when nobody comes, as nodes of the data plane do it.
const LOOK_SPAN: Duration = Duration::from_millis(500);
/// What is to be told of files that do not change is told as often.
const TELL_SPAN: Duration = Duration::from_secs(24 * 3600);
/// From the connection to the end of the handshake.
const HANDSHAKE_SPAN_MAX: Duration = Duration::from_secs(10);
