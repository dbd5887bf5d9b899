//! Which URL each request asks for.
//!
//! Must stay true: the choice is a function of the seed and the request's number, so the same seed gives the
//! same sequence however many threads and connections there are.

use std::fmt;

/// The order in which URLs are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    /// One after the other, from the start again.
    Cycle,
    /// Each as likely as any other.
    Random,
    /// The n-th URL is asked for in proportion to `1 / n^s`, as viewers ask for films.
    Zipf(f64),
}

/// The steepest Zipf law: beyond it all requests go to the first URL.
pub const ZIPF_MAX: f64 = 10.0;

/// Why a text is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderError;

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an order is cycle, random or zipf:S with S from 0 to {ZIPF_MAX}, as in zipf:0.9")
    }
}

impl std::error::Error for OrderError {}

impl std::str::FromStr for Order {
    type Err = OrderError;

    fn from_str(text: &str) -> Result<Order, OrderError> {
        match text {
            "cycle" => Ok(Order::Cycle),
            "random" => Ok(Order::Random),
            _ => text
                .strip_prefix("zipf:")
                .and_then(|s| s.parse().ok())
                .filter(|s| (0.0..=ZIPF_MAX).contains(s))
                .map(Order::Zipf)
                .ok_or(OrderError),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Cycle => f.write_str("cycle"),
            Order::Random => f.write_str("random"),
            Order::Zipf(s) => write!(f, "zipf:{s}"),
        }
    }
}

/// Picks among a number of URLs.
#[derive(Debug)]
pub struct Picker {
    order: Order,
    count: usize,
    seed: u64,
    /// Zipf: chance of this URL or an earlier one.
    chances: Vec<f64>,
}

impl Picker {
    /// For `count` URLs (taken as one when zero).
    pub fn new(order: Order, count: usize, seed: u64) -> Picker {
        let count = count.max(1);
        let mut chances = Vec::new();
        if let Order::Zipf(s) = order {
            let weight = |n: usize| (n as f64).powf(-s);
            let total: f64 = (1..=count).map(weight).sum();
            let mut sum = 0.0;
            chances.extend((1..=count).map(|n| {
                sum += weight(n);
                sum / total
            }));
        }
        Picker { order, count, seed, chances }
    }

    /// The URL of request `index`.
    pub fn pick(&self, index: u64) -> usize {
        let count = self.count as u64;
        match self.order {
            Order::Cycle => (index % count) as usize,
            // The high half of a product is even over the count, without a division.
            Order::Random => ((u128::from(self.random(index)) * u128::from(count)) >> 64) as usize,
            Order::Zipf(_) => {
                let point = (self.random(index) >> 11) as f64 / (1u64 << 53) as f64;
                self.chances.partition_point(|chance| *chance <= point).min(self.count - 1)
            }
        }
    }

    /// SplitMix64 at place `index` of the sequence of `seed`.
    fn random(&self, index: u64) -> u64 {
        let mut z = mixed(self.seed).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(z)
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(order: Order, count: usize, seed: u64) -> Vec<usize> {
        let picker = Picker::new(order, count, seed);
        (0..1000).map(|i| picker.pick(i)).collect()
    }

    #[test]
    fn orders_are_read_and_shown_alike() {
        for text in ["cycle", "random", "zipf:0.9", "zipf:0"] {
            assert_eq!(text.parse::<Order>().unwrap().to_string(), text);
        }
        for bad in ["", "zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:11", "zipf:NaN", "Cycle"] {
            assert_eq!(bad.parse::<Order>(), Err(OrderError), "{bad}");
        }
    }

    #[test]
    fn a_cycle_asks_for_each_in_turn() {
        assert_eq!(sequence(Order::Cycle, 3, 7)[..7], [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_seed_decides_the_sequence() {
        for order in [Order::Random, Order::Zipf(1.0)] {
            assert_eq!(sequence(order, 50, 1), sequence(order, 50, 1));
            assert_ne!(sequence(order, 50, 1), sequence(order, 50, 2));
        }
    }

    #[test]
    fn chances_are_as_promised() {
        let draws = 200_000u64;
        let count = |order, url: usize| {
            let picker = Picker::new(order, 10, 3);
            (0..draws).filter(|i| picker.pick(*i) == url).count() as f64 / draws as f64
        };
        for url in 0..10 {
            assert!((count(Order::Random, url) - 0.1).abs() < 0.005);
        }
        let total: f64 = (1..=10).map(|n| 1.0 / n as f64).sum();
        for url in 0..10 {
            let expected = 1.0 / (url + 1) as f64 / total;
            assert!((count(Order::Zipf(1.0), url) - expected).abs() < 0.005);
        }
    }

    proptest! {
        #[test]
        fn a_pick_is_always_one_of_them(count in 0usize..300, seed: u64, index: u64, s in 0.0f64..ZIPF_MAX) {
            for order in [Order::Cycle, Order::Random, Order::Zipf(s)] {
                prop_assert!(Picker::new(order, count, seed).pick(index) < count.max(1));
            }
        }
    }
}
