//! Conditional requests (RFC 9110 §13): may the stored or selected representation be sent?
//!
//! Must stay true: the order of RFC 9110 §13.2.2; `If-Range` compares strongly, so that bytes of two versions
//! are never put together.

use crate::date;
use crate::etag::{self, EntityTag, EntityTags};
use crate::fields::Fields;
use crate::method::Method;

/// What identifies the version of a representation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validators {
    pub etag: Option<EntityTag>,
    /// Unix seconds.
    pub last_modified: Option<u64>,
}

impl Validators {
    /// Validators of a response; `now` in unix seconds (it settles two-digit years only).
    pub fn from_fields(fields: &Fields, now: u64) -> Validators {
        Validators {
            etag: fields.get("etag").and_then(EntityTag::parse),
            last_modified: fields.get("last-modified").and_then(|value| date::parse(value, now)),
        }
    }
}

/// What the preconditions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Go on with the request.
    Proceed,
    /// 304
    NotModified,
    /// 412
    PreconditionFailed,
}

/// The whole order of RFC 9110 §13.2.2 except `If-Range`, for the one who owns the representation (origin).
pub fn evaluate(
    method: &Method,
    fields: &Fields,
    validators: &Validators,
    now: u64,
) -> Precondition {
    if fields.contains("if-match") {
        let held = match etag::parse_list(fields.get_all("if-match")) {
            EntityTags::Any => true,
            EntityTags::List(list) => validators
                .etag
                .as_ref()
                .is_some_and(|own| list.iter().any(|tag| tag.strong_eq(own))),
        };
        if !held {
            return Precondition::PreconditionFailed;
        }
    } else if let Some(since) = single_date(fields, "if-unmodified-since", now)
        && validators.last_modified.is_some_and(|modified| modified > since)
    {
        return Precondition::PreconditionFailed;
    }
    evaluate_in_cache(method, fields, validators, None, now)
}

/// Only the conditions that a cache may answer (RFC 9111 §4.3.2): `If-None-Match`, `If-Modified-Since`. `date`, that of a
/// stored response, stands for a modification date that it does not have.
pub fn evaluate_in_cache(
    method: &Method,
    fields: &Fields,
    validators: &Validators,
    date: Option<u64>,
    now: u64,
) -> Precondition {
    let reading = matches!(method, Method::Get | Method::Head);
    if fields.contains("if-none-match") {
        let matched = match etag::parse_list(fields.get_all("if-none-match")) {
            EntityTags::Any => true,
            EntityTags::List(list) => {
                validators.etag.as_ref().is_some_and(|own| list.iter().any(|tag| tag.weak_eq(own)))
            }
        };
        return match (matched, reading) {
            (false, _) => Precondition::Proceed,
            (true, true) => Precondition::NotModified,
            (true, false) => Precondition::PreconditionFailed,
        };
    }
    if reading
        && let Some(since) = single_date(fields, "if-modified-since", now)
        && validators.last_modified.or(date).is_some_and(|modified| modified <= since)
    {
        return Precondition::NotModified;
    }
    Precondition::Proceed
}

/// Whether `Range` may be obeyed: there is no `If-Range`, or it names this version strongly (RFC 9110
/// §13.1.5).
///
/// A date counts as strong only when the representation was at least 60 s old at `date` (RFC 9110 §8.8.2.2):
/// it could have changed twice within one second otherwise. `date` is the response's `Date` in unix seconds.
pub fn if_range_allows(
    fields: &Fields,
    validators: &Validators,
    date: Option<u64>,
    now: u64,
) -> bool {
    let mut values = fields.get_all("if-range");
    let Some(value) = values.next() else { return true };
    if values.next().is_some() {
        return false;
    }
    if let Some(tag) = EntityTag::parse(value) {
        return validators.etag.as_ref().is_some_and(|own| own.strong_eq(&tag));
    }
    let (Some(asked), Some(modified)) = (date::parse(value, now), validators.last_modified) else {
        return false;
    };
    asked == modified
        && date.is_some_and(|date| date >= modified.saturating_add(STRONG_AFTER_SECONDS))
}

/// RFC 9110 §8.8.2.2.
const STRONG_AFTER_SECONDS: u64 = 60;

