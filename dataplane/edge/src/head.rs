//! Heads of requests and answers, as HTTP/2 and HTTP/3 share them.
//!
//! Must stay true: a request is judged by the rules for the text of an HTTP/1.1 head, so that nothing passes by one version that
//! would be refused by another (the tests here hold both against each other).

use bytes::Bytes;
use tidegate_engine::HeadFields;
use tidegate_http::{Fields, RequestHead};
use tidegate_http1::{Limits, judge_parts};

/// A status and why.
pub type Refused = (u16, &'static str);

/// What belongs to one hop or to the framing, and Host, which stands for itself.
const LEFT_OUT: [&[u8]; 6] =
    [b"host", b"content-length", b"expect", b"te", b"transfer-encoding", b"connection"];

/// The head of a request that came in parts, if it is a good one. `lines` shows the fields, names in lower case, each time
/// it is called; `values` is memory that may serve the next one.
pub fn judge<'a, L: Iterator<Item = (&'a [u8], &'a [u8])>>(
    method: &[u8],
    target: &[u8],
    authority: &[u8],
    lines: impl Fn() -> L,
    values: &mut Vec<u8>,
) -> Result<RequestHead, Refused> {
    let is_crumb = |line: &(&[u8], &[u8])| line.0 == b"cookie";
    let kept = || lines().filter(|line| !is_crumb(line) && !LEFT_OUT.contains(&line.0));
    // All values share one piece of memory.
    values.clear();
    values.extend_from_slice(authority);
    let mut count = 1;
    for (_, value) in kept() {
        values.extend_from_slice(value);
        count += 1;
    }
    // Crumbs of cookies become one field (RFC 9113 §8.2.3).
    let (crumbs_at, mut has_crumbs) = (values.len(), false);
    for (_, crumb) in lines().filter(is_crumb) {
        if std::mem::replace(&mut has_crumbs, true) {
            values.extend_from_slice(b"; ");
        }
        values.extend_from_slice(crumb);
    }
    let shared = Bytes::copy_from_slice(values);
    let mut fields = Fields::with_capacity(count + usize::from(has_crumbs));
    let mut put = |name: &[u8], from: usize, to: usize| {
        let added = fields.append_parsed(name, shared.slice(from..to));
        added.map_err(|_| (400, "a field has a name or a value that no field may have"))
    };
    put(b"host", 0, authority.len())?;
    let mut at = authority.len();
    for (name, value) in kept() {
        put(name, at, at + value.len())?;
        at += value.len();
    }
    if has_crumbs {
        put(b"cookie", crumbs_at, shared.len())?;
    }
    judge_parts(method, target, fields, &Limits::REQUEST)
        .map_err(|error| (error.status, error.what))
}

/// Shows each of some lines of HTTP/1.1.
pub fn each_line(lines: &[u8], mut put: impl FnMut(&[u8], &[u8])) {
    for line in lines.split(|byte| *byte == b'\n').filter(|line| line.len() > 1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            put(&line[..colon], line[colon + 1..].trim_ascii());
        }
    }
}

