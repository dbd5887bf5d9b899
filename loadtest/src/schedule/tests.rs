//! Goal: a plan of N requests has N slots at the right moments, whoever takes them, however long it runs.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn open(rate: f64, warmup_ns: u64, duration_ns: Option<u64>, requests: Option<u64>) -> Plan {
    Plan {
        rate: Some(Rate::per_second(rate).unwrap()),
        ramp_to: None,
        warmup_ns,
        duration_ns,
        requests,
    }
}

fn closed(warmup_ns: u64, duration_ns: Option<u64>, requests: Option<u64>) -> Plan {
    Plan { rate: None, ramp_to: None, warmup_ns, duration_ns, requests }
}

#[test]
fn a_week_at_an_odd_rate_does_not_drift() {
    let rate = Rate::per_second(333.333).unwrap();
    let week = 7 * 24 * 3600;
    // 333.333 per second over a week is an exact number of slots.
    assert_eq!(rate.due_before(week * SECOND_NS), 333_333 * week / 1000 + 1);
    assert_eq!(rate.due_ns(333_333 * 1000), 1_000_000 * SECOND_NS);
    assert_eq!(Rate::per_second(1000.0).unwrap().due_before(10 * SECOND_NS), 10_000);
}

#[test]
fn rates_outside_the_limits_are_refused() {
    for bad in ["", "fast", "0", "0.0001", "-5", "NaN", "inf", "10000001"] {
        assert_eq!(bad.parse::<Rate>(), Err(RateError), "{bad}");
    }
    assert_eq!("0.5".parse::<Rate>().unwrap().due_ns(3), 6 * SECOND_NS);
}

#[test]
fn the_end_is_the_earlier_of_time_and_count() {
    assert_eq!(open(100.0, 0, Some(2 * SECOND_NS), None).end_ns(), Some(2 * SECOND_NS));
    assert_eq!(open(100.0, 0, None, Some(50)).end_ns(), Some(SECOND_NS / 2));
    assert_eq!(open(100.0, 0, Some(2 * SECOND_NS), Some(50)).end_ns(), Some(SECOND_NS / 2));
    assert_eq!(open(100.0, SECOND_NS, None, Some(50)).end_ns(), Some(3 * SECOND_NS / 2));
    assert_eq!(closed(SECOND_NS, Some(SECOND_NS), None).end_ns(), Some(2 * SECOND_NS));
    assert_eq!(closed(0, None, Some(5)).end_ns(), None);
}

#[test]
fn warm_up_slots_do_not_count() {
    let slots = Slots::new(open(10.0, SECOND_NS, None, Some(5)), 100);
    let mut counted = Vec::new();
    while let Claim::Send { counted: c, due_ns, .. } = slots.claim(0) {
        assert_eq!(c, due_ns >= SECOND_NS);
        counted.push(c);
    }
    assert_eq!(counted.len(), 15);
    assert_eq!(counted.iter().filter(|c| **c).count(), 5);
}

#[test]
fn a_full_backlog_gives_up_the_oldest() {
    let slots = Slots::new(open(1000.0, 0, None, Some(1000)), 100);
    // At 0.5 s, 501 are due and none was sent.
    assert_eq!(slots.backlog(SECOND_NS / 2), 501);
    assert_eq!(slots.claim(SECOND_NS / 2), Claim::GivenUp(0..401));
    assert!(matches!(slots.claim(SECOND_NS / 2), Claim::Send { index: 401, .. }));
    assert_eq!(slots.close(SECOND_NS / 2), 402..501);
    assert_eq!(slots.claim(SECOND_NS / 2), Claim::Over);
}

#[test]
fn a_closed_loop_counts_after_the_warm_up_only() {
    let slots = Slots::new(closed(100, None, Some(2)), 100);
    assert_eq!(slots.claim(5), Claim::Send { index: 0, due_ns: 5, counted: false });
    assert_eq!(slots.claim(100), Claim::Send { index: 1, due_ns: 100, counted: true });
    assert_eq!(slots.claim(101), Claim::Send { index: 2, due_ns: 101, counted: true });
    assert_eq!(slots.claim(102), Claim::Over);
    let slots = Slots::new(closed(0, Some(50), None), 100);
    assert!(matches!(slots.claim(49), Claim::Send { .. }));
    assert_eq!(slots.claim(50), Claim::Over);
}

