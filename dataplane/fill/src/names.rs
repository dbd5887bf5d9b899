//! Addresses of next hops that are named, not written out: asked of the system now and then, off the cores.
//!
//! Must stay true: what is known stays until something better is known: a resolver that fails, or says that there is
//! nothing, takes away no address.

use crate::state::{HopState, Hops};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// How often a name is asked for.
pub const REFRESH_MS: u64 = 30_000;
/// How soon again when that failed.
pub const RETRY_MS: u64 = 2_000;

/// A name, and when to ask for it.
#[derive(Debug)]
pub(crate) struct Name {
    pub host: String,
    pub port: u16,
    pub due_ms: u64,
}

/// What a round of questions came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Names that were asked for.
    pub asked: usize,
    /// Those that have an address.
    pub answered: Vec<String>,
    /// Those for which there was no answer, and why.
    pub failed: Vec<(String, String)>,
    /// Those whose addresses are others now.
    pub changed: Vec<(String, Vec<SocketAddr>)>,
}

impl Hops {
    /// Asks `resolve` for the names that are due. Blocks as long as it does: not for a thread that serves.
    pub fn resolve_due(
        &self,
        resolve: &mut impl FnMut(&str, u16) -> io::Result<Vec<SocketAddr>>,
    ) -> Round {
        self.resolve_due_at(self.now_ms(), resolve)
    }

    fn resolve_due_at(
        &self,
        now_ms: u64,
        resolve: &mut impl FnMut(&str, u16) -> io::Result<Vec<SocketAddr>>,
    ) -> Round {
        let mut round = Round::default();
        for state in self.all() {
            let due = state
                .with_name(|name| (name.due_ms <= now_ms).then(|| (name.host.clone(), name.port)));
            let Some((host, port)) = due.flatten() else { continue };
            round.asked += 1;
            let span = match resolve(&host, port) {
                Ok(addresses) if !addresses.is_empty() => {
                    take_up(&state, &host, addresses, &mut round);
                    round.answered.push(host);
                    REFRESH_MS
                }
                Ok(_) => {
                    round.failed.push((host, "it has no address".to_owned()));
                    RETRY_MS
                }
                Err(error) => {
                    round.failed.push((host, error.to_string()));
                    RETRY_MS
                }
            };
            state.with_name(|name| name.due_ms = now_ms + span);
        }
        round
    }
}

fn take_up(state: &Arc<HopState>, host: &str, mut addresses: Vec<SocketAddr>, round: &mut Round) {
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    // Resolvers turn their answers around: only a change of the set is one.
    let before = state.addresses();
    let is_same =
        before.len() == addresses.len() && before.iter().all(|address| seen.contains(address));
    if !is_same {
        state.set_addresses(addresses.clone());
        round.changed.push((host.to_owned(), addresses));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 80))
    }

    #[test]
    fn the_last_good_answer_is_kept_and_names_are_asked_for_in_their_time() {
        let hops = Hops::default();
        let state = hops.named("origin-1", "origin.example.net", 80);
        assert!(state.addresses().is_empty());
        let mut failing = |_: &str, _: u16| Err(io::Error::other("no answer"));
        let round = hops.resolve_due_at(0, &mut failing);
        assert_eq!((round.asked, round.failed.len()), (1, 1));
        let mut two = |host: &str, port: u16| {
            assert_eq!((host, port), ("origin.example.net", 80));
            Ok(vec![address(1), address(2), address(1)])
        };
        assert_eq!(hops.resolve_due_at(RETRY_MS - 1, &mut two), Round::default(), "too early");
        let round = hops.resolve_due_at(RETRY_MS, &mut two);
        let both = vec![address(1), address(2)];
        assert_eq!(round.changed, [("origin.example.net".to_owned(), both.clone())]);
        assert_eq!(*state.addresses(), both);
        // Turned around: the same.
        let mut now = RETRY_MS + REFRESH_MS;
        assert_eq!(hops.resolve_due_at(now - 1, &mut failing).asked, 0);
        let turned = hops.resolve_due_at(now, &mut |_, _| Ok(vec![address(2), address(1)]));
        assert_eq!((turned.asked, turned.changed.len()), (1, 0));
        for mut useless in [
            Box::new(failing) as Box<dyn FnMut(&str, u16) -> io::Result<Vec<SocketAddr>>>,
            Box::new(|_, _| Ok(Vec::new())),
        ] {
            now += REFRESH_MS;
            let round = hops.resolve_due_at(now, &mut useless);
            assert_eq!((round.asked, round.failed.len()), (1, 1));
            assert_eq!(*state.addresses(), both, "what is known stays");
        }
        now += REFRESH_MS;
        hops.resolve_due_at(now, &mut |_, _| Ok(vec![address(3)]));
        assert_eq!(*state.addresses(), [address(3)]);
        drop(state);
        assert_eq!(hops.resolve_due_at(now + REFRESH_MS, &mut failing).asked, 0, "nobody wants it");
    }
}
