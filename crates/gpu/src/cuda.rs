//! A card that is an NVIDIA GPU, by the driver's own interface and cuBLASLt.
//!
//! - `answer`: what the libraries answer, in words.
//! - `shared`: what a card, its memory and its recordings have in common: context, stream, kernels, workspace.
//! - `memory`: memory of the card, and of the host for it.
//! - `event`: moments in a stream.
//! - `recording`: graphs.
//! - `products`: which of cuBLASLt's algorithms computes what.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::{self, device, function, mem_pool};
use cudarc::driver::sys::{
    CUdevice_attribute, CUfunction, CUfunction_attribute, cuMemcpyDtoHAsync_v2, cuMemcpyHtoDAsync_v2,
};

use crate::card::{Address, Card, CardError, CardResult, Launch, Product};

mod answer;
mod event;
mod memory;
mod products;
mod recording;
mod shared;

use answer::driver;
use products::Products;
use shared::Shared;

pub use event::CudaMark;
pub use memory::{CudaMemory, CudaStaging};
pub use recording::CudaRecording;

/// As much shared memory a kernel may have without asking for more.
const SHARED_UNASKED: u32 = 48 << 10;

/// A GPU, with a stream of its own.
pub struct CudaCard {
    functions: RefCell<HashMap<CString, Function>>,
    products: RefCell<Products>,
    shared: Arc<Shared>,
    ordinal: usize,
    name: String,
    capability: (u32, u32),
}

/// A kernel, and the most shared memory that was asked for it so far.
struct Function {
    function: CUfunction,
    shared_bytes: u32,
}

// SAFETY: functions and cuBLASLt's descriptors belong to no thread. All that the driver keeps by thread is which context is
// current, and each call sees to that. No two threads use a card at once, as it is not `Sync`.
unsafe impl Send for CudaCard {}

impl fmt::Debug for CudaCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CudaCard");
        shown.field("ordinal", &self.ordinal).field("name", &self.name).field("capability", &self.capability);
        shown.finish_non_exhaustive()
    }
}

impl CudaCard {
    /// Makes the card with this number ready, by the driver's counting. Large products are computed by the fastest of the algorithms
    /// that cuBLASLt recommends first, which may be another one at the next start.
    ///
    /// # Errors
    /// What the driver says; `Failed` as well where it is missing.
    pub fn open(ordinal: usize) -> CardResult<CudaCard> {
        driver("cuInit", result::init())?;
        let number = i32::try_from(ordinal).map_err(|_| CardError::Failed(format!("no card has number {ordinal}")))?;
        let device = driver("cuDeviceGet", device::get(number))?;
        let attribute = |attribute| {
            // SAFETY: a device that the driver named.
            let value = unsafe { device::get_attribute(device, attribute) };
            driver("cuDeviceGetAttribute", value).map(|value| value as u32)
        };
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let has_pools = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
        let name = driver("cuDeviceGetName", device::get_name(device))?;
        // What NVIDIA recommends for cuBLAS: 32 MiB for Hopper and newer ones, 4 for others, where more does no harm.
        let workspace_bytes = if major >= 9 { 32 << 20 } else { 8 << 20 };
        Ok(CudaCard {
            functions: RefCell::default(),
            products: RefCell::default(),
            shared: Arc::new(Shared::open(device, has_pools, workspace_bytes)?),
            ordinal,
            name,
            capability: (major, minor),
        })
    }

    /// The kernel of this name, ready for so much shared memory.
    fn function(&self, kernel: &CStr, shared_bytes: u32) -> CardResult<CUfunction> {
        let functions = &mut *self.functions.borrow_mut();
        let known = match functions.get_mut(kernel) {
            Some(known) => known,
            None => {
                let function = self.shared.function(kernel)?;
                functions.entry(kernel.to_owned()).or_insert(Function { function, shared_bytes: SHARED_UNASKED })
            }
        };
        if shared_bytes > known.shared_bytes {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of the module, which lives as long as the card.
            let set = unsafe { function::set_function_attribute(known.function, attribute, shared_bytes as i32) };
            driver(format_args!("cuFuncSetAttribute of {kernel:?}, {shared_bytes} bytes of shared memory"), set)?;
            known.shared_bytes = shared_bytes;
        }
        Ok(known.function)
    }
}

impl Card for CudaCard {
    type Memory = CudaMemory;
    type Staging = CudaStaging;
    type Recording = CudaRecording;
    type Mark = CudaMark;

