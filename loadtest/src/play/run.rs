//! Many players at once, over real connections.
//!
//! Must stay true: each player has connections of its own, as viewers do; redirects are followed, since routers send
//! viewers on; every request is in the accounts of the run.

use super::player::{Ask, Loaded, Manners, Next, Player, Seen};
use super::playlist::PLAYLIST_BYTES_MAX;
use super::watched::{Audience, Seconds};
use crate::answer::Look;
use crate::channel::{Channel, Opened, Place, Request};
use crate::client::{Endpoint, READ_BYTES, Watch};
use crate::cpu;
use crate::options::{Options, OptionsError};
use crate::report::{Measured, Report};
use crate::run::{PROGRESS_EVERY, Progress, RunError, fields, place_of, text_of, until};
use crate::series::Sample;
use crate::tally::{Ending, Record, Tally};
use crate::trace::random::{Random, mixed};
use crate::units::nanos;
use crate::url::Url;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_http::{Fields, ResponseHead};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

/// Players of one run.
pub const PLAYERS_MAX: usize = 60_000;
/// Redirects that a player follows for one thing.
const REDIRECTS_MAX: usize = 5;

/// Who plays.
#[derive(Debug, Clone)]
pub struct Cast {
    pub players: usize,
    /// The first begins at once, the last at the end of this time.
    pub ramp: Duration,
    /// Each begins at a moment of chance within the ramp, by this seed.
    pub seed: Option<u64>,
    pub manners: Manners,
}

struct Shared {
    options: Options,
    urls: Vec<Url>,
    fields: Fields,
    host: Option<String>,
    cast: Cast,
    start: Instant,
    open: Arc<AtomicU64>,
    done: AtomicU64,
    errors: AtomicU64,
    first_error: OnceLock<Arc<str>>,
    received_bytes: AtomicU64,
    over: AtomicU64,
}

/// Plays until everybody has gone, `options.duration` is over or `stop` is ready.
///
/// # Errors
/// When the options are wrong or this host gives no threads.
pub async fn play(
    options: &Options,
    cast: &Cast,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, RunError> {
    options.check()?;
    if !(1..=PLAYERS_MAX).contains(&cast.players) {
        return Err(OptionsError::OutOfRange("--players", 1, PLAYERS_MAX as u64).into());
    }
    let mut server = cpu::Server::new(options).await?;
    let (fields, host) = fields(&options.headers)?;
    let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let shared = Arc::new(Shared {
        urls: options.parsed_urls()?,
        options: options.clone(),
        fields,
        host,
        cast: cast.clone(),
        start: Instant::now(),
        open: Arc::default(),
        done: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        first_error: OnceLock::new(),
        received_bytes: AtomicU64::new(0),
        over: AtomicU64::new(0),
    });
    let (stop_sender, stop_receiver) = watch::channel(false);
    let threads = options.threads.min(cast.players);
    let (sender, mut parts) = mpsc::channel(threads);
    let mut handles = Vec::new();
    for thread in 0..threads {
        let (shared, stop, sender) = (Arc::clone(&shared), stop_receiver.clone(), sender.clone());
        let work = move || {
            // The coordinator waits for all threads; it cannot be gone, and the channel has room for each.
            let _sent = sender.try_send(thread_main(&shared, thread, threads, stop));
        };
        match std::thread::Builder::new().name(format!("play-{thread}")).spawn(work) {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                let _stopped = stop_sender.send(true);
                return Err(RunError::Host(error));
            }
        }
    }
    drop((sender, stop_receiver));
    let deadline = options.duration.and_then(|duration| shared.start.checked_add(duration));
    let sample = |at_ns, server_cpu_ns| Sample {
        at_ns,
        connections: shared.open.load(Ordering::Relaxed),
        client_cpu_ns: cpu::own_cpu_ns(),
        server_cpu_ns,
    };
    let mut samples = vec![sample(0, server.cpu_ns().await)];
    let mut ticker =
        tokio::time::interval_at((shared.start + PROGRESS_EVERY).into(), PROGRESS_EVERY);
    tokio::pin!(stop);
    let (mut tally, mut audience) = (Tally::default(), Audience::default());
    let (mut stopped, mut interrupted) = (false, false);
    loop {
        tokio::select! {
            part = parts.recv() => match part {
                Some(part) => {
                    let (more, viewers) = part.map_err(RunError::Host)?;
                    tally.add(&more);
                    audience.add(&viewers);
                }
                None => break,
            },
            () = &mut stop, if !stopped => {
                (stopped, interrupted) = (true, true);
                let _stopped = stop_sender.send(true);
            }
            () = until(deadline), if !stopped => {
                stopped = true;
                let _stopped = stop_sender.send(true);
            }
            _ = ticker.tick() => {
                let server_cpu_ns = server.cpu_ns().await;
                let now = shared.now_ns();
                samples.push(sample(now, server_cpu_ns));
                progress(&shared.progress(now));
            }
        }
    }
    for handle in handles {
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    }
    let elapsed_ns = shared.now_ns();
    samples.push(sample(elapsed_ns, server.cpu_ns().await));
    let started_unix_ms = u64::try_from(started_unix_ms.as_millis()).unwrap_or(u64::MAX);
    let measured = Measured { tally, elapsed_ns, samples, audience: Some(audience) };
    Ok(Report::new(options, &measured, started_unix_ms, interrupted))
}

