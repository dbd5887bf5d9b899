//! Goal: the own view and the monitors' words are weighed as the module says, also when a monitor lies or
//! dies. Method: heartbeats and verdicts at chosen times into the view.

use super::*;
use tidegate_contract::{Load, Server, ServingState, Stamp, Verdict, compile};

fn snapshot(monitors: usize) -> Snapshot {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/example-config");
    let names = ["cdn.toml", "servers.toml", "coverage-zones.json", "delivery-services/films.toml"];
    let mut files: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            ((*name).to_owned(), std::fs::read_to_string(format!("{root}/{name}")).unwrap())
        })
        .collect();
    files.push(("keys/heartbeat.key".to_owned(), "5a".repeat(32)));
    let mut snapshot = compile(&files, 1).unwrap();
    let monitor = snapshot.servers.iter().find(|s| s.role == Role::Monitor).unwrap().clone();
    snapshot.servers.retain(|s| s.role != Role::Monitor);
    for i in 0..monitors {
        snapshot.servers.push(Server { id: format!("m{i}"), ..monitor.clone() });
    }
    snapshot
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn beat(view: &mut RouterView, now: u64, state: ServingState) {
    let stamp = Stamp { boot: 1, sequence: now, unix_ms: 0 };
    let beat =
        Heartbeat { server: "edge-b1".into(), stamp, state, load: Load::default(), generation: 1 };
    view.heartbeat(ms(now), &beat).unwrap();
}

fn says(view: &mut RouterView, now: u64, monitor: &str, state: VerdictState) {
    let stamp = Stamp { boot: 1, sequence: now, unix_ms: 0 };
    let verdicts = vec![Verdict { server: "edge-b1".into(), state, generation: 1 }];
    view.verdicts(ms(now), &Verdicts { monitor: monitor.into(), stamp, verdicts }).unwrap();
}

fn state(view: &mut RouterView, now: u64) -> State {
    view.tick(ms(now));
    let state = view.states(ms(now)).iter().find(|(id, _)| *id == "edge-b1").unwrap().1;
    assert_eq!(view.health(ms(now)).state("edge-b1"), state, "both forms agree");
    state
}

#[test]
fn a_router_without_monitors_goes_by_its_own_view() {
    let mut view = RouterView::new(&snapshot(0));
    assert_eq!(state(&mut view, 0), State::Down);
    beat(&mut view, 0, ServingState::Up);
    assert_eq!(state(&mut view, 700), State::Up);
    assert_eq!(state(&mut view, 701), State::Down);
    beat(&mut view, 800, ServingState::Draining);
    assert_eq!(state(&mut view, 800), State::Draining);
}

#[test]
fn a_monitor_that_hears_it_keeps_an_edge_in_and_its_silence_counts_for_nothing() {
    let mut view = RouterView::new(&snapshot(1));
    says(&mut view, 1000, "m0", VerdictState::Up);
    assert_eq!(state(&mut view, 1599), State::Up);
    assert!(view.health(ms(1599)).why("edge-b1").starts_with("1 of 1 monitors hear it"));
    assert_eq!(state(&mut view, 1600), State::Down);
    says(&mut view, 1700, "m0", VerdictState::Held);
    assert_eq!(state(&mut view, 1700), State::Down, "held is no hearing");
}

#[test]
fn most_monitors_take_an_edge_out_and_a_lying_minority_does_not() {
    let mut view = RouterView::new(&snapshot(3));
    beat(&mut view, 0, ServingState::Up);
    says(&mut view, 10, "m0", VerdictState::Down);
    says(&mut view, 10, "m1", VerdictState::Up);
    says(&mut view, 10, "m2", VerdictState::Up);
    assert_eq!(state(&mut view, 20), State::Up);
    says(&mut view, 30, "m1", VerdictState::Down);
    assert_eq!(state(&mut view, 40), State::Down);
    assert!(view.health(ms(40)).why("edge-b1").starts_with("2 of 3 monitors say down"));
    beat(&mut view, 700, ServingState::Up);
    assert_eq!(state(&mut view, 700), State::Up, "old words are forgotten");
}

#[test]
fn draining_is_believed_from_anyone_who_heard_it() {
    let mut view = RouterView::new(&snapshot(2));
    beat(&mut view, 0, ServingState::Up);
    says(&mut view, 10, "m0", VerdictState::Draining);
    assert_eq!(state(&mut view, 20), State::Draining);
}

#[test]
fn words_of_strangers_and_repeated_words_are_refused() {
    let mut view = RouterView::new(&snapshot(1));
    let stamp = Stamp { boot: 1, sequence: 5, unix_ms: 0 };
    let said = |monitor: &str| Verdicts { monitor: monitor.into(), stamp, verdicts: vec![] };
    assert_eq!(view.verdicts(ms(0), &said("m9")), Err(Refusal::Unknown));
    assert_eq!(view.verdicts(ms(0), &said("m0")), Ok(()));
    assert_eq!(view.verdicts(ms(0), &said("m0")), Err(Refusal::Old));
}
