//! Goal: a trace is what its recipe says, on every run; what is no trace is refused.
//! Method: whole traces in memory, counted by hand; random recipes.

use super::make::Generator;
use super::model::{Model, Policy};
use super::recipe::Recipe;
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn recipe(requests: u64) -> Recipe {
    Recipe {
        requests,
        titles: 12,
        episodes: 3,
        segments: 10,
        vod_viewers: 40,
        live_channels: 2,
        live_viewers: 20,
        scale: 0.001,
        ..Recipe::default()
    }
}

fn lines(recipe: &Recipe) -> Vec<Line> {
    Generator::new(recipe.clone()).collect()
}

fn text(recipe: &Recipe) -> Vec<u8> {
    let mut out = Vec::new();
    write(recipe, &mut out).unwrap();
    out
}

#[test]
fn the_seed_decides_every_byte() {
    let one = Recipe { seed: 7, ..recipe(5000) };
    assert_eq!(text(&one), text(&one));
    assert_ne!(text(&one), text(&Recipe { seed: 8, ..one }));
}

#[test]
fn the_header_names_every_parameter_and_lines_read_as_they_were_written() {
    let recipe = recipe(3000);
    let bytes = text(&recipe);
    let head = String::from_utf8(bytes.clone()).unwrap();
    for (name, value) in recipe.parameters() {
        assert!(head.contains(&format!("# {name}={value}\n")), "{name}");
    }
    let mut reader = Reader::new(&bytes[..]).unwrap();
    for line in lines(&recipe) {
        assert_eq!(reader.next_line().unwrap(), Some(line));
    }
    assert_eq!(reader.next_line().unwrap(), None);
}

#[test]
fn what_is_made_is_counted() {
    let recipe = recipe(20_000);
    let mut generator = Generator::new(recipe);
    let lines: Vec<Line> = generator.by_ref().collect();
    let made = generator.made();
    let mut objects: HashMap<&str, u64> = HashMap::new();
    for line in &lines {
        *objects.entry(&line.path).or_default() += 1;
    }
    assert_eq!(made.requests, lines.len() as u64);
    assert_eq!(made.bytes, lines.iter().map(Line::body_bytes).sum::<u64>());
    assert_eq!(made.objects, objects.len() as u64);
    assert_eq!(made.objects_once, objects.values().filter(|n| **n == 1).count() as u64);
    let sizes: u64 = objects.keys().map(|path| Object::parse(path).unwrap().size).sum();
    assert_eq!(made.object_bytes, sizes);
}

#[test]
fn the_share_of_objects_seen_once_is_the_recipes() {
    for once in [0.6, 0.75, 0.9] {
        let mut generator = Generator::new(Recipe { once, ..recipe(60_000) });
        generator.by_ref().for_each(drop);
        let made = generator.made();
        let share = made.objects_once as f64 / made.objects as f64;
        assert!((share - once).abs() < 0.02, "{once}: {share}");
    }
}

#[test]
fn titles_are_begun_by_the_zipf_law() {
    // Each playlist of a first episode is one beginning: their counts by title against 1 / n^s.
    let zipf = 1.0;
    // All leave after one media segment, so that beginnings are many.
    let recipe = Recipe { zipf, leave: 1.0, live_viewers: 0, once: 0.0, ..recipe(60_000) };
    let mut begun = vec![0.0; recipe.titles as usize];
    for line in lines(&recipe).iter().filter(|line| line.object.class == Class::VodPlaylist) {
        let title = line.path.strip_prefix("/vod-playlist/t").unwrap();
        let (title, _) = title.split_once('/').unwrap();
        begun[title.parse::<usize>().unwrap()] += 1.0;
    }
    let all: f64 = begun.iter().sum();
    let weights: f64 = (1..=begun.len()).map(|n| (n as f64).powf(-zipf)).sum();
    for (index, count) in begun.iter().enumerate() {
        let expected = ((index + 1) as f64).powf(-zipf) / weights;
        assert!((count / all - expected).abs() < 0.02, "title {index}: {} {expected}", count / all);
    }
}

