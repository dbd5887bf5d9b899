//! Step 8, deliver: an object to a client: conditions, ranges, fields, bytes.
//!
//! Must stay true: what is announced is what comes: a 206 holds exactly its Content-Range, and when bytes cannot be
//! had the connection ends short instead of going on with anything else.

use crate::client::{BodyLength, Client, Outlet};
use crate::clock::now_ms;
use crate::node::Core;
use crate::object::{Lines, Object};
use crate::reader::{ObjectReader, Unreadable};
use bytes::Bytes;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use tidegate_contract::{Behaviour, HeaderRule};
use tidegate_http::conditional::{evaluate_in_cache, if_range_allows};
use tidegate_http::{ContentRange, Fields, Precondition, RangeSpecs, RequestHead, Resolved};
use tidegate_http1::encode_fields;
use tidegate_types::limits::{BLOCK_BYTES, PART_BLOCKS_MAX};

/// What part of the object the client gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Portion {
    NotModified,
    PreconditionFailed,
    Unsatisfiable(u64),
    Whole,
    Single(RangeInclusive<u64>),
    Multi(Vec<RangeInclusive<u64>>),
}

/// Decides by the request's conditions and ranges (RFC 9110 §13.2.2, §14.2).
pub fn portion(request: &RequestHead, object: &Object, now_ms: u64) -> Portion {
    let now = now_ms / 1000;
    if object.head.status != 200 {
        return Portion::Whole;
    }
    let (validators, date) = (&object.head.validators, object.head.date());
    match evaluate_in_cache(&request.method, &request.fields, validators, date, now) {
        Precondition::NotModified => return Portion::NotModified,
        Precondition::PreconditionFailed => return Portion::PreconditionFailed,
        Precondition::Proceed => {}
    }
    let specs = match (request.fields.get("range"), request.method == tidegate_http::Method::Get) {
        (Some(value), true) => RangeSpecs::parse(value),
        _ => None,
    };
    let (Some(specs), Some(total)) = (specs, object.total()) else { return Portion::Whole };
    if !if_range_allows(&request.fields, validators, date, now) {
        return Portion::Whole;
    }
    match specs.resolve(total) {
        Resolved::Whole => Portion::Whole,
        Resolved::Single(range) => Portion::Single(range),
        Resolved::Multi(ranges) => Portion::Multi(ranges),
        Resolved::Unsatisfiable => Portion::Unsatisfiable(total),
    }
}

/// The first of a portion's blocks that is not here, as far as [`PART_BLOCKS_MAX`] looks tell: for the log, not for
/// the bytes.
pub fn first_missing_block(
    portion: &Portion,
    object: &Object,
    reader: &ObjectReader,
) -> Option<u32> {
    let total = object.total()?;
    let ranges: &[RangeInclusive<u64>] = match portion {
        Portion::Whole if total > 0 => &[0..=total - 1],
        Portion::Single(range) => std::slice::from_ref(range),
        Portion::Multi(ranges) => ranges,
        _ => &[],
    };
    ranges
        .iter()
        .flat_map(|range| range.start() / BLOCK_BYTES as u64..=range.end() / BLOCK_BYTES as u64)
        .take(PART_BLOCKS_MAX as usize)
        .map(|block| block as u32)
        .find(|block| !reader.has_block(*block))
}

/// Fields that every answer of this node to a client gets, by the behaviour's rules.
pub fn client_fields(
    fields: &mut Fields,
    behaviour: Option<&Behaviour>,
    via: &str,
    secure: bool,
    http3_port: Option<u16>,
) {
    let mut all = fields.combined("via").map(|v| v.into_owned()).unwrap_or_default();
    if !all.is_empty() {
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(format!("1.1 {via}").as_bytes());
    // Values were checked when they were parsed, or when the snapshot was built: a refusal leaves a field out.
    let _left_out = fields.set("via", all);
    // Another server's says where that one is (RFC 7838 §3).
    fields.remove("alt-svc");
    if let Some(port) = http3_port.filter(|_| secure) {
        let _left_out = fields.set("alt-svc", format!("h3=\":{port}\"; ma=86400"));
    }
    let Some(behaviour) = behaviour else { return };
    // For caches that purge by them, not for viewers.
    fields.remove("surrogate-key");
    fields.remove("cache-tag");
    if let Some(origin) = &behaviour.cors_allow_origin {
        let _left_out = fields.set("access-control-allow-origin", origin.clone());
        let _left_out = fields.set("access-control-expose-headers", "*");
        let _left_out = fields.set("timing-allow-origin", origin.clone());
    }
    for rule in &behaviour.response_headers {
        let (HeaderRule::Set { name, .. }
        | HeaderRule::Add { name, .. }
        | HeaderRule::Remove { name }) = rule;
        if OWN_FIELDS
            .iter()
            .chain(&crate::client::FRAMING_FIELDS)
            .any(|own| own.eq_ignore_ascii_case(name))
        {
            continue;
        }
        // RFC 6797 §7.2: never over plain HTTP.
        if !secure && name.eq_ignore_ascii_case("strict-transport-security") {
            continue;
        }
        let _left_out = match rule {
            HeaderRule::Set { name, value } => fields.set(name.to_ascii_lowercase(), value.clone()),
            HeaderRule::Add { name, value } => {
                fields.append(name.to_ascii_lowercase(), value.clone())
            }
            HeaderRule::Remove { name } => {
                fields.remove(&name.to_ascii_lowercase());
                Ok(())
            }
        };
    }
}

/// This tier's member behind those of the tiers before it (RFC 9211 §2).
pub fn cache_status(upstream: Option<&Bytes>, own: &str) -> Vec<u8> {
    match upstream {
        Some(before) => [&before[..], b", ", own.as_bytes()].concat(),
        None => own.as_bytes().to_vec(),
    }
}

/// Fields that each answer makes anew: a behaviour's rules cannot change them.
const OWN_FIELDS: [&str; 3] = ["age", "cache-status", "content-range"];

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    Complete,
    /// Bytes could not be had: the connection was ended.
    Broken,
    /// The first bytes could not be had: nothing has been sent.
    Unbegun,
}

