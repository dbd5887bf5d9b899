//! A plot over time as SVG.
//!
//! Must stay true: a gap in the values is a gap in the line; an axis begins at zero or is logarithmic, so that no
//! plot makes a small thing look large.

use super::escape;
use crate::units::show_ns;
use std::fmt::Write;

/// What the values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Time,
    PerSecond,
    /// Bytes per second, shown as bits.
    BytesPerSecond,
    Count,
    Ratio,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    pub name: &'static str,
    /// Colour by role: `a` to `d`, `bad`.
    pub class: &'static str,
    pub values: Vec<Option<f64>>,
}

/// One plot; all its lines have the same times.
#[derive(Debug, Clone)]
pub struct Chart {
    pub title: &'static str,
    pub unit: Unit,
    /// The area under the first line is filled.
    pub filled: bool,
    /// Seconds from one value to the next.
    pub interval_s: f64,
    /// Seconds that the warm-up took: shown as such.
    pub warmup_s: f64,
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 24.0;
/// Where the largest value is so many times the smallest, an axis of times is logarithmic.
const LOGARITHMIC_FROM: f64 = 20.0;

impl Unit {
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Unit::Time => show_ns(value * 1e3),
            Unit::Ratio => format!("{:.1}%", value * 100.0),
            Unit::PerSecond => format!("{}/s", scaled(value)),
            Unit::BytesPerSecond => format!("{}b/s", scaled(value * 8.0)),
            Unit::Count => scaled(value),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Unit::Time => "time",
            Unit::PerSecond => "per-second",
            Unit::BytesPerSecond => "bits",
            Unit::Count => "count",
            Unit::Ratio => "ratio",
        }
    }
}

/// Three digits and a letter for the power of thousand.
pub(crate) fn scaled(value: f64) -> String {
    let (value, letter) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, " G"),
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
}

/// Value to height.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(chart: &Chart) -> Axis {
        let values = || chart.lines.iter().flat_map(|line| line.values.iter().flatten().copied());
        let high = values().fold(0.0, f64::max);
        let low = values().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
        if chart.unit == Unit::Time && high / low > LOGARITHMIC_FROM {
            let (low, high) = (low.log10().floor(), high.log10().ceil());
            let steps: &[f64] = if high - low <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let decades = low as i32..high as i32;
            let mut ticks: Vec<f64> =
                decades.flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d))).collect();
            ticks.push(10f64.powf(high));
            return Axis { low: 10f64.powf(low), high: 10f64.powf(high), logarithmic: true, ticks };
        }
        let high = if high > 0.0 { high } else { 1.0 };
        // A step of 1, 2 or 5 that makes three to six ticks.
        let rough = high / 4.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|s| s * power >= rough).unwrap_or(10.0);
        let step = step * power;
        let count = (high / step).ceil().max(1.0);
        let ticks = (0..=count as usize).map(|n| n as f64 * step).collect();
        Axis { low: 0.0, high: count * step, logarithmic: false, ticks }
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            let value = value.max(self.low);
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            value / self.high
        };
        TOP + (1.0 - share.clamp(0.0, 1.0)) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart {
    fn count(&self) -> usize {
        self.lines.iter().map(|line| line.values.len()).max().unwrap_or(0)
    }

    fn has_values(&self) -> bool {
        self.lines.iter().any(|line| line.values.iter().any(Option::is_some))
    }

    fn x(&self, index: usize) -> f64 {
        let last = self.count().saturating_sub(1).max(1);
        LEFT + index as f64 / last as f64 * (WIDTH - LEFT - RIGHT)
    }

    pub(super) fn render(&self, out: &mut String) {
        if !self.has_values() {
            return;
        }
        let axis = Axis::new(self);
        let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let _infallible =
            write!(out, "<figure><figcaption><h2>{}</h2><ul class=\"legend\">", self.title);
        if self.lines.len() > 1 {
            for line in &self.lines {
                let _infallible =
                    write!(out, "<li class=\"{}\"><i></i>{}</li>", line.class, escape(line.name));
            }
        }
        let _infallible = write!(
            out,
            "</ul></figcaption><svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\" data-unit=\"{}\" data-left=\"{LEFT}\" data-right=\"{right}\" \
             data-interval=\"{}\" data-lines=\"{}\">",
            self.title,
            self.unit.name(),
            self.interval_s,
            escape(&self.data())
        );
        if self.warmup_s > 0.0 {
            let until = self.x(((self.warmup_s / self.interval_s) as usize).min(self.count()));
            let _infallible = write!(
                out,
                "<rect class=\"warmup\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\"/>\
                 <text class=\"warmup\" x=\"{}\" y=\"{}\">warm-up</text>",
                (until.min(right) - LEFT).max(0.0),
                floor - TOP,
                LEFT + 4.0,
                TOP + 12.0
            );
        }
        for tick in &axis.ticks {
            let y = axis.y(*tick);
            let _infallible = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                 <text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                self.unit.show(*tick)
            );
        }
        self.render_times(out);
        for (index, line) in self.lines.iter().enumerate() {
            self.render_line(line, &axis, self.filled && index == 0, out);
        }
        let _infallible = write!(out, "<path class=\"cursor\" d=\"M0 {TOP}V{floor}\"/></svg>");
        out.push_str("<p class=\"readout\"></p></figure>\n");
    }

    /// Five moments below the plot.
    fn render_times(&self, out: &mut String) {
        let last = self.count().saturating_sub(1);
        let mut shown = Vec::new();
        for part in 0..=4 {
            let index = last * part / 4;
            if shown.contains(&index) {
                continue;
            }
            shown.push(index);
            let anchor = match part {
                0 => "start",
                4 => "end",
                _ => "middle",
            };
            let _infallible = write!(
                out,
                "<text class=\"x\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{}\">{}</text>",
                self.x(index),
                HEIGHT - 6.0,
                moment(index as f64 * self.interval_s)
            );
        }
    }

    fn render_line(&self, line: &Line, axis: &Axis, filled: bool, out: &mut String) {
        let mut runs: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        for (index, value) in line.values.iter().enumerate() {
            match (value, runs.last_mut()) {
                (Some(value), Some(run)) => run.push((self.x(index), axis.y(*value))),
                (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
                _ => {}
            }
        }
        for run in runs.iter().filter(|run| !run.is_empty()) {
            if let [(x, y)] = run.as_slice() {
                let _infallible = write!(
                    out,
                    "<circle class=\"point {}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>",
                    line.class
                );
                continue;
            }
            let mut path = String::new();
            for (at, (x, y)) in run.iter().enumerate() {
                let _infallible = write!(path, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" });
            }
            if filled {
                let (first, last) = (run[0].0, run[run.len() - 1].0);
                let floor = HEIGHT - BOTTOM;
                let _infallible = write!(
                    out,
                    "<path class=\"area {}\" d=\"{path}L{last:.1} {floor}L{first:.1} {floor}Z\"/>",
                    line.class
                );
            }
            let _infallible = write!(out, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
        }
    }

    /// The values, for the script that reads them off.
    fn data(&self) -> String {
        let lines: Vec<_> =
            self.lines.iter().map(|line| serde_json::json!([line.name, line.values])).collect();
        serde_json::Value::Array(lines).to_string()
    }
}

/// Seconds from the start as people write them.
fn moment(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..120 => format!("{whole}s"),
        120..7200 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}h", whole / 3600, whole / 60 % 60),
    }
}
