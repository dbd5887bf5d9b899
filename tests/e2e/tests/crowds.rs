//! Crowds as a live event brings them, through an edge and a parent: one cold object under 10,000 connections, a
//! playlist that expires each second under 5,000 readers, and everything purged at once.
//!
//! Method: readers are tasks of this process, each with a connection of its own; requests are counted at the origin and
//! at both tiers. What was waited for is printed, never asserted: no verdict depends on how fast the machine is.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{Fleet, FleetOptions, Gate, HandOrigin, content, reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// One test at a time: each takes the machine as it is for itself.
static ALONE: Mutex<()> = Mutex::new(());
/// Connects under way at a time, so that no backlog overflows.
const CONNECTS: usize = 256;

/// Lets this process, and the edges that it starts, have as many descriptors as it is allowed.
fn raise_descriptors(needed: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= needed, "{needed} descriptors are needed, {hard} allowed: raise `ulimit -Hn`");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// One edge, one parent.
fn pair(name: &str, origin: &HandOrigin) -> Fleet {
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        store_bytes: None,
        origin: Some(origin.address),
        // Room for all of them: what is shed when there is none is another test's matter.
        adjust: |snapshot| {
            for server in snapshot.servers.iter_mut().filter(|s| s.machine.cores > 0) {
                server.machine.memory_bytes = Some(1 << 30);
            }
        },
        ..FleetOptions::default()
    };
    Fleet::start(name, &options)
}

/// A connection that reads answers with a length.
struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Reader {
    async fn open(address: SocketAddr) -> Reader {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Reader { stream, buffer: Vec::new() }
    }

    async fn ask(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn more(&mut self) {
        let n = self.stream.read_buf(&mut self.buffer).await.unwrap();
        assert!(n > 0, "the connection ended early: {:?}", String::from_utf8_lossy(&self.buffer));
    }

    /// Status and length of the next answer.
    async fn head(&mut self) -> (u16, usize) {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        (status, length.parse().unwrap())
    }

    /// Takes `expected` from the connection, and tells when its first byte was there.
    async fn body(&mut self, expected: &[u8]) -> Instant {
        let (mut at, mut first) = (0, None);
        while at < expected.len() {
            if self.buffer.is_empty() {
                self.more().await;
            }
            first.get_or_insert_with(Instant::now);
            assert!(expected[at..].starts_with(&self.buffer), "wrong bytes at {at}");
            at += self.buffer.len();
            self.buffer.clear();
        }
        first.unwrap()
    }
}

/// Opens `count` connections, some at a time.
fn open(runtime: &Runtime, address: SocketAddr, count: usize) -> Vec<Reader> {
    runtime.block_on(async {
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTS));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let places = places.clone();
                tokio::spawn(async move {
                    let _place = places.acquire().await.unwrap();
                    Reader::open(address).await
                })
            })
            .collect();
        let mut readers = Vec::with_capacity(count);
        for task in tasks {
            readers.push(task.await.unwrap());
        }
        readers
    })
}

