//! What a case is made of, and the few words that cases are written in.

use std::ops::RangeInclusive;

/// Whose rules a case runs under: the first segment of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// The standard alone: no configured lifetime, no configured stale use.
    Bare,
    /// As operators run it: an hour where the origin says nothing, an hour of stale use on errors.
    Usual,
    /// Nothing is cached.
    Pass,
    /// As `Bare`, and every name in `Vary` is heeded.
    Letter,
}

impl Under {
    pub fn segment(self) -> &'static str {
        match self {
            Under::Bare => "bare",
            Under::Usual => "usual",
            Under::Pass => "pass",
            Under::Letter => "letter",
        }
    }
}

/// One row of the table.
pub struct Case {
    /// Document and section, `9111 3.5`; for drafts the name and the section.
    pub place: &'static str,
    /// What must hold.
    pub rule: String,
    /// Why this cache does not what the section asks or suggests; the case asserts what it does.
    pub on_purpose: Option<&'static str>,
    pub under: Under,
    /// The origin's answers in order; the last one is for all further requests.
    pub answers: Vec<Answer>,
    pub steps: Vec<Step>,
    /// What the origin must have been asked, request by request: see [`Case::sees`].
    pub seen: Vec<String>,
    /// How often the origin is asked is not the case's matter: only the first requests are looked at.
    pub any_more: bool,
}

/// A row: section and rule.
pub fn case(place: &'static str, rule: impl Into<String>) -> Case {
    Case {
        place,
        rule: rule.into(),
        on_purpose: None,
        under: Under::Bare,
        answers: Vec::new(),
        steps: Vec::new(),
        seen: Vec::new(),
        any_more: false,
    }
}

impl Case {
    pub fn under(mut self, under: Under) -> Case {
        self.under = under;
        self
    }

    pub fn on_purpose(mut self, why: &'static str) -> Case {
        self.on_purpose = Some(why);
        self
    }

    /// The next answer of the origin.
    pub fn origin(mut self, answer: Answer) -> Case {
        self.answers.push(answer);
        self
    }

    /// The next request of a client, and what must come of it.
    pub fn then(mut self, step: Step) -> Case {
        self.steps.push(step);
        self
    }

    /// The next request that the origin must have seen: lines `Name: value` that it had, `!Name` for a field that it
    /// did not have, or a method alone.
    pub fn sees(mut self, lines: &str) -> Case {
        self.seen.push(lines.to_owned());
        self
    }

    /// The origin must have seen this many requests more, whatever they were.
    pub fn sees_requests(mut self, count: usize) -> Case {
        self.seen.extend(std::iter::repeat_n(String::new(), count));
        self
    }

    /// And whatever more (an origin that does not answer is asked again).
    pub fn sees_any_more(mut self) -> Case {
        self.any_more = true;
        self
    }

    /// All requests have these field lines.
    pub fn each_with(mut self, fields: &str) -> Case {
        for step in &mut self.steps {
            step.fields = fields.to_owned();
        }
        self
    }
}

/// One answer of the origin. In field lines `{now}`, `{now-90}` and `{now+90}` stand for dates, `{path}` for the
/// case's path.
#[derive(Clone)]
pub enum Answer {
    /// The body says which answer it is: `answer 1` is the first.
    Text { status: u16, fields: String },
    /// A body of this length, whole or in the range that was asked for.
    Bytes { fields: String, total: usize },
    /// As `Bytes`, but whole whatever was asked for.
    NoRanges { fields: String, total: usize },
    /// These bytes, and the connection ends.
    Raw(String),
}

pub fn ok(fields: &str) -> Answer {
    status(200, fields)
}

pub fn status(status: u16, fields: &str) -> Answer {
    Answer::Text { status, fields: fields.to_owned() }
}

pub fn not_modified(fields: &str) -> Answer {
    status(304, fields)
}

pub fn bytes(fields: &str) -> Answer {
    Answer::Bytes { fields: fields.to_owned(), total: TOTAL }
}

pub fn raw(text: &str) -> Answer {
    Answer::Raw(text.replace('\n', "\r\n"))
}

/// Bytes of a large object: two blocks and a bit.
pub const TOTAL: usize = 1_200_000;

/// One request of a client.
pub struct Step {
    pub method: &'static str,
    /// Behind the case's own path.
    pub more_path: &'static str,
    /// Field lines, each on a line of its own.
    pub fields: String,
    pub body: &'static str,
    pub expected: Vec<Expected>,
    /// The target is a whole URL.
    pub absolute: bool,
    /// Asked again until the expectations hold, for what goes on behind an answer.
    pub eventually: bool,
}