/// Shows each field of an answer.
pub fn each_field(fields: HeadFields<'_>, mut put: impl FnMut(&[u8], &[u8])) {
    match fields {
        HeadFields::Made(fields) => {
            fields.iter().for_each(|(name, value)| put(name.as_bytes(), value));
        }
        HeadFields::Lines(lines, more) => {
            each_line(&lines.bytes, &mut put);
            more.iter().for_each(|(name, value)| put(name.as_bytes(), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidegate_http1::parse_request;

    type Line = (Vec<u8>, Vec<u8>);

    /// As [`judge`], by the text of an HTTP/1.1 head.
    fn judge_text(
        method: &[u8],
        target: &[u8],
        authority: &[u8],
        lines: &[Line],
    ) -> Result<RequestHead, u16> {
        let mut text = [method, b" ", target, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"].concat();
        let crumbs = lines.iter().filter(|(name, _)| name == b"cookie");
        let crumbs: Vec<_> = crumbs.map(|(_, value)| &value[..]).collect();
        let kept = |name: &[u8]| name != b"cookie" && !LEFT_OUT.contains(&name);
        for (name, value) in lines.iter().filter(|(name, _)| kept(name)) {
            text.extend([&name[..], b": ", value, b"\r\n"].concat());
        }
        if !crumbs.is_empty() {
            text.extend([b"cookie: ", &crumbs.join(&b"; "[..])[..], b"\r\n"].concat());
        }
        text.extend(b"\r\n");
        match parse_request(&text, &Limits::REQUEST) {
            Ok(Some(parsed)) if parsed.head_bytes == text.len() => Ok(parsed.head),
            Ok(_) => Err(400),
            Err(error) => Err(error.status),
        }
    }

    fn judge_lines(
        method: &[u8],
        target: &[u8],
        authority: &[u8],
        lines: &[Line],
    ) -> Result<RequestHead, u16> {
        let shown = || lines.iter().map(|(name, value)| (&name[..], &value[..]));
        judge(method, target, authority, shown, &mut Vec::new()).map_err(|(status, _)| status)
    }

    const KNOWN: &[&str] =
        &["accept", "cookie", "host", "te", "range", "user-agent", "content-length"];

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => proptest::sample::select(KNOWN).prop_map(|name| name.into()),
            2 => "[a-z][a-z0-9_-]{0,12}".prop_map(String::into_bytes),
            1 => "[ -~]{0,6}".prop_map(String::into_bytes),
        ]
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[ -~]{0,24}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..12),
        ]
    }

    proptest! {
        #[test]
        fn parts_are_judged_as_their_text_is(
            method in prop_oneof![
                6 => "(GET|HEAD|POST|OPTIONS|CONNECT|TRACE|PURGE)",
                1 => "[ -~]{0,34}",
            ],
            target in prop_oneof![
                6 => "/[a-z0-9./?%-]{0,20}",
                1 => Just("*".to_owned()),
                1 => "[ -~]{0,12}",
                1 => "https?://[a-z.:]{0,9}/[a-z?]{0,4}",
            ],
            authority in prop_oneof![
                6 => "[a-z0-9-]{1,8}(\\.[a-z]{1,5}){0,2}(:[0-9]{0,6})?",
                1 => "[ -~]{0,12}",
            ],
            lines in proptest::collection::vec((name(), value()), 0..8),
        ) {
            let [method, target, authority] = [&method, &target, &authority].map(|s| s.as_bytes());
            // What HTTP/2 and HTTP/3 refuse before they come here (RFC 9113 section 8.2.1) ends a line of text.
            let is_line = |(name, value): &Line| {
                name.iter().all(|b| tidegate_http::is_token_byte(*b) && !b.is_ascii_uppercase())
                    && value.iter().all(|b| tidegate_http::is_value_byte(*b))
            };
            prop_assume!(lines.iter().all(is_line));
            prop_assert_eq!(
                judge_lines(method, target, authority, &lines),
                judge_text(method, target, authority, &lines)
            );
        }
    }

    #[test]
    fn limits_are_those_of_text() {
        let limits = Limits::REQUEST;
        let field = |bytes: usize| (b"a".to_vec(), vec![b'x'; bytes]);
        let whole = limits.head_bytes_max - b"GET / HTTP/1.1\r\nhost: a\r\na: \r\n\r\n".len();
        for (target, lines) in [
            (1, vec![field(whole)]),
            (1, vec![field(whole + 1)]),
            (1, vec![field(1); limits.fields_max - 1]),
            (1, vec![field(1); limits.fields_max]),
            (limits.target_bytes_max, vec![]),
            (limits.target_bytes_max + 1, vec![]),
        ] {
            let target = "/".repeat(target);
            let of_parts = judge_lines(b"GET", target.as_bytes(), b"a", &lines);
            assert_eq!(of_parts, judge_text(b"GET", target.as_bytes(), b"a", &lines));
            let is_most = lines.iter().all(|line| line.1.len() <= whole)
                && lines.len() < limits.fields_max
                && target.len() <= limits.target_bytes_max;
            assert_eq!(of_parts.is_ok(), is_most, "{of_parts:?}");
        }
    }
}
