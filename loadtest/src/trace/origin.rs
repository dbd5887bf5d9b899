//! An origin for traces: makes every object from its path, and counts what it was asked for: the judge of a replay.
//!
//! A thread for each connection, blocking reads and writes: simple, and caches keep few connections to an origin.
//!
//! Must stay true: every answer has a strong ETag, Last-Modified and Cache-Control; ranges and conditions are obeyed; a
//! request is counted when its head was read and its bytes when they are sent; a request for an object that another
//! request is still being answered with counts as overlapping, because a cache that collapses never makes one.

use super::{CLASSES, Class, Object};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_http::conditional::{Precondition, Validators, evaluate, if_range_allows};
use tidegate_http::etag::EntityTag;
use tidegate_http::range::{RangeSpecs, Resolved};
use tidegate_http::{Fields, Method, RequestHead, date};
use tidegate_http1::{Limits, ParsedRequest, RequestParser, encode_response};

/// Connections at once; more are closed.
pub const CONNECTIONS_MAX: usize = 4096;
/// Objects that are counted one by one; requests for more of them are counted in sum only.
pub const OBJECTS_MAX: usize = 10_000_000;
/// Bytes that are made and sent at once.
const PIECE_BYTES: usize = 256 * 1024;
/// All objects were made in this moment (unix seconds): long ago, so that the date is a strong validator.
const MODIFIED_UNIX_S: u64 = 1_700_000_000;
/// Where the counts are told as JSON.
pub const COUNTS_PATH: &str = "/counts";

/// How an origin behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Seconds of `max-age` by class, in the order of [`CLASSES`].
    pub max_age_seconds: [u32; CLASSES.len()],
    /// From a request to the first byte of its answer: the way to a real origin.
    pub delay: Duration,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners { max_age_seconds: CLASSES.map(Class::max_age_seconds), delay: Duration::ZERO }
    }
}

/// What an origin was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    pub requests: u64,
    /// Body bytes sent.
    pub bytes: u64,
    /// Answers 304.
    pub not_modified: u64,
    /// Answers 206.
    pub partial: u64,
    /// Requests for what is no object of a trace.
    pub unknown: u64,
    /// Requests for an object while another request for it was being answered.
    pub overlapping: u64,
    /// The first of them, for who looks for the cause: path and range.
    pub first_overlapping: Option<String>,
    /// Objects asked for at least once.
    pub objects: u64,
    /// Requests for media segments (they do not expire during a replay).
    pub segment_requests: u64,
    /// Media segments asked for at least once.
    pub segments: u64,
}

#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    /// Identity to answers under way.
    objects: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Shared {
    manners: Manners,
    tally: Mutex<Tally>,
    connections: AtomicUsize,
    ends: AtomicBool,
}

