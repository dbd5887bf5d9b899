//! The decision: delivery service, then place, then cache group, then edges inside it.
//!
//! Order of places: coverage zone, geography, default group. A group without an edge that may be used hands
//! over to its fallbacks, then to the nearest group. Inside a group: weighted rendezvous hash, so that an
//! edge which leaves moves only its own keys. When no edge anywhere may be used, one that drains is, and at
//! last every watched one (panic floor): a wrong health report must not take the whole CDN out.

use crate::{Health, Located, State, Table};
use serde::Serialize;
use std::net::IpAddr;
use tidegate_contract::{LocationStyle, Server, ServerStatus};
use tidegate_types::rendezvous;

/// A question.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Address of the client, or its network's (EDNS client subnet), or its resolver's.
    pub client: IpAddr,
    /// Host or question name: lower case, no port, no dot at the end.
    pub host: &'a str,
    pub ask: Ask<'a>,
    /// Whether the steps shall be told.
    pub trace: bool,
}

/// What the answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Addresses for a name: placed by the delivery service alone.
    Dns,
    /// A redirect for a path (without query): placed by delivery service and path.
    Http { path: &'a str, secure: bool },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub outcome: Outcome,
    /// Id of the delivery service.
    pub service: Option<String>,
    /// How the client was placed, in Traffic Control's words.
    pub reason: Option<Reason>,
    /// How the cache group was come by.
    pub detail: Option<Detail>,
    pub cache_group: Option<String>,
    /// Edges, best first.
    pub edges: Vec<Target>,
    /// Bits of the client's address that this answer holds for.
    pub scope: u8,
    /// The steps in order; empty unless asked for.
    pub trace: Vec<Step>,
}

/// Whether there is something to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Edges,
    /// No delivery service has this host.
    NoService,
    /// There is no edge that could serve this (none exists, or none offers the scheme).
    NoEdge,
}

/// How the client was placed (Traffic Control's `rtype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Reason {
    /// Coverage zone.
    #[serde(rename = "CZ")]
    CoverageZone,
    #[serde(rename = "GEO")]
    Geo,
    /// Neither: default group.
    #[serde(rename = "MISS")]
    Miss,
    /// The name of one edge: nothing to choose.
    #[serde(rename = "STATIC_ROUTE")]
    StaticRoute,
}

impl Reason {
    /// The word of logs.
    pub fn word(self) -> &'static str {
        match self {
            Reason::CoverageZone => "CZ",
            Reason::Geo => "GEO",
            Reason::Miss => "MISS",
            Reason::StaticRoute => "STATIC_ROUTE",
        }
    }
}

/// How the cache group was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// The group of the client's place.
    Primary,
    /// A fallback of that group.
    Fallback,
    /// The nearest other group.
    Nearest,
    /// No edge is up anywhere; draining ones serve on.
    Draining,
    /// No edge is up anywhere; watched ones are taken as up.
    Panic,
}

/// An edge of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    pub server: String,
    pub addresses: Vec<IpAddr>,
    pub scheme: &'static str,
    /// Host as it stands in a `Location`: the edge's name or address (IPv6 in brackets).
    pub host: String,
    pub port: u16,
}

impl Target {
    /// Scheme, host, and the port unless it is the scheme's own.
    pub fn base_url(&self) -> String {
        let Target { scheme, host, port, .. } = self;
        match (*scheme, *port) {
            ("http", 80) | ("https", 443) => format!("{scheme}://{host}"),
            _ => format!("{scheme}://{host}:{port}"),
        }
    }
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub step: &'static str,
    pub what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
}

/// A candidate that was not taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rejected {
    pub server: String,
    pub why: String,
}

impl Table {
    /// Chooses edges for a request.
    pub fn decide(&self, health: &Health, request: &Request<'_>) -> Decision {
        let mut steps = Trace(request.trace.then(Vec::new));
        let mut decision = Decision {
            outcome: Outcome::NoService,
            service: None,
            reason: None,
            detail: None,
            cache_group: None,
            edges: Vec::new(),
            scope: 0,
            trace: Vec::new(),
        };
        self.fill(health, request, &mut decision, &mut steps);
        decision.trace = steps.0.unwrap_or_default();
        decision
    }

