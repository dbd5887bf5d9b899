//! Goal: what the harness reports is what the server saw.
//! Method: a server by hand in this process, the run through the library or through the real binary.

mod play;
mod support;

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{After, DeadPort, Gate, Server, ok};
use tidegate_load::client::{Connection, Endpoint};
use tidegate_load::options::Options;
use tidegate_load::pick::Order;
use tidegate_load::report::Report;
use tidegate_load::run::{ENDPOINTS_MAX, Progress, run};
use tidegate_load::schedule::Rate;
use tidegate_load::tls::Trust;

fn run_until(options: &Options, stop: impl Future<Output = ()>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(options, stop, |_: &Progress| {})).unwrap()
}

fn run_all(options: &Options) -> Report {
    run_until(options, pending())
}

fn closed(url: String, requests: u64, connections: usize) -> Options {
    Options { urls: vec![url], requests: Some(requests), connections, ..Options::default() }
}

fn open(url: String, requests: u64, connections: usize, rate: f64) -> Options {
    Options { rate: Some(Rate::per_second(rate).unwrap()), ..closed(url, requests, connections) }
}

/// Every request is in exactly one place of the report.
fn adds_up(report: &Report) {
    let e = &report.errors;
    let classes = [e.connect, e.timeout, e.closed_early, e.short_body, e.malformed, e.unanswered];
    let unanswered: u64 = classes.iter().sum();
    assert_eq!(report.requests, report.answers + unanswered + report.not_sent, "{report}");
    assert_eq!(report.answers, report.ok + e.status_4xx + e.status_5xx, "{report}");
    assert_eq!(e.total, unanswered + e.status_4xx + e.status_5xx, "{report}");
    assert_eq!(report.sent, report.requests - report.not_sent - e.connect, "{report}");
}

#[test]
fn n_requests_are_n_requests() {
    for (threads, connections, rate) in
        [(1, 1, None), (1, 7, None), (2, 8, Some(2000.0)), (3, 2, Some(5000.0))]
    {
        let server = Server::start(|_| ok("hello"));
        let options = Options {
            threads,
            rate: rate.map(|r| Rate::per_second(r).unwrap()),
            ..closed(server.url("/x"), 500, connections)
        };
        let report = run_all(&options);
        adds_up(&report);
        assert_eq!((server.requests(), report.requests, report.ok), (500, 500, 500));
        assert_eq!(report.bytes.body, 500 * 5);
        assert_eq!(report.statuses, BTreeMap::from([(200, 500)]));
        assert_eq!((report.errors.total, report.not_sent, report.connections.reopened), (0, 0, 0));
        assert_eq!(report.connections.opened, server.connections());
        assert!(report.connections.opened <= connections as u64);
        for times in
            [&report.response_time, &report.service_time, &report.first_byte, &report.send_delay]
        {
            assert_eq!(times.count, 500);
        }
        assert!(report.service_time.max_us <= report.response_time.max_us);
    }
}

/// The answer to request 20 is held until request 120 has been due for a while: all who were due meanwhile
/// waited at least until that moment, which is known exactly, and the report must say so.
#[test]
fn a_stalled_server_shows_in_the_response_times_of_all_who_were_due() {
    let period = Duration::from_millis(2);
    let (stalled, last, all) = (20u64, 120u64, 200u64);
    let server = Server::start(move |asked| {
        if asked.number == stalled {
            // At least 100 slots pass: the stall is the load itself, nothing is synchronised by it.
            std::thread::sleep(period * (last - stalled) as u32);
        }
        ok("x")
    });
    let report = run_all(&open(server.url("/"), all, 1, 500.0));
    adds_up(&report);
    assert_eq!((report.ok, server.requests()), (all, all));
    // Slots 20 to 120: the one of place i waited (120 - i) periods or more. The 41 first of them, more than a
    // fifth of all, waited 60 periods or more.
    let least = |periods: u64| Some((period * periods as u32).as_secs_f64() * 1e6 * 0.998);
    assert!(report.response_time.max_us >= least(100), "{report}");
    assert!(report.response_time.p90_us >= least(80), "{report}");
    assert!(report.send_delay.p90_us >= least(79), "{report}");
    // Sent late, but answered fast: from the moment of sending, the stall is one request's.
    assert!(report.service_time.max_us >= least(100), "{report}");
    assert!(report.service_time.p90_us < report.response_time.p90_us, "{report}");
    assert!(report.service_time.p50_us < least(50), "{report}");
}

