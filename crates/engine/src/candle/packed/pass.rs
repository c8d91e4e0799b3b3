//! A forward pass over the packed rows of some sequences.

use candle_core::{DType, Result as CandleResult, Tensor};

use super::super::buckets::{Bucket, buckets};
use super::layers::{product, summing};
use super::model::{DeviceBlock, Model};
use text2vec_kernel::{Activation, PositionBias};

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
    mask: Option<Tensor>,
    /// Added to scores by relative position: `[1, heads, longest, longest]`.
    bias: Option<Tensor>,
}

/// A part of a batch: the packed rows of some sequences, shortest first.
pub(super) struct Pass {
    /// Row numbers for each table.
    rows: Vec<Tensor>,
    pub(super) lengths: Vec<usize>,
    buckets: Vec<DeviceBucket>,
}

impl Pass {
    /// What a pass needs on the device before it begins.
    pub(super) fn new(model: &Model, rows: Vec<Vec<u32>>, lengths: Vec<usize>) -> CandleResult<Pass> {
        let heads = model.architecture.shape.heads;
        let rows = rows.into_iter().map(|rows| Tensor::new(rows, &model.device)).collect::<CandleResult<_>>()?;
        // Those of shorter sequences are a part of it.
        let longest = lengths.last().copied().unwrap_or_default();
        let bias = model.position_bias.as_ref().map(|bias| pairs(model, bias, longest)).transpose()?;
        let parts = Tensor::from_vec((0..3 * heads as u32).collect(), (3, 1, heads, 1), &model.device)?;
        let bucket = |shape: Bucket| -> CandleResult<DeviceBucket> {
            let (sequences, longest) = (shape.sequences.len(), shape.longest);
            let first = shape.padded(&lengths).into_iter().map(|row| row * 3 * heads as u32).collect();
            let first = Tensor::from_vec(first, (1, sequences, 1, longest), &model.device)?;
            let real = Tensor::from_vec(shape.real(&lengths, heads), (shape.rows.len(), 1), &model.device)?;
            let heads = (0..heads).map(|head| (head * longest) as u32).collect();
            let heads = Tensor::from_vec(heads, (1, ()), &model.device)?;
            let mask = || {
                let marks = shape.marks(&lengths, |_| 0.0, f32::NEG_INFINITY);
                Tensor::from_vec(marks, (sequences, 1, 1, longest), &model.device)?.to_dtype(model.dtype)
            };
            Ok(DeviceBucket {
                by_head: first.broadcast_add(&parts)?.flatten_all()?,
                by_token: real.broadcast_add(&heads)?.flatten_all()?,
                mask: (!shape.is_even(&lengths)).then(mask).transpose()?,
                bias: bias.as_ref().map(|bias| bias.narrow(2, 0, longest)?.narrow(3, 0, longest)).transpose()?,
                shape,
            })
        };
        let buckets = buckets(&lengths, MOST_SCORES / heads).into_iter().map(bucket).collect::<CandleResult<_>>()?;
        Ok(Pass { rows, lengths, buckets })
    }

    /// The last hidden states of a pass, `[tokens, hidden]`.
    pub(super) fn forward(&self, model: &Model) -> CandleResult<Tensor> {
        let style = model.architecture.shape.style;
        let mut states: Option<Tensor> = None;
        for (table, rows) in model.tables.iter().zip(&self.rows) {
            let found = table.index_select(rows, 0)?;
            states = Some(match states {
                Some(sum) => (sum + found)?,
                None => found,
            });
        }
        let Some(mut states) = states else { candle_core::bail!("no embedding table") };
        if let Some(norm) = &model.embedding_norm {
            states = norm.forward(&states)?;
        }
        for block in &model.blocks {
            if style.pre_norm {
                let normed = block.attention_norm.forward(&states)?;
                states = (states + self.attend(model, block, &normed)?)?;
                let normed = block.output_norm.forward(&states)?;
                states = (states + feed_forward(model, block, &normed)?)?;
            } else {
                let sum = (&states + self.attend(model, block, &states)?)?;
                states = block.attention_norm.forward(&sum)?;
                let sum = (&states + feed_forward(model, block, &states)?)?;
                states = block.output_norm.forward(&sum)?;
            }
        }
        match &model.final_norm {
            Some(norm) => norm.forward(&states),
            None => Ok(states),
        }
    }

    fn attend(&self, model: &Model, block: &DeviceBlock, states: &Tensor) -> CandleResult<Tensor> {
        let shape = model.architecture.shape;
        let (heads, size, width) = (shape.heads, shape.head_size(), shape.attention_width());
        let projected = block.attention_input.forward(states)?.reshape(((), size))?;
        let mut contexts = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            let (sequences, length) = (bucket.shape.sequences.len(), bucket.shape.longest);
            let rows = projected.index_select(&bucket.by_head, 0)?.reshape((3, sequences * heads, length, size))?;
            let (query, key, value) = (rows.get(0)?, rows.get(1)?, rows.get(2)?);
            let mut scores = product(&query, &key.transpose(1, 2)?)?;
            if bucket.bias.is_some() || bucket.mask.is_some() {
                let mut by_head = scores.reshape((sequences, heads, length, length))?;
                for added in [&bucket.bias, &bucket.mask].into_iter().flatten() {
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

    /// The mean of each sequence's states, in f32, one row per sequence.
    pub(super) fn means(&self, model: &Model, states: &Tensor) -> CandleResult<Tensor> {
        let states = states.to_dtype(DType::F32)?;
        let mean = |bucket: &DeviceBucket| -> CandleResult<Tensor> {
            let shape = &bucket.shape;
            let rows = Tensor::new(shape.padded(&self.lengths), &model.device)?;
            let rows = states.index_select(&rows, 0)?.reshape((shape.sequences.len(), shape.longest, ()))?;
            let parts = shape.marks(&self.lengths, |length| 1.0 / length as f32, 0.0);
            let parts = Tensor::from_vec(parts, (shape.sequences.len(), 1, shape.longest), &model.device)?;
            parts.matmul(&rows)?.squeeze(1)
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
}

/// The bias of each pair of tokens, `[1, heads, length, length]`.
fn pairs(model: &Model, bias: &PositionBias, length: usize) -> CandleResult<Tensor> {
    let heads = model.architecture.shape.heads;
    let distances = Tensor::from_vec(bias.by_distance(heads, length), (heads, ()), &model.device)?;
    let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (length - 1 + key - query) as u32));
    let pairs = Tensor::new(pairs.collect::<Vec<_>>(), &model.device)?;
    distances.to_dtype(model.dtype)?.index_select(&pairs, 1)?.reshape((1, heads, length, length))
}

fn feed_forward(model: &Model, block: &DeviceBlock, states: &Tensor) -> CandleResult<Tensor> {
    let up = block.up.forward(states)?;
    let mut between = match model.architecture.shape.activation {
        Activation::Gelu => up.gelu_erf()?,
        Activation::GeluTanh => up.gelu()?,
        Activation::Relu => up.relu()?,
    };
    if let Some(gate) = &block.gate {
        between = (between * gate.forward(states)?)?;
    }
    block.down.forward(&between)
}
