//! Writing answers.
//!
//! Must stay true: an answer that does not fit is sent empty with TC set, never cut inside a record; the only
//! compression is a pointer into the question's name, so writing is linear.

use crate::query::*;
use crate::{Name, Query, Rcode, Reject, UDP_PAYLOAD_MAX, UDP_PAYLOAD_PLAIN, kind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What to say to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub rcode: Rcode,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    /// Bits of the client subnet for which this answer may be reused (RFC 7871 7.2.1); told only when asked.
    pub scope: u8,
}

impl Response {
    /// An answer without records.
    pub fn empty(rcode: Rcode, authoritative: bool) -> Response {
        Response { rcode, authoritative, answers: Vec::new(), authorities: Vec::new(), scope: 0 }
    }
}

/// One resource record of class IN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub owner: Name,
    pub ttl: u32,
    pub data: Data,
}

/// The data of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ns(Name),
    Soa(Soa),
    Https(Https),
    /// The answer to ANY: "RFC8482" and nothing more (RFC 8482 4.2).
    Hinfo,
}

/// How HTTPS is spoken under the owner's name itself: one ServiceMode record of the first priority (RFC 9460 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// Protocols by their ALPN ids, the best first.
    pub alpn: &'static [&'static str],
    /// `None`: 443.
    pub port: Option<u16>,
    /// Addresses, so that a client need not wait for its other questions.
    pub ipv4_hint: Vec<Ipv4Addr>,
    pub ipv6_hint: Vec<Ipv6Addr>,
}

/// Start of authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    pub primary: Name,
    pub mailbox: Name,
    pub serial: u32,
    pub refresh: u32,
    pub retry: u32,
    pub expire: u32,
    /// TTL of negative answers (RFC 2308 4).
    pub minimum: u32,
}

impl From<IpAddr> for Data {
    fn from(address: IpAddr) -> Data {
        match address {
            IpAddr::V4(address) => Data::A(address),
            IpAddr::V6(address) => Data::Aaaa(address),
        }
    }
}

/// What carries the answer; decides how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    /// Without the two length bytes: those belong to the stream.
    Tcp,
}

/// Writes the answer to `query` into `out` (cleared first). `true`: it fitted; `false`: TC was set instead.
pub fn write(query: &Query, response: &Response, transport: Transport, out: &mut Vec<u8>) -> bool {
    let limit = match (transport, &query.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.payload.clamp(UDP_PAYLOAD_PLAIN, UDP_PAYLOAD_MAX),
        (Transport::Udp, None) => UDP_PAYLOAD_PLAIN,
    };
    write_all(query, response, out);
    if out.len() <= usize::from(limit) {
        return true;
    }
    let cut = Response { answers: Vec::new(), authorities: Vec::new(), ..response.clone() };
    write_all(query, &cut, out);
    out[2] |= (FLAG_TRUNCATED >> 8) as u8;
    false
}

/// Writes what a [`Reject`] asks for; `false`: nothing shall be sent.
pub fn write_reject(reject: &Reject, out: &mut Vec<u8>) -> bool {
    out.clear();
    let Reject::Answer { rcode, id, flags, question } = reject else { return false };
    let extended = *rcode as u16 > 15;
    // The opcode comes back as it came.
    let kept = flags & (0xf << 11 | FLAG_RECURSION);
    put(out, &[*id, FLAG_ANSWER | kept | (*rcode as u16 & 15)]);
    put(out, &[u16::from(question.is_some()), 0, 0, u16::from(extended)]);
    if let Some((name, kind, class)) = question {
        out.extend_from_slice(name.wire());
        put(out, &[*kind, *class]);
    }
    if extended {
        put_opt(out, *rcode, false, None, 0);
    }
    true
}

fn write_all(query: &Query, response: &Response, out: &mut Vec<u8>) {
    out.clear();
    let mut flags = FLAG_ANSWER | (response.rcode as u16 & 15);
    // CD is cleared (RFC 4035 3.1.6), RA is not ours to offer.
    for (set, flag) in
        [(response.authoritative, FLAG_AUTHORITATIVE), (query.recursion_desired, FLAG_RECURSION)]
    {
        flags |= if set { flag } else { 0 };
    }
    let (answers, authorities) = (response.answers.len() as u16, response.authorities.len() as u16);
    put(out, &[query.id, flags, 1, answers, authorities, u16::from(query.edns.is_some())]);
    out.extend_from_slice(query.name.wire());
    put(out, &[query.kind, query.class]);
    for record in response.answers.iter().chain(&response.authorities) {
        put_record(out, &query.name, record);
    }
    if let Some(edns) = &query.edns {
        put_opt(out, response.rcode, edns.dnssec_ok, edns.client_subnet, response.scope);
    }
}

