//! A QUIC client of our own (RFC 9000, RFC 9001) that sends whatever it is told: packets by hand, keys and handshake by rustls.
//! It loses nothing and repeats nothing: between processes of one machine that is enough.

use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::ServerName;
use rustls::quic::{
    ClientConnection, DirectionalKeys, HeaderProtectionKey, KeyChange, Keys, PacketKey,
    PacketKeySet, Secrets, Version,
};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_e2e::Fleet;
use tidegate_e2e::client::PATIENCE;
use tidegate_http3::varint;

/// Frame types (RFC 9000 §19).
pub const PING: u64 = 0x01;
pub const ACK: u64 = 0x02;
pub const RESET_STREAM: u64 = 0x04;
pub const STOP_SENDING: u64 = 0x05;
pub const CRYPTO: u64 = 0x06;
pub const STREAM_OFF_LEN: u64 = 0x0e;
pub const NEW_CONNECTION_ID: u64 = 0x18;
pub const RETIRE_CONNECTION_ID: u64 = 0x19;
pub const PATH_CHALLENGE: u64 = 0x1a;
pub const PATH_RESPONSE: u64 = 0x1b;
pub const CLOSE: u64 = 0x1c;
pub const CLOSE_BY_APPLICATION: u64 = 0x1d;
pub const HANDSHAKE_DONE: u64 = 0x1e;

const RECEIVE_BYTES: usize = 4 << 20;
const TAG_BYTES: usize = 16;
const SAMPLE_BYTES: usize = 16;
/// Packet numbers are sent in full length.
const NUMBER_BYTES: usize = 4;
const OWN_ID: [u8; 8] = *b"hostile!";
pub const DATAGRAM_BYTES_MIN: usize = 1200;

/// Initial, Handshake, Application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Initial,
    Handshake,
    Data,
}

/// A frame of the edge: its type, its numbers in order, and its bytes.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u64,
    pub numbers: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A frame from its type and numbers, and what follows them.
pub fn frame(kind: u64, numbers: &[u64], bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(kind, &mut out);
    numbers.iter().for_each(|number| varint::encode(*number, &mut out));
    out.extend_from_slice(bytes);
    out
}

/// Stream bytes at an offset.
pub fn stream(id: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    frame(STREAM_OFF_LEN, &[id, offset, bytes.len() as u64], bytes)
}

/// An acknowledgment of everything up to `largest`.
pub fn ack_all(largest: u64) -> Vec<u8> {
    frame(ACK, &[largest, 0, 0, largest], &[])
}

/// An acknowledgment of one packet.
pub fn ack_one(number: u64) -> Vec<u8> {
    frame(ACK, &[number, 0, 0, 0], &[])
}

/// One connection.
pub struct Raw {
    pub socket: UdpSocket,
    address: SocketAddr,
    tls: ClientConnection,
    /// What the edge calls this connection.
    pub id: Vec<u8>,
    initial: Keys,
    handshake: Option<Keys>,
    data: Option<Keys>,
    secrets: Option<Secrets>,
    /// Keys after those in use.
    next: Option<PacketKeySet>,
    phase: bool,
    numbers: [u64; 3],
    /// The largest packet number that came, of each space.
    pub largest: [Option<u64>; 3],
    /// Handshake bytes that came and wait for those before them.
    waiting: [BTreeMap<u64, Vec<u8>>; 3],
    taken: [u64; 3],
    offered: [u64; 3],
    pub confirmed: bool,
    /// Bytes of datagrams.
    pub sent: usize,
    pub received: usize,
}

fn initial_keys(id: &[u8]) -> Keys {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = suite.tls13().and_then(|suite| suite.quic_suite()).expect("QUIC is there");
    suite.keys(id, rustls::Side::Client, Version::V1)
}

fn parameters() -> Vec<u8> {
    let mut out = frame(0x0f, &[OWN_ID.len() as u64], &OWN_ID);
    // Windows as large as there are, so that the edge sends all that it has.
    for (kind, value) in [
        (0x04, 1 << 40),
        (0x05, 1 << 40),
        (0x06, 1 << 40),
        (0x07, 1 << 40),
        (0x08, 100),
        (0x09, 100),
        (0x0e, 8),
    ] {
        let mut number = Vec::new();
        varint::encode(value, &mut number);
        out.extend(frame(kind, &[number.len() as u64], &number));
    }
    out
}

