//! Everything that is written before a process starts: source tree of the configuration, keys, certificates,
//! and the signed snapshot made of them.
//!
//! Must stay true: keys and certificates are made once and kept; the generation rises when the configuration
//! changed and stays when it did not, so that a second start is the same CDN with warm caches.

use super::error::DemoError;
use super::film::{make_folder, write_whole};
use super::plan::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tidegate_contract::source::{ADMIN_KEY_FILE, HEARTBEAT_KEY_FILE};
use tidegate_contract::{PublicKey, SigningKey, compile, random_key_hex, sign};

/// The files that every node is started with.
#[derive(Debug, Clone)]
pub struct Orders {
    pub snapshot: PathBuf,
    pub trust: PathBuf,
    pub generation: u64,
}

/// Sizes that the demo gives to its caches.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub store_bytes: u64,
    pub ram_bytes: u64,
    /// Threads of each data plane process.
    pub cores: usize,
}

/// Writes all orders below the demo's folder.
///
/// # Errors
/// A folder that cannot be written; a configuration that does not compile (each problem with file and line).
pub fn write(plan: &Plan, sizes: Sizes) -> Result<Orders, DemoError> {
    let config = plan.dir.join("config");
    let keys = plan.dir.join("keys");
    for folder in
        [&config.join("keys"), &config.join("delivery-services"), &keys, &plan.dir.join("store")]
    {
        make_folder(folder)?;
    }
    certificates(plan)?;
    let heartbeat =
        kept_secret(&keys.join("heartbeat.key"), || random_key_hex().map(|k| k + "\n"))?;
    let admin = kept_secret(&keys.join("admin.key"), || random_key_hex().map(|k| k + "\n"))?;
    let signing =
        kept_secret(&keys.join("signing.key"), || SigningKey::generate().map(|k| k.to_text()))?;
    let signing = SigningKey::from_text(&signing).map_err(|e| DemoError::Option {
        name: "--dir",
        what: format!(
            "{}: {e}. Remove that file to get a new one.",
            keys.join("signing.key").display()
        ),
    })?;

    let mut files = tree(plan, sizes);
    for (name, text) in &files {
        write_whole(&config.join(name), text.as_bytes())?;
    }
    for (name, key) in [(HEARTBEAT_KEY_FILE, heartbeat), (ADMIN_KEY_FILE, admin)] {
        write_secret(&config.join(name), key.as_bytes())?;
        files.push((name.into(), key));
    }

    let trust = keys.join("trust.pub");
    write_whole(&trust, PublicKey::list_to_text(&[signing.public()]).as_bytes())?;
    let generation = generation(&plan.dir, &files)?;
    let compiled = compile(&files, generation).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        DemoError::Option {
            name: "--dir",
            what: format!("the configuration does not compile:\n{}", all.join("\n")),
        }
    })?;
    let snapshot = plan.dir.join("snapshot");
    write_secret(&snapshot, &sign(&compiled, &signing))?;
    Ok(Orders { snapshot, trust, generation })
}

/// The source tree, without the heartbeat key: (name, text).
fn tree(plan: &Plan, sizes: Sizes) -> Vec<(String, String)> {
    let fill = |text: &str| {
        text.replace("@ZONE@", ZONE)
            .replace("@ROUTING_NAME@", ROUTING_NAME)
            .replace("@ROUTER@", plan.router().id)
            .replace("@LOCATION@", if plan.location_is_name { "name" } else { "address" })
    };
    let mut servers = include_str!("../../../../demo/config/cache-groups.toml").to_string();
    for node in &plan.nodes {
        servers.push_str(&server(plan, node, sizes));
    }
    vec![
        ("cdn.toml".into(), fill(include_str!("../../../../demo/config/cdn.toml"))),
        ("servers.toml".into(), servers),
        (
            "delivery-services/film.toml".into(),
            fill(include_str!("../../../../demo/config/film.toml")),
        ),
        (
            "coverage-zones.json".into(),
            include_str!("../../../../demo/config/coverage-zones.json").into(),
        ),
    ]
}

fn server(plan: &Plan, node: &Node, sizes: Sizes) -> String {
    let mut t = format!("\n[[server]]\nid = \"{}\"\nrole = \"{}\"\n", node.id, node.tier.word());
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(t, "{name} = {value}");
    };
    let text = |s: &str| format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""));
    let path = |p: PathBuf| text(&p.display().to_string());
    if let Some(group) = node.group {
        line("cache_group", text(group));
    }
    line("addresses", format!("[\"{}\"]", node.address));
    line("admin_port", ADMIN_PORT.to_string());
    if node.tier != Tier::Monitor {
        line("http_port", HTTP_PORT.to_string());
    }
    match node.tier {
        Tier::Router => {
            line("dns_port", plan.dns_port.to_string());
            line("heartbeat_port", HEARTBEAT_PORT.to_string());
        }
        Tier::Monitor => line("heartbeat_port", HEARTBEAT_PORT.to_string()),
        Tier::Origin => line("origin_root", path(plan.dir.join("origin"))),
        Tier::Parent | Tier::Edge => {
            let store = path(plan.dir.join("store").join(node.id));
            line("stores", format!("[{{ path = {store}, bytes = {} }}]", sizes.store_bytes));
            line("state_dir", path(plan.dir.join("store")));
            // One viewer shall find everything warm after a restart.
            line("store_admission", text("always"));
            line("ram_bytes", sizes.ram_bytes.to_string());
        }
    }
    if node.tier == Tier::Edge {
        line("https_port", HTTPS_PORT.to_string());
        let tls = plan.dir.join("tls");
        let (chain, key) = (path(tls.join("edge.pem")), path(tls.join("edge.key")));
        line("certificates", format!("[{{ chain = {chain}, key = {key} }}]"));
    }
    if node.tier.is_data_plane() {
        line("cores", sizes.cores.to_string());
    }
    t
}

