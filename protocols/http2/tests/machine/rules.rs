//! What a client may send, and what becomes of what it may not.

use crate::*;
use tidegate_http2::{
    CONTINUATIONS_MAX, RESET_BY_US_MAX, RESET_UNSEEN_MAX, STREAMS_MAX, WORKED_AT_MAX,
};

/// How the connection ends after these frames.
fn end(frames: &[Vec<u8>]) -> Option<Code> {
    let mut server = Server::new();
    server.give_all(frames);
    if let Some(code) = server.end {
        let (kind, _, _, payload) = server.sent().pop().expect("a last frame");
        assert_eq!((kind, &payload[4..8]), (GOAWAY, &code.0.to_be_bytes()[..]));
        assert!(server.machine.is_over());
        server.give(&get(101));
        assert!(!server.requests().contains(&101), "nothing is read behind an error");
    }
    server.end
}

/// The code that stream 1 is reset with after these frames; the connection goes on.
fn reset(frames: &[Vec<u8>]) -> Option<u32> {
    let mut server = Server::new();
    server.give_all(frames);
    assert_eq!(server.end, None);
    let resets = server.sent().into_iter().filter(|sent| (sent.0, sent.2) == (RST_STREAM, 1));
    let codes: Vec<_> = resets.map(|sent| u32::from_be_bytes(sent.3.try_into().unwrap())).collect();
    server.give(&get(101));
    assert_eq!(server.requests().last(), Some(&101), "the connection goes on");
    assert!(codes.len() <= 1);
    codes.first().copied()
}

const PROTOCOL: Option<Code> = Some(Code::PROTOCOL_ERROR);
const SIZE: Option<Code> = Some(Code::FRAME_SIZE_ERROR);
const FLOW: Option<Code> = Some(Code::FLOW_CONTROL_ERROR);

