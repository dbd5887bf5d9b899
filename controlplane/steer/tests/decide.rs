//! Goal: the right edge for the right reason, under any health, and the explanation is the answer.
//! Method: a generated CDN, generated health and requests, held against the rules said in plain code.

use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use tidegate_contract::{Snapshot, compile};
use tidegate_steer::*;

fn snapshot(edit: impl FnOnce(&mut Snapshot)) -> Snapshot {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/example-config");
    let names = ["cdn.toml", "servers.toml", "coverage-zones.json", "delivery-services/films.toml"];
    let mut files: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            ((*name).to_owned(), std::fs::read_to_string(format!("{root}/{name}")).unwrap())
        })
        .collect();
    files.push(("keys/heartbeat.key".to_owned(), "5a".repeat(32)));
    let mut snapshot = compile(&files, 1).unwrap();
    edit(&mut snapshot);
    assert_eq!(tidegate_contract::check::check(&snapshot), []);
    snapshot
}

fn table() -> Table {
    Table::new(Arc::new(snapshot(|_| ())), None)
}

/// 4 groups of `size` edges, each group at its own longitude.
fn grid(size: usize) -> Snapshot {
    snapshot(|s| {
        let template = s.servers[1].clone();
        let group = s.cache_groups[0].clone();
        s.servers.retain(|server| server.role != tidegate_contract::Role::Edge);
        s.cache_groups.retain(|g| g.id == "core");
        s.coverage_zones.clear();
        for g in 0..4usize {
            let id = format!("g{g}");
            s.cache_groups.push(tidegate_contract::CacheGroup {
                id: id.clone(),
                latitude: 0.0,
                longitude: 10.0 * g as f64,
                fallbacks: if g == 0 { vec!["g3".into()] } else { vec![] },
                peering: false,
                ..group.clone()
            });
            for e in 0..size {
                s.servers.push(tidegate_contract::Server {
                    id: format!("e{g}-{e}"),
                    cache_group: Some(id.clone()),
                    addresses: vec![Ipv4Addr::new(10, 9, g as u8, e as u8 + 1).into()],
                    ..template.clone()
                });
            }
            let prefix = format!("10.{g}.0.0/16").parse().unwrap();
            s.coverage_zones.push(tidegate_contract::CoverageZone { prefix, cache_group: id });
        }
        s.steering.default_group = "g1".into();
    })
}

fn http<'a>(client: &str, path: &'a str) -> Request<'a> {
    let ask = Ask::Http { path, secure: false };
    Request { client: client.parse().unwrap(), host: "films.example.net", ask, trace: true }
}

fn health(states: &[(&str, State)]) -> Health {
    let mut health = Health::default();
    states.iter().for_each(|(id, state)| health.set(*id, *state, format!("test says {state:?}")));
    health
}

#[test]
fn coverage_zone_then_default_and_the_longest_prefix_wins() {
    let table = table();
    let up = Health::all_up();
    for (client, reason, group) in [
        ("192.0.2.77", Reason::CoverageZone, "berlin"),
        ("198.51.100.1", Reason::CoverageZone, "lisbon"),
        ("10.0.0.1", Reason::CoverageZone, "berlin"),
        ("10.1.0.1", Reason::CoverageZone, "lisbon"),
        ("::ffff:10.1.0.1", Reason::CoverageZone, "lisbon"),
        ("2001:db8:f::1", Reason::CoverageZone, "lisbon"),
        ("203.0.113.200", Reason::Miss, "berlin"),
    ] {
        let decision = table.decide(&up, &http(client, "/a"));
        assert_eq!(
            (decision.reason, decision.cache_group.as_deref()),
            (Some(reason), Some(group)),
            "{client}"
        );
    }
}

#[test]
fn geography_places_those_whom_no_zone_holds() {
    let geo = Geo::from_fn(|address| match address {
        IpAddr::V4(v4) if v4.octets()[0] == 203 => {
            Some(GeoPlace { latitude: 40.4, longitude: -3.7, prefix_bits: 22 })
        }
        _ => None,
    });
    let table = Table::new(Arc::new(snapshot(|_| ())), Some(Arc::new(geo)));
    let madrid = table.decide(&Health::all_up(), &http("203.0.113.200", "/a"));
    assert_eq!((madrid.reason, madrid.cache_group.as_deref()), (Some(Reason::Geo), Some("lisbon")));
    assert!(madrid.scope >= 22);
    let nowhere = table.decide(&Health::all_up(), &http("8.8.8.8", "/a"));
    assert_eq!(
        (nowhere.reason, nowhere.cache_group.as_deref()),
        (Some(Reason::Miss), Some("berlin"))
    );
    let covered = table.decide(&Health::all_up(), &http("192.0.2.1", "/a"));
    assert_eq!(covered.reason, Some(Reason::CoverageZone));
}

