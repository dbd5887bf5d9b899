//! Ranges, and parts put together (RFC 9110 §14, §13.1.5, RFC 9111 §3.3, §3.4).

use crate::case::{Answer, Case, Step, TOTAL, ask, bytes, case, get, get_with, ok, status};

const TAGGED: &str = "Cache-Control: max-age=3600\nETag: \"a\"\nContent-Type: video/mp4\n";
const WEAK: &str = "Cache-Control: max-age=3600\nETag: W/\"a\"\n";
const MODIFIED: &str = "Fri, 01 Jan 2021 00:00:00 GMT";

pub fn cases() -> Vec<Case> {
    let mut cases = of_stored();
    cases.extend(if_range());
    cases.extend(of_unknown());
    cases.extend(putting_together());
    cases
}

fn range(value: &str) -> Step {
    get_with(&format!("Range: {value}"))
}

/// One request on a large object that is stored.
fn held(place: &'static str, rule: &str, fields: &str, step: Step) -> Case {
    case(place, rule).origin(bytes(fields)).then(get().whole()).then(step.hit()).sees_requests(1)
}

fn of_stored() -> Vec<Case> {
    let last = TOTAL - 1;
    let multi = |rule: &str, value: &str, step: fn(Step) -> Step| {
        held("9110 14.2", rule, TAGGED, step(range(value)))
    };
    vec![
        held("9110 14.1.2", "a first and a last byte", TAGGED, range("bytes=10-19").part(10..=19)),
        held("9110 14.1.2", "one byte", TAGGED, range("bytes=0-0").part(0..=0)),
        held(
            "9110 14.1.2",
            "from a byte on",
            TAGGED,
            range("bytes=1000000-").part(1_000_000..=last),
        ),
        held("9110 14.1.2", "the last bytes", TAGGED, range("bytes=-5").part(last - 4..=last)),
        held(
            "9110 14.1.2",
            "more last bytes than there are: all",
            TAGGED,
            range("bytes=-99999999").part(0..=last),
        ),
        held(
            "9110 14.1.2",
            "a last byte beyond the end is the last byte",
            TAGGED,
            range("bytes=1199990-99999999").part(1_199_990..=last),
        ),
        held(
            "9110 14.1.2",
            "a last byte beyond all numbers is the last byte",
            TAGGED,
            range("bytes=1199990-99999999999999999999999").part(1_199_990..=last),
        ),
        held(
            "9110 14.1.2",
            "more last bytes than numbers can say: all",
            TAGGED,
            range("bytes=-99999999999999999999999").part(0..=last),
        ),
        held(
            "9110 15.5.17",
            "a first byte beyond all numbers: 416",
            TAGGED,
            range("bytes=18446744073709551616-").is(416).text(""),
        ),
        held(
            "9110 14.1",
            "the unit is read without regard to case",
            TAGGED,
            range("BYTES=1-2").part(1..=2),
        ),
        multi("two ranges come in two parts", "bytes=0-9, 600000-600009", |step| {
            step.parts(&[0..=9, 600_000..=600_009])
        }),
        multi("empty members of a set of ranges are none", "bytes=0-1,, 600000-600001 ,", |step| {
            step.parts(&[0..=1, 600_000..=600_001])
        }),
        multi("ranges in whatever order come in the object's order", "bytes=-3, 5-6", |step| {
            step.parts(&[5..=6, TOTAL - 3..=TOTAL - 1])
        })
        .on_purpose("the section allows any order; one pass over the object is enough"),
        multi("ranges that overlap or touch come as one", "bytes=0-9, 5-19, 20-29", |step| {
            step.part(0..=29)
        }),
        multi("of two ranges one beyond the end: the other", "bytes=5-6, 9999999-", |step| {
            step.part(5..=6)
        }),
        multi("eight ranges are answered", "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14", |step| {
            step.parts(&[0..=0, 2..=2, 4..=4, 6..=6, 8..=8, 10..=10, 12..=12, 14..=14])
        }),
        multi(
            "more than eight ranges: the whole",
            "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16",
            Step::whole,
        )
        .on_purpose(
            "the section allows it; many small ranges are an attack more often than a wish",
        ),
        held(
            "9110 15.5.17",
            "beyond the end: 416, with the length",
            TAGGED,
            range("bytes=1200000-").is(416).field("Content-Range", "bytes */1200000").text(""),
        ),
        held("9110 14.1.2", "the last no bytes: 416", TAGGED, range("bytes=-0").is(416)),
        held("9110 14.2", "a malformed set of ranges: 416", TAGGED, range("bytes=5-2").is(416))
            .on_purpose("the section allows to ignore it or to refuse it"),
        held("9110 14.2", "another unit is ignored", TAGGED, range("lines=1-2").whole()),
        case("9110 14.2", "Range is ignored in a HEAD")
            .origin(bytes(TAGGED))
            .then(get().whole())
            .then(
                ask("HEAD")
                    .with("Range: bytes=0-1")
                    .is(200)
                    .field("Content-Length", "1200000")
                    .without("Content-Range")
                    .hit(),
            )
            .sees_requests(1),
        held(
            "9110 13.2.2",
            "If-None-Match comes before Range",
            TAGGED,
            get_with("Range: bytes=0-1\nIf-None-Match: \"a\"").is(304),
        ),
        held(
            "9110 14.3",
            "Accept-Ranges says that ranges are served",
            TAGGED,
            get().whole().field("Accept-Ranges", "bytes"),
        ),
        held(
            "9110 15.3.7",
            "a part has the fields that a whole answer would have",
            TAGGED,
            range("bytes=0-1")
                .part(0..=1)
                .field("ETag", "\"a\"")
                .field("Cache-Control", "max-age=3600"),
        ),
        case("9110 14.2", "Range is ignored where the answer is no 200")
            .origin(status(404, "Cache-Control: max-age=3600"))
            .then(range("bytes=0-1").is(404).text("answer 1"))
            .then(range("bytes=0-1").is(404).text("answer 1").hit())
            .sees_requests(1),
        held(
            "9110 14.2",
            "ranges of an answer without validators are served while it is whole here",
            "Cache-Control: max-age=3600",
            range("bytes=5-6").part(5..=6),
        ),
    ]
}

