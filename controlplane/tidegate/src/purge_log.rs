//! The file of the purge log (`tidegate_contract::purge_log`): one more order, on disk before anybody is asked.
//!
//! Must stay true: the file is there whole, or as it was before; commands that run at the same time take turns.

use crate::failure::Failure;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tidegate_contract::{AdminKey, PurgeLog, purge_log::FILE_ENDING};

/// Adds `order` to the log beside `snapshot`; when there is none, one is begun by the name `fresh`.
pub fn add(snapshot: &Path, order: &str, key: &AdminKey, fresh: u64) -> Result<(), Failure> {
    let file = beside(snapshot, FILE_ENDING);
    let failed = |error: io::Error| {
        Failure::Input(format!(
            "{}: the purge log cannot be written: {error}\n    mend: order purges where the snapshot is published from; or \
             give --unlogged: nodes that are away do not learn of it then",
            file.display()
        ))
    };
    // Of its own, since the log is replaced. Held to the end of this function.
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(beside(snapshot, ".purges.lock"))
        .map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut log = match fs::read(&file) {
        Ok(bytes) => PurgeLog::read(&bytes, key).map_err(|error| {
            Failure::Input(format!("{}: the purge log is refused: {error}", file.display()))
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => PurgeLog::begin(fresh),
        Err(error) => return Err(failed(error)),
    };
    log.add(order, key).ok_or_else(|| {
        Failure::Input("what is to be purged is longer than a purge log holds".to_owned())
    })?;
    replace(&file, &log.encode(key)).map_err(failed)
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let fresh = beside(file, ".new");
    let mut out = File::create(&fresh)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&fresh, file)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
