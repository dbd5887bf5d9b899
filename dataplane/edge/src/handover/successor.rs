//! The running process' side: a thread that waits for a successor and does what it asks.
//!
//! Must stay true: a successor that ends, is late or says something else before the store is its own changes nothing here.

use super::{Name, Say, VERSION, give, hear, path, say};
use crate::core::Stop;
use crate::h3::{Post, Secret, read_letters};
use crate::notify::Notify;
use crate::roll_file::RollFile;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use tidegate_engine::Node;
use tidegate_engine::stores::StoreFace;
use tidegate_ring::{Channel, ChannelListener};

/// For the successor's next word: it builds what it needs, or reads the store.
const WORD_SPAN: Duration = Duration::from_secs(120);
/// For writing out what the store was given, and for the cores to let the sockets go.
const OWN_SPAN: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(1);
/// When nobody can be let in.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// What a successor gets: copies of what this process uses.
pub struct Estate {
    pub listeners: Vec<(SocketAddr, TcpListener)>,
    pub datagrams: Vec<(SocketAddr, UdpSocket)>,
    /// By address.
    pub posts: Vec<(SocketAddr, Arc<Post>)>,
    pub secret: Secret,
}

/// What is offered, until this process stops.
pub struct Offer {
    /// It ends with the cores: a thread that waits here keeps nothing.
    node: Weak<Node>,
    devices: Vec<Arc<StoreFace>>,
    id: String,
    estate: Mutex<Option<Estate>>,
    roll: Option<Arc<RollFile>>,
    stop: Arc<Stop>,
}

/// Has a thread wait for a successor.
///
/// # Errors
/// There can be no thread, or nothing to wait at.
pub fn offer(
    state_dir: &Path,
    node: &Arc<Node>,
    roll: Option<Arc<RollFile>>,
    estate: Estate,
    stop: Arc<Stop>,
) -> io::Result<Arc<Offer>> {
    let id = node.view.load().me.id.clone();
    std::fs::create_dir_all(state_dir)?;
    let listener = ChannelListener::bind(&path(state_dir, &id))?;
    let (estate, devices) = (Mutex::new(Some(estate)), node.stores.devices().to_vec());
    let offer = Arc::new(Offer { node: Arc::downgrade(node), devices, id, estate, roll, stop });
    let mine = offer.clone();
    thread::Builder::new().name("handover".to_owned()).spawn(move || mine.wait(&listener))?;
    Ok(offer)
}

