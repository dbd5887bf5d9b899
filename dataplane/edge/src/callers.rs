//! What one client address may have and do: connections at once, new connections in a second, and connections that had to be ended
//! as floods. An address is one of IPv4, or the /64 network of one of IPv6, which its owner has to himself (RFC 6177 §2).
//!
//! Many viewers may share an address (RFC 6888), so the first two are off unless the operator knows his viewers; the third is
//! on, since it costs only who floods, and his neighbours for a moment.
//!
//! Must stay true: an address that anybody could have forged is never charged (QUIC: before the handshake has ended);
//! servers of the fleet have no limits; the book is bounded, and when it is full the unknown are let in.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tidegate_contract::ClientLimits;

/// Parts that are locked apart.
const SHARDS: usize = 16;
/// Addresses that a part remembers.
const ADDRESSES_MAX: usize = 4096;
/// Seconds' worth of connections that may come at once.
const BURST_SECONDS: f64 = 2.0;

/// Who has called, for all cores.
#[derive(Default)]
pub struct Callers {
    shards: [Mutex<HashMap<IpAddr, Caller>>; SHARDS],
    hasher: RandomState,
}

/// Why an address is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// It has as many connections as it may have.
    Full,
    /// It opens them too fast.
    Hasty,
    /// Too many of them were floods.
    Flooding,
}

/// What is known of one address.
#[derive(Debug)]
struct Caller {
    connections: u32,
    opened: Bucket,
    floods: Bucket,
}

/// How much of an allowance that comes back with time is spent.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    spent: f64,
    at: Instant,
}

impl Bucket {
    fn spent(&self, per_second: f64, now: Instant) -> f64 {
        let back = now.saturating_duration_since(self.at).as_secs_f64() * per_second;
        (self.spent - back).max(0.0)
    }

    fn spend(&mut self, per_second: f64, now: Instant) {
        *self = Bucket { spent: self.spent(per_second, now) + 1.0, at: now };
    }
}

impl Caller {
    fn new(now: Instant) -> Caller {
        let bucket = Bucket { spent: 0.0, at: now };
        Caller { connections: 0, opened: bucket, floods: bucket }
    }

    fn judge(&self, limits: &ClientLimits, now: Instant) -> Result<(), TurnedAway> {
        let (floods, rate) = (f64::from(limits.floods_per_minute), f64::from(limits.per_second));
        if limits.floods_per_minute > 0 && self.floods.spent(floods / 60.0, now) > floods - 1.0 {
            return Err(TurnedAway::Flooding);
        }
        if limits.connections > 0 && self.connections >= limits.connections {
            return Err(TurnedAway::Full);
        }
        if limits.per_second > 0 && self.opened.spent(rate, now) > rate * BURST_SECONDS - 1.0 {
            return Err(TurnedAway::Hasty);
        }
        Ok(())
    }

    /// Whether nothing would change if it were forgotten.
    fn is_forgettable(&self, limits: &ClientLimits, now: Instant) -> bool {
        self.connections == 0
            && self.opened.spent(f64::from(limits.per_second), now) == 0.0
            && self.floods.spent(f64::from(limits.floods_per_minute) / 60.0, now) == 0.0
    }
}

