//! Memory that disk reads and writes go through, and that the RAM tier lives in: a process-wide arena of equal chunks
//! on huge pages, registered with every ring, and aligned heap memory for what does not fit a chunk or when the arena
//! is used up. A chunk is given whole or split into equal pieces, so that blocks of any size lie in the arena and its
//! size bounds what they take: with malloc a process of 256 MiB of blocks grew to 650 MiB (0007-memory-budget.md).
//!
//! Measured (docs/decisions/0001-ring-loop.md): a 1 MiB direct read costs 10.8 us of CPU into registered huge-page
//! memory, 16.2 registered, 42.7 plain. Must stay true: a piece has exactly one [`Buf`] at any time; it returns to
//! its chunk when that is dropped, and only the kernel operation or its future holds the `Buf` meanwhile; a chunk
//! whose pieces are all back is whole again.

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Direct I/O needs memory, offset and length aligned to the device's block; 4 KiB suits 512e and 4Kn alike.
pub(crate) const ALIGNMENT: usize = 4096;
/// One registered buffer: of 1 GiB that the kernel takes so much that it can be touched for the first time, all of it, while a core serves.
const REGISTERED_BYTES_MAX: usize = 64 << 20;
/// Of reserved pages, and of transparent ones.
const HUGE_BYTES: usize = 2 << 20;

/// Large pieces of the heap are mappings of their own from now on, given back to the host when they are freed. Left alone,
/// glibc's malloc raises that threshold with each one that is freed, and then keeps what was freed in pieces nobody fits.
/// To be called before other threads begin.
pub fn give_back_large_pieces() {
    const LARGE_BYTES: i32 = 256 << 10;
    // SAFETY: mallopt takes two numbers and changes nothing but malloc's own settings.
    let _hint = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
}

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
    /// Chunks that nothing of is given out.
    free: ArrayQueue<u32>,
    splits: Mutex<Splits>,
    huge_pages: bool,
    exhausted: AtomicU64,
    heap_bytes: Arc<AtomicU64>,
}

/// Into how many equal pieces a chunk may be split.
const SPLITS: [usize; 12] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128];

/// No chunk.
const NONE: u32 = u32::MAX;

/// A chunk that is split.
#[derive(Clone, Copy)]
struct Split {
    /// A bit for each piece that is given out.
    given: u128,
    before: u32,
    after: u32,
}

/// The split chunks: those with a free piece in a list for each kind of split, the fullest first.
struct Splits {
    chunks: Vec<Split>,
    first: [u32; SPLITS.len()],
}

impl Splits {
    fn unlink(&mut self, kind: usize, chunk: u32) {
        let Split { before, after, .. } = self.chunks[chunk as usize];
        match before {
            NONE => self.first[kind] = after,
            _ => self.chunks[before as usize].after = after,
        }
        if after != NONE {
            self.chunks[after as usize].before = before;
        }
    }

    fn link_first(&mut self, kind: usize, chunk: u32) {
        let after = std::mem::replace(&mut self.first[kind], chunk);
        if after != NONE {
            self.chunks[after as usize].before = chunk;
        }
        let split = &mut self.chunks[chunk as usize];
        (split.before, split.after) = (NONE, after);
    }

    /// A free piece; `fresh` gives a whole chunk to split.
    fn take(&mut self, kind: usize, fresh: impl FnOnce() -> Option<u32>) -> Option<(u32, u8)> {
        if self.first[kind] == NONE {
            let chunk = fresh()?;
            self.chunks[chunk as usize].given = 0;
            self.link_first(kind, chunk);
        }
        let chunk = self.first[kind];
        let given = &mut self.chunks[chunk as usize].given;
        let piece = given.trailing_ones();
        *given |= 1u128 << piece;
        if given.count_ones() as usize == SPLITS[kind] {
            self.unlink(kind, chunk);
        }
        Some((chunk, piece as u8))
    }

    /// Takes a piece back. `true`: the chunk is whole again.
    fn give(&mut self, kind: usize, chunk: u32, piece: u8) -> bool {
        let given = &mut self.chunks[chunk as usize].given;
        debug_assert!(*given & (1u128 << piece) != 0, "a piece came home twice");
        let was_full = given.count_ones() as usize == SPLITS[kind];
        *given &= !(1u128 << piece);
        let is_whole = *given == 0;
        if was_full {
            self.link_first(kind, chunk);
        }
        if is_whole {
            self.unlink(kind, chunk);
        }
        is_whole
    }
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
        let wanted = options
            .chunk_bytes
            .checked_mul(options.chunks)
            .and_then(|n| n.checked_next_multiple_of(HUGE_BYTES))
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
            splits: Mutex::new(Splits {
                chunks: vec![Split { given: 0, before: NONE, after: NONE }; options.chunks],
                first: [NONE; SPLITS.len()],
            }),
            huge_pages,
            exhausted: AtomicU64::new(0),
            heap_bytes: Arc::default(),
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

