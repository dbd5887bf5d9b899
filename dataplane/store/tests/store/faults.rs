//! Goal: a failing device costs misses, is fenced, and never returns a wrong byte. Method: each I/O of a
//! fixed piece of work fails in turn; then the state of the device is driven by runs of errors.

use tidegate_store::{AppendError, DeviceState, ExtentHeader, ExtentKey, Store, Stream};

use crate::device::{Faults, MemoryDevice, block_on};
use crate::oracle::{append, open, read, small_device, small_options};

/// Opens, fills until segments are reclaimed, removes, seals, reopens, reads. Returns how many reads hit.
fn work(device: &MemoryDevice) -> usize {
    let keys: Vec<_> = (0..150u32)
        .map(|at| {
            if at % 4 == 0 {
                ExtentKey::head_of(at.into(), 2)
            } else {
                ExtentKey::block(at.into(), 2, at)
            }
        })
        .collect();
    let asked = |key: &ExtentKey| if key.is_head() { ExtentKey::head(key.key) } else { *key };
    if let Ok((mut store, _)) = block_on(Store::open(device.clone(), small_options())) {
        for key in &keys {
            let stream = if key.is_head() { Stream::Small } else { Stream::VodNew };
            let _ = append(&mut store, stream, *key);
            read(&store.reader(), device, &asked(&keys[0]));
        }
        store.remove(&asked(&keys[4]));
        let _ = block_on(store.seal_all());
    }
    let Ok((store, _)) = block_on(Store::open(device.clone(), small_options())) else { return 0 };
    keys.iter().filter(|key| read(&store.reader(), device, &asked(key)).is_some()).count()
}

#[test]
fn any_single_failed_operation_is_survived() {
    let sound = small_device(1);
    let started = sound.operations();
    drop(open(&sound));
    // A store that cannot write its epoch when it opens stores nothing.
    let opening = sound.operations() - started;
    let sound = small_device(1);
    let hits = work(&sound);
    let operations = sound.operations() - started;
    assert!(operations > 200 && hits > 50);
    for nth in 1..=operations {
        let device = small_device(1);
        device.fail_after(nth);
        let hits = work(&device);
        assert!(hits > 0 || nth <= opening, "operation {nth} failed and nothing was served");
        // The device is sound again: it opens and takes extents.
        let mut store = open(&device);
        append(&mut store, Stream::Live, ExtentKey::block(7, 7, 7)).expect("sound again");
    }
}

#[test]
fn failed_writes_in_a_row_make_it_read_only_and_it_still_serves() {
    for faults in [
        Faults { write_error: 1000, ..Faults::default() },
        Faults { write_full: 1000, ..Faults::default() },
        Faults { write_short: 1000, ..Faults::default() },
        Faults { flush_error: 1000, ..Faults::default() },
    ] {
        let device = small_device(1);
        let mut store = open(&device);
        let reader = store.reader();
        let key = ExtentKey::block(1, 1, 0);
        append(&mut store, Stream::VodNew, key).expect("a sound device");
        block_on(store.flush_pending()).expect("a sound device");
        device.set_faults(faults);
        for at in 0..20 {
            let _ = append(&mut store, Stream::Live, ExtentKey::block(100 + at, 1, 0));
            let _ = block_on(store.sync());
        }
        assert_eq!(store.state(), DeviceState::ReadOnly, "{faults:?}");
        let refused = append(&mut store, Stream::Live, ExtentKey::block(9, 1, 0));
        assert_eq!(refused, Err(AppendError::Refused(DeviceState::ReadOnly)));
        assert!(read(&reader, &device, &key).is_some(), "what was written before is still served");
        assert!(store.counters().write_errors >= 3);
        device.set_faults(Faults::default());
        assert!(
            append(&mut store, Stream::Live, ExtentKey::block(9, 1, 0)).is_err(),
            "it rejoins by command only"
        );
        block_on(store.rejoin()).expect("sound again");
        append(&mut store, Stream::Live, ExtentKey::block(9, 1, 0)).expect("it rejoined");
    }
}

#[test]
fn a_failed_write_hides_what_was_pending_and_keeps_what_was_written() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let (written, pending, later) =
        (ExtentKey::block(1, 1, 0), ExtentKey::block(2, 1, 0), ExtentKey::block(3, 1, 0));
    append(&mut store, Stream::VodNew, written).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    block_on(store.append(Stream::VodNew, pending, &[b"p"], Default::default())).expect("buffered");
    device.fail_after(1);
    assert!(matches!(block_on(store.flush_pending()), Err(AppendError::Write(_))));
    append(&mut store, Stream::VodNew, later).expect("another segment is opened");
    block_on(store.flush_pending()).expect("sound again");
    assert!(read(&reader, &device, &written).is_some() && read(&reader, &device, &later).is_some());
    assert!(!reader.contains(&pending));
    let counters = store.counters();
    assert_eq!(
        (counters.segments_abandoned, counters.extents_dropped, counters.write_errors),
        (1, 1, 1)
    );
    assert_eq!(store.state(), DeviceState::Ok);
}

