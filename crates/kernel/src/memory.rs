//! Aligned, zeroed f32 memory; and what was freed, back to the system.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Gives memory that was freed back to the system, as far as the allocator keeps any. Takes milliseconds where that is much.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointer goes in or out; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the allocator may keep for itself where it would give back, at the end of each of its heaps.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 1 << 20;

/// Asks the allocator to give back what lies free at the end of a heap. By itself it would raise that bound with the size of
/// what it frees, up to 64 MiB a heap, and [`give_back_freed`] does not reach there.
pub fn keep_little_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        // SAFETY: no pointer goes in or out; the allocator takes its own locks.
        let taken = unsafe { libc::mallopt(parameter, KEPT) };
        debug_assert_eq!(taken, 1, "parameter {parameter} of the allocator");
    }
}

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of f32 values, aligned to a cache line; from 2 MiB on aligned to, and asking for, huge pages:
/// a forward pass touches every weight, and 4 KiB pages would miss the TLB all the way.
pub(super) struct AlignedBuffer {
    start: NonNull<f32>,
    len: usize,
    layout: Layout,
}

// SAFETY: it owns plain memory, like a `Box<[f32]>`.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared references only read.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `len` zeros.
    pub(super) fn zeroed(len: usize) -> AlignedBuffer {
        let bytes = len.max(1).checked_mul(size_of::<f32>()).expect("less than the address space");
        let alignment = if bytes >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        let size = bytes.next_multiple_of(alignment);
        let layout = Layout::from_size_align(size, alignment).expect("less than the address space");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start.cast::<f32>()) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if alignment == HUGE_PAGE {
            // SAFETY: the range is ours. The advice may be refused, which costs speed only.
            unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
        }
        // Only now, so that the first touch already finds huge pages.
        // SAFETY: `size` bytes were just allocated.
        unsafe { start.as_ptr().cast::<u8>().write_bytes(0, size) };
        AlignedBuffer { start, len, layout }
    }

    /// Makes room for at least `len` values; the old ones are lost.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len < len {
            // Freed first: the old and the new need not be there at once.
            *self = AlignedBuffer::default();
            *self = AlignedBuffer::zeroed(len);
        }
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        AlignedBuffer::zeroed(0)
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: allocated and zeroed for `len` values.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: allocated and zeroed for `len` values, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_of_the_asked_length() {
        for (len, alignment) in [(0, 64), (1, 64), (17, 64), (HUGE_PAGE / 4, HUGE_PAGE), (HUGE_PAGE / 4 + 1, HUGE_PAGE)]
        {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % alignment, 0, "{len}");
            assert!(buffer.iter().all(|&value| value == 0.0));
            buffer.fill(1.0);
            buffer.reserve(len / 2);
            assert_eq!(buffer.len(), len, "never shrinks");
            buffer.reserve(len + 1);
            assert!(buffer.len() > len && buffer.iter().all(|&value| value == 0.0));
        }
    }
}
