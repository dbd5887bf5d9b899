//! The generator: viewers of a catalogue and of live channels, each an event on a virtual clock, and an archive from
//! which somebody takes something once.
//!
//! A viewer of the catalogue begins a title (Zipf), asks for its playlist, for some media segments at once and then for
//! one each 6 s; now and then seeks or leaves; at an episode's end most go on to the next one. Who leaves is replaced.
//! A viewer of a live channel asks for the playlist each second and for each new media segment. Whenever the objects
//! seen once are fewer than the recipe's share of all objects, somebody asks for one from the archive.
//!
//! Must stay true: the recipe alone decides every line; times never go back; memory is some bytes for each object of the
//! catalogue and for each viewer, however long the trace is.

use super::random::{Random, mixed};
use super::recipe::{
    BURST_SEGMENTS, LADDER, LIVE_POLL_MS, LIVE_SEGMENT_MS, Recipe, VOD_SEGMENT_MS,
};
use super::{Class, Line, Object};
use crate::pick::{Order, Picker};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Made {
    pub requests: u64,
    /// Body bytes of all answers.
    pub bytes: u64,
    pub objects: u64,
    /// Objects asked for once.
    pub objects_once: u64,
    /// Bytes of all objects.
    pub object_bytes: u64,
    /// Virtual time of the last request.
    pub end_ms: u64,
}

/// Makes the lines of a trace, one after the other.
#[derive(Debug)]
pub struct Generator {
    recipe: Recipe,
    random: Random,
    titles: Picker,
    channels: Picker,
    events: BinaryHeap<Reverse<(u64, u64, Who)>>,
    /// Settles the order of events of one moment.
    serial: u64,
    vod: Vec<VodViewer>,
    live: Vec<LiveViewer>,
    clients: u64,
    /// Lines made and not yet given out, all of one moment.
    ready: VecDeque<Line>,
    archive: Archive,
    census: Census,
    made: Made,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Vod(u32),
    Live(u32),
}

#[derive(Debug, Clone)]
struct VodViewer {
    client: u64,
    title: u64,
    episode: u32,
    segment: u32,
    rendition: usize,
    burst_left: u32,
    needs_playlist: bool,
    /// The next media segment is entered in its middle.
    inside: bool,
}

#[derive(Debug, Clone)]
struct LiveViewer {
    client: u64,
    channel: u64,
    rendition: usize,
    /// The last media segment that was asked for.
    last: Option<u64>,
}

/// Where the archive is read: one title after the other, each a few media segments long.
#[derive(Debug, Default)]
struct Archive {
    title: u64,
    segment: u64,
    left: u64,
    rendition: usize,
    client: u64,
}

impl Generator {
    /// At the start of the trace of a recipe (see [`Recipe::check`]).
    pub fn new(recipe: Recipe) -> Generator {
        let seed = recipe.seed;
        let mut generator = Generator {
            random: Random::new(seed),
            titles: Picker::new(Order::Zipf(recipe.zipf), recipe.titles as usize, seed),
            channels: Picker::new(Order::Zipf(1.0), recipe.live_channels as usize, !seed),
            events: BinaryHeap::new(),
            serial: 0,
            vod: Vec::new(),
            live: Vec::new(),
            clients: 0,
            ready: VecDeque::new(),
            archive: Archive::default(),
            census: Census::default(),
            made: Made::default(),
            recipe,
        };
        for slot in 0..generator.recipe.vod_viewers {
            let mut viewer = generator.new_vod();
            // The day is under way: they are in the middle of an episode, with full buffers.
            (viewer.needs_playlist, viewer.burst_left) = (false, 0);
            viewer.segment = generator.random.below(u64::from(generator.recipe.segments)) as u32;
            generator.vod.push(viewer);
            let at = generator.random.below(VOD_SEGMENT_MS);
            generator.schedule(at, Who::Vod(slot));
        }
        for slot in 0..generator.recipe.live_viewers {
            let viewer = generator.new_live();
            let edge = generator.edge_ms(viewer.channel);
            generator.live.push(viewer);
            let at = edge + generator.random.below(LIVE_SPREAD_MS);
            generator.schedule(at, Who::Live(slot));
        }
        generator
    }

    /// What has been made so far.
    pub fn made(&self) -> Made {
        Made { objects: self.census.objects, objects_once: self.census.once, ..self.made }
    }

    fn schedule(&mut self, at_ms: u64, who: Who) {
        self.serial += 1;
        self.events.push(Reverse((at_ms, self.serial, who)));
    }

    fn client(&mut self) -> u64 {
        self.clients += 1;
        self.clients
    }

    fn rendition(&mut self) -> usize {
        let point = self.random.unit();
        let mut sum = 0.0;
        for (index, (_, share)) in LADDER.iter().enumerate() {
            sum += share;
            if point < sum {
                return index;
            }
        }
        LADDER.len() - 1
    }

