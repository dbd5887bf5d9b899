//! The node's state folder: which devices have all purges and which are retired (`tidegate_store::Roll`).
//!
//! Must stay true: the file is there whole, or as it was before; one process at a time uses it. A process that is replaced lends
//! it to its successor, lock and all, and does not touch it meanwhile.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tidegate_engine::stores::{Clerk, Written};
use tidegate_store::Roll;

/// A process that was killed may take a moment to let go.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The roll's file, held by this process.
pub struct RollFile {
    path: PathBuf,
    lock: File,
    is_lent: AtomicBool,
}

/// The roll of `node` in the folder `dir`, and its lock.
fn paths(dir: &Path, node: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{node}.roll")), dir.join(format!("{node}.lock")))
}

impl RollFile {
    /// Opens the roll of `node` in the folder `dir`, and reads it. `None`: there is none, or it is damaged.
    ///
    /// # Errors
    /// The folder cannot be used, or another process uses the file.
    pub fn open(dir: &Path, node: &str) -> Result<(RollFile, Option<Roll>), String> {
        let at = |error: io::Error| {
            format!(
                "state_dir {}: {error}\n    mend: give server {node} a state_dir that this user may write to",
                dir.display()
            )
        };
        fs::create_dir_all(dir).map_err(at)?;
        let (path, lock) = paths(dir, node);
        let file =
            File::options().create(true).truncate(false).write(true).open(lock).map_err(at)?;
        let mut tries = 0;
        while let Err(error) = file.try_lock() {
            tries += 1;
            match error {
                TryLockError::Error(error) => return Err(at(error)),
                TryLockError::WouldBlock if tries < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
                TryLockError::WouldBlock => {
                    return Err(format!(
                        "{}: another process uses it\n    mend: stop the other tidegated of server {node}, or wait for \
                         `tidegate store rejoin` to end",
                        path.display()
                    ));
                }
            }
        }
        RollFile::read(path, file, node).map_err(at)
    }

    /// The same with the lock of the process that this one replaces, when that does not write to it any more.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn inherit(dir: &Path, node: &str, lock: File) -> Result<(RollFile, Option<Roll>), String> {
        RollFile::read(paths(dir, node).0, lock, node)
            .map_err(|error| format!("state_dir {}: {error}", dir.display()))
    }

    fn read(path: PathBuf, lock: File, node: &str) -> io::Result<(RollFile, Option<Roll>)> {
        let roll = match fs::read_to_string(&path) {
            Ok(text) => {
                let roll = Roll::decode(&text);
                if roll.is_none() {
                    eprintln!(
                        "tidegated {node}: {}: it is damaged; all that is stored is asked about again, and no device counts as \
                         retired",
                        path.display()
                    );
                }
                roll
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok((RollFile { path, lock, is_lent: AtomicBool::new(false) }, roll))
    }

    /// What keeps others out.
    pub fn lock(&self) -> &File {
        &self.lock
    }

    /// Whether another process writes to it from now on.
    pub fn lend(&self, is_lent: bool) {
        self.is_lent.store(is_lent, Ordering::SeqCst);
    }

    /// Replaces the roll; it is on disk when this returns.
    ///
    /// # Errors
    /// The old one is there still.
    pub fn write(&self, roll: &str) -> Result<(), String> {
        if self.is_lent.load(Ordering::SeqCst) {
            return Err(format!("{}: this process is being replaced", self.path.display()));
        }
        let write = || -> io::Result<()> {
            let fresh = self.path.with_extension("roll.new");
            let mut file = File::create(&fresh)?;
            file.write_all(roll.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// A thread that writes it from now on.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn clerk(self: std::sync::Arc<Self>) -> io::Result<impl Clerk> {
        let (give, take) = channel::<(String, Written)>();
        std::thread::Builder::new().name("roll".to_owned()).spawn(move || {
            for (roll, done) in take {
                let outcome = self.write(&roll);
                if let Err(why) = &outcome {
                    eprintln!("tidegated: the roll of devices cannot be written: {why}");
                }
                done(outcome);
            }
        })?;
        Ok(Desk(Mutex::new(give)))
    }
}

struct Desk(Mutex<Sender<(String, Written)>>);

impl Clerk for Desk {
    fn write(&self, roll: String, done: Written) {
        let give = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(refused) = give.send((roll, done)) {
            let (_, done) = refused.0;
            done(Err("the thread that writes the roll of devices has ended".to_owned()));
        }
    }
}
