//! A run: threads of users that take slots, ask, and account; one coordinator that ends it.
//!
//! Must stay true: all requests that were due by the end of the run are in the report, answered or not. A
//! user waits for its answer before it takes the next slot, so what is due meanwhile is taken by others or
//! waits; the schedule never does.

use crate::answer::Look;
use crate::channel::{Channel, Opened, Place, Request, Stream};
use crate::client::{Endpoint, Failure, READ_BYTES, Watch};
use crate::cpu;
use crate::options::{HEADERS_MAX, Options, OptionsError};
use crate::pacer::Pacer;
use crate::pick::Picker;
use crate::report::{Measured, Report};
use crate::schedule::{Claim, Plan, Slots};
use crate::series::Sample;
use crate::tally::{Ending, Record, Tally};
use crate::tls::client_config;
use crate::url::{URLS_MAX, Url};
use rustls::pki_types::ServerName;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_http::authority::Authority;
use tidegate_http::{Fields, Scheme};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Sleep, timeout};

/// Different addresses (and names, for https) that the URLs of one run may lead to; each user may hold a
/// connection to every one.
pub const ENDPOINTS_MAX: usize = 64;

/// Time between two calls of the progress function.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Samples that are closer together say nothing of CPU time, which comes in ticks.
const SAMPLE_NS_MIN: u64 = 100_000_000;

/// Threads are made before the schedule begins.
const START_LEAD: Duration = Duration::from_millis(20);

/// A closed loop rests this long after a failed connection; without it a dead server costs a whole core.
const CONNECT_REST: Duration = Duration::from_millis(100);

/// Where a run is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub elapsed_ns: u64,
    /// Part of the run that is over, where that is known.
    pub share: Option<f64>,
    /// Requests that are over, warm-up included.
    pub done: u64,
    pub errors: u64,
    pub received_bytes: u64,
    /// Due and not sent yet.
    pub waiting: u64,
    /// What the first of the errors was.
    pub first_error: Option<Arc<str>>,
}

