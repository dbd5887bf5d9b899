//! Goal: every request of the corpus is refused with its status (or taken, where it is well-formed), and as
//! early as its bytes allow. Method: whole, byte by byte, and against the linear-time bound.

use tidegate_http::{Method, Scheme, Version};
use tidegate_http1::corpus::{self, Case};
use tidegate_http1::{
    BodyFraming, Limits, ParsedRequest, RequestError, RequestParser, parse_request,
};

fn cases() -> Vec<Case> {
    corpus::load(corpus::MALFORMED).unwrap()
}

fn whole(bytes: &[u8]) -> Result<Option<ParsedRequest>, RequestError> {
    parse_request(bytes, &Limits::REQUEST)
}

fn byte_by_byte(bytes: &[u8]) -> Result<Option<ParsedRequest>, RequestError> {
    let mut parser = RequestParser::new(Limits::REQUEST);
    for end in 0..=bytes.len() {
        match parser.parse(&bytes[..end]) {
            Ok(None) => {}
            other => return other,
        }
    }
    Ok(None)
}

fn good(text: &str) -> ParsedRequest {
    whole(text.as_bytes()).unwrap().unwrap()
}

#[test]
fn the_corpus_is_answered_as_it_says() {
    let cases = cases();
    let refused = cases.iter().filter(|case| !case.statuses.is_empty()).count();
    assert!(refused >= 80, "{refused} malformed cases");
    for case in &cases {
        for (manner, result) in
            [("whole", whole(&case.bytes)), ("bytes", byte_by_byte(&case.bytes))]
        {
            match result {
                Ok(Some(_)) => {
                    assert!(case.statuses.is_empty(), "{} was taken ({manner})", case.name)
                }
                Ok(None) => panic!("{} is still waited for ({manner})", case.name),
                Err(error) => {
                    assert!(
                        case.statuses.contains(&error.status),
                        "{}: {error} ({manner})",
                        case.name
                    );
                }
            }
        }
    }
}

#[test]
fn well_formed_requests_are_the_same_whole_and_in_pieces() {
    for case in cases().iter().filter(|case| case.statuses.is_empty()) {
        assert_eq!(whole(&case.bytes), byte_by_byte(&case.bytes), "{}", case.name);
    }
}

#[test]
fn what_a_request_says_comes_out() {
    let parsed = good(
        "POST /a/b?c=d&e HTTP/1.1\r\nHost: Example.NET:8080\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\
         X-Two:  spaces  \r\n\r\nhello",
    );
    let head = &parsed.head;
    assert_eq!(
        (&head.method, &head.path[..], head.query.as_deref()),
        (&Method::Post, "/a/b", Some("c=d&e"))
    );
    assert_eq!(head.authority.as_ref().unwrap().to_string(), "example.net:8080");
    assert_eq!((head.version, head.scheme_in_target), (Version::Http11, None));
    assert_eq!(head.fields.get("x-two"), Some(&b"spaces"[..]));
    assert_eq!(
        (parsed.body, parsed.keep_alive, parsed.expect_continue),
        (BodyFraming::Length(12), true, true)
    );

    let absolute = good("GET HTTPS://h.example?q HTTP/1.1\r\nHost: h.example:443\r\n\r\n").head;
    assert_eq!((&absolute.path[..], absolute.query.as_deref()), ("/", Some("q")));
    assert_eq!(absolute.scheme_in_target, Some(Scheme::Https));
    assert_eq!(good("OPTIONS http://h.example HTTP/1.1\r\nHost: h.example\r\n\r\n").head.path, "*");
    assert_eq!(good("GET /? HTTP/1.1\r\nHost: h\r\n\r\n").head.query.as_deref(), Some(""));
}

#[test]
fn connection_options_decide_about_the_next_request() {
    for (version, field, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n");
        assert_eq!(good(&text).keep_alive, keep_alive, "{text:?}");
    }
    let http10 = "POST / HTTP/1.0\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    assert!(!good(http10).expect_continue);
}

#[test]
fn pipelined_requests_come_out_one_after_the_other() {
    let bytes = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3";
    let mut parser = RequestParser::new(Limits::REQUEST);
    let first = parser.parse(bytes).unwrap().unwrap();
    let second = parser.parse(&bytes[first.head_bytes..]).unwrap().unwrap();
    assert_eq!((&first.head.path[..], &second.head.path[..]), ("/1", "/2"));
    assert_eq!(parser.parse(&bytes[first.head_bytes + second.head_bytes..]), Ok(None));
}

#[test]
fn limits_are_exact() {
    let limits = Limits { head_bytes_max: 60, target_bytes_max: 10, fields_max: 2 };
    let status = |text: &str| {
        parse_request(text.as_bytes(), &limits).map(|p| p.is_some()).map_err(|e| e.status)
    };
    assert_eq!(status("GET /123456789 HTTP/1.1\r\nHost: h\r\n\r\n"), Ok(true));
    assert_eq!(status("GET /1234567890 HTTP/1.1\r\nHost: h\r\n\r\n"), Err(414));
    assert_eq!(status("GET /12345678901"), Err(414));
    assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"), Ok(true));
    assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\nC: d\r\n"), Err(431));
    let padded =
        |bytes: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "b".repeat(bytes));
    let exact = 60 - padded(0).len();
    assert_eq!(status(&padded(exact)), Ok(true));
    assert_eq!(status(&padded(exact + 1)), Err(431));
}

#[test]
fn the_scan_is_linear_however_the_bytes_come() {
    let request = |fields: usize| {
        let lines: String =
            (0..fields).map(|i| format!("X-{i}: {}\r\n", "v".repeat(200))).collect();
        format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes()
    };
    let steps = |bytes: &[u8], piece: usize| {
        let mut parser = RequestParser::new(Limits::REQUEST);
        let mut end = 0;
        loop {
            end = (end + piece).min(bytes.len());
            if parser.parse(&bytes[..end]).unwrap().is_some() {
                return parser.steps();
            }
        }
    };
    let (small, large) = (request(60), request(120));
    for piece in [1, 7, 1460, usize::MAX / 2] {
        let (one, two) = (steps(&small, piece), steps(&large, piece));
        // A step per byte, and one more for a CR whose LF had not come.
        assert!(one <= 2 * small.len() as u64 && two <= 2 * large.len() as u64);
        assert!(two * 10 <= one * 22, "pieces of {piece}: {one} then {two} steps");
    }
}

#[test]
fn a_bad_corpus_line_is_named() {
    assert!(corpus::load("a | 400 | x\nb | what | x").unwrap_err().contains("line 2"));
    assert!(corpus::load("a | 400 | \\q").is_err());
    assert!(corpus::load("a | 400 | x\na | 400 | y").is_err());
}
