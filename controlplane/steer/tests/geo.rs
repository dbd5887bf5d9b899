//! Goal: an MMDB file in the City layout places clients, and a damaged one is refused or answers nothing.
//! Method: this test writes its own small MMDB (no data set is needed) and reads it through `Geo`.

use std::net::IpAddr;
use std::sync::Arc;
use tidegate_contract::compile;
use tidegate_steer::*;

/// An IPv4 MMDB: networks (first address, bits) with latitude and longitude.
fn mmdb(networks: &[([u8; 4], u8, f64, f64)]) -> Vec<u8> {
    // Data: one map {"location": {"latitude": double, "longitude": double}} for each network.
    let text = |s: &str| [vec![0x40 | s.len() as u8], s.as_bytes().to_vec()].concat();
    let double = |v: f64| [vec![0x68], v.to_be_bytes().to_vec()].concat();
    let mut data = Vec::new();
    let mut offsets = Vec::new();
    for (.., latitude, longitude) in networks {
        offsets.push(data.len());
        let inner = [
            vec![0xe2],
            text("latitude"),
            double(*latitude),
            text("longitude"),
            double(*longitude),
        ]
        .concat();
        data.extend([vec![0xe1], text("location"), inner].concat());
    }
    // Tree: nodes of two children; None is "no data", Err(i) is network i.
    let mut nodes: Vec<[Option<Result<usize, usize>>; 2]> = vec![[None; 2]];
    for (index, (first, bits, ..)) in networks.iter().enumerate() {
        let address = u32::from_be_bytes(*first);
        let mut node = 0;
        for depth in 0..*bits {
            let side = (address >> (31 - depth) & 1) as usize;
            if depth + 1 == *bits {
                nodes[node][side] = Some(Err(index));
            } else if let Some(Ok(next)) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([None; 2]);
                let next = nodes.len() - 1;
                nodes[node][side] = Some(Ok(next));
                node = next;
            }
        }
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for child in nodes.iter().flatten() {
        let record = match child {
            None => count,
            Some(Ok(next)) => *next,
            Some(Err(index)) => count + 16 + offsets[*index],
        };
        file.extend(&(record as u32).to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    let number = |kind: u8, v: u32| match kind {
        5 => [vec![0xa2], (v as u16).to_be_bytes().to_vec()].concat(),
        6 => [vec![0xc4], v.to_be_bytes().to_vec()].concat(),
        _ => [vec![0x04, kind - 7], v.to_be_bytes().to_vec()].concat(),
    };
    let epoch = [vec![0x08, 2], 1u64.to_be_bytes().to_vec()].concat();
    let description = [vec![0xe1], text("en"), text("test")].concat();
    file.push(0xe9);
    for (name, value) in [
        ("node_count", number(6, count as u32)),
        ("record_size", number(5, 24)),
        ("ip_version", number(5, 4)),
        ("database_type", text("Test-City")),
        ("languages", [vec![0x01, 4], text("en")].concat()),
        ("binary_format_major_version", number(5, 2)),
        ("binary_format_minor_version", number(5, 0)),
        ("build_epoch", epoch),
        ("description", description),
    ] {
        file.extend(text(name));
        file.extend(value);
    }
    file
}

fn table(geo: Geo) -> Table {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/example-config");
    let names = ["cdn.toml", "servers.toml", "coverage-zones.json", "delivery-services/films.toml"];
    let mut files: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            ((*name).to_owned(), std::fs::read_to_string(format!("{root}/{name}")).unwrap())
        })
        .collect();
    files.push(("keys/heartbeat.key".to_owned(), "5a".repeat(32)));
    Table::new(Arc::new(compile(&files, 1).unwrap()), Some(Arc::new(geo)))
}

fn decide(table: &Table, client: &str) -> Decision {
    let client: IpAddr = client.parse().unwrap();
    let ask = Ask::Http { path: "/a", secure: false };
    table
        .decide(&Health::all_up(), &Request { client, host: "films.example.net", ask, trace: true })
}

#[test]
fn clients_go_to_the_group_nearest_to_their_place() {
    // Madrid and Warsaw.
    let file =
        mmdb(&[([203, 0, 113, 0], 25, 40.42, -3.70), ([203, 0, 113, 128], 26, 52.23, 21.01)]);
    let table = table(Geo::from_mmdb(file).unwrap());
    let madrid = decide(&table, "203.0.113.5");
    assert_eq!((madrid.reason, madrid.cache_group.as_deref()), (Some(Reason::Geo), Some("lisbon")));
    assert_eq!(madrid.scope, 25);
    let warsaw = decide(&table, "203.0.113.130");
    assert_eq!((warsaw.reason, warsaw.cache_group.as_deref()), (Some(Reason::Geo), Some("berlin")));
    assert_eq!(warsaw.scope, 26);
    assert_eq!(decide(&table, "203.0.113.200").reason, Some(Reason::Miss));
    assert_eq!(decide(&table, "2001:4860::1").reason, Some(Reason::Miss));
    assert_eq!(decide(&table, "198.51.100.7").reason, Some(Reason::CoverageZone));
}

#[test]
fn damaged_files_are_refused_or_place_nobody_and_never_panic() {
    let file = mmdb(&[([203, 0, 113, 0], 25, 40.42, -3.70)]);
    assert!(
        Geo::from_mmdb(b"not an mmdb".to_vec()).unwrap_err().to_string().contains("GeoIP2 City")
    );
    for position in 0..file.len() {
        for change in [0x00, 0x80, 0xff] {
            let mut damaged = file.clone();
            damaged[position] ^= change;
            if let Ok(geo) = Geo::from_mmdb(damaged) {
                let decision = decide(&table(geo), "203.0.113.5");
                assert_eq!(decision.outcome, Outcome::Edges);
            }
        }
    }
}
