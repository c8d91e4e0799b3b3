//! An encoder's weights on the device.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::super::failure::unusable;
use super::layers::{DeviceLinear, DeviceNorm, Placement};
use crate::error::{Error, Result};
use crate::family::architecture::{Architecture, NamedTensor, Parameters};
use text2vec_kernel::{Block, Norm, PositionBias, Precision, Shape};

/// What passes are computed with.
pub(super) struct Model {
    pub(super) architecture: Architecture,
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) tables: Vec<Tensor>,
    pub(super) embedding_norm: Option<DeviceNorm>,
    pub(super) position_bias: Option<PositionBias>,
    pub(super) blocks: Vec<DeviceBlock>,
    pub(super) final_norm: Option<DeviceNorm>,
}

/// A block's layers.
pub(super) struct DeviceBlock {
    /// Queries (with the scores' factor in them), keys and values of all heads, side by side.
    pub(super) attention_input: DeviceLinear,
    pub(super) attention_output: DeviceLinear,
    pub(super) attention_norm: DeviceNorm,
    pub(super) up: DeviceLinear,
    pub(super) gate: Option<DeviceLinear>,
    pub(super) down: DeviceLinear,
    pub(super) output_norm: DeviceNorm,
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
        let table = |values: Vec<f32>| on.tensor(values, ((), shape.hidden));
        let optional_norm = |norm: Option<Norm>| norm.map(|parameters| on.norm(parameters, shape)).transpose();
        let tables = outer.tables.into_iter().map(table).collect::<CandleResult<_>>().map_err(unusable)?;
        let embedding_norm = optional_norm(outer.embedding_norm).map_err(unusable)?;
        let final_norm = optional_norm(outer.final_norm).map_err(unusable)?;
        let mut blocks = Vec::new();
        for layer in 0..shape.layers {
            blocks.push(DeviceBlock::new(&on, parameters.block(layer)?, shape).map_err(unusable)?);
        }
        Ok(Model {
            architecture: architecture.clone(),
            device: device.clone(),
            dtype,
            tables,
            embedding_norm,
            position_bias: outer.position_bias,
            blocks,
            final_norm,
        })
    }
}

impl DeviceBlock {
    fn new(on: &Placement<'_>, block: Block, shape: Shape) -> CandleResult<DeviceBlock> {
        let Shape { hidden, intermediate, .. } = shape;
        let mut input = block.query;
        if !shape.style.unscaled {
            let factor = 1.0 / (shape.head_size() as f32).sqrt();
            input.weight.iter_mut().chain(&mut input.bias).for_each(|value| *value *= factor);
        }
        for part in [block.key, block.value] {
            input.weight.extend(part.weight);
            input.bias.extend(part.bias);
        }
        Ok(DeviceBlock {
            attention_input: on.linear(input, hidden)?,
            attention_output: on.linear(block.attention_output, shape.attention_width())?,
            attention_norm: on.norm(block.attention_norm, shape)?,
            up: on.linear(block.up, hidden)?,
            gate: block.gate.map(|gate| on.linear(gate, hidden)).transpose()?,
            down: on.linear(block.down, intermediate)?,
            output_norm: on.norm(block.output_norm, shape)?,
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
