//! Times as people write and read them: `250us`, `50ms`, `2.5s`, `3m`.
//!
//! Must stay true: a time without a unit is refused, because nobody can tell what was meant.

use std::fmt;
use std::time::Duration;

/// Nanoseconds of one second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Units, with their nanoseconds.
pub const TIME_UNITS: [(&str, f64); 6] =
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// No time is longer than this: a plan of more is a slip of the pen.
pub const TIME_HOURS_MAX: u64 = 24 * 366;

/// Why a text is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeError {
    Number,
    NoUnit,
    Unit,
    TooLong,
}

impl fmt::Display for TimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeError::Number => f.write_str("a time begins with a number, as in 50ms"),
            TimeError::NoUnit => f.write_str("a time needs a unit: ns, us, ms, s, m or h"),
            TimeError::Unit => f.write_str("the unit of a time is ns, us, ms, s, m or h"),
            TimeError::TooLong => write!(f, "a time is at most {TIME_HOURS_MAX}h"),
        }
    }
}

impl std::error::Error for TimeError {}

/// Nanoseconds of `50ms`.
///
/// # Errors
/// When it is no number with a unit, or too long.
pub fn parse_time_ns(text: &str) -> Result<f64, TimeError> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| TimeError::Number)?;
    let unit = unit.trim();
    if unit.is_empty() {
        return Err(TimeError::NoUnit);
    }
    let (_, scale) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or(TimeError::Unit)?;
    let ns = number * scale;
    if ns > TIME_HOURS_MAX as f64 * 3600e9 { Err(TimeError::TooLong) } else { Ok(ns) }
}

/// The same as a `Duration`, for the command line.
///
/// # Errors
/// As [`parse_time_ns`].
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    parse_time_ns(text).map(|ns| Duration::from_nanos(ns.round() as u64))
}

/// Nanoseconds of a `Duration`, held inside 64 bits (584 years).
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A time for people: three or four digits and the unit that fits.
pub fn show_ns(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0}ns"),
        ns if ns < 1e6 => format!("{:.1}us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2}ms", ns / 1e6),
        ns => format!("{:.3}s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        let cases = [
            ("50ms", 50e6),
            ("2.5s", 2.5e9),
            ("1us", 1e3),
            ("0s", 0.0),
            ("3m", 180e9),
            ("7 ns", 7.0),
        ];
        for (text, ns) in cases {
            assert_eq!(parse_time_ns(text), Ok(ns), "{text}");
        }
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
    }

    #[test]
    fn wrong_times_say_what_is_wrong() {
        let cases = [
            ("", TimeError::Number),
            ("ms", TimeError::Number),
            ("1.2.3s", TimeError::Number),
            ("-1s", TimeError::Number),
            ("50", TimeError::NoUnit),
            ("50 parsecs", TimeError::Unit),
            ("9999999999h", TimeError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(parse_time_ns(text), Err(error), "{text}");
        }
    }

    #[test]
    fn times_are_shown_in_the_unit_that_fits() {
        let shown = [5.0, 1500.0, 2_500_000.0, 3_210_000_000.0].map(show_ns);
        assert_eq!(shown, ["5ns", "1.5us", "2.50ms", "3.210s"]);
    }
}
