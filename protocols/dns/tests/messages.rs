//! Goal: what we read and write is DNS as others know it, and hostile messages get silence or an error code.
//! Method: hickory-proto as the other side, both ways, on generated messages; hand-made attacks; byte
//! mutations.

use hickory_proto::op::{
    Edns as TheirEdns, Message, MessageType, OpCode, Query as TheirQuery, ResponseCode,
};
use hickory_proto::rr::rdata::opt::{ClientSubnet as TheirSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name as TheirName, RData, RecordType};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tidegate_dns::*;

/// Payload, DNSSEC OK, client subnet.
type EdnsParts = (u16, bool, Option<(IpAddr, u8)>);

fn masked(address: IpAddr, source: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(source)).unwrap_or(0);
            Ipv4Addr::from(u32::from(a) & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(source)).unwrap_or(0);
            Ipv6Addr::from(u128::from(a) & mask).into()
        }
    }
}

prop_compose! {
    fn subnet()(v6: bool, bits: u128, source in 0..=128u8) -> (IpAddr, u8) {
        let address = if v6 { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() };
        let source = if v6 { source } else { source % 33 };
        (masked(address, source), source)
    }
}

fn host() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-zA-Z0-9]([a-zA-Z0-9-]{0,18}[a-zA-Z0-9])?", 1..6)
        .prop_map(|labels| labels.join("."))
}

