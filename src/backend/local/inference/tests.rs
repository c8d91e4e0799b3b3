//! On encoders that are no models, with what else can go wrong.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::*;
use crate::backend::Embedding;
use crate::backend::local::batcher::{Ask, Class};
use crate::backend::local::model::Model;
use crate::backend::local::text::{Pooled, Text};
use crate::backend::local::timeline::Timeline;
use crate::model::tokenizer::Tokens;
use text2vec_engine::dense::Head;
use text2vec_engine::encoder::{Begun, HiddenStates};
use text2vec_engine::pooling::{PoolingMode, Sum};

/// States are the ids themselves, two wide. The id 13 panics, 14 is an error, 15 makes NaN.
struct Fake;

impl Encoder for Fake {
    fn forward(&mut self, batch: &TokenBatch) -> text2vec_kernel::Result<HiddenStates> {
        assert!(!batch.ids().contains(&13), "the poisoned id");
        if batch.ids().contains(&14) {
            return Err(text2vec_kernel::Error::internal("the failing id"));
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
    let tokens = |ids: &&[u32]| Tokens { ids: ids.to_vec(), type_ids: vec![0; ids.len()], truncated: false };
    let treatment = Pooled { pooling: vec![PoolingMode::Mean], ..Pooled::default() };
    let (reply, answer) = oneshot::channel();
    let text = Text::new(model, &Arc::new(Timeline::new(1, Class::Passage)), treatment, reply);
    let sequences = ids.iter().map(|ids| text.sequence(tokens(ids))).collect();
    text.complete(ids.len());
    (sequences, answer)
}

/// Vectors come from several threads, and before all sequences are made: the sum has the sequences' order.
#[test]
fn a_text_is_summed_in_the_order_of_its_sequences_whenever_they_are_computed() {
    let model = Arc::new(Model::new(vec![Box::new(Fake)], Head::default()));
    // Not associative: in another order the first value is another.
    let vectors = [1e30f32, 1.0, -1e30, 3.0].map(|value| vec![value, 1.0]);
    let expected = Sum::default();
    let expected = vectors.iter().fold(expected, |mut sum, vector| {
        sum.add(vector.clone());
        sum
    });
    let expected = expected.over(4);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 1, 3]] {
        for complete_after in 0..=4 {
            let (reply, mut answer) = oneshot::channel();
            let timeline = Arc::new(Timeline::new(1, Class::Passage));
            let text = Text::new(&model, &timeline, Pooled::default(), reply);
            let made =
                vectors.each_ref().map(|_| text.sequence(Tokens { ids: vec![7], type_ids: vec![0], truncated: false }));
            for (step, &index) in order.iter().enumerate() {
                if step == complete_after {
                    text.complete(4);
                }
                text.computed(made[index].index, vectors[index].clone());
                text.computed(made[index].index, vec![f32::NAN; 2]);
            }
            if complete_after == 4 {
                assert!(answer.try_recv().is_err(), "there may be more");
                text.complete(4);
            }
            let embedding = answer.try_recv().expect("an answer").expect("a vector");
            assert_eq!((embedding.vector.to_vec(), embedding.tokens), (expected.clone(), 4), "{order:?}");
        }
    }
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
    let model = Arc::new(Model::new(vec![Box::new(Fake)], Head::default()));
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
    let admission = batcher.admit(Class::Passage, Ask { least: 100, most: 100 }, None).await.expect("room");
    let submission = admission.submit(pieces.into_iter().flatten(), false).expect("queued");
    batcher.close();
    work(&batcher, &Worker { number: 0, of: 1, encoder: 0, turn: None, cards_left: Arc::default() });
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
    fn forward(&mut self, _: &TokenBatch) -> text2vec_kernel::Result<HiddenStates> {
        std::panic::panic_any(Payload)
    }

    fn hidden_size(&self) -> usize {
        2
    }
}

#[tokio::test]
async fn when_the_thread_ends_nobody_waits_for_it() {
    let inference = Inference::start(Some(1), 1000).expect("a thread");
    let model = Arc::new(Model::new(vec![Box::new(Lethal)], Head::default()));
    let batcher = inference.batcher();
    let (pieces, answers): (Vec<_>, Vec<_>) = (0..3).map(|_| text(&model, &[&[1]])).unzip();
    let admission = batcher.admit(Class::Passage, Ask { least: 3, most: 3 }, None).await.expect("room");
    assert!(!batcher.has_failed());
    let _submission = admission.submit(pieces.into_iter().flatten(), false).expect("queued");
    for answer in answers {
        let waited = tokio::time::timeout(std::time::Duration::from_secs(10), answer).await.expect("in time");
        assert!(waited.is_err(), "nothing can have been computed");
    }
    let refusal = batcher.admit(Class::Passage, Ask { least: 1, most: 1 }, None).await.expect_err("nobody computes");
    assert!(batcher.has_failed() && refusal.message() == FAILED, "{refusal}");
    assert_eq!(batcher.refusal(), refusal);
}

