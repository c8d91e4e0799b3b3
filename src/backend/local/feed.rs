//! A call's texts on their way into the queue: sentences and tokens are made portion by portion, as the queue takes them.
//! What is not in the queue yet is text; a portion is all there is of its tokens. Of a large call several threads make a
//! portion together, each from a run of texts of its own: a card computes a hundred texts in the time that one thread takes for
//! ten.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::batcher::{Ask, Piece};
use super::model::Model;
use super::plan::{Pieces, Plan, Treatment};
use super::text::{Pooled, Sequence, Text};
use super::timeline::Timeline;
use crate::backend::Embedding;
use crate::contract::call::{self, Purpose};
use crate::error::{Error, Result};
use crate::model::tokenizer::{Query, TextTokenizer};
use crate::telemetry::metrics::labels::Stage;
use crate::telemetry::metrics::metrics;

/// Up to this many bytes a call's texts are tokenized where the call runs (about 0.3 ms); more goes to a thread for
/// blocking work, so that other connections are served meanwhile.
const INLINE_BYTES: usize = 8 * 1024;

/// A portion ends once it was made of so many bytes, whatever their tokens, so that others have their turn at tokenizing.
const PORTION_BYTES: usize = 256 * 1024;

/// A further thread is worth its start for as many bytes of a portion.
const RUN_BYTES: usize = INLINE_BYTES;

/// Bytes of a token, about, in most languages and by most tokenizers: no more depends on it than how a portion's work is
/// shared out.
const TOKEN_BYTES: usize = 4;

/// From request to token ids.
pub(super) struct Preparation {
    pub tokenizer: TextTokenizer,
    pub treatment: Treatment,
    /// Who may tokenize on a thread for blocking work: more at once would take memory, and no less time.
    turns: Arc<Semaphore>,
    threads: usize,
}

impl Preparation {
    /// `threads` texts may be tokenized at once beside those of small calls.
    pub(super) fn new(tokenizer: TextTokenizer, treatment: Treatment, threads: usize) -> Preparation {
        let threads = threads.clamp(1, Semaphore::MAX_PERMITS);
        Preparation { tokenizer, treatment, turns: Arc::new(Semaphore::new(threads)), threads }
    }
}

/// Where a text's answer arrives.
pub(super) type Answer = oneshot::Receiver<Result<Embedding>>;

/// See the module.
pub(super) struct Feed {
    call: Arc<Whole>,
    /// Texts of which nothing is made yet, and their weight.
    coming: std::vec::IntoIter<Unmade>,
    weight: usize,
    /// Runs of texts that were begun, in order. Not here while a portion is made.
    runs: VecDeque<Run>,
    inline: bool,
    /// Of all portions together, while there are more to come.
    watched: Option<(Span, Duration)>,
    /// Tokens made so far.
    tokens: usize,
}

/// A text, and where its answer is awaited.
type Unmade = (call::Text, oneshot::Sender<Result<Embedding>>);

/// What all texts of a call have in common.
struct Whole {
    preparation: Arc<Preparation>,
    model: Arc<Model>,
    timeline: Arc<Timeline>,
    /// What is done with each of them; settings that are refused are each text's error.
    plan: Result<Plan>,
    /// The tokens of what each text is paired with, once they are needed.
    query: OnceLock<Result<Query>>,
    /// Its bytes: a query's tokens come with each document.
    query_bytes: usize,
}

impl Whole {
    /// The work that a text is, in bytes.
    fn weight(&self, text: &call::Text) -> usize {
        text.len().saturating_add(self.query_bytes)
    }
}

/// Part of a call, to be queued.
pub(super) struct Portion {
    /// In order; of several threads, what the first has made comes first.
    pub sequences: Vec<Sequence>,
    /// The call has more.
    pub more: bool,
}

