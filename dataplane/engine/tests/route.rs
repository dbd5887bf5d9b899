//! Goal: one key is one question at the next hop, and tenants never share one (reliability design 2.3, lines 21 and 22).
//! Method: two tenants with the same rules, generated requests in every form that has made caches disagree with their
//! origins (case, port and dot of the host, escapes, dots and slashes of the path, order, doubles and cloaks of the query),
//! routed as a running node routes them.

use proptest::prelude::*;
use std::collections::HashMap;
use tidegate_contract::{Snapshot, compile};
use tidegate_engine::View;
use tidegate_engine::route::route;
use tidegate_fill::{HopAccess, Hops};
use tidegate_http::{Authority, Fields, Method, RequestHead, Version};

/// The example's tenant, and one that could be taken for it.
fn snapshot() -> Snapshot {
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
    let mut rival = snapshot.delivery_services[0].clone();
    rival.id = "films-example".to_owned();
    rival.hosts = vec!["films.example.net.rival.example".to_owned(), "rival.example".to_owned()];
    rival.address_default = false;
    snapshot.delivery_services.push(rival);
    assert_eq!(tidegate_contract::check::check(&snapshot), []);
    snapshot
}

fn view() -> View {
    let snapshot = snapshot();
    let edge = snapshot.servers.iter().find(|s| s.role == tidegate_contract::Role::Edge).unwrap();
    View::new(&snapshot, &edge.id, &|_| HopAccess::default(), &Hops::default()).unwrap()
}

fn request(host: &str, path: &str, query: Option<&str>) -> Option<RequestHead> {
    Some(RequestHead {
        method: Method::Get,
        path: path.into(),
        query: query.map(Into::into),
        authority: Some(Authority::parse(host.as_bytes()).ok()?),
        scheme_in_target: None,
        version: Version::Http11,
        fields: Fields::new(),
    })
}

/// Whose content it is, and what the next hop is asked.
type Question = (usize, String, String);

fn ask(view: &View, host: &str, path: &str, query: Option<&str>) -> Option<(u128, Question)> {
    let routed = route(view, &request(host, path, query)?)?.ok()?;
    let authority = view.services()[routed.service].next_authority.clone();
    Some((routed.key.hash, (routed.service, authority, routed.target)))
}

const HOSTS: &str = "(films\\.example\\.net|FILMS\\.example\\.Net|films\\.example\\.net\\.|films\\.example\\.net:(80|443|8080)\
     |192\\.0\\.2\\.1|\\[2001:db8::1\\]|rival\\.example|Rival\\.example\\.|films\\.example\\.net\\.rival\\.example\
     |films-example|nobody\\.example)";
const PATHS: &str = "/(a|b|A|\\.|\\.\\.|/|;|%2[fF]|%5[cC]|\\\\|%2[eE]|%00|%0[aA]|%25|%252f|%61|%c3%a9|%C3%A9|\u{e9}|:|@|~|%7[eE]|\\+|%20|films|\\.m4s|\\.vtt){0,5}";
const QUERIES: &str = "(a=1|a=2|b=1|a|=|&|&&|;|%26|%3[dD]|A=1|%61=1|token=x|Token=x|tok%65n=x|utm_x=1|utm=1|CMCD=bl%3D1|\\?|/|\\+|%20){0,5}";

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..Default::default() })]

    #[test]
    fn one_key_is_one_question_and_tenants_never_share_one(
        asked in proptest::collection::vec((HOSTS, PATHS, proptest::option::of(QUERIES)), 2..60),
    ) {
        let view = view();
        let mut keys: HashMap<u128, Question> = HashMap::new();
        let mut questions: HashMap<Question, u128> = HashMap::new();
        for (host, path, query) in &asked {
            let Some((key, question)) = ask(&view, host, path, query.as_deref()) else { continue };
            prop_assert!(question.2.bytes().all(|b| (0x21..0x7f).contains(&b)), "{:?}", question);
            let same = keys.entry(key).or_insert_with(|| question.clone());
            prop_assert_eq!(&*same, &question, "two questions under one key");
            let same = questions.entry(question.clone()).or_insert(key);
            prop_assert_eq!(*same, key, "two keys for one question: {:?}", question);
            // What a parent is asked it reads as it was meant: the same key, the same question.
            let (path, query) = match question.2.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (&question.2[..], None),
            };
            prop_assert_eq!(ask(&view, host, path, query), Some((key, question.clone())));
        }
    }
}

#[test]
fn each_form_of_a_host_is_its_tenant() {
    let view = view();
    let key = |host: &str| ask(&view, host, "/a.m4s", None).map(|(key, _)| key);
    let films = key("films.example.net").unwrap();
    for host in ["FILMS.EXAMPLE.NET", "films.example.net.", "films.example.net:8080", "192.0.2.7"] {
        assert_eq!(key(host), Some(films), "{host}");
    }
    let rival = key("rival.example").unwrap();
    assert_ne!(rival, films);
    assert_eq!(key("films.example.net.rival.example."), Some(rival));
    for host in ["films.example", "example.net", "xfilms.example.net", "films.example.net.."] {
        assert_eq!(key(host), None, "{host}");
    }
}
