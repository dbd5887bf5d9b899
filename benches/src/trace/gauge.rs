//! What a server's processes take from the machine while a trace runs, from /proc.
//!
//! Must stay true: all processes of the server are counted, children of children too; what a process that ended before
//! the end had taken since the start is lost and makes its server look better, never worse.

use crate::cpu;
use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Taken from start to end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_s: f64,
    /// Given to the disk (for buffered and mapped files: made dirty).
    pub written_bytes: u64,
    /// Fetched from the disk.
    pub read_bytes: u64,
    /// Greatest sum of resident memory that is not a file's: seen every 100 ms.
    pub memory_peak_bytes: u64,
    /// Greatest sum of resident pages of mapped files.
    pub mapped_peak_bytes: u64,
}

/// Looks at a server until it is ended.
pub struct Gauge {
    pid: u32,
    cpu_s: f64,
    before: HashMap<u32, Disk>,
    peaks: Arc<Peaks>,
    sampler: JoinHandle<()>,
}

#[derive(Default)]
struct Peaks {
    memory: AtomicU64,
    mapped: AtomicU64,
    ends: AtomicBool,
}

const SAMPLE_EVERY: Duration = Duration::from_millis(100);

impl Usage {
    /// Takes in what was taken in another span of time.
    pub fn add(&mut self, other: &Usage) {
        self.cpu_s += other.cpu_s;
        self.written_bytes += other.written_bytes;
        self.read_bytes += other.read_bytes;
        self.memory_peak_bytes = self.memory_peak_bytes.max(other.memory_peak_bytes);
        self.mapped_peak_bytes = self.mapped_peak_bytes.max(other.mapped_peak_bytes);
    }
}

impl Gauge {
    /// Begins.
    ///
    /// # Errors
    /// The process is gone.
    pub fn start(pid: u32) -> Result<Gauge, String> {
        let peaks = Arc::new(Peaks::default());
        let mine = Arc::clone(&peaks);
        let sampler = std::thread::spawn(move || {
            while !mine.ends.load(Ordering::Relaxed) {
                let (memory, mapped) = resident(pid);
                mine.memory.fetch_max(memory, Ordering::Relaxed);
                mine.mapped.fetch_max(mapped, Ordering::Relaxed);
                std::thread::sleep(SAMPLE_EVERY);
            }
        });
        let before = disk(pid)?;
        Ok(Gauge { pid, cpu_s: cpu::spent(pid)?, before, peaks, sampler })
    }

    /// Ends.
    ///
    /// # Errors
    /// The server has ended by itself, or its counters may not be read.
    pub fn end(self) -> Result<Usage, String> {
        let cpu_s = cpu::spent(self.pid)? - self.cpu_s;
        let (mut written_bytes, mut read_bytes) = (0, 0);
        for (pid, now) in disk(self.pid)? {
            let before = self.before.get(&pid).copied().unwrap_or_default();
            written_bytes += now.written.saturating_sub(before.written);
            read_bytes += now.read.saturating_sub(before.read);
        }
        self.peaks.ends.store(true, Ordering::Relaxed);
        // It only sleeps and reads: it has nothing to fail with.
        let _ended = self.sampler.join();
        Ok(Usage {
            cpu_s,
            written_bytes,
            read_bytes,
            memory_peak_bytes: self.peaks.memory.load(Ordering::Relaxed),
            mapped_peak_bytes: self.peaks.mapped.load(Ordering::Relaxed),
        })
    }
}

/// What one process had of the disk so far.
#[derive(Debug, Clone, Copy, Default)]
struct Disk {
    written: u64,
    read: u64,
}

/// `write_bytes` and `read_bytes` of each process.
fn disk(pid: u32) -> Result<HashMap<u32, Disk>, String> {
    let mut all = HashMap::new();
    for pid in cpu::family(pid)? {
        let path = format!("/proc/{pid}/io");
        let text = fs::read_to_string(&path)
            .map_err(|e| format!("{path}: {e}; run as root, or as the servers' user"))?;
        let value = |name| number(&text, name).ok_or_else(|| format!("{path}: no {name}"));
        all.insert(pid, Disk { written: value("write_bytes:")?, read: value("read_bytes:")? });
    }
    Ok(all)
}

/// Bytes that are no file's, and bytes of mapped files. A segment that processes share is counted once: the greatest.
fn resident(pid: u32) -> (u64, u64) {
    let (mut own, mut shared, mut mapped) = (0, 0, 0);
    for pid in cpu::family(pid).unwrap_or_default() {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = |name| number(&text, name).unwrap_or(0) * 1024;
        own += kib("RssAnon:");
        shared = kib("RssShmem:").max(shared);
        mapped += kib("RssFile:");
    }
    (own + shared, mapped)
}

/// The number behind a name at the start of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let gauge = Gauge::start(std::process::id()).unwrap();
        let usage = gauge.end().unwrap();
        assert!(usage.cpu_s >= 0.0);
        assert!(resident(std::process::id()).0 > 100_000);
        assert!(Gauge::start(u32::MAX).is_err());
    }

    #[test]
    fn numbers_are_found_by_name() {
        assert_eq!(number("a: 1\nwrite_bytes: 4096\n", "write_bytes:"), Some(4096));
        assert_eq!(number("RssAnon:\t  12 kB\n", "RssAnon:"), Some(12));
        assert_eq!(number("x", "RssAnon:"), None);
    }
}
