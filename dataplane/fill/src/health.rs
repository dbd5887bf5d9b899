//! Health of one next hop: a machine without clock and lock. What its own exchanges saw goes in, with the time;
//! whether it may be asked comes out.
//!
//! ```text
//! up --failures--> out --[its time passes]--> due --one exchange tries it--> up on probation
//!                   ^                                  `--failed--> out, for longer
//!                   `---- one failure on probation ----'
//! ```
//! Two causes of being out are told apart. That nobody listens, or that no connection comes about several times in a
//! row, is a fact. All else (5xx of its own, silence, broken bodies, ...) is an opinion of ours, which may be wrong for a whole
//! group at once: how many of a group opinions may take out is bounded in `select.rs`.
//!
//! Must stay true: while a hop is out, at most one exchange at a time tries it, whatever the number of cores; a hop is
//! never out for ever: its time has a ceiling.

/// Failures in a row that take a hop out.
pub const FAILURES_MAX: u32 = 3;
/// How long a hop is out the first time; doubled each time it fails again.
pub const OUT_MS_MIN: u64 = 2_000;
/// No longer than this.
pub const OUT_MS_MAX: u64 = 60_000;
/// After so long a time up, its next failure is like its first.
pub const FORGET_MS: u64 = 60_000;
/// When all hops are out, one may be tried before its time, this often.
pub const LAST_RESORT_MS: u64 = 100;
/// Outcomes are judged over one to two of these spans.
const WINDOW_MS: u64 = 5_000;
/// A share of failures is judged when so many outcomes are in the window.
const OUTCOMES_MIN: u32 = 20;

/// What went wrong in an exchange, as far as it says something of the hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Nobody listens there.
    Refused,
    /// No connection came about.
    Connect,
    Tls,
    /// The head of the answer did not come, or not in time.
    FirstByte,
    /// The body broke off.
    MidBody,
    /// It answers, but much later than it used to, or hardly at all.
    Slow,
    /// The answer breaks the rules.
    BadAnswer,
    /// A 5xx of its own.
    ServerError,
}

impl Signal {
    /// A word for explain.
    pub fn word(self) -> &'static str {
        match self {
            Signal::Refused => "refused",
            Signal::Connect => "connect",
            Signal::Tls => "tls",
            Signal::FirstByte => "first byte",
            Signal::MidBody => "mid-body",
            Signal::Slow => "slow",
            Signal::BadAnswer => "bad answer",
            Signal::ServerError => "server error",
        }
    }
}

/// Why a hop is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A fact: it cannot be reached.
    Unreachable,
    /// An opinion; the last of the signals that made it.
    Opinion(Signal),
}

/// What a hop is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Up,
    /// Its time is over: one exchange may try it.
    Due(Cause),
    Out {
        cause: Cause,
        since_ms: u64,
        until_ms: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum State {
    Up { since_ms: u64 },
    Out { cause: Cause, since_ms: u64, until_ms: u64, is_tried: bool, tried_ms: u64 },
}

#[derive(Debug, Clone, Copy, Default)]
struct Outcomes {
    good: u32,
    bad: u32,
}

/// What is known of one next hop.
#[derive(Debug, Clone)]
pub struct Health {
    state: State,
    /// Failures in a row, and how many of the last ones were connections that did not come about.
    row: u32,
    connect_row: u32,
    window_ms: u64,
    current: Outcomes,
    previous: Outcomes,
    /// How often it went out without a good time in between.
    ejections: u32,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            state: State::Up { since_ms: 0 },
            row: 0,
            connect_row: 0,
            window_ms: 0,
            current: Outcomes::default(),
            previous: Outcomes::default(),
            ejections: 0,
        }
    }
}

impl Health {
    /// What it is good for.
    pub fn standing(&self, now_ms: u64) -> Standing {
        match self.state {
            State::Up { .. } => Standing::Up,
            State::Out { cause, until_ms, is_tried: false, .. } if now_ms >= until_ms => {
                Standing::Due(cause)
            }
            State::Out { cause, since_ms, until_ms, .. } => {
                Standing::Out { cause, since_ms, until_ms }
            }
        }
    }

