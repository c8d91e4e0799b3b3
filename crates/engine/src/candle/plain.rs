//! The Candle executor: any architecture on any Candle device, by plain tensor operations. The oracle for the CPU engine.

use std::borrow::Cow;
use std::fmt;

use candle_core::shape::ShapeWithOneHole;
use candle_core::{D, Device, Module, Result as CandleResult, Tensor};
use candle_nn::{LayerNorm, Linear};

use super::blocks::{LayerBlock, Layers, Stack};
use super::parts::{hiding, turn, turns};
use crate::encoder::{Encoder, HiddenStates, TokenBatch};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::NamedTensor;
use crate::weights::first_line;
use text2vec_kernel::{Block, Dense, Mask, Norm, PositionBias, Shape};

/// An encoder on a Candle device.
pub struct CandleEncoder {
    architecture: Architecture,
    device: Device,
    stack: Stack<Plain, [Linear; 3]>,
}

/// A block with layers of queries, keys and values.
type CandleBlock = LayerBlock<Plain, [Linear; 3]>;

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
        let on = Plain(device.clone());
        let input = |block: &mut Block| {
            let [query, key, value] = [&mut block.query, &mut block.key, &mut block.value]
                .map(|dense| on.linear(std::mem::take(dense), architecture.shape.hidden));
            Ok([query?, key?, value?])
        };
        let stack = Stack::new(&on, architecture, tensors, input)?;
        Ok(CandleEncoder { architecture: architecture.clone(), device: device.clone(), stack })
    }

    /// Sequences of one length as one dense tensor: no padding, no mask. `rows` are those of each table.
    fn forward_equal(&self, rows: Vec<Vec<u32>>, sequences: usize, length: usize) -> CandleResult<Vec<f32>> {
        let shape = self.architecture.shape;
        let rows = rows.into_iter().map(|rows| Tensor::new(rows, &self.device)).collect::<CandleResult<Vec<_>>>()?;
        let mut states = self.stack.embed(&rows)?.reshape((sequences, length, ()))?;
        let bias = match &self.stack.position_bias {
            Some(bias) => Some(self.pairs(bias, shape.heads, length)?),
            None => None,
        };
        let positions: Vec<u32> = (0..length as u32).collect();
        let turns = |rotary| turns(rotary, &positions, &self.device);
        let turns: Vec<_> = self.architecture.rotaries.iter().map(turns).collect::<CandleResult<_>>()?;
        let mut hidden_by: Vec<(Mask, Tensor)> = Vec::new();
        for index in self.architecture.blocks_in_order() {
            let block = &self.stack.blocks[index];
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
            states = block.forward(shape, states, attend)?;
        }
        self.stack.finish(states)?.flatten_all()?.to_vec1()
    }

    fn attend(
        &self,
        block: &CandleBlock,
        states: &Tensor,
        added: &[Tensor],
        turns: Option<&[Tensor; 2]>,
    ) -> CandleResult<Tensor> {
        let shape = self.architecture.shape;
        let (sequences, length, _) = states.dims3()?;
        let (heads, key_heads, size) = (shape.heads, shape.key_heads(), shape.head_size());
        let [query, key, value] = block.attention_input.each_ref().map(|linear| linear.forward(states));
        let (mut query, mut key) = (query?, key?);
        if let Some(norms) = &block.head_norms {
            let normed = |rows: &Tensor, norm: &LayerNorm| -> CandleResult<Tensor> {
                norm.forward(&rows.reshape((sequences, length, (), norm.weight().dim(0)?))?)
            };
            (query, key) = (normed(&query, &norms[0])?, normed(&key, &norms[1])?);
        }
        let split = |rows: &Tensor, heads: usize, turns: Option<&[Tensor; 2]>| -> CandleResult<Tensor> {
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
        let (key, value) = (split(&key, key_heads, turns)?, split(&value?, key_heads, None)?);
        let mut scores = query.matmul(&key.transpose(2, 3)?.contiguous()?)?;
        for added in added {
            scores = scores.broadcast_add(added)?;
        }
        let context = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?;
        let context = context.transpose(1, 2)?.contiguous()?.reshape((sequences, length, shape.attention_width()))?;
        block.attention_output.forward(&context)
    }

    /// The bias of each pair of tokens, `[1, heads, length, length]`.
    fn pairs(&self, bias: &PositionBias, heads: usize, length: usize) -> CandleResult<Tensor> {
        let distances = Tensor::from_vec(bias.by_distance(heads, length), (heads, ()), &self.device)?;
        let rows = (0..length).map(|query| distances.narrow(D::Minus1, length - 1 - query, length));
        Tensor::stack(&rows.collect::<CandleResult<Vec<_>>>()?, 1)?.unsqueeze(0)
    }
}

/// Layers on a device as Candle has them.
struct Plain(Device);

impl Layers for Plain {
    type Linear = Linear;
    type Norm = LayerNorm;

    fn tensor(&self, values: Vec<f32>, shape: impl ShapeWithOneHole) -> CandleResult<Tensor> {
        Tensor::from_vec(values, shape, &self.0)
    }

    fn linear(&self, dense: Dense, inputs: usize) -> CandleResult<Linear> {
        let weight = self.tensor(dense.weight, ((), inputs))?;
        let bias = Some(dense.bias).filter(|bias| !bias.is_empty());
        Ok(Linear::new(weight, bias.map(|bias| self.tensor(bias, ((),))).transpose()?))
    }

    fn exact_linear(&self, dense: Dense, inputs: usize) -> CandleResult<Linear> {
        self.linear(dense, inputs)
    }

    fn norm(&self, norm: Norm, shape: Shape) -> CandleResult<LayerNorm> {
        let gamma = self.tensor(norm.gamma, ((),))?;
        let epsilon = f64::from(shape.epsilon);
        Ok(match shape.style.rms_norm {
            true => LayerNorm::rms_norm(gamma, epsilon),
            false => LayerNorm::new(gamma, self.tensor(norm.beta, ((),))?, epsilon),
        })
    }
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
