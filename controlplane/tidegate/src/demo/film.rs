//! The film: plans the ladder, makes the ffmpeg command, runs it with progress, and puts the result in place.
//!
//! Must stay true: what lies under `origin/film/<version>/` never changes (the version is a hash of
//! everything the film depends on), so warm caches are right after any change of film; only
//! `origin/film/master.m3u8` is replaced, and it names the version. A half-made film is never in the origin:
//! it is made beside it and renamed.

use super::error::DemoError;
use super::keeper::Keeper;
use super::terminal::ProgressBar;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::UNIX_EPOCH;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

/// Where the film comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Made here: a moving test picture, a running clock, sound.
    BuiltIn { seconds: u32, height: u32 },
    /// The viewer's file.
    File { path: PathBuf, facts: Facts },
}

/// What ffprobe says of a file, as far as we need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub width: u32,
    pub height: u32,
    pub seconds: f64,
    pub sound: bool,
}

/// One rendition of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    pub height: u32,
    pub kbps: u32,
}

/// How the film was obtained, for the person who waits.
#[derive(Debug, PartialEq)]
pub struct Film {
    /// Path under the origin's root, with a leading slash.
    pub path: String,
    /// True when nothing had to be made.
    pub reused: bool,
    pub seconds: f64,
    pub rungs: usize,
}

/// Plans 4 renditions for a source of `height` lines: the largest is at most 720 lines and at most the
/// source, unless the source is too small to hold four sizes.
pub fn ladder(height: u32) -> Vec<Rung> {
    let top = (height.min(LADDER_TOP) / 2 * 2).max(LADDER_HEIGHTS[RUNGS - 1]);
    let below = LADDER_HEIGHTS.iter().copied().filter(|h| *h < top);
    let mut heights: Vec<u32> = below.rev().take(RUNGS - 1).collect();
    heights.reverse();
    heights.push(top);
    heights.into_iter().map(|height| Rung { height, kbps: kbps(height) }).collect()
}

/// A bit rate that suits moving pictures of this height at 25 frames a second.
fn kbps(height: u32) -> u32 {
    match height {
        0..=119 => 90,
        120..=179 => 150,
        180..=239 => 220,
        240..=359 => 350,
        360..=479 => 700,
        480..=719 => 1200,
        _ => 2500,
    }
}

