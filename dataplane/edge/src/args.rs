//! The command line. Everything else comes from the snapshot.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Tidegate's data plane: serves as edge, parent or origin, as the snapshot says.
#[derive(Debug, Parser)]
#[command(name = "tidegated", version)]
pub struct Args {
    /// Which server of the snapshot this process is.
    #[arg(long)]
    pub node: String,
    /// The signed snapshot (made by `tidegate snapshot build`); watched for changes.
    #[arg(long)]
    pub snapshot: PathBuf,
    /// Public keys that may sign snapshots.
    #[arg(long)]
    pub trust: PathBuf,
    /// Access log file (JSON lines); without it the log goes to standard output. Reopened on SIGHUP.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// How long a stopping process waits for requests under way, in seconds.
    #[arg(long, default_value_t = 5)]
    pub drain_seconds: u64,
    /// How long a starting process waits for its store to be read before it serves without it, in seconds; meanwhile
    /// all is filled that is not in memory.
    #[arg(long, default_value_t = 1.0)]
    pub store_wait_seconds: f64,
    /// Take the place of the running process of this node, without losing a request: its sockets, its store, its
    /// QUIC clients. If this one cannot serve, that one goes on.
    #[arg(long)]
    pub replace: bool,
    /// How long a process that was replaced serves the connections that it has, in seconds.
    #[arg(long, default_value_t = 600)]
    pub leave_seconds: u64,
    /// Over how long a process that was replaced tells its clients over HTTP/2 and HTTP/3 to come anew, each at a moment
    /// of its own, in seconds.
    #[arg(long, default_value_t = 10)]
    pub goodbye_seconds: u64,
    /// For tests: when this file is there, the last core does what it says, `panic` or `hang`.
    #[arg(long, hide = true)]
    pub test_fault: Option<PathBuf>,
}

impl Args {
    /// As `goodbye_seconds` says, and no longer than the process stays.
    pub fn goodbye(&self) -> Duration {
        Duration::from_secs(self.goodbye_seconds.min(self.leave_seconds))
    }

    /// As `store_wait_seconds` says; nonsense is taken for nothing.
    pub fn store_wait(&self) -> Duration {
        Duration::try_from_secs_f64(self.store_wait_seconds).unwrap_or_default()
    }
}
