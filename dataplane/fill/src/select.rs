//! Whom to ask, and in which order: pure functions of snapshot, role, key and what is known of the next hops.
//!
//! Edges ask the parents of their group's parent group, in the order of weighted rendezvous hashing over the cache
//! key, so that one object lives on one parent and a lost parent moves only its own objects. Parents ask the
//! delivery service's origins in the order written. Hops that are out come last, and are asked only when nobody else
//! can be, one exchange at a time.
//!
//! Must stay true: opinions take out no more than [`OUT_SHARE_MAX`] of a group, and never the only one.

use crate::health::{Cause, Standing};
use crate::s3::HopS3;
use crate::state::{Entry, HopState, Hops};
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
    /// What all cores know of it.
    pub state: Arc<HopState>,
    /// What to ask it while it is out, to learn whether it is back.
    pub probe: Option<Probe>,
}

/// A request that any well hop answers without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub path: String,
    pub authority: String,
    /// Up to this status the hop is well.
    pub status_max: u16,
}

/// The path by which data plane nodes say that they serve, asked for under [`node_name`].
pub const HEALTH_PATH: &str = "/health";

/// The host name under which a node itself answers on its traffic port: no delivery service has such a name.
pub fn node_name(server: &str, zone: &str) -> String {
    format!("{server}.{zone}")
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
    hops: &Hops,
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
        let address = SocketAddr::new(*server.addresses.first()?, port);
        let probe = match server.role {
            Role::Origin => server.origin_health.as_ref().map(|path| Probe {
                path: path.clone(),
                authority: service.origin_host.clone(),
                status_max: 499,
            }),
            _ => Some(Probe {
                path: HEALTH_PATH.to_owned(),
                authority: node_name(&server.id, &snapshot.zone),
                status_max: 299,
            }),
        };
        Some(Hop {
            id: server.id.clone(),
            address,
            state: hops.state(&server.id, &address.to_string()),
            probe,
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

/// A next hop in its place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Into the hops.
    pub index: usize,
    pub place: Place,
}

/// Why a hop stands where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Up,
    /// Its time is over: the next exchange tries it.
    Due,
    /// Out by opinion, but too many of its group are.
    Spared,
    /// Asked only when all are out.
    Out,
}

impl Place {
    /// How an exchange gets there; `None`: not as long as there are others.
    pub fn entry(self) -> Option<Entry> {
        match self {
            Place::Up | Place::Due => Some(Entry::Usual),
            Place::Spared => Some(Entry::Spared),
            Place::Out => None,
        }
    }
}

/// Of a group's hops, this share may be out by opinion, but at least one where there are two or more. Hops that cannot be
/// reached count: when they are as many already, opinions take out nobody else.
pub const OUT_SHARE_MAX: f64 = 0.3;

/// `hops` in the order in which to ask them for `key`.
pub fn order(role: Role, hops: &[Hop], key: u64) -> Vec<Choice> {
    let ranked = match role {
        Role::Edge => rendezvous::rank(key, hops.iter().map(|hop| (hop.identity, hop.weight))),
        _ => (0..hops.len()).collect(),
    };
    let standings: Vec<Standing> = hops.iter().map(|hop| hop.state.standing()).collect();
    arrange(&ranked, &standings)
}

fn arrange(ranked: &[usize], standings: &[Standing]) -> Vec<Choice> {
    let spared = spared(standings);
    let mut choices: Vec<Choice> = ranked
        .iter()
        .map(|&index| {
            let place = match standings[index] {
                Standing::Up => Place::Up,
                Standing::Due(_) => Place::Due,
                Standing::Out { .. } if spared.contains(&index) => Place::Spared,
                Standing::Out { .. } => Place::Out,
            };
            Choice { index, place }
        })
        .collect();
    choices.sort_by_key(|choice| choice.place == Place::Out);
    choices
}

/// Hops that opinions may not take out: who went out first stays out.
fn spared(standings: &[Standing]) -> Vec<usize> {
    let mut unreachable = 0;
    let mut opinions: Vec<(u64, usize)> = Vec::new();
    for (index, standing) in standings.iter().enumerate() {
        match standing {
            Standing::Out { cause: Cause::Unreachable, .. } => unreachable += 1,
            Standing::Out { since_ms, .. } => opinions.push((*since_ms, index)),
            Standing::Up | Standing::Due(_) => {}
        }
    }
    let allowed = match standings.len() {
        0 | 1 => 0,
        n => ((n as f64 * OUT_SHARE_MAX) as usize).max(1),
    };
    opinions.sort_unstable();
    opinions.into_iter().skip(allowed.saturating_sub(unreachable)).map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Signal;
    use proptest::prelude::*;

    fn out(cause: Cause, since_ms: u64) -> Standing {
        Standing::Out { cause, since_ms, until_ms: since_ms + 2_000 }
    }

    fn standing() -> impl Strategy<Value = Standing> {
        prop_oneof![
            Just(Standing::Up),
            Just(Standing::Due(Cause::Unreachable)),
            (0..100u64).prop_map(|since| out(Cause::Unreachable, since)),
            (0..100u64).prop_map(|since| out(Cause::Opinion(Signal::Slow), since)),
        ]
    }

    #[test]
    fn the_only_one_and_the_last_one_are_not_taken_out_by_opinion() {
        let slow = out(Cause::Opinion(Signal::Slow), 5);
        let gone = out(Cause::Unreachable, 5);
        let places = |standings: &[Standing]| {
            let ranked: Vec<usize> = (0..standings.len()).collect();
            arrange(&ranked, standings).iter().map(|c| (c.index, c.place)).collect::<Vec<_>>()
        };
        assert_eq!(places(&[slow]), [(0, Place::Spared)]);
        assert_eq!(places(&[gone]), [(0, Place::Out)]);
        assert_eq!(places(&[slow, Standing::Up]), [(1, Place::Up), (0, Place::Out)]);
        assert_eq!(places(&[slow, slow]), [(1, Place::Spared), (0, Place::Out)]);
        assert_eq!(places(&[gone, slow]), [(1, Place::Spared), (0, Place::Out)]);
        assert_eq!(places(&[gone, gone]), [(0, Place::Out), (1, Place::Out)]);
    }

    proptest! {
        #[test]
        fn opinions_take_out_a_bounded_share(
            standings in proptest::collection::vec(standing(), 0..20), key in any::<u64>()
        ) {
            let ids: Vec<u64> = (0..standings.len() as u64).collect();
            let ranked = rendezvous::rank(key, ids.iter().map(|id| (*id, 1.0)));
            let choices = arrange(&ranked, &standings);
            prop_assert_eq!(choices.len(), standings.len());
            let is_opinion = |c: &&Choice| {
                c.place == Place::Out
                    && matches!(standings[c.index], Standing::Out { cause: Cause::Opinion(_), .. })
            };
            let by_opinion = choices.iter().filter(is_opinion).count();
            let max = if standings.len() < 2 { 0 } else { (standings.len() * 3 / 10).max(1) };
            prop_assert!(by_opinion <= max, "{} of {}", by_opinion, standings.len());
            // Those that may be asked come first, in the order of their rank.
            let rank = |c: &Choice| ranked.iter().position(|index| *index == c.index);
            for pair in choices.windows(2) {
                let (a, b) = (&pair[0], &pair[1]);
                prop_assert!(a.place != Place::Out || b.place == Place::Out);
                if (a.place == Place::Out) == (b.place == Place::Out) {
                    prop_assert!(rank(a) < rank(b));
                }
            }
        }
    }
}
