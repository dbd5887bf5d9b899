//! Purge: what is not to be served any more, by URL, path prefix, tag or delivery service.
//!
//! A purge does not look for objects. It writes a rule under a *handle*, the hash of what was named; each object
//! knows the handles that it answers to, and is held against the rules when it is looked up:
//! ```text
//! service  films                     hash(films, 0)
//! url      films/a/b.m4s?x=1         hash(films, 1, the cache key's text)
//! prefix   /a  of films              hash(films, 2, "/a"), for each run of whole path segments
//! tag      show-17                   hash(films, 3, "show-17")
//! ```
//! Rules and objects take their numbers from one rising sequence of the node; an object's number is taken before
//! the next hop is asked, so that an answer which was on its way when the purge came counts as older.
//!
//! Must stay true: a hard rule ends every object whose version is not newer, a soft one makes stale whatever was
//! not confirmed since; rules only ever grow (a later purge never weakens an earlier one). Two names with one
//! handle purge each other's objects, which costs a fill and never serves anything wrong: so 64 bits and a fast
//! hash are enough. The hash is part of what lies on disk and must not change.

use crate::key::CacheKey;
use crate::storable::Lifetime;
use std::collections::HashMap;
use tidegate_http::structured::strings;
use tidegate_http::{Fields, list_members, trim};
use xxhash_rust::xxh3::Xxh3;

/// Path segments that a prefix purge may name, and that an object answers to.
pub const PREFIX_SEGMENTS_MAX: usize = 24;
/// Tags of one response; with more it is not stored, since a purge might not reach it.
pub const TAGS_MAX: usize = 1000;
/// Bytes of one tag.
pub const TAG_BYTES_MAX: usize = 1024;
/// Bytes of a record in the store's journal.
pub const RECORD_BYTES: usize = 40;

/// What is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Everything of the delivery service.
    Service,
    /// One URL: the text of its cache key.
    Url(&'a str),
    /// Everything at and below this path, by whole path segments.
    Prefix(&'a str),
    /// Everything that carries this tag.
    Tag(&'a str),
    /// Everything of all services; made by the node itself when its journal was damaged.
    All,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is stale: sent only while, or when, the next hop cannot be asked; confirmed by a 304.
    Soft,
    /// It is gone.
    Hard,
}

impl Mode {
    /// The word for it in requests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Soft => "soft",
            Mode::Hard => "hard",
        }
    }
}

/// Why a target cannot be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetError {
    /// A prefix must begin with a slash.
    NoPath,
    /// More path segments than [`PREFIX_SEGMENTS_MAX`].
    Deep,
    /// No tag, or one that no field can carry.
    Tag,
}

impl std::fmt::Display for TargetError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetError::NoPath => f.write_str("a prefix begins with `/`, like /videos/show-17"),
            TargetError::Deep => write!(
                f,
                "a prefix has at most {PREFIX_SEGMENTS_MAX} path segments; name fewer, or purge by URL or tag"
            ),
            TargetError::Tag => write!(
                f,
                "a tag is 1 to {TAG_BYTES_MAX} visible ASCII characters without spaces and commas"
            ),
        }
    }
}

impl std::error::Error for TargetError {}

impl Target<'_> {
    /// The handle of this target of `service`.
    ///
    /// # Errors
    /// When nothing can answer to it.
    pub fn handle(&self, service: &str) -> Result<u64, TargetError> {
        match self {
            Target::All => Ok(ALL),
            Target::Service => Ok(hash(service, 0, b"")),
            Target::Url(key_text) => Ok(hash(service, 1, key_text.as_bytes())),
            Target::Prefix(path) => {
                if !path.starts_with('/') {
                    return Err(TargetError::NoPath);
                }
                let path = path.trim_end_matches('/');
                if path.bytes().filter(|b| *b == b'/').count() > PREFIX_SEGMENTS_MAX {
                    return Err(TargetError::Deep);
                }
                Ok(hash(service, 2, path.as_bytes()))
            }
            Target::Tag(tag) => {
                let good = |b: u8| b.is_ascii_graphic() && b != b',';
                if tag.is_empty() || tag.len() > TAG_BYTES_MAX || !tag.bytes().all(good) {
                    return Err(TargetError::Tag);
                }
                Ok(hash(service, 3, tag.as_bytes()))
            }
        }
    }
}