#[test]
fn live_media_segments_come_to_many_at_once_and_never_again() {
    let lines = lines(&recipe(30_000));
    let mut seen: HashMap<&str, (u64, u64)> = HashMap::new();
    for line in lines.iter().filter(|line| line.object.class == Class::Live) {
        let times = seen.entry(&line.path).or_insert((line.at_ms, line.at_ms));
        times.1 = line.at_ms;
    }
    assert!(seen.len() > 100);
    for (path, (first, last)) in seen {
        assert!(last - first <= recipe::LIVE_SEGMENT_MS, "{path}: {first} to {last}");
    }
}

#[test]
fn episodes_are_watched_media_segment_by_media_segment_and_then_the_next_one() {
    let recipe = Recipe { seek: 0.0, leave: 0.0, binge: 1.0, ..recipe(30_000) };
    let mut last: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut next_episodes = 0;
    for line in lines(&recipe).iter().filter(|line| line.object.class == Class::Vod) {
        let mut parts = line.path.split('/').skip(3);
        let number = |part: &str| part[1..].split('.').next().unwrap().parse::<u64>().unwrap();
        let (episode, _rendition, segment) =
            (number(parts.next().unwrap()), parts.next(), number(parts.next().unwrap()));
        if let Some((e, s)) = last.insert(line.client, (episode, segment)) {
            let on = (episode, segment) == (e, s + 1);
            let next = s + 1 == u64::from(recipe.segments) && (episode, segment) == (e + 1, 0);
            assert!(on || next, "{e} {s} then {episode} {segment}");
            next_episodes += u64::from(next);
        }
    }
    assert!(next_episodes > 10);
}

#[test]
fn an_infinite_cache_asks_once_for_each_object_and_small_ones_more_often() {
    let lines = lines(&recipe(20_000));
    let run = |policy| {
        let mut model = Model::new(policy);
        lines.iter().for_each(|line| model.ask(line));
        model.outcome()
    };
    let infinite = run(Policy::Infinite);
    assert_eq!(infinite.origin_requests, infinite.objects);
    assert_eq!(infinite.origin_bytes, infinite.object_bytes);
    let room = infinite.object_bytes / 10;
    let (lru, fifo) = (run(Policy::Lru(room)), run(Policy::Fifo(room)));
    assert!(lru.origin_requests > infinite.origin_requests);
    assert!(fifo.origin_requests >= lru.origin_requests);
    let nothing = run(Policy::Lru(0));
    assert_eq!(nothing.origin_requests, nothing.requests);
}

#[test]
fn least_recently_used_goes_first() {
    let ask = |path: &str| Line {
        at_ms: 0,
        client: 0,
        path: path.to_owned(),
        range: None,
        object: Object::parse(path).unwrap(),
    };
    let order = ["/vod/a.4.x", "/vod/b.4.x", "/vod/a.4.x", "/vod/c.4.x", "/vod/a.4.x"];
    for (policy, misses) in [(Policy::Lru(8), 3), (Policy::Fifo(8), 4), (Policy::Infinite, 3)] {
        let mut model = Model::new(policy);
        order.iter().for_each(|path| model.ask(&ask(path)));
        assert_eq!(model.outcome().origin_requests, misses, "{policy:?}");
    }
}

