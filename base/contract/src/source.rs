//! The source tree of a CDN's configuration, compiled into a [`Snapshot`].
//!
//! The tree: `cdn.toml`; `servers.toml` or `servers/*.toml`; `delivery-services/*.toml`, one service per
//! file; the coverage zone file that `cdn.toml` names, in Traffic Control's JSON; `keys/heartbeat.key`;
//! `keys/admin.key` when orders shall be taken.
//! `docs/reference/example-config/` is an annotated one.
//!
//! Must stay true: [`compile`] either gives a snapshot that [`crate::check`] passes, or all problems it
//! found, each with file, line and column; a key that is not read is a problem (nothing written is silently
//! ignored).

mod coverage;
mod table;
mod values;

use crate::check::{Object, Problem};
use crate::snapshot::*;
use std::collections::{HashMap, HashSet};
use std::fmt;
use table::Table;
use tidegate_types::memory::EXTENT_BYTES_DEFAULT;
use toml::de::DeTable;
use values::Size;

/// A problem in the source tree and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub what: String,
    pub mend: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { file, line, column, what, mend } = self;
        write!(f, "{file}:{line}:{column}: {what}\n    mend: {mend}")
    }
}

/// Compiles the files of a source tree, given as (name relative to its root with `/`, text).
///
/// # Errors
/// All problems found, in the order of the files.
pub fn compile(files: &[(String, String)], generation: u64) -> Result<Snapshot, Vec<Diagnostic>> {
    compile_with_hints(files, generation).map(|(snapshot, _)| snapshot)
}

/// As [`compile`], with hints: what is allowed and probably not meant (see [`crate::lint`]).
///
/// # Errors
/// All problems found, in the order of the files.
pub fn compile_with_hints(
    files: &[(String, String)],
    generation: u64,
) -> Result<(Snapshot, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut compiler = Compiler::new(files);
    let snapshot = compiler.tree(generation);
    if compiler.broken_syntax {
        return Err(compiler.finish());
    }
    for problem in crate::check::check(&snapshot) {
        compiler.place_problem(&snapshot, problem);
    }
    if !compiler.diagnostics.is_empty() {
        return Err(compiler.finish());
    }
    for hint in crate::lint::lint(&snapshot) {
        compiler.place_problem(&snapshot, hint);
    }
    Ok((snapshot, compiler.finish()))
}

/// Whether `name` can be part of a source tree; callers that read a folder pass on only such files.
pub fn is_source_file(name: &str) -> bool {
    is_key_file(name) || name.ends_with(".toml") || name.ends_with(".json")
}

fn is_key_file(name: &str) -> bool {
    name == HEARTBEAT_KEY_FILE || name == ADMIN_KEY_FILE
}

/// A byte of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct At {
    file: usize,
    offset: usize,
}

struct Compiler<'a> {
    files: &'a [(String, String)],
    diagnostics: Vec<(At, String, String)>,
    /// Where each object ("" as field) and each of its fields is written.
    places: HashMap<(Object, String), At>,
    /// Places with a problem already: what the checks say about a stand-in value would only confuse.
    told: HashSet<(Object, String)>,
    broken_syntax: bool,
    coverage_file: Option<usize>,
}

