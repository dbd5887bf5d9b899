//! What the person at the terminal sees: progress bars, and the live status.
//!
//! On a terminal the status is one block, drawn over itself each second; anywhere else it is a line each few
//! seconds, so that a log file stays readable. Must stay true: a line of the block never wraps, since the block is
//! drawn over by counting its lines.

use super::orders::Orders;
use super::plan::Plan;
use super::survey::{Survey, TierView};
use std::io::{IsTerminal, Write, stdout};
use std::path::Path;

/// Shows how far a long step is, in per cent.
pub struct ProgressBar {
    title: String,
    live: bool,
    /// Last shown per cent; `None` before the first.
    shown: Option<u32>,
}

impl ProgressBar {
    /// A bar for one step.
    pub fn new(title: impl Into<String>) -> ProgressBar {
        ProgressBar { title: title.into(), live: stdout().is_terminal(), shown: None }
    }

    /// Shows `part` (0 to 1).
    pub fn show(&mut self, part: f64) {
        let percent = (part * 100.0) as u32;
        // A log gets a line each tenth; a terminal each step.
        let step = if self.live { 1 } else { 10 };
        if self.shown.is_some_and(|s| percent < s + step) {
            return;
        }
        self.shown = Some(percent);
        self.print(percent);
    }

    /// The step is done.
    pub fn done(&mut self) {
        if self.shown != Some(100) {
            self.print(100);
        }
        self.break_line();
    }

    /// The step failed where the bar stands.
    pub fn broken(&mut self) {
        self.break_line();
    }

    fn break_line(&mut self) {
        if self.live {
            tell("");
        }
    }

    fn print(&self, percent: u32) {
        if self.live {
            let mut out = stdout().lock();
            let _ = write!(out, "\r{}", bar(&self.title, percent));
            let _ = out.flush();
        } else {
            tell(&format!("{} {percent} %", self.title));
        }
    }
}

fn bar(title: &str, percent: u32) -> String {
    let full = (percent.min(100) * BAR_CELLS / 100) as usize;
    let cells = BAR_CELLS as usize;
    format!("{title} [{}{}] {percent:>3} %", "#".repeat(full), ".".repeat(cells - full))
}

/// Prints a line; a closed standard output is no reason to end the demo.
pub fn tell(line: &str) {
    let _ = writeln!(stdout().lock(), "{line}");
}

/// Draws the live status.
pub struct StatusBlock {
    live: bool,
    /// Lines drawn last time, to go back over.
    lines: usize,
    /// What does not change, told once: URLs and how to try things.
    advice: Vec<String>,
    looks: u64,
}

impl StatusBlock {
    /// A status that begins with `advice`.
    pub fn new(advice: Vec<String>) -> StatusBlock {
        StatusBlock { live: stdout().is_terminal(), lines: 0, advice, looks: 0 }
    }

    /// Something happened: it stays on the screen above the block.
    pub fn news(&mut self, line: &str) {
        self.rub_out();
        tell(line);
    }

    /// Shows a survey.
    pub fn show(&mut self, survey: &Survey) {
        self.looks += 1;
        if self.looks == 1 {
            self.advice.iter().for_each(|l| tell(&with_pid(l, survey)));
        }
        if !self.live {
            if self.looks % LOOKS_PER_LINE == 1 {
                tell(&one_line(survey));
            }
            return;
        }
        self.rub_out();
        let lines = block(survey);
        self.lines = lines.len();
        let mut out = stdout().lock();
        // Without automatic wrapping, a narrow terminal cuts the lines and their count stays right.
        let _ = writeln!(out, "\x1b[?7l{}\x1b[?7h", lines.join("\n"));
        let _ = out.flush();
    }

    fn rub_out(&mut self) {
        if self.live && self.lines > 0 {
            // Up n lines, then clear to the end of the screen.
            let _ = write!(stdout().lock(), "\x1b[{}F\x1b[J", self.lines);
            self.lines = 0;
        }
    }
}

/// Where to look and what to try. `@PID@` stands for an edge that is up.
pub fn advice(plan: &Plan, orders: &Orders, pages: &str, program: &Path) -> Vec<String> {
    let film = format!("http://{}/film/master.m3u8", plan.entry());
    let here = std::env::current_dir().unwrap_or_default();
    let near = |path: &Path| path.strip_prefix(&here).unwrap_or(path).display().to_string();
    vec![
        String::new(),
        format!("  viewer page    {pages}/"),
        format!("  chain page     {pages}/chain"),
        format!("  film           {film}"),
        "  kill an edge   kill -9 @PID@   (or another number below; the pages show who serves)"
            .to_string(),
        format!("  why this edge  {} explain --client 127.0.0.1 \\", near(program)),
        format!(
            "                   --snapshot {} --trust {} \\",
            near(&orders.snapshot),
            near(&orders.trust)
        ),
        format!("                   {film}"),
        format!("  logs           {}", near(&plan.dir.join("logs"))),
        "  Ctrl-C ends everything.".to_string(),
        String::new(),
    ]
}

