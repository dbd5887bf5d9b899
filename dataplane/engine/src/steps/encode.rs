//! Answers in a content coding (RFC 9110 §8.4): text for clients that take it smaller.
//!
//! An object is stored as it came; its coded forms are made when they are first asked for, and lie in the RAM tier
//! beside its blocks, under its version, so that nothing has to forget them. As coded bytes are other bytes, the entity tag
//! becomes a weak one (RFC 9110 §8.8.3.3): conditional requests work, and a range is never cut out of them.
//!
//! Must stay true: only a client's own tier codes (edges), so that one form goes from tier to tier; what is marked
//! `no-transform`, already coded, or not text, goes as it is, and so does a part of it; every form says
//! `Vary: Accept-Encoding`.

use crate::node::Core;
use crate::object::Object;
use crate::ram::BlockId;
use crate::reader::ObjectReader;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use tidegate_cache::StoredHead;
use tidegate_http::coding::{CODINGS, Coding};
use tidegate_http::{CacheControl, EntityTag, Fields};

/// Less is not worth the work.
const BODY_BYTES_MIN: u64 = 256;
/// More would hold up a core; larger text goes as it is.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Bodies above this are coded with less effort.
const BODY_BYTES_EAGER: usize = 128 << 10;

/// Whether the object may be given in a coding.
pub fn is_encodable(object: &Object) -> bool {
    object.total().is_some_and(|total| (BODY_BYTES_MIN..=BODY_BYTES_MAX).contains(&total))
        && object.is_codable()
}

/// Whether a head is that of text which nobody forbids to code. Asked once for each object.
pub fn is_codable(head: &StoredHead) -> bool {
    let fields = &head.fields;
    head.status == 200
        && !fields.contains("content-encoding")
        && fields.get("content-type").is_some_and(is_text)
        && !CacheControl::parse(fields.get_all("cache-control")).no_transform
}

/// Media types that become smaller: text of all kinds, but for images and the like that are packed already.
fn is_text(media_type: &[u8]) -> bool {
    const OTHERS: [&str; 12] = [
        "application/vnd.apple.mpegurl",
        "application/x-mpegurl",
        "application/dash+xml",
        "application/json",
        "application/javascript",
        "application/manifest+json",
        "application/ttml+xml",
        "application/x-subrip",
        "application/xml",
        "application/wasm",
        "audio/mpegurl",
        "image/svg+xml",
    ];
    let end = media_type.iter().position(|b| *b == b';').unwrap_or(media_type.len());
    let name = media_type[..end].trim_ascii().to_ascii_lowercase();
    name.starts_with(b"text/") || OTHERS.iter().any(|other| other.as_bytes() == name)
}

/// What the fields of every form say: there are others.
pub fn mark_vary(fields: &mut Fields) {
    let is_said = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding");
    if !fields.get_all("vary").flat_map(tidegate_http::list_members).any(is_said) {
        let _left_out = fields.append("vary", "accept-encoding");
    }
}

/// What the fields of a coded form say besides.
pub fn mark_coded(fields: &mut Fields, coding: Coding) {
    let _left_out = fields.set("content-encoding", coding.name());
    fields.remove("accept-ranges");
    // They are about the bytes of the other form (RFC 9530).
    for name in ["content-md5", "content-digest", "digest"] {
        fields.remove(name);
    }
    if let Some(tag) = fields.get("etag").and_then(EntityTag::parse) {
        let weak = EntityTag { weak: true, ..tag };
        let _left_out = fields.set("etag", weak.to_bytes());
    }
}

/// The name of a coded form in the RAM tier: behind all blocks that an object can have.
fn form_id(object: &Object, coding: Coding) -> BlockId {
    let number = CODINGS.iter().position(|known| *known == coding).unwrap_or(0) as u32;
    (object.key, object.version(), u32::MAX - 1 - number)
}

