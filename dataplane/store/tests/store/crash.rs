//! Goal: after a power cut at any moment, on a sound or a faulty device, no wrong byte is served, and what
//! was durable on a sound device is still there. Method: seeded runs of random operations on a small device
//! that reclaims all the time, each cut off several times, judged by the content oracle.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidegate_store::{ExpiryClass, Extent, ExtentHeader, ExtentKey, Reader, Store, Stream, verify};

use crate::device::{Faults, MemoryDevice, Random, block_on, poll_times};
use crate::oracle::{append, judge, open, payload, read, small_device, small_options};

const RUNS: u64 = 1200;
const CRASHES: u64 = 2;
const KEYS: u64 = 10;
const BLOCKS: u64 = 4;

/// What the run knows about what it stored.
#[derive(Default)]
struct Known {
    appended: BTreeSet<ExtentKey>,
    removed: BTreeSet<ExtentKey>,
    /// Blocks, and heads by key with their version, that were published before a flush succeeded.
    durable_blocks: BTreeSet<ExtentKey>,
    durable_heads: BTreeMap<u128, u64>,
    versions: BTreeMap<u128, u64>,
}

fn run(seed: u64) -> Totals {
    let mut random = Random(seed);
    let faulty = !seed.is_multiple_of(3);
    let device = small_device(seed);
    let mut known = Known::default();
    let mut totals = Totals::default();
    for _ in 0..CRASHES {
        device.set_faults(Faults::default());
        let mut store = open(&device);
        if faulty {
            device.set_faults(Faults::swarm(&mut random));
        }
        for _ in 0..random.below(120) {
            operate(&mut store, &device, &mut random, &mut known, faulty);
        }
        drop(store);
        device.crash();
        if random.chance(500) {
            crash_recovery(&device, &mut random, faulty);
        }
        device.set_faults(Faults::default());
        let expected = if faulty { None } else { Some(&known) };
        totals.add(reopen_and_check(&device, &known, expected));
        known.durable_blocks.clear();
        known.durable_heads.clear();
        known.removed.clear();
    }
    totals
}

/// A recovery that is cut off itself; on a faulty device it also meets the same faults.
fn crash_recovery(device: &MemoryDevice, random: &mut Random, faulty: bool) {
    let faults = if faulty { Faults::swarm(random) } else { Faults::default() };
    device.set_faults(Faults { pending: 1000, ..faults });
    poll_times(Store::open(device.clone(), small_options()), random.below(60) as u32);
    device.crash();
}

fn operate(
    store: &mut Store<MemoryDevice>,
    device: &MemoryDevice,
    random: &mut Random,
    known: &mut Known,
    faulty: bool,
) {
    let reader = store.reader();
    let (flushes, published) = (device.flushes(), published(&reader, device, known, faulty));
    let key = u128::from(random.below(KEYS)) << 70 | 7;
    match random.below(20) {
        0..=10 => {
            let version = known.versions.entry(key).or_default();
            *version += u64::from(random.chance(300));
            let block = random.below(BLOCKS) as u32;
            let (stream, extent_key) = match random.below(3) {
                0 => (Stream::Small, ExtentKey::head_of(key, *version)),
                1 => (Stream::Live, ExtentKey::block(key, *version, block)),
                _ => (Stream::VodNew, ExtentKey::block(key, *version, block)),
            };
            known.appended.insert(extent_key);
            if faulty && random.chance(30) {
                let bytes = payload(&extent_key);
                let pieces: [&[u8]; 1] = [&bytes];
                poll_times(store.append(stream, extent_key, &pieces, Default::default()), 1);
            } else {
                let appended = append(store, stream, extent_key);
                assert!(
                    faulty || appended.is_ok(),
                    "a sound device takes every extent: {appended:?}"
                );
            }
        }
        11..=14 => {
            let version = random.below(known.versions.get(&key).copied().unwrap_or(0) + 1);
            read(&reader, device, &ExtentKey::block(key, version, random.below(BLOCKS) as u32));
            read(&reader, device, &ExtentKey::head(key));
        }
        15 => {
            let _ = block_on(store.flush_pending());
        }
        16 => {
            let _ = block_on(store.sync());
        }
        17 => {
            let removed = ExtentKey::head(key);
            store.remove(&removed);
            known.removed.insert(removed);
            assert!(read(&reader, device, &removed).is_none(), "a removed extent was served");
        }
        18 if random.chance(200) => {
            let _ = block_on(store.seal_all());
        }
        _ => drop(block_on(store.rejoin())),
    }
    if device.flushes() > flushes {
        for (key, version) in published {
            if key.is_head() {
                known.durable_heads.insert(key.key, version);
            } else {
                known.durable_blocks.insert(key);
            }
        }
    }
    // What was reclaimed since is no longer expected.
    known.durable_blocks.retain(|key| reader.contains(key));
    known.durable_heads.retain(|key, _| reader.contains(&ExtentKey::head(*key)));
}

