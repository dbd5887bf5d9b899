//! When to try again what has failed: a judgement about time alone.

use std::time::{Duration, Instant};

/// When to start a successor for a store that nobody writes to: soon, and then more and more seldom.
#[derive(Debug, Default)]
pub struct Retry {
    next: Option<(Instant, Duration)>,
}

impl Retry {
    const FIRST: Duration = Duration::from_secs(1);
    const LAST: Duration = Duration::from_secs(64);

    /// Whether it is time for the next one.
    pub fn is_due(&mut self, is_wanted: bool, now: Instant) -> bool {
        let (at, pause) = match self.next {
            _ if !is_wanted => return false, // one is asking; its end is no news
            Some(next) => next,
            None => (now + Self::FIRST, Self::FIRST),
        };
        let is_due = now >= at;
        let pause = if is_due { (pause * 2).min(Self::LAST) } else { pause };
        self.next = Some((if is_due { now + pause } else { at }, pause));
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_for_an_orphaned_store_are_started_less_and_less_often() {
        let begin = Instant::now();
        let mut retry = Retry::default();
        assert!(!retry.is_due(false, begin));
        // It is looked five times a second; each successor takes half a second to fail.
        let looks = (0..2000)
            .map(|n| n * 200)
            .filter(|ms| retry.is_due(ms % 5000 != 200, begin + Duration::from_millis(*ms)));
        let seconds: Vec<u64> = looks.map(|ms| ms / 1000).collect();
        assert_eq!(seconds, [1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383]);
    }
}
