//! Placement by properties, and the roll by its rules.

use super::*;
use crate::purge::{PURGES_MAX, Receipt};
use proptest::prelude::*;
use tidegate_cache::purge::{Judgement, Mode};
use tidegate_contract::Admission;

fn mix(n: u64) -> u64 {
    rendezvous::identity(&n.to_le_bytes())
}

fn key(n: u64) -> u128 {
    u128::from(mix(n)) << 64 | u128::from(mix(n ^ 0xABCD))
}

fn devices(seed: u64, weights: &[u64]) -> Vec<(Identity, usize)> {
    let of = |(n, weight): (usize, &u64)| {
        let uuid = key(seed.wrapping_mul(1000) + n as u64);
        (Identity { uuid, bytes: weight << 30 }, n)
    };
    weights.iter().enumerate().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(9), cases: 64, ..Default::default() })]

    /// Whoever comes or goes, whatever the order of the list: only the one's own share moves, and it is as large as the
    /// device is.
    #[test]
    fn a_device_moves_its_own_share_only(
        seed in any::<u32>(),
        weights in proptest::collection::vec(1u64..8, 2..12),
        turn in any::<usize>(),
    ) {
        const KEYS: u64 = 4000;
        let all = devices(seed.into(), &weights);
        let gone = turn % all.len();
        let mut others = all.clone();
        others.remove(gone);
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len());
        let mut own = 0u64;
        for n in 0..KEYS {
            let home = place(key(n), all.iter().copied());
            prop_assert_eq!(home, place(key(n), turned.iter().copied()), "the order does not matter");
            if home == Some(gone) {
                own += 1;
            } else {
                prop_assert_eq!(home, place(key(n), others.iter().copied()));
            }
        }
        let share = weights[gone] as f64 / weights.iter().sum::<u64>() as f64;
        let (expected, found) = (share * KEYS as f64, own as f64);
        let deviation = (expected * (1.0 - share)).sqrt();
        prop_assert!((found - expected).abs() < 5.0 * deviation, "{found} of {KEYS}, expected {expected}");
    }
}

#[derive(Default)]
struct Paper {
    written: Mutex<Vec<String>>,
    fails: AtomicBool,
}

impl Clerk for Arc<Paper> {
    fn write(&self, roll: String, done: Written) {
        if self.fails.load(Ordering::SeqCst) {
            return done(Err("no room".to_owned()));
        }
        self.written.lock().unwrap().push(roll);
        done(Ok(()));
    }
}

impl Paper {
    fn last(&self) -> Option<Roll> {
        Roll::decode(self.written.lock().unwrap().last()?)
    }
}

fn stores(count: usize, roll: Option<Roll>) -> (Stores, Arc<Paper>) {
    let paper = Arc::new(Paper::default());
    let device = |n| {
        let admission = Arc::new(AdmissionState::new(Admission::Always, 1 << 30));
        (PathBuf::from(format!("/dev/{n}")), admission)
    };
    let devices = (0..count).map(device).collect();
    (Stores::new(devices, roll, Box::new(paper.clone())), paper)
}

fn identity(uuid: u128) -> Identity {
    Identity { uuid, bytes: 1 << 30 }
}

fn purge(number: u64) -> Purge {
    Purge { handle: 7, service: 7, number, at_ms: 0, mode: Mode::Hard }
}

fn members(roll: &Roll) -> Vec<u128> {
    let members = roll.entries().iter().filter(|entry| entry.standing == Standing::Member);
    members.map(|entry| entry.uuid).collect()
}

#[test]
fn who_may_enter() {
    let mut roll = Roll::default();
    roll.set(1, Standing::Member, "/dev/0");
    roll.set(2, Standing::Retired, "/dev/1");
    let (known, _) = stores(4, Some(roll));
    let [a, b, c, d] = known.devices() else { panic!("four") };
    assert_eq!(a.enter(&known, identity(1), false), Entry::Taken);
    assert_eq!(b.enter(&known, identity(2), false), Entry::Retired);
    assert_eq!(c.enter(&known, identity(3), false), Entry::Stranger);
    assert_eq!(c.enter(&known, identity(4), true), Entry::Taken, "made empty");
    assert_eq!(d.enter(&known, identity(1), false), Entry::SameAs("/dev/0".into()));
    assert!(!a.is_distrusted() && !c.is_distrusted());

    // Without a roll what is there is asked about again, and counts as a member once its journal says so.
    let (lost, paper) = stores(2, None);
    let [a, b] = lost.devices() else { panic!("two") };
    assert_eq!(a.enter(&lost, identity(1), false), Entry::Taken);
    assert_eq!(b.enter(&lost, identity(2), true), Entry::Taken);
    assert!(a.is_distrusted() && !b.is_distrusted());
    let roll = Roll::decode(&lost.unsaved_roll().unwrap()).unwrap();
    assert_eq!(members(&roll), [2]);
    assert_eq!(lost.unsaved_roll(), None);
    a.enroll();
    lost.tend();
    assert_eq!(members(&paper.last().unwrap()), [2, 1]);
}