    fn new_vod(&mut self) -> VodViewer {
        let client = self.client();
        // Most begin at the beginning, the others go on where they were yesterday.
        let episode = if self.random.happens(FIRST_EPISODE) {
            0
        } else {
            self.random.below(u64::from(self.recipe.episodes)) as u32
        };
        VodViewer {
            client,
            title: self.titles.pick(client) as u64,
            episode,
            segment: 0,
            rendition: self.rendition(),
            burst_left: BURST_SEGMENTS,
            needs_playlist: true,
            inside: false,
        }
    }

    fn new_live(&mut self) -> LiveViewer {
        let client = self.client();
        let channel = self.channels.pick(client) as u64;
        LiveViewer { client, channel, rendition: self.rendition(), last: None }
    }

    /// When a channel's media segments begin, within their length.
    fn edge_ms(&self, channel: u64) -> u64 {
        channel * LIVE_SEGMENT_MS / u64::from(self.recipe.live_channels)
    }

    /// One viewer does what is due.
    fn act(&mut self, at_ms: u64, who: Who) {
        match who {
            Who::Vod(slot) => self.act_vod(at_ms, slot),
            Who::Live(slot) => self.act_live(at_ms, slot),
        }
    }

    fn act_vod(&mut self, at_ms: u64, slot: u32) {
        let mut viewer = self.vod[slot as usize].clone();
        let mut next_ms = at_ms + VOD_SEGMENT_MS;
        if viewer.needs_playlist {
            viewer.needs_playlist = false;
            let place =
                format!("t{}/e{}/{}k", viewer.title, viewer.episode, kbps(viewer.rendition));
            let size = varied(PLAYLIST_BYTES, &place, self.recipe.seed);
            self.emit(
                at_ms,
                viewer.client,
                Class::VodPlaylist,
                format!("{place}/index"),
                size,
                None,
            );
            next_ms = at_ms + PLAYLIST_READ_MS;
        } else {
            self.emit_vod(at_ms, &mut viewer);
            if viewer.burst_left > 0 {
                viewer.burst_left -= 1;
                next_ms = at_ms + BURST_STEP_MS;
            }
            if self.random.happens(self.recipe.leave) || !self.go_on(&mut viewer) {
                viewer = self.new_vod();
                next_ms = at_ms + VOD_SEGMENT_MS / 2 + self.random.below(VOD_SEGMENT_MS);
            }
        }
        self.vod[slot as usize] = viewer;
        self.schedule(next_ms, Who::Vod(slot));
    }

    fn emit_vod(&mut self, at_ms: u64, viewer: &mut VodViewer) {
        let name = format!(
            "t{}/e{}/{}k/s{}",
            viewer.title,
            viewer.episode,
            kbps(viewer.rendition),
            viewer.segment
        );
        let bytes = self.recipe.segment_bytes(kbps(viewer.rendition), VOD_SEGMENT_MS);
        let size = varied(bytes, &name, self.recipe.seed);
        let range = if std::mem::take(&mut viewer.inside) {
            Some((size / 2, size - 1))
        } else if self.random.happens(self.recipe.ranges) {
            // A player that looks for the next picture, or takes a media segment in pieces.
            let first = self.random.below(size);
            Some((first, first + self.random.below(size - first)))
        } else {
            None
        };
        self.emit(at_ms, viewer.client, Class::Vod, name, size, range);
    }

    /// The next media segment; false when the viewer has seen enough.
    fn go_on(&mut self, viewer: &mut VodViewer) -> bool {
        if self.random.happens(self.recipe.seek) {
            viewer.segment = self.random.below(u64::from(self.recipe.segments)) as u32;
            viewer.inside = self.random.happens(SEEK_INSIDE);
            viewer.burst_left = BURST_SEGMENTS;
            return true;
        }
        viewer.segment += 1;
        if viewer.segment < self.recipe.segments {
            return true;
        }
        viewer.segment = 0;
        viewer.episode += 1;
        viewer.needs_playlist = true;
        viewer.burst_left = BURST_SEGMENTS;
        viewer.episode < self.recipe.episodes && self.random.happens(self.recipe.binge)
    }

    fn act_live(&mut self, at_ms: u64, slot: u32) {
        let mut viewer = self.live[slot as usize].clone();
        let rate = kbps(viewer.rendition);
        let place = format!("c{}/{rate}k", viewer.channel);
        let size = varied(PLAYLIST_BYTES, &place, self.recipe.seed);
        self.emit(at_ms, viewer.client, Class::LivePlaylist, format!("{place}/index"), size, None);
        let newest = at_ms.saturating_sub(self.edge_ms(viewer.channel)) / LIVE_SEGMENT_MS;
        if viewer.last != Some(newest) {
            viewer.last = Some(newest);
            let name = format!("{place}/n{newest}");
            let size =
                varied(self.recipe.segment_bytes(rate, LIVE_SEGMENT_MS), &name, self.recipe.seed);
            self.emit(at_ms, viewer.client, Class::Live, name, size, None);
        }
        if self.random.happens(SWITCH_CHANNEL) {
            viewer = self.new_live();
        }
        self.live[slot as usize] = viewer;
        self.schedule(at_ms + LIVE_POLL_MS, Who::Live(slot));
    }