impl Feed {
    /// All texts of a call, and the places of their answers. An answer that never comes means that the call was given up.
    pub(super) fn new(
        preparation: &Arc<Preparation>,
        model: &Arc<Model>,
        timeline: &Arc<Timeline>,
        texts: Vec<call::Text>,
        purpose: &Purpose,
    ) -> (Feed, Vec<Answer>) {
        let span = tracing::debug_span!("tokenize", t2v.texts = texts.len(), t2v.tokens = Empty);
        let (replies, answers): (Vec<_>, Vec<_>) = texts.iter().map(|_| oneshot::channel()).unzip();
        let call = Arc::new(Whole {
            preparation: preparation.clone(),
            model: model.clone(),
            timeline: timeline.clone(),
            plan: preparation.treatment.plan_for(purpose),
            query: OnceLock::new(),
            query_bytes: match purpose {
                Purpose::Embed(_) => 0,
                Purpose::Score { query } => query.len(),
            },
        });
        let weight = texts.iter().fold(0, |sum: usize, text| sum.saturating_add(call.weight(text)));
        let coming = texts.into_iter().zip(replies).collect::<Vec<_>>().into_iter();
        let watched = Some((span, Duration::ZERO));
        let inline = weight <= INLINE_BYTES;
        (Feed { call, coming, weight, runs: VecDeque::new(), inline, watched, tokens: 0 }, answers)
    }

    /// The next sequences: of about `tokens` at most, or one for each thread that alone has more. Without any, there is nothing
    /// left.
    pub(super) async fn portion(&mut self, tokens: usize) -> Result<Portion> {
        let span = self.watched.as_ref().map_or_else(Span::none, |(span, _)| span.clone());
        let begun = Instant::now();
        let portion = loop {
            let portion = self.made(tokens).instrument(span.clone()).await?;
            // A run may have no text that can be embedded.
            if !portion.more || !portion.sequences.is_empty() {
                break portion;
            }
        };
        self.tokens += portion.sequences.iter().map(|sequence| sequence.ids.len()).sum::<usize>();
        if let Some((_, spent)) = &mut self.watched {
            *spent += begun.elapsed();
        }
        if !portion.more
            && let Some((span, spent)) = self.watched.take()
        {
            metrics().stage(Stage::Tokenize, spent);
            span.record("t2v.tokens", self.tokens);
        }
        Ok(portion)
    }

    async fn made(&mut self, tokens: usize) -> Result<Portion> {
        if self.inline {
            let mut run = self.next_run(usize::MAX);
            let portion = run.portion(tokens, || true);
            self.runs.push_front(run);
            return Ok(portion);
        }
        // A caller who left costs no more tokenizing.
        let caller = Arc::new(());
        let turns = self.turns(tokens).await?;
        let weight = self.expected(tokens).div_ceil(turns.len()).max(RUN_BYTES);
        let mut runs = Vec::new();
        for turn in turns {
            let run = self.next_run(weight);
            if !run.is_empty() {
                runs.push((turn, run));
            }
        }
        let of_each = tokens / runs.len().max(1);
        let work = runs.into_iter().map(|(turn, mut run)| {
            let presence = Arc::downgrade(&caller);
            tokio::task::spawn_blocking(move || {
                let portion = run.portion(of_each, || presence.strong_count() > 0);
                drop(turn);
                (run, portion)
            })
        });
        let mut whole = Portion { sequences: Vec::new(), more: false };
        let mut begun = Vec::new();
        for made in join_all(work).await {
            let (run, mut portion) = made.map_err(|error| Error::internal(format!("tokenizing failed: {error}")))?;
            whole.sequences.append(&mut portion.sequences);
            if portion.more {
                begun.push(run);
            }
        }
        drop(caller);
        begun.into_iter().rev().for_each(|run| self.runs.push_front(run));
        whole.more = !self.runs.is_empty() || self.coming.len() > 0;
        Ok(whole)
    }

    /// Leave to tokenize, on one thread and as many more as are worth while and free.
    async fn turns(&self, tokens: usize) -> Result<Vec<OwnedSemaphorePermit>> {
        let Preparation { turns, threads, .. } = &*self.call.preparation;
        let wanted = (self.expected(tokens) / RUN_BYTES).clamp(1, *threads);
        let first = turns.clone().acquire_owned().await;
        let first = first.map_err(|error| Error::internal(format!("nobody may tokenize: {error}")))?;
        let further = (1..wanted).map_while(|_| turns.clone().try_acquire_owned().ok());
        Ok(std::iter::once(first).chain(further).collect())
    }

