//! The coverage zone file in Traffic Control's JSON:
//! `{"coverageZones": {"<cache group>": {"network": ["192.0.2.0/24"], "network6": ["2001:db8::/32"]}}}`.
//!
//! Must stay true: Traffic Control's own files are read as they are (`coordinates` and other top-level keys
//! have no use here and are left out); a group that is written twice is not lost.

use super::{At, Compiler};
use crate::snapshot::CoverageZone;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::net::IpAddr;

#[derive(Deserialize)]
struct File {
    #[serde(rename = "coverageZones")]
    coverage_zones: Zones,
}

struct Zones(Vec<(String, Zone)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Zone {
    #[serde(default)]
    network: Vec<String>,
    #[serde(default)]
    network6: Vec<String>,
    #[serde(default, rename = "coordinates")]
    _coordinates: IgnoredAny,
}

/// As a list, since a map would keep only the last of two entries with one name.
impl<'de> Deserialize<'de> for Zones {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Zones, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Zones;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of cache groups")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Zones, A::Error> {
                let mut zones = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    zones.push(entry);
                }
                Ok(Zones(zones))
            }
        }
        deserializer.deserialize_map(List)
    }
}

impl Compiler<'_> {
    pub(super) fn coverage_zones(&mut self, file: usize) -> Vec<CoverageZone> {
        let files = self.files;
        let text = &files[file].1;
        let parsed: File = match serde_json::from_str(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                let offset = offset_of(text, error.line(), error.column());
                let mend = "write {\"coverageZones\": {\"<cache group>\": \
                            {\"network\": [...], \"network6\": [...]}}}";
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default().to_owned();
                self.tell(At { file, offset }, what, mend);
                return Vec::new();
            }
        };
        let mut zones = Vec::new();
        for (cache_group, zone) in parsed.coverage_zones.0 {
            for written in zone.network.iter().chain(&zone.network6) {
                let address = || written.parse::<IpAddr>().map(IpNet::from).ok();
                match written.parse::<IpNet>().ok().or_else(address) {
                    Some(prefix) => {
                        zones.push(CoverageZone { prefix, cache_group: cache_group.clone() })
                    }
                    None => {
                        let offset = literal(text, written).unwrap_or(0);
                        let what = format!("`{}` is no prefix", written.escape_default());
                        self.tell(
                            At { file, offset },
                            what,
                            "write one like \"192.0.2.0/24\" or \"2001:db8::/32\"",
                        );
                    }
                }
            }
        }
        zones
    }

    /// JSON values carry no place, so the place of a problem is found by looking for the text itself.
    pub(super) fn coverage_place(&self, zone: &CoverageZone, field: &str) -> Option<At> {
        let file = self.coverage_file?;
        let text = &self.files[file].1;
        let offset = match field {
            "cache_group" => literal(text, &zone.cache_group),
            _ => literal(text, &zone.prefix.to_string())
                .or_else(|| literal(text, &zone.prefix.addr().to_string())),
        };
        Some(At { file, offset: offset.unwrap_or(0) })
    }
}

fn literal(text: &str, word: &str) -> Option<usize> {
    text.find(&format!("\"{word}\""))
}

fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    start + column.saturating_sub(1)
}