fn their_query(id: u16, name: &str, kind: u16, rd: bool, edns: Option<EdnsParts>) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = rd;
    let name = TheirName::from_ascii(format!("{name}.")).unwrap();
    message.add_query(TheirQuery::query(name, RecordType::from(kind)));
    if let Some((payload, dnssec, subnet)) = edns {
        let mut edns = TheirEdns::new();
        edns.set_max_payload(payload).set_dnssec_ok(dnssec);
        if let Some((address, source)) = subnet {
            edns.options_mut().insert(EdnsOption::Subnet(TheirSubnet::new(address, source, 0)));
        }
        message.set_edns(edns);
    }
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn we_read_what_they_write(
        id: u16, name in host(), kind in 1..60u16, rd: bool,
        edns in prop::option::of((512..4096u16, any::<bool>(), prop::option::of(subnet())))
    ) {
        prop_assume!(kind != kind::OPT);
        let wire = their_query(id, &name, kind, rd, edns).to_vec().unwrap();
        let query = parse(&wire).unwrap();
        prop_assert_eq!((query.id, query.kind, query.class, query.recursion_desired), (id, kind, 1, rd));
        prop_assert_eq!(query.name.to_host(), name.to_ascii_lowercase());
        let subnet = |s: ClientSubnet| (s.address.unwrap(), s.source);
        let read = query.edns.map(|e| (e.payload, e.dnssec_ok, e.client_subnet.map(subnet)));
        prop_assert_eq!(read, edns);
    }

    #[test]
    fn they_read_what_we_write(
        id: u16, name in host(), rd: bool, tcp: bool, ttl in 0..100_000u32, scope in 0..=128u8,
        addresses in prop::collection::vec(any::<IpAddr>(), 0..60),
        edns in prop::option::of((512..4096u16, any::<bool>(), prop::option::of(subnet())))
    ) {
        let query = parse(&their_query(id, &name, 1, rd, edns).to_vec().unwrap()).unwrap();
        let zone = name.split_once('.').map_or(name.as_str(), |(_, zone)| zone);
        let record = |a: &IpAddr| Record { owner: query.name.clone(), ttl, data: Data::from(*a) };
        let answers = addresses.iter().map(record).collect();
        let soa = Soa {
            primary: Name::from_text(&format!("ns.{zone}")).unwrap(),
            mailbox: Name::from_text("hostmaster.elsewhere.example").unwrap(),
            serial: 7, refresh: 1, retry: 2, expire: 3, minimum: 4,
        };
        let authorities = vec![Record { owner: Name::from_text(zone).unwrap(), ttl, data: Data::Soa(soa) }];
        let rcode = Rcode::NoError;
        let response = Response { rcode, authoritative: true, answers, authorities, scope };
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let mut wire = Vec::new();
        let whole = write(&query, &response, transport, &mut wire);
        let theirs = Message::from_vec(&wire).unwrap();
        let udp_limit = edns.map_or(512, |(payload, ..)| usize::from(payload.min(1232)));
        let limit = if tcp { 65535 } else { udp_limit };
        prop_assert!(wire.len() <= limit);
        prop_assert_eq!(theirs.metadata.truncation, !whole);
        prop_assert!(whole || addresses.len() > 5);
        prop_assert_eq!((theirs.metadata.id, theirs.metadata.recursion_desired), (id, rd));
        prop_assert!(theirs.metadata.authoritative && !theirs.metadata.recursion_available);
        let asked = theirs.queries[0].name().to_ascii();
        prop_assert_eq!(asked, format!("{name}."), "the case of the question is kept");
        if whole {
            let read: Vec<IpAddr> = theirs.answers.iter().map(|r| r.data.ip_addr().unwrap()).collect();
            prop_assert_eq!(&read, &addresses);
            let RData::SOA(soa) = &theirs.authorities[0].data else { panic!() };
            prop_assert_eq!(soa.mname.to_ascii().to_lowercase(), format!("ns.{zone}.").to_lowercase());
            prop_assert_eq!(soa.serial, 7);
        }
        prop_assert_eq!(theirs.edns.is_some(), edns.is_some());
        if let Some((_, dnssec, subnet)) = edns {
            let theirs = theirs.edns.unwrap();
            prop_assert_eq!(theirs.flags().dnssec_ok, dnssec);
            prop_assert_eq!(theirs.max_payload(), 1232);
            let echoed = theirs.option(EdnsCode::Subnet).map(|o| match o {
                EdnsOption::Subnet(s) => (s.addr(), s.source_prefix(), s.scope_prefix()),
                _ => panic!(),
            });
            let bits = |a: IpAddr| if a.is_ipv4() { 32 } else { 128 };
            prop_assert_eq!(echoed, subnet.map(|(a, source)| (a, source, scope.min(bits(a)))));
        }
    }

    #[test]
    fn touched_and_random_messages_never_panic_and_always_answer_in_turn(
        name in host(), source in subnet(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        random in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3u8
    ) {
        let mut wire = their_query(1, &name, 1, true, Some((1232, true, Some(source)))).to_vec().unwrap();
        for (at, byte) in edits { let at = at.index(wire.len()); wire[at] = byte; }
        match kind { 0 => wire = random, 1 => wire.truncate(cut.index(wire.len() + 1)), _ => {} }
        let mut out = Vec::new();
        match parse(&wire) {
            Ok(query) => { write(&query, &Response::empty(Rcode::Refused, false), Transport::Udp, &mut out); }
            Err(reject) => if !write_reject(&reject, &mut out) {
                prop_assert!(wire.len() < 12 || wire[2] & 0x80 != 0, "silence only to answers and stubs");
                return Ok(());
            }
        }
        prop_assert_eq!(&out[..2], &wire[..2]);
        prop_assert!(out[2] & 0x80 != 0 && out.len() <= wire.len() + 40, "no amplification");
        prop_assert!(Message::from_vec(&out).is_ok() || kind != 1);
    }
}

fn plain() -> Vec<u8> {
    their_query(0xabcd, "www.Example.net", 1, true, None).to_vec().unwrap()
}

fn with_options(options: &[u8], version: u8) -> Vec<u8> {
    let mut wire = plain();
    wire[11] += 1;
    wire.extend_from_slice(&[0, 0, 41, 4, 208, 0, version, 0, 0, 0, options.len() as u8]);
    wire.extend_from_slice(options);
    wire
}

fn rcode(wire: &[u8]) -> Option<ResponseCode> {
    let mut out = Vec::new();
    match parse(wire) {
        Ok(_) => Some(ResponseCode::NoError),
        Err(reject) => write_reject(&reject, &mut out).then(|| {
            let message = Message::from_vec(&out).unwrap();
            assert_eq!(message.metadata.id, 0xabcd);
            message.metadata.response_code
        }),
    }
}

