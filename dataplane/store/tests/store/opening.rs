//! Goal: a device is formatted and opened only when that is right, and a refusal says what to do. Method: one
//! device for each state a device can be in.

use tidegate_store::{
    BadRecord, Device, DeviceState, ExtentKey, FormatError, Geometry, GeometryError, OpenError,
    OpenOptions, SUPERBLOCK_OFFSETS, SegmentState, Store, Stream, format, inspect, verify,
};

use crate::device::{Faults, MemoryDevice, block_on, poll_times};
use crate::oracle::{
    SMALL_DEVICE, UUID, append, open, read, small_device, small_format, small_options,
};

fn refusal(device: &MemoryDevice, options: OpenOptions) -> OpenError {
    match block_on(Store::open(device.clone(), options)) {
        Err(error) => error,
        Ok(_) => panic!("the device was opened"),
    }
}

#[test]
fn a_blank_a_foreign_and_a_damaged_device_are_told_apart() {
    let device = MemoryDevice::new(SMALL_DEVICE, 1);
    assert_eq!(refusal(&device, small_options()), OpenError::Blank);
    device.poke(1080, &[0x53, 0xEF]); // where ext4 keeps its magic number
    assert_eq!(refusal(&device, small_options()), OpenError::Foreign { offset: 1080 });
    let error = block_on(format(&device, small_format(UUID))).expect_err("it holds something");
    assert_eq!(error, FormatError::NotBlank { offset: 1080, store: false });
    let overwrite = tidegate_store::FormatOptions { overwrite: true, ..small_format(UUID) };
    block_on(format(&device, overwrite)).expect("overwrite was said");
    open(&device);
    let error = block_on(format(&device, small_format(2))).expect_err("it holds a store");
    assert!(matches!(error, FormatError::NotBlank { store: true, .. }));
    SUPERBLOCK_OFFSETS.iter().for_each(|offset| device.poke(offset + 20, &[0xFF; 8]));
    let damaged = OpenError::Damaged { first: BadRecord::Checksum, second: BadRecord::Checksum };
    assert_eq!(refusal(&device, small_options()), damaged);
}

#[test]
fn a_partition_table_at_the_end_keeps_a_device_from_looking_blank() {
    let device = MemoryDevice::new(8 << 20, 1);
    device.poke((8 << 20) - 512, b"EFI PART");
    let error = block_on(format(&device, small_format(UUID))).expect_err("it holds something");
    assert_eq!(error, FormatError::NotBlank { offset: (8 << 20) - 512, store: false });
}

#[test]
fn either_superblock_suffices_and_the_other_is_mended() {
    for copy in [0, 1] {
        let device = small_device(1);
        let mut store = open(&device);
        append(&mut store, Stream::VodNew, ExtentKey::block(1, 1, 1)).expect("a sound device");
        block_on(store.sync()).expect("a sound device");
        device.poke(SUPERBLOCK_OFFSETS[copy], &[0xFF; 4096]);
        for bad in [1, 0] {
            let (store, report) =
                block_on(Store::open(device.clone(), small_options())).expect("one is sound");
            assert_eq!(report.superblocks_bad, bad);
            assert!(read(&store.reader(), &device, &ExtentKey::block(1, 1, 1)).is_some());
        }
    }
}

#[test]
fn a_shrunk_device_and_impossible_options_are_refused_by_name() {
    let device = small_device(1);
    let options = OpenOptions { index_bytes_max: 1000, ..small_options() };
    let error = refusal(&device, options);
    assert!(matches!(
        error,
        OpenError::IndexTooLarge { index_bytes_max: 1000, extent_mean_bytes: 4096, .. }
    ));
    assert!(error.to_string().contains("index_bytes_max = 1000"), "{error}");
    for (name, options) in [
        ("write_unit_bytes", OpenOptions { write_unit_bytes: 1000, ..small_options() }),
        ("write_unit_bytes", OpenOptions { write_unit_bytes: 1 << 20, ..small_options() }),
        ("segments_reserve", OpenOptions { segments_reserve: 1, ..small_options() }),
        ("extent_mean_bytes", OpenOptions { extent_mean_bytes: 1, ..small_options() }),
    ] {
        let error = refusal(&device, options);
        assert!(matches!(error, OpenError::Option { name: found, .. } if found == name), "{error}");
    }
    device.set_size(SMALL_DEVICE - 4096);
    assert!(matches!(refusal(&device, small_options()), OpenError::Shrunk { .. }));
}

