//! The roll of a node: the devices that have taken part in every purge, and those that were retired.
//!
//! Owns the text below, which the node keeps in its state folder. It does no I/O.
//!
//! ```text
//! tidegate roll 1
//! member 0123456789abcdef0123456789abcdef /dev/nvme0n1
//! retired fedcba9876543210fedcba9876543210 /dev/nvme1n1
//! purges 0123456789abcdef 17 fedcba9876543210
//! told 00c0ffee00c0ffee
//! end 2
//! ```
//!
//! Must stay true: a purge is acknowledged only when each member has it in its journal; who could not take it is struck
//! off first. So a device that is no member may hold what was purged, and nothing on it is served. A retired device is
//! not used again until an operator lets it rejoin, and is no member then. `purges` says how far the node has followed the
//! purge log, in the log's own words: all members have what stands there and before; `told` names orders behind it that they
//! have, too.

use std::collections::VecDeque;
use std::fmt::Write;

const TITLE: &str = "tidegate roll 1";
/// Devices that are remembered; of more, those that were named first are forgotten. They come back as strangers.
const ENTRIES_MAX: usize = 256;
/// Orders that wait to be met in the log; of more, the first are forgotten, and done twice.
const TOLD_MAX: usize = 1024;
/// Ids are shorter: they are sixteen digits.
const TOLD_CHARS_MAX: usize = 64;

/// How a device stands with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has all purges.
    Member,
    /// It failed, and is not used until an operator says so.
    Retired,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollEntry {
    pub uuid: u128,
    pub standing: Standing,
    /// Where it was last, for people; characters that a line cannot hold are escaped.
    pub path: String,
}

/// All devices that the node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll {
    entries: Vec<RollEntry>,
    purge_place: Option<String>,
    told: VecDeque<String>,
}

