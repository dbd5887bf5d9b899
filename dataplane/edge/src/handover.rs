//! One process of a node takes another's place (decision 0013): the words that they say to each other.
//!
//! ```text
//! successor                                     the running process
//!   snapshot, certificates, memory: all is sound
//!   ask      --------------------------------->
//!            <---------------------------------  give: listening sockets, the store's lock, secrets of QUIC
//!   pause    --------------------------------->  writes out what the store was given, and no more
//!            <---------------------------------  paused
//!   reads the store, writes nothing
//!   ready    --------------------------------->
//!            <---------------------------------  yours: from here on the store is the successor's
//!   writes
//!   serving  --------------------------------->  accepts no more, heartbeats end, QUIC sockets are not read any more
//!            <---------------------------------  gone
//!                                               gives the memory of its RAM tier back, but for what is nowhere else
//!            <---------------------------------  light: the successor may have its own pinned
//!   accepts, beats                               serves what it has to its end
//! ```
//! Must stay true: before `yours` the successor writes nothing, so that the running process goes on as if nothing had happened
//! whatever becomes of the other; at each moment one of them accepts on the sockets that both hold.

mod predecessor;
mod successor;

pub use predecessor::{Inherited, Predecessor};
pub use successor::{Estate, Offer, offer};

use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use tidegate_ring::{Channel, DESCRIPTORS_MAX};

/// Of these words. Another one is refused, and the old process goes on.
const VERSION: u32 = 1;
const WORD_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Say {
    Ask {
        version: u32,
        node: String,
    },
    /// As many descriptors come with it as it has names.
    Give {
        names: Vec<Name>,
        is_last: bool,
    },
    /// What follows from it is in `h3.rs`.
    Quic {
        secret: Vec<u8>,
        generation: u8,
    },
    No {
        why: String,
    },
    Pause,
    Paused,
    Ready,
    Yours,
    Serving,
    Gone,
    Light,
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    /// Of the state folder.
    Lock,
    Listener(SocketAddr),
    Datagrams(SocketAddr),
    /// Takes datagrams for the process of this generation that came to this address.
    Letters(SocketAddr, u8),
}

/// Where a running node is asked.
fn path(state_dir: &Path, node: &str) -> PathBuf {
    state_dir.join(format!("{node}.handover"))
}

fn say(channel: &Channel, word: &Say, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    channel.send(&serde_json::to_vec(word)?, descriptors)
}

fn hear(channel: &Channel) -> io::Result<(Say, Vec<OwnedFd>)> {
    let mut word = vec![0; WORD_BYTES_MAX];
    match channel.receive(&mut word) {
        Ok((0, _)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended")),
        Ok((length, descriptors)) => Ok((serde_json::from_slice(&word[..length])?, descriptors)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"))
        }
        Err(error) => Err(error),
    }
}

/// Descriptors with their names, in as many messages as it takes.
fn give(channel: &Channel, all: &[(Name, BorrowedFd<'_>)]) -> io::Result<()> {
    let mut pieces = all.chunks(DESCRIPTORS_MAX).peekable();
    loop {
        let piece = pieces.next().unwrap_or_default();
        let names = piece.iter().map(|(name, _)| name.clone()).collect();
        let descriptors: Vec<_> = piece.iter().map(|(_, descriptor)| *descriptor).collect();
        let is_last = pieces.peek().is_none();
        say(channel, &Say::Give { names, is_last }, &descriptors)?;
        if is_last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_given_comes_with_its_names_however_much_it_is() {
        for count in [0, 1, DESCRIPTORS_MAX, DESCRIPTORS_MAX + 1, 3 * DESCRIPTORS_MAX] {
            let (one, two) = Channel::pair().unwrap();
            let name = |n: usize| Name::Letters(([127, 0, 0, 1], n as u16).into(), n as u8);
            let all: Vec<_> = (0..count).map(|n| (name(n), one.as_fd())).collect();
            give(&one, &all).unwrap();
            say(&one, &Say::Gone, &[]).unwrap();
            let mut came = 0;
            loop {
                let (word, descriptors) = hear(&two).unwrap();
                let Say::Give { names, is_last } = word else { panic!("{word:?}") };
                assert_eq!(names.len(), descriptors.len());
                for found in names {
                    assert_eq!(found, name(came));
                    came += 1;
                }
                if is_last {
                    break;
                }
            }
            assert_eq!((came, hear(&two).unwrap().0), (count, Say::Gone));
            drop(one);
            assert_eq!(hear(&two).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
