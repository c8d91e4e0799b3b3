//! The inference thread: batches of sequences in, finished vectors out.
//!
//! A text is one sequence, or one per sentence; its sequences may be computed in different batches. Whoever computes the
//! last of them finishes the text and answers.
//!
//! All models of a process can share one thread and its queue ([`Inference`]): then one forward pass runs at a time, on
//! all threads, and what waits of all models together is bounded. A batch with sequences of several models is one forward
//! pass for each; the threads of a model that is not at work are parked. With several GPUs each has a thread, and all take
//! from the one queue.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::batcher::{Batcher, FAILED, Options, Piece};
use super::call::Call;
use super::dense::DenseHead;
use super::device::{Card, Device};
use super::encoder::{Encoder, TokenBatch};
use super::kernel::cores;
use super::plan::Plan;
use super::pooling;
use super::report::ReportedQueue;
use crate::backend::Embedding;
use crate::error::{Error, Result};
use crate::model::tokenizer::Tokens;
use crate::telemetry::metrics::labels::Stage;
use crate::telemetry::metrics::metrics;

/// What happened to texts since the start; shown in `/meta` and `/metrics`.
#[derive(Default)]
pub struct Counters {
    /// Texts computed.
    pub texts: AtomicU64,
    /// Their tokens.
    pub tokens: AtomicU64,
    /// Texts, or sentences of texts, beyond the token limit.
    pub truncated_texts: AtomicU64,
    /// Requests whose `dimensions` had no effect.
    pub ignored_dimensions: AtomicU64,
    /// Requests whose pooling strategy had no effect.
    pub ignored_pooling: AtomicU64,
    /// Texts that could not be computed, panics included.
    pub failed_texts: AtomicU64,
}

/// A model as the inference threads see it.
pub struct Model {
    /// One for each inference thread, locked by it alone and for a forward pass.
    encoders: Vec<Mutex<Box<dyn Encoder>>>,
    /// What follows the pooling.
    head: DenseHead,
    /// What happened to its texts.
    pub counters: Counters,
}

impl Model {
    /// A model that is to be computed by these encoders, one for each inference thread, with these layers behind its pooling.
    pub fn new(encoders: Vec<Box<dyn Encoder>>, head: DenseHead) -> Model {
        let encoders = encoders.into_iter().map(Mutex::new).collect();
        Model { encoders, head, counters: Counters::default() }
    }
}

/// Tokens of a batch on a card, until an encoder knows better.
const CARD_TOKENS: usize = 4096;

/// A queue and the thread, or one thread per GPU, that empties it, for any number of models. Dropping it lets what was
/// admitted be served.
pub struct Inference {
    batcher: Batcher<Sequence>,
    threads: usize,
    /// Empty: on the CPU.
    cards: Vec<Card>,
    /// Kept for as long as the queue is to be in the metrics.
    _reported: Arc<ReportedQueue>,
}

impl Inference {
    /// Starts the thread. A forward pass has `threads` threads (`None`: what the process may use), and `waiting_tokens`
    /// may wait before callers wait for room.
    pub fn start(threads: Option<usize>, waiting_tokens: usize) -> Result<Inference> {
        let threads = match threads {
            Some(0) => return Err(Error::config("0 threads cannot embed anything: --threads takes 1 or more")),
            Some(threads) => threads,
            None => cores(),
        };
        Inference::start_workers(1, threads, Vec::new(), queue_options(threads, waiting_tokens))
    }

    /// Starts a thread for each of these cards, of which there is at least one. `waiting_tokens` as in [`Inference::start`],
    /// until [`Inference::widen`] makes it more.
    pub fn start_on(cards: Vec<Card>, waiting_tokens: usize) -> Result<Inference> {
        let workers = cards.len();
        if workers == 0 {
            return Err(Error::internal("no card to compute on"));
        }
        let options = Options {
            batch_tokens: CARD_TOKENS,
            query_batch_tokens: CARD_TOKENS,
            query_fill_tokens: CARD_TOKENS / 16,
            ..queue_options(workers, waiting_tokens)
        };
        Inference::start_workers(workers, workers, cards, options)
    }

