//! From a run that fails to a small one that fails in the same way: what does not matter is taken out of its plan, as long as
//! the failure stays.
//!
//! Operations are drawn while a run goes on, so there is no list of them to be halved: the plan is what can be made smaller.
//! Each change moves all later draws; a smaller plan fails for a reason of its own now and then, which is as good.

use crate::content::Sizes;
use crate::plan::{NetFaults, OriginFaults, Plan};
use std::time::Duration;
use tidegate_faults::Faults;

/// One thing less. The large ones first.
const CHANGES: [fn(&mut Plan); 28] = [
    |p| p.net = NetFaults::default(),
    |p| p.origin = OriginFaults::default(),
    |p| p.disk = Faults::default(),
    |p| p.trouble = None,
    |p| p.crashes = 0,
    |p| p.edge = false,
    |p| p.devices = 0,
    |p| p.devices = p.devices.min(1),
    |p| p.purges = 0,
    |p| p.changes = 0,
    |p| p.posts = 0,
    |p| p.alternates = false,
    |p| p.wall_steps = 0,
    |p| p.disk_stalls = 0,
    |p| p.aborts = 0,
    |p| p.slow_readers = 0,
    |p| p.cores = 1,
    |p| p.shuffled = false,
    |p| p.losing = false,
    |p| p.store_late_ms = None,
    |p| p.sizes = Sizes::Small,
    |p| p.segment_bytes = 64 * 1024,
    |p| p.clients = p.clients.div_ceil(2),
    |p| p.items = p.items.div_ceil(2),
    |p| p.purges = p.purges.div_ceil(2),
    |p| p.changes = p.changes.div_ceil(2),
    |p| p.span = (p.span / 2).max(Duration::from_secs(1)),
    |p| p.crashes = p.crashes.div_ceil(2),
];

/// Requests of the longest run.
const REQUESTS_MAX: u64 = 1 << 14;

/// The smallest plan that `fails` which could be found from `plan`, which does.
pub fn shrink(plan: &Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut smallest = plan.clone();
    loop {
        let before = format!("{smallest:?}");
        for change in CHANGES {
            let mut smaller = smallest.clone();
            change(&mut smaller);
            if format!("{smaller:?}") != format!("{smallest:?}") && fails(&smaller) {
                smallest = smaller;
            }
        }
        if format!("{smallest:?}") == before {
            break;
        }
    }
    // The first requests that do it, by halves.
    let (mut few, mut enough) = (0, REQUESTS_MAX);
    while few + 1 < enough {
        let half = few + (enough - few) / 2;
        let smaller = Plan { requests_max: Some(half), ..smallest.clone() };
        if fails(&smaller) {
            (enough, smallest) = (half, smaller);
        } else {
            few = half;
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_taken_out_and_what_does_stays() {
        let plan = Plan { posts: 9, purges: 6, clients: 6, requests_max: None, ..Plan::draw(7) };
        let fails = |plan: &Plan| {
            plan.posts > 0 && plan.purges >= 2 && plan.requests_max.is_none_or(|max| max >= 37)
        };
        let smallest = shrink(&plan, fails);
        assert_eq!((smallest.posts, smallest.purges, smallest.clients), (9, 2, 1));
        assert_eq!(smallest.requests_max, Some(37));
        assert!(smallest.crashes == 0 && !smallest.net.any() && !smallest.edge);
    }
}
