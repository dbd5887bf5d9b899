//! The page of a run of requests.

use super::chart::scaled;
use super::{Chart, Line, Page, Table, Tile, Unit};
use crate::play::watched::{PlayersReport, Seconds};
use crate::report::{Report, TimesReport};
use crate::series::Row;
use crate::units::show_ns;

/// The page of this report.
pub fn page(report: &Report) -> Page {
    let options = &report.options;
    let shown = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| show_ns(us * 1e3));
    let seconds = report.elapsed_us / 1e6;
    let per_second = |bytes: u64| if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    let mut facts = Vec::new();
    facts.extend(options.urls.first().cloned());
    if options.url_count > 1 {
        facts.push(format!("and {} more URLs, {}", options.url_count - 1, options.order));
    }
    facts.push(match (options.rate_per_second, options.ramp_to_per_second) {
        (Some(rate), None) => format!("open loop, {} requests/s", scaled(rate)),
        (Some(rate), Some(to)) => {
            format!("open loop, {} to {} requests/s", scaled(rate), scaled(to))
        }
        (None, _) => "closed loop".to_owned(),
    });
    facts.push(format!("HTTP/{}", options.http));
    facts.push(match options.streams {
        1 => format!("{} connections", options.connections),
        streams => format!("{} connections of {streams} streams", options.connections),
    });
    facts.push(show_ns(report.elapsed_us * 1e3));
    facts.push(utc(report.started_unix_ms / 1000));
    let lost = report.errors.total + report.not_sent;
    let ratio = lost as f64 / report.requests.max(1) as f64 * 100.0;
    let mut tiles = vec![
        Tile {
            name: "Answers",
            value: format!("{}/s", scaled(report.rate_per_second.unwrap_or(0.0))),
            note: format!("{} of {} requests", report.answers, report.requests),
        },
        Tile {
            name: "First byte, p99",
            value: shown(report.first_byte.p99_us),
            note: format!("half within {}", shown(report.first_byte.p50_us)),
        },
        Tile {
            name: "Response time, p99",
            value: shown(report.response_time.p99_us),
            note: format!("half within {}", shown(report.response_time.p50_us)),
        },
        Tile {
            name: "Errors",
            value: scaled(lost as f64),
            note: format!("{ratio:.3}% of requests, {} not sent", report.not_sent),
        },
        Tile {
            name: "Throughput",
            value: format!("{}b/s", scaled(per_second(report.bytes.body) * 8.0)),
            note: format!("{}B of bodies", scaled(report.bytes.body as f64)),
        },
    ];
    if let Some(hits) = report.cache.hit_ratio {
        let note = "at the first hop".to_owned();
        tiles.push(Tile { name: "Hit ratio", value: format!("{:.2}%", hits * 100.0), note });
    }
    if let Some(server) = report.cpu.server_us_per_answer {
        tiles.push(Tile {
            name: "Server CPU per answer",
            value: shown(Some(server)),
            note: format!("this program: {}", shown(report.cpu.client_us_per_answer)),
        });
    }
    if let Some(players) = &report.players {
        tiles.splice(..0, player_tiles(players));
        facts.retain(|fact| fact != "closed loop" && !fact.ends_with(" connections"));
        facts.insert(1, format!("{} players", players.players));
    }
    Page {
        title: if report.players.is_some() { "Playback report" } else { "Load report" }.to_owned(),
        facts,
        warning: report
            .interrupted
            .then(|| "Interrupted: this is what was measured until then.".to_owned()),
        assertions: report.assertions.clone(),
        tiles,
        charts: charts(report),
        tables: tables(report),
        json: serde_json::to_string(report).unwrap_or_default(),
    }
}

fn player_tiles(players: &PlayersReport) -> Vec<Tile> {
    let shown = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| show_ns(us * 1e3));
    let percent = |ratio: Option<f64>| match ratio {
        Some(ratio) => format!("{:.3}%", ratio * 100.0),
        None => "-".to_owned(),
    };
    vec![
        Tile {
            name: "Startup, p95",
            value: shown(players.startup.p95_us),
            note: format!("half within {}", shown(players.startup.p50_us)),
        },
        Tile {
            name: "Time stalled",
            value: percent(players.stall_ratio),
            note: format!("{} stalls, {:.1}s", players.stalls, players.stalled_s),
        },
        Tile {
            name: "Bit rate",
            value: format!("{}b/s", scaled(players.mean_bitrate_bps.unwrap_or(0.0))),
            note: format!("{} up, {} down", players.switches_up, players.switches_down),
        },
        Tile {
            name: "Players",
            value: players.players.to_string(),
            note: format!("{} started, {} gave up", players.started, players.failed),
        },
    ]
}

/// Who saw what, second by second.
fn players_chart(players: &PlayersReport) -> Chart {
    let line = |name, class, value: fn(&Seconds) -> u64| Line {
        name,
        class,
        values: players.seconds.iter().map(|second| Some(value(second) as f64)).collect(),
    };
    Chart {
        title: "Players",
        unit: Unit::Count,
        filled: true,
        interval_s: 1.0,
        warmup_s: 0.0,
        lines: vec![
            line("playing", "d", |second| second.playing),
            line("starting", "a", |second| second.starting),
            line("stalled", "bad", |second| second.stalled),
        ],
    }
}