#[test]
fn section_3_4_the_preface() {
    let ends = |bytes: &[u8]| {
        let mut server = Server::default();
        server.give(bytes);
        server.end
    };
    assert_eq!(ends(b"GET / HTTP/1.1\r\n"), PROTOCOL);
    assert_eq!(ends(&begin()[..23]), None);
    assert_eq!(ends(&[&begin()[..23], b"\r"].concat()), PROTOCOL);
    for first in [get(1), frame(SETTINGS, ACK, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        assert_eq!(ends(&[&begin()[..24], &first].concat()), PROTOCOL);
    }
    let mut server = Server::default();
    let (kind, flags, stream, payload) = server.sent().remove(0);
    assert_eq!((kind, flags, stream), (SETTINGS, 0, 0));
    assert_eq!(payload[..6], [0, 3, 0, 0, 0, 100]);
    assert!(!server.machine.has_begun());
    server.give(&begin());
    assert_eq!(server.sent(), [(SETTINGS, ACK, 0, vec![])]);
    assert!(server.machine.has_begun());
}

#[test]
fn section_4_frames_and_their_sizes() {
    assert_eq!(end(&[frame(DATA, 0, 1, &[])[..9].to_vec()]), PROTOCOL);
    assert_eq!(end(&[vec![0, 0x40, 1, 99, 0, 0, 0, 0, 0]]), SIZE);
    assert_eq!(end(&[frame(99, 0xff, 7, &[1; 100]), frame(11, 0, 0, &[])]), None);
    let wrong = [
        frame(PRIORITY, 0, 1, &[0; 4]),
        frame(RST_STREAM, 0, 1, &[0; 3]),
        frame(SETTINGS, 0, 0, &[0; 5]),
        frame(SETTINGS, ACK, 0, &[0; 6]),
        frame(PING, 0, 0, &[0; 7]),
        frame(GOAWAY, 0, 0, &[0; 7]),
        frame(WINDOW_UPDATE, 0, 0, &[0; 5]),
        frame(WINDOW_UPDATE, 0, 1, &[0; 3]),
        frame(PRIORITY_UPDATE, 0, 0, &[0; 3]),
        frame(DATA, PADDED, 1, &[]),
        frame(HEADERS, PADDED | ALL, 3, &[]),
    ];
    for frame in wrong {
        assert_eq!(end(&[post(1, &[]), frame.clone()]), SIZE, "{frame:?}");
    }
}

#[test]
fn section_4_3_header_blocks_are_not_interrupted() {
    let open = frame(HEADERS, END_STREAM, 1, &fields(b"GET", &[]));
    for between in
        [frame(PING, 0, 0, &[0; 8]), get(3), frame(99, 0, 0, &[]), frame(CONTINUATION, 0, 3, &[])]
    {
        assert_eq!(end(&[open.clone(), between]), PROTOCOL);
    }
    assert_eq!(end(&[frame(CONTINUATION, END_HEADERS, 1, &[])]), PROTOCOL);
    let bytes = fields(b"GET", &[(b"x-a", b"b")]);
    let mut server = Server::new();
    server.give(&frame(HEADERS, END_STREAM, 1, &bytes[..10]));
    assert_eq!(server.machine.head_since(), Some(Duration::ZERO));
    server.now = Duration::from_secs(1);
    server.give_all(&[
        frame(CONTINUATION, 0, 1, &bytes[10..20]),
        frame(CONTINUATION, END_HEADERS, 1, &bytes[20..]),
    ]);
    assert_eq!(server.machine.head_since(), None);
    assert_eq!(server.events, [Event::Request { stream: 1, ended: true }]);
    assert_eq!(server.heads[0].len(), 5);
    // From its ninth byte on a head is under way.
    server.give(&get(3)[..8]);
    assert_eq!(server.machine.head_since(), None);
    server.give(&get(3)[8..9]);
    assert_eq!(server.machine.head_since(), Some(Duration::from_secs(1)));
    server.give(&get(3)[9..]);
    assert_eq!((server.machine.head_since(), server.requests()), (None, vec![1, 3]));
}

#[test]
fn section_4_3_header_blocks_have_an_end() {
    let open = frame(HEADERS, END_STREAM, 1, &fields(b"GET", &[]));
    let more = |n: u8| vec![frame(CONTINUATION, 0, 1, &[]); usize::from(n)].concat();
    assert_eq!(end(&[open.clone(), more(CONTINUATIONS_MAX)]), None);
    assert_eq!(end(&[open.clone(), more(CONTINUATIONS_MAX + 1)]), Some(Code::ENHANCE_YOUR_CALM));
    let large = vec![frame(CONTINUATION, 0, 1, &[0; 16_384]); 2].concat();
    assert_eq!(end(&[open, large]), PROTOCOL, "no flood: an accident with cookies looks like this");
    assert_eq!(end(&[frame(HEADERS, ALL, 1, &[0x80])]), Some(Code::COMPRESSION_ERROR));
}

#[test]
fn section_5_1_states_of_streams() {
    // Idle.
    for idle in [
        frame(DATA, 0, 1, b"x"),
        frame(RST_STREAM, 0, 1, &[0; 4]),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
    ] {
        assert_eq!(end(&[idle]), PROTOCOL);
    }
    assert_eq!(end(&[frame(PRIORITY, 0, 9, &[0; 5])]), None);
    // Half-closed: the client has ended its side.
    let closed = Some(Code::STREAM_CLOSED.0);
    assert_eq!(reset(&[get(1), frame(DATA, 0, 1, b"x")]), closed);
    assert_eq!(reset(&[get(1), get(1)]), closed);
    assert_eq!(reset(&[get(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]), None);
    // Closed.
    let closed = || {
        let mut server = Server::new();
        server.give(&get(1));
        server.answer(1);
        server
    };
    let mut server = closed();
    server.give(&get(1));
    assert_eq!(server.end, Some(Code::STREAM_CLOSED));
    let mut server = closed();
    server.give_all(&[frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), frame(RST_STREAM, 0, 1, &[0; 4])]);
    assert_eq!((server.end, server.events.len()), (None, 1));
    server.sent();
    server.give(&frame(DATA, 0, 1, b"x"));
    assert_eq!(server.sent()[0], (RST_STREAM, 0, 1, vec![0, 0, 0, 5]));
}

#[test]
fn section_5_1_what_was_under_way_to_a_stream_that_we_reset_is_passed_over() {
    let mut server = Server::new();
    server.give(&post(1, &[]));
    server.machine.reset(1, Code::INTERNAL_ERROR);
    server.machine.release(1);
    assert_eq!(server.sent(), [(RST_STREAM, 0, 1, vec![0, 0, 0, 2])]);
    let trailers = frame(HEADERS, ALL, 1, &block(&[(b"a", b"b")]));
    server.give_all(&[frame(DATA, 0, 1, b"x"), trailers, frame(RST_STREAM, 0, 1, &[0; 4])]);
    assert_eq!((server.end, server.events.len(), server.sent().len()), (None, 1, 0));
}

#[test]
fn section_5_1_data_of_streams_that_are_over_is_borne_for_a_while() {
    // We reset it: once while it is worked at still, and once when nobody knows it any more.
    for is_worked_at in [true, false] {
        let mut server = Server::new();
        server.give(&post(1, &[]));
        server.machine.reset(1, Code::INTERNAL_ERROR);
        if !is_worked_at {
            server.machine.release(1);
        }
        let bytes = frame(DATA, 0, 1, b"x");
        server.give(&bytes.repeat(900));
        assert_eq!((server.end, server.body(1)), (None, (Vec::new(), false)));
        server.give(&bytes.repeat(200));
        assert_eq!(server.end, Some(Code::ENHANCE_YOUR_CALM));
    }
    // So many were reset that the first is forgotten: what was under way to it is no flood of streams that had to be reset.
    let mut server = Server::new();
    for n in 0..90 {
        server.give(&post(2 * n + 1, &[]));
        server.machine.reset(2 * n + 1, Code::INTERNAL_ERROR);
        server.machine.release(2 * n + 1);
    }
    for n in (0..90).chain(0..90) {
        server.give(&frame(DATA, 0, 2 * n + 1, &[7; 300]));
    }
    assert_eq!(server.end, None);
}

#[test]
fn section_5_1_1_numbers_of_streams() {
    assert_eq!(end(&[get(2)]), PROTOCOL);
    assert_eq!(end(&[get(5), get(3)]), PROTOCOL);
    for kind in [DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION] {
        assert_eq!(end(&[frame(kind, ALL, 0, &[0; 5])]), PROTOCOL, "{kind}");
    }
    for kind in [SETTINGS, PING, GOAWAY, PRIORITY_UPDATE] {
        assert_eq!(end(&[get(1), frame(kind, 0, 1, &[0; 8])]), PROTOCOL, "{kind}");
    }
    assert_eq!(end(&[frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 8])]), PROTOCOL);
}

