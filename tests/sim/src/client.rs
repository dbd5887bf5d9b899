//! Clients: random requests, and the judgement of each response by oracle and reference.

use crate::content::{self, Tag};
use crate::node::{ADMIN_HEX, HOST, SERVICE, admin, http};
use crate::plan::Sabotage;
use crate::reference::{Circumstances, Purge, permits};
use crate::scene::Stage;
use std::time::Duration;
use tidegate_contract::{AdminKey, Order};
use tidegate_http::{ContentRange, Fields, Method};
use tidegate_http1::{ChunkedDecoder, Limits, ResponseBody, ResponseParser};
use tidegate_ring::{TcpStream, sleep, timeout, wall_now};

const STALL: Duration = Duration::from_secs(30);
/// A client gives up after this.
const PATIENCE: Duration = Duration::from_secs(400);

/// How often a slow reader pauses in one response.
const PAUSES_MAX: u32 = 60;

/// What a client asks.
#[derive(Debug, Clone)]
pub struct Asked {
    pub item: usize,
    pub method: Method,
    pub fields: Vec<(&'static str, String)>,
    /// It leaves when so many bytes of the response came.
    pub abort_at: Option<usize>,
    pub slow: bool,
}

impl Asked {
    fn plain(item: usize) -> Asked {
        Asked { item, method: Method::Get, fields: Vec::new(), abort_at: None, slow: false }
    }

    fn draw(stage: &Stage) -> Asked {
        let items = stage.items.borrow();
        let item = stage.below(items.len() as u64) as usize;
        let mut asked = Asked::plain(item);
        if stage.plan.posts > 0 && stage.chance(stage.plan.posts) {
            asked.method = Method::Post;
            return asked;
        }
        if stage.chance(100) {
            asked.method = Method::Head;
        }
        let (_, version) = items[item].current();
        let len = version.len.max(1);
        // Now and then beyond the end.
        let at = |slack: u64| stage.below(len + len / 8 + slack);
        let range = match stage.below(100) {
            0..=14 => {
                let (a, b) = (at(10), at(10));
                Some(format!("bytes={}-{}", a.min(b), a.max(b)))
            }
            15..=22 => Some(format!("bytes={}-", at(10))),
            23..=29 => Some(format!("bytes=-{}", at(10))),
            30..=33 => {
                let (a, b) = (at(1), at(1));
                Some(format!("bytes=0-{}, {}-{}", len / 16, a.max(b), a.max(b) + len / 16))
            }
            _ => None,
        };
        let count = items[item].versions.len() as u64;
        let some_tag = || items[item].etag(stage.below(count) as usize);
        if let Some(range) = range {
            asked.fields.push(("range", range));
            if stage.chance(150)
                && let Some(tag) = some_tag()
            {
                asked.fields.push(("if-range", tag));
            }
        }
        if stage.chance(120)
            && let Some(tag) = some_tag()
        {
            asked.fields.push(("if-none-match", tag));
        }
        if stage.chance(60) {
            asked.fields.push(("cache-control", "no-cache".to_owned()));
        } else if stage.chance(30) {
            asked.fields.push(("cache-control", "only-if-cached".to_owned()));
        }
        if stage.chance(25) {
            asked.fields.push(("authorization", "Basic eDp5".to_owned()));
        }
        if stage.fault(stage.plan.aborts) {
            asked.abort_at = Some(stage.below(len + 300) as usize);
        }
        asked.slow = stage.fault(stage.plan.slow_readers);
        asked
    }

