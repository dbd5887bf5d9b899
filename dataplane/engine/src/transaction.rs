//! One request, in the order the code reads. The list of steps is [`run`].
//!
//! Must stay true: a request is routed and its method judged before anything is looked up; each request ends in
//! exactly one answer (or a closed connection) and exactly one event for log and counters.

use crate::client::{BodyLength, Client, Outlet, Protection};
use crate::clock::{now_ms, wall_ms_at};
use crate::fill::{Fill, Head};
use crate::memory::{Pressure, USED_UP};
use crate::next_hop::{Question, ask_any};
use crate::node::Core;
use crate::object::Object;
use crate::origin;
use crate::prompt;
use crate::purge::{Receipt, issue, sift_object};
use crate::reader::{is_lost, recover_object};
use crate::steps::fill::{Filled, Passed, Wanted, fill_fields, lead, span_of};
use crate::steps::keep::invalidate;
use crate::steps::send::{refuse, relay, send_object};
use crate::steps::{prefetch, synth};
use crate::table::{Claim, Known};
use crate::view::View;
use bytes::Bytes;
use std::borrow::Cow;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidegate_cache::alternate::{alternate_key, choose};
use tidegate_cache::purge::{Judgement, Mode, Target, invalidated_groups};
use tidegate_cache::storable::invalidates;
use tidegate_cache::{Verdict, lookup, may_serve_stale_on_error};
use tidegate_contract::{Behaviour, Redirect, Role, TlsVersion};
use tidegate_fill::{Answer, Request};
use tidegate_http::cmcd::{self, Cmcd, Told};
use tidegate_http::{Authority, Fields, Method, RequestHead, hop_by_hop};
use tidegate_ring::{now, timeout, turn_now};
use tidegate_telemetry::TransactionEnd;
use tidegate_types::limits::TIERS_MAX;
use tidegate_types::{CacheStatus, Forward};

pub(crate) fn since(earlier: Instant) -> Duration {
    now().saturating_duration_since(earlier)
}

/// A request with its body.
pub struct Exchange {
    pub request: RequestHead,
    pub body: Vec<u8>,
    /// Another server of the fleet asks, which serves viewers itself.
    pub from_fleet: bool,
}

/// What a transaction has found out so far; becomes the event at its end.
#[derive(Default)]
pub(crate) struct Notes {
    /// Delivery service and behaviour, as indexes into the view.
    pub routed: Option<(usize, usize)>,
    pub status: CacheStatus,
    pub cache_status: Option<String>,
    pub fill: Option<String>,
    pub fill_us: Option<u64>,
    pub first_byte_us: Option<u64>,
    /// What the player tells of itself.
    pub cmcd: Option<Box<Cmcd>>,
    /// Kilobits per second that its answer leaves at, at most.
    pub pace_kbps: Option<u64>,
    /// The client has shown the service's token: it is told what is told to operators.
    pub has_token: bool,
    pub error: Option<String>,
}

/// Runs one request: receive, route, key, lookup, fill, deliver, finish.
pub async fn run<O: Outlet>(core: &Rc<Core>, client: &mut Client<'_, O>, exchange: &Exchange) {
    let started = turn_now();
    let view = core.node.view.load_full();
    let mut notes = Notes::default();
    core.count(|c| &c.requests_total, 1);
    let outcome = match view.me.role {
        Role::Origin => Box::pin(origin::answer(core, &view, client, &exchange.request)).await,
        _ => match prompt::find(core, &view, client, exchange, &mut notes) {
            Some(found) => prompt::send(core, client, found, &mut notes, started).await,
            // In a box of its own: what waits for nobody needs no room for it.
            None => Box::pin(steps(core, &view, client, exchange, &mut notes, started)).await,
        },
    };
    if let Err(error) = outcome {
        client.abort();
        notes.error.get_or_insert_with(|| format!("client: {error}"));
    }
    finish(core, &view, client, &exchange.request, notes, started);
}

