//! Goal: who is up is judged right at every moment, and no fault takes more out than the panic floor allows.
//! Method: heartbeats at chosen times into the table; then random schedules held against what must stay true.

mod example;

use proptest::prelude::*;
use std::time::Duration;
use tidegate_contract::{Heartbeat, Load, ServingState, Snapshot, Stamp, VerdictState};
use tidegate_monitor::{HealthTable, Refusal, Word};

fn fleet(groups: usize, size: usize) -> Snapshot {
    let mut snapshot = example::snapshot(1);
    let edge = snapshot.servers[1].clone();
    snapshot.servers.clear();
    for g in 0..groups {
        for e in 0..size {
            let (id, cache_group) = (format!("e{g}-{e}"), Some(format!("g{g}")));
            snapshot.servers.push(tidegate_contract::Server { id, cache_group, ..edge.clone() });
        }
    }
    snapshot
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn beat(server: &str, boot: u64, sequence: u64, state: ServingState) -> Heartbeat {
    let stamp = Stamp { boot, sequence, unix_ms: 0 };
    Heartbeat { server: server.into(), stamp, state, load: Load::default(), generation: 1 }
}

/// Sends a heartbeat of each of `servers` every 200 ms in `from..to`, with a tick every 20 ms.
fn run(table: &mut HealthTable, servers: &[&str], from: u64, to: u64) {
    for now in (from..to).step_by(20) {
        if now % 200 == 0 {
            for server in servers {
                table.heartbeat(ms(now), &beat(server, 1, now, ServingState::Up)).unwrap();
            }
        }
        table.tick(ms(now));
    }
}

fn words(table: &HealthTable, servers: &[&str]) -> Vec<Word> {
    servers.iter().map(|server| table.word(server).unwrap()).collect()
}

#[test]
fn first_heard_is_up_at_once_silence_is_down_in_time_and_the_way_back_takes_three_seconds() {
    let mut table = HealthTable::new(&fleet(2, 2));
    assert_eq!(table.word("e0-0"), Some(Word::Unheard));
    run(&mut table, &["e0-0", "e0-1"], 0, 2000);
    assert_eq!(words(&table, &["e0-0", "e0-1", "e1-0"]), [Word::Up, Word::Up, Word::Unheard]);
    // The last heartbeat of e0-0 was at 1800.
    run(&mut table, &["e0-1"], 2000, 2500);
    assert_eq!(table.word("e0-0"), Some(Word::Up));
    run(&mut table, &["e0-1"], 2500, 2540);
    assert_eq!(table.word("e0-0"), Some(Word::Down), "a killed edge is out well within a second");
    run(&mut table, &["e0-0", "e0-1"], 4000, 6900);
    assert_eq!(table.word("e0-0"), Some(Word::Returning));
    run(&mut table, &["e0-0", "e0-1"], 7000, 7020);
    assert_eq!(table.word("e0-0"), Some(Word::Up));
}

#[test]
fn a_gap_on_the_way_back_begins_it_anew() {
    let mut table = HealthTable::new(&fleet(1, 2));
    run(&mut table, &["e0-0"], 0, 400);
    run(&mut table, &[], 400, 2000);
    run(&mut table, &["e0-0"], 2000, 4000);
    run(&mut table, &[], 4000, 5000);
    assert_eq!(table.word("e0-0"), Some(Word::Down));
    run(&mut table, &["e0-0"], 5000, 7900);
    assert_eq!(table.word("e0-0"), Some(Word::Returning));
    run(&mut table, &["e0-0"], 8000, 8300);
    assert_eq!(table.word("e0-0"), Some(Word::Up));
}

#[test]
fn draining_is_taken_at_once_and_a_new_process_comes_back_after_it() {
    let mut table = HealthTable::new(&fleet(1, 2));
    run(&mut table, &["e0-0"], 0, 1000);
    let told =
        table.heartbeat(ms(1001), &beat("e0-0", 1, 5000, ServingState::Draining)).unwrap().unwrap();
    assert_eq!((told.from, told.to), (Word::Up, Word::Draining));
    assert_eq!(table.verdicts()[0].state, VerdictState::Draining);
    table.heartbeat(ms(1100), &beat("e0-0", 2, 0, ServingState::Up)).unwrap();
    assert_eq!(table.word("e0-0"), Some(Word::Returning));
    assert_eq!(
        table.heartbeat(ms(1150), &beat("e0-0", 1, 9000, ServingState::Draining)),
        Err(Refusal::Old)
    );
}

#[test]
fn replays_and_strangers_are_refused() {
    let mut table = HealthTable::new(&fleet(1, 1));
    let first = beat("e0-0", 1, 1, ServingState::Up);
    table.heartbeat(ms(0), &first).unwrap();
    assert_eq!(table.heartbeat(ms(600), &first), Err(Refusal::Old));
    assert_eq!(
        table.heartbeat(ms(600), &beat("e9-9", 1, 1, ServingState::Up)),
        Err(Refusal::Unknown)
    );
    table.tick(ms(800));
    assert_eq!(table.word("e0-0"), Some(Word::Down), "a replay keeps nobody alive");
}

#[test]
fn who_stood_still_himself_takes_nobody_for_silent() {
    // A stopped machine goes on after 54 s: edges are as they were, and one that is dead still falls in time.
    let mut table = HealthTable::new(&fleet(2, 2));
    let all = ["e0-0", "e0-1", "e1-0", "e1-1"];
    run(&mut table, &all, 0, 2000);
    table.stood_still(ms(56_000), ms(54_000));
    table.tick(ms(56_000));
    assert_eq!(words(&table, &all), [Word::Up; 4]);
    run(&mut table, &all[1..], 56_000, 57_000);
    assert_eq!(words(&table, &all), [Word::Down, Word::Up, Word::Up, Word::Up]);
}

#[test]
fn one_of_two_goes_out_and_so_does_the_other() {
    let mut table = HealthTable::new(&fleet(2, 2));
    let all = ["e0-0", "e0-1", "e1-0", "e1-1"];
    run(&mut table, &all, 0, 1000);
    run(&mut table, &all[1..], 1000, 2000);
    assert_eq!(words(&table, &all), [Word::Down, Word::Up, Word::Up, Word::Up]);
    run(&mut table, &all[2..], 2000, 3000);
    assert_eq!(words(&table, &all), [Word::Down, Word::Down, Word::Up, Word::Up]);
}

#[test]
fn a_group_that_falls_at_once_is_held_and_leaves_by_steps_when_it_stays_silent() {
    let mut table = HealthTable::new(&fleet(1, 5));
    let all = ["e0-0", "e0-1", "e0-2", "e0-3", "e0-4"];
    let down =
        |table: &HealthTable| words(table, &all).iter().filter(|w| **w == Word::Down).count();
    let held =
        |table: &HealthTable| words(table, &all).iter().filter(|w| **w == Word::Held).count();
    run(&mut table, &all, 0, 1000);
    run(&mut table, &[], 1000, 5000);
    assert_eq!((down(&table), held(&table)), (2, 3), "40 % of five");
    assert_eq!(table.verdicts().iter().filter(|v| v.state == VerdictState::Held).count(), 3);
    run(&mut table, &[], 5000, 13_000);
    assert_eq!((down(&table), held(&table)), (4, 1));
    // One that is heard again was never gone.
    let last = all.iter().find(|id| table.word(id) == Some(Word::Held)).unwrap();
    run(&mut table, &[last], 13_000, 13_300);
    assert_eq!(table.word(last), Some(Word::Up));
    run(&mut table, &[], 13_400, 40_000);
    assert_eq!(down(&table), 5);
}

#[test]
fn a_fleet_of_ten_loses_at_most_a_fifth_at_once() {
    let mut table = HealthTable::new(&fleet(5, 2));
    let ids: Vec<String> = (0..10).map(|i| format!("e{}-{}", i / 2, i % 2)).collect();
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    run(&mut table, &all, 0, 1000);
    run(&mut table, &[], 1000, 4000);
    assert_eq!(words(&table, &all).iter().filter(|w| **w == Word::Down).count(), 2);
}

#[test]
fn another_snapshot_keeps_what_is_held_of_those_who_stay() {
    let mut table = HealthTable::new(&fleet(1, 2));
    run(&mut table, &["e0-0", "e0-1"], 0, 1000);
    table.adopt(&fleet(2, 1));
    assert_eq!(table.word("e0-0"), Some(Word::Up));
    assert_eq!(table.word("e0-1"), None);
    assert_eq!(table.word("e1-0"), Some(Word::Unheard));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_lost_the_floor_holds(
        size in 1..8usize, groups in 1..4usize,
        lost in prop::collection::vec((0..32usize, 0..60u64, 1..40u64), 0..12)
    ) {
        let snapshot = fleet(groups, size);
        let mut table = HealthTable::new(&snapshot);
        let ids: Vec<String> = snapshot.servers.iter().map(|s| s.id.clone()).collect();
        let mut last_heard = vec![0u64; ids.len()];
        let mut falls: Vec<(u64, usize)> = Vec::new();
        for now in (0..16_000u64).step_by(100) {
            if now % 200 == 0 {
                for (index, id) in ids.iter().enumerate() {
                    let round = now / 200;
                    let silent = lost.iter().any(|(who, from, long)| {
                        who % ids.len() == index && (*from..from + long).contains(&round)
                    });
                    if !silent || now == 0 {
                        table.heartbeat(ms(now), &beat(id, 1, now, ServingState::Up)).unwrap();
                        last_heard[index] = now;
                    }
                }
            }
            for transition in table.tick(ms(now)) {
                let index = ids.iter().position(|id| *id == transition.server).unwrap();
                if transition.to == Word::Down && transition.from != Word::Returning {
                    falls.push((now, index / size));
                }
            }
            for (index, id) in ids.iter().enumerate() {
                let silence = now - last_heard[index];
                let word = table.word(id).unwrap();
                let gone = matches!(word, Word::Down | Word::Held);
                prop_assert!(silence > 700 || !gone, "{} is {:?}", id, word);
                prop_assert!(silence <= 800 || gone, "{} is {:?}", id, word);
            }
            for group in 0..groups {
                let recent = falls.iter().filter(|(when, g)| now - when <= 10_000 && *g == group).count();
                if size >= 3 { prop_assert!(recent * 100 <= size * 40, "{} of {} fell", recent, size); }
            }
        }
    }
}
