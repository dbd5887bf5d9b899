//! From measurements to ratios: medians over rounds, and for each peer the median of the ratios within each round.

use crate::contestant::Case;
use crate::{cpu, nginx};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    pub requests: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    pub wall_s: f64,
    /// CPU time of the server's processes.
    pub cpu_s: f64,
}

impl Figure {
    pub fn cpu_us_per_request(&self) -> f64 {
        self.cpu_s * 1e6 / self.requests as f64
    }

    /// Per 10^9 bytes of bodies.
    pub fn cpu_s_per_gb(&self) -> f64 {
        self.cpu_s * 1e9 / self.bytes as f64
    }
}

struct Row {
    round: u32,
    case: Case,
    name: &'static str,
    figure: Figure,
}

/// All measurements of a run.
pub struct Report {
    rounds: u32,
    seconds: u32,
    connections: u32,
    rows: Vec<Row>,
    /// Peers that are not in it, and why.
    left_out: Vec<(&'static str, String)>,
}

/// Whose ratios are told.
pub const OURS: &str = "tidegate";

impl Report {
    pub fn new(rounds: u32, seconds: u32, connections: u32) -> Report {
        Report { rounds, seconds, connections, rows: Vec::new(), left_out: Vec::new() }
    }

    /// A peer that failed: what was measured of it goes, for it may be of a server that was failing already.
    pub fn leave_out(&mut self, name: &'static str, why: &str) {
        println!("  {name} is left out: {why}");
        self.rows.retain(|row| row.name != name);
        self.left_out.push((name, why.to_owned()));
    }

    pub fn add(&mut self, round: u32, case: Case, name: &'static str, figure: Figure) {
        self.rows.push(Row { round, case, name, figure });
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for row in &self.rows {
            if !cases.contains(&row.case) {
                cases.push(row.case);
            }
        }
        cases
    }

    fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for row in &self.rows {
            if !names.contains(&row.name) {
                names.push(row.name);
            }
        }
        names.sort_by_key(|name| *name != OURS);
        names
    }

    fn values(&self, case: Case, name: &str) -> Vec<f64> {
        let rows = self.rows.iter().filter(|row| row.case == case && row.name == name);
        rows.map(|row| row.figure.cpu_us_per_request()).collect()
    }

    /// Our CPU time per request over a peer's, round by round.
    fn ratios(&self, case: Case, peer: &str) -> Vec<f64> {
        let of = |round: u32, name: &str| {
            let row = self
                .rows
                .iter()
                .find(|row| row.round == round && row.case == case && row.name == name)?;
            Some(row.figure.cpu_us_per_request())
        };
        (0..self.rounds).filter_map(|round| Some(of(round, OURS)? / of(round, peer)?)).collect()
    }

    fn summary(&self) -> Vec<Value> {
        let mut lines = Vec::new();
        for case in self.cases() {
            for name in self.names() {
                let values = self.values(case, name);
                let Some((low, middle, high)) = spread(&values) else { continue };
                let per_gb = middle * 1e3 / case.size as f64;
                let mut line = json!({
                    "case": case.to_string(), "name": name, "size_bytes": case.size,
                    "cpu_us_per_request": { "median": middle, "min": low, "max": high },
                    "cpu_s_per_gb": per_gb,
                });
                if name != OURS
                    && let Some((low, middle, high)) = spread(&self.ratios(case, name))
                {
                    line["tidegate_ratio"] = json!({ "median": middle, "min": low, "max": high });
                }
                lines.push(line);
            }
        }
        lines
    }

    /// The table at the end.
    pub fn print(&self) {
        println!(
            "\n{:<18} {:<14} {:>24} {:>12} {:>26}",
            "case", "server", "CPU us/request", "CPU-s/GB", "tidegate : server"
        );
        for line in self.summary() {
            let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
            let us = &line["cpu_us_per_request"];
            let ratio = &line["tidegate_ratio"];
            let ratio = if ratio.is_null() {
                String::new()
            } else {
                format!(
                    "{:.2} ({:.2} .. {:.2})",
                    number(&ratio["median"]),
                    number(&ratio["min"]),
                    number(&ratio["max"])
                )
            };
            println!(
                "{:<18} {:<14} {:>24} {:>12.3} {:>26}",
                line["case"].as_str().unwrap_or_default(),
                line["name"].as_str().unwrap_or_default(),
                format!(
                    "{:.2} ({:.2} .. {:.2})",
                    number(&us["median"]),
                    number(&us["min"]),
                    number(&us["max"])
                ),
                number(&line["cpu_s_per_gb"]),
                ratio
            );
        }
        println!(
            "\nMedian (least .. greatest) of {} rounds; a ratio below 1 means less CPU than the peer.",
            self.rounds
        );
        for (name, why) in &self.left_out {
            println!("Left out: {name}: {why}");
        }
    }

