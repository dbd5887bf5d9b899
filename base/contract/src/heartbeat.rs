//! Datagrams of the control plane: heartbeats (server -> monitors and routers) and verdicts (monitor ->
//! routers).
//!
//! Must stay true: nothing that fails its MAC is looked at further; a datagram never exceeds
//! [`DATAGRAM_BYTES_MAX`]; decoding never panics and allocates no more than the datagram's own size.
//!
//! Byte map, big endian, both kinds: magic `TGHB` (4), version (1), kind (1), payload, HMAC-SHA256 (32) over
//! everything before it. A text is its length (1) and its bytes.
//! - kind 1, heartbeat: server id (text), boot id (8), sequence (8), unix ms (8), state (1), connections (4),
//!   requests/s (4), bytes/s (8), generation (8)
//! - kind 2, verdicts: monitor id (text), boot id (8), sequence (8), unix ms (8), count (2), then each:
//!   server id (text), state (1), generation (8)

use aws_lc_rs::hmac;
use std::fmt;

/// One server's word about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub server: String,
    pub stamp: Stamp,
    pub state: ServingState,
    pub load: Load,
    /// Generation of the snapshot that the server runs on; 0: none yet.
    pub generation: u64,
}

/// What orders the datagrams of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    /// Unix milliseconds at process start: a later process has a higher one.
    pub boot: u64,
    /// Rises by one with each datagram of this process.
    pub sequence: u64,
    /// Unix milliseconds at sending, for people; nothing is decided by it.
    pub unix_ms: u64,
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServingState {
    Up,
    /// Finishes what it has; wants no new clients.
    Draining,
}

/// Load numbers of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    pub connections: u32,
    pub requests_per_second: u32,
    pub bytes_per_second: u64,
}

/// A monitor's view of some servers; a large fleet takes several datagrams, each valid alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    pub monitor: String,
    pub stamp: Stamp,
    pub verdicts: Vec<Verdict>,
}

/// A monitor's view of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub server: String,
    pub state: VerdictState,
    /// Generation that the server said it runs on; 0: not known.
    pub generation: u64,
}

/// What a monitor holds of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictState {
    /// Its heartbeats arrive.
    Up,
    Draining,
    Down,
    /// Its heartbeats stopped, but too many stopped at once: the last good set is held (panic floor).
    Held,
}

/// Key of the MAC, shared by the servers of one CDN.
#[derive(Clone)]
pub struct HeartbeatKey(hmac::Key);

/// A decoded datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram {
    Heartbeat(Heartbeat),
    Verdicts(Verdicts),
}

/// Why a datagram was refused; each is counted by the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramError {
    /// Not one of ours, or cut.
    Shape,
    /// A version this program does not know.
    Version(u8),
    /// The MAC does not fit: another CDN's key, or altered.
    Mac,
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatagramError::Shape => f.write_str("not a heartbeat or verdict datagram, or cut"),
            DatagramError::Version(v) => {
                write!(
                    f,
                    "datagram version {v} is unknown here; run the same release on both sides"
                )
            }
            DatagramError::Mac => f.write_str(
                "the MAC does not fit; check that both sides run a snapshot with the same key",
            ),
        }
    }
}

impl std::error::Error for DatagramError {}

/// A heartbeat key could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatKeyError;

impl fmt::Display for HeartbeatKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a heartbeat key is 64 hexadecimal digits; make one with `tidegate snapshot keygen`",
        )
    }
}

impl std::error::Error for HeartbeatKeyError {}