#[test]
fn geometry_is_refused_outside_its_limits() {
    let plan = |device, segment, journal| Geometry::plan(device, segment, journal);
    assert!(matches!(plan(1 << 30, 100_000, 32 << 10), Err(GeometryError::SegmentBytes { .. })));
    assert!(matches!(plan(1 << 30, 1 << 28, 32 << 10), Err(GeometryError::SegmentBytes { .. })));
    assert!(matches!(plan(1 << 30, 1 << 20, 5), Err(GeometryError::JournalBytes { .. })));
    assert!(matches!(plan(1 << 20, 1 << 20, 32 << 10), Err(GeometryError::TooFewSegments { .. })));
    assert!(matches!(plan(1 << 40, 1 << 16, 32 << 10), Err(GeometryError::TooManySegments { .. })));
    let geometry = plan(3 << 40, 128 << 20, 8 << 20).expect("a 3 TiB drive with the defaults");
    assert!(geometry.end() <= 3 << 40 && geometry.segment_count == 24_575);
}

#[test]
fn a_newer_format_is_named() {
    let device = small_device(1);
    for offset in SUPERBLOCK_OFFSETS {
        let mut bytes = device.peek(offset, 4096);
        bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
        bytes[4092..].fill(0);
        let crc = tidegate_store::checksum::crc32c(&bytes);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
        device.poke(offset, &bytes);
    }
    assert_eq!(refusal(&device, small_options()), OpenError::Format { found: 7, known: 1 });
}

#[test]
fn extents_of_the_store_that_was_here_before_are_never_found() {
    let device = small_device(1);
    let mut store = open(&device);
    let keys: Vec<_> = (0..20).map(|key| ExtentKey::block(key, 1, 0)).collect();
    keys.iter().for_each(|key| assert!(append(&mut store, Stream::VodNew, *key).is_ok()));
    block_on(store.seal_all()).expect("a sound device");
    let again = tidegate_store::FormatOptions { overwrite: true, ..small_format(UUID + 1) };
    block_on(format(&device, again)).expect("overwrite was said");
    let (mut store, report) =
        block_on(Store::open(device.clone(), small_options())).expect("just formatted");
    assert_eq!((report.extents, report.headers_bad), (0, 0));
    // The first segment is in use again, with the same sequence as in its former life; the walk goes over it.
    append(&mut store, Stream::VodNew, ExtentKey::block(99, 1, 0)).expect("a sound device");
    block_on(store.sync()).expect("a sound device");
    let store = open(&device);
    assert!(keys.iter().all(|key| !store.reader().contains(key)));
    assert!(read(&store.reader(), &device, &ExtentKey::block(99, 1, 0)).is_some());
}

#[test]
fn opening_for_reading_only_changes_nothing() {
    let device = small_device(1);
    let mut store = open(&device);
    append(&mut store, Stream::Small, ExtentKey::head_of(5, 6)).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    drop(store);
    let before = device.peek(0, device.size() as usize);
    let options = OpenOptions { read_only: true, ..small_options() };
    let (mut store, report) = block_on(Store::open(device.clone(), options)).expect("it opens");
    assert_eq!((report.segments_walked, report.segments_resealed, report.extents), (1, 0, 1));
    assert!(read(&store.reader(), &device, &ExtentKey::head(5)).is_some());
    assert!(append(&mut store, Stream::Small, ExtentKey::head_of(5, 7)).is_err());
    block_on(inspect(&device)).expect("it can be inspected");
    block_on(verify(&device)).expect("it can be verified");
    assert!(device.peek(0, device.size() as usize) == before, "something was written");
}