#[test]
fn section_5_1_2_streams_at_once() {
    let mut server = Server::new();
    let id = |n: usize| 2 * n as u32 + 1;
    (0..=STREAMS_MAX).for_each(|n| server.give(&get(id(n))));
    assert_eq!(server.requests().len(), STREAMS_MAX);
    assert_eq!(server.sent(), [(RST_STREAM, 0, id(STREAMS_MAX), vec![0, 0, 0, 7])]);
    // Those that the client gave up are not open, but still worked at.
    server.machine.looked_at();
    (0..STREAMS_MAX).for_each(|n| server.give(&frame(RST_STREAM, 0, id(n), &[0; 4])));
    (200..200 + WORKED_AT_MAX).for_each(|n| server.give(&get(id(n))));
    assert_eq!((server.requests().len(), server.machine.streams()), (WORKED_AT_MAX, WORKED_AT_MAX));
    server.machine.release(1);
    server.answer(id(200));
    server.give(&get(9001));
    assert_eq!(server.requests().last(), Some(&9001));
}

#[test]
fn section_5_4_resets_are_counted() {
    let mut server = Server::new();
    let open_and_reset =
        |n: u32| [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0; 4])].concat();
    // Looked at in between.
    for n in 0..RESET_UNSEEN_MAX * 3 {
        server.machine.looked_at();
        server.give(&open_and_reset(n));
        server.machine.release(2 * n + 1);
    }
    assert_eq!(server.end, None);
    server.machine.looked_at();
    for n in 0..=RESET_UNSEEN_MAX {
        assert_eq!(server.end, None);
        server.give(&open_and_reset(1000 + n));
    }
    assert_eq!(server.end, Some(Code::ENHANCE_YOUR_CALM));

    let mut server = Server::new();
    for n in 0..=RESET_BY_US_MAX {
        assert_eq!(server.end, None);
        server.give_all(&[get(2 * n + 1), frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])]);
        server.machine.release(2 * n + 1);
    }
    assert_eq!(server.end, Some(Code::ENHANCE_YOUR_CALM));
}

