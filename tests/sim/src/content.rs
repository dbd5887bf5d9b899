//! The content oracle: the byte at (item, version, offset) is a keyed function, so that any byte anywhere can be
//! checked without storing it.
//!
//! Owns what the origin has: items, their versions, and by which rules each may be stored.

use std::time::Duration;
use tidegate_faults::Random;

/// How the origin names a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Strong,
    Weak,
    None,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
    Close,
}

/// What the origin says of a version's storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub max_age: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    pub no_store: bool,
    pub private: bool,
    pub no_cache: bool,
    pub must_revalidate: bool,
}

/// One version of an item.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    pub status: u16,
    pub len: u64,
    pub tag: Tag,
    pub framing: Framing,
    /// The origin gives parts of it.
    pub ranges: bool,
    pub policy: Policy,
    /// From when it is current.
    pub since: Duration,
}

/// Something that clients ask for.
#[derive(Debug)]
pub struct Item {
    pub path: String,
    /// It is one of the alternates of its path: what `Accept-Language` must say for it, or that there is none.
    pub alternate: Option<Option<&'static str>>,
    /// What purges by tag reach it by.
    pub surrogate: String,
    pub versions: Vec<Version>,
}

impl Item {
    pub fn new(number: usize, sizes: Sizes, random: &mut Random) -> Item {
        let folder = if random.chance(60) { "/pass" } else { ["/a", "/b"][number % 2] };
        let mut item = Item {
            path: format!("{folder}/{number}"),
            alternate: None,
            surrogate: format!("show-{}", number % 3),
            versions: Vec::new(),
        };
        item.change(sizes, Duration::ZERO, random);
        item
    }

    /// Makes it one of several alternates of its path, and gives the others.
    pub fn diversify(&mut self, sizes: Sizes, random: &mut Random) -> Vec<Item> {
        self.alternate = Some(None);
        let mut other = |language| {
            let mut item = Item {
                path: self.path.clone(),
                alternate: Some(Some(language)),
                surrogate: self.surrogate.clone(),
                versions: Vec::new(),
            };
            item.change(sizes, Duration::ZERO, random);
            item
        };
        vec![other("de"), other("en")]
    }

    /// What a request for it says in `Accept-Language`.
    pub fn language(&self) -> Option<&'static str> {
        self.alternate.flatten()
    }

    /// Makes a new version current.
    pub fn change(&mut self, sizes: Sizes, now: Duration, random: &mut Random) {
        let before = self.versions.last().copied();
        // Most changes are of the content alone.
        let policy = match before {
            Some(before) if random.chance(800) => before.policy,
            _ => policy(random),
        };
        let missing = random.chance(60);
        let tag = match random.below(10) {
            0 => Tag::None,
            1 => Tag::Weak,
            _ => Tag::Strong,
        };
        self.versions.push(Version {
            status: if missing { 404 } else { 200 },
            len: match before {
                // Written over in place: only its tag tells.
                Some(before) if !missing && before.status == 200 && random.chance(300) => {
                    before.len
                }
                _ if missing => random.below(200),
                _ => sizes.draw(random),
            },
            tag: before.map_or(tag, |before| before.tag),
            framing: match random.below(10) {
                0 => Framing::Close,
                1 | 2 => Framing::Chunked,
                _ => Framing::Length,
            },
            ranges: random.chance(850),
            policy,
            since: now,
        });
    }

    /// The current version and its number.
    pub fn current(&self) -> (usize, &Version) {
        (self.versions.len() - 1, &self.versions[self.versions.len() - 1])
    }

    /// The value of `ETag`.
    pub fn etag(&self, version: usize) -> Option<String> {
        let language = self.language().unwrap_or_default();
        match self.versions[version].tag {
            Tag::Strong => Some(format!("\"v{version}{language}\"")),
            Tag::Weak => Some(format!("W/\"v{version}{language}\"")),
            Tag::None => None,
        }
    }
}

fn policy(random: &mut Random) -> Policy {
    let mut some =
        |per_mille, low, high| random.chance(per_mille).then(|| random.between(low, high));
    let max_age = some(850, 0, 25);
    let stale_while_revalidate = some(300, 0, 15);
    let stale_if_error = some(300, 0, 60);
    let mut rarely = |per_mille| random.chance(per_mille);
    Policy {
        max_age,
        stale_while_revalidate,
        stale_if_error,
        no_store: rarely(50),
        private: rarely(50),
        no_cache: rarely(60),
        must_revalidate: rarely(100),
    }
}

