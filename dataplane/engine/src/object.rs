//! An object: one version of one response, as the table holds it. Its bytes lie elsewhere (RAM tier, store, fill).

use crate::clock;
use crate::steps::encode::is_codable;
use bytes::Bytes;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tidegate_cache::alternate::Marker;
use tidegate_cache::storable::Lifetime;
use tidegate_cache::stored::StoredHead;
use tidegate_types::limits::BLOCK_BYTES;

/// Bodies up to this size are written in one extent with their head.
pub const INLINE_BODY_BYTES_MAX: u64 = 32 * 1024;

/// One version of a response. Immutable, but for the length of a body whose end has not come yet.
#[derive(Debug)]
pub struct Object {
    pub key: u128,
    pub head: StoredHead,
    /// Of all objects of this version.
    total: Arc<OnceLock<u64>>,
    lines: Mutex<Option<Arc<Lines>>>,
    /// When it was last looked whether all blocks are here, in unix milliseconds.
    looked_ms: AtomicU64,
    /// Requests that it had, and whether it is written to the store.
    requests: AtomicU32,
    /// The bit of the device that it is written to.
    kept: AtomicU32,
    /// The purges' stamp at which it was found not to be purged.
    judged: AtomicU64,
    /// About what it takes in memory.
    cost: usize,
    /// Whether its body is text that may be given in a coding; found out when it is first asked for.
    codable: OnceLock<bool>,
}

/// How often the blocks of a large object are looked through.
const LOOK_EVERY_MS: u64 = 10_000;

/// The field lines of this object's answers that do not change from one request to the next, encoded once for each
/// snapshot generation.
#[derive(Debug)]
pub struct Lines {
    pub generation: u64,
    pub bytes: Vec<u8>,
    packed: [OnceLock<Box<[u8]>>; 2],
}

/// How versions of HTTP after the first write fields: nothing of it depends on a connection, since we use no table of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Hpack,
    Qpack,
}

impl Lines {
    /// Of these lines of HTTP/1.1.
    pub fn new(generation: u64, bytes: Vec<u8>) -> Lines {
        Lines { generation, bytes, packed: Default::default() }
    }

    /// The same in another form, which `pack` makes for the first who asks for it.
    pub fn packed(&self, packing: Packing, pack: impl FnOnce(&[u8]) -> Vec<u8>) -> &[u8] {
        self.packed[packing as usize].get_or_init(|| pack(&self.bytes).into_boxed_slice())
    }
}

/// What a head extent says.
#[derive(Debug)]
pub enum Stored {
    /// The object, and its body when that is small.
    Object(Box<Object>, Option<Bytes>),
    /// Versions up to this one were made invalid.
    Gone(u64),
    /// What is stored for this key lies under keys of its alternates.
    Varies(Marker),
}

const TOMBSTONE: &[u8; 4] = b"TGGO";

/// See [`Object::cost`].
fn cost_of(head: &StoredHead) -> usize {
    const PLACE_BYTES: usize = 320;
    const FIELD_BYTES: usize = 72;
    /// As it came, and as each version of HTTP writes it.
    const FORMS: usize = 4;
    let fields = head.fields.iter().map(|(name, value)| name.len() + value.len());
    let field_bytes = fields.map(|bytes| FIELD_BYTES + FORMS * bytes).sum::<usize>();
    let chosen = head.vary.iter().map(|(name, value)| {
        FIELD_BYTES + name.len() + value.as_ref().map_or(0, |value| value.len())
    });
    let handles = size_of_val(&head.handles[..]);
    size_of::<Object>() + PLACE_BYTES + field_bytes + chosen.sum::<usize>() + handles
}

impl Object {
    pub fn new(key: u128, head: StoredHead) -> Object {
        let total = Arc::new(OnceLock::new());
        if let Some(length) = head.total_length {
            let _first = total.set(length);
        }
        Object {
            key,
            cost: cost_of(&head),
            codable: OnceLock::new(),
            head,
            total,
            lines: Mutex::default(),
            looked_ms: AtomicU64::new(0),
            judged: AtomicU64::new(u64::MAX),
            requests: AtomicU32::new(0),
            kept: AtomicU32::new(0),
        }
    }

    /// About what it takes in memory, with its place in the table and its prepared lines.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether it may be given in a content coding, whatever its length.
    pub fn is_codable(&self) -> bool {
        *self.codable.get_or_init(|| is_codable(&self.head))
    }

    /// Counts requests; how many there were now.
    pub fn count_requests(&self, n: u32) -> u32 {
        self.requests.fetch_add(n, Ordering::Relaxed).saturating_add(n)
    }

