//! Connection ids that name their core, and the post between cores.
//!
//! ```text
//! generation | core, masked (2) | nonce (7)
//! ```
//! The kernel picks a core by addresses and ports; a client whose port changed arrives at another one, which reads the
//! core from the connection id and hands the datagram over. The generation tells processes apart that follow each other on one
//! port. The mask is a keyed hash of the nonce: to an observer two ids of one connection have nothing in common but
//! the generation, which all have.
//!
//! Must stay true: a mailbox holds so many datagrams, and what does not fit is dropped and counted, as the network would.

use bytes::BytesMut;
use crossbeam_queue::ArrayQueue;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, EcnCodepoint, InvalidCid};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

const NONCE_BYTES: usize = 7;
const CID_BYTES: usize = 3 + NONCE_BYTES;
/// Datagrams that wait for a core, each no longer than the endpoint takes.
const LETTERS_MAX: usize = 1024;

/// A datagram as it came.
pub struct Datagram {
    pub remote: SocketAddr,
    pub local_ip: Option<IpAddr>,
    pub ecn: Option<EcnCodepoint>,
    pub bytes: BytesMut,
}

/// What the cores of one address share.
pub struct Post {
    generation: u8,
    nonces: RandomState,
    masks: RandomState,
    boxes: Vec<Mailbox>,
}

struct Mailbox {
    letters: ArrayQueue<Datagram>,
    owner: Mutex<Option<Waker>>,
}

impl Post {
    /// For so many cores.
    pub fn new(cores: usize, generation: u8) -> Post {
        let mailbox = || Mailbox { letters: ArrayQueue::new(LETTERS_MAX), owner: Mutex::new(None) };
        Post {
            generation,
            nonces: RandomState::new(),
            masks: RandomState::new(),
            boxes: std::iter::repeat_with(mailbox).take(cores).collect(),
        }
    }

    fn mask(&self, nonce: &[u8]) -> u16 {
        self.masks.hash_one(nonce) as u16
    }

    fn id(&self, core: usize, count: u64) -> [u8; CID_BYTES] {
        let nonce = &self.nonces.hash_one((core, count)).to_le_bytes()[..NONCE_BYTES];
        let [high, low] = (core as u16 ^ self.mask(nonce)).to_be_bytes();
        let mut id = [self.generation, high, low, 0, 0, 0, 0, 0, 0, 0];
        id[3..].copy_from_slice(nonce);
        id
    }

    /// The core whose id this is, if it is one of ours. One in 256 ids that clients choose looks like one: its datagrams
    /// go to that core, all of them.
    fn core(&self, id: &[u8]) -> Option<usize> {
        let [generation, high, low, nonce @ ..] = id else { return None };
        if *generation != self.generation || id.len() != CID_BYTES {
            return None;
        }
        let core = usize::from(u16::from_be_bytes([*high, *low]) ^ self.mask(nonce));
        Some(core).filter(|core| *core < self.boxes.len())
    }

    /// The core that a datagram is for, by what is legible of it (RFC 9000 §17).
    pub fn core_for(&self, datagram: &[u8]) -> Option<usize> {
        let first = *datagram.first()?;
        if first & 0x80 == 0 {
            return self.core(datagram.get(1..1 + CID_BYTES)?);
        }
        let length = usize::from(*datagram.get(5)?);
        self.core(datagram.get(6..6 + length)?)
    }

    /// Hands a datagram over. `false`: that core has too many waiting, and it is dropped.
    pub fn send(&self, core: usize, datagram: Datagram) -> bool {
        let Some(mailbox) = self.boxes.get(core) else { return false };
        if mailbox.letters.push(datagram).is_err() {
            return false;
        }
        if let Some(owner) = &*mailbox.owner.lock().unwrap_or_else(PoisonError::into_inner) {
            owner.wake_by_ref();
        }
        true
    }

    /// The next datagram for `core`; if there is none, `waker` is told of the next one.
    pub fn take(&self, core: usize, waker: Option<&Waker>) -> Option<Datagram> {
        let mailbox = self.boxes.get(core)?;
        if let Some(waker) = waker {
            let mut owner = mailbox.owner.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *owner {
                Some(known) => known.clone_from(waker),
                None => *owner = Some(waker.clone()),
            }
        }
        mailbox.letters.pop()
    }
}

/// Makes the ids of one core.
pub struct Ids {
    post: Arc<Post>,
    core: usize,
    count: u64,
}

impl Ids {
    pub fn new(post: Arc<Post>, core: usize) -> Ids {
        Ids { post, core, count: 0 }
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        ConnectionId::new(&self.post.id(self.core, self.count))
    }

    /// One of this core, or one that may be of the process before: only what is valid is answered by a stateless reset.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match self.post.core(id) {
            Some(core) if core != self.core => Err(InvalidCid),
            _ => Ok(()),
        }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(bytes: &[u8]) -> Datagram {
        let remote = ([127, 0, 0, 1], 1).into();
        Datagram { remote, local_ip: None, ecn: None, bytes: bytes.into() }
    }

    #[test]
    fn an_id_leads_to_its_core_and_no_other_process() {
        let post = Arc::new(Post::new(3, 7));
        for core in 0..3 {
            let mut ids = Ids::new(post.clone(), core);
            let (one, two) = (ids.generate_cid(), ids.generate_cid());
            assert_ne!(one, two);
            for id in [one, two] {
                let short = [&[0x40], &id[..], &[1, 2, 3]].concat();
                let long = [&[0xe0, 0, 0, 0, 1, 10], &id[..], &[0, 9]].concat();
                assert_eq!(post.core_for(&short), Some(core));
                assert_eq!(post.core_for(&long), Some(core));
                assert!(ids.validate(&id).is_ok());
                assert!(Ids::new(post.clone(), core + 1).validate(&id).is_err());
                assert!(Ids::new(Arc::new(Post::new(3, 8)), 0).validate(&id).is_ok(), "before us");
                assert_eq!(Post::new(3, 8).core_for(&short), None);
            }
        }
    }

    #[test]
    fn what_is_too_short_is_for_nobody() {
        let post = Post::new(2, 0);
        let whole = [&[0xe0, 0, 0, 0, 1, 10][..], &post.id(1, 1), &[0]].concat();
        for length in 0..16 {
            assert_eq!(post.core_for(&whole[..length]), None, "{length}");
        }
        assert_eq!(post.core_for(&whole), Some(1));
        assert_eq!(post.core_for(&[0x40; 10]), None);
    }

    #[test]
    fn a_full_mailbox_takes_no_more() {
        let post = Post::new(2, 0);
        for n in 0..LETTERS_MAX {
            assert!(post.send(1, datagram(&n.to_be_bytes())));
        }
        assert!(!post.send(1, datagram(b"over")));
        assert!(!post.send(2, datagram(b"no such core")));
        assert!(post.take(0, None).is_none());
        for n in 0..LETTERS_MAX {
            assert_eq!(&post.take(1, None).unwrap().bytes[..], n.to_be_bytes());
        }
        assert!(post.take(1, None).is_none());
    }
}