impl<'a> Compiler<'a> {
    fn new(files: &'a [(String, String)]) -> Compiler<'a> {
        Compiler {
            files,
            diagnostics: Vec::new(),
            places: HashMap::new(),
            told: HashSet::new(),
            broken_syntax: false,
            coverage_file: None,
        }
    }

    fn tree(&mut self, generation: u64) -> Snapshot {
        let mut snapshot = self.cdn_file(generation);
        let files = self.files;
        for (index, (name, _)) in files.iter().enumerate() {
            let name = name.as_str();
            if name == CDN_FILE || is_key_file(name) || Some(index) == self.coverage_file {
                continue;
            } else if name == "servers.toml" || in_folder(name, "servers/") {
                self.servers_file(index, &mut snapshot);
            } else if in_folder(name, "delivery-services/") {
                self.delivery_service_file(index, &mut snapshot);
            } else {
                let mend = match (name.ends_with(".json"), name.rsplit_once('/')) {
                    (true, _) => {
                        "name it as coverage_zones in cdn.toml, or move it out of the tree"
                            .to_owned()
                    }
                    _ => "move it to servers/ or delivery-services/, or out of the tree".to_owned(),
                };
                self.tell(
                    At { file: index, offset: 0 },
                    "this file has no place in a source tree",
                    mend,
                );
            }
        }
        snapshot
    }

    fn cdn_file(&mut self, generation: u64) -> Snapshot {
        let mut snapshot = Snapshot {
            schema: crate::SCHEMA,
            generation,
            cdn: String::new(),
            zone: String::new(),
            delivery_services: Vec::new(),
            cache_groups: Vec::new(),
            servers: Vec::new(),
            coverage_zones: Vec::new(),
            steering: Steering {
                default_group: String::new(),
                dns_ttl_seconds: DNS_TTL_SECONDS_DEFAULT,
                dns_answers_max: DNS_ANSWERS_DEFAULT,
                location: LocationStyle::Name,
            },
            keys: Keys { heartbeat_hex: self.heartbeat_key(), admin_hex: self.admin_key() },
        };
        let Some(index) = self.file(CDN_FILE) else {
            self.tell_missing_file(
                CDN_FILE,
                "write it: it names the CDN, its zone and how clients are steered",
            );
            return snapshot;
        };
        let Some(parsed) = self.parse(index) else { return snapshot };
        let mut table = Table::new(self, Object::Cdn, index, 0, &parsed);
        snapshot.cdn = table.need("cdn", "cdn = \"my-cdn\"");
        snapshot.zone = table.need("zone", "zone = \"cdn.example.net\"");
        let coverage: Option<String> = table.take("coverage_zones");
        match table.table("steering") {
            None => {
                table.tell_missing("steering", "[steering] with default_group = \"...\"");
                table.mark_told("default_group");
            }
            Some((offset, inner)) => {
                let mut steering = Table::new(table.compiler(), Object::Cdn, index, offset, inner);
                snapshot.steering.default_group =
                    steering.need("default_group", "default_group = \"...\"");
                steering.set("dns_ttl_seconds", &mut snapshot.steering.dns_ttl_seconds);
                steering.set("dns_answers_max", &mut snapshot.steering.dns_answers_max);
                steering.set("location", &mut snapshot.steering.location);
                steering.finish();
            }
        }
        table.finish();
        if let Some(name) = coverage {
            match self.file(&name) {
                Some(file) => {
                    self.coverage_file = Some(file);
                    snapshot.coverage_zones = self.coverage_zones(file);
                }
                None => {
                    let what =
                        format!("there is no coverage zone file `{}`", name.escape_default());
                    let at = self.places.get(&(Object::Cdn, "coverage_zones".to_owned())).copied();
                    let at = at.unwrap_or(At { file: index, offset: 0 });
                    self.tell(at, what, "put it beside cdn.toml, or leave coverage_zones out");
                }
            }
        }
        snapshot
    }

    fn heartbeat_key(&mut self) -> String {
        let Some(index) = self.file(HEARTBEAT_KEY_FILE) else {
            let mend = "make one: `tidegate snapshot keygen --out keys`";
            self.tell_missing_file(HEARTBEAT_KEY_FILE, mend);
            self.told.insert((Object::Cdn, "heartbeat_hex".to_owned()));
            return String::new();
        };
        self.places
            .insert((Object::Cdn, "heartbeat_hex".to_owned()), At { file: index, offset: 0 });
        self.files[index].1.trim().to_owned()
    }

    fn admin_key(&mut self) -> Option<String> {
        let index = self.file(ADMIN_KEY_FILE)?;
        self.places.insert((Object::Cdn, "admin_hex".to_owned()), At { file: index, offset: 0 });
        Some(self.files[index].1.trim().to_owned())
    }

    fn servers_file(&mut self, file: usize, snapshot: &mut Snapshot) {
        let Some(parsed) = self.parse(file) else { return };
        let mut table = Table::new(self, Object::Cdn, file, 0, &parsed);
        for (offset, inner) in table.tables("cache_group") {
            let object = Object::CacheGroup(snapshot.cache_groups.len());
            snapshot.cache_groups.push(cache_group(Table::new(
                table.compiler(),
                object,
                file,
                offset,
                inner,
            )));
        }
        for (offset, inner) in table.tables("server") {
            let object = Object::Server(snapshot.servers.len());
            snapshot.servers.push(server(Table::new(
                table.compiler(),
                object,
                file,
                offset,
                inner,
            )));
        }
        table.finish();
    }

    fn delivery_service_file(&mut self, file: usize, snapshot: &mut Snapshot) {
        let Some(parsed) = self.parse(file) else { return };
        let index = snapshot.delivery_services.len();
        let table = Table::new(self, Object::DeliveryService(index), file, 0, &parsed);
        snapshot.delivery_services.push(delivery_service(table, index, file));
    }

    fn parse(&mut self, file: usize) -> Option<DeTable<'a>> {
        let files = self.files;
        let (parsed, errors) = DeTable::parse_recoverable(&files[file].1);
        for error in &errors {
            let offset = error.span().map_or(0, |span| span.start);
            let mend = if error.message().contains("duplicate key") {
                "keep one of the two"
            } else {
                "see https://toml.io for how a table, a text or a list is written"
            };
            self.tell(At { file, offset }, error.message().to_owned(), mend);
            self.broken_syntax = true;
        }
        errors.is_empty().then(|| parsed.into_inner())
    }

