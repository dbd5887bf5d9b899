//! The scripted origin: it has the items, answers as HTTP asks, and does wrong as the plan says.
//!
//! Each answer names its serial number and its version in `content-location`, which a 304 keeps, too. While it sends
//! bytes, it watches that nobody else is sent the same ones (collapse).

use crate::content::{self, Framing, Tag};
use crate::plan::Sabotage;
use crate::reference::{Answer, Purge, is_shared};
use crate::scene::Stage;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use tidegate_http::{EntityTag, Method, RangeSpecs, RequestHead, Resolved, date};
use tidegate_http1::{LAST_CHUNK, Limits, RequestParser, encode_chunk_head};
use tidegate_ring::{TcpListener, TcpStream, sleep, spawn};

/// Where it listens.
pub fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

const STALL: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(3600);

/// Bytes that are being sent to somebody.
struct Sending {
    stream: Rc<TcpStream>,
    serial: usize,
    node: String,
    item: usize,
    version: usize,
    /// Not sent yet.
    left: Range<u64>,
    since: Duration,
}

/// The origin's own state.
#[derive(Default)]
pub struct Origin {
    sending: RefCell<Vec<Sending>>,
}

/// Listens, and answers for ever.
pub fn start(stage: &Stage) {
    let listener = TcpListener::simulated(address());
    let (stage, origin) = (stage.clone(), Rc::new(Origin::default()));
    spawn(async move {
        while let Some(stream) = listener.accept().await {
            let (stage, origin) = (stage.clone(), origin.clone());
            spawn(async move { serve(stage, origin, stream).await });
        }
    });
}

async fn serve(stage: Stage, origin: Rc<Origin>, stream: TcpStream) {
    let stream = Rc::new(stream);
    let mut buffer = Vec::new();
    let mut parser = RequestParser::new(Limits::REQUEST);
    loop {
        let parsed = loop {
            match parser.parse(&buffer) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) => {}
                Err(error) => {
                    return stage.violation(format!("the origin was asked badly: {error:?}"));
                }
            }
            match stream.receive(&mut buffer).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        };
        buffer.drain(..parsed.head_bytes);
        if !answer(&stage, &origin, &stream, &parsed.head).await {
            return;
        }
    }
}

/// What a request is answered with.
struct Made {
    status: u16,
    body: Range<u64>,
    fields: Vec<String>,
    framing: Framing,
}