    /// For each case our CPU time over that of the peer which was the best in its round.
    pub fn print_best(&self) {
        for case in self.cases() {
            if let Some((low, middle, high)) = spread(&self.ratios_to_best(case)) {
                println!("{case}: {middle:.2} ({low:.2} .. {high:.2}) of the best peer");
            }
        }
    }

    fn ratios_to_best(&self, case: Case) -> Vec<f64> {
        let peers = self.names().into_iter().filter(|name| *name != OURS);
        let all: Vec<Vec<f64>> = peers.map(|peer| self.ratios(case, peer)).collect();
        (0..self.rounds as usize)
            .filter_map(|round| all.iter().filter_map(|of| of.get(round).copied()).reduce(f64::max))
            .collect()
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        write(path, &self.json())
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "round": row.round, "case": row.case.to_string(), "name": row.name,
                    "requests": row.figure.requests, "body_bytes": row.figure.bytes,
                    "wall_s": row.figure.wall_s, "cpu_s": row.figure.cpu_s,
                })
            })
            .collect();
        let left_out: Vec<Value> =
            self.left_out.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
        json!({
            "machine": cpu::machine(),
            "versions": { "nginx": nginx::version(), "tidegate": env!("CARGO_PKG_VERSION"), "source": source() },
            "rounds": self.rounds, "seconds": self.seconds, "connections": self.connections,
            "summary": self.summary(), "measurements": rows, "left_out": left_out,
        })
    }
}

/// Writes a rig's report.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, report: &Value) -> Result<(), String> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::write(path, format!("{report:#}")).map_err(|e| format!("{}: {e}", path.display()))?;
    println!("\nReport: {}", path.display());
    Ok(())
}

/// Name of the commit, when this is a checkout.
pub fn source() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Least, median and greatest.
fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    };
    Some((low, median, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestant::Line;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
    }

    #[test]
    fn a_peer_that_failed_is_told_with_its_reason_and_nothing_of_it_is_compared() {
        let case = Case { line: Line::Http3, size: 1024 };
        let mut report = Report::new(2, 1, 1);
        let figure = Figure { requests: 1000, bytes: 1_024_000, wall_s: 1.0, cpu_s: 1.0 };
        for (round, name) in [(0, "tidegate"), (0, "s2n"), (0, "quiche"), (1, "tidegate")] {
            report.add(round, case, name, figure);
        }
        report.add(1, case, "s2n", Figure { cpu_s: 2.0, ..figure });
        report.leave_out("quiche", "an answer was cut off");
        assert_eq!(report.names(), ["tidegate", "s2n"]);
        assert_eq!(report.ratios_to_best(case), [1.0, 0.5]);
        let json = report.json();
        let told = json!([{ "name": "quiche", "why": "an answer was cut off" }]);
        assert_eq!(json["left_out"], told);
        let all = json["measurements"].as_array().unwrap();
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|row| row["name"] != "quiche"));
    }

    #[test]
    fn ratios_pair_what_was_measured_in_one_round() {
        // The machine is twice as slow in the second round: the ratio does not see it.
        let case = Case { line: Line::Http, size: 1024 };
        let mut report = Report::new(2, 1, 1);
        for (round, factor) in [(0, 1.0), (1, 2.0)] {
            for (name, cpu_s) in [("tidegate", 0.5), ("nginx", 1.0)] {
                let figure =
                    Figure { requests: 1000, bytes: 1_024_000, wall_s: 1.0, cpu_s: cpu_s * factor };
                report.add(round, case, name, figure);
            }
        }
        assert_eq!(report.ratios(case, "nginx"), [0.5, 0.5]);
        let summary = report.summary();
        assert_eq!(summary[0]["name"], "tidegate");
        assert_eq!(summary[1]["tidegate_ratio"]["median"], 0.5);
        assert_eq!(summary[1]["cpu_us_per_request"]["median"], 1500.0);
        assert!((summary[1]["cpu_s_per_gb"].as_f64().unwrap() - 1500.0e3 / 1024.0).abs() < 1e-9);
    }
}
