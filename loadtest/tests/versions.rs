//! Goal: HTTP/2 and HTTP/3 are accounted for as HTTP/1.1 is, and share connections.
//! Method: servers of both in this process, the run through the library.

#[path = "support/versions.rs"]
mod versions;

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_load::channel::Protocol;
use tidegate_load::options::Options;
use tidegate_load::report::Report;
use tidegate_load::run::{Progress, run};
use tidegate_load::schedule::Rate;
use tidegate_load::tls::Trust;
use versions::{LARGE_BYTES, Server, TOGETHER};

fn run_all(options: &Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(options, pending(), |_: &Progress| {})).unwrap()
}

/// A certificate, and the file that makes it trusted.
struct Pki {
    config: rustls::ServerConfig,
    ca: PathBuf,
}

impl Pki {
    fn new(name: &str) -> Pki {
        let made = rcgen::generate_simple_self_signed(vec!["film.example".to_owned()]).unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let ca = dir.join(format!("{}-{name}-ca.pem", std::process::id()));
        std::fs::write(&ca, made.cert.pem()).unwrap();
        Pki { config, ca }
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.ca);
    }
}

/// A server of each kind, and options that lead to it.
fn each(name: &str, mut test: impl FnMut(&Server, Options)) {
    let pki = Pki::new(name);
    let cases = [
        (Server::http2(None), Protocol::Http2, "http"),
        (Server::http2(Some(pki.config.clone())), Protocol::Http2, "https"),
        (Server::http3(pki.config.clone()), Protocol::Http3, "https"),
    ];
    for (server, protocol, scheme) in cases {
        let options = Options {
            urls: vec![format!("{scheme}://film.example/x")],
            connect: Some(server.address),
            trust: Trust::File(pki.ca.clone()),
            protocol,
            ..Options::default()
        };
        test(&server, options);
    }
}

fn target(options: &Options, target: &str) -> Options {
    let urls = options.urls.iter().map(|url| url.replace("/x", target)).collect();
    Options { urls, ..options.clone() }
}

fn adds_up(report: &Report) {
    let e = &report.errors;
    let classes = [e.connect, e.timeout, e.closed_early, e.short_body, e.malformed, e.unanswered];
    let unanswered: u64 = classes.iter().sum();
    assert_eq!(report.requests, report.answers + unanswered + report.not_sent, "{report}");
    assert_eq!(report.sent, report.requests - report.not_sent - e.connect, "{report}");
}

#[test]
fn n_requests_are_n_requests_on_shared_connections() {
    each("n", |server, options| {
        for (threads, connections, streams, rate) in
            [(1, 1, 1, None), (2, 3, 10, None), (1, 2, 50, Some(3000.0))]
        {
            let (requests_before, connections_before) = (server.requests(), server.connections());
            let report = run_all(&Options {
                threads,
                connections,
                streams,
                rate: rate.map(|rate| Rate::per_second(rate).unwrap()),
                requests: Some(400),
                ..options.clone()
            });
            adds_up(&report);
            assert_eq!((report.ok, report.bytes.body), (400, 2000), "{report}");
            assert_eq!(server.requests() - requests_before, 400);
            assert_eq!(report.connections.opened, server.connections() - connections_before);
            assert!(report.connections.opened <= connections as u64, "{report}");
            assert_eq!((report.connections.reopened, report.errors.total), (0, 0), "{report}");
            assert_eq!(report.cache.hit_ratio, Some(1.0));
            assert!(report.first_byte.p50_us <= report.service_time.p50_us);
            assert!(report.bytes.received > report.bytes.body);
            assert!(report.bytes.sent > 400 * 60);
        }
    });
}

/// The server answers none before all are there.
#[test]
fn streams_of_one_connection_are_under_way_together() {
    each("together", |server, options| {
        let report = run_all(&Options {
            streams: TOGETHER,
            connections: 1,
            requests: Some(3 * TOGETHER as u64),
            ..target(&options, "/together")
        });
        assert_eq!((report.ok, server.connections()), (3 * TOGETHER as u64, 1), "{report}");
    });
}