/// Why there is no report.
#[derive(Debug)]
pub enum RunError {
    Options(OptionsError),
    /// The kernel gave no thread, timer or poll.
    Host(io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Options(error) => write!(f, "{error}"),
            RunError::Host(error) => write!(f, "this host gives no thread, timer or poll: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<OptionsError> for RunError {
    fn from(error: OptionsError) -> RunError {
        RunError::Options(error)
    }
}

/// One URL as it goes out.
struct Target {
    endpoint: usize,
    request: Request,
}

/// What all threads share.
struct Shared {
    slots: Slots,
    picker: Picker,
    targets: Vec<Target>,
    endpoints: Vec<Arc<Place>>,
    streams: usize,
    timeout: Duration,
    closed_loop: bool,
    start: Instant,
    done: AtomicU64,
    errors: AtomicU64,
    first_error: OnceLock<Arc<str>>,
    received_bytes: AtomicU64,
    /// Connections.
    open: Arc<AtomicU64>,
}

/// Runs until the plan is done or `stop` is ready. `progress` is called once a second.
///
/// # Errors
/// When the options are wrong, a host has no address, or this host gives no threads. A server that cannot
/// be reached is no error here: the report tells of it.
pub async fn run(
    options: &Options,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, RunError> {
    let plan = options.plan()?;
    let mut server = cpu::Server::new(options).await?;
    let (targets, endpoints) = prepare(options).await?;
    let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let shared = Arc::new(Shared {
        slots: Slots::new(plan, options.backlog_max),
        picker: Picker::new(options.order, targets.len(), options.seed),
        targets,
        endpoints,
        streams: options.streams,
        timeout: options.timeout,
        closed_loop: options.rate.is_none(),
        start: Instant::now() + START_LEAD,
        done: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        first_error: OnceLock::new(),
        received_bytes: AtomicU64::new(0),
        open: Arc::default(),
    });
    let (stop_sender, stop_receiver) = watch::channel(false);
    let threads = options.threads.min(options.connections);
    let (sender, mut tallies) = mpsc::channel(threads);
    let mut handles = Vec::new();
    for thread in 0..threads {
        let connections =
            options.connections / threads + usize::from(thread < options.connections % threads);
        let (shared, stop, sender) = (Arc::clone(&shared), stop_receiver.clone(), sender.clone());
        let work = move || {
            // The coordinator waits for all threads; it cannot be gone, and the channel has room for each.
            let _sent = sender.try_send(thread_main(&shared, connections, stop));
        };
        let builder = std::thread::Builder::new().name(format!("load-{thread}"));
        match builder.spawn(work) {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                let _stopped = stop_sender.send(true);
                return Err(RunError::Host(error));
            }
        }
    }
    drop((sender, stop_receiver));

    let now_ns = || crate::units::nanos(Instant::now().saturating_duration_since(shared.start));
    let deadline = plan.end_ns().and_then(|end| {
        shared.start.checked_add(Duration::from_nanos(end).saturating_add(options.drain))
    });
    let mut ticker =
        tokio::time::interval_at((shared.start + PROGRESS_EVERY).into(), PROGRESS_EVERY);
    tokio::pin!(stop);
    let (mut tally, mut stopped_ns) = (Tally::default(), None);
    let sample = |at_ns, server_cpu_ns| Sample {
        at_ns,
        connections: shared.open.load(Ordering::Relaxed),
        client_cpu_ns: cpu::own_cpu_ns(),
        server_cpu_ns,
    };
    let mut samples = vec![sample(0, server.cpu_ns().await)];
    let mut interrupted = false;
    loop {
        tokio::select! {
            part = tallies.recv() => match part {
                Some(part) => tally.add(&part.map_err(RunError::Host)?),
                None => break,
            },
            () = &mut stop, if stopped_ns.is_none() => {
                interrupted = true;
                stopped_ns = Some(now_ns());
                let _stopped = stop_sender.send(true);
            }
            () = until(deadline), if stopped_ns.is_none() => {
                stopped_ns = Some(now_ns());
                let _stopped = stop_sender.send(true);
            }
            _ = ticker.tick() => {
                // A server that is slow to tell shifts the sample's moment with it.
                let server_cpu_ns = server.cpu_ns().await;
                let now = now_ns();
                samples.push(sample(now, server_cpu_ns));
                let share = match (plan.end_ns(), plan.requests) {
                    (Some(end), _) => Some(now as f64 / end.max(1) as f64),
                    (None, Some(requests)) => {
                        Some(shared.done.load(Ordering::Relaxed) as f64 / requests.max(1) as f64)
                    }
                    (None, None) => None,
                };
                progress(&shared.progress(now, share));
            }
        }
    }
    let end_ns = now_ns();
    // Else a moment would be all that the last interval is judged by.
    if end_ns.saturating_sub(samples[samples.len() - 1].at_ns) > SAMPLE_NS_MIN || samples.len() == 1
    {
        let connections = samples[samples.len() - 1].connections;
        let server_cpu_ns = server.cpu_ns().await;
        samples.push(Sample { connections, ..sample(end_ns, server_cpu_ns) });
    }
    for handle in handles {
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    }
    if let Some(now) = stopped_ns {
        for index in shared.slots.close(now) {
            tally.record(&Record::not_sent(
                shared.slots.counts(index),
                shared.slots.due_ns(index),
                now,
            ));
        }
    }
    let elapsed_ns = elapsed_ns(&plan, &tally, stopped_ns.filter(|_| interrupted));
    let started_unix_ms = u64::try_from(started_unix_ms.as_millis()).unwrap_or(u64::MAX);
    let measured = Measured { tally, elapsed_ns, samples, audience: None };
    Ok(Report::new(options, &measured, started_unix_ms, interrupted))
}

pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What went wrong with a request, the first of these that its thread met.
pub(crate) fn text_of(record: &Record<'_>, tally: &Tally) -> Arc<str> {
    match (record.ending, &tally.first_failure) {
        (Ending::Answered, _) => format!("an answer with status {}", record.status).into(),
        (_, Some(failure)) => failure.as_str().into(),
        (ending, None) => format!("{ending:?}").into(),
    }
}

/// The time that the counted requests had.
fn elapsed_ns(plan: &Plan, tally: &Tally, interrupted_ns: Option<u64>) -> u64 {
    let all_done = plan.requests == Some(tally.requests());
    let end = match (interrupted_ns, plan.rate) {
        (Some(now), _) => now,
        // A closed loop is over when its number is reached, however long it might have gone on.
        (None, None) if all_done => 0,
        (None, _) => plan.end_ns().unwrap_or(0),
    };
    end.max(tally.last_end_ns).saturating_sub(plan.warmup_ns)
}

impl Shared {
    fn progress(&self, now_ns: u64, share: Option<f64>) -> Progress {
        Progress {
            elapsed_ns: now_ns,
            share,
            done: self.done.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            waiting: self.slots.backlog(now_ns),
            first_error: self.first_error.get().cloned(),
        }
    }
}

/// Resolves hosts and writes each request once.
async fn prepare(options: &Options) -> Result<(Vec<Target>, Vec<Arc<Place>>), OptionsError> {
    let urls = options.parsed_urls()?;
    let (fields, host) = fields(&options.headers)?;
    // One for each range, or the one without.
    let mut forms = Vec::new();
    for range in &options.ranges {
        let mut form = fields.clone();
        form.set("range", format!("bytes={range}"))
            .map_err(|_| OptionsError::Range(range.clone()))?;
        forms.push(form);
    }
    if forms.is_empty() {
        forms.push(fields);
    }
    if urls.len().saturating_mul(forms.len()) > URLS_MAX {
        return Err(OptionsError::TooManyUrls);
    }
    let tls = match urls.iter().any(|url| url.scheme == Scheme::Https) {
        true => Some(client_config(&options.trust, options.protocol).map_err(OptionsError::Tls)?),
        false => None,
    };
    // What tells two endpoints apart; --connect leaves only the name for https.
    let mut places: Vec<(bool, Authority)> = Vec::new();
    let mut endpoints = Vec::new();
    let mut targets = Vec::with_capacity(urls.len());
    for url in urls {
        let secure = url.scheme == Scheme::Https;
        let mut place = (secure, url.authority.clone());
        place.1.port = Some(url.port());
        if options.connect.is_some() {
            place.1.port = None;
            if !secure {
                place.1.host.clear();
            }
        }
        let endpoint = match places.iter().position(|known| *known == place) {
            Some(index) => index,
            None if places.len() == ENDPOINTS_MAX => {
                return Err(OptionsError::TooManyEndpoints(ENDPOINTS_MAX));
            }
            None => {
                let endpoint = place_of(&url, options, tls.as_ref()).await?;
                places.push(place);
                let place = Place::new(endpoint, options.protocol)
                    .map_err(|what| OptionsError::Tls(crate::tls::TlsError::Setup(what)))?;
                endpoints.push(Arc::new(place));
                endpoints.len() - 1
            }
        };
        let authority = host.clone().unwrap_or_else(|| url.authority.to_string());
        for fields in &forms {
            let request = Request::get(options.protocol, &url, &authority, fields)
                .map_err(|error| OptionsError::Request(url.target.clone(), error))?;
            targets.push(Target { endpoint, request });
        }
    }
    Ok((targets, endpoints))
}

/// The server of a URL; `tls` is made when it is needed and not given.
pub(crate) async fn place_of(
    url: &Url,
    options: &Options,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<Endpoint, OptionsError> {
    let address = match options.connect {
        Some(address) => address,
        None => resolve(url).await?,
    };
    if url.scheme != Scheme::Https {
        return Ok(Endpoint { address, tls: None });
    }
    let config = match tls {
        Some(config) => Arc::clone(config),
        None => client_config(&options.trust, options.protocol).map_err(OptionsError::Tls)?,
    };
    let name = ServerName::try_from(url.authority.host.clone())
        .map_err(|error| OptionsError::Resolve(url.authority.to_string(), error.to_string()))?;
    Ok(Endpoint { address, tls: Some((name, config)) })
}

async fn resolve(url: &Url) -> Result<std::net::SocketAddr, OptionsError> {
    let failed = |what: String| OptionsError::Resolve(url.authority.to_string(), what);
    tokio::net::lookup_host((url.authority.host.as_str(), url.port()))
        .await
        .map_err(|error| failed(error.to_string()))?
        .next()
        .ok_or_else(|| failed("the name has no address".to_owned()))
}

/// The fields of every request, and the host that replaces the URL's.
pub(crate) fn fields(headers: &[String]) -> Result<(Fields, Option<String>), OptionsError> {
    if headers.len() > HEADERS_MAX {
        return Err(OptionsError::TooManyHeaders);
    }
    let (mut fields, mut host) = (Fields::new(), None);
    for header in headers {
        let fail = |what| OptionsError::Header(header.clone(), what);
        let (name, value) = header.split_once(':').ok_or_else(|| fail("it is 'Name: value'"))?;
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        match name.as_str() {
            "host" => {
                Authority::parse(value.as_bytes()).map_err(|_| fail("it is no host with port"))?;
                host = Some(value);
            }
            "content-length" | "transfer-encoding" => {
                return Err(fail("a request of this tool has no body"));
            }
            _ => fields.append(name, value).map_err(|error| match error {
                tidegate_http::FieldError::Name => fail("the name is no token"),
                tidegate_http::FieldError::Value => fail("the value holds control characters"),
            })?,
        }
    }
    let own =
        [("user-agent", concat!("tidegate-load/", env!("CARGO_PKG_VERSION"))), ("accept", "*/*")];
    for (name, value) in own {
        if !fields.contains(name) {
            let added = fields.append(name, value);
            debug_assert!(added.is_ok(), "both are fixed and well-formed");
        }
    }
    Ok((fields, host))
}

/// One thread: its users, its accounts.
struct Worker {
    shared: Arc<Shared>,
    pacer: Pacer,
    tally: RefCell<Tally>,
    scratch: RefCell<Vec<u8>>,
}

/// What a user is at, for the end of the run.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    due_ns: u64,
    counted: bool,
    sent: Option<(u64, u64)>,
}

fn thread_main(
    shared: &Arc<Shared>,
    connections: usize,
    mut stop: watch::Receiver<bool>,
) -> io::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Rc::new(Worker {
        shared: Arc::clone(shared),
        pacer: Pacer::new(shared.start),
        tally: RefCell::default(),
        scratch: RefCell::new(vec![0; READ_BYTES]),
    });
    std::thread::sleep(shared.start.saturating_duration_since(Instant::now()));
    let users = connections * shared.streams;
    let under_way: Vec<Rc<Cell<Option<UnderWay>>>> = (0..users).map(|_| Rc::default()).collect();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        let mut all_channels: Vec<Rc<[Channel]>> = Vec::with_capacity(connections);
        for users in under_way.chunks(shared.streams) {
            let channels =
                shared.endpoints.iter().map(|place| Channel::new(Arc::clone(place), &shared.open));
            let channels: Rc<[Channel]> = channels.collect();
            for mine in users {
                let user = User::new(&worker, mine, &channels);
                tasks.spawn_local(user.live());
            }
            all_channels.push(channels);
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
        let outcome = tokio::select! {
            () = everyone => Ok(()),
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            failed = worker.pacer.drive() => failed,
        };
        tasks.shutdown().await;
        let mut goodbyes = JoinSet::new();
        for channels in all_channels {
            goodbyes.spawn_local(async move {
                for channel in channels.iter() {
                    channel.close().await;
                }
            });
        }
        goodbyes.join_all().await;
        outcome
    })?;
    drop(local);
    let now = worker.pacer.now_ns();
    let mut tally = worker.tally.take();
    for user in under_way.iter().filter_map(|mine| mine.get()).filter(|user| user.due_ns <= now) {
        let mut record = Record::not_sent(user.counted, user.due_ns, now);
        if let Some((sent_ns, bytes)) = user.sent {
            record.ending = Ending::Unanswered;
            record.sent_ns = Some(sent_ns);
            record.sent_bytes = bytes;
        }
        tally.record(&record);
    }
    Ok(tally)
}