#[test]
fn what_is_no_line_is_refused() {
    let good = "5 1 GET /vod/t0/e0/1000k/s0.100.m4s 0-99 100 vod";
    assert_eq!(Line::parse(good).unwrap().to_string(), good);
    for (bad, what) in [
        ("", "time"),
        ("5", "client"),
        ("x 1 GET /vod/a.1.m4s - 1 vod", "time"),
        ("5 1 PUT /vod/a.1.m4s - 1 vod", "method"),
        ("5 1 GET vod/a.1.m4s - 1 vod", "path"),
        ("5 1 GET /film/a.1.m4s - 1 vod", "path"),
        ("5 1 GET /vod/a.01.m4s - 1 vod", "path"),
        ("5 1 GET /vod/a.0.m4s - 0 vod", "path"),
        ("5 1 GET /vod/a.9.m4s 3-9 9 vod", "range"),
        ("5 1 GET /vod/a.9.m4s 3-2 9 vod", "range"),
        ("5 1 GET /vod/a.9.m4s - 8 vod", "size"),
        ("5 1 GET /vod/a.9.m4s - 9 live", "class"),
        ("5 1 GET /vod/a.9.m4s - 9 vod ", "end"),
    ] {
        assert_eq!(Line::parse(bad), Err(LineError(what)), "{bad}");
    }
    let file = |text: &str| -> Result<u64, TraceError> {
        let mut reader = Reader::new(text.as_bytes())?;
        let mut count = 0;
        while reader.next_line()?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    assert!(matches!(file(""), Err(TraceError::NotATrace)));
    assert!(matches!(file(good), Err(TraceError::NotATrace)));
    assert_eq!(file(&format!("{FIRST_LINE}\n\n# note\n{good}\n{good}")).unwrap(), 2);
    let early = good.replacen('5', "4", 1);
    let backwards = format!("{FIRST_LINE}\n{good}\n{early}\n");
    assert!(matches!(file(&backwards), Err(TraceError::Backwards(3))));
    let long = format!("{FIRST_LINE}\n{}", "x".repeat(LINE_BYTES_MAX as usize + 1));
    assert!(matches!(file(&long), Err(TraceError::TooLong(2))));
}

#[test]
fn any_piece_of_an_object_is_its_bytes_and_another_piece_is_not() {
    let object = Object::parse("/vod/t1/e1/5000k/s1.100003.m4s").unwrap();
    let mut all = vec![0; object.size as usize];
    object.fill(0, &mut all);
    for (offset, byte) in all.iter().enumerate().step_by(101) {
        assert_eq!(object.byte(offset as u64), *byte);
    }
    let mut middle = vec![0; 5000];
    object.fill(4096, &mut middle);
    assert_eq!(middle, all[4096..9096]);
    assert!(object.agrees(4099, &all[4099..70_000]));
    // Another place, another object, or beyond the end.
    assert!(!object.agrees(4096, &all[8192..70_000]));
    let other = Object::parse("/vod/t1/e1/5000k/s2.100003.m4s").unwrap();
    assert!(!other.agrees(0, &all));
    assert!(!object.agrees(object.size - 1, &all[..2]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_recipe_makes_a_good_trace(
        seed: u64, titles in 1u32..20, episodes in 1u32..4, segments in 1u32..8, zipf in 0.0f64..2.0,
        vod in 0u32..30, live in 1u32..30, channels in 1u32..5, leave in 0.0f64..1.0, seek in 0.0f64..1.0,
        ranges in 0.0f64..1.0, once in 0.0f64..0.95,
    ) {
        let recipe = Recipe {
            seed, titles, episodes, segments, zipf, vod_viewers: vod, live_viewers: live,
            live_channels: channels, leave, seek, ranges, once, ..recipe(1500)
        };
        prop_assert!(recipe.check().is_ok());
        let made = lines(&recipe);
        prop_assert_eq!(made.len(), 1500);
        prop_assert!(made.windows(2).all(|two| two[0].at_ms <= two[1].at_ms));
        let mut names: HashMap<&str, (u64, Class)> = HashMap::new();
        for line in &made {
            // Reading checks range, size and class against the path.
            prop_assert_eq!(&Line::parse(&line.to_string()).unwrap(), line);
            // A name without its size has one size.
            let (name, _) = line.path.rsplit_once('.').unwrap().0.rsplit_once('.').unwrap();
            let object = (line.object.size, line.object.class);
            prop_assert_eq!(*names.entry(name).or_insert(object), object);
        }
    }

    #[test]
    fn no_line_makes_the_reader_panic(text in ".{0,80}") {
        let _outcome = Line::parse(&text);
        let _outcome = Object::parse(&text);
    }
}