/// Computes by itself once a batch is begun, for as long as it takes until so many are, or a moment.
struct ByItself {
    flying: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    wanted: usize,
}

struct Flight(Arc<AtomicUsize>, Arc<AtomicUsize>, usize, Vec<Vec<f32>>);

impl Begun for Flight {
    fn finish(self: Box<Self>, _: &[&[PoolingMode]]) -> text2vec_kernel::Result<Vec<Vec<f32>>> {
        let until = Instant::now() + std::time::Duration::from_secs(if self.2 > 1 { 10 } else { 0 });
        while self.1.load(Ordering::Acquire) < self.2 && Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        self.0.fetch_sub(1, Ordering::AcqRel);
        Ok(self.3)
    }
}

impl Encoder for ByItself {
    fn forward(&mut self, batch: &TokenBatch) -> text2vec_kernel::Result<HiddenStates> {
        Fake.forward(batch)
    }

    fn begin(
        &mut self,
        batch: &TokenBatch,
        modes: &[&[PoolingMode]],
    ) -> text2vec_kernel::Result<Option<Box<dyn Begun>>> {
        let flying = 1 + self.flying.fetch_add(1, Ordering::AcqRel);
        self.most.fetch_max(flying, Ordering::AcqRel);
        let vectors = self.pooled(batch, modes)?;
        Ok(Some(Box::new(Flight(self.flying.clone(), self.most.clone(), self.wanted, vectors))))
    }

    fn hidden_size(&self) -> usize {
        2
    }
}

