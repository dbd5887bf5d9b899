//! The load harness as the generator, on a core of its own: closed loop, every answer must be good.

use crate::wrk::Outcome;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One measurement's load.
pub struct Load<'a> {
    pub address: SocketAddr,
    /// What `--http` takes.
    pub http: &'a str,
    /// A file of URLs, one per line.
    pub urls: &'a Path,
    pub core: usize,
    pub connections: u32,
    pub streams: u32,
    pub seconds: u32,
    /// Where the harness' report may lie.
    pub dir: &'a Path,
}

/// Where the programs are.
///
/// # Errors
/// Nobody said it.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let programs = std::env::var_os("TIDEGATE_BIN_DIR")
        .ok_or("TIDEGATE_BIN_DIR says where the programs are: start this by `cargo xtask bench`")?;
    Ok(PathBuf::from(programs).join(name))
}

impl Load<'_> {
    /// Runs it to its end. There is no warm-up: what the server does is all for answers that are counted.
    ///
    /// # Errors
    /// An answer was no good one, or none came.
    pub fn run(&self) -> Result<Outcome, String> {
        let json = self.dir.join("own.json");
        let output = Command::new("taskset")
            .args(["-c", &self.core.to_string()])
            .arg(program("tidegate-load")?)
            .args(["run", "--closed", "--quiet", "--insecure", "--assert", "errors == 0"])
            .args(["--http", self.http, "--connect", &self.address.to_string()])
            .args(["--connections", &self.connections.to_string()])
            .args(["--streams", &self.streams.to_string()])
            .args(["--duration", &format!("{}s", self.seconds), "--urls"])
            .arg(self.urls)
            .arg("--json")
            .arg(&json)
            .output()
            .map_err(|e| format!("tidegate-load cannot be run: {e}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let path = json.display();
        let text = fs::read_to_string(&json).map_err(|e| format!("{path}: {e}"))?;
        let report: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| format!("{path}: {e}"))?;
        let requests = report["answers"].as_u64().ok_or_else(|| format!("{path}: no answers"))?;
        Ok(Outcome { requests, seconds: f64::from(self.seconds), failed: 0 })
    }
}
