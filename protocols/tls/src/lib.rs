//! TLS without I/O: a [`Session`] takes what a socket received and gives what it shall send.
//!
//! rustls does the handshake. A TLS 1.3 session then leaves it with its traffic keys and seals records of its own
//! straight from the caller's memory into the caller's send buffer: one pass over the bytes, no buffer in between, and
//! nothing held by a connection that is idle. TLS 1.2 stays with rustls. A kernel that seals can take the sending side over:
//! it is handed the key, and an [`Order`] for each record that is not data.
//!
//! ```text
//! session.rs  handshake, then the records of traffic.rs or rustls' own
//! traffic.rs  records after the handshake: data, alerts, key updates, tickets
//! hello.rs    what a client asks for, before a session is begun
//! aead.rs     one direction's key: seals and opens single records
//! ```
#![forbid(unsafe_code)]

mod aead;
mod error;
mod hello;
mod session;
#[cfg(test)]
mod tests;
mod traffic;

pub use aead::{Cipher, TxKey};
pub use error::TlsError;
pub use hello::{Hello, HelloReader};
pub use session::{Client, Server, Session, Side};
pub use traffic::{Order, RECORD_BYTES_MAX, sealed_len_max};
