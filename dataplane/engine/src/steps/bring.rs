//! The body of a fill: brought in for everybody who reads it, for the RAM tier and for the store, and resumed when it breaks off.
//!
//! Must stay true: a body that breaks off is resumed only with bytes of the same strong validator, and fails for its readers
//! otherwise; nothing of a failed fill is marked whole; a part without a strong validator is taken only out of a whole that
//! is otherwise, byte for byte, what lies here.

use crate::clock::wall_ms;
use crate::fill::Fill;
use crate::next_hop::{Question, ask_any};
use crate::node::Core;
use crate::object::{INLINE_BODY_BYTES_MAX, Object};
use crate::reader::ObjectReader;
use crate::session::Busy;
use crate::steps::fill::{Passed, fill_fields, send_chosen};
use crate::steps::keep::{is_head_gone, keep, stream_of};
use crate::view::View;
use bytes::{Buf, Bytes};
use std::rc::Rc;
use std::sync::Arc;
use tidegate_fill::{Answer, Body, FillError, Request};
use tidegate_http::{ContentRange, Fields, Method, Validators};
use tidegate_ring::now;
use tidegate_store::{ExtentKey, Stream};
use tidegate_types::limits::{BLOCK_BYTES, OBJECT_BYTES_MAX};

/// How often a body that broke off is resumed.
const RESUMES_MAX: u32 = 3;

/// Brings a body in: to the readers at once, to the RAM tier and the store block by block.
pub struct Bringing {
    pub core: Rc<Core>,
    pub view: Arc<View>,
    pub service: usize,
    pub object: Arc<Object>,
    pub fill: Arc<Fill>,
    pub target: String,
    pub place: u64,
    pub passed: Passed,
    /// A stop waits for it: clients of other cores may read along.
    pub(crate) _busy: Busy,
}

impl Drop for Bringing {
    fn drop(&mut self) {
        // Harmless when it ended well; when the task was dropped, nobody may wait for it.
        self.core.node.table.end_fill(self.object.key, &self.fill);
        self.fill.abandon();
        self.core.counters.fills_open.decrement();
    }
}

impl Bringing {
    /// The whole of it.
    pub async fn run(self, body: Body) {
        let total = self.object.total();
        let inline = total.is_some_and(|total| total <= INLINE_BODY_BYTES_MAX);
        if total.is_some() && !inline {
            self.keep_head(None);
        }
        let outcome = self.bring(body, total).await;
        match outcome {
            Ok(()) => {
                let last =
                    self.fill.rest().map(|(block, pieces)| self.settle(block, pieces, inline));
                let end = self.fill.watermark();
                self.object.set_total(end);
                if total.is_none() || inline {
                    let body = last.filter(|_| end <= INLINE_BODY_BYTES_MAX && end > 0);
                    self.keep_head(body.as_deref());
                }
                self.core.node.table.end_fill(self.object.key, &self.fill);
                self.fill.finish(Ok(()));
            }
            Err(_) => {
                self.core.count(|c| &c.fill_errors_total, 1);
                // Its end was never seen, or what is missing cannot be asked for: never offered again.
                if total.is_none() || !has_strong_tag(&self.object) {
                    self.core.node.table.forget(&self.object);
                }
                self.core.node.table.end_fill(self.object.key, &self.fill);
                self.fill.finish(Err(()));
            }
        }
    }

    /// Brings the part that `fill` is about, of an object of which nothing was here yet.
    /// A part of an object that is known.
    pub async fn run_part(self, body: Body) {
        let inline = self.object.total().is_some_and(|total| total <= INLINE_BODY_BYTES_MAX);
        if !inline {
            self.keep_head(None);
        }
        let outcome = self.bring(body, self.fill.end).await;
        self.end_part(outcome, inline);
    }

    /// What there is of a part is settled, and its readers are told.
    fn end_part(&self, outcome: Result<(), FillError>, inline: bool) {
        if outcome.is_ok() {
            let last = self.fill.rest().map(|(block, pieces)| self.settle(block, pieces, inline));
            if inline {
                self.keep_head(last.as_deref()); // it is all of the object
            }
        } else {
            self.core.count(|c| &c.fill_errors_total, 1);
        }
        self.core.node.table.end_fill(self.object.key, &self.fill);
        self.fill.finish(outcome.map_err(|_| ()));
    }

