//! What HTTP/2 can say and HTTP/1.1 cannot, or says otherwise (reliability.md 2.1, lines 8 and 9): none of it reaches an
//! origin. Method: each request by hand; its stream is reset, or answered with 4xx, and the connection goes on or is closed.

use crate::frames::*;
use crate::{LOCAL, with_origin};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, HandOrigin, reply};

/// Pseudo-fields of a good request to `/pass/...`, with one replaced, and fields behind them.
fn request(replaced: &[(&[u8], Option<&[u8]>)], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let host = HOST.as_bytes();
    let good: [(&[u8], &[u8]); 4] = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", host),
        (b":path", b"/pass/bad"),
    ];
    let mut out = Vec::new();
    for (name, value) in good {
        match replaced.iter().find(|(other, _)| *other == name) {
            None => out.extend(field(name, value)),
            Some((_, Some(value))) => out.extend(field(name, value)),
            Some((_, None)) => {}
        }
    }
    for (name, value) in more {
        out.extend(field(name, value));
    }
    out
}

#[test]
fn nothing_passes_that_would_be_refused_on_http_1() {
    let origin = HandOrigin::start(LOCAL, |_, stream| reply(stream, 200, "", b"reached"));
    let fleet = Fleet::start("translation", &with_origin(&origin));
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("no :method", request(&[(b":method", None)], &[])),
        ("no :path", request(&[(b":path", None)], &[])),
        ("no :scheme", request(&[(b":scheme", None)], &[])),
        ("neither :authority nor Host", request(&[(b":authority", None)], &[])),
        ("empty :path", request(&[(b":path", Some(b""))], &[])),
        (":path without slash", request(&[(b":path", Some(b"pass/bad"))], &[])),
        (":path is a URL", request(&[(b":path", Some(b"http://other/pass/bad"))], &[])),
        (":path is *", request(&[(b":path", Some(b"*"))], &[])),
        ("space in :path", request(&[(b":path", Some(b"/pass/bad HTTP/1.1"))], &[])),
        ("CRLF in :path", request(&[(b":path", Some(b"/pass/bad\r\nX: y"))], &[])),
        ("NUL in :path", request(&[(b":path", Some(b"/pass/\0bad"))], &[])),
        ("tab in :path", request(&[(b":path", Some(b"/pass/\tbad"))], &[])),
        ("raw bytes in :path", request(&[(b":path", Some(b"/pass/\xff\xfe"))], &[])),
        ("space in :method", request(&[(b":method", Some(b"GET /pass/x"))], &[])),
        ("CRLF in :method", request(&[(b":method", Some(b"GET\r\nX"))], &[])),
        ("empty :method", request(&[(b":method", Some(b""))], &[])),
        ("CONNECT", request(&[(b":method", Some(b"CONNECT"))], &[])),
        ("TRACE", request(&[(b":method", Some(b"TRACE"))], &[])),
        (
            "extended CONNECT",
            request(&[(b":method", Some(b"CONNECT"))], &[(b":protocol", b"websocket")]),
        ),
        ("userinfo in :authority", request(&[(b":authority", Some(b"a@film.example"))], &[])),
        ("CRLF in :authority", request(&[(b":authority", Some(b"film.example\r\nX: y"))], &[])),
        ("path in :authority", request(&[(b":authority", Some(b"film.example/x"))], &[])),
        ("port that is none", request(&[(b":authority", Some(b"film.example:99999"))], &[])),
        ("another Host", request(&[], &[(b"host", b"other.example")])),
        (
            "two Hosts",
            request(&[(b":authority", None)], &[(b"host", b"film.example"), (b"host", b"b")]),
        ),
        ("two :path", [request(&[], &[]), field(b":path", b"/pass/other")].concat()),
        ("two :authority", [request(&[], &[]), field(b":authority", b"other")].concat()),
        ("two :method", [field(b":method", b"GET"), request(&[], &[])].concat()),
        (
            "pseudo-field behind others",
            request(&[(b":path", None)], &[(b"a", b"b"), (b":path", b"/pass/x")]),
        ),
        ("unknown pseudo-field", request(&[], &[(b":unknown", b"x")])),
        (":status in a request", request(&[], &[(b":status", b"200")])),
        ("upper case name", request(&[], &[(b"X-Upper", b"x")])),
        ("empty name", request(&[], &[(b"", b"x")])),
        ("colon in a name", request(&[], &[(b"a:b", b"x")])),
        ("space in a name", request(&[], &[(b"a b", b"x")])),
        ("CR in a name", request(&[], &[(b"a\rb", b"x")])),
        ("NUL in a name", request(&[], &[(b"a\0b", b"x")])),
        ("bytes in a name", request(&[], &[(b"a\xff", b"x")])),
        ("CRLF in a value", request(&[], &[(b"x-a", b"b\r\nx-c: d")])),
        ("LF in a value", request(&[], &[(b"x-a", b"b\nx-c: d")])),
        ("CR in a value", request(&[], &[(b"x-a", b"b\rc")])),
        ("NUL in a value", request(&[], &[(b"x-a", b"b\0c")])),
        ("connection", request(&[], &[(b"connection", b"keep-alive")])),
        ("keep-alive", request(&[], &[(b"keep-alive", b"timeout=5")])),
        ("proxy-connection", request(&[], &[(b"proxy-connection", b"close")])),
        ("transfer-encoding", request(&[], &[(b"transfer-encoding", b"chunked")])),
        ("upgrade", request(&[], &[(b"upgrade", b"h2c")])),
        ("te beside trailers", request(&[], &[(b"te", b"gzip")])),
        ("content-length without a body", request(&[], &[(b"content-length", b"5")])),
        ("content-length that is none", request(&[], &[(b"content-length", b"0x5")])),
        (
            "two content-lengths",
            request(&[], &[(b"content-length", b"0"), (b"content-length", b"1")]),
        ),
        ("other scheme", request(&[(b":scheme", Some(b"ht tp"))], &[])),
        ("loop", request(&[], &[(b"cdn-loop", b"edge-1")])),
    ];
    let mut raw = Raw::open(&fleet);
    let mut stream = 1;
    let mut closed = Vec::new();
    let passed = origin.count();
    for (name, fields) in &bad {
        let sent = raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, fields));
        let verdict = sent.ok().and_then(|()| {
            loop {
                let frame = raw.next()?;
                match frame.kind {
                    RST_STREAM | HEADERS if frame.stream == stream => break Some(frame),
                    GOAWAY => break None,
                    _ => {}
                }
            }
        });
        match verdict {
            Some(frame) if frame.kind == HEADERS => {
                // Statuses are in the static table, or three digits (RFC 7541 §B): never 2xx.
                let status = status_of(&frame.payload);
                assert!((400..=599).contains(&status), "{name}: {status}");
                stream += 2;
            }
            Some(_) => stream += 2,
            None => {
                closed.push(*name);
                raw = Raw::open(&fleet);
                stream = 1;
            }
        }
        assert_eq!(origin.count(), passed, "{name}");
    }
    println!("closed the connection: {closed:?}");
    // And a good one is served, on the same connection.
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/pass/good"))).unwrap();
    let answer = raw.until(HEADERS).unwrap();
    assert_eq!(status_of(&answer.payload), 200);
    assert_eq!(origin.count(), passed + 1);
    // What is no part of a target is left out (RFC 9113 §8.3.1).
    let fields = request(&[(b":path", Some(b"/pass/good?a#fragment"))], &[]);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream + 2, &fields)).unwrap();
    assert_eq!(status_of(&raw.until(HEADERS).unwrap().payload), 200);
    assert_eq!(origin.all().last().unwrap().target(), "/pass/good?a");
}

