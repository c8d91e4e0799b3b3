//! An encoder's weights on the device.

use candle_core::{DType, Device};

use super::super::blocks::{LayerBlock, Layers, Stack};
use super::layers::{DeviceLinear, Placement};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::NamedTensor;
use text2vec_kernel::{Block, Precision};

/// What passes are computed with.
pub(super) struct Model {
    pub(super) architecture: Architecture,
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) stack: Stack<Placement, DeviceLinear>,
}

/// A block, of which one layer makes queries (with the scores' factor in it, unless heads have norms: then those of queries
/// have it), keys and values of all heads, side by side.
pub(super) type DeviceBlock = LayerBlock<Placement, DeviceLinear>;

impl Model {
    /// From named tensors, each on the device before the next is read.
    pub(super) fn new(
        architecture: &Architecture,
        device: &Device,
        precision: Precision,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
    ) -> Result<Model> {
        let dtype = dtype(precision)?;
        let on = Placement { device: device.clone(), dtype };
        let shape = architecture.shape;
        let input = |block: &mut Block| {
            let scale = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= shape.score_scale());
            let scaled = match &mut block.head_norms {
                Some(norms) => [&mut norms.query.gamma, &mut norms.query.beta],
                None => [&mut block.query.weight, &mut block.query.bias],
            };
            scaled.into_iter().for_each(|values| scale(values));
            let mut input = std::mem::take(&mut block.query);
            for part in [&mut block.key, &mut block.value].map(std::mem::take) {
                input.weight.extend(part.weight);
                input.bias.extend(part.bias);
            }
            on.linear(input, shape.hidden)
        };
        let stack = Stack::new(&on, architecture, tensors, input)?;
        Ok(Model { architecture: architecture.clone(), device: device.clone(), dtype, stack })
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