    fn start_workers(workers: usize, threads: usize, cards: Vec<Card>, options: Options) -> Result<Inference> {
        let batcher = Batcher::new(options);
        for worker in 0..workers {
            let queue = batcher.clone();
            std::thread::Builder::new()
                .name("inference".into())
                .spawn(move || {
                    let _last = FailAtEnd(&queue);
                    work(&queue, Worker { number: worker, of: workers });
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
struct FailAtEnd<'a>(&'a Batcher<Sequence>);

impl Drop for FailAtEnd<'_> {
    fn drop(&mut self) {
        if self.0.fail() {
            tracing::error!("{FAILED}; please report it");
        }
    }
}

/// One sequence of a text, waiting to be computed.
pub struct Sequence {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    /// Which of the text's sequences this is.
    index: usize,
    text: Arc<Text>,
}

/// A text whose sequences are being computed.
struct Text {
    model: Arc<Model>,
    call: Arc<Call>,
    plan: Plan,
    tokens: u32,
    truncated: bool,
    progress: Mutex<Progress>,
}

struct Progress {
    /// The vector of each sequence; empty until computed.
    vectors: Vec<Vec<f32>>,
    missing: usize,
    /// Gone once answered.
    reply: Option<oneshot::Sender<Result<Embedding>>>,
}

impl Piece for Sequence {
    fn tokens(&self) -> usize {
        // A text without tokens (which only static embeddings know) has its turn too.
        self.ids.len().max(1)
    }

    fn is_cancelled(&self) -> bool {
        self.text.progress().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// A text's sequences, ready to be queued for a model, and where its vector will arrive.
pub fn sequences(
    model: &Arc<Model>,
    call: &Arc<Call>,
    plan: Plan,
    tokens: Vec<Tokens>,
) -> (Vec<Sequence>, oneshot::Receiver<Result<Embedding>>) {
    let (reply, answer) = oneshot::channel();
    let progress = Progress { vectors: vec![Vec::new(); tokens.len()], missing: tokens.len(), reply: Some(reply) };
    let text = Arc::new(Text {
        model: model.clone(),
        call: call.clone(),
        plan,
        tokens: tokens.iter().map(|tokens| tokens.ids.len() as u32).sum(),
        truncated: tokens.iter().any(|tokens| tokens.truncated),
        progress: Mutex::new(progress),
    });
    let sequence = |(index, tokens): (usize, Tokens)| Sequence {
        ids: tokens.ids,
        type_ids: tokens.type_ids,
        index,
        text: text.clone(),
    };
    (tokens.into_iter().enumerate().map(sequence).collect(), answer)
}

/// Which of the inference threads one is.
#[derive(Clone, Copy)]
struct Worker {
    number: usize,
    of: usize,
}

/// Computes batches until the queue has ended.
fn work(batcher: &Batcher<Sequence>, worker: Worker) {
    // No two threads have a pass of the same number.
    let mut pass = worker.number as u64;
    while let Some(batch) = batcher.next_batch() {
        let mut sequences = batch.pieces;
        let model = |sequence: &Sequence| Arc::as_ptr(&sequence.text.model);
        // Stable: sequences of a model keep their order.
        sequences.sort_by_key(model);
        for sequences in sequences.chunk_by(|a, b| model(a) == model(b)) {
            pass += worker.of as u64;
            let begun = Instant::now();
            let tokens: usize = sequences.iter().map(Piece::tokens).sum();
            // A text's sequences follow each other.
            let texts = sequences.chunk_by(|a, b| Arc::ptr_eq(&a.text, &b.text)).count();
            for sequence in sequences {
                sequence.text.call.dispatched(pass, begun, texts, tokens);
            }
            compute_together(sequences, worker);
            metrics().stage(Stage::Forward, begun.elapsed());
            metrics().batch_texts.number(texts as u64);
            metrics().batch_tokens.number(tokens as u64);
        }
    }
}

/// Computes sequences of one model. Should they fail together, each is computed by itself: one of them is the cause, and
/// its neighbours must not suffer.
fn compute_together(sequences: &[Sequence], worker: Worker) {
    match (compute(sequences, worker), sequences) {
        (Ok(()), _) => {}
        (Err(error), [alone]) => alone.text.fail(error),
        (Err(_), sequences) => {
            for sequence in sequences {
                if let Err(error) = compute(std::slice::from_ref(sequence), worker) {
                    sequence.text.fail(error);
                }
            }
        }
    }
}

/// Forward pass, pooling and dense layers of some sequences of one model; each text that becomes complete is answered.
fn compute(sequences: &[Sequence], worker: Worker) -> Result<()> {
    let Some(first) = sequences.first() else { return Ok(()) };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut batch = TokenBatch::new();
        for sequence in sequences {
            batch.push(&sequence.ids, &sequence.type_ids);
        }
        let modes: Vec<_> = sequences.iter().map(|sequence| &sequence.text.plan.pooling[..]).collect();
        let Some(encoder) = first.text.model.encoders.get(worker.number) else {
            return Err(Error::internal("an inference thread has no encoder for this model"));
        };
        // An encoder that panicked may be used again.
        let mut encoder = encoder.lock().unwrap_or_else(PoisonError::into_inner);
        let vectors = encoder.pooled(&batch, &modes)?;
        drop(encoder);
        for (sequence, vector) in sequences.iter().zip(vectors) {
            sequence.text.computed(sequence.index, first.text.model.head.apply(vector));
        }
        Ok(())
    }));
    outcome.unwrap_or_else(|_| {
        Err(Error::internal("embedding this text failed on a bug in the sidecar: see its log, and please report it"))
    })
}

impl Text {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a sequence's vector; with the last one the text is finished and answered.
    fn computed(&self, index: usize, vector: Vec<f32>) {
        let mut progress = self.progress();
        if std::mem::replace(&mut progress.vectors[index], vector).is_empty() {
            progress.missing -= 1;
        }
        if progress.missing == 0
            && let Some(reply) = progress.reply.take()
        {
            let vectors = std::mem::take(&mut progress.vectors);
            drop(progress);
            // The caller may have left meanwhile.
            let _ = reply.send(self.finish(vectors));
        }
    }

    fn fail(&self, error: Error) {
        if let Some(reply) = self.progress().reply.take() {
            self.model.counters.failed_texts.fetch_add(1, Ordering::Relaxed);
            self.call.log(|| tracing::error!("a text of {} tokens could not be embedded: {error}", self.tokens));
            // The caller may have left meanwhile.
            let _ = reply.send(Err(error));
        }
    }

    /// The mean of the sequences' vectors, cut and normalised as the profile has it.
    fn finish(&self, vectors: Vec<Vec<f32>>) -> Result<Embedding> {
        let counters = &self.model.counters;
        counters.texts.fetch_add(1, Ordering::Relaxed);
        counters.tokens.fetch_add(u64::from(self.tokens), Ordering::Relaxed);
        let mut vector = pooling::sum_over(vectors, self.plan.divisor);
        let dimensions_ignored = self.plan.finish.apply(&mut vector).inspect_err(|_| {
            counters.failed_texts.fetch_add(1, Ordering::Relaxed);
        })?;
        if vector.iter().any(|value| !value.is_finite()) {
            counters.failed_texts.fetch_add(1, Ordering::Relaxed);
            return Err(Error::internal("the model made a value that is not a finite number for this text"));
        }
        let mut ignored = Vec::new();
        for (name, is_ignored, counter) in [
            ("dimensions", dimensions_ignored, &counters.ignored_dimensions),
            ("poolingStrategy", self.plan.pooling_ignored, &counters.ignored_pooling),
        ] {
            if is_ignored {
                ignored.push(name);
                if counter.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!("a request's {name} has no effect under this profile (said once; counted in /meta)");
                }
            }
        }
        if self.truncated && counters.truncated_texts.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("a text was longer than the token limit and was cut (said once; counted in /meta)");
        }
        Ok(Embedding { vector: vector.into(), tokens: self.tokens, truncated: self.truncated, ignored })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::local::batcher::Class;
    use crate::backend::local::encoder::HiddenStates;
    use crate::backend::local::plan::Finish;
    use crate::model::modules::PoolingMode;

    /// States are the ids themselves, two wide. The id 13 panics, 14 is an error, 15 makes NaN.
    struct Fake;

    impl Encoder for Fake {
        fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
            assert!(!batch.ids().contains(&13), "the poisoned id");
            if batch.ids().contains(&14) {
                return Err(Error::internal("the failing id"));
            }
            let state = |&id: &u32| if id == 15 { f32::NAN } else { id as f32 };
            let values = batch.ids().iter().flat_map(|id| [state(id), 1.0]).collect();
            Ok(HiddenStates { values, width: 2 })
        }

        fn hidden_size(&self) -> usize {
            2
        }
    }

