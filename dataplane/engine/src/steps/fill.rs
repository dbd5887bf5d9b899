//! Step 7, fill: ask the next hop and decide what its answer is good for. Its body is `bring.rs`, what is kept of it `keep.rs`.
//!
//! A fill of something unknown asks for what its request needs: everything, or the blocks of a range (RFC 9110 §14);
//! then the object is there and other parts come by part fills.
//!
//! Must stay true: the head is judged once, by the request that leads; a fill ends for everybody who waits for it, in whatever
//! way its leader goes.

use crate::clock::{now_ms, wall_ms};
use crate::fill::{Fill, Head};
use crate::next_hop::{Question, ask_any};
use crate::node::Core;
use crate::object::Object;
use crate::route::Routed;
use crate::session::Busy;
use crate::steps::bring::Bringing;
use crate::steps::keep::{keep_head_again, keep_marker};
use crate::view::{ServiceView, View};
use bytes::Bytes;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_cache::alternate::{Chosen, Marker, alternate_key, choose_as_sent, vary_names};
use tidegate_cache::lookup::{is_next_hop_error, set_revalidation_fields};
use tidegate_cache::purge::{object_handles, request_handles, tags_of};
use tidegate_cache::{Merged, Storage, Times, judge_storage, merge_304};
use tidegate_contract::{Behaviour, Role};
use tidegate_fill::{Answer, FillError, Request};
use tidegate_http::range::RangeSpec;
use tidegate_http::{ContentRange, EntityTag, Fields, Method, RangeSpecs, RequestHead};
use tidegate_ring::now;
use tidegate_types::limits::{BLOCK_BYTES, OBJECT_BYTES_MAX, PART_BLOCKS_MAX};

/// What a fill is about.
pub struct Wanted<'a> {
    pub core: &'a Rc<Core>,
    pub view: &'a Arc<View>,
    pub service: usize,
    pub behaviour: &'a Behaviour,
    /// Of the object: the request's own key, or that of the alternate that it chose.
    pub key: u128,
    /// What the request says in the fields that choose among alternates; sent to the next hop.
    pub chosen: Chosen,
    pub routed: Rc<Routed>,
    /// Tiers that the request has passed.
    pub passed: Passed,
    /// First and last byte that a fill of something unknown asks for; `None`: everything.
    pub span: Option<(u64, u64)>,
    /// The client wants it asked about, and may (`obey_clients`): so shall the tiers behind.
    pub is_reload: bool,
    /// The answer is for a viewer, not for another server of the fleet.
    pub for_viewer: bool,
}

/// The bytes to ask for when nothing is known of the object yet: the blocks of the range that the client wants, and at
/// most [`PART_BLOCKS_MAX`] of them; the first block when only the object's length can tell (a suffix), or no byte
/// is wanted (HEAD).
pub fn span_of(request: &RequestHead) -> Option<(u64, u64)> {
    let block = BLOCK_BYTES as u64;
    let first_block = (0, block - 1);
    if request.method == Method::Head {
        return Some(first_block);
    }
    let specs = match request.fields.get("range") {
        Some(value) if request.method == Method::Get => RangeSpecs::parse(value)?.specs,
        _ => return None,
    };
    let (first, last) = match specs.first() {
        Some(RangeSpec::From(0)) => return None,
        Some(RangeSpec::From(first)) => (*first, u64::MAX),
        Some(RangeSpec::Closed(first, last)) => (*first, *last),
        Some(RangeSpec::Suffix(_)) | None => return Some(first_block),
    };
    let first = first / block;
    let last = (last / block).min(first + u64::from(PART_BLOCKS_MAX) - 1);
    Some((first * block, last.saturating_add(1).saturating_mul(block) - 1))
}

impl Wanted<'_> {
    fn service(&self) -> &ServiceView {
        &self.view.services()[self.service]
    }

    /// What purges reach whatever is stored for this request.
    pub fn handles(&self) -> Vec<u64> {
        request_handles(&self.service().service.id, &self.routed.key, &self.routed.path)
    }

    /// The request's own key, whatever alternate it chose.
    pub fn primary(&self) -> u128 {
        self.routed.key.hash
    }

    /// What decides which next hop is asked: the same for all alternates.
    pub fn place(&self) -> u64 {
        self.primary() as u64
    }

    /// The behaviour whose rules shape the answer: an edge's business, parents pass on what they got.
    pub fn rules(&self) -> Option<&Behaviour> {
        self.for_viewer.then_some(self.behaviour)
    }

    /// Where viewers could come by HTTP/3.
    pub fn http3_port(&self) -> Option<u16> {
        self.view.me.http3_port().filter(|_| self.for_viewer)
    }
}