    fn has(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }
}

/// What came.
#[derive(Debug)]
struct Reply {
    status: u16,
    fields: Fields,
    body: Vec<u8>,
    /// The body came whole.
    complete: bool,
    /// The client left before.
    left: bool,
    came: Duration,
    keep_alive: bool,
}

/// Asks until the end of its time.
pub async fn live(stage: Stage, front: &'static str, until: Duration) {
    let mut connection = None;
    while stage.now() < until {
        let pause = match stage.below(10) {
            0..=4 => stage.between(0, 50),
            5..=8 => stage.between(0, 1500),
            _ => stage.between(0, 9000),
        };
        sleep(Duration::from_millis(pause)).await;
        let asked = Asked::draw(&stage);
        let is_beyond = |max| stage.tally.borrow().requests >= max;
        if stage.plan.requests_max.is_some_and(is_beyond) {
            return;
        }
        if stage.chance(200) {
            connection = None;
        }
        let began = stage.now();
        let limit = PATIENCE;
        match timeout(limit, exchange(&stage, front, &mut connection, &asked)).await {
            Ok(Some((_, reply))) if asked.method == Method::Post => posted(&stage, &reply),
            Ok(Some((began, reply))) => judge(&stage, &asked, began, &reply),
            Ok(None) => no_answer(&stage, &asked),
            Err(_) => {
                connection = None;
                stage.tally.borrow_mut().broken += 1;
                // Behind a link that swallows bytes, or a machine that is gone, nobody can help; that the node lets go of
                // it is seen at the end.
                let plan = &stage.plan;
                if !plan.net.any() && plan.crashes == 0 && plan.origin.slow_bodies == 0 {
                    stage.violation(format!(
                        "{asked:?}, begun at {began:?}, has not ended after {limit:?}"
                    ));
                }
            }
        }
    }
}

/// With all faults off: the whole of an item must come, and soon.
pub async fn ask_whole(stage: &Stage, front: &'static str, item: usize, within: Duration) {
    let asked = Asked::plain(item);
    let ask = || {
        timeout(within, async {
            let mut connection = None;
            exchange(stage, front, &mut connection, &asked).await
        })
    };
    let mut outcome = ask().await;
    // A block that the disk has spoilt, of a version that nobody can be asked for: that is found out once.
    let lasting = {
        let items = stage.items.borrow();
        items[item].current().1.tag == Tag::Strong
    };
    let spoilt = stage.plan.disk_fails() && !lasting;
    if spoilt && matches!(&outcome, Ok(Some((_, reply))) if !reply.complete) {
        outcome = ask().await;
    }
    match outcome {
        Ok(Some((began, reply))) => {
            judge(stage, &asked, began, &reply);
            let expected = matches!(reply.status, 200 | 404);
            if !expected || !reply.complete {
                stage.violation(format!(
                    "item {item} can not be had with all faults off: status {}, {} bytes, complete: {}",
                    reply.status,
                    reply.body.len(),
                    reply.complete
                ));
            }
        }
        Ok(None) => stage.violation(format!("item {item}: no answer with all faults off")),
        Err(_) => stage.violation(format!("item {item}: no answer within {within:?}")),
    }
}

/// An answer to POST makes invalid what was asked for before (RFC 9111 §4.4).
fn posted(stage: &Stage, reply: &Reply) {
    let Some(number) = reply.fields.get_str("x-posted").and_then(|n| n.parse::<usize>().ok())
    else {
        return;
    };
    stage.world.event("posted", number as u64, 0);
    stage.tally.borrow_mut().invalidations += 1;
    if stage.plan.sabotage == Some(Sabotage::Posts) {
        let count = stage.items.borrow().len();
        stage.purges.borrow_mut()[number].items = (0..count).collect();
    }
    if stage.plan.keeps_invalidations() {
        stage.purges.borrow_mut()[number].receipt = Some(reply.came);
    }
}

fn no_answer(stage: &Stage, asked: &Asked) {
    stage.tally.borrow_mut().broken += 1;
    if stage.plan.is_quiet() && asked.abort_at.is_none() {
        stage.violation(format!("{asked:?} was not answered, and nothing had failed"));
    }
}

/// One request; `None`: no head came. A kept connection may have been closed: then once more on a new one.
async fn exchange(
    stage: &Stage,
    front: &'static str,
    connection: &mut Option<TcpStream>,
    asked: &Asked,
) -> Option<(Duration, Reply)> {
    stage.tally.borrow_mut().requests += 1;
    for _ in 0..2 {
        let began = stage.now();
        let kept = connection.is_some();
        let stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(http(front)).await.ok()?,
        };
        if let Some(reply) = one(stage, &stream, asked).await {
            if reply.keep_alive && reply.complete {
                *connection = Some(stream);
            }
            return Some((began, reply));
        }
        if !kept {
            return None;
        }
    }
    None
}

