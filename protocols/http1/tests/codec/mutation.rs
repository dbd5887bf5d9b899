//! Goal: no bytes make a parser panic, read beyond its input, or judge otherwise when they come in pieces.
//! Method: 210,000 mutations of good and bad messages with a fixed seed; every run is the same run.

use tidegate_http::Method;
use tidegate_http1::corpus;
use tidegate_http1::{
    ChunkedDecoder, Limits, RequestParser, ResponseParser, parse_request, parse_response,
};

const MUTATIONS: usize = 210_000;

/// Xorshift: enough for choosing places and bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn mutate(seed: &[u8], pieces: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const BYTES: &[u8] = b"\r\n\0 \t:;,=\"/?#%@[]0159afAF\x7f\x80\xff";
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 => bytes.insert(at, BYTES[random.below(BYTES.len())]),
            1 if at < bytes.len() => bytes[at] = BYTES[random.below(BYTES.len())],
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 if at < bytes.len() => {
                drop(bytes.drain(at..(at + 1 + random.below(6)).min(bytes.len())))
            }
            4 => bytes.truncate(at),
            _ => {
                let other = &pieces[random.below(pieces.len())];
                let from = random.below(other.len());
                let to = (from + random.below(40)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn mutated_messages_never_panic_and_pieces_agree() {
    let mut pieces: Vec<Vec<u8>> = corpus::load(corpus::MALFORMED)
        .unwrap()
        .into_iter()
        .map(|case| case.bytes)
        .filter(|bytes| bytes.len() < 400)
        .collect();
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\nhello",
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/10\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 304 Not Modified\r\n\r\n",
        "5;ext=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Trailer: a\r\n\r\n",
    ] {
        pieces.push(text.as_bytes().to_vec());
    }
    let limits = Limits { head_bytes_max: 512, target_bytes_max: 128, fields_max: 16 };
    let mut random = Random(0x7469_6465_6761_7465);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..MUTATIONS {
        let bytes = mutate(&pieces[round % pieces.len()], &pieces, &mut random);
        let cut = random.below(bytes.len() + 1);

        let whole = parse_request(&bytes, &limits);
        let mut parser = RequestParser::new(limits);
        let in_two = match parser.parse(&bytes[..cut]) {
            Ok(None) => parser.parse(&bytes),
            early => early,
        };
        match (&whole, &in_two) {
            (Ok(Some(a)), Ok(Some(b))) => {
                assert_eq!(a, b);
                assert!(a.head_bytes <= bytes.len());
                taken += 1;
            }
            (Ok(None), Ok(None)) => {}
            (Err(_), Err(_)) => refused += 1,
            _ => panic!("whole and in two differ: {:?} at {cut}", String::from_utf8_lossy(&bytes)),
        }

        let method = if round % 2 == 0 { Method::Get } else { Method::Head };
        let whole = parse_response(&bytes, &method);
        let mut parser = ResponseParser::new(Limits::RESPONSE);
        let in_two = match parser.parse(&bytes[..cut], &method) {
            Ok(None) => parser.parse(&bytes, &method),
            early => early,
        };
        assert_eq!(whole.as_ref().ok(), in_two.as_ref().ok());

        let mut decoder = ChunkedDecoder::new();
        let mut at = 0;
        while at < bytes.len() && !decoder.is_done() {
            match decoder.decode(&bytes[at..]) {
                Ok(decoded) => at += decoded.consumed,
                Err(_) => break,
            }
        }
        assert!(at <= bytes.len());
    }
    // The mutations must reach both sides of the gate to prove anything.
    assert!(taken > MUTATIONS / 50 && refused > MUTATIONS / 4, "{taken} taken, {refused} refused");
}
