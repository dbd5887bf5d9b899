//! HLS playlists (RFC 8216), as far as a player model needs them.
//!
//! Must stay true: what comes from a server is read in linear time with limits; tags that are not known are left
//! out; a playlist without anything to play is refused with the line at fault.

use crate::url::{Url, UrlError};
use std::fmt;

/// Bytes of a playlist: a day of two-second media segments has 4 MB.
pub const PLAYLIST_BYTES_MAX: usize = 8 << 20;
/// Media segments of one playlist.
pub const SEGMENTS_MAX: usize = 100_000;
/// Variant streams of one playlist.
pub const VARIANTS_MAX: usize = 100;
/// Seconds of one media segment.
const SEGMENT_SECONDS_MAX: f64 = 3600.0;

/// A playlist of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Playlist {
    /// Variant streams, by bit rate from the lowest on.
    Multivariant(Vec<Variant>),
    Media(Media),
}

/// One variant stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Bits per second at most.
    pub bandwidth: u64,
    pub url: Url,
}

/// A media playlist.
#[derive(Debug, Clone, PartialEq)]
pub struct Media {
    pub target_s: f64,
    /// Number of the first media segment.
    pub sequence: u64,
    pub segments: Vec<MediaSegment>,
    /// Nothing will be added.
    pub ended: bool,
}

/// One media segment.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaSegment {
    pub url: Url,
    pub seconds: f64,
    pub range: Option<Range>,
    /// The init segment that it needs.
    pub map: Option<(Url, Option<Range>)>,
}

/// Bytes of a resource, first and last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub first: u64,
    pub last: u64,
}

/// Why a text is no playlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaylistError {
    /// From 1.
    pub line: usize,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    NoHeader,
    NotText,
    TooLarge,
    Nothing,
    Bandwidth,
    Duration,
    Number,
    Range,
    Map,
    Url(UrlError),
    TooMany,
    /// Variant streams and media segments in one.
    Mixed,
}

impl fmt::Display for PlaylistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the playlist: ", self.line)?;
        match &self.fault {
            Fault::NoHeader => f.write_str("it does not begin with #EXTM3U"),
            Fault::NotText => f.write_str("it is not UTF-8"),
            Fault::TooLarge => write!(f, "it has more than {PLAYLIST_BYTES_MAX} bytes"),
            Fault::Nothing => f.write_str("there is neither a variant stream nor a media segment"),
            Fault::Bandwidth => f.write_str("EXT-X-STREAM-INF needs BANDWIDTH=bits per second"),
            Fault::Duration => f.write_str("a duration is from 0 to 3600 seconds"),
            Fault::Number => f.write_str("here stands a whole number"),
            Fault::Range => f.write_str("a byte range is length@offset"),
            Fault::Map => f.write_str("EXT-X-MAP needs URI=\"...\""),
            Fault::Url(error) => write!(f, "{error}"),
            Fault::TooMany => f.write_str("there are too many of these lines"),
            Fault::Mixed => f.write_str("variant streams and media segments in one playlist"),
        }
    }
}

impl std::error::Error for PlaylistError {}

impl Playlist {
    /// Reads a playlist that came from `base`.
    ///
    /// # Errors
    /// The first line that cannot be used.
    pub fn parse(bytes: &[u8], base: &Url) -> Result<Playlist, PlaylistError> {
        let fail = |line, fault| PlaylistError { line, fault };
        if bytes.len() > PLAYLIST_BYTES_MAX {
            return Err(fail(1, Fault::TooLarge));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| fail(1, Fault::NotText))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.lines().next().map(str::trim_end) != Some("#EXTM3U") {
            return Err(fail(1, Fault::NoHeader));
        }
        let mut reader = Reader::default();
        let mut count = 0;
        for (index, line) in text.lines().enumerate().skip(1) {
            count = index + 1;
            reader.line(line.trim(), base).map_err(|fault| fail(index + 1, fault))?;
        }
        reader.end().map_err(|fault| fail(count.max(1), fault))
    }
}

#[derive(Default)]
struct Reader {
    variants: Vec<Variant>,
    segments: Vec<MediaSegment>,
    target_s: f64,
    sequence: u64,
    ended: bool,
    /// What the next URL is.
    bandwidth: Option<u64>,
    seconds: Option<f64>,
    range: Option<(u64, Option<u64>)>,
    map: Option<(Url, Option<Range>)>,
    /// Where the last range ended, and of which resource.
    range_end: Option<(Url, u64)>,
}

