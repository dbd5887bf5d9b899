//! Messages between processes of one host, with open descriptors: a Unix socket of sequenced packets.
//!
//! Blocking, for control threads; [`Channel::send_now`] alone may be called on a core. Must stay true: a message comes whole or
//! not at all; each descriptor that came with one is owned by the receiver, or closed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Descriptors that one message may carry (the kernel takes 253).
pub const DESCRIPTORS_MAX: usize = 128;

/// Who may wait to be let in.
const WAITING_MAX: i32 = 8;

/// One end of a connection.
pub struct Channel(OwnedFd);

/// Waits for others to connect.
pub struct ChannelListener(OwnedFd);

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    owned(fd)
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One byte for the zero at the end.
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let what = format!("a socket's path has at most {} bytes", address.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

fn checked(outcome: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

/// Once more when a signal came between.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl ChannelListener {
    /// Listens at `path`, in place of whoever did before.
    ///
    /// # Errors
    /// The path is too long, or nothing can be made there.
    pub fn bind(path: &Path) -> io::Result<ChannelListener> {
        let (socket, address) = (socket()?, address(path)?);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        let fd = socket.as_raw_fd();
        let ok = |outcome: i32| if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // Before it has a name: nobody else ever finds it open to all.
        // SAFETY: fchmod takes no pointers.
        ok(unsafe { libc::fchmod(fd, 0o600) })?;
        // SAFETY: passes the address and size of a live socket address.
        ok(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
        // SAFETY: listen takes no pointers.
        ok(unsafe { libc::listen(fd, WAITING_MAX) })?;
        Ok(ChannelListener(socket))
    }

    /// The next who connects.
    ///
    /// # Errors
    /// No descriptors are left, or the like.
    pub fn accept(&self) -> io::Result<Channel> {
        again(|| {
            let (no_address, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: no address is asked for.
            owned(unsafe {
                libc::accept4(self.0.as_raw_fd(), no_address, no_len, libc::SOCK_CLOEXEC)
            })
        })
        .map(Channel)
    }
}

impl Channel {
    /// Two ends, one for each of two processes.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: writes two descriptors to a live array.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((Channel(owned(ends[0])?), Channel(owned(ends[1])?)))
    }

    /// Connects to who listens at `path`.
    ///
    /// # Errors
    /// Nobody does.
    pub fn connect(path: &Path) -> io::Result<Channel> {
        let (socket, address) = (socket()?, address(path)?);
        let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        again(|| {
            // SAFETY: passes the address and size of a live socket address.
            let outcome =
                unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
            if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })?;
        Ok(Channel(socket))
    }

    /// [`Channel::receive`] gives up after this span (`WouldBlock`).
    ///
    /// # Errors
    /// None that are known of.
    pub fn set_patience(&self, span: Duration) -> io::Result<()> {
        let time = libc::timeval {
            tv_sec: span.as_secs() as libc::time_t,
            tv_usec: libc::suseconds_t::from(span.subsec_micros() as i32),
        };
        let (option, len) = (libc::SO_RCVTIMEO, size_of::<libc::timeval>() as libc::socklen_t);
        // SAFETY: passes the address and size of a live time.
        let outcome = unsafe {
            let at = (&raw const time).cast();
            libc::setsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, option, at, len)
        };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// User and process id of the other end, when it connected.
    ///
    /// # Errors
    /// None that are known of.
    pub fn peer(&self) -> io::Result<(u32, u32)> {
        let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: writes to a live value of the size given.
        let outcome = unsafe {
            let at = (&raw mut who).cast();
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                at,
                &raw mut len,
            )
        };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((who.uid, who.pid.unsigned_abs()))
    }

    /// Sends one message with copies of these descriptors.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_flagged(message, descriptors, 0)
    }

    /// Sends one message if there is room for it.
    ///
    /// # Errors
    /// `WouldBlock`: there is none; others: the other end is gone.
    pub fn send_now(&self, message: &[u8]) -> io::Result<()> {
        self.send_flagged(message, &[], libc::MSG_DONTWAIT)
    }

    fn send_flagged(
        &self,
        message: &[u8],
        descriptors: &[BorrowedFd<'_>],
        flags: i32,
    ) -> io::Result<()> {
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
        }
        let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let bytes = size_of_val(&numbers[..]) as u32;
        let mut piece =
            libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
        let mut control = control_buffer();
        // SAFETY: all zeroes is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        if !numbers.is_empty() {
            header.msg_control = control.as_mut_ptr().cast();
            // SAFETY: arithmetic only.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
            // SAFETY: arithmetic on the live header.
            let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
            // SAFETY: the control buffer is live, aligned for a header, and longer than one.
            let first = unsafe { &mut *first };
            first.cmsg_level = libc::SOL_SOCKET;
            first.cmsg_type = libc::SCM_RIGHTS;
            // SAFETY: arithmetic only.
            first.cmsg_len = unsafe { libc::CMSG_LEN(bytes) } as _;
            // SAFETY: arithmetic within the control buffer.
            let data = unsafe { libc::CMSG_DATA(first) };
            // SAFETY: behind the header the buffer has room for DESCRIPTORS_MAX numbers.
            unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr().cast(), data, bytes as usize) };
        }
        let flags = flags | libc::MSG_NOSIGNAL;
        // SAFETY: the header names live memory only.
        again(|| checked(unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const header, flags) }))
            .map(drop)
    }

    /// The next message: its length and its descriptors. Zero: the other end is gone.
    ///
    /// # Errors
    /// `WouldBlock` when patience is over; `InvalidData`: the message is longer than `into`.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut piece = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let mut control = control_buffer();
        // SAFETY: all zeroes is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control[..]) as _;
        let count = again(|| {
            let flags = libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the header names live memory only, with its true lengths.
            checked(unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, flags) })
        })?;
        let mut descriptors = Vec::new();
        // SAFETY: the kernel has filled the control buffer, and said how far.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: the macros give headers within what was filled, or null.
        while let Some(control) = unsafe { at.as_ref() } {
            if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
                // SAFETY: arithmetic only.
                let bytes = control.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize;
                // SAFETY: arithmetic within the control buffer.
                let data: *const i32 = unsafe { libc::CMSG_DATA(at) }.cast();
                for number in 0..bytes / size_of::<i32>() {
                    // SAFETY: so many numbers lie there, as the header's length says.
                    let fd = unsafe { std::ptr::read_unaligned(data.wrapping_add(number)) };
                    // SAFETY: the kernel has just made this descriptor for this process.
                    descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            // SAFETY: as above.
            at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
        }
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
        }
        Ok((count, descriptors))
    }
}

