//! Goal: answers of next hops are taken or refused as RFC 9112 §6.3 says. Method: a table, whole and in
//! pieces.

use tidegate_http::Method;
use tidegate_http1::{
    Limits, ParsedResponse, ResponseBody, ResponseError, ResponseParser, parse_response,
};

fn parse(text: &str, method: &Method) -> Result<Option<ParsedResponse>, ResponseError> {
    let whole = parse_response(text.as_bytes(), method);
    let mut parser = ResponseParser::new(Limits::RESPONSE);
    let pieces = (0..=text.len()).map(|end| parser.parse(&text.as_bytes()[..end], method));
    let pieces = pieces.into_iter().find(|result| *result != Ok(None)).unwrap_or(Ok(None));
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok(), "{text:?}");
    whole
}

#[test]
fn the_body_is_delimited_as_rfc_9112_6_3_says() {
    use ResponseBody::{Chunked, Length, None, UntilClose};
    for (text, method, status, body, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Get, 200, Length(5), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Head, 200, None, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get, 200, Chunked, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Head, 200, None, true),
        ("HTTP/1.1 200 OK\r\n\r\n", Method::Get, 200, UntilClose, false),
        ("HTTP/1.1 200\r\n\r\n", Method::Get, 200, UntilClose, false),
        ("HTTP/1.1 200 \r\n\r\n", Method::Get, 200, UntilClose, false),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Method::Get, 304, None, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", Method::Get, 204, None, true),
        ("HTTP/1.1 100 Continue\r\n\r\n", Method::Get, 100, None, true),
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", Method::Get, 103, None, true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Get, 200, Length(5), false),
        (
            "HTTP/1.1 404 \u{e9}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Method::Get,
            404,
            Length(0),
            false,
        ),
    ] {
        let parsed = parse(text, &method).unwrap().unwrap();
        assert_eq!(
            (parsed.head.status, parsed.body, parsed.keep_alive),
            (status, body, keep_alive),
            "{text:?}"
        );
        assert_eq!(parsed.is_interim, status < 200);
        assert_eq!(parsed.head_bytes, text.len());
    }
}

#[test]
fn answers_without_a_certain_end_are_refused() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "hello",
    ] {
        assert!(parse(text, &Method::Get).is_err(), "{text:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(129));
    assert!(parse(&many, &Method::Get).is_err());
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    assert!(parse(&large, &Method::Get).is_err());
}

#[test]
fn interim_answers_come_one_by_one() {
    let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut parser = ResponseParser::new(Limits::RESPONSE);
    let interim = parser.parse(text, &Method::Get).unwrap().unwrap();
    assert!(interim.is_interim);
    let answer = parser.parse(&text[interim.head_bytes..], &Method::Get).unwrap().unwrap();
    assert_eq!((answer.head.status, answer.is_interim), (200, false));
}