fn charts(report: &Report) -> Vec<Chart> {
    let rows = &report.series.rows;
    let line = |name, class, value: fn(&Row) -> Option<f64>| Line {
        name,
        class,
        values: rows.iter().map(value).collect(),
    };
    let chart = |title, unit, filled, lines| Chart {
        title,
        unit,
        filled,
        interval_s: report.series.interval_s,
        warmup_s: report.options.warmup_ms / 1e3,
        lines,
    };
    let lost = |row: &Row| Some(row.errors_per_second + row.not_sent_per_second);
    let players = report.players.as_ref().map(players_chart);
    let requests = vec![
        chart(
            "First byte",
            Unit::Time,
            false,
            vec![
                line("p50", "a", |row| row.first_byte_p50_us),
                line("p99", "b", |row| row.first_byte_p99_us),
                line("p99.9", "c", |row| row.first_byte_p99_9_us),
            ],
        ),
        chart(
            "Response time, from when a request was due",
            Unit::Time,
            false,
            vec![
                line("p50", "a", |row| row.response_time_p50_us),
                line("p99", "b", |row| row.response_time_p99_us),
                line("p99.9", "c", |row| row.response_time_p99_9_us),
            ],
        ),
        chart(
            "Answers",
            Unit::PerSecond,
            true,
            vec![line("answers", "a", |row| Some(row.answers_per_second))],
        ),
        chart(
            "Throughput",
            Unit::BytesPerSecond,
            true,
            vec![line("received", "d", |row| Some(row.received_bytes_per_second))],
        ),
        chart(
            "Errors and requests not sent",
            Unit::PerSecond,
            true,
            vec![line("lost", "bad", lost)],
        ),
        chart(
            "Open connections",
            Unit::Count,
            true,
            vec![line("connections", "d", |row| row.connections.map(|n| n as f64))],
        ),
        chart(
            "CPUs kept busy",
            Unit::Count,
            false,
            [
                line("server", "b", |row| row.server_cpus),
                line("this program", "a", |row| row.client_cpus),
            ]
            .into_iter()
            .filter(|line| line.values.iter().any(Option::is_some))
            .collect(),
        ),
    ];
    players.into_iter().chain(requests).collect()
}

fn tables(report: &Report) -> Vec<Table> {
    let times = |name: &str, times: &TimesReport| {
        let cells = [
            times.min_us,
            times.mean_us,
            times.p50_us,
            times.p90_us,
            times.p99_us,
            times.p99_9_us,
            times.p99_99_us,
            times.max_us,
        ];
        let shown = cells.map(|us| us.map_or_else(|| "-".to_owned(), |us| show_ns(us * 1e3)));
        [vec![name.to_owned()], shown.to_vec()].concat()
    };
    let e = &report.errors;
    let errors = [
        ("connect", e.connect),
        ("timeout", e.timeout),
        ("closed early", e.closed_early),
        ("short body", e.short_body),
        ("malformed", e.malformed),
        ("unanswered", e.unanswered),
        ("status 4xx", e.status_4xx),
        ("status 5xx", e.status_5xx),
        ("not sent", report.not_sent),
    ];
    let mut errors: Vec<Vec<String>> = errors
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| vec![name.to_owned(), count.to_string()])
        .collect();
    errors.extend(report.first_failure.iter().map(|text| vec!["first".to_owned(), text.clone()]));
    let o = &report.options;
    let mut how = vec![
        ("mode", o.mode.to_owned()),
        ("HTTP", o.http.to_owned()),
        ("rate", o.rate_per_second.map_or_else(|| "-".to_owned(), |r| format!("{r}/s"))),
        (
            "connections, streams, threads",
            format!("{}, {}, {}", o.connections, o.streams, o.threads),
        ),
        ("warm-up", show_ns(o.warmup_ms * 1e6)),
        ("timeout", show_ns(o.timeout_ms * 1e6)),
        ("order, seed", format!("{}, {}", o.order, o.seed)),
        ("trust", o.trust.clone()),
    ];
    how.extend(o.connect.iter().map(|address| ("connect", address.clone())));
    how.extend(o.headers.iter().map(|header| ("header", header.clone())));
    how.extend(o.urls.iter().map(|url| ("URL", url.clone())));
    how.push(("tool", format!("{} {}", report.tool.name, report.tool.version)));
    vec![
        Table {
            title: "Times",
            head: vec!["", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"],
            rows: report
                .players
                .iter()
                .map(|players| times("startup", &players.startup))
                .chain([
                    times("first byte", &report.first_byte),
                    times("response time", &report.response_time),
                    times("service time", &report.service_time),
                    times("send delay", &report.send_delay),
                ])
                .collect(),
        },
        Table {
            title: "Answers by status",
            head: vec![],
            rows: report
                .statuses
                .iter()
                .map(|(status, count)| vec![status.to_string(), count.to_string()])
                .collect(),
        },
        Table { title: "Errors by class", head: vec![], rows: errors },
        Table {
            title: "Caches on the way",
            head: vec!["", "hits", "forwarded", "collapsed"],
            rows: report
                .cache
                .tiers
                .iter()
                .map(|(name, tier)| {
                    let forwarded: u64 = tier.forwarded.values().sum();
                    let counts = [tier.hits, forwarded, tier.collapsed].map(|n| n.to_string());
                    [vec![name.clone()], counts.to_vec()].concat()
                })
                .collect(),
        },
        Table {
            title: "How it was run",
            head: vec![],
            rows: how.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect(),
        },
    ]
}

/// A moment as `2026-11-20 10:00:00 UTC`.
pub(crate) fn utc(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Civil date of a day number, in years that begin in March (Howard Hinnant, "chrono-compatible dates").
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
    let second = seconds % 60;
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}
