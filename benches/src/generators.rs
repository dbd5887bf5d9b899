//! The load harness beside other generators: wrk over HTTP/1.1, h2load over HTTP/2, against the same nginx.
//!
//! Each asks for one object of 1 KiB as fast as answers come, with the same connections and streams, one after the
//! other in every round, on a core of its own. Compared are what each says of the answers' times and the CPU time
//! that its own process took for a request. h2load tells single times only into a file, which costs it CPU time; so
//! it runs twice: once for the times, once for the CPU time.
//!
//! Must stay true: all answers are good, or the run ends with an error; ratios are taken within a round.

use crate::nginx;
use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Measures tidegate-load beside wrk and h2load: times of answers and CPU time per request.
#[derive(Args, Debug)]
pub struct GeneratorArgs {
    /// Rounds; in each one every generator runs once for each case.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Core of the server.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the generators.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/load.json")]
    out: PathBuf,
}

/// Requests under way at once, over either version.
const CONNECTIONS_HTTP1: u32 = 64;
const CONNECTIONS_HTTP2: u32 = 8;
const STREAMS_HTTP2: u32 = 8;
const OBJECT_BYTES: usize = 1024;

/// What one generator said and took.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figure {
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

/// Runs all of it.
///
/// # Errors
/// A program is missing, or an answer was no good one.
pub fn run(args: &GeneratorArgs) -> Result<(), String> {
    crate::cpu::check_cores(args.server_core, args.load_core)?;
    let dir = std::env::temp_dir().join(format!("tidegate-bench-load-{}", std::process::id()));
    let server = Server::start(&dir, args.server_core)?;
    let bench = Bench { args, dir: &dir, server: &server };
    let mut rounds = Vec::new();
    let mut ratios: [Vec<[f64; 3]>; 2] = Default::default();
    for round in 0..args.rounds {
        for (at, name) in ["wrk", "h2load"].into_iter().enumerate() {
            // Each round begins with the other one.
            let (own, peer) = if round % 2 == 0 {
                let own = bench.own(at == 1)?;
                (own, bench.peer(at == 1)?)
            } else {
                let peer = bench.peer(at == 1)?;
                (bench.own(at == 1)?, peer)
            };
            println!(
                "  {name:<7} p50 {:>7.0} us, p99 {:>7.0} us, {:>6.2} CPU-us/request; tidegate-load \
                 p50 {:>7.0} us, p99 {:>7.0} us, {:>6.2} CPU-us/request",
                peer.p50_us, peer.p99_us, peer.cpu_us, own.p50_us, own.p99_us, own.cpu_us
            );
            let ratio =
                [own.p50_us / peer.p50_us, own.p99_us / peer.p99_us, own.cpu_us / peer.cpu_us];
            ratios[at].push(ratio);
            rounds.push(serde_json::json!({
                "round": round, "beside": name, "p50_ratio": ratio[0], "p99_ratio": ratio[1],
                "cpu_ratio": ratio[2], "own_cpu_us": own.cpu_us, "peer_cpu_us": peer.cpu_us,
            }));
        }
    }
    println!("\ntidegate-load, as a multiple (median of {} rounds)", args.rounds);
    for (name, of) in ["wrk, HTTP/1.1", "h2load, HTTP/2"].into_iter().zip(&ratios) {
        let [p50, p99, cpu] = [0, 1, 2].map(|at| median(of.iter().map(|ratio| ratio[at])));
        println!("  of {name:<15} p50 {p50:.2}, p99 {p99:.2}, CPU time per request {cpu:.2}");
    }
    let report = serde_json::json!({
        "machine": crate::cpu::machine(), "source": crate::report::source(), "rounds": rounds,
    });
    if let Some(dir) = args.out.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::write(&args.out, format!("{report:#}"))
        .map_err(|e| format!("{}: {e}", args.out.display()))?;
    println!("\nReport: {}", args.out.display());
    drop(server);
    let _removed = fs::remove_dir_all(&dir);
    Ok(())
}

/// The one in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// nginx with one worker, HTTP/1.1 on one port and HTTP/2 with prior knowledge on another.
struct Server {
    child: Child,
    http1: SocketAddr,
    http2: SocketAddr,
}

