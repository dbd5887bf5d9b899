//! `Cache-Control` of requests and responses (RFC 9111 §5.2, RFC 5861, RFC 8246), and the fields that speak to
//! one kind of cache (RFC 9213).
//!
//! Must stay true: reading is tolerant, judging is strict: what is written twice counts in its most
//! restrictive reading, and a lifetime that is no number counts as zero (RFC 9111 §4.2.1), so that no mistake
//! of a sender makes a response live longer.

use crate::fields::Fields;
use crate::structured::{Value, dictionary};
use crate::text::{decimal_saturating, is_token, list_members, trim};

/// Larger numbers of seconds count as this one (RFC 9111 §1.2.2).
pub const DELTA_SECONDS_MAX: u64 = 1 << 31;

/// Fields that speak to caches like this one, the first that is usable counts (RFC 9213 §2.2).
pub const TARGETED_FIELDS: [&str; 1] = ["cdn-cache-control"];

/// A directive that may name fields: `no-cache`, `private`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// The directive is not there.
    #[default]
    Absent,
    /// Without argument: the whole response.
    All,
    /// Only these fields (lower case).
    Fields(Vec<String>),
}

impl Scope {
    /// The directive stands without argument.
    pub fn is_all(&self) -> bool {
        *self == Scope::All
    }

    /// The fields it names; none when it is absent or covers all.
    pub fn fields(&self) -> &[String] {
        match self {
            Scope::Fields(names) => names,
            Scope::Absent | Scope::All => &[],
        }
    }

    fn narrow(&mut self, argument: Option<&[u8]>) {
        let names: Vec<String> = argument
            .into_iter()
            .flat_map(|list| list.split(|b| *b == b','))
            .map(trim)
            .filter(|name| is_token(name))
            .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
            .collect();
        match self {
            Scope::All => {}
            // An argument without any name is a mistake: the whole response is meant.
            _ if names.is_empty() => *self = Scope::All,
            Scope::Absent => *self = Scope::Fields(names),
            Scope::Fields(known) => known.extend(names),
        }
    }
}

/// All directives of one message. Times in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheControl {
    pub no_store: bool,
    pub no_cache: Scope,
    pub private: Scope,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub no_transform: bool,
    pub immutable: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    /// `Some(u64::MAX)`: `max-stale` without a number, any staleness will do.
    pub max_stale: Option<u64>,
    pub min_fresh: Option<u64>,
}

impl CacheControl {
    /// Directives of all `Cache-Control` fields.
    pub fn from_fields(fields: &Fields) -> CacheControl {
        CacheControl::parse(fields.get_all("cache-control"))
    }

    /// What a response says to this cache, and whether a targeted field says it: then `Cache-Control` and `Expires` say
    /// nothing (RFC 9213 §2.2).
    pub fn of_response(fields: &Fields) -> (CacheControl, bool) {
        match TARGETED_FIELDS.iter().find_map(|name| CacheControl::targeted(fields, name)) {
            Some(directives) => (directives, true),
            None => (CacheControl::from_fields(fields), false),
        }
    }

    /// The directives of a targeted field, a structured dictionary. `None`: it is absent, empty, breaks the rules, or
    /// gives a directive a value of a type that it does not have.
    fn targeted(fields: &Fields, name: &str) -> Option<CacheControl> {
        let members = dictionary(fields, name).filter(|members| !members.is_empty())?;
        let mut directives = CacheControl::default();
        for (name, value) in members {
            // Meant for caches that know no targeted fields.
            if name == "s-maxage" {
                continue;
            }
            let argument = match value {
                Value::Boolean(false) => continue,
                Value::Boolean(true) => None,
                Value::Integer(seconds) => Some(seconds.to_string().into_bytes()),
                Value::String(names) => Some(names.into_bytes()),
                Value::Other if is_known(&name) => return None,
                Value::Other => continue,
            };
            let numeric = matches!(&argument, Some(text) if text.iter().all(u8::is_ascii_digit));
            let fits = match name.as_str() {
                "max-age" | "stale-while-revalidate" | "stale-if-error" => numeric,
                "no-cache" | "private" => !numeric,
                _ => argument.is_none() || !is_known(&name),
            };
            if !fits {
                return None;
            }
            directives.add(name.as_bytes(), argument.as_deref());
        }
        Some(directives)
    }