/// Answers; `false`: the connection is over.
async fn answer(
    stage: &Stage,
    origin: &Rc<Origin>,
    stream: &Rc<TcpStream>,
    request: &RequestHead,
) -> bool {
    let faults = stage.plan.origin;
    stage.tally.borrow_mut().origin_questions += 1;
    let is_deaf = stage.plan.sabotage == Some(Sabotage::Alternates);
    let language = request.fields.get_str("accept-language").filter(|_| !is_deaf);
    let found = stage.items.borrow().iter().position(|item| {
        item.path == request.path && (item.alternate.is_none() || item.language() == language)
    });
    let Some(item) = found else {
        stage.violation(format!("the origin was asked for {}, which nobody wanted", request.path));
        return false;
    };
    let asked = stage.now();
    if stage.fault(faults.hangs) {
        stage.trouble(Duration::from_secs(120));
        stage.world.event("origin hangs", item as u64, 0);
        sleep(Duration::from_secs(stage.between(16, 90))).await;
        return false;
    }
    if stage.fault(faults.slow_heads) {
        let span = Duration::from_millis(stage.between(100, 14_000));
        stage.trouble(span);
        sleep(span).await;
    } else {
        sleep(Duration::from_millis(stage.between(0, 30))).await;
    }
    if stage.fault(faults.garbage) {
        stage.trouble(Duration::from_secs(5));
        let junk: &[u8] = match stage.below(4) {
            0 => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            1 => b"\0\0\0\0\r\n\r\n",
            2 => b"HTTP/1.1 200 OK\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            _ => b"",
        };
        let _gone = stream.send_all(&[junk], STALL).await;
        return false;
    }
    if request.method == Method::Post {
        return post(stage, stream, &request.path).await;
    }
    let (serial, made, version) = {
        let items = stage.items.borrow();
        let (version, now) = items[item].current();
        let failed = stage.fault(faults.errors);
        let made = if failed { failure(stage) } else { make(stage, item, request) };
        let mut answers = stage.answers.borrow_mut();
        answers.push(Answer {
            item,
            version,
            headed: stage.now(),
            tagged: now.tag != Tag::None && matches!(made.status, 200 | 206 | 304),
            status: made.status,
            policy: now.policy,
            passed: request.path.starts_with("/pass/"),
            asked,
            done: stage.now(),
            delivered: 0,
        });
        (answers.len() - 1, made, version)
    };
    if (500..600).contains(&made.status) {
        stage.trouble(Duration::from_secs(5));
    }
    stage.world.event("origin answers", serial as u64, u64::from(made.status));
    stage.world.tell(|| {
        format!(
            "  serial {serial}: {} {} range {:?} for {:?}: {} version {version} body {:?}",
            request.method.as_str(),
            request.path,
            request.fields.get_str("range"),
            request.fields.get_str("via"),
            made.status,
            made.body,
        )
    });
    note_resume(stage, item, version, serial);
    // A request that is passed on is one client's own.
    let tagged = stage.items.borrow()[item].versions[version].tag != Tag::None;
    let shared = is_shared(&stage.answers.borrow()[serial], tagged);
    // What was asked for by the tag of another version is not wanted as it is now.
    let current = stage.items.borrow()[item].etag(version);
    let meant =
        request.fields.get_str("if-range").is_none_or(|tag| Some(tag) == current.as_deref());
    if shared
        && meant
        && matches!(made.status, 200 | 206)
        && !request.fields.contains("x-forwarded-for")
    {
        let via =
            request.fields.combined("via").map(|value| value.into_owned()).unwrap_or_default();
        let via = String::from_utf8_lossy(&via).into_owned();
        let node = via.rsplit(", ").next().unwrap_or_default().to_owned();
        // What it asked for, not what comes where no parts are given.
        let range = request.fields.get("range").and_then(RangeSpecs::parse);
        let left = match range.map(|range| range.resolve(made.body.end)) {
            Some(Resolved::Single(range)) if made.status == 200 => *range.start()..range.end() + 1,
            _ => made.body.clone(),
        };
        let (stream, since) = (stream.clone(), stage.now());
        watch(stage, origin, Sending { stream, serial, node, item, version, left, since });
    }
    let went_well = send(stage, origin, stream, request, &made, (item, version, serial)).await;
    origin.sending.borrow_mut().retain(|sending| sending.serial != serial);
    note_resume(stage, item, version, serial);
    went_well
}

/// A POST makes new versions of what is at a path; what was asked for before is not valid once its answer has come.
async fn post(stage: &Stage, stream: &TcpStream, path: &str) -> bool {
    let failed = stage.fault(stage.plan.origin.errors);
    let mut head = "HTTP/1.1 500 x\r\n".to_owned();
    if !failed {
        let now = stage.now();
        let reached = {
            let mut items = stage.items.borrow_mut();
            let at = |n: &usize| items[*n].path == path;
            let reached: Vec<usize> = (0..items.len()).filter(at).collect();
            for n in &reached {
                items[*n].change(stage.plan.sizes, now, &mut stage.random.borrow_mut());
            }
            reached
        };
        let mut purges = stage.purges.borrow_mut();
        purges.push(Purge { hard: true, items: reached, sent: now, receipt: None });
        head = format!("HTTP/1.1 200 x\r\nx-posted: {}\r\n", purges.len() - 1);
        stage.world.event("origin takes a post", purges.len() as u64, 0);
    }
    head.push_str("content-length: 0\r\n\r\n");
    stream.send_all(&[head.as_bytes()], STALL).await.is_ok()
}

/// Whoever asks for more of a version goes on with a body that broke off: the earlier answers are not done.
fn note_resume(stage: &Stage, item: usize, version: usize, serial: usize) {
    let now = stage.now();
    let mut answers = stage.answers.borrow_mut();
    for (number, answer) in answers[..=serial].iter_mut().enumerate() {
        let same = answer.item == item && answer.version == version;
        if number == serial || (same && now < answer.done + RESUMED_WITHIN) {
            answer.done = now;
        }
    }
}