#[test]
fn answers_and_stubs_get_silence() {
    let mut answer = plain();
    answer[2] |= 0x80;
    assert_eq!(rcode(&answer), None);
    assert_eq!(rcode(&plain()[..11]), None);
    assert_eq!(rcode(&[]), None);
}

#[test]
fn other_operations_are_not_implemented() {
    for opcode in [1u8, 2, 4, 5, 15] {
        let mut wire = plain();
        wire[2] |= opcode << 3;
        assert_eq!(rcode(&wire), Some(ResponseCode::NotImp), "opcode {opcode}");
    }
}

#[test]
fn malformed_messages_are_formerr() {
    let edit = |at: usize, byte: u8| {
        let mut wire = plain();
        wire[at] = byte;
        wire
    };
    let twice = |mut wire: Vec<u8>| {
        wire[11] += 1;
        wire.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        wire
    };
    let mut owned = with_options(&[], 0);
    let opt_at = owned.len() - 11;
    owned.splice(opt_at..=opt_at, [1, b'x', 0]);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("no question", edit(5, 0)),
        ("two questions", edit(5, 2)),
        ("an answer in a query", edit(7, 1)),
        ("an authority in a query", edit(9, 1)),
        ("a thousand additionals", edit(10, 4)),
        ("a pointer to itself", edit(12, 0xc0)),
        ("a label of 64 bytes", edit(12, 64)),
        ("cut in the question", plain()[..plain().len() - 1].to_vec()),
        ("bytes after the end", [plain(), vec![0]].concat()),
        ("an OPT that is not there", edit(11, 1)),
        ("two OPT", twice(with_options(&[], 0))),
        ("an OPT that the root does not own", owned),
        ("an option longer than the record", with_options(&[0, 8, 0, 9, 0, 1], 0)),
        ("a cut option", with_options(&[0, 8, 0], 0)),
        ("ECS: family 3", with_options(&[0, 8, 0, 4, 0, 3, 0, 0], 0)),
        ("ECS: scope in a query", with_options(&[0, 8, 0, 5, 0, 1, 8, 8, 10], 0)),
        ("ECS: 33 bits", with_options(&[0, 8, 0, 9, 0, 1, 33, 0, 1, 2, 3, 4, 0], 0)),
        ("ECS: a byte too many", with_options(&[0, 8, 0, 6, 0, 1, 8, 0, 10, 0], 0)),
        ("ECS: a byte too few", with_options(&[0, 8, 0, 5, 0, 1, 9, 0, 10], 0)),
        ("ECS: bits beyond the source", with_options(&[0, 8, 0, 6, 0, 1, 12, 0, 10, 1], 0)),
        ("ECS: family 0 with bits", with_options(&[0, 8, 0, 5, 0, 0, 8, 0, 10], 0)),
        ("ECS twice", with_options(&[0, 8, 0, 4, 0, 1, 0, 0, 0, 8, 0, 4, 0, 1, 0, 0], 0)),
    ];
    for (what, wire) in table {
        assert_eq!(rcode(&wire), Some(ResponseCode::FormErr), "{what}");
    }
}

#[test]
fn a_name_of_256_bytes_is_formerr_and_of_255_is_read() {
    let message = |last: u8| {
        let mut wire = vec![0xab, 0xcd, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for length in [63u8, 63, 63, last] {
            wire.push(length);
            wire.extend(std::iter::repeat_n(b'a', usize::from(length)));
        }
        wire.extend_from_slice(&[0, 0, 1, 0, 1]);
        wire
    };
    assert_eq!(rcode(&message(61)), Some(ResponseCode::NoError));
    assert_eq!(rcode(&message(62)), Some(ResponseCode::FormErr));
}

#[test]
fn an_unknown_edns_version_is_badvers_with_one_opt() {
    let mut out = Vec::new();
    let reject = parse(&with_options(&[], 1)).unwrap_err();
    assert!(write_reject(&reject, &mut out));
    let message = Message::from_vec(&out).unwrap();
    // 16 is BADSIG too (RFC 8945), so the number is compared.
    assert_eq!(u16::from(message.metadata.response_code), 16);
    assert_eq!(message.edns.unwrap().version(), 0);
}

#[test]
fn cookies_and_unknown_options_are_passed_over_and_family_0_is_no_client() {
    let wire = with_options(
        &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xf0, 0, 0, 0, 8, 0, 4, 0, 0, 0, 0],
        0,
    );
    let subnet = parse(&wire).unwrap().edns.unwrap().client_subnet.unwrap();
    assert_eq!((subnet.address, subnet.source), (None, 0));
}