/// Puts the process id of an edge that is up into a line of the advice.
fn with_pid(line: &str, survey: &Survey) -> String {
    let edge = survey.nodes.iter().find(|n| n.tier == "edge" && n.up);
    let pid = edge.and_then(|n| n.pid).map_or("PID".to_string(), |pid| pid.to_string());
    line.replace("@PID@", &pid)
}

fn block(survey: &Survey) -> Vec<String> {
    let mut lines = vec![
        format!(
            "Tidegate demo, up {}, snapshot generation {}",
            clock(survey.uptime_s),
            survey.nodes.iter().find_map(|n| n.generation).map_or("?".into(), |g| g.to_string())
        ),
        format!(
            "  {:<8} {:>5} {:>10} {:>10} {:>10} {:>10} {:>7} {:>10}",
            "tier", "up", "requests", "hit ratio", "sent", "filled", "fills", "collapsed"
        ),
    ];
    for word in ["edge", "parent", "origin"] {
        if let Some(tier) = survey.tiers.get(word) {
            lines.push(tier_line(word, tier));
        }
    }
    let state = |up: bool| if up { "up" } else { "DOWN" };
    let mut line = String::from("  ");
    for node in &survey.nodes {
        let pid = node.pid.map_or("-".into(), |p| p.to_string());
        let item = format!("{} {} {pid}", node.id, state(node.up));
        if line.len() + item.len() > WIDTH {
            lines.push(std::mem::replace(&mut line, "  ".into()));
        }
        line.push_str(&item);
        line.push_str("  ");
    }
    lines.push(line);
    lines
}

fn tier_line(word: &str, tier: &TierView) -> String {
    let c = &tier.counters;
    let caches = word != "origin";
    format!(
        "  {word:<8} {:>5} {:>10} {:>10} {:>10} {:>10} {:>7} {:>10}",
        format!("{}/{}", tier.up, tier.nodes),
        c.requests_total,
        if caches {
            tier.hit_ratio.map_or("-".into(), |r| format!("{:.1} %", r * 100.0))
        } else {
            "".into()
        },
        bytes(c.bytes_sent_total),
        if caches { bytes(c.bytes_filled_total) } else { String::new() },
        if caches { c.fills_total.to_string() } else { String::new() },
        if caches { c.collapsed_total.to_string() } else { String::new() },
    )
}

fn one_line(survey: &Survey) -> String {
    let mut line = format!("{} ", clock(survey.uptime_s));
    for word in ["edge", "parent", "origin"] {
        let Some(tier) = survey.tiers.get(word) else { continue };
        let c = &tier.counters;
        line.push_str(&format!(
            "| {word} {}/{} up, {} requests",
            tier.up, tier.nodes, c.requests_total
        ));
        if let (Some(ratio), true) = (tier.hit_ratio, word != "origin") {
            line.push_str(&format!(", {:.1} % hits", ratio * 100.0));
        }
        line.push_str(&format!(", {} sent ", bytes(c.bytes_sent_total)));
        if word != "origin" {
            line.push_str(&format!("{} fills ", c.fills_total));
        }
    }
    let down: Vec<&str> = survey.nodes.iter().filter(|n| !n.up).map(|n| n.id).collect();
    if !down.is_empty() {
        line.push_str(&format!("| down: {}", down.join(", ")));
    }
    line.trim_end().to_string()
}

/// Bytes for people, in powers of 1000 as networks count.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

const BAR_CELLS: u32 = 40;
const WIDTH: usize = 79;
/// Surveys come each second; a log gets every fifth.
const LOOKS_PER_LINE: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::survey::Counters;

    #[test]
    fn bytes_and_clock_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!(clock(3_725), "01:02:05");
    }

    #[test]
    fn a_bar_is_as_full_as_it_says() {
        assert!(bar("film", 0).contains(&".".repeat(40)));
        assert!(bar("film", 50).contains(&format!("[{}{}]", "#".repeat(20), ".".repeat(20))));
        assert!(bar("film", 100).contains(&"#".repeat(40)));
    }

    #[test]
    fn a_tier_shows_its_hit_ratio_and_an_origin_has_none() {
        let counters =
            Counters { requests_total: 10, hits_total: 9, misses_total: 1, ..Counters::default() };
        let tier = TierView { up: 3, nodes: 4, hit_ratio: Some(0.9), counters };
        assert!(tier_line("edge", &tier).contains("90.0 %"));
        assert!(!tier_line("origin", &tier).contains('%'));
    }
}
