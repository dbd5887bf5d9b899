//! Hits that wait for nobody: the whole of an object that is fresh and lies in memory in one block. They are found in one go, since
//! for a small answer the way through all steps costs more than the answer; whatever is not just that goes through the steps.
//!
//! Must stay true: what is answered here is what the steps would have answered, byte for byte, log line and counters included:
//! each judgement is made by the function that makes it there. Who finds nothing here has changed nothing.

use crate::client::{BodyLength, Client, Outlet, Protection};
use crate::clock::ms_at;
use crate::memory::Pressure;
use crate::node::Core;
use crate::object::Object;
use crate::steps::deliver::{self, Portion};
use crate::steps::encode;
use crate::steps::fill::{Passed, Wanted};
use crate::steps::keep::admit;
use crate::steps::send;
use crate::transaction::{DEBUG_FIELD, Exchange, Notes, elsewhere, refused_early};
use crate::view::View;
use bytes::Bytes;
use std::fmt::Write;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tidegate_cache::purge::Judgement;
use tidegate_cache::{Verdict, lookup};
use tidegate_contract::Role;
use tidegate_http::cmcd::{self, Told};
use tidegate_http::{Method, coding};
use tidegate_ring::now;
use tidegate_types::digits::Digits;
use tidegate_types::limits::BLOCK_BYTES;

/// Of this node's member of `Cache-Status`.
const STATUS_BYTES_USUAL: usize = 64;

/// All that the answer is made of.
pub(crate) struct Prompt<'a> {
    wanted: Wanted<'a>,
    object: Arc<Object>,
    body: Bytes,
    age_seconds: u64,
    encodable: bool,
    looked: Instant,
}

/// The answer, if it waits for nobody.
pub(crate) fn find<'a, O: Outlet>(
    core: &'a Rc<Core>,
    view: &'a Arc<View>,
    client: &Client<'_, O>,
    exchange: &Exchange,
    notes: &mut Notes,
) -> Option<Prompt<'a>> {
    let request = &exchange.request;
    let is_plain = request.method == Method::Get
        && !client.is_early()
        && client.protection() != Protection::Tls12
        && core.node.memory.pressure() != Pressure::Full
        && refused_early(request, view).is_none();
    if !is_plain {
        return None;
    }
    let routed = core.routes.borrow_mut().route(view, request)?.ok()?;
    let service = &view.services()[routed.service].service;
    let behaviour = &service.behaviours[routed.behaviour];
    let for_viewer = view.me.role == Role::Edge && !exchange.from_fleet;
    let fields = &request.fields;
    let is_special = elsewhere(behaviour, for_viewer, client).is_some()
        || (service.debug_token_sha256.is_some() && fields.contains(DEBUG_FIELD))
        || (for_viewer && behaviour.pacing.cmcd && tells(exchange));
    if is_special {
        return None;
    }
    let looked = now();
    let now = ms_at(looked);
    let known = core.node.table.get(routed.key.hash, now);
    let object = known.object?;
    if known.marker.is_some() || known.fill.is_some() || known.coming.is_some() {
        return None;
    }
    let Verdict::Hit { age_seconds } = lookup(Some(&object.head), request, behaviour, now) else {
        return None;
    };
    let is_whole = core.node.purges.check(&object) == Judgement::Kept
        && !matches!(object.head.status, 204 | 304)
        && object.total().is_some_and(|total| (1..=BLOCK_BYTES as u64).contains(&total))
        && deliver::portion(request, &object, now) == Portion::Whole;
    if !is_whole {
        return None;
    }
    let encodable = behaviour.compress && for_viewer && encode::is_encodable(&object);
    if encodable && coding::preferred(fields.get_all("accept-encoding")).is_some() {
        return None;
    }
    let body = core.node.ram.get(&(object.key, object.version(), 0))?;
    if object.total() != Some(body.len() as u64) {
        return None;
    }
    // From here on it is answered.
    notes.routed = Some((routed.service, routed.behaviour));
    notes.status.hit = true;
    notes.status.ttl_seconds = Some(object.head.lifetime.ttl_seconds(now));
    let wanted = Wanted {
        core,
        view,
        service: routed.service,
        behaviour,
        key: routed.key.hash,
        chosen: Vec::new(),
        routed,
        passed: Passed::default(),
        span: None,
        is_reload: false,
        for_viewer,
    };
    Some(Prompt { wanted, object, body, age_seconds, encodable, looked })
}

/// Whether the player tells of itself.
fn tells(exchange: &Exchange) -> bool {
    let request = &exchange.request;
    !matches!(cmcd::told(&request.fields, request.query.as_deref()), Told::Nothing)
}

/// Sends it.
pub(crate) async fn send<O: Outlet>(
    core: &Core,
    client: &mut Client<'_, O>,
    found: Prompt<'_>,
    notes: &mut Notes,
    started: Instant,
) -> io::Result<()> {
    let body = begin(core, client, found, notes, started);
    client.body(&body).await?;
    core.count(|c| &c.bytes_hit_total, client.sent);
    client.finish().await
}

/// All up to the body's first byte.
fn begin<O: Outlet>(
    core: &Core,
    client: &mut Client<'_, O>,
    found: Prompt<'_>,
    notes: &mut Notes,
    started: Instant,
) -> Bytes {
    let Prompt { wanted, object, body, age_seconds, encodable, looked } = found;
    notes.first_byte_us = Some(looked.saturating_duration_since(started).as_micros() as u64);
    admit(core, &object, wanted.behaviour.store_admission);
    core.count(|c| &c.hits_total, 1);
    core.count(|c| &c.prompt_hits_total, 1);
    core.count(|c| &c.ram_tier_hits_total, 1);
    core.count(|c| &c.bytes_sent_total, body.len() as u64);
    let length = body.len() as u64;
    send::set_manner(&wanted, client, Some(length), notes);
    let secure = client.is_secure();
    let mut own = String::with_capacity(STATUS_BYTES_USUAL);
    let _to_a_string = write!(own, "{}", notes.status.render(&wanted.view.me.id));
    let fields = || send::fields_of(&wanted, &object, secure, encodable, None);
    let lines = deliver::lines(&object, send::generation_of(&wanted, secure), &fields);
    let age = Digits::of(age_seconds);
    let more = [("age", age.as_bytes()), ("cache-status", own.as_bytes())];
    client.head_from_lines(object.head.status, &lines, &more, BodyLength::Known(length));
    notes.cache_status = Some(own);
    body
}
