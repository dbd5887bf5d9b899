//! Frames that cost us work and bring nothing: how many a connection may send.
//!
//! A bucket of [`FRAMES_MAX`], filled up again by time and by what the client takes of us. SETTINGS, PING, PRIORITY, RST_STREAM,
//! WINDOW_UPDATE, CONTINUATION, unknown types, and DATA without data take one each. (CVE-2019-9512, -9515, -9517 and their
//! kin, whatever the type; resets and CONTINUATION have limits in h2 besides.)
//!
//! The one frame that h2 passes over and that says something is read here: PRIORITY_UPDATE (RFC 9218 §7.1).

use crate::urgency::Urgency;

use std::time::Duration;

/// At once.
const FRAMES_MAX: u64 = 1000;
/// In each second.
const FRAMES_PER_SECOND: u64 = 100;
/// A client that takes so many bytes may say so by another frame.
const SENT_BYTES_PER_FRAME: u64 = 4096;

const HEADER_BYTES: usize = 9;
const PREFACE_BYTES: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PRIORITY_UPDATE: u8 = 0x10;
/// A stream's id, and a field value. Longer ones are passed over.
const UPDATE_BYTES_MAX: usize = 4 + 64;
/// Updates of streams that were not looked at yet: later ones are passed over.
const UPDATES_MAX: usize = 100;

/// Reads along what a client sends.
#[derive(Debug)]
pub struct FrameMeter {
    /// Of the preface, then of the frame that is passing.
    skip: usize,
    header: [u8; HEADER_BYTES],
    header_len: usize,
    /// Of a PRIORITY_UPDATE, as far as it has come.
    update: Option<Vec<u8>>,
    updates: Vec<(u32, Urgency)>,
    spent: u64,
    earned: u64,
    sent: u64,
    /// A head is under way since then, and whether the frame that passes is its last.
    head: Option<(Duration, bool)>,
}

impl Default for FrameMeter {
    fn default() -> Self {
        let (header, header_len) = ([0; HEADER_BYTES], 0);
        let (update, updates, head) = (None, Vec::new(), None);
        let skip = PREFACE_BYTES;
        FrameMeter { skip, header, header_len, update, updates, spent: 0, earned: 0, sent: 0, head }
    }
}