#[test]
fn closed_connections_are_opened_again() {
    let server = Server::start(|asked| {
        let (bytes, _) = ok("x");
        // Announced or not: the next request gets a new connection.
        (bytes, if asked.number % 10 == 9 { After::Close } else { After::Keep })
    });
    let announced = Server::start(|_| {
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx".to_vec(),
            After::Close,
        )
    });
    let report = run_all(&closed(announced.url("/"), 30, 1));
    adds_up(&report);
    assert_eq!((report.ok, report.connections.opened, report.connections.reopened), (30, 30, 29));

    let report = run_all(&closed(server.url("/"), 100, 1));
    adds_up(&report);
    // A close that nobody announced may cross the next request on its way; then that one is an error, once.
    assert_eq!(report.ok + report.errors.closed_early, 100, "{report}");
    assert_eq!(server.connections(), report.connections.opened);
    assert!(report.connections.reopened >= 9, "{report}");
}

#[test]
fn bodies_of_all_kinds_are_read_to_their_end() {
    let server = Server::start(|asked| {
        match asked.target.as_str() {
        "/chunked" => (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
                .to_vec(),
            After::Keep,
        ),
        "/until-close" => (b"HTTP/1.1 200 OK\r\n\r\nabcdefg".to_vec(), After::Close),
        "/nothing" => (b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), After::Keep),
        "/large" => ok(&"y".repeat(1 << 20)),
        _ => (b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno".to_vec(), After::Keep),
    }
    });
    let urls = ["/chunked", "/until-close", "/nothing", "/large", "/other"];
    let options = Options {
        urls: urls.iter().map(|target| server.url(target)).collect(),
        ..closed(String::new(), 50, 2)
    };
    let report = run_all(&options);
    adds_up(&report);
    assert_eq!(report.statuses, BTreeMap::from([(200, 30), (204, 10), (404, 10)]));
    assert_eq!((report.ok, report.errors.total, report.errors.status_4xx), (40, 10, 10));
    assert_eq!(report.bytes.body, 10 * (7 + 7 + (1 << 20) + 2));
    assert_eq!(server.requests(), 50);
}

#[test]
fn bad_answers_are_counted_in_their_class() {
    let answer = |bytes: &'static [u8]| Server::start(move |_| (bytes.to_vec(), After::Close));
    let cases: [(&[u8], &str); 9] = [
        (b"", "closed_early"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "closed_early"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "short_body"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", "short_body"),
        (b"\x16\x03\x01\x00\x00 what is this", "malformed"),
        (b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more", "malformed"),
    ];
    for (bytes, class) in cases {
        let report = run_all(&closed(answer(bytes).url("/"), 5, 1));
        adds_up(&report);
        let e = &report.errors;
        let count = match class {
            "closed_early" => e.closed_early,
            "short_body" => e.short_body,
            _ => e.malformed,
        };
        assert_eq!((count, e.total, report.ok), (5, 5, 0), "{class}: {report}");
        assert!(report.first_failure.is_some());
    }
    let refused = answer(
        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    );
    let report = run_all(&closed(refused.url("/"), 5, 1));
    adds_up(&report);
    assert_eq!((report.errors.status_5xx, report.answers), (5, 5));
}

#[test]
fn a_server_that_never_answers_is_a_timeout() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let server = Server::start(move |_| {
        held.wait();
        ok("late")
    });
    let options = Options { timeout: Duration::from_millis(50), ..closed(server.url("/"), 4, 2) };
    let report = run_all(&options);
    gate.open();
    adds_up(&report);
    assert_eq!((report.errors.timeout, report.ok, report.response_time.count), (4, 0, 4));
    assert!(report.response_time.min_us >= Some(49_000.0), "{report}");
}

#[test]
fn what_could_not_be_sent_is_reported() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let server = Server::start(move |_| {
        held.wait();
        ok("late")
    });
    let options =
        Options { drain: Duration::from_millis(50), ..open(server.url("/"), 100, 2, 1000.0) };
    let report = run_all(&options);
    gate.open();
    adds_up(&report);
    assert_eq!((report.requests, report.sent, report.not_sent), (100, 2, 98));
    assert_eq!((report.errors.unanswered, report.errors.total, server.requests()), (2, 2, 2));
    // They waited at least for the drain time, and the response times know it.
    assert_eq!(report.response_time.count, 100);
    assert!(report.response_time.min_us >= Some(50_000.0), "{report}");

    let report = run_all(&Options { backlog_max: 10, ..options });
    adds_up(&report);
    assert_eq!((report.requests, report.not_sent + report.sent), (100, 100));
}