impl Shared {
    fn now_ns(&self) -> u64 {
        nanos(Instant::now().saturating_duration_since(self.start))
    }

    fn progress(&self, now_ns: u64) -> Progress {
        let over = self.over.load(Ordering::Relaxed);
        let time = self.options.duration.map(|all| now_ns as f64 / nanos(all).max(1) as f64);
        let gone = over as f64 / self.cast.players as f64;
        Progress {
            elapsed_ns: now_ns,
            share: Some(time.unwrap_or(0.0).max(gone)),
            done: self.done.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            waiting: 0,
            first_error: self.first_error.get().cloned(),
        }
    }
}

impl Cast {
    /// When a player opens its URL.
    fn begins_ns(&self, number: usize) -> u64 {
        if let Some(seed) = self.seed {
            let chance = Random::new(seed.wrapping_add(mixed(number as u64))).unit();
            return (nanos(self.ramp) as f64 * chance) as u64;
        }
        let steps = self.players.saturating_sub(1).max(1) as u128;
        u64::try_from(self.ramp.as_nanos() * number as u128 / steps).unwrap_or(u64::MAX)
    }
}

/// What the players of one thread share.
struct Worker {
    shared: Arc<Shared>,
    tally: RefCell<Tally>,
    scratch: RefCell<Vec<u8>>,
    /// Servers by scheme, host and port.
    places: RefCell<HashMap<String, Arc<Place>>>,
}

fn thread_main(
    shared: &Arc<Shared>,
    thread: usize,
    threads: usize,
    mut stop: watch::Receiver<bool>,
) -> io::Result<(Tally, Audience)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Rc::new(Worker {
        shared: Arc::clone(shared),
        tally: RefCell::default(),
        scratch: RefCell::new(vec![0; READ_BYTES]),
        places: RefCell::default(),
    });
    let players: Vec<(u64, Rc<RefCell<Player>>)> = (thread..shared.cast.players)
        .step_by(threads)
        .map(|number| {
            let url = shared.urls[number % shared.urls.len()].clone();
            let begins = shared.cast.begins_ns(number);
            (begins, Rc::new(RefCell::new(Player::new(shared.cast.manners, url, begins))))
        })
        .collect();
    let mut seconds = Vec::new();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        for (begins, player) in &players {
            let viewer = Viewer {
                worker: Rc::clone(&worker),
                player: Rc::clone(player),
                channels: HashMap::new(),
            };
            tasks.spawn_local(viewer.live(*begins));
        }
        let everyone = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            }
        };
        let counting = async {
            let mut ticker =
                tokio::time::interval_at((shared.start + PROGRESS_EVERY).into(), PROGRESS_EVERY);
            loop {
                ticker.tick().await;
                seconds.push(count(&players, shared.now_ns()));
            }
        };
        tokio::select! {
            () = everyone => {}
            _ = stop.wait_for(|stop| *stop) => {}
            () = counting => {}
        }
        tasks.shutdown().await;
    });
    drop(local);
    let (now, mut audience) = (shared.now_ns(), Audience { seconds, ..Audience::default() });
    for (begins, player) in &players {
        let mut player = player.borrow_mut();
        // Who was still to come is no viewer.
        if *begins < now {
            player.leave(now);
            audience.count(player.watched());
        }
    }
    Ok((worker.tally.take(), audience))
}