#[test]
fn who_cannot_take_a_purge_is_struck_off_before_it_is_acknowledged() {
    let mut roll = Roll::default();
    for uuid in [1, 2, 3] {
        roll.set(uuid, Standing::Member, &format!("/dev/{}", uuid - 1));
    }
    let (node, paper) = stores(2, Some(roll));
    let [a, b] = node.devices() else { panic!("two") };
    assert_eq!(a.enter(&node, identity(1), false), Entry::Taken);
    assert_eq!(b.enter(&node, identity(2), false), Entry::Taken);
    node.tend();
    assert_eq!(paper.last(), None, "nothing was purged while the third is away");
    paper.fails.store(true, Ordering::SeqCst);
    let receipt = node.record(purge(10));
    assert!(!receipt.is_good());
    paper.fails.store(false, Ordering::SeqCst);
    let receipt = node.record(purge(11));
    assert_eq!(members(&paper.last().unwrap()), [1, 2], "written again, since it had failed");
    assert!(!receipt.is_good(), "the devices have not said anything yet");
    receipt.give(a.bit().into(), Ok(()));
    receipt.give(a.bit().into(), Ok(()));
    assert!(!receipt.is_good() && receipt.missing() == u64::from(b.bit()));
    receipt.give(b.bit().into(), Ok(()));
    assert!(receipt.is_good());

    // What an answer makes invalid counts as well.
    let mut roll = Roll::default();
    (1..=2).for_each(|uuid| assert!(roll.set(uuid, Standing::Member, "/dev/0")));
    let (other, written) = stores(1, Some(roll));
    assert_eq!(other.devices()[0].enter(&other, identity(1), false), Entry::Taken);
    other.note_invalidation();
    other.tend();
    assert_eq!(members(&written.last().unwrap()), [1]);

    // One that is read no more does not hold up anybody.
    b.refuse();
    let receipt = node.record(purge(12));
    assert_eq!(members(&paper.last().unwrap()), [1]);
    receipt.give(a.bit().into(), Ok(()));
    assert!(receipt.is_good());
    let home: Vec<_> = (0..50).map(|n| node.home(key(n)).map(|(number, _)| number)).collect();
    assert!(home.iter().all(|home| *home == Some(0)));

    a.refuse();
    assert!(node.record(purge(13)).is_good(), "nothing on a disk can come back");
    assert_eq!(members(&paper.last().unwrap()), [0u128; 0]);
    assert!(node.home(key(1)).is_none());
}

#[test]
fn a_rule_is_needed_until_all_devices_have_given_it_up() {
    let purges = Purges::default();
    purges.add(&purge(5), 0b101);
    purges.retire(std::iter::once(purge(5)), 0b1);
    assert_eq!(purges.retired(), 0);
    purges.release(0b100);
    assert_eq!(purges.retired(), 1);
    purges.retire(std::iter::once(purge(5)), 0b100);
    assert_eq!(purges.retired(), 1, "once");
    purges.add(&purge(6), 0);
    assert_eq!((purges.retired(), purges.len()), (2, 1));
    let receipt = Receipt::of(0b11);
    receipt.give(0b1, Err("no".to_owned()));
    receipt.give(0b10, Ok(()));
    assert!(!receipt.is_good());
}

#[test]
fn purges_beyond_their_number_are_summed_up_by_service_and_nothing_is_kept_that_was_purged() {
    let soft =
        |service, handle, number| Purge { handle, service, number, at_ms: 0, mode: Mode::Soft };
    for devices in [0, 2] {
        let (node, _paper) = stores(devices, Some(Roll::default()));
        for (device, uuid) in node.devices().iter().zip(1..) {
            assert_eq!(device.enter(&node, identity(uuid), true), Entry::Taken);
        }
        let purges = node.purges();
        // The same again and again takes no room, and reaches nothing else.
        for _ in 0..=PURGES_MAX {
            node.record(soft(100, 7, node.next_version()));
        }
        purges.bound(&node);
        assert!(purges.kept() <= 2, "{}", purges.kept());
        assert_eq!(purges.judge(&[100, 8], 1, 1), Judgement::Kept);
        assert!(matches!(purges.judge(&[100, 7], 1, 1), Judgement::Soft { .. }));
        // Each time another: the whole service is stale, what was gone stays gone, and others' purges stay as they were.
        node.record(Purge { mode: Mode::Hard, ..soft(100, 9, node.next_version()) });
        node.record(soft(200, 201, node.next_version()));
        for handle in 0..PURGES_MAX as u64 {
            node.record(soft(100, 1000 + handle, node.next_version()));
        }
        purges.bound(&node);
        assert!(purges.kept() <= 8 && purges.len() <= 8, "{} {}", purges.kept(), purges.len());
        for handle in [7, 8, 1000, 999 + PURGES_MAX as u64] {
            assert!(matches!(purges.judge(&[100, handle], 1, 1), Judgement::Soft { .. }));
        }
        assert_eq!(purges.judge(&[100, 9], 1, 1), Judgement::Hard);
        assert!(matches!(purges.judge(&[200, 201], 1, 1), Judgement::Soft { .. }));
        assert_eq!(purges.judge(&[200, 202], 1, 1), Judgement::Kept);
        let now = node.next_version();
        assert_eq!(purges.judge(&[100, 8], now, now), Judgement::Kept, "what came behind it");
    }
}
