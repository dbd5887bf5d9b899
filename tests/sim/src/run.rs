//! One seed, from its plan to its verdict.

use crate::client::{ask_whole, live, purge};
use crate::content::Item;
use crate::disk::Trouble;
use crate::node::{SimNode, admin, http};
use crate::origin;
use crate::plan::Plan;
use crate::scene::{Scene, Stage, Tally};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tidegate_faults::Random;
use tidegate_ring::sim::{Cut, Death, Dial, Link, World, WorldOptions};
use tidegate_ring::{sleep, spawn};

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    pub violations: Vec<String>,
    pub tally: Tally,
    /// The same for the same seed, whatever the machine.
    pub hash: u64,
    pub polls: u64,
}

/// With all faults off, an item must come within this time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// For requests of before that are still under way, and for what disks still do.
const SETTLED_WITHIN: Duration = Duration::from_secs(500);
/// Longer than any connection stays open unused.
const IDLE: Duration = Duration::from_secs(130);

/// Runs one seed.
pub fn run(seed: u64, trace: bool) -> Outcome {
    run_plan(Plan::draw(seed), trace)
}

/// Runs a plan, with the chances of its seed.
pub fn run_plan(plan: Plan, trace: bool) -> Outcome {
    let seed = plan.seed;
    if trace {
        eprintln!("{plan:#?}");
    }
    let mut random = Random(seed);
    let mut chosen = random.fork();
    let faulty_links = Rc::new(Cell::new(true));
    let links = links(&plan, random.fork(), faulty_links.clone());
    let world = World::new(WorldOptions {
        unix: origin::EPOCH,
        choose: plan.shuffled.then(|| -> tidegate_ring::sim::Choose {
            Box::new(move |n| chosen.below(n as u64) as usize)
        }),
        links,
        trace,
    });
    let mut items: Vec<Item> =
        (0..plan.items).map(|n| Item::new(n, plan.sizes, &mut random)).collect();
    if plan.alternates {
        let others = items[0].diversify(plan.sizes, &mut random);
        items.extend(others);
    }
    let stage: Stage = Rc::new(Scene {
        world: world.clone(),
        plan,
        random: RefCell::new(random),
        items: RefCell::new(items),
        answers: RefCell::default(),
        purges: RefCell::default(),
        troubles: RefCell::default(),
        purges_from: Cell::new(Duration::ZERO),
        faulty: Cell::new(true),
        violations: RefCell::default(),
        tally: RefCell::default(),
    });
    let nodes = ids(&stage.plan).iter().map(|id| SimNode::new(&stage, id)).collect();
    let acted = world.run(act(stage.clone(), nodes, faulty_links));
    if acted.is_err() {
        stage.violation("nothing can happen any more, and the run has not ended".to_owned());
    }
    let violations = stage.violations.take();
    let tally = *stage.tally.borrow();
    Outcome { violations, tally, hash: world.hash(), polls: world.polls() }
}

/// The nodes, the one that clients ask last.
fn ids(plan: &Plan) -> &'static [&'static str] {
    if plan.edge { &["parent-1", "parent-2", "edge-1"] } else { &["parent-1"] }
}

async fn act(stage: Stage, nodes: Vec<Rc<SimNode>>, faulty_links: Rc<Cell<bool>>) {
    let ids = ids(&stage.plan);
    let front = ids[ids.len() - 1];
    origin::start(&stage);
    for node in &nodes {
        node.start();
    }
    while !nodes.iter().all(|node| node.is_up()) {
        sleep(Duration::from_millis(10)).await;
    }
    let until = stage.now() + stage.plan.span;
    let mut under_way = Vec::new();
    for _ in 0..stage.plan.clients {
        under_way.push(spawn(live(stage.clone(), front, until)));
    }
    let plan = stage.plan.clone();
    for _ in 0..plan.purges {
        let (theirs, at) = (stage.clone(), when(&stage));
        under_way.push(spawn(async move {
            sleep(at).await;
            // What is purged has often changed a moment before.
            if theirs.chance(600) {
                change(&theirs);
            }
            purge(&theirs, ids).await;
        }));
    }
    for _ in 0..plan.changes {
        let (theirs, at) = (stage.clone(), when(&stage));
        under_way.push(spawn(async move {
            sleep(at).await;
            change(&theirs);
        }));
    }
    for _ in 0..plan.crashes {
        let node = nodes[stage.below(nodes.len() as u64) as usize].clone();
        let (theirs, at) = (stage.clone(), when(&stage));
        under_way.push(spawn(async move {
            sleep(at).await;
            let death = if theirs.chance(500) { Death::Killed } else { Death::PowerCut };
            theirs.tally.borrow_mut().crashes += 1;
            node.kill(death);
            sleep(Duration::from_millis(theirs.between(0, 5_000))).await;
            node.start();
        }));
    }
    if let Some(trouble) = plan.trouble {
        let node = nodes[stage.below(nodes.len() as u64) as usize].clone();
        let device = stage.below(plan.devices) as usize;
        let (theirs, at) = (stage.clone(), when(&stage));
        under_way.push(spawn(async move {
            sleep(at).await;
            suffer(&theirs, &node, device, trouble).await;
        }));
    }
    for _ in 0..plan.wall_steps {
        let (theirs, at) = (stage.clone(), when(&stage));
        under_way.push(spawn(async move {
            sleep(at).await;
            let day = 86_400;
            let by = [-day, -100, -7, 7, 100, day][theirs.below(6) as usize];
            theirs.world.step_wall(by);
        }));
    }
    sleep(stage.plan.span).await;
    // From here on nothing goes wrong any more: all that was begun ends.
    stage.world.event("sound", 0, 0);
    stage.faulty.set(false);
    faulty_links.set(false);
    for node in &nodes {
        node.heal();
    }
    let settle = tidegate_ring::timeout(SETTLED_WITHIN, async {
        for task in under_way {
            task.await;
        }
        while !nodes.iter().all(|node| node.is_up()) {
            sleep(Duration::from_millis(100)).await;
        }
    });
    if settle.await.is_err() {
        stage.violation("what was begun before the faults ended has not ended".to_owned());
    }
    // Next hops that were out are asked again, and connections that lead nowhere are not kept any more.
    sleep(Duration::from_secs(45)).await;
    settle_fills(&nodes).await;
    let count = stage.items.borrow().len();
    for item in 0..count {
        // It may join a fill over a link that was made slow.
        let slow = if stage.plan.net.slow > 0 { SETTLED_WITHIN } else { Duration::ZERO };
        ask_whole(&stage, front, item, ANSWERED_WITHIN + slow).await;
    }
    sleep(IDLE).await;
    settle_fills(&nodes).await;
    for node in &nodes {
        node.judge_idle();
        node.kill(Death::Killed);
        sleep(Duration::from_secs(1)).await; // a device may have been probed just then
        node.judge_buffers();
    }
}

