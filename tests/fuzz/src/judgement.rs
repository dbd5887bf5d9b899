//! What a cache concludes from heads, and what it reads back from its store.

use crate::split;
use tidegate_cache::alternate::{Marker, choose};
use tidegate_cache::purge::{
    Judgement, Mode, Purge, Rules, Target as PurgeTarget, invalidated_groups, tags_of,
};
use tidegate_cache::{
    Storage, StoredHead, Times, cache_key, judge_storage, lookup, may_serve_stale_on_error,
    merge_304, upstream_query,
};
use tidegate_contract::{AdminKey, Behaviour, CacheKeyRule, Order};
use tidegate_http::{CacheControl, Fields, Method, canonical_path};
use tidegate_http1::{Limits, parse_request, parse_response};

/// Fri, 20 Nov 2026, in unix milliseconds.
const NOW: u64 = 1_795_132_800_000;

fn behaviour() -> Behaviour {
    Behaviour {
        name: "all".into(),
        path: "*".into(),
        cache: true,
        default_ttl_seconds: Some(60),
        override_ttl_seconds: None,
        stale_while_revalidate_seconds: 5,
        stale_if_error_seconds: 600,
        negative_ttl_seconds: 10,
        hedge: false,
        compress: false,
        cache_key: CacheKeyRule {
            drop: vec!["token".into(), "utm_*".into()],
            keep: vec![],
            sort: true,
        },
        vary_ignore: tidegate_contract::vary_ignore_default(),
        pacing: tidegate_contract::Pacing::default(),
        cors_allow_origin: None,
        redirect: None,
        response_headers: vec![],
        methods: ["GET", "HEAD", "OPTIONS"].map(str::to_owned).to_vec(),
    }
}

/// A request head and a response head through key, storage, store and lookup.
pub fn run(input: &[u8]) {
    let (a, b) = split(input);
    let Ok(Some(request)) = parse_request(a, &Limits::REQUEST) else { return };
    let Ok(Some(response)) = parse_response(b, &Method::Get) else { return };
    let (request, response) = (request.head, response.head);
    let rules = behaviour();
    if let Ok(path) = canonical_path(&request.path) {
        let key = cache_key("film", &rules.cache_key, &path, request.query.as_deref());
        let query = upstream_query(&rules.cache_key, request.query.as_deref());
        let again = cache_key("film", &rules.cache_key, &path, query.as_deref());
        assert_eq!(key, again, "what the next hop is asked has the same key");
    }
    let times = Times { request_ms: NOW - 5, response_ms: NOW };
    let judged = judge_storage(&request.method, &Fields::new(), &response, &rules, times);
    let Storage::Store(lifetime) = judged else { return };
    assert_eq!(request.method, Method::Get);
    let control = CacheControl::from_fields(&response.fields);
    assert!(!control.no_store && !control.private.is_all(), "{:?}", response.fields);
    let head = StoredHead::new(&response, vec![], lifetime, Some(10), 7, &[1, 2]);
    let mut bytes = Vec::new();
    head.encode(&mut bytes);
    let back = StoredHead::decode(&bytes).expect("what was written can be read");
    let mut again = Vec::new();
    back.encode(&mut again);
    assert_eq!(bytes, again);
    for now in [0, NOW, NOW + 1000, NOW + 86_400_000, u64::MAX] {
        let _any = lookup(Some(&back), &request, &rules, now);
        let _any = may_serve_stale_on_error(&back, now);
    }
    let _any = merge_304(&back, &response, &Fields::new(), &rules, times);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let request = "GET /a/b?token=1&b=2&a=3 HTTP/1.1\r\nHost: f\r\nRange: bytes=0-9\r\nIf-None-Match: \"a\"\r\n\r\n";
    let responses = [
        "Cache-Control: public, max-age=60, stale-if-error=5\r\nETag: \"a\"\r\nAge: 3\r\nVary: Accept-Encoding\r\n",
        "Expires: Fri, 20 Nov 2026 10:00:00 GMT\r\nDate: Fri, 20 Nov 2026 09:00:00 GMT\r\nLast-Modified: Thu, 19 Nov 2026 09:00:00 GMT\r\n",
        "Set-Cookie: a=b\r\nCache-Control: s-maxage=1\r\n",
        "Cache-Control: private, no-store, no-cache=\"set-cookie\"\r\nConnection: x\r\nX: y\r\n",
    ];
    responses
        .map(|fields| {
            let response = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 10\r\n\r\n");
            let total = request.len() + response.len();
            let cut = (request.len() * 256).div_ceil(total) as u8;
            let mut bytes = vec![cut];
            bytes.extend_from_slice(request.as_bytes());
            bytes.extend_from_slice(response.as_bytes());
            while usize::from(cut) * (bytes.len() - 1) / 256 < request.len() {
                bytes.push(b'x');
            }
            bytes
        })
        .to_vec()
}

