//! The reference cache: which of the origin's answers may be given to a request (RFC 9111, RFC 5861, purges). Pure,
//! slow, and written from the RFCs, not from `dataplane/cache`.
//!
//! It knows when a request began and when its head came, but not when in between the node looked: what was permitted
//! at any moment in between is permitted. An answer carries a serial number in a field, so that each response tells
//! which answer it came of; a 304 renews it.

use crate::content::Policy;
use std::time::Duration;

/// What the behaviour of all items says, and the reference with it.
pub const DEFAULT_TTL: Option<u64> = Some(8);
pub const NEGATIVE_TTL: u64 = 2;
pub const STALE_WHILE_REVALIDATE: u64 = 0;
pub const STALE_IF_ERROR: u64 = 20;

/// Milliseconds that clocks of a node are rounded by.
const ROUNDING: Duration = Duration::from_millis(5);

/// What the origin answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub item: usize,
    pub version: usize,
    pub status: u16,
    pub policy: Policy,
    /// The path is one whose behaviour stores nothing.
    pub passed: bool,
    /// The question had come whole.
    pub asked: Duration,
    /// Its head left.
    pub headed: Duration,
    /// It has a tag, by which it can be asked about while its body comes.
    pub tagged: bool,
    /// No byte of it, nor of another answer that went on with its body, came later.
    pub done: Duration,
    /// Responses to clients that came of it.
    pub delivered: u32,
}

/// A purge.
#[derive(Debug, Clone)]
pub struct Purge {
    pub hard: bool,
    /// Items that it reaches.
    pub items: Vec<usize>,
    /// The first order left.
    pub sent: Duration,
    /// All nodes have said that it is done.
    pub receipt: Option<Duration>,
}

/// What else the judgement rests on.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The request left, the response's head came.
    pub began: Duration,
    pub came: Duration,
    /// The next hop may have failed in between.
    pub trouble: bool,
    /// Age that is lost on the way: a second for each tier whose `Age` is rounded down.
    pub slack: Duration,
    /// It says that it joined a fill, whose last bytes may have been on their way for so long.
    pub joined: Option<Duration>,
    /// Purges before this moment may have been lost with the disk.
    pub purges_from: Duration,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// How long an answer is fresh, and what windows follow. `None`: it is for one client only.
fn lifetime(answer: &Answer) -> Option<(Duration, Duration, Duration)> {
    let policy = &answer.policy;
    let negative = matches!(answer.status, 404 | 410);
    let stored = matches!(answer.status, 200 | 206 | 304) || negative;
    if answer.passed || !stored || policy.no_store || policy.private {
        return None;
    }
    let explicit = policy.max_age.or(policy.no_cache.then_some(0));
    let fresh = if negative {
        explicit.map_or(NEGATIVE_TTL, |own| own.min(NEGATIVE_TTL))
    } else {
        explicit.or(DEFAULT_TTL)?
    };
    let window = |own: Option<u64>, configured: u64| {
        if negative || policy.must_revalidate || policy.no_cache {
            Duration::ZERO
        } else {
            seconds(own.unwrap_or(configured))
        }
    };
    Some((
        if policy.no_cache { Duration::ZERO } else { seconds(fresh) },
        window(policy.stale_while_revalidate, STALE_WHILE_REVALIDATE),
        window(policy.stale_if_error, STALE_IF_ERROR),
    ))
}

/// Whether an answer is of use to others than the one who asked.
pub fn is_shared(answer: &Answer, has_validator: bool) -> bool {
    lifetime(answer).is_some_and(|(fresh, while_revalidating, on_error)| {
        has_validator || !(fresh + while_revalidating + on_error).is_zero()
    })
}

