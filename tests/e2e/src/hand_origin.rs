//! An origin written by hand for each test: it records every request and answers what the test says.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub line: String,
    pub fields: HashMap<String, String>,
}

impl Asked {
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
            for stream in listener.incoming().flatten() {
                let (record, answer) = (record.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &record, &*answer));
            }
        });
        HandOrigin { address, asked }
    }

    /// Requests so far.
    pub fn count(&self) -> usize {
        self.asked.lock().expect("no test thread panics while it holds this").len()
    }
}

fn serve(mut stream: TcpStream, record: &Mutex<Vec<Asked>>, answer: &Answer) {
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
        let asked = Asked {
            line: lines.next().unwrap_or_default().to_owned(),
            fields: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
        };
        record.lock().expect("no test thread panics while it holds this").push(asked.clone());
        answer(&asked, &mut stream);
        if stream.flush().is_err() {
            return;
        }
    }
}