    /// Of how many bytes a portion of so many tokens is made, about.
    fn expected(&self, tokens: usize) -> usize {
        let begun = self.runs.iter().fold(self.weight, |sum, run| sum.saturating_add(run.weight));
        tokens.saturating_mul(TOKEN_BYTES).min(begun)
    }

    /// A run that was begun, else one of the next texts, of such a weight at least if there are so many.
    fn next_run(&mut self, weight: usize) -> Run {
        if let Some(run) = self.runs.pop_front() {
            return run;
        }
        let mut run = Run { call: self.call.clone(), coming: VecDeque::new(), weight: 0, current: None, ahead: None };
        while run.weight < weight
            && let Some((text, reply)) = self.coming.next()
        {
            run.weight = run.weight.saturating_add(self.call.weight(&text));
            run.coming.push_back((text, reply));
        }
        self.weight = self.weight.saturating_sub(run.weight);
        run
    }
}

/// Texts that follow each other in a call, of which one thread makes sequences.
struct Run {
    call: Arc<Whole>,
    coming: VecDeque<Unmade>,
    /// Theirs.
    weight: usize,
    /// The text whose pieces are being tokenized.
    current: Option<(Arc<Text>, Pieces)>,
    /// A sequence that was too much for its portion.
    ahead: Option<Sequence>,
}

impl Run {
    fn is_empty(&self) -> bool {
        self.coming.is_empty() && self.current.is_none() && self.ahead.is_none()
    }

    fn portion(&mut self, tokens: usize, present: impl Fn() -> bool) -> Portion {
        let mut portion = Portion { sequences: Vec::new(), more: true };
        let (mut weight, mut bytes) = (0, 0);
        while present() {
            let Some(sequence) = self.ahead.take().or_else(|| self.next(&mut bytes, &present)) else {
                portion.more = false;
                break;
            };
            weight += sequence.tokens();
            if weight > tokens && !portion.sequences.is_empty() {
                self.ahead = Some(sequence);
                break;
            }
            portion.sequences.push(sequence);
            if bytes >= PORTION_BYTES {
                break;
            }
        }
        portion
    }

    /// The next sequence of the current text, or of the next one that can be embedded. Counts the bytes tokenized.
    fn next(&mut self, bytes: &mut usize, present: &impl Fn() -> bool) -> Option<Sequence> {
        while present() {
            let Some((text, pieces)) = &mut self.current else {
                let (text, reply) = self.coming.pop_front()?;
                self.weight = self.weight.saturating_sub(self.call.weight(&text));
                let planned = self.call.plan.as_ref().map_err(Error::clone);
                match planned.and_then(|plan| Ok((plan, plan.pieces(text)?))) {
                    Ok((plan, pieces)) => {
                        let pooled = Pooled {
                            pooling: plan.pooling.clone(),
                            finish: plan.finish,
                            pooling_ignored: plan.pooling_ignored,
                        };
                        self.current = Some((Text::new(&self.call.model, &self.call.timeline, pooled, reply), pieces));
                    }
                    Err(error) => {
                        // The caller may have left meanwhile.
                        let _ = reply.send(Err(error));
                    }
                }
                continue;
            };
            // Once it has failed, or nobody wants it, the rest of a text is no work.
            let piece = if text.is_over() { None } else { pieces.advance() };
            let tokenizer = &self.call.preparation.tokenizer;
            let paired = self.call.plan.as_ref().ok().and_then(|plan| plan.query.as_ref());
            let tokens = piece.map(|piece| {
                *bytes += piece.len();
                let Some(query) = paired else { return tokenizer.encode(piece) };
                *bytes += query.len().min(tokenizer.max_tokens());
                match self.call.query.get_or_init(|| tokenizer.query(query)) {
                    Ok(query) => tokenizer.pair(query, piece),
                    Err(error) => Err(error.clone()),
                }
            });
            match tokens {
                Some(Ok(tokens)) => return Some(text.sequence(tokens)),
                Some(Err(error)) => text.refuse(error),
                None => {
                    text.complete(pieces.divisor());
                    self.current = None;
                }
            }
        }
        None
    }
}