/// Room for the descriptors of one message, aligned for its header.
fn control_buffer() -> Vec<u64> {
    // SAFETY: arithmetic only.
    let bytes = unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<i32>()) as u32) };
    vec![0; (bytes as usize).div_ceil(size_of::<u64>())]
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    /// An end that came with a message.
    fn from(socket: OwnedFd) -> Channel {
        Channel(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    fn message(channel: &Channel) -> (String, Vec<OwnedFd>) {
        let mut bytes = [0; 64];
        let (len, descriptors) = channel.receive(&mut bytes).unwrap();
        (String::from_utf8(bytes[..len].to_vec()).unwrap(), descriptors)
    }

    #[test]
    fn messages_keep_their_bounds_and_bring_their_descriptors() {
        let (one, two) = Channel::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        one.send(b"first", &[writer.as_fd()]).unwrap();
        one.send(b"second", &[]).unwrap();
        drop(writer);
        let (text, mut descriptors) = message(&two);
        assert_eq!((&*text, descriptors.len()), ("first", 1));
        assert_eq!(message(&two).0, "second");
        File::from(descriptors.remove(0)).write_all(b"through").unwrap();
        let mut came = String::new();
        // Ends, since no copy is left open anywhere.
        reader.read_to_string(&mut came).unwrap();
        assert_eq!(came, "through");
        drop(one);
        assert_eq!(message(&two).0, "", "the other end is gone");
        assert!(two.send(b"x", &[]).is_err());
    }

    #[test]
    fn as_many_descriptors_as_are_allowed_come_over_and_no_more() {
        let (one, two) = Channel::pair().unwrap();
        let many = vec![one.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(one.send(b"x", &many).is_err());
        one.send(b"x", &many[1..]).unwrap();
        assert_eq!(message(&two).1.len(), DESCRIPTORS_MAX);
    }

    #[test]
    fn a_message_that_is_too_long_is_an_error_and_a_full_channel_says_so() {
        let (one, two) = Channel::pair().unwrap();
        one.send(&[7; 65], &[]).unwrap();
        assert!(two.receive(&mut [0; 64]).is_err());
        let mut sent = 0;
        while one.send_now(&[7; 1000]).is_ok() {
            sent += 1;
        }
        assert!(sent > 10);
        two.set_patience(Duration::from_millis(1)).unwrap();
        for _ in 0..sent {
            assert_eq!(two.receive(&mut [0; 1000]).unwrap().0, 1000);
        }
        let late = two.receive(&mut [0; 1000]).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn who_listens_last_at_a_path_is_found_there() {
        let path = std::env::temp_dir().join(format!("tidegate-channel-{}", std::process::id()));
        let first = ChannelListener::bind(&path).unwrap();
        let second = ChannelListener::bind(&path).unwrap();
        let client = Channel::connect(&path).unwrap();
        client.send(b"hello", &[]).unwrap();
        let server = second.accept().unwrap();
        assert_eq!(message(&server).0, "hello");
        assert_eq!(server.peer().unwrap().1, std::process::id());
        drop((first, second));
        assert!(Channel::connect(&path).is_err(), "a name without a listener");
        std::fs::remove_file(&path).unwrap();
        assert!(ChannelListener::bind(Path::new(&"x".repeat(200))).is_err());
    }
}
