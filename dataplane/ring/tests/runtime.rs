//! The runtime under load, cancellation and cross-thread wake-ups, on real sockets and files.
//! Method: real ring; peers are plain std threads; every wait is for an event, none for time to pass.

#![allow(unsafe_code)] // socket options and limits of the test itself

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;
use tidegate_ring::{
    Arena, ArenaOptions, Buf, File, Options, Runtime, bound_listener, sleep, spawn, stats, timeout,
};
use tidegate_ring::{TcpListener, TcpStream};

/// For sends: far beyond what a slow machine needs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn local(host: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 9, host), 0).into()
}

async fn echo(stream: TcpStream) {
    let mut buf = Vec::new();
    while let Ok(n) = stream.receive(&mut buf).await {
        if n == 0 || stream.send_all(&[&buf], PATIENCE).await.is_err() {
            return;
        }
        buf.clear();
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_hundred_thousand_connections_leak_neither_descriptors_nor_operations() {
    const CONNECTIONS: usize = 100_000;
    const CLIENTS: usize = 4;
    let listener = bound_listener(local(1), 1024).unwrap();
    let address = listener.local_addr().unwrap();
    let before = open_descriptors();
    let runtime = Runtime::new(Options { receive_buffers: 16, ..Options::default() }).unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || {
                for n in 0..CONNECTIONS / CLIENTS {
                    let mut stream = std::net::TcpStream::connect(address).unwrap();
                    if n % 3 != 0 {
                        let word = [client as u8, n as u8, (n >> 8) as u8];
                        stream.write_all(&word).unwrap();
                        let mut back = [0; 3];
                        stream.read_exact(&mut back).unwrap();
                        assert_eq!(word, back);
                    }
                    // A reset instead of TIME_WAIT, so that ports do not run out; and a hard case for the server.
                    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                    // SAFETY: passes the address and size of a live value.
                    unsafe {
                        libc::setsockopt(
                            std::os::fd::AsRawFd::as_raw_fd(&stream),
                            libc::SOL_SOCKET,
                            libc::SO_LINGER,
                            (&raw const linger).cast(),
                            size_of::<libc::linger>() as u32,
                        )
                    };
                }
            })
        })
        .collect();
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let (taken, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let waiting: Rc<Cell<Option<Waker>>> = Rc::default();
        while taken.get() < CONNECTIONS {
            let stream = listener.accept().await.unwrap();
            taken.set(taken.get() + 1);
            let (ended, waiting) = (ended.clone(), waiting.clone());
            spawn(async move {
                echo(stream).await;
                ended.set(ended.get() + 1);
                if let Some(waker) = waiting.take() {
                    waker.wake();
                }
            });
        }
        std::future::poll_fn(|cx| {
            waiting.set(Some(cx.waker().clone()));
            if ended.get() == CONNECTIONS { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let stats = stats();
        assert!(stats.operations <= 2, "accept and the event read are all that is left: {stats:?}");
    });
    for client in clients {
        client.join().unwrap();
    }
    // Other tests of this binary run beside this one and hold a few.
    assert!(open_descriptors() < before + 64, "{} before, {} after", before, open_descriptors());
}

#[test]
fn dropped_operations_give_their_memory_and_descriptors_back() {
    let listener = bound_listener(local(2), 64).unwrap();
    let address = listener.local_addr().unwrap();
    let arena = Arena::new(ArenaOptions { chunk_bytes: 256 * 1024, chunks: 4 }).unwrap();
    let path = std::env::temp_dir().join(format!("tidegate-ring-{}-cancel", std::process::id()));
    std::fs::write(&path, vec![7u8; 4 << 20]).unwrap();
    let runtime =
        Runtime::new(Options { arena: Some(arena.clone()), ..Options::default() }).unwrap();
    let their_path = path.clone();
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let file = File::open_direct(&their_path, true).unwrap();
        for round in 0..500u64 {
            let (client, server) = {
                let connect = spawn(TcpStream::connect(address));
                (listener.accept().await.unwrap(), connect.await.unwrap().unwrap())
            };
            let mut sink = Vec::new();
            // Nothing arrives: the receive is dropped while the kernel waits.
            assert!(
                timeout(Duration::from_micros(round % 50), client.receive(&mut sink))
                    .await
                    .is_err()
            );
            server.send_all(&[b"late"], PATIENCE).await.unwrap();
            let reads: Vec<_> = (0..3)
                .map(|i| {
                    let (file, buf) = (file.clone(), arena.buffer(256 * 1024));
                    spawn(async move {
                        timeout(Duration::from_micros(round % 97), file.read_at(buf, i * (1 << 20)))
                            .await
                    })
                })
                .collect();
            for read in reads {
                if let Some(Ok((result, buf))) = read.await {
                    assert_eq!(result.unwrap(), buf.len());
                    assert!(buf.as_ref().iter().all(|b| *b == 7));
                }
            }
        }
        // Everything comes home: the ring is turned until nothing but the listener and the event read is under way.
        while stats().operations > 2 {
            sleep(Duration::from_micros(100)).await;
        }
        let all: Vec<Buf> = (0..4).map(|_| arena.buffer(256 * 1024)).collect();
        let spilled = arena.exhausted();
        drop(all);
        let again: Vec<Buf> = (0..4).map(|_| arena.buffer(256 * 1024)).collect();
        assert_eq!(arena.exhausted(), spilled, "no chunk was lost to a dropped read");
        drop(again);
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn many_connections_share_few_receive_buffers() {
    let listener = bound_listener(local(3), 512).unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options { receive_buffers: 2, receive_buffer_bytes: 512, ..Options::default() };
    let runtime = Runtime::new(options).unwrap();
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap();
                spawn(echo(stream));
            }
        });
        let clients: Vec<_> = (0..200u32)
            .map(|n| {
                spawn(async move {
                    let stream = TcpStream::connect(address).await.unwrap();
                    let sent: Vec<u8> = (0..20_000u32).map(|i| (i * 31 + n) as u8).collect();
                    stream.send_all(&[&sent[..7], &[], &sent[7..]], PATIENCE).await.unwrap();
                    let mut back = Vec::new();
                    while back.len() < sent.len() {
                        assert!(stream.receive(&mut back).await.unwrap() > 0);
                    }
                    assert_eq!(sent, back);
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    });
}

#[test]
fn a_slow_reader_makes_the_sender_wait_and_gets_every_byte() {
    let listener = bound_listener(local(4), 8).unwrap();
    let address = listener.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let data: Vec<u8> = (0..24u32 << 20).map(|i| (i ^ (i >> 11)) as u8).collect();
    let sent = data.clone();
    Runtime::new(Options::default()).unwrap().block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let stream = listener.accept().await.unwrap();
        stream
            .send_all(&[&sent[..1], &sent[1..5_000_000], &sent[5_000_000..]], PATIENCE)
            .await
            .unwrap();
        stream.shutdown_write();
    });
    assert!(reader.join().unwrap() == data);
}