#[test]
fn section_6_1_data_has_padding_windows_and_an_end() {
    let mut server = Server::new();
    server.give_all(&[
        post(1, &[(b"content-length", b"5")]),
        frame(DATA, PADDED, 1, b"\x03abc\0\0\0"),
        frame(DATA, 0, 1, b"d"),
        frame(DATA, END_STREAM | PADDED, 1, b"\x01e\0"),
    ]);
    assert_eq!((server.body(1), server.end), ((b"abcde".to_vec(), true), None));
    assert_eq!(end(&[post(1, &[]), frame(DATA, PADDED, 1, b"\x04abc")]), PROTOCOL);

    // What is taken is given back, of the stream and of the connection.
    let mut server = Server::new();
    server.give(&post(1, &[]));
    for _ in 0..100 {
        server.give(&frame(DATA, 0, 1, &[7; 16_384]));
    }
    assert_eq!((server.body(1).0.len(), server.end), (100 * 16_384, None));
    let given = |server: &mut Server, id: u32| -> u32 {
        let sent = server.sent().into_iter();
        let of = sent.filter(|sent| (sent.0, sent.2) == (WINDOW_UPDATE, id));
        of.map(|sent| u32::from_be_bytes(sent.3.try_into().unwrap())).sum()
    };
    assert!(given(&mut server, 1) > 98 * 16_384 - 65_535);
    // Of a stream whose body nobody wants only the connection's.
    server.machine.refuse_body(1);
    (0..5).for_each(|_| server.give(&frame(DATA, 0, 1, &[7; 16_384])));
    let sent = server.sent();
    assert!(sent.iter().all(|sent| (sent.0, sent.2) != (WINDOW_UPDATE, 1)));
    assert!(sent.iter().any(|sent| (sent.0, sent.2) == (WINDOW_UPDATE, 0)));
    assert!(sent.contains(&(RST_STREAM, 0, 1, vec![0, 0, 0, 3])));
    assert_eq!(server.end, None);
}

#[test]
fn section_6_2_headers_of_a_stream_that_is_open_are_trailers() {
    let trailers = |flags, fields: &[(&[u8], &[u8])]| frame(HEADERS, flags, 1, &block(fields));
    let mut server = Server::new();
    server.give_all(&[post(1, &[]), frame(DATA, 0, 1, b"x"), trailers(ALL, &[(b"a", b"b")])]);
    assert_eq!((server.body(1), server.end), ((b"x".to_vec(), true), None));
    let wrong = Some(Code::PROTOCOL_ERROR.0);
    assert_eq!(reset(&[post(1, &[]), trailers(END_HEADERS, &[])]), wrong);
    assert_eq!(reset(&[post(1, &[]), trailers(ALL, &[(b":path", b"/")])]), wrong);
    assert_eq!(reset(&[post(1, &[(b"content-length", b"1")]), trailers(ALL, &[])]), wrong);
}

#[test]
fn section_6_4_who_resets_is_heard() {
    let mut server = Server::new();
    server.give_all(&[
        post(1, &[]),
        frame(RST_STREAM, 0, 1, &[0; 4]),
        frame(RST_STREAM, 0, 1, &[0; 4]),
    ]);
    assert_eq!(server.events[1..], [Event::Reset { stream: 1 }]);
    assert!(!server.machine.send_head(1, 200, None, false, |_| {}));
    assert_eq!(server.machine.room(1), None);
    server.machine.release(1);
    assert_eq!((server.sent(), server.machine.streams()), (vec![], 0));
}

#[test]
fn section_6_7_pings_are_answered_and_floods_are_not() {
    let mut server = Server::new();
    server.give_all(&[frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, b"87654321")]);
    assert_eq!(server.sent(), [(PING, ACK, 0, b"12345678".to_vec())]);
    let floods = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PRIORITY, 0, 9, &[0; 5]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(99, 0, 0, &[]),
        frame(DATA, 0, 1, &[]),
        frame(DATA, PADDED, 1, &[0]),
        frame(PRIORITY_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(RST_STREAM, 0, 3, &[0; 4]),
    ];
    for flood in floods {
        let mut server = Server::new();
        server.give_all(&[post(1, &[]), get(3)]);
        server.give(&flood.repeat(900));
        assert_eq!(server.end, None, "{flood:?}");
        server.give(&flood.repeat(101));
        assert_eq!(server.end, Some(Code::ENHANCE_YOUR_CALM), "{flood:?}");
        // What we answer by ourselves is bounded.
        let answers = server.sent().len();
        assert!(answers <= 1002, "{answers}");
    }
    // Time and what was taken make up for it.
    let mut server = Server::new();
    server.give(&frame(PING, 0, 0, &[0; 8]).repeat(990));
    server.now = Duration::from_secs(5);
    server.give(&frame(PING, 0, 0, &[0; 8]).repeat(400));
    assert_eq!(server.end, None);
}