    fn fill(
        &self,
        health: &Health,
        request: &Request<'_>,
        decision: &mut Decision,
        steps: &mut Trace,
    ) {
        let client = request.client.to_canonical();
        let service = match self.locate(request.host) {
            None => {
                steps.add("service", || {
                    format!("no active delivery service has host `{}`", request.host)
                });
                return;
            }
            Some(Located::Edge { service, server }) => {
                let (service, server) = (self.service(service), self.server(server));
                steps.add("service", || {
                    format!("`{}` is edge {} of {}", request.host, server.id, service.id)
                });
                decision.service = Some(service.id.clone());
                decision.reason = Some(Reason::StaticRoute);
                decision.cache_group = server.cache_group.clone();
                decision.edges.extend(self.target(server, &service.id, request, client));
                decision.outcome =
                    if decision.edges.is_empty() { Outcome::NoEdge } else { Outcome::Edges };
                return;
            }
            Some(Located::Service(service)) => self.service(service),
        };
        steps.add("service", || {
            format!("host `{}` belongs to delivery service {}", request.host, service.id)
        });
        decision.service = Some(service.id.clone());
        decision.outcome = Outcome::NoEdge;
        let groups = self.groups_in_order(client, decision, steps);
        let Some((detail, group, usable)) = self.first_group(health, request, &groups, steps)
        else {
            steps.add("edges", || "no edge can serve this request".to_owned());
            return;
        };
        let group_id = &self.snapshot.cache_groups[group].id;
        decision.detail = Some(detail);
        decision.cache_group = Some(group_id.clone());
        let key = match request.ask {
            Ask::Dns => rendezvous::identity(service.id.as_bytes()),
            Ask::Http { path, .. } => {
                rendezvous::identity(format!("{}\0{path}", service.id).as_bytes())
            }
        };
        let edges = &self.groups[group].edges;
        let order = rendezvous::rank(
            key,
            usable.iter().map(|i| (edges[*i].1, self.server(edges[*i].0).weight)),
        );
        let ranked = order.iter().map(|position| self.server(edges[usable[*position]].0));
        decision.edges =
            ranked.filter_map(|server| self.target(server, &service.id, request, client)).collect();
        if !decision.edges.is_empty() {
            decision.outcome = Outcome::Edges;
        }
        steps.add("edges", || {
            let over = match request.ask {
                Ask::Dns => service.id.clone(),
                Ask::Http { path, .. } => format!("{} {path}", service.id),
            };
            let ids: Vec<&str> = decision.edges.iter().map(|t| t.server.as_str()).collect();
            format!("rendezvous hash of `{over}` over group {group_id}: {}", ids.join(", "))
        });
    }

    /// The client's group and then the others, each with how it got its place.
    fn groups_in_order(
        &self,
        client: IpAddr,
        decision: &mut Decision,
        steps: &mut Trace,
    ) -> Vec<(Detail, usize)> {
        let id = |group: usize| &self.snapshot.cache_groups[group].id;
        let (covered, scope) = self.coverage.lookup(client);
        decision.scope = scope;
        let (reason, first) = if let Some((group, bits)) = covered {
            steps.add("coverage zone", || {
                format!("{client} is in a /{bits} of group {}", id(group))
            });
            (Reason::CoverageZone, group)
        } else {
            steps.add("coverage zone", || format!("no prefix holds {client}"));
            let place = self.geo.as_ref().and_then(|geo| geo.place(client));
            match (place, &self.geo) {
                (Some(place), _) => {
                    decision.reason = Some(Reason::Geo);
                    decision.scope = scope.max(place.prefix_bits);
                    let near = self.nearest((place.latitude, place.longitude));
                    steps.add("geo", || {
                        let group = near.first().map_or("none", |group| id(*group));
                        format!(
                            "{:.2}, {:.2}: nearest group is {group}",
                            place.latitude, place.longitude
                        )
                    });
                    let rank = |(position, group)| match position {
                        0 => (Detail::Primary, group),
                        _ => (Detail::Nearest, group),
                    };
                    return self.with_fallbacks(near.into_iter().enumerate().map(rank).collect());
                }
                (None, Some(_)) => {
                    // How wide the database's ignorance is, is not known: hold the answer for this client
                    // only.
                    decision.scope = if client.is_ipv4() { 24.max(scope) } else { 56.max(scope) };
                    steps.add("geo", || format!("the database has no place for {client}"));
                }
                (None, None) => steps.add("geo", || "no database is given".to_owned()),
            }
            steps.add("default", || format!("default group {}", id(self.default_group)));
            (Reason::Miss, self.default_group)
        };
        decision.reason = Some(reason);
        let others = self.groups[first].next.iter().map(|(group, how)| match *how {
            "fallback" => (Detail::Fallback, *group),
            _ => (Detail::Nearest, *group),
        });
        std::iter::once((Detail::Primary, first)).chain(others).collect()
    }