#[test]
fn a_group_without_edges_hands_over_to_fallbacks_then_to_the_nearest_and_says_so() {
    let table = Table::new(Arc::new(grid(2)), None);
    let only = |ids: &[&str]| health(&ids.iter().map(|id| (*id, State::Up)).collect::<Vec<_>>());
    let go = |health: &Health| {
        let decision = table.decide(health, &http("10.0.0.1", "/a"));
        (decision.detail.unwrap(), decision.cache_group.unwrap())
    };
    assert_eq!(go(&only(&["e0-1", "e3-0", "e1-0"])), (Detail::Primary, "g0".into()));
    assert_eq!(go(&only(&["e3-0", "e1-0"])), (Detail::Fallback, "g3".into()));
    assert_eq!(go(&only(&["e1-0", "e2-0"])), (Detail::Nearest, "g1".into()));
    assert_eq!(go(&health(&[("e2-0", State::Draining)])), (Detail::Draining, "g2".into()));
    assert_eq!(go(&Health::default()), (Detail::Panic, "g0".into()));
    let trace = table.decide(&only(&["e1-0"]), &http("10.0.0.1", "/a")).trace;
    let group = trace.iter().find(|s| s.step == "group").unwrap();
    assert_eq!(group.rejected[0].server, "e0-0");
    assert_eq!(group.rejected[0].why, "no heartbeat heard yet");
}

#[test]
fn statuses_rule_over_health() {
    use tidegate_contract::ServerStatus::*;
    let with = |status| {
        let table = Table::new(Arc::new(snapshot(|s| s.servers[0].status = status)), None);
        let chosen = |health: &Health| -> HashSet<String> {
            (0..50)
                .flat_map(|i| table.decide(health, &http("192.0.2.1", &format!("/{i}"))).edges)
                .map(|t| t.server)
                .collect()
        };
        (chosen(&Health::all_up()), chosen(&health(&[("edge-b2", State::Up)])))
    };
    let set = |ids: &[&str]| ids.iter().map(|s| (*s).to_owned()).collect::<HashSet<_>>();
    assert_eq!(with(Online), (set(&["edge-b1", "edge-b2"]), set(&["edge-b1", "edge-b2"])));
    assert_eq!(with(Reported), (set(&["edge-b1", "edge-b2"]), set(&["edge-b2"])));
    assert_eq!(with(AdminDown), (set(&["edge-b2"]), set(&["edge-b2"])));
    assert_eq!(with(Offline), (set(&["edge-b2"]), set(&["edge-b2"])));
}

#[test]
fn hosts_are_found_by_every_name_and_no_other() {
    let table = table();
    let go = |host: &str, secure| {
        let ask = Ask::Http { path: "/a", secure };
        let client = "192.0.2.1".parse().unwrap();
        let decision =
            table.decide(&Health::all_up(), &Request { client, host, ask, trace: false });
        (decision.outcome, decision.edges.first().map(Target::base_url))
    };
    for host in [
        "films.example.net",
        "cdn.films.cdn.example.net",
        "192.0.2.1",
        "[2001:db8::1]",
        "2001:db8::1",
    ] {
        assert_eq!(go(host, false).0, Outcome::Edges, "{host}");
    }
    for host in [
        "",
        "other.example",
        "films.cdn.example.net",
        "cdn.example.net",
        "cdn.films.cdn.example.net.",
    ] {
        assert_eq!(go(host, false), (Outcome::NoService, None), "{host}");
    }
    let named = go("edge-b2.films.cdn.example.net", false);
    assert_eq!(named.1.as_deref(), Some("http://edge-b2.films.cdn.example.net"));
    // Only edge-b1 offers HTTPS: a secure request is never answered with plain HTTP.
    assert_eq!(
        go("films.example.net", true).1.as_deref(),
        Some("https://edge-b1.films.cdn.example.net")
    );
    assert_eq!(go("edge-b2.films.cdn.example.net", true).0, Outcome::NoEdge);
}

#[test]
fn inactive_services_are_not_found() {
    let table = Table::new(Arc::new(snapshot(|s| s.delivery_services[0].active = false)), None);
    assert_eq!(
        table.decide(&Health::all_up(), &http("192.0.2.1", "/a")).outcome,
        Outcome::NoService
    );
}

#[test]
fn addresses_in_the_location_fit_the_client() {
    let table = Table::new(
        Arc::new(snapshot(|s| {
            s.steering.location = tidegate_contract::LocationStyle::Address;
            s.servers[0].http_port = Some(8080);
            s.servers[1].weight = 0.0;
        })),
        None,
    );
    let url = |client| table.decide(&Health::all_up(), &http(client, "/a")).edges[0].base_url();
    assert_eq!(url("192.0.2.1"), "http://192.0.2.11:8080");
    assert_eq!(url("2001:db8:b::1"), "http://[2001:db8:b::11]:8080");
}

#[test]
fn a_secure_request_finds_the_group_that_offers_https() {
    let decision = table().decide(
        &Health::all_up(),
        &Request { ask: Ask::Http { path: "/a", secure: true }, ..http("198.51.100.9", "/a") },
    );
    assert_eq!(
        (decision.detail, decision.edges[0].server.as_str()),
        (Some(Detail::Nearest), "edge-b1")
    );
    assert_eq!(decision.edges.len(), 1);
}

