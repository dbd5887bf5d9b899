//! Memory that disk reads and writes go through: a process-wide arena of equal chunks on huge pages, registered
//! with every ring, and aligned heap memory for what does not fit a chunk or when the arena is used up.
//!
//! Measured (docs/decisions/0001-ring-loop.md): a 1 MiB direct read costs 10.8 us of CPU into registered huge-page
//! memory, 16.2 registered, 42.7 plain. Must stay true: a chunk has exactly one [`Buf`] at any time; it returns to
//! the free list when that is dropped, and only the kernel operation or its future holds the `Buf` meanwhile.

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Direct I/O needs memory, offset and length aligned to the device's block; 4 KiB suits 512e and 4Kn alike.
pub(crate) const ALIGNMENT: usize = 4096;
/// The kernel takes at most 1 GiB in one registered buffer.
const REGISTERED_BYTES_MAX: usize = 1 << 30;

/// Size of an arena.
#[derive(Debug, Clone, Copy)]
pub struct ArenaOptions {
    /// Bytes of one chunk, a multiple of 4096.
    pub chunk_bytes: usize,
    /// Number of chunks.
    pub chunks: usize,
}

/// Chunks of equal size in one mapping.
pub struct Arena {
    base: NonNull<u8>,
    mapped_bytes: usize,
    chunk_bytes: usize,
    free: ArrayQueue<u32>,
    huge_pages: bool,
    exhausted: AtomicU64,
}

// SAFETY: the mapping is plain memory that lives as long as the Arena; chunks are handed out one owner at a time
// through a thread-safe queue.
unsafe impl Send for Arena {}
// SAFETY: as above; shared access only reads fields and uses the queue.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps the arena: on explicit huge pages when the host has reserved some, else with a hint for transparent ones.
    pub fn new(options: ArenaOptions) -> io::Result<Arc<Arena>> {
        assert!(options.chunk_bytes.is_multiple_of(ALIGNMENT) && options.chunk_bytes > 0);
        assert!(options.chunks > 0 && options.chunks <= u32::MAX as usize);
        const HUGE: usize = 2 << 20;
        let wanted = options
            .chunk_bytes
            .checked_mul(options.chunks)
            .and_then(|n| n.checked_next_multiple_of(HUGE))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "arena size overflows"))?;
        let map = |flags: i32| {
            // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
            let at = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    wanted,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                    -1,
                    0,
                )
            };
            if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
        };
        let (at, huge_pages) = match map(libc::MAP_HUGETLB) {
            Ok(at) => (at, true),
            Err(_) => {
                let at = map(0)?;
                // SAFETY: the range is the mapping made above; MADV_HUGEPAGE is a hint and changes no contents.
                unsafe { libc::madvise(at, wanted, libc::MADV_HUGEPAGE) };
                (at, false)
            }
        };
        let base = NonNull::new(at.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap gave a null address"))?;
        let free = ArrayQueue::new(options.chunks);
        for chunk in 0..options.chunks as u32 {
            let _full = free.push(chunk);
        }
        Ok(Arc::new(Arena {
            base,
            mapped_bytes: wanted,
            chunk_bytes: options.chunk_bytes,
            free,
            huge_pages,
            exhausted: AtomicU64::new(0),
        }))
    }

    /// Whether the mapping is on reserved huge pages (`vm.nr_hugepages`).
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Bytes that the arena may come to occupy.
    pub fn bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// How often a buffer had to come from the heap since no chunk was free.
    pub fn exhausted(&self) -> u64 {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// Chunks that nobody holds.
    pub fn chunks_free(&self) -> usize {
        self.free.len()
    }

    /// Memory for `len` bytes, at least; its length is exactly `len`. Contents are unspecified but initialised. What
    /// would leave more than half of a chunk unused comes from the heap: registration gains little there (4 KiB: 3.4
    /// against 3.8 us).
    pub fn buffer(self: &Arc<Self>, len: usize) -> Buf {
        if len > self.chunk_bytes / 2 && len <= self.chunk_bytes {
            if let Some(chunk) = self.free.pop() {
                return Buf { home: Home::Chunk(self.clone(), chunk), len };
            }
            self.exhausted.fetch_add(1, Ordering::Relaxed);
        }
        Buf::heap(len)
    }

    /// The whole mapping as the pieces to register with a ring.
    pub(crate) fn registrations(&self) -> Vec<libc::iovec> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < self.mapped_bytes {
            let len = (self.mapped_bytes - at).min(self.registration_stride());
            // SAFETY: at < mapped_bytes, so the address stays inside the mapping.
            let piece = unsafe { self.base.as_ptr().add(at) };
            pieces.push(libc::iovec { iov_base: piece.cast(), iov_len: len });
            at += len;
        }
        pieces
    }

    /// Chunks never straddle two registered pieces.
    fn registration_stride(&self) -> usize {
        REGISTERED_BYTES_MAX / self.chunk_bytes * self.chunk_bytes
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size, and every Buf holds an Arc, so none is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}

