//! What is kept of a response, and its bytes in the store.
//!
//! Byte map of a head, all numbers little-endian:
//! ```text
//!  0  4  magic "TGH3" (the digit is the format)
//!  4  4  bytes of the whole head, these included
//!  8  8  version id
//! 16  2  status
//! 18  1  flags: 1 total length known, 2 must revalidate, 4 immutable
//! 19  1  count of Vary entries
//! 20  2  count of fields
//! 22  2  count of purge handles
//! 24  8  total length (0 when not known)
//! 32 40  response_ms, initial_age_ms, freshness_ms, stale_while_revalidate_ms, stale_if_error_ms
//! 72  8  confirmed
//! 80  .. purge handles, 8 bytes each
//!     .. Vary entries: u16 name bytes, u32 value bytes (all ones: the field was absent), name, value
//!     .. fields: u16 name bytes, u32 value bytes, name, value
//! ```
//! Must stay true: decoding any bytes gives a head or an error, never a panic, and never more memory than the
//! input has bytes times a small constant; a decoded head has passed the same checks as a parsed one. Bytes
//! after the head are ignored (extents are padded); their checksum is the store's business.

use crate::alternate::{Chosen, normal_value};
use crate::purge::{PREFIX_SEGMENTS_MAX, TAGS_MAX};
use crate::storable::{Lifetime, VARY_NAMES_MAX};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use tidegate_http::{CacheControl, Fields, ResponseHead, Validators, date, hop_by_hop, is_token};
use tidegate_types::limits::{FIELDS_MAX, RESPONSE_HEAD_BYTES_MAX};

/// A stored response without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHead {
    /// Tells one fill of a key from the next: blocks of different versions are never put together. Taken before
    /// the next hop was asked, from the sequence that purges number themselves by.
    pub version: u64,
    /// The number of the question that the next hop last answered with this version: the version itself, or a
    /// later number when it was revalidated.
    pub confirmed: u64,
    /// What purges reach it (see [`crate::purge`]).
    pub handles: Arc<[u64]>,
    /// 200 for content (also when it was filled by 206 answers), else what was answered.
    pub status: u16,
    /// Fields to send, without hop-by-hop fields, lengths, `Age` and `Cache-Status`.
    pub fields: Fields,
    /// Bytes of the whole representation, when known.
    pub total_length: Option<u64>,
    /// Read from the fields.
    pub validators: Validators,
    pub lifetime: Lifetime,
    /// The request fields that chose this alternate, as the next hop was sent them.
    pub vary: Chosen,
}

/// Why bytes are no stored head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredError {
    /// Another magic or format.
    Format,
    /// The bytes end before the head does.
    Short,
    /// A count, length, flag or field that no writer makes.
    Content,
}

impl fmt::Display for StoredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoredError::Format => "stored head: not of format TGH3; treat the entry as absent",
            StoredError::Short => "stored head: bytes are missing; treat the entry as absent",
            StoredError::Content => {
                "stored head: content that is never written; treat the entry as absent"
            }
        })
    }
}

impl std::error::Error for StoredError {}

impl StoredHead {
    /// What to keep of `response`. `judge_storage` said that it may be stored; `vary` are the fields that chose it.
    pub fn new(
        response: &ResponseHead,
        vary: Chosen,
        lifetime: Lifetime,
        total_length: Option<u64>,
        version: u64,
        handles: &[u64],
    ) -> StoredHead {
        let fields = kept_fields(&response.fields, lifetime.response_ms);
        let status = if response.status == 206 { 200 } else { response.status };
        let validators = Validators::from_fields(&fields, lifetime.response_ms / 1000);
        StoredHead {
            version,
            confirmed: version,
            handles: handles.into(),
            status,
            fields,
            total_length,
            validators,
            lifetime,
            vary,
        }
    }

    /// Whether a request with these fields may have this alternate (RFC 9111 §4.1).
    pub fn matches_vary(&self, request_fields: &Fields) -> bool {
        self.vary.iter().all(|(name, value)| normal_value(request_fields, name) == *value)
    }

