//! Servers of HTTP/2 and HTTP/3 in the test's own process: a thread each, a port by the kernel.
//!
//! Must stay true: both answer the same targets in the same way, and count each request before it is answered.

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_http::Fields;
use tidegate_http3::{
    Connection, Limits, RequestEvent, RequestReader, Side, UniStream, encode_data_head,
    encode_response,
};
use tokio::sync::{Barrier, watch};

/// What a server does with a target.
enum Deed {
    Answer(u16, Bytes),
    /// The head says 10, 4 come.
    Short,
    Reset,
    /// No answer before all of [`TOGETHER`] are there.
    Together,
    Hang,
    /// An answer, and no more requests on this connection.
    Last,
}

/// Requests that wait for each other.
pub const TOGETHER: usize = 8;
pub const LARGE_BYTES: usize = 3 << 20;

fn deed(target: &str) -> Deed {
    match target {
        "/large" => Deed::Answer(200, vec![b'y'; LARGE_BYTES].into()),
        "/missing" => Deed::Answer(404, "no".into()),
        "/short" => Deed::Short,
        "/reset" => Deed::Reset,
        "/together" => Deed::Together,
        "/hang" => Deed::Hang,
        "/last" => Deed::Last,
        _ => Deed::Answer(200, "hello".into()),
    }
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    _stop: watch::Sender<()>,
}

struct Seen {
    requests: AtomicU64,
    connections: AtomicU64,
    together: Barrier,
}

impl Server {
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::SeqCst)
    }

    fn start<F: Future<Output = ()> + 'static>(
        serve: impl FnOnce(Arc<Seen>, std::sync::mpsc::Sender<SocketAddr>) -> F + Send + 'static,
    ) -> Server {
        let seen = Arc::new(Seen {
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            together: Barrier::new(TOGETHER),
        });
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, mut stopped) = watch::channel(());
        let here = Arc::clone(&seen);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = serve(here, tell) => {}
                    _ = stopped.changed() => {}
                }
            });
        });
        Server { address: told.recv().unwrap(), seen, _stop: stop }
    }

    /// HTTP/2, over TLS or with prior knowledge.
    pub fn http2(tls: Option<rustls::ServerConfig>) -> Server {
        let acceptor = tls.map(|mut config| {
            config.alpn_protocols = vec![b"h2".to_vec()];
            tokio_rustls::TlsAcceptor::from(Arc::new(config))
        });
        Server::start(|seen, tell| async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, acceptor) = (Arc::clone(&seen), acceptor.clone());
                tokio::task::spawn_local(async move {
                    match acceptor {
                        None => serve_http2(stream, seen).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            serve_http2(stream, seen).await;
                        }
                    }
                });
            }
        })
    }

    /// HTTP/3.
    pub fn http3(mut tls: rustls::ServerConfig) -> Server {
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        Server::start(|seen, tell| async move {
            let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
            tell.send(endpoint.local_addr().unwrap()).unwrap();
            while let Some(incoming) = endpoint.accept().await {
                let seen = Arc::clone(&seen);
                tokio::task::spawn_local(async move {
                    if let Ok(connection) = incoming.await {
                        serve_http3(connection, seen).await;
                    }
                });
            }
        })
    }
}

async fn serve_http2(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    seen: Arc<Seen>,
) {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let deed = deed(request.uri().path());
        if matches!(deed, Deed::Last) {
            connection.graceful_shutdown();
        }
        let seen = Arc::clone(&seen);
        tokio::task::spawn_local(async move {
            let (status, body, length) = match deed {
                Deed::Answer(status, body) => (status, body.clone(), body.len()),
                Deed::Short => (200, "half".into(), 10),
                Deed::Reset => return respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Deed::Hang => return std::future::pending().await,
                Deed::Together => {
                    seen.together.wait().await;
                    (200, "hello".into(), 5)
                }
                Deed::Last => (200, "hello".into(), 5),
            };
            let head = http::Response::builder()
                .status(status)
                .header("content-length", length)
                .header("cache-status", "edge-a; hit")
                .body(())
                .unwrap();
            // The client may have gone.
            if let Ok(mut stream) = respond.send_response(head, false) {
                let _sent = stream.send_data(body, true);
            }
        });
    }
}

async fn serve_http3(connection: quinn::Connection, seen: Arc<Seen>) {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let mut rules = Connection::new(Side::Server, Limits::REQUEST);
    let mut preamble = Vec::new();
    rules.preamble(&mut preamble);
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&preamble).await.unwrap();
    // A stream that means nothing, as servers that grease open one.
    let mut grease = connection.open_uni().await.unwrap();
    grease.write_all(&[0x21, 1, 2, 3]).await.unwrap();
    let (tell_last, mut told_last) = tokio::sync::mpsc::channel::<u64>(1000);
    let peer = connection.clone();
    tokio::task::spawn_local(async move {
        let mut control_of_client = peer.accept_uni().await.ok()?;
        let mut stream = UniStream::default();
        loop {
            tokio::select! {
                chunk = control_of_client.read_chunk(usize::MAX, true) => {
                    rules.receive(&mut stream, chunk.ok()??.bytes).unwrap();
                    assert!(rules.settings().is_some());
                }
                Some(id) = told_last.recv() => {
                    let mut goaway = Vec::new();
                    rules.goaway(id, &mut goaway);
                    control.write_all(&goaway).await.ok()?;
                }
            }
        }
        #[allow(unreachable_code)]
        Some(())
    });
    while let Ok((mut sender, mut receiver)) = connection.accept_bi().await {
        let (seen, tell_last) = (Arc::clone(&seen), tell_last.clone());
        tokio::task::spawn_local(async move {
            let mut reader = RequestReader::new(Limits::REQUEST);
            let mut target = None;
            while let Ok(Some(chunk)) = receiver.read_chunk(usize::MAX, true).await {
                let mut input = chunk.bytes;
                while let Some(event) = reader.read(&mut input).unwrap() {
                    if let RequestEvent::Head(parsed) = event {
                        target = Some(parsed.head.target());
                    }
                }
            }
            reader.end().unwrap();
            seen.requests.fetch_add(1, Ordering::SeqCst);
            let (status, body, length) = match deed(&target.unwrap()) {
                Deed::Answer(status, body) => (status, body.clone(), body.len()),
                Deed::Short => (200, "half".into(), 10),
                Deed::Reset => return drop(sender.reset(quinn::VarInt::from_u32(0x102))),
                Deed::Hang => return std::future::pending().await,
                Deed::Together => {
                    seen.together.wait().await;
                    (200, "hello".into(), 5)
                }
                Deed::Last => {
                    let next = quinn::VarInt::from(sender.id()).into_inner() + 4;
                    tell_last.try_send(next).unwrap();
                    (200, "hello".into(), 5)
                }
            };
            let mut fields = Fields::new();
            fields.append("content-length", length.to_string()).unwrap();
            fields.append("cache-status", "edge-a; hit").unwrap();
            let mut head = Vec::new();
            encode_response(status, &fields, &mut head);
            encode_data_head(body.len() as u64, &mut head);
            // The client may have gone.
            let _sent = sender.write_chunk(head.into()).await;
            let _sent = sender.write_chunk(body).await;
            let _ended = sender.finish();
        });
    }
}
