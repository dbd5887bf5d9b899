//! DNS messages of an authoritative server, sans-IO: one query in, one answer out (RFC 1035, 6891, 7871,
//! 8482, 9460).
//!
//! Must stay true: parsing is linear in the message, follows no compression pointer, and never panics; an
//! answer goes only to a query (QR = 0), so two servers cannot talk in a circle; an answer over UDP has at
//! most [`UDP_PAYLOAD_MAX`] bytes and one OPT record. Does not do: recursion, zone transfers, signing.
#![forbid(unsafe_code)]

mod name;
mod query;
mod response;

pub use name::{Name, NameError};
pub use query::{ClientSubnet, Edns, Query, Reject, parse};
pub use response::{Data, Https, Record, Response, Soa, Transport, write, write_reject};

/// Response codes that this server gives (RFC 1035 4.1.1, RFC 6891 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    /// Needs the extended bits of an OPT record.
    BadVers = 16,
}

/// Record types and classes by number.
pub mod kind {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const SOA: u16 = 6;
    pub const HINFO: u16 = 13;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const HTTPS: u16 = 65;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
    pub const CLASS_IN: u16 = 1;
}

/// Bytes of an answer over UDP, whatever the client says it can take: above this, paths fragment (DNS flag
/// day 2020), and fragments are lost or forged.
pub const UDP_PAYLOAD_MAX: u16 = 1232;
/// Bytes of an answer over UDP to a client without EDNS (RFC 1035 2.3.4).
pub const UDP_PAYLOAD_PLAIN: u16 = 512;
