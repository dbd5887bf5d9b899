//! Goal: what append, flush, seal, remove and reclaim promise. Method: a sound device and counted effects.

use tidegate_store::{
    AppendError, ExpiryClass, ExtentKey, FormatOptions, OpenOptions, Store, Stream, format,
};

use crate::device::{MemoryDevice, Random, block_on, poll_times};
use crate::oracle::{UUID, append, bytes_of, open, payload, read, small_device, small_options};

#[test]
fn an_extent_is_visible_only_after_its_bytes_were_written() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let key = ExtentKey::block(1, 1, 0);
    block_on(store.append(Stream::VodNew, key, &[b"abc"], ExpiryClass(9))).expect("a sound device");
    assert!(reader.locate(&key).is_none());
    block_on(store.flush_pending()).expect("a sound device");
    let location = reader.locate(&key).expect("visible now");
    let bytes = device.peek(location.offset, location.len as usize);
    let extent =
        tidegate_store::verify_extent(&key, &location, bytes.clone().into()).expect("sound");
    assert_eq!((&extent.payload[..], extent.header.class), (&b"abc"[..], ExpiryClass(9)));
    assert!(bytes[67..].iter().all(|byte| *byte == 0), "padding is zeros");
    // A unit of 8 KiB holds two small extents: the second full one makes both visible without a flush.
    let keys = [ExtentKey::block(2, 1, 0), ExtentKey::block(3, 1, 0)];
    for key in keys {
        block_on(store.append(Stream::VodNew, key, &[b"x"], ExpiryClass(0)))
            .expect("a sound device");
    }
    assert!(keys.iter().all(|key| reader.contains(key)));
}

#[test]
fn a_head_is_found_by_key_alone_and_the_latest_wins() {
    let device = small_device(1);
    let mut store = open(&device);
    for version in [7, 9, 8] {
        append(&mut store, Stream::Small, ExtentKey::head_of(5, version)).expect("a sound device");
    }
    append(&mut store, Stream::VodNew, ExtentKey::block(5, 9, 0)).expect("a sound device");
    block_on(store.sync()).expect("a sound device");
    for _ in 0..2 {
        let store = open(&device);
        let head = read(&store.reader(), &device, &ExtentKey::head(5)).expect("stored");
        assert_eq!(head.header.key.version, 8, "the one appended last, not the largest");
        assert!(read(&store.reader(), &device, &ExtentKey::block(5, 9, 0)).is_some());
        assert!(read(&store.reader(), &device, &ExtentKey::block(5, 8, 0)).is_none());
    }
}

#[test]
fn the_latest_head_wins_across_segments_that_were_open_together() {
    let device = small_device(1);
    let mut store = open(&device);
    // Opened first, so its segment has the smaller sequence; the later head goes into it.
    append(&mut store, Stream::Small, ExtentKey::block(1, 1, 0)).expect("a sound device");
    append(&mut store, Stream::VodNew, ExtentKey::head_of(5, 1)).expect("a sound device");
    append(&mut store, Stream::Small, ExtentKey::head_of(5, 2)).expect("a sound device");
    block_on(store.seal_all()).expect("a sound device");
    let store = open(&device);
    let head = read(&store.reader(), &device, &ExtentKey::head(5)).expect("stored");
    assert_eq!(head.header.key.version, 2);
}

#[test]
fn removed_is_a_miss_also_while_it_waits_to_be_written() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    append(&mut store, Stream::Small, ExtentKey::head_of(1, 3)).expect("a sound device");
    assert!(store.remove(&ExtentKey::head(1)));
    block_on(store.flush_pending()).expect("a sound device");
    assert!(!reader.contains(&ExtentKey::head(1)));
    append(&mut store, Stream::Small, ExtentKey::head_of(1, 4)).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    assert!(reader.contains(&ExtentKey::head(1)));
    assert!(store.remove(&ExtentKey::head(1)) && !store.remove(&ExtentKey::head(1)));
    assert!(!reader.contains(&ExtentKey::head(1)));
}