    /// Bytes that came from the heap since no chunk was free, and are not given back yet.
    pub fn heap_bytes(&self) -> u64 {
        self.heap_bytes.load(Ordering::Relaxed)
    }

    /// Chunks of which nothing is given out.
    pub fn chunks_free(&self) -> usize {
        self.free.len()
    }

    /// What [`Arena::buffer`] takes for `len` bytes. `None`: it comes from the heap.
    pub fn cost(&self, len: usize) -> Option<usize> {
        match self.kind(len)? {
            None => Some(self.chunk_bytes),
            Some(kind) => Some(self.piece_bytes(kind)),
        }
    }

    fn piece_bytes(&self, kind: usize) -> usize {
        self.chunk_bytes / SPLITS[kind] / ALIGNMENT * ALIGNMENT
    }

    /// The smallest piece that `len` bytes fit: `Some(None)` a whole chunk, `None` none.
    fn kind(&self, len: usize) -> Option<Option<usize>> {
        if len > self.chunk_bytes {
            return None;
        }
        Some((0..SPLITS.len()).rev().find(|kind| len <= self.piece_bytes(*kind)))
    }

    /// Memory for `len` bytes, at least; its length is exactly `len`. Contents are unspecified but initialised.
    pub fn buffer(self: &Arc<Self>, len: usize) -> Buf {
        let Some(kind) = self.kind(len) else { return Buf::heap(len) };
        let home = match kind {
            None => self.free.pop().map(|chunk| Home::Chunk(self.clone(), chunk)),
            Some(kind) => {
                let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = splits.take(kind, || self.free.pop());
                taken.map(|(chunk, piece)| Home::Piece(self.clone(), chunk, kind as u8, piece))
            }
        };
        if let Some(home) = home {
            return Buf { home, len };
        }
        self.exhausted.fetch_add(1, Ordering::Relaxed);
        let mut buf = Buf::heap(len);
        if let Home::Heap(_, layout, counted) = &mut buf.home {
            self.heap_bytes.fetch_add(layout.size() as u64, Ordering::Relaxed);
            *counted = Some(self.heap_bytes.clone());
        }
        buf
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

    /// Gives the memory of all chunks of which nothing is given out back to the host; they are empty, and can be used, as in the
    /// beginning. No ring may have the arena registered: the kernel would go on with the memory that was there before.
    pub fn give_back(&self) {
        let mut chunks: Vec<u32> = std::iter::from_fn(|| self.free.pop()).collect();
        chunks.sort_unstable();
        for run in chunks.chunk_by(|before, next| before + 1 == *next) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let page = if self.huge_pages { HUGE_BYTES } else { ALIGNMENT };
            let start = (*first as usize * self.chunk_bytes).next_multiple_of(page);
            let end = (*last as usize + 1) * self.chunk_bytes / page * page;
            if start < end {
                // SAFETY: the range lies in the mapping.
                let at = unsafe { self.base.as_ptr().add(start) };
                // SAFETY: the range lies in chunks that were taken out of the queue just now: nobody has a Buf of them. They
                // read as zeroes afterwards.
                unsafe { libc::madvise(at.cast(), end - start, libc::MADV_DONTNEED) };
            }
        }
        for chunk in chunks {
            let _full = self.free.push(chunk);
        }
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
    /// Chunk, kind of its split, piece.
    Piece(Arc<Arena>, u32, u8, u8),
    /// With it where it is counted.
    Heap(NonNull<u8>, Layout, Option<Arc<AtomicU64>>),
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
        Buf { home: Home::Heap(at, layout, None), len }
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        match &self.home {
            Home::Heap(at, ..) => at.as_ptr(),
            // SAFETY: a piece lies in its chunk, and that inside the arena's mapping.
            Home::Piece(arena, chunk, kind, piece) => unsafe {
                let within = *piece as usize * arena.piece_bytes(*kind as usize);
                arena.base.as_ptr().add(*chunk as usize * arena.chunk_bytes + within)
            },
            // SAFETY: chunk < chunks, so the offset stays inside the arena's mapping.
            Home::Chunk(arena, chunk) => unsafe {
                arena.base.as_ptr().add(*chunk as usize * arena.chunk_bytes)
            },
        }
    }