    /// Whether the next hop can be asked if this is still good.
    pub fn can_revalidate(&self) -> bool {
        self.validators.etag.is_some() || self.validators.last_modified.is_some()
    }

    /// `Date` of the response in unix seconds.
    pub fn date(&self) -> Option<u64> {
        self.fields
            .get("date")
            .and_then(|value| date::parse(value, self.lifetime.response_ms / 1000))
    }

    /// Appends the bytes of this head. Fields beyond the limits of a parsed head are not written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let vary = &self.vary[..self.vary.len().min(VARY_NAMES_MAX)];
        let field_count = self.fields.len().min(FIELDS_STORED_MAX);
        let handles = &self.handles[..self.handles.len().min(HANDLES_MAX)];
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.status.to_le_bytes());
        let flags = u8::from(self.total_length.is_some()) * FLAG_LENGTH
            + u8::from(self.lifetime.must_revalidate) * FLAG_MUST_REVALIDATE
            + u8::from(self.lifetime.immutable) * FLAG_IMMUTABLE;
        out.push(flags);
        out.push(vary.len() as u8);
        out.extend_from_slice(&(field_count as u16).to_le_bytes());
        out.extend_from_slice(&(handles.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.total_length.unwrap_or(0).to_le_bytes());
        for number in [
            self.lifetime.response_ms,
            self.lifetime.initial_age_ms,
            self.lifetime.freshness_ms,
            self.lifetime.stale_while_revalidate_ms,
            self.lifetime.stale_if_error_ms,
            self.confirmed,
        ]
        .iter()
        .chain(handles)
        {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (name, value) in vary {
            match value {
                Some(value) => push_pair(name, value, out),
                None => push_absent(name, out),
            }
        }
        for (name, value) in self.fields.iter().take(field_count) {
            push_pair(name, value, out);
        }
        let length = (out.len() - start) as u32;
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    }

    /// Reads a head from the start of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not a whole head of this format.
    pub fn decode(bytes: &[u8]) -> Result<StoredHead, StoredError> {
        let mut reader = Reader { rest: bytes };
        if reader.take(4)? != MAGIC {
            return Err(StoredError::Format);
        }
        let length = reader.u32()? as usize;
        if length > HEAD_BYTES_MAX {
            return Err(StoredError::Content);
        }
        reader.rest = bytes.get(8..length).ok_or(StoredError::Short)?;
        let version = reader.u64()?;
        let status = reader.u16()?;
        let [flags, vary_count] = reader.array::<2>()?;
        let field_count = usize::from(reader.u16()?);
        let handle_count = usize::from(reader.u16()?);
        let total_length = reader.u64()?;
        let good = (200..=599).contains(&status)
            && flags < 8
            && handle_count <= HANDLES_MAX
            && usize::from(vary_count) <= VARY_NAMES_MAX
            && field_count <= FIELDS_STORED_MAX
            && (flags & FLAG_LENGTH != 0 || total_length == 0);
        if !good {
            return Err(StoredError::Content);
        }
        let lifetime = Lifetime {
            response_ms: reader.u64()?,
            initial_age_ms: reader.u64()?,
            freshness_ms: reader.u64()?,
            stale_while_revalidate_ms: reader.u64()?,
            stale_if_error_ms: reader.u64()?,
            must_revalidate: flags & FLAG_MUST_REVALIDATE != 0,
            immutable: flags & FLAG_IMMUTABLE != 0,
        };
        let confirmed = reader.u64()?;
        if confirmed < version || reader.rest.len() < handle_count * 8 {
            return Err(StoredError::Content);
        }
        let handles = (0..handle_count).map(|_| reader.u64()).collect::<Result<Arc<[u64]>, _>>()?;
        let mut vary = Vec::with_capacity(usize::from(vary_count));
        for _ in 0..vary_count {
            let (name, value) = reader.maybe_pair()?;
            if !is_token(name) {
                return Err(StoredError::Content);
            }
            let name = String::from_utf8_lossy(name).into_owned();
            vary.push((name, value.map(Bytes::copy_from_slice)));
        }
        // One copy for all values.
        let shared = Bytes::copy_from_slice(reader.rest);
        let mut reader = Reader { rest: &shared };
        let mut fields = Fields::with_capacity(field_count);
        for _ in 0..field_count {
            let (name, value) = reader.pair()?;
            fields
                .append_parsed(name, shared.slice_ref(value))
                .map_err(|_| StoredError::Content)?;
        }
        if !reader.rest.is_empty() {
            return Err(StoredError::Content);
        }
        let validators = Validators::from_fields(&fields, lifetime.response_ms / 1000);
        let total_length = (flags & FLAG_LENGTH != 0).then_some(total_length);
        Ok(StoredHead {
            version,
            confirmed,
            handles,
            status,
            fields,
            total_length,
            validators,
            lifetime,
            vary,
        })
    }
}