impl FrameMeter {
    /// Takes the next bytes, at this time since some fixed moment.
    pub fn take(&mut self, elapsed: Duration, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            self.read_update(&bytes[..skipped]);
            bytes = &bytes[skipped..];
            if self.skip == 0 && self.header_len == 0 && matches!(self.head, Some((_, true))) {
                self.head = None;
            }
            let wanted = (HEADER_BYTES - self.header_len).min(bytes.len());
            self.header[self.header_len..][..wanted].copy_from_slice(&bytes[..wanted]);
            self.header_len += wanted;
            bytes = &bytes[wanted..];
            if self.header_len == HEADER_BYTES {
                self.header_len = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                let len = u32::from_be_bytes([0, a, b, c]) as usize;
                self.skip = len;
                let is_update = kind == PRIORITY_UPDATE && (4..=UPDATE_BYTES_MAX).contains(&len);
                self.update = is_update.then(Vec::new);
                let ends = flags & END_HEADERS != 0;
                match (kind, self.head) {
                    (HEADERS, None) => self.head = Some((elapsed, ends)),
                    (CONTINUATION, Some((since, _))) => self.head = Some((since, ends)),
                    _ => {}
                }
                let brings = match kind {
                    DATA => len > 0 || flags & END_STREAM != 0,
                    HEADERS => true,
                    _ => false,
                };
                if !brings {
                    self.spend(elapsed);
                }
            }
        }
    }

    /// The next bytes of a frame's body.
    fn read_update(&mut self, bytes: &[u8]) {
        let Some(update) = &mut self.update else { return };
        update.extend_from_slice(bytes);
        if self.skip > 0 {
            return;
        }
        if let Some((id, value)) = update.split_first_chunk()
            && self.updates.len() < UPDATES_MAX
        {
            let stream = u32::from_be_bytes(*id) & (u32::MAX >> 1);
            self.updates.push((stream, Urgency::parse(value)));
        }
        self.update = None;
    }

    /// What the client has said of streams since it was asked last.
    pub fn take_updates(&mut self) -> Vec<(u32, Urgency)> {
        std::mem::take(&mut self.updates)
    }

    /// Since when a head is under way: its first frame began, and its last has not ended.
    pub fn head_since(&self) -> Option<Duration> {
        self.head.map(|(since, _)| since)
    }

    /// What was earned and not spent is no more than a full bucket.
    fn spend(&mut self, elapsed: Duration) {
        let earned = elapsed.as_millis() as u64 * FRAMES_PER_SECOND / 1000
            + self.sent / SENT_BYTES_PER_FRAME;
        let fresh = earned.saturating_sub(self.earned);
        self.earned = self.earned.max(earned);
        self.spent = self.spent.saturating_sub(fresh) + 1;
    }

    /// The client has been sent so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Whether it may go on.
    pub fn is_bearable(&self) -> bool {
        self.spent <= FRAMES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let size = (len as u32).to_be_bytes();
        let mut frame = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + len, 0xff);
        frame
    }

    fn after(frames: &[Vec<u8>], cut: usize) -> FrameMeter {
        let mut meter = FrameMeter::default();
        let bytes = [vec![b'P'; PREFACE_BYTES], frames.concat()].concat();
        bytes.chunks(cut).for_each(|piece| meter.take(Duration::ZERO, piece));
        meter
    }

    #[test]
    fn frames_that_bring_nothing_are_counted_however_they_are_cut() {
        let frames = [
            frame(DATA, 0, 100),
            frame(DATA, 0, 0),
            frame(DATA, END_STREAM, 0),
            frame(HEADERS, 0, 20),
            frame(6, 0, 8),
            frame(4, 0, 60),
            frame(9, 0, 3),
            frame(77, 0, 0),
        ];
        for cut in [1, 2, 9, 13, 1000] {
            assert_eq!(after(&frames, cut).spent, 5, "{cut}");
        }
    }

    #[test]
    fn what_is_said_of_priorities_is_read_however_it_is_cut() {
        let update = |stream: u32, value: &[u8]| {
            let mut frame = frame(PRIORITY_UPDATE, 0, 4 + value.len());
            frame[HEADER_BYTES..][..4].copy_from_slice(&stream.to_be_bytes());
            frame[HEADER_BYTES + 4..].copy_from_slice(value);
            frame
        };
        let frames = [
            update(5, b"u=1, i"),
            frame(HEADERS, 0, 20),
            update(0x8000_0007, b""),
            update(9, &[b'x'; UPDATE_BYTES_MAX]),
            frame(PRIORITY_UPDATE, 0, 3),
            update(11, b"u=7"),
            frame(DATA, 0, 30),
        ];
        for cut in [1, 2, 13, 1000] {
            let mut meter = after(&frames, cut);
            let told = meter.take_updates();
            let expected = [(5, "u=1, i"), (7, ""), (11, "u=7")];
            assert_eq!(
                told,
                expected.map(|(id, text)| (id, Urgency::parse(text.as_bytes()))),
                "{cut}"
            );
            assert_eq!((meter.spent, meter.take_updates().len()), (5, 0));
        }
        let many = vec![update(1, b"u=1"); UPDATES_MAX + 50];
        assert_eq!(after(&many, 1000).take_updates().len(), UPDATES_MAX);
    }

    #[test]
    fn a_head_is_under_way_from_its_first_frame_to_the_end_of_its_last() {
        let frames = [
            frame(6, 0, 8),
            frame(HEADERS, END_STREAM, 20),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 5),
            frame(6, 0, 8),
            frame(HEADERS, END_HEADERS, 30),
            frame(DATA, 0, 3),
        ];
        let (all, mut ends, mut at) = (frames.concat(), Vec::new(), 0);
        frames.iter().for_each(|frame| {
            at += frame.len();
            ends.push(at);
        });
        for cut in [1, 4, 9, 50, 1000] {
            let mut meter = after(&[], 1);
            let mut passed = 0;
            for piece in all.chunks(cut) {
                passed += piece.len();
                meter.take(Duration::from_secs(passed as u64), piece);
                // Known from the ninth byte of its first frame on.
                let open = (ends[0] + HEADER_BYTES..ends[3]).contains(&passed)
                    || (ends[4] + HEADER_BYTES..ends[5]).contains(&passed);
                assert_eq!(meter.head_since().is_some(), open, "{cut}: {passed}");
            }
        }
    }

    #[test]
    fn a_flood_is_unbearable_and_a_busy_client_is_not() {
        let pings = vec![frame(6, 0, 8); FRAMES_MAX as usize + 1];
        assert!(after(&pings[1..], 500).is_bearable());
        assert!(!after(&pings, 500).is_bearable());

        // As a client that takes 10 GB at 1 GB/s, with a window update for each 16 KiB.
        let mut meter = after(&[], 1);
        for n in 0..600_000u64 {
            meter.sent(16 << 10);
            meter.take(Duration::from_micros(16 * n), &frame(8, 0, 4));
        }
        assert!(meter.is_bearable());
        // A steady trickle is borne, ten times as much is not.
        let steady = |per_second: u64| {
            let mut meter = after(&[], 1);
            for n in 0..20_000 {
                meter.take(Duration::from_millis(1000 * n / per_second), &frame(6, 0, 8));
            }
            meter.is_bearable()
        };
        assert!(steady(FRAMES_PER_SECOND) && !steady(10 * FRAMES_PER_SECOND));
    }

    #[test]
    fn an_idle_connection_earns_no_more_than_a_full_bucket() {
        let mut meter = after(&[], 1);
        meter.take(Duration::from_secs(86_400), &frame(6, 0, 8));
        let pings = vec![frame(6, 0, 8); FRAMES_MAX as usize + 1].concat();
        meter.take(Duration::from_secs(86_400), &pings);
        assert!(!meter.is_bearable());
    }
}
