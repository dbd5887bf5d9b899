//! Fields that mean something only between two neighbours (RFC 9110 §7.6.1), and fields that must not steer
//! the next hop because they are in no cache key.
//!
//! Must stay true: `Connection: <name>` can take away extension fields, but never a field on which storage,
//! identity or framing of the message rests: otherwise a peer could make a private response look public.

use crate::fields::Fields;
use crate::text::{is_token, list_members};

/// Takes out the standard hop-by-hop fields and those that `Connection` names.
pub fn remove(fields: &mut Fields) {
    let named: Vec<Vec<u8>> = fields
        .get_all("connection")
        .flat_map(list_members)
        .filter(|name| is_token(name))
        .map(|name| name.to_ascii_lowercase())
        .filter(|name| !PROTECTED.iter().any(|protected| protected.as_bytes() == name))
        .collect();
    fields.retain(|name, _| {
        !STANDARD.contains(&name) && !named.iter().any(|listed| listed == name.as_bytes())
    });
}

/// Takes out request fields that could change the next hop's answer although they are in no cache key.
pub fn remove_unkeyed(fields: &mut Fields) {
    fields.retain(|name, _| !UNKEYED.contains(&name));
}

/// Always for one hop. `Trailer` is here since trailers are dropped.
const STANDARD: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

const PROTECTED: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "cache-status",
    "cdn-cache-control",
    "cdn-loop",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "pragma",
    "range",
    "set-cookie",
    "vary",
    "via",
    "www-authenticate",
];

/// Known ways to poison a cache (reliability design 2.3, 20).
pub const UNKEYED: &[&str] = &[
    "forwarded",
    "front-end-https",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-path",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-url-scheme",
    "x-wap-profile",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_takes_extension_fields_but_not_the_ones_that_matter() {
        let mut fields = Fields::new();
        for (name, value) in [
            ("connection", "close, X-Hop, Cache-Control"),
            ("connection", "set-cookie"),
            ("x-hop", "1"),
            ("cache-control", "private"),
            ("set-cookie", "a=b"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-end", "2"),
        ] {
            fields.append(name, value).unwrap();
        }
        remove(&mut fields);
        let names: Vec<&str> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cache-control", "set-cookie", "x-end"]);
    }

    #[test]
    fn unkeyed_inputs_are_taken_out() {
        let mut fields = Fields::new();
        fields.append("X-Forwarded-Host", "evil").unwrap();
        fields.append("accept", "*/*").unwrap();
        remove_unkeyed(&mut fields);
        assert_eq!(fields.len(), 1);
    }
}
