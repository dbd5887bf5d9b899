//! The dynamic table (RFC 7541 §2.3.2, §4): the client's latest fields, the newest first.
//!
//! Their bytes lie one behind the other in one buffer; what was evicted is cut off when it is as much as the table may hold. Must
//! stay true: the table holds [`SIZE_MAX`] bytes at most, the buffer two times as many; an empty table holds nothing.

use std::collections::VecDeque;

/// What we never said otherwise (RFC 9113 §6.5.2).
const SIZE_MAX: usize = 4096;
/// §4.1.
const OVERHEAD_BYTES: usize = 32;

#[derive(Debug)]
pub struct Dynamic {
    bytes: Vec<u8>,
    /// The oldest first.
    entries: VecDeque<Entry>,
    size: usize,
    /// What the client allows itself.
    max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u16,
    name: u16,
    value: u16,
}

impl Default for Dynamic {
    fn default() -> Dynamic {
        Dynamic { bytes: Vec::new(), entries: VecDeque::new(), size: 0, max: SIZE_MAX }
    }
}

impl Dynamic {
    pub fn size(&self) -> usize {
        self.size
    }

    /// The entry of an index, from 0 on.
    pub fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let at = self.entries.len().checked_sub(index.checked_add(1)?)?;
        let entry = self.entries.get(at)?;
        let whole = self.bytes.get(usize::from(entry.start)..)?;
        let (name, rest) = whole.split_at_checked(usize::from(entry.name))?;
        Some((name, rest.get(..usize::from(entry.value))?))
    }

    /// Adds an entry; one that is too large empties the table (§4.4).
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + OVERHEAD_BYTES;
        if size > self.max {
            self.evict(0);
            return;
        }
        self.evict(self.max - size);
        if self.bytes.len() + name.len() + value.len() > 2 * SIZE_MAX {
            self.pack();
        }
        // All of them are below 2 * SIZE_MAX.
        let entry = Entry {
            start: self.bytes.len() as u16,
            name: name.len() as u16,
            value: value.len() as u16,
        };
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_back(entry);
        self.size += size;
    }

    /// §4.3; `false`: it is more than we allow.
    pub fn resize(&mut self, max: usize) -> bool {
        if max > SIZE_MAX {
            return false;
        }
        self.max = max;
        self.evict(max);
        true
    }

    /// Down to so many bytes.
    fn evict(&mut self, max: usize) {
        while self.size > max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= usize::from(oldest.name) + usize::from(oldest.value) + OVERHEAD_BYTES;
        }
        if self.entries.is_empty() {
            (self.bytes, self.entries) = (Vec::new(), VecDeque::new());
        }
    }

    /// Cuts off what was evicted.
    fn pack(&mut self) {
        let cut = self.entries.front().map_or(0, |oldest| oldest.start);
        self.bytes.drain(..usize::from(cut));
        self.entries.iter_mut().for_each(|entry| entry.start -= cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the table as the RFC describes it.
        #[test]
        fn it_holds_what_the_rfc_says(
            steps in proptest::collection::vec((0usize..60, 0usize..1500, 0usize..20), 1..300),
        ) {
            let mut table = Dynamic::default();
            let (mut model, mut max) = (VecDeque::<(Vec<u8>, Vec<u8>)>::new(), SIZE_MAX);
            for (n, (name, value, resize)) in steps.into_iter().enumerate() {
                if resize == 0 {
                    max = value * 3;
                    prop_assert_eq!(table.resize(max), max <= SIZE_MAX);
                    max = max.min(table.max);
                    table.resize(max);
                } else {
                    let name = vec![n as u8; name];
                    let value = vec![!(n as u8); value];
                    table.insert(&name, &value);
                    model.push_front((name, value));
                }
                let size = |model: &VecDeque<(Vec<u8>, Vec<u8>)>| -> usize {
                    model.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
                };
                while size(&model) > max {
                    model.pop_back();
                }
                prop_assert_eq!(table.size(), size(&model));
                prop_assert!(table.bytes.len() <= 2 * SIZE_MAX);
                for (index, (name, value)) in model.iter().enumerate() {
                    prop_assert_eq!(table.get(index), Some((&name[..], &value[..])));
                }
                prop_assert_eq!(table.get(model.len()), None);
            }
        }
    }

    #[test]
    fn an_empty_table_holds_nothing() {
        let mut table = Dynamic::default();
        table.insert(b"name", b"value");
        assert!(table.resize(0));
        assert_eq!((table.bytes.capacity(), table.entries.capacity()), (0, 0));
    }
}
