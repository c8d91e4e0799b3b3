//! Computations under way: who drives them, how far they are, and which keys are being computed where.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared, select};
use tokio::sync::Notify;

use super::keys::Key;
use super::store::Store;
use crate::backend::{Backend, Embedding};
use crate::contract::call::{Call, Text};
use crate::error::{Error, Result};

/// After so many entries written, what is too much is evicted.
const ENTRIES_PER_TURN: usize = 64;

/// What became of one call to the backend behind, as a whole.
pub(super) type Outcome = Result<()>;

/// A computation that all who wait for it drive, each with a clone.
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) future: Shared<BoxFuture<'static, Outcome>>,
    pub(super) flight: Arc<Flight>,
}

impl Batch {
    /// Waits until these texts are told, nothing more will be, or the time is over.
    pub(super) async fn wait(&self, positions: &[usize], until: Option<Instant>) {
        let told = std::pin::pin!(self.flight.told(positions));
        let done = select(told, self.future.clone());
        match until {
            Some(until) => drop(tokio::time::timeout_at(until.into(), done).await),
            None => drop(done.await),
        }
    }
}

/// How far a computation is.
pub(super) struct Flight {
    /// Of each text.
    results: Vec<OnceLock<Result<Embedding>>>,
    /// Bytes of each text and those before it.
    bytes: Vec<usize>,
    /// Bytes of the texts told.
    bytes_told: AtomicUsize,
    news: Notify,
}

impl Flight {
    pub(super) fn new(texts: &[Text]) -> Flight {
        let mut sum = 0;
        let bytes = texts.iter().map(|text| {
            sum += text.len();
            sum
        });
        Flight {
            bytes: bytes.collect(),
            results: texts.iter().map(|_| OnceLock::new()).collect(),
            bytes_told: AtomicUsize::new(0),
            news: Notify::new(),
        }
    }

    fn tell(&self, position: usize, result: Result<Embedding>) {
        if self.results.get(position).is_some_and(|place| place.set(result).is_ok()) {
            let before = position.checked_sub(1).map_or(0, |before| self.bytes[before]);
            self.bytes_told.fetch_add(self.bytes[position] - before, Ordering::Relaxed);
            self.news.notify_waiters();
        }
    }

    /// Bytes of the texts that are to be computed before this one, and its own.
    pub(super) fn ahead_of(&self, position: usize) -> usize {
        self.bytes[position].saturating_sub(self.bytes_told.load(Ordering::Relaxed))
    }

    /// Waits until all these texts are told.
    async fn told(&self, positions: &[usize]) {
        let mut missing = positions;
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // From now on; what was told before is seen below.
            news.as_mut().enable();
            while let [first, rest @ ..] = missing {
                if self.results[*first].get().is_none() {
                    break;
                }
                missing = rest;
            }
            if missing.is_empty() {
                return;
            }
            news.await;
        }
    }

    /// The answer at a position, if it is there.
    pub(super) fn answer(&self, position: usize) -> Option<Result<Embedding>> {
        self.results.get(position)?.get().cloned()
    }

    fn is_whole(&self) -> bool {
        self.results.iter().all(|result| result.get().is_some())
    }
}

/// Where a key is being computed. Weak: the table must not keep a computation alive that nobody waits for.
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) position: usize,
    pub(super) future: WeakShared<BoxFuture<'static, Outcome>>,
    pub(super) flight: Arc<Flight>,
}

/// The table of what is being computed, and the numbers of computations.
#[derive(Default)]
pub(super) struct Flights {
    seats: Mutex<HashMap<Key, Seat>>,
    next: AtomicU64,
}

impl Flights {
    pub(super) fn seats(&self) -> MutexGuard<'_, HashMap<Key, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new computation.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// The seats a computation holds; given up when it ends or is dropped.
pub(super) struct Claim {
    pub(super) flights: Arc<Flights>,
    pub(super) number: u64,
    pub(super) keys: Vec<Key>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut seats = self.flights.seats();
        for key in &self.keys {
            // Another computation may have taken over the seat.
            if seats.get(key).is_some_and(|seat| seat.number == self.number) {
                seats.remove(key);
            }
        }
    }
}

/// Asks the backend, keeps what it answers and tells it. Holds its claim to its end, after the vectors can be found in the
/// store.
pub(super) async fn compute(
    inner: Arc<dyn Backend>,
    (call, keys): (Call, Vec<Key>),
    store: Arc<Store>,
    _claim: Claim,
    flight: Arc<Flight>,
) -> Outcome {
    let mut told = 0usize;
    let tell = |index: usize, result: Result<Embedding>| {
        if let (Some(key), Ok(embedding)) = (keys.get(index), &result) {
            store.insert(*key, embedding.clone());
        }
        flight.tell(index, result);
        told += 1;
        if told.is_multiple_of(ENTRIES_PER_TURN) {
            store.settle();
        }
    };
    // A panic would poison the computation for all who share it.
    let result = AssertUnwindSafe(async { inner.embed_each(call, Box::new(tell)).await }).catch_unwind().await;
    store.settle();
    match result {
        Err(_) => Err(Error::internal("the backend panicked")),
        Ok(Ok(())) if !flight.is_whole() => Err(Error::internal("the backend did not answer all texts")),
        Ok(result) => result,
    }
}
