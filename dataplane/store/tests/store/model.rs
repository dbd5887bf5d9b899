//! Goal: on a sound device that need not reclaim, the store is a map. Method: random operations, reopening
//! among them, on the store and on a map, compared after every step.

use std::collections::HashMap;

use proptest::prelude::*;
use tidegate_store::{ExtentKey, FormatOptions, Store, Stream, format};

use crate::device::{MemoryDevice, block_on};
use crate::oracle::{UUID, append, open, read, small_format};

#[derive(Clone, Debug)]
enum Step {
    Append { head: bool, stream: usize, key: u128, version: u64, block: u32 },
    Flush,
    Remove { head: bool, key: u128, version: u64, block: u32 },
    Reopen,
    SealAll,
}

fn step() -> impl Strategy<Value = Step> {
    let identity = (any::<bool>(), 0..4u128, 0..3u64, 0..3u32);
    prop_oneof![
        8 => (identity.clone(), 0..4usize).prop_map(|((head, key, version, block), stream)| {
            Step::Append { head, stream, key, version, block }
        }),
        2 => identity.prop_map(|(head, key, version, block)| Step::Remove { head, key, version, block }),
        3 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::SealAll),
    ]
}

/// What a lookup asks for, and the version it must find.
type Model = HashMap<ExtentKey, u64>;

fn identity(head: bool, key: u128, version: u64, block: u32) -> ExtentKey {
    if head { ExtentKey::head_of(key, version) } else { ExtentKey::block(key, version, block) }
}

fn asked(key: &ExtentKey) -> ExtentKey {
    if key.is_head() { ExtentKey::head(key.key) } else { *key }
}

fn check_all(store: &Store<MemoryDevice>, device: &MemoryDevice, model: &Model) {
    let reader = store.reader();
    for key in 0..4 {
        let blocks = (0..9).map(|at| ExtentKey::block(key, at / 3, (at % 3) as u32));
        for key in blocks.chain([ExtentKey::head(key)]) {
            let found = read(&reader, device, &key).map(|extent| extent.header.key.version);
            assert_eq!(found, model.get(&key).copied(), "{key:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map(steps in proptest::collection::vec(step(), 1..80)) {
        let device = MemoryDevice::new(17 << 20, 1);
        let options = FormatOptions { segment_bytes: 128 << 10, ..small_format(UUID) };
        block_on(format(&device, options)).expect("blank");
        let mut store = open(&device);
        // What is visible now; what was appended since the last flush; what a restart finds.
        let (mut visible, mut on_device) = (Model::new(), Model::new());
        for step in steps {
            match step {
                Step::Append { head, stream, key, version, block } => {
                    let key = identity(head, key, version, block);
                    append(&mut store, Stream::ALL[stream], key).expect("a sound device");
                    // Flushed at once: which extents a full unit made visible is not the model's matter.
                    block_on(store.flush_pending()).expect("a sound device");
                    visible.insert(asked(&key), key.version);
                    on_device.insert(asked(&key), key.version);
                }
                Step::Remove { head, key, version, block } => {
                    let key = asked(&identity(head, key, version, block));
                    prop_assert_eq!(store.remove(&key), visible.remove(&key).is_some());
                }
                Step::Flush => block_on(store.sync()).expect("a sound device"),
                Step::SealAll => block_on(store.seal_all()).expect("a sound device"),
                Step::Reopen => {
                    drop(store);
                    store = open(&device);
                    visible = on_device.clone();
                }
            }
            check_all(&store, &device, &visible);
        }
        prop_assert_eq!(store.counters().reclaims, 0);
    }
}
