//! Layers on the device: how their parameters get there, and what is computed with them.

use candle_core::shape::ShapeWithOneHole;
use candle_core::{DType, Device, Module, Result as CandleResult, Tensor};

use super::super::blocks::Layers;
use text2vec_kernel::{Dense, Norm, Shape};

/// `[inputs, outputs]` and `[outputs]`.
pub(super) struct DeviceLinear {
    weight: Tensor,
    bias: Option<Tensor>,
}

pub(super) enum DeviceNorm {
    Layer { gamma: Tensor, beta: Tensor, epsilon: f32 },
    RootMeanSquare { gamma: Tensor, epsilon: f32 },
}

/// Where parameters go, and as which numbers.
pub(super) struct Placement {
    pub(super) device: Device,
    pub(super) dtype: DType,
}

impl Layers for Placement {
    type Linear = DeviceLinear;
    type Norm = DeviceNorm;

    fn tensor(&self, values: Vec<f32>, shape: impl ShapeWithOneHole) -> CandleResult<Tensor> {
        // Rounded here, so that the device never holds them twice.
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
    }

    fn linear(&self, dense: Dense, inputs: usize) -> CandleResult<DeviceLinear> {
        let weight = self.tensor(dense.weight, ((), inputs))?.t()?;
        let bias = Some(dense.bias).filter(|bias| !bias.is_empty());
        Ok(DeviceLinear { weight, bias: bias.map(|bias| self.tensor(bias, ((),))).transpose()? })
    }

    fn exact_linear(&self, dense: Dense, inputs: usize) -> CandleResult<DeviceLinear> {
        Placement { dtype: DType::F32, device: self.device.clone() }.linear(dense, inputs)
    }

    fn norm(&self, norm: Norm, shape: Shape) -> CandleResult<DeviceNorm> {
        let (gamma, epsilon) = (self.tensor(norm.gamma, ((),))?, shape.epsilon);
        Ok(match shape.style.rms_norm {
            true => DeviceNorm::RootMeanSquare { gamma, epsilon },
            false => DeviceNorm::Layer { gamma, beta: self.tensor(norm.beta, ((),))?, epsilon },
        })
    }
}

/// A product of matrices, or of as many pairs of them.
pub(super) fn product(a: &Tensor, b: &Tensor) -> CandleResult<Tensor> {
    match (a.device(), a.dtype()) {
        // Candle multiplies no bf16 on the CPU: in f32, rounded.
        (Device::Cpu, DType::BF16) => a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16),
        _ => a.matmul(b),
    }
}

/// Something that adds up many numbers. Candle does so in f32 on a GPU, whatever the numbers are, but not on the CPU: there in
/// f32 altogether, rounded at the end.
pub(super) fn summing(rows: &Tensor, compute: impl Fn(&Tensor) -> CandleResult<Tensor>) -> CandleResult<Tensor> {
    match (rows.device(), rows.dtype()) {
        (Device::Cpu, dtype @ (DType::F16 | DType::BF16)) => compute(&rows.to_dtype(DType::F32)?)?.to_dtype(dtype),
        _ => compute(rows),
    }
}

impl Module for DeviceLinear {
    fn forward(&self, rows: &Tensor) -> CandleResult<Tensor> {
        let out = product(rows, &self.weight)?;
        match &self.bias {
            Some(bias) => out.broadcast_add(bias),
            None => Ok(out),
        }
    }
}

impl DeviceNorm {
    /// Columns that it works on.
    pub(super) fn width(&self) -> CandleResult<usize> {
        match self {
            DeviceNorm::Layer { gamma, .. } | DeviceNorm::RootMeanSquare { gamma, .. } => gamma.dim(0),
        }
    }
}

impl Module for DeviceNorm {
    fn forward(&self, rows: &Tensor) -> CandleResult<Tensor> {
        summing(rows, |rows| {
            let like = |parameters: &Tensor| parameters.to_dtype(rows.dtype());
            match self {
                DeviceNorm::Layer { gamma, beta, epsilon } => {
                    candle_nn::ops::layer_norm(rows, &like(gamma)?, &like(beta)?, *epsilon)
                }
                DeviceNorm::RootMeanSquare { gamma, epsilon } => {
                    candle_nn::ops::rms_norm(rows, &like(gamma)?, *epsilon)
                }
            }
        })
    }
}