    /// Directives of these field values together.
    pub fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> CacheControl {
        let mut directives = CacheControl::default();
        for member in values.flat_map(list_members) {
            let (name, argument) = match member.iter().position(|b| *b == b'=') {
                Some(at) => (trim(&member[..at]), Some(&member[at + 1..])),
                None => (member, None),
            };
            directives.add(&name.to_ascii_lowercase(), argument.map(unquote).as_deref());
        }
        directives
    }

    fn add(&mut self, name: &[u8], argument: Option<&[u8]>) {
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.narrow(argument),
            b"private" => self.private.narrow(argument),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"no-transform" => self.no_transform = true,
            b"immutable" => self.immutable = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => smaller(&mut self.max_age, seconds(argument).unwrap_or(0)),
            b"s-maxage" => smaller(&mut self.s_maxage, seconds(argument).unwrap_or(0)),
            b"stale-while-revalidate" => {
                smaller(&mut self.stale_while_revalidate, seconds(argument).unwrap_or(0));
            }
            b"stale-if-error" => smaller(&mut self.stale_if_error, seconds(argument).unwrap_or(0)),
            b"max-stale" => {
                let accepted =
                    if argument.is_none() { u64::MAX } else { seconds(argument).unwrap_or(0) };
                smaller(&mut self.max_stale, accepted);
            }
            b"min-fresh" => {
                let wanted = seconds(argument).unwrap_or(DELTA_SECONDS_MAX);
                self.min_fresh = Some(self.min_fresh.map_or(wanted, |known| known.max(wanted)));
            }
            // RFC 9111 §5.2.3: unknown directives are ignored.
            _ => {}
        }
    }
}

/// Directives of responses that this cache acts on.
fn is_known(name: &str) -> bool {
    matches!(
        name,
        "max-age"
            | "stale-while-revalidate"
            | "stale-if-error"
            | "no-store"
            | "no-cache"
            | "private"
            | "public"
            | "must-revalidate"
            | "proxy-revalidate"
            | "must-understand"
            | "no-transform"
            | "immutable"
    )
}

fn smaller(slot: &mut Option<u64>, value: u64) {
    *slot = Some(slot.map_or(value, |known| known.min(value)));
}

fn seconds(argument: Option<&[u8]>) -> Option<u64> {
    decimal_saturating(argument?).map(|n| n.min(DELTA_SECONDS_MAX))
}