impl Reader {
    fn line(&mut self, line: &str, base: &Url) -> Result<(), Fault> {
        if let Some(tag) = line.strip_prefix("#EXT") {
            let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
            match name {
                "INF" => {
                    let seconds = value.split(',').next().unwrap_or_default();
                    self.seconds = Some(self::seconds(seconds)?);
                }
                "-X-STREAM-INF" => {
                    let bandwidth = attribute(value, "BANDWIDTH").ok_or(Fault::Bandwidth)?;
                    self.bandwidth = Some(bandwidth.parse().map_err(|_| Fault::Bandwidth)?);
                }
                "-X-TARGETDURATION" => self.target_s = self::seconds(value)?,
                "-X-MEDIA-SEQUENCE" => self.sequence = number(value)?,
                "-X-ENDLIST" => self.ended = true,
                "-X-BYTERANGE" => self.range = Some(length_and_offset(value)?),
                "-X-MAP" => {
                    let uri = attribute(value, "URI").ok_or(Fault::Map)?;
                    let range = match attribute(value, "BYTERANGE") {
                        Some(text) => {
                            let (length, offset) = length_and_offset(text)?;
                            Some(range(length, offset.unwrap_or(0))?)
                        }
                        None => None,
                    };
                    self.map = Some((base.join(uri).map_err(Fault::Url)?, range));
                }
                _ => {}
            }
            return Ok(());
        }
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let url = base.join(line).map_err(Fault::Url)?;
        if let Some(bandwidth) = self.bandwidth.take() {
            if self.variants.len() == VARIANTS_MAX {
                return Err(Fault::TooMany);
            }
            self.variants.push(Variant { bandwidth, url });
            return Ok(());
        }
        // A URL without EXTINF is nothing that a player knows how to play.
        let Some(seconds) = self.seconds.take() else { return Ok(()) };
        if self.segments.len() == SEGMENTS_MAX {
            return Err(Fault::TooMany);
        }
        let range = match self.range.take() {
            None => None,
            Some((length, offset)) => {
                // Without an offset it goes on where the one before ended (RFC 8216, section 4.3.2.2).
                let before = self.range_end.as_ref().filter(|(before, _)| *before == url);
                let offset = offset.or(before.map(|(_, end)| *end)).ok_or(Fault::Range)?;
                let range = range(length, offset)?;
                self.range_end = Some((url.clone(), range.last + 1));
                Some(range)
            }
        };
        self.segments.push(MediaSegment { url, seconds, range, map: self.map.clone() });
        Ok(())
    }

    fn end(self) -> Result<Playlist, Fault> {
        match (self.variants.is_empty(), self.segments.is_empty()) {
            (false, false) => Err(Fault::Mixed),
            (true, true) => Err(Fault::Nothing),
            (false, true) => {
                let mut variants = self.variants;
                variants.sort_by_key(|variant| variant.bandwidth);
                Ok(Playlist::Multivariant(variants))
            }
            (true, false) => {
                let longest = self.segments.iter().map(|s| s.seconds).fold(0.0, f64::max);
                Ok(Playlist::Media(Media {
                    // A reload needs a time above zero, whatever the playlist says.
                    target_s: self.target_s.max(longest).max(TARGET_SECONDS_MIN),
                    sequence: self.sequence,
                    segments: self.segments,
                    ended: self.ended,
                }))
            }
        }
    }
}

const TARGET_SECONDS_MIN: f64 = 0.1;

fn seconds(text: &str) -> Result<f64, Fault> {
    let seconds: f64 = text.trim().parse().map_err(|_| Fault::Duration)?;
    if (0.0..=SEGMENT_SECONDS_MAX).contains(&seconds) { Ok(seconds) } else { Err(Fault::Duration) }
}

fn number(text: &str) -> Result<u64, Fault> {
    text.trim().parse().map_err(|_| Fault::Number)
}

fn length_and_offset(text: &str) -> Result<(u64, Option<u64>), Fault> {
    let (length, offset) = match text.split_once('@') {
        Some((length, offset)) => (length, Some(offset)),
        None => (text, None),
    };
    let parse = |text: &str| text.trim().parse().map_err(|_| Fault::Range);
    Ok((parse(length)?, offset.map(parse).transpose()?))
}

fn range(length: u64, first: u64) -> Result<Range, Fault> {
    let end = first.checked_add(length).ok_or(Fault::Range)?;
    if length == 0 { Err(Fault::Range) } else { Ok(Range { first, last: end - 1 }) }
}