/// Whether `answer` may be what a request got.
///
/// # Errors
/// Why not.
pub fn permits(answer: &Answer, purges: &[Purge], around: Circumstances) -> Result<(), String> {
    let Circumstances { began, came, trouble, slack, joined, purges_from } = around;
    if answer.asked > came {
        return Err("it came before it was asked for".to_owned());
    }
    let Some((fresh, while_revalidating, on_error)) = lifetime(answer) else {
        if answer.asked < began {
            return Err("it is for another client alone".to_owned());
        }
        return match answer.delivered {
            0 => Ok(()),
            _ => Err("it is for one client alone, and two got it".to_owned()),
        };
    };
    let of_before = |purge: &&Purge| {
        purge.items.contains(&answer.item)
            && purge.sent > answer.asked
            && purge.sent >= purges_from
            && purge.receipt.is_some_and(|receipt| receipt <= began)
    };
    if let Some(purge) = purges.iter().filter(of_before).find(|purge| purge.hard) {
        return Err(format!("it was purged at {:?}, with a receipt", purge.sent));
    }
    // It came for this request, or for one that this one joined. What cannot be asked about is shared until its end.
    let shared_until = if answer.tagged { answer.headed } else { answer.done };
    if shared_until + joined.unwrap_or_default() >= began {
        return Ok(());
    }
    let mut stale_from = answer.asked + fresh + slack + ROUNDING;
    for purge in purges.iter().filter(of_before) {
        stale_from = stale_from.min(purge.receipt.unwrap_or(stale_from) + slack + ROUNDING);
    }
    if began <= stale_from || began <= stale_from + while_revalidating {
        return Ok(());
    }
    if began <= stale_from + on_error {
        return match trouble {
            true => Ok(()),
            false => Err(format!("stale since {stale_from:?}, and nothing had failed")),
        };
    }
    Err(format!("stale since {stale_from:?}, beyond all windows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(policy: Policy) -> Answer {
        Answer {
            item: 1,
            version: 0,
            status: 200,
            policy,
            passed: false,
            asked: seconds(100),
            headed: seconds(100),
            tagged: false,
            done: seconds(101),
            delivered: 0,
        }
    }

    const POLICY: Policy = Policy {
        max_age: Some(10),
        stale_while_revalidate: None,
        stale_if_error: None,
        no_store: false,
        private: false,
        no_cache: false,
        must_revalidate: false,
    };

    fn at(began: u64) -> Circumstances {
        Circumstances {
            began: seconds(began),
            came: seconds(began + 1),
            trouble: false,
            slack: Duration::ZERO,
            joined: None,
            purges_from: Duration::ZERO,
        }
    }

    #[test]
    fn fresh_then_stale_within_windows_then_not_at_all() {
        let plain = answer(POLICY);
        assert!(permits(&plain, &[], at(110)).is_ok());
        assert!(permits(&plain, &[], at(111)).is_err());
        let trouble = |began| Circumstances { trouble: true, ..at(began) };
        assert!(permits(&plain, &[], trouble(111)).is_ok());
        assert!(permits(&plain, &[], trouble(131)).is_err());
        let swr = answer(Policy { stale_while_revalidate: Some(5), ..POLICY });
        assert!(permits(&swr, &[], at(115)).is_ok() && permits(&swr, &[], at(116)).is_err());
        let must = answer(Policy { must_revalidate: true, ..POLICY });
        assert!(permits(&must, &[], trouble(111)).is_err());
        assert!(permits(&answer(Policy { no_cache: true, ..POLICY }), &[], at(102)).is_err());
    }

    #[test]
    fn what_comes_is_shared_until_it_is_stale_or_until_its_end() {
        let long = Answer { done: seconds(200), ..answer(POLICY) };
        assert!(permits(&long, &[], at(150)).is_ok());
        let tagged = Answer { tagged: true, ..long };
        assert!(permits(&tagged, &[], at(150)).is_err());
        assert!(permits(&tagged, &[], at(109)).is_ok());
        let joined = Circumstances { joined: Some(seconds(60)), ..at(150) };
        assert!(permits(&tagged, &[], joined).is_ok());
    }

    #[test]
    fn what_is_private_goes_to_one() {
        let private = answer(Policy { private: true, ..POLICY });
        assert!(permits(&private, &[], at(100)).is_ok());
        assert!(permits(&private, &[], at(101)).is_err());
        assert!(permits(&Answer { delivered: 1, ..private }, &[], at(100)).is_err());
    }

    #[test]
    fn what_was_purged_is_gone_or_stale_from_the_receipt_on() {
        let purge = |hard, receipt| Purge {
            hard,
            items: vec![1],
            sent: seconds(102),
            receipt: Some(seconds(receipt)),
        };
        let plain = answer(POLICY);
        assert!(permits(&plain, &[purge(true, 104)], at(103)).is_ok());
        assert!(permits(&plain, &[purge(true, 104)], at(104)).is_err());
        assert!(permits(&plain, &[purge(false, 104)], at(105)).is_err());
        let swr = answer(Policy { stale_while_revalidate: Some(5), ..POLICY });
        assert!(permits(&swr, &[purge(false, 104)], at(105)).is_ok());
        let later = Answer { asked: seconds(103), ..plain.clone() };
        assert!(permits(&later, &[purge(true, 104)], at(105)).is_ok());
        let other = Answer { item: 2, ..plain };
        assert!(permits(&other, &[purge(true, 104)], at(105)).is_ok());
    }
}
