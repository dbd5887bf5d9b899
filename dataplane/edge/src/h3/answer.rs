//! The answer on one request stream.
//!
//! Must stay true: each body piece goes to QUIC as it is, without a copy, and no more of it than the connection's window
//! takes; a stream that is not finished in order is reset.

use super::connection::Connection;
use crate::head::{each_field, each_line};
use crate::urgency::Urgency;
use bytes::Bytes;
use quinn_proto::StreamId;
use std::io;
use std::rc::Rc;
use std::time::Instant;
use tidegate_engine::client::{BodyLength, SEND_STALL_MAX};
use tidegate_engine::min_rate::MinRate;
use tidegate_engine::object::Packing;
use tidegate_engine::pace::{Burst, LOOK_BYTES, Lending, Manner, Need, Pace};
use tidegate_engine::{Core, HeadFields, Outlet, Protection};
use tidegate_http3::{Code, Lines, encode_data_head, encode_response_lines};
use tidegate_ring::{now, timeout};
use tidegate_types::digits::Digits;

/// Streams of one urgency that are told apart; later ones stand behind all of them.
const ORDERED_MAX: u64 = 1 << 24;

/// Of most heads, with what stands before the first bytes of a body.
const HEAD_BYTES_USUAL: usize = 512;

/// One answer.
pub struct Answer {
    core: Rc<Core>,
    connection: Rc<Connection>,
    id: StreamId,
    /// What goes before the next bytes: the head, until it is sent.
    pending: Vec<u8>,
    urgency: Urgency,
    /// By the client itself.
    says_priority: bool,
    pace: Pace,
    burst: Burst,
    lending: Option<Lending>,
    begun: Instant,
    /// Its player let others go first, at least for a while.
    lent: bool,
    min_rate: MinRate,
    whole: bool,
    /// The stream has its end, of whatever kind.
    over: bool,
}

impl Answer {
    pub fn new(core: Rc<Core>, connection: Rc<Connection>, id: StreamId) -> Answer {
        Answer {
            core,
            connection,
            id,
            pending: Vec::new(),
            urgency: Urgency::parse(b""),
            says_priority: false,
            pace: Pace::default(),
            burst: Burst::of(&Pace::default()),
            lending: None,
            begun: now(),
            lent: false,
            min_rate: MinRate::default(),
            whole: false,
            over: false,
        }
    }

    /// The head came, with this value of `Priority`. RFC 9218: by urgency; of the same urgency in the order of the requests, behind
    /// them by turns those that said `i`.
    pub fn prioritize(&mut self, field: Option<&[u8]>) {
        self.begun = now();
        self.says_priority = field.is_some();
        self.urgency = Urgency::parse(field.unwrap_or_default());
        self.tell_rank();
    }

    /// What was said of this stream on the control stream counts before all else (RFC 9218 §7).
    fn tell_rank(&self) {
        let urgency = self.connection.told_urgency(self.id).unwrap_or(self.urgency);
        let priority = rank(urgency, self.id.index());
        let _ended_already =
            self.connection.sender(self.id, |stream| stream.set_priority(priority));
    }

    /// Whether all of it was given to QUIC.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Its player let others go first.
    pub fn has_lent(&self) -> bool {
        self.lent
    }

    /// The client wants no answer any more.
    pub fn give_up(&mut self) {
        self.reset(Code::REQUEST_CANCELLED);
    }

    fn reset(&mut self, code: Code) {
        if !std::mem::replace(&mut self.over, true) {
            self.connection.reset(self.id, code);
        }
    }

    /// What the player told binds from here on.
    fn bind(&mut self) {
        self.connection.set_pace(|paces| paces.bind(self.id.index()));
        self.lending = Lending::of(&self.pace, self.connection.has_lower.get());
    }

    /// Of `len` bytes those that leave at one pace.
    async fn paced(&mut self, len: usize) -> io::Result<usize> {
        if self.lending.is_none() {
            return Ok(len);
        }
        // What QUIC has already is sent before anything is seen of it.
        loop {
            let (begun, before) = (now(), self.connection.sent());
            let waited = timeout(SEND_STALL_MAX, self.connection.little_unsent(self.id)).await;
            let sent = self.connection.sent() - before;
            self.min_rate.after(now().saturating_duration_since(begun), sent)?;
            if waited.is_ok() {
                break;
            }
        }
        let Some(lending) = &mut self.lending else { return Ok(len) };
        let since = now().saturating_duration_since(self.begun);
        let rate = lending.look(self.connection.path(), since);
        self.lent |= lending.lends();
        self.connection.set_pace(|paces| paces.set(self.id.index(), rate));
        Ok(len.min(LOOK_BYTES))
    }

