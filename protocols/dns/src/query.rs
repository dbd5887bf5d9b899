//! One query, taken apart.
//!
//! Must stay true: what cannot be answered in the client's own terms is a [`Reject`]; nothing is guessed.

use crate::{Name, Rcode, UDP_PAYLOAD_PLAIN, kind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A well-formed query with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    pub recursion_desired: bool,
    pub name: Name,
    pub kind: u16,
    pub class: u16,
    pub edns: Option<Edns>,
}

/// What the OPT record of a query says (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Bytes that the client says it can take over UDP.
    pub payload: u16,
    pub dnssec_ok: bool,
    pub client_subnet: Option<ClientSubnet>,
}

/// EDNS client subnet (RFC 7871).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientSubnet {
    /// The client's address, bits beyond `source` are zero; `None`: family 0, the client wishes no tailoring.
    pub address: Option<IpAddr>,
    /// Bits of the address that are told.
    pub source: u8,
}

/// A message that gets no answer of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reject {
    /// Say nothing: an answer (QR = 1), or too short to have an id.
    Silent,
    /// Answer with a code and, where it could be read, the question.
    Answer { rcode: Rcode, id: u16, flags: u16, question: Option<(Name, u16, u16)> },
}

/// Takes one message apart.
///
/// # Errors
/// [`Reject`]: not a query, or malformed, or of a kind that this server does not know.
pub fn parse(message: &[u8]) -> Result<Query, Reject> {
    let Some((header, body)) = message.split_first_chunk::<12>() else {
        return Err(Reject::Silent);
    };
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (id, flags) = (word(0), word(2));
    if flags & FLAG_ANSWER != 0 {
        return Err(Reject::Silent);
    }
    let reject = |rcode, question| Reject::Answer { rcode, id, flags, question };
    if (flags >> 11) & 15 != 0 {
        return Err(reject(Rcode::NotImp, None));
    }
    let (questions, answers, authorities, additionals) = (word(4), word(6), word(8), word(10));
    if questions != 1 || answers != 0 || authorities != 0 || additionals > ADDITIONALS_MAX {
        return Err(reject(Rcode::FormErr, None));
    }
    let malformed = |_| reject(Rcode::FormErr, None);
    let (name, rest) = Name::read(body).map_err(malformed)?;
    let Some((fixed, mut rest)) = rest.split_first_chunk::<4>() else {
        return Err(reject(Rcode::FormErr, None));
    };
    let (question_kind, class) =
        (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
    let with_question = |rcode| reject(rcode, Some((name.clone(), question_kind, class)));
    let mut edns = None;
    for _ in 0..additionals {
        let after_name = Name::skip(rest).map_err(|_| with_question(Rcode::FormErr))?;
        let owner_is_root = rest.len() - after_name.len() == 1;
        let Some((record, after)) = after_name.split_first_chunk::<10>() else {
            return Err(with_question(Rcode::FormErr));
        };
        let length = usize::from(u16::from_be_bytes([record[8], record[9]]));
        let Some((data, after)) = after.split_at_checked(length) else {
            return Err(with_question(Rcode::FormErr));
        };
        rest = after;
        if u16::from_be_bytes([record[0], record[1]]) != kind::OPT {
            continue;
        }
        //= RFC 6891 6.1.1: more than one OPT record, or another owner than the root, MUST be FORMERR.
        if edns.is_some() || !owner_is_root {
            return Err(with_question(Rcode::FormErr));
        }
        if record[5] != 0 {
            return Err(with_question(Rcode::BadVers));
        }
        edns = Some(Edns {
            payload: u16::from_be_bytes([record[2], record[3]]).max(UDP_PAYLOAD_PLAIN),
            dnssec_ok: record[6] & 0x80 != 0,
            client_subnet: client_subnet(data).map_err(|()| with_question(Rcode::FormErr))?,
        });
    }
    if !rest.is_empty() {
        return Err(with_question(Rcode::FormErr));
    }
    Ok(Query {
        id,
        recursion_desired: flags & FLAG_RECURSION != 0,
        name,
        kind: question_kind,
        class,
        edns,
    })
}

/// Finds the client subnet among the options; unknown options are passed over (RFC 6891 6.1.2).
fn client_subnet(mut options: &[u8]) -> Result<Option<ClientSubnet>, ()> {
    let mut found = None;
    while !options.is_empty() {
        let (head, rest) = options.split_first_chunk::<4>().ok_or(())?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (data, rest) = rest.split_at_checked(length).ok_or(())?;
        options = rest;
        if u16::from_be_bytes([head[0], head[1]]) == OPTION_CLIENT_SUBNET
            && found.replace(read_client_subnet(data)?).is_some()
        {
            return Err(());
        }
    }
    Ok(found)
}

//= RFC 7871 7.1.2: SCOPE PREFIX-LENGTH of a query MUST be 0; ADDRESS is cut to the bytes that SOURCE needs,
//= and bits beyond SOURCE are zero; otherwise FORMERR.
fn read_client_subnet(data: &[u8]) -> Result<ClientSubnet, ()> {
    let (head, bytes) = data.split_first_chunk::<4>().ok_or(())?;
    let (family, source, scope) = (u16::from_be_bytes([head[0], head[1]]), head[2], head[3]);
    let bits_max = match family {
        0 => 0,
        1 => 32,
        2 => 128,
        _ => return Err(()),
    };
    if scope != 0 || source > bits_max || bytes.len() != usize::from(source).div_ceil(8) {
        return Err(());
    }
    if let (Some(last), bits @ 1..) = (bytes.last(), source % 8)
        && last << bits != 0
    {
        return Err(());
    }
    let mut whole = [0u8; 16];
    whole[..bytes.len()].copy_from_slice(bytes);
    let address = match family {
        0 => None,
        1 => Some(IpAddr::V4(Ipv4Addr::new(whole[0], whole[1], whole[2], whole[3]))),
        _ => Some(IpAddr::V6(Ipv6Addr::from(whole))),
    };
    Ok(ClientSubnet { address, source })
}

pub(crate) const FLAG_ANSWER: u16 = 1 << 15;
pub(crate) const FLAG_AUTHORITATIVE: u16 = 1 << 10;
pub(crate) const FLAG_TRUNCATED: u16 = 1 << 9;
pub(crate) const FLAG_RECURSION: u16 = 1 << 8;
pub(crate) const OPTION_CLIENT_SUBNET: u16 = 8;
/// Records beside the question: OPT, and a signature or two that we pass over.
const ADDITIONALS_MAX: u16 = 4;
