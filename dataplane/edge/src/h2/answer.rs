//! The answer on one stream.
//!
//! Must stay true: no more of a body is given to the machine than the windows take and its turn allows; a stream that is not
//! finished in order is reset.

use super::{UNSENT_BYTES_MAX, Wire};
use crate::head::{each_field, each_line};
use crate::tls::HANDSHAKE_SPAN_MAX;
use crate::urgency::Urgency;
use bytes::Bytes;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tidegate_engine::client::{BodyLength, SEND_STALL_MAX, set_manner_of};
use tidegate_engine::min_rate::MinRate;
use tidegate_engine::object::Packing;
use tidegate_engine::pace::{Burst, LOOK_BYTES, Lending, Manner, Pace};
use tidegate_engine::{HeadFields, Outlet, Protection};
use tidegate_http2::{Code, DATA_BYTES_MAX, FieldWriter};
use tidegate_ring::{now, timeout, turn_now};

/// Given to the machine in one turn: some whole frames.
const TURN_BYTES: usize = 4 * DATA_BYTES_MAX;

/// One answer.
pub struct Answer {
    wire: Rc<Wire>,
    id: u32,
    head_only: bool,
    /// Body bytes still to come, if the head says how many: the last of them end the stream.
    left: Option<u64>,
    min_rate: MinRate,
    urgency: Urgency,
    /// By the client itself.
    says_priority: bool,
    pace: Pace,
    burst: Burst,
    lending: Option<Lending>,
    begun: Instant,
    /// Its player let others go first, at least for a while.
    lent: bool,
    /// The stream has its end, of whatever kind.
    over: bool,
}

impl Answer {
    /// On a stream that asked with this value of `Priority`.
    pub fn new(wire: Rc<Wire>, id: u32, head_only: bool, priority: Option<&[u8]>) -> Answer {
        Answer {
            wire,
            id,
            head_only,
            left: None,
            min_rate: MinRate::default(),
            urgency: Urgency::parse(priority.unwrap_or_default()),
            says_priority: priority.is_some(),
            pace: Pace::default(),
            burst: Burst::of(&Pace::default()),
            lending: None,
            begun: turn_now(),
            lent: false,
            over: false,
        }
    }

    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// The request was HEAD.
    pub fn is_head_only(&self) -> bool {
        self.head_only
    }

    /// Its player let others go first.
    pub fn has_lent(&self) -> bool {
        self.lent
    }

    /// Bytes that the windows take now.
    fn room(&self) -> io::Result<usize> {
        let room = self.wire.machine.borrow().room(self.id);
        room.filter(|_| !self.wire.over.get()).ok_or(io::ErrorKind::BrokenPipe.into())
    }

