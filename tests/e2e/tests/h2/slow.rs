//! Clients that are slow on purpose (reliability.md 2.1 lines 3 and 7): these tests wait for the edge's own deadlines, all at the
//! same time.

use crate::frames::*;
use crate::options;
use std::thread::sleep;
use std::time::Duration;
use tidegate_e2e::{Fleet, FleetOptions, HandOrigin, cost, reply};

/// Between two signs of life; the deadlines are much longer.
const NOW_AND_THEN: Duration = Duration::from_millis(200);

/// Says the preface, with windows of nothing.
fn without_windows(fleet: &Fleet) -> Raw {
    let mut raw = Raw::connect(fleet);
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
    raw
}

#[test]
fn streams_whose_window_is_never_opened_are_reset() {
    let fleet = Fleet::start("h2-windows", &options());
    fleet.put("a.m4s", 1000);
    fleet.put("large.mp4", 4 << 20);
    let ((), cost) = cost::of(&fleet, "HTTP/2: 100 streams without a window", "/a.m4s", || {
        let mut raw = without_windows(&fleet);
        for n in 0..100 {
            let head = get(&format!("/large.mp4?{}", n % 2));
            raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &head)).unwrap();
        }
        for n in 0..100 {
            let reset = raw.until(RST_STREAM);
            assert!(reset.is_some(), "{n} were reset, and then the connection ended");
        }
    });
    assert!(cost.grown < 32 << 20, "{} bytes", cost.grown);
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 100);
}

#[test]
fn a_stream_that_takes_a_byte_now_and_then_is_reset() {
    let fleet = Fleet::start("h2-dribble", &options());
    fleet.put("a.m4s", 1000);
    fleet.put("large.mp4", 4 << 20);
    cost::of(&fleet, "HTTP/2: a window of a byte now and then", "/a.m4s", || {
        let mut raw = without_windows(&fleet);
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/large.mp4"))).unwrap();
        loop {
            raw.send(&frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())).unwrap();
            let came = std::iter::from_fn(|| raw.next())
                .find(|frame| [DATA, RST_STREAM].contains(&frame.kind))
                .expect("the connection lives");
            if came.kind == RST_STREAM {
                break;
            }
            assert_eq!(came.payload.len(), 1);
            sleep(NOW_AND_THEN);
        }
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 1);
}

#[test]
fn a_head_that_never_ends_ends_its_connection() {
    let fleet = Fleet::start("h2-heads", &options());
    fleet.put("a.m4s", 1000);
    cost::of(&fleet, "HTTP/2: a head that comes slowly", "/a.m4s", || {
        let mut raw = Raw::open(&fleet);
        raw.send(&frame(HEADERS, END_STREAM, 1, &get("/a.m4s"))).unwrap();
        // One frame, byte by byte. Its end is found by writing: what was said before it is not read.
        raw.send(&frame(CONTINUATION, 0, 1, &[0; 10_000])[..9]).unwrap();
        while raw.send(&[0]).is_ok() {
            sleep(NOW_AND_THEN);
        }
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 1);
    assert_eq!(fleet.counter("edge-1", "floods_total"), 0);
}

#[test]
fn a_body_that_comes_slowly_is_refused() {
    let origin = HandOrigin::start([127, 0, 0, 1].into(), |_, stream| reply(stream, 200, "", b"x"));
    let options = FleetOptions { origin: Some(origin.address), ..options() };
    let fleet = Fleet::start("h2-bodies", &options);
    let mut raw = Raw::open(&fleet);
    let post = [
        field(b":method", b"POST"),
        field(b":scheme", b"https"),
        field(b":authority", tidegate_e2e::fleet::HOST.as_bytes()),
        field(b":path", b"/pass/a"),
        field(b"content-length", b"100000"),
    ];
    raw.send(&frame(HEADERS, END_HEADERS, 1, &post.concat())).unwrap();
    while fleet.counter("edge-1", "deadlines_missed_total") == 0 {
        raw.send(&frame(DATA, 0, 1, b"x")).unwrap();
        sleep(NOW_AND_THEN);
    }
    assert!(raw.until(HEADERS).is_some(), "it is told");
    assert_eq!(origin.count(), 0);
}
