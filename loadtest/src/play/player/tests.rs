//! Goal: what a viewer sees follows from what the network gives. Method: a network on paper: a clock by hand, a
//! throughput and a latency for each moment, a film of three renditions or a live channel.

use super::*;
use proptest::prelude::*;

const SECONDS: f64 = 4.0;
/// Nothing is waited for longer.
const TIMEOUT_S: u64 = 60;
const RENDITIONS: [u64; 3] = [500_000, 2_000_000, 6_000_000];

/// A server and the way to it.
struct World<'a> {
    /// Bits per second at a moment (seconds).
    bps: &'a dyn Fn(f64) -> f64,
    segments: u64,
    /// Media segments that come in real time, with so many in a playlist.
    live: Option<u64>,
    /// Targets that do not come, from a moment on.
    broken: &'a dyn Fn(&str, f64) -> bool,
    asked: Vec<(f64, String)>,
}

impl World<'_> {
    fn master(&self) -> String {
        RENDITIONS.iter().fold("#EXTM3U\n".to_owned(), |text, bandwidth| {
            format!("{text}#EXT-X-STREAM-INF:BANDWIDTH={bandwidth}\n{bandwidth}/i.m3u8\n")
        })
    }

    fn media(&self, now_s: f64) -> String {
        let (first, after) = match self.live {
            None => (0, self.segments),
            Some(length) => {
                let after = 100 + (now_s / SECONDS) as u64;
                (after - length, after)
            }
        };
        let mut text = format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-MAP:URI=\"init\"\n"
        );
        (first..after).for_each(|n| text += &format!("#EXTINF:{SECONDS},\n{n}.m4s\n"));
        if self.live.is_none() {
            text += "#EXT-X-ENDLIST\n";
        }
        text
    }

    /// Plays until the end or until so many seconds are over.
    fn play(&mut self, manners: Manners, until_s: f64) -> Player {
        let url = Url::parse("http://film.example/master.m3u8").unwrap();
        let mut now = 0u64;
        let mut player = Player::new(manners, url, now);
        let seconds = |ns: u64| ns as f64 / SECOND_NS as f64;
        while seconds(now) < until_s {
            match player.next(now) {
                Next::Over => break,
                Next::Wait(until) => {
                    assert!(until > now, "a wait that is over");
                    now = until;
                }
                Next::Ask(ask) => {
                    self.asked.push((seconds(now), ask.url.target.clone()));
                    let asked_ns = now;
                    let target = ask.url.target.as_str();
                    now += SECOND_NS / 50;
                    if (self.broken)(target, seconds(now)) {
                        player.failed(now);
                        continue;
                    }
                    let text = match target {
                        "/master.m3u8" => self.master(),
                        _ if target.ends_with("m3u8") => self.media(seconds(now)),
                        _ => String::new(),
                    };
                    let bandwidth: u64 =
                        target.split('/').nth(1).and_then(|b| b.parse().ok()).unwrap_or(0);
                    let bytes = match text.len() as u64 {
                        0 if target.ends_with("init") => 1000,
                        0 => (bandwidth as f64 * SECONDS / 8.0) as u64,
                        length => length,
                    };
                    // In tenths of a second, so that the throughput may change on the way.
                    let mut left = bytes as f64 * 8.0;
                    while left > 0.5 && now < asked_ns + TIMEOUT_S * SECOND_NS {
                        let bps = (self.bps)(seconds(now)).max(1.0);
                        let step = (left / bps).min(0.1);
                        left -= bps * step;
                        now += (step * SECOND_NS as f64) as u64 + 1;
                    }
                    if left > 0.5 {
                        player.failed(now);
                        continue;
                    }
                    let loaded = Loaded { asked_ns, bytes, text: text.as_bytes(), from: &ask.url };
                    player.arrived(now, &loaded).unwrap();
                }
            }
        }
        player.leave(now);
        self.accounts(&player, now);
        player
    }

    fn accounts(&self, player: &Player, now: u64) {
        let watched = player.watched();
        let startup = watched.startup_ns.unwrap_or(0);
        let sum = startup + watched.played_ns + watched.stalled_ns;
        assert!(sum <= now + 1, "{watched:?}");
        assert!(watched.played_ns as f64 <= (watched.loaded_s + 0.001) * SECOND_NS as f64);
    }

    fn asked_at(&self, ending: &str) -> usize {
        self.asked.iter().filter(|(_, target)| target.ends_with(ending)).count()
    }
}

fn world(bps: &dyn Fn(f64) -> f64) -> World<'_> {
    World { bps, segments: 30, live: None, broken: &|_, _| false, asked: Vec::new() }
}

#[test]
fn a_fast_network_gives_the_best_rendition_without_a_stall() {
    let mut world = world(&|_| 50e6);
    let player = world.play(Manners::default(), 1000.0);
    let watched = player.watched();
    assert_eq!((watched.stalls, watched.failed, watched.skipped), (0, 0, 0));
    assert_eq!((watched.loaded_s, watched.switches_down), (120.0, 0));
    assert!((watched.played_ns as f64 / 1e9 - 120.0).abs() < 0.01, "{watched:?}");
    assert!(watched.startup_ns.unwrap() < SECOND_NS / 2);
    // Begun low, risen once the buffer was safe.
    assert_eq!(watched.switches_up, 1);
    assert_eq!(world.asked_at("6000000/20.m4s"), 1);
    // An init segment for each rendition that was played, once.
    assert_eq!(world.asked_at("init"), 2);
    // The buffer is never fuller than it may be and one media segment.
    let last = world.asked.iter().find(|(_, target)| target.ends_with("/29.m4s")).unwrap();
    assert!(last.0 >= 29.0 * SECONDS - 30.0 - SECONDS, "{last:?}");
}

