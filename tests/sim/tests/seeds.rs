//! Goal: whatever fails and whenever, no client gets a wrong byte, nothing purged comes back, and all ends. Method: a
//! few thousand seeds, each a run of its own (`tidegate_sim`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate_contract::Admission;
use tidegate_faults::Faults;
use tidegate_sim::disk::Trouble;
use tidegate_sim::plan::{NetFaults, OriginFaults, Plan, Sabotage};
use tidegate_sim::scene::Tally;
use tidegate_sim::shrink::shrink;
use tidegate_sim::{run, run_plan};

/// About a minute of one core.
const SEEDS: u64 = 5000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; what is wrong with it.
fn judge(seed: u64, trace: bool) -> Result<Tally, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, trace)));
    match outcome {
        Ok(outcome) if outcome.violations.is_empty() => Ok(outcome.tally),
        Ok(outcome) => Err(outcome.violations.join("\n  ")),
        Err(_) => Err("it panicked, see above".to_owned()),
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("TIDEGATE_SIM_SEED") {
        let outcome = judge(seed, true);
        println!("seed {seed}: {outcome:#?}");
        return assert!(outcome.is_ok(), "seed {seed}");
    }
    let first = number("TIDEGATE_SIM_FIRST").unwrap_or(1);
    let seeds = number("TIDEGATE_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let (total, failed) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    match judge(seed, false) {
                        Ok(tally) => total.lock().unwrap().add(&tally),
                        Err(what) => {
                            let mut failed = failed.lock().unwrap();
                            failed.push((seed, what));
                            // Enough to see what is wrong.
                            stop.store(failed.len() >= FAILURES_SHOWN, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    for (seed, what) in &failed {
        eprintln!("seed {seed}:\n  {what}");
        eprintln!(
            "    see it: TIDEGATE_SIM_SEED={seed} cargo test --profile quick -p tidegate-sim --test seeds -- --nocapture"
        );
    }
    assert!(
        failed.is_empty(),
        "seeds that failed: {:?}",
        failed.iter().map(|f| f.0).collect::<Vec<_>>()
    );
    let total = total.into_inner().unwrap();
    println!("{seeds} seeds: {total:?}");
    // What was never met proves nothing.
    if seeds >= 1000 {
        let met = [
            total.hits > total.requests / 4,
            total.stale > seeds,
            total.collapsed > seeds,
            total.not_modified > seeds,
            total.parts > seeds,
            total.errors > seeds / 2,
            total.broken > seeds,
            total.receipts > seeds,
            total.invalidations > seeds / 10,
            total.alternates > seeds,
            total.crashes > seeds / 2,
            total.store_reads > seeds,
            total.devices_ill > seeds / 10,
            total.devices_retired > seeds / 100,
        ];
        assert!(met.iter().all(|met| *met), "the runs hardly met what they are about: {total:?}");
    }
}

const FAILURES_SHOWN: usize = 5;

/// What a run of a plan does wrong first, without times and numbers.
fn first_wrong(plan: &Plan) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run_plan(plan.clone(), false)));
    let Ok(outcome) = outcome else { return Some("it panicked".to_owned()) };
    let what = outcome.violations.into_iter().next()?;
    let what = what.split_once(" s: ").map_or(&*what, |(_, what)| what);
    Some(what.lines().next()?.chars().filter(|c| !c.is_ascii_digit()).collect())
}

/// Shows the smallest run that fails as the seed does; of a seed that does not, of one that does wrong on purpose.
#[test]
fn replay() {
    let (plan, is_asked) = match number("TIDEGATE_SIM_SEED") {
        Some(seed) => (Plan::draw(seed), true),
        None => (Plan { sabotage: Some(Sabotage::Bytes), ..Plan::draw(3) }, false),
    };
    let Some(wrong) = first_wrong(&plan) else {
        assert!(is_asked, "a canary was not seen");
        return println!("seed {} breaks no promise", plan.seed);
    };
    let is_same = |plan: &Plan| first_wrong(plan).is_some_and(|other| other == wrong);
    let smallest = shrink(&plan, is_same);
    let outcome = run_plan(smallest.clone(), is_asked);
    println!("{smallest:#?}\n{:#?}", outcome.violations);
    assert!(!outcome.violations.is_empty());
    let requests = smallest.requests_max.unwrap_or(u64::MAX);
    assert!(is_asked || requests < 100, "{requests} requests are many for that");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 1..=40 {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!(
            (first.hash, first.polls),
            (second.hash, second.polls),
            "seed {seed} ran in two ways: something reads a clock, a random source, or the order of a hash map"
        );
    }
}

/// The canaries: what is done wrong on purpose must be seen.
#[test]
fn wrong_doing_is_seen() {
    for (sabotage, words) in [
        (Sabotage::Bytes, "is not of version"),
        (Sabotage::Purges, "it was purged at"),
        (Sabotage::Freshness, "stale since"),
        (Sabotage::Buffers, "did not come back"),
    ] {
        let seen = (1..=60).filter(|seed| {
            let plan = Plan { sabotage: Some(sabotage), ..Plan::draw(*seed) };
            run_plan(plan, false).violations.iter().any(|what| what.contains(words))
        });
        let seen = seen.count();
        assert!(seen >= 10, "{sabotage:?} was seen in {seen} of 60 runs only");
    }
}

#[test]
fn wrong_doing_with_posts_and_alternates_is_seen() {
    for (sabotage, words) in
        [(Sabotage::Posts, "it was purged at"), (Sabotage::Alternates, "it is of item")]
    {
        let seen = (1..=60).filter(|seed| {
            let plan = Plan {
                sabotage: Some(sabotage),
                posts: 60,
                alternates: true,
                items: 3,
                clients: 6,
                edge: false,
                crashes: 0,
                trouble: None,
                disk: Faults::default(),
                ..Plan::draw(*seed)
            };
            run_plan(plan, false).violations.iter().any(|what| what.contains(words))
        });
        let seen = seen.count();
        assert!(seen >= 10, "{sabotage:?} was seen in {seen} of 60 runs only");
    }
}

#[test]
fn a_device_that_brings_back_what_was_purged_is_seen() {
    let seen = (1..=200).filter(|seed| {
        let plan = Plan {
            sabotage: Some(Sabotage::Roll),
            devices: 2,
            trouble: Some(Trouble::Absent),
            purges: 30,
            changes: 0,
            crashes: 0,
            edge: false,
            items: 4,
            clients: 6,
            admission: Admission::Always,
            net: NetFaults::default(),
            origin: OriginFaults::default(),
            disk: Faults::default(),
            disk_stalls: 0,
            ..Plan::draw(*seed)
        };
        let honest = Plan { sabotage: None, ..plan.clone() };
        let wrong = run_plan(plan, false).violations;
        let is_seen = wrong.iter().any(|what| what.contains("it was purged at"));
        if is_seen {
            assert_eq!(run_plan(honest, false).violations, [""; 0], "seed {seed}");
        }
        is_seen
    });
    let seen = seen.count();
    assert!(seen >= 5, "seen in {seen} of 200 runs only");
}
