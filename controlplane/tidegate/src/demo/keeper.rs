//! The keeper: a second process that ends the nodes when the demo itself is killed without a chance to.
//!
//! It is this same program with the hidden option `--keeper`. It reads lines `+PID` and `-PID` from a pipe
//! that only the demo holds; when the pipe ends, because the demo is gone in whatever way, it ends what is
//! left.
//! Must stay true: it ends a process only if that is the one it was told of (same start time), never a later
//! one that got the same number.

use super::error::DemoError;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The demo's end of the pipe.
pub struct Keeper {
    child: Child,
    /// `None` only while dropping.
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// Starts the keeper process.
    pub fn start() -> Result<Keeper, DemoError> {
        let failed = |e: std::io::Error| DemoError::Tool {
            program: "tidegate".into(),
            what: format!("its keeper process cannot be started ({e})"),
            mend: "Is the limit of processes reached (`ulimit -u`)?".into(),
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args(["demo", "--keeper"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pipe = child.stdin.take();
        Ok(Keeper { child, pipe })
    }

    /// From now on, this process must not outlive the demo.
    pub fn watch(&mut self, pid: u32) {
        self.tell('+', pid);
    }

    /// This process has ended.
    pub fn forget(&mut self, pid: u32) {
        self.tell('-', pid);
    }

    fn tell(&mut self, sign: char, pid: u32) {
        if let Some(pipe) = &mut self.pipe {
            // A keeper that was killed leaves two of the three nets; that is no reason to end the demo.
            let _ = writeln!(pipe, "{sign}{pid}").and_then(|()| pipe.flush());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.child.wait();
    }
}

/// What the keeper process does until its pipe ends.
pub fn run(input: impl Read) {
    let mut left: BTreeMap<u32, u64> = BTreeMap::new();
    for line in BufReader::new(input).lines() {
        let Ok(line) = line else { break };
        let Some((sign, Ok(pid))) = line.split_at_checked(1).map(|(s, n)| (s, n.parse::<u32>()))
        else {
            continue;
        };
        match sign {
            "+" => {
                if let Some(start) = start_time(pid) {
                    left.insert(pid, start);
                }
            }
            _ => {
                left.remove(&pid);
            }
        }
    }
    let lives = |pid: u32, start: u64| start_time(pid) == Some(start);
    for (&pid, _) in left.iter().filter(|(p, s)| lives(**p, **s)) {
        signal_group(pid, Signal::SIGTERM);
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && left.iter().any(|(p, s)| lives(*p, *s)) {
        std::thread::sleep(POLL);
    }
    for (&pid, _) in left.iter().filter(|(p, s)| lives(**p, **s)) {
        signal_group(pid, Signal::SIGKILL);
    }
}

/// Sends a signal to a process group that we made; one that is gone is no error.
pub fn signal_group(leader: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(leader)
        && pid > 1
    {
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

/// Start time of a process in clock ticks since boot; `None` when there is none (a zombie counts as none).
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the fields after its last parenthesis are numbers.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(start)
}

const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").process_group(0).spawn().expect("sleep runs")
    }

    #[test]
    fn when_the_pipe_ends_what_is_left_is_ended_and_what_was_forgotten_is_not() {
        let (mut left, mut forgotten) = (sleeper(), sleeper());
        let orders =
            format!("+{}\n+{}\nnonsense\n\n-{}\n", left.id(), forgotten.id(), forgotten.id());
        run(orders.as_bytes());
        assert!(left.wait().is_ok());
        assert!(matches!(forgotten.try_wait(), Ok(None)));
        forgotten.kill().expect("still ours");
        forgotten.wait().expect("killed");
    }

    #[test]
    fn a_number_that_names_no_process_is_passed_over() {
        run(format!("+{}\n+0\n+1x\n", u32::MAX).as_bytes());
        assert_eq!(start_time(u32::MAX), None);
        assert!(start_time(std::process::id()).is_some());
    }
}
