//! The access log's writer: one thread that takes whole batches of lines from the cores.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tidegate_engine::node::LogPipe;
use tidegate_telemetry::Counters;

/// Batches that may wait for the writer; each is at most about 100 KiB.
const BATCHES_MAX: usize = 256;

/// The writer's thread and what it listens to.
pub struct LogWriter {
    pub lines: LogPipe,
    /// Set to have the file opened anew before the next batch.
    pub reopen: Arc<AtomicBool>,
    pub thread: JoinHandle<()>,
}

/// Starts the writer.
///
/// # Errors
/// The file cannot be opened for appending.
pub fn start(path: Option<PathBuf>, counters: Arc<Counters>) -> io::Result<LogWriter> {
    let file = path.as_deref().map(open).transpose()?;
    let (lines, batches) = sync_channel(BATCHES_MAX);
    let lines = LogPipe::new(lines);
    let written = lines.written();
    let reopen = Arc::new(AtomicBool::new(false));
    let their_reopen = reopen.clone();
    let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
        write(&batches, &written, path.as_deref(), file, &their_reopen, &counters)
    })?;
    Ok(LogWriter { lines, reopen, thread })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write(
    batches: &Receiver<Vec<u8>>,
    written: &Mutex<Vec<Vec<u8>>>,
    path: Option<&Path>,
    mut file: Option<File>,
    reopen: &AtomicBool,
    counters: &Counters,
) {
    let mut failing = false;
    // Ends when the last core has let go of its sender.
    for batch in batches {
        if reopen.swap(false, Ordering::Relaxed)
            && let Some(fresh) = path.and_then(|path| open(path).ok())
        {
            file = Some(fresh); // else the old file goes on: a lost log is worse than a misplaced one
        }
        let outcome = match &mut file {
            Some(file) => file.write_all(&batch),
            None => io::stdout().write_all(&batch),
        };
        // A full disk must not stop viewers: the lines are lost and counted, the service goes on.
        if let Err(error) = &outcome {
            let lines = batch.iter().filter(|byte| **byte == b'\n').count();
            counters.log_lines_dropped_total.add(lines as u64);
            if !failing {
                let place = path.unwrap_or("-".as_ref()).display();
                eprintln!(
                    "tidegated: access log {place} cannot be written: {error}; lines are dropped and counted\n    \
                     mend: make room, or move the log and send SIGHUP"
                );
            }
        }
        failing = outcome.is_err();
        LogPipe::give_back(written, batch);
    }
}
