//! The Candle executor: any architecture on any Candle device, by plain tensor operations. The oracle for the CPU engine.

use std::borrow::Cow;
use std::fmt;

use candle_core::{D, Device, Module, Tensor};
use candle_nn::{LayerNorm, Linear};

use super::failure::unusable;
use super::parts::{BlockNorms, activate, hiding, shares, turn, turns};
use crate::encoder::{Encoder, HiddenStates, TokenBatch};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::{NamedTensor, Parameters};
use crate::weights::first_line;
use text2vec_kernel::{Block, Dense, ExpertShape, Mask, Norm, PositionBias, Shape};

/// An encoder on a Candle device.
pub struct CandleEncoder {
    architecture: Architecture,
    device: Device,
    tables: Vec<Tensor>,
    embedding_norm: Option<LayerNorm>,
    embedding_projection: Option<Linear>,
    position_bias: Option<PositionBias>,
    blocks: Vec<CandleBlock>,
    final_norm: Option<LayerNorm>,
}

struct CandleBlock {
    query: Linear,
    key: Linear,
    value: Linear,
    head_norms: Option<[LayerNorm; 2]>,
    rotary: Option<usize>,
    mask: Mask,
    attention_output: Linear,
    norms: BlockNorms<LayerNorm>,
    feed_forward: FeedForward,
}

enum FeedForward {
    One { up: Linear, gate: Option<Linear>, down: Linear },
    Experts { router: Linear, experts: Vec<(Linear, Linear)>, taken: usize, bias: Option<Tensor> },
}

impl CandleEncoder {
    /// Builds the encoder from named tensors, as [`PackedEncoder::new`](crate::cpu::PackedEncoder::new) does.
    ///
    /// # Errors
    /// `Unusable` for weights that do not fit, and what `tensors` says.
    pub fn new(
        architecture: &Architecture,
        device: &Device,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
    ) -> Result<CandleEncoder> {
        let mut parameters = Parameters::new(architecture, tensors);
        let shape = architecture.shape;
        let outer = parameters.outer()?;
        let width = architecture.table_width();
        let table = |values: Vec<f32>| Tensor::from_vec(values, ((), width), device);
        let optional_norm = |norm: Option<Norm>| norm.map(|parameters| norm_of(parameters, shape, device)).transpose();
        let projection = outer.embedding_projection.map(|dense| linear(dense, width, device));
        let embedding_projection = projection.transpose().map_err(unusable)?;
        let tables = outer.tables.into_iter().map(table).collect::<candle_core::Result<_>>().map_err(unusable)?;
        let embedding_norm = optional_norm(outer.embedding_norm).map_err(unusable)?;
        let final_norm = optional_norm(outer.final_norm).map_err(unusable)?;
        let mut blocks = Vec::new();
        for layer in 0..shape.layers {
            blocks.push(CandleBlock::new(parameters.block(layer)?, (layer, shape), device).map_err(unusable)?);
        }
        Ok(CandleEncoder {
            architecture: architecture.clone(),
            device: device.clone(),
            tables,
            embedding_norm,
            embedding_projection,
            position_bias: outer.position_bias,
            blocks,
            final_norm,
        })
    }

    /// Sequences of one length as one dense tensor: no padding, no mask. `rows` are those of each table.
    fn forward_equal(&self, rows: Vec<Vec<u32>>, sequences: usize, length: usize) -> candle_core::Result<Vec<f32>> {
        let Shape { heads, style, .. } = self.architecture.shape;
        let mut states: Option<Tensor> = None;
        for (table, rows) in self.tables.iter().zip(rows) {
            let found = table.index_select(&Tensor::new(rows, &self.device)?, 0)?;
            states = Some(match states {
                Some(sum) => (sum + found)?,
                None => found,
            });
        }
        let Some(states) = states else { candle_core::bail!("no embedding table") };
        let mut states = states.reshape((sequences, length, ()))?;
        if let Some(norm) = &self.embedding_norm {
            states = norm.forward(&states)?;
        }
        if let Some(projection) = &self.embedding_projection {
            states = projection.forward(&states)?;
        }
        let bias = match &self.position_bias {
            Some(bias) => Some(self.pairs(bias, heads, length)?),
            None => None,
        };
        let positions: Vec<u32> = (0..length as u32).collect();
        let turns = |rotary| turns(rotary, &positions, &self.device);
        let turns: Vec<_> = self.architecture.rotaries.iter().map(turns).collect::<candle_core::Result<_>>()?;
        let mut hidden_by: Vec<(Mask, Tensor)> = Vec::new();
        for index in self.architecture.blocks_in_order() {
            let block = &self.blocks[index];
            let mut added: Vec<Tensor> = bias.iter().cloned().collect();
            if block.mask != Mask::FULL {
                if hidden_by.iter().all(|(mask, _)| *mask != block.mask) {
                    hidden_by.push((block.mask, hiding(block.mask, length, &self.device)?));
                }
                added
                    .extend(hidden_by.iter().filter(|(mask, _)| *mask == block.mask).map(|(_, hidden)| hidden.clone()));
            }
            let turns = block.rotary.map(|rotary| &turns[rotary]);
            let attend = |states: &Tensor| self.attend(block, states, &added, turns);
            let feed_forward = |states: &Tensor| self.feed_forward(block, states);
            states = block.norms.block(style.placement, states, attend, feed_forward)?;
        }
        if let Some(norm) = &self.final_norm {
            states = norm.forward(&states)?;
        }
        states.flatten_all()?.to_vec1()
    }

