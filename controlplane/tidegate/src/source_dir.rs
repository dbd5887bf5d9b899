//! Files in and out: source trees, keys, snapshots.
//!
//! Must stay true: secrets are made readable by their owner only; a file that others read is replaced as a
//! whole.

use crate::failure::Failure;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tidegate_contract::{
    Diagnostic, PublicKey, SigningKey, Snapshot, compile_with_hints, inspect, source, verify,
};

/// Reads the source tree below `root`: only files that can be part of one, in the order of their names.
pub fn read(root: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut files = Vec::new();
    collect(root, "", 0, &mut files)?;
    files.sort();
    if files.is_empty() {
        let what =
            format!("{}: no source tree; it needs at least {}", root.display(), source::CDN_FILE);
        return Err(Failure::Input(what));
    }
    Ok(files)
}

fn collect(
    root: &Path,
    below: &str,
    depth: usize,
    files: &mut Vec<(String, String)>,
) -> Result<(), Failure> {
    let folder = root.join(below);
    let failed = |error| Failure::file(&folder, &error);
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let name = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if path.is_dir() {
            if depth < DEPTH_MAX {
                collect(root, &name, depth + 1, files)?;
            }
        } else if source::is_source_file(&name) {
            if files.len() >= FILES_MAX {
                return Err(Failure::Input(format!(
                    "{}: more than {FILES_MAX} files",
                    root.display()
                )));
            }
            let text = fs::read_to_string(&path).map_err(|error| Failure::file(&path, &error))?;
            files.push((name, text));
        }
    }
    Ok(())
}

/// Compiles the source tree below `root`.
pub fn compile_dir(root: &Path, generation: u64) -> Result<Snapshot, Failure> {
    compile_all(root, generation).map(|(snapshot, _)| snapshot)
}

/// Compiles the source tree below `root`, and says what is probably not meant in it.
pub fn check_dir(root: &Path) -> Result<(Snapshot, Vec<Diagnostic>), Failure> {
    compile_all(root, 1)
}

fn compile_all(root: &Path, generation: u64) -> Result<(Snapshot, Vec<Diagnostic>), Failure> {
    compile_with_hints(&read(root)?, generation).map_err(|diagnostics| {
        let list: String = diagnostics.iter().map(|d| format!("\n{d}")).collect();
        let many = diagnostics.len();
        let problems = if many == 1 { "problem" } else { "problems" };
        Failure::Input(format!("{}: {many} {problems}{list}", root.display()))
    })
}

/// A snapshot to look at: a file, or a source tree.
pub fn look(path: &Path) -> Result<(Snapshot, Option<String>), Failure> {
    if path.is_dir() {
        return Ok((compile_dir(path, 1)?, None));
    }
    let bytes = fs::read(path).map_err(|error| Failure::file(path, &error))?;
    let (snapshot, signer) = inspect(&bytes).map_err(|error| Failure::content(path, error))?;
    Ok((snapshot, Some(signer)))
}

/// A snapshot to work by: a file of a trusted key.
pub fn trusted(path: &Path, trust: &Path) -> Result<Snapshot, Failure> {
    let bytes = fs::read(path).map_err(|error| Failure::file(path, &error))?;
    verify(&bytes, &trust_file(trust)?).map_err(|error| Failure::content(path, error))
}

pub fn trust_file(path: &Path) -> Result<Vec<PublicKey>, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    PublicKey::list_from_text(&text).map_err(|error| Failure::content(path, error))
}

pub fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    SigningKey::from_text(&text).map_err(|error| Failure::content(path, error))
}

pub fn make_dir(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| Failure::file(path, &error))
}

/// Writes a file that must not be there yet.
pub fn write_new(path: &Path, content: &[u8], secret: bool) -> Result<(), Failure> {
    let mode = if secret { 0o600 } else { 0o644 };
    let failed = |error| Failure::file(path, &error);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)
}

/// Replaces a file as a whole: a reader sees the old one or the new one. With `secret` (a snapshot holds keys) it is for its owner
/// only.
pub fn replace(path: &Path, content: &[u8], secret: bool) -> Result<(), Failure> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    let partial = PathBuf::from(partial);
    write_new(&partial, content, secret)?;
    fs::rename(&partial, path).map_err(|error| {
        let _ = fs::remove_file(&partial);
        Failure::file(path, &error)
    })
}

const DEPTH_MAX: usize = 4;
const FILES_MAX: usize = 10_000;
