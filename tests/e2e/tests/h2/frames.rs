//! Frames by hand (RFC 9113 §4), for clients that do what no library lets them do.

use rustls::pki_types::ServerName;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use tidegate_e2e::Fleet;
use tidegate_e2e::h2::tls;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// RFC 9218 §7.1.
pub const PRIORITY_UPDATE: u8 = 16;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut out = vec![len[1], len[2], len[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A field line, literal and without indexing (RFC 7541 §6.2.2).
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(&mut out, text.len());
        out.extend(text);
    }
    out
}

/// With a prefix of 7 bits (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push((value % 128 + 128) as u8);
        value /= 128;
    }
    out.push(value as u8);
}

/// The fields of a GET.
pub fn get(path: &str) -> Vec<u8> {
    let host = tidegate_e2e::fleet::HOST;
    [
        field(b":method", b"GET"),
        field(b":scheme", b"https"),
        field(b":authority", host.as_bytes()),
        field(b":path", path.as_bytes()),
    ]
    .concat()
}

/// A connection that sends what it is told.
pub struct Raw {
    stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects and says the preface, with empty settings.
    pub fn open(fleet: &Fleet) -> Raw {
        Raw::try_open(fleet).unwrap()
    }

    /// As [`Raw::open`]; an error: it is not let in.
    pub fn try_open(fleet: &Fleet) -> io::Result<Raw> {
        let mut raw = Raw::try_connect(fleet)?;
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        raw.send(&frame(SETTINGS, 0, 0, &[]))?;
        Ok(raw)
    }

    /// Connects alone.
    pub fn connect(fleet: &Fleet) -> Raw {
        Raw::try_connect(fleet).unwrap()
    }

    /// As [`Raw::connect`]; an error: it is not let in.
    pub fn try_connect(fleet: &Fleet) -> io::Result<Raw> {
        let address = fleet.member("edge-1").https();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        let mut session = rustls::ClientConnection::new(tls(fleet), name).unwrap();
        session.complete_io(&mut stream)?;
        Ok(Raw { stream: rustls::StreamOwned::new(session, stream), buffer: Vec::new() })
    }

    /// Ends its own side in order; the other one's can still be read.
    pub fn leave(&mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().unwrap();
        self.stream.sock.shutdown(Shutdown::Write).unwrap();
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads, also what came before the other end was gone: `rustls` would first send what is left.
    fn receive(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let rustls::StreamOwned { conn, sock } = &mut self.stream;
        loop {
            match conn.reader().read(piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            if conn.read_tls(sock)? == 0 {
                return Ok(0);
            }
            conn.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// The next frame; `None`: the connection has ended.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<9>() {
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if let Some(payload) = rest.get(..len) {
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let kind = head[3];
                    let found = Frame { kind, stream, payload: payload.to_vec() };
                    self.buffer.drain(..9 + len);
                    return Some(found);
                }
            }
            let mut piece = [0; 16 << 10];
            match self.receive(&mut piece) {
                Ok(n @ 1..) => self.buffer.extend_from_slice(&piece[..n]),
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// Reads up to a frame of this kind; `None`: the connection ended before.
    pub fn until(&mut self, kind: u8) -> Option<Frame> {
        std::iter::from_fn(|| self.next()).find(|frame| frame.kind == kind)
    }

    /// Reads to the end; the code of the last GOAWAY (RFC 9113 §7), if one came.
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY && frame.payload.len() >= 8 {
                code = frame.payload[4..8].try_into().ok().map(u32::from_be_bytes);
            }
        }
        code
    }
}
