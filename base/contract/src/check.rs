//! What must hold in a snapshot beyond its types. The source compiler and `verify` both ask here, so that a
//! snapshot which was not made by our compiler is held to the same rules.
//!
//! Must stay true: [`check`] finds all problems in one pass, in the order of the snapshot; it is linear in
//! the size of the snapshot (but for names compared within one object).

mod server;
mod service;

use crate::snapshot::*;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Something that does not fit, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    pub what: String,
    pub mend: String,
}

/// A field of an object of the snapshot; the compiler turns it into file, line and column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub object: Object,
    pub field: &'static str,
}

/// An object of the snapshot, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    Cdn,
    DeliveryService(usize),
    Behaviour(usize, usize),
    CacheGroup(usize),
    Server(usize),
    CoverageZone(usize),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.place.field;
        match self.place.object {
            Object::Cdn => write!(f, "{field}")?,
            Object::DeliveryService(i) => write!(f, "delivery_services[{i}].{field}")?,
            Object::Behaviour(i, j) => write!(f, "delivery_services[{i}].behaviours[{j}].{field}")?,
            Object::CacheGroup(i) => write!(f, "cache_groups[{i}].{field}")?,
            Object::Server(i) => write!(f, "servers[{i}].{field}")?,
            Object::CoverageZone(i) => write!(f, "coverage_zones[{i}].{field}")?,
        }
        write!(f, ": {}; {}", self.what, self.mend)
    }
}

/// All problems of `snapshot`; empty: it may be published and run on.
pub fn check(snapshot: &Snapshot) -> Vec<Problem> {
    let mut checker =
        Checker { snapshot, problems: Vec::new(), groups: HashMap::new(), servers: HashMap::new() };
    checker.tables();
    checker.cdn();
    for (index, service) in snapshot.delivery_services.iter().enumerate() {
        checker.delivery_service(index, service);
    }
    checker.hosts();
    for (index, group) in snapshot.cache_groups.iter().enumerate() {
        checker.cache_group(index, group);
    }
    for (index, server) in snapshot.servers.iter().enumerate() {
        checker.server(index, server);
    }
    checker.sockets();
    checker.coverage_zones();
    checker.problems
}

struct Checker<'a> {
    snapshot: &'a Snapshot,
    problems: Vec<Problem>,
    /// Group id -> (index, has edges, has parents).
    groups: HashMap<&'a str, GroupUse>,
    servers: HashMap<&'a str, usize>,
}

#[derive(Default, Clone, Copy)]
struct GroupUse {
    edges: bool,
    parents: bool,
}

