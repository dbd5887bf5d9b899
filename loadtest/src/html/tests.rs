//! Goal: a page that needs nothing from outside, and lets nothing from outside in. Method: pages of runs made by hand.

use super::*;
use crate::options::Options;
use crate::report::{Measured, Report};
use crate::series::Sample;
use crate::tally::{Ending, Record, Tally};

const SECOND: u64 = 1_000_000_000;

fn report(urls: &[&str], failure: &str) -> Report {
    let mut tally = Tally::default();
    for second in 0..10 {
        for n in 0..100u64 {
            tally.record(&Record {
                ending: if n == 99 { Ending::Timeout } else { Ending::Answered },
                sent_ns: Some(second * SECOND),
                first_byte_ns: (n < 99).then_some(second * SECOND + n * 1_000_000),
                status: 200,
                received_bytes: 1000,
                cache_status: Some(b"\"<edge>\"; hit"),
                ..Record::not_sent(true, second * SECOND, second * SECOND + SECOND / 2)
            });
        }
    }
    tally.explain(|| failure.to_owned());
    let samples = (0..=10)
        .map(|second| Sample {
            at_ns: second * SECOND,
            connections: second,
            client_cpu_ns: second * SECOND / 4,
            server_cpu_ns: Some(second * SECOND / 2),
        })
        .collect();
    let options = Options {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        assertions: vec!["errors == 0".parse().unwrap(), "p99_first_byte < 5s".parse().unwrap()],
        ..Options::default()
    };
    let measured = Measured { tally, elapsed_ns: 10 * SECOND, samples, audience: None };
    Report::new(&options, &measured, 1_795_132_800_000, false)
}

#[test]
fn a_page_needs_nothing_else() {
    let page = page(&report(&["http://film.example/seg.m4s"], "none")).render();
    for outside in ["src=", "href=", "url(", "@import", "fetch(", "<link", "<img", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for said in [
        "Failed: 1 of 2 assertions did not hold",
        "<h2>First byte</h2>",
        "<h2>Answers</h2>",
        "<h2>Throughput</h2>",
        "<h2>Open connections</h2>",
        "<h2>CPUs kept busy</h2>",
        "99/s",
        "2026-11-20 00:00:00 UTC",
        "http://film.example/seg.m4s",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert_eq!(page.matches("<svg").count(), 7);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn text_from_outside_stays_text() {
    let evil = "</script><script>alert(1)</script><b a=\"'\u{7}";
    let page = page(&report(&["http://a.example/<b>&amp;\"'</script>"], evil)).render();
    assert!(!page.contains("<script>alert") && !page.contains("<b>&amp;"));
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(page.contains("&lt;edge&gt;"));
    assert!(page.contains("&lt;/script&gt;"));
    assert!(!page.contains('\u{7}'));
    let json = page.split("id=\"report\">").nth(1).unwrap().split("</script>").next().unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["first_failure"], evil);
}

#[test]
fn a_run_without_anything_is_still_a_page() {
    let measured =
        Measured { tally: Tally::default(), elapsed_ns: 0, samples: Vec::new(), audience: None };
    let report = Report::new(&Options::default(), &measured, 0, true);
    let page = page(&report).render();
    assert!(page.contains("Interrupted") && page.contains("1970-01-01 00:00:00 UTC"));
    assert!(!page.contains("NaN") && !page.contains("<svg"));
}

#[test]
fn axes_begin_at_zero_or_are_logarithmic() {
    let chart = |unit, values: &[Option<f64>]| {
        let lines = vec![Line { name: "x", class: "a", values: values.to_vec() }];
        let chart = Chart { title: "t", unit, filled: true, interval_s: 1.0, warmup_s: 1.0, lines };
        let mut out = String::new();
        chart.render(&mut out);
        out
    };
    let linear = chart(Unit::Count, &[Some(900.0), Some(1000.0), None, Some(950.0)]);
    assert!(linear.contains(">0</text>") && linear.contains(">1000</text>"), "{linear}");
    // A gap: two pieces, and the lone point behind it is seen.
    assert_eq!(linear.matches("class=\"line a\"").count(), 1);
    assert_eq!(linear.matches("<circle").count(), 1);
    let times = chart(Unit::Time, &[Some(100.0), Some(250_000.0)]);
    for tick in ["100.0us", "1.00ms", "10.00ms", "100.00ms", "1.000s"] {
        assert!(times.contains(tick), "{tick}: {times}");
    }
    assert_eq!(chart(Unit::Count, &[None, None]), "");
    assert!(chart(Unit::Count, &[Some(0.0)]).contains("<circle"));
}
