//! The handle to the queue, for callers and consumers.

use std::sync::Arc;
use std::time::Instant;

use super::admission::{Admission, Ask};
use super::batch::{Batch, Piece};
use super::lane::Depth;
use super::options::{Class, Options};
use super::shared::Shared;
use super::state::{Phase, Wanted};
use crate::error::{Error, ErrorKind, Result};

/// Handle to the queue; clones share it.
pub struct Batcher<P> {
    pub(super) shared: Arc<Shared<P>>,
}

impl<P> std::fmt::Debug for Batcher<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

impl<P> Clone for Batcher<P> {
    fn clone(&self) -> Self {
        Batcher { shared: self.shared.clone() }
    }
}

impl<P: Piece> Batcher<P> {
    /// An empty queue.
    pub fn new(options: Options) -> Self {
        Batcher { shared: Arc::new(Shared::new(options)) }
    }

    /// The sizes in force.
    pub fn options(&self) -> Options {
        self.shared.lock().options
    }

    /// Other sizes from the next batch on. Room that becomes less is not taken from those who have it.
    pub fn resize(&self, options: Options) {
        self.shared.change(|state, _| state.resize(options));
    }

    /// What a new call of a class should bring first.
    pub fn wanted(&self, class: Class) -> Wanted {
        self.shared.lock().wanted(class, 0)
    }

    /// Waits for room for a new call: for what there is at once up to `ask.most` tokens, else
    /// for `ask.least`. Both may be upper bounds. A call that finds room is
    /// admitted even if its deadline has passed. Must run where tokio's timer runs if there is a deadline.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when the deadline passes first, [`Batcher::refusal`] after [`Batcher::close`].
    pub async fn admit(&self, class: Class, ask: Ask, deadline: Option<Instant>) -> Result<Admission<P>> {
        let admitted = self.shared.admit(class, ask, None);
        let Some(deadline) = deadline else { return admitted.await };
        let admitted = tokio::time::timeout_at(deadline.into(), admitted).await;
        admitted.unwrap_or_else(|_| Err(self.no_room(class, ask.most)))
    }

    fn no_room(&self, class: Class, tokens: usize) -> Error {
        let options = self.options();
        let (room, label, waiting_tokens) = (options.room(class), class.as_str(), options.waiting_tokens);
        Error::new(
            ErrorKind::Overloaded,
            format!(
                "too much work is waiting: the {tokens} tokens of this request found no room in time among the {room} \
                 that may wait for the class '{label}'; try again later (limit: --max-waiting-tokens, now \
                 {waiting_tokens} for all classes)"
            ),
        )
    }

    /// The next batch, as soon as there is a piece; `None` when the queue is closed and empty. Blocks its thread. Any
    /// number of threads may call it.
    pub fn next_batch(&self) -> Option<Batch<P>> {
        self.shared.next_batch()
    }

    /// Admits nobody from now on. Who waits for room is refused; who has room is served; then consumers get `None`.
    pub fn close(&self) {
        self.shared.change(|state, _| state.close(Phase::Draining));
    }

    /// Closes, and drops what waits: for when no consumer is left, or no time.
    pub fn stop(&self) {
        self.shared.change(|state, dropped| state.end(Phase::Stopped, dropped));
    }

    /// Stops, for a consumer that has ended although it is needed. Answers whether it was: a closed queue needs none.
    pub fn fail(&self) -> bool {
        self.shared.change(|state, dropped| {
            let needed = state.phase == Phase::Open;
            state.end(if needed { Phase::Failed } else { Phase::Stopped }, dropped);
            needed
        })
    }

    /// Whether it has failed.
    pub fn has_failed(&self) -> bool {
        self.shared.lock().phase == Phase::Failed
    }

    /// What is said to a call that is not served any more.
    pub fn refusal(&self) -> Error {
        self.shared.refusal()
    }

    /// Whether as much waits as a batch takes. Costs one lock and no scan.
    pub fn has_a_batch(&self) -> bool {
        self.shared.lock().has_a_batch()
    }

    /// What waits of a class now. Costs one lock and no scan.
    pub fn depth(&self, class: Class) -> Depth {
        let state = self.shared.lock();
        let at_the_door = state.rooms[class as usize].at_the_door();
        Depth { at_the_door, ..state.lanes[class as usize].depth(Instant::now()) }
    }
}
