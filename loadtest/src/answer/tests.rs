//! Goal: an answer is complete exactly where its framing ends, however its bytes are cut, and no bytes panic.

use super::*;
use proptest::prelude::*;

/// Feeds in pieces of these sizes, as a connection would.
fn read(bytes: &[u8], sizes: &[usize]) -> Result<AnswerReader, Malformed> {
    read_knowing(None, bytes, sizes)
}

fn read_knowing(
    known: Option<KnownHead>,
    bytes: &[u8],
    sizes: &[usize],
) -> Result<AnswerReader, Malformed> {
    let mut reader = AnswerReader::knowing(known);
    let (mut from, mut to, mut turn) = (0, 0, 0);
    while to < bytes.len() {
        to = (to + sizes[turn % sizes.len()].max(1)).min(bytes.len());
        turn += 1;
        from += reader.feed(&bytes[from..to], &mut ())?;
    }
    Ok(reader)
}

const GOOD: &[(&[u8], u16, u64, bool)] = &[
    (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, 5, true),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, 0, true),
    (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        200,
        5,
        true,
    ),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, 0, true),
    (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
        404,
        2,
        true,
    ),
    (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx", 200, 1, false),
];

#[test]
fn answers_end_where_they_say() {
    for (bytes, status, body_bytes, keep_alive) in GOOD {
        for sizes in [[bytes.len()], [1], [7]] {
            let reader = read(bytes, &sizes).unwrap();
            assert!(reader.is_done());
            let answer = reader.answer();
            assert_eq!(
                (answer.status, answer.body_bytes, answer.keep_alive),
                (*status, *body_bytes, *keep_alive)
            );
            let mut more = bytes.to_vec();
            more.push(b'x');
            assert_eq!(read(&more, &sizes).unwrap_err(), Malformed::Surplus);
        }
    }
}

#[test]
fn what_came_before_changes_no_answer() {
    let long =
        format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 5\r\n\r\nhello", "y".repeat(2000));
    let mut all: Vec<&[u8]> = GOOD.iter().map(|(bytes, ..)| *bytes).collect();
    // The same status line and fields, and then something else.
    all.push(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncache-status: a; hit\r\n\r\nhello");
    all.push(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncache-status: b; hit\r\n\r\nhello");
    all.push(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
    all.push(long.as_bytes());
    for first in &all {
        let known = || read(first, &[first.len()]).unwrap().into_known();
        for second in &all {
            for sizes in [[second.len()], [1], [7], [40]] {
                let alone = read(second, &sizes).unwrap();
                let after = read_knowing(known(), second, &sizes).unwrap();
                assert!(after.is_done() && alone.answer() == after.answer(), "{after:?}");
            }
        }
    }
    // It is made use of, and not kept when it is long.
    let mut reader = AnswerReader::knowing(read(all[6], &[100]).unwrap().into_known());
    assert!(reader.begins_as_known(all[6]) && !reader.begins_as_known(all[7]));
    reader.feed(all[7], &mut ()).unwrap();
    assert!(reader.begins_as_known(all[7]), "the last one is known");
    assert!(read(long.as_bytes(), &[4000]).unwrap().into_known().is_none());
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let reader = read(b"HTTP/1.1 200 OK\r\n\r\nabc", &[4]).unwrap();
    assert!(!reader.is_done());
    assert_eq!((reader.at_close(), reader.answer().body_bytes), (AtClose::Complete, 3));
    assert!(!reader.answer().keep_alive);
}

#[test]
fn an_early_end_is_told_apart() {
    assert_eq!(AnswerReader::new().at_close(), AtClose::InHead);
    let head = read(b"HTTP/1.1 200 OK\r\ncontent-le", &[3]).unwrap();
    assert_eq!(head.at_close(), AtClose::InHead);
    let body = read(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", &[3]).unwrap();
    assert_eq!((body.at_close(), body.answer().body_bytes), (AtClose::InBody, 3));
    let chunk = read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", &[3]);
    assert_eq!(chunk.unwrap().at_close(), AtClose::InBody);
}

#[test]
fn what_is_no_answer_is_refused() {
    let interim = b"HTTP/1.1 103 x\r\n\r\n".repeat(INTERIM_MAX + 1);
    assert_eq!(read(&interim, &[50]).unwrap_err(), Malformed::TooManyInterim);
    let chunks: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    assert!(matches!(read(chunks, &[50]), Err(Malformed::Chunks(_))));
    let huge = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'a'; 100_000]].concat();
    for bad in
        [b"SSH-2.0-x\r\n".as_slice(), b"HTTP/1.1 200 OK\n\n", b"HTTP/1.1 999 x\r\n\r\n", &huge]
    {
        assert!(matches!(read(bad, &[4096]), Err(Malformed::Head(_))));
    }
}

#[test]
fn cache_status_lines_are_joined() {
    let one = read(b"HTTP/1.1 204 x\r\ncache-status: a; hit\r\n\r\n", &[9]).unwrap();
    assert_eq!(one.answer().cache_status.as_deref(), Some(b"a; hit".as_slice()));
    let two = read(b"HTTP/1.1 204 x\r\ncache-status: a; hit\r\ncache-status: b; hit\r\n\r\n", &[9]);
    assert_eq!(two.unwrap().answer().cache_status.as_deref(), Some(b"a; hit, b; hit".as_slice()));
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        which in 0..GOOD.len(),
        flip in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        sizes in proptest::collection::vec(1usize..20, 1..10),
    ) {
        let mut bytes = GOOD[which].0.to_vec();
        if let Some((index, byte)) = flip {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = read(&bytes, &[bytes.len()]);
        let cut = read(&bytes, &sizes);
        prop_assert_eq!(whole.is_ok(), cut.is_ok());
        if let (Ok(whole), Ok(cut)) = (whole, cut) {
            prop_assert_eq!(whole.answer(), cut.answer());
            prop_assert_eq!(whole.at_close(), cut.at_close());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _judged = read(&bytes, &[5]);
        let _judged = read(&[b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes].concat(), &[5]);
    }
}

/// Keeps all that it is shown.
#[derive(Default)]
struct Keep(Vec<u16>, Vec<u8>);

impl Look for Keep {
    fn head(&mut self, head: &ResponseHead) {
        self.0.push(head.status);
    }
    fn body(&mut self, bytes: &[u8]) {
        self.1.extend_from_slice(bytes);
    }
}

#[test]
fn who_looks_sees_the_head_once_and_every_byte_of_the_body() {
    for (bytes, status, body_bytes, _) in GOOD {
        for size in [1, 7, bytes.len()] {
            let (mut reader, mut keep, mut from, mut to) =
                (AnswerReader::new(), Keep::default(), 0, 0);
            while to < bytes.len() {
                to = (to + size).min(bytes.len());
                from += reader.feed(&bytes[from..to], &mut keep).unwrap();
            }
            assert_eq!(keep.0, [*status]);
            assert_eq!(keep.1.len() as u64, *body_bytes);
            assert!([&b""[..], b"hello", b"abcde", b"no", b"x"].contains(&&keep.1[..]));
        }
    }
}
