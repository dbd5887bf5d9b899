//! What must hold in a snapshot beyond its types. The source compiler and `verify` both ask here, so that a
//! snapshot which was not made by our compiler is held to the same rules.
//!
//! Must stay true: [`check`] finds all problems in one pass, in the order of the snapshot; it is linear in
//! the size of the snapshot (but for names compared within one object).

use crate::snapshot::*;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use tidegate_types::limits::STORES_MAX;

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

    fn delivery_service(&mut self, index: usize, service: &'a DeliveryService) {
        let object = Object::DeliveryService(index);
        self.label(object, "id", &service.id);
        self.label(object, "routing_name", &service.routing_name);
        self.name(object, "origin_host", &service.origin_host);
        if let Some(hash) = &service.debug_token_sha256
            && crate::hex::decode::<32>(hash).is_none()
        {
            self.tell(
                object,
                "debug_token_sha256",
                "the SHA-256 of a token is 64 hexadecimal digits",
                "write what `printf %s TOKEN | sha256sum` prints, or remove it",
            );
        }
        if service.origins.is_empty() {
            self.tell(object, "origins", "no origin", "name at least one server with role origin");
        }
        for origin in &service.origins {
            match self.servers.get(origin.as_str()).map(|i| &self.snapshot.servers[*i]) {
                None => self.dangling(object, "origins", "server", origin),
                Some(server) if server.role != Role::Origin => {
                    let what = format!("server `{origin}` has another role than origin");
                    self.tell(object, "origins", what, "name a server with role = \"origin\"");
                }
                Some(_) => {}
            }
        }
        self.repeated(object, "origins", &service.origins);
        let mut names = HashSet::new();
        let last = service.behaviours.len().saturating_sub(1);
        for (position, behaviour) in service.behaviours.iter().enumerate() {
            let here = Object::Behaviour(index, position);
            if !names.insert(behaviour.name.as_str()) {
                self.duplicate(here, "behaviour", &behaviour.name);
            }
            if matches_everything(&behaviour.path) && position != last {
                self.tell(
                    here,
                    "path",
                    format!(
                        "`{}` matches everything, so that no later behaviour is ever reached",
                        behaviour.path
                    ),
                    "move this behaviour to the end",
                );
            }
            self.behaviour(here, behaviour);
        }
        if !service.behaviours.last().is_some_and(|b| matches_everything(&b.path)) {
            self.tell(
                object,
                "behaviours",
                "the last behaviour does not match everything",
                "end with a [[behaviour]] with path = \"*\"",
            );
        }
    }

    fn behaviour(&mut self, here: Object, behaviour: &Behaviour) {
        self.label(here, "name", &behaviour.name);
        if let Err(what) = glob(&behaviour.path) {
            self.tell(here, "path", what, "write a path like \"/videos/*\" or \"*.m3u8\"");
        }
        let seconds = [
            ("default_ttl_seconds", behaviour.default_ttl_seconds),
            ("override_ttl_seconds", behaviour.override_ttl_seconds),
            ("stale_while_revalidate_seconds", Some(behaviour.stale_while_revalidate_seconds)),
            ("stale_if_error_seconds", Some(behaviour.stale_if_error_seconds)),
            ("negative_ttl_seconds", Some(behaviour.negative_ttl_seconds)),
        ];
        for (field, value) in seconds {
            self.range(here, field, u64::from(value.unwrap_or(0)), 0, TTL_SECONDS_MAX);
        }
        for parameter in behaviour.cache_key.drop.iter().chain(&behaviour.cache_key.keep) {
            let stem = parameter.strip_suffix('*').unwrap_or(parameter);
            if parameter.is_empty() || stem.contains(['*', '&', '=', '#']) || !printable(stem) {
                let what = format!("`{}` is no query parameter", parameter.escape_default());
                self.tell(
                    here,
                    "cache_key",
                    what,
                    "write a name, or the start of one followed by `*`",
                );
            }
        }
        if behaviour.methods.is_empty() {
            self.tell(
                here,
                "methods",
                "no method is answered",
                "write methods = [\"GET\", \"HEAD\"]",
            );
        }
        for method in &behaviour.methods {
            if !METHODS.contains(&method.as_str()) {
                let what = format!("method `{}` is not known", method.escape_default());
                self.tell(here, "methods", what, format!("choose from {}", METHODS.join(", ")));
            }
        }
        for name in &behaviour.vary_ignore {
            let plain = name.strip_suffix('*').unwrap_or(name);
            let good = |b: u8| is_token_byte(b) && !b.is_ascii_uppercase();
            if name.is_empty() || !plain.bytes().all(good) {
                let what = format!("`{}` names no request field", name.escape_default());
                let mend = "write names in lower case, or the start of one followed by `*`";
                self.tell(here, "vary_ignore", what, mend);
            }
        }
        if let Some(redirect) = &behaviour.redirect {
            self.redirect(here, redirect);
        }
        self.pacing(here, &behaviour.pacing);
        let cors = behaviour.cors_allow_origin.as_deref();
        if cors.is_some_and(|value| value.is_empty() || !printable(value)) {
            let mend = "write \"*\" or an origin like \"https://player.example\"";
            self.tell(here, "cors_allow_origin", "not a field value", mend);
        }
        for rule in &behaviour.response_headers {
            let (name, value) = match rule {
                HeaderRule::Set { name, value } | HeaderRule::Add { name, value } => {
                    (name, value.as_str())
                }
                HeaderRule::Remove { name } => (name, ""),
            };
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                let what = format!("`{}` is no field name", name.escape_default());
                self.tell(here, "response_headers", what, "use letters, digits and `-`");
            } else if FRAMING_FIELDS.contains(&name.to_ascii_lowercase().as_str()) {
                let what = format!("`{name}` frames the message and belongs to the server");
                self.tell(here, "response_headers", what, "leave this rule out");
            }
            if value.bytes().any(|b| b < b' ' || b == 0x7f) {
                let what =
                    format!("the value of `{}` holds control characters", name.escape_default());
                self.tell(here, "response_headers", what, "write it on one line");
            }
        }
    }

    fn pacing(&mut self, here: Object, pacing: &Pacing) {
        if let Some(rate) = pacing.rate_max_kbps {
            self.range(here, "rate_max_kbps", u64::from(rate), RATE_KBPS_MIN, RATE_KBPS_MAX);
        }
        self.range(here, "burst", pacing.burst_bytes, 0, BURST_BYTES_MAX);
        if !BITRATE_FACTORS.contains(&pacing.bitrate_factor) {
            let what = format!("bitrate_factor {} is out of range", pacing.bitrate_factor);
            let (min, max) = (BITRATE_FACTORS.start(), BITRATE_FACTORS.end());
            let mend = format!("write one from {min} (just enough) to {max}");
            self.tell(here, "bitrate_factor", what, mend);
        }
    }

    fn redirect(&mut self, here: Object, redirect: &Redirect) {
        const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
        if !STATUSES.contains(&redirect.status) {
            let what = format!("status {} is no redirect to a location", redirect.status);
            self.tell(here, "redirect", what, "choose from 301, 302, 303, 307, 308");
        }
        let to = redirect.to.as_str();
        if !["https://", "http://", "/"].iter().any(|start| to.starts_with(start)) || !printable(to)
        {
            let what = format!("`{}` is no location", to.escape_default());
            let mend = "write https://..., http://... or a path, without spaces";
            self.tell(here, "redirect", what, mend);
        }
        for (index, piece) in to.split('{').enumerate() {
            let name = piece.split_once('}').map(|(name, _)| name);
            let known = matches!(name, Some("host" | "path" | "query"));
            let stray = if index == 0 { piece.contains('}') } else { !known };
            if stray {
                let what = format!("`{to}` holds a brace that encloses nothing known");
                self.tell(here, "redirect", what, "known are {host}, {path} and {query}");
                break;
            }
        }
        let same_place =
            ["https://{host}{path}", "http://{host}{path}"].iter().any(|same| to.starts_with(same));
        if same_place && !redirect.only_http {
            let what = "it leads back to the request itself";
            self.tell(here, "redirect", what, "add only_http = true, or change the location");
        }
    }

    /// A host belongs to one service, and only one service answers for addresses.
    fn hosts(&mut self) {
        let mut owners: HashMap<String, &str> = HashMap::new();
        let mut address_default: Option<&str> = None;
        for (index, service) in self.snapshot.delivery_services.iter().enumerate() {
            let object = Object::DeliveryService(index);
            for host in &service.hosts {
                self.name(object, "hosts", host);
                match owners.insert(host.clone(), &service.id) {
                    Some(other) if other == service.id => {
                        self.tell(
                            object,
                            "hosts",
                            format!("host `{host}` is named twice"),
                            "leave one out",
                        );
                    }
                    Some(other) => {
                        let what =
                            format!("host `{host}` belongs to delivery service `{other}` already");
                        self.tell(object, "hosts", what, "name each host in one delivery service");
                    }
                    None => {}
                }
                let routed =
                    host.strip_suffix(&self.snapshot.zone).and_then(|rest| rest.strip_suffix('.'));
                // Routers answer for content under their own names; caches tell their health there.
                let is_cache = |id: &&str| {
                    let server = self.servers.get(id).map(|index| &self.snapshot.servers[*index]);
                    server.is_some_and(|s| !matches!(s.role, Role::Router | Role::Monitor))
                };
                if let Some(server) = routed.filter(is_cache) {
                    let what = format!("host `{host}` is the name of server `{server}` itself");
                    self.tell(
                        object,
                        "hosts",
                        what,
                        "use another name: nodes ask each other's health there",
                    );
                }
                if let Some((_, id)) = routed.and_then(|rest| rest.rsplit_once('.'))
                    && id != service.id
                {
                    let what = format!("host `{host}` lies under delivery service name `{id}`");
                    self.tell(
                        object,
                        "hosts",
                        what,
                        "use a name outside the zone, or under this service's id",
                    );
                }
            }
            if service.address_default {
                if let Some(first) = address_default {
                    let what = format!("`{first}` is address_default already");
                    self.tell(object, "address_default", what, "mark at most one delivery service");
                }
                address_default.get_or_insert(&service.id);
            }
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

    fn server(&mut self, index: usize, server: &Server) {
        let object = Object::Server(index);
        self.label(object, "id", &server.id);
        match &server.cache_group {
            Some(group) if !self.groups.contains_key(group.as_str()) => {
                self.dangling(object, "cache_group", "cache group", group);
            }
            None if matches!(server.role, Role::Edge | Role::Parent) => {
                self.needs(object, "cache_group", server, "cache_group = \"...\"");
            }
            _ => {}
        }
        if let Some(name) = &server.origin_name {
            if server.role != Role::Origin || server.machine.origin_root.is_some() {
                let what = "origin_name says where somebody else's origin is";
                self.tell(object, "origin_name", what, "leave it out here");
            } else if !server.addresses.is_empty() {
                let what = "it has a name and addresses";
                self.tell(object, "origin_name", what, "leave one of the two out");
            }
            self.name(object, "origin_name", name);
        } else if server.addresses.is_empty() {
            self.needs(object, "addresses", server, "addresses = [\"192.0.2.1\"]");
        }
        if server.addresses.len() > ADDRESSES_MAX {
            let what = format!("more than {ADDRESSES_MAX} addresses");
            self.tell(object, "addresses", what, "split it into several servers");
        }
        for address in &server.addresses {
            if address.is_unspecified() || address.is_multicast() {
                let what = format!("no client can reach `{address}`");
                self.tell(object, "addresses", what, "write the host's own address");
            }
        }
        let ports = [
            ("http_port", server.http_port),
            ("https_port", server.https_port),
            ("admin_port", Some(server.admin_port)),
            ("heartbeat_port", server.heartbeat_port),
            ("dns_port", server.dns_port),
        ];
        for (field, port) in ports {
            if port == Some(0) {
                self.tell(object, field, "port 0 is no port", "write one from 1 to 65535");
            }
        }
        let offers = server.http_port.is_some() || server.https_port.is_some();
        match server.role {
            Role::Edge if !offers => {
                self.needs(object, "http_port", server, "http_port or https_port")
            }
            Role::Parent if server.http_port.is_none() => {
                if server.machine.fleet_tls.is_none() {
                    let mend = "http_port = 8080 (edges ask it there), or https_port and fleet_tls";
                    self.needs(object, "http_port", server, mend);
                }
                let fills_here = |edge: &&Server| {
                    edge.role == Role::Edge
                        && self.snapshot.cache_groups.iter().any(|group| {
                            Some(&group.id) == edge.cache_group.as_ref()
                                && group.parent_group.is_some()
                                && group.parent_group == server.cache_group
                        })
                };
                let edges = self.snapshot.servers.iter().filter(fills_here);
                let unknown: Vec<&str> = edges
                    .filter(|edge| edge.machine.fleet_tls.is_none())
                    .map(|edge| edge.id.as_str())
                    .collect();
                if server.machine.fleet_tls.is_some() && !unknown.is_empty() {
                    let what = format!(
                        "parent `{}` has no http_port, and edges that fill from it no fleet_tls: {}",
                        server.id,
                        unknown.join(", ")
                    );
                    self.tell(object, "http_port", what, "write http_port, or give them fleet_tls");
                }
            }
            Role::Origin if server.origin_tls.is_some() => {}
            Role::Origin if server.http_port.is_none() => {
                self.needs(object, "http_port", server, "http_port = 8080 (parents ask it there)");
            }
            Role::Router if server.dns_port.is_none() && server.http_port.is_none() => {
                self.needs(object, "dns_port", server, "dns_port, http_port, or both");
            }
            _ => {}
        }
        if let Some(path) = &server.origin_health {
            if server.role != Role::Origin {
                let what = "origin_health says how an origin is asked";
                self.tell(
                    object,
                    "origin_health",
                    what,
                    "leave it out: our own nodes are asked anyway",
                );
            } else if !path.starts_with('/') || !printable(path) {
                let what = format!("`{}` is no path", path.escape_default());
                self.tell(object, "origin_health", what, "write one like \"/health\"");
            }
        }
        if let Some(limit) = &server.origin_limit {
            if server.role != Role::Origin {
                let what = "origin_limit says how an origin is asked";
                self.tell(object, "origin_limit", what, "leave it out here");
            }
            let bounds = [
                ("requests_max", limit.requests_max, 1, 1_000_000),
                ("queue_max", limit.queue_max, 0, 1_000_000),
                ("queue_seconds", limit.queue_seconds, 1, 60),
            ];
            for (name, value, min, max) in bounds {
                if !(min..=max).contains(&value) {
                    let what = format!("{name} = {value} is out of range");
                    self.tell(object, "origin_limit", what, format!("write {min} to {max}"));
                }
            }
        }
        if let Some(s3) = &server.origin_s3 {
            if server.role != Role::Origin {
                let what = "origin_s3 says how an origin is asked";
                self.tell(object, "origin_s3", what, "leave it out here");
            }
            let word = |text: &str| !text.is_empty() && printable(text) && !text.contains('/');
            if !word(&s3.region) || !s3.bucket.as_deref().is_none_or(word) {
                let what = "region or bucket is no name";
                self.tell(object, "origin_s3", what, "write them as the store shows them");
            }
            if s3.prefix.as_deref().is_some_and(|p| p.is_empty() || p.chars().any(char::is_control))
            {
                let what = "prefix is no part of a path";
                self.tell(object, "origin_s3", what, "write it like \"vod/2026\", or leave it out");
            }
            let path = &s3.credentials_file;
            if path.is_empty() || path.contains('\0') {
                let what = "credentials_file is no path";
                self.tell(object, "origin_s3", what, "write where it is on each parent");
            }
        }
        if let Some(tls) = &server.origin_tls {
            if server.role != Role::Origin {
                let what = "origin_tls says how an origin is asked";
                self.tell(object, "origin_tls", what, "leave it out here");
            } else if server.https_port.is_none() {
                self.needs(object, "https_port", server, "https_port = 443 (parents ask it there)");
            }
            let is_name = tls.name.parse::<IpAddr>().is_ok()
                || (!tls.name.is_empty() && tls.name.split('.').all(is_label));
            if !is_name {
                let what = format!("`{}` is no host name", tls.name.escape_default());
                let mend = "write the name of the certificate, in lower case";
                self.tell(object, "origin_tls", what, mend);
            }
            if tls.ca_file.as_deref().is_some_and(|path| path.is_empty() || path.contains('\0')) {
                self.tell(object, "origin_tls", "ca_file is no path", "write it, or leave it out");
            }
        }
        if matches!(server.role, Role::Router | Role::Monitor) && server.heartbeat_port.is_none() {
            self.needs(object, "heartbeat_port", server, "heartbeat_port = 7946");
        }
        if !(0.0..=WEIGHT_MAX).contains(&server.weight) {
            let what = format!("weight {} is out of range", server.weight);
            self.tell(object, "weight", what, format!("write one from 0 to {WEIGHT_MAX}"));
        }
        self.machine(object, server);
    }

    fn machine(&mut self, object: Object, server: &Server) {
        let machine = &server.machine;
        self.range(object, "cores", machine.cores as u64, 0, CORES_MAX);
        if matches!(server.role, Role::Edge | Role::Parent) {
            self.range(object, "ram_bytes", machine.ram_bytes, RAM_BYTES_MIN, 1 << 50);
        }
        self.stores(object, &machine.stores);
        if machine.state_dir.is_empty() || machine.state_dir.contains('\0') {
            let mend = "write the path of a folder, or leave it out";
            self.tell(object, "state_dir", "not a path", mend);
        }
        self.range(object, "store_extent_bytes", machine.store_extent_bytes, 4096, 512 << 10);
        if matches!(server.role, Role::Edge | Role::Parent)
            && let Err(little) = machine.memory(machine.cores.max(1) as u64, machine.store_bytes())
        {
            let mend = format!(
                "write memory_bytes = \"{} MiB\" or more, or less ram_bytes, or fewer bytes of stores",
                little.needed_bytes.div_ceil(1 << 20)
            );
            self.tell(object, "memory_bytes", little.what(), mend);
        }
        if machine.store_admission == Admission::Never {
            let mend = "leave out the server's `stores`, or write `never` in behaviours";
            self.tell(
                object,
                "store_admission",
                "a server whose stores are never written to",
                mend,
            );
        }
        if machine.store_writes_per_day.is_some_and(|n| !(0.001..=1000.0).contains(&n)) {
            let what = "store_writes_per_day is no number of drive writes per day";
            let mend = "write what the drive's maker allows, e.g. 1.0 (from 0.001 to 1000)";
            self.tell(object, "store_writes_per_day", what, mend);
        }
        if let Some(bytes) = machine.store_rated_bytes {
            self.range(object, "store_rated_bytes", bytes, 1 << 30, 1 << 60);
        }
        let paths = [
            ("origin_root", &machine.origin_root),
            ("ticket_secret_file", &machine.ticket_secret_file),
        ];
        let paths = paths.iter().filter_map(|(field, path)| Some((*field, path.as_ref()?)));
        let shown = machine.certificates.iter().flat_map(|certificate| {
            [Some(&certificate.chain), Some(&certificate.key), certificate.staple.as_ref()]
        });
        let shown = shown.flatten().map(|path| ("certificates", path));
        let fleet = machine.fleet_tls.iter().flat_map(|fleet| {
            [&fleet.chain, &fleet.key, &fleet.authorities].map(|path| ("fleet_tls", path))
        });
        let admin = machine.admin_tls.iter().flat_map(|admin| {
            [&admin.chain, &admin.key, &admin.authorities].map(|path| ("admin_tls", path))
        });
        for (field, path) in paths.chain(shown).chain(fleet).chain(admin) {
            if path.is_empty() || path.contains('\0') {
                self.tell(
                    object,
                    field,
                    "not a path",
                    "write the path of the file, or leave it out",
                );
            }
        }
        // An origin that has a name, is asked over TLS, or is a bucket, is somebody else's server.
        let ours = server.origin_tls.is_none()
            && server.origin_s3.is_none()
            && server.origin_name.is_none();
        if server.role == Role::Origin && ours && machine.origin_root.is_none() {
            self.needs(object, "origin_root", server, "origin_root = \"/srv/films\"");
        }
        let proves = !machine.certificates.is_empty()
            || (server.role == Role::Parent && machine.fleet_tls.is_some());
        if server.https_port.is_some() && ours && !proves {
            let what = format!("server `{}` has https_port but no certificate", server.id);
            let mend = "write certificates = [{ chain = \"...\", key = \"...\" }]";
            self.tell(object, "certificates", what, mend);
        }
        if machine.admin_tls.is_some() && !ours {
            let what = "admin_tls is for servers of this CDN, and this origin is somebody else's";
            self.tell(object, "admin_tls", what, "leave it out here");
        }
        if machine.fleet_tls.is_some() {
            if !matches!(server.role, Role::Edge | Role::Parent) {
                let what = "fleet_tls says how edges and parents know each other";
                self.tell(object, "fleet_tls", what, "leave it out here");
            } else if server.https_port.is_none() {
                let what = format!("server `{}` has fleet_tls but no https_port", server.id);
                self.tell(object, "fleet_tls", what, "write https_port: the fleet asks it there");
            }
        }
    }

    fn stores(&mut self, object: Object, stores: &[StoreDevice]) {
        if stores.len() > STORES_MAX {
            let what = format!("{} stores, where at most {STORES_MAX} can be", stores.len());
            self.tell(object, "stores", what, "leave some out");
        }
        for (index, store) in stores.iter().enumerate() {
            if store.path.is_empty() || store.path.contains('\0') {
                let what = "a path of stores is no path";
                self.tell(object, "stores", what, "write the path of the file or device");
            }
            if !(1..=1 << 56).contains(&store.bytes) {
                let what = format!("bytes = {} of `{}` is out of range", store.bytes, store.path);
                self.tell(
                    object,
                    "stores",
                    what,
                    format!("write a number from 1 to {}", 1u64 << 56),
                );
            }
            let same = |other: &&StoreDevice| Path::new(&other.path) == Path::new(&store.path);
            if let Some(other) = stores[..index].iter().find(same) {
                let what = format!(
                    "`{}` and `{}` of stores are the same",
                    other.path.escape_default(),
                    store.path.escape_default()
                );
                self.tell(object, "stores", what, "leave one out");
            }
        }
    }

    /// Two listeners on one address and port: the second process would not start.
    fn sockets(&mut self) {
        let mut owners: HashMap<(IpAddr, u16, bool), (&str, &'static str)> = HashMap::new();
        for (index, server) in self.snapshot.servers.iter().enumerate() {
            let mut sockets: Vec<(IpAddr, u16, bool, &'static str)> = Vec::new();
            for address in &server.addresses {
                let tcp = [("http_port", server.http_port), ("https_port", server.https_port)];
                sockets.extend(
                    tcp.into_iter().filter_map(|(f, p)| p.map(|p| (*address, p, false, f))),
                );
                if let Some(port) = server.dns_port {
                    sockets.push((*address, port, false, "dns_port"));
                    sockets.push((*address, port, true, "dns_port"));
                }
                if let Some(port) = server.heartbeat_port {
                    sockets.push((*address, port, true, "heartbeat_port"));
                }
            }
            if let Some(first) = server.addresses.first() {
                sockets.push((*first, server.admin_port, false, "admin_port"));
            }
            for (address, port, udp, field) in sockets {
                if let Some((other, other_field)) =
                    owners.insert((address, port, udp), (&server.id, field))
                {
                    let what = format!(
                        "{address} port {port} is taken by {other_field} of server `{other}`"
                    );
                    self.tell(Object::Server(index), field, what, "choose another port or address");
                }
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

fn glob(path: &str) -> Result<(), String> {
    if !path.starts_with(['/', '*']) {
        return Err(format!("path `{}` begins with neither `/` nor `*`", path.escape_default()));
    }
    if path.len() > GLOB_BYTES_MAX {
        return Err(format!("path has more than {GLOB_BYTES_MAX} bytes"));
    }
    if path.contains("**") {
        return Err(format!("path `{path}`: `**` means no more than `*`"));
    }
    if path.matches('*').count() > GLOB_STARS_MAX {
        return Err(format!("path `{path}` has more than {GLOB_STARS_MAX} `*`"));
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || "[]{}\\#".contains(*c)) {
        Some(c) => Err(format!("path `{}` holds `{}`", path.escape_default(), c.escape_default())),
        None => Ok(()),
    }
}

fn printable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Seconds that any freshness may last: ten years.
const TTL_SECONDS_MAX: u64 = 10 * 365 * 86_400;
/// More addresses than this never fit the 1232 bytes of a DNS answer together with the rest.
const DNS_ANSWERS_MAX: u64 = 16;
/// Less than any rendition needs.
const RATE_KBPS_MIN: u64 = 512;
const RATE_KBPS_MAX: u64 = 400_000_000;
const BURST_BYTES_MAX: u64 = 64 << 20;
const BITRATE_FACTORS: std::ops::RangeInclusive<f64> = 1.0..=10.0;
const ADDRESSES_MAX: usize = 8;
const CORES_MAX: u64 = 1024;
/// Less RAM than this cannot hold one fill.
const RAM_BYTES_MIN: u64 = 1 << 20;
const WEIGHT_MAX: f64 = 1000.0;
const GLOB_BYTES_MAX: usize = 1024;
/// Each `*` multiplies the work of a match that fails.
const GLOB_STARS_MAX: usize = 8;
/// After so many problems more would not help.
const PROBLEMS_MAX: usize = 200;
const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
const FRAMING_FIELDS: [&str; 8] = [
    "connection",
    "content-length",
    "content-range",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