    /// All heads go to one stream: across streams an older head could outlive a newer one over a restart.
    fn keep_head(&self, body: Option<&[u8]>) {
        if self.fill.is_purged() || !self.object.is_kept() {
            return;
        }
        let payload = self.object.encode(body);
        let key = ExtentKey::head_of(self.object.key, self.object.version());
        keep(&self.core, Stream::Small, key, payload.into(), Some(self.object.clone()));
    }

    /// Reads the body, resuming it where it breaks off.
    async fn bring(&self, body: impl Into<Rest>, end: Option<u64>) -> Result<(), FillError> {
        let Rest { mut body, mut skip, mut beyond } = body.into();
        let end = self.fill.end.or(end);
        let mut resumes = 0;
        loop {
            match body.next().await {
                Ok(Some(mut bytes)) => {
                    let before = skip.min(bytes.len() as u64);
                    skip -= before;
                    bytes.advance(before as usize);
                    if let Some(end) = end.filter(|_| beyond) {
                        let left = end.saturating_sub(self.fill.watermark());
                        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    }
                    if let Err(error) = self.take(bytes, end) {
                        self.core.node.table.forget(&self.object);
                        return Err(error);
                    }
                    if beyond && Some(self.fill.watermark()) == end {
                        return Ok(());
                    }
                }
                Ok(None) if end.is_none_or(|end| self.fill.watermark() == end) => return Ok(()),
                Ok(None) => {
                    self.core.node.table.forget(&self.object);
                    return Err(wrong_length());
                }
                Err(error) => {
                    self.core.count(|c| &c.fill_errors_total, 1);
                    resumes += 1;
                    // The first one asks for what nobody has sent yet, and a parent that dies breaks many bodies at
                    // once: it is free. Later ones come out of the budget.
                    if resumes > RESUMES_MAX || (resumes > 1 && !self.core.node.hops.may_retry()) {
                        return Err(error);
                    }
                    self.core.count(|c| &c.resumes_total, 1);
                    let broken = body.hop().to_owned();
                    Rest { body, skip, beyond } = ask_rest(self, end, Some(&broken)).await?;
                }
            }
        }
    }

    fn take(&self, mut bytes: Bytes, end: Option<u64>) -> Result<(), FillError> {
        self.core.count(|c| &c.bytes_filled_total, bytes.len() as u64);
        if self.fill.watermark() + bytes.len() as u64 > end.unwrap_or(OBJECT_BYTES_MAX) {
            return Err(wrong_length());
        }
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - (self.fill.watermark() % BLOCK_BYTES as u64) as usize;
            let piece = bytes.split_to(room.min(bytes.len()));
            if let Some((block, pieces)) = self.fill.push(piece) {
                self.settle(block, pieces, false);
            }
        }
        Ok(())
    }

    /// Puts a block together, for the RAM tier and the store.
    fn settle(&self, block: u32, pieces: Vec<Bytes>, inline: bool) -> Bytes {
        let bytes = self.core.stow(&pieces);
        let version = self.object.version();
        self.core.remember((self.object.key, version, block), bytes.clone());
        self.fill.settle_block(block, bytes.clone());
        if !inline && self.object.is_kept() {
            let key = ExtentKey::block(self.object.key, version, block);
            let object = Some(self.object.clone());
            keep(&self.core, stream_of(&self.object), key, bytes.clone(), object);
        }
        bytes
    }
}

/// Whether parts of just this version can be asked for (RFC 9110 §13.1.5).
pub fn has_strong_tag(object: &Object) -> bool {
    object.head.validators.etag.as_ref().is_some_and(|tag| !tag.weak)
}

fn changed() -> FillError {
    FillError::BadResponse { hop: String::new(), what: "the object changed while it was fetched" }
}

fn wrong_length() -> FillError {
    FillError::BadResponse { hop: String::new(), what: "its body is not as long as announced" }
}

