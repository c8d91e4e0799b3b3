//! Recordings: graphs of the driver.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::graph;
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUstream};

use super::answer::driver;
use super::shared::Shared;
use crate::card::CardResult;

/// What a [`CudaCard`](super::CudaCard) recorded.
pub struct CudaRecording {
    // In this order they are dropped. Kernels and the workspace, which a graph uses, are the last one's.
    executable: Executable,
    _graph: Graph,
    shared: Arc<Shared>,
}

// SAFETY: graphs belong to no thread, and no two use this one at once, as it is not `Sync`.
unsafe impl Send for CudaRecording {}

impl CudaRecording {
    pub(super) fn record(shared: &Arc<Shared>, work: &mut dyn FnMut() -> CardResult<()>) -> CardResult<CudaRecording> {
        let running = Running::begin(shared)?;
        let done = work();
        let ended = running.end();
        done?;
        let graph = ended?;
        let executable = Executable::of(&graph)?;
        Ok(CudaRecording { executable, _graph: graph, shared: shared.clone() })
    }

    /// # Safety
    /// The context is current, and everything that was recorded may be done again.
    pub(super) unsafe fn replay(&self, stream: CUstream) -> CardResult<()> {
        // SAFETY: both are there; the caller's promise.
        driver("cuGraphLaunch", unsafe { graph::launch(self.executable.0, stream) })
    }
}

impl Drop for CudaRecording {
    fn drop(&mut self) {
        if let Err(error) = self.shared.make_current() {
            tracing::debug!("a recording is left: {error}");
        }
    }
}

impl fmt::Debug for CudaRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaRecording").finish_non_exhaustive()
    }
}

/// Recording goes on until this ends, or is dropped by a panic.
struct Running<'s> {
    shared: &'s Shared,
    ended: bool,
}

impl<'s> Running<'s> {
    fn begin(shared: &'s Shared) -> CardResult<Self> {
        shared.begin_recording()?;
        Ok(Running { shared, ended: false })
    }

    fn end(mut self) -> CardResult<Graph> {
        self.ended = true;
        self.shared.end_recording().map(Graph)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.shared.end_recording().map(Graph));
        }
    }
}

/// Work, and what of it needs what.
struct Graph(CUgraph);

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: it is there, and nobody uses it any more.
        if let Err(error) = driver("cuGraphDestroy", unsafe { graph::destroy(self.0) }) {
            tracing::debug!("a graph is left: {error}");
        }
    }
}

/// The same as the card takes it.
struct Executable(CUgraphExec);

impl Executable {
    fn of(graph: &Graph) -> CardResult<Executable> {
        // SAFETY: a graph that is there.
        let executable = unsafe { graph::instantiate(graph.0, CUgraphInstantiate_flags(0)) };
        driver("cuGraphInstantiate", executable).map(Executable)
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: it is there, and nobody asks for it any more; where the stream has still to do it, the driver waits for that.
        if let Err(error) = driver("cuGraphExecDestroy", unsafe { graph::exec_destroy(self.0) }) {
            tracing::debug!("a recording is left: {error}");
        }
    }
}