/// A body that breaks off is asked for again within this time.
const RESUMED_WITHIN: Duration = Duration::from_secs(20);

fn failure(stage: &Stage) -> Made {
    let status = [500, 502, 503, 504][stage.below(4) as usize];
    let framing = if stage.chance(500) { Framing::Length } else { Framing::Chunked };
    Made { status, body: 0..0, fields: Vec::new(), framing }
}

fn make(stage: &Stage, item: usize, request: &RequestHead) -> Made {
    let items = stage.items.borrow();
    let thing = &items[item];
    let (number, version) = thing.current();
    let etag = thing.etag(number);
    let mut fields = vec![format!("surrogate-key: {}", thing.surrogate)];
    if thing.alternate.is_some() {
        fields.push("vary: accept-language".to_owned());
    }
    let mut policy = version.policy;
    if stage.plan.sabotage == Some(Sabotage::Freshness) {
        policy.max_age = policy.max_age.map(|seconds| seconds + 5);
    }
    let control = policy.render();
    if !control.is_empty() {
        fields.push(format!("cache-control: {control}"));
    }
    fields.extend(etag.iter().map(|tag| format!("etag: {tag}")));
    let whole = 0..version.len;
    let lies = stage.fault(stage.plan.origin.lies);
    if lies {
        stage.trouble(Duration::from_secs(5));
    }
    let asked_tags = request.fields.get_str("if-none-match").unwrap_or_default();
    let confirmed = version.status == 200
        && version.tag != Tag::None
        && etag.as_ref().is_some_and(|tag| asked_tags.contains(tag.trim_start_matches("W/")));
    if confirmed {
        return Made { status: 304, body: 0..0, fields, framing: Framing::Length };
    }
    let range = request.fields.get("range").and_then(RangeSpecs::parse);
    let if_range = request.fields.get("if-range").and_then(EntityTag::parse);
    let current = etag.as_deref().and_then(|tag| EntityTag::parse(tag.as_bytes()));
    // Some servers do not know If-Range; their ETag tells what they gave.
    let careless = stage.plan.origin.lies > 0 && stage.chance(300);
    let allowed = match (request.fields.get("if-range"), if_range, current) {
        (None, _, _) => true,
        (Some(_), Some(wanted), Some(current)) => wanted.strong_eq(&current) || careless,
        _ => false,
    };
    if lies && stage.chance(300) {
        // Not what was asked for, though what it says of itself is true.
        let start = stage.below(version.len + 1);
        let end = stage.between(start, version.len);
        if end > start {
            fields.push(format!("content-range: bytes {start}-{}/{}", end - 1, version.len));
            return Made { status: 206, body: start..end, fields, framing: version.framing };
        }
    }
    if version.status == 200 && version.ranges && allowed && request.method == Method::Get {
        match range.map(|range| range.resolve(version.len)) {
            Some(Resolved::Single(range)) => {
                let (start, end) = (*range.start(), range.end() + 1);
                fields.push(format!("content-range: bytes {start}-{}/{}", end - 1, version.len));
                return Made { status: 206, body: start..end, fields, framing: version.framing };
            }
            Some(Resolved::Unsatisfiable) => {
                fields.push(format!("content-range: bytes */{}", version.len));
                return Made { status: 416, body: 0..0, fields, framing: Framing::Length };
            }
            _ => {}
        }
    }
    Made { status: version.status, body: whole, fields, framing: version.framing }
}

/// The same bytes of the same version are on their way to the same node already, and nothing speaks for asking again.
fn watch(stage: &Stage, origin: &Origin, asked: Sending) {
    let plan = &stage.plan;
    // Where bodies break off or stall, they are asked for again.
    let sound = !plan.origin.any() && !plan.net.any() && plan.crashes == 0;
    let mut sending = origin.sending.borrow_mut();
    for earlier in sending.iter().filter(|_| sound) {
        let same = earlier.node == asked.node
            && (earlier.item, earlier.version) == (asked.item, asked.version)
            && !earlier.stream.is_deserted();
        let overlaps = earlier.left.start < asked.left.end && asked.left.start < earlier.left.end;
        let purged = stage.purges.borrow().iter().any(|purge| {
            purge.items.contains(&asked.item) && purge.sent + PURGE_SPAN >= earlier.since
        });
        if same && overlaps && !purged {
            stage.violation(format!(
                "{} asks for bytes {:?} of item {} by serial {}, while serial {} is still sending {:?} to it",
                asked.node, asked.left, asked.item, asked.serial, earlier.serial, earlier.left
            ));
        }
    }
    sending.push(asked);
}

