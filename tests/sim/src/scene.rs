//! What all parts of a run share: the world, the content, what the origin answered, what was purged, what went wrong.

use crate::content::Item;
use crate::plan::Plan;
use crate::reference::{Answer, Purge};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tidegate_faults::Random;
use tidegate_ring::sim::World;

/// The stage of one run.
pub struct Scene {
    pub world: World,
    pub plan: Plan,
    pub random: RefCell<Random>,
    pub items: RefCell<Vec<Item>>,
    pub answers: RefCell<Vec<Answer>>,
    pub purges: RefCell<Vec<Purge>>,
    /// Spans in which the origin did not do as it should.
    pub troubles: RefCell<Vec<(Duration, Duration)>>,
    /// Purges before this moment may have been lost with a disk.
    pub purges_from: Cell<Duration>,
    /// Faults happen; off for the end of a run.
    pub faulty: Cell<bool>,
    /// What was not as it must be.
    pub violations: RefCell<Vec<String>>,
    pub tally: RefCell<Tally>,
}

/// What a run exercised: a simulation that never met anything proves nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub requests: u64,
    pub complete: u64,
    pub broken: u64,
    pub errors: u64,
    pub hits: u64,
    pub stale: u64,
    pub collapsed: u64,
    pub not_modified: u64,
    pub parts: u64,
    pub purges: u64,
    pub receipts: u64,
    /// Answers to POST that made something invalid; answers of which there are alternates.
    pub invalidations: u64,
    pub alternates: u64,
    pub crashes: u64,
    /// Devices in trouble, as their node saw them at the end of it; and those of them that were retired.
    pub devices_ill: u64,
    pub devices_retired: u64,
    pub store_reads: u64,
    pub origin_questions: u64,
    pub body_bytes: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        let Tally {
            requests,
            complete,
            broken,
            errors,
            hits,
            stale,
            collapsed,
            not_modified,
            parts,
            purges,
            receipts,
            invalidations,
            alternates,
            crashes,
            devices_ill,
            devices_retired,
            store_reads,
            origin_questions,
            body_bytes,
        } = other;
        self.requests += requests;
        self.complete += complete;
        self.broken += broken;
        self.errors += errors;
        self.hits += hits;
        self.stale += stale;
        self.collapsed += collapsed;
        self.not_modified += not_modified;
        self.parts += parts;
        self.purges += purges;
        self.receipts += receipts;
        self.invalidations += invalidations;
        self.alternates += alternates;
        self.crashes += crashes;
        self.devices_ill += devices_ill;
        self.devices_retired += devices_retired;
        self.store_reads += store_reads;
        self.origin_questions += origin_questions;
        self.body_bytes += body_bytes;
    }
}

impl Scene {
    pub fn now(&self) -> Duration {
        self.world.elapsed()
    }

    /// Something is not as it must be.
    pub fn violation(&self, what: String) {
        let line = format!("at {:.3} s: {what}", self.now().as_secs_f64());
        self.world.tell(|| format!("VIOLATION {line}"));
        self.violations.borrow_mut().push(line);
    }

    pub fn chance(&self, per_mille: u32) -> bool {
        self.random.borrow_mut().chance(per_mille)
    }

    /// Whether a fault of this rate happens now.
    pub fn fault(&self, per_mille: u32) -> bool {
        self.faulty.get() && self.chance(per_mille)
    }

    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.random.borrow_mut().between(low, high)
    }

    pub fn below(&self, end: u64) -> u64 {
        self.random.borrow_mut().below(end)
    }

    /// The origin does something wrong from now on, for so long.
    pub fn trouble(&self, span: Duration) {
        let now = self.now();
        self.troubles.borrow_mut().push((now, now + span));
    }

    /// Whether the next hop may have failed between these moments.
    pub fn was_trouble(&self, began: Duration, came: Duration) -> bool {
        self.plan.net.any()
            || self.plan.crashes > 0
            || self.plan.trouble.is_some()
            || self.troubles.borrow().iter().any(|(from, to)| *from <= came && began <= *to)
    }
}

/// As it is handed around.
pub type Stage = Rc<Scene>;
