//! What a client says before anything is agreed on: the name that it asks for, and whether it can speak TLS 1.3, by which
//! a server chooses how to go on.

use crate::error::TlsError;
use crate::traffic::RECORD_BYTES_MAX;
use rustls::server::Acceptor;

const HANDSHAKE: u8 = 22;
/// No hello is longer: its parts have lengths of two bytes.
const MESSAGE_BYTES_MAX: usize = (1 << 16) - 1;
/// RFC 8446 §4.2.1.
const SUPPORTED_VERSIONS: [u8; 2] = [0, 43];
const TLS13: [u8; 2] = [3, 4];

/// The beginning of a connection.
#[derive(Debug, PartialEq)]
pub enum Hello {
    /// Not whole yet.
    Part,
    Asks {
        /// In lower case, if the client gave one (RFC 6066 §3).
        name: Option<String>,
        /// TLS 1.3 is among its versions.
        speaks_tls13: bool,
    },
    /// It is none; the alert that says so.
    Refused(TlsError, Vec<u8>),
}

/// Reads the first bytes of a connection, each once however they are cut, and keeps none of them.
#[derive(Default)]
pub struct HelloReader {
    /// Where the first record begins that was not whole.
    at: usize,
    /// Begin of the message, and how many bytes of it there are.
    head: [u8; 4],
    len: usize,
}

impl HelloReader {
    /// Looks at all that has come in, which the session is given again.
    pub fn read(&mut self, come: &[u8]) -> Hello {
        if self.waits(come) {
            return Hello::Part;
        }
        // Judged once, by who will speak to it.
        let mut acceptor = Acceptor::default();
        let mut bytes = come;
        while !bytes.is_empty() {
            match acceptor.read_tls(&mut bytes) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break, // as much as it may be
            }
        }
        match acceptor.accept() {
            Ok(None) => Hello::Part,
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                // What rustls took for a hello is one; else it is not spoken to in anything old.
                Hello::Asks { name, speaks_tls13: offers_tls13(come).unwrap_or(true) }
            }
            Err((error, mut alert)) => {
                let mut out = Vec::new();
                // Into memory; what it holds is a few bytes.
                while let Ok(1..) = alert.write(&mut out) {}
                if out.is_empty() {
                    // A record of its own: alert, TLS 1.2 (RFC 8446 §5.1), fatal, unexpected_message.
                    out.extend([21, 3, 3, 0, 2, 2, 10]);
                }
                Hello::Refused(error.into(), out)
            }
        }
    }
}

impl HelloReader {
    /// Whether this is the begin of a message that is not whole yet.
    fn waits(&mut self, come: &[u8]) -> bool {
        loop {
            if self.len >= 4 {
                let [_, high, middle, low] = self.head;
                let body = u32::from_be_bytes([0, high, middle, low]) as usize;
                if body > MESSAGE_BYTES_MAX || self.len >= 4 + body {
                    return false;
                }
            }
            let rest = come.get(self.at..).unwrap_or_default();
            let Some(([kind, _, _, high, low], rest)) = rest.split_first_chunk::<5>() else {
                return rest.first().is_none_or(|kind| *kind == HANDSHAKE);
            };
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if *kind != HANDSHAKE || len == 0 || len > RECORD_BYTES_MAX {
                return false;
            }
            let Some(part) = rest.get(..len) else { return true };
            let known = self.len.min(4);
            for (byte, from) in self.head[known..].iter_mut().zip(part) {
                *byte = *from;
            }
            self.len += len;
            self.at += 5 + len;
        }
    }
}

/// Whether a ClientHello (RFC 8446 §4.1.2), in records, offers TLS 1.3, which rustls does not tell; `None`: it is none.
fn offers_tls13(mut records: &[u8]) -> Option<bool> {
    let mut message = Vec::new();
    while let Some(([HANDSHAKE, _, _, high, low], rest)) = records.split_first_chunk::<5>() {
        let Some((part, rest)) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())
        else {
            break;
        };
        message.extend_from_slice(part);
        records = rest;
    }
    let (head, rest) = message.split_first_chunk::<4>()?;
    let len = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
    // Version and random; session id, cipher suites, compression.
    let mut rest = rest.get(..len)?.get(34..)?;
    vector(&mut rest, 1)?;
    vector(&mut rest, 2)?;
    vector(&mut rest, 1)?;
    if rest.is_empty() {
        return Some(false); // extensions may be left out in TLS 1.2
    }
    let mut extensions = vector(&mut rest, 2)?;
    while let Some((kind, rest)) = extensions.split_first_chunk::<2>() {
        extensions = rest;
        let mut body = vector(&mut extensions, 2)?;
        if *kind == SUPPORTED_VERSIONS {
            return Some(vector(&mut body, 1)?.chunks_exact(2).any(|version| version == TLS13));
        }
    }
    Some(false)
}

/// Takes a vector (RFC 8446 §3.4) whose length has so many bytes off the front.
fn vector<'a>(rest: &mut &'a [u8], len_bytes: usize) -> Option<&'a [u8]> {
    let (len, behind) = rest.split_at_checked(len_bytes)?;
    let len = len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    let (body, behind) = behind.split_at_checked(len)?;
    *rest = behind;
    Some(body)
}
