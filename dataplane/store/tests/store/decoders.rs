//! Goal: no bytes make a decoder panic or be believed when they are not what was written. Method: sound
//! records, changed at random places, and plain noise; whole device images damaged at random and opened.

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_store::{
    ExpiryClass, ExtentHeader, ExtentKey, Geometry, HEAD_BLOCK, SLOT_BYTES, SegmentHeader, Store,
    Stream, Summary, SummaryRow, Superblock, inspect, summary_slots, verify,
};

use crate::device::{Random, block_on};
use crate::oracle::{UUID, append, open, read, small_device, small_options};

const SEED: u32 = 77;
const SLOTS: u32 = 64;

fn superblock() -> Superblock {
    let geometry = Geometry { segment_bytes: 1 << 20, segment_count: 99, journal_bytes: 8 << 20 };
    Superblock { uuid: UUID, geometry, epoch: 12, written_bytes: 1 << 40 }
}

fn segment_header() -> SegmentHeader {
    SegmentHeader { uuid: UUID, segment: 5, sequence: 1 << 41, stream: Stream::VodKept }
}

fn extent_header(block: u32) -> ExtentHeader {
    let key = ExtentKey { key: 3 << 100, version: 8, block };
    let (class, sequence) = (ExpiryClass(200), 1 << 42);
    ExtentHeader { key, sequence, payload_bytes: 5000, payload_crc: 1, segment: 5, slot: 6, class }
}

fn summary(rows: usize) -> Summary {
    let row = |at: usize| SummaryRow {
        key: ExtentKey::block(at as u128, 1, at as u32),
        sequence: 500 + at as u64,
        payload_bytes: 4000,
        slot: 1 + at as u16,
        class: ExpiryClass(1),
    };
    Summary { segment: 5, sequence: 500, rows: (0..rows).map(row).collect() }
}

fn encode_summary(summary: &Summary) -> Vec<u8> {
    let mut bytes = vec![0xAA; (summary_slots(summary.rows.len()) * SLOT_BYTES) as usize];
    summary.encode_into(&mut bytes, SEED);
    bytes
}

#[test]
fn what_was_written_is_read_back() {
    assert_eq!(Superblock::decode(&superblock().encode()), Ok(superblock()));
    assert_eq!(SegmentHeader::decode(&segment_header().encode(), UUID, 5), Ok(segment_header()));
    for block in [0, 9, HEAD_BLOCK] {
        let header = extent_header(block);
        assert_eq!(ExtentHeader::decode(&header.encode(SEED), SEED), Ok(header));
    }
    for rows in [0, 1, 60] {
        let summary = summary(rows);
        let bytes = encode_summary(&summary);
        assert_eq!(Summary::decode(&bytes, SEED, 5, 500, SLOTS), Ok(summary));
    }
}

#[test]
fn a_record_of_another_device_segment_or_life_is_not_believed() {
    let header = segment_header().encode();
    assert!(SegmentHeader::decode(&header, UUID + 1, 5).is_err());
    assert!(SegmentHeader::decode(&header, UUID, 6).is_err());
    assert!(ExtentHeader::decode(&extent_header(0).encode(SEED), SEED + 1).is_err());
    let bytes = encode_summary(&summary(3));
    assert!(Summary::decode(&bytes, SEED + 1, 5, 500, SLOTS).is_err());
    assert!(Summary::decode(&bytes, SEED, 6, 500, SLOTS).is_err());
    assert!(Summary::decode(&bytes, SEED, 5, 501, SLOTS).is_err());
    assert!(Summary::decode(&bytes, SEED, 5, 500, 3).is_err(), "rows beyond the data part");
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    proptest::collection::vec((0..4096usize, 1..=255u8), 1..6)
}

