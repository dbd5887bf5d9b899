//! Where an object's bytes come from: RAM tier, a fill under way, the store, or else a new fill of the missing part.
//!
//! Must stay true: every byte given out belongs to the object's version (blocks are named by version, part fills
//! are conditional on the validator, or compared with all the rest); an extent that fails its checks is a missing block,
//! not an error.

use crate::device::RingDevice;
use crate::fill::{Fill, Progress};
use crate::node::Core;
use crate::object::{INLINE_BODY_BYTES_MAX, Object, Stored};
use crate::steps::bring::{fill_part, has_strong_tag};
use crate::table::Claim;
use crate::view::View;
use bytes::Bytes;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_http::RequestHead;
use tidegate_store::{ExtentKey, Reader};
use tidegate_types::limits::{BLOCK_BYTES, PART_BLOCKS_MAX};

/// The rest of the object's bytes cannot be had.
#[derive(Debug)]
pub struct Unreadable;

/// Part fills that one response may need in a row without getting on; more means that something is wrong.
const TRIES_MAX: u32 = 4;

/// Reads one object for one response.
pub struct ObjectReader {
    core: Rc<Core>,
    view: Arc<View>,
    service: usize,
    object: Arc<Object>,
    fill: Option<Arc<Fill>>,
    target: String,
    /// What decides which next hop is asked.
    place: u64,
    /// End of what will be asked for, so that a part fill brings no more.
    end: Option<u64>,
    /// Bytes came from a part fill.
    pub filled: bool,
    /// Bytes were given out.
    is_begun: bool,
}

impl ObjectReader {
    #[allow(
        clippy::too_many_arguments,
        reason = "made in one place, from what the transaction knows"
    )]
    /// A reader of `object`, whose bytes may still be coming by `fill`. `target` is what to ask the next hop for.
    pub fn new(
        core: Rc<Core>,
        view: Arc<View>,
        service: usize,
        object: Arc<Object>,
        fill: Option<Arc<Fill>>,
        target: String,
        place: u64,
        end: Option<u64>,
    ) -> ObjectReader {
        // A fill of the same key may be bringing another version.
        let fill = fill.filter(|fill| fill.is_of(object.version()));
        let (filled, is_begun) = (false, false);
        ObjectReader { core, view, service, object, fill, target, place, end, filled, is_begun }
    }

    /// Nothing from `end` on is asked for until more is said.
    pub fn set_end(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// Whether `block` could be had without the next hop, as far as memory knows.
    pub fn has_block(&self, block: u32) -> bool {
        let offset = u64::from(block) * BLOCK_BYTES as u64;
        let version = self.object.version();
        self.fill.as_ref().is_some_and(|fill| fill.covers(offset))
            || self.core.node.ram.contains(&(self.object.key, version, block))
            || is_stored(&self.core, &self.object, block)
    }

    /// Bytes at `offset`, at least one, at most to the end of its block. `None`: the body ends here (its length
    /// was not known before).
    pub async fn read(&mut self, offset: u64) -> Result<Option<Bytes>, Unreadable> {
        let read = match self.read_memory(offset) {
            Some(bytes) => Ok(Some(bytes)),
            // In a box of its own: most reads end above.
            None => Box::pin(self.bring(offset)).await,
        };
        self.is_begun |= matches!(read, Ok(Some(_)));
        read
    }

    /// A whole block, when it is here.
    pub async fn local_block(&self, block: u32) -> Option<Bytes> {
        let id = (self.object.key, self.object.version(), block);
        match self.core.node.ram.get(&id) {
            Some(bytes) => Some(bytes),
            None => self.read_store(block).await,
        }
    }

    fn read_memory(&self, offset: u64) -> Option<Bytes> {
        let block = (offset / BLOCK_BYTES as u64) as u32;
        let within = (offset % BLOCK_BYTES as u64) as usize;
        let id = (self.object.key, self.object.version(), block);
        let bytes = self.core.node.ram.get(&id).filter(|bytes| within < bytes.len())?;
        self.core.count(|c| &c.ram_tier_hits_total, 1);
        Some(bytes.slice(within..))
    }

    async fn bring(&mut self, offset: u64) -> Result<Option<Bytes>, Unreadable> {
        let block = (offset / BLOCK_BYTES as u64) as u32;
        let within = (offset % BLOCK_BYTES as u64) as usize;
        for _ in 0..TRIES_MAX {
            if let Some(bytes) = self.read_memory(offset) {
                return Ok(Some(bytes));
            }
            if let Some(fill) = self.fill.as_ref().filter(|fill| fill.covers(offset)) {
                match fill.read(offset).await {
                    Progress::Bytes(bytes) => return Ok(Some(bytes)),
                    Progress::End if self.object.total().is_none_or(|total| offset >= total) => {
                        return Ok(None);
                    }
                    Progress::Failed => return Err(Unreadable),
                    Progress::End | Progress::Behind => self.fill = None,
                }
                continue; // it may have come to the RAM tier in the meantime
            }
            if let Some(bytes) = self.read_store(block).await.filter(|bytes| within < bytes.len()) {
                return Ok(Some(bytes.slice(within..)));
            }
            let Some(total) = self.object.total() else { return Err(Unreadable) };
            let start = u64::from(block) * BLOCK_BYTES as u64;
            let mut end = start;
            let last = self.end.unwrap_or(total).min(total);
            let mut next = block;
            // Who has no strong tag cannot be asked for a part: while nothing was sent, a new whole is best; then the one
            // block may still be mended.
            let is_strong = has_strong_tag(&self.object);
            if !is_strong && !self.is_begun {
                self.core.node.table.forget(&self.object);
                return Err(Unreadable);
            }
            let full = block.saturating_add(if is_strong { PART_BLOCKS_MAX } else { 1 });
            while end < last && next < full && (next == block || !self.has_block(next)) {
                end += Object::block_len(total, next) as u64;
                next += 1;
            }
            match self.core.node.table.claim_part(&self.object, offset, start, end) {
                Claim::Full => return Err(Unreadable),
                Claim::Changed => {} // whole fills only
                Claim::Join(fill) => self.fill = Some(fill),
                Claim::Lead(fill) => {
                    self.filled = true;
                    self.fill = Some(fill.clone());
                    fill_part(
                        &self.core,
                        &self.view,
                        self.service,
                        &self.object,
                        fill,
                        self.target.clone(),
                        self.place,
                    );
                }
            }
        }
        Err(Unreadable)
    }

    /// The body out of the object's head extent, if that is of the same version.
    async fn read_inline(&self, reader: &Reader, device: &RingDevice) -> Option<Bytes> {
        let head = ExtentKey::head(self.object.key);
        let extent = match tidegate_store::read(reader, device, &head).await {
            Ok(extent) => extent?,
            Err(_) => {
                self.core.count(|c| &c.store_read_errors_total, 1);
                return None;
            }
        };
        let Some(Stored::Object(stored, Some(body))) =
            Object::decode(self.object.key, &extent.payload)
        else {
            return None;
        };
        if stored.version() != self.object.version() {
            return None;
        }
        self.core.count(|c| &c.store_read_bytes_total, extent.payload.len() as u64);
        let body = self.core.stow(&[body]); // without its head, which may be larger
        self.core.remember((self.object.key, self.object.version(), 0), body.clone());
        Some(body)
    }

    async fn read_store(&self, block: u32) -> Option<Bytes> {
        let key = ExtentKey::block(self.object.key, self.object.version(), block);
        let Some((store, reader, device)) = self.core.disk(key.key) else {
            let (_, store) = self.core.node.stores.home(key.key)?;
            return store.queue.find(&key);
        };
        if is_inline(&self.object)
            && let Some(body) = self.read_inline(reader, device).await
        {
            return Some(body);
        }
        if let Some(bytes) = store.queue.find(&key) {
            return Some(bytes);
        }
        match tidegate_store::read(reader, device, &key).await {
            Ok(Some(extent)) => {
                let expected = Object::block_len(self.object.total()?, block);
                if extent.payload.len() != expected {
                    reader.count_bad();
                    return None;
                }
                self.core.count(|c| &c.store_read_bytes_total, extent.payload.len() as u64);
                self.core.remember(
                    (self.object.key, self.object.version(), block),
                    extent.payload.clone(),
                );
                Some(extent.payload)
            }
            Ok(None) => None,
            Err(_) => {
                self.core.count(|c| &c.store_read_errors_total, 1);
                None
            }
        }
    }
}

