//! Goal: each rule finds what it is for (a canary that must be found) and leaves good things alone.

use super::arrows::Crate;
use super::*;

fn krate(folder: &str, uses: &[&str], outside: &[&str]) -> Crate {
    let own = |all: &[&str]| all.iter().map(|s| s.to_string()).collect();
    let (uses, outside) = (own(uses), own(outside));
    Crate { folder: folder.into(), has_library: true, uses, outside }
}

fn file(name: &str, text: &str) -> File {
    File { name: name.into(), text: text.into() }
}

fn whats(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("{}: {}\n", f.place, f.what)).collect()
}

#[test]
fn canary_a_wrong_arrow_is_found() {
    let wrong = [
        krate("dataplane/cache", &["dataplane/store"], &[]),
        krate("controlplane/router", &["dataplane/engine"], &[]),
        krate("dataplane/engine", &["controlplane/steer"], &[]),
        krate("protocols/http1", &[], &["tokio"]),
        krate("dataplane/engine", &[], &["tokio"]),
        krate("dataplane/engine", &[], &["io-uring"]),
        krate("plugins/geo", &["dataplane/engine"], &[]),
        krate("attic", &[], &[]),
    ];
    for one in wrong {
        let found = arrows::judge(std::slice::from_ref(&one));
        assert_eq!(found.len(), 1, "{one:?}: {}", whats(&found));
    }
    let mut program = krate("dataplane/fill", &[], &[]);
    program.has_library = false;
    let found = arrows::judge(&[krate("dataplane/engine", &["dataplane/fill"], &[]), program]);
    assert!(whats(&found).contains("is a program"), "{}", whats(&found));
}

#[test]
fn right_arrows_are_left_alone() {
    let right = [
        krate("base/contract", &["base/types"], &["serde"]),
        krate("dataplane/engine", &["dataplane/cache", "protocols/http"], &["bytes"]),
        krate("dataplane/ring", &[], &["io-uring", "libc"]),
        krate("controlplane/router", &["controlplane/steer", "base/contract"], &["tokio"]),
    ];
    assert_eq!(whats(&arrows::judge(&right)), "");
}

#[test]
fn canary_a_source_file_that_is_not_tidy_is_found() {
    let mark = concat!("to", "do!()");
    let path = concat!("see /ro", "ot/notes");
    let cases = [
        file("a.rs", "fn main() {}\n"),
        file("a.rs", "//!\nfn main() {}\n"),
        file("a.rs", &format!("//! Good.\nfn f() {{ {mark} }}\n")),
        file("a.md", path),
        file("a.mjs", concat!("// FIX", "ME later")),
        file("tests/package-lock.json", "\"resolved\": \"https://example.net/x.tgz\""),
    ];
    for case in cases {
        assert_eq!(sources::judge(&case).len(), 1, "{case:?}");
    }
}

#[test]
fn clocks_are_asked_where_time_is_no_input_and_in_tests() {
    let asks = "//! Good.\nfn f() { Instant::now(); }\n";
    let in_tests = "//! Good.\n#[cfg(test)]\nmod tests {\n    fn f() { Instant::now(); }\n}\n";
    for (name, text, findings) in [
        ("dataplane/engine/src/a.rs", asks, 1),
        ("dataplane/engine/src/a.rs", in_tests, 0),
        ("dataplane/engine/src/a_tests.rs", asks, 0),
        ("dataplane/engine/tests/a.rs", asks, 0),
        ("dataplane/edge/src/a.rs", asks, 0),
    ] {
        assert_eq!(sources::judge(&file(name, text)).len(), findings, "{name}");
    }
}

#[test]
fn a_tidy_source_file_is_left_alone() {
    let text =
        "//! Owns nothing.\n// https://example.net/home/page and dbgx and a/work/b\nfn main() {}\n";
    assert_eq!(whats(&sources::judge(&file("a.rs", text))), "");
}

fn tree() -> (Vec<File>, Vec<String>) {
    let files = vec![
        file("Makefile", ".PHONY: demo\ndemo test:\n\tcargo xtask $@\n"),
        file("xtask/src/main.rs", "//! x\n    (\"tidy\", \"check\"),\n"),
        file(
            "docs/reference/commands.md",
            "# Commands\n\n## tidegate demo\n\n## tidegate snapshot build\n",
        ),
        file("ARCHITECTURE.md", "# Map\n\n`base/types` and `xtask`\n"),
        file(
            "base/types/src/lib.rs",
            "//! Words.\n#[test]\n#[ignore]\nfn a_test() {}\nfn no_such_test() {}\n",
        ),
    ];
    let names = files.iter().map(|f| f.name.clone()).collect();
    (files, names)
}

fn paper(text: &str) -> Vec<Finding> {
    let (mut files, mut names) = tree();
    files.push(file("docs/page.md", text));
    names.push("docs/page.md".into());
    papers::judge(&files, &names, &["base/types", "xtask"])
}

#[test]
fn canary_a_stale_document_is_found() {
    for text in [
        "[gone](../GONE.md)",
        "[no heading](../ARCHITECTURE.md#nowhere)",
        "see `base/gone.rs`",
        "`base/gone.rs::a_test`",
        "`base/types/src/lib.rs::no_such_test`",
        "run `make dinner`",
        "run `cargo xtask sing`",
        "run `tidegate sing`",
        "```\nmake dinner\n```",
    ] {
        assert_eq!(paper(text).len(), 1, "{text}: {}", whats(&paper(text)));
    }
    let (files, names) = tree();
    let found = papers::judge(&files, &names, &["base/types", "xtask", "base/config"]);
    assert!(whats(&found).contains("`base/config` is not on the map"), "{}", whats(&found));
}

#[test]
fn a_document_in_step_is_left_alone() {
    let text = "[map](../ARCHITECTURE.md#map) [out](https://example.net) `base/types/src/lib.rs` `base/types/` `base/types/src/lib.rs::a_test`\n\
                `make demo VIDEO=x` `cargo xtask tidy` `tidegate snapshot build` `GET /a/b` `[x](y)`\n";
    assert_eq!(whats(&paper(text)), "");
}
