//! What the cores of a process share of each next hop: its health, and what is under way there.
//!
//! An exchange holds a [`Ticket`] from before its connection to the end of its body; what the exchange saw goes into
//! the hop's health by it, once. Must stay true: a dropped ticket leaves nothing behind: not a trial that is never
//! decided, not a count that stays.

use crate::budget::Budget;
use crate::error::{FillError, Phase};
use crate::first_byte::FirstBytes;
use crate::gate::{Gate, Permit};
use crate::health::{Health, Signal, Standing};
use crate::names::Name;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tidegate_contract::OriginLimit;
use tidegate_ring::timeout;

/// The next hops of a process, by who and where they are. Outlives snapshots.
#[derive(Debug)]
pub struct Hops {
    begun: Instant,
    states: Mutex<HashMap<String, Weak<HopState>>>,
    tallies: Arc<Tallies>,
    budget: Mutex<Budget>,
}

/// Counts over all next hops.
#[derive(Debug, Default)]
struct Tallies {
    ejections: AtomicU64,
    waited: AtomicU64,
    turned_away: AtomicU64,
}

impl Default for Hops {
    fn default() -> Self {
        Hops {
            begun: tidegate_ring::now(),
            states: Mutex::default(),
            tallies: Arc::default(),
            budget: Mutex::default(),
        }
    }
}

impl Hops {
    /// What is shared of the hop that is called `id` and reached at these addresses; at others it is another hop.
    pub fn reached_at(&self, id: &str, addresses: &[SocketAddr]) -> Arc<HopState> {
        let place: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        self.state(id, &place.join(" "), None, addresses.to_vec())
    }

    /// What is shared of the hop that is called `id` and reached at the addresses of a name.
    pub fn named(&self, id: &str, host: &str, port: u16) -> Arc<HopState> {
        let name = Name { host: host.to_owned(), port, due_ms: 0 };
        self.state(id, &format!("{host}:{port}"), Some(name), Vec::new())
    }

    fn state(
        &self,
        id: &str,
        place: &str,
        name: Option<Name>,
        addresses: Vec<SocketAddr>,
    ) -> Arc<HopState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{id} {place}");
        if let Some(state) = states.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        states.retain(|_, state| state.strong_count() > 0);
        let state = Arc::new(HopState {
            id: id.to_owned(),
            place: place.to_owned(),
            name: name.map(Mutex::new),
            addresses: ArcSwap::from_pointee(addresses),
            first_address: AtomicUsize::new(0),
            begun: self.begun,
            health: Mutex::default(),
            under_way: AtomicU32::new(0),
            gate: Arc::default(),
            first_bytes: Mutex::default(),
            tallies: self.tallies.clone(),
        });
        states.insert(key, Arc::downgrade(&state));
        state
    }

    pub(crate) fn now_ms(&self) -> u64 {
        tidegate_ring::now().saturating_duration_since(self.begun).as_millis() as u64
    }

    pub(crate) fn all(&self) -> Vec<Arc<HopState>> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.values().filter_map(Weak::upgrade).collect()
    }

    /// A first try begins, at whatever hop.
    pub fn note_first_try(&self) {
        let now_ms = self.now_ms();
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).note_first(now_ms);
    }

    /// Whether a second try may begin; if so, it is counted.
    pub fn may_retry(&self) -> bool {
        let now_ms = self.now_ms();
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(now_ms)
    }

    /// How often a hop was taken out.
    pub fn ejections(&self) -> u64 {
        self.tallies.ejections.load(Ordering::Relaxed)
    }

    /// Requests that have waited for a place at a hop, and those that were turned away.
    pub fn queued(&self) -> (u64, u64) {
        let tallies = &self.tallies;
        (tallies.waited.load(Ordering::Relaxed), tallies.turned_away.load(Ordering::Relaxed))
    }

    /// Requests that wait for a place at a hop now.
    pub fn waiting(&self) -> usize {
        self.all().iter().map(|state| state.gate.waiting()).sum()
    }

    /// Hops that are not up.
    pub fn out(&self) -> usize {
        self.all().iter().filter(|state| state.standing() != Standing::Up).count()
    }
}

/// One next hop.
#[derive(Debug)]
pub struct HopState {
    pub id: String,
    /// Addresses, or a name, with the port.
    pub place: String,
    name: Option<Mutex<Name>>,
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Which of them is tried first: where the last connection came about.
    first_address: AtomicUsize,
    begun: Instant,
    health: Mutex<Health>,
    under_way: AtomicU32,
    gate: Arc<Gate>,
    first_bytes: Mutex<FirstBytes>,
    tallies: Arc<Tallies>,
}

/// How an exchange may go to a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// When it is up, or due and nobody else tries it.
    Usual,
    /// Though it is out by opinion: too many of its group are.
    Spared,
    /// Though its time is not over: all of its group are out.
    LastResort,
}

