//! The snapshot file: read, verified, watched.
//!
//! Must stay true: what is refused changes nothing; the running snapshot stays, and the refusal names its reason.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;
use tidegate_contract::{PublicKey, Snapshot, verify};

/// Where the snapshot comes from.
pub struct Source {
    pub file: PathBuf,
    pub trust: PathBuf,
    seen: Option<Stamp>,
}

type Stamp = (SystemTime, u64);

/// A snapshot that was not taken.
#[derive(Debug)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Source {
    pub fn new(file: PathBuf, trust: PathBuf) -> Source {
        Source { file, trust, seen: None }
    }

    fn stamp(&self) -> Option<Stamp> {
        let meta = fs::metadata(&self.file).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    /// Whether the file is another one than when it was last read.
    pub fn changed(&self) -> bool {
        let stamp = self.stamp();
        stamp.is_some() && stamp != self.seen
    }

    /// Reads and verifies the file.
    pub fn read(&mut self) -> Result<Snapshot, Refused> {
        self.seen = self.stamp();
        let trust = fs::read_to_string(&self.trust).map_err(|e| {
            let path = self.trust.display();
            Refused(format!("cannot read the public keys in {path}: {e}\n    mend: give --trust the .pub file of `tidegate snapshot keygen`"))
        })?;
        let keys = PublicKey::list_from_text(&trust)
            .map_err(|e| Refused(format!("{}: {e}", self.trust.display())))?;
        let bytes = fs::read(&self.file).map_err(|e| {
            let path = self.file.display();
            Refused(format!("cannot read the snapshot {path}: {e}\n    mend: make one by `tidegate snapshot build`"))
        })?;
        verify(&bytes, &keys).map_err(|e| Refused(format!("snapshot {}: {e}", self.file.display())))
    }
}