#[test]
fn wake_ups_cross_threads_and_rings() {
    // Two runtimes and a plain thread pass a token around through wakers only.
    const ROUNDS: usize = 20_000;
    struct Baton {
        turn: AtomicUsize,
        waiters: Mutex<[Option<Waker>; 2]>,
    }
    let baton = Arc::new(Baton { turn: AtomicUsize::new(0), waiters: Mutex::new([None, None]) });
    let run = |me: usize, baton: Arc<Baton>| {
        Runtime::new(Options::default()).unwrap().block_on(async move {
            loop {
                let turn = std::future::poll_fn(|cx| {
                    baton.waiters.lock().unwrap()[me] = Some(cx.waker().clone());
                    let turn = baton.turn.load(Ordering::SeqCst);
                    if turn % 2 == me || turn >= ROUNDS { Poll::Ready(turn) } else { Poll::Pending }
                })
                .await;
                if turn < ROUNDS {
                    baton.turn.store(turn + 1, Ordering::SeqCst);
                }
                let other = baton.waiters.lock().unwrap()[1 - me].take();
                if let Some(waker) = other {
                    // Every tenth goes by a thread that has no ring.
                    if turn.is_multiple_of(1000) {
                        std::thread::spawn(move || waker.wake()).join().unwrap();
                    } else {
                        waker.wake();
                    }
                }
                if turn >= ROUNDS {
                    return;
                }
            }
        })
    };
    let other = {
        let baton = baton.clone();
        std::thread::spawn(move || run(1, baton))
    };
    run(0, baton.clone());
    other.join().unwrap();
    assert_eq!(baton.turn.load(Ordering::SeqCst), ROUNDS);
}

/// Bytes that a file takes of its file system.
fn taken(path: &std::path::Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap()) * 512
}

/// Gives back the second and third MiB of the four that `path` leads to.
fn discard_half(path: &std::path::Path) {
    let path = path.to_owned();
    Runtime::new(Options::default()).unwrap().block_on(async move {
        let file = File::open_direct(&path, true).unwrap();
        for i in 0..4u64 {
            let mut buf = Buf::heap(1 << 20);
            buf.as_mut().fill(7);
            file.write_at(buf, i << 20).await.0.unwrap();
        }
        file.sync_data().await.unwrap();
        file.discard(1 << 20, 2 << 20).await.unwrap();
        assert_eq!(file.len().unwrap(), 4 << 20);
        for (i, byte) in [7, 0, 0, 7].into_iter().enumerate() {
            let (outcome, buf) = file.read_at(Buf::heap(1 << 20), (i as u64) << 20).await;
            assert_eq!(outcome.unwrap(), 1 << 20);
            assert!(buf.as_ref().iter().all(|b| *b == byte), "MiB {i}");
        }
    });
}

