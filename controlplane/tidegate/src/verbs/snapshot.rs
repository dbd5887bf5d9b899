//! `tidegate snapshot`: keys, build, check, diff, show.

use crate::failure::Failure;
use crate::source_dir;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use tidegate_contract::{PublicKey, SigningKey, diff, random_key_hex, sign, verify};

#[derive(Subcommand)]
pub enum Snapshot {
    /// Make signing.key, trust.pub, heartbeat.key and admin.key; those that are there are kept.
    Keygen(Keygen),
    /// Compile a source tree into a signed snapshot file.
    Build(Build),
    /// Check a source tree.
    Check(Check),
    /// Say what differs between two snapshots (files or source trees) and who acts on it.
    Diff(Diff),
    /// Show what is in a snapshot file or source tree.
    Show(Show),
}

#[derive(Args)]
pub struct Keygen {
    /// Folder for the keys; heartbeat.key and admin.key belong into keys/ of the source tree.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
pub struct Build {
    /// Folder of the source tree.
    #[arg(long)]
    source: PathBuf,
    /// The signing key.
    #[arg(long)]
    key: PathBuf,
    /// The snapshot file; replaced as a whole.
    #[arg(long)]
    out: PathBuf,
    /// Generation; left out: one more than that of the file that is there.
    #[arg(long)]
    generation: Option<u64>,
}

#[derive(Args)]
pub struct Check {
    /// Folder of the source tree.
    #[arg(long)]
    source: PathBuf,
}

#[derive(Args)]
pub struct Diff {
    old: PathBuf,
    new: PathBuf,
}

#[derive(Args)]
pub struct Show {
    path: PathBuf,
    /// Everything, as JSON (without keys).
    #[arg(long)]
    json: bool,
    /// Check the signature against this trust file, too.
    #[arg(long)]
    trust: Option<PathBuf>,
}

impl Snapshot {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Snapshot::Keygen(verb) => verb.run(),
            Snapshot::Build(verb) => verb.run(),
            Snapshot::Check(verb) => verb.run(),
            Snapshot::Diff(verb) => verb.run(),
            Snapshot::Show(verb) => verb.run(),
        }
    }
}

impl Keygen {
    fn run(self) -> Result<(), Failure> {
        let failed = |error: tidegate_contract::KeyError| Failure::Host(error.to_string());
        source_dir::make_dir(&self.out)?;
        let signing = self.out.join("signing.key");
        if signing.exists() {
            println!("kept {}", signing.display());
        } else {
            made(&signing, SigningKey::generate().map_err(failed)?.to_text().as_bytes(), true)?;
        }
        let trust = self.out.join("trust.pub");
        if trust.exists() {
            println!("kept {}", trust.display());
        } else {
            let public = source_dir::signing_key(&signing)?.public();
            made(&trust, PublicKey::list_to_text(&[public]).as_bytes(), false)?;
        }
        for name in ["heartbeat.key", "admin.key"] {
            let path = self.out.join(name);
            if path.exists() {
                println!("kept {}", path.display());
            } else {
                made(&path, (random_key_hex().map_err(failed)? + "\n").as_bytes(), true)?;
            }
        }
        Ok(())
    }
}

fn made(path: &Path, content: &[u8], secret: bool) -> Result<(), Failure> {
    source_dir::write_new(path, content, secret)?;
    println!("made {}", path.display());
    Ok(())
}

impl Build {
    fn run(self) -> Result<(), Failure> {
        let key = source_dir::signing_key(&self.key)?;
        let generation = match self.generation {
            Some(generation) => generation,
            None => self.next_generation(&key)?,
        };
        let snapshot = source_dir::compile_dir(&self.source, generation)?;
        let file = sign(&snapshot, &key);
        // What no daemon would take is not published.
        verify(&file, &[key.public()]).map_err(|error| Failure::content(&self.out, error))?;
        source_dir::replace(&self.out, &file, true)?;
        let (signer, services, servers) =
            (key.public().id(), snapshot.delivery_services.len(), snapshot.servers.len());
        println!(
            "{}: generation {generation}, {services} delivery services, {servers} servers, key {signer}",
            self.out.display()
        );
        Ok(())
    }