/// One user: one request at a time.
struct User {
    worker: Rc<Worker>,
    mine: Rc<Cell<Option<UnderWay>>>,
    wake: Rc<Notify>,
    /// To each endpoint; shared with the other users of the same connections.
    channels: Rc<[Channel]>,
    patience: Patience,
}

/// Gives up on answers that take too long. One timer serves all requests of a user, and is set anew only when it has run out:
/// to set and take back one for each is a twentieth of what a small answer costs.
struct Patience(Pin<Box<Sleep>>);

impl Patience {
    fn new() -> Patience {
        Patience(Box::pin(tokio::time::sleep(Duration::ZERO)))
    }

    /// `None`: it is not ready at the deadline.
    async fn bear<F: Future>(&mut self, deadline: Instant, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            loop {
                ready!(self.0.as_mut().poll(context));
                // It was set for an earlier request.
                if tokio::time::Instant::now() >= deadline.into() {
                    return Poll::Ready(None);
                }
                self.0.as_mut().reset(deadline.into());
            }
        })
        .await
    }
}

impl User {
    fn new(
        worker: &Rc<Worker>,
        mine: &Rc<Cell<Option<UnderWay>>>,
        channels: &Rc<[Channel]>,
    ) -> User {
        User {
            worker: Rc::clone(worker),
            mine: Rc::clone(mine),
            wake: Rc::new(Notify::new()),
            channels: Rc::clone(channels),
            patience: Patience::new(),
        }
    }

