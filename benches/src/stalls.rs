//! Players behind one narrow link: stalls with and without what they tell (CMCD).
//!
//! The link is a loopback device of a network namespace of its own, shaped by `tbf`: real TCP or QUIC, one queue for all. Players load a
//! film whose highest rendition for all is a set share of the link; an edge has all of it in memory. What it models is the begin
//! of an evening: viewers come at moments of chance within the ramp, each fills a buffer while it plays, and the link carries what
//! all play, with little to spare for what they fill.
//!
//! Must stay true: both manners are measured in every round with the same moments, one after the other, in an order that changes
//! from round to round; the link is shaped after the film is in memory and carries nothing else.

use clap::Args;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{Fleet, FleetOptions};

/// Measures stalls of players behind one narrow link, with and without CMCD.
#[derive(Args, Debug)]
pub struct StallsArgs {
    /// Players; the film's highest bit rate times their number is the load.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    players: u32,
    /// The film's bit rates in kbit/s, rising; with one alone nobody can go to a lower one when the link is short.
    #[arg(long, value_delimiter = ',', default_value = "3000", value_parser = clap::value_parser!(u32).range(100..=100_000))]
    ladder: Vec<u32>,
    /// Load in per cent of the link, when all play the highest.
    #[arg(long, default_value_t = 95, value_parser = clap::value_parser!(u32).range(10..=200))]
    load: u32,
    /// Rounds; in each one both manners are measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds that each viewer watches.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=600))]
    watch: u32,
    /// Seconds until the last viewer has come.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    ramp: u32,
    /// Of the moments at which viewers come; each round has the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds in the buffer at which a player rests.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(4..=120))]
    buffer: u32,
    /// Version of HTTP that players speak; 2 and 3 are over TLS.
    #[arg(long, default_value = "1.1", value_parser = ["1.1", "2", "3"])]
    http: String,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/stalls.json")]
    out: PathBuf,
}

/// Of one of the film's media segments.
const SEGMENT_SECONDS: u32 = 4;
/// Of payload to what a link carries: heads of IP and TCP, acknowledgements, and of HTTP.
const OVERHEAD_PERCENT: u32 = 6;
/// Says that this process is inside the namespace already.
const INSIDE: &str = "TIDEGATE_BENCH_INSIDE";

/// Runs all of it.
///
/// # Errors
/// There is no namespace or shaper to be had, or a player could not play.
pub fn run(args: &StallsArgs) -> Result<(), String> {
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut inside = Command::new("unshare");
        inside.arg("--net").arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        let status = inside.status().map_err(|e| format!("unshare: {e} (package util-linux)"))?;
        return match status.success() {
            true => Ok(()),
            false => Err("the run in a network namespace failed; it needs root".to_owned()),
        };
    }
    tool("ip", &["link", "set", "lo", "mtu", "1500", "up"])?;
    let options = FleetOptions {
        parents: 1,
        edges: 1,
        cores: 1,
        ram_bytes: 256 << 20,
        https: args.http != "1.1",
        ..Default::default()
    };
    let fleet = Fleet::start("bench-stalls", &options);
    let segments = args.watch.div_ceil(SEGMENT_SECONDS) + args.buffer.div_ceil(SEGMENT_SECONDS) + 2;
    let write = |name: &str, text: &str| {
        fs::write(fleet.origin_dir().join(name), text).map_err(|e| format!("{name}: {e}"))
    };
    let mut names = vec!["master.m3u8".to_owned()];
    let mut master = "#EXTM3U\n".to_owned();
    for kbps in &args.ladder {
        let mut media = format!(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{SEGMENT_SECONDS}\n#EXT-X-MEDIA-SEQUENCE:0\n"
        );
        for n in 0..segments {
            let name = format!("film-{kbps}-{n}.ts");
            fleet.put(&name, (kbps * SEGMENT_SECONDS * 125) as usize);
            media += &format!("#EXTINF:{SEGMENT_SECONDS}.0,\n{name}\n");
            names.push(name);
        }
        media += "#EXT-X-ENDLIST\n";
        let name = format!("film-{kbps}.m3u8");
        write(&name, &media)?;
        master += &format!("#EXT-X-STREAM-INF:BANDWIDTH={}\n{name}\n", kbps * 1000);
        names.push(name);
    }
    write("master.m3u8", &master)?;
    for name in &names {
        let answer = fleet.get("edge-1", &format!("/{name}"), "").map_err(|e| e.to_string())?;
        if answer.status != 200 {
            return Err(format!("{name}: status {}", answer.status));
        }
    }
    fleet.settle("edge-1");
    let top_kbps = args.ladder.iter().copied().max().unwrap_or_default();
    let link_kbps = args.players * top_kbps * (100 + OVERHEAD_PERCENT) / args.load;
    let rate = format!("{link_kbps}kbit");
    let shaper = [
        "qdisc", "add", "dev", "lo", "root", "tbf", "rate", &rate, "burst", "32kb", "latency",
        "100ms",
    ];
    tool("tc", &shaper)?;
    println!(
        "{} players of {:?} kbit/s behind {link_kbps} kbit/s: {} % of it",
        args.players, args.ladder, args.load
    );
    let mut results: [Vec<Figure>; 2] = Default::default();
    for round in 0..args.rounds {
        for step in 0..2 {
            let tells = (step + round) % 2 == 1;
            let figure = play(args, &fleet, tells, args.seed + u64::from(round))?;
            println!(
                "  round {:>2}, {:<12} {:>4} stalls, {:>7.2} s stalled ({:.3} %), startup p50 {:.2} s, p95 {:.2} s, {:.2} Mbit/s, \
                 {} answers lent",
                round + 1,
                name_of(tells),
                figure.stalls,
                figure.stalled_s,
                figure.stalled_s * 100.0 / (figure.stalled_s + figure.played_s).max(0.001),
                figure.startup_p50_s,
                figure.startup_p95_s,
                figure.mean_mbps,
                figure.lent
            );
            results[usize::from(tells)].push(figure);
        }
    }
    println!("\nMedian of {} rounds, and the least and greatest", args.rounds);
    for (tells, figures) in [false, true].into_iter().zip(&results) {
        let spread = |of: fn(&Figure) -> f64| {
            let mut all: Vec<f64> = figures.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            format!("{:.2} ({:.2} to {:.2})", all[all.len() / 2], all[0], all[all.len() - 1])
        };
        println!(
            "  {:<12} stalls {}, seconds stalled {}, startup p50 {} s, p95 {} s, Mbit/s {}",
            name_of(tells),
            spread(|f| f.stalls as f64),
            spread(|f| f.stalled_s),
            spread(|f| f.startup_p50_s),
            spread(|f| f.startup_p95_s),
            spread(|f| f.mean_mbps)
        );
    }
    let [without, with] = results.map(|figures| {
        figures.iter().map(|f| f.report.clone()).collect::<Vec<serde_json::Value>>()
    });
    let report = serde_json::json!({
        "machine": crate::cpu::machine(), "source": crate::report::source(), "players": args.players,
        "load_percent": args.load, "link_kbps": link_kbps, "bitrates_kbps": args.ladder, "seed": args.seed,
        "http": args.http,
        "without": without, "with": with,
    });
    if let Some(dir) = args.out.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::write(&args.out, format!("{report:#}"))
        .map_err(|e| format!("{}: {e}", args.out.display()))?;
    println!("\nReport: {}", args.out.display());
    Ok(())
}

