//! Drives one target of the registry by libFuzzer; `TIDEGATE_FUZZ_TARGET` names it (`cargo xtask fuzz` sets it).
#![no_main]

use std::sync::OnceLock;
use tidegate_fuzz::{CANARY, TARGETS, Target};

fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let wanted = std::env::var("TIDEGATE_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().chain([&CANARY]).find(|target| target.name == wanted);
        found.unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("no target {wanted:?}; set TIDEGATE_FUZZ_TARGET to one of {}", names.join(", "));
            std::process::exit(2)
        })
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| (target().run)(input));
