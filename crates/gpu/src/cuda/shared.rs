//! What a card, its memory and its recordings have in common, for as long as one of them is there.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::cublaslt::result as blas_result;
use cudarc::cublaslt::sys::cublasLtHandle_t;
use cudarc::driver::result::{self, ctx, device, mem_pool, module, primary_ctx, stream};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUfunction, CUgraph, CUmemPool_attribute, CUmemoryPool, CUmodule, CUstream,
    CUstreamCaptureMode, cuFuncLoad, cuModuleEnumerateFunctions, cuModuleGetFunction, cuModuleGetFunctionCount,
};

use super::answer::{blas, driver};
use crate::card::{CardError, CardResult};

/// The kernels as the driver loads them, for each generation of cards.
static KERNELS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// The driver reads numbers of 8 bytes out of it.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// See the module. A context is shared by everything in the process that uses the device, Candle too; the rest is the card's own.
pub(super) struct Shared {
    // In this order they are dropped: each needs those below it.
    handle: Handle,
    module: Module,
    stream: Stream,
    context: Context,
    /// Where memory is taken from, and what is given back is kept for the next use.
    pub(super) pool: Option<CUmemoryPool>,
    /// Memory of the card that cuBLASLt's kernels may use as they like: one product at a time, as the stream does them.
    workspace: CUdeviceptr,
    workspace_bytes: usize,
    given_back: Mutex<GivenBack>,
}

/// While something is recorded, giving back memory would become a part of the recording. So it waits for the end of that.
struct GivenBack {
    recording: bool,
    later: Vec<Taken>,
}

/// Memory that was taken.
#[derive(Clone, Copy)]
pub(super) enum Taken {
    OnCard(CUdeviceptr),
    OnHost(*mut c_void),
}

