//! Goal: no seed and no mutation of one breaks a target, in every test run. Method: a fixed seed, so that every run
//! is the same run; the canary proves that a broken target is noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use tidegate_fuzz::mutate::{Random, mutate};
use tidegate_fuzz::{CANARY, TARGETS, Target};

/// Mutations of each target.
const MUTATIONS: usize = 20_000;

/// The first input that breaks the target.
fn first_broken(target: &Target, mutations: usize) -> Option<Vec<u8>> {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    let broken = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err();
    if let Some(seed) = seeds.iter().find(|seed| broken(seed)) {
        return Some(seed.clone());
    }
    let mut random = Random::new(20_261_121);
    let mut pool = seeds.clone();
    (0..mutations).find_map(|_| {
        let (one, other) = (&pool[random.below(pool.len())], &pool[random.below(pool.len())]);
        let input = mutate(one, other, &mut random);
        if broken(&input) {
            return Some(input);
        }
        // Some mutants are mutated further, instead of an old one or a seed.
        if random.below(8) == 0 {
            if pool.len() < 4 * seeds.len() {
                pool.push(input);
            } else {
                let at = seeds.len() + random.below(pool.len() - seeds.len());
                pool[at] = input;
            }
        }
        None
    })
}

#[test]
fn no_mutation_breaks_a_target() {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let mut broken = Vec::new();
    for target in TARGETS {
        if let Some(input) = first_broken(target, MUTATIONS) {
            broken.push(format!("{} is broken by \"{}\"", target.name, input.escape_ascii()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_canary_is_found() {
    assert_eq!(
        first_broken(&CANARY, MUTATIONS).map(|input| input[..4].to_vec()),
        Some(b"tide".to_vec())
    );
}