fn put_record(out: &mut Vec<u8>, question: &Name, record: &Record) {
    put_name(out, question, &record.owner);
    let kind = match &record.data {
        Data::A(_) => kind::A,
        Data::Aaaa(_) => kind::AAAA,
        Data::Ns(_) => kind::NS,
        Data::Soa(_) => kind::SOA,
        Data::Https(_) => kind::HTTPS,
        Data::Hinfo => kind::HINFO,
    };
    put(out, &[kind, kind::CLASS_IN]);
    out.extend_from_slice(&record.ttl.to_be_bytes());
    let length_at = out.len();
    put(out, &[0]);
    match &record.data {
        Data::A(address) => out.extend_from_slice(&address.octets()),
        Data::Aaaa(address) => out.extend_from_slice(&address.octets()),
        Data::Ns(name) => put_name(out, question, name),
        Data::Soa(soa) => {
            put_name(out, question, &soa.primary);
            put_name(out, question, &soa.mailbox);
            for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        Data::Https(https) => put_https(out, https),
        Data::Hinfo => out.extend_from_slice(b"\x07RFC8482\x00"),
    }
    let length = (out.len() - length_at - 2) as u16;
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Priority 1, target `.` (the owner), and the parameters in the order of their numbers (RFC 9460 2.2).
fn put_https(out: &mut Vec<u8>, https: &Https) {
    const ALPN: u16 = 1;
    const PORT: u16 = 3;
    const IPV4_HINT: u16 = 4;
    const IPV6_HINT: u16 = 6;
    put(out, &[1]);
    out.push(0);
    let alpn = || https.alpn.iter().filter(|id| !id.is_empty() && id.len() <= 255);
    put(out, &[ALPN, alpn().map(|id| id.len() as u16 + 1).sum()]);
    for id in alpn() {
        out.push(id.len() as u8);
        out.extend_from_slice(id.as_bytes());
    }
    if let Some(port) = https.port {
        put(out, &[PORT, 2, port]);
    }
    // A hint without addresses would make the record malformed.
    if !https.ipv4_hint.is_empty() {
        put(out, &[IPV4_HINT, 4 * https.ipv4_hint.len() as u16]);
        https.ipv4_hint.iter().for_each(|address| out.extend_from_slice(&address.octets()));
    }
    if !https.ipv6_hint.is_empty() {
        put(out, &[IPV6_HINT, 16 * https.ipv6_hint.len() as u16]);
        https.ipv6_hint.iter().for_each(|address| out.extend_from_slice(&address.octets()));
    }
}

/// The name, its longest suffix that the question ends with replaced by a pointer into the question.
fn put_name(out: &mut Vec<u8>, question: &Name, name: &Name) {
    let wire = name.wire();
    let mut position = 0;
    while wire[position] != 0 {
        let tail = &wire[position..];
        if let Some(start) = question.suffix_offset(tail) {
            // The question's name begins at byte 12 and has at most 255 bytes: the pointer always fits.
            put(out, &[0xc000 | (12 + start as u16)]);
            return;
        }
        let next = position + 1 + usize::from(wire[position]);
        out.extend_from_slice(&wire[position..next]);
        position = next;
    }
    out.push(0);
}

fn put_opt(
    out: &mut Vec<u8>,
    rcode: Rcode,
    dnssec_ok: bool,
    subnet: Option<ClientSubnet>,
    scope: u8,
) {
    out.push(0);
    put(out, &[kind::OPT, UDP_PAYLOAD_MAX]);
    out.extend_from_slice(&[(rcode as u16 >> 4) as u8, 0]);
    put(out, &[if dnssec_ok { 0x8000 } else { 0 }]);
    let Some(subnet) = subnet else {
        put(out, &[0]);
        return;
    };
    //= RFC 7871 7.2.1: FAMILY, SOURCE PREFIX-LENGTH and ADDRESS come back as they came.
    let (family, bits_max, octets) = match subnet.address {
        None => (0u16, 0, [0; 16]),
        Some(IpAddr::V4(v4)) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.octets());
            (1, 32, octets)
        }
        Some(IpAddr::V6(v6)) => (2, 128, v6.octets()),
    };
    let length = usize::from(subnet.source).div_ceil(8).min(16);
    put(out, &[8 + length as u16, OPTION_CLIENT_SUBNET, 4 + length as u16, family]);
    out.extend_from_slice(&[subnet.source, scope.min(bits_max)]);
    out.extend_from_slice(&octets[..length]);
}

fn put(out: &mut Vec<u8>, words: &[u16]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
}