    fn file(&self, name: &str) -> Option<usize> {
        self.files.iter().position(|(file, _)| file == name)
    }

    fn tell(&mut self, at: At, what: impl Into<String>, mend: impl Into<String>) {
        if self.diagnostics.len() < DIAGNOSTICS_MAX {
            self.diagnostics.push((at, what.into(), mend.into()));
        }
    }

    fn tell_missing_file(&mut self, name: &str, mend: &str) {
        // There is no index for a file that is not there; `finish` knows this one.
        self.tell(At { file: usize::MAX, offset: 0 }, format!("{name} is missing"), mend);
    }

    /// Gives a problem of the finished snapshot the place where its field, or else its object, is written.
    fn place_problem(&mut self, snapshot: &Snapshot, problem: Problem) {
        let Problem { place, what, mend } = problem;
        if self.told.contains(&(place.object, place.field.to_owned())) {
            return;
        }
        let at = match place.object {
            Object::CoverageZone(index) => {
                self.coverage_place(&snapshot.coverage_zones[index], place.field)
            }
            object => {
                let field = self.places.get(&(object, place.field.to_owned()));
                field.or_else(|| self.places.get(&(object, String::new()))).copied()
            }
        };
        self.tell(at.unwrap_or(At { file: 0, offset: 0 }), what, mend);
    }

    /// What `inner` does not say of these fields itself stands in `outer`.
    fn inherit(&mut self, outer: Object, inner: Object, fields: &[&str]) {
        for field in fields {
            if let Some(at) = self.places.get(&(outer, (*field).to_owned())).copied() {
                self.places.entry((inner, (*field).to_owned())).or_insert(at);
            }
        }
    }

    fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|(at, ..)| *at);
        // What several objects inherit is told once.
        self.diagnostics.dedup();
        let mut diagnostics: Vec<Diagnostic> = Vec::new();
        for (at, what, mend) in self.diagnostics {
            let (file, line, column) = match self.files.get(at.file) {
                Some((name, text)) => {
                    let (line, column) = line_and_column(text, at.offset);
                    (name.clone(), line, column)
                }
                None => {
                    let name = what.strip_suffix(" is missing").unwrap_or(CDN_FILE);
                    (name.to_owned(), 1, 1)
                }
            };
            diagnostics.push(Diagnostic { file, line, column, what, mend });
        }
        diagnostics
    }
}