/// One device is in trouble for a while; then all is well with it, and an operator may have it used again.
async fn suffer(stage: &Stage, node: &Rc<SimNode>, device: usize, trouble: Trouble) {
    let is_taken_out = trouble == Trouble::Absent;
    let span = Duration::from_millis(stage.between(0, 40_000));
    if is_taken_out {
        node.kill(Death::Killed);
    }
    node.trouble(device, Some(trouble));
    if is_taken_out {
        node.start();
    }
    sleep(span).await;
    let not_well = node.device_states().iter().filter(|state| **state != "ok").count() as u64;
    stage.tally.borrow_mut().devices_ill += not_well + u64::from(is_taken_out);
    if is_taken_out {
        node.kill(Death::Killed);
    }
    node.trouble(device, None);
    if is_taken_out && stage.chance(500) {
        // It comes back, and the others are gone: nobody is left to tell it what it missed.
        let others = || (0..stage.plan.devices as usize).filter(|other| *other != device);
        others().for_each(|other| node.trouble(other, Some(Trouble::Absent)));
        node.start();
        sleep(Duration::from_millis(stage.between(0, 20_000))).await;
        node.kill(Death::Killed);
        others().for_each(|other| node.trouble(other, None));
    }
    let retired = node.retired() as u64;
    stage.tally.borrow_mut().devices_retired += retired;
    if retired > 0 && stage.chance(700) {
        sleep(Duration::from_millis(stage.between(0, 5_000))).await;
        node.kill(Death::Killed);
        node.rejoin();
    }
    node.start();
}

/// Waits for fills of slow next hops, which nobody else waits for.
async fn settle_fills(nodes: &[Rc<SimNode>]) {
    for _ in 0..100 {
        if nodes.iter().all(|node| node.is_idle()) {
            return;
        }
        sleep(Duration::from_secs(10)).await;
    }
}

/// Some moment of the run.
fn when(stage: &Stage) -> Duration {
    Duration::from_millis(stage.below(stage.plan.span.as_millis() as u64))
}

fn change(stage: &Stage) {
    let now = stage.now();
    let mut items = stage.items.borrow_mut();
    let item = stage.below(items.len() as u64) as usize;
    stage.world.event("change", item as u64, items[item].versions.len() as u64);
    items[item].change(stage.plan.sizes, now, &mut stage.random.borrow_mut());
}

/// How connections behave, by whom they lead to.
fn links(plan: &Plan, random: Random, faulty: Rc<Cell<bool>>) -> tidegate_ring::sim::Links {
    let random = RefCell::new(random);
    let plan = plan.clone();
    let admins = ["parent-1", "parent-2", "edge-1"].map(admin);
    let front = http(if plan.edge { "edge-1" } else { "parent-1" });
    Box::new(move |address: SocketAddr| {
        let random = &mut *random.borrow_mut();
        let mut link = Link {
            latency: Duration::from_micros(random.between(50, 20_000)),
            bytes_per_second: 1 << random.between(19, 30),
            segment_bytes: plan.segment_bytes,
            window_bytes: 1 << random.between(12, 19),
            losing: plan.losing,
            ..Link::default()
        };
        if !faulty.get() || admins.contains(&address) {
            link.bytes_per_second = 1 << 27;
            link.window_bytes = 1 << 18;
            return link;
        }
        let net = plan.net;
        let mut cut = |to: u64| {
            let at = if random.chance(500) { random.below(600) } else { random.below(to) };
            match (random.chance(net.reset), random.chance(net.silence)) {
                (true, _) => Cut::Reset(at),
                (false, true) => Cut::Silence(at),
                _ => Cut::Never,
            }
        };
        (link.there, link.back) = (cut(2_000), cut(400_000));
        // Clients see that nobody listens; what they do then is no business of the node's.
        if address != front {
            if random.chance(net.lost) {
                link.dial = Dial::Lost;
            } else if random.chance(net.refused) {
                link.dial = Dial::Refused;
            }
        }
        if random.chance(net.slow) {
            link.bytes_per_second = random.between(5_000, 50_000);
            link.latency = Duration::from_millis(random.between(50, 800));
        }
        link
    })
}
