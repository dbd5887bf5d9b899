//! A run as a file: phases one after the other, each a load or players, each with what must hold.
//!
//! ```text
//! scenario.toml -> Scenario { phases } -> for each: Options (and Cast) -> Report
//! ```
//!
//! Must stay true: a file that cannot be run says so before anything is sent, with its name, the line, and the mend; what a
//! phase can say is what the command line can say, by the same names.

use crate::assertion::Assertion;
use crate::channel::Protocol;
use crate::options::Options;
use crate::pick::Order;
use crate::play::player::Manners;
use crate::play::run::Cast;
use crate::schedule::Rate;
use crate::trace::Reader;
use crate::units::{nanos, parse_duration};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;

/// Phases of one scenario.
pub const PHASES_MAX: usize = 100;
/// Bytes of a scenario.
pub const SCENARIO_BYTES_MAX: u64 = 16 << 20;

/// What is done, in order.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub phases: Vec<Phase>,
}

/// One part of it.
#[derive(Debug, Clone)]
pub struct Phase {
    pub name: String,
    pub options: Options,
    /// Players in place of requests.
    pub cast: Option<Cast>,
}

/// Why a file is no scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioError {
    pub path: PathBuf,
    /// From 1; `None`: the file as a whole.
    pub line: Option<usize>,
    pub what: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.what),
            None => write!(f, "{}: {}", self.path.display(), self.what),
        }
    }
}

impl std::error::Error for ScenarioError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    phase: Vec<Spanned<RawPhase>>,
}

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPhase {
    name: String,
    #[serde(default)]
    urls: Vec<String>,
    /// A trace whose requests are asked for in its order, at `base`.
    trace: Option<PathBuf>,
    base: Option<String>,
    order: Option<Text<Order>>,
    seed: Option<u64>,
    http: Option<Text<Protocol>>,
    rate: Option<RateText>,
    ramp_to: Option<RateText>,
    #[serde(default)]
    closed: bool,
    connections: Option<usize>,
    streams: Option<usize>,
    threads: Option<usize>,
    duration: Option<Time>,
    requests: Option<u64>,
    warmup: Option<Time>,
    timeout: Option<Time>,
    drain: Option<Time>,
    backlog: Option<u64>,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    ranges: Vec<String>,
    players: Option<usize>,
    ramp: Option<Time>,
    watch: Option<Time>,
    buffer: Option<Time>,
    first_guess: Option<u64>,
    cmcd: Option<bool>,
    #[serde(default)]
    assert: Vec<Text<Assertion>>,
}

/// Something that the command line reads too.
struct Text<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Text<T>, D::Error> {
        String::deserialize(from)?.parse().map(Text).map_err(D::Error::custom)
    }
}

struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        parse_duration(&String::deserialize(from)?).map(Time).map_err(D::Error::custom)
    }
}

struct RateText(Rate);

impl<'de> Deserialize<'de> for RateText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<RateText, D::Error> {
        Rate::per_second(f64::deserialize(from)?).map(RateText).map_err(D::Error::custom)
    }
}

impl Scenario {
    /// Reads a file. `base` holds what the command line says for all phases: where to send, whom to trust, what must hold
    /// in each of them.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(path: &Path, base: &Options) -> Result<Scenario, ScenarioError> {
        let whole = |what: String| ScenarioError { path: path.into(), line: None, what };
        let size = fs::metadata(path).map_err(|e| whole(e.to_string()))?.len();
        if size > SCENARIO_BYTES_MAX {
            return Err(whole(format!("more than {SCENARIO_BYTES_MAX} bytes")));
        }
        let text = fs::read_to_string(path).map_err(|e| whole(e.to_string()))?;
        Scenario::parse(path, &text, base)
    }

    /// As `read`, for a text that stands at `path`: what it names lies beside it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(path: &Path, text: &str, base: &Options) -> Result<Scenario, ScenarioError> {
        let at = |offset: Option<usize>, what: String| ScenarioError {
            path: path.into(),
            line: offset
                .map(|offset| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()),
            what,
        };
        let raw: Raw = toml::from_str(text)
            .map_err(|e| at(e.span().map(|span| span.start), e.message().trim().to_owned()))?;
        let mut phases: Vec<Phase> = Vec::new();
        for raw in raw.phase {
            let offset = raw.span().start;
            let phase =
                raw.into_inner().phase(path, base).map_err(|what| at(Some(offset), what))?;
            if phases.iter().any(|known| known.name == phase.name) {
                let what = format!("there is a phase '{}' above: give it another name", phase.name);
                return Err(at(Some(offset), what));
            }
            phases.push(phase);
        }
        match phases.len() {
            1..=PHASES_MAX => Ok(Scenario { phases }),
            0 => Err(at(
                None,
                "it has no phase: write [[phase]] and under it name, urls, rate".into(),
            )),
            _ => Err(at(None, format!("it has more than {PHASES_MAX} phases"))),
        }
    }
}

