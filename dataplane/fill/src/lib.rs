//! Getting bytes from the next hop: which server to ask, its health, the connections to it, one exchange on one.
//!
//! Must stay true: whom an edge may ask is decided in one place, [`candidates`], and for an edge that gives parents
//! only: there is no code path from an edge to an origin. A response body is never passed on as whole when the
//! connection ended early: [`Body::next`] gives an error then.
//!
//! Not here: caching, collapse, resuming (engine).
#![forbid(unsafe_code)]

mod budget;
mod duplex;
mod error;
mod exchange;
mod first_byte;
mod gate;
mod health;
mod names;
mod pool;
mod s3;
mod select;
pub mod sigv4;
mod state;
mod stream;
mod tls;

pub use duplex::Duplex;
pub use error::{FillError, Phase};
pub use exchange::{Answer, Body, Request, Timeouts, ask};
pub use health::{Cause, Standing};
pub use names::Round;
pub use pool::{Pool, SharedIdle};
pub use s3::HopS3;
pub use select::{
    Choice, HEALTH_PATH, Hop, HopAccess, Place, Probe, candidates, node_name, order, owner, peers,
};
pub use state::{Entry, HopState, Hops, Ticket};
pub use stream::HopTls;
pub use tls::{TlsStream, sealed_bytes};