fn single_date(fields: &Fields, name: &'static str, now: u64) -> Option<u64> {
    let mut values = fields.get_all(name);
    let value = values.next()?;
    // RFC 9110 §13.1.3: a recipient ignores the field if it is no valid HTTP date or has several members.
    if values.next().is_some() { None } else { date::parse(value, now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;
    const OLD: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn validators(etag: &str) -> Validators {
        Validators { etag: EntityTag::parse(etag.as_bytes()), last_modified: Some(784_111_777) }
    }

    fn fields(list: &[(&'static str, &'static str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.append(*name, *value).unwrap();
        }
        fields
    }

    #[test]
    fn rfc_9110_13_2_2_precedence() {
        use Precondition::{NotModified, PreconditionFailed, Proceed};
        type Row = (Method, &'static [(&'static str, &'static str)], Precondition);
        let rows: &[Row] = &[
            (Method::Get, &[], Proceed),
            (Method::Get, &[("if-none-match", "\"a\"")], NotModified),
            (Method::Head, &[("if-none-match", "W/\"a\"")], NotModified),
            (Method::Get, &[("if-none-match", "\"b\", \"a\"")], NotModified),
            (Method::Get, &[("if-none-match", "\"b\"")], Proceed),
            (Method::Get, &[("if-none-match", "*")], NotModified),
            (Method::Put, &[("if-none-match", "*")], PreconditionFailed),
            (Method::Get, &[("if-none-match", "\"b\""), ("if-modified-since", LATER)], Proceed),
            (Method::Get, &[("if-modified-since", OLD)], Proceed),
            (Method::Get, &[("if-modified-since", SAME)], NotModified),
            (Method::Get, &[("if-modified-since", LATER)], NotModified),
            (Method::Post, &[("if-modified-since", LATER)], Proceed),
            (Method::Get, &[("if-modified-since", "yesterday")], Proceed),
            (Method::Get, &[("if-modified-since", LATER), ("if-modified-since", LATER)], Proceed),
            (Method::Get, &[("if-match", "\"a\"")], Proceed),
            (Method::Get, &[("if-match", "W/\"a\"")], PreconditionFailed),
            (Method::Get, &[("if-match", "\"b\"")], PreconditionFailed),
            (Method::Get, &[("if-match", "*")], Proceed),
            (Method::Get, &[("if-match", "\"a\""), ("if-unmodified-since", OLD)], Proceed),
            (Method::Get, &[("if-unmodified-since", OLD)], PreconditionFailed),
            (Method::Get, &[("if-unmodified-since", SAME)], Proceed),
            (
                Method::Get,
                &[("if-unmodified-since", SAME), ("if-none-match", "\"a\"")],
                NotModified,
            ),
            (Method::Get, &[("if-match", "\"b\""), ("if-none-match", "\"a\"")], PreconditionFailed),
        ];
        for (method, list, expected) in rows {
            assert_eq!(
                evaluate(method, &fields(list), &validators("\"a\""), NOW),
                *expected,
                "{method} {list:?}"
            );
        }
    }

    #[test]
    fn a_cache_does_not_answer_412_for_the_origin() {
        let asked = fields(&[("if-match", "\"b\"")]);
        assert_eq!(
            evaluate_in_cache(&Method::Get, &asked, &validators("\"a\""), None, NOW),
            Precondition::Proceed
        );
    }

    #[test]
    fn if_range_is_strong_only() {
        let date = Some(784_111_777 + 60);
        for (value, etag, date, allowed) in [
            ("\"a\"", "\"a\"", date, true),
            ("\"b\"", "\"a\"", date, false),
            ("W/\"a\"", "W/\"a\"", date, false),
            ("\"a\"", "W/\"a\"", date, false),
            (SAME, "\"a\"", date, true),
            (SAME, "\"a\"", Some(784_111_777 + 59), false),
            (SAME, "\"a\"", None, false),
            (LATER, "\"a\"", date, false),
            ("nonsense", "\"a\"", date, false),
        ] {
            let asked = fields(&[("if-range", value)]);
            assert_eq!(
                if_range_allows(&asked, &validators(etag), date, NOW),
                allowed,
                "{value} {etag}"
            );
        }
        assert!(if_range_allows(&Fields::new(), &validators("\"a\""), date, NOW));
        assert!(!if_range_allows(
            &fields(&[("if-range", "\"a\"")]),
            &Validators::default(),
            date,
            NOW
        ));
    }
}
