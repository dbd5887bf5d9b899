//! Goal: sections are read as they were written, and nothing else is read. Method: the RFC's examples, tables of
//! wrong sections, properties.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits::REQUEST;

fn decode(block: &[u8]) -> Result<Vec<(String, String)>, Code> {
    let section = Section::decode(block, &LIMITS).map_err(|error| error.code())?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok(section.iter().map(|(name, value)| (text(name), text(value))).collect())
}

/// RFC 9204 appendix B.1, and RFC 7541's Huffman strings in QPACK's lines.
#[test]
fn the_example_of_the_rfc() {
    let block = b"\x00\x00\x51\x0b/index.html";
    assert_eq!(decode(block), Ok(vec![(":path".into(), "/index.html".into())]));
    let mut own = Vec::new();
    encode_prefix(&mut own);
    encode_line(":path", b"/index.html", &mut own);
    assert_eq!(&own[..3], &block[..3]);
    assert!(own.len() < block.len(), "Huffman is shorter");
    assert_eq!(decode(&own), decode(block));
    let huffman = b"\x00\x00\x50\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    assert_eq!(decode(huffman), Ok(vec![(":authority".into(), "www.example.com".into())]));
}

#[test]
fn what_needs_a_dynamic_table_is_refused() {
    let wrong: [&[u8]; 12] = [
        b"",
        b"\x00",
        b"\x03\x81\x10\x11", // RFC 9204 appendix B.2: insert count 2, post-base references
        b"\x05\x00\x80\xc1\x81", // B.4: insert count 4, dynamic references
        b"\x00\x80",         // a negative Base
        b"\x00\x00\x80",     // indexed, dynamic
        b"\x00\x00\x10",     // indexed, post-base
        b"\x00\x00\x40\x01a", // a dynamic name
        b"\x00\x00\x00\x01a", // a post-base name
        b"\x00\x00\xff\x24", // static index 99
        b"\x00\x00\x51\x0b/index.htm",
        b"\x00\x00\x51\x81\xff",
    ];
    for block in wrong {
        assert_eq!(decode(block), Err(Code::QPACK_DECOMPRESSION_FAILED), "{block:?}");
    }
}

#[test]
fn limits_hold_while_lines_are_decoded() {
    // 200 times `:path: /`, one byte each.
    let mut many = vec![0, 0];
    many.extend([0xc1; 200]);
    assert_eq!(decode(&many), Err(Code::EXCESSIVE_LOAD));
    assert_eq!(decode(&many[..2 + LIMITS.fields_max]).map(|lines| lines.len()), Ok(128));
    let tight = Limits { section_bytes_max: 2 * (5 + 1 + 32), ..LIMITS };
    assert!(Section::decode(&many[..4], &tight).is_ok());
    let error = Section::decode(&many[..5], &tight).unwrap_err();
    assert!(matches!(error, Error::Stream { status: 431, .. }), "{error}");
}

#[test]
fn secrets_are_never_to_be_indexed() {
    for (name, first) in
        [("cookie", 0x75), ("authorization", 0x7f), ("proxy-authorization", 0x3f), ("x-own", 0x2f)]
    {
        let mut out = Vec::new();
        encode_line(name, b"a value", &mut out);
        assert_eq!(out[0] | 0x0f, first | 0x0f, "{name}: {:#x}", out[0]);
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z!#$%&'*+.^_`|~0-9-]{1,40}",
        Just("content-type".to_owned()),
        Just("cache-control".to_owned()),
        Just(":status".to_owned()),
        Just("cookie".to_owned()),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        Just(b"text/css".to_vec()),
        Just(b"no-store".to_vec()),
        Just(b"200".to_vec()),
    ]
}

proptest! {
    #[test]
    fn lines_come_back(lines in proptest::collection::vec((name(), value()), 0..20)) {
        let mut block = Vec::new();
        encode_prefix(&mut block);
        for (name, value) in &lines {
            encode_line(name, value, &mut block);
        }
        let section = Section::decode(&block, &LIMITS).unwrap();
        let read: Vec<(String, Vec<u8>)> = section
            .iter()
            .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec()))
            .collect();
        prop_assert_eq!(read, lines);
    }

    #[test]
    fn any_bytes_are_read_or_refused(block in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(section) = Section::decode(&block, &LIMITS) {
            let size: usize = section.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
            prop_assert!(size <= LIMITS.section_bytes_max);
        }
    }
}
