//! The processes of the demo: starts them, waits until they serve, sees when one ends, brings it back, ends
//! all.
//!
//! Must stay true: whatever way this program ends, nothing it started keeps running. Three nets: `stop` on
//! the ordinary way out, `Drop` on errors and panics, and the keeper (keeper.rs) when this process is killed.
//! Each node leads a process group of its own, so that Ctrl-C in the terminal reaches this program only and
//! the nodes are ended in order.

use super::error::DemoError;
use super::keeper::Keeper;
use super::plan::{Node, Plan, Tier};
use super::{http, keeper};
use nix::sys::signal::Signal;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a node's process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// All processes of the demo.
pub struct Fleet {
    members: Vec<Member>,
    keeper: Keeper,
    /// A node that ended is started again after this long; zero: never.
    restart_after: Duration,
}

struct Member {
    node: Node,
    launch: Launch,
    log: PathBuf,
    state: State,
    /// Starts after the first one.
    restarts: u32,
}

enum State {
    Running(Child),
    Ended { at: Instant, how: String },
}

/// What the status shows of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulse {
    pub id: &'static str,
    pub pid: Option<u32>,
    /// How it ended, when it did.
    pub ended: Option<String>,
    pub restarts: u32,
}

impl Fleet {
    /// Starts every node of the plan, in its order.
    ///
    /// # Errors
    /// A program that cannot be run, a log that cannot be written. What was started is ended again.
    pub fn start(
        plan: &Plan,
        launch: impl Fn(&Node) -> Launch,
        restart_after: Duration,
        keeper: Keeper,
    ) -> Result<Fleet, DemoError> {
        let mut fleet = Fleet { members: Vec::new(), keeper, restart_after };
        let logs = plan.dir.join("logs");
        super::film::make_folder(&logs)?;
        for node in &plan.nodes {
            let log = logs.join(format!("{}.log", node.id));
            let launch = launch(node);
            let child = spawn(&launch, &log, false)?;
            fleet.keeper.watch(child.id());
            let state = State::Running(child);
            fleet.members.push(Member { node: node.clone(), launch, log, state, restarts: 0 });
        }
        Ok(fleet)
    }

    /// Waits until every node answers its health question; tells `say` of each that does.
    ///
    /// # Errors
    /// A node that ended or did not answer in time, with the last lines of its log.
    pub async fn wait_ready(
        &mut self,
        limit: Duration,
        mut say: impl FnMut(&Node),
    ) -> Result<(), DemoError> {
        let deadline = Instant::now() + limit;
        let mut waiting: Vec<usize> = (0..self.members.len()).collect();
        while !waiting.is_empty() {
            let mut still = Vec::new();
            for index in waiting {
                let member = &mut self.members[index];
                if let Some(how) = member.check_end() {
                    return Err(member.failed(how));
                }
                let path = health_path(member.node.tier);
                match http::get(member.node.admin(), path, HEALTH_TIMEOUT).await {
                    Ok(answer) if answer.status == 200 => say(&member.node),
                    _ => still.push(index),
                }
            }
            waiting = still;
            if let Some(&first) = waiting.first()
                && Instant::now() >= deadline
            {
                let what =
                    format!("gave no answer to its health question within {} s", limit.as_secs());
                return Err(self.members[first].failed(what));
            }
            if !waiting.is_empty() {
                // Readiness has no event to wait for across processes: it is asked again.
                tokio::time::sleep(READY_POLL).await;
            }
        }
        Ok(())
    }