// SAFETY: these are handles, which belong to no thread. Driver and cuBLASLt may be called by several at once, with one stream and
// one handle too, and the rest changes behind a lock only.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn open(device: CUdevice, has_pools: bool, workspace_bytes: usize) -> CardResult<Shared> {
        let context = Context::retain(device)?;
        context.make_current()?;
        let stream = Stream::new()?;
        let module = Module::load()?;
        if let Err(error) = module.load_functions() {
            tracing::debug!("kernels are brought to the card when they are first launched: {error}");
        }
        let handle = Handle::new()?;
        let pool = if has_pools { Some(pool(device)?) } else { None };
        // Last, as it would stay taken where something fails that comes after it.
        let workspace = take(pool, &stream, workspace_bytes)?;
        let given_back = Mutex::new(GivenBack { recording: false, later: Vec::new() });
        Ok(Shared { handle, module, stream, context, pool, workspace, workspace_bytes, given_back })
    }

    /// Makes the calling thread's calls go to this card.
    pub(super) fn make_current(&self) -> CardResult<()> {
        self.context.make_current()
    }

    pub(super) fn stream(&self) -> CUstream {
        self.stream.0
    }

    pub(super) fn handle(&self) -> cublasLtHandle_t {
        self.handle.0
    }

    /// Where it lies, and its bytes.
    pub(super) fn workspace(&self) -> (*mut c_void, usize) {
        (self.workspace as *mut c_void, self.workspace_bytes)
    }

    /// Waits for everything that the stream has to do. The context is current.
    pub(super) fn wait(&self) -> CardResult<()> {
        self.stream.wait()
    }

    /// The kernel of this name. The context is current.
    pub(super) fn function(&self, kernel: &CStr) -> CardResult<CUfunction> {
        let mut function = null_mut();
        // SAFETY: a module that is loaded, and a name that ends with 0.
        let found = unsafe { cuModuleGetFunction(&mut function, self.module.0, kernel.as_ptr()) };
        driver(format_args!("cuModuleGetFunction of {kernel:?}"), found.result())?;
        Ok(function)
    }

    /// Memory of the card, which holds anything. The context is current.
    pub(super) fn take(&self, bytes: usize) -> CardResult<CUdeviceptr> {
        take(self.pool, &self.stream, bytes)
    }

    /// Gives memory back, after what was asked for before is done.
    pub(super) fn give_back(&self, taken: Taken) {
        let mut given_back = self.given_back();
        if given_back.recording {
            given_back.later.push(taken);
        } else {
            // With the lock held: nobody begins to record meanwhile.
            self.free(taken);
        }
    }

    /// What cannot be freed stays taken: whoever waits for the card hears what is wrong with it.
    fn free(&self, taken: Taken) {
        if let Err(error) = self.make_current().and_then(|()| self.try_free(taken)) {
            tracing::debug!("memory is not given back: {error}");
        }
    }

    fn try_free(&self, taken: Taken) -> CardResult<()> {
        match taken {
            Taken::OnCard(address) if self.pool.is_some() => {
                // SAFETY: taken from the pool by this stream, and given back once.
                driver("cuMemFreeAsync", unsafe { result::free_async(address, self.stream()) })
            }
            Taken::OnCard(address) => {
                let waited = self.wait();
                // SAFETY: taken by the same kind of call, given back once, and nothing uses it any more: a stream that cannot be
                // waited for does nothing.
                driver("cuMemFree", unsafe { result::free_sync(address) }).and(waited)
            }
            Taken::OnHost(start) => {
                let waited = self.wait();
                // SAFETY: as above.
                driver("cuMemFreeHost", unsafe { result::free_host(start) }).and(waited)
            }
        }
    }

    fn given_back(&self) -> MutexGuard<'_, GivenBack> {
        self.given_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_recording(&self) -> bool {
        self.given_back().recording
    }

    /// For what cannot be a part of a recording.
    pub(super) fn not_while_recording(&self, what: &str) -> CardResult<()> {
        if self.is_recording() {
            return Err(CardError::Failed(format!("{what}: not while recording")));
        }
        Ok(())
    }

    /// From here on, what the stream is asked for is recorded, until [`Shared::end_recording`] by the same thread.
    pub(super) fn begin_recording(&self) -> CardResult<()> {
        self.make_current()?;
        let mut given_back = self.given_back();
        if given_back.recording {
            return Err(CardError::Failed("record: not while recording".to_owned()));
        }
        // Other threads may do with the driver what they like, as Candle's will.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream that is there.
        driver("cuStreamBeginCapture", unsafe { stream::begin_capture(self.stream(), mode) })?;
        given_back.recording = true;
        Ok(())
    }

    /// What was recorded, which is the caller's to destroy. The stream works again, also after an error.
    pub(super) fn end_recording(&self) -> CardResult<CUgraph> {
        let current = self.make_current();
        let mut given_back = self.given_back();
        // SAFETY: a stream that is there, and records.
        let ended = driver("cuStreamEndCapture", unsafe { stream::end_capture(self.stream()) });
        given_back.recording = false;
        std::mem::take(&mut given_back.later).into_iter().for_each(|taken| self.free(taken));
        drop(given_back);
        current?;
        let graph = ended?;
        if graph.is_null() {
            return Err(CardError::Failed("cuStreamEndCapture: no graph".to_owned()));
        }
        Ok(graph)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let waited = self.make_current().and_then(|()| self.wait());
        if let Err(error) = waited {
            tracing::debug!("a card is given up: {error}");
        }
        self.free(Taken::OnCard(self.workspace));
        // Nothing is left to the stream when it goes.
        if let Err(error) = self.wait() {
            tracing::debug!("a card is given up: {error}");
        }
    }
}

/// The device's primary context.
struct Context {
    device: CUdevice,
    context: CUcontext,
}

impl Context {
    fn retain(device: CUdevice) -> CardResult<Context> {
        // SAFETY: a device that the driver named.
        let context = driver("cuDevicePrimaryCtxRetain", unsafe { primary_ctx::retain(device) })?;
        Ok(Context { device, context })
    }

