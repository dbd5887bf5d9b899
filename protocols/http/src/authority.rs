//! Authority of a request: host and port (RFC 3986 §3.2, stricter).
//!
//! Must stay true: one host has one text: lower case, no trailing dot, IP addresses in their canonical form.
//! Userinfo, percent signs, half-written IPv4 addresses (`127.1`) and zone ids are refused, because two hops
//! may read them differently.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Lower case, no trailing dot; IPv6 addresses stand without brackets.
    pub host: String,
    pub port: Option<u16>,
    /// The host is an IPv4 or IPv6 address.
    pub is_ip: bool,
}

/// Why an authority was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityError {
    Empty,
    /// `user@host`: never sent by browsers in a request, a known way to confuse hops.
    Userinfo,
    Host,
    Port,
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthorityError::Empty => "the host is empty",
            AuthorityError::Userinfo => "userinfo is not allowed in a host",
            AuthorityError::Host => "the host is neither a name nor an IP address",
            AuthorityError::Port => "the port is not a number from 1 to 65535",
        })
    }
}

impl std::error::Error for AuthorityError {}

impl Authority {
    /// Parses `host`, `host:port`, `1.2.3.4`, `[::1]:80`.
    ///
    /// # Errors
    /// When the bytes are none of these.
    pub fn parse(bytes: &[u8]) -> Result<Authority, AuthorityError> {
        if bytes.is_empty() {
            return Err(AuthorityError::Empty);
        }
        if bytes.contains(&b'@') {
            return Err(AuthorityError::Userinfo);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| AuthorityError::Host)?;
        if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest.split_once(']').ok_or(AuthorityError::Host)?;
            let address: Ipv6Addr = inside.parse().map_err(|_| AuthorityError::Host)?;
            let port = match after.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if after.is_empty() => None,
                None => return Err(AuthorityError::Host),
            };
            return Ok(Authority { host: address.to_string(), port, is_ip: true });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return Err(AuthorityError::Empty);
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Authority { host: address.to_string(), port, is_ip: true });
        }
        if !is_name(host) {
            return Err(AuthorityError::Host);
        }
        Ok(Authority { host: host.to_ascii_lowercase(), port, is_ip: false })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

fn parse_port(text: &str) -> Result<Option<u16>, AuthorityError> {
    // RFC 3986 §3.2.3 allows `host:` with no digits.
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(AuthorityError::Port),
        Ok(port) => Ok(Some(port)),
    }
}

fn is_name(host: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = host.rsplit('.').next().unwrap_or(host).as_bytes();
    // A last label of digits, or in hexadecimal, is how resolvers read odd spellings of IPv4 addresses.
    let like_an_address = last.iter().all(u8::is_ascii_digit)
        || last.split_at_checked(2).is_some_and(|(prefix, digits)| {
            prefix.eq_ignore_ascii_case(b"0x") && digits.iter().all(u8::is_ascii_hexdigit)
        });
    host.len() <= 253 && host.split('.').all(label_ok) && !like_an_address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_text() {
        let cases: &[(&str, &str, Option<u16>, bool)] = &[
            ("Example.NET", "example.net", None, false),
            ("example.net.", "example.net", None, false),
            ("example.net.:8080", "example.net", Some(8080), false),
            ("example.net:", "example.net", None, false),
            ("a_b.example", "a_b.example", None, false),
            ("127.0.0.1:80", "127.0.0.1", Some(80), true),
            ("[::1]", "::1", None, true),
            ("[0:0:0:0:0:0:0:1]:443", "::1", Some(443), true),
            ("localhost", "localhost", None, false),
        ];
        for (input, host, port, is_ip) in cases {
            let got = Authority::parse(input.as_bytes()).unwrap();
            assert_eq!((&got.host[..], got.port, got.is_ip), (*host, *port, *is_ip), "{input}");
            assert_eq!(Authority::parse(got.to_string().as_bytes()).unwrap(), got);
        }
    }

    #[test]
    fn odd_hosts_are_refused() {
        let long = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            "user@host",
            "user:pw@host",
            "a b",
            "a/b",
            "a\\b",
            "a?b",
            "a#b",
            "a%41",
            "a:b",
            "a:0",
            "a:65536",
            "a:123456",
            "a:+1",
            "a:80:80",
            "::1",
            "[::1",
            "[::1]x",
            "[::1%eth0]",
            "[a]",
            "127.1",
            "1",
            "0x7f.0x1",
            "256.1.1.1",
            "1.2.3.4.5",
            "a\0",
            "a\t",
            "a,b",
            "\u{e9}.example",
            "a\u{e9}",
            "\u{20ac}",
            "0\u{20ac}",
            "a;b",
            "[]",
            &long,
        ] {
            assert!(Authority::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
