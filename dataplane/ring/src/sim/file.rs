//! Files: of the ring, or on a disk that a test gives.

use super::{TEST, current};
use crate::buffer::Buf;
use crate::file::File as RingFile;
use crate::time::sleep;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// What lies under a simulated file. An operation is begun, takes as long as the disk says, and is done at its end.
pub trait Disk {
    fn size(&self) -> u64;
    /// How long the next operation takes.
    fn delay(&self) -> Duration;
    /// # Errors
    /// As a disk has them.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// The disk has been told what to write, and a power cut may find it half done. Gives a number for `end_write`.
    fn begin_write(&self, offset: u64, data: &[u8]) -> u64;
    /// # Errors
    /// As a disk has them.
    fn end_write(&self, number: u64) -> io::Result<()>;
    /// # Errors
    /// As a disk has them.
    fn flush(&self) -> io::Result<()>;
}

#[derive(Clone)]
enum Kind {
    Ring(RingFile),
    Simulated(Rc<dyn Disk>),
}

/// As the ring's `File`.
#[derive(Clone)]
pub struct File(Kind);

impl File {
    /// A file on `disk`.
    pub fn simulated(disk: Rc<dyn Disk>) -> File {
        File(Kind::Simulated(disk))
    }

    /// # Errors
    /// As the ring's.
    pub fn open_direct(path: &Path, write: bool) -> io::Result<File> {
        Ok(File(Kind::Ring(RingFile::open_direct(path, write)?)))
    }

    /// # Errors
    /// As the ring's.
    pub fn open_buffered(path: &Path) -> io::Result<File> {
        Ok(File(Kind::Ring(RingFile::open_buffered(path)?)))
    }

    pub fn from_std(file: std::fs::File) -> File {
        File(Kind::Ring(RingFile::from_std(file)))
    }

    pub fn is_direct(&self) -> bool {
        match &self.0 {
            Kind::Ring(file) => file.is_direct(),
            Kind::Simulated(_) => true,
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn len(&self) -> io::Result<u64> {
        match &self.0 {
            Kind::Ring(file) => file.len(),
            Kind::Simulated(disk) => Ok(disk.size()),
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn stamp(&self) -> io::Result<(u64, i64, i64)> {
        match &self.0 {
            Kind::Ring(file) => file.stamp(),
            Kind::Simulated(disk) => Ok((disk.size(), 0, 0)),
        }
    }

    /// # Errors
    /// As the ring's.
    pub fn is_empty(&self) -> io::Result<bool> {
        match &self.0 {
            Kind::Ring(file) => file.is_empty(),
            Kind::Simulated(disk) => Ok(disk.size() == 0),
        }
    }

    pub async fn read_at(&self, mut buf: Buf, offset: u64) -> (io::Result<usize>, Buf) {
        let disk = match &self.0 {
            Kind::Ring(file) => return file.read_at(buf, offset).await,
            Kind::Simulated(disk) => disk.clone(),
        };
        let lent = async move {
            sleep(disk.delay()).await;
            let outcome = disk.read(offset, buf.as_mut()).map(|()| buf.len());
            (outcome, buf)
        };
        detached(lent).await
    }

    pub async fn write_at(&self, buf: Buf, offset: u64) -> (io::Result<()>, Buf) {
        let disk = match &self.0 {
            Kind::Ring(file) => return file.write_at(buf, offset).await,
            Kind::Simulated(disk) => disk.clone(),
        };
        let number = disk.begin_write(offset, buf.as_ref());
        let lent = async move {
            sleep(disk.delay()).await;
            (disk.end_write(number), buf)
        };
        detached(lent).await
    }

    /// # Errors
    /// In a simulated world nothing is given back.
    pub async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match &self.0 {
            Kind::Ring(file) => file.discard(offset, len).await,
            Kind::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// # Errors
    /// As the ring's.
    pub async fn sync_data(&self) -> io::Result<()> {
        let disk = match &self.0 {
            Kind::Ring(file) => return file.sync_data().await,
            Kind::Simulated(disk) => disk.clone(),
        };
        detached(async move {
            sleep(disk.delay()).await;
            disk.flush()
        })
        .await
    }
}

/// Runs as the kernel does: to its end, whoever still waits for it.
async fn detached<T: 'static>(operation: impl Future<Output = T> + 'static) -> T {
    struct Lent<T> {
        value: Option<T>,
        waiter: Option<Waker>,
    }
    let world = current().expect("simulated files are used inside of their world");
    let lent = Rc::new(RefCell::new(Lent { value: None, waiter: None }));
    let theirs = lent.clone();
    world.insert_in(
        TEST,
        Box::pin(async move {
            let value = operation.await;
            let waiter = {
                let mut lent = theirs.borrow_mut();
                lent.value = Some(value);
                lent.waiter.take()
            };
            waiter.into_iter().for_each(Waker::wake);
        }),
    );
    std::future::poll_fn(|cx| {
        let mut lent = lent.borrow_mut();
        match lent.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                lent.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}