/// What the next hop's answer came to, for the request that asked.
pub enum Filled {
    /// The object is current; its body may still be coming by the fill, or by one of before (`Table::coming`).
    Object {
        object: Arc<Object>,
        fill: Option<Arc<Fill>>,
        revalidated: bool,
        fwd_status: u16,
        upstream: Option<Bytes>,
        /// Server id of the next hop that answered.
        hop: String,
    },
    /// For this client only.
    Private(Box<Answer>, String),
    /// For nobody: the client's own request must go to the next hop.
    Pass,
    /// No usable answer.
    Failed { status: u16, error: Option<FillError>, answer: Option<Box<Answer>> },
}

/// Fields of a request that this node makes by itself: no word of a client's gets into a shared answer. Only the
/// tiers that `passed` names go along (RFC 9110 §7.6.3, RFC 8586), so that a loop is seen by whoever closes it.
pub fn fill_fields(view: &View, passed: &Passed) -> Fields {
    let mut fields = Fields::with_capacity(5);
    let me = &view.me.id;
    let made = fields
        .append("via", joined(&passed.via, format!("1.1 {me}")))
        .and_then(|()| fields.append("cdn-loop", joined(&passed.cdn_loop, me.clone())));
    debug_assert!(made.is_ok(), "parsed values and server ids are well-formed");
    fields
}

fn joined(before: &[u8], own: String) -> Vec<u8> {
    if before.is_empty() { own.into_bytes() } else { [before, b", ", own.as_bytes()].concat() }
}

/// The tiers that the leading request has passed.
#[derive(Debug, Clone, Default)]
pub struct Passed {
    via: Vec<u8>,
    cdn_loop: Vec<u8>,
}

impl Passed {
    /// As the request tells.
    pub fn of(request: &RequestHead) -> Passed {
        let all = |name| {
            request.fields.combined(name).map(|value| value.into_owned()).unwrap_or_default()
        };
        Passed { via: all("via"), cdn_loop: all("cdn-loop") }
    }
}

/// Leads the fill of a key: asks, judges, and lets everybody else know.
pub async fn lead(wanted: &Wanted<'_>, fill: Arc<Fill>, stale: Option<Arc<Object>>) -> Filled {
    let core = wanted.core;
    core.count(|c| &c.fills_total, 1);
    core.counters.fills_open.increment(); // from the question on; the body counts for itself
    let mut guard = LeadGuard { core: core.clone(), key: wanted.key, fill: Some(fill.clone()) };
    let filled = lead_inner(wanted, &fill, stale).await;
    if let Filled::Object { fill: Some(_), .. } = &filled {
        guard.fill = None; // the body task ends it
    }
    filled
}

/// Ends the fill when its leader goes away in whatever way, so that nobody waits for ever.
struct LeadGuard {
    core: Rc<Core>,
    key: u128,
    fill: Option<Arc<Fill>>,
}

impl Drop for LeadGuard {
    fn drop(&mut self) {
        self.core.counters.fills_open.decrement();
        if let Some(fill) = &self.fill {
            self.core.node.table.end_fill(self.key, fill);
            fill.abandon();
        }
    }
}

