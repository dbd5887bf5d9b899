//! The 302 side: any path of a delivery service becomes a redirect to an edge.
//!
//! Must stay true: scheme, host and port of a `Location` come from the snapshot alone; of the request only
//! path and query are taken, with every byte outside the printable ASCII written as `%XX`.

use crate::decision_log::Line;
use crate::serve::Shared;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tidegate_monitor::listen::Peer;
use tidegate_steer::{Ask, Outcome};
use tidegate_types::limits::REQUEST_TARGET_BYTES_MAX;

pub(crate) async fn redirect(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    let count = &shared.counters;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let early = match *request.method() {
        Method::OPTIONS => Some(preflight()),
        Method::GET | Method::HEAD => None,
        _ => Some(plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET, HEAD and OPTIONS are answered here\n",
        )),
    };
    let early = early.or_else(|| {
        (target.len() > REQUEST_TARGET_BYTES_MAX)
            .then(|| plain(StatusCode::URI_TOO_LONG, "the target is too long\n"))
    });
    if let Some(response) = early {
        count.http_other.fetch_add(1, Relaxed);
        return response;
    }
    let host = host(&request);
    let running = shared.running.load();
    let health = shared.health.load();
    // The only address that counts is the peer's: no header or parameter can claim another one.
    let client = peer.ip().to_canonical();
    let ask = Ask::Http { path: request.uri().path(), secure: false };
    let question = tidegate_steer::Request { client, host: &host, ask, trace: false };
    let decision = running.table.decide(&health, &question);
    count.decided(&decision);
    let (response, counter) = match (decision.outcome, decision.edges.first()) {
        (Outcome::Edges, Some(edge)) => {
            (found(&(edge.base_url() + &printable(target))), &count.http_redirects)
        }
        (Outcome::NoService, _) => (
            plain(StatusCode::NOT_FOUND, "no delivery service has this host\n"),
            &count.http_no_service,
        ),
        _ => (unavailable(), &count.http_no_edge),
    };
    counter.fetch_add(1, Relaxed);
    if shared.log.is_on() {
        let generation = running.table.snapshot().generation;
        let mut line = Line::new("http", client, &host, response.status().as_u16(), generation);
        line.path = Some(target.to_owned());
        shared.log.put(line.decided(&decision, 1));
    }
    response
}

/// The host asked for: lower case, without port and final dot. That of the target wins (RFC 9112 3.2.2).
fn host(request: &Request) -> String {
    let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let text = authority.or(header).unwrap_or("");
    let host = match text.rfind(']') {
        Some(end) => &text[..=end],
        None => text.split(':').next().unwrap_or(""),
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Bytes that may not stand in a field value, or that end a URL in text, are escaped; the rest is untouched,
/// so that signed URLs stay what they were.
fn printable(target: &str) -> String {
    let mut text = String::with_capacity(target.len() + 1);
    if !target.starts_with('/') {
        text.push('/');
    }
    for byte in target.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn found(location: &str) -> Response {
    let mut response = plain(StatusCode::FOUND, "");
    match HeaderValue::from_str(location) {
        Ok(value) => drop(response.headers_mut().insert(header::LOCATION, value)),
        // Cannot be: the base is configured and checked, the rest is printable. Never answer half of it.
        Err(_) => return unavailable(),
    }
    response
}

fn unavailable() -> Response {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "no edge can serve this request\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn preflight() -> Response {
    let mut response = plain(StatusCode::NO_CONTENT, "");
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, OPTIONS"),
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// An answer with what every answer has: players in browsers must be able to read it, and none may be cached.
fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    }
    if !text.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_bytes_reach_a_location() {
        assert_eq!(printable("/a/b.m3u8?token=x%20y&z"), "/a/b.m3u8?token=x%20y&z");
        assert_eq!(printable("/a\r\nSet-Cookie: x"), "/a%0D%0ASet-Cookie:%20x");
        assert_eq!(printable("/\u{fc}\"<"), "/%C3%BC%22%3C");
        assert_eq!(printable("*"), "/*");
        assert_eq!(printable("//evil.example/"), "//evil.example/");
    }
}
