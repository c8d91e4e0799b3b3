//! Encoders: packed token ids in, hidden states out.
//!
//! A model family is a description ([`family`](crate::family)), run by any executor: [`cpu`](crate::cpu) on the kernels,
//! [`gpu`](crate::gpu) on those for GPUs, [`candle::plain`](crate::candle::plain) as the oracle of both.
//! [`static_embedding`](crate::static_embedding) is the one model that is no transformer.

use crate::error::{Error, Result};
use crate::pooling::{self, PoolingMode};

/// Token ids of several sequences, one after the other without padding.
///
/// It owns ids, token types and lengths, so that no encoder re-invents masks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    lengths: Vec<usize>,
}

impl TokenBatch {
    /// An empty batch.
    pub fn new() -> Self {
        TokenBatch::default()
    }

    /// Adds a sequence. `type_ids` is as long as `ids`.
    pub fn push(&mut self, ids: &[u32], type_ids: &[u32]) {
        assert_eq!(ids.len(), type_ids.len(), "one token type per token");
        self.ids.extend_from_slice(ids);
        self.type_ids.extend_from_slice(type_ids);
        self.lengths.push(ids.len());
    }

    /// Ids of all sequences, packed: `[tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Token types of all sequences, packed: `[tokens]`.
    pub fn type_ids(&self) -> &[u32] {
        &self.type_ids
    }

    /// Length of each sequence in tokens.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Number of tokens in all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Whether a model takes it that has so many tokens at most in a sequence, and a table of so many rows for their ids.
    ///
    /// # Errors
    /// `Invalid` for a sequence that is too long, `Unusable` for an id beyond the vocabulary.
    pub fn check(&self, longest: usize, vocabulary: usize) -> Result<()> {
        if let Some(length) = self.lengths.iter().find(|&&length| length > longest) {
            return Err(Error::invalid(format!("a sequence of {length} tokens: the model takes {longest}")));
        }
        // The tokenizer's and the model's vocabulary do not fit: nothing the caller could mend.
        match self.ids.iter().find(|&&id| id as usize >= vocabulary) {
            None => Ok(()),
            Some(id) => {
                Err(Error::unusable(format!("tokenizer.json makes the id {id}, but the model knows {vocabulary}")))
            }
        }
    }

    /// Each sequence's range of rows in the packed arrays, in order.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.lengths.iter().scan(0, |start, &length| {
            let range = *start..*start + length;
            *start = range.end;
            Some(range)
        })
    }
}

/// Last hidden states of a [`TokenBatch`], packed like it: `[tokens, width]`, f32, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HiddenStates {
    /// `tokens × width` values.
    pub values: Vec<f32>,
    /// Hidden size of the model.
    pub width: usize,
}

impl HiddenStates {
    /// The rows of one sequence.
    pub fn rows(&self, range: std::ops::Range<usize>) -> &[f32] {
        &self.values[range.start * self.width..range.end * self.width]
    }
}

/// A transformer's encoder: blocking, called by the inference thread.
pub trait Encoder: Send {
    /// Hidden states of every token. A sequence's states do not depend on its neighbours in the batch; with Candle's products,
    /// but for rounding.
    ///
    /// # Errors
    /// `Invalid` for a sequence longer than the model or the device takes, `Unusable` for a row that the model has not (its
    /// tokenizer is another model's), `Internal` if the pass itself fails.
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates>;

    /// One vector for each sequence: its states pooled by each of its modes, one after the other. `modes` is as long as the
    /// batch.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    fn pooled(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>> {
        Ok(pool_states(&self.forward(batch)?, batch, modes))
    }

    /// Begins to compute what [`Encoder::pooled`] gives, on a device that does so by itself: the next batch may be begun
    /// meanwhile. `None` where this batch is to be computed by [`Encoder::pooled`].
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    fn begin(&mut self, _batch: &TokenBatch, _modes: &[&[PoolingMode]]) -> Result<Option<Box<dyn Begun>>> {
        Ok(None)
    }

    /// Finds out by trying how many tokens are best computed at once, in sequences of up to `longest`; `None` where a few are
    /// as good as many. To be called before the encoder is used.
    ///
    /// # Errors
    /// `Unusable` if the device has no memory for even the smallest batch; else as [`Encoder::forward`].
    fn warm_up(&mut self, _longest: usize) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Whether the device it computes on has failed for good: every further call fails, until the process is started again.
    fn is_lost(&self) -> bool {
        false
    }

    /// Width of the hidden states.
    fn hidden_size(&self) -> usize;

    /// Token ids that it has rows for, where its files alone say so.
    fn vocabulary(&self) -> Option<usize> {
        None
    }

    /// Whether pooled vectors are of f16, and whatever is done to them then is to be too.
    fn is_half(&self) -> bool {
        false
    }
}

/// A batch that a device computes. It may be waited for by another thread than that which has its encoder.
pub trait Begun: Send {
    /// Waits for its vectors. `modes` are those that it was begun with.
    ///
    /// # Errors
    /// `Internal` if the pass failed.
    fn finish(self: Box<Self>, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>>;
}

/// Pools the states of each sequence.
pub(crate) fn pool_states(states: &HiddenStates, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Vec<Vec<f32>> {
    let vector = |(range, modes): (_, &&[PoolingMode])| {
        let rows = states.rows(range);
        modes.iter().flat_map(|&mode| pooling::pool(rows, states.width, mode)).collect()
    };
    batch.ranges().zip(modes).map(vector).collect()
}
