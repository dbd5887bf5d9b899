//! What a path of a trace names: class, size and every byte of an object.
//!
//! Must stay true: all of it is a function of the path alone, so that origin and client agree without talking.

use super::random::mixed;
use std::fmt;
use tidegate_types::rendezvous::identity;

/// How an object may be cached; each class has a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Media segment of the catalogue.
    Vod,
    /// Playlist of the catalogue.
    VodPlaylist,
    /// Media segment of a live channel: asked for by many at once, then never again.
    Live,
    /// Playlist of a live channel: another one each second.
    LivePlaylist,
    /// Media segment that one viewer asks for once.
    Archive,
}

/// All classes.
pub const CLASSES: [Class; 5] =
    [Class::Vod, Class::VodPlaylist, Class::Live, Class::LivePlaylist, Class::Archive];

impl Class {
    /// The class's word and folder.
    pub fn name(self) -> &'static str {
        match self {
            Class::Vod => "vod",
            Class::VodPlaylist => "vod-playlist",
            Class::Live => "live",
            Class::LivePlaylist => "live-playlist",
            Class::Archive => "archive",
        }
    }

    /// The class with this name.
    pub fn parse(text: &str) -> Option<Class> {
        CLASSES.into_iter().find(|class| class.name() == text)
    }

    /// No playlist.
    pub fn is_segment(self) -> bool {
        !matches!(self, Class::VodPlaylist | Class::LivePlaylist)
    }

    /// Seconds of `max-age` that the origin gives (product defaults: media segments 3600 s, playlists 15 s, live
    /// playlists at most the part target; a live media segment is of no use after some minutes).
    pub fn max_age_seconds(self) -> u32 {
        match self {
            Class::Vod | Class::Archive => 3600,
            Class::VodPlaylist => 15,
            Class::Live => 300,
            Class::LivePlaylist => 1,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The largest object of a trace.
pub const OBJECT_SIZE_MAX: u64 = 1 << 32;

/// An object of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    pub class: Class,
    /// Bytes.
    pub size: u64,
    /// Of the path; decides the bytes.
    pub identity: u64,
}

impl Object {
    /// The object of `/CLASS/anything.SIZE.extension`.
    pub fn parse(path: &str) -> Option<Object> {
        let (class, rest) = path.strip_prefix('/')?.split_once('/')?;
        let class = Class::parse(class)?;
        let (name, _extension) = rest.rsplit_once('.')?;
        let (_, size) = name.rsplit_once('.')?;
        if !size.bytes().all(|b| b.is_ascii_digit()) || size.starts_with('0') {
            return None;
        }
        let size = size.parse().ok().filter(|size| (1..=OBJECT_SIZE_MAX).contains(size))?;
        Some(Object { class, size, identity: identity(path.as_bytes()) })
    }

    /// The eight bytes from `8 * word`.
    fn word(&self, word: u64) -> [u8; 8] {
        mixed(self.identity.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
    }

    /// The byte at `offset`.
    pub fn byte(&self, offset: u64) -> u8 {
        self.word(offset / 8)[(offset % 8) as usize]
    }

    /// Writes the bytes from `offset`, which is a multiple of eight, all over `out`.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        debug_assert_eq!(offset % 8, 0, "bytes are made by eights");
        for (index, eight) in out.chunks_mut(8).enumerate() {
            eight.copy_from_slice(&self.word(offset / 8 + index as u64)[..eight.len()]);
        }
    }

    /// Looks at some of the bytes that came from `offset`: the first, the last, and one in `CHECK_EVERY`.
    pub fn agrees(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(last) = bytes.len().checked_sub(1) else { return true };
        (0..=last).step_by(CHECK_EVERY).chain([last]).all(|at| {
            let here = offset + at as u64;
            here < self.size && bytes[at] == self.byte(here)
        })
    }
}

/// A prime, so that the bytes looked at drift over words and pages: a wrong block of any size shows.
const CHECK_EVERY: usize = 997;
