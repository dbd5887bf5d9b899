//! Goal: the accounts add up, and a stalled server shows in the response times of all who waited.

use super::*;
use crate::schedule::{Claim, Plan, Rate, Slots};
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn answered(due_ns: u64, sent_ns: u64, end_ns: u64) -> Record<'static> {
    Record {
        ending: Ending::Answered,
        sent_ns: Some(sent_ns),
        first_byte_ns: Some(end_ns),
        status: 200,
        ..Record::not_sent(true, due_ns, end_ns)
    }
}

/// Users in virtual time: `service` tells how long the server takes for a request that is sent at a moment.
fn simulate(plan: Plan, users: usize, service: impl Fn(u64) -> u64) -> Tally {
    let slots = Slots::new(plan, u64::MAX);
    let mut free_at = vec![0u64; users];
    let mut tally = Tally::default();
    loop {
        let user = (0..users).min_by_key(|u| free_at[*u]).unwrap();
        match slots.claim(free_at[user]) {
            Claim::Send { due_ns, counted, .. } => {
                let sent = due_ns.max(free_at[user]);
                let end = sent + service(sent);
                tally.record(&Record { counted, ..answered(due_ns, sent, end) });
                free_at[user] = end;
            }
            Claim::GivenUp(_) => unreachable!("the backlog has no limit here"),
            Claim::Over => return tally,
        }
    }
}

/// One second of standstill in ten seconds at 1,000 per second, two users, 1 ms of service: everyone who was
/// due in that second waited for its end. Measured from the moment of sending only two of them would show.
#[test]
fn a_stall_shows_for_all_who_were_due_in_it() {
    let stall = 5000 * MS..6000 * MS;
    let service = |sent: u64| if stall.contains(&sent) { stall.end - sent + MS } else { MS };
    let open = Plan {
        rate: Some(Rate::per_second(1000.0).unwrap()),
        ramp_to: None,
        warmup_ns: 0,
        duration_ns: None,
        requests: Some(10_000),
    };
    let tally = simulate(open, 2, service);
    assert_eq!((tally.requests(), tally.response_time.count()), (10_000, 10_000));
    // 1,000 of 10,000 were due in the stall; the queue they made lasts a second more, at 1,000 new per second
    // and 2,000 answered: about a fifth of all waited.
    let p = |percent| tally.response_time.percentile_ns(percent).unwrap();
    assert!(p(75.0) < 2.0 * MS as f64, "{}", p(75.0));
    assert!(p(90.0) > 400.0 * MS as f64, "{}", p(90.0));
    assert!(p(99.0) > 900.0 * MS as f64, "{}", p(99.0));
    // The server itself was slow for two requests only.
    let s = |percent| tally.service_time.percentile_ns(percent).unwrap();
    assert!(s(99.9) < 1.1 * MS as f64, "{}", s(99.9));
    assert!(tally.service_time.max_ns().unwrap() > 990.0 * MS as f64);
    assert!(tally.send_delay.max_ns().unwrap() > 900.0 * MS as f64);

    // The closed loop asks for less while the server stands still: this is the omission.
    let closed = Plan { rate: None, duration_ns: Some(10_000 * MS), requests: None, ..open };
    let tally = simulate(closed, 2, service);
    assert!(tally.response_time.percentile_ns(99.9).unwrap() < 1.1 * MS as f64);
}

#[test]
fn an_overloaded_server_cannot_look_fast() {
    let mut tally = Tally::default();
    for i in 0..10 {
        tally.record(&answered(i * MS, i * MS, i * MS + MS));
    }
    for i in 10..100 {
        tally.record(&Record::not_sent(true, i * MS, 1000 * MS));
    }
    assert_eq!((tally.requests(), tally.sent, tally.ok(), tally.errors()), (100, 10, 10, 0));
    assert_eq!(tally.ended(Ending::NotSent), 90);
    assert!(tally.response_time.percentile_ns(50.0).unwrap() > 900.0 * MS as f64);
    assert_eq!(tally.service_time.count(), 10);
}

#[test]
fn failures_that_took_no_time_do_not_better_the_percentiles() {
    let mut tally = Tally::default();
    for ending in [Ending::Connect, Ending::ClosedEarly, Ending::ShortBody, Ending::Malformed] {
        tally.record(&Record { ending, ..answered(0, 0, 5) });
    }
    assert_eq!((tally.response_time.count(), tally.service_time.count()), (0, 0));
    for ending in [Ending::Timeout, Ending::Unanswered] {
        tally.record(&Record { ending, ..answered(0, 0, 5) });
    }
    assert_eq!((tally.response_time.count(), tally.errors(), tally.ok()), (2, 6, 0));
    assert_eq!(tally.response_time.percentile_ns(100.0), Some(5.0));
}

#[test]
fn statuses_count_once_each() {
    let mut tally = Tally::default();
    for status in [200, 206, 304, 404, 429, 500] {
        tally.record(&Record { status, ..answered(0, 0, 1) });
    }
    assert_eq!((tally.ok(), tally.errors()), (3, 3));
    assert_eq!((tally.answers_with(400..500), tally.answers_with(500..600)), (2, 1));
    assert_eq!(tally.statuses().count(), 6);
}