    fn make_current(&self) -> CardResult<()> {
        if ctx::get_current() == Ok(Some(self.context)) {
            return Ok(());
        }
        // SAFETY: a context that is retained.
        driver("cuCtxSetCurrent", unsafe { ctx::set_current(self.context) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once, and all that this one was retained for is gone.
        if let Err(error) = driver("cuDevicePrimaryCtxRelease", unsafe { primary_ctx::release(self.device) }) {
            tracing::debug!("a context is not released: {error}");
        }
    }
}

/// A stream that waits for no other.
struct Stream(CUstream);

impl Stream {
    fn new() -> CardResult<Stream> {
        driver("cuStreamCreate", stream::create(stream::StreamKind::NonBlocking)).map(Stream)
    }

    fn wait(&self) -> CardResult<()> {
        // SAFETY: a stream that is there.
        driver("cuStreamSynchronize", unsafe { stream::synchronize(self.0) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it is there, and nobody uses it any more.
        if let Err(error) = driver("cuStreamDestroy", unsafe { stream::destroy(self.0) }) {
            tracing::debug!("a stream is left: {error}");
        }
    }
}

/// The kernels on the card.
struct Module(CUmodule);

impl Module {
    fn load() -> CardResult<Module> {
        // SAFETY: a fat binary, as nvcc wrote it.
        driver("cuModuleLoadData", unsafe { module::load_data(KERNELS.0.as_ptr().cast()) }).map(Module)
    }

    /// Brings all kernels' code to the card. Otherwise the driver does so at each one's first launch, and perhaps takes memory for
    /// it, which it must not while something is recorded.
    fn load_functions(&self) -> CardResult<()> {
        let mut count = 0;
        // SAFETY: a module that is loaded.
        driver("cuModuleGetFunctionCount", unsafe { cuModuleGetFunctionCount(&mut count, self.0) }.result())?;
        let mut functions: Vec<CUfunction> = vec![null_mut(); count as usize];
        // SAFETY: as above, and there is room for so many.
        let found = unsafe { cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, self.0) };
        driver("cuModuleEnumerateFunctions", found.result())?;
        for function in functions.into_iter().filter(|function| !function.is_null()) {
            // SAFETY: a function of this module.
            driver("cuFuncLoad", unsafe { cuFuncLoad(function) }.result())?;
        }
        Ok(())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it is loaded, and neither the stream nor a recording uses its functions any more.
        if let Err(error) = driver("cuModuleUnload", unsafe { module::unload(self.0) }) {
            tracing::debug!("a module is left: {error}");
        }
    }
}

/// cuBLASLt's state for the context that was current.
struct Handle(cublasLtHandle_t);

impl Handle {
    fn new() -> CardResult<Handle> {
        blas("cublasLtCreate", blas_result::create_handle()).map(Handle)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is there, and nobody uses it any more.
        if let Err(error) = blas("cublasLtDestroy", unsafe { blas_result::destroy_handle(self.0) }) {
            tracing::debug!("a handle of cuBLASLt is left: {error}");
        }
    }
}

/// The device's pool, which keeps what is given back. Otherwise it returns that to the driver whenever the host waits, so after
/// every pass.
fn pool(device: CUdevice) -> CardResult<CUmemoryPool> {
    // SAFETY: a device that the driver named.
    let pool = driver("cuDeviceGetDefaultMemPool", unsafe { device::get_default_mem_pool(device) })?;
    let mut all = u64::MAX;
    let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: a pool that the driver named; the attribute is a u64, which outlives the call.
    let set = unsafe { mem_pool::set_attribute(pool, threshold, std::ptr::from_mut(&mut all).cast()) };
    if let Err(error) = driver("cuMemPoolSetAttribute", set) {
        tracing::warn!("a card's memory is taken anew for each pass, which is slower: {error}");
    }
    Ok(pool)
}

fn take(pool: Option<CUmemoryPool>, stream: &Stream, bytes: usize) -> CardResult<CUdeviceptr> {
    // Nothing cannot be taken.
    let bytes = bytes.max(1);
    match pool {
        // SAFETY: a stream that is there.
        Some(pool) => driver("cuMemAllocFromPoolAsync", unsafe { mem_pool::alloc_async(pool, bytes, stream.0) }),
        // SAFETY: no conditions.
        None => driver("cuMemAlloc", unsafe { result::malloc_sync(bytes) }),
    }
}