fn if_range() -> Vec<Case> {
    let condition = |value: &str| get_with(&format!("Range: bytes=0-1\nIf-Range: {value}"));
    let dated = format!("{TAGGED}Last-Modified: {MODIFIED}\nDate: {{now}}");
    let young = "Cache-Control: max-age=3600\nLast-Modified: {now-30}\nDate: {now-10}";
    vec![
        held(
            "9110 13.1.5",
            "If-Range of the strong tag: the part",
            TAGGED,
            condition("\"a\"").part(0..=1),
        ),
        held(
            "9110 13.1.5",
            "If-Range of another tag: the whole",
            TAGGED,
            condition("\"b\"").whole(),
        ),
        held("9110 13.1.5", "If-Range compares strongly", TAGGED, condition("W/\"a\"").whole()),
        held(
            "9110 13.1.5",
            "If-Range of a weak tag never matches",
            WEAK,
            condition("W/\"a\"").whole(),
        ),
        held(
            "9110 13.1.5",
            "If-Range of the exact date: the part",
            &dated,
            condition(MODIFIED).part(0..=1),
        ),
        held(
            "9110 13.1.5",
            "If-Range of a later date: the whole",
            &dated,
            condition("{now}").whole(),
        ),
        held(
            "9110 8.8.2.2",
            "a date less than a minute before Date is no strong validator",
            young,
            condition("{now-30}").whole(),
        ),
        held("9110 13.1.5", "If-Range that is nothing: the whole", TAGGED, condition("x").whole()),
        held(
            "9110 13.1.5",
            "If-Range without Range says nothing",
            TAGGED,
            get_with("If-Range: \"b\"").whole(),
        ),
    ]
}