fn name_of(tells: bool) -> &'static str {
    if tells { "with CMCD" } else { "without" }
}

struct Figure {
    stalls: u64,
    stalled_s: f64,
    played_s: f64,
    startup_p50_s: f64,
    startup_p95_s: f64,
    mean_mbps: f64,
    lent: u64,
    report: serde_json::Value,
}

/// One crowd of players.
fn play(args: &StallsArgs, fleet: &Fleet, tells: bool, seed: u64) -> Result<Figure, String> {
    let json = fleet.dir.join("play.json");
    let member = fleet.member("edge-1");
    let (scheme, address) = match &args.http[..] {
        "1.1" => ("http", member.http()),
        _ => ("https", member.https()),
    };
    let mut players = Command::new(binary("tidegate-load"));
    players
        .arg("play")
        .arg(format!("{scheme}://{HOST}/master.m3u8"))
        .args(["--http", &args.http, "--insecure"])
        .args(["--connect", &address.to_string(), "--quiet", "--timeout", "60s"])
        .args(["--players", &args.players.to_string(), "--ramp", &format!("{}s", args.ramp)])
        .args(["--watch", &format!("{}s", args.watch), "--buffer", &format!("{}s", args.buffer)])
        .args(["--seed", &seed.to_string()])
        .arg("--json")
        .arg(&json)
        .stdout(Stdio::null());
    if tells {
        players.arg("--cmcd");
    }
    let paced = fleet.counter("edge-1", "paced_answers_total");
    let lent = fleet.counter("edge-1", "lent_answers_total");
    let status = players.status().map_err(|e| format!("tidegate-load: {e}"))?;
    if !status.success() {
        return Err(format!("tidegate-load: {status}"));
    }
    if (fleet.counter("edge-1", "paced_answers_total") > paced) != tells {
        return Err("the edge did not hear what players tell, or heard what they did not".into());
    }
    let text = fs::read(&json).map_err(|e| format!("{}: {e}", json.display()))?;
    let report: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let of = &report["players"];
    let number = |name: &str| of[name].as_f64().ok_or(format!("the report has no {name}"));
    if number("started")? < f64::from(args.players) || number("failed")? > 0.0 {
        return Err(format!("not everybody could play: {of}"));
    }
    Ok(Figure {
        stalls: number("stalls")? as u64,
        stalled_s: number("stalled_s")?,
        played_s: number("played_s")?,
        startup_p50_s: of["startup"]["p50_us"].as_f64().unwrap_or(f64::NAN) / 1e6,
        startup_p95_s: of["startup"]["p95_us"].as_f64().unwrap_or(f64::NAN) / 1e6,
        mean_mbps: number("mean_bitrate_bps")? / 1e6,
        lent: fleet.counter("edge-1", "lent_answers_total") - lent,
        report: of.clone(),
    })
}

fn tool(name: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(name)
        .args(arguments)
        .output()
        .map_err(|e| format!("{name}: {e} (package iproute2)"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