fn state() -> impl Strategy<Value = Option<State>> {
    prop_oneof![
        Just(None),
        Just(Some(State::Up)),
        Just(Some(State::Draining)),
        Just(Some(State::Down))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn explain_is_the_answer_and_down_is_never_chosen_while_another_is_up(
        states in prop::collection::vec(state(), 12), client: u32, near: bool,
        path in "/[a-z/]{0,12}", dns: bool
    ) {
        let table = Table::new(Arc::new(grid(3)), None);
        let mut health = Health::default();
        for (index, state) in states.iter().enumerate() {
            if let Some(state) = state {
                health.set(format!("e{}-{}", index / 3, index % 3), *state, "test");
            }
        }
        let client = Ipv4Addr::from(if near { 0x0a00_0000 | (client & 0x0003_ffff) } else { client });
        let ask = if dns { Ask::Dns } else { Ask::Http { path: &path, secure: false } };
        let mut request = Request { client: client.into(), host: "films.example.net", ask, trace: true };
        let told = table.decide(&health, &request);
        request.trace = false;
        let silent = table.decide(&health, &request);
        prop_assert!(!told.trace.is_empty() && silent.trace.is_empty());
        prop_assert_eq!(&Decision { trace: vec![], ..told.clone() }, &silent);
        prop_assert_eq!(told.outcome, Outcome::Edges);
        let any_up = states.contains(&Some(State::Up));
        for edge in &told.edges {
            let state = health.state(&edge.server);
            prop_assert!(!any_up || state == State::Up, "{} is {:?}", edge.server, state);
        }
        let said = &told.trace.last().unwrap().what;
        for edge in &told.edges { prop_assert!(said.contains(&edge.server)); }
    }

    #[test]
    fn an_edge_that_goes_down_moves_only_its_own_paths(
        victim in 0..5usize, paths in prop::collection::vec("/[a-z]{1,8}", 40)
    ) {
        let table = Table::new(Arc::new(grid(5)), None);
        let victim = format!("e0-{victim}");
        let all = Health::all_up();
        let mut less = Health::all_up();
        less.set(victim.clone(), State::Down, "test");
        for path in &paths {
            let before = table.decide(&all, &http("10.0.0.1", path));
            let after = table.decide(&less, &http("10.0.0.1", path));
            let rest: Vec<&Target> = before.edges.iter().filter(|t| t.server != victim).collect();
            let left: Vec<&Target> = after.edges.iter().collect();
            prop_assert_eq!(rest, left, "the order of the others does not change");
        }
    }

    #[test]
    fn prefixes_agree_with_a_naive_search_and_scopes_hold(
        prefixes in prop::collection::vec((any::<u32>(), 0..=32u8, 0..4usize), 0..40),
        probes in prop::collection::vec((any::<u32>(), any::<prop::sample::Index>(), any::<bool>()), 40),
        v6: bool
    ) {
        let widen = |n: u32| -> IpAddr {
            let wide = u128::from(n) << 96 | u128::from(n);
            if v6 { Ipv6Addr::from(wide).into() } else { Ipv4Addr::from(n).into() }
        };
        let nets: Vec<(IpNet, usize)> = prefixes.iter()
            .map(|(n, bits, v)| (IpNet::new(widen(n & 0xff0f_0000), *bits).unwrap().trunc(), *v)).collect();
        let table = PrefixTable::new(nets.iter().copied());
        let naive = |address: IpAddr| nets.iter().enumerate().filter(|(_, (net, _))| net.contains(&address))
            .max_by_key(|(position, (net, _))| (net.prefix_len(), *position))
            .map(|(_, (net, v))| (*v, net.prefix_len()));
        for (n, index, inside) in probes {
            let address = match nets.is_empty() || !inside {
                true => widen(n),
                false => {
                    let net = nets[index.index(nets.len())].0;
                    if n % 2 == 0 { net.network() } else { net.broadcast() }
                }
            };
            let (found, scope) = table.lookup(address);
            prop_assert_eq!(found, naive(address));
            let block = IpNet::new(address, scope).unwrap().trunc();
            let value = found.map(|(v, _)| v);
            for edge in [block.network(), block.broadcast()] {
                prop_assert_eq!(naive(edge).map(|(v, _)| v), value, "scope {} around {}", scope, address);
            }
            for (net, _) in nets.iter().filter(|(net, _)| block.contains(net)) {
                prop_assert_eq!(naive(net.network()).map(|(v, _)| v), value);
            }
        }
    }
}

#[test]
fn shares_follow_weights_inside_a_group() {
    let table = table();
    let wins = (0..6000)
        .filter(|i| {
            table.decide(&Health::all_up(), &http("198.51.100.1", &format!("/{i}"))).edges[0].server
                == "edge-l2"
        })
        .count();
    assert!((3800..4200).contains(&wins), "weight 2 of 3 won {wins} of 6000");
}