#[test]
fn warm_up_is_told_and_not_counted() {
    let mut tally = Tally::default();
    tally.record(&Record { counted: false, ..answered(0, 0, 1) });
    assert_eq!((tally.warmup_requests, tally.requests(), tally.response_time.count()), (1, 0, 0));
    assert_eq!(tally.hit_ratio(), None);
}

fn caches(fields: &[&str]) -> Tally {
    let mut tally = Tally::default();
    for field in fields {
        let cache_status = (!field.is_empty()).then_some(field.as_bytes());
        tally.record(&Record { cache_status, ..answered(0, 0, 1) });
    }
    tally
}

#[test]
fn the_last_member_is_the_first_hop() {
    let tally = caches(&[
        "edge-a; hit; ttl=5",
        "parent; hit, edge-a; fwd=uri-miss; stored",
        "parent; fwd=uri-miss, \"edge; b\"; fwd=stale; fwd-status=304",
        // The parent's member is that of the fill which this request only joined.
        "parent; fwd=uri-miss, edge-a; fwd=uri-miss; collapsed",
        // Stored with the answer: this request never got to the parent.
        "parent; fwd=uri-miss; stored, edge-a; hit",
        "",
    ]);
    assert_eq!((tally.first_hop.hits, tally.first_hop.collapsed), (2, 1));
    assert_eq!(tally.first_hop.forwards[2..7], [2, 0, 0, 0, 1]);
    assert_eq!(tally.without_cache_status, 1);
    assert_eq!(tally.hit_ratio(), Some(2.0 / 6.0));
    assert_eq!(tally.tiers["edge-a"].answers(), 4);
    assert_eq!(tally.tiers["edge; b"].answers(), 1);
    assert_eq!((tally.tiers["parent"].hits, tally.tiers["parent"].answers()), (1, 2));
}

#[test]
fn odd_members_are_counted_somewhere() {
    let tally = caches(&["a", "a; fwd=moonphase", "a; hit=?0", ";;", "a; \"x", ",", "a; hit=?1"]);
    assert_eq!(tally.first_hop.hits, 1);
    assert_eq!(tally.first_hop.forwards[FORWARD_OTHER], 1);
    assert_eq!(tally.first_hop.forwards[FORWARD_UNSAID], 4);
    assert_eq!(tally.without_cache_status, 1);
}

#[test]
fn names_of_caches_have_a_limit() {
    let fields: Vec<String> = (0..TIER_NAMES_MAX + 5).map(|n| format!("c{n}; hit")).collect();
    let tally = caches(&fields.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(tally.tiers.len(), TIER_NAMES_MAX + 1);
    assert_eq!(tally.tiers[TIER_MORE].hits, 5);
}

fn any_ending() -> impl Strategy<Value = Ending> {
    proptest::sample::select(vec![
        Ending::Answered,
        Ending::Connect,
        Ending::Timeout,
        Ending::ClosedEarly,
        Ending::ShortBody,
        Ending::Malformed,
        Ending::Unanswered,
        Ending::NotSent,
    ])
}

proptest! {
    #[test]
    fn accounts_add_up_however_they_are_split(
        list in proptest::collection::vec((any_ending(), any::<bool>(), 0u64..1 << 40, 100u16..600), 0..60),
        split in any::<prop::sample::Index>(),
        text in "[ -~]{0,40}",
    ) {
        let records: Vec<Record<'_>> = list
            .iter()
            .map(|(ending, counted, took, status)| Record {
                ending: *ending,
                counted: *counted,
                sent_ns: (!matches!(ending, Ending::NotSent | Ending::Connect)).then_some(3),
                status: *status,
                cache_status: Some(text.as_bytes()),
                ..Record::not_sent(true, 1, 3 + took)
            })
            .collect();
        let all = |records: &[Record<'_>]| {
            let mut tally = Tally::default();
            records.iter().for_each(|r| tally.record(r));
            tally
        };
        let at = split.index(records.len() + 1);
        let (mut tally, second) = (all(&records[..at]), all(&records[at..]));
        tally.add(&second);
        let whole = all(&records);
        prop_assert_eq!(format!("{:?}", tally.tiers), format!("{:?}", whole.tiers));
        prop_assert_eq!(tally.requests() + tally.warmup_requests, records.len() as u64);
        prop_assert_eq!(tally.requests(), tally.ok() + tally.errors() + tally.ended(Ending::NotSent));
        let unsent = tally.ended(Ending::NotSent) + tally.ended(Ending::Connect);
        prop_assert_eq!(tally.requests(), tally.sent + unsent);
        prop_assert_eq!(
            tally.ended(Ending::Answered),
            tally.first_hop.answers() + tally.without_cache_status
        );
        for percent in [0.0, 50.0, 99.9, 100.0] {
            prop_assert_eq!(
                tally.response_time.percentile_ns(percent),
                whole.response_time.percentile_ns(percent)
            );
        }
        prop_assert_eq!(tally.last_end_ns, whole.last_end_ns);
    }
}
