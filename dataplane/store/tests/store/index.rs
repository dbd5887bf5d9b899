//! Goal: the index finds what was entered, prefers what was entered last, and survives being full. Method:
//! small tables with chosen hashes, compared with a map where the table is large enough.

use std::collections::HashMap;

use tidegate_store::{Index, Place};

use crate::device::Random;

fn place(segment: u32, slot: u32) -> Place {
    Place { segment, slot, slots: 3 }
}

fn hash(random: &mut Random) -> u128 {
    u128::from(random.next()) << 64 | u128::from(random.next())
}

fn index(capacity: usize) -> Index {
    let index = Index::new(capacity, 8);
    (0..8).for_each(|segment| index.begin_life(segment, 100 + u64::from(segment)));
    index
}

#[test]
fn a_table_three_quarters_full_agrees_with_a_map() {
    let mut random = Random(1);
    let index = index(4096);
    let mut map = HashMap::new();
    for at in 0..3072 {
        let hash = hash(&mut random);
        let place = place(at % 8, at % 32768);
        index.insert(hash, at, place);
        map.insert(hash, (at, place));
    }
    let lost = map
        .iter()
        .filter(|(hash, (block, place))| {
            index.find(**hash, *block).is_none_or(|found| found.place != *place)
        })
        .count();
    assert_eq!(lost as u64, index.displaced(), "only what gave way may be missing");
    assert!(lost < 30, "{lost} of 3072 entries gave way at the planned load");
    assert_eq!(index.used() + index.displaced(), 3072);
    (0..1000).for_each(|_| assert!(index.find(hash(&mut random), 0).is_none()));
}

#[test]
fn a_full_table_keeps_taking_and_its_newest_are_found() {
    let mut random = Random(2);
    let index = index(64);
    for at in 0..10_000 {
        let hash = hash(&mut random);
        index.insert(hash, at, place(at % 8, at % 32768));
        assert_eq!(index.find(hash, at).map(|found| found.place), Some(place(at % 8, at % 32768)));
    }
    assert!(index.used() <= 64);
    assert!(index.displaced() >= 10_000 - 64);
}

#[test]
fn a_used_entry_outlives_unused_ones_in_a_full_table() {
    let mut random = Random(3);
    let index = index(32);
    let hot = hash(&mut random);
    index.insert(hot, 0, place(1, 1));
    for at in 1..200 {
        let found = index.find(hot, 0).expect("the used entry is still there");
        index.touch(&found);
        index.insert(hash(&mut random), at, place(2, at));
    }
    assert_eq!(index.find(hot, 0).expect("still there").frequency, 3);
}

#[test]
fn the_later_entry_of_a_key_replaces_the_earlier() {
    let index = index(64);
    index.insert(42 << 90, 0, place(1, 1));
    index.touch(&index.find(42 << 90, 0).expect("entered"));
    index.insert(42 << 90, 0, place(2, 9));
    let found = index.find(42 << 90, 0).expect("entered");
    assert_eq!((found.place, found.life, found.frequency), (place(2, 9), 102, 0));
    assert_eq!(index.used(), 1);
    assert!(index.remove(42 << 90, 0));
    assert!(index.find(42 << 90, 0).is_none() && !index.remove(42 << 90, 0));
    assert_eq!(index.used(), 0);
}

#[test]
fn blocks_with_equal_tags_do_not_replace_each_other() {
    let index = index(64);
    index.insert(7 << 90, 1, place(1, 1));
    index.insert(7 << 90, 2, place(1, 2));
    assert_eq!(index.find(7 << 90, 1).map(|found| found.place.slot), Some(1));
    assert_eq!(index.find(7 << 90, 2).map(|found| found.place.slot), Some(2));
}

#[test]
fn ending_a_life_makes_its_entries_misses_and_their_slots_reusable() {
    let mut random = Random(4);
    let index = index(32);
    let hashes: Vec<u128> = (0..32).map(|_| hash(&mut random)).collect();
    for (at, hash) in (0..).zip(&hashes) {
        index.insert(*hash, 0, place(at % 2, at));
    }
    index.end_life(0);
    index.begin_life(0, 900);
    for (at, hash) in (0..).zip(&hashes) {
        assert_eq!(index.find(*hash, 0).is_some(), at % 2 == 1);
    }
    (0..16).for_each(|at| index.insert(hash(&mut random), 0, place(0, at)));
    assert_eq!((index.displaced(), index.used()), (0, 32));
    assert!(
        (0..)
            .zip(&hashes)
            .all(|(at, hash): (u32, _)| at % 2 == 0 || index.find(*hash, 0).is_some())
    );
}

#[test]
fn a_bad_entry_is_forgotten_but_not_its_successor() {
    let index = index(32);
    index.insert(9 << 90, 0, place(1, 1));
    let old = index.find(9 << 90, 0).expect("entered");
    index.insert(9 << 90, 0, place(1, 2));
    index.forget(&old);
    let new = index.find(9 << 90, 0).expect("the successor stays");
    index.touch(&new);
    index.forget(&new);
    assert!(index.find(9 << 90, 0).is_none());
}

#[test]
fn all_fields_hold_their_largest_value() {
    let index = Index::new(32, 1 << 18);
    let largest = Place { segment: (1 << 18) - 1, slot: (1 << 15) - 1, slots: (1 << 11) - 1 };
    index.begin_life(largest.segment, 5);
    index.insert(u128::MAX, u32::MAX, largest);
    assert_eq!(index.find(u128::MAX, u32::MAX).map(|found| found.place), Some(largest));
}
