//! Messages and field values of HTTP.

use crate::split;
use tidegate_http::{
    Authority, CacheControl, ContentRange, EntityTag, Fields, Method, RangeSpecs, Resolved,
    canonical_path, cmcd, coding, date, path::file_names,
};
use tidegate_http1::{
    ChunkedDecoder, Limits, RequestParser, ResponseParser, corpus, encode_request, encode_response,
    parse_request, parse_response,
};

/// Whole and in two pieces a head is the same head; what was parsed can be sent on and is read as the same again.
pub fn request(input: &[u8]) {
    let (a, b) = split(input);
    let bytes = [a, b].concat();
    let whole = parse_request(&bytes, &Limits::REQUEST);
    let mut parser = RequestParser::new(Limits::REQUEST);
    let pieces = match parser.parse(a) {
        Ok(None) => parser.parse(&bytes),
        done => done,
    };
    match (&whole, &pieces) {
        (Ok(Some(whole)), Ok(Some(pieces))) => assert_eq!(whole, pieces),
        (Ok(None), Ok(None)) => {}
        (Err(whole), Err(pieces)) => assert_eq!(whole.status / 100, pieces.status / 100),
        _ => panic!("whole {whole:?}, in pieces {pieces:?}"),
    }
    let Ok(Some(parsed)) = whole else { return };
    assert!(parsed.head_bytes <= bytes.len());
    let head = &parsed.head;
    if let Ok(path) = canonical_path(&head.path) {
        check_canonical(&path);
    }
    let mut fields = Fields::new();
    for (name, value) in head.fields.iter().filter(|(name, _)| *name != "host") {
        fields.append(name.to_owned(), value.to_vec()).expect("a parsed field is a good field");
    }
    let authority = head.authority.as_ref().map_or("h".to_owned(), ToString::to_string);
    let mut sent = Vec::new();
    let outcome = encode_request(&head.method, &head.target(), &authority, &fields, &mut sent);
    outcome.expect("a parsed head can be sent on");
    if sent.len() > Limits::REQUEST.head_bytes_max {
        return; // absolute targets and names without values can grow
    }
    let again = parse_request(&sent, &Limits::REQUEST);
    let Ok(Some(again)) = again else {
        panic!("sent on as {:?} it is {again:?}", String::from_utf8_lossy(&sent))
    };
    assert_eq!((&again.head.method, &again.head.path), (&head.method, &head.path));
    assert_eq!((&again.head.query, again.body), (&head.query, parsed.body));
    assert_eq!(again.head_bytes, sent.len(), "nothing is left behind the head");
}

/// A field and a query; what is understood of the next object stays at its origin.
pub fn cmcd(input: &[u8]) {
    let (field, query) = split(input);
    let mut fields = Fields::new();
    let _no_value = fields.append("cmcd-request", field.to_vec());
    let query = String::from_utf8_lossy(query);
    for told in [cmcd::told(&fields, None), cmcd::told(&Fields::new(), Some(&query))] {
        let cmcd::Told::Read(told) = told else { continue };
        let Some(next) = told.next else { continue };
        if let Ok((path, _)) = cmcd::resolve_next("/a/b/c", &next) {
            check_canonical(&path);
        }
    }
    let without = cmcd::without(&query);
    assert_eq!(cmcd::told(&Fields::new(), Some(&without)), cmcd::Told::Nothing);
    assert_eq!(cmcd::without(&without), without);
}

pub fn cmcd_seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 3] = [
        b"bl=21300,dl=18500,mtp=48100,nor=\"..%2F300kbps%2Fs.m4v\",nrr=\"1-\",suCMCD=bs%2Cnor%3D%22a%253Fb%22",
        b"br=3200,bs,d=4004,ot=v,rtp=15000,tb=6000,com.example-Key=\"a\\\"b\"&x&CMCD=v%3D1",
        b"cid=\"x\",pr=1.08,sf=h,sid=\"y\",st=v,v=1",
    ];
    with_cut(texts.map(<[u8]>::to_vec).to_vec())
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = corpus::load(corpus::MALFORMED)
        .expect("the corpus is well-formed")
        .into_iter()
        .map(|case| case.bytes)
        .filter(|bytes| bytes.len() < 2000)
        .collect();
    seeds.push(
        b"GET http://u.example:80/a/b%2fc?x=1&y HTTP/1.1\r\nHost: u.example\r\nRange: bytes=0-1,5-\r\n\
          Accept-Encoding: gzip, br;q=0.5\r\nConnection: close, x\r\n\r\n"
            .to_vec(),
    );
    seeds.push(
        b"POST /a HTTP/1.1\r\nHost: [::1]:8\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n1\r\na"
            .to_vec(),
    );
    with_cut(seeds)
}

/// As `request`, for answers to GET and to HEAD.
pub fn response(input: &[u8]) {
    let (a, b) = split(input);
    let bytes = [a, b].concat();
    for method in [Method::Get, Method::Head] {
        let whole = parse_response(&bytes, &method);
        let mut parser = ResponseParser::new(Limits::RESPONSE);
        let pieces = match parser.parse(a, &method) {
            Ok(None) => parser.parse(&bytes, &method),
            done => done,
        };
        match (&whole, &pieces) {
            (Ok(Some(whole)), Ok(Some(pieces))) => assert_eq!(whole, pieces),
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            _ => panic!("whole {whole:?}, in pieces {pieces:?}"),
        }
        let Ok(Some(parsed)) = whole else { continue };
        assert!(parsed.head_bytes <= bytes.len());
        let mut sent = Vec::new();
        encode_response(parsed.head.status, &parsed.head.fields, &mut sent);
        if sent.len() <= Limits::RESPONSE.head_bytes_max {
            let again = parse_response(&sent, &method);
            let Ok(Some(again)) = again else { panic!("{sent:?} is read as {again:?}") };
            assert_eq!(again.head.status, parsed.head.status);
            assert_eq!(again.head.fields, parsed.head.fields);
        }
    }
}