impl Offer {
    /// Nothing is given any more: sockets close with the cores.
    pub fn withdraw(&self) {
        *self.estate.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn wait(&self, listener: &ChannelListener) {
        while !self.stop.is_replaced() {
            match listener.accept() {
                Ok(channel) => self.serve(&channel),
                Err(error) => {
                    eprintln!("tidegated {}: nobody can ask to replace it: {error}", self.id);
                    thread::sleep(ERROR_PAUSE);
                }
            }
        }
    }

    fn serve(&self, channel: &Channel) {
        self.stop.set_orphaned(false);
        let Err(why) = self.converse(channel) else { return };
        let _gone = say(channel, &Say::No { why: why.clone() }, &[]);
        if self.stop.is_replaced() {
            return eprintln!("tidegated {}: its successor: {why}", self.id);
        }
        if self.stop.has_no_store() {
            self.stop.set_orphaned(true);
            return eprintln!(
                "tidegated {}: its successor ended when it had taken the store: {why}; this process goes on serving, keeps \
                 nothing new, and takes no purges, until another one that it starts has taken its place",
                self.id
            );
        }
        self.lend(false);
        eprintln!("tidegated {}: it was not replaced, and goes on: {why}", self.id);
    }

    fn converse(&self, channel: &Channel) -> Result<(), String> {
        let failed = |error: io::Error| error.to_string();
        channel.set_patience(WORD_SPAN).map_err(failed)?;
        let asked = hear(channel).map_err(failed)?.0;
        if asked != (Say::Ask { version: VERSION, node: self.id.clone() }) {
            return Err(format!("it asks for something else: {asked:?}"));
        }
        let letters = self.give(channel)?;
        expect(channel, &Say::Pause)?;
        self.lend(true);
        let devices = &self.devices;
        if !self.comes_true(|| devices.iter().all(|device| device.queue.is_lent())) {
            return Err(
                "the store cannot be let go: it is still being read, or too slow".to_owned()
            );
        }
        say(channel, &Say::Paused, &[]).map_err(failed)?;
        expect(channel, &Say::Ready)?;
        say(channel, &Say::Yours, &[]).map_err(failed)?;
        self.stop.give_store();
        devices.iter().for_each(|device| device.queue.close());
        expect(channel, &Say::Serving)?;
        let count = letters.len();
        for (letters, post) in letters {
            let read = move || read_letters(&letters, &post);
            thread::Builder::new().name("letters".to_owned()).spawn(read).map_err(failed)?;
        }
        // Told by answers over HTTP/1.1 too, that the next one goes to the other.
        if let Some(node) = self.node.upgrade() {
            node.draining.store(true, Ordering::Relaxed);
        }
        // Before the other says a word: the manager listens to this one so far.
        if let Ok((_, pid)) = channel.peer() {
            Notify::from_environment().successor(pid);
        }
        self.stop.replace();
        let cores = self.node.upgrade().map_or(0, |node| node.counters.len());
        let has_let_go = || {
            self.stop.unaccepting.load(Ordering::SeqCst) >= cores
                && self.stop.unread.load(Ordering::SeqCst) >= self.sockets(count)
        };
        if !self.comes_true(has_let_go) {
            eprintln!("tidegated {}: a core is late to let its sockets go", self.id);
        }
        self.withdraw();
        let _served_by_itself = say(channel, &Say::Gone, &[]);
        eprintln!(
            "tidegated {}: replaced; it serves the connections that it has to their end",
            self.id
        );
        if self.comes_true(|| self.stop.is_light()) {
            let _ended_already = say(channel, &Say::Light, &[]);
        }
        Ok(())
    }

    /// Sockets for HTTP/3 that cores read.
    fn sockets(&self, letters: usize) -> usize {
        let estate = self.estate.lock().unwrap_or_else(PoisonError::into_inner);
        match &*estate {
            Some(estate) if letters > 0 => estate.datagrams.len(),
            _ => 0,
        }
    }

    /// Gives all of it; and how datagrams come back, for each address.
    fn give(&self, channel: &Channel) -> Result<Vec<(Channel, Arc<Post>)>, String> {
        let failed = |error: io::Error| error.to_string();
        let estate = self.estate.lock().unwrap_or_else(PoisonError::into_inner);
        let estate = estate.as_ref().ok_or("it is stopping")?;
        let mut letters = Vec::new();
        for (address, post) in &estate.posts {
            letters.push((*address, post, Channel::pair().map_err(failed)?));
        }
        let mut all = Vec::new();
        if let Some(roll) = &self.roll {
            all.push((Name::Lock, roll.lock().as_fd()));
        }
        all.extend(estate.listeners.iter().map(|(at, fd)| (Name::Listener(*at), fd.as_fd())));
        all.extend(estate.datagrams.iter().map(|(at, fd)| (Name::Datagrams(*at), fd.as_fd())));
        for (address, post, (theirs, _)) in &letters {
            for elder in &post.elders {
                all.push((Name::Letters(*address, elder.generation), elder.channel.as_fd()));
            }
            all.push((Name::Letters(*address, post.generation), theirs.as_fd()));
        }
        if let Some((_, post)) = estate.posts.first() {
            let secret = estate.secret.0.to_vec();
            let quic = Say::Quic { secret, generation: post.generation };
            say(channel, &quic, &[]).map_err(failed)?;
        }
        give(channel, &all).map_err(failed)?;
        Ok(letters.into_iter().map(|(_, post, (_, ours))| (ours, post.clone())).collect())
    }

    /// Lends the store, or takes it back.
    fn lend(&self, is_lent: bool) {
        if let Some(roll) = &self.roll {
            roll.lend(is_lent);
        }
        for device in &self.devices {
            match is_lent {
                true => device.queue.lend(),
                false => device.queue.take_back(),
            }
        }
    }

    fn comes_true(&self, check: impl Fn() -> bool) -> bool {
        let until = Instant::now() + OWN_SPAN;
        while !check() {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }
}

fn expect(channel: &Channel, wanted: &Say) -> Result<(), String> {
    match hear(channel) {
        Ok((word, _)) if word == *wanted => Ok(()),
        Ok((word, _)) => Err(format!("it said {word:?} instead of {wanted:?}")),
        Err(error) => Err(error.to_string()),
    }
}
