//! `tidegate purge`: takes something out of every cache of the fleet, and says of each node whether it is done.
//!
//! Parents first, then edges: an edge that fills again must not find the old content at its parent. Before anybody is asked
//! the order is in the purge log (`<snapshot>.purges`), where nodes that cannot be reached find it when they are back.
//! Must stay true: the command succeeds only when every node has given its receipt; a receipt means that a restart cannot
//! undo the purge; of a node it is said that it will catch up only when the order is in the log, on disk.

use crate::admin_port::{self, Asked, Identity, Missing, plain, random};
use crate::failure::Failure;
use crate::purge_log;
use crate::source_dir;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidegate_contract::{AdminKey, Role, Server, ServerStatus, Snapshot};

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
    /// Only these nodes, and not by the purge log; left out: all edges and parents that are not OFFLINE.
    #[arg(long)]
    node: Vec<String>,
    /// The snapshot file; it holds the nodes' addresses and the admin key. The purge log lies beside it.
    #[arg(long)]
    snapshot: PathBuf,
    /// The trust file.
    #[arg(long)]
    trust: PathBuf,
    /// Leave the purge log as it is: nodes that are away never learn of this purge.
    #[arg(long)]
    unlogged: bool,
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
    outcome: Result<Value, Missing>,
    took: Duration,
}

impl Purge {
    pub fn run(self) -> Result<(), Failure> {
        let snapshot = source_dir::trusted(&self.snapshot, &self.trust)?;
        let key = admin_port::key_of(&snapshot)?;
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
        let is_logged = !self.unlogged && self.node.is_empty();
        if is_logged {
            purge_log::add(&self.snapshot, &self.logged(&id, &snapshot), &key, random()?)?;
        }
        let mut receipts = Vec::new();
        for role in [Role::Parent, Role::Edge] {
            let tier: Vec<&Server> = nodes.iter().copied().filter(|n| n.role == role).collect();
            receipts.extend(self.ask_all(&snapshot.zone, &tier, &key, &order)?);
        }
        self.report(&id, &receipts, is_logged);
        let missing: Vec<&str> =
            receipts.iter().filter(|r| r.outcome.is_err()).map(|r| r.node.as_str()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!(
            "not purged on {} of {} nodes ({})",
            missing.len(),
            receipts.len(),
            missing.join(", ")
        );
        let are_away = receipts.iter().all(|r| !matches!(r.outcome, Err(Missing::Refused(_))));
        Err(Failure::Input(match is_logged && are_away {
            true => format!("{what}: they will, by the purge log, before they serve again"),
            false => format!("{what}; mend that and run it again, for these alone with --node"),
        }))
    }

    /// The order as the log has it: a URL with its delivery service, which a node falls back to.
    fn logged(&self, id: &str, snapshot: &Snapshot) -> String {
        let mut order = self.order(id);
        let host = self.url.as_deref().and_then(host_of);
        if let Some(host) = host.filter(|_| self.service.is_none())
            && let Some(service) =
                snapshot.delivery_services.iter().find(|service| service.hosts.contains(&host))
        {
            order["delivery_service"] = json!(service.id);
        }
        order.to_string()
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
        let identity = &self.identity;
        let asked = Asked { identity, zone, target: TARGET, body: order, span };
        let mut receipts = Vec::new();
        for some in nodes.chunks(NODES_AT_ONCE) {
            let nonces = some.iter().map(|_| random()).collect::<Result<Vec<_>, _>>()?;
            let answered: Vec<Receipt> = std::thread::scope(|scope| {
                let threads: Vec<_> = some
                    .iter()
                    .zip(nonces)
                    .map(|(node, nonce)| scope.spawn(move || ask(asked, node, key, nonce)))
                    .collect();
                let ended = threads.into_iter().zip(some).map(|(thread, node)| {
                    thread.join().unwrap_or_else(|_| Receipt {
                        node: node.id.clone(),
                        role: node.role,
                        outcome: Err(Missing::Away(
                            "asking it ended by a broken invariant".to_owned(),
                        )),
                        took: Duration::ZERO,
                    })
                });
                ended.collect()
            });
            receipts.extend(answered);
        }
        Ok(receipts)
    }

    fn report(&self, id: &str, receipts: &[Receipt], is_logged: bool) {
        let waits = |missing: &Missing| is_logged && matches!(missing, Missing::Away(_));
        if self.json {
            let nodes: Vec<Value> = receipts
                .iter()
                .map(|receipt| {
                    let (done, said, waits) = match &receipt.outcome {
                        Ok(answer) => (true, answer.clone(), false),
                        Err(missing) => (false, json!(missing.why()), waits(missing)),
                    };
                    let took_ms = receipt.took.as_millis() as u64;
                    json!({
                        "node": receipt.node,
                        "role": receipt.role,
                        "purged": done,
                        "waits": waits,
                        "answer": said,
                        "took_ms": took_ms,
                    })
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
                Err(missing) if waits(missing) => println!(
                    "  {:<16} {role:<7} waits: purged when it is back, by the purge log ({})",
                    receipt.node,
                    missing.why()
                ),
                Err(missing) => {
                    println!("  {:<16} {role:<7} NOT purged: {}", receipt.node, missing.why());
                }
            }
        }
    }
}

fn ask(asked: Asked<'_>, node: &Server, key: &AdminKey, nonce: u64) -> Receipt {
    let begun = Instant::now();
    let outcome = admin_port::order(node, key, nonce, asked);
    Receipt { node: node.id.clone(), role: node.role, outcome, took: begun.elapsed() }
}

/// The host of a URL, as delivery services name theirs.
fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    Some(host.to_ascii_lowercase())
}

const TARGET: &str = "/purge";
const NODES_AT_ONCE: usize = 64;
