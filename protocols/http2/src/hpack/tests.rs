//! Goal: blocks are read as they were meant, and nothing else is read. Method: all examples of RFC 7541 appendix C, tables of
//! wrong blocks, properties.

use super::*;
use crate::FieldWriter;
use proptest::prelude::*;
use tidegate_types::limits::FIELDS_MAX;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Lines, Code> {
    let mut scratch = Scratch::default();
    decoder.decode(block, &mut scratch).map_err(|error| error.code)?;
    Ok(scratch.lines().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
}

fn lines(text: &str) -> Lines {
    let line = |line: &str| {
        let (name, value) = line.trim().rsplit_once(": ").unwrap();
        (name.as_bytes().to_vec(), value.as_bytes().to_vec())
    };
    text.trim().split(" | ").map(line).collect()
}

/// Each block with its lines and the table's size afterwards.
fn example(size: Option<usize>, blocks: &[(&str, &str, usize)]) {
    let mut decoder = Decoder::default();
    if let Some(size) = size {
        assert!(decoder.table.resize(size));
    }
    for (block, expected, table) in blocks {
        assert_eq!(read(&mut decoder, &hex(block)), Ok(lines(expected)), "{expected}");
        assert_eq!(decoder.table_bytes(), *table, "{expected}");
    }
}

#[test]
fn appendix_c_2_literals_and_indexes() {
    let custom = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    example(None, &[(custom, "custom-key: custom-header", 55)]);
    example(None, &[("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path", 0)]);
    example(None, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret", 0)]);
    example(None, &[("82", ":method: GET", 0)]);
}

#[test]
fn appendix_c_3_requests_without_huffman() {
    let first = ":method: GET | :scheme: http | :path: / | :authority: www.example.com";
    let second = format!("{first} | cache-control: no-cache");
    let third = ":method: GET | :scheme: https | :path: /index.html | :authority: www.example.com \
                 | custom-key: custom-value";
    example(
        None,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", first, 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", &second, 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                third,
                164,
            ),
        ],
    );
}

#[test]
fn appendix_c_4_requests_with_huffman() {
    let first = ":method: GET | :scheme: http | :path: / | :authority: www.example.com";
    let second = format!("{first} | cache-control: no-cache");
    let third = ":method: GET | :scheme: https | :path: /index.html | :authority: www.example.com \
                 | custom-key: custom-value";
    example(
        None,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", first, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", &second, 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", third, 164),
        ],
    );
}

const RESPONSES: [&str; 3] = [
    ":status: 302 | cache-control: private | date: Mon, 21 Oct 2013 20:13:21 GMT \
     | location: https://www.example.com",
    ":status: 307 | cache-control: private | date: Mon, 21 Oct 2013 20:13:21 GMT \
     | location: https://www.example.com",
    ":status: 200 | cache-control: private | date: Mon, 21 Oct 2013 20:13:22 GMT \
     | location: https://www.example.com | content-encoding: gzip \
     | set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
];

#[test]
fn appendix_c_5_responses_without_huffman() {
    example(
        Some(256),
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
                 6c65 2e63 6f6d",
                RESPONSES[0],
                222,
            ),
            ("4803 3330 37c1 c0bf", RESPONSES[1], 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
                 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
                 3d31",
                RESPONSES[2],
                215,
            ),
        ],
    );
}

#[test]
fn appendix_c_6_responses_with_huffman() {
    example(
        Some(256),
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                RESPONSES[0],
                222,
            ),
            ("4883 640e ffc1 c0bf", RESPONSES[1], 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
                 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                RESPONSES[2],
                215,
            ),
        ],
    );
}

#[test]
fn what_is_no_block_is_refused() {
    let wrong: [&[u8]; 14] = [
        b"\x80", // index 0
        b"\xbe", // the first dynamic entry of an empty table
        b"\xff\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\xff",                         // an index that is cut
        b"\x7e\x01a",                    // a name that no table has
        b"\x40",                         // no name
        b"\x40\x01",                     // a name that is cut
        b"\x40\x01a",                    // no value
        b"\x40\x01a\x02b",               // a value that is cut
        b"\x00\x81\xff\x00",             // eight ones are no Huffman code
        b"\x3f\xe2\x1f",                 // a table of 4097 bytes
        b"\x82\x20",                     // a size behind a field (RFC 7541 §4.2)
        b"\x3f",                         // a size that is cut
        b"\x00\x84\xff\xff\xff\xff\x00", // the end of a string
    ];
    for block in wrong {
        let read = read(&mut Decoder::default(), block);
        assert_eq!(read, Err(Code::COMPRESSION_ERROR), "{}", block.escape_ascii());
    }
    // Sizes at the begin, twice as it may be.
    assert_eq!(read(&mut Decoder::default(), b"\x20\x3f\xe1\x1f\x82").unwrap().len(), 1);
}