    fn give_back_unused(&self) -> CardResult<()> {
        // What is to be freed is freed in the stream's order.
        self.wait()?;
        let Some(pool) = self.shared.pool else { return Ok(()) };
        // SAFETY: a pool that the driver named, which lives as long as the device; what is in use stays.
        driver("cuMemPoolTrimTo", unsafe { mem_pool::trim_to(pool, 0) })
    }

    fn memory(&self) -> CardResult<(usize, usize)> {
        self.shared.make_current()?;
        driver("cuMemGetInfo", result::mem_get_info())
    }

    fn take(&self, bytes: usize) -> CardResult<CudaMemory> {
        self.shared.not_while_recording("take")?;
        CudaMemory::take(&self.shared, bytes)
    }

    fn address(&self, memory: &CudaMemory) -> Address {
        memory.address()
    }

    fn staging(&self, bytes: usize) -> CardResult<CudaStaging> {
        self.shared.not_while_recording("staging")?;
        CudaStaging::take(&self.shared, bytes)
    }

    unsafe fn write(&self, to: Address, bytes: &[u8]) -> CardResult<()> {
        self.shared.not_while_recording("write")?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.shared.make_current()?;
        // SAFETY: as many bytes there are the caller's, and these ones stay until they are copied: that is waited for.
        let copied = unsafe { result::memcpy_htod_async(to.0, bytes, self.shared.stream()) };
        let copied = driver("cuMemcpyHtoDAsync", copied);
        // Also where it failed: nothing may read the bytes later.
        copied.and(self.shared.wait())
    }

    unsafe fn copy_in(&self, from: &CudaStaging, bytes: usize, to: Address) -> CardResult<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.shared.make_current()?;
        let from = from.first(bytes)?;
        // SAFETY: as many bytes there are the caller's; the host's stay until somebody has waited, as the caller promises.
        let asked = unsafe { cuMemcpyHtoDAsync_v2(to.0, from.cast(), bytes, self.shared.stream()) };
        driver("cuMemcpyHtoDAsync", asked.result())
    }

    unsafe fn copy_out(&self, from: Address, bytes: usize, to: &CudaStaging) -> CardResult<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.shared.make_current()?;
        let to = to.first(bytes)?;
        // SAFETY: as in `copy_in`; nor are the host's read before.
        let asked = unsafe { cuMemcpyDtoHAsync_v2(to.cast(), from.0, bytes, self.shared.stream()) };
        driver("cuMemcpyDtoHAsync", asked.result())
    }

    unsafe fn launch(&self, kernel: &CStr, launch: Launch, arguments: *const c_void) -> CardResult<()> {
        let [x, y] = launch.blocks;
        if x == 0 || y == 0 {
            return Ok(());
        }
        self.shared.make_current()?;
        let function = self.function(kernel, launch.shared_bytes)?;
        let (blocks, threads) = ((x, y, 1), (launch.threads, 1, 1));
        let mut arguments = [arguments.cast_mut()];
        // SAFETY: a function of the module, which takes one argument. The driver copies that before it returns, as many bytes as
        // the kernel was compiled for, and the caller promises that it points to them.
        let launched = unsafe {
            result::launch_kernel(function, blocks, threads, launch.shared_bytes, self.shared.stream(), &mut arguments)
        };
        driver(format_args!("cuLaunchKernel of {kernel:?}, {launch:?}"), launched)
    }

    unsafe fn multiply(&self, product: &Product) -> CardResult<()> {
        if product.rows == 0 || product.columns == 0 {
            return Ok(());
        }
        self.shared.make_current()?;
        // SAFETY: the caller's promise; the context is current.
        unsafe { self.products.borrow_mut().multiply(&self.shared, product) }
    }

    unsafe fn record(&self, work: &mut dyn FnMut() -> CardResult<()>) -> CardResult<CudaRecording> {
        CudaRecording::record(&self.shared, work)
    }

    unsafe fn replay(&self, recording: &CudaRecording) -> CardResult<()> {
        self.shared.not_while_recording("replay")?;
        self.shared.make_current()?;
        // SAFETY: the caller's promise.
        unsafe { recording.replay(self.shared.stream()) }
    }

    fn wait(&self) -> CardResult<()> {
        self.shared.not_while_recording("wait")?;
        self.shared.make_current()?;
        self.shared.wait()
    }

    fn mark(&self) -> CardResult<CudaMark> {
        self.shared.not_while_recording("mark")?;
        self.shared.make_current()?;
        CudaMark::new(&self.shared)
    }
}