impl Raw {
    /// Has said nothing yet; `first` is the connection id of its first datagrams.
    pub fn new(fleet: &Fleet, address: SocketAddr, first: &[u8]) -> Raw {
        let mut config = rustls::ClientConfig::clone(fleet.tls.as_ref().expect("with https"));
        config.alpn_protocols = vec![b"h3".to_vec()];
        let name = ServerName::IpAddress(fleet.member("edge-1").https().ip().into());
        let tls = ClientConnection::new(Arc::new(config), Version::V1, name, parameters());
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        socket.set_read_timeout(Some(PATIENCE)).expect("a span of time");
        // An edge says its last word once: it is not to be lost behind what came before.
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BYTES).expect("as much as the system allows");
        Raw {
            socket,
            address,
            tls: tls.expect("a session can be begun"),
            id: first.to_vec(),
            initial: initial_keys(first),
            handshake: None,
            data: None,
            secrets: None,
            next: None,
            phase: false,
            numbers: [0; 3],
            largest: [None; 3],
            waiting: Default::default(),
            taken: [0; 3],
            offered: [0; 3],
            confirmed: false,
            sent: 0,
            received: 0,
        }
    }

    /// Begins anew under another connection id, as another client would.
    pub fn rename(&mut self, first: &[u8]) {
        (self.id, self.initial, self.numbers) = (first.to_vec(), initial_keys(first), [0; 3]);
    }

    /// A connection whose handshake is confirmed.
    pub fn open(fleet: &Fleet) -> Raw {
        // Of a connection that ended, the edge remembers the id for a while.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let first = [&b"no. "[..], &COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes()].concat();
        let mut raw = Raw::new(fleet, fleet.member("edge-1").https(), &first);
        let hello = raw.hello();
        raw.send(Space::Initial, &hello).expect("loopback takes it");
        while !raw.confirmed {
            raw.receive().expect("the handshake goes on");
            raw.talk();
        }
        raw
    }

    /// The CRYPTO frame with the ClientHello.
    pub fn hello(&mut self) -> Vec<u8> {
        let mut hello = Vec::new();
        let none = self.tls.write_hs(&mut hello);
        assert!(none.is_none(), "the ClientHello is said once");
        self.offered[0] = hello.len() as u64;
        frame(CRYPTO, &[0, hello.len() as u64], &hello)
    }

    /// Says what TLS has to say, and acknowledges what came of the handshake.
    fn talk(&mut self) {
        let mut space = if self.handshake.is_some() { Space::Handshake } else { Space::Initial };
        loop {
            let mut said = Vec::new();
            let change = self.tls.write_hs(&mut said);
            if !said.is_empty() {
                let at = self.offered[space as usize];
                self.offered[space as usize] += said.len() as u64;
                let bytes = frame(CRYPTO, &[at, said.len() as u64], &said);
                self.send(space, &bytes).expect("loopback takes it");
            }
            match change {
                None => break,
                Some(KeyChange::Handshake { keys }) => {
                    self.handshake = Some(keys);
                    if let Some(largest) = self.largest[0] {
                        self.send(Space::Initial, &ack_all(largest)).expect("loopback takes it");
                    }
                    space = Space::Handshake;
                }
                Some(KeyChange::OneRtt { keys, next: mut secrets }) => {
                    self.next = Some(secrets.next_packet_keys());
                    (self.data, self.secrets) = (Some(keys), Some(secrets));
                }
            }
        }
    }

    fn keys(&self, space: Space) -> Option<&Keys> {
        match space {
            Space::Initial => Some(&self.initial),
            Space::Handshake => self.handshake.as_ref(),
            Space::Data => self.data.as_ref(),
        }
    }

    /// One packet with these frames, as bytes. Initials are filled up to the size that they must have.
    pub fn packet(&mut self, space: Space, frames: &[u8]) -> Vec<u8> {
        let number = self.numbers[space as usize];
        self.numbers[space as usize] += 1;
        let mut frames = frames.to_vec();
        // A sample must fit in behind the shortest packet number.
        frames.resize(frames.len().max(NUMBER_BYTES), 0);
        let mut header = match space {
            Space::Data => {
                [&[0x40 | u8::from(self.phase) << 2 | (NUMBER_BYTES as u8 - 1)], &self.id[..]]
                    .concat()
            }
            Space::Initial | Space::Handshake => {
                let kind = if space == Space::Initial { 0xc0 } else { 0xe0 };
                let mut header = vec![kind | (NUMBER_BYTES as u8 - 1), 0, 0, 0, 1];
                for id in [&self.id[..], &OWN_ID] {
                    header.push(id.len() as u8);
                    header.extend_from_slice(id);
                }
                if space == Space::Initial {
                    header.push(0); // no token
                    let rest = header.len() + 2 + NUMBER_BYTES + TAG_BYTES;
                    frames.resize(frames.len().max(DATAGRAM_BYTES_MIN - rest), 0);
                }
                let length = (NUMBER_BYTES + frames.len() + TAG_BYTES) as u16;
                header.extend_from_slice(&(length | 0x4000).to_be_bytes());
                header
            }
        };
        let at = header.len();
        header.extend_from_slice(&(number as u32).to_be_bytes());
        let keys = &self.keys(space).expect("keys of this space").local;
        seal(keys, number, header, at, frames)
    }

    /// Sends one packet in a datagram of its own.
    pub fn send(&mut self, space: Space, frames: &[u8]) -> io::Result<()> {
        let packet = self.packet(space, frames);
        self.send_datagram(&packet)
    }

    /// Sends frames as an application does.
    pub fn say(&mut self, frames: &[u8]) {
        // What does not fit into the socket is lost, as on the network.
        let _lost = self.send(Space::Data, frames);
    }

    pub fn send_datagram(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sent += bytes.len();
        self.socket.send_to(bytes, self.address).map(|_| ())
    }

    /// The next key (RFC 9001 §6), for what is sent from here on.
    pub fn update_key(&mut self) {
        let secrets = self.secrets.as_mut().expect("the handshake is over");
        let next = self.next.replace(secrets.next_packet_keys()).expect("with the secrets");
        let keys = self.data.as_mut().expect("the handshake is over");
        (keys.local.packet, keys.remote.packet) = (next.local, next.remote);
        self.phase = !self.phase;
    }

    /// The frames of the next datagram.
    pub fn receive(&mut self) -> io::Result<Vec<Frame>> {
        let mut buffer = [0; 2048];
        let (len, _) = self.socket.recv_from(&mut buffer)?;
        self.received += len;
        let mut frames = Vec::new();
        let mut rest = &mut buffer[..len];
        while !rest.is_empty() {
            let Some((space, packet, behind)) = self.open_packet(rest) else { break };
            for frame in read_frames(&packet) {
                match frame.kind {
                    CRYPTO => self.hear(space, frame.numbers[0], frame.bytes.clone()),
                    HANDSHAKE_DONE => self.confirmed = true,
                    _ => {}
                }
                frames.push(frame);
            }
            let len = rest.len();
            rest = &mut rest[len - behind..];
        }
        Ok(frames)
    }

    /// As [`Raw::receive`]; whatever was lost in a full socket, the last word of an edge among it, is asked for again.
    pub fn receive_surely(&mut self) -> io::Result<Vec<Frame>> {
        self.socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut outcome = self.receive();
        for n in 0..PATIENCE.as_secs() {
            if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
            self.say(&frame(PATH_CHALLENGE, &[], &n.to_be_bytes()));
            outcome = self.receive();
        }
        self.socket.set_read_timeout(Some(PATIENCE))?;
        outcome
    }

    /// Opens the first packet: its space, its frames, and how many bytes are behind it.
    fn open_packet(&mut self, bytes: &mut [u8]) -> Option<(Space, Vec<u8>, usize)> {
        let long = bytes[0] & 0x80 != 0;
        let (space, at, end) = if long {
            let space = match bytes[0] & 0x30 {
                0x00 => Space::Initial,
                0x20 => Space::Handshake,
                _ => return None,
            };
            let mut at = 5;
            at += 1 + usize::from(*bytes.get(at)?);
            let id = bytes.get(at + 1..at + 1 + usize::from(*bytes.get(at)?))?.to_vec();
            at += 1 + id.len();
            self.id = id;
            if space == Space::Initial {
                let (token, len) = varint::decode(bytes.get(at..)?)?;
                at += len + token as usize;
            }
            let (length, len) = varint::decode(bytes.get(at..)?)?;
            at += len;
            (space, at, at + length as usize)
        } else {
            (Space::Data, 1 + OWN_ID.len(), bytes.len())
        };
        let behind = bytes.len().checked_sub(end)?;
        let expected = self.largest[space as usize].map_or(0, |largest| largest + 1);
        let packet = &mut bytes[..end];
        // Packets of a space whose keys are not there yet are lost.
        let keys = &self.keys(space)?.remote;
        let (number, at) = unprotect(&*keys.header, expected, packet, at)?;
        let phase = packet[0] & 4 != 0;
        let (header, body) = packet.split_at_mut(at);
        let frames = if space == Space::Data && phase != self.phase {
            // The edge changes its key, or has not seen yet that we did.
            let next = self.next.as_ref()?;
            let frames = opened(&*next.remote, number, header, body)?;
            self.update_key();
            frames
        } else {
            opened(&*keys.packet, number, header, body)?
        };
        let largest = &mut self.largest[space as usize];
        *largest = (*largest).max(Some(number));
        Some((space, frames, behind))
    }

    /// Handshake bytes, in order to TLS.
    fn hear(&mut self, space: Space, offset: u64, bytes: Vec<u8>) {
        let index = space as usize;
        self.waiting[index].insert(offset, bytes);
        while let Some((at, bytes)) = self.waiting[index].pop_first() {
            if at > self.taken[index] {
                self.waiting[index].insert(at, bytes);
                return;
            }
            let known = (self.taken[index] - at) as usize;
            if let Some(fresh) = bytes.get(known..).filter(|fresh| !fresh.is_empty()) {
                self.taken[index] += fresh.len() as u64;
                self.tls.read_hs(fresh).expect("the edge means well");
            }
            if space != Space::Data {
                self.talk();
            }
        }
    }

    /// Reads until the edge ends the connection: the code, and whether it is one of HTTP/3.
    pub fn end(&mut self) -> Option<(u64, bool)> {
        loop {
            let frames = self.receive().ok()?;
            let close = frames.iter().find(|f| [CLOSE, CLOSE_BY_APPLICATION].contains(&f.kind));
            if let Some(close) = close {
                return Some((close.numbers[0], close.kind == CLOSE_BY_APPLICATION));
            }
        }
    }

    /// Whether the edge has ended the connection, as far as it has said so yet.
    pub fn ended(&mut self) -> Option<(u64, bool)> {
        self.socket.set_nonblocking(true).expect("a socket");
        let mut code = None;
        while let (None, Ok(frames)) = (code, self.receive()) {
            let close = frames.iter().find(|f| [CLOSE, CLOSE_BY_APPLICATION].contains(&f.kind));
            code = close.map(|close| (close.numbers[0], close.kind == CLOSE_BY_APPLICATION));
        }
        self.socket.set_nonblocking(false).expect("a socket");
        code
    }

    /// Whether it is answered.
    pub fn is_alive(&mut self) -> bool {
        self.liveness().is_ok()
    }

    /// Sends challenges up to a response to one; else how the edge has ended the connection.
    pub fn liveness(&mut self) -> Result<(), (u64, bool)> {
        self.socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a span of time");
        let mut outcome = Err((u64::MAX, false));
        // A datagram may be lost in a full socket.
        'asking: for n in 0..PATIENCE.as_secs() {
            let mut asked = frame(PATH_CHALLENGE, &[], &(n | 0xa5 << 56).to_be_bytes());
            if let Some(largest) = self.largest[Space::Data as usize] {
                // Else its congestion window fills up.
                asked.extend(ack_one(largest));
            }
            self.say(&asked);
            while let Ok(frames) = self.receive() {
                for frame in frames {
                    match frame.kind {
                        PATH_RESPONSE if frame.bytes[0] == 0xa5 => outcome = Ok(()),
                        CLOSE => outcome = Err((frame.numbers[0], false)),
                        CLOSE_BY_APPLICATION => outcome = Err((frame.numbers[0], true)),
                        _ => continue,
                    }
                    break 'asking;
                }
            }
        }
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a span of time");
        outcome
    }
}