impl Callers {
    fn shard(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, Caller>> {
        let index = self.hasher.hash_one(address) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection from there would be let in; nothing is charged.
    pub fn look(
        &self,
        address: SocketAddr,
        limits: &ClientLimits,
        now: Instant,
    ) -> Result<(), TurnedAway> {
        let address = owner_of(address.ip());
        self.shard(address).get(&address).map_or(Ok(()), |caller| caller.judge(limits, now))
    }

    /// Lets a connection in, if it may.
    pub fn admit(
        self: &Arc<Self>,
        address: SocketAddr,
        limits: &ClientLimits,
        now: Instant,
    ) -> Result<Call, TurnedAway> {
        let address = owner_of(address.ip());
        let mut shard = self.shard(address);
        if !shard.contains_key(&address) {
            if shard.len() >= ADDRESSES_MAX {
                shard.retain(|_, caller| !caller.is_forgettable(limits, now));
            }
            if shard.len() >= ADDRESSES_MAX {
                return Ok(Call(None));
            }
        }
        let caller = shard.entry(address).or_insert_with(|| Caller::new(now));
        caller.judge(limits, now)?;
        caller.connections += 1;
        caller.opened.spend(f64::from(limits.per_second), now);
        Ok(Call(Some((self.clone(), address))))
    }
}

/// Who is behind an address, as far as one can know.
fn owner_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// A connection that was let in; dropped, it is over.
pub struct Call(Option<(Arc<Callers>, IpAddr)>);

impl Call {
    /// One that no limit is for.
    pub fn unlimited() -> Call {
        Call(None)
    }

    /// It had to be ended as a flood.
    pub fn was_flood(&self, limits: &ClientLimits, now: Instant) {
        if let Some((callers, address)) = &self.0
            && let Some(caller) = callers.shard(*address).get_mut(address)
        {
            caller.floods.spend(f64::from(limits.floods_per_minute) / 60.0, now);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some((callers, address)) = &self.0
            && let Some(caller) = callers.shard(*address).get_mut(address)
        {
            caller.connections -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: ClientLimits =
        ClientLimits { connections: 3, per_second: 10, floods_per_minute: 2 };
    const NONE: ClientLimits = ClientLimits { connections: 0, per_second: 0, floods_per_minute: 0 };

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1234)
    }

    #[test]
    fn so_many_connections_at_once_and_no_more() {
        let (callers, now) = (Arc::new(Callers::default()), Instant::now());
        let mut open: Vec<_> =
            (0..3).map(|_| callers.admit(at("192.0.2.1"), &LIMITS, now).ok().unwrap()).collect();
        assert_eq!(callers.look(at("192.0.2.1"), &LIMITS, now), Err(TurnedAway::Full));
        assert_eq!(callers.admit(at("192.0.2.1"), &LIMITS, now).err(), Some(TurnedAway::Full));
        assert!(callers.admit(at("192.0.2.2"), &LIMITS, now).is_ok(), "another address");
        assert!(callers.admit(at("192.0.2.1"), &NONE, now).is_ok(), "no limit");
        open.pop();
        assert!(callers.admit(at("192.0.2.1"), &LIMITS, now).is_ok(), "one has gone");
    }

    #[test]
    fn so_many_in_a_second() {
        let (callers, start) = (Arc::new(Callers::default()), Instant::now());
        let come = |ms| {
            let now = start + Duration::from_millis(ms);
            callers.admit(at("192.0.2.1"), &LIMITS, now).err()
        };
        for _ in 0..20 {
            assert_eq!(come(0), None);
        }
        assert_eq!(come(0), Some(TurnedAway::Hasty));
        assert_eq!(come(99), Some(TurnedAway::Hasty), "one comes back each 100 ms");
        assert_eq!(come(101), None);
        assert_eq!(come(101), Some(TurnedAway::Hasty));
        for _ in 0..20 {
            assert_eq!(come(10_000), None, "it fills up, and no further");
        }
        assert_eq!(come(10_000), Some(TurnedAway::Hasty));
    }

    #[test]
    fn who_floods_waits() {
        let (callers, start) = (Arc::new(Callers::default()), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..2 {
            let call = callers.admit(at("192.0.2.1"), &LIMITS, start).ok().unwrap();
            call.was_flood(&LIMITS, start);
        }
        assert_eq!(callers.look(at("192.0.2.1"), &LIMITS, later(1)), Err(TurnedAway::Flooding));
        assert_eq!(callers.look(at("192.0.2.1"), &NONE, later(1)), Ok(()));
        assert_eq!(callers.look(at("192.0.2.2"), &LIMITS, later(1)), Ok(()));
        assert_eq!(callers.look(at("192.0.2.1"), &LIMITS, later(31)), Ok(()), "each 30 s one");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_so_is_ipv4_inside_it() {
        for (one, other, same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            let [one, other] = [one, other].map(|text| owner_of(text.parse().unwrap()));
            assert_eq!(one == other, same, "{one} {other}");
        }
    }

    #[test]
    fn the_book_is_bounded_and_forgets_who_is_gone_first() {
        let (callers, now) = (Arc::new(Callers::default()), Instant::now());
        let stays = callers.admit(at("192.0.2.1"), &LIMITS, now).ok().unwrap();
        stays.was_flood(&LIMITS, now);
        for n in 0..200_000u32 {
            let address = SocketAddr::new(IpAddr::V4((0x0a00_0000 + n).into()), 1);
            assert!(callers.admit(address, &LIMITS, now + Duration::from_millis(n.into())).is_ok());
        }
        let known: usize = callers.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(known <= SHARDS * ADDRESSES_MAX, "{known}");
        let address = owner_of(stays.0.as_ref().unwrap().1);
        assert_eq!(callers.shard(address)[&address].connections, 1);
    }
}
