//! `tidegate store`: what lies on a store's file or device, without changing it; and how a device that was retired comes
//! back.
//!
//! Must stay true: nothing is written to a device; looking may be done beside the node that uses it (what that writes
//! meanwhile may then look unfinished). The bytes are judged by the code that the node itself runs. The roll is changed by
//! the node that uses it, or while none does.

use crate::admin_port::{self, Asked, Identity, plain};
use crate::failure::Failure;
use crate::source_dir;
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::json;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tidegate_store::{
    CopyState, Device, DeviceError, DeviceOperation, Inspection, OpenOptions, Roll, RollEntry,
    SegmentState, Standing, Store, Stream, inspect, verify,
};

#[derive(Subcommand)]
pub enum StoreVerb {
    /// Say what is where: superblocks, store segments by stream and state, purge journal.
    Inspect(Look),
    /// Read every extent and check it; ends with status 1 when one is bad.
    Verify(Look),
    /// Let a device that failed and was retired be used again; it begins empty.
    Rejoin(Rejoin),
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("where").required(true).multiple(false))]
pub struct Rejoin {
    /// The device: its path as the roll has it, or its uuid.
    device: String,
    /// The roll of a node that is not running: `<server>.roll` in its state_dir.
    #[arg(long, group = "where")]
    roll: Option<PathBuf>,
    /// The node, which is running.
    #[arg(long, group = "where", requires = "snapshot", requires = "trust")]
    node: Option<String>,
    /// The snapshot file; it holds the node's address and the admin key.
    #[arg(long)]
    snapshot: Option<PathBuf>,
    /// The trust file.
    #[arg(long)]
    trust: Option<PathBuf>,
    #[command(flatten)]
    identity: Identity,
}

#[derive(Args)]
pub struct Look {
    /// The store's file or block device.
    path: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show every store segment.
    #[arg(long)]
    segments: bool,
    /// The node's roll (`<server>.roll` in its state_dir): says how the device stands with the node.
    #[arg(long)]
    roll: Option<PathBuf>,
}

impl StoreVerb {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            StoreVerb::Inspect(look) => look.inspect(),
            StoreVerb::Verify(look) => look.verify(),
            StoreVerb::Rejoin(rejoin) => rejoin.run(),
        }
    }
}

impl Rejoin {
    fn run(self) -> Result<(), Failure> {
        match (&self.roll, &self.node, &self.snapshot, &self.trust) {
            (Some(path), ..) => self.on_roll(path),
            (None, Some(node), Some(snapshot), Some(trust)) => self.on_node(node, snapshot, trust),
            _ => Err(Failure::Input("give --roll, or --node, --snapshot and --trust".to_owned())),
        }
    }

    fn on_node(&self, node: &str, snapshot: &Path, trust: &Path) -> Result<(), Failure> {
        let snapshot = source_dir::trusted(snapshot, trust)?;
        let key = admin_port::key_of(&snapshot)?;
        let server = snapshot.servers.iter().find(|server| server.id == node).ok_or_else(|| {
            let node = node.escape_debug();
            Failure::Input(format!("--node {node}: the snapshot has no server of this id"))
        })?;
        let body = json!({ "device": self.device }).to_string();
        let (identity, zone) = (&self.identity, &snapshot.zone);
        let asked = Asked { identity, zone, target: "/rejoin", body: &body, span: NODE_SPAN };
        let said = admin_port::order(server, &key, admin_port::random()?, asked)
            .map_err(|missing| Failure::Input(missing.why().to_owned()))?;
        let since = if said["at_once"] == true { "now" } else { "the node's next start" };
        let (uuid, path) = (plain(&said["uuid"]), plain(&said["path"]));
        println!("{uuid} {path}: used again from {since} on; it begins empty");
        Ok(())
    }