/// The handle that every object answers to.
const ALL: u64 = 0;

fn hash(service: &str, kind: u8, text: &[u8]) -> u64 {
    let mut hasher = Xxh3::with_seed(0x7075_7267_6500_0001);
    hasher.update(&(service.len() as u64).to_le_bytes());
    hasher.update(service.as_bytes());
    hasher.update(&[kind]);
    hasher.update(text);
    hasher.digest().max(1) // 0 is taken
}

/// The handle of a whole delivery service, by which the journal sorts its records.
pub fn service_handle(service: &str) -> u64 {
    hash(service, 0, b"")
}

/// The handles that a request of this service, path and key answers to, whatever the response says: service,
/// URL, prefixes.
pub fn request_handles(service: &str, key: &CacheKey, path: &str) -> Vec<u64> {
    let mut handles = Vec::with_capacity(8);
    handles.push(service_handle(service));
    handles.push(hash(service, 1, key.text.as_bytes()));
    let ends = path.bytes().enumerate().skip(1).filter(|(_, b)| *b == b'/').map(|(at, _)| at);
    handles.push(hash(service, 2, b"")); // the root
    for end in ends.take(PREFIX_SEGMENTS_MAX) {
        handles.push(hash(service, 2, &path.as_bytes()[..end]));
    }
    // The path itself, as the last of the prefixes.
    let whole = path.trim_end_matches('/');
    if !whole.is_empty() && whole.bytes().filter(|b| *b == b'/').count() <= PREFIX_SEGMENTS_MAX {
        handles.push(hash(service, 2, whole.as_bytes()));
    }
    handles
}

/// The tags of a response: members of `Surrogate-Key` (by spaces), `Cache-Tag` (by commas) and `Cache-Groups`
/// (structured strings, draft-ietf-httpbis-cache-groups). `None`: more than [`TAGS_MAX`].
pub fn tags_of(response: &Fields) -> Option<Vec<String>> {
    let mut tags: Vec<String> = Vec::new();
    for (name, value) in response.iter() {
        match name {
            "surrogate-key" => {
                for member in value.split(|b| *b == b' ' || *b == b'\t') {
                    add(&mut tags, member);
                }
            }
            "cache-tag" => list_members(value).for_each(|member| add(&mut tags, member)),
            _ => {}
        }
        if tags.len() > TAGS_MAX {
            return None;
        }
    }
    strings(response, "cache-groups").iter().for_each(|group| add(&mut tags, group.as_bytes()));
    (tags.len() <= TAGS_MAX).then_some(tags)
}

/// The groups that a response to an unsafe method makes invalid (`Cache-Group-Invalidation`).
pub fn invalidated_groups(response: &Fields) -> Vec<String> {
    let mut tags = Vec::new();
    for group in strings(response, "cache-group-invalidation") {
        add(&mut tags, group.as_bytes());
    }
    tags.truncate(INVALIDATED_MAX);
    tags
}

/// Groups that one answer may invalidate; the draft asks for at least 32.
const INVALIDATED_MAX: usize = 64;

fn add(tags: &mut Vec<String>, member: &[u8]) {
    let member = trim(member);
    if let Ok(tag) = std::str::from_utf8(member)
        && Target::Tag(tag).handle("").is_ok()
        && !tags.iter().any(|known| known == tag)
    {
        tags.push(tag.to_owned());
    }
}

/// All handles that a stored response answers to.
pub fn object_handles(request: &[u64], service: &str, tags: &[String]) -> Vec<u64> {
    let tagged = tags.iter().map(|tag| hash(service, 3, tag.as_bytes()));
    request.iter().copied().chain(tagged).collect()
}

/// What the rules say of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Kept,
    /// Stale since then, node time in milliseconds.
    Soft {
        since_ms: u64,
    },
    Hard,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rule {
    service: u64,
    hard: u64,
    soft: u64,
    soft_ms: u64,
}

/// One purge, as rules and journal keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purge {
    pub handle: u64,
    /// Handle of the whole service.
    pub service: u64,
    pub number: u64,
    /// When it came, in milliseconds: node time in memory, unix time on disk.
    pub at_ms: u64,
    pub mode: Mode,
}

