//! Servers: their places, machines, stores and sockets.

use super::{Checker, Object, is_label, printable};
use crate::snapshot::*;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use tidegate_types::limits::STORES_MAX;

impl Checker<'_> {
    pub(super) fn server(&mut self, index: usize, server: &Server) {
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
        let fleet = machine.fleet_tls.iter().flat_map(FleetTls::files);
        let fleet = fleet.map(|path| ("fleet_tls", path));
        let admin = machine.admin_tls.iter().flat_map(FleetTls::files);
        let admin = admin.map(|path| ("admin_tls", path));
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
    pub(super) fn sockets(&mut self) {
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
}

const ADDRESSES_MAX: usize = 8;
const CORES_MAX: u64 = 1024;
/// Less RAM than this cannot hold one fill.
const RAM_BYTES_MIN: u64 = 1 << 20;
const WEIGHT_MAX: f64 = 1000.0;