#[test]
fn large_bodies_come_whole() {
    each("large", |_, options| {
        let report = run_all(&Options {
            streams: 4,
            connections: 2,
            requests: Some(20),
            ..target(&options, "/large")
        });
        assert_eq!((report.ok, report.bytes.body), (20, 20 * LARGE_BYTES as u64), "{report}");
        assert!(report.first_byte.p50_us < report.service_time.p50_us, "{report}");
    });
}

#[test]
fn errors_fall_in_the_classes_of_http_1_1() {
    each("errors", |_, options| {
        let ask = |path| {
            let report = run_all(&Options { requests: Some(4), ..target(&options, path) });
            adds_up(&report);
            report
        };
        let report = ask("/missing");
        assert_eq!(report.statuses, BTreeMap::from([(404, 4)]), "{report}");
        assert_eq!((report.errors.status_4xx, report.errors.total), (4, 4));
        let report = ask("/reset");
        assert_eq!((report.errors.closed_early, report.errors.total), (4, 4), "{report}");
        let report = ask("/short");
        assert_eq!((report.errors.short_body, report.errors.total), (4, 4), "{report}");
        // Long enough for a handshake on a busy machine: one that took longer would be of another class.
        let hang = Options { timeout: Duration::from_secs(1), ..target(&options, "/hang") };
        let report = run_all(&Options { requests: Some(4), connections: 2, ..hang });
        adds_up(&report);
        assert_eq!((report.errors.timeout, report.errors.total), (4, 4), "{report}");
        assert!(report.response_time.min_us >= Some(999_000.0), "{report}");
    });
}

/// GOAWAY: what was asked is answered, what comes next gets another connection.
#[test]
fn a_goodbye_of_the_server_costs_a_connection_and_no_request() {
    each("last", |server, options| {
        let report =
            run_all(&Options { connections: 1, requests: Some(10), ..target(&options, "/last") });
        adds_up(&report);
        // A request may cross the goodbye on its way; then it is an error, once.
        assert_eq!(report.ok + report.errors.closed_early, 10, "{report}");
        assert!(report.connections.reopened >= 1, "{report}");
        assert_eq!(report.connections.opened, server.connections());
    });
}

#[test]
fn certificates_and_versions_are_checked() {
    let pki = Pki::new("checked");
    let http2 = Server::http2(Some(pki.config.clone()));
    let http3 = Server::http3(pki.config.clone());
    for (server, protocol) in [(&http2, Protocol::Http2), (&http3, Protocol::Http3)] {
        let options = Options {
            urls: vec!["https://other.example/".to_owned()],
            connect: Some(server.address),
            trust: Trust::File(pki.ca.clone()),
            protocol,
            requests: Some(2),
            connections: 1,
            ..Options::default()
        };
        let report = run_all(&options);
        assert_eq!((report.errors.connect, report.ok), (2, 0), "{report}");
        assert!(report.first_failure.is_some() && report.nothing_ran());
        let report = run_all(&Options { trust: Trust::Anyone, ..options });
        assert_eq!(report.ok, 2, "{report}");
    }
    // A server that speaks another version is told apart by ALPN.
    let options = Options {
        urls: vec!["https://film.example/".to_owned()],
        connect: Some(http2.address),
        trust: Trust::File(pki.ca.clone()),
        requests: Some(1),
        connections: 1,
        ..Options::default()
    };
    let report = run_all(&options);
    assert_eq!((report.errors.connect, report.ok), (1, 0), "{report}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (options, word) in [
        (Options { streams: 2, ..options.clone() }, "--http 2"),
        (
            Options {
                protocol: Protocol::Http3,
                urls: vec!["http://film.example/".to_owned()],
                ..options.clone()
            },
            "https://",
        ),
    ] {
        let refused = runtime.block_on(run(&options, pending(), |_: &Progress| {})).unwrap_err();
        assert!(refused.to_string().contains(word), "{refused}");
    }
}