    /// Puts the fallbacks of the first group before the groups that are merely near.
    fn with_fallbacks(&self, near: Vec<(Detail, usize)>) -> Vec<(Detail, usize)> {
        let Some((_, first)) = near.first().copied() else { return near };
        let fallbacks = self.groups[first].next.iter().filter(|(_, how)| *how == "fallback");
        let mut order = vec![(Detail::Primary, first)];
        order.extend(fallbacks.map(|(group, _)| (Detail::Fallback, *group)));
        for (detail, group) in near {
            if !order.iter().any(|(_, known)| *known == group) {
                order.push((detail, group));
            }
        }
        order
    }

    /// The first group with an edge that may be used, and which of its edges those are. Three passes: edges
    /// that are up; then those that drain; then all that are watched.
    fn first_group(
        &self,
        health: &Health,
        request: &Request<'_>,
        groups: &[(Detail, usize)],
        steps: &mut Trace,
    ) -> Option<(Detail, usize, Vec<usize>)> {
        for pass in [Pass::Up, Pass::Draining, Pass::Watched] {
            for (detail, group) in groups {
                let edges = &self.groups[*group].edges;
                let mut rejected = Vec::new();
                let mut usable = Vec::new();
                for (position, (server, _)) in edges.iter().enumerate() {
                    match refuse(self.server(*server), health, request, pass) {
                        None => usable.push(position),
                        Some(why) if steps.0.is_some() => {
                            let server = self.server(*server).id.clone();
                            rejected.push(Rejected { server, why: why.to_owned() });
                        }
                        Some(_) => {}
                    }
                }
                let id = &self.snapshot.cache_groups[*group].id;
                let (detail, how) = match pass {
                    Pass::Up => (*detail, "up"),
                    Pass::Draining => {
                        (Detail::Draining, "draining, and used because no edge is up anywhere")
                    }
                    Pass::Watched => {
                        (Detail::Panic, "taken as up, because no edge is up anywhere (panic floor)")
                    }
                };
                let what =
                    || format!("group {id}: {} of {} edges {how}", usable.len(), edges.len());
                steps.add_with("group", what, rejected);
                if !usable.is_empty() {
                    return Some((detail, *group, usable));
                }
            }
        }
        None
    }

    fn target(
        &self,
        server: &Server,
        service: &str,
        request: &Request<'_>,
        client: IpAddr,
    ) -> Option<Target> {
        let (scheme, port) = match request.ask {
            Ask::Dns => ("http", server.http_port.or(server.https_port)?),
            Ask::Http { secure: false, .. } => ("http", server.http_port?),
            Ask::Http { secure: true, .. } => ("https", server.https_port?),
        };
        let host = match self.snapshot.steering.location {
            LocationStyle::Name => format!("{}.{service}.{}", server.id, self.snapshot.zone),
            LocationStyle::Address => {
                let same_family = server.addresses.iter().find(|a| a.is_ipv4() == client.is_ipv4());
                match same_family.or(server.addresses.first())? {
                    IpAddr::V4(v4) => v4.to_string(),
                    IpAddr::V6(v6) => format!("[{v6}]"),
                }
            }
        };
        Some(Target {
            server: server.id.clone(),
            addresses: server.addresses.clone(),
            scheme,
            host,
            port,
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Up,
    Draining,
    Watched,
}

/// Why an edge is not used in this pass; `None`: it is.
fn refuse<'h>(
    server: &Server,
    health: &'h Health,
    request: &Request<'_>,
    pass: Pass,
) -> Option<&'h str> {
    let offers = match request.ask {
        Ask::Dns => true,
        Ask::Http { secure: false, .. } => server.http_port.is_some(),
        Ask::Http { secure: true, .. } => server.https_port.is_some(),
    };
    match (server.status, pass) {
        _ if !offers => Some("does not offer the scheme"),
        _ if server.weight <= 0.0 => Some("weight 0"),
        (ServerStatus::Offline, _) => Some("status OFFLINE"),
        (ServerStatus::AdminDown, _) => Some("status ADMIN_DOWN"),
        (ServerStatus::Online, _) | (ServerStatus::Reported, Pass::Watched) => None,
        (ServerStatus::Reported, pass) => match (health.state(&server.id), pass) {
            (State::Up, _) | (State::Draining, Pass::Draining) => None,
            _ => Some(health.why(&server.id)),
        },
    }
}

/// Collects steps when they are wanted; otherwise their texts are never made.
struct Trace(Option<Vec<Step>>);

impl Trace {
    fn add(&mut self, step: &'static str, what: impl FnOnce() -> String) {
        self.add_with(step, what, Vec::new());
    }

    fn add_with(
        &mut self,
        step: &'static str,
        what: impl FnOnce() -> String,
        rejected: Vec<Rejected>,
    ) {
        if let Some(steps) = &mut self.0 {
            steps.push(Step { step, what: what(), rejected });
        }
    }
}
