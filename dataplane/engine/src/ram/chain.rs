//! Queues of blocks over one table of places: each block is in one queue, can be taken from anywhere in it, and is known
//! by its place, so that a use costs no search.

use super::BlockId;

/// No place.
const NONE: u32 = u32::MAX;

/// A block in a queue.
#[derive(Debug)]
pub struct Place {
    pub id: BlockId,
    pub cost: u64,
    /// What the policy remembers of it.
    pub uses: u8,
    /// Which queue.
    pub queue: u8,
    older: u32,
    newer: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    oldest: u32,
    newest: u32,
    bytes: u64,
}

/// `QUEUES` queues.
#[derive(Debug)]
pub struct Chain<const QUEUES: usize> {
    places: Vec<Place>,
    free: Vec<u32>,
    queues: [Ends; QUEUES],
}

impl<const QUEUES: usize> Default for Chain<QUEUES> {
    fn default() -> Self {
        let empty = Ends { oldest: NONE, newest: NONE, bytes: 0 };
        Chain { places: Vec::new(), free: Vec::new(), queues: [empty; QUEUES] }
    }
}

impl<const QUEUES: usize> Chain<QUEUES> {
    /// Puts a block at the newest end of a queue.
    pub fn push(&mut self, queue: u8, id: BlockId, cost: u64) -> u32 {
        let place = Place { id, cost, uses: 0, queue, older: NONE, newer: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.places[at as usize] = place;
                at
            }
            None => {
                self.places.push(place);
                self.places.len() as u32 - 1
            }
        };
        self.link(at, queue);
        at
    }

    pub fn get_mut(&mut self, at: u32) -> &mut Place {
        &mut self.places[at as usize]
    }

    /// Moves a block to the newest end of a queue.
    pub fn renew(&mut self, at: u32, queue: u8) {
        self.unlink(at);
        self.link(at, queue);
    }

    /// Takes a block out.
    pub fn take(&mut self, at: u32) -> BlockId {
        self.unlink(at);
        self.free.push(at);
        self.places[at as usize].id
    }

    pub fn oldest(&self, queue: u8) -> Option<u32> {
        Some(self.queues[usize::from(queue)].oldest).filter(|at| *at != NONE)
    }

    /// The next newer block of the same queue.
    pub fn newer(&self, at: u32) -> Option<u32> {
        Some(self.places[at as usize].newer).filter(|at| *at != NONE)
    }

    /// What the blocks of a queue cost.
    pub fn bytes(&self, queue: u8) -> u64 {
        self.queues[usize::from(queue)].bytes
    }

    /// Blocks in all queues.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn link(&mut self, at: u32, queue: u8) {
        let ends = &mut self.queues[usize::from(queue)];
        let before = std::mem::replace(&mut ends.newest, at);
        if before == NONE {
            ends.oldest = at;
        }
        let place = &mut self.places[at as usize];
        (place.queue, place.older, place.newer) = (queue, before, NONE);
        ends.bytes += place.cost;
        if before != NONE {
            self.places[before as usize].newer = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Place { older, newer, queue, cost, .. } = self.places[at as usize];
        let ends = &mut self.queues[usize::from(queue)];
        ends.bytes -= cost;
        match older {
            NONE => ends.oldest = newer,
            older => self.places[older as usize].newer = newer,
        }
        match newer {
            NONE => self.queues[usize::from(queue)].newest = older,
            newer => self.places[newer as usize].older = older,
        }
    }
}