    /// Asks to try a hop that is out, which one exchange may at a time: when its time is over, or (`early`) when it
    /// was not tried for [`LAST_RESORT_MS`].
    pub fn begin_trial(&mut self, early: bool, now_ms: u64) -> bool {
        let State::Out { until_ms, is_tried, tried_ms, .. } = &mut self.state else { return false };
        let is_allowed = now_ms >= *until_ms || (early && now_ms >= *tried_ms + LAST_RESORT_MS);
        if *is_tried || !is_allowed {
            return false;
        }
        (*is_tried, *tried_ms) = (true, now_ms);
        true
    }

    /// The exchange that tried it ended without a verdict.
    pub fn drop_trial(&mut self) {
        if let State::Out { is_tried, .. } = &mut self.state {
            *is_tried = false;
        }
    }

    /// The exchange that tried it got an answer: it is up, on probation.
    pub fn pass_trial(&mut self, now_ms: u64) {
        if let State::Out { is_tried: true, .. } = self.state {
            self.state = State::Up { since_ms: now_ms };
            self.row = FAILURES_MAX - 1;
            self.connect_row = 0;
            (self.current, self.previous) = Default::default();
        }
    }

    /// The exchange that tried it failed. `true`: it is out for another time.
    pub fn fail_trial(&mut self, signal: Signal, now_ms: u64) -> bool {
        let State::Out { until_ms, is_tried: true, cause, .. } = self.state else { return false };
        self.drop_trial();
        if now_ms < until_ms {
            return false; // tried early: its time goes on
        }
        let cause = match signal {
            Signal::Refused | Signal::Connect => Cause::Unreachable,
            _ if cause == Cause::Unreachable => Cause::Opinion(signal),
            _ => cause,
        };
        self.eject(cause, now_ms);
        true
    }

    /// What asks for health alone got an answer; it brings back what could not be reached at once, and what was judged
    /// by other exchanges only when its time is over.
    pub fn pass_probe(&mut self, now_ms: u64) {
        match self.state {
            State::Out { cause: Cause::Opinion(_), until_ms, .. } if now_ms < until_ms => {
                self.drop_trial();
            }
            _ => self.pass_trial(now_ms),
        }
    }

    /// Whether what asks for health alone may go out: nobody else tries the hop.
    pub fn begin_probe(&mut self, now_ms: u64) -> bool {
        match &mut self.state {
            State::Out { is_tried: is_tried @ false, tried_ms, .. } => {
                (*is_tried, *tried_ms) = (true, now_ms);
                true
            }
            _ => false,
        }
    }

    /// An exchange went well to its end.
    pub fn note_good(&mut self, now_ms: u64) {
        // Begun before it went out: says nothing of now.
        if let State::Up { .. } = self.state {
            (self.row, self.connect_row) = (0, 0);
            self.turn_window(now_ms);
            self.current.good += 1;
        }
    }

    /// An exchange failed. `true`: that took the hop out.
    pub fn note_bad(&mut self, signal: Signal, now_ms: u64) -> bool {
        if let State::Out { .. } = self.state {
            return false; // begun before it went out
        }
        self.row += 1;
        self.connect_row = if signal == Signal::Connect { self.connect_row + 1 } else { 0 };
        self.turn_window(now_ms);
        self.current.bad += 1;
        let bad = self.current.bad + self.previous.bad;
        let outcomes = bad + self.current.good + self.previous.good;
        let cause = if signal == Signal::Refused || self.connect_row >= FAILURES_MAX {
            Cause::Unreachable
        } else if self.row >= FAILURES_MAX || (outcomes >= OUTCOMES_MIN && bad * 2 >= outcomes) {
            Cause::Opinion(signal)
        } else {
            return false;
        };
        self.eject(cause, now_ms);
        true
    }

