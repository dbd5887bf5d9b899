//! A piece of network between a client and an edge, for one client.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// Where clients of the relay go.
pub struct Relay {
    pub address: SocketAddr,
    /// Datagrams that were let through to the edge.
    pub passed: Rc<Cell<u64>>,
    /// And those that were not, of both directions.
    pub lost: Rc<Cell<u64>>,
}

async fn bound() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// Passes datagrams on in both directions; `lost(n)` says of the n-th whether it is lost.
pub async fn relay(to: SocketAddr, lost: fn(u64) -> bool) -> Relay {
    let (near, far) = (bound().await, bound().await);
    let (address, passed) = (near.local_addr().unwrap(), Rc::new(Cell::new(0)));
    let (count, losses) = (passed.clone(), Rc::new(Cell::new(0)));
    let dropped = losses.clone();
    tokio::task::spawn_local(async move {
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let (mut client, mut number) = (None, 0);
        loop {
            number += 1;
            if lost(number) {
                dropped.set(dropped.get() + 1);
            }
            tokio::select! {
                Ok((n, from)) = near.recv_from(&mut up) => {
                    client = Some(from);
                    if !lost(number) {
                        let _full = far.send_to(&up[..n], to).await;
                        count.set(count.get() + 1);
                    }
                }
                Ok((n, _)) = far.recv_from(&mut down) => {
                    if let Some(client) = client.filter(|_| !lost(number)) {
                        let _full = near.send_to(&down[..n], client).await;
                    }
                }
            }
        }
    });
    Relay { address, passed, lost: losses }
}

/// Passes datagrams on to the edge, and nothing back: clients that lie about their address, to the edge.
pub async fn one_way(to: SocketAddr) -> Relay {
    let (near, far) = (bound().await, bound().await);
    let (address, passed) = (near.local_addr().unwrap(), Rc::new(Cell::new(0)));
    let count = passed.clone();
    tokio::task::spawn_local(async move {
        let mut up = vec![0; 1 << 16];
        while let Ok((n, _)) = near.recv_from(&mut up).await {
            let _full = far.send_to(&up[..n], to).await;
            count.set(count.get() + 1);
        }
    });
    Relay { address, passed, lost: Rc::default() }
}

/// A network that lets a client's first flight through, and what is answered, but nothing more of the client's.
pub struct Held {
    pub address: SocketAddr,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    open: Cell<bool>,
    answers: Cell<u64>,
    answered: Notify,
    flight: RefCell<Vec<Vec<u8>>>,
}

impl Held {
    /// From now on everything is let through.
    pub fn open(&self) {
        self.state.open.set(true);
    }

    /// Waits for the edge's first word.
    pub async fn answered(&self) {
        while self.state.answers.get() == 0 {
            self.state.answered.notified().await;
        }
    }

    /// The datagrams of the first flight.
    pub fn flight(&self) -> Vec<Vec<u8>> {
        self.state.flight.borrow().clone()
    }
}

/// Whether a datagram begins with a packet of 0-RTT (RFC 9000 section 17.2): those are of the first flight whenever they come.
fn is_early(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xb0 == 0x90)
}

pub async fn held(to: SocketAddr) -> Held {
    let (near, far) = (bound().await, bound().await);
    let (address, state) = (near.local_addr().unwrap(), Rc::new(State::default()));
    let held = state.clone();
    tokio::task::spawn_local(async move {
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut client = None;
        loop {
            tokio::select! {
                // What the client has sent before it could hear anything comes first.
                biased;
                Ok((n, from)) = near.recv_from(&mut up) => {
                    client = Some(from);
                    let is_first = held.answers.get() == 0 || is_early(&up[..n]);
                    if is_first && !held.open.get() {
                        held.flight.borrow_mut().push(up[..n].to_vec());
                    }
                    if is_first || held.open.get() {
                        let _full = far.send_to(&up[..n], to).await;
                    }
                }
                Ok((n, _)) = far.recv_from(&mut down) => {
                    if let Some(client) = client {
                        let _full = near.send_to(&down[..n], client).await;
                    }
                    held.answers.set(held.answers.get() + 1);
                    held.answered.notify_one();
                }
            }
        }
    });
    Held { address, state }
}
