//! What of a fill is kept in the store, and when: heads and blocks of objects that were asked for often enough, and heads that
//! make older ones invalid.
//!
//! Must stay true: what is given to the keeper is whole and belongs to one version; what is left out is tried again by a
//! later request; an invalidation is written wherever an older head may lie.

use crate::clock::now_ms;
use crate::keeper::Keep;
use crate::memory::Pressure;
use crate::node::Core;
use crate::object::{INLINE_BODY_BYTES_MAX, Object};
use crate::purge::Receipt;
use crate::table::Forgot;
use bytes::Bytes;
use std::sync::Arc;
use tidegate_cache::alternate::Marker;
use tidegate_cache::block_count;
use tidegate_contract::Admission;
use tidegate_store::{ExtentKey, Stream};

/// Objects fresh for less than this go to the live stream: they die together, without copying.
const LIVE_FRESH_MS: u64 = 120_000;

pub fn keep_marker(core: &Core, key: u128, marker: &Marker) {
    let extent = ExtentKey::head_of(key, core.node.next_version());
    keep(core, Stream::Small, extent, Object::marker(marker).into(), None);
}

/// Writes a head that makes older ones invalid, also where such lie since before devices came or went, and whatever else
/// is not kept now. The receipt tells when it is on disk.
fn keep_everywhere(core: &Core, extent: ExtentKey, payload: Bytes) -> Arc<Receipt> {
    let places: Vec<_> = core.node.stores.places(extent.key).collect();
    let bits = places.iter().fold(0, |bits, store| bits | u64::from(store.bit()));
    let receipt = Arc::new(Receipt::of(bits));
    for store in places {
        let (stream, key, payload) = (Stream::Small, extent, payload.clone());
        let invalidation = Some(receipt.clone());
        let is_taken = store.queue.push(Keep { stream, key, payload, object: None, invalidation });
        if !store.queue.is_ours() {
            // One that another process writes to is that one's; nobody waits for it to come back.
            receipt.give(store.bit().into(), Ok(()));
        } else if !is_taken {
            // It would bring back what is not valid any more.
            store.retire(vec![receipt.clone()]);
        }
    }
    receipt
}

pub fn stream_of(object: &Object) -> Stream {
    if object.head.lifetime.freshness_ms < LIVE_FRESH_MS { Stream::Live } else { Stream::VodNew }
}

pub fn keep(
    core: &Core,
    stream: Stream,
    key: ExtentKey,
    payload: Bytes,
    object: Option<Arc<Object>>,
) {
    let Some((_, store)) = core.node.stores.home(key.key) else { return };
    let owner = object.clone();
    if core.node.memory.pressure() >= Pressure::Short {
        core.count(|c| &c.store_memory_shed_total, 1);
    } else if store.is_slow()
        || !store.queue.push(Keep { stream, key, payload, object, invalidation: None })
    {
        core.count(|c| &c.store_not_admitted_total, 1);
    } else {
        return;
    }
    // A later request tries again.
    if let Some(object) = owner {
        object.set_left_out();
    }
}

/// Counts a request for `object`, and has it written once there were enough of them (`own`: by its behaviour's own policy): what
/// is here now goes to the store at once, what is still to come by its fill.
pub fn admit(core: &Core, object: &Arc<Object>, own: Option<Admission>) {
    let Some((_, store)) = core.node.stores.home(object.key) else { return };
    // What is in memory only, its device being out, goes to the one that has its share now.
    if object.is_kept_on(store.bit()) {
        return;
    }
    let requests = object.count_requests(1);
    if !store.admission.is_enough(requests, own) {
        return;
    }
    if core.node.memory.pressure() >= Pressure::Short {
        return core.count(|c| &c.store_memory_shed_total, 1);
    }
    if store.is_slow() || !object.set_kept(store.bit()) {
        return;
    }
    let total = object.total();
    let inline = total.is_some_and(|total| total <= INLINE_BODY_BYTES_MAX);
    let blocks = total.map_or(ADMITTED_BLOCKS_MAX, block_count).min(ADMITTED_BLOCKS_MAX);
    let block = |block| core.node.ram.get(&(object.key, object.version(), block));
    let head = ExtentKey::head_of(object.key, object.version());
    if inline {
        // An empty body needs none; one that is not here yet comes with the head at the end of its fill.
        let body = block(0);
        if total == Some(0) || body.is_some() {
            let payload = object.encode(body.as_deref());
            keep(core, Stream::Small, head, payload.into(), Some(object.clone()));
        }
        return;
    }
    if total.is_some() {
        keep(core, Stream::Small, head, object.encode(None).into(), Some(object.clone()));
    }
    for number in 0..blocks {
        let key = ExtentKey::block(object.key, object.version(), number);
        if store.reader().is_some_and(|reader| reader.contains(&key)) {
            continue; // of an earlier try
        }
        let Some(bytes) = block(number) else { continue };
        keep(core, stream_of(object), key, bytes, Some(object.clone()));
    }
}

/// Blocks that are looked for in memory when an object is admitted; later ones are written when they are read again.
const ADMITTED_BLOCKS_MAX: u32 = 1024;

/// Writes the head of a revalidated object again; a small body goes with it when it is at hand.
pub fn keep_head_again(core: &Core, object: &Arc<Object>) {
    // One whose end is still to come is written then.
    if !object.is_kept() || object.total().is_none() {
        return;
    }
    let inline = object.total().is_some_and(|total| total > 0 && total <= INLINE_BODY_BYTES_MAX);
    let body = core.node.ram.get(&(object.key, object.version(), 0));
    if inline && body.is_none() {
        return; // the older head stays, with its body; after a restart it is revalidated once more
    }
    let payload = object.encode(body.as_deref().filter(|_| inline));
    let key = ExtentKey::head_of(object.key, object.version());
    keep(core, Stream::Small, key, payload.into(), Some(object.clone()));
}

/// Makes invalid what is stored for a key, and after a restart, too, once the receipt is given (RFC 9111 §4.4). `None`:
/// nothing is stored.
pub fn invalidate(core: &Core, key: u128) -> Option<Arc<Receipt>> {
    let version = core.node.next_version();
    let extent = ExtentKey::head_of(key, version);
    core.node.stores.note_invalidation();
    if let Some(marker) = core.node.table.raise_floor(key, version) {
        return Some(keep_everywhere(core, extent, Object::marker(&marker).into()));
    }
    let stored = match core.node.table.forget_key(key, version) {
        Forgot::Object => true,
        // What cannot be looked up yet may be there.
        Forgot::Unknown => core.node.stores.holders(key).next().is_some(),
        Forgot::Nothing => false,
    };
    stored.then(|| keep_everywhere(core, extent, Object::tombstone(version).into()))
}

/// Whether the store has no head of this object any more; a young one may still wait to be written.
pub fn is_head_gone(core: &Core, object: &Object) -> bool {
    let age_ms = now_ms().saturating_sub(object.head.lifetime.response_ms);
    let head = ExtentKey::head_of(object.key, object.version());
    age_ms > HEAD_WRITTEN_MS
        && core.disk(object.key).is_some_and(|(_, reader, _)| !reader.contains(&head))
}

/// A head that was given to the keeper is written after this time at the latest.
const HEAD_WRITTEN_MS: u64 = 1_000;
