//! A forward pass over the packed rows of some sequences.

use candle_core::{DType, Module, Result as CandleResult, Tensor};

use super::super::buckets::{Bucket, buckets};
use super::super::parts::{hiding, turn, turns};
use super::layers::{product, summing};
use super::model::{DeviceBlock, Model};
use text2vec_kernel::{Mask, PositionBias};

/// Scores of a bucket. More of them would fill a device, and gain nothing.
const MOST_SCORES: usize = 1 << 28;

/// What attention needs to know of a bucket, on the device.
struct DeviceBucket {
    shape: Bucket,
    /// For each row of `[query, key and value, sequences, heads, longest]` the row of what
    /// [`DeviceBlock::attention_input`] makes, taken as `[tokens, query, key and value, heads]`: rows of a head's size.
    by_head: Tensor,
    /// The way back: for each row of `[tokens, heads]` the row of `[sequences, heads, longest]`.
    by_token: Tensor,
    /// Added to the scores of keys where sequences differ in length: 0, or -∞ for padding. `[sequences, 1, 1, longest]`
    padding: Option<Tensor>,
    /// Added by the masks that hide something: `[1, 1, longest, longest]`.
    masks: Vec<(Mask, Tensor)>,
    /// Added to scores by relative position: `[1, heads, longest, longest]`.
    bias: Option<Tensor>,
}

/// A part of a batch: the packed rows of some sequences, shortest first.
pub(super) struct Pass {
    /// Row numbers for each table.
    rows: Vec<Tensor>,
    pub(super) lengths: Vec<usize>,
    buckets: Vec<DeviceBucket>,
    /// Cosines and sines of each rotary for each row.
    turns: Vec<[Tensor; 2]>,
}

impl Pass {
    /// What a pass needs on the device before it begins.
    pub(super) fn new(model: &Model, rows: Vec<Vec<u32>>, lengths: Vec<usize>) -> CandleResult<Pass> {
        let (heads, key_heads) = (model.architecture.shape.heads, model.architecture.shape.key_heads());
        let rows = rows.into_iter().map(|rows| Tensor::new(rows, &model.device)).collect::<CandleResult<_>>()?;
        // Those of shorter sequences are a part of it.
        let longest = lengths.last().copied().unwrap_or_default();
        let bias = model.stack.position_bias.as_ref().map(|bias| pairs(model, bias, longest)).transpose()?;
        // Of a row's heads, that of each query's head, of the key that belongs to it, and of the value.
        let columns = heads + 2 * key_heads;
        let of_key = |first: usize| (0..heads).map(move |head| (first + head / (heads / key_heads)) as u32);
        let parts = (0..heads as u32).chain(of_key(heads)).chain(of_key(heads + key_heads)).collect();
        let parts = Tensor::from_vec(parts, (3, 1, heads, 1), &model.device)?;
        let mut hidden_by: Vec<Mask> = model.stack.blocks.iter().map(|block| block.mask).collect();
        hidden_by.retain(|&mask| mask != Mask::FULL);
        hidden_by.sort_by_key(|mask| (mask.before, mask.after));
        hidden_by.dedup();
        let bucket = |shape: Bucket| -> CandleResult<DeviceBucket> {
            let (sequences, longest) = (shape.sequences.len(), shape.longest);
            let first = shape.padded(&lengths).into_iter().map(|row| row * columns as u32).collect();
            let first = Tensor::from_vec(first, (1, sequences, 1, longest), &model.device)?;
            let real = Tensor::from_vec(shape.real(&lengths, heads), (shape.rows.len(), 1), &model.device)?;
            let heads = (0..heads).map(|head| (head * longest) as u32).collect();
            let heads = Tensor::from_vec(heads, (1, ()), &model.device)?;
            let padding = || {
                let marks = shape.tokens(&lengths).map(|token| if token { 0.0 } else { f32::NEG_INFINITY }).collect();
                Tensor::from_vec(marks, (sequences, 1, 1, longest), &model.device)?.to_dtype(model.dtype)
            };
            Ok(DeviceBucket {
                by_head: first.broadcast_add(&parts)?.flatten_all()?,
                by_token: real.broadcast_add(&heads)?.flatten_all()?,
                padding: (!shape.is_even(&lengths)).then(padding).transpose()?,
                masks: hidden_by
                    .iter()
                    .map(|&mask| Ok((mask, hiding(mask, longest, &model.device)?.to_dtype(model.dtype)?)))
                    .collect::<CandleResult<_>>()?,
                bias: bias.as_ref().map(|bias| bias.narrow(2, 0, longest)?.narrow(3, 0, longest)).transpose()?,
                shape,
            })
        };
        let buckets = buckets(&lengths, MOST_SCORES / heads).into_iter().map(bucket).collect::<CandleResult<_>>()?;
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let turns = |rotary| -> CandleResult<[Tensor; 2]> {
            let [cosines, sines] = turns(rotary, &positions, &model.device)?;
            Ok([cosines.to_dtype(model.dtype)?, sines.to_dtype(model.dtype)?])
        };
        let turns = model.architecture.rotaries.iter().map(turns).collect::<CandleResult<_>>()?;
        Ok(Pass { rows, lengths, buckets, turns })
    }

