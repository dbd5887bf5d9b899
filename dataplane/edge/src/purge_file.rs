//! The file of the purge log, beside the snapshot: read, verified, watched.
//!
//! Must stay true: a file that is refused or gone while the node runs changes nothing; it is told once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tidegate_contract::purge_log::PURGE_LOG_BYTES_MAX;
use tidegate_contract::{AdminKey, PurgeLog};
use tidegate_engine::catch_up::{self, CaughtUp, Found};
use tidegate_engine::stores::Stores;
use tidegate_engine::view::View;

/// Where the log is, and when it was last looked at.
pub struct PurgeFile {
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

impl PurgeFile {
    /// The log that belongs to this snapshot file.
    pub fn beside(snapshot: &Path) -> PurgeFile {
        let mut path = snapshot.as_os_str().to_owned();
        path.push(tidegate_contract::purge_log::FILE_ENDING);
        PurgeFile { path: path.into(), seen: None }
    }

    /// Before the node serves: what it missed is purged.
    pub fn begin(&mut self, stores: &Stores, view: &View) {
        let found = match self.read(view) {
            Ok(Some(log)) => Found::Log(log),
            Ok(None) => Found::Nothing,
            Err(why) => {
                self.tell(view, &why);
                Found::Refused
            }
        };
        match catch_up::begin(stores, view, &found) {
            Some(CaughtUp::Lost(mode)) if matches!(found, Found::Nothing) => {
                let text = "it was there before; all that is stored is asked about again";
                self.tell(view, &format!("{text} ({})\n    mend: publish it again", mode.name()));
            }
            Some(outcome) => self.say(view, outcome),
            None => {}
        }
    }

    /// While it serves: what is new in the file is purged.
    pub fn follow(&mut self, stores: &Stores, view: &View) {
        if self.stamp().is_none_or(|stamp| self.seen == Some(stamp)) {
            return;
        }
        match self.read(view) {
            Ok(Some(log)) => self.say(view, catch_up::follow(stores, view, &log)),
            Ok(None) => {}
            Err(why) => self.tell(view, &why),
        }
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let meta = fs::metadata(&self.path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    /// `None`: there is no log, or nobody who may write one.
    fn read(&mut self, view: &View) -> Result<Option<PurgeLog>, String> {
        self.seen = self.stamp();
        let Some(key) = &view.admin_key else { return Ok(None) };
        match read(&self.path, key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("it cannot be read: {error}\n    mend: see its permissions")),
            Ok(log) => log.map(Some),
        }
    }

    fn say(&self, view: &View, outcome: CaughtUp) {
        match outcome {
            CaughtUp::Purges(0) => {}
            CaughtUp::Purges(count) => {
                self.tell(view, &format!("{count} purge(s) were news to this node, and are done"));
            }
            CaughtUp::Lost(mode) => self.tell(
                view,
                &format!("it does not reach back to what this node knows: all that is stored is purged ({})", mode.name()),
            ),
            CaughtUp::Older => self.tell(
                view,
                "it is older than what this node knows; nothing is done\n    mend: publish the newest one, from the place \
                 where purges are ordered",
            ),
        }
    }

    fn tell(&self, view: &View, what: &str) {
        eprintln!("tidegated {}: purge log {}: {what}", view.me.id, self.path.display());
    }
}

fn read(path: &Path, key: &AdminKey) -> io::Result<Result<PurgeLog, String>> {
    let mut bytes = Vec::new();
    // One byte beyond the limit is enough to be refused as too large.
    File::open(path)?.take(PURGE_LOG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(PurgeLog::read(&bytes, key).map_err(|error| error.to_string()))
}
