//! What the router says to one DNS message: pure, one message in, at most one out.
//!
//! The zone holds: the apex (SOA, NS), `<router>.<zone>` (the routers), `<routing name>.<service>.<zone>` and
//! the services' hosts below the zone (steered), `<edge>.<service>.<zone>` (that edge). All else below it is
//! NXDOMAIN.
//!
//! Must stay true: outside the zone all is refused; a name that exists is never NXDOMAIN for a type it lacks.

use std::net::IpAddr;
use tidegate_contract::{Role, Snapshot};
use tidegate_dns::{
    Data, Name, NameError, Query, Rcode, Record, Response, Soa, Transport, kind, parse, write,
    write_reject,
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
            Some(Located::Edge { server, .. }) => {
                let addresses = &table.server(server).addresses;
                response.answers.extend(
                    of_kind(addresses, query.kind).map(|a| own(EDGE_TTL_SECONDS, a.into())),
                );
            }
            Some(Located::Service(_)) if matches!(query.kind, kind::A | kind::AAAA) => {
                let (client, told) = client(query, peer);
                let request = Request { client, host: &host, ask: Ask::Dns, trace: false };
                let decision = table.decide(health, &request);
                let addresses =
                    decision.edges.iter().filter_map(|e| of_kind(&e.addresses, query.kind).next());
                let data =
                    addresses.take(zone.answers_max).map(|address| own(zone.ttl, address.into()));
                response.answers.extend(data);
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

/// Routers and the zone itself change seldom.
const APEX_TTL_SECONDS: u32 = 3600;
/// An edge's own name: its address changes only with a snapshot.
const EDGE_TTL_SECONDS: u32 = 300;
const NEGATIVE_TTL_SECONDS: u32 = 30;
