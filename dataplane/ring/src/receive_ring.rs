//! Provided receive buffers: the kernel picks one when data arrives, so an idle connection holds none.
//!
//! Must stay true: `publish` is called once for each buffer the kernel handed out, after its bytes were copied;
//! between hand-out and publish the bytes belong to us. When the kernel finds none left it says ENOBUFS; the
//! caller then waits for readability and reads into memory of its own.

use io_uring::types::BufRingEntry;
use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Group id of the one ring of provided buffers that each runtime has.
pub(crate) const GROUP: u16 = 1;

pub(crate) struct ReceiveRing {
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    memory: NonNull<u8>,
    memory_layout: Layout,
    count: u16,
    buffer_bytes: usize,
    tail: u16,
}

impl ReceiveRing {
    /// `count` buffers (a power of two) of `buffer_bytes` each, registered with `ring`.
    pub(crate) fn register(
        ring: &io_uring::IoUring,
        count: u16,
        buffer_bytes: usize,
    ) -> io::Result<ReceiveRing> {
        assert!(count.is_power_of_two() && count <= 32768 && buffer_bytes > 0);
        let entries_layout = Layout::array::<BufRingEntry>(count as usize)
            .and_then(|l| l.align_to(4096))
            .map_err(io::Error::other)?
            .pad_to_align();
        let memory_layout = Layout::from_size_align(count as usize * buffer_bytes, 4096)
            .map_err(io::Error::other)?;
        // SAFETY: the layout's size is above zero (count and entry size are).
        let entries = unsafe { std::alloc::alloc_zeroed(entries_layout) };
        let entries = NonNull::new(entries.cast::<BufRingEntry>())
            .unwrap_or_else(|| std::alloc::handle_alloc_error(entries_layout));
        // SAFETY: the layout's size is above zero.
        let memory = unsafe { std::alloc::alloc_zeroed(memory_layout) };
        let memory =
            NonNull::new(memory).unwrap_or_else(|| std::alloc::handle_alloc_error(memory_layout));
        let mut this = ReceiveRing {
            entries,
            entries_layout,
            memory,
            memory_layout,
            count,
            buffer_bytes,
            tail: 0,
        };
        // SAFETY: `entries` holds `count` entries and lives until this value is dropped, which the driver does
        // only after the ring is closed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                this.entries.as_ptr() as u64,
                count,
                GROUP,
                0,
            )
        }?;
        for id in 0..count {
            this.publish(id);
        }
        Ok(this)
    }

    /// The first `len` bytes of the buffer `id`, which the kernel has just handed out.
    pub(crate) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(
            id < self.count && len <= self.buffer_bytes,
            "the kernel named a buffer that was never provided"
        );
        // SAFETY: id < count keeps the offset inside `memory`.
        let at = unsafe { self.memory.as_ptr().add(id as usize * self.buffer_bytes) };
        // SAFETY: len <= buffer_bytes, zero-initialised memory, and the kernel does not write to a buffer it handed
        // out until it is published again.
        unsafe { std::slice::from_raw_parts(at, len) }
    }

    /// Gives the buffer `id` (back) to the kernel.
    pub(crate) fn publish(&mut self, id: u16) {
        assert!(id < self.count);
        let slot = self.tail & (self.count - 1);
        // SAFETY: slot < count.
        let entry = unsafe { self.entries.as_ptr().add(slot as usize) };
        // SAFETY: id < count keeps the offset inside `memory`.
        let at = unsafe { self.memory.as_ptr().add(id as usize * self.buffer_bytes) };
        // SAFETY: the entry at `tail` is ours until the tail moves past it; only one thread touches the ring.
        let entry = unsafe { &mut *entry };
        entry.set_addr(at as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry of the ring, which is live memory.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: aligned u16 inside live memory; the kernel reads it concurrently, hence the atomic store.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for ReceiveRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout; the ring is closed, so the kernel is done with it.
        unsafe { std::alloc::dealloc(self.entries.as_ptr().cast(), self.entries_layout) };
        // SAFETY: as above.
        unsafe { std::alloc::dealloc(self.memory.as_ptr(), self.memory_layout) };
    }
}
