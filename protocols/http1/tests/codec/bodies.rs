//! Goal: chunked bodies come back as they were, in whatever pieces; broken ones end in an error. Method:
//! tables, and bodies cut at random places against the plain bytes.

use proptest::prelude::*;
use tidegate_http1::chunked::TRAILER_BYTES_MAX;
use tidegate_http1::{ChunkError, ChunkedDecoder, LAST_CHUNK, encode_chunk_head};

/// Body, bytes used, whether it is complete.
fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let mut decoder = ChunkedDecoder::new();
    let (mut body, mut used, mut start) = (Vec::new(), 0, 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    for end in ends {
        while start < end && !decoder.is_done() {
            let decoded = decoder.decode(&input[start..end])?;
            assert!(decoded.consumed > 0, "no progress");
            assert!(decoded.data.end <= decoded.consumed);
            body.extend_from_slice(&input[start..end][decoded.data]);
            start += decoded.consumed;
            used = start;
        }
    }
    Ok((body, used, decoder.is_done()))
}

fn every_way(input: &[u8]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let whole = decode(input, &[]);
    let single: Vec<usize> = (0..=input.len()).collect();
    assert_eq!(whole, decode(input, &single), "{:?}", String::from_utf8_lossy(input));
    whole
}

#[test]
fn good_bodies_end_where_they_end() {
    for (input, body, rest) in [
        ("0\r\n\r\n", "", 0),
        ("0\r\n\r\nGET /next", "", 9),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
        ("00000005\r\nhello\r\n000\r\n\r\n", "hello", 0),
        ("A\r\n0123456789\r\n0\r\n\r\nxy", "0123456789", 2),
        ("a\r\n0123456789\r\n1\r\nz\r\n0\r\n\r\n", "0123456789z", 0),
        ("5;name=value\r\nhello\r\n0\r\n\r\n", "hello", 0),
        ("5;a=\"b;c\"\r\nhello\r\n0;x\r\n\r\n", "hello", 0),
        ("0\r\nX-Trailer: a\r\nY:\r\n\r\nz", "", 1),
    ] {
        assert_eq!(
            every_way(input.as_bytes()),
            Ok((body.into(), input.len() - rest, true)),
            "{input:?}"
        );
    }
    for more in [
        "",
        "5",
        "5\r",
        "5\r\nhell",
        "5\r\nhello",
        "5\r\nhello\r\n0\r\n",
        "0\r\n\r",
        "0\r\nX: a\r\n",
    ] {
        assert!(!every_way(more.as_bytes()).unwrap().2, "{more:?}");
    }
}

#[test]
fn broken_bodies_end_in_an_error() {
    use ChunkError::{DataEnd, Extension, ExtensionTooLarge, LineEnd, Size, SizeOverflow, Trailer};
    for (input, error) in [
        ("\r\n", Size),
        ("x\r\n", Size),
        ("-1\r\n", Size),
        ("+5\r\nhello", Size),
        ("0x5\r\nhello", Size),
        (" 5\r\nhello", Size),
        ("5 \r\nhello", Size),
        ("5\thello", Size),
        ("5_0\r\n", Size),
        (";x\r\n", Size),
        ("5\nhello", LineEnd),
        ("5\rhello", LineEnd),
        ("5\r\rhello", LineEnd),
        ("5;x\nhello", LineEnd),
        ("5;x\rhello", LineEnd),
        ("5\r\nhello0\r\n", DataEnd),
        ("5\r\nhello\n0\r\n", DataEnd),
        ("5\r\nhello\r0\r\n", DataEnd),
        ("5\r\nhelloworld\r\n", DataEnd),
        ("5\r\nhello\r\n\r\n", Size),
        ("5;\0\r\n", Extension),
        ("5;\x7f\r\n", Extension),
        ("8000000000000000\r\n", SizeOverflow),
        ("FFFFFFFFFFFFFFFF\r\n", SizeOverflow),
        ("10000000000000005\r\nhello", SizeOverflow),
        ("00000000000000005\r\nhello", SizeOverflow),
        ("0\r\n\n", LineEnd),
        ("0\r\n\rx", LineEnd),
        ("0\r\nX: a\n\r\n", LineEnd),
        ("0\r\nX: a\rb\r\n", LineEnd),
        ("0\r\nX : a\r\n\r\n", Trailer),
        ("0\r\nX\r\n\r\n", Trailer),
        ("0\r\n folded\r\n\r\n", Trailer),
        ("0\r\n: a\r\n\r\n", Trailer),
        ("0\r\nX: a\0\r\n\r\n", Trailer),
        ("0\r\nGET / HTTP/1.1\r\n", Trailer),
    ] {
        assert_eq!(every_way(input.as_bytes()), Err(error), "{input:?}");
    }
    let long = format!("5;{}\r\nhello\r\n", "x".repeat(256));
    assert_eq!(every_way(long.as_bytes()), Err(ExtensionTooLarge));
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let with = |extension: usize| {
        format!("1;{}\r\nx\r\n", "e".repeat(extension - 1)).repeat(200) + "0\r\n\r\n"
    };
    assert!(decode(with(16).as_bytes(), &[]).unwrap().2);
    assert_eq!(decode(with(32).as_bytes(), &[]), Err(ChunkError::ExtensionTooLarge));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(TRAILER_BYTES_MAX));
    assert_eq!(decode(trailers.as_bytes(), &[]), Err(ChunkError::TrailerTooLarge));
}

proptest! {
    #[test]
    fn a_body_comes_back_however_it_is_chunked_and_cut(
        body in proptest::collection::vec(any::<u8>(), 0..600),
        sizes in proptest::collection::vec(1usize..200, 1..20),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut wire = Vec::new();
        let mut rest = &body[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            encode_chunk_head(chunk.len() as u64, &mut wire);
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
            rest = after;
        }
        wire.extend_from_slice(LAST_CHUNK);
        let end = wire.len();
        wire.extend_from_slice(b"GET /next");
        prop_assert_eq!(decode(&wire, &cuts), Ok((body, end, true)));
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0')],
            0..80,
        ),
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
    ) {
        prop_assert_eq!(decode(&bytes, &[]), decode(&bytes, &cuts));
    }
}

#[test]
fn chunk_sizes_are_plain_hexadecimal() {
    for size in [1u64, 9, 15, 16, 255, 256, 0x00ab_cdef, u64::MAX] {
        let mut out = Vec::new();
        encode_chunk_head(size, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{size:x}\r\n"));
    }
}
