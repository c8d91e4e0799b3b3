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
use std::time::Instant;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use self::model::Model;
use self::pass::Pass;
use super::failure::is_out_of_memory;
use crate::device::budget;
use crate::encoder::{Encoder, HiddenStates, TokenBatch, pool_states};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::NamedTensor;
use crate::pooling::PoolingMode;
use crate::weights::first_line;
use text2vec_kernel::Precision;

/// Sequences to try budgets with are no longer than this, even where a model takes any length.
const LONGEST_TRIED: usize = 512;

/// Elements of a tensor. Candle's kernels count some in 32 bits, and would go astray without a word.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// An encoder on a Candle device.
pub struct CandlePackedEncoder {
    model: Model,
    /// Tokens of a pass, see [`CandlePackedEncoder::set_budget`].
    budget: usize,
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
        Ok(CandlePackedEncoder { model: Model::new(architecture, device, precision, tensors)?, budget: usize::MAX })
    }

    /// A batch of more tokens is computed in several passes, each of sequences of like length. A longer sequence has a pass
    /// of its own.
    pub fn set_budget(&mut self, tokens: usize) {
        self.budget = tokens.max(1);
    }

    /// Where the encoder is.
    pub fn device(&self) -> &Device {
        &self.model.device
    }

    /// Sequences with tokens, shortest first, in passes of at most the budget's tokens.
    fn passes(&self, batch: &TokenBatch) -> Vec<Vec<usize>> {
        let lengths = batch.lengths();
        let mut order: Vec<usize> = (0..lengths.len()).filter(|&sequence| lengths[sequence] > 0).collect();
        order.sort_by_key(|&sequence| lengths[sequence]);
        let shape = self.model.architecture.shape;
        let widest = (3 * shape.attention_width()).max(shape.intermediate).max(shape.hidden);
        let widest = widest.max(self.model.architecture.table_width());
        let budget = self.budget.min(MOST_ELEMENTS / widest);
        let mut passes: Vec<Vec<usize>> = Vec::new();
        let mut tokens = 0usize;
        for sequence in order {
            tokens = tokens.saturating_add(lengths[sequence]);
            match passes.last_mut() {
                Some(pass) if tokens <= budget => pass.push(sequence),
                _ => {
                    tokens = lengths[sequence];
                    passes.push(vec![sequence]);
                }
            }
        }
        passes
    }

    /// Computes each pass by `run`, which is given its sequences and their packed states. Where the device has no memory for
    /// a pass, it is halved, and so are those to come.
    fn run_passes(
        &mut self,
        batch: &TokenBatch,
        mut run: impl FnMut(&Model, &[usize], &Pass, Tensor) -> CandleResult<()>,
    ) -> Result<()> {
        let rows = self.model.architecture.rows(batch)?;
        // A row that is not there would not fail on a GPU but end all work on it.
        for (table, rows) in self.model.architecture.tables.iter().zip(&rows) {
            if let Some(row) = rows.iter().find(|&&row| row as usize >= table.rows) {
                return Err(Error::unusable(format!(
                    "a token's type or position is {row}, but the model's table for it has {} rows: tokenizer.json and \
                     config.json belong to different models",
                    table.rows
                )));
            }
        }
        let shape = self.model.architecture.shape;
        if let Some(length) = batch.lengths().iter().find(|&length| shape.heads * length * length > MOST_ELEMENTS) {
            return Err(Error::invalid(format!(
                "a sequence of {length} tokens is too long for a GPU: send shorter texts, or serve this model with --device cpu"
            )));
        }
        let ranges: Vec<_> = batch.ranges().collect();
        let mut waiting = self.passes(batch);
        waiting.reverse();
        while let Some(sequences) = waiting.pop() {
            let gather = |source: &[u32]| -> Vec<u32> {
                sequences.iter().flat_map(|&sequence| &source[ranges[sequence].clone()]).copied().collect()
            };
            let lengths: Vec<usize> = sequences.iter().map(|&sequence| ranges[sequence].len()).collect();
            let rows = rows.iter().map(|rows| gather(rows)).collect();
            let computed = Pass::new(&self.model, rows, lengths).and_then(|pass| {
                let states = pass.forward(&self.model)?;
                run(&self.model, &sequences, &pass, states)
            });
            match computed {
                Ok(()) => {}
                Err(error) if is_out_of_memory(&error) && sequences.len() > 1 => {
                    let tokens: usize = sequences.iter().map(|&sequence| ranges[sequence].len()).sum();
                    self.budget = self.budget.min(tokens.div_ceil(2));
                    tracing::warn!(tokens, "the device has no memory for so many tokens: going on with half as many");
                    let (short, long) = sequences.split_at(sequences.len() / 2);
                    waiting.extend([long.to_vec(), short.to_vec()]);
                }
                Err(error) if is_out_of_memory(&error) => {
                    return Err(Error::internal(format!(
                        "the device has no memory for a sequence of {} tokens",
                        ranges[sequences[0]].len()
                    )));
                }
                Err(error) => {
                    return Err(Error::internal(format!(
                        "the forward pass failed: {}",
                        first_line(&error.to_string())
                    )));
                }
            }
        }
        Ok(())
    }

    /// Sets the budget to what turns out best, in sequences of up to `longest` tokens, and answers with it.
    fn find_budget(&mut self, longest: usize) -> Result<usize> {
        let longest = longest.min(self.model.architecture.longest()).clamp(1, LONGEST_TRIED);
        let budget = budget::search(|tokens| self.rate(tokens, longest))?;
        self.set_budget(budget);
        Ok(budget)
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

    /// Tokens a second in a batch of about so many, of short and long sequences; `None` where the device has no memory for it,
    /// or none for as many tokens in the longest sequences only.
    fn rate(&mut self, tokens: usize, longest: usize) -> Result<Option<f64>> {
        let all_long = self.trial(&[longest], tokens)?;
        let mixed = self.trial(&[16, 32, 64, 128, 256, 512].map(|length| longest.min(length)), tokens)?;
        Ok(all_long.and(mixed))
    }

    /// Tokens a second in a batch of about so many, in sequences of these lengths by turns.
    fn trial(&mut self, lengths: &[usize], tokens: usize) -> Result<Option<f64>> {
        let mut batch = TokenBatch::new();
        let vocabulary = self.model.architecture.tables.first().map_or(1, |table| table.rows.max(1));
        for &length in lengths.iter().cycle() {
            let ids: Vec<u32> = (0..length).map(|at| ((batch.tokens() + at) * 7 % vocabulary) as u32).collect();
            batch.push(&ids, &vec![0; length]);
            if batch.tokens() >= tokens {
                break;
            }
        }
        let modes = vec![&[PoolingMode::Mean][..]; batch.lengths().len()];
        self.budget = usize::MAX;
        // The first time kernels are loaded and memory is taken.
        let mut seconds = 0.0;
        for _ in 0..2 {
            let begun = Instant::now();
            self.pooled(&batch, &modes)?;
            seconds = begun.elapsed().as_secs_f64();
        }
        // Halved: the device had no memory for all of it.
        let fits = self.budget == usize::MAX;
        Ok(fits.then(|| batch.tokens() as f64 / seconds.max(1e-9)))
    }
}

impl Encoder for CandlePackedEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let width = self.hidden_size();
        let ranges: Vec<_> = batch.ranges().collect();
        let mut values = vec![0f32; batch.tokens() * width];
        self.run_passes(batch, |_, sequences, _, states| {
            let states: Vec<f32> = states.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            let mut states = &states[..];
            for &sequence in sequences {
                let (rows, rest) = states.split_at(ranges[sequence].len() * width);
                values[ranges[sequence].start * width..ranges[sequence].end * width].copy_from_slice(rows);
                states = rest;
            }
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
        self.run_passes(batch, |model, sequences, pass, states| {
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
                let budget = self.find_budget(longest)?;
                self.give_back_memory();
                Ok(Some(budget))
            }
        }
    }

    fn hidden_size(&self) -> usize {
        self.model.architecture.shape.hidden
    }
}

impl fmt::Debug for CandlePackedEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CandlePackedEncoder");
        shown.field("device", &self.model.device).field("dtype", &self.model.dtype);
        shown.field("budget", &self.budget).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