impl Roll {
    /// Reads what [`Roll::encode`] wrote. `None`: another text, or one that was cut.
    pub fn decode(text: &str) -> Option<Roll> {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return None;
        }
        let mut roll = Roll::default();
        for line in lines {
            let mut words = line.splitn(3, ' ');
            let standing = match words.next()? {
                "member" => Standing::Member,
                "retired" => Standing::Retired,
                "purges" if roll.purge_place.is_none() => {
                    roll.purge_place = Some(line.strip_prefix("purges ")?.to_owned());
                    continue;
                }
                "told" if roll.told.len() < TOLD_MAX => {
                    roll.told.push_back(line.strip_prefix("told ")?.to_owned());
                    continue;
                }
                "end" => {
                    let count: usize = words.next()?.parse().ok()?;
                    return (count == roll.entries.len()).then_some(roll);
                }
                _ => return None,
            };
            let uuid = words.next().filter(|word| word.len() == 32)?;
            let uuid = u128::from_str_radix(uuid, 16).ok()?;
            if roll.get(uuid).is_some() || roll.entries.len() == ENTRIES_MAX {
                return None;
            }
            let path = words.next().unwrap_or_default().to_owned();
            roll.entries.push(RollEntry { uuid, standing, path });
        }
        None
    }

    pub fn encode(&self) -> String {
        let mut text = format!("{TITLE}\n");
        for RollEntry { uuid, standing, path } in &self.entries {
            let word = match standing {
                Standing::Member => "member",
                Standing::Retired => "retired",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{word} {uuid:032x} {path}");
        }
        if let Some(place) = &self.purge_place {
            let _ = writeln!(text, "purges {place}");
        }
        for order in &self.told {
            let _ = writeln!(text, "told {order}");
        }
        let _ = writeln!(text, "end {}", self.entries.len());
        text
    }

    /// How far the node has followed the purge log.
    pub fn purge_place(&self) -> Option<&str> {
        self.purge_place.as_deref()
    }

    /// Notes it, a text of one line; `true`: that was news.
    pub fn set_purge_place(&mut self, place: &str) -> bool {
        let place = place.escape_default().to_string();
        let is_news = self.purge_place.as_ref() != Some(&place);
        self.purge_place = Some(place);
        is_news
    }

    /// Notes an order that was done before the node met it in the purge log.
    pub fn add_told(&mut self, order: &str) {
        let order: String = order.escape_default().take(TOLD_CHARS_MAX).collect();
        if self.told.len() == TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(order);
    }

    /// Whether this order was done before it was met in the log.
    pub fn is_told(&self, order: &str) -> bool {
        self.told.iter().any(|told| told.chars().eq(order.escape_default().take(TOLD_CHARS_MAX)))
    }

    /// The log was followed beyond this order.
    pub fn forget_told(&mut self, order: &str) {
        self.told.retain(|told| !told.chars().eq(order.escape_default().take(TOLD_CHARS_MAX)));
    }

    pub fn entries(&self) -> &[RollEntry] {
        &self.entries
    }

    pub fn get(&self, uuid: u128) -> Option<Standing> {
        self.entries.iter().find(|entry| entry.uuid == uuid).map(|entry| entry.standing)
    }

    /// Names a device, or changes how it stands; `true`: that was news.
    pub fn set(&mut self, uuid: u128, standing: Standing, path: &str) -> bool {
        let path = path.escape_default().to_string();
        let entry = RollEntry { uuid, standing, path };
        match self.entries.iter_mut().find(|known| known.uuid == uuid) {
            Some(known) if *known == entry => return false,
            Some(known) => *known = entry,
            None => {
                if self.entries.len() == ENTRIES_MAX {
                    self.entries.remove(0);
                }
                self.entries.push(entry);
            }
        }
        true
    }

    /// Lets a retired device be used again, which is named by its uuid or its path: it is on the roll no more, so that it
    /// begins empty.
    ///
    /// # Errors
    /// Not just one retired device is called so; the text names those that there are.
    pub fn rejoin(&mut self, device: &str) -> Result<RollEntry, String> {
        let path = device.escape_default().to_string();
        let retired = || self.entries.iter().filter(|entry| entry.standing == Standing::Retired);
        let is_it =
            |entry: &&RollEntry| entry.path == path || format!("{:032x}", entry.uuid) == device;
        let found: Vec<RollEntry> = retired().filter(is_it).cloned().collect();
        let [entry] = &found[..] else {
            let known: Vec<_> = retired()
                .map(|entry| format!("\n    {:032x} {}", entry.uuid, entry.path))
                .collect();
            return Err(format!(
                "{} retired devices are called {path}; there are {}{}",
                found.len(),
                known.len(),
                known.concat()
            ));
        };
        self.entries.retain(|other| other.uuid != entry.uuid);
        Ok(entry.clone())
    }

    /// Forgets the devices that `is_kept` refuses; `true`: there were some.
    pub fn retain(&mut self, is_kept: impl Fn(&RollEntry) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(is_kept);
        self.entries.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_and_what_was_cut_is_not(
            entries in proptest::collection::vec((any::<u128>(), any::<bool>(), ".{0,20}"), 0..40),
            place in proptest::option::of(".{0,20}"),
            told in proptest::collection::vec(".{0,20}", 0..4),
            cut in 1usize..2000,
        ) {
            let mut roll = Roll::default();
            for (uuid, retired, path) in entries {
                let standing = if retired { Standing::Retired } else { Standing::Member };
                roll.set(uuid, standing, &path);
            }
            if let Some(place) = place {
                prop_assert!(roll.set_purge_place(&place) && !roll.set_purge_place(&place));
            }
            for order in &told {
                roll.add_told(order);
            }
            let text = roll.encode();
            prop_assert!(text.is_ascii());
            let mut read = Roll::decode(&text).unwrap();
            prop_assert_eq!(&read, &roll);
            prop_assert!(told.iter().all(|order| read.is_told(order)) && !read.is_told("another"));
            told.iter().for_each(|order| read.forget_told(order));
            prop_assert!(!told.iter().any(|order| read.is_told(order)));
            // The last line end says nothing.
            let short = &text[..text.len().saturating_sub(1 + cut)];
            prop_assert_eq!(Roll::decode(short), None);
        }
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let mut roll = Roll::default();
        for uuid in 0..=ENTRIES_MAX as u128 {
            assert!(roll.set(uuid, Standing::Member, "/a b\n"));
        }
        assert_eq!((roll.get(0), roll.get(1)), (None, Some(Standing::Member)));
        assert!(!roll.set(1, Standing::Member, "/a b\n"));
        assert!(roll.set(1, Standing::Retired, "/a b\n"));
        let mut other = roll.clone();
        assert!(
            other
                .rejoin("/a b")
                .unwrap_err()
                .contains("0 retired devices are called /a b; there are 1\n")
        );
        assert_eq!(other.rejoin("/a b\n").unwrap().uuid, 1);
        assert!(other.get(1).is_none() && other.rejoin("/a b\n").is_err());
        assert_eq!(roll.clone().rejoin(&format!("{:032x}", 1)).unwrap().uuid, 1);
        assert_eq!(Roll::decode(&roll.encode()), Some(roll.clone()));
        assert!(roll.retain(|entry| entry.standing == Standing::Member));
        assert_eq!(roll.entries().len(), ENTRIES_MAX - 1);
    }
}