impl Server {
    fn start(dir: &Path, core: usize) -> Result<Server, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
        fs::create_dir_all(dir.join("tmp")).map_err(failed)?;
        fs::write(dir.join("object"), vec![b'x'; OBJECT_BYTES]).map_err(failed)?;
        let free = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            listener.and_then(|l| l.local_addr()).map_err(|e| format!("no free port: {e}"))
        };
        let (http1, http2, at) = (free()?, free()?, dir.display());
        let text = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log stderr error; user root;\n\
             events {{ worker_connections 8192; }}\n\
             http {{\n\
               access_log off; sendfile on; tcp_nodelay on; open_file_cache max=100 inactive=60s;\n\
               keepalive_requests 1000000000; keepalive_timeout 75s;\n\
               client_body_temp_path {at}/tmp/b; proxy_temp_path {at}/tmp/p; fastcgi_temp_path {at}/tmp/f;\n\
               uwsgi_temp_path {at}/tmp/u; scgi_temp_path {at}/tmp/s;\n\
               server {{ listen {http1}; listen {http2} http2; root {at}; }}\n\
             }}\n"
        );
        let path = dir.join("nginx.conf");
        fs::write(&path, text).map_err(failed)?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(nginx::program())
            .args(["-e", "stderr", "-p"])
            .arg(dir)
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("nginx cannot be started: {e}"))?;
        let server = Server { child, http1, http2 };
        let begun = Instant::now();
        while TcpStream::connect(http2).is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err("nginx does not listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // TERM, so that the master ends its worker.
        let _gone = Command::new("kill").arg(self.child.id().to_string()).status();
        let _gone = self.child.wait();
    }
}

struct Bench<'a> {
    args: &'a GeneratorArgs,
    dir: &'a Path,
    server: &'a Server,
}

impl Bench<'_> {
    fn url(&self, http2: bool) -> String {
        let address = if http2 { self.server.http2 } else { self.server.http1 };
        format!("http://{address}/object")
    }

    /// What a program said, and the CPU seconds that it took.
    fn timed(&self, program: &Path, arguments: &[&str]) -> Result<(String, f64), String> {
        let before = children_cpu_s();
        let output = Command::new("taskset")
            .args(["-c", &self.args.load_core.to_string()])
            .arg(program)
            .args(arguments)
            .output()
            .map_err(|e| format!("{} cannot be run: {e}", program.display()))?;
        let spent = children_cpu_s() - before;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {said}{why}", program.display()));
        }
        Ok((said, spent))
    }

    fn own(&self, http2: bool) -> Result<Figure, String> {
        let (json, url) = (self.dir.join("own.json"), self.url(http2));
        let (path, seconds) = (json.display().to_string(), format!("{}s", self.args.seconds));
        let mut arguments = vec!["run", "--closed", "--quiet", "--assert", "errors == 0"];
        arguments.extend(["--url", &url, "--duration", &seconds, "--json", &path]);
        let (connections, streams) = match http2 {
            false => (CONNECTIONS_HTTP1, 1),
            true => (CONNECTIONS_HTTP2, STREAMS_HTTP2),
        };
        let (connections, streams) = (connections.to_string(), streams.to_string());
        let version = if http2 { "2" } else { "1.1" };
        arguments.extend(["--http", version, "--connections", &connections, "--streams", &streams]);
        let (_, cpu_s) = self.timed(&crate::own::program("tidegate-load")?, &arguments)?;
        let text = fs::read_to_string(&json).map_err(|e| format!("{path}: {e}"))?;
        let report: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| format!("{path}: {e}"))?;
        let number = |value: &serde_json::Value| {
            value.as_f64().ok_or_else(|| format!("{path}: a number is missing"))
        };
        Ok(Figure {
            p50_us: number(&report["service_time"]["p50_us"])?,
            p99_us: number(&report["service_time"]["p99_us"])?,
            cpu_us: cpu_s * 1e6 / number(&report["answers"])?,
        })
    }

    fn peer(&self, http2: bool) -> Result<Figure, String> {
        let url = self.url(http2);
        if http2 { self.h2load(&url) } else { self.wrk(&url) }
    }

    fn wrk(&self, url: &str) -> Result<Figure, String> {
        let (connections, seconds) =
            (CONNECTIONS_HTTP1.to_string(), format!("{}s", self.args.seconds));
        let arguments = ["-t", "1", "-c", &connections, "-d", &seconds, "--latency", url];
        let (said, cpu_s) = self.timed(Path::new("wrk"), &arguments)?;
        read_wrk(&said, cpu_s).ok_or_else(|| format!("wrk said nothing to count: {said}"))
    }

    fn h2load(&self, url: &str) -> Result<Figure, String> {
        let [connections, streams, seconds] =
            [CONNECTIONS_HTTP2, STREAMS_HTTP2, self.args.seconds].map(|n| n.to_string());
        let arguments = ["-c", &connections, "-m", &streams, "-D", &seconds, url];
        let (said, cpu_s) = self.timed(Path::new("h2load"), &arguments)?;
        let unread = || format!("h2load said nothing to count: {said}");
        let answers = h2load_answers(&said).ok_or_else(unread)?;
        let log = self.dir.join("h2load.log");
        let _absent = fs::remove_file(&log);
        let path = format!("--log-file={}", log.display());
        self.timed(Path::new("h2load"), &[&[path.as_str()], &arguments[..]].concat())?;
        let text = fs::read_to_string(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let mut times = h2load_times(&text);
        times.sort_by(f64::total_cmp);
        let percentile = |share: f64| times.get((times.len() as f64 * share) as usize).copied();
        let (p50_us, p99_us) = percentile(0.5).zip(percentile(0.99)).ok_or_else(unread)?;
        Ok(Figure { p50_us, p99_us, cpu_us: cpu_s * 1e6 / answers })
    }
}