/// The object's body in `coding`. `None`: it could not be read, or would not become smaller.
pub async fn coded_form(
    core: &Core,
    object: &Object,
    coding: Coding,
    reader: &mut ObjectReader,
) -> Option<Bytes> {
    let id = form_id(object, coding);
    if let Some(form) = core.node.ram.get(&id) {
        return Some(form).filter(|form| !form.is_empty());
    }
    let total = object.total()?;
    let mut body = Vec::with_capacity(usize::try_from(total).ok()?);
    while (body.len() as u64) < total {
        body.extend_from_slice(&reader.read(body.len() as u64).await.ok()??);
    }
    core.count(|c| &c.bodies_coded_total, 1);
    // Remembered as empty when it is of no use, so that it is not tried again.
    let form = encode(coding, &body).filter(|form| form.len() < body.len()).unwrap_or_default();
    let kept = core.stow(&[&form]);
    core.remember(id, kept.clone());
    Some(kept).filter(|form| !form.is_empty())
}

fn encode(coding: Coding, body: &[u8]) -> Option<Vec<u8>> {
    let eager = body.len() <= BODY_BYTES_EAGER;
    match coding {
        Coding::Gzip => {
            let effort = Compression::new(if eager { 6 } else { 3 });
            let mut encoder = GzEncoder::new(Vec::new(), effort);
            encoder.write_all(body).ok()?;
            encoder.finish().ok()
        }
        Coding::Brotli => {
            let parameters = BrotliEncoderParams {
                quality: if eager { 5 } else { 3 },
                lgwin: 20,
                size_hint: body.len(),
                ..Default::default()
            };
            let mut out = Vec::new();
            brotli::BrotliCompress(&mut &body[..], &mut out, &parameters).ok()?;
            Some(out)
        }
        Coding::Zstd => zstd::bulk::compress(body, if eager { 6 } else { 3 }).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn coded_text_is_smaller_and_is_the_same_text() {
        let line = b"#EXTINF:6.000,\nsegment-000123.m4s\n";
        for body in [line.repeat(8), line.repeat(40_000)] {
            for coding in CODINGS {
                let form = encode(coding, &body).unwrap();
                assert!(form.len() < body.len() / 2, "{coding:?}");
                let mut back = Vec::new();
                match coding {
                    Coding::Gzip => {
                        flate2::read::GzDecoder::new(&form[..]).read_to_end(&mut back).unwrap();
                    }
                    Coding::Brotli => {
                        brotli::BrotliDecompress(&mut &form[..], &mut back).unwrap();
                    }
                    Coding::Zstd => back = zstd::bulk::decompress(&form, body.len()).unwrap(),
                }
                assert!(back == body, "{coding:?}");
            }
        }
    }

    #[test]
    fn text_is_told_from_what_is_packed_already() {
        let text = ["text/vtt", "TEXT/html; charset=utf-8", "application/vnd.apple.mpegurl"];
        let packed = ["video/mp4", "image/png", "application/octet-stream", "", ";", "textual/x"];
        assert!(text.iter().all(|name| is_text(name.as_bytes())));
        assert!(!packed.iter().any(|name| is_text(name.as_bytes())));
    }

    #[test]
    fn fields_of_a_coded_form_say_so() {
        let mut fields = Fields::new();
        for (name, value) in [("etag", "\"a\""), ("accept-ranges", "bytes"), ("vary", "Origin")] {
            fields.append(name, value).unwrap();
        }
        mark_vary(&mut fields);
        mark_vary(&mut fields);
        mark_coded(&mut fields, Coding::Brotli);
        assert_eq!(fields.get("etag"), Some(&b"W/\"a\""[..]));
        assert_eq!(fields.get("content-encoding"), Some(&b"br"[..]));
        assert!(!fields.contains("accept-ranges"));
        let vary: Vec<_> = fields.get_all("vary").collect();
        assert_eq!(vary, [&b"Origin"[..], b"accept-encoding"]);
    }
}
