//! The compiled snapshot: valid by construction, what every daemon runs on.
//!
//! Must stay true: a value of [`Snapshot`] that came out of `verify` has no dangling reference (every group,
//! server, behaviour and parent named in it exists in it), so that code that runs on it needs no such checks.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use tidegate_types::memory::{MemoryPlan, TooLittle, Wanted, plan};

/// One immutable version of all CDN configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Format of this value; daemons refuse one they do not know.
    pub schema: u32,
    /// Rises by at least one with each publication; a lower one than the running one is refused.
    pub generation: u64,
    /// Name of the CDN.
    pub cdn: String,
    /// DNS zone that the router is authoritative for, e.g. `cdn.example.net` (no trailing dot, lower case).
    pub zone: String,
    pub delivery_services: Vec<DeliveryService>,
    pub cache_groups: Vec<CacheGroup>,
    pub servers: Vec<Server>,
    /// Client prefixes to cache group, longest prefix wins.
    pub coverage_zones: Vec<CoverageZone>,
    pub steering: Steering,
    pub keys: Keys,
}

/// How clients are sent to edges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steering {
    /// Cache group for clients that neither coverage zones nor geography place.
    pub default_group: String,
    /// TTL of DNS answers in seconds.
    pub dns_ttl_seconds: u32,
    /// How many addresses a DNS answer holds at most.
    pub dns_answers_max: usize,
    /// What the `Location` of a 302 names.
    pub location: LocationStyle,
}

/// What the `Location` of a 302 names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocationStyle {
    /// `<server id>.<delivery service id>.<zone>`: needs DNS; the edge knows the delivery service by its name.
    Name,
    /// The edge's address: works without DNS; the edge uses the delivery service marked `address_default`.
    Address,
}

/// A tenant's hostname and policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliveryService {
    pub id: String,
    /// Inactive services are answered 404 by edges and not at all by routers.
    pub active: bool,
    /// Host names that clients use, lower case; `<server>.<id>.<zone>` and `<routing name>.<id>.<zone>` count too.
    pub hosts: Vec<String>,
    /// First label of the routed name, as in `<routing_name>.<id>.<zone>`.
    pub routing_name: String,
    /// Answers requests whose Host is an IP address (at most one service of a snapshot).
    pub address_default: bool,
    /// Ids of servers with role origin that hold the content, in order of preference.
    pub origins: Vec<String>,
    /// Host that parents send to the origin.
    pub origin_host: String,
    /// The oldest version of TLS that its viewers may speak.
    #[serde(default)]
    pub tls: TlsVersion,
    /// Viewers that come again may ask for what is cached with their first flight (0-RTT, RFC 8446 §2.3).
    #[serde(default)]
    pub early_data: bool,
    /// SHA-256, in hexadecimal, of the token by which a client is told more in `Cache-Status`; `None`: nobody is.
    #[serde(default)]
    pub debug_token_sha256: Option<String>,
    /// First matching behaviour wins; the last one matches everything.
    pub behaviours: Vec<Behaviour>,
}