/// Whether the body lies with its head in one extent.
fn is_inline(object: &Object) -> bool {
    object.total().is_some_and(|total| (1..=INLINE_BODY_BYTES_MAX).contains(&total))
}

/// Whether the store has this block, as far as its index tells.
fn is_stored(core: &Core, object: &Object, block: u32) -> bool {
    core.node.stores.home(object.key).is_some_and(|(_, store)| {
        let key = ExtentKey::block(object.key, object.version(), block);
        let has = |reader: &Reader| {
            (is_inline(object) && reader.contains(&ExtentKey::head(object.key)))
                || reader.contains(&key)
        };
        store.reader().filter(|_| !store.is_slow()).is_some_and(has)
            || store.queue.find(&key).is_some()
    })
}

/// Whether blocks of `object` are nowhere to be had: they are not here, and without a strong validator nobody can be
/// asked for the rest of just this version. Such an object is no hit; it must be filled anew.
///
/// Large objects are looked through once in a while only: for one block that went in between, see `mend` in `bring.rs`.
pub fn is_lost(core: &Core, object: &Object, now_ms: u64) -> bool {
    let total = match object.total() {
        Some(total) if !has_strong_tag(object) => total,
        _ => return false,
    };
    let blocks = total.div_ceil(BLOCK_BYTES as u64) as u32;
    if blocks > PART_BLOCKS_MAX && !object.is_look_due(now_ms) {
        return false;
    }
    let node = &core.node;
    (0..blocks).any(|block| {
        !node.ram.contains(&(object.key, object.version(), block))
            && !is_stored(core, object, block)
    })
}

/// The object whose head lies in the store, if one does.
pub async fn recover_object(core: &Core, key: u128) -> Option<Arc<Object>> {
    let (store, reader, device) = core.disk(key)?;
    let extent = match tidegate_store::read(reader, device, &ExtentKey::head(key)).await {
        Ok(extent) => extent?,
        Err(_) => {
            core.count(|c| &c.store_read_errors_total, 1);
            return None;
        }
    };
    let (object, body) = match Object::decode(key, &extent.payload) {
        Some(Stored::Object(object, body)) => (object, body),
        Some(Stored::Gone(version)) => {
            core.node.table.forget_key(key, version);
            return None;
        }
        Some(Stored::Varies(marker)) => {
            core.node.table.set_marker(key, marker);
            return None;
        }
        None => {
            reader.count_bad();
            return None;
        }
    };
    let object: Arc<Object> = object.into();
    object.set_kept(store.bit());
    if let Some(body) = body {
        core.remember((key, object.version(), 0), core.stow(&[body]));
    }
    core.node.table.publish_recovered(object)
}

/// The request target that stands for an object at the next hop.
pub fn target_of(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

/// Whether the client asked for a body.
pub fn wants_body(request: &RequestHead) -> bool {
    request.method != tidegate_http::Method::Head
}
