//! TLS to clients: which certificate is shown to whom, who has to prove itself, and the transport that requests come by.
//!
//! Viewers get TLS 1.3 and the certificate that is made out to the name they ask for. Devices that do not know TLS 1.3 get TLS 1.2
//! if they ask for the name of a delivery service that allows it, and may ask on for services that do. Under a node's own name
//! (`<server id>.<zone>`) it speaks to other servers of the fleet only: both ends show certificates that the fleet's authorities
//! have signed. A parent with `fleet_tls` speaks to nobody else. With `admin_tls` the admin port is for operators who prove themselves,
//! to authorities of its own: an operator is no server.
//!
//! Must stay true: who has not proved itself is a viewer; a session of one kind is not resumed as one of the other (fleet
//! sessions are not resumed at all), nor under another name than it was begun with (rustls sees to it); who can speak TLS 1.3
//! is spoken to in nothing else; files that cannot be used leave the old ones in use; who is revoked is answered nothing from
//! the moment on in which that is read, on a connection that stands neither.

use crate::h3::QuicTls;
use crate::tickets::Tickets;
use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidegate_certificates::revoked::{self, client_verifier, server_verifier};
use tidegate_certificates::{Revoked, Shown};
use tidegate_contract::{Certificate, FleetTls, Ktls, Role, Server};
use tidegate_engine::client::SEND_STALL_MAX;
use tidegate_engine::clock::wall_ms;
use tidegate_engine::{Core, Face, Node, Protection, Transport};
use tidegate_fill::TlsStream;
use tidegate_ring::{KernelSealing, TcpStream, timeout};
use tidegate_tls::{Hello, HelloReader, Server as ServerSide, Session, Side};
use tidegate_types::rendezvous::identity;

/// From the connection's first byte to the end of the handshake.
pub const HANDSHAKE_SPAN_MAX: Duration = Duration::from_secs(10);

type Versions = &'static [&'static SupportedProtocolVersion];
const TLS13: Versions = &[&rustls::version::TLS13];
const TLS12: Versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
/// Sessions that this process keeps, of each kind.
const KEPT_SESSIONS_MAX: usize = 4096;
/// With a client's first flight: a request or two.
const EARLY_BYTES_MAX: u32 = 8 << 10;

/// How this node speaks TLS; replaced whole when a file of it changes.
pub struct Tls {
    /// `None`: viewers are not served.
    viewers: Option<Arc<ServerConfig>>,
    /// And in TLS 1.2, where they may.
    old: Option<Arc<ServerConfig>>,
    /// And for those who may send data with their first flight.
    early: Option<Arc<ServerConfig>>,
    /// And by HTTP/3.
    quic: Option<Arc<QuicTls>>,
    /// And the name under which it is used where there are viewers too.
    fleet: Option<(String, Proving)>,
    /// For operators, on the admin port.
    admin: Option<Proving>,
    /// What is shown by any of these.
    shown: Arc<Vec<Shown>>,
}

/// For clients that prove themselves.
struct Proving {
    config: Arc<ServerConfig>,
    /// Who is shut out all the same.
    revoked: Option<Revoked>,
}

/// Tells once what the kernel can seal, where it shall.
pub fn tell_kernel_sealing(me: &Server, node: &Node) {
    if me.machine.ktls == Ktls::Off || me.https_port.is_none() {
        return;
    }
    let found = KernelSealing::of_host();
    let gauge = &node.counters[0].ktls_available;
    match found {
        _ if node.kernel_sealing.get().is_some() => return, // told
        Ok(kernel) => {
            gauge.set(1);
            eprintln!("tidegated {}: ktls: the kernel seals {kernel}", me.id);
        }
        Err(why) => eprintln!(
            "tidegated {}: ktls: this kernel does not seal, so that the process does: {why}\n    mend: modprobe tls (and name it in \
             /etc/modules-load.d), or ktls = \"off\"",
            me.id
        ),
    }
    let told = found.map_or_else(|why| format!("no: {why}"), ToString::to_string);
    let _told_meanwhile = node.kernel_sealing.set(told);
}

