//! A snapshot made ready for decisions: names, groups and prefixes as indexes.
//!
//! Must stay true: every index points into the snapshot that the table holds; building costs once per
//! snapshot, deciding allocates only for its answer and its trace.

use crate::{Geo, PrefixTable, distance_km};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use tidegate_contract::{DeliveryService, Role, Server, Snapshot};
use tidegate_types::rendezvous;

/// A snapshot made ready for decisions.
#[derive(Debug)]
pub struct Table {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) geo: Option<Arc<Geo>>,
    pub(crate) coverage: PrefixTable<usize>,
    pub(crate) groups: Vec<Group>,
    pub(crate) default_group: usize,
    names: HashMap<String, Located>,
    address_default: Option<usize>,
}

/// A cache group, its edges and where to go when none of them is up.
#[derive(Debug)]
pub(crate) struct Group {
    /// (index of the server, its identity hash).
    pub(crate) edges: Vec<(usize, u64)>,
    /// The other groups with edges: fallbacks in their order, then by distance. With how each got its place.
    pub(crate) next: Vec<(usize, &'static str)>,
    pub(crate) coordinates: (f64, f64),
}

/// What a host name stands for; indexes into the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// A delivery service: to be steered.
    Service(usize),
    /// One edge of a delivery service, as a `Location` names it.
    Edge { service: usize, server: usize },
}

impl Table {
    /// Makes `snapshot` ready; it must come from `verify` or `compile`, whose checks the indexes rely on.
    pub fn new(snapshot: Arc<Snapshot>, geo: Option<Arc<Geo>>) -> Table {
        let group_index: HashMap<&str, usize> =
            snapshot.cache_groups.iter().enumerate().map(|(i, g)| (g.id.as_str(), i)).collect();
        let find = |id: &str| group_index.get(id).copied();
        let mut groups: Vec<Group> = snapshot
            .cache_groups
            .iter()
            .map(|g| Group {
                edges: Vec::new(),
                next: Vec::new(),
                coordinates: (g.latitude, g.longitude),
            })
            .collect();
        for (index, server) in
            snapshot.servers.iter().enumerate().filter(|(_, s)| s.role == Role::Edge)
        {
            if let Some(group) = server.cache_group.as_deref().and_then(find) {
                groups[group].edges.push((index, rendezvous::identity(server.id.as_bytes())));
            }
        }
        for index in 0..groups.len() {
            let fallbacks = snapshot.cache_groups[index].fallbacks.iter().filter_map(|id| find(id));
            let mut next: Vec<(usize, &'static str)> = fallbacks.map(|i| (i, "fallback")).collect();
            for near in by_distance(&groups, groups[index].coordinates) {
                if near != index && !next.iter().any(|(known, _)| *known == near) {
                    next.push((near, "nearest"));
                }
            }
            groups[index].next = next;
        }
        let coverage =
            snapshot.coverage_zones.iter().filter_map(|z| Some((z.prefix, find(&z.cache_group)?)));
        let coverage = PrefixTable::new(coverage);
        let default_group = find(&snapshot.steering.default_group).unwrap_or(0);
        let address_default = snapshot.delivery_services.iter().position(|s| s.address_default);
        let names = names(&snapshot);
        Table { coverage, groups, default_group, names, address_default, geo, snapshot }
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What the lower-case name `host` (no port, no dot at the end) stands for; an address is the service
    /// marked `address_default`. Inactive services are not found.
    pub fn locate(&self, host: &str) -> Option<Located> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let located = match self.names.get(host) {
            Some(located) => Some(*located),
            None if bare.parse::<IpAddr>().is_ok() => self.address_default.map(Located::Service),
            None => None,
        };
        located.filter(|located| {
            let (Located::Service(service) | Located::Edge { service, .. }) = *located;
            self.snapshot.delivery_services[service].active
        })
    }

    pub fn service(&self, index: usize) -> &DeliveryService {
        &self.snapshot.delivery_services[index]
    }

    pub fn server(&self, index: usize) -> &Server {
        &self.snapshot.servers[index]
    }

    /// Groups with edges, nearest to `coordinates` first.
    pub(crate) fn nearest(&self, coordinates: (f64, f64)) -> Vec<usize> {
        by_distance(&self.groups, coordinates)
    }
}

fn by_distance(groups: &[Group], coordinates: (f64, f64)) -> Vec<usize> {
    let with_edges = groups.iter().enumerate().filter(|(_, g)| !g.edges.is_empty());
    let mut measured: Vec<(f64, usize)> =
        with_edges.map(|(i, g)| (distance_km(coordinates, g.coordinates), i)).collect();
    measured.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    measured.into_iter().map(|(_, index)| index).collect()
}

fn names(snapshot: &Snapshot) -> HashMap<String, Located> {
    let mut names = HashMap::new();
    for (index, service) in snapshot.delivery_services.iter().enumerate() {
        let under = format!("{}.{}", service.id, snapshot.zone);
        for (server, _) in snapshot.servers.iter().enumerate().filter(|(_, s)| s.role == Role::Edge)
        {
            let name = format!("{}.{under}", snapshot.servers[server].id);
            names.insert(name, Located::Edge { service: index, server });
        }
        // After the edges: a routing name that equals a server's id keeps its meaning as the routed name.
        names.insert(format!("{}.{under}", service.routing_name), Located::Service(index));
        for host in &service.hosts {
            names.insert(host.clone(), Located::Service(index));
        }
    }
    names
}