    fn emit_archive(&mut self, at_ms: u64) {
        if self.archive.left == 0 {
            let length = 1 + self.random.below(ARCHIVE_SEGMENTS_MAX);
            self.archive = Archive {
                title: self.archive.title + 1,
                segment: 0,
                left: length,
                rendition: self.rendition(),
                client: self.client(),
            };
        }
        let archive = &mut self.archive;
        let rate = kbps(archive.rendition);
        let name = format!("a{}/{rate}k/s{}", archive.title, archive.segment);
        (archive.segment, archive.left) = (archive.segment + 1, archive.left - 1);
        let client = archive.client;
        let bytes = self.recipe.segment_bytes(rate, VOD_SEGMENT_MS);
        let size = varied(bytes, &name, self.recipe.seed);
        self.emit(at_ms, client, Class::Archive, name, size, None);
    }

    fn emit(
        &mut self,
        at_ms: u64,
        client: u64,
        class: Class,
        name: String,
        size: u64,
        range: Option<(u64, u64)>,
    ) {
        let extension = match class {
            Class::VodPlaylist | Class::LivePlaylist => "m3u8",
            Class::Vod | Class::Live | Class::Archive => "m4s",
        };
        let path = format!("/{class}/{name}.{size}.{extension}");
        let object = Object::parse(&path).expect("this is the form that Object reads");
        self.ready.push_back(Line { at_ms, client, path, range, object });
    }

    /// Counts a line as it goes out.
    fn count(&mut self, line: &Line) {
        let first = self.census.see(line);
        self.made.requests += 1;
        self.made.bytes += line.body_bytes();
        self.made.object_bytes += if first { line.object.size } else { 0 };
        self.made.end_ms = line.at_ms;
    }
}

impl Iterator for Generator {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        if self.made.requests == self.recipe.requests {
            return None;
        }
        let was_archive = self.census.last == Some(Class::Archive);
        if !was_archive && self.census.owes(self.recipe.once) {
            self.emit_archive(self.made.end_ms);
            // In front of what else is due at this moment.
            self.ready.rotate_right(1);
        }
        while self.ready.is_empty() {
            let Reverse((at_ms, _, who)) = self.events.pop()?;
            self.act(at_ms, who);
        }
        let line = self.ready.pop_front()?;
        self.count(&line);
        Some(line)
    }
}

/// Which objects were seen once, and which more often.
#[derive(Debug, Default)]
struct Census {
    /// Identity to seen more than once. Holds no archive, whose objects never come again, and of live channels only
    /// the newest media segment of each rendition.
    seen: HashMap<u64, bool>,
    /// Folder of a rendition of a live channel to its newest media segment.
    newest: HashMap<u64, u64>,
    objects: u64,
    once: u64,
    last: Option<Class>,
}

impl Census {
    /// Counts a request; true when its object is a new one.
    fn see(&mut self, line: &Line) -> bool {
        let class = line.object.class;
        self.last = Some(class);
        if class == Class::Live {
            let folder = line.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let identity = line.object.identity;
            let before = self.newest.insert(identity_of(folder), identity);
            if let Some(before) = before.filter(|before| *before != identity) {
                self.seen.remove(&before);
            }
        }
        let again = match class {
            Class::Archive => None,
            _ => self.seen.insert(line.object.identity, false),
        };
        match again {
            None => {
                self.objects += 1;
                self.once += 1;
            }
            Some(more) => {
                self.once -= u64::from(!more);
                self.seen.insert(line.object.identity, true);
            }
        }
        again.is_none()
    }

    /// Too few objects were seen once.
    fn owes(&self, share: f64) -> bool {
        (self.once as f64) < share * self.objects as f64
    }
}

fn identity_of(text: &str) -> u64 {
    tidegate_types::rendezvous::identity(text.as_bytes())
}

fn kbps(rendition: usize) -> u64 {
    LADDER[rendition].0
}

/// `bytes` by 3/4 to 5/4, as scenes differ; a function of seed and name.
fn varied(bytes: f64, name: &str, seed: u64) -> u64 {
    let mix = mixed(identity_of(name) ^ mixed(seed));
    let share = 0.75 + (mix >> 11) as f64 / (1u64 << 53) as f64 / 2.0;
    ((bytes * share) as u64).max(1)
}

/// A media playlist of some minutes.
const PLAYLIST_BYTES: f64 = 2000.0;
/// Until the first media segment is asked for.
const PLAYLIST_READ_MS: u64 = 50;
/// Between media segments while a buffer is filled.
const BURST_STEP_MS: u64 = 200;
/// Live viewers come within this time of a media segment's appearance.
const LIVE_SPREAD_MS: u64 = 300;
/// Chance that who begins a title begins with its first episode.
const FIRST_EPISODE: f64 = 0.6;
/// Chance that a seek ends inside a media segment.
const SEEK_INSIDE: f64 = 0.5;
/// Chance, each second, that a live viewer changes the channel.
const SWITCH_CHANNEL: f64 = 0.005;
/// Media segments that one viewer takes from a title of the archive.
const ARCHIVE_SEGMENTS_MAX: u64 = 20;
