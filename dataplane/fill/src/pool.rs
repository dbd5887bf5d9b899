//! Idle connections of one core to next hops, the most recently used first.
//!
//! Must stay true: a connection in the pool has no exchange under way and no bytes unread. The peer may close it at
//! any moment; one authority's connections are not used for another's requests (what one origin sends unasked must
//! not reach another's clients); the one who takes it must be ready to try again on a new one (`exchange.rs` does).

use crate::select::Hop;
use crate::stream::Stream;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tidegate_ring::now;
use tidegate_types::rendezvous::identity;

/// Idle connections kept per next hop and core.
const IDLE_MAX: usize = 64;
/// An idle connection older than this is closed instead of used (peers close theirs after 60 s).
const IDLE_SPAN_MAX: Duration = Duration::from_secs(30);

/// Next hop, and the authority asked for there, by the server name of its TLS.
type Place = (SocketAddr, u64);

fn place(hop: &Hop, address: SocketAddr, authority: &str) -> Place {
    let name = hop.tls.as_ref().map(|tls| format!("{:?} {authority}", tls.name));
    (address, identity(name.as_deref().unwrap_or(authority).as_bytes()))
}

/// Idle connections of one core.
#[derive(Default)]
pub struct Pool {
    /// In order, so that connections close in one.
    idle: RefCell<BTreeMap<Place, Vec<(Instant, Stream)>>>,
}

impl Pool {
    pub(crate) fn take(&self, hop: &Hop, address: SocketAddr, authority: &str) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&place(hop, address, authority))?;
        while let Some((since, stream)) = list.pop() {
            if now().saturating_duration_since(since) > IDLE_SPAN_MAX {
                list.clear(); // the others have been idle for longer
                return None;
            }
            // Closed meanwhile, or bytes came that answer nothing: they would be taken for the next answer.
            if stream.is_quiet() {
                return Some(stream);
            }
        }
        None
    }

    /// Closes what has been idle for too long, also to next hops that nobody asks any more.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|(since, _)| now().saturating_duration_since(*since) <= IDLE_SPAN_MAX);
            !list.is_empty()
        });
    }

    pub(crate) fn put(&self, hop: &Hop, address: SocketAddr, authority: &str, stream: Stream) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(place(hop, address, authority)).or_default();
        if list.len() < IDLE_MAX {
            list.push((now(), stream));
        }
    }
}
