//! Goal: players see what the server gives, over real connections, and the report says so.
//! Method: a server by hand with a film of three short renditions behind a redirect, the run through the real binary.

use super::support::{After, Server, ok};
use std::process::{Command, Output, Stdio};

/// Media segments of the film; each lasts a tenth of a second, so that a test does.
const SEGMENTS: usize = 5;

fn film(missing: &'static str) -> Server {
    Server::start(move |asked| match asked.target.as_str() {
        target if !missing.is_empty() && target.ends_with(missing) => {
            (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(), After::Keep)
        }
        "/film" => {
            let head =
                "HTTP/1.1 302 Found\r\nlocation: /edge/master.m3u8\r\ncontent-length: 0\r\n\r\n";
            (head.as_bytes().to_vec(), After::Keep)
        }
        "/edge/master.m3u8" => ok("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9000000\nhigh/i.m3u8\n\
            #EXT-X-STREAM-INF:BANDWIDTH=500000\nlow/i.m3u8\n"),
        "/edge/low/i.m3u8" | "/edge/high/i.m3u8" => {
            let mut text =
                "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MAP:URI=\"init.mp4\"\n".to_owned();
            (0..SEGMENTS).for_each(|n| text += &format!("#EXTINF:0.1,\n{n}.m4s\n"));
            ok(&(text + "#EXT-X-ENDLIST\n"))
        }
        target if target.ends_with(".m4s") => ok(&"m".repeat(5000)),
        "/edge/low/init.mp4" | "/edge/high/init.mp4" => ok("init"),
        _ => (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(), After::Keep),
    })
}

fn play(url: &str, more: &[&str]) -> (Output, serde_json::Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
    command.args(["play", url, "--ramp", "50ms", "--quiet", "--json", "-"]).args(more);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

#[test]
fn players_follow_the_router_and_play_to_the_end() {
    let server = film("");
    let (output, json) = play(
        &server.url("/film"),
        &[
            "--players",
            "8",
            "--threads",
            "2",
            "--assert",
            "players.started == 8",
            "--assert",
            "p95_startup < 1h",
            "--assert",
            "stall_ratio <= 100%",
            "--assert",
            "errors == 0",
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let players = &json["players"];
    assert_eq!((&players["players"], &players["failed"]), (&8.into(), &0.into()), "{players}");
    assert_eq!(players["startup"]["count"], 8);
    assert_eq!(
        players["mean_bitrate_bps"], 500_000.0,
        "a short buffer is never safe enough to rise"
    );
    let played = players["played_s"].as_f64().unwrap();
    assert!((played - 8.0 * 0.5).abs() < 0.01, "{players}");
    // A redirect, two playlists, an init segment and the media segments, for each.
    assert_eq!(json["answers"], 8 * (1 + 2 + 1 + SEGMENTS as u64));
    assert_eq!(json["requests"], server.requests());
    assert_eq!(json["connections"]["opened"], 8);
}

#[test]
fn a_film_that_is_not_there_fails_the_run() {
    let server = film("master.m3u8");
    let (output, json) =
        play(&server.url("/film"), &["--assert", "players.failed == 0", "--players", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("players.failed == 0: it is 2"), "{told}");
    assert_eq!(json["players"]["started"], 0);
    assert_eq!(json["errors"]["status_4xx"], 8, "each tries four times");
}

#[test]
fn what_is_no_playlist_is_named() {
    let server = Server::start(|_| ok("<html>"));
    let (output, json) = play(&server.url("/film"), &["--players", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let failure = json["first_failure"].as_str().unwrap();
    assert!(
        failure.contains("line 1 of the playlist: it does not begin with #EXTM3U"),
        "{failure}"
    );
}
