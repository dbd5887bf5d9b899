//! Goal: what the seeds have found stays mended. Method: each meeting as a script of its own, in a small world.

use tidegate_sim::directed::{Act, get, with_parent};

#[test]
fn a_next_hop_that_did_not_get_the_question_is_asked_again() {
    // A 408 is about the connection: many servers send one when they close a kept one. It is nobody's answer.
    let got = with_parent(
        |_| {},
        |n, _| match n {
            0 => Act { then_close: true, ..Act::reply(408, "connection: close\r\n", b"too slow") },
            _ => Act::reply(200, "cache-control: max-age=60\r\n", b"film"),
        },
        |_, _| async { get("/a", "").await },
    );
    let got = got.expect("it is answered");
    assert_eq!((got.status, &got.body[..], got.complete), (200, &b"film"[..], true), "{got:?}");
    let never = with_parent(
        |_| {},
        |_, _| Act { then_close: true, ..Act::reply(408, "connection: close\r\n", b"too slow") },
        |_, _| async { get("/a", "").await },
    );
    assert_eq!(never.expect("it is answered").status, 504);
}
