//! A small blocking HTTP/1.1 client: shows status, fields and body as they came, plain or over TLS.

use nix::sys::socket::SockaddrStorage;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Longest time without a byte before a test fails: far beyond what a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// First field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The member of `Cache-Status` that `node` added.
    pub fn cache_status(&self, node: &str) -> Option<String> {
        self.field("cache-status")?
            .split(',')
            .map(str::trim)
            .find(|member| member.split(';').next() == Some(node))
            .map(str::to_owned)
    }
}

fn short() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection that can carry many requests.
pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects in plain text.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// Connects in plain text from another address of this machine than it would choose.
    pub fn open_from(source: IpAddr, address: SocketAddr) -> io::Result<Connection> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, connect, socket};
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
        connect(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        let stream = TcpStream::from(fd);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// Connects by TLS, trusting only `config`'s roots.
    pub fn open_tls(
        address: SocketAddr,
        config: Arc<rustls::ClientConfig>,
    ) -> io::Result<Connection> {
        let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
        Connection::open_tls_as(address, config, name)
    }

    /// Connects by TLS and asks for `name`.
    pub fn open_tls_as(
        address: SocketAddr,
        config: Arc<rustls::ClientConfig>,
        name: rustls::pki_types::ServerName<'static>,
    ) -> io::Result<Connection> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut connection =
            rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        connection.complete_io(&mut stream)?;
        let stream = rustls::StreamOwned::new(connection, stream);
        Ok(Connection { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads until the peer closes.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.buffer);
        let mut piece = [0; 65536];
        while let Ok(n) = self.stream.read(&mut piece) {
            if n == 0 {
                break;
            }
            out.extend_from_slice(&piece[..n]);
        }
        out
    }

    /// One GET with extra field lines (each ending in CRLF).
    pub fn get(&mut self, host: &str, path: &str, extra: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n").as_bytes())?;
        self.response(false)
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 65536];
        let n = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Body bytes as they come: what is here, or else the next ones; empty when the peer has closed.
    ///
    /// # Errors
    /// The connection failed.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.more()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads one response; `head`: it answers a HEAD request.
    ///
    /// # Errors
    /// The connection ended before the response did, or it is malformed.
    pub fn response(&mut self, head: bool) -> io::Result<Response> {
        let mut response = self.head()?;
        if !head && !matches!(response.status, 204 | 304) {
            self.body(&mut response)?;
        }
        Ok(response)
    }

    /// Reads the head of a final response.
    ///
    /// # Errors
    /// The connection ended before the head did, or it is malformed.
    pub fn head(&mut self) -> io::Result<Response> {
        loop {
            let end = loop {
                if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at;
                }
                if self.more()? == 0 {
                    return Err(short());
                }
            };
            let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 4);
            let mut lines = text.split("\r\n");
            let status: u16 = lines
                .next()
                .and_then(|line| line.split(' ').nth(1))
                .and_then(|s| s.parse().ok())
                .ok_or_else(|| bad("no status line"))?;
            if status < 200 {
                continue;
            }
            let fields: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            return Ok(Response { status, fields, body: Vec::new() });
        }
    }

    /// Reads the body of a response whose head was read.
    ///
    /// # Errors
    /// The connection ended before the body did, or it is malformed.
    pub fn body(&mut self, response: &mut Response) -> io::Result<()> {
        if response.field("transfer-encoding") == Some("chunked") {
            loop {
                let line_end = loop {
                    if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                        break at;
                    }
                    if self.more()? == 0 {
                        return Err(short());
                    }
                };
                let size = String::from_utf8_lossy(&self.buffer[..line_end]).into_owned();
                let size = usize::from_str_radix(size.trim(), 16).map_err(|_| bad("chunk size"))?;
                self.buffer.drain(..line_end + 2);
                while self.buffer.len() < size + 2 {
                    if self.more()? == 0 {
                        return Err(short());
                    }
                }
                response.body.extend_from_slice(&self.buffer[..size]);
                self.buffer.drain(..size + 2);
                if size == 0 {
                    return Ok(());
                }
            }
        }
        match response.field("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) => {
                while self.buffer.len() < length {
                    if self.more()? == 0 {
                        return Err(short());
                    }
                }
                response.body = self.buffer.drain(..length).collect();
            }
            Some(Err(_)) => return Err(bad("content-length")),
            None => response.body = self.read_to_close(),
        }
        Ok(())
    }
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, host: &str, path: &str, extra: &str) -> io::Result<Response> {
    Connection::open(address)?.get(host, path, extra)
}