#[test]
fn any_gets_the_short_answer_of_rfc_8482() {
    let query = parse(&their_query(1, "a.example", 255, false, None).to_vec().unwrap()).unwrap();
    let hinfo = Record { owner: query.name.clone(), ttl: 3600, data: Data::Hinfo };
    let response = Response { answers: vec![hinfo], ..Response::empty(Rcode::NoError, true) };
    let mut out = Vec::new();
    assert!(write(&query, &response, Transport::Udp, &mut out));
    let message = Message::from_vec(&out).unwrap();
    let RData::HINFO(hinfo) = &message.answers[0].data else { panic!() };
    assert_eq!(&*hinfo.cpu, b"RFC8482");
    assert_eq!(message.answers[0].dns_class, DNSClass::IN);
}

proptest! {
    #[test]
    fn https_records_are_read_by_others(
        v4 in prop::collection::vec(any::<std::net::Ipv4Addr>(), 0..5),
        v6 in prop::collection::vec(any::<std::net::Ipv6Addr>(), 0..5),
        port: Option<u16>,
    ) {
        use hickory_proto::rr::rdata::svcb::{SvcParamKey, SvcParamValue};
        let query = their_query(1, "a.example", kind::HTTPS, false, None).to_vec().unwrap();
        let query = parse(&query).unwrap();
        let data = Data::Https(Https {
            alpn: &["h3", "h2"], port, ipv4_hint: v4.clone(), ipv6_hint: v6.clone(),
        });
        let record = Record { owner: query.name.clone(), ttl: 20, data };
        let response = Response { answers: vec![record], ..Response::empty(Rcode::NoError, true) };
        let mut out = Vec::new();
        prop_assert!(write(&query, &response, Transport::Udp, &mut out));
        let message = Message::from_vec(&out).unwrap();
        let RData::HTTPS(https) = &message.answers[0].data else { panic!() };
        let svcb = &https.0;
        prop_assert_eq!((svcb.svc_priority, svcb.target_name.is_root()), (1, true));
        let mut params = svcb.svc_params.clone();
        let keys: Vec<u16> = params.iter().map(|(key, _)| u16::from(*key)).collect();
        prop_assert!(keys.is_sorted());
        let mut take = |wanted: SvcParamKey| {
            let at = params.iter().position(|(key, _)| *key == wanted)?;
            Some(params.remove(at).1)
        };
        let Some(SvcParamValue::Alpn(alpn)) = take(SvcParamKey::Alpn) else { panic!() };
        prop_assert_eq!(alpn.0, ["h3", "h2"]);
        let told = match take(SvcParamKey::Port) { Some(SvcParamValue::Port(port)) => Some(port), _ => None };
        prop_assert_eq!(told, port);
        let hints = match take(SvcParamKey::Ipv4Hint) {
            Some(SvcParamValue::Ipv4Hint(hint)) => hint.0.iter().map(|a| a.0).collect(),
            _ => Vec::new(),
        };
        prop_assert_eq!(hints, v4);
        let hints = match take(SvcParamKey::Ipv6Hint) {
            Some(SvcParamValue::Ipv6Hint(hint)) => hint.0.iter().map(|a| a.0).collect(),
            _ => Vec::new(),
        };
        prop_assert_eq!(hints, v6);
        prop_assert!(params.is_empty());
    }
}
