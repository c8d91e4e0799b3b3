//! The Candle executor: any architecture on any Candle device, by plain tensor operations. The oracle for the CPU engine.

use std::borrow::Cow;
use std::fmt;

use candle_core::{D, Device, Module, Tensor};
use candle_nn::{LayerNorm, Linear};

use super::failure::unusable;
use crate::encoder::{Encoder, HiddenStates, TokenBatch};
use crate::error::{Error, Result};
use crate::family::architecture::{Architecture, NamedTensor, Parameters};
use crate::weights::first_line;
use text2vec_kernel::{Activation, Block, Dense, Norm, PositionBias, Shape};

/// An encoder on a Candle device.
pub struct CandleEncoder {
    architecture: Architecture,
    device: Device,
    tables: Vec<Tensor>,
    embedding_norm: Option<LayerNorm>,
    position_bias: Option<PositionBias>,
    blocks: Vec<CandleBlock>,
    final_norm: Option<LayerNorm>,
}

struct CandleBlock {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    gate: Option<Linear>,
    down: Linear,
    output_norm: LayerNorm,
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
        let table = |values: Vec<f32>| Tensor::from_vec(values, ((), shape.hidden), device);
        let optional_norm = |norm: Option<Norm>| norm.map(|parameters| norm_of(parameters, shape, device)).transpose();
        let tables = outer.tables.into_iter().map(table).collect::<candle_core::Result<_>>().map_err(unusable)?;
        let embedding_norm = optional_norm(outer.embedding_norm).map_err(unusable)?;
        let final_norm = optional_norm(outer.final_norm).map_err(unusable)?;
        let mut blocks = Vec::new();
        for layer in 0..shape.layers {
            blocks.push(CandleBlock::new(parameters.block(layer)?, shape, device).map_err(unusable)?);
        }
        Ok(CandleEncoder {
            architecture: architecture.clone(),
            device: device.clone(),
            tables,
            embedding_norm,
            position_bias: outer.position_bias,
            blocks,
            final_norm,
        })
    }

    /// Sequences of one length as one dense tensor: no padding, no mask. `rows` are those of each table.
    fn forward_equal(&self, rows: Vec<Vec<u32>>, sequences: usize, length: usize) -> candle_core::Result<Vec<f32>> {
        let Shape { hidden, heads, style, .. } = self.architecture.shape;
        let mut states: Option<Tensor> = None;
        for (table, rows) in self.tables.iter().zip(rows) {
            let found = table.index_select(&Tensor::new(rows, &self.device)?, 0)?;
            states = Some(match states {
                Some(sum) => (sum + found)?,
                None => found,
            });
        }
        let Some(states) = states else { candle_core::bail!("no embedding table") };
        let mut states = states.reshape((sequences, length, hidden))?;
        if let Some(norm) = &self.embedding_norm {
            states = norm.forward(&states)?;
        }
        let bias = match &self.position_bias {
            Some(bias) => Some(self.pairs(bias, heads, length)?),
            None => None,
        };
        for block in &self.blocks {
            if style.pre_norm {
                let normed = block.attention_norm.forward(&states)?;
                states = (&states + self.attend(block, &normed, bias.as_ref())?)?;
                let normed = block.output_norm.forward(&states)?;
                states = (&states + self.feed_forward(block, &normed)?)?;
            } else {
                let sum = (&states + self.attend(block, &states, bias.as_ref())?)?;
                states = block.attention_norm.forward(&sum)?;
                let sum = (&states + self.feed_forward(block, &states)?)?;
                states = block.output_norm.forward(&sum)?;
            }
        }
        if let Some(norm) = &self.final_norm {
            states = norm.forward(&states)?;
        }
        states.flatten_all()?.to_vec1()
    }

    fn attend(&self, block: &CandleBlock, states: &Tensor, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let shape = self.architecture.shape;
        let (sequences, length, _) = states.dims3()?;
        let split = |linear: &Linear| -> candle_core::Result<Tensor> {
            let projected = linear.forward(states)?.reshape((sequences, length, shape.heads, shape.head_size()))?;
            projected.transpose(1, 2)?.contiguous()
        };
        let (mut query, key, value) = (split(&block.query)?, split(&block.key)?, split(&block.value)?);
        if !shape.style.unscaled {
            query = (query * (1.0 / (shape.head_size() as f64).sqrt()))?;
        }
        let mut scores = query.matmul(&key.transpose(2, 3)?.contiguous()?)?;
        if let Some(bias) = bias {
            scores = scores.broadcast_add(bias)?;
        }
        let context = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?;
        let context = context.transpose(1, 2)?.contiguous()?.reshape((sequences, length, shape.attention_width()))?;
        block.attention_output.forward(&context)
    }

    fn feed_forward(&self, block: &CandleBlock, states: &Tensor) -> candle_core::Result<Tensor> {
        let up = block.up.forward(states)?;
        let mut between = match self.architecture.shape.activation {
            Activation::Gelu => up.gelu_erf()?,
            Activation::GeluTanh => up.gelu()?,
            Activation::Relu => up.relu()?,
        };
        if let Some(gate) = &block.gate {
            between = (between * gate.forward(states)?)?;
        }
        block.down.forward(&between)
    }

    /// The bias of each pair of tokens, `[1, heads, length, length]`.
    fn pairs(&self, bias: &PositionBias, heads: usize, length: usize) -> candle_core::Result<Tensor> {
        let distances = Tensor::from_vec(bias.by_distance(heads, length), (heads, ()), &self.device)?;
        let rows = (0..length).map(|query| distances.narrow(D::Minus1, length - 1 - query, length));
        Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 1)?.unsqueeze(0)
    }
}

impl CandleBlock {
    fn new(block: Block, shape: Shape, device: &Device) -> candle_core::Result<CandleBlock> {
        let linear = |dense: Dense, inputs: usize| -> candle_core::Result<Linear> {
            let weight = Tensor::from_vec(dense.weight, ((), inputs), device)?;
            let bias = Some(dense.bias).filter(|bias| !bias.is_empty());
            Ok(Linear::new(weight, bias.map(|bias| Tensor::new(bias, device)).transpose()?))
        };
        let Shape { hidden, intermediate, .. } = shape;
        Ok(CandleBlock {
            query: linear(block.query, hidden)?,
            key: linear(block.key, hidden)?,
            value: linear(block.value, hidden)?,
            attention_output: linear(block.attention_output, shape.attention_width())?,
            attention_norm: norm_of(block.attention_norm, shape, device)?,
            up: linear(block.up, hidden)?,
            gate: block.gate.map(|gate| linear(gate, hidden)).transpose()?,
            down: linear(block.down, intermediate)?,
            output_norm: norm_of(block.output_norm, shape, device)?,
        })
    }
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
