//! Memory through which a pass' input comes and its vectors go, and passes whose vectors are still to come.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::card::{Card, CardResult, Mark};
use crate::error::Result;
use crate::pooled::{Pooled, Vectors};

/// Those that are kept for the next pass: as many as passes are under way at once.
const MOST_FREE: usize = 2;

pub(crate) struct Exchange<C: Card> {
    pub(crate) input: C::Memory,
    pub(crate) words: C::Staging,
    pub(crate) vectors: C::Memory,
    pub(crate) values: C::Staging,
    /// Bytes of both.
    pub(crate) capacity: (usize, usize),
}

impl<C: Card> Exchange<C> {
    pub(crate) fn new(card: &C, (words, vectors): (usize, usize)) -> CardResult<Exchange<C>> {
        Ok(Exchange {
            input: card.take(words)?,
            words: card.staging(words)?,
            vectors: card.take(vectors)?,
            values: card.staging(vectors)?,
            capacity: (words, vectors),
        })
    }
}

/// Exchanges that no pass uses.
pub(crate) struct Free<C: Card>(Arc<Mutex<Vec<Exchange<C>>>>);

impl<C: Card> Default for Free<C> {
    fn default() -> Self {
        Free(Arc::default())
    }
}

impl<C: Card> Free<C> {
    /// One of them, or a new one without any room.
    pub(crate) fn take(&self, card: &C) -> CardResult<Exchange<C>> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.map_or_else(|| Exchange::new(card, (0, 0)), Ok)
    }

    /// A pass that was asked for up to this mark, and the exchange that it has to itself.
    pub(crate) fn pending(&self, exchange: Exchange<C>, mark: C::Mark, vectors: Vectors) -> Pending<C> {
        Pending { exchange: Some(exchange), mark, vectors, free: self.0.clone() }
    }
}

/// A pass that was begun. It may be waited for by another thread than that which begins others, and is waited for when dropped.
pub struct Pending<C: Card> {
    /// Until it is dropped.
    exchange: Option<Exchange<C>>,
    mark: C::Mark,
    vectors: Vectors,
    free: Arc<Mutex<Vec<Exchange<C>>>>,
}

impl<C: Card> Pending<C> {
    /// Waits for its vectors.
    ///
    /// # Errors
    /// What the driver says.
    pub fn finish(mut self) -> Result<Pooled> {
        self.mark.wait()?;
        let bytes = self.exchange.as_mut().map_or(&mut [][..], |exchange| exchange.values.as_mut());
        Ok(self.vectors.read(bytes))
    }
}

impl<C: Card> Drop for Pending<C> {
    fn drop(&mut self) {
        // Once it was waited for, this costs nothing. A card that fails uses the memory no more.
        if let Err(error) = self.mark.wait() {
            tracing::debug!("a pass is given up: {error}");
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < MOST_FREE {
            free.extend(self.exchange.take());
        }
    }
}

impl<C: Card> fmt::Debug for Pending<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("vectors", &self.vectors).finish_non_exhaustive()
    }
}
