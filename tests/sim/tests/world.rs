//! Goal: the simulated rim behaves as the kernel's where the node relies on it, and one seed is one run. Method: small
//! worlds with known links and disks.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tidegate_faults::{Faults, Random};
use tidegate_ring::sim::{Cut, Death, Dial, Link, Stuck, World, WorldOptions};
use tidegate_ring::{Buf, File, TcpListener, TcpStream, now, sleep, spawn, timeout, wall_now};
use tidegate_sim::disk::SharedDisk;

const STALL: Duration = Duration::from_secs(5);

fn world(link: Link) -> World {
    World::new(WorldOptions {
        unix: Duration::from_secs(1_795_132_800),
        choose: None,
        links: Box::new(move |_| link),
        trace: false,
    })
}

fn there() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn time_goes_on_only_when_nothing_is_ready_and_timers_fire_in_order() {
    let world = world(Link::default());
    let told = Rc::new(RefCell::new(Vec::new()));
    let theirs = told.clone();
    let (start, wall) = world
        .run(async move {
            let (start, wall) = (now(), wall_now());
            for n in [30u64, 10, 20] {
                let told = theirs.clone();
                spawn(async move {
                    sleep(millis(n)).await;
                    told.borrow_mut().push((n, now()));
                });
            }
            assert!(timeout(millis(5), sleep(Duration::from_secs(86_400))).await.is_err());
            assert_eq!(now() - start, millis(5));
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(now() - start, millis(3_600_005));
            (start, wall)
        })
        .unwrap();
    let told: Vec<_> = told.borrow().iter().map(|(n, at)| (*n, *at - start)).collect();
    assert_eq!(told, [(10, millis(10)), (20, millis(20)), (30, millis(30))]);
    assert_eq!(wall, std::time::UNIX_EPOCH + Duration::from_secs(1_795_132_800));
}

#[test]
fn who_waits_for_nothing_is_found() {
    let world = world(Link::default());
    assert_eq!(world.run(std::future::pending::<()>()), Err(Stuck));
}

/// Sends `bytes` over one connection; gives what came, and how it ended.
async fn carry(bytes: usize) -> (Vec<u8>, io::Result<usize>, Duration) {
    let listener = TcpListener::simulated(there());
    spawn(async move {
        let stream = listener.accept().await.unwrap();
        let body: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
        let _seen_by_the_reader = stream.send_all(&[&body], STALL).await;
    });
    let begin = now();
    let stream = TcpStream::connect(there()).await.expect("somebody listens");
    let mut came = Vec::new();
    loop {
        match stream.receive(&mut came).await {
            Ok(n) if n > 0 => {}
            end => return (came, end, now() - begin),
        }
    }
}