impl Portion {
    /// The room it needs: at least for its first sequence and what else is within a turn, at most for all of it.
    pub(super) fn ask(&self, turn: usize) -> Ask {
        let mut weights = self.sequences.iter().map(Piece::tokens);
        let first = weights.next().unwrap_or(0);
        let (mut least, mut most, mut within) = (first, first, true);
        for weight in weights {
            most += weight;
            within &= most <= turn;
            if within {
                least = most;
            }
        }
        Ask { least, most }
    }

    /// Takes as many sequences off its head as room was found for.
    pub(super) fn split_off(&mut self, room: usize) -> Vec<Sequence> {
        let mut left = room;
        let fit = self.sequences.iter().take_while(|sequence| {
            let fits = sequence.tokens() <= left;
            left = left.saturating_sub(sequence.tokens());
            fits
        });
        let fit = fit.count();
        let rest = self.sequences.split_off(fit);
        std::mem::replace(&mut self.sequences, rest)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::local::batcher::Class;
    use crate::backend::local::plan::Switches;
    use crate::contract::call::EmbedSettings;
    use crate::contract::request::Profile;
    use crate::model::modules::ModelDescription;
    use text2vec_engine::dense::Head;

    const THREADS: usize = 4;

    fn preparation(profile: Profile, threads: usize) -> Arc<Preparation> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/bert");
        let model = ModelDescription::read(&dir, &dir).expect("a model");
        let treatment = Treatment::new(profile, Switches::default(), &model);
        let tokenizer = TextTokenizer::load(&dir, treatment.max_tokens()).expect("a tokenizer");
        Arc::new(Preparation::new(tokenizer, treatment, threads))
    }

    fn feed(preparation: &Arc<Preparation>, texts: &[String], purpose: &Purpose) -> (Feed, Vec<Answer>) {
        let model = Arc::new(Model::new(Vec::new(), Head::default()));
        let timeline = Arc::new(Timeline::new(texts.len(), Class::Passage));
        let texts = texts.iter().map(|text| text.as_str().into()).collect();
        Feed::new(preparation, &model, &timeline, texts, purpose)
    }

    /// Several sentences, of one that has none every so often.
    fn texts(count: usize) -> Vec<String> {
        let sentence = |number: usize| format!("The {number}th sentence, of words that a tokenizer cuts up. ");
        let text = |number: usize| match number % 7 {
            3 => " ".repeat(40),
            _ => (0..1 + number % 5).map(|part| sentence(10 * number + part)).collect(),
        };
        (0..count).map(text).collect()
    }

    /// The tokens of all sequences by their text and their place in it, and the tokens of each portion.
    async fn all(mut feed: Feed, answers: &mut [Answer], budget: usize) -> (Vec<Vec<Vec<u32>>>, Vec<usize>) {
        let (mut portions, mut sequences) = (Vec::new(), Vec::new());
        loop {
            let portion = feed.portion(budget).await.expect("a portion");
            portions.push(portion.sequences.iter().map(Piece::tokens).sum());
            assert!(!portion.sequences.is_empty() || !portion.more, "a portion of nothing, and there is more");
            sequences.extend(portion.sequences);
            if !portion.more {
                break;
            }
        }
        // Which text a sequence is of is seen by its answer: each gets the number of its text's first sequence.
        let mut by_text = vec![Vec::new(); answers.len()];
        let mut places = std::collections::HashMap::new();
        for sequence in &sequences {
            let text = &sequence.text;
            let place = *places.entry(Arc::as_ptr(text)).or_insert_with(|| {
                text.refuse(Error::internal("seen"));
                answers
                    .iter_mut()
                    .position(|answer| matches!(answer.try_recv(), Ok(Err(error)) if error.message() == "seen"))
                    .expect("an answer's place")
            });
            by_text[place].push(sequence.ids.to_vec());
        }
        (by_text, portions)
    }