    async fn live(mut self) {
        let worker = Rc::clone(&self.worker);
        let shared = &worker.shared;
        loop {
            let now = worker.pacer.now_ns();
            match shared.slots.claim(now) {
                Claim::Over => return,
                Claim::GivenUp(slots) => {
                    shared.done.fetch_add(slots.end - slots.start, Ordering::Relaxed);
                    let mut tally = worker.tally.borrow_mut();
                    for index in slots {
                        let due = shared.slots.due_ns(index);
                        tally.record(&Record::not_sent(shared.slots.counts(index), due, now));
                    }
                }
                Claim::Send { index, due_ns, counted } => {
                    self.mine.set(Some(UnderWay { due_ns, counted, sent: None }));
                    if due_ns > now {
                        worker.pacer.wait(due_ns, &self.wake).await;
                    }
                    let ending = self.ask(index, due_ns, counted).await;
                    if ending == Ending::Connect && shared.closed_loop {
                        tokio::time::sleep(CONNECT_REST).await;
                    }
                }
            }
        }
    }

    /// Sends one request, and accounts for it.
    async fn ask(&mut self, index: u64, due_ns: u64, counted: bool) -> Ending {
        let worker = Rc::clone(&self.worker);
        let shared = &worker.shared;
        let target = &shared.targets[shared.picker.pick(index)];
        let mut record = Record::not_sent(counted, due_ns, 0);
        let mut cache_status = None;
        match self.stream(target.endpoint).await {
            Err(text) => {
                record.ending = Ending::Connect;
                worker.tally.borrow_mut().explain(|| text);
            }
            Ok(mut stream) => {
                let sent_ns = worker.pacer.now_ns();
                let sent_bytes = target.request.head_bytes;
                self.mine.set(Some(UnderWay {
                    due_ns,
                    counted,
                    sent: Some((sent_ns, sent_bytes)),
                }));
                record.sent_ns = Some(sent_ns);
                record.sent_bytes = sent_bytes;
                let mut seen = Seen { pacer: &worker.pacer, first_byte_ns: None, bytes: 0 };
                let exchange = stream.exchange(&target.request, &worker.scratch, &mut seen);
                let deadline = shared.start + Duration::from_nanos(sent_ns) + shared.timeout;
                let outcome = self.patience.bear(deadline, exchange).await;
                record.first_byte_ns = seen.first_byte_ns;
                record.received_bytes = seen.bytes;
                let failure = match outcome {
                    Some(Ok(answer)) => {
                        record.ending = Ending::Answered;
                        record.status = answer.status;
                        record.body_bytes = answer.body_bytes;
                        cache_status = answer.cache_status;
                        if answer.keep_alive {
                            self.channels[target.endpoint].give_back(stream);
                        }
                        None
                    }
                    Some(Err(failure)) => Some(failure),
                    None => {
                        record.ending = Ending::Timeout;
                        worker.tally.borrow_mut().explain(|| "no whole answer in time".to_owned());
                        None
                    }
                };
                if let Some(failure) = failure {
                    record.ending = failure.ending();
                    worker.tally.borrow_mut().explain(|| failure.to_string());
                }
            }
        }
        record.end_ns = worker.pacer.now_ns();
        record.cache_status = cache_status.as_deref();
        self.mine.set(None);
        worker.tally.borrow_mut().record(&record);
        shared.done.fetch_add(1, Ordering::Relaxed);
        shared.received_bytes.fetch_add(record.received_bytes, Ordering::Relaxed);
        if record.ending != Ending::Answered || record.status >= 400 {
            shared.errors.fetch_add(1, Ordering::Relaxed);
            shared.first_error.get_or_init(|| text_of(&record, &worker.tally.borrow()));
        }
        record.ending
    }

