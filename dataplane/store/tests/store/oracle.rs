//! What every stored byte must be, and the small device most tests use.

use tidegate_store::{
    AppendError, Appended, Device, ExpiryClass, Extent, ExtentKey, FormatOptions, OpenOptions,
    Reader, Store, Stream, format,
};

use crate::device::{MemoryDevice, Random, block_on};

pub const UUID: u128 = 0x7469_6465_6761_7465_0000_0000_0000_0001;
pub const SEGMENT_BYTES: u32 = 64 << 10;
pub const SEGMENTS: u64 = 16;
/// Superblocks and journal of the small device take 128 KiB.
pub const SMALL_DEVICE: u64 = (128 << 10) + SEGMENTS * SEGMENT_BYTES as u64;

/// The payload of an extent: length and bytes follow from its identity.
pub fn payload(key: &ExtentKey) -> Vec<u8> {
    let mut random =
        Random(key.key as u64 ^ key.version.rotate_left(24) ^ u64::from(key.block).rotate_left(48));
    let len = match random.below(4) {
        0 => random.below(64),
        1 => random.below(4096 - 64),
        2 => 4096 - 64 + random.below(3),
        _ => random.below(12 << 10),
    } as usize;
    bytes_of(&mut random, len)
}

pub fn bytes_of(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Whether an extent that was served answers what was asked, with the bytes stored under its header's key.
pub fn judge(asked: &ExtentKey, extent: &Extent) -> Result<(), &'static str> {
    let found = extent.header.key;
    if (asked.key, asked.block) != (found.key, found.block) {
        return Err("an extent of another key was served");
    }
    if !asked.is_head() && asked.version != found.version {
        return Err("another version was served");
    }
    if extent.payload != payload(&found) {
        return Err("wrong bytes were served");
    }
    Ok(())
}

pub fn check(asked: &ExtentKey, extent: &Extent) {
    if let Err(wrong) = judge(asked, extent) {
        panic!("{wrong}: asked for {asked:?}, got {:?}", extent.header);
    }
}

pub fn small_format(uuid: u128) -> FormatOptions {
    FormatOptions {
        segment_bytes: SEGMENT_BYTES,
        journal_bytes: 32 << 10,
        ..FormatOptions::new(uuid)
    }
}

pub fn small_options() -> OpenOptions {
    OpenOptions {
        extent_mean_bytes: 4096,
        write_unit_bytes: 8192,
        reads_in_flight: 4,
        ..OpenOptions::default()
    }
}

pub fn small_device(seed: u64) -> MemoryDevice {
    let device = MemoryDevice::new(SMALL_DEVICE, seed);
    block_on(format(&device, small_format(UUID))).expect("a blank device can be formatted");
    device
}

pub fn open(device: &MemoryDevice) -> Store<MemoryDevice> {
    block_on(Store::open(device.clone(), small_options())).expect("the device opens").0
}

/// Appends what the oracle says, in two pieces.
pub fn append<D: Device>(
    store: &mut Store<D>,
    stream: Stream,
    key: ExtentKey,
) -> Result<Appended, AppendError> {
    let bytes = payload(&key);
    let (first, second) = bytes.split_at(bytes.len() / 3);
    block_on(store.append(stream, key, &[first, second], ExpiryClass(3)))
}

/// Reads and judges. A failed read is a miss here.
pub fn read(reader: &Reader, device: &MemoryDevice, key: &ExtentKey) -> Option<Extent> {
    let extent = block_on(tidegate_store::read(reader, device, key)).ok().flatten()?;
    check(key, &extent);
    Some(extent)
}