fn seal(
    keys: &DirectionalKeys,
    number: u64,
    header: Vec<u8>,
    at: usize,
    mut frames: Vec<u8>,
) -> Vec<u8> {
    let tag = keys.packet.encrypt_in_place(number, &header, &mut frames).expect("fresh keys");
    let mut packet = [&header[..], &frames, tag.as_ref()].concat();
    let sample: Vec<u8> = packet[at + NUMBER_BYTES..][..SAMPLE_BYTES].to_vec();
    let (first, rest) = packet.split_at_mut(1);
    let number = &mut rest[at - 1..][..NUMBER_BYTES];
    protect(&*keys.header, &sample, &mut first[0], number);
    packet
}

fn protect(key: &dyn HeaderProtectionKey, sample: &[u8], first: &mut u8, number: &mut [u8]) {
    key.encrypt_in_place(sample, first, number).expect("a whole sample");
}

/// The packet number, and where the body begins.
fn unprotect(
    key: &dyn HeaderProtectionKey,
    expected: u64,
    packet: &mut [u8],
    at: usize,
) -> Option<(u64, usize)> {
    let sample: Vec<u8> = packet.get(at + NUMBER_BYTES..)?.get(..SAMPLE_BYTES)?.to_vec();
    let (first, rest) = packet.split_at_mut(1);
    key.decrypt_in_place(&sample, &mut first[0], &mut rest[at - 1..][..NUMBER_BYTES]).ok()?;
    let len = usize::from(first[0] & 3) + 1;
    let short = packet[at..at + len].iter().fold(0u64, |value, b| value << 8 | u64::from(*b));
    // RFC 9000 appendix A.3.
    let window = 1u64 << (8 * len);
    let candidate = (expected & !(window - 1)) | short;
    let number = if candidate + window / 2 <= expected {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    };
    Some((number, at + len))
}