pub fn response_seeds() -> Vec<Vec<u8>> {
    with_cut(
        [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\n\r\nhello",
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/10\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 304\r\nDate: Fri, 20 Nov 2026 10:00:00 GMT\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nRetry-After: 1\r\nConnection: close\r\n\r\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec(),
    )
}

/// However the bytes come, the body is the same, and every call with input gets on.
pub fn chunked(input: &[u8]) {
    let (a, b) = split(input);
    let decode = |pieces: &[&[u8]]| -> Result<(Vec<u8>, bool, usize), _> {
        let mut decoder = ChunkedDecoder::new();
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() && !decoder.is_done() {
                let step = decoder.decode(rest)?;
                assert!(step.consumed > 0, "stuck at {rest:?}");
                body.extend_from_slice(&rest[step.data]);
                used += step.consumed;
                rest = &rest[step.consumed..];
            }
        }
        Ok::<_, tidegate_http1::ChunkError>((body, decoder.is_done(), used))
    };
    let bytes = [a, b].concat();
    let singles: Vec<&[u8]> = bytes.chunks(1).collect();
    let whole = decode(&[&bytes]);
    assert_eq!(whole, decode(&[a, b]));
    assert_eq!(whole, decode(&singles));
}

pub fn chunked_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "5\r\nhello\r\n0\r\n\r\nGET",
        "1;a=\"b\"\r\nx\r\n0\r\nT: v\r\n\r\n",
        "fF\r\n",
        "0\r\n\r\n",
    ];
    with_cut(texts.map(|text| text.as_bytes().to_vec()).to_vec())
}

/// Values of fields and parts of targets: whatever is understood means the same when it is written again.
pub fn values(input: &[u8]) {
    let (a, b) = split(input);
    for value in [a, b] {
        let _any = CacheControl::parse([a, b].into_iter());
        // What is refused in words is never taken.
        let refused = [&b"br;q=0, zstd;q=0, gzip;q=0, x-gzip;q=0, *;q=0"[..], value];
        assert_eq!(coding::preferred(refused.into_iter()), None);
        let _any = coding::preferred([a, b].into_iter());
        if let Some(specs) = RangeSpecs::parse(value) {
            for length in [0, 1, 1000, u64::MAX] {
                let inside = |range: &std::ops::RangeInclusive<u64>| {
                    assert!(range.start() <= range.end() && *range.end() < length);
                };
                match specs.resolve(length) {
                    Resolved::Single(range) => inside(&range),
                    Resolved::Multi(ranges) => {
                        ranges.iter().for_each(inside);
                        assert!(ranges.windows(2).all(|two| two[0].end() < two[1].start()));
                    }
                    _ => {}
                }
            }
        }
        if let Some(range) = ContentRange::parse(value) {
            assert_eq!(ContentRange::parse(range.to_string().as_bytes()), Some(range));
        }
        if let Some(tag) = EntityTag::parse(value) {
            assert_eq!(EntityTag::parse(&tag.to_bytes()), Some(tag));
        }
        if let Some(seconds) = date::parse(value, 1_795_132_800)
            && seconds < 253_402_300_800
        {
            assert_eq!(date::parse(date::format(seconds).as_bytes(), 0), Some(seconds));
        }
        if let Ok(authority) = Authority::parse(value) {
            let text = authority.to_string();
            assert_eq!(Authority::parse(text.as_bytes()), Ok(authority), "{text}");
        }
        if let Ok(text) = std::str::from_utf8(value)
            && let Ok(path) = canonical_path(text)
        {
            check_canonical(&path);
        }
    }
}

fn check_canonical(path: &str) {
    assert_eq!(canonical_path(path).as_deref(), Ok(path), "canonical twice is canonical once");
    assert!(path.starts_with('/'));
    for name in file_names(path).into_iter().flatten() {
        assert!(name != "." && name != "..", "{path}");
        assert!(!name.contains(['/', '\0', '\\']), "{path}");
    }
}

pub fn value_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "max-age=60, s-maxage=\"5\", private=\"a, b\", stale-while-revalidate=9",
        "bytes=0-1, 5-, -3",
        "bytes 0-1/10",
        "W/\"tag\"",
        "Fri, 20 Nov 2026 10:00:00 GMT",
        "Friday, 20-Nov-26 10:00:00 GMT",
        "Fri Nov 20 10:00:00 2026",
        "[2001:db8::1]:443",
        "Film.Example:80",
        "/a/./b/../c%2f%41//d%2e%2e/",
    ];
    with_cut(texts.map(|text| text.as_bytes().to_vec()).to_vec())
}

/// Puts the byte that `split` reads in front.
pub(crate) fn with_cut(seeds: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    seeds.into_iter().map(|seed| [&[128], &seed[..]].concat()).collect()
}
