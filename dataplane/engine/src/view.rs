//! What this node derives from a snapshot once, so that a request only looks things up. Immutable; swapped whole.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use tidegate_contract::{AdminKey, DeliveryService, Server, Snapshot, TlsVersion};
use tidegate_fill::{HEALTH_PATH, Hop, HopAccess, Hops, candidates, node_name, owner, peers};
use tidegate_http::{Authority, RequestHead};
use tidegate_types::rendezvous;

/// A delivery service as this node serves it.
#[derive(Debug)]
pub struct ServiceView {
    pub service: DeliveryService,
    /// Whom to ask, unordered.
    pub hops: Vec<Hop>,
    /// The edges that are asked before them.
    pub peers: Vec<Hop>,
    /// `Host` for the next hop.
    pub next_authority: String,
}

impl ServiceView {
    /// Everybody that may be asked.
    pub fn all_hops(&self) -> impl Iterator<Item = &Hop> {
        self.hops.iter().chain(&self.peers)
    }
}

/// A snapshot from this node's point of view.
#[derive(Debug)]
pub struct View {
    pub generation: u64,
    pub me: Server,
    /// For rendezvous hashing.
    identity: u64,
    /// Who may give orders on the admin port; `None`: nobody.
    pub admin_key: Option<AdminKey>,
    /// The host name under which others ask whether this node serves.
    own_name: String,
    services: Vec<ServiceView>,
    by_host: HashMap<String, usize>,
    by_address: Option<usize>,
    /// Of all servers.
    fleet: HashSet<IpAddr>,
}

/// The snapshot does not name this node.
#[derive(Debug)]
pub struct NotInSnapshot(pub String);

impl std::fmt::Display for NotInSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the snapshot has no server `{}`\n    mend: give --node the id of a [[server]] of the configuration",
            self.0
        )
    }
}

impl std::error::Error for NotInSnapshot {}

impl View {
    /// The view of the server `id`; `access` gives what is needed to ask origins over TLS or signed, `hops` what is
    /// known of the next hops already.
    ///
    /// # Errors
    /// The snapshot does not name it.
    pub fn new(
        snapshot: &Snapshot,
        id: &str,
        access: &impl Fn(&Server) -> HopAccess,
        hops: &Hops,
    ) -> Result<View, NotInSnapshot> {
        let me = snapshot
            .servers
            .iter()
            .find(|s| s.id == id)
            .ok_or_else(|| NotInSnapshot(id.to_owned()))?;
        let mut services = Vec::new();
        let mut by_host = HashMap::new();
        let mut by_address = None;
        for service in snapshot.delivery_services.iter().filter(|s| s.active) {
            let index = services.len();
            let routed = format!("{}.{}.{}", service.routing_name, service.id, snapshot.zone);
            let own = format!("{}.{}.{}", me.id, service.id, snapshot.zone);
            for host in service.hosts.iter().chain([&routed, &own]) {
                by_host.insert(host.clone(), index);
            }
            if service.address_default {
                by_address = Some(index);
            }
            let next_authority = match me.role {
                tidegate_contract::Role::Parent => service.origin_host.clone(),
                _ => routed,
            };
            let peers = peers(snapshot, me, service, access, hops);
            let hops = candidates(snapshot, me, service, access, hops);
            services.push(ServiceView { service: service.clone(), hops, peers, next_authority });
        }
        // A checked snapshot has a good one or none.
        let admin_key =
            snapshot.keys.admin_hex.as_deref().and_then(|hex| AdminKey::from_hex(hex).ok());
        let (generation, me) = (snapshot.generation, me.clone());
        let own_name = node_name(&me.id, &snapshot.zone);
        let identity = rendezvous::identity(me.id.as_bytes());
        let fleet = snapshot.servers.iter().flat_map(|s| s.addresses.iter().copied()).collect();
        Ok(View {
            generation,
            me,
            identity,
            admin_key,
            own_name,
            services,
            by_host,
            by_address,
            fleet,
        })
    }

    /// Whether a request that no delivery service answers to asks this node itself how it is.
    pub fn is_asked_for_health(&self, request: &RequestHead) -> bool {
        let host = request.authority.as_ref().map(|authority| authority.host.as_str());
        request.path == HEALTH_PATH && host == Some(&self.own_name)
    }

    /// The delivery service that a client means by `authority`.
    pub fn service(&self, authority: &Authority) -> Option<&ServiceView> {
        let index = match self.by_host.get(&authority.host) {
            Some(index) => *index,
            None if authority.is_ip => self.by_address?,
            None => return None,
        };
        self.services.get(index)
    }

    /// Whether services differ in what they say of TLS.
    pub fn has_tls_rules(&self) -> bool {
        let differs = |s: &DeliveryService| s.tls != TlsVersion::default() || s.early_data;
        self.services.iter().any(|service| differs(&service.service))
    }

    /// Whether clients of the service that is meant by this name of a TLS handshake may send early data.
    pub fn takes_early_data(&self, name: Option<&str>) -> bool {
        let index = name.and_then(|name| self.by_host.get(name));
        let service = index.and_then(|index| self.services.get(*index));
        service.is_some_and(|service| service.service.early_data)
    }

    /// Whether the service that is meant by this name of a TLS handshake is for devices that cannot speak TLS 1.3. A client
    /// that names none has asked for an address.
    pub fn takes_tls12(&self, name: Option<&str>) -> bool {
        let index = match name {
            Some(name) => self.by_host.get(name).copied(),
            None => self.by_address,
        };
        let service = index.and_then(|index| self.services.get(index));
        service.is_some_and(|service| service.service.tls == TlsVersion::Tls12)
    }

    /// The peer that a key belongs to; `None`: this node asks parents for it.
    pub fn peer_for<'a>(&self, service: &'a ServiceView, key: u64) -> Option<&'a Hop> {
        owner((self.identity, self.me.weight), &service.peers, key)
    }

    /// The host name under which other servers know this node.
    pub fn own_name(&self) -> &str {
        &self.own_name
    }

    /// Whether a server of the fleet has this address.
    pub fn is_of_fleet(&self, address: IpAddr) -> bool {
        self.fleet.contains(&address.to_canonical())
    }

    /// All services.
    pub fn services(&self) -> &[ServiceView] {
        &self.services
    }
}