#[test]
fn ten_thousand_connections_for_one_cold_object_cost_the_origin_one_request() {
    // Goal: collapse on both tiers, and reading along from the first byte. Method: the origin gives the head and ten
    // bytes when all clients are known to wait, and the rest when all have these: the span between the first and the
    // last of them is the skew. A gate that waits too long for a slow machine opens: the counts stay what they are.
    const CLIENTS: usize = 10_000;
    const TOTAL: usize = 700_000;
    const FIRST: usize = 10;
    let _alone = ALONE.lock();
    raise_descriptors(CLIENTS as u64 + 500);
    let bytes = Arc::new(content("stampede", TOTAL));
    let (all_wait, all_read) = (Gate::default(), Gate::default());
    let (waiting, reading, body) = (all_wait.clone(), all_read.clone(), bytes.clone());
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        waiting.wait_at_most(HELD_MAX);
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nCache-Control: max-age=600\r\nContent-Length: {TOTAL}\r\n\r\n"
        );
        let _gone = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&body[..FIRST]))
            .and_then(|()| {
                reading.wait_at_most(HELD_MAX);
                stream.write_all(&body[FIRST..])
            });
    });
    let fleet = pair("ten-thousand", &origin);
    let runtime = runtime();
    let readers = open(&runtime, fleet.member("edge-1").http(), CLIENTS);
    let with_first = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            let (bytes, with_first, gate) = (bytes.clone(), with_first.clone(), all_read.clone());
            runtime.spawn(async move {
                reader.ask("/segment.m4s").await;
                assert_eq!(reader.head().await, (200, TOTAL));
                if reader.buffer.is_empty() {
                    reader.more().await;
                }
                let first = Instant::now();
                if with_first.fetch_add(1, Ordering::SeqCst) + 1 == CLIENTS {
                    gate.open();
                }
                reader.body(&bytes).await;
                (first, Instant::now())
            })
        })
        .collect();
    fleet.until("all clients have asked", |fleet| {
        fleet.counter("edge-1", "requests_total") == CLIENTS as u64
    });
    let collapsed = fleet.counter("edge-1", "collapsed_total");
    all_wait.open();
    let mut times: Vec<(Instant, Instant)> =
        tasks.into_iter().map(|task| runtime.block_on(task).unwrap()).collect();
    times.sort();
    let first = times[0].0;
    let skew = |n: usize| times[n].0 - first;
    println!(
        "{CLIENTS} clients, {collapsed} joined the fill before its first byte; first bytes after the first of them: \
         median {:?}, 99 % {:?}, last {:?}; all bodies whole {:?} after the first request",
        skew(CLIENTS / 2),
        skew(CLIENTS * 99 / 100),
        skew(CLIENTS - 1),
        times.iter().map(|(_, end)| *end - started).max().unwrap()
    );
    assert_eq!(origin.count(), 1);
    assert_eq!(fleet.counter("parent-1", "requests_total"), 1);
    for tier in ["parent-1", "edge-1"] {
        assert_eq!(fleet.counter(tier, "fills_total"), 1, "{tier}");
        assert_eq!(fleet.counter(tier, "fill_errors_total"), 0, "{tier}");
        assert_eq!(fleet.counter(tier, "bytes_filled_total"), TOTAL as u64, "{tier}");
    }
    fleet.until("all answers are counted", |fleet| {
        fleet.counter("edge-1", "responses_2xx_total") == CLIENTS as u64
    });
    assert_eq!(fleet.counter("edge-1", "bytes_sent_total"), (CLIENTS * TOTAL) as u64);
}

/// Below the next hops' own patience (10 s for a silent body).
const HELD_MAX: Duration = Duration::from_secs(8);

#[test]
fn a_playlist_that_expires_each_second_under_5000_readers_costs_one_request_for_each_expiry() {
    // Goal: an expiry is one question; nobody gets an error, nobody goes back to an older playlist.
    // Method: readers ask again as soon as they have an answer, over several expiries. A request for the next version
    // may come only when the last one has lived its second: more requests than seconds would be one too many.
    const READERS: usize = 5_000;
    const EXPIRIES: usize = 5;
    let _alone = ALONE.lock();
    raise_descriptors(READERS as u64 + 500);
    let serial = AtomicUsize::new(0);
    let origin = HandOrigin::start(LOCAL, move |_, stream| {
        let version = serial.fetch_add(1, Ordering::SeqCst) + 1;
        let fields = format!("ETag: \"{version}\"\r\nCache-Control: max-age=1\r\n");
        reply(stream, 200, &fields, format!("#EXTM3U {version:09}").as_bytes());
    });
    let fleet = pair("playlist", &origin);
    let runtime = runtime();
    let readers = open(&runtime, fleet.member("edge-1").http(), READERS);
    let stop = Arc::new(AtomicBool::new(false));
    let (begin, begun) = watch::channel(false);
    let tasks: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            let (stop, mut begun) = (stop.clone(), begun.clone());
            runtime.spawn(async move {
                let (mut last, mut answers, mut longest) = (0, 0usize, Duration::ZERO);
                begun.wait_for(|begun| *begun).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    reader.ask("/live.m3u8").await;
                    let (status, length) = reader.head().await;
                    assert_eq!(status, 200);
                    while reader.buffer.len() < length {
                        reader.more().await;
                    }
                    let text = String::from_utf8(std::mem::take(&mut reader.buffer)).unwrap();
                    let version: usize = text.strip_prefix("#EXTM3U ").unwrap().parse().unwrap();
                    assert!(version >= last, "version {version} after {last}");
                    (last, answers) = (version, answers + 1);
                    longest = longest.max(asked.elapsed());
                }
                (last, answers, longest)
            })
        })
        .collect();
    let started = Instant::now();
    begin.send(true).unwrap();
    fleet.until("it has expired often enough", |_| origin.count() > EXPIRIES);
    let (asked, lasted) = (origin.count(), started.elapsed());
    stop.store(true, Ordering::Relaxed);
    let seen: Vec<(usize, usize, Duration)> =
        tasks.into_iter().map(|task| runtime.block_on(task).unwrap()).collect();
    println!(
        "{READERS} readers, {} answers, {asked} requests at the origin in {lasted:?}, {} at the parent; longest wait {:?}",
        seen.iter().map(|(_, answers, _)| answers).sum::<usize>(),
        fleet.counter("parent-1", "requests_total"),
        seen.iter().map(|(_, _, longest)| *longest).max().unwrap(),
    );
    // The first one, and one for each second that has passed.
    assert!(asked as u64 <= lasted.as_secs() + 1, "{asked} requests in {lasted:?}");
    fleet.settle("edge-1");
    let asked = origin.count() as u64;
    let fills = fleet.counter("edge-1", "fills_total");
    assert_eq!(fleet.counter("parent-1", "requests_total"), fills);
    assert_eq!(fleet.counter("parent-1", "fills_total"), asked);
    // What comes from the parent has lived there already, so it lives shorter than a second here: more questions than
    // the parent has, but nothing like one for each reader.
    assert!((asked..=10 * asked).contains(&fills), "{fills} fills at the edge, {asked} requests");
    for tier in ["parent-1", "edge-1"] {
        assert_eq!(fleet.counter(tier, "fill_errors_total"), 0, "{tier}");
        assert_eq!(fleet.counter(tier, "responses_5xx_total"), 0, "{tier}");
    }
    assert!(seen.iter().all(|(last, ..)| *last > 0), "every reader has read");
}

