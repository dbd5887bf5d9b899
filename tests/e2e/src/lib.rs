//! The test harness: fleets of real processes on loopback, an HTTP client that hides nothing, an origin that lies.
//!
//! Must stay true: every fleet has addresses of its own and ports chosen by the kernel; readiness is asked, never
//! slept for; every process is ended and its directory removed when the fleet is dropped, also by a failed test.
#![forbid(unsafe_code)]

pub mod alike;
pub mod client;
pub mod cost;
pub mod fleet;
pub mod h2;
pub mod h3;
pub mod hand_origin;
pub mod tls;

pub use client::{Connection, Response, get};
pub use fleet::{Fleet, FleetOptions, Member};
pub use hand_origin::{Asked, Gate, HandOrigin, range_of, reply};

/// Runs the side of a client that does several things at once.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a thread can wait"), work)
}

/// Bytes that depend on name and position, so that any byte anywhere can be checked.
pub fn content(name: &str, len: usize) -> Vec<u8> {
    let seed = tidegate_types::rendezvous::identity(name.as_bytes());
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