async fn lead_inner(wanted: &Wanted<'_>, fill: &Arc<Fill>, stale: Option<Arc<Object>>) -> Filled {
    let core = wanted.core;
    let node = &core.node;
    let service = wanted.service();
    let mut revalidating =
        stale.as_ref().filter(|object| object.head.can_revalidate() && object.head.status == 200);
    let mut span = wanted.span;
    let mut request = Request {
        method: Method::Get,
        target: wanted.routed.target.clone(),
        authority: service.next_authority.clone(),
        fields: Fields::new(),
        body: Bytes::new(),
    };
    let deadline = now() + node.timeouts.total;
    for _ in 0..ASKS_MAX {
        request.fields = fill_fields(wanted.view, &wanted.passed);
        send_chosen(&wanted.chosen, &mut request.fields);
        if wanted.is_reload {
            let made = request.fields.append("cache-control", "no-cache");
            debug_assert!(made.is_ok(), "a word is a field value");
        }
        if let Some(object) = revalidating {
            set_revalidation_fields(&object.head, &mut request.fields);
        }
        if let Some((first, last)) = span {
            let made = request.fields.append("range", format!("bytes={first}-{last}"));
            debug_assert!(made.is_ok(), "digits are a field value");
        }
        let request_ms = wall_ms();
        // Before the question: a purge from here on reaches the answer, which may be older than it.
        let number = node.next_version();
        let question = Question {
            request: &request,
            key: wanted.place(),
            tries_max: 3,
            avoid: None,
            deadline,
            hedge: wanted.behaviour.hedge && wanted.view.me.role == Role::Edge,
            peers: wanted.for_viewer,
        };
        let (answer, hop) = match ask_any(core, wanted.view, service, &question).await {
            Ok(answered) => answered,
            Err(error) => {
                let status = error.status();
                fill.set_head(Head::Failed { status, detail: "next-hop-failed" });
                return Filled::Failed { status, error: Some(error), answer: None };
            }
        };
        let (times, arrived_ms) = (Times { request_ms, response_ms: wall_ms() }, now_ms());
        let status = answer.head.status;
        let upstream =
            answer.head.fields.combined("cache-status").map(|v| Bytes::copy_from_slice(&v));
        if status == 304
            && let Some(object) = revalidating
        {
            match merge_304(&object.head, &answer.head, &request.fields, wanted.behaviour, times) {
                Merged::Updated(mut head) => {
                    head.confirmed = number;
                    // Its tags may be others now; more than count made it SendOnce.
                    let tags = tags_of(&head.fields).unwrap_or_default();
                    let handles = object_handles(&wanted.handles(), &service.service.id, &tags);
                    head.handles = handles.into();
                    head.lifetime.response_ms = arrived_ms;
                    head.total_length = object.total();
                    let before = object;
                    let mut object = Object::new(wanted.key, head);
                    object.take_over(before);
                    let object = Arc::new(object);
                    core.count(|c| &c.revalidated_total, 1);
                    node.table.publish(object.clone());
                    keep_head_again(core, &object);
                    fill.set_head(ready(&object, &upstream, status, false));
                    return Filled::Object {
                        object,
                        fill: None,
                        revalidated: true,
                        fwd_status: status,
                        upstream,
                        hop,
                    };
                }
                Merged::SendOnce(mut head, _) => {
                    head.lifetime.response_ms = arrived_ms;
                    head.total_length = object.total();
                    node.table.forget(object);
                    fill.set_head(Head::Refused);
                    let before = object;
                    let mut object = Object::new(wanted.key, head);
                    object.take_over(before);
                    let object = Arc::new(object);
                    return Filled::Object {
                        object,
                        fill: None,
                        revalidated: true,
                        fwd_status: status,
                        upstream,
                        hop,
                    };
                }
                Merged::OtherVersion => {
                    revalidating = None;
                    continue;
                }
            }
        }
        let mut part = None;
        match (span, status) {
            (Some((first, last)), 206) => match part_of(&answer, first, last) {
                Some((_, total)) if total > OBJECT_BYTES_MAX => {
                    node.table.mark_pass(wanted.key, now_ms() + PASS_MS);
                    fill.set_head(Head::Refused);
                    return Filled::Pass;
                }
                Some(found) => part = Some(found),
                // Its pieces could not be put together: one whole fill does it.
                None => {
                    span = None;
                    continue;
                }
            },
            // Beyond the end, wherever that is: the first block tells; if there is none, the whole is empty.
            (Some((first, _)), 416) => {
                span = (first > 0).then_some((0, BLOCK_BYTES as u64 - 1));
                continue;
            }
            _ => {}
        }
        if is_next_hop_error(status) {
            fill.set_head(Head::Failed { status, detail: "next-hop-error" });
            return Filled::Failed { status, error: None, answer: Some(Box::new(answer)) };
        }
        if (status == 206 && part.is_none()) || status == 304 {
            // Not asked for: an answer that breaks the rules is not stored and not passed on.
            fill.set_head(Head::Failed { status: 502, detail: "next-hop-error" });
            return Filled::Failed { status: 502, error: None, answer: None };
        }
        let storage = judge_storage(
            // A HEAD that misses is filled by a GET, so its answer is stored like one.
            &Method::Get,
            &request.fields,
            &answer.head,
            wanted.behaviour,
            times,
        );
        let storage = match answer.body.length() {
            Some(length) if length > OBJECT_BYTES_MAX => None,
            _ => match storage {
                Storage::Store(lifetime) => Some(lifetime),
                Storage::No(_) => None,
            },
        };
        let Some(lifetime) = storage else {
            node.table.mark_pass(wanted.key, now_ms() + PASS_MS);
            fill.set_head(Head::Refused);
            return match part {
                Some(_) => Filled::Pass, // the range that was asked for is not the client's
                None => Filled::Private(Box::new(answer), hop),
            };
        };
        let Some((key, chosen)) = alternate_of(wanted, &answer.head.fields, fill.number) else {
            node.table.mark_pass(wanted.key, now_ms() + PASS_MS);
            fill.set_head(Head::Refused);
            return match part {
                Some(_) => Filled::Pass,
                None => Filled::Private(Box::new(answer), hop),
            };
        };
        // More tags than count were refused above.
        let tags = tags_of(&answer.head.fields).unwrap_or_default();
        let mut head = tidegate_cache::StoredHead::new(
            &answer.head,
            chosen,
            lifetime,
            part.as_ref().map_or(answer.body.length(), |(_, total)| Some(*total)),
            number,
            &object_handles(&wanted.handles(), &service.service.id, &tags),
        );
        head.lifetime.response_ms = arrived_ms;
        let object = Arc::new(Object::new(key, head));
        if let Some((_, store)) = node.stores.home(key) {
            let earlier = object.count_requests(store.admission.earlier_requests(key));
            if store.admission.is_enough(earlier + 1, wanted.behaviour.store_admission) {
                object.set_kept(store.bit()); // by the fill itself
            }
        }
        let fill = match &part {
            None => {
                if key != wanted.key {
                    node.table.move_fill(wanted.key, key, fill);
                }
                // First the fill knows what it brings: who finds the object must find its bytes there, and not ask for them.
                fill.set_head(ready(&object, &upstream, status, true));
                node.table.publish(object.clone());
                fill.clone()
            }
            Some((range, _)) => {
                let (start, end) = (range.start, range.end);
                let part = node.table.publish_part(object.clone(), start, end, fill);
                node.table.end_fill(wanted.key, fill);
                fill.set_head(ready(&object, &upstream, status, false));
                fill.finish(Ok(()));
                part
            }
        };
        core.counters.fills_open.increment();
        let bringing = Bringing {
            core: core.clone(),
            view: wanted.view.clone(),
            service: wanted.service,
            object: object.clone(),
            fill: fill.clone(),
            target: wanted.routed.target.clone(),
            place: wanted.place(),
            passed: wanted.passed.clone(),
            _busy: Busy::new(core),
        };
        match part {
            None => core.spawn(bringing.run(answer.body)),
            Some(_) => core.spawn(bringing.run_part(answer.body)),
        }
        return Filled::Object {
            object,
            fill: Some(fill),
            revalidated: false,
            fwd_status: status,
            upstream,
            hop,
        };
    }
    fill.set_head(Head::Failed { status: 502, detail: "next-hop-error" });
    Filled::Failed { status: 502, error: None, answer: None }
}