fn cache_group(mut table: Table<'_, '_, '_>) -> CacheGroup {
    let group = CacheGroup {
        id: table.need("id", "id = \"...\""),
        latitude: table.need("latitude", "latitude = 52.5"),
        longitude: table.need("longitude", "longitude = 13.4"),
        parent_group: table.take("parent_group"),
        fallbacks: table.take("fallbacks").unwrap_or_default(),
        peering: table.take("peering").unwrap_or(false),
    };
    table.finish();
    group
}

fn server(mut table: Table<'_, '_, '_>) -> Server {
    let role = table.take("role").unwrap_or_else(|| {
        table.tell_missing("role", "role = \"edge\" (or parent, origin, router, monitor)");
        // The checks of a role would only add noise to this problem.
        for field in ["cache_group", "http_port", "heartbeat_port", "dns_port", "origin_root"] {
            table.mark_told(field);
        }
        Role::Edge
    });
    let (object, file) = (table.object(), table.file());
    let origin_tls = table.table("origin_tls").map(|(offset, inner)| {
        let mut tls = Table::new(table.compiler(), object, file, offset, inner);
        let found = OriginTls {
            name: tls.need("name", "name = \"origin.example.net\""),
            ca_file: tls.take("ca_file"),
        };
        tls.finish();
        found
    });
    let origin_s3 = table.table("origin_s3").map(|(offset, inner)| {
        let mut s3 = Table::new(table.compiler(), object, file, offset, inner);
        let found = OriginS3 {
            region: s3.need("region", "region = \"eu-central-1\""),
            bucket: s3.take("bucket"),
            prefix: s3.take("prefix"),
            credentials_file: s3
                .need("credentials_file", "credentials_file = \"/etc/tidegate/s3\""),
        };
        s3.finish();
        found
    });
    let origin_limit = table.table("origin_limit").map(|(offset, inner)| {
        let mut limit = Table::new(table.compiler(), object, file, offset, inner);
        let found = OriginLimit {
            requests_max: limit.need("requests_max", "requests_max = 256"),
            queue_max: limit.take("queue_max").unwrap_or(ORIGIN_QUEUE_DEFAULT),
            queue_seconds: limit.take("queue_seconds").unwrap_or(ORIGIN_QUEUE_SECONDS_DEFAULT),
        };
        limit.finish();
        found
    });
    let certificates = table
        .tables("certificates")
        .into_iter()
        .map(|(offset, inner)| {
            let mut certificate = Table::new(table.compiler(), object, file, offset, inner);
            let found = Certificate {
                chain: certificate.need("chain", "chain = \"/etc/tidegate/tls/edge.pem\""),
                key: certificate.need("key", "key = \"/etc/tidegate/tls/edge.key\""),
                staple: certificate.take("staple"),
            };
            certificate.finish();
            found
        })
        .collect();
    let [fleet_tls, admin_tls] = ["fleet_tls", "admin_tls"].map(|field| {
        let (offset, inner) = table.table(field)?;
        let mut proof = Table::new(table.compiler(), object, file, offset, inner);
        let found = FleetTls {
            chain: proof.need("chain", "chain = \"/etc/tidegate/fleet/cert.pem\""),
            key: proof.need("key", "key = \"/etc/tidegate/fleet/key.pem\""),
            authorities: proof.need("authorities", "authorities = \"/etc/tidegate/fleet/ca.pem\""),
            revoked: proof.take("revoked"),
        };
        proof.finish();
        Some(found)
    });
    let client_limits = table.table("client_limits").map(|(offset, inner)| {
        let mut limits = Table::new(table.compiler(), object, file, offset, inner);
        let usual = ClientLimits::default();
        let found = ClientLimits {
            connections: limits.take("connections").unwrap_or(usual.connections),
            per_second: limits.take("per_second").unwrap_or(usual.per_second),
            floods_per_minute: limits.take("floods_per_minute").unwrap_or(usual.floods_per_minute),
        };
        limits.finish();
        found
    });
    let client_limits = client_limits.unwrap_or_default();
    let mut stores = Vec::new();
    for (offset, inner) in table.tables("stores") {
        let mut store = Table::new(table.compiler(), object, file, offset, inner);
        stores.push(StoreDevice {
            path: store.need("path", "path = \"/dev/nvme0n1\""),
            bytes: store.take("bytes").map_or(STORE_BYTES_DEFAULT, |Size(bytes)| bytes),
        });
        store.finish();
    }
    for old in ["tls_certificate", "tls_key"] {
        table.gone(old, "certificates = [{ chain = \"...\", key = \"...\" }]");
    }
    for old in ["store_path", "store_bytes"] {
        table.gone(old, "stores = [{ path = \"/var/lib/tidegate/store\", bytes = \"3 TiB\" }]");
    }
    let origin_name: Option<String> = table.take("origin_name");
    let server = Server {
        origin_tls,
        origin_s3,
        origin_name: origin_name.clone(),
        origin_health: table.take("origin_health"),
        origin_limit,
        id: table.need("id", "id = \"...\""),
        role,
        cache_group: table.take("cache_group"),
        status: table.take("status").unwrap_or(ServerStatus::Reported),
        addresses: match origin_name {
            Some(_) => table.take("addresses").unwrap_or_default(),
            None => table.need("addresses", "addresses = [\"192.0.2.1\"]"),
        },
        http_port: table.take("http_port"),
        https_port: table.take("https_port"),
        http3: table.take("http3").unwrap_or(true),
        admin_port: table.need("admin_port", "admin_port = 9090"),
        heartbeat_port: table.take("heartbeat_port"),
        dns_port: table.take("dns_port"),
        weight: table.take("weight").unwrap_or(1.0),
        machine: Machine {
            cores: table.take("cores").unwrap_or(0),
            memory_bytes: table.take("memory_bytes").map(|Size(bytes)| bytes),
            ram_policy: table.take("ram_policy").unwrap_or_default(),
            ram_bytes: table.take("ram_bytes").map_or(RAM_BYTES_DEFAULT, |Size(bytes)| bytes),
            stores,
            state_dir: table.take("state_dir").unwrap_or_else(state_dir_default),
            store_extent_bytes: table
                .take("store_extent_bytes")
                .map_or(EXTENT_BYTES_DEFAULT, |Size(bytes)| bytes),
            store_admission: table.take("store_admission").unwrap_or_default(),
            store_writes_per_day: table.take("store_writes_per_day"),
            store_rated_bytes: table.take("store_rated_bytes").map(|Size(bytes)| bytes),
            store_discard: table.take("store_discard").unwrap_or(false),
            origin_root: table.take("origin_root"),
            certificates,
            ticket_secret_file: table.take("ticket_secret_file"),
            client_limits,
            fleet_tls,
            admin_tls,
            ktls: table.take("ktls").unwrap_or_default(),
        },
    };
    table.finish();
    server
}

