//! Frames that wait to be written: all but bodies in one buffer, bodies as they are, each with its place between the others.
//!
//! Must stay true: what is given out is what was put in, in that order, however much of it is written at a time; when all is
//! written, nothing is held.

use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Pieces that are shown at a time.
pub const PIECES_MAX: usize = 16;
/// Room for the heads of a few answers.
const FIRST_BYTES: usize = 2 << 10;
/// Written bytes that lie in front of what is still to be written.
const WRITTEN_BYTES_MAX: usize = 16 << 10;

/// Buffers that a thread keeps for the next connection that writes, and how large each may be.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 8 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Out {
    /// Frames without bodies, the first `written` bytes of which are gone.
    frames: Vec<u8>,
    written: usize,
    /// Each with the place in `frames` in front of which it belongs.
    bodies: VecDeque<(usize, Bytes)>,
}

impl Out {
    /// Where frames are appended.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        if self.frames.capacity() == 0 {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            self.frames = spare.unwrap_or_else(|| Vec::with_capacity(FIRST_BYTES));
        }
        &mut self.frames
    }

    /// Behind all that is there.
    pub fn push_body(&mut self, body: Bytes) {
        self.bodies.push_back((self.frames.len(), body));
    }

    pub fn is_empty(&self) -> bool {
        self.written == self.frames.len() && self.bodies.is_empty()
    }

    /// Without bodies.
    pub fn frame_bytes(&self) -> usize {
        self.frames.len() - self.written
    }

    /// The next pieces, as many as there is place for; how many those are.
    pub fn pieces<'a>(&'a self, into: &mut [&'a [u8]; PIECES_MAX]) -> usize {
        let (mut at, mut count) = (self.written, 0);
        for (place, body) in &self.bodies {
            if count + 2 > PIECES_MAX {
                return count;
            }
            if at < *place {
                into[count] = &self.frames[at..*place];
                (at, count) = (*place, count + 1);
            }
            into[count] = body;
            count += 1;
        }
        if at < self.frames.len() && count < PIECES_MAX {
            into[count] = &self.frames[at..];
            count += 1;
        }
        count
    }

    /// So many bytes of the pieces were written.
    pub fn wrote(&mut self, mut bytes: usize) {
        loop {
            let place = self.bodies.front().map_or(self.frames.len(), |(place, _)| *place);
            let frames = (place - self.written).min(bytes);
            self.written += frames;
            bytes -= frames;
            match self.bodies.front_mut() {
                Some((_, body)) if self.written == place && body.len() <= bytes => {
                    bytes -= body.len();
                    self.bodies.pop_front();
                }
                Some((_, body)) if self.written == place => {
                    bytes::Buf::advance(body, bytes);
                    break;
                }
                _ => break,
            }
        }
        if self.is_empty() {
            let mut frames = std::mem::take(self).frames;
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARE_MAX && frames.capacity() <= SPARE_BYTES_MAX {
                    frames.clear();
                    spare.push(frames);
                }
            });
        } else if self.written > WRITTEN_BYTES_MAX {
            self.frames.drain(..self.written);
            self.bodies.iter_mut().for_each(|(place, _)| *place -= self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_comes_out_in_its_order(
            steps in proptest::collection::vec((0usize..4, 0usize..9000, any::<usize>()), 1..100),
        ) {
            let (mut out, mut expected, mut came) = (Out::default(), Vec::new(), Vec::new());
            let mut write = |out: &mut Out, some: usize| {
                let mut pieces = [&[][..]; PIECES_MAX];
                let count = out.pieces(&mut pieces);
                let shown = pieces[..count].concat();
                let n = some.min(shown.len());
                came.extend_from_slice(&shown[..n]);
                out.wrote(n);
                n
            };
            for (n, (kind, len, some)) in steps.into_iter().enumerate() {
                let bytes = vec![n as u8; len];
                match kind {
                    0 => {
                        out.frames().extend_from_slice(&bytes);
                        expected.extend(bytes);
                    }
                    1 if len > 0 => {
                        out.push_body(Bytes::from(bytes.clone()));
                        expected.extend(bytes);
                    }
                    _ => {
                        write(&mut out, some % 20_000);
                    }
                }
            }
            while !out.is_empty() {
                prop_assert!(write(&mut out, usize::MAX) > 0);
            }
            prop_assert_eq!(came, expected);
            prop_assert_eq!((out.frames.capacity(), out.bodies.capacity()), (0, 0));
        }
    }
}