async fn steps<O: Outlet>(
    core: &Rc<Core>,
    view: &Arc<View>,
    client: &mut Client<'_, O>,
    exchange: &Exchange,
    notes: &mut Notes,
    started: Instant,
) -> io::Result<()> {
    // Receive: what may not go further.
    let request = &exchange.request;
    if let Some((status, text)) = refused_early(request, view) {
        return synth::answer(client, status, text, Fields::new()).await;
    }
    if core.node.memory.pressure() == Pressure::Full {
        core.count(|c| &c.requests_shed_total, 1);
        let (status, text) = USED_UP;
        return synth::answer(client, status, text, Fields::new()).await;
    }
    // Route: host, then path.
    let Some(routed) = core.routes.borrow_mut().route(view, request) else {
        if view.is_asked_for_health(request) {
            let (status, text) = match core.node.draining.load(Ordering::Relaxed) {
                false => (200, "this node serves"),
                true => (503, "draining"),
            };
            return synth::answer(client, status, text, Fields::new()).await;
        }
        let text = "no delivery service answers to this host; check the host name in the URL";
        return synth::answer(client, 404, text, Fields::new()).await;
    };
    let routed = match routed {
        Ok(routed) => routed,
        Err(text) => return synth::answer(client, 400, text, Fields::new()).await,
    };
    let service = &view.services()[routed.service];
    let behaviour = &service.service.behaviours[routed.behaviour];
    notes.routed = Some((routed.service, routed.behaviour));
    notes.has_token = service.service.debug_token_sha256.is_some()
        && request.fields.get(DEBUG_FIELD).is_some_and(|t| service.service.is_debug_token(t));
    // A connection that was let in for one service's old devices is none for a service that wants better (RFC 9110
    // §15.5.20): the client comes back by a connection of its own.
    if client.protection() == Protection::Tls12 && service.service.tls > TlsVersion::Tls12 {
        let text = "this host wants TLS 1.3; ask for it on another connection";
        return synth::answer(client, 421, text, Fields::new()).await;
    }
    // What is not for all alike is answered when it is sure that nobody plays back what another one asked (RFC 8470).
    let for_all = service.service.early_data && behaviour.cache && request.query.is_none();
    if client.is_early() && !for_all {
        client.confirm().await?;
    }
    if request.method == Method::Options
        && let Some(origin) = &behaviour.cors_allow_origin
    {
        return preflight(client, behaviour, origin).await;
    }
    if max_forwards(request) == Some(0) {
        let mut fields = Fields::new();
        // Methods of a checked snapshot: a field value.
        let _left_out = fields.append("allow", behaviour.methods.join(", "));
        client.head(204, fields, BodyLength::Absent);
        return client.finish().await;
    }
    let for_viewer = view.me.role == Role::Edge && !exchange.from_fleet;
    if let Some(redirect) = elsewhere(behaviour, for_viewer, client) {
        return send_elsewhere(client, request, redirect).await;
    }
    if for_viewer && behaviour.pacing.cmcd {
        notes.cmcd = player_of(core, request);
    }
    // Lookup, and fill when it says so, until there is something to deliver.
    let service_index = routed.service;
    let mut wanted = Wanted {
        core,
        view,
        service: service_index,
        behaviour,
        key: routed.key.hash,
        chosen: Vec::new(),
        routed,
        passed: Passed::of(request),
        span: span_of(request),
        is_reload: false,
        for_viewer,
    };
    let mut found = obtain(&mut wanted, request, notes, client.is_early()).await;
    if let Found::TooEarly = found {
        client.confirm().await?;
        found = obtain(&mut wanted, request, notes, false).await;
    }
    notes.first_byte_us = Some(since(started).as_micros() as u64);
    if let Found::Object { object, fill, upstream } = found {
        // What may be sent again by anybody asks nobody.
        if let Some(cmcd) = notes.cmcd.as_ref().filter(|_| !client.is_early()) {
            prefetch::behind(&wanted, request, cmcd, client.address);
        }
        if send_object(&wanted, client, request, object, fill, upstream, notes).await? {
            return Ok(());
        }
        // Its bytes are gone and the next hop has another version: nothing has been sent, so look once more.
        notes.status = CacheStatus::default();
        client.confirm().await?;
        found = Box::pin(obtain(&mut wanted, request, notes, false)).await;
    }
    match found {
        Found::Object { object, fill, upstream } => {
            let sending = send_object(&wanted, client, request, object, fill, upstream, notes);
            if Box::pin(sending).await? {
                return Ok(());
            }
            let text = "the object's bytes could not be had; try again shortly";
            refuse(&wanted, client, 502, text, notes).await
        }
        Found::Private { answer, hop } => {
            notes.fill = Some(hop);
            Box::pin(relay(&wanted, client, *answer, notes)).await
        }
        Found::Pass(why) => {
            core.count(|c| &c.passed_total, 1);
            notes.status.fwd = Some(why);
            let asked = now();
            match Box::pin(pass_on(&wanted, request, &exchange.body, client)).await {
                Ok((answer, hop)) => {
                    if invalidates(&request.method, answer.head.status) {
                        let receipt = invalidate(core, wanted.primary());
                        let groups = invalidate_groups(&wanted, &answer.head.fields);
                        // A restart brings nothing back of which the client was told that it is another now.
                        Box::pin(written(receipt.into_iter().chain(groups))).await;
                    }
                    notes.fill = Some(hop);
                    notes.fill_us = Some(since(asked).as_micros() as u64);
                    Box::pin(relay(&wanted, client, answer, notes)).await
                }
                Err(error) => {
                    notes.error = Some(error.to_string());
                    let text = "no next hop answered; try again shortly";
                    refuse(&wanted, client, error.status(), text, notes).await
                }
            }
        }
        Found::Synth(status, text) => refuse(&wanted, client, status, text, notes).await,
        Found::TooEarly => Err(io::ErrorKind::WouldBlock.into()), // not of a request that is sure
    }
}