#[test]
fn bodies_that_are_not_as_long_as_they_say_do_not_pass() {
    let origin = HandOrigin::start(LOCAL, |_, stream| reply(stream, 200, "", b"reached"));
    let fleet = Fleet::start("lengths", &with_origin(&origin));
    for (name, data) in [("short", &b"abc"[..]), ("long", b"abcdefgh")] {
        let mut raw = Raw::open(&fleet);
        let fields = request(&[(b":method", Some(b"POST"))], &[(b"content-length", b"5")]);
        raw.send(&frame(HEADERS, END_HEADERS, 1, &fields)).unwrap();
        raw.send(&frame(DATA, END_STREAM, 1, data)).unwrap();
        let verdict = loop {
            let Some(frame) = raw.next() else { panic!("{name}: closed") };
            if frame.stream == 1 && matches!(frame.kind, RST_STREAM | HEADERS) {
                break frame;
            }
        };
        let refused =
            verdict.kind == RST_STREAM || (400..=499).contains(&status_of(&verdict.payload));
        assert!(refused, "{name}: {verdict:?}");
    }
    assert_eq!(origin.count(), 0);
}

/// The status of an answer's fields: the first of them (RFC 9113 §8.3.2).
fn status_of(block: &[u8]) -> u16 {
    let block = match block.first() {
        Some(byte) if byte & 0xe0 == 0x20 => &block[1..], // a table size update
        _ => block,
    };
    match block[0] {
        index @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        // A literal whose name is `:status`; the value may be in Huffman's code of 5 bits for each digit.
        _ => {
            let (len, huffman) = (usize::from(block[1] & 0x7f), block[1] & 0x80 != 0);
            let value = &block[2..2 + len];
            if !huffman {
                return std::str::from_utf8(value).unwrap().parse().unwrap();
            }
            let bits: String = value.iter().map(|byte| format!("{byte:08b}")).collect();
            let codes = [
                ("00000", 0),
                ("00001", 1),
                ("00010", 2),
                ("011001", 3),
                ("011010", 4),
                ("011011", 5),
                ("011100", 6),
                ("011101", 7),
                ("011110", 8),
                ("011111", 9),
            ];
            let (mut rest, mut status) = (&bits[..], 0);
            for _ in 0..3 {
                let (code, digit) = codes.iter().find(|(code, _)| rest.starts_with(code)).unwrap();
                rest = &rest[code.len()..];
                status = status * 10 + digit;
            }
            status
        }
    }
}