fn count(players: &[(u64, Rc<RefCell<Player>>)], now_ns: u64) -> Seconds {
    let mut seconds = Seconds::default();
    for (_, player) in players.iter().filter(|(begins, _)| *begins < now_ns) {
        match player.borrow().seen_at(now_ns) {
            Seen::Starting => seconds.starting += 1,
            Seen::Playing => seconds.playing += 1,
            Seen::Stalled => seconds.stalled += 1,
            Seen::Over => {}
        }
    }
    seconds
}

/// One player with its connections.
struct Viewer {
    worker: Rc<Worker>,
    player: Rc<RefCell<Player>>,
    channels: HashMap<String, Rc<Channel>>,
}

impl Viewer {
    async fn live(mut self, begins_ns: u64) {
        let worker = Rc::clone(&self.worker);
        let shared = &worker.shared;
        let at = |ns| tokio::time::Instant::from(shared.start + Duration::from_nanos(ns));
        tokio::time::sleep_until(at(begins_ns)).await;
        loop {
            let next = self.player.borrow_mut().next(shared.now_ns());
            match next {
                Next::Over => break,
                Next::Wait(until) => tokio::time::sleep_until(at(until)).await,
                Next::Ask(ask) => self.load(&ask).await,
            }
        }
        shared.over.fetch_add(1, Ordering::Relaxed);
        for channel in self.channels.values() {
            channel.close().await;
        }
    }

    /// Loads one thing, wherever it is sent on to.
    async fn load(&mut self, ask: &Ask) {
        let asked_ns = self.worker.shared.now_ns();
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let got = self.get(&url, ask).await;
            let now_ns = self.worker.shared.now_ns();
            match got {
                Some(Got { status: 200..300, bytes, text, .. }) => {
                    let loaded = Loaded { asked_ns, bytes, text: &text, from: &url };
                    let outcome = self.player.borrow_mut().arrived(now_ns, &loaded);
                    if let Err(error) = outcome {
                        self.worker.tally.borrow_mut().explain(|| format!("{url}: {error}"));
                    }
                    return;
                }
                Some(Got { status: 300..400, location: Some(location), .. }) => {
                    match url.join(&location) {
                        Ok(next) => url = next,
                        Err(_) => break,
                    }
                }
                _ => break,
            }
        }
        self.player.borrow_mut().failed(self.worker.shared.now_ns());
    }

    /// One request, and its accounts; `None` when there was no whole answer.
    async fn get(&mut self, url: &Url, ask: &Ask) -> Option<Got> {
        let worker = Rc::clone(&self.worker);
        let shared = &worker.shared;
        let due_ns = shared.now_ns();
        let mut record = Record::not_sent(true, due_ns, due_ns);
        record.ending = Ending::Connect;
        let mut got = Looking {
            shared,
            keeps: ask.playlist,
            first_byte_ns: None,
            bytes: 0,
            got: Got::default(),
        };
        let mut cache_status = None;
        match self.exchange(url, ask, &mut record, &mut got).await {
            Ok(status) => {
                record.ending = Ending::Answered;
                record.status = status;
                record.body_bytes = got.got.bytes;
                cache_status.clone_from(&got.got.cache_status);
            }
            Err(text) => worker.tally.borrow_mut().explain(|| format!("{url}: {text}")),
        }
        record.first_byte_ns = got.first_byte_ns;
        record.received_bytes = got.bytes;
        record.end_ns = shared.now_ns();
        record.cache_status = cache_status.as_deref();
        worker.tally.borrow_mut().record(&record);
        shared.done.fetch_add(1, Ordering::Relaxed);
        shared.received_bytes.fetch_add(record.received_bytes, Ordering::Relaxed);
        if record.ending != Ending::Answered || record.status >= 400 {
            shared.errors.fetch_add(1, Ordering::Relaxed);
            shared.first_error.get_or_init(|| text_of(&record, &worker.tally.borrow()));
        }
        (record.ending == Ending::Answered).then(|| Got { status: record.status, ..got.got })
    }

    async fn exchange(
        &mut self,
        url: &Url,
        ask: &Ask,
        record: &mut Record<'_>,
        got: &mut Looking<'_>,
    ) -> Result<u16, String> {
        let worker = Rc::clone(&self.worker);
        let shared = &worker.shared;
        let options = &shared.options;
        let authority = shared.host.clone().unwrap_or_else(|| url.authority.to_string());
        let mut fields = shared.fields.clone();
        if let Some(range) = ask.range {
            let value = format!("bytes={}-{}", range.first, range.last);
            fields.set("range", value).map_err(|error| error.to_string())?;
        }
        for (name, value) in &ask.cmcd {
            fields.set(*name, value.clone()).map_err(|error| error.to_string())?;
        }
        let request = Request::get(options.protocol, url, &authority, &fields)?;
        let channel = self.channel(url).await?;
        let (mut stream, opened) = match timeout(options.timeout, channel.stream()).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(error)) => return Err(format!("no connection: {error}")),
            Err(_elapsed) => return Err("no connection in time".to_owned()),
        };
        {
            let mut tally = worker.tally.borrow_mut();
            tally.connects += u64::from(opened != Opened::No);
            tally.reconnects += u64::from(opened == Opened::Again);
        }
        record.sent_ns = Some(shared.now_ns());
        record.sent_bytes = request.head_bytes;
        let exchange = stream.exchange(&request, &worker.scratch, got);
        match timeout(options.timeout, exchange).await {
            Ok(Ok(answer)) => {
                got.got.cache_status = answer.cache_status;
                if answer.keep_alive {
                    channel.give_back(stream);
                }
                Ok(answer.status)
            }
            Ok(Err(failure)) => {
                record.ending = failure.ending();
                Err(failure.to_string())
            }
            Err(_elapsed) => {
                record.ending = Ending::Timeout;
                Err("no whole answer in time".to_owned())
            }
        }
    }

    async fn channel(&mut self, url: &Url) -> Result<Rc<Channel>, String> {
        let key = format!("{}://{}:{}", url.scheme.as_str(), url.authority.host, url.port());
        if let Some(channel) = self.channels.get(&key) {
            return Ok(Rc::clone(channel));
        }
        let known = self.worker.places.borrow().get(&key).cloned();
        let place = match known {
            Some(place) => place,
            None => {
                let options = &self.worker.shared.options;
                let endpoint: Endpoint =
                    place_of(url, options, None).await.map_err(|error| error.to_string())?;
                let place = Arc::new(Place::new(endpoint, options.protocol)?);
                self.worker.places.borrow_mut().insert(key.clone(), Arc::clone(&place));
                place
            }
        };
        let channel = Rc::new(Channel::new(place, &self.worker.shared.open));
        self.channels.insert(key, Rc::clone(&channel));
        Ok(channel)
    }
}

