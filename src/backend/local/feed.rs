//! A call's texts on their way into the queue: sentences and tokens are made portion by portion, as the queue takes them.
//! What is not in the queue yet is text; a portion is all there is of its tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::batcher::{Ask, Piece};
use super::inference::{Pooled, Sequence, Text};
use super::model::Model;
use super::plan::{Pieces, Plan, Treatment};
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

/// From request to token ids.
pub(super) struct Preparation {
    pub tokenizer: TextTokenizer,
    pub treatment: Treatment,
    /// Who may tokenize on a thread for blocking work: more at once would take memory, and no less time.
    turns: Arc<Semaphore>,
}

impl Preparation {
    /// `threads` texts may be tokenized at once beside those of small calls.
    pub(super) fn new(tokenizer: TextTokenizer, treatment: Treatment, threads: usize) -> Preparation {
        Preparation { tokenizer, treatment, turns: Arc::new(Semaphore::new(threads.clamp(1, Semaphore::MAX_PERMITS))) }
    }
}

/// Where a text's answer arrives.
pub(super) type Answer = oneshot::Receiver<Result<Embedding>>;

/// See the module.
pub(super) struct Feed {
    /// Not here while a portion is made.
    texts: Option<Texts>,
    preparation: Arc<Preparation>,
    inline: bool,
    /// Of all portions together, while there are more to come.
    watched: Option<(Span, Duration)>,
}

/// Part of a call, to be queued.
pub(super) struct Portion {
    /// In order.
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
        // A query's tokens come with each document.
        let of_query = match purpose {
            Purpose::Embed(_) => 0,
            Purpose::Score { query } => query.len().saturating_mul(texts.len()),
        };
        let inline = of_query.saturating_add(texts.iter().map(|text| text.len()).sum()) <= INLINE_BYTES;
        let span = tracing::debug_span!("tokenize", t2v.texts = texts.len(), t2v.tokens = Empty);
        let (replies, answers): (Vec<_>, Vec<_>) = texts.iter().map(|_| oneshot::channel()).unzip();
        let texts = Texts {
            preparation: preparation.clone(),
            model: model.clone(),
            timeline: timeline.clone(),
            plan: preparation.treatment.plan_for(purpose),
            query: None,
            coming: texts.into_iter().zip(replies).collect::<Vec<_>>().into_iter(),
            current: None,
            ahead: None,
            tokens: 0,
        };
        let watched = Some((span, Duration::ZERO));
        (Feed { texts: Some(texts), preparation: preparation.clone(), inline, watched }, answers)
    }

    /// The next sequences: of about `tokens` at most, or one that alone has more. Without any, there is nothing left.
    pub(super) async fn portion(&mut self, tokens: usize) -> Result<Portion> {
        let Some(texts) = self.texts.take() else {
            return Err(Error::internal("a call's texts were lost"));
        };
        let span = self.watched.as_ref().map_or_else(Span::none, |(span, _)| span.clone());
        let begun = Instant::now();
        let (texts, portion) = self.made(texts, tokens).instrument(span).await?;
        if let Some((_, spent)) = &mut self.watched {
            *spent += begun.elapsed();
        }
        if !portion.more
            && let Some((span, spent)) = self.watched.take()
        {
            metrics().stage(Stage::Tokenize, spent);
            span.record("t2v.tokens", texts.tokens);
        }
        self.texts = Some(texts);
        Ok(portion)
    }

    async fn made(&self, mut texts: Texts, tokens: usize) -> Result<(Texts, Portion)> {
        if self.inline {
            let portion = texts.portion(tokens, || true);
            return Ok((texts, portion));
        }
        let turn = self.preparation.turns.clone().acquire_owned().await;
        let caller = Arc::new(());
        let presence = Arc::downgrade(&caller);
        let work = move || {
            // A caller who left costs no more tokenizing.
            let portion = texts.portion(tokens, || presence.strong_count() > 0);
            drop(turn);
            (texts, portion)
        };
        let made = tokio::task::spawn_blocking(work).await;
        drop(caller);
        made.map_err(|error| Error::internal(format!("tokenizing failed: {error}")))
    }
}

/// The texts themselves.
struct Texts {
    preparation: Arc<Preparation>,
    model: Arc<Model>,
    timeline: Arc<Timeline>,
    /// What is done with each of them; settings that are refused are each text's error.
    plan: Result<Plan>,
    /// The tokens of what each text is paired with, once they are needed.
    query: Option<Result<Query>>,
    coming: std::vec::IntoIter<(call::Text, oneshot::Sender<Result<Embedding>>)>,
    /// The text whose pieces are being tokenized.
    current: Option<(Arc<Text>, Pieces)>,
    /// A sequence that was too much for its portion.
    ahead: Option<Sequence>,
    /// Made so far.
    tokens: usize,
}

impl Texts {
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
                let (text, reply) = self.coming.next()?;
                let planned = self.plan.as_ref().map_err(Error::clone);
                match planned.and_then(|plan| Ok((plan, plan.pieces(text)?))) {
                    Ok((plan, pieces)) => {
                        let pooled = Pooled {
                            pooling: plan.pooling.clone(),
                            finish: plan.finish,
                            pooling_ignored: plan.pooling_ignored,
                        };
                        self.current = Some((Text::new(&self.model, &self.timeline, pooled, reply), pieces));
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
            let tokenizer = &self.preparation.tokenizer;
            let paired = self.plan.as_ref().ok().and_then(|plan| plan.query.as_ref());
            let tokens = piece.map(|piece| {
                *bytes += piece.len();
                let Some(query) = paired else { return tokenizer.encode(piece) };
                *bytes += query.len().min(tokenizer.max_tokens());
                match self.query.get_or_insert_with(|| tokenizer.query(query)) {
                    Ok(query) => tokenizer.pair(query, piece),
                    Err(error) => Err(error.clone()),
                }
            });
            match tokens {
                Some(Ok(tokens)) => {
                    self.tokens += tokens.ids.len();
                    return Some(text.sequence(tokens));
                }
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
