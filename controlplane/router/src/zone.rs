//! What the router says to one DNS message: pure, one message in, at most one out.
//!
//! The zone holds: the apex (SOA, NS), `<router>.<zone>` (the routers), `<routing name>.<service>.<zone>` and
//! the services' hosts below the zone (steered), `<edge>.<service>.<zone>` (that edge). All else below it is
//! NXDOMAIN. What is steered, and an edge's own name, also tell that HTTP/3 is spoken there (HTTPS, RFC 9460), when all edges
//! of the answer speak it at one port.
//!
//! Must stay true: outside the zone all is refused; a name that exists is never NXDOMAIN for a type it lacks.

use std::net::IpAddr;
use tidegate_contract::{Role, Server, Snapshot};
use tidegate_dns::{
    Data, Https, Name, NameError, Query, Rcode, Record, Response, Soa, Transport, kind, parse,
    write, write_reject,
};
use tidegate_steer::{Ask, Decision, Health, Located, Request, Table};

/// The parts of the zone that do not depend on the client.
#[derive(Debug)]
pub struct Zone {
    apex: Name,
    /// Names and addresses of the routers.
    routers: Vec<(Name, Vec<IpAddr>)>,
    soa: Soa,
    answers_max: usize,
    ttl: u32,
}

/// What became of a message.
#[derive(Debug)]
pub struct Answered {
    /// Whether `out` holds something to send.
    pub send: bool,
    pub rcode: Rcode,
    /// The question's name and the client that was steered, when a decision was made, and how many edges were
    /// told.
    pub steered: Option<(String, IpAddr, Decision, usize)>,
    pub truncated: bool,
}

impl Zone {
    pub fn new(snapshot: &Snapshot) -> Result<Zone, NameError> {
        let apex = Name::from_text(&snapshot.zone)?;
        let mut routers = Vec::new();
        for server in snapshot.servers.iter().filter(|s| s.role == Role::Router) {
            let name = Name::from_text(&format!("{}.{}", server.id, snapshot.zone))?;
            routers.push((name, server.addresses.clone()));
        }
        let primary = routers.first().map_or_else(|| apex.clone(), |(name, _)| name.clone());
        let soa = Soa {
            primary,
            mailbox: Name::from_text(&format!("hostmaster.{}", snapshot.zone))?,
            // Serial numbers wrap (RFC 1982); generations do not.
            serial: snapshot.generation as u32,
            refresh: 28_800,
            retry: 7_200,
            expire: 604_800,
            minimum: NEGATIVE_TTL_SECONDS,
        };
        let steering = &snapshot.steering;
        Ok(Zone {
            apex,
            routers,
            soa,
            answers_max: steering.dns_answers_max,
            ttl: steering.dns_ttl_seconds,
        })
    }

    fn soa_record(&self, ttl: u32) -> Record {
        Record { owner: self.apex.clone(), ttl, data: Data::Soa(self.soa.clone()) }
    }
}

/// Answers one message from `peer` into `out`.
pub fn answer(
    table: &Table,
    zone: &Zone,
    health: &Health,
    message: &[u8],
    peer: IpAddr,
    transport: Transport,
    out: &mut Vec<u8>,
) -> Answered {
    let query = match parse(message) {
        Ok(query) => query,
        Err(reject) => {
            let send = write_reject(&reject, out);
            let rcode = match reject {
                tidegate_dns::Reject::Answer { rcode, .. } => rcode,
                tidegate_dns::Reject::Silent => Rcode::FormErr,
            };
            return Answered { send, rcode, steered: None, truncated: false };
        }
    };
    let (response, steered) = respond(table, zone, health, &query, peer);
    let whole = write(&query, &response, transport, out);
    Answered { send: true, rcode: response.rcode, steered, truncated: !whole }
}

type Steered = Option<(String, IpAddr, Decision, usize)>;