    async fn write(&mut self, pieces: &mut [Bytes]) -> io::Result<()> {
        let mut at = 0;
        loop {
            while at < pieces.len() && pieces[at].is_empty() {
                at += 1;
            }
            if at == pieces.len() {
                return Ok(());
            }
            let (begun, before) = (now(), self.connection.written());
            let writing = self.connection.write(self.id, &mut pieces[at..]);
            match timeout(SEND_STALL_MAX, writing).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
            let taken = self.connection.written() - before;
            self.min_rate.after(now().saturating_duration_since(begun), taken)?;
        }
    }
}

/// What QUIC sorts by: the highest first, equals by turns.
pub(super) fn rank(urgency: Urgency, index: u64) -> i32 {
    let class = i32::from(7 - urgency.level.min(7)) * (ORDERED_MAX as i32 + 1);
    match urgency.incremental {
        true => class,
        false => class + (ORDERED_MAX - index.min(ORDERED_MAX - 1)) as i32,
    }
}

fn pack(kept: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut lines = Lines::packed(&mut block);
    each_line(kept, |name, value| lines.put(name, value));
    block
}

impl Outlet for Answer {
    fn head(&mut self, status: u16, fields: HeadFields<'_>, length: BodyLength) {
        self.pending.reserve(HEAD_BYTES_USUAL);
        encode_response_lines(status, &mut self.pending, |lines| {
            // A good field of HTTP/1.1 is one here.
            match fields {
                HeadFields::Lines(kept, more) => {
                    lines.put_packed(kept.packed(Packing::Qpack, pack));
                    more.iter().for_each(|(name, value)| lines.put(name.as_bytes(), value));
                }
                fields => each_field(fields, |name, value| lines.put(name, value)),
            }
            if let BodyLength::Known(length) = length {
                lines.put(b"content-length", Digits::of(length).as_bytes());
            }
        });
    }

    fn set_manner(&mut self, manner: &Manner) -> io::Result<()> {
        if !self.says_priority && manner.need != Need::Ordinary {
            self.urgency = self.urgency.raised(manner.need);
            self.tell_rank();
        }
        if let Some(congestion) = manner.congestion
            && self.connection.set_congestion(congestion)
        {
            self.core.count(|c| &c.quic_congestion_changes_total, 1);
        }
        (self.pace, self.burst) = (manner.pace, Burst::of(&manner.pace));
        if manner.is_below_top {
            self.connection.has_lower.set(true);
        }
        self.connection.set_pace(|paces| paces.begin(self.id.index(), manner.pace));
        Ok(())
    }

    async fn body(&mut self, bytes: &Bytes) -> io::Result<()> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let Some(free) = self.burst.take(rest.len()) else {
                self.bind();
                continue;
            };
            let free = self.paced(free).await?;
            let piece = rest.split_to(free);
            let mut head = std::mem::take(&mut self.pending);
            encode_data_head(piece.len() as u64, &mut head);
            self.write(&mut [Bytes::from(head), piece]).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, complete: bool) -> io::Result<()> {
        if !complete {
            self.abort();
            return Ok(());
        }
        let head = std::mem::take(&mut self.pending);
        if !head.is_empty() {
            self.write(&mut [Bytes::from(head)]).await?;
        }
        if !std::mem::replace(&mut self.over, true) {
            let finished = self.connection.sender(self.id, |stream| stream.finish());
            finished.map_err(io::Error::other)?;
            self.whole = true;
        }
        Ok(())
    }

    fn abort(&mut self) {
        self.reset(Code::INTERNAL_ERROR);
    }

    fn protection(&self) -> Protection {
        Protection::Tls13 // QUIC knows no other (RFC 9001 §4.2)
    }

    fn is_early(&self) -> bool {
        self.connection.is_handshaking()
    }

    async fn confirm(&mut self) -> io::Result<()> {
        self.connection.confirmed(self.id).await
    }

    fn protocol(&self) -> &'static str {
        "HTTP/3"
    }
}

impl Drop for Answer {
    /// A transaction that ended without an answer (it panicked) is no answer.
    fn drop(&mut self) {
        self.abort();
        self.connection.set_pace(|paces| paces.end(self.id.index()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_urgency_then_the_order_of_requests() {
        let rank = |text: &str, index| rank(Urgency::parse(text.as_bytes()), index);
        assert!(rank("u=0", 900) > rank("u=1", 0));
        assert!(rank("", 3) > rank("", 4));
        assert!(rank("", u64::MAX) > rank("i", 0));
        assert_eq!(rank("i", 0), rank("i", 77));
        assert!(rank("i", 0) > rank("u=4", 0));
        assert!(rank("u=7,i", 5) >= 0);
    }
}
