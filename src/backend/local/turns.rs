//! Threads that compute with the same card take turns at it, and leave it together when it fails for good.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which of the inference threads one is.
pub(super) struct Worker {
    pub(super) number: usize,
    pub(super) of: usize,
    /// Which of a model's encoders it computes with.
    pub(super) encoder: usize,
    /// Where others compute with the same: held from the taking of a batch until it is computed.
    pub(super) turn: Option<Arc<Mutex<CardState>>>,
    /// Cards that have not failed.
    pub(super) cards_left: Arc<AtomicUsize>,
}

/// What the threads of a card know of it.
#[derive(Debug, Default)]
pub(super) struct CardState {
    /// It has failed for good: its threads end.
    pub(super) is_lost: bool,
}

/// Who computes with an encoder, where several do.
pub(super) type Turn<'a> = Option<MutexGuard<'a, CardState>>;

impl Worker {
    pub(super) fn take_turn(&self) -> Turn<'_> {
        self.turn.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// No thread computes with this card any more. Whether it was the last one.
    pub(super) fn is_last_to_lose(&self, turn: Turn<'_>) -> bool {
        match turn.or_else(|| self.take_turn()) {
            Some(mut card) if !card.is_lost => {
                card.is_lost = true;
                self.cards_left.fetch_sub(1, Ordering::AcqRel) == 1
            }
            // Another thread has said so, or the CPU, which is not lost.
            _ => false,
        }
    }
}
