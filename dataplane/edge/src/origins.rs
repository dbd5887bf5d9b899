//! What a parent needs to ask origins that are not just asked: trusted authorities, credentials of buckets.
//!
//! Must stay true: a file that cannot be read refuses the snapshot (the running one goes on); no authority is trusted that
//! is not in its file; credentials that change are taken up while running, broken ones leave the old ones in place.

use crate::tls;
use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tidegate_contract::{OriginS3, OriginTls, Role, Server, Snapshot};
use tidegate_engine::View;
use tidegate_fill::sigv4::Credentials;
use tidegate_fill::{HopAccess, HopS3, HopTls, Hops, node_name};

/// Where Debian and most others keep the system's authorities.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The view of server `id`, with what it needs to ask its origins.
///
/// # Errors
/// A text that names what is missing or cannot be read, and the mend.
pub fn view(snapshot: &Snapshot, id: &str, hops: &Hops) -> Result<View, String> {
    let is_parent = snapshot.servers.iter().any(|s| s.id == id && s.role == Role::Parent);
    let mut all: HashMap<String, HopAccess> = HashMap::new();
    for server in snapshot.servers.iter().filter(|_| is_parent) {
        let mut access = HopAccess::default();
        if let Some(tls) = &server.origin_tls {
            access.tls = Some(Arc::new(hop_tls(server, tls)?));
        }
        if let Some(s3) = &server.origin_s3 {
            access.s3 = Some(Arc::new(hop_s3(server, s3)?));
        }
        all.insert(server.id.clone(), access);
    }
    // Edges and parents that prove themselves to each other.
    let mine = snapshot.servers.iter().find(|server| server.id == id);
    if let Some(fleet) = mine.and_then(|me| me.machine.fleet_tls.as_ref()) {
        let (config, judged_by) =
            tls::fleet_client(fleet).map_err(|what| format!("server {id}: {what}"))?;
        for server in snapshot.servers.iter().filter(|s| s.machine.fleet_tls.is_some()) {
            let name = node_name(&server.id, &snapshot.zone);
            let name = ServerName::try_from(name)
                .map_err(|_| format!("server {}: its name is no host name", server.id))?;
            let tls = Some(Arc::new(HopTls { config: config.clone(), name, judged_by }));
            all.insert(server.id.clone(), HopAccess { tls, s3: None });
        }
    }
    let access = |server: &Server| all.get(&server.id).cloned().unwrap_or_default();
    View::new(snapshot, id, &access, hops).map_err(|error| error.to_string())
}

fn hop_s3(server: &Server, s3: &OriginS3) -> Result<HopS3, String> {
    let file = PathBuf::from(&s3.credentials_file);
    let credentials =
        read_credentials(&file).map_err(|what| format!("origin {}: {what}", server.id))?;
    let mut before = s3.bucket.as_deref().map(|bucket| format!("/{bucket}")).unwrap_or_default();
    if let Some(prefix) = s3.prefix.as_deref().map(|prefix| prefix.trim_matches('/')) {
        before.push('/');
        before.push_str(prefix);
    }
    let credentials = ArcSwap::from_pointee(credentials);
    Ok(HopS3 { region: s3.region.clone(), before, credentials, file })
}

fn read_credentials(file: &Path) -> Result<Credentials, String> {
    let place = file.display();
    let mend = "mend: write aws_access_key_id = ... and aws_secret_access_key = ..., readable by this user";
    let text = std::fs::read_to_string(file)
        .map_err(|e| format!("credentials {place}: {e}\n    {mend}"))?;
    Credentials::from_text(&text).map_err(|e| format!("credentials {place}: {e}\n    {mend}"))
}

/// Takes up credentials that have changed. For the control thread, now and then.
pub fn refresh(view: &View, seen: &mut HashMap<PathBuf, SystemTime>) {
    let mut told = HashSet::new();
    for s3 in
        view.services().iter().flat_map(|service| &service.hops).filter_map(|hop| hop.s3.as_ref())
    {
        let Ok(changed) = std::fs::metadata(&s3.file).and_then(|meta| meta.modified()) else {
            continue;
        };
        if seen.get(&s3.file) == Some(&changed) && !told.contains(&s3.file) {
            continue;
        }
        let first = seen.insert(s3.file.clone(), changed).is_none();
        told.insert(s3.file.clone());
        match read_credentials(&s3.file) {
            Ok(credentials) if **s3.credentials.load() != credentials => {
                s3.credentials.store(Arc::new(credentials));
                eprintln!("tidegated {}: credentials {} read again", view.me.id, s3.file.display());
            }
            Ok(_) => {}
            Err(what) if !first => {
                eprintln!("tidegated {}: the old credentials go on: {what}", view.me.id)
            }
            Err(_) => {}
        }
    }
}

fn hop_tls(server: &Server, origin: &OriginTls) -> Result<HopTls, String> {
    let path = origin.ca_file.as_deref().unwrap_or(SYSTEM_AUTHORITIES);
    let roots = tls::authorities(path, "origin_tls.ca_file")
        .map_err(|what| format!("origin {}: {what}", server.id))?;
    let name = ServerName::try_from(origin.name.clone())
        .map_err(|_| format!("origin {}: `{}` is no server name", server.id, origin.name))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS is not available: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = true; // records are opened by tidegate_tls
    Ok(HopTls { config: Arc::new(config), name, judged_by: 0 })
}
