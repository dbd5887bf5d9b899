//! The admin side of a router: health, metrics, status, explain. For operators only; it listens on the admin
//! port.

use crate::serve::Shared;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tidegate_dns::Rcode;
use tidegate_steer::{Ask, Request};

pub(crate) fn routes(shared: Arc<Shared>) -> axum::Router {
    axum::Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/explain", get(explain))
        .with_state(shared)
}

#[derive(Deserialize)]
struct Question {
    client: String,
    host: String,
    #[serde(default)]
    path: Option<String>,
    /// `dns`, `http` (default) or `https`.
    #[serde(default)]
    via: Option<String>,
}

/// The decision that a request would get now, with its steps: the same function that answers.
async fn explain(State(shared): State<Arc<Shared>>, Query(question): Query<Question>) -> Response {
    let Ok(client) = question.client.parse::<IpAddr>() else {
        return (StatusCode::BAD_REQUEST, "client is no IP address\n").into_response();
    };
    let host = question.host.to_ascii_lowercase();
    let path = question.path.as_deref().unwrap_or("/");
    let path = path.split('?').next().unwrap_or("/");
    let ask = match question.via.as_deref() {
        Some("dns") => Ask::Dns,
        Some("https") => Ask::Http { path, secure: true },
        _ => Ask::Http { path, secure: false },
    };
    // With the reasons of this moment; the hot path's copy is renewed only when a state changes.
    let health = shared.view().health(shared.now());
    let running = shared.running.load();
    let decision =
        running.table.decide(&health, &Request { client, host: &host, ask, trace: true });
    let generation = running.table.snapshot().generation;
    axum::Json(json!({ "router": shared.node, "generation": generation, "decision": decision }))
        .into_response()
}

async fn status(State(shared): State<Arc<Shared>>) -> axum::Json<Value> {
    let now = shared.now();
    let view = shared.view();
    let health = view.health(now);
    let mut servers = Vec::new();
    for own in view.own().view(now) {
        let mut server = json!(own);
        server["state"] = json!(health.state(own.server));
        server["why"] = json!(health.why(own.server));
        servers.push(server);
    }
    let monitors: Vec<Value> = view
        .monitors(now)
        .map(|(id, fresh)| json!({ "monitor": id, "fresh_verdicts": fresh }))
        .collect();
    let count = &shared.counters;
    axum::Json(json!({
        "router": shared.node,
        "generation": shared.running.load().table.snapshot().generation,
        "servers": servers,
        "monitors": monitors,
        "counters": {
            "http_redirects": count.http_redirects.load(Relaxed),
            "http_no_service": count.http_no_service.load(Relaxed),
            "http_no_edge": count.http_no_edge.load(Relaxed),
            "dns_answers": count.dns(Rcode::NoError).load(Relaxed),
            "heartbeats": count.heartbeats.load(Relaxed),
            "verdicts": count.verdicts.load(Relaxed),
            "datagrams_refused": count.datagrams_refused.load(Relaxed),
            "decision_log_dropped": shared.log.dropped(),
        },
    }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut text = String::new();
    shared.counters.render(&mut text);
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(
            text,
            "# HELP tidegate_router_{name} {help}\n# TYPE tidegate_router_{name} {kind}\n"
        );
        let _ = writeln!(text, "tidegate_router_{name} {value}");
    };
    one(
        "decision_log_dropped_total",
        "counter",
        "Decision log lines that did not fit.",
        shared.log.dropped(),
    );
    let generation = shared.running.load().table.snapshot().generation;
    one("snapshot_generation", "gauge", "Generation of the running snapshot.", generation);
    text.push_str("# HELP tidegate_router_server_state What is held of a server.\n");
    text.push_str("# TYPE tidegate_router_server_state gauge\n");
    for (server, state) in shared.view().states(shared.now()) {
        let state = format!("{state:?}").to_lowercase();
        let _ = writeln!(
            text,
            "tidegate_router_server_state{{server=\"{server}\",state=\"{state}\"}} 1"
        );
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