/// Whom a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Traffic,
    Admin,
}

impl Tls {
    /// Reads what `me` shows to clients; `own_name` is the node's among the fleet.
    ///
    /// # Errors
    /// A text that names the file and what is wrong with it.
    pub fn read(me: &Server, own_name: &str) -> Result<Tls, String> {
        let provider = provider();
        let machine = &me.machine;
        let mut all_shown = Vec::new();
        let (viewers, [old, early], quic) = if machine.certificates.is_empty() {
            (None, [None, None], None)
        } else {
            let shown = Arc::new(Certificates::read(&machine.certificates, &provider)?);
            all_shown.clone_from(&shown.shown);
            let old = old_config(&provider, shown.clone())?;
            let early = early_config(&provider, shown.clone())?;
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(TLS13)
                .map_err(|e| format!("TLS 1.3 is not available: {e}"))?
                .with_no_client_auth()
                .with_cert_resolver(shown.clone());
            config.ticketer = Arc::new(Tickets::new(machine.ticket_secret_file.as_deref())?);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.ignore_client_order = true;
            // Sessions with early data are resumed by what they were begun with.
            let early_over_quic = early_config(&provider, shown)?;
            let over_quic = QuicTls::new(config.clone(), early_over_quic)?;
            let kept = [old, early].map(|config| Some(Arc::new(viewers_speak(config))));
            (Some(Arc::new(viewers_speak(config))), kept, Some(Arc::new(over_quic)))
        };
        // A parent that knows its fleet is asked by nobody else.
        let alone = me.role == Role::Parent && machine.fleet_tls.is_some();
        if alone {
            all_shown.clear();
        }
        let fleet = match &machine.fleet_tls {
            None => None,
            Some(fleet) => {
                let (proving, shown) = proving(fleet, "fleet_tls", provider.clone())?;
                all_shown.push(shown);
                Some((own_name.to_owned(), proving))
            }
        };
        let admin = match &machine.admin_tls {
            None => None,
            Some(admin) => {
                let (proving, shown) = proving(admin, "admin_tls", provider)?;
                all_shown.push(shown);
                Some(proving)
            }
        };
        let shown = Arc::new(all_shown);
        if alone {
            return Ok(Tls {
                viewers: None,
                old: None,
                early: None,
                quic: None,
                fleet,
                admin,
                shown,
            });
        }
        Ok(Tls { viewers, old, early, quic, fleet, admin, shown })
    }

    /// Has `node` say what is shown, and who is shut out, and tells what of it has ended, has not begun, or ends soon. It is shown
    /// all the same: a node that refused its certificates would be of use to nobody, and clients with a wrong clock, or without
    /// one, go on.
    pub fn tell(&self, node: &Node) {
        let now = i64::try_from(wall_ms() / 1000).unwrap_or(i64::MAX);
        let lists = [self.revoked(Door::Traffic), self.revoked(Door::Admin)];
        let lists = || lists.into_iter().flatten();
        let shown = self.shown.iter().flat_map(|shown| shown.remarks(now));
        for remark in shown.chain(lists().flat_map(|lists| lists.remarks(now))) {
            eprintln!("tidegated {}: {remark}", node.view.load().me.id);
        }
        node.certificates.store(self.shown.clone());
        node.revoked.store(Arc::new(lists().flat_map(Revoked::listed).cloned().collect()));
    }

    /// Who is shut out there.
    fn revoked(&self, door: Door) -> Option<&Revoked> {
        let proving = match door {
            Door::Traffic => self.fleet.as_ref().map(|(_, fleet)| fleet),
            Door::Admin => self.admin.as_ref(),
        };
        proving?.revoked.as_ref()
    }