    fn attend(
        &self,
        block: &CandleBlock,
        states: &Tensor,
        added: &[Tensor],
        turns: Option<&[Tensor; 2]>,
    ) -> candle_core::Result<Tensor> {
        let shape = self.architecture.shape;
        let (sequences, length, _) = states.dims3()?;
        let (heads, key_heads, size) = (shape.heads, shape.key_heads(), shape.head_size());
        let (mut query, mut key) = (block.query.forward(states)?, block.key.forward(states)?);
        if let Some(norms) = &block.head_norms {
            let normed = |rows: &Tensor, norm: &LayerNorm| -> candle_core::Result<Tensor> {
                norm.forward(&rows.reshape((sequences, length, (), norm.weight().dim(0)?))?)
            };
            (query, key) = (normed(&query, &norms[0])?, normed(&key, &norms[1])?);
        }
        let split = |rows: &Tensor, heads: usize, turns: Option<&[Tensor; 2]>| -> candle_core::Result<Tensor> {
            let mut rows = rows.reshape((sequences, length, heads, size))?;
            if let Some([cosines, sines]) = turns {
                // The same for every sequence.
                let all = |turns: &Tensor| turns.repeat((sequences, 1, 1));
                let turns = [all(cosines)?, all(sines)?];
                rows = turn(&rows.flatten(0, 1)?, &turns)?.reshape((sequences, length, heads, size))?;
            }
            let rows = rows.transpose(1, 2)?.contiguous()?;
            // As many neighbouring heads share one of the keys'.
            let each = shape.heads / heads;
            rows.unsqueeze(2)?.broadcast_as((sequences, heads, each, length, size))?.contiguous()?.reshape((
                sequences,
                heads * each,
                length,
                size,
            ))
        };
        let query = (split(&query, heads, turns)? * f64::from(shape.score_scale()))?;
        let (key, value) = (split(&key, key_heads, turns)?, split(&block.value.forward(states)?, key_heads, None)?);
        let mut scores = query.matmul(&key.transpose(2, 3)?.contiguous()?)?;
        for added in added {
            scores = scores.broadcast_add(added)?;
        }
        let context = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?;
        let context = context.transpose(1, 2)?.contiguous()?.reshape((sequences, length, shape.attention_width()))?;
        block.attention_output.forward(&context)
    }

    fn feed_forward(&self, block: &CandleBlock, states: &Tensor) -> candle_core::Result<Tensor> {
        let activation = self.architecture.shape.activation;
        match &block.feed_forward {
            FeedForward::One { up, gate, down } => {
                let mut between = activate(activation, &up.forward(states)?)?;
                if let Some(gate) = gate {
                    between = (between * gate.forward(states)?)?;
                }
                down.forward(&between)
            }
            FeedForward::Experts { router, experts, taken, bias } => {
                let rows = states.flatten(0, 1)?;
                let shares = shares(&router.forward(&rows)?, *taken)?;
                let mut sum = rows.zeros_like()?;
                for (index, (up, down)) in experts.iter().enumerate() {
                    let made = down.forward(&activate(activation, &up.forward(&rows)?)?)?;
                    sum = (sum + made.broadcast_mul(&shares.narrow(1, index, 1)?)?)?;
                }
                if let Some(bias) = bias {
                    sum = sum.broadcast_add(bias)?;
                }
                sum.reshape(states.shape())
            }
        }
    }

    /// The bias of each pair of tokens, `[1, heads, length, length]`.
    fn pairs(&self, bias: &PositionBias, heads: usize, length: usize) -> candle_core::Result<Tensor> {
        let distances = Tensor::from_vec(bias.by_distance(heads, length), (heads, ()), &self.device)?;
        let rows = (0..length).map(|query| distances.narrow(D::Minus1, length - 1 - query, length));
        Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 1)?.unsqueeze(0)
    }
}

