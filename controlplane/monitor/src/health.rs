//! The judgement of who is up, sans-IO.
//!
//! ```text
//! Unheard  -- first heartbeat ------------> Up
//! Up       -- silence --------------------> Down (or Held, when too many fall at once)
//! Held     -- heartbeat ------------------> Up;  -- room in the window --> Down
//! Down     -- heartbeat ------------------> Returning
//! Returning -- 3 s without a gap ---------> Up;  -- silence --> Down
//! any      -- heartbeat says draining ----> Draining  -- says up again --> Returning;  -- silence --> Down
//! ```
//! Panic floor: in ten seconds at most 40 % of a group of three or more, and at most 20 % of a fleet of ten
//! or more, may fall; those beyond are held up until the window has room again. A fault of the network near
//! the monitor then costs a part of the edges and not the CDN, and a lost PoP still leaves the answers, by
//! steps.
//!
//! Must stay true: the silence of one who could not listen is no silence; time only moves by the `now` of the callers (since any fixed moment, not going back);
//! memory is bounded by the servers of the snapshot; replayed heartbeats change nothing.

use serde::Serialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tidegate_contract::{
    HEARTBEAT_INTERVAL_MS, HEARTBEATS_MISSED_MAX, Heartbeat, Load, Newest, Role, ServerStatus,
    ServingState, Snapshot, Verdict, VerdictState,
};

/// Who is up, for all watched servers of a snapshot.
#[derive(Debug, Default)]
pub struct HealthTable {
    servers: BTreeMap<String, Entry>,
    /// Falls of the last [`FALL_WINDOW`], oldest first: (when, server).
    falls: VecDeque<(Duration, String)>,
}

#[derive(Debug)]
struct Entry {
    cache_group: String,
    /// Edges count towards the panic floor.
    is_edge: bool,
    word: Word,
    newest: Newest,
    heard: Option<Duration>,
    /// Start of the run of heartbeats without a gap.
    run_since: Duration,
    load: Load,
    generation: u64,
}

/// What is held of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Not one heartbeat yet.
    Unheard,
    Up,
    Draining,
    /// Silent, but too many fell silent at once: taken as up.
    Held,
    Down,
    /// Heard again, but not for long enough.
    Returning,
}

impl Word {
    /// Whether it may get clients.
    pub fn is_available(self) -> bool {
        matches!(self, Word::Up | Word::Held)
    }
}

/// A change of what is held of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transition {
    pub server: String,
    pub from: Word,
    pub to: Word,
}

/// Why a heartbeat was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No watched server of the snapshot has this id.
    Unknown,
    /// Repeated, or overtaken by a newer one.
    Old,
}

/// All that is held of one server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerView<'a> {
    pub server: &'a str,
    pub cache_group: &'a str,
    pub word: Word,
    pub why: String,
    /// Milliseconds since its last heartbeat.
    pub heard_ms_ago: Option<u64>,
    pub generation: u64,
    pub connections: u32,
    pub requests_per_second: u32,
    pub bytes_per_second: u64,
}

impl HealthTable {
    pub fn new(snapshot: &Snapshot) -> HealthTable {
        let mut table = HealthTable::default();
        table.adopt(snapshot);
        table
    }

