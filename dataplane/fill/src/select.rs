//! Whom to ask, and in which order: pure functions of snapshot, role, key and what is known of the next hops.
//!
//! Edges ask the parents of their group's parent group, in the order of weighted rendezvous hashing over the cache
//! key, so that one object lives on one parent and a lost parent moves only its own objects. Parents ask the
//! delivery service's origins in the order written. A parent that has more under way than its share, and something on
//! top, is passed over as long as others have room: one object that everybody wants, or a parent that has become slow,
//! does not pile up requests there ("consistent hashing with bounded loads"). Hops that are out come last, and are asked only when nobody else
//! can be, one exchange at a time.
//!
//! Must stay true: opinions take out no more than [`OUT_SHARE_MAX`] of a group, and never the only one; a hop within
//! its bound keeps its keys.

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
    let hop = |server: &Server| hop(snapshot, service, server, access(server), hops);
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

/// The edges that share the objects of `service` with `me`: those of its cache group, when that is a peering ring. They are
/// asked over TLS only, for they give each other what no viewer gets.
pub fn peers(
    snapshot: &Snapshot,
    me: &Server,
    service: &DeliveryService,
    access: &impl Fn(&Server) -> HopAccess,
    hops: &Hops,
) -> Vec<Hop> {
    let is_ring =
        snapshot.cache_groups.iter().any(|g| g.peering && Some(&g.id) == me.cache_group.as_ref());
    let is_peer = |server: &&Server| {
        server.role == Role::Edge
            && server.id != me.id
            && server.cache_group == me.cache_group
            && usable(server)
    };
    snapshot
        .servers
        .iter()
        .filter(|_| is_ring && me.role == Role::Edge)
        .filter(is_peer)
        .filter_map(|server| hop(snapshot, service, server, access(server), hops))
        .filter(|hop| hop.tls.is_some())
        .collect()
}

/// The peer that `key` belongs to; `None`: it is `me` (identity and weight), who asks parents. All members of a ring have the
/// same order for a key, and each asks only one that stands before itself, so no question goes round.
pub fn owner(me: (u64, f64), peers: &[Hop], key: u64) -> Option<&Hop> {
    if peers.is_empty() {
        return None;
    }
    let members = std::iter::once(me).chain(peers.iter().map(|hop| (hop.identity, hop.weight)));
    for index in rendezvous::rank(key, members) {
        let peer = peers.get(index.checked_sub(1)?)?;
        if peer.state.standing() == Standing::Up {
            return Some(peer);
        }
    }
    None
}

fn usable(server: &Server) -> bool {
    matches!(server.status, ServerStatus::Online | ServerStatus::Reported)
}

/// A server as a next hop; `None`: it cannot be asked.
fn hop(
    snapshot: &Snapshot,
    service: &DeliveryService,
    server: &Server,
    HopAccess { tls, s3 }: HopAccess,
    hops: &Hops,
) -> Option<Hop> {
    let is_origin = server.role == Role::Origin;
    // An origin that wants TLS is never asked without, whatever ports it has; nor is a server of the fleet that knows us.
    let secure = if is_origin { server.origin_tls.is_some() } else { tls.is_some() };
    let port = if secure { server.https_port? } else { server.http_port? };
    if (secure && tls.is_none()) || (server.origin_s3.is_some() && s3.is_none()) {
        return None;
    }
    let probe = if is_origin {
        server.origin_health.as_ref().map(|path| Probe {
            path: path.clone(),
            authority: service.origin_host.clone(),
            status_max: 499,
        })
    } else {
        Some(Probe {
            path: HEALTH_PATH.to_owned(),
            authority: node_name(&server.id, &snapshot.zone),
            status_max: 299,
        })
    };
    let state = match &server.origin_name {
        Some(name) if is_origin => hops.named(&server.id, name, port),
        _ => {
            // The other addresses of a server of the fleet are for viewers.
            let count = if is_origin { server.addresses.len() } else { 1 };
            let addresses = server.addresses.iter().take(count);
            let addresses: Vec<_> = addresses.map(|ip| SocketAddr::new(*ip, port)).collect();
            if addresses.is_empty() {
                return None;
            }
            hops.reached_at(&server.id, &addresses)
        }
    };
    state.set_limit(server.origin_limit);
    Some(Hop {
        id: server.id.clone(),
        state,
        probe,
        tls: tls.filter(|_| secure),
        s3,
        identity: rendezvous::identity(server.id.as_bytes()),
        weight: server.weight,
    })
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
    /// It has more under way than its share: asked after those that have room.
    OverBound,
    /// Asked only when all are out.
    Out,
}