impl<'a> Checker<'a> {
    fn tell(
        &mut self,
        object: Object,
        field: &'static str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                place: Place { object, field },
                what: what.into(),
                mend: mend.into(),
            });
        }
    }

    /// Ids first: the other rules look things up by them.
    fn tables(&mut self) {
        for (index, group) in self.snapshot.cache_groups.iter().enumerate() {
            if self.groups.insert(&group.id, GroupUse::default()).is_some() {
                self.duplicate(Object::CacheGroup(index), "cache group", &group.id);
            }
        }
        for (index, server) in self.snapshot.servers.iter().enumerate() {
            if self.servers.insert(&server.id, index).is_some() {
                self.duplicate(Object::Server(index), "server", &server.id);
            }
            if let Some(used) = server.cache_group.as_deref().and_then(|id| self.groups.get_mut(id))
            {
                used.edges |= server.role == Role::Edge;
                used.parents |= server.role == Role::Parent;
            }
        }
        let mut seen = HashSet::new();
        for (index, service) in self.snapshot.delivery_services.iter().enumerate() {
            if !seen.insert(service.id.as_str()) {
                self.duplicate(Object::DeliveryService(index), "delivery service", &service.id);
            }
        }
    }

    fn duplicate(&mut self, object: Object, kind: &str, id: &str) {
        self.tell(object, "id", format!("a second {kind} called `{id}`"), "give each its own id");
    }

    fn cdn(&mut self) {
        let snapshot = self.snapshot;
        if snapshot.schema != crate::SCHEMA {
            let what = format!("schema {} is not {}", snapshot.schema, crate::SCHEMA);
            self.tell(Object::Cdn, "schema", what, "build it with this release");
        }
        if snapshot.generation == 0 {
            self.tell(Object::Cdn, "generation", "generations begin at 1", "give a higher one");
        }
        self.label(Object::Cdn, "cdn", &snapshot.cdn);
        self.name(Object::Cdn, "zone", &snapshot.zone);
        let steering = &snapshot.steering;
        self.edge_group(Object::Cdn, "default_group", &steering.default_group);
        self.range(Object::Cdn, "dns_ttl_seconds", u64::from(steering.dns_ttl_seconds), 1, 86_400);
        self.range(
            Object::Cdn,
            "dns_answers_max",
            steering.dns_answers_max as u64,
            1,
            DNS_ANSWERS_MAX,
        );
        if let Some(admin) = &snapshot.keys.admin_hex
            && crate::hex::decode::<32>(admin).is_none()
        {
            self.tell(
                Object::Cdn,
                "admin_hex",
                "an admin key is 64 hexadecimal digits",
                "write keys/admin.key with `tidegate snapshot keygen`, or remove it",
            );
        }
        if crate::hex::decode::<32>(&snapshot.keys.heartbeat_hex).is_none() {
            self.tell(
                Object::Cdn,
                "heartbeat_hex",
                "a heartbeat key is 64 hexadecimal digits",
                "write keys/heartbeat.key with `tidegate snapshot keygen`",
            );
        }
        if snapshot.delivery_services.is_empty() {
            self.tell(
                Object::Cdn,
                "cdn",
                "no delivery service",
                "add a file to delivery-services/",
            );
        }
        if snapshot.servers.is_empty() {
            self.tell(Object::Cdn, "cdn", "no server", "add [[server]] tables to servers.toml");
        }
    }

    fn cache_group(&mut self, index: usize, group: &CacheGroup) {
        let object = Object::CacheGroup(index);
        let used = self.groups.get(group.id.as_str()).copied().unwrap_or_default();
        self.label(object, "id", &group.id);
        self.degrees(object, "latitude", group.latitude, 90.0);
        self.degrees(object, "longitude", group.longitude, 180.0);
        if used.edges && used.parents {
            let what = format!("group `{}` holds edges and parents", group.id);
            self.tell(object, "id", what, "give the parents a cache group of their own");
        }
        match &group.parent_group {
            None if used.edges => self.tell(
                object,
                "parent_group",
                format!("group `{}` holds edges but names no parent_group", group.id),
                "name the cache group of the parents that they fill from",
            ),
            None => {}
            Some(parent) => match self.groups.get(parent.as_str()) {
                None => self.dangling(object, "parent_group", "cache group", parent),
                Some(parents) if !parents.parents => {
                    let what = format!("cache group `{parent}` holds no server with role parent");
                    self.tell(
                        object,
                        "parent_group",
                        what,
                        "name a group of parents, or add one to it",
                    );
                }
                Some(_) if used.parents => {
                    let what = "a group of parents fills from origins, not from a parent_group";
                    self.tell(object, "parent_group", what, "leave parent_group out");
                }
                Some(_) => {}
            },
        }
        for fallback in &group.fallbacks {
            if *fallback == group.id {
                self.tell(
                    object,
                    "fallbacks",
                    "a group cannot be its own fallback",
                    "leave it out",
                );
            } else {
                self.edge_group(object, "fallbacks", fallback);
            }
        }
        self.repeated(object, "fallbacks", &group.fallbacks);
        if group.peering {
            let members = self.snapshot.servers.iter().filter(|server| {
                server.role == Role::Edge && server.cache_group.as_ref() == Some(&group.id)
            });
            // An edge gives its peers more than it gives viewers: it must know who they are.
            let unknown: Vec<&str> = members
                .filter(|server| server.machine.fleet_tls.is_none())
                .map(|server| server.id.as_str())
                .collect();
            if !unknown.is_empty() {
                let what = format!("peering, but no fleet_tls: {}", unknown.join(", "));
                let mend =
                    "give each edge of the group https_port and fleet_tls, or leave peering out";
                self.tell(object, "peering", what, mend);
            }
        }
    }

    fn coverage_zones(&mut self) {
        let snapshot = self.snapshot;
        let mut seen = HashSet::new();
        for (index, zone) in snapshot.coverage_zones.iter().enumerate() {
            let object = Object::CoverageZone(index);
            if zone.prefix.trunc() != zone.prefix {
                let what = format!("prefix {} has bits set beyond its length", zone.prefix);
                self.tell(object, "prefix", what, format!("write {}", zone.prefix.trunc()));
            }
            if !seen.insert(zone.prefix) {
                let what = format!("prefix {} is placed twice", zone.prefix);
                self.tell(object, "prefix", what, "keep one of them");
            }
            self.edge_group(object, "cache_group", &zone.cache_group);
        }
    }

    /// Clients are sent there, so it must exist and hold edges.
    fn edge_group(&mut self, object: Object, field: &'static str, id: &str) {
        match self.groups.get(id) {
            None => self.dangling(object, field, "cache group", id),
            Some(used) if !used.edges => {
                let what = format!("cache group `{id}` holds no server with role edge");
                self.tell(object, field, what, "name a group of edges");
            }
            Some(_) => {}
        }
    }

    fn dangling(&mut self, object: Object, field: &'static str, kind: &str, id: &str) {
        let known: Vec<&str> = match kind {
            "server" => self.snapshot.servers.iter().map(|s| s.id.as_str()).collect(),
            _ => self.snapshot.cache_groups.iter().map(|g| g.id.as_str()).collect(),
        };
        let mend = match crate::nearest::nearest(id, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("define it, or name a {kind} that exists"),
        };
        self.tell(
            object,
            field,
            format!("there is no {kind} called `{}`", id.escape_default()),
            mend,
        );
    }

    fn needs(&mut self, object: Object, field: &'static str, server: &Server, mend: &str) {
        let role = format!("{:?}", server.role).to_lowercase();
        let what =
            format!("server `{}` with role {role} lacks {field}", server.id.escape_default());
        self.tell(object, field, what, format!("add {mend}"));
    }

    fn repeated(&mut self, object: Object, field: &'static str, values: &[String]) {
        let mut seen = HashSet::new();
        for value in values {
            if !seen.insert(value) {
                let what = format!("`{}` is named twice", value.escape_default());
                self.tell(object, field, what, "leave one out");
            }
        }
    }

    fn range(&mut self, object: Object, field: &'static str, value: u64, min: u64, max: u64) {
        if !(min..=max).contains(&value) {
            let what = format!("{field} = {value} is out of range");
            self.tell(object, field, what, format!("write a number from {min} to {max}"));
        }
    }

    fn degrees(&mut self, object: Object, field: &'static str, value: f64, max: f64) {
        if !(-max..=max).contains(&value) {
            let what = format!("{field} = {value} is no place on Earth");
            self.tell(object, field, what, format!("write degrees from -{max} to {max}"));
        }
    }

    fn label(&mut self, object: Object, field: &'static str, text: &str) {
        if !is_label(text) {
            let what = format!("`{}` is no name here", text.escape_default());
            self.tell(
                object,
                field,
                what,
                "use 1 to 63 lower-case letters, digits and `-`, no `-` at an end",
            );
        }
    }

    fn name(&mut self, object: Object, field: &'static str, text: &str) {
        if text.len() > 253 || !text.split('.').all(is_label) {
            let what = format!("`{}` is no host name", text.escape_default());
            self.tell(
                object,
                field,
                what,
                "write it like `video.example.net`, lower case, no dot at the end",
            );
        }
    }
}

/// A behaviour's path that matches every path.
pub fn matches_everything(path: &str) -> bool {
    path == "*" || path == "/*"
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn printable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// More addresses than this never fit the 1232 bytes of a DNS answer together with the rest.
const DNS_ANSWERS_MAX: u64 = 16;
/// After so many problems more would not help.
const PROBLEMS_MAX: usize = 200;