#[test]
fn section_6_8_a_goodbye_in_two_steps() {
    let mut server = Server::new();
    server.give(&post(1, &[]));
    server.machine.leave();
    server.machine.leave();
    let sent = server.sent();
    assert_eq!(sent[0], (GOAWAY, 0, 0, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0].to_vec()));
    assert_eq!((sent.len(), sent[1].0, sent[1].1), (2, PING, 0));
    // Asked before it was heard.
    server.give_all(&[get(3), frame(PING, ACK, 0, &sent[1].3)]);
    assert_eq!(server.requests(), [1, 3]);
    assert_eq!(server.sent(), [(GOAWAY, 0, 0, [0, 0, 0, 3, 0, 0, 0, 0].to_vec())]);
    // Asked afterwards: passed over, with all that belongs to it.
    server.give_all(&[
        post(5, &[]),
        frame(DATA, END_STREAM, 5, b"x"),
        frame(RST_STREAM, 0, 5, &[0; 4]),
    ]);
    assert_eq!((server.requests().len(), server.end), (2, None));
    server.answer(3);
    assert!(!server.machine.is_over());
    server.give(&frame(DATA, END_STREAM, 1, b"x"));
    server.answer(1);
    assert!(server.machine.is_over());
    // A client that goes is not waited for when it has its answers.
    let mut server = Server::new();
    server.give_all(&[get(1), frame(GOAWAY, 0, 0, &[0; 8])]);
    assert!(!server.machine.is_over());
    server.answer(1);
    assert!(server.machine.is_over());
}

#[test]
fn section_6_9_windows() {
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let max = u32::MAX >> 1;
    assert_eq!(end(&[update(0, 0)]), PROTOCOL);
    assert_eq!(end(&[update(0, max)]), FLOW);
    assert_eq!(end(&[update(0, max - 65_535)]), None);
    assert_eq!(reset(&[get(1), update(1, 0)]), Some(Code::PROTOCOL_ERROR.0));
    assert_eq!(reset(&[get(1), update(1, max)]), Some(Code::FLOW_CONTROL_ERROR.0));
    // §6.9.2: by SETTINGS, of streams that are open, too.
    let first = |window: u32| frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
    assert_eq!(end(&[get(1), update(1, 1), first(max)]), FLOW);
    let mut server = Server::new();
    server.give_all(&[get(1), first(0)]);
    assert_eq!(server.machine.room(1), Some(0));
    server.give(&update(1, 10));
    assert_eq!(server.events[1..], [Event::Window { stream: Some(1) }]);
    server.give(&first(5));
    assert_eq!(server.events[2..], [Event::Window { stream: None }]);
    assert_eq!(server.machine.room(1), Some(15));
    // As much as the windows take.
    assert_eq!(
        end(&[post(1, &[]), post(3, &[]), vec![frame(DATA, 0, 1, &[0; 16_384]); 2].concat()]),
        None
    );
}

#[test]
fn section_8_1_1_lengths_are_kept() {
    let wrong = Some(Code::PROTOCOL_ERROR.0);
    let post = |length: &'static [u8]| post(1, &[(b"content-length", length)]);
    assert_eq!(reset(&[post(b"2"), frame(DATA, END_STREAM, 1, b"ab")]), None);
    assert_eq!(reset(&[post(b"2"), frame(DATA, END_STREAM, 1, b"a")]), wrong);
    assert_eq!(reset(&[post(b"2"), frame(DATA, 0, 1, b"abc")]), wrong);
    for length in [&b"x"[..], b"", b"-1", b"+1", b"0x1", b"1, 1", b"9999999999999999999"] {
        assert_eq!(
            reset(&[frame(HEADERS, ALL, 1, &fields(b"GET", &[(b"content-length", length)]))]),
            wrong
        );
    }
    assert_eq!(
        reset(&[frame(HEADERS, ALL, 1, &fields(b"GET", &[(b"content-length", b"3")]))]),
        wrong
    );
    assert_eq!(
        reset(&[frame(HEADERS, ALL, 1, &fields(b"GET", &[(b"content-length", b"0")]))]),
        None
    );
}

