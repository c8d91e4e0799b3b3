//! Moments in a stream, that are measured or waited for.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::event;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

use super::answer::driver;
use super::shared::Shared;
use crate::card::{CardResult, Mark};

/// A moment in a stream.
pub(super) struct Event(CUevent);

// SAFETY: an event belongs to no thread.
unsafe impl Send for Event {}

impl Event {
    /// One that knows when it was reached.
    pub(super) fn timed() -> CardResult<Event> {
        driver("cuEventCreate", event::create(CUevent_flags::CU_EVENT_DEFAULT)).map(Event)
    }

    fn untimed() -> CardResult<Event> {
        driver("cuEventCreate", event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)).map(Event)
    }

    pub(super) fn record(&self, stream: CUstream) -> CardResult<()> {
        // SAFETY: both are there.
        driver("cuEventRecord", unsafe { event::record(self.0, stream) })
    }

    fn wait(&self) -> CardResult<()> {
        // SAFETY: an event that was recorded.
        driver("cuEventSynchronize", unsafe { event::synchronize(self.0) })
    }

    /// Milliseconds between the two, once this one is reached.
    pub(super) fn since(&self, earlier: &Event) -> CardResult<f32> {
        self.wait()?;
        // SAFETY: both were recorded, in one stream.
        driver("cuEventElapsedTime", unsafe { event::elapsed(earlier.0, self.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is there, and nobody uses it any more.
        if let Err(error) = driver("cuEventDestroy", unsafe { event::destroy(self.0) }) {
            tracing::debug!("an event is left: {error}");
        }
    }
}

/// A point in what a [`CudaCard`](super::CudaCard) was asked for.
pub struct CudaMark {
    // Dropped before what it needs.
    event: Event,
    shared: Arc<Shared>,
}

impl CudaMark {
    /// The context is current.
    pub(super) fn new(shared: &Arc<Shared>) -> CardResult<CudaMark> {
        let event = Event::untimed()?;
        event.record(shared.stream())?;
        Ok(CudaMark { event, shared: shared.clone() })
    }
}

impl Mark for CudaMark {
    fn wait(&self) -> CardResult<()> {
        self.shared.make_current()?;
        self.event.wait()
    }
}

impl Drop for CudaMark {
    fn drop(&mut self) {
        if let Err(error) = self.shared.make_current() {
            tracing::debug!("an event is left: {error}");
        }
    }
}

impl fmt::Debug for CudaMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaMark").finish_non_exhaustive()
    }
}