/// Two batches are on a card where two wait; what is less than one waits for the end of that before it, and grows.
#[tokio::test]
async fn a_whole_batch_is_begun_while_another_is_computed() {
    for (texts, at_once) in [(17, 2), (9, 1)] {
        let inference = Inference::start_as_with_cards(1, Vec::new(), 100_000).expect("threads");
        let (flying, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let encoder = ByItself { flying: flying.clone(), most: most.clone(), wanted: at_once };
        let model = Arc::new(Model::new(vec![Box::new(encoder)], Head::default()));
        // Eight are a batch.
        let ids = vec![6; CARD_TOKENS / 8];
        let (pieces, answers): (Vec<_>, Vec<_>) = (0..texts).map(|_| text(&model, &[&ids])).unzip();
        let tokens = texts * ids.len();
        let ask = Ask { least: tokens, most: tokens };
        let admission = inference.batcher().admit(Class::Passage, ask, None).await.expect("room");
        let _submission = admission.submit(pieces.into_iter().flatten(), false).expect("queued");
        for answer in answers {
            assert_eq!(answer.await.expect("an answer").expect("a vector").vector.to_vec(), [6.0, 1.0]);
        }
        assert_eq!((most.load(Ordering::Acquire), flying.load(Ordering::Acquire)), (at_once, 0), "{texts} texts");
    }
}

/// A card that fails for good at the id 13, and counts how often it is asked after that.
struct Fragile(bool, Arc<AtomicUsize>);

impl Encoder for Fragile {
    fn forward(&mut self, batch: &TokenBatch) -> text2vec_kernel::Result<HiddenStates> {
        self.1.fetch_add(usize::from(self.0), Ordering::Relaxed);
        self.0 |= batch.ids().contains(&13);
        if self.0 {
            return Err(text2vec_kernel::Error::internal("the card has failed"));
        }
        Fake.forward(batch)
    }

    fn is_lost(&self) -> bool {
        self.0
    }

    fn hidden_size(&self) -> usize {
        2
    }
}

/// Everybody is answered; another card goes on, and without one the queue fails.
#[tokio::test]
async fn a_card_that_fails_is_left_and_the_last_one_ends_the_queue() {
    for count in [1, 2] {
        let inference = Inference::start_as_with_cards(count, Vec::new(), 1000).expect("threads");
        let asked = Arc::new(AtomicUsize::new(0));
        let encoders = (0..count).map(|_| Box::new(Fragile(false, asked.clone())) as Box<dyn Encoder>).collect();
        let model = Arc::new(Model::new(encoders, Head::default()));
        let batcher = inference.batcher();
        let ask = async |ids: &[&[u32]]| {
            let (pieces, answer) = text(&model, ids);
            let admission = batcher.admit(Class::Passage, Ask { least: 3, most: 3 }, None).await?;
            let _submission = admission.submit(pieces, false)?;
            answer.await.unwrap_or_else(|_| Err(batcher.refusal()))
        };
        assert!(ask(&[&[1, 3]]).await.is_ok());
        for lost in 1..=count {
            let error = ask(&[&[5], &[13], &[6]]).await.expect_err("the card has failed");
            assert!(error.message().contains("the card has failed"), "{error}");
            // Each of its sequences was tried once more, and none after.
            assert!(asked.load(Ordering::Relaxed) <= 3 * lost, "{asked:?}");
            if lost < count {
                for _ in 0..20 {
                    assert_eq!(ask(&[&[1, 3]]).await.expect("the other card").vector.to_vec(), [2.0, 1.0]);
                }
                assert!(!batcher.has_failed());
            }
        }
        let refusal = ask(&[&[1]]).await.expect_err("no card is left");
        assert!(batcher.has_failed() && refusal.message() == FAILED, "{refusal}");
    }
}

/// States are the ids times a factor; a batch is all of one model, and of no more tokens than it brought.
struct Times(u32);

impl Encoder for Times {
    fn forward(&mut self, batch: &TokenBatch) -> text2vec_kernel::Result<HiddenStates> {
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
    let models = [3, 10].map(|factor| Arc::new(Model::new(vec![Box::new(Times(factor))], Head::default())));
    let ids = |i: u32| 2 * (i / 2) + 3 * (1 - i % 2);
    let texts = (0..200).map(|i| text(&models[i as usize % 2], &[&[ids(i)], &[ids(i)]]));
    let (pieces, answers): (Vec<_>, Vec<_>) = texts.unzip();
    let admission = inference.batcher().admit(Class::Passage, Ask { least: 400, most: 400 }, None).await.expect("room");
    let submission = admission.submit(pieces.into_iter().flatten(), false).expect("queued");
    for (i, answer) in (0..200).zip(answers) {
        let embedding = answer.await.expect("every text is answered").expect("a vector");
        assert_eq!(embedding.vector[0], (ids(i) * [3, 10][i as usize % 2]) as f32, "text {i}");
    }
    drop(submission);
}

/// Says how many sequences a pass has, and waits to be let on.
struct Gated {
    begun: std::sync::mpsc::Sender<usize>,
    go: std::sync::mpsc::Receiver<()>,
}

impl Encoder for Gated {
    fn forward(&mut self, batch: &TokenBatch) -> text2vec_kernel::Result<HiddenStates> {
        self.begun.send(batch.lengths().len()).expect("a test that listens");
        self.go.recv().expect("a test that lets on");
        Ok(HiddenStates { values: vec![1.0; batch.tokens()], width: 1 })
    }

    fn hidden_size(&self) -> usize {
        1
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// While a batch is answered the next is computed; and while one is computed the next is gathered, not taken in pieces.
#[test]
fn the_threads_of_a_card_take_turns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ((begun, passes), (go, gate)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let inference = Inference::start_as_with_a_card(1000).expect("threads");
    let model = Arc::new(Model::new(vec![Box::new(Gated { begun, go: gate })], Head::default()));
    let queue = || {
        let (pieces, answer) = text(&model, &[&[1]]);
        let of = pieces[0].text.clone();
        let admission = inference.batcher().admit(Class::Passage, Ask { least: 1, most: 1 }, None);
        let admission = runtime.block_on(admission).expect("room");
        (of, answer, admission.submit(pieces, false).expect("queued"))
    };
    let answered = |answer: oneshot::Receiver<Result<Embedding>>| {
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
        let answer = answer.expect("in time").expect("an answer");
        assert_eq!(answer.expect("a vector").vector.to_vec(), [1.0]);
    };
    let (held, mut first, _first) = queue();
    assert_eq!(passes.recv_timeout(PATIENCE), Ok(1));
    let gathered: Vec<_> = (0..3).map(|_| queue()).collect();
    // Nobody can answer the first text.
    let holding = held.progress();
    go.send(()).expect("a pass");
    assert_eq!(passes.recv_timeout(PATIENCE), Ok(3), "the others did not wait for the first to be answered");
    go.send(()).expect("a pass");
    gathered.into_iter().for_each(|(_, answer, _submission)| answered(answer));
    assert!(first.try_recv().is_err());
    drop(holding);
    answered(first);
}
