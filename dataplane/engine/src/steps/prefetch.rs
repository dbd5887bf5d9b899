//! Beside delivery: what a player says that it will ask for next (CMCD `nor`, `nrr`) is brought in before it asks, by an ordinary
//! fill, which its request then finds or joins.
//!
//! Must stay true: it is routed and judged as the player's own request would be, and what that would not be given as a
//! shared answer (another origin, a path that is not cached or redirected, other methods) is not asked for; what
//! is known or on its way is left alone; it is the first thing that a node short of anything does without.

use crate::clock::now_ms;
use crate::node::Core;
use crate::purge::sift_object;
use crate::route::{Routed, route};
use crate::steps::fill::{Filled, Passed, Wanted, lead, span_of};
use crate::table::Claim;
use crate::transaction::look;
use crate::view::View;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_cache::alternate::{alternate_key, choose};
use tidegate_http::cmcd::{Cmcd, resolve_next};
use tidegate_http::{Method, RequestHead};

/// Under way in one process.
pub const PREFETCHES_MAX: usize = 64;
/// Under way for one connection.
pub const PREFETCHES_OF_ONE_MAX: usize = 2;

/// Prefetches under way in one process, by the client that they are for.
#[derive(Debug, Default)]
pub struct Prefetches(Mutex<HashMap<SocketAddr, usize>>);

/// A place among them.
#[derive(Debug)]
struct Permit(Arc<Prefetches>, SocketAddr);

impl Prefetches {
    /// `None`: this client, or all together, have as many as they may.
    fn take(self: &Arc<Self>, client: SocketAddr) -> Option<Permit> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= PREFETCHES_MAX
            || open.get(&client).is_some_and(|count| *count >= PREFETCHES_OF_ONE_MAX)
        {
            return None;
        }
        *open.entry(client).or_default() += 1;
        Some(Permit(self.clone(), client))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// Brings in, in the background, what the player of this request asks for next.
pub fn behind(wanted: &Wanted<'_>, request: &RequestHead, cmcd: &Cmcd, client: SocketAddr) {
    let core = wanted.core;
    let names_next = cmcd.next.is_some() || cmcd.next_range.is_some();
    if !names_next || request.method != Method::Get || !wanted.behaviour.pacing.prefetch {
        return;
    }
    let Some((next, routed)) = next_of(wanted, request, cmcd) else {
        return core.count(|c| &c.prefetch_refused_total, 1);
    };
    if routed.key.hash == wanted.primary() {
        return; // what of it is not here is asked for as the player asks
    }
    let node = &core.node;
    let stops = node.draining.load(Ordering::Relaxed);
    let room = !stops && node.memory.may_prefetch();
    let Some(permit) = node.prefetches.take(client).filter(|_| room) else {
        return core.count(|c| &c.prefetch_shed_total, 1);
    };
    let (core, view) = (core.clone(), wanted.view.clone());
    wanted.core.spawn(async move {
        let _permit = permit;
        bring(&core, &view, &next, routed).await;
    });
}

/// The request that the player will make, and where it belongs. `None`: it is not one to be made for it.
fn next_of(
    wanted: &Wanted<'_>,
    request: &RequestHead,
    cmcd: &Cmcd,
) -> Option<(RequestHead, Routed)> {
    // What only this client may see is for nobody else.
    if request.fields.contains("authorization") {
        return None;
    }
    let (path, query) =
        resolve_next(&wanted.routed.path, cmcd.next.as_deref().unwrap_or_default()).ok()?;
    let query = if cmcd.next.is_some() { query } else { request.query.clone() };
    let mut next = RequestHead { path, query, ..request.clone() };
    next.fields.remove("range");
    if let Some((first, last)) = cmcd.next_range {
        let last = last.map(|last| last.to_string()).unwrap_or_default();
        // Digits are a field value.
        let _left_out = next.fields.set("range", format!("bytes={first}-{last}"));
    }
    let routed = route(wanted.view, &next)?.ok()?;
    let behaviour = &wanted.view.services()[routed.service].service.behaviours[routed.behaviour];
    let elsewhere = behaviour.redirect.as_ref().is_some_and(|redirect| !redirect.only_http);
    let gets = behaviour.methods.iter().any(|method| method == Method::Get.as_str());
    let may = behaviour.cache && behaviour.pacing.prefetch && gets && !elsewhere;
    (may && routed.service == wanted.service).then_some((next, routed))
}

async fn bring(core: &Rc<Core>, view: &Arc<View>, next: &RequestHead, routed: Routed) {
    let behaviour = &view.services()[routed.service].service.behaviours[routed.behaviour];
    let mut wanted = Wanted {
        core,
        view,
        service: routed.service,
        behaviour,
        key: routed.key.hash,
        chosen: Vec::new(),
        routed: Rc::new(routed),
        passed: Passed::of(next),
        span: span_of(next),
        is_reload: false,
        for_viewer: true,
    };
    let (table, now) = (&core.node.table, now_ms());
    let mut known = look(&wanted, wanted.key, now).await;
    if let Some(marker) = known.marker {
        wanted.chosen = choose(&marker.names, &next.fields);
        wanted.key = alternate_key(wanted.key, &wanted.chosen);
        known = look(&wanted, wanted.key, now).await;
        known.object.take_if(|object| object.version() <= marker.floor);
    }
    let object = known.object.take().and_then(|object| sift_object(core, object));
    // A stale one is asked after when it is wanted: the answer to that has no body.
    if object.is_some() || known.fill.is_some() || known.pass {
        return;
    }
    if !wanted.chosen.is_empty() && !table.may_have_alternate(wanted.primary(), wanted.key, now) {
        return core.count(|c| &c.alternates_refused_total, 1);
    }
    let Claim::Lead(fill) = table.claim(wanted.key, None, now, core.node.next_version()) else {
        return;
    };
    core.count(|c| &c.prefetch_fills_total, 1);
    // A place is held until the last byte.
    if let Filled::Object { fill: Some(fill), .. } = lead(&wanted, fill, None).await {
        fill.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_and_all_together_have_their_share() {
        let prefetches = Arc::<Prefetches>::default();
        let client = |n: usize| SocketAddr::from(([192, 0, 2, 1], n as u16));
        let first: Vec<_> =
            (0..PREFETCHES_OF_ONE_MAX).map(|_| prefetches.take(client(1)).unwrap()).collect();
        assert!(prefetches.take(client(1)).is_none());
        let others: Vec<_> = (2..).map_while(|n| prefetches.take(client(n))).collect();
        assert_eq!(first.len() + others.len(), PREFETCHES_MAX);
        drop(first);
        assert!(prefetches.take(client(1)).is_some());
        drop(others);
        assert!(prefetches.0.lock().unwrap().is_empty(), "nothing is left of who went");
    }
}