/// A head from the disk, behind its checksum: refused, or the same head when it is written again.
pub fn stored(input: &[u8]) {
    if let Some(marker) = Marker::decode(input) {
        assert_eq!(Marker::decode(&marker.encode()), Some(marker));
    }
    let Ok(head) = StoredHead::decode(input) else { return };
    let mut bytes = Vec::new();
    head.encode(&mut bytes);
    // Not the same bytes: names are read in lower case.
    assert_eq!(StoredHead::decode(&bytes), Ok(head.clone()), "written again it differs");
    for now in [0, NOW, u64::MAX] {
        let _any = head.lifetime.age_seconds(now);
        let _any = head.lifetime.ttl_seconds(now);
        let _any = head.lifetime.staleness_ms(now);
        let _any = (head.lifetime.is_fresh(now), head.lifetime.in_revalidate_window(now));
        let _any = (head.lifetime.in_error_window(now), head.lifetime.useful_until_ms());
    }
    let _any = (head.date(), head.can_revalidate(), head.matches_vary(&Fields::new()));
}

pub fn stored_seeds() -> Vec<Vec<u8>> {
    let answer = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nVary: Accept\r\nContent-Length: 10\r\n\r\n";
    let mut request = Fields::new();
    request.append("accept", "*/*").expect("a good field");
    let head = parse_response(answer, &Method::Get).ok().flatten().expect("a good head").head;
    let times = Times { request_ms: NOW, response_ms: NOW };
    let Storage::Store(lifetime) =
        judge_storage(&Method::Get, &request, &head, &behaviour(), times)
    else {
        unreachable!("a plain answer with a lifetime is stored")
    };
    let mut bytes = Vec::new();
    let chosen = choose(&["accept".to_owned(), "b".to_owned()], &request);
    StoredHead::new(&head, chosen, lifetime, Some(10), 7, &[1, 2]).encode(&mut bytes);
    vec![bytes]
}

/// A page of the purge journal behind its checksum, a record of it, tags of an answer, and an order's signature.
pub fn purge(input: &[u8]) {
    let mut page = [0; 4096];
    let length = input.len().min(page.len());
    page[..length].copy_from_slice(&input[..length]);
    page[20..24].fill(0);
    let crc = crc32c::crc32c_append(SEED, &page);
    page[20..24].copy_from_slice(&crc.to_le_bytes());
    if let Ok((_, records)) = tidegate_store::decode_page(&page, SEED) {
        for record in records {
            if let Some(purge) = Purge::decode(&record.payload) {
                assert_eq!(purge.encode(), record.payload);
                let mut rules = Rules::default();
                rules.add(&purge);
                assert_ne!(rules.judge(&[purge.handle], purge.number, 0), Judgement::Kept);
                rules.forget(&purge);
                assert!(rules.is_empty());
            }
        }
    }
    let mut fields = Fields::new();
    for name in ["surrogate-key", "cache-tag", "cache-groups", "cache-group-invalidation"] {
        let _not_a_value = fields.append(name, input.to_vec());
    }
    for tag in tags_of(&fields).unwrap_or_default().iter().chain(&invalidated_groups(&fields)) {
        assert!(PurgeTarget::Tag(tag).handle("film").is_ok(), "{tag:?}");
    }
    let key = AdminKey::from_hex(&"5a".repeat(32)).expect("64 hexadecimal digits");
    let order = Order { method: "POST", node: "edge-1", target: "/purge", body: input };
    let text = String::from_utf8_lossy(input);
    assert!(key.verify(&order, Some(&text), 0).is_err(), "nobody signs by chance");
}

const SEED: u32 = 7;

pub fn purge_seeds() -> Vec<Vec<u8>> {
    let mut page = vec![0; 64];
    page[..8].copy_from_slice(b"TGPURGE1");
    page[16] = 1;
    let purge = Purge { handle: 3, service: 4, number: 5, at_ms: NOW, mode: Mode::Hard };
    page.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    page.extend_from_slice(&purge.encode());
    let signed = format!("TG1-HMAC-SHA256 time=1 nonce=0011223344556677 mac={}", "ab".repeat(32));
    vec![page, b"a b, \"c\";x=1, \"d\\\\e\"".to_vec(), signed.into_bytes()]
}
