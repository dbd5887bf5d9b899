//! Goal: a good message comes out as it went in however it is cut, a bad one is refused with the code that the
//! RFC names. Method: tables of sections and of frames, each case also byte by byte; properties.

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_http::{Fields, Method, Scheme};
use tidegate_http3::qpack::{encode_line, encode_prefix};
use tidegate_http3::{
    Code, Error, Limits, ParsedRequest, RequestEvent, RequestReader, ResponseEvent, ResponseReader,
    encode_data_head, encode_request, encode_response, encode_response_lines, encode_trailers,
    varint,
};

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(kind, &mut out);
    varint::encode(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

fn headers(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut section = Vec::new();
    encode_prefix(&mut section);
    for (name, value) in lines {
        encode_line(name, value.as_bytes(), &mut section);
    }
    frame(1, &section)
}

fn data(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_data_head(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

/// What a stream says in the end: heads and trailers as text, the body in one piece.
#[derive(Debug, PartialEq, Default, Clone)]
struct Read {
    heads: Vec<String>,
    body: Vec<u8>,
    trailers: Option<Fields>,
}

fn read_request(pieces: &[&[u8]]) -> Result<(Read, Option<ParsedRequest>), Error> {
    let mut reader = RequestReader::new(Limits::REQUEST);
    let (mut read, mut request) = (Read::default(), None);
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(event) = reader.read(&mut input)? {
            match event {
                RequestEvent::Head(head) => request = Some(*head),
                RequestEvent::Data(bytes) => read.body.extend_from_slice(&bytes),
                RequestEvent::Trailers(fields) => read.trailers = Some(fields),
            }
        }
        assert!(input.is_empty(), "all that came is taken");
    }
    reader.end()?;
    Ok((read, request))
}

fn read_response(to: Method, pieces: &[&[u8]]) -> Result<Read, Error> {
    let mut reader = ResponseReader::new(to, Limits::RESPONSE);
    let mut read = Read::default();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(event) = reader.read(&mut input)? {
            match event {
                ResponseEvent::Interim(head) => read.heads.push(format!("{head:?}")),
                ResponseEvent::Head(head) => read.heads.push(format!("{head:?}")),
                ResponseEvent::Data(bytes) => read.body.extend_from_slice(&bytes),
                ResponseEvent::Trailers(fields) => read.trailers = Some(fields),
            }
        }
        assert!(input.is_empty(), "all that came is taken");
    }
    reader.end()?;
    Ok(read)
}

fn singles(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

/// Whole and byte by byte a request is judged the same.
fn judge(bytes: &[u8]) -> Result<(Read, Option<ParsedRequest>), Error> {
    let whole = read_request(&[bytes]);
    assert_eq!(whole, read_request(&singles(bytes)));
    whole
}

fn judge_response(bytes: &[u8]) -> Result<Read, Error> {
    let whole = read_response(Method::Get, &[bytes]);
    assert_eq!(whole, read_response(Method::Get, &singles(bytes)));
    whole
}

const GOOD: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "film.example"), (":path", "/a?b")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<u8> {
    headers(&[&GOOD[..], more].concat())
}

#[test]
fn a_request_comes_out_as_it_went_in() {
    let body =
        [with(&[("content-length", "5"), ("x-a", "1")]), data(b"he"), data(b""), data(b"llo")];
    let trailers = headers(&[("x-sum", "ok")]);
    let grease = frame(0x1f * 7 + 0x21, b"whatever");
    let bytes = [&grease[..], &body.concat(), &grease, &trailers, &grease].concat();
    let (read, request) = judge(&bytes).unwrap();
    let request = request.unwrap();
    assert_eq!((request.head.method, request.head.path.as_str()), (Method::Get, "/a"));
    assert_eq!(request.head.query.as_deref(), Some("b"));
    assert_eq!(request.head.authority.unwrap().host, "film.example");
    assert_eq!(request.head.scheme_in_target, Some(Scheme::Https));
    assert_eq!(request.head.fields.get("x-a"), Some(&b"1"[..]));
    assert_eq!((request.length, read.body.as_slice()), (Some(5), &b"hello"[..]));
    assert_eq!(read.trailers.unwrap().get("x-sum"), Some(&b"ok"[..]));
}

#[test]
fn crumbs_of_cookies_are_one_field() {
    let (_, request) = judge(&with(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")])).unwrap();
    let fields = request.unwrap().head.fields;
    assert_eq!(fields.get_all("cookie").collect::<Vec<_>>(), [&b"a=1; b=2"[..]]);
}

/// RFC 9114 §4.2, §4.3: malformed requests are errors of the stream with H3_MESSAGE_ERROR.
#[test]
fn malformed_requests_are_refused() {
    let without = |left_out: &str| {
        headers(&GOOD.into_iter().filter(|(name, _)| *name != left_out).collect::<Vec<_>>())
    };
    let instead = |name: &str, value: &str| {
        let lines = GOOD.map(|(n, v)| (n, if n == name { value } else { v }));
        headers(&lines)
    };
    let cases = [
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("no :path", without(":path")),
        ("no :authority and no host", without(":authority")),
        ("two :path", with(&[(":path", "/b")])),
        ("two :authority", with(&[(":authority", "film.example")])),
        ("unknown pseudo", with(&[(":protocol", "websocket")])),
        ("pseudo of responses", with(&[(":status", "200")])),
        ("pseudo after field", headers(&[GOOD[0], GOOD[1], GOOD[2], ("x", "y"), GOOD[3]])),
        ("upper case", with(&[("X-A", "1")])),
        ("no token", with(&[("x a", "1")])),
        ("colon in name", with(&[("x:a", "1")])),
        ("empty name", with(&[("", "1")])),
        ("CR in value", with(&[("x", "a\rb")])),
        ("LF in value", with(&[("x", "a\nb")])),
        ("NUL in value", with(&[("x", "a\0b")])),
        ("LF in cookie", with(&[("cookie", "a\nb")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "1")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te other than trailers", with(&[("te", "gzip")])),
        ("host differs", with(&[("host", "other.example")])),
        ("two hosts", with(&[("host", "film.example"), ("host", "film.example")])),
        ("userinfo", instead(":authority", "a@film.example")),
        ("empty authority", instead(":authority", "")),
        ("empty path", instead(":path", "")),
        ("path without slash", instead(":path", "a")),
        ("star of GET", instead(":path", "*")),
        ("fragment", instead(":path", "/a#b")),
        ("space in path", instead(":path", "/a b")),
        ("LF in path", instead(":path", "/a\n")),
        ("method no token", instead(":method", "G T")),
        ("scheme", instead(":scheme", "ftp")),
        ("length no number", with(&[("content-length", "5x")])),
        ("length empty", with(&[("content-length", "")])),
        ("two lengths", with(&[("content-length", "5"), ("content-length", "6")])),
        ("fewer bytes", [with(&[("content-length", "5")]), data(b"hell")].concat()),
        ("more bytes", [with(&[("content-length", "5")]), data(b"hello!")].concat()),
        ("no bytes", with(&[("content-length", "5")])),
        ("pseudo in trailers", [with(&[]), headers(&[(":path", "/")])].concat()),
        ("upper case in trailers", [with(&[]), headers(&[("A", "/")])].concat()),
    ];
    for (name, bytes) in cases {
        let error = judge(&bytes).expect_err(name);
        let wanted = matches!(error, Error::Stream { code: Code::MESSAGE_ERROR, status: 400, .. });
        assert!(wanted, "{name}: {error}");
    }
}

#[test]
fn other_refusals_have_their_own_code_and_status() {
    let long = format!("/{}", "a".repeat(9000));
    let lines = GOOD.map(|(n, v)| (n, if n == ":path" { long.as_str() } else { v }));
    let mut oversized = Vec::new();
    varint::encode(1, &mut oversized);
    varint::encode(32 * 1024 + 1, &mut oversized);
    let cases = [
        (
            "CONNECT",
            headers(&[(":method", "CONNECT"), (":authority", "a:1")]),
            501,
            Code::REQUEST_REJECTED,
        ),
        ("expectation", with(&[("expect", "tea")]), 417, Code::REQUEST_REJECTED),
        ("long target", headers(&lines), 414, Code::EXCESSIVE_LOAD),
        ("large section", oversized, 431, Code::EXCESSIVE_LOAD),
        ("nothing", Vec::new(), 400, Code::REQUEST_INCOMPLETE),
        ("grease alone", frame(0x21, b""), 400, Code::REQUEST_INCOMPLETE),
    ];
    for (name, bytes, status, code) in cases {
        match judge(&bytes).expect_err(name) {
            Error::Stream { code: c, status: s, .. } => {
                assert_eq!((s, c), (status, code), "{name}")
            }
            error => panic!("{name}: {error}"),
        }
    }
}

/// RFC 9114 §7: what no stream of requests may carry ends the connection.
#[test]
fn wrong_frames_end_the_connection() {
    let head = with(&[]);
    let mut unexpected: Vec<Vec<u8>> = [0x2, 0x6, 0x8, 0x9, 0x3, 0x4, 0x5, 0x7, 0xd]
        .map(|kind| [&head[..], &frame(kind, &[0])].concat())
        .to_vec();
    unexpected.push(data(b"x"));
    unexpected.push(data(b""));
    let trailers = headers(&[("x", "y")]);
    unexpected.push([&head[..], &trailers, &data(b"x")].concat());
    unexpected.push([&head[..], &trailers, &trailers].concat());
    for bytes in &unexpected {
        let error = judge(bytes).unwrap_err();
        let wanted = matches!(error, Error::Connection { code: Code::FRAME_UNEXPECTED, .. });
        assert!(wanted, "{bytes:?}: {error}");
    }
    // Cut off inside a type, a length, a payload, a piece of body.
    let unknown = frame(0x4242, b"abc");
    let whole = [&head[..], &unknown, &data(b"hello")].concat();
    let ends = [head.len(), head.len() + unknown.len(), whole.len()];
    for cut in 1..whole.len() {
        let outcome = judge(&whole[..cut]);
        if ends.contains(&cut) {
            assert!(outcome.is_ok(), "{cut}");
        } else {
            assert_eq!(outcome.map_err(|e| e.code()).err(), Some(Code::FRAME_ERROR), "{cut}");
        }
    }
    let push = frame(0x5, &[0, 0, 0]);
    assert_eq!(judge_response(&push).map_err(|e| e.code()), Err(Code::ID_ERROR));
}

#[test]
fn frames_without_meaning_use_up_a_budget() {
    let head = with(&[]);
    for flood in [data(b""), frame(0x21, b""), frame(0x4242, &[0; 40_000])] {
        let mut bytes = head.clone();
        assert!(judge(&[&bytes[..], &flood].concat()).is_ok());
        (0..300).for_each(|_| bytes.extend_from_slice(&flood));
        let error = read_request(&[&bytes]).unwrap_err();
        assert!(matches!(error, Error::Connection { code: Code::EXCESSIVE_LOAD, .. }), "{error}");
    }
}

#[test]
fn responses_of_all_kinds() {
    let ok = |more: &[(&str, &str)]| headers(&[&[(":status", "200")][..], more].concat());
    let hints = headers(&[(":status", "103"), ("link", "</a>")]);
    let read =
        judge_response(&[&hints[..], &ok(&[("content-length", "2")]), &data(b"ab")].concat());
    let read = read.unwrap();
    assert_eq!((read.heads.len(), read.body.as_slice()), (2, &b"ab"[..]));
    assert!(read_response(Method::Head, &[&ok(&[("content-length", "2")])]).is_ok());
    let not_modified = headers(&[(":status", "304"), ("content-length", "2")]);
    assert!(judge_response(&not_modified).is_ok());
    let cases = [
        ("no status", headers(&[("a", "b")])),
        ("two digits", headers(&[(":status", "20")])),
        ("no digits", headers(&[(":status", "2x0")])),
        ("999", headers(&[(":status", "999")])),
        ("101", headers(&[(":status", "101")])),
        ("pseudo of requests", headers(&[(":status", "200"), (":path", "/")])),
        ("204 with a length", headers(&[(":status", "204"), ("content-length", "2")])),
        ("304 with a body", [&not_modified[..], &data(b"ab")].concat()),
        ("short", [&ok(&[("content-length", "2")])[..], &data(b"a")].concat()),
        ("interim alone", hints.clone()),
        ("nothing", Vec::new()),
    ];
    for (name, bytes) in cases {
        assert_eq!(
            judge_response(&bytes).map_err(|e| e.code()),
            Err(Code::MESSAGE_ERROR),
            "{name}"
        );
    }
    let flood = hints.repeat(9);
    assert_eq!(judge_response(&flood).map_err(|e| e.code()), Err(Code::EXCESSIVE_LOAD));
}

#[test]
fn what_belongs_to_another_connection_is_not_sent() {
    let mut fields = Fields::new();
    for (name, value) in
        [("connection", "close"), ("te", "gzip"), ("transfer-encoding", "chunked"), ("x", "1")]
    {
        fields.append(name, value).unwrap();
    }
    let mut out = Vec::new();
    encode_response(200, &fields, &mut out);
    let read = judge_response(&out).unwrap();
    assert!(read.heads[0].contains("\"x\"") && !read.heads[0].contains("chunked"), "{read:?}");
    for (authority, target) in [("", "/"), ("a b", "/"), ("a", ""), ("a", "/\r\n")] {
        let method = Method::Get;
        let before = out.clone();
        assert!(
            encode_request(&method, Scheme::Https, authority, target, &fields, &mut out).is_err()
        );
        assert_eq!(out, before);
    }
}

#[test]
fn an_answer_of_lines_is_that_of_fields() {
    let long = "x-".repeat(60);
    let lines: [(&str, &[u8]); 7] = [
        ("Content-Type", b"video/mp4"),
        (&long, b"of a long name"),
        ("x-empty", b""),
        ("Connection", b"close"),
        ("no name", b"1"),
        (":status", b"500"),
        ("", b"1"),
    ];
    let mut fields = Fields::new();
    for (name, value) in &lines[..3] {
        fields.append_parsed(name.as_bytes(), Bytes::copy_from_slice(value)).unwrap();
    }
    let (mut one, mut other) = (Vec::new(), Vec::new());
    encode_response(206, &fields, &mut one);
    encode_response_lines(206, &mut other, |to| {
        lines.iter().for_each(|(name, value)| to.put(name.as_bytes(), value));
    });
    assert_eq!(one, other);
    // What could end a line of the next hop is none.
    let mut out = Vec::new();
    encode_response_lines(200, &mut out, |to| to.put(b"x", b"1\r\ny: 2"));
    let read = judge_response(&out).unwrap();
    assert!(read.heads[0].contains("1  y: 2"), "{read:?}");
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(("x-[a-z0-9-]{0,20}", "[!-~]([ -~]{0,600}[!-~])?"), 0..40)
}

fn built(lines: &[(String, String)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in lines {
        fields.append(name.clone(), value.clone()).unwrap();
    }
    fields
}

proptest! {
    /// Whatever can be written is read as the same, cut at any two places.
    #[test]
    fn requests_and_responses_come_back(
        lines in fields(),
        path in "/[!-\"$->@-~]{0,200}",
        body in proptest::collection::vec(any::<u8>(), 0..2000),
        cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        status in 200u16..600,
    ) {
        let fields = built(&lines);
        let mut out = Vec::new();
        encode_request(&Method::Post, Scheme::Http, "a.example:81", &path, &fields, &mut out).unwrap();
        out.extend_from_slice(&data(&body));
        encode_trailers(&fields, &mut out);
        let (a, b) = (cuts.0.index(out.len()), cuts.1.index(out.len()));
        let (a, b) = (a.min(b), a.max(b));
        let (read, request) = read_request(&[&out[..a], &out[a..b], &out[b..]]).unwrap();
        let request = request.unwrap();
        prop_assert_eq!(request.head.target(), path);
        prop_assert_eq!(request.head.authority.unwrap().to_string(), "a.example:81");
        prop_assert_eq!(&request.head.fields, &fields);
        prop_assert_eq!(&read.body, &body);
        prop_assert_eq!(read.trailers.as_ref(), Some(&fields));

        let mut out = Vec::new();
        encode_response(status, &fields, &mut out);
        let read = read_response(Method::Get, &[&out]).unwrap();
        let wanted = format!("status: {status}");
        prop_assert!(read.heads[0].contains(&wanted));
    }

    #[test]
    fn any_bytes_are_judged_the_same_in_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _judged = judge(&bytes);
        let _judged = judge_response(&bytes);
    }
}