/// What came of one request.
#[derive(Default)]
struct Got {
    status: u16,
    /// Of the body.
    bytes: u64,
    text: Vec<u8>,
    location: Option<String>,
    cache_status: Option<bytes::Bytes>,
}

/// Looks at an answer while it comes.
struct Looking<'a> {
    shared: &'a Shared,
    keeps: bool,
    first_byte_ns: Option<u64>,
    bytes: u64,
    got: Got,
}

impl Look for Looking<'_> {
    fn head(&mut self, head: &ResponseHead) {
        self.got.location = head.fields.get_str("location").map(str::to_owned);
    }

    fn body(&mut self, bytes: &[u8]) {
        self.got.bytes += bytes.len() as u64;
        // One byte more than is read: so that too much is seen as such.
        let room = (PLAYLIST_BYTES_MAX + 1).saturating_sub(self.got.text.len());
        if self.keeps && room > 0 {
            self.got.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

impl Watch for Looking<'_> {
    fn received(&mut self, bytes: usize) {
        if self.first_byte_ns.is_none() {
            self.first_byte_ns = Some(self.shared.now_ns());
        }
        self.bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn players_come_evenly_or_by_chance_within_the_ramp() {
        let ramp = Duration::from_secs(30);
        let moments = |seed| -> Vec<u64> {
            let cast = Cast { players: 1001, ramp, seed, manners: Manners::default() };
            (0..cast.players).map(|number| cast.begins_ns(number)).collect()
        };
        let even = moments(None);
        assert_eq!((even[0], even[1], even[1000]), (0, 30_000_000, nanos(ramp)));
        assert!(even.windows(2).all(|pair| pair[1] - pair[0] == even[1]));
        let chance = moments(Some(7));
        assert!(chance.iter().all(|ns| *ns < nanos(ramp)));
        assert!((450..550).contains(&chance.iter().filter(|ns| **ns < nanos(ramp) / 2).count()));
        assert_eq!(chance, moments(Some(7)));
        assert_ne!(chance, moments(Some(8)));
    }
}