/// How long an order may be on its way.
const PURGE_SPAN: Duration = Duration::from_secs(6);

async fn send(
    stage: &Stage,
    origin: &Rc<Origin>,
    stream: &TcpStream,
    request: &RequestHead,
    made: &Made,
    (item, version, serial): (usize, usize, usize),
) -> bool {
    let faults = stage.plan.origin;
    let len = made.body.end - made.body.start;
    let mut head = format!("HTTP/1.1 {} x\r\n", made.status);
    for field in &made.fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    // The origin's clock is right, whatever the node's says.
    let unix = EPOCH + stage.now();
    head.push_str(&format!(
        "date: {}\r\ncontent-location: /{serial}/{version}\r\n",
        date::format(unix.as_secs())
    ));
    let bodiless = made.status == 304 || request.method == Method::Head;
    // The end of a body that ends with its connection can not be told from a cut.
    let cut = stage.fault(faults.cuts) && made.framing != Framing::Close;
    let cut = cut.then(|| made.body.start + stage.below(len + 1));
    let longer = stage.fault(faults.lies) && stage.chance(300);
    if cut.is_some() || longer {
        stage.trouble(Duration::from_secs(10));
    }
    match made.framing {
        _ if made.status == 304 => {}
        Framing::Length => {
            let told = len + if longer { stage.between(1, 5000) } else { 0 };
            head.push_str(&format!("content-length: {told}\r\n"));
        }
        Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
        Framing::Close => head.push_str("connection: close\r\n"),
    }
    head.push_str("\r\n");
    if stream.send_all(&[head.as_bytes()], STALL).await.is_err() {
        return false;
    }
    if bodiless {
        return true;
    }
    let slow = stage.fault(faults.slow_bodies);
    let sabotaged = stage.plan.sabotage == Some(Sabotage::Bytes) && serial % 5 == 4;
    let key = content::key(item, version + usize::from(sabotaged));
    let mut at = made.body.start;
    while at < made.body.end {
        if cut.is_some_and(|cut| at >= cut) {
            stage.world.event("origin cuts", serial as u64, at);
            return false; // whether by an end or a reset, the connection's drop decides
        }
        let most = if slow { 3_000 } else { 64 * 1024 };
        let mut end = made.body.end.min(at + stage.between(1, most));
        if let Some(cut) = cut {
            end = end.min(cut.max(at + 1));
        }
        let piece = content::bytes(key, at, (end - at) as usize);
        let sent = if made.framing == Framing::Chunked {
            let mut before = Vec::new();
            encode_chunk_head(piece.len() as u64, &mut before);
            stream.send_all(&[&before, &piece, b"\r\n"], STALL).await
        } else {
            // Where the end of the connection is the end of the body, giving up on a slow reader would pass for the end.
            let patience = if made.framing == Framing::Close { LONG } else { STALL };
            stream.send_all(&[&piece], patience).await
        };
        if sent.is_err() {
            return false;
        }
        at = end;
        note_resume(stage, item, version, serial);
        for sending in origin.sending.borrow_mut().iter_mut().filter(|s| s.serial == serial) {
            sending.left.start = sending.left.start.max(at);
        }
        if slow {
            let span = Duration::from_millis(stage.between(10, 4_000));
            stage.trouble(span);
            sleep(span).await;
        }
    }
    if cut.is_some() {
        return false; // at the very end
    }
    if made.framing == Framing::Chunked && stream.send_all(&[LAST_CHUNK], STALL).await.is_err() {
        return false;
    }
    let longer = longer && made.framing == Framing::Length;
    !longer && made.framing != Framing::Close && !stage.fault(faults.closes)
}

/// Unix time at the beginning of each run: 2026-11-20.
pub const EPOCH: Duration = Duration::from_secs(1_795_132_800);
