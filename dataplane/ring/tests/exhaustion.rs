//! Running out of descriptors: connections wait, nothing is lost, and it goes on when descriptors come back.
//! Alone in its binary, since it lowers the limit of the whole process.

#![allow(unsafe_code)] // socket options and limits of the test itself

use std::io::{Read, Write};
use tidegate_ring::{Options, Runtime, TcpListener, bound_listener, spawn, stats};

/// For sends: far beyond what a slow machine needs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn accept_survives_descriptor_exhaustion() {
    if let Ok(address) = std::env::var("TIDEGATE_RING_PEER") {
        return be_the_peer(&address);
    }
    let listener = bound_listener("127.0.9.9:0".parse().unwrap(), 256).unwrap();
    let address = listener.local_addr().unwrap();
    // The peer is another process: its descriptors do not count against the limit here.
    let mut peer = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "accept_survives_descriptor_exhaustion", "--nocapture"])
        .env("TIDEGATE_RING_PEER", address.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut go = peer.stdin.take().unwrap();
    let mut said = peer.stdout.take().unwrap();
    let limit = libc::rlimit { rlim_cur: 60, rlim_max: 60 };
    let runtime = Runtime::new(Options::default()).unwrap();
    // SAFETY: reads a live value.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let server = spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap();
                spawn(async move {
                    let mut buf = Vec::new();
                    while stream.receive(&mut buf).await.is_ok_and(|n| n > 0) {
                        if stream.send_all(&[&buf], PATIENCE).await.is_err() {
                            return;
                        }
                        buf.clear();
                    }
                });
            }
        });
        while stats().accepts_refused == 0 {
            tidegate_ring::sleep(std::time::Duration::from_millis(1)).await;
        }
        go.write_all(b"g").unwrap();
        drop(go);
        let (word, told) = (
            std::sync::Arc::new(std::sync::Mutex::new(None)),
            std::sync::Arc::new(std::sync::Mutex::new(None)),
        );
        let (their_word, their_told) = (word.clone(), told.clone());
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ended = said.read_to_string(&mut text);
            *their_word.lock().unwrap() = Some(text);
            if let Some(waker) = Option::<std::task::Waker>::take(&mut their_told.lock().unwrap()) {
                waker.wake();
            }
        });
        let text = std::future::poll_fn(|cx| {
            *told.lock().unwrap() = Some(cx.waker().clone());
            match word.lock().unwrap().take() {
                Some(text) => std::task::Poll::Ready(text),
                None => std::task::Poll::Pending,
            }
        })
        .await;
        assert!(text.contains("served"), "the peer said: {text}");
        drop(server);
    });
    assert!(peer.wait().unwrap().success());
}

/// Holds more connections than the server has descriptors for, lets go of them when told, and asks once more.
fn be_the_peer(address: &str) {
    let held: Vec<_> = (0..120).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    drop(held);
    let mut late = std::net::TcpStream::connect(address).unwrap();
    late.write_all(b"x").unwrap();
    let mut back = [0];
    late.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"x");
    println!("served");
}