    /// Looks who ended and brings back those whose time has come; gives lines worth telling.
    pub fn tend(&mut self, now: Instant) -> Vec<String> {
        let mut news = Vec::new();
        for member in &mut self.members {
            if let State::Running(child) = &member.state {
                let pid = child.id();
                if let Some(how) = member.check_end() {
                    self.keeper.forget(pid);
                    let back = if self.restart_after.is_zero() || member.restarts >= RESTARTS_MAX {
                        String::new()
                    } else {
                        format!(" It comes back in {} s.", self.restart_after.as_secs())
                    };
                    news.push(format!("{} (process {pid}) {how}.{back}", member.node.id));
                    member.state = State::Ended { at: now, how };
                }
                continue;
            }
            let State::Ended { at, .. } = &member.state else { continue };
            let due =
                !self.restart_after.is_zero() && now.duration_since(*at) >= self.restart_after;
            if due && member.restarts < RESTARTS_MAX {
                member.restarts += 1;
                match spawn(&member.launch, &member.log, true) {
                    Ok(child) => {
                        self.keeper.watch(child.id());
                        news.push(format!("{} is back as process {}.", member.node.id, child.id()));
                        member.state = State::Running(child);
                    }
                    Err(e) => {
                        news.push(format!("{} could not be started again: {e}", member.node.id));
                        member.state = State::Ended { at: now, how: e.to_string() };
                    }
                }
            }
        }
        news
    }

    /// How every process is.
    pub fn pulses(&self) -> Vec<Pulse> {
        let pulse = |m: &Member| {
            let (pid, ended) = match &m.state {
                State::Running(child) => (Some(child.id()), None),
                State::Ended { how, .. } => (None, Some(how.clone())),
            };
            Pulse { id: m.node.id, pid, ended, restarts: m.restarts }
        };
        self.members.iter().map(pulse).collect()
    }

    /// Ends all: asks politely, waits, then insists. Blocks for at most [`STOP_PATIENCE`] and a moment.
    pub fn stop(&mut self) {
        // Reverse order: who asks ends before who is asked, so the logs stay free of refused fills.
        for member in self.members.iter_mut().rev() {
            if let State::Running(child) = &member.state {
                keeper::signal_group(child.id(), Signal::SIGTERM);
            }
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        for member in self.members.iter_mut().rev() {
            let State::Running(child) = &mut member.state else { continue };
            let pid = child.id();
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(STOP_POLL);
            }
            if matches!(child.try_wait(), Ok(None)) {
                keeper::signal_group(pid, Signal::SIGKILL);
            }
            // A killed process is always reaped; an error here means that it is gone already.
            let _ = child.wait();
            self.keeper.forget(pid);
            member.state = State::Ended { at: Instant::now(), how: "ended with the demo".into() };
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Member {
    /// `Some(how)` when the process has ended.
    fn check_end(&mut self) -> Option<String> {
        match &mut self.state {
            State::Running(child) => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(how_ended(status)),
                Err(e) => Some(format!("cannot be watched ({e})")),
            },
            State::Ended { how, .. } => Some(how.clone()),
        }
    }

    fn failed(&self, what: String) -> DemoError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        DemoError::Node { id: self.node.id.into(), what, log: self.log.clone(), last_lines: last }
    }
}

fn spawn(launch: &Launch, log: &Path, again: bool) -> Result<Child, DemoError> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).write(true).append(again).truncate(!again);
    let file = options.open(log).map_err(DemoError::io("write the log", log))?;
    let copy = file.try_clone().map_err(DemoError::io("write the log", log))?;
    Command::new(&launch.program)
        .args(&launch.arguments)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .process_group(0)
        .spawn()
        .map_err(|e| DemoError::Tool {
            program: launch.program.display().to_string(),
            what: format!("cannot be run ({e})"),
            mend: "Build it first: `make demo` does, or `cargo build --release`.".into(),
        })
}

fn how_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or("unknown", Signal::as_str);
            format!("was killed by signal {signal} ({name})")
        }
        (None, None) => "ended".into(),
    }
}

/// The question that a node of this tier answers with 200 once it serves.
fn health_path(tier: Tier) -> &'static str {
    if tier.is_data_plane() { "/health" } else { "/api/v1/status" }
}

const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);
const READY_POLL: Duration = Duration::from_millis(50);
/// Longest wait for nodes to end by themselves before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const STOP_POLL: Duration = Duration::from_millis(10);
/// A node that keeps ending is left alone after this many starts.
const RESTARTS_MAX: u32 = 20;
const LOG_LINES_SHOWN: usize = 8;

#[cfg(test)]
mod tests;