    /// By any number of threads the same tokens, text by text and in order; a portion is no larger for it.
    #[tokio::test]
    async fn several_threads_make_what_one_makes() {
        let texts = texts(700);
        let query = || Purpose::Score { query: "which sentence is it".into() };
        for (profile, purpose) in [
            (Profile::Transformers, Purpose::Embed(EmbedSettings::default())),
            (Profile::SentenceTransformers, Purpose::Embed(EmbedSettings::default())),
            (Profile::Onnx, query()),
        ] {
            let mut expected = None;
            for (threads, budget) in [(1, 1), (1, usize::MAX), (THREADS, 1), (THREADS, 9_000), (THREADS, usize::MAX)] {
                let preparation = preparation(profile, threads);
                let (feed, mut answers) = feed(&preparation, &texts, &purpose);
                let (tokens, portions) = all(feed, &mut answers, budget).await;
                assert_eq!(portions.iter().filter(|&&portion| portion > budget.max(200)).count(), 0, "{portions:?}");
                assert_eq!(*expected.get_or_insert_with(|| tokens.clone()), tokens, "{threads} threads, {budget}");
                assert_eq!(preparation.turns.available_permits(), threads, "a turn was kept");
            }
        }
    }

    #[tokio::test]
    async fn as_many_threads_as_are_worth_while_and_free() {
        let preparation = preparation(Profile::SentenceTransformers, THREADS);
        let embed = Purpose::Embed(EmbedSettings::default());
        let (large, _answers) = feed(&preparation, &texts(700), &embed);
        assert!(large.weight > THREADS * RUN_BYTES, "the texts have {} bytes", large.weight);
        let turns = async |feed: &Feed, tokens| feed.turns(tokens).await.expect("a turn").len();
        assert_eq!(turns(&large, usize::MAX).await, THREADS);
        assert_eq!(turns(&large, 2 * RUN_BYTES / TOKEN_BYTES).await, 2);
        assert_eq!(turns(&large, 32).await, 1, "a few tokens are one thread's");
        let (small, _answers) = feed(&preparation, &texts(80), &embed);
        assert!(!small.inline && turns(&small, usize::MAX).await == 1, "{} bytes", small.weight);
        // Others have theirs first.
        let others = preparation.turns.clone().acquire_many_owned(THREADS as u32 - 1).await.expect("turns");
        assert_eq!(turns(&large, usize::MAX).await, 1);
        drop(others);
        assert_eq!(turns(&large, usize::MAX).await, THREADS);
    }

    /// Texts that cannot be embedded may be all that a thread finds in its run, and the call has more behind them.
    #[tokio::test]
    async fn runs_of_refused_texts_are_not_the_end() {
        let mut texts = vec![" ".repeat(1000); 50];
        texts.push("A sentence at last.".into());
        let preparation = preparation(Profile::Transformers, 2);
        let (mut feed, mut answers) = feed(&preparation, &texts, &Purpose::Embed(EmbedSettings::default()));
        let portion = feed.portion(64).await.expect("a portion");
        assert_eq!((portion.sequences.len(), portion.more), (1, false));
        for answer in &mut answers[..50] {
            let refused = answer.try_recv().expect("an answer").expect_err("no sentence");
            assert!(refused.message().contains("empty"), "{refused}");
        }
    }

    #[tokio::test]
    async fn who_leaves_gives_the_turns_back() {
        let preparation = preparation(Profile::SentenceTransformers, THREADS);
        let (mut feed, answers) = feed(&preparation, &texts(7000), &Purpose::Embed(EmbedSettings::default()));
        {
            let mut portion = std::pin::pin!(feed.portion(usize::MAX));
            assert!(futures_util::poll!(portion.as_mut()).is_pending());
        }
        drop((feed, answers));
        let all = preparation.turns.acquire_many(THREADS as u32);
        let all = tokio::time::timeout(Duration::from_secs(60), all).await.expect("the threads end");
        assert!(all.is_ok());
    }
}