    /// The last hidden states of a pass, `[tokens, hidden]`.
    pub(super) fn forward(&self, model: &Model) -> CandleResult<Tensor> {
        let mut states = model.stack.embed(&self.rows)?;
        for index in model.architecture.blocks_in_order() {
            let block = &model.stack.blocks[index];
            let attend = |states: &Tensor| self.attend(model, block, states);
            states = block.forward(model.architecture.shape, states, attend)?;
        }
        model.stack.finish(states)
    }

    fn attend(&self, model: &Model, block: &DeviceBlock, states: &Tensor) -> CandleResult<Tensor> {
        let shape = model.architecture.shape;
        let (heads, size, width) = (shape.heads, shape.head_size(), shape.attention_width());
        let projected = self.heads(model, block, block.attention_input.forward(states)?)?.reshape(((), size))?;
        let mut contexts = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            let (sequences, length) = (bucket.shape.sequences.len(), bucket.shape.longest);
            let rows = projected.index_select(&bucket.by_head, 0)?.reshape((3, sequences * heads, length, size))?;
            let (query, key, value) = (rows.get(0)?, rows.get(1)?, rows.get(2)?);
            let mut scores = product(&query, &key.transpose(1, 2)?)?;
            let mask = bucket.masks.iter().find(|(mask, _)| *mask == block.mask).map(|(_, hidden)| hidden);
            let added = [bucket.bias.as_ref(), mask, bucket.padding.as_ref()];
            if added.iter().any(Option::is_some) {
                let mut by_head = scores.reshape((sequences, heads, length, length))?;
                for added in added.into_iter().flatten() {
                    by_head = by_head.broadcast_add(added)?;
                }
                scores = by_head.reshape((sequences * heads, length, length))?;
            }
            let context = product(&summing(&scores, candle_nn::ops::softmax_last_dim)?, &value)?;
            let context = context.reshape(((), size))?.index_select(&bucket.by_token, 0)?;
            contexts.push(context.reshape((bucket.shape.rows.len(), width))?);
        }
        let context = match &contexts[..] {
            [context] => context.clone(),
            contexts => Tensor::cat(contexts, 0)?,
        };
        block.attention_output.forward(&context)
    }

    /// Norms and turns queries and keys, `[tokens, heads of all three, size]`.
    fn heads(&self, model: &Model, block: &DeviceBlock, projected: Tensor) -> CandleResult<Tensor> {
        let shape = model.architecture.shape;
        if block.head_norms.is_none() && block.rotary.is_none() {
            return Ok(projected);
        }
        let (heads, key_heads, size) = (shape.heads, shape.key_heads(), shape.head_size());
        let (width, key_width) = (shape.attention_width(), shape.key_width());
        let tokens = projected.dim(0)?;
        let mut parts = [projected.narrow(1, 0, width)?, projected.narrow(1, width, key_width)?];
        if let Some(norms) = &block.head_norms {
            for (part, norm) in parts.iter_mut().zip(norms) {
                *part = norm.forward(&part.contiguous()?.reshape(((), norm.width()?))?)?;
            }
        }
        let [query, key] = parts;
        let mut rows = [query.reshape((tokens, heads, size))?, key.reshape((tokens, key_heads, size))?];
        if let Some(rotary) = block.rotary {
            for rows in &mut rows {
                *rows = turn(rows, &self.turns[rotary])?;
            }
        }
        let value = projected.narrow(1, width + key_width, key_width)?.reshape((tokens, key_heads, size))?;
        let [query, key] = rows;
        Tensor::cat(&[query, key, value], 1)
    }

    /// The mean of each sequence's states, in f32, one row per sequence. Tokens are added up by stretches, and those then: the
    /// states of a word that is repeated are so much alike that one long sum in f32 would err the same way in each step.
    pub(super) fn means(&self, model: &Model, states: &Tensor) -> CandleResult<Tensor> {
        let states = states.to_dtype(DType::F32)?;
        let mean = |bucket: &DeviceBucket| -> CandleResult<Tensor> {
            let shape = &bucket.shape;
            let (sequences, longest) = (shape.sequences.len(), shape.longest);
            let rows = Tensor::new(shape.padded(&self.lengths), &model.device)?;
            let rows = states.index_select(&rows, 0)?.reshape((sequences, longest, ()))?;
            let stretch = longest.isqrt().max(64);
            let stretches = longest.div_ceil(stretch);
            let mut parts = vec![0f32; sequences * stretches * longest];
            let of_sequence = parts.chunks_exact_mut(stretches * longest);
            for (parts, &length) in of_sequence.zip(&self.lengths[shape.sequences.clone()]) {
                (0..length).for_each(|at| parts[at / stretch * longest + at] = 1.0 / length as f32);
            }
            Tensor::from_vec(parts, (sequences, stretches, longest), &model.device)?.matmul(&rows)?.sum(1)
        };
        Tensor::cat(&self.buckets.iter().map(mean).collect::<CandleResult<Vec<_>>>()?, 0)
    }

    /// The first token's states of each sequence, in f32, one row per sequence.
    pub(super) fn firsts(&self, model: &Model, states: &Tensor) -> CandleResult<Tensor> {
        let firsts = self.lengths.iter().scan(0u32, |next, &length| {
            let first = *next;
            *next += length as u32;
            Some(first)
        });
        let firsts = Tensor::new(firsts.collect::<Vec<_>>(), &model.device)?;
        states.index_select(&firsts, 0)?.to_dtype(DType::F32)
    }

    /// The last token's, likewise.
    pub(super) fn lasts(&self, model: &Model, states: &Tensor) -> CandleResult<Tensor> {
        let lasts = self.lengths.iter().scan(0u32, |end, &length| {
            *end += length as u32;
            Some(*end - 1)
        });
        let lasts = Tensor::new(lasts.collect::<Vec<_>>(), &model.device)?;
        states.index_select(&lasts, 0)?.to_dtype(DType::F32)
    }
}

/// The bias of each pair of tokens, `[1, heads, length, length]`.
fn pairs(model: &Model, bias: &PositionBias, length: usize) -> CandleResult<Tensor> {
    let heads = model.architecture.shape.heads;
    let distances = Tensor::from_vec(bias.by_distance(heads, length), (heads, ()), &model.device)?;
    let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (length - 1 + key - query) as u32));
    let pairs = Tensor::new(pairs.collect::<Vec<_>>(), &model.device)?;
    distances.to_dtype(model.dtype)?.index_select(&pairs, 1)?.reshape((1, heads, length, length))
}
