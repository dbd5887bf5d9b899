//! How far a run is: a bar on a terminal, a line each second elsewhere.
//!
//! Must stay true: on a terminal one line is written over and over, and never more than a line is taken; the first error has a
//! line of its own, as soon as it is known.

use crate::run::Progress;
use std::io::Write;

/// Cells of the bar.
const CELLS: usize = 24;

/// Shows a run.
#[derive(Debug)]
pub struct Meter {
    terminal: bool,
    last: Progress,
    shown: bool,
}

impl Meter {
    pub fn new(terminal: bool) -> Meter {
        Meter { terminal, last: Progress::default(), shown: false }
    }

    /// Writes how far it is now.
    pub fn show(&mut self, now: &Progress, out: &mut dyn Write) {
        let text = line(&self.last, now);
        if let (None, Some(error)) = (&self.last.first_error, &now.first_error) {
            self.done(out);
            let _shown = writeln!(out, "first error: {error}");
        }
        self.last = now.clone();
        // Nobody needs a run to fail because its progress cannot be written.
        let _shown = if self.terminal {
            self.shown = true;
            // Back to the first column; the rest of an older line is wiped out.
            write!(out, "\r{} {text}\x1b[K", bar(now.share)).and_then(|()| out.flush())
        } else {
            writeln!(out, "{text}")
        };
    }

    /// The next line is somebody else's.
    pub fn done(&mut self, out: &mut dyn Write) {
        if std::mem::take(&mut self.shown) {
            let _shown = writeln!(out);
        }
    }
}

fn line(last: &Progress, now: &Progress) -> String {
    let seconds = now.elapsed_ns.saturating_sub(last.elapsed_ns) as f64 / 1e9;
    // Two calls are a second apart; a clock that stood still must not divide by nothing.
    let per_second = |more: u64| more as f64 / seconds.max(0.001);
    format!(
        "{:>5.0}s  {} done, {:.0}/s, {:.2} MB/s, {} errors, {} waiting",
        now.elapsed_ns as f64 / 1e9,
        now.done,
        per_second(now.done.saturating_sub(last.done)),
        per_second(now.received_bytes.saturating_sub(last.received_bytes)) / 1e6,
        now.errors,
        now.waiting
    )
}

fn bar(share: Option<f64>) -> String {
    let Some(share) = share.map(|share| share.clamp(0.0, 1.0)) else {
        return format!("[{}]     ", " ".repeat(CELLS));
    };
    let full = (share * CELLS as f64) as usize;
    let head = if full < CELLS { ">" } else { "" };
    let rest = CELLS - full - head.len();
    format!("[{}{head}{}] {:>3.0}%", "=".repeat(full), " ".repeat(rest), share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(elapsed_s: u64, done: u64, share: Option<f64>) -> Progress {
        Progress { elapsed_ns: elapsed_s * 1_000_000_000, share, done, ..Progress::default() }
    }

    #[test]
    fn a_terminal_has_one_line_and_a_log_one_each_time() {
        let (mut terminal, mut log) = (Vec::new(), Vec::new());
        let (mut on_terminal, mut on_log) = (Meter::new(true), Meter::new(false));
        for now in [at(1, 100, Some(0.5)), at(2, 300, Some(1.0))] {
            on_terminal.show(&now, &mut terminal);
            on_log.show(&now, &mut log);
        }
        on_terminal.done(&mut terminal);
        on_log.done(&mut log);
        let (terminal, log) =
            (String::from_utf8(terminal).unwrap(), String::from_utf8(log).unwrap());
        assert_eq!(terminal.matches('\n').count(), 1);
        assert_eq!(terminal.matches('\r').count(), 2);
        assert!(terminal.contains("[============>           ]  50%"), "{terminal}");
        assert!(terminal.contains("[========================] 100%"), "{terminal}");
        assert_eq!(log.lines().count(), 2);
        assert!(log.contains("300 done, 200/s"), "{log}");
        assert!(!log.contains('\r') && !log.contains('\x1b'));
    }

    #[test]
    fn the_first_error_is_told_once_on_a_line_of_its_own() {
        for terminal in [true, false] {
            let (mut meter, mut out) = (Meter::new(terminal), Vec::new());
            let first_error = Some("no connection to [::1]:9: refused".into());
            meter.show(&at(1, 1, None), &mut out);
            for seconds in [2, 3] {
                let now = Progress { first_error: first_error.clone(), ..at(seconds, 1, None) };
                meter.show(&now, &mut out);
            }
            let out = String::from_utf8(out).unwrap();
            let told = out.lines().filter(|line| line.starts_with("first error: no connection"));
            assert_eq!(told.count(), 1, "{out}");
        }
    }

    #[test]
    fn a_bar_has_its_cells_whatever_the_share_is() {
        for share in [None, Some(-1.0), Some(0.0), Some(0.37), Some(7.0), Some(f64::NAN)] {
            assert_eq!(bar(share).len(), CELLS + 7, "{share:?}");
        }
    }
}