impl Purge {
    /// Bytes for the journal: handle, service, number, unix milliseconds, mode.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let numbers = [self.handle, self.service, self.number, self.at_ms];
        for (chunk, number) in bytes.chunks_mut(8).zip(numbers) {
            chunk.copy_from_slice(&number.to_le_bytes());
        }
        bytes[32] = match self.mode {
            Mode::Soft => 1,
            Mode::Hard => 2,
        };
        bytes
    }

    /// Reads what `encode` wrote. `None`: another format.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Purge> {
        let number = |at: usize| {
            bytes[at..at + 8].iter().rev().fold(0, |number, b| number << 8 | u64::from(*b))
        };
        let mode = match bytes[32] {
            1 => Mode::Soft,
            2 => Mode::Hard,
            _ => return None,
        };
        let zeros = bytes[33..].iter().all(|b| *b == 0);
        zeros.then(|| Purge {
            handle: number(0),
            service: number(8),
            number: number(16),
            at_ms: number(24),
            mode,
        })
    }

    /// Whether this purge says all that `other` said.
    pub fn covers(&self, other: &Purge) -> bool {
        let reaches = self.handle == ALL
            || self.handle == other.handle
            || (self.handle == self.service && self.service == other.service);
        let as_strong = self.mode == Mode::Hard || other.mode == Mode::Soft;
        reaches && as_strong && self.number >= other.number
    }
}

/// All purges that may still matter.
#[derive(Debug, Default)]
pub struct Rules {
    rules: HashMap<u64, Rule>,
    newest: u64,
}

impl Rules {
    /// Adds a purge.
    pub fn add(&mut self, purge: &Purge) {
        self.newest = self.newest.max(purge.number);
        let rule = self.rules.entry(purge.handle).or_default();
        rule.service = purge.service;
        match purge.mode {
            Mode::Hard => rule.hard = rule.hard.max(purge.number),
            Mode::Soft if purge.number >= rule.soft => {
                rule.soft = purge.number;
                rule.soft_ms = purge.at_ms;
            }
            Mode::Soft => {}
        }
    }

    /// Forgets a purge, when no object that it is about is left; a later one of the same handle stays.
    pub fn forget(&mut self, purge: &Purge) {
        let Some(rule) = self.rules.get_mut(&purge.handle) else { return };
        match purge.mode {
            Mode::Hard if rule.hard <= purge.number => rule.hard = 0,
            Mode::Soft if rule.soft <= purge.number => (rule.soft, rule.soft_ms) = (0, 0),
            _ => {}
        }
        if rule.hard == 0 && rule.soft == 0 {
            self.rules.remove(&purge.handle);
        }
    }

    /// What becomes of an object with these handles, of this version, that the next hop confirmed last at
    /// `confirmed` (a number of the same sequence; its version when it never did).
    pub fn judge(&self, handles: &[u64], version: u64, confirmed: u64) -> Judgement {
        if self.newest < version {
            return Judgement::Kept; // newer than all of them
        }
        let mut judgement = Judgement::Kept;
        for handle in handles.iter().chain(&[ALL]) {
            let Some(rule) = self.rules.get(handle) else { continue };
            if rule.hard >= version {
                return Judgement::Hard;
            }
            if rule.soft >= version.max(confirmed) {
                let earlier = match judgement {
                    Judgement::Soft { since_ms } => since_ms.min(rule.soft_ms),
                    _ => rule.soft_ms,
                };
                judgement = Judgement::Soft { since_ms: earlier };
            }
        }
        judgement
    }

    /// The newest number of all purges; objects must get greater ones.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Rules that are kept.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Lifetime {
    /// This lifetime, ended at `at_ms` (node time) unless it had ended before: stale from then on. It grows older
    /// instead of having less time, so that its `Age` tells the next tier, too.
    pub fn cut_short(&self, at_ms: u64) -> Lifetime {
        let age_then_ms = self.age_ms(at_ms.max(self.response_ms));
        let left_ms = self.freshness_ms.saturating_sub(age_then_ms);
        Lifetime { initial_age_ms: self.initial_age_ms.saturating_add(left_ms), ..*self }
    }
}

#[cfg(test)]
#[path = "purge_tests.rs"]
mod tests;
