//! The command line. Everything else comes from the snapshot.

use clap::Parser;
use std::path::PathBuf;

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
}
