//! The pages server: viewer page, chain page, and the numbers they show.
//!
//! Must stay true: only the files of [`FILES`] can be asked for, so no path leads out of the folder; pages
//! load nothing from anywhere but this server, the router and the edges.

use super::error::DemoError;
use super::survey::Survey;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the pages need to know of the demo.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// The film as a viewer asks for it: at the router.
    pub master: String,
    /// Base address of each edge, to name who served.
    pub edges: Vec<EdgeFact>,
    pub film_seconds: f64,
}

/// One edge's name and address.
#[derive(Debug, Clone, Serialize)]
pub struct EdgeFact {
    pub id: &'static str,
    pub address: String,
}

struct Shared {
    folder: PathBuf,
    facts: Facts,
    survey: watch::Receiver<Survey>,
}

/// Whether [`serve`] can be done.
///
/// # Errors
/// The folder lacks a page or the player; the port is taken.
pub fn check(folder: &Path, port: u16) -> Result<(), DemoError> {
    for (_, file, _) in FILES {
        let path = folder.join(file);
        if !path.is_file() {
            return Err(DemoError::Tool {
                program: "pages".into(),
                what: format!("{} is missing", path.display()),
                mend: format!(
                    "Run `npm ci` in {} (`make demo` does), or point --pages at the folder demo/pages.",
                    folder.display()
                ),
            });
        }
    }
    let bound = std::net::TcpListener::bind(address(port));
    bound.map(drop).map_err(|error| cannot_bind(port, &error))
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn cannot_bind(port: u16, error: &std::io::Error) -> DemoError {
    let address = address(port);
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            DemoError::PortTaken { node: "pages".into(), address, holder: None }
        }
        _ => DemoError::Option { name: "--pages-port", what: format!("{address}: {error}") },
    }
}

/// Starts the server in the background; gives its base URL.
///
/// # Errors
/// As [`check`].
pub async fn serve(
    folder: &Path,
    port: u16,
    facts: Facts,
    survey: watch::Receiver<Survey>,
) -> Result<String, DemoError> {
    let listener =
        TcpListener::bind(address(port)).await.map_err(|error| cannot_bind(port, &error))?;
    let bound = listener.local_addr().map_err(DemoError::io("listen for", Path::new("pages")))?;
    let shared = Arc::new(Shared { folder: folder.to_path_buf(), facts, survey });
    let mut router =
        Router::new().route("/api/facts", get(api_facts)).route("/api/chain", get(api_chain));
    for (path, file, kind) in FILES {
        router = router.route(path, get(move |state| page(state, file, kind)));
    }
    let router = router.with_state(shared);
    // The task ends with the runtime, that is with the demo.
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{bound}"))
}

async fn page(
    State(shared): State<Arc<Shared>>,
    file: &'static str,
    kind: &'static str,
) -> Response {
    match tokio::fs::read(shared.folder.join(file)).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], bytes)
            .into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{file}: {e}\n")).into_response(),
    }
}

async fn api_facts(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(shared.facts.clone())).into_response()
}

async fn api_chain(State(shared): State<Arc<Shared>>) -> Response {
    let survey = shared.survey.borrow().clone();
    ([(header::CACHE_CONTROL, "no-store")], Json(survey)).into_response()
}

/// URL path, file below the pages folder, content type.
const FILES: [(&str, &str, &str); 8] = [
    ("/", "index.html", HTML),
    ("/chain", "chain.html", HTML),
    ("/style.css", "style.css", "text/css; charset=utf-8"),
    ("/viewer.js", "viewer.js", SCRIPT),
    ("/loader.js", "loader.js", SCRIPT),
    ("/chain.js", "chain.js", SCRIPT),
    ("/icon.svg", "icon.svg", "image/svg+xml"),
    ("/vendor/hls.mjs", "node_modules/hls.js/dist/hls.min.mjs", SCRIPT),
];
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