impl DeliveryService {
    /// Whether whoever has this token may be told what is told to operators alone.
    pub fn is_debug_token(&self, token: &[u8]) -> bool {
        let known = self.debug_token_sha256.as_deref().and_then(crate::hex::decode::<32>);
        // Hashes are compared, not secrets: how long that takes tells nothing.
        known.is_some_and(|known| digest(&SHA256, token).as_ref() == known)
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum TlsVersion {
    /// For devices that cannot speak the newer one.
    #[serde(rename = "1.2")]
    Tls12,
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// A path rule inside a delivery service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    pub name: String,
    /// Glob over the path: `*` any run of characters, `?` one character; `/videos/*`, `*.m3u8`.
    pub path: String,
    /// `false`: pass every request to the next hop, store nothing.
    pub cache: bool,
    /// Freshness for responses that carry none of their own, in seconds; `None`: not stored then.
    pub default_ttl_seconds: Option<u32>,
    /// Freshness that overrides what the response says, in seconds (never for no-store or private).
    pub override_ttl_seconds: Option<u32>,
    /// RFC 5861 windows for responses that carry none of their own, in seconds.
    pub stale_while_revalidate_seconds: u32,
    pub stale_if_error_seconds: u32,
    /// Freshness of 404 and 410 answers, in seconds.
    pub negative_ttl_seconds: u32,
    /// A second parent is asked as well when the first one's answer is late: for live content, where a late answer is as
    /// bad as none.
    #[serde(default)]
    pub hedge: bool,
    /// Edges give text in a content coding that the client prefers.
    #[serde(default)]
    pub compress: bool,
    /// What clients say in `Cache-Control` and `Pragma` of a request is obeyed to the letter (RFC 9111 §5.2.1); else only
    /// `only-if-cached` is.
    #[serde(default)]
    pub obey_clients: bool,
    pub cache_key: CacheKeyRule,
    /// What of it is worth the wear of a drive; `None`: as the server's machine says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_admission: Option<Admission>,
    /// Request fields on which an answer's `Vary` is not heeded: the next hop is not sent them, so the answer does not
    /// depend on them. Lower case; a name that ends in `*` stands for all that begin so.
    #[serde(default = "vary_ignore_default")]
    pub vary_ignore: Vec<String>,
    /// `Access-Control-Allow-Origin` of answers; `None`: none is added.
    pub cors_allow_origin: Option<String>,
    /// How fast and how soon edges send, and what they use of what players tell.
    #[serde(default, skip_serializing_if = "Pacing::is_default")]
    pub pacing: Pacing,
    /// Requests are answered with a redirect instead of content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Applied in order to the response to the client.
    pub response_headers: Vec<HeaderRule>,
    /// Methods answered; others get 405.
    pub methods: Vec<String>,
}

impl Behaviour {
    /// One that stores what answers allow, and has no rules of its own.
    pub fn plain(name: &str, path: &str) -> Behaviour {
        Behaviour {
            name: name.to_owned(),
            path: path.to_owned(),
            cache: true,
            default_ttl_seconds: None,
            override_ttl_seconds: None,
            stale_while_revalidate_seconds: 0,
            stale_if_error_seconds: 0,
            negative_ttl_seconds: 5,
            hedge: false,
            compress: false,
            obey_clients: false,
            store_admission: None,
            cache_key: CacheKeyRule { drop: Vec::new(), keep: Vec::new(), sort: false },
            vary_ignore: vary_ignore_default(),
            pacing: Pacing::default(),
            cors_allow_origin: None,
            redirect: None,
            response_headers: Vec::new(),
            methods: ["GET", "HEAD", "OPTIONS"].map(str::to_owned).to_vec(),
        }
    }
}

/// Which query parameters become part of the cache key. A caching behaviour that says nothing drops `token`, `CMCD` and
/// `utm_*`, and sorts the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheKeyRule {
    /// Parameters to leave out (`token`, `CMCD`, `utm_*`): exact names, or a prefix followed by `*`.
    pub drop: Vec<String>,
    /// When not empty, only these are kept.
    pub keep: Vec<String>,
    /// Sort what is left by name.
    pub sort: bool,
}

/// How an edge's answers to viewers leave; what a behaviour does not say, its delivery service does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pacing {
    /// Kilobits per second that one connection is sent at most; `None`: as fast as it goes.
    pub rate_max_kbps: Option<u32>,
    /// Congestion control of the connections that ask here; `None`: TCP as the system has it, QUIC with CUBIC.
    pub congestion: Option<Congestion>,
    /// What players tell of themselves (CMCD) caps the pace and says what is urgent.
    pub cmcd: bool,
    /// A player that tells no throughput of its own is sent so many times its bitrate, when its buffer is full.
    pub bitrate_factor: f64,
    /// Bytes of each answer that leave before what the player told binds.
    pub burst_bytes: u64,
    /// The next object that a player names is brought in before it asks.
    pub prefetch: bool,
    /// Requests that are passed on carry what players told to the next hop.
    pub pass_cmcd: bool,
}

