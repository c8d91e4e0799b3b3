//! A text on its way through inference: what is known of its sequences, and its answer once all are computed.
//!
//! Its sequences may be computed in different batches, by different threads, while others of it are not made yet. Each vector is
//! added to the text's sum, in the order of the sequences, and forgotten. Whoever adds the last, or finds that there are no more,
//! finishes the text and answers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::batcher::Piece;
use super::model::Model;
use super::plan::Finish;
use super::timeline::Timeline;
use crate::backend::Embedding;
use crate::error::{Error, Result};
use crate::model::tokenizer::Tokens;
use text2vec_engine::pooling::{PoolingMode, Sum};

/// One sequence of a text, waiting to be computed.
pub struct Sequence {
    pub(super) ids: Vec<u32>,
    pub(super) type_ids: Vec<u32>,
    /// Which of the text's sequences this is.
    pub(super) index: usize,
    pub(super) text: Arc<Text>,
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequence").field("tokens", &self.ids.len()).field("index", &self.index).finish_non_exhaustive()
    }
}

/// A text whose sequences are being made and computed.
pub(super) struct Text {
    pub(super) model: Arc<Model>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) treatment: Pooled,
    progress: Mutex<Progress>,
}

/// What becomes of a text's token states.
#[derive(Debug, Clone, Default)]
pub(super) struct Pooled {
    /// How those of a sequence become one vector; several modes are concatenated.
    pub pooling: Vec<PoolingMode>,
    /// What happens to the mean of these vectors.
    pub finish: Finish,
    /// `poolingStrategy` of the request had no effect.
    pub pooling_ignored: bool,
}

pub(super) struct Progress {
    /// Sequences made so far, their tokens, and whether one was cut.
    made: usize,
    tokens: u32,
    truncated: bool,
    /// Once all are made: by what the sum of their vectors is divided.
    divisor: Option<usize>,
    /// Of the vectors computed, in the order of the sequences.
    sum: Sum,
    summed: usize,
    /// Vectors of sequences after one that is still missing: another thread's.
    early: BTreeMap<usize, Vec<f32>>,
    /// Gone once answered.
    reply: Option<oneshot::Sender<Result<Embedding>>>,
}

impl Piece for Sequence {
    fn tokens(&self) -> usize {
        // A text without tokens (which only static embeddings know) has its turn too.
        self.ids.len().max(1)
    }

    fn is_cancelled(&self) -> bool {
        self.text.is_over()
    }
}

impl Text {
    /// A text whose sequences are to be computed by a model.
    pub(super) fn new(
        model: &Arc<Model>,
        timeline: &Arc<Timeline>,
        treatment: Pooled,
        reply: oneshot::Sender<Result<Embedding>>,
    ) -> Arc<Text> {
        let progress = Progress {
            made: 0,
            tokens: 0,
            truncated: false,
            divisor: None,
            sum: Sum::default(),
            summed: 0,
            early: BTreeMap::new(),
            reply: Some(reply),
        };
        Arc::new(Text { model: model.clone(), timeline: timeline.clone(), treatment, progress: Mutex::new(progress) })
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is answered, or nobody waits for the answer.
    pub(super) fn is_over(&self) -> bool {
        self.progress().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// The text's next sequence, to be queued.
    pub(super) fn sequence(self: &Arc<Self>, tokens: Tokens) -> Sequence {
        let mut progress = self.progress();
        progress.made += 1;
        progress.tokens = progress.tokens.saturating_add(tokens.ids.len() as u32);
        progress.truncated |= tokens.truncated;
        Sequence { ids: tokens.ids, type_ids: tokens.type_ids, index: progress.made - 1, text: self.clone() }
    }

    /// There are no more sequences. The sum of their vectors is to be divided by `divisor`.
    pub(super) fn complete(&self, divisor: usize) {
        let mut progress = self.progress();
        progress.divisor = Some(divisor);
        self.answer_if_done(progress);
    }

    /// Takes a sequence's vector; with the last one the text is finished and answered.
    pub(super) fn computed(&self, index: usize, vector: Vec<f32>) {
        let mut progress = self.progress();
        // One that was computed again, after its batch had failed, counts once.
        if index < progress.summed {
            return;
        }
        progress.early.entry(index).or_insert(vector);
        let Progress { early, summed, sum, .. } = &mut *progress;
        while let Some(vector) = early.remove(summed) {
            sum.add(vector);
            *summed += 1;
        }
        self.answer_if_done(progress);
    }

    fn answer_if_done(&self, mut progress: MutexGuard<'_, Progress>) {
        let Some(divisor) = progress.divisor.filter(|_| progress.summed == progress.made) else { return };
        let Some(reply) = progress.reply.take() else { return };
        let sum = std::mem::take(&mut progress.sum);
        let (tokens, truncated) = (progress.tokens, progress.truncated);
        drop(progress);
        // The caller may have left meanwhile.
        let _ = reply.send(self.finish(sum.over(divisor), tokens, truncated));
    }

    /// Answers the text with an error of its own: it is not to be embedded.
    pub(super) fn refuse(&self, error: Error) {
        if let Some(reply) = self.progress().reply.take() {
            let _ = reply.send(Err(error));
        }
    }

    /// Answers the text, unless it is answered, with an error that is nobody's wish.
    pub(super) fn fail(&self, error: Error) {
        let mut progress = self.progress();
        let (reply, tokens) = (progress.reply.take(), progress.tokens);
        drop(progress);
        if let Some(reply) = reply {
            self.model.counters.failed_texts.fetch_add(1, Ordering::Relaxed);
            self.timeline.log(|| tracing::error!("a text of {tokens} tokens could not be embedded: {error}"));
            // The caller may have left meanwhile.
            let _ = reply.send(Err(error));
        }
    }

    /// The mean of the sequences' vectors, cut and normalised as the profile has it.
    fn finish(&self, mut vector: Vec<f32>, tokens: u32, truncated: bool) -> Result<Embedding> {
        let counters = &self.model.counters;
        counters.texts.fetch_add(1, Ordering::Relaxed);
        counters.tokens.fetch_add(u64::from(tokens), Ordering::Relaxed);
        let dimensions_ignored = self.treatment.finish.apply(&mut vector).inspect_err(|_| {
            counters.failed_texts.fetch_add(1, Ordering::Relaxed);
        })?;
        if vector.iter().any(|value| !value.is_finite()) {
            counters.failed_texts.fetch_add(1, Ordering::Relaxed);
            return Err(Error::internal("the model made a value that is not a finite number for this text"));
        }
        let mut ignored = Vec::new();
        for (name, is_ignored, counter) in [
            ("dimensions", dimensions_ignored, &counters.ignored_dimensions),
            ("poolingStrategy", self.treatment.pooling_ignored, &counters.ignored_pooling),
        ] {
            if is_ignored {
                ignored.push(name);
                if counter.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!("a request's {name} has no effect under this profile (said once; counted in /meta)");
                }
            }
        }
        if truncated && counters.truncated_texts.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("a text was longer than the token limit and was cut (said once; counted in /meta)");
        }
        Ok(Embedding { vector: vector.into(), tokens, truncated, ignored })
    }
}
