//! How the whole chain is, once a second: asks every node for its status and adds up the tiers.
//!
//! Must stay true: a node that does not answer never holds up the others, and its last numbers are not shown
//! as today's: it is down and its counters are absent. Sums per tier keep what a process counted before it
//! was replaced, so that numbers on the pages never fall while the demo runs.

use super::fleet::Pulse;
use super::http;
use super::plan::{Node, Plan, Tier};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// One look at the chain.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Survey {
    /// Seconds since the demo's nodes were ready.
    pub uptime_s: u64,
    pub nodes: Vec<NodeView>,
    pub tiers: BTreeMap<&'static str, TierView>,
    /// What router and monitor say of themselves, as they say it.
    pub router: Value,
    pub monitor: Value,
}

/// One node of it.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    pub id: &'static str,
    pub tier: &'static str,
    pub group: Option<&'static str>,
    pub address: String,
    pub pid: Option<u32>,
    pub up: bool,
    /// How its process ended, when it did.
    pub ended: Option<String>,
    pub restarts: u32,
    pub generation: Option<u64>,
    pub counters: Option<Counters>,
}

/// One tier of it.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct TierView {
    pub up: usize,
    pub nodes: usize,
    /// `None` before the first request that a cache could have answered.
    pub hit_ratio: Option<f64>,
    pub counters: Counters,
}

/// The counters of a data plane node that the demo shows; names as in its `/status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub requests_total: u64,
    pub hits_total: u64,
    pub misses_total: u64,
    pub bytes_sent_total: u64,
    pub bytes_filled_total: u64,
    pub fills_total: u64,
    pub collapsed_total: u64,
    pub connections_open: u64,
}

impl Counters {
    /// Reads `counters` of a `/status`; what is absent counts as zero.
    fn read(status: &Value) -> Counters {
        let n = |name: &str| status["counters"][name].as_u64().unwrap_or(0);
        Counters {
            requests_total: n("requests_total"),
            hits_total: n("hits_total"),
            misses_total: n("misses_total"),
            bytes_sent_total: n("bytes_sent_total"),
            bytes_filled_total: n("bytes_filled_total"),
            fills_total: n("fills_total"),
            collapsed_total: n("collapsed_total"),
            connections_open: n("connections_open"),
        }
    }

    fn plus(self, o: Counters) -> Counters {
        Counters {
            requests_total: self.requests_total.saturating_add(o.requests_total),
            hits_total: self.hits_total.saturating_add(o.hits_total),
            misses_total: self.misses_total.saturating_add(o.misses_total),
            bytes_sent_total: self.bytes_sent_total.saturating_add(o.bytes_sent_total),
            bytes_filled_total: self.bytes_filled_total.saturating_add(o.bytes_filled_total),
            fills_total: self.fills_total.saturating_add(o.fills_total),
            collapsed_total: self.collapsed_total.saturating_add(o.collapsed_total),
            connections_open: self.connections_open.saturating_add(o.connections_open),
        }
    }

    fn hit_ratio(self) -> Option<f64> {
        let asked = self.hits_total.saturating_add(self.misses_total);
        (asked > 0).then(|| self.hits_total as f64 / asked as f64)
    }
}

/// Takes surveys and remembers what ended processes had counted.
pub struct Surveyor {
    ledgers: BTreeMap<&'static str, Ledger>,
}

/// What one node counted, over all processes it has had.
#[derive(Debug, Default, Clone, Copy)]
struct Ledger {
    /// Sum over processes that are gone.
    before: Counters,
    /// Last seen of the present one.
    now: Counters,
    pid: Option<u32>,
}

impl Ledger {
    fn enter(&mut self, pid: Option<u32>, counters: Counters) {
        if self.pid != pid {
            self.before = self.before.plus(Counters { connections_open: 0, ..self.now });
            self.pid = pid;
        }
        self.now = counters;
    }

    fn total(&self, up: bool) -> Counters {
        let now = if up { self.now } else { Counters { connections_open: 0, ..self.now } };
        self.before.plus(now)
    }
}

impl Surveyor {
    /// A surveyor that has seen nothing.
    pub fn new() -> Surveyor {
        Surveyor { ledgers: BTreeMap::new() }
    }