fn delivery_service(mut table: Table<'_, '_, '_>, index: usize, file: usize) -> DeliveryService {
    let origins: Vec<String> = table.need("origins", "origins = [\"...\"]");
    let origin_host = table.take("origin_host").or_else(|| origins.first().cloned());
    if origin_host.is_none() {
        table.mark_told("origin_host");
    }
    let mut service = DeliveryService {
        id: table.need("id", "id = \"...\""),
        active: table.take("active").unwrap_or(true),
        hosts: table.take("hosts").unwrap_or_default(),
        routing_name: table.take("routing_name").unwrap_or_else(|| "cdn".to_owned()),
        address_default: table.take("address_default").unwrap_or(false),
        origins,
        origin_host: origin_host.unwrap_or_default(),
        tls: table.take("tls").unwrap_or_default(),
        early_data: table.take("early_data").unwrap_or(false),
        debug_token_sha256: table.take("debug_token_sha256"),
        behaviours: Vec::new(),
    };
    let mut common = Pacing::default();
    pacing(&mut table, &mut common);
    for (offset, inner) in table.tables("behaviour") {
        let object = Object::Behaviour(index, service.behaviours.len());
        let inner = Table::new(table.compiler(), object, file, offset, inner);
        service.behaviours.push(behaviour(inner, common));
        table.compiler().inherit(Object::DeliveryService(index), object, &PACING_NUMBERS);
    }
    table.finish();
    service
}

