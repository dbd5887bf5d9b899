//! `tidegate purge`: takes something out of every cache of the fleet, and says of each node whether it is done.
//!
//! Parents first, then edges: an edge that fills again must not find the old content at its parent. Must stay true: the
//! command succeeds only when every node has given its receipt; a receipt means that a restart cannot undo the purge.

use crate::admin_port::Identity;
use crate::failure::Failure;
use crate::source_dir;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use clap::Args;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_contract::{AdminKey, Order, Role, Server, ServerStatus, Snapshot};

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
pub struct Purge {
    /// One URL, as a client would ask for it; what the cache key leaves out does not matter.
    #[arg(long, group = "what")]
    url: Option<String>,
    /// Everything at and below this path, by whole path segments, like /videos/show-17.
    #[arg(long, group = "what", requires = "service")]
    prefix: Option<String>,
    /// Everything whose answer carried this tag (Surrogate-Key, Cache-Tag or Cache-Groups).
    #[arg(long, group = "what", requires = "service")]
    tag: Option<String>,
    /// Everything of the delivery service.
    #[arg(long, group = "what", requires = "service")]
    all: bool,
    /// Id of the delivery service; needed for all but --url.
    #[arg(long)]
    service: Option<String>,
    /// Gone at once, instead of stale: not even served when the next hop fails.
    #[arg(long)]
    hard: bool,
    /// Only these nodes; left out: all edges and parents that are not OFFLINE.
    #[arg(long)]
    node: Vec<String>,
    /// The snapshot file; it holds the nodes' addresses and the admin key.
    #[arg(long)]
    snapshot: PathBuf,
    /// The trust file.
    #[arg(long)]
    trust: PathBuf,
    #[command(flatten)]
    identity: Identity,
    /// How long to wait for a node, in seconds.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What one node said.
struct Receipt {
    node: String,
    role: Role,
    outcome: Result<Value, String>,
    took: Duration,
}

impl Purge {
    pub fn run(self) -> Result<(), Failure> {
        let snapshot = source_dir::trusted(&self.snapshot, &self.trust)?;
        let hex = snapshot.keys.admin_hex.as_deref().ok_or_else(|| {
            Failure::Input(
                "the snapshot has no admin key; make keys/admin.key with `tidegate snapshot keygen`, then build \
                 and publish a new snapshot"
                    .to_owned(),
            )
        })?;
        let key = AdminKey::from_hex(hex).map_err(|e| Failure::Input(e.to_string()))?;
        if let Some(service) = &self.service
            && !snapshot.delivery_services.iter().any(|known| known.id == *service)
        {
            let known: Vec<&str> =
                snapshot.delivery_services.iter().map(|known| known.id.as_str()).collect();
            return Err(Failure::Input(format!(
                "there is no delivery service `{}`; known: {}",
                service.escape_debug(),
                known.join(", ")
            )));
        }
        let nodes = self.nodes(&snapshot)?;
        let id = format!("{:016x}", random()?);
        let order = self.order(&id).to_string();
        let mut receipts = Vec::new();
        for role in [Role::Parent, Role::Edge] {
            let tier: Vec<&Server> = nodes.iter().copied().filter(|n| n.role == role).collect();
            receipts.extend(self.ask_all(&snapshot.zone, &tier, &key, &order)?);
        }
        self.report(&id, &receipts);
        let missing: Vec<&str> =
            receipts.iter().filter(|r| r.outcome.is_err()).map(|r| r.node.as_str()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failure::Input(format!(
            "not purged on {} of {} nodes ({}); mend that and run it again, for these alone with --node",
            missing.len(),
            receipts.len(),
            missing.join(", ")
        )))
    }