impl Default for Pacing {
    fn default() -> Self {
        Pacing {
            rate_max_kbps: None,
            congestion: None,
            cmcd: true,
            bitrate_factor: 1.5,
            burst_bytes: 256 << 10,
            prefetch: true,
            pass_cmcd: false,
        }
    }
}

impl Pacing {
    fn is_default(&self) -> bool {
        *self == Pacing::default()
    }
}

/// How a connection finds out what the path to its client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    Bbr,
    Cubic,
    Reno,
}

impl Congestion {
    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Congestion::Bbr => "bbr",
            Congestion::Cubic => "cubic",
            Congestion::Reno => "reno",
        }
    }
}

/// Where a behaviour sends its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The `Location`: text with `{host}` (as the client asked, without port), `{path}` and `{query}` (with its `?`, or
    /// nothing).
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Only requests over plain HTTP; those over TLS get content.
    pub only_http: bool,
}

impl Redirect {
    /// The `Location` for a request.
    pub fn location(&self, host: &str, path: &str, query: Option<&str>) -> String {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let mut out = String::with_capacity(self.to.len() + path.len() + 32);
        let mut rest = self.to.as_str();
        // What is put in is not looked at again.
        while let Some(open) = rest.find('{') {
            out.push_str(&rest[..open]);
            let Some(close) = rest[open..].find('}') else { break };
            match &rest[open + 1..open + close] {
                "host" => out.push_str(host),
                "path" => out.push_str(path),
                "query" => out.push_str(&query),
                _ => {} // a checked snapshot has none
            }
            rest = &rest[open + close + 1..];
        }
        out.push_str(rest);
        out
    }
}

/// What [`Behaviour::vary_ignore`] is when a behaviour says nothing: fields that every client sends otherwise, so that
/// heeding them would store each object once for each client.
pub fn vary_ignore_default() -> Vec<String> {
    let names = [
        "accept-encoding",
        "access-control-request-*",
        "cookie",
        "origin",
        "referer",
        "sec-*",
        "user-agent",
    ];
    names.map(str::to_owned).to_vec()
}

/// One change of a response header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum HeaderRule {
    Set { name: String, value: String },
    Add { name: String, value: String },
    Remove { name: String },
}

/// Caches treated as one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheGroup {
    pub id: String,
    pub latitude: f64,
    pub longitude: f64,
    /// Cache group of parents that edges of this group fill from; `None` for groups of parents.
    pub parent_group: Option<String>,
    /// Tried next by the router when no server of this group is up, in order; after them the nearest group.
    pub fallbacks: Vec<String>,
    /// The edges of this group ask each other before they ask parents: each object belongs to one of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub peering: bool,
}

/// One host and what it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub id: String,
    pub role: Role,
    /// Cache group; routers, monitors and origins have one only for display.
    pub cache_group: Option<String>,
    pub status: ServerStatus,
    /// Addresses that clients reach it by.
    pub addresses: Vec<IpAddr>,
    /// Plain HTTP port; `None`: not offered.
    pub http_port: Option<u16>,
    /// HTTPS port; `None`: not offered.
    pub https_port: Option<u16>,
    /// An edge speaks HTTP/3 too, on the UDP port of the same number.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub http3: bool,
    /// Admin port (health, metrics, explain); listens on the first address.
    pub admin_port: u16,
    /// UDP port for heartbeats (routers and monitors).
    pub heartbeat_port: Option<u16>,
    /// DNS port (routers), UDP and TCP.
    pub dns_port: Option<u16>,
    /// An origin that is asked over TLS, at its `https_port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_tls: Option<OriginTls>,
    /// An origin that is a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_s3: Option<OriginS3>,
    /// Name of an origin whose addresses are looked up by each parent; it has none of its own then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_name: Option<String>,
    /// Path that a well origin answers below 500 without much ado; asked for while it is out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_health: Option<String>,
    /// How much each parent may ask of an origin at once; `None`: without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_limit: Option<OriginLimit>,
    /// Share of keys relative to the others of its group.
    pub weight: f64,
    pub machine: Machine,
}

