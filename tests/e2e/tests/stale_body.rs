//! An answer that is stale before its body has come (RFC 9111, 4.2.4 and 4.3): who asked before its head came shares it, who
//! comes later has it asked about, and a confirmed body is brought once all the same. Method: the origin's answers have no
//! lifetime but a validator; it holds the second half of its first body back until the test has seen what the later client
//! gets.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{
    Asked, Connection, Fleet, FleetOptions, Gate, HandOrigin, Response, content, reply,
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BODY_BYTES: usize = 3_000_000;

/// An origin that gives `body` by halves, the second one when the gate opens; whatever it is asked later, `then` answers.
/// Chunked, when its length is not told.
fn origin(
    body: &Arc<Vec<u8>>,
    fields: String,
    is_chunked: bool,
    then: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static,
) -> (HandOrigin, Gate) {
    let (gate, body, is_begun) = (Gate::default(), body.clone(), AtomicBool::new(false));
    let go_on = gate.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if is_begun.swap(true, Ordering::SeqCst) {
            return then(asked, stream);
        }
        let half = body.len() / 2;
        let (framing, piece, end) = match is_chunked {
            true => ("Transfer-Encoding: chunked".to_owned(), format!("{half:x}\r\n"), "\r\n"),
            false => (format!("Content-Length: {}", body.len()), String::new(), ""),
        };
        let head = format!("HTTP/1.1 200 OK\r\n{fields}{framing}\r\n\r\n");
        let now = [head.as_bytes(), piece.as_bytes(), &body[..half], end.as_bytes()].concat();
        let _gone = stream.write_all(&now);
        go_on.wait();
        let last = if is_chunked { "0\r\n\r\n" } else { "" };
        let later = [piece.as_bytes(), &body[half..], end.as_bytes(), last.as_bytes()].concat();
        let _gone = stream.write_all(&later);
    });
    (origin, gate)
}

fn fields(tag: &str) -> String {
    format!("ETag: {tag}\r\nCache-Control: max-age=0\r\n")
}

fn start(name: &str, origin: &HandOrigin) -> Fleet {
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        ..FleetOptions::default()
    };
    Fleet::start(name, &options)
}

/// Asks the edge, and reads no further than the head.
fn ask(fleet: &Fleet) -> (Connection, Response) {
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client.send(format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.status, 200);
    (client, head)
}

#[test]
fn a_body_on_its_way_that_is_confirmed_is_brought_once() {
    // Goal: the later client's answer was asked about, and is the first one's. Method: the origin confirms; strong and weak
    // tags, with and without a length.
    for (name, tag, is_chunked) in [
        ("strong", "\"v1\"", false),
        ("weak", "W/\"v1\"", false),
        ("chunked", "\"v1\"", true),
        ("weak-chunked", "W/\"v1\"", true),
    ] {
        let body = Arc::new(content(name, BODY_BYTES));
        let (origin, gate) = origin(&body, fields(tag), is_chunked, move |_, stream| {
            reply(stream, 304, &fields(tag), b"");
        });
        let fleet = start(name, &origin);
        let (mut first, mut first_head) = ask(&fleet);
        let (mut later, mut later_head) = ask(&fleet);
        let status = later_head.cache_status("edge-1").unwrap();
        assert!(status.contains("fwd=stale") && status.contains("fwd-status=304"), "{status}");
        let asked = origin.all();
        assert_eq!((asked.len(), asked[1].field("if-none-match")), (2, tag), "{name}");
        gate.open();
        for (client, head) in [(&mut first, &mut first_head), (&mut later, &mut later_head)] {
            client.body(head).unwrap();
            assert!(head.body == *body, "{name}");
        }
        // It is whole, and asked about once more.
        fleet.settle("edge-1");
        assert!(fleet.get("edge-1", "/a", "").unwrap().body == *body, "{name}");
        assert_eq!(origin.count(), 3, "{name}");
        for node in ["edge-1", "parent-1"] {
            assert_eq!(fleet.counter(node, "bytes_filled_total"), BODY_BYTES as u64, "{name}");
        }
    }
}

#[test]
fn a_body_on_its_way_that_is_out_of_date_goes_to_those_alone_who_asked_before() {
    // Goal: two versions side by side, each whole. Method: the origin has another one for whoever asks later.
    let (old, new) = (Arc::new(content("old", BODY_BYTES)), Arc::new(content("new", BODY_BYTES)));
    let given = new.clone();
    let (origin, gate) = origin(&old, fields("\"v1\""), false, move |asked, stream| {
        match asked.field("if-none-match") {
            "\"v2\"" => reply(stream, 304, &fields("\"v2\""), b""),
            _ => reply(stream, 200, &fields("\"v2\""), &given),
        }
    });
    let fleet = start("changed", &origin);
    let (mut first, mut first_head) = ask(&fleet);
    let (mut later, mut later_head) = ask(&fleet);
    later.body(&mut later_head).unwrap();
    assert!(later_head.body == *new, "while the old one is still coming");
    gate.open();
    first.body(&mut first_head).unwrap();
    assert!(first_head.body == *old);
    fleet.settle("edge-1");
    fleet.settle("parent-1");
    assert!(fleet.get("edge-1", "/a", "").unwrap().body == *new, "the late end of the old one");
}

#[test]
fn a_body_on_its_way_that_cannot_be_asked_about_is_shared_to_its_end() {
    // Goal: nothing is brought twice at a time. Method: an answer without a validator, too old when it comes.
    let body = Arc::new(content("shared", BODY_BYTES));
    let fields = "Age: 100\r\nCache-Control: max-age=10\r\n".to_owned();
    let (origin, gate) = origin(&body, fields, false, |_, stream| reply(stream, 500, "", b""));
    let fleet = start("shared", &origin);
    let mut clients = [ask(&fleet), ask(&fleet)];
    gate.open();
    for (client, head) in &mut clients {
        client.body(head).unwrap();
        assert!(head.body == *body);
    }
    assert_eq!(origin.count(), 1);
}
