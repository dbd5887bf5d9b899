//! Goal: a head comes back from its bytes as it was; no bytes make decoding panic or lie. Method: round trips
//! of generated heads, every cut, and mutated bytes.

use super::*;
use crate::alternate::choose;
use crate::fixture::{NOW, fields, response};
use proptest::prelude::*;

fn lifetime() -> Lifetime {
    Lifetime {
        response_ms: NOW,
        initial_age_ms: 1,
        freshness_ms: 2,
        stale_while_revalidate_ms: 3,
        stale_if_error_ms: 4,
        must_revalidate: true,
        immutable: false,
    }
}

fn sample() -> StoredHead {
    let head = response(
        206,
        "etag: \"a\"\nlast-modified: {-100}\ncontent-type: video/mp4\ncontent-length: 5\nage: 3\n\
         cache-status: p; hit\nconnection: x-hop\nx-hop: 1\nvary: Accept-Encoding, X-Absent\nx-private: 1\n\
         cache-control: private=\"x-private\", max-age=9\ncontent-range: bytes 0-4/9",
    );
    StoredHead::new(
        &head,
        choose(
            &["accept-encoding".to_owned(), "x-absent".to_owned()],
            &fields("accept-encoding: gzip\naccept-encoding: br"),
        ),
        lifetime(),
        Some(9),
        7,
        &[3, 4],
    )
}

#[test]
fn only_what_later_hits_need_is_kept() {
    let head = sample();
    let names: Vec<&str> = head.fields.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["etag", "last-modified", "content-type", "vary", "cache-control", "date"]);
    assert_eq!((head.status, head.version, head.total_length), (200, 7, Some(9)));
    assert_eq!(head.date(), Some(NOW / 1000));
    assert_eq!(head.validators.last_modified, Some(NOW / 1000 - 100));
    let value = Some(Bytes::from_static(b"gzip,br"));
    assert_eq!(head.vary, [("accept-encoding".to_owned(), value), ("x-absent".to_owned(), None)]);
}

#[test]
fn rfc_9111_4_1_vary() {
    let head = sample();
    for (lines, matches) in [
        ("accept-encoding: gzip, br", true),
        ("accept-encoding: gzip,br", true),
        ("accept-encoding: gzip\naccept-encoding: br", true),
        ("accept-encoding: br, gzip", false),
        ("accept-encoding: gzip", false),
        ("accept-encoding: gzip, br\nx-absent: 1", false),
        ("x: y", false),
    ] {
        assert_eq!(head.matches_vary(&fields(lines)), matches, "{lines}");
    }
}

#[test]
fn a_head_comes_back_and_every_cut_is_refused() {
    let head = sample();
    let mut bytes = Vec::new();
    head.encode(&mut bytes);
    assert_eq!(StoredHead::decode(&bytes), Ok(head.clone()));
    for end in 0..bytes.len() {
        assert!(StoredHead::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut padded = b"before".to_vec();
    head.encode(&mut padded);
    padded.extend_from_slice(&[0xee; 100]);
    assert_eq!(StoredHead::decode(&padded[6..]), Ok(head));
    assert_eq!(StoredHead::decode(b"TGH0aaaaaaaaaaaa"), Err(StoredError::Format));
    assert_eq!(StoredHead::decode(&[]), Err(StoredError::Short));
}

#[test]
fn what_no_writer_makes_is_refused() {
    let mut good = Vec::new();
    sample().encode(&mut good);
    for (at, value) in [(4, 0xff), (7, 0xff), (17, 0xff), (18, 0x80), (19, 9), (20, 0xff), (23, 9)]
    {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert!(StoredHead::decode(&bytes).is_err(), "byte {at}");
    }
    // A control inside a value never comes out as a field.
    let at = good.windows(9).position(|w| w == b"video/mp4").unwrap();
    good[at] = b'\n';
    assert_eq!(StoredHead::decode(&good), Err(StoredError::Content));
}

proptest! {
    #[test]
    fn any_head_comes_back(
        version: u64,
        later: u32,
        handles in proptest::collection::vec(any::<u64>(), 0..40),
        status in 200u16..=599,
        total_length: Option<u64>,
        numbers: [u64; 5],
        flags: [bool; 2],
        list in proptest::collection::vec(("[a-z-]{1,12}", "[ -~]{0,30}"), 0..20),
        vary in proptest::collection::vec(
            ("[a-z-]{1,12}", proptest::option::of("[ -~]{0,30}")),
            0..=VARY_NAMES_MAX,
        ),
    ) {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.append(name, value).unwrap();
        }
        let lifetime = Lifetime {
            response_ms: numbers[0],
            initial_age_ms: numbers[1],
            freshness_ms: numbers[2],
            stale_while_revalidate_ms: numbers[3],
            stale_if_error_ms: numbers[4],
            must_revalidate: flags[0],
            immutable: flags[1],
        };
        let validators = Validators::from_fields(&fields, numbers[0] / 1000);
        let vary = vary.into_iter().map(|(name, value)| (name, value.map(Bytes::from))).collect();
        let head = StoredHead {
            version,
            confirmed: version.saturating_add(later.into()),
            handles: handles.into(),
            status,
            fields,
            total_length,
            validators,
            lifetime,
            vary,
        };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        prop_assert_eq!(StoredHead::decode(&bytes), Ok(head));
    }

    #[test]
    fn mutated_bytes_are_survived(
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8),
        end: usize,
    ) {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(head) = StoredHead::decode(&bytes) {
            let lifetime = &head.lifetime;
            let _ = (lifetime.age_ms(NOW), lifetime.ttl_seconds(NOW), lifetime.useful_until_ms());
            let mut again = Vec::new();
            head.encode(&mut again);
            prop_assert_eq!(StoredHead::decode(&again), Ok(head));
        }
        let _ = StoredHead::decode(&bytes[..end % bytes.len()]);
    }

    #[test]
    fn any_bytes_are_survived(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = b"TGH3".to_vec();
        bytes.extend_from_slice(&((tail.len() + 8) as u32).to_le_bytes());
        bytes.extend_from_slice(&tail);
        let _ = StoredHead::decode(&bytes);
        let _ = StoredHead::decode(&tail);
    }
}