pub enum Expected {
    Status(u16),
    /// The body of the origin's answer of this number.
    From(usize),
    Body(&'static str),
    /// Bytes of the large object.
    Span(RangeInclusive<usize>),
    /// A multipart body of these ranges, in this order.
    Parts(Vec<RangeInclusive<usize>>),
    /// All lines of this name.
    Field(&'static str, Vec<String>),
    Has(&'static str),
    Without(&'static str),
    /// Both bounds belong to it.
    Age(u64, u64),
    /// What this edge says of the lifetime that is left; both bounds belong to it.
    Ttl(i64, i64),
    /// The member of this node in `Cache-Status` has these words.
    Says(&'static str, &'static str),
    SaysNot(&'static str, &'static str),
    /// Members of `Cache-Status` in their order.
    Members(&'static [&'static str]),
    /// The connection ends before the body does.
    Broken,
}

pub fn get() -> Step {
    ask("GET")
}

pub fn get_with(fields: &str) -> Step {
    ask("GET").with(fields)
}

pub fn ask(method: &'static str) -> Step {
    Step {
        method,
        more_path: "",
        fields: String::new(),
        body: "",
        expected: Vec::new(),
        absolute: false,
        eventually: false,
    }
}

impl Step {
    pub fn with(mut self, fields: &str) -> Step {
        self.fields = fields.to_owned();
        self
    }

    pub fn at(mut self, more_path: &'static str) -> Step {
        self.more_path = more_path;
        self
    }

    pub fn body(mut self, body: &'static str) -> Step {
        self.body = body;
        self
    }

    pub fn absolute(mut self) -> Step {
        self.absolute = true;
        self
    }

    pub fn eventually(mut self) -> Step {
        self.eventually = true;
        self
    }

    fn expect(mut self, expected: Expected) -> Step {
        self.expected.push(expected);
        self
    }

    pub fn is(self, status: u16) -> Step {
        self.expect(Expected::Status(status))
    }

    pub fn from(self, number: usize) -> Step {
        self.expect(Expected::From(number))
    }

    pub fn text(self, body: &'static str) -> Step {
        self.expect(Expected::Body(body))
    }

    pub fn span(self, span: RangeInclusive<usize>) -> Step {
        self.expect(Expected::Span(span))
    }

    pub fn whole(self) -> Step {
        self.is(200).span(0..=TOTAL - 1)
    }

    pub fn part(self, span: RangeInclusive<usize>) -> Step {
        let described = format!("bytes {}-{}/{TOTAL}", span.start(), span.end());
        self.is(206).field("Content-Range", &described).span(span)
    }

    pub fn parts(self, spans: &[RangeInclusive<usize>]) -> Step {
        self.is(206).expect(Expected::Parts(spans.to_vec()))
    }

    pub fn field(self, name: &'static str, value: &str) -> Step {
        self.fields(name, &[value])
    }

    pub fn fields(self, name: &'static str, values: &[&str]) -> Step {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.expect(Expected::Field(name, values))
    }

    pub fn has(self, name: &'static str) -> Step {
        self.expect(Expected::Has(name))
    }

    pub fn ttl(self, least: i64, most: i64) -> Step {
        self.expect(Expected::Ttl(least, most))
    }

    pub fn without(self, name: &'static str) -> Step {
        self.expect(Expected::Without(name))
    }

    pub fn age(self, least: u64, most: u64) -> Step {
        self.expect(Expected::Age(least, most))
    }

    pub fn says(self, words: &'static str) -> Step {
        self.expect(Expected::Says("edge-1", words))
    }

    pub fn parent_says(self, words: &'static str) -> Step {
        self.expect(Expected::Says("parent-1", words))
    }

    pub fn parent_says_not(self, words: &'static str) -> Step {
        self.expect(Expected::SaysNot("parent-1", words))
    }

    pub fn says_not(self, words: &'static str) -> Step {
        self.expect(Expected::SaysNot("edge-1", words))
    }

    pub fn members(self, names: &'static [&'static str]) -> Step {
        self.expect(Expected::Members(names))
    }

    /// From this edge's cache.
    pub fn hit(self) -> Step {
        self.says("; hit")
    }

    pub fn miss(self) -> Step {
        self.says_not("; hit")
    }

    pub fn broken(self) -> Step {
        self.expect(Expected::Broken)
    }
}

/// Two requests for an answer that may be stored: one of them reaches the origin.
pub fn stored(place: &'static str, rule: impl Into<String>, answer: Answer) -> Case {
    case(place, rule)
        .origin(answer)
        .then(get().from(1).miss())
        .then(get().from(1).hit())
        .sees_requests(1)
}

/// Two requests for an answer that may not be stored: both reach the origin.
pub fn not_stored(place: &'static str, rule: impl Into<String>, answer: Answer) -> Case {
    case(place, rule)
        .origin(answer)
        .then(get().from(1).miss())
        .then(get().from(2).miss())
        .sees_requests(2)
}

/// A stored answer that is stale at once: it has an entity tag, and the second request asks with it.
pub fn stale(place: &'static str, rule: impl Into<String>, fields: &str) -> Case {
    case(place, rule)
        .origin(ok(&format!("ETag: \"a\"\n{fields}")))
        .origin(not_modified("ETag: \"a\""))
        .then(get().from(1).miss())
        .then(get().is(200).from(1).says("fwd=stale"))
        .sees("!If-None-Match")
        .sees("If-None-Match: \"a\"")
}
