//! Longest-prefix match over a frozen set of prefixes, and how far an answer may be reused.
//!
//! The prefixes are flattened into disjoint ranges of addresses, neighbours with the same value merged, kept
//! sorted by their first address: a lookup is one binary search. The merged ranges also give the ECS scope:
//! the shortest prefix around the client that lies in one range, so that a resolver caches as widely as is
//! right.
//!
//! Must stay true: the ranges of a family cover all its addresses without a gap or an overlap.

use ipnet::IpNet;
use std::net::IpAddr;

/// Prefixes to values.
#[derive(Debug)]
pub struct PrefixTable<V> {
    v4: Ranges<V>,
    v6: Ranges<V>,
}

#[derive(Debug)]
struct Ranges<V> {
    bits: u8,
    /// First addresses, ascending; the first is 0.
    starts: Vec<u128>,
    values: Vec<Option<(V, u8)>>,
}

impl<V: Copy + PartialEq> PrefixTable<V> {
    /// Freezes `prefixes`; of two equal ones the last wins.
    pub fn new(prefixes: impl IntoIterator<Item = (IpNet, V)>) -> PrefixTable<V> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, value) in prefixes {
            let list = if prefix.addr().is_ipv4() { &mut v4 } else { &mut v6 };
            list.push((
                number(prefix.network()),
                number(prefix.broadcast()),
                prefix.prefix_len(),
                value,
            ));
        }
        PrefixTable { v4: Ranges::new(32, v4), v6: Ranges::new(128, v6) }
    }

    /// The value of the longest prefix around `address`, that prefix's length, and the scope of this answer.
    pub fn lookup(&self, address: IpAddr) -> (Option<(V, u8)>, u8) {
        let ranges = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        ranges.lookup(number(address))
    }
}

impl<V: Copy + PartialEq> Ranges<V> {
    fn new(bits: u8, mut prefixes: Vec<(u128, u128, u8, V)>) -> Ranges<V> {
        // Outer before inner; a stable sort keeps the order of equal ones, so that the last is innermost.
        prefixes.sort_by_key(|(first, _, length, _)| (*first, *length));
        let mut ranges = Ranges { bits, starts: Vec::new(), values: Vec::new() };
        ranges.push(0, None);
        // Prefixes around the current point, outermost first: (last address, value).
        let mut open: Vec<(u128, (V, u8))> = Vec::new();
        for (first, last, length, value) in prefixes {
            ranges.close(&mut open, Some(first));
            ranges.push(first, Some((value, length)));
            open.push((last, (value, length)));
        }
        ranges.close(&mut open, None);
        ranges
    }

    /// Ends the open prefixes that end before `next` (all of them without one).
    fn close(&mut self, open: &mut Vec<(u128, (V, u8))>, next: Option<u128>) {
        while let Some((last, _)) = open.last().copied()
            && next.is_none_or(|next| last < next)
        {
            open.pop();
            // An inner prefix may end where its outer one ends: that one is closed at once, too.
            let outer = open.last().map(|(_, value)| *value);
            if last < self.last_address() {
                self.push(last + 1, outer);
            }
        }
    }

    fn push(&mut self, start: u128, value: Option<(V, u8)>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        self.starts.push(start);
        self.values.push(value);
    }

    fn lookup(&self, address: u128) -> (Option<(V, u8)>, u8) {
        let found = self.starts.partition_point(|start| *start <= address) - 1;
        let value = self.values[found];
        let same = |index: usize| self.values[index].map(|(v, _)| v) == value.map(|(v, _)| v);
        // Neighbours with the same value are one region; prefixes are kept apart for the explanation only.
        // The walk is bounded so that a hostile file cannot make lookups slow; a longer scope is always
        // right.
        let (mut low, mut high) = (found, found);
        while low > 0 && found - low < WALK_MAX && same(low - 1) {
            low -= 1;
        }
        while high + 1 < self.starts.len() && high - found < WALK_MAX && same(high + 1) {
            high += 1;
        }
        let first = self.starts[low];
        let last = self.starts.get(high + 1).map_or(self.last_address(), |next| next - 1);
        (value, self.scope(address, first, last))
    }

    /// The fewest leading bits of `address` whose block lies within `first..=last`.
    fn scope(&self, address: u128, first: u128, last: u128) -> u8 {
        let (mut low, mut high) = (0, self.bits);
        while low < high {
            let middle = low + (high - low) / 2;
            let host =
                if middle == 0 { self.last_address() } else { self.last_address() >> middle };
            let (block_first, block_last) = (address & !host, address | host);
            if block_first >= first && block_last <= last {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    fn last_address(&self) -> u128 {
        u128::MAX >> (128 - self.bits)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

const WALK_MAX: usize = 64;