    /// Asks all nodes at once.
    pub async fn look(&mut self, plan: &Plan, pulses: &[Pulse], uptime_s: u64) -> Survey {
        let mut questions = tokio::task::JoinSet::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let (address, path) = (node.admin(), status_path(node.tier));
            questions.spawn(async move { (index, http::get(address, path, STATUS_TIMEOUT).await) });
        }
        let mut answers: Vec<Option<Value>> = vec![None; plan.nodes.len()];
        while let Some(Ok((index, answer))) = questions.join_next().await {
            let body = answer.ok().filter(|a| a.status == 200).map(|a| a.body);
            answers[index] = body.and_then(|b| serde_json::from_slice(&b).ok());
        }
        self.compile(&plan.nodes, pulses, &answers, uptime_s)
    }

    /// Puts answers together; pure but for the ledgers.
    fn compile(
        &mut self,
        nodes: &[Node],
        pulses: &[Pulse],
        answers: &[Option<Value>],
        uptime_s: u64,
    ) -> Survey {
        let mut survey = Survey { uptime_s, ..Survey::default() };
        for (node, answer) in nodes.iter().zip(answers) {
            let pulse = pulses.iter().find(|p| p.id == node.id);
            let pid = pulse.and_then(|p| p.pid);
            let up = answer.is_some() && pid.is_some();
            let tier = survey.tiers.entry(node.tier.word()).or_default();
            tier.nodes += 1;
            tier.up += usize::from(up);
            let mut counters = None;
            if node.tier.is_data_plane() {
                let ledger = self.ledgers.entry(node.id).or_default();
                if let (Some(status), true) = (answer, up) {
                    ledger.enter(pid, Counters::read(status));
                    counters = Some(ledger.now);
                }
                tier.counters = tier.counters.plus(ledger.total(up));
                tier.hit_ratio = tier.counters.hit_ratio();
            }
            match (node.tier, answer) {
                (Tier::Router, Some(status)) => survey.router = status.clone(),
                (Tier::Monitor, Some(status)) => survey.monitor = status.clone(),
                _ => {}
            }
            survey.nodes.push(NodeView {
                id: node.id,
                tier: node.tier.word(),
                group: node.group,
                address: node.address.to_string(),
                pid,
                up,
                ended: pulse.and_then(|p| p.ended.clone()),
                restarts: pulse.map_or(0, |p| p.restarts),
                generation: answer.as_ref().and_then(|a| a["generation"].as_u64()),
                counters,
            });
        }
        survey
    }
}

fn status_path(tier: Tier) -> &'static str {
    if tier.is_data_plane() { "/status" } else { "/api/v1/status" }
}

const STATUS_TIMEOUT: Duration = Duration::from_millis(700);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nodes() -> Vec<Node> {
        let node = |id, tier| Node { id, tier, group: None, address: [127, 0, 0, 1].into() };
        vec![
            node("edge-a1", Tier::Edge),
            node("edge-a2", Tier::Edge),
            node("router-1", Tier::Router),
        ]
    }

    fn pulse(id: &'static str, pid: Option<u32>) -> Pulse {
        Pulse { id, pid, ended: pid.is_none().then(|| "was killed".into()), restarts: 0 }
    }

    fn status(hits: u64, misses: u64) -> Option<Value> {
        let counters =
            json!({"hits_total": hits, "misses_total": misses, "requests_total": hits + misses});
        Some(json!({"generation": 3, "counters": counters}))
    }

    #[test]
    fn tiers_are_sums_and_a_silent_node_is_down() {
        let mut surveyor = Surveyor::new();
        let pulses =
            [pulse("edge-a1", Some(1)), pulse("edge-a2", Some(2)), pulse("router-1", Some(3))];
        let answers = [status(9, 1), None, Some(json!({"up": true}))];
        let survey = surveyor.compile(&nodes(), &pulses, &answers, 5);
        let edges = &survey.tiers["edge"];
        assert_eq!((edges.up, edges.nodes, edges.hit_ratio), (1, 2, Some(0.9)));
        assert!(!survey.nodes[1].up && survey.nodes[1].counters.is_none());
        assert_eq!(survey.nodes[0].generation, Some(3));
        assert_eq!(survey.router["up"], true);
        assert_eq!(survey.tiers["router"].hit_ratio, None);
    }

    #[test]
    fn sums_do_not_fall_when_a_process_is_replaced() {
        let mut surveyor = Surveyor::new();
        let requests = |s: &Survey| s.tiers["edge"].counters.requests_total;
        let with =
            |pid| [pulse("edge-a1", pid), pulse("edge-a2", Some(2)), pulse("router-1", None)];
        let first =
            surveyor.compile(&nodes(), &with(Some(1)), &[status(10, 0), status(1, 0), None], 1);
        assert_eq!(requests(&first), 11);
        let killed = surveyor.compile(&nodes(), &with(None), &[None, status(1, 0), None], 2);
        assert_eq!(requests(&killed), 11);
        let back =
            surveyor.compile(&nodes(), &with(Some(9)), &[status(2, 0), status(1, 0), None], 3);
        assert_eq!(requests(&back), 13);
    }
}
