//! Who may know whom: the arrows of ARCHITECTURE.md as one table, held against cargo's metadata.
//!
//! Only ordinary and build dependencies count: a test may hold one crate against any other.

use super::Finding;
use serde_json::Value;
use std::path::Path;

/// One crate of the workspace, as far as arrows need it.
#[derive(Debug, Clone, Default)]
pub struct Crate {
    /// Folder relative to the root.
    pub folder: String,
    pub has_library: bool,
    /// Folders of workspace crates it uses.
    pub uses: Vec<String>,
    /// Names of outside crates it uses.
    pub outside: Vec<String>,
}

/// Reads cargo's metadata.
///
/// # Errors
/// It is not what cargo writes.
pub fn read(metadata: &str, root: &Path) -> Result<Vec<Crate>, String> {
    let value: Value =
        serde_json::from_str(metadata).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = value["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let relative = |path: &str| {
        Path::new(path)
            .strip_prefix(root)
            .map(|p| p.display().to_string())
            .unwrap_or_else(|_| path.to_string())
    };
    let crates = packages.iter().map(|package| {
        let manifest = relative(package["manifest_path"].as_str().unwrap_or_default());
        let mut found = Crate {
            folder: manifest.trim_end_matches("Cargo.toml").trim_end_matches('/').to_string(),
            ..Crate::default()
        };
        let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        found.has_library = targets
            .iter()
            .any(|t| t["kind"].as_array().is_some_and(|k| k.iter().any(|k| k == "lib")));
        for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default()
        {
            if dependency["kind"] == "dev" {
                continue;
            }
            match dependency["path"].as_str() {
                Some(path) => found.uses.push(relative(path)),
                None => {
                    found.outside.push(dependency["name"].as_str().unwrap_or_default().to_string())
                }
            }
        }
        found
    });
    Ok(crates.collect())
}

/// All wrong arrows.
pub fn judge(crates: &[Crate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in crates {
        let place = format!("{}/Cargo.toml", one.folder);
        let Some((_, may_use)) = rule(ARROWS, &one.folder) else {
            findings.push(Finding::new(
                place,
                "this folder has no row in the table of arrows (xtask/src/tidy/arrows.rs)",
            ));
            continue;
        };
        for used in &one.uses {
            if !may_use.iter().any(|allowed| within(used, allowed)) {
                let what = format!(
                    "{} may not use {used}; it may use: {}",
                    one.folder,
                    may_use.join(", ")
                );
                findings.push(Finding::new(place.clone(), what));
            }
            if crates.iter().any(|c| c.folder == *used && !c.has_library) {
                findings.push(Finding::new(
                    place.clone(),
                    format!("{used} is a program; nothing may use it"),
                ));
            }
        }
        let Some((_, refused)) = rule(REFUSED_OUTSIDE, &one.folder) else { continue };
        for name in one.outside.iter().filter(|n| refused.contains(&n.as_str())) {
            let what = format!(
                "{} must stay free of {name} (no I/O in cores, no second runtime in the data plane)",
                one.folder
            );
            findings.push(Finding::new(place.clone(), what));
        }
    }
    findings
}

type Row = (&'static str, &'static [&'static str]);

/// The row with the longest folder that holds this one.
fn rule(table: &'static [Row], folder: &str) -> Option<&'static Row> {
    table.iter().filter(|(row, _)| within(folder, row)).max_by_key(|(row, _)| row.len())
}

fn within(folder: &str, row: &str) -> bool {
    folder.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Folder -> folders it may use.
const ARROWS: &[Row] = &[
    ("base/types", &[]),
    ("base", &["base"]),
    ("protocols", &["base", "protocols"]),
    ("dataplane/ring", &["base"]),
    ("dataplane/store", &["base", "dataplane/ring"]),
    ("dataplane/cache", &["base", "protocols"]),
    ("dataplane/fill", &["base", "protocols", "dataplane/ring"]),
    ("plugins/api", &["base", "protocols"]),
    ("plugins", &["base", "plugins/api"]),
    (
        "dataplane/engine",
        &[
            "base",
            "protocols",
            "plugins/api",
            "dataplane/ring",
            "dataplane/store",
            "dataplane/cache",
            "dataplane/fill",
        ],
    ),
    ("dataplane/edge", &["base", "protocols", "dataplane", "plugins"]),
    ("controlplane/steer", &["base", "protocols/dns"]),
    (
        "controlplane/router",
        &["base", "protocols/dns", "controlplane/steer", "controlplane/monitor"],
    ),
    ("controlplane/monitor", &["base", "controlplane/steer"]),
    // The store, which does no I/O: `tidegate store` reads what a node has written.
    ("controlplane/tidegate", &["base", "protocols", "controlplane", "dataplane/store"]),
    ("loadtest", &["base", "protocols"]),
    ("benches", &["base", "protocols", "dataplane", "loadtest", "tests/e2e"]),
    ("tests", &["base", "protocols", "tests"]),
    (
        "tests/fuzz",
        &[
            "base",
            "protocols",
            "dataplane/cache",
            "dataplane/store",
            "controlplane/steer",
            "loadtest",
        ],
    ),
    ("tests/faults", &[]),
    ("tests/sim", &["base", "protocols", "dataplane", "tests/faults"]),
    ("xtask", &[]),
];

const IO: &[&str] =
    &["tokio", "axum", "io-uring", "libc", "nix", "rustix", "socket2", "mio", "h3", "quinn"];
const SECOND_RUNTIME: &[&str] =
    &["tokio", "axum", "monoio", "glommio", "tokio-uring", "compio", "mio"];
const SECOND_RUNTIME_OR_RING: &[&str] = &[
    "tokio",
    "axum",
    "monoio",
    "glommio",
    "tokio-uring",
    "compio",
    "mio",
    "io-uring",
    "libc",
    "nix",
    "rustix",
];

/// Folder -> outside crates it must stay free of.
const REFUSED_OUTSIDE: &[Row] = &[
    ("base", IO),
    ("protocols", IO),
    ("dataplane", SECOND_RUNTIME_OR_RING),
    ("dataplane/ring", SECOND_RUNTIME),
    ("dataplane/cache", IO),
    ("controlplane/steer", IO),
];
