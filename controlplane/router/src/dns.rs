//! The DNS loops: UDP with response-rate limiting, TCP with limits on connections, questions and time.
//!
//! Must stay true: one message is one bounded piece of work; a slow or silent TCP peer holds only its own
//! permit.

use crate::decision_log::Line;
use crate::limit::{Limiter, Permission};
use crate::serve::Shared;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidegate_dns::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub(crate) async fn udp(shared: Arc<Shared>, socket: UdpSocket, mut limiter: Limiter) {
    // Queries are small; a longer datagram is cut here and then malformed.
    let mut message = [0u8; 1500];
    let mut out = Vec::with_capacity(1500);
    loop {
        // An error here is an ICMP message about an earlier answer; the socket stays usable.
        let Ok((length, peer)) = socket.recv_from(&mut message).await else { continue };
        let permission = limiter.ask(shared.now(), peer.ip());
        if permission == Permission::Silence {
            shared.counters.dns_silenced.fetch_add(1, Relaxed);
            continue;
        }
        if !answer(&shared, &message[..length], peer.ip(), Transport::Udp, &mut out) {
            continue;
        }
        if permission == Permission::Slip {
            shared.counters.dns_slipped.fetch_add(1, Relaxed);
            slip(&mut out);
        }
        let _ = socket.send_to(&out, peer).await;
    }
}

/// Cuts an answer to its header and sets TC: whoever really asked comes back over TCP.
fn slip(out: &mut Vec<u8>) {
    out.truncate(12);
    out[2] |= 2;
    out[4..].fill(0);
}

pub(crate) async fn tcp(shared: Arc<Shared>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
    let peers: Peers = Arc::default();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // One network that holds many silent connections does not keep the others out.
                let Some(seat) = Seat::take(&peers, peer.ip()) else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    let (_permit, _seat) = (permit, seat);
                    let _ = connection(&shared, stream, peer.ip()).await;
                });
            }
            // Out of file descriptors, mostly: let some connections end first.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Open connections by network.
type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection of a network.
struct Seat {
    peers: Peers,
    network: IpAddr,
}

impl Seat {
    /// `None`: this network has as many as it may.
    fn take(peers: &Peers, peer: IpAddr) -> Option<Seat> {
        let network = match peer.to_canonical() {
            // A /64 is what one customer has.
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
            v4 => v4,
        };
        let mut open = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(network).or_default();
        if *count >= TCP_CONNECTIONS_OF_ONE_MAX {
            return None;
        }
        *count += 1;
        Some(Seat { peers: peers.clone(), network })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

/// RFC 7766: questions one after another on one connection, each with two bytes of length before it.
async fn connection(shared: &Shared, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
    let mut message = Vec::new();
    let mut out = Vec::new();
    for _ in 0..TCP_QUESTIONS_MAX {
        let length = usize::from(timeout(TCP_IDLE, stream.read_u16()).await??);
        if length > TCP_QUESTION_BYTES_MAX {
            return Ok(());
        }
        message.resize(length, 0);
        timeout(TCP_IDLE, stream.read_exact(&mut message)).await??;
        if !answer(shared, &message, peer, Transport::Tcp, &mut out) {
            return Ok(());
        }
        let framed = [&(out.len() as u16).to_be_bytes()[..], &out].concat();
        timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

/// Answers one message; `false`: nothing is to be sent.
fn answer(
    shared: &Shared,
    message: &[u8],
    peer: IpAddr,
    transport: Transport,
    out: &mut Vec<u8>,
) -> bool {
    let running = shared.running.load();
    let health = shared.health.load();
    let answered =
        crate::zone::answer(&running.table, &running.zone, &health, message, peer, transport, out);
    let count = &shared.counters;
    let counter = if answered.send { count.dns(answered.rcode) } else { &count.dns_ignored };
    counter.fetch_add(1, Relaxed);
    count.dns_truncated.fetch_add(u64::from(answered.truncated), Relaxed);
    if let Some((host, client, decision, answers)) = &answered.steered {
        count.decided(decision);
        if shared.log.is_on() {
            let generation = running.table.snapshot().generation;
            let line = Line::new("dns", *client, host, answered.rcode as u16, generation);
            shared.log.put(line.decided(decision, *answers));
        }
    }
    answered.send
}

const TCP_CONNECTIONS_MAX: usize = 256;
const TCP_CONNECTIONS_OF_ONE_MAX: usize = 32;
const TCP_QUESTIONS_MAX: usize = 100;
const TCP_QUESTION_BYTES_MAX: usize = 4096;
const TCP_IDLE: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_its_share_and_no_more() {
        let peers: Peers = Arc::default();
        let take = |peer: &str| Seat::take(&peers, peer.parse().expect("an address"));
        let mut seats: Vec<Seat> =
            (0..TCP_CONNECTIONS_OF_ONE_MAX).filter_map(|_| take("192.0.2.1")).collect();
        assert_eq!(seats.len(), TCP_CONNECTIONS_OF_ONE_MAX);
        assert!(take("192.0.2.1").is_none());
        assert!(take("::ffff:192.0.2.1").is_none(), "the same address");
        assert!(take("192.0.2.2").is_some());
        let six: Vec<Seat> = (0..TCP_CONNECTIONS_OF_ONE_MAX)
            .filter_map(|n| take(&format!("2001:db8::{n:x}")))
            .collect();
        assert!(take("2001:db8::ffff").is_none(), "the same /64");
        assert!(take("2001:db8:0:1::1").is_some());
        seats.pop();
        assert!(take("192.0.2.1").is_some(), "one has left");
        drop((seats, six));
        assert!(peers.lock().expect("no test thread panics").is_empty());
    }
}
