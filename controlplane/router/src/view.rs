//! Who is up, as a router holds it: its own heartbeats, checked against what the monitors hear.
//!
//! Rules: one that says it drains is draining. Down when most monitors that spoke lately say so, or when its
//! own heartbeats stopped and no monitor that spoke lately hears it. A monitor that fell silent counts for
//! nothing.
//!
//! Must stay true: one monitor among several cannot take an edge out; a router without monitors works.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tidegate_contract::{Heartbeat, Newest, Role, Snapshot, VerdictState, Verdicts};
use tidegate_monitor::{HealthTable, Refusal, Transition, Word};
use tidegate_steer::{Health, State};

/// Who is up, as a router holds it.
#[derive(Debug)]
pub struct RouterView {
    own: HealthTable,
    monitors: BTreeMap<String, MonitorView>,
}

#[derive(Debug, Default)]
struct MonitorView {
    newest: Newest,
    verdicts: HashMap<String, (VerdictState, Duration)>,
}

/// What the monitors that spoke lately say of one server.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    spoke: usize,
    hear: usize,
    down: usize,
    draining: usize,
}

impl RouterView {
    pub fn new(snapshot: &Snapshot) -> RouterView {
        let mut view = RouterView { own: HealthTable::new(snapshot), monitors: BTreeMap::new() };
        view.adopt(snapshot);
        view
    }

    /// Takes up another snapshot.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        self.own.adopt(snapshot);
        let mut before = std::mem::take(&mut self.monitors);
        for monitor in snapshot.servers.iter().filter(|s| s.role == Role::Monitor) {
            let mut view = before.remove(&monitor.id).unwrap_or_default();
            view.verdicts.retain(|server, _| self.own.word(server).is_some());
            self.monitors.insert(monitor.id.clone(), view);
        }
    }

    pub fn heartbeat(
        &mut self,
        now: Duration,
        beat: &Heartbeat,
    ) -> Result<Option<Transition>, Refusal> {
        self.own.heartbeat(now, beat)
    }

    /// Takes the word of a monitor whose MAC has been checked.
    pub fn verdicts(&mut self, now: Duration, said: &Verdicts) -> Result<(), Refusal> {
        let monitor = self.monitors.get_mut(&said.monitor).ok_or(Refusal::Unknown)?;
        if !monitor.newest.accept(&said.stamp) {
            return Err(Refusal::Old);
        }
        for verdict in said.verdicts.iter().filter(|v| self.own.word(&v.server).is_some()) {
            monitor.verdicts.insert(verdict.server.clone(), (verdict.state, now));
        }
        Ok(())
    }

    /// See [`HealthTable::stood_still`].
    pub fn stood_still(&mut self, now: Duration, gap: Duration) {
        self.own.stood_still(now, gap);
    }

    pub fn tick(&mut self, now: Duration) -> Vec<Transition> {
        self.own.tick(now)
    }

    pub fn own(&self) -> &HealthTable {
        &self.own
    }

    /// The state of every watched server, by id.
    pub fn states(&self, now: Duration) -> Vec<(&str, State)> {
        self.own
            .view_words()
            .map(|(server, word)| (server, self.judge(server, word, now).0))
            .collect()
    }

    /// The same with the reasons, as `decide` takes it.
    pub fn health(&self, now: Duration) -> Health {
        let mut health = Health::default();
        for own in self.own.view(now) {
            let (state, by) = self.judge(own.server, own.word, now);
            let why = match by {
                None => own.why,
                Some(by) => format!("{by}; own view: {}", own.why),
            };
            health.set(own.server, state, why);
        }
        health
    }

    /// Monitors and how many verdicts of each are fresh.
    pub fn monitors(&self, now: Duration) -> impl Iterator<Item = (&str, usize)> {
        self.monitors.iter().map(move |(id, view)| {
            (id.as_str(), view.verdicts.values().filter(|(_, at)| is_fresh(*at, now)).count())
        })
    }

    /// The state, and what decided it when it was not the own view.
    fn judge(&self, server: &str, own: Word, now: Duration) -> (State, Option<String>) {
        let tally = self.tally(server, now);
        if own == Word::Draining {
            return (State::Draining, None);
        }
        if tally.draining > 0 {
            return (State::Draining, Some("a monitor heard that it drains".to_owned()));
        }
        if tally.down * 2 > tally.spoke {
            return (
                State::Down,
                Some(format!("{} of {} monitors say down", tally.down, tally.spoke)),
            );
        }
        match own {
            Word::Up | Word::Held => (State::Up, None),
            _ if tally.hear > 0 => {
                (State::Up, Some(format!("{} of {} monitors hear it", tally.hear, tally.spoke)))
            }
            _ => (State::Down, None),
        }
    }

    fn tally(&self, server: &str, now: Duration) -> Tally {
        let mut tally = Tally::default();
        for view in self.monitors.values() {
            let said = view.verdicts.get(server).filter(|(_, at)| is_fresh(*at, now));
            let Some((state, _)) = said else { continue };
            tally.spoke += 1;
            match state {
                VerdictState::Up => tally.hear += 1,
                VerdictState::Draining => tally.draining += 1,
                VerdictState::Down => tally.down += 1,
                // Held is the absence of knowledge: it neither hears nor condemns.
                VerdictState::Held => {}
            }
        }
        tally
    }
}

fn is_fresh(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < VERDICT_FRESH
}

/// Verdicts come every 200 ms; one that is older than three of them says nothing about now.
const VERDICT_FRESH: Duration = Duration::from_millis(600);

#[cfg(test)]
mod tests;