    /// For viewers by HTTP/3, to whom the node's own name means nothing.
    pub fn quic(&self) -> Option<&Arc<QuicTls>> {
        self.quic.as_ref()
    }

    /// Whether operators must prove themselves.
    pub fn guards_admin(&self) -> bool {
        self.admin.is_some()
    }

    /// The configuration for a client, and whether that is one for the fleet.
    fn choose(&self, name: Option<&str>, kind: Kind) -> Option<(Arc<ServerConfig>, bool)> {
        if let Some((own, fleet)) = &self.fleet
            && (self.viewers.is_none() || name == Some(own))
        {
            return Some((fleet.config.clone(), true));
        }
        let config = match kind {
            Kind::Usual => &self.viewers,
            Kind::Old => &self.old,
            Kind::Early => &self.early,
        };
        Some((config.clone()?, false))
    }
}

/// What a viewer and the service that he asks for have in common.
enum Kind {
    Usual,
    /// He cannot speak TLS 1.3, and need not.
    Old,
    /// He may send data with his first flight.
    Early,
}

/// For clients that have to show a certificate from these authorities, and one that is not revoked. Their sessions are not
/// resumed. `field` names the files in the configuration.
fn proving(
    files: &FleetTls,
    field: &str,
    provider: Arc<CryptoProvider>,
) -> Result<(Proving, Shown), String> {
    let (roots, known) = known(&files.authorities, &format!("{field}.authorities"))?;
    let (chain, key) = (chain(&files.chain)?, private_key(&files.key)?);
    let revoked = lists(files, field, &known, &chain)?;
    let verifier = client_verifier(Arc::new(roots), revoked.as_ref(), &provider)
        .map_err(|e| format!("authorities {}: {e}", files.authorities))?;
    let shown = Shown::of(&files.chain, &chain);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS13)
        .map_err(|e| format!("TLS 1.3 is not available: {e}"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| mismatch(&files.chain, &files.key, &e))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Proving { config: Arc::new(finish(config)), revoked }, shown))
}

/// What protects the bytes of this session.
pub fn protection(session: &Session<ServerSide>) -> Protection {
    match session.version() {
        Some(ProtocolVersion::TLSv1_3) => Protection::Tls13,
        _ => Protection::Tls12,
    }
}

/// For devices that do not know TLS 1.3: key agreement with forward secrecy and authenticated ciphers (rustls has no others), no
/// renegotiation, and the extended master secret (RFC 7627), without which a session is not bound to its handshake.
///
/// A ticket of TLS 1.2 holds the keys of what was said: who learns its key reads it. So these sessions are kept here instead,
/// and this process alone resumes them. TLS 1.3 is among the versions so that a client whose wish for it was taken out on
/// the way can see that (RFC 8446 §4.1.3).
fn old_config(
    provider: &Arc<CryptoProvider>,
    shown: Arc<Certificates>,
) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(TLS12)
        .map_err(|e| format!("TLS 1.2 is not available: {e}"))?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.require_ems = true;
    config.session_storage = ServerSessionMemoryCache::new(KEPT_SESSIONS_MAX);
    Ok(config)
}

/// Whether `me` speaks TLS anywhere.
pub fn is_wanted(me: &Server) -> bool {
    me.https_port.is_some() || me.machine.admin_tls.is_some()
}

/// The cryptography, with the cheapest of the good ciphers first. Every client of TLS 1.3 has AES-128 (RFC 8446 section 9.1), and
/// its key schedule is of SHA-256, which processors know; OpenSSL's clients would take AES-256 with SHA-384 when asked, for
/// twice the handshake (decision 0009).
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let cheap = CipherSuite::TLS13_AES_128_GCM_SHA256;
    // Stable: the others keep their order.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != cheap);
    Arc::new(provider)
}