/// What a lookup would find now, with the version of each head.
fn published(
    reader: &Reader,
    device: &MemoryDevice,
    known: &Known,
    faulty: bool,
) -> Vec<(ExtentKey, u64)> {
    let mut found: Vec<_> = known
        .appended
        .iter()
        .filter(|key| !key.is_head() && reader.contains(key))
        .map(|key| (*key, key.version))
        .collect();
    // Which version of a head is visible only reading tells; expectations are for sound devices alone.
    for key in (0..KEYS).map(|key| ExtentKey::head(u128::from(key) << 70 | 7)).filter(|_| !faulty) {
        if let Some(head) = read(reader, device, &key) {
            found.push((key, head.header.key.version));
        }
    }
    found
}

#[derive(Debug, Default)]
struct Totals {
    served: u64,
    expected: u64,
    walked: u64,
    bad: u64,
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.served += other.served;
        self.expected += other.expected;
        self.walked += other.walked;
        self.bad += other.bad;
    }
}

fn reopen_and_check(device: &MemoryDevice, known: &Known, expected: Option<&Known>) -> Totals {
    let (store, report) = block_on(Store::open(device.clone(), small_options()))
        .expect("a store opens after a crash");
    let reader = store.reader();
    let mut totals = Totals {
        walked: u64::from(report.segments_walked),
        bad: report.extents_bad,
        ..Totals::default()
    };
    for key in &known.appended {
        let asked = if key.is_head() { ExtentKey::head(key.key) } else { *key };
        if let Some(extent) = read(&reader, device, &asked) {
            assert!(known.appended.contains(&extent.header.key), "served what was never appended");
            totals.served += 1;
        }
    }
    if let Some(expected) = expected {
        for key in &expected.durable_blocks {
            assert!(read(&reader, device, key).is_some(), "{key:?} was durable and is gone");
            totals.expected += 1;
        }
        for (key, version) in &expected.durable_heads {
            let head = read(&reader, device, &ExtentKey::head(*key));
            let head = head.unwrap_or_else(|| panic!("the head of {key} was durable and is gone"));
            assert!(head.header.key.version >= *version, "a head went back to an older version");
            totals.expected += 1;
        }
        let checked = block_on(verify(device)).expect("the device can be verified");
        assert_eq!(checked.read_errors, 0);
    }
    totals
}

#[test]
fn no_crash_serves_a_wrong_byte_or_loses_a_durable_one() {
    let mut totals = Totals::default();
    for seed in 1..=RUNS {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(one) => totals.add(one),
            Err(panic) => {
                eprintln!("failing seed: {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{RUNS} runs, {CRASHES} crashes each: {totals:?}");
    // The runs must have exercised what they claim to.
    assert!(totals.served > RUNS, "hardly anything was served: {totals:?}");
    assert!(totals.expected > RUNS / 2, "hardly anything was expected: {totals:?}");
    assert!(totals.walked > RUNS / 2 && totals.bad > 0, "no damage was met: {totals:?}");
}

/// The canary: the same oracle on the same kind of run must fail when the checks are bypassed.
#[test]
fn the_oracle_sees_wrong_bytes_when_verification_is_bypassed() {
    let faults =
        Faults { write_lost: 100, write_misdirected: 100, rest_flip: 200, ..Faults::default() };
    let (mut wrong, mut right) = (0, 0);
    for seed in 0..40 {
        let device = small_device(seed);
        let mut store = open(&device);
        device.set_faults(faults);
        let keys: Vec<_> = (0..30).map(|key| ExtentKey::block(key, 1, 0)).collect();
        for key in &keys {
            let _ = append(&mut store, Stream::VodNew, *key);
        }
        let _ = block_on(store.seal_all());
        device.set_faults(Faults::default());
        let reader = store.reader();
        for key in &keys {
            // Unchecked first: the checked read forgets what is bad.
            if let Some(location) = reader.locate(key) {
                let bytes = Bytes::from(device.peek(location.offset, location.len as usize));
                match judge(key, &unverified(key, bytes)) {
                    Ok(()) => right += 1,
                    Err(_) => wrong += 1,
                }
            }
            read(&reader, &device, key);
        }
    }
    assert!(
        wrong > 50 && right > 50,
        "{wrong} wrong, {right} right: the oracle does not tell them apart"
    );
}

/// What a store without checks would serve.
fn unverified(key: &ExtentKey, bytes: Bytes) -> Extent {
    let len = payload(key).len().min(bytes.len() - 64);
    let header = ExtentHeader {
        key: *key,
        sequence: 0,
        payload_bytes: len as u32,
        payload_crc: 0,
        segment: 0,
        slot: 0,
        class: ExpiryClass::default(),
    };
    Extent { header, payload: bytes.slice(64..64 + len) }
}