impl HopState {
    fn with<T>(&self, change: impl FnOnce(&mut Health, u64) -> T) -> T {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut health, self.now_ms())
    }

    /// The time that standings speak of.
    pub fn now_ms(&self) -> u64 {
        tidegate_ring::now().saturating_duration_since(self.begun).as_millis() as u64
    }

    /// What it is good for now.
    pub fn standing(&self) -> Standing {
        self.with(|health, now| health.standing(now))
    }

    /// Exchanges under way with it, over all cores.
    pub fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    pub(crate) fn with_name<T>(&self, change: impl FnOnce(&mut Name) -> T) -> Option<T> {
        let mut name = self.name.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(change(&mut name))
    }

    /// Where it is reached; nothing: its name is not resolved yet.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    pub(crate) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    /// The address to try first.
    pub(crate) fn first_address(&self) -> usize {
        self.first_address.load(Ordering::Relaxed)
    }

    pub(crate) fn set_first_address(&self, index: usize) {
        self.first_address.store(index, Ordering::Relaxed);
    }

    fn first_bytes<T>(&self, change: impl FnOnce(&mut FirstBytes) -> T) -> T {
        change(&mut self.first_bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long to wait for its first byte before another hop is asked as well; `None`: too little is known.
    pub fn hedge_after(&self) -> Option<Duration> {
        self.first_bytes(|times| times.hedge_after())
    }

    /// The time that 95 of its last 100 first bytes did not pass.
    pub fn first_byte_p95(&self) -> Option<Duration> {
        self.first_bytes(|times| times.p95())
    }

    /// Another hop, asked later, has answered before it; `tried`: the exchange was to decide whether it is up.
    pub fn note_late(&self, tried: bool) {
        let ejected = self.with(|health, now| match tried {
            true => health.fail_trial(Signal::Slow, now),
            false => health.note_bad(Signal::Slow, now),
        });
        self.count_ejection(ejected);
    }

    /// Sets how many exchanges may be under way.
    pub fn set_limit(&self, limit: Option<OriginLimit>) {
        self.gate.set_limit(limit);
    }

    /// Requests that wait for a place now.
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    /// A place among the exchanges under way, waited for no longer than `span` and what the limit says.
    ///
    /// # Errors
    /// The queue is full, or the wait was too long.
    pub(crate) async fn place(&self, span: Duration) -> Result<Permit, FillError> {
        let busy = || {
            self.tallies.turned_away.fetch_add(1, Ordering::Relaxed);
            FillError::Busy { hop: self.id.clone() }
        };
        let entering = self.gate.enter().ok_or_else(busy)?;
        if !entering.waits() {
            return Ok(entering.await);
        }
        self.tallies.waited.fetch_add(1, Ordering::Relaxed);
        let patience = Duration::from_secs(u64::from(self.gate.patience_seconds()));
        timeout(span.min(patience), entering).await.map_err(|_| busy())
    }

    /// A ticket for an exchange, if it may take place.
    pub fn enter(self: &Arc<Self>, entry: Entry) -> Option<Ticket> {
        let part = self.with(|health, now| match (health.standing(now), entry) {
            (Standing::Up, _) | (_, Entry::Spared) => Some(Part::Plain),
            (_, entry) => {
                health.begin_trial(entry == Entry::LastResort, now).then_some(Part::Trial)
            }
        });
        Some(self.ticket(part?))
    }

    /// A ticket for an exchange that asks for health alone, when the hop is out and nobody tries it.
    pub fn enter_probe(self: &Arc<Self>) -> Option<Ticket> {
        self.with(|health, now| health.begin_probe(now)).then(|| self.ticket(Part::Probe))
    }

    fn ticket(self: &Arc<Self>, part: Part) -> Ticket {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let begun = tidegate_ring::now();
        Ticket { state: self.clone(), part, begun, is_over: false, verdict: None, place: None }
    }

    fn count_ejection(&self, ejected: bool) {
        self.tallies.ejections.fetch_add(u64::from(ejected), Ordering::Relaxed);
    }
}

/// What an exchange means to a hop's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Plain,
    /// It decides whether the hop is up again.
    Trial,
    Probe,
}

/// An exchange under way with a hop.
#[derive(Debug)]
pub struct Ticket {
    state: Arc<HopState>,
    part: Part,
    /// Not counted: what it waited for a place.
    begun: Instant,
    /// The answer is all there.
    is_over: bool,
    /// What the head was: good or not.
    verdict: Option<bool>,
    /// Among the exchanges under way.
    place: Option<Permit>,
}