    fn on_roll(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::file(path, &error);
        let mut roll = read_roll(path)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.with_extension("lock"))
            .map_err(failed)?;
        if lock.try_lock().is_err() {
            return Err(Failure::Host(format!(
                "{}: a node uses it; ask that with --node, or stop it first and start it again afterwards",
                path.display()
            )));
        }
        let entry = roll
            .rejoin(&self.device)
            .map_err(|why| Failure::Input(format!("{}: {why}", path.display())))?;
        let fresh = path.with_extension("roll.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(roll.encode().as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, path)
        };
        write().map_err(failed)?;
        let RollEntry { uuid, path, .. } = entry;
        println!("{uuid:032x} {path}: used again from the node's next start on; it begins empty");
        Ok(())
    }
}

/// How long a node is waited for.
const NODE_SPAN: Duration = Duration::from_secs(10);

fn read_roll(path: &Path) -> Result<Roll, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    Roll::decode(&text).ok_or_else(|| {
        Failure::content(
            path,
            "it is no roll of devices, or damaged: the node then takes all it finds for stale",
        )
    })
}

impl Look {
    /// How the device stands with the node.
    fn standing(&self, uuid: u128) -> Result<Option<&'static str>, Failure> {
        let Some(path) = &self.roll else { return Ok(None) };
        Ok(Some(match read_roll(path)?.get(uuid) {
            Some(Standing::Member) => "member: it has every purge",
            Some(Standing::Retired) => "retired: it is not used until `tidegate store rejoin`",
            None => "not on the roll: it would begin empty",
        }))
    }

    fn inspect(self) -> Result<(), Failure> {
        let device = ReadOnly::open(&self.path)?;
        let report = now(inspect(&device)).map_err(|error| Failure::content(&self.path, error))?;
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let journal = match now(Store::open(&device, options)) {
            Ok((store, opened)) => Ok((store.journal_records().count(), opened)),
            Err(error) => Err(error.to_string()),
        };
        let segment_bytes = u64::from(report.superblock.geometry.segment_bytes);
        let standing = self.standing(report.superblock.uuid)?;
        if self.json {
            let segments: Vec<_> = report
                .segments
                .iter()
                .map(|segment| {
                    json!({
                        "segment": segment.segment,
                        "state": state_name(segment.state),
                        "stream": segment.stream.map(Stream::name),
                        "sequence": segment.sequence,
                        "extents": segment.extents,
                        "payload_bytes": segment.payload_bytes,
                    })
                })
                .collect();
            println!(
                "{:#}",
                json!({
                    "uuid": format!("{:032x}", report.superblock.uuid),
                    "epoch": report.superblock.epoch,
                    "superblock_copies": report.copies.iter().map(copy_name).collect::<Vec<_>>(),
                    "standing": standing,
                    "written_bytes": report.superblock.written_bytes,
                    "segment_bytes": segment_bytes,
                    "segment_count": report.superblock.geometry.segment_count,
                    "journal_records": journal.as_ref().ok().map(|(records, _)| records),
                    "journal_pages_lost": journal.as_ref().ok().map(|(_, opened)| opened.journal.pairs_lost),
                    "extents": journal.as_ref().ok().map(|(_, opened)| opened.extents),
                    "segments": segments,
                })
            );
            return Ok(());
        }
        println!("store         {}", self.path.display());
        println!(
            "uuid          {:032x}, opened {} times",
            report.superblock.uuid, report.superblock.epoch
        );
        if let Some(standing) = standing {
            println!("standing      {standing}");
        }
        println!("written       {} MiB in its life", report.superblock.written_bytes >> 20);
        let copies: Vec<String> = report.copies.iter().map(copy_name).collect();
        println!("superblocks   {}", copies.join("; "));
        println!(
            "segments      {} of {} MiB",
            report.superblock.geometry.segment_count,
            segment_bytes >> 20
        );
        print_streams(&report);
        match journal {
            Ok((records, opened)) => {
                println!("extents       {} that a start would find", opened.extents);
                println!(
                    "journal       {records} purges; {} damaged pages, {} bad slots with a good twin",
                    opened.journal.pairs_lost, opened.journal.slots_bad
                );
            }
            Err(error) => println!("a start would be refused: {error}"),
        }
        if self.segments {
            for segment in &report.segments {
                println!(
                    "  {:>6}  {:<10} {:<9} {:>7} extents {:>11} payload bytes  sequence {}",
                    segment.segment,
                    state_name(segment.state),
                    segment.stream.map_or("-", Stream::name),
                    segment.extents,
                    segment.payload_bytes,
                    segment.sequence
                );
            }
        }
        Ok(())
    }

    fn verify(self) -> Result<(), Failure> {
        let device = ReadOnly::open(&self.path)?;
        let report = now(verify(&device)).map_err(|error| Failure::content(&self.path, error))?;
        if self.json {
            println!(
                "{:#}",
                json!({
                    "segments": report.segments,
                    "extents_good": report.extents_good,
                    "extents_bad": report.extents_bad,
                    "payload_bytes": report.payload_bytes,
                    "read_errors": report.read_errors,
                })
            );
        } else {
            println!(
                "{}: {} extents in {} store segments are good ({} payload bytes), {} are bad, {} reads failed",
                self.path.display(),
                report.extents_good,
                report.segments,
                report.payload_bytes,
                report.extents_bad,
                report.read_errors
            );
        }
        if report.extents_bad == 0 && report.read_errors == 0 {
            return Ok(());
        }
        Err(Failure::Input(format!(
            "{}: bad extents are never served, each becomes a fill; replace the device when there are more each time",
            self.path.display()
        )))
    }
}

