//! `/explain`: what this node would do with a request, by the same functions that do it.

use crate::clock::now_ms;
use crate::node::Core;
use crate::reader::recover_object;
use crate::route::route;
use crate::transaction::role_name;
use serde_json::{Value, json};
use tidegate_cache::alternate::{alternate_key, choose};
use tidegate_cache::purge::Judgement;
use tidegate_cache::{Verdict, lookup};
use tidegate_fill::{Cause, Choice, Hop, Place, Standing, order};
use tidegate_http::{Authority, Fields, Method, RequestHead, Version};

/// Explains `host=…&path=…[&query=…]`, percent-encoded.
pub async fn explain(core: &Core, query: &str) -> Result<Value, String> {
    let parameter = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| percent_decode(value))
    };
    let view = core.node.view.load_full();
    let path = parameter("path").ok_or("give path=/…, percent-encoded")?;
    let (path, path_query) = match path.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (path, None),
    };
    if !path.starts_with('/') {
        return Err("path must start with /".to_owned());
    }
    let host = parameter("host").unwrap_or_else(|| view.me.addresses[0].to_string());
    let request = plain_get(&host, path, parameter("query").or(path_query))?;
    let node = json!({ "node": view.me.id, "role": role_name(view.me.role), "generation": view.generation });
    let routed = match route(&view, &request) {
        None => {
            return Ok(
                json!({ "node": node, "answer": "404: no delivery service answers to this host" }),
            );
        }
        Some(Err(text)) => return Ok(json!({ "node": node, "answer": format!("400: {text}") })),
        Some(Ok(routed)) => routed,
    };
    let service = &view.services()[routed.service];
    let behaviour = &service.service.behaviours[routed.behaviour];
    let now = now_ms();
    let mut key = routed.key.hash;
    let mut known = core.node.table.get(key, now);
    let mut recovered = None;
    if known.object.is_none() && known.marker.is_none() {
        recovered = recover_object(core, key).await;
        known = core.node.table.get(key, now);
    }
    // Shown is the alternate of a request without any of the fields that choose.
    let varies = known.marker.map(|marker| marker.names.clone());
    if let Some(names) = &varies {
        key = alternate_key(key, &choose(names, &request.fields));
        known = core.node.table.get(key, now);
        if known.object.is_none() {
            recovered = recover_object(core, key).await;
        }
    }
    let object = match (recovered, known.object) {
        (Some(object), _) => Some((object, "store")),
        (None, object) => object.map(|object| (object, "table")),
    };
    let verdict = lookup(object.as_ref().map(|(object, _)| &object.head), &request, behaviour, now);
    let stored = object.as_ref().map(|(object, from)| {
        let lifetime = &object.head.lifetime;
        json!({
            "found_in": from,
            "status": object.head.status,
            "length": object.total(),
            "version": object.version(),
            "age_s": lifetime.age_seconds(now),
            "ttl_s": lifetime.ttl_seconds(now),
            "fresh": lifetime.is_fresh(now),
            "stale_while_revalidate_s": lifetime.stale_while_revalidate_ms / 1000,
            "stale_if_error_s": lifetime.stale_if_error_ms / 1000,
            "must_revalidate": lifetime.must_revalidate,
            "purge": purge_text(core.node.purges.check(object)),
            "etag": object.head.fields.get_str("etag"),
        })
    });
    let choices = order(view.me.role, &service.hops, routed.key.hash as u64);
    let next_hops: Vec<Value> =
        choices.iter().map(|choice| next_hop(&service.hops[choice.index], choice)).collect();
    Ok(json!({
        "node": node,
        "delivery_service": service.service.id,
        "behaviour": behaviour,
        "cache_key": { "text": routed.key.text, "hash": format!("{:032x}", routed.key.hash) },
        "verdict": verdict_text(&verdict),
        "varies_by": varies,
        "stored": stored,
        "fill_under_way": known.fill.is_some(),
        "uncacheable_mark": known.pass,
        "peer": view.peer_for(service, routed.key.hash as u64).map(|peer| &peer.id),
        "next_hops": next_hops,
        "next_target": routed.target,
        "next_host": service.next_authority,
    }))
}

/// A next hop in its place, and why it stands there.
fn next_hop(hop: &Hop, choice: &Choice) -> Value {
    let out_for = |until_ms: u64| until_ms.saturating_sub(hop.state.now_ms()).div_ceil(1000);
    let why_out = |cause: Cause| match cause {
        Cause::Unreachable => "unreachable",
        Cause::Opinion(signal) => signal.word(),
    };
    let state = match (choice.place, hop.state.standing()) {
        (Place::OverBound, _) => "up, but over its bound: others have room".to_owned(),
        (Place::Up, _) | (_, Standing::Up) => "up".to_owned(),
        (_, Standing::Due(cause)) => format!("was out ({}), tried next", why_out(cause)),
        (Place::Spared, Standing::Out { cause, .. }) => {
            format!("asked though failing ({}): too many of its group do", why_out(cause))
        }
        (_, Standing::Out { cause, until_ms, .. }) => {
            format!("out ({}), tried in {} s", why_out(cause), out_for(until_ms))
        }
    };
    let addresses = hop.state.addresses();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    json!({
        "id": hop.id,
        "address": hop.state.place,
        "resolved": addresses,
        "up": choice.place != Place::Out,
        "state": state,
        "under_way": hop.state.under_way(),
        "waiting": hop.state.waiting(),
        "first_byte_p95_ms": hop.state.first_byte_p95().map(|span| span.as_millis() as u64),
    })
}

/// A GET of this host, path and query with no fields.
///
/// # Errors
/// What is wrong with the host.
pub fn plain_get(host: &str, path: String, query: Option<String>) -> Result<RequestHead, String> {
    let authority = Authority::parse(host.as_bytes()).map_err(|e| format!("host: {e}"))?;
    Ok(RequestHead {
        method: Method::Get,
        path,
        query,
        authority: Some(authority),
        scheme_in_target: None,
        version: Version::Http11,
        fields: Fields::new(),
    })
}

fn purge_text(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Kept => "none reaches it",
        Judgement::Soft { .. } => "soft: stale until it is confirmed",
        Judgement::Hard => "hard: gone at the next request",
    }
}

fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Hit { age_seconds } => format!("hit, age {age_seconds} s"),
        Verdict::StaleWhileRevalidate { age_seconds } => {
            format!("hit (stale, age {age_seconds} s), revalidated behind the answer")
        }
        Verdict::Revalidate(why) => format!("revalidate with the next hop ({})", why.token()),
        Verdict::Fill(why) => format!("fill from the next hop ({})", why.token()),
        Verdict::Pass(why) => format!("pass to the next hop, store nothing ({})", why.token()),
        Verdict::Synth(status) => format!("answered here with {status}"),
    }
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