#[test]
fn sections_8_2_and_8_3_malformed_requests_are_reset() {
    type Field<'a> = (&'a [u8], &'a [u8]);
    let good: [Field<'_>; 4] = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"a.example"),
        (b":path", b"/"),
    ];
    let verdict = |fields: &[Field<'_>]| reset(&[frame(HEADERS, ALL, 1, &block(fields))]);
    assert_eq!(verdict(&good), None);
    assert_eq!(verdict(&[(b":method", b"CONNECT"), (b":authority", b"a:1")]), None);
    let wrong = Some(Code::PROTOCOL_ERROR.0);
    for at in [0, 1, 3] {
        let mut without = good.to_vec();
        without.remove(at);
        assert_eq!(verdict(&without), wrong, "{at}");
        let twice = [&good[..], &good[at..=at]].concat();
        assert_eq!(verdict(&twice), wrong, "{at}");
        let mut late = without.clone();
        late.extend([(&b"a"[..], &b"b"[..]), good[at]]);
        assert_eq!(verdict(&late), wrong, "{at}");
    }
    for method in [&b""[..], b"GET /", b"G:T"] {
        let mut bad = good.to_vec();
        bad[0].1 = method;
        assert_eq!(verdict(&bad), wrong, "{method:?}");
    }
    let more: [Field<'_>; 22] = [
        (b":status", b"200"),
        (b":protocol", b"websocket"),
        (b":", b""),
        (b"X-Upper", b""),
        (b"", b""),
        (b"a b", b""),
        (b"a:b", b""),
        (b"a\r", b""),
        (b"a\xff", b""),
        (b"a", b"b\r\nc: d"),
        (b"a", b"\n"),
        (b"a", b"\0"),
        (b"a", b" b"),
        (b"a", b"b\t"),
        (b"connection", b"close"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
        (b":path", b"/other"),
    ];
    for field in more {
        assert_eq!(verdict(&[&good[..], &[field]].concat()), wrong, "{field:?}");
    }
    for (at, value) in
        [(0, &b"G\0"[..]), (1, b"ftp"), (1, b""), (3, b""), (3, b"/\r\n"), (2, b"a\n")]
    {
        let mut fields = good;
        fields[at].1 = value;
        assert_eq!(verdict(&fields), wrong, "{at} {value:?}");
    }
    assert_eq!(
        verdict(&[&good[..], &[(b"te", b"trailers"), (b"a", b""), (b"a", b"b c\xff")]].concat()),
        None
    );
}

#[test]
fn requests_that_are_too_large_can_be_answered() {
    let many: Vec<_> = (0..200).map(|_| (&b"a"[..], &b"b"[..])).collect();
    let mut server = Server::new();
    server.give(&frame(HEADERS, ALL, 1, &fields(b"GET", &many)));
    assert!(matches!(server.events[..], [Event::Refused { stream: 1, status: 431, .. }]));
    assert_eq!(server.end, None);
    server.answer(1);
    server.give(&get(3));
    assert_eq!(server.requests(), [3]);
}

#[test]
fn rfc_9218_section_7_1_priorities() {
    let update = |stream: u32, value: &[u8]| {
        frame(PRIORITY_UPDATE, 0, 0, &[&stream.to_be_bytes()[..], value].concat())
    };
    let mut server = Server::new();
    let long = [b'x'; 65];
    server.give_all(&[
        update(5, b"u=1, i"),
        update(0x8000_0007, b""),
        update(9, &long),
        update(11, b"u=7"),
    ]);
    let event = |stream, value: &[u8]| Event::Priority { stream, value: value.to_vec().into() };
    assert_eq!(server.events, [event(5, b"u=1, i"), event(7, b""), event(11, b"u=7")]);
    assert_eq!(end(&[update(0, b"u=1")]), PROTOCOL);
}