#[test]
fn all_is_purged_under_readers_and_the_origin_is_asked_once_for_each_object() {
    // Goal: a mass purge costs the origin its objects, not its viewers. Method: readers that never stop go round a warm
    // catalogue; all of it is purged, hard; they go on until each has been round once more.
    const OBJECTS: usize = 100;
    const READERS: usize = 100;
    let _alone = ALONE.lock();
    raise_descriptors(READERS as u64 + 500);
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let fields = "ETag: \"1\"\r\nCache-Control: max-age=3600\r\n";
        reply(stream, 200, fields, &content(asked.target(), 4_000));
    });
    let fleet = pair("mass-purge", &origin);
    let runtime = runtime();
    let readers = open(&runtime, fleet.member("edge-1").http(), READERS);
    let (begin, begun) = watch::channel(0usize);
    let rounds = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = readers
        .into_iter()
        .enumerate()
        .map(|(number, mut reader)| {
            let (begun, rounds) = (begun.clone(), rounds.clone());
            runtime.spawn(async move {
                // Once round in each phase, and on in between: 0 is warming up, 1 is after the purge.
                let mut done = 0;
                while done < 2 {
                    let phase = *begun.borrow();
                    for n in 0..OBJECTS {
                        let path = format!("/{}", (n + number) % OBJECTS);
                        reader.ask(&path).await;
                        let (status, length) = reader.head().await;
                        assert_eq!((status, length), (200, 4_000));
                        reader.body(&content(&path, 4_000)).await;
                    }
                    if phase == done {
                        rounds.fetch_add(1, Ordering::SeqCst);
                        done += 1;
                    }
                }
            })
        })
        .collect();
    fleet.until("all have been round", |_| rounds.load(Ordering::SeqCst) == READERS);
    assert_eq!(origin.count(), OBJECTS);
    let purged = std::process::Command::new(binary("tidegate"))
        .args(["purge", "--service", "film", "--all", "--hard", "--unlogged", "--snapshot"])
        .arg(fleet.dir.join("snapshot"))
        .arg("--trust")
        .arg(fleet.dir.join("trust.pub"))
        .output()
        .unwrap();
    assert!(purged.status.success(), "{purged:?}");
    begin.send(1).unwrap();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    fleet.settle("edge-1");
    assert_eq!(origin.count(), 2 * OBJECTS, "each object once more");
    assert_eq!(fleet.counter("edge-1", "fills_total"), 2 * OBJECTS as u64);
    for tier in ["parent-1", "edge-1"] {
        assert_eq!(fleet.counter(tier, "fill_errors_total"), 0, "{tier}");
        assert_eq!(fleet.counter(tier, "responses_5xx_total"), 0, "{tier}");
    }
}
