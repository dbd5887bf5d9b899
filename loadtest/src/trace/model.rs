//! Reference caches: what a trace gives at best, and what simple policies get out of so many bytes. No clock: nothing
//! expires in a model.
//!
//! Must stay true: a model keeps whole objects and never more bytes than it was given.

use super::Line;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nothing needs to.
    Infinite,
    /// What was used longest ago goes.
    Lru(u64),
    /// What came longest ago goes.
    Fifo(u64),
}

/// What a cache did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Outcome {
    pub requests: u64,
    /// Of them, for media segments.
    pub segment_requests: u64,
    /// Body bytes of the answers.
    pub bytes: u64,
    pub origin_requests: u64,
    /// Of them, for media segments.
    pub origin_segment_requests: u64,
    pub origin_bytes: u64,
    pub objects: u64,
    pub object_bytes: u64,
}

impl Outcome {
    /// Share of requests that did not reach the origin.
    pub fn object_hit_ratio(&self) -> f64 {
        1.0 - self.origin_requests as f64 / self.requests.max(1) as f64
    }

    /// The same for media segments alone.
    pub fn segment_hit_ratio(&self) -> f64 {
        1.0 - self.origin_segment_requests as f64 / self.segment_requests.max(1) as f64
    }

    /// Share of bytes that did not come from the origin.
    pub fn byte_hit_ratio(&self) -> f64 {
        1.0 - self.origin_bytes as f64 / self.bytes.max(1) as f64
    }
}

/// A reference cache.
#[derive(Debug)]
pub struct Model {
    policy: Policy,
    /// Identity to size and place in `order`.
    kept: HashMap<u64, (u64, u64)>,
    order: BTreeMap<u64, u64>,
    turn: u64,
    kept_bytes: u64,
    seen: HashSet<u64>,
    outcome: Outcome,
}

impl Model {
    pub fn new(policy: Policy) -> Model {
        Model {
            policy,
            kept: HashMap::new(),
            order: BTreeMap::new(),
            turn: 0,
            kept_bytes: 0,
            seen: HashSet::new(),
            outcome: Outcome::default(),
        }
    }

    /// One request.
    pub fn ask(&mut self, line: &Line) {
        let (identity, size) = (line.object.identity, line.object.size);
        let segment = u64::from(line.object.class.is_segment());
        self.outcome.requests += 1;
        self.outcome.segment_requests += segment;
        self.outcome.bytes += line.body_bytes();
        if self.seen.insert(identity) {
            self.outcome.objects += 1;
            self.outcome.object_bytes += size;
        }
        self.turn += 1;
        if let Some((_, place)) = self.kept.get_mut(&identity) {
            if matches!(self.policy, Policy::Lru(_)) {
                self.order.remove(place);
                *place = self.turn;
                self.order.insert(self.turn, identity);
            }
            return;
        }
        self.outcome.origin_requests += 1;
        self.outcome.origin_segment_requests += segment;
        self.outcome.origin_bytes += size;
        let room = match self.policy {
            Policy::Infinite => u64::MAX,
            Policy::Lru(bytes) | Policy::Fifo(bytes) => bytes,
        };
        if size > room {
            return;
        }
        while self.kept_bytes > room - size {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((size, _)) = self.kept.remove(&oldest) {
                self.kept_bytes -= size;
            }
        }
        self.kept.insert(identity, (size, self.turn));
        self.order.insert(self.turn, identity);
        self.kept_bytes += size;
        debug_assert!(self.kept_bytes <= room);
    }

    /// What it did so far.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}
