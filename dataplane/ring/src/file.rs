//! Files and block devices by direct I/O.
//!
//! Must stay true: offset and length of reads and writes are multiples of the device's block (the store asserts
//! it); a buffer lent to the kernel comes back with the result, also on errors.

use crate::buffer::Buf;
use crate::executor::current;
use io_uring::{opcode, types};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

/// An open file or block device. Clones share the descriptor.
#[derive(Clone)]
pub struct File {
    file: Rc<std::fs::File>,
    direct: bool,
}

impl File {
    /// Opens for reading and writing by direct I/O, where the file system has that (tmpfs has not: then by the
    /// page cache). Blocks for a moment: for use at start.
    pub fn open_direct(path: &Path, write: bool) -> io::Result<File> {
        let open =
            |flags| OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
        match open(libc::O_DIRECT) {
            Ok(file) => Ok(File { file: Rc::new(file), direct: true }),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                Ok(File { file: Rc::new(open(0)?), direct: false })
            }
            Err(e) => Err(e),
        }
    }

    /// Opens for reading through the page cache (what an origin serves).
    pub fn open_buffered(path: &Path) -> io::Result<File> {
        Ok(File { file: Rc::new(std::fs::File::open(path)?), direct: false })
    }

    /// Takes a file that is already open, to be read through the page cache.
    pub fn from_std(file: std::fs::File) -> File {
        File { file: Rc::new(file), direct: false }
    }

    /// Whether direct I/O is in use.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Length in bytes, of a block device as well.
    pub fn len(&self) -> io::Result<u64> {
        let meta = self.file.metadata()?;
        if !meta.file_type().is_block_device() {
            return Ok(meta.len());
        }
        let mut bytes = 0u64;
        // SAFETY: BLKGETSIZE64 writes one u64 to the address given.
        let outcome = unsafe { libc::ioctl(self.file.as_raw_fd(), BLKGETSIZE64, &mut bytes) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes) }
    }

    /// Length and time of the last change (seconds, nanoseconds): another one is another content.
    pub fn stamp(&self) -> io::Result<(u64, i64, i64)> {
        let meta = self.file.metadata()?;
        Ok((meta.len(), meta.mtime(), meta.mtime_nsec()))
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads into `buf` from `offset`; the count may be short only at the end of the file.
    pub async fn read_at(&self, mut buf: Buf, offset: u64) -> (io::Result<usize>, Buf) {
        let driver = current().driver.clone();
        let len = buf.len();
        let (mut done, mut is_plain) = (0, false);
        while done < len {
            let fd = types::Fd(self.file.as_raw_fd());
            // SAFETY: done < len, so the address stays inside the buffer.
            let at = unsafe { buf.pointer().add(done) };
            let rest = (len - done) as u32;
            let index = driver.registered_index(&buf).filter(|_| !is_plain);
            let position = offset + done as u64;
            let entry = match index {
                Some(index) => opcode::ReadFixed::new(fd, at, rest, index).offset(position).build(),
                None => opcode::Read::new(fd, at, rest).offset(position).build(),
            };
            // SAFETY: the buffer and the open file travel in the payload; a Buf's memory does not move with it.
            let (result, _, payload) =
                unsafe { driver.start(entry, (buf, self.file.clone())) }.await;
            buf = payload.0;
            match result {
                0 => break,
                n if n > 0 => done += n as usize,
                e if e == -libc::EINTR || e == -libc::EAGAIN => {}
                // It was let go before the kernel came to this.
                e if e == -libc::EFAULT && index.is_some() => is_plain = true,
                e => return (Err(io::Error::from_raw_os_error(-e)), buf),
            }
        }
        (Ok(done), buf)
    }

    /// Writes all of `buf` at `offset`.
    pub async fn write_at(&self, mut buf: Buf, offset: u64) -> (io::Result<()>, Buf) {
        let driver = current().driver.clone();
        let len = buf.len();
        let (mut done, mut is_plain) = (0, false);
        while done < len {
            let fd = types::Fd(self.file.as_raw_fd());
            // SAFETY: done < len, so the address stays inside the buffer.
            let at = unsafe { buf.pointer().add(done) };
            let rest = (len - done) as u32;
            let index = driver.registered_index(&buf).filter(|_| !is_plain);
            let position = offset + done as u64;
            let entry = match index {
                Some(index) => {
                    opcode::WriteFixed::new(fd, at, rest, index).offset(position).build()
                }
                None => opcode::Write::new(fd, at, rest).offset(position).build(),
            };
            // SAFETY: as in read_at.
            let (result, _, payload) =
                unsafe { driver.start(entry, (buf, self.file.clone())) }.await;
            buf = payload.0;
            match result {
                0 => return (Err(io::ErrorKind::WriteZero.into()), buf),
                n if n > 0 => done += n as usize,
                e if e == -libc::EINTR || e == -libc::EAGAIN => {}
                // It was let go before the kernel came to this.
                e if e == -libc::EFAULT && index.is_some() => is_plain = true,
                e => return (Err(io::Error::from_raw_os_error(-e)), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Gives the space of `len` bytes at `offset` back: to the file system, or to the drive (which is told that they are not
    /// needed). They read as zeroes then, or the device cannot do it and says so.
    pub async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let driver = current().driver.clone();
        let entry = opcode::Fallocate::new(types::Fd(self.file.as_raw_fd()), len)
            .offset(offset)
            .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
            .build();
        // SAFETY: the entry names no memory; the open file travels in the payload.
        let (result, _, _file) = unsafe { driver.start(entry, self.file.clone()) }.await;
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
    }

    /// Makes what was written durable (data and what is needed to find it).
    pub async fn sync_data(&self) -> io::Result<()> {
        let driver = current().driver.clone();
        let entry = opcode::Fsync::new(types::Fd(self.file.as_raw_fd()))
            .flags(types::FsyncFlags::DATASYNC)
            .build();
        // SAFETY: the entry names no memory; the open file travels in the payload.
        let (result, _, _file) = unsafe { driver.start(entry, self.file.clone()) }.await;
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
    }
}

/// Size of a block device in bytes (linux/fs.h).
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

/// Makes the file at `path`, `bytes` long, with its space really taken from the file system, so that it can not run
/// out later. Blocks: for use at start.
///
/// # Errors
/// It exists already, or there is no room.
pub fn create_preallocated(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: takes no pointers; the descriptor is open.
    let outcome = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
    if outcome != 0 {
        // A file of half the size would only confuse the next start.
        let _gone = std::fs::remove_file(path);
        return Err(io::Error::from_raw_os_error(outcome));
    }
    Ok(())
}