#[test]
fn a_network_below_the_lowest_rendition_stalls() {
    let mut world = world(&|_| 400e3);
    let player = world.play(Manners::default(), 1000.0);
    let watched = player.watched();
    assert_eq!((watched.switches_up, watched.switches_down), (0, 0));
    assert!(watched.stalls >= 20, "{watched:?}");
    // 4 s of media take 5 s to load: a fifth of the time is waiting.
    let ratio = watched.stalled_ns as f64 / (watched.stalled_ns + watched.played_ns) as f64;
    assert!((ratio - 0.2).abs() < 0.03, "{ratio}");
    assert!(watched.startup_ns.unwrap() > 4 * SECOND_NS);
}

#[test]
fn a_network_that_breaks_down_costs_the_rendition_and_not_the_picture() {
    let mut world = world(&|now| if now < 30.0 { 20e6 } else { 1.5e6 });
    let player = world.play(Manners::default(), 1000.0);
    let watched = player.watched();
    assert!(watched.switches_up >= 1 && watched.switches_down >= 1, "{watched:?}");
    assert_eq!(watched.stalls, 0, "the buffer bridges it: {watched:?}");
    assert_eq!(world.asked_at("500000/29.m4s"), 1, "{:?}", world.asked);
}

#[test]
fn a_silence_longer_than_the_buffer_is_one_stall_of_the_rest() {
    let mut world = world(&|now| if (20.0..70.0).contains(&now) { 1.0 } else { 20e6 });
    let player = world.play(Manners::default(), 1000.0);
    let watched = player.watched();
    assert_eq!(watched.stalls, 1, "{watched:?}");
    let stalled_s = watched.stalled_ns as f64 / 1e9;
    assert!((15.0..25.0).contains(&stalled_s), "50 s of silence, 30 s of buffer: {stalled_s}");
}

#[test]
fn live_is_followed_three_targets_behind_its_end() {
    let mut world = World { live: Some(6), ..world(&|_| 20e6) };
    let player =
        world.play(Manners { watch_ns: Some(60 * SECOND_NS), ..Manners::default() }, 1000.0);
    let watched = player.watched();
    assert_eq!((watched.stalls, watched.skipped, watched.failed), (0, 0, 0), "{watched:?}");
    let first = world.asked.iter().find(|(_, target)| target.ends_with("m4s")).unwrap();
    assert!(first.1.ends_with("/97.m4s"), "{first:?}");
    // 60 s and the three that were there already; the last is still to come or not.
    let segments = world.asked.iter().filter(|(_, target)| target.ends_with("m4s")).count();
    assert!((16..=18).contains(&segments), "{segments}");
    let playlists = world.asked.iter().filter(|(_, target)| target.ends_with("i.m3u8")).count();
    assert!((14..=40).contains(&playlists), "{playlists}");
    let total = watched.startup_ns.unwrap() + watched.played_ns;
    assert!(total.abs_diff(60 * SECOND_NS) < SECOND_NS / 10, "{watched:?}");
}

#[test]
fn a_hole_is_jumped_over_and_a_dead_server_is_given_up() {
    let hole = |target: &str, _: f64| target.ends_with("/3.m4s");
    let mut with_hole = World { broken: &hole, ..world(&|_| 20e6) };
    let watched = with_hole.play(Manners::default(), 1000.0).watched().clone();
    assert_eq!((watched.skipped, watched.failed, watched.loaded_s), (1, 0, 116.0));

    let mut dead = World { broken: &|_, _| true, ..world(&|_| 20e6) };
    let player = dead.play(Manners::default(), 1000.0);
    assert_eq!((player.seen(), player.watched().failed), (Seen::Over, 1));
    assert_eq!((player.watched().startup_ns, dead.asked.len()), (None, 4));
}

#[test]
fn a_live_player_that_was_away_goes_on_at_what_is_there() {
    let mut world = World {
        live: Some(5),
        ..world(&|now| if (10.0..60.0).contains(&now) { 1.0 } else { 20e6 })
    };
    let player =
        world.play(Manners { watch_ns: Some(90 * SECOND_NS), ..Manners::default() }, 1000.0);
    let watched = player.watched();
    assert!(watched.skipped >= 5 && watched.stalls >= 1, "{watched:?}");
    assert!(watched.played_ns > 30 * SECOND_NS, "{watched:?}");
}

proptest! {
    /// Whatever the network does, all time is accounted for, and a player ends.
    #[test]
    fn all_time_is_startup_played_or_stalled(
        bps in proptest::collection::vec(prop_oneof![Just(1.0), 1e4..1e8f64], 40),
        live in proptest::option::of(3u64..8),
    ) {
        let at = |now: f64| bps[(now / 5.0) as usize % bps.len()];
        let mut world = World { live, segments: 10, ..world(&at) };
        let watch_ns = Some(200 * SECOND_NS);
        let player = world.play(Manners { watch_ns, ..Manners::default() }, 100_000.0);
        prop_assert_eq!(player.seen(), Seen::Over);
        let watched = player.watched();
        prop_assert!(watched.loaded_s >= 0.0 && player.buffer_s() >= 0.0);
    }
}
