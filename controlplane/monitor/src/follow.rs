//! Following a snapshot file: a daemon runs on the last good version of it.
//!
//! Must stay true: a file that is refused (cut, altered, unknown key, lower generation, the running one with something else in it,
//! unreadable) changes nothing but is told once; a file is looked at again only when it changed.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tidegate_contract::envelope::SNAPSHOT_BYTES_MAX;
use tidegate_contract::{EnvelopeError, PublicKey, Snapshot, verify};

/// A snapshot file and the version of it that is running.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    trusted: Vec<PublicKey>,
    seen: Option<(SystemTime, u64)>,
    running: Arc<Snapshot>,
}

/// Why a snapshot file was not taken.
#[derive(Debug)]
pub enum FollowError {
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    Refused {
        path: PathBuf,
        error: EnvelopeError,
    },
    Older {
        path: PathBuf,
        found: u64,
        running: u64,
    },
    /// Of the running generation, with something else in it.
    Another {
        path: PathBuf,
        running: u64,
    },
}

impl fmt::Display for FollowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FollowError::Read { path, error } => {
                write!(
                    f,
                    "{}: cannot be read: {error}; check that it exists and its permissions",
                    path.display()
                )
            }
            FollowError::Refused { path, error } => write!(f, "{}: {error}", path.display()),
            FollowError::Older { path, found, running } => write!(
                f,
                "{}: generation {found} is lower than the running {running}; \
                 build it again with --generation {}",
                path.display(),
                running.saturating_add(1)
            ),
            FollowError::Another { path, running } => write!(
                f,
                "{}: generation {running} runs already, with something else in it; \
                 build it again with --generation {}",
                path.display(),
                running.saturating_add(1)
            ),
        }
    }
}

impl std::error::Error for FollowError {}

impl SnapshotFile {
    /// Opens the file for the first time.
    pub fn open(
        path: &Path,
        trusted: Vec<PublicKey>,
    ) -> Result<(SnapshotFile, Arc<Snapshot>), FollowError> {
        let seen = stamp(path);
        let running = Arc::new(read(path, &trusted)?);
        let file = SnapshotFile { path: path.to_owned(), trusted, seen, running: running.clone() };
        Ok((file, running))
    }

    /// Looks whether the file changed (`force`: takes it as changed); gives out a newer snapshot.
    ///
    /// # Errors
    /// The file changed and was refused. It is not told again until the file changes again.
    pub fn poll(&mut self, force: bool) -> Result<Option<Arc<Snapshot>>, FollowError> {
        let stamp = stamp(&self.path);
        // A file that is gone for a moment is being replaced; the running snapshot needs no file.
        if stamp.is_none() || (stamp == self.seen && !force) {
            return Ok(None);
        }
        self.seen = stamp;
        let snapshot = read(&self.path, &self.trusted)?;
        let (path, running) = (&self.path, self.running.generation);
        if snapshot.generation < running {
            let (path, found) = (path.clone(), snapshot.generation);
            return Err(FollowError::Older { path, found, running });
        }
        if snapshot.generation == running {
            return match snapshot == *self.running {
                true => Ok(None),
                false => Err(FollowError::Another { path: path.clone(), running }),
            };
        }
        self.running = Arc::new(snapshot);
        Ok(Some(self.running.clone()))
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path, trusted: &[PublicKey]) -> Result<Snapshot, FollowError> {
    let failed = |error| FollowError::Read { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte beyond the limit is enough to be refused as too large.
    file.take(SNAPSHOT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    verify(&bytes, trusted).map_err(|error| FollowError::Refused { path: path.to_owned(), error })
}

/// Follows the file for ever: polls every [`POLL_INTERVAL`], and at once on SIGHUP; hands each newer snapshot
/// to `take`.
pub async fn follow(mut file: SnapshotFile, take: impl Fn(Arc<Snapshot>)) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut timer = tokio::time::interval(POLL_INTERVAL);
    loop {
        let asked = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let force = tokio::select! {
            _ = timer.tick() => false,
            _ = asked => true,
        };
        // Reading and verifying a large file takes long enough to be kept off the event loop.
        let polled = tokio::task::spawn_blocking(move || {
            let outcome = file.poll(force);
            (file, outcome)
        });
        let Ok((back, outcome)) = polled.await else { return };
        file = back;
        match outcome {
            Ok(Some(snapshot)) => {
                let generation = snapshot.generation;
                take(snapshot);
                eprintln!("snapshot: running generation {generation}");
            }
            Ok(None) => {}
            Err(error) => eprintln!("snapshot: refused, the old one keeps running: {error}"),
        }
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(500);