fn opened(key: &dyn PacketKey, number: u64, header: &[u8], body: &mut [u8]) -> Option<Vec<u8>> {
    key.decrypt_in_place(number, header, body).ok().map(<[u8]>::to_vec)
}

/// All frames of a packet, but padding.
fn read_frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let mut number = || {
            let (value, len) = varint::decode(bytes).expect("the edge sends whole frames");
            bytes = &bytes[len..];
            value
        };
        let kind = number();
        let mut numbers = Vec::new();
        let (count, data) = match kind {
            0x00 => continue,
            0x02 | 0x03 => {
                numbers.extend([number(), number()]);
                let ranges = number();
                numbers.push(ranges);
                (1 + 2 * ranges + if kind == 3 { 3 } else { 0 }, Data::None)
            }
            0x04 => (3, Data::None),
            0x05 | 0x11 | 0x15 => (2, Data::None),
            CRYPTO => (1, Data::Counted),
            0x07 => (0, Data::Counted),
            0x08..=0x0f => {
                let offset = u64::from(kind & 4 != 0);
                (1 + offset, if kind & 2 != 0 { Data::Counted } else { Data::Rest })
            }
            0x10 | 0x12 | 0x13 | 0x14 | 0x16 | 0x17 | RETIRE_CONNECTION_ID => (1, Data::None),
            NEW_CONNECTION_ID => (2, Data::Id),
            PATH_CHALLENGE | PATH_RESPONSE => (0, Data::Exactly(8)),
            CLOSE => (2, Data::Counted),
            CLOSE_BY_APPLICATION => (1, Data::Counted),
            _ => (0, Data::None),
        };
        (0..count).for_each(|_| numbers.push(number()));
        let len = match data {
            Data::None => 0,
            Data::Counted => number() as usize,
            Data::Rest => bytes.len(),
            Data::Exactly(len) => len,
            Data::Id => 1 + usize::from(bytes[0]) + 16,
        };
        let (data, rest) = bytes.split_at(len);
        bytes = rest;
        frames.push(Frame { kind, numbers, bytes: data.to_vec() });
    }
    frames
}

enum Data {
    None,
    Counted,
    Rest,
    Exactly(usize),
    Id,
}