#[test]
fn too_large_a_payload_is_refused_and_the_largest_is_taken() {
    let device = small_device(1);
    let mut store = open(&device);
    let most = store.geometry().payload_bytes_max() as usize;
    let bytes = bytes_of(&mut Random(3), most + 1);
    let key = ExtentKey::block(1, 1, 1);
    let refused = block_on(store.append(Stream::VodNew, key, &[&bytes], ExpiryClass(0)));
    assert_eq!(
        refused,
        Err(AppendError::TooLarge { payload_bytes: most + 1, payload_bytes_max: most })
    );
    block_on(store.append(Stream::VodNew, key, &[&bytes[..most]], ExpiryClass(0)))
        .expect("it fits");
    block_on(store.flush_pending()).expect("a sound device");
    let extent =
        block_on(tidegate_store::read(&store.reader(), &device, &key)).expect("a sound device");
    assert!(extent.expect("stored").payload == bytes[..most]);
}

#[test]
fn a_segment_is_sealed_before_its_summary_would_not_fit() {
    let device = MemoryDevice::new(9 << 20, 1);
    let options = FormatOptions {
        segment_bytes: 1 << 20,
        journal_bytes: 32 << 10,
        ..FormatOptions::new(UUID)
    };
    block_on(format(&device, options)).expect("blank");
    let mut store = open(&device);
    let keys: Vec<_> = (0..600).map(|key| ExtentKey::block(key, 1, 0)).collect();
    for key in &keys {
        block_on(store.append(Stream::Small, *key, &[], ExpiryClass(0))).expect("a sound device");
    }
    block_on(store.seal_all()).expect("a sound device");
    let (store, report) = block_on(Store::open(device.clone(), small_options())).expect("it opens");
    assert_eq!((report.segments_sealed, report.segments_walked, report.extents), (3, 0, 600));
    assert!(keys.iter().all(|key| store.reader().contains(key)));
}

#[test]
fn default_sizes_hold_the_largest_extents() {
    let device = MemoryDevice::new(8 * (128 << 20) + (9 << 20), 1);
    block_on(format(&device, FormatOptions::new(UUID))).expect("blank");
    let (mut store, _) =
        block_on(Store::open(device.clone(), OpenOptions::default())).expect("formatted");
    let bytes = bytes_of(&mut Random(5), 4 << 20);
    let key = ExtentKey::block(1, 1, 0);
    let (first, second) = bytes.split_at(12345);
    block_on(store.append(Stream::VodNew, key, &[first, &[], second], ExpiryClass(0)))
        .expect("it fits");
    append(&mut store, Stream::VodNew, ExtentKey::block(2, 1, 0)).expect("a sound device");
    block_on(store.sync()).expect("a sound device");
    drop(store);
    let (store, report) =
        block_on(Store::open(device.clone(), OpenOptions::default())).expect("it opens");
    assert_eq!((report.extents, report.segments_walked), (2, 1));
    let extent =
        block_on(tidegate_store::read(&store.reader(), &device, &key)).expect("a sound device");
    assert!(extent.expect("stored").payload == bytes);
}

#[test]
fn the_oldest_segment_is_reclaimed_and_its_extents_are_misses() {
    let device = small_device(1);
    let options = OpenOptions { reappend: false, ..small_options() };
    let (mut store, _) = block_on(Store::open(device.clone(), options)).expect("it opens");
    let reader = store.reader();
    let keys: Vec<_> = (0..1000).map(|key| ExtentKey::block(key, 1, 0)).collect();
    for key in &keys {
        append(&mut store, Stream::VodNew, *key).expect("a sound device");
    }
    block_on(store.flush_pending()).expect("a sound device");
    let first = keys.iter().position(|key| reader.contains(key)).expect("some are there");
    assert!(first > 0 && keys[first..].iter().all(|key| read(&reader, &device, key).is_some()));
    assert!(keys[..first].iter().all(|key| !reader.contains(key)));
    let counters = store.counters();
    assert!(counters.reclaims > 10 && counters.segments_free >= 1, "{counters:?}");
    assert_eq!(counters.segments_free + counters.segments_open + counters.segments_sealed, 16);
    assert_eq!(counters.extents_reappended, 0);
}

