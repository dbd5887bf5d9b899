//! HTTP/3: streams of requests, answers and control, field sections, Huffman codes.

use crate::http::with_cut;
use crate::split;
use bytes::Bytes;
use tidegate_http::{Fields, Method, Scheme};
use tidegate_http3::qpack::{Section, encode_line, encode_prefix, huffman};
use tidegate_http3::{
    Connection, Error, Limits, ParsedRequest, RequestEvent, RequestReader, ResponseEvent,
    ResponseReader, Side, UniStream, encode_data_head, encode_request, encode_response,
    encode_trailers,
};

/// What came of one message.
#[derive(Debug, PartialEq)]
struct Read<Head> {
    head: Option<Head>,
    body: Vec<u8>,
    trailers: Option<Fields>,
    end: Result<(), Error>,
}

fn read_request(pieces: &[&[u8]]) -> Read<ParsedRequest> {
    let mut reader = RequestReader::new(Limits::REQUEST);
    let mut read = Read { head: None, body: Vec::new(), trailers: None, end: Ok(()) };
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match reader.read(&mut input) {
                Ok(None) => break,
                Ok(Some(RequestEvent::Head(head))) => read.head = Some(*head),
                Ok(Some(RequestEvent::Data(bytes))) => read.body.extend_from_slice(&bytes),
                Ok(Some(RequestEvent::Trailers(fields))) => read.trailers = Some(fields),
                Err(error) => {
                    read.end = Err(error);
                    return read;
                }
            }
        }
        assert!(input.is_empty(), "all that came is taken");
    }
    read.end = reader.end();
    read
}

/// Whole and in pieces a stream is the same request; what was taken can be sent on and is read as the same.
pub fn request(input: &[u8]) {
    let (a, b) = split(input);
    let bytes = [a, b].concat();
    let whole = read_request(&[&bytes]);
    assert_eq!(whole, read_request(&[a, b]));
    let (Some(parsed), Ok(())) = (whole.head, whole.end) else { return };
    let head = parsed.head;
    assert!(parsed.length.is_none_or(|length| length == whole.body.len() as u64));
    let authority = head.authority.as_ref().map_or("h".to_owned(), ToString::to_string);
    let (target, scheme) = (head.target(), head.scheme_in_target.unwrap_or(Scheme::Https));
    let mut sent = Vec::new();
    encode_request(&head.method, scheme, &authority, &target, &head.fields, &mut sent)
        .expect("a request that was taken can be sent on");
    encode_data_head(whole.body.len() as u64, &mut sent);
    sent.extend_from_slice(&whole.body);
    if let Some(trailers) = &whole.trailers {
        encode_trailers(trailers, &mut sent);
    }
    let again = read_request(&[&sent]);
    if matches!(again.end, Err(Error::Stream { status: 431, .. })) {
        return; // an authority from Host stands in a line more
    }
    assert_eq!(again.end, Ok(()));
    let again_head = again.head.expect("it was sent").head;
    let mut fields = head.fields;
    fields.remove("host");
    assert_eq!((again_head.method, again_head.path), (head.method, head.path));
    assert_eq!((again_head.query, again_head.fields), (head.query, fields));
    assert_eq!((again.body, again.trailers), (whole.body, whole.trailers));
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    let mut fields = Fields::new();
    for (name, value) in [
        ("content-length", "5"),
        ("cookie", "a=b"),
        ("x-own", "value"),
        ("accept", "*/*"),
        ("te", "trailers"),
    ] {
        fields.append(name, value).expect("a good field");
    }
    let mut whole = vec![0x21, 1, 0];
    encode_request(&Method::Get, Scheme::Https, "a.example", "/p?q", &fields, &mut whole)
        .expect("a good request");
    encode_data_head(5, &mut whole);
    whole.extend_from_slice(b"hello");
    encode_trailers(&Fields::new(), &mut whole);
    // By hand, without Huffman, so that mutations reach names and values.
    let mut plain =
        b"\x01\x00\x00\x00\xd1\xd7\x50\x01a\xc1\x23foo\x03bar\x25cookie\x03a=b".to_vec();
    plain[1] = (plain.len() - 2) as u8;
    with_cut(vec![whole, plain])
}