/// The table `pacing`, if there is one, over what is said already.
fn pacing(table: &mut Table<'_, '_, '_>, pacing: &mut Pacing) {
    let (object, file) = (table.object(), table.file());
    let Some((offset, inner)) = table.table("pacing") else { return };
    let mut inner = Table::new(table.compiler(), object, file, offset, inner);
    pacing.rate_max_kbps = inner.take("rate_max_kbps").or(pacing.rate_max_kbps);
    pacing.congestion = inner.take("congestion").or(pacing.congestion);
    inner.set("cmcd", &mut pacing.cmcd);
    inner.set("bitrate_factor", &mut pacing.bitrate_factor);
    if let Some(Size(bytes)) = inner.take("burst") {
        pacing.burst_bytes = bytes;
    }
    inner.set("prefetch", &mut pacing.prefetch);
    inner.set("pass_cmcd", &mut pacing.pass_cmcd);
    inner.finish();
}

fn behaviour(mut table: Table<'_, '_, '_>, common: Pacing) -> Behaviour {
    let class = table.take("class").unwrap_or(CLASS_NONE);
    let name: String = table.need("name", "name = \"...\"");
    let path: String = table.need("path", "path = \"/videos/*\"");
    let mut behaviour = Behaviour {
        cache: table.take("cache").unwrap_or(class.cache),
        default_ttl_seconds: table.take("default_ttl_seconds").or(class.default_ttl_seconds),
        override_ttl_seconds: table.take("override_ttl_seconds"),
        stale_while_revalidate_seconds: class.stale_while_revalidate_seconds,
        stale_if_error_seconds: class.stale_if_error_seconds,
        negative_ttl_seconds: class.negative_ttl_seconds,
        hedge: table.take("hedge").unwrap_or(class.hedge),
        compress: table.take("compress").unwrap_or(true),
        obey_clients: table.take("obey_clients").unwrap_or(false),
        store_admission: table.take("store_admission"),
        cors_allow_origin: table.take("cors_allow_origin"),
        pacing: common,
        ..Behaviour::plain(&name, &path)
    };
    table.set("stale_while_revalidate_seconds", &mut behaviour.stale_while_revalidate_seconds);
    table.set("stale_if_error_seconds", &mut behaviour.stale_if_error_seconds);
    table.set("negative_ttl_seconds", &mut behaviour.negative_ttl_seconds);
    table.set("methods", &mut behaviour.methods);
    table.set("vary_ignore", &mut behaviour.vary_ignore);
    let (object, file) = (table.object(), table.file());
    if behaviour.cache {
        // Tokens and player measurements make no other object; what is passed is passed as it came.
        behaviour.cache_key.drop = ["token", "CMCD", "utm_*"].map(str::to_owned).to_vec();
        behaviour.cache_key.sort = true;
    }
    if let Some((offset, inner)) = table.table("cache_key") {
        let mut rule = Table::new(table.compiler(), object, file, offset, inner);
        rule.set("drop", &mut behaviour.cache_key.drop);
        rule.set("keep", &mut behaviour.cache_key.keep);
        rule.set("sort", &mut behaviour.cache_key.sort);
        rule.finish();
    }
    pacing(&mut table, &mut behaviour.pacing);
    if let Some((offset, inner)) = table.table("redirect") {
        let mut redirect = Table::new(table.compiler(), object, file, offset, inner);
        behaviour.redirect = Some(Redirect {
            to: redirect.need("to", "to = \"https://{host}{path}{query}\""),
            status: redirect.take("status").unwrap_or(308),
            only_http: redirect.take("only_http").unwrap_or(false),
        });
        redirect.finish();
    }
    for (offset, inner) in table.tables("response_headers") {
        let rule = header_rule(Table::new(table.compiler(), object, file, offset, inner));
        behaviour.response_headers.extend(rule);
    }
    table.finish();
    behaviour
}

