//! Goal: what the writer writes, the parser reads back as it was, and nothing ever ends a line early. Method:
//! generated heads, whole and in pieces.

use proptest::prelude::*;
use tidegate_http::{Fields, Method};
use tidegate_http1::{
    EncodeError, Limits, RequestParser, ResponseParser, encode_request, encode_response,
    parse_request, parse_response,
};

fn fields(list: &[(String, Vec<u8>)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in list {
        fields.append(format!("x-{name}"), value.clone()).unwrap();
    }
    fields
}

fn field_list() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let value = proptest::collection::vec(
        any::<u8>().prop_filter("a value byte", |b| *b >= 0x20 && *b != 0x7f),
        0..40,
    );
    proptest::collection::vec(("[a-z0-9!#$%&'*+.^_`|~-]{1,20}", value), 0..12)
}

/// Lines of a head must be those that were meant: one first line, one per field, one blank line at the end.
fn check_lines(out: &[u8], expected: usize) {
    assert!(!out.contains(&0));
    let ends: Vec<usize> = (0..out.len()).filter(|i| out[*i] == b'\n').collect();
    assert_eq!(ends.len(), expected);
    assert_eq!(out.iter().filter(|b| **b == b'\r').count(), expected);
    assert!(ends.iter().all(|i| out[i - 1] == b'\r'));
    assert!(out.ends_with(b"\r\n\r\n"));
}

proptest! {
    #[test]
    fn requests_come_back(
        list in field_list(),
        method in "(GET|HEAD|PUT|PURGE)",
        target in "/[!-\"$->@-~]{0,40}([?][!-\"$-~]{0,20})?",
    ) {
        let fields = fields(&list);
        let method = Method::parse(method.as_bytes()).unwrap();
        let mut out = Vec::new();
        encode_request(&method, &target, "h.example:81", &fields, &mut out).unwrap();
        check_lines(&out, fields.len() + 3);
        let parsed = parse_request(&out, &Limits::REQUEST).unwrap().unwrap();
        prop_assert_eq!(&parsed.head.method, &method);
        prop_assert_eq!(parsed.head.target(), target);
        prop_assert_eq!(parsed.head.authority.as_ref().unwrap().to_string(), "h.example:81");
        let mut own = parsed.head.fields.clone();
        own.remove("host");
        prop_assert_eq!(&own, &fields);

        let mut parser = RequestParser::new(Limits::REQUEST);
        for end in 0..out.len() {
            prop_assert_eq!(parser.parse(&out[..end]), Ok(None));
        }
        prop_assert_eq!(parser.parse(&out), Ok(Some(parsed)));
    }

    #[test]
    fn responses_come_back(list in field_list(), status in 200u16..=599) {
        let fields = fields(&list);
        let mut out = Vec::new();
        encode_response(status, &fields, &mut out);
        check_lines(&out, fields.len() + 2);
        let parsed = parse_response(&out, &Method::Get).unwrap().unwrap();
        prop_assert_eq!(parsed.head.status, status);
        prop_assert_eq!(&parsed.head.fields, &fields);
        let mut parser = ResponseParser::new(Limits::RESPONSE);
        for end in 0..out.len() {
            prop_assert_eq!(parser.parse(&out[..end], &Method::Get), Ok(None));
        }
        prop_assert_eq!(parser.parse(&out, &Method::Get), Ok(Some(parsed)));
    }

    #[test]
    fn no_text_from_outside_splits_a_head(
        target in "[ -~\r\n\0\t\u{e9}]{0,20}",
        authority in "[ -~\r\n\0]{0,20}",
        name in "[a-z\r\n: \0]{0,8}",
        value in "[ -~\r\n\0\u{1b}]{0,20}",
        status: u16,
    ) {
        let mut fields = Fields::new();
        let _ = fields.append(name, value);
        let mut out = Vec::new();
        match encode_request(&Method::Get, &target, &authority, &fields, &mut out) {
            Ok(()) => check_lines(&out, fields.len() + 3),
            Err(_) => prop_assert!(out.is_empty()),
        }
        out.clear();
        encode_response(status, &fields, &mut out);
        check_lines(&out, fields.len() + 2);
    }
}

#[test]
fn the_writer_refuses_what_would_change_the_request() {
    let mut out = b"kept".to_vec();
    let mut write = |target: &str, authority: &str| {
        encode_request(&Method::Get, target, authority, &Fields::new(), &mut out)
    };
    for bad in ["", "/a b", "/a\r\nX: y", "/\u{e9}", "/a\0"] {
        assert_eq!(write(bad, "h"), Err(EncodeError::Target));
        assert_eq!(write("/", bad), Err(EncodeError::Authority));
    }
    assert_eq!(out, b"kept");
}
