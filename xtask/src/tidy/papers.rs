//! Documents against the tree: links lead somewhere, named paths exist, named commands exist, every crate is
//! on the map.

use super::{File, Finding};
use std::collections::BTreeSet;

/// Judges all documents.
pub fn judge(files: &[File], names: &[String], members: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let exists: BTreeSet<String> = names.iter().flat_map(|n| with_folders(n)).collect();
    let tops: BTreeSet<&str> =
        names.iter().filter_map(|n| n.split_once('/').map(|(top, _)| top)).collect();
    let commands = Commands::read(files);
    for file in files.iter().filter(|f| f.name.ends_with(".md")) {
        let mut in_block = false;
        for (index, line) in file.text.lines().enumerate() {
            let place = format!("{}:{}", file.name, index + 1);
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            if !in_block {
                for link in links(line) {
                    if let Some(what) = broken(&file.name, link, &exists, files) {
                        findings.push(Finding::new(place.clone(), what));
                    }
                }
            }
            let spans: Vec<&str> = if in_block { vec![line.trim()] } else { code_spans(line) };
            for span in spans {
                if !in_block && is_path(span, &tops) && !exists.contains(span.trim_end_matches('/'))
                {
                    findings.push(Finding::new(place.clone(), format!("`{span}` does not exist")));
                }
                if let Some((path, test)) = named_test(span)
                    && !is_test(path, test, files)
                {
                    findings.push(Finding::new(place.clone(), format!("no test `{span}`")));
                }
                if let Some(what) = commands.unknown(span) {
                    findings.push(Finding::new(place.clone(), what));
                }
            }
        }
    }
    let map = files.iter().find(|f| f.name == MAP);
    for member in members {
        if !map.is_some_and(|m| {
            m.text.contains(&format!("`{member}`")) || m.text.contains(&format!("`{member}/`"))
        }) {
            findings.push(Finding::new(MAP, format!("crate `{member}` is not on the map")));
        }
    }
    findings
}

/// A file's name and the folders above it.
fn with_folders(name: &str) -> Vec<String> {
    let mut all = vec![name.to_string()];
    all.extend(name.match_indices('/').map(|(at, _)| name[..at].to_string()));
    all
}

/// Targets of the Markdown links of a line.
fn links(line: &str) -> Vec<&str> {
    // What stands in code is no link.
    let mut found = Vec::new();
    for (index, part) in line.split('`').enumerate() {
        if index % 2 == 1 {
            continue;
        }
        let mut rest = part;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            found.push(rest[..end].split_ascii_whitespace().next().unwrap_or(""));
            rest = &rest[end..];
        }
    }
    found
}

fn broken(from: &str, link: &str, exists: &BTreeSet<String>, files: &[File]) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(p, a)| (p, Some(a)));
    let target = if path.is_empty() { from.to_string() } else { resolve(from, path) };
    if !exists.contains(&target) {
        return Some(format!("link `{link}` leads nowhere"));
    }
    let anchor = anchor?;
    let text = &files.iter().find(|f| f.name == target)?.text;
    let found = text.lines().filter(|l| l.starts_with('#')).any(|l| slug(l) == anchor);
    (!found).then(|| format!("link `{link}`: {target} has no such heading"))
}

/// `path` as seen from the folder of `from`.
fn resolve(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchor that a heading gets.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn code_spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// A span that names a path of this repository: begins with a top folder and holds nothing else.
fn is_path(span: &str, tops: &BTreeSet<&str>) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    span.split_once('/').is_some_and(|(top, rest)| tops.contains(top) && !rest.starts_with('/'))
        && span.chars().all(plain)
}

/// A span that names a test: its file, two colons, its function.
fn named_test(span: &str) -> Option<(&str, &str)> {
    let (path, test) = span.split_once("::")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (path.ends_with(".rs") && test.chars().all(plain)).then_some((path, test))
}

/// Whether the file has this function, and its attribute is that of a test.
fn is_test(path: &str, test: &str, files: &[File]) -> bool {
    let Some(file) = files.iter().find(|file| file.name == path) else { return false };
    let head = format!("fn {test}(");
    let mut before: Vec<&str> = Vec::new();
    for line in file.text.lines().map(str::trim) {
        if line.starts_with(&head) {
            // proptest has its own form of functions, under the same attribute.
            return before.contains(&"#[test]");
        }
        match line.starts_with('#') || line.starts_with("//") {
            true => before.push(line),
            false => before.clear(),
        }
    }
    false
}

/// The commands that documents may name.
struct Commands {
    make: BTreeSet<String>,
    xtask: BTreeSet<String>,
    /// `None` while the reference has not been rendered.
    tidegate: Option<BTreeSet<String>>,
}

impl Commands {
    fn read(files: &[File]) -> Commands {
        let text = |name: &str| files.iter().find(|f| f.name == name).map(|f| f.text.as_str());
        let rules = text("Makefile").unwrap_or_default().lines().filter_map(|l| l.split_once(':'));
        let make = rules
            .filter(|(n, _)| !n.starts_with(['.', '\t', '#', ' ']))
            .flat_map(|(n, _)| n.split(' '));
        let verbs = text("xtask/src/main.rs").unwrap_or_default().lines();
        let xtask = verbs
            .filter_map(|l| l.trim().strip_prefix("(\"")?.split_once("\", \"").map(|(v, _)| v));
        let reference = text("docs/reference/commands.md");
        let tidegate = reference.map(|t| {
            t.lines().filter_map(|l| l.strip_prefix("## tidegate ")).map(str::to_string).collect()
        });
        Commands {
            make: make.filter(|n| !n.is_empty()).map(str::to_string).collect(),
            xtask: xtask.map(str::to_string).collect(),
            tidegate,
        }
    }

    /// A command of ours that does not exist.
    fn unknown(&self, span: &str) -> Option<String> {
        let words: Vec<&str> = span.split_ascii_whitespace().collect();
        let verb =
            |w: &&str| w.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !w.starts_with('-');
        match words.as_slice() {
            ["make", target, ..] if verb(target) && !self.make.contains(*target) => {
                Some(format!("`make {target}`: the Makefile has no such target"))
            }
            ["cargo", "xtask", name, ..] if verb(name) && !self.xtask.contains(*name) => {
                Some(format!("`cargo xtask {name}`: there is no such verb"))
            }
            ["tidegate", name, ..] if verb(name) => {
                let known = self.tidegate.as_ref()?;
                let there = known.iter().any(|k| k.split(' ').next() == Some(*name));
                (!there).then(|| format!("`tidegate {name}`: there is no such verb"))
            }
            _ => None,
        }
    }
}

const MAP: &str = "ARCHITECTURE.md";