enum Home {
    Chunk(Arc<Arena>, u32),
    Heap(NonNull<u8>, Layout),
}

/// A piece of aligned memory with one owner.
pub struct Buf {
    home: Home,
    len: usize,
}

// SAFETY: a Buf is the only owner of its memory, and the memory may be used from any thread.
unsafe impl Send for Buf {}
// SAFETY: shared access to a Buf only reads its memory.
unsafe impl Sync for Buf {}

impl Buf {
    /// Aligned memory from the heap.
    pub fn heap(len: usize) -> Buf {
        let size = len.max(1).next_multiple_of(ALIGNMENT);
        let layout = Layout::from_size_align(size, ALIGNMENT)
            .expect("a buffer length is far below isize::MAX");
        // SAFETY: the layout has a size above zero. Zeroed, so that its contents are always initialised.
        let at = unsafe { std::alloc::alloc_zeroed(layout) };
        let at = NonNull::new(at).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Buf { home: Home::Heap(at, layout), len }
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        match &self.home {
            Home::Heap(at, _) => at.as_ptr(),
            // SAFETY: chunk < chunks, so the offset stays inside the arena's mapping.
            Home::Chunk(arena, chunk) => unsafe {
                arena.base.as_ptr().add(*chunk as usize * arena.chunk_bytes)
            },
        }
    }

    /// Which registered piece of the arena this memory lies in, when it is of the arena `registered`.
    pub(crate) fn registered_index(&self, registered: &Arena) -> Option<u16> {
        match &self.home {
            Home::Chunk(arena, chunk) if std::ptr::eq(Arc::as_ptr(arena), registered) => {
                u16::try_from(*chunk as usize * arena.chunk_bytes / arena.registration_stride())
                    .ok()
            }
            _ => None,
        }
    }

    /// Usable bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no usable bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shortens to `len` bytes; longer values change nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Turns into shared immutable bytes without a copy; the memory goes home when the last of them is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: pointer() is valid for len bytes, initialised (zero pages or alloc_zeroed), and this Buf owns them.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len) }
    }
}

impl AsMut<[u8]> for Buf {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in as_ref, and the exclusive borrow of the only owner makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.len) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        match &self.home {
            Home::Chunk(arena, chunk) => {
                let pushed = arena.free.push(*chunk);
                debug_assert!(pushed.is_ok(), "a chunk came home twice");
            }
            // SAFETY: allocated in `heap` with this layout, and this is the only owner.
            Home::Heap(at, layout) => unsafe { std::alloc::dealloc(at.as_ptr(), *layout) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_home_and_never_overlap() {
        let arena = Arena::new(ArenaOptions { chunk_bytes: 128 * 1024, chunks: 8 }).unwrap();
        for round in 0..3u8 {
            let mut held: Vec<Buf> = (0..8).map(|_| arena.buffer(100_000)).collect();
            for (i, buf) in held.iter_mut().enumerate() {
                assert!(buf.registered_index(&arena).is_some());
                buf.as_mut().fill(round * 8 + i as u8);
            }
            for (i, buf) in held.iter().enumerate() {
                assert!(buf.as_ref().iter().all(|b| *b == round * 8 + i as u8));
            }
            let spill = arena.buffer(100_000);
            assert!(spill.registered_index(&arena).is_none(), "the ninth comes from the heap");
            let shared = held.pop().unwrap().freeze();
            drop(held);
            let clone = shared.slice(10..20);
            drop(shared);
            assert_eq!(clone.len(), 10);
        }
        assert_eq!(arena.free.len(), 8);
        assert_eq!(arena.exhausted(), 3);
    }

    #[test]
    fn heap_memory_is_aligned() {
        for len in [0, 1, 4095, 4096, 70_000] {
            let buf = Buf::heap(len);
            assert_eq!(buf.pointer() as usize % ALIGNMENT, 0);
            assert_eq!(buf.as_ref().len(), len);
        }
    }
}
