//! Connection ids that name their process and core, and the post between them.
//!
//! ```text
//! generation | core, masked (2) | nonce (7)
//! ```
//! The kernel picks a core by addresses and ports; a client whose port changed arrives at another one, which reads the
//! core from the connection id and hands the datagram over. The generation tells processes apart that follow each other on one
//! port: the youngest reads the sockets, and sends on to the others ([`Elder`]) what is for them. The mask is a keyed hash of the nonce: to an observer two ids of one connection have nothing in common but
//! the generation, which all have.
//!
//! Must stay true: a mailbox holds so many datagrams, and what does not fit is dropped and counted, as the network would.

use super::DATAGRAM_BYTES_MAX;
use bytes::BytesMut;
use crossbeam_queue::ArrayQueue;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, EcnCodepoint, InvalidCid};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tidegate_ring::Channel;

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

/// Who a datagram is for.
pub enum Addressee<'a> {
    /// The mailbox with this number.
    Here(usize),
    Elder(&'a Elder),
}

/// What the sockets of one address share.
pub struct Post {
    pub generation: u8,
    pub elders: Vec<Elder>,
    nonces: RandomState,
    masks: RandomState,
    boxes: Vec<Mailbox>,
}

struct Mailbox {
    letters: ArrayQueue<Datagram>,
    owner: Mutex<Option<Waker>>,
}

