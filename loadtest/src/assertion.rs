//! What a run must have reached, as one line: `response_time.p99 < 50ms`.
//!
//! ```text
//! assertion = name operator value       operator = < | <= | > | >= | == | !=
//! ```
//!
//! Must stay true: an assertion that cannot be read stops the run before it begins, with the place and the
//! names that exist; one about a value that the run does not have fails.

use crate::play::watched::Audience;
use crate::report::Measured;
use crate::tally::{Ending, Tally, Times};
use crate::units::{parse_time_ns, show_ns};
use std::fmt;
use std::str::FromStr;

/// One assertion.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    text: String,
    metric: Metric,
    operator: Operator,
    value: f64,
}

/// Bytes of one assertion.
pub const ASSERTION_BYTES_MAX: usize = 256;

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub held: bool,
    /// The run's value in `unit`; `None` when there is none.
    pub value: Option<f64>,
    /// `us`, `ratio`, `per_second` or `count`.
    pub unit: &'static str,
    /// The value for people.
    pub shown: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Metric {
    Time(Clock, Statistic),
    /// An index in [`COUNTS`].
    Count(usize),
    /// Whole answers with a status from, below.
    Status(u16, u16),
    Rate,
    StallRatio,
    /// Bits per second.
    MeanBitrate,
    /// An index in [`VIEWED`].
    Viewed(usize),
    ErrorRatio,
    HitRatio,
    TierHits(String),
    TierHitRatio(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Clock {
    Response,
    Service,
    FirstByte,
    SendDelay,
    Startup,
}

const CLOCKS: [(&str, Clock); 5] = [
    ("response_time", Clock::Response),
    ("service_time", Clock::Service),
    ("first_byte", Clock::FirstByte),
    ("send_delay", Clock::SendDelay),
    ("startup", Clock::Startup),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Statistic {
    Percentile(f64),
    Min,
    Mean,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
    NotEqual,
}

/// Longer texts first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::MoreOrEqual),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    (">", Operator::More),
];

type Count = (&'static str, fn(&Tally) -> u64);

/// Names of plain numbers, with where they come from.
const COUNTS: [Count; 20] = [
    ("requests", Tally::requests),
    ("sent", |t| t.sent),
    ("answers", |t| t.ended(Ending::Answered)),
    ("ok", Tally::ok),
    ("not_sent", |t| t.ended(Ending::NotSent)),
    ("errors", Tally::errors),
    ("errors.connect", |t| t.ended(Ending::Connect)),
    ("errors.timeout", |t| t.ended(Ending::Timeout)),
    ("errors.closed_early", |t| t.ended(Ending::ClosedEarly)),
    ("errors.short_body", |t| t.ended(Ending::ShortBody)),
    ("errors.malformed", |t| t.ended(Ending::Malformed)),
    ("errors.unanswered", |t| t.ended(Ending::Unanswered)),
    ("errors.status_4xx", |t| t.answers_with(400..500)),
    ("errors.status_5xx", |t| t.answers_with(500..600)),
    ("connects", |t| t.connects),
    ("reconnects", |t| t.reconnects),
    ("warmup_requests", |t| t.warmup_requests),
    ("bytes.sent", |t| t.sent_bytes),
    ("bytes.received", |t| t.received_bytes),
    ("bytes.body", |t| t.body_bytes),
];

type Viewed = (&'static str, fn(&Audience) -> u64);

/// The same of players.
const VIEWED: [Viewed; 7] = [
    ("players", |a| a.players),
    ("players.started", |a| a.started),
    ("players.failed", |a| a.sum.failed),
    ("players.stalled", |a| a.stalled_players),
    ("stalls", |a| a.sum.stalls),
    ("switches", |a| a.sum.switches_up + a.sum.switches_down),
    ("segments_skipped", |a| a.sum.skipped),
];

/// Why a text is no assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertionError {
    pub text: String,
    /// Character, from 1.
    pub at: usize,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    TooLong,
    NoName,
    UnknownName(String),
    NoOperator,
    NoValue,
    Time(crate::units::TimeError),
    Number,
    UnitWithNumber,
    Ratio,
}

impl fmt::Display for AssertionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}', character {}: ", self.text.escape_debug(), self.at)?;
        match &self.fault {
            Fault::TooLong => write!(f, "an assertion has at most {ASSERTION_BYTES_MAX} bytes"),
            Fault::NoName => f.write_str("a name is missing, as in: errors == 0"),
            Fault::UnknownName(name) => {
                write!(f, "there is no '{}'; there are: {}", name.escape_debug(), known_names())
            }
            Fault::NoOperator => f.write_str("here stands one of: < <= > >= == !="),
            Fault::NoValue => f.write_str("a value is missing after the operator"),
            Fault::Time(error) => write!(f, "{error}"),
            Fault::Number => f.write_str("here stands a number"),
            Fault::UnitWithNumber => f.write_str("this name has no unit: write the number alone"),
            Fault::Ratio => f.write_str("a ratio is from 0 to 1, or from 0% to 100%"),
        }
    }
}

