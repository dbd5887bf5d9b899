//! Goal: a device that fails, stalls or is away costs its own share of the keys and nothing else, and comes back as it
//! may. Method: one parent with three devices in a world of its own; which share is whose is found by taking each one
//! out; then each meeting as a script.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use tidegate_faults::Faults;
use tidegate_ring::sim::Death;
use tidegate_ring::sleep;
use tidegate_sim::client::give_order;
use tidegate_sim::directed::{Act, get, with_parent};
use tidegate_sim::disk::Trouble;
use tidegate_sim::node::{HOST, SimNode};
use tidegate_sim::scene::Stage;

const ITEMS: usize = 90;
const DEVICES: usize = 3;

fn path(n: usize) -> String {
    format!("/item/{n}")
}

/// Some lie with their head, some in a block of their own; memory holds two of them.
fn body(n: usize) -> Vec<u8> {
    vec![n as u8; if n.is_multiple_of(2) { 3_000 } else { 300_000 } + n]
}

/// One parent whose store has all items.
struct Parent {
    stage: Stage,
    node: Rc<SimNode>,
    asked: Rc<RefCell<Vec<usize>>>,
}

impl Parent {
    /// Asks for everything; gives what the origin was asked for meanwhile.
    async fn ask_all(&self) -> BTreeSet<usize> {
        self.ask(|_| true).await
    }

    async fn ask(&self, which: impl Fn(usize) -> bool) -> BTreeSet<usize> {
        self.ask_these((0..ITEMS).filter(|n| which(*n))).await
    }

    async fn ask_these(&self, items: impl Iterator<Item = usize>) -> BTreeSet<usize> {
        self.asked.borrow_mut().clear();
        for n in items {
            let got = get(&path(n), "").await.expect("it is answered");
            assert_eq!((got.status, got.complete), (200, true), "item {n}");
            assert!(got.body == body(n), "item {n} has wrong bytes");
        }
        sleep(Duration::from_secs(2)).await; // what is kept is written
        self.asked.borrow().iter().copied().collect()
    }

    /// Purges an item; whether there was a receipt.
    async fn purge(&self, n: usize) -> bool {
        let url = format!("http://{HOST}{}", path(n));
        let order = format!("{{\"mode\":\"hard\",\"url\":\"{url}\"}}");
        give_order(&self.stage, "parent-1", &order).await
    }

    async fn start(&self) {
        self.node.start();
        while !self.node.is_up() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn restart(&self) {
        self.node.kill(Death::Killed);
        self.start().await;
    }

    /// What lies on each device.
    async fn shares(&self) -> Vec<BTreeSet<usize>> {
        let mut shares = Vec::new();
        for device in 0..DEVICES {
            self.node.kill(Death::Killed);
            self.node.trouble(device, Some(Trouble::Absent));
            self.start().await;
            shares.push(self.ask_all().await);
            self.node.kill(Death::Killed);
            self.node.trouble(device, None);
        }
        self.start().await;
        assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), ITEMS, "{shares:?}");
        assert_eq!(shares.iter().flatten().count(), ITEMS, "each lies on one of them");
        assert!(shares.iter().all(|share| share.len() > ITEMS / 9), "{shares:?}");
        assert_eq!(self.ask_all().await, BTreeSet::new(), "all of it is back");
        shares
    }
}

fn with_three<F: Future<Output = ()> + 'static>(test: impl FnOnce(Parent) -> F + 'static) {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let theirs = asked.clone();
    with_parent(
        |plan| {
            plan.devices = DEVICES as u64;
            plan.sizes = tidegate_sim::content::Sizes::Blocks;
            plan.ram_bytes = 700 << 10;
            // Only that what is told of devices in trouble is no violation.
            plan.trouble = Some(Trouble::Absent);
        },
        move |_, request| {
            let n = request.path.rsplit('/').next().and_then(|n| n.parse().ok()).expect("a number");
            theirs.borrow_mut().push(n);
            Act::reply(200, "cache-control: max-age=36000\r\netag: \"1\"\r\n", &body(n))
        },
        move |stage, node| async move {
            let parent = Parent { stage, node, asked };
            assert_eq!(parent.ask_all().await.len(), ITEMS);
            parent.restart().await;
            test(parent).await;
        },
    );
}

