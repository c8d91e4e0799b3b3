//! The state behind its lock: whoever changes it tells those who can go on afterwards.

use std::sync::PoisonError;

use super::batch::{Batch, Piece};
use super::options::Options;
use super::state::State;
use super::sync::{Condvar, Mutex, MutexGuard};
use crate::error::Error;

/// What the handles of a queue share.
pub(super) struct Shared<P> {
    state: Mutex<State<P>>,
    news: Condvar,
}

impl<P> Shared<P> {
    /// An empty queue.
    pub(super) fn new(options: Options) -> Shared<P> {
        Shared { state: Mutex::new(State::new(options)), news: Condvar::new() }
    }

    pub(super) fn refusal(&self) -> Error {
        self.lock().phase.refusal()
    }

    /// No code of ours panics with the lock held; a [`Piece`]'s may, and each step before it left the state whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every change goes through here or through [`Shared::settle`]: whoever can go on afterwards is told.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State<P>, &mut Vec<P>) -> R) -> R {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        let result = change(&mut state, &mut dropped);
        self.settle(state, dropped);
        result
    }

    /// Ends a change: admits who fits now, wakes consumers, and drops pieces outside the lock, as their drop may run
    /// anybody's code.
    fn settle(&self, mut state: MutexGuard<'_, State<P>>, dropped: Vec<P>) {
        let mut told = state.admit_waiting();
        state.lanes.iter_mut().for_each(|lane| told.append(&mut lane.hungry()));
        let (parked, pieces, ended) = (state.parked > 0, state.has_pieces(), state.has_ended());
        drop(state);
        if parked && ended {
            self.news.notify_all();
        } else if parked && pieces {
            // One is enough: if it leaves something, it wakes the next.
            self.news.notify_one();
        }
        for caller in told {
            // A caller who left meanwhile gives the room back itself.
            let _ = caller.send(());
        }
        drop(dropped);
    }
}

impl<P: Piece> Shared<P> {
    /// As [`Batcher::next_batch`](super::Batcher::next_batch).
    pub(super) fn next_batch(&self) -> Option<Batch<P>> {
        let mut state = self.lock();
        loop {
            let mut dropped = Vec::new();
            let batch = state.take(&mut dropped);
            let ended = state.has_ended();
            if batch.is_some() || ended {
                self.settle(state, dropped);
                return batch;
            }
            if !dropped.is_empty() {
                self.settle(state, dropped);
                state = self.lock();
                continue;
            }
            state.parked += 1;
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
        }
    }
}