#[test]
fn threads_share_slots_without_loss_or_doubles() {
    let slots = Slots::new(open(1000.0, 0, None, Some(20_000)), u64::MAX);
    let seen: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    while let Claim::Send { index, .. } = slots.claim(0) {
                        mine.push(index);
                    }
                    mine
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let all: BTreeSet<u64> = seen.iter().flatten().copied().collect();
    assert_eq!(seen.iter().map(Vec::len).sum::<usize>(), 20_000);
    assert_eq!(all, (0..20_000).collect());
}

proptest! {
    #[test]
    fn due_before_is_the_inverse_of_due_ns(milli in 1u64..RATE_MAX * 1000, index in 0u64..1 << 20) {
        let rate = Rate { milli };
        let due = rate.due_ns(index);
        // Slots faster than one per nanosecond do not exist, so each moment tells its slot.
        prop_assert!(rate.due_before(due) <= index);
        prop_assert!(rate.due_before(due + 1) > index);
        prop_assert!(rate.due_ns(index + 1) >= due);
    }

    #[test]
    fn every_slot_is_sent_or_given_up_once(
        rate in 1u64..100_000,
        requests in 0u64..2_000,
        backlog in 1u64..500,
        steps in proptest::collection::vec(0u64..10_000_000, 1..300),
    ) {
        let slots = Slots::new(open(rate as f64, 0, None, Some(requests)), backlog);
        let (mut now, mut expected) = (0, 0);
        for step in steps {
            now += step;
            match slots.claim(now) {
                Claim::Send { index, due_ns, counted } => {
                    prop_assert_eq!(index, expected);
                    prop_assert_eq!(due_ns, slots.due_ns(index));
                    prop_assert!(counted);
                    expected += 1;
                }
                Claim::GivenUp(range) => {
                    prop_assert_eq!(range.start, expected);
                    prop_assert!(range.end > range.start);
                    expected = range.end;
                }
                Claim::Over => prop_assert_eq!(expected, requests),
            }
            prop_assert!(slots.backlog(now) <= requests.saturating_sub(expected));
        }
        let left = slots.close(u64::MAX / 2);
        prop_assert_eq!(left.start.min(requests), expected);
        prop_assert_eq!(left.end, requests);
    }
}

fn ramp(from: f64, to: f64, warmup_ns: u64, duration_ns: u64) -> Plan {
    Plan {
        ramp_to: Some(Rate::per_second(to).unwrap()),
        ..open(from, warmup_ns, Some(duration_ns), None)
    }
}

#[test]
fn a_ramp_goes_from_one_rate_to_the_other() {
    // 10 s from 100 to 300 per second are 2,000 requests, 750 of them in the first half.
    let slots = Slots::new(ramp(100.0, 300.0, 0, 10 * SECOND_NS), 1_000_000);
    assert_eq!(slots.slots, 2_000);
    assert_eq!(slots.pace.unwrap().due_before(5 * SECOND_NS), 750);
    let rate_near =
        |index| SECOND_NS as f64 / (slots.due_ns(index + 1) - slots.due_ns(index)) as f64;
    assert!((rate_near(0) - 100.0).abs() < 2.0 && (rate_near(1_998) - 300.0).abs() < 2.0);
    // Down to nearly nothing, after a warm-up at the first rate.
    let slots = Slots::new(ramp(200.0, 0.001, SECOND_NS, 10 * SECOND_NS), 1_000_000);
    assert_eq!((slots.warmup_slots, slots.slots), (200, 1_201));
    assert_eq!(slots.due_ns(199), SECOND_NS / 200 * 199);
}

proptest! {
    #[test]
    fn a_ramp_has_each_slot_at_one_moment(
        from in 0.001f64..1e6,
        to in 0.001f64..1e6,
        warmup_ns in 0..SECOND_NS,
        span_ns in 1..RAMP_NS_MAX,
        index in any::<u64>(),
    ) {
        let plan = ramp(from, to, warmup_ns, span_ns);
        let (pace, slots) = (plan.pace().unwrap(), plan.slots());
        prop_assume!(slots > 1);
        let index = index % (slots - 1);
        let (due, next) = (pace.due_ns(index), pace.due_ns(index + 1));
        prop_assert!(due <= next && next <= warmup_ns + span_ns);
        // Before its moment there were no more than those in front of it, after it there is this one too.
        prop_assert!(pace.due_before(due) <= index);
        prop_assert!(pace.due_before(due + 1) > index);
    }
}
