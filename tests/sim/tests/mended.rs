//! Goal: what the seeds have found stays mended. Method: each meeting as a script of its own, in a small world.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tidegate_ring::sim::Death;
use tidegate_ring::{sleep, spawn};
use tidegate_sim::directed::{Act, Got, get, post, with_parent};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Half of the body at once, the other one five seconds later.
fn halting(fields: &str, body: &[u8]) -> Act {
    let mut act = Act::reply(200, fields, body);
    let (_, whole) = act.pieces.remove(0);
    let (first, second) = whole.split_at(whole.len() / 2);
    act.pieces = vec![(Duration::ZERO, first.to_vec()), (seconds(5), second.to_vec())];
    act
}

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

#[test]
fn what_is_stale_before_it_has_come_is_read_along_and_not_asked_for_again() {
    let asked = Rc::new(Cell::new(0));
    for tag in ["W/\"1\"", "\"1\""] {
        asked.set(0);
        let counting = asked.clone();
        let got = with_parent(
            |_| {},
            move |_, _| {
                counting.set(counting.get() + 1);
                let life = "cache-control: max-age=1, stale-while-revalidate=60\r\n";
                halting(&format!("{life}etag: {tag}\r\n"), &[7; 700_000])
            },
            |_, _| async {
                let first = spawn(get("/a", ""));
                sleep(seconds(2)).await;
                let second = get("/a", "").await.expect("it is answered");
                first.await.flatten().expect("it is answered");
                second
            },
        );
        assert_eq!((got.status, got.body.len(), got.complete), (200, 700_000, true), "{tag}");
        assert_eq!(asked.get(), 1, "{tag}: its bytes were on their way already");
    }
}

#[test]
fn a_stale_object_that_left_memory_while_it_is_revalidated_is_filled_anew() {
    let got = with_parent(
        |plan| {
            plan.devices = 0;
            plan.ram_bytes = 600 << 10; // room for one block
        },
        |n, request| {
            let life = "cache-control: max-age=1, stale-while-revalidate=60\r\netag: W/\"1\"\r\n";
            match request.fields.contains("if-none-match") {
                true => Act {
                    pieces: vec![(
                        seconds(5),
                        format!("HTTP/1.1 304 x\r\n{life}\r\n").into_bytes(),
                    )],
                    then_close: false,
                },
                false => Act::reply(200, life, &vec![n as u8; 400_000]),
            }
        },
        |_, _| async {
            get("/a", "").await.expect("it is filled");
            sleep(seconds(2)).await;
            let stale = get("/a", "").await.expect("it is answered");
            assert!(stale.cache_status.contains("ttl=-"), "{stale:?}");
            get("/b", "").await.expect("it takes the room");
            get("/a", "").await.expect("it is answered")
        },
    );
    assert_eq!((got.status, got.body.len(), got.complete), (200, 400_000, true), "{got:?}");
}

#[test]
fn a_part_of_an_origin_that_gives_no_parts_is_cut_out_of_the_whole() {
    // Goal: a block that left memory costs one question, and no client its answer. Method: room for one block of two.
    let asked = Rc::new(Cell::new(0));
    let (counting, seen) = (asked.clone(), asked.clone());
    let body: Vec<u8> = (0..1_000_000u32).map(|n| (n / 1000) as u8).collect();
    let whole = body.clone();
    let (first, part, last) = with_parent(
        |plan| {
            plan.devices = 0;
            plan.ram_bytes = 600 << 10;
        },
        move |_, _| {
            counting.set(counting.get() + 1);
            Act::reply(200, "cache-control: max-age=600\r\netag: \"1\"\r\n", &whole)
        },
        move |_, _| async move {
            let first = get("/a", "").await.expect("it is filled");
            sleep(seconds(1)).await;
            let last = get("/a", "range: bytes=999990-\r\n").await.expect("it is answered");
            let before = seen.get();
            let part = get("/a", "range: bytes=10-19\r\n").await.expect("it is answered");
            assert!(seen.get() <= before + 1, "one question for one part");
            (first, part, last)
        },
    );
    assert!(first.complete && first.body == body);
    assert_eq!((part.status, &part.body[..]), (206, &body[10..20]), "{part:?}");
    assert_eq!((last.status, &last.body[..]), (206, &body[999_990..]), "{last:?}");
    assert!(asked.get() <= 3, "{} questions", asked.get());
}

#[test]
fn what_is_on_its_way_when_a_post_goes_through_is_not_kept() {
    // Goal: an answer that the origin gave before the POST serves those who had asked, and nobody who asks after it; of an
    // alternate as well. Method: the origin's bodies halt for some seconds; the POST passes them.
    for vary in ["", "vary: accept-language\r\n"] {
        let version = Rc::new(Cell::new(b'a'));
        let bodies = with_parent(
            |_| {},
            move |_, request| {
                let life = format!("cache-control: max-age=600\r\n{vary}");
                match request.method.as_str() {
                    "POST" => {
                        version.set(version.get() + 1);
                        Act::reply(200, "", b"")
                    }
                    // What was known when it was asked.
                    _ => halting(&life, &[version.get(); 400_000]),
                }
            },
            |_, _| async {
                let language = "accept-language: de\r\n";
                get("/b", language).await.expect("it is answered");
                let body = |got: Option<Got>| got.filter(|got| got.complete).map(|got| got.body[0]);
                let before = spawn(get("/a", language));
                sleep(seconds(1)).await;
                post("/a").await.expect("it is answered");
                let later = body(get("/a", language).await);
                let again = body(get("/a", language).await);
                // And what has come whole.
                let stored = spawn(get("/c", language));
                sleep(seconds(7)).await;
                post("/c").await.expect("it is answered");
                let after = body(get("/c", language).await);
                let before = body(before.await.flatten());
                let _whatever = stored.await;
                (before, later, again, after)
            },
        );
        assert_eq!(bodies, (Some(b'a'), Some(b'b'), Some(b'b'), Some(b'c')), "{vary:?}");
    }
}

#[test]
fn a_revalidation_that_a_post_overtakes_does_not_come_back_with_a_restart() {
    // Goal: no head is written behind the one that made it invalid. Method: a 304 that was asked for before the POST comes
    // after it; then the node is killed, and finds what its store has.
    let asked_for = Rc::new(Cell::new(0));
    let counting = asked_for.clone();
    let first = with_parent(
        |_| {},
        move |n, request| {
            let life = "cache-control: max-age=1, stale-while-revalidate=600\r\netag: \"1\"\r\n";
            if request.fields.contains("if-none-match") {
                counting.set(counting.get() + 1);
                let late = format!("HTTP/1.1 304 x\r\n{life}\r\n").into_bytes();
                return Act { pieces: vec![(seconds(5), late)], then_close: false };
            }
            match request.method.as_str() {
                "POST" => Act::reply(200, "", b""),
                _ => Act::reply(200, life, &vec![n as u8; 50_000]),
            }
        },
        |_, node| async move {
            get("/a", "").await.expect("it is filled");
            sleep(seconds(3)).await;
            let stale = get("/a", "").await.expect("it is answered");
            assert!(stale.cache_status.contains("ttl=-"), "{stale:?}");
            sleep(seconds(1)).await;
            post("/a").await.expect("it is answered");
            sleep(seconds(8)).await;
            node.kill(Death::Killed);
            node.start();
            while !node.is_up() {
                sleep(Duration::from_millis(10)).await;
            }
            get("/a", "").await.expect("it is filled anew").body[0]
        },
    );
    assert_ne!(first, 0, "the first answer was made invalid");
    assert_eq!(asked_for.get(), 1, "the revalidation was under way");
}