    fn nodes<'a>(&self, snapshot: &'a Snapshot) -> Result<Vec<&'a Server>, Failure> {
        let caches = |server: &&Server| matches!(server.role, Role::Edge | Role::Parent);
        for wanted in &self.node {
            if !snapshot.servers.iter().filter(caches).any(|server| server.id == *wanted) {
                return Err(Failure::Input(format!(
                    "--node {}: the snapshot has no edge or parent of this id",
                    wanted.escape_debug()
                )));
            }
        }
        let wanted = |server: &&Server| match self.node.is_empty() {
            true => server.status != ServerStatus::Offline,
            false => self.node.contains(&server.id),
        };
        Ok(snapshot.servers.iter().filter(caches).filter(wanted).collect())
    }

    fn order(&self, id: &str) -> Value {
        let mut order = json!({ "id": id, "mode": if self.hard { "hard" } else { "soft" } });
        let texts = [
            ("delivery_service", &self.service),
            ("url", &self.url),
            ("prefix", &self.prefix),
            ("tag", &self.tag),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                order[name] = json!(text);
            }
        }
        if self.all {
            order["all"] = json!(true);
        }
        order
    }

    /// Asks nodes at the same time, a bounded number of them.
    fn ask_all(
        &self,
        zone: &str,
        nodes: &[&Server],
        key: &AdminKey,
        order: &str,
    ) -> Result<Vec<Receipt>, Failure> {
        let span = Duration::from_secs(self.timeout.max(1));
        let way = Way { identity: &self.identity, zone, span };
        let mut receipts = Vec::new();
        for some in nodes.chunks(NODES_AT_ONCE) {
            let nonces = some.iter().map(|_| random()).collect::<Result<Vec<_>, _>>()?;
            let asked: Vec<Receipt> = std::thread::scope(|scope| {
                let threads: Vec<_> = some
                    .iter()
                    .zip(nonces)
                    .map(|(node, nonce)| scope.spawn(move || ask(way, node, key, nonce, order)))
                    .collect();
                let ended = threads.into_iter().zip(some).map(|(thread, node)| {
                    thread.join().unwrap_or_else(|_| Receipt {
                        node: node.id.clone(),
                        role: node.role,
                        outcome: Err("asking it ended by a broken invariant".to_owned()),
                        took: Duration::ZERO,
                    })
                });
                ended.collect()
            });
            receipts.extend(asked);
        }
        Ok(receipts)
    }

    fn report(&self, id: &str, receipts: &[Receipt]) {
        if self.json {
            let nodes: Vec<Value> = receipts
                .iter()
                .map(|receipt| {
                    let (done, said) = match &receipt.outcome {
                        Ok(answer) => (true, answer.clone()),
                        Err(why) => (false, json!(why)),
                    };
                    let took_ms = receipt.took.as_millis() as u64;
                    json!({ "node": receipt.node, "role": receipt.role, "purged": done, "answer": said, "took_ms": took_ms })
                })
                .collect();
            println!("{:#}", json!({ "id": id, "nodes": nodes }));
            return;
        }
        println!("purge {id}");
        for receipt in receipts {
            let role = if receipt.role == Role::Parent { "parent" } else { "edge" };
            match &receipt.outcome {
                Ok(answer) => println!(
                    "  {:<16} {role:<7} purged ({}) {}, on disk, {} ms",
                    receipt.node,
                    plain(&answer["mode"]),
                    plain(&answer["purged"]),
                    receipt.took.as_millis()
                ),
                Err(why) => println!("  {:<16} {role:<7} NOT purged: {why}", receipt.node),
            }
        }
    }
}

/// A node's word for the terminal: without control characters.
fn plain(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Failure::Host("the system's random source failed; try again".to_owned()))?;
    Ok(u64::from_le_bytes(bytes))
}

/// How nodes are asked.
#[derive(Clone, Copy)]
struct Way<'a> {
    identity: &'a Identity,
    zone: &'a str,
    span: Duration,
}

fn ask(way: Way<'_>, node: &Server, key: &AdminKey, nonce: u64, order: &str) -> Receipt {
    let begun = Instant::now();
    let outcome = match node.addresses.first() {
        Some(address) => {
            let address = SocketAddr::new(*address, node.admin_port);
            post(way, address, node, key, nonce, order)
                .map_err(|why| format!("admin port {address}: {why}"))
        }
        None => Err("the snapshot gives it no address".to_owned()),
    };
    Receipt { node: node.id.clone(), role: node.role, outcome, took: begun.elapsed() }
}

fn post(
    way: Way<'_>,
    address: SocketAddr,
    node: &Server,
    key: &AdminKey,
    nonce: u64,
    body: &str,
) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let order = Order { method: "POST", node: &node.id, target: TARGET, body: body.as_bytes() };
    let authorization = key.sign(&order, now, nonce);
    let mut stream = way.identity.connect(address, node, way.zone, way.span)?;
    let request = format!(
        "POST {TARGET} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(text)?;
    let head_end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..head_end]);
    let body = &answer[head_end + 4..];
    match head.split(' ').nth(1) {
        Some("200") => serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}")),
        _ => Err(String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).collect()),
    }
}

const TARGET: &str = "/purge";
const NODES_AT_ONCE: usize = 64;
const ANSWER_BYTES_MAX: u64 = 64 << 10;
