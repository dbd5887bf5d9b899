//! What a seed makes of a run: its nodes, its content, and which faults it has at what rates. Swarm testing: each
//! seed turns off about half of the kinds, so that rare ones are not drowned by common ones.

use crate::content::Sizes;
use crate::disk::Trouble;
use std::time::Duration;
use tidegate_contract::Admission;
use tidegate_faults::{Faults, Random};

/// Faults of connections, of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetFaults {
    pub refused: u32,
    pub lost: u32,
    pub reset: u32,
    pub silence: u32,
    pub slow: u32,
}

impl NetFaults {
    pub fn any(&self) -> bool {
        self.refused + self.lost + self.reset + self.silence + self.slow > 0
    }
}

/// Faults of the origin, of a thousand answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct OriginFaults {
    pub errors: u32,
    pub hangs: u32,
    pub slow_heads: u32,
    pub slow_bodies: u32,
    pub cuts: u32,
    pub garbage: u32,
    pub closes: u32,
    pub lies: u32,
}

impl OriginFaults {
    pub fn any(&self) -> bool {
        self.errors
            + self.hangs
            + self.slow_heads
            + self.slow_bodies
            + self.cuts
            + self.garbage
            + self.closes
            + self.lies
            > 0
    }
}

/// What a run does wrong on purpose, to see that it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Now and then the origin sends bytes of another version.
    Bytes,
    /// Purges are said to be done that nobody was told of.
    Purges,
    /// The origin says that an answer may be kept for longer than it means.
    Freshness,
    /// The test keeps a buffer of each process.
    Buffers,
    /// Devices that missed purges are on the roll again with each start.
    Roll,
    /// A POST is said to have gone through that nobody was sent.
    Posts,
    /// The origin gives what is for no language to whoever asks for one, and says that it varies.
    Alternates,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// An edge before two parents; else one parent that clients ask.
    pub edge: bool,
    pub cores: usize,
    pub ram_bytes: u64,
    /// Devices of each node's store; 0: RAM only.
    pub devices: u64,
    /// It serves before its store is read, for so long at least.
    pub store_late_ms: Option<u64>,
    pub admission: Admission,
    pub sizes: Sizes,
    pub items: usize,
    pub clients: usize,
    /// How long clients go on, in virtual time.
    pub span: Duration,
    /// Tasks run in a drawn order, not in that of their waking.
    pub shuffled: bool,
    pub segment_bytes: usize,
    /// A receive that is given up loses bytes.
    pub losing: bool,
    pub net: NetFaults,
    pub origin: OriginFaults,
    pub disk: Faults,
    pub disk_stalls: u32,
    /// What becomes of one of several devices for some time.
    pub trouble: Option<Trouble>,
    /// Crashes in the run.
    pub crashes: u32,
    /// The wall clock is set forward and back so often.
    pub wall_steps: u32,
    pub purges: u32,
    pub changes: u32,
    /// The first item has alternates, chosen by `Accept-Language`.
    pub alternates: bool,
    /// Requests that are a POST, which makes a new version, of a thousand.
    pub posts: u32,
    /// No more requests than this; to find the one that matters.
    pub requests_max: Option<u64>,
    /// Clients that leave in the middle, of a thousand requests.
    pub aborts: u32,
    pub slow_readers: u32,
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    pub fn draw(seed: u64) -> Plan {
        let mut random = Random(seed ^ 0x7469_6465_6761_7465);
        let random = &mut random;
        let sizes = if random.chance(600) { Sizes::Small } else { Sizes::Blocks };
        // One in eight is quiet: then each request must succeed.
        let quiet = random.chance(125);
        let mut rate = |most: u64| {
            if random.chance(500) && !quiet { 1 + random.below(most) as u32 } else { 0 }
        };
        let net = NetFaults {
            refused: rate(80),
            lost: rate(40),
            reset: rate(120),
            silence: rate(40),
            slow: rate(100),
        };
        let origin = OriginFaults {
            errors: rate(200),
            hangs: rate(30),
            slow_heads: rate(100),
            slow_bodies: rate(100),
            cuts: rate(150),
            garbage: rate(50),
            closes: rate(150),
            lies: rate(60),
        };
        let disk_stalls = rate(15);
        let crashes = rate(3);
        let wall_steps = if crashes == 0 { rate(4) } else { 0 };
        let (aborts, slow_readers) = (rate(200), rate(150));
        let net = if random.chance(500) { net } else { NetFaults::default() };
        let origin = if random.chance(700) { origin } else { OriginFaults::default() };
        let disk = if quiet || random.chance(500) {
            Faults::default()
        } else {
            let faults = Faults::swarm(random);
            // A disk that lies about what it wrote may lose purges, too; most do not.
            let honest = random.chance(600);
            Faults {
                pending: 0,
                write_lost: if honest { 0 } else { faults.write_lost },
                write_misdirected: if honest { 0 } else { faults.write_misdirected },
                rest_flip: if honest { 0 } else { faults.rest_flip },
                flush_lost: if honest { 0 } else { random.below(50) as u32 },
                ..faults
            }
        };
        // Apart, so that what else a seed draws does not hang on it.
        let mut apart = Random(!seed);
        let several = apart.chance(400);
        let trouble = match apart.below(5) {
            0 => Some(Trouble::Slow),
            1 => Some(Trouble::Dead),
            2 => Some(Trouble::Absent),
            _ => None,
        };
        let alternates = apart.chance(400);
        let posts = if apart.chance(500) { 1 + apart.below(80) as u32 } else { 0 };
        let plan = Plan {
            alternates,
            posts,
            requests_max: None,
            seed,
            edge: random.chance(300),
            cores: random.between(1, 3) as usize,
            ram_bytes: match random.below(3) {
                0 => 600 << 10,
                1 => 3 << 20,
                _ => 16 << 20,
            },
            devices: u64::from(random.chance(800)) * if several { 2 + seed % 2 } else { 1 },
            admission: if random.chance(600) {
                Admission::Always
            } else {
                Admission::SecondRequest
            },
            sizes,
            items: random.between(1, 8) as usize,
            clients: random.between(1, 6) as usize,
            span: Duration::from_secs(random.between(20, 60)),
            shuffled: random.chance(500),
            segment_bytes: match random.below(4) {
                0 if sizes == Sizes::Small => random.between(300, 1500) as usize,
                1 => random.between(1, 64) as usize * 1024,
                _ => 64 * 1024,
            },
            losing: random.chance(500),
            net,
            origin,
            disk,
            disk_stalls,
            trouble: trouble.filter(|_| several && !quiet),
            crashes,
            wall_steps,
            purges: if random.chance(700) { random.between(1, 6) as u32 } else { 0 },
            changes: if random.chance(700) { random.between(1, 8) as u32 } else { 0 },
            aborts,
            slow_readers,
            sabotage: None,
            store_late_ms: random.chance(300).then(|| random.below(3000)),
        };
        Plan { trouble: plan.trouble.filter(|_| plan.devices > 1), ..plan }
    }

    /// Nothing is drawn, and nothing goes wrong.
    pub fn quiet() -> Plan {
        Plan {
            seed: 0,
            edge: false,
            cores: 1,
            ram_bytes: 16 << 20,
            devices: 1,
            store_late_ms: None,
            admission: Admission::Always,
            sizes: Sizes::Small,
            items: 1,
            clients: 1,
            span: Duration::from_secs(10),
            shuffled: false,
            segment_bytes: 64 * 1024,
            losing: false,
            net: NetFaults::default(),
            origin: OriginFaults::default(),
            disk: Faults::default(),
            disk_stalls: 0,
            trouble: None,
            crashes: 0,
            wall_steps: 0,
            purges: 0,
            changes: 0,
            alternates: false,
            posts: 0,
            requests_max: None,
            aborts: 0,
            slow_readers: 0,
            sabotage: None,
        }
    }

    /// Nothing goes wrong: each request must be answered.
    pub fn is_quiet(&self) -> bool {
        !self.net.any()
            && !self.origin.any()
            && self.crashes == 0
            && self.disk_stalls == 0
            && !self.disk_fails()
    }

    /// What a node was told by an answer to POST, it knows to the end of the run. The answer waits a second for the disk, and
    /// no longer for one that stalls or is still being read.
    pub fn keeps_invalidations(&self) -> bool {
        let is_on_disk = self.disk_stalls == 0 && self.store_late_ms.is_none();
        // Of two parents one alone has seen the POST.
        !self.edge && (self.crashes == 0 || is_on_disk) && !self.disk_fails()
    }

    /// The disk has faults of any kind.
    pub fn disk_fails(&self) -> bool {
        self.disk_lies()
            || self.trouble.is_some()
            || self.disk.read_error
                + self.disk.read_flip
                + self.disk.write_error
                + self.disk.write_short
                + self.disk.write_full
                + self.disk.flush_error
                > 0
    }

    /// The disk says that it wrote what it did not: then a purge may be lost in a crash.
    pub fn disk_lies(&self) -> bool {
        self.disk.write_lost
            + self.disk.write_misdirected
            + self.disk.rest_flip
            + self.disk.flush_lost
            > 0
    }
}