#[test]
fn what_was_used_is_kept_and_live_is_not() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let hot = [ExtentKey::block(1, 1, 0), ExtentKey::head_of(2, 1)];
    let live = ExtentKey::block(3, 1, 0);
    append(&mut store, Stream::VodNew, hot[0]).expect("a sound device");
    append(&mut store, Stream::Small, hot[1]).expect("a sound device");
    append(&mut store, Stream::Live, live).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    for at in 0..3000 {
        let asked = [hot[0], ExtentKey::head(2), live];
        asked.iter().for_each(|key| drop(read(&reader, &device, key)));
        let stream = [Stream::VodNew, Stream::Small, Stream::Live][at as usize % 3];
        append(&mut store, stream, ExtentKey::block(1000 + at, 1, 0)).expect("a sound device");
    }
    block_on(store.flush_pending()).expect("a sound device");
    assert!(read(&reader, &device, &hot[0]).is_some(), "a used block was lost");
    assert!(read(&reader, &device, &ExtentKey::head(2)).is_some(), "a used head was lost");
    assert!(!reader.contains(&live), "a live extent was copied");
    let counters = store.counters();
    let copied_most = counters.reclaims * (64 << 10) * 3 / 4 / 4096;
    assert!(
        counters.extents_reappended > 2 && counters.extents_reappended <= copied_most,
        "{counters:?}"
    );
}

#[test]
fn a_segment_that_is_used_stays_where_it_is() {
    // Goal: of the oldest segments the least used goes. Method: four segments, the first of them in use; as much again
    // as goes in is reclaimed, and what is used is neither lost nor copied.
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let keys: Vec<_> = (0..1000).map(|key| ExtentKey::block(key, 1, 0)).collect();
    let hot = keys[..3].to_vec();
    for key in &keys[..40] {
        append(&mut store, Stream::VodNew, *key).expect("a sound device");
    }
    block_on(store.flush_pending()).expect("a sound device");
    hot.iter().for_each(|key| assert!(read(&reader, &device, key).is_some()));
    let place = |key: &ExtentKey| reader.locate(key).map(|location| location.offset);
    let before: Vec<_> = hot.iter().map(place).collect();
    for key in &keys[40..] {
        append(&mut store, Stream::VodNew, *key).expect("a sound device");
        if store.counters().reclaims == 6 {
            break;
        }
    }
    assert_eq!(store.counters().reclaims, 6);
    assert_eq!(hot.iter().map(place).collect::<Vec<_>>(), before);
    assert_eq!(store.counters().extents_reappended, 0);
    assert!(!reader.contains(&keys[30]), "what nobody used went");
}

#[test]
fn segments_of_heads_go_in_the_order_of_their_age() {
    // Goal: an older head never outlives a newer one over a restart. Method: the older head's segment is in use, the
    // newer one's is not; whatever is reclaimed, recovery never finds the older head again.
    for seed in 1..20 {
        let device = small_device(seed);
        let mut store = open(&device);
        let mut random = Random(seed);
        let small = |store: &mut Store<MemoryDevice>, key: u128, version: u64| {
            let head = ExtentKey::head_of(key, version);
            block_on(store.append(Stream::Small, head, &[b"head"], ExpiryClass(0)))
                .expect("a sound device");
        };
        for key in 0..12 {
            small(&mut store, key, 1);
        }
        block_on(store.seal_all()).expect("a sound device");
        (1..12).for_each(|key| assert!(store.reader().locate(&ExtentKey::head(key)).is_some()));
        small(&mut store, 0, 2);
        block_on(store.seal_all()).expect("a sound device");
        for at in 0..2000 {
            let stream = [Stream::VodNew, Stream::Small, Stream::Live][random.below(3) as usize];
            let key = ExtentKey::block(100 + at, 1, 0);
            append(&mut store, stream, key).expect("a sound device");
            if random.below(2) == 0 {
                read(&store.reader(), &device, &key);
            }
            if at % 10 == 0 {
                // As a restart would find it now, without disturbing what is counted.
                let options = OpenOptions { read_only: true, ..small_options() };
                let (other, _) = block_on(Store::open(device.clone(), options)).expect("formatted");
                let found =
                    block_on(tidegate_store::read(&other.reader(), &device, &ExtentKey::head(0)))
                        .expect("a sound device");
                let version = found.map(|extent| extent.header.key.version);
                assert_ne!(version, Some(1), "seed {seed}, after {at}");
            }
        }
        assert!(store.counters().reclaims > 0);
    }
}

