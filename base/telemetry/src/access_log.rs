//! The access log: one line of JSON for each transaction.
//!
//! Must stay true: [`ACCESS_LOG_FIELDS`] is the only list of fields, lines and reference come from it; a
//! query is never written, since it may carry tokens: its hash is, so that equal ones can still be found;
//! each text is cut at a limit, so that a line has a bounded size.

use crate::json;
use std::net::SocketAddr;
use tidegate_types::rendezvous::identity;

/// What the access log wants to know of a transaction when it ends. Texts may hold any bytes.
#[derive(Debug, Clone, Default)]
pub struct TransactionEnd<'a> {
    /// When the request head was complete.
    pub unix_ms: u64,
    pub node: &'a str,
    /// `edge`, `parent` or `origin`.
    pub tier: &'a str,
    pub client: Option<SocketAddr>,
    /// `HTTP/1.1`, `HTTP/1.1+TLS`, ...
    pub protocol: &'a str,
    pub method: &'a str,
    pub host: &'a [u8],
    pub path: &'a [u8],
    /// Only its hash is written.
    pub query: Option<&'a [u8]>,
    /// 0: the connection ended before an answer.
    pub status: u16,
    /// Body bytes that the kernel took.
    pub bytes_sent: u64,
    /// From the complete request head to the last byte.
    pub duration_us: u64,
    /// From the complete request head to the first byte of the answer.
    pub first_byte_us: Option<u64>,
    pub delivery_service: Option<&'a str>,
    pub behaviour: Option<&'a str>,
    /// This tier's member of `Cache-Status`.
    pub cache_status: Option<&'a str>,
    /// Server id of the next hop that was asked.
    pub fill: Option<&'a str>,
    pub fill_us: Option<u64>,
    /// Kilobits per second that the answer was sent at, at most; `None`: as fast as it went.
    pub pace_kbps: Option<u64>,
    pub range: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    /// What went wrong, in our words.
    pub error: Option<&'a str>,
}

/// One field of a line.
pub struct LogField {
    pub name: &'static str,
    /// As it stands in a line, with what is in front of it and behind it.
    key: &'static [u8],
    pub help: &'static str,
    value: for<'a> fn(&'a TransactionEnd<'a>) -> Value<'a>,
}

enum Value<'a> {
    /// The field is left out of the line.
    Absent,
    Number(u64),
    Text(&'a [u8]),
    Hash(u64),
    Address(SocketAddr),
}