impl RawPhase {
    fn phase(self, path: &Path, base: &Options) -> Result<Phase, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(
                "name is 1 to 64 letters, digits, '-', '_' and '.': files are named by it".into()
            );
        }
        let players = self.players;
        self.fits()?;
        let urls = match &self.trace {
            None => self.urls.clone(),
            Some(trace) => self.traced(&path.with_file_name(trace))?,
        };
        let d = Options::default();
        let time = |time: &Option<Time>, usual| time.as_ref().map_or(usual, |time| time.0);
        let mut options = Options {
            urls,
            order: self.order.map_or(d.order, |order| order.0),
            seed: self.seed.unwrap_or(d.seed),
            rate: self.rate.map(|rate| rate.0),
            ramp_to: self.ramp_to.map(|rate| rate.0),
            connections: players.or(self.connections).unwrap_or(d.connections),
            streams: self.streams.unwrap_or(d.streams),
            threads: self.threads.unwrap_or(d.threads),
            duration: self.duration.as_ref().map(|time| time.0),
            requests: self.requests,
            warmup: time(&self.warmup, d.warmup),
            timeout: time(&self.timeout, d.timeout),
            drain: time(&self.drain, d.drain),
            backlog_max: self.backlog.unwrap_or(d.backlog_max),
            ranges: self.ranges.clone(),
            protocol: self.http.map_or(base.protocol, |http| http.0),
            ..base.clone()
        };
        options.headers.extend(self.headers);
        options.assertions.extend(self.assert.into_iter().map(|assertion| assertion.0));
        let cast = players.map(|players| Cast {
            players,
            ramp: time(&self.ramp, Duration::from_secs(1)),
            seed: self.seed,
            manners: Manners {
                buffer_s: time(&self.buffer, Duration::from_secs(30)).as_secs_f64(),
                first_guess_bps: self.first_guess.unwrap_or(1_000_000) as f64,
                watch_ns: self.watch.as_ref().map(|time| nanos(time.0)),
                tells: self.cmcd.unwrap_or(false),
            },
        });
        match cast {
            None => options.plan().map(drop).map_err(|e| e.to_string())?,
            Some(_) => options.check().map_err(|e| e.to_string())?,
        }
        options.parsed_urls().map_err(|e| e.to_string())?;
        crate::run::fields(&options.headers).map_err(|e| e.to_string())?;
        Ok(Phase { name: self.name, options, cast })
    }

    /// Whether it says one thing, and not two.
    fn fits(&self) -> Result<(), String> {
        let loads = [
            ("rate", self.rate.is_some()),
            ("ramp_to", self.ramp_to.is_some()),
            ("closed", self.closed),
            ("connections", self.connections.is_some()),
            ("streams", self.streams.is_some()),
            ("requests", self.requests.is_some()),
            ("warmup", self.warmup.is_some()),
            ("drain", self.drain.is_some()),
            ("backlog", self.backlog.is_some()),
            ("ranges", !self.ranges.is_empty()),
            ("order", self.order.is_some()),
            ("trace", self.trace.is_some()),
        ];
        let plays = [
            ("ramp", self.ramp.is_some()),
            ("watch", self.watch.is_some()),
            ("buffer", self.buffer.is_some()),
            ("first_guess", self.first_guess.is_some()),
            ("cmcd", self.cmcd.is_some()),
        ];
        let (strange, whose) = match self.players {
            Some(_) => (&loads[..], "a phase without players"),
            None => (&plays[..], "a phase with players"),
        };
        if let Some((name, _)) = strange.iter().find(|(_, given)| *given) {
            return Err(format!("{name} belongs to {whose}: take it out, or make two phases"));
        }
        if self.players.is_none() && self.closed == self.rate.is_some() {
            return Err("a phase is open or closed: give rate = N, or closed = true".into());
        }
        match (&self.trace, &self.base) {
            (Some(_), Some(_)) if self.urls.is_empty() => Ok(()),
            (Some(_), None) => Err("a trace holds paths: give base = \"http://host\" too".into()),
            (Some(_), Some(_)) => Err("give urls or a trace, or make two phases".into()),
            (None, Some(_)) => Err("base belongs to trace: give trace = \"FILE\", or urls".into()),
            (None, None) => Ok(()),
        }
    }

    /// The URLs of a trace, in its order.
    fn traced(&self, path: &Path) -> Result<Vec<String>, String> {
        let failed = |what: &dyn fmt::Display| format!("trace {}: {what}", path.display());
        let file = File::open(path).map_err(|e| failed(&e))?;
        let mut reader = Reader::new(BufReader::new(file)).map_err(|e| failed(&e))?;
        let base = self.base.as_deref().unwrap_or_default().trim_end_matches('/');
        let mut urls = Vec::new();
        while let Some(line) = reader.next_line().map_err(|e| failed(&e))? {
            if urls.len() >= crate::url::URLS_MAX {
                return Err(failed(&format_args!("more than {} requests", crate::url::URLS_MAX)));
            }
            urls.push(format!("{base}{}", line.path));
        }
        Ok(urls)
    }
}

