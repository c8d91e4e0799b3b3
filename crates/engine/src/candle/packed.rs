//! Candle on packed rows: any architecture on a GPU, where it pays to compute many texts at once, or for comparison on the CPU.
//!
//! Linear layers, norms and activations work on `[tokens, hidden]` without padding. Attention works by buckets of like
//! length. Pooling runs on the device where it can, so that vectors come back and not the states of every token.
//!
//! ```text
//! model     weights on the device
//! layers    linear layers and norms of them
//! pass      a forward pass over some sequences, and what it gives pooled
//! ```

mod layers;
mod model;
mod pass;

use std::fmt;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use self::model::Model;
use self::pass::Pass;
use super::failure::{is_lost, is_out_of_memory};
use crate::encoder::{Encoder, HiddenStates, TokenBatch, pool_states};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::NamedTensor;
use crate::passes::{Failure, InPasses, Part, Passes, find_budget};
use crate::pooling::PoolingMode;
use crate::weights::first_line;
use text2vec_kernel::Precision;

/// Elements of a tensor. Candle's kernels count some in 32 bits, and would go astray without a word.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// An encoder on a Candle device.
pub struct CandlePackedEncoder {
    model: Model,
    passes: Passes,
    /// Whatever is asked of the device fails.
    is_lost: bool,
}

impl CandlePackedEncoder {
    /// Builds the encoder from named tensors, as [`PackedEncoder::new`](crate::cpu::PackedEncoder::new) does, with weights
    /// and everything computed in `precision`.
    ///
    /// # Errors
    /// `Unusable` for weights that do not fit, for a device without memory for them, and for int8 and bf16x3, which are
    /// for the CPU's kernels; and what `tensors` says.
    pub fn new(
        architecture: &Architecture,
        device: &Device,
        precision: Precision,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
    ) -> Result<CandlePackedEncoder> {
        let shape = architecture.shape;
        let widest = (3 * shape.attention_width()).max(shape.intermediate).max(shape.hidden);
        let passes = Passes::new(MOST_ELEMENTS / widest.max(architecture.table_width()));
        Ok(CandlePackedEncoder { model: Model::new(architecture, device, precision, tensors)?, passes, is_lost: false })
    }

    /// A batch of more tokens is computed in several passes, each of sequences of like length. A longer sequence has a pass
    /// of its own.
    pub fn set_budget(&mut self, tokens: usize) {
        self.passes.budget = tokens.max(1);
    }

    /// Where the encoder is.
    pub fn device(&self) -> &Device {
        &self.model.device
    }

    /// Computes each pass by `run`, which is given its sequences and their packed states.
    fn run_passes(
        &mut self,
        batch: &TokenBatch,
        mut run: impl FnMut(&Model, &Part<'_>, &Pass, Tensor) -> CandleResult<()>,
    ) -> Result<()> {
        let model = &self.model;
        let shape = model.architecture.shape;
        if let Some(length) = batch.lengths().iter().find(|&length| shape.heads * length * length > MOST_ELEMENTS) {
            return Err(Error::invalid(format!(
                "a sequence of {length} tokens is too long for a GPU: send shorter texts, or serve this model with --device cpu"
            )));
        }
        let lost = &mut self.is_lost;
        self.passes.run(&model.architecture, batch, |part: &Part<'_>| {
            let computed = Pass::new(model, part.rows.clone(), part.lengths.clone()).and_then(|pass| {
                let states = pass.forward(model)?;
                run(model, part, &pass, states)
            });
            computed.map_err(|error| {
                *lost |= is_lost(&error);
                match is_out_of_memory(&error) {
                    true => Failure::OutOfMemory,
                    false => Failure::Other(first_line(&error.to_string()).to_owned()),
                }
            })
        })
    }

    /// Returns what batches took that were tried and are larger than any to come.
    fn give_back_memory(&self) {
        #[cfg(feature = "cuda")]
        if let Ok(device) = self.model.device.as_cuda_device()
            && let Err(error) = crate::device::driver::give_back_memory(device)
        {
            tracing::warn!("the GPU keeps memory that is not needed: {error}");
        }
    }
}

impl Encoder for CandlePackedEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let width = self.hidden_size();
        let mut values = vec![0f32; batch.tokens() * width];
        self.run_passes(batch, |_, part, _, states| {
            let states: Vec<f32> = states.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            part.scatter(&states, width, &mut values);
            Ok(())
        })?;
        Ok(HiddenStates { values, width })
    }

    fn pooled(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>> {
        let on_device =
            |mode: &PoolingMode| matches!(mode, PoolingMode::Mean | PoolingMode::Cls | PoolingMode::LastToken);
        if !modes.iter().copied().flatten().all(on_device) {
            return Ok(pool_states(&self.forward(batch)?, batch, modes));
        }
        let width = self.hidden_size();
        // Of a sequence without tokens, all that is known.
        let mut vectors: Vec<Vec<f32>> = modes.iter().map(|modes| vec![0.0; modes.len() * width]).collect();
        self.run_passes(batch, |model, part, pass, states| {
            let sequences = part.sequences;
            let wanted = |mode| sequences.iter().any(|&sequence| modes[sequence].contains(&mode));
            let modes_here = [PoolingMode::Mean, PoolingMode::Cls, PoolingMode::LastToken];
            for mode in modes_here.into_iter().filter(|&mode| wanted(mode)) {
                let pooled = match mode {
                    PoolingMode::Mean => pass.means(model, &states)?,
                    PoolingMode::LastToken => pass.lasts(model, &states)?,
                    _ => pass.firsts(model, &states)?,
                };
                for (row, &sequence) in pooled.to_vec2::<f32>()?.iter().zip(sequences) {
                    let places = vectors[sequence].chunks_exact_mut(width).zip(modes[sequence]);
                    places.filter(|&(_, &asked)| asked == mode).for_each(|(place, _)| place.copy_from_slice(row));
                }
            }
            Ok(())
        })?;
        Ok(vectors)
    }

    fn warm_up(&mut self, longest: usize) -> Result<Option<usize>> {
        match self.model.device {
            Device::Cpu => Ok(None),
            _ => {
                let budget = find_budget(self, longest)?;
                self.give_back_memory();
                Ok(Some(budget))
            }
        }
    }

    fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn hidden_size(&self) -> usize {
        self.model.architecture.shape.hidden
    }
}

impl InPasses for CandlePackedEncoder {
    fn architecture(&self) -> &Architecture {
        &self.model.architecture
    }

    fn passes(&mut self) -> &mut Passes {
        &mut self.passes
    }
}

impl fmt::Debug for CandlePackedEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CandlePackedEncoder");
        shown.field("device", &self.model.device).field("dtype", &self.model.dtype);
        shown.field("passes", &self.passes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