    fn eject(&mut self, cause: Cause, now_ms: u64) {
        let (since_ms, tried_ms) = match self.state {
            State::Up { since_ms } => {
                if now_ms.saturating_sub(since_ms) > FORGET_MS {
                    self.ejections = 0;
                }
                (now_ms, now_ms)
            }
            State::Out { since_ms, tried_ms, .. } => (since_ms, tried_ms),
        };
        let span = (OUT_MS_MIN << self.ejections.min(16)).min(OUT_MS_MAX);
        self.ejections = self.ejections.saturating_add(1);
        let until_ms = now_ms + span;
        self.state = State::Out { cause, since_ms, until_ms, is_tried: false, tried_ms };
    }

    fn turn_window(&mut self, now_ms: u64) {
        let age = now_ms.saturating_sub(self.window_ms);
        if age >= 2 * WINDOW_MS {
            (self.current, self.previous) = Default::default();
            self.window_ms = now_ms;
        } else if age >= WINDOW_MS {
            self.previous = std::mem::take(&mut self.current);
            self.window_ms += WINDOW_MS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIGNALS: [Signal; 8] = [
        Signal::Refused,
        Signal::Connect,
        Signal::Tls,
        Signal::FirstByte,
        Signal::MidBody,
        Signal::Slow,
        Signal::BadAnswer,
        Signal::ServerError,
    ];

    #[test]
    fn facts_and_opinions_are_told_apart() {
        for signal in SIGNALS {
            let mut health = Health::default();
            let failures = if signal == Signal::Refused { 1 } else { FAILURES_MAX };
            for n in 1..=failures {
                assert_eq!(health.standing(10), Standing::Up, "{signal:?}");
                assert_eq!(health.note_bad(signal, 10), n == failures, "{signal:?}");
            }
            let cause = match signal {
                Signal::Refused | Signal::Connect => Cause::Unreachable,
                other => Cause::Opinion(other),
            };
            let out = Standing::Out { cause, since_ms: 10, until_ms: 10 + OUT_MS_MIN };
            assert_eq!(health.standing(10), out);
            assert_eq!(health.standing(10 + OUT_MS_MIN), Standing::Due(cause));
        }
    }

    #[test]
    fn a_share_of_failures_takes_a_hop_out_though_never_three_in_a_row() {
        let mut health = Health::default();
        let mut outcomes = 0;
        while health.standing(1000) == Standing::Up {
            assert!(outcomes < OUTCOMES_MIN, "half of {outcomes} failed");
            match outcomes % 2 {
                0 => health.note_good(1000),
                _ => assert_eq!(
                    health.note_bad(Signal::FirstByte, 1000),
                    outcomes + 1 == OUTCOMES_MIN
                ),
            }
            outcomes += 1;
        }
        // The same, slowly: never enough of them in the window.
        let mut health = Health::default();
        for n in 0..1000 {
            match n % 2 {
                0 => health.note_good(n * 1000),
                _ => assert!(!health.note_bad(Signal::FirstByte, n * 1000)),
            }
        }
    }

    #[test]
    fn its_time_out_grows_to_a_ceiling_and_is_forgotten_after_a_good_time() {
        let mut health = Health::default();
        let mut now = 100_000;
        assert!(health.note_bad(Signal::Refused, now));
        let mut spans = Vec::new();
        for _ in 0..8 {
            let Standing::Out { until_ms, .. } = health.standing(now) else { panic!("out") };
            spans.push(until_ms - now);
            now = until_ms;
            assert!(health.begin_trial(false, now));
            assert!(health.fail_trial(Signal::Refused, now));
        }
        assert_eq!(spans, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        now += OUT_MS_MAX;
        assert!(health.begin_trial(false, now));
        health.pass_trial(now);
        // On probation: once more, and for long.
        assert!(health.note_bad(Signal::FirstByte, now + 1));
        assert_eq!(health.standing(now + OUT_MS_MAX), {
            let cause = Cause::Opinion(Signal::FirstByte);
            Standing::Out { cause, since_ms: now + 1, until_ms: now + 1 + OUT_MS_MAX }
        });
        now += 1 + OUT_MS_MAX;
        assert!(health.begin_trial(false, now));
        health.pass_trial(now);
        health.note_good(now);
        assert!(!health.note_bad(Signal::FirstByte, now + 1), "its probation is over");
        now += FORGET_MS + 1;
        assert!(health.note_bad(Signal::Refused, now));
        assert!(matches!(health.standing(now + OUT_MS_MIN), Standing::Due(_)));
    }

    #[test]
    fn what_asks_for_health_overrules_facts_at_once_and_opinions_in_time() {
        let mut health = Health::default();
        health.note_bad(Signal::Refused, 0);
        assert!(health.begin_probe(1) && !health.begin_probe(1) && !health.begin_trial(true, 500));
        health.pass_probe(2);
        assert_eq!(health.standing(2), Standing::Up);
        let mut health = Health::default();
        (0..FAILURES_MAX).for_each(|_| _ = health.note_bad(Signal::ServerError, 0));
        assert!(health.begin_probe(1));
        health.pass_probe(2);
        assert!(matches!(health.standing(2), Standing::Out { until_ms: OUT_MS_MIN, .. }));
        assert!(health.begin_probe(OUT_MS_MIN));
        health.pass_probe(OUT_MS_MIN);
        assert_eq!(health.standing(OUT_MS_MIN), Standing::Up);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Trial { early: bool },
        Probe,
        Good,
        Bad(usize),
        EndTrial(Option<usize>),
        DropTrial,
        PassProbe,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5_000u64).prop_map(Step::Wait),
            any::<bool>().prop_map(|early| Step::Trial { early }),
            Just(Step::Probe),
            Just(Step::Good),
            (0..SIGNALS.len()).prop_map(Step::Bad),
            proptest::option::of(0..SIGNALS.len()).prop_map(Step::EndTrial),
            Just(Step::DropTrial),
            Just(Step::PassProbe),
        ]
    }

    proptest! {
        #[test]
        fn one_at_a_time_tries_a_hop_that_is_out_and_none_is_out_for_ever(
            steps in proptest::collection::vec(step(), 0..200)
        ) {
            let (mut health, mut now, mut trying) = (Health::default(), 0u64, false);
            for step in steps {
                let before = health.standing(now);
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Trial { early } => {
                        let began = health.begin_trial(early, now);
                        prop_assert!(!(began && trying), "two at a time");
                        prop_assert!(!began || before != Standing::Up);
                        if began && !early {
                            prop_assert!(matches!(before, Standing::Due(_)), "before its time");
                        }
                        trying |= began;
                    }
                    Step::Probe => {
                        let began = health.begin_probe(now);
                        prop_assert!(!(began && trying));
                        trying |= began;
                    }
                    Step::Good => health.note_good(now),
                    Step::Bad(n) => {
                        let out = health.note_bad(SIGNALS[n], now);
                        prop_assert_eq!(out, before == Standing::Up && health.standing(now) != Standing::Up);
                    }
                    Step::EndTrial(Some(n)) if trying => {
                        health.fail_trial(SIGNALS[n], now);
                        trying = false;
                        prop_assert!(health.standing(now) != Standing::Up);
                    }
                    Step::EndTrial(None) if trying => {
                        health.pass_trial(now);
                        trying = false;
                        prop_assert_eq!(health.standing(now), Standing::Up);
                    }
                    Step::DropTrial if trying => { health.drop_trial(); trying = false; }
                    Step::PassProbe if trying => { health.pass_probe(now); trying = false; }
                    _ => {}
                }
                if let Standing::Out { until_ms, .. } = health.standing(now) {
                    prop_assert!(until_ms <= now + OUT_MS_MAX);
                }
            }
            if trying {
                health.drop_trial();
            }
            now += OUT_MS_MAX;
            if health.standing(now) != Standing::Up {
                prop_assert!(health.begin_trial(false, now));
                health.pass_trial(now);
            }
            prop_assert_eq!(health.standing(now), Standing::Up);
        }
    }
}
