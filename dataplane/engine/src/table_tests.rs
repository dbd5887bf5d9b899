//! What the table must not forget, however little room it has. Method: a table of the least size, pushed full by other keys
//! at the worst moments; objects without a body.

use super::*;
use proptest::prelude::*;
use tidegate_cache::alternate::{alternate_key, choose};
use tidegate_cache::storable::Lifetime;
use tidegate_cache::stored::StoredHead;
use tidegate_http::{Fields, ResponseHead, Version};

const NOW: u64 = 1_000_000;

fn table() -> Table {
    Table::new(0, Arc::new(Windows::new(1 << 20)))
}

/// Fresh for an hour.
fn object(key: u128, version: u64) -> Arc<Object> {
    let lifetime = Lifetime {
        response_ms: NOW,
        initial_age_ms: 0,
        freshness_ms: 3_600_000,
        stale_while_revalidate_ms: 0,
        stale_if_error_ms: 0,
        must_revalidate: false,
        immutable: false,
    };
    let head = ResponseHead { status: 200, version: Version::Http11, fields: Fields::new() };
    Arc::new(Object::new(key, StoredHead::new(&head, vec![], lifetime, Some(0), version, &[])))
}

fn lead(table: &Table, key: u128, number: u64) -> Arc<Fill> {
    let seen = table.get(key, NOW).object;
    match table.claim(key, seen.as_ref(), NOW, number) {
        Claim::Lead(fill) => fill,
        _ => panic!("there is a fill of {key} already"),
    }
}

/// So many other keys come to the shards of `keys` that none of before is left there that may go.
fn crowd_out(table: &Table, keys: &[u128], round: u128) {
    for key in keys {
        let shard = (key >> 64) % SHARDS as u128;
        for n in 1..=400 {
            table.publish(object(shard << 64 | round << 32 | n << 8, 1));
        }
    }
}

fn names() -> Vec<String> {
    vec!["accept-language".to_owned()]
}

fn asking(language: &str) -> Fields {
    let mut fields = Fields::new();
    fields.append("accept-language", language.to_owned()).unwrap();
    fields
}

#[test]
fn a_marker_that_was_evicted_brings_nothing_back_that_was_invalid() {
    // The German answer stays in memory, the marker goes, which alone knew that a POST had made it invalid.
    let table = table();
    let german = alternate_key(7, &choose(&names(), &asking("de")));
    table.set_marker(7, Marker { names: names(), floor: 9 }).unwrap();
    table.publish(object(german, 11));
    assert_eq!(table.raise_floor(7, 20).unwrap().floor, 20);
    for round in 1.. {
        crowd_out(&table, &[7], round);
        // Asked for again and again, an entry is not evicted.
        if table.get(7, NOW).marker.is_none() {
            break;
        }
        assert!(round < 10, "the marker is never evicted");
    }
    table.publish(object(german, 11)); // it would be there still in another shard
    // The next one asks without a language, and makes a new marker: `alternate_of`.
    let fill = lead(&table, 7, 30);
    let fresh = Marker { names: names(), floor: fill.number - 1 };
    let floor = table.set_marker(7, fresh).unwrap().floor;
    assert!(table.get(german, NOW).object.unwrap().version() <= floor, "it is valid again");
    // What is asked for from then on is good, and a later answer with more names takes nothing of it away.
    assert!(floor < 30);
    let more = Marker { names: vec!["x-device".to_owned()], floor: 40 };
    assert_eq!(table.set_marker(7, more).unwrap().floor, floor);
}

#[test]
fn what_a_fill_brings_that_asked_before_an_invalidation_is_not_offered_after_it() {
    let table = table();
    let before = lead(&table, 7, 10);
    assert_eq!(table.forget_key(7, 20), Forgot::Unknown);
    assert!(before.is_purged());
    crowd_out(&table, &[7], 1);
    crowd_out(&table, &[7], 2);
    // Its answer comes only now.
    table.publish(object(7, 11));
    assert!(table.get(7, NOW).object.is_none());
    let after = lead(&table, 7, 30);
    table.end_fill(7, &before);
    table.publish(object(7, 31));
    assert_eq!(table.get(7, NOW).object.unwrap().version(), 31);
    assert!(!after.is_purged());
    table.end_fill(7, &after);
    // And then the entry may go.
    crowd_out(&table, &[7], 3);
    crowd_out(&table, &[7], 4);
    assert!(table.get(7, NOW).object.is_none());
}

#[test]
fn what_the_store_says_of_old_versions_ends_no_fill_of_a_new_one() {
    // Between look and answer of the store another core has begun to ask.
    let table = table();
    let fill = lead(&table, 7, 30);
    table.forget_key(7, 20);
    assert!(!fill.is_purged());
    assert!(matches!(table.claim(7, None, NOW, 31), Claim::Join(_)));
    table.publish(object(7, 31));
    table.forget_key(7, 20);
    assert!(table.get(7, NOW).object.is_some());
}

#[test]
fn the_store_is_told_of_an_invalidation_as_long_as_it_may_have_something() {
    let table = table();
    assert_eq!(table.forget_key(7, 10), Forgot::Unknown);
    assert_eq!(table.forget_key(7, 20), Forgot::Nothing, "nothing has come since");
    let given_up = object(7, 25);
    table.publish(given_up.clone());
    table.forget(&given_up);
    // Its head lies in the store, where a restart would find it.
    assert_eq!(table.forget_key(7, 30), Forgot::Unknown);
    table.publish(object(7, 35));
    assert_eq!(table.forget_key(7, 40), Forgot::Object);
    table.publish(object(7, 45));
    assert_eq!(table.sweep(50, |_| false), None);
    assert_eq!(table.forget_key(7, 60), Forgot::Unknown);
    assert_eq!(table.forget_key(7, 70), Forgot::Nothing);
}