    /// Which registered piece of the arena this memory lies in, when it is of the arena `registered`.
    pub(crate) fn registered_index(&self, registered: &Arena) -> Option<u16> {
        match &self.home {
            Home::Chunk(arena, chunk) | Home::Piece(arena, chunk, ..)
                if std::ptr::eq(Arc::as_ptr(arena), registered) =>
            {
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
            Home::Piece(arena, chunk, kind, piece) => {
                let mut splits = arena.splits.lock().unwrap_or_else(PoisonError::into_inner);
                if splits.give(*kind as usize, *chunk, *piece) {
                    let pushed = arena.free.push(*chunk);
                    debug_assert!(pushed.is_ok(), "a chunk came home twice");
                }
            }
            Home::Heap(at, layout, counted) => {
                if let Some(counted) = counted {
                    counted.fetch_sub(layout.size() as u64, Ordering::Relaxed);
                }
                // SAFETY: allocated in `heap` with this layout, and this is the only owner.
                unsafe { std::alloc::dealloc(at.as_ptr(), *layout) }
            }
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
    fn pieces_of_all_sizes_never_overlap_and_chunks_become_whole_again() {
        // Goal: the arena is one owner's at a time, whatever sizes come and go. Method: seeded random takes and drops,
        // each buffer filled with its own number and read back before it goes.
        const CHUNKS: usize = 16;
        let arena = Arena::new(ArenaOptions { chunk_bytes: 129 * 4096, chunks: CHUNKS }).unwrap();
        let mut state = 1u64;
        let mut random = move |end: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % end
        };
        for _ in 0..5 {
            let mut held: Vec<(u64, Buf)> = Vec::new();
            for number in 0..3_000u64 {
                if random(5) < 3 {
                    let mut buf = arena.buffer(1 + random(129 * 4096));
                    let len = buf.len();
                    if let Some(cost) = arena.cost(len) {
                        assert!(cost >= len && cost < 2 * len + 8192, "{cost} for {len}");
                    }
                    for word in buf.as_mut().chunks_mut(8).step_by(64) {
                        word.copy_from_slice(&number.to_le_bytes()[..word.len()]);
                    }
                    held.push((number, buf));
                } else if !held.is_empty() {
                    let (number, buf) = held.swap_remove(random(held.len()));
                    for word in buf.as_ref().chunks(8).step_by(64) {
                        assert_eq!(word, &number.to_le_bytes()[..word.len()]);
                    }
                }
                while held.len() > 40 {
                    held.swap_remove(0);
                }
            }
            drop(held);
            assert_eq!((arena.chunks_free(), arena.heap_bytes()), (CHUNKS, 0));
        }
        assert!(arena.exhausted() > 0, "the test reaches the arena's end");
    }

    /// Bytes of a mapping that are in memory.
    fn resident(arena: &Arena) -> usize {
        let mut pages = vec![0; arena.mapped_bytes / ALIGNMENT];
        // SAFETY: the range is the arena's mapping, and there is a byte for each of its pages.
        let result = unsafe {
            libc::mincore(arena.base.as_ptr().cast(), arena.mapped_bytes, pages.as_mut_ptr())
        };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 != 0).count() * ALIGNMENT
    }

    #[test]
    fn what_is_given_back_is_empty_and_good_as_new_and_what_is_in_use_stays() {
        const CHUNK: usize = 2 << 20;
        let arena = Arena::new(ArenaOptions { chunk_bytes: CHUNK, chunks: 16 }).unwrap();
        let mut held: Vec<Buf> = (0..16).map(|_| arena.buffer(CHUNK)).collect();
        held.iter_mut().for_each(|buf| buf.as_mut().fill(7));
        assert_eq!(resident(&arena), 16 * CHUNK);
        held.retain(|buf| (buf.pointer() as usize / CHUNK).is_multiple_of(4));
        arena.give_back();
        assert_eq!((resident(&arena), arena.chunks_free()), (held.len() * CHUNK, 16 - held.len()));
        assert!(held.iter().all(|buf| buf.as_ref().iter().all(|b| *b == 7)));
        let again: Vec<Buf> = (held.len()..16).map(|_| arena.buffer(CHUNK)).collect();
        assert!(again.iter().all(|buf| buf.as_ref().iter().all(|b| *b == 0)));
        assert_eq!(arena.exhausted(), 0);
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