#[test]
fn a_connection_carries_all_bytes_in_order_at_its_pace() {
    let link = Link {
        latency: millis(10),
        bytes_per_second: 1_000_000,
        segment_bytes: 1000,
        window_bytes: 10_000,
        ..Link::default()
    };
    let (came, end, took) = world(link).run(carry(100_000)).unwrap();
    assert_eq!(came.len(), 100_000);
    assert!(came.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    assert_eq!(end.unwrap(), 0);
    // 10,000 bytes a round of 20 ms, and the dial.
    assert!(took > millis(200) && took < millis(400), "{took:?}");
}

#[test]
fn a_connection_is_cut_at_its_byte() {
    let link = Link { back: Cut::Reset(1234), segment_bytes: 100, ..Link::default() };
    let (came, end, _) = world(link).run(carry(5000)).unwrap();
    assert!(came.len() <= 1234, "{}", came.len());
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let silent = Link { back: Cut::Silence(1234), segment_bytes: 100, ..Link::default() };
    let outcome = world(silent).run(async { timeout(millis(900), carry(5000)).await.is_err() });
    assert_eq!(outcome, Ok(true));
}

#[test]
fn dials_fail_as_they_are_told_to() {
    let refused = world(Link { dial: Dial::Refused, ..Link::default() }).run(async {
        let _listener = TcpListener::simulated(there());
        TcpStream::connect(there()).await.err().map(|e| e.kind())
    });
    assert_eq!(refused, Ok(Some(io::ErrorKind::ConnectionRefused)));
    let nobody = world(Link::default())
        .run(async { TcpStream::connect(there()).await.err().map(|e| e.kind()) });
    assert_eq!(nobody, Ok(Some(io::ErrorKind::ConnectionRefused)));
    let lost = world(Link { dial: Dial::Lost, ..Link::default() }).run(async {
        let _listener = TcpListener::simulated(there());
        timeout(Duration::from_secs(60), TcpStream::connect(there())).await.is_err()
    });
    assert_eq!(lost, Ok(true));
}

/// A server that answers one byte and then waits; what its client hears when it dies.
fn die(death: Death) -> Option<io::ErrorKind> {
    let world = world(Link::default());
    let inner = world.clone();
    let process = world.process();
    let alive = Rc::new(Cell::new(0));
    let theirs = alive.clone();
    world.spawn_in(process, async move {
        struct Alive(Rc<Cell<u32>>);
        impl Drop for Alive {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        theirs.set(1);
        let _alive = Alive(theirs);
        let listener = TcpListener::simulated(there());
        let stream = listener.accept().await.unwrap();
        stream.send_all(&[b"x"], STALL).await.expect("the client is there");
        std::future::pending::<()>().await;
    });
    world
        .run(async move {
            sleep(millis(1)).await;
            let stream = TcpStream::connect(there()).await.expect("it listens");
            let mut came = Vec::new();
            stream.receive(&mut came).await.expect("its byte comes");
            assert_eq!(inner.tasks_of(process), 1);
            inner.kill(process, death, || {});
            assert_eq!((inner.tasks_of(process), alive.get()), (0, 0));
            let heard = timeout(Duration::from_secs(9), stream.receive(&mut came)).await;
            let again = TcpStream::connect(there()).await.err().map(|e| e.kind());
            assert_eq!(again, Some(io::ErrorKind::ConnectionRefused));
            heard.ok().and_then(|outcome| outcome.err()).map(|e| e.kind())
        })
        .unwrap()
}

#[test]
fn a_kill_is_heard_of_and_a_power_cut_is_not() {
    assert_eq!(die(Death::Killed), Some(io::ErrorKind::ConnectionReset));
    assert_eq!(die(Death::PowerCut), None);
}

#[test]
fn a_write_goes_on_when_nobody_waits_for_it() {
    let disk = Rc::new(SharedDisk::new(1 << 20, 7, Faults::default()));
    let theirs = disk.clone();
    world(Link::default())
        .run(async move {
            let file = File::simulated(theirs);
            let mut page = Buf::heap(4096);
            page.as_mut().fill(7);
            let writing = file.write_at(page, 8192);
            assert!(timeout(Duration::from_nanos(1), writing).await.is_err());
            sleep(Duration::from_secs(1)).await;
            let (read, page) = file.read_at(Buf::heap(4096), 8192).await;
            assert_eq!(read.unwrap(), 4096);
            assert!(page.as_ref().iter().all(|byte| *byte == 7));
            file.sync_data().await.unwrap();
        })
        .unwrap();
    disk.crash();
    assert_eq!(disk.peek(8192, 1), [7], "what was flushed outlives a crash");
}

/// Many tasks that meet by chance; gives the world's hash.
fn tangle(seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut chosen = random.fork();
    let mut linked = random.fork();
    let world = World::new(WorldOptions {
        unix: Duration::ZERO,
        choose: Some(Box::new(move |n| chosen.below(n as u64) as usize)),
        links: Box::new(move |_| Link {
            latency: Duration::from_micros(linked.below(2000)),
            segment_bytes: 1 + linked.below(300) as usize,
            ..Link::default()
        }),
        trace: false,
    });
    world
        .run(async move {
            let listener = TcpListener::simulated(there());
            spawn(async move {
                loop {
                    let stream = listener.accept().await.unwrap();
                    spawn(async move {
                        let mut came = Vec::new();
                        while stream.receive(&mut came).await.is_ok_and(|n| n > 0) {
                            if stream.send_all(&[&came], STALL).await.is_err() {
                                return;
                            }
                            came.clear();
                        }
                    });
                }
            });
            let clients: Vec<_> = (0..5)
                .map(|_| {
                    let len = random.below(2000) as usize;
                    spawn(async move {
                        let stream = TcpStream::connect(there()).await.expect("it listens");
                        stream.send_all(&[&vec![1; len]], STALL).await.expect("it reads");
                        let mut came = Vec::new();
                        while came.len() < len {
                            stream.receive(&mut came).await.expect("it answers");
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await;
            }
        })
        .unwrap();
    world.hash()
}

#[test]
fn one_seed_is_one_run() {
    let hashes: Vec<u64> = (0..20).map(tangle).collect();
    let again: Vec<u64> = (0..20).map(tangle).collect();
    assert_eq!(hashes, again);
    let mut different = hashes.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 20, "the hash sees what happens");
}
