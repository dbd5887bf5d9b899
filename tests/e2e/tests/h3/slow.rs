//! Clients that are slow on purpose: these tests wait for the edge's own deadlines, all at the same time.

use crate::{block_on, options};
use quinn::{Connection, ConnectionError, ReadError};
use std::time::Duration;
use tidegate_e2e::h3::{self, request};
use tidegate_e2e::{Fleet, cost};
use tidegate_http::Method;
use tokio::time::sleep;

/// Between two signs of life; the deadlines are much longer.
const NOW_AND_THEN: Duration = Duration::from_millis(200);

async fn connect(fleet: &Fleet, window: u32) -> (quinn::Endpoint, Connection) {
    h3::quic(fleet, fleet.member("edge-1").https(), window).await.unwrap()
}

fn is_reset(error: &quinn::ReadExactError) -> bool {
    matches!(error, quinn::ReadExactError::ReadError(ReadError::Reset(_)))
}

#[test]
fn streams_whose_window_is_never_opened_are_reset() {
    let fleet = Fleet::start("h3-windows", &options());
    fleet.put("a.m4s", 1000);
    fleet.put("large.mp4", 4 << 20);
    let ((), cost) = cost::of(&fleet, "HTTP/3: 100 streams that are not read", "/a.m4s", || {
        block_on(async {
            let (_endpoint, quic) = connect(&fleet, 64).await;
            let mut streams = Vec::new();
            for n in 0..100 {
                let (mut sending, receiving) = quic.open_bi().await.unwrap();
                let path = format!("/large.mp4?{}", n % 2);
                sending.write_all(&request(&Method::Get, &path, &[])).await.unwrap();
                sending.finish().unwrap();
                streams.push(receiving);
            }
            for stream in &mut streams {
                assert!(stream.received_reset().await.unwrap().is_some());
            }
        });
    });
    assert!(cost.grown < 32 << 20, "{} bytes", cost.grown);
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 100);
}

#[test]
fn a_stream_that_takes_a_byte_now_and_then_is_reset() {
    let fleet = Fleet::start("h3-dribble", &options());
    fleet.put("a.m4s", 1000);
    fleet.put("large.mp4", 4 << 20);
    cost::of(&fleet, "HTTP/3: a byte read now and then", "/a.m4s", || {
        block_on(async {
            let (_endpoint, quic) = connect(&fleet, 8).await;
            let settings = quic.clone();
            tokio::task::spawn_local(async move {
                if let Ok(mut control) = settings.accept_uni().await {
                    let _to_the_end = control.read_to_end(1 << 16).await;
                }
            });
            let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
            sending.write_all(&request(&Method::Get, "/large.mp4", &[])).await.unwrap();
            sending.finish().unwrap();
            let error = loop {
                if let Err(error) = receiving.read_exact(&mut [0; 1]).await {
                    break error;
                }
                sleep(NOW_AND_THEN).await;
            };
            assert!(is_reset(&error), "{error}");
        });
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 1);
}

#[test]
fn heads_and_bodies_that_come_slowly_are_refused() {
    let fleet = Fleet::start("h3-slow", &options());
    fleet.put("a.m4s", 1000);
    cost::of(&fleet, "HTTP/3: a head and a body that come slowly", "/a.m4s", || {
        block_on(async {
            let (_endpoint, quic) = connect(&fleet, 1 << 16).await;
            let head = request(&Method::Get, "/a.m4s", &[("x-long", &"x".repeat(10_000))]);
            let post = request(&Method::parse(b"POST").unwrap(), "/pass/a", &[]);
            // DATA of 10,000 bytes.
            let body = [&post[..], &[0, 0x67, 0x10], &[b'x'; 10_000]].concat();
            for (bytes, begun) in [(head, 1), (body, post.len() + 3)] {
                let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
                sending.write_all(&bytes[..begun]).await.unwrap();
                let trickle = async {
                    for byte in &bytes[begun..] {
                        if sending.write_all(&[*byte]).await.is_err() {
                            return;
                        }
                        sleep(NOW_AND_THEN).await;
                    }
                    panic!("all of it was taken");
                };
                let ((), answer) = tokio::join!(trickle, receiving.read_to_end(1 << 16));
                assert!(!answer.unwrap().is_empty(), "it is told");
            }
            assert_eq!(quic.close_reason(), None);
        });
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 2);
}

#[test]
fn who_does_not_read_the_settings_is_let_go() {
    let fleet = Fleet::start("h3-settings", &options());
    block_on(async {
        let (_endpoint, quic) = connect(&fleet, 1).await;
        assert!(matches!(quic.closed().await, ConnectionError::ApplicationClosed(_)));
    });
    assert_eq!(fleet.counter("edge-1", "deadlines_missed_total"), 1);
}
