//! How an edge comes back that has a full store: after kill -9, until it serves, and until it is warm.
//!
//! The store is made by hand, for terabytes cannot be written here: a sparse file that holds what a recovery reads
//! (superblocks, a header and a summary for each store segment, in the order in which a writer would have made them),
//! and no bodies. Then the node fills some objects of its own and is killed. Measured: CPU time and wall time from
//! the new process to the first answer, and whether its own objects are hits.
//!
//! Must stay true: the file has the rows that a store of that size has; nothing tells the node that it is not real.

use clap::Args;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions, content};
use tidegate_store::{
    Device, DeviceError, DeviceOperation, ExpiryClass, ExtentKey, FormatOptions, Geometry,
    SLOT_BYTES, SegmentHeader, Stream, Summary, SummaryRow, device_seed, format, summary_slots,
};

/// Measures how an edge with a full store comes back after kill -9.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// Size of the store, in GiB; what it takes on the disk is some 130 MiB for each TiB.
    #[arg(long, default_value_t = 3072, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    store_gib: u64,
    /// Times that it is killed and started.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/start.json")]
    out: PathBuf,
}

const UUID: u128 = 0x5449_4445_4741_5445_2d73_7461_7274_2d31;
const SEGMENT_BYTES: u32 = 128 << 20;
/// Free at the end, for what the node fills itself.
const SEGMENTS_FREE: u32 = 16;
/// A media segment of 6 s and 5 Mb/s: blocks of 512 KiB, and its head.
const BLOCKS: u32 = 8;
const BLOCK_BYTES: u32 = 512 << 10;
const HEAD_BYTES: u32 = 900;
/// Objects of the node's own.
const OWN: usize = 50;
const OWN_BYTES: usize = 700_000;

static STORE_BYTES: OnceLock<u64> = OnceLock::new();

/// Runs all of it.
///
/// # Errors
/// The store cannot be made, or an object of the node's own is not found again.
pub fn run(args: &StartArgs) -> Result<(), String> {
    let bytes = *STORE_BYTES.get_or_init(|| args.store_gib << 30);
    println!("Making a full store of {} GiB (a sparse file)", args.store_gib);
    let options = FleetOptions {
        parents: 1,
        edges: 1,
        store_bytes: Some(bytes),
        prepare: |dir| make(dir).expect("the temporary folder holds sparse files"),
        adjust: |snapshot| {
            for server in &mut snapshot.servers {
                server.machine.store_extent_bytes = 384 << 10;
                if server.id != "edge-1" {
                    server.machine.stores.clear();
                }
            }
        },
        store_wait_seconds: 1,
        ..FleetOptions::default()
    };
    let mut fleet = Fleet::start("bench-start", &options);
    let name = |n: usize| format!("own-{n}.m4s");
    for n in 0..OWN {
        fleet.put(&name(n), OWN_BYTES);
        fleet.get("edge-1", &format!("/{}", name(n)), "").map_err(|e| e.to_string())?;
    }
    fleet.settle("edge-1");
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let asked = fleet.counter("parent-1", "requests_total");
        fleet.kill("edge-1");
        let begun = Instant::now();
        fleet.kill_and_launch("edge-1");
        while !fleet.get("edge-1", &format!("/{}", name(0)), "").is_ok_and(|r| r.status == 200) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let served = begun.elapsed().as_secs_f64();
        // By what it says, for questions would cost it CPU time.
        while opened(&fleet) < round + 2 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let wall = begun.elapsed().as_secs_f64();
        let cpu = fleet.cpu_time("edge-1").as_secs_f64();
        for n in 1..OWN {
            let answer = fleet.get("edge-1", &format!("/{}", name(n)), "");
            if answer.map_err(|e| e.to_string())?.body != content(&name(n), OWN_BYTES) {
                return Err(format!("round {round}: {} has other bytes", name(n)));
            }
        }
        let filled = fleet.counter("parent-1", "requests_total") - asked;
        println!(
            "  serves after {served:.2} s, warm after {wall:.2} s and {cpu:.2} s of CPU time; {filled} fill(s)"
        );
        // The one that was asked for before the store was read may have come from the parent.
        if filled > 1 {
            return Err(format!("round {round}: {filled} objects were lost"));
        }
        rounds.push(serde_json::json!({ "serves_s": served, "warm_s": wall, "cpu_s": cpu }));
    }
    let said = fs::read_to_string(fleet.dir.join("edge-1.err")).unwrap_or_default();
    let store = said.lines().rev().find(|line| line.contains("extents in")).unwrap_or_default();
    println!("  {store}");
    let report = serde_json::json!({
        "machine": crate::cpu::machine(), "source": crate::report::source(),
        "store_gib": args.store_gib, "host": HOST, "said": store, "rounds": rounds,
    });
    if let Some(dir) = args.out.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::write(&args.out, format!("{report:#}"))
        .map_err(|e| format!("{}: {e}", args.out.display()))?;
    println!("\nReport: {}", args.out.display());
    Ok(())
}

