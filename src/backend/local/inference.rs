//! The inference thread: batches of sequences in, finished vectors out.
//!
//! What becomes of a text's vectors is in [`text`](super::text).
//!
//! All models of a process can share one thread and its queue ([`Inference`]): then one forward pass runs at a time, on
//! all threads, and what waits of all models together is bounded. A batch with sequences of several models is one forward
//! pass for each; the threads of a model that is not at work are parked. A GPU has two threads, which take turns: one takes a
//! batch and computes it while the other answers what it has computed before; where a whole batch waits already, it is taken and
//! brought to the GPU meanwhile, so that there is always work for it. With several GPUs each has its own, and all
//! take from the one queue. A GPU that fails for good is left to itself; without another one the queue fails, and with it the
//! server's readiness and liveness: in this process the driver would not use it again.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::batcher::{Batcher, FAILED, Options, Piece};
use super::report::ReportedQueue;
use super::text::Sequence;
use super::turns::{CardState, Turn, Worker};
use crate::error::{Error, Result};
use crate::telemetry::metrics::labels::Stage;
use crate::telemetry::metrics::metrics;
use text2vec_engine::device::{Card, Device};
use text2vec_engine::encoder::{Encoder, TokenBatch};
use text2vec_kernel::cores;

/// Tokens of a batch on a card, until an encoder knows better.
const CARD_TOKENS: usize = 4096;

/// Threads that take turns at a card. Cutting, normalising and answering thousands of texts takes time in which it would idle.
const THREADS_OF_A_CARD: usize = 2;

/// A queue and the thread, or two threads per GPU, that empties it, for any number of models. Dropping it lets what was
/// admitted be served.
pub struct Inference {
    batcher: Batcher<Sequence>,
    threads: usize,
    /// Empty: on the CPU.
    cards: Vec<Card>,
    /// Kept for as long as the queue is to be in the metrics.
    _reported: Arc<ReportedQueue<Sequence>>,
}

impl std::fmt::Debug for Inference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inference").field("threads", &self.threads).field("cards", &self.cards).finish_non_exhaustive()
    }
}

impl Inference {
    /// Starts the thread. A forward pass has `threads` threads (`None`: what the process may use), and `waiting_tokens`
    /// may wait before callers wait for room.
    ///
    /// # Errors
    /// `Config` for 0 threads; `Internal` where the system gives no thread.
    pub fn start(threads: Option<usize>, waiting_tokens: usize) -> Result<Inference> {
        let threads = match threads {
            Some(0) => {
                let message = "0 threads cannot embed anything: --threads takes 1 or more";
                return Err(Error::config(message).parameter("--threads"));
            }
            Some(threads) => threads,
            None => cores(),
        };
        let alone = Worker { number: 0, of: 1, encoder: 0, turn: None, cards_left: Arc::default() };
        Inference::start_workers(vec![alone], threads, Vec::new(), queue_options(threads, waiting_tokens))
    }

    /// Starts two threads for each of these cards, of which there is at least one. `waiting_tokens` as in [`Inference::start`],
    /// until [`Inference::widen`] makes it more.
    ///
    /// # Errors
    /// `Internal` without a card, or where the system gives no thread.
    pub fn start_on(cards: Vec<Card>, waiting_tokens: usize) -> Result<Inference> {
        match cards.len() {
            0 => Err(Error::internal("no card to compute on")),
            count => Inference::start_as_with_cards(count, cards, waiting_tokens),
        }
    }

    /// Queue and threads as if there were a card, for encoders that do without: what the host's side of a card can do is
    /// measured with it (`benches/host.rs`).
    ///
    /// # Errors
    /// `Internal` where the system gives no thread.
    pub fn start_as_with_a_card(waiting_tokens: usize) -> Result<Inference> {
        Inference::start_as_with_cards(1, Vec::new(), waiting_tokens)
    }

