//! The difference of two snapshots, for people: per object and field, and which servers act on it and how.
//!
//! Must stay true: equal snapshots (but for the generation) have no difference; keys are never shown.

use crate::snapshot::Snapshot;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The object, like `server edge-a1`.
    pub object: String,
    /// The field inside it; empty when the whole object came or went.
    pub field: String,
    /// Before, as JSON; `None`: not there.
    pub old: Option<String>,
    /// After.
    pub new: Option<String>,
    /// Which servers act on it.
    pub reacts: &'static str,
    /// Whether they take it up while running.
    pub uptake: Uptake,
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uptake {
    /// With the snapshot.
    Live,
    /// When the server's process starts next.
    Restart,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (&self.old, &self.new) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        write!(f, "{sign} {}", self.object)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, ": {old} -> {new}")?,
            (None, Some(new)) | (Some(new), None) if !self.field.is_empty() => {
                write!(f, ": {new}")?
            }
            _ => {}
        }
        let when = match self.uptake {
            Uptake::Live => "live",
            Uptake::Restart => "after a restart",
        };
        write!(f, "  ({}, {when})", self.reacts)
    }
}

/// What differs from `old` to `new`, in the order of the snapshot.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    let cdn = |s: &Snapshot| Value::from_iter([("cdn", s.cdn.clone()), ("zone", s.zone.clone())]);
    fields(&mut changes, "cdn", &cdn(old), &cdn(new));
    fields(&mut changes, "steering", &json(&old.steering), &json(&new.steering));
    if old.keys.heartbeat_hex != new.keys.heartbeat_hex {
        changes.push(change("keys", "heartbeat_hex", Some("(not shown)"), Some("(not shown)")));
    }
    if old.keys.admin_hex != new.keys.admin_hex {
        let shown = |key: &Option<String>| key.as_ref().map(|_| "(not shown)");
        let (before, after) = (shown(&old.keys.admin_hex), shown(&new.keys.admin_hex));
        changes.push(change("keys", "admin_hex", before, after));
    }
    objects(
        &mut changes,
        "delivery service ",
        &old.delivery_services,
        &new.delivery_services,
        |s| s.id.clone(),
    );
    objects(&mut changes, "cache group ", &old.cache_groups, &new.cache_groups, |g| g.id.clone());
    objects(&mut changes, "server ", &old.servers, &new.servers, |s| s.id.clone());
    objects(&mut changes, "coverage zone ", &old.coverage_zones, &new.coverage_zones, |z| {
        z.prefix.to_string()
    });
    changes
}

fn objects<T: Serialize + PartialEq>(
    changes: &mut Vec<Change>,
    kind: &str,
    old: &[T],
    new: &[T],
    id: impl Fn(&T) -> String,
) {
    let before: BTreeMap<String, &T> = old.iter().map(|item| (id(item), item)).collect();
    let after: BTreeMap<String, &T> = new.iter().map(|item| (id(item), item)).collect();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let object = format!("{kind}{name}");
        match (before.get(name), after.get(name)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) => fields(changes, &object, &json(old), &json(new)),
            (Some(_), None) => changes.push(change(&object, "", Some(""), None)),
            (None, _) => changes.push(change(&object, "", None, Some(""))),
        }
    }
}

fn fields(changes: &mut Vec<Change>, object: &str, old: &Value, new: &Value) {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten("", old, &mut before);
    flatten("", new, &mut after);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old != new {
            changes.push(change(object, name, old.map(String::as_str), new.map(String::as_str)));
        }
    }
}

/// Leaves by their path. Behaviours go by their name and their position, since their order decides.
fn flatten(path: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    let below =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(name, inner)| flatten(&below(name), inner, leaves))
        }
        Value::Array(items) if path == "behaviours" => {
            for (position, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                leaves.insert(below(&format!("{name}.position")), position.to_string());
                flatten(&below(name), item, leaves);
            }
        }
        leaf => {
            leaves.insert(path.to_owned(), leaf.to_string());
        }
    }
}

fn change(object: &str, field: &str, old: Option<&str>, new: Option<&str>) -> Change {
    let (reacts, uptake) = reaction(object, field);
    Change {
        object: object.to_owned(),
        field: field.to_owned(),
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
        reacts,
        uptake,
    }
}

/// Which servers act on a field. Sockets, memory and files are taken at process start; all else is looked up
/// in the running snapshot.
fn reaction(object: &str, field: &str) -> (&'static str, Uptake) {
    let kind = object.split(' ').next().unwrap_or_default();
    match (kind, field) {
        ("cdn", _) => ("every server", Uptake::Live),
        ("keys", _) => ("every server", Uptake::Live),
        ("steering" | "coverage", _) => ("routers", Uptake::Live),
        ("delivery", "active" | "hosts" | "routing_name" | "" | "address_default") => {
            ("edges, parents, routers", Uptake::Live)
        }
        ("delivery", _) => ("edges, parents", Uptake::Live),
        ("cache", "parent_group" | "peering") => ("edges", Uptake::Live),
        ("cache", _) => ("routers", Uptake::Live),
        ("server", "weight" | "status") => ("routers, monitors, edges", Uptake::Live),
        (
            "server",
            "" | "addresses" | "http_port" | "https_port" | "http3" | "role" | "cache_group",
        ) => {
            ("the server itself after a restart; routers, monitors, edges at once", Uptake::Restart)
        }
        ("server", field) if field.starts_with("origin_") => ("parents", Uptake::Live),
        ("server", field)
            if [
                "certificates",
                "ticket_secret_file",
                "fleet_tls",
                "admin_tls",
                "client_limits",
                "ktls",
            ]
            .iter()
            .any(|name| field.strip_prefix("machine.").is_some_and(|f| f.starts_with(name))) =>
        {
            ("the server itself", Uptake::Live)
        }
        _ => ("the server itself", Uptake::Restart),
    }
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("a snapshot has only string keys and derived serialisers")
}
