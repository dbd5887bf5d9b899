//! The part of the memory budget that moves: connections, bodies of requests, blocks in the making, heads that wait to be
//! written, and blocks that are held beyond the arena (by slow clients, mostly). What is fixed at start is planned in `tidegate_types::memory`.
//!
//! Sheds in this order as the flexible part fills, and takes up again in the other one:
//! ```text
//! 50 %   nothing is brought in before it is asked for
//! 70 %   nothing is admitted to the store: what would wait for the device is let go
//! 85 %   no connection is accepted: clients wait in the backlog, routers see it by the load
//! 95 %   requests are answered 503 with Retry-After, also those whose bodies are on their way; not those of operators, who have a port of their own
//! ```
//! Must stay true: what is counted here is counted where it is taken and given back, never estimated from a sample; reading it takes no lock.

use crate::fill::Windows;
use crate::node::Core;
use crate::stores::Stores;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_ring::Arena;
use tidegate_types::memory::MemoryPlan;

/// Resident bytes of one client connection, with the task that serves it (measured: `tests/e2e/tests/memory.rs`).
pub const CLIENT_BYTES: u64 = 16 << 10;
/// What TLS adds to it.
pub const CLIENT_TLS_BYTES: u64 = 8 << 10;
/// What HTTP/2 adds to that: the table of fields that a client may have us keep (`tests/e2e/tests/h2/main.rs` measures).
pub const CLIENT_H2_BYTES: u64 = 8 << 10;
/// And each request under way on it, with the task that serves it (measured there, too).
pub const STREAM_BYTES: u64 = 12 << 10;
/// What QUIC adds to it instead, with room for requests that come in.
pub const CLIENT_QUIC_BYTES: u64 = 48 << 10;

/// How full the flexible part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Calm,
    /// Nothing is admitted to the store.
    Short,
    /// Besides, no connection is accepted.
    Scarce,
    /// Besides, requests are refused.
    Full,
}

/// The budget of one process, shared by all cores.
pub struct Memory {
    pub plan: MemoryPlan,
    arena: Arc<Arena>,
    windows: Arc<Windows>,
    stores: Arc<Stores>,
    clients: AtomicU64,
}

impl Memory {
    pub fn new(
        plan: MemoryPlan,
        arena: Arc<Arena>,
        windows: Arc<Windows>,
        stores: Arc<Stores>,
    ) -> Memory {
        Memory { plan, arena, windows, stores, clients: AtomicU64::new(0) }
    }

    /// Of all fills.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// A client has come, or something that is held for it ([`Held`]); it costs `bytes` until it goes.
    pub fn client_came(&self, bytes: u64) {
        self.clients.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It has gone.
    pub fn client_went(&self, bytes: u64) {
        self.clients.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of the flexible part that are taken.
    pub fn flexible_used(&self) -> u64 {
        let stores = self.stores.devices().iter();
        let heads: u64 = stores.map(|store| store.queue.head_bytes()).sum();
        let clients = self.clients.load(Ordering::Relaxed);
        let sealed = tidegate_fill::sealed_bytes();
        clients + self.windows.making() + heads + sealed + self.arena.heap_bytes()
    }

    /// Whether there is room for what nobody has asked for yet.
    pub fn may_prefetch(&self) -> bool {
        may_prefetch_at(self.flexible_used(), self.plan.flexible)
    }

    /// What is shed now.
    pub fn pressure(&self) -> Pressure {
        pressure_of(self.flexible_used(), self.plan.flexible)
    }
}

/// Why a request is refused under [`Pressure::Full`].
pub const USED_UP: (u16, &str) =
    (503, "this node's memory is used up; try again shortly, or another node");

/// Bytes that are held for a client, counted for as long as this lives.
pub struct Held(Rc<Core>, u64);

impl Held {
    /// So many, for now.
    pub fn new(core: &Rc<Core>, bytes: u64) -> Held {
        core.node.memory.client_came(bytes);
        Held(core.clone(), bytes)
    }

    /// So many more of a request's body.
    ///
    /// # Errors
    /// With which status the request is refused, and why: there is no memory for them.
    pub fn more(&mut self, bytes: usize) -> Result<(), (u16, &'static str)> {
        if self.0.node.memory.pressure() == Pressure::Full {
            self.0.count(|c| &c.requests_shed_total, 1);
            return Err(USED_UP);
        }
        self.set(self.1 + bytes as u64);
        Ok(())
    }

    /// It is so many now.
    pub fn set(&mut self, bytes: u64) {
        if bytes != self.1 {
            let memory = &self.0.node.memory;
            memory.client_came(bytes);
            memory.client_went(self.1);
            self.1 = bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.node.memory.client_went(self.1);
    }
}

fn may_prefetch_at(used: u64, flexible: u64) -> bool {
    used.saturating_mul(100) / flexible.max(1) < 50
}

fn pressure_of(used: u64, flexible: u64) -> Pressure {
    match used.saturating_mul(100) / flexible.max(1) {
        0..70 => Pressure::Calm,
        70..85 => Pressure::Short,
        85..95 => Pressure::Scarce,
        _ => Pressure::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shed_comes_in_its_order() {
        assert!(may_prefetch_at(49, 100) && !may_prefetch_at(50, 100));
        assert_eq!(pressure_of(50, 100), Pressure::Calm, "prefetch is the first to go");
        let levels: Vec<_> = (0..=110).map(|used| pressure_of(used, 100)).collect();
        assert!(levels.is_sorted());
        assert_eq!(
            [0, 69, 70, 84, 85, 94, 95, 110].map(|at| levels[at]),
            [
                Pressure::Calm,
                Pressure::Calm,
                Pressure::Short,
                Pressure::Short,
                Pressure::Scarce,
                Pressure::Scarce,
                Pressure::Full,
                Pressure::Full
            ]
        );
    }
}
