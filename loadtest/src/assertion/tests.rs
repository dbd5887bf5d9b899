//! Goal: assertions mean what they say, and a slip of the pen is pointed at.

use super::*;
use crate::tally::Record;
use crate::units::TimeError;
use proptest::prelude::*;

/// 100 answers, one per ms of response time, in one second; the last two are 404 and 500.
fn measured() -> Measured {
    let mut tally = Tally::default();
    for i in 1..=100u64 {
        tally.record(&Record {
            ending: Ending::Answered,
            sent_ns: Some(500_000),
            first_byte_ns: Some(600_000),
            status: match i {
                99 => 404,
                100 => 500,
                _ => 200,
            },
            cache_status: Some(if i <= 90 { b"e.1; hit" } else { b"e.1; fwd=uri-miss" }),
            ..Record::not_sent(true, 0, i * 1_000_000)
        });
    }
    Measured { tally, elapsed_ns: 1_000_000_000, samples: Vec::new(), audience: None }
}

#[test]
fn assertions_hold_or_not() {
    let measured = measured();
    let cases = [
        ("response_time.p50 < 51ms", true),
        ("response_time.p50 < 50ms", false),
        ("response_time.p99 <= 100ms", true),
        ("  response_time.max>=0.1s  ", true),
        ("response_time.p99.9 > 1s", false),
        ("service_time.min == 500us", true),
        ("first_byte.mean <= 101us", true),
        ("send_delay.max < 1ms", true),
        ("errors == 2", true),
        ("errors != 2", false),
        ("errors.status_4xx == 1", true),
        ("errors.timeout == 0", true),
        ("not_sent == 0", true),
        ("ok == 98", true),
        ("requests == 1_00", true),
        ("rate >= 99.5", true),
        ("rate > 100", false),
        ("error_ratio <= 2%", true),
        ("error_ratio < 0.02", false),
        ("p99_response_time < 1h", true),
        ("p99_response_time < 1ns", false),
        ("hit_ratio >= 0.9", true),
        ("hit_ratio > 90%", false),
        ("status.200 == 98", true),
        ("status.5xx == 1", true),
        ("status.301 == 0", true),
        ("tier.e.1.hits == 90", true),
        ("tier.e.1.hit_ratio == 0.9", true),
        ("tier.other.hits == 0", true),
        ("tier.other.hit_ratio >= 0", false),
    ];
    for (text, held) in cases {
        let assertion: Assertion = text.parse().unwrap_or_else(|e| panic!("{e}"));
        let verdict = assertion.judge(&measured);
        assert_eq!(verdict.held, held, "{text}: {verdict:?}");
        assert_eq!(assertion.to_string(), text.trim());
    }
}

#[test]
fn a_value_that_is_not_there_fails() {
    let nothing =
        Measured { tally: Tally::default(), elapsed_ns: 0, samples: Vec::new(), audience: None };
    for text in ["hit_ratio >= 0", "response_time.p99 < 1h", "rate >= 0", "hit_ratio != 1"] {
        let verdict = text.parse::<Assertion>().unwrap().judge(&nothing);
        assert!(!verdict.held && verdict.shown.starts_with("no value"), "{text}");
    }
}

#[test]
fn slips_are_pointed_at() {
    let cases = [
        ("", 1, Fault::NoName),
        (" < 5", 2, Fault::NoName),
        (" response_tme.p99 < 5ms", 2, Fault::UnknownName("response_tme.p99".to_owned())),
        ("response_time.p101 < 5ms", 1, Fault::UnknownName("response_time.p101".to_owned())),
        ("response_time < 5ms", 1, Fault::UnknownName("response_time".to_owned())),
        ("status.20 == 1", 1, Fault::UnknownName("status.20".to_owned())),
        ("status.+20 == 1", 1, Fault::UnknownName("status.+20".to_owned())),
        ("status.6xx == 1", 1, Fault::UnknownName("status.6xx".to_owned())),
        ("tier..hits == 1", 1, Fault::UnknownName("tier..hits".to_owned())),
        ("errors", 7, Fault::NoOperator),
        ("errors is 0", 8, Fault::NoOperator),
        ("errors = 0", 8, Fault::NoOperator),
        ("errors == ", 11, Fault::NoValue),
        ("errors == none", 11, Fault::Number),
        ("errors == 1.2.3", 11, Fault::Number),
        ("errors == 5ms", 11, Fault::UnitWithNumber),
        ("hit_ratio > 95", 13, Fault::Ratio),
        ("response_time.p99 < 50", 21, Fault::Time(TimeError::NoUnit)),
        ("response_time.p99 < fast", 21, Fault::Time(TimeError::Number)),
        ("\u{e4} == 0", 1, Fault::UnknownName("\u{e4}".to_owned())),
    ];
    for (text, at, fault) in cases {
        let error = text.parse::<Assertion>().unwrap_err();
        assert_eq!((error.at, &error.fault), (at, &fault), "{text}");
    }
    let told = "respose.p99 < 5ms".parse::<Assertion>().unwrap_err().to_string();
    assert!(told.contains("character 1") && told.contains("response_time.{min"), "{told}");
    for (name, _) in COUNTS {
        assert!(told.contains(name));
        assert!(format!("{name} == 0").parse::<Assertion>().is_ok());
    }
    assert!("x".repeat(10_000).parse::<Assertion>().unwrap_err().to_string().len() < 1000);
}

proptest! {
    #[test]
    fn no_text_panics(
        text in "\\PC{0,40}",
        tail in "(response_time.p|errors|hit_ratio|rate) ?[<>=!]{0,3} ?[0-9a-z%._]{0,6}",
    ) {
        let _judged = text.parse::<Assertion>();
        if let Ok(assertion) = tail.parse::<Assertion>() {
            assertion.judge(&measured());
        }
    }
}
