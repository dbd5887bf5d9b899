//! `cargo xtask docs`: renders `docs/reference/commands.md` from the programs' own help.
//!
//! Must stay true: the page says only what the programs say, so it cannot drift: `--check` fails when it did.

use crate::run::{cargo, command, finish, output};
use crate::{root, target};
use std::fmt::Write as _;

/// Renders the page, or checks it.
///
/// # Errors
/// A program cannot be built or asked; with `check`, the page is out of date.
pub fn run(check: bool) -> Result<(), String> {
    finish(&mut cargo(&[
        "build",
        "--release",
        "-p",
        "tidegate-edge",
        "-p",
        "tidegate",
        "-p",
        "tidegate-load",
    ]))?;
    let mut text = String::from(
        "# Commands\n\nRendered by `make docs` from the programs' own help; do not edit.\n",
    );
    for program in ["tidegate", "tidegated", "tidegate-load"] {
        let path = target().join("release").join(program).display().to_string();
        describe(&mut text, &path, program, &mut Vec::new())?;
    }
    let page = root().join("docs/reference/commands.md");
    let old = std::fs::read_to_string(&page).unwrap_or_default();
    if check {
        return if old == text {
            Ok(())
        } else {
            Err("docs/reference/commands.md is out of date: `make docs`".into())
        };
    }
    std::fs::write(&page, text).map_err(|e| format!("{}: {e}", page.display()))?;
    println!("docs/reference/commands.md is written");
    Ok(())
}

fn describe(
    text: &mut String,
    path: &str,
    program: &str,
    verbs: &mut Vec<String>,
) -> Result<(), String> {
    let mut words: Vec<&str> = verbs.iter().map(String::as_str).collect();
    words.push("--help");
    let help = output(&mut command(path, &words))?;
    let name = std::iter::once(program)
        .chain(verbs.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ");
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a String cannot fail.
    let _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    for verb in subcommands(&help) {
        if verbs.len() < DEPTH_MAX {
            verbs.push(verb);
            describe(text, path, program, verbs)?;
            verbs.pop();
        }
    }
    Ok(())
}

/// Names under `Commands:` in clap's help.
fn subcommands(help: &[&str]) -> Vec<String> {
    let lines =
        help.iter().skip_while(|l| **l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let names = lines.filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    names
        .filter_map(|l| l.split_ascii_whitespace().next())
        .filter(|n| *n != "help")
        .map(str::to_string)
        .collect()
}

/// Verbs nest two deep (`snapshot build`); more would be a surprise.
const DEPTH_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_found_in_a_help_text() {
        let help = "About\n\nCommands:\n  demo      Run\n            more\n  snapshot  Make\n  help      Print\n\n\
                    Options:\n  -h";
        assert_eq!(subcommands(&help.lines().collect::<Vec<_>>()), ["demo", "snapshot"]);
        assert!(subcommands(&["Options:"]).is_empty());
    }
}