/// Fields of a response that are stored and sent with later hits.
pub(crate) fn kept_fields(response: &Fields, response_ms: u64) -> Fields {
    let (directives, _) = CacheControl::of_response(response);
    let mut fields = response.clone();
    hop_by_hop::remove(&mut fields);
    fields.retain(|name, _| {
        // RFC 9111 §5.2.2.4 and §5.2.2.7: named fields must not be used for another request.
        let named = directives
            .private
            .fields()
            .iter()
            .chain(directives.no_cache.fields())
            .any(|n| n == name);
        // Cache-Status told how the first request went; a later hit has its own story (RFC 9211 §2).
        !named
            && !matches!(
                name,
                "age" | "cache-status" | "content-length" | "content-range" | "set-cookie"
            )
    });
    if !fields.contains("date") {
        // RFC 9110 §6.6.1: a recipient with a clock records the time of arrival.
        fields
            .set("date", date::format(response_ms / 1000))
            .expect("a formatted date is plain ASCII");
    }
    fields
}

const MAGIC: &[u8; 4] = b"TGH3";
const FLAG_LENGTH: u8 = 1;
const FLAG_MUST_REVALIDATE: u8 = 2;
const FLAG_IMMUTABLE: u8 = 4;
/// A parsed head may have `FIELDS_MAX`; `Date` may have been added.
const FIELDS_STORED_MAX: usize = FIELDS_MAX + 1;
/// Of a request (service, URL, root, prefixes, path), and of tags.
const HANDLES_MAX: usize = 4 + PREFIX_SEGMENTS_MAX + TAGS_MAX;
/// A parsed head of the greatest size with Vary values of the greatest size, with room for the lengths.
const HEAD_BYTES_MAX: usize = 16 * RESPONSE_HEAD_BYTES_MAX;

/// Stands for the length of a value that is not there.
const ABSENT: u32 = u32::MAX;

fn push_absent(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&ABSENT.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
}

fn push_pair(name: &str, value: &[u8], out: &mut Vec<u8>) {
    // Heads have at most 64 KiB, so both lengths fit.
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], StoredError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(StoredError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoredError> {
        self.take(N)?.try_into().map_err(|_| StoredError::Short)
    }

    fn u16(&mut self) -> Result<u16, StoredError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, StoredError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, StoredError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn maybe_pair(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), StoredError> {
        let name_bytes = usize::from(self.u16()?);
        let value_bytes = self.u32()?;
        let name = self.take(name_bytes)?;
        let value = match value_bytes {
            ABSENT => None,
            length => Some(self.take(length as usize)?),
        };
        Ok((name, value))
    }

    fn pair(&mut self) -> Result<(&'a [u8], &'a [u8]), StoredError> {
        let name_bytes = usize::from(self.u16()?);
        let value_bytes = self.u32()? as usize;
        Ok((self.take(name_bytes)?, self.take(value_bytes)?))
    }
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;