/// CPU seconds of all programs that this one has waited for.
fn children_cpu_s() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return 0.0 };
    [usage.user_time(), usage.system_time()]
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .iter()
        .sum()
}

/// wrk's summary with `--latency`; `None` when it cannot be read or something failed.
fn read_wrk(text: &str, cpu_s: f64) -> Option<Figure> {
    let outcome = crate::wrk::Outcome::read(text)?;
    let percentile = |name: &str| {
        let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(name))?;
        crate::wrk::seconds(line.trim()).map(|seconds| seconds * 1e6)
    };
    (outcome.failed == 0 && outcome.requests > 0).then_some(())?;
    Some(Figure {
        p50_us: percentile("50%")?,
        p99_us: percentile("99%")?,
        cpu_us: cpu_s * 1e6 / outcome.requests as f64,
    })
}

/// Good answers that h2load counted; `None` when there were others.
pub fn h2load_answers(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |name: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(name))?;
        part.trim().parse::<f64>().ok()
    };
    (count(" failed")? == 0.0 && count(" succeeded")? > 0.0).then(|| count(" succeeded"))?
}

/// Microseconds of each request in h2load's file: moment, status, time.
fn h2load_times(text: &str) -> Vec<f64> {
    let line = |line: &str| {
        let mut columns = line.split('\t');
        let (_, status, time) = (columns.next()?, columns.next()?, columns.next()?);
        (status == "200").then(|| time.trim().parse().ok())?
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_others_say_is_read() {
        let wrk = "  Latency Distribution\n     50%    2.46ms\n     75%    3.00ms\n     90%    4.00ms\n\
                   \x20    99%  224.08us\n  1000 requests in 3.00s, 1MB read\nRequests/sec: 333\n";
        let figure = read_wrk(wrk, 0.01).unwrap();
        assert!((figure.p50_us - 2460.0).abs() < 1e-6 && (figure.p99_us - 224.08).abs() < 1e-6);
        assert!((figure.cpu_us - 10.0).abs() < 1e-6);
        let failed = format!("{wrk}  Non-2xx or 3xx responses: 5\n");
        assert_eq!(read_wrk(&failed, 0.01), None);

        let line = "requests: 20 total, 20 started, 20 done, 20 succeeded, 0 failed, 0 errored, 0 timeout\n";
        assert_eq!(h2load_answers(line), Some(20.0));
        assert_eq!(h2load_answers(&line.replace("0 failed", "1 failed")), None);
        assert_eq!(h2load_answers("nothing"), None);
        let log =
            "1795132800000000\t200\t504\n1795132800000100\t-1\t9\n1795132800000100\t200\t41\nx\n";
        assert_eq!(h2load_times(log), [504.0, 41.0]);
    }
}
