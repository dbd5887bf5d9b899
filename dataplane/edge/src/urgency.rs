//! What a client says of an answer's priority (RFC 9218), whatever version of HTTP carries it; and what its player tells, when the
//! client says nothing.

use tidegate_engine::pace::Need;

/// What a client says of an answer's priority (RFC 9218 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgency {
    /// 0 to 7; lower is sooner.
    pub level: u8,
    /// Worth sending by turns with others.
    pub incremental: bool,
}

impl Urgency {
    /// As soon as a player needs it that leaves it to us. Who says something of priorities knows better.
    pub fn raised(self, need: Need) -> Urgency {
        let level = match need {
            Need::Ordinary => self.level,
            Need::Soon => self.level.min(2),
            Need::Now => self.level.min(1),
        };
        Urgency { level, ..self }
    }

    /// Of a `Priority` field; what is not understood is as if it were not there.
    pub fn parse(value: &[u8]) -> Urgency {
        let mut urgency = Urgency { level: 3, incremental: false };
        for member in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match member {
                [b'u', b'=', digit @ b'0'..=b'7'] => urgency.level = digit - b'0',
                b"i" | b"i=?1" => urgency.incremental = true,
                b"i=?0" => urgency.incremental = false,
                _ => {}
            }
        }
        urgency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_it_comes_sooner_and_nobody_later() {
        let level = |text: &str, need| Urgency::parse(text.as_bytes()).raised(need).level;
        let levels = [Need::Ordinary, Need::Soon, Need::Now].map(|need| level("", need));
        assert_eq!(levels, [3, 2, 1]);
        assert_eq!(level("u=0", Need::Soon), 0);
    }

    #[test]
    fn priorities_are_read_as_far_as_they_are_understood() {
        let parsed = |text: &str| {
            let urgency = Urgency::parse(text.as_bytes());
            (urgency.level, urgency.incremental)
        };
        for (text, expected) in [
            ("", (3, false)),
            ("u=0", (0, false)),
            ("u=5, i", (5, true)),
            ("i=?1,u=7", (7, true)),
            ("i, i=?0", (3, false)),
            ("u=8, i=1, x=3", (3, false)),
            ("u=1;q, u=22", (3, false)),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }
}