/// All files that a server's TLS is made of.
pub fn files(me: &Server) -> Vec<PathBuf> {
    let machine = &me.machine;
    let shown = machine.certificates.iter().flat_map(|certificate| {
        [Some(&certificate.chain), Some(&certificate.key), certificate.staple.as_ref()]
    });
    let fleet = machine.fleet_tls.iter().chain(&machine.admin_tls);
    let fleet = fleet.flat_map(FleetTls::files);
    let secret = machine.ticket_secret_file.iter();
    shown.flatten().chain(fleet).chain(secret).map(PathBuf::from).collect()
}

/// How `me` asks other servers of the fleet, and a number for what they are judged by.
///
/// # Errors
/// A text that names the file and what is wrong with it.
pub fn fleet_client(fleet: &FleetTls) -> Result<(Arc<ClientConfig>, u64), String> {
    let provider = provider();
    let (roots, known) = known(&fleet.authorities, "fleet_tls.authorities")?;
    let (chain, key) = (chain(&fleet.chain)?, private_key(&fleet.key)?);
    let revoked = lists(fleet, "fleet_tls", &known, &chain)?;
    let said = revoked.iter().flat_map(Revoked::lists).map(AsRef::as_ref);
    let judged_by: Vec<&[u8]> = known.iter().chain(&chain).map(AsRef::as_ref).chain(said).collect();
    let judged_by = identity(&judged_by.concat());
    let verifier = server_verifier(Arc::new(roots), revoked.as_ref(), &provider)
        .map_err(|e| format!("authorities {}: {e}", fleet.authorities))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS13)
        .map_err(|e| format!("TLS 1.3 is not available: {e}"))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(|e| mismatch(&fleet.chain, &fleet.key, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = true; // records are opened by tidegate_tls
    Ok((Arc::new(config), judged_by))
}

/// For services with `early_data`. Sessions are kept here, and each is resumed once (rustls takes it out): so a first flight that
/// somebody plays back is answered with a handshake that he cannot finish, and by no other process either.
fn early_config(
    provider: &Arc<CryptoProvider>,
    shown: Arc<Certificates>,
) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(TLS13)
        .map_err(|e| format!("TLS 1.3 is not available: {e}"))?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.session_storage = ServerSessionMemoryCache::new(KEPT_SESSIONS_MAX);
    config.max_early_data_size = EARLY_BYTES_MAX;
    config.send_half_rtt_data = true;
    Ok(config)
}

fn viewers_speak(config: ServerConfig) -> ServerConfig {
    let mut config = finish(config);
    config.alpn_protocols.insert(0, b"h2".to_vec());
    config
}

fn finish(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = true; // records are sealed by tidegate_tls
    config
}

/// The authorities of a PEM file; `field` names it in the configuration.
///
/// # Errors
/// A text that names the file and the mend.
pub fn authorities(path: &str, field: &str) -> Result<RootCertStore, String> {
    known(path, field).map(|(roots, _)| roots)
}

/// And their certificates.
fn known(path: &str, field: &str) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let failed = |what: &dyn std::fmt::Display| {
        format!("authorities {path}: {what}\n    mend: give {field} a PEM file of the authorities")
    };
    let mut roots = RootCertStore::empty();
    let (mut good, mut bad) = (Vec::new(), 0);
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))? {
        let certificate = certificate.map_err(|e| failed(&e))?;
        match roots.add(certificate.clone()) {
            Ok(()) => good.push(certificate),
            Err(_) => bad += 1,
        }
    }
    match good.is_empty() {
        true => Err(failed(&format!("no usable certificate in it ({bad} unusable)"))),
        false => Ok((roots, good)),
    }
}

/// Whom `files` shut out; `None`: it says nothing of that.
fn lists(
    files: &FleetTls,
    field: &str,
    known: &[CertificateDer<'_>],
    chain: &[CertificateDer<'_>],
) -> Result<Option<Revoked>, String> {
    let read = |path: &String| Revoked::read(path, &format!("{field}.revoked"), known, chain);
    files.revoked.as_ref().map(read).transpose()
}

fn chain(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let mend = "mend: give a PEM file with the chain, leaf first";
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(chain) if chain.is_empty() => Err(format!("certificate {path}: none in it\n    {mend}")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("certificate {path}: {error}\n    {mend}")),
    }
}

fn private_key(path: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| {
        format!("key {path}: {e}\n    mend: give a PEM file with the certificate's private key")
    })
}

