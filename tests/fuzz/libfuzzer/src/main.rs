//! Drives one target of the registry by libFuzzer; `TIDEGATE_FUZZ_TARGET` names it (`cargo xtask fuzz` sets it).
#![no_main]

use std::sync::OnceLock;
use tidegate_fuzz::{CANARY, TARGETS, Target};

/// The target that was asked for; `list` prints all names. Its seeds go to the folder `TIDEGATE_FUZZ_SEEDS`.
fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let wanted = std::env::var("TIDEGATE_FUZZ_TARGET").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        if wanted == "list" {
            println!("{}", names.join("\n"));
            std::process::exit(0);
        }
        let found = TARGETS.iter().chain([&CANARY]).find(|target| target.name == wanted);
        found.unwrap_or_else(|| {
            eprintln!("no target {wanted:?}; set TIDEGATE_FUZZ_TARGET to one of {}", names.join(", "));
            std::process::exit(2)
        })
    })
}

fn plant() {
    let Some(folder) = std::env::var_os("TIDEGATE_FUZZ_SEEDS") else { return };
    for (number, seed) in (target().seeds)().iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("seed-{number}"));
        if let Err(e) = std::fs::write(&path, seed) {
            eprintln!("{}: {e}", path.display());
            std::process::exit(2);
        }
    }
}

libfuzzer_sys::fuzz_target!(
    init: {
        let _known = target();
        plant();
    },
    |input: &[u8]| (target().run)(input)
);
