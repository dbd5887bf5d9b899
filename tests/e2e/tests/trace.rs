//! The reference trace in small: a parent with room for everything asks its origin once for each object.
//! Method: the trace origin in this process counts, the replay checks every body, the infinite model says what to expect.

use std::io::Cursor;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions};
use tidegate_load::trace::make::Generator;
use tidegate_load::trace::model::{Model, Outcome, Policy};
use tidegate_load::trace::origin::{Counts, Manners, Origin};
use tidegate_load::trace::recipe::Recipe;
use tidegate_load::trace::replay::{Errors, Options, Replayed, replay};
use tidegate_load::trace::{self, CLASSES};

fn recipe() -> Recipe {
    Recipe {
        requests: 3000,
        scale: 0.005,
        titles: 6,
        vod_viewers: 60,
        live_viewers: 30,
        ..Recipe::default()
    }
}

/// Replays through a lone parent; the origin is slow enough that requests for one object meet.
fn through_a_parent(name: &str, recipe: &Recipe, connections: usize, origin: &Origin) -> Replayed {
    let fleet = Fleet::start(
        name,
        &FleetOptions {
            parents: 1,
            // A snapshot needs one; it has nothing to do here.
            edges: 1,
            ram_bytes: 64 << 20,
            origin: Some(origin.address),
            ..FleetOptions::default()
        },
    );
    let mut text = Vec::new();
    trace::write(recipe, &mut text).unwrap();
    let options = Options {
        target: fleet.member("parent-1").http(),
        host: HOST.to_owned(),
        connections,
        timeout: Duration::from_secs(120),
        pace: None,
    };
    let replayed = replay(Cursor::new(text), &options).unwrap();
    assert_eq!(replayed.errors, Errors::default(), "{:?}", replayed.first_failure);
    assert_eq!((replayed.requests, replayed.ranges_ignored), (recipe.requests, 0));
    replayed
}

/// An origin whose answers stay fresh for the whole test: then a model without a clock is exact.
fn origin() -> Origin {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let manners =
        Manners { max_age_seconds: [3600; CLASSES.len()], delay: Duration::from_millis(5) };
    Origin::start(address, manners).unwrap()
}

fn expected(recipe: &Recipe) -> Outcome {
    let mut model = Model::new(Policy::Infinite);
    Generator::new(recipe.clone()).for_each(|line| model.ask(&line));
    model.outcome()
}

#[test]
fn with_room_for_all_the_origin_is_asked_once_for_each_object() {
    let recipe = Recipe { ranges: 0.0, seek: 0.0, ..recipe() };
    let (origin, model) = (origin(), expected(&recipe));
    let replayed = through_a_parent("trace-whole", &recipe, 48, &origin);
    let counts = origin.counts();
    let Counts { requests, bytes, objects, .. } = counts;
    assert_eq!((requests, bytes, objects), (model.objects, model.object_bytes, model.objects));
    assert_eq!((counts.overlapping, counts.not_modified, counts.unknown), (0, 0, 0));
    assert_eq!(replayed.bytes, model.bytes);
    assert_eq!(replayed.object_hit_ratio(requests), model.object_hit_ratio());
    assert_eq!(replayed.byte_hit_ratio(bytes), model.byte_hit_ratio());
}

#[test]
fn requests_in_part_bring_every_object_once_too() {
    // All objects are smaller than a block, which is the least that is filled.
    let recipe = Recipe { ranges: 0.3, seek: 0.2, ..recipe() };
    let (origin, model) = (origin(), expected(&recipe));
    let replayed = through_a_parent("trace-parts", &recipe, 48, &origin);
    let counts = origin.counts();
    assert_eq!((counts.requests, counts.bytes), (model.objects, model.object_bytes));
    assert_eq!(replayed.bytes, model.bytes);
}
