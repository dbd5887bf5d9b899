//! Reads the URLs to ask for.
//!
//! Must stay true: what is not a plain http or https URL is refused with the place of the fault; path and
//! query are never repaired, since a server must get exactly the bytes that the test wrote.

use std::fmt;
use tidegate_http::Scheme;
use tidegate_http::authority::{Authority, AuthorityError};

/// One URL, cut up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub scheme: Scheme,
    pub authority: Authority,
    /// Path and query, starting with `/`.
    pub target: String,
}

/// Bytes of one URL.
pub const URL_BYTES_MAX: usize = tidegate_types::limits::REQUEST_TARGET_BYTES_MAX;

/// URLs of one run.
pub const URLS_MAX: usize = 1_000_000;

/// Why a text is no URL to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlError {
    Scheme,
    Authority(AuthorityError),
    Fragment,
    /// A byte that must be percent-encoded, at this character (from 1).
    Byte(usize),
    TooLong,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::Scheme => f.write_str("a URL starts with http:// or https://"),
            UrlError::Authority(error) => write!(f, "{error}"),
            UrlError::Fragment => f.write_str("leave out '#' and what follows: it is never sent"),
            UrlError::Byte(at) => write!(f, "character {at} must be percent-encoded"),
            UrlError::TooLong => write!(f, "a URL has at most {URL_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for UrlError {}

impl Url {
    /// # Errors
    /// When it is not a URL that can be asked for as it stands.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        let (scheme, rest) = [("http://", Scheme::Http), ("https://", Scheme::Https)]
            .into_iter()
            .find_map(|(start, scheme)| Some((scheme, text.strip_prefix(start)?)))
            .ok_or(UrlError::Scheme)?;
        if let Some(at) = text.bytes().position(|b| !(0x21..=0x7e).contains(&b)) {
            return Err(UrlError::Byte(at + 1));
        }
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let authority = Authority::parse(authority.as_bytes()).map_err(UrlError::Authority)?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Url { scheme, authority, target })
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.authority.port.unwrap_or(self.scheme.default_port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_cut_where_they_should_be() {
        let cases = [
            ("http://a.example", "a.example", 80, "/"),
            ("https://a.example/x?y=1", "a.example", 443, "/x?y=1"),
            ("http://127.0.0.1:8080?q", "127.0.0.1:8080", 8080, "/?q"),
            ("http://[::1]:81/p", "[::1]:81", 81, "/p"),
        ];
        for (text, authority, port, target) in cases {
            let url = Url::parse(text).unwrap();
            assert_eq!(
                (url.authority.to_string().as_str(), url.port(), url.target.as_str()),
                (authority, port, target)
            );
        }
    }

    #[test]
    fn faults_are_named_with_their_place() {
        let long = format!("http://a/{}", "x".repeat(URL_BYTES_MAX));
        let cases = [
            ("", UrlError::Scheme),
            ("ftp://a/", UrlError::Scheme),
            ("a.example/x", UrlError::Scheme),
            ("http:///x", UrlError::Authority(AuthorityError::Empty)),
            ("http://u@a/", UrlError::Authority(AuthorityError::Userinfo)),
            ("http://a:0/", UrlError::Authority(AuthorityError::Port)),
            ("http://a/#x", UrlError::Fragment),
            ("http://a/b c", UrlError::Byte(11)),
            ("http://a/\r\nx: y", UrlError::Byte(10)),
            (&long, UrlError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(Url::parse(text), Err(error), "{text}");
        }
    }
}