#[test]
fn a_part_that_comes_leaves_the_fill_of_others_alone() {
    let table = table();
    let first = lead(&table, 7, 10);
    table.forget_key(7, 20);
    let second = lead(&table, 7, 30);
    let part = table.publish_part(object(7, 11), 0, 5, &first);
    assert!(
        matches!(table.claim(7, None, NOW, 31), Claim::Join(fill) if Arc::ptr_eq(&fill, &second))
    );
    table.end_fill(7, &part);
    table.end_fill(7, &second);
    assert!(table.get(7, NOW).fill.is_none());
}

#[test]
fn a_hundred_thousand_languages_are_64_alternates_and_little_memory() {
    // Reliability design 2.3, 24. Method: each asks as `obtain` does, and is answered at once.
    let table = Table::new(64 << 20, Arc::new(Windows::new(1 << 20)));
    table.set_marker(7, Marker { names: names(), floor: 0 }).unwrap();
    let mut kept = 0;
    for n in 0..100_000u64 {
        let key = alternate_key(7, &choose(&names(), &asking(&format!("x-{n}"))));
        if !table.may_have_alternate(7, key, NOW) {
            continue;
        }
        let fill = lead(&table, key, n + 1);
        table.publish(object(key, n + 1));
        table.end_fill(key, &fill);
        kept += 1;
    }
    assert_eq!(kept, ALTERNATES_MAX);
    assert_eq!(table.len(), ALTERNATES_MAX + 1);
    assert!(table.bytes() < 256 << 10, "{}", table.bytes());
    // When all of these have gone stale, as many others have their turn.
    let later = NOW + 3_600_001;
    let key = alternate_key(7, &choose(&names(), &asking("de")));
    assert!(table.may_have_alternate(7, key, later));
}

#[derive(Debug, Clone)]
enum Event {
    /// A client asks, in one of these languages or in none.
    Asked(Option<&'static str>),
    /// The fill that has waited longest but so many is answered; the answer varies by the language.
    Answered(usize, bool),
    /// An unsafe method has gone through.
    Posted,
    /// Entries that may go do: the URL's own, or its alternates' as well.
    Crowded(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let language = prop_oneof![Just(None), Just(Some("de")), Just(Some("fr"))];
    let event = prop_oneof![
        5 => language.prop_map(Event::Asked),
        4 => (0usize..3, any::<bool>()).prop_map(|(n, varies)| Event::Answered(n, varies)),
        2 => Just(Event::Posted),
        1 => any::<bool>().prop_map(Event::Crowded),
    ];
    proptest::collection::vec(event, 1..80)
}

/// A fill under way: what it leads, the fields it has sent, and the number of its question.
type UnderWay = (Arc<Fill>, u128, Vec<(String, Option<bytes::Bytes>)>, u64);

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..Default::default() })]

    /// Whatever comes in whatever order, and whatever is evicted in between: no request is given what was asked for before
    /// the last unsafe method that went through. Without a store, so that the table alone knows.
    #[test]
    fn nothing_invalid_is_ever_offered(events in events()) {
        const PRIMARY: u128 = 7;
        let table = table();
        let (mut clock, mut invalid, mut round) = (1u64, 0u64, 0u128);
        let mut under_way: Vec<UnderWay> = Vec::new();
        let german = alternate_key(PRIMARY, &choose(&names(), &asking("de")));
        let french = alternate_key(PRIMARY, &choose(&names(), &asking("fr")));
        let silent = alternate_key(PRIMARY, &choose(&names(), &Fields::new()));
        for event in events {
            clock += 1;
            match event {
                Event::Asked(language) => {
                    // As `obtain` does.
                    let fields = language.map_or_else(Fields::new, asking);
                    let (mut key, mut chosen) = (PRIMARY, Vec::new());
                    let mut known = table.get(key, NOW);
                    if let Some(marker) = known.marker.clone() {
                        chosen = choose(&marker.names, &fields);
                        key = alternate_key(PRIMARY, &chosen);
                        known = table.get(key, NOW);
                        if let Some(old) = known.object.take_if(|o| o.version() <= marker.floor) {
                            table.forget(&old);
                        }
                        if let Some(fill) = known.fill.take_if(|fill| fill.number <= marker.floor) {
                            fill.set_purged();
                            table.end_fill(key, &fill);
                        }
                    }
                    if let Some(object) = known.object {
                        prop_assert!(object.version() > invalid, "{} <= {invalid}", object.version());
                    } else if let Claim::Lead(fill) = table.claim(key, None, NOW, clock) {
                        clock += 1;
                        under_way.push((fill, key, chosen, clock));
                    }
                }
                Event::Answered(n, varies) if n < under_way.len() => {
                    let (fill, led, chosen, version) = under_way.remove(n);
                    let mut key = led;
                    if varies && chosen.is_empty() {
                        // As `alternate_of` does: what was not sent chose by its absence.
                        let marker = Marker { names: names(), floor: fill.number - 1 };
                        table.set_marker(PRIMARY, marker).unwrap();
                        key = silent;
                        table.move_fill(led, key, &fill);
                    }
                    table.publish(object(key, version));
                    table.end_fill(key, &fill);
                }
                Event::Answered(..) => {}
                Event::Posted => {
                    invalid = clock;
                    if table.raise_floor(PRIMARY, clock).is_none() {
                        table.forget_key(PRIMARY, clock);
                    }
                }
                Event::Crowded(is_all) => {
                    let keys = [PRIMARY, german, french, silent];
                    for _ in 0..2 {
                        round += 1;
                        crowd_out(&table, if is_all { &keys } else { &keys[..1] }, round);
                    }
                }
            }
        }
    }
}
