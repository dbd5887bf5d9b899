//! Every parser of bytes from outside, as a function of any bytes that fails when a promise is broken.
//!
//! One registry for two drivers: `tests/smoke.rs` runs each target on its seeds and on mutations of them with a fixed
//! seed, in every test run; `libfuzzer/` runs them guided by coverage for as long as one likes
//! (`cargo xtask fuzz`). Must stay true: a target accepts any input; it asserts more than "no panic" where the
//! parser promises more; a checksum in front of a parser is made right by the target, so that it does not guard it.
#![forbid(unsafe_code)]

mod control;
mod http;
mod http2;
mod http3;
mod judgement;
pub mod mutate;
mod playlist;

/// One target.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Good inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "http1-request", run: http::request, seeds: http::request_seeds },
    Target { name: "http1-response", run: http::response, seeds: http::response_seeds },
    Target { name: "http1-chunked", run: http::chunked, seeds: http::chunked_seeds },
    Target { name: "http2-connection", run: http2::connection, seeds: http2::connection_seeds },
    Target { name: "http2-hpack", run: http2::hpack, seeds: http2::hpack_seeds },
    Target { name: "http3-request", run: http3::request, seeds: http3::request_seeds },
    Target { name: "http3-response", run: http3::response, seeds: http3::response_seeds },
    Target { name: "http3-control", run: http3::control, seeds: http3::control_seeds },
    Target { name: "http3-qpack", run: http3::qpack, seeds: http3::qpack_seeds },
    Target { name: "http-values", run: http::values, seeds: http::value_seeds },
    Target { name: "cmcd", run: http::cmcd, seeds: http::cmcd_seeds },
    Target { name: "cache-judgement", run: judgement::run, seeds: judgement::seeds },
    Target { name: "stored-head", run: judgement::stored, seeds: judgement::stored_seeds },
    Target { name: "dns-query", run: control::dns, seeds: control::dns_seeds },
    Target { name: "snapshot-file", run: control::snapshot, seeds: control::snapshot_seeds },
    Target { name: "snapshot-source", run: control::source, seeds: control::source_seeds },
    Target { name: "purge", run: judgement::purge, seeds: judgement::purge_seeds },
    Target { name: "playlist", run: playlist::run, seeds: playlist::seeds },
    Target { name: "heartbeat", run: control::heartbeat, seeds: control::heartbeat_seeds },
];

/// Must be found broken by every driver: proves that a driver can fail.
pub const CANARY: Target = Target {
    name: "canary",
    run: |bytes| assert!(!bytes.starts_with(b"tide"), "the canary sings"),
    seeds: || vec![b"tidf".to_vec()],
};

/// Input cut in two at a place that its first byte chooses.
fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let Some((first, rest)) = input.split_first() else { return (&[], &[]) };
    rest.split_at(usize::from(*first) * rest.len() / 256)
}