impl Post {
    /// For so many sockets.
    pub fn new(sockets: usize, generation: u8, elders: Vec<Elder>) -> Post {
        let mailbox = || Mailbox { letters: ArrayQueue::new(LETTERS_MAX), owner: Mutex::new(None) };
        Post {
            generation,
            elders,
            nonces: RandomState::new(),
            masks: RandomState::new(),
            boxes: std::iter::repeat_with(mailbox).take(sockets).collect(),
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

    /// Who a datagram is for, by what is legible of it (RFC 9000 §17). `None`: somebody new, or nobody known.
    pub fn addressee(&self, datagram: &[u8]) -> Option<Addressee<'_>> {
        let id = connection_id(datagram)?;
        if let Some(core) = self.core(id) {
            return Some(Addressee::Here(core));
        }
        let elder = self.elders.iter().find(|elder| Some(&elder.generation) == id.first())?;
        (id.len() == CID_BYTES).then_some(Addressee::Elder(elder))
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

/// The id that a datagram is addressed by.
fn connection_id(datagram: &[u8]) -> Option<&[u8]> {
    let first = *datagram.first()?;
    if first & 0x80 == 0 {
        return datagram.get(1..1 + CID_BYTES);
    }
    let length = usize::from(*datagram.get(5)?);
    datagram.get(6..6 + length)
}

/// A process that was here before, and serves what it has to its end.
pub struct Elder {
    pub generation: u8,
    pub channel: Channel,
    is_gone: AtomicBool,
}

impl Elder {
    pub fn new(generation: u8, channel: Channel) -> Elder {
        Elder { generation, channel, is_gone: AtomicBool::new(false) }
    }

    /// Whether it was when it was last sent something.
    pub fn is_there(&self) -> bool {
        !self.is_gone.load(Ordering::Relaxed)
    }

    /// Sends a datagram on. `false`: too many wait, or it has gone; it is dropped.
    pub fn send(&self, datagram: &Datagram) -> bool {
        let mut letter = Vec::with_capacity(LETTER_HEAD_BYTES_MAX + datagram.bytes.len());
        datagram.write(&mut letter);
        let outcome = self.channel.send_now(&letter);
        let full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        if outcome.as_ref().is_err_and(|error| !full(error)) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
        outcome.is_ok()
    }
}

/// Puts what the successor sends on into the mailboxes, until it has gone. Blocks: for a thread of its own.
pub fn read_letters(channel: &Channel, post: &Post) {
    let mut letter = [0; LETTER_HEAD_BYTES_MAX + DATAGRAM_BYTES_MAX];
    loop {
        match channel.receive(&mut letter) {
            Ok((0, _)) => return,
            Ok((length, _)) => {
                if let Some(datagram) = Datagram::read(&letter[..length]) {
                    let index = match post.addressee(&datagram.bytes) {
                        Some(Addressee::Here(index)) => index,
                        _ => 0,
                    };
                    let _sent_or_lost = post.send(index, datagram);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(_) => return,
        }
    }
}

/// ECN, two addresses with their lengths, a port.
const LETTER_HEAD_BYTES_MAX: usize = 1 + 17 + 17 + 2;

impl Datagram {
    fn write(&self, into: &mut Vec<u8>) {
        into.push(self.ecn.map_or(0, |ecn| ecn as u8));
        for ip in [Some(self.remote.ip()), self.local_ip] {
            match ip {
                None => into.push(0),
                Some(IpAddr::V4(ip)) => into.extend([&[4][..], &ip.octets()].concat()),
                Some(IpAddr::V6(ip)) => into.extend([&[16][..], &ip.octets()].concat()),
            }
        }
        into.extend(self.remote.port().to_be_bytes());
        into.extend_from_slice(&self.bytes);
    }

    fn read(mut letter: &[u8]) -> Option<Datagram> {
        let from = &mut letter;
        let [ecn] = take(from)?;
        let (remote, local_ip) = (read_ip(from)?, read_ip(from)?);
        let remote = SocketAddr::new(remote?, u16::from_be_bytes(take(from)?));
        let ecn = EcnCodepoint::from_bits(ecn);
        Some(Datagram { remote, local_ip, ecn, bytes: BytesMut::from(letter) })
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

fn read_ip(from: &mut &[u8]) -> Option<Option<IpAddr>> {
    match take(from)? {
        [0] => Some(None),
        [4] => Some(Some(IpAddr::from(take::<4>(from)?))),
        [16] => Some(Some(IpAddr::from(take::<16>(from)?))),
        _ => None,
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

    fn here(post: &Post, datagram: &[u8]) -> Option<usize> {
        match post.addressee(datagram) {
            Some(Addressee::Here(index)) => Some(index),
            _ => None,
        }
    }

    #[test]
    fn an_id_leads_to_its_core_and_no_other_process() {
        let post = Arc::new(Post::new(3, 7, Vec::new()));
        for core in 0..3 {
            let mut ids = Ids::new(post.clone(), core);
            let (one, two) = (ids.generate_cid(), ids.generate_cid());
            assert_ne!(one, two);
            for id in [one, two] {
                let short = [&[0x40], &id[..], &[1, 2, 3]].concat();
                let long = [&[0xe0, 0, 0, 0, 1, 10], &id[..], &[0, 9]].concat();
                assert_eq!(here(&post, &short), Some(core));
                assert_eq!(here(&post, &long), Some(core));
                assert!(ids.validate(&id).is_ok());
                assert!(Ids::new(post.clone(), core + 1).validate(&id).is_err());
                assert_eq!(here(&Post::new(3, 8, Vec::new()), &short), None);
                let next = Arc::new(Post::new(3, 8, Vec::new()));
                assert!(Ids::new(next, 0).validate(&id).is_ok(), "before us");
            }
        }
    }

    #[test]
    fn what_is_too_short_is_for_nobody() {
        let post = Post::new(2, 0, Vec::new());
        let whole = [&[0xe0, 0, 0, 0, 1, 10][..], &post.id(1, 1), &[0]].concat();
        for length in 0..16 {
            assert_eq!(here(&post, &whole[..length]), None, "{length}");
        }
        assert_eq!(here(&post, &whole), Some(1));
        assert_eq!(here(&post, &[0x40; 10]), None);
    }

    #[test]
    fn a_full_mailbox_takes_no_more() {
        let post = Post::new(2, 0, Vec::new());
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

    #[test]
    fn what_is_for_an_elder_comes_to_it_as_it_came() {
        let (to, from) = Channel::pair().unwrap();
        let elder = Arc::new(Post::new(2, 7, Vec::new()));
        let young = Post::new(2, 8, vec![Elder::new(7, to)]);
        let id = Ids::new(elder.clone(), 1).generate_cid();
        let bytes = [&[0x40], &id[..], &[9; DATAGRAM_BYTES_MAX - 11]].concat();
        let Some(Addressee::Elder(found)) = young.addressee(&bytes) else { panic!("not found") };
        let remote: SocketAddr = "[2001:db8::7]:4433".parse().unwrap();
        for (remote, local_ip, ecn) in [
            (remote, Some([10, 0, 0, 1].into()), None),
            (([192, 0, 2, 1], 9).into(), None, Some(EcnCodepoint::Ce)),
            (remote, Some(remote.ip()), Some(EcnCodepoint::Ect0)),
        ] {
            let datagram = Datagram { remote, local_ip, ecn, bytes: bytes[..].into() };
            assert!(found.is_there() && found.send(&datagram));
        }
        // To a core of its own it is a stranger's.
        assert!(young.addressee(&bytes[..10]).is_none());
        drop(young);
        read_letters(&from, &elder);
        for (remote, local_ip, ecn) in [
            (remote, Some([10, 0, 0, 1].into()), None),
            (([192, 0, 2, 1], 9).into(), None, Some(EcnCodepoint::Ce)),
            (remote, Some(remote.ip()), Some(EcnCodepoint::Ect0)),
        ] {
            let came = elder.take(1, None).unwrap();
            assert_eq!((came.remote, came.local_ip, came.ecn), (remote, local_ip, ecn));
            assert_eq!(came.bytes, bytes);
        }
        assert!(elder.take(1, None).is_none());
    }

    #[test]
    fn an_elder_that_has_gone_is_sent_nothing_more_and_broken_letters_are_nothing() {
        let (to, from) = Channel::pair().unwrap();
        let elder = Elder::new(7, to);
        drop(from);
        assert!(!elder.send(&datagram(b"x")));
        assert!(!elder.is_there());
        let mut letter = Vec::new();
        datagram(b"").write(&mut letter);
        for length in 0..letter.len() {
            assert!(Datagram::read(&letter[..length]).is_none(), "{length}");
        }
        assert!(Datagram::read(&letter).is_some());
        letter[1] = 5;
        assert!(Datagram::read(&letter).is_none());
    }
}