    /// Whether it is written to the store, as far as it is here.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed) != 0
    }

    /// Whether it is written to the device with this bit.
    pub fn is_kept_on(&self, bit: u32) -> bool {
        self.kept.load(Ordering::Relaxed) == bit
    }

    /// From now on it is written to the device with this bit. `false`: it was before.
    pub fn set_kept(&self, bit: u32) -> bool {
        self.kept.swap(bit, Ordering::Relaxed) != bit
    }

    /// Something of it could not be written: a later request has it tried again.
    pub fn set_left_out(&self) {
        self.kept.store(0, Ordering::Relaxed);
    }

    /// What is known of another object of the same version, besides its head; and what will be: its length, when its end
    /// is still to come.
    pub fn take_over(&mut self, before: &Object) {
        self.total = before.total.clone();
        self.requests.store(before.requests.load(Ordering::Relaxed), Ordering::Relaxed);
        self.kept.store(before.kept.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The same version with another lifetime.
    pub fn with_lifetime(&self, lifetime: Lifetime) -> Object {
        let total_length = self.total();
        let head = StoredHead { lifetime, total_length, ..self.head.clone() };
        let mut other = Object::new(self.key, head);
        other.take_over(self);
        other
    }

    /// Whether no purge has come since it was judged.
    pub fn judged_at(&self, stamp: u64) -> bool {
        self.judged.load(Ordering::Relaxed) == stamp
    }

    /// Judged, and not purged.
    pub fn set_judged(&self, stamp: u64) {
        self.judged.store(stamp, Ordering::Relaxed);
    }

    /// The encoded lines for this generation, made by `make` when they are not there.
    pub fn lines(&self, generation: u64, make: impl FnOnce() -> Vec<u8>) -> Arc<Lines> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lines) = lines.as_ref().filter(|lines| lines.generation == generation) {
            return lines.clone();
        }
        let fresh = Arc::new(Lines::new(generation, make()));
        *lines = Some(fresh.clone());
        fresh
    }

    /// Whether it is time to look whether all blocks are here; then it is not time for a while.
    pub fn is_look_due(&self, now_ms: u64) -> bool {
        let last = self.looked_ms.load(Ordering::Relaxed);
        let due = now_ms.abs_diff(last) > LOOK_EVERY_MS;
        if due {
            self.looked_ms.store(now_ms, Ordering::Relaxed);
        }
        due
    }

    /// Names this version among all of the key's.
    pub fn version(&self) -> u64 {
        self.head.version
    }

    /// Length of the body, once it is known.
    pub fn total(&self) -> Option<u64> {
        self.total.get().copied()
    }

    /// The end of a body of unknown length has come.
    pub fn set_total(&self, total: u64) {
        let _known_already = self.total.set(total);
    }

    /// Bytes in `block` of a body of `total` bytes.
    pub fn block_len(total: u64, block: u32) -> usize {
        let start = u64::from(block) * BLOCK_BYTES as u64;
        total.saturating_sub(start).min(BLOCK_BYTES as u64) as usize
    }

    /// The payload of this object's head extent: head length, head, and the body when it is small and given.
    pub fn encode(&self, body: Option<&[u8]>) -> Vec<u8> {
        let mut head = self.head.clone();
        head.total_length = self.total();
        head.lifetime.response_ms = clock::to_disk(head.lifetime.response_ms);
        let mut out = vec![0; 4];
        head.encode(&mut out);
        let head_bytes = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&head_bytes.to_le_bytes());
        if let Some(body) = body {
            out.extend_from_slice(body);
        }
        out
    }

    /// The payload of a head extent that says: what came before `version` is not valid any more.
    pub fn tombstone(version: u64) -> Vec<u8> {
        [&[0; 4], &TOMBSTONE[..], &version.to_le_bytes()].concat()
    }

    /// The payload of a head extent that says by which fields the alternates of a key are chosen.
    pub fn marker(marker: &Marker) -> Vec<u8> {
        [&[0; 4], &marker.encode()[..]].concat()
    }

    /// Reads what `encode`, `tombstone` or `marker` wrote. `None`: not ours, or not readable.
    pub fn decode(key: u128, payload: &Bytes) -> Option<Stored> {
        let head_bytes = u32::from_le_bytes(payload.get(..4)?.try_into().ok()?) as usize;
        let end = head_bytes.checked_add(4)?;
        if head_bytes == 0 {
            if let Some(marker) = Marker::decode(payload.get(4..)?) {
                return Some(Stored::Varies(marker));
            }
            let version = payload.get(4..)?.strip_prefix(TOMBSTONE)?.first_chunk()?;
            return Some(Stored::Gone(u64::from_le_bytes(*version)));
        }
        let mut head = StoredHead::decode(payload.get(4..end)?).ok()?;
        head.lifetime.response_ms = clock::from_disk(head.lifetime.response_ms);
        let body = payload.slice(end..);
        let inline = head.total_length == Some(body.len() as u64) && !body.is_empty();
        Some(Stored::Object(Box::new(Object::new(key, head)), inline.then_some(body)))
    }
}
