//! Media types of files that an origin serves. Must stay true: an unknown ending is
//! `application/octet-stream`, so that no browser takes unknown bytes for a page.

/// The `Content-Type` for a file name ending (no dot, any case).
pub fn media_type_for(extension: &str) -> &'static str {
    let mut lower = [0u8; 8];
    let Some(lower) = lower.get_mut(..extension.len()) else { return "application/octet-stream" };
    lower.copy_from_slice(extension.as_bytes());
    lower.make_ascii_lowercase();
    match &*lower {
        b"m3u8" => "application/vnd.apple.mpegurl",
        b"mpd" => "application/dash+xml",
        b"m4s" | b"cmfv" | b"cmfa" | b"cmft" => "video/iso.segment",
        b"mp4" | b"m4v" => "video/mp4",
        b"m4a" => "audio/mp4",
        b"ts" => "video/mp2t",
        b"aac" => "audio/aac",
        b"mp3" => "audio/mpeg",
        b"ac3" => "audio/ac3",
        b"ec3" => "audio/eac3",
        b"opus" | b"ogg" | b"oga" => "audio/ogg",
        b"flac" => "audio/flac",
        b"wav" => "audio/wav",
        b"webm" => "video/webm",
        b"mkv" => "video/matroska",
        b"mov" => "video/quicktime",
        b"vtt" => "text/vtt; charset=utf-8",
        b"srt" => "application/x-subrip",
        b"ttml" => "application/ttml+xml",
        b"html" | b"htm" => "text/html; charset=utf-8",
        b"js" | b"mjs" => "text/javascript; charset=utf-8",
        b"css" => "text/css; charset=utf-8",
        b"txt" => "text/plain; charset=utf-8",
        b"json" | b"map" => "application/json",
        b"xml" => "application/xml",
        b"png" => "image/png",
        b"jpg" | b"jpeg" => "image/jpeg",
        b"gif" => "image/gif",
        b"webp" => "image/webp",
        b"avif" => "image/avif",
        b"svg" => "image/svg+xml",
        b"ico" => "image/x-icon",
        b"woff" => "font/woff",
        b"woff2" => "font/woff2",
        b"wasm" => "application/wasm",
        b"pdf" => "application/pdf",
        b"zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_of_a_stream_have_their_types() {
        assert_eq!(media_type_for("m3u8"), "application/vnd.apple.mpegurl");
        assert_eq!(media_type_for("M4S"), "video/iso.segment");
        assert_eq!(media_type_for("mp4"), "video/mp4");
        assert_eq!(media_type_for(""), "application/octet-stream");
        assert_eq!(media_type_for("averylongending"), "application/octet-stream");
    }
}