impl Place {
    /// How an exchange gets there; `None`: not as long as there are others.
    pub fn entry(self) -> Option<Entry> {
        match self {
            Place::Up | Place::Due | Place::OverBound => Some(Entry::Usual),
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
    let mut choices = arrange(&ranked, &standings);
    if role == Role::Edge {
        let loads = hops.iter().map(|hop| (hop.state.under_way(), hop.weight));
        pass_over(&mut choices, &loads.collect::<Vec<_>>());
    }
    choices
}

/// A hop may have this many times its share of what is under way.
pub const BOUND: f64 = 1.25;
/// As many may always be under way at a hop: below it nothing moves.
pub const BOUND_FLOOR: u32 = 32;

/// Moves hops that have more under way than they may behind those with room. `loads`: under way, and weight, of each.
fn pass_over(choices: &mut [Choice], loads: &[(u32, f64)]) {
    let shares = |choice: &&Choice| matches!(choice.place, Place::Up | Place::Spared);
    let (under_way, weights) = choices
        .iter()
        .filter(shares)
        .map(|choice| loads[choice.index])
        .fold((1.0, 0.0), |(sum, weights), (n, weight)| (sum + f64::from(n), weights + weight));
    for choice in choices.iter_mut().filter(|choice| choice.place == Place::Up) {
        let (n, weight) = loads[choice.index];
        let share = (BOUND * under_way * weight / weights).ceil();
        if f64::from(n) + 1.0 > share.max(f64::from(BOUND_FLOOR)) {
            choice.place = Place::OverBound;
        }
    }
    choices.sort_by_key(|choice| match choice.place {
        Place::Up | Place::Due | Place::Spared => 0,
        Place::OverBound => 1,
        Place::Out => 2,
    });
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
        fn what_is_under_way_stays_within_the_bound_and_keys_stay_where_there_is_room(
            weights in proptest::collection::vec(0.5..4.0f64, 1..12),
            steps in proptest::collection::vec((any::<u64>(), any::<bool>()), 0..2000),
            hot in any::<u64>()
        ) {
            // Half of the requests are for one key; now and then one ends.
            let standings = vec![Standing::Up; weights.len()];
            let mut loads: Vec<(u32, f64)> = weights.iter().map(|weight| (0, *weight)).collect();
            let total: f64 = weights.iter().sum();
            for (key, is_hot) in steps {
                if key % 8 == 0 {
                    let busy = (0..loads.len()).max_by_key(|index| loads[*index].0);
                    let busy = busy.expect("there is one");
                    loads[busy].0 = loads[busy].0.saturating_sub(1);
                    continue;
                }
                let key = if is_hot { hot } else { key };
                let ids = loads.iter().enumerate().map(|(index, load)| (index as u64, load.1));
                let ranked = rendezvous::rank(key, ids);
                let mut choices = arrange(&ranked, &standings);
                pass_over(&mut choices, &loads);
                let chosen = choices[0];
                prop_assert_eq!(chosen.place, Place::Up, "somebody always has room");
                let under_way: u32 = loads.iter().map(|load| load.0).sum::<u32>() + 1;
                let bound = |index: usize| {
                    (BOUND * f64::from(under_way) * loads[index].1 / total)
                        .ceil()
                        .max(f64::from(BOUND_FLOOR))
                };
                let has_room = |index: usize| f64::from(loads[index].0 + 1) <= bound(index);
                prop_assert!(has_room(chosen.index));
                let first = ranked.iter().copied().find(|index| has_room(*index));
                prop_assert_eq!(Some(chosen.index), first, "the first of its order that has room");
                loads[chosen.index].0 += 1;
            }
        }

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