/// The command line of ffmpeg that makes the whole ladder in one pass, writing below its working directory.
///
/// One decode feeds all encoders, so that key frames of all renditions fall on the same instants.
pub fn ffmpeg_arguments(source: &Source, rungs: &[Rung], font: &Path) -> Vec<String> {
    let mut a: Vec<String> = words("-hide_banner -nostdin -v error -y -progress pipe:1");
    let (head, sound) = match source {
        Source::BuiltIn { seconds, height } => {
            let width = height * 16 / 9 / 2 * 2;
            let picture = format!("testsrc2=size={width}x{height}:rate=25:duration={seconds}");
            let tone =
                format!("sine=frequency=220:beep_factor=4:sample_rate=48000:duration={seconds}");
            a.extend(words("-f lavfi -i"));
            a.push(picture);
            a.extend(words("-f lavfi -i"));
            a.push(tone);
            let clock = format!(
                "drawtext=fontfile={}:text='%{{pts\\:hms}}':fontsize={}:fontcolor=white:box=1:\
                 boxcolor=black@0.7:boxborderw=24:x=(w-text_w)/2:y=(h-text_h)/2",
                font.display(),
                height / 6
            );
            (clock, Some("1:a:0"))
        }
        Source::File { path, facts } => {
            a.push("-i".into());
            a.push(path.display().to_string());
            // Anamorphic sources are brought to square pixels first; the frame rate is made constant because
            // key frames must fall on whole seconds.
            (
                "scale='trunc(iw*sar/2)*2':ih,setsar=1,fps=25".to_string(),
                facts.sound.then_some("0:a:0"),
            )
        }
    };
    let n = rungs.len();
    let outs: String = (0..n).map(|i| format!("[s{i}]")).collect();
    let scales: Vec<String> = rungs
        .iter()
        .enumerate()
        .map(|(i, r)| format!("[s{i}]scale=-2:{}[v{i}]", r.height))
        .collect();
    a.push("-filter_complex".into());
    a.push(format!("[0:v:0]{head},format=yuv420p,split={n}{outs};{}", scales.join(";")));
    for i in 0..n {
        a.extend(["-map".to_string(), format!("[v{i}]")]);
    }
    if let Some(map) = sound {
        a.extend(["-map".to_string(), map.to_string()]);
        a.extend(words("-c:a aac -b:a 96k -ac 2 -ar 48000"));
    }
    a.extend(words("-c:v libx264 -preset veryfast -g 50 -keyint_min 50 -sc_threshold 0"));
    a.extend(words("-force_key_frames expr:gte(t,n_forced*2)"));
    for (i, r) in rungs.iter().enumerate() {
        a.extend([format!("-b:v:{i}"), format!("{}k", r.kbps)]);
        a.extend([format!("-maxrate:v:{i}"), format!("{}k", r.kbps * 6 / 5)]);
        a.extend([format!("-bufsize:v:{i}"), format!("{}k", r.kbps * 2)]);
    }
    a.extend(words("-f hls -hls_time 6 -hls_playlist_type vod -hls_segment_type fmp4"));
    a.extend(words("-hls_flags independent_segments -master_pl_name master.m3u8"));
    a.extend(words("-hls_fmp4_init_filename init.mp4 -hls_segment_filename %v/segment_%05d.m4s"));
    let group = if sound.is_some() { ",agroup:sound" } else { "" };
    let mut map: Vec<String> =
        rungs.iter().enumerate().map(|(i, r)| format!("v:{i}{group},name:{}p", r.height)).collect();
    if sound.is_some() {
        map.push("a:0,agroup:sound,name:audio,default:yes,language:en".into());
    }
    a.extend(["-var_stream_map".to_string(), map.join(" "), "%v/index.m3u8".to_string()]);
    a
}

/// Everything that the result depends on, as text: equal text, equal film.
pub fn recipe(source: &Source, arguments: &[String]) -> Result<String, DemoError> {
    let mut text = format!("tidegate demo film, recipe 1\n{}\n", arguments.join("\n"));
    if let Source::File { path, .. } = source {
        let meta = std::fs::metadata(path).map_err(DemoError::io("look at", path))?;
        let changed = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        text.push_str(&format!(
            "size {} changed {}\n",
            meta.len(),
            changed.map_or(0, |d| d.as_nanos())
        ));
    }
    Ok(text)
}

