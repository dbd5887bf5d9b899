//! The annotated example of the reference, as the tests' input: it must always compile.
#![allow(dead_code)] // each test program uses a part

use tidegate_contract::{Snapshot, compile};

pub fn example_files() -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/example-config");
    let names = ["cdn.toml", "servers.toml", "coverage-zones.json", "delivery-services/films.toml"];
    let mut files: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            ((*name).to_owned(), std::fs::read_to_string(format!("{root}/{name}")).unwrap())
        })
        .collect();
    files.push(("keys/heartbeat.key".to_owned(), "5a".repeat(32) + "\n"));
    files
}

pub fn example() -> Snapshot {
    compile(&example_files(), 7)
        .unwrap_or_else(|d| panic!("{}", d.iter().map(|d| format!("{d}\n")).collect::<String>()))
}