/// A body that brings what is missing, and perhaps more.
struct Rest {
    body: Body,
    /// Bytes at its start that are here already.
    skip: u64,
    /// It does not end where the missing part ends.
    beyond: bool,
}

impl From<Body> for Rest {
    fn from(body: Body) -> Rest {
        Rest { body, skip: 0, beyond: false }
    }
}

/// Of a next hop that gives no parts, so much is read away to get at a part; more is asked for anew, as a whole.
const SKIPPED_BYTES_MAX: u64 = 64 << 20;

/// Asks for the bytes from the fill's watermark on, of the same version or not at all.
/// A next hop to `avoid` has just broken off.
async fn ask_rest(
    bringing: &Bringing,
    end: Option<u64>,
    avoid: Option<&str>,
) -> Result<Rest, FillError> {
    let object = &bringing.object;
    let tag = object.head.validators.etag.as_ref().filter(|tag| !tag.weak);
    let Some(tag) = tag else {
        bringing.core.node.table.forget(object);
        return Err(changed());
    };
    let from = bringing.fill.watermark();
    let mut fields = asking_fields(bringing);
    let range = match end {
        Some(end) if end <= from => return Err(wrong_length()),
        Some(end) => format!("bytes={from}-{}", end - 1),
        None => format!("bytes={from}-"),
    };
    let made =
        fields.append("range", range).and_then(|()| fields.append("if-range", tag.to_bytes()));
    debug_assert!(made.is_ok(), "values made here are well-formed");
    let answer = ask(bringing, fields, avoid).await?;
    let same_tag = answer.head.fields.get("etag").and_then(tidegate_http::EntityTag::parse);
    let described = answer.head.fields.get("content-range").and_then(ContentRange::parse);
    let covers = described.is_some_and(|described| {
        let Some(range) = described.range else { return false };
        let behind = range.end().checked_add(1);
        let is_asked = *range.start() == from && end.is_none_or(|end| behind == Some(end));
        let total = object.total();
        let is_same = total.is_none() || described.length.is_none() || described.length == total;
        // Bytes of who does not know how many they are may be anybody's.
        let body = answer.body.length();
        is_asked && is_same && body.is_none_or(|body| from.checked_add(body) == behind)
    });
    let same_tag = same_tag.is_some_and(|t| t.strong_eq(tag));
    // It gives no parts (RFC 9110 §14.2), but it gives this version.
    let is_whole = answer.head.status == 200
        && object.head.status == 200
        && from <= SKIPPED_BYTES_MAX
        && (answer.body.length().is_none() || answer.body.length() == object.total());
    if same_tag && is_whole {
        return Ok(Rest { body: answer.body, skip: from, beyond: end != object.total() });
    }
    if answer.head.status != 206 || !covers || !same_tag {
        // Another version is current there: this one cannot be completed, and must not be offered again.
        bringing.core.node.table.forget(object);
        return Err(changed());
    }
    Ok(answer.body.into())
}

fn asking_fields(bringing: &Bringing) -> Fields {
    let mut fields = fill_fields(&bringing.view, &bringing.passed);
    send_chosen(&bringing.object.head.vary, &mut fields);
    fields
}

/// Asks about the object once more.
async fn ask(
    bringing: &Bringing,
    fields: Fields,
    avoid: Option<&str>,
) -> Result<Answer, FillError> {
    let (core, view) = (&bringing.core, &bringing.view);
    let service = &view.services()[bringing.service];
    let request = Request {
        method: Method::Get,
        target: bringing.target.clone(),
        authority: service.next_authority.clone(),
        fields,
        body: Bytes::new(),
    };
    let question = Question {
        request: &request,
        key: bringing.place,
        tries_max: 3,
        avoid,
        deadline: now() + core.node.timeouts.total,
        hedge: false,
        peers: false,
    };
    let (answer, _) = ask_any(core, view, service, &question).await?;
    Ok(answer)
}

/// Larger objects are not fetched again for one block.
const MENDED_BYTES_MAX: u64 = SKIPPED_BYTES_MAX;

