//! What we send: heads, bodies within the windows, ends.

use crate::*;
use bytes::Bytes;
use tidegate_http2::{BACKLOG_BYTES_MAX, DATA_BYTES_MAX};

fn windows(first: u32, connection: u32) -> Vec<u8> {
    let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &first.to_be_bytes()].concat());
    [settings, frame(WINDOW_UPDATE, 0, 0, &connection.to_be_bytes())].concat()
}

#[test]
fn an_answer_is_a_head_and_frames_that_end_with_its_last_byte() {
    let mut server = Server::new();
    server.give_all(&[windows(1 << 20, 1 << 20), get(1), get(3)]);
    server.sent();
    let machine = &mut server.machine;
    assert!(machine.send_head(1, 200, Some(40_000), false, |writer| writer.put(b"ETag", b"\"a\"")));
    let mut body = Bytes::from(vec![9; 40_000]);
    assert_eq!(machine.send_data(1, &mut body, usize::MAX, true), 40_000);
    machine.release(1);
    assert!(machine.send_head(3, 404, None, false, |_| {}));
    let mut body = Bytes::from_static(b"text");
    assert_eq!(machine.send_data(3, &mut body, usize::MAX, false), 4);
    machine.end(3);
    machine.release(3);
    let sent = server.sent();
    let of: Vec<_> = sent.iter().map(|sent| (sent.0, sent.1, sent.2, sent.3.len())).collect();
    assert_eq!(of[0].0, HEADERS);
    assert_eq!(&sent[0].3[..2], b"\x20\x88", "no table, and 200");
    assert_eq!(
        of[1..],
        [
            (DATA, 0, 1, DATA_BYTES_MAX),
            (DATA, 0, 1, DATA_BYTES_MAX),
            (DATA, END_STREAM, 1, 40_000 - 2 * DATA_BYTES_MAX),
            (HEADERS, END_HEADERS, 3, 1),
            (DATA, 0, 3, 4),
            (DATA, END_STREAM, 3, 0),
        ]
    );
    assert_eq!(server.machine.streams(), 0);
}

#[test]
fn a_head_that_is_longer_than_a_frame_is_continued() {
    let mut server = Server::new();
    server.give(&get(1));
    server.sent();
    let value = vec![b'v'; 1000];
    assert!(server.machine.send_head(1, 200, None, true, |writer| {
        (0..40).for_each(|_| writer.put(b"x-long", &value));
    }));
    let sent = server.sent();
    let of: Vec<_> = sent.iter().map(|sent| (sent.0, sent.1, sent.3.len() <= 16_384)).collect();
    assert_eq!(
        of,
        [(HEADERS, END_STREAM, true), (CONTINUATION, 0, true), (CONTINUATION, END_HEADERS, true)]
    );
}

#[test]
fn what_is_released_without_an_end_is_reset() {
    let mut server = Server::new();
    server.give_all(&[get(1), post(3, &[])]);
    server.sent();
    server.machine.release(1);
    assert_eq!(server.sent(), [(RST_STREAM, 0, 1, vec![0, 0, 0, 2])]);
    // An answer that is whole before the request is (RFC 9113 §8.1).
    server.answer(3);
    assert_eq!(server.sent()[1], (RST_STREAM, 0, 3, vec![0; 4]));
    server.machine.reset(3, Code::CANCEL);
    server.machine.end(3);
    assert_eq!(server.sent(), []);
}

#[test]
fn who_does_not_read_is_not_read() {
    let mut server = Server::new();
    let value = vec![b'v'; 2000];
    for n in 0..100 {
        assert!(!server.machine.is_backed_up() || n > 30);
        server.give(&get(2 * n + 1));
        assert!(server.machine.send_head(2 * n + 1, 304, None, true, |w| w.put(b"x-a", &value)));
        server.machine.release(2 * n + 1);
        if server.machine.is_backed_up() {
            break;
        }
    }
    assert!(server.machine.is_backed_up());
    let bytes: usize = server.sent().iter().map(|sent| 9 + sent.3.len()).sum();
    assert!((BACKLOG_BYTES_MAX..BACKLOG_BYTES_MAX + 4096).contains(&bytes));
    assert!(!server.machine.is_backed_up());
}

proptest! {
    /// Whatever windows a client gives and when: all of every body comes in its order, and never more than they take.
    #[test]
    fn bodies_come_whole_within_the_windows(
        sizes in proptest::collection::vec(0usize..60_000, 1..6),
        first in 0u32..40_000,
        steps in proptest::collection::vec((0usize..6, 1u32..30_000, 1usize..50_000), 1..200),
    ) {
        let mut server = Server::new();
        server.give(&windows(first, 1));
        let mut streams: Vec<_> = (0u32..).zip(&sizes).map(|(n, size)| {
            server.give(&get(2 * n + 1));
            assert!(server.machine.send_head(2 * n + 1, 200, None, false, |_| {}));
            let body: Vec<u8> = (0..*size).map(|at| (at % 251) as u8 ^ n as u8).collect();
            (2 * n + 1, Bytes::from(body.clone()), body, i64::from(first), Vec::new(), false)
        }).collect();
        server.sent();
        let mut connection = 65_536i64;
        let rest = (0..6).cycle().map(|n| (n, 20_000, 20_000)).take(400);
        for (at, by, max) in steps.into_iter().chain(rest) {
            let at = at % streams.len();
            let (id, body, _, window, ..) = &mut streams[at];
            if server.machine.room(*id).is_none_or(|room| room <= by as usize) {
                let to = if by % 3 == 0 { 0 } else { *id };
                if to == 0 { connection += i64::from(by) } else { *window += i64::from(by) }
                server.give(&frame(WINDOW_UPDATE, 0, to, &by.to_be_bytes()));
                if to != 0 {
                    connection += 20_000;
                    server.give(&frame(WINDOW_UPDATE, 0, 0, &20_000u32.to_be_bytes()));
                }
            }
            let ends = !body.is_empty();
            server.machine.send_data(*id, body, max, ends);
            server.now += Duration::from_secs(1);
            for (kind, flags, stream, payload) in server.sent() {
                if kind != DATA { continue }
                let (_, _, _, window, came, ended) = &mut streams[stream as usize / 2];
                connection -= payload.len() as i64;
                *window -= payload.len() as i64;
                prop_assert!(connection >= 0 && *window >= 0 && !*ended);
                *ended = flags & END_STREAM != 0;
                came.extend(payload);
            }
        }
        prop_assert_eq!(server.end, None);
        for (_, left, body, _, came, ended) in streams {
            prop_assert!(left.is_empty() && came == body);
            prop_assert_eq!(ended, !came.is_empty());
        }
    }
}