fn mismatch(chain: &str, key: &str, error: &rustls::Error) -> String {
    format!(
        "certificate {chain} and key {key} do not go together: {error}\n    mend: give both files of one pair; while it is being \
         changed, put the key in place first"
    )
}

/// Certificates by the names that they are made out to.
#[derive(Debug)]
struct Certificates {
    /// In lower case; several where they have different kinds of keys.
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// What follows `*.` in their names.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that ask for another name, or for none.
    first: Vec<Arc<CertifiedKey>>,
    /// Of each file, in their order.
    shown: Vec<Shown>,
}

impl Certificates {
    fn read(list: &[Certificate], provider: &CryptoProvider) -> Result<Certificates, String> {
        let mut all = Certificates {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            first: Vec::new(),
            shown: Vec::new(),
        };
        for Certificate { chain: chain_path, key: key_path, staple } in list {
            let (chain, key) = (chain(chain_path)?, private_key(key_path)?);
            all.shown.push(Shown::of(chain_path, &chain));
            let mut certified = CertifiedKey::from_der(chain, key, provider)
                .map_err(|e| mismatch(chain_path, key_path, &e))?;
            if let Some(path) = staple {
                let mend = "mend: openssl ocsp ... -respout the file, or leave staple out";
                let staple =
                    std::fs::read(path).map_err(|e| format!("staple {path}: {e}\n    {mend}"))?;
                // RFC 6960 §4.2.1: a sequence.
                if staple.first() != Some(&0x30) {
                    return Err(format!("staple {path}: no OCSP response in DER\n    {mend}"));
                }
                certified.ocsp = Some(staple);
            }
            let certified = Arc::new(certified);
            let leaf =
                certified.end_entity_cert().map_err(|e| mismatch(chain_path, key_path, &e))?;
            let leaf = webpki::EndEntityCert::try_from(leaf)
                .map_err(|e| format!("certificate {chain_path}: {e}"))?;
            for name in leaf.valid_dns_names().map(str::to_ascii_lowercase) {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut all.wildcard, parent.to_owned()),
                    None => (&mut all.exact, name),
                };
                names.entry(name).or_default().push(certified.clone());
            }
            all.first.push(certified);
        }
        all.first.truncate(1);
        Ok(all)
    }

    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.first };
        let by_wildcard = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(&name).or_else(by_wildcard).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(hello.server_name());
        let schemes = hello.signature_schemes();
        let fits = |key: &dyn SigningKey| key.choose_scheme(schemes).is_some();
        found.iter().find(|certified| fits(&*certified.key)).or(found.first()).cloned()
    }
}

/// A client connection over TLS.
pub struct TlsClient {
    stream: TlsStream<ServerSide>,
    /// Of one who had to prove himself.
    proof: Option<Box<Proof>>,
}

/// Who a client is, and what is known of those who are shut out.
struct Proof {
    tls: Arc<ArcSwapOption<Tls>>,
    door: Door,
    peer: Box<[u8]>,
}

impl Proof {
    /// Of a client who has shown a certificate.
    fn of(
        session: &Session<ServerSide>,
        tls: &Arc<ArcSwapOption<Tls>>,
        door: Door,
    ) -> io::Result<Box<Proof>> {
        // The verifier lets nobody in without a certificate; this is said twice.
        let peer = session.peer().and_then(revoked::peer).ok_or(io::ErrorKind::PermissionDenied)?;
        Ok(Box::new(Proof { tls: tls.clone(), door, peer }))
    }