    fn text(model: &Arc<Model>, ids: &[&[u32]]) -> (Vec<Sequence>, oneshot::Receiver<Result<Embedding>>) {
        let plan = Plan {
            pieces: Vec::new(),
            pooling: vec![PoolingMode::Mean],
            divisor: ids.len(),
            finish: Finish::default(),
            pooling_ignored: false,
        };
        let tokens = |ids: &&[u32]| Tokens { ids: ids.to_vec(), type_ids: vec![0; ids.len()], truncated: false };
        let call = Arc::new(Call::begin(1, Class::Passage));
        sequences(model, &call, plan, ids.iter().map(tokens).collect())
    }

    /// All in one batch: every text is answered, the bad ones with their own error.
    #[tokio::test]
    async fn a_poisoned_text_does_not_take_its_neighbours_with_it() {
        let options = Options {
            batch_tokens: 100,
            query_batch_tokens: 100,
            query_fill_tokens: 0,
            queries_in_a_row: 1,
            waiting_tokens: 1000,
        };
        let batcher = Batcher::new(options);
        let model = Arc::new(Model::new(vec![Box::new(Fake)], DenseHead::default()));
        let text = |ids: &[&[u32]]| text(&model, ids);
        let texts = [
            text(&[&[1, 3]]),
            text(&[&[13]]),
            text(&[&[4], &[8, 8]]),
            text(&[&[14]]),
            text(&[&[5], &[13], &[6]]),
            text(&[&[15]]),
            text(&[&[9]]),
        ];
        let (pieces, answers): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
        let admission = batcher.admit(Class::Passage, 100, None).await.expect("room");
        let submission = admission.submit(pieces.into_iter().flatten()).expect("queued");
        batcher.close();
        work(&batcher, Worker { number: 0, of: 1 });
        drop(submission);
        let mut results = Vec::new();
        for answer in answers {
            results.push(answer.await.expect("every text is answered").map(|embedding| embedding.vector.to_vec()));
        }
        assert_eq!(results[0], Ok(vec![2.0, 1.0]));
        assert_eq!(results[2], Ok(vec![6.0, 1.0]), "the mean of its two sequences");
        assert_eq!(results[6], Ok(vec![9.0, 1.0]));
        for (index, words) in [(1, "a bug"), (3, "the failing id"), (4, "a bug"), (5, "not a finite number")] {
            let error = results[index].as_ref().expect_err("a bad text");
            assert!(error.message().contains(words), "{index}: {error}");
        }
        assert_eq!(model.counters.failed_texts.load(Ordering::Relaxed), 4);
    }