impl Server {
    /// UDP port by which viewers reach it over HTTP/3, if they do.
    pub fn http3_port(&self) -> Option<u16> {
        let serves = self.role == Role::Edge && self.http3 && !self.machine.certificates.is_empty();
        self.https_port.filter(|_| serves)
    }
}

fn yes() -> bool {
    true
}

fn is_yes(truth: &bool) -> bool {
    *truth
}

/// How an origin proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginTls {
    /// The name that its certificate must be made out to, sent as SNI.
    pub name: String,
    /// PEM file of the authorities that may have signed it; `None`: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// How much a parent asks of an origin at once, all its cores together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginLimit {
    /// Requests under way, to the end of their bodies.
    pub requests_max: u32,
    /// Requests that wait for one of them to end; more are turned away.
    pub queue_max: u32,
    /// How long one waits before it is turned away.
    pub queue_seconds: u32,
}

/// A bucket of an S3 store, asked with signed requests (AWS Signature Version 4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginS3 {
    pub region: String,
    /// Put into the path (path style); `None`: the delivery service's `origin_host` names the bucket (virtual-hosted
    /// style).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Put before every path, like `vod/2026`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// On each parent: access key, secret and session token. Read again when it changes.
    pub credentials_file: String,
}

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Edge,
    Parent,
    Origin,
    Router,
    Monitor,
}

/// Administrative status, in Traffic Control's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerStatus {
    /// Always taken as up.
    Online,
    /// Up while its heartbeats say so.
    Reported,
    /// Watched, but gets no clients.
    AdminDown,
    /// Not watched, gets no clients.
    Offline,
}

/// What a data plane process takes of its host. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Threads, one per core; 0: one per core of the host.
    pub cores: usize,
    /// All memory that the process may take; `None`: as much as the parts of it need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// RAM tier.
    pub ram_bytes: u64,
    /// What makes room in it.
    #[serde(default)]
    pub ram_policy: RamPolicy,
    /// Files and raw devices that the node's store lies on; none: RAM only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreDevice>,
    /// Folder for what the node must know of its devices after a restart.
    #[serde(default = "state_dir_default")]
    pub state_dir: String,
    /// Mean length of a stored extent (a head, or a block of up to 512 KiB): sizes the index.
    #[serde(default = "extent_bytes_default")]
    pub store_extent_bytes: u64,
    /// What is written to the store at all.
    #[serde(default)]
    pub store_admission: Admission,
    /// Drive writes per day: so often may the store's size be written in a day. `None`: without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_writes_per_day: Option<f64>,
    /// Bytes that the drive's maker allows in its life (its TBW); for the days of life that are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_rated_bytes: Option<u64>,
    /// The space of store segments that become free is given back to drive or file system.
    #[serde(default)]
    pub store_discard: bool,
    /// Directory that an origin serves.
    pub origin_root: Option<String>,
    /// What clients are shown, chosen by the name that they ask for (SNI, RFC 6066 §3): the first that is made out to it,
    /// exactly or by a wildcard for one label; else the first of all. Files are read at start and when they change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// File of at least 32 secret bytes that the servers of a PoP share, so that each resumes the TLS sessions of the others;
    /// `None`: a secret of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_secret_file: Option<String>,
    /// What one client address may have and do.
    #[serde(default)]
    pub client_limits: ClientLimits,
    /// How servers of the fleet know each other: certificates both ways. A parent that has it is asked by nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet_tls: Option<FleetTls>,
    /// The admin port is for operators who prove themselves by a certificate; else it is spoken to in plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_tls: Option<FleetTls>,
    /// Who seals what is sent to clients in TLS 1.3.
    #[serde(default)]
    pub ktls: Ktls,
}

/// What one client address may have and do (an address of IPv4, a /64 network of IPv6). 0: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientLimits {
    /// Connections at once.
    pub connections: u32,
    /// New connections in a second; twice as many may come at once.
    pub per_second: u32,
    /// Connections that had to be ended as floods, before no more are taken for a while.
    pub floods_per_minute: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        ClientLimits { connections: 0, per_second: 0, floods_per_minute: 10 }
    }
}

