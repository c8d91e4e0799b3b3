//! What asking an NVIDIA driver needs of unsafe code. Only in builds with the feature `cuda`.

use std::ffi::{CStr, CString};

use candle_core::CudaDevice;
use candle_core::cuda::cudarc::driver::result::{self, DriverError};
use candle_core::cuda::cudarc::driver::sys::{
    CUdevice, CUdevice_attribute, CUmemPool_attribute, CUmemoryPool, cuDriverGetVersion,
};

/// Loads a shared library for the rest of the process's life, as the dynamic linker finds it.
///
/// # Errors
/// The dynamic linker's own words, which name the library.
pub(crate) fn load_library(name: &str) -> Result<(), String> {
    let c_name = CString::new(name).map_err(|_| format!("{name:?} is no name of a library"))?;
    // SAFETY: a string that ends with 0; initialisers of NVIDIA's libraries have no preconditions.
    let handle = unsafe { libc::dlopen(c_name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: no arguments; the answer is this thread's own until it calls dlopen or dlerror again.
    let reason = unsafe { libc::dlerror() };
    if reason.is_null() {
        return Err(format!("{name} cannot be loaded"));
    }
    // SAFETY: not null, so a string that ends with 0, read before anything else is loaded.
    Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned())
}

/// The newest CUDA that the driver runs, 1000 × major + 10 × minor.
///
/// # Errors
/// The driver's, as text.
pub(crate) fn version() -> Result<u32, String> {
    let mut version = 0;
    // SAFETY: a pointer to an int, which is all the call needs, even before the driver is started.
    let answer = unsafe { cuDriverGetVersion(&mut version) }.result();
    answer.map_err(|error| format!("{error:?}"))?;
    u32::try_from(version).map_err(|_| format!("the driver says it is version {version}"))
}

/// A number that describes a device.
///
/// # Errors
/// The driver's.
pub(crate) fn attribute(device: CUdevice, attribute: CUdevice_attribute) -> Result<i32, DriverError> {
    // SAFETY: the driver checks both numbers and says so if one is wrong.
    unsafe { result::device::get_attribute(device, attribute) }
}

/// Leaves out the bookkeeping that orders the work of several streams: two events for each tensor, recorded at each use. For a
/// device of [`candle_core::Device::new_cuda_with_stream`] before anything is on it.
pub(crate) fn of_one_stream(device: &CudaDevice) {
    // SAFETY: the device's context is its own, with one stream. Whatever thread submits work, the stream does it in the order in
    // which it came, and memory is taken and given back in that same order; so nothing is used too early or after it is freed.
    unsafe { device.disable_event_tracking() }
}

/// Keeps memory that was taken and given back for the next batch. Otherwise the driver returns it whenever the host waits for
/// the device, so after every batch, and each batch takes all it needs anew.
///
/// # Errors
/// The driver's.
pub(crate) fn keep_memory(device: &CudaDevice) -> Result<(), DriverError> {
    let Some(pool) = pool(device)? else { return Ok(()) };
    let mut all = u64::MAX;
    let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: a pool that the driver named, which lives as long as the device; the attribute is a u64, which outlives the call.
    unsafe { result::mem_pool::set_attribute(pool, threshold, std::ptr::from_mut(&mut all).cast()) }
}

/// Returns memory that is kept and not in use.
///
/// # Errors
/// The driver's.
pub(crate) fn give_back_memory(device: &CudaDevice) -> Result<(), DriverError> {
    let Some(pool) = pool(device)? else { return Ok(()) };
    // What is to be freed is freed in the stream's order.
    device.cuda_stream().synchronize()?;
    // SAFETY: a pool that the driver named, which lives as long as the device; what is in use stays.
    unsafe { result::mem_pool::trim_to(pool, 0) }
}

/// Where the device's memory is taken from. `None` where it is taken from no pool.
fn pool(device: &CudaDevice) -> Result<Option<CUmemoryPool>, DriverError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the context's own device.
    unsafe { result::device::get_default_mem_pool(context.cu_device()) }.map(Some)
}
