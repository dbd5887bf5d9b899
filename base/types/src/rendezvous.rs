//! Weighted rendezvous hashing: the one placement rule of edges over parents and of routers over edges.
//!
//! Each (key, candidate) pair gets a score from a 64-bit keyed hash; the highest score wins. Must stay true:
//! a candidate's score does not depend on the other candidates, so one that leaves moves only its own keys.
//! Weights follow the logarithmic method: score = -weight / ln(u), u uniform in (0, 1).

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Score of `candidate` (a stable hash of its identity) for `key`; a weight of zero or less never wins.
pub fn score(key: u64, candidate: u64, weight: f64) -> f64 {
    if weight <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let hash = xxh3_64_with_seed(&candidate.to_le_bytes(), key);
    // 53 random bits, moved off zero so that ln() is finite.
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -weight / unit.ln()
}

/// Stable hash of an identity (a server's id, a path) for use as `key` or `candidate`.
pub fn identity(text: &[u8]) -> u64 {
    xxh3_64_with_seed(text, 0x7469_6465_6761_7465)
}

/// Indexes of `candidates` (identity hash, weight), best first. Ties break by index, so that the order is total.
pub fn rank(key: u64, candidates: impl IntoIterator<Item = (u64, f64)>) -> Vec<usize> {
    let mut scored: Vec<(f64, usize)> = candidates
        .into_iter()
        .enumerate()
        .map(|(i, (id, weight))| (score(key, id, weight), i))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().filter(|(score, _)| *score > f64::NEG_INFINITY).map(|(_, i)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_candidate_moves_only_its_own_keys() {
        let all: Vec<u64> = (0..8u64).map(|i| identity(&i.to_le_bytes())).collect();
        let less = &all[..7];
        for key in 0..2000u64 {
            let before = rank(key, all.iter().map(|c| (*c, 1.0)))[0];
            let after = rank(key, less.iter().map(|c| (*c, 1.0)))[0];
            assert!(before == 7 || before == after, "key {key} moved from {before} to {after}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let ids = [identity(b"a"), identity(b"b")];
        let wins = (0..20_000u64)
            .filter(|key| {
                rank(identity(&key.to_le_bytes()), [(ids[0], 1.0), (ids[1], 3.0)])[0] == 1
            })
            .count();
        assert!((14_400..15_600).contains(&wins), "weight 3 of 4 won {wins} of 20000");
    }
}