    fn start_as_with_cards(count: usize, cards: Vec<Card>, waiting_tokens: usize) -> Result<Inference> {
        let options = Options {
            batch_tokens: CARD_TOKENS,
            query_batch_tokens: CARD_TOKENS,
            query_fill_tokens: CARD_TOKENS / 16,
            ..queue_options(count, waiting_tokens)
        };
        let turns: Vec<Arc<Mutex<CardState>>> = (0..count).map(|_| Arc::default()).collect();
        let cards_left = Arc::new(AtomicUsize::new(count));
        let of = count * THREADS_OF_A_CARD;
        let worker = |number: usize| {
            let encoder = number % count;
            Worker { number, of, encoder, turn: Some(turns[encoder].clone()), cards_left: cards_left.clone() }
        };
        Inference::start_workers((0..of).map(worker).collect(), count, cards, options)
    }

    fn start_workers(workers: Vec<Worker>, threads: usize, cards: Vec<Card>, options: Options) -> Result<Inference> {
        let batcher = Batcher::new(options);
        for worker in workers {
            let queue = batcher.clone();
            std::thread::Builder::new()
                .name("inference".into())
                .spawn(move || {
                    let _last = FailOnPanic(&queue);
                    work(&queue, &worker);
                })
                .map_err(|error| Error::internal(format!("no thread for inference: {error}")))?;
        }
        let reported = ReportedQueue::new(batcher.clone());
        Ok(Inference { batcher, threads, cards, _reported: reported })
    }

    /// Makes batches of up to `tokens` where they were smaller, and room for four of them: an encoder found out that it pays.
    pub fn widen(&self, tokens: usize) {
        let now = self.batcher.options();
        if tokens > now.batch_tokens {
            self.batcher.resize(Options {
                batch_tokens: tokens,
                query_batch_tokens: tokens,
                query_fill_tokens: tokens / 16,
                waiting_tokens: now.waiting_tokens.max(tokens.saturating_mul(4)),
                ..now
            });
        }
    }

    /// The queue.
    pub fn batcher(&self) -> &Batcher<Sequence> {
        &self.batcher
    }

    /// Threads of a forward pass; with cards, how many of those there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What computes, as `/meta` and the metrics have it: `cpu`, or the cards' numbers.
    pub fn device(&self) -> String {
        match &self.cards[..] {
            [] => Device::Cpu.to_string(),
            cards => Device::Cuda(cards.iter().map(|card| card.number).collect()).to_string(),
        }
    }

    /// The cards that compute; none: the CPU does.
    pub fn cards(&self) -> &[Card] {
        &self.cards
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        self.batcher.close();
    }
}

/// Batches small enough that a query never waits long for a running one (about 15 ms of MiniLM on two cores), and large
/// enough that weights are not read for a few tokens only.
fn queue_options(threads: usize, waiting_tokens: usize) -> Options {
    let batch_tokens = 64 * threads.max(2);
    Options {
        batch_tokens,
        query_batch_tokens: batch_tokens,
        query_fill_tokens: 0,
        queries_in_a_row: 8,
        waiting_tokens,
    }
}

/// Should an inference thread ever end on a panic, callers must not wait for it.
struct FailOnPanic<'a>(&'a Batcher<Sequence>);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0.fail() {
            tracing::error!("{FAILED}; please report a bug");
        }
    }
}

