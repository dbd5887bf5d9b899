//! Goal: readers on other threads get right bytes or a miss while the writer appends, replaces and reclaims.
//! Method: three reader threads over a device so small that segments are reused all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidegate_store::{ExtentKey, Stream};

use crate::device::{Random, block_on};
use crate::oracle::{append, open, read, small_device};

const KEYS: u64 = 60;
const APPENDS: u64 = 6000;

#[test]
fn readers_never_see_wrong_bytes_while_segments_are_reused() {
    let device = small_device(9);
    let mut store = open(&device);
    let stop = AtomicBool::new(false);
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (reader, device, stop, hits) = (store.reader(), device.clone(), &stop, &hits);
            scope.spawn(move || {
                let mut random = Random(thread);
                while !stop.load(Ordering::Relaxed) {
                    let key = u128::from(random.below(KEYS));
                    let asked = if random.chance(500) {
                        ExtentKey::head(key)
                    } else {
                        ExtentKey::block(key, random.below(20), random.below(3) as u32)
                    };
                    hits.fetch_add(
                        u64::from(read(&reader, &device, &asked).is_some()),
                        Ordering::Relaxed,
                    );
                }
            });
        }
        let mut random = Random(77);
        let mut at = 0;
        // Goes on until the readers have had their chance, however the threads are scheduled.
        while at < APPENDS || (hits.load(Ordering::Relaxed) < 1000 && at < APPENDS * 100) {
            let (key, version) = (u128::from(random.below(KEYS)), random.below(20));
            let (stream, key) = match random.below(3) {
                0 => (Stream::Small, ExtentKey::head_of(key, version)),
                1 => (Stream::Live, ExtentKey::block(key, version, random.below(3) as u32)),
                _ => (Stream::VodNew, ExtentKey::block(key, version, random.below(3) as u32)),
            };
            append(&mut store, stream, key).expect("a sound device");
            if random.chance(100) {
                store.remove(&ExtentKey::head(u128::from(random.below(KEYS))));
            }
            if random.chance(100) {
                block_on(store.flush_pending()).expect("a sound device");
            }
            at += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let counters = store.counters();
    assert!(hits.load(Ordering::Relaxed) > 100, "the readers found hardly anything");
    assert!(counters.reclaims > 100 && counters.extents_reappended > 0, "{counters:?}");
    assert_eq!(counters.extents_bad, 0, "a race was counted as damage: {counters:?}");
}
