//! What an attack costs: printed in one form, whatever the attack. Nothing hangs on how long anything takes.

use crate::fleet::HOST;
use crate::{Connection, Fleet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const REST: Duration = Duration::from_millis(2);

/// What it took of `edge-1`.
pub struct Cost {
    /// Memory that it holds more than before.
    pub grown: u64,
}

/// Bytes of a process that are in memory.
pub fn resident(fleet: &Fleet, id: &str) -> u64 {
    status_line(fleet, id, "VmRSS")
}

/// Bytes of a process that were in memory at most.
pub fn peak(fleet: &Fleet, id: &str) -> u64 {
    status_line(fleet, id, "VmHWM")
}

fn status_line(fleet: &Fleet, id: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", fleet.member(id).pid()));
    let kib = status.ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    kib.expect("the process runs") << 10
}

/// Runs an attack on `edge-1`. Beside it a client that means well asks for `path` again and again, each time on a new
/// connection, and is always served.
pub fn of<T>(fleet: &Fleet, name: &str, path: &str, attack: impl FnOnce() -> T) -> (T, Cost) {
    let (cpu, memory, begun) =
        (fleet.cpu_time("edge-1"), resident(fleet, "edge-1"), Instant::now());
    let address = fleet.member("edge-1").http();
    let over = AtomicBool::new(false);
    let (outcome, mut waits) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut waits = Vec::new();
            while waits.is_empty() || !over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let mut client = Connection::open(address).expect("it is let in");
                let response = client.get(HOST, path, "").expect("it is answered");
                assert_eq!(response.status, 200);
                waits.push(asked.elapsed());
                // It is a client and no load; nothing hangs on how long it rests.
                std::thread::sleep(REST);
            }
            waits
        });
        let _stop = Stop(&over);
        let outcome = attack();
        drop(_stop);
        (outcome, beside.join().expect("who is beside it is served"))
    });
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() * share / 100).min(waits.len() - 1)];
    let grown = resident(fleet, "edge-1").saturating_sub(memory);
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    println!(
        "attack: {name}; {:.2} s; edge: {:.2} s of CPU, {} KiB more; beside it: {} requests, P50 {:.1} ms, P99 {:.1} ms",
        begun.elapsed().as_secs_f64(),
        fleet.cpu_time("edge-1").saturating_sub(cpu).as_secs_f64(),
        grown >> 10,
        waits.len(),
        ms(at(50)),
        ms(at(99)),
    );
    (outcome, Cost { grown })
}

/// Also of an attack that failed the test.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