    /// As [`Answer::room`], of windows that are shut, when they have opened.
    async fn wait_for_room(&self) -> io::Result<usize> {
        let opened = poll_fn(|cx| match self.room() {
            Ok(0) => {
                self.wire.shut.borrow_mut().insert(self.id, cx.waker().clone());
                Poll::Pending
            }
            room => Poll::Ready(room),
        });
        match timeout(SEND_STALL_MAX, opened).await {
            Ok(room) => room,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Of `len` bytes those that leave at one pace.
    fn paced(&mut self, len: usize) -> io::Result<usize> {
        let wire = &self.wire;
        let free = loop {
            if let Some(free) = self.burst.take(len) {
                break free;
            }
            let rate = wire.paces.borrow_mut().bind(self.id.into());
            self.lending = Lending::of(&self.pace, wire.has_lower.get());
            if self.lending.is_some() {
                // What the kernel has already is sent before anything is seen of it.
                wire.tcp.set_unsent_max(LOOK_BYTES as u32)?;
            }
            wire.tcp.set_pace(rate)?;
        };
        let Some(lending) = &mut self.lending else { return Ok(free) };
        let rate = lending.look(wire.tcp.path()?, now().saturating_duration_since(self.begun));
        self.lent |= lending.lends();
        let rate = wire.paces.borrow_mut().set(self.id.into(), rate);
        wire.tcp.set_pace(rate)?;
        Ok(free.min(LOOK_BYTES))
    }
}

impl Outlet for Answer {
    fn head(&mut self, status: u16, fields: HeadFields<'_>, length: BodyLength) {
        self.left = match length {
            BodyLength::Known(length) => Some(length),
            BodyLength::Absent | BodyLength::Unknown => None,
        };
        let is_empty = matches!(length, BodyLength::Absent | BodyLength::Known(0));
        let ends = self.head_only || is_empty;
        self.over |= ends;
        let mut machine = self.wire.machine.borrow_mut();
        // A stream that is gone tells with the body.
        let _gone = machine.send_head(self.id, status, self.left, ends, |writer| match fields {
            HeadFields::Lines(lines, more) => {
                writer.put_packed(lines.packed(Packing::Hpack, pack));
                more.iter().for_each(|(name, value)| writer.put(name.as_bytes(), value));
            }
            fields => each_field(fields, |name, value| writer.put(name, value)),
        });
    }

    fn set_manner(&mut self, manner: &Manner) -> io::Result<()> {
        if !self.says_priority {
            self.urgency = self.urgency.raised(manner.need);
        }
        (self.pace, self.burst) = (manner.pace, Burst::of(&manner.pace));
        if manner.is_below_top {
            self.wire.has_lower.set(true);
        }
        let rate = self.wire.paces.borrow_mut().begin(self.id.into(), manner.pace);
        set_manner_of(&self.wire.tcp, manner, rate)
    }

    async fn body(&mut self, bytes: &Bytes) -> io::Result<()> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let wanted = rest.len().min(TURN_BYTES);
            let piece = match self.room()?.min(wanted) {
                0 => {
                    let (begun, before) = (now(), self.wire.bodies.get());
                    let piece = self.wait_for_room().await?.min(wanted);
                    let taken = self.wire.bodies.get() - before + piece as u64;
                    self.min_rate.after(now().saturating_duration_since(begun), taken)?;
                    piece
                }
                piece => {
                    self.min_rate.after(Duration::ZERO, piece as u64)?;
                    piece
                }
            };
            let piece = self.paced(piece)?;
            let wire = &self.wire;
            let told = || wire.urgencies.borrow().get(&self.id).copied();
            let urgency = || told().unwrap_or(self.urgency);
            wire.turns.wait(urgency, self.id, piece, || self.room().is_err()).await;
            self.room()?;
            let ends = self.left == Some(rest.len() as u64);
            let sent = wire.machine.borrow_mut().send_data(self.id, &mut rest, piece, ends);
            wire.bodies.set(wire.bodies.get() + sent as u64);
            self.left = self.left.map(|left| left.saturating_sub(sent as u64));
            self.over = self.left == Some(0);
            wire.touch();
        }
        Ok(())
    }

    async fn finish(&mut self, complete: bool) -> io::Result<()> {
        if !complete {
            self.abort();
            return Ok(());
        }
        if !std::mem::replace(&mut self.over, true) {
            self.wire.machine.borrow_mut().end(self.id);
        }
        self.wire.touch();
        Ok(())
    }

    fn abort(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.wire.machine.borrow_mut().reset(self.id, Code::INTERNAL_ERROR);
            self.wire.touch();
        }
    }

    fn protection(&self) -> Protection {
        self.wire.protection
    }

    fn is_early(&self) -> bool {
        self.wire.is_early()
    }

    async fn confirm(&mut self) -> io::Result<()> {
        let sure = poll_fn(|cx| match self.wire.is_early() {
            _ if self.wire.over.get() => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            false => Poll::Ready(Ok(())),
            true => {
                self.wire.unsure.borrow_mut().insert(self.id, cx.waker().clone());
                Poll::Pending
            }
        });
        match timeout(HANDSHAKE_SPAN_MAX, sure).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn protocol(&self) -> &'static str {
        "HTTP/2"
    }
}

fn pack(lines: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut writer = FieldWriter(&mut block);
    each_line(lines, |name, value| writer.put(name, value));
    block
}

impl Drop for Answer {
    /// A transaction that ended without an answer (it panicked) is no answer.
    fn drop(&mut self) {
        let wire = &self.wire;
        wire.machine.borrow_mut().release(self.id);
        wire.uploads.borrow_mut().remove(&self.id);
        wire.shut.borrow_mut().remove(&self.id);
        wire.unsure.borrow_mut().remove(&self.id);
        wire.urgencies.borrow_mut().remove(&self.id);
        if self.lending.is_some() {
            let _gone = wire.tcp.set_unsent_max(UNSENT_BYTES_MAX);
        }
        let rate = wire.paces.borrow_mut().end(self.id.into());
        let _gone = wire.tcp.set_pace(rate);
        wire.touch();
    }
}
