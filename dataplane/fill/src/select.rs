//! Whom to ask, and in which order: pure functions of snapshot, role, key and health.
//!
//! Edges ask the parents of their group's parent group, in the order of weighted rendezvous hashing over the cache
//! key, so that one object lives on one parent and a lost parent moves only its own objects. Parents ask the
//! delivery service's origins in the order written. Servers that are out come last: when all are out, asking is
//! still better than an error (they may just have come back).

use crate::health::HopHealth;
use crate::s3::HopS3;
use crate::stream::HopTls;
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_contract::{DeliveryService, Role, Server, ServerStatus, Snapshot};
use tidegate_types::rendezvous;

/// A server that may be asked.
#[derive(Debug, Clone)]
pub struct Hop {
    pub id: String,
    pub address: SocketAddr,
    /// Rendezvous identity and weight.
    pub identity: u64,
    pub weight: f64,
    /// Spoken to over TLS.
    pub tls: Option<Arc<HopTls>>,
    /// A bucket, whose requests are signed.
    pub s3: Option<Arc<HopS3>>,
}

/// What is needed to ask an origin that is not just asked.
#[derive(Debug, Clone, Default)]
pub struct HopAccess {
    pub tls: Option<Arc<HopTls>>,
    pub s3: Option<Arc<HopS3>>,
}

/// The servers that `me` may ask for content of `service`. For an edge: parents, never an origin. `access`
/// gives what an origin needs that is asked over TLS or signed.
pub fn candidates(
    snapshot: &Snapshot,
    me: &Server,
    service: &DeliveryService,
    access: &impl Fn(&Server) -> HopAccess,
) -> Vec<Hop> {
    let usable =
        |server: &Server| matches!(server.status, ServerStatus::Online | ServerStatus::Reported);
    let hop = |server: &Server| {
        // An origin that wants TLS is never asked without, whatever ports it has.
        let secure = server.role == Role::Origin && server.origin_tls.is_some();
        let HopAccess { tls, s3 } =
            if server.role == Role::Origin { access(server) } else { HopAccess::default() };
        let port = if secure { server.https_port? } else { server.http_port? };
        if (secure && tls.is_none()) || (server.origin_s3.is_some() && s3.is_none()) {
            return None;
        }
        Some(Hop {
            id: server.id.clone(),
            address: SocketAddr::new(*server.addresses.first()?, port),
            tls,
            s3,
            identity: rendezvous::identity(server.id.as_bytes()),
            weight: server.weight,
        })
    };
    match me.role {
        Role::Edge => {
            let parent_group = snapshot
                .cache_groups
                .iter()
                .find(|group| Some(&group.id) == me.cache_group.as_ref())
                .and_then(|group| group.parent_group.as_deref());
            snapshot
                .servers
                .iter()
                .filter(|s| s.role == Role::Parent && usable(s))
                .filter(|s| parent_group.is_some() && s.cache_group.as_deref() == parent_group)
                .filter_map(hop)
                .collect()
        }
        Role::Parent => service
            .origins
            .iter()
            .filter_map(|id| {
                snapshot.servers.iter().find(|s| s.role == Role::Origin && s.id == *id && usable(s))
            })
            .filter_map(hop)
            .collect(),
        Role::Origin | Role::Router | Role::Monitor => Vec::new(),
    }
}

/// Indexes of `hops` in the order in which to ask them for `key`.
pub fn order(role: Role, hops: &[Hop], key: u64, health: &HopHealth, now_ms: u64) -> Vec<usize> {
    let ranked = match role {
        Role::Edge => rendezvous::rank(key, hops.iter().map(|hop| (hop.identity, hop.weight))),
        _ => (0..hops.len()).collect(),
    };
    let (up, out): (Vec<usize>, Vec<usize>) =
        ranked.into_iter().partition(|index| health.is_up(&hops[*index].id, now_ms));
    up.into_iter().chain(out).collect()
}