impl<'a> Value<'a> {
    fn text(text: Option<&'a str>) -> Value<'a> {
        text.map_or(Value::Absent, |text| Value::Text(text.as_bytes()))
    }

    fn bytes(bytes: Option<&'a [u8]>) -> Value<'a> {
        bytes.map_or(Value::Absent, Value::Text)
    }

    fn number(number: Option<u64>) -> Value<'a> {
        number.map_or(Value::Absent, Value::Number)
    }
}

macro_rules! field {
    ($name:literal, $help:literal, $value:expr $(,)?) => {
        LogField {
            name: $name,
            key: concat!(",\"", $name, "\":").as_bytes(),
            help: $help,
            value: $value,
        }
    };
}

/// All fields of a line, in order. A field without value is left out of the line.
pub const ACCESS_LOG_FIELDS: &[LogField] = &[
    field!("unix_ms", "when the request head was complete, unix milliseconds", |t| {
        Value::Number(t.unix_ms)
    }),
    field!("node", "server id of the writer", |t| Value::Text(t.node.as_bytes())),
    field!("tier", "edge, parent or origin", |t| Value::Text(t.tier.as_bytes())),
    field!("client", "address and port of the peer", |t| {
        t.client.map_or(Value::Absent, Value::Address)
    }),
    field!("protocol", "version of HTTP, and whether TLS was on", |t| {
        Value::Text(t.protocol.as_bytes())
    }),
    field!("method", "request method", |t| Value::Text(t.method.as_bytes())),
    field!("host", "host that was asked for", |t| Value::Text(t.host)),
    field!("path", "path without query", |t| Value::Text(path_only(t.path))),
    field!("query_hash", "hash of the query, hexadecimal; absent without query", |t| {
        t.query.map_or(Value::Absent, |query| Value::Hash(identity(query)))
    }),
    field!("status", "status sent; 0: none", |t| Value::Number(u64::from(t.status))),
    field!("bytes_sent", "body bytes sent", |t| Value::Number(t.bytes_sent)),
    field!("duration_us", "request head to last byte, microseconds", |t| {
        Value::Number(t.duration_us)
    }),
    field!("first_byte_us", "request head to first byte, microseconds", |t| {
        Value::number(t.first_byte_us)
    }),
    field!("delivery_service", "id of the delivery service", |t| Value::text(t.delivery_service)),
    field!("behaviour", "name of the behaviour", |t| Value::text(t.behaviour)),
    field!("cache_status", "this tier's Cache-Status", |t| Value::text(t.cache_status)),
    field!("fill", "server id of the next hop asked", |t| Value::text(t.fill)),
    field!("fill_us", "time until the next hop answered, microseconds", |t| {
        Value::number(t.fill_us)
    }),
    field!(
        "pace_kbps",
        "kilobits per second that it was sent at, at most; absent without limit",
        |t| Value::number(t.pace_kbps),
    ),
    field!("range", "Range of the request", |t| Value::bytes(t.range)),
    field!("user_agent", "User-Agent of the request", |t| Value::bytes(t.user_agent)),
    field!("error", "what went wrong", |t| Value::text(t.error)),
];

/// Whoever hands over a whole target by mistake must not put tokens into the log.
fn path_only(path: &[u8]) -> &[u8] {
    path.split(|b| *b == b'?').next().unwrap_or(path)
}

/// Bytes of a text that a line holds; the rest is cut off. Escaped, each byte may take six.
pub const TEXT_BYTES_MAX: usize = 1024;

impl TransactionEnd<'_> {
    /// Appends the line with its LF.
    pub fn render(&self, out: &mut Vec<u8>) {
        out.reserve(512);
        let start = out.len();
        for field in ACCESS_LOG_FIELDS {
            let value = (field.value)(self);
            if matches!(value, Value::Absent) {
                continue;
            }
            out.extend_from_slice(field.key);
            match value {
                Value::Absent => {}
                Value::Number(number) => json::push_number(number, out),
                Value::Text(text) => {
                    json::push_string(&text[..text.len().min(TEXT_BYTES_MAX)], out)
                }
                Value::Hash(hash) => {
                    out.push(b'"');
                    json::push_hex(hash, 16, out);
                    out.push(b'"');
                }
                Value::Address(address) => json::push_address(address, out),
            }
        }
        // Some fields are always there.
        if let Some(first) = out.get_mut(start) {
            *first = b'{';
        }
        out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    fn line(end: &TransactionEnd) -> Json {
        let mut out = Vec::new();
        end.render(&mut out);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        assert!(out.ends_with(b"}\n"));
        serde_json::from_slice(&out).unwrap()
    }

    fn full() -> TransactionEnd<'static> {
        TransactionEnd {
            unix_ms: 1,
            node: "edge-a1",
            tier: "edge",
            client: Some("[::1]:5".parse().unwrap()),
            protocol: "HTTP/1.1",
            method: "GET",
            host: b"h.example",
            path: b"/a",
            query: Some(b"token=secret"),
            status: 200,
            bytes_sent: 2,
            duration_us: 3,
            first_byte_us: Some(4),
            delivery_service: Some("film"),
            behaviour: Some("all"),
            cache_status: Some("edge-a1; hit"),
            fill: Some("parent-1"),
            fill_us: Some(5),
            pace_kbps: Some(6),
            range: Some(b"bytes=0-1"),
            user_agent: Some(b"curl/8"),
            error: Some("none"),
        }
    }

    #[test]
    fn a_line_has_exactly_the_fields_of_the_table() {
        let json = line(&full());
        let object = json.as_object().unwrap();
        assert_eq!(object.len(), ACCESS_LOG_FIELDS.len());
        for field in ACCESS_LOG_FIELDS {
            assert!(object.contains_key(field.name), "{}", field.name);
            assert!(!field.help.is_empty());
        }
        assert_eq!(json["client"], "[::1]:5");
        assert_eq!((&json["status"], &json["fill_us"]), (&Json::from(200), &Json::from(5)));
        let few = line(&TransactionEnd::default());
        assert!(few.get("error").is_none() && few.get("client").is_none() && few["path"] == "");
    }

    #[test]
    fn a_query_is_never_written() {
        let mut out = Vec::new();
        TransactionEnd { path: b"/a?token=secret", ..full() }.render(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("secret") && !text.contains("token"));
        let other = TransactionEnd { query: Some(b"token=other"), ..full() };
        assert_ne!(line(&full())["query_hash"], line(&other)["query_hash"]);
        assert_eq!(line(&full())["query_hash"].as_str().unwrap().len(), 16);
    }

    #[test]
    fn hostile_bytes_stay_inside_their_field() {
        let hostile: Vec<u8> = (0..=255u8)
            .filter(|b| *b != b'?')
            .chain(*b"\",\"status\":0}\n{\"x\":\"")
            .chain([0xc3])
            .collect();
        let json = line(&TransactionEnd {
            host: &hostile,
            path: &hostile,
            range: Some(&hostile),
            user_agent: Some(&hostile),
            ..full()
        });
        assert_eq!(json["status"], 200);
        for field in ["host", "path", "range", "user_agent"] {
            assert_eq!(json[field], String::from_utf8_lossy(&hostile).into_owned(), "{field}");
        }
    }

    #[test]
    fn a_line_has_a_bounded_size() {
        let long = vec![0u8; 100_000];
        let mut out = Vec::new();
        TransactionEnd { path: &long, user_agent: Some(&long), ..full() }.render(&mut out);
        assert!(out.len() < 2 * 6 * TEXT_BYTES_MAX + 1024);
    }
}