fn of_unknown() -> Vec<Case> {
    vec![
        case("9110 14.2", "a range of what is not stored asks for its blocks, and no more")
            .origin(bytes(TAGGED))
            .then(range("bytes=600000-600009").part(600_000..=600_009).miss())
            .then(range("bytes=600005-600006").part(600_005..=600_006).hit())
            .sees("Range: bytes=524288-1048575\n!If-Range"),
        case("9110 14.2", "the last bytes of what is not stored")
            .origin(bytes(TAGGED))
            .then(range("bytes=-5").part(TOTAL - 5..=TOTAL - 1))
            .sees("Range: bytes=0-524287")
            .sees("Range: bytes=1048576-1199999\nIf-Range: \"a\""),
        case("9110 14.2", "a range beyond the end of what is not stored: 416, for one block")
            .origin(bytes(TAGGED))
            .then(range("bytes=1300000-").is(416).field("Content-Range", "bytes */1200000"))
            .sees_requests(1),
        case("9110 14.2", "an origin without ranges is asked once, for the whole")
            .origin(Answer::NoRanges { fields: TAGGED.to_owned(), total: TOTAL })
            .then(range("bytes=600000-600009").part(600_000..=600_009))
            .then(range("bytes=5-6").part(5..=6))
            .then(get().whole())
            .then(get().whole().hit())
            .sees_requests(1),
        case("9110 14.2", "a range of a small answer that is not stored")
            .origin(ok("Cache-Control: max-age=3600\nETag: \"a\""))
            .then(range("bytes=0-2").is(206).text("ans").field("Content-Range", "bytes 0-2/8"))
            .then(get().from(1).hit())
            .sees_requests(1),
        case("9110 14.2", "a range of what may not be stored is the client's own")
            .origin(bytes("Cache-Control: private\nETag: \"a\""))
            .then(range("bytes=5-6").part(5..=6).miss())
            .then(range("bytes=7-8").part(7..=8).miss())
            .sees_any_more(),
        case("9110 14.2", "a range of an empty answer is a 416")
            .origin(Answer::Raw(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: 0\r\n\r\n"
                    .to_owned(),
            ))
            .then(get().is(200).text(""))
            .then(range("bytes=0-0").is(416).field("Content-Range", "bytes */0").hit())
            .sees_requests(1),
    ]
}

fn putting_together() -> Vec<Case> {
    let changed = "Cache-Control: max-age=3600\nETag: \"b\"\n";
    vec![
        case("9111 3.4", "parts under one strong tag are put together to a whole")
            .origin(bytes(TAGGED))
            .then(range("bytes=0-9").part(0..=9))
            .then(range("bytes=1100000-1100009").part(1_100_000..=1_100_009))
            .then(get().whole())
            .then(get().whole().hit())
            .sees("Range: bytes=0-524287")
            .sees("Range: bytes=1048576-1199999\nIf-Range: \"a\"")
            .sees("Range: bytes=524288-1048575\nIf-Range: \"a\""),
        case("9111 3.4", "parts of a changed object are not put to the old ones")
            .origin(bytes(TAGGED))
            .origin(Answer::NoRanges { fields: changed.to_owned(), total: TOTAL })
            .then(range("bytes=0-9").part(0..=9).field("ETag", "\"a\""))
            .then(range("bytes=600000-600009").part(600_000..=600_009).field("ETag", "\"b\""))
            .then(range("bytes=0-9").part(0..=9).field("ETag", "\"b\""))
            .sees_any_more(),
        case("9111 3.4", "parts under a weak tag are not put together: the whole is fetched")
            .origin(bytes(WEAK))
            .then(range("bytes=600000-600009").part(600_000..=600_009))
            .then(range("bytes=5-6").part(5..=6).hit())
            .then(get().whole().hit())
            .sees("Range: bytes=524288-1048575")
            .sees("!Range"),
        case("9111 3.4", "parts without any validator are not put together")
            .origin(bytes("Cache-Control: max-age=3600"))
            .then(range("bytes=600000-600009").part(600_000..=600_009))
            .then(get().whole().hit())
            .sees("Range: bytes=524288-1048575")
            .sees("!Range"),
        case("9111 3.3", "a part is never given for the whole")
            .origin(bytes(TAGGED))
            .then(range("bytes=0-9").part(0..=9))
            .then(get().whole())
            .sees("Range: bytes=0-524287")
            .sees("Range: bytes=524288-1199999\nIf-Range: \"a\""),
        case("9110 15.3.7", "a 206 that nobody asked for is not passed on, and not stored")
            .origin(status(
                206,
                "Cache-Control: max-age=3600\nContent-Range: bytes 0-7/99\nETag: \"a\"",
            ))
            .origin(ok("Cache-Control: max-age=3600"))
            .then(get().is(502))
            .then(get().from(2))
            .sees_requests(2),
    ]
}