/// What an answer's head is made of.
pub struct Dress<'a> {
    /// All fields that do not change between answers, and those that the behaviour's rules make.
    pub fields: &'a dyn Fn() -> Fields,
    /// This tier's `Cache-Status`, with those before it.
    pub cache_status: Vec<u8>,
    /// Of the snapshot, and of the way to the client: encoded lines are kept for one of them.
    pub generation: u64,
}

impl Dress<'_> {
    fn all(&self, age: &str) -> Fields {
        let mut fields = (self.fields)();
        let _left_out = fields.append("age", age.to_owned());
        let _left_out = fields.append("cache-status", self.cache_status.clone());
        fields
    }

    fn lines(&self, object: &Object) -> Arc<Lines> {
        lines(object, self.generation, self.fields)
    }
}

/// The lines of an answer with `object` that do not change from one to the next.
pub fn lines(object: &Object, generation: u64, fields: &dyn Fn() -> Fields) -> Arc<Lines> {
    object.lines(generation, || {
        let mut fields = fields();
        for name in crate::client::FRAMING_FIELDS {
            fields.remove(name);
        }
        let mut out = Vec::new();
        encode_fields(&fields, &mut out);
        out
    })
}

/// Sends a coded form of the object's body.
pub async fn deliver_form<O: Outlet>(
    core: &Core,
    client: &mut Client<'_, O>,
    object: &Object,
    form: &Bytes,
    dress: &Dress<'_>,
) -> io::Result<Delivered> {
    let age = object.head.lifetime.age_seconds(now_ms()).to_string();
    client.head(object.head.status, dress.all(&age), BodyLength::Known(form.len() as u64));
    if !client.head_only {
        client.body(form).await?;
        core.count(|c| &c.bytes_sent_total, form.len() as u64);
    }
    core.count(|c| &c.coded_answers_total, 1);
    client.finish().await?;
    Ok(Delivered::Complete)
}

/// Sends `portion` of the object.
pub async fn deliver<O: Outlet>(
    core: &Core,
    client: &mut Client<'_, O>,
    object: &Object,
    portion: Portion,
    dress: &Dress<'_>,
    reader: &mut ObjectReader,
) -> io::Result<Delivered> {
    let age = object.head.lifetime.age_seconds(now_ms()).to_string();
    // Before the head: while nothing is on the wire, another answer can still be given.
    let begin = match &portion {
        _ if client.head_only || matches!(object.head.status, 204 | 304) => None,
        Portion::Whole if object.total() != Some(0) => Some(0),
        Portion::Single(range) => Some(*range.start()),
        Portion::Multi(ranges) => ranges.first().map(|range| *range.start()),
        _ => None,
    };
    let first = match begin {
        Some(at) => match reader.read(at).await {
            Ok(first) => first,
            Err(Unreadable) => return Ok(Delivered::Unbegun),
        },
        None => None,
    };
    match portion {
        Portion::NotModified => {
            let mut fields = dress.all(&age);
            fields.retain(|name, _| {
                NOT_MODIFIED_FIELDS.contains(&name) || name.starts_with("access-control-")
            });
            client.head(304, fields, BodyLength::Absent);
        }
        Portion::PreconditionFailed => {
            client.head(412, dress.all(&age), BodyLength::Known(0));
        }
        Portion::Unsatisfiable(total) => {
            let mut fields = dress.all(&age);
            fields.remove("content-type");
            let _left_out = fields.set(
                "content-range",
                ContentRange { range: None, length: Some(total) }.to_string(),
            );
            client.head(416, fields, BodyLength::Known(0));
        }
        Portion::Whole => {
            let length = match (object.head.status, object.total()) {
                (204 | 304, _) => BodyLength::Absent,
                (_, Some(total)) => BodyLength::Known(total),
                (_, None) => BodyLength::Unknown,
            };
            let more = [("age", age.as_bytes()), ("cache-status", &dress.cache_status[..])];
            client.head_from_lines(object.head.status, &dress.lines(object), &more, length);
            if !client.head_only && length != BodyLength::Absent {
                let end = object.total().unwrap_or(u64::MAX);
                if !send_span(core, client, reader, first, 0..end).await? {
                    return Ok(Delivered::Broken);
                }
            }
        }
        Portion::Single(range) => {
            let (start, end) = (*range.start(), range.end() + 1);
            let content_range =
                ContentRange { range: Some(range), length: object.total() }.to_string();
            let more = [
                ("age", age.as_bytes()),
                ("cache-status", &dress.cache_status[..]),
                ("content-range", content_range.as_bytes()),
            ];
            let length = BodyLength::Known(end - start);
            client.head_from_lines(206, &dress.lines(object), &more, length);
            if !send_span(core, client, reader, first, start..end).await? {
                return Ok(Delivered::Broken);
            }
        }
        Portion::Multi(ranges) => {
            let fields = dress.all(&age);
            let sending = send_parts(core, client, object, ranges, fields, reader, first);
            if !Box::pin(sending).await? {
                return Ok(Delivered::Broken);
            }
        }
    }
    client.finish().await?;
    Ok(Delivered::Complete)
}