/// The field that a client shows its service's token in. It goes no further, and chooses nothing.
pub(crate) const DEBUG_FIELD: &str = "tidegate-debug";

/// What the player tells of itself with this request; what breaks the rules counts for nothing.
fn player_of(core: &Core, request: &RequestHead) -> Option<Box<Cmcd>> {
    let cmcd = match cmcd::told(&request.fields, request.query.as_deref()) {
        Told::Nothing => return None,
        Told::Read(cmcd) => Some(cmcd),
        Told::Ignored => None,
    };
    core.count(|c| &c.cmcd_total, 1);
    core.count(|c| &c.cmcd_ignored_total, u64::from(cmcd.is_none()));
    cmcd
}

/// What an answer to an unsafe method says is not valid any more (draft-ietf-httpbis-cache-groups).
fn invalidate_groups(wanted: &Wanted<'_>, fields: &Fields) -> Vec<Arc<Receipt>> {
    let service = &wanted.view.services()[wanted.service].service.id;
    let groups = invalidated_groups(fields);
    let handles = groups.iter().filter_map(|group| Target::Tag(group).handle(service).ok());
    handles.map(|handle| issue(wanted.core, service, handle, Mode::Soft).1).collect()
}

/// Waits a while for all receipts.
async fn written(receipts: impl Iterator<Item = Arc<Receipt>>) {
    let all = async {
        for receipt in receipts {
            let _as_well_as_it_can_be = receipt.wait().await;
        }
    };
    let _late = timeout(INVALIDATION_WAIT_MAX, all).await;
}

/// How long an answer to an unsafe method waits for the disk: one that is late costs durability, not the client.
const INVALIDATION_WAIT_MAX: Duration = Duration::from_secs(1);

pub(crate) fn refused_early(request: &RequestHead, view: &View) -> Option<(u16, &'static str)> {
    let ours = |value: &[u8]| {
        tidegate_http::list_members(value).any(|member| {
            let id = member.split(|b| *b == b';' || *b == b' ').next().unwrap_or_default();
            id == view.me.id.as_bytes()
        })
    };
    if request.fields.get_all("cdn-loop").any(ours) {
        return Some((
            508,
            "this request has been here before; check the next hops of this server",
        ));
    }
    let tiers = request.fields.get_all("via").flat_map(tidegate_http::list_members).count();
    if tiers > TIERS_MAX {
        return Some((508, "this request has passed too many tiers"));
    }
    if matches!(request.method, Method::Connect | Method::Trace) {
        return Some((405, "this method is not served here"));
    }
    None
}

/// How many hops an OPTIONS may still pass (RFC 9110 §7.6.2). (No TRACE is passed on.)
fn max_forwards(request: &RequestHead) -> Option<u64> {
    if request.method != Method::Options {
        return None;
    }
    let digits = request.fields.get("max-forwards")?;
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    // One that is too large is a large one.
    let number = || std::str::from_utf8(digits).ok()?.parse().ok().or(Some(u64::MAX));
    if is_number { number() } else { None }
}

