//! The configuration of docs/reference/example-config, compiled.

use tidegate_contract::{Snapshot, compile};

pub fn snapshot(generation: u64) -> Snapshot {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/example-config");
    let names = ["cdn.toml", "servers.toml", "coverage-zones.json", "delivery-services/films.toml"];
    let mut files: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            ((*name).to_owned(), std::fs::read_to_string(format!("{root}/{name}")).unwrap())
        })
        .collect();
    files.push(("keys/heartbeat.key".to_owned(), "5a".repeat(32)));
    compile(&files, generation).unwrap()
}
