//! A piece of network between a client and an edge, for one client.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use tokio::net::UdpSocket;

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