async fn preflight<O: Outlet>(
    client: &mut Client<'_, O>,
    behaviour: &Behaviour,
    origin: &str,
) -> io::Result<()> {
    let mut fields = Fields::new();
    // Values come from a checked snapshot; one that is no field value is left out.
    let _left_out = fields.append("access-control-allow-origin", origin.to_owned());
    let _left_out = fields.append("access-control-allow-methods", behaviour.methods.join(", "));
    let _left_out = fields.append(
        "access-control-allow-headers",
        "range, if-range, cmcd-request, cmcd-object, cmcd-session, cmcd-status",
    );
    let _left_out = fields.append("access-control-max-age", "86400");
    client.head(204, fields, BodyLength::Absent);
    client.finish().await
}

/// Where this client shall ask instead: an edge's business, other tiers are asked over plain HTTP.
pub(crate) fn elsewhere<'a, O: Outlet>(
    behaviour: &'a Behaviour,
    for_viewer: bool,
    client: &Client<'_, O>,
) -> Option<&'a Redirect> {
    let redirect = behaviour.redirect.as_ref().filter(|_| for_viewer)?;
    (!(redirect.only_http && client.is_secure())).then_some(redirect)
}

/// Answers with the behaviour's redirect. The host is one of the service's own: others are not routed here.
async fn send_elsewhere<O: Outlet>(
    client: &mut Client<'_, O>,
    request: &RequestHead,
    redirect: &Redirect,
) -> io::Result<()> {
    let host = request.authority.as_ref().map(|a| a.host.as_str()).unwrap_or_default();
    let location = redirect.location(host, &request.path, request.query.as_deref());
    let mut fields = Fields::new();
    // Parts of a parsed request and a checked snapshot: a field value.
    let _left_out = fields.append("location", location);
    client.head(redirect.status, fields, BodyLength::Known(0));
    client.finish().await
}

