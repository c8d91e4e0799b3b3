//! Memory of the card, and of the host for it.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::answer::driver;
use super::shared::{Shared, Taken};
use crate::card::{Address, CardError, CardResult};

/// Memory of a [`CudaCard`](super::CudaCard).
pub struct CudaMemory {
    address: CUdeviceptr,
    bytes: usize,
    shared: Arc<Shared>,
}

impl CudaMemory {
    pub(super) fn take(shared: &Arc<Shared>, bytes: usize) -> CardResult<CudaMemory> {
        shared.make_current()?;
        let memory = CudaMemory { address: shared.take(bytes)?, bytes, shared: shared.clone() };
        if bytes > 0 {
            // SAFETY: so many bytes were taken by this stream, and nobody else knows them yet.
            let cleared = unsafe { result::memset_d8_async(memory.address, 0, bytes, shared.stream()) };
            driver("cuMemsetD8Async", cleared)?;
        }
        Ok(memory)
    }

    pub(super) fn address(&self) -> Address {
        Address(self.address)
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        self.shared.give_back(Taken::OnCard(self.address));
    }
}

impl fmt::Debug for CudaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaMemory").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Memory of the host, page-locked, so that a [`CudaCard`](super::CudaCard) copies from and to it by itself.
pub struct CudaStaging {
    start: *mut c_void,
    bytes: usize,
    shared: Arc<Shared>,
}

// SAFETY: it is the only one that has this memory, apart from the card, as whoever asks for copies promises.
unsafe impl Send for CudaStaging {}

impl CudaStaging {
    pub(super) fn take(shared: &Arc<Shared>, bytes: usize) -> CardResult<CudaStaging> {
        shared.make_current()?;
        // Nothing cannot be taken.
        let room = bytes.max(1);
        // SAFETY: no conditions.
        let start = driver("cuMemHostAlloc", unsafe { result::malloc_host(room, 0) })?;
        // SAFETY: so many bytes were taken, and nobody else knows them yet.
        unsafe { start.cast::<u8>().write_bytes(0, room) };
        Ok(CudaStaging { start, bytes, shared: shared.clone() })
    }

    /// Where the first so many bytes lie.
    pub(super) fn first(&self, bytes: usize) -> CardResult<*mut c_void> {
        if bytes > self.bytes {
            let room = self.bytes;
            return Err(CardError::Failed(format!("a copy of {bytes} bytes, where the host has {room}")));
        }
        Ok(self.start)
    }
}

impl AsMut<[u8]> for CudaStaging {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialised, and this one's; the card copies nothing meanwhile, as whoever asked for copies promised.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes) }
    }
}

impl Drop for CudaStaging {
    fn drop(&mut self) {
        self.shared.give_back(Taken::OnHost(self.start));
    }
}

impl fmt::Debug for CudaStaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaStaging").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
