//! The `Cache-Status` member that one tier adds (RFC 9211 §2), as a value and as text.
//!
//! Must stay true: one member per tier, in the order the response passed them (the tier nearest the origin
//! comes first, RFC 9211 §2); parameter values are only tokens and integers made here, so nothing from
//! outside can reach the field.

use std::fmt;

/// Why a request went to the next hop (`fwd` parameter, RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// The cache was told not to handle this request.
    Bypass,
    /// The request method cannot be answered from a cache.
    Method,
    /// Nothing is stored for this key.
    UriMiss,
    /// Something is stored, but no alternate matches the request.
    VaryMiss,
    /// The stored response was stale.
    Stale,
    /// Only a part of what was asked is stored.
    Partial,
    /// A fresh response was stored, but the request did not allow using it.
    Request,
}

impl Forward {
    /// The token of the `fwd` parameter.
    pub fn token(self) -> &'static str {
        match self {
            Forward::Bypass => "bypass",
            Forward::Method => "method",
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Stale => "stale",
            Forward::Partial => "partial",
            Forward::Request => "request",
        }
    }
}

/// One tier's account of how it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStatus {
    /// Answered from this cache. Rendered only when the next hop was not asked before.
    pub hit: bool,
    /// Why the next hop was asked.
    pub fwd: Option<Forward>,
    /// Status code that the next hop gave.
    pub fwd_status: Option<u16>,
    /// The response was (or is being) stored.
    pub stored: bool,
    /// This request joined another one's fill.
    pub collapsed: bool,
    /// Remaining freshness lifetime in seconds; negative when stale.
    pub ttl_seconds: Option<i64>,
    /// A word for people (`detail`), from a fixed list.
    pub detail: Option<&'static str>,
}

impl CacheStatus {
    /// What anybody may know: `detail` can tell of others' requests and of what is behind this cache.
    pub fn without_detail(self) -> CacheStatus {
        CacheStatus { detail: None, ..self }
    }

    /// Renders this member for the cache called `name` (an sf-string is used when it is no sf-token).
    pub fn render<'a>(&'a self, name: &'a str) -> impl fmt::Display + 'a {
        Rendered { status: self, name }
    }
}

/// The `key` parameter (RFC 9211 §2.7), to be put behind a member.
pub fn key_parameter(key: &str) -> String {
    let mut out = String::from("; key=\"");
    for c in key.chars().filter(|c| (' '..='~').contains(c)) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

struct Rendered<'a> {
    status: &'a CacheStatus,
    name: &'a str,
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.name.bytes();
        let head_ok = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
        if head_ok && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)) {
            f.write_str(self.name)?;
        } else {
            f.write_str("\"")?;
            for c in
                self.name.chars().filter(|c| (' '..='~').contains(c) && *c != '"' && *c != '\\')
            {
                write!(f, "{c}")?;
            }
            f.write_str("\"")?;
        }
        let s = self.status;
        // RFC 9211 §2.1: a request that was forwarded is no hit, also when the answer came from here after all.
        if s.hit && s.fwd.is_none() {
            f.write_str("; hit")?;
        }
        if let Some(fwd) = s.fwd {
            write!(f, "; fwd={}", fwd.token())?;
        }
        if let Some(code) = s.fwd_status {
            write!(f, "; fwd-status={code}")?;
        }
        if s.stored {
            f.write_str("; stored")?;
        }
        if s.collapsed {
            f.write_str("; collapsed")?;
        }
        if let Some(ttl) = s.ttl_seconds {
            write!(f, "; ttl={ttl}")?;
        }
        if let Some(detail) = s.detail {
            write!(f, "; detail={detail}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hit_and_miss_render_as_rfc_9211_examples() {
        let hit = CacheStatus { hit: true, ttl_seconds: Some(376), ..Default::default() };
        assert_eq!(hit.render("edge-a1").to_string(), "edge-a1; hit; ttl=376");
        let after_all = CacheStatus { hit: true, fwd: Some(Forward::Stale), ..Default::default() };
        assert_eq!(after_all.render("a").to_string(), "a; fwd=stale");
        let miss = CacheStatus {
            fwd: Some(Forward::UriMiss),
            fwd_status: Some(200),
            stored: true,
            collapsed: true,
            ..Default::default()
        };
        assert_eq!(
            miss.render("p 1").to_string(),
            "\"p 1\"; fwd=uri-miss; fwd-status=200; stored; collapsed"
        );
    }

    #[test]
    fn keys_stay_strings_and_details_can_be_left_out() {
        assert_eq!(key_parameter("film/a?b=\"c\\\n"), r#"; key="film/a?b=\"c\\""#);
        let stale = CacheStatus { detail: Some("stale"), ..Default::default() };
        assert_eq!(stale.render("a").to_string(), "a; detail=stale");
        assert_eq!(stale.without_detail().render("a").to_string(), "a");
    }
}