enum Found {
    Object {
        object: Arc<Object>,
        fill: Option<Arc<Fill>>,
        upstream: Option<Bytes>,
    },
    Private {
        answer: Box<Answer>,
        hop: String,
    },
    Pass(Forward),
    Synth(u16, &'static str),
    /// More would follow from the request than an answer from the cache, and it is not sure yet whose it is.
    TooEarly,
}

/// A request looks again this often when what it waited for turned out not to be for it.
const LOOKUPS_MAX: usize = 4;

/// What is known of a key, in memory or in the store.
pub(crate) async fn look(wanted: &Wanted<'_>, key: u128, now: u64) -> Known {
    let table = &wanted.core.node.table;
    let mut known = table.get(key, now);
    let unknown = known.object.is_none() && known.fill.is_none() && known.marker.is_none();
    if unknown && wanted.behaviour.cache {
        known.object = Box::pin(recover_object(wanted.core, key)).await;
        if known.object.is_none() {
            known = table.get(key, now); // a marker may have come
        }
    }
    known
}

/// Lookup and fill. What a hit does not do is in boxes of its own: a transaction's future is moved and held as large as the
/// largest of its branches.
async fn obtain(
    wanted: &mut Wanted<'_>,
    request: &RequestHead,
    notes: &mut Notes,
    is_early: bool,
) -> Found {
    let core = wanted.core;
    let table = &core.node.table;
    for _ in 0..LOOKUPS_MAX {
        let now = now_ms();
        let mut known = look(wanted, wanted.primary(), now).await;
        (wanted.key, wanted.chosen) = (wanted.primary(), Vec::new());
        if let Some(marker) = known.marker {
            wanted.chosen = choose(&marker.names, &request.fields);
            wanted.key = alternate_key(wanted.primary(), &wanted.chosen);
            known = look(wanted, wanted.key, now).await;
            if let Some(object) = known.object.take_if(|o| o.version() <= marker.floor) {
                table.forget(&object);
            }
            if let Some(fill) = known.fill.take_if(|fill| fill.number <= marker.floor) {
                fill.set_purged();
                table.end_fill(wanted.key, &fill);
            }
        }
        known.object = known.object.take().and_then(|object| sift_object(core, object));
        if let Some(fill) = known.fill.take_if(|fill| is_purged_fill(wanted, fill)) {
            fill.set_purged();
            table.end_fill(wanted.key, &fill);
        }
        // A fill under way helps when it brings this version, not when it asks whether it is current.
        let version = known.object.as_ref().map(|object| object.version());
        let brings_it = |fill: &Arc<Fill>| version.is_some_and(|version| fill.is_of(version));
        let body = known.fill.take_if(|fill| brings_it(fill)).or(known.coming);
        if let Some(object) =
            known.object.take_if(|object| body.is_none() && is_lost(core, object, now))
        {
            table.forget(&object);
        }
        let head = known.object.as_ref().map(|object| &object.head);
        let verdict = lookup(head, request, wanted.behaviour, now);
        if is_early && !matches!((&verdict, &known.object), (Verdict::Hit { .. }, Some(_))) {
            return Found::TooEarly;
        }
        wanted.is_reload = matches!(
            verdict,
            Verdict::Fill(Forward::Request) | Verdict::Revalidate(Forward::Request)
        );
        let wanted = &*wanted;
        match (verdict, known.object) {
            (Verdict::Hit { .. }, Some(object)) => {
                notes.status.hit = true;
                notes.status.ttl_seconds = Some(object.head.lifetime.ttl_seconds(now));
                return Found::Object { object, fill: body, upstream: None };
            }
            (Verdict::StaleWhileRevalidate { .. }, Some(object)) => {
                // While its bytes are still coming, they are what the next hop has.
                let number = core.node.next_version();
                if body.is_none()
                    && let Claim::Lead(fill) = table.claim(wanted.key, Some(&object), now, number)
                {
                    revalidate_behind(wanted, fill, object.clone());
                }
                return stale(core, notes, object, body, now);
            }
            (Verdict::Synth(status), _) => {
                let text = match status {
                    405 => "this method is not allowed for this path",
                    _ => "nothing usable is stored and only-if-cached was asked",
                };
                return Found::Synth(status, text);
            }
            (Verdict::Pass(why), _) => return Found::Pass(why),
            // Someone else's credentials or cookies must neither be shared nor wait for others.
            _ if request.fields.contains("authorization") => return Found::Pass(Forward::Request),
            (_, _) if known.pass => return Found::Pass(Forward::UriMiss),
            (Verdict::Fill(_), None)
                if !wanted.chosen.is_empty()
                    && !table.may_have_alternate(wanted.primary(), wanted.key, now) =>
            {
                core.count(|c| &c.alternates_refused_total, 1);
                return Found::Pass(Forward::VaryMiss);
            }
            (Verdict::Fill(why) | Verdict::Revalidate(why), object) => {
                let why = match why {
                    // Another alternate may be there.
                    Forward::UriMiss if !wanted.chosen.is_empty() => Forward::VaryMiss,
                    why => why,
                };
                notes.status.fwd = Some(why);
                match table.claim(wanted.key, object.as_ref(), now, core.node.next_version()) {
                    Claim::Changed => continue,
                    Claim::Full => {
                        return match object {
                            Some(object) if may_serve_stale_on_error(&object.head, now) => {
                                notes.status.fwd = None; // nobody was asked
                                stale(core, notes, object, body, now)
                            }
                            _ => {
                                Found::Synth(503, "too many fills are under way; try again shortly")
                            }
                        };
                    }
                    Claim::Lead(fill) => {
                        let leading = led(wanted, request, fill, object, notes);
                        match Box::pin(leading).await {
                            Some(found) => return found,
                            None => continue,
                        }
                    }
                    Claim::Join(fill) => {
                        notes.status.collapsed = true;
                        core.count(|c| &c.collapsed_total, 1);
                        let waiting = joined(wanted, request, fill, object, notes);
                        match Box::pin(waiting).await {
                            Some(found) => return found,
                            None => continue,
                        }
                    }
                }
            }
            (Verdict::Hit { .. } | Verdict::StaleWhileRevalidate { .. }, None) => continue,
        }
    }
    Found::Pass(Forward::UriMiss)
}

fn is_purged_fill(wanted: &Wanted<'_>, fill: &Fill) -> bool {
    wanted.core.node.purges.reaches_fill(fill, || wanted.handles())
}

fn stale(
    core: &Core,
    notes: &mut Notes,
    object: Arc<Object>,
    fill: Option<Arc<Fill>>,
    now: u64,
) -> Found {
    core.count(|c| &c.stale_total, 1);
    notes.status.hit = true;
    notes.status.ttl_seconds = Some(object.head.lifetime.ttl_seconds(now));
    notes.status.detail = Some("stale");
    Found::Object { object, fill, upstream: None }
}

/// Whether an answer for one client may depend on this field of its request, which a fill does not carry. (What says
/// how an answer is wanted, and what hops write, is not meant.)
fn is_own_word(name: &str) -> bool {
    const OTHERS: [&str; 13] = [
        "host",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "cache-control",
        "via",
        "cdn-loop",
        "connection",
        "x-forwarded-for",
        DEBUG_FIELD,
    ];
    !OTHERS.contains(&name)
}

/// This request does the fill. `None`: what came is another request's alternate, look again.
async fn led(
    wanted: &Wanted<'_>,
    request: &RequestHead,
    fill: Arc<Fill>,
    old: Option<Arc<Object>>,
    notes: &mut Notes,
) -> Option<Found> {
    let core = wanted.core;
    let asked = now();
    let filled = lead(wanted, fill, old.clone()).await;
    notes.fill_us = Some(since(asked).as_micros() as u64);
    match filled {
        Filled::Object { object, .. } if !object.head.matches_vary(&request.fields) => None,
        Filled::Object { object, fill, revalidated, fwd_status, upstream, hop } => {
            notes.fill = Some(hop);
            notes.status.fwd_status = Some(fwd_status);
            notes.status.stored = !revalidated;
            let fill = fill.or_else(|| core.node.table.coming(&object));
            Some(Found::Object { object, fill, upstream })
        }
        // The fill asked without the client's own fields: what came is nobody's answer, least of all a Set-Cookie.
        Filled::Private(..) if request.fields.iter().any(|(name, _)| is_own_word(name)) => {
            Some(Found::Pass(Forward::UriMiss))
        }
        Filled::Pass => Some(Found::Pass(Forward::UriMiss)),
        Filled::Private(answer, hop) => {
            notes.status.fwd_status = Some(answer.head.status);
            Some(Found::Private { answer, hop })
        }
        Filled::Failed { status, error, answer } => {
            notes.error = error.as_ref().map(ToString::to_string);
            let now = now_ms();
            if let Some(object) = old.filter(|object| may_serve_stale_on_error(&object.head, now)) {
                notes.status.fwd_status = answer.map(|answer| answer.head.status);
                let body = core.node.table.coming(&object);
                return Some(stale(core, notes, object, body, now));
            }
            Some(match answer {
                Some(answer) => Found::Private { answer, hop: String::new() },
                None => Found::Synth(status, "no next hop answered; try again shortly"),
            })
        }
    }
}

/// Another request does the fill. `None`: its answer is not for us, look again.
async fn joined(
    wanted: &Wanted<'_>,
    request: &RequestHead,
    fill: Arc<Fill>,
    old: Option<Arc<Object>>,
    notes: &mut Notes,
) -> Option<Found> {
    let core = wanted.core;
    let number = core.node.purges.newest();
    match fill.head().await {
        Head::Ready { object, upstream_status, fwd_status, brings_body } => {
            // Its tags are known only now: a purge before this request may have meant it.
            if number >= fill.number && core.node.purges.check(&object) != Judgement::Kept {
                fill.set_purged();
                core.node.table.end_fill(wanted.key, &fill);
                return None;
            }
            if !object.head.matches_vary(&request.fields) {
                return None;
            }
            notes.status.fwd_status = Some(fwd_status);
            let fill = brings_body.then_some(fill).or_else(|| core.node.table.coming(&object));
            Some(Found::Object { object, fill, upstream: upstream_status })
        }
        // All at once, each on its own: the key is marked, so that they do not queue up behind each other again.
        Head::Refused => Some(Found::Pass(Forward::UriMiss)),
        Head::Failed { status, .. } => {
            let now = now_ms();
            if let Some(object) = old.filter(|object| may_serve_stale_on_error(&object.head, now)) {
                let body = core.node.table.coming(&object);
                return Some(stale(core, notes, object, body, now));
            }
            Some(Found::Synth(status, "no next hop answered; try again shortly"))
        }
        Head::Waiting => None,
    }
}

/// Revalidates in the background, for the next requests.
fn revalidate_behind(wanted: &Wanted<'_>, fill: Arc<Fill>, object: Arc<Object>) {
    let (core, view, service) = (wanted.core.clone(), wanted.view.clone(), wanted.service);
    let (key, passed) = (wanted.key, wanted.passed.clone());
    let chosen = wanted.chosen.clone();
    let (behaviour, routed) = (wanted.behaviour.clone(), wanted.routed.clone());
    let for_viewer = wanted.for_viewer;
    wanted.core.spawn(async move {
        let wanted = Wanted {
            core: &core,
            view: &view,
            service,
            behaviour: &behaviour,
            key,
            chosen,
            routed,
            passed,
            span: None,
            is_reload: false,
            for_viewer,
        };
        let _published_or_kept = lead(&wanted, fill, Some(object)).await;
    });
}

/// Asks the next hop for this client alone, with what the client sent (less what is for one hop only).
async fn pass_on<O: Outlet>(
    wanted: &Wanted<'_>,
    request: &RequestHead,
    body: &[u8],
    client: &Client<'_, O>,
) -> Result<(Answer, String), tidegate_fill::FillError> {
    let service = &wanted.view.services()[wanted.service];
    let mut fields = request.fields.clone();
    hop_by_hop::remove(&mut fields);
    hop_by_hop::remove_unkeyed(&mut fields);
    if !wanted.behaviour.pacing.pass_cmcd {
        fields.retain(|name, _| !cmcd::FIELDS.contains(&name));
    }
    for name in ["host", "content-length", "expect", DEBUG_FIELD] {
        fields.remove(name);
    }
    for (name, value) in fill_fields(wanted.view, &wanted.passed).iter() {
        let _left_out = fields.set(name.to_owned(), value.to_vec());
    }
    if let Some(hops) = max_forwards(request) {
        let _left_out = fields.set("max-forwards", hops.saturating_sub(1).to_string());
    }
    let _left_out = fields.set("x-forwarded-for", client.address.ip().to_string());
    if !body.is_empty() {
        let _left_out = fields.set("content-length", body.len().to_string());
    }
    let passed = Request {
        method: request.method.clone(),
        target: wanted.routed.target.clone(),
        authority: service.next_authority.clone(),
        fields,
        body: Bytes::copy_from_slice(body),
    };
    // What is not safe to repeat is sent once.
    let tries = if request.method.is_safe() { 3 } else { 1 };
    let question = Question {
        request: &passed,
        key: wanted.place(),
        tries_max: tries,
        avoid: None,
        deadline: now() + wanted.core.node.timeouts.total,
        hedge: false,
        peers: false,
    };
    ask_any(wanted.core, wanted.view, service, &question).await
}

fn finish<O: Outlet>(
    core: &Core,
    view: &View,
    client: &Client<'_, O>,
    request: &RequestHead,
    notes: Notes,
    started: Instant,
) {
    let ended = now();
    let duration_us = ended.saturating_duration_since(started).as_micros() as u64;
    if let Some(first_byte_us) = notes.first_byte_us {
        core.counters.first_byte.observe(first_byte_us);
    }
    match client.status {
        200..=299 => core.count(|c| &c.responses_2xx_total, 1),
        300..=399 => core.count(|c| &c.responses_3xx_total, 1),
        400..=499 => core.count(|c| &c.responses_4xx_total, 1),
        500..=599 => core.count(|c| &c.responses_5xx_total, 1),
        _ => {} // the connection ended before an answer
    }
    let service = notes.routed.map(|(service, _)| &view.services()[service]);
    let behaviour =
        service.zip(notes.routed).map(|(s, (_, behaviour))| &s.service.behaviours[behaviour]);
    let host = match &request.authority {
        Some(Authority { host, port: None, is_ip: false }) => Cow::Borrowed(host.as_str()),
        authority => authority.as_ref().map(ToString::to_string).unwrap_or_default().into(),
    };
    let event = TransactionEnd {
        unix_ms: wall_ms_at(ended).saturating_sub(duration_us / 1000),
        node: &view.me.id,
        tier: role_name(view.me.role),
        client: Some(client.address),
        protocol: client.protocol(),
        method: request.method.as_str(),
        host: host.as_bytes(),
        path: request.path.as_bytes(),
        query: request.query.as_deref().map(str::as_bytes),
        status: client.status,
        bytes_sent: client.sent,
        duration_us,
        first_byte_us: notes.first_byte_us,
        delivery_service: service.map(|service| service.service.id.as_str()),
        behaviour: behaviour.map(|behaviour| behaviour.name.as_str()),
        cache_status: notes.cache_status.as_deref(),
        fill: notes.fill.as_deref().filter(|hop| !hop.is_empty()),
        fill_us: notes.fill_us,
        pace_kbps: notes.pace_kbps,
        range: request.fields.get("range"),
        user_agent: request.fields.get("user-agent"),
        error: notes.error.as_deref(),
    };
    core.log(&event);
}

/// The word for a role in logs and pages.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Edge => "edge",
        Role::Parent => "parent",
        Role::Origin => "origin",
        Role::Router => "router",
        Role::Monitor => "monitor",
    }
}