/// Computes batches until the queue has ended.
fn work(batcher: &Batcher<Sequence>, worker: &Worker) {
    // No two threads have a pass of the same number.
    let mut pass = worker.number as u64;
    loop {
        // Before the batch: what comes while another computes is gathered, and not taken in small pieces.
        let mut turn = worker.take_turn();
        if turn.as_ref().is_some_and(|card| card.is_lost) {
            return;
        }
        let Some(batch) = batcher.next_batch() else { return };
        let mut sequences = batch.pieces;
        // Dropped before the sequences are: whoever hears that a text has no answer finds the queue failed.
        let _first = FailOnPanic(batcher);
        let model = |sequence: &Sequence| Arc::as_ptr(&sequence.text.model);
        // Stable: sequences of a model keep their order.
        sequences.sort_by_key(model);
        let mut is_lost = false;
        let mut of_models = sequences.chunk_by(|a, b| model(a) == model(b)).peekable();
        while let Some(sequences) = of_models.next() {
            pass += worker.of as u64;
            let begun = Instant::now();
            let tokens: usize = sequences.iter().map(Piece::tokens).sum();
            // A text's sequences follow each other.
            let texts = sequences.chunk_by(|a, b| Arc::ptr_eq(&a.text, &b.text)).count();
            for sequence in sequences {
                sequence.text.timeline.dispatched(pass, begun, texts, tokens);
            }
            let kept = of_models.peek().and_then(|_| turn.take());
            is_lost |= compute_together(sequences, worker.encoder, &mut turn, &|| batcher.has_a_batch());
            turn = turn.or(kept);
            metrics().stage(Stage::Forward, begun.elapsed());
            metrics().batch_texts.number(texts as u64);
            metrics().batch_tokens.number(tokens as u64);
        }
        if is_lost {
            tracing::error!("a GPU has failed: nothing more is computed on card {} of this process", worker.encoder);
            if worker.is_last_to_lose(turn) && batcher.fail() {
                tracing::error!("{FAILED}");
            }
            return;
        }
    }
}

/// Computes sequences of one model. Should they fail together, each is computed by itself: one of them is the cause, and
/// its neighbours must not suffer. Whether the device has failed for good.
fn compute_together(
    sequences: &[Sequence],
    encoder: usize,
    turn: &mut Turn<'_>,
    next_waits: &dyn Fn() -> bool,
) -> bool {
    let Err(error) = compute(sequences, encoder, turn, next_waits) else { return false };
    match sequences {
        [alone] => {
            alone.text.fail(error);
            alone.text.model.encoders.get(encoder).is_some_and(|encoder| lock(encoder).is_lost())
        }
        // `|`: those that come after a loss are answered too, by errors that come at once.
        sequences => sequences.iter().fold(false, |is_lost, sequence| {
            is_lost | compute_together(std::slice::from_ref(sequence), encoder, turn, next_waits)
        }),
    }
}

/// An encoder that panicked may be used again.
fn lock(encoder: &Mutex<Box<dyn Encoder>>) -> MutexGuard<'_, Box<dyn Encoder>> {
    encoder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forward pass and pooling of some sequences of one model, with which the turn ends, or earlier, where the device computes by
/// itself and the next batch waits; then dense layers, and each text that becomes complete is answered.
fn compute(sequences: &[Sequence], encoder: usize, turn: &mut Turn<'_>, next_waits: &dyn Fn() -> bool) -> Result<()> {
    let Some(first) = sequences.first() else { return Ok(()) };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut batch = TokenBatch::new();
        for sequence in sequences {
            batch.push(&sequence.ids, &sequence.type_ids);
        }
        let modes: Vec<_> = sequences.iter().map(|sequence| &sequence.text.treatment.pooling[..]).collect();
        let Some(encoder) = first.text.model.encoders.get(encoder) else {
            return Err(Error::internal("an inference thread has no encoder for this model"));
        };
        let mut encoder = lock(encoder);
        let vectors = match encoder.begin(&batch, &modes)? {
            Some(begun) => {
                drop(encoder);
                if next_waits() {
                    drop(turn.take());
                }
                begun.finish(&modes)?
            }
            None => {
                let vectors = encoder.pooled(&batch, &modes)?;
                drop(encoder);
                vectors
            }
        };
        drop(turn.take());
        for (sequence, vector) in sequences.iter().zip(vectors) {
            sequence.text.computed(sequence.index, first.text.model.head.apply(vector));
        }
        Ok(())
    }));
    outcome.unwrap_or_else(|_| {
        Err(Error::internal("embedding this text failed on a bug in the sidecar: see its log, and please report it"))
    })
}

#[cfg(test)]
mod tests;
