//! The load generators on a core of their own, asking for the objects of one size in turn: wrk by a script, h2load by a list.

use crate::generators::h2load_answers;
use crate::object_name;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tidegate_e2e::fleet::HOST;

/// One script for each size.
pub struct Scripts(Vec<(usize, PathBuf)>);

/// Streams of each connection over HTTP/2.
const STREAMS: u32 = 4;

impl Scripts {
    pub fn of(&self, size: usize) -> &Path {
        let found = self.0.iter().find(|(of, _)| *of == size);
        &found.expect("a script is written for every size").1
    }
}

impl Scripts {
    /// The list of paths beside the script.
    pub fn paths_of(&self, size: usize) -> PathBuf {
        self.of(size).with_extension("urls")
    }
}

/// Writes the scripts.
///
/// # Errors
/// The folder cannot be written.
pub fn write_scripts(dir: &Path, sizes: &[usize], objects: usize) -> Result<Scripts, String> {
    let mut scripts = Vec::new();
    for &size in sizes {
        let paths: Vec<String> =
            (0..objects).map(|n| format!("\"/{}\"", object_name(size, n))).collect();
        let text = format!(
            "local paths = {{{}}}\nlocal requests, at = {{}}, 0\n\
             function init(args)\n  wrk.headers[\"Host\"] = \"{HOST}\"\n  \
             for i, path in ipairs(paths) do requests[i] = wrk.format(\"GET\", path) end\nend\n\
             function request()\n  at = at % #requests + 1\n  return requests[at]\nend\n",
            paths.join(", ")
        );
        let path = dir.join(format!("{size}.lua"));
        let urls: String =
            (0..objects).map(|n| format!("https://{HOST}/{}\n", object_name(size, n))).collect();
        fs::write(&path, text)
            .and_then(|()| fs::write(path.with_extension("urls"), urls))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        scripts.push((size, path));
    }
    Ok(Scripts(scripts))
}

/// One measurement's load.
pub struct Load<'a> {
    pub address: SocketAddr,
    pub https: bool,
    pub script: &'a Path,
    pub core: usize,
    pub connections: u32,
    pub seconds: u32,
}

impl Load<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// wrk cannot be run, or says nothing that can be read.
    pub fn run(&self) -> Result<Outcome, String> {
        let scheme = if self.https { "https" } else { "http" };
        let output = Command::new("taskset")
            .args(["-c", &self.core.to_string(), "wrk", "-t", "1"])
            .args(["-c", &self.connections.to_string(), "-d", &format!("{}s", self.seconds), "-s"])
            .arg(self.script)
            .arg(format!("{scheme}://{}/", self.address))
            .output()
            .map_err(|e| format!("wrk cannot be run: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        Outcome::read(&said).ok_or_else(|| {
            format!("wrk said nothing to count: {said}{}", String::from_utf8_lossy(&output.stderr))
        })
    }
}

impl Load<'_> {
    /// As `run`, by h2load over HTTP/2, for the URLs of a file.
    ///
    /// # Errors
    /// h2load cannot be run, or says nothing that can be read.
    pub fn run_h2(&self, urls: PathBuf) -> Result<Outcome, String> {
        let output = Command::new("taskset")
            .args(["-c", &self.core.to_string(), "h2load", "-t", "1"])
            .args(["-c", &self.connections.to_string(), "-m", &STREAMS.to_string()])
            .args(["-D", &self.seconds.to_string(), "-w", "24", "-W", "24"])
            .arg(format!("--connect-to={}", self.address))
            .arg("-i")
            .arg(urls)
            .output()
            .map_err(|e| format!("h2load cannot be run: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let answers = h2load_answers(&said).ok_or_else(|| {
            format!("h2load said nothing good: {said}{}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(Outcome { requests: answers as u64, seconds: f64::from(self.seconds), failed: 0 })
    }
}

/// What wrk counted.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub requests: u64,
    pub seconds: f64,
    /// Answers that were no success, and socket errors.
    pub failed: u64,
}

impl Outcome {
    /// Reads wrk's summary.
    pub fn read(text: &str) -> Option<Outcome> {
        let mut outcome = None;
        let mut failed = 0;
        for line in text.lines().map(str::trim) {
            if let Some((requests, rest)) = line.split_once(" requests in ") {
                let span = rest.split_once(',')?.0;
                outcome = Some((requests.parse().ok()?, seconds(span)?));
            } else if let Some(rest) = line.strip_prefix("Socket errors: ") {
                failed += rest
                    .split(", ")
                    .filter_map(|part| part.rsplit_once(' ')?.1.parse::<u64>().ok())
                    .sum::<u64>();
            } else if let Some(rest) = line.strip_prefix("Non-2xx or 3xx responses: ") {
                failed += rest.parse::<u64>().ok()?;
            }
        }
        outcome.map(|(requests, seconds)| Outcome { requests, seconds, failed })
    }
}

/// wrk writes spans as `2.00s`, `1.50m` or `900.00ms`.
pub fn seconds(text: &str) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &text[at..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(text[..at].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read() {
        let text = "Running 2s test @ http://127.0.0.1/\n  1 threads and 64 connections\n\
                    \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n\
                    \x20 151331 requests in 2.10s, 180.21MB read\nRequests/sec:  72069.94\n";
        let outcome = Outcome::read(text).unwrap();
        assert_eq!(outcome, Outcome { requests: 151_331, seconds: 2.1, failed: 0 });
    }

    #[test]
    fn failures_are_counted_together() {
        let text = "  10 requests in 1.50m, 1KB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n\
                    \x20 Non-2xx or 3xx responses: 5\n";
        assert_eq!(Outcome::read(text).unwrap().failed, 15);
        assert_eq!(Outcome::read(text).unwrap().seconds, 90.0);
    }

    #[test]
    fn anything_else_is_nothing() {
        for text in
            ["", "unable to connect", "x requests in 2s, 1B read", "5 requests in 2parsecs, x"]
        {
            assert_eq!(Outcome::read(text), None, "{text}");
        }
    }
}
