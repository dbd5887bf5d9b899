//! UDP on the ring: readiness by ring operations; datagrams are moved by whoever knows how (in batches, by system calls on the
//! non-blocking socket), so that none are lent to the kernel.

use crate::net::{bind, ready_for, socket};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

/// A bound socket, made before the cores start: one per core and address, all with SO_REUSEPORT.
pub fn bound_datagrams(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket(address, libc::SOCK_DGRAM)?;
    bind(&socket, address)?;
    Ok(std::net::UdpSocket::from(socket))
}

/// A socket for datagrams on this thread's ring.
pub struct UdpSocket {
    socket: Rc<std::net::UdpSocket>,
}

impl UdpSocket {
    /// Takes a bound socket (see [`bound_datagrams`]).
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        socket.set_nonblocking(true)?;
        Ok(UdpSocket { socket: Rc::new(socket) })
    }

    /// Address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits until there is something to receive.
    pub async fn readable(&self) -> io::Result<()> {
        ready_for(&self.socket, libc::POLLIN).await
    }

    /// Waits until the socket takes datagrams again.
    pub async fn writable(&self) -> io::Result<()> {
        ready_for(&self.socket, libc::POLLOUT).await
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