/// A running origin; dropped, it takes no more connections, and those that are open end with their peers.
#[derive(Debug)]
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Listens.
    ///
    /// # Errors
    /// The address is not to be had.
    pub fn start(address: SocketAddr, manners: Manners) -> io::Result<Origin> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            manners,
            tally: Mutex::default(),
            connections: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let mine = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("trace-origin".to_owned())
            .spawn(move || accept(&listener, &mine))?;
        Ok(Origin { address, shared })
    }

    /// What it was asked for since the start or the last [`Origin::forget`].
    pub fn counts(&self) -> Counts {
        self.shared.tally().counts.clone()
    }

    /// Counts from nothing again. No answer may be under way.
    pub fn forget(&self) {
        *self.shared.tally() = Tally::default();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        // Counts stay counts when a thread that held them died.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ends.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        if shared.connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let mine = Arc::clone(shared);
        let spawned = std::thread::Builder::new().spawn(move || {
            // A peer that goes away ends its connection and nothing else.
            let _ended = serve(stream, &mine);
            mine.connections.fetch_sub(1, Ordering::SeqCst);
        });
        if spawned.is_err() {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut parser = RequestParser::new(Limits::REQUEST);
    let (mut held, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    loop {
        let request = loop {
            match parser.parse(&held) {
                Ok(Some(request)) => break request,
                Ok(None) => {}
                Err(error) => {
                    let answer = Answer { keep_alive: false, ..Answer::empty(error.status) };
                    return stream.write_all(&answer.head(None));
                }
            }
            let count = stream.read(&mut piece[..16 * 1024])?;
            if count == 0 {
                return Ok(());
            }
            held.extend_from_slice(&piece[..count]);
        };
        held.drain(..request.head_bytes);
        let mut answer = shared.answer(&request);
        // A body could follow: nobody sends one here, and who does gets no second answer.
        answer.keep_alive &=
            request.keep_alive && request.body == tidegate_http1::BodyFraming::None;
        let sent = answer.send(&mut stream, &mut piece, shared);
        answer.close(shared);
        sent?;
        if !answer.keep_alive {
            return Ok(());
        }
    }
}

/// An answer before it is sent.
struct Answer {
    status: u16,
    keep_alive: bool,
    /// The object that was asked for.
    object: Option<Object>,
    /// First and one past the last byte of the body.
    from: u64,
    to: u64,
    /// It is counted as under way.
    open: bool,
    /// HEAD: lengths, and no bytes.
    head_only: bool,
    text: Option<String>,
    max_age_seconds: u32,
}

impl Answer {
    fn empty(status: u16) -> Answer {
        Answer {
            status,
            keep_alive: true,
            object: None,
            from: 0,
            to: 0,
            open: false,
            head_only: false,
            text: None,
            max_age_seconds: 0,
        }
    }

    fn head(&self, tag: Option<&EntityTag>) -> Vec<u8> {
        let mut fields = Fields::with_capacity(8);
        let mut put = |name: &'static str, value: String| {
            fields.append(name, value).expect("names and values are made here, of visible ASCII");
        };
        if let Some(tag) = tag {
            put("etag", tag.to_string());
            put("last-modified", date::format(MODIFIED_UNIX_S));
            put("cache-control", format!("public, max-age={}", self.max_age_seconds));
        }
        if let Some(object) = self.object {
            let segment = object.class.is_segment();
            let kind = if segment { "video/iso.segment" } else { "application/vnd.apple.mpegurl" };
            put("content-type", kind.to_owned());
            put("accept-ranges", "bytes".to_owned());
            if self.status == 206 {
                let (last, size) = (self.to - 1, object.size);
                put("content-range", format!("bytes {}-{last}/{size}", self.from));
            } else if self.status == 416 {
                put("content-range", format!("bytes */{}", object.size));
            }
        }
        put("date", date::format(unix_now()));
        if self.status != 304 {
            let length = self.text.as_ref().map_or(self.to - self.from, |text| text.len() as u64);
            put("content-length", length.to_string());
        }
        if !self.keep_alive {
            put("connection", "close".to_owned());
        }
        let mut out = Vec::with_capacity(512);
        encode_response(self.status, &fields, &mut out);
        out
    }

    fn send(
        &mut self,
        stream: &mut TcpStream,
        piece: &mut [u8],
        shared: &Shared,
    ) -> io::Result<()> {
        if self.object.is_some() && !shared.manners.delay.is_zero() {
            std::thread::sleep(shared.manners.delay);
        }
        let tag = self.object.map(|object| tag_of(&object));
        let mut head = self.head(tag.as_ref());
        if let Some(text) = &self.text {
            head.extend_from_slice(text.as_bytes());
        }
        let Some(object) = self.object.filter(|_| !self.head_only && self.to > self.from) else {
            self.close(shared);
            return stream.write_all(&head);
        };
        // Bytes are made by eights: the first piece may begin a little before the range.
        let mut at = self.from - self.from % 8;
        let mut skip = (self.from % 8) as usize;
        let mut first = Some(head);
        while at < self.to {
            let count = (self.to - at).min(PIECE_BYTES as u64) as usize;
            object.fill(at, &mut piece[..count]);
            let body = &piece[skip..count];
            shared.tally().counts.bytes += body.len() as u64;
            if at + count as u64 == self.to {
                // Before the last bytes go: who has them may ask again before this thread runs on.
                self.close(shared);
            }
            match first.take() {
                // Head and first bytes in one go.
                Some(mut head) => {
                    head.extend_from_slice(body);
                    stream.write_all(&head)?;
                }
                None => stream.write_all(body)?,
            }
            (at, skip) = (at + count as u64, 0);
        }
        Ok(())
    }
}

impl Shared {
    /// Judges and counts a request.
    fn answer(&self, request: &ParsedRequest) -> Answer {
        let head = &request.head;
        if head.path == COUNTS_PATH {
            let counts = self.tally().counts.clone();
            let text = serde_json::to_string(&counts).unwrap_or_default();
            return Answer { text: Some(text), ..Answer::empty(200) };
        }
        let Some(object) = Object::parse(&head.path) else {
            self.tally().counts.unknown += 1;
            return Answer::empty(404);
        };
        if !matches!(head.method, Method::Get | Method::Head) {
            self.tally().counts.unknown += 1;
            return Answer::empty(405);
        }
        let validators =
            Validators { etag: Some(tag_of(&object)), last_modified: Some(MODIFIED_UNIX_S) };
        let now = unix_now();
        let class = CLASSES.iter().position(|class| *class == object.class).unwrap_or_default();
        let mut answer = Answer {
            object: Some(object),
            to: object.size,
            head_only: head.method == Method::Head,
            max_age_seconds: self.manners.max_age_seconds[class],
            ..Answer::empty(200)
        };
        match evaluate(&head.method, &head.fields, &validators, now) {
            Precondition::Proceed => answer.take_range(&head.fields, &validators, now),
            Precondition::NotModified => answer = Answer { status: 304, to: 0, ..answer },
            Precondition::PreconditionFailed => answer = Answer { status: 412, to: 0, ..answer },
        }
        self.tally().begin(&object, answer.status, head);
        Answer { open: true, ..answer }
    }
}

impl Answer {
    /// It is no longer under way.
    fn close(&mut self, shared: &Shared) {
        if let (true, Some(object)) = (std::mem::take(&mut self.open), self.object)
            && let Some(open) = shared.tally().objects.get_mut(&object.identity)
        {
            *open = open.saturating_sub(1);
        }
    }

    fn take_range(&mut self, fields: &Fields, validators: &Validators, now: u64) {
        let specs = fields.get("range").and_then(RangeSpecs::parse);
        let Some(specs) = specs.filter(|_| if_range_allows(fields, validators, Some(now), now))
        else {
            return;
        };
        match specs.resolve(self.to) {
            Resolved::Single(range) => {
                self.status = 206;
                (self.from, self.to) = (*range.start(), *range.end() + 1);
            }
            Resolved::Unsatisfiable => (self.status, self.to) = (416, 0),
            // Several ranges may be answered with the whole (RFC 9110 section 14.2).
            Resolved::Whole | Resolved::Multi(_) => {}
        }
    }
}

impl Tally {
    fn begin(&mut self, object: &Object, status: u16, head: &RequestHead) {
        let segment = object.class.is_segment();
        self.counts.requests += 1;
        self.counts.segment_requests += u64::from(segment);
        self.counts.not_modified += u64::from(status == 304);
        self.counts.partial += u64::from(status == 206);
        if let Some(open) = self.objects.get_mut(&object.identity) {
            if *open > 0 {
                self.counts.overlapping += 1;
                self.counts.first_overlapping.get_or_insert_with(|| {
                    let range = head.fields.get_str("range").unwrap_or("whole");
                    format!("{} {range} {status}", head.path)
                });
            }
            *open += 1;
        } else if self.objects.len() < OBJECTS_MAX {
            self.objects.insert(object.identity, 1);
            self.counts.objects += 1;
            self.counts.segments += u64::from(segment);
        }
    }
}

fn tag_of(object: &Object) -> EntityTag {
    EntityTag { weak: false, opaque: format!("{:016x}-{}", object.identity, object.size).into() }
}

fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