    fn is_revoked(&self) -> bool {
        let tls = self.tls.load();
        let revoked = tls.as_ref().and_then(|tls| tls.revoked(self.door));
        revoked.is_some_and(|revoked| revoked.holds(&self.peer))
    }
}

impl TlsClient {
    /// Does the handshake; who the client is follows from it.
    pub async fn accept(
        core: &Core,
        tcp: TcpStream,
        tls: &Arc<ArcSwapOption<Tls>>,
        door: Door,
    ) -> io::Result<(TlsClient, Face)> {
        let shaking = async {
            match door {
                Door::Traffic => TlsClient::shake(core, tcp, tls).await,
                Door::Admin => TlsClient::shake_operator(tcp, tls).await,
            }
        };
        match timeout(HANDSHAKE_SPAN_MAX, shaking).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether HTTP/2 was agreed on.
    pub fn speaks_h2(&self) -> bool {
        self.stream.session().alpn() == Some(b"h2")
    }

    /// Waits for the end of the handshake, if data of the first flight is here already.
    pub async fn confirm(&mut self) -> io::Result<()> {
        match timeout(HANDSHAKE_SPAN_MAX, self.stream.confirm(SEND_STALL_MAX)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Has the kernel seal, where that is wanted and the handshake is over.
    pub fn seal_by_kernel(&mut self, core: &Core) {
        if self.stream.seal_by_kernel() {
            core.count(|c| &c.ktls_connections_total, 1);
        }
    }

    /// The connection itself.
    pub fn into_inner(self) -> TlsStream<ServerSide> {
        self.stream
    }

    /// Fails when the client has been revoked.
    fn guard(&self) -> io::Result<()> {
        match &self.proof {
            Some(proof) if proof.is_revoked() => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    async fn shake(
        core: &Core,
        tcp: TcpStream,
        now: &Arc<ArcSwapOption<Tls>>,
    ) -> io::Result<(TlsClient, Face)> {
        let mut come = Vec::new();
        let tls = now.load_full().ok_or(io::ErrorKind::ConnectionRefused)?;
        // What is asked for only matters where there is a choice.
        let has_choice =
            tls.viewers.is_some() && (tls.fleet.is_some() || core.node.view.load().has_tls_rules());
        let (name, speaks_tls13) = match has_choice {
            true => asked(&tcp, &mut come).await?,
            false => (None, true),
        };
        let name = name.as_deref();
        let kind = {
            let view = core.node.view.load();
            match speaks_tls13 {
                false if view.takes_tls12(name) => Kind::Old,
                true if view.takes_early_data(name) => Kind::Early,
                _ => Kind::Usual,
            }
        };
        let Some((config, is_fleet)) = tls.choose(name, kind) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        drop(tls); // not held for as long as the handshake takes
        let by_kernel = core.node.view.load().me.machine.ktls == Ktls::Auto;
        let mut session = Session::server(config).map_err(io::Error::other)?;
        if by_kernel {
            session.keep_key();
        }
        if is_fleet {
            session.keep_peer();
        }
        *session.incoming() = come;
        let stream = TlsStream::begin(tcp, session, SEND_STALL_MAX).await?;
        let (proof, face) = match is_fleet {
            true => (Some(Proof::of(stream.session(), now, Door::Traffic)?), Face::Fleet),
            false => (None, Face::Traffic),
        };
        Ok((TlsClient { stream, proof }, face))
    }

    async fn shake_operator(
        tcp: TcpStream,
        now: &Arc<ArcSwapOption<Tls>>,
    ) -> io::Result<(TlsClient, Face)> {
        let tls = now.load_full();
        let config = tls.as_ref().and_then(|tls| tls.admin.as_ref()).map(|a| a.config.clone());
        drop(tls);
        let mut session = Session::server(config.ok_or(io::ErrorKind::ConnectionRefused)?)
            .map_err(io::Error::other)?;
        session.keep_peer();
        let stream = TlsStream::begin(tcp, session, SEND_STALL_MAX).await?;
        let proof = Some(Proof::of(stream.session(), now, Door::Admin)?);
        Ok((TlsClient { stream, proof }, Face::Admin))
    }
}

/// Receives until the client's first message is whole: the name that it asks for, and whether it can speak TLS 1.3.
async fn asked(tcp: &TcpStream, come: &mut Vec<u8>) -> io::Result<(Option<String>, bool)> {
    let mut reader = HelloReader::default();
    loop {
        if come.len() > ServerSide::HANDSHAKE_BYTES_MAX || tcp.receive(come).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match reader.read(come) {
            Hello::Part => {}
            Hello::Asks { name, speaks_tls13 } => return Ok((name, speaks_tls13)),
            Hello::Refused(error, alert) => {
                // It may be gone already.
                let _gone = tcp.send_all(&[&alert], SEND_STALL_MAX).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

impl Transport for TlsClient {
    async fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        let received = self.stream.receive(into).await?;
        self.guard()?; // what was asked meanwhile is not answered
        Ok(received)
    }

    async fn send_all(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        self.guard()?;
        self.stream.send_all(pieces, SEND_STALL_MAX).await
    }

    async fn close(&mut self) {
        self.stream.close(SEND_STALL_MAX).await;
    }

    fn protection(&self) -> Protection {
        protection(self.stream.session())
    }

    fn is_early(&self) -> bool {
        self.stream.session().is_early()
    }

    async fn confirm(&mut self) -> io::Result<()> {
        TlsClient::confirm(self).await
    }

    fn tcp(&self) -> &TcpStream {
        self.stream.tcp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate for these names, written to `dir`.
    fn certificate(dir: &std::path::Path, file: &str, names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let path = |end: &str| dir.join(format!("{file}.{end}"));
        std::fs::write(path("pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        let text = |end: &str| path(end).display().to_string();
        Certificate { chain: text("pem"), key: text("key"), staple: None }
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidegate-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_certificate_is_the_one_made_out_to_the_name() {
        let dir = folder("names");
        let list = [
            certificate(&dir, "first", &["a.example"]),
            certificate(&dir, "wild", &["*.b.example"]),
            certificate(&dir, "exact", &["x.b.example", "c.example"]),
        ];
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let all = Certificates::read(&list, &provider).unwrap();
        let shown = |name: Option<&str>| {
            let found = all.find(name);
            let pem = |certificate: &Certificate| chain(&certificate.chain).unwrap();
            list.iter().position(|c| pem(c) == found[0].cert)
        };
        assert_eq!(shown(Some("a.example")), Some(0));
        assert_eq!(shown(Some("y.b.example")), Some(1));
        assert_eq!(shown(Some("X.B.example")), Some(2), "before the wildcard, in any case");
        assert_eq!(shown(Some("c.example")), Some(2));
        // One label only (RFC 9525 §6.3), and not the parent itself.
        assert_eq!(shown(Some("z.y.b.example")), Some(0));
        assert_eq!(shown(Some("b.example")), Some(0));
        assert_eq!(shown(None), Some(0));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = folder("bad");
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let good = certificate(&dir, "good", &["a.example"]);
        let other = certificate(&dir, "other", &["b.example"]);
        let empty = dir.join("empty").display().to_string();
        std::fs::write(&empty, "").unwrap();
        let cases = [
            (Certificate { key: other.key.clone(), ..good.clone() }, "do not go together"),
            (Certificate { chain: empty.clone(), ..good.clone() }, "none in it"),
            (Certificate { key: empty.clone(), ..good.clone() }, "private key"),
            (Certificate { chain: "/no/such".into(), ..good.clone() }, "certificate /no/such"),
            (Certificate { staple: Some(empty.clone()), ..good.clone() }, "no OCSP response"),
            (Certificate { staple: Some("/no/such".into()), ..good }, "staple /no/such"),
        ];
        for (case, expected) in cases {
            let error = Certificates::read(&[case], &provider).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
