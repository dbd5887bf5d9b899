//! Passive health of next hops, shared by all cores: what their own exchanges have seen.
//!
//! ```text
//! up --[FAILURES_MAX failures in a row]--> out for OUT_MS --[time passes]--> half open
//! half open --success--> up        half open --failure--> out again
//! ```
//! A refused connection counts as all failures at once: nobody listens there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Failures in a row that take a server out.
const FAILURES_MAX: u32 = 3;
/// How long a server stays out before one exchange may try it again.
const OUT_MS: u64 = 2_000;

#[derive(Debug, Default, Clone, Copy)]
struct State {
    failures: u32,
    out_until_ms: u64,
}

/// What is known of each next hop. Touched once per exchange, so a lock is cheap beside it.
#[derive(Debug, Default)]
pub struct HopHealth {
    states: Mutex<HashMap<String, State>>,
}

impl HopHealth {
    fn with<T>(&self, id: &str, change: impl FnOnce(&mut State) -> T) -> T {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        match states.get_mut(id) {
            Some(state) => change(state),
            None => change(states.entry(id.to_owned()).or_default()),
        }
    }

    /// Whether to ask this server before those that are out.
    pub fn is_up(&self, id: &str, now_ms: u64) -> bool {
        self.with(id, |state| state.failures < FAILURES_MAX || now_ms >= state.out_until_ms)
    }

    /// An exchange went well.
    pub fn note_success(&self, id: &str) {
        self.with(id, |state| *state = State::default());
    }

    /// An exchange failed; `refused`: nobody listened.
    pub fn note_failure(&self, id: &str, refused: bool, now_ms: u64) {
        self.with(id, |state| {
            state.failures = if refused { FAILURES_MAX } else { state.failures.saturating_add(1) };
            if state.failures >= FAILURES_MAX {
                state.out_until_ms = now_ms + OUT_MS;
            }
        });
    }
}