#[test]
fn an_append_that_is_dropped_while_writing_costs_its_segment_only() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let before = ExtentKey::block(1, 1, 0);
    append(&mut store, Stream::VodNew, before).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    device.set_faults(crate::device::Faults { pending: 1000, ..Default::default() });
    let cut = ExtentKey::block(2, 1, 0);
    let bytes = bytes_of(&mut Random(1), 12 << 10);
    assert!(!poll_times(store.append(Stream::VodNew, cut, &[&bytes], ExpiryClass(0)), 1));
    let after = ExtentKey::block(3, 1, 0);
    append(&mut store, Stream::VodNew, after).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    assert!(read(&reader, &device, &before).is_some() && read(&reader, &device, &after).is_some());
    assert!(!reader.contains(&cut));
    assert_eq!(store.counters().segments_abandoned, 1);
    assert_eq!(
        payload(&after).len(),
        read(&reader, &device, &after).expect("stored").payload.len()
    );
}

#[test]
fn the_owner_can_veto_what_is_kept() {
    let device = small_device(1);
    let mut store = open(&device);
    store.keep_if(|header, _, used| used && header.class != ExpiryClass(3));
    let reader = store.reader();
    let key = ExtentKey::block(1, 1, 0);
    append(&mut store, Stream::VodNew, key).expect("a sound device");
    for at in 0..1000 {
        read(&reader, &device, &key);
        append(&mut store, Stream::VodNew, ExtentKey::block(1000 + at, 1, 0))
            .expect("a sound device");
    }
    assert!(store.counters().reclaims > 10 && store.counters().extents_reappended == 0);
    assert!(!reader.contains(&key));
}

#[test]
fn an_older_head_that_is_kept_does_not_come_after_a_newer_one_that_waits() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let head = ExtentKey::head(5);
    let small = |version| (ExtentKey::head_of(5, version), [&b"head"[..]]);
    let (key, payload) = small(1);
    block_on(store.append(Stream::Small, key, &payload, ExpiryClass(0))).expect("a sound device");
    block_on(store.seal_all()).expect("a sound device");
    // The stream has an open segment already, so the newer head waits without opening one.
    append(&mut store, Stream::Small, ExtentKey::head_of(6, 1)).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    let mut at = 0;
    let mut fill = |store: &mut Store<MemoryDevice>| {
        at += 1;
        let key = ExtentKey::block(100 + at, 1, 0);
        append(store, Stream::VodNew, key).expect("a sound device");
        block_on(store.flush_pending()).expect("a sound device");
        // Used, so that the heads' segment is the least used one.
        read(&store.reader(), &device, &key);
    };
    while store.counters().segments_free > 1 {
        fill(&mut store);
    }
    assert!(reader.locate(&head).is_some());
    let (key, payload) = small(2);
    block_on(store.append(Stream::Small, key, &payload, ExpiryClass(0))).expect("a sound device");
    assert_eq!(store.counters().reclaims, 0);
    while store.counters().reclaims == 0 {
        fill(&mut store);
    }
    block_on(store.flush_pending()).expect("a sound device");
    for store in [store, open(&device)] {
        let found = block_on(tidegate_store::read(&store.reader(), &device, &head))
            .expect("a sound device");
        assert_eq!(found.expect("stored").header.key.version, 2);
    }
}