impl std::error::Error for AssertionError {}

/// All names, for help and errors.
pub fn known_names() -> String {
    let mut names: Vec<String> = CLOCKS
        .iter()
        .map(|(name, _)| format!("{name}.{{min,mean,max,p50,p90,p99,p99.9,...}}"))
        .collect();
    names.extend(COUNTS.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(VIEWED.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(
        [
            "status.NNN",
            "status.Nxx",
            "rate",
            "error_ratio",
            "hit_ratio",
            "tier.NAME.hits",
            "tier.NAME.hit_ratio",
        ]
        .map(str::to_owned),
    );
    names.join(", ")
}

impl FromStr for Assertion {
    type Err = AssertionError;

    fn from_str(text: &str) -> Result<Assertion, AssertionError> {
        let fail = |byte: usize, fault| {
            let at = text[..byte].chars().count() + 1;
            AssertionError { text: text.chars().take(ASSERTION_BYTES_MAX).collect(), at, fault }
        };
        if text.len() > ASSERTION_BYTES_MAX {
            return Err(fail(0, Fault::TooLong));
        }
        let skip = |from: usize| text.len() - text[from..].trim_start().len();
        let name_at = skip(0);
        let name_end = text[name_at..]
            .find(|c: char| c.is_whitespace() || "<>=!".contains(c))
            .map_or(text.len(), |length| name_at + length);
        let name = &text[name_at..name_end];
        if name.is_empty() {
            return Err(fail(name_at, Fault::NoName));
        }
        let metric = Metric::named(name)
            .ok_or_else(|| fail(name_at, Fault::UnknownName(name.to_owned())))?;
        let operator_at = skip(name_end);
        let (sign, operator) = OPERATORS
            .into_iter()
            .find(|(sign, _)| text[operator_at..].starts_with(sign))
            .ok_or_else(|| fail(operator_at, Fault::NoOperator))?;
        let value_at = skip(operator_at + sign.len());
        let value = metric.value(text[value_at..].trim_end()).map_err(|f| fail(value_at, f))?;
        Ok(Assertion { text: text.trim().to_owned(), metric, operator, value })
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Assertion {
    /// Holds it against a run.
    pub fn judge(&self, measured: &Measured) -> Verdict {
        let value = self.metric.of(measured);
        let held = value.is_some_and(|value| match self.operator {
            Operator::Less => value < self.value,
            Operator::LessOrEqual => value <= self.value,
            Operator::More => value > self.value,
            Operator::MoreOrEqual => value >= self.value,
            Operator::Equal => value == self.value,
            Operator::NotEqual => value != self.value,
        });
        let shown =
            value.map_or_else(|| self.metric.why_none().to_owned(), |v| self.metric.show(v));
        let (unit, scale) = self.metric.unit();
        Verdict { held, value: value.map(|value| value / scale), unit, shown }
    }
}

impl Metric {
    fn named(name: &str) -> Option<Metric> {
        if let Some(index) = COUNTS.iter().position(|(count, _)| *count == name) {
            return Some(Metric::Count(index));
        }
        if let Some(index) = VIEWED.iter().position(|(count, _)| *count == name) {
            return Some(Metric::Viewed(index));
        }
        match name {
            "rate" => return Some(Metric::Rate),
            "stall_ratio" => return Some(Metric::StallRatio),
            "mean_bitrate" => return Some(Metric::MeanBitrate),
            "error_ratio" => return Some(Metric::ErrorRatio),
            "hit_ratio" => return Some(Metric::HitRatio),
            _ => {}
        }
        // `p99_first_byte` is `first_byte.p99`.
        if let Some((statistic, clock)) = name.split_once('_')
            && let Some((_, clock)) = CLOCKS.iter().find(|(name, _)| *name == clock)
        {
            return Statistic::named(statistic).map(|statistic| Metric::Time(*clock, statistic));
        }
        let (family, rest) = name.split_once('.')?;
        if let Some((_, clock)) = CLOCKS.iter().find(|(clock, _)| *clock == family) {
            return Statistic::named(rest).map(|statistic| Metric::Time(*clock, statistic));
        }
        match family {
            "status" => status_range(rest).map(|(from, below)| Metric::Status(from, below)),
            "tier" => {
                let (tier, what) = rest.rsplit_once('.').filter(|(tier, _)| !tier.is_empty())?;
                match what {
                    "hits" => Some(Metric::TierHits(tier.to_owned())),
                    "hit_ratio" => Some(Metric::TierHitRatio(tier.to_owned())),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn is_ratio(&self) -> bool {
        matches!(
            self,
            Metric::ErrorRatio | Metric::StallRatio | Metric::HitRatio | Metric::TierHitRatio(_)
        )
    }

    fn value(&self, text: &str) -> Result<f64, Fault> {
        if text.is_empty() {
            return Err(Fault::NoValue);
        }
        if let Metric::Time(..) = self {
            return parse_time_ns(text).map_err(Fault::Time);
        }
        if self.is_ratio() {
            let (text, scale) = text.strip_suffix('%').map_or((text, 1.0), |t| (t, 100.0));
            let ratio = number(text)? / scale;
            return if ratio <= 1.0 { Ok(ratio) } else { Err(Fault::Ratio) };
        }
        number(text)
    }

    fn of(&self, measured: &Measured) -> Option<f64> {
        let (tally, audience) = (&measured.tally, measured.audience.as_ref());
        match self {
            Metric::Time(Clock::Startup, statistic) => statistic.of(&audience?.startup),
            Metric::Time(clock, statistic) => statistic.of(clock.times(tally)),
            Metric::Count(index) => Some(COUNTS[*index].1(tally) as f64),
            Metric::Status(from, below) => Some(tally.answers_with(*from..*below) as f64),
            Metric::Rate => measured.rate(),
            Metric::StallRatio => audience?.stall_ratio(),
            Metric::MeanBitrate => audience?.mean_bitrate(),
            Metric::Viewed(index) => Some(VIEWED[*index].1(audience?) as f64),
            Metric::ErrorRatio => {
                let requests = tally.requests();
                (requests > 0).then(|| {
                    (tally.errors() + tally.ended(Ending::NotSent)) as f64 / requests as f64
                })
            }
            Metric::HitRatio => tally.hit_ratio(),
            Metric::TierHits(name) => Some(tally.tiers.get(name).map_or(0, |t| t.hits) as f64),
            Metric::TierHitRatio(name) => tally
                .tiers
                .get(name)
                .filter(|tier| tier.answers() > 0)
                .map(|tier| tier.hits as f64 / tier.answers() as f64),
        }
    }

    /// Name, and what the value is divided by to have it.
    fn unit(&self) -> (&'static str, f64) {
        match self {
            Metric::Time(..) => ("us", 1000.0),
            Metric::Rate => ("per_second", 1.0),
            _ if self.is_ratio() => ("ratio", 1.0),
            _ => ("count", 1.0),
        }
    }

    fn show(&self, value: f64) -> String {
        match self {
            Metric::Time(..) => show_ns(value),
            Metric::Rate => format!("{value:.3}"),
            _ if self.is_ratio() => format!("{value:.4}"),
            _ => format!("{value}"),
        }
    }

    fn why_none(&self) -> &'static str {
        match self {
            Metric::Time(..) => "no value: no request got that far",
            Metric::StallRatio | Metric::MeanBitrate | Metric::Viewed(_) => {
                "no value: nobody played (tidegate-load play)"
            }
            Metric::HitRatio => "no value: no answer carried Cache-Status",
            Metric::TierHitRatio(_) => "no value: no answer came by this tier",
            _ => "no value: nothing was counted",
        }
    }
}

impl Clock {
    fn times(self, tally: &Tally) -> &Times {
        match self {
            // Players have their own; see `Metric::of`.
            Clock::Startup | Clock::Response => &tally.response_time,
            Clock::Service => &tally.service_time,
            Clock::FirstByte => &tally.first_byte,
            Clock::SendDelay => &tally.send_delay,
        }
    }
}

impl Statistic {
    fn named(name: &str) -> Option<Statistic> {
        match name {
            "min" => Some(Statistic::Min),
            "mean" => Some(Statistic::Mean),
            "max" => Some(Statistic::Max),
            _ => name
                .strip_prefix('p')
                .and_then(|p| number(p).ok())
                .filter(|p| *p <= 100.0)
                .map(Statistic::Percentile),
        }
    }

    fn of(self, times: &Times) -> Option<f64> {
        match self {
            Statistic::Percentile(percent) => times.percentile_ns(percent),
            Statistic::Min => times.min_ns(),
            Statistic::Mean => times.mean_ns(),
            Statistic::Max => times.max_ns(),
        }
    }
}

/// `200` or `2xx`.
fn status_range(text: &str) -> Option<(u16, u16)> {
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|c| (1..=5).contains(c) && text.len() == 3)?;
        return Some((class * 100, class * 100 + 100));
    }
    let status = text.parse().ok().filter(|s| (100..600).contains(s) && text.len() == 3)?;
    Some((status, status + 1))
}

/// Digits with at most one dot; `_` may group them.
fn number(text: &str) -> Result<f64, Fault> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'));
    match end {
        Some(0) => return Err(Fault::Number),
        Some(_) => return Err(Fault::UnitWithNumber),
        None => {}
    }
    text.replace('_', "").parse().map_err(|_| Fault::Number)
}

#[cfg(test)]
mod tests;