fn print_streams(report: &Inspection) {
    for stream in Stream::ALL {
        let of = |wanted: fn(SegmentState) -> bool| {
            report.segments.iter().filter(move |s| s.stream == Some(stream) && wanted(s.state))
        };
        let sealed = of(|state| state == SegmentState::Sealed).count();
        let open = of(|state| state == SegmentState::Open).count();
        let extents: u64 = of(|_| true).map(|segment| segment.extents).sum();
        let bytes: u64 = of(|_| true).map(|segment| segment.payload_bytes).sum();
        println!(
            "  {:<11} {sealed:>5} sealed {open:>3} open {extents:>9} extents {:>8} MiB",
            stream.name(),
            bytes >> 20
        );
    }
    let count = |wanted: fn(&SegmentState) -> bool| {
        report.segments.iter().filter(|segment| wanted(&segment.state)).count()
    };
    println!("  {:<11} {:>5}", "free", count(|state| *state == SegmentState::Free));
    let bad = count(|state| matches!(state, SegmentState::Bad(_) | SegmentState::Unreadable));
    if bad > 0 {
        println!("  {:<11} {bad:>5}  (--segments shows which)", "bad");
    }
}

fn state_name(state: SegmentState) -> String {
    match state {
        SegmentState::Bad(why) => format!("bad: {why}"),
        SegmentState::Free => "free".to_owned(),
        SegmentState::Open => "open".to_owned(),
        SegmentState::Sealed => "sealed".to_owned(),
        SegmentState::Unreadable => "unreadable".to_owned(),
    }
}

fn copy_name(copy: &CopyState) -> String {
    match copy {
        CopyState::Good(superblock) => format!("good (epoch {})", superblock.epoch),
        CopyState::Bad(why) => format!("bad: {why}"),
        CopyState::Unreadable(error) => format!("unreadable: {error}"),
    }
}

/// A file or block device that is only read.
struct ReadOnly {
    file: File,
    size: u64,
}

impl ReadOnly {
    fn open(path: &Path) -> Result<ReadOnly, Failure> {
        let failed = |error: io::Error| Failure::file(path, &error);
        let mut file = File::open(path).map_err(failed)?;
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?; // a block device has no length in its metadata
        Ok(ReadOnly { file, size })
    }
}

impl Device for ReadOnly {
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

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, DeviceError> {
        let mut bytes = vec![0; len];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes.into()),
            Err(error) => Err(match error.raw_os_error() {
                Some(errno) => DeviceError::from_errno(DeviceOperation::Read, offset, errno),
                None => DeviceError::from_kind(DeviceOperation::Read, offset, error.kind()),
            }),
        }
    }

    async fn write(&self, offset: u64, data: Vec<u8>) -> (Result<(), DeviceError>, Vec<u8>) {
        let kind = io::ErrorKind::PermissionDenied;
        (Err(DeviceError::from_kind(DeviceOperation::Write, offset, kind)), data)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Runs a future whose device is never pending.
fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