/// As `request`, for answers to GET and to HEAD.
pub fn response(input: &[u8]) {
    let (a, b) = split(input);
    let bytes = [a, b].concat();
    for method in [Method::Get, Method::Head] {
        let read = |pieces: &[&[u8]]| {
            let mut reader = ResponseReader::new(method.clone(), Limits::RESPONSE);
            let mut read = Read { head: None, body: Vec::new(), trailers: None, end: Ok(()) };
            let mut interim = 0;
            for piece in pieces {
                let mut input = Bytes::copy_from_slice(piece);
                loop {
                    match reader.read(&mut input) {
                        Ok(None) => break,
                        Ok(Some(ResponseEvent::Interim(_))) => interim += 1,
                        Ok(Some(ResponseEvent::Head(head))) => read.head = Some(*head),
                        Ok(Some(ResponseEvent::Data(bytes))) => read.body.extend_from_slice(&bytes),
                        Ok(Some(ResponseEvent::Trailers(fields))) => read.trailers = Some(fields),
                        Err(error) => {
                            read.end = Err(error);
                            return (read, interim);
                        }
                    }
                }
            }
            read.end = reader.end();
            (read, interim)
        };
        let (whole, interim) = read(&[&bytes]);
        assert_eq!((&whole, interim), (&read(&[a, b]).0, read(&[a, b]).1));
        let (Some(parsed), Ok(())) = (&whole.head, whole.end) else { continue };
        assert!((200..600).contains(&parsed.head.status));
        assert!(parsed.length.is_none_or(|length| length == whole.body.len() as u64));
        let mut sent = Vec::new();
        encode_response(parsed.head.status, &parsed.head.fields, &mut sent);
        encode_data_head(whole.body.len() as u64, &mut sent);
        sent.extend_from_slice(&whole.body);
        let (again, _) = read(&[&sent]);
        assert_eq!((again.head, again.body), (whole.head, whole.body));
    }
}

pub fn response_seeds() -> Vec<Vec<u8>> {
    let mut fields = Fields::new();
    fields.append("content-length", "2").expect("a good field");
    let (mut interim, mut answer) = (Vec::new(), Vec::new());
    encode_response(103, &Fields::new(), &mut interim);
    encode_response(200, &fields, &mut answer);
    encode_data_head(2, &mut answer);
    answer.extend_from_slice(b"ab");
    let mut not_modified = Vec::new();
    encode_response(304, &fields, &mut not_modified);
    with_cut(vec![[&interim[..], &answer].concat(), not_modified])
}

/// Streams of one direction, for both sides, in pieces and whole.
pub fn control(input: &[u8]) {
    let (a, b) = split(input);
    let bytes = [a, b].concat();
    for side in [Side::Client, Side::Server] {
        let receive = |pieces: &[&[u8]]| {
            let mut connection = Connection::new(side, Limits::REQUEST);
            let mut stream = UniStream::default();
            let mut outcome = None;
            for piece in pieces {
                let bytes = Bytes::copy_from_slice(piece);
                outcome =
                    Some(connection.receive(&mut stream, bytes).map_err(|error| error.code()));
                if matches!(outcome, Some(Err(_))) {
                    break;
                }
            }
            (outcome, connection.settings().copied(), connection.peer_goaway())
        };
        assert_eq!(receive(&[&bytes]), receive(&[a, b]));
    }
}

pub fn control_seeds() -> Vec<Vec<u8>> {
    let mut connection = Connection::new(Side::Server, Limits::REQUEST);
    let mut whole = Vec::new();
    connection.preamble(&mut whole);
    connection.goaway(8, &mut whole);
    whole.extend_from_slice(&[13, 1, 4, 0x21, 2, 0, 0, 3, 1, 0]);
    with_cut(vec![whole, vec![2, 0x20, 0x3f, 0xbd, 1], vec![3, 0x48, 0x84], vec![1, 0], vec![0x21]])
}

/// A section that is read is read again from what we write of it; so is a Huffman code, and that to the byte.
pub fn qpack(input: &[u8]) {
    if let Ok(section) = Section::decode(input, &Limits::REQUEST) {
        let mut block = Vec::new();
        encode_prefix(&mut block);
        let mut lower = true;
        for (name, value) in section.iter() {
            match std::str::from_utf8(name) {
                Ok(name) => encode_line(name, value, &mut block),
                Err(_) => lower = false,
            }
        }
        if lower {
            let again = Section::decode(&block, &Limits::REQUEST).expect("we wrote it");
            assert!(again.iter().eq(section.iter()));
        }
    }
    let mut text = Vec::new();
    if huffman::decode(input, &mut text).is_some() {
        assert!(text.len() <= input.len() * 8 / 5);
        let mut coded = Vec::new();
        huffman::encode(&text, &mut coded);
        assert_eq!(coded, input);
    }
}

pub fn qpack_seeds() -> Vec<Vec<u8>> {
    let mut block = Vec::new();
    encode_prefix(&mut block);
    for (name, value) in
        [(":path", "/index.html"), (":method", "GET"), ("x-own", "a value"), ("cookie", "~")]
    {
        encode_line(name, value.as_bytes(), &mut block);
    }
    let mut code = Vec::new();
    huffman::encode(b"www.example.com", &mut code);
    vec![block, b"\x00\x00\x23foo\x03bar\x51\x01/\xd9".to_vec(), code]
}