#[test]
fn limits_hold_while_a_block_is_read_and_the_table_lives_on() {
    let mut decoder = Decoder::default();
    let mut bomb = vec![0x40, 1, b'x'];
    prefix::encode(0, 7, 3900, &mut bomb);
    bomb.extend([b'b'; 3900]);
    bomb.extend([0xbe; 4000]);
    bomb.extend(b"\x40\x01y\x01z");
    let mut scratch = Scratch::default();
    decoder.decode(&bomb, &mut scratch).unwrap();
    assert!(scratch.excess().is_some());
    assert!(scratch.held() <= 2 * FIELDS_BYTES_MAX, "{} bytes", scratch.held());
    // The last of it has come into the table all the same.
    assert_eq!(read(&mut decoder, b"\xbe").unwrap(), lines("y: z"));
    // As many lines as may be, and one more.
    decoder.decode(&[0x82; FIELDS_MAX], &mut scratch).unwrap();
    assert_eq!((scratch.lines().count(), scratch.excess()), (FIELDS_MAX, None));
    decoder.decode(&[0x82; FIELDS_MAX + 1], &mut scratch).unwrap();
    assert!(scratch.excess().is_some());
}

#[test]
fn long_names_that_are_named_again_and_again_end_the_connection() {
    let mut block = vec![0x40];
    prefix::encode(0, 7, 3900, &mut block);
    block.extend([b'n'; 3900]);
    block.push(0);
    // Without indexing, and with: the newest entry has the same name each time.
    for again in [&[0x0f, 47, 0][..], &[0x7e, 0]] {
        let some = [&block[..], &again.repeat(50)].concat();
        assert!(read(&mut Decoder::default(), &some).is_ok(), "one request is refused");
        let many = [&block[..], &again.repeat(5000)].concat();
        assert_eq!(read(&mut Decoder::default(), &many), Err(Code::ENHANCE_YOUR_CALM));
    }
}

#[test]
fn what_may_not_leave_is_left_out() {
    let mut block = Vec::new();
    encode_table_size_0(&mut block);
    encode_status(299, &mut block);
    encode_length(u64::MAX, &mut block);
    let mut writer = FieldWriter(&mut block);
    for (name, value) in [
        (&b"X-Upper"[..], &b" padded "[..]),
        (b"connection", b"close"),
        (b"keep-alive", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"proxy-connection", b"x"),
        (b"x-split", b"a\r\nb: c"),
        (b"x nul", b""),
        (b":status", b"200"),
        (b"", b"x"),
        (b"set-cookie", b"a=b"),
    ] {
        writer.put(name, value);
    }
    let expected =
        ":status: 299 | content-length: 18446744073709551615 | x-upper: padded | set-cookie: a=b";
    assert_eq!(read(&mut Decoder::default(), &block).unwrap(), lines(expected));
}

fn name() -> impl Strategy<Value = String> {
    let known = prop_oneof![
        Just("content-type"),
        Just("cache-control"),
        Just("set-cookie"),
        Just("etag"),
        Just("www-authenticate"),
    ];
    prop_oneof!["[a-z!#$%&'*+.^_`|~0-9-]{1,200}", known.prop_map(str::to_owned)]
        .prop_filter("of one connection", |name| !encode::is_of_one_connection(name.as_bytes()))
}

proptest! {
    #[test]
    fn fields_come_back(
        status in 100u16..600,
        fields in proptest::collection::vec((name(), "[!-~\u{e0}]{0,300}"), 0..20),
    ) {
        let mut block = Vec::new();
        encode_status(status, &mut block);
        let mut writer = FieldWriter(&mut block);
        fields.iter().for_each(|(name, value)| writer.put(name.as_bytes(), value.as_bytes()));
        let mut expected = vec![(b":status".to_vec(), status.to_string().into_bytes())];
        expected.extend(fields.into_iter().map(|(n, v)| (n.into_bytes(), v.into_bytes())));
        prop_assert_eq!(read(&mut Decoder::default(), &block).unwrap(), expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..5),
    ) {
        let (mut decoder, mut scratch) = (Decoder::default(), Scratch::default());
        for block in blocks {
            if decoder.decode(&block, &mut scratch).is_err() {
                break;
            }
            prop_assert!(decoder.table_bytes() <= 4096);
            prop_assert!(scratch.held() <= 2 * FIELDS_BYTES_MAX);
        }
    }
}