    /// Takes up another snapshot: servers that stay keep what is held of them.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.servers);
        for server in &snapshot.servers {
            let watched = matches!(server.role, Role::Edge | Role::Parent | Role::Origin);
            if !watched || server.status == ServerStatus::Offline {
                continue;
            }
            let mut entry = before.remove(&server.id).unwrap_or(Entry {
                cache_group: String::new(),
                is_edge: false,
                word: Word::Unheard,
                newest: Newest::default(),
                heard: None,
                run_since: Duration::ZERO,
                load: Load::default(),
                generation: 0,
            });
            entry.cache_group = server.cache_group.clone().unwrap_or_default();
            // Servers that get no clients anyway do not make a group look larger than it is.
            entry.is_edge = server.role == Role::Edge && server.status == ServerStatus::Reported;
            self.servers.insert(server.id.clone(), entry);
        }
    }

    /// Takes a heartbeat whose MAC has been checked.
    pub fn heartbeat(
        &mut self,
        now: Duration,
        beat: &Heartbeat,
    ) -> Result<Option<Transition>, Refusal> {
        let entry = self.servers.get_mut(&beat.server).ok_or(Refusal::Unknown)?;
        if !entry.newest.accept(&beat.stamp) {
            return Err(Refusal::Old);
        }
        if entry.heard.is_none_or(|heard| now.saturating_sub(heard) > DOWN_AFTER) {
            entry.run_since = now;
        }
        entry.heard = Some(now);
        entry.load = beat.load;
        entry.generation = beat.generation;
        let from = entry.word;
        let lasting = now.saturating_sub(entry.run_since) >= UP_AFTER;
        entry.word = match (beat.state, from) {
            (ServingState::Draining, _) => Word::Draining,
            (ServingState::Up, Word::Unheard | Word::Up | Word::Held) => Word::Up,
            (ServingState::Up, Word::Returning) if lasting => Word::Up,
            (ServingState::Up, Word::Draining) => {
                entry.run_since = now;
                Word::Returning
            }
            (ServingState::Up, Word::Down | Word::Returning) => Word::Returning,
        };
        Ok(transition(&beat.server, from, entry.word))
    }

    /// The one who listens has stood still for `gap` (no processor, a stopped machine): nobody was silent for that long.
    pub fn stood_still(&mut self, now: Duration, gap: Duration) {
        for entry in self.servers.values_mut() {
            entry.heard = entry.heard.map(|heard| (heard + gap).min(now));
            entry.run_since = (entry.run_since + gap).min(now);
        }
    }

    /// Lets time pass: who has been silent for too long falls, or is held.
    pub fn tick(&mut self, now: Duration) -> Vec<Transition> {
        while self.falls.front().is_some_and(|(when, _)| now.saturating_sub(*when) > FALL_WINDOW) {
            self.falls.pop_front();
        }
        // Longest silent first, so that the room goes to those who are dead for surest.
        let mut silent: Vec<(Duration, String)> = Vec::new();
        for (id, entry) in &self.servers {
            let counts = !matches!(entry.word, Word::Unheard | Word::Down);
            if let Some(heard) = entry.heard
                && counts
                && now.saturating_sub(heard) > DOWN_AFTER
            {
                silent.push((heard, id.clone()));
            }
        }
        silent.sort();
        let mut transitions = Vec::new();
        for (_, id) in silent {
            let from = self.servers[&id].word;
            // One that was not serving takes nobody's place away by falling.
            let served = self.servers[&id].is_edge && from.is_available();
            let to = if served && !self.may_fall(&id) { Word::Held } else { Word::Down };
            if served && to == Word::Down {
                self.falls.push_back((now, id.clone()));
            }
            if let Some(entry) = self.servers.get_mut(&id) {
                entry.word = to;
            }
            transitions.extend(transition(&id, from, to));
        }
        transitions
    }

    /// Whether one more edge may fall within the window.
    fn may_fall(&self, id: &str) -> bool {
        let group = &self.servers[id].cache_group;
        let (mut in_group, mut in_fleet) = (0, 0);
        for entry in self.servers.values().filter(|entry| entry.is_edge) {
            in_fleet += 1;
            in_group += usize::from(entry.cache_group == *group);
        }
        let fallen = || self.falls.iter().filter_map(|(_, id)| self.servers.get(id));
        let fallen_group = fallen().filter(|entry| entry.cache_group == *group).count() + 1;
        let fallen_fleet = fallen().count() + 1;
        let group_holds =
            in_group >= GROUP_MIN && fallen_group * 100 > in_group * GROUP_FALL_PERCENT_MAX;
        let fleet_holds =
            in_fleet >= FLEET_MIN && fallen_fleet * 100 > in_fleet * FLEET_FALL_PERCENT_MAX;
        !group_holds && !fleet_holds
    }

    pub fn word(&self, server: &str) -> Option<Word> {
        self.servers.get(server).map(|entry| entry.word)
    }

    /// The word of every watched server, by id.
    pub fn view_words(&self) -> impl Iterator<Item = (&str, Word)> {
        self.servers.iter().map(|(id, entry)| (id.as_str(), entry.word))
    }

    /// Every watched server, by id.
    pub fn view(&self, now: Duration) -> impl Iterator<Item = ServerView<'_>> {
        self.servers.iter().map(move |(id, entry)| {
            let silence = entry.heard.map(|heard| now.saturating_sub(heard));
            ServerView {
                server: id,
                cache_group: &entry.cache_group,
                word: entry.word,
                why: why(entry, now),
                heard_ms_ago: silence.map(|silence| silence.as_millis() as u64),
                generation: entry.generation,
                connections: entry.load.connections,
                requests_per_second: entry.load.requests_per_second,
                bytes_per_second: entry.load.bytes_per_second,
            }
        })
    }

    /// How many servers there are of each word.
    pub fn count(&self) -> HashMap<Word, usize> {
        let mut count = HashMap::new();
        self.servers.values().for_each(|entry| *count.entry(entry.word).or_default() += 1);
        count
    }

    /// What a monitor tells routers. Servers never heard are left out: that is no verdict.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let verdict = |(id, entry): (&String, &Entry)| {
            let state = match entry.word {
                Word::Unheard => return None,
                Word::Up => VerdictState::Up,
                Word::Draining => VerdictState::Draining,
                Word::Held => VerdictState::Held,
                Word::Down | Word::Returning => VerdictState::Down,
            };
            Some(Verdict { server: id.clone(), state, generation: entry.generation })
        };
        self.servers.iter().filter_map(verdict).collect()
    }
}

fn why(entry: &Entry, now: Duration) -> String {
    let silence = entry.heard.map_or(0, |heard| now.saturating_sub(heard).as_millis());
    match entry.word {
        Word::Unheard => "no heartbeat heard yet".to_owned(),
        Word::Up => "heartbeats arrive".to_owned(),
        Word::Draining => "says that it drains".to_owned(),
        Word::Held => {
            format!("silent for {silence} ms, but too many fell at once: held as up (panic floor)")
        }
        Word::Down => format!("silent for {silence} ms"),
        Word::Returning => {
            let run = now.saturating_sub(entry.run_since).as_millis();
            format!("heard again for {run} of {} ms", UP_AFTER.as_millis())
        }
    }
}

fn transition(server: &str, from: Word, to: Word) -> Option<Transition> {
    (from != to).then(|| Transition { server: server.to_owned(), from, to })
}

/// A listener whose own rounds are further apart than this has stood still.
pub const STOOD_STILL: Duration = Duration::from_millis(150);
/// Silence after which a server is down: three heartbeats, and half of one for the delays of a busy host.
pub const DOWN_AFTER: Duration = Duration::from_millis(
    HEARTBEATS_MISSED_MAX * HEARTBEAT_INTERVAL_MS + HEARTBEAT_INTERVAL_MS / 2,
);
/// Heartbeats without a gap until one that was down is up: a flapping edge stays out.
pub const UP_AFTER: Duration = Duration::from_secs(3);
/// The window, and the shares of it, of the panic floor.
pub const FALL_WINDOW: Duration = Duration::from_secs(10);
const GROUP_MIN: usize = 3;
const GROUP_FALL_PERCENT_MAX: usize = 40;
const FLEET_MIN: usize = 10;
const FLEET_FALL_PERCENT_MAX: usize = 20;