#[test]
fn a_dead_device_is_read_around_retired_and_remembered_and_comes_back_empty() {
    with_three(|parent| async move {
        let shares = parent.shares().await;
        parent.restart().await;
        parent.node.trouble(1, Some(Trouble::Dead));
        let mut lost = BTreeSet::new();
        for _ in 0..4 {
            lost.extend(parent.ask_all().await);
        }
        // Some of its share had been filled on the others while it was out.
        assert!(lost.len() > 8 && lost.is_subset(&shares[1]), "the others have theirs: {lost:?}");
        assert_eq!(parent.node.device_states(), ["ok", "out", "ok"]);
        assert_eq!(parent.ask_all().await, BTreeSet::new(), "its share lies on the others");
        // Sound again, and not trusted; also after a restart.
        parent.node.trouble(1, None);
        parent.restart().await;
        assert_eq!(parent.node.device_states(), ["ok", "refused", "ok"]);
        assert_eq!(parent.ask_all().await, BTreeSet::new());
        parent.node.kill(Death::Killed);
        parent.node.rejoin();
        parent.start().await;
        assert_eq!(parent.node.device_states(), ["ok", "ok", "ok"]);
        // It has a new uuid, and so a share that is new, too.
        let moved = parent.ask_all().await;
        assert!((ITEMS / 9..ITEMS * 2 / 3).contains(&moved.len()), "{moved:?}");
        assert_eq!(parent.ask_all().await, BTreeSet::new());
    });
}

#[test]
fn a_slow_device_is_passed_by_and_taken_again_when_it_is_fast() {
    with_three(|parent| async move {
        let shares = parent.shares().await;
        parent.restart().await;
        parent.node.trouble(2, Some(Trouble::Slow));
        let is_first = |n: usize| n.is_multiple_of(3);
        let lost = parent.ask(is_first).await;
        assert!(lost.is_subset(&shares[2]), "{lost:?}");
        sleep(Duration::from_secs(15)).await;
        assert_eq!(parent.node.device_states(), ["ok", "ok", "slow"]);
        let began = parent.stage.now();
        let lost = parent.ask(is_first).await;
        assert!(!lost.is_empty() && lost.is_subset(&shares[2]), "{lost:?}");
        let span = parent.stage.now() - began;
        assert!(span < Duration::from_secs(6), "nobody waits for it: {span:?}");
        parent.node.trouble(2, None);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(parent.node.device_states(), ["ok", "ok", "ok"]);
        let lost = parent.ask_all().await;
        assert!(
            lost.iter().all(|n| is_first(*n)),
            "what it had and was not filled since: {lost:?}"
        );
        assert_eq!(parent.ask_all().await, BTreeSet::new());
        assert_eq!(parent.node.retired(), 0);
        // For longer than it is waited for: its share goes to the others, and stays there.
        parent.node.trouble(2, Some(Trouble::Slow));
        sleep(Duration::from_secs(700)).await;
        assert_eq!(parent.node.device_states(), ["ok", "ok", "out"]);
        let lost = parent.ask_all().await;
        assert!(lost.is_subset(&shares[2]), "{lost:?}");
        assert_eq!(parent.ask_all().await, BTreeSet::new());
    });
}

#[test]
fn a_device_that_takes_no_writes_serves_until_a_purge_that_it_cannot_keep() {
    with_three(|parent| async move {
        parent.node.faults(1, Faults { write_error: 1000, ..Faults::default() });
        parent.ask_these(ITEMS..ITEMS * 2).await;
        assert_eq!(parent.node.device_states(), ["ok", "readonly", "ok"]);
        assert_eq!(parent.ask_all().await, BTreeSet::new());
        assert!(parent.purge(7).await, "one of three cannot hold it up");
        assert_eq!(parent.node.device_states(), ["ok", "out", "ok"]);
        parent.restart().await;
        assert_eq!(parent.node.device_states(), ["ok", "refused", "ok"]);
        let lost = parent.ask_all().await;
        assert!(lost.contains(&7) && lost.len() > ITEMS / 9, "{lost:?}");
    });
}

#[test]
fn a_purge_waits_for_no_device_that_hangs() {
    for is_known in [true, false] {
        with_three(move |parent| async move {
            parent.node.trouble(0, Some(Trouble::Slow));
            if is_known {
                sleep(Duration::from_secs(20)).await;
                assert_eq!(parent.node.device_states(), ["slow", "ok", "ok"]);
            }
            let began = parent.stage.now();
            assert!(parent.purge(3).await, "two of three have it");
            let span = parent.stage.now() - began;
            assert!(span < Duration::from_secs(8), "{span:?}");
            assert_eq!(parent.node.device_states(), ["out", "ok", "ok"]);
            assert!(parent.ask_all().await.contains(&3));
        });
    }
}

#[test]
fn without_any_device_the_node_serves_from_next_hops() {
    with_three(|parent| async move {
        (0..DEVICES).for_each(|device| parent.node.trouble(device, Some(Trouble::Dead)));
        for _ in 0..3 {
            parent.ask_all().await;
        }
        assert_eq!(parent.node.device_states(), ["out", "out", "out"]);
        assert_eq!(parent.ask_all().await.len(), ITEMS, "memory holds next to nothing");
        (0..DEVICES).for_each(|device| parent.node.trouble(device, None));
        parent.restart().await;
        assert_eq!(parent.node.device_states(), ["refused", "refused", "refused"]);
        parent.ask_all().await;
    });
}
