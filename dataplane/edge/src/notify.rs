//! Words to the service manager (sd_notify(3)): that this process serves, lives, stops, or has a successor.
//!
//! The watchdog's word is sent only while every core ticks, so that a stuck core has the process killed and started anew. Without a
//! manager nothing is sent. Must stay true: nobody waits for the manager.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Where the manager listens, if there is one.
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that this process lives.
    watchdog: Option<Duration>,
    told: Instant,
}

/// So many words in each span that the manager gives.
const WORDS: u32 = 4;

impl Notify {
    /// As the manager said it to this process, or to the one that started it as its successor.
    pub fn from_environment() -> Notify {
        let text = |name| env::var(name).ok();
        let is_mine = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = text("WATCHDOG_USEC").filter(|_| is_mine);
        Notify {
            to: text("NOTIFY_SOCKET").and_then(|path| connect(&path)),
            watchdog: watchdog.and_then(|span| span.parse().ok()).map(Duration::from_micros),
            told: Instant::now(),
        }
    }

    fn say(&self, words: &str) {
        if let Some((socket, manager)) = &self.to {
            // What the manager does not take it does not need.
            let _heard = socket.send_to_addr(words.as_bytes(), manager);
        }
    }

    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    pub fn status(&self, status: &str) {
        self.say(&format!("STATUS={status}"));
    }

    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=finishing what is under way");
    }

    /// The process that counts from now on; only the one that counted so far may say so.
    pub fn successor(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
    }

    /// All cores live.
    pub fn alive(&mut self) {
        if let Some(span) = self.watchdog
            && self.told.elapsed() >= span / WORDS
        {
            self.told = Instant::now();
            self.say("WATCHDOG=1");
        }
    }
}

/// A path, or a name without a file (`@`).
fn connect(path: &str) -> Option<(UnixDatagram, SocketAddr)> {
    let manager = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok()?,
        None => SocketAddr::from_pathname(path).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, manager))
}