    fn next_generation(&self, key: &SigningKey) -> Result<u64, Failure> {
        let bytes = match std::fs::read(&self.out) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(1),
            Err(error) => return Err(Failure::file(&self.out, &error)),
        };
        match verify(&bytes, &[key.public()]) {
            Ok(before) => Ok(before.generation.saturating_add(1)),
            Err(error) => Err(Failure::content(
                &self.out,
                format!("the file that is there tells no generation ({error}); give --generation"),
            )),
        }
    }
}

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let (snapshot, hints) = source_dir::check_dir(&self.source)?;
        for hint in &hints {
            println!("hint: {hint}");
        }
        println!(
            "{}: good: {} delivery services, {} cache groups, {} servers, {} coverage zone prefixes",
            self.source.display(),
            snapshot.delivery_services.len(),
            snapshot.cache_groups.len(),
            snapshot.servers.len(),
            snapshot.coverage_zones.len()
        );
        Ok(())
    }
}

impl Diff {
    fn run(self) -> Result<(), Failure> {
        let (old, _) = source_dir::look(&self.old)?;
        let (new, _) = source_dir::look(&self.new)?;
        let changes = diff(&old, &new);
        for change in &changes {
            println!("{change}");
        }
        if changes.is_empty() {
            println!("no difference");
        }
        Ok(())
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let (mut snapshot, signer) = source_dir::look(&self.path)?;
        let checked = match &self.trust {
            Some(trust) => {
                source_dir::trusted(&self.path, trust)?;
                "checked"
            }
            None => "not checked (give --trust)",
        };
        if self.json {
            snapshot.keys.heartbeat_hex = "(not shown)".to_owned();
            snapshot.keys.admin_hex = snapshot.keys.admin_hex.map(|_| "(not shown)".to_owned());
            let text = serde_json::to_string_pretty(&snapshot)
                .map_err(|error| Failure::Input(format!("the snapshot is no JSON: {error}")))?;
            println!("{text}");
            return Ok(());
        }
        println!("cdn         {}", snapshot.cdn);
        println!("zone        {}", snapshot.zone);
        if let Some(signer) = signer {
            println!("generation  {}", snapshot.generation);
            println!("signed by   key {signer}, signature {checked}");
        }
        println!("default     group {}", snapshot.steering.default_group);
        println!("prefixes    {} of coverage zones", snapshot.coverage_zones.len());
        for service in &snapshot.delivery_services {
            let hosts = if service.hosts.is_empty() {
                "no own host".to_owned()
            } else {
                service.hosts.join(", ")
            };
            let inactive = if service.active { "" } else { " (inactive)" };
            println!(
                "delivery service {}{inactive}: {hosts}; origins {}",
                service.id,
                service.origins.join(", ")
            );
            for behaviour in &service.behaviours {
                let ttl = match (
                    behaviour.cache,
                    behaviour.override_ttl_seconds,
                    behaviour.default_ttl_seconds,
                ) {
                    (false, ..) => "not cached".to_owned(),
                    (_, Some(ttl), _) => format!("{ttl} s always"),
                    (_, None, Some(ttl)) => format!("{ttl} s by default"),
                    (_, None, None) => "as the origin says".to_owned(),
                };
                println!("    {:<20} {:<20} {ttl}", behaviour.name, behaviour.path);
            }
        }
        for group in &snapshot.cache_groups {
            let parents =
                group.parent_group.as_ref().map_or(String::new(), |p| format!(", parents {p}"));
            println!(
                "cache group {} at {}, {}{parents}",
                group.id, group.latitude, group.longitude
            );
            for server in
                snapshot.servers.iter().filter(|s| s.cache_group.as_ref() == Some(&group.id))
            {
                print_server(server);
            }
        }
        println!("without a cache group");
        snapshot.servers.iter().filter(|s| s.cache_group.is_none()).for_each(print_server);
        Ok(())
    }
}

fn print_server(server: &tidegate_contract::Server) {
    let addresses: Vec<String> = server.addresses.iter().map(ToString::to_string).collect();
    let ports = [
        ("http", server.http_port),
        ("https", server.https_port),
        ("dns", server.dns_port),
        ("heartbeats", server.heartbeat_port),
        ("admin", Some(server.admin_port)),
    ];
    let ports: Vec<String> =
        ports.iter().filter_map(|(name, port)| Some(format!("{name} {}", (*port)?))).collect();
    let role = format!("{:?}", server.role).to_lowercase();
    println!(
        "    {:<16} {role:<8} {:<10?} {}: {}",
        server.id,
        server.status,
        addresses.join(" "),
        ports.join(", ")
    );
}
