//! Idle connections to next hops, the most recently used first: of each core, and beyond a few of the process, so that
//! many cores do not hold as many times the connections that are needed.
//!
//! Must stay true: a connection in the pool has no exchange under way and no bytes unread. The peer may close it at
//! any moment; one authority's connections are not used for another's requests (what one origin sends unasked must
//! not reach another's clients), nor one whose peer was let in by authorities and lists of revoked ones that are not
//! in use any more; the one who takes it must be ready to try again on a new one (`exchange.rs` does).

use crate::select::Hop;
use crate::stream::{Parked, Stream};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_ring::now;
use tidegate_types::rendezvous::identity;

/// Idle connections that a core keeps for itself, of each next hop.
const OWN_IDLE_MAX: usize = 4;
/// Idle connections of a process beyond these, of each next hop.
const SHARED_IDLE_MAX: usize = 256;
/// An idle connection older than this is closed instead of used (peers close theirs after 60 s).
const IDLE_SPAN_MAX: Duration = Duration::from_secs(30);

/// Next hop, and the authority asked for there, by the server name of its TLS and by what its certificate was judged.
type Place = (SocketAddr, u64);

fn place(hop: &Hop, address: SocketAddr, authority: &str) -> Place {
    let name =
        hop.tls.as_ref().map(|tls| format!("{:?} {:x} {authority}", tls.name, tls.judged_by));
    (address, identity(name.as_deref().unwrap_or(authority).as_bytes()))
}

/// Idle connections of one core, beside those that all cores share.
#[derive(Default)]
pub struct Pool {
    /// In order, so that connections close in one.
    idle: RefCell<BTreeMap<Place, Vec<(Instant, Stream)>>>,
    shared: Arc<SharedIdle>,
}

/// Idle connections of a process that their cores did not need: whoever has none takes one of these before it opens another.
#[derive(Default)]
pub struct SharedIdle(Mutex<BTreeMap<Place, Vec<(Instant, Parked)>>>);

impl SharedIdle {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Place, Vec<(Instant, Parked)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_old(since: Instant) -> bool {
    now().saturating_duration_since(since) > IDLE_SPAN_MAX
}

impl Pool {
    /// One core's of a process.
    pub fn new(shared: Arc<SharedIdle>) -> Pool {
        Pool { idle: RefCell::default(), shared }
    }

    pub(crate) fn take(&self, hop: &Hop, address: SocketAddr, authority: &str) -> Option<Stream> {
        let place = place(hop, address, authority);
        // Closed meanwhile, or bytes came that answer nothing: they would be taken for the next answer.
        let own = || {
            let mut idle = self.idle.borrow_mut();
            let list = idle.get_mut(&place)?;
            while let Some((since, stream)) = list.pop() {
                if is_old(since) {
                    list.clear(); // the others have been idle for longer
                    return None;
                }
                if stream.is_quiet() {
                    return Some(stream);
                }
            }
            None
        };
        let shared = || loop {
            let (since, parked) = self.shared.all().get_mut(&place)?.pop()?;
            let stream = Stream::unpark(parked);
            if !is_old(since) && stream.is_quiet() {
                return Some(stream);
            }
        };
        own().or_else(shared)
    }

    /// Closes what has been idle for too long, also to next hops that nobody asks any more.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|(since, _)| !is_old(*since));
            !list.is_empty()
        });
        self.shared.all().retain(|_, list| {
            list.retain(|(since, _)| !is_old(*since));
            !list.is_empty()
        });
    }

    pub(crate) fn put(&self, hop: &Hop, address: SocketAddr, authority: &str, stream: Stream) {
        let place = place(hop, address, authority);
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(place).or_default();
        if list.len() < OWN_IDLE_MAX {
            return list.push((now(), stream));
        }
        match stream.park() {
            Ok(parked) => {
                let mut shared = self.shared.all();
                let list = shared.entry(place).or_default();
                if list.len() < SHARED_IDLE_MAX {
                    list.push((now(), parked));
                }
            }
            Err(stream) if list.len() < SHARED_IDLE_MAX => list.push((now(), stream)),
            Err(_) => {}
        }
    }
}