fn unquote(argument: &[u8]) -> Vec<u8> {
    let [b'"', inner @ .., b'"'] = argument else { return argument.to_vec() };
    let mut out = Vec::with_capacity(inner.len());
    let mut escaped = false;
    for byte in inner {
        if !escaped && *byte == b'\\' {
            escaped = true;
        } else {
            escaped = false;
            out.push(*byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> CacheControl {
        CacheControl::parse(std::iter::once(text.as_bytes()))
    }

    #[test]
    fn all_directives_are_known() {
        let all = parse(
            "No-Store, no-cache, private, public, must-revalidate, proxy-revalidate, must-understand, \
             no-transform, immutable, only-if-cached, max-age=1, s-maxage=2, stale-while-revalidate=3, \
             stale-if-error=4, max-stale=5, min-fresh=6, something=else, x",
        );
        let expected = CacheControl {
            no_store: true,
            no_cache: Scope::All,
            private: Scope::All,
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            no_transform: true,
            immutable: true,
            only_if_cached: true,
            max_age: Some(1),
            s_maxage: Some(2),
            stale_while_revalidate: Some(3),
            stale_if_error: Some(4),
            max_stale: Some(5),
            min_fresh: Some(6),
        };
        assert_eq!(all, expected);
        assert_eq!(parse(""), CacheControl::default());
    }

    #[test]
    fn numbers_are_read_in_their_most_restrictive_sense() {
        for (text, max_age) in [
            ("max-age=100", Some(100)),
            ("MAX-AGE=\"100\"", Some(100)),
            ("max-age=100, max-age=5", Some(5)),
            ("max-age=5, max-age=100", Some(5)),
            ("max-age=99999999999999999999", Some(DELTA_SECONDS_MAX)),
            ("max-age=4294967296", Some(DELTA_SECONDS_MAX)),
            ("max-age=-1", Some(0)),
            ("max-age=1.5", Some(0)),
            ("max-age='100'", Some(0)),
            ("max-age=100x", Some(0)),
            ("max-age= 100", Some(0)),
            ("max-age", Some(0)),
            ("max-age=", Some(0)),
            ("max-age=0100", Some(100)),
            ("a=\"b,max-age=5\"", None),
            ("xmax-age=5", None),
        ] {
            assert_eq!(parse(text).max_age, max_age, "{text}");
        }
        assert_eq!(parse("max-stale").max_stale, Some(u64::MAX));
        assert_eq!(parse("max-stale, max-stale=3").max_stale, Some(3));
        assert_eq!(parse("min-fresh=3, min-fresh=9").min_fresh, Some(9));
    }

    #[test]
    fn rfc_9213_targeted_fields_take_the_place_of_cache_control() {
        let read = |lines: &[(&'static str, &str)]| {
            let mut fields = Fields::new();
            for (name, value) in lines {
                fields.append(*name, (*value).to_owned()).unwrap();
            }
            let (directives, targeted) = CacheControl::of_response(&fields);
            (directives.max_age, directives.no_store, targeted)
        };
        let with =
            |value| read(&[("cache-control", "no-store, max-age=5"), ("cdn-cache-control", value)]);
        for (value, expected) in [
            ("max-age=60", (Some(60), false, true)),
            ("max-age=60;x=1, unknown=(1 2)", (Some(60), false, true)),
            ("no-store", (None, true, true)),
            ("no-store=?0, max-age=1", (Some(1), false, true)),
            ("max-age=1, max-age=9", (Some(9), false, true)),
            ("public", (None, false, true)),
            ("s-maxage=7", (None, false, true)),
            // Empty, broken, or of a wrong type: Cache-Control counts.
            ("", (Some(5), true, false)),
            ("max-age = 60", (Some(5), true, false)),
            ("max-age=60,", (Some(5), true, false)),
            ("Max-Age=60", (Some(5), true, false)),
            ("max-age=\"60x\"", (Some(5), true, false)),
            ("max-age=1.5", (Some(5), true, false)),
            ("max-age=-1", (Some(5), true, false)),
            ("max-age", (Some(5), true, false)),
            ("no-store=1", (Some(5), true, false)),
            ("no-cache=5", (Some(5), true, false)),
        ] {
            assert_eq!(with(value), expected, "{value}");
        }
        assert_eq!(read(&[("surrogate-control", "max-age=9")]), (None, false, false));
        let mut fields = Fields::new();
        fields.append("cdn-cache-control", "no-cache=\"x-a\"".to_owned()).unwrap();
        fields.append("cdn-cache-control", "max-age=3".to_owned()).unwrap();
        let (both, _) = CacheControl::of_response(&fields);
        assert_eq!((both.max_age, both.no_cache.fields()), (Some(3), &["x-a".to_owned()][..]));
    }

    #[test]
    fn named_fields_are_lower_case_and_the_bare_form_wins() {
        assert_eq!(
            parse("no-cache=\"Set-Cookie, X-A\"").no_cache.fields(),
            ["set-cookie".to_owned(), "x-a".to_owned()]
        );
        assert!(parse("private=\"x\", private").private.is_all());
        assert!(parse("private, private=\"x\"").private.is_all());
        assert!(parse("private=\"\"").private.is_all());
        assert_eq!(parse("no-cache=x").no_cache, Scope::Fields(vec!["x".into()]));
    }

    #[test]
    fn several_field_lines_are_one() {
        let both = CacheControl::parse([&b"no-store"[..], b"max-age=1"].into_iter());
        assert!(both.no_store && both.max_age == Some(1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = CacheControl::parse(std::iter::once(&bytes[..]));
        }
    }
}