/// How often the edge has said that its store was read.
fn opened(fleet: &Fleet) -> u32 {
    let said = fs::read_to_string(fleet.dir.join("edge-1.err")).unwrap_or_default();
    said.lines().filter(|line| line.contains(" extents in ")).count() as u32
}

/// One stream's open segment.
#[derive(Default)]
struct Open {
    segment: u32,
    sequence: u64,
    slot: u32,
    rows: Vec<SummaryRow>,
}

/// Makes the store of the edge in the fleet's folder.
fn make(dir: &Path) -> std::io::Result<()> {
    let bytes = STORE_BYTES.get().copied().unwrap_or(1 << 34);
    let file = File::create_new(dir.join("edge-1.store"))?;
    file.set_len(bytes)?;
    let device = Sparse { file, size: bytes };
    let mut options = FormatOptions::new(UUID);
    options.segment_bytes = SEGMENT_BYTES;
    let made = now(format(&device, options)).map_err(|e| std::io::Error::other(e.to_string()))?;
    let geometry = made.geometry;
    let mut sequence = 1u64 << 20;
    let mut free = 0..geometry.segment_count - SEGMENTS_FREE;
    let mut streams: [(Stream, Option<Open>); 2] = [(Stream::VodNew, None), (Stream::Small, None)];
    'all: for object in 0u64.. {
        let key =
            (u128::from(object.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64) | u128::from(object);
        for part in 0..=BLOCKS {
            let is_head = part == BLOCKS;
            let (stream, open) = &mut streams[usize::from(is_head)];
            let payload_bytes = if is_head { HEAD_BYTES } else { BLOCK_BYTES };
            let key = match is_head {
                true => ExtentKey::head_of(key, object + 1),
                false => ExtentKey::block(key, object + 1, part),
            };
            let row =
                SummaryRow { key, sequence: 0, payload_bytes, slot: 0, class: ExpiryClass(0) };
            let fits = open.as_ref().is_some_and(|open| {
                open.slot + row.slots() + summary_slots(open.rows.len() + 1)
                    <= geometry.segment_slots()
            });
            if !fits {
                if let Some(full) = open.take() {
                    seal(&device, &geometry, *stream, full)?;
                }
                let Some(segment) = free.next() else { break 'all };
                *open = Some(Open { segment, sequence, slot: 1, rows: Vec::new() });
                sequence += 1;
            }
            if let Some(open) = open {
                open.rows.push(SummaryRow { sequence, slot: open.slot as u16, ..row });
                open.slot += row.slots();
                sequence += 1;
            }
        }
    }
    for (stream, open) in streams {
        if let Some(open) = open {
            seal(&device, &geometry, stream, open)?;
        }
    }
    Ok(())
}

fn seal(device: &Sparse, geometry: &Geometry, stream: Stream, open: Open) -> std::io::Result<()> {
    let Open { segment, sequence, rows, .. } = open;
    let header = SegmentHeader { uuid: UUID, segment, sequence, stream };
    device.file.write_all_at(&header.encode(), geometry.segment_offset(segment))?;
    let slots = summary_slots(rows.len());
    let mut bytes = vec![0; (slots * SLOT_BYTES) as usize];
    Summary { segment, sequence, rows }.encode_into(&mut bytes, device_seed(UUID));
    let at = geometry.slot_offset(segment, geometry.segment_slots() - slots);
    device.file.write_all_at(&bytes, at)
}

/// A file as a device, without a ring.
struct Sparse {
    file: File,
    size: u64,
}

impl Device for Sparse {
    type WriteBuffer = Vec<u8>;

    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        4096
    }

    fn buffer(&self, len: usize) -> Vec<u8> {
        vec![0; len]
    }

    async fn read(&self, offset: u64, len: usize) -> Result<bytes::Bytes, DeviceError> {
        let mut bytes = vec![0; len];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|e| DeviceError::from_kind(DeviceOperation::Read, offset, e.kind()))?;
        Ok(bytes.into())
    }

    async fn write(&self, offset: u64, data: Vec<u8>) -> (Result<(), DeviceError>, Vec<u8>) {
        let written = self.file.write_all_at(&data, offset);
        let failed =
            |e: std::io::Error| DeviceError::from_kind(DeviceOperation::Write, offset, e.kind());
        (written.map_err(failed), data)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Runs a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a device without a ring never waits"),
    }
}