#[test]
fn failed_reads_in_a_row_put_it_out_and_lookups_miss_without_io() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let key = ExtentKey::block(1, 1, 0);
    append(&mut store, Stream::VodNew, key).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    device.set_faults(Faults { read_error: 1000, ..Faults::default() });
    for _ in 0..16 {
        assert!(block_on(tidegate_store::read(&reader, &device, &key)).is_err());
    }
    assert_eq!(store.state(), DeviceState::Out);
    let operations = device.operations();
    assert!(block_on(tidegate_store::read(&reader, &device, &key)).expect("a miss").is_none());
    assert_eq!(device.operations(), operations, "a device that is out was asked");
    device.set_faults(Faults::default());
    block_on(store.rejoin()).expect("sound again");
    assert!(read(&reader, &device, &key).is_some());
}

#[test]
fn a_rotten_extent_is_a_miss_counted_once() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let key = ExtentKey::block(1, 1, 0);
    block_on(store.append(Stream::VodNew, key, &[b"payload"], Default::default()))
        .expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    let location = reader.locate(&key).expect("stored");
    device.poke(location.offset + 66, b"!");
    for _ in 0..2 {
        assert!(
            block_on(tidegate_store::read(&reader, &device, &key)).expect("readable").is_none()
        );
    }
    assert_eq!(store.counters().extents_bad, 1);
    assert!(!reader.contains(&key));
}

/// A write that was lost leaves what the place held in an older life of its segment, which may be an older
/// head of the same object: sound in all its checksums, of the right key, and yet not to be served.
#[test]
fn an_older_head_left_in_the_place_of_a_newer_one_is_not_served() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let mut places = std::collections::HashMap::new();
    for version in 1..2000 {
        let key = ExtentKey::head_of(5, version);
        let appended = block_on(store.append(Stream::Small, key, &[b"head"], Default::default()));
        let appended = appended.expect("a sound device");
        block_on(store.flush_pending()).expect("a sound device");
        let location = reader.locate(&ExtentKey::head(5)).expect("visible");
        let bytes = device.peek(location.offset, location.len as usize);
        if let Some(older) = places.insert((appended.segment, appended.slot), bytes) {
            device.poke(location.offset, &older);
            let found = block_on(tidegate_store::read(&reader, &device, &ExtentKey::head(5)));
            assert!(found.expect("readable").is_none(), "an older head was served");
            return;
        }
    }
    panic!("no place was used twice");
}

/// The same extent in another place is sound, and its key is right: only the place it names tells.
#[test]
fn an_extent_that_was_written_elsewhere_too_is_not_served_from_there() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let old = block_on(store.append(
        Stream::Small,
        ExtentKey::head_of(5, 1),
        &[b"1"],
        Default::default(),
    ));
    let old = old.expect("a sound device");
    block_on(store.append(Stream::Small, ExtentKey::head_of(5, 2), &[b"2"], Default::default()))
        .expect("a sound device");
    block_on(store.sync()).expect("a sound device");
    let newer = reader.locate(&ExtentKey::head(5)).expect("visible");
    let bytes = device.peek(store.geometry().slot_offset(old.segment, old.slot), 4096);
    device.poke(newer.offset, &bytes);
    let found = block_on(tidegate_store::read(&reader, &device, &ExtentKey::head(5)));
    assert!(found.expect("readable").is_none(), "an older head was served");
    // Recovery walks the segment, and must not take it for the later of the two either.
    let (_, report) = block_on(Store::open(device.clone(), small_options())).expect("it opens");
    assert_eq!((report.segments_walked, report.extents), (1, 1));
}

/// Two keys may share a tag: the entry then leads to a sound extent of the other key, and stays with it.
#[test]
fn an_entry_that_leads_to_another_key_is_a_miss_and_is_kept() {
    let device = small_device(1);
    let mut store = open(&device);
    let reader = store.reader();
    let key = ExtentKey::block(1, 1, 0);
    block_on(store.append(Stream::VodNew, key, &[b"payload"], Default::default()))
        .expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    let location = reader.locate(&key).expect("stored");
    let bytes = device.peek(location.offset, 4096);
    let mut header = ExtentHeader::decode(&bytes, location.seed).expect("sound");
    header.key = ExtentKey::block(2, 1, 0);
    device.poke(location.offset, &header.encode(location.seed));
    assert!(block_on(tidegate_store::read(&reader, &device, &key)).expect("readable").is_none());
    assert!(reader.contains(&key));
    assert_eq!(store.counters().extents_bad, 0);
}
