//! Response-rate limiting: how many DNS answers over UDP one network gets.
//!
//! A forged source address turns an answer into a blow at its owner. Beyond its rate a network gets silence,
//! but for every second answer, which is sent empty with TC set (slip): a real resolver comes back over TCP.
//!
//! Must stay true: memory is fixed; two networks that share a slot share its rate (never more is sent than
//! that).

use std::net::IpAddr;
use std::time::Duration;

/// Tokens of networks: /24 of IPv4, /56 of IPv6.
#[derive(Debug)]
pub struct Limiter {
    slots: Vec<Slot>,
    per_second: u32,
    seed: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Tokens used up, in thousandths.
    used: u64,
    at_ms: u64,
    /// Answers over the rate, for the slip.
    over: u32,
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Answer,
    /// Empty, with TC set.
    Slip,
    Silence,
}

impl Limiter {
    /// `per_second` answers for each network, with a burst of one second; 0: no limit. `seed` keeps strangers
    /// from choosing whose slot they share.
    pub fn new(per_second: u32, seed: u64) -> Limiter {
        Limiter { slots: vec![Slot::default(); SLOTS], per_second, seed }
    }

    /// Asks for one answer to `peer`.
    pub fn ask(&mut self, now: Duration, peer: IpAddr) -> Permission {
        if self.per_second == 0 {
            return Permission::Answer;
        }
        let slot = self.slot(peer);
        let rate = u64::from(self.per_second);
        let slot = &mut self.slots[slot];
        let now_ms = now.as_millis() as u64;
        let refill = now_ms.saturating_sub(slot.at_ms).saturating_mul(rate);
        slot.used = slot.used.saturating_sub(refill);
        slot.at_ms = slot.at_ms.max(now_ms);
        if slot.used + 1000 <= rate * 1000 {
            slot.used += 1000;
            slot.over = 0;
            return Permission::Answer;
        }
        slot.over = slot.over.wrapping_add(1);
        if slot.over.is_multiple_of(SLIP) { Permission::Slip } else { Permission::Silence }
    }

    fn slot(&self, peer: IpAddr) -> usize {
        let network = match peer.to_canonical() {
            IpAddr::V4(v4) => u64::from(u32::from(v4) >> 8),
            IpAddr::V6(v6) => 1 << 63 | (u128::from(v6) >> 72) as u64,
        };
        let hash = tidegate_types::rendezvous::identity(&(network ^ self.seed).to_le_bytes());
        hash as usize % self.slots.len()
    }
}

/// 24 bytes each: 1.5 MiB for a listener.
const SLOTS: usize = 65_536;
/// Every second answer over the rate is a slip.
const SLIP: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_gets_its_rate_and_slips_and_others_are_not_hurt() {
        let mut limiter = Limiter::new(10, 7);
        let now = Duration::from_secs(1);
        let peer = |last: u8| IpAddr::from([192, 0, 2, last]);
        let said: Vec<Permission> = (0..14).map(|i| limiter.ask(now, peer(i))).collect();
        assert!(said[..10].iter().all(|p| *p == Permission::Answer));
        use Permission::{Silence, Slip};
        assert_eq!(said[10..], [Silence, Slip, Silence, Slip]);
        assert_eq!(limiter.ask(now, [198, 51, 100, 1].into()), Permission::Answer);
        let later = now + Duration::from_millis(100);
        assert_eq!(limiter.ask(later, peer(1)), Permission::Answer);
        assert_ne!(limiter.ask(later, peer(1)), Permission::Answer);
        assert_eq!(Limiter::new(0, 7).ask(now, peer(1)), Permission::Answer);
    }
}