#[test]
fn one_that_was_read_first_becomes_the_writer_when_the_other_has_let_go() {
    let device = small_device(1);
    let mut before = open(&device);
    append(&mut before, Stream::VodNew, ExtentKey::block(1, 1, 1)).expect("a sound device");
    append(&mut before, Stream::Small, ExtentKey::head_of(5, 6)).expect("a sound device");
    block_on(before.flush_pending()).expect("a sound device");
    let options = OpenOptions { read_only: true, ..small_options() };
    let (_, given_up) = block_on(Store::open(device.clone(), options)).expect("it opens");
    // That one went away without a word: the first goes on, and its writes hold.
    append(&mut before, Stream::VodNew, ExtentKey::block(2, 1, 1)).expect("a sound device");
    block_on(before.flush_pending()).expect("a sound device");
    let (mut after, mut report) =
        block_on(Store::open(device.clone(), options)).expect("it opens again");
    assert_eq!((report.epoch, report.extents), (given_up.epoch, 3));
    block_on(after.promote(&mut report)).expect("a sound device");
    assert_eq!(report.segments_resealed, report.segments_walked);
    assert_eq!(after.state(), DeviceState::Ok);
    append(&mut after, Stream::Small, ExtentKey::head_of(5, 7)).expect("it writes");
    block_on(after.flush_pending()).expect("a sound device");
    // Who read before reads on: what it finds is right, or a miss.
    for key in [ExtentKey::block(1, 1, 1), ExtentKey::block(2, 1, 1), ExtentKey::head(5)] {
        assert!(read(&before.reader(), &device, &key).is_some());
    }
    drop((before, after));
    let (last, report) = block_on(Store::open(device.clone(), small_options())).expect("it opens");
    assert_eq!((report.epoch, report.segments_walked), (given_up.epoch + 1, 1));
    let head = read(&last.reader(), &device, &ExtentKey::head(5)).expect("it is stored");
    assert_eq!(head.header.key.version, 7);
}

#[test]
fn a_device_that_takes_no_writes_still_serves() {
    let device = small_device(1);
    let mut store = open(&device);
    append(&mut store, Stream::VodNew, ExtentKey::block(1, 1, 1)).expect("a sound device");
    block_on(store.sync()).expect("a sound device");
    device.set_faults(Faults { write_error: 1000, ..Faults::default() });
    let (store, report) =
        block_on(Store::open(device.clone(), small_options())).expect("it can be read");
    assert!(report.epoch_error.is_some());
    assert_eq!(store.state(), DeviceState::ReadOnly);
    assert!(read(&store.reader(), &device, &ExtentKey::block(1, 1, 1)).is_some());
    // It takes extents again only once the epoch that guards their sequences is on the device.
    let mut store = store;
    assert!(block_on(store.rejoin()).is_err());
    assert_eq!(store.state(), DeviceState::ReadOnly);
    device.set_faults(Faults::default());
    block_on(store.rejoin()).expect("sound again");
    append(&mut store, Stream::VodNew, ExtentKey::block(2, 1, 1)).expect("it rejoined");
    let epoch = report.epoch;
    let (_, report) = block_on(Store::open(device.clone(), small_options())).expect("it opens");
    assert_eq!(report.epoch, epoch + 1);
}

