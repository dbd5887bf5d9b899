//! The one crate that talks to io_uring, and the only one with unsafe code: ring, executor, buffers, sockets,
//! files, timers, core-to-core wake-ups; channels to other processes.
//!
//! One [`Runtime`] per thread. Everything made on it stays on it (`!Send`); what crosses cores is a [`std::task::Waker`]
//! (each task may be woken from any thread; on a ring thread that is one MSG_RING message) or a [`Buf`].
//!
//! Must stay true:
//! - Memory and descriptors that the kernel may still touch are owned by the operation, not by the future: a
//!   dropped future leaves an orphan behind that holds them until its terminal completion (see `driver.rs`).
//! - An operation is named by slot + generation, never by a pointer, so a late completion finds its own slot or none.
//! - No queue without a limit: submission and completion queue, receive buffers and the buffer arena have fixed
//!   sizes; what happens at each limit is counted in [`Stats`].
//!
//! With the feature `sim` (tests only) the same types may also be of a simulated world, see `sim.rs`.
//!
//! Not here: protocols, policy, logging.
#![allow(unsafe_code)] // this crate is the rim; every block carries its reason

mod buffer;
mod channel;
mod driver;
mod executor;
mod file;
mod ktls;
mod net;
mod probe;
mod receive_ring;
pub mod signal;
#[cfg(feature = "sim")]
pub mod sim;
mod time;
mod udp;

pub use buffer::{Arena, ArenaOptions, Buf, give_back_large_pieces};
pub use channel::{Channel, ChannelListener, DESCRIPTORS_MAX};
pub use driver::{Options, Stats};
pub use executor::{
    JoinHandle, Runtime, register_piece, spawn, stats, unregister_arena, yield_now,
};
#[cfg(not(feature = "sim"))]
pub use file::File;
pub use file::create_preallocated;
pub use ktls::{KernelSealing, SealCipher, SealKey};
pub use net::{PathInfo, bound_listener};
#[cfg(not(feature = "sim"))]
pub use net::{TcpListener, TcpStream, empty_message, give_back_message};
pub use probe::RingError;
#[cfg(feature = "sim")]
pub use sim::{File, TcpListener, TcpStream, empty_message, give_back_message};
pub use time::{
    Elapsed, Sleep, now, sleep, sleep_until, started, timeout, turn_now, wall_at, wall_now,
};
pub use udp::{UdpSocket, bound_datagrams};
