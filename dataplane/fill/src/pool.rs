//! Idle connections of one core to next hops, the most recently used first.
//!
//! Must stay true: a connection in the pool has no exchange under way and no bytes unread. The peer may close it at
//! any moment; the one who takes it must be ready to try again on a new one (`exchange.rs` does).

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tidegate_ring::TcpStream;

/// Idle connections kept per next hop and core.
const IDLE_MAX: usize = 64;
/// An idle connection older than this is closed instead of used (peers close theirs after 60 s).
const IDLE_SPAN_MAX: Duration = Duration::from_secs(30);

/// Idle connections of one core.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<(Instant, TcpStream)>>>,
}

impl Pool {
    pub(crate) fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&address)?;
        while let Some((since, stream)) = list.pop() {
            if since.elapsed() > IDLE_SPAN_MAX {
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

    pub(crate) fn put(&self, address: SocketAddr, stream: TcpStream) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(address).or_default();
        if list.len() < IDLE_MAX {
            list.push((Instant::now(), stream));
        }
    }
}
