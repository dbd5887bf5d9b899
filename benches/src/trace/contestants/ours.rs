//! tidegated as one tier: a parent with a store file, asked by clients directly.

use super::{Budget, CORES, Process, Running};
use std::net::SocketAddr;
use tidegate_contract::{Admission, RamPolicy, Snapshot};
use tidegate_e2e::{Fleet, FleetOptions};

/// Who of the fleet is measured; a snapshot needs an edge too, which has nothing to do.
pub const MEMBER: &str = "parent-1";

pub fn start(
    budget: &Budget,
    origin: SocketAddr,
    adjust: fn(&mut Snapshot),
) -> Result<Running, String> {
    let fleet = Fleet::start(
        "bench-trace",
        &FleetOptions {
            parents: 1,
            edges: 1,
            cores: CORES,
            ram_bytes: budget.ram_bytes,
            store_bytes: Some(budget.disk_bytes),
            origin: Some(origin),
            adjust,
            ..FleetOptions::default()
        },
    );
    let member = fleet.member(MEMBER);
    Ok(Running {
        version: format!("tidegated {}", env!("CARGO_PKG_VERSION")),
        settings: format!(
            "one parent, {CORES} cores, ram_bytes {} MiB, store file {} MiB, stale-while-revalidate 1 s, admission by default (adaptive), access log on",
            budget.ram_mib(),
            budget.disk_mib()
        ),
        address: member.http(),
        pid: member.pid(),
        counters: serde_json::Value::Null,
        process: Process::Fleet(Box::new(fleet)),
    })
}

/// Viewers of a live channel get the playlist of a moment ago while the next one is fetched, as with every peer.
pub fn usual(snapshot: &mut Snapshot) {
    // What a configuration has that says nothing.
    for server in &mut snapshot.servers {
        server.machine.store_admission = Admission::default();
    }
    for service in &mut snapshot.delivery_services {
        for behaviour in service.behaviours.iter_mut().filter(|behaviour| behaviour.cache) {
            behaviour.stale_while_revalidate_seconds = 1;
        }
    }
}

/// As usual, but for what makes room in the RAM tier.
pub fn sieve(snapshot: &mut Snapshot) {
    usual(snapshot);
    snapshot.servers.iter_mut().for_each(|s| s.machine.ram_policy = RamPolicy::Sieve);
}

/// As usual, but for what makes room in the RAM tier.
pub fn lru(snapshot: &mut Snapshot) {
    usual(snapshot);
    snapshot.servers.iter_mut().for_each(|s| s.machine.ram_policy = RamPolicy::Lru);
}
