//! HLS playlists, as the harness' players read them.

use tidegate_load::play::playlist::{Playlist, Range, SEGMENTS_MAX, VARIANTS_MAX};
use tidegate_load::url::Url;

const BASE: &str = "https://film.example/show/17/media.m3u8?token=x";

/// What was read is inside its limits and can be asked for; written out again it is read as the same; a fault names a line
/// that is there.
pub fn run(input: &[u8]) {
    let Ok(base) = Url::parse(BASE) else { return };
    let playlist = match Playlist::parse(input, &base) {
        Ok(playlist) => playlist,
        Err(error) => {
            let lines = String::from_utf8_lossy(input).lines().count().max(1);
            assert!((1..=lines).contains(&error.line), "{error}, of {lines} lines");
            return;
        }
    };
    let range = |range: &Range| assert!(range.first <= range.last, "{range:?}");
    match &playlist {
        Playlist::Multivariant(variants) => {
            assert!((1..=VARIANTS_MAX).contains(&variants.len()));
            assert!(variants.is_sorted_by_key(|variant| variant.bandwidth));
        }
        Playlist::Media(media) => {
            // A live one may be empty for a while.
            assert!(media.segments.len() <= SEGMENTS_MAX);
            assert!(media.target_s.is_finite() && media.target_s >= 0.0);
            for segment in &media.segments {
                assert!((0.0..=3600.0).contains(&segment.seconds));
                segment.range.iter().for_each(range);
                segment.map.iter().filter_map(|(_, part)| part.as_ref()).for_each(range);
            }
        }
    }
    let text = written(&playlist);
    // A URL with a quote in it cannot stand between quotes.
    if text.matches('"').count() == quotes(&playlist) {
        assert_eq!(Playlist::parse(text.as_bytes(), &base), Ok(playlist));
    }
}

/// Quotes that `written` makes itself.
fn quotes(playlist: &Playlist) -> usize {
    let Playlist::Media(media) = playlist else { return 0 };
    let maps = media.segments.iter().filter_map(|segment| segment.map.as_ref());
    maps.map(|(_, range)| if range.is_some() { 4 } else { 2 }).sum()
}

fn written(playlist: &Playlist) -> String {
    let part = |range: &Range| format!("{}@{}", range.last - range.first + 1, range.first);
    let mut text = "#EXTM3U\n".to_owned();
    match playlist {
        Playlist::Multivariant(variants) => {
            for variant in variants {
                let (bandwidth, url) = (variant.bandwidth, &variant.url);
                text += &format!("#EXT-X-STREAM-INF:BANDWIDTH={bandwidth}\n{url}\n");
            }
        }
        Playlist::Media(media) => {
            text += &format!(
                "#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n",
                media.target_s, media.sequence
            );
            for segment in &media.segments {
                if let Some((url, range)) = &segment.map {
                    let range = range.as_ref().map(|r| format!(",BYTERANGE=\"{}\"", part(r)));
                    text += &format!("#EXT-X-MAP:URI=\"{url}\"{}\n", range.unwrap_or_default());
                }
                if let Some(range) = &segment.range {
                    text += &format!("#EXT-X-BYTERANGE:{}\n", part(range));
                }
                text += &format!("#EXTINF:{},\n{}\n", segment.seconds, segment.url);
            }
            if media.ended {
                text += "#EXT-X-ENDLIST\n";
            }
        }
    }
    text
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=5000000,CODECS=\"avc1,mp4a\"\nhigh/i.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=500000\nlow/i.m3u8\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:17\n#EXT-X-MAP:URI=\"i.mp4\",BYTERANGE=\"100@0\"\n\
         #EXTINF:6.0,\na.m4s\n#EXT-X-BYTERANGE:500@100\n#EXTINF:5.5,title\nb.m4s\n#EXT-X-BYTERANGE:50\n\
         #EXTINF:1,\nb.m4s\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXTINF:2,\nhttps://other.example/x?y=1\n#EXTINF:2,\n//third.example/../z\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