    /// Room for a request to an endpoint, on a new connection if need be.
    async fn stream(&mut self, endpoint: usize) -> Result<Stream, String> {
        if let Some(stream) = self.channels[endpoint].ready() {
            return Ok(stream);
        }
        let shared = &self.worker.shared;
        let address = shared.endpoints[endpoint].endpoint.address;
        let (stream, opened) = match timeout(shared.timeout, self.channels[endpoint].stream()).await
        {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("no connection to {address}: {error}")),
            Err(_elapsed) => return Err(format!("no connection to {address} in time")),
        };
        let mut tally = self.worker.tally.borrow_mut();
        tally.connects += u64::from(opened != Opened::No);
        tally.reconnects += u64::from(opened == Opened::Again);
        Ok(stream)
    }
}

/// Notes the first byte and counts all.
struct Seen<'a> {
    pacer: &'a Pacer,
    first_byte_ns: Option<u64>,
    bytes: u64,
}

impl Look for Seen<'_> {
    fn wants_head(&self) -> bool {
        false
    }
}

impl Watch for Seen<'_> {
    fn received(&mut self, bytes: usize) {
        if self.first_byte_ns.is_none() {
            self.first_byte_ns = Some(self.pacer.now_ns());
        }
        self.bytes += bytes as u64;
    }
}

impl Failure {
    pub(crate) fn ending(&self) -> Ending {
        match self {
            Failure::ClosedEarly(_) => Ending::ClosedEarly,
            Failure::ShortBody(_) => Ending::ShortBody,
            Failure::Malformed(_) => Ending::Malformed,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, error) = match self {
            Failure::ClosedEarly(error) => ("before the head of the answer was whole", error),
            Failure::ShortBody(error) => ("inside the body", error),
            Failure::Malformed(error) => return write!(f, "no HTTP answer: {error}"),
        };
        write!(f, "the connection ended {place}")?;
        error.as_ref().map_or(Ok(()), |error| write!(f, " ({error})"))
    }
}
