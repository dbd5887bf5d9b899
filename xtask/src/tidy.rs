//! `cargo xtask tidy`: the part of the house's rules that a program can check.
//!
//! Three judges, each a pure function over texts: `arrows` (who may know whom), `sources` (module documents,
//! machine paths, marks that must not stay), `papers` (links, paths and commands named in documents).

mod arrows;
mod papers;
mod sources;

use crate::root;
use std::path::{Path, PathBuf};

/// Something that is not tidy: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub place: String,
    pub what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding { place: place.into(), what: what.into() }
    }
}

/// A text file of the repository, named relative to its root.
#[derive(Debug, Clone)]
pub struct File {
    pub name: String,
    pub text: String,
}

/// Checks the repository.
///
/// # Errors
/// How many findings there are, after printing each.
pub fn run() -> Result<(), String> {
    let mut names = Vec::new();
    walk(&root(), &root(), &mut names)?;
    let files: Vec<File> = names
        .iter()
        .filter_map(|name| {
            std::fs::read_to_string(root().join(name))
                .ok()
                .map(|text| File { name: name.clone(), text })
        })
        .collect();
    let metadata = crate::run::output(&mut crate::run::cargo(&[
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let crates = arrows::read(&metadata, &root())?;

    let mut findings = arrows::judge(&crates);
    files.iter().for_each(|file| findings.extend(sources::judge(file)));
    let members: Vec<&str> = crates.iter().map(|c| c.folder.as_str()).collect();
    findings.extend(papers::judge(&files, &names, &members));
    for finding in &findings {
        println!("{}: {}", finding.place, finding.what);
    }
    if findings.is_empty() {
        println!("tidy: {} crates and {} files are in order", crates.len(), files.len());
        Ok(())
    } else {
        Err(format!("{} findings", findings.len()))
    }
}

/// Names of all files that belong to the repository.
fn walk(root: &Path, folder: &Path, names: &mut Vec<String>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let last = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            // A worktree link would lead outside, so links to folders are not followed.
            if !NOT_OURS.contains(&last.as_str()) && !path.is_symlink() {
                walk(root, &path, names)?;
            }
        } else if let Ok(name) = path.strip_prefix(root) {
            names.push(name.display().to_string());
        }
    }
    Ok(())
}

/// Folders that hold what was made or fetched.
const NOT_OURS: [&str; 4] = [".git", "target", "node_modules", ".demo"];

#[cfg(test)]
mod tests;