async fn one(stage: &Stage, stream: &TcpStream, asked: &Asked) -> Option<Reply> {
    let mut head = {
        let item = &stage.items.borrow()[asked.item];
        let method = asked.method.as_str();
        let language = item.language().map(|language| format!("accept-language: {language}\r\n"));
        let language = language.unwrap_or_default();
        format!("{method} {} HTTP/1.1\r\nhost: {HOST}\r\n{language}", item.path)
    };
    if asked.method == Method::Post {
        head.push_str("content-length: 0\r\n");
    }
    for (name, value) in &asked.fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.send_all(&[head.as_bytes()], STALL).await.ok()?;
    let mut buffer = Vec::new();
    let mut parser = ResponseParser::new(Limits::RESPONSE);
    let parsed = loop {
        match stream.receive(&mut buffer).await {
            Ok(n) if n > 0 => {}
            _ => return None,
        }
        match parser.parse(&buffer, &asked.method) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) => {}
            Err(error) => {
                stage.violation(format!("{asked:?} got a bad head: {error:?}"));
                return None;
            }
        }
    };
    let came = stage.now();
    buffer.drain(..parsed.head_bytes);
    let mut body = Vec::new();
    let mut decoder = ChunkedDecoder::new();
    let (mut complete, mut left, mut pauses) = (false, false, 0);
    loop {
        match parsed.body {
            ResponseBody::None => complete = true,
            ResponseBody::Length(length) => {
                body.append(&mut buffer);
                complete = body.len() as u64 >= length;
                if body.len() as u64 > length {
                    stage.violation(format!("{asked:?} got more bytes than were announced"));
                }
            }
            ResponseBody::UntilClose => body.append(&mut buffer),
            ResponseBody::Chunked => {
                let mut at = 0;
                loop {
                    let Ok(step) = decoder.decode(&buffer[at..]) else {
                        stage.violation(format!("{asked:?} got broken chunks"));
                        return None;
                    };
                    body.extend_from_slice(&buffer[at..][step.data]);
                    at += step.consumed;
                    if step.done || step.consumed == 0 {
                        break;
                    }
                }
                buffer.drain(..at);
                complete = decoder.is_done();
            }
        }
        if complete {
            break;
        }
        if asked.abort_at.is_some_and(|limit| body.len() >= limit) {
            left = true;
            break;
        }
        if asked.slow && pauses < PAUSES_MAX && stage.chance(300) {
            pauses += 1;
            sleep(Duration::from_millis(stage.between(1, 3_000))).await;
        }
        match stream.receive(&mut buffer).await {
            Ok(0) => {
                complete = matches!(parsed.body, ResponseBody::UntilClose);
                break;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Some(Reply {
        status: parsed.head.status,
        fields: parsed.head.fields,
        body,
        complete,
        left,
        came,
        keep_alive: parsed.keep_alive && !left,
    })
}

/// Serial number and version of the origin's answer that this came of.
fn name(fields: &Fields) -> Option<(usize, usize)> {
    let (serial, version) =
        fields.get_str("content-location")?.strip_prefix('/')?.split_once('/')?;
    Some((serial.parse().ok()?, version.parse().ok()?))
}

/// Holds a response against oracle and reference.
fn judge(stage: &Stage, asked: &Asked, began: Duration, reply: &Reply) {
    let serial = name(&reply.fields);
    stage.world.event("reply", u64::from(reply.status), reply.body.len() as u64);
    stage.world.tell(|| {
        format!(
            "  {} item {} {:?} begun {began:?}: {} serial {serial:?} {} bytes, complete {}, {:?}",
            asked.method.as_str(),
            asked.item,
            asked.fields,
            reply.status,
            reply.body.len(),
            reply.complete,
            reply.fields.get_str("cache-status"),
        )
    });
    {
        let mut tally = stage.tally.borrow_mut();
        tally.body_bytes += reply.body.len() as u64;
        tally.complete += u64::from(reply.complete);
        tally.broken += u64::from(!reply.complete && !reply.left);
        tally.not_modified += u64::from(reply.status == 304);
        tally.parts += u64::from(reply.status == 206);
        tally.errors += u64::from(reply.status >= 500);
    }
    if let Err(what) = verdict(stage, asked, began, reply) {
        stage.violation(format!(
            "{what}\n    asked: {asked:?}, begun at {began:?}, head at {:?}\n    got: {} {:?}, {} bytes, complete: {}",
            reply.came,
            reply.status,
            reply.fields.iter().map(|(n, v)| (n, String::from_utf8_lossy(v))).collect::<Vec<_>>(),
            reply.body.len(),
            reply.complete,
        ));
    }
}

fn verdict(stage: &Stage, asked: &Asked, began: Duration, reply: &Reply) -> Result<(), String> {
    let quiet = stage.plan.is_quiet() || !stage.faulty.get();
    if quiet
        && stage.plan.is_quiet()
        && !reply.complete
        && !reply.left
        && !changed(stage, asked, began)
    {
        return Err("it ended short, and nothing had failed".to_owned());
    }
    let Some((serial, version)) = name(&reply.fields) else {
        return match reply.status {
            504 if asked.has("cache-control") == Some("only-if-cached") => Ok(()),
            500..=504 if !stage.plan.is_quiet() => Ok(()),
            // The client's own request did not come through.
            408 if stage.plan.net.any() && !reply.fields.contains("via") => Ok(()),
            // What the origin stammers may look like a head.
            200 if stage.plan.origin.garbage > 0 && reply.body.is_empty() => Ok(()),
            status => Err(format!("the node made up a {status}")),
        };
    };
    let items = stage.items.borrow();
    let item = &items[asked.item];
    let mut answers = stage.answers.borrow_mut();
    let answer = answers.get(serial).ok_or("its serial number was never given")?;
    // A failure is no alternate: the question that met it may have been one for the path alone.
    let is_failure = answer.status >= 500 && reply.status == answer.status;
    if is_failure && item.alternate.is_some() && items[answer.item].path == item.path {
        return Ok(());
    }
    if answer.item != asked.item {
        return Err(format!("it is of item {}", answer.item));
    }
    if version != answer.version {
        return Err(format!("serial {serial} was of version {}", answer.version));
    }
    let status = reply.fields.combined("cache-status").unwrap_or_default();
    let joined = status.windows(9).any(|word| word == b"collapsed");
    // Before an edge, a parent passes a body on at the pace of its own link; what broke off is asked for again.
    let flight = match (stage.plan.net.slow, stage.plan.edge) {
        (0, false) if !stage.plan.origin.any() && !stage.plan.net.any() => 2,
        (0, _) => 120,
        _ => 600,
    };
    let around = Circumstances {
        joined: joined.then_some(Duration::from_secs(flight)),
        began,
        came: reply.came,
        trouble: stage.was_trouble(began, reply.came),
        slack: Duration::from_secs(u64::from(stage.plan.edge))
            + Duration::from_secs(if stage.plan.wall_steps > 0 { 20 } else { 0 }),
        purges_from: stage.purges_from.get(),
    };
    permits(answer, &stage.purges.borrow(), around)
        .map_err(|why| format!("serial {serial} of version {version} may not be given: {why}"))?;
    let key = content::key(asked.item, version);
    let len = item.versions[version].len;
    let own = item.versions[version].status;
    let check = |offset: u64, bytes: &[u8]| match content::first_wrong(key, offset, bytes) {
        None => Ok(()),
        Some(at) => Err(format!("byte {at} is not of version {version}")),
    };
    let whole = reply.complete && asked.method == Method::Get;
    match reply.status {
        304 => {
            let tags = asked.has("if-none-match").ok_or("a 304 that was not asked for")?;
            let tag = item.etag(version).ok_or("a 304 of a version without a tag")?;
            if tags.trim_start_matches("W/") != tag.trim_start_matches("W/") {
                return Err("a 304 of another version than the client has".to_owned());
            }
        }
        206 => {
            if asked.has("range").is_none() && !stage.plan.origin.any() {
                return Err("a part that was not asked for".to_owned());
            }
            let multi =
                reply.fields.get_str("content-type").is_some_and(|t| t.starts_with("multipart"));
            if multi {
                if whole {
                    let lies = stage.plan.origin.lies > 0;
                    check_parts(&reply.body, (!lies).then_some(len), check)?;
                }
            } else {
                let range = reply.fields.get("content-range").and_then(ContentRange::parse);
                let range = range.and_then(|r| Some((r.range?, r.length?)));
                let (range, total) = range.ok_or("a part that does not say which")?;
                let lies = stage.plan.origin.lies > 0 && total > len && *range.start() < len;
                if !lies && (total != len || *range.end() >= len) {
                    return Err(format!("a part of {total} bytes of a version of {len}"));
                }
                let expected = range.end() - range.start() + 1;
                if whole && reply.body.len() as u64 != expected {
                    return Err(format!("{expected} bytes were announced"));
                }
                check(*range.start(), &reply.body)?;
            }
        }
        416 => {
            if asked.has("range").is_none() {
                return Err("a 416 without a range".to_owned());
            }
        }
        status if status == own => {
            if whole && reply.body.len() as u64 != len {
                return Err(format!("{len} bytes are the whole of version {version}"));
            }
            check(0, &reply.body)?;
        }
        500..=599 if answer.status == reply.status => {}
        status => return Err(format!("nobody said {status}")),
    }
    stage.tally.borrow_mut().alternates += u64::from(item.alternate.is_some());
    if let Some(answer) = answers.get_mut(serial) {
        answer.delivered += 1;
    }
    Ok(())
}

/// Whether another version came while this request may have been under way: without a strong tag its body can not be
/// completed then.
fn changed(stage: &Stage, asked: &Asked, began: Duration) -> bool {
    let items = stage.items.borrow();
    let item = &items[asked.item];
    let (_, version) = item.current();
    version.tag != Tag::Strong
        || version.since + Duration::from_secs(60) >= began
        || !version.ranges
}

/// The parts of a multipart/byteranges body.
fn check_parts(
    body: &[u8],
    len: Option<u64>,
    check: impl Fn(u64, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut rest = body;
    let mut parts = 0;
    loop {
        let end = rest.windows(4).position(|w| w == b"\r\n\r\n");
        let Some(end) = end.filter(|_| rest.starts_with(b"\r\n--tidegate-")) else { break };
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        let line = head.lines().find_map(|line| line.strip_prefix("content-range: "));
        let range = line.and_then(|line| ContentRange::parse(line.as_bytes()));
        let range = range.filter(|r| len.is_none() || r.length == len).and_then(|r| r.range);
        let range = range.ok_or("a part without a good content-range")?;
        let n = (range.end() - range.start() + 1) as usize;
        let bytes = rest.get(end + 4..end + 4 + n).ok_or("a part that is cut off")?;
        check(*range.start(), bytes)?;
        rest = &rest[end + 4 + n..];
        parts += 1;
    }
    if parts < 2 { Err(format!("{parts} parts")) } else { Ok(()) }
}

/// Has everybody purge something, parents first, and notes the receipt when all gave one.
pub async fn purge(stage: &Stage, nodes: &[&'static str]) {
    let (hard, order, items) = {
        let items = stage.items.borrow();
        let item = stage.below(items.len() as u64) as usize;
        let path = items[item].path.clone();
        let all = |which: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..items.len()).filter(|n| which(*n)).collect()
        };
        let hard = stage.chance(650);
        let mode = if hard { "hard" } else { "soft" };
        let (what, reached) = match stage.below(10) {
            0..=4 => {
                let at = |n: usize| items[n].path == path;
                (format!("\"url\":\"http://{HOST}{path}\""), all(&at))
            }
            5 | 6 => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
                let within = |n: usize| items[n].path.starts_with(&format!("{folder}/"));
                (
                    format!("\"delivery_service\":\"{SERVICE}\",\"prefix\":\"{folder}\""),
                    all(&within),
                )
            }
            7 | 8 => {
                let tag = items[item].surrogate.clone();
                let tagged = |n: usize| items[n].surrogate == tag;
                (format!("\"delivery_service\":\"{SERVICE}\",\"tag\":\"{tag}\""), all(&tagged))
            }
            _ => (format!("\"delivery_service\":\"{SERVICE}\",\"all\":true"), all(&|_| true)),
        };
        (hard, format!("{{\"mode\":\"{mode}\",{what}}}"), reached)
    };
    stage.tally.borrow_mut().purges += 1;
    stage.world.tell(|| format!("  purge {order}"));
    let number = {
        let mut purges = stage.purges.borrow_mut();
        purges.push(Purge { hard, items, sent: stage.now(), receipt: None });
        purges.len() - 1
    };
    stage.world.event("purge", number as u64, u64::from(hard));
    let told = if stage.plan.sabotage == Some(Sabotage::Purges) { &[] } else { nodes };
    for node in told {
        let ordered = timeout(Duration::from_secs(10), give_order(stage, node, &order)).await;
        if !matches!(ordered, Ok(true)) {
            if stage.plan.is_quiet() {
                stage.violation(format!("{node} did not follow {order}"));
            }
            return;
        }
    }
    stage.world.event("purged", number as u64, 0);
    stage.purges.borrow_mut()[number].receipt = Some(stage.now());
    stage.tally.borrow_mut().receipts += 1;
}

/// Orders a purge; whether the node said that it is done.
pub async fn give_order(stage: &Stage, node: &'static str, body: &str) -> bool {
    let Ok(stream) = TcpStream::connect(admin(node)).await else { return false };
    let key = AdminKey::from_hex(&ADMIN_HEX.repeat(32)).expect("64 digits");
    let order = Order { method: "POST", node, target: "/purge", body: body.as_bytes() };
    let unix = wall_now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let signed = key.sign(&order, unix, stage.below(u64::MAX));
    let request = format!(
        "POST /purge HTTP/1.1\r\nhost: {node}\r\nauthorization: {signed}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    if stream.send_all(&[request.as_bytes()], STALL).await.is_err() {
        return false;
    }
    let mut came = Vec::new();
    while stream.receive(&mut came).await.is_ok_and(|n| n > 0) {
        if came.len() >= 12 {
            break;
        }
    }
    stage.world.tell(|| String::from_utf8_lossy(&came).lines().next().unwrap_or("").to_owned());
    came.starts_with(b"HTTP/1.1 200")
}