/// Brings the block of `fill` of an object without a strong tag, of which an answer is half sent: the whole comes again,
/// and each other block of it is compared with the one that is here. When they are the same, what the answer is put
/// together of is that whole, whatever its validators say; otherwise the object is given up, and the answer ends short.
async fn mend(bringing: &Bringing) -> Result<(), FillError> {
    let (core, object) = (&bringing.core, &bringing.object);
    let mended = match compare(bringing).await {
        Ok(pieces) => pieces,
        Err(error) => {
            core.node.table.forget(object);
            return Err(error);
        }
    };
    for piece in mended {
        bringing.take(piece, bringing.fill.end)?;
    }
    core.count(|c| &c.blocks_mended_total, 1);
    Ok(())
}

/// The pieces of the block that `fill` covers, out of a whole of which all the rest is here.
async fn compare(bringing: &Bringing) -> Result<Vec<Bytes>, FillError> {
    let (core, object, fill) = (&bringing.core, &bringing.object, &bringing.fill);
    let total = object.total().filter(|total| *total <= MENDED_BYTES_MAX).ok_or_else(changed)?;
    let answer = ask(bringing, asking_fields(bringing), None).await?;
    let theirs = Validators::from_fields(&answer.head.fields, wall_ms() / 1000);
    let ours = &object.head.validators;
    let same_tag = match (&theirs.etag, &ours.etag) {
        (Some(theirs), Some(ours)) => theirs.weak_eq(ours),
        (theirs, ours) => theirs.is_none() && ours.is_none(),
    };
    if answer.head.status != object.head.status
        || !same_tag
        || theirs.last_modified != ours.last_modified
        || answer.body.length().is_some_and(|length| length != total)
    {
        return Err(changed());
    }
    let (view, target) = (bringing.view.clone(), bringing.target.clone());
    let (service, place) = (bringing.service, bringing.place);
    let here =
        ObjectReader::new(core.clone(), view, service, object.clone(), None, target, place, None);
    let mut body = answer.body;
    let mut missing = Vec::new();
    let mut known = Bytes::new(); // the rest of the block at `at`, if it is another one
    let mut at = 0;
    while let Some(mut bytes) = body.next().await? {
        if at + bytes.len() as u64 > total {
            return Err(changed());
        }
        while !bytes.is_empty() {
            let block = (at / BLOCK_BYTES as u64) as u32;
            let within = (at % BLOCK_BYTES as u64) as usize;
            let piece = bytes.split_to(bytes.len().min(BLOCK_BYTES - within));
            at += piece.len() as u64;
            if fill.covers(u64::from(block) * BLOCK_BYTES as u64) {
                missing.push(piece);
                continue;
            }
            core.count(|c| &c.bytes_filled_total, piece.len() as u64);
            if within == 0 {
                known = here.local_block(block).await.ok_or_else(changed)?;
            }
            if known.len() < piece.len() || known.split_to(piece.len()) != piece {
                return Err(changed());
            }
        }
    }
    if at == total { Ok(missing) } else { Err(changed()) }
}

/// Fetches the bytes that `fill` covers of an object of which other parts are here.
pub fn fill_part(
    core: &Rc<Core>,
    view: &Arc<View>,
    service: usize,
    object: &Arc<Object>,
    fill: Arc<Fill>,
    target: String,
    place: u64,
) {
    core.count(|c| &c.fills_total, 1);
    core.counters.fills_open.increment();
    let bringing = Bringing {
        core: core.clone(),
        view: view.clone(),
        service,
        object: object.clone(),
        fill: fill.clone(),
        target,
        place,
        passed: Passed::default(),
        _busy: Busy::new(core),
    };
    core.spawn(async move {
        let end = fill.end;
        let outcome = if has_strong_tag(&bringing.object) {
            match ask_rest(&bringing, end, None).await {
                Ok(rest) => bringing.bring(rest, end).await,
                Err(error) => Err(error),
            }
        } else {
            mend(&bringing).await
        };
        if outcome.is_ok() && is_head_gone(&bringing.core, &bringing.object) {
            bringing.keep_head(None); // without it this part would be of no use after a restart
        }
        bringing.end_part(outcome, false);
    });
}