/// `multipart/byteranges` (RFC 9110 §14.6).
async fn send_parts<O: Outlet>(
    core: &Core,
    client: &mut Client<'_, O>,
    object: &Object,
    ranges: Vec<RangeInclusive<u64>>,
    mut fields: Fields,
    reader: &mut ObjectReader,
    mut first: Option<Bytes>,
) -> io::Result<bool> {
    // Unguessable by whoever made the object: the key is a hash, the version this node's own.
    let boundary = format!("tidegate-{:016x}{:016x}", object.key as u64, object.version());
    let media_type =
        fields.get_str("content-type").unwrap_or("application/octet-stream").to_owned();
    let total = object.total();
    let parts: Vec<(String, RangeInclusive<u64>)> = ranges
        .into_iter()
        .map(|range| {
            let content_range = ContentRange { range: Some(range.clone()), length: total };
            let head = format!(
                "\r\n--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: {content_range}\r\n\r\n"
            );
            (head, range)
        })
        .collect();
    let tail = format!("\r\n--{boundary}--\r\n");
    let length = parts
        .iter()
        .map(|(head, range)| head.len() as u64 + range.end() - range.start() + 1)
        .sum::<u64>()
        + tail.len() as u64;
    let _left_out =
        fields.set("content-type", format!("multipart/byteranges; boundary={boundary}"));
    client.head(206, fields, BodyLength::Known(length));
    for (head, range) in parts {
        client.body(&head.into()).await?;
        let span = *range.start()..range.end() + 1;
        reader.set_end(span.end);
        if !send_span(core, client, reader, first.take(), span).await? {
            return Ok(false);
        }
    }
    client.body(&tail.into()).await?;
    Ok(true)
}

/// Sends the bytes of `span`; `first` are those at its start, when they have been read.
async fn send_span<O: Outlet>(
    core: &Core,
    client: &mut Client<'_, O>,
    reader: &mut ObjectReader,
    mut first: Option<Bytes>,
    span: Range<u64>,
) -> io::Result<bool> {
    let Range { start: mut at, end } = span;
    let mut in_a_row = 0;
    while at < end {
        // A fast client of a large object in RAM must not keep the core to itself.
        in_a_row += 1;
        if in_a_row % PIECES_IN_A_ROW_MAX == 0 {
            tidegate_ring::yield_now().await;
        }
        let read = match first.take() {
            Some(bytes) => Ok(Some(bytes)),
            None => reader.read(at).await,
        };
        let Ok(read) = read else {
            client.abort();
            return Ok(false);
        };
        let Some(mut bytes) = read else {
            // The end of a body whose length was not known; a known length that ends early is broken.
            let broken = end != u64::MAX;
            if broken {
                client.abort();
            }
            return Ok(!broken);
        };
        bytes.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
        at += bytes.len() as u64;
        core.count(|c| &c.bytes_sent_total, bytes.len() as u64);
        client.body(&bytes).await?;
    }
    Ok(true)
}

/// Pieces (at most a block each) sent to one client before the others have their turn.
const PIECES_IN_A_ROW_MAX: u32 = 4;

/// RFC 9110 §15.4.5, and what this node adds.
const NOT_MODIFIED_FIELDS: &[&str] = &[
    "age",
    "cache-control",
    "cache-status",
    "content-location",
    "date",
    "etag",
    "expires",
    "last-modified",
    "timing-allow-origin",
    "vary",
    "via",
];
