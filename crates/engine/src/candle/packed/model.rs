//! An encoder's weights on the device.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::super::failure::unusable;
use super::super::parts::BlockNorms;
use super::layers::{DeviceLinear, DeviceNorm, Placement};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::{NamedTensor, Parameters};
use text2vec_kernel::{Block, ExpertShape, Mask, Norm, PositionBias, Precision, Shape};

/// What passes are computed with.
pub(super) struct Model {
    pub(super) architecture: Architecture,
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) tables: Vec<Tensor>,
    pub(super) embedding_norm: Option<DeviceNorm>,
    pub(super) embedding_projection: Option<DeviceLinear>,
    pub(super) position_bias: Option<PositionBias>,
    pub(super) blocks: Vec<DeviceBlock>,
    pub(super) final_norm: Option<DeviceNorm>,
}

/// A block's layers.
pub(super) struct DeviceBlock {
    /// Queries (with the scores' factor in them, unless heads have norms), keys and values of all heads, side by side.
    pub(super) attention_input: DeviceLinear,
    /// Of queries (with the scores' factor) and keys.
    pub(super) head_norms: Option<[DeviceNorm; 2]>,
    pub(super) rotary: Option<usize>,
    pub(super) mask: Mask,
    pub(super) attention_output: DeviceLinear,
    pub(super) norms: BlockNorms<DeviceNorm>,
    pub(super) feed_forward: DeviceFeedForward,
}

/// A block's feed-forward.
pub(super) enum DeviceFeedForward {
    One { up: DeviceLinear, gate: Option<DeviceLinear>, down: DeviceLinear },
    Experts { router: DeviceLinear, experts: Vec<(DeviceLinear, DeviceLinear)>, taken: usize, bias: Option<Tensor> },
}

impl Model {
    /// From named tensors, each on the device before the next is read.
    pub(super) fn new(
        architecture: &Architecture,
        device: &Device,
        precision: Precision,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
    ) -> Result<Model> {
        let dtype = dtype(precision)?;
        let mut parameters = Parameters::new(architecture, tensors);
        let shape = architecture.shape;
        let outer = parameters.outer()?;
        if let Some(bias) = &outer.position_bias {
            bias.check(shape.heads)?;
        }
        let on = Placement { device, dtype };
        let width = architecture.table_width();
        let table = |values: Vec<f32>| on.tensor(values, ((), width));
        let projection = outer.embedding_projection.map(|dense| on.linear(dense, width));
        let embedding_projection = projection.transpose().map_err(unusable)?;
        let optional_norm = |norm: Option<Norm>| norm.map(|parameters| on.norm(parameters, shape)).transpose();
        let tables = outer.tables.into_iter().map(table).collect::<CandleResult<_>>().map_err(unusable)?;
        let embedding_norm = optional_norm(outer.embedding_norm).map_err(unusable)?;
        let final_norm = optional_norm(outer.final_norm).map_err(unusable)?;
        let mut blocks = Vec::new();
        for layer in 0..shape.layers {
            blocks.push(DeviceBlock::new(&on, parameters.block(layer)?, (layer, shape)).map_err(unusable)?);
        }
        Ok(Model {
            architecture: architecture.clone(),
            device: device.clone(),
            dtype,
            tables,
            embedding_norm,
            embedding_projection,
            position_bias: outer.position_bias,
            blocks,
            final_norm,
        })
    }
}

impl DeviceBlock {
    fn new(on: &Placement<'_>, block: Block, (layer, shape): (usize, Shape)) -> CandleResult<DeviceBlock> {
        let Shape { hidden, intermediate, .. } = shape;
        let scale = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= shape.score_scale());
        let (mut input, mut head_norms) = (block.query, block.head_norms);
        match &mut head_norms {
            Some(norms) => [&mut norms.query.gamma, &mut norms.query.beta].into_iter().for_each(|it| scale(it)),
            None => [&mut input.weight, &mut input.bias].into_iter().for_each(|it| scale(it)),
        }
        for part in [block.key, block.value] {
            input.weight.extend(part.weight);
            input.bias.extend(part.bias);
        }
        let norm = |norm: Norm| on.norm(norm, shape);
        let optional = |it: Option<Norm>| it.map(norm).transpose();
        let feed_forward = match (block.experts, shape.experts(layer)) {
            (Some(experts), Some(ExpertShape { taken, .. })) => {
                let pair = |(up, down)| Ok((on.linear(up, hidden)?, on.linear(down, intermediate)?));
                let bias = Some(experts.bias).filter(|bias| !bias.is_empty());
                DeviceFeedForward::Experts {
                    router: on.exact_linear(experts.router, hidden)?,
                    experts: experts.up.into_iter().zip(experts.down).map(pair).collect::<CandleResult<_>>()?,
                    taken,
                    bias: bias.map(|bias| on.tensor(bias, ((),))).transpose()?,
                }
            }
            _ => DeviceFeedForward::One {
                up: on.linear(block.up, hidden)?,
                gate: block.gate.map(|gate| on.linear(gate, hidden)).transpose()?,
                down: on.linear(block.down, intermediate)?,
            },
        };
        Ok(DeviceBlock {
            attention_input: on.linear(input, hidden)?,
            head_norms: match head_norms {
                Some(norms) => Some([norm(norms.query)?, norm(norms.key)?]),
                None => None,
            },
            rotary: block.rotary,
            mask: block.mask,
            attention_output: on.linear(block.attention_output, shape.attention_width())?,
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

fn dtype(precision: Precision) -> Result<DType> {
    match precision {
        Precision::F32 => Ok(DType::F32),
        Precision::F16 => Ok(DType::F16),
        Precision::Bf16 => Ok(DType::BF16),
        Precision::Bf16x3 | Precision::Int8 => Err(Error::unusable(format!(
            "--precision {precision} is for the CPU's own kernels: on a GPU (and with --engine candle-packed) take f16, bf16 or f32"
        ))),
    }
}
