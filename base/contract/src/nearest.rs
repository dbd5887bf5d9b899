//! "Did you mean": the known word nearest to a misspelt one.

/// The candidate with the fewest edits, when few enough to be a slip of the hand.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let limit = (word.len() / 3).max(1);
    let measured = candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .map(|c| (edits(word.as_bytes(), c.as_bytes()), c));
    measured.filter(|(edits, _)| *edits <= limit).min().map(|(_, candidate)| candidate)
}

/// Edit distance where two swapped neighbours count once.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

const WORD_BYTES_MAX: usize = 64;
const CANDIDATES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_strangers_none() {
        assert_eq!(nearest("behavoiur", ["behaviour", "hosts"]), Some("behaviour"));
        assert_eq!(nearest("htp_port", ["http_port", "https_port"]), Some("http_port"));
        assert_eq!(nearest("colour", ["hosts", "id"]), None);
    }
}
