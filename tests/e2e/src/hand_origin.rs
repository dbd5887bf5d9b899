//! An origin written by hand for each test: it records every request and answers what the test says.

use crate::client::PATIENCE;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub line: String,
    pub fields: HashMap<String, String>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Which of the origin's connections it came on.
    pub connection: usize,
}

impl Asked {
    /// The value of a field, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The path with its query.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

type Answer = dyn Fn(&Asked, &mut TcpStream) + Send + Sync;

/// A running hand origin; it ends with the test process.
pub struct HandOrigin {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl HandOrigin {
    /// Listens on `ip`; each request is answered by `answer`, which writes raw bytes. The connection stays open
    /// for more requests unless `answer` shuts it down.
    pub fn start(
        ip: IpAddr,
        answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static,
    ) -> HandOrigin {
        let listener = TcpListener::bind((ip, 0)).expect("a loopback address can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let answer: Arc<Answer> = Arc::new(answer);
        let record = asked.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let (record, answer) = (record.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, number, &record, &*answer));
            }
        });
        HandOrigin { address, asked }
    }

    /// All requests so far.
    pub fn all(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test thread panics while it holds this").clone()
    }

    /// Requests so far for this target.
    pub fn count_of(&self, target: &str) -> usize {
        self.all().iter().filter(|asked| asked.target() == target).count()
    }

    /// Requests so far.
    pub fn count(&self) -> usize {
        self.asked.lock().expect("no test thread panics while it holds this").len()
    }
}

fn serve(mut stream: TcpStream, connection: usize, record: &Mutex<Vec<Asked>>, answer: &Answer) {
    // Answers are written in pieces: none of them shall wait for the peer's delayed acknowledgement.
    let _slower_without = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece) {
                Ok(n) if n > 0 => buffer.extend_from_slice(&piece[..n]),
                _ => return,
            }
        };
        let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let mut asked = Asked {
            line: lines.next().unwrap_or_default().to_owned(),
            fields: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: Vec::new(),
            connection,
        };
        if !read_body(&mut stream, &mut buffer, &mut asked) {
            return;
        }
        record.lock().expect("no test thread panics while it holds this").push(asked.clone());
        answer(&asked, &mut stream);
        if stream.flush().is_err() {
            return;
        }
    }
}

/// Next hops' requests have a length, or no body.
fn read_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, asked: &mut Asked) -> bool {
    let length = asked.field("content-length").parse().unwrap_or(0);
    while buffer.len() < length {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => buffer.extend_from_slice(&piece[..n]),
            _ => return false,
        }
    }
    asked.body = buffer.drain(..length).collect();
    true
}

/// Writes an answer with a length; `fields` are lines that each end in CRLF. Peers may be gone: that is their affair.
pub fn reply(stream: &mut TcpStream, status: u16, fields: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// The first and last byte that a request's `Range` names, when it names one.
pub fn range_of(asked: &Asked, total: usize) -> Option<(usize, usize)> {
    let (first, last) = asked.field("range").strip_prefix("bytes=")?.split_once('-')?;
    let last = last.parse().unwrap_or(total - 1).min(total - 1);
    Some((first.parse().ok()?, last))
}

/// Something that happens once and that threads wait for.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through.
    pub fn open(&self) {
        *self.0.0.lock().expect("no test thread panics while it holds this") = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    pub fn wait(&self) {
        let closed = self.0.0.lock().expect("no test thread panics while it holds this");
        let waited = self.0.1.wait_timeout_while(closed, PATIENCE, |open| !*open);
        let (_open, late) = waited.expect("no test thread panics while it holds this");
        assert!(!late.timed_out(), "the gate was never opened");
    }

    /// Waits until it is open, or for this long: for what must not depend on how fast others are.
    pub fn wait_at_most(&self, span: std::time::Duration) {
        let closed = self.0.0.lock().expect("no test thread panics while it holds this");
        let _open_or_late = self.0.1.wait_timeout_while(closed, span, |open| !*open);
    }
}