#[test]
fn a_stop_ends_the_run_with_a_report() {
    let (asked, stop) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let (seen, held) = (Arc::clone(&asked), Arc::clone(&stop));
    let server = Server::start(move |request| {
        if request.number == 10 {
            seen.open();
            held.wait();
        }
        ok("x")
    });
    let stopping = async {
        tokio::task::spawn_blocking(move || asked.wait()).await.unwrap();
    };
    let day = Some(Duration::from_secs(86_400));
    let options = Options { requests: None, duration: day, ..closed(server.url("/"), 1, 1) };
    let began = Instant::now();
    let report = run_until(&options, stopping);
    stop.open();
    adds_up(&report);
    assert!(report.interrupted && began.elapsed() < Duration::from_secs(3600));
    assert_eq!((report.ok, report.errors.unanswered, report.requests), (10, 1, 11));
    assert!(report.elapsed_us < 3600e6);
}

#[test]
fn the_warm_up_is_asked_and_not_counted() {
    let server = Server::start(|_| ok("x"));
    let warmup = Duration::from_millis(100);
    let report = run_all(&Options { warmup, ..open(server.url("/"), 50, 2, 500.0) });
    adds_up(&report);
    assert_eq!((report.requests, report.warmup_requests, server.requests()), (50, 50, 100));
    assert_eq!((report.response_time.count, report.bytes.body), (50, 50));
    assert!(report.elapsed_us >= 100_000.0);
}

#[test]
fn the_seed_decides_what_is_asked() {
    let sequence = |seed| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        let server = Server::start(move |asked| {
            kept.lock().unwrap().push(asked.target.clone());
            ok("x")
        });
        let urls = (0..20).map(|n| server.url(&format!("/{n}"))).collect();
        let options =
            Options { urls, order: Order::Zipf(1.0), seed, ..closed(String::new(), 100, 1) };
        adds_up(&run_all(&options));
        Arc::try_unwrap(log)
            .map_or_else(|log| log.lock().unwrap().clone(), |log| log.into_inner().unwrap())
    };
    assert_eq!(sequence(5), sequence(5));
    assert_ne!(sequence(5), sequence(6));
}

#[test]
fn requests_carry_the_host_and_the_fields() {
    let server = Server::start(|asked| {
        let has = |line: &str| asked.lines.iter().any(|l| l == line);
        let good = asked.lines[0] == "GET /a?b=c HTTP/1.1"
            && has("host: film.example")
            && has("range: bytes=0-9")
            && asked.lines.iter().any(|l| l.starts_with("user-agent: tidegate-load/"));
        let hit = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\
                   cache-status: parent; fwd=uri-miss, edge-a; hit\r\n\r\n";
        let bad = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        (if good { hit } else { bad }.as_bytes().to_vec(), After::Keep)
    });
    let options = Options {
        connect: Some(server.address),
        headers: vec!["Range: bytes=0-9".to_owned()],
        ..closed("http://film.example/a?b=c".to_owned(), 10, 1)
    };
    let report = run_all(&options);
    adds_up(&report);
    assert_eq!((report.ok, report.cache.hit_ratio), (10, Some(1.0)));
    assert_eq!(report.cache.tiers["edge-a"].hits, 10);
    // Another host at the same address needs no connection of its own.
    assert_eq!(server.connections(), 1);
    let other = Options { headers: vec!["Host: film.example".to_owned()], ..options };
    assert_eq!(run_all(&other).errors.status_4xx, 10);
}

