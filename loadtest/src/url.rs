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

    /// What a reference in a document that came from here leads to (RFC 3986 section 5).
    ///
    /// # Errors
    /// When that is no URL that can be asked for.
    pub fn join(&self, reference: &str) -> Result<Url, UrlError> {
        let scheme = self.scheme.as_str();
        let (name, _) = reference.split_once(':').unwrap_or(("", ""));
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !name.is_empty() && name.chars().all(is_scheme) {
            return Url::parse(reference);
        }
        if reference.starts_with("//") {
            return Url::parse(&format!("{scheme}:{reference}"));
        }
        let (path, query) = match reference.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (reference, None),
        };
        let (own_path, own_query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let (path, query) = match path {
            "" => (own_path.to_owned(), query.or(own_query)),
            path if path.starts_with('/') => (without_dots(path), query),
            path => {
                let folder = &own_path[..own_path.rfind('/').map_or(0, |slash| slash + 1)];
                (without_dots(&format!("{folder}{path}")), query)
            }
        };
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        Url::parse(&format!("{scheme}://{}{path}{query}", self.authority))
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.authority.port.unwrap_or(self.scheme.default_port())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority, self.target)
    }
}

/// A path without `.` and `..` (RFC 3986 section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let last = path.rsplit('/').next().unwrap_or_default();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    // What ends with dots is a folder.
    let end = if matches!(last, "." | "..") { "/" } else { "" };
    let joined = kept.join("/");
    if joined.is_empty() { "/".to_owned() } else { format!("/{joined}{end}") }
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

    /// RFC 3986 section 5.4, as far as it is http.
    #[test]
    fn references_lead_where_the_rfc_says() {
        let base = Url::parse("http://a/b/c/d;p?q").unwrap();
        for (reference, wanted) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../../g", "http://a/g"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("g?y/./x", "http://a/b/c/g?y/./x"),
            ("https://o/x", "https://o/x"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), wanted, "{reference}");
        }
        for bad in ["ftp://a/b", "g h", "g#s", "http:g"] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }
}
