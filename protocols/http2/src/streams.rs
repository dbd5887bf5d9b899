//! The streams of one connection (RFC 9113 §5.1): those that are open for the client, those that are still worked at, and of the
//! closed ones the last few, to tell what may still come on them.

use crate::settings::WINDOW_MAX;

/// What a stream may send us before we take more (RFC 9113 §6.9.2); we never say otherwise.
pub const RECEIVE_WINDOW: u32 = 65_535;
/// Closed streams that are remembered.
const CLOSED_MAX: usize = 32;

/// One stream.
#[derive(Debug)]
pub struct Stream {
    pub id: u32,
    /// What we may send; below zero when the client made it smaller (§6.9.2).
    pub window: i64,
    /// What the client may still send.
    pub receive_window: u32,
    /// Of `content-length`: what is still to come.
    pub length: Option<u64>,
    /// The client has ended its side.
    pub remote_ended: bool,
    /// So have we.
    pub local_ended: bool,
    /// By either side.
    pub reset: bool,
    /// Nobody wants more of what the client sends.
    pub refused: bool,
}

impl Stream {
    /// For the client (§5.1.2).
    pub fn is_open(&self) -> bool {
        !(self.reset || self.remote_ended && self.local_ended)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Streams {
    /// Ids grow.
    streams: Vec<Stream>,
    /// The highest that the client has used.
    pub last: u32,
    closed: Closed,
}

/// What is known of a stream that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// It never was.
    Idle,
    /// We reset it: what comes on it was sent before that was heard.
    ResetByUs,
    Closed,
    /// Not used, or closed so long ago that nobody knows.
    Unknown,
}

impl Streams {
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Of the client's view.
    pub fn open(&self) -> usize {
        self.streams.iter().filter(|stream| stream.is_open()).count()
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        let at = self.streams.binary_search_by_key(&id, |stream| stream.id).ok()?;
        self.streams.get_mut(at)
    }

    pub fn get(&self, id: u32) -> Option<&Stream> {
        let at = self.streams.binary_search_by_key(&id, |stream| stream.id).ok()?;
        self.streams.get(at)
    }

    /// A new one, with an id above all others.
    pub fn push(&mut self, stream: Stream) {
        debug_assert!(self.streams.last().is_none_or(|last| last.id < stream.id));
        self.streams.push(stream);
    }

    pub fn remove(&mut self, id: u32) -> Option<Stream> {
        let at = self.streams.binary_search_by_key(&id, |stream| stream.id).ok()?;
        let stream = self.streams.remove(at);
        if self.streams.is_empty() && self.streams.capacity() > 8 {
            self.streams = Vec::new(); // an idle connection keeps little
        }
        Some(stream)
    }

    /// It is over.
    pub fn close(&mut self, id: u32, by_us: bool) {
        let closed = &mut self.closed;
        closed.ids[closed.next] = (id, by_us);
        closed.next = (closed.next + 1) % CLOSED_MAX;
    }

    /// What is known of one that is not there.
    pub fn past(&self, id: u32) -> Past {
        if id > self.last {
            return Past::Idle;
        }
        match self.closed.ids.iter().find(|(closed, _)| *closed == id) {
            Some((_, true)) => Past::ResetByUs,
            Some((_, false)) => Past::Closed,
            None => Past::Unknown,
        }
    }

    /// Windows begin with so much more, or less (§6.9.2); `false`: one would be too large.
    pub fn widen(&mut self, by: i64) -> bool {
        self.streams.iter_mut().all(|stream| {
            stream.window += by;
            stream.window <= i64::from(WINDOW_MAX)
        })
    }
}

/// The last ones, each with whether we reset it.
#[derive(Debug, Default)]
struct Closed {
    ids: [(u32, bool); CLOSED_MAX],
    next: usize,
}
