//! The purge log: every purge that was ordered of the whole fleet, in the order in which that was done, so that a node
//! which was away learns what it missed. A file beside the snapshot, published as that is.
//!
//! ```text
//! tidegate-purges 1 log=<16 hex> after=<number> chain=<64 hex> hard=<number> mac=<64 hex>
//! <number> <64 hex: HMAC-SHA256(admin key, "TGP1\n" log "\n" number "\n" chain "\n" order)> <order, JSON>
//! ```
//! `chain` is the MAC of the entry before (of the first: a header's), so that none can be taken out, put in or moved.
//! `after` is the number of the entry that was dropped last to keep the log short, `hard` that of the last hard purge among
//! those. `log` names the file's whole history: one that is begun anew has another name.
//!
//! Must stay true: an entry is given out only when the MACs of all that precede it in the file fit; of what a node missed,
//! either all entries are there, or it is told that some are not.

use crate::AdminKey;
use std::collections::VecDeque;
use std::fmt;

/// The log's file is named as the snapshot's is, with this behind it.
pub const FILE_ENDING: &str = ".purges";
/// Entries that a log holds; of more, the oldest are dropped.
pub const PURGE_LOG_ENTRIES_MAX: usize = 2000;
/// Bytes of a log's file.
pub const PURGE_LOG_BYTES_MAX: usize = 1 << 20;

const TITLE: &str = "tidegate-purges 1";

/// How far a node has followed a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgePlace {
    log: u64,
    number: u64,
    /// Tells entries of one number apart, when two copies of a log were continued.
    chain: u64,
}

impl PurgePlace {
    /// One line without blanks at its ends.
    pub fn encode(&self) -> String {
        format!("{:016x} {} {:016x}", self.log, self.number, self.chain)
    }

    /// Reads what [`PurgePlace::encode`] wrote.
    pub fn decode(text: &str) -> Option<PurgePlace> {
        let mut words = text.split(' ');
        let log = u64::from_str_radix(words.next()?, 16).ok()?;
        let number = words.next()?.parse().ok()?;
        let chain = u64::from_str_radix(words.next()?, 16).ok()?;
        words.next().is_none().then_some(PurgePlace { log, number, chain })
    }
}

/// One purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedPurge {
    pub number: u64,
    /// What a node's admin port takes as the body of `POST /purge`.
    pub order: String,
    mac: Mac,
}

type Mac = [u8; 32];

impl LoggedPurge {
    fn is_hard(&self) -> bool {
        let order: Option<serde_json::Value> = serde_json::from_str(&self.order).ok();
        order.is_none_or(|order| order["mode"] == "hard")
    }
}

/// What a node missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// The entries from this index on.
    From(usize),
    /// All entries, and others that the log has not got any more; whether there may be hard ones among those.
    Lost { hard: bool },
    /// Nothing is known: this is an older copy of the log.
    Older,
}

/// A log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeLog {
    log: u64,
    after: u64,
    chain: Mac,
    hard: u64,
    entries: VecDeque<LoggedPurge>,
}

/// Why a log was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeLogError {
    /// Larger than [`PURGE_LOG_BYTES_MAX`], or with more entries than it may have.
    TooLarge,
    /// Not written by this program, or cut.
    Form { line: usize },
    /// A MAC does not fit.
    Mac { line: usize },
}

impl fmt::Display for PurgeLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PurgeLogError::TooLarge => f.write_str("it is too large for a purge log"),
            PurgeLogError::Form { line } => {
                write!(
                    f,
                    "line {line}: not as `tidegate purge` writes it, or cut; publish it again"
                )
            }
            PurgeLogError::Mac { line } => write!(
                f,
                "line {line}: altered, or signed with another admin key; publish it again, or, when the key was changed, \
                 move the file away: the next purge begins a new one"
            ),
        }
    }
}

impl std::error::Error for PurgeLogError {}

