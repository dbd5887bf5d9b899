//! Who is up: heartbeats in, verdicts out.
//!
//! [`HealthTable`] is the judgement, without I/O; routers hold one of their own. [`serve`] is the monitor
//! role around it. [`follow`] and [`listen`] are what every control plane daemon needs to run on a snapshot
//! file and to listen safely.
//! Must stay true: the time of every judgement is a parameter; a monitor needs nothing but its snapshot to
//! start.
#![forbid(unsafe_code)]

pub mod follow;
pub mod health;
pub mod listen;
pub mod operators;
mod serve;

pub use health::{HealthTable, Refusal, STOOD_STILL, ServerView, Transition, Word};
pub use serve::{
    Monitor, MonitorOptions, Sockets, StartError, admin_tls, bind_admin, bind_tcp, bind_udp, keys,
    open, start, unix_ms,
};
