//! A call in the queue.

use std::sync::Arc;

use super::admission::{Admission, Ask};
use super::batch::Piece;
use super::options::Class;
use super::shared::Shared;
use super::state::Wanted;
use crate::error::Result;

/// A call in the queue: to be held while its answers are awaited. Dropping it withdraws what was not dispatched yet.
#[must_use = "dropping it withdraws the call's pieces"]
pub struct Submission<P> {
    shared: Arc<Shared<P>>,
    class: Class,
    call: u64,
}

impl<P> std::fmt::Debug for Submission<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission").field("call", &self.call).finish_non_exhaustive()
    }
}

impl<P: Piece> Admission<P> {
    /// Queues pieces of a new call, in this order, and gives room that they do not need back. Does not wait. `more`: the
    /// call has not brought everything with this.
    ///
    /// # Errors
    ///
    /// Nothing is queued, and the pieces are dropped: [`ErrorKind::Internal`](crate::error::ErrorKind::Internal) if they
    /// weigh more than was admitted, [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) after
    /// [`Batcher::stop`](super::Batcher::stop).
    pub fn submit(mut self, pieces: impl IntoIterator<Item = P>, more: bool) -> Result<Submission<P>> {
        let call = self.put(pieces, more)?;
        Ok(Submission { shared: self.shared.clone(), class: self.class, call })
    }
}

impl<P: Piece> Submission<P> {
    /// Waits until no more than half of the call's share is left in the queue. Returns what it should bring next.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if the call is not in the queue any more.
    pub async fn wants_more(&self) -> Result<Wanted> {
        let word = self.shared.change(|state, _| {
            let half = state.options.share(self.class) / 2;
            state.lanes[self.class as usize].when_left(self.call, half)
        });
        word.await.map_err(|_| self.shared.refusal())?;
        let state = self.shared.lock();
        Ok(state.wanted(self.class, state.lanes[self.class as usize].tokens_of(self.call)))
    }

    /// Waits for room for more of the call, as [`Batcher::admit`](super::Batcher::admit) does for its beginning. Its
    /// deadline is the whole call's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) after [`Batcher::stop`](super::Batcher::stop).
    pub async fn admit(&self, ask: Ask) -> Result<Admission<P>> {
        self.shared.admit(self.class, ask, Some(self.call)).await
    }

    /// Queues more pieces of the call, with room that [`Submission::admit`] found. `more`: this is still not everything.
    ///
    /// # Errors
    ///
    /// As [`Admission::submit`].
    pub fn add(&self, mut room: Admission<P>, pieces: impl IntoIterator<Item = P>, more: bool) -> Result<()> {
        room.put(pieces, more).map(|_| ())
    }

    /// The call has brought everything.
    pub fn complete(&self) {
        self.shared.change(|state, _| state.lanes[self.class as usize].close(self.call));
    }
}

impl<P> Submission<P> {
    /// Withdraws the whole call if nothing of it was dispatched yet: for when its deadline has passed. Answers whether it
    /// did; where it did not, the call is being served.
    pub fn withdraw_untouched(&self) -> bool {
        self.shared.change(|state, dropped| {
            let lane = &mut state.lanes[self.class as usize];
            let untouched = lane.is_untouched(self.call);
            if untouched {
                let tokens = lane.withdraw(self.call, dropped);
                state.rooms[self.class as usize].leave(tokens);
            }
            untouched
        })
    }
}

impl<P> Drop for Submission<P> {
    fn drop(&mut self) {
        self.shared.change(|state, dropped| {
            let tokens = state.lanes[self.class as usize].withdraw(self.call, dropped);
            state.rooms[self.class as usize].leave(tokens);
        });
    }
}