impl PurgeLog {
    /// An empty one, by a name that no other has.
    pub fn begin(log: u64) -> PurgeLog {
        PurgeLog { log, after: 0, chain: [0; 32], hard: 0, entries: VecDeque::new() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When any byte of it is not as the holder of `key` wrote it.
    pub fn read(bytes: &[u8], key: &AdminKey) -> Result<PurgeLog, PurgeLogError> {
        if bytes.len() > PURGE_LOG_BYTES_MAX {
            return Err(PurgeLogError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PurgeLogError::Form { line: 1 })?;
        let mut lines = text.split_inclusive('\n').enumerate();
        let form = |line: usize| PurgeLogError::Form { line: line + 1 };
        let whole = |line: usize, text: &str| {
            text.strip_suffix('\n').map(str::to_owned).ok_or_else(|| form(line))
        };
        let (_, head) = lines.next().ok_or_else(|| form(0))?;
        let head = whole(0, head)?;
        let (mut log, mac) = parse_head(&head).ok_or_else(|| form(0))?;
        if !key.is_mac_of(&log.head_text(), &mac) {
            return Err(PurgeLogError::Mac { line: 1 });
        }
        for (at, line) in lines {
            let line = whole(at, line)?;
            if log.entries.len() == PURGE_LOG_ENTRIES_MAX {
                return Err(PurgeLogError::TooLarge);
            }
            let (number, mac, order) = parse_entry(&line).ok_or_else(|| form(at))?;
            if number != log.last() + 1 {
                return Err(form(at));
            }
            if !key.is_mac_of(&log.entry_text(number, order), &mac) {
                return Err(PurgeLogError::Mac { line: at + 1 });
            }
            log.entries.push_back(LoggedPurge { number, order: order.to_owned(), mac });
        }
        // One way to write it.
        if log.encode(key).as_bytes() != bytes { Err(form(0)) } else { Ok(log) }
    }

    /// Adds an order (JSON on one line), and drops the oldest when there are too many; gives its number. `None`: it is so
    /// long, or of such a form, that no log holds it.
    pub fn add(&mut self, order: &str, key: &AdminKey) -> Option<u64> {
        if order.len() > PURGE_LOG_BYTES_MAX / 4 || order.contains('\n') {
            return None;
        }
        let number = self.last() + 1;
        let mac = key.mac_of(&self.entry_text(number, order));
        self.entries.push_back(LoggedPurge { number, order: order.to_owned(), mac });
        while self.entries.len() > PURGE_LOG_ENTRIES_MAX || self.bytes() > PURGE_LOG_BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else { break };
            (self.after, self.chain) = (oldest.number, oldest.mac);
            if oldest.is_hard() {
                self.hard = oldest.number;
            }
        }
        Some(number)
    }

    /// The file's text.
    pub fn encode(&self, key: &AdminKey) -> String {
        let head = self.head_text();
        let mut text = format!("{head} mac={}\n", crate::hex::encode(&key.mac_of(&head)));
        for LoggedPurge { number, order, mac } in &self.entries {
            text.push_str(&format!("{number} {} {order}\n", crate::hex::encode(mac)));
        }
        text
    }

    /// The entry at this index and those that follow it.
    pub fn entries(&self, from: usize) -> impl Iterator<Item = &LoggedPurge> {
        self.entries.iter().skip(from)
    }

    /// Its end.
    pub fn place(&self) -> PurgePlace {
        self.place_of(self.last(), self.chain_now())
    }

    /// What somebody who has been at `place` (`None`: who has not heard of any log yet) has missed.
    pub fn missed_since(&self, place: Option<PurgePlace>) -> Missed {
        let Some(place) = place else {
            return if self.after == 0 {
                Missed::From(0)
            } else {
                Missed::Lost { hard: self.hard > 0 }
            };
        };
        if place.log != self.log {
            // Nobody knows what the other one came to say; a fleet that forgets all for it would be worse than one that asks.
            return Missed::Lost { hard: false };
        }
        let Some(behind) = place.number.checked_sub(self.after) else {
            return Missed::Lost { hard: self.hard > place.number };
        };
        let known = match behind.checked_sub(1).map(|index| self.entries.get(index as usize)) {
            None => self.place_of(self.after, self.chain),
            Some(Some(entry)) => self.place_of(entry.number, entry.mac),
            Some(None) => return Missed::Older,
        };
        match known == place {
            true => Missed::From(behind as usize),
            false => Missed::Lost { hard: false },
        }
    }

    fn place_of(&self, number: u64, mac: Mac) -> PurgePlace {
        let [a, b, c, d, e, f, g, h, ..] = mac;
        PurgePlace { log: self.log, number, chain: u64::from_be_bytes([a, b, c, d, e, f, g, h]) }
    }

    /// The number of its last entry, there or dropped.
    fn last(&self) -> u64 {
        self.after + self.entries.len() as u64
    }

    fn chain_now(&self) -> Mac {
        self.entries.back().map_or(self.chain, |entry| entry.mac)
    }

    fn bytes(&self) -> usize {
        const HEAD: usize = 256;
        const NUMBER_AND_MAC: usize = 20 + 64 + 3;
        let entries = self.entries.iter().map(|entry| NUMBER_AND_MAC + entry.order.len());
        HEAD + entries.sum::<usize>()
    }

    fn head_text(&self) -> String {
        let PurgeLog { log, after, hard, chain, .. } = self;
        let chain = crate::hex::encode(chain);
        format!("{TITLE} log={log:016x} after={after} chain={chain} hard={hard}")
    }

    fn entry_text(&self, number: u64, order: &str) -> String {
        let chain = crate::hex::encode(&self.chain_now());
        format!("TGP1\n{:016x}\n{number}\n{chain}\n{order}", self.log)
    }
}

fn parse_head(line: &str) -> Option<(PurgeLog, Mac)> {
    let mut words = line.strip_prefix(TITLE)?.strip_prefix(' ')?.split(' ');
    let mut word = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
    let log = u64::from_be_bytes(crate::hex::decode(word("log")?)?);
    let after = decimal(word("after")?)?;
    let chain = crate::hex::decode(word("chain")?)?;
    let hard = decimal(word("hard")?)?;
    let mac = crate::hex::decode(word("mac")?)?;
    let log = PurgeLog { log, after, chain, hard, entries: VecDeque::new() };
    words.next().is_none().then_some((log, mac))
}

fn parse_entry(line: &str) -> Option<(u64, Mac, &str)> {
    let mut words = line.splitn(3, ' ');
    Some((decimal(words.next()?)?, crate::hex::decode(words.next()?)?, words.next()?))
}

/// Digits alone, and a number that still has successors.
fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number < u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> AdminKey {
        AdminKey::from_hex(&"5a".repeat(32)).unwrap()
    }

    fn order(n: usize, hard: bool) -> String {
        let mode = if hard { "hard" } else { "soft" };
        format!(r#"{{"id":"{n}","mode":"{mode}","delivery_service":"film","all":true}}"#)
    }

    fn log_of(count: usize, hard: impl Fn(usize) -> bool) -> (PurgeLog, Vec<PurgePlace>) {
        let mut log = PurgeLog::begin(7);
        let mut places = vec![log.place()];
        for n in 1..=count {
            assert_eq!(log.add(&order(n, hard(n)), &key()), Some(n as u64));
            places.push(log.place());
        }
        (log, places)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

        /// What was written is read; whatever is cut off, changed, moved or taken out is refused.
        #[test]
        fn a_log_is_read_whole_or_not_at_all(count in 0usize..12, at in any::<usize>(), bit in 0u8..7) {
            let (log, _) = log_of(count, |n| n % 3 == 0);
            let text = log.encode(&key());
            prop_assert_eq!(PurgeLog::read(text.as_bytes(), &key()), Ok(log));
            let at = at % text.len();
            let mut altered = text.clone().into_bytes();
            altered[at] ^= 1 << bit;
            prop_assert!(PurgeLog::read(&altered, &key()).is_err());
            // Whole lines may be missing at the end: that is an older copy.
            let cut = &text.as_bytes()[..at];
            prop_assert_eq!(PurgeLog::read(cut, &key()).is_ok(), at > 0 && cut.ends_with(b"\n"));
            let mut lines: Vec<&str> = text.lines().collect();
            if count > 1 {
                lines.remove(1 + at % (count - 1));
                let without = lines.join("\n") + "\n";
                prop_assert!(PurgeLog::read(without.as_bytes(), &key()).is_err());
            }
        }

        /// From each place, either what followed it is there, or it is said that it is not.
        #[test]
        fn what_was_missed_is_there_or_known_to_be_missing(
            count in 1usize..3000, place in any::<usize>(), hard_at in any::<usize>(),
        ) {
            let hard_at = 1 + hard_at % count;
            let (log, places) = log_of(count, |n| n == hard_at);
            let at = place % places.len();
            let dropped = count.saturating_sub(PURGE_LOG_ENTRIES_MAX);
            let expected = match at >= dropped {
                true => Missed::From(at - dropped),
                false => Missed::Lost { hard: hard_at > at && hard_at <= dropped },
            };
            prop_assert_eq!(log.missed_since(Some(places[at])), expected);
            let numbers: Vec<u64> = match expected {
                Missed::From(from) => log.entries(from).map(|entry| entry.number).collect(),
                _ => Vec::new(),
            };
            if at >= dropped {
                prop_assert_eq!(numbers, (at as u64 + 1..=count as u64).collect::<Vec<_>>());
            }
            let never = log.missed_since(None);
            let all = if dropped == 0 { Missed::From(0) } else { Missed::Lost { hard: hard_at <= dropped } };
            prop_assert_eq!(never, all);
            prop_assert_eq!(PurgePlace::decode(&places[at].encode()), Some(places[at]));
        }
    }

    #[test]
    fn other_histories_are_told_apart() {
        let (log, places) = log_of(5, |_| false);
        let (mut older, _) = log_of(3, |_| false);
        assert_eq!(older.missed_since(Some(places[5])), Missed::Older);
        // A copy that was continued elsewhere.
        older.add(&order(99, false), &key());
        older.add(&order(100, false), &key());
        assert_eq!(older.missed_since(Some(places[5])), Missed::Lost { hard: false });
        assert_eq!(older.missed_since(Some(places[3])), Missed::From(3));
        // One that was begun anew.
        let mut other = PurgeLog::begin(8);
        other.add(&order(1, false), &key());
        assert_eq!(other.missed_since(Some(places[5])), Missed::Lost { hard: false });
        let other_key = AdminKey::from_hex(&"5b".repeat(32)).unwrap();
        let refused = PurgeLog::read(log.encode(&key()).as_bytes(), &other_key);
        assert_eq!(refused, Err(PurgeLogError::Mac { line: 1 }));
        for wrong in ["1", "1 2", "x 0 0", "0 +1 0", "0 1 0 "] {
            let place = PurgePlace::decode(wrong);
            assert!(place.is_none_or(|place| place.encode() != wrong), "{wrong}");
        }
    }

    #[test]
    fn a_log_stays_short_and_refuses_what_it_cannot_hold() {
        let mut log = PurgeLog::begin(7);
        let long = format!(r#"{{"mode":"soft","url":"{}"}}"#, "x".repeat(60_000));
        for _ in 0..40 {
            assert!(log.add(&long, &key()).is_some());
        }
        let text = log.encode(&key());
        assert!(text.len() <= PURGE_LOG_BYTES_MAX && text.len() > PURGE_LOG_BYTES_MAX / 2);
        assert_eq!(PurgeLog::read(text.as_bytes(), &key()).unwrap().place(), log.place());
        assert_eq!(log.add("{}\n{}", &key()), None);
        assert_eq!(log.add(&"x".repeat(PURGE_LOG_BYTES_MAX), &key()), None);
    }
}