#[test]
fn what_is_discarded_is_given_back_to_the_file_system() {
    // On a file system in memory, which has holes whatever the disk's has.
    let path = std::path::Path::new("/dev/shm")
        .join(format!("tidegate-ring-{}-discard", std::process::id()));
    std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
    discard_half(&path);
    assert_eq!(taken(&path), 2 << 20);
    // And through a block device, which passes it on.
    let losetup = |arguments: &[&str]| {
        let output = std::process::Command::new("losetup").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match losetup(&["--find", "--show", path.to_str().unwrap()]) {
        Some(device) => {
            let outcome = std::panic::catch_unwind(|| discard_half(device.as_ref()));
            let taken = taken(&path);
            losetup(&["--detach", &device]).unwrap();
            assert!(outcome.is_ok() && taken == 2 << 20, "{taken}");
        }
        None => eprintln!("SKIPPED: discard on a block device; run as root for this proof"),
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn files_write_and_read_back_through_registered_memory() {
    let path = std::env::temp_dir().join(format!("tidegate-ring-{}-file", std::process::id()));
    std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let arena = Arena::new(ArenaOptions { chunk_bytes: 1 << 20, chunks: 3 }).unwrap();
    let runtime =
        Runtime::new(Options { arena: Some(arena.clone()), ..Options::default() }).unwrap();
    let their_path = path.clone();
    runtime.block_on(async move {
        let file = File::open_direct(&their_path, true).unwrap();
        assert_eq!(file.len().unwrap(), 8 << 20);
        for i in 0..8u64 {
            let mut buf = arena.buffer(1 << 20);
            buf.as_mut().fill(i as u8 + 1);
            let (outcome, _buf) = file.write_at(buf, i << 20).await;
            outcome.unwrap();
        }
        // On a file system in memory: a disk shared with other work may take a minute over this.
        let shm = std::path::Path::new("/dev/shm")
            .join(format!("tidegate-ring-{}-sync", std::process::id()));
        std::fs::File::create(&shm).unwrap();
        File::open_direct(&shm, true).unwrap().sync_data().await.unwrap();
        std::fs::remove_file(shm).unwrap();
        for i in 0..8u64 {
            let (outcome, buf) = file.read_at(arena.buffer(1 << 20), i << 20).await;
            assert_eq!(outcome.unwrap(), 1 << 20);
            assert!(buf.as_ref().iter().all(|b| *b == i as u8 + 1));
        }
        let (outcome, _) = file.read_at(Buf::heap(4096), 8 << 20).await;
        assert_eq!(outcome.unwrap(), 0, "the end of the file is a short read, not an error");
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn memory_is_registered_piece_by_piece_and_let_go_while_files_are_read() {
    const CHUNKS: usize = 130;
    let path = std::env::temp_dir().join(format!("tidegate-ring-{}-pieces", std::process::id()));
    let bytes: Vec<u8> = (0..4 << 20).map(|n: usize| (n / 4096 % 251) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let arena = Arena::new(ArenaOptions { chunk_bytes: 1 << 20, chunks: CHUNKS }).unwrap();
    let their_path = path.clone();
    Runtime::new(Options::default()).unwrap().block_on(async move {
        let file = Rc::new(File::open_direct(&their_path, false).unwrap());
        let check = async |held: &mut Vec<Buf>| {
            // From all over the arena.
            held.extend((held.len()..CHUNKS).map(|_| arena.buffer(1 << 20)));
            for n in (0..CHUNKS).rev().step_by(13) {
                let (outcome, buf) = file.read_at(held.swap_remove(n), (n as u64 % 4) << 20).await;
                assert_eq!(outcome.unwrap(), 1 << 20);
                assert!(buf.as_ref() == &bytes[(n % 4) << 20..][..1 << 20]);
            }
        };
        let mut held = Vec::new();
        check(&mut held).await;
        let mut pieces = 1;
        while tidegate_ring::register_piece(&arena).unwrap() {
            pieces += 1;
            check(&mut held).await;
        }
        assert_eq!(pieces, 3);
        assert!(!tidegate_ring::register_piece(&arena).unwrap(), "all of it is");
        check(&mut held).await;
        // What is under way when it is let go ends well.
        let under_way: Vec<_> = (0..4u64)
            .map(|n| {
                let (file, buf) = (file.clone(), arena.buffer(1 << 20));
                tidegate_ring::spawn(async move { file.read_at(buf, n << 20).await })
            })
            .collect();
        tidegate_ring::yield_now().await;
        tidegate_ring::unregister_arena();
        for (n, read) in under_way.into_iter().enumerate() {
            let (outcome, buf) = read.await.unwrap();
            assert_eq!(outcome.unwrap(), 1 << 20);
            assert!(buf.as_ref() == &bytes[n << 20..][..1 << 20]);
        }
        held.clear();
        arena.give_back();
        check(&mut held).await;
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn datagrams_are_waited_for() {
    let bound = tidegate_ring::bound_datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap();
    // A second one beside it, as another core has.
    tidegate_ring::bound_datagrams(address).unwrap();
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (receiver, taken) = (bound.try_clone().unwrap(), Rc::new(Cell::new(0)));
    Runtime::new(Options::default()).unwrap().block_on(async move {
        let socket = Rc::new(tidegate_ring::UdpSocket::from_std(bound).unwrap());
        assert_eq!(socket.local_addr().unwrap(), address);
        socket.writable().await.unwrap();
        let (waiting, count) = (socket.clone(), taken.clone());
        let task = spawn(async move {
            waiting.readable().await.unwrap();
            count.set(receiver.recv(&mut [0; 16]).unwrap());
        });
        tidegate_ring::yield_now().await;
        assert_eq!(taken.get(), 0);
        peer.send_to(b"seven b", address).unwrap();
        task.await.unwrap();
        assert_eq!(taken.get(), 7);
    });
}

#[test]
fn what_arrives_after_a_receive_was_given_up_comes_with_the_next_one() {
    // Goal: who waits for bytes may stop waiting and lose none. Method: each word is waited for, the wait is dropped before
    // or after it has arrived, and the next one has to bring it.
    let listener = bound_listener(local(9), 8).unwrap();
    let address = listener.local_addr().unwrap();
    let (say, said) = std::sync::mpsc::channel::<()>();
    let peer = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        for n in 0..100u8 {
            said.recv().unwrap();
            stream.write_all(&[n]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
    });
    Runtime::new(Options::default()).unwrap().block_on(async move {
        let stream = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
        for n in 0..100u8 {
            let mut buf = Vec::new();
            if n % 2 == 0 {
                let given_up = timeout(Duration::ZERO, stream.receive(&mut buf)).await;
                assert!(given_up.is_err() && buf.is_empty());
                say.send(()).unwrap();
            } else {
                say.send(()).unwrap();
                stream.arrived().await;
                assert!(!stream.is_quiet(), "something is here");
                // Whether it is taken now or was given up at the first look.
                drop(stream.receive(&mut Vec::new()));
            }
            assert_eq!(stream.receive(&mut buf).await.unwrap(), 1);
            assert_eq!(buf, [n]);
            stream.send_all(&[&buf], PATIENCE).await.unwrap();
        }
    });
    peer.join().unwrap();
}

#[test]
fn who_takes_a_listening_socket_over_hears_of_every_connection() {
    // Goal: a connection that comes while one process stops to accept and another one begins is heard of. Method: two rings on
    // one socket; the second begins when the first says that it has stopped, and a client connects at that moment.
    for _ in 0..100 {
        let first = bound_listener(local(10), 8).unwrap();
        let second = first.try_clone().unwrap();
        let address = first.local_addr().unwrap();
        let (say, stopped) = std::sync::mpsc::channel::<()>();
        let client = std::thread::spawn(move || {
            stopped.recv().unwrap();
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut word = [0];
            stream.read_exact(&mut word).unwrap();
        });
        Runtime::new(Options::default()).unwrap().block_on(async move {
            let listener = Rc::new(TcpListener::from_std(first).unwrap());
            let theirs = listener.clone();
            let taken = spawn(async move { theirs.accept().await.is_some() });
            tidegate_ring::yield_now().await; // it is armed
            assert!(!listener.has_stopped());
            listener.stop();
            while !listener.has_stopped() {
                tidegate_ring::yield_now().await;
            }
            assert_eq!(taken.await, Some(false), "nobody had come");
        });
        Runtime::new(Options::default()).unwrap().block_on(async move {
            let listener = TcpListener::from_std(second).unwrap();
            say.send(()).unwrap();
            let stream = listener.accept().await.unwrap();
            stream.send_all(&[b"x"], PATIENCE).await.unwrap();
        });
        client.join().unwrap();
    }
}
