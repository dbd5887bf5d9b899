//! Where a request belongs: delivery service, behaviour, cache key, and what the next hop is asked for. What a core routed lately
//! it remembers, since most requests ask for what others have just asked for.
//!
//! Must stay true: what is remembered is what [`route`] says under the same view; its memory is bounded, and a client that asks
//! for a thousand things once each puts none of them in.

use crate::reader::target_of;
use crate::view::View;
use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use tidegate_cache::{CacheKey, cache_key, first_behaviour, upstream_query};
use tidegate_http::{RequestHead, canonical_path, cmcd};

/// Where a request belongs.
pub struct Routed {
    /// Delivery service and behaviour, as indexes into the view.
    pub service: usize,
    pub behaviour: usize,
    /// Canonical.
    pub path: String,
    pub key: CacheKey,
    /// Path and query for the next hop, built from the same bytes as the key.
    pub target: String,
}

/// Finds delivery service, behaviour and key. `None`: no service has this host.
pub fn route(view: &View, request: &RequestHead) -> Option<Result<Routed, &'static str>> {
    let authority = request.authority.as_ref()?;
    let service_view = view.service(authority)?;
    let service = view.services().iter().position(|s| std::ptr::eq(s, service_view))?;
    let path = match canonical_path(&request.path) {
        Ok(path) => path,
        Err(_) => {
            return Some(Err(
                "the path has no one meaning: it leaves the root or holds forbidden bytes",
            ));
        }
    };
    let behaviours = &service_view.service.behaviours;
    let found = first_behaviour(behaviours, &path)?;
    let behaviour = behaviours.iter().position(|b| std::ptr::eq(b, found))?;
    // What players tell of themselves is told to us.
    let query = match &request.query {
        Some(query) if !found.pacing.pass_cmcd => Some(cmcd::without(query)),
        query => query.as_deref().map(Cow::Borrowed),
    };
    let key = cache_key(&service_view.service.id, &found.cache_key, &path, query.as_deref());
    let target = target_of(&path, upstream_query(&found.cache_key, query.as_deref()).as_deref());
    Some(Ok(Routed { service, behaviour, path, key, target }))
}

/// What is remembered, and the marks of what was asked for once.
const SLOTS: usize = 1024;
/// Longer questions are not remembered: host, path and query together.
const ASKED_BYTES_MAX: usize = 512;

struct Slot {
    host: String,
    path: String,
    query: Option<String>,
    routed: Rc<Routed>,
}

/// What one core routed lately.
pub struct Routes {
    view: Weak<View>,
    slots: Vec<Option<Slot>>,
    /// Of what was asked for last in each place.
    marks: Vec<u32>,
    hasher: RandomState,
}

impl Default for Routes {
    fn default() -> Routes {
        let (slots, marks) = (Vec::new(), Vec::new());
        Routes { view: Weak::new(), slots, marks, hasher: RandomState::new() }
    }
}

impl Routes {
    /// As [`route`].
    pub fn route(
        &mut self,
        view: &Arc<View>,
        request: &RequestHead,
    ) -> Option<Result<Rc<Routed>, &'static str>> {
        let fresh = || Some(route(view, request)?.map(Rc::new));
        let host = request.authority.as_ref()?.host.as_str();
        let (path, query) = (request.path.as_str(), request.query.as_deref());
        if host.len() + path.len() + query.map_or(0, str::len) > ASKED_BYTES_MAX {
            return fresh();
        }
        // The weak one keeps the address from being used again.
        if !std::ptr::eq(self.view.as_ptr(), Arc::as_ptr(view)) {
            *self = Routes {
                view: Arc::downgrade(view),
                slots: (0..SLOTS).map(|_| None).collect(),
                marks: vec![0; SLOTS],
                hasher: RandomState::new(),
            };
        }
        let hash = self.hasher.hash_one((host, path, query));
        let (place, mark) = (hash as usize % SLOTS, (hash >> 32) as u32);
        if let Some(slot) = &self.slots[place]
            && slot.path == path
            && slot.host == host
            && slot.query.as_deref() == query
        {
            return Some(Ok(slot.routed.clone()));
        }
        let routed = match fresh()? {
            Ok(routed) => routed,
            refused => return Some(refused),
        };
        // Only what is asked for again drives out another.
        if std::mem::replace(&mut self.marks[place], mark) == mark {
            let (host, path) = (host.to_owned(), path.to_owned());
            let (query, routed) = (query.map(str::to_owned), routed.clone());
            self.slots[place] = Some(Slot { host, path, query, routed });
        }
        Some(Ok(routed))
    }
}