/// What a scenario came to.
#[derive(Debug, Serialize)]
pub struct ScenarioReport {
    pub scenario: String,
    pub phases: Vec<PhaseReport>,
}

/// One phase of it.
#[derive(Debug, Serialize)]
pub struct PhaseReport {
    pub name: String,
    pub report: crate::report::Report,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scenario, String> {
        let base = Options { headers: vec!["X-From: all".into()], ..Options::default() };
        Scenario::parse(Path::new("dir/s.toml"), text, &base).map_err(|e| e.to_string())
    }

    #[test]
    fn a_scenario_says_what_the_command_line_can_say() {
        let text = r#"
            [[phase]]
            name = "climb"
            urls = ["http://a.example/x", "http://a.example/y"]
            order = "zipf:1.1"
            http = "2"
            rate = 10
            ramp_to = 500.5
            connections = 7
            streams = 3
            duration = "1m"
            warmup = "5s"
            headers = ["X-A: b"]
            ranges = ["0-99", "-5"]
            assert = ["p99_first_byte < 50ms", "errors == 0"]

            [[phase]]
            name = "evening"
            urls = ["http://a.example/master.m3u8"]
            players = 20
            watch = "30s"
        "#;
        let scenario = parse(text).unwrap();
        let [climb, evening] = &scenario.phases[..] else { panic!("two phases") };
        let options = &climb.options;
        assert_eq!(options.rate, Some("10".parse().unwrap()));
        assert_eq!(options.ramp_to, Some("500.5".parse().unwrap()));
        assert_eq!((options.connections, options.streams, options.ranges.len()), (7, 3, 2));
        assert_eq!(options.warmup, Duration::from_secs(5));
        assert_eq!(options.headers, ["X-From: all", "X-A: b"]);
        assert_eq!((options.assertions.len(), options.protocol), (2, Protocol::Http2));
        assert!(climb.cast.is_none());
        let cast = evening.cast.as_ref().unwrap();
        assert_eq!((cast.players, evening.options.connections), (20, 20));
        assert_eq!(cast.manners.watch_ns, Some(30_000_000_000));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_the_mend() {
        let phase = "[[phase]]\nname = \"a\"\nurls = [\"http://h/\"]\n";
        let cases = [
            ("x = 1\n".to_owned(), "dir/s.toml:1: unknown field `x`"),
            (String::new(), "dir/s.toml: it has no phase: write [[phase]]"),
            (format!("{phase}rat = 5\n"), "s.toml:4: unknown field `rat`"),
            (format!("{phase}rate = -5\n"), "s.toml:4: a rate is requests per second"),
            (format!("{phase}rate = 5\nduration = \"5\"\n"), "s.toml:5: a time needs a unit"),
            (format!("{phase}closed = true\nhttp = \"4\"\n"), "s.toml:5: a version of HTTP is"),
            (format!("{phase}duration = \"1s\"\n"), "s.toml:1: a phase is open or closed"),
            (format!("{phase}rate = 5\n"), "s.toml:1: the run would never end"),
            (
                format!("{phase}players = 5\nrate = 5\n"),
                "s.toml:1: rate belongs to a phase without",
            ),
            (
                format!("{phase}closed = true\nduration = \"1s\"\nwatch = \"1s\"\n"),
                "s.toml:1: watch belongs to a phase with players",
            ),
            (
                format!("{phase}closed = true\nrequests = 1\nranges = [\"5-1\"]\n"),
                "'5-1' is no range of bytes: write 0-499",
            ),
            (
                format!("{phase}rate = 1\nramp_to = 5\nrequests = 1\n"),
                "s.toml:1: a rate that changes needs",
            ),
            (
                format!("{phase}players = 1\n\n{phase}players = 1\n"),
                "s.toml:6: there is a phase 'a' above",
            ),
            (
                format!("{phase}closed = true\nrequests = 1\ntrace = \"t\"\n"),
                "s.toml:1: a trace holds paths: give base",
            ),
            (
                "[[phase]]\nname = \"a/b\"\nurls = []\nplayers = 1\n".to_owned(),
                "s.toml:1: name is 1 to 64 letters",
            ),
            (format!("{phase}players = 1\nassert = [\"p99 < 1\"]\n"), "s.toml:5:"),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{text}\n{error}\nnot {expected}");
        }
    }
}
