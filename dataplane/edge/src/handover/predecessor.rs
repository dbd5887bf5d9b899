//! The successor's side: what it gets from the running process, step by step.

use super::{Name, Say, VERSION, path, say};
use crate::h3::{Elder, SECRET_BYTES, Secret};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tidegate_ring::Channel;

/// For each answer. The running process writes out its store, or waits for its cores.
const ANSWER_SPAN: Duration = Duration::from_secs(30);

/// What the running process gave. Both hold it from now on.
#[derive(Default)]
pub struct Inherited {
    pub lock: Option<File>,
    listeners: Vec<(SocketAddr, TcpListener)>,
    datagrams: Vec<(SocketAddr, UdpSocket)>,
    letters: Vec<(SocketAddr, u8, Channel)>,
    pub secret: Option<Secret>,
    /// Of those that were here before; the youngest last.
    generations: Vec<u8>,
}

impl Inherited {
    /// Takes the listening sockets of this address. All of them have to be accepted from: clients wait in each.
    pub fn listeners(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        self.listeners
            .extract_if(.., |(theirs, _)| *theirs == address)
            .map(|(_, socket)| socket)
            .collect()
    }

    /// The same of the sockets for HTTP/3.
    pub fn datagrams(&mut self, address: SocketAddr) -> Vec<UdpSocket> {
        self.datagrams
            .extract_if(.., |(theirs, _)| *theirs == address)
            .map(|(_, socket)| socket)
            .collect()
    }

    /// Those who still have clients at this address.
    pub fn elders(&mut self, address: SocketAddr) -> Vec<Elder> {
        self.letters
            .extract_if(.., |(theirs, ..)| *theirs == address)
            .map(|(_, generation, channel)| Elder::new(generation, channel))
            .collect()
    }

    /// One that none of those has had who may still have clients; `wanted`, if that is so.
    pub fn generation(&self, wanted: u8) -> u8 {
        let is_free = |one: &u8| !self.generations.contains(one);
        (0..=u8::MAX).map(|step| wanted.wrapping_add(step)).find(is_free).unwrap_or(wanted)
    }

    fn take(&mut self, name: Name, descriptor: OwnedFd) {
        match name {
            Name::Lock => self.lock = Some(File::from(descriptor)),
            Name::Listener(address) => self.listeners.push((address, descriptor.into())),
            Name::Datagrams(address) => self.datagrams.push((address, descriptor.into())),
            Name::Letters(address, generation) => {
                self.letters.push((address, generation, descriptor.into()));
                self.generations.push(generation);
            }
        }
    }
}

/// The running process, as its successor sees it.
pub struct Predecessor {
    channel: Channel,
    node: String,
}

impl Predecessor {
    /// Asks the running process of `node` for what it has.
    ///
    /// # Errors
    /// There is none, or it does not give it.
    pub fn ask(state_dir: &Path, node: &str) -> Result<(Predecessor, Inherited), String> {
        let path = path(state_dir, node);
        let channel = Channel::connect(&path).map_err(|error| {
            format!(
                "nobody to replace: {}: {error}\n    mend: start it without --replace, or see whether the running one has \
                 another state_dir",
                path.display()
            )
        })?;
        let me = Predecessor { channel, node: node.to_owned() };
        me.channel.set_patience(ANSWER_SPAN).map_err(|error| me.broken(&error))?;
        me.say(&Say::Ask { version: VERSION, node: node.to_owned() })?;
        let mut all = Inherited::default();
        loop {
            match me.hear()? {
                (Say::Give { names, is_last }, descriptors) => {
                    names.into_iter().zip(descriptors).for_each(|(n, d)| all.take(n, d));
                    if is_last {
                        return Ok((me, all));
                    }
                }
                (Say::Quic { secret, generation }, _) => {
                    all.secret = <[u8; SECRET_BYTES]>::try_from(secret).ok().map(Secret);
                    all.generations.push(generation);
                }
                (other, _) => return Err(me.unexpected(&other)),
            }
        }
    }

    /// The running process writes to its store no more, for now.
    ///
    /// # Errors
    /// It cannot do that.
    pub fn pause_store(&self) -> Result<(), String> {
        self.exchange(&Say::Pause, &Say::Paused)
    }

    /// From now on the store is this process', also if the running one has ended since it said that it writes no more: then
    /// nobody serves until this one does.
    ///
    /// # Errors
    /// It is not: the running process has it still.
    pub fn take_store(&self) -> Result<(), String> {
        // If it does not hear that, it has said why, or nothing, and then it has ended.
        let _heard = say(&self.channel, &Say::Ready, &[]);
        let mut answer = super::hear(&self.channel);
        if answer.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset) {
            answer = super::hear(&self.channel); // words that came before are behind this
        }
        match answer {
            Ok((Say::Yours, _)) => Ok(()),
            Ok((other, _)) => Err(self.unexpected(&other)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                let node = &self.node;
                eprintln!(
                    "tidegated {node}: the running process has ended; its store is this one's"
                );
                Ok(())
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// From now on this process serves who comes.
    ///
    /// # Errors
    /// The other has ended meanwhile: all the same.
    pub fn take_over(&self) -> Result<(), String> {
        self.exchange(&Say::Serving, &Say::Gone)
    }

    /// Waits until the other has given its memory back, has ended, or says nothing.
    pub fn wait_until_light(self) {
        while self.hear().is_ok_and(|(word, _)| word != Say::Light) {}
    }

    fn exchange(&self, word: &Say, wanted: &Say) -> Result<(), String> {
        self.say(word)?;
        match self.hear()? {
            (answer, _) if answer == *wanted => Ok(()),
            (other, _) => Err(self.unexpected(&other)),
        }
    }

    fn say(&self, word: &Say) -> Result<(), String> {
        say(&self.channel, word, &[]).map_err(|error| self.broken(&error))
    }

    fn hear(&self) -> Result<(Say, Vec<OwnedFd>), String> {
        super::hear(&self.channel).map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &io::Error) -> String {
        format!("server {}: the running process: {error}\n    mend: see what it says", self.node)
    }

    fn unexpected(&self, word: &Say) -> String {
        match word {
            Say::No { why } => format!("server {}: the running process goes on: {why}", self.node),
            _ => format!(
                "server {}: the running process speaks another version\n    mend: stop it and start this one",
                self.node
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_new_as_long_as_there_are_any() {
        let mut all = Inherited { generations: vec![7, 8, 255, 0], ..Inherited::default() };
        for (wanted, given) in [(6, 6), (7, 9), (8, 9), (255, 1), (0, 1)] {
            assert_eq!(all.generation(wanted), given);
        }
        all.generations = (0..=255).collect();
        assert_eq!(all.generation(3), 3);
    }
}
