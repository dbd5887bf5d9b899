//! A server in the test's own process that answers by hand: threads, blocking sockets, a port by the kernel.
//!
//! Must stay true: it counts each request head it has read, before it answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What the server does after it has written an answer.
pub enum After {
    Keep,
    Close,
}

/// What was asked.
pub struct Asked {
    /// From 0, over all connections.
    pub number: u64,
    pub target: String,
    /// Lower-case lines of the head, with the request line first.
    pub lines: Vec<String>,
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
    pub connections: Arc<AtomicU64>,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Makes the bytes of an answer.
pub type Answer = dyn Fn(&Asked) -> (Vec<u8>, After) + Send + Sync;

impl Server {
    pub fn start(answer: impl Fn(&Asked) -> (Vec<u8>, After) + Send + Sync + 'static) -> Server {
        Server::serve(None, answer)
    }

    /// Over TLS.
    pub fn start_tls(
        config: Arc<rustls::ServerConfig>,
        answer: impl Fn(&Asked) -> (Vec<u8>, After) + Send + Sync + 'static,
    ) -> Server {
        Server::serve(Some(config), answer)
    }

    fn serve(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Asked) -> (Vec<u8>, After) + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (seen, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let answer: Arc<Answer> = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                opened.fetch_add(1, Ordering::SeqCst);
                let (seen, answer, tls) = (Arc::clone(&seen), Arc::clone(&answer), tls.clone());
                std::thread::spawn(move || {
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            Box::new(rustls::StreamOwned::new(connection, stream))
                        }
                    };
                    serve_one(stream, &seen, &*answer)
                });
            }
        });
        Server { address, requests, connections }
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Until the peer goes, or an answer says so; errors of the peer's going are no concern of the test.
fn serve_one(stream: Box<dyn Stream>, seen: &AtomicU64, answer: &Answer) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(if lines.is_empty() { line.to_owned() } else { line.to_ascii_lowercase() });
        }
        let target = lines.first()?.split(' ').nth(1)?.to_owned();
        let number = seen.fetch_add(1, Ordering::SeqCst);
        let (bytes, after) = answer(&Asked { number, target, lines });
        stream.get_mut().write_all(&bytes).ok()?;
        stream.get_mut().flush().ok()?;
        if let After::Close = after {
            return None;
        }
    }
}

/// A 200 with this body.
pub fn ok(body: &str) -> (Vec<u8>, After) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    (head.into_bytes(), After::Keep)
}

/// Opened once; everyone waits for it.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub fn wait(&self) {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
    }
}

/// A port on which nobody listens, nor can while this is held: it is one end of a connection.
pub struct DeadPort {
    pub address: SocketAddr,
    _held: (TcpListener, TcpStream),
}

impl DeadPort {
    pub fn take() -> DeadPort {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        DeadPort { address: stream.local_addr().unwrap(), _held: (listener, stream) }
    }
}
