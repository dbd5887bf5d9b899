//! How many second tries a node makes: a share of its first ones, so that retries never multiply an overload.
//!
//! Must stay true: in any window there are no more second tries than [`SHARE`] of the first ones and the floor. A try
//! after one that reached nobody is no second try: nobody has done work for it.

/// Second tries per first try.
pub const SHARE: f64 = 0.1;
/// So many in a window are allowed whatever the traffic: ten in each second.
pub const FLOOR: u32 = 10 * WINDOW_SLOTS as u32;
/// The window, in slots of a second.
pub const WINDOW_SLOTS: usize = 10;
const SLOT_MS: u64 = 1_000;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    number: u64,
    first: u32,
    second: u32,
}

/// Tries of the last seconds.
#[derive(Debug, Default)]
pub struct Budget {
    slots: [Slot; WINDOW_SLOTS],
}

impl Budget {
    fn slot(&mut self, now_ms: u64) -> &mut Slot {
        let number = now_ms / SLOT_MS;
        let slot = &mut self.slots[number as usize % WINDOW_SLOTS];
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot
    }

    /// A first try begins.
    pub fn note_first(&mut self, now_ms: u64) {
        self.slot(now_ms).first += 1;
    }

    /// Whether a second try may begin; if so, it is counted.
    pub fn take(&mut self, now_ms: u64) -> bool {
        let oldest = (now_ms / SLOT_MS).saturating_sub(WINDOW_SLOTS as u64 - 1);
        let within = self.slots.iter().filter(|slot| slot.number >= oldest);
        let (first, second) = within.fold((0u64, 0u64), |(first, second), slot| {
            (first + u64::from(slot.first), second + u64::from(slot.second))
        });
        if second as f64 >= first as f64 * SHARE + f64::from(FLOOR) {
            return false;
        }
        self.slot(now_ms).second += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_floor_is_there_without_traffic_and_comes_back_with_time() {
        let mut budget = Budget::default();
        let taken = |budget: &mut Budget, now| (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, 500), FLOOR as usize);
        assert_eq!(taken(&mut budget, 9_999), 0);
        assert_eq!(taken(&mut budget, 10_000), FLOOR as usize);
        for _ in 0..5_000 {
            budget.note_first(30_000);
        }
        assert_eq!(taken(&mut budget, 30_000), FLOOR as usize + 500);
    }

    proptest! {
        #[test]
        fn second_tries_are_a_bounded_share_in_every_window(
            steps in proptest::collection::vec((0..400u64, 0..40u32, 0..40u32), 1..200)
        ) {
            let (mut budget, mut now) = (Budget::default(), 0);
            // Slot number, first tries, second tries.
            let mut log: Vec<(u64, u32, u32)> = Vec::new();
            for (wait, first, wanted) in steps {
                now += wait;
                (0..first).for_each(|_| budget.note_first(now));
                let second = (0..wanted).filter(|_| budget.take(now)).count() as u32;
                log.push((now / SLOT_MS, first, second));
                let within = |(slot, ..): &&(u64, u32, u32)| slot + WINDOW_SLOTS as u64 > now / SLOT_MS;
                let firsts: u32 = log.iter().filter(within).map(|(_, first, _)| first).sum();
                let seconds: u32 = log.iter().filter(within).map(|(.., second)| second).sum();
                let max = f64::from(firsts) * SHARE + f64::from(FLOOR) + 1.0;
                // What was allowed by first tries that have left the window may still be in it.
                let before: u32 = log.iter().filter(|entry| !within(entry)).map(|(_, n, _)| n).sum();
                prop_assert!(f64::from(seconds) <= max + f64::from(before) * SHARE);
                if second < wanted {
                    prop_assert!(f64::from(seconds) >= f64::from(firsts) * SHARE + f64::from(FLOOR));
                }
            }
        }
    }
}