/// The generation for this tree: the last one if nothing changed, else one more.
fn generation(dir: &Path, files: &[(String, String)]) -> Result<u64, DemoError> {
    let file = dir.join("generation");
    let mut text: String = files.iter().map(|(name, text)| format!("{name}\n{text}\n")).collect();
    text = super::film::version(&text);
    let last = std::fs::read_to_string(&file).unwrap_or_default();
    let mut words = last.split_ascii_whitespace();
    let number: u64 = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
    if number > 0 && words.next() == Some(text.as_str()) {
        return Ok(number);
    }
    let next = number.saturating_add(1);
    write_whole(&file, format!("{next} {text}\n").as_bytes())?;
    Ok(next)
}

/// Makes the demo's own CA and one certificate for all edges, unless they are there for these names.
fn certificates(plan: &Plan) -> Result<(), DemoError> {
    let folder = plan.dir.join("tls");
    make_folder(&folder)?;
    let mut names: Vec<String> =
        plan.nodes.iter().filter(|n| n.tier == Tier::Edge).map(|n| n.address.to_string()).collect();
    names.push(format!("*.{SERVICE}.{ZONE}"));
    let made_for = folder.join("names.txt");
    let wanted = names.join("\n");
    let files = ["ca.pem", "edge.pem", "edge.key"].map(|f| folder.join(f));
    if files.iter().all(|f| f.is_file())
        && std::fs::read_to_string(&made_for).is_ok_and(|n| n == wanted)
    {
        return Ok(());
    }
    let failed = |e: rcgen::Error| DemoError::Tool {
        program: "certificates".into(),
        what: e.to_string(),
        mend: format!("Remove {} and try again.", folder.display()),
    };
    let ca_key = KeyPair::generate().map_err(failed)?;
    let mut ca = CertificateParams::new(Vec::new()).map_err(failed)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "Tidegate demo CA (this machine only)");
    let ca_certificate = ca.self_signed(&ca_key).map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut edge = CertificateParams::new(names).map_err(failed)?;
    edge.distinguished_name.push(DnType::CommonName, "Tidegate demo edge");
    edge.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = edge.signed_by(&key, &Issuer::new(ca, ca_key)).map_err(failed)?;
    write_whole(&files[0], ca_certificate.pem().as_bytes())?;
    write_whole(&files[1], format!("{}{}", certificate.pem(), ca_certificate.pem()).as_bytes())?;
    write_secret(&files[2], key.serialize_pem().as_bytes())?;
    write_whole(&made_for, wanted.as_bytes())
}

/// Reads a secret, or makes it.
fn kept_secret<E: std::fmt::Display>(
    path: &Path,
    make: impl FnOnce() -> Result<String, E>,
) -> Result<String, DemoError> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return Ok(text);
    }
    let text = make().map_err(|e| DemoError::Tool {
        program: "keys".into(),
        what: e.to_string(),
        mend: format!("It was to be written to {}.", path.display()),
    })?;
    write_secret(path, text.as_bytes())?;
    Ok(text)
}

/// Writes a file that only its owner may read.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut options = std::fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    options
        .open(&temporary)
        .and_then(|mut f| f.write_all(bytes))
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(DemoError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_contract::{Role, verify};

    const SIZES: Sizes = Sizes { store_bytes: 1 << 30, ram_bytes: 64 << 20, cores: 1 };

    fn scratch(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("tidegate-orders-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        make_folder(&dir).expect("the temporary folder can be written");
        dir
    }

    #[test]
    fn the_demo_configuration_compiles_and_its_snapshot_is_trusted() {
        for by_name in [false, true] {
            let dir = scratch(&format!("compiles-{by_name}"));
            let plan = Plan::new(dir.clone(), 0, DNS_PORT, by_name);
            let orders = write(&plan, SIZES).unwrap_or_else(|e| panic!("{e}"));
            let trust = std::fs::read_to_string(&orders.trust).unwrap();
            let trusted = PublicKey::list_from_text(&trust).unwrap();
            let snapshot = verify(&std::fs::read(&orders.snapshot).unwrap(), &trusted).unwrap();
            assert_eq!(snapshot.servers.len(), plan.nodes.len());
            assert_eq!(snapshot.servers.iter().filter(|s| s.role == Role::Edge).count(), 4);
            assert_eq!(snapshot.delivery_services[0].id, SERVICE);
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn a_second_start_keeps_keys_and_generation_and_a_change_raises_it() {
        let dir = scratch("twice");
        let first = write(&Plan::new(dir.clone(), 0, DNS_PORT, false), SIZES).unwrap();
        let certificate = std::fs::read(dir.join("tls/edge.pem")).unwrap();
        let again = write(&Plan::new(dir.clone(), 0, DNS_PORT, false), SIZES).unwrap();
        assert_eq!((first.generation, again.generation), (1, 1));
        assert_eq!(std::fs::read(dir.join("tls/edge.pem")).unwrap(), certificate);
        let moved = write(&Plan::new(dir.clone(), 9, DNS_PORT, false), SIZES).unwrap();
        assert_eq!(moved.generation, 2);
        assert_ne!(std::fs::read(dir.join("tls/edge.pem")).unwrap(), certificate);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