impl CandleBlock {
    fn new(block: Block, (layer, shape): (usize, Shape), device: &Device) -> candle_core::Result<CandleBlock> {
        let linear = |dense: Dense, inputs: usize| linear(dense, inputs, device);
        let norm = |norm: Norm| norm_of(norm, shape, device);
        let optional = |it: Option<Norm>| it.map(norm).transpose();
        let Shape { hidden, intermediate, .. } = shape;
        let feed_forward = match (block.experts, shape.experts(layer)) {
            (Some(experts), Some(ExpertShape { taken, .. })) => {
                let pair = |(up, down)| Ok((linear(up, hidden)?, linear(down, intermediate)?));
                let bias = Some(experts.bias).filter(|bias| !bias.is_empty());
                FeedForward::Experts {
                    router: linear(experts.router, hidden)?,
                    experts: experts.up.into_iter().zip(experts.down).map(pair).collect::<candle_core::Result<_>>()?,
                    taken,
                    bias: bias.map(|bias| Tensor::new(bias, device)).transpose()?,
                }
            }
            _ => FeedForward::One {
                up: linear(block.up, hidden)?,
                gate: block.gate.map(|gate| linear(gate, hidden)).transpose()?,
                down: linear(block.down, intermediate)?,
            },
        };
        Ok(CandleBlock {
            query: linear(block.query, hidden)?,
            key: linear(block.key, hidden)?,
            value: linear(block.value, hidden)?,
            head_norms: match block.head_norms {
                Some(norms) => Some([norm(norms.query)?, norm(norms.key)?]),
                None => None,
            },
            rotary: block.rotary,
            mask: block.mask,
            attention_output: linear(block.attention_output, shape.attention_width())?,
            norms: BlockNorms {
                attention: optional(block.attention_norm)?,
                attention_second: optional(block.attention_second_norm)?,
                attention_output: optional(block.attention_output_norm)?,
                output: norm(block.output_norm)?,
                feed_forward: optional(block.feed_forward_norm)?,
            },
            feed_forward,
        })
    }
}

fn linear(dense: Dense, inputs: usize, device: &Device) -> candle_core::Result<Linear> {
    let weight = Tensor::from_vec(dense.weight, ((), inputs), device)?;
    let bias = Some(dense.bias).filter(|bias| !bias.is_empty());
    Ok(Linear::new(weight, bias.map(|bias| Tensor::new(bias, device)).transpose()?))
}

fn norm_of(norm: Norm, shape: Shape, device: &Device) -> candle_core::Result<LayerNorm> {
    let gamma = Tensor::new(norm.gamma, device)?;
    let epsilon = f64::from(shape.epsilon);
    Ok(match shape.style.rms_norm {
        true => LayerNorm::rms_norm(gamma, epsilon),
        false => LayerNorm::new(gamma, Tensor::new(norm.beta, device)?, epsilon),
    })
}

impl Encoder for CandleEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let rows = self.architecture.rows(batch)?;
        let width = self.hidden_size();
        let ranges: Vec<_> = batch.ranges().collect();
        let mut order: Vec<usize> = (0..ranges.len()).filter(|&index| !ranges[index].is_empty()).collect();
        order.sort_by_key(|&index| ranges[index].len());
        let mut values = vec![0f32; batch.tokens() * width];
        // Padding costs more than it saves on a CPU, and a mask costs exactness: only equal lengths share a tensor.
        for group in order.chunk_by(|&a, &b| ranges[a].len() == ranges[b].len()) {
            let length = ranges[group[0]].len();
            let gather =
                |source: &Cow<'_, [u32]>| group.iter().flat_map(|&i| source[ranges[i].clone()].to_vec()).collect();
            let states =
                self.forward_equal(rows.iter().map(gather).collect(), group.len(), length).map_err(|error| {
                    Error::internal(format!("the forward pass failed: {}", first_line(&error.to_string())))
                })?;
            for (rows, &index) in states.chunks_exact(length * width).zip(group) {
                values[ranges[index].start * width..ranges[index].end * width].copy_from_slice(rows);
            }
        }
        Ok(HiddenStates { values, width })
    }

    fn hidden_size(&self) -> usize {
        self.architecture.shape.hidden
    }
}

impl fmt::Debug for CandleEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CandleEncoder");
        shown.field("architecture", &self.architecture).field("device", &self.device).finish_non_exhaustive()
    }
}