fn header_rule(mut table: Table<'_, '_, '_>) -> Option<HeaderRule> {
    let op: String = table.need("op", "op = \"set\", \"add\" or \"remove\"");
    // A place of its own: `name` is also a field of the behaviour.
    let name: String = table.need("name", "name = \"X-Region\"");
    let rule = match op.as_str() {
        "set" => Some(HeaderRule::Set { name, value: table.need("value", "value = \"...\"") }),
        "add" => Some(HeaderRule::Add { name, value: table.need("value", "value = \"...\"") }),
        "remove" => Some(HeaderRule::Remove { name }),
        "" => None,
        other => {
            let what = format!("op `{}` is not known", other.escape_default());
            table.tell("op", what, "write \"set\", \"add\" or \"remove\"");
            None
        }
    };
    table.finish();
    rule
}

/// Numbers that a class of content brings; what the behaviour itself says wins. The table of TTL defaults is
/// the project's ruling where its sources disagreed: 15 s, 3600 s, a part, a year, never.
#[derive(Debug, Clone, Copy)]
struct Class {
    cache: bool,
    default_ttl_seconds: Option<u32>,
    stale_while_revalidate_seconds: u32,
    stale_if_error_seconds: u32,
    negative_ttl_seconds: u32,
    hedge: bool,
}

fn in_folder(name: &str, folder: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| rest.ends_with(".toml") && !rest.contains('/'))
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Fields of `pacing` that the checks look at.
const PACING_NUMBERS: [&str; 3] = ["rate_max_kbps", "bitrate_factor", "burst"];

/// The file that every source tree has.
pub const CDN_FILE: &str = "cdn.toml";
/// The MAC key of heartbeats, 64 hexadecimal digits.
pub const HEARTBEAT_KEY_FILE: &str = "keys/heartbeat.key";
/// The MAC key of orders to admin ports, 64 hexadecimal digits.
pub const ADMIN_KEY_FILE: &str = "keys/admin.key";
const DNS_TTL_SECONDS_DEFAULT: u32 = 20;
const ORIGIN_QUEUE_DEFAULT: u32 = 1024;
const ORIGIN_QUEUE_SECONDS_DEFAULT: u32 = 5;
const DNS_ANSWERS_DEFAULT: usize = 2;
const RAM_BYTES_DEFAULT: u64 = 256 << 20;
const STORE_BYTES_DEFAULT: u64 = 1 << 30;
/// After so many diagnostics more would not help.
const DIAGNOSTICS_MAX: usize = 500;

const fn class(cache: bool, ttl: Option<u32>, revalidate: u32, error: u32, negative: u32) -> Class {
    Class {
        cache,
        default_ttl_seconds: ttl,
        stale_while_revalidate_seconds: revalidate,
        stale_if_error_seconds: error,
        negative_ttl_seconds: negative,
        hedge: false,
    }
}

/// Without a class only what the response itself allows is stored.
const CLASS_NONE: Class = class(true, None, 0, 0, 5);
const CLASSES: [(&str, Class); 5] = [
    ("vod-playlist", class(true, Some(15), 15, 3600, 5)),
    ("media-segment", class(true, Some(3600), 60, 86_400, 5)),
    // A missing media segment of a live feed is about to appear, so its absence is not kept.
    ("live", Class { hedge: true, ..class(true, Some(1), 0, 2, 0) }),
    ("videos", class(true, Some(31_536_000), 86_400, 604_800, 10)),
    ("api", class(false, None, 0, 0, 0)),
];