/// The fields that choose an alternate, as its clients sent them.
pub fn send_chosen(chosen: &Chosen, fields: &mut Fields) {
    for (name, value) in chosen {
        if let Some(value) = value {
            // Parsed fields, in their normal form.
            let _left_out = fields.set(name.clone(), value.clone());
        }
    }
}

/// Under which key this answer of the fill with this number is stored, and by which fields: the wanted one, unless its
/// `Vary` names more fields than were known to matter. `None`: too many of them.
fn alternate_of(wanted: &Wanted<'_>, answer: &Fields, number: u64) -> Option<(u128, Chosen)> {
    let names = vary_names(answer, &wanted.behaviour.vary_ignore)?;
    let is_known = |name: &String| wanted.chosen.iter().any(|(known, _)| known == name);
    if names.iter().all(is_known) {
        return Some((wanted.key, wanted.chosen.clone()));
    }
    let known = wanted.chosen.iter().map(|(name, _)| name.clone()).collect();
    // Alternates of an earlier marker may lie here that has been lost, and with it what had been made invalid.
    let more = Marker { names: known, floor: number.saturating_sub(1) }.with(&names)?;
    let core = wanted.core;
    let marker = core.node.table.set_marker(wanted.primary(), more)?;
    keep_marker(core, wanted.primary(), &marker);
    // What was not sent chose by its absence.
    let chosen = choose_as_sent(&marker.names, &wanted.chosen);
    Some((alternate_key(wanted.primary(), &chosen), chosen))
}

/// What a 206 brings, when it is what was asked for (blocks from `first` to `last`, or to the object's end) and can be
/// put together with other parts: its bytes and the length of the whole.
fn part_of(answer: &Answer, first: u64, last: u64) -> Option<(Range<u64>, u64)> {
    let strong = |tag: EntityTag| !tag.weak;
    if !answer.head.fields.get("etag").and_then(EntityTag::parse).is_some_and(strong) {
        return None;
    }
    let found = answer.head.fields.get("content-range").and_then(ContentRange::parse)?;
    let (range, total) = (found.range?, found.length?);
    let end = range.end() + 1;
    if *range.start() != first || end != total.min(last.saturating_add(1)) {
        return None;
    }
    let whole = answer.body.length().is_none_or(|length| length == end - first);
    whole.then_some((first..end, total))
}

/// A fill asks at most this often: by condition and range, without the condition, for the first block, for everything.
const ASKS_MAX: usize = 4;

/// How long requests for an uncacheable key do not wait for each other.
const PASS_MS: u64 = 10_000;

fn ready(
    object: &Arc<Object>,
    upstream: &Option<Bytes>,
    fwd_status: u16,
    brings_body: bool,
) -> Head {
    Head::Ready {
        object: object.clone(),
        upstream_status: upstream.clone(),
        fwd_status,
        brings_body,
    }
}