impl Policy {
    /// The value of `Cache-Control`.
    pub fn render(&self) -> String {
        let mut words = Vec::new();
        let mut flag = |on: bool, word: &str| {
            if on {
                words.push(word.to_owned());
            }
        };
        flag(self.no_store, "no-store");
        flag(self.private, "private");
        flag(self.no_cache, "no-cache");
        flag(self.must_revalidate, "must-revalidate");
        let mut seconds = |value: Option<u64>, word: &str| {
            if let Some(value) = value {
                words.push(format!("{word}={value}"));
            }
        };
        seconds(self.max_age, "max-age");
        seconds(self.stale_while_revalidate, "stale-while-revalidate");
        seconds(self.stale_if_error, "stale-if-error");
        words.join(", ")
    }
}

/// How large items are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// Up to 200 KiB: small store segments, which are reclaimed within a run.
    Small,
    /// Up to five blocks.
    Blocks,
}

impl Sizes {
    fn draw(self, random: &mut Random) -> u64 {
        const BLOCK: u64 = tidegate_types::limits::BLOCK_BYTES as u64;
        match (self, random.below(100)) {
            (_, 0..=3) => 0,
            (_, 4..=20) => random.between(1, 2_000),
            (_, 21..=45) => random.between(1, 40_000),
            (Sizes::Small, _) => random.between(1, 200 << 10),
            (Sizes::Blocks, 46..=60) => random.between(1, 2 * BLOCK),
            (Sizes::Blocks, 61..=70) => random.between(1, 3) * BLOCK,
            (Sizes::Blocks, 71..=80) => random.between(1, 5 * BLOCK),
            (Sizes::Blocks, _) => random.between(1, 200 << 10),
        }
    }
}

fn word(key: u64, index: u64) -> u64 {
    let mut mixed = key ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 29)
}

/// The key of a version's bytes.
pub fn key(item: usize, version: usize) -> u64 {
    Random((item as u64) << 32 | version as u64).next()
}

fn byte(key: u64, position: u64) -> u8 {
    word(key, position / 8).to_le_bytes()[(position % 8) as usize]
}

/// The bytes `offset..offset + len` of a version.
pub fn bytes(key: u64, offset: u64, len: usize) -> Vec<u8> {
    let first = offset / 8;
    let words = (offset + len as u64).div_ceil(8) - first;
    let mut out = Vec::with_capacity(words as usize * 8);
    for index in first..first + words {
        out.extend_from_slice(&word(key, index).to_le_bytes());
    }
    out.drain(..(offset % 8) as usize);
    out.truncate(len);
    out
}

/// The first byte that is not the version's.
pub fn first_wrong(key: u64, offset: u64, found: &[u8]) -> Option<u64> {
    let at = |n: usize| offset + n as u64;
    let head = ((8 - offset % 8) % 8).min(found.len() as u64) as usize;
    let whole = found[head..].chunks_exact(8);
    let tail = found.len() - whole.remainder().len();
    let wrong = |n: &usize| found[*n] != byte(key, at(*n));
    let bad_word = whole
        .enumerate()
        .find(|(n, chunk)| chunk != &word(key, at(head) / 8 + *n as u64).to_le_bytes());
    (0..head)
        .find(wrong)
        .or_else(|| bad_word.and_then(|(n, _)| (head + n * 8..).find(wrong)))
        .or_else(|| (tail..found.len()).find(wrong))
        .map(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_its_own() {
        let all = bytes(7, 0, 1000);
        for (offset, len) in [(0, 1000), (3, 5), (8, 8), (13, 0), (5, 2), (991, 9), (7, 17)] {
            let piece = bytes(7, offset, len);
            assert_eq!(piece, all[offset as usize..offset as usize + len]);
            assert_eq!(first_wrong(7, offset, &piece), None);
            for at in 0..len {
                let mut wrong = piece.clone();
                wrong[at] ^= 1;
                assert_eq!(first_wrong(7, offset, &wrong), Some(offset + at as u64));
            }
        }
        assert_ne!(bytes(8, 0, 64), all[..64]);
    }
}
