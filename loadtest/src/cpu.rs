//! CPU time of this program and of a server on the same host, as the kernel counts it.
//!
//! Must stay true: a process that is gone keeps what it had used when it was last seen.

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use std::fs;

/// Processes of one server.
#[derive(Debug)]
pub struct Server {
    processes: Vec<(u32, u64)>,
    ticks_per_second: u64,
}

/// Processes that one run may look at.
pub const PROCESSES_MAX: usize = 256;

impl Server {
    /// # Errors
    /// The first number that is no process that this user may look at.
    pub fn new(pids: &[u32]) -> Result<Server, String> {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
        let ticks_per_second = ticks.and_then(|n| u64::try_from(n).ok()).unwrap_or(100).max(1);
        let mut server = Server { processes: Vec::new(), ticks_per_second };
        for pid in pids {
            let used = cpu_ticks(*pid)
                .ok_or_else(|| format!("--server-pid {pid}: there is no such process here"))?;
            server.processes.push((*pid, used));
        }
        Ok(server)
    }

    /// CPU time of all of them so far; `None` when there are none.
    pub fn cpu_ns(&mut self) -> Option<u64> {
        if self.processes.is_empty() {
            return None;
        }
        let mut sum = 0;
        for (pid, used) in &mut self.processes {
            if let Some(now) = cpu_ticks(*pid) {
                *used = now.max(*used);
            }
            sum += *used;
        }
        Some(sum.saturating_mul(1_000_000_000 / self.ticks_per_second))
    }
}

/// User and system time of a process, in ticks.
fn cpu_ticks(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold spaces and brackets: numbers are counted from its last bracket (proc(5)).
fn parse_stat(text: &str) -> Option<u64> {
    let (_, numbers) = text.rsplit_once(')')?;
    let mut numbers = numbers.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    user.checked_add(system)
}

/// CPU time of this program so far.
pub fn own_cpu_ns() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0 };
    let ns = |time: nix::sys::time::TimeVal| {
        let (seconds, us) = (time.tv_sec(), time.tv_usec());
        u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(us).unwrap_or(0) * 1000
    };
    ns(usage.user_time()) + ns(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let text = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 70 30 1 1 20 0 1 0";
        assert_eq!(parse_stat(text), Some(100));
        assert_eq!(parse_stat("12 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_uses_time() {
        let mut own = Server::new(&[std::process::id()]).unwrap();
        let before = own_cpu_ns();
        let mut sum = 0u64;
        while own_cpu_ns() < before + 30_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(own.cpu_ns().unwrap() > 0);
        assert!(Server::new(&[u32::MAX]).unwrap_err().contains("4294967295"));
        assert_eq!(Server::new(&[]).unwrap().cpu_ns(), None);
    }
}