/// A short name for a recipe (FNV-1a, 64 bits): stable over releases, which a map's hasher is not.
pub fn version(recipe: &str) -> String {
    let hash = recipe
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// The multivariant playlist as it stands at `/film/master.m3u8`: every URI gains the version's folder.
pub fn versioned_master(master: &str, version: &str) -> String {
    let mut out = String::with_capacity(master.len() + 256);
    for line in master.lines() {
        if line.starts_with('#') {
            out.push_str(&line.replace("URI=\"", &format!("URI=\"{version}/")));
        } else if !line.trim().is_empty() {
            out.push_str(version);
            out.push('/');
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// Makes the film under `origin/film`, unless it is already there.
///
/// # Errors
/// A film that ffprobe or ffmpeg refuses, a missing program or font, a full disk.
pub async fn prepare(
    source: &Source,
    dir: &Path,
    say: &mut ProgressBar,
    keeper: &mut Keeper,
) -> Result<Film, DemoError> {
    let font = font()?;
    let (height, seconds) = match source {
        Source::BuiltIn { seconds, height } => (*height, f64::from(*seconds)),
        Source::File { facts, .. } => (facts.height, facts.seconds),
    };
    let rungs = ladder(height);
    let arguments = ffmpeg_arguments(source, &rungs, &font);
    let recipe = recipe(source, &arguments)?;
    let version = version(&recipe);
    let place = dir.join("origin").join("film");
    let stamp = dir.join("film.recipe");
    let film = Film { path: "/film/master.m3u8".into(), reused: true, seconds, rungs: rungs.len() };
    let made = place.join(&version);
    let stands = made.join("master.m3u8").is_file() && place.join("master.m3u8").is_file();
    if stands && std::fs::read_to_string(&stamp).is_ok_and(|old| old == recipe) {
        return Ok(film);
    }

    let making = dir.join("film.making");
    remove_folder(&making)?;
    for name in rungs.iter().map(|r| format!("{}p", r.height)).chain(["audio".to_string()]) {
        make_folder(&making.join(name))?;
    }
    make_folder(&place)?;
    encode(&arguments, &making, source, seconds, say, keeper).await?;

    let master_file = making.join("master.m3u8");
    let master =
        std::fs::read_to_string(&master_file).map_err(DemoError::io("read", &master_file))?;
    remove_folder(&made)?;
    std::fs::rename(&making, &made).map_err(DemoError::io("put in place", &made))?;
    write_whole(&place.join("master.m3u8"), versioned_master(&master, &version).as_bytes())?;
    write_whole(&stamp, recipe.as_bytes())?;
    remove_other_versions(&place, &version)?;
    Ok(Film { reused: false, ..film })
}

/// Asks ffprobe what a file holds.
///
/// # Errors
/// Names the file and what to do when it is no film that ffmpeg can read.
pub async fn probe(file: &Path) -> Result<Source, DemoError> {
    let bad =
        |what: String, mend: &'static str| DemoError::Film { file: file.to_path_buf(), what, mend };
    let path = std::fs::canonicalize(file)
        .map_err(|e| bad(format!("{e}"), "Check the path after VIDEO= (or --video)."))?;
    if !path.is_file() {
        return Err(bad("it is not a file".into(), "Give one film file, for example an MP4."));
    }
    let output = Command::new("ffprobe")
        .args(words("-v error -print_format json -show_format -show_streams -i"))
        .arg(&path)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| tool_missing("ffprobe", &e))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().next().unwrap_or("no reason given").to_string();
        return Err(bad(format!("ffprobe says: {first}"), PLAYABLE));
    }
    let facts = facts(&output.stdout).map_err(|what| bad(what, PLAYABLE))?;
    Ok(Source::File { path, facts })
}

/// Reads ffprobe's JSON.
pub fn facts(json: &[u8]) -> Result<Facts, String> {
    let value: Value =
        serde_json::from_slice(json).map_err(|e| format!("ffprobe's answer is no JSON: {e}"))?;
    let streams = value["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is = |s: &Value, kind: &str| s["codec_type"] == kind;
    // Cover pictures of music files are video streams of one frame; they are marked.
    let picture = streams
        .iter()
        .find(|s| is(s, "video") && s["disposition"]["attached_pic"] != 1)
        .ok_or("it has no moving picture")?;
    let size =
        |name: &str| picture[name].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let width = size("width").ok_or("its picture has no width")?;
    let height = size("height").ok_or("its picture has no height")?;
    let seconds = |v: &Value| v["duration"].as_str().and_then(|s| s.parse::<f64>().ok());
    let seconds = seconds(&value["format"])
        .or_else(|| seconds(picture))
        .filter(|s| s.is_finite())
        .ok_or("it does not say how long it is")?;
    if seconds < SECONDS_MIN {
        return Err(format!(
            "it lasts {seconds:.1} s, and a film of at least {SECONDS_MIN} s is needed"
        ));
    }
    Ok(Facts { width, height, seconds, sound: streams.iter().any(|s| is(s, "audio")) })
}

async fn encode(
    arguments: &[String],
    folder: &Path,
    source: &Source,
    seconds: f64,
    say: &mut ProgressBar,
    keeper: &mut Keeper,
) -> Result<(), DemoError> {
    let mut child = Command::new("ffmpeg")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| tool_missing("ffmpeg", &e))?;
    let pid = child.id();
    pid.into_iter().for_each(|p| keeper.watch(p));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = tokio::spawn(async move {
        let mut text = Vec::new();
        if let Some(pipe) = stderr {
            // Only the beginning is of use; the rest is read and dropped, so that ffmpeg never blocks on it.
            let mut first = pipe.take(STDERR_BYTES_MAX);
            let _ = first.read_to_end(&mut text).await;
            let _ = tokio::io::copy(&mut first.into_inner(), &mut tokio::io::sink()).await;
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    if let Some(pipe) = stdout {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(done) = progress_seconds(&line) {
                say.show((done / seconds).clamp(0.0, 1.0));
            }
        }
    }
    let status = child.wait().await.map_err(|e| tool_missing("ffmpeg", &e))?;
    pid.into_iter().for_each(|p| keeper.forget(p));
    if status.success() {
        say.done();
        return Ok(());
    }
    say.broken();
    let text = complaints.await.unwrap_or_default();
    let what = text.lines().take(3).collect::<Vec<_>>().join("; ");
    let what = if what.is_empty() { format!("ended with {status}") } else { what };
    Err(match source {
        Source::File { path, .. } => DemoError::Film {
            file: path.clone(),
            what: format!("ffmpeg says: {what}"),
            mend: PLAYABLE,
        },
        Source::BuiltIn { .. } => DemoError::Tool {
            program: "ffmpeg".into(),
            what,
            mend: "Is the disk full? Is it Debian's ffmpeg, with libx264?".into(),
        },
    })
}

/// The seconds of film that are done, of a line of `-progress`.
fn progress_seconds(line: &str) -> Option<f64> {
    let micros: i64 = line.strip_prefix("out_time_us=")?.parse().ok()?;
    Some(micros.max(0) as f64 / 1e6)
}

fn tool_missing(program: &str, e: &std::io::Error) -> DemoError {
    DemoError::Tool {
        program: program.into(),
        what: format!("cannot be run ({e})"),
        mend: "Install it: `apt-get install ffmpeg` (`make demo` does that by itself).".into(),
    }
}

fn font() -> Result<PathBuf, DemoError> {
    FONTS.iter().map(PathBuf::from).find(|p| p.is_file()).ok_or_else(|| DemoError::Tool {
        program: "drawtext".into(),
        what: "the font DejaVu is missing".into(),
        mend: "Install it: `apt-get install fonts-dejavu-core` (`make demo` does that by itself)."
            .into(),
    })
}

/// Writes a file so that a reader sees the old or the new one, never a half.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    std::fs::write(&temporary, bytes).map_err(DemoError::io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(DemoError::io("put in place", path))
}

/// Makes a folder and those above it.
pub fn make_folder(path: &Path) -> Result<(), DemoError> {
    std::fs::create_dir_all(path).map_err(DemoError::io("make the folder", path))
}

fn remove_folder(path: &Path) -> Result<(), DemoError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(DemoError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Drops the folders of films that nothing names any more.
fn remove_other_versions(place: &Path, version: &str) -> Result<(), DemoError> {
    let entries = std::fs::read_dir(place).map_err(DemoError::io("list", place))?;
    for entry in entries.flatten() {
        if entry.path().is_dir() && entry.file_name() != version {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_string).collect()
}

/// Renditions in every ladder.
pub const RUNGS: usize = 4;
/// Largest rendition: what two slow cores encode faster than it plays.
const LADDER_TOP: u32 = 720;
/// Heights a ladder picks from, below its top.
const LADDER_HEIGHTS: [u32; 9] = [72, 96, 120, 144, 180, 240, 360, 480, 720];
/// Shorter than one GOP makes no ladder.
const SECONDS_MIN: f64 = 2.0;
/// What is kept of ffmpeg's complaints.
const STDERR_BYTES_MAX: u64 = 64 << 10;
const PLAYABLE: &str = "Give a film that `ffmpeg` can read (MP4, MKV, WebM), or leave VIDEO= out.";
const FONTS: [&str; 2] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
];

#[cfg(test)]
mod tests;