/// Value of one attribute in a list; commas inside quotes do not part.
fn attribute<'a>(list: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = list;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next.strip_prefix(',').unwrap_or(next))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if name.trim() == wanted {
            return Some(value);
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base() -> Url {
        Url::parse("http://film.example/show/17/master.m3u8?token=a/b").unwrap()
    }

    fn parse(text: &str) -> Result<Playlist, PlaylistError> {
        Playlist::parse(text.as_bytes(), &base())
    }

    #[test]
    fn variant_streams_come_by_bit_rate() {
        let text = "#EXTM3U\n#EXT-X-VERSION:7\n\
            #EXT-X-STREAM-INF:CODECS=\"avc1.64,mp4a\",BANDWIDTH=5000000,RESOLUTION=1920x1080\nhigh/i.m3u8\n\
            #EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=7,BANDWIDTH=800000\r\nhttps://o.example/low.m3u8\r\n\
            #EXT-X-STREAM-INF:BANDWIDTH=2000000\n/mid.m3u8?x\n";
        let Ok(Playlist::Multivariant(variants)) = parse(text) else { panic!() };
        let all: Vec<_> = variants.iter().map(|v| (v.bandwidth, v.url.to_string())).collect();
        let wanted = [
            (800_000, "https://o.example/low.m3u8"),
            (2_000_000, "http://film.example/mid.m3u8?x"),
            (5_000_000, "http://film.example/show/17/high/i.m3u8"),
        ];
        assert_eq!(all, wanted.map(|(b, u)| (b, u.to_owned())));
    }

    #[test]
    fn media_segments_have_ranges_and_init_segments() {
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:41\n\
            #EXT-X-MAP:URI=\"init.mp4\",BYTERANGE=\"100@0\"\n\
            #EXTINF:6.0,a title, with commas\n#EXT-X-BYTERANGE:500@100\nall.mp4\n\
            #EXTINF:5.5,\n#EXT-X-BYTERANGE:400\nall.mp4\n#EXTINF:2\n../x.mp4\n#EXT-X-ENDLIST\n";
        let Ok(Playlist::Media(media)) = parse(text) else { panic!() };
        assert_eq!((media.target_s, media.sequence, media.ended), (6.0, 41, true));
        let ranges: Vec<_> = media.segments.iter().map(|s| s.range).collect();
        let range = |first, last| Some(Range { first, last });
        assert_eq!(ranges, [range(100, 599), range(600, 999), None]);
        assert_eq!(media.segments[1].seconds, 5.5);
        assert_eq!(media.segments[2].url.to_string(), "http://film.example/show/x.mp4");
        let (map, map_range) = media.segments[0].map.clone().unwrap();
        assert_eq!(map.to_string(), "http://film.example/show/17/init.mp4");
        assert_eq!(map_range, range(0, 99));
    }

    #[test]
    fn wrong_playlists_name_the_line() {
        let cases = [
            ("", 1, Fault::NoHeader),
            ("<html>", 1, Fault::NoHeader),
            ("#EXTM3U\n# nothing\n", 2, Fault::Nothing),
            ("#EXTM3U\n#EXT-X-STREAM-INF:CODECS=\"a\"\nx", 2, Fault::Bandwidth),
            ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=fast\nx", 2, Fault::Bandwidth),
            ("#EXTM3U\n#EXTINF:abc,\nx", 2, Fault::Duration),
            ("#EXTM3U\n#EXTINF:-1,\nx", 2, Fault::Duration),
            ("#EXTM3U\n#EXTINF:NaN,\nx", 2, Fault::Duration),
            ("#EXTM3U\n\n#EXTINF:1e9,\nx", 3, Fault::Duration),
            ("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:x\n", 2, Fault::Number),
            ("#EXTM3U\n#EXTINF:1,\n#EXT-X-BYTERANGE:5\nx", 4, Fault::Range),
            ("#EXTM3U\n#EXTINF:1,\n#EXT-X-BYTERANGE:0@0\nx", 4, Fault::Range),
            ("#EXTM3U\n#EXT-X-MAP:BYTERANGE=\"1@1\"\n", 2, Fault::Map),
            ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na\n#EXTINF:1,\nb", 5, Fault::Mixed),
            ("#EXTM3U\n#EXTINF:1,\nftp://a/b c", 3, Fault::Url(UrlError::Byte(24))),
        ];
        for (text, line, fault) in cases {
            let error = parse(text).unwrap_err();
            if matches!(fault, Fault::Url(_)) {
                assert!(matches!(error.fault, Fault::Url(_)) && error.line == line, "{error}");
                continue;
            }
            assert_eq!(error, PlaylistError { line, fault }, "{text}");
        }
        assert!(Playlist::parse(b"#EXTM3U\n\xff", &base()).is_err());
        let many = format!("#EXTM3U\n{}", "#EXT-X-STREAM-INF:BANDWIDTH=1\na\n".repeat(101));
        assert_eq!(parse(&many).unwrap_err().fault, Fault::TooMany);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            lines in proptest::collection::vec(
                "(#EXTINF:|#EXT-X-STREAM-INF:|#EXT-X-BYTERANGE:|#EXT-X-MAP:|)[ -~]{0,30}", 0..12),
        ) {
            let text = format!("#EXTM3U\n{}", lines.join("\n"));
            let _read = parse(&text);
        }
    }
}