/// Applies changes that do not cancel out; returns whether anything differs.
fn change(bytes: &mut [u8], changes: &[(usize, u8)]) -> bool {
    let before = bytes.to_vec();
    let len = bytes.len();
    changes.iter().for_each(|(at, mask)| bytes[at % len] ^= mask);
    before != bytes
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_changed_record_is_refused(changes in changes(), rows in 0usize..60) {
        let mut bytes = superblock().encode();
        if change(&mut bytes, &changes) {
            prop_assert!(Superblock::decode(&bytes).is_err());
        }
        let mut bytes = segment_header().encode();
        if change(&mut bytes, &changes) {
            prop_assert!(SegmentHeader::decode(&bytes, UUID, 5).is_err());
        }
        let mut bytes = extent_header(4).encode(SEED);
        if change(&mut bytes, &changes) {
            prop_assert!(ExtentHeader::decode(&bytes, SEED).is_err());
        }
        let mut bytes = encode_summary(&summary(rows));
        if change(&mut bytes, &changes) {
            prop_assert!(Summary::decode(&bytes, SEED, 5, 500, SLOTS).is_err());
        }
    }

    #[test]
    fn noise_of_any_length_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(Superblock::decode(&bytes).is_err());
        prop_assert!(SegmentHeader::decode(&bytes, UUID, 5).is_err());
        prop_assert!(ExtentHeader::decode(&bytes, SEED).is_err());
        prop_assert!(Summary::decode(&bytes, SEED, 5, 500, SLOTS).is_err());
    }

    /// Fields that pass the checksum because a fault or a foe made it fit must still not panic.
    #[test]
    fn sealed_nonsense_does_not_panic(changes in changes(), rows in 0usize..60) {
        let reseal = |bytes: &mut [u8], at: usize, seed: u32| {
            bytes[at..at + 4].fill(0);
            let crc = tidegate_store::checksum::crc32c_append(seed, bytes);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        };
        let device_seed = tidegate_store::checksum::crc32c(&UUID.to_le_bytes());
        let mut bytes = superblock().encode();
        change(&mut bytes, &changes);
        reseal(&mut bytes, 4092, 0);
        let _ = Superblock::decode(&bytes);
        let mut bytes = segment_header().encode();
        change(&mut bytes, &changes);
        reseal(&mut bytes, 4092, device_seed);
        let _ = SegmentHeader::decode(&bytes, UUID, 5);
        let mut bytes = extent_header(4).encode(SEED);
        change(&mut bytes, &changes);
        reseal(&mut bytes, 4, SEED);
        let _ = ExtentHeader::decode(&bytes, SEED);
        let mut bytes = encode_summary(&summary(rows));
        change(&mut bytes, &changes);
        let footer = bytes.len() - 64;
        reseal(&mut bytes, footer + 4, SEED);
        let _ = Summary::decode(&bytes, SEED, 5, 500, SLOTS);
    }

    #[test]
    fn a_changed_extent_is_never_served(changes in changes(), len in 0usize..9000) {
        let key = ExtentKey::block(1, 2, 3);
        let payload = crate::oracle::bytes_of(&mut Random(len as u64), len);
        let mut header = extent_header(3);
        header.key = key;
        header.payload_bytes = len as u32;
        header.payload_crc = tidegate_store::checksum::crc32c_append(SEED, &payload);
        let mut bytes = header.encode(SEED).to_vec();
        bytes.extend_from_slice(&payload);
        bytes.resize((header.slots() * SLOT_BYTES) as usize, 0);
        change(&mut bytes, &changes);
        let location = tidegate_store::Location {
            offset: 0, len: bytes.len() as u32, segment: 5, slot: 6, life: 1 << 42, seed: SEED,
        };
        if let Ok(extent) = tidegate_store::verify_extent(&key, &location, Bytes::from(bytes)) {
            prop_assert_eq!(&extent.payload[..], &payload[..]);
        }
    }
}

#[test]
fn a_damaged_device_opens_or_says_why_and_serves_no_wrong_byte() {
    let (mut opened, mut served) = (0, 0);
    for seed in 0..300 {
        let mut random = Random(seed);
        let device = small_device(seed);
        let mut store = open(&device);
        let keys: Vec<_> = (0..80u32)
            .map(|at| match at % 3 {
                0 => ExtentKey::head_of(u128::from(at), 5),
                _ => ExtentKey::block(u128::from(at / 3), 5, at),
            })
            .collect();
        for key in &keys {
            append(&mut store, if key.is_head() { Stream::Small } else { Stream::VodNew }, *key)
                .expect("a sound device");
        }
        if random.chance(500) {
            block_on(store.seal_all()).expect("a sound device");
        } else {
            block_on(store.sync()).expect("a sound device");
        }
        drop(store);
        let pages = device.written_pages();
        for _ in 0..1 + random.below(60) {
            let page = pages[random.below(pages.len() as u64) as usize];
            let at = page + random.below(4096);
            let len = 1 + random.below(64.min(page + 4096 - at)) as usize;
            let noise = if random.chance(300) {
                device.peek(pages[random.below(pages.len() as u64) as usize], len)
            } else {
                crate::oracle::bytes_of(&mut random, len)
            };
            device.poke(at, &noise);
        }
        let inspected = block_on(inspect(&device));
        let verified = block_on(verify(&device));
        let Ok((store, _)) = block_on(Store::open(device.clone(), small_options())) else {
            assert!(inspected.is_err() && verified.is_err());
            continue;
        };
        assert!(inspected.is_ok() && verified.is_ok());
        opened += 1;
        for key in &keys {
            let asked = if key.is_head() { ExtentKey::head(key.key) } else { *key };
            served += u64::from(read(&store.reader(), &device, &asked).is_some());
        }
    }
    assert!(opened > 250, "only {opened} of 300 damaged devices opened");
    assert!(served > 5000, "only {served} extents were served");
}