#[test]
fn urls_of_several_servers_reach_each() {
    let servers: Vec<Server> = (0..3).map(|_| Server::start(|_| ok("x"))).collect();
    let urls = servers.iter().map(|server| server.url("/")).collect();
    let report = run_all(&Options { urls, ..closed(String::new(), 90, 2) });
    adds_up(&report);
    assert_eq!(report.ok, 90);
    for server in &servers {
        assert_eq!(server.requests(), 30);
        assert!(server.connections() <= 2);
    }
    let urls =
        (0..=ENDPOINTS_MAX).map(|port| format!("http://127.0.0.1:{}/", 1000 + port)).collect();
    let options = Options { urls, ..closed(String::new(), 1, 1) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(run(&options, pending(), |_: &Progress| {})).unwrap_err();
    assert!(refused.to_string().contains("more than 64 hosts"), "{refused}");
}

fn certificate() -> (Arc<rustls::ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["film.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), made.cert.pem())
}

fn temporary(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    dir.join(format!("{}-{name}", std::process::id()))
}

#[test]
fn https_is_checked_unless_told_otherwise() {
    let (config, pem) = certificate();
    let ca = temporary("ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let server = Server::start_tls(config, |asked| match asked.target.as_str() {
        // More than one TLS record and more than one read.
        "/large" => ok(&"y".repeat(300_000)),
        "/cut" => (b"HTTP/1.1 200 OK\r\n\r\nabcdefg".to_vec(), After::Close),
        _ => ok("x"),
    });
    let options = Options {
        connect: Some(server.address),
        trust: Trust::File(ca.clone()),
        urls: vec!["https://film.example/".to_owned(), "https://film.example/large".to_owned()],
        ..closed(String::new(), 40, 2)
    };
    let report = run_all(&options);
    adds_up(&report);
    assert_eq!((report.ok, report.bytes.body), (40, 20 * 300_001), "{report}");
    assert_eq!(report.connections.opened, 2);

    // RFC 9112 section 9.8: without TLS's own end, nobody knows whether the body is whole.
    let cut = vec!["https://film.example/cut".to_owned()];
    let report = run_all(&Options { urls: cut, requests: Some(3), ..options.clone() });
    adds_up(&report);
    assert_eq!((report.errors.short_body, report.ok), (3, 0), "{report}");

    let other = vec!["https://other.example/".to_owned()];
    let report = run_all(&Options { urls: other.clone(), requests: Some(1), ..options.clone() });
    adds_up(&report);
    assert_eq!((report.errors.connect, report.ok), (1, 0), "{report}");
    assert!(report.nothing_ran() && report.first_failure.is_some());

    let report = run_all(&Options { urls: other, trust: Trust::Anyone, ..options });
    assert_eq!(report.ok, 40, "{report}");
    std::fs::remove_file(ca).unwrap();
}

fn binary(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
    command.arg("run").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn assertions_decide_the_exit_code() {
    let server = Server::start(|_| ok("x"));
    let url = server.url("/");
    let base = ["--url", &url, "--rate", "1000", "--requests", "200", "--connections", "4"];
    let good = [&base[..], &["--assert", "errors == 0", "--assert", "status.200 == 200"]].concat();
    let output = binary(&good);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for word in ["response_time", "service_time", "p99.9", "200 ok", "held   errors == 0"] {
        assert!(table.contains(word), "{word} is not in:\n{table}");
    }
    let bad = [&base[..], &["--quiet", "--assert", "errors == 0", "--assert", "hit_ratio >= 0.9"]]
        .concat();
    let output = binary(&bad);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let told = text(&output.stderr);
    assert!(
        told.contains("hit_ratio >= 0.9: it is no value: no answer carried Cache-Status"),
        "{told}"
    );
    assert_eq!(server.requests(), 400);
}

#[test]
fn the_json_report_has_its_fields() {
    let server = Server::start(|_| ok("hello"));
    let urls = temporary("urls");
    std::fs::write(&urls, format!("# films\n\n{}\n{}\n", server.url("/1"), server.url("/2")))
        .unwrap();
    let file = urls.display().to_string();
    let output = binary(&[
        "--urls",
        &file,
        "--order",
        "random",
        "--seed",
        "9",
        "--closed",
        "--requests",
        "20",
        "--json",
        "-",
        "--assert",
        "service_time.p50 < 1h",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["tool"]["name"], "tidegate-load");
    assert_eq!(json["requests"], 20);
    assert_eq!(json["statuses"]["200"], 20);
    assert_eq!(json["bytes"]["body"], 100);
    assert_eq!(json["options"]["seed"], 9);
    assert_eq!(json["options"]["url_count"], 2);
    assert_eq!(json["options"]["mode"], "closed");
    assert_eq!(json["response_time"]["count"], 20);
    assert!(json["response_time"]["p99_9_us"].as_f64().unwrap() > 0.0);
    assert!(json["started_unix_ms"].as_u64().unwrap() > 0);
    assert_eq!(json["assertions"][0]["held"], true);
    assert_eq!(json["assertions"][0]["unit"], "us");
    // The table goes where the JSON does not.
    assert!(text(&output.stderr).contains("response_time"));
    // Every field is explained.
    let readme = include_str!("../README.md");
    for field in json.as_object().unwrap().keys() {
        assert!(readme.contains(&format!("`{field}`")), "README.md does not tell of `{field}`");
    }
    std::fs::remove_file(urls).unwrap();
}

#[test]
fn wrong_command_lines_say_what_is_wrong() {
    let run = ["--closed", "--requests", "1"];
    let cases: [(&[&str], &str); 15] = [
        (&["--url", "http://a/", "--timeout", "0s"], "--timeout is longer than nothing"),
        (&[], "--url"),
        (&["--url", "ftp://a/"], "http:// or https://"),
        (&["--url", "http://a/b c"], "character 11 must be percent-encoded"),
        (&["--url", "http://a/", "--rate", "5"], "--closed"),
        (&["--url", "http://a/", "--warmup", "5"], "a time needs a unit"),
        (&["--url", "http://a/", "--connections", "0"], "--connections is from 1 to"),
        (&["--url", "http://a/", "--threads", "9999"], "--threads is from 1 to"),
        (&["--url", "http://a/", "--order", "zipf"], "zipf:S"),
        (&["--url", "http://a/", "--header", "x"], "'Name: value'"),
        (&["--url", "http://127.0.0.1/", "--header", "Content-Length: 5"], "no body"),
        (&["--url", "http://a/", "--assert", "response_tme.p99 < 5ms"], "character 1: there is no"),
        (&["--url", "http://a/", "--assert", "errors = 0"], "character 8"),
        (&["--urls", "/does/not/exist"], "/does/not/exist"),
        (&["--url", "https://127.0.0.1/", "--ca", "/does/not/exist"], "--insecure"),
    ];
    for (arguments, told) in cases {
        let output = binary(&[arguments, &run].concat());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(told), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    let output = binary(&["--url", "http://a/", "--closed"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--duration"));
    let output = binary(&["--url", "http://a/", "--rate", "0", "--requests", "1"]);
    assert!(text(&output.stderr).contains("from 0.001"));
}

#[test]
fn a_dead_server_is_nothing_to_measure() {
    let port = DeadPort::take();
    let url = format!("http://{}/", port.address);
    let output = binary(&["--url", &url, "--rate", "100", "--requests", "3", "--json", "-"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("nothing could be run: no connection to"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["errors"]["connect"], &json["requests"]), (&3.into(), &3.into()));
}

#[test]
fn ctrl_c_ends_the_binary_with_a_report() {
    let gate = Arc::new(Gate::default());
    let seen = Arc::clone(&gate);
    let server = Server::start(move |asked| {
        if asked.number == 20 {
            seen.open();
        }
        ok("x")
    });
    let url = server.url("/");
    let child = Command::new(env!("CARGO_BIN_EXE_tidegate-load"))
        .args([
            "run",
            "--quiet",
            "--url",
            &url,
            "--rate",
            "200",
            "--duration",
            "24h",
            "--json",
            "-",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    gate.wait();
    let id = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["interrupted"], true);
    // 21 were asked on 10 connections, each of which asks again only after its answer.
    assert!(json["ok"].as_u64().unwrap() >= 11);
}

/// Waits for the network, not for a time: the verdict must come.
fn becomes_stale(connection: &mut Connection) -> bool {
    let patience = Instant::now() + Duration::from_secs(60);
    while Instant::now() < patience {
        if connection.is_stale() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn an_idle_connection_that_ended_or_speaks_is_stale() {
    // Two threads, so that the runtime sees the network while the test looks.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Endpoint { address: listener.local_addr().unwrap(), tls: None };
        let mut ended = Connection::open(&place).await.unwrap();
        let (peer, _) = listener.accept().unwrap();
        assert!(!ended.is_stale());
        drop(peer);
        assert!(becomes_stale(&mut ended));

        let mut speaks = Connection::open(&place).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert!(!speaks.is_stale());
        peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
        assert!(becomes_stale(&mut speaks));
    });
}

#[test]
fn the_page_holds_the_report_and_the_servers_cpu_time() {
    let server = Server::start(|_| ok("x"));
    let (url, page, pid) =
        (server.url("/"), temporary("page.html"), std::process::id().to_string());
    let base = ["--url", &url, "--closed", "--requests", "50", "--quiet", "--html"];
    let arguments = [&base[..], &[page.to_str().unwrap(), "--server-pid", &pid]].concat();
    let output = binary(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    let json = html.split("id=\"report\">").nth(1).unwrap().split("</script>").next().unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!((&json["ok"], &json["series"]["interval_s"]), (&50.into(), &1.0.into()));
    assert!(json["cpu"]["client_s"].is_number() && json["cpu"]["server_s"].is_number(), "{json}");
    let rows = json["series"]["rows"].as_array().unwrap();
    let answers: f64 = rows.iter().map(|row| row["answers_per_second"].as_f64().unwrap()).sum();
    assert_eq!(answers, 50.0);

    let nobody = [&base[..], &["-", "--server-pid", "4294967295"]].concat();
    let output = binary(&nobody);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--server-pid 4294967295: there is no such process"));
}