impl HeartbeatKey {
    /// Reads the key out of [`crate::Keys::heartbeat_hex`].
    pub fn from_hex(hex: &str) -> Result<HeartbeatKey, HeartbeatKeyError> {
        let bytes = crate::hex::decode::<32>(hex.trim()).ok_or(HeartbeatKeyError)?;
        Ok(HeartbeatKey(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

impl fmt::Debug for HeartbeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeartbeatKey(not shown)")
    }
}

impl Heartbeat {
    /// Writes the datagram into `out` (cleared first). Allocates nothing once `out` has grown.
    pub fn encode(&self, key: &HeartbeatKey, out: &mut Vec<u8>) {
        begin(out, KIND_HEARTBEAT);
        put_text(out, &self.server);
        put_stamp(out, &self.stamp);
        out.push(match self.state {
            ServingState::Up => 1,
            ServingState::Draining => 2,
        });
        out.extend_from_slice(&self.load.connections.to_be_bytes());
        out.extend_from_slice(&self.load.requests_per_second.to_be_bytes());
        out.extend_from_slice(&self.load.bytes_per_second.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        finish(out, key);
    }

    /// Reads a heartbeat; a verdict datagram is refused as [`DatagramError::Shape`].
    pub fn decode(bytes: &[u8], key: &HeartbeatKey) -> Result<Heartbeat, DatagramError> {
        match decode(bytes, key)? {
            Datagram::Heartbeat(heartbeat) => Ok(heartbeat),
            Datagram::Verdicts(_) => Err(DatagramError::Shape),
        }
    }
}

impl Verdicts {
    /// How many of `verdicts`, from `start`, fit into one datagram of a monitor called `monitor`.
    pub fn fitting(monitor: &str, verdicts: &[Verdict]) -> usize {
        let mut room = DATAGRAM_BYTES_MAX
            - HEAD_BYTES
            - MAC_BYTES
            - (1 + monitor.len().min(ID_BYTES_MAX))
            - 26;
        let mut count = 0;
        for verdict in verdicts {
            let need = 1 + verdict.server.len().min(ID_BYTES_MAX) + 9;
            if need > room {
                break;
            }
            room -= need;
            count += 1;
        }
        count
    }

    /// Writes the datagram into `out` (cleared first). Verdicts beyond [`Verdicts::fitting`] are left out.
    pub fn encode(&self, key: &HeartbeatKey, out: &mut Vec<u8>) {
        let count = Verdicts::fitting(&self.monitor, &self.verdicts);
        begin(out, KIND_VERDICTS);
        put_text(out, &self.monitor);
        put_stamp(out, &self.stamp);
        out.extend_from_slice(&(count as u16).to_be_bytes());
        for verdict in &self.verdicts[..count] {
            put_text(out, &verdict.server);
            out.push(match verdict.state {
                VerdictState::Up => 1,
                VerdictState::Draining => 2,
                VerdictState::Down => 3,
                VerdictState::Held => 4,
            });
            out.extend_from_slice(&verdict.generation.to_be_bytes());
        }
        finish(out, key);
    }
}

/// Reads one datagram of either kind.
pub fn decode(bytes: &[u8], key: &HeartbeatKey) -> Result<Datagram, DatagramError> {
    if bytes.len() < HEAD_BYTES + MAC_BYTES
        || bytes.len() > DATAGRAM_BYTES_MAX
        || bytes[..4] != MAGIC
    {
        return Err(DatagramError::Shape);
    }
    if bytes[4] != VERSION {
        return Err(DatagramError::Version(bytes[4]));
    }
    let (signed, mac) = bytes.split_at(bytes.len() - MAC_BYTES);
    hmac::verify(&key.0, signed, mac).map_err(|_| DatagramError::Mac)?;
    let mut reader = Reader { rest: &signed[HEAD_BYTES..] };
    let datagram = match signed[5] {
        KIND_HEARTBEAT => Datagram::Heartbeat(reader.heartbeat()?),
        KIND_VERDICTS => Datagram::Verdicts(reader.verdicts()?),
        _ => return Err(DatagramError::Shape),
    };
    if reader.rest.is_empty() { Ok(datagram) } else { Err(DatagramError::Shape) }
}

/// The newest datagram of one sender; older and repeated ones are refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Newest(Option<(u64, u64)>);

impl Newest {
    /// Takes the stamp when it is newer than all before; `false`: a repetition, or overtaken on the way.
    pub fn accept(&mut self, stamp: &Stamp) -> bool {
        let this = (stamp.boot, stamp.sequence);
        if self.0.is_some_and(|newest| this <= newest) {
            return false;
        }
        self.0 = Some(this);
        true
    }
}

fn begin(out: &mut Vec<u8>, kind: u8) {
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(kind);
}

/// Ids of a checked snapshot are shorter than the limit; a longer one is cut rather than sent malformed.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(ID_BYTES_MAX)];
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

fn put_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    out.extend_from_slice(&stamp.boot.to_be_bytes());
    out.extend_from_slice(&stamp.sequence.to_be_bytes());
    out.extend_from_slice(&stamp.unix_ms.to_be_bytes());
}

fn finish(out: &mut Vec<u8>, key: &HeartbeatKey) {
    let tag = hmac::sign(&key.0, out);
    out.extend_from_slice(tag.as_ref());
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn heartbeat(&mut self) -> Result<Heartbeat, DatagramError> {
        Ok(Heartbeat {
            server: self.text()?,
            stamp: self.stamp()?,
            state: match self.byte()? {
                1 => ServingState::Up,
                2 => ServingState::Draining,
                _ => return Err(DatagramError::Shape),
            },
            load: Load {
                connections: u32::from_be_bytes(self.array()?),
                requests_per_second: u32::from_be_bytes(self.array()?),
                bytes_per_second: u64::from_be_bytes(self.array()?),
            },
            generation: u64::from_be_bytes(self.array()?),
        })
    }

    fn verdicts(&mut self) -> Result<Verdicts, DatagramError> {
        let monitor = self.text()?;
        let stamp = self.stamp()?;
        let count = usize::from(u16::from_be_bytes(self.array()?));
        let mut verdicts = Vec::new();
        for _ in 0..count {
            let server = self.text()?;
            let state = match self.byte()? {
                1 => VerdictState::Up,
                2 => VerdictState::Draining,
                3 => VerdictState::Down,
                4 => VerdictState::Held,
                _ => return Err(DatagramError::Shape),
            };
            verdicts.push(Verdict { server, state, generation: u64::from_be_bytes(self.array()?) });
        }
        Ok(Verdicts { monitor, stamp, verdicts })
    }

    fn stamp(&mut self) -> Result<Stamp, DatagramError> {
        Ok(Stamp {
            boot: u64::from_be_bytes(self.array()?),
            sequence: u64::from_be_bytes(self.array()?),
            unix_ms: u64::from_be_bytes(self.array()?),
        })
    }

    fn text(&mut self) -> Result<String, DatagramError> {
        let length = usize::from(self.byte()?);
        if length > ID_BYTES_MAX {
            return Err(DatagramError::Shape);
        }
        let (text, rest) = self.rest.split_at_checked(length).ok_or(DatagramError::Shape)?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|_| DatagramError::Shape)
    }

    fn byte(&mut self) -> Result<u8, DatagramError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DatagramError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DatagramError::Shape)?;
        self.rest = rest;
        Ok(*head)
    }
}

/// Time between two heartbeats of a server, and between two verdict rounds of a monitor, in milliseconds.
pub const HEARTBEAT_INTERVAL_MS: u64 = 200;
/// Missed heartbeats until a server counts as down.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;
/// Bytes of one datagram: below the smallest path MTU of IPv6, so that none is fragmented.
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// Bytes of a server id: it is a DNS label (RFC 1035 2.3.4).
pub const ID_BYTES_MAX: usize = 63;
const MAGIC: [u8; 4] = *b"TGHB";
const VERSION: u8 = 1;
const KIND_HEARTBEAT: u8 = 1;
const KIND_VERDICTS: u8 = 2;
const HEAD_BYTES: usize = 6;
const MAC_BYTES: usize = 32;