    /// Panics past every guard: the panic's own payload panics as it is dropped.
    struct Lethal;

    struct Payload;

    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("past the guard");
        }
    }

    impl Encoder for Lethal {
        fn forward(&mut self, _: &TokenBatch) -> Result<HiddenStates> {
            std::panic::panic_any(Payload)
        }

        fn hidden_size(&self) -> usize {
            2
        }
    }

    #[tokio::test]
    async fn when_the_thread_ends_nobody_waits_for_it() {
        let inference = Inference::start(Some(1), 1000).expect("a thread");
        let model = Arc::new(Model::new(vec![Box::new(Lethal)], DenseHead::default()));
        let batcher = inference.batcher();
        let (pieces, answers): (Vec<_>, Vec<_>) = (0..3).map(|_| text(&model, &[&[1]])).unzip();
        let admission = batcher.admit(Class::Passage, 3, None).await.expect("room");
        assert!(!batcher.has_failed());
        let _submission = admission.submit(pieces.into_iter().flatten()).expect("queued");
        for answer in answers {
            let waited = tokio::time::timeout(std::time::Duration::from_secs(10), answer).await.expect("in time");
            assert!(waited.is_err(), "nothing can have been computed");
        }
        let refusal = batcher.admit(Class::Passage, 1, None).await.err().expect("nobody computes");
        assert!(batcher.has_failed() && refusal.message() == FAILED, "{refusal}");
        assert_eq!(batcher.refusal(), refusal);
    }

    /// States are the ids times a factor; a batch is all of one model, and of no more tokens than it brought.
    struct Times(u32);

    impl Encoder for Times {
        fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
            assert!(batch.ids().iter().all(|id| id % 2 == self.0 % 2), "tokens of another model");
            let values = batch.ids().iter().flat_map(|&id| [(id * self.0) as f32, 1.0]).collect();
            Ok(HiddenStates { values, width: 2 })
        }

        fn hidden_size(&self) -> usize {
            2
        }
    }

    #[tokio::test]
    async fn models_that_share_the_thread_keep_their_own_texts() {
        let inference = Inference::start(Some(2), 1000).expect("a thread");
        let models = [3, 10].map(|factor| Arc::new(Model::new(vec![Box::new(Times(factor))], DenseHead::default())));
        let ids = |i: u32| 2 * (i / 2) + 3 * (1 - i % 2);
        let texts = (0..200).map(|i| text(&models[i as usize % 2], &[&[ids(i)], &[ids(i)]]));
        let (pieces, answers): (Vec<_>, Vec<_>) = texts.unzip();
        let admission = inference.batcher().admit(Class::Passage, 400, None).await.expect("room");
        let submission = admission.submit(pieces.into_iter().flatten()).expect("queued");
        for (i, answer) in (0..200).zip(answers) {
            let embedding = answer.await.expect("every text is answered").expect("a vector");
            assert_eq!(embedding.vector[0], (ids(i) * [3, 10][i as usize % 2]) as f32, "text {i}");
        }
        drop(submission);
    }
}
