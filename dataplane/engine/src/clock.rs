//! Two clocks. Node time decides how old things are: it begins at the wall clock's time when the process starts and
//! then only goes on, whatever is done to the wall clock. The wall clock is for `Date`, logs and the disk.
//!
//! Must stay true: an age in memory is a difference of node times; what is written to disk carries the wall clock's
//! time, and what comes back from a future that has not come has no known age: it is stale.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A stored time may lie ahead of the clock by this much without meaning anything.
const AHEAD_MS: u64 = 1_000;

/// Node time in milliseconds: unix time at the start of the process, and what has passed since.
pub fn now_ms() -> u64 {
    ms_at(tidegate_ring::now())
}

/// Unix time in milliseconds, as the machine tells it now.
pub fn wall_ms() -> u64 {
    unix_ms(tidegate_ring::wall_now())
}

/// The same at `now`, a moment of late.
pub fn wall_ms_at(now: Instant) -> u64 {
    unix_ms(tidegate_ring::wall_at(now))
}

/// Node time at `now`, a moment of late.
pub fn ms_at(now: Instant) -> u64 {
    let (start, wall) = tidegate_ring::started();
    unix_ms(wall) + now.saturating_duration_since(start).as_millis() as u64
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Node time of something that the disk says happened at `wall_ms`.
pub fn from_disk(at_wall_ms: u64) -> u64 {
    node_time(at_wall_ms, wall_ms(), now_ms())
}

/// The wall clock's time for the disk, of something that happened at node time `at_ms`.
pub fn to_disk(at_ms: u64) -> u64 {
    wall_ms().saturating_sub(now_ms().saturating_sub(at_ms))
}

fn node_time(at_wall_ms: u64, wall_ms: u64, node_ms: u64) -> u64 {
    match wall_ms.checked_sub(at_wall_ms) {
        Some(age) => node_ms.saturating_sub(age),
        None if at_wall_ms - wall_ms <= AHEAD_MS => node_ms,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: u64 = 1_795_132_800_000;

    #[test]
    fn ages_survive_the_disk() {
        assert_eq!(node_time(5_000, 7_000, NODE), NODE - 2_000);
        assert_eq!(node_time(7_000, 7_000, NODE), NODE);
        assert_eq!(node_time(7_900, 7_000, NODE), NODE, "clocks are not that exact");
        let age = now_ms() - from_disk(to_disk(now_ms() - 60_000));
        assert!((59_000..62_000).contains(&age), "{age}");
    }

    #[test]
    fn what_comes_from_the_future_is_as_old_as_can_be() {
        // The wall clock was set back by a day between two runs.
        assert_eq!(node_time(86_407_000, 7_000, NODE), 0);
    }

    #[test]
    fn node_time_never_goes_back() {
        let first = now_ms();
        assert!(now_ms() >= first);
        assert!(first.abs_diff(wall_ms()) < 3_600_000);
    }
}