fn respond(
    table: &Table,
    zone: &Zone,
    health: &Health,
    query: &Query,
    peer: IpAddr,
) -> (Response, Steered) {
    let refused = || (Response::empty(Rcode::Refused, false), None);
    if query.class != kind::CLASS_IN || !query.name.is_within(&zone.apex) {
        return refused();
    }
    if matches!(query.kind, kind::AXFR | kind::IXFR) {
        return refused();
    }
    let own = |ttl, data| Record { owner: query.name.clone(), ttl, data };
    let mut steered = None;
    let mut response = Response::empty(Rcode::NoError, true);
    if query.name == zone.apex {
        match query.kind {
            kind::SOA => response.answers.push(zone.soa_record(APEX_TTL_SECONDS)),
            kind::NS => {
                let names = zone.routers.iter().map(|(name, _)| Data::Ns(name.clone()));
                response.answers.extend(names.map(|data| own(APEX_TTL_SECONDS, data)));
            }
            _ => {}
        }
    } else if let Some((_, addresses)) = zone.routers.iter().find(|(name, _)| *name == query.name) {
        response
            .answers
            .extend(of_kind(addresses, query.kind).map(|a| own(APEX_TTL_SECONDS, a.into())));
    } else {
        let host = query.name.to_host();
        match table.locate(&host) {
            Some(Located::Edge { server, .. }) if query.kind == kind::HTTPS => {
                let https = https([table.server(server)].into_iter(), 1);
                response.answers.extend(https.map(|data| own(EDGE_TTL_SECONDS, data)));
            }
            Some(Located::Edge { server, .. }) => {
                let addresses = &table.server(server).addresses;
                response.answers.extend(
                    of_kind(addresses, query.kind).map(|a| own(EDGE_TTL_SECONDS, a.into())),
                );
            }
            Some(Located::Service(_))
                if matches!(query.kind, kind::A | kind::AAAA | kind::HTTPS) =>
            {
                let (client, told) = client(query, peer);
                let request = Request { client, host: &host, ask: Ask::Dns, trace: false };
                let decision = table.decide(health, &request);
                if query.kind == kind::HTTPS {
                    let servers = &table.snapshot().servers;
                    let edges = decision.edges.iter();
                    let edges = edges.filter_map(|e| servers.iter().find(|s| s.id == e.server));
                    let https = https(edges, zone.answers_max);
                    response.answers.extend(https.map(|data| own(zone.ttl, data)));
                } else {
                    let edges = decision.edges.iter();
                    let addresses = edges.filter_map(|e| of_kind(&e.addresses, query.kind).next());
                    let data = addresses.take(zone.answers_max);
                    response.answers.extend(data.map(|address| own(zone.ttl, address.into())));
                }
                // Without a client subnet there is nothing to limit (RFC 7871 7.2.1: scope 0).
                response.scope = if told { decision.scope } else { 0 };
                steered = Some((host, client, decision, response.answers.len()));
            }
            Some(Located::Service(_)) => {}
            // The service's own label has names below it, so it exists (RFC 8020).
            None if is_service_label(table, &host) => {}
            None => response.rcode = Rcode::NxDomain,
        }
    }
    if query.kind == kind::ANY && response.rcode == Rcode::NoError {
        response.answers = vec![own(APEX_TTL_SECONDS, Data::Hinfo)];
    }
    if response.answers.is_empty() {
        response.authorities.push(zone.soa_record(NEGATIVE_TTL_SECONDS));
    }
    (response, steered)
}

/// What is said of HTTPS, beside the addresses that questions for A and AAAA are answered with. A client may take this record and
/// those addresses together, so it must be true of each of them.
fn https<'a>(edges: impl Iterator<Item = &'a Server> + Clone, answers_max: usize) -> Option<Data> {
    let told = |kind| {
        let with =
            move |server: &'a Server| Some((server, of_kind(&server.addresses, kind).next()?));
        edges.clone().filter_map(with).take(answers_max)
    };
    let mut ports = told(kind::A).chain(told(kind::AAAA)).map(|(server, _)| server.http3_port());
    let port = ports.next()??;
    if !ports.all(|other| other == Some(port)) {
        return None;
    }
    let v4 = |(_, address)| if let IpAddr::V4(v4) = address { Some(v4) } else { None };
    let v6 = |(_, address)| if let IpAddr::V6(v6) = address { Some(v6) } else { None };
    Some(Data::Https(Https {
        alpn: &["h3", "h2"],
        port: (port != HTTPS_PORT).then_some(port),
        ipv4_hint: told(kind::A).filter_map(v4).collect(),
        ipv6_hint: told(kind::AAAA).filter_map(v6).collect(),
    }))
}

/// Whose address to steer by: what the resolver tells of its client, else the resolver's own.
fn client(query: &Query, peer: IpAddr) -> (IpAddr, bool) {
    let subnet = query.edns.and_then(|edns| edns.client_subnet).filter(|subnet| subnet.source > 0);
    match subnet.and_then(|subnet| subnet.address) {
        Some(address) => (address, true),
        None => (peer, false),
    }
}

fn is_service_label(table: &Table, host: &str) -> bool {
    let snapshot = table.snapshot();
    let label = host.strip_suffix(&snapshot.zone).and_then(|rest| rest.strip_suffix('.'));
    label.is_some_and(|label| snapshot.delivery_services.iter().any(|s| s.active && s.id == label))
}

fn of_kind(addresses: &[IpAddr], kind: u16) -> impl Iterator<Item = IpAddr> {
    let fits = move |a: &&IpAddr| match a {
        IpAddr::V4(_) => kind == kind::A,
        IpAddr::V6(_) => kind == kind::AAAA,
    };
    addresses.iter().filter(fits).copied()
}

const HTTPS_PORT: u16 = 443;
/// Routers and the zone itself change seldom.
const APEX_TTL_SECONDS: u32 = 3600;
/// An edge's own name: its address changes only with a snapshot.
const EDGE_TTL_SECONDS: u32 = 300;
const NEGATIVE_TTL_SECONDS: u32 = 30;
