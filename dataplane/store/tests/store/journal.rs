//! Goal: a record that was acknowledged is found again whatever happens to the process or to one slot, until
//! no head on the device needs it. Method: seeded runs with crashes on the small device, faults one by one, and
//! a journal that is filled to its end.

use std::collections::BTreeSet;

use tidegate_store::{
    ExtentKey, JOURNAL_OFFSET, JournalError, RECORD_PAYLOAD_BYTES, Store, Stream,
};

use crate::device::{Faults, MemoryDevice, Random, block_on, poll_times};
use crate::oracle::{append, open, small_device, small_options};

type Payload = [u8; RECORD_PAYLOAD_BYTES];

fn record(number: u64) -> Payload {
    let mut bytes = [0; RECORD_PAYLOAD_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    bytes
}

fn found(store: &Store<MemoryDevice>) -> BTreeSet<Payload> {
    store.journal_records().map(|record| record.payload).collect()
}

fn reopened(device: &MemoryDevice) -> (Store<MemoryDevice>, tidegate_store::JournalReport) {
    let (store, report) =
        block_on(Store::open(device.clone(), small_options())).expect("the device opens");
    (store, report.journal)
}

/// Seeded run: records, heads and crashes. On a device that only fails or crashes (no lies) nothing
/// acknowledged is ever lost, but by retirement; retired ones had no head that is older.
fn run(seed: u64) -> (usize, usize) {
    let mut random = Random(seed);
    let device = small_device(seed);
    let mut acknowledged = BTreeSet::new();
    let mut retired_all = BTreeSet::new();
    let mut next = 1u64;
    for _ in 0..3 {
        let mut store = open(&device);
        let kept: BTreeSet<_> = acknowledged.difference(&retired_all).copied().collect();
        assert!(kept.is_subset(&found(&store)), "an acknowledged record is gone, seed {seed}");
        if seed.is_multiple_of(2) {
            let (write_error, flush_error) = (random.below(60) as u32, random.below(60) as u32);
            device.set_faults(Faults { write_error, flush_error, ..Faults::default() });
        }
        for _ in 0..random.below(60) {
            match random.below(10) {
                0..=5 => {
                    let count = 1 + random.below(40);
                    let batch: Vec<Payload> = (next..next + count).map(record).collect();
                    next += count;
                    if random.chance(50) {
                        poll_times(store.journal(&batch), random.below(8) as u32);
                        // The owner is gone with its request, and never heard what was retired.
                        let here = found(&store);
                        retired_all.extend(acknowledged.difference(&here).copied());
                        break;
                    }
                    match block_on(store.journal(&batch)) {
                        Ok(retired) => {
                            acknowledged.extend(batch);
                            retired_all.extend(retired.into_iter().map(|one| one.payload));
                        }
                        Err(error) => {
                            // What it retired before it failed, nobody hears of.
                            let here = found(&store);
                            retired_all.extend(acknowledged.difference(&here).copied());
                            if !matches!(error, JournalError::Full { .. }) {
                                let _still_out = block_on(store.rejoin());
                            }
                        }
                    }
                }
                _ => {
                    let key = ExtentKey::head_of(u128::from(random.below(9)) << 70, next);
                    let _refused = append(&mut store, Stream::Small, key);
                }
            }
        }
        drop(store);
        device.crash();
        device.set_faults(Faults::default());
    }
    let (store, report) = reopened(&device);
    let kept: BTreeSet<_> = acknowledged.difference(&retired_all).copied().collect();
    assert!(kept.is_subset(&found(&store)), "an acknowledged record is gone, seed {seed}");
    let known: BTreeSet<_> = (1..next).map(record).collect();
    assert!(found(&store).is_subset(&known), "a record that nobody wrote, seed {seed}");
    assert!(report.records >= kept.len() as u64);
    (kept.len(), retired_all.len())
}

#[test]
fn acknowledged_records_survive_crashes_until_no_head_needs_them() {
    let (mut kept, mut retired) = (0, 0);
    for seed in 1..=600 {
        let (one_kept, one_retired) = run(seed);
        kept += one_kept;
        retired += one_retired;
    }
    assert!(kept > 10_000, "hardly anything was kept: {kept}");
    assert!(retired > 1_000, "hardly anything was retired: {retired}");
}

#[test]
fn one_bad_slot_loses_nothing_and_two_are_reported() {
    // The small device's journal: 8 slots, 4 pairs; slot i and slot i + 4 are twins.
    for slot in 0..8u64 {
        let device = small_device(slot);
        let mut store = open(&device);
        let batch: Vec<Payload> = (1..=90).map(record).collect();
        block_on(store.journal(&batch)).expect("a sound device takes records");
        drop(store);
        device.poke(JOURNAL_OFFSET + slot * 4096 + 70, &[0xA5; 8]);
        let (store, report) = reopened(&device);
        assert_eq!(found(&store).len(), 90, "slot {slot}: {report:?}");
        assert_eq!(report.pairs_lost, 0);
        drop(store);
        device.poke(JOURNAL_OFFSET + (slot ^ 4) * 4096 + 90, &[0x5A; 8]);
        let (store, report) = reopened(&device);
        // Blank pairs that were scribbled on hold no magic and count for nothing.
        let whole = found(&store).len() == 90;
        assert_eq!(report.pairs_lost, u32::from(!whole), "slot {slot}: {report:?}");
    }
}

#[test]
fn a_full_journal_says_so_and_goes_on_when_heads_were_rewritten() {
    let device = small_device(7);
    let mut store = open(&device);
    // A head from before all records: none of them may be retired while it can come back.
    append(&mut store, Stream::Small, ExtentKey::head_of(1 << 70, 1)).expect("taken");
    let mut number = 0u64;
    let mut accepted = Vec::new();
    let full = loop {
        number += 1;
        match block_on(store.journal(&[record(number)])) {
            Ok(retired) => {
                assert!(retired.is_empty(), "the head is older than all records");
                accepted.push(record(number));
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(full, JournalError::Full { records } if records == accepted.len()), "{full}");
    assert!(full.to_string().contains("purge whole delivery services"), "{full}");
    drop(store);
    device.crash();
    let (mut store, report) = reopened(&device);
    assert_eq!(report.records as usize, accepted.len());
    assert!(accepted.iter().all(|one| found(&store).contains(one)));
    // Heads of other keys go round the whole log, and none is appended again: the old head is overwritten.
    store.keep_if(|_, _, _| false);
    let mut key = 100u128;
    let retired = loop {
        key += 1;
        append(&mut store, Stream::Small, ExtentKey::head_of(key << 70, 2)).expect("taken");
        match block_on(store.journal(&[record(1_000_000 + key as u64)])) {
            Ok(retired) => break retired,
            Err(JournalError::Full { .. }) => assert!(key < 10_000, "never retired"),
            Err(other) => panic!("{other}"),
        }
    };
    assert!(!retired.is_empty());
    drop(store);
    let (store, _) = reopened(&device);
    assert!(found(&store).contains(&record(1_000_000 + key as u64)));
}

#[test]
fn an_owner_drops_what_later_records_say_too() {
    let device = small_device(3);
    let mut store = open(&device);
    let batch: Vec<Payload> = (1..=200).map(record).collect();
    block_on(store.journal(&batch)).expect("a sound device takes records");
    let dropped =
        block_on(store.journal_drop(|one| one.payload[0] % 2 == 0)).expect("a sound device");
    assert!(dropped.len() > 60 && dropped.iter().all(|one| one.payload[0] % 2 == 0));
    drop(store);
    device.crash();
    let (store, report) = reopened(&device);
    let left = found(&store);
    assert!(batch.iter().filter(|one| one[0] % 2 == 1).all(|one| left.contains(one)), "{report:?}");
}

#[test]
fn a_device_that_lies_is_found_out_before_anything_is_acknowledged() {
    for faults in [
        Faults { write_lost: 1000, ..Faults::default() },
        Faults { write_misdirected: 1000, ..Faults::default() },
        Faults { rest_flip: 1000, ..Faults::default() },
    ] {
        let device = small_device(11);
        let mut store = open(&device);
        device.set_faults(faults);
        let error = block_on(store.journal(&[record(1)])).expect_err("it is not there");
        assert!(
            matches!(error, JournalError::NotThere { .. } | JournalError::Device(_)),
            "{error:?}"
        );
    }
}