impl Ticket {
    /// Waits for a place among the exchanges under way with the hop.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn take_place(&mut self, span: Duration) -> Result<(), FillError> {
        let state = self.state.clone();
        self.place = Some(state.place(span).await?);
        self.begun = tidegate_ring::now();
        Ok(())
    }

    /// The exchange failed.
    pub(crate) fn fail(&mut self, error: &FillError) {
        if let Some(signal) = signal_of(error) {
            self.fail_by(signal);
        }
    }

    /// The exchange failed, or its answer shows that the hop does.
    pub(crate) fn fail_by(&mut self, signal: Signal) {
        if self.verdict == Some(false) {
            return;
        }
        self.verdict = Some(false);
        let part = std::mem::replace(&mut self.part, Part::Plain);
        let ejected = self.state.with(|health, now| match part {
            Part::Plain => health.note_bad(signal, now),
            Part::Trial | Part::Probe => health.fail_trial(signal, now),
        });
        self.state.count_ejection(ejected);
    }

    /// The head of the answer is a good one.
    pub(crate) fn pass(&mut self) {
        if self.verdict.is_some() {
            return;
        }
        self.verdict = Some(true);
        let span = tidegate_ring::now().saturating_duration_since(self.begun);
        if self.part != Part::Probe {
            self.state.first_bytes(|times| times.note(span));
        }
        match std::mem::replace(&mut self.part, Part::Plain) {
            Part::Plain => {}
            Part::Trial => self.state.with(Health::pass_trial),
            Part::Probe => self.state.with(Health::pass_probe),
        }
        if self.is_over {
            self.state.with(Health::note_good);
        }
    }

    /// The answer is all there.
    pub(crate) fn end(&mut self) {
        self.place = None;
        if !std::mem::replace(&mut self.is_over, true) && self.verdict == Some(true) {
            self.state.with(Health::note_good);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.state.under_way.fetch_sub(1, Ordering::Relaxed);
        if self.part != Part::Plain {
            self.state.with(|health, _| health.drop_trial());
        }
    }
}

/// What a failed exchange says of the hop; nothing when it is not the hop's doing.
fn signal_of(error: &FillError) -> Option<Signal> {
    Some(match error {
        FillError::Connection { phase: Phase::Connect, refused: true, .. } => Signal::Refused,
        FillError::Connection { phase, .. } | FillError::Timeout { phase, .. } => match phase {
            Phase::Connect => Signal::Connect,
            Phase::Tls => Signal::Tls,
            Phase::Send | Phase::Head => Signal::FirstByte,
            Phase::Body if matches!(error, FillError::Timeout { .. }) => Signal::Slow,
            Phase::Body => Signal::MidBody,
        },
        FillError::BadResponse { .. } => Signal::BadAnswer,
        FillError::BadRequest { .. }
        | FillError::NoNextHop
        | FillError::AllOut
        | FillError::Busy { .. }
        | FillError::Unresolved { .. }
        | FillError::Deadline => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Cause, FAILURES_MAX};

    fn here() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 80))
    }

    fn out_by(hops: &Hops, signal: Signal) -> Arc<HopState> {
        let state = hops.reached_at("parent-1", &[here()]);
        for _ in 0..FAILURES_MAX {
            if let Some(mut ticket) = state.enter(Entry::Usual) {
                ticket.fail_by(signal);
            }
        }
        assert!(matches!(state.standing(), Standing::Out { .. }));
        state
    }

    #[test]
    fn a_hop_is_the_same_over_snapshots_while_its_place_is() {
        let hops = Hops::default();
        let first = out_by(&hops, Signal::Refused);
        assert_eq!((hops.ejections(), hops.out()), (1, 1));
        assert!(Arc::ptr_eq(&first, &hops.reached_at("parent-1", &[here()])));
        let moved = hops.reached_at("parent-1", &[SocketAddr::from(([192, 0, 2, 9], 80))]);
        assert_eq!(moved.standing(), Standing::Up);
        drop((first, moved));
        assert_eq!(hops.out(), 0);
        assert_eq!(hops.reached_at("parent-1", &[here()]).standing(), Standing::Up);
    }

    #[test]
    fn a_dropped_ticket_leaves_nothing_behind() {
        let hops = Hops::default();
        let state = out_by(&hops, Signal::Refused);
        assert!(state.enter(Entry::Usual).is_none());
        let probe = state.enter_probe().unwrap();
        assert_eq!(state.under_way(), 1);
        assert!(state.enter_probe().is_none() && state.enter(Entry::LastResort).is_none());
        drop(probe);
        assert_eq!(state.under_way(), 0);
        let mut probe = state.enter_probe().unwrap();
        probe.pass();
        assert_eq!(state.standing(), Standing::Up);
        drop(probe);
        assert_eq!((state.under_way(), state.standing()), (0, Standing::Up));
    }

    #[test]
    fn heads_alone_do_not_end_a_row_of_broken_bodies() {
        let hops = Hops::default();
        let state = hops.reached_at("parent-1", &[here()]);
        for n in 1..=FAILURES_MAX {
            assert_eq!(state.standing(), Standing::Up, "{n}");
            let mut ticket = state.enter(Entry::Usual).unwrap();
            ticket.pass();
            ticket.fail(&FillError::Connection {
                hop: String::new(),
                phase: Phase::Body,
                what: String::new(),
                refused: false,
            });
            ticket.end();
        }
        let cause = Cause::Opinion(Signal::MidBody);
        assert!(matches!(state.standing(), Standing::Out { cause: c, .. } if c == cause));
    }
}