/// PEM files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The chain, leaf first.
    pub chain: String,
    pub key: String,
    /// OCSP response in DER (RFC 6960), shown with the certificate; kept fresh by whoever writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staple: Option<String>,
}

/// PEM files by which a server proves itself to the others, or to operators, and knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetTls {
    /// The chain, leaf first: made out to `<server id>.<zone>`, for servers and for clients.
    pub chain: String,
    pub key: String,
    /// Who signs the others' certificates.
    pub authorities: String,
    /// Lists of those who are shut out although their certificates have not ended (X509 CRL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

impl FleetTls {
    /// All of them.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        [&self.chain, &self.key, &self.authorities].into_iter().chain(&self.revoked)
    }
}

/// One device of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreDevice {
    /// A block device, or a file.
    pub path: String,
    /// Size of the file when it has to be made.
    pub bytes: u64,
}

/// Where a node keeps its state when nothing is said.
pub fn state_dir_default() -> String {
    "/var/lib/tidegate".to_owned()
}

fn extent_bytes_default() -> u64 {
    tidegate_types::memory::EXTENT_BYTES_DEFAULT
}

impl Machine {
    /// One with so many threads, this RAM tier, and nothing else.
    pub fn plain(cores: usize, ram_bytes: u64) -> Machine {
        Machine {
            cores,
            memory_bytes: None,
            ram_bytes,
            ram_policy: RamPolicy::default(),
            stores: Vec::new(),
            state_dir: state_dir_default(),
            store_extent_bytes: extent_bytes_default(),
            store_admission: Admission::default(),
            store_writes_per_day: None,
            store_rated_bytes: None,
            store_discard: false,
            origin_root: None,
            certificates: Vec::new(),
            ticket_secret_file: None,
            client_limits: ClientLimits::default(),
            fleet_tls: None,
            admin_tls: None,
            ktls: Ktls::default(),
        }
    }

    /// Bytes of all devices of the store, as they are written here.
    pub fn store_bytes(&self) -> u64 {
        self.stores.iter().fold(0, |sum, store| sum.saturating_add(store.bytes))
    }

    /// How its memory is divided, with `cores` threads and devices of `store_bytes` together.
    ///
    /// # Errors
    /// When `memory_bytes` is too little.
    pub fn memory(&self, cores: u64, store_bytes: u64) -> Result<MemoryPlan, TooLittle> {
        plan(&Wanted {
            memory_bytes: self.memory_bytes,
            ram_bytes: self.ram_bytes,
            store_bytes,
            devices: self.stores.len() as u64,
            extent_bytes: self.store_extent_bytes,
            cores,
        })
    }
}

/// Whether the kernel seals records of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ktls {
    /// It does not: the process seals.
    #[default]
    Off,
    /// It does where it can.
    Auto,
}

/// What makes room in the RAM tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RamPolicy {
    /// What was seen once goes soon, what was asked for again stays (S3-FIFO).
    #[default]
    S3Fifo,
    /// What was not used since a hand last came by goes (SIEVE).
    Sieve,
    /// What was used longest ago goes: to compare with.
    Lru,
}

/// What is worth the wear of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// Whatever is filled until the store was written over twice; then what is asked for again.
    #[default]
    Adaptive,
    /// Whatever is filled.
    Always,
    /// What is asked for again within some time; the first request is served from memory.
    SecondRequest,
    /// What is asked for four times while it is in memory.
    Hot,
    /// Nothing: memory alone. For a behaviour; a server without devices says so by having none.
    Never,
}

/// A client prefix and the cache group it belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoverageZone {
    pub prefix: ipnet::IpNet,
    pub cache_group: String,
}

/// Keys that daemons share.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Keys {
    /// HMAC-SHA256 key of heartbeats and verdicts, 32 bytes in hexadecimal.
    pub heartbeat_hex: String,
    /// HMAC-SHA256 key of orders to the nodes' admin ports, 32 bytes in hexadecimal; `None`: no orders are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_hex: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(not shown)")
    }
}