#[test]
fn a_walked_segment_gets_a_summary_and_is_walked_once() {
    let device = small_device(1);
    let mut store = open(&device);
    for key in 0..5 {
        append(&mut store, Stream::VodNew, ExtentKey::block(key, 1, 1)).expect("a sound device");
    }
    block_on(store.sync()).expect("a sound device");
    drop(store);
    let reopen = || block_on(Store::open(device.clone(), small_options())).expect("it opens").1;
    let (first, second) = (reopen(), reopen());
    assert_eq!((first.segments_walked, first.segments_resealed, first.extents), (1, 1, 5));
    assert_eq!((second.segments_walked, second.segments_sealed, second.extents), (0, 1, 5));
    assert_eq!((first.epoch, second.epoch), (2, 3));
}

#[test]
fn inspection_and_verification_report_what_is_there() {
    let device = small_device(1);
    let mut store = open(&device);
    for key in 0..4 {
        append(&mut store, Stream::VodNew, ExtentKey::block(key, 1, 1)).expect("a sound device");
    }
    block_on(store.seal_all()).expect("a sound device");
    let appended =
        append(&mut store, Stream::Live, ExtentKey::block(9, 1, 1)).expect("a sound device");
    block_on(store.flush_pending()).expect("a sound device");
    let inspection = block_on(inspect(&device)).expect("it can be inspected");
    let count = |state| inspection.segments.iter().filter(|segment| segment.state == state).count();
    assert_eq!(
        (count(SegmentState::Sealed), count(SegmentState::Open), count(SegmentState::Free)),
        (1, 1, 14)
    );
    assert_eq!(inspection.segments[0].extents, 4);
    assert_eq!(inspection.segments[1].stream, Some(Stream::Live));
    let report = block_on(verify(&device)).expect("it can be verified");
    assert_eq!((report.extents_good, report.extents_bad, report.segments), (5, 0, 2));
    device.poke(store.geometry().slot_offset(0, 1) + 64, &[0xFF; 64]);
    let offset = store.geometry().slot_offset(appended.segment, appended.slot);
    device.poke(offset + 8, &[0xFF; 4]);
    let report = block_on(verify(&device)).expect("it can be verified");
    assert!(report.extents_good <= 4 && report.extents_bad <= 1, "{report:?}");
}

#[test]
fn a_bad_extent_does_not_hide_those_behind_it() {
    let device = small_device(1);
    let mut store = open(&device);
    let keys: Vec<_> = (0..5).map(|key| ExtentKey::block(key, 1, 1)).collect();
    for key in &keys {
        append(&mut store, Stream::VodNew, *key).expect("a sound device");
    }
    block_on(store.append(
        Stream::VodNew,
        ExtentKey::block(9, 1, 1),
        &[&[7; 9000]],
        Default::default(),
    ))
    .expect("a sound device");
    append(&mut store, Stream::VodNew, ExtentKey::block(10, 1, 1)).expect("a sound device");
    block_on(store.sync()).expect("a sound device");
    let bad = store.reader().locate(&ExtentKey::block(9, 1, 1)).expect("stored");
    device.poke(bad.offset + 4096, &[0; 512]);
    let (store, report) = block_on(Store::open(device.clone(), small_options())).expect("it opens");
    assert_eq!((report.extents, report.extents_bad, report.segments_resealed), (6, 1, 1));
    assert!(keys.iter().all(|key| read(&store.reader(), &device, key).is_some()));
    assert!(read(&store.reader(), &device, &ExtentKey::block(10, 1, 1)).is_some());
    assert!(!store.reader().contains(&ExtentKey::block(9, 1, 1)));
}

#[test]
fn a_crash_while_the_epoch_is_written_leaves_a_superblock() {
    for seed in 0..300 {
        let device = small_device(seed);
        drop(open(&device));
        // With one copy bad, the other must not be written over before the bad one is mended and flushed.
        device.poke(SUPERBLOCK_OFFSETS[seed as usize % 2] + 100, &[1]);
        device.set_faults(Faults { pending: 1000, ..Faults::default() });
        poll_times(Store::open(device.clone(), small_options()), 1 + (seed / 2 % 12) as u32);
        device.crash();
        device.set_faults(Faults::default());
        open(&device);
    }
}
